"""One contract, two stores: what the use cases' tests rely on in memory must hold on DynamoDB too."""

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import boto3
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from moto import mock_aws
from pynamodb.exceptions import CancellationReason, TransactWriteError, VerboseClientError

from keyvigil.adapters import dynamodb_store as adapter
from keyvigil.adapters.dynamodb_store import AGENDA_SHARDS, AgendaIndex, DynamoDbStore
from keyvigil.domain.alerts import AlertType, LockRequest, OutboxRow, Target, WorkflowStart, make_alert
from keyvigil.domain.attribution import HINT_KEPT, ActorSearch, EventHints
from keyvigil.domain.backups import Backup
from keyvigil.domain.brake import BegunLockout, Brake, LockoutTally
from keyvigil.domain.canaries import Canary
from keyvigil.domain.clusters import Cluster, ClusterKind, ClusterStatus, LockSettings, LockVia, Preset
from keyvigil.domain.held import HeldFor
from keyvigil.domain.incidents import (
    TIMELINE_SHOWN,
    AffectedCluster,
    Decision,
    Incident,
    IncidentStatus,
    PersonsDecision,
    TimelineEntry,
    WorkflowKind,
)
from keyvigil.domain.key_events import KeyPointer
from keyvigil.domain.keys import (
    AliasTarget,
    Baseline,
    CloserLook,
    Health,
    Key,
    KeyFacts,
    KeyStatus,
    KeyUse,
    Rebaseline,
    RoleClaim,
    Rotation,
    Told,
    Trigger,
)
from keyvigil.domain.out_of_turn import OutOfTurn
from keyvigil.domain.projects import Approval, Enforcement, Project, Protocol, Subscription
from keyvigil.domain.quiet import Ledger
from keyvigil.domain.quotas import THE_MOST
from keyvigil.domain.silences import Silences
from keyvigil.domain.staleness import FleetTold
from keyvigil.domain.verdicts import Cause, Finding, Permission, PolicyKind, Refusal, Remediation
from keyvigil.errors import ConflictError, DamagedItemError, RefusedError
from keyvigil.ports import DueKey, Entity, FleetTally, ListTally, Page, Put, Remove, RowAside, Store, SweepRecord
from tests.examples import (
    CUSTOMER,
    KEY_ARN,
    KEY_ID,
    NOW,
    ROLE_ARN,
    SECRET_ARN,
    actor,
    backup,
    cluster,
    full_bundle,
    full_problem,
    full_silence,
    incident,
    key,
    project,
    verdict,
)
from tests.fakes import MemoryStore, changed
from tests.infra.source_template import SourceTemplate

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TABLE = "keyvigil-table"
REGION = "us-west-2"
LATER = NOW + timedelta(minutes=1)
EARLIER = NOW - timedelta(minutes=1)


@cache
def template() -> SourceTemplate:
    return SourceTemplate.load()


def table_in_template() -> dict[str, Any]:
    """The table as template.yaml makes it, without what is no matter of keys."""
    properties = template().resources["Table"]["Properties"]
    wanted = ("AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes", "BillingMode", "TimeToLiveSpecification")
    return {name: properties[name] for name in wanted}


# --- both stores ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dynamodb() -> "Iterator[DynamoDBClient]":
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        patch.delenv("AWS_PROFILE", raising=False)
        yield boto3.client("dynamodb", region_name=REGION)


@pytest.fixture(scope="module")
def one_dynamodb_store(dynamodb: "DynamoDBClient") -> DynamoDbStore:
    return DynamoDbStore(TABLE, REGION)


@pytest.fixture
def dynamodb_store(dynamodb: "DynamoDBClient", one_dynamodb_store: DynamoDbStore) -> Iterator[DynamoDbStore]:
    """The store on a fresh table."""
    table = table_in_template()
    ttl = table.pop("TimeToLiveSpecification")
    dynamodb.create_table(TableName=TABLE, **table)
    dynamodb.update_time_to_live(TableName=TABLE, TimeToLiveSpecification=ttl)
    yield one_dynamodb_store
    dynamodb.delete_table(TableName=TABLE)


