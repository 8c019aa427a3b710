"""Probe a canary by the path of customers' keys, and ask the canaries whether a denial might be our own fault."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from threading import RLock

from keyvigil.domain.canaries import (
    STACKS_OWN,
    Canary,
    OwnCanary,
    believe,
    ended_at,
    is_answered,
    known_as,
    notice_of,
    speakers,
    take,
    vouch,
)
from keyvigil.domain.keys import Baseline
from keyvigil.domain.verdicts import AMBIGUOUS_CAUSES, Cause, Outcome, Verdict
from keyvigil.errors import ConflictError, NotFoundError
from keyvigil.ports import PROBE_SECONDS, Clock, Ids, Prober, Put, Store, Write
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.telling import Telling


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryResult:
    """What a check of a canary found. `probed` is False if it had been probed since the message was due."""

    canary: Canary
    probed: bool


class CheckCanary:
    """Checks one canary: probe, decide, commit. The stack's own makes itself known the first time."""

    def __init__(self, store: Store, prober: Prober, clock: Clock, ids: Ids, *, own: OwnCanary) -> None:
        """Keep the ports. `own` is the stack's own canary as the template made it."""
        self._store = store
        self._prober = prober
        self._clock = clock
        self._telling = Telling(clock, ids)
        self._own = own

    def __call__(self, canary_id: str, *, due_at: datetime | None = None, spent_seconds: float = 0) -> CanaryResult:
        """Check a canary now, unless it was probed since `due_at`.

        Raises:
            NotFoundError: it is not registered (any more).
            ConflictError: other writers were faster every time, so that others probed it too.
        """
        canary = self._find(canary_id)
        # A probe of a clock that was ahead must not keep the canary from being probed until time catches up.
        probed_since = (
            due_at is not None and canary.began_at is not None and (min(canary.began_at, self._clock.now()) >= due_at)
        )
        if probed_since:
            return CanaryResult(canary=canary, probed=False)
        verdict, baseline = self._probe(canary, spent_seconds)
        taken = until_committed(self._take, canary, verdict, baseline, self._clock.now())
        return CanaryResult(canary=taken, probed=True)

    def known(self) -> list[Canary]:
        """All canaries, the stack's own among them though it was never probed yet."""
        stored = {each.canary_id: each for each in self._store.canaries()}
        own = known_as(self._own, stored.pop(STACKS_OWN, None), self._clock.now())
        return [own, *stored.values()]

    def _find(self, canary_id: str) -> Canary:
        stored = self._store.canary(canary_id)
        if canary_id == STACKS_OWN:
            return known_as(self._own, stored, self._clock.now())
        if stored is None:
            message = f"canary {canary_id} is not registered"
            raise NotFoundError(message)
        return stored

    def _probe(self, canary: Canary, spent_seconds: float) -> tuple[Verdict, Baseline | None]:
        """Probe it with a session of its own: a broken role of ours hides behind one that was opened before."""
        if canary.baseline is not None:
            answer = self._prober.probe(canary.as_key(canary.baseline), fresh=True, spent_seconds=spent_seconds)
            return answer.verdict, None
        first = self._prober.probe_registration(canary.as_registration(), spent_seconds=spent_seconds)
        if first.verdict.outcome is Outcome.HEALTHY and first.baseline is None:
            # The key was not even tried: it would be no canary for roles that insist on their ExternalId.
            message = f"The role {canary.role_arn} can be assumed without its ExternalId."
            open_role = replace(
                first.verdict,
                outcome=Outcome.UNKNOWN,
                cause=Cause.UNCLASSIFIED,
                operation="AssumeRole",
                message=message,
            )
            return open_role, None
        return first.verdict, first.baseline

    def _take(self, probed: Canary, verdict: Verdict, baseline: Baseline | None, ended: datetime) -> Canary:
        canary = self._find(probed.canary_id)
        if (canary.key_arn, canary.role_arn) != (probed.key_arn, probed.role_arn):
            return canary
        after, change = take(canary, verdict, ended_at=ended, baseline=baseline)
        if after == canary:
            return canary
        writes: list[Write] = [Put(after)]
        if change is not None:
            writes.append(self._telling.fleet_notice(notice_of(after, change)))
        self._store.commit(writes)
        return replace(after, version=after.version + 1)


class AskCanaries:
    """Asks the canaries about a denial, right when it happened. Safe to use from several threads.

    A canary's last probe may be a minute old, and our role may have broken since. So a canary that was well is probed
    again after the denial, once for all the denials that a batch meets at the same time.
    """

    def __init__(self, check: CheckCanary, clock: Clock) -> None:
        """Keep the use case that probes a canary, and the clock."""
        self._check = check
        self._clock = clock
        self._lock = RLock()

    def __call__(self, verdict: Verdict, region: str) -> Verdict:
        """The verdict on a key of this Region, or UNKNOWN if it might be our own fault."""
        # The brake asks about every ambiguous cause, and wants a canary's probe from after the failing one.
        if verdict.cause not in AMBIGUOUS_CAUSES:
            return verdict
        since = ended_at(verdict)
        canaries = self._hear(region, since=since, began=verdict.probed_at)
        return believe(verdict, vouch(canaries, region, since=since, now=self._clock.now()))

    def _hear(self, region: str, *, since: datetime, began: datetime) -> list[Canary]:
        """What the canaries say. The denied probe and those of the canaries share one budget of time."""
        if not self._lock.acquire(timeout=max(0.0, PROBE_SECONDS - self._seconds_since(began))):
            return self._check.known()
        try:
            known = self._check.known()
            there, _ = speakers(known, region)
            heard = list(self._probe(there, since=since, began=began))
        finally:
            self._lock.release()
        return heard

    def _probe(self, canaries: Iterable[Canary], *, since: datetime, began: datetime) -> Iterable[Canary]:
        for canary in canaries:
            spent = self._seconds_since(began)
            if spent >= PROBE_SECONDS or is_answered(canary, since=since, now=self._clock.now()):
                yield canary
                continue
            try:
                yield self._check(canary.canary_id, spent_seconds=spent).canary
            except (ConflictError, NotFoundError):
                yield canary

    def _seconds_since(self, began: datetime) -> float:
        return max(0.0, (self._clock.now() - began).total_seconds())
