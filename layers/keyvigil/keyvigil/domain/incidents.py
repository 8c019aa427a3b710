"""Incidents: from the first UNHEALTHY verdict on a key to its proved recovery, and what is to be done in between."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

from keyvigil.domain.actors import Actor
from keyvigil.domain.brake import BrakeDecision, BrakeVerb
from keyvigil.domain.clusters import UNDER_WAY, Cluster, ClusterStatus, answer_of
from keyvigil.domain.held import HeldFor
from keyvigil.domain.keys import Key, KeyStatus
from keyvigil.domain.projects import Approval, Enforcement, Project
from keyvigil.domain.status_machine import is_confirmed
from keyvigil.domain.verdicts import Cause, Outcome


class IncidentStatus(StrEnum):
    """How far an incident has got."""

    CONFIRMING = "CONFIRMING"
    HELD = "HELD"
    LOCKING = "LOCKING"
    LOCKED = "LOCKED"
    PARTLY_LOCKED = "PARTLY_LOCKED"
    UNLOCKING = "UNLOCKING"
    RESOLVED = "RESOLVED"
    DISMISSED = "DISMISSED"
    OBSERVED = "OBSERVED"


class Decision(StrEnum):
    """What a person may decide about an incident."""

    APPROVE = "approve"
    HOLD = "hold"
    DISMISS = "dismiss"


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonsDecision:
    """What a person decided about an incident, with their IAM ARN and the reason they gave.

    `held_for` is what the incident waited for when they decided: who approves has seen that, and nothing later.
    """

    decision: Decision
    reason: str
    by: str
    at: datetime
    held_for: HeldFor | None = None


class WorkflowKind(StrEnum):
    """The two workflows; the value is the word in an execution's name."""

    LOCKOUT = "lock"
    RECOVERY = "unlock"


@dataclass(frozen=True, slots=True, kw_only=True)
class AffectedCluster:
    """A cluster under the broken key, as it stood when the incident was last written.

    `detail` is why it could not be locked or unlocked, if it could not.
    """

    cluster_id: str
    status: ClusterStatus
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One outage of one key.

    `executions` are the names of the newest workflow executions, `<incident_id>-<lock|unlock>-<n>`, in the
    order in which they were asked for; `lockouts` and `recoveries` count all of them, and
    `execution_asked_at` is when the last was asked for. `clusters_told` says that an alert about its
    clusters is firing, which its end must resolve. `last_healthy_at` is when the key was last found usable.
    `flapping` says that the key broke too often within an hour.
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
    lockouts: int = 0
    recoveries: int = 0
    execution_asked_at: datetime | None = None
    clusters_told: bool = False
    lock_failure_told_at: datetime | None = None
    unlock_failure_told_at: datetime | None = None
    decision: PersonsDecision | None = None
    actor: Actor | None = None
    last_healthy_at: datetime | None = None
    account_id: str = ""
    flapping: bool = False
    version: int = 0

    @property
    def is_dismissed(self) -> bool:
        """Whether a person dismissed it: it locks nothing, and is kept so that the same outage does not open again."""
        return self.decision is not None and self.decision.decision is Decision.DISMISS

    @property
    def is_open(self) -> bool:
        """Whether anything is still to be done."""
        return self.status is not IncidentStatus.RESOLVED


def is_incident_of(incident: Incident, project: Project) -> bool:
    """Whether an incident is this project's, and not one of an earlier project that had the same id.

    Incidents outlive their project by more than a year, and who takes its id may be another tenant (invariant 6).
    """
    return incident.project_id == project.project_id and incident.opened_at >= project.created_at


FLAPPING_WITHIN = timedelta(hours=1)
FLAPPING_INCIDENTS = 3
"""The third incident of one key within an hour waits for a person: locking and unlocking in turn serves nobody."""


def note_opening(opened: tuple[datetime, ...], now: datetime) -> tuple[tuple[datetime, ...], bool]:
    """A key's newest openings with one more, and whether the key is flapping by it."""
    kept = (*(each for each in opened if now - each < FLAPPING_WITHIN), now)[-FLAPPING_INCIDENTS:]
    return kept, len(kept) >= FLAPPING_INCIDENTS


