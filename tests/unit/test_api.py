"""The HTTP edge: every route as the contract has it, field by field, and every way to ask wrongly."""

import base64
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from keyvigil import wiring
from keyvigil.api import app as api_app
from keyvigil.domain.alerts import AlertStatus, AlertType, OutboxRow, lock_request
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.held import HeldFor
from keyvigil.domain.incidents import TIMELINE_SHOWN, AffectedCluster, IncidentStatus, TimelineEntry
from keyvigil.domain.keys import AliasTarget, Baseline, CloserLook, Health, KeyFacts, KeyStatus, Rotation
from keyvigil.domain.projects import MAX_SUBSCRIPTIONS_PER_PROJECT, Project, Protocol, Subscription
from keyvigil.domain.quiet import Ledger
from keyvigil.domain.silences import Silences
from keyvigil.domain.verdicts import Cause, Finding, Permission, PolicyKind, Refusal, Remediation
from keyvigil.errors import ConflictError, NewerItemError
from keyvigil.ports import (
    OperationAnswer,
    Put,
    RegistrationAnswer,
    RestoreAnswer,
    RoleAudit,
    SharedRole,
    SweepRecord,
    ValidationAnswer,
)
from keyvigil.settings import Settings
from keyvigil.use_cases.backups import Backups
from keyvigil.use_cases.braking import Braking
from keyvigil.use_cases.canaries import Canaries
from keyvigil.use_cases.decide_incident import DecideIncident
from keyvigil.use_cases.outbox_aside import OutboxAside
from keyvigil.use_cases.read_fleet import ReadFleet
from keyvigil.use_cases.record_lock_result import RecordLockResult
from keyvigil.use_cases.registry import IN_THE_WAY_SHOWN, Clusters, Keys, Projects, Subscriptions
from keyvigil.use_cases.settle_lockout import SettleLockout
from keyvigil.use_cases.silencing import Silencing
from tests.examples import (
    CUSTOMER,
    KEY_ARN,
    KEY_ID,
    KMS_KEY,
    MONITOR_ROLE_ARN,
    NOW,
    ROLE_ARN,
    SECRET_ARN,
    backup,
    canary,
    cluster,
    full_problem,
    full_silence,
    incident,
    key,
    project,
    verdict,
)
from tests.fakes import CountingIds, FakeChecker, FakeClock, FakeTopics, FakeWorkflow, MemoryStore, changed

TASK_TOKEN = "AAAAKgAAAAIAAAAAAAAAAQ-task-token"
CIPHERTEXT = b"the registration ciphertext"
QUEUE_ARN = "arn:aws:sqs:us-west-2:222222222222:alerts"
JSON_HEADERS = {"content-type": "application/json"}
NOT_MENTIONED = (
    "task_token",
    '"ciphertext"',
    "checksum",
    TASK_TOKEN,
    CIPHERTEXT.decode(),
    base64.b64encode(CIPHERTEXT).decode(),
)
"""What no answer may contain: a task token answers for a control plane, the ciphertext is KeyVigil's own."""

PROJECT_FIELDS = {
    "project_id",
    "name",
    "enforcement",
    "approval",
    "check_interval_minutes",
    "grace_minutes",
    "probe_plan",
    "external_id",
    "alert_topic_arn",
    "chat",
    "chat_topic_arn",
    "created_at",
    "keys",
    "clusters",
    "open_incidents",
}
KEY_FIELDS = {
    "key_id",
    "key_arn",
    "alias_arn",
    "region",
    "account_id",
    "role_arn",
    "use",
    "operations",
    "multi_region",
    "replica_regions",
    "status",
    "unknown_since",
    "stale",
    "verdict",
    "last_probed_at",
    "last_trigger",
    "deletion_date",
    "material_expires_at",
    "rotation_enabled",
    "open_incident_id",
    "clusters",
    "created_at",
    "probe_secret_arn",  # of a `kes` key, else null
    "rebaselines",  # not in the contract, like the rest
    "backups",
    "next_rotation_at",
    "alias_target_arn",
}
VERDICT_FIELDS = {
    "outcome",
    "cause",
    "operation",
    "aws_error_code",
    "message",
    "remediation",
    "latency_ms",
    "probed_at",
    "findings",  # not in the contract, which lets us add
    "permission",  # nor this
}
CLUSTER_FIELDS = {
    "cluster_id",
    "name",
    "kind",
    "region",
    "key_id",
    "lock",
    "status",
    "fence",
    "locked_by_incident_id",
    "status_changed_at",
    "project_id",  # not in the contract, like the rest
    "created_at",
    "respond_by",
    "detail",
}
BACKUP_FIELDS = {
    "backup_id",
    "cluster_id",
    "key_id",
    "region",
    "project_id",  # not in the contract, like the rest
    "created_at",
}
RESTORE_FIELDS = {"restorable", "with_key_id", "reason", "remediation"}
LISTED_INCIDENT_FIELDS = {
    "incident_id",
    "project_id",
    "key_id",
    "status",
    "held_for",
    "cause",
    "actor",
    "opened_at",
    "confirmed_at",
    "locked_at",
    "recovered_at",
    "resolved_at",
    "execution_arns",
    "clusters",
    "decision",  # not in the contract's example
}
INCIDENT_FIELDS = LISTED_INCIDENT_FIELDS | {"timeline", "timeline_truncated"}  # the latter is not in the contract
SUBSCRIPTION_FIELDS = {
    "protocol",
    "endpoint",
    "min_severity",
    "types",
    "subscription_id",
    "status",
    "project_id",  # not in the contract
    "created_at",  # not in the contract
}
FLEET_FIELDS = {
    "keys",
    "unknown",
    "stale_keys",
    "clusters",
    "open_incidents",
    "brake",
    "canaries",
    "last_sweep",
    "role_audit",
}
CANARY_FIELDS = {
    "canary_id",
    "key_arn",
    "role_arn",
    "external_id",
    "region",
    "account_id",
    "outcome",
    "vouches",
    "verdict",
    "probed_at",
    "created_at",
}
ASIDE_FIELDS = {"row_id", "set_aside_at", "reason", "project_id", "carries", "created_at"}
PAGE_FIELDS = {"items", "next_token"}

SILENCE_FIELDS = {
    "silence_id",
    "project_id",
    "types",
    "key_id",
    "until",
    "reason",
    "created_by",
    "created_at",
}
STANDING_FIELDS = {
    "dedup_key",
    "type",
    "severity",
    "key_id",
    "incident_id",
    "since",
    "told_at",
    "reminders",
    "withheld",
}

NEW_PROJECT = {"project_id": "new-one", "name": "New one"}
NEW_KEY = {"key_arn": KEY_ARN, "role_arn": ROLE_ARN, "use": "cmek"}
NEW_CLUSTER = {
    "cluster_id": "in01-3f5a",
    "name": "vectors-prod",
    "kind": "zilliz-byoc",
    "region": "us-west-2",
    "key_id": KEY_ID,
    "lock": {"via": "event", "timeout_seconds": 300},
}
NEW_BACKUP = {"backup_id": "2026-11-22", "cluster_id": "vectors-prod", "key_id": KEY_ID, "region": "us-west-2"}
NEW_SUBSCRIPTION = {
    "protocol": "sqs",
    "endpoint": QUEUE_ARN,
    "min_severity": "info",
    "types": ["key.*", "cluster.locked"],
}
NEW_SILENCE = {
    "types": ["key.rotation_disabled", "cluster.*"],
    "key_id": KEY_ID,
    "until": "2026-12-24T18:00:00+01:00",
    "reason": "We rotate by hand.",
}
CANARY_KEY_ARN = f"arn:aws:kms:eu-west-1:333333333333:key/{KMS_KEY}"
NEW_CANARY = {"key_arn": CANARY_KEY_ARN, "role_arn": "arn:aws:iam::333333333333:role/keyvigil-canary"}
OTHER_CANARY = "eu-central-1.9999abcd-12ab-34cd-56ef-1234567890ab"


@dataclass(frozen=True)
class Reply:
    """An answer of the API."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def event(
    method: str,
    path: str,
    body: str | None = None,
    *,
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    base64_encoded: bool = False,
) -> dict[str, Any]:
    """An event of HTTP API payload version 2.0, with the AWS_IAM authorizer's context."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "&".join(f"{name}={value}" for name, value in (query or {}).items()),
        "headers": JSON_HEADERS if headers is None else headers,
        "queryStringParameters": query,
        "requestContext": {
            "accountId": "111111111111",
            "apiId": "api1234567",
            "authorizer": {
                "iam": {
                    "accessKey": "ASIACALLER0000000001",
                    "accountId": CUSTOMER,
                    "callerId": "AROACALLER:session",
                    "cognitoIdentity": None,
                    "principalOrgId": None,
                    "userArn": f"arn:aws:sts::{CUSTOMER}:assumed-role/tenant/session",
                    "userId": "AROACALLER:session",
                }
            },
            "domainName": "api1234567.execute-api.us-west-2.amazonaws.com",
            "domainPrefix": "api1234567",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "test",
            },
            "requestId": "request-1",
            "routeKey": "$default",
            "stage": "$default",
            "time": "22/Nov/2026:03:00:00 +0000",
            "timeEpoch": 1795316400000,
        },
        "body": body,
        "isBase64Encoded": base64_encoded,
    }


