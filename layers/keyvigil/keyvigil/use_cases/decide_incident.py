"""Keep what a person decided about an incident."""

from dataclasses import replace

from keyvigil.domain.incidents import Decision, Incident, PersonsDecision, may_decide
from keyvigil.errors import NotFoundError, RefusedError
from keyvigil.ports import Clock, Ids, Put, Store
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.telling import Telling


class DecideIncident:
    """Stores a decision on its incident and in the timeline. Nothing acts on it yet."""

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
            made = PersonsDecision(decision=decision, reason=reason, by=by, at=self._clock.now())
            decided = replace(incident, decision=made)
            entry = self._telling.entry(incident_id, f"decision.{decision}", f"{by} decided {decision}: {reason}")
            self._store.commit([Put(decided), entry])
            return replace(decided, version=decided.version + 1)

        return until_committed(decide)