_BEFORE_LOCKING = frozenset(
    {IncidentStatus.CONFIRMING, IncidentStatus.HELD, IncidentStatus.OBSERVED, IncidentStatus.DISMISSED}
)


def may_decide(incident: Incident, decision: Decision) -> tuple[bool, str]:
    """Say whether a person can still decide this about an incident, and why not.

    One whose key recovered can still be dismissed: if the key broke again before all of its clusters were unlocked,
    nothing else would let those in.
    """
    if not incident.is_open or (incident.recovered_at is not None and decision is not Decision.DISMISS):
        return False, "the incident is over, so nothing is left to decide"
    if decision is Decision.HOLD and incident.status not in _BEFORE_LOCKING:
        return False, f"the incident is {incident.status}; it can be held only before its lockout begins"
    return True, f"the incident is {incident.status}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """One thing that happened in an incident. `entry_id` (ULID) sorts entries of the same millisecond."""

    incident_id: str
    entry_id: str
    at: datetime
    what: str
    detail: str
    version: int = 0


TIMELINE_SHOWN = 300
"""How many entries of its timeline an incident shows, the newest; the whole is read page by page. A key that breaks and
recovers for weeks writes thousands, and a function's answer has at most 6 MB, of which an entry may take 14 KB:
https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
"""

NAMES_SHOWN = 20
"""How many names a sentence lists."""


def listed(names: Sequence[str]) -> str:
    """Names for a sentence: the first ones, and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


EXECUTIONS_KEPT = 20
"""How many names of executions an incident keeps: an unlock that fails for weeks must not outgrow its item."""


def ask_execution(incident: Incident, kind: WorkflowKind, now: datetime) -> tuple[Incident, str]:
    """Give the next execution of an incident its name; the name alone makes starting it idempotent."""
    lockouts = incident.lockouts + (kind is WorkflowKind.LOCKOUT)
    recoveries = incident.recoveries + (kind is WorkflowKind.RECOVERY)
    number = lockouts if kind is WorkflowKind.LOCKOUT else recoveries
    name = f"{incident.incident_id}-{kind}-{number}"
    kept = (*incident.executions, name)[-EXECUTIONS_KEPT:]
    asked = replace(incident, executions=kept, lockouts=lockouts, recoveries=recoveries, execution_asked_at=now)
    return asked, name


def newest_executions(incident: Incident) -> tuple[str, ...]:
    """The newest execution of each kind: either may still be at work.

    While locks are under way it is the lockout's alone: a recovery waits until they settle, and whoever settles them
    for a lockout that died must not wait for that recovery.
    """
    newest = {name.rsplit("-", 2)[1]: name for name in incident.executions}
    locking = incident.status is IncidentStatus.LOCKING
    return tuple(name for kind, name in newest.items() if not locking or kind == WorkflowKind.LOCKOUT)


REASONS_SHOWN = 20
LONGEST_REASON = 200
"""How many clusters of an incident or alert are listed with the reason of their failure, and how long it may be, in
characters: 200 clusters with long reasons would not fit into an SNS message of 256 KB."""

_FAILED = frozenset({ClusterStatus.LOCK_FAILED, ClusterStatus.UNLOCK_FAILED})


def affected(clusters: Iterable[Cluster]) -> tuple[AffectedCluster, ...]:
    """The clusters of an incident or an alert, in a stable order; the first that failed with the reason."""
    ordered = sorted(clusters, key=lambda each: each.cluster_id)
    explained = {each.cluster_id for each in [each for each in ordered if each.status in _FAILED][:REASONS_SHOWN]}
    return tuple(
        AffectedCluster(
            cluster_id=cluster.cluster_id,
            status=cluster.status,
            detail=cluster.detail[:LONGEST_REASON] if cluster.detail and cluster.cluster_id in explained else None,
        )
        for cluster in ordered
    )


