"""What leaves the table, and what finds it when it did not."""

from collections.abc import Sequence
from datetime import timedelta
from typing import override

import pytest

from keyvigil.domain.alerts import AlertType, OutboxRow, Target, WorkflowStart, lock_request, make_alert
from keyvigil.domain.brake import BrakeSettings
from keyvigil.domain.clusters import Cluster, ClusterStatus, LockAction, request
from keyvigil.domain.incidents import Incident, IncidentStatus, Mending, WorkflowKind
from keyvigil.domain.keys import Health, KeyStatus
from keyvigil.domain.verdicts import Cause
from keyvigil.errors import LONGEST_REASON, DamagedItemError, DeliveryError, NewerItemError, NotFoundError
from keyvigil.ports import CheckMessage, FindActorMessage
from keyvigil.use_cases import reconcile
from keyvigil.use_cases.braking import AskBrake, Braking
from keyvigil.use_cases.lock_clusters import FailOverdueLock
from keyvigil.use_cases.outbox_aside import OutboxAside
from keyvigil.use_cases.plan_sweep import PlanSweep
from keyvigil.use_cases.reconcile import Reconcile
from keyvigil.use_cases.record_lock_result import RecordLockResult
from keyvigil.use_cases.settle_lockout import SettleLockout
from keyvigil.use_cases.unlock_clusters import SettleRecovery
from tests.examples import KEY_ID, NOW, cluster, incident, key, project, verdict
from tests.fakes import (
    CountingIds,
    FakeClock,
    FakeNotifier,
    FakeQueue,
    FakeReceiverCalls,
    FakeRelay,
    FakeWorkflow,
    MemoryStore,
    changed,
)
from tests.unit.relaying import OPERATOR_TOPIC, relay_of

INCIDENT = "01JINCIDENT"


class World:
    """A table, and everything that reads its outbox."""

    def __init__(self, *, at_once: int = 1) -> None:
        self.store, self.clock, self.workflow = MemoryStore(), FakeClock(NOW), FakeWorkflow()
        self.notifier, self.asked, self.queue = FakeNotifier(), FakeRelay(), FakeQueue()
        ids = CountingIds()
        self.store.put(project())
        self.calls = FakeReceiverCalls()
        self.relay = relay_of(self.store, self.notifier, self.clock, workflow=self.workflow, calls=self.calls)
        record = RecordLockResult(
            self.store, self.workflow, SettleLockout(self.store, self.clock, ids), self.clock, ids
        )
        self.reconcile = Reconcile(
            self.store,
            self.workflow,
            self.asked,
            FailOverdueLock(self.store, record, self.clock),
            SettleLockout(self.store, self.clock, ids),
            SettleRecovery(self.store, self.clock, ids),
            self.clock,
            ids,
            ask_brake=AskBrake(self.store, self.clock, BrakeSettings()),
            braking=Braking(self.store, self.clock, ids),
            confirmation_probes=3,
            at_once=at_once,
        )
        self.sweep = PlanSweep(self.store, self.queue, self.queue, self.clock)

    def row(self, row_id: str) -> OutboxRow:
        found = self.store.outbox_row(row_id)
        assert found is not None
        return found


@pytest.fixture
def world() -> World:
    return World()


def alert_row(row_id: str = "r1") -> OutboxRow:
    alert, _ = make_alert(
        AlertType.KEY_UNHEALTHY,
        alert_id=row_id,
        key=key(verdict=verdict(Cause.KEY_DISABLED)),
        # Each of another outage: the same one twice is told once.
        incident=incident(incident_id=f"01J{row_id.upper()}"),
        clusters=(),
        occurred_at=NOW,
        detected_at=NOW,
    )
    return OutboxRow(row_id=row_id, project_id="acme-prod", created_at=NOW, alert=alert)


def start_row(row_id: str = "s1") -> OutboxRow:
    start = WorkflowStart(
        workflow=WorkflowKind.LOCKOUT,
        name=f"{INCIDENT}-lock-1",
        project_id="acme-prod",
        key_id=KEY_ID,
        incident_id=INCIDENT,
    )
    return OutboxRow(row_id=row_id, project_id="acme-prod", created_at=NOW, workflow_start=start)


