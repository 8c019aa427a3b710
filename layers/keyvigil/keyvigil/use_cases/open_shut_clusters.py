"""Find the clusters that are shut although nobody sees to it any more, every minute, and bring them back."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import assert_never

from keyvigil.domain.clusters import Cluster, ClusterStatus
from keyvigil.domain.incidents import Incident, IncidentStatus, WorkflowKind, affected
from keyvigil.domain.keys import Key
from keyvigil.domain.shut_clusters import ShutVerb, decide_shut, is_healthy, stand_in
from keyvigil.errors import DamagedItemError, NewerItemError, in_short
from keyvigil.ports import Clock, Ids, Put, Store
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.taking_turns import turn
from keyvigil.use_cases.telling import Telling

SHUT_FOR = timedelta(minutes=1)
"""How long a cluster must have been shut before it is looked at: who shuts one sees to it at first."""

CLUSTERS_A_SWEEP = 200
"""How many shut clusters one sweep looks at. Each costs some four reads of the table, at 5 ms each."""


class LetIn:
    """Lets in a cluster that waited for its key, in a transaction with the key's status (invariant 4)."""

    def __init__(self, store: Store, clock: Clock) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock

    def __call__(self, project_id: str, key_id: str, cluster_id: str) -> Key | None:
        """Let it in if it still waits; return the key as it is now, or None if it does not work."""
        return until_committed(self._let_in, project_id, key_id, cluster_id)

    def _let_in(self, project_id: str, key_id: str, cluster_id: str) -> Key | None:
        key, cluster = self._store.key(project_id, key_id), self._store.cluster(project_id, cluster_id)
        if key is None or not is_healthy(key):
            return None
        if cluster is None or cluster.deleted_at or cluster.status is not ClusterStatus.PENDING_KEY:
            return key
        after = replace(key, pending_clusters=max(0, key.pending_clusters - 1))
        active = replace(cluster, status=ClusterStatus.ACTIVE, status_changed_at=self._clock.now())
        self._store.commit([Put(after), Put(active)])
        return replace(after, version=after.version + 1)


@dataclass(kw_only=True)
class OpenedClusters:
    """Which clusters were let in, and for which an incident was taken up again; what could not be looked at.

    `unreadable` counts the errors that no later sweep mends.
    """

    let_in: list[tuple[str, str]] = field(default_factory=list)
    taken_up: list[tuple[str, str]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    unreadable: int = 0


class OpenShutClusters:
    """Lets in what still waits for a key that works, and has unlocked what is locked for an incident that is over.

    An unlock is never written here: the incident is taken up again, and its recovery asks for it with a fence.
    """

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._ids = ids
        self._telling = Telling(clock, ids)
        self._let_in = LetIn(store, clock)

    def __call__(self) -> OpenedClusters:
        """Look at the clusters that are shut. One that cannot be looked at does not keep the others from being."""
        opened = OpenedClusters()
        now = self._clock.now()
        for project_id, cluster_id in turn(self._store.shut_clusters(now - SHUT_FOR), CLUSTERS_A_SWEEP, now):
            try:
                self._look_at(project_id, cluster_id, opened)
            except Exception as error:  # noqa: BLE001  whatever it is, the next one must have its turn
                opened.errors.append((f"{project_id}/{cluster_id}", in_short(error)))
                opened.unreadable += isinstance(error, NewerItemError | DamagedItemError)
        return opened

    def _look_at(self, project_id: str, cluster_id: str, opened: OpenedClusters) -> None:
        match until_committed(self._decide, project_id, cluster_id):
            case ShutVerb.LET_IN:
                opened.let_in.append((project_id, cluster_id))
            case ShutVerb.REOPEN:
                opened.taken_up.append((project_id, cluster_id))
            case ShutVerb.LEAVE:
                pass
            case verb:
                assert_never(verb)

    def _decide(self, project_id: str, cluster_id: str) -> ShutVerb:
        cluster, project = self._store.cluster(project_id, cluster_id), self._store.project(project_id)
        key = self._store.key(project_id, cluster.key_id) if cluster is not None else None
        if cluster is None or key is None or project is None:
            return ShutVerb.LEAVE
        mine = cluster.locked_by_incident_id
        incident = self._store.incident(project_id, mine) if mine is not None else None
        decision = decide_shut(cluster, key, project, incident)
        match decision.verb:
            case ShutVerb.LET_IN:
                self._let_in(project_id, key.key_id, cluster_id)
            case ShutVerb.REOPEN:
                found = incident or stand_in(cluster, key, mine or self._ids.ulid())
                self._take_up(found, cluster, decision.reason)
            case ShutVerb.LEAVE:
                pass
            case _:
                assert_never(decision.verb)
        return decision.verb

    def _take_up(self, incident: Incident, cluster: Cluster, reason: str) -> None:
        """Begin the recovery of an incident again: with one cluster, the others of it are found by the recovery."""
        now = self._clock.now()
        recovered = incident.recovered_at or now
        again = replace(
            incident,
            status=IncidentStatus.LOCKED,
            resolved_at=None,
            recovered_at=recovered,
            clusters=affected([cluster]),
        )
        row, asked, _ = self._telling.execution(again, WorkflowKind.RECOVERY)
        writes = [Put(asked), row, self._telling.entry(incident.incident_id, "incident.taken_up_again", reason)]
        if cluster.locked_by_incident_id is None:
            writes.append(Put(replace(cluster, locked_by_incident_id=incident.incident_id)))
        self._store.commit(writes)
