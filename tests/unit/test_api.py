"""The HTTP edge: every route as the contract has it, field by field, and every way to ask wrongly."""

import base64
import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from keyvigil import wiring
from keyvigil.api import app as api_app
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.incidents import AffectedCluster, IncidentStatus, TimelineEntry
from keyvigil.domain.keys import Baseline, Health, KeyFacts, KeyStatus
from keyvigil.domain.projects import Protocol, Subscription
from keyvigil.domain.verdicts import Cause
from keyvigil.errors import ConflictError
from keyvigil.ports import OperationAnswer, Put, RegistrationAnswer, SweepRecord, ValidationAnswer
from keyvigil.settings import Settings
from keyvigil.use_cases.decide_incident import DecideIncident
from keyvigil.use_cases.read_fleet import ReadFleet
from keyvigil.use_cases.record_lock_result import RecordLockResult
from keyvigil.use_cases.registry import Clusters, Keys, Projects, Subscriptions
from keyvigil.use_cases.settle_lockout import SettleLockout
from tests.examples import (
    CUSTOMER,
    KEY_ARN,
    KEY_ID,
    KMS_KEY,
    NOW,
    ROLE_ARN,
    cluster,
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
    "rebaselines",  # not in the contract
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
INCIDENT_FIELDS = LISTED_INCIDENT_FIELDS | {"timeline"}
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
}
PAGE_FIELDS = {"items", "next_token"}

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
NEW_SUBSCRIPTION = {
    "protocol": "sqs",
    "endpoint": QUEUE_ARN,
    "min_severity": "info",
    "types": ["key.*", "cluster.locked"],
}


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
            "keys": Keys(self.store, self.checker, self.clock, own_account="111111111111"),
            "clusters": Clusters(self.store, self.clock),
            "subscriptions": Subscriptions(self.store, self.topics, self.clock, self.ids),
            "record_lock_result": RecordLockResult(
                self.store, self.workflow, SettleLockout(self.store, self.clock, self.ids), self.clock, self.ids
            ),
            "decide_incident": DecideIncident(self.store, self.clock, self.ids),
            "read_fleet": ReadFleet(self.store, self.clock),
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

    def fill(self) -> None:
        self.store.put(
            project(),
            key(baseline=Baseline.of(CIPHERTEXT, {"tested-by": "KeyVigil"}, NOW), clusters=1),
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
        )
        self.store.record_sweep(SweepRecord(NOW, 4, 4))

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
    Route("GET", f"{T}/incidents", f"{P}/incidents", 200, PAGE_FIELDS, item_fields=LISTED_INCIDENT_FIELDS),
    Route("GET", f"{T}/incidents/<incident_id>", f"{P}/incidents/01JINCIDENT", 200, INCIDENT_FIELDS),
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
    Route("GET", "/fleet", "/fleet", 200, FLEET_FIELDS),
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
    }


def test_a_verdict_is_shown_with_its_remediation(api: Api) -> None:
    api.store.put(key(verdict=verdict(Cause.KEY_DISABLED, aws_error_code="DisabledException")))

    shown = api.ask("GET", f"{P}/keys/{KEY_ID}").json["verdict"]

    assert (shown["outcome"], shown["cause"], shown["operation"]) == ("UNHEALTHY", "KEY_DISABLED", "Encrypt")
    assert shown["aws_error_code"] == "DisabledException"
    assert shown["remediation"] == {"summary": "Mend it.", "commands": ["aws kms enable-key"]}
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
    assert (shown["fence"], shown["status"]) == (7, "ACTIVE")


def test_who_locked_a_cluster_must_unlock_it_so_its_lock_cannot_be_changed_meanwhile(api: Api) -> None:
    answer = api.ask("PATCH", f"{P}/clusters/vectors-prod", {"lock": {"via": "none", "timeout_seconds": 10}})

    assert (answer.status, answer.json["title"]) == (409, "Cluster is locked")
    assert api.ask("PATCH", f"{P}/clusters/vectors-prod", {"name": "Renamed"}).status == 200


def test_an_incident_shows_its_timeline_in_order_and_its_clusters_as_they_stand_now(api: Api) -> None:
    shown = api.ask("GET", f"{P}/incidents/01JINCIDENT").json

    assert [entry["what"] for entry in shown["timeline"]] == ["key.suspect", "key.unhealthy"]
    assert set(shown["timeline"][0]) == {"at", "what", "detail"}
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


def test_the_fleet_counts_every_status_also_those_that_nothing_has(api: Api) -> None:
    shown = api.ask("GET", "/fleet").json

    assert shown == {
        "keys": {"HEALTHY": 1, "SUSPECT": 0, "UNHEALTHY": 0, "RECOVERING": 0},
        "unknown": 0,
        "stale_keys": 0,
        "clusters": {**{status.value: 0 for status in ClusterStatus}, "LOCKING": 1},
        "open_incidents": 1,
        "brake": [],
        "canaries": [],
        "last_sweep": {"at": "2026-11-22T03:00:00.000Z", "keys_due": 4, "keys_sent": 4},
    }


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
        ("GET", "/projects/nobody/incidents", None),
        ("GET", f"{P}/incidents/none", None),
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

    for rest in (f"keys/{KEY_ID}", "clusters/vectors-prod", "incidents/01JINCIDENT"):
        assert api.ask("GET", f"/projects/other/{rest}").status == 404


# --- what use cases refuse --------------------------------------------------------------------------------------


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


def test_what_exists_already_is_409(api: Api) -> None:
    for path, body in (
        ("/projects", {**NEW_PROJECT, "project_id": "acme-prod"}),
        (f"{P}/keys", NEW_KEY),
        (f"{P}/clusters", {**NEW_CLUSTER, "cluster_id": "vectors-prod"}),
    ):
        reply = api.ask("POST", path, body)
        assert (reply.status, reply.json["title"]) == (409, "Already exists")


def test_what_is_in_the_way_of_a_deletion_is_listed(api: Api) -> None:
    reply = api.ask("DELETE", P)

    assert reply.status == 409
    assert reply.json["in_the_way"] == [f"key {KEY_ID}", "cluster vectors-prod"]


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
    api.store.put(incident(status=IncidentStatus.HELD))

    reply = decide(api, decision)

    assert reply.status == 200
    made = {"decision": decision, "reason": "We know of it.", "by": CALLER, "at": "2026-11-22T03:00:00.000Z"}
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
    before = {IncidentStatus.CONFIRMING, IncidentStatus.HELD, IncidentStatus.OBSERVED}
    too_late = status is IncidentStatus.RESOLVED or (decision == "hold" and status not in before)

    reply = decide(api, decision)

    assert reply.status == (409 if too_late else 200)
    stored = api.store.incident("acme-prod", "01JINCIDENT")
    assert stored is not None
    assert (stored.decision is None) == too_late
    if too_late:
        assert reply.json["title"] == "Too late for this decision"


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
