"""One outage from its beginning to its end, in which a function may die at any call that it makes.

The functions' own handlers, the real use cases behind them and the real state machines (state_machines.py), on ports in
memory. Every call of a port is counted, so that `Death` can name one: the function that makes it dies before it, or
after it and before anything else. Who called the function learns nothing but that it failed, and nobody is kinder than
AWS has to be: what the stream or Lambda would try again is lost here, and a control plane answers once.

The key breaks, stays broken for `OUTAGE` and works again. Three clusters depend on it: one locked by event, one by a
function that is called, one in the registry alone.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, cast, override

from keyvigil.domain.alerts import AlertStatus, AlertType, LockRequest, OutboxRow
from keyvigil.domain.brake import BrakeSettings
from keyvigil.domain.clusters import (
    UNDER_WAY,
    Cluster,
    ClusterStatus,
    LockAction,
    LockResult,
    LockSettings,
    LockVia,
    Preset,
)
from keyvigil.domain.incidents import Incident, IncidentStatus
from keyvigil.domain.keys import Key, KeyStatus, Trigger
from keyvigil.domain.lock_calls import CallAnswer, CallOutcome
from keyvigil.domain.lock_settings import LockBounds
from keyvigil.domain.verdicts import Cause
from keyvigil.errors import ConflictError, DeliveryError, NotFoundError
from keyvigil.ports import (
    LockReceiver,
    Notifier,
    OutboxRelay,
    Pauses,
    ProbeAnswer,
    Prober,
    Put,
    ReceiverCalls,
    Store,
    Workflow,
    Write,
)
from keyvigil.use_cases.braking import AskBrake, Braking
from keyvigil.use_cases.call_receiver import CallReceiver
from keyvigil.use_cases.check_key import CheckKey
from keyvigil.use_cases.decide_incident import DecideIncident
from keyvigil.use_cases.follow_receivers import FollowReceivers
from keyvigil.use_cases.lock_clusters import DecideLockout, FailOverdueLock, RequestLock
from keyvigil.use_cases.open_shut_clusters import OpenShutClusters
from keyvigil.use_cases.plan_sweep import PlanSweep
from keyvigil.use_cases.reconcile import Reconcile
from keyvigil.use_cases.record_lock_result import LockAnswer, RecordLockResult
from keyvigil.use_cases.registry import Projects
from keyvigil.use_cases.relay_outbox import RelayOutbox
from keyvigil.use_cases.settle_lockout import SettleLockout
from keyvigil.use_cases.stop_orphans import StopOrphans
from keyvigil.use_cases.unlock_clusters import DecideRecovery, SettleRecovery
from tests.examples import KEY_ID, cluster, key, project, verdict
from tests.fakes import (
    CountingIds,
    FakeClock,
    FakeNotifier,
    FakePauses,
    FakeQueue,
    FakeTopics,
    MemoryStore,
    ScriptedProber,
    no_doubt,
)
from tests.unit.protocol_simulation import Agenda
from tests.unit.state_machines import StateError, StateMachines
from tests.unit.test_functions import Context, load

if TYPE_CHECKING:
    from types import ModuleType

PROJECT = "acme-prod"
BREAKS_AT = 30.0
OUTAGE = 25 * 60.0
CALM = 40 * 60.0
DEAD_FOR = 90.0
"""For how long a function that is not mended dies at the same call: longer than all of a step's retries."""

HANDLERS = (
    "decide_lockout",
    "lock_cluster",
    "settle_lockout",
    "decide_recovery",
    "unlock_cluster",
    "settle_recovery",
    "check_keys",
    "relay_outbox",
    "call_receiver",
)
"""The functions whose handlers are invoked as they are."""

FUNCTIONS = (*HANDLERS, "lock_result", "plan_sweep")
"""And the API's route for a control plane's answer, and the sweep, whose use cases are called."""


class Died(BaseException):
    """The function was killed. Nothing of ours can catch it."""


class Moment(StrEnum):
    """When a function dies, seen from the call that it dies at."""

    BEFORE = "before"
    AFTER = "after"


