"""Which probes may be lean, and which must be the whole check: DescribeKey, Encrypt, Decrypt and what the use adds."""

from datetime import datetime, timedelta

from keyvigil.domain.keys import CLOSER_LOOK_EVERY, Key, KeyStatus, Trigger
from keyvigil.domain.verdicts import Outcome, Verdict

LEAN = "lean"
"""The plan in which a key that works is asked for no more than Decrypt between two whole checks.

Decrypt of the registration ciphertext needs the role, the key, its state, its material and its policy, so nearly all
that can befall a key befalls it. What does not is on docs/decisions/0030-few-calls-and-quotas.md.
"""

WHOLE_CHECK_EVERY = timedelta(hours=1)
"""How often a lean key is checked as a whole, whatever its interval."""

CLOSER_LOOK_WHEN_LEAN = timedelta(minutes=235)
"""How often rotation and alias are looked at under `lean`: every four hours, less what a whole check may be early."""

LEAST_LATENESS = timedelta(minutes=1)
"""Sweeps come every minute: a probe this late is not yet a probe missed."""


def is_lean_enough(key: Key, trigger: Trigger, now: datetime) -> tuple[bool, str]:
    """Say whether Decrypt alone will do for this probe, with the reason.

    An event, a request and the workflows want the whole check, and so does a key that did not work the last time.
    """
    if key.lean_until is None:
        return False, "the project's plan is full"
    if trigger is not Trigger.SCHEDULE:
        return False, f"the probe was triggered by {trigger}"
    if key.health.status is not KeyStatus.HEALTHY or key.verdict.outcome is not Outcome.HEALTHY:
        return False, "the key did not work at the last probe"
    if not now < key.lean_until <= now + WHOLE_CHECK_EVERY + LEAST_LATENESS:
        return False, "the whole check is due"  # one too far off was set by a clock that has been set back
    return True, f"the whole check is not due before {key.lean_until:%H:%M:%S} UTC"


def lean_until(key: Key, plan: str, interval_minutes: int, verdict: Verdict, *, whole: bool) -> datetime | None:
    """Until when scheduled probes may be lean after this verdict; None if the project's plan lets none be.

    The whole check is due at the last probe that comes within an hour of the one before, so at an interval above 30
    minutes every probe is whole. One that got no answer (UNKNOWN) has checked nothing: the next is whole again.
    """
    if plan != LEAN:
        return None
    if whole and verdict.outcome is not Outcome.UNKNOWN:
        return verdict.probed_at + WHOLE_CHECK_EVERY - timedelta(minutes=interval_minutes) + LEAST_LATENESS
    return key.lean_until or verdict.probed_at


def closer_look_every(key: Key) -> timedelta:
    """How often rotation and alias of this key are looked at."""
    return CLOSER_LOOK_EVERY if key.lean_until is None else CLOSER_LOOK_WHEN_LEAN
