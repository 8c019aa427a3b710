"""Who repeats a POST that creates, with the same Idempotency-Key, gets the answer of the first time."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from aws_lambda_powertools.utilities.idempotency.persistence.base import BasePersistenceLayer
from aws_lambda_powertools.utilities.idempotency.persistence.datarecord import DataRecord
from moto import mock_aws

from keyvigil import wiring
from keyvigil.adapters import idempotency
from keyvigil.api import app as api_app
from keyvigil.domain.keys import Key
from keyvigil.domain.projects import Project
from tests.examples import CUSTOMER, KEY_ID, backup, cluster, key, project
from tests.infra.source_template import SourceTemplate
from tests.unit.test_api import (
    NEW_BACKUP,
    NEW_CANARY,
    NEW_CLUSTER,
    NEW_KEY,
    NEW_PROJECT,
    NEW_SILENCE,
    NEW_SUBSCRIPTION,
    Api,
    P,
    event,
)

TABLE = "keyvigil-table"


class Context:
    """A LambdaContext, as far as Powertools looks at it."""

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The table as template.yaml makes it, on moto."""
    properties = SourceTemplate.load().resources["Table"]["Properties"]
    wanted = ("AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes", "BillingMode")
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        client = boto3.client("dynamodb", region_name="us-west-2")
        monkeypatch.setattr(idempotency, "session", lambda: boto3.Session(region_name="us-west-2"))
        client.create_table(TableName=TABLE, **{name: properties[name] for name in wanted})
        yield client


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, table: Any) -> Api:
    api = Api(monkeypatch)
    api.store.put(project(keys=0))
    kept = idempotency.kept_answers(TABLE)
    monkeypatch.setattr(wiring, "kept_answers", lambda: kept)
    return api


def post(api: Api, path: str, body: Any, key: str | None = "key-1", caller: str = "AROATENANT:one") -> tuple[int, Any]:
    request = event("POST", path, body if isinstance(body, str) else json.dumps(body))
    request["requestContext"]["authorizer"]["iam"]["userId"] = caller
    if key is not None:
        request["headers"] = {**request["headers"], "idempotency-key": key}
    answer = api_app.handle(request, Context())
    return answer["statusCode"], json.loads(answer["body"])


def cluster_room(api: Api) -> None:
    api.store.put(key())


def backup_room(api: Api) -> None:
    api.store.put(key(), cluster())


@pytest.mark.parametrize(
    ("path", "body", "prepare"),
    [
        ("/projects", NEW_PROJECT, None),
        (f"{P}/keys", NEW_KEY, None),
        (f"{P}/clusters", NEW_CLUSTER, cluster_room),
        (f"{P}/backups", NEW_BACKUP, backup_room),
        (f"{P}/subscriptions", NEW_SUBSCRIPTION, None),
        (f"{P}/silences", {**NEW_SILENCE, "key_id": None}, None),
        ("/fleet/canaries", NEW_CANARY, None),
    ],
)
def test_the_same_request_again_is_200_with_the_stored_answer_and_creates_nothing(
    api: Api, path: str, body: Any, prepare: Callable[[Api], None] | None
) -> None:
    if prepare is not None:
        prepare(api)

    first, made = post(api, path, body)
    before = dict(api.store.items)
    again, kept = post(api, path, body)

    assert (first, again) == (201, 200)
    assert kept == made
    assert api.store.items == before


def test_without_a_key_the_same_request_again_is_refused(api: Api) -> None:
    assert post(api, "/projects", NEW_PROJECT, key=None)[0] == 201
    status, answer = post(api, "/projects", NEW_PROJECT, key=None)

    assert (status, answer["title"]) == (409, "Already exists")


def test_the_same_key_with_other_content_is_409(api: Api) -> None:
    post(api, "/projects", NEW_PROJECT)
    status, answer = post(api, "/projects", {**NEW_PROJECT, "project_id": "another-one"})

    assert (status, answer["title"]) == (409, "Idempotency-Key was used for other content")
    assert api.store.project("another-one") is None


def test_the_layout_of_the_same_content_does_not_matter(api: Api) -> None:
    post(api, "/projects", NEW_PROJECT)

    assert post(api, "/projects", json.dumps(dict(reversed(NEW_PROJECT.items())), indent=4))[0] == 200


def test_a_refusal_is_not_kept_so_that_the_same_key_works_once_it_is_mended(api: Api) -> None:
    answered = api.checker.answer
    api.checker.answer = None
    assert post(api, f"{P}/keys", NEW_KEY)[0] == 503
    api.checker.answer = answered
    assert post(api, f"{P}/keys", {**NEW_KEY, "use": "everything"})[0] == 422

    assert post(api, f"{P}/keys", NEW_KEY)[0] == 201


