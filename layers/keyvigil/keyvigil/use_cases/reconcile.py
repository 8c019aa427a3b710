"""Compare what should be with what is, every minute, and mend it idempotently."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import assert_never

from keyvigil.domain.alerts import OutboxRow, WorkflowStart
from keyvigil.domain.incidents import (
    Incident,
    Mending,
    TimelineEntry,
    WorkflowKind,
    ask_execution,
    decide_mending,
)
from keyvigil.errors import ConflictError, DeliveryError, NotFoundError
from keyvigil.ports import Clock, Ids, OutboxRelay, Put, Store, Workflow
from keyvigil.use_cases.lock_clusters import FailOverdueLock, SettleLockout
from keyvigil.use_cases.unlock_clusters import SettleRecovery

UNSENT_AFTER = timedelta(seconds=30)
"""How old an unsent row must be before it is sent again: the stream needs a second or two for the first try."""


@dataclass(kw_only=True)
class ReconcileReport:
    """What was found and mended, and what could not be."""

    rows_resent: int = 0
    overdue_failed: int = 0
    mended: list[tuple[str, Mending, str]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)


class Reconcile:
    """Finds what nobody is working on. One thing that cannot be mended does not keep the rest from being."""

    def __init__(
        self,
        store: Store,
        workflow: Workflow,
        relay: OutboxRelay,
        fail_overdue: FailOverdueLock,
        settle_lockout: SettleLockout,
        settle_recovery: SettleRecovery,
        clock: Clock,
        ids: Ids,
        *,
        confirmation_probes: int,
    ) -> None:
        """Keep the ports, and the use cases that mend."""
        self._store = store
        self._workflow = workflow
        self._relay = relay
        self._fail_overdue = fail_overdue
        self._settle_lockout = settle_lockout
        self._settle_recovery = settle_recovery
        self._clock = clock
        self._ids = ids
        self._probes = confirmation_probes

    def __call__(self) -> ReconcileReport:
        """Mend what needs mending; report it."""
        report = ReconcileReport()
        now = self._clock.now()
        rows = self._store.unsent_rows(now - UNSENT_AFTER)
        if rows:
            try:
                self._relay.resend(rows)
                report.rows_resent = len(rows)
            except DeliveryError as error:
                report.errors.append(("outbox", str(error)))
        for project_id, cluster_id in self._store.overdue_clusters(now):
            try:
                report.overdue_failed += self._fail_overdue(project_id, cluster_id)
            except (DeliveryError, NotFoundError) as error:
                report.errors.append((f"{project_id}/{cluster_id}", str(error)))
        for project_id, incident_id in self._store.open_incidents():
            try:
                self._mend(project_id, incident_id, report)
            except (ConflictError, DeliveryError, NotFoundError) as error:
                report.errors.append((incident_id, str(error)))
        return report

    def _mend(self, project_id: str, incident_id: str, report: ReconcileReport) -> None:
        incident = self._store.incident(project_id, incident_id)
        project = self._store.project(project_id)
        if incident is None or project is None:
            return
        key = self._store.key(project_id, incident.key_id)
        if key is None:
            return
        clusters = self._store.clusters_of_key(project_id, incident.key_id)
        decision = decide_mending(incident, key, project, clusters, probes=self._probes, now=self._clock.now())
        if decision.mending is Mending.NONE:
            return
        if incident.executions and self._workflow.is_running(incident.executions[-1]):
            return
        match decision.mending:
            case Mending.START_LOCKOUT:
                self._ask(incident, WorkflowKind.LOCKOUT, decision.reason)
            case Mending.START_RECOVERY:
                self._ask(incident, WorkflowKind.RECOVERY, decision.reason)
            case Mending.SETTLE_LOCKOUT:
                self._settle_lockout(project_id, incident.key_id, incident_id)
            case Mending.RESOLVE:
                self._settle_recovery(project_id, incident.key_id, incident_id)
            case _:
                assert_never(decision.mending)
        report.mended.append((incident_id, decision.mending, decision.reason))

    def _ask(self, incident: Incident, kind: WorkflowKind, reason: str) -> None:
        now = self._clock.now()
        after, name = ask_execution(incident, kind, now)
        start = WorkflowStart(
            workflow=kind,
            name=name,
            project_id=incident.project_id,
            key_id=incident.key_id,
            incident_id=incident.incident_id,
        )
        row = OutboxRow(row_id=self._ids.ulid(), project_id=incident.project_id, created_at=now, workflow_start=start)
        entry = TimelineEntry(
            incident_id=incident.incident_id,
            entry_id=self._ids.ulid(),
            at=now,
            what="incident.taken_up_again",
            detail=f"{name} was asked for: {reason}",
        )
        self._store.commit([Put(after), Put(row), Put(entry)])
