"""The lockout workflow's steps: decide, lock each cluster, settle."""

from dataclasses import dataclass, replace

from keyvigil.domain.alerts import AlertType, LockRequest, OutboxRow, make_alert
from keyvigil.domain.clusters import (
    Cluster,
    ClusterStatus,
    LockAction,
    LockResult,
    LockVia,
    request,
)
from keyvigil.domain.incidents import (
    Incident,
    IncidentStatus,
    LockoutDecision,
    LockoutVerb,
    TimelineEntry,
    affected,
    decide_lockout,
    held_by,
)
from keyvigil.domain.keys import Key, KeyStatus
from keyvigil.errors import ConflictError, NotFoundError
from keyvigil.ports import Clock, Ids, Put, Store, Workflow, Write
from keyvigil.use_cases.record_lock_result import LockAnswer, RecordLockResult
from keyvigil.use_cases.retrying import until_committed


@dataclass(frozen=True, slots=True, kw_only=True)
class LockoutPlan:
    """What a lockout does now, and to which clusters."""

    decision: LockoutDecision
    cluster_ids: tuple[str, ...] = ()


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


class DecideLockout:
    """Decides, right after confirmation, whether an incident locks, waits or is only observed."""

    def __init__(self, store: Store, clock: Clock, ids: Ids, *, confirmation_probes: int) -> None:
        """Keep the ports. `confirmation_probes` is the stack's ConfirmationProbes."""
        self._store = store
        self._clock = clock
        self._ids = ids
        self._probes = confirmation_probes

    def __call__(self, project_id: str, key_id: str, incident_id: str) -> LockoutPlan:
        """Decide, and write the decision to the incident before anything is locked."""
        return until_committed(self._decide, project_id, key_id, incident_id)

    def _decide(self, project_id: str, key_id: str, incident_id: str) -> LockoutPlan:
        incident, key = load(self._store, project_id, key_id, incident_id)
        project = self._store.project(project_id)
        if project is None:
            message = f"project {project_id} does not exist"
            raise NotFoundError(message)
        now = self._clock.now()
        decision = decide_lockout(incident, key, project, probes=self._probes, now=now)
        clusters = [
            cluster
            for cluster in self._store.clusters_of_key(project_id, key_id)
            if cluster.status is not ClusterStatus.PENDING_KEY
        ]
        writes: list[Write] = []
        match decision.verb:
            case LockoutVerb.LOCK:
                if incident.status is not IncidentStatus.LOCKING:
                    after = replace(incident, status=IncidentStatus.LOCKING, held_for=None, clusters=affected(clusters))
                    writes = [Put(after), self._entry(incident, "lockout.begun", decision.reason)]
            case LockoutVerb.HOLD:
                after = replace(incident, status=IncidentStatus.HELD, held_for=decision.held_for)
                if after != incident:
                    alert, numbered = make_alert(
                        AlertType.APPROVAL_NEEDED,
                        alert_id=self._ids.ulid(),
                        key=key,
                        incident=incident,
                        clusters=affected(clusters),
                        occurred_at=incident.opened_at,
                        detected_at=now,
                    )
                    row = OutboxRow(row_id=alert.alert_id, project_id=project_id, created_at=now, alert=alert)
                    held = self._entry(incident, "incident.held", decision.reason)
                    writes = [Put(after), Put(numbered), Put(row), held]
            case LockoutVerb.OBSERVE:
                after = replace(incident, status=IncidentStatus.OBSERVED, held_for=None)
                if after != incident:
                    writes = [Put(after), self._entry(incident, "incident.observed", decision.reason)]
            case LockoutVerb.WAIT | LockoutVerb.STOP:
                pass
        if writes:
            self._store.commit(writes)
        lock = decision.verb is LockoutVerb.LOCK
        return LockoutPlan(decision=decision, cluster_ids=tuple(each.cluster_id for each in clusters) if lock else ())

    def _entry(self, incident: Incident, what: str, detail: str) -> Put:
        return Put(
            TimelineEntry(
                incident_id=incident.incident_id,
                entry_id=self._ids.ulid(),
                at=self._clock.now(),
                what=what,
                detail=detail,
            )
        )


