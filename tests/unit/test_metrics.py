"""What the code counts: under whose name, with which dimensions, and that zeros are counted too."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from keyvigil.domain.canaries import STACKS_OWN
from keyvigil.domain.incidents import IncidentStatus
from keyvigil.use_cases.audit_roles import AuditRoles
from keyvigil.use_cases.check_canary import CanaryResult
from keyvigil.use_cases.check_key import CheckResult
from keyvigil.use_cases.follow_receivers import FollowReport
from keyvigil.use_cases.keep_pointers import KeepPointers
from keyvigil.use_cases.keep_topics import KeptTopics
from keyvigil.use_cases.open_shut_clusters import OpenedClusters
from keyvigil.use_cases.plan_actor_searches import PlanActorSearches
from keyvigil.use_cases.plan_sweep import SweepResult
from keyvigil.use_cases.quiet import TellAgain
from keyvigil.use_cases.receive_key_event import Received
from keyvigil.use_cases.reconcile import ReconcileReport
from keyvigil.use_cases.relay_outbox import RelayResult
from keyvigil.use_cases.settle_lockout import Settlement
from keyvigil.use_cases.stop_orphans import StoppedOrphans
from keyvigil.use_cases.tell_stale import TellStale
from tests import recorded_events as recordings
from tests.examples import KEY_ID, canary, key
from tests.fakes import CountingIds, FakeClock, FakeQueue, MemoryStore
from tests.infra.dashboard_rules import dashboard_metrics
from tests.infra.source_template import SourceTemplate, Template
from tests.unit.conftest import NAMESPACE
from tests.unit.test_functions import FUNCTIONS, ROOT, Context, Recorder, Use, load, message

NOT_COUNTS = {"ProbeLatency", "SweepDuration", "CanariesUnwell", "TimeToDetection", "TimeToLockout"}
"""A time of zero would be a lie; there is one only where something took time. No canary is well that nobody probed: the
alarm must see that there is no number."""


class Metric(NamedTuple):
    """One metric, as CloudWatch files it."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]


def published(printed: str) -> dict[Metric, list[float]]:
    """What one invocation's lines in embedded metric format make CloudWatch file."""
    found: dict[Metric, list[float]] = {}
    for line in printed.splitlines():
        document = json.loads(line) if line.startswith("{") else {}
        for directive in document.get("_aws", {}).get("CloudWatchMetrics", []):
            for names in directive["Dimensions"]:
                dimensions = tuple((name, document[name]) for name in names)
                for each in directive["Metrics"]:
                    value = document[each["Name"]]
                    values = value if isinstance(value, list) else [value]
                    found[Metric(directive["Namespace"], each["Name"], dimensions)] = values
    return found


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    return Use(monkeypatch)


@pytest.fixture
def idle(use: Use, capsys: pytest.CaptureFixture[str]) -> dict[Metric, list[float]]:
    """What is published by each function that can do nothing."""
    store = MemoryStore()
    store.put(key())
    use(
        store=store,
        plan_sweep=Recorder(SweepResult(claimed=True, keys_due=0, keys_sent=0)),
        reconcile=ReconcileReport,
        follow_receivers=FollowReport,
        keep_topics=KeptTopics,
        audit_roles=AuditRoles(store, FakeClock()),
        plan_actor_searches=PlanActorSearches(store, FakeQueue(), FakeClock()),
        keep_pointers=KeepPointers(store),
        open_shut_clusters=OpenedClusters,
        stop_orphans=StoppedOrphans,
        tell_stale=TellStale(store, FakeClock(), CountingIds()),
        tell_again=TellAgain(store, FakeClock(), CountingIds()),
        heartbeat=None,
        settle_lockout=Recorder(Settlement(status=IncidentStatus.LOCKING, failed=())),
        check_key=Recorder(CheckResult(key=key(), probed=True, confirmed=False)),
        relay_outbox=Recorder(RelayResult(sent=0, failures=())),
        receive_key_event=Recorder(Received(registrations=0, messages=0, hints=0, left_out=False)),
    )
    load("plan_sweep").handler({}, Context())
    unreadable = {**message("nothing"), "body": "{}"}
    load("check_keys").handler({"Records": [unreadable]}, Context())
    load("relay_outbox").handler({"Records": []}, Context())
    load("settle_lockout").handler(dict.fromkeys(("project_id", "key_id", "incident_id"), "x"), Context())
    load("receive_key_event").handler(recordings.recorded("DisableKey"), Context())
    return published(capsys.readouterr().out)


