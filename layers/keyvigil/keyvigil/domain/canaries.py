"""Canaries: KeyVigil's own make-believe customers, and what their health says about a customer's denial.

A denial looks the same whether a customer changed a policy or KeyVigil lost a permission: AWS's text does not say whose
fault it is across accounts. So a denial is believed only if a canary, which nobody but KeyVigil can break, was let in
after it.
https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from keyvigil.domain.alerts import AlertCause, AlertStatus, AlertType, Notice, Severity
from keyvigil.domain.keys import Baseline, Health, Key, KeyFacts, KeyUse, Registration, Trigger, probe_context
from keyvigil.domain.status_machine import CLOCK_JUMP, MINIMUM_SPACING
from keyvigil.domain.verdicts import Cause, Outcome, Remediation, Verdict

CANARY_PROJECT = "Canary"
"""What stands for a project in a canary's probes. No tenant's project can have this name: theirs are lower case."""

STACKS_OWN = "stack"
"""The id of the canary that comes with the stack. Others have the id of their key, which has a dot in it."""

MAX_CANARIES = 20
"""How many can be registered beside the stack's own: each is probed in every sweep, and looked at at every denial."""

DOUBTED_CAUSES = frozenset({Cause.ACCESS_DENIED, Cause.ROLE_NOT_ASSUMABLE})
"""What a fault of our own role, or of our whole account, looks like."""

PROBES_IN_A_ROW = 2
"""How many probes in a row make a canary's trouble worth an alert, and how many prove that it is over: one reading
proves nothing, and a canary that alternates is one alert and not many."""

STALE_AFTER = timedelta(minutes=3)
"""How long a canary's last probe says anything: three sweeps."""