@pytest.fixture(params=["memory", "dynamodb"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    return cast("Store", request.getfixturevalue("dynamodb_store"))


def put(store: Store, *entities: Entity) -> None:
    """Write new entities, each by itself."""
    for entity in entities:
        store.commit([Put(entity)])


def read(store: Store, entity: Entity) -> Entity | None:  # noqa: C901, PLR0912  one line a kind
    """Read an entity again by its own id."""
    match entity:
        case Project():
            return store.project(entity.project_id)
        case Key():
            return store.key(entity.project_id, entity.key_id)
        case RoleClaim():
            return store.role_claim(entity.account_id, entity.role_name.upper())
        case KeyPointer() | EventHints() | ActorSearch():
            return read_for_events(store, entity)
        case Cluster():
            return store.cluster(entity.project_id, entity.cluster_id)
        case Backup():
            return store.backup(entity.project_id, entity.backup_id)
        case FleetTold():
            told = store.fleet_told()
            return told if told.version else None
        case Incident():
            return store.incident(entity.project_id, entity.incident_id)
        case Subscription():
            return store.subscription(entity.project_id, entity.subscription_id)
        case OutboxRow():
            return store.outbox_row(entity.row_id)
        case Canary():
            return store.canary(entity.canary_id)
        case Brake():
            return next((each for each in store.brakes() if each.engaged_at == entity.engaged_at), None)
        case LockoutTally():
            tally = store.lockout_tally()
            return tally if tally.version else None
        case Ledger():
            ledger = store.ledger(entity.project_id, entity.key_id)
            return ledger if ledger.version else None
        case OutOfTurn():
            part = store.out_of_turn(entity.account_id, entity.region)
            return part if part.version else None
        case Silences():
            silences = store.silences(entity.project_id)
            return silences if silences.version else None
        case TimelineEntry():
            found = [each for each in store.timeline(entity.incident_id) if each.entry_id == entity.entry_id]
            return found[0] if found else None


def read_for_events(store: Store, entity: KeyPointer | EventHints | ActorSearch) -> Entity | None:
    match entity:
        case KeyPointer():
            return store.pointer(changed(entity, version=99))
        case EventHints():
            return store.event_hints(entity.project_id, entity.key_id)
        case ActorSearch():
            return store.actor_search(entity.project_id, entity.incident_id)


# --- entities ---------------------------------------------------------------------------------------------------


def subscription(**changes: Any) -> Subscription:
    example = Subscription(
        project_id="acme-prod",
        subscription_id="01JSUBSCRIPTION",
        protocol=Protocol.SQS,
        endpoint=f"arn:aws:sqs:us-west-2:{CUSTOMER}:alerts",
        min_severity="warning",
        types=("key.*", "cluster.locked"),
        subscription_arn="arn:aws:sns:us-west-2:111111111111:topic:1",
        status="confirmed",
        created_at=NOW,
    )
    return changed(example, **changes)


def pointer(**changes: Any) -> KeyPointer:
    example = KeyPointer(account_id=CUSTOMER, resource="us-west-2/alias/vectors", project_id="acme-prod", key_id=KEY_ID)
    return changed(example, **changes)


def search(**changes: Any) -> ActorSearch:
    example = ActorSearch(
        incident_id="01JINCIDENT",
        project_id="acme-prod",
        key_id=KEY_ID,
        account_id=CUSTOMER,
        opened_at=NOW,
        next_at=NOW,
    )
    return changed(example, **changes)


def entry(number: int = 1, incident_id: str = "01JINCIDENT") -> TimelineEntry:
    return TimelineEntry(
        incident_id=incident_id, entry_id=f"01J{number:04d}", at=NOW, what="key.suspect", detail="since a minute"
    )


def start_row(row_id: str = "01JROW", **changes: Any) -> OutboxRow:
    start = WorkflowStart(
        workflow=WorkflowKind.RECOVERY,
        name="01JINCIDENT-unlock-1",
        project_id="acme-prod",
        key_id=KEY_ID,
        incident_id="01JINCIDENT",
    )
    return changed(
        OutboxRow(row_id=row_id, project_id="acme-prod", created_at=NOW, workflow_start=start),
        **changes,
    )


MENDED = Remediation(summary="Allow it.", commands=("aws iam put-role-policy",), statement="{}")
MISSING = Permission(
    action="kms:Encrypt", resource=KEY_ARN, refused_by=Refusal(policy=PolicyKind.RESOURCE, explicit=True)
)
TOLD = Told(what="missing", step="missing", at=EARLIER)


def full_key() -> Key:
    return key(
        alias_arn="arn:aws:kms:us-west-2:222222222222:alias/vectors",
        use=KeyUse.CSE,
        baseline=Baseline.of(bytes(range(256)), {"tested-by": "KeyVigil", "ключ": "значение"}, EARLIER),
        facts=KeyFacts(
            multi_region=True,
            replica_regions=("eu-west-1", "us-east-1"),
            deletion_date=LATER,
            material_expires_at=EARLIER,
            primary_region="us-west-2",
            key_state="PendingDeletion",
            closer=CloserLook(
                looked_at=EARLIER,
                rotation=Rotation(enabled=True, next_at=LATER, period_days=90),
                alias=AliasTarget(key_arn=KEY_ARN),
            ),
            custom_key_store_id="cks-1234567890abcdef0",
            deletion_cancelled=True,
        ),
        health=Health(
            status=KeyStatus.RECOVERING,
            unknown_since=EARLIER,
            failing_streak=1,
            definite_streak=2,
            healthy_streak=3,
            failing_since=EARLIER,
            counted_at=NOW,
            confirmed=True,
        ),
        verdict=verdict(
            Cause.KEY_PENDING_DELETION,
            aws_error_code="KMSInvalidStateException",
            findings=(Finding(code="DESCRIBE_KEY_DENIED", message="It may not be described.", remediation=MENDED),),
            remediation=MENDED,
            permission=MISSING,
        ),
        last_trigger=Trigger.LOCKOUT,
        open_incident_id="01JINCIDENT",
        clusters=200,
        pending_clusters=7,
        alert_sequence=42,
        incidents_opened=(NOW, LATER),
        rebaselines=(Rebaseline(at=NOW, by="arn:aws:iam::111111111111:user/op", reason="damaged"),),
        probe_secret_arn=SECRET_ARN,
        backups={"eu-west-1": 3, "us-west-2": 997},
        told={"replica/eu-west-1": TOLD, "rotation": changed(TOLD, what="off", step="off")},
        unknown_told=True,
        lean_until=LATER,
    )


def full_cluster() -> Cluster:
    return cluster(
        kind=ClusterKind.MINIO_KES,
        lock=LockSettings(
            via=LockVia.WEBHOOK,
            timeout_seconds=10,
            function_arn="arn:aws:lambda:us-west-2:222222222222:function:keyvigil-lock-a",
            url="https://hooks.example.com/",
            secret_arn="arn:aws:secretsmanager:us-west-2:111111111111:secret:keyvigil/acme-prod/a-AbCdEf",
            preset=Preset.ZILLIZ_CLOUD,
            document_name="KeyVigilLock-a",
            parameters={"Size": ("small", "large")},
        ),
        status=ClusterStatus.LOCK_FAILED,
        fence=1_795_369_305_484,
        locked_by_incident_id="01JINCIDENT",
        task_token="A" * 1024,
        respond_by=LATER,
        receipt="accepted",
        detail="no answer came in time",
        deleted_at=LATER,
    )


def full_incident() -> Incident:
    return incident(
        status=IncidentStatus.HELD,
        held_for=HeldFor.GRACE,
        confirmed_at=NOW,
        locked_at=NOW,
        recovered_at=LATER,
        resolved_at=LATER,
        clusters=(
            AffectedCluster(cluster_id="a", status=ClusterStatus.LOCKED),
            AffectedCluster(cluster_id="b", status=ClusterStatus.UNLOCK_FAILED, detail="it answered 503"),
        ),
        executions=("01JINCIDENT-lock-1", "01JINCIDENT-unlock-1"),
        lockouts=1,
        recoveries=1,
        execution_asked_at=NOW,
        clusters_told=True,
        lock_failure_told_at=NOW,
        unlock_failure_told_at=LATER,
        decision=PersonsDecision(
            decision=Decision.HOLD,
            reason="planned",
            by="arn:aws:iam::111111111111:user/op",
            at=NOW,
            held_for=HeldFor.GRACE,
        ),
        actor=actor(),
        last_healthy_at=EARLIER,
        account_id=CUSTOMER,
        flapping=True,
    )


def canary(**fields: Any) -> Canary:
    example = Canary(
        canary_id=KEY_ID,
        key_arn=KEY_ARN,
        region="us-west-2",
        account_id=CUSTOMER,
        role_arn=ROLE_ARN,
        external_id="keyvigil-canary",
        created_at=NOW,
    )
    return changed(example, **fields)


def full_canary() -> Canary:
    return canary(
        baseline=Baseline.of(bytes(range(256)), {"tested-by": "KeyVigil"}, EARLIER),
        verdict=verdict(Cause.ROLE_NOT_ASSUMABLE, remediation=MENDED, permission=MISSING),
        began_at=NOW,
        ended_at=LATER,
        healthy_streak=1,
        unwell_streak=2,
        counted_at=EARLIER,
        in_doubt=True,
        told=True,
    )


def full_rows() -> list[OutboxRow]:
    """An outbox row carries one of three things, so it takes three of them to have every field set."""
    alert, _ = make_alert(
        AlertType.CLUSTER_LOCKED,
        alert_id="01JALERT",
        key=full_key(),
        incident=full_incident(),
        clusters=[AffectedCluster(cluster_id="a", status=ClusterStatus.LOCKED)],
        occurred_at=NOW,
        detected_at=LATER,
    )
    alert = changed(alert, keys=full_bundle().as_listed())
    request = LockRequest(
        detail_type="Cluster Lock Requested",
        project_id="acme-prod",
        cluster_id="a",
        incident_id="01JINCIDENT",
        fence=1_795_369_305_484,
        reason="because",
        respond_by=LATER,
        via=LockVia.LAMBDA,
    )
    sent = {
        "delivered": (Target.TOPIC, Target.BUS),
        "sent_at": LATER,
        "judged": "it is silenced by 01JSILENCE",
        "withheld": True,
    }
    return [
        start_row("01JALERT", alert=alert, workflow_start=None, for_operator=True, told_as=alert, **sent),
        start_row("01JLOCK", lock_request=request, workflow_start=None, **sent),
        start_row("01JSTART", **sent),
    ]


def full_brake() -> Brake:
    return changed(
        sparse_brake(),
        region="us-west-2",
        cause=Cause.ACCESS_DENIED,
        project_id="acme-prod",
        exempt=("beta", "gamma"),
        released_at=LATER,
        released_by="arn:aws:iam::111111111111:user/op",
        release_reason="it is not ours",
    )


def sparse_brake() -> Brake:
    return Brake(
        region=None,
        cause=None,
        project_id=None,
        engaged_at=NOW,
        engaged_by="arn:aws:iam::111111111111:user/op",
        reason="maintenance",
        seen_at=NOW,
    )


FULL: list[Entity] = [
    project(
        enforcement=Enforcement.OBSERVE,
        approval=Approval.MANUAL,
        grace_minutes=1440,
        keys=20,
        chat=True,
        deleting=True,
    ),
    full_key(),
    full_cluster(),
    full_incident(),
    subscription(dead_letters_arn="arn:aws:sqs:us-west-2:111111111111:dead-letters"),
    RoleClaim(
        account_id=CUSTOMER, role_name="KeyVigil-Customer", project_id="acme-prod", keys=2, sharing={"acme-test": 1}
    ),
    pointer(),
    EventHints(project_id="acme-prod", key_id=KEY_ID, calls=(actor(), actor(source_ip=None)), kept_until=LATER),
    search(incident_over=True, lookups=4, done_at=LATER),
    entry(),
    *full_rows(),
    backup(),
    FleetTold(told={"stale-keys": TOLD}),
    full_canary(),
    full_brake(),
    LockoutTally(begun=(BegunLockout(incident_id="01JINCIDENT", at=NOW),)),
    Ledger(
        project_id="acme-prod",
        key_id=KEY_ID,
        problems={"acme-prod/k/01JINCIDENT/key": full_problem()},
        bundles={"b": full_bundle()},
    ),
    Silences(project_id="acme-prod", silences=(full_silence(),)),
    OutOfTurn(account_id=CUSTOMER, region="us-west-2", taken_until={"DescribeKey": NOW}),
]
SPARSE: list[Entity] = [
    project(keys=0),
    key(),
    cluster(),
    incident(),
    subscription(types=()),
    start_row(),
    canary(),
    sparse_brake(),
    Ledger(project_id=None, key_id=None),
    Silences(project_id="acme-prod"),
]


def test_what_may_have_to_be_told_again_is_due_from_then_on(store: Store) -> None:
    told = changed(full_problem(), over_at=None, unsaid=None, reminders=0, told_at=NOW)
    put(
        store,
        Ledger(project_id="acme-prod", key_id=KEY_ID, problems={"a": told}),
        Ledger(project_id=None, key_id=None, problems={"b": changed(told, reminders=1)}),
        Ledger(project_id="acme-prod", key_id="over", problems={"c": full_problem()}),
    )
    assert store.due_ledgers(NOW + timedelta(minutes=59)) == []
    assert store.due_ledgers(NOW + timedelta(hours=1)) == [("acme-prod", KEY_ID)]
    assert set(store.due_ledgers(NOW + timedelta(days=1))) == {("acme-prod", KEY_ID), (None, None)}


def test_the_full_examples_set_every_field_that_has_a_default() -> None:
    unset = {f"{type(entity).__name__}.{each.name}" for entity in FULL for each in fields(entity)}
    for entity in FULL:
        for each in fields(entity):
            if getattr(entity, each.name) != each.default:
                unset.discard(f"{type(entity).__name__}.{each.name}")

    assert unset == {f"{type(entity).__name__}.version" for entity in FULL}


@pytest.mark.parametrize(
    "entity",
    [*FULL, *SPARSE],
    ids=[f"{type(each).__name__}-{number}" for number, each in enumerate([*FULL, *SPARSE])],
)
def test_every_entity_is_read_as_it_was_written(store: Store, entity: Entity) -> None:
    put(store, entity)

    assert read(store, entity) == changed(entity, version=1)


def test_incidents_that_opened_after_a_moment_are_found_while_they_are_open(store: Store) -> None:
    put(
        store,
        incident(incident_id="01JOLD", opened_at=NOW),
        incident(incident_id="01JNEW", opened_at=LATER),
        incident(incident_id="01JOVER", opened_at=LATER, status=IncidentStatus.RESOLVED, resolved_at=LATER),
    )

    assert store.opened_since(NOW) == [("acme-prod", "01JNEW")]


def test_the_keys_of_a_region_are_counted_over_all_projects(store: Store) -> None:
    elsewhere = "eu-west-1.1234abcd-12ab-34cd-56ef-1234567890ab"
    put(store, key(), key(project_id="beta"), key(project_id="beta", key_id=elsewhere, region="eu-west-1"))

    assert (store.count_keys("us-west-2"), store.count_keys("eu-west-1"), store.count_keys("us-west")) == (2, 1, 0)


def test_brakes_of_different_scopes_are_kept_apart(store: Store) -> None:
    put(store, full_brake(), sparse_brake())

    assert sorted(str(each.region) for each in store.brakes()) == ["None", "us-west-2"]


def test_of_two_lockouts_that_begin_at_once_one_is_counted_before_the_other(store: Store) -> None:
    empty = store.lockout_tally()
    store.commit([Put(empty.with_lockout("one", NOW))])

    with pytest.raises(ConflictError):
        store.commit([Put(empty.with_lockout("other", NOW))])
    store.commit([Put(store.lockout_tally().with_lockout("other", NOW))])
    assert [each.incident_id for each in store.lockout_tally().begun] == ["one", "other"]


def test_what_was_never_written_is_none(store: Store) -> None:
    for entity in FULL:
        assert read(store, entity) is None


def test_canaries_are_listed_by_id_and_nothing_else_is_among_them(store: Store) -> None:
    assert store.canaries() == []
    own, other = canary(canary_id="stack"), canary(canary_id="eu-west-1.abc")
    put(store, own, key(), project(), other)

    assert store.canaries() == [changed(other, version=1), changed(own, version=1)]

    store.commit([Remove(changed(other, version=1))])
    assert [each.canary_id for each in store.canaries()] == ["stack"]


def test_any_text_and_any_moment_survives(store: Store) -> None:
    moments = st.datetimes(
        min_value=datetime(1970, 1, 2),  # noqa: DTZ001  hypothesis adds the zone
        max_value=datetime(2200, 1, 1),  # noqa: DTZ001  likewise
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(hours=8))]),
    ).map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000))

    numbers = itertools.count()

    @hypothesis_settings(max_examples=40, deadline=None)
    @given(name=st.text(), detail=st.none() | st.text(), at=moments, fence=st.integers(0, 2**63 - 1))
    def holds(name: str, detail: str | None, at: datetime, fence: int) -> None:
        # A cluster with a fence is never removed, so each has an id of its own.
        cluster_id = f"c{next(numbers)}"
        put(store, cluster(cluster_id=cluster_id, name=name, detail=detail, created_at=at, respond_by=at, fence=fence))
        found = store.cluster("acme-prod", cluster_id)
        assert found == cluster(
            cluster_id=cluster_id, name=name, detail=detail, created_at=at, respond_by=at, fence=fence, version=1
        )

    holds()


