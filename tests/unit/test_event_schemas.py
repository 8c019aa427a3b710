"""docs/schemas/: made from the code, and true of everything that leaves KeyVigil or answers it."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from keyvigil.adapters.alert_documents import document
from keyvigil.adapters.messaging import _test_message
from keyvigil.adapters.plain_data import lock_request_detail
from keyvigil.domain.alerts import (
    INCIDENT_ALERTS,
    AlertCause,
    AlertStatus,
    AlertType,
    LockRequest,
    Notice,
    Severity,
    lock_request,
    make_alert,
    make_fleet_notice,
    make_key_notice,
)
from keyvigil.domain.clusters import ClusterStatus, LockAction, LockVia
from keyvigil.domain.incidents import affected
from keyvigil.domain.lock_calls import CallOutcome, read_answer
from keyvigil.domain.projects import Protocol, Subscription
from keyvigil.domain.verdicts import Cause, Remediation
from tests.event_schemas import FOLDER, as_written, checked, problems, schemas
from tests.examples import NOW, actor, cluster, incident, key, verdict
from tests.fakes import changed

ROOT = FOLDER.parents[1]
LOCKING = cluster(
    status=ClusterStatus.LOCKING, fence=7, locked_by_incident_id="01JINCIDENT", respond_by=NOW + timedelta(minutes=5)
)


def test_the_schemas_are_those_that_the_code_makes() -> None:
    made = {f"{name}.json": as_written(schema) for name, schema in schemas().items()}
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert committed == made, "`make event-schemas` writes them"


@pytest.mark.parametrize("name", schemas())
def test_a_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(schemas()[name])


@pytest.mark.parametrize("with_actor", [True, False])
@pytest.mark.parametrize("kind", sorted(INCIDENT_ALERTS))
def test_an_alert_of_an_incident_is_as_the_schema_says(kind: AlertType, *, with_actor: bool) -> None:
    alert, _ = make_alert(
        kind,
        alert_id="01J",
        key=key(verdict=verdict(Cause.KEY_DISABLED), alias_arn="arn:aws:kms:us-west-2:222222222222:alias/a"),
        incident=incident(actor=actor() if with_actor else None),
        clusters=affected([cluster(), LOCKING]),
        occurred_at=NOW,
        detected_at=NOW,
    )
    assert problems("alert", document(alert)) == []


@pytest.mark.parametrize("status", AlertStatus)
@pytest.mark.parametrize("kind", sorted(set(AlertType) - INCIDENT_ALERTS))
def test_a_notice_is_as_the_schema_says(kind: AlertType, status: AlertStatus) -> None:
    notice = Notice(
        type=kind,
        status=status,
        severity=Severity.CRITICAL,
        subject="subject",
        cause=AlertCause(code=None, operation=None, aws_error_code=None, message="Something."),
        remediation=Remediation(summary="Mend it."),
    )
    of_key, _ = make_key_notice(notice, alert_id="01J", key=key(), clusters=(), occurred_at=NOW, detected_at=NOW)
    of_fleet = make_fleet_notice(notice, alert_id="01J", occurred_at=NOW, detected_at=NOW)
    for alert in (of_key, of_fleet):
        assert problems("alert", document(alert)) == []


def test_a_test_message_is_as_the_schema_says_and_nothing_else_goes_without_a_cause() -> None:
    subscription = Subscription(
        project_id="acme-prod",
        subscription_id="01J",
        protocol=Protocol.SQS,
        endpoint="arn:aws:sqs:us-west-2:222222222222:alerts",
        min_severity="info",
        types=(),
        subscription_arn="",
        status="confirmed",
        created_at=NOW,
    )
    message = json.loads(json.dumps(_test_message(subscription, "01J", NOW, None)))
    assert problems("alert", message) == []
    assert problems("alert", {**message, "type": "key.suspect"}) == ["$.type: 'subscription.test' was expected"]


def test_a_lock_request_is_as_the_schema_says_also_as_it_comes_from_the_bus() -> None:
    request = lock_request(LOCKING)
    assert problems("lock-request", lock_request_detail(request)) == []
    event: dict[str, Any] = {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": request.detail_type,
        "source": "keyvigil",
        "account": "111111111111",
        "time": "2026-11-22T03:00:00Z",
        "region": "us-west-2",
        "resources": [],
        "detail": lock_request_detail(request),
    }
    assert problems("lock-request-event", event) == []
    assert problems("lock-request-event", {**event, "source": "aws.kms"}) != []
    alert = make_fleet_notice(
        Notice(
            type=AlertType.BRAKE_ENGAGED,
            status=AlertStatus.FIRING,
            severity=Severity.CRITICAL,
            subject="brake",
            cause=AlertCause(code=None, operation=None, aws_error_code=None, message="It engaged."),
            remediation=Remediation(summary="Look."),
        ),
        alert_id="01J",
        occurred_at=NOW,
        detected_at=NOW,
    )
    told = {**event, "detail-type": str(alert.type), "detail": document(alert)}
    assert problems("alert-event", told) == []
    assert problems("alert-event", {**told, "detail": event["detail"]}) != []


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"result": "locked"}, CallOutcome.DONE),
        ({"result": "locked", "detail": "done"}, CallOutcome.DONE),
        ({"result": "accepted", "detail": None}, CallOutcome.ACCEPTED),
        ({"result": "failed", "detail": "no such cluster"}, CallOutcome.FAILED),
    ],
)
def test_an_answer_that_the_schema_takes_is_understood(answer: dict[str, Any], outcome: CallOutcome) -> None:
    assert problems("receiver-answer", answer) == []
    assert read_answer(answer, LockAction.LOCK).outcome is outcome


@pytest.mark.parametrize("answer", [{}, {"result": "done"}, {"result": 1}, [], "locked"])
def test_an_answer_that_the_schema_does_not_take_is_a_failure(answer: Any) -> None:
    assert problems("receiver-answer", answer) != []
    assert read_answer(answer, LockAction.LOCK).outcome is CallOutcome.FAILED


def test_an_acknowledgement_is_as_the_schema_says() -> None:
    assert problems("lock-result", {"fence": 1795369305484, "result": "locked", "detail": "by hand"}) == []
    assert problems("lock-result", {"fence": -1, "result": "locked"}) != []
    assert problems("lock-result", {"fence": 1, "result": "accepted"}) != []


def json_in(page: Path) -> list[dict[str, Any]]:
    """The JSON objects that a page shows whole: none with an ellipsis in it."""
    blocks = re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = [json.loads(block) for block in blocks if block.lstrip().startswith("{") and "…" not in block]
    return [each for each in found if isinstance(each, dict)]


def test_the_alerts_and_requests_that_pages_show_are_as_the_schemas_say() -> None:
    shown = [each for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")) for each in json_in(page)]
    alerts = [each for each in shown if "dedup_key" in each and "schema_version" in each]
    assert alerts, "README shows one real alert"
    assert [found for each in alerts if (found := problems("alert", each))] == []


def test_what_is_emitted_and_not_described_is_found() -> None:
    request = LockRequest(
        detail_type="Cluster Lock Requested",
        project_id="acme-prod",
        cluster_id="vectors",
        incident_id="01J",
        fence=1,
        reason="because",
        respond_by=NOW,
        via=LockVia.WEBHOOK,
    )
    assert checked(request) is request
    assert problems("lock-request", {**lock_request_detail(request), "secret": "x"}) != []
    assert problems("lock-request", {**lock_request_detail(request), "respond_by": "2026-11-22 03:00"}) != []
    with pytest.raises(AssertionError, match="make event-schemas"):
        checked(changed(request, fence="1"))