class Api:
    """The API over ports in memory, with one project, key, cluster, incident and subscription in it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.store = MemoryStore()
        self.clock = FakeClock()
        self.topics = FakeTopics()
        self.checker = FakeChecker()
        self.workflow = FakeWorkflow()
        self.ids = CountingIds()
        wired = {
            "settings": Settings({"KEYVIGIL_CHECK_INTERVAL_MINUTES": "7"}, "us-west-2"),
            "store": self.store,
            "clock": self.clock,
            "workflow": self.workflow,
            "projects": Projects(self.store, self.topics, self.clock, self.ids),
            "keys": Keys(
                self.store, self.checker, self.clock, own_account="111111111111", monitor_role_arn=MONITOR_ROLE_ARN
            ),
            "clusters": Clusters(self.store, self.clock),
            "backups": Backups(self.store, self.checker, self.clock),
            "subscriptions": Subscriptions(self.store, self.topics, self.clock, self.ids),
            "record_lock_result": RecordLockResult(
                self.store, self.workflow, SettleLockout(self.store, self.clock, self.ids), self.clock, self.ids
            ),
            "decide_incident": DecideIncident(self.store, self.clock, self.ids),
            "read_fleet": ReadFleet(self.store, self.clock),
            "silencing": Silencing(self.store, self.clock, self.ids),
            "outbox_aside": OutboxAside(self.store, self.clock),
            "braking": Braking(self.store, self.clock, self.ids),
            "canaries": Canaries(
                self.store,
                self.checker,
                self.clock,
                self.ids,
                external_id="keyvigil-canary-1",
                monitor_role_arn=MONITOR_ROLE_ARN,
            ),
        }
        for name, value in wired.items():
            patch.setattr(wiring, name, lambda value=value: value)
        self.checker.answer = RegistrationAnswer(
            verdict=verdict(),
            role_checks_external_id=True,
            key_arn=KEY_ARN,
            baseline=Baseline.of(CIPHERTEXT, {"tested-by": "KeyVigil"}, NOW),
            facts=KeyFacts(),
        )
        self.checker.validation = ValidationAnswer(
            verdict=verdict(),
            role_checks_external_id=True,
            operations=(OperationAnswer(operation="DescribeKey", allowed=True, error=None),),
        )
        self.checker.restore = RestoreAnswer(verdict=verdict())

    def fill(self) -> None:
        self.store.put(
            project(),
            key(baseline=Baseline.of(CIPHERTEXT, {"tested-by": "KeyVigil"}, NOW), clusters=1, backups={"us-west-2": 1}),
            backup(),
            cluster(
                status=ClusterStatus.LOCKING,
                fence=1795369305484,
                task_token=TASK_TOKEN,
                locked_by_incident_id="01JINCIDENT",
            ),
            incident(
                status=IncidentStatus.LOCKING,
                executions=("01JINCIDENT-lock-1",),
                clusters=(AffectedCluster(cluster_id="vectors-prod", status=ClusterStatus.ACTIVE),),
            ),
            TimelineEntry(incident_id="01JINCIDENT", entry_id="2", at=NOW, what="key.unhealthy", detail="then"),
            TimelineEntry(incident_id="01JINCIDENT", entry_id="1", at=NOW, what="key.suspect", detail="first"),
            Subscription(
                project_id="acme-prod",
                subscription_id="01JSUBSCRIPTION",
                protocol=Protocol.SQS,
                endpoint=QUEUE_ARN,
                min_severity="info",
                types=("key.*",),
                subscription_arn="arn:aws:sns:us-west-2:111111111111:topic:subscription",
                status="confirmed",
                created_at=NOW,
            ),
            canary(baseline=Baseline.of(CIPHERTEXT, {"tested-by": "KeyVigil"}, NOW)),
            canary(canary_id=OTHER_CANARY, region="eu-central-1"),
        )
        self.store.record_sweep(SweepRecord(NOW, 4, 4))
        self.store.put(
            Silences(project_id="acme-prod", silences=(full_silence(),)),
            Ledger(project_id="acme-prod", key_id=KEY_ID, problems={"k": changed(full_problem(), over_at=None)}),
        )
        asked = lock_request(cluster(status=ClusterStatus.LOCKING, locked_by_incident_id="01J", respond_by=NOW))
        self.store.put(OutboxRow(row_id="01JASIDE", project_id="acme-prod", created_at=NOW, lock_request=asked))
        self.store.set_aside("01JASIDE", "it will never be taken", NOW)

    def ask(self, method: str, path: str, body: Any = None, **request: Any) -> Reply:
        """Ask with a JSON body."""
        return self.send(method, path, None if body is None else json.dumps(body), **request)

    def send(self, method: str, path: str, body: str | None, **request: Any) -> Reply:
        """Ask with a body as it is. No answer at all may contain what is not to be shown."""
        answer = api_app.handle(event(method, path, body, **request), object())
        text = str(answer["body"] or "")
        for secret in NOT_MENTIONED:
            assert secret not in text
        reply = Reply(int(answer["statusCode"]), dict(answer["headers"]), text)
        if reply.status >= 400:
            assert_problem(reply)
        return reply


def assert_problem(reply: Reply) -> None:
    """RFC 9457, whatever went wrong."""
    assert reply.headers["Content-Type"] == "application/problem+json"
    document = reply.json
    assert {"type", "title", "status", "detail"} <= document.keys()
    assert document["status"] == reply.status
    assert document["title"]
    assert document["detail"].endswith((".", '"}'))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    api = Api(monkeypatch)
    api.fill()
    return api


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> Api:
    api = Api(monkeypatch)
    api.store.put(project(keys=0))
    return api


# --- every route, once, happily ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """One route: what is asked of which, and the status and fields of the answer."""

    method: str
    template: str
    path: str
    status: int
    fields: set[str] | None
    body: Any = None
    item_fields: set[str] | None = None


P = "/projects/acme-prod"
T = "/projects/<project_id>"
OTHER_KEY = KMS_KEY.replace("1234abcd", "5678abcd")
ROUTES = [
    Route("POST", "/projects", "/projects", 201, PROJECT_FIELDS, NEW_PROJECT),
    Route("GET", "/projects", "/projects", 200, PAGE_FIELDS, item_fields=PROJECT_FIELDS),
    Route("GET", T, P, 200, PROJECT_FIELDS),
    Route("PATCH", T, P, 200, PROJECT_FIELDS, {"enforcement": "observe"}),
    Route("DELETE", T, "/projects/empty-one", 204, None),
    Route("POST", f"{T}/keys", f"{P}/keys", 201, KEY_FIELDS, NEW_KEY),
    Route("GET", f"{T}/keys", f"{P}/keys", 200, PAGE_FIELDS, item_fields=KEY_FIELDS),
    Route("GET", f"{T}/keys/<key_id>", f"{P}/keys/{KEY_ID}", 200, KEY_FIELDS),
    Route("POST", f"{T}/keys/<key_id>/check", f"{P}/keys/{KEY_ID}/check", 200, KEY_FIELDS),
    Route("PATCH", f"{T}/keys/<key_id>", f"{P}/keys/{KEY_ID}", 200, KEY_FIELDS, {"use": "cse"}),
    Route(
        "POST",
        f"{T}/keys/<key_id>/rebaseline",
        f"{P}/keys/{KEY_ID}/rebaseline",
        200,
        KEY_FIELDS,
        {"reason": "The stored ciphertext was damaged."},
    ),
    Route("POST", f"{T}/key-validations", f"{P}/key-validations", 200, {"verdict", "operations"}, NEW_KEY),
    Route("DELETE", f"{T}/keys/<key_id>", f"{P}/keys/us-west-2.{OTHER_KEY}", 204, None),
    Route("POST", f"{T}/clusters", f"{P}/clusters", 201, CLUSTER_FIELDS, NEW_CLUSTER),
    Route("GET", f"{T}/clusters", f"{P}/clusters", 200, PAGE_FIELDS, item_fields=CLUSTER_FIELDS),
    Route("GET", f"{T}/clusters/<cluster_id>", f"{P}/clusters/vectors-prod", 200, CLUSTER_FIELDS),
    Route("PATCH", f"{T}/clusters/<cluster_id>", f"{P}/clusters/vectors-prod", 200, CLUSTER_FIELDS, {"name": "New"}),
    Route("DELETE", f"{T}/clusters/<cluster_id>", f"{P}/clusters/idle", 204, None),
    Route(
        "POST",
        f"{T}/clusters/<cluster_id>/lock-result",
        f"{P}/clusters/vectors-prod/lock-result",
        200,
        CLUSTER_FIELDS,
        {"fence": 1795369305484, "result": "locked", "detail": "done"},
    ),
    Route("POST", f"{T}/backups", f"{P}/backups", 201, BACKUP_FIELDS, NEW_BACKUP),
    Route("GET", f"{T}/backups", f"{P}/backups", 200, PAGE_FIELDS, item_fields=BACKUP_FIELDS),
    Route("DELETE", f"{T}/backups/<backup_id>", f"{P}/backups/old", 204, None),
    Route(
        "POST",
        f"{T}/backups/<backup_id>/restore-check",
        f"{P}/backups/old/restore-check",
        200,
        RESTORE_FIELDS,
        {"region": "us-west-2"},
    ),
    Route("GET", f"{T}/incidents", f"{P}/incidents", 200, PAGE_FIELDS, item_fields=LISTED_INCIDENT_FIELDS),
    Route("GET", f"{T}/incidents/<incident_id>", f"{P}/incidents/01JINCIDENT", 200, INCIDENT_FIELDS),
    Route(
        "GET",
        f"{T}/incidents/<incident_id>/timeline",
        f"{P}/incidents/01JINCIDENT/timeline",
        200,
        PAGE_FIELDS,
        item_fields={"at", "seconds", "what", "detail"},
    ),
    Route(
        "POST",
        f"{T}/incidents/<incident_id>/decision",
        f"{P}/incidents/01JINCIDENT/decision",
        200,
        INCIDENT_FIELDS,
        {"decision": "approve", "reason": "It is a real outage."},
    ),
    Route(
        "POST",
        f"{T}/subscriptions",
        f"{P}/subscriptions",
        201,
        SUBSCRIPTION_FIELDS,
        {**NEW_SUBSCRIPTION, "endpoint": f"{QUEUE_ARN}-too"},
    ),
    Route("GET", f"{T}/subscriptions", f"{P}/subscriptions", 200, PAGE_FIELDS, item_fields=SUBSCRIPTION_FIELDS),
    Route("DELETE", f"{T}/subscriptions/<subscription_id>", f"{P}/subscriptions/01JSUBSCRIPTION", 204, None),
    Route(
        "POST",
        f"{T}/subscriptions/<subscription_id>/test",
        f"{P}/subscriptions/01JSUBSCRIPTION/test",
        200,
        SUBSCRIPTION_FIELDS | {"alert_id"},
    ),
    Route("POST", f"{T}/silences", f"{P}/silences", 201, SILENCE_FIELDS, NEW_SILENCE),
    Route("GET", f"{T}/silences", f"{P}/silences", 200, PAGE_FIELDS, item_fields=SILENCE_FIELDS),
    Route("DELETE", f"{T}/silences/<silence_id>", f"{P}/silences/01JSILENCE", 204, None),
    Route("GET", f"{T}/alerts", f"{P}/alerts", 200, PAGE_FIELDS, item_fields=STANDING_FIELDS),
    Route("GET", "/fleet", "/fleet", 200, FLEET_FIELDS),
    Route(
        "GET",
        "/fleet/canaries",
        "/fleet/canaries",
        200,
        PAGE_FIELDS | {"external_id"},
        item_fields=CANARY_FIELDS,
    ),
    Route(
        "POST", "/fleet/brake", "/fleet/brake", 200, {"brake"}, {"action": "engage", "reason": "We move the network."}
    ),
    Route("GET", "/fleet/outbox", "/fleet/outbox", 200, PAGE_FIELDS, item_fields=ASIDE_FIELDS),
    Route("POST", "/fleet/outbox/<row_id>/resend", "/fleet/outbox/01JASIDE/resend", 200, {"row_id"}),
    Route("POST", "/fleet/canaries", "/fleet/canaries", 201, CANARY_FIELDS, NEW_CANARY),
    Route("DELETE", "/fleet/canaries/<canary_id>", f"/fleet/canaries/{OTHER_CANARY}", 204, None),
]


def test_the_table_of_routes_holds_every_route_that_the_api_has() -> None:
    resolver = api_app.app
    served = {(str(route.method), str(route.path)) for route in (*resolver._static_routes, *resolver._dynamic_routes)}

    assert {(route.method, route.template) for route in ROUTES} == served


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.template}")
def test_a_route_answers_with_its_status_and_exactly_its_fields(api: Api, route: Route) -> None:
    api.store.put(project(project_id="empty-one", keys=0))
    other = f"us-west-2.{OTHER_KEY}"
    if route.method == "POST" and route.template.endswith("/keys"):
        api.checker.answer = changed(api.checker.answer, key_arn=KEY_ARN.replace(KMS_KEY, OTHER_KEY))
        route = changed(route, body={**NEW_KEY, "key_arn": KEY_ARN.replace(KMS_KEY, OTHER_KEY)})
    else:
        api.store.put(key(key_id=other), cluster(cluster_id="idle", key_id=other))

    reply = api.ask(route.method, route.path, route.body)

    assert reply.status == route.status
    if route.fields is None:
        assert reply.text == ""
        return
    assert reply.headers["Content-Type"] == "application/json"
    assert set(reply.json) == route.fields
    if route.item_fields is not None:
        assert reply.json["items"]
        for item in reply.json["items"]:
            assert set(item) == route.item_fields
        assert reply.json["next_token"] is None


# --- what the answers say ---------------------------------------------------------------------------------------


def test_a_row_that_was_set_aside_is_shown_and_sent_again_once(api: Api) -> None:
    [shown] = api.ask("GET", "/fleet/outbox").json["items"]
    assert shown == {
        "row_id": "01JASIDE",
        "set_aside_at": "2026-11-22T03:00:00.000Z",
        "reason": "it will never be taken",
        "project_id": "acme-prod",
        "carries": "Cluster Lock Requested",
        "created_at": "2026-11-22T03:00:00.000Z",
    }
    assert api.ask("POST", "/fleet/outbox/01JASIDE/resend").status == 200
    assert api.ask("GET", "/fleet/outbox").json["items"] == []
    assert api.store.unsent_rows(NOW) == ["01JASIDE"]
    assert api.ask("POST", "/fleet/outbox/01JASIDE/resend").status == 404


def test_a_project_is_made_with_the_contracts_defaults_and_the_stacks_interval(empty: Api) -> None:
    made = empty.ask("POST", "/projects", NEW_PROJECT).json

    assert made == {
        "project_id": "new-one",
        "name": "New one",
        "enforcement": "observe",
        "approval": "automatic",
        "check_interval_minutes": 7,
        "grace_minutes": 0,
        "probe_plan": "full",
        "external_id": made["external_id"],
        "alert_topic_arn": "arn:aws:sns:us-west-2:111111111111:keyvigil-project-new-one",
        "chat": False,
        "chat_topic_arn": None,
        "created_at": "2026-11-22T03:00:00.000Z",
        "keys": 0,
        "clusters": 0,
        "open_incidents": 0,
    }
    assert empty.ask("GET", "/projects/new-one").json == made


def test_a_project_is_made_as_it_is_asked_for(empty: Api) -> None:
    wanted = {
        **NEW_PROJECT,
        "enforcement": "enforce",
        "approval": "manual",
        "check_interval_minutes": 60,
        "grace_minutes": 1440,
        "probe_plan": "full",
        "chat": True,
    }

    made = empty.ask("POST", "/projects", wanted).json

    assert {name: made[name] for name in wanted} == wanted


def test_a_project_shows_its_counts_without_tombstones_and_incidents_that_are_over(api: Api) -> None:
    over = incident(incident_id="01JOVER", status=IncidentStatus.RESOLVED, resolved_at=NOW)
    api.store.put(cluster(cluster_id="gone", deleted_at=NOW), over)

    shown = api.ask("GET", P).json

    assert (shown["keys"], shown["clusters"], shown["open_incidents"]) == (1, 1, 1)


def test_a_change_of_a_project_changes_what_it_names_and_nothing_else(api: Api) -> None:
    before = api.ask("GET", P).json

    after = api.ask("PATCH", P, {"grace_minutes": 30}).json

    assert after == {**before, "grace_minutes": 30}
    assert api.ask("GET", P).json == after


def test_a_registered_key_is_shown_as_in_the_contract(empty: Api) -> None:
    reply = empty.ask("POST", f"{P}/keys", NEW_KEY)

    assert reply.status == 201
    shown = reply.json
    assert set(shown.pop("verdict")) == VERDICT_FIELDS
    assert shown == {
        "key_id": KEY_ID,
        "key_arn": KEY_ARN,
        "alias_arn": None,
        "region": "us-west-2",
        "account_id": CUSTOMER,
        "role_arn": ROLE_ARN,
        "use": "cmek",
        "operations": ["DescribeKey", "Encrypt", "Decrypt"],
        "multi_region": False,
        "replica_regions": [],
        "status": "HEALTHY",
        "unknown_since": None,
        "stale": False,
        "last_probed_at": "2026-11-22T03:00:00.000Z",
        "last_trigger": "registration",
        "deletion_date": None,
        "material_expires_at": None,
        "rotation_enabled": None,
        "open_incident_id": None,
        "clusters": 0,
        "created_at": "2026-11-22T03:00:00.000Z",
        "rebaselines": [],
        "probe_secret_arn": None,
        "backups": 0,
        "next_rotation_at": None,
        "alias_target_arn": None,
    }


def test_a_verdict_is_shown_with_its_remediation(api: Api) -> None:
    api.store.put(key(verdict=verdict(Cause.KEY_DISABLED, aws_error_code="DisabledException")))

    shown = api.ask("GET", f"{P}/keys/{KEY_ID}").json["verdict"]

    assert (shown["outcome"], shown["cause"], shown["operation"]) == ("UNHEALTHY", "KEY_DISABLED", "Encrypt")
    assert shown["aws_error_code"] == "DisabledException"
    assert shown["remediation"] == {"summary": "Mend it.", "commands": ["aws kms enable-key"], "statement": None}
    assert (shown["latency_ms"], shown["probed_at"]) == (41, "2026-11-22T03:00:00.000Z")


def test_a_key_not_probed_for_three_of_its_intervals_is_shown_as_stale(api: Api) -> None:
    api.clock.advance(30 * 60)
    assert api.ask("GET", f"{P}/keys/{KEY_ID}").json["stale"] is False

    api.clock.advance(1)

    assert api.ask("GET", f"{P}/keys/{KEY_ID}").json["stale"] is True
    assert api.ask("GET", f"{P}/keys").json["items"][0]["stale"] is True
    assert api.ask("GET", "/fleet").json["stale_keys"] == 1


def test_keys_can_be_filtered_by_their_status(api: Api) -> None:
    api.store.put(key(key_id="us-west-2.sick", health=Health(status=KeyStatus.UNHEALTHY)))

    sick = api.ask("GET", f"{P}/keys", query={"status": "UNHEALTHY"}).json["items"]
    well = api.ask("GET", f"{P}/keys", query={"status": "HEALTHY"}).json["items"]

    assert [each["key_id"] for each in sick] == ["us-west-2.sick"]
    assert [each["key_id"] for each in well] == [KEY_ID]


def test_a_cluster_is_registered_with_the_contracts_fields(api: Api) -> None:
    shown = api.ask("POST", f"{P}/clusters", NEW_CLUSTER).json

    assert {name: shown[name] for name in NEW_CLUSTER} == NEW_CLUSTER
    assert (shown["status"], shown["fence"], shown["locked_by_incident_id"]) == ("ACTIVE", 0, None)


def test_a_cluster_without_lock_settings_is_locked_by_event_within_five_minutes(api: Api) -> None:
    wanted = {name: value for name, value in NEW_CLUSTER.items() if name != "lock"}

    shown = api.ask("POST", f"{P}/clusters", wanted).json

    assert shown["lock"] == {"via": "event", "timeout_seconds": 300}


def test_a_clusters_name_kind_and_lock_can_be_changed(api: Api) -> None:
    change = {"name": "Renamed", "kind": "other", "lock": {"via": "none", "timeout_seconds": 10}}
    api.store.put(cluster(fence=7))

    shown = api.ask("PATCH", f"{P}/clusters/vectors-prod", change).json

    assert {name: shown[name] for name in change} == change
    assert shown["status"] == "ACTIVE"
    assert shown["fence"] > 7


def test_who_locked_a_cluster_must_unlock_it_so_its_lock_cannot_be_changed_meanwhile(api: Api) -> None:
    answer = api.ask("PATCH", f"{P}/clusters/vectors-prod", {"lock": {"via": "none", "timeout_seconds": 10}})

    assert (answer.status, answer.json["title"]) == (409, "Cluster is locked")
    assert api.ask("PATCH", f"{P}/clusters/vectors-prod", {"name": "Renamed"}).status == 200


def test_an_incident_shows_its_timeline_in_order_and_its_clusters_as_they_stand_now(api: Api) -> None:
    shown = api.ask("GET", f"{P}/incidents/01JINCIDENT").json

    assert [entry["what"] for entry in shown["timeline"]] == ["key.suspect", "key.unhealthy"]
    assert set(shown["timeline"][0]) == {"at", "seconds", "what", "detail"}  # `seconds` is not in the contract
    assert shown["clusters"] == [{"cluster_id": "vectors-prod", "status": "LOCKING", "detail": None}]
    assert shown["execution_arns"] == [api.workflow.execution_arn("01JINCIDENT-lock-1")]


def test_an_incident_that_is_over_shows_its_clusters_as_they_were_then(api: Api) -> None:
    over = incident(
        status=IncidentStatus.RESOLVED,
        resolved_at=NOW,
        clusters=(AffectedCluster(cluster_id="vectors-prod", status=ClusterStatus.ACTIVE),),
    )
    api.store.put(over, cluster(status=ClusterStatus.LOCKED))

    shown = api.ask("GET", f"{P}/incidents/01JINCIDENT").json

    assert shown["clusters"] == [{"cluster_id": "vectors-prod", "status": "ACTIVE", "detail": None}]


def test_what_happened_in_an_earlier_project_of_the_same_id_is_nobodys_to_read(api: Api) -> None:
    """Incidents stay for 400 days, and whoever takes a project's id may be another tenant."""
    before, gone = NOW - timedelta(days=30), "01JEARLIER"
    api.store.put(
        incident(incident_id=gone, opened_at=before, status=IncidentStatus.RESOLVED, resolved_at=before),
        TimelineEntry(incident_id=gone, entry_id="01J1", at=before, what="key.suspect", detail="another tenant's"),
    )

    assert walk(api, f"{P}/incidents", "incident_id", 1) == [["01JINCIDENT"], []]
    assert api.ask("GET", f"{P}/incidents/{gone}").status == 404
    assert api.ask("GET", f"{P}/incidents/{gone}/timeline").status == 404
    decision = {"decision": "dismiss", "reason": "x"}
    assert api.ask("POST", f"{P}/incidents/{gone}/decision", decision).status == 404
    assert api.ask("GET", f"{P}/incidents/01JINCIDENT").status == 200


