"""What is stored has a number for its shape: older ones are read, newer ones refused, and none changes unnoticed."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, make_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto import mock_aws

from keyvigil.adapters import item_schemas
from keyvigil.adapters.dynamodb_store import DynamoDbStore
from keyvigil.adapters.item_schemas import STEPS, newest, upgraded
from keyvigil.adapters.plain_data import from_stored
from keyvigil.domain.incidents import Incident, WorkflowKind, ask_execution
from keyvigil.domain.keys import RoleClaim
from keyvigil.errors import ConflictError, DamagedItemError, KeyVigilError, NewerItemError
from keyvigil.ports import Entity, Put, Remove
from tests.examples import KEY_ID, NOW, cluster, incident, key, project
from tests.fakes import changed
from tests.integration import item_shapes
from tests.integration.item_shapes import STORED, kept_bodies, kept_shapes, problem, shape_of, written
from tests.integration.test_store_contract import FULL, REGION, TABLE, read, table_in_template

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

BODIES = [
    pytest.param(kind, int(number), body, id=f"{kind}-{number}-{place}")
    for kind, numbers in kept_bodies().items()
    for number, bodies in numbers.items()
    for place, body in enumerate(bodies)
]


# --- no shape changes unnoticed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORED)
def test_what_is_stored_has_the_shape_that_was_accepted_for_its_schema_number(kind: str) -> None:
    told = problem(kind, newest(kind), shape_of(STORED[kind]), kept_shapes().get(kind))

    assert told is None, told


def test_every_kind_has_steps_and_every_accepted_kind_is_still_known() -> None:
    assert set(STEPS) == set(STORED) == set(kept_shapes()) == set(kept_bodies())


def test_bodies_of_every_number_are_kept_one_of_the_newest_with_every_field() -> None:
    for kind, numbers in kept_bodies().items():
        assert set(numbers) == {str(number) for number in range(1, newest(kind) + 1)}
        names = {each.name for each in fields(STORED[kind])}
        assert any(body.keys() == names for body in numbers[str(newest(kind))]), kind


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    colour: Colour


@dataclass(frozen=True)
class Outer:
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()


KEPT = {"schema": 3, "shape": shape_of(Outer)}


def test_a_shape_is_all_dataclasses_and_enumerations_inside_with_defaults() -> None:
    assert shape_of(Outer) == {
        "Colour": ["red"],
        "Inner": {"colour": "Colour"},
        "Outer": {"inner": "Inner | None = None", "many": "tuple[Inner, ...] = ()"},
    }


def more_colours() -> type[StrEnum]:
    class Colour(StrEnum):
        RED = "red"
        BLUE = "blue"

    return Colour


@pytest.mark.parametrize(
    "changed_to",
    [
        pytest.param(make_dataclass("Outer", [("inner", Inner), ("many", tuple[Inner, ...])]), id="another type"),
        pytest.param(make_dataclass("Outer", [("inner", Inner | None, None)]), id="a field less"),
        pytest.param(
            make_dataclass("Outer", [("inner", make_dataclass("Inner", [("colour", more_colours())]))]),
            id="a member more",
        ),
    ],
)
def test_a_changed_shape_without_a_new_number_says_what_to_do(changed_to: type[Any]) -> None:
    told = problem("OUTER", 3, shape_of(changed_to), KEPT)

    assert told is not None
    assert "Append the step from 3 to 4 to STEPS['OUTER'] in layers/keyvigil/keyvigil/adapters/item_schemas.py" in told
    assert "make schemas" in told


def test_a_new_number_is_accepted_once_and_none_is_taken_back() -> None:
    assert problem("OUTER", 3, shape_of(Outer), KEPT) is None
    assert "accepted is 3" in str(problem("OUTER", 4, shape_of(Outer), KEPT))
    assert "take no step away" in str(problem("OUTER", 2, shape_of(Outer), KEPT))
    assert "new kind" in str(problem("OUTER", 1, shape_of(Outer), None))


def test_accepting_keeps_shapes_with_a_number_of_their_own_and_refuses_the_others(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = kept_shapes()
    kept["KEY"]["shape"]["Key"]["a_field_that_was_taken_away"] = "str"
    kept["INCIDENT"]["schema"], bodies = 1, kept_bodies()
    del bodies["INCIDENT"]["2"]
    for name, content in (("SHAPES", kept), ("BODIES", bodies)):
        monkeypatch.setattr(item_shapes, name, tmp_path / name)
        (tmp_path / name).write_text(json.dumps(content))

    refused = item_shapes.accept()

    assert any(each.startswith("What is stored of KEY changed its shape (Key), and its") for each in refused)
    assert kept_shapes()["KEY"] == kept["KEY"]
    assert kept_shapes()["INCIDENT"]["schema"] == 2
    assert kept_bodies()["INCIDENT"]["2"] == written("INCIDENT")


# --- steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "number", "body"), BODIES)
def test_bodies_of_every_number_are_read(kind: str, number: int, body: dict[str, Any]) -> None:
    before = copy.deepcopy(body)

    found = from_stored(upgraded(kind, number, body, place="here"), STORED[kind])

    assert isinstance(found, STORED[kind])
    assert body == before, "a step changed the body that it was given"


@pytest.mark.parametrize(
    ("kind", "number", "body"), [each for each in BODIES if each.values[1] != newest(str(each.values[0]))]
)
def test_steps_leave_no_field_to_chance(kind: str, number: int, body: dict[str, Any]) -> None:
    after = upgraded(kind, number, body, place="here")

    assert after.keys() == {each.name for each in fields(STORED[kind])}


def incident_of_1(incident_id: str) -> Incident:
    [body] = [each for each in kept_bodies()["INCIDENT"]["1"] if each["incident_id"] == incident_id]
    return from_stored(upgraded("INCIDENT", 1, body, place="here"), Incident)


def test_an_execution_of_an_old_incident_does_not_get_the_name_of_one_that_ended() -> None:
    _, confirming = ask_execution(incident_of_1("01JCONFIRMING"), WorkflowKind.LOCKOUT, NOW)
    _, locked = ask_execution(incident_of_1("01JLOCKED"), WorkflowKind.LOCKOUT, NOW)
    _, first_recovery = ask_execution(incident_of_1("01JLOCKED"), WorkflowKind.RECOVERY, NOW)
    _, recovery = ask_execution(incident_of_1("01JUNLOCKING"), WorkflowKind.RECOVERY, NOW)

    assert (confirming, locked) == ("01JCONFIRMING-lock-2", "01JLOCKED-lock-3")
    assert (first_recovery, recovery) == ("01JLOCKED-unlock-1", "01JUNLOCKING-unlock-2")


def test_what_an_old_incident_told_of_its_clusters_will_be_resolved() -> None:
    assert incident_of_1("01JLOCKED").clusters_told
    assert incident_of_1("01JUNLOCKING").clusters_told
    assert not incident_of_1("01JCONFIRMING").clusters_told


def test_counts_that_an_incident_has_already_are_kept() -> None:
    [body] = kept_bodies()["INCIDENT"]["2"]
    without_much = {**body, "executions": [], "lockouts": 21, "recoveries": 3, "clusters_told": False}

    after = upgraded("INCIDENT", 1, without_much, place="here")

    assert (after["lockouts"], after["recoveries"], after["clusters_told"]) == (21, 3, False)


def test_a_kinds_steps_are_taken_in_turn_from_the_bodys_number_on(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = tuple(lambda body, at=at: {**body, "taken": [*body.get("taken", []), at]} for at in (1, 2, 3))
    monkeypatch.setattr(item_schemas, "STEPS", {**STEPS, "KEY": taken})

    assert newest("KEY") == 4
    assert upgraded("KEY", 1, {}, place="here") == {"taken": [1, 2, 3]}
    assert upgraded("KEY", 3, {}, place="here") == {"taken": [3]}
    assert upgraded("KEY", 4, {}, place="here") == {}
    assert upgraded("KEY", None, {}, place="here") == {"taken": [1, 2, 3]}


# --- in the table -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cloud() -> "Iterator[DynamoDBClient]":
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        patch.delenv("AWS_PROFILE", raising=False)
        client = boto3.client("dynamodb", region_name=REGION)
        table = table_in_template()
        del table["TimeToLiveSpecification"]
        client.create_table(TableName=TABLE, **table)
        yield client


@pytest.fixture(scope="module")
def store(cloud: "DynamoDBClient") -> DynamoDbStore:
    return DynamoDbStore(TABLE, REGION)


@pytest.fixture
def dynamodb(cloud: "DynamoDBClient") -> "Iterator[DynamoDBClient]":
    """The table, which is empty when a test begins."""
    yield cloud
    for item in items(cloud):
        cloud.delete_item(TableName=TABLE, Key={"pk": item["pk"], "sk": item["sk"]})


def items(dynamodb: "DynamoDBClient") -> list[dict[str, Any]]:
    return [dict(item) for item in dynamodb.scan(TableName=TABLE)["Items"]]


def rewrite(dynamodb: "DynamoDBClient", *, schema: str | None = None, **body: Any) -> dict[str, Any]:
    """Change the one item in the table behind the store's back."""
    [item] = items(dynamodb)
    item["body"] = {"S": json.dumps({**json.loads(item["body"]["S"]), **body})}
    if schema is not None:
        item["schema"] = {"N": schema}
    dynamodb.put_item(TableName=TABLE, Item=item)
    return item


