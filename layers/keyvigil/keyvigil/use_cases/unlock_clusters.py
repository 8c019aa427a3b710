"""The recovery workflow's steps: decide, and settle. Each unlock is asked for by `RequestLock`."""

from dataclasses import dataclass, replace
from datetime import timedelta

from keyvigil.domain.alerts import AlertType, OutboxRow, make_alert
from keyvigil.domain.incidents import (
    Incident,
    IncidentStatus,
    RecoveryDecision,
    RecoveryVerb,
    TimelineEntry,
    affected,
    decide_recovery,
    held_by,
)
from keyvigil.domain.keys import KeyStatus
from keyvigil.domain.projects import Enforcement
from keyvigil.errors import NotFoundError
from keyvigil.ports import Clock, Ids, Put, Store, Write
from keyvigil.use_cases.lock_clusters import Settlement, load
from keyvigil.use_cases.retrying import until_committed

TELL_AGAIN_AFTER = timedelta(hours=1)
"""Unlocks are retried until they succeed; a failure is told at once and then hourly."""


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
        self._clock = clock
        self._ids = ids

    def __call__(self, project_id: str, key_id: str, incident_id: str) -> RecoveryPlan:
        """Decide, and write the decision to the incident before anything is unlocked."""
        return until_committed(self._decide, project_id, key_id, incident_id)

    def _decide(self, project_id: str, key_id: str, incident_id: str) -> RecoveryPlan:
        incident, key = load(self._store, project_id, key_id, incident_id)
        project = self._store.project(project_id)
        if project is None:
            message = f"project {project_id} does not exist"
            raise NotFoundError(message)
        decision = decide_recovery(incident, key, project)
        if decision.verb is not RecoveryVerb.UNLOCK:
            return RecoveryPlan(decision=decision)
        held = held_by(incident, self._store.clusters_of_key(project_id, key_id))
        if incident.status is not IncidentStatus.UNLOCKING:
            entry = TimelineEntry(
                incident_id=incident_id,
                entry_id=self._ids.ulid(),
                at=self._clock.now(),
                what="recovery.begun",
                detail=f"{len(held)} clusters to unlock: {decision.reason}",
            )
            self._store.commit([Put(replace(incident, status=IncidentStatus.UNLOCKING)), Put(entry)])
        return RecoveryPlan(decision=decision, cluster_ids=tuple(each.cluster_id for each in held))


class SettleRecovery:
    """Ends a recovery: the incident is RESOLVED when none of its clusters is locked any more."""

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._ids = ids

    def __call__(self, project_id: str, key_id: str, incident_id: str) -> Settlement:
        """Settle an incident. Settling it again changes nothing."""
        return until_committed(self._settle, project_id, key_id, incident_id)

    def _settle(self, project_id: str, key_id: str, incident_id: str) -> Settlement:
        incident, key = load(self._store, project_id, key_id, incident_id)
        if not incident.is_open or incident.status is IncidentStatus.LOCKING:
            return Settlement(status=incident.status, failed=())
        now = self._clock.now()
        clusters = self._store.clusters_of_key(project_id, key_id)
        left = held_by(incident, clusters)
        mine = [each for each in clusters if each.cluster_id in {one.cluster_id for one in incident.clusters}]
        # A cluster that could not be asked is still LOCKED; one that was asked and failed says so itself.
        failed = tuple(each.cluster_id for each in left)
        if failed and key.health.status is not KeyStatus.HEALTHY and not self._observing(project_id):
            # The key broke again meanwhile: what is still locked stays so, and its next recovery unlocks it.
            return Settlement(status=incident.status, failed=())
        over = key.health.status is KeyStatus.HEALTHY or key.open_incident_id != incident_id
        after = replace(incident, clusters=affected(mine))
        was_locked = incident.status is IncidentStatus.UNLOCKING and bool(incident.clusters)
        numbered = key
        kind: AlertType | None = None
        if failed:
            what, detail = "incident.unlock_failed", f"still locked: {', '.join(failed)}"
            told = incident.unlock_failure_told_at
            if told is None or now - told >= TELL_AGAIN_AFTER:
                kind, after = AlertType.CLUSTER_UNLOCK_FAILED, replace(after, unlock_failure_told_at=now)
        elif over:
            after = replace(after, status=IncidentStatus.RESOLVED, resolved_at=now, held_for=None)
            kind = AlertType.CLUSTER_UNLOCKED if was_locked else None
            what, detail = "incident.resolved", f"{len(mine)} clusters are in use again"
            if key.open_incident_id == incident_id:
                numbered = replace(key, open_incident_id=None)
        else:
            after = replace(after, status=IncidentStatus.OBSERVED)
            kind = AlertType.CLUSTER_UNLOCKED if was_locked else None
            what, detail = "incident.observed", "unlocked because the project only observes"
        writes: list[Write] = [Put(after), Put(self._entry(incident, what, detail))]
        if kind is not None:
            alert, numbered = make_alert(
                kind,
                alert_id=self._ids.ulid(),
                key=numbered,
                incident=after,
                clusters=affected(left if failed else mine),
                occurred_at=now,
                detected_at=now,
            )
            writes.append(Put(OutboxRow(row_id=alert.alert_id, project_id=project_id, created_at=now, alert=alert)))
        if numbered != key:
            writes.append(Put(numbered))
        self._store.commit(writes)
        return Settlement(status=after.status, failed=failed)

    def _observing(self, project_id: str) -> bool:
        project = self._store.project(project_id)
        return project is not None and project.enforcement is Enforcement.OBSERVE

    def _entry(self, incident: Incident, what: str, detail: str) -> TimelineEntry:
        return TimelineEntry(
            incident_id=incident.incident_id,
            entry_id=self._ids.ulid(),
            at=self._clock.now(),
            what=what,
            detail=detail,
        )