# --- commits ----------------------------------------------------------------------------------------------------


def test_each_write_makes_the_next_version(store: Store) -> None:
    put(store, project())
    first = store.project("acme-prod")
    assert first is not None
    store.commit([Put(changed(first, name="New"))])

    second = store.project("acme-prod")

    assert second == changed(first, name="New", version=2)


def test_what_must_be_new_is_refused_if_it_exists(store: Store) -> None:
    put(store, project())

    with pytest.raises(ConflictError):
        store.commit([Put(project(name="Another"))])
    with pytest.raises(ConflictError):
        store.commit([Put(project(name="Another")), Put(cluster())])

    assert store.project("acme-prod") == project(version=1)
    assert store.cluster("acme-prod", "vectors-prod") is None


def test_a_write_on_an_old_version_is_refused(store: Store) -> None:
    put(store, project())
    old = changed(project(), version=1)
    store.commit([Put(changed(old, name="Faster"))])

    for write in (Put(changed(old, name="Slower")), Remove(old)):
        with pytest.raises(ConflictError):
            store.commit([write])
        with pytest.raises(ConflictError):
            store.commit([write, Put(cluster())])

    assert store.project("acme-prod") == changed(project(), name="Faster", version=2)
    assert store.cluster("acme-prod", "vectors-prod") is None


def test_a_write_on_something_that_is_gone_is_refused(store: Store) -> None:
    with pytest.raises(ConflictError):
        store.commit([Put(project(version=1))])
    with pytest.raises(ConflictError):
        store.commit([Remove(project(version=1))])

    assert store.project("acme-prod") is None


def test_a_commit_is_applied_as_a_whole(store: Store) -> None:
    put(store, project(), key())
    before = project(version=1)

    store.commit([Put(changed(before, keys=0)), Remove(key(version=1)), Put(cluster()), Put(entry()), Put(start_row())])

    assert store.project("acme-prod") == changed(before, keys=0, version=2)
    assert store.key("acme-prod", KEY_ID) is None
    assert store.cluster("acme-prod", "vectors-prod") == cluster(version=1)
    assert store.timeline("01JINCIDENT") == [changed(entry(), version=1)]
    assert store.outbox_row("01JROW") == start_row(version=1)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_refused_write_refuses_all_wherever_it_stands(store: Store, place: int) -> None:
    put(store, project())
    writes: list[Put] = [Put(cluster()), Put(start_row())]
    writes.insert(place, Put(project(name="Not new")))

    with pytest.raises(ConflictError):
        store.commit(writes)

    assert store.cluster("acme-prod", "vectors-prod") is None
    assert store.outbox_row("01JROW") is None
    assert store.project("acme-prod") == project(version=1)


def test_a_fence_below_the_highest_seen_is_refused_by_the_table_itself(store: Store) -> None:
    put(store, cluster(fence=100))

    with pytest.raises(ConflictError):
        store.commit([Put(cluster(version=1, fence=99))])
    with pytest.raises(ConflictError):
        store.commit([Put(cluster(version=1, fence=99)), Put(entry())])

    assert store.cluster("acme-prod", "vectors-prod") == cluster(fence=100, version=1)
    assert store.timeline("01JINCIDENT") == []


@pytest.mark.parametrize("fence", [100, 101])
def test_the_same_fence_or_a_higher_one_is_taken(store: Store, fence: int) -> None:
    put(store, cluster(fence=100))

    store.commit([Put(cluster(version=1, fence=fence, name="New"))])

    assert store.cluster("acme-prod", "vectors-prod") == cluster(fence=fence, name="New", version=2)


