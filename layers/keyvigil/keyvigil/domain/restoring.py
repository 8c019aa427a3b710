"""After the table was restored from a backup: what it says of locks may be long untrue, so all is asserted afresh.

Between the backup and now, clusters were locked and unlocked, keys broke and came back, executions ran under the names
that would be given next. What is true shows only by asking: keys are proved again by fresh probes, and each receiver is
asked again with a fence above all that it has seen.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from keyvigil.domain.clusters import Cluster, ClusterStatus, LockVia, next_fence
from keyvigil.domain.incidents import Incident, IncidentStatus, affected
from keyvigil.domain.keys import Key, KeyStatus
from keyvigil.domain.verdicts import Cause

WHY = "KeyVigil's table was restored from a backup, so what its receiver did since is not known"


def is_in_doubt(cluster: Cluster) -> bool:
    """Whether somebody outside may have been told otherwise than the table says. What is locked `via: none` is not."""
    return cluster.lock.via is not LockVia.NONE


def doubt(cluster: Cluster, incident_id: str, *, above: int, now: datetime) -> Cluster:
    """A cluster after a restore: its fence rises, so that no answer and no reader from before takes it for older.

    LOCK_FAILED says that nobody knows; the incident holds it, and so locks it or unlocks it when the key is known.

    Args:
        cluster: the cluster as the restored table has it.
        incident_id: the open incident of its key; used if the cluster is in doubt.
        above: a fence that is known to have been given; 0 if none is.
        now: the time now.
    """
    raised = replace(cluster, fence=next_fence(max(cluster.fence, above), now))
    if not is_in_doubt(cluster):
        return raised
    return replace(
        raised,
        status=ClusterStatus.LOCK_FAILED,
        locked_by_incident_id=incident_id,
        task_token=None,
        respond_by=None,
        receipt=None,
        status_changed_at=now,
        detail=WHY,
    )


def prove_again(key: Key, incident_id: str | None, *, now: datetime) -> Key:
    """A key after a restore: no probe from before counts, and it is due at once.

    With an incident that holds clusters, it is HEALTHY only when that is proved. Its alerts go on with numbers above
    those that were given since the backup: no key tells of something once a second.
    """
    healthy = key.health.status is KeyStatus.HEALTHY and incident_id is not None
    return replace(
        key,
        health=replace(
            key.health,
            status=KeyStatus.RECOVERING if healthy else key.health.status,
            failing_streak=0,
            definite_streak=0,
            healthy_streak=0,
            failing_since=None,
        ),
        due_at=now,
        alert_sequence=max(key.alert_sequence, int(now.timestamp())),
        open_incident_id=incident_id,
    )


_BEGUN = frozenset(
    {IncidentStatus.LOCKING, IncidentStatus.LOCKED, IncidentStatus.PARTLY_LOCKED, IncidentStatus.UNLOCKING}
)


def take_up(incident: Incident, clusters: Sequence[Cluster], *, now: datetime) -> Incident:
    """An open incident after a restore: it is confirmed or refuted afresh, and its executions get names never used.

    A name is never used again within 90 days: https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
    Executions are numbered on from the time in seconds, because none is asked for more than once a second.
    """
    number = int(now.timestamp())
    return replace(
        incident,
        status=IncidentStatus.CONFIRMING if incident.status in _BEGUN else incident.status,
        recovered_at=None,
        executions=(),
        lockouts=max(incident.lockouts, number),
        recoveries=max(incident.recoveries, number),
        execution_asked_at=None,
        clusters=affected(clusters),
    )


def open_anew(key: Key, clusters: Sequence[Cluster], *, incident_id: str, now: datetime) -> Incident:
    """An incident for a key that had none: its clusters may be locked all the same, and it lets them in when proved."""
    return Incident(
        incident_id=incident_id,
        project_id=key.project_id,
        key_id=key.key_id,
        status=IncidentStatus.CONFIRMING,
        cause=key.verdict.cause or Cause.UNCLASSIFIED,
        opened_at=now,
        clusters=affected(clusters),
        last_healthy_at=key.health.counted_at or key.created_at,
        account_id=key.account_id,
    )
