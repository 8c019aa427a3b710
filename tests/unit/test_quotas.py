"""What a sweep takes of a customer's quota: the planner by itself, and against a KMS with a real token bucket."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import override

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.keys import Key, KeyFacts, KeyStatus, Trigger
from keyvigil.domain.quotas import DEALT_SECONDS, Bucket, QuotaClass, deal, probes_a_second, quota
from keyvigil.domain.verdicts import Cause, Outcome
from keyvigil.ports import CheckMessage, CheckQueue, FindActorMessage, ProbeAnswer
from keyvigil.use_cases.check_key import CheckKey
from keyvigil.use_cases.plan_sweep import PlanSweep
from tests.examples import CUSTOMER, KEY_ID, NOW, key, project, verdict
from tests.fakes import CountingIds, FakeClock, MemoryStore, ScriptedProber, no_doubt

OTHER = "333333333333"
BUCKETS = [Bucket(CUSTOMER, "us-west-2"), Bucket(CUSTOMER, "eu-north-1"), Bucket(OTHER, "us-west-2")]


# --- the planner ------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(BUCKETS), max_size=6000), st.integers(1, 3))
def test_a_deal_is_within_every_share_oldest_first_and_loses_nothing(wanted: list[Bucket], percent: int) -> None:
    dealt = deal(wanted, percent, most=20_000)
    placed = [place for places in dealt.at.values() for place in places]
    assert len(placed) == len(set(placed))
    assert len(placed) + dealt.held == len(wanted)
    for bucket in BUCKETS:
        mine = [place for place, each in enumerate(wanted) if each == bucket]
        order = [place for places in dealt.at.values() for place in places if wanted[place] == bucket]
        assert order == mine[: len(order)], "oldest first, and none is passed over"
        rate = probes_a_second(bucket.region, percent)
        served = 0
        for second, places in dealt.at.items():
            served += sum(wanted[place] == bucket for place in places)
            assert served <= rate * (second + 1) + 1
            assert second < DEALT_SECONDS
        assert len(order) == len(mine) or len(order) >= 0.9 * 60 * rate, "what is held back did not fit"


def test_the_scarcest_quota_decides_and_another_account_or_region_has_its_own() -> None:
    assert quota("eu-north-1", QuotaClass.CRYPTOGRAPHIC) == 10_000
    assert quota("us-west-2", QuotaClass.CRYPTOGRAPHIC) == 100_000
    assert probes_a_second("eu-north-1", 5) == probes_a_second("us-west-2", 5) == 100
    assert deal([BUCKETS[0]] * 1200 + [BUCKETS[2]] * 20, 1, most=20_000).at[0] == [*range(20), *range(1200, 1220)]


def test_what_fits_into_a_second_is_probed_at_once() -> None:
    assert deal([BUCKETS[0]] * 100, 5, most=20_000).at == {0: list(range(100))}


def test_an_account_that_has_more_than_its_share_takes_no_other_ones_place() -> None:
    dealt = deal([BUCKETS[0]] * 5000 + [BUCKETS[2]] * 5, 1, most=1105)
    assert [place for places in dealt.at.values() for place in places if place >= 5000] == list(range(5000, 5005))
    assert dealt.held == 5005 - 1105


# --- against a KMS that refuses what is over the quota ----------------------------------------------------------


@dataclass
class ShareQuota:
    """KMS with a token bucket for DescribeKey of just the share: what goes beyond it is throttled."""

    rate: float
    tokens: float = 0
    at: datetime = NOW
    sent: int = 0
    succeeded: int = 0

    def take(self, now: datetime) -> bool:
        self.tokens = min(self.rate, self.tokens + (now - self.at).total_seconds() * self.rate)
        self.at = now
        self.sent += 1
        if self.tokens < 1:
            return False
        self.tokens -= 1
        self.succeeded += 1
        return True


@dataclass
class QuotaProber(ScriptedProber):
    """A key whose DescribeKey draws on the quota, tried once again as botocore does."""

    clock: FakeClock
    kms: ShareQuota
    own_traffic: random.Random | None = None
    probed: Counter[str] = field(default_factory=Counter)

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        now = self.clock.now()
        self.probed[key.key_id] += 1
        taken = self.own_traffic is None or self.own_traffic.random() > 0.5
        works = (taken and self.kms.take(now)) or (taken and self.kms.take(now))
        return ProbeAnswer(verdict=verdict(None if works else Cause.THROTTLED, now), facts=KeyFacts())


class Delays(CheckQueue):
    """A queue that keeps messages as long as they are delayed."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, CheckMessage]] = []

    @override
    def send(self, messages: Sequence[CheckMessage | FindActorMessage], *, delay_seconds: int = 0) -> int:
        mine = [each for each in messages if isinstance(each, CheckMessage) and not each.canary]
        self.waiting += [(delay_seconds, key) for each in mine for key in each.singly()]
        return sum(len(each.singly()) for each in mine) + len(messages) - len(mine)


