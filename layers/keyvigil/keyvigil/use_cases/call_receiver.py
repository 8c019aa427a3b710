"""Make a lock or unlock request to the cluster's receiver, and record what it answers."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from keyvigil.domain.alerts import lock_request
from keyvigil.domain.clusters import (
    UNDER_WAY,
    Answer,
    Cluster,
    ClusterStatus,
    LockAction,
    LockResult,
    LockVia,
    Preset,
    answer_of,
)
from keyvigil.domain.lock_calls import (
    ATTEMPTS,
    CALL_SECONDS,
    LEAST_SECONDS,
    CallAnswer,
    CallOutcome,
    can_be_followed,
    longest_pause,
    receiver_name,
)
from keyvigil.domain.lock_settings import LockBounds, lock_problem
from keyvigil.errors import NotFoundError
from keyvigil.ports import Clock, Ids, LockReceiver, Pauses, Put, Store
from keyvigil.use_cases.record_lock_result import LockAnswer, RecordLockResult
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.telling import Telling

type Receivers = Mapping[tuple[LockVia, Preset], LockReceiver]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReport:
    """What came of a request, in a word, and faults of ours on the way: what was raised and where."""

    outcome: str
    faults: tuple[str, ...] = ()


class CallReceiver:
    """Calls a cluster's receiver with the request under way. May be invoked again for the same fence at any time.

    Nothing is made to the receiver that the table does not show as the newest request at that moment: the cluster is
    read before every attempt. What crashes before the answer is recorded is done again with the same fence.
    """

    def __init__(
        self,
        store: Store,
        receivers: Receivers,
        record: RecordLockResult,
        clock: Clock,
        ids: Ids,
        pauses: Pauses,
        bounds: LockBounds,
    ) -> None:
        """Keep the ports, a receiver for each way of locking, and what tenants may name."""
        self._store = store
        self._receivers = receivers
        self._record = record
        self._clock = clock
        self._telling = Telling(clock, ids)
        self._pauses = pauses
        self._bounds = bounds

    def __call__(self, project_id: str, cluster_id: str, fence: int) -> CallReport:
        """Make the request with this fence, with retries inside the lock's own time-out.

        Raises:
            DeliveryError: the answer is recorded, but the waiting step could not be woken: invoke it again.
        """
        faults: list[str] = []
        outcome = self._make(project_id, cluster_id, fence, faults)
        return CallReport(outcome=outcome, faults=tuple(faults))

    def _make(self, project_id: str, cluster_id: str, fence: int, faults: list[str]) -> str:
        ends = self._clock.now() + timedelta(seconds=CALL_SECONDS)
        answer: CallAnswer | None = None
        made = 0
        while made < ATTEMPTS:
            cluster = self._store.cluster(project_id, cluster_id)
            over = self._over(cluster, fence)
            if over is not None or cluster is None:
                return over or "deleted"
            left = (min(ends, cluster.respond_by or ends) - self._clock.now()).total_seconds()
            if left < LEAST_SECONDS:
                break
            answer = self._call(cluster, left, faults)
            made += 1
            if answer.outcome is not CallOutcome.TRANSIENT:
                break
            if made < ATTEMPTS:
                self._pauses.up_to(min(longest_pause(made), left))
        if answer is None:
            return "too_late"
        return self._take(project_id, cluster_id, fence, answer, made)

    def _over(self, cluster: Cluster | None, fence: int) -> str | None:
        """Why there is nothing to call for, in a word; None if there is something."""
        if cluster is None or cluster.deleted_at is not None:
            return "deleted"
        if cluster.fence != fence:
            return "superseded"
        if cluster.status not in UNDER_WAY:
            self._wake_again(cluster)
            return "answered"
        if cluster.receipt is not None and not can_be_followed(cluster.lock):
            return "accepted"
        return None

    def _wake_again(self, cluster: Cluster) -> None:
        """An answer may have been recorded by somebody who got no further: the same one again wakes the step."""
        result = answer_of(cluster)
        if result is not None:
            self._answer(cluster, result, cluster.detail)

    def _call(self, cluster: Cluster, seconds: float, faults: list[str]) -> CallAnswer:
        problem = lock_problem(cluster.lock, cluster.project_id, self._bounds)
        if problem is not None:
            return CallAnswer(outcome=CallOutcome.FAILED, detail=problem)
        receiver = self._receivers.get((cluster.lock.via, cluster.lock.preset or Preset.NONE))
        if receiver is None:
            return CallAnswer(outcome=CallOutcome.FAILED, detail=f"`via: {cluster.lock.via}` is called by nobody")
        try:
            return receiver.call(lock_request(cluster), cluster.lock, receipt=cluster.receipt, seconds=seconds)
        except Exception as error:  # noqa: BLE001  a fault of ours is no reason to leave the request unanswered
            # Without its message, which might carry what was sent.
            name, frame = type(error).__name__, traceback.extract_tb(error.__traceback__)[-1]
            faults.append(f"{name} in {frame.name} of {frame.filename}, line {frame.lineno}")
            return CallAnswer(outcome=CallOutcome.TRANSIENT, detail=f"the call failed: {name}")

    def _take(self, project_id: str, cluster_id: str, fence: int, answer: CallAnswer, made: int) -> str:
        """Record what came of the last attempt."""
        cluster = self._store.cluster(project_id, cluster_id)
        if cluster is None or cluster.fence != fence:
            return "superseded"
        lock = cluster.status in {ClusterStatus.LOCKING, ClusterStatus.LOCKED, ClusterStatus.LOCK_FAILED}
        match answer.outcome:
            case CallOutcome.DONE:
                return self._answer(cluster, LockResult.LOCKED if lock else LockResult.UNLOCKED, answer.detail)
            case CallOutcome.FAILED:
                return self._answer(cluster, LockResult.FAILED, answer.detail)
            case CallOutcome.ACCEPTED:
                until_committed(self._keep_receipt, cluster.project_id, cluster.cluster_id, fence, answer)
                return "accepted"
            case CallOutcome.TRANSIENT:
                if cluster.receipt is not None:
                    # It is being done; whoever asks next may find it done. Silence is failed by the sweep.
                    return "accepted"
                tries = "1 attempt" if made == 1 else f"{made} attempts"
                return self._answer(cluster, LockResult.FAILED, f"{answer.detail} ({tries})")

    def _answer(self, cluster: Cluster, result: LockResult, detail: str | None) -> str:
        try:
            decision = self._record(
                LockAnswer(
                    project_id=cluster.project_id,
                    cluster_id=cluster.cluster_id,
                    fence=cluster.fence,
                    result=result,
                    detail=detail,
                    by=receiver_name(cluster.lock),
                )
            )
        except NotFoundError:
            return "deleted"
        match decision.answer:
            case Answer.STALE:
                return "superseded"
            case Answer.CONTRADICTED:
                return "contradicted"
            case Answer.ACCEPTED | Answer.REPEATED:
                return str(result)

    def _keep_receipt(self, project_id: str, cluster_id: str, fence: int, answer: CallAnswer) -> None:
        cluster = self._store.cluster(project_id, cluster_id)
        if cluster is None or cluster.fence != fence or cluster.status not in UNDER_WAY:
            return
        receipt = answer.receipt or "accepted"
        if cluster.receipt == receipt:
            return
        action = LockAction.UNLOCK if cluster.status is ClusterStatus.UNLOCKING else LockAction.LOCK
        said = f": {answer.detail}" if answer.detail else ""
        entry = self._telling.entry(
            cluster.locked_by_incident_id or "",
            f"cluster.{action}_accepted",
            f"{cluster_id}: {receiver_name(cluster.lock)} accepted the request with fence {fence}{said}",
        )
        self._store.commit([Put(replace(cluster, receipt=receipt)), entry])
