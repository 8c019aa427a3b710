"""What the largest things weigh that the API lets in: AWS refuses what is larger, and at the worst moment.

200 clusters under one key, the longest names, texts in characters that take the most room.
"""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonata
import pytest
from pydantic import BaseModel

from keyvigil.adapters import dynamodb_store, messaging
from keyvigil.adapters.dynamodb_store import PAGE_BYTES, DynamoDbStore
from keyvigil.adapters.plain_data import to_plain
from keyvigil.api import views
from keyvigil.api.app import MAX_BODY_BYTES
from keyvigil.api.requests import AnswerLock, CreateProject, Rebaseline, RegisterCluster, Subscribe
from keyvigil.domain.alert_words import mail
from keyvigil.domain.alerts import INCIDENT_ALERTS, Alert, AlertKey, AlertType, OutboxRow, Severity, make_alert
from keyvigil.domain.bundles import BUNDLES_OVER_KEPT, MOST_MEMBERS, Bundle, Member, told_again
from keyvigil.domain.clusters import Cluster, ClusterStatus, LockAction, LockResult, LockSettings, LockVia
from keyvigil.domain.incidents import (
    EXECUTIONS_KEPT,
    LONGEST_REASON,
    NAMES_SHOWN,
    REASONS_SHOWN,
    TIMELINE_SHOWN,
    AffectedCluster,
    Decision,
    Incident,
    IncidentStatus,
    LockoutVerb,
    PersonsDecision,
    RecoveryVerb,
    TimelineEntry,
    listed,
)
from keyvigil.domain.keys import REBASELINES_KEPT, Baseline, Key
from keyvigil.domain.keys import Rebaseline as KeptRebaseline
from keyvigil.domain.projects import MAX_CLUSTERS_PER_KEY, Protocol, Subscription
from keyvigil.domain.quiet import Ledger
from keyvigil.domain.remediation import Seen, Subject, explain, missing_permission
from keyvigil.domain.verdicts import OUTCOME_OF_CAUSE, Cause, Verdict
from keyvigil.ports import Entity
from keyvigil.use_cases.record_lock_result import LockAnswer
from tests.examples import CUSTOMER, EXTERNAL_ID, KMS_KEY, NOW, cluster, full_bundle, incident, key, project, verdict
from tests.fakes import changed
from tests.infra.source_template import ROOT
from tests.unit.test_alert_words import Wire
from tests.unit.test_functions import Context, Recorder, Use, load
from tests.unit.test_lockout_and_recovery import BROKEN, INCIDENT, World

KB = 1024
ITEM = 400 * KB
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html#limits-items"""
MESSAGE = 256 * KB
"""https://docs.aws.amazon.com/general/latest/gr/sns.html and, for an event, eb-putevents.html#eb-putevent-size"""
STATE = 256 * KB
"""https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html#service-limits-task-executions"""
HISTORY = 25_000
"""Events of one execution, the same page."""
ANSWER = 6 * KB * KB
"""https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""
TRANSACTION = 100
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html"""

WIDEST = "\U0001f511"
"""A character that JSON in ASCII writes with twelve."""


def longest(model: type[BaseModel], name: str) -> int:
    """How many characters, or items, the API takes for a field."""
    schema = model.model_json_schema()["properties"][name]
    bounded = next(each for each in (schema, *schema.get("anyOf", [])) if each.keys() & {"maxLength", "maxItems"})
    return int(bounded.get("maxLength") or bounded["maxItems"])


LONGEST_ID = "c" * 60
PROJECT_ID = "p" * 40
REGION = "ap-southeast-7"
KEY_ARN = f"arn:aws:kms:{REGION}:{CUSTOMER}:key/{KMS_KEY}"
ALIAS_ARN = f"arn:aws:kms:{REGION}:{CUSTOMER}:alias/{'a' * 250}"
ROLE_ARN = f"arn:aws:iam::{CUSTOMER}:role/{'p' * 510}/{'r' * 64}"
SECRET_ARN = f"arn:aws:secretsmanager:{REGION}:{CUSTOMER}:secret:{'s' * 512}-AbC123"
SUBJECT = Subject(
    key_arn=KEY_ARN,
    region=REGION,
    role_arn=ROLE_ARN,
    external_id=EXTERNAL_ID,
    monitor_role_arn=f"arn:aws:iam::111111111111:role/{'r' * 64}",
    operations=("DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey", "GetSecretValue"),
    probe_secret_arn=SECRET_ARN,
)
WORST_SEEN = Seen(at=NOW, deletion_date=NOW, key_store_id=f"cks-{'0' * 60}", imported=True)
CALLER = f"arn:aws:iam::111111111111:user/{'p' * 510}/{'u' * 64}"