def test_the_fleet_counts_every_status_also_those_that_nothing_has(api: Api) -> None:
    shown = api.ask("GET", "/fleet").json

    assert shown == {
        "keys": {"HEALTHY": 1, "SUSPECT": 0, "UNHEALTHY": 0, "RECOVERING": 0},
        "unknown": 0,
        "stale_keys": 0,
        "clusters": {**{status.value: 0 for status in ClusterStatus}, "LOCKING": 1},
        "open_incidents": 1,
        "brake": [],
        "canaries": [
            {
                "region": region,
                "partial": False,
                "outcome": "HEALTHY",
                "probed_at": "2026-11-22T03:00:00.000Z",
                "canary_id": canary_id,
            }
            for region, canary_id in (("eu-central-1", OTHER_CANARY), ("us-west-2", "stack"))
        ],
        "last_sweep": {"at": "2026-11-22T03:00:00.000Z", "keys_due": 4, "keys_sent": 4},
        "role_audit": None,
    }


def test_the_fleet_shows_roles_that_projects_share(api: Api) -> None:
    shared = SharedRole("222222222222", "keyvigil-customer", ("acme-prod", "acme-test"))
    api.store.record_role_audit(RoleAudit(finished_at=NOW, shared=(shared,)))

    assert api.ask("GET", "/fleet").json["role_audit"] == {
        "finished_at": "2026-11-22T03:00:00.000Z",
        "shared": [
            {
                "account_id": "222222222222",
                "role_name": "keyvigil-customer",
                "project_ids": ["acme-prod", "acme-test"],
            }
        ],
    }