EACH = [pytest.param(entity, id=f"{type(entity).__name__}-{number}") for number, entity in enumerate(FULL)]


@pytest.mark.parametrize("entity", EACH)
def test_an_item_is_written_with_the_newest_number_of_its_kind(
    dynamodb: "DynamoDBClient", store: DynamoDbStore, entity: Entity
) -> None:
    store.commit([Put(entity)])

    [item] = items(dynamodb)
    assert item["schema"] == {"N": str(newest(item["kind"]["S"]))}


@pytest.mark.parametrize("entity", EACH)
def test_what_newer_code_wrote_is_refused_and_stays_as_it_is(
    dynamodb: "DynamoDBClient", store: DynamoDbStore, entity: Entity
) -> None:
    store.commit([Put(entity)])
    [item] = items(dynamodb)
    newer = newest(item["kind"]["S"]) + 1
    # The newer code changed it after this code had read it.
    item |= {"version": {"N": "2"}}
    dynamodb.put_item(TableName=TABLE, Item=item)
    left = rewrite(dynamodb, schema=str(newer), a_field_of_the_future=[1, 2])

    with pytest.raises(NewerItemError, match=rf"has schema {newer} of {item['kind']['S']}, and this code knows up to"):
        read(store, entity)
    for write in (Put(changed(entity, version=1)), Remove(changed(entity, version=1)), Put(entity)):
        with pytest.raises(ConflictError):
            store.commit([write])
    assert items(dynamodb) == [left]


