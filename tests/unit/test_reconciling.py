"""Whatever was left half done is found and mended within a sweep: a test for each thing that can be left.

Each was seen to go red when reconciling did not look for it (2026-11-23).
"""

import itertools
import threading
from datetime import timedelta
from typing import Any, override

import pytest

from keyvigil.domain.clusters import Cluster, ClusterStatus, LockAction, LockResult
from keyvigil.domain.incidents import AffectedCluster, Incident, IncidentStatus, Mending, TimelineEntry, WorkflowKind
from keyvigil.domain.keys import Health, Key, KeyStatus
from keyvigil.domain.projects import Enforcement
from keyvigil.domain.verdicts import Cause
from keyvigil.errors import DamagedItemError
from keyvigil.ports import Remove
from keyvigil.use_cases import open_shut_clusters
from keyvigil.use_cases.lock_clusters import RequestLock
from keyvigil.use_cases.open_shut_clusters import OpenShutClusters
from keyvigil.use_cases.record_lock_result import LockAnswer, RecordLockResult
from keyvigil.use_cases.settle_lockout import SettleLockout
from keyvigil.use_cases.stop_orphans import StopOrphans
from keyvigil.use_cases.unlock_clusters import DecideRecovery, SettleRecovery
from tests.examples import KEY_ID, NOW, cluster, incident, key, project, verdict
from tests.fakes import CountingIds
from tests.unit.test_outbox_and_reconciling import BROKEN, INCIDENT, World, alert_row

LOCKOUT, RECOVERY = f"{INCIDENT}-lock-1", f"{INCIDENT}-unlock-1"
AFFECTED = (AffectedCluster(cluster_id="vectors-prod", status=ClusterStatus.ACTIVE),)


class Later(CountingIds):
    """Ids beyond all that a world made itself."""

    _made = itertools.count(10_000)

    @override
    def ulid(self) -> str:
        return f"01J{next(self._made):023d}"


class Left(World):
    """A world in which somebody stopped in the middle."""

    def __init__(self, *, at_once: int = 1) -> None:
        super().__init__(at_once=at_once)
        self.open_shut = OpenShutClusters(self.store, self.clock, Later())
        self.stop_orphans = StopOrphans(self.store, self.workflow, self.clock)

    def broken_key(self) -> None:
        self.store.put(key(health=BROKEN, verdict=verdict(Cause.KEY_DISABLED), open_incident_id=INCIDENT, clusters=1))

    def healthy_key(self, **fields: Any) -> None:
        self.store.put(key(**({"open_incident_id": INCIDENT, "clusters": 1} | fields)))

    def incident(self, status: IncidentStatus, *executions: str, **fields: Any) -> None:
        known = {"confirmed_at": NOW, "executions": executions, "clusters": AFFECTED} | fields
        kinds = {"lockouts": int(LOCKOUT in executions), "recoveries": int(RECOVERY in executions)}
        asked = NOW if executions else None
        self.store.put(incident(status=status, execution_asked_at=asked, **(kinds | known)))

    def cluster(self, status: ClusterStatus, **fields: Any) -> None:
        free = status in {ClusterStatus.ACTIVE, ClusterStatus.PENDING_KEY}
        known = {"locked_by_incident_id": None if free else INCIDENT, "fence": 7, "task_token": "t"}
        self.store.put(cluster(status=status, **(known | fields)))

    @property
    def found_incident(self) -> Incident:
        found = self.store.incident("acme-prod", INCIDENT)
        assert found is not None
        return found

    @property
    def found_cluster(self) -> Cluster:
        found = self.store.cluster("acme-prod", "vectors-prod")
        assert found is not None
        return found

    @property
    def found_key(self) -> Key:
        found = self.store.key("acme-prod", KEY_ID)
        assert found is not None
        return found

    def mended(self, after_seconds: float = 0) -> list[Mending]:
        self.clock.advance(after_seconds)
        report = self.reconcile()
        assert report.errors == []
        return [mending for _, mending, _ in report.mended]


@pytest.fixture
def left() -> Left:
    return Left()


