"""End a lockout: what is not locked by now has failed, and the incident says so."""

from dataclasses import dataclass, replace
from datetime import timedelta

from keyvigil.domain.alerts import AlertType
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.incidents import Incident, IncidentStatus, affected, held_by
from keyvigil.domain.keys import Key, KeyStatus
from keyvigil.domain.projects import Enforcement
from keyvigil.errors import NotFoundError
from keyvigil.ports import Clock, Ids, Put, Store, Write
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.telling import Telling

TELL_AGAIN_AFTER = timedelta(hours=1)
"""A lock or unlock that fails is told at once, and while it is retried hourly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How a lockout or recovery ended: the incident's status, and which clusters did not do what was asked.

    `locked_after` is set if this found all of them locked: how long after the incident opened.
    """

    status: IncidentStatus
    failed: tuple[str, ...]
    locked_after: timedelta | None = None


def load(store: Store, project_id: str, key_id: str, incident_id: str) -> tuple[Incident, Key]:
    """Read an incident and its key.

    Raises:
        NotFoundError: one of them is not there (any more).
    """
    incident, key = store.incident(project_id, incident_id), store.key(project_id, key_id)
    if incident is None or key is None:
        message = f"incident {incident_id} or key {key_id} is not in project {project_id}"
        raise NotFoundError(message)
    return incident, key


def enforces(store: Store, project_id: str) -> bool:
    """Whether a project wants its clusters locked."""
    project = store.project(project_id)
    return project is not None and project.enforcement is Enforcement.ENFORCE


class SettleLockout:
    """Settles an incident that is LOCKING, or PARTLY_LOCKED and completed since. Again, it changes nothing."""

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._telling = Telling(clock, ids)

    def __call__(self, project_id: str, key_id: str, incident_id: str) -> Settlement:
        """Settle, unless a control plane still has time to answer: then reconciling settles later."""
        incident, _ = load(self._store, project_id, key_id, incident_id)
        if incident.status is IncidentStatus.LOCKING:
            for each in incident.clusters:
                until_committed(self._fail, incident, each.cluster_id)
        return until_committed(self._settle, project_id, key_id, incident_id)

    def _fail(self, incident: Incident, cluster_id: str) -> None:
        """A lock that nobody answered in time, or that could not even be asked for, is LOCK_FAILED."""
        cluster = self._store.cluster(incident.project_id, cluster_id)
        key = self._store.key(incident.project_id, incident.key_id)
        if cluster is None or cluster.deleted_at is not None or key is None:
            return
        now = self._clock.now()
        mine = cluster.locked_by_incident_id == incident.incident_id
        in_time = cluster.respond_by is not None and cluster.respond_by > now
        unanswered = cluster.status is ClusterStatus.LOCKING and mine and not in_time
        outage = key.health.status is KeyStatus.UNHEALTHY and key.open_incident_id == incident.incident_id
        wanted = outage and enforces(self._store, incident.project_id) and not incident.is_dismissed
        unasked = cluster.status is ClusterStatus.ACTIVE and wanted
        if not unanswered and not unasked:
            return
        detail = "no answer came in time" if unanswered else "the lock could not be asked for"
        failed = replace(
            cluster,
            status=ClusterStatus.LOCK_FAILED,
            locked_by_incident_id=incident.incident_id,
            respond_by=None,
            status_changed_at=now,
            detail=detail,
        )
        entry = self._telling.entry(incident.incident_id, "cluster.lock_failed", f"{cluster_id}: {detail}")
        self._store.commit([Put(failed), entry])

    def _settle(self, project_id: str, key_id: str, incident_id: str) -> Settlement:
        incident, key = load(self._store, project_id, key_id, incident_id)
        clusters = self._store.clusters_of_key(project_id, key_id)
        held = held_by(incident, clusters)
        failed = [each for each in held if each.status is not ClusterStatus.LOCKED]
        names = tuple(each.cluster_id for each in failed)
        match incident.status:
            case IncidentStatus.LOCKING:
                if any(each.status is ClusterStatus.LOCKING for each in held):
                    return Settlement(status=incident.status, failed=())
            case IncidentStatus.PARTLY_LOCKED:
                if failed:
                    return Settlement(status=incident.status, failed=names)
            case _:
                return Settlement(status=incident.status, failed=())
        now = self._clock.now()
        before = {each.cluster_id: each.status for each in incident.clusters}
        newly = [
            each
            for each in held
            if each.status is ClusterStatus.LOCKED and before.get(each.cluster_id) is not ClusterStatus.LOCKED
        ]
        after = replace(
            incident,
            status=IncidentStatus.PARTLY_LOCKED if failed else IncidentStatus.LOCKED,
            locked_at=now if held and not failed else incident.locked_at,
            clusters=affected([each for each in clusters if each.cluster_id in before]),
        )
        writes: list[Write] = []
        numbered = key
        if newly:
            after = replace(after, clusters_told=True)
            row, numbered = self._telling.alert(AlertType.CLUSTER_LOCKED, numbered, after, newly)
            writes.append(row)
        told = incident.lock_failure_told_at
        if failed and (told is None or now - told >= TELL_AGAIN_AFTER):
            after = replace(after, lock_failure_told_at=now, clusters_told=True)
            row, numbered = self._telling.alert(AlertType.CLUSTER_LOCK_FAILED, numbered, after, failed)
            writes.append(row)
        if numbered is not key:
            writes.append(Put(numbered))
        what = "incident.partly_locked" if failed else "incident.locked"
        detail = f"{len(held) - len(failed)} of {len(held)} clusters are locked"
        writes += [Put(after), self._telling.entry(incident_id, what, detail)]
        self._store.commit(writes)
        took = now - incident.opened_at if held and not failed else None
        return Settlement(status=after.status, failed=names, locked_after=took)