@pytest.mark.parametrize("name", ["projects", "keys", "clusters", "clusters_of_key", "incidents"])
def test_a_list_with_something_newer_in_it_is_refused_and_not_shortened(
    dynamodb: "DynamoDBClient", store: DynamoDbStore, name: str
) -> None:
    listed: dict[str, Entity] = {"projects": project(), "keys": key(), "incidents": incident()}
    store.commit([Put(listed.get(name, cluster()))])
    rewrite(dynamodb, schema="9")
    arguments: dict[str, tuple[Any, ...]] = {"projects": (10, None), "clusters_of_key": ("acme-prod", KEY_ID)}

    with pytest.raises(NewerItemError):
        getattr(store, name)(*arguments.get(name, ("acme-prod", 10, None)))


def test_an_item_without_a_number_is_one_of_the_first(dynamodb: "DynamoDBClient", store: DynamoDbStore) -> None:
    claim = RoleClaim(account_id="222222222222", role_name="r", project_id="acme-prod", keys=1)
    store.commit([Put(claim)])
    [item] = items(dynamodb)
    del item["schema"]
    item["body"] = {"S": json.dumps({"account_id": "222222222222", "role_name": "r", "project_id": "p", "keys": 1})}
    dynamodb.put_item(TableName=TABLE, Item=item)

    assert store.role_claim("222222222222", "r") == changed(claim, project_id="p", version=1)


