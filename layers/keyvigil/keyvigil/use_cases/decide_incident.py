"""Keep what a person decided about an incident."""

from dataclasses import replace
from typing import assert_never

from keyvigil.domain.held import HeldFor
from keyvigil.domain.incidents import Decision, Incident, IncidentStatus, PersonsDecision, WorkflowKind, may_decide
from keyvigil.errors import NotFoundError, RefusedError
from keyvigil.ports import Clock, Ids, Put, Store, Write
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.telling import Telling


class DecideIncident:
    """Stores a decision on its incident and in the timeline, and asks for the execution that acts on it.

    What that does not reach, because a lockout is under way, the reconciler finds within a minute.
    """

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._telling = Telling(clock, ids)

    def __call__(self, project_id: str, incident_id: str, decision: Decision, *, reason: str, by: str) -> Incident:
        """Store a decision; the same one again changes nothing.

        Raises:
            NotFoundError: there is no such incident.
            RefusedError: it is too late for this decision.
        """

        def decide() -> Incident:
            incident = self._store.incident(project_id, incident_id)
            if incident is None:
                message = f"incident {incident_id} does not exist in project {project_id}"
                raise NotFoundError(message)
            allowed, why_not = may_decide(incident, decision)
            if not allowed:
                raise RefusedError(409, "Too late for this decision", f"{why_not[:1].upper()}{why_not[1:]}.")
            last = incident.decision
            if last is not None and (last.decision, last.reason, last.by) == (decision, reason, by):
                return incident
            made = PersonsDecision(
                decision=decision, reason=reason, by=by, at=self._clock.now(), held_for=incident.held_for
            )
            decided = replace(incident, decision=made)
            if incident.status in _WAITING:
                decided = _waiting(decided, made)
            entry = self._telling.entry(incident_id, f"decision.{decision}", f"{by} decided {decision}: {reason}")
            writes: list[Write] = [entry]
            workflow = _acts_on(incident, decision)
            if workflow is not None:
                row, decided, _ = self._telling.execution(decided, workflow)
                writes.append(row)
            self._store.commit([Put(decided), *writes])
            return replace(decided, version=decided.version + 1)

        return until_committed(decide)


_WAITING = frozenset(
    {IncidentStatus.CONFIRMING, IncidentStatus.HELD, IncidentStatus.OBSERVED, IncidentStatus.DISMISSED}
)
"""Nothing is locked and nothing is being locked, so a decision shows at once."""


def _acts_on(incident: Incident, decision: Decision) -> WorkflowKind | None:
    """The execution that a decision needs at once; None where one is at work, or nothing is to be done."""
    match decision:
        case Decision.APPROVE:
            waits = incident.status in _WAITING and incident.status is not IncidentStatus.CONFIRMING
            return WorkflowKind.LOCKOUT if waits else None
        case Decision.DISMISS:
            locked = incident.status in {IncidentStatus.LOCKED, IncidentStatus.PARTLY_LOCKED}
            return WorkflowKind.RECOVERY if locked else None
        case Decision.HOLD:
            return None
        case _:
            assert_never(decision)


def _waiting(incident: Incident, made: PersonsDecision) -> Incident:
    match made.decision:
        case Decision.DISMISS:
            return replace(incident, status=IncidentStatus.DISMISSED, held_for=None)
        case Decision.HOLD:
            return replace(incident, status=IncidentStatus.HELD, held_for=HeldFor.OPERATOR)
        case Decision.APPROVE:
            return replace(incident, status=IncidentStatus.CONFIRMING, held_for=None)
        case _:
            assert_never(made.decision)
