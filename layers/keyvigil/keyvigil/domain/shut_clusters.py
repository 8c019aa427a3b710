"""Clusters that are not in use, and whether somebody still sees to it that they will be."""

from dataclasses import dataclass
from enum import StrEnum

from keyvigil.domain.clusters import Cluster, ClusterStatus
from keyvigil.domain.incidents import Incident, IncidentStatus
from keyvigil.domain.keys import Key, KeyStatus
from keyvigil.domain.projects import Enforcement, Project
from keyvigil.domain.verdicts import Cause, Outcome

SHUT = frozenset(
    {ClusterStatus.PENDING_KEY, ClusterStatus.LOCKED, ClusterStatus.LOCK_FAILED, ClusterStatus.UNLOCK_FAILED}
)
"""Not in use, or perhaps not, and nothing is under way."""


class ShutVerb(StrEnum):
    """What reconciling does about a cluster that is not in use."""

    LEAVE = "LEAVE"
    LET_IN = "LET_IN"
    REOPEN = "REOPEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutDecision:
    """What reconciling does about a cluster that is not in use, and why."""

    verb: ShutVerb
    reason: str


def is_healthy(key: Key) -> bool:
    """Whether a key works as far as anybody knows: its status and its last verdict say so."""
    return key.health.status is KeyStatus.HEALTHY and key.verdict.outcome is Outcome.HEALTHY


def decide_shut(cluster: Cluster, key: Key, project: Project, incident: Incident | None) -> ShutDecision:
    """Decide about a cluster that is not in use.

    Args:
        cluster: the cluster.
        key: the key that it needs.
        project: whose enforcement counts.
        incident: the one that it is locked for; None if that is not known, or not there any more.
    """
    if cluster.deleted_at is not None or cluster.status not in SHUT:
        return ShutDecision(verb=ShutVerb.LEAVE, reason=f"it is {cluster.status}")
    if cluster.status is ClusterStatus.PENDING_KEY:
        if is_healthy(key):
            return ShutDecision(verb=ShutVerb.LET_IN, reason="its key works, and it still waits for it")
        return ShutDecision(verb=ShutVerb.LEAVE, reason="it waits for its key")
    if incident is not None and incident.is_open:
        return ShutDecision(verb=ShutVerb.LEAVE, reason="its incident is open")
    if not is_healthy(key) and project.enforcement is Enforcement.ENFORCE:
        return ShutDecision(verb=ShutVerb.LEAVE, reason="its key does not work, and it stays locked until it does")
    lost = "is over" if incident is not None else "is not there any more"
    return ShutDecision(
        verb=ShutVerb.REOPEN, reason=f"{cluster.cluster_id} is {cluster.status}, and its incident {lost}"
    )


def stand_in(cluster: Cluster, key: Key, incident_id: str) -> Incident:
    """An incident in the place of one that is not there any more: its cluster is unlocked by the protocol, too."""
    return Incident(
        incident_id=incident_id,
        project_id=cluster.project_id,
        key_id=cluster.key_id,
        status=IncidentStatus.LOCKED,
        cause=Cause.UNCLASSIFIED,
        opened_at=cluster.status_changed_at,
        account_id=key.account_id,
    )