def test_what_newer_code_wrote_is_503_and_the_log_names_the_item(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def newer(_project_id: str) -> Project:
        raise NewerItemError("PROJECT#acme-prod/PROJECT has schema 9 of PROJECT, and this code knows up to 1")

    monkeypatch.setattr(api.store, "project", newer)

    reply = api.ask("PATCH", P, {"name": "Another"})

    assert (reply.status, reply.json["title"]) == (503, "Written by a newer version")
    assert reply.headers["Retry-After"] == "60"
    assert "schema" not in reply.json["detail"]
    assert any("PROJECT#acme-prod" in str(vars(record).get("reason")) for record in caplog.records)


def canaries_shown(api: Api) -> list[tuple[str, bool, str, str | None]]:
    shown = api.ask("GET", "/fleet").json["canaries"]
    return [(each["region"], each["partial"], each["outcome"], each["canary_id"]) for each in shown]


def test_the_stacks_canary_stands_in_for_a_region_with_keys_and_no_canary_and_is_marked_partial(empty: Api) -> None:
    empty.store.put(canary(), key(), key(key_id=f"ap-south-1.{KMS_KEY}", region="ap-south-1"))

    assert canaries_shown(empty) == [("ap-south-1", True, "HEALTHY", "stack"), ("us-west-2", False, "HEALTHY", "stack")]


def test_before_the_first_sweep_nobody_speaks_and_that_is_not_green(empty: Api) -> None:
    empty.store.put(key())

    assert canaries_shown(empty) == [("us-west-2", True, "UNKNOWN", None)]


def test_a_canary_that_was_not_probed_for_long_is_not_shown_as_green(empty: Api) -> None:
    empty.store.put(canary())
    empty.clock.advance(200)

    assert canaries_shown(empty) == [("us-west-2", False, "UNKNOWN", "stack")]
    [item] = empty.ask("GET", "/fleet/canaries").json["items"]
    assert (item["outcome"], item["vouches"]) == ("UNKNOWN", False)


# --- canaries ---------------------------------------------------------------------------------------------------


def test_who_wants_to_register_a_canary_learns_the_external_id_first(empty: Api) -> None:
    assert empty.ask("GET", "/fleet/canaries").json == {
        "items": [],
        "next_token": None,
        "external_id": "keyvigil-canary-1",
    }


def test_a_canary_is_probed_with_that_external_id_before_it_is_stored(empty: Api) -> None:
    made = empty.ask("POST", "/fleet/canaries", NEW_CANARY).json

    assert made["canary_id"] == f"eu-west-1.{KMS_KEY}"
    assert (made["region"], made["account_id"]) == ("eu-west-1", "333333333333")
    assert (made["outcome"], made["vouches"], made["external_id"]) == ("HEALTHY", True, "keyvigil-canary-1")
    [asked] = empty.checker.seen
    assert (asked.key_arn, asked.role_arn) == (NEW_CANARY["key_arn"], NEW_CANARY["role_arn"])
    assert asked.external_id == "keyvigil-canary-1"
    stored = empty.store.canary(made["canary_id"])
    assert stored is not None
    assert stored.baseline is not None
    assert empty.ask("GET", "/fleet/canaries").json["items"] == [made]


def test_a_canary_that_is_not_healthy_is_refused_in_the_words_of_a_keys_registration(empty: Api) -> None:
    for cause, status, title in (
        (Cause.ACCESS_DENIED, 422, "Access denied to KMS key"),
        (Cause.ROLE_NOT_ASSUMABLE, 422, "Role cannot be assumed"),
        (Cause.TIMEOUT, 503, "No answer about the KMS key"),
    ):
        mend = Remediation(summary="Mend it.", commands=('{"Effect": "Allow"}',))
        found = verdict(cause, remediation=mend)
        empty.checker.answer = changed(empty.checker.answer, verdict=found, baseline=None)
        refused = empty.ask("POST", "/fleet/canaries", NEW_CANARY)
        assert (refused.status, refused.json["title"]) == (status, title)
    empty.checker.answer = changed(empty.checker.answer, verdict=verdict(), role_checks_external_id=False)
    assert empty.ask("POST", "/fleet/canaries", NEW_CANARY).json["title"] == "Role does not check the ExternalId"
    empty.checker.answer = None
    assert empty.ask("POST", "/fleet/canaries", NEW_CANARY).status == 503
    assert empty.store.canaries() == []


@pytest.mark.parametrize(
    ("wrong", "status", "title"),
    [
        ({"key_arn": "arn:aws:kms:eu-west-1:1234:key/abc"}, 400, "Invalid KMS key ARN format"),
        ({"key_arn": "arn:aws:kms:eu-west-1:333333333333:alias/canary"}, 400, "Invalid KMS key ARN format"),
        ({"role_arn": "arn:aws:iam::333333333333:user/x"}, 400, "Invalid IAM role ARN format"),
        ({"role_arn": ROLE_ARN}, 422, "KMS key and role are in different accounts"),
        ({"region": "eu-west-1"}, 422, "Invalid request"),
        ({"key_arn": 7}, 422, "Invalid request"),
    ],
)
def test_a_canary_that_cannot_be_one_is_refused_before_aws_is_asked(
    empty: Api, wrong: dict[str, Any], status: int, title: str
) -> None:
    refused = empty.ask("POST", "/fleet/canaries", {**NEW_CANARY, **wrong})

    assert (refused.status, refused.json["title"]) == (status, title)
    assert empty.checker.seen == []
    assert empty.store.canaries() == []


def test_a_key_is_one_canary_and_the_stacks_own_is_one_already(api: Api) -> None:
    assert api.ask("POST", "/fleet/canaries", NEW_CANARY).status == 201
    assert api.ask("POST", "/fleet/canaries", NEW_CANARY).status == 409
    own = canary()
    again = api.ask("POST", "/fleet/canaries", {"key_arn": own.key_arn, "role_arn": own.role_arn})
    assert (again.status, again.json["title"]) == (409, "Already exists")


def test_the_loser_of_two_registrations_at_once_is_told_so(empty: Api) -> None:
    rival = canary(canary_id=f"eu-west-1.{KMS_KEY}", key_arn=CANARY_KEY_ARN)
    empty.store.before_commit = lambda: empty.store.put(rival)

    assert empty.ask("POST", "/fleet/canaries", NEW_CANARY).status == 409


def test_the_twenty_first_canary_is_refused(api: Api) -> None:
    api.store.put(*(canary(canary_id=f"eu-west-1.{number}", key_arn=str(number)) for number in range(19)))

    refused = api.ask("POST", "/fleet/canaries", NEW_CANARY)

    assert (refused.status, refused.json["title"]) == (409, "Too many canaries")
    assert api.checker.seen == []


def test_the_stacks_own_canary_stays_as_long_as_the_stack(api: Api) -> None:
    refused = api.ask("DELETE", "/fleet/canaries/stack")

    assert (refused.status, refused.json["title"]) == (409, "Canary belongs to the stack")
    assert api.store.canary("stack") is not None
    assert api.ask("DELETE", "/fleet/canaries/eu-west-1.nothing").status == 404


def test_the_alert_of_a_canary_that_is_deleted_is_resolved(api: Api) -> None:
    ill = canary(canary_id=OTHER_CANARY, verdict=verdict(Cause.ROLE_NOT_ASSUMABLE), told=True)
    api.store.put(ill)

    assert api.ask("DELETE", f"/fleet/canaries/{OTHER_CANARY}").status == 204

    [alert] = api.store.alerts()
    assert (alert.type, alert.status) == (AlertType.CANARY_UNHEALTHY, AlertStatus.RESOLVED)
    assert len(api.store.commits[-1]) == 2, "in one transaction"


def test_what_is_deleted_is_gone(api: Api) -> None:
    api.ask("DELETE", f"{P}/subscriptions/01JSUBSCRIPTION")

    assert api.ask("GET", f"{P}/subscriptions").json["items"] == []
    assert api.ask("DELETE", f"{P}/subscriptions/01JSUBSCRIPTION").status == 404


# --- lock-result ------------------------------------------------------------------------------------------------


def answer_lock(api: Api, fence: int, result: str = "locked") -> Reply:
    return api.ask("POST", f"{P}/clusters/vectors-prod/lock-result", {"fence": fence, "result": result})


def test_an_answer_to_the_newest_request_locks_the_cluster_and_wakes_the_step_that_waits(api: Api) -> None:
    reply = answer_lock(api, 1795369305484)

    assert (reply.status, reply.json["status"]) == (200, "LOCKED")
    assert api.workflow.completed == [(TASK_TOKEN, "locked")]


@pytest.mark.parametrize("fence", [1795369305483, 1795369305485, 0])
def test_an_answer_whose_fence_is_not_the_newest_is_409_and_changes_nothing(api: Api, fence: int) -> None:
    reply = answer_lock(api, fence)

    assert (reply.status, reply.json["title"]) == (409, "Answer to an older request")
    assert api.ask("GET", f"{P}/clusters/vectors-prod").json["status"] == "LOCKING"
    assert api.workflow.completed == []


def test_a_repeated_answer_is_200(api: Api) -> None:
    first = answer_lock(api, 1795369305484)
    again = answer_lock(api, 1795369305484)

    assert (again.status, again.json) == (200, first.json)


def test_an_answer_that_contradicts_the_request_is_409(api: Api) -> None:
    reply = answer_lock(api, 1795369305484, "unlocked")

    assert (reply.status, reply.json["title"]) == (409, "Answer does not fit the request")


def test_an_answer_that_reaches_the_table_but_not_the_workflow_is_asked_for_again(api: Api) -> None:
    api.workflow.broken = True
    reply = answer_lock(api, 1795369305484)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")

    api.workflow.broken = False
    assert answer_lock(api, 1795369305484).status == 200
    assert api.workflow.completed == [(TASK_TOKEN, "locked")]


# --- what grows -------------------------------------------------------------------------------------------------


def much_happened(api: Api, count: int) -> list[str]:
    """A key that breaks and recovers for weeks."""
    entries = [
        TimelineEntry(
            incident_id="01JINCIDENT",
            entry_id=f"3{number:06d}",
            at=NOW + timedelta(minutes=number),
            what="key.relapsed",
            detail=f"{number}",
        )
        for number in range(count)
    ]
    api.store.put(*entries)
    return [each.detail for each in entries]


def test_of_a_long_timeline_an_incident_shows_the_newest_and_says_that_there_is_more(api: Api) -> None:
    details = much_happened(api, TIMELINE_SHOWN + 50)

    shown = api.ask("GET", f"{P}/incidents/01JINCIDENT").json

    assert [each["detail"] for each in shown["timeline"]] == details[50:]
    assert shown["timeline_truncated"] is True


def test_a_timeline_that_is_shown_whole_says_so(api: Api) -> None:
    much_happened(api, TIMELINE_SHOWN - 2)

    shown = api.ask("GET", f"{P}/incidents/01JINCIDENT").json

    assert (len(shown["timeline"]), shown["timeline_truncated"]) == (TIMELINE_SHOWN, False)


def test_the_whole_timeline_is_read_page_by_page_oldest_first(api: Api) -> None:
    details = much_happened(api, TIMELINE_SHOWN + 50)

    pages = walk(api, f"{P}/incidents/01JINCIDENT/timeline", "detail", 200)

    assert [len(page) for page in pages] == [200, 152]
    assert [each for page in pages for each in page] == ["first", "then", *details]


def test_a_project_costs_the_same_to_read_however_much_has_happened_in_it(api: Api) -> None:
    over = {"status": IncidentStatus.RESOLVED, "resolved_at": NOW}
    api.store.put(*(incident(incident_id=f"01JOVER{number}", **over) for number in range(500)))

    def read_all(*_: Any) -> Any:
        raise AssertionError("all incidents and clusters of the project were read")

    for name in ("incidents", "clusters"):
        api.patch.setattr(api.store, name, read_all)

    assert api.ask("GET", P).json["open_incidents"] == 1
    assert api.ask("GET", "/projects").json["items"][0]["clusters"] == 1


def test_a_project_takes_a_bounded_number_of_subscriptions(api: Api) -> None:
    body = {**NEW_SUBSCRIPTION, "protocol": "email"}
    for number in range(MAX_SUBSCRIPTIONS_PER_PROJECT - 1):
        assert api.ask("POST", f"{P}/subscriptions", {**body, "endpoint": f"a{number}@example.com"}).status == 201

    reply = api.ask("POST", f"{P}/subscriptions", {**body, "endpoint": "one-more@example.com"})

    assert (reply.status, reply.json["title"]) == (409, "Too many subscriptions in project")
    assert len(api.topics.subscriptions) == MAX_SUBSCRIPTIONS_PER_PROJECT - 1, "SNS was not asked"
    assert api.ask("DELETE", f"{P}/subscriptions/01JSUBSCRIPTION").status == 204
    assert api.ask("POST", f"{P}/subscriptions", {**body, "endpoint": "one-more@example.com"}).status == 201


def test_what_is_in_the_way_of_a_deletion_is_listed_to_a_bounded_length(api: Api) -> None:
    api.store.put(*(cluster(cluster_id=f"c{number:04d}") for number in range(IN_THE_WAY_SHOWN * 3)))

    listed = api.ask("DELETE", P).json["in_the_way"]

    assert len(listed) == len(["the key"]) + IN_THE_WAY_SHOWN + len(["the backup"])


def test_a_thousand_wrong_fields_are_not_sent_back_a_thousand_times(api: Api) -> None:
    reply = api.ask("POST", "/projects", {**NEW_PROJECT, **{f"field-{number}": 1 for number in range(3000)}})

    assert reply.status == 422
    assert len(reply.json["errors"]) == api_app.ERRORS_SHOWN
    assert len(reply.text) < 4000


def test_a_made_up_field_of_whatever_length_is_named_in_short(api: Api) -> None:
    reply = api.ask("POST", "/projects", {**NEW_PROJECT, "x" * 60_000: 1})

    assert [error["field"] for error in reply.json["errors"]] == ["x" * api_app.LONGEST_FIELD]


# --- paging -----------------------------------------------------------------------------------------------------


def walk(api: Api, path: str, name: str, limit: int) -> list[list[str]]:
    pages: list[list[str]] = []
    query: dict[str, str] = {"limit": str(limit)}
    while True:
        reply = api.ask("GET", path, query=query).json
        pages.append([item[name] for item in reply["items"]])
        if reply["next_token"] is None:
            return pages
        query = {"limit": str(limit), "next_token": reply["next_token"]}


def test_lists_come_in_pages(api: Api) -> None:
    for number in range(4):
        api.store.put(
            project(project_id=f"project-{number}"),
            cluster(cluster_id=f"cluster-{number}"),
            key(key_id=f"us-west-2.{number}"),
            incident(incident_id=f"01J{number}"),
        )

    assert walk(api, "/projects", "project_id", 2) == [
        ["acme-prod", "project-0"],
        ["project-1", "project-2"],
        ["project-3"],
    ]
    assert walk(api, f"{P}/clusters", "cluster_id", 3) == [
        ["cluster-0", "cluster-1", "cluster-2"],
        ["cluster-3", "vectors-prod"],
    ]
    assert [len(page) for page in walk(api, f"{P}/keys", "key_id", 4)] == [4, 1]
    assert walk(api, f"{P}/incidents", "incident_id", 200) == [["01JINCIDENT", "01J3", "01J2", "01J1", "01J0"]]


@pytest.mark.parametrize("limit", ["0", "201", "-1", "many", "1.5", ""])
def test_a_limit_that_is_no_number_from_1_to_200_is_422(api: Api, limit: str) -> None:
    reply = api.ask("GET", "/projects", query={"limit": limit})

    assert reply.status == 422
    assert [error["field"] for error in reply.json["errors"]] == ["limit"]


def test_a_made_up_next_token_is_400(api: Api) -> None:
    reply = api.ask("GET", "/projects", query={"next_token": "made up"})

    assert (reply.status, reply.json["title"]) == (400, "Invalid next_token")


# --- what is refused before a use case sees it ------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "not json",
        '{"project_id": }',
        "\x00",
        "[" * 60_000,
        '{"grace_minutes": ' + "1" * 5000 + "}",
        '{"name": "\udc80"}',
    ],
    ids=lambda body: ascii(body[:20]),
)
def test_malformed_json_is_400(api: Api, body: str) -> None:
    reply = api.send("POST", "/projects", body)

    assert (reply.status, reply.json["title"]) == (400, "Malformed JSON")


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"\xff", json.dumps(NEW_PROJECT).encode("utf-16"), json.dumps(NEW_PROJECT).encode("utf-32")],
)
def test_bytes_that_are_no_utf8_are_400(api: Api, content: bytes) -> None:
    reply = api.send("POST", "/projects", base64.b64encode(content).decode(), base64_encoded=True)

    assert (reply.status, reply.json["title"]) == (400, "Malformed JSON")


