"""Find who brought an incident about: in what events told, and in CloudTrail where the customer's role may look."""

from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum

from keyvigil.domain.actors import Actor, in_words
from keyvigil.domain.alerts import AlertType
from keyvigil.domain.attribution import (
    EXPLANATIONS,
    ActorSearch,
    after_lookup,
    find_actor,
    found,
    is_due,
    window,
)
from keyvigil.domain.incidents import Incident, of_incident
from keyvigil.domain.keys import Key
from keyvigil.ports import CallHistory, Clock, Ids, Put, Store
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.telling import Telling


class SearchOutcome(StrEnum):
    """How a search went."""

    FOUND = "FOUND"
    NOBODY = "NOBODY"
    NO_ANSWER = "NO_ANSWER"
    NOT_DUE = "NOT_DUE"


class FindActor:
    """Names an incident's actor once, with its timeline and its alert in one transaction.

    An incident that opened with an actor has no search, so the alert is sent only if the first one went without.
    """

    def __init__(self, store: Store, history: CallHistory, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._history = history
        self._clock = clock
        self._telling = Telling(clock, ids)

    def from_events(self, project_id: str, incident_id: str) -> SearchOutcome:
        """Look into what events told, and do not ask CloudTrail.

        Raises:
            ConflictError: other writers were faster every time; the search goes on as planned.
        """
        search, incident, key = self._read(project_id, incident_id)
        if search is None or incident is None or key is None:
            return SearchOutcome.NOT_DUE
        return self._settle(search, incident, self._hints(key), looked_up=False)

    def look_up(self, project_id: str, incident_id: str) -> SearchOutcome:
        """Look into what events told, then ask CloudTrail, if that is due.

        Raises:
            ConflictError: other writers were faster every time; the search stays due.
        """
        search, incident, key = self._read(project_id, incident_id)
        if search is None or not is_due(search, self._clock.now()):
            return SearchOutcome.NOT_DUE
        if incident is None or key is None:
            self._store.commit([Put(found(search, self._clock.now()))])
            return SearchOutcome.NOBODY
        hints = self._hints(key)
        if find_actor(incident, hints) is not None:
            return self._settle(search, incident, hints, looked_up=True)
        since, until = window(incident)
        names = EXPLANATIONS.get(incident.cause, ())
        calls = self._history.calls(key, names, since, until) if names else []
        outcome = self._settle(search, incident, calls or (), looked_up=True)
        return SearchOutcome.NO_ANSWER if calls is None and outcome is SearchOutcome.NOBODY else outcome

    def _read(self, project_id: str, incident_id: str) -> tuple[ActorSearch | None, Incident | None, Key | None]:
        search = self._store.actor_search(project_id, incident_id)
        if search is None or search.done_at is not None:
            return None, None, None
        incident = self._store.incident(project_id, incident_id)
        return search, incident, self._store.key(project_id, search.key_id)

    def _hints(self, key: Key) -> tuple[Actor, ...]:
        hints = self._store.event_hints(key.project_id, key.key_id)
        return hints.calls if hints is not None else ()

    def _settle(
        self, search: ActorSearch, incident: Incident, calls: Iterable[Actor], *, looked_up: bool
    ) -> SearchOutcome:
        return until_committed(self._commit, search.project_id, incident.incident_id, tuple(calls), looked_up=looked_up)

    def _commit(self, project_id: str, incident_id: str, calls: tuple[Actor, ...], *, looked_up: bool) -> SearchOutcome:
        """Decide afresh on what is in the table now: the incident may have ended, or another have named somebody."""
        search, incident, key = self._read(project_id, incident_id)
        if search is None:
            return SearchOutcome.NOT_DUE
        now = self._clock.now()
        if incident is None or key is None or incident.actor is not None:
            self._store.commit([Put(found(search, now))])
            return SearchOutcome.NOBODY
        actor = find_actor(incident, calls)
        if actor is None:
            if looked_up:
                self._store.commit([Put(after_lookup(search, now))])
            return SearchOutcome.NOBODY
        named = replace(incident, actor=actor)
        clusters = of_incident(named, self._store.clusters_of_key(project_id, key.key_id))
        row, numbered = self._telling.alert(AlertType.ACTOR_FOUND, key, named, clusters, occurred_at=actor.event_time)
        entry = self._telling.entry(incident_id, AlertType.ACTOR_FOUND, in_words(actor))
        self._store.commit([Put(found(search, now)), Put(named), Put(numbered), entry, row])
        return SearchOutcome.FOUND
