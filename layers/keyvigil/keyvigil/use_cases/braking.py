"""Ask the brake right before a lockout, engage and release it."""

from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from keyvigil.domain.alerts import AlertCause, AlertStatus, AlertType, Notice, Severity
from keyvigil.domain.arns import region_of
from keyvigil.domain.brake import (
    QUIET,
    WINDOW,
    Brake,
    BrakeDecision,
    BrakeSettings,
    BrakeVerb,
    CanaryWord,
    LockoutTally,
    Outage,
    ReleaseVerb,
    ambiguous,
    ceiling,
    cohort,
    count,
    decide_release,
    joined,
    released,
)
from keyvigil.domain.canaries import ended_at, speakers, vouch
from keyvigil.domain.held import HeldFor
from keyvigil.domain.incidents import Incident
from keyvigil.domain.keys import Key
from keyvigil.domain.verdicts import Cause, Remediation, is_definite
from keyvigil.ports import Clock, Ids, Put, Store
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.telling import Telling

OUTAGES_READ = 1000
"""How many outages are read to decide about one more. A read takes 5 ms, and the decision has less than 30 seconds: if
much of a large fleet fails within minutes, the brake must still be able to say so. The share is that of a sample then.
"""

KEYVIGIL = "KeyVigil"
"""Who pulls a cohort's brake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrakeAnswer:
    """What the brake says to one lockout, and the brake that it engages, if it does."""

    decision: BrakeDecision
    engaged: Brake | None = None
    counts: str = ""


class BrakeView:
    """Everything that the brake looks at, read once: for one decision, or for all of one sweep."""

    def __init__(self, store: Store, settings: BrakeSettings, now: datetime) -> None:
        """Keep the table; each thing is read when it is first needed."""
        self._store = store
        self._settings = settings
        self._now = now

    @cached_property
    def tally(self) -> LockoutTally:
        """The lockouts that began within the window."""
        return self._store.lockout_tally()

    @cached_property
    def brakes(self) -> list[Brake]:
        """All brakes, engaged or released."""
        return self._store.brakes()

    @cached_property
    def _opened(self) -> list[tuple[str, str]]:
        return self._store.opened_since(self._now - WINDOW)

    @property
    def _of_how_many(self) -> int:
        """Every how manieth of the incidents that opened within the window is read: each, unless they are too many."""
        return max(1, -(-len(self._opened) // OUTAGES_READ))

    @cached_property
    def outages(self) -> list[Outage]:
        """The incidents that opened within the window and are still open; of very many a sample."""
        found = []
        for project_id, incident_id in self._opened[:: self._of_how_many]:
            incident = self._store.incident(project_id, incident_id)
            if incident is not None and incident.is_open and incident.recovered_at is None:
                found.append(outage_of(incident))
        return found

    def ask(self, incident: Incident, key: Key) -> BrakeAnswer:
        """What the brake says to locking an incident's clusters now."""
        outage = replace(outage_of(incident), cause=key.verdict.cause or incident.cause, account_id=key.account_id)
        for brake in self.brakes:
            if brake.holds(outage):
                reason = f"{brake.engaged_by} engaged the brake: {brake.reason}"
                return BrakeAnswer(decision=BrakeDecision(verb=BrakeVerb.HOLD, held_for=HeldFor.BRAKE, reason=reason))
        if not is_definite(outage.cause, deletion_date=key.facts.deletion_date, now=self._now):
            answer = self._ambiguous(outage, key)
            if answer.decision.verb is not BrakeVerb.PROCEED:
                return answer
            within = ceiling(self.tally, incident.incident_id, self._settings, self._now)
            return answer if within.verb is BrakeVerb.PROCEED else BrakeAnswer(decision=within)
        return BrakeAnswer(decision=ceiling(self.tally, incident.incident_id, self._settings, self._now))

    def _ambiguous(self, outage: Outage, key: Key) -> BrakeAnswer:
        old = next((each for each in self.brakes if (each.region, each.cause) == (outage.region, outage.cause)), None)
        together = cohort(outage, self.outages, old.released_at if old else None, self._now)
        exempt = old is not None and old.is_engaged and outage.project_id in old.exempt
        accounts = {each.account_id for each in together}
        # Counting a Region's keys reads the whole list of them, so only when it can matter.
        matters = len(accounts) >= self._settings.minimum_accounts and not exempt
        keys_there = self._store.count_keys(outage.region) // self._of_how_many if matters else 0
        decision = ambiguous(
            outage,
            together if not exempt else [outage],
            keys_there,
            self._word(outage.region, ended_at(key.verdict)),
            self._settings,
        )
        if self._of_how_many > 1:
            sampled = f"{decision.reason} (in a sample of one outage in {self._of_how_many})"
            decision = replace(decision, reason=sampled)
        if decision.verb is not BrakeVerb.ENGAGE:
            return BrakeAnswer(decision=decision)
        engaged = Brake(
            region=outage.region,
            cause=outage.cause,
            project_id=None,
            engaged_at=self._now,
            engaged_by=KEYVIGIL,
            reason=decision.reason,
            seen_at=max(each.opened_at for each in together),
            version=old.version if old else 0,
        )
        return BrakeAnswer(decision=decision, engaged=engaged, counts=count(together).sentence())

    def release(self, brake: Brake) -> str | None:
        """Why a brake releases itself now; None if it does not."""
        current = joined(brake, self.outages)
        word = self._word(current.region, current.seen_at + QUIET) if current.region else None
        decision = decide_release(current, word, self._now)
        return decision.reason if decision.verb is ReleaseVerb.RELEASE else None

    def _word(self, region: str, since: datetime) -> CanaryWord | None:
        canaries = self._store.canaries()
        if not speakers(canaries, region)[0]:
            return None
        evidence = vouch(canaries, region, since=since, now=self._now)
        return CanaryWord(vouches=evidence.vouches, reason=evidence.reason)


