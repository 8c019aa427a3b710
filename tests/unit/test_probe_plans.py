"""The plan `lean`: what it saves, what it finds as soon as `full` does, and what it does not."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import override

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.keys import CloserLook, Health, Key, KeyFacts, KeyStatus, KeyUse, Trigger
from keyvigil.domain.probe_plans import LEAN, WHOLE_CHECK_EVERY, is_lean_enough, lean_until
from keyvigil.domain.verdicts import Cause, Outcome, Verdict
from keyvigil.ports import ProbeAnswer
from keyvigil.use_cases.check_key import CheckKey
from tests.examples import KEY_ID, NOW, key, project, verdict
from tests.fakes import CountingIds, FakeClock, MemoryStore, ScriptedProber, changed, no_doubt

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


@dataclass
class CountingProber(ScriptedProber):
    """A key in whose account every call is counted. `broken` says which operations fail, and with what."""

    clock: FakeClock
    use: KeyUse = KeyUse.CMEK
    broken: dict[str, Cause] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    at: list[tuple[datetime, bool]] = field(default_factory=list)

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        now = self.clock.now()
        self.at.append((now, lean))
        if lean:
            found = self._try("Decrypt", *(each for each in key.use.operations if each == "GetSecretValue"))
            if found in {None, Cause.THROTTLED}:
                return ProbeAnswer(verdict=self._verdict(found), facts=None, whole=False)
        found = self._try(*key.use.operations)
        closer = CloserLook(looked_at=now) if closely and found is None else None
        self.calls["GetKeyRotationStatus"] += closer is not None
        return ProbeAnswer(verdict=self._verdict(found), facts=KeyFacts(closer=closer))

    def _verdict(self, cause: Cause | None) -> Verdict:
        return verdict(cause, self.clock.now())

    def _try(self, *operations: str) -> Cause | None:
        for operation in operations:
            self.calls[operation] += 1
            if operation in self.broken:
                return self.broken[operation]
        return None


class World:
    """One key, probed whenever it is due, by a sweep every minute."""

    def __init__(self, plan: str, *, use: KeyUse = KeyUse.CMEK, interval: int = 10) -> None:
        self.clock, self.store = FakeClock(NOW), MemoryStore()
        self.prober = CountingProber(self.clock)
        self.store.put(project(probe_plan=plan, check_interval_minutes=interval), key(use=use, due_at=NOW + MINUTE))
        self.check = CheckKey(self.store, self.prober, self.clock, CountingIds(), doubt=no_doubt, confirmation_probes=3)

    def key(self) -> Key:
        found = self.store.key("acme-prod", KEY_ID)
        assert found is not None
        return found

    def pass_by(self, length: timedelta) -> None:
        until = self.clock.now() + length
        while self.clock.now() < until:
            self.clock.advance(60)
            if self.key().due_at <= self.clock.now():
                self.check("acme-prod", KEY_ID, Trigger.SCHEDULE, due_at=self.key().due_at)

    def kms_calls(self) -> int:
        return sum(self.prober.calls.values()) - self.prober.calls["GetSecretValue"]


def kms_requests_a_day(plan: str, use: KeyUse, interval: int) -> int:
    """How many requests KMS gets of one key on an undisturbed day."""
    world = World(plan, use=use, interval=interval)
    world.pass_by(timedelta(hours=5))  # the first probes only show the plan, and the closer look is made
    world.prober.calls.clear()
    world.pass_by(DAY)
    return world.kms_calls()


def the_plan_s_arithmetic(use: KeyUse, interval: int) -> tuple[float, float]:
    """Requests to KMS an hour, as decision 30 has them: n probes, w operations in a whole check, one closer look."""
    n, w, c = 60 / interval, 4 if use is KeyUse.CSE else 3, 1
    return w * n + c, (n - 1) + w + c / 4


@pytest.mark.parametrize("use", [KeyUse.CMEK, KeyUse.CSE])
@pytest.mark.parametrize("interval", [1, 5, 10, 15, 30])
def test_a_day_s_requests_are_those_of_the_plan_s_arithmetic(use: KeyUse, interval: int) -> None:
    for plan, an_hour in zip(("full", LEAN), the_plan_s_arithmetic(use, interval), strict=True):
        assert kms_requests_a_day(plan, use, interval) == pytest.approx(24 * an_hour, rel=0.01), plan


@pytest.mark.parametrize("interval", [15, 30])
def test_045_cannot_be_had_at_long_intervals_by_any_plan_that_makes_the_whole_check_hourly(interval: int) -> None:
    full, lean = the_plan_s_arithmetic(KeyUse.CMEK, interval)
    one_call_an_interval_and_nothing_else = 60 / interval - 1 + 3
    assert lean > 0.45 * full
    assert one_call_an_interval_and_nothing_else > 0.45 * full


@pytest.mark.parametrize("use", KeyUse)
def test_over_a_day_lean_asks_for_at_most_045_of_what_full_asks_of_kms(use: KeyUse) -> None:
    full, lean = World("full", use=use), World(LEAN, use=use)
    for world in (full, lean):
        world.pass_by(timedelta(hours=1))  # the first probes only show the plan
        world.prober.calls.clear()
        world.pass_by(DAY)

    assert full.kms_calls() >= 24 * 6 * 3
    assert lean.kms_calls() <= 0.45 * full.kms_calls(), (lean.prober.calls, full.prober.calls)
    assert lean.prober.calls["Encrypt"] in {24, 25}, "the whole check is made hourly"
    assert lean.prober.calls["Decrypt"] == full.prober.calls["Decrypt"], "Decrypt is tried in every interval"


@pytest.mark.parametrize("interval", [1, 2, 5, 7, 10, 20, 25, 30, 45, 60])
def test_no_two_whole_checks_are_more_than_an_hour_apart(interval: int) -> None:
    world = World(LEAN, interval=interval)
    world.pass_by(timedelta(hours=12))
    whole = [at for at, lean in world.prober.at if not lean]
    assert max(b - a for a, b in pairwise(whole)) <= WHOLE_CHECK_EVERY + MINUTE
    assert any(lean for _, lean in world.prober.at[3:]) is (interval <= 30)  # the first are not evenly spread


EVERYTHING = ("DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey")


@pytest.mark.parametrize("plan", ["full", LEAN])
@pytest.mark.parametrize("cause", list(Cause))
def test_whatever_befalls_a_key_shows_within_one_interval_under_both_plans(plan: str, cause: Cause) -> None:
    world = World(plan, use=KeyUse.KES if cause is Cause.SECRET_UNREADABLE else KeyUse.CSE)
    world.pass_by(timedelta(minutes=95))
    struck = ("GetSecretValue",) if cause is Cause.SECRET_UNREADABLE else EVERYTHING
    world.prober.broken = dict.fromkeys(struck, cause)
    world.pass_by(11 * MINUTE)  # an interval, and the minute of the sweep
    assert world.key().verdict.cause is cause


@pytest.mark.parametrize("operation", ["Encrypt", "GenerateDataKey", "DescribeKey"])
def test_what_strikes_one_other_operation_alone_shows_within_the_hour(operation: str) -> None:
    world = World(LEAN, use=KeyUse.CSE)
    world.pass_by(timedelta(minutes=75))
    world.prober.broken = {operation: Cause.ACCESS_DENIED}
    world.pass_by(61 * MINUTE)
    assert world.key().verdict.cause is Cause.ACCESS_DENIED
    assert not any(lean for at, lean in world.prober.at if at > world.clock.now() - 2 * MINUTE), "and is watched whole"


@pytest.mark.parametrize("trigger", [each for each in Trigger if each is not Trigger.SCHEDULE])
def test_whoever_asks_gets_the_whole_check_at_once(trigger: Trigger) -> None:
    world = World(LEAN, use=KeyUse.CSE)
    world.pass_by(timedelta(minutes=75))
    world.prober.broken = {"Encrypt": Cause.ACCESS_DENIED}
    world.check("acme-prod", KEY_ID, trigger)
    assert world.key().verdict.cause is Cause.ACCESS_DENIED


def test_a_throttled_lean_probe_asks_no_more_of_kms_and_the_next_is_whole() -> None:
    world = World(LEAN)
    world.pass_by(timedelta(minutes=75))
    world.prober.broken = dict.fromkeys(EVERYTHING, Cause.THROTTLED)
    before = world.kms_calls()
    while world.key().verdict.cause is None:
        world.pass_by(MINUTE)
    assert world.kms_calls() - before == 1
    assert world.key().health.status is KeyStatus.HEALTHY
    world.prober.broken.clear()
    world.pass_by(MINUTE)
    assert world.prober.at[-1][1] is False
    assert world.key().verdict.outcome is Outcome.HEALTHY


def test_a_changed_plan_holds_from_the_probe_after_the_next() -> None:
    world = World(LEAN)
    world.pass_by(timedelta(minutes=75))
    plan = world.store.project("acme-prod")
    assert plan is not None
    world.store.put(changed(plan, probe_plan="full"))
    world.pass_by(timedelta(minutes=61))
    assert [lean for _, lean in world.prober.at[-5:]] == [False] * 5
    assert world.key().lean_until is None


@given(minutes=st.integers(-10_000, 10_000), status=st.sampled_from(KeyStatus), outcome=st.sampled_from(Outcome))
def test_a_lean_probe_is_never_enough_for_a_key_in_trouble_nor_longer_than_an_hour(
    minutes: int, status: KeyStatus, outcome: Outcome
) -> None:
    cause = {Outcome.HEALTHY: None, Outcome.UNHEALTHY: Cause.KEY_DISABLED, Outcome.UNKNOWN: Cause.TIMEOUT}[outcome]
    watched = key(health=Health(status=status), verdict=verdict(cause, NOW), lean_until=NOW + minutes * MINUTE)
    enough, reason = is_lean_enough(watched, Trigger.SCHEDULE, NOW)
    well = status is KeyStatus.HEALTHY and outcome is Outcome.HEALTHY
    assert enough is (well and 0 < minutes <= 61), reason


def test_a_whole_check_that_got_no_answer_is_due_again() -> None:
    at_first = key(lean_until=NOW)
    throttled = verdict(Cause.THROTTLED, NOW)
    assert lean_until(at_first, LEAN, 10, throttled, whole=True) == NOW
    assert lean_until(at_first, LEAN, 10, verdict(None, NOW), whole=True) == NOW + 51 * MINUTE
    assert lean_until(at_first, "full", 10, verdict(None, NOW), whole=True) is None
