"""A message names several keys: what happens when some of them fail, when it comes twice, or from other code."""

import json
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, override

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvigil import wiring
from keyvigil.adapters.plain_data import from_plain, to_plain
from keyvigil.domain.keys import Key, Trigger
from keyvigil.ports import MESSAGE_VERSION, CheckMessage, DueKey, ProbeAnswer
from keyvigil.use_cases.check_key import CheckKey
from keyvigil.use_cases.plan_sweep import KEYS_A_MESSAGE, PlanSweep, packed
from tests.examples import NOW, key, project, verdict
from tests.fakes import CountingIds, FakeClock, FakeQueue, MemoryStore, ScriptedProber, no_doubt
from tests.unit.test_functions import (
    Checks,
    Context,
    Use,
    explode,
    failed,
    load,
    logged,
    message,
    metrics_in,
    nothing_to_count,
    template,
)

IN_FOUR_REGIONS = ("us-west-2", "us-east-1", "eu-central-1", "eu-north-1")


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    return Use(monkeypatch)


def due(*key_ids: str) -> list[DueKey]:
    return [DueKey("acme-prod", each, NOW) for each in key_ids]


def record(sent: CheckMessage, name: str = "message of several") -> dict[str, Any]:
    return {**message("several"), "messageId": name, "body": json.dumps(to_plain(sent))}


# --- packing ----------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(IN_FOUR_REGIONS), max_size=200))
def test_every_key_is_in_one_message_each_message_in_one_region_and_none_too_long(regions: list[str]) -> None:
    keys = due(*(f"{region}.{number}" for number, region in enumerate(regions)))

    messages = packed(keys)

    named = [(one.project_id, one.key_id, one.due_at) for each in messages for one in each.singly()]
    assert sorted(named) == sorted((each.project_id, each.key_id, each.due_at) for each in keys)
    for each in messages:
        assert len({one.key_id.partition(".")[0] for one in each.singly()}) == 1
        assert len(each.singly()) <= KEYS_A_MESSAGE
    assert len(messages) <= len(keys) / KEYS_A_MESSAGE + len(IN_FOUR_REGIONS)


def test_one_key_by_itself_is_sent_as_it_always_was() -> None:
    [sent] = packed(due("us-west-2.one"))

    assert sent == CheckMessage("acme-prod", "us-west-2.one", NOW)
    assert sent.version == 1


def test_ten_messages_of_the_longest_keys_fit_into_one_request() -> None:
    longest = due(*(f"ap-southeast-{n % 10}.mrk-{n:032d}" for n in range(1)))[0]
    longest = DueKey("p" * 40, longest.key_id, NOW)

    size = len(json.dumps(to_plain(CheckMessage.of_due(*[longest] * KEYS_A_MESSAGE))))

    assert 10 * size < 256 * 1024


def test_there_is_a_thread_for_each_key_that_lambda_hands_over_at_once() -> None:
    batch = template().resources["CheckKeysFunction"]["Properties"]["Events"]["Queue"]["Properties"]["BatchSize"]

    assert load("check_keys")._threads._max_workers >= batch * KEYS_A_MESSAGE


# --- one that fails ---------------------------------------------------------------------------------------------


