"""What asks beside the sweep: by itself, in a check, and together with sweeps against a KMS with real token buckets."""

from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from typing import override

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.keys import Health, Key, KeyFacts, KeyStatus, KeyUse, Trigger
from keyvigil.domain.out_of_turn import AT_ONCE, LONGEST_WAIT, OutOfTurn, asked_out_of_turn, out_of_turn_a_second, take
from keyvigil.domain.probe_plans import LEAN
from keyvigil.domain.quotas import Bucket, QuotaClass
from keyvigil.domain.verdicts import Cause
from keyvigil.ports import ProbeAnswer, Put
from keyvigil.use_cases.asking_out_of_turn import AskOutOfTurn
from keyvigil.use_cases.check_key import CheckKey
from tests.examples import CUSTOMER, KEY_ID, NOW, key, project, verdict
from tests.fakes import CountingIds, FakeClock, FakePauses, MemoryStore, ScriptedProber, changed, no_doubt
from tests.unit.test_quotas import Herd, QuotaProber

NOTHING = OutOfTurn(account_id=CUSTOMER, region="us-west-2")
SECOND = timedelta(seconds=1)
DESCRIBE_KEY = Bucket(CUSTOMER, "us-west-2", QuotaClass.DESCRIBE_KEY)


# --- the bucket -------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 2), max_size=200), st.integers(1, 5), st.sampled_from(KeyUse))
def test_whatever_asks_no_second_gets_more_than_two_seconds_tokens_and_no_minute_more_than_its_own(
    gaps: list[float], percent: int, use: KeyUse
) -> None:
    wanted, part, now = asked_out_of_turn(key(use=use)), NOTHING, NOW
    begun: list[datetime] = []
    for gap in gaps:
        now += timedelta(seconds=gap)
        turn = take(part, wanted, percent, now)
        if turn.part is not None:
            part = turn.part
            assert turn.wait <= LONGEST_WAIT
            begun.append(now + max(turn.wait, timedelta(0)))
    for bucket, requests in wanted.draws():
        rate = out_of_turn_a_second(bucket, percent)
        for at in begun:
            for seconds in (1, 60):
                made = sum(at <= each < at + seconds * SECOND for each in begun) * requests
                assert made <= rate * (seconds + 1) + requests, "what may be taken at once, and what comes meanwhile"


def test_who_would_wait_too_long_gets_nothing_and_takes_nothing() -> None:
    busy = changed(NOTHING, taken_until={"DescribeKey": NOW + AT_ONCE + LONGEST_WAIT})
    turn = take(busy, asked_out_of_turn(key()), 5, NOW)
    assert turn.part is None
    assert "DescribeKey" in turn.reason


def test_a_clock_that_was_set_back_keeps_nobody_waiting_for_longer_than_that() -> None:
    ahead = changed(NOTHING, taken_until={"DescribeKey": NOW + timedelta(days=1)})
    assert take(ahead, asked_out_of_turn(key()), 5, NOW).part is None
    slowly = changed(NOTHING, taken_until={"DescribeKey": NOW + timedelta(seconds=5)})
    assert take(slowly, asked_out_of_turn(key()), 5, NOW).wait == timedelta(seconds=4)


def test_another_region_key_store_or_account_has_a_part_of_its_own() -> None:
    store, clock = MemoryStore(), FakeClock(NOW)
    turns = AskOutOfTurn(store, clock, FakePauses(clock), clock.advance, quota_share_percent=1)
    mine, other = key(alias_arn=None), key(role_arn="arn:aws:iam::333333333333:role/keyvigil")
    while turns.take(mine) is not None:
        pass
    assert turns.take(other) is not None
    assert turns.take(changed(mine, region="eu-north-1")) is not None


# --- in a check -------------------------------------------------------------------------------------------------


class TimedProber(ScriptedProber):
    """Keeps how much of its time was over when a probe began."""

    spent = 0.0

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        self.spent = spent_seconds
        return super().probe(key, closely=closely, lean=lean)


class World:
    """A key whose account's part is used up."""

    def __init__(self, **about: object) -> None:
        self.clock, self.store = FakeClock(NOW), MemoryStore()
        self.pauses = FakePauses(self.clock)
        self.prober = TimedProber(ProbeAnswer(verdict=verdict(None, NOW), facts=KeyFacts()))
        self.store.put(project(), key(due_at=NOW + timedelta(minutes=9), last_probed_at=NOW, **about))
        self.turns = AskOutOfTurn(self.store, self.clock, self.pauses, self.clock.advance, quota_share_percent=1)
        self.check = CheckKey(
            self.store,
            self.prober,
            self.clock,
            CountingIds(),
            doubt=no_doubt,
            confirmation_probes=3,
            turn=self.turns,
        )

    def key(self) -> Key:
        found = self.store.key("acme-prod", KEY_ID)
        assert found is not None
        return found

    def use_up(self) -> None:
        while self.turns.take(self.key()) is not None:
            pass


@pytest.mark.parametrize("trigger", [Trigger.REQUEST, Trigger.EVENT])
def test_who_finds_the_part_used_up_is_left_to_the_next_sweep_and_nothing_is_said_of_the_key(trigger: Trigger) -> None:
    world = World(lean_until=NOW + timedelta(minutes=50))
    world.use_up()
    world.clock.advance(0.001)
    before = world.key()

    result = world.check("acme-prod", KEY_ID, trigger)

    after = world.key()
    assert (result.deferred, result.probed, result.key.health.status) == (True, False, KeyStatus.HEALTHY)
    assert world.prober.probes == 0
    assert (after.verdict, after.last_probed_at) == (before.verdict, before.last_probed_at), "it was not probed"
    assert [each.key_id for each in world.store.due_keys(world.clock.now())] == [KEY_ID]
    assert after.lean_until is not None
    assert after.lean_until <= world.clock.now(), "and then it is the whole check"