class RequestLock:
    """Asks for one lock or unlock of one cluster. Idempotent for one task token."""

    def __init__(self, store: Store, workflow: Workflow, record: RecordLockResult, clock: Clock, ids: Ids) -> None:
        """Keep the ports and the use case that records answers."""
        self._store = store
        self._workflow = workflow
        self._record = record
        self._clock = clock
        self._ids = ids

    def __call__(self, action: LockAction, project_id: str, cluster_id: str, incident_id: str, task_token: str) -> str:
        """Ask for it, or wake the waiting step at once if there is nothing to ask for; say which, in a word."""
        outcome, cluster = until_committed(self._request, action, project_id, cluster_id, incident_id, task_token)
        if outcome != "requested" or cluster is None:
            self._workflow.complete(task_token, outcome, None)
            return outcome
        if cluster.lock.via is LockVia.NONE:
            self._record(
                LockAnswer(
                    project_id=project_id,
                    cluster_id=cluster_id,
                    fence=cluster.fence,
                    result=LockResult.LOCKED if action is LockAction.LOCK else LockResult.UNLOCKED,
                    detail=None,
                    by="the registry",
                )
            )
        return outcome

    def _request(
        self, action: LockAction, project_id: str, cluster_id: str, incident_id: str, task_token: str
    ) -> tuple[str, Cluster | None]:
        cluster = self._store.cluster(project_id, cluster_id)
        if cluster is None or cluster.deleted_at is not None:
            return "deleted", None
        if cluster.task_token == task_token:
            return "requested", cluster
        refusal = self._refusal(action, cluster, incident_id)
        if refusal is not None:
            return refusal, cluster
        now = self._clock.now()
        after = request(cluster, action, incident_id=incident_id, task_token=task_token, now=now)
        verb = "Lock" if action is LockAction.LOCK else "Unlock"
        entry = TimelineEntry(
            incident_id=incident_id,
            entry_id=self._ids.ulid(),
            at=now,
            what=f"cluster.{action}_requested",
            detail=f"{cluster_id}: {action} asked for via {cluster.lock.via}, fence {after.fence}",
        )
        writes: list[Write] = [Put(after), Put(entry)]
        if cluster.lock.via is LockVia.EVENT:
            message = LockRequest(
                detail_type=f"Cluster {verb} Requested",
                project_id=project_id,
                cluster_id=cluster_id,
                incident_id=incident_id,
                fence=after.fence,
                reason=f"{cluster.key_id}: incident {incident_id}",
                respond_by=after.respond_by or now,
            )
            writes.append(
                Put(OutboxRow(row_id=self._ids.ulid(), project_id=project_id, created_at=now, lock_request=message))
            )
        self._store.commit(writes)
        self._release_earlier_step(cluster)
        return "requested", replace(after, version=after.version + 1)

    def _release_earlier_step(self, cluster: Cluster) -> None:
        """A newer request makes an older one's step wait for nothing: wake it."""
        under_way = cluster.status in {ClusterStatus.LOCKING, ClusterStatus.UNLOCKING}
        if under_way and cluster.task_token is not None:
            self._workflow.complete(cluster.task_token, "superseded", None)

    def _refusal(self, action: LockAction, cluster: Cluster, incident_id: str) -> str | None:
        """Why there is nothing to ask for, in a word; None if there is something."""
        key, project = (
            self._store.key(cluster.project_id, cluster.key_id),
            self._store.project(cluster.project_id),
        )
        healthy = key is not None and key.health.status is KeyStatus.HEALTHY
        observing = project is not None and project.enforcement == "observe"
        if action is LockAction.LOCK:
            if cluster.status is ClusterStatus.PENDING_KEY:
                return "pending_key"
            if cluster.status is ClusterStatus.LOCKED and cluster.locked_by_incident_id == incident_id:
                return "locked"
            if key is None or key.health.status is not KeyStatus.UNHEALTHY or observing:
                return "outage_over"
            return "superseded" if key.open_incident_id != incident_id else None
        if cluster.locked_by_incident_id != incident_id:
            return "superseded"
        return None if healthy or observing else "outage_again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How a lockout or recovery ended: the incident's status, and which clusters did not do what was asked."""

    status: IncidentStatus
    failed: tuple[str, ...]