def test_a_key_belongs_to_one_caller_and_one_route(api: Api) -> None:
    api.store.put(project(project_id="other", keys=0))
    subscribed, made = post(api, f"{P}/subscriptions", NEW_SUBSCRIPTION, caller="AROATENANT:one")

    assert post(api, "/projects/other/subscriptions", NEW_SUBSCRIPTION, caller="AROATENANT:one")[0] == 201
    assert post(api, f"{P}/subscriptions", NEW_SUBSCRIPTION, caller="AROAOTHER:one")[0] == 409, "it exists already"
    status, kept = post(api, f"{P}/subscriptions", NEW_SUBSCRIPTION, caller="AROATENANT:two")
    assert (subscribed, status, kept) == (201, 200, made), "a retry from the role's next session"


def test_two_at_once_create_once_and_the_second_is_told_to_wait(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    second: list[tuple[int, Any]] = []
    probe = api.checker.probe_registration

    def ask_meanwhile(registration: Any) -> Any:
        second.append(post(api, f"{P}/keys", NEW_KEY))
        return probe(registration)

    monkeypatch.setattr(api.checker, "probe_registration", ask_meanwhile)
    first, _ = post(api, f"{P}/keys", NEW_KEY)

    assert first == 201
    [(status, answer)] = second
    assert (status, answer["title"]) == (409, "Request is under way")
    assert len(api.store.all(Key)) == 1


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "ü", "x" * 256, "\x00"])
def test_a_key_that_is_none_is_400_and_creates_nothing(api: Api, key: str) -> None:
    status, answer = post(api, "/projects", NEW_PROJECT, key=key)

    assert (status, answer["title"]) == (400, "Invalid Idempotency-Key")
    assert api.store.project("new-one") is None


def test_a_route_that_creates_nothing_does_not_look_at_the_key(api: Api) -> None:
    api.store.put(key(), backup())

    assert [post(api, f"{P}/keys/{KEY_ID}/check", {})[0] for _ in range(2)] == [200, 200]
    assert len(api.checker.checked) == 2
    restore = [post(api, f"{P}/backups/old/restore-check", {"region": "us-west-2"})[0] for _ in range(2)]
    assert restore == [200, 200]
    assert len(api.checker.restores) == 2


class Broken(BasePersistenceLayer):
    """A table that takes only its first `writes` writes."""

    def __init__(self, writes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Powertools publishes it without types
        self.writes = writes

    def _write(self) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise ConnectionError("the table does not answer")

    def _get_record(self, idempotency_key: str) -> DataRecord:
        raise ConnectionError(idempotency_key)

    def _put_record(self, data_record: DataRecord) -> None:
        self._write()

    def _update_record(self, data_record: DataRecord) -> None:
        self._write()

    def _delete_record(self, data_record: DataRecord) -> None:
        self._write()


def test_if_answers_cannot_be_kept_nothing_is_created(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "kept_answers", lambda: Broken(0))

    status, answer = post(api, "/projects", NEW_PROJECT)

    assert (status, answer["title"]) == (503, "Answers cannot be kept now")
    assert api.store.project("new-one") is None


@pytest.mark.parametrize(("body", "status"), [(NEW_PROJECT, 201), ({**NEW_PROJECT, "name": ""}, 422)])
def test_what_was_answered_is_told_although_it_could_not_be_kept(
    api: Api, monkeypatch: pytest.MonkeyPatch, body: Any, status: int
) -> None:
    monkeypatch.setattr(wiring, "kept_answers", lambda: Broken(1))

    assert post(api, "/projects", body)[0] == status
    assert len(api.store.all(Project)) == (2 if status == 201 else 1)


def test_a_kept_answer_lies_in_its_own_partition_and_expires_after_a_day(api: Api, table: Any) -> None:
    post(api, "/projects", NEW_PROJECT)

    [item] = table.scan(TableName=TABLE)["Items"]
    assert item["pk"] == {"S": "IDEMPOTENCY"}
    assert "key-1" not in json.dumps(item)
    assert "kind" not in item, "the relay's stream filter reads it"
    ttl = SourceTemplate.load().resources["Table"]["Properties"]["TimeToLiveSpecification"]["AttributeName"]
    expires = datetime.fromtimestamp(int(item[ttl]["N"]), UTC)
    assert timedelta(hours=23) < expires - datetime.now(UTC) <= timedelta(hours=24)


def test_the_api_may_update_nothing_but_kept_answers() -> None:
    statements = SourceTemplate.load().resources["RegistryApiRole"]["Properties"]["Policies"][0]["PolicyDocument"][
        "Statement"
    ]
    updating = [each for each in statements if "dynamodb:UpdateItem" in each.get("Action", ())]

    assert [each.get("Condition") for each in updating] == [
        {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [idempotency.PARTITION]}}
    ]


def test_a_caller_without_a_session_is_one_caller(api: Api) -> None:
    user = f"AIDA{CUSTOMER}"
    assert [post(api, "/projects", NEW_PROJECT, caller=user)[0] for _ in range(2)] == [201, 200]