def test_a_body_that_the_gateway_encoded_is_decoded(api: Api) -> None:
    encoded = base64.b64encode(json.dumps(NEW_PROJECT).encode()).decode()

    assert api.send("POST", "/projects", encoded, base64_encoded=True).status == 201


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "nonsense",
    ],
)
def test_a_body_of_another_type_is_415(api: Api, content_type: str) -> None:
    for body in (json.dumps(NEW_PROJECT), "", None):
        reply = api.send("POST", "/projects", body, headers={"content-type": content_type})

        assert (reply.status, reply.json["title"]) == (415, "Body is not JSON")


def test_a_request_that_has_no_body_may_name_any_type(api: Api) -> None:
    headers = {"content-type": "text/plain"}

    assert api.send("GET", P, None, headers=headers).status == 200
    assert api.send("DELETE", f"{P}/subscriptions/01JSUBSCRIPTION", None, headers=headers).status == 204


@pytest.mark.parametrize("content_type", [None, "application/json", "application/json; charset=utf-8"])
def test_json_is_taken_with_and_without_its_content_type(api: Api, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}

    assert api.send("POST", "/projects", json.dumps(NEW_PROJECT), headers=headers).status == 201


def test_a_body_over_64_kilobytes_is_413_and_one_of_64_is_read(api: Api) -> None:
    around = len(json.dumps({"name": ""}))
    largest = json.dumps({"name": "x" * (64 * 1024 - around)})

    assert len(largest) == 64 * 1024
    assert api.send("POST", "/projects", largest).status == 422
    assert api.send("POST", "/projects", largest + " ").status == 413