@pytest.mark.parametrize("trigger", [Trigger.LOCKOUT, Trigger.RECOVERY, Trigger.SCHEDULE, Trigger.REGISTRATION])
def test_workflows_and_sweeps_never_wait(trigger: Trigger) -> None:
    world = World()
    world.use_up()
    result = world.check("acme-prod", KEY_ID, trigger)
    assert (result.probed, result.deferred) == (True, False)
    assert world.pauses.pauses == []


def test_who_has_to_wait_a_little_does_and_has_so_much_less_time_for_the_probe() -> None:
    world = World()
    waits: list[float] = []
    for _ in range(40):
        before = world.clock.now()
        assert world.check("acme-prod", KEY_ID, Trigger.REQUEST).probed
        waits.append((world.clock.now() - before).total_seconds())
    assert waits[0] == 0
    a_second = float(out_of_turn_a_second(DESCRIBE_KEY, 1))
    assert 35 / a_second < sum(waits) * 2 < 45 / a_second * 4
    assert world.prober.spent == pytest.approx(waits[-1])


def test_when_others_are_always_faster_the_sweep_probes_it() -> None:
    world = World()

    def faster() -> None:
        rival = world.store.out_of_turn(CUSTOMER, "us-west-2")
        world.store.commit([Put(rival)])
        world.store.before_commit = faster

    world.store.before_commit = faster
    assert world.turns.take(world.key()) is None
    assert len(world.pauses.pauses) == 4


# --- together with sweeps ---------------------------------------------------------------------------------------


SANDBOXES = 30


class WatchingProber(QuotaProber):
    """Keys of which some get no answer but that of time, so that their workflows go on."""

    stuck: frozenset[str] = frozenset()

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        answer = super().probe(key, closely=closely, lean=lean)
        if key.key_id in self.stuck and answer.verdict.cause is None:
            return ProbeAnswer(verdict=verdict(Cause.TIMEOUT, self.clock.now()), facts=KeyFacts())
        return answer


class BusyHerd(Herd):
    """A herd of which more is asked for in every second than its part allows, in many sandboxes, beside workflows."""

    def __init__(self, keys: int, *, in_workflow: int, seed: int, plan: str, region: str, percent: int) -> None:
        super().__init__(keys, seed=seed, plan=plan, region=region, percent=percent)
        self.prober = WatchingProber(self.clock, self.kms)
        ids = [f"{region}.{number:05d}" for number in range(keys)]
        self.ids, self.ill = ids[in_workflow:], ids[:in_workflow]
        self.prober.stuck = frozenset(self.ill)
        for key_id in self.ill:
            suspect = self.store.key("acme-prod", key_id)
            assert suspect is not None
            self.store.put(changed(suspect, health=Health(status=KeyStatus.SUSPECT)))
        self.turns = [
            AskOutOfTurn(
                self.store, self.clock, FakePauses(self.clock), self.clock.advance, quota_share_percent=percent
            )
            for _ in range(SANDBOXES)
        ]
        self.outcomes: Counter[str] = Counter()
        self.confirmations: Counter[str] = Counter()
        self.check = self.checker(timedelta(0))

    def checker(self, waited: timedelta | None) -> CheckKey:
        return CheckKey(
            self.store,
            self.prober,
            self.clock,
            CountingIds(),
            doubt=no_doubt,
            confirmation_probes=3,
            turn=lambda _key: waited,
        )

    @override
    def asks(self) -> None:
        for _ in range(600):  # ten a second
            self.later(self.random.uniform(0, 59), self.ask)
        for number, key_id in enumerate(self.ill):
            for ten in range(6):
                self.later(10 * ten + number % 10, partial(self.confirm, key_id))

    def ask(self) -> None:
        key_id, trigger = self.random.choice(self.ids), self.random.choice([Trigger.REQUEST, Trigger.EVENT])
        asked = self.store.key("acme-prod", key_id)
        assert asked is not None
        wait = self.random.choice(self.turns).take(asked)
        self.outcomes["deferred" if wait is None else "admitted"] += 1
        if wait is None:
            assert self.checker(None)("acme-prod", key_id, trigger).deferred
        else:
            self.later(max(wait.total_seconds(), 0), partial(self.check, "acme-prod", key_id, trigger))

    def confirm(self, key_id: str) -> None:
        found = self.check("acme-prod", key_id, Trigger.LOCKOUT)
        self.confirmations[str(found.key.verdict.cause)] += 1


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("plan", "keys", "region"), [("full", 3000, "us-west-2"), (LEAN, 7500, "eu-north-1")])
def test_sweeps_requests_events_and_workflows_together_stay_within_the_share(
    seed: int, plan: str, keys: int, region: str
) -> None:
    percent = 2 if plan == "full" else 1
    herd = BusyHerd(keys, in_workflow=12, seed=seed, plan=plan, region=region, percent=percent)
    minutes = 3
    for _ in range(minutes):
        herd.minute()
    assert 0.9 <= herd.kms.used(minutes) <= 1
    assert herd.kms.sent.total() <= 1.02 * herd.kms.succeeded.total()
    for quota_class, sent in herd.kms.sent.items():
        assert sent <= 1.02 * herd.kms.shares[quota_class] * 60 * minutes
    assert {each.health.status for each in herd.store.all(Key)} == {KeyStatus.HEALTHY, KeyStatus.SUSPECT}
    assert herd.confirmations == {"TIMEOUT": 12 * 6 * minutes}, "no confirmation was throttled, none was put off"
    assert herd.outcomes["admitted"] >= 35 * minutes
    assert herd.outcomes["deferred"] > 0
    assert max(herd.prober.probed[each] for each in herd.ids) <= minutes + 4
