"""How many keys a sweep has probed in one account and Region, and when within its minute.

KMS's quotas of requests are those of the account whose credentials make them: through a customer's role the customer's,
shared with their own traffic. So probes take a share of it, and what does not fit waits for the next minute.

Source: https://docs.aws.amazon.com/kms/latest/developerguide/requests-per-second.html
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction


class QuotaClass(StrEnum):
    """Which of KMS's quotas a request counts against."""

    CRYPTOGRAPHIC = "cryptographic operations (symmetric)"
    DESCRIBE_KEY = "DescribeKey"


DESCRIBE_KEY_A_SECOND = 2_000
CRYPTOGRAPHIC_A_SECOND = 10_000
"""In the Regions that have the least."""
_LARGER: Mapping[str, int] = {
    **dict.fromkeys(("us-east-1", "us-west-2", "eu-west-1"), 100_000),
    **dict.fromkeys(
        ("us-east-2", "ap-southeast-1", "ap-southeast-2", "ap-northeast-1", "eu-central-1", "eu-west-2"), 20_000
    ),
}

PROBE_REQUESTS: Mapping[QuotaClass, int] = {QuotaClass.DESCRIBE_KEY: 1, QuotaClass.CRYPTOGRAPHIC: 3}
"""What a whole check asks at most: DescribeKey; Encrypt, Decrypt and GenerateDataKey."""

DEALT_SECONDS = 55
"""Probes are dealt over so much of the minute. What is dealt later might not be probed when the next sweep looks, and
be sent twice; and the rest of the share is left for what asks out of turn: requests, events and confirmations."""


def quota(region: str, quota_class: QuotaClass) -> int:
    """AWS's default quota, in requests a second for an account in a Region."""
    if quota_class is QuotaClass.DESCRIBE_KEY:
        return DESCRIBE_KEY_A_SECOND
    return _LARGER.get(region, CRYPTOGRAPHIC_A_SECOND)


def probes_a_second(region: str, share_percent: int) -> Fraction:
    """How many whole checks a second fit into the share of every class: the scarcest one decides."""
    return min(Fraction(quota(region, each) * share_percent, 100 * asked) for each, asked in PROBE_REQUESTS.items())


@dataclass(frozen=True, slots=True)
class Bucket:
    """Whose quota a probe draws on: that of the role's account, in the key's Region."""

    account: str
    region: str


@dataclass(frozen=True, slots=True)
class Deal:
    """Which of the keys that were asked for are probed this minute.

    `at` lists their positions by the second of the minute in which they begin; `held` counts those that do not fit.
    """

    at: Mapping[int, Sequence[int]]
    held: int


def deal(wanted: Sequence[Bucket], share_percent: int, *, most: int) -> Deal:
    """Deal out one minute, `most` probes in all. `wanted` is oldest first, and each bucket is served in that order.

    A token bucket that is filled by the second and planned ahead: the n-th probe of a bucket begins in the second in
    which its token is there. So nothing is shared on the way to KMS, and the same keys are dealt the same way whoever
    deals. Whole checks are counted, though a lean one asks less: which it is going to be is not known here.
    """
    rates = {each: probes_a_second(each.region, share_percent).as_integer_ratio() for each in set(wanted)}
    served: Counter[Bucket] = Counter()
    at: dict[int, list[int]] = {}
    held = dealt = 0
    for place, bucket in enumerate(wanted):
        probes, seconds = rates[bucket]
        second = served[bucket] * seconds // probes
        if second >= DEALT_SECONDS or dealt >= most:
            held += 1
            continue
        served[bucket] += 1
        dealt += 1
        at.setdefault(second, []).append(place)
    return Deal(at={second: at[second] for second in sorted(at)}, held=held)