def of_incident(incident: Incident, clusters: list[Cluster]) -> list[Cluster]:
    """The clusters that an alert lists: those of the incident, as they stand now."""
    mine = {each.cluster_id for each in incident.clusters}
    return [each for each in clusters if not mine or each.cluster_id in mine]


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


def decide_lockout(
    incident: Incident, key: Key, project: Project, brake: BrakeDecision, *, probes: int, now: datetime
) -> LockoutDecision:
    """Decide whether a key's clusters are to be locked now.

    Only a confirmed UNHEALTHY locks (invariant 1), whatever a person decided.

    Args:
        incident: the key's open incident.
        key: the key as it is now.
        project: whose enforcement, approval and grace count.
        brake: what the brake says to this lockout now.
        probes: how many probes in a row confirm a definite cause.
        now: the time now.
    """
    if not incident.is_open or incident.recovered_at is not None:
        return LockoutDecision(verb=LockoutVerb.STOP, reason="the incident is over")
    if key.open_incident_id != incident.incident_id:
        return LockoutDecision(verb=LockoutVerb.STOP, reason="a later incident of this key took over")
    if incident.is_dismissed:
        return LockoutDecision(verb=LockoutVerb.STOP, reason="a person dismissed the incident")
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
    held = _why_held(incident, project, brake, now)
    if held is not None:
        return held
    approval = incident.decision
    who = f"{approval.by} approved; " if approval is not None and approval.decision is Decision.APPROVE else ""
    return LockoutDecision(verb=LockoutVerb.LOCK, reason=f"{who}{why}; {brake.reason}")


SEEN_WITHIN = timedelta(minutes=10)
"""How old the last probe of a broken key may be for a further cluster to be locked because of it. There is one every
minute, unless KeyVigil cannot see."""


def is_seen_failing(key: Key, now: datetime) -> bool:
    """Whether the newest that is known of a key is that it fails.

    A lockout of 200 clusters may take hours. If nothing is known any more, the customer may have mended the key long
    ago, and who is not locked yet must not be, because KeyVigil could not see (invariant 1).
    """
    return key.verdict.outcome is Outcome.UNHEALTHY and now - key.last_probed_at <= SEEN_WITHIN


_SEEN_BY_APPROVER = frozenset({HeldFor.BRAKE, HeldFor.CEILING})
"""What holds an approved incident all the same, unless that is what it waited for when the person approved."""


def _why_held(incident: Incident, project: Project, brake: BrakeDecision, now: datetime) -> LockoutDecision | None:
    """What a confirmed outage of an enforcing project still waits for; None if for nothing.

    An approval lifts every hold but a brake or a ceiling that came after it: the person did not know of that.
    """
    decided = incident.decision
    if decided is not None and decided.decision is Decision.HOLD:
        reason = f"{decided.by} holds it: {decided.reason}"
        return LockoutDecision(verb=LockoutVerb.HOLD, held_for=HeldFor.OPERATOR, reason=reason)
    approved = decided if decided is not None and decided.decision is Decision.APPROVE else None
    if approved is None:
        held = _before_approval(incident, project, now)
        if held is not None:
            return held
    if brake.verb is BrakeVerb.PROCEED or brake.held_for is None:
        return None
    if approved is not None and (brake.held_for not in _SEEN_BY_APPROVER or approved.held_for is brake.held_for):
        return None
    return LockoutDecision(verb=LockoutVerb.HOLD, held_for=brake.held_for, reason=brake.reason)


def _before_approval(incident: Incident, project: Project, now: datetime) -> LockoutDecision | None:
    if incident.flapping:
        reason = "the key broke for the third time within an hour, so a person decides"
        return LockoutDecision(verb=LockoutVerb.HOLD, held_for=HeldFor.FLAPPING, reason=reason)
    if project.approval is Approval.MANUAL:
        reason = "the project wants every lockout approved"
        return LockoutDecision(verb=LockoutVerb.HOLD, held_for=HeldFor.APPROVAL, reason=reason)
    until = (incident.confirmed_at or now) + timedelta(minutes=project.grace_minutes)
    if now < until:
        reason = f"the project's grace lasts until {until:%Y-%m-%d %H:%M:%S} UTC"
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