def test_the_size_of_a_body_is_counted_in_bytes(api: Api) -> None:
    body = json.dumps({"name": "é" * 40_000}, ensure_ascii=False)
    encoded = base64.b64encode(b'"' + b"x" * 60_000 + b'"').decode()

    assert api.send("POST", "/projects", body).status == 413
    assert len(encoded) > 64 * 1024
    assert api.send("POST", "/projects", encoded, base64_encoded=True).status == 422


@dataclass(frozen=True)
class Wrong:
    """A body with something wrong, and the fields that the answer must name."""

    path: str
    body: Any
    fields: set[str]
    method: str = "POST"


WRONG = [
    Wrong("/projects", {}, {"project_id", "name"}),
    Wrong("/projects", None, {"body"}),
    Wrong("/projects", [], {"body"}),
    Wrong("/projects", "text", {"body"}),
    Wrong("/projects", {**NEW_PROJECT, "surprise": 1}, {"surprise"}),
    Wrong("/projects", {**NEW_PROJECT, "external_id": "mine"}, {"external_id"}),
    Wrong("/projects", {**NEW_PROJECT, "project_id": "Acme"}, {"project_id"}),
    Wrong("/projects", {**NEW_PROJECT, "project_id": "ab"}, {"project_id"}),
    Wrong("/projects", {**NEW_PROJECT, "project_id": "a" * 41}, {"project_id"}),
    Wrong("/projects", {**NEW_PROJECT, "project_id": "new-one\n"}, {"project_id"}),
    Wrong("/projects", {**NEW_PROJECT, "project_id": "-one"}, {"project_id"}),
    Wrong("/projects", {**NEW_PROJECT, "name": ""}, {"name"}),
    Wrong("/projects", {**NEW_PROJECT, "name": "x" * 121}, {"name"}),
    Wrong("/projects", {**NEW_PROJECT, "name": "two\nlines"}, {"name"}),
    Wrong("/projects", {**NEW_PROJECT, "name": "hidden\u202etext"}, {"name"}),
    Wrong("/projects", {**NEW_PROJECT, "name": 5}, {"name"}),
    Wrong("/projects", {**NEW_PROJECT, "name": None}, {"name"}),
    Wrong("/projects", {**NEW_PROJECT, "enforcement": "lock"}, {"enforcement"}),
    Wrong("/projects", {**NEW_PROJECT, "approval": True}, {"approval"}),
    Wrong("/projects", {**NEW_PROJECT, "check_interval_minutes": 0}, {"check_interval_minutes"}),
    Wrong("/projects", {**NEW_PROJECT, "check_interval_minutes": 61}, {"check_interval_minutes"}),
    Wrong("/projects", {**NEW_PROJECT, "check_interval_minutes": "10"}, {"check_interval_minutes"}),
    Wrong("/projects", {**NEW_PROJECT, "check_interval_minutes": 10.0}, {"check_interval_minutes"}),
    Wrong("/projects", {**NEW_PROJECT, "grace_minutes": True}, {"grace_minutes"}),
    Wrong("/projects", {**NEW_PROJECT, "grace_minutes": 1441}, {"grace_minutes"}),
    Wrong("/projects", {**NEW_PROJECT, "grace_minutes": -1}, {"grace_minutes"}),
    Wrong("/projects", {**NEW_PROJECT, "probe_plan": "quick"}, {"probe_plan"}),
    Wrong(P, {"project_id": "other"}, {"project_id"}, "PATCH"),
    Wrong(P, {"external_id": "mine"}, {"external_id"}, "PATCH"),
    Wrong(P, {"check_interval_minutes": None}, {"check_interval_minutes"}, "PATCH"),
    Wrong(P, {"name": ""}, {"name"}, "PATCH"),
    Wrong(f"{P}/keys", {}, {"key_arn", "role_arn", "use"}),
    Wrong(f"{P}/keys", {**NEW_KEY, "key_arn": "x" * 2049}, {"key_arn"}),
    Wrong(f"{P}/keys", {**NEW_KEY, "use": "everything"}, {"use"}),
    Wrong(f"{P}/keys", {**NEW_KEY, "external_id": "mine"}, {"external_id"}),
    Wrong(f"{P}/key-validations", {}, {"key_arn", "role_arn", "use"}),
    Wrong(f"{P}/keys", {**NEW_KEY, "use": "kes"}, {"probe_secret_arn"}),
    Wrong(f"{P}/keys", {**NEW_KEY, "probe_secret_arn": SECRET_ARN}, {"probe_secret_arn"}),
    Wrong(f"{P}/keys", {**NEW_KEY, "use": "kes", "probe_secret_arn": 5}, {"probe_secret_arn"}),
    Wrong(f"{P}/key-validations", {**NEW_KEY, "use": "kes"}, {"probe_secret_arn"}),
    Wrong(f"{P}/keys/{KEY_ID}", {"use": "kes"}, {"probe_secret_arn"}, "PATCH"),
    Wrong(f"{P}/keys/{KEY_ID}", {"probe_secret_arn": SECRET_ARN}, {"probe_secret_arn"}, "PATCH"),
    Wrong(f"{P}/keys/{KEY_ID}", {"probe_secret_arn": None}, {"probe_secret_arn"}, "PATCH"),
    Wrong(f"{P}/keys/{KEY_ID}", {"use": "everything"}, {"use"}, "PATCH"),
    Wrong(f"{P}/keys/{KEY_ID}", {"role_arn": None}, {"role_arn"}, "PATCH"),
    Wrong(f"{P}/keys/{KEY_ID}", {"key_arn": KEY_ARN}, {"key_arn"}, "PATCH"),
    Wrong(f"{P}/keys/{KEY_ID}/rebaseline", {}, {"reason"}),
    Wrong(f"{P}/keys/{KEY_ID}/rebaseline", {"reason": "  "}, {"reason"}),
    Wrong(f"{P}/keys/{KEY_ID}/rebaseline", {"reason": "x" * 1001}, {"reason"}),
    Wrong(f"{P}/keys/{KEY_ID}/rebaseline", {"reason": "x", "by": "me"}, {"by"}),
    Wrong(f"{P}/incidents/01JINCIDENT/decision", {}, {"decision", "reason"}),
    Wrong(f"{P}/incidents/01JINCIDENT/decision", {"decision": "lock", "reason": "x"}, {"decision"}),
    Wrong(f"{P}/incidents/01JINCIDENT/decision", {"decision": "hold", "reason": "two\nlines"}, {"reason"}),
    Wrong(f"{P}/incidents/01JINCIDENT/decision", {"decision": "hold", "reason": ""}, {"reason"}),
    Wrong(f"{P}/clusters", {}, {"cluster_id", "name", "kind", "region", "key_id"}),
    Wrong(f"{P}/clusters", {**NEW_CLUSTER, "cluster_id": "a/b"}, {"cluster_id"}),
    Wrong(f"{P}/clusters", {**NEW_CLUSTER, "cluster_id": ".."}, {"cluster_id"}),
    Wrong(f"{P}/clusters", {**NEW_CLUSTER, "cluster_id": "a" * 64}, {"cluster_id"}),
    Wrong(f"{P}/clusters", {**NEW_CLUSTER, "kind": "toaster"}, {"kind"}),
    Wrong(f"{P}/clusters", {**NEW_CLUSTER, "region": "nowhere"}, {"region"}),
    Wrong(f"{P}/clusters", {**NEW_CLUSTER, "key_id": KEY_ARN}, {"key_id"}),
    Wrong(f"{P}/clusters", {**NEW_CLUSTER, "fence": 1}, {"fence"}),
    Wrong(f"{P}/clusters", {**NEW_CLUSTER, "lock": {"via": "magic"}}, {"lock.via"}),
    Wrong(f"{P}/clusters", {**NEW_CLUSTER, "lock": {"via": "event", "timeout_seconds": 9}}, {"lock.timeout_seconds"}),
    Wrong(f"{P}/clusters", {**NEW_CLUSTER, "lock": {"via": "event", "extra": 1}}, {"lock.extra"}),
    Wrong(f"{P}/clusters/vectors-prod", {"status": "ACTIVE"}, {"status"}, "PATCH"),
    Wrong(f"{P}/clusters/vectors-prod", {"region": "us-west-2"}, {"region"}, "PATCH"),
    Wrong(f"{P}/clusters/vectors-prod/lock-result", {}, {"fence", "result"}),
    Wrong(f"{P}/clusters/vectors-prod/lock-result", {"fence": "1", "result": "locked"}, {"fence"}),
    Wrong(f"{P}/clusters/vectors-prod/lock-result", {"fence": -1, "result": "locked"}, {"fence"}),
    Wrong(f"{P}/clusters/vectors-prod/lock-result", {"fence": 2**63, "result": "locked"}, {"fence"}),
    Wrong(f"{P}/clusters/vectors-prod/lock-result", {"fence": 1, "result": "perhaps"}, {"result"}),
    Wrong(
        f"{P}/clusters/vectors-prod/lock-result",
        {"fence": 1, "result": "locked", "detail": "x" * 1001},
        {"detail"},
    ),
    Wrong(f"{P}/subscriptions", {}, {"protocol", "endpoint"}),
    Wrong(f"{P}/subscriptions", {**NEW_SUBSCRIPTION, "protocol": "pigeon"}, {"protocol"}),
    Wrong(f"{P}/subscriptions", {**NEW_SUBSCRIPTION, "min_severity": "loud"}, {"min_severity"}),
    Wrong(f"{P}/subscriptions", {**NEW_SUBSCRIPTION, "types": ["*"]}, {"types.0"}),
    Wrong(f"{P}/subscriptions", {**NEW_SUBSCRIPTION, "types": "key.*"}, {"types"}),
    Wrong(f"{P}/subscriptions", {**NEW_SUBSCRIPTION, "types": ["key.*"] * 21}, {"types"}),
]


@pytest.mark.parametrize(
    "wrong",
    WRONG,
    ids=[
        f"{number}-{wrong.method} {wrong.path} {','.join(sorted(wrong.fields))}" for number, wrong in enumerate(WRONG)
    ],
)
def test_a_wrong_body_is_422_and_each_wrong_field_is_named(api: Api, wrong: Wrong) -> None:
    before = dict(api.store.items)

    reply = api.ask(wrong.method, wrong.path, wrong.body)

    assert (reply.status, reply.json["title"]) == (422, "Invalid request")
    assert {error["field"] for error in reply.json["errors"]} == wrong.fields
    assert all(error["message"] and error.keys() == {"field", "message"} for error in reply.json["errors"])
    assert api.store.items == before


