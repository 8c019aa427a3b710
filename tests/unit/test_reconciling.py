"""Whatever was left half done is found and mended within a sweep: a test for each thing that can be left.

Each was seen to go red when reconciling did not look for it (2026-11-23).
"""

from datetime import timedelta
from typing import Any

import pytest

from keyvigil.domain.clusters import Cluster, ClusterStatus
from keyvigil.domain.incidents import AffectedCluster, Incident, IncidentStatus, Mending, TimelineEntry, WorkflowKind
from keyvigil.domain.keys import Key
from keyvigil.domain.verdicts import Cause
from tests.examples import KEY_ID, NOW, cluster, incident, key, verdict
from tests.unit.test_outbox_and_reconciling import BROKEN, INCIDENT, World, alert_row

LOCKOUT, RECOVERY = f"{INCIDENT}-lock-1", f"{INCIDENT}-unlock-1"
AFFECTED = (AffectedCluster(cluster_id="vectors-prod", status=ClusterStatus.ACTIVE),)


class Left(World):
    """A world in which somebody stopped in the middle."""

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
    )


def counted(left: Left) -> dict[str, int]:
    """What reconciling left behind, by kind."""
    whats = [f"timeline {each.what}" for each in left.store.all(TimelineEntry)]
    rows = [f"row {row.alert.type if row.alert else 'start'}" for row in left.store.rows()]
    return {what: [*whats, *rows].count(what) for what in [*whats, *rows]}


def test_two_sweeps_one_after_the_other_do_nothing_twice(left: Left) -> None:
    everything(left)
    left.reconcile()
    once = counted(left)
    assert len(once) >= 4
    left.reconcile()
    assert counted(left) == once


@pytest.mark.parametrize("commit", range(3))
def test_two_sweeps_at_once_do_nothing_twice(left: Left, monkeypatch: pytest.MonkeyPatch, commit: int) -> None:
    """The second begins and ends while the first is about to write: before its first write, its second, and so on."""
    everything(left)
    alone = Left()
    everything(alone)
    alone.reconcile()
    real, made = left.store.commit, 0

    def commit_late(writes: Any) -> None:
        nonlocal made
        made += 1
        if made == commit + 1:
            left.reconcile()
        real(writes)

    monkeypatch.setattr(left.store, "commit", commit_late)
    left.reconcile()
    assert made > commit
    assert counted(left) == counted(alone)
