"""What a sweep takes of a customer's quota: the planner by itself, and against a KMS with a real token bucket."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction
from functools import partial
from heapq import heappop, heappush
from typing import Any, override

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.keys import CloserLook, Key, KeyFacts, KeyStatus, Trigger
from keyvigil.domain.probe_plans import LEAN
from keyvigil.domain.quotas import (
    DEALT_SECONDS,
    THE_MOST,
    Asked,
    Bucket,
    NextProbe,
    QuotaClass,
    asked,
    deal,
    sweeps_a_second,
)
from keyvigil.domain.verdicts import Cause, Outcome
from keyvigil.ports import CheckMessage, CheckQueue, FindActorMessage, ProbeAnswer
from keyvigil.use_cases.check_key import CheckKey
from keyvigil.use_cases.plan_sweep import PlanSweep
from tests.examples import CUSTOMER, KEY_ID, NOW, key, project, verdict
from tests.fakes import CountingIds, FakeClock, MemoryStore, ScriptedProber, no_doubt

OTHER = "333333333333"


def whole(account: str = CUSTOMER, region: str = "us-west-2", **differently: Any) -> Asked:
    return Asked(account=account, region=region, cryptographic=2, **{"describe_key": 1, **differently})


def lean(account: str = CUSTOMER, region: str = "us-west-2", **differently: Any) -> Asked:
    return Asked(account=account, region=region, cryptographic=1, **differently)


PROBES = [
    whole(),
    whole(get_key_rotation_status=1, describe_key=2),
    whole(key_store=7),
    whole(region="eu-north-1"),
    whole(account=OTHER),
    lean(),
    lean(key_store=7),
    lean(region="eu-north-1"),
]


# --- the planner ------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(PROBES), st.integers(1, 1500)), max_size=12),
    st.integers(1, 3),
    st.integers(0, 30),
)
def test_a_deal_is_within_every_share_in_every_second_oldest_first_and_loses_nothing(
    herds: list[tuple[Asked, int]], percent: int, workflows: int
) -> None:
    wanted = [each for each, count in herds for _ in range(count)] + [whole(in_workflow=True)] * workflows
    dealt = deal(wanted, percent, most=20_000)
    placed = [place for places in dealt.at.values() for place in places]
    assert len(placed) == len(set(placed))
    assert len(placed) + dealt.held == len(wanted)
    taken: Counter[tuple[Bucket, int]] = Counter()
    for second, places in dealt.at.items():
        assert 0 <= second < DEALT_SECONDS
        for place in places:
            for bucket, requests in wanted[place].draws():
                taken[bucket, second] += requests
    for (bucket, _), requests in taken.items():
        assert requests <= sweeps_a_second(bucket, percent) + 3, "what one probe left over may be taken a second later"
    for alike in set(wanted):
        mine = [place for place, each in enumerate(wanted) if each == alike]
        order = [place for places in dealt.at.values() for place in places if wanted[place] == alike]
        assert order == mine[: len(order)], "oldest first, and none is passed over"


@pytest.mark.parametrize("percent", [1, 2, 5])
@pytest.mark.parametrize("probe", [each for each in PROBES if each.describe_key or each.region == "eu-north-1"])
def test_what_is_held_back_did_not_fit(probe: Asked, percent: int) -> None:
    dealt = deal([probe] * 30_000, percent, most=30_000)
    probes = sum(len(places) for places in dealt.at.values())
    used = max(Fraction(probes * asks * 100, 60 * bucket.quota * percent) for bucket, asks in probe.draws())
    assert 0.9 <= used <= 0.92, "of the scarcest quota's share"


QUOTAS = [
    ("eu-north-1", QuotaClass.SYMMETRIC, 10_000),
    ("eu-central-1", QuotaClass.SYMMETRIC, 20_000),
    ("us-west-2", QuotaClass.SYMMETRIC, 100_000),
    ("us-west-2", QuotaClass.KEY_STORE, 1_800),
    ("us-west-2", QuotaClass.DESCRIBE_KEY, 2_000),
    ("us-west-2", QuotaClass.GET_KEY_ROTATION_STATUS, 1_000),
]


@pytest.mark.parametrize(("region", "quota_class", "a_second"), QUOTAS)
def test_the_quotas_are_those_that_aws_lists(region: str, quota_class: QuotaClass, a_second: int) -> None:
    assert Bucket(CUSTOMER, region, quota_class).quota == a_second


FULL = NextProbe(cryptographic=2, alias=False, looks_after=timedelta(minutes=30))


@pytest.mark.parametrize(
    ("probe", "late", "asks"),
    [
        (FULL, 0, (2, 1, 0, 0)),
        (FULL, 30, (2, 1, 1, 0)),
        (replace(FULL, alias=True), 30, (2, 2, 1, 0)),
        (replace(FULL, cryptographic=3), 0, (3, 1, 0, 0)),
        (replace(FULL, key_store=8), 30, (2, 1, 0, 8)),
        (replace(FULL, lean_for=timedelta(minutes=1)), 0, (1, 0, 0, 0)),
        (replace(FULL, lean_for=timedelta(minutes=1), key_store=8), 0, (1, 0, 0, 8)),
        (replace(FULL, lean_for=timedelta(minutes=1)), 1, (2, 1, 0, 0)),
        (THE_MOST, 0, (3, 2, 1, 0)),
    ],
)
def test_a_probe_takes_what_it_will_ask_of_each_quota(
    probe: NextProbe, late: int, asks: tuple[int, int, int, int]
) -> None:
    found = asked(CUSTOMER, "us-west-2", probe, timedelta(minutes=late))
    assert (found.cryptographic, found.describe_key, found.get_key_rotation_status, found.key_store) == asks


def test_a_custom_key_store_has_a_quota_of_its_own_and_counts_against_the_accounts_as_well() -> None:
    classes = {bucket.quota_class: bucket.key_store for bucket, _ in whole(key_store=7).draws()}
    assert classes == {QuotaClass.SYMMETRIC: 0, QuotaClass.DESCRIBE_KEY: 0, QuotaClass.KEY_STORE: 7}
    busy = deal([whole(key_store=7)] * 2000 + [whole(key_store=8)] * 5, 1, most=20_000)
    assert all(place in busy.at[0] for place in range(2000, 2005)), "another key store does not wait"


def test_lean_probes_are_bounded_by_cryptographic_operations_alone() -> None:
    fits = deal([lean(region="eu-north-1")] * 50_000, 5, most=50_000)
    assert len(fits.at[0]) == 470
    assert len(deal([whole(region="eu-north-1")] * 50_000, 5, most=50_000).at[0]) == 94
    mixed = deal([whole()] * 9000 + [lean()], 5, most=20_000)
    assert 9000 in mixed.at[0], "a lean probe does not wait for DescribeKey"


def test_the_scarcest_quota_decides_and_another_account_or_region_has_its_own() -> None:
    dealt = deal([whole()] * 1200 + [whole(account=OTHER)] * 10, 1, most=20_000)
    assert dealt.at[0] == [*range(18), *range(1200, 1210)]


def test_what_fits_into_a_second_is_probed_at_once() -> None:
    assert deal([whole()] * 94, 5, most=20_000).at == {0: list(range(94))}


def test_an_account_that_has_more_than_its_share_takes_no_other_ones_place() -> None:
    dealt = deal([whole()] * 5000 + [whole(account=OTHER)] * 5, 1, most=5005)
    assert [place for places in dealt.at.values() for place in places if place >= 5000] == list(range(5000, 5005))
    assert dealt.held == 5000 - 1090


def test_sweeps_leave_workflows_what_they_will_ask_for_but_never_more_than_half() -> None:
    alone = deal([whole()] * 9000, 5, most=20_000)
    beside = deal([whole(in_workflow=True)] * 300 + [whole()] * 8700, 5, most=20_000)
    probed = [sum(len(places) for places in each.at.values()) for each in (alone, beside)]
    assert probed == [94 * DEALT_SECONDS, 64 * DEALT_SECONDS], "30 a second are for the workflows"
    flood = deal([whole(in_workflow=True)] * 9000, 5, most=20_000)
    assert sum(len(places) for places in flood.at.values()) == 47 * DEALT_SECONDS


# --- against a KMS that refuses what is over the quota ----------------------------------------------------------


@dataclass
class Tokens:
    """One quota that refuses what goes beyond it: a token bucket of a second's tokens."""

    rate: float
    tokens: float
    at: datetime = NOW

    def take(self, now: datetime) -> bool:
        self.tokens = min(self.rate, self.tokens + (now - self.at).total_seconds() * self.rate)
        self.at = now
        taken = self.tokens >= 1
        self.tokens -= taken
        return taken


