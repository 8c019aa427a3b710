"""What is asked of a customer's quotas beside the sweep: by requests and events, from the part that sweeps leave.

A token bucket for each quota, kept in the table so that it holds for all sandboxes together, as the moment until which
what was taken is paid for (the generic cell rate algorithm, ITU-T I.371).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction
from math import ceil

from keyvigil.domain.keys import Key
from keyvigil.domain.quotas import SWEEPS_PERCENT, Asked, Bucket, asked, next_probe

AT_ONCE = timedelta(seconds=1)
"""How much of the part may be taken at once: what it gets in a second."""

LONGEST_WAIT = timedelta(seconds=8)
"""How long a request or an event waits for its tokens. What is left of the probe's time is enough for an answer."""

_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfTurn:
    """What was taken of one account's quotas in one Region: until when it is paid for, by the quota."""

    account_id: str
    region: str
    taken_until: Mapping[str, datetime] = field(default_factory=dict)
    version: int = 0


def out_of_turn_a_second(bucket: Bucket, share_percent: int) -> Fraction:
    """How many requests a second there are for what asks out of turn, of one quota."""
    return Fraction(bucket.quota * share_percent * (100 - SWEEPS_PERCENT), 100 * 100)


def asked_out_of_turn(key: Key) -> Asked:
    """What a request or an event asks for: the whole check with the closer look."""
    probe = replace(next_probe(key), lean_for=timedelta(0), looks_after=timedelta(0), in_workflow=False)
    return asked(key.role_arn.split(":")[4], key.region, probe, timedelta(0))


@dataclass(frozen=True, slots=True)
class Turn:
    """When a probe may be made that asks out of turn: after `wait`, or not before the next sweep if `part` is None."""

    part: OutOfTurn | None
    wait: timedelta
    reason: str


def take(part: OutOfTurn, wanted: Asked, share_percent: int, now: datetime) -> Turn:
    """Take what a probe asks for, or nothing if it would have to wait for too long."""
    longest = timedelta(0)
    # What was taken further ahead than anything may be was taken by a clock that has been set back.
    latest = now + AT_ONCE + LONGEST_WAIT
    until = {name: min(moment, latest) for name, moment in part.taken_until.items() if moment > now}
    for bucket, requests in wanted.draws():
        name = f"{bucket.quota_class}/{bucket.key_store}" if bucket.key_store else str(bucket.quota_class)
        begins = until.get(name, now)
        wait = begins - now - AT_ONCE
        if wait > LONGEST_WAIT - _MILLISECOND:
            return Turn(None, wait, f"{name}: requests and events have used up their part of the quota")
        longest = max(longest, wait)
        # Up to the millisecond, which is what is kept.
        costs = ceil(Fraction(requests * 1000) / out_of_turn_a_second(bucket, share_percent)) * _MILLISECOND
        until[name] = begins + costs
    return Turn(replace(part, taken_until=until), longest, "there is room in every quota")
