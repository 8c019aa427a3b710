"""The brake: what stops new lockouts when the fault may be ours, or when too much would be locked at once.

Pure decisions with their reasons; no clock and no I/O, every input an argument.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from keyvigil.domain.held import HeldFor
from keyvigil.domain.verdicts import Cause

WINDOW = timedelta(minutes=15)
"""Within how long keys that turn bad count as turning bad at once, and lockouts as begun at once."""

QUIET = timedelta(minutes=10)
"""How long no further key of a cohort must turn bad before its brake releases itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrakeSettings:
    """The stack's BrakeMinimumAccounts, BrakePercent and MaxLockoutsPer15Minutes."""

    minimum_accounts: int = 3
    percent: int = 25
    max_lockouts: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """One open incident as the brake sees it."""

    incident_id: str
    project_id: str
    key_id: str
    account_id: str
    region: str
    cause: Cause
    opened_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryWord:
    """Whether the canaries that speak for a Region prove that KeyVigil could do its work there, and why (not)."""

    vouches: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Brake:
    """A brake that is, or was, engaged.

    One that KeyVigil pulled is for a cohort: one Region and one cause. One that a person pulled is for a Region, a
    project, both or everything (None), whatever the cause. `seen_at` is when the last key joined the cohort.
    `exempt` are the projects that a person let go on nevertheless. `released_at` is kept after the release: what turned
    bad before it does not engage the brake again.
    """

    region: str | None
    cause: Cause | None
    project_id: str | None
    engaged_at: datetime
    engaged_by: str
    reason: str
    seen_at: datetime
    exempt: tuple[str, ...] = ()
    released_at: datetime | None = None
    released_by: str | None = None
    release_reason: str | None = None
    version: int = 0

    @property
    def is_engaged(self) -> bool:
        """Whether it holds lockouts now."""
        return self.released_at is None

    @property
    def by_person(self) -> bool:
        """Whether a person pulled it: then only a person releases it."""
        return self.cause is None

    def holds(self, outage: Outage) -> bool:
        """Whether this brake holds that outage's lockout."""
        return (
            self.is_engaged
            and self.region in {None, outage.region}
            and self.cause in {None, outage.cause}
            and self.project_id in {None, outage.project_id}
            and outage.project_id not in self.exempt
        )


class BrakeVerb(StrEnum):
    """What the brake says to a lockout."""

    PROCEED = "PROCEED"
    HOLD = "HOLD"
    ENGAGE = "ENGAGE"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrakeDecision:
    """What the brake says to a lockout, and why. ENGAGE holds too, and says that the brake is new."""

    verb: BrakeVerb
    reason: str
    held_for: HeldFor | None = None


_PROCEED = BrakeVerb.PROCEED


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunLockout:
    """A lockout that began: the incident it belongs to, and when."""

    incident_id: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LockoutTally:
    """The lockouts that began within the window, all projects together.

    One item of the table, written in the transaction that begins a lockout: of many that begin at once, each is
    counted before the next is decided.
    """

    begun: tuple[BegunLockout, ...] = ()
    version: int = 0

    def with_lockout(self, incident_id: str, now: datetime) -> "LockoutTally":
        """The tally with one more lockout, without those that fell out of the window. Again, it changes nothing."""
        kept = tuple(each for each in self.begun if now - each.at < WINDOW)
        if any(each.incident_id == incident_id for each in kept):
            return replace(self, begun=kept)
        return replace(self, begun=(*kept, BegunLockout(incident_id=incident_id, at=now)))


def ceiling(tally: LockoutTally, incident_id: str, settings: BrakeSettings, now: datetime) -> BrakeDecision:
    """Hold a lockout if too many keys' lockouts began within the window, whatever their causes."""
    others = sum(now - each.at < WINDOW and each.incident_id != incident_id for each in tally.begun)
    if others >= settings.max_lockouts:
        reason = f"{others} keys' lockouts began within 15 minutes, and no more than {settings.max_lockouts} may"
        return BrakeDecision(verb=BrakeVerb.HOLD, held_for=HeldFor.CEILING, reason=reason)
    reason = f"{others} of at most {settings.max_lockouts} lockouts began within 15 minutes"
    return BrakeDecision(verb=_PROCEED, reason=reason)


def cohort(outage: Outage, others: Iterable[Outage], last_release: datetime | None, now: datetime) -> list[Outage]:
    """The outages that turned bad with this one: same Region and cause, within the window, since the last release."""
    return [
        each
        for each in {each.incident_id: each for each in (*others, outage)}.values()
        if (each.region, each.cause) == (outage.region, outage.cause)
        and now - each.opened_at < WINDOW
        and (last_release is None or each.opened_at > last_release)
    ]