@pytest.mark.parametrize("others", [[], [Put(entry())]], ids=["alone", "in a transaction"])
def test_a_cluster_with_a_fence_cannot_be_forgotten(store: Store, others: list[Put]) -> None:
    put(store, cluster(cluster_id="asked", fence=100), cluster(cluster_id="never-asked", fence=0))
    with pytest.raises(ConflictError):
        store.commit([Remove(cluster(cluster_id="asked", fence=100, version=1)), *others])
    assert store.cluster("acme-prod", "asked") is not None
    store.commit([Remove(cluster(cluster_id="never-asked", version=1)), *others])
    assert store.cluster("acme-prod", "never-asked") is None


def test_a_fence_is_compared_as_a_number(store: Store) -> None:
    put(store, cluster(fence=999))

    store.commit([Put(cluster(version=1, fence=1000))])
    with pytest.raises(ConflictError):
        store.commit([Put(cluster(version=2, fence=999))])


def test_a_hundred_writes_are_one_commit_and_one_more_is_refused(store: Store) -> None:
    clusters = [cluster(cluster_id=f"c{number:03d}") for number in range(101)]

    with pytest.raises(ValueError, match="100"):
        store.commit([Put(each) for each in clusters])
    assert store.clusters("acme-prod", 200, None).items == ()

    store.commit([Put(each) for each in clusters[:100]])
    assert len(store.clusters("acme-prod", 200, None).items) == 100


def test_a_commit_that_names_an_item_twice_is_a_mistake_and_not_a_lost_race(store: Store) -> None:
    with pytest.raises((ValueError, TransactWriteError)):
        store.commit([Put(project(name="One")), Put(project(name="Two"))])

    assert store.project("acme-prod") is None


def test_removed_things_are_gone_from_every_list(store: Store) -> None:
    put(store, key(), cluster(), subscription())
    store.commit([Remove(key(version=1))])
    store.commit([Remove(cluster(version=1)), Remove(subscription(version=1))])

    assert store.keys("acme-prod", 10, None).items == ()
    assert store.clusters("acme-prod", 10, None).items == ()
    assert store.clusters_of_key("acme-prod", KEY_ID) == []
    assert store.subscriptions("acme-prod", 10, None).items == ()
    assert store.due_keys(LATER) == []


# --- lists ------------------------------------------------------------------------------------------------------

type ReadPage = Callable[[int, str | None], Page[Any]]


def walk(read_page: ReadPage, limit: int, name: str) -> list[str]:
    """All ids of a list, page by page. A page may be shorter than asked, never longer."""
    found: list[str] = []
    token: str | None = None
    for _ in range(1000):
        page = read_page(limit, token)
        assert len(page.items) <= limit
        found.extend(getattr(item, name) for item in page.items)
        token = page.next_token
        if token is None:
            return found
    raise AssertionError("the list has no end")


def lists_of(store: Store) -> dict[str, ReadPage]:
    """A project's paged lists."""
    return {
        "key_id": lambda limit, token: store.keys("acme-prod", limit, token),
        "cluster_id": lambda limit, token: store.clusters("acme-prod", limit, token),
        "backup_id": lambda limit, token: store.backups("acme-prod", limit, token),
        "incident_id": lambda limit, token: store.incidents("acme-prod", limit, token),
        "subscription_id": lambda limit, token: store.subscriptions("acme-prod", limit, token),
    }


def things(name: str, count: int, **more: Any) -> list[Entity]:
    """That many things of one kind, in the order of their ids."""
    make: dict[str, Callable[..., Entity]] = {
        "key_id": key,
        "cluster_id": cluster,
        "backup_id": backup,
        "incident_id": incident,
        "subscription_id": subscription,
        "project_id": project,
    }
    return [make[name](**{name: f"id-{number:02d}"}, **more) for number in range(count)]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7, 200])
@pytest.mark.parametrize("name", ["key_id", "cluster_id", "backup_id", "incident_id", "subscription_id"])
def test_a_list_is_walked_page_by_page_without_loss_in_the_order_of_ids(store: Store, name: str, limit: int) -> None:
    put(store, *things(name, 6))

    found = walk(lists_of(store)[name], limit, name)

    ids = [f"id-{number:02d}" for number in range(6)]
    assert found == (ids[::-1] if name == "incident_id" else ids)


@pytest.mark.parametrize("name", ["key_id", "cluster_id", "backup_id", "incident_id", "subscription_id"])
def test_a_list_holds_its_own_projects_things_only(store: Store, name: str) -> None:
    put(store, *things(name, 2), *things(name, 3, project_id="acme-prod-2"), *things(name, 1, project_id="acme"))
    put(store, project(), key(key_id="other"), cluster(cluster_id="other"), incident(incident_id="other"))

    found = walk(lists_of(store)[name], 10, name)

    assert sorted(each for each in found if each != "other") == ["id-00", "id-01"]


def test_an_empty_list_is_one_empty_page(store: Store) -> None:
    for read_page in (*lists_of(store).values(), store.projects):
        assert read_page(10, None) == Page((), None)


def test_a_list_shows_the_things_themselves(store: Store) -> None:
    put(store, key(), cluster(), incident(), subscription(), project())

    assert store.keys("acme-prod", 10, None).items == (key(version=1),)
    assert store.clusters("acme-prod", 10, None).items == (cluster(version=1),)
    assert store.incidents("acme-prod", 10, None).items == (incident(version=1),)
    assert store.subscriptions("acme-prod", 10, None).items == (subscription(version=1),)
    assert store.projects(10, None).items == (project(version=1),)


def test_incidents_come_newest_first_because_their_ids_sort_by_time(store: Store) -> None:
    put(store, incident(incident_id="01JB"), incident(incident_id="01JC"), incident(incident_id="01JA"))

    found = [each.incident_id for each in store.incidents("acme-prod", 10, None).items]

    assert found == ["01JC", "01JB", "01JA"]


@pytest.mark.parametrize("limit", [1, 3, 7, 8, 40, 200])
def test_projects_are_walked_across_all_shards_without_loss_or_repetition(store: Store, limit: int) -> None:
    put(store, *things("project_id", 40))

    found = walk(store.projects, limit, "project_id")

    assert sorted(found) == [f"id-{number:02d}" for number in range(40)]


def test_projects_made_in_the_same_millisecond_or_years_apart_are_all_listed(store: Store) -> None:
    put(store, *things("project_id", 5), *things("project_id", 12, created_at=NOW - timedelta(days=900))[5:])

    assert len(set(walk(store.projects, 2, "project_id"))) == 12


def test_a_project_that_is_removed_is_not_listed(store: Store) -> None:
    put(store, *things("project_id", 3))
    store.commit([Remove(project(project_id="id-01", version=1))])

    assert sorted(walk(store.projects, 1, "project_id")) == ["id-00", "id-02"]


@pytest.mark.parametrize("limit", [1, 2, 3, 200])
def test_tombstones_are_hidden_in_lists_but_read_by_their_id(store: Store, limit: int) -> None:
    for number in range(8):
        put(store, cluster(cluster_id=f"id-{number:02d}", deleted_at=NOW if number % 2 else None, fence=number))

    assert walk(lists_of(store)["cluster_id"], limit, "cluster_id") == ["id-00", "id-02", "id-04", "id-06"]
    assert [each.cluster_id for each in store.clusters_of_key("acme-prod", KEY_ID)] == [
        "id-00",
        "id-02",
        "id-04",
        "id-06",
    ]
    tombstone = store.cluster("acme-prod", "id-03")
    assert tombstone is not None
    assert (tombstone.deleted_at, tombstone.fence) == (NOW, 3)


def test_a_cluster_that_is_registered_again_is_listed_again_under_its_new_key(store: Store) -> None:
    put(store, cluster(deleted_at=NOW))

    store.commit([Put(cluster(version=1, key_id="us-west-2.other"))])

    assert len(store.clusters("acme-prod", 10, None).items) == 1
    assert store.clusters_of_key("acme-prod", KEY_ID) == []
    assert len(store.clusters_of_key("acme-prod", "us-west-2.other")) == 1


