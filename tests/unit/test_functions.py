"""The functions' handlers: each takes its event apart, makes one call and maps the result."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, override

import pytest

from keyvigil import wiring
from keyvigil.adapters.plain_data import from_plain, to_plain
from keyvigil.domain.alerts import OutboxRow, WorkflowStart
from keyvigil.domain.attribution import HINT_KEPT, EventHints, begin_search
from keyvigil.domain.canaries import CANARY_PROJECT
from keyvigil.domain.clusters import ClusterStatus, LockAction
from keyvigil.domain.held import HeldFor
from keyvigil.domain.incidents import (
    Incident,
    IncidentStatus,
    LockoutDecision,
    LockoutVerb,
    Mending,
    RecoveryDecision,
    RecoveryVerb,
    WorkflowKind,
)
from keyvigil.domain.key_events import pointers_to
from keyvigil.domain.keys import Baseline, Health, KeyFacts, KeyStatus, KeyUse, Registration, Trigger
from keyvigil.domain.verdicts import Cause, Outcome, Verdict
from keyvigil.errors import (
    ConflictError,
    DamagedItemError,
    DeliveryError,
    NewerItemError,
    NotFoundError,
    UnreadableItemsError,
)
from keyvigil.once import once
from keyvigil.ports import (
    CheckMessage,
    FindActorMessage,
    OperationAnswer,
    ProbeAnswer,
    RegistrationAnswer,
    RestoreAnswer,
    ValidationAnswer,
)
from keyvigil.use_cases.audit_roles import AuditRoles
from keyvigil.use_cases.call_receiver import CallReport
from keyvigil.use_cases.check_canary import CanaryResult
from keyvigil.use_cases.check_key import CheckKey, CheckResult
from keyvigil.use_cases.find_actor import FindActor, SearchOutcome
from keyvigil.use_cases.follow_receivers import FollowReport
from keyvigil.use_cases.keep_pointers import KeepPointers
from keyvigil.use_cases.keep_topics import KeepTopics
from keyvigil.use_cases.lock_clusters import LockoutPlan
from keyvigil.use_cases.open_shut_clusters import OpenedClusters
from keyvigil.use_cases.plan_actor_searches import PlanActorSearches
from keyvigil.use_cases.plan_sweep import PlanSweep
from keyvigil.use_cases.quiet import TellAgain
from keyvigil.use_cases.read_fleet import ReadFleet
from keyvigil.use_cases.receive_key_event import ReceiveKeyEvent
from keyvigil.use_cases.reconcile import ReconcileReport
from keyvigil.use_cases.relay_outbox import RelayOutbox
from keyvigil.use_cases.settle_lockout import Settlement
from keyvigil.use_cases.stop_orphans import StoppedOrphans
from keyvigil.use_cases.tell_stale import StaleReport, TellStale
from keyvigil.use_cases.unlock_clusters import RecoveryPlan
from tests import recorded_events as recordings
from tests.examples import (
    CUSTOMER,
    EXTERNAL_ID,
    KEY_ARN,
    KEY_ID,
    KMS_KEY,
    NOW,
    ROLE_ARN,
    actor,
    canary,
    incident,
    key,
    project,
    verdict,
)
from tests.fakes import (
    CountingIds,
    FakeClock,
    FakeHeartbeat,
    FakeHistory,
    FakeNotifier,
    FakeQueue,
    FakeTopics,
    FakeWorkflow,
    MemoryStore,
    ScriptedProber,
    changed,
    no_doubt,
)
from tests.infra.source_template import SourceTemplate
from tests.unit.relaying import relay_of

ROOT = Path(__file__).resolve().parents[2]
# Powertools warns about an invocation in which nothing was done that could be counted.
nothing_to_count = pytest.mark.filterwarnings("ignore:No application metrics to publish")
FUNCTIONS = sorted(path.parent.name for path in ROOT.glob("functions/*/app.py"))


@dataclass(frozen=True)
class Context:
    """A LambdaContext, as far as Powertools looks at it."""

    function_name: str = "keyvigil-function"
    memory_limit_in_mb: int = 1024
    invoked_function_arn: str = "arn:aws:lambda:us-west-2:111111111111:function:keyvigil-function"
    aws_request_id: str = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


def load(name: str) -> ModuleType:
    """A function's app.py, imported by its path: every one of them is called `app`."""
    spec = importlib.util.spec_from_file_location(f"function_{name}", ROOT / "functions" / name / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Use:
    """Puts something behind a name of `wiring`."""

    patch: pytest.MonkeyPatch

    def __call__(self, **wired: Any) -> None:
        for name, value in wired.items():
            self.patch.setattr(wiring, name, lambda value=value: value)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    return Use(monkeypatch)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.put(project(), key())
    return store


class Recorder:
    """A use case that keeps what it was called with, and gives one answer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []
        self.named: list[dict[str, Any]] = []

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.named.append(named)
        self.calls.append(args)
        return self.answer


def metrics_in(printed: str) -> dict[str, float]:
    """The metrics of one invocation, from its line in embedded metric format."""
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    [document] = [line for line in lines if "_aws" in line]
    names = [each["Name"] for each in document["_aws"]["CloudWatchMetrics"][0]["Metrics"]]
    return {name: sum(document[name]) for name in names}


def counted_in(printed: str) -> dict[str, float]:
    """The metrics of one invocation that are not zero."""
    return {name: value for name, value in metrics_in(printed).items() if value}


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What was written to the log, with its extra fields."""
    return [{**vars(record), "message": record.getMessage()} for record in caplog.records]


# --- importing --------------------------------------------------------------------------------------------------


def test_importing_the_functions_and_the_wiring_calls_nobody_and_needs_no_environment() -> None:
    program = textwrap.dedent(
        """
        import importlib.util, os, socket, sys

        def refuse(*args, **kwargs):
            raise AssertionError("a module went to the network while it was imported")

        socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
        os.environ.clear()
        import keyvigil.wiring
        assert "boto3" not in sys.modules, "wiring loads its adapters when they are asked for"
        for number, path in enumerate(sys.argv[1:]):
            spec = importlib.util.spec_from_file_location(f"app{number}", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            assert callable(module.handler), path
        """
    )
    paths = [str(ROOT / "functions" / name / "app.py") for name in FUNCTIONS]

    done = subprocess.run(  # noqa: S603  this interpreter, and a program that stands above
        [sys.executable, "-I", "-c", program, *paths],
        env={},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert len(FUNCTIONS) == 13


@cache
def template() -> SourceTemplate:
    return SourceTemplate.load()


def environment_in_template(name: str) -> dict[str, str]:
    """The variables that template.yaml gives a function; every value is a number, so that it fits each."""
    shared = template().content["Globals"]["Function"].get("Environment", {}).get("Variables", {})
    [own] = [
        resource["Properties"].get("Environment", {}).get("Variables", {})
        for resource in template().resources.values()
        if resource.get("Properties", {}).get("CodeUri") == f"functions/{name}"
    ]
    return dict.fromkeys([*shared, *own], "3")


def wired_by(name: str) -> set[str]:
    """The names of `wiring` that a function's code calls."""
    edge = "layers/keyvigil/keyvigil/api/app.py"
    source = ROOT / (edge if name == "registry_api" else f"functions/{name}/app.py")
    return set(re.findall(r"\bwiring\.(\w+)\(\)", source.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_template_tells_each_function_every_setting_that_its_wiring_asks_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in list(os.environ):
        if variable.startswith("KEYVIGIL_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    for variable, value in environment_in_template(name).items():
        monkeypatch.setenv(variable, value)
    cached = [value for value in vars(wiring).values() if isinstance(value, once)]

    assert wired_by(name)
    try:
        for wired in wired_by(name):
            getattr(wiring, wired)()
    finally:
        for each in cached:
            each.cache_clear()


def test_what_signs_webhooks_is_loaded_by_call_receiver_alone() -> None:
    program = textwrap.dedent(
        """
        import json, os, sys
        from keyvigil import wiring
        from keyvigil.once import once

        for name, (variables, wired) in json.loads(sys.argv[1]).items():
            os.environ.update(variables)
            for each in wired:
                getattr(wiring, each)()
            for value in vars(wiring).values():
                if isinstance(value, once):
                    value.cache_clear()
            if "standardwebhooks" in sys.modules:
                print(name)
        """
    )
    others = [name for name in FUNCTIONS if name != "call_receiver"]
    wanted = {name: (environment_in_template(name), sorted(wired_by(name))) for name in [*others, "call_receiver"]}
    environ = {"AWS_REGION": "us-west-2", "AWS_DEFAULT_REGION": "us-west-2"}

    done = subprocess.run(  # noqa: S603  this interpreter, and a program that stands above
        [sys.executable, "-c", program, json.dumps(wanted)], env=environ, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["call_receiver"]


def test_the_api_is_told_both_state_machines_because_it_shows_their_executions() -> None:
    told = environment_in_template("registry_api")

    assert {"KEYVIGIL_LOCKOUT_STATE_MACHINE_ARN", "KEYVIGIL_RECOVERY_STATE_MACHINE_ARN"} <= told.keys()


# --- check_keys: a batch from the queue -------------------------------------------------------------------------


def message(key_id: str, due_at: datetime = NOW) -> dict[str, Any]:
    body = {"project_id": "acme-prod", "key_id": key_id, "due_at": to_plain(due_at)}
    return {
        "messageId": f"message of {key_id}",
        "receiptHandle": "handle",
        "body": json.dumps(body),
        "attributes": {},
        "messageAttributes": {},
        "md5OfBody": "",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-west-2:111111111111:check",
        "awsRegion": "us-west-2",
    }


def failed(answer: dict[str, Any]) -> list[str]:
    return [each["itemIdentifier"].removeprefix("message of ") for each in answer["batchItemFailures"]]


class Checks:
    """`check_key` by key id: what each does, or that it finds the key healthy."""

    def __init__(self, **what: Callable[[], Any]) -> None:
        self.what = what
        self.checked: list[str] = []
        self.asked: list[tuple[Trigger, datetime | None]] = []

    def __call__(
        self, project_id: str, key_id: str, trigger: Trigger, *, due_at: datetime | None = None
    ) -> CheckResult:
        self.asked.append((trigger, due_at))
        if key_id in self.what:
            self.what[key_id]()
        self.checked.append(key_id)
        return CheckResult(key=key(key_id=key_id), probed=True, confirmed=False)


def explode() -> None:
    raise RuntimeError("the table did not answer")


def test_a_record_that_explodes_and_one_that_hangs_do_not_spoil_the_others(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_keys = load("check_keys")
    monkeypatch.setattr(check_keys, "RECORD_SECONDS", 1)
    released = threading.Event()
    checks = Checks(explodes=explode, hangs=lambda: released.wait(timeout=60))
    use(check_key=checks)
    batch = ["first", "explodes", "hangs", "second", "third"]

    try:
        answer = check_keys.handler({"Records": [message(key_id) for key_id in batch]}, Context())
        checked = sorted(checks.checked)
    finally:
        released.set()

    assert sorted(failed(answer)) == ["explodes", "hangs"]
    assert checked == ["first", "second", "third"]


def test_a_key_that_newer_code_wrote_fails_by_itself_and_the_log_says_why(
    use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    def newer() -> None:
        raise NewerItemError("PROJECT#acme-prod/KEY#newer has schema 9 of KEY, and this code knows up to 1")

    use(check_key=Checks(newer=newer))

    answer = load("check_keys").handler({"Records": [message("newer"), message("other")]}, Context())

    assert failed(answer) == ["newer"]
    [line] = [line for line in logged(caplog) if line["message"] == "cannot be read"]
    assert line["key_id"] == "newer"
    assert "has schema 9 of KEY" in str(line["exc_info"])


def test_a_record_is_given_up_before_lambda_gives_up_the_whole_batch() -> None:
    own = template().resources["CheckKeysFunction"]["Properties"].get("Timeout")
    timeout = own or template().content["Globals"]["Function"]["Timeout"]

    assert timeout - load("check_keys").RECORD_SECONDS >= 3


def test_the_records_of_a_batch_are_checked_at_the_same_time(use: Use) -> None:
    # Each check waits until all ten are under way.
    together = threading.Barrier(10)
    names = [f"key-{number}" for number in range(10)]
    use(check_key=Checks(**{name: lambda: together.wait(timeout=20) for name in names}))

    answer = load("check_keys").handler({"Records": [message(name) for name in names]}, Context())

    assert failed(answer) == []


@nothing_to_count
def test_a_batch_that_fails_as_a_whole_names_every_record(use: Use) -> None:
    use(check_key=Checks(one=explode, two=explode))

    answer = load("check_keys").handler({"Records": [message("one"), message("two")]}, Context())

    assert failed(answer) == ["one", "two"]


def test_a_record_that_cannot_be_read_fails_by_itself(use: Use) -> None:
    use(check_key=Checks())
    unreadable = {**message("unreadable"), "body": "{}"}

    answer = load("check_keys").handler({"Records": [unreadable, message("readable")]}, Context())

    assert failed(answer) == ["unreadable"]


def test_a_key_that_was_removed_meanwhile_is_dropped_and_not_tried_again(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone() -> None:
        raise NotFoundError("key gone is not registered")

    use(check_key=Checks(gone=gone))

    answer = load("check_keys").handler({"Records": [message("gone"), message("there")]}, Context())

    assert failed(answer) == []
    assert metrics_in(capsys.readouterr().out)["KeysGone"] == 1


def test_a_message_is_a_scheduled_check_that_knows_when_the_key_was_due(use: Use) -> None:
    checks = Checks()
    use(check_key=checks)

    load("check_keys").handler({"Records": [message("one", due_at=NOW)]}, Context())

    assert checks.asked == [(Trigger.SCHEDULE, NOW)]


def test_a_batch_is_counted_by_verdict_and_a_key_probed_since_is_not_counted_as_a_probe(
    use: Use, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put(key(key_id="due"), key(key_id="sick"), key(key_id="probed-since", last_probed_at=NOW))
    clock = FakeClock(NOW)
    clock.advance(60)

    class Prober(ScriptedProber):
        def probe(self, key: Any, **_: Any) -> ProbeAnswer:
            self.probes += 1
            cause = Cause.KEY_DISABLED if key.key_id == "sick" else None
            return ProbeAnswer(verdict=verdict(cause, at=clock.now()), facts=None)

    prober = Prober()
    use(check_key=CheckKey(store, prober, clock, CountingIds(), doubt=no_doubt, confirmation_probes=3))
    later = NOW + timedelta(seconds=30)
    batch = [message("due", later), message("sick", later), message("probed-since", NOW)]

    answer = load("check_keys").handler({"Records": batch}, Context())

    assert failed(answer) == []
    assert prober.probes == 2
    counted = metrics_in(capsys.readouterr().out)
    assert (counted["VerdictHealthy"], counted["VerdictUnhealthy"], counted["KeysProbedSince"]) == (1, 1, 1)
    assert counted["ProbeLatency"] == 82


def test_what_has_no_room_in_the_share_is_told_the_caller_and_the_log_and_counted_as_no_probe(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    store, clock, prober = MemoryStore(), FakeClock(), ScriptedProber()
    store.put(project(), key(due_at=NOW + timedelta(minutes=5)))
    checks = CheckKey(
        store, prober, clock, CountingIds(), doubt=no_doubt, confirmation_probes=3, turn=lambda _key: None
    )
    use(check_key=checks)
    request = {"action": "check", "project_id": "acme-prod", "key_id": KEY_ID, "trigger": "request"}

    answer = load("check_keys").handler(request, Context())

    assert answer["error"] == "deferred"
    assert "QuotaSharePercent" in answer["message"]
    counted = metrics_in(capsys.readouterr().out)
    assert (counted["KeysProbedSince"], counted["VerdictHealthy"], prober.probes) == (0, 0, 0)


def canary_message(canary_id: str) -> dict[str, Any]:
    body = to_plain(CheckMessage(CANARY_PROJECT, canary_id, NOW, canary=True))
    return {**message(canary_id), "body": json.dumps(body)}


class ChecksCanaries:
    """`check_canary`: the stack's own is well, others are not, one was probed since, one is gone."""

    def __call__(self, canary_id: str, *, due_at: datetime | None = None) -> CanaryResult:
        assert due_at == NOW
        if canary_id == "gone":
            raise NotFoundError("canary gone is not registered")
        ill = None if canary_id == "stack" else verdict(Cause.ACCESS_DENIED)
        return CanaryResult(canary=canary(canary_id=canary_id, verdict=ill or verdict()), probed=canary_id != "since")


def test_canaries_come_with_the_keys_and_are_counted_by_themselves(
    use: Use, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    use(check_key=Checks(), check_canary=ChecksCanaries())
    canaries = [canary_message(each) for each in ("stack", "ill", "since", "gone")]

    answer = load("check_keys").handler({"Records": [*canaries, message("a-key")]}, Context())

    assert failed(answer) == []
    counted = metrics_in(capsys.readouterr().out)
    assert (counted["CanaryHealthy"], counted["CanaryUnhealthy"], counted["VerdictHealthy"]) == (1, 1, 1)
    assert counted["CanariesUnwell"] == 1
    told = [line for line in logged(caplog) if line["message"] == "probed a canary"]
    assert sorted((line["canary_id"], line["outcome"]) for line in told) == [("ill", "UNHEALTHY"), ("stack", "HEALTHY")]


def test_a_canary_that_is_well_is_counted_as_nought_so_that_the_alarm_knows_that_it_was_probed(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    use(check_canary=ChecksCanaries())

    load("check_keys").handler({"Records": [canary_message("stack")]}, Context())

    assert metrics_in(capsys.readouterr().out)["CanariesUnwell"] == 0


def test_a_message_about_a_canary_is_a_key_that_is_gone_to_who_does_not_know_canaries(
    use: Use, store: MemoryStore
) -> None:
    """While a stack is updated, an old `check_keys` may get a new `plan_sweep`'s message."""
    body = json.loads(canary_message("stack")["body"])
    del body["canary"]
    checks = CheckKey(store, ScriptedProber(), FakeClock(), CountingIds(), doubt=no_doubt, confirmation_probes=3)
    use(check_key=checks)

    answer = load("check_keys").handler({"Records": [{**message("stack"), "body": json.dumps(body)}]}, Context())

    assert failed(answer) == []


def test_a_denial_that_is_not_believed_is_counted(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    found = CheckResult(key=key(verdict=verdict(Cause.OWN_CREDENTIALS)), probed=True, confirmed=False, doubted=True)
    use(check_key=Recorder(found))

    load("check_keys").handler(
        {"action": "check", "project_id": "acme-prod", "key_id": KEY_ID, "trigger": "request"}, Context()
    )

    counted = metrics_in(capsys.readouterr().out)
    assert (counted["DenialsDoubted"], counted["VerdictUnknown"]) == (1, 1)


# --- check_keys: one request ------------------------------------------------------------------------------------


def test_a_request_to_check_answers_with_the_fields_that_the_workflows_branch_on(use: Use, store: MemoryStore) -> None:
    clock = FakeClock()
    clock.advance(60)
    prober = ScriptedProber(ProbeAnswer(verdict=verdict(Cause.KEY_DISABLED, at=clock.now()), facts=None))
    use(check_key=CheckKey(store, prober, clock, CountingIds(), doubt=no_doubt, confirmation_probes=3))
    request = {"action": "check", "project_id": "acme-prod", "key_id": KEY_ID, "trigger": "lockout"}

    answer = load("check_keys").handler(request, Context())

    [incident_id] = [incident_id for _, incident_id in store.open_incidents()]
    assert answer == {
        "error": None,
        "status": "SUSPECT",
        "outcome": "UNHEALTHY",
        "cause": "KEY_DISABLED",
        "confirmed": False,
        "incident_id": incident_id,
    }
    after = store.key("acme-prod", KEY_ID)
    assert after is not None
    assert after.last_trigger is Trigger.LOCKOUT


def test_a_confirmed_outage_is_told_to_the_workflow(use: Use) -> None:
    found = CheckResult(key=key(open_incident_id="01J"), probed=True, confirmed=True)
    use(check_key=Recorder(found))
    request = {"action": "check", "project_id": "acme-prod", "key_id": KEY_ID, "trigger": "lockout"}

    told = load("check_keys").handler(request, Context())

    assert (told["confirmed"], told["incident_id"]) == (True, "01J")


def test_a_request_may_say_when_the_key_was_due(use: Use) -> None:
    checks = Checks()
    use(check_key=checks)
    request = {
        "action": "check",
        "project_id": "acme-prod",
        "key_id": "one",
        "trigger": "request",
        "due_at": "2026-11-22T03:00:00.000Z",
    }

    load("check_keys").handler(request, Context())
    load("check_keys").handler({**request, "due_at": None}, Context())

    assert checks.asked == [(Trigger.REQUEST, NOW), (Trigger.REQUEST, None)]


def test_a_request_to_check_a_key_that_is_not_registered_says_so_without_failing(use: Use, store: MemoryStore) -> None:
    use(check_key=CheckKey(store, ScriptedProber(), FakeClock(), CountingIds(), doubt=no_doubt, confirmation_probes=3))
    request = {"action": "check", "project_id": "acme-prod", "key_id": "none", "trigger": "request"}

    answer = load("check_keys").handler(request, Context())

    assert answer == {"error": "not_found", "message": "key none is not registered in project acme-prod"}


def test_a_request_to_probe_a_registration_answers_so_that_the_api_can_read_it(use: Use) -> None:
    registration = Registration(
        project_id="acme-prod",
        key_arn=KEY_ARN,
        role_arn=ROLE_ARN,
        external_id=EXTERNAL_ID,
        use=KeyUse.CSE,
        context={"tested-by": "KeyVigil"},
    )
    expected = RegistrationAnswer(
        verdict=verdict(),
        role_checks_external_id=True,
        key_arn=KEY_ARN,
        baseline=Baseline.of(b"\x00\xff", registration.context, NOW),
        facts=KeyFacts(replica_regions=("eu-west-1",)),
    )
    seen: list[Registration] = []

    class Prober(ScriptedProber):
        def probe_registration(self, registration: Registration, **_: Any) -> RegistrationAnswer:
            seen.append(registration)
            return expected

    use(prober=Prober(), ask_canaries=no_doubt)
    request = {"action": "probe_registration", "registration": to_plain(registration)}

    answer = load("check_keys").handler(request, Context())

    assert seen == [registration]
    assert from_plain(json.loads(json.dumps(answer)), RegistrationAnswer) == expected


def test_a_key_is_validated_operation_by_operation_for_the_api(use: Use) -> None:
    registration = Registration(
        project_id="acme-prod", key_arn=KEY_ARN, role_arn=ROLE_ARN, external_id=EXTERNAL_ID, use=KeyUse.CMEK
    )
    prober = ScriptedProber()
    prober.validation = ValidationAnswer(
        verdict=verdict(Cause.ACCESS_DENIED),
        role_checks_external_id=True,
        operations=(OperationAnswer(operation="Encrypt", allowed=False, error="AccessDeniedException: no"),),
    )
    use(prober=prober, ask_canaries=no_doubt)

    answer = load("check_keys").handler({"action": "validate_key", "registration": to_plain(registration)}, Context())

    assert from_plain(json.loads(json.dumps(answer)), ValidationAnswer) == prober.validation


@pytest.mark.parametrize("found", [None, verdict(), verdict(Cause.KEY_DISABLED)])
def test_a_restore_check_asks_the_prober_about_the_stored_key_and_stores_nothing(
    use: Use, store: MemoryStore, capsys: pytest.CaptureFixture[str], found: Verdict | None
) -> None:
    prober = ScriptedProber()
    prober.restore = RestoreAnswer(verdict=found)
    use(store=store, prober=prober)
    event = {"action": "check_restore", "project_id": "acme-prod", "key_id": KEY_ID, "region": "us-west-2"}

    answer = load("check_keys").handler(event, Context())

    assert from_plain(json.loads(json.dumps(answer)), RestoreAnswer) == prober.restore
    assert store.commits == []
    assert counted_in(capsys.readouterr().out) == {"RestoreChecks": 1}


def test_a_restore_check_with_a_key_that_is_gone_says_so(use: Use, store: MemoryStore) -> None:
    use(store=store, prober=ScriptedProber())
    event = {"action": "check_restore", "project_id": "acme-prod", "key_id": "gone", "region": "us-west-2"}

    assert load("check_keys").handler(event, Context())["error"] == "not_found"


@pytest.mark.parametrize("action", ["probe_registration", "validate_key"])
def test_a_customer_is_not_told_to_mend_a_role_while_ours_is_broken(use: Use, action: str) -> None:
    registration = Registration(
        project_id="acme-prod", key_arn=KEY_ARN, role_arn=ROLE_ARN, external_id=EXTERNAL_ID, use=KeyUse.CMEK
    )
    prober = ScriptedProber()
    denied = verdict(Cause.ROLE_NOT_ASSUMABLE)
    prober.validation = ValidationAnswer(verdict=denied, role_checks_external_id=None, operations=())
    prober.registration = RegistrationAnswer(
        verdict=denied, role_checks_external_id=None, key_arn=None, baseline=None, facts=None
    )
    asked: list[str] = []

    def doubt(found: Verdict, region: str) -> Verdict:
        asked.append(region)
        return changed(found, outcome=Outcome.UNKNOWN, cause=Cause.OWN_CREDENTIALS)

    use(prober=prober, ask_canaries=doubt)

    answer = load("check_keys").handler({"action": action, "registration": to_plain(registration)}, Context())

    assert asked == ["us-west-2"]
    assert answer["verdict"]["cause"] == "OWN_CREDENTIALS"


@nothing_to_count
@pytest.mark.parametrize("request_", [{"action": "destroy"}, {}], ids=["another action", "no action"])
def test_an_unknown_action_is_an_error(request_: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it is `check`, `probe_registration`, `validate_key` or `check_restore`"):
        load("check_keys").handler(request_, Context())


# --- check_keys: events, and who acted --------------------------------------------------------------------------


def test_a_message_that_an_event_sent_is_checked_as_that(use: Use) -> None:
    checks = Checks()
    use(check_key=checks)
    body = to_plain(CheckMessage("acme-prod", KEY_ID, NOW, Trigger.EVENT))

    answer = load("check_keys").handler({"Records": [{**message(KEY_ID), "body": json.dumps(body)}]}, Context())

    assert failed(answer) == []
    assert checks.asked == [(Trigger.EVENT, NOW)]


@dataclass(frozen=True)
class Outage:
    """A key that was found broken before anybody told of it, and what could say who did it."""

    store: MemoryStore
    history: FakeHistory
    incident_id: str

    def incident(self) -> Incident:
        found = self.store.incident("acme-prod", self.incident_id)
        assert found is not None
        return found


@pytest.fixture
def outage(use: Use, store: MemoryStore) -> Outage:
    clock, ids = FakeClock(NOW + timedelta(minutes=1)), CountingIds()
    broken = ProbeAnswer(verdict=verdict(Cause.KEY_DISABLED, clock.now()), facts=None)
    check = CheckKey(store, ScriptedProber(broken), clock, ids, doubt=no_doubt, confirmation_probes=3)
    history = FakeHistory()
    use(check_key=check, find_actor=FindActor(store, history, clock, ids))
    found = check("acme-prod", KEY_ID, Trigger.SCHEDULE)
    clock.advance(60)
    return Outage(store, history, found.key.open_incident_id or "")


def of_event(due_at: datetime = NOW + timedelta(minutes=2)) -> dict[str, Any]:
    return {**message(KEY_ID), "body": json.dumps(to_plain(CheckMessage("acme-prod", KEY_ID, due_at, Trigger.EVENT)))}


def test_an_event_that_came_after_the_outage_was_found_says_who_did_it_right_after_its_probe(outage: Outage) -> None:
    outage.store.put(EventHints(project_id="acme-prod", key_id=KEY_ID, calls=(actor(),), kept_until=NOW + HINT_KEPT))

    answer = load("check_keys").handler({"Records": [of_event()]}, Context())

    assert failed(answer) == []
    assert outage.incident().actor == actor()
    assert outage.history.asked == []


def test_a_probe_that_was_committed_does_not_fail_because_nobody_could_be_named(use: Use, outage: Outage) -> None:
    class Loses:
        def from_events(self, *_: object) -> None:
            raise ConflictError

    use(find_actor=Loses())

    assert failed(load("check_keys").handler({"Records": [of_event()]}, Context())) == []


def search_record(incident_id: str) -> dict[str, Any]:
    return {**message("search"), "body": json.dumps(to_plain(FindActorMessage("acme-prod", incident_id)))}


def test_a_search_asks_cloudtrail_and_changes_no_verdict(
    outage: Outage, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = outage.store.key("acme-prod", KEY_ID)
    outage.history.recorded = [actor(event_time=NOW + timedelta(seconds=30))]

    answer = load("check_keys").handler({"Records": [search_record(outage.incident_id)]}, Context())

    assert failed(answer) == []
    assert outage.incident().actor is not None
    after = outage.store.key("acme-prod", KEY_ID)
    assert before is not None
    assert after == replace(before, alert_sequence=before.alert_sequence + 1, version=before.version + 1)
    assert counted_in(capsys.readouterr().out) == {"ActorSearchFound": 1}
    [line] = logged(caplog)
    assert (line["incident_id"], line["outcome"]) == (outage.incident_id, SearchOutcome.FOUND)
    assert "Alice" not in str(line)


def test_a_search_that_may_not_look_is_no_failure(outage: Outage, capsys: pytest.CaptureFixture[str]) -> None:
    outage.history.recorded = None

    answer = load("check_keys").handler({"Records": [search_record(outage.incident_id)]}, Context())

    assert failed(answer) == []
    assert counted_in(capsys.readouterr().out) == {"ActorSearchNoAnswer": 1}


def test_a_search_that_loses_every_race_is_left_to_the_next_sweep(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    class Loses:
        def look_up(self, *_: object) -> None:
            raise ConflictError

    use(find_actor=Loses())

    assert failed(load("check_keys").handler({"Records": [search_record("01J")]}, Context())) == []
    assert counted_in(capsys.readouterr().out) == {"ActorSearchNotDue": 1}


# --- receive_key_event ------------------------------------------------------------------------------------------


@pytest.fixture
def intake(use: Use, store: MemoryStore) -> FakeQueue:
    """The check queue, behind the function with the example key registered."""
    store.put(*pointers_to(key()))
    queue = FakeQueue()
    use(receive_key_event=ReceiveKeyEvent(store, queue, FakeClock()))
    return queue


@pytest.mark.parametrize(
    "name", [name for name in recordings.TAKEN if name in {"DisableKey", "DeleteRole", "KMS-CMK-Deletion"}]
)
def test_a_recorded_event_is_taken_and_nothing_of_it_is_logged_but_ids(
    intake: FakeQueue, name: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    event = recordings.recorded(name, account=CUSTOMER, kms_key=KMS_KEY)

    answer = load("receive_key_event").handler(event, Context())

    assert answer == {"registrations": 1, "messages": 4, "ignored": None}
    assert [each.key_id for each in intake.messages] == [KEY_ID] * 4
    counted = metrics_in(capsys.readouterr().out)
    assert counted == {"KeyEvents": 1, "KeyEventRegistrations": 1, "KeyEventsIgnored": 0, "KeyEventsCut": 0}
    [line] = logged(caplog)
    assert (line["account_id"], line["registrations"]) == (CUSTOMER, 1)
    told = str(line)
    assert not any(word in told for word in ("Alice", "MySessionName", "192.0.2.0", "AWS Internal", "EX_PRINCIPAL_ID"))


@pytest.mark.parametrize("event", [None, [], "text", {}, {"source": "aws.kms"}], ids=repr)
def test_what_is_no_event_is_ignored_so_that_it_is_not_tried_again(
    intake: FakeQueue, event: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = load("receive_key_event").handler(event, Context())

    assert answer["registrations"] == 0
    assert answer["ignored"]
    assert intake.messages == []
    counted = metrics_in(capsys.readouterr().out)
    assert counted == {"KeyEvents": 0, "KeyEventRegistrations": 0, "KeyEventsIgnored": 1, "KeyEventsCut": 0}


def test_an_event_that_concerns_more_than_is_looked_at_says_so(
    intake: FakeQueue, store: MemoryStore, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(101):
        registered = key(project_id=f"p{number:03d}")
        store.put(registered, *pointers_to(registered))

    load("receive_key_event").handler(recordings.recorded("DisableKey", account=CUSTOMER, kms_key=KMS_KEY), Context())

    assert metrics_in(capsys.readouterr().out)["KeyEventsCut"] == 1
    assert [line["levelname"] for line in logged(caplog)] == ["WARNING", "INFO"]


# --- plan_sweep -------------------------------------------------------------------------------------------------


class Reconciles:
    """A reconciler that finds one thing of each sort."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> ReconcileReport:
        self.runs += 1
        return ReconcileReport(
            rows_resent=3,
            mended=[("01J", Mending.START_LOCKOUT, "its clusters should be locked and are not")],
            errors=[("01K", "Step Functions did not answer")],
        )


def plan_sweep_with(use: Use, store: MemoryStore, **wired: Any) -> None:
    """Wire a sweep in which everything works, and what a test wants otherwise."""
    usual: dict[str, Any] = {
        "store": store,
        "plan_sweep": PlanSweep(store, FakeQueue(), FakeQueue(), FakeClock()),
        "reconcile": ReconcileReport,
        "follow_receivers": FollowReport,
        "keep_topics": KeepTopics(store, FakeTopics()),
        "audit_roles": AuditRoles(store, FakeClock()),
        "plan_actor_searches": PlanActorSearches(store, FakeQueue(), FakeClock()),
        "keep_pointers": KeepPointers(store),
        "tell_stale": TellStale(store, FakeClock(), CountingIds()),
        "tell_again": TellAgain(store, FakeClock(), CountingIds()),
        "open_shut_clusters": OpenedClusters,
        "stop_orphans": StoppedOrphans,
        "heartbeat": None,
    }
    use(**usual | wired)


def test_a_sweep_sends_the_keys_that_are_due_and_then_mends(
    use: Use, store: MemoryStore, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    queue, reconcile = FakeQueue(), Reconciles()
    topics = FakeTopics()
    topics.unencrypted.add(project().alert_topic_arn)
    plan_sweep_with(
        use,
        store,
        plan_sweep=PlanSweep(store, queue, queue, FakeClock()),
        reconcile=reconcile,
        tell_stale=Recorder(StaleReport(stale_keys=2, errors=[("acme-prod/k", "the table did not answer")])),
        follow_receivers=Recorder(FollowReport(asked=1, errors=[("acme-prod/vectors", "could not be asked")])),
        keep_topics=KeepTopics(store, topics),
        audit_roles=AuditRoles(store, FakeClock()),
        plan_actor_searches=PlanActorSearches(store, queue, FakeClock()),
        keep_pointers=KeepPointers(store),
        open_shut_clusters=Recorder(OpenedClusters(let_in=[("acme-prod", "c1")], taken_up=[("acme-prod", "c2")])),
        stop_orphans=Recorder(StoppedOrphans(stopped=["01J-lock-1"])),
    )
    store.put(project(project_id="sharing"), key(project_id="sharing"))

    answer = load("plan_sweep").handler({}, Context())

    assert answer == {"claimed": True, "keys_due": 2, "keys_sent": 2}
    assert [each.key_id for each in queue.messages] == [KEY_ID, KEY_ID]
    assert reconcile.runs == 1
    assert [line["message"] for line in logged(caplog)] == [
        "topic or subscription follows the stack",
        "role counted",
        "role counted",
        "role serves several projects",
        "could not be mended",
        "could not be mended",
        "could not be mended",
        "mended",
        "let in",
        "locked for nothing",
        "stopped",
    ]
    counted = metrics_in(capsys.readouterr().out)
    assert counted.pop("SweepDuration") >= 0
    assert counted == {
        "KeysDue": 2,
        "KeysSent": 2,
        "KeysNotSent": 0,
        "KeysHealthy": 2,
        "KeysSuspect": 0,
        "KeysUnhealthy": 0,
        "KeysRecovering": 0,
        "KeysUnknown": 0,
        "IncidentsOpen": 0,
        "OutboxRowsAside": 0,
        "OldestUnsentRow": 0,
        "OutboxRowsResent": 3,
        "LocksOverdue": 0,
        "MendingsDone": 4,
        "MendingsFailed": 3,
        "ActorSearchesSent": 0,
        "PointersMade": 4,
        "AlertsToldAgain": 0,
        "StaleKeys": 2,
        "SweepsDone": 1,
        "SweepsNotClaimed": 0,
        "HeartbeatsSent": 0,
        "HeartbeatsFailed": 0,
    }


def test_a_sweep_that_met_what_it_cannot_read_does_everything_else_and_fails_for_the_alarm(
    use: Use, store: MemoryStore, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    queue = FakeQueue()
    report = ReconcileReport(errors=[("01K", "NewerItemError: INCIDENT#01K has schema 9")], unreadable=1)
    plan_sweep_with(use, store, plan_sweep=PlanSweep(store, queue, queue, FakeClock()), reconcile=lambda: report)

    with pytest.raises(UnreadableItemsError, match="1 items could not be read"):
        load("plan_sweep").handler({}, Context())

    assert len(queue.messages) == 1
    assert metrics_in(capsys.readouterr().out)["SweepsDone"] == 1
    assert "NewerItemError: INCIDENT#01K has schema 9" in [line.get("reason") for line in logged(caplog)]


def test_a_sweep_counts_keys_by_status_and_those_about_which_nothing_is_known_beside_it(
    use: Use, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (status, unknown) in enumerate(
        [
            (KeyStatus.HEALTHY, True),
            (KeyStatus.SUSPECT, False),
            (KeyStatus.UNHEALTHY, True),
            (KeyStatus.UNHEALTHY, False),
        ]
    ):
        health = Health(status=status, unknown_since=NOW if unknown else None)
        store.put(key(key_id=f"us-west-2.{number}", health=health), incident(incident_id=f"01J{number}"))
    plan_sweep_with(use, store)

    load("plan_sweep").handler({}, Context())

    counted = metrics_in(capsys.readouterr().out)
    assert (counted["KeysHealthy"], counted["KeysSuspect"], counted["KeysUnhealthy"]) == (2, 1, 2)
    assert (counted["KeysRecovering"], counted["KeysUnknown"], counted["IncidentsOpen"]) == (0, 2, 4)


def test_a_queue_that_takes_nothing_keeps_nothing_from_being_mended_but_the_sweep_is_not_done(
    use: Use, store: MemoryStore, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenQueue(FakeQueue):
        def send(self, messages: Any, *, delay_seconds: int = 0) -> int:
            raise DeliveryError("SQS did not take the message: AccessDenied")

    reconcile, heartbeat = Reconciles(), FakeHeartbeat()
    plan_sweep_with(
        use,
        store,
        plan_sweep=PlanSweep(store, BrokenQueue(), BrokenQueue(), FakeClock()),
        reconcile=reconcile,
        heartbeat=heartbeat,
    )
    store.put(begin_search(incident(opened_at=NOW - timedelta(minutes=1)), CUSTOMER))

    answer = load("plan_sweep").handler({}, Context())

    assert answer == {"claimed": True, "keys_due": 1, "keys_sent": 0}
    assert reconcile.runs == 1
    assert heartbeat.beats == 0, "whoever watches from outside must notice"
    counted = metrics_in(capsys.readouterr().out)
    assert (counted["SweepsDone"], counted["KeysNotSent"]) == (0, 1)
    assert logged(caplog)[0]["reason"] == "SQS did not take the message: AccessDenied"


def test_a_finished_sweep_is_told_to_the_watcher_outside(
    use: Use, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    heartbeat = FakeHeartbeat()
    plan_sweep_with(use, store, heartbeat=heartbeat)

    load("plan_sweep").handler({}, Context())

    assert heartbeat.beats == 1
    counted = metrics_in(capsys.readouterr().out)
    assert (counted["HeartbeatsSent"], counted["HeartbeatsFailed"]) == (1, 0)


def test_a_watcher_outside_that_does_not_answer_fails_no_sweep(
    use: Use, store: MemoryStore, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    plan_sweep_with(use, store, heartbeat=FakeHeartbeat(trouble="the heartbeat was not taken: TimeoutError"))

    answer = load("plan_sweep").handler({}, Context())

    assert answer["claimed"] is True
    counted = metrics_in(capsys.readouterr().out)
    assert (counted["SweepsDone"], counted["HeartbeatsSent"], counted["HeartbeatsFailed"]) == (1, 0, 1)
    line = logged(caplog)[-1]
    assert (line["message"], line["reason"]) == ("no heartbeat", "the heartbeat was not taken: TimeoutError")


def test_a_sweep_that_fails_tells_the_watcher_outside_nothing(use: Use, store: MemoryStore) -> None:
    heartbeat = FakeHeartbeat()
    plan_sweep_with(use, store, reconcile=explode, heartbeat=heartbeat)

    with pytest.raises(RuntimeError):
        load("plan_sweep").handler({}, Context())

    assert heartbeat.beats == 0


def test_a_sweep_says_how_many_keys_are_stale_even_if_none_is(
    use: Use, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = FakeClock()
    plan_sweep_with(use, store, tell_stale=TellStale(store, clock, CountingIds()))

    load("plan_sweep").handler({}, Context())

    assert metrics_in(capsys.readouterr().out)["StaleKeys"] == 0


def test_a_sweep_says_for_how_long_the_oldest_row_has_waited_to_be_sent(
    use: Use, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_sweep_with(use, store, clock=FakeClock(NOW))
    sent = OutboxRow(row_id="sent", project_id=None, created_at=NOW - timedelta(hours=1), sent_at=NOW)
    waits = OutboxRow(row_id="waits", project_id=None, created_at=NOW - timedelta(seconds=301))
    store.put(sent, waits, OutboxRow(row_id="younger", project_id=None, created_at=NOW))

    load("plan_sweep").handler({}, Context())

    assert metrics_in(capsys.readouterr().out)["OldestUnsentRow"] == 301


def test_a_minute_that_another_sweep_has_is_left_to_it(use: Use, store: MemoryStore) -> None:
    queue, reconcile = FakeQueue(), Reconciles()
    store.claim_sweep(NOW)
    use(plan_sweep=PlanSweep(store, queue, queue, FakeClock()), reconcile=reconcile)

    assert load("plan_sweep").handler({}, Context()) == {"claimed": False}
    assert queue.messages == []
    assert reconcile.runs == 0


def test_a_fault_in_reconciling_delays_no_probe_and_fails_the_sweep(use: Use, store: MemoryStore) -> None:
    queue = FakeQueue()
    stale = TellStale(store, FakeClock(), CountingIds())
    use(plan_sweep=PlanSweep(store, queue, queue, FakeClock()), tell_stale=stale, reconcile=explode)

    with pytest.raises(RuntimeError):
        load("plan_sweep").handler({}, Context())

    assert len(queue.messages) == 1


# --- relay_outbox -----------------------------------------------------------------------------------------------


def relay(store: MemoryStore, workflow: FakeWorkflow) -> RelayOutbox:
    return relay_of(store, FakeNotifier(), FakeClock(), workflow=workflow)


def start(row_id: str) -> OutboxRow:
    to_start = WorkflowStart(
        workflow=WorkflowKind.LOCKOUT,
        name=f"{row_id}-lock-1",
        project_id="acme-prod",
        key_id=KEY_ID,
        incident_id=row_id,
    )
    return OutboxRow(row_id=row_id, project_id="acme-prod", created_at=NOW, workflow_start=to_start)


def stream_record(row_id: str) -> dict[str, Any]:
    keys = {"pk": {"S": f"OUTBOX#{row_id}"}, "sk": {"S": "OUTBOX"}}
    image = {**keys, "kind": {"S": "OUTBOX"}, "version": {"N": "1"}}
    return {
        "eventID": f"event-{row_id}",
        "eventName": "INSERT",
        "eventSource": "aws:dynamodb",
        "dynamodb": {"Keys": keys, "NewImage": image, "SequenceNumber": "1", "StreamViewType": "NEW_IMAGE"},
    }


def test_new_rows_from_the_stream_are_delivered(use: Use, store: MemoryStore) -> None:
    workflow = FakeWorkflow()
    store.put(start("01J1"), start("01J2"))
    use(relay_outbox=relay(store, workflow))

    answer = load("relay_outbox").handler({"Records": [stream_record("01J1"), stream_record("01J2")]}, Context())

    assert answer == {"sent": 2, "failed": 0}
    assert set(workflow.started) == {"01J1-lock-1", "01J2-lock-1"}
    assert store.unsent_rows(NOW) == []


class UnreadableRow(MemoryStore):
    @override
    def outbox_row(self, row_id: str) -> OutboxRow | None:
        if row_id == "01J1":
            raise NewerItemError("OUTBOX#01J1/OUTBOX has schema 9")
        return super().outbox_row(row_id)


def test_a_row_that_newer_code_wrote_holds_up_no_other_and_is_an_error_when_the_reconciler_asked_for_it(
    use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    workflow, store = FakeWorkflow(), UnreadableRow()
    store.put(start("01J1"), start("01J2"))
    use(relay_outbox=relay(store, workflow))

    assert load("relay_outbox").handler({"Records": [stream_record("01J1")]}, Context()) == {"sent": 0, "failed": 1}
    with pytest.raises(UnreadableItemsError, match="1 rows could not be read"):
        load("relay_outbox").handler({"resend": ["01J1", "01J2"]}, Context())

    assert list(workflow.started) == ["01J2-lock-1"]
    assert {line["reason"] for line in logged(caplog)} == {"NewerItemError: OUTBOX#01J1/OUTBOX has schema 9"}


def test_a_row_that_is_damaged_is_set_aside_once_and_that_is_no_error(
    use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    class DamagedRow(MemoryStore):
        @override
        def outbox_row(self, row_id: str) -> OutboxRow | None:
            if row_id == "01J1":
                raise DamagedItemError("OUTBOX#01J1/OUTBOX does not have the shape")
            return super().outbox_row(row_id)

    workflow, store = FakeWorkflow(), DamagedRow()
    store.put(start("01J1"), start("01J2"))
    use(relay_outbox=relay(store, workflow))

    assert load("relay_outbox").handler({"resend": ["01J1", "01J2"]}, Context()) == {"sent": 1, "failed": 0}

    assert [(line["message"], line["row_id"]) for line in logged(caplog)] == [("set aside", "01J1")]
    assert store.unsent_rows(NOW) == []


def test_rows_that_the_reconciler_names_are_delivered_again(use: Use, store: MemoryStore) -> None:
    workflow = FakeWorkflow()
    store.put(start("01J1"), start("01J2"))
    use(relay_outbox=relay(store, workflow))

    answer = load("relay_outbox").handler({"resend": ["01J2"]}, Context())

    assert answer == {"sent": 1, "failed": 0}
    assert set(workflow.started) == {"01J2-lock-1"}


def test_what_a_target_does_not_take_is_counted_and_holds_up_nothing(
    use: Use, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow = FakeWorkflow()
    workflow.broken = True
    store.put(start("01J1"))
    use(relay_outbox=relay(store, workflow))

    answer = load("relay_outbox").handler({"Records": [stream_record("01J1")]}, Context())

    assert answer == {"sent": 0, "failed": 1}
    assert metrics_in(capsys.readouterr().out) == {"OutboxRowsSent": 0, "AlertsWithheld": 0, "DeliveriesFailed": 1}
    assert store.unsent_rows(NOW) == ["01J1"]


# --- the workflows' steps ---------------------------------------------------------------------------------------

INCIDENT = {"project_id": "acme-prod", "key_id": KEY_ID, "incident_id": "01J"}
ONE_CLUSTER = {
    "project_id": "acme-prod",
    "cluster_id": "vectors-prod",
    "incident_id": "01J",
    "task_token": "token",
}


@pytest.mark.parametrize(("name", "action"), [("lock_cluster", LockAction.LOCK), ("unlock_cluster", LockAction.UNLOCK)])
def test_asking_for_a_lock_or_unlock_passes_the_task_token_on(use: Use, name: str, action: LockAction) -> None:
    request_lock = Recorder("requested")
    use(request_lock=request_lock)

    answer = load(name).handler(ONE_CLUSTER, Context())

    assert request_lock.calls == [(action, "acme-prod", "vectors-prod", "01J", "token")]
    assert answer == {"outcome": "requested"}


def test_a_receiver_is_called_for_one_request_and_what_it_said_stays_out_of_the_log(
    use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    call = Recorder(CallReport(outcome="locked", faults=("KeyError in call of receiver.py, line 1",)))
    use(call_receiver=call)

    asked = {"project_id": "acme-prod", "cluster_id": "vectors-prod", "fence": 1795369305484}
    answer = load("call_receiver").handler(asked, Context())

    assert call.named == [asked]
    assert answer == {"outcome": "locked"}
    fault, line = logged(caplog)
    assert {**asked, "fault": "KeyError in call of receiver.py, line 1"}.items() <= fault.items()
    assert {**asked, "outcome": "locked"}.items() <= line.items()
    assert "detail" not in line


def test_a_task_token_is_not_written_to_the_log(use: Use, caplog: pytest.LogCaptureFixture) -> None:
    use(request_lock=Recorder("requested"))

    load("lock_cluster").handler({**ONE_CLUSTER, "task_token": "a-secret-token"}, Context())

    [line] = logged(caplog)
    assert (line["message"], line["cluster_id"], line["outcome"]) == ("asked", "vectors-prod", "requested")
    assert "a-secret-token" not in str(line)


def test_what_a_person_wrote_about_an_incident_is_not_written_to_the_log(
    use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    reason = "arn:aws:iam::222222222222:user/Alice holds it: the auditors are here"
    held = LockoutDecision(verb=LockoutVerb.HOLD, reason=reason, held_for=HeldFor.OPERATOR)
    use(decide_lockout=Recorder(LockoutPlan(decision=held)))

    load("decide_lockout").handler(INCIDENT, Context())

    [line] = logged(caplog)
    assert (line["verb"], line["held_for"]) == ("HOLD", "operator")
    assert "Alice" not in str(line)


def test_the_decision_about_a_lockout_is_given_to_the_workflow(use: Use) -> None:
    decision = LockoutDecision(verb=LockoutVerb.HOLD, reason="the grace lasts", held_for=HeldFor.GRACE)
    decide = Recorder(LockoutPlan(decision=decision, cluster_ids=("a", "b")))
    use(decide_lockout=decide)

    answer = load("decide_lockout").handler(INCIDENT, Context())

    assert decide.calls == [("acme-prod", KEY_ID, "01J")]
    assert answer == {"verb": "HOLD", "reason": "the grace lasts", "cluster_ids": ["a", "b"]}
    assert json.loads(json.dumps(answer)) == answer


def test_the_decision_about_a_recovery_is_given_to_the_workflow(use: Use) -> None:
    decision = RecoveryDecision(verb=RecoveryVerb.UNLOCK, reason="the key's recovery is proved")
    decide = Recorder(RecoveryPlan(decision=decision, cluster_ids=("a",)))
    use(decide_recovery=decide)

    answer = load("decide_recovery").handler(INCIDENT, Context())

    assert decide.calls == [("acme-prod", KEY_ID, "01J")]
    assert answer == {"verb": "UNLOCK", "reason": "the key's recovery is proved", "cluster_ids": ["a"]}


@pytest.mark.parametrize("name", ["settle_lockout", "settle_recovery"])
def test_how_it_ended_is_given_to_the_workflow(use: Use, name: str) -> None:
    settle = Recorder(Settlement(status=IncidentStatus.PARTLY_LOCKED, failed=("b",)))
    use(**{name: settle})

    answer = load(name).handler(INCIDENT, Context())

    assert settle.calls == [("acme-prod", KEY_ID, "01J")]
    assert answer == {"status": "PARTLY_LOCKED", "failed": ["b"]}


# --- registry_api -----------------------------------------------------------------------------------------------


def test_the_api_answers_and_writes_down_who_asked(
    use: Use, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    use(read_fleet=ReadFleet(store, FakeClock()))
    event = {
        "version": "2.0",
        "routeKey": "GET /fleet",
        "rawPath": "/fleet",
        "rawQueryString": "",
        "headers": {},
        "requestContext": {
            "http": {"method": "GET", "path": "/fleet"},
            "stage": "$default",
            "authorizer": {"iam": {"callerId": "AROACALLER:session"}},
        },
        "isBase64Encoded": False,
    }

    answer = load("registry_api").handler(event, Context())

    assert answer["statusCode"] == 200
    fleet = json.loads(answer["body"])
    assert fleet["keys"][KeyStatus.HEALTHY] == 1
    assert fleet["clusters"][ClusterStatus.ACTIVE] == 0
    [line] = [line for line in logged(caplog) if line["message"] == "answered"]
    assert (line["caller"], line["status"], line["route"]) == ("AROACALLER:session", 200, "GET /fleet")
