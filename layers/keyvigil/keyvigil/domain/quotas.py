"""Which keys a sweep has probed in one account and Region, and when within its minute.

KMS's quotas of requests are those of the account whose credentials make them: through a customer's role the customer's,
shared with their own traffic. So probes take a share of each, and what does not fit waits for the next minute.

Source: https://docs.aws.amazon.com/kms/latest/developerguide/requests-per-second.html
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from math import floor

from keyvigil.domain.keys import Key, KeyStatus, Trigger
from keyvigil.domain.probe_plans import closer_look_every, is_lean_enough


class QuotaClass(StrEnum):
    """Which of KMS's quotas a request counts against; each is counted by itself, for an account in a Region.

    Those of asymmetric keys (RSA, ECC, ML-DSA) are not here: no such key can be registered, nor can a key become one.
    """

    SYMMETRIC = "Cryptographic operations (symmetric)"
    KEY_STORE = "Custom key store"
    DESCRIBE_KEY = "DescribeKey"
    GET_KEY_ROTATION_STATUS = "GetKeyRotationStatus"


SYMMETRIC_A_SECOND = 10_000
"""In the Regions that have the least."""
_LARGER: Mapping[str, int] = {
    **dict.fromkeys(("us-east-1", "us-west-2", "eu-west-1"), 100_000),
    **dict.fromkeys(
        ("us-east-2", "ap-southeast-1", "ap-southeast-2", "ap-northeast-1", "eu-central-1", "eu-west-2"), 20_000
    ),
}
_THE_SAME_EVERYWHERE: Mapping[QuotaClass, int] = {
    QuotaClass.KEY_STORE: 1_800,
    QuotaClass.DESCRIBE_KEY: 2_000,
    QuotaClass.GET_KEY_ROTATION_STATUS: 1_000,
}

SWEEPS_PERCENT = 94
"""What sweeps take of the share in each second. The rest is for what asks out of turn at the same time."""

DEALT_SECONDS = 58
"""Probes are dealt over so much of the minute. What is dealt later might not be probed when the next sweep looks, and
would take a second token for nothing. With SWEEPS_PERCENT that is 90.8 percent of the share."""

WORKFLOW_PROBES_A_MINUTE = 6
"""How often a workflow probes the key that it confirms or proves recovered: every ten seconds."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """One quota: of an account in a Region, and for what. `key_store` tells an account's custom key stores apart."""

    account: str
    region: str
    quota_class: QuotaClass
    key_store: int = 0

    @property
    def quota(self) -> int:
        """AWS's default, in requests a second."""
        if self.quota_class is QuotaClass.SYMMETRIC:
            return _LARGER.get(self.region, SYMMETRIC_A_SECOND)
        return _THE_SAME_EVERYWHERE[self.quota_class]