def test_a_confirmed_outage_without_an_execution_gets_one(left: Left) -> None:
    left.broken_key()
    left.incident(IncidentStatus.CONFIRMING)
    left.cluster(ClusterStatus.ACTIVE)
    assert left.mended() == [Mending.START_LOCKOUT]
    assert [start.workflow for start in left.store.starts()] == [WorkflowKind.LOCKOUT]
    (entry,) = left.store.all(TimelineEntry)
    assert entry.what == "incident.taken_up_again"


def test_locked_clusters_under_a_healthy_key_without_an_execution_get_one(left: Left) -> None:
    left.healthy_key()
    left.incident(IncidentStatus.LOCKED)
    left.cluster(ClusterStatus.LOCKED)
    assert left.mended() == [Mending.START_RECOVERY]
    assert [start.workflow for start in left.store.starts()] == [WorkflowKind.RECOVERY]


@pytest.mark.parametrize(
    ("under_way", "failed"),
    [
        (ClusterStatus.LOCKING, ClusterStatus.LOCK_FAILED),
        (ClusterStatus.UNLOCKING, ClusterStatus.UNLOCK_FAILED),
    ],
)
def test_a_cluster_past_its_time_out_has_failed_and_its_step_is_woken(
    left: Left, under_way: ClusterStatus, failed: ClusterStatus
) -> None:
    left.broken_key()
    left.incident(IncidentStatus.LOCKING, LOCKOUT)
    left.cluster(under_way, respond_by=NOW + timedelta(seconds=300))
    assert left.reconcile().overdue_failed == 0
    left.clock.advance(300)
    assert left.reconcile().overdue_failed == 1
    assert left.found_cluster.status is failed
    assert left.workflow.completed == [("t", "failed")]


def test_an_open_incident_of_a_healthy_key_ends(left: Left) -> None:
    left.healthy_key()
    left.incident(IncidentStatus.LOCKED)
    left.cluster(ClusterStatus.ACTIVE)
    assert left.mended() == [Mending.SETTLE_RECOVERY]
    assert left.found_incident.status is IncidentStatus.RESOLVED
    assert left.found_key.open_incident_id is None


def test_an_open_incident_of_a_key_or_project_that_is_not_there_any_more_ends(left: Left) -> None:
    """Nobody could end it otherwise: it would count as open for ever."""
    left.incident(IncidentStatus.DISMISSED)
    left.store.commit([Remove(found) for found in (left.store.project("acme-prod"),) if found is not None])
    left.mended()
    assert left.found_incident.status is IncidentStatus.RESOLVED
    assert left.store.open_incidents() == []