def test_the_keys_of_a_message_are_checked_but_for_those_that_explode_and_the_log_names_them(
    use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    checks = Checks(second=explode)
    use(check_key=checks)
    sent = CheckMessage.of_due(*due("first", "second", "third"))

    answer = load("check_keys").handler({"Records": [record(sent), message("alone")]}, Context())

    assert failed(answer) == ["several"]
    assert sorted(checks.checked) == ["alone", "first", "third"]
    [line] = [line for line in logged(caplog) if line["message"] == "not checked"]
    assert line["key_id"] == "second"
    assert line["reason"] == "RuntimeError: the table did not answer"


def test_a_key_that_hangs_leaves_the_others_of_its_message_alone(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    check_keys = load("check_keys")
    monkeypatch.setattr(check_keys, "RECORD_SECONDS", 1)
    released = threading.Event()
    checks = Checks(hangs=lambda: released.wait(timeout=60))
    use(check_key=checks)

    try:
        answer = check_keys.handler({"Records": [record(CheckMessage.of_due(*due("a", "hangs", "b")))]}, Context())
        checked = sorted(checks.checked)
    finally:
        released.set()

    assert failed(answer) == ["several"]
    assert checked == ["a", "b"]


@nothing_to_count
def test_a_message_of_code_that_is_newer_is_refused_and_its_keys_stay_due(use: Use) -> None:
    checks = Checks()
    use(check_key=checks)
    newer = CheckMessage("acme-prod", "one", NOW, version=MESSAGE_VERSION + 1)

    answer = load("check_keys").handler({"Records": [record(newer)]}, Context())

    assert failed(answer) == ["several"]
    assert checks.checked == []


# --- nothing is lost, and nothing is probed without end ---------------------------------------------------------


@dataclass
class Counting(ScriptedProber):
    """Every key is healthy; how often each was asked for."""

    clock: FakeClock
    asked: Counter[str]

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        self.asked[key.key_id] += 1
        return ProbeAnswer(verdict=verdict(at=self.clock.now()), facts=None)


class Stack:
    """A planner, its queue and `check_keys`; the table fails for the keys that it is told."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.clock, self.store, self.queue = FakeClock(NOW), MemoryStore(), FakeQueue()
        self.asked: Counter[str] = Counter()
        self.failing: set[str] = set()
        self.store.put(
            project(check_interval_minutes=60),
            *(key(key_id=each, due_at=NOW, last_probed_at=NOW - timedelta(hours=1)) for each in keys),
        )
        prober = Counting(self.clock, self.asked)
        self.real = CheckKey(self.store, prober, self.clock, CountingIds(), doubt=no_doubt, confirmation_probes=3)
        self.sweep = PlanSweep(self.store, self.queue, self.queue, self.clock)

    def check(self, project_id: str, key_id: str, trigger: Trigger, *, due_at: datetime | None = None) -> Any:
        if key_id in self.failing:
            explode()
        return self.real(project_id, key_id, trigger, due_at=due_at)

    def minute(self) -> list[dict[str, Any]]:
        """Sweep and give `check_keys` what was sent; the records."""
        self.queue.whole.clear()
        self.sweep()
        self.clock.advance(1)
        return [record(each, name=f"{place}") for place, each in enumerate(self.queue.whole)]

    def due_by(self, moment: datetime) -> set[str]:
        return {each.key_id for each in self.store.due_keys(moment)}


KEYS = [f"us-west-2.{number:02d}" for number in range(25)]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sets(st.sampled_from(KEYS)), max_size=4), st.integers(1, 3))
def test_whatever_fails_every_key_is_probed_once_when_it_can_be(failures: list[set[str]], deliveries: int) -> None:
    stack = Stack(KEYS)
    check_keys = load("check_keys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wiring, "check_key", lambda: stack.check)
        for failing in (*failures, set[str]()):
            stack.failing = failing
            stack.asked.clear()
            swept_at = stack.clock.now()
            waiting = stack.due_by(swept_at)
            records = stack.minute()
            # SQS may deliver a message more than once, and a person may send dead letters back.
            for _ in range(deliveries if records else 0):
                answer = check_keys.handler({"Records": records}, Context())
                named = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
                assert named == {each["messageId"] for each in records if failing & ids_in(each)}
            assert stack.asked == Counter(waiting - failing), "each was probed, and none twice"
            assert stack.due_by(swept_at) == waiting & failing, "those that failed, and only those"
            stack.clock.advance(59)


def ids_in(sent: dict[str, Any]) -> set[str]:
    return {each.key_id for each in from_plain(json.loads(sent["body"]), CheckMessage).singly()}


def test_a_check_keys_that_knows_one_key_a_message_checks_the_first_and_the_next_sweeps_send_the_others() -> None:
    """While a stack is updated, an old `check_keys` may get a new `plan_sweep`'s message."""
    stack = Stack(KEYS[:3])
    minutes = 0
    while stack.due_by(NOW):
        for sent in stack.minute():
            body = json.loads(sent["body"])
            known = {name: body[name] for name in ("project_id", "key_id", "due_at", "trigger", "canary")}
            old = from_plain(known, CheckMessage)
            stack.real(old.project_id, old.key_id, old.trigger, due_at=old.due_at)
        stack.clock.advance(timedelta(minutes=1).total_seconds())
        minutes += 1

    assert minutes == 3
    assert stack.asked == Counter(KEYS[:3])


# --- what is told of a batch -------------------------------------------------------------------------------------


def test_of_a_key_behind_one_that_failed_everything_is_told(
    use: Use, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    use(check_key=Checks(first=explode))

    load("check_keys").handler({"Records": [record(CheckMessage.of_due(*due("first", "second", "third")))]}, Context())

    assert metrics_in(capsys.readouterr().out)["VerdictHealthy"] == 2
    assert sum(line["message"] == "probed" for line in logged(caplog)) == 2


def test_a_message_that_nobody_can_read_is_named_in_the_log_without_what_it_holds(
    use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    use(check_key=Checks())
    rubbish = {**message("rubbish"), "body": '{"secret-of-a-customer'}

    answer = load("check_keys").handler({"Records": [rubbish, message("well")]}, Context())

    assert failed(answer) == ["rubbish"]
    [line] = [line for line in logged(caplog) if line["message"] == "message not taken"]
    assert (line["message_id"], line["reason"]) == ("message of rubbish", "JSONDecodeError")
    assert "secret-of-a-customer" not in caplog.text


def test_what_no_thread_was_free_for_is_not_done_after_the_batch_was_answered(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_keys = load("check_keys")
    monkeypatch.setattr(check_keys, "RECORD_SECONDS", 0.3)
    monkeypatch.setattr(check_keys, "_threads", ThreadPoolExecutor(max_workers=1))
    released = threading.Event()
    checks = Checks(hangs=lambda: released.wait(timeout=60))
    use(check_key=checks)

    answer = check_keys.handler({"Records": [message("hangs"), message("waits")]}, Context())
    released.set()
    check_keys._threads.shutdown(wait=True)

    assert failed(answer) == ["hangs", "waits"]
    assert checks.checked == ["hangs"]