@pytest.mark.parametrize(
    "path",
    [
        "/projects/acme-prod/../other",
        "/projects/..",
        "/projects/.",
        "/projects/...",
        "//projects",
        "/projects//keys",
        "/projects/",
        "/projects/acme-prod%2Fkeys",
        "/projects/%2e%2e/fleet",
        "/projects/acme-prod\n",
        "/projects/acme prod",
        "/projects/acme-pröd",
        "/projects/a;b",
        "projects",
        "",
        f"/projects/{'a' * 129}",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_path_that_is_not_in_its_normal_form_is_400(api: Api, method: str, path: str) -> None:
    reply = api.ask(method, path)

    assert (reply.status, reply.json["title"]) == (400, "Path is not in its normal form")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nothing"),
        ("GET", "/projects/acme-prod/nothing"),
        ("PUT", "/projects"),
        ("DELETE", "/fleet"),
        ("POST", f"{P}/keys/{KEY_ID}/check/again"),
        ("GET", "/Projects"),
    ],
)
def test_an_unknown_route_is_404(api: Api, method: str, path: str) -> None:
    reply = api.ask(method, path)

    assert (reply.status, reply.json["title"]) == (404, "Not found")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/projects/nobody", None),
        ("PATCH", "/projects/nobody", {"name": "x"}),
        ("DELETE", "/projects/nobody", None),
        ("POST", "/projects/nobody/keys", NEW_KEY),
        ("GET", "/projects/nobody/keys", None),
        ("GET", f"{P}/keys/us-west-2.none", None),
        ("DELETE", f"{P}/keys/us-west-2.none", None),
        ("POST", f"{P}/keys/us-west-2.none/check", None),
        ("PATCH", f"{P}/keys/us-west-2.none", {"use": "cse"}),
        ("POST", f"{P}/keys/us-west-2.none/rebaseline", {"reason": "x"}),
        ("POST", "/projects/nobody/key-validations", NEW_KEY),
        ("POST", f"{P}/incidents/none/decision", {"decision": "approve", "reason": "x"}),
        ("POST", f"{P}/subscriptions/none/test", None),
        ("POST", "/projects/nobody/clusters", NEW_CLUSTER),
        ("GET", "/projects/nobody/clusters", None),
        ("GET", f"{P}/clusters/none", None),
        ("PATCH", f"{P}/clusters/none", {"name": "x"}),
        ("DELETE", f"{P}/clusters/none", None),
        ("POST", f"{P}/clusters/none/lock-result", {"fence": 1, "result": "locked"}),
        ("POST", "/projects/nobody/backups", NEW_BACKUP),
        ("GET", "/projects/nobody/backups", None),
        ("DELETE", f"{P}/backups/none", None),
        ("POST", f"{P}/backups/none/restore-check", {"region": "us-west-2"}),
        ("GET", "/projects/nobody/incidents", None),
        ("GET", f"{P}/incidents/none", None),
        ("GET", f"{P}/incidents/none/timeline", None),
        ("GET", "/projects/nobody/subscriptions", None),
        ("POST", "/projects/nobody/subscriptions", NEW_SUBSCRIPTION),
        ("DELETE", f"{P}/subscriptions/none", None),
    ],
)
def test_what_does_not_exist_is_404(api: Api, method: str, path: str, body: Any) -> None:
    assert api.ask(method, path, body).status == 404


def test_what_does_not_exist_is_named_as_it_was_asked_for(api: Api) -> None:
    assert api.ask("GET", f"{P}/incidents/01JNone").json["detail"] == (
        "Incident 01JNone does not exist in project acme-prod."
    )


def test_another_projects_things_are_not_found_under_ones_own_path(api: Api) -> None:
    api.store.put(project(project_id="other"))

    mine = (f"keys/{KEY_ID}", "clusters/vectors-prod", "incidents/01JINCIDENT", "incidents/01JINCIDENT/timeline")
    for rest in mine:
        assert api.ask("GET", f"/projects/other/{rest}").status == 404
    assert api.ask("DELETE", "/projects/other/backups/old").status == 404
    assert api.ask("POST", "/projects/other/backups/old/restore-check", {"region": "us-west-2"}).status == 404
    assert api.checker.restores == []


# --- what use cases refuse --------------------------------------------------------------------------------------


def test_why_a_test_message_was_not_sent_is_logged_for_the_operator(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.topics.broken = True

    reply = api.ask("POST", f"{P}/subscriptions/01JSUBSCRIPTION/test")

    assert (reply.status, reply.json["title"]) == (503, "Test message not sent")
    [logged] = [vars(record) for record in caplog.records if record.getMessage() == "refused"]
    assert logged["reason"] == "SNS did not take the message"


def test_a_malformed_key_arn_is_400_in_the_fixed_words(api: Api) -> None:
    reply = api.ask("POST", f"{P}/keys", {**NEW_KEY, "key_arn": "arn:aws:kms:nowhere"})

    assert (reply.status, reply.json["title"]) == (400, "Invalid KMS key ARN format")
    assert "arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID" in reply.json["detail"]


def test_a_refused_key_comes_with_its_cause_and_its_remediation(empty: Api) -> None:
    empty.checker.answer = changed(empty.checker.answer, verdict=verdict(Cause.KEY_DISABLED), baseline=None)

    reply = empty.ask("POST", f"{P}/keys", NEW_KEY)

    assert reply.status == 422
    assert reply.json == {
        "type": "about:blank",
        "title": "KMS key is disabled",
        "status": 422,
        "detail": "The key does not work: KEY_DISABLED.",
        "cause": "KEY_DISABLED",
        "remediation": {"summary": "Mend it.", "commands": ["aws kms enable-key"]},
    }


def test_no_answer_about_a_key_is_503_with_retry_after(empty: Api) -> None:
    empty.checker.answer = changed(empty.checker.answer, verdict=verdict(Cause.THROTTLED), baseline=None)
    unknown = empty.ask("POST", f"{P}/keys", NEW_KEY)
    empty.checker.answer = None
    silent = empty.ask("POST", f"{P}/keys", NEW_KEY)

    for reply in (unknown, silent):
        assert (reply.status, reply.json["title"]) == (503, "No answer about the KMS key")
        assert int(reply.headers["Retry-After"]) > 0
    assert empty.ask("GET", f"{P}/keys").json["items"] == []


def test_another_key_for_an_existing_cluster_is_409_in_the_fixed_words(api: Api) -> None:
    other = f"us-west-2.{OTHER_KEY}"
    api.store.put(key(key_id=other))

    posted = api.ask("POST", f"{P}/clusters", {**NEW_CLUSTER, "cluster_id": "vectors-prod", "key_id": other})
    patched = api.ask("PATCH", f"{P}/clusters/vectors-prod", {"key_id": other})

    for reply in (posted, patched):
        assert reply.status == 409
        assert reply.json["title"] == "Cannot change AWS CSE key ARN after cluster is created"


def test_a_backup_of_a_key_or_a_cluster_that_is_not_registered_is_409(api: Api) -> None:
    for field, title in (("key_id", "KMS key is not registered"), ("cluster_id", "Cluster is not registered")):
        gone = {"key_id": f"us-west-2.{OTHER_KEY}", "cluster_id": "gone"}[field]
        reply = api.ask("POST", f"{P}/backups", {**NEW_BACKUP, field: gone})
        assert (reply.status, reply.json["title"]) == (409, title)


def test_a_restore_check_answers_as_in_the_contract(api: Api) -> None:
    works = api.ask("POST", f"{P}/backups/old/restore-check", {"region": "us-west-2"})
    fails = api.ask("POST", f"{P}/backups/old/restore-check", {"region": "eu-west-1"})

    assert works.json == {"restorable": True, "with_key_id": KEY_ID, "reason": None, "remediation": None}
    assert (fails.status, fails.json["restorable"], fails.json["with_key_id"]) == (200, False, None)
    assert fails.json["reason"].startswith(f"The key {KEY_ARN} is a single-Region key")
    assert set(fails.json["remediation"]) == {"summary", "commands", "statement"}


def test_a_restore_check_without_an_answer_of_aws_is_503_with_retry_after(api: Api) -> None:
    for answer in (RestoreAnswer(verdict=verdict(Cause.THROTTLED)), None):
        api.checker.restore = answer
        reply = api.ask("POST", f"{P}/backups/old/restore-check", {"region": "us-west-2"})
        assert (reply.status, reply.json["title"]) == (503, "No answer about the KMS key")
        assert int(reply.headers["Retry-After"]) > 0


def test_backups_are_listed_page_by_page(api: Api) -> None:
    api.store.put(backup(backup_id="newer"))
    first = api.ask("GET", f"{P}/backups", query={"limit": "1"}).json
    second = api.ask("GET", f"{P}/backups", query={"limit": "1", "next_token": first["next_token"]}).json

    assert [each["backup_id"] for page in (first, second) for each in page["items"]] == ["newer", "old"]
    assert second["next_token"] is None


def test_a_key_shows_what_a_closer_look_found(api: Api) -> None:
    look = CloserLook(
        looked_at=NOW, rotation=Rotation(enabled=True, next_at=NOW), alias=AliasTarget(key_arn=f"{KEY_ARN}-other")
    )
    api.store.put(key(facts=KeyFacts(closer=look), backups={"us-west-2": 2, "eu-west-1": 1}))

    shown = api.ask("GET", f"{P}/keys/{KEY_ID}").json

    assert (shown["rotation_enabled"], shown["next_rotation_at"]) == (True, "2026-11-22T03:00:00.000Z")
    assert (shown["alias_target_arn"], shown["backups"]) == (f"{KEY_ARN}-other", 3)


def test_what_exists_already_is_409(api: Api) -> None:
    for path, body in (
        ("/projects", {**NEW_PROJECT, "project_id": "acme-prod"}),
        (f"{P}/keys", NEW_KEY),
        (f"{P}/clusters", {**NEW_CLUSTER, "cluster_id": "vectors-prod"}),
        (f"{P}/backups", {**NEW_BACKUP, "backup_id": "old"}),
    ):
        reply = api.ask("POST", path, body)
        assert (reply.status, reply.json["title"]) == (409, "Already exists")


def test_what_is_in_the_way_of_a_deletion_is_listed(api: Api) -> None:
    reply = api.ask("DELETE", P)

    assert reply.status == 409
    assert reply.json["in_the_way"] == [f"key {KEY_ID}", "cluster vectors-prod", "backup old"]


def test_a_change_that_others_overtake_every_time_is_409_with_retry_after(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def always_late(writes: list[Put]) -> None:
        raise ConflictError("an internal detail")

    monkeypatch.setattr(api.store, "commit", always_late)
    reply = api.ask("PATCH", P, {"name": "New"})

    assert (reply.status, reply.headers["Retry-After"]) == (409, "1")
    assert "internal" not in reply.text


def test_an_unexpected_fault_is_500_and_tells_nothing_of_the_inside(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(project_id: str) -> None:
        message = f"table keyvigil-Table-1ABC refused {project_id}"
        raise RuntimeError(message)

    monkeypatch.setattr(api.store, "project", breaks)
    reply = api.ask("GET", P)

    assert reply.status == 500
    assert reply.json == {
        "type": "about:blank",
        "title": "Internal error",
        "status": 500,
        "detail": "KeyVigil failed; the operator's log has the reason.",
    }


# --- decisions --------------------------------------------------------------------------------------------------

CALLER = f"arn:aws:sts::{CUSTOMER}:assumed-role/tenant/session"
DECISION = f"{P}/incidents/01JINCIDENT/decision"


def decide(api: Api, decision: str, reason: str = "We know of it.") -> Reply:
    return api.ask("POST", DECISION, {"decision": decision, "reason": reason})


@pytest.mark.parametrize("decision", ["approve", "hold", "dismiss"])
def test_a_decision_is_kept_with_who_made_it_when_and_why_also_in_the_timeline(api: Api, decision: str) -> None:
    api.store.put(incident(status=IncidentStatus.HELD, held_for=HeldFor.BRAKE))

    reply = decide(api, decision)

    assert reply.status == 200
    made = {
        "decision": decision,
        "reason": "We know of it.",
        "by": CALLER,
        "at": "2026-11-22T03:00:00.000Z",
        "held_for": "brake",
    }
    assert reply.json["decision"] == made
    [entry] = [each for each in reply.json["timeline"] if each["what"] == f"decision.{decision}"]
    assert entry["detail"] == f"{CALLER} decided {decision}: We know of it."
    assert api.ask("GET", f"{P}/incidents/01JINCIDENT").json["decision"] == made


def test_the_same_decision_again_is_told_once_and_another_one_replaces_it(api: Api) -> None:
    api.store.put(incident(status=IncidentStatus.HELD))
    decide(api, "hold")
    decide(api, "hold")
    reply = decide(api, "approve")

    assert reply.json["decision"]["decision"] == "approve"
    decisions = [each["what"] for each in reply.json["timeline"] if each["what"].startswith("decision.")]
    assert decisions == ["decision.hold", "decision.approve"]


@pytest.mark.parametrize("status", list(IncidentStatus))
@pytest.mark.parametrize("decision", ["approve", "hold", "dismiss"])
def test_an_incident_is_held_only_before_its_lockout_begins_and_nothing_is_decided_after_its_end(
    api: Api, status: IncidentStatus, decision: str
) -> None:
    api.store.put(incident(status=status))
    before = {IncidentStatus.CONFIRMING, IncidentStatus.HELD, IncidentStatus.OBSERVED, IncidentStatus.DISMISSED}
    too_late = status is IncidentStatus.RESOLVED or (decision == "hold" and status not in before)

    reply = decide(api, decision)

    assert reply.status == (409 if too_late else 200)
    stored = api.store.incident("acme-prod", "01JINCIDENT")
    assert stored is not None
    assert (stored.decision is None) == too_late
    if too_late:
        assert reply.json["title"] == "Too late for this decision"


@pytest.mark.parametrize(
    ("decision", "status", "becomes", "starts"),
    [
        ("approve", IncidentStatus.HELD, "CONFIRMING", "01JINCIDENT-lock-1"),
        ("approve", IncidentStatus.DISMISSED, "CONFIRMING", "01JINCIDENT-lock-1"),
        ("approve", IncidentStatus.CONFIRMING, "CONFIRMING", None),
        ("hold", IncidentStatus.CONFIRMING, "HELD", None),
        ("dismiss", IncidentStatus.HELD, "DISMISSED", None),
        ("dismiss", IncidentStatus.LOCKED, "LOCKED", "01JINCIDENT-unlock-1"),
        ("dismiss", IncidentStatus.PARTLY_LOCKED, "PARTLY_LOCKED", "01JINCIDENT-unlock-1"),
        ("dismiss", IncidentStatus.LOCKING, "LOCKING", None),
    ],
)
def test_a_decision_acts_at_once_where_nothing_is_under_way(
    api: Api, decision: str, status: IncidentStatus, becomes: str, starts: str | None
) -> None:
    api.store.put(incident(status=status))

    reply = decide(api, decision)

    assert reply.json["status"] == becomes
    assert [start.name for start in api.store.starts()] == ([starts] if starts else [])


def test_the_operator_s_brake_is_shown_until_it_is_released(api: Api) -> None:
    engage = {"action": "engage", "region": "us-west-2", "reason": "We move the network."}
    shown: dict[str, Any] = {
        "region": "us-west-2",
        "cause": None,
        "project_id": None,
        "since": "2026-11-22T03:00:00.000Z",
        "by": CALLER,
        "reason": "We move the network.",
        "exempt_projects": [],
    }

    assert api.ask("POST", "/fleet/brake", engage).json == {"brake": [shown]}
    assert api.ask("GET", "/fleet").json["brake"] == [shown]
    released = api.ask("POST", "/fleet/brake", {"action": "release", "region": "us-west-2", "reason": "Done."})
    assert released.json == {"brake": []}
    assert api.ask("GET", "/fleet").json["brake"] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"action": "pull"},
        {"reason": " "},
        {"region": "us west"},
        {"project_id": "../acme"},
        {"cause": "ACCESS_DENIED"},
        {"unknown": 1},
    ],
)
def test_a_brake_that_is_asked_for_wrongly_is_refused_with_the_field(api: Api, wrong: dict[str, Any]) -> None:
    refused = api.ask("POST", "/fleet/brake", {"action": "engage", "reason": "We move the network."} | wrong)

    assert refused.status == 422
    assert refused.json["errors"]
    assert not api.store.brakes()