def test_the_backups_of_a_key_are_no_others_and_at_most_as_many_as_wanted(store: Store) -> None:
    put(store, *things("backup_id", 5), *things("backup_id", 7, key_id="another")[5:])
    put(store, *things("backup_id", 2, project_id="acme-prod-2"), cluster(cluster_id="no-backup"))

    found = [each.backup_id for each in store.backups_of_key("acme-prod", KEY_ID, 100)]

    assert found == [f"id-{number:02d}" for number in range(5)]
    assert len(store.backups_of_key("acme-prod", KEY_ID, 3)) == 3
    assert [each.backup_id for each in store.backups_of_key("acme-prod", "another", 1)] == ["id-05"]


def test_what_the_operator_was_told_is_nothing_at_first_and_changes_by_its_version(store: Store) -> None:
    assert store.fleet_told() == FleetTold()
    put(store, FleetTold(told={"stale-keys": TOLD}))

    with pytest.raises(ConflictError):
        put(store, FleetTold())
    assert store.fleet_told() == FleetTold(told={"stale-keys": TOLD}, version=1)


def test_the_clusters_of_a_key_are_all_of_them_and_no_others(store: Store) -> None:
    mine = [cluster(cluster_id=f"id-{number:03d}") for number in range(200)]
    for first in range(0, 200, 100):
        store.commit([Put(each) for each in mine[first : first + 100]])
    put(store, cluster(cluster_id="under-another", key_id="us-west-2.other"), cluster(project_id="other"))

    found = store.clusters_of_key("acme-prod", KEY_ID)

    assert [each.cluster_id for each in found] == [each.cluster_id for each in mine]


def test_a_timeline_is_one_incidents_own_oldest_first(store: Store) -> None:
    put(store, entry(3), entry(1), entry(2), entry(4, incident_id="01JANOTHER"))

    assert [each.entry_id for each in store.timeline("01JINCIDENT")] == ["01J0001", "01J0002", "01J0003"]


def test_of_a_long_timeline_the_newest_entries_are_read_oldest_first(store: Store) -> None:
    put(store, *(entry(number) for number in range(1, TIMELINE_SHOWN + 12)))

    shown = [each.entry_id for each in store.timeline("01JINCIDENT")]
    assert shown == [f"01J{number:04d}" for number in range(12, TIMELINE_SHOWN + 12)]
    assert [each.entry_id for each in store.timeline("01JINCIDENT", 2)] == shown[-2:]


@pytest.mark.parametrize("limit", [1, 7, 200])
def test_a_timeline_is_walked_page_by_page_without_loss_oldest_first(store: Store, limit: int) -> None:
    put(store, *(entry(number) for number in range(1, 24)), entry(99, incident_id="01JANOTHER"))

    walked: list[str] = []
    token: str | None = None
    while True:
        page = store.timeline_page("01JINCIDENT", limit, token)
        assert len(page.items) <= limit
        walked += [each.entry_id for each in page.items]
        token = page.next_token
        if token is None:
            break

    assert walked == [f"01J{number:04d}" for number in range(1, 24)]


def made_up(parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


@pytest.mark.parametrize(
    "token",
    [
        "",
        "made up",
        "é",
        "=",
        base64.urlsafe_b64encode(b"\xff\xff").decode(),
        made_up({}),
        made_up([]),
        made_up([1]),
        made_up(["a", "b"]),
        made_up("a"),
        made_up(None),
        made_up(["a" * 1025]),
        made_up(["é"]),
        made_up(["a" * 1025, "b", "c"]),
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    ],
    ids=lambda token: ascii(token[:12]) + str(len(token)),
)
def test_a_made_up_next_token_is_a_refusal_and_no_fault(store: Store, token: str) -> None:
    put(store, project(), key(), cluster(), incident(), subscription())

    for read_page in (*lists_of(store).values(), store.projects):
        with pytest.raises(RefusedError) as refused:
            read_page(10, token)
        assert (refused.value.status, refused.value.title) == (400, "Invalid next_token")


# --- the agenda -------------------------------------------------------------------------------------------------


def test_a_key_is_due_from_its_due_time_on(store: Store) -> None:
    put(store, key(due_at=NOW))

    assert store.due_keys(NOW - timedelta(milliseconds=1)) == []
    assert store.due_keys(NOW) == [DueKey("acme-prod", KEY_ID, NOW)]
    assert store.due_keys(LATER) == [DueKey("acme-prod", KEY_ID, NOW)]


def test_a_key_is_not_due_any_more_once_its_due_time_moved(store: Store) -> None:
    put(store, key(due_at=NOW))
    store.commit([Put(key(version=1, due_at=LATER))])

    assert store.due_keys(NOW) == []
    assert [each.due_at for each in store.due_keys(LATER)] == [LATER]


def test_due_keys_of_all_projects_are_found_oldest_first(store: Store) -> None:
    made = [
        key(project_id=f"project-{number % 3}", key_id=f"id-{number:02d}", due_at=NOW - timedelta(seconds=number))
        for number in range(30)
    ]
    put(store, *made)

    found = store.due_keys(NOW)

    assert [each.key_id for each in found] == [f"id-{number:02d}" for number in reversed(range(30))]
    assert {each.project_id for each in found} == {"project-0", "project-1", "project-2"}


@pytest.mark.parametrize("account_id", ["222222222222", "012345678900", "999999999999", "000000000010"])
def test_a_due_key_names_the_account_whose_quota_its_probe_draws_on(store: Store, account_id: str) -> None:
    put(store, key(role_arn=f"arn:aws-cn:iam::{account_id}:role/path/keyvigil", due_at=NOW))

    (found,) = store.due_keys(NOW)

    assert (found.account_id, found.due_at) == (account_id, NOW)


IN_THE_INDEX: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"cryptographic": 2, "alias": False, "key_store": 0, "in_workflow": False}),
    ({"use": KeyUse.CSE}, {"cryptographic": 3}),
    ({"alias_arn": "arn:aws:kms:us-west-2:222222222222:alias/data"}, {"alias": True}),
    ({"facts": KeyFacts(custom_key_store_id="cks-1234567890abcdef0")}, {"key_store": 8407}),
    ({"lean_until": NOW + timedelta(minutes=51, seconds=59)}, {"lean_for": timedelta(minutes=51)}),
    ({"lean_until": NOW - timedelta(minutes=1)}, {"lean_for": timedelta(0)}),
    ({"lean_until": LATER, "health": Health(status=KeyStatus.SUSPECT)}, {"lean_for": timedelta(0)}),
    ({"health": Health(status=KeyStatus.SUSPECT)}, {"in_workflow": True}),
    ({"health": Health(status=KeyStatus.RECOVERING)}, {"in_workflow": True}),
    ({"health": Health(status=KeyStatus.UNHEALTHY)}, {"in_workflow": False}),
    ({"facts": KeyFacts(closer=CloserLook(looked_at=NOW))}, {"looks_after": timedelta(minutes=55)}),
]


def test_of_more_keys_than_a_sweep_can_hold_the_oldest_are_read_those_apart_of_which_nothing_is_known(
    store: Store,
) -> None:
    for number in range(6):
        due_at = NOW - timedelta(minutes=number)
        put(store, key(key_id=f"us-west-2.{number}", due_at=due_at))
        unknown = Health(unknown_since=NOW)
        put(store, key(key_id=f"us-west-2.unknown-{number}", due_at=due_at, health=unknown))

    found = store.due_keys(NOW, 2)

    for unknown_ones in (False, True):
        read = [each.due_at for each in found if each.unknown is unknown_ones]
        assert read[:2] == [NOW - timedelta(minutes=5), NOW - timedelta(minutes=4)]
        assert all(("unknown" in each.key_id) is unknown_ones for each in found if each.unknown is unknown_ones)


@pytest.mark.parametrize(("what", "shown"), IN_THE_INDEX)
def test_a_due_key_tells_what_its_next_probe_will_ask_of_kms(
    store: Store, what: dict[str, Any], shown: dict[str, Any]
) -> None:
    put(store, key(**{"alias_arn": None, "due_at": NOW, "last_probed_at": NOW, **what}))

    (found,) = store.due_keys(NOW)

    whole_minutes = {
        name: value // timedelta(minutes=1) * timedelta(minutes=1)
        for name in shown
        if isinstance(value := getattr(found.probe, name), timedelta)
    }
    assert {name: getattr(found.probe, name) for name in shown} | whole_minutes == shown