def test_an_alert_goes_to_its_own_project_s_topic_and_to_the_bus(world: World) -> None:
    world.store.put(alert_row())
    result = world.relay(["r1"])
    assert (result.sent, result.failures) == (1, ())
    ((topic, alert),) = world.notifier.published
    assert topic == project().alert_topic_arn
    assert world.notifier.bus == [alert]
    assert world.row("r1").sent_at == NOW


def test_a_lock_request_that_is_answered_superseded_or_of_a_deleted_cluster_is_not_put_on_the_bus(world: World) -> None:
    """However late its row is relayed, and also from a backup of the table."""
    asked = request(cluster(), LockAction.LOCK, incident_id=INCIDENT, task_token="t", now=NOW)
    row = OutboxRow(row_id="l1", project_id="acme-prod", created_at=NOW, lock_request=lock_request(asked))
    over: tuple[Cluster | None, ...] = (
        changed(asked, fence=asked.fence + 1),
        changed(asked, status=ClusterStatus.LOCKED),
        changed(asked, status=ClusterStatus.LOCK_FAILED),
        None,
    )
    for now in over:
        world.store.put(row)
        world.store.items.pop(("cluster", "acme-prod", "vectors-prod"), None)
        if now is not None:
            world.store.put(now)
        assert world.relay(["l1"]).sent == 1
    assert world.notifier.requests == []
    world.store.put(row, asked)
    assert world.relay(["l1"]).sent == 1
    assert world.notifier.requests == [row.lock_request]


@pytest.mark.parametrize("project_id", ["acme-prod", None])
def test_an_alert_for_the_operator_goes_to_the_operator_s_topic_and_to_the_bus(
    world: World, project_id: str | None
) -> None:
    world.store.put(changed(alert_row(), for_operator=project_id is not None, project_id=project_id))
    assert world.relay(["r1"]).sent == 1
    assert [topic for topic, _ in world.notifier.published] == [OPERATOR_TOPIC]
    assert len(world.notifier.bus) == 1


def test_a_replay_sends_nothing_and_starts_nothing_twice(world: World) -> None:
    world.store.put(alert_row(), start_row())
    for _ in range(3):
        world.relay(["r1", "s1", "s1"])
    assert len(world.notifier.published) == 1
    assert len(world.notifier.bus) == 1
    assert world.workflow.starts == 1


def test_a_target_that_fails_is_retried_by_itself(world: World) -> None:
    world.store.put(alert_row())
    world.notifier.broken = {"topic"}
    result = world.relay(["r1"])
    assert result.sent == 0
    assert [(row_id, target) for row_id, target, _ in result.failures] == [("r1", Target.TOPIC)]
    assert world.row("r1").delivered == (Target.CHAT, Target.BUS)
    assert world.row("r1").sent_at is None
    world.notifier.broken = set()
    assert world.relay(["r1"]).sent == 1
    assert len(world.notifier.published) == 1
    assert len(world.notifier.bus) == 1


def test_a_project_that_asked_for_it_has_its_alerts_in_its_chat_channel_too(world: World) -> None:
    world.store.put(project(chat=True, version=1), alert_row())
    assert world.relay(["r1"]).sent == 1
    ((topic, told),) = world.notifier.chat
    assert topic == f"{project().alert_topic_arn}_chat"
    assert [told] == world.notifier.bus


def test_what_chat_does_not_take_is_sent_to_it_again_and_to_nobody_else(world: World) -> None:
    world.store.put(project(chat=True, version=1), alert_row())
    world.notifier.broken = {"chat"}
    assert [target for _, target, _ in world.relay(["r1"]).failures] == [Target.CHAT]
    world.notifier.broken = set()
    assert world.relay(["r1"]).sent == 1
    assert [len(each) for each in (world.notifier.published, world.notifier.chat, world.notifier.bus)] == [1, 1, 1]


def test_a_project_without_a_chat_channel_and_the_operator_get_nothing_there(world: World) -> None:
    for_operator = changed(alert_row("r2"), for_operator=True)
    world.store.put(alert_row(), for_operator)
    assert world.relay(["r1", "r2"]).sent == 2
    assert world.notifier.chat == []
    assert Target.CHAT not in for_operator.missing


