"""The lockout workflow's steps: decide, and ask for each cluster's lock (or, in a recovery, its unlock)."""

from dataclasses import dataclass, replace
from typing import assert_never

from keyvigil.domain.alerts import AlertType, OutboxRow, lock_request
from keyvigil.domain.clusters import (
    Cluster,
    ClusterStatus,
    LockAction,
    LockResult,
    LockVia,
    request,
)
from keyvigil.domain.held import HeldFor
from keyvigil.domain.incidents import (
    Incident,
    IncidentStatus,
    LockoutDecision,
    LockoutVerb,
    affected,
    decide_lockout,
    is_seen_failing,
)
from keyvigil.domain.keys import Key, KeyStatus
from keyvigil.errors import ConflictError, NotFoundError
from keyvigil.ports import Clock, Ids, Put, Store, Workflow, Write
from keyvigil.use_cases.braking import AskBrake, engaged_notice
from keyvigil.use_cases.record_lock_result import LockAnswer, RecordLockResult
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.settle_lockout import enforces, load
from keyvigil.use_cases.telling import Telling


@dataclass(frozen=True, slots=True, kw_only=True)
class LockoutPlan:
    """What a lockout does now, and to which clusters."""

    decision: LockoutDecision
    cluster_ids: tuple[str, ...] = ()


class DecideLockout:
    """Decides, right after confirmation, whether an incident locks, waits or is only observed."""

    def __init__(self, store: Store, ask_brake: AskBrake, clock: Clock, ids: Ids, *, confirmation_probes: int) -> None:
        """Keep the ports and the brake. `confirmation_probes` is the stack's ConfirmationProbes."""
        self._store = store
        self._ask_brake = ask_brake
        self._clock = clock
        self._telling = Telling(clock, ids)
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
        view = self._ask_brake()
        brake = view.ask(incident, key)
        decision = decide_lockout(incident, key, project, brake.decision, probes=self._probes, now=self._clock.now())
        clusters = [
            cluster
            for cluster in self._store.clusters_of_key(project_id, key_id)
            if cluster.status is not ClusterStatus.PENDING_KEY
        ]
        writes = self._writes(decision, incident, key, clusters)
        if writes and decision.verb is LockoutVerb.LOCK:
            writes.append(Put(view.tally.with_lockout(incident_id, self._clock.now())))
        if brake.engaged is not None and decision.verb is LockoutVerb.HOLD:
            # Whatever else it waits for: when a grace is over, it is too late to see that many keys broke at once.
            notice = engaged_notice(brake.engaged, brake.counts)
            writes += [Put(brake.engaged), self._telling.fleet_notice(notice)]
        if writes:
            self._store.commit(writes)
        lock = decision.verb is LockoutVerb.LOCK
        return LockoutPlan(decision=decision, cluster_ids=tuple(each.cluster_id for each in clusters) if lock else ())

    def _writes(self, decision: LockoutDecision, incident: Incident, key: Key, clusters: list[Cluster]) -> list[Write]:
        """What the decision changes; nothing if it was written before."""
        match decision.verb:
            case LockoutVerb.LOCK:
                what, status = "lockout.begun", IncidentStatus.LOCKING
                after = replace(incident, status=status, held_for=None, clusters=affected(clusters))
            case LockoutVerb.HOLD:
                what, status = "incident.held", IncidentStatus.HELD
                after = replace(incident, status=status, held_for=decision.held_for)
            case LockoutVerb.OBSERVE:
                what, status = "incident.observed", IncidentStatus.OBSERVED
                after = replace(incident, status=status, held_for=None)
            case LockoutVerb.WAIT | LockoutVerb.STOP:
                return []
            case _:
                assert_never(decision.verb)
        if (incident.status, incident.held_for) == (after.status, after.held_for):
            return []
        detail = f"for {decision.held_for}: {decision.reason}" if decision.held_for is not None else decision.reason
        writes: list[Write] = [Put(after), self._telling.entry(incident.incident_id, what, detail)]
        if decision.held_for in {HeldFor.APPROVAL, HeldFor.FLAPPING}:
            row, numbered = self._telling.alert(
                AlertType.APPROVAL_NEEDED, key, incident, clusters, occurred_at=incident.opened_at
            )
            writes += [row, Put(numbered)]
        return writes


class RequestLock:
    """Asks for one lock or unlock of one cluster. Idempotent for one task token."""

    def __init__(self, store: Store, workflow: Workflow, record: RecordLockResult, clock: Clock, ids: Ids) -> None:
        """Keep the ports and the use case that records answers."""
        self._store = store
        self._workflow = workflow
        self._record = record
        self._clock = clock
        self._ids = ids
        self._telling = Telling(clock, ids)

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
        detail = f"{cluster_id}: {action} asked for via {cluster.lock.via}, fence {after.fence}"
        writes: list[Write] = [Put(after), self._telling.entry(incident_id, f"cluster.{action}_requested", detail)]
        if cluster.lock.via is not LockVia.NONE:
            row_id = self._ids.ulid()
            writes.append(
                Put(OutboxRow(row_id=row_id, project_id=project_id, created_at=now, lock_request=lock_request(after)))
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
        """Why there is nothing to ask for, in a word; None if there is something.

        A step of an execution that died may come late, so the incident must be where the step belongs.
        """
        key = self._store.key(cluster.project_id, cluster.key_id)
        incident = self._store.incident(cluster.project_id, incident_id)
        if key is None or incident is None:
            return "incident_over"
        enforced = enforces(self._store, cluster.project_id)
        if action is LockAction.LOCK:
            if cluster.status is ClusterStatus.PENDING_KEY:
                return "pending_key"
            if cluster.status is ClusterStatus.LOCKED and cluster.locked_by_incident_id == incident_id:
                return "locked"
            if incident.status is not IncidentStatus.LOCKING or key.open_incident_id != incident_id:
                return "incident_over"
            if key.health.status is not KeyStatus.UNHEALTHY or not enforced or incident.is_dismissed:
                return "outage_over"
            return None if is_seen_failing(key, self._clock.now()) else "outage_not_seen"
        if cluster.locked_by_incident_id != incident_id:
            return "superseded"
        if incident.status is not IncidentStatus.UNLOCKING:
            return "incident_over"
        let_go = not enforced or incident.is_dismissed
        return "outage_again" if key.health.status is not KeyStatus.HEALTHY and not let_go else None


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