def test_an_old_item_gets_the_newest_number_with_its_next_write(
    dynamodb: "DynamoDBClient", store: DynamoDbStore
) -> None:
    store.commit([Put(incident())])
    [item] = items(dynamodb)
    [body] = [each for each in kept_bodies()["INCIDENT"]["1"] if each["incident_id"] == "01JLOCKED"]
    item |= {"schema": {"N": "1"}, "body": {"S": json.dumps(body)}}
    dynamodb.put_item(TableName=TABLE, Item=item)
    found = store.incident("acme-prod", incident().incident_id)
    assert found is not None
    store.commit([Put(changed(found, incident_id=incident().incident_id))])

    [item] = items(dynamodb)
    assert item["schema"] == {"N": "2"}
    assert json.loads(item["body"]["S"])["lockouts"] == 2


@pytest.mark.parametrize(
    ("schema", "body", "says"),
    [
        pytest.param(None, {"a_field_of_the_future": 1}, r"extra fields found \(a_field_of_the_future\)", id="unknown"),
        pytest.param(None, {"created_at": "yesterday"}, "invalid value for type, expected datetime", id="no date"),
        pytest.param(None, {"enforcement": "sometimes"}, "expected Enforcement", id="no member"),
        pytest.param("0", {}, "schema 0 of PROJECT, which was never given", id="number 0"),
        pytest.param("-1", {}, "never given", id="a negative number"),
        pytest.param("0.5", {}, "never given", id="half a number"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_place_and_fields_without_what_they_hold(
    dynamodb: "DynamoDBClient", store: DynamoDbStore, schema: str | None, body: dict[str, Any], says: str
) -> None:
    store.commit([Put(project())])
    rewrite(dynamodb, schema=schema, **body)

    with pytest.raises(DamagedItemError, match=says) as refused:
        store.project("acme-prod")
    assert str(refused.value).startswith("PROJECT#acme-prod/PROJECT ")
    assert not any(str(value) in str(refused.value) for value in body.values() if isinstance(value, str))


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", "3", '"text"', "{}", '{"executions": [1, "x"]}', '{"status": {}}']
)
@pytest.mark.parametrize("kind", ["PROJECT", "INCIDENT"])
def test_rubbish_instead_of_a_body_is_refused_and_no_other_fault(
    dynamodb: "DynamoDBClient", store: DynamoDbStore, kind: str, body: str
) -> None:
    store.commit([Put(project() if kind == "PROJECT" else incident())])
    [item] = items(dynamodb)
    dynamodb.put_item(TableName=TABLE, Item={**item, "body": {"S": body}, "schema": {"N": "1"}})

    with pytest.raises(DamagedItemError):
        store.project("acme-prod") if kind == "PROJECT" else store.incident("acme-prod", incident().incident_id)


def test_notes_about_the_fleet_have_numbers_too(dynamodb: "DynamoDBClient", store: DynamoDbStore) -> None:
    [sweep, audit] = item_shapes.NOTES
    store.record_sweep(sweep)
    store.record_role_audit(audit)
    assert (store.last_sweep(), store.role_audit()) == (sweep, audit)

    for item in items(dynamodb):
        dynamodb.put_item(TableName=TABLE, Item={**item, "schema": {"N": "2"}})
    for note in (store.last_sweep, store.role_audit):
        with pytest.raises(KeyVigilError, match="has schema 2 of"):
            note()
    # The next sweep says what there is to say, whoever wrote the last note.
    store.record_sweep(sweep)
    assert store.last_sweep() == sweep