def test_what_was_sent_before_there_were_chat_channels_is_not_sent_to_one_now(world: World) -> None:
    world.store.put(
        project(chat=True, version=1),
        changed(alert_row(), delivered=(Target.TOPIC, Target.BUS), sent_at=NOW),
    )
    world.relay(["r1"])
    assert world.notifier.chat == []


def test_one_row_that_fails_does_not_hold_up_the_others(world: World) -> None:
    world.store.put(start_row(), alert_row())
    world.workflow.broken = True
    result = world.relay(["s1", "r1"])
    assert result.sent == 1
    assert [target for _, target, _ in result.failures] == [Target.WORKFLOW]


def test_topics_failing_for_a_while_lose_no_alert(world: World) -> None:
    world.store.put(*(alert_row(f"r{number}") for number in range(5)))
    world.notifier.broken = {"topic", "bus"}
    for _ in range(10):
        world.relay([f"r{number}" for number in range(5)])
        world.clock.advance(60)
    world.notifier.broken = set()
    report = world.reconcile()
    assert report.rows_resent == 5
    assert world.relay(world.asked.asked).sent == 5
    assert world.store.unsent_rows(world.clock.now()) == []


def test_a_row_that_is_still_fresh_is_left_to_the_stream(world: World) -> None:
    world.store.put(alert_row())
    world.clock.advance(29)
    assert world.reconcile().rows_resent == 0
    world.clock.advance(1)
    assert world.reconcile().rows_resent == 1


def test_two_relays_at_once_deliver_at_least_once_and_mark_once(world: World) -> None:
    world.store.put(changed(alert_row(), judged="it begins"))
    world.store.before_commit = lambda: assert_sent(world)
    world.relay(["r1"])
    assert world.row("r1").sent_at is not None
    assert len(world.notifier.published) == 2


def assert_sent(world: World) -> None:
    assert world.relay(["r1"]).sent == 1


def test_a_sweep_sends_the_keys_that_are_due_and_no_others(world: World) -> None:
    world.store.put(
        key(key_id="due", due_at=NOW),
        key(key_id="overdue", due_at=NOW - timedelta(minutes=5)),
        key(key_id="later", due_at=NOW + timedelta(seconds=1)),
    )
    result = world.sweep()
    assert (result.keys_due, result.keys_sent) == (2, 2)
    assert [message.key_id for message in world.queue.messages] == ["overdue", "due"]
    last = world.store.last_sweep()
    assert last is not None
    assert (last.at, last.keys_due, last.keys_sent) == (NOW, 2, 2)


def test_two_sweeps_in_one_minute_are_one(world: World) -> None:
    world.store.put(key())
    world.clock.advance(1)
    assert world.sweep().claimed
    world.clock.advance(40)
    assert not world.sweep().claimed
    assert len(world.queue.messages) == 1
    world.clock.advance(20)
    assert world.sweep().claimed


def test_what_the_queue_refuses_stays_due(world: World) -> None:
    world.store.put(key(key_id="a"), key(key_id="b"))
    world.queue.room = 1
    result = world.sweep()
    assert (result.keys_due, result.keys_sent) == (2, 1)
    assert len(world.store.due_keys(NOW)) == 2


BROKEN = Health(
    status=KeyStatus.UNHEALTHY, failing_streak=3, definite_streak=3, failing_since=NOW, counted_at=NOW, confirmed=True
)


def test_a_lockout_that_died_before_it_locked_is_started_again(world: World) -> None:
    dead = incident(confirmed_at=NOW, executions=(f"{INCIDENT}-lock-1",), lockouts=1, execution_asked_at=NOW)
    world.store.put(
        dead,
        key(health=BROKEN, verdict=verdict(Cause.KEY_DISABLED), open_incident_id=INCIDENT),
        cluster(),
    )
    world.clock.advance(100)
    report = world.reconcile()
    assert [mending for _, mending, _ in report.mended] == [Mending.START_LOCKOUT]
    (start,) = world.store.starts()
    assert start.name == f"{INCIDENT}-lock-2"


def test_an_incident_with_a_running_execution_is_left_alone(world: World) -> None:
    world.store.put(
        incident(executions=(f"{INCIDENT}-lock-1",), execution_asked_at=NOW),
        key(health=BROKEN, verdict=verdict(Cause.KEY_DISABLED), open_incident_id=INCIDENT),
    )
    world.clock.advance(100)
    world.workflow.running = {f"{INCIDENT}-lock-1"}
    assert world.reconcile().mended == []