_LOCKED = frozenset({IncidentStatus.LOCKED, IncidentStatus.PARTLY_LOCKED, IncidentStatus.UNLOCKING})


def decide_recovery(incident: Incident, key: Key, project: Project, *, holds_clusters: bool) -> RecoveryDecision:
    """Decide whether an incident's clusters are to be unlocked now.

    They are when the key's recovery is proved, when the project stopped enforcing, or when a person dismissed the
    incident. Locks under way settle first: an unlock that overtakes its lock would leave the cluster locked.
    """
    if not incident.is_open:
        return RecoveryDecision(verb=RecoveryVerb.STOP, reason="the incident is over")
    if incident.status is IncidentStatus.LOCKING:
        return RecoveryDecision(verb=RecoveryVerb.WAIT, reason="locks under way settle first")
    if project.enforcement is Enforcement.OBSERVE and (holds_clusters or incident.status in _LOCKED):
        return RecoveryDecision(verb=RecoveryVerb.UNLOCK, reason="the project only observes")
    if incident.is_dismissed and (holds_clusters or incident.status in _LOCKED):
        return RecoveryDecision(verb=RecoveryVerb.UNLOCK, reason="a person dismissed the incident")
    match key.health.status:
        case KeyStatus.HEALTHY:
            return RecoveryDecision(verb=RecoveryVerb.UNLOCK, reason="the key's recovery is proved")
        case KeyStatus.SUSPECT | KeyStatus.RECOVERING:
            return RecoveryDecision(verb=RecoveryVerb.WAIT, reason="the key's recovery is not proved yet")
        case KeyStatus.UNHEALTHY:
            return RecoveryDecision(verb=RecoveryVerb.STOP, reason="the key broke again")
        case _:
            assert_never(key.health.status)


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
    SETTLE_RECOVERY = "SETTLE_RECOVERY"
    WAKE = "WAKE"


@dataclass(frozen=True, slots=True, kw_only=True)
class MendingDecision:
    """What reconciling does about an incident, and why."""

    mending: Mending
    reason: str


RESTART_AFTER = timedelta(seconds=90)
LONGEST_RESTART = timedelta(minutes=15)


def restart_after(executions: int) -> timedelta:
    """How long after asking for an execution another may be asked for: longer each time.

    The first wait gives the relay time to start the execution; the growing ones spare a control plane that
    goes on failing, and the incident's timeline.
    """
    doublings = min(max(executions - 1, 0), 8)
    return min(RESTART_AFTER * (1 << doublings), LONGEST_RESTART)


def decide_mending(
    incident: Incident,
    key: Key,
    project: Project,
    clusters: list[Cluster],
    brake: BrakeDecision,
    *,
    probes: int,
    now: datetime,
) -> MendingDecision:
    """Compare what is with what should be, for an incident without a running execution."""
    decision = _mending(incident, key, project, clusters, brake, probes=probes, now=now)
    asked = incident.execution_asked_at
    match decision.mending:
        case Mending.START_LOCKOUT:
            wait = restart_after(incident.lockouts)
        case Mending.START_RECOVERY:
            wait = restart_after(incident.recoveries)
        case Mending.NONE | Mending.SETTLE_LOCKOUT | Mending.SETTLE_RECOVERY | Mending.WAKE:
            wait = RESTART_AFTER
        case _:
            assert_never(decision.mending)
    if asked is not None and now - asked < wait:
        return MendingDecision(mending=Mending.NONE, reason="an execution was asked for a moment ago")
    return decision