REUSED_FOR = timedelta(seconds=10)
"""How long a canary that is not well is not probed again for the next denial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A make-believe customer: role, ExternalId and key, and what its last probe found.

    `began_at` and `ended_at` are those of the last probe. The streaks count probes in a row that were HEALTHY, or were
    not, and are spaced like those of customers' keys; `counted_at` is when the last that counted began. A canary is
    `in_doubt` from a probe that is not HEALTHY until two in a row were; `told` says that its alert is firing.
    `baseline` is None until a first probe succeeded.
    """

    canary_id: str
    key_arn: str
    region: str
    account_id: str
    role_arn: str
    external_id: str
    created_at: datetime
    baseline: Baseline | None = None
    verdict: Verdict | None = None
    began_at: datetime | None = None
    ended_at: datetime | None = None
    healthy_streak: int = 0
    unwell_streak: int = 0
    counted_at: datetime | None = None
    in_doubt: bool = False
    told: bool = False
    version: int = 0

    @property
    def outcome(self) -> Outcome:
        """The last probe's answer; UNKNOWN before the first."""
        return self.verdict.outcome if self.verdict is not None else Outcome.UNKNOWN

    def as_registration(self) -> Registration:
        """What the first probe needs, which makes the registration ciphertext."""
        return Registration(
            project_id=CANARY_PROJECT,
            key_arn=self.key_arn,
            role_arn=self.role_arn,
            external_id=self.external_id,
            use=KeyUse.CMEK,
            context=probe_context(CANARY_PROJECT),
        )

    def as_key(self, baseline: Baseline) -> Key:
        """The canary as the prober sees a customer's key. Its status and incident say nothing."""
        at = self.began_at or self.created_at
        nothing = Verdict(
            outcome=Outcome.UNKNOWN,
            cause=Cause.UNCLASSIFIED,
            operation=None,
            aws_error_code=None,
            message="",
            remediation=None,
            latency_ms=0,
            probed_at=at,
        )
        return Key(
            project_id=CANARY_PROJECT,
            key_id=self.canary_id,
            key_arn=self.key_arn,
            alias_arn=None,
            region=self.region,
            account_id=self.account_id,
            role_arn=self.role_arn,
            external_id=self.external_id,
            use=KeyUse.CMEK,
            baseline=baseline,
            facts=KeyFacts(),
            health=Health(),
            verdict=self.verdict or nothing,
            last_probed_at=at,
            last_trigger=Trigger.SCHEDULE,
            due_at=at,
            created_at=self.created_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCanary:
    """The stack's own canary, as the template made it."""

    key_arn: str
    role_arn: str
    external_id: str


def known_as(own: OwnCanary, stored: Canary | None, now: datetime) -> Canary:
    """The stack's own canary: as it is in the table, or as the template has made it (anew).

    It makes itself known: nobody registers it. A role that was made anew keeps the registration ciphertext, another
    key cannot.
    """
    fresh = Canary(
        canary_id=STACKS_OWN,
        key_arn=own.key_arn,
        region=own.key_arn.split(":")[3],
        account_id=own.key_arn.split(":")[4],
        role_arn=own.role_arn,
        external_id=own.external_id,
        created_at=now,
    )
    if stored is None:
        return fresh
    if stored.key_arn != own.key_arn:
        return replace(fresh, told=stored.told, in_doubt=stored.in_doubt, version=stored.version)
    return replace(stored, role_arn=own.role_arn, external_id=own.external_id)


def vouches_now(canary: Canary, now: datetime) -> bool:
    """Say whether a canary is well, and has been for long enough to be believed."""
    return outcome_now(canary, now) is Outcome.HEALTHY and not canary.in_doubt


class CanaryChange(StrEnum):
    """What a probe of a canary has to tell the operator."""

    FELL_ILL = "FELL_ILL"
    IS_WELL_AGAIN = "IS_WELL_AGAIN"
    WAS_REMOVED = "WAS_REMOVED"


def take(
    canary: Canary, verdict: Verdict, *, ended_at: datetime, baseline: Baseline | None = None
) -> tuple[Canary, CanaryChange | None]:
    """Take one probe into a canary's record. There is no status and no incident: one bad probe is doubt enough.

    A probe that began before the last one is late and is ignored; one from more than a minute before it means that
    a clock was set back, and the watch goes on.
    """
    began = verdict.probed_at
    if canary.began_at is not None and canary.began_at - CLOCK_JUMP < began < canary.began_at:
        return canary, None
    healthy = verdict.outcome is Outcome.HEALTHY
    running = canary.healthy_streak if healthy else canary.unwell_streak
    spaced = canary.counted_at is None or abs(began - canary.counted_at) >= MINIMUM_SPACING
    counts = running == 0 or spaced
    streak = min(running + counts, PROBES_IN_A_ROW)
    proved = healthy and streak >= PROBES_IN_A_ROW
    after = replace(
        canary,
        baseline=canary.baseline or baseline,
        verdict=verdict,
        began_at=began,
        ended_at=ended_at,
        healthy_streak=streak if healthy else 0,
        unwell_streak=0 if healthy else streak,
        counted_at=began if counts else canary.counted_at,
        in_doubt=(canary.in_doubt or not healthy) and not proved,
    )
    if not healthy and streak >= PROBES_IN_A_ROW and not canary.told:
        return replace(after, told=True), CanaryChange.FELL_ILL
    if proved and canary.told:
        return replace(after, told=False), CanaryChange.IS_WELL_AGAIN
    return after, None


def speakers(canaries: Iterable[Canary], region: str) -> tuple[tuple[Canary, ...], bool]:
    """The canaries that speak for the keys of a Region, and whether that is partial.

    They are all of that Region; where there is none, the stack's own speaks. That is partial: it sees that our role is
    broken, but not that one Region is denied to us.
    """
    known = sorted(canaries, key=lambda each: each.canary_id)
    there = tuple(each for each in known if each.region == region)
    if there:
        return there, False
    return tuple(each for each in known if each.canary_id == STACKS_OWN), True


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Whether the canaries vouch for KeyVigil, and why (not).

    `partial` says that only the stack's canary spoke, for want of one in the Region.
    """

    vouches: bool
    partial: bool
    reason: str


def vouch(canaries: Iterable[Canary], region: str, *, since: datetime, now: datetime) -> Evidence:
    """Say whether the canaries prove that KeyVigil could do its work in a Region after some moment.

    What is not proved is not so: without a canary, without a probe since, or with one canary in doubt there is no
    proof, so that nobody is locked out because *we* could not see.

    Args:
        canaries: all that are known.
        region: the Region of the key that was denied.
        since: when the denial came; only a probe that began later is a proof.
        now: the time now; a probe from the future was timed by a clock that is wrong.
    """
    there, partial = speakers(canaries, region)
    if not there:
        return Evidence(vouches=False, partial=True, reason=f"no canary speaks for {region} yet")
    for canary in there:
        doubt = _doubt(canary, since=since, now=now)
        if doubt is not None:
            return Evidence(vouches=False, partial=partial, reason=f"{_name(canary)} {doubt}")
    names = ", ".join(_name(canary) for canary in there)
    partly = f", the nearest to {region} that there is," if partial else ""
    return Evidence(vouches=True, partial=partial, reason=f"{names}{partly} was HEALTHY in a probe begun after it")


def _doubt(canary: Canary, *, since: datetime, now: datetime) -> str | None:
    """Why a canary proves nothing; None if it does."""
    if canary.verdict is None or canary.began_at is None or canary.ended_at is None:
        return "was never probed"
    if canary.outcome is not Outcome.HEALTHY:
        return f"is {canary.outcome} itself ({canary.verdict.cause})"
    if canary.in_doubt:
        return "was not HEALTHY a moment ago"
    if not since <= canary.began_at <= now or now - canary.ended_at > STALE_AFTER:
        return f"was last probed at {canary.began_at:%H:%M:%S} UTC"
    return None


def is_answered(canary: Canary, *, since: datetime, now: datetime) -> bool:
    """Say whether a canary has said all that it can about a denial, so that it need not be probed again for it."""
    if _doubt(canary, since=since, now=now) is None:
        return True
    unwell = canary.outcome is not Outcome.HEALTHY or canary.in_doubt
    return unwell and canary.ended_at is not None and abs(now - canary.ended_at) <= REUSED_FOR


def ended_at(verdict: Verdict) -> datetime:
    """When a probe ended: a canary's probe that began later was made after that probe was denied."""
    return verdict.probed_at + timedelta(milliseconds=verdict.latency_ms)


def believe(verdict: Verdict, evidence: Evidence) -> Verdict:
    """A customer's verdict in the light of the canaries: a denial that might be our own fault is UNKNOWN."""
    if verdict.cause not in DOUBTED_CAUSES or evidence.vouches:
        return verdict
    return replace(
        verdict,
        outcome=Outcome.UNKNOWN,
        cause=Cause.OWN_CREDENTIALS,
        message=(
            f"{verdict.operation} was denied, which might be KeyVigil's own fault: {evidence.reason}. So nothing is "
            "known about the key."
        ),
        remediation=None,
    )


def outcome_now(canary: Canary, now: datetime) -> Outcome:
    """What a canary shows: its last probe's answer, or UNKNOWN when that is too old to say anything."""
    if canary.ended_at is None or now - canary.ended_at > STALE_AFTER:
        return Outcome.UNKNOWN
    return canary.outcome


def notice_of(canary: Canary, change: CanaryChange) -> Notice:
    """What the operator is told about a canary."""
    verdict = canary.verdict
    message = verdict.message if verdict is not None else "It was never probed."
    beyond = " and in Regions without a canary of their own" if canary.canary_id == STACKS_OWN else ""
    denials = f"denials of keys in {canary.region}{beyond}"
    match change:
        case CanaryChange.FELL_ILL:
            status, words = AlertStatus.FIRING, f"Until it is HEALTHY again, {denials} count as UNKNOWN."
        case CanaryChange.IS_WELL_AGAIN:
            status, words = AlertStatus.RESOLVED, f"From now on {denials} are believed again."
        case CanaryChange.WAS_REMOVED:
            status, words = AlertStatus.RESOLVED, "It was removed and speaks for no key any more."
        case _:
            assert_never(change)
    return Notice(
        type=AlertType.CANARY_UNHEALTHY,
        status=status,
        severity=Severity.CRITICAL,
        subject=f"canary/{canary.canary_id}",
        cause=AlertCause(
            code=verdict.cause if verdict is not None else None,
            operation=verdict.operation if verdict is not None else None,
            aws_error_code=verdict.aws_error_code if verdict is not None else None,
            message=(
                f"The canary {canary.canary_id} in {canary.region} of account {canary.account_id} is {canary.outcome}: "
                f"{message} {words}"
            ),
        ),
        remediation=Remediation(summary="Nothing is to be done.")
        if status is AlertStatus.RESOLVED
        else Remediation(
            summary="Look at KeyVigil's own role and network first, then at the canary's role and key.",
            commands=verdict.remediation.commands if verdict is not None and verdict.remediation is not None else (),
        ),
    )


def _name(canary: Canary) -> str:
    # Without its account: tenants read this in their keys' verdicts.
    return f"the canary {canary.canary_id} in {canary.region}"