@pytest.fixture
def busy(use: Use, idle: dict[Metric, list[float]], capsys: pytest.CaptureFixture[str]) -> dict[Metric, list[float]]:
    """The same, and a probe of a key and of a canary."""
    use(check_canary=Recorder(CanaryResult(canary=canary(), probed=True)))
    of_canary = message(STACKS_OWN)
    of_canary["body"] = json.dumps({**json.loads(of_canary["body"]), "canary": True})
    load("check_keys").handler({"Records": [of_canary]}, Context())
    load("check_keys").handler({"Records": [message(KEY_ID)]}, Context())
    noticed = CheckResult(key=key(), probed=True, confirmed=False, noticed_after=timedelta(minutes=1))
    locked = Settlement(status=IncidentStatus.LOCKED, failed=(), locked_after=timedelta(seconds=24))
    use(check_key=Recorder(noticed), settle_lockout=Recorder(locked))
    load("check_keys").handler({"Records": [message(KEY_ID)]}, Context())
    load("settle_lockout").handler(dict.fromkeys(("project_id", "key_id", "incident_id"), "x"), Context())
    return idle | published(capsys.readouterr().out)


@pytest.fixture(scope="module")
def template() -> Template:
    """The template as SAM renders it, which CloudFormation gets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-west-2")
        return SourceTemplate.load().render()


def in_template(template: Template) -> Iterator[Metric]:
    """The metrics of ours that the alarms and the dashboard look at, in the stack `keyvigil`."""
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::CloudWatch::Alarm":
            alarm = resource["Properties"]
            dimensions = tuple((each["Name"], str(each["Value"])) for each in alarm.get("Dimensions", []))
            yield Metric(_filled(alarm["Namespace"]), alarm["MetricName"], dimensions)
    for each in dashboard_metrics(template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]):
        yield Metric(_filled(each.namespace), each.name, each.dimensions)


def _filled(text: Any) -> str:
    text = text["Fn::Sub"] if isinstance(text, dict) else text
    return str(text).replace("${AWS::StackName}", "keyvigil")


def test_what_alarms_and_dashboard_look_at_is_published(template: Template, busy: dict[Metric, list[float]]) -> None:
    ours = {each for each in in_template(template) if not each.namespace.startswith("AWS/")}
    assert len(ours) > 25
    assert ours - busy.keys() == set()


def test_whatever_is_published_is_on_the_dashboard(template: Template, busy: dict[Metric, list[float]]) -> None:
    assert busy.keys() - set(in_template(template)) == set()


def test_zeros_are_published_by_whoever_can_do_nothing(
    idle: dict[Metric, list[float]], busy: dict[Metric, list[float]]
) -> None:
    assert {each.name for each in busy.keys() - idle.keys()} == {
        "ProbeLatency",
        "CanariesUnwell",
        "TimeToDetection",
        "TimeToLockout",
    }
    counts = {metric.name: sum(values) for metric, values in idle.items() if metric.name not in NOT_COUNTS}
    assert counts.pop("SweepsDone") == 1
    assert counts.pop("KeysHealthy") == 1
    assert counts.pop("KeyEvents") == 1
    assert set(counts.values()) == {0}


def test_no_metric_has_a_key_or_a_project_as_a_dimension(busy: dict[Metric, list[float]]) -> None:
    """Each value of a dimension is a metric of its own, at $0.30 a month."""
    assert {name for metric in busy for name, _ in metric.dimensions} == {"service"}
    assert {value for metric in busy for _, value in metric.dimensions} == {
        "plan_sweep",
        "receive_key_event",
        "check_keys",
        "relay_outbox",
        "settle_lockout",
    }


def test_each_stack_has_a_namespace_of_its_own(template: Template, busy: dict[Metric, list[float]]) -> None:
    """Another stack's sweeps must not keep this one's alarm quiet."""
    told = {
        _filled(resource["Properties"]["Environment"]["Variables"]["POWERTOOLS_METRICS_NAMESPACE"])
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::Lambda::Function"
    }
    assert told == {NAMESPACE}
    assert {metric.namespace for metric in busy} == {NAMESPACE}
    for name in FUNCTIONS:
        source = (Path(ROOT) / "functions" / name / "app.py").read_text()
        assert not re.search(r"Metrics\([^)]*namespace", source), f"{name} names a namespace; the template tells it one"
