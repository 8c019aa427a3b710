"""From a lock request in the table to its receiver, and from the receiver's answer back into the table."""

from datetime import timedelta

import pytest

from keyvigil.domain.alert_words import mail
from keyvigil.domain.alerts import AlertType, LockRequest, Target, lock_request
from keyvigil.domain.clusters import (
    Cluster,
    ClusterStatus,
    LockAction,
    LockResult,
    LockSettings,
    LockVia,
    Preset,
    request,
)
from keyvigil.domain.incidents import REASONS_SHOWN, IncidentStatus, TimelineEntry, affected
from keyvigil.domain.keys import Health, KeyStatus
from keyvigil.domain.lock_calls import ATTEMPTS, CALL_SECONDS, CallAnswer, CallOutcome
from keyvigil.domain.lock_settings import LockBounds
from keyvigil.domain.verdicts import Cause
from keyvigil.errors import DeliveryError
from keyvigil.use_cases import follow_receivers
from keyvigil.use_cases.call_receiver import CallReceiver
from keyvigil.use_cases.follow_receivers import FollowReceivers
from keyvigil.use_cases.lock_clusters import RequestLock
from keyvigil.use_cases.record_lock_result import LockAnswer, RecordLockResult
from keyvigil.use_cases.settle_lockout import SettleLockout
from tests.examples import KEY_ID, NOW, cluster, incident, key, project, verdict
from tests.fakes import (
    CountingIds,
    FakeClock,
    FakeNotifier,
    FakePauses,
    FakeReceiverCalls,
    FakeWorkflow,
    MemoryStore,
    ScriptedReceiver,
    changed,
)
from tests.unit.relaying import relay_of

INCIDENT = "01JINCIDENT"
OWN = "111111111111"
BOUNDS = LockBounds(account_id=OWN, region="us-west-2", stack_name="keyvigil", runbooks=True)
SECRET = f"arn:aws:secretsmanager:us-west-2:{OWN}:secret:keyvigil/acme-prod/webhook-AbCd12"
LAMBDA = LockSettings(
    via=LockVia.LAMBDA, function_arn="arn:aws:lambda:us-west-2:222222222222:function:keyvigil-lock-vectors"
)
WEBHOOK = LockSettings(via=LockVia.WEBHOOK, url="https://hooks.example.com/lock", secret_arn=SECRET)
RUNBOOK = LockSettings(via=LockVia.SSM_AUTOMATION, document_name="KeyVigilLock-rds")
ZILLIZ = LockSettings(via=LockVia.WEBHOOK, preset=Preset.ZILLIZ_CLOUD, secret_arn=SECRET)

DONE = CallAnswer(outcome=CallOutcome.DONE, detail="as asked")
FAILED = CallAnswer(outcome=CallOutcome.FAILED, detail="quorum lost")
BUSY = CallAnswer(outcome=CallOutcome.TRANSIENT, detail="it answered 503")
ACCEPTED = CallAnswer(outcome=CallOutcome.ACCEPTED)


class World:
    """A key whose outage is confirmed, and a cluster that is locked by calling its receiver."""

    def __init__(self, *answers: CallAnswer | Exception, lock: LockSettings = LAMBDA) -> None:
        self.store, self.clock, self.workflow = MemoryStore(), FakeClock(NOW), FakeWorkflow()
        self.receiver, self.calls, self.notifier = ScriptedReceiver(*answers), FakeReceiverCalls(), FakeNotifier()
        self.pauses = FakePauses(self.clock)
        ids = CountingIds()
        broken = Health(status=KeyStatus.UNHEALTHY, failing_streak=3, definite_streak=3, confirmed=True)
        self.store.put(
            project(),
            key(health=broken, verdict=verdict(Cause.KEY_DISABLED), open_incident_id=INCIDENT, clusters=1),
            incident(confirmed_at=NOW, status=IncidentStatus.LOCKING, clusters=affected([cluster()])),
            cluster(cluster_id="vectors", lock=lock),
        )
        self.settle = SettleLockout(self.store, self.clock, ids)
        self.record = RecordLockResult(self.store, self.workflow, self.settle, self.clock, ids)
        self.request = RequestLock(self.store, self.workflow, self.record, self.clock, ids)
        receivers = {(via, preset): self.receiver for via in LockVia for preset in Preset}
        self.call = CallReceiver(self.store, receivers, self.record, self.clock, ids, self.pauses, BOUNDS)
        self.relay = relay_of(self.store, self.notifier, self.clock, workflow=self.workflow, calls=self.calls)
        self.follow = FollowReceivers(self.store, self.calls, self.clock)

    @property
    def cluster(self) -> Cluster:
        found = self.store.cluster("acme-prod", "vectors")
        assert found is not None
        return found

    @property
    def status(self) -> ClusterStatus:
        return self.cluster.status

    def ask(self, action: LockAction = LockAction.LOCK, token: str = "token") -> int:  # noqa: S107  a step's token
        assert self.request(action, "acme-prod", "vectors", INCIDENT, token) == "requested"
        return self.cluster.fence

    def call_for(self, fence: int) -> str:
        return self.call("acme-prod", "vectors", fence).outcome

    def told(self) -> list[str]:
        return [f"{each.what}: {each.detail}" for each in self.store.all(TimelineEntry)]

    def mend_key(self) -> None:
        found = self.store.key("acme-prod", KEY_ID)
        assert found is not None
        self.store.put(changed(found, health=Health(), verdict=verdict()))
        self.store.put(incident(confirmed_at=NOW, status=IncidentStatus.UNLOCKING))