class Herd:
    """So many keys of one account in one Region, all due every minute, and a sweep each minute."""

    def __init__(self, keys: int, *, seed: int = 1, rate: float = 20, own_traffic: bool = False) -> None:
        self.clock, self.store, self.queue = FakeClock(NOW), MemoryStore(), Delays()
        self.random = random.Random(seed)  # noqa: S311  a simulation
        self.kms = ShareQuota(rate, tokens=rate)
        self.prober = QuotaProber(self.clock, self.kms, self.random if own_traffic else None)
        self.store.put(project(check_interval_minutes=1))
        self.store.put(
            *(key(key_id=f"us-west-2.{number:05d}", due_at=NOW + timedelta(seconds=1)) for number in range(keys))
        )
        self.check = CheckKey(self.store, self.prober, self.clock, CountingIds(), doubt=no_doubt, confirmation_probes=3)
        self.sweep = PlanSweep(self.store, self.queue, self.clock, quota_share_percent=1)

    def minute(self) -> None:
        begins = NOW + timedelta(minutes=self.minutes + 1)
        self.minutes += 1
        self.clock.advance((begins - self.clock.now()).total_seconds())
        self.sweep()
        # Queue and function take up to a fifth of a second.
        arriving = sorted(
            ((at + self.random.random() / 5, each) for at, each in self.queue.waiting), key=lambda it: it[0]
        )
        self.queue.waiting.clear()
        for at, message in arriving:
            ahead = begins + timedelta(seconds=at) - self.clock.now()
            self.clock.advance(max(0.0, ahead.total_seconds()))
            self.check(message.project_id, message.key_id, Trigger.SCHEDULE, due_at=message.due_at)

    minutes = 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_under_a_quota_90_percent_of_it_is_used_and_102_calls_are_sent_for_100_successes(seed: int) -> None:
    herd = Herd(2000, seed=seed)
    for _ in range(5):
        herd.minute()
    used = herd.kms.succeeded / (herd.kms.rate * 60 * 5)
    assert 0.9 <= used <= 1
    assert herd.kms.sent <= 1.02 * herd.kms.succeeded
    assert all(each.health.status is KeyStatus.HEALTHY for each in herd.store.all(Key))
    assert max(herd.prober.probed.values()) - min(herd.prober.probed[each.key_id] for each in herd.store.all(Key)) <= 1


def test_what_did_not_fit_is_probed_next_minute_before_what_was_probed_last() -> None:
    herd = Herd(1500)
    herd.minute()
    first = set(herd.prober.probed)
    assert len(first) == 20 * DEALT_SECONDS
    herd.minute()
    assert len(herd.prober.probed) == 1500, "the 400 that waited came first"
    assert [each for each in first if herd.prober.probed[each] == 2], "and the others after them"


def test_a_customer_who_uses_the_quota_up_makes_no_key_unhealthy() -> None:
    herd = Herd(200, own_traffic=True)
    for _ in range(20):
        herd.minute()
    found = herd.store.all(Key)
    assert any(each.verdict.outcome is Outcome.UNKNOWN for each in found)
    assert all(each.health.status is KeyStatus.HEALTHY and each.open_incident_id is None for each in found)


def test_keys_of_two_accounts_do_not_wait_for_each_other() -> None:
    herd = Herd(1500)
    herd.store.put(
        key(key_id=KEY_ID, role_arn=f"arn:aws:iam::{OTHER}:role/keyvigil", due_at=NOW + timedelta(seconds=2))
    )
    herd.minute()
    assert herd.prober.probed[KEY_ID] == 1