def test_clusters_that_are_still_locked_under_a_healthy_key_are_unlocked(world: World) -> None:
    world.store.put(
        incident(
            status=IncidentStatus.UNLOCKING,
            executions=(f"{INCIDENT}-unlock-1",),
            recoveries=1,
            execution_asked_at=NOW,
        ),
        key(open_incident_id=INCIDENT),
        cluster(status=ClusterStatus.UNLOCK_FAILED, locked_by_incident_id=INCIDENT),
    )
    world.clock.advance(100)
    world.reconcile()
    (start,) = world.store.starts()
    assert (start.workflow, start.name) == (WorkflowKind.RECOVERY, f"{INCIDENT}-unlock-2")


def test_a_lockout_that_died_before_settling_is_settled(world: World) -> None:
    world.store.put(
        changed(
            incident(status=IncidentStatus.LOCKING),
            clusters=(),
            executions=(f"{INCIDENT}-lock-1",),
            execution_asked_at=NOW,
        ),
        key(health=BROKEN, verdict=verdict(Cause.KEY_DISABLED), open_incident_id=INCIDENT),
    )
    world.clock.advance(100)
    world.reconcile()
    found = world.store.incident("acme-prod", INCIDENT)
    assert found is not None
    assert found.status is IncidentStatus.LOCKED


def test_a_lockout_that_died_is_settled_although_a_recovery_waits_for_that(world: World) -> None:
    world.store.put(
        changed(
            incident(status=IncidentStatus.LOCKING),
            executions=(f"{INCIDENT}-lock-1", f"{INCIDENT}-unlock-1"),
            execution_asked_at=NOW,
        ),
        key(health=Health(), open_incident_id=INCIDENT),
        cluster(status=ClusterStatus.LOCKED, locked_by_incident_id=INCIDENT),
    )
    world.workflow.running.add(f"{INCIDENT}-unlock-1")
    world.clock.advance(100)
    world.reconcile()
    found = world.store.incident("acme-prod", INCIDENT)
    assert found is not None
    assert found.status is IncidentStatus.LOCKED


@pytest.mark.parametrize("status", [ClusterStatus.UNLOCKING, ClusterStatus.UNLOCK_FAILED, ClusterStatus.ACTIVE])
def test_what_an_earlier_incident_did_not_unlock_in_time_is_locked_in_the_next_outage(
    world: World, status: ClusterStatus
) -> None:
    world.store.put(
        incident(status=IncidentStatus.LOCKED, confirmed_at=NOW),
        key(health=BROKEN, verdict=verdict(Cause.KEY_DISABLED), open_incident_id=INCIDENT),
        cluster(status=status, locked_by_incident_id="01JEARLIER" if status is not ClusterStatus.ACTIVE else None),
    )
    world.reconcile()
    assert [start.workflow for start in world.store.starts()] == [WorkflowKind.LOCKOUT]


def test_an_incident_whose_key_works_and_whose_clusters_are_free_is_resolved(world: World) -> None:
    world.store.put(incident(status=IncidentStatus.UNLOCKING), key(open_incident_id=INCIDENT), cluster())
    world.reconcile()
    found = world.store.incident("acme-prod", INCIDENT)
    assert found is not None
    assert found.status is IncidentStatus.RESOLVED


def test_one_thing_that_cannot_be_mended_does_not_keep_the_rest_from_being(world: World) -> None:
    world.workflow.broken = True
    world.store.put(
        cluster(status=ClusterStatus.LOCKING, respond_by=NOW, task_token="t", locked_by_incident_id=INCIDENT),
        incident(status=IncidentStatus.UNLOCKING),
        key(open_incident_id=INCIDENT),
    )
    report = world.reconcile()
    assert len(report.errors) == 1
    found = world.store.cluster("acme-prod", "vectors-prod")
    assert found is not None
    assert found.status is ClusterStatus.LOCK_FAILED