# --- from the request to the call -------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", [LAMBDA, WEBHOOK, ZILLIZ, RUNBOOK])
def test_a_request_to_a_receiver_that_is_called_goes_there_and_not_on_the_bus(lock: LockSettings) -> None:
    world = World(DONE, lock=lock)
    fence = world.ask()
    [row] = [each for each in world.store.rows() if each.lock_request]
    assert row.missing == (Target.RECEIVER,)
    assert world.relay([row.row_id]).sent == 1
    assert world.calls.asked == [("acme-prod", "vectors", fence)]
    assert world.notifier.requests == []
    assert world.relay([row.row_id]).sent == 0
    assert len(world.calls.asked) == 1


def test_a_request_by_event_still_goes_on_the_bus_and_calls_nobody() -> None:
    world = World(DONE, lock=LockSettings())
    world.ask()
    world.relay([row.row_id for row in world.store.rows()])
    assert [each.action for each in world.notifier.requests] == [LockAction.LOCK]
    assert world.calls.asked == []


def test_a_request_that_could_not_be_handed_on_stays_in_the_outbox_and_holds_up_no_alert() -> None:
    world = World(DONE)
    world.ask()
    world.calls.unreachable = True
    [row_id] = [row.row_id for row in world.store.rows()]
    result = world.relay([row_id])
    assert [(row, target) for row, target, _ in result.failures] == [(row_id, Target.RECEIVER)]
    assert world.store.unsent_rows(world.clock.now()) == [row_id]
    world.calls.unreachable = False
    assert world.relay([row_id]).sent == 1


def test_the_receiver_gets_the_request_that_is_under_way() -> None:
    world = World(DONE)
    fence = world.ask()
    world.call_for(fence)
    [asked] = world.receiver.requests
    assert asked == LockRequest(
        detail_type="Cluster Lock Requested",
        project_id="acme-prod",
        cluster_id="vectors",
        incident_id=INCIDENT,
        fence=fence,
        reason=f"{KEY_ID}: incident {INCIDENT}",
        respond_by=NOW + timedelta(seconds=300),
        via=LockVia.LAMBDA,
    )
    assert asked.action is LockAction.LOCK


def test_there_is_no_request_on_a_cluster_that_nothing_was_asked_of() -> None:
    with pytest.raises(ValueError, match="no request is under way"):
        lock_request(cluster())


# --- what the receiver answers ----------------------------------------------------------------------------------


def test_an_answer_at_once_locks_the_cluster_and_wakes_the_step() -> None:
    world = World(DONE)
    assert world.call_for(world.ask()) == "locked"
    assert world.status is ClusterStatus.LOCKED
    assert world.workflow.completed == [("token", "locked")]
    assert any(each.startswith("cluster.locked: vectors: locked said its function") for each in world.told())


def test_the_same_receiver_unlocks_with_a_fence_of_its_own() -> None:
    world = World(DONE)
    locked = world.ask()
    world.call_for(locked)
    world.mend_key()
    world.clock.advance(60)
    unlocked = world.ask(LockAction.UNLOCK, "token-u")
    assert unlocked > locked
    assert world.call_for(unlocked) == "unlocked"
    assert world.status is ClusterStatus.ACTIVE
    assert [each.action for each in world.receiver.requests] == [LockAction.LOCK, LockAction.UNLOCK]