@pytest.mark.parametrize(
    ("fraction", "account_id"), [("", None), (".222222222222", "222222222222"), (".0123456789", "012345678900")]
)
def test_a_key_that_an_earlier_version_listed_is_taken_to_ask_for_the_most(
    dynamodb: "DynamoDBClient", dynamodb_store: DynamoDbStore, fraction: str, account_id: str | None
) -> None:
    put(dynamodb_store, key(due_at=NOW))
    item = raw(dynamodb, "PROJECT#acme-prod", f"KEY#{KEY_ID}")
    whole, _, written = item["agenda_at"]["N"].partition(".")
    assert (len(whole), len(written)) == (13, 24), "no digit is lost, and no more are there than DynamoDB keeps"
    dynamodb.put_item(TableName=TABLE, Item={**item, "agenda_at": {"N": whole + fraction}})

    (found,) = dynamodb_store.due_keys(NOW)

    assert (found.account_id, found.due_at, found.probe) == (account_id, NOW, THE_MOST)


@pytest.mark.parametrize("status", KeyStatus)
@pytest.mark.parametrize("unknown_since", [None, EARLIER])
def test_a_key_of_whatever_status_is_due_and_counted(
    store: Store, status: KeyStatus, unknown_since: datetime | None
) -> None:
    health = Health(status=status, unknown_since=unknown_since)
    put(store, key(health=health, due_at=NOW), key(key_id="us-west-2.other", due_at=LATER), incident())

    assert store.due_keys(NOW) == [DueKey("acme-prod", KEY_ID, NOW)]
    counted = store.count_fleet()
    expected = dict.fromkeys(KeyStatus, 0)
    expected[KeyStatus.HEALTHY] += 1
    expected[status] += 1
    assert counted.keys == expected
    assert counted.unknown == (unknown_since is not None)
    assert counted.open_incidents == 1


def test_a_key_whose_status_changed_is_counted_and_due_once(store: Store) -> None:
    put(store, key(due_at=NOW))
    for version, status in enumerate([*KeyStatus, *KeyStatus], start=1):
        store.commit([Put(key(version=version, due_at=NOW, health=Health(status=status)))])

        assert len(store.due_keys(NOW)) == 1
        counted = store.count_fleet().keys
        assert (counted[status], sum(counted.values())) == (1, 1)


def test_an_empty_fleet_is_counted_as_zeros(store: Store) -> None:
    counted = store.count_fleet()

    assert counted.keys == dict.fromkeys(KeyStatus, 0)
    assert (counted.unknown, counted.open_incidents) == (0, 0)


def test_an_outbox_row_is_unsent_until_it_is_sent(store: Store) -> None:
    put(store, start_row(created_at=NOW))
    assert store.unsent_rows(NOW - timedelta(milliseconds=1)) == []
    assert store.unsent_rows(NOW) == ["01JROW"]

    partly = start_row(version=1, delivered=(Target.BUS,))
    store.commit([Put(partly)])
    assert store.unsent_rows(NOW) == ["01JROW"]

    store.commit([Put(changed(partly, version=2, sent_at=LATER))])
    assert store.unsent_rows(LATER) == []
    assert store.outbox_row("01JROW") is not None


def test_a_row_that_was_set_aside_is_not_unsent_until_it_is_taken_back(store: Store) -> None:
    put(store, start_row(created_at=NOW), start_row("01JOTHER", created_at=NOW))

    assert store.set_aside("01JROW", "it will never be taken", LATER)
    assert not store.set_aside("01JROW", "again", LATER)
    assert store.unsent_rows(LATER) == ["01JOTHER"]
    assert store.rows_aside(10) == [RowAside("01JROW", LATER, "it will never be taken")]
    assert store.count_aside() == 1

    assert store.take_back("01JROW", LATER)
    assert not store.take_back("01JROW", LATER)
    assert sorted(store.unsent_rows(LATER)) == ["01JOTHER", "01JROW"]
    assert store.rows_aside(10) == []
    [row] = [store.outbox_row("01JROW")]
    assert row is not None
    store.commit([Put(changed(row, sent_at=LATER))])
    assert not store.set_aside("01JROW", "too late", LATER)
    assert not store.set_aside("01JNOBODY", "never written", LATER)


def test_a_row_whose_body_is_rubbish_is_set_aside_as_it_is(
    dynamodb: "DynamoDBClient", dynamodb_store: DynamoDbStore
) -> None:
    put(dynamodb_store, start_row(created_at=NOW))
    [item] = [each for each in dynamodb.scan(TableName=TABLE)["Items"] if each["pk"]["S"] == "OUTBOX#01JROW"]
    dynamodb.put_item(TableName=TABLE, Item={**item, "body": {"S": "{"}})
    with pytest.raises(DamagedItemError):
        dynamodb_store.outbox_row("01JROW")

    assert dynamodb_store.set_aside("01JROW", "damaged", LATER)

    assert dynamodb_store.unsent_rows(LATER) == []
    assert [each.reason for each in dynamodb_store.rows_aside(10)] == ["damaged"]
    [item] = [each for each in dynamodb.scan(TableName=TABLE)["Items"] if each["pk"]["S"] == "OUTBOX#01JROW"]
    assert item["body"] == {"S": "{"}


def test_all_unsent_rows_are_found(store: Store) -> None:
    put(store, *(start_row(f"01J{number:02d}") for number in range(30)))

    assert sorted(store.unsent_rows(NOW)) == [f"01J{number:02d}" for number in range(30)]


def test_the_oldest_row_that_is_not_sent_is_as_old_as_it_was_made(store: Store) -> None:
    assert store.oldest_unsent_row() is None
    put(store, *(start_row(f"01J{number:02d}", created_at=NOW + timedelta(seconds=number)) for number in range(30)))
    assert store.oldest_unsent_row() == NOW

    first = start_row("01J00", version=1, created_at=NOW, delivered=(Target.BUS,))
    store.commit([Put(first)])
    assert store.oldest_unsent_row() == NOW

    store.commit([Put(changed(first, version=2, sent_at=LATER))])
    assert store.oldest_unsent_row() == NOW + timedelta(seconds=1)


@pytest.mark.parametrize("status", IncidentStatus)
def test_an_incident_is_open_until_it_is_resolved(store: Store, status: IncidentStatus) -> None:
    put(store, incident())
    assert store.open_incidents() == [("acme-prod", "01JINCIDENT")]

    store.commit([Put(incident(version=1, status=status))])

    over = status is IncidentStatus.RESOLVED
    assert store.open_incidents() == ([] if over else [("acme-prod", "01JINCIDENT")])


def test_open_incidents_of_all_projects_are_found(store: Store) -> None:
    put(store, *(incident(project_id=f"project-{n % 3}", incident_id=f"01J{n:02d}") for n in range(30)))

    assert sorted(store.open_incidents()) == sorted((f"project-{n % 3}", f"01J{n:02d}") for n in range(30))


@pytest.mark.parametrize("status", ClusterStatus)
def test_a_cluster_is_overdue_only_while_a_request_is_under_way(store: Store, status: ClusterStatus) -> None:
    put(store, cluster(status=status, respond_by=NOW))

    under_way = status in {ClusterStatus.LOCKING, ClusterStatus.UNLOCKING}
    assert store.overdue_clusters(NOW) == ([("acme-prod", "vectors-prod")] if under_way else [])
    assert store.overdue_clusters(NOW - timedelta(milliseconds=1)) == []


def test_a_cluster_is_not_overdue_any_more_once_it_answered(store: Store) -> None:
    put(store, cluster(status=ClusterStatus.LOCKING, respond_by=NOW))
    store.commit([Put(cluster(version=1, status=ClusterStatus.LOCKED, respond_by=None))])

    assert store.overdue_clusters(LATER) == []


@pytest.mark.parametrize("status", ClusterStatus)
def test_a_cluster_is_shut_while_it_is_not_in_use_and_nothing_is_under_way(store: Store, status: ClusterStatus) -> None:
    put(store, cluster(status=status, status_changed_at=NOW))

    not_in_use = status in {"PENDING_KEY", "LOCKED", "LOCK_FAILED", "UNLOCK_FAILED"}
    assert store.shut_clusters(NOW) == ([("acme-prod", "vectors-prod")] if not_in_use else [])
    assert store.shut_clusters(NOW - timedelta(milliseconds=1)) == []


def test_a_cluster_is_not_shut_any_more_once_it_is_in_use_or_gone(store: Store) -> None:
    put(store, cluster(status=ClusterStatus.LOCKED), cluster(cluster_id="gone", status=ClusterStatus.LOCKED))
    store.commit([Put(cluster(version=1))])
    store.commit([Put(cluster(cluster_id="gone", status=ClusterStatus.LOCKED, version=1, deleted_at=NOW))])

    assert store.shut_clusters(LATER) == []