def sweeps_a_second(bucket: Bucket, share_percent: int) -> Fraction:
    """How many requests a second sweeps may make of one quota."""
    return Fraction(bucket.quota * share_percent * SWEEPS_PERCENT, 100 * 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextProbe:
    """What is known of a key's next probe when the last one is written, and so may stand in the index.

    `cryptographic` counts the cryptographic operations of the whole check, `key_store` is a number made of the custom
    key store's id, 0 for none. For `lean_for` from the time at which the key is due a scheduled probe asks for Decrypt
    alone, and `looks_after` that time a whole one has the closer look. `in_workflow` says that a workflow confirms its
    outage or proves its recovery.
    """

    cryptographic: int = 3
    key_store: int = 0
    alias: bool = True
    lean_for: timedelta = timedelta(0)
    looks_after: timedelta = timedelta(0)
    in_workflow: bool = False


THE_MOST = NextProbe()
"""What is assumed of a key of which it is not known: every operation, and the closer look."""

KEY_STORE_NUMBERS = 9_999
"""How many numbers there are for key stores. An account has at most ten in a Region; two of the same number share a
bucket. https://docs.aws.amazon.com/kms/latest/developerguide/resource-limits.html
"""


def next_probe(key: Key) -> NextProbe:
    """What the next scheduled probe of this key is going to ask for."""
    store, closer = key.facts.custom_key_store_id, key.facts.closer
    lean, _ = is_lean_enough(key, Trigger.SCHEDULE, key.last_probed_at)
    return NextProbe(
        cryptographic=sum(each in {"Encrypt", "Decrypt", "GenerateDataKey"} for each in key.use.operations),
        key_store=_number_of(store) if store is not None else 0,
        alias=key.alias_arn is not None,
        lean_for=key.lean_until - key.due_at if lean and key.lean_until is not None else timedelta(0),
        looks_after=closer.looked_at + closer_look_every(key) - key.due_at if closer is not None else timedelta(0),
        in_workflow=key.health.status in {KeyStatus.SUSPECT, KeyStatus.RECOVERING},
    )


def _number_of(key_store_id: str) -> int:
    return int.from_bytes(hashlib.sha256(key_store_id.encode()).digest()[:8]) % KEY_STORE_NUMBERS + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one probe asks of which account's quotas, in requests."""

    account: str
    region: str
    cryptographic: int
    describe_key: int = 0
    get_key_rotation_status: int = 0
    key_store: int = 0
    in_workflow: bool = False

    def draws(self) -> Iterator[tuple[Bucket, int]]:
        """How many tokens of each bucket it takes. What is asked of a custom key store counts against both quotas."""
        for quota_class, requests in (
            (QuotaClass.SYMMETRIC, self.cryptographic),
            (QuotaClass.DESCRIBE_KEY, self.describe_key),
            (QuotaClass.GET_KEY_ROTATION_STATUS, self.get_key_rotation_status),
        ):
            if requests:
                yield Bucket(self.account, self.region, quota_class), requests
        if self.key_store:
            yield Bucket(self.account, self.region, QuotaClass.KEY_STORE, self.key_store), self.cryptographic


def asked(account: str, region: str, probe: NextProbe, late: timedelta) -> Asked:
    """What a key's probe asks for that begins so long after it was due."""
    if late < probe.lean_for:
        return Asked(account=account, region=region, cryptographic=1, key_store=probe.key_store)
    looks = late >= probe.looks_after and not probe.in_workflow
    return Asked(
        account=account,
        region=region,
        cryptographic=probe.cryptographic,
        describe_key=2 if looks and probe.alias else 1,
        # KMS rotates nothing in a custom key store, so that is not asked there.
        get_key_rotation_status=1 if looks and not probe.key_store else 0,
        key_store=probe.key_store,
        in_workflow=probe.in_workflow,
    )


@dataclass(frozen=True, slots=True)
class Deal:
    """Which of the keys that were asked for are probed this minute.

    `at` lists their positions by the second of the minute in which they begin; `held` counts those that do not fit.
    """

    at: Mapping[int, Sequence[int]]
    held: int


class _Line:
    """Probes that ask for the same of the same quotas: none can begin before the one in front of it."""

    def __init__(self, drawn: list[tuple[list[int], int]]) -> None:
        self._drawn = drawn
        self._second = 0

    def take(self) -> int:
        """The first second in which every quota has room, which is taken; DEALT_SECONDS if none has."""
        while self._second < DEALT_SECONDS and any(room[self._second] < requests for room, requests in self._drawn):
            for room, requests in self._drawn:
                if room[self._second] < requests:  # too few for one such probe: tokens keep, as in a bucket
                    room[self._second + 1] += room[self._second]
                    room[self._second] = 0
            self._second += 1
        if self._second < DEALT_SECONDS:
            for room, requests in self._drawn:
                room[self._second] -= requests
        return self._second


def deal(wanted: Sequence[Asked], share_percent: int, *, most: int) -> Deal:
    """Deal out one minute, `most` probes in all. `wanted` is oldest first, and each quota is served in that order.

    A token bucket for each quota, filled by the second and planned ahead: a probe begins in the first second in which
    there is a token for everything that it asks for. So nothing is shared on the way to KMS, and the same keys are
    dealt the same way whoever deals. A key of which one quota has no room does not keep the next from what it needs.
    """
    rooms: dict[Bucket, list[int]] = {}
    workflows = _asked_by_workflows(wanted)
    lines: dict[Asked, _Line] = {}
    at: dict[int, list[int]] = {}
    dealt = 0
    for place, each in enumerate(wanted):
        if dealt >= most:
            break
        line = lines.get(each)
        if line is None:
            for bucket, _ in each.draws():
                if bucket not in rooms:
                    rooms[bucket] = _room(sweeps_a_second(bucket, share_percent), workflows[bucket])
            line = lines[each] = _Line([(rooms[bucket], requests) for bucket, requests in each.draws()])
        second = line.take()
        if second < DEALT_SECONDS:
            dealt += 1
            at.setdefault(second, []).append(place)
    return Deal(at={second: at[second] for second in sorted(at)}, held=len(wanted) - dealt)


def _asked_by_workflows(wanted: Sequence[Asked]) -> Counter[Bucket]:
    """What workflows are going to ask for in this minute, beside the sweep. They do not wait, so sweeps give way."""
    requests: Counter[Bucket] = Counter()
    for each in wanted:
        if each.in_workflow:
            for bucket, asked_for in each.draws():
                requests[bucket] += asked_for * WORKFLOW_PROBES_A_MINUTE
    return requests


def _room(a_second: Fraction, by_workflows: int) -> list[int]:
    """How many requests fit into each second. Whatever workflows ask for, half of it stays with the sweeps."""
    return [*_whole_requests(max(a_second - Fraction(by_workflows, 60), a_second / 2))]


@lru_cache(maxsize=1000)  # a million keys have as many quotas as accounts and Regions, and those a handful of rates
def _whole_requests(rate: Fraction) -> tuple[int, ...]:
    seconds = [floor(rate * (second + 1)) - floor(rate * second) for second in range(DEALT_SECONDS)]
    return (*seconds, 0)  # and what is left over in the last one