def test_a_failure_is_final_and_its_reason_reaches_timeline_incident_and_alert() -> None:
    world = World(FAILED)
    assert world.call_for(world.ask()) == "failed"
    assert len(world.receiver.requests) == 1
    assert world.status is ClusterStatus.LOCK_FAILED
    assert world.cluster.detail == "quorum lost"
    assert world.workflow.completed == [("token", "failed")]
    assert any("cluster.lock_failed" in each and each.endswith("quorum lost") for each in world.told())
    world.store.put(incident(confirmed_at=NOW, status=IncidentStatus.LOCKING, clusters=affected([world.cluster])))
    world.settle("acme-prod", KEY_ID, INCIDENT)
    [alert] = world.store.alerts()
    assert alert.type is AlertType.CLUSTER_LOCK_FAILED
    assert [each.detail for each in alert.clusters] == ["quorum lost"]
    assert "          vectors: quorum lost" in mail(alert).splitlines()


def test_only_so_many_reasons_are_listed_that_the_alert_fits_into_a_message() -> None:
    failed = [
        cluster(cluster_id=f"c{number:03d}", status=ClusterStatus.LOCK_FAILED, detail="x" * 500)
        for number in range(200)
    ]
    listed = affected([*failed, cluster(cluster_id="a", status=ClusterStatus.LOCKED, detail="fine")])
    assert listed[0].detail is None
    reasons = [each.detail for each in listed if each.detail]
    assert len(reasons) == REASONS_SHOWN
    assert {len(each) for each in reasons} == {200}


def test_a_receiver_that_is_busy_is_asked_again_with_the_same_fence_after_growing_pauses() -> None:
    world = World(BUSY, BUSY, DONE)
    fence = world.ask()
    assert world.call_for(fence) == "locked"
    assert {each.fence for each in world.receiver.requests} == {fence}
    assert world.pauses.pauses == [2.0, 4.0]


def test_a_receiver_that_stays_busy_has_failed_with_the_last_reason() -> None:
    world = World(BUSY)
    assert world.call_for(world.ask()) == "failed"
    assert len(world.receiver.requests) == ATTEMPTS
    assert world.cluster.detail == f"it answered 503 ({ATTEMPTS} attempts)"


def test_retries_end_with_the_locks_own_time_out() -> None:
    world = World(BUSY, lock=changed(LAMBDA, timeout_seconds=10))
    respond_by = NOW + timedelta(seconds=10)
    world.receiver.on_call = lambda _request: world.clock.advance(2)
    assert world.call_for(world.ask()) == "failed"
    assert all(seconds <= 10 for seconds in world.receiver.seconds)
    assert world.receiver.seconds == sorted(world.receiver.seconds, reverse=True)
    assert len(world.receiver.requests) < ATTEMPTS
    assert world.clock.now() <= respond_by + timedelta(seconds=2)


def test_one_invocation_goes_on_no_longer_than_it_may() -> None:
    world = World(BUSY, lock=changed(LAMBDA, timeout_seconds=1800))
    world.receiver.on_call = lambda _request: world.clock.advance(60)
    world.call_for(world.ask())
    assert world.receiver.seconds[0] == CALL_SECONDS
    assert sum(world.pauses.pauses) + 60 * len(world.receiver.requests) < CALL_SECONDS + 60


def test_a_receiver_that_raises_what_nobody_expected_is_named_by_its_class_only() -> None:
    world = World(RuntimeError("whsec_secret"), DONE)
    report = world.call("acme-prod", "vectors", world.ask())
    assert report.outcome == "locked"
    [fault] = report.faults
    assert fault.startswith("RuntimeError in call of ")
    assert "whsec_secret" not in fault
    world = World(RuntimeError("whsec_secret"))
    assert world.call_for(world.ask()) == "failed"
    assert world.cluster.detail == f"the call failed: RuntimeError ({ATTEMPTS} attempts)"
    assert "whsec_secret" not in str(world.told())


def test_what_a_tenant_may_not_name_any_more_is_not_called() -> None:
    world = World(DONE, lock=RUNBOOK)
    forbidding = CallReceiver(
        world.store,
        {(LockVia.SSM_AUTOMATION, Preset.NONE): world.receiver},
        world.record,
        world.clock,
        CountingIds(),
        world.pauses,
        changed(BOUNDS, runbooks=False),
    )
    assert forbidding("acme-prod", "vectors", world.ask()).outcome == "failed"
    assert world.receiver.requests == []
    assert "AllowRunbooks" in (world.cluster.detail or "")