def test_of_a_list_beyond_all_bounds_the_oldest_and_the_newest_are_read(
    dynamodb_store: DynamoDbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three entries of each end of a shard; what is done makes room for what lies between."""
    monkeypatch.setattr(adapter, "LISTED", 6 * AGENDA_SHARDS)
    monkeypatch.setattr(adapter, "_shard", lambda _place: 0)
    put(dynamodb_store, *(start_row(f"01J{n:02d}", created_at=NOW + timedelta(seconds=n)) for n in range(20)))

    listed = dynamodb_store.unsent_rows(NOW + timedelta(hours=1))

    assert listed == ["01J00", "01J01", "01J02", "01J17", "01J18", "01J19"]
    monkeypatch.setattr(adapter, "LISTED", 30 * AGENDA_SHARDS)
    assert len(dynamodb_store.unsent_rows(NOW + timedelta(hours=1))) == 20


def test_a_cluster_that_waits_for_no_answer_is_never_overdue(store: Store) -> None:
    put(store, cluster(status=ClusterStatus.LOCKING, respond_by=None))

    assert store.overdue_clusters(LATER + timedelta(days=365)) == []


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({"next_at": NOW}, True),
        ({"next_at": LATER}, False),
        ({"next_at": None}, False),
        ({"next_at": NOW, "done_at": NOW}, False),
    ],
    ids=["now", "later", "at its incident's end", "done"],
)
def test_a_search_is_due_from_its_time_on_until_it_is_done(store: Store, changes: dict[str, Any], *, due: bool) -> None:
    put(store, search(**changes))

    assert store.due_searches(NOW, 10) == ([("acme-prod", "01JINCIDENT")] if due else [])


def test_of_many_searches_the_oldest_are_due_first(store: Store) -> None:
    made = [
        search(project_id=f"project-{n % 3}", incident_id=f"01J{n:02d}", next_at=NOW - timedelta(seconds=n))
        for n in range(30)
    ]
    put(store, *made)

    assert [incident_id for _, incident_id in store.due_searches(NOW, 4)] == ["01J29", "01J28", "01J27", "01J26"]
    assert len(store.due_searches(NOW, 100)) == 30


# --- what events find ------------------------------------------------------------------------------------------


def test_a_resource_leads_to_every_registration_of_it_and_to_no_other(store: Store) -> None:
    mine = [pointer(project_id=f"project-{n}") for n in range(3)]
    put(store, *mine)
    put(store, pointer(resource="us-west-2/alias/vectors-2"), pointer(resource="us-east-1/alias/vectors"))
    put(store, pointer(account_id="333333333333"))

    found = store.pointers(CUSTOMER, "us-west-2/alias/vectors", 10)

    assert found == [changed(each, version=1) for each in mine]
    assert len(store.pointers(CUSTOMER, "us-west-2/alias/vectors", 2)) == 2


def test_a_removed_pointer_leads_nowhere(store: Store) -> None:
    put(store, pointer())
    store.commit([Remove(pointer(version=1))])

    assert store.pointers(CUSTOMER, "us-west-2/alias/vectors", 10) == []


# --- sweeps -----------------------------------------------------------------------------------------------------


def test_a_minute_is_claimed_once(store: Store) -> None:
    assert store.claim_sweep(NOW) is True
    assert store.claim_sweep(NOW) is False
    assert store.claim_sweep(LATER) is True
    assert store.claim_sweep(NOW) is False


def test_the_last_sweep_is_the_one_that_was_recorded_last(store: Store) -> None:
    assert store.last_sweep() is None

    store.record_sweep(SweepRecord(NOW, 4, 3))
    store.record_sweep(SweepRecord(LATER, 5, 5))

    assert store.last_sweep() == SweepRecord(LATER, 5, 5)


# --- DynamoDB alone ---------------------------------------------------------------------------------------------


def raw(dynamodb: "DynamoDBClient", pk: str, sk: str) -> dict[str, Any]:
    found = dynamodb.get_item(TableName=TABLE, Key={"pk": {"S": pk}, "sk": {"S": sk}}, ConsistentRead=True)
    return dict(found["Item"])


def expiry(dynamodb: "DynamoDBClient", pk: str, sk: str) -> datetime | None:
    """When DynamoDB may delete an item: TTL reads a number, in seconds."""
    attribute = table_in_template()["TimeToLiveSpecification"]["AttributeName"]
    item = raw(dynamodb, pk, sk)
    return datetime.fromtimestamp(int(item[attribute]["N"]), UTC) if attribute in item else None


def test_what_is_over_expires_and_nothing_else_does(dynamodb: "DynamoDBClient", dynamodb_store: DynamoDbStore) -> None:
    put(dynamodb_store, project(), key(), cluster(deleted_at=NOW), subscription(), entry())
    put(dynamodb_store, incident(incident_id="01JOPEN"))
    put(dynamodb_store, incident(incident_id="01JOVER", status=IncidentStatus.RESOLVED, resolved_at=NOW))
    put(dynamodb_store, start_row("01JUNSENT"), start_row("01JSENT", sent_at=NOW))
    put(dynamodb_store, pointer(), EventHints(project_id="acme-prod", key_id=KEY_ID, kept_until=NOW + HINT_KEPT))
    put(dynamodb_store, search(), search(incident_id="01JOVER", done_at=NOW))
    dynamodb_store.claim_sweep(NOW)
    dynamodb_store.record_sweep(SweepRecord(NOW, 1, 1))

    mine = "PROJECT#acme-prod"
    assert expiry(dynamodb, mine, "INCIDENT#01JOVER") == NOW + timedelta(days=400)
    assert expiry(dynamodb, "INCIDENT#01JINCIDENT", "AT#01J0001") == NOW + timedelta(days=400)
    assert expiry(dynamodb, "OUTBOX#01JSENT", "OUTBOX") == NOW + timedelta(days=14)
    assert expiry(dynamodb, "HINTS#acme-prod", f"KEY#{KEY_ID}") == NOW + timedelta(days=1)
    assert expiry(dynamodb, mine, "SEARCH#01JINCIDENT") == NOW + timedelta(days=400)
    assert expiry(dynamodb, mine, "SEARCH#01JOVER") == NOW + timedelta(days=14)
    assert expiry(dynamodb, f"POINTER#{CUSTOMER}", f"us-west-2/alias/vectors#acme-prod#{KEY_ID}") is None
    assert expiry(dynamodb, "SWEEP#2026-11-22T03:00Z", "SWEEP") == NOW + timedelta(days=1)
    for sk in ("PROJECT", f"KEY#{KEY_ID}", "CLUSTER#vectors-prod", "SUBSCRIPTION#01JSUBSCRIPTION", "INCIDENT#01JOPEN"):
        assert expiry(dynamodb, mine, sk) is None, sk
    assert expiry(dynamodb, "OUTBOX#01JUNSENT", "OUTBOX") is None
    assert expiry(dynamodb, "FLEET", "LAST_SWEEP") is None


def test_outbox_rows_and_nothing_else_pass_the_filter_of_the_relays_stream(
    dynamodb: "DynamoDBClient", dynamodb_store: DynamoDbStore
) -> None:
    put(dynamodb_store, project(), key(), cluster(), incident(), subscription(), entry(), start_row())
    dynamodb_store.claim_sweep(NOW)
    relay = template().resources["RelayOutboxFunction"]["Properties"]
    [wanted] = relay["Events"]["NewOutboxRows"]["Properties"]["FilterCriteria"]["Filters"]
    pattern = json.loads(wanted["Pattern"])

    def passes(item: dict[str, Any]) -> bool:
        return all(item[name]["S"] in values["S"] for name, values in pattern["dynamodb"]["NewImage"].items())

    items = dynamodb.scan(TableName=TABLE)["Items"]

    assert len(items) == 8
    assert [item["pk"]["S"] for item in items if passes(dict(item))] == ["OUTBOX#01JROW"]


def test_a_key_that_an_earlier_version_listed_is_found_until_its_next_probe_lists_it_anew(
    dynamodb: "DynamoDBClient", dynamodb_store: DynamoDbStore
) -> None:
    """Earlier versions had one list of due keys, whatever their status."""
    suspect = Health(status=KeyStatus.SUSPECT)
    put(dynamodb_store, key(due_at=NOW, health=suspect))
    item = raw(dynamodb, "PROJECT#acme-prod", f"KEY#{KEY_ID}")
    assert item["agenda_pk"]["S"].startswith("due-suspect#")
    dynamodb.put_item(TableName=TABLE, Item={**item, "agenda_pk": {"S": "due#3"}})

    assert dynamodb_store.due_keys(NOW) == [DueKey("acme-prod", KEY_ID, NOW)]
    dynamodb_store.commit([Put(key(version=1, due_at=NOW, health=suspect))])
    assert dynamodb_store.due_keys(NOW) == [DueKey("acme-prod", KEY_ID, NOW)]


def test_a_page_ends_when_it_has_grown_large_and_the_next_goes_on_there(
    dynamodb_store: DynamoDbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "PAGE_BYTES", 20_000)
    made = [cluster(cluster_id=f"id-{number:02d}", detail="x" * 3000) for number in range(25)]
    gone = [cluster(cluster_id=f"id-{number:02d}-gone", deleted_at=NOW) for number in range(25)]
    put(dynamodb_store, *made, *gone)

    sizes: list[int] = []
    walked: list[str] = []
    token: str | None = None
    while True:
        page = dynamodb_store.clusters("acme-prod", 200, token)
        sizes.append(len(page.items))
        walked += [each.cluster_id for each in page.items]
        token = page.next_token
        if token is None:
            break

    assert walked == [each.cluster_id for each in made]
    assert max(sizes) == 6, "the sixth passes the bound"


def test_the_agenda_is_spread_over_its_shards(dynamodb: "DynamoDBClient", dynamodb_store: DynamoDbStore) -> None:
    put(dynamodb_store, *things("key_id", 60))

    lists = {item["agenda_pk"]["S"] for item in dynamodb.scan(TableName=TABLE)["Items"]}

    assert lists == {f"due#{shard}" for shard in range(AGENDA_SHARDS)}


def test_a_page_that_goes_on_in_the_next_shard_starts_at_its_beginning(
    dynamodb_store: DynamoDbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DynamoDB refuses a start key of another partition; moto does not, so the queries are looked at."""
    query = AgendaIndex.query
    starts: list[tuple[str, str]] = []

    def seen(index: AgendaIndex, hash_key: str, *args: Any, **kwargs: Any) -> Any:
        start = kwargs["last_evaluated_key"]
        if start is not None:
            starts.append((hash_key, start["agenda_pk"]["S"]))
        return query(index, hash_key, *args, **kwargs)

    put(dynamodb_store, *things("project_id", 40))
    monkeypatch.setattr(AgendaIndex, "query", seen)
    walk(dynamodb_store.projects, 3, "project_id")

    assert starts
    assert all(queried == started for queried, started in starts)


def test_a_key_that_an_older_version_wrote_was_told_nothing_and_has_no_backups(
    dynamodb_store: DynamoDbStore, dynamodb: "DynamoDBClient"
) -> None:
    put(dynamodb_store, full_key())
    place = {"pk": {"S": "PROJECT#acme-prod"}, "sk": {"S": f"KEY#{KEY_ID}"}}
    item = dynamodb.get_item(TableName=TABLE, Key=place)["Item"]
    body = json.loads(item["body"]["S"])
    for name in ("told", "backups"):
        del body[name]
    for name in ("primary_region", "key_state", "closer"):
        del body["facts"][name]
    item["body"] = {"S": json.dumps(body)}
    dynamodb.put_item(TableName=TABLE, Item=item)

    found = dynamodb_store.key("acme-prod", KEY_ID)

    facts = changed(full_key().facts, primary_region=None, key_state=None, closer=None)
    assert found == changed(full_key(), told={}, backups={}, facts=facts, version=1)


def test_a_token_that_names_no_item_and_no_shard_ends_the_list(dynamodb_store: DynamoDbStore) -> None:
    put(dynamodb_store, project())

    assert dynamodb_store.projects(10, made_up(["99", "", "0"])) == Page((), None)


@pytest.mark.parametrize(
    "parts", [["x", "", "0"], ["0", "PROJECT#a", "x"], ["0", "PROJECT#a", "9" * 40], ["-1", "", "0"]]
)
def test_a_token_with_numbers_that_are_none_is_a_refusal(dynamodb_store: DynamoDbStore, parts: list[str]) -> None:
    with pytest.raises(RefusedError):
        dynamodb_store.projects(10, made_up(parts))


@pytest.mark.parametrize(
    ("reasons", "race"),
    [
        (["None", "ConditionalCheckFailed"], True),
        (["TransactionConflict", "None"], True),
        (["ConditionalCheckFailed", "ThrottlingError"], False),
        (["ThrottlingError"], False),
        (["ProvisionedThroughputExceeded", "None"], False),
        (["ItemCollectionSizeLimitExceeded"], False),
        ([], False),
    ],
    ids=lambda each: "+".join(each) if isinstance(each, list) else str(each),
)
def test_a_transaction_cancelled_for_want_of_capacity_is_not_taken_for_a_lost_race(
    dynamodb_store: DynamoDbStore, monkeypatch: pytest.MonkeyPatch, reasons: list[str], *, race: bool
) -> None:
    def cancelled(_: Any) -> None:
        cause = VerboseClientError(
            {"Error": {"Code": "TransactionCanceledException", "Message": "cancelled"}},
            "TransactWriteItems",
            {},
            cancellation_reasons=[None if code == "None" else CancellationReason(code=code) for code in reasons],
        )
        message = "cancelled"
        raise TransactWriteError(message, cause)

    monkeypatch.setattr(dynamodb_store, "_transact", cancelled)

    with pytest.raises(ConflictError if race else TransactWriteError):
        dynamodb_store.commit([Put(project()), Put(cluster())])


def test_the_index_is_the_one_that_the_template_makes() -> None:
    [index] = table_in_template()["GlobalSecondaryIndexes"]
    item = DynamoDbStore(TABLE, REGION)._item

    assert index["IndexName"] == item.agenda.Meta.index_name
    assert index["Projection"] == {"ProjectionType": "KEYS_ONLY"}
    assert [each["AttributeName"] for each in index["KeySchema"]] == ["agenda_pk", "agenda_at"]


def test_no_item_shows_a_role_or_key_outside_of_its_body(
    dynamodb: "DynamoDBClient", dynamodb_store: DynamoDbStore
) -> None:
    """Attributes beside the body may end in logs and metrics of AWS; the index has keys only."""
    put(dynamodb_store, key())
    item = raw(dynamodb, "PROJECT#acme-prod", f"KEY#{KEY_ID}")
    beside = json.dumps({name: value for name, value in item.items() if name != "body"})

    assert not re.search(f"{ROLE_ARN}|{KEY_ARN}", beside)


def test_a_list_that_is_long_is_counted_in_parts_and_all_of_it_within_some_minutes(
    dynamodb_store: DynamoDbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if a dozen keys were a million: the first call counts all, the others two shards or so each.
    put(dynamodb_store, *(key(key_id=f"us-west-2.{number}") for number in range(12)))
    monkeypatch.setattr("keyvigil.adapters.dynamodb_store.COUNTED_A_MINUTE", 2)
    asked: list[str] = []
    index = dynamodb_store._item.agenda
    real = index.count

    def counted(name: str) -> int:
        asked.append(name)
        return real(name)

    monkeypatch.setattr(index, "count", counted)

    assert dynamodb_store.count_fleet().keys[KeyStatus.HEALTHY] == 12
    assert sum(name.startswith("due#") for name in asked) == 8
    put(dynamodb_store, *(key(key_id=f"us-east-1.{number}") for number in range(12)))
    seen = []
    for _ in range(8):
        asked.clear()
        seen.append(dynamodb_store.count_fleet().keys[KeyStatus.HEALTHY])
        assert sum(name.startswith("due#") for name in asked) < 8

    assert seen == sorted(seen)
    assert seen[-1] == 24, "nothing is added up, so whatever happened between two calls is found"


def test_a_tally_of_another_number_of_shards_is_begun_anew(dynamodb_store: DynamoDbStore) -> None:
    put(dynamodb_store, key())
    dynamodb_store._put_note("FLEET_TALLY", FleetTally({"due": ListTally((7, 7), 1)}))

    assert dynamodb_store.count_fleet().keys[KeyStatus.HEALTHY] == 1