class QuotaKms:
    """KMS in one account and Region, whose quotas are just the share."""

    def __init__(self, region: str, percent: int) -> None:
        self.shares = {
            each: Bucket(CUSTOMER, region, each).quota * percent / 100
            for each in (QuotaClass.SYMMETRIC, QuotaClass.DESCRIBE_KEY, QuotaClass.GET_KEY_ROTATION_STATUS)
        }
        self.quotas = {each: Tokens(share, share) for each, share in self.shares.items()}
        self.sent: Counter[QuotaClass] = Counter()
        self.succeeded: Counter[QuotaClass] = Counter()

    def ask(self, quota_class: QuotaClass, now: datetime) -> bool:
        """Tried once again, as botocore does."""
        for _ in range(2):
            self.sent[quota_class] += 1
            if self.quotas[quota_class].take(now):
                self.succeeded[quota_class] += 1
                return True
        return False

    def used(self, minutes: int) -> float:
        """How much of the scarcest share was used."""
        return max(self.succeeded[each] / (share * 60 * minutes) for each, share in self.shares.items())


@dataclass
class QuotaProber(ScriptedProber):
    """Keys whose probes draw on the quotas."""

    clock: FakeClock
    kms: QuotaKms
    own_traffic: random.Random | None = None
    probed: Counter[str] = field(default_factory=Counter)

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        now = self.clock.now()
        self.probed[key.key_id] += 1
        described = lean or self._ask(QuotaClass.DESCRIBE_KEY)
        works = described and all(self._ask(QuotaClass.SYMMETRIC) for _ in range(1 if lean else 2))
        closer = CloserLook(looked_at=now) if closely and self._ask(QuotaClass.GET_KEY_ROTATION_STATUS) else None
        facts = None if lean else KeyFacts(closer=closer)
        return ProbeAnswer(verdict=verdict(None if works else Cause.THROTTLED, now), facts=facts, whole=not lean)

    def _ask(self, quota_class: QuotaClass) -> bool:
        if self.own_traffic is not None and self.own_traffic.random() < 0.5:
            return False
        return self.kms.ask(quota_class, self.clock.now())


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

    def __init__(
        self,
        keys: int,
        *,
        seed: int = 1,
        own_traffic: bool = False,
        plan: str = "full",
        region: str = "us-west-2",
        percent: int = 1,
    ) -> None:
        self.clock, self.store, self.queue = FakeClock(NOW), MemoryStore(), Delays()
        self.agenda: list[tuple[datetime, int, Callable[[], object]]] = []
        self.counted = 0
        self.random = random.Random(seed)  # noqa: S311  a simulation
        self.kms = QuotaKms(region, percent)
        self.prober = QuotaProber(self.clock, self.kms, self.random if own_traffic else None)
        self.store.put(project(check_interval_minutes=1, probe_plan=plan))
        for number in range(keys):
            looked = NOW - timedelta(minutes=self.random.randrange(55))
            whole_until = NOW + timedelta(minutes=self.random.randrange(60))
            self.store.put(
                key(
                    key_id=f"{region}.{number:05d}",
                    alias_arn=None,
                    due_at=NOW + timedelta(seconds=1),
                    facts=KeyFacts(closer=CloserLook(looked_at=looked)),
                    lean_until=whole_until if plan == LEAN else None,
                )
            )
        self.check = CheckKey(self.store, self.prober, self.clock, CountingIds(), doubt=no_doubt, confirmation_probes=3)
        self.sweep = PlanSweep(self.store, self.queue, self.queue, self.clock, quota_share_percent=percent)

    def minute(self) -> None:
        begins = NOW + timedelta(minutes=self.minutes + 1)
        self.minutes += 1
        self.clock.advance((begins - self.clock.now()).total_seconds())
        self.sweep()
        for delay, each in self.queue.waiting:
            # Queue and function take up to a fifth of a second.
            probe = partial(self.check, each.project_id, each.key_id, Trigger.SCHEDULE, due_at=each.due_at)
            self.later(delay + self.random.random() / 5, probe)
        self.queue.waiting.clear()
        self.asks()
        while self.agenda and self.agenda[0][0] < begins + timedelta(minutes=1):
            at, _, act = heappop(self.agenda)
            self.clock.advance(max(0.0, (at - self.clock.now()).total_seconds()))
            act()

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        self.counted += 1
        heappush(self.agenda, (self.clock.now() + timedelta(seconds=seconds), self.counted, act))

    def asks(self) -> None:
        """What is asked for beside the sweep in this minute."""

    minutes = 0


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("plan", "keys", "region"), [("full", 2000, "us-west-2"), (LEAN, 7000, "eu-north-1")])
def test_under_a_quota_90_percent_of_it_is_used_and_102_calls_are_sent_for_100_successes(
    seed: int, plan: str, keys: int, region: str
) -> None:
    herd = Herd(keys, seed=seed, plan=plan, region=region)
    for _ in range(5):
        herd.minute()
    assert 0.9 <= herd.kms.used(5) <= 1
    assert herd.kms.sent.total() <= 1.02 * herd.kms.succeeded.total()
    assert all(each.health.status is KeyStatus.HEALTHY for each in herd.store.all(Key))
    assert max(herd.prober.probed.values()) - min(herd.prober.probed[each.key_id] for each in herd.store.all(Key)) <= 1


def test_what_did_not_fit_is_probed_next_minute_before_what_was_probed_last() -> None:
    herd = Herd(1500)
    herd.minute()
    first = set(herd.prober.probed)
    assert len(first) == 1090
    herd.minute()
    assert len(herd.prober.probed) == 1500, "those that waited came first"
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