# --- late, twice, never -----------------------------------------------------------------------------------------


def test_a_request_that_was_accepted_waits_for_lock_result() -> None:
    world = World(ACCEPTED, lock=WEBHOOK)
    fence = world.ask()
    assert world.call_for(fence) == "accepted"
    assert world.status is ClusterStatus.LOCKING
    assert world.workflow.completed == []
    assert any("cluster.lock_accepted: vectors: its webhook accepted" in each for each in world.told())
    world.record(
        LockAnswer(
            project_id="acme-prod",
            cluster_id="vectors",
            fence=fence,
            result=LockResult.LOCKED,
            detail=None,
            by="its control plane",
        )
    )
    assert world.cluster.status is ClusterStatus.LOCKED


def test_an_invocation_that_comes_twice_does_not_call_again_what_was_accepted() -> None:
    world = World(ACCEPTED, lock=WEBHOOK)
    fence = world.ask()
    world.call_for(fence)
    assert world.call_for(fence) == "accepted"
    assert len(world.receiver.requests) == 1


def test_an_invocation_after_the_answer_calls_nobody_and_wakes_the_step_again() -> None:
    world = World(DONE)
    fence = world.ask()
    world.call_for(fence)
    assert world.call_for(fence) == "answered"
    assert len(world.receiver.requests) == 1
    assert world.workflow.completed == [("token", "locked")] * 2
    assert sum(each.startswith("cluster.locked:") for each in world.told()) == 1


def test_a_crash_between_the_call_and_the_write_is_made_good_by_a_second_call_with_the_same_fence() -> None:
    class Crash(BaseException):
        """The sandbox was killed."""

    world = World(DONE)
    fence = world.ask()

    def crash() -> None:
        raise Crash

    world.receiver.on_call = lambda _request: setattr(world.store, "before_commit", crash)
    with pytest.raises(Crash):
        world.call_for(fence)
    assert world.status is ClusterStatus.LOCKING
    world.receiver.on_call = lambda _request: None
    assert world.call_for(fence) == "locked"
    assert [each.fence for each in world.receiver.requests] == [fence, fence]


def test_a_step_that_could_not_be_woken_is_woken_by_the_next_invocation() -> None:
    world = World(DONE)
    fence = world.ask()
    world.workflow.broken = True
    with pytest.raises(DeliveryError):
        world.call_for(fence)
    assert world.status is ClusterStatus.LOCKED
    world.workflow.broken = False
    assert world.call_for(fence) == "answered"
    assert world.workflow.completed == [("token", "locked")]
    assert len(world.receiver.requests) == 1


def test_an_older_request_is_not_made_any_more() -> None:
    world = World(DONE)
    old = world.ask()
    world.clock.advance(1)
    new = world.ask(token="token-2")
    assert new > old
    assert world.call_for(old) == "superseded"
    assert world.receiver.requests == []


def test_a_request_that_is_overtaken_between_two_attempts_is_not_made_again() -> None:
    world = World(BUSY, DONE)
    old = world.ask()
    world.receiver.on_call = lambda _request: world.ask(token="token-2")
    assert world.call_for(old) == "superseded"
    assert [each.fence for each in world.receiver.requests] == [old]
    assert world.status is ClusterStatus.LOCKING


def test_an_answer_to_a_request_that_was_overtaken_meanwhile_changes_nothing() -> None:
    world = World(DONE)
    old = world.ask()
    world.receiver.on_call = lambda _request: world.ask(token="token-2")
    assert world.call_for(old) == "superseded"
    assert world.status is ClusterStatus.LOCKING
    assert world.cluster.fence > old


def test_a_call_whose_time_is_over_is_not_made() -> None:
    world = World(DONE)
    fence = world.ask()
    world.clock.advance(299.5)
    assert world.call_for(fence) == "too_late"
    assert world.receiver.requests == []


@pytest.mark.parametrize("gone", [True, False])
def test_a_cluster_that_was_deleted_is_not_called_for(*, gone: bool) -> None:
    world = World(DONE)
    fence = world.ask()
    if gone:
        world.store.items.clear()
    else:
        world.store.put(changed(world.cluster, deleted_at=NOW))
    assert world.call_for(fence) == "deleted"
    assert world.receiver.requests == []


def test_a_cluster_that_is_deleted_while_its_receiver_is_called_is_left_alone() -> None:
    world = World(DONE)
    fence = world.ask()
    world.receiver.on_call = lambda _request: world.store.put(changed(world.cluster, deleted_at=NOW))
    assert world.call_for(fence) == "deleted"


