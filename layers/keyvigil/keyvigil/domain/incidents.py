"""Incidents: from the first UNHEALTHY verdict on a key to its proved recovery, and what is to be done in between."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from keyvigil.domain.clusters import Cluster, ClusterStatus
from keyvigil.domain.keys import Key, KeyStatus
from keyvigil.domain.projects import Approval, Enforcement, Project
from keyvigil.domain.status_machine import is_confirmed
from keyvigil.domain.verdicts import Cause, Outcome, is_definite


class IncidentStatus(StrEnum):
    """How far an incident has got."""

    CONFIRMING = "CONFIRMING"
    HELD = "HELD"
    LOCKING = "LOCKING"
    LOCKED = "LOCKED"
    PARTLY_LOCKED = "PARTLY_LOCKED"
    UNLOCKING = "UNLOCKING"
    RESOLVED = "RESOLVED"
    OBSERVED = "OBSERVED"


class HeldFor(StrEnum):
    """What a HELD incident waits for."""

    APPROVAL = "approval"
    GRACE = "grace"


class WorkflowKind(StrEnum):
    """The two workflows; the value is the word in an execution's name."""

    LOCKOUT = "lock"
    RECOVERY = "unlock"


@dataclass(frozen=True, slots=True, kw_only=True)
class AffectedCluster:
    """A cluster under the broken key, as it stood when the incident was last written."""

    cluster_id: str
    status: ClusterStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One outage of one key.

    `executions` are the names of the workflow executions, `<incident_id>-<lock|unlock>-<n>`, in the order
    in which they were asked for; `execution_asked_at` is when the last of them was.
    """

    incident_id: str
    project_id: str
    key_id: str
    status: IncidentStatus
    cause: Cause
    opened_at: datetime
    held_for: HeldFor | None = None
    confirmed_at: datetime | None = None
    locked_at: datetime | None = None
    recovered_at: datetime | None = None
    resolved_at: datetime | None = None
    clusters: tuple[AffectedCluster, ...] = ()
    executions: tuple[str, ...] = ()
    execution_asked_at: datetime | None = None
    unlock_failure_told_at: datetime | None = None
    version: int = 0

    @property
    def is_open(self) -> bool:
        """Whether anything is still to be done."""
        return self.status is not IncidentStatus.RESOLVED


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """One thing that happened in an incident. `entry_id` (ULID) sorts entries of the same millisecond."""

    incident_id: str
    entry_id: str
    at: datetime
    what: str
    detail: str
    version: int = 0


def ask_execution(incident: Incident, kind: WorkflowKind, now: datetime) -> tuple[Incident, str]:
    """Give the next execution of an incident its name; the name alone makes starting it idempotent."""
    name = f"{incident.incident_id}-{kind}-{sum(kind in each.split('-') for each in incident.executions) + 1}"
    return replace(incident, executions=(*incident.executions, name), execution_asked_at=now), name


def affected(clusters: list[Cluster]) -> tuple[AffectedCluster, ...]:
    """The clusters of an incident or an alert, in a stable order."""
    return tuple(
        AffectedCluster(cluster_id=cluster.cluster_id, status=cluster.status)
        for cluster in sorted(clusters, key=lambda each: each.cluster_id)
    )


class LockoutVerb(StrEnum):
    """What to do about a confirmed outage."""

    LOCK = "LOCK"
    HOLD = "HOLD"
    OBSERVE = "OBSERVE"
    WAIT = "WAIT"
    STOP = "STOP"


@dataclass(frozen=True, slots=True, kw_only=True)
class LockoutDecision:
    """What to do about an outage, and why."""

    verb: LockoutVerb
    reason: str
    held_for: HeldFor | None = None


def decide_lockout(incident: Incident, key: Key, project: Project, *, probes: int, now: datetime) -> LockoutDecision:
    """Decide whether a key's clusters are to be locked now.

    Only a confirmed UNHEALTHY locks (invariant 1). Until the brake exists an ambiguous cause never locks
    by itself: it waits for a person.
    """
    if not incident.is_open or incident.recovered_at is not None:
        return LockoutDecision(verb=LockoutVerb.STOP, reason="the incident is over")
    if key.open_incident_id != incident.incident_id:
        return LockoutDecision(verb=LockoutVerb.STOP, reason="a later incident of this key took over")
    if key.health.status is not KeyStatus.UNHEALTHY or key.verdict.outcome is not Outcome.UNHEALTHY:
        return LockoutDecision(
            verb=LockoutVerb.WAIT,
            reason=f"the key is {key.health.status} and its last verdict {key.verdict.outcome}",
        )
    confirmed, why = is_confirmed(
        key.health,
        key.verdict.cause,
        key.last_probed_at,
        probes=probes,
        deletion_date=key.facts.deletion_date,
    )
    if not confirmed:
        return LockoutDecision(verb=LockoutVerb.WAIT, reason=why)
    match project.enforcement:
        case Enforcement.OBSERVE:
            return LockoutDecision(verb=LockoutVerb.OBSERVE, reason="the project only observes")
        case Enforcement.ENFORCE:
            pass
        case _:
            assert_never(project.enforcement)
    held = _why_held(incident, key, project, now)
    if held is not None:
        return held
    return LockoutDecision(verb=LockoutVerb.LOCK, reason=why)


def _why_held(incident: Incident, key: Key, project: Project, now: datetime) -> LockoutDecision | None:
    """What a confirmed outage of an enforcing project still waits for; None if for nothing."""
    cause = key.verdict.cause or Cause.UNCLASSIFIED
    if not is_definite(cause, deletion_date=key.facts.deletion_date, now=now):
        reason = f"{cause} might be our own fault, so a person decides"
        return LockoutDecision(verb=LockoutVerb.HOLD, held_for=HeldFor.APPROVAL, reason=reason)
    if project.approval is Approval.MANUAL:
        reason = "the project wants every lockout approved"
        return LockoutDecision(verb=LockoutVerb.HOLD, held_for=HeldFor.APPROVAL, reason=reason)
    until = (incident.confirmed_at or now) + timedelta(minutes=project.grace_minutes)
    if now < until:
        reason = f"the project's grace lasts until {until:%H:%M:%S} UTC"
        return LockoutDecision(verb=LockoutVerb.HOLD, held_for=HeldFor.GRACE, reason=reason)
    return None


class RecoveryVerb(StrEnum):
    """What to do about clusters that an incident locked."""

    UNLOCK = "UNLOCK"
    WAIT = "WAIT"
    STOP = "STOP"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryDecision:
    """What to do about locked clusters, and why."""

    verb: RecoveryVerb
    reason: str


def decide_recovery(incident: Incident, key: Key, project: Project) -> RecoveryDecision:
    """Decide whether an incident's clusters are to be unlocked now.

    They are when the key's recovery is proved, or when the project stopped enforcing. Locks under way
    settle first: an unlock that overtakes its lock would leave the cluster locked.
    """
    if not incident.is_open:
        return RecoveryDecision(verb=RecoveryVerb.STOP, reason="the incident is over")
    if incident.status is IncidentStatus.LOCKING:
        return RecoveryDecision(verb=RecoveryVerb.WAIT, reason="locks under way settle first")
    if project.enforcement is Enforcement.OBSERVE:
        return RecoveryDecision(verb=RecoveryVerb.UNLOCK, reason="the project only observes")
    if key.health.status is KeyStatus.HEALTHY:
        return RecoveryDecision(verb=RecoveryVerb.UNLOCK, reason="the key's recovery is proved")
    return RecoveryDecision(verb=RecoveryVerb.STOP, reason=f"the key is {key.health.status}")


def held_by(incident: Incident, clusters: list[Cluster]) -> list[Cluster]:
    """The clusters that this incident, and no later one, has locked or may have locked."""
    return [
        cluster
        for cluster in clusters
        if cluster.locked_by_incident_id == incident.incident_id
        and cluster.status not in {ClusterStatus.ACTIVE, ClusterStatus.PENDING_KEY}
    ]


class Mending(StrEnum):
    """What reconciling does about an open incident that nobody is working on."""

    NONE = "NONE"
    START_LOCKOUT = "START_LOCKOUT"
    START_RECOVERY = "START_RECOVERY"
    SETTLE_LOCKOUT = "SETTLE_LOCKOUT"
    RESOLVE = "RESOLVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class MendingDecision:
    """What reconciling does about an incident, and why."""

    mending: Mending
    reason: str


RESTART_AFTER = timedelta(seconds=90)
"""How long after asking for an execution another may be asked for: the relay needs time to start the first."""


def decide_mending(
    incident: Incident, key: Key, project: Project, clusters: list[Cluster], *, probes: int, now: datetime
) -> MendingDecision:
    """Compare what is with what should be, for an incident without a running execution."""
    if not incident.is_open:
        return MendingDecision(mending=Mending.NONE, reason="the incident is over")
    if incident.execution_asked_at is not None and now - incident.execution_asked_at < RESTART_AFTER:
        return MendingDecision(mending=Mending.NONE, reason="an execution was asked for a moment ago")
    if incident.status is IncidentStatus.LOCKING:
        return MendingDecision(mending=Mending.SETTLE_LOCKOUT, reason="its lockout ended without settling")
    held = held_by(incident, clusters)
    recovered = key.health.status is KeyStatus.HEALTHY or key.open_incident_id != incident.incident_id
    released = project.enforcement is Enforcement.OBSERVE
    locked = incident.status in {
        IncidentStatus.LOCKED,
        IncidentStatus.PARTLY_LOCKED,
        IncidentStatus.UNLOCKING,
    }
    if (held and key.health.status is KeyStatus.HEALTHY) or ((held or locked) and released):
        return MendingDecision(mending=Mending.START_RECOVERY, reason="its clusters should be unlocked and are not")
    if recovered and not held:
        return MendingDecision(mending=Mending.RESOLVE, reason="the key works and no cluster is locked")
    if incident.status in {IncidentStatus.CONFIRMING, IncidentStatus.HELD, IncidentStatus.OBSERVED}:
        wanted = decide_lockout(incident, key, project, probes=probes, now=now)
        if wanted.verb is LockoutVerb.LOCK:
            return MendingDecision(mending=Mending.START_LOCKOUT, reason="its clusters should be locked and are not")
        settled = {
            LockoutVerb.HOLD: IncidentStatus.HELD,
            LockoutVerb.OBSERVE: IncidentStatus.OBSERVED,
        }.get(wanted.verb, incident.status)
        if settled is not incident.status:
            return MendingDecision(mending=Mending.START_LOCKOUT, reason=f"it should be {settled}")
    return MendingDecision(mending=Mending.NONE, reason="it is as it should be")