def test_a_lockout_that_begins_while_it_is_held_is_not_held(api: Api) -> None:
    api.store.put(incident(status=IncidentStatus.HELD))

    def the_lockout_begins() -> None:
        current = api.store.incident("acme-prod", "01JINCIDENT")
        assert current is not None
        api.store.commit([Put(changed(current, status=IncidentStatus.LOCKING))])

    api.store.before_commit = the_lockout_begins

    assert decide(api, "hold").status == 409


def test_a_rebaseline_names_its_caller(api: Api) -> None:
    reply = api.ask("POST", f"{P}/keys/{KEY_ID}/rebaseline", {"reason": "It was damaged."})

    [made] = reply.json["rebaselines"]
    assert made == {"at": "2026-11-22T03:00:00.000Z", "by": CALLER, "reason": "It was damaged."}


def test_a_kes_key_shows_its_secret_and_that_it_is_read(empty: Api) -> None:
    reply = empty.ask("POST", f"{P}/keys", {**NEW_KEY, "use": "kes", "probe_secret_arn": SECRET_ARN})

    assert reply.status == 201
    assert (reply.json["use"], reply.json["probe_secret_arn"]) == ("kes", SECRET_ARN)
    assert reply.json["operations"] == ["DescribeKey", "Encrypt", "Decrypt", "GetSecretValue"]


def test_a_verdict_names_the_missing_permission_and_who_refused_it(api: Api) -> None:
    refused_by = Refusal(policy=PolicyKind.RESOURCE, explicit=True)
    permission = Permission(action="kms:Decrypt", resource=KEY_ARN, refused_by=refused_by)
    api.store.put(key(verdict=verdict(Cause.ACCESS_DENIED, permission=permission)))

    shown = api.ask("GET", f"{P}/keys/{KEY_ID}").json["verdict"]

    assert shown["permission"] == {
        "action": "kms:Decrypt",
        "resource": KEY_ARN,
        "refused_by": {"policy": "resource-based policy", "explicit": True},
    }


def test_a_healthy_key_s_findings_are_shown_with_what_mends_them(api: Api) -> None:
    remediation = Remediation(summary="Allow it.", commands=("aws iam put-role-policy",), statement="{}")
    finding = Finding(code="DESCRIBE_KEY_DENIED", message="It may not be described.", remediation=remediation)
    api.store.put(key(verdict=verdict(findings=(finding,))))

    shown = api.ask("GET", f"{P}/keys/{KEY_ID}").json["verdict"]

    assert (shown["outcome"], shown["cause"]) == ("HEALTHY", None)
    assert shown["findings"] == [
        {
            "code": "DESCRIBE_KEY_DENIED",
            "message": "It may not be described.",
            "remediation": {"summary": "Allow it.", "commands": ["aws iam put-role-policy"], "statement": "{}"},
        }
    ]


def test_a_validation_shows_every_operation(api: Api) -> None:
    reply = api.ask("POST", f"{P}/key-validations", NEW_KEY)

    assert reply.json["operations"] == [{"operation": "DescribeKey", "allowed": True, "error": None}]
    assert set(reply.json["verdict"]) == VERDICT_FIELDS


# --- rubbish ----------------------------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
_known = st.sampled_from([NEW_PROJECT, NEW_KEY, NEW_CLUSTER, NEW_SUBSCRIPTION, {"fence": 1, "result": "locked"}])
_nearly_right = st.builds(
    lambda body, name, value: {**body, name: value},
    _known,
    st.sampled_from([name for body in (NEW_PROJECT, NEW_KEY, NEW_CLUSTER, NEW_SUBSCRIPTION) for name in body]),
    _json,
)
_bodies = st.one_of(st.none(), st.text(), (_json | _nearly_right).map(json.dumps))
_paths = st.one_of(
    st.sampled_from([route.path for route in ROUTES]),
    st.lists(st.text(max_size=12) | st.sampled_from(["projects", "acme-prod", "keys", "clusters", "..", "%2e"])).map(
        lambda parts: "/" + "/".join(parts)
    ),
)
_queries = st.none() | st.dictionaries(
    st.sampled_from(["limit", "next_token", "status", "other"]), st.text(max_size=20)
)
_headers = st.sampled_from([JSON_HEADERS, {}, {"content-type": "text/plain"}, {"content-type": ""}])


def test_rubbish_is_never_answered_with_a_fault_of_ours(api: Api) -> None:
    @hypothesis_settings(max_examples=400, deadline=None)
    @given(
        method=st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT", "OPTIONS"]),
        path=_paths,
        body=_bodies,
        query=_queries,
        headers=_headers,
        encoded=st.booleans(),
    )
    def holds(
        method: str,
        path: str,
        body: str | None,
        query: dict[str, str] | None,
        headers: dict[str, str],
        *,
        encoded: bool,
    ) -> None:
        if body is not None and encoded:
            body = base64.b64encode(body.encode(errors="surrogatepass")).decode()
        reply = api.send(method, path, body, query=query, headers=headers, base64_encoded=encoded)
        assert 200 <= reply.status < 500

    holds()
