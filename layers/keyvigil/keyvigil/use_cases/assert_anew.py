"""Assert anew what the table says of keys and locks, after it was restored from a backup."""

from dataclasses import dataclass, replace
from functools import partial

from keyvigil.domain.clusters import Cluster, ClusterStatus
from keyvigil.domain.incidents import Incident
from keyvigil.domain.keys import Key
from keyvigil.domain.restoring import WHY, doubt, is_in_doubt, open_anew, prove_again, take_up
from keyvigil.errors import ConflictError
from keyvigil.ports import Clock, Ids, Put, Store, Write
from keyvigil.use_cases.read_fleet import every
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.telling import Telling


@dataclass(kw_only=True)
class AssertionReport:
    """How many keys are to be proved again, and how many clusters' receivers are asked again."""

    keys: int = 0
    clusters: int = 0


class AssertAnew:
    """Puts every key and cluster in doubt. What ends the doubt is the ordinary sweep, reconciling and recovery.

    It may be run again at any time: after a crash, and after registering again what the backup did not have.
    """

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._ids = ids
        self._telling = Telling(clock, ids)

    def __call__(self, *, above: int = 0) -> AssertionReport:
        """Go through the whole table. `above` is a fence that some receiver is known to have seen, if any."""
        report = AssertionReport()
        for project_id in [each.project_id for each in every(self._store.projects)]:
            for key_id in [each.key_id for each in every(partial(self._store.keys, project_id))]:
                report.clusters += until_committed(self._assert_key, project_id, key_id, above)
                report.keys += 1
        return report

    def _assert_key(self, project_id: str, key_id: str, above: int) -> int:
        key = self._store.key(project_id, key_id)
        if key is None:
            return 0
        clusters = self._store.clusters_of_key(project_id, key_id)
        doubted = [each for each in clusters if is_in_doubt(each)]
        incident = self._put_in_doubt(key, clusters, bool(doubted))
        for cluster in clusters:
            until_committed(self._assert_cluster, cluster, incident, above)
        return len(doubted)

    def _put_in_doubt(self, key: Key, clusters: list[Cluster], needs_incident: bool) -> str | None:  # noqa: FBT001
        """The key and its open incident, in one transaction; the incident's id, None if it needs none."""
        now = self._clock.now()
        found = self._store.incident(key.project_id, key.open_incident_id) if key.open_incident_id else None
        incident: Incident | None = None
        if found is not None and found.is_open:
            incident = take_up(found, clusters, now=now)
        elif needs_incident:
            incident = open_anew(key, clusters, incident_id=self._ids.ulid(), now=now)
        if incident is None:
            self._store.commit([Put(prove_again(key, None, now=now))])
            return None
        entry = self._telling.entry(
            incident.incident_id, "incident.restored", f"{WHY}: all is asked for and proved anew"
        )
        after = prove_again(key, incident.incident_id, now=now)
        self._store.commit([Put(after), Put(incident), entry])
        return incident.incident_id

    def _assert_cluster(self, seen: Cluster, incident_id: str | None, above: int) -> None:
        cluster = self._store.cluster(seen.project_id, seen.cluster_id)
        if cluster is None or cluster.deleted_at is not None:
            return
        if not is_in_doubt(cluster) or incident_id is None:
            self._store.commit([Put(doubt(cluster, incident_id or "", above=above, now=self._clock.now()))])
            return
        incident = self._store.incident(cluster.project_id, incident_id)
        key = self._store.key(cluster.project_id, cluster.key_id)
        if incident is None or key is None or key.open_incident_id != incident_id:
            message = f"incident {incident_id} ended while its clusters were asserted anew; run it again"
            raise ConflictError(message)
        # The incident is written too, so that it cannot end between being read and holding this cluster.
        writes: list[Write] = [
            Put(doubt(cluster, incident_id, above=above, now=self._clock.now())),
            Put(incident),
            self._telling.entry(incident_id, "cluster.in_doubt", f"{cluster.cluster_id}: it was {cluster.status}"),
        ]
        if cluster.status is ClusterStatus.PENDING_KEY:
            writes.append(Put(replace(key, pending_clusters=max(0, key.pending_clusters - 1))))
        self._store.commit(writes)