class Extent(StrEnum):
    """How much dies."""

    ONCE = "once"
    A_WHILE = "every time for a while"
    EXECUTION = "with its execution"


@dataclass(frozen=True)
class Call:
    """The so manieth call of a port in the so manieth invocation of a function."""

    function: str
    invocation: int
    number: int
    port: str

    def __str__(self) -> str:
        return f"{self.function} {self.invocation}: call {self.number}, {self.port}"


@dataclass(frozen=True)
class Death:
    """Where a function dies, and how much of it."""

    call: Call
    moment: Moment
    extent: Extent

    def __str__(self) -> str:
        return f"{self.moment} {self.call}, {self.extent}"


class Mortal:
    """A port whose every call is counted, and may be somebody's last."""

    def __init__(self, port: object, name: str, about_to: Callable[[str], Callable[[], None]]) -> None:
        self._port = port
        self._name = name
        self._about_to = about_to

    def __getattr__(self, method: str) -> Any:
        real = getattr(self._port, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            done = self._about_to(f"{self._name}.{method}")
            answer = real(*args, **kwargs)
            done()
            return answer

        return call


class WatchedStore(MemoryStore):
    """Shows every commit."""

    def __init__(self, watch: Callable[[Sequence[Write]], None]) -> None:
        super().__init__()
        self._watch = watch

    @override
    def commit(self, writes: Sequence[Write]) -> None:
        super().commit(writes)
        self._watch(writes)


class OneKey(ScriptedProber):
    """A key that is disabled, or is not."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock
        self.cause: Cause | None = None

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        return ProbeAnswer(verdict=verdict(self.cause, at=self._clock.now(), latency_ms=0), facts=None)


class Receivers(LockReceiver):
    """Everybody who locks: keeps the highest fence of each cluster, as the contract wants, and what it left locked."""

    def __init__(self) -> None:
        self.highest: Counter[str] = Counter()
        self.locked: dict[str, bool] = {}

    def carry_out(self, request: LockRequest) -> bool:
        if request.fence < self.highest[request.cluster_id]:
            return False
        self.highest[request.cluster_id] = request.fence
        self.locked[request.cluster_id] = request.action is LockAction.LOCK
        return True

    @override
    def call(self, request: LockRequest, lock: LockSettings, *, receipt: str | None, seconds: float) -> CallAnswer:
        done = self.carry_out(request)
        return CallAnswer(outcome=CallOutcome.DONE if done else CallOutcome.FAILED)


CLUSTERS = {
    "by-event": LockSettings(via=LockVia.EVENT, timeout_seconds=60),
    "by-function": LockSettings(
        via=LockVia.LAMBDA,
        timeout_seconds=60,
        function_arn="arn:aws:lambda:us-west-2:222222222222:function:keyvigil-lock-vectors",
    ),
    "registry": LockSettings(via=LockVia.NONE),
}


class Outage(OutboxRelay, ReceiverCalls):
    """The story. `calls` are all that were made, `wrong` is what must never be."""

    def __init__(self, death: Death | None = None) -> None:
        self.calls: list[Call] = []
        self.wrong: list[str] = []
        self.died = 0
        self._death = death
        self._dies_until: float | None = None
        self._function: str | None = None
        self._invocations: Counter[str] = Counter()
        self._number = 0
        self._execution: str | None = None
        self._asked: dict[tuple[str, int], str | None] = {}
        self._handed_over = 0

        self.clock = FakeClock()
        self.agenda = Agenda(self.clock)
        self.table = WatchedStore(self._watch)
        self.prober = OneKey(self.clock)
        self.receivers = Receivers()
        self.notifier = FakeNotifier()
        self.machines = StateMachines(self.agenda.after, self._invoke_for_execution)
        self.queue = FakeQueue()
        self.use_cases = self._wired()
        self.table.put(
            project(check_interval_minutes=1),
            key(due_at=self.clock.now() + timedelta(seconds=10), clusters=len(CLUSTERS)),
            *(cluster(cluster_id=name, lock=lock) for name, lock in CLUSTERS.items()),
        )

    def _wired(self) -> dict[str, Any]:
        """What `wiring` makes of the ports, by the names that it has there."""
        clock, ids = self.clock, CountingIds()
        store = cast("Store", self._mortal(self.table, "table"))
        workflow = cast("Workflow", self._mortal(self.machines, "workflow"))
        prober = cast("Prober", self._mortal(self.prober, "kms"))
        notifier = cast("Notifier", self._mortal(self.notifier, "notifier"))
        calls = cast("ReceiverCalls", self._mortal(self, "lambda"))
        receiver = cast("LockReceiver", self._mortal(self.receivers, "receiver"))
        settle_lockout, settle_recovery = SettleLockout(store, clock, ids), SettleRecovery(store, clock, ids)
        record = RecordLockResult(store, workflow, settle_lockout, clock, ids)
        ask_brake = AskBrake(store, clock, BrakeSettings())
        pauses: Pauses = FakePauses(FakeClock())
        bounds = LockBounds(account_id="111111111111", region="us-west-2", stack_name="keyvigil", runbooks=True)
        return {
            "check_key": CheckKey(store, prober, clock, ids, doubt=no_doubt, confirmation_probes=3),
            "decide_lockout": DecideLockout(store, ask_brake, clock, ids, confirmation_probes=3),
            "request_lock": RequestLock(store, workflow, record, clock, ids),
            "settle_lockout": settle_lockout,
            "decide_recovery": DecideRecovery(store, clock, ids),
            "settle_recovery": settle_recovery,
            "record_lock_result": record,
            "relay_outbox": RelayOutbox(
                store, notifier, workflow, clock, operator_topic_arn="arn:operator", receiver_calls=calls
            ),
            "call_receiver": CallReceiver(
                store, {(LockVia.LAMBDA, Preset.NONE): receiver}, record, clock, ids, pauses, bounds
            ),
            "plan_sweep": PlanSweep(store, self.queue, self.queue, clock),
            "follow_receivers": FollowReceivers(store, calls, clock),
            "open_shut_clusters": OpenShutClusters(store, clock, ids),
            "stop_orphans": StopOrphans(store, workflow, clock),
            "decide_incident": DecideIncident(store, clock, ids),
            "projects": Projects(store, FakeTopics(), clock, ids),
            "reconcile": Reconcile(
                store,
                workflow,
                cast("OutboxRelay", self._mortal(self, "lambda")),
                FailOverdueLock(store, record, clock),
                settle_lockout,
                settle_recovery,
                clock,
                ids,
                ask_brake=ask_brake,
                braking=Braking(store, clock, ids),
                confirmation_probes=3,
            ),
        }

    def _mortal(self, port: object, name: str) -> Mortal:
        return Mortal(port, name, self._about_to)

    def play(self) -> list[str]:
        """Play the story; return in words what is not as it should be."""
        self.agenda.every(60, self._sweep)
        self.agenda.after(BREAKS_AT, lambda: self._disable(Cause.KEY_DISABLED))
        self._pass_until(IncidentStatus.LOCKED, BREAKS_AT + OUTAGE)
        self._expect(IncidentStatus.LOCKED, ClusterStatus.LOCKED, "at the end of the outage")
        self._disable(None)
        self._pass_until(IncidentStatus.RESOLVED, self.agenda.seconds + CALM)
        self._expect(IncidentStatus.RESOLVED, ClusterStatus.ACTIVE, "at the end")
        self._look_back()
        return self.wrong

    def _pass_until(self, status: IncidentStatus, latest: float) -> None:
        """Let time pass until nothing more will happen, or it is too late. A last sweep finds nothing to do."""
        seconds = self.agenda.seconds
        while seconds < latest:
            seconds += 60
            self.agenda.run(until=seconds)
            reached = [each.status for each in self.table.all(Incident)] == [status]
            if reached and not self.machines.running and all(row.sent_at for row in self.table.rows()):
                self.agenda.run(until=seconds + 120)
                return

    def _disable(self, cause: Cause | None) -> None:
        self.prober.cause = cause

    # --- dying --------------------------------------------------------------------------------------------------

    @contextmanager
    def _inside(self, function: str) -> Any:
        """An invocation; one may bring another about, which Lambda does not run inside it."""
        before = self._function, self._number
        self._function, self._number = function, 0
        self._invocations[function] += 1
        try:
            yield
        finally:
            self._function, self._number = before

    def _about_to(self, port: str) -> Callable[[], None]:
        if self._function is None:
            return lambda: None
        self._number += 1
        call = Call(self._function, self._invocations[self._function], self._number, port)
        self.calls.append(call)
        if self._is_deadly(call):
            assert self._death is not None
            if self._death.moment is Moment.BEFORE:
                self._die()
            return self._die
        return lambda: None

    def _is_deadly(self, call: Call) -> bool:
        death, now = self._death, self.agenda.seconds
        if death is None or (call.function, call.number) != (death.call.function, death.call.number):
            return False
        if call.invocation == death.call.invocation:
            self._dies_until = now + DEAD_FOR
            return True
        lasting = death.extent is Extent.A_WHILE and self._dies_until is not None
        return lasting and now < (self._dies_until or 0)

    def _die(self) -> None:
        self.died += 1
        if self._death is not None and self._death.extent is Extent.EXECUTION and self._execution is not None:
            self.machines.kill(self._execution)
        raise Died

    def _run(self, function: str, do: Callable[[], Any]) -> Any:
        """An invocation whose failure nobody learns of."""
        with self._inside(function):
            try:
                return do()
            except (Died, ConflictError, DeliveryError, NotFoundError):
                return None

    def _handle(self, function: str, event: Mapping[str, Any]) -> Any:
        return handler(function)(event, Context())

    def _invoke_for_execution(self, placeholder: str, event: Mapping[str, Any], execution: str) -> Any:
        """A Task's invocation. A function that is killed shows as Lambda.Unknown, one that raises by its class.

        https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
        """
        function = snake(placeholder)
        self._execution = execution
        try:
            with self._inside(function):
                return self._handle(function, event)
        except Died as error:
            name = "Lambda.Unknown"
            raise StateError(name) from error
        except Exception as error:
            raise StateError(type(error).__name__) from error
        finally:
            self._execution = None

    # --- the rest of AWS ----------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        self.queue.messages.clear()
        self._run("plan_sweep", self.use_cases["plan_sweep"])
        for message in self.queue.messages:
            check = partial(self.use_cases["check_key"], PROJECT, KEY_ID, Trigger.SCHEDULE, due_at=message.due_at)
            self._run("check_keys", check)
        self.agenda.after(2, lambda: self._run("plan_sweep", self._mend))

    def _mend(self) -> None:
        mends = ("reconcile", "open_shut_clusters", "stop_orphans", "follow_receivers")
        errors = [error for name in mends for error in self.use_cases[name]().errors]
        self.wrong += [f"reconciling met {each}" for each in errors]

    @override
    def resend(self, row_ids: Sequence[str]) -> None:
        self.agenda.after(1, lambda: self._relay({"resend": list(row_ids)}))

    @override
    def ask(self, project_id: str, cluster_id: str, fence: int) -> None:
        event = {"project_id": project_id, "cluster_id": cluster_id, "fence": fence}
        self.agenda.after(0.5, lambda: self._run("call_receiver", lambda: self._handle("call_receiver", event)))

    def _relay(self, event: Mapping[str, Any]) -> None:
        self._run("relay_outbox", lambda: self._handle("relay_outbox", event))
        while self._handed_over < len(self.notifier.requests):
            asked = self.notifier.requests[self._handed_over]
            self._handed_over += 1
            self.agenda.after(2, partial(self._control_plane, asked))

    def _control_plane(self, asked: LockRequest) -> None:
        locks = asked.action is LockAction.LOCK
        done = LockResult.LOCKED if locks else LockResult.UNLOCKED
        answer = LockAnswer(
            project_id=PROJECT,
            cluster_id=asked.cluster_id,
            fence=asked.fence,
            result=done if self.receivers.carry_out(asked) else LockResult.FAILED,
            detail=None,
            by="its control plane",
        )
        self._run("lock_result", lambda: self.use_cases["record_lock_result"](answer))

    # --- what must be -------------------------------------------------------------------------------------------

    def _watch(self, writes: Sequence[Write]) -> None:
        new = []
        for write in writes:
            match write:
                case Put(OutboxRow(version=0) as row):
                    new.append(row.row_id)
                case Put(Cluster(status=status) as found) if status in UNDER_WAY:
                    request = (found.cluster_id, found.fence)
                    if self._asked.setdefault(request, found.task_token) != found.task_token:
                        self.wrong.append(f"{found.cluster_id} was asked twice with fence {found.fence}")
                    self._watch_lock(found)
                case Put(Incident() as incident):
                    self._watch_executions(incident)
                case _:
                    pass
        if new:
            records = [{"dynamodb": {"Keys": {"pk": {"S": f"OUTBOX#{row_id}"}}}} for row_id in new]
            self.agenda.after(1, lambda: self._relay({"Records": records}))

    def _watch_lock(self, found: Cluster) -> None:
        watched = self.table.key(PROJECT, KEY_ID)
        assert watched is not None
        if found.status is ClusterStatus.LOCKING and not watched.health.confirmed:
            self.wrong.append(f"{found.cluster_id} is to be locked, and no outage is confirmed")
        if found.status is ClusterStatus.UNLOCKING and watched.health.status is not KeyStatus.HEALTHY:
            self.wrong.append(f"{found.cluster_id} is to be unlocked, and the key is {watched.health.status}")

    def _watch_executions(self, incident: Incident) -> None:
        at_work = Counter(
            start.workflow for start in self.machines.running.values() if start.incident_id == incident.incident_id
        )
        self.wrong += [f"{count} executions at once: {kind}" for kind, count in at_work.items() if count > 1]

    def _expect(self, incident: IncidentStatus, cluster_status: ClusterStatus, when: str) -> None:
        found = [each.status for each in self.table.all(Incident)]
        if found != [incident]:
            self.wrong.append(f"{when} the incidents are {found}")
        locked = cluster_status is ClusterStatus.LOCKED
        for each in self.table.all(Cluster):
            if each.status is not cluster_status:
                self.wrong.append(f"{when} {each.cluster_id} is {each.status}")
            if each.lock.via is not LockVia.NONE and self.receivers.locked.get(each.cluster_id) is not locked:
                self.wrong.append(f"{when} {each.cluster_id} is not really {cluster_status}")

    def _look_back(self) -> None:
        self.wrong += [f"{name} is still at work" for name in self.machines.running]
        self.wrong += [f"row {row.row_id} was never sent" for row in self.table.rows() if row.sent_at is None]
        told = {each.alert_id for _, each in self.notifier.published} & {each.alert_id for each in self.notifier.bus}
        alerts = self.table.alerts()
        self.wrong += [f"{each.type} was not told" for each in alerts if each.alert_id not in told]
        types = {each.type for each in alerts}
        self.wrong += [f"{kind} was never told" for kind in TOLD if kind not in types]
        last = {each.dedup_key: each for each in alerts}
        self.wrong += [f"{each.type} still fires" for each in last.values() if each.status is AlertStatus.FIRING]


TOLD = (
    AlertType.KEY_SUSPECT,
    AlertType.KEY_UNHEALTHY,
    AlertType.KEY_RECOVERED,
    AlertType.CLUSTER_LOCKED,
    AlertType.CLUSTER_UNLOCKED,
)
"""What everybody must have heard by the end."""


def snake(placeholder: str) -> str:
    """`${LockClusterFunctionArn}` is `lock_cluster`."""
    name = placeholder.removeprefix("${").removesuffix("FunctionArn}")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("_")


_loaded: dict[str, "ModuleType"] = {}


def handler(function: str) -> Callable[[Mapping[str, Any], Context], Any]:
    """A function's handler."""
    if function not in _loaded:
        _loaded[function] = load(function)
    found: Callable[[Mapping[str, Any], Context], Any] = _loaded[function].handler
    return found