class SettleLockout:
    """Ends a lockout: what is not locked by now has failed, and the incident says so."""

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._ids = ids

    def __call__(self, project_id: str, key_id: str, incident_id: str) -> Settlement:
        """Settle an incident that is LOCKING. Settling it again changes nothing."""
        incident, _ = load(self._store, project_id, key_id, incident_id)
        if incident.status is IncidentStatus.LOCKING:
            for affected_cluster in incident.clusters:
                until_committed(self._fail, incident, affected_cluster.cluster_id)
        return until_committed(self._settle, project_id, key_id, incident_id)

    def _fail(self, incident: Incident, cluster_id: str) -> None:
        """A lock that nobody answered, or that could not even be asked for, is LOCK_FAILED."""
        cluster = self._store.cluster(incident.project_id, cluster_id)
        key = self._store.key(incident.project_id, incident.key_id)
        if cluster is None or cluster.deleted_at is not None or key is None:
            return
        mine = cluster.locked_by_incident_id == incident.incident_id
        unanswered = cluster.status is ClusterStatus.LOCKING and mine
        outage = key.health.status is KeyStatus.UNHEALTHY and key.open_incident_id == incident.incident_id
        unasked = cluster.status is ClusterStatus.ACTIVE and outage
        if not unanswered and not unasked:
            return
        now = self._clock.now()
        detail = "no answer came in time" if unanswered else "the lock could not be asked for"
        failed = replace(
            cluster,
            status=ClusterStatus.LOCK_FAILED,
            locked_by_incident_id=incident.incident_id,
            respond_by=None,
            status_changed_at=now,
            detail=detail,
        )
        entry = TimelineEntry(
            incident_id=incident.incident_id,
            entry_id=self._ids.ulid(),
            at=now,
            what="cluster.lock_failed",
            detail=f"{cluster_id}: {detail}",
        )
        self._store.commit([Put(failed), Put(entry)])

    def _settle(self, project_id: str, key_id: str, incident_id: str) -> Settlement:
        incident, key = load(self._store, project_id, key_id, incident_id)
        clusters = self._store.clusters_of_key(project_id, key_id)
        held = held_by(incident, clusters)
        failed = tuple(each.cluster_id for each in held if each.status is not ClusterStatus.LOCKED)
        if incident.status is not IncidentStatus.LOCKING:
            return Settlement(status=incident.status, failed=failed)
        now = self._clock.now()
        status = IncidentStatus.PARTLY_LOCKED if failed else IncidentStatus.LOCKED
        mine = [each for each in clusters if each.cluster_id in {one.cluster_id for one in incident.clusters}]
        after = replace(incident, status=status, locked_at=None if failed else now, clusters=affected(mine))
        entry = TimelineEntry(
            incident_id=incident_id,
            entry_id=self._ids.ulid(),
            at=now,
            what="incident.locked" if not failed else "incident.partly_locked",
            detail=f"{len(held) - len(failed)} of {len(held)} clusters are locked",
        )
        alerts: list[AlertType] = []
        if len(held) > len(failed):
            alerts.append(AlertType.CLUSTER_LOCKED)
        if failed:
            alerts.append(AlertType.CLUSTER_LOCK_FAILED)
        writes: list[Write] = [Put(after), Put(entry)]
        numbered = key
        for kind in alerts:
            wanted = [each for each in held if (each.cluster_id in failed) == (kind is AlertType.CLUSTER_LOCK_FAILED)]
            alert, numbered = make_alert(
                kind,
                alert_id=self._ids.ulid(),
                key=numbered,
                incident=after,
                clusters=affected(wanted),
                occurred_at=now,
                detected_at=now,
            )
            writes.append(Put(OutboxRow(row_id=alert.alert_id, project_id=project_id, created_at=now, alert=alert)))
        if numbered is not key:
            writes.append(Put(numbered))
        self._store.commit(writes)
        return Settlement(status=status, failed=failed)


class FailOverdueLock:
    """Silence is failure: answers for a control plane that did not answer in time."""

    def __init__(self, store: Store, record: RecordLockResult, clock: Clock) -> None:
        """Keep the ports and the use case that records answers."""
        self._store = store
        self._record = record
        self._clock = clock

    def __call__(self, project_id: str, cluster_id: str) -> bool:
        """Fail the request under way if its time is over; say whether it was."""
        cluster = self._store.cluster(project_id, cluster_id)
        under_way = {ClusterStatus.LOCKING, ClusterStatus.UNLOCKING}
        if cluster is None or cluster.status not in under_way or cluster.respond_by is None:
            return False
        if cluster.respond_by > self._clock.now():
            return False
        try:
            self._record(
                LockAnswer(
                    project_id=project_id,
                    cluster_id=cluster_id,
                    fence=cluster.fence,
                    result=LockResult.FAILED,
                    detail=f"no answer within {cluster.lock.timeout_seconds} s",
                    by="the clock",
                )
            )
        except ConflictError:
            return False
        return True
