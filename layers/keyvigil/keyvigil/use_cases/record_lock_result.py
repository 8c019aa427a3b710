"""Take a lock or unlock request's answer, from whoever brings it, and wake the workflow step that waits for it."""

from dataclasses import dataclass, replace

from keyvigil.domain.clusters import Answer, AnswerDecision, Cluster, ClusterStatus, LockResult, take_answer
from keyvigil.domain.incidents import IncidentStatus, WorkflowKind, affected
from keyvigil.errors import NotFoundError
from keyvigil.ports import Clock, Ids, Put, Store, Workflow, Write
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.settle_lockout import SettleLockout
from keyvigil.use_cases.telling import Telling


@dataclass(frozen=True, slots=True, kw_only=True)
class LockAnswer:
    """An answer to a lock request. `by` names in plain words who gave it, for the timeline."""

    project_id: str
    cluster_id: str
    fence: int
    result: LockResult
    detail: str | None
    by: str


class RecordLockResult:
    """Records answers: the table first, which is the truth, then the step that waits."""

    def __init__(self, store: Store, workflow: Workflow, settle: SettleLockout, clock: Clock, ids: Ids) -> None:
        """Keep the ports, and the use case that settles a lockout."""
        self._store = store
        self._workflow = workflow
        self._settle = settle
        self._clock = clock
        self._telling = Telling(clock, ids)

    def __call__(self, answer: LockAnswer) -> AnswerDecision:
        """Record one answer.

        A repeated answer wakes the step again, in case the first one got no further than the table.

        Raises:
            NotFoundError: there is no such cluster.
            DeliveryError: the answer is recorded, but the waiting step could not be reached: answer again.
        """
        decision, token = until_committed(self._record, answer)
        if token is not None and decision.answer in {Answer.ACCEPTED, Answer.REPEATED}:
            self._workflow.complete(token, answer.result, answer.detail)
        return decision

    def _record(self, answer: LockAnswer) -> tuple[AnswerDecision, str | None]:
        cluster = self._store.cluster(answer.project_id, answer.cluster_id)
        if cluster is None or cluster.deleted_at is not None:
            message = f"cluster {answer.cluster_id} is not registered in project {answer.project_id}"
            raise NotFoundError(message)
        now = self._clock.now()
        decision = take_answer(cluster, fence=answer.fence, result=answer.result, detail=answer.detail, now=now)
        if decision.answer is Answer.ACCEPTED:
            late = cluster.status in {ClusterStatus.LOCK_FAILED, ClusterStatus.UNLOCK_FAILED}
            waited = int((now - cluster.status_changed_at).total_seconds())
            entry = self._telling.entry(
                cluster.locked_by_incident_id or "",
                _TIMELINE_WORD[decision.cluster.status],
                f"{cluster.cluster_id}: {answer.result}{', late,' if late else ''} said {answer.by} "
                f"for fence {answer.fence} after {waited} s" + (f": {answer.detail}" if answer.detail else ""),
            )
            self._store.commit([Put(decision.cluster), entry, *self._take_up(decision.cluster)])
            if late and cluster.locked_by_incident_id is not None:
                # The last missing lock completes a PARTLY_LOCKED incident; reconciling would find it too.
                self._settle(cluster.project_id, cluster.key_id, cluster.locked_by_incident_id)
        return decision, cluster.task_token

    def _take_up(self, cluster: Cluster) -> list[Write]:
        """A cluster that was locked for an incident which is over by now: the incident goes on, and unlocks it.

        Who asks for a lock reads incident and key, and writes the cluster alone: of forty at once, each would keep the
        others from committing. A function that was stopped in between may commit after the recovery.
        """
        if cluster.status not in {ClusterStatus.LOCKED, ClusterStatus.LOCK_FAILED}:
            return []
        incident = self._store.incident(cluster.project_id, cluster.locked_by_incident_id or "")
        if incident is None or incident.is_open:
            return []
        after = replace(
            incident, status=IncidentStatus.UNLOCKING, resolved_at=None, clusters=affected([cluster]), held_for=None
        )
        row, after, name = self._telling.execution(after, WorkflowKind.RECOVERY)
        detail = f"{name} was asked for: {cluster.cluster_id} was locked after the end"
        return [Put(after), row, self._telling.entry(incident.incident_id, "incident.taken_up_again", detail)]


_TIMELINE_WORD = {
    ClusterStatus.LOCKED: "cluster.locked",
    ClusterStatus.ACTIVE: "cluster.unlocked",
    ClusterStatus.LOCK_FAILED: "cluster.lock_failed",
    ClusterStatus.UNLOCK_FAILED: "cluster.unlock_failed",
}