def widest(model: type[BaseModel], name: str) -> str:
    return WIDEST * longest(model, name)


def worst_verdict(cause: Cause) -> Verdict:
    message, remediation = explain(cause, "GenerateDataKey", SUBJECT, WORST_SEEN)
    return verdict(
        cause,
        outcome=OUTCOME_OF_CAUSE[cause],
        message=message,
        remediation=remediation,
        aws_error_code="X" * 100,
        permission=missing_permission(cause, "GenerateDataKey", SUBJECT, WORST_SEEN),
    )


def largest_key(cause: Cause = Cause.ACCESS_DENIED) -> Key:
    reason = widest(Rebaseline, "reason")
    return key(
        project_id=PROJECT_ID,
        key_arn=KEY_ARN,
        alias_arn=ALIAS_ARN,
        role_arn=ROLE_ARN,
        probe_secret_arn=SECRET_ARN,
        # A ciphertext under a symmetric key has at most 6,144 bytes.
        baseline=Baseline.of(bytes(6144), {"tested-by": "KeyVigil", "project": PROJECT_ID}, NOW),
        verdict=worst_verdict(cause),
        rebaselines=tuple(KeptRebaseline(at=NOW, by=CALLER, reason=reason) for _ in range(REBASELINES_KEPT)),
    )


AFFECTED = tuple(
    AffectedCluster(
        cluster_id=f"{number:03d}{LONGEST_ID}",
        status=ClusterStatus.UNLOCK_FAILED,
        detail=WIDEST * LONGEST_REASON if number < REASONS_SHOWN else None,
    )
    for number in range(MAX_CLUSTERS_PER_KEY)
)


def largest_incident() -> Incident:
    return incident(
        incident_id="01" + "J" * 24,
        project_id=PROJECT_ID,
        clusters=AFFECTED,
        executions=tuple(f"01{'J' * 24}-unlock-{100_000 + number}" for number in range(EXECUTIONS_KEPT)),
        decision=PersonsDecision(decision=Decision.APPROVE, reason=WIDEST * 1000, by=CALLER, at=NOW),
    )