def test_an_execution_that_waits_is_not_settled_behind_its_back_by_a_newer_one_that_ended(world: World) -> None:
    executions = (f"{INCIDENT}-lock-1", f"{INCIDENT}-unlock-1")
    world.store.put(
        incident(status=IncidentStatus.LOCKING, executions=executions, execution_asked_at=NOW),
        key(health=BROKEN, verdict=verdict(Cause.KEY_DISABLED), open_incident_id=INCIDENT),
    )
    world.workflow.running = {executions[0]}
    world.clock.advance(100)
    assert world.reconcile().mended == []


def test_while_a_start_is_still_on_its_way_no_other_is_asked_for(world: World) -> None:
    name = f"{INCIDENT}-lock-1"
    world.store.put(
        incident(confirmed_at=NOW, executions=(name,), lockouts=1, execution_asked_at=NOW),
        key(health=BROKEN, verdict=verdict(Cause.KEY_DISABLED), open_incident_id=INCIDENT),
        cluster(),
    )
    world.workflow.not_started = {name}
    world.clock.advance(600)
    assert world.reconcile().mended == []
    world.clock.advance(600)
    assert [mending for _, mending, _ in world.reconcile().mended] == [Mending.START_LOCKOUT]


def test_an_incident_whose_key_is_not_under_watch_any_more_is_resolved(world: World) -> None:
    world.store.put(incident(status=IncidentStatus.UNLOCKING))
    world.reconcile()
    found = world.store.incident("acme-prod", INCIDENT)
    assert found is not None
    assert found.status is IncidentStatus.RESOLVED