def test_a_success_after_the_time_out_is_still_the_truth() -> None:
    world = World(DONE)
    fence = world.ask()
    world.receiver.on_call = lambda _request: world.store.put(
        changed(world.cluster, status=ClusterStatus.LOCK_FAILED, respond_by=None)
    )
    assert world.call_for(fence) == "locked"
    assert world.status is ClusterStatus.LOCKED


def test_an_answer_that_contradicts_what_lock_result_said_meanwhile_is_not_taken() -> None:
    world = World(FAILED)
    fence = world.ask()
    world.receiver.on_call = lambda _request: world.store.put(
        changed(world.cluster, status=ClusterStatus.LOCKED, respond_by=None)
    )
    assert world.call_for(fence) == "contradicted"
    assert world.status is ClusterStatus.LOCKED


# --- receivers that can be asked again --------------------------------------------------------------------------


@pytest.mark.parametrize("lock", [RUNBOOK, ZILLIZ])
def test_a_request_that_was_accepted_is_asked_after_with_its_receipt_once_a_minute(lock: LockSettings) -> None:
    world = World(CallAnswer(outcome=CallOutcome.ACCEPTED, receipt="execution-1"), BUSY, DONE, lock=lock)
    fence = world.ask()
    assert world.follow().asked == 0
    assert world.call_for(fence) == "accepted"
    assert world.follow().asked == 1
    assert world.calls.asked == [("acme-prod", "vectors", fence)]
    world.receiver.answers = [BUSY]
    assert world.call_for(fence) == "accepted"
    assert world.status is ClusterStatus.LOCKING
    world.receiver.answers = [DONE]
    assert world.call_for(fence) == "locked"
    assert world.receiver.receipts[0] is None
    assert set(world.receiver.receipts[1:]) == {"execution-1"}
    assert world.follow().asked == 0


def test_the_timeline_says_once_that_a_request_was_accepted() -> None:
    world = World(CallAnswer(outcome=CallOutcome.ACCEPTED, receipt="execution-1"), lock=RUNBOOK)
    fence = world.ask()
    for _ in range(3):
        world.call_for(fence)
    assert sum("cluster.lock_accepted" in each for each in world.told()) == 1


def test_a_new_request_knows_nothing_of_an_older_ones_receipt() -> None:
    asked = request(cluster(receipt="execution-1"), LockAction.UNLOCK, incident_id="i", task_token="t", now=NOW)
    assert asked.receipt is None


def test_a_receiver_that_answers_by_itself_is_not_asked_after() -> None:
    world = World(ACCEPTED, lock=WEBHOOK)
    world.call_for(world.ask())
    assert world.follow().asked == 0


def test_one_request_that_cannot_be_asked_after_does_not_keep_the_others_from_it() -> None:
    world = World(CallAnswer(outcome=CallOutcome.ACCEPTED, receipt="execution-1"), lock=RUNBOOK)
    world.call_for(world.ask())
    world.calls.unreachable = True
    report = world.follow()
    assert (report.asked, [subject for subject, _ in report.errors]) == (0, ["acme-prod/vectors"])


def test_a_sweep_asks_after_a_bounded_number_of_requests_and_the_next_ones_after_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands of clusters are unlocked at once when a Region is back, and the sweep has more to do than that."""
    monkeypatch.setattr(follow_receivers, "REQUESTS_A_SWEEP", 4)
    world = World(lock=RUNBOOK)
    for number in range(10):
        asked = changed(world.cluster, cluster_id=f"c{number}", version=0)
        asked = request(asked, LockAction.LOCK, incident_id=INCIDENT, task_token="t", now=NOW)
        world.store.put(changed(asked, receipt=f"execution-{number}"))
    counts = []
    for _ in range(3):
        counts.append(world.follow().asked)
        world.clock.advance(60)
    assert max(counts) <= 4
    assert len({cluster_id for _, cluster_id, _ in world.calls.asked}) == 10


def test_a_receipt_that_comes_after_the_answer_is_forgotten() -> None:
    world = World(ACCEPTED)
    fence = world.ask()
    world.receiver.on_call = lambda _request: world.store.put(
        changed(world.cluster, status=ClusterStatus.LOCKED, respond_by=None)
    )
    assert world.call_for(fence) == "accepted"
    assert world.cluster.receipt is None
