"""Findings for AWS Security Hub: one for each incident, the request that is sent, and what is sent again."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ConnectTimeoutError
from botocore.stub import ANY, Stubber
from botocore.validate import ParamValidator

from keyvigil import wiring
from keyvigil.adapters.security_hub import BATCH, RESOURCES, SecurityHubFindings
from keyvigil.domain.alerts import Alert, AlertType, OutboxRow, Severity, Target, make_alert
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.findings import Finding, finding_of, newest
from keyvigil.domain.incidents import AffectedCluster, Incident, IncidentStatus
from keyvigil.domain.silences import Silences
from keyvigil.domain.verdicts import Cause
from keyvigil.errors import DeliveryError
from keyvigil.settings import Settings
from tests.examples import CUSTOMER, KEY_ARN, KEY_ID, KMS_KEY, NOW, incident, key, project, verdict
from tests.fakes import (
    FakeClock,
    FakeFindings,
    FakeNotifier,
    MemoryStore,
    changed,
)
from tests.unit.relaying import relay_of
from tests.unit.test_quiet import silence

PRODUCT = "arn:aws:securityhub:us-west-2:111111111111:product/111111111111/default"
FINDING_ID = f"acme-prod/{KEY_ID}/01JINCIDENT"


def alert(kind: AlertType = AlertType.KEY_UNHEALTHY, sequence: int = 7, **fields: Any) -> Alert:
    made, _ = make_alert(
        kind,
        alert_id=f"01J{sequence}",
        key=key(verdict=verdict(Cause.KEY_DISABLED), alert_sequence=sequence - 1),
        incident=incident(),
        clusters=[AffectedCluster(cluster_id="vectors-prod", status=ClusterStatus.LOCKED)],
        occurred_at=NOW,
        detected_at=NOW + timedelta(seconds=sequence),
    )
    return changed(made, **fields)


def finding(kind: AlertType = AlertType.KEY_UNHEALTHY, of: Incident | None = None, **fields: Any) -> Finding:
    made = finding_of(alert(kind), of or incident())
    assert made is not None
    return replace(made, **fields)


# --- what is told -----------------------------------------------------------------------------------------------


def test_all_alerts_of_an_incident_are_one_finding() -> None:
    kinds = (AlertType.KEY_SUSPECT, AlertType.KEY_UNHEALTHY, AlertType.CLUSTER_LOCKED, AlertType.KEY_RECOVERED)
    assert {finding(kind).finding_id for kind in kinds} == {FINDING_ID}


@pytest.mark.parametrize(
    ("kind", "fields", "over"),
    [
        pytest.param(AlertType.KEY_SUSPECT, {}, False, id="it begins"),
        pytest.param(AlertType.KEY_RECOVERED, {}, True, id="the key is back and nothing was locked"),
        pytest.param(AlertType.KEY_RECOVERED, {"clusters_told": True}, False, id="clusters are still locked"),
        pytest.param(AlertType.CLUSTER_UNLOCK_FAILED, {"clusters_told": True}, False, id="and stay so"),
        pytest.param(AlertType.CLUSTER_UNLOCKED, {"status": IncidentStatus.RESOLVED}, True, id="they are let in"),
        pytest.param(AlertType.ACTOR_FOUND, {"status": IncidentStatus.RESOLVED}, True, id="a late alert of it"),
    ],
)
def test_a_finding_is_over_with_its_incident(kind: AlertType, fields: dict[str, Any], *, over: bool) -> None:
    told = finding(kind, incident(**fields))
    assert told.over is over
    assert (told.severity is Severity.INFO) is over


def test_what_no_incident_stands_behind_is_no_finding() -> None:
    assert finding_of(changed(alert(), incident_id=None), incident()) is None
    assert finding_of(changed(alert(), key=None), incident()) is None


def test_a_finding_is_named_once_in_its_newest_state() -> None:
    told = [finding(sequence=number, message=f"{number}") for number in (3, 9, 4)]
    other = finding(finding_id="another")
    assert {each.finding_id: each.sequence for each in newest([*told, other])} == {FINDING_ID: 9, "another": 7}


# --- the request ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client() -> Any:
    return boto3.Session("AKIAKEYVIGILITSELF01", "made-up", region_name="us-west-2").client("securityhub")


@pytest.fixture
def hub(client: Any) -> SecurityHubFindings:
    hub = SecurityHubFindings(account_id="111111111111", partition="aws", region="us-west-2", stack_name="keyvigil")
    hub.__dict__.update(_client=client)
    return hub


@pytest.fixture
def stub(client: Any) -> Iterator[Stubber]:
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()


def test_an_incident_is_sent_as_asff_has_it(hub: SecurityHubFindings, stub: Stubber) -> None:
    expected = {
        "SchemaVersion": "2018-10-08",
        "Id": f"keyvigil/{FINDING_ID}",
        "ProductArn": PRODUCT,
        "GeneratorId": "keyvigil/incident",
        "AwsAccountId": "111111111111",
        "Types": ["Software and Configuration Checks/KMS key"],
        "CreatedAt": "2026-11-22T03:00:00.000Z",
        "UpdatedAt": "2026-11-22T03:00:07.000007Z",
        "FirstObservedAt": "2026-11-22T03:00:00.000Z",
        "LastObservedAt": "2026-11-22T03:00:07.000Z",
        "Severity": {"Label": "CRITICAL", "Original": "critical"},
        "FindingProviderFields": {
            "Severity": {"Label": "CRITICAL", "Original": "critical"},
            "Types": ["Software and Configuration Checks/KMS key"],
        },
        "Title": f"KMS key {KMS_KEY} of project acme-prod: KEY_DISABLED",
        "Description": "The key does not work: KEY_DISABLED. Last told: key.unhealthy. Incident 01JINCIDENT.",
        "Remediation": {"Recommendation": {"Text": "Mend it."}},
        "ProductFields": {
            "keyvigil/project_id": "acme-prod",
            "keyvigil/incident_id": "01JINCIDENT",
            "keyvigil/key_account_id": CUSTOMER,
            "keyvigil/cause": "KEY_DISABLED",
            "keyvigil/alert_type": "key.unhealthy",
            "keyvigil/dedup_key": f"{FINDING_ID}/key",
        },
        "Resources": [
            {"Type": "AwsKmsKey", "Id": KEY_ARN, "Partition": "aws", "Region": "us-west-2"},
            {"Type": "Other", "Id": "acme-prod/vectors-prod", "Details": {"Other": {"status": "LOCKED"}}},
        ],
        "RecordState": "ACTIVE",
    }
    stub.add_response(
        "batch_import_findings", {"FailedCount": 0, "SuccessCount": 1, "FailedFindings": []}, {"Findings": [expected]}
    )
    assert hub.import_findings([finding()]) == {}


def test_what_is_over_is_archived(hub: SecurityHubFindings) -> None:
    sent = hub.asff(finding(AlertType.CLUSTER_UNLOCKED, incident(status=IncidentStatus.RESOLVED)))
    assert (sent["RecordState"], sent["Severity"]["Label"]) == ("ARCHIVED", "INFORMATIONAL")
    assert "Workflow" not in sent


@pytest.mark.parametrize("kind", [AlertType.KEY_SUSPECT, AlertType.CLUSTER_LOCKED, AlertType.KEY_RECOVERED])
def test_a_finding_has_all_that_asff_requires_and_nothing_that_the_service_does_not_know(
    hub: SecurityHubFindings, client: Any, kind: AlertType
) -> None:
    shape = client.meta.service_model.operation_model("BatchImportFindings").input_shape
    assert shape.members["Findings"].metadata["max"] == BATCH
    sent = hub.asff(finding(kind))
    report = ParamValidator().validate({"Findings": [sent]}, shape)
    assert report.generate_report() == ""
    assert set(shape.members["Findings"].member.required_members) <= sent.keys()
    lacking = ParamValidator().validate({"Findings": [{**sent, "Title": 1, "Nonsense": ""}]}, shape)
    assert lacking.has_errors()


def test_texts_fit_and_break_out_of_nothing(hub: SecurityHubFindings) -> None:
    clusters = tuple(AffectedCluster(cluster_id=f"c{n}", status=ClusterStatus.LOCKED) for n in range(200))
    sent = hub.asff(finding(message="line\nline\x00" + "x" * 2000, summary=" \n", clusters=clusters, cause="C" * 300))
    assert (len(sent["Title"]), len(sent["Description"]), len(sent["Resources"])) == (256, 1024, RESOURCES)
    assert sent["Description"].startswith("line line x")
    assert sent["Remediation"]["Recommendation"]["Text"] == "-"


def test_a_runbook_that_can_be_opened_is_linked(hub: SecurityHubFindings) -> None:
    url = "https://example.com/alerts#keyunhealthy"
    assert hub.asff(finding(runbook=url))["Remediation"]["Recommendation"]["Url"] == url


def test_updates_of_one_millisecond_are_told_apart(hub: SecurityHubFindings) -> None:
    first, second = (hub.asff(finding(sequence=number))["UpdatedAt"] for number in (8, 9))
    assert first < second


def answer(*failed: tuple[str, str]) -> dict[str, Any]:
    refused = [{"Id": f"keyvigil/{name}", "ErrorCode": code, "ErrorMessage": "no"} for name, code in failed]
    return {"FailedCount": len(refused), "SuccessCount": 1, "FailedFindings": refused}


def test_more_than_a_hundred_go_in_several_requests(hub: SecurityHubFindings, stub: Stubber) -> None:
    sizes: list[int] = []
    stub.client.meta.events.register(
        "provide-client-params.securityhub.*",
        lambda params, **_: sizes.append(len(params["Findings"])),
        unique_id="sizes",
    )
    for _ in range(3):
        stub.add_response("batch_import_findings", answer(), {"Findings": ANY})
    assert hub.import_findings([finding(finding_id=f"f{number}") for number in range(2 * BATCH + 1)]) == {}
    stub.client.meta.events.unregister("provide-client-params.securityhub.*", unique_id="sizes")
    assert sizes == [BATCH, BATCH, 1]


def test_what_was_refused_is_named_and_nothing_else(hub: SecurityHubFindings, stub: Stubber) -> None:
    stub.add_response(
        "batch_import_findings", answer(("b", "InternalFailure"), ("c", "InvalidInput")), {"Findings": ANY}
    )
    failed = hub.import_findings([finding(finding_id=name) for name in "abc"])
    assert {name: error.refused for name, error in failed.items()} == {"b": False, "c": True}
    assert str(failed["b"]) == "Security Hub refused the finding: InternalFailure"


def test_one_that_spoils_its_request_is_found_and_the_others_are_taken(hub: SecurityHubFindings, stub: Stubber) -> None:
    stub.add_client_error("batch_import_findings", "InvalidInputException")
    stub.add_response("batch_import_findings", answer(), {"Findings": ANY})
    stub.add_client_error("batch_import_findings", "InvalidInputException")
    failed = hub.import_findings([finding(finding_id=name) for name in "ab"])
    assert {name: error.refused for name, error in failed.items()} == {"b": True}


@pytest.mark.parametrize("code", ["InvalidAccessException", "LimitExceededException", "InternalException"])
def test_a_request_that_is_refused_is_sent_again_later(hub: SecurityHubFindings, stub: Stubber, code: str) -> None:
    stub.add_client_error("batch_import_findings", code)
    failed = hub.import_findings([finding()])
    assert (failed[FINDING_ID].refused, failed[FINDING_ID].unreachable) == (False, False)


def test_nobody_who_answers_is_no_success(
    hub: SecurityHubFindings, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def times_out(*_: Any) -> None:
        raise ConnectTimeoutError(endpoint_url="https://securityhub.us-west-2.amazonaws.com")

    monkeypatch.setattr(client, "_make_api_call", times_out)
    assert hub.import_findings([finding()])[FINDING_ID].unreachable


# --- the outbox -------------------------------------------------------------------------------------------------


class World:
    """A relay in a stack that wants findings, or does not."""

    def __init__(self, *, wanted: bool = True, store: MemoryStore | None = None) -> None:
        self.store, self.notifier, self.hub = store or MemoryStore(), FakeNotifier(), FakeFindings()
        self.store.put(project(), incident())
        self.relay = relay_of(self.store, self.notifier, FakeClock(NOW), findings=self.hub if wanted else None)

    def writes(self, *told: Alert) -> list[str]:
        rows = [OutboxRow(row_id=each.alert_id, project_id="acme-prod", created_at=NOW, alert=each) for each in told]
        self.store.put(*rows)
        return [row.row_id for row in rows]

    def silence(self) -> None:
        mute = silence("key.unhealthy")
        self.store.put(Silences(project_id="acme-prod", silences=(mute,)))

    def row(self, row_id: str) -> OutboxRow:
        found = self.store.outbox_row(row_id)
        assert found is not None
        return found


def test_alerts_of_one_incident_are_one_finding_in_one_request() -> None:
    world = World()
    kinds = (AlertType.KEY_SUSPECT, AlertType.KEY_UNHEALTHY, AlertType.CLUSTER_LOCKED)
    rows = world.writes(*(alert(kind, number) for number, kind in enumerate(kinds, start=1)))
    assert world.relay(rows).sent == 3
    assert world.hub.requests == [[FINDING_ID]]
    assert world.hub.found[FINDING_ID].sequence == 3
    assert Target.FINDING in world.row(rows[0]).delivered


def test_a_finding_is_retried_by_itself() -> None:
    world = World()
    world.hub.refuses[FINDING_ID] = DeliveryError("Security Hub refused the finding: InternalFailure")
    rows = world.writes(alert())
    result = world.relay(rows)
    assert (result.sent, [target for _, target, _ in result.failures]) == (0, [Target.FINDING])
    delivered = world.row(rows[0]).delivered
    assert {Target.TOPIC, Target.BUS} <= set(delivered)
    assert Target.FINDING not in delivered

    world.hub.refuses.clear()
    assert world.relay(rows).sent == 1
    assert world.relay(rows).sent == 0
    assert (len(world.notifier.published), len(world.notifier.bus)) == (1, 1)
    assert len(world.hub.requests) == 2


def test_the_finding_of_a_silenced_alert_is_retried_and_nobody_else_hears() -> None:
    world = World()
    world.silence()
    world.hub.refuses[FINDING_ID] = DeliveryError("Security Hub refused the finding: InternalFailure")
    rows = world.writes(alert())
    result = world.relay(rows)
    assert (result.withheld, [target for _, target, _ in result.failures]) == (1, [Target.FINDING])
    assert world.row(rows[0]).sent_at is None

    world.hub.refuses.clear()
    again = world.relay(rows)
    assert (again.sent, again.withheld, again.failures) == (0, 0, ())
    assert world.hub.found[FINDING_ID].sequence == 7
    assert world.row(rows[0]).sent_at is not None
    assert (world.notifier.published, world.notifier.bus) == ([], [])


def test_a_silenced_alert_whose_finding_was_taken_is_done_with() -> None:
    world = World()
    world.silence()
    rows = world.writes(alert())
    assert world.relay(rows).withheld == 1
    assert world.row(rows[0]).sent_at is not None


@pytest.mark.parametrize("silenced", [False, True])
def test_what_waits_for_a_finding_is_sent_when_the_stack_wants_none_any_more(*, silenced: bool) -> None:
    world = World()
    if silenced:
        world.silence()
    world.hub.refuses[FINDING_ID] = DeliveryError("no")
    rows = world.writes(alert())
    world.relay(rows)
    assert world.row(rows[0]).sent_at is None
    World(wanted=False, store=world.store).relay(rows)
    assert world.row(rows[0]).sent_at is not None


def test_only_what_was_refused_is_sent_again() -> None:
    world = World()
    world.store.put(incident(incident_id="01JOTHER"))
    rows = world.writes(alert(), alert(sequence=8, incident_id="01JOTHER"))
    world.hub.refuses[FINDING_ID] = DeliveryError("no")
    world.relay(rows)
    world.relay(rows)
    assert world.hub.requests[1] == [FINDING_ID]


@pytest.mark.parametrize("trouble", [RuntimeError("oh"), DeliveryError("away", unreachable=True)])
def test_whatever_becomes_of_findings_subscribers_hear(trouble: Exception) -> None:
    world = World()
    world.hub.broken = trouble
    world.relay(world.writes(alert()))
    assert (len(world.notifier.published), len(world.notifier.bus)) == (1, 1)


def test_a_finding_that_is_never_taken_is_set_aside_when_all_else_has_it() -> None:
    world = World()
    world.hub.refuses[FINDING_ID] = DeliveryError("Security Hub refused the finding: InvalidInput", refused=True)
    rows = world.writes(alert())
    assert [row_id for row_id, _ in world.relay(rows).set_aside] == rows


def test_a_stack_that_wants_none_makes_none() -> None:
    world = World(wanted=False)
    rows = world.writes(alert())
    assert world.relay(rows).sent == 1
    delivered = world.row(rows[0]).delivered
    assert {Target.TOPIC, Target.BUS} <= set(delivered)
    assert Target.FINDING not in delivered


@pytest.mark.parametrize("wanted", ["true", "false", ""])
def test_the_stacks_parameter_decides(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    told = {
        "KEYVIGIL_SECURITY_HUB": wanted,
        "KEYVIGIL_STACK_NAME": "keyvigil",
        "KEYVIGIL_OPERATOR_TOPIC_ARN": "arn:aws:sns:us-west-2:111111111111:operator",
    }
    monkeypatch.setattr(wiring, "settings", lambda: Settings(told, "us-west-2"))
    found = wiring._findings.__wrapped__()
    assert (found is not None) is (wanted == "true")
    if isinstance(found, SecurityHubFindings):
        assert found.asff(finding())["ProductArn"] == PRODUCT


def test_what_no_incident_stands_behind_waits_for_no_finding() -> None:
    world = World()
    rows = world.writes(alert(incident_id=None), alert(sequence=8, incident_id="01JGONE"))
    assert world.relay(rows).sent == 2
    assert world.hub.requests == []
