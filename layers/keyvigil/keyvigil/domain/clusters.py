"""Clusters, and the fenced protocol that locks and unlocks them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never


class ClusterKind(StrEnum):
    """What kind of thing stops working without its key."""

    ZILLIZ_DEDICATED = "zilliz-dedicated"
    ZILLIZ_BYOC = "zilliz-byoc"
    MINIO_KES = "minio-kes"
    AWS_RDS = "aws-rds"
    AWS_S3 = "aws-s3"
    AWS_LAMBDA = "aws-lambda"
    AWS_SECRETSMANAGER = "aws-secretsmanager"
    AWS_DYNAMODB = "aws-dynamodb"
    OTHER = "other"


class ClusterStatus(StrEnum):
    """Where a cluster stands. LOCK_FAILED and UNLOCK_FAILED mean that nobody knows: it may be either."""

    PENDING_KEY = "PENDING_KEY"
    ACTIVE = "ACTIVE"
    LOCKING = "LOCKING"
    LOCKED = "LOCKED"
    UNLOCKING = "UNLOCKING"
    LOCK_FAILED = "LOCK_FAILED"
    UNLOCK_FAILED = "UNLOCK_FAILED"


UNDER_WAY = frozenset({ClusterStatus.LOCKING, ClusterStatus.UNLOCKING})
"""A request has been made and is not answered yet."""


class LockVia(StrEnum):
    """How a cluster is locked: in the registry alone, by an event on the alert bus, or by calling its receiver."""

    NONE = "none"
    EVENT = "event"
    LAMBDA = "lambda"
    WEBHOOK = "webhook"
    SSM_AUTOMATION = "ssm-automation"


class Preset(StrEnum):
    """Whose API a webhook speaks: the tenant's own, signed as Standard Webhooks define, or a service's public one."""

    NONE = "none"
    ZILLIZ_CLOUD = "zilliz-cloud"


class LockAction(StrEnum):
    """One action on one cluster."""

    LOCK = "lock"
    UNLOCK = "unlock"


class LockResult(StrEnum):
    """What a control plane answers."""

    LOCKED = "locked"
    UNLOCKED = "unlocked"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LockSettings:
    """How a cluster is locked, and how long its control plane may take, in seconds.

    The rest is None unless `via` needs it: `function_arn` for lambda; `url`, `secret_arn` and `preset` for
    webhook; `document_name` and `parameters` for ssm-automation. `lock_settings.lock_problem` says what may be named.
    """

    via: LockVia = LockVia.EVENT
    timeout_seconds: int = 300
    function_arn: str | None = None
    url: str | None = None
    secret_arn: str | None = None
    preset: Preset | None = None
    document_name: str | None = None
    parameters: Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Anything that stops working without its key.

    `fence` is the number of the newest lock or unlock request; it survives deletion as a tombstone
    (`deleted_at` set), so that a cluster registered again never gets a number that was used before.
    `task_token` belongs to the workflow step that waits for the answer to that request; it is kept after
    the answer, so that a repeated answer can wake a step that the first one failed to reach. `receipt` says
    that the receiver accepted that request and answers later; a runbook's is the id to ask after it with.
    """

    project_id: str
    cluster_id: str
    name: str
    kind: ClusterKind
    region: str
    key_id: str
    lock: LockSettings
    status: ClusterStatus
    fence: int
    status_changed_at: datetime
    created_at: datetime
    locked_by_incident_id: str | None = None
    task_token: str | None = None
    respond_by: datetime | None = None
    receipt: str | None = None
    detail: str | None = None
    deleted_at: datetime | None = None
    version: int = 0


def next_fence(last: int, now: datetime) -> int:
    """A number above every earlier one of this cluster (invariant 2): max(last + 1, Unix milliseconds)."""
    return max(last + 1, int(now.timestamp() * 1000))


def request(
    cluster: Cluster, action: LockAction, *, incident_id: str, task_token: str | None, now: datetime
) -> Cluster:
    """Put a new lock or unlock request on a cluster, with a fence of its own."""
    lock = action is LockAction.LOCK
    return replace(
        cluster,
        status=ClusterStatus.LOCKING if lock else ClusterStatus.UNLOCKING,
        fence=next_fence(cluster.fence, now),
        locked_by_incident_id=incident_id,
        task_token=task_token,
        respond_by=now + timedelta(seconds=cluster.lock.timeout_seconds),
        receipt=None,
        status_changed_at=now,
        detail=None,
    )


_ANSWER_OF_STATUS = {
    ClusterStatus.LOCKED: LockResult.LOCKED,
    ClusterStatus.ACTIVE: LockResult.UNLOCKED,
    ClusterStatus.LOCK_FAILED: LockResult.FAILED,
    ClusterStatus.UNLOCK_FAILED: LockResult.FAILED,
}


def answer_of(cluster: Cluster) -> LockResult | None:
    """What was answered to a cluster's newest request; None if nothing was."""
    return _ANSWER_OF_STATUS.get(cluster.status)


class Answer(StrEnum):
    """What became of a control plane's answer."""

    ACCEPTED = "ACCEPTED"
    REPEATED = "REPEATED"
    STALE = "STALE"
    CONTRADICTED = "CONTRADICTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerDecision:
    """The cluster after an answer, what became of the answer, and why."""

    answer: Answer
    cluster: Cluster
    reason: str


def take_answer(
    cluster: Cluster, *, fence: int, result: LockResult, detail: str | None, now: datetime
) -> AnswerDecision:
    """Decide what an answer means for a cluster.

    Only the newest request can be answered: any other fence is STALE and changes nothing. The same
    answer again is REPEATED. A success that comes after the time-out is still the truth about the
    cluster, so LOCK_FAILED becomes LOCKED by it; a failure after a success contradicts it.
    """
    if fence != cluster.fence:
        return AnswerDecision(
            answer=Answer.STALE,
            cluster=cluster,
            reason=f"the newest request has fence {cluster.fence}, this answers {fence}",
        )
    locking = cluster.status in {ClusterStatus.LOCKING, ClusterStatus.LOCKED, ClusterStatus.LOCK_FAILED}
    match result:
        case LockResult.LOCKED:
            fits, after = locking, ClusterStatus.LOCKED
        case LockResult.UNLOCKED:
            fits, after = not locking, ClusterStatus.ACTIVE
        case LockResult.FAILED:
            fits, after = True, ClusterStatus.LOCK_FAILED if locking else ClusterStatus.UNLOCK_FAILED
        case _:
            assert_never(result)
    if not fits or cluster.status is ClusterStatus.PENDING_KEY:
        return AnswerDecision(
            answer=Answer.CONTRADICTED,
            cluster=cluster,
            reason=f"`{result}` is no answer to the request that left the cluster {cluster.status}",
        )
    if cluster.status is after:
        return AnswerDecision(answer=Answer.REPEATED, cluster=cluster, reason="this was answered the same way before")
    if result is LockResult.FAILED and cluster.status in {ClusterStatus.LOCKED, ClusterStatus.ACTIVE}:
        return AnswerDecision(
            answer=Answer.CONTRADICTED,
            cluster=cluster,
            reason=f"the request already succeeded: {cluster.status}",
        )
    settled = replace(
        cluster,
        status=after,
        status_changed_at=now,
        respond_by=None,
        detail=detail,
        locked_by_incident_id=None if after is ClusterStatus.ACTIVE else cluster.locked_by_incident_id,
    )
    return AnswerDecision(answer=Answer.ACCEPTED, cluster=settled, reason="the newest request is answered")
