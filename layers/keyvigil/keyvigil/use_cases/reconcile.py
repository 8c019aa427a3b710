"""Compare what should be with what is, every minute, and mend it idempotently."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import Lock
from typing import assert_never

from keyvigil.domain.clusters import Cluster, answer_of
from keyvigil.domain.incidents import (
    Incident,
    IncidentStatus,
    Mending,
    MendingDecision,
    WorkflowKind,
    decide_mending,
    newest_executions,
    unheard,
)
from keyvigil.errors import DamagedItemError, NewerItemError, in_short
from keyvigil.ports import Clock, ExecutionState, Ids, OutboxRelay, Put, Store, Workflow
from keyvigil.use_cases.braking import AskBrake, BrakeView, Braking
from keyvigil.use_cases.lock_clusters import FailOverdueLock
from keyvigil.use_cases.settle_lockout import SettleLockout
from keyvigil.use_cases.taking_turns import turn
from keyvigil.use_cases.telling import Telling
from keyvigil.use_cases.unlock_clusters import SettleRecovery

UNSENT_AFTER = timedelta(seconds=30)
"""How old an unsent row must be before it is sent again: the stream needs a second or two for the first try."""

START_MAY_TAKE = timedelta(minutes=15)
"""How long a start that was asked for may wait in the outbox before another is asked for: while Step Functions does
not answer, every further one would start beside the first when it does again."""


ROWS_A_SWEEP = 1000
"""How many unsent rows one sweep asks for again: forty calls of the relay, with 25 rows each."""

CLUSTERS_A_SWEEP = 200
"""How many overdue answers one sweep fails. Each costs some ten requests to the table."""

INCIDENTS_A_SWEEP = 300
"""How many open incidents one sweep looks at. Each costs some six requests, so that is ten seconds at 5 ms each, one
after the other."""

INCIDENTS_AT_ONCE = 8
"""How many incidents a sweep looks at at the same time, where that is more than a few."""

FEW = 20
"""Up to so many incidents are looked at one after the other: a thread costs a client of the table, 20 ms of CPU."""


@dataclass(kw_only=True)
class ReconcileReport:
    """What was found and mended, and what could not be. `unreadable` counts the errors that no later sweep mends."""

    rows_resent: int = 0
    overdue_failed: int = 0
    brakes_released: int = 0
    mended: list[tuple[str, Mending, str]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    unreadable: int = 0


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
        ask_brake: AskBrake,
        braking: Braking,
        confirmation_probes: int,
        at_once: int = 1,
    ) -> None:
        """Keep the ports, and the use cases that mend; with more than one `at_once` they are used by threads."""
        self._at_once = at_once
        self._reporting = Lock()
        self._ask_brake = ask_brake
        self._braking = braking
        self._store = store
        self._workflow = workflow
        self._relay = relay
        self._fail_overdue = fail_overdue
        self._settle_lockout = settle_lockout
        self._settle_recovery = settle_recovery
        self._clock = clock
        self._telling = Telling(clock, ids)
        self._probes = confirmation_probes

    def __call__(self) -> ReconcileReport:
        """Mend what needs mending; report it."""
        report = ReconcileReport()
        now = self._clock.now()
        rows = turn(self._store.unsent_rows(now - UNSENT_AFTER), ROWS_A_SWEEP, now)
        if rows:
            self._each(report, "outbox", self._relay.resend, rows)
            report.rows_resent = len(rows)
        for project_id, cluster_id in turn(self._store.overdue_clusters(now), CLUSTERS_A_SWEEP, now):
            failed = self._each(report, f"{project_id}/{cluster_id}", self._fail_overdue, project_id, cluster_id)
            report.overdue_failed += bool(failed)
        released = self._each(report, "brake", self._braking.release_by_itself, self._ask_brake())
        report.brakes_released = len(released or ())
        view = self._ask_brake()
        self._look_at(turn(self._store.open_incidents(), INCIDENTS_A_SWEEP, now), view, report)
        return report

    def _look_at(self, incidents: Sequence[tuple[str, str]], view: BrakeView, report: ReconcileReport) -> None:
        """Look at each; no incident's mending depends on another's, but for the brake, which is asked beforehand."""

        def look(named: tuple[str, str]) -> None:
            project_id, incident_id = named
            self._each(report, incident_id, self._mend, project_id, incident_id, view, report)

        if self._at_once == 1 or len(incidents) <= FEW:
            for named in incidents:
                look(named)
            return
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="mend") as threads:
            list(threads.map(look, incidents))

    def _each[**P, T](
        self, report: ReconcileReport, subject: str, mend: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """Do one thing, and report it if it fails: no tenant's trouble keeps the others from being mended."""
        try:
            return mend(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  whatever it is, the next one must have its turn
            with self._reporting:
                report.errors.append((subject, in_short(error)))
                report.unreadable += isinstance(error, NewerItemError | DamagedItemError)
            return None

    def _mend(self, project_id: str, incident_id: str, view: BrakeView, report: ReconcileReport) -> None:
        incident = self._store.incident(project_id, incident_id)
        project = self._store.project(project_id)
        if incident is None:
            return
        now = self._clock.now()
        key = self._store.key(project_id, incident.key_id)
        if key is None or project is None:
            over = replace(incident, status=IncidentStatus.RESOLVED, resolved_at=now, held_for=None)
            entry = self._telling.entry(incident_id, "incident.resolved", "its key is not under watch any more")
            self._store.commit([Put(over), entry])
            return
        clusters = self._store.clusters_of_key(project_id, incident.key_id)
        brake = view.ask(incident, key).decision
        decision = decide_mending(incident, key, project, clusters, brake, probes=self._probes, now=now)
        waiting = unheard(incident, clusters, now)
        if decision.mending is Mending.NONE and not waiting:
            return
        states = {self._workflow.state(name) for name in newest_executions(incident)}
        if ExecutionState.RUNNING in states:
            self._wake(incident, waiting, report)
            return
        if decision.mending is Mending.NONE or (ExecutionState.NOT_STARTED in states and _is_on_its_way(incident, now)):
            return
        self._carry_out(decision, incident)
        report.mended.append((incident_id, decision.mending, decision.reason))

    def _carry_out(self, decision: MendingDecision, incident: Incident) -> None:
        where = incident.project_id, incident.key_id, incident.incident_id
        match decision.mending:
            case Mending.START_LOCKOUT:
                self._ask(incident, WorkflowKind.LOCKOUT, decision.reason)
            case Mending.START_RECOVERY:
                self._ask(incident, WorkflowKind.RECOVERY, decision.reason)
            case Mending.SETTLE_LOCKOUT:
                self._settle_lockout(*where)
            case Mending.SETTLE_RECOVERY:
                self._settle_recovery(*where)
            case Mending.NONE | Mending.WAKE:
                return
            case _:
                assert_never(decision.mending)

    def _wake(self, incident: Incident, waiting: list[Cluster], report: ReconcileReport) -> None:
        """Bring an execution the answers that may not have reached it."""
        for each in waiting:
            answer = answer_of(each)
            if answer is not None and each.task_token is not None:
                self._workflow.complete(each.task_token, answer, each.detail)
        if waiting:
            report.mended.append((incident.incident_id, Mending.WAKE, "all that it waits for was answered"))

    def _ask(self, incident: Incident, kind: WorkflowKind, reason: str) -> None:
        row, asked, name = self._telling.execution(incident, kind)
        detail = f"{name} was asked for: {reason}"
        self._store.commit(
            [Put(asked), row, self._telling.entry(incident.incident_id, "incident.taken_up_again", detail)]
        )


def _is_on_its_way(incident: Incident, now: datetime) -> bool:
    """Whether a start that was asked for may still be carried out."""
    asked = incident.execution_asked_at
    return asked is not None and now - asked < START_MAY_TAKE