def ambiguous(
    outage: Outage, together: Sequence[Outage], keys_there: int, canary: CanaryWord | None, settings: BrakeSettings
) -> BrakeDecision:
    """Decide about a lockout for a cause that might be our own fault.

    Args:
        outage: the outage whose clusters are about to be locked.
        together: its `cohort`.
        keys_there: how many keys are probed in its Region.
        canary: whether a canary vouches for KeyVigil since the key's last failing probe; None if there is no canary.
        settings: the stack's.
    """
    if canary is None:
        return BrakeDecision(
            verb=BrakeVerb.HOLD,
            held_for=HeldFor.APPROVAL,
            reason=f"{outage.cause} might be our own fault and no canary can tell, so a person decides",
        )
    if not canary.vouches:
        reason = f"{outage.cause} might be our own fault: {canary.reason}"
        return BrakeDecision(verb=BrakeVerb.HOLD, held_for=HeldFor.BRAKE, reason=reason)
    accounts = {each.account_id for each in together}
    shares = f"{len(together)} of {keys_there} keys in {outage.region}, of {len(accounts)} accounts,"
    many = len(together) * 100 >= settings.percent * max(keys_there, 1)
    if len(accounts) >= settings.minimum_accounts and many:
        reason = f"{shares} turned bad with {outage.cause} within 15 minutes"
        return BrakeDecision(verb=BrakeVerb.ENGAGE, held_for=HeldFor.BRAKE, reason=reason)
    return BrakeDecision(verb=_PROCEED, reason=f"{canary.reason}; {shares} have {outage.cause}")


def joined(brake: Brake, outages: Iterable[Outage]) -> Brake:
    """The brake as the outages that are open now leave it: it stays engaged for as long as more join its cohort."""
    mine = [each.opened_at for each in outages if (each.region, each.cause) == (brake.region, brake.cause)]
    return replace(brake, seen_at=max([brake.seen_at, *mine]))


def released(brake: Brake, *, by: str, reason: str, now: datetime) -> Brake:
    """The brake, released. One that is released already stays as it is."""
    if not brake.is_engaged:
        return brake
    return replace(brake, released_at=now, released_by=by, release_reason=reason)


class ReleaseVerb(StrEnum):
    """What becomes of a brake."""

    KEEP = "KEEP"
    RELEASE = "RELEASE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseDecision:
    """What becomes of a brake, and why."""

    verb: ReleaseVerb
    reason: str


def decide_release(brake: Brake, canary: CanaryWord | None, now: datetime) -> ReleaseDecision:
    """Decide whether a brake releases itself: after ten quiet minutes, with a canary that was healthy at their end.

    One that a person pulled never does, and none does without a canary: silence proves nothing.

    Args:
        brake: the brake.
        canary: whether a canary vouches for KeyVigil since `QUIET` after `brake.seen_at`; None if there is no canary.
        now: the time now.
    """
    if not brake.is_engaged:
        return ReleaseDecision(verb=ReleaseVerb.KEEP, reason="it is released")
    if brake.by_person:
        return ReleaseDecision(verb=ReleaseVerb.KEEP, reason="a person pulled it, and a person releases it")
    quiet = now - brake.seen_at
    if quiet < QUIET:
        seconds = int(quiet.total_seconds())
        return ReleaseDecision(verb=ReleaseVerb.KEEP, reason=f"{seconds} of {int(QUIET.total_seconds())} s are quiet")
    if canary is None or not canary.vouches:
        reason = "there is no canary" if canary is None else canary.reason
        return ReleaseDecision(verb=ReleaseVerb.KEEP, reason=f"the fault may be ours: {reason}")
    reason = f"no further key turned bad for 10 minutes, and {canary.reason}"
    return ReleaseDecision(verb=ReleaseVerb.RELEASE, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortCounts:
    """A cohort in numbers, for the alert."""

    by_cause: dict[str, int]
    by_account: dict[str, int]
    by_region: dict[str, int]

    def sentence(self) -> str:
        """The numbers in one line."""
        parts = (("cause", self.by_cause), ("account", self.by_account), ("Region", self.by_region))
        return "; ".join(
            f"by {name}: " + ", ".join(f"{what} {count}" for what, count in sorted(counts.items()))
            for name, counts in parts
        )


def count(outages: Iterable[Outage]) -> CohortCounts:
    """Count outages by cause, account and Region."""
    found = list(outages)
    return CohortCounts(
        by_cause=dict(Counter(str(each.cause) for each in found)),
        by_account=dict(Counter(each.account_id for each in found)),
        by_region=dict(Counter(each.region for each in found)),
    )
