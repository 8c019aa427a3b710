"""The hysteresis: how a row of verdicts becomes a key's status. No clock and no I/O, every input an argument."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from keyvigil.domain.keys import Health, KeyStatus
from keyvigil.domain.verdicts import Cause, Outcome, Verdict, is_definite

MINIMUM_SPACING = timedelta(seconds=5)
"""A probe sooner than this after the last counted one would be the same reading twice."""

AMBIGUOUS_DURATION = timedelta(minutes=2)
"""How long an ambiguous cause must last: KMS policy changes take seconds, sometimes minutes, to spread."""

NOT_FOUND_DURATION = timedelta(minutes=5)
"""How long KEY_NOT_FOUND must last: grants take up to 5 minutes to spread, and stray NotFound occurs meanwhile.

Source: https://docs.aws.amazon.com/kms/latest/developerguide/programming-eventual-consistency.html
"""

CLOCK_JUMP = timedelta(minutes=1)
"""A verdict older than the last counted one is late, and ignored; one older by more than this is a clock set back."""


class Change(StrEnum):
    """What happened to a key's status; each is told to somebody."""

    SUSPECTED = "SUSPECTED"
    CONFIRMED = "CONFIRMED"
    RECOVERY_BEGAN = "RECOVERY_BEGAN"
    RELAPSED = "RELAPSED"
    RECOVERED = "RECOVERED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The health after a verdict, what changed, and why."""

    health: Health
    change: Change | None
    reason: str


def is_confirmed(
    health: Health, cause: Cause | None, now: datetime, *, probes: int, deletion_date: datetime | None
) -> tuple[bool, str]:
    """Say whether the running failing streak proves an outage, with the reason.

    Definite causes need `probes` in a row. Ambiguous ones need twice as many over at least two minutes,
    KEY_NOT_FOUND over five.
    """
    if cause is None or health.failing_since is None:
        return False, "the last probe did not fail"
    if is_definite(cause, deletion_date=deletion_date, now=now):
        return (
            health.definite_streak >= probes,
            f"{health.definite_streak} of {probes} probes in a row found a definite cause",
        )
    duration = NOT_FOUND_DURATION if cause is Cause.KEY_NOT_FOUND else AMBIGUOUS_DURATION
    lasted = now - health.failing_since
    return (
        health.failing_streak >= 2 * probes and lasted >= duration,
        (
            f"{health.failing_streak} of {2 * probes} probes in a row failed, over {int(lasted.total_seconds())} of "
            f"{int(duration.total_seconds())} seconds, with an ambiguous cause"
        ),
    )


def observe(health: Health, verdict: Verdict, *, probes: int, deletion_date: datetime | None = None) -> Decision:
    """Take one verdict into a key's health.

    UNKNOWN neither counts nor resets. An UNHEALTHY verdict resets recovery, a HEALTHY one the failing
    streak; a verdict that goes on with the running streak counts only if it is spaced from the last.
    A key that was SUSPECT goes back to HEALTHY through RECOVERING too, so that an answer that alternates
    is one incident and not many.

    Args:
        health: the key's health before.
        verdict: what the probe found.
        probes: how many probes in a row confirm a definite outage, and prove a recovery.
        deletion_date: when KMS is going to delete, or has deleted, the key, if that was ever seen.
    """
    late = health.counted_at is not None and health.counted_at - CLOCK_JUMP < verdict.probed_at < health.counted_at
    if late:
        return Decision(health=health, change=None, reason="a later probe was counted already")
    match verdict.outcome:
        case Outcome.UNKNOWN:
            since = health.unknown_since or verdict.probed_at
            return Decision(health=replace(health, unknown_since=since), change=None, reason="no answer proves nothing")
        case Outcome.UNHEALTHY:
            return _failing(health, verdict, probes, deletion_date)
        case Outcome.HEALTHY:
            return _working(health, verdict, probes)
        case _:
            assert_never(verdict.outcome)


def _counts(health: Health, streak: int, verdict: Verdict) -> bool:
    spaced = health.counted_at is None or abs(verdict.probed_at - health.counted_at) >= MINIMUM_SPACING
    return streak == 0 or spaced


def _failing(health: Health, verdict: Verdict, probes: int, deletion_date: datetime | None) -> Decision:
    cause = verdict.cause or Cause.UNCLASSIFIED
    counts = _counts(health, health.failing_streak, verdict)
    definite = is_definite(cause, deletion_date=deletion_date, now=verdict.probed_at)
    after = replace(
        health,
        unknown_since=None,
        healthy_streak=0,
        failing_streak=health.failing_streak + counts,
        definite_streak=(health.definite_streak + counts) if definite else 0,
        failing_since=health.failing_since or verdict.probed_at,
        counted_at=verdict.probed_at if counts else health.counted_at,
    )
    confirmed, reason = is_confirmed(after, cause, verdict.probed_at, probes=probes, deletion_date=deletion_date)
    change: Change | None
    match health.status:
        case KeyStatus.HEALTHY:
            status, change = KeyStatus.SUSPECT, Change.SUSPECTED
        case KeyStatus.SUSPECT:
            status, change = (KeyStatus.UNHEALTHY, Change.CONFIRMED) if confirmed else (KeyStatus.SUSPECT, None)
        case KeyStatus.RECOVERING:
            status, change = (
                (KeyStatus.UNHEALTHY if health.confirmed else KeyStatus.SUSPECT),
                Change.RELAPSED,
            )
        case KeyStatus.UNHEALTHY:
            status, change = KeyStatus.UNHEALTHY, None
        case _:
            assert_never(health.status)
    after = replace(after, status=status, confirmed=health.confirmed or status is KeyStatus.UNHEALTHY)
    return Decision(health=after, change=change, reason=reason)


def _working(health: Health, verdict: Verdict, probes: int) -> Decision:
    counts = _counts(health, health.healthy_streak, verdict)
    streak = min(health.healthy_streak + counts, probes)
    after = replace(
        health,
        unknown_since=None,
        failing_streak=0,
        definite_streak=0,
        failing_since=None,
        healthy_streak=streak,
        counted_at=verdict.probed_at if counts else health.counted_at,
    )
    reason = f"{streak} of {probes} probes in a row succeeded"
    match health.status:
        case KeyStatus.HEALTHY:
            return Decision(health=after, change=None, reason=reason)
        case KeyStatus.SUSPECT | KeyStatus.UNHEALTHY:
            return Decision(
                health=replace(after, status=KeyStatus.RECOVERING),
                change=Change.RECOVERY_BEGAN,
                reason=reason,
            )
        case KeyStatus.RECOVERING:
            if streak < probes:
                return Decision(health=after, change=None, reason=reason)
            return Decision(
                health=replace(after, status=KeyStatus.HEALTHY, confirmed=False),
                change=Change.RECOVERED,
                reason=reason,
            )
        case _:
            assert_never(health.status)