@pytest.mark.parametrize("at_once", [1, 8])
def test_many_incidents_are_looked_at_together_and_what_one_stumbles_over_is_told(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Left(at_once=at_once)
    for number in range(40):
        left.incident(IncidentStatus.LOCKED, incident_id=f"01J{number:02}", key_id=f"gone-{number}")
    read, met = left.store.incident, threading.Barrier(at_once)

    def together(project_id: str, incident_id: str) -> Incident | None:
        # Passed only where so many are looked at at the same time.
        met.wait(timeout=5)
        if incident_id == "01J07":
            message = "it has no shape"
            raise DamagedItemError(message)
        return read(project_id, incident_id)

    monkeypatch.setattr(left.store, "incident", together)
    report = left.reconcile()
    monkeypatch.undo()
    assert report.errors == [("01J07", "DamagedItemError: it has no shape")]
    assert report.unreadable == 1
    assert [incident_id for _, incident_id in left.store.open_incidents()] == ["01J07"]


def test_a_lockout_that_ended_without_settling_is_settled(left: Left) -> None:
    left.broken_key()
    left.incident(IncidentStatus.LOCKING, LOCKOUT)
    left.cluster(ClusterStatus.LOCKED)
    assert left.mended(after_seconds=90) == [Mending.SETTLE_LOCKOUT]
    assert left.found_incident.status is IncidentStatus.LOCKED


@pytest.mark.parametrize(
    ("status", "cluster_status", "execution", "answer"),
    [
        (IncidentStatus.LOCKING, ClusterStatus.LOCKED, LOCKOUT, "locked"),
        (IncidentStatus.LOCKING, ClusterStatus.LOCK_FAILED, LOCKOUT, "failed"),
        (IncidentStatus.UNLOCKING, ClusterStatus.ACTIVE, RECOVERY, "unlocked"),
    ],
)
def test_an_execution_that_did_not_hear_its_last_answer_is_told_again(
    left: Left, status: IncidentStatus, cluster_status: ClusterStatus, execution: str, answer: str
) -> None:
    """Whoever took the answer died between the table and the step, which would wait for 35 minutes."""
    left.broken_key()
    left.incident(status, execution)
    left.cluster(cluster_status)
    left.workflow.running = {execution}
    assert left.mended(after_seconds=29) == []
    assert left.mended(after_seconds=1) == [Mending.WAKE]
    assert left.workflow.completed == [("t", answer)]


def test_an_execution_that_still_waits_for_an_answer_is_not_woken(left: Left) -> None:
    left.broken_key()
    left.incident(
        IncidentStatus.LOCKING,
        LOCKOUT,
        clusters=(*AFFECTED, AffectedCluster(cluster_id="slow", status=ClusterStatus.ACTIVE)),
    )
    left.cluster(ClusterStatus.LOCKED)
    left.cluster(ClusterStatus.LOCKING, cluster_id="slow", respond_by=NOW + timedelta(seconds=1800))
    left.workflow.running = {LOCKOUT}
    assert left.mended(after_seconds=300) == []
    assert left.workflow.completed == []


def test_a_row_that_nobody_sent_is_sent_within_two_minutes(left: Left) -> None:
    left.store.put(alert_row())
    left.clock.advance(60)
    assert left.reconcile().rows_resent == 1
    left.relay(left.asked.asked)
    assert left.row("r1").sent_at is not None
    left.clock.advance(60)
    assert left.reconcile().rows_resent == 0


# --- clusters that nobody sees to any more -----------------------------------------------------------------------


def test_a_cluster_that_still_waits_for_a_key_that_works_is_let_in(left: Left) -> None:
    left.healthy_key(open_incident_id=None, pending_clusters=1)
    left.cluster(ClusterStatus.PENDING_KEY)
    left.clock.advance(59)
    assert left.open_shut().let_in == [], "whoever found the key healthy may be about to"
    left.clock.advance(1)
    assert left.open_shut().let_in == [("acme-prod", "vectors-prod")]
    assert left.found_cluster.status is ClusterStatus.ACTIVE
    assert left.found_key.pending_clusters == 0
    assert left.open_shut().let_in == []


@pytest.mark.parametrize(
    "health",
    [
        {"health": BROKEN, "verdict": verdict(Cause.KEY_DISABLED)},
        {"health": Health(status=KeyStatus.RECOVERING)},
        {"verdict": verdict(Cause.THROTTLED)},
    ],
    ids=["broken", "recovering", "unknown"],
)
def test_a_cluster_that_waits_for_a_key_that_is_not_proved_to_work_goes_on_waiting(
    left: Left, health: dict[str, Any]
) -> None:
    left.healthy_key(pending_clusters=1, **health)
    left.cluster(ClusterStatus.PENDING_KEY)
    left.clock.advance(3600)
    assert left.open_shut().let_in == []
    assert left.found_cluster.status is ClusterStatus.PENDING_KEY


SHUT_FOR_AN_INCIDENT = [ClusterStatus.LOCKED, ClusterStatus.LOCK_FAILED, ClusterStatus.UNLOCK_FAILED]


@pytest.mark.parametrize("status", SHUT_FOR_AN_INCIDENT)
@pytest.mark.parametrize("known", [True, False], ids=["resolved", "not there"])
def test_a_cluster_whose_incident_is_over_is_unlocked_by_the_incident_s_recovery(
    left: Left, status: ClusterStatus, *, known: bool
) -> None:
    left.healthy_key(open_incident_id=None)
    if known:
        left.incident(IncidentStatus.RESOLVED, resolved_at=NOW, recovered_at=NOW)
    left.cluster(status)
    left.clock.advance(60)
    assert left.open_shut().taken_up == [("acme-prod", "vectors-prod")]
    assert left.found_incident.status is IncidentStatus.LOCKED
    assert [(start.workflow, start.name) for start in left.store.starts()] == [(WorkflowKind.RECOVERY, RECOVERY)]
    assert left.found_cluster.status is status, "only the protocol unlocks, with a fence"
    assert left.open_shut().taken_up == [], "its incident is open again"
    recover(left)
    assert left.found_cluster.status is ClusterStatus.ACTIVE
    assert left.found_cluster.fence > 7
    assert left.found_incident.resolved_at is not None


def recover(left: Left) -> None:
    """What the recovery's execution does."""
    ids, clock, store = Later(), left.clock, left.store
    clock.advance(1)
    where = ("acme-prod", KEY_ID, INCIDENT)
    settle = SettleLockout(store, clock, ids)
    record = RecordLockResult(store, left.workflow, settle, clock, ids)
    (cluster_id,) = DecideRecovery(store, clock, Later())(*where).cluster_ids
    RequestLock(store, left.workflow, record, clock, Later())(LockAction.UNLOCK, "acme-prod", cluster_id, INCIDENT, "u")
    fence = left.found_cluster.fence
    answer = LockResult.UNLOCKED
    record(LockAnswer(project_id="acme-prod", cluster_id=cluster_id, fence=fence, result=answer, detail=None, by="it"))
    SettleRecovery(store, clock, Later())(*where)


@pytest.mark.parametrize(
    ("enforcement", "taken_up"), [(Enforcement.ENFORCE, 0), (Enforcement.OBSERVE, 1)], ids=["enforces", "observes"]
)
def test_a_cluster_whose_incident_is_over_stays_locked_under_a_broken_key_unless_the_project_only_observes(
    left: Left, enforcement: Enforcement, taken_up: int
) -> None:
    left.store.put(project(enforcement=enforcement))
    left.broken_key()
    left.incident(IncidentStatus.RESOLVED, resolved_at=NOW)
    left.cluster(ClusterStatus.LOCKED)
    left.clock.advance(60)
    assert len(left.open_shut().taken_up) == taken_up


def test_a_cluster_whose_incident_is_open_is_left_to_it(left: Left) -> None:
    left.healthy_key()
    left.incident(IncidentStatus.LOCKED)
    left.cluster(ClusterStatus.LOCKED)
    left.clock.advance(60)
    assert left.open_shut().taken_up == []


def test_a_sweep_looks_at_a_bounded_number_of_shut_clusters_and_the_next_ones_at_the_others(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_shut_clusters, "CLUSTERS_A_SWEEP", 2)
    left.healthy_key(open_incident_id=None, pending_clusters=5)
    for number in range(5):
        left.cluster(ClusterStatus.PENDING_KEY, cluster_id=f"c{number}")
    left.clock.advance(60)
    let_in = []
    for _ in range(4):
        let_in.append(len(left.open_shut().let_in))
        left.clock.advance(60)
    assert let_in == [2, 2, 1, 0]


def test_a_cluster_that_cannot_be_read_does_not_keep_the_next_from_being_let_in(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    left.healthy_key(open_incident_id=None, pending_clusters=2)
    left.cluster(ClusterStatus.PENDING_KEY, cluster_id="damaged")
    left.cluster(ClusterStatus.PENDING_KEY)
    read = left.store.cluster

    def damaged(project_id: str, cluster_id: str) -> Cluster | None:
        if cluster_id == "damaged":
            message = "it has no shape"
            raise DamagedItemError(message)
        return read(project_id, cluster_id)

    monkeypatch.setattr(left.store, "cluster", damaged)
    left.clock.advance(60)
    opened = left.open_shut()
    assert opened.let_in == [("acme-prod", "vectors-prod")]
    assert [subject for subject, _ in opened.errors] == ["acme-prod/damaged"]
    assert opened.unreadable == 1


# --- executions without an open incident --------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["resolved", "not there"])
def test_an_execution_whose_incident_is_over_is_stopped(left: Left, *, known: bool) -> None:
    if known:
        left.incident(IncidentStatus.RESOLVED, LOCKOUT, resolved_at=NOW)
    left.workflow.running = {LOCKOUT}
    left.clock.advance(120)
    assert left.stop_orphans().stopped == [LOCKOUT]
    assert left.workflow.stopped == [(LOCKOUT, "its incident is over")]
    assert left.stop_orphans().stopped == []


def test_an_execution_that_has_just_ended_its_incident_is_left_to_end_by_itself(left: Left) -> None:
    left.workflow.running = {RECOVERY}
    left.incident(IncidentStatus.RESOLVED, RECOVERY, resolved_at=NOW)
    left.clock.advance(119)
    assert left.stop_orphans().stopped == []


def test_an_execution_whose_incident_is_open_is_not_stopped_although_the_list_of_open_ones_lags_behind(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    left.incident(IncidentStatus.LOCKING, LOCKOUT)
    left.workflow.running = {LOCKOUT}
    left.clock.advance(600)
    assert left.stop_orphans().stopped == []
    monkeypatch.setattr(left.store, "open_incidents", list)
    assert left.stop_orphans().stopped == []


def test_an_execution_that_keyvigil_did_not_start_is_left_alone(left: Left) -> None:
    left.workflow.running = {LOCKOUT}
    left.workflow.projects = {LOCKOUT: None}
    left.clock.advance(600)
    assert left.stop_orphans().stopped == []


def test_while_step_functions_does_not_answer_nothing_is_stopped_and_the_sweep_says_so(left: Left) -> None:
    left.workflow.broken = True
    assert [subject for subject, _ in left.stop_orphans().errors] == ["executions"]


# --- again, and at once ---------------------------------------------------------------------------------------------


def everything(left: Left) -> None:
    """One of everything that reconciling writes."""
    left.broken_key()
    left.incident(IncidentStatus.CONFIRMING)
    left.cluster(ClusterStatus.ACTIVE)
    left.store.put(
        key(key_id="us-west-2.healthy", open_incident_id="01JB"),
        incident(incident_id="01JB", key_id="us-west-2.healthy", status=IncidentStatus.UNLOCKING, clusters_told=True),
        cluster(
            cluster_id="silent",
            key_id="us-west-2.healthy",
            status=ClusterStatus.LOCKING,
            locked_by_incident_id="01JC",
            respond_by=NOW,
            task_token="s",
        ),
        key(key_id="us-west-2.spare", pending_clusters=1),
        cluster(cluster_id="waits", key_id="us-west-2.spare", status=ClusterStatus.PENDING_KEY),
        cluster(
            cluster_id="forgotten",
            key_id="us-west-2.spare",
            status=ClusterStatus.LOCKED,
            locked_by_incident_id="01JGONE",
        ),
    )
    left.clock.advance(60)


def sweep(left: Left) -> None:
    left.reconcile()
    left.open_shut()
    left.stop_orphans()


def counted(left: Left) -> dict[str, int]:
    """What reconciling left behind, by kind."""
    whats = [f"timeline {each.what}" for each in left.store.all(TimelineEntry)]
    rows = [f"row {row.alert.type if row.alert else 'start'}" for row in left.store.rows()]
    return {what: [*whats, *rows].count(what) for what in [*whats, *rows]}


def test_two_sweeps_one_after_the_other_do_nothing_twice(left: Left) -> None:
    everything(left)
    sweep(left)
    once = counted(left)
    assert len(once) >= 5
    sweep(left)
    assert counted(left) == once


@pytest.mark.parametrize("commit", range(5))
def test_two_sweeps_at_once_do_nothing_twice(left: Left, monkeypatch: pytest.MonkeyPatch, commit: int) -> None:
    """The second begins and ends while the first is about to write: before its first write, its second, and so on."""
    everything(left)
    alone = Left()
    everything(alone)
    sweep(alone)
    real, made = left.store.commit, 0

    def commit_late(writes: Any) -> None:
        nonlocal made
        made += 1
        if made == commit + 1:
            sweep(left)
        real(writes)

    monkeypatch.setattr(left.store, "commit", commit_late)
    sweep(left)
    assert made > commit
    assert counted(left) == counted(alone)