@pytest.mark.parametrize(
    ("fault", "unreadable"),
    [
        (OSError("item size has exceeded the maximum"), 0),
        (NewerItemError("PROJECT#acme-prod/INCIDENT#01JA has schema 9"), 1),
        (DamagedItemError("PROJECT#acme-prod/INCIDENT#01JA has no shape"), 1),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_fault_in_one_incident_is_reported_and_the_next_is_mended(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Exception, unreadable: int
) -> None:
    world.store.put(
        incident(incident_id="01JA", status=IncidentStatus.UNLOCKING),
        incident(incident_id="01JB", status=IncidentStatus.UNLOCKING),
        key(),
    )
    read = world.store.incident

    def first_one_fails(project_id: str, incident_id: str) -> Incident | None:
        if incident_id == "01JA":
            raise fault
        return read(project_id, incident_id)

    monkeypatch.setattr(world.store, "incident", first_one_fails)
    report = world.reconcile()
    assert report.unreadable == unreadable
    assert [subject for subject, _ in report.errors] == ["01JA"]
    assert [subject for subject, _, _ in report.mended] == ["01JB"]


def test_what_locks_goes_before_what_tells_of_it(world: World) -> None:
    world.store.put(alert_row("a1"), start_row("s1"))
    order: list[str] = []
    world.notifier.on_delivery = order.append
    world.workflow.on_start = order.append
    world.relay(["a1", "s1"])
    assert order[0] == f"{INCIDENT}-lock-1"


def test_a_service_that_does_not_answer_is_asked_once_a_batch(world: World) -> None:
    world.store.put(*(alert_row(f"a{number}") for number in range(4)))
    tries: list[str] = []
    world.notifier.on_delivery = tries.append
    world.notifier.broken, world.notifier.unreachable = {"topic"}, True
    result = world.relay([f"a{number}" for number in range(4)])
    assert tries.count("topic") == 1
    assert len(world.notifier.bus) == 4
    assert len(result.failures) == 4


def test_a_service_that_refuses_one_row_is_asked_for_the_others(world: World) -> None:
    world.store.put(*(alert_row(f"a{number}") for number in range(4)))
    tries: list[str] = []
    world.notifier.on_delivery = tries.append
    world.notifier.broken = {"topic"}
    world.relay([f"a{number}" for number in range(4)])
    assert tries.count("topic") == 4


def test_a_row_that_cannot_be_read_does_not_hold_up_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.store.put(alert_row("poison"), alert_row("fine"))
    read = world.store.outbox_row

    def refuse_poison(row_id: str) -> OutboxRow | None:
        if row_id == "poison":
            message = "not an outbox row"
            raise ValueError(message)
        return read(row_id)

    monkeypatch.setattr(world.store, "outbox_row", refuse_poison)
    result = world.relay(["poison", "fine"])
    assert result.sent == 1
    assert [(row_id, target) for row_id, target, _ in result.failures] == [("poison", None)]


class Damaged(MemoryStore):
    """Rows that cannot be read, in a table that is otherwise in order."""

    def __init__(self, *row_ids: str) -> None:
        super().__init__()
        self.damaged = set(row_ids)

    @override
    def outbox_row(self, row_id: str) -> OutboxRow | None:
        if row_id in self.damaged:
            message = f"OUTBOX#{row_id}/OUTBOX does not have the shape of schema 2"
            raise DamagedItemError(message)
        return super().outbox_row(row_id)


def test_a_damaged_row_is_set_aside_shown_and_sent_again_when_it_is_put_right(world: World) -> None:
    store = Damaged("poison")
    store.put(project(), alert_row("poison"), alert_row("fine"))
    relay = relay_of(store, world.notifier, world.clock, workflow=world.workflow, calls=world.calls)
    result = relay(["poison", "fine"])
    assert (result.sent, result.failures) == (1, ())
    assert [row_id for row_id, _ in result.set_aside] == ["poison"]
    assert store.unsent_rows(NOW) == []
    aside = OutboxAside(store, world.clock)
    [shown] = aside.rows()
    assert (shown.row_id, shown.carries) == ("poison", None)
    assert "does not have the shape" in shown.reason
    store.damaged = set()
    assert aside.rows()[0].carries == AlertType.KEY_UNHEALTHY
    aside.send_again("poison")
    assert store.unsent_rows(NOW) == ["poison"]
    assert relay(["poison"]).sent == 1
    with pytest.raises(NotFoundError):
        aside.send_again("poison")


def refuse(world: World, *, refused: bool, fault: Exception | None = None) -> None:
    def fails(_target: str) -> None:
        if _target == "topic":
            raise fault or DeliveryError("InvalidParameter", refused=refused)

    world.notifier.on_delivery = fails


def test_a_row_that_sns_will_never_take_goes_to_the_bus_and_is_set_aside(world: World) -> None:
    world.store.put(alert_row())
    refuse(world, refused=True)
    assert [row_id for row_id, _ in world.relay(["r1"]).set_aside] == ["r1"]
    assert world.row("r1").delivered == (Target.CHAT, Target.BUS)
    assert world.store.unsent_rows(NOW) == []


def test_a_row_is_not_set_aside_while_another_of_its_targets_may_still_take_it(world: World) -> None:
    world.store.put(alert_row())
    refuse(world, refused=True)
    world.notifier.broken = {"bus"}
    assert world.relay(["r1"]).set_aside == ()
    world.notifier.broken = set()
    assert world.relay(["r1"]).set_aside != ()
    assert len(world.notifier.bus) == 1


def test_what_does_not_answer_for_days_is_never_a_reason_to_set_a_row_aside(world: World) -> None:
    world.store.put(alert_row())
    world.notifier.broken, world.notifier.unreachable = {"topic", "bus"}, True
    world.clock.advance(3 * 86400)
    assert world.relay(["r1"]).set_aside == ()
    assert world.store.unsent_rows(world.clock.now()) == ["r1"]


def test_a_row_over_which_our_own_code_stumbles_stops_no_other_and_is_set_aside_after_a_quarter_of_an_hour(
    world: World,
) -> None:
    world.store.put(alert_row("a"), start_row("s1"))
    refuse(world, refused=False, fault=TypeError("no such field"))
    first = world.relay(["a", "s1"])
    assert (first.sent, first.set_aside) == (1, ())
    assert [(row_id, target) for row_id, target, _ in first.failures] == [("a", Target.TOPIC)]
    world.clock.advance(900)
    [(row_id, reason)] = world.relay(["a"]).set_aside
    assert row_id == "a"
    assert reason == "it could not be sent for 15 minutes: topic: TypeError: no such field"


def test_a_row_that_cannot_be_marked_is_a_failure_and_the_next_one_goes_out(world: World) -> None:
    world.store.put(*(changed(alert_row(each), judged="it begins") for each in ("a", "b")))

    def table_fails() -> None:
        message = "ProvisionedThroughputExceededException"
        raise OSError(message)

    world.store.before_commit = table_fails
    result = world.relay(["a", "b"])
    assert result.sent == 1
    assert [(row_id, target) for row_id, target, _ in result.failures] == [("a", None)]
    assert world.relay(["a", "b"]).sent == 1
    assert len(world.notifier.published) == 3


def test_a_relay_that_is_killed_between_publishing_and_marking_sends_again_and_loses_nothing(world: World) -> None:
    class KilledError(BaseException):
        """The sandbox is gone."""

    def kill() -> None:
        raise KilledError

    world.store.put(*(changed(alert_row(each), judged="it begins") for each in ("a", "b")))
    world.store.before_commit = kill
    with pytest.raises(KilledError):
        world.relay(["a", "b"])
    world.clock.advance(60)
    world.reconcile()
    assert world.relay(world.asked.asked).sent == 2
    assert [each.alert_id for _, each in world.notifier.published] == ["a", "a", "b"]


def test_a_sweep_asks_for_a_bounded_number_of_rows_and_the_next_ones_for_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a topic that takes nothing for days would keep other tenants' alerts from being tried at all."""
    monkeypatch.setattr(reconcile, "ROWS_A_SWEEP", 4)
    world.store.put(*(alert_row(f"r{number}") for number in range(10)))
    world.clock.advance(60)
    for _ in range(4):
        before = len(world.asked.asked)
        assert world.reconcile().rows_resent == 4
        assert len(world.asked.asked) == before + 4
        world.clock.advance(60)
    assert set(world.asked.asked) == {f"r{number}" for number in range(10)}


def test_a_sweep_looks_at_a_bounded_number_of_incidents_and_the_next_ones_at_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "INCIDENTS_A_SWEEP", 3)
    world.store.put(key(), *(incident(incident_id=f"01J{n}", status=IncidentStatus.UNLOCKING) for n in range(7)))
    assert len(world.reconcile().mended) == 3
    for _ in range(4):
        world.clock.advance(60)
        world.reconcile()
    assert world.store.open_incidents() == []


def test_a_sweep_fails_a_bounded_number_of_overdue_answers_and_the_next_ones_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "CLUSTERS_A_SWEEP", 2)
    late = {"status": ClusterStatus.LOCKING, "respond_by": NOW, "task_token": "t", "locked_by_incident_id": INCIDENT}
    world.store.put(key(), incident(), *(cluster(cluster_id=f"c{number}", **late) for number in range(5)))
    assert [world.reconcile().overdue_failed for _ in range(4)] == [2, 2, 1, 0]