def largest_cluster() -> Cluster:
    return cluster(
        project_id=PROJECT_ID,
        cluster_id=AFFECTED[0].cluster_id,
        name=widest(CreateProject, "name"),
        detail=widest(AnswerLock, "detail"),
        lock=LockSettings(
            via=LockVia.SSM_AUTOMATION,
            document_name=f"KeyVigilLock-{'d' * 115}",
            # As many as fit into a request's body, where such a character has four bytes.
            parameters={"Given": (WIDEST * (MAX_BODY_BYTES // 4),)},
        ),
        receipt="r" * 36,
        task_token="A" * 2048,
        locked_by_incident_id="01" + "J" * 24,
    )


def largest_entry() -> TimelineEntry:
    """A control plane's answer with the longest detail; a person's decision is shorter by its fence."""
    said = f"{AFFECTED[0].cluster_id}: unlocked, late, said its control plane for fence {2**63} after 2100 s"
    detail = f"{said}: {widest(AnswerLock, 'detail')}"
    return TimelineEntry(
        incident_id="01" + "J" * 24, entry_id="01" + "K" * 24, at=NOW, what="cluster.unlock_requested", detail=detail
    )


def largest_alert(kind: AlertType, cause: Cause) -> Alert:
    alert, _ = make_alert(
        kind,
        alert_id="01" + "J" * 24,
        key=largest_key(cause),
        incident=largest_incident(),
        clusters=AFFECTED,
        occurred_at=NOW,
        detected_at=NOW,
    )
    return alert


def weight(value: Any) -> int:
    """Bytes of a value as JSON, the way it is sent."""
    return len(json.dumps(value).encode())


# --- items ------------------------------------------------------------------------------------------------------


def item_weight(entity: Entity) -> int:
    """Bytes of an entity's item: names and values, numbers counted as 21 bytes, which is their most."""
    store = DynamoDbStore("table", "us-west-2")
    item = store._to_item(entity)
    return sum(
        len(name.encode()) + (len(value.encode()) if isinstance(value, str) else 21)
        for name, value in item.attribute_values.items()
    )


ITEMS: list[Entity] = [
    largest_key(),
    largest_incident(),
    largest_cluster(),
    largest_entry(),
    project(project_id=PROJECT_ID, name=widest(CreateProject, "name")),
    Subscription(
        project_id=PROJECT_ID,
        subscription_id="01" + "J" * 24,
        protocol=Protocol.HTTPS,
        endpoint="e" * longest(Subscribe, "endpoint"),
        min_severity="critical",
        types=("k" * 40,) * longest(Subscribe, "types"),
        subscription_arn="a" * 300,
        status="confirmed",
        created_at=NOW,
        dead_letters_arn="a" * 300,
    ),
    OutboxRow(
        row_id="01" + "J" * 24,
        project_id=PROJECT_ID,
        created_at=NOW,
        alert=largest_alert(AlertType.CLUSTER_UNLOCK_FAILED, Cause.ACCESS_DENIED),
        told_as=largest_alert(AlertType.CLUSTER_UNLOCK_FAILED, Cause.ACCESS_DENIED),
    ),
    Ledger(
        project_id=PROJECT_ID,
        key_id=None,
        bundles={
            f"b{number}": changed(
                full_bundle(), members={f"m{each}": full_bundle().first for each in range(MOST_MEMBERS)}
            )
            for number in range(BUNDLES_OVER_KEPT + 10)
        },
    ),
]


@pytest.mark.parametrize("entity", ITEMS, ids=lambda entity: type(entity).__name__)
def test_the_largest_item_of_each_kind_fits_into_the_table(entity: Entity) -> None:
    assert item_weight(entity) < ITEM * 0.8


def test_a_key_that_kept_all_reasons_would_not_fit() -> None:
    """What the bound is for: a key that cannot be written is not watched any more."""
    once = largest_key()
    many = changed(once, rebaselines=once.rebaselines * 2)

    assert item_weight(many) > ITEM


def test_the_names_of_the_examples_are_the_longest_that_the_api_takes() -> None:
    body = {
        "cluster_id": AFFECTED[0].cluster_id,
        "name": widest(CreateProject, "name"),
        "kind": "other",
        "region": "us-west-2",
        "key_id": f"us-west-2.{KMS_KEY}",
    }
    RegisterCluster.model_validate(body)
    CreateProject.model_validate({"project_id": PROJECT_ID, "name": body["name"]})
    for longer in ({"cluster_id": f"{body['cluster_id']}c"}, {"name": f"{body['name']}c"}):
        with pytest.raises(ValueError, match="String should"):
            RegisterCluster.model_validate(body | longer)
    with pytest.raises(ValueError, match="String should"):
        CreateProject.model_validate({"project_id": f"{PROJECT_ID}p", "name": "x"})


# --- alerts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", [Cause.ACCESS_DENIED, Cause.KEY_MATERIAL_MISSING, Cause.SECRET_UNREADABLE])
@pytest.mark.parametrize("kind", sorted(INCIDENT_ALERTS))
def test_an_alert_about_two_hundred_clusters_fits_into_a_message_and_an_event(kind: AlertType, cause: Cause) -> None:
    alert, wire = largest_alert(kind, cause), Wire()
    notifier = messaging.AwsNotifier("bus")
    notifier.__dict__.update(_sns=wire, _events=wire)

    notifier.publish("arn:aws:sns:us-west-2:111111111111:topic", alert)
    notifier.put_alert(alert)

    published, put = wire.sent
    assert all(each.cluster_id in published["Message"] for each in AFFECTED), "none of them is left out"
    # Both forms of the message and its attributes count together. Reasons of failures, twenty of the longest, take up
    # half of the room, and a quarter is left for what is added later.
    assert weight(published) < MESSAGE * 0.75
    assert weight(put) < MESSAGE / 2
    assert len(published["Subject"]) <= 100
    assert published["Subject"].isascii()
    assert len(mail(alert).encode()) < MESSAGE / 4


def largest_of_several() -> Alert:
    """Twenty keys with the longest commands, 200 clusters under each."""
    keys = [
        changed(largest_key(cause), key_id=f"{REGION}.{number:02}")
        for number, cause in enumerate([Cause.ROLE_NOT_ASSUMABLE] * MOST_MEMBERS)
    ]
    members = {
        each.key_id: Member(
            dedup_key=each.key_id,
            key_id=each.key_id,
            key=AlertKey(arn=KEY_ARN, region=REGION, account_id=CUSTOMER, alias=ALIAS_ARN),
            incident_id="01" + "J" * 24,
            type=AlertType.KEY_UNHEALTHY,
            severity=Severity.CRITICAL,
            clusters=MAX_CLUSTERS_PER_KEY,
        )
        for each in keys
    }
    bundle = Bundle(
        dedup_key=keys[0].key_id, cause="ROLE_NOT_ASSUMABLE", began_at=NOW, told_at=NOW, sequence=7, members=members
    )
    return told_again(
        bundle, keys, AFFECTED, None, alert_id="01" + "J" * 24, sequence=8, project_id=PROJECT_ID, now=NOW
    )


def as_sns_counts(published: dict[str, Any]) -> int:
    """Bytes in UTF-8 of the message, which holds both forms, its subject and its attributes."""
    attributes = published["MessageAttributes"].items()
    texts = [name + each["DataType"] + each["StringValue"] for name, each in attributes]
    return sum(len(each.encode()) for each in (published["Message"], published["Subject"], *texts))


def test_the_largest_message_is_as_large_as_the_page_says() -> None:
    limits = (ROOT / "docs" / "limits.md").read_text()
    said = re.search(r"\| an SNS message with its attributes \| 256 KB \| (\d+) KB, no cluster left out", limits)
    assert said is not None
    wire = Wire()
    notifier = messaging.AwsNotifier("bus")
    notifier.__dict__.update(_sns=wire)
    for kind in sorted(INCIDENT_ALERTS):
        for cause in Cause:
            notifier.publish("arn:aws:sns:us-west-2:111111111111:topic", largest_alert(kind, cause))

    assert all(AFFECTED[-1].cluster_id in each["Message"] for each in wire.sent)
    of_one = max(map(as_sns_counts, wire.sent))
    notifier.publish("arn:aws:sns:us-west-2:111111111111:topic", largest_of_several())
    assert as_sns_counts(wire.sent[-1]) < MESSAGE * 0.75
    of_several = re.search(r"one of 20 keys (\d+) KB", limits)
    assert of_several is not None
    assert math.ceil(as_sns_counts(wire.sent[-1]) / KB) == int(of_several[1])
    assert math.ceil(of_one / KB) == int(said[1])


# --- workflows --------------------------------------------------------------------------------------------------


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    return Use(monkeypatch)


def definition(name: str) -> dict[str, Any]:
    machine: dict[str, Any] = json.loads((Path(ROOT) / "statemachines" / f"{name}.asl.json").read_text())
    return machine


def evaluated(template: Any, result: Any) -> Any:
    """What Step Functions makes of an Output: every `{% … %}` in it is evaluated."""
    if isinstance(template, dict):
        return {name: evaluated(value, result) for name, value in template.items()}
    if isinstance(template, str) and template.startswith("{%"):
        expression = jsonata.Jsonata(template[2:-2].strip())
        expression.assign("states", {"result": result})
        return expression.evaluate(None)
    return template


@pytest.mark.parametrize(
    ("machine", "mapping", "task"),
    [("cluster_lockout", "LockClusters", "LockCluster"), ("cluster_recovery", "UnlockClusters", "UnlockCluster")],
)
def test_what_two_hundred_control_planes_answer_does_not_outgrow_the_workflows_state(
    machine: str, mapping: str, task: str
) -> None:
    """Each may say a thousand characters. The table keeps them; the Map, which gathers all answers, need not."""
    answer = {"result": "unlocked", "detail": widest(AnswerLock, "detail")}
    assert weight([answer] * MAX_CLUSTERS_PER_KEY) > STATE, "what a Map without an Output would gather"
    state = definition(machine)["States"][mapping]
    step = state["ItemProcessor"]["States"][task]

    gathered = [evaluated(step["Output"], answer)] * MAX_CLUSTERS_PER_KEY

    assert gathered[0] == {"result": "unlocked"}
    assert weight(gathered) < STATE / 10
    assert weight(answer) < STATE, "one answer, as SendTaskSuccess takes it"


@pytest.mark.parametrize(
    ("function", "answer"),
    [
        ("decide_lockout", LockoutVerb.LOCK),
        ("decide_recovery", RecoveryVerb.UNLOCK),
        ("settle_lockout", None),
        ("settle_recovery", None),
    ],
)
def test_what_the_steps_answer_about_two_hundred_clusters_fits_into_the_workflows_state(
    function: str, answer: Any, use: Use
) -> None:
    class Plan:
        decision = type("Decided", (), {"verb": answer, "reason": "x" * 1000, "held_for": None})()
        cluster_ids = tuple(each.cluster_id for each in AFFECTED)
        status = IncidentStatus.PARTLY_LOCKED
        failed = cluster_ids
        locked_after = None

    use(**{function: Recorder(Plan())})
    event = {"project_id": PROJECT_ID, "key_id": "k", "incident_id": "i"}

    told = load(function).handler(event, Context())

    assert AFFECTED[-1].cluster_id in json.dumps(told)
    assert weight(told) < STATE / 10


def attempts(state: dict[str, Any]) -> int:
    return 1 + sum(int(each["MaxAttempts"]) for each in state.get("Retry", []))


@pytest.mark.parametrize(("machine", "most_probes"), [("cluster_lockout", 40), ("cluster_recovery", 40)])
def test_the_history_of_a_workflow_with_two_hundred_clusters_fits_although_every_step_is_tried_again(
    machine: str, most_probes: int
) -> None:
    """An attempt writes at most four events (scheduled, started, submitted, ended), a state two more."""
    states = definition(machine)["States"]
    assert f">= {most_probes}" in json.dumps(states), "how often it probes"
    events = 0
    for state in states.values():
        # Probing loops, and what it decides from may be asked each time.
        times = most_probes if state["Type"] != "Map" else 1
        events += times * (2 + 4 * attempts(state) * (state["Type"] == "Task"))
        if state["Type"] == "Map":
            steps = state["ItemProcessor"]["States"].values()
            each = 2 + sum(2 + 4 * attempts(step) * (step["Type"] == "Task") for step in steps)
            events += MAX_CLUSTERS_PER_KEY * each
    assert events < HISTORY


# --- transactions -----------------------------------------------------------------------------------------------


def test_no_step_of_an_outage_of_two_hundred_clusters_writes_more_than_a_transaction_takes() -> None:
    world = World()
    names = [each.cluster_id for each in AFFECTED]
    world.store.items = {place: each for place, each in world.store.items.items() if not isinstance(each, Cluster)}
    world.store.put(
        key(health=BROKEN, verdict=worst_verdict(Cause.KEY_DISABLED), open_incident_id=INCIDENT, clusters=200),
        *(cluster(cluster_id=name, lock=LockSettings(via=LockVia.EVENT)) for name in names),
    )
    ids = ("acme-prod", key().key_id, INCIDENT)

    assert len(world.decide(*ids).cluster_ids) == MAX_CLUSTERS_PER_KEY
    for name in names:
        world.ask(LockAction.LOCK, name, f"lock-{name}")
    for name in names[::2]:
        world.answer(LockResult.LOCKED, cluster_id=name)
    world.clock.advance(3600)
    assert len(world.settle(*ids).failed) == MAX_CLUSTERS_PER_KEY / 2
    world.mend_key()
    assert len(world.decide_recovery(*ids).cluster_ids) == MAX_CLUSTERS_PER_KEY
    for name in names:
        world.ask(LockAction.UNLOCK, name, f"unlock-{name}")
    world.settle_recovery(*ids)
    for name in names:
        world.answer(LockResult.UNLOCKED, cluster_id=name)
    assert world.settle_recovery(*ids).status is IncidentStatus.RESOLVED

    assert len(world.store.commits) > 4 * MAX_CLUSTERS_PER_KEY
    assert max(len(writes) for writes in world.store.commits) <= TRANSACTION / 10
    details = [each.detail for each in world.store.all(TimelineEntry)]
    assert max(len(detail) for detail in details) < 2000, "a sentence names some of them and counts the rest"


def test_a_sentence_names_some_and_counts_the_rest() -> None:
    names = [f"c{number}" for number in range(NAMES_SHOWN + 3)]

    assert listed(names[:2]) == "c0, c1"
    assert listed(names[:NAMES_SHOWN]).endswith(f"c{NAMES_SHOWN - 1}")
    assert listed(names).endswith(f"c{NAMES_SHOWN - 1} and 3 more")


# --- answers of the API -----------------------------------------------------------------------------------------


def answered(view: Any) -> int:
    """Bytes of what the function answers: the body is JSON, and quoted once more inside the answer's own JSON."""
    body = json.dumps(view, separators=(",", ":"))
    return weight({"statusCode": 200, "headers": {}, "body": body, "isBase64Encoded": False})


def arn_of(name: str) -> str:
    return f"arn:aws:states:{REGION}:111111111111:execution:{'s' * 80}-cluster-recovery:{name}"


def test_an_incident_with_the_longest_timeline_that_it_shows_fits_into_an_answer() -> None:
    entries = [largest_entry()] * (TIMELINE_SHOWN + 1)

    shown = views.incident(largest_incident(), entries, arn_of)

    assert (len(shown["timeline"]), shown["timeline_truncated"]) == (TIMELINE_SHOWN, True)
    assert answered(shown) < ANSWER * 0.8


VIEWS: list[tuple[Entity, Callable[[Any], dict[str, Any]]]] = [
    (largest_key(), lambda shown: views.key(shown, interval_minutes=10, now=NOW)),
    (key(), lambda shown: views.key(shown, interval_minutes=10, now=NOW)),
    (largest_cluster(), views.cluster),
    (cluster(), views.cluster),
    (largest_incident(), lambda shown: views.incident(shown, None, arn_of)),
    (changed(largest_incident(), clusters=()), lambda shown: views.incident(shown, None, arn_of)),
    (incident(clusters=AFFECTED), lambda shown: views.incident(shown, None, arn_of)),
    (largest_entry(), lambda shown: views.timeline_entry(shown, NOW)),
]


@pytest.mark.parametrize(("entity", "view"), VIEWS)
def test_a_page_that_ends_at_its_bytes_fits_into_an_answer(
    entity: Entity, view: Callable[[Any], dict[str, Any]]
) -> None:
    """A page holds at most its bytes and one item more; what is shown of them is longer by what quoting adds."""
    stored = len(json.dumps(to_plain(changed(entity, version=0)), separators=(",", ":")))
    on_a_page = PAGE_BYTES // stored + 1

    assert on_a_page * answered(view(entity)) < ANSWER * 0.8


def test_the_page_is_read_as_it_is_measured_here() -> None:
    assert dynamodb_store.PAGE_BYTES == KB * KB


def test_a_wide_answer_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.decide("acme-prod", key().key_id, INCIDENT)
    world.ask(LockAction.LOCK)
    detail = widest(AnswerLock, "detail")
    fence = world.cluster().fence
    world.record(
        LockAnswer(
            project_id="acme-prod",
            cluster_id="vectors",
            fence=fence,
            result=LockResult.LOCKED,
            detail=detail,
            by="its control plane",
        )
    )

    assert world.cluster().detail == detail
    assert world.store.timeline(INCIDENT)[-1].detail.endswith(detail)
