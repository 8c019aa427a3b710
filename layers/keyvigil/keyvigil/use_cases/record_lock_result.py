"""Take a lock or unlock request's answer, from whoever brings it, and wake the workflow step that waits for it."""

from dataclasses import dataclass, replace

from keyvigil.domain.clusters import Answer, AnswerDecision, Cluster, ClusterStatus, LockResult, take_answer
from keyvigil.domain.incidents import IncidentStatus, TimelineEntry, affected, held_by
from keyvigil.errors import NotFoundError
from keyvigil.ports import Clock, Ids, Put, Store, Workflow
from keyvigil.use_cases.retrying import until_committed


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

    def __init__(self, store: Store, workflow: Workflow, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._workflow = workflow
        self._clock = clock
        self._ids = ids

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
            entry = TimelineEntry(
                incident_id=cluster.locked_by_incident_id or "",
                entry_id=self._ids.ulid(),
                at=now,
                what=_TIMELINE_WORD[decision.cluster.status],
                detail=f"{cluster.cluster_id}: {answer.result}{', late,' if late else ''} said {answer.by} "
                f"for fence {answer.fence} after {waited} s" + (f": {answer.detail}" if answer.detail else ""),
            )
            self._store.commit([Put(decision.cluster), Put(entry)])
            if late and cluster.locked_by_incident_id is not None:
                self._settle_late(decision.cluster, cluster.locked_by_incident_id)
        return decision, cluster.task_token

    def _settle_late(self, cluster: Cluster, incident_id: str) -> None:
        """An incident that was PARTLY_LOCKED is LOCKED once the last missing lock is answered after all."""

        def settle() -> None:
            incident = self._store.incident(cluster.project_id, incident_id)
            if incident is None or incident.status is not IncidentStatus.PARTLY_LOCKED:
                return
            clusters = self._store.clusters_of_key(cluster.project_id, cluster.key_id)
            held = held_by(incident, clusters)
            if all(each.status is ClusterStatus.LOCKED for each in held):
                locked = replace(
                    incident,
                    status=IncidentStatus.LOCKED,
                    locked_at=self._clock.now(),
                    clusters=affected(held),
                )
                self._store.commit([Put(locked)])

        until_committed(settle)


_TIMELINE_WORD = {
    ClusterStatus.LOCKED: "cluster.locked",
    ClusterStatus.ACTIVE: "cluster.unlocked",
    ClusterStatus.LOCK_FAILED: "cluster.lock_failed",
    ClusterStatus.UNLOCK_FAILED: "cluster.unlock_failed",
}
