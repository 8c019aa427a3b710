"""The workflows' steps, from a confirmed outage to clusters in use again."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from keyvigil.domain.alerts import AlertType
from keyvigil.domain.brake import BrakeSettings
from keyvigil.domain.clusters import (
    Answer,
    AnswerDecision,
    Cluster,
    ClusterStatus,
    LockAction,
    LockResult,
    LockSettings,
    LockVia,
)
from keyvigil.domain.incidents import Decision, Incident, IncidentStatus, LockoutVerb, RecoveryVerb, TimelineEntry
from keyvigil.domain.keys import Health, KeyStatus
from keyvigil.domain.projects import Enforcement
from keyvigil.domain.verdicts import Cause
from keyvigil.errors import DeliveryError, NotFoundError
from keyvigil.use_cases.braking import AskBrake
from keyvigil.use_cases.decide_incident import DecideIncident
from keyvigil.use_cases.lock_clusters import DecideLockout, FailOverdueLock, RequestLock
from keyvigil.use_cases.record_lock_result import LockAnswer, RecordLockResult
from keyvigil.use_cases.settle_lockout import SettleLockout
from keyvigil.use_cases.unlock_clusters import DecideRecovery, SettleRecovery
from tests.examples import KEY_ID, NOW, cluster, incident, key, project, verdict
from tests.fakes import CountingIds, FakeClock, FakeWorkflow, MemoryStore, changed

INCIDENT = "01JINCIDENT"
IDS = ("acme-prod", KEY_ID, INCIDENT)
BROKEN = Health(
    status=KeyStatus.UNHEALTHY,
    failing_streak=3,
    definite_streak=3,
    failing_since=NOW - timedelta(minutes=1),
    counted_at=NOW,
    confirmed=True,
)
NONE = LockSettings(via=LockVia.NONE)


class World:
    """A key whose outage is confirmed, with one cluster locked by event and one in the registry alone."""

    def __init__(self) -> None:
        self.store, self.clock, self.workflow = MemoryStore(), FakeClock(NOW), FakeWorkflow()
        ids = CountingIds()
        self.store.put(
            project(),
            key(health=BROKEN, verdict=verdict(Cause.KEY_DISABLED), open_incident_id=INCIDENT, clusters=2),
            incident(confirmed_at=NOW),
            cluster(cluster_id="analytics", lock=NONE),
            cluster(cluster_id="vectors"),
        )
        self.record = RecordLockResult(
            self.store, self.workflow, SettleLockout(self.store, self.clock, ids), self.clock, ids
        )
        self.decide = DecideLockout(
            self.store,
            AskBrake(self.store, self.clock, BrakeSettings()),
            self.clock,
            ids,
            confirmation_probes=3,
        )
        self.request = RequestLock(self.store, self.workflow, self.record, self.clock, ids)
        self.settle = SettleLockout(self.store, self.clock, ids)
        self.decide_recovery = DecideRecovery(self.store, self.clock, ids)
        self.settle_recovery = SettleRecovery(self.store, self.clock, ids)
        self.fail_overdue = FailOverdueLock(self.store, self.record, self.clock)

    def cluster(self, cluster_id: str = "vectors") -> Cluster:
        found = self.store.cluster("acme-prod", cluster_id)
        assert found is not None
        return found

    def incident(self) -> Incident:
        found = self.store.incident("acme-prod", INCIDENT)
        assert found is not None
        return found

    def answer(self, result: LockResult, *, fence: int | None = None, cluster_id: str = "vectors") -> AnswerDecision:
        newest = self.cluster(cluster_id).fence
        return self.record(
            LockAnswer(
                project_id="acme-prod",
                cluster_id=cluster_id,
                fence=newest if fence is None else fence,
                result=result,
                detail=None,
                by="its control plane",
            )
        )

    def ask(self, action: LockAction, cluster_id: str = "vectors", token: str = "token") -> str:  # noqa: S107  a step's token
        return self.request(action, "acme-prod", cluster_id, INCIDENT, token)

    def lock_all(self) -> None:
        self.decide(*IDS)
        self.ask(LockAction.LOCK, "analytics", "token-a")
        self.ask(LockAction.LOCK, "vectors", "token-v")
        self.answer(LockResult.LOCKED)
        self.settle(*IDS)

    def mend_key(self, **fields: object) -> None:
        found = self.store.key("acme-prod", KEY_ID)
        mended = changed(found, health=Health(healthy_streak=3), verdict=verdict(), **fields)
        assert mended is not None
        self.store.put(mended)

    def alert_types(self) -> list[AlertType]:
        return [alert.type for alert in self.store.alerts()]


@pytest.fixture
def world() -> World:
    return World()


def test_a_confirmed_outage_locks_every_cluster_each_with_its_own_fence(world: World) -> None:
    plan = world.decide(*IDS)
    assert plan.decision.verb is LockoutVerb.LOCK
    assert plan.cluster_ids == ("analytics", "vectors")
    assert world.incident().status is IncidentStatus.LOCKING
    assert world.ask(LockAction.LOCK, "analytics", "token-a") == "requested"
    assert world.cluster("analytics").status is ClusterStatus.LOCKED
    assert world.ask(LockAction.LOCK, "vectors", "token-v") == "requested"
    assert world.cluster("vectors").status is ClusterStatus.LOCKING
    (message,) = world.store.lock_requests()
    assert (message.detail_type, message.fence) == ("Cluster Lock Requested", world.cluster().fence)
    assert world.answer(LockResult.LOCKED).answer is Answer.ACCEPTED
    assert world.workflow.completed == [("token-a", "locked"), ("token-v", "locked")]
    settlement = world.settle(*IDS)
    assert (settlement.status, settlement.failed) == (IncidentStatus.LOCKED, ())
    (alert,) = world.store.alerts()
    assert alert.type is AlertType.CLUSTER_LOCKED
    assert [each.cluster_id for each in alert.clusters] == ["analytics", "vectors"]


def test_a_step_that_is_invoked_again_with_its_token_asks_only_once(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK)
    fence = world.cluster().fence
    assert world.ask(LockAction.LOCK) == "requested"
    assert world.cluster().fence == fence
    assert len(world.store.lock_requests()) == 1


def test_a_retry_with_a_new_token_is_a_new_request_with_a_higher_fence(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK, token="first")
    fence = world.cluster().fence
    world.ask(LockAction.LOCK, token="second")
    assert world.cluster().fence > fence
    assert ("first", "superseded") in world.workflow.completed


def test_an_acknowledgement_that_comes_twice_is_recorded_once(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK)
    assert world.answer(LockResult.LOCKED).answer is Answer.ACCEPTED
    assert world.answer(LockResult.LOCKED).answer is Answer.REPEATED
    locked = [entry for entry in world.store.all(TimelineEntry) if entry.what == "cluster.locked"]
    assert len(locked) == 1


def test_an_acknowledgement_with_an_old_fence_changes_nothing(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK)
    assert world.answer(LockResult.LOCKED, fence=world.cluster().fence - 1).answer is Answer.STALE
    assert world.cluster().status is ClusterStatus.LOCKING
    assert world.workflow.completed == []


def test_a_late_acknowledgement_completes_a_partly_locked_incident(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK, "analytics", "token-a")
    world.ask(LockAction.LOCK, "vectors", "token-v")
    world.clock.advance(301)
    assert world.fail_overdue("acme-prod", "vectors")
    settlement = world.settle(*IDS)
    assert (settlement.status, settlement.failed) == (IncidentStatus.PARTLY_LOCKED, ("vectors",))
    assert world.alert_types() == [AlertType.CLUSTER_LOCKED, AlertType.CLUSTER_LOCK_FAILED]
    assert world.answer(LockResult.LOCKED).answer is Answer.ACCEPTED
    assert world.cluster().status is ClusterStatus.LOCKED
    assert world.incident().status is IncidentStatus.LOCKED


def test_a_lock_acknowledged_after_the_unlock_was_asked_for_does_nothing(world: World) -> None:
    world.lock_all()
    lock_fence = world.cluster().fence
    world.mend_key()
    world.decide_recovery(*IDS)
    world.ask(LockAction.UNLOCK, token="unlock")
    assert world.answer(LockResult.LOCKED, fence=lock_fence).answer is Answer.STALE
    assert world.cluster().status is ClusterStatus.UNLOCKING


def test_silence_is_failure_only_after_the_time_out(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK)
    world.clock.advance(299)
    assert not world.fail_overdue("acme-prod", "vectors")
    world.clock.advance(2)
    assert world.fail_overdue("acme-prod", "vectors")
    assert world.cluster().status is ClusterStatus.LOCK_FAILED
    assert ("token", "failed") in world.workflow.completed


def test_an_answer_is_kept_although_the_workflow_could_not_be_reached(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK)
    world.workflow.broken = True
    with pytest.raises(DeliveryError):
        world.answer(LockResult.LOCKED)
    assert world.cluster().status is ClusterStatus.LOCKED
    world.workflow.broken = False
    assert world.answer(LockResult.LOCKED).answer is Answer.REPEATED
    assert world.workflow.completed == [("token", "locked")]


def test_a_lock_that_could_not_even_be_asked_for_is_a_failed_lock(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK, "analytics", "token-a")
    settlement = world.settle(*IDS)
    assert settlement.failed == ("vectors",)
    assert world.cluster().status is ClusterStatus.LOCK_FAILED


def test_a_project_that_observes_is_told_and_nothing_is_locked(world: World) -> None:
    world.store.put(project(enforcement=Enforcement.OBSERVE))
    plan = world.decide(*IDS)
    assert plan.decision.verb is LockoutVerb.OBSERVE
    assert plan.cluster_ids == ()
    assert world.incident().status is IncidentStatus.OBSERVED
    assert world.cluster().status is ClusterStatus.ACTIVE


def test_an_ambiguous_cause_is_held_and_a_person_is_asked_once(world: World) -> None:
    slow = changed(BROKEN, failing_streak=6, definite_streak=0, failing_since=NOW - timedelta(minutes=3))
    world.store.put(key(health=slow, verdict=verdict(Cause.ACCESS_DENIED), open_incident_id=INCIDENT))
    world.decide(*IDS)
    plan = world.decide(*IDS)
    assert plan.decision.verb is LockoutVerb.HOLD
    assert world.incident().status is IncidentStatus.HELD
    assert world.incident().held_for == "approval"
    assert world.alert_types() == [AlertType.APPROVAL_NEEDED]


@pytest.mark.parametrize("status", [KeyStatus.RECOVERING, KeyStatus.HEALTHY])
def test_a_lock_is_not_asked_for_when_the_key_came_back_in_between(world: World, status: KeyStatus) -> None:
    world.decide(*IDS)
    world.store.put(key(health=changed(BROKEN, status=status), open_incident_id=INCIDENT))
    assert world.ask(LockAction.LOCK) == "outage_over"
    assert world.cluster().status is ClusterStatus.ACTIVE
    assert world.workflow.completed == [("token", "outage_over")]


@pytest.mark.parametrize("cause", [Cause.OWN_CREDENTIALS, Cause.TIMEOUT, None])
def test_a_lock_is_not_asked_for_when_nothing_is_known_of_the_key_any_more(world: World, cause: Cause | None) -> None:
    """The lockout was decided when the key was seen to fail; its last clusters come hours later."""
    world.decide(*IDS)
    assert world.ask(LockAction.LOCK, "analytics", "token-a") == "requested"
    last = Cause.KEY_DISABLED if cause is None else cause
    world.clock.advance(1800)
    probed = NOW if cause is None else world.clock.now()
    blind = key(health=BROKEN, verdict=verdict(last, probed), last_probed_at=probed, open_incident_id=INCIDENT)
    world.store.put(blind)
    assert world.ask(LockAction.LOCK) == "outage_not_seen"
    assert world.cluster().status is ClusterStatus.ACTIVE
    settlement = world.settle(*IDS)
    assert (settlement.status, settlement.failed) == (IncidentStatus.PARTLY_LOCKED, ("vectors",))
    assert world.cluster().detail == "the lock could not be asked for"


def test_a_cluster_that_waits_for_its_key_is_not_locked(world: World) -> None:
    world.store.put(cluster(cluster_id="new", status=ClusterStatus.PENDING_KEY))
    assert "new" not in world.decide(*IDS).cluster_ids
    assert world.ask(LockAction.LOCK, "new") == "pending_key"


def test_a_deleted_cluster_wakes_its_step(world: World) -> None:
    world.store.put(cluster(cluster_id="vectors", deleted_at=NOW))
    assert world.ask(LockAction.LOCK) == "deleted"
    assert world.workflow.completed == [("token", "deleted")]


def test_clusters_come_back_and_the_incident_is_resolved(world: World) -> None:
    world.lock_all()
    world.mend_key()
    plan = world.decide_recovery(*IDS)
    assert plan.decision.verb is RecoveryVerb.UNLOCK
    assert plan.cluster_ids == ("analytics", "vectors")
    before = world.cluster().fence
    world.ask(LockAction.UNLOCK, "analytics", "unlock-a")
    world.ask(LockAction.UNLOCK, "vectors", "unlock-v")
    assert world.cluster().fence > before
    world.answer(LockResult.UNLOCKED)
    settlement = world.settle_recovery(*IDS)
    assert (settlement.status, settlement.failed) == (IncidentStatus.RESOLVED, ())
    assert {world.cluster(each).status for each in ("analytics", "vectors")} == {ClusterStatus.ACTIVE}
    found = world.store.key("acme-prod", KEY_ID)
    assert found is not None
    assert found.open_incident_id is None
    assert world.alert_types() == [AlertType.CLUSTER_LOCKED, AlertType.CLUSTER_UNLOCKED]
    assert len({alert.dedup_key for alert in world.store.alerts()}) == 1


def test_an_unlock_that_fails_keeps_the_incident_open_and_is_told_at_once_and_then_hourly(world: World) -> None:
    world.lock_all()
    world.mend_key()
    for _ in range(4):
        world.decide_recovery(*IDS)
        world.ask(LockAction.UNLOCK, token=f"unlock-{world.clock.now()}")
        world.answer(LockResult.FAILED)
        assert world.settle_recovery(*IDS).status is IncidentStatus.UNLOCKING
        world.clock.advance(1300)
    assert world.alert_types().count(AlertType.CLUSTER_UNLOCK_FAILED) == 2
    world.decide_recovery(*IDS)
    world.ask(LockAction.UNLOCK, "analytics", "again-a")
    world.ask(LockAction.UNLOCK, "vectors", "again-v")
    world.answer(LockResult.UNLOCKED)
    assert world.settle_recovery(*IDS).status is IncidentStatus.RESOLVED


def test_a_key_that_breaks_again_meanwhile_unlocks_nothing_and_alarms_nobody_about_unlocking(world: World) -> None:
    world.lock_all()
    world.mend_key()
    world.decide_recovery(*IDS)
    world.store.put(key(health=Health(status=KeyStatus.SUSPECT), open_incident_id="01JLATER"))
    assert world.ask(LockAction.UNLOCK, token="unlock") == "outage_again"
    assert world.cluster().status is ClusterStatus.LOCKED
    world.settle_recovery(*IDS)
    assert AlertType.CLUSTER_UNLOCK_FAILED not in world.alert_types()


def test_a_person_can_let_in_what_an_earlier_incident_left_locked_although_the_key_broke_again(world: World) -> None:
    """The later incident has locked nothing, so that dismissing it unlocks nothing."""
    world.lock_all()
    world.mend_key()
    world.store.put(changed(world.incident(), recovered_at=NOW))
    world.decide_recovery(*IDS)
    dismissed = incident(incident_id="01JLATER", status=IncidentStatus.DISMISSED)
    world.store.put(key(health=BROKEN, verdict=verdict(Cause.KEY_DISABLED), open_incident_id="01JLATER"), dismissed)
    person = DecideIncident(world.store, world.clock, CountingIds())
    person("acme-prod", INCIDENT, Decision.DISMISS, reason="a false alarm", by="arn:eve")
    for each in world.decide_recovery(*IDS).cluster_ids:
        world.ask(LockAction.UNLOCK, each, f"unlock-{each}")
    world.answer(LockResult.UNLOCKED)
    assert world.settle_recovery(*IDS).status is IncidentStatus.RESOLVED
    assert {world.cluster(each).status for each in ("analytics", "vectors")} == {ClusterStatus.ACTIVE}


def test_a_later_incident_takes_a_locked_cluster_over_and_the_earlier_one_lets_go(world: World) -> None:
    world.lock_all()
    world.store.put(
        key(health=BROKEN, verdict=verdict(Cause.KEY_DISABLED), open_incident_id="01JLATER"),
        incident(incident_id="01JLATER", confirmed_at=NOW, status=IncidentStatus.LOCKING),
    )
    assert world.request(LockAction.LOCK, "acme-prod", "vectors", "01JLATER", "later") == "requested"
    assert world.request(LockAction.LOCK, "acme-prod", "analytics", "01JLATER", "later-a") == "requested"
    assert world.ask(LockAction.UNLOCK, token="earlier") == "superseded"
    assert world.settle_recovery(*IDS).status is IncidentStatus.RESOLVED
    found = world.store.key("acme-prod", KEY_ID)
    assert found is not None
    assert found.open_incident_id == "01JLATER"


def test_a_project_that_stops_enforcing_is_unlocked_and_goes_on_observing(world: World) -> None:
    world.lock_all()
    world.store.put(project(enforcement=Enforcement.OBSERVE))
    plan = world.decide_recovery(*IDS)
    assert plan.decision.verb is RecoveryVerb.UNLOCK
    world.ask(LockAction.UNLOCK, "analytics", "unlock-a")
    world.ask(LockAction.UNLOCK, "vectors", "unlock-v")
    world.answer(LockResult.UNLOCKED)
    assert world.settle_recovery(*IDS).status is IncidentStatus.OBSERVED


@pytest.mark.parametrize(
    "settle",
    [lambda world: world.settle, lambda world: world.settle_recovery],
    ids=["lockout", "recovery"],
)
def test_settling_again_tells_nobody_twice(world: World, settle: Callable[[World], SettleLockout]) -> None:
    world.lock_all()
    world.mend_key()
    world.decide_recovery(*IDS)
    world.ask(LockAction.UNLOCK, "analytics", "unlock-a")
    world.ask(LockAction.UNLOCK, "vectors", "unlock-v")
    world.answer(LockResult.UNLOCKED)
    world.settle_recovery(*IDS)
    told = world.alert_types()
    settle(world)(*IDS)
    assert world.alert_types() == told


def test_a_race_for_the_incident_is_decided_afresh(world: World) -> None:
    def resolve() -> None:
        found = world.incident()
        over = changed(found, status=IncidentStatus.RESOLVED, version=found.version + 1)
        world.store.items["incident", "acme-prod", INCIDENT] = over

    world.store.before_commit = resolve
    assert world.decide(*IDS).decision.verb is LockoutVerb.STOP
    assert world.incident().status is IncidentStatus.RESOLVED


def test_an_answer_for_an_unknown_cluster_is_refused(world: World) -> None:
    with pytest.raises(NotFoundError):
        world.record(
            LockAnswer(
                project_id="acme-prod", cluster_id="nobody", fence=1, result=LockResult.LOCKED, detail=None, by="x"
            )
        )


def test_a_lock_that_still_has_time_is_not_failed_by_settling(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK, "analytics", "token-a")
    world.ask(LockAction.LOCK, "vectors", "token-v")
    assert world.settle(*IDS).status is IncidentStatus.LOCKING
    assert world.cluster().status is ClusterStatus.LOCKING
    world.answer(LockResult.LOCKED)
    assert world.settle(*IDS).status is IncidentStatus.LOCKED


def test_a_late_lock_is_told_too(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK, "analytics", "token-a")
    world.ask(LockAction.LOCK, "vectors", "token-v")
    world.clock.advance(301)
    world.fail_overdue("acme-prod", "vectors")
    world.settle(*IDS)
    world.answer(LockResult.LOCKED)
    locked = [alert for alert in world.store.alerts() if alert.type is AlertType.CLUSTER_LOCKED]
    assert [[each.cluster_id for each in alert.clusters] for alert in locked] == [["analytics"], ["vectors"]]


def test_a_failed_lock_is_tried_again_and_told_hourly(world: World) -> None:
    for attempt in range(4):
        assert world.decide(*IDS).decision.verb is LockoutVerb.LOCK
        world.ask(LockAction.LOCK, "analytics", f"a{attempt}")
        world.ask(LockAction.LOCK, "vectors", f"v{attempt}")
        world.answer(LockResult.FAILED)
        assert world.settle(*IDS).status is IncidentStatus.PARTLY_LOCKED
        world.clock.advance(1300)
    types = world.alert_types()
    assert types.count(AlertType.CLUSTER_LOCK_FAILED) == 2
    assert types.count(AlertType.CLUSTER_LOCKED) == 1


def test_a_project_that_turns_to_observing_in_mid_lockout_has_no_failed_locks(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK, "analytics", "token-a")
    world.store.put(project(enforcement=Enforcement.OBSERVE))
    assert world.ask(LockAction.LOCK, "vectors", "token-v") == "outage_over"
    assert world.settle(*IDS).failed == ()
    assert world.cluster().status is ClusterStatus.ACTIVE
    assert AlertType.CLUSTER_LOCK_FAILED not in world.alert_types()


def test_a_project_that_enforces_again_before_all_was_unlocked_is_locked_again(world: World) -> None:
    world.lock_all()
    world.store.put(project(enforcement=Enforcement.OBSERVE))
    world.decide_recovery(*IDS)
    world.ask(LockAction.UNLOCK, "analytics", "unlock-a")
    world.ask(LockAction.UNLOCK, "vectors", "unlock-v")
    world.store.put(project())
    world.answer(LockResult.FAILED)
    assert world.settle_recovery(*IDS).status is IncidentStatus.CONFIRMING
    assert world.decide(*IDS).decision.verb is LockoutVerb.LOCK


def test_what_was_never_locked_is_not_told_as_unlocked(world: World) -> None:
    world.store.put(project(enforcement=Enforcement.OBSERVE))
    world.decide(*IDS)
    world.mend_key()
    world.decide_recovery(*IDS)
    assert world.settle_recovery(*IDS).status is IncidentStatus.RESOLVED
    assert world.alert_types() == []


def test_waiting_for_grace_asks_nobody_for_approval(world: World) -> None:
    world.store.put(project(grace_minutes=30))
    assert world.decide(*IDS).decision.verb is LockoutVerb.HOLD
    assert world.incident().held_for == "grace"
    assert world.alert_types() == []


def test_a_step_of_an_execution_that_died_locks_nothing_after_the_incident_moved_on(world: World) -> None:
    world.lock_all()
    world.store.put(cluster(cluster_id="vectors"))
    assert world.ask(LockAction.LOCK, token="straggler") == "incident_over"
    assert world.cluster().status is ClusterStatus.ACTIVE


@pytest.mark.parametrize("result", [LockResult.LOCKED, LockResult.FAILED])
def test_a_lock_that_was_written_after_the_end_of_its_incident_is_unlocked(world: World, result: LockResult) -> None:
    world.decide(*IDS)

    def recovered_meanwhile() -> None:
        world.mend_key(open_incident_id=None)
        found = changed(world.incident(), status=IncidentStatus.RESOLVED, recovered_at=NOW, resolved_at=NOW)
        assert found is not None
        world.store.put(found)

    world.store.before_commit = recovered_meanwhile
    assert world.ask(LockAction.LOCK, token="straggler") == "requested"
    world.answer(result)
    assert (world.incident().status, world.incident().resolved_at) == (IncidentStatus.UNLOCKING, None)
    assert [start.name for start in world.store.starts()] == [f"{INCIDENT}-unlock-1"]
    assert world.decide_recovery(*IDS).cluster_ids == ("vectors",)
    world.ask(LockAction.UNLOCK, token="unlock")
    world.answer(LockResult.UNLOCKED)
    assert world.settle_recovery(*IDS).status is IncidentStatus.RESOLVED
    assert world.cluster().status is ClusterStatus.ACTIVE


def test_what_an_incident_told_of_its_clusters_is_resolved_although_a_later_one_took_them_over(world: World) -> None:
    world.lock_all()
    world.store.put(
        key(health=BROKEN, verdict=verdict(Cause.KEY_DISABLED), open_incident_id="01JLATER"),
        incident(incident_id="01JLATER", confirmed_at=NOW, status=IncidentStatus.LOCKING),
    )
    world.request(LockAction.LOCK, "acme-prod", "vectors", "01JLATER", "later")
    world.request(LockAction.LOCK, "acme-prod", "analytics", "01JLATER", "later-a")
    world.settle_recovery(*IDS)
    resolved = world.store.alerts()[-1]
    assert (resolved.type, resolved.incident_id) == (AlertType.CLUSTER_UNLOCKED, INCIDENT)
    assert resolved.clusters == ()


def test_a_dismissed_lockout_is_unlocked_although_the_key_is_still_broken_and_stays_dismissed(world: World) -> None:
    world.lock_all()
    decide = DecideIncident(world.store, world.clock, CountingIds())
    decide("acme-prod", INCIDENT, Decision.DISMISS, reason="we rotate", by="arn:eve")
    assert [start.name for start in world.store.starts()] == [f"{INCIDENT}-unlock-1"]
    plan = world.decide_recovery(*IDS)
    assert plan.decision.verb is RecoveryVerb.UNLOCK
    for cluster_id in plan.cluster_ids:
        assert world.ask(LockAction.UNLOCK, cluster_id, f"unlock-{cluster_id}") == "requested"
    world.answer(LockResult.UNLOCKED)
    assert world.settle_recovery(*IDS).status is IncidentStatus.DISMISSED
    assert {world.cluster(each).status for each in ("analytics", "vectors")} == {ClusterStatus.ACTIVE}
    assert world.incident().is_open
    assert world.alert_types()[-1] is AlertType.CLUSTER_UNLOCKED
    assert world.decide(*IDS).decision.verb is LockoutVerb.STOP


def test_a_lock_is_not_asked_for_when_somebody_dismissed_the_incident_in_between(world: World) -> None:
    world.decide(*IDS)
    DecideIncident(world.store, world.clock, CountingIds())(
        "acme-prod", INCIDENT, Decision.DISMISS, reason="no", by="arn:eve"
    )
    assert world.ask(LockAction.LOCK) == "outage_over"
    world.settle(*IDS)
    assert world.cluster().status is ClusterStatus.ACTIVE


def test_the_settlement_that_finds_all_locked_says_how_long_after_the_opening(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK, "analytics", "token-a")
    world.ask(LockAction.LOCK, "vectors", "token-v")
    assert world.settle(*IDS).locked_after is None, "one still has time to answer"
    world.answer(LockResult.LOCKED)
    opened = world.store.incident("acme-prod", INCIDENT)
    assert opened is not None

    assert world.settle(*IDS).locked_after == world.clock.now() - opened.opened_at
    assert world.settle(*IDS).locked_after is None, "it is said once"


def test_a_lockout_that_failed_has_no_time_to_lockout(world: World) -> None:
    world.decide(*IDS)
    world.ask(LockAction.LOCK, "analytics", "token-a")
    world.ask(LockAction.LOCK, "vectors", "token-v")
    world.answer(LockResult.FAILED)

    settled = world.settle(*IDS)
    assert settled.failed
    assert settled.locked_after is None
