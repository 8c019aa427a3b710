"""The recovery workflow's steps: decide, and settle. Each unlock is asked for by `RequestLock`."""

from dataclasses import dataclass, replace

from keyvigil.domain.alerts import AlertType
from keyvigil.domain.clusters import Cluster, ClusterStatus
from keyvigil.domain.incidents import (
    Incident,
    IncidentStatus,
    RecoveryDecision,
    RecoveryVerb,
    affected,
    decide_recovery,
    held_by,
    listed,
)
from keyvigil.domain.keys import Key, KeyStatus
from keyvigil.errors import NotFoundError
from keyvigil.ports import Clock, Ids, Put, Store, Write
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.settle_lockout import TELL_AGAIN_AFTER, Settlement, enforces, load
from keyvigil.use_cases.telling import Telling

_FREE = frozenset({ClusterStatus.ACTIVE, ClusterStatus.PENDING_KEY})


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlan:
    """What a recovery does now, and to which clusters."""

    decision: RecoveryDecision
    cluster_ids: tuple[str, ...] = ()


class DecideRecovery:
    """Decides, once a key's recovery is proved, which clusters are to be unlocked."""

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._telling = Telling(clock, ids)

    def __call__(self, project_id: str, key_id: str, incident_id: str) -> RecoveryPlan:
        """Decide, and write the decision to the incident before anything is unlocked."""
        return until_committed(self._decide, project_id, key_id, incident_id)

    def _decide(self, project_id: str, key_id: str, incident_id: str) -> RecoveryPlan:
        incident, key = load(self._store, project_id, key_id, incident_id)
        project = self._store.project(project_id)
        if project is None:
            message = f"project {project_id} does not exist"
            raise NotFoundError(message)
        held = held_by(incident, self._store.clusters_of_key(project_id, key_id))
        decision = decide_recovery(incident, key, project, holds_clusters=bool(held))
        if decision.verb is not RecoveryVerb.UNLOCK:
            return RecoveryPlan(decision=decision)
        if incident.status is not IncidentStatus.UNLOCKING:
            detail = f"{len(held)} clusters to unlock: {decision.reason}"
            begun = replace(incident, status=IncidentStatus.UNLOCKING, clusters=affected(held) or incident.clusters)
            self._store.commit([Put(begun), self._telling.entry(incident_id, "recovery.begun", detail)])
        return RecoveryPlan(decision=decision, cluster_ids=tuple(each.cluster_id for each in held))


class SettleRecovery:
    """Ends a recovery: the incident is RESOLVED when none of its clusters is locked any more."""

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._telling = Telling(clock, ids)

    def __call__(self, project_id: str, key_id: str, incident_id: str) -> Settlement:
        """Settle an incident. Settling it again changes nothing."""
        return until_committed(self._settle, project_id, key_id, incident_id)

    def _settle(self, project_id: str, key_id: str, incident_id: str) -> Settlement:
        incident, key = load(self._store, project_id, key_id, incident_id)
        if not incident.is_open or incident.status is IncidentStatus.LOCKING:
            return Settlement(status=incident.status, failed=())
        clusters = self._store.clusters_of_key(project_id, key_id)
        left = held_by(incident, clusters)
        enforced = enforces(self._store, project_id)
        healthy = key.health.status is KeyStatus.HEALTHY
        broken = enforced and not healthy and not incident.is_dismissed
        if broken and key.open_incident_id == incident_id:
            return self._take_up(incident)
        if broken and left:
            # A later incident of the key is under way; it takes these clusters over, or its recovery frees them.
            return Settlement(status=incident.status, failed=())
        if left:
            return self._tell_failure(incident, key, left)
        over = healthy or key.open_incident_id != incident_id or (enforced and not incident.is_dismissed)
        return self._end(incident, key, clusters, over=over)

    def _take_up(self, incident: Incident) -> Settlement:
        """The project enforces again while the key is still broken: back to where a lockout begins."""
        if incident.status is IncidentStatus.UNLOCKING:
            after = replace(incident, status=IncidentStatus.CONFIRMING)
            entry = self._telling.entry(
                incident.incident_id, "incident.taken_up_again", "the project enforces and the key is still broken"
            )
            self._store.commit([Put(after), entry])
            return Settlement(status=after.status, failed=())
        return Settlement(status=incident.status, failed=())

    def _tell_failure(self, incident: Incident, key: Key, left: list[Cluster]) -> Settlement:
        failed = tuple(each.cluster_id for each in left)
        now, told = self._clock.now(), incident.unlock_failure_told_at
        detail = f"still locked: {listed(failed)}"
        writes: list[Write] = [self._telling.entry(incident.incident_id, "incident.unlock_failed", detail)]
        if told is None or now - told >= TELL_AGAIN_AFTER:
            after = replace(incident, unlock_failure_told_at=now, clusters_told=True)
            row, numbered = self._telling.alert(AlertType.CLUSTER_UNLOCK_FAILED, key, after, left)
            writes += [Put(after), row, Put(numbered)]
        self._store.commit(writes)
        return Settlement(status=incident.status, failed=failed)

    def _end(self, incident: Incident, key: Key, clusters: list[Cluster], *, over: bool) -> Settlement:
        """Nothing is locked for the incident any more: it is RESOLVED, or goes on OBSERVED or DISMISSED."""
        now = self._clock.now()
        left_as = IncidentStatus.DISMISSED if incident.is_dismissed else IncidentStatus.OBSERVED
        if not over and incident.status is left_as:
            return Settlement(status=left_as, failed=())
        before = {each.cluster_id: each.status for each in incident.clusters}
        mine = [each for each in clusters if each.cluster_id in before]
        unlocked = [
            each for each in mine if each.status is ClusterStatus.ACTIVE and before[each.cluster_id] not in _FREE
        ]
        after = replace(
            incident,
            status=IncidentStatus.RESOLVED if over else left_as,
            resolved_at=now if over else None,
            held_for=None,
            clusters=affected(mine),
            clusters_told=False,
        )
        numbered, writes = key, [Put(after)]
        if incident.clusters_told:
            # Also if a later incident took the clusters over: what this one told as firing is over.
            row, numbered = self._telling.alert(AlertType.CLUSTER_UNLOCKED, numbered, after, unlocked)
            writes.append(row)
        if over and key.open_incident_id == incident.incident_id:
            numbered = replace(numbered, open_incident_id=None)
        if numbered != key:
            writes.append(Put(numbered))
        what = "incident.resolved" if over else f"incident.{left_as.lower()}"
        reason = "a person dismissed the incident" if incident.is_dismissed else "the project only observes"
        why = "" if over else f", because {reason}"
        entry = self._telling.entry(incident.incident_id, what, f"{len(unlocked)} clusters are in use again{why}")
        self._store.commit([*writes, entry])
        return Settlement(status=after.status, failed=())