def _mending(
    incident: Incident,
    key: Key,
    project: Project,
    clusters: list[Cluster],
    brake: BrakeDecision,
    *,
    probes: int,
    now: datetime,
) -> MendingDecision:
    if not incident.is_open:
        return MendingDecision(mending=Mending.NONE, reason="the incident is over")
    if incident.status is IncidentStatus.LOCKING:
        return MendingDecision(mending=Mending.SETTLE_LOCKOUT, reason="its lockout ended without settling")
    held = held_by(incident, clusters)
    healthy = key.health.status is KeyStatus.HEALTHY
    let_go = project.enforcement is Enforcement.OBSERVE or incident.is_dismissed
    released = let_go and (bool(held) or incident.status in _LOCKED)
    if (held and healthy) or released:
        return MendingDecision(mending=Mending.START_RECOVERY, reason="its clusters should be unlocked and are not")
    if not held and (healthy or key.open_incident_id != incident.incident_id):
        return MendingDecision(mending=Mending.SETTLE_RECOVERY, reason="no cluster is locked for it any more")
    if incident.status is IncidentStatus.PARTLY_LOCKED and all(each.status is ClusterStatus.LOCKED for each in held):
        return MendingDecision(mending=Mending.SETTLE_LOCKOUT, reason="its last lock was answered after all")
    return _mending_of_lockout(incident, key, project, clusters, brake, probes=probes, now=now)


_MAY_LOCK = frozenset(
    {
        IncidentStatus.CONFIRMING,
        IncidentStatus.HELD,
        IncidentStatus.OBSERVED,
        IncidentStatus.DISMISSED,
        IncidentStatus.PARTLY_LOCKED,
    }
)


def _mending_of_lockout(
    incident: Incident,
    key: Key,
    project: Project,
    clusters: list[Cluster],
    brake: BrakeDecision,
    *,
    probes: int,
    now: datetime,
) -> MendingDecision:
    """Whether an outage's lockout is to be taken up (again), or its waiting is to be said.

    A key that seemed to recover while its clusters were being locked leaves some of them in use, and the incident
    LOCKED without them; if the key broke again after all, they are locked too. So is what an earlier incident was
    still unlocking, or could not unlock, when the lockout settled.
    """
    wanted = decide_lockout(incident, key, project, brake, probes=probes, now=now)
    left_out = incident.status is IncidentStatus.LOCKED and any(
        each.locked_by_incident_id != incident.incident_id and each.status is not ClusterStatus.PENDING_KEY
        for each in clusters
    )
    if (incident.status in _MAY_LOCK or left_out) and wanted.verb is LockoutVerb.LOCK:
        return MendingDecision(mending=Mending.START_LOCKOUT, reason="its clusters should be locked and are not")
    if incident.status is IncidentStatus.UNLOCKING and wanted.verb in {LockoutVerb.LOCK, LockoutVerb.HOLD}:
        return MendingDecision(mending=Mending.SETTLE_RECOVERY, reason="the project enforces again")
    waiting = {LockoutVerb.HOLD: IncidentStatus.HELD, LockoutVerb.OBSERVE: IncidentStatus.OBSERVED}
    status = waiting.get(wanted.verb, incident.status)
    if incident.status in _MAY_LOCK - {IncidentStatus.PARTLY_LOCKED} and status is not incident.status:
        return MendingDecision(mending=Mending.START_LOCKOUT, reason=f"it should be {status}")
    if incident.status is IncidentStatus.HELD and wanted.held_for not in {None, incident.held_for}:
        return MendingDecision(mending=Mending.START_LOCKOUT, reason=f"it should be held for {wanted.held_for}")
    return MendingDecision(mending=Mending.NONE, reason="it is as it should be")


UNHEARD_AFTER = timedelta(seconds=30)
"""How long after the last answer an execution must have gone on: waking its steps takes a second or two."""


def unheard(incident: Incident, clusters: list[Cluster], now: datetime) -> list[Cluster]:
    """The clusters whose answer the incident's execution may not have heard of, although nothing is under way any more.

    Who takes an answer writes it down and wakes the step that waits for it. If it got no further than the table, the
    step would wait for as long as a step may, 35 minutes, and a recovery with it.
    """
    mine = {each.cluster_id for each in incident.clusters}
    asked = [each for each in clusters if each.cluster_id in mine and each.task_token is not None]
    if incident.status not in {IncidentStatus.LOCKING, IncidentStatus.UNLOCKING}:
        return []
    if any(each.status in UNDER_WAY or now - each.status_changed_at < UNHEARD_AFTER for each in asked):
        return []
    return [each for each in asked if answer_of(each) is not None]