def outage_of(incident: Incident) -> Outage:
    """An incident as the brake sees it. One from before incidents knew their account counts as its project's."""
    return Outage(
        incident_id=incident.incident_id,
        project_id=incident.project_id,
        key_id=incident.key_id,
        account_id=incident.account_id or incident.project_id,
        region=region_of(incident.key_id),
        cause=incident.cause,
        opened_at=incident.opened_at,
    )


class AskBrake:
    """Makes views of what the brake looks at."""

    def __init__(self, store: Store, clock: Clock, settings: BrakeSettings) -> None:
        """Keep the ports and the stack's settings."""
        self._store = store
        self._clock = clock
        self._settings = settings

    def __call__(self) -> BrakeView:
        """A fresh view."""
        return BrakeView(self._store, self._settings, self._clock.now())


@dataclass(frozen=True, slots=True, kw_only=True)
class BrakeRequest:
    """What a person wants of the brake. None is no limit: all Regions, all projects, all causes."""

    region: str | None
    project_id: str | None
    cause: Cause | None
    reason: str
    by: str


class Braking:
    """Engages and releases brakes. What a held incident waits for is looked at again within a minute."""

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._telling = Telling(clock, ids)

    def engage(self, request: BrakeRequest) -> list[Brake]:
        """Hold every lockout in a scope until a person releases it. Engaging it again changes nothing."""

        def engage() -> None:
            now = self._clock.now()
            scope = (request.region, None, request.project_id)
            old = next((each for each in self._store.brakes() if _scope(each) == scope), None)
            if old is not None and old.is_engaged:
                return
            brake = Brake(
                region=request.region,
                cause=None,
                project_id=request.project_id,
                engaged_at=now,
                engaged_by=request.by,
                reason=request.reason,
                seen_at=now,
                version=old.version if old else 0,
            )
            self._store.commit([Put(brake), self._telling.fleet_notice(engaged_notice(brake, ""))])

        until_committed(engage)
        return self.engaged()

    def release(self, request: BrakeRequest) -> list[Brake]:
        """Let go. With a project, a cohort's brake goes on holding the others, and the project's own is released."""

        def release(scope: tuple[str | None, Cause | None, str | None]) -> None:
            brake = next((each for each in self._store.brakes() if _scope(each) == scope), None)
            if brake is None or not brake.is_engaged:
                return
            if request.project_id is not None and brake.project_id is None:
                if request.project_id not in brake.exempt:
                    self._store.commit([Put(replace(brake, exempt=(*brake.exempt, request.project_id)))])
                return
            after = released(brake, by=request.by, reason=request.reason, now=self._clock.now())
            self._store.commit([Put(after), self._telling.fleet_notice(released_notice(after))])

        # Each by itself: people can engage more of them than a transaction takes.
        for each in self.engaged():
            if _within(each, request):
                until_committed(release, _scope(each))
        return self.engaged()

    def engaged(self) -> list[Brake]:
        """The brakes that are engaged."""
        return [each for each in self._store.brakes() if each.is_engaged]

    def release_by_itself(self, view: BrakeView) -> list[Brake]:
        """Release the brakes whose cohort has been quiet for long enough; return them."""
        done = []
        for brake in view.brakes:
            reason = view.release(brake)
            if reason is None:
                continue
            after = released(brake, by=KEYVIGIL, reason=reason, now=self._clock.now())
            self._store.commit([Put(after), self._telling.fleet_notice(released_notice(after))])
            done.append(after)
        return done