def test_what_went_wrong_is_told_in_one_line_of_bounded_length(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def quotes_everything(_project_id: str, _incident_id: str) -> Incident | None:
        message = "line\n" * 10_000
        raise OSError(message)

    world.store.put(incident())
    monkeypatch.setattr(world.store, "incident", quotes_everything)
    [(_, reason)] = world.reconcile().errors
    assert reason.startswith("OSError: line line")
    assert len(reason) == LONGEST_REASON
    assert "\n" not in reason


def test_a_sweep_sends_a_bounded_number_of_keys_those_first_that_have_been_due_the_longest(world: World) -> None:
    world.sweep = PlanSweep(world.store, world.queue, world.queue, world.clock, keys_a_sweep=2)
    world.store.put(*(key(key_id=f"k{n}", due_at=NOW - timedelta(seconds=n)) for n in range(5)))
    result = world.sweep()
    assert (result.keys_due, result.keys_sent) == (5, 2)
    assert [message.key_id for message in world.queue.messages] == ["k4", "k3"]


def test_a_queue_that_takes_nothing_is_a_sweep_with_trouble_and_the_keys_stay_due(world: World) -> None:
    class BrokenQueue(FakeQueue):
        def send(self, messages: Sequence[CheckMessage | FindActorMessage], *, delay_seconds: int = 0) -> int:
            message = "SQS did not take the message: AccessDenied"
            raise DeliveryError(message)

    world.store.put(key())
    result = PlanSweep(world.store, BrokenQueue(), BrokenQueue(), world.clock)()
    assert (result.claimed, result.keys_due, result.keys_sent) == (True, 1, 0)
    assert result.trouble == "SQS did not take the message: AccessDenied"
    assert len(world.store.due_keys(NOW)) == 1
    last = world.store.last_sweep()
    assert last is not None
    assert (last.keys_due, last.keys_sent) == (1, 0)