def _scope(brake: Brake) -> tuple[str | None, Cause | None, str | None]:
    return brake.region, brake.cause, brake.project_id


def _within(brake: Brake, request: BrakeRequest) -> bool:
    """Whether a release is meant for a brake. One for everything is released only by a request for everything."""
    return (
        request.region in {None, brake.region}
        and request.cause in {None, brake.cause}
        and (request.project_id is None or brake.project_id in {None, request.project_id})
    )


def engaged_notice(brake: Brake, counts: str) -> Notice:
    """What the operator is told when a brake is engaged."""
    numbers = f" {counts}." if counts else ""
    return Notice(
        type=AlertType.BRAKE_ENGAGED,
        status=AlertStatus.FIRING,
        severity=Severity.CRITICAL,
        subject=_subject(brake),
        cause=AlertCause(
            code=brake.cause,
            operation=None,
            aws_error_code=None,
            message=(
                f"No new lockout begins for {_words(brake)}: {brake.engaged_by} engaged the brake because "
                f"{brake.reason}.{numbers}"
            ),
        ),
        remediation=Remediation(
            summary=(
                "Find out whether the fault is ours: the canaries, KeyVigil's role, the organization's policies. If it "
                "is not, release the brake for everybody or for one project, or approve single incidents."
                if brake.cause is not None
                else "A person engaged it and a person releases it."
            ),
        ),
    )


def released_notice(brake: Brake) -> Notice:
    """What the operator is told when a brake is released."""
    return Notice(
        type=AlertType.BRAKE_RELEASED,
        status=AlertStatus.RESOLVED,
        severity=Severity.INFO,
        subject=_subject(brake),
        cause=AlertCause(
            code=brake.cause,
            operation=None,
            aws_error_code=None,
            message=(
                f"The brake for {_words(brake)} is released by {brake.released_by}: {brake.release_reason}. Incidents "
                "that it held are confirmed afresh."
            ),
        ),
        remediation=Remediation(summary="Nothing is to be done."),
    )


def _subject(brake: Brake) -> str:
    return "/".join(("brake", *(part or "all" for part in _scope(brake))))


def _words(brake: Brake) -> str:
    parts = [
        f"{brake.cause} of keys" if brake.cause else "keys",
        f"in {brake.region}" if brake.region else "in all Regions",
        f"of project {brake.project_id}" if brake.project_id else "of all projects",
    ]
    return " ".join(parts)
