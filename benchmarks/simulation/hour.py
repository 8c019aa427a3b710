"""An hour of KeyVigil in simulated time: the real planner, checks, status machine, outbox, relay and reconciling.

What is not real is stated in `Latencies`: how long AWS takes, what a key takes of a CPU, and that clusters are none.
The planner's own time is counted from what it asks for: a page of the index for each MEGABYTE, a request for each ten
messages, and the CPU that each key of them was measured to take.
"""

import gc
import heapq
import random
import resource
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import batched, groupby
from statistics import median
from typing import override

from benchmarks.simulation.fleet import SHARDS, FleetStore, number_of
from keyvigil.adapters.dynamodb_store import READERS
from keyvigil.adapters.messaging import SENDERS
from keyvigil.domain.alerts import Alert, LockRequest, WorkflowStart
from keyvigil.domain.brake import BrakeSettings
from keyvigil.domain.canaries import CANARY_PROJECT, OwnCanary
from keyvigil.domain.incidents import WorkflowKind
from keyvigil.domain.keys import CloserLook, Key, KeyStatus, Registration, Trigger
from keyvigil.domain.verdicts import Cause
from keyvigil.ports import CheckMessage, CheckQueue, FindActorMessage, Notifier, ProbeAnswer, Prober, RegistrationAnswer
from keyvigil.use_cases.braking import AskBrake, Braking
from keyvigil.use_cases.check_canary import AskCanaries, CheckCanary
from keyvigil.use_cases.check_key import CheckKey
from keyvigil.use_cases.lock_clusters import DecideLockout, FailOverdueLock
from keyvigil.use_cases.plan_sweep import KEYS_A_SWEEP, PlanSweep
from keyvigil.use_cases.reconcile import FEW, INCIDENTS_A_SWEEP, INCIDENTS_AT_ONCE, Reconcile
from keyvigil.use_cases.record_lock_result import RecordLockResult
from keyvigil.use_cases.relay_outbox import RelayOutbox
from keyvigil.use_cases.settle_lockout import SettleLockout
from keyvigil.use_cases.tell_stale import TellStale
from keyvigil.use_cases.unlock_clusters import SettleRecovery
from tests import examples
from tests.fakes import CountingIds, FakeClock, FakeReceiverCalls, FakeRelay, FakeWorkflow, ScriptedProber

MEGABYTE = 1_000_000
ENTRY_BYTES = 200
"""An entry of the index: its keys and those of the table, rounded up."""


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """How long things take, in seconds. KMS's and DynamoDB's are typical within a Region; no promise of AWS's."""

    kms_median: float = 0.010
    kms_spread: float = 0.5
    """Sigma of a lognormal: one call in a hundred takes 32 ms."""
    check_cpu: float = 0.010
    """A check's share of a whole vCPU: three calls of boto3 at 1 ms, four of the table, and what is made of them."""
    due_key_cpu: float = 0.00005
    """CPU of a key in the sweep: reading, dealing, packing and sending it (decision 31)."""
    table: float = 0.005
    request_cpu: float = 0.001
    """CPU of a request to the table, for which threads cannot wait at the same time."""
    send_batch: float = 0.010
    """One SendMessageBatch, as `KEYS_A_SWEEP` reckons."""
    index_page: float = 0.050
    """One megabyte of a query; the readers work at the same time."""
    stream: float = 1.0
    timeout: float = 6.0
    """A probe of a Region that does not answer."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What the template sets."""

    keys_a_sweep: int = KEYS_A_SWEEP
    planner_cpu: float = 512 / 1769
    """vCPUs by memory. https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html"""
    check_cpu: float = 1024 / 1769
    concurrency: int = 10
    """ScalingConfig.MaximumConcurrency of the check queue."""
    slow_concurrency: int = 5
    """And of the queue for what may hang."""
    batch: int = 2
    retention: float = 300


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A fleet and what befalls it. Minutes are from the start."""

    keys: int
    interval_minutes: int = 10
    minutes: int = 60
    failing: float = 0.001
    recovering: float = 0.5
    """The share of the failing that is mended within the hour, ten minutes after it broke."""
    plan: str = "full"
    outage: tuple[str, float, float] | None = None
    """A Region whose KMS answers nothing, from one minute to another."""
    stack: Stack = field(default_factory=Stack)
    latencies: Latencies = field(default_factory=Latencies)
    seed: int = 1


@dataclass(kw_only=True)
class Hour:
    """What was counted. Times are in seconds."""

    keys: int
    interval_minutes: int
    minutes: int
    checks: int = 0
    kms_requests: int = 0
    sweeps: int = 0
    check_invocations: int = 0
    check_seconds: float = 0
    relay_invocations: int = 0
    relay_seconds: float = 0
    queue_requests: int = 0
    messages: int = 0
    messages_expired: int = 0
    executions: int = 0
    notifications: int = 0
    reads: dict[str, int] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)
    most_index_writes_a_second: float = 0
    most_project_writes: int = 0
    longest_planning: float = 0
    longest_sweep: float = 0
    oldest_message: float = 0
    oldest_slow_message: float = 0
    most_sent: int = 0
    broken: int = 0
    found: int = 0
    mended_unseen: int = 0
    """Broken and mended before any probe came: no outage lasts longer than an interval there."""
    overlooked: int = 0
    """Probed while broken, or broken for longer than an interval and a minute, and still without an incident."""
    detection_median: float = 0
    detection_worst: float = 0
    false_incidents: int = 0
    stale_keys: int = 0
    not_sent: int = 0
    most_not_sent: int = 0
    sent_each_minute: list[int] = field(default_factory=list)
    alerts: dict[str, int] = field(default_factory=dict)
    cpu_seconds: float = 0
    peak_megabytes: float = 0


class _Queue(CheckQueue):
    """What was sent, and with what delay."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, CheckMessage]] = []

    @override
    def send(self, messages: Sequence[CheckMessage | FindActorMessage], *, delay_seconds: int = 0) -> int:
        mine = [each for each in messages if isinstance(each, CheckMessage)]
        self.sent += [(delay_seconds, each) for each in mine]
        return sum(1 + len(each.others) for each in mine)


@dataclass
class _Lane:
    """A queue with the functions that Lambda lets take from it."""

    idle: int
    waiting: deque[tuple[float, CheckMessage]] = field(default_factory=deque)


class _Workflow(FakeWorkflow):
    def __init__(self, on: Callable[[WorkflowStart], None]) -> None:
        super().__init__()
        self._on = on

    @override
    def start(self, start: WorkflowStart) -> None:
        if start.name not in self.started:
            self._on(start)
        super().start(start)


class _Notifier(Notifier):
    def __init__(self) -> None:
        self.published: Counter[str] = Counter()

    @override
    def publish(self, topic_arn: str, alert: Alert) -> None:
        self.published[alert.type] += 1

    @override
    def publish_to_chat(self, topic_arn: str, alert: Alert) -> None:
        self.published["chat"] += 1

    @override
    def put_alert(self, alert: Alert) -> None:
        self.published["bus"] += 1

    @override
    def put_lock_request(self, request: LockRequest) -> None:
        self.published["lock request"] += 1


class _Customers(ScriptedProber, Prober):
    """The customers' keys: which are broken at what second, and how long a probe takes."""

    def __init__(self, simulation: "Simulation") -> None:
        super().__init__()
        self._simulation = simulation
        self.requests = 0
        self._healthy = examples.verdict()
        self._disabled = examples.verdict(Cause.KEY_DISABLED)
        self._timeout = examples.verdict(Cause.TIMEOUT)

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        simulation = self._simulation
        began = simulation.clock.now()
        if simulation.is_out(key.region, simulation.second):
            simulation.take(simulation.latencies.timeout)
            self.requests += 1
            return ProbeAnswer(verdict=replace(self._timeout, probed_at=began, latency_ms=6000), facts=None)
        calls = 5 if closely else 1 if lean else 3
        verdict = self._healthy
        if key.project_id != CANARY_PROJECT and simulation.is_broken(key.key_id):
            verdict, calls = self._disabled, 2
            simulation.seen.add(number_of(key.key_id))
        self.requests += calls
        seconds = sum([simulation.kms_second() for _ in range(calls)])
        simulation.take(seconds)
        facts = replace(key.facts, closer=CloserLook(looked_at=began)) if closely else key.facts
        verdict = replace(verdict, probed_at=began, latency_ms=int(seconds * 1000))
        return ProbeAnswer(verdict=verdict, facts=facts, whole=not lean)

    @override
    def probe_registration(self, registration: Registration, *, spent_seconds: float = 0) -> RegistrationAnswer:
        self._simulation.take(0.05)
        return RegistrationAnswer(
            verdict=replace(self._healthy, probed_at=self._simulation.clock.now()),
            role_checks_external_id=True,
            key_arn=registration.key_arn,
            baseline=examples.canary().baseline,
            facts=None,
        )


class Simulation:
    """One run."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self.latencies = scenario.latencies
        self._random = random.Random(scenario.seed)
        self._start = examples.NOW
        self.clock = FakeClock(self._start)
        self.second = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._events_made = 0
        self.store = FleetStore(
            scenario.keys, interval_minutes=scenario.interval_minutes, start=self._start, plan=scenario.plan
        )
        self._queue, self._slow_queue, self._notifier = _Queue(), _Queue(), _Notifier()
        self._lane, self._slow_lane = _Lane(scenario.stack.concurrency), _Lane(scenario.stack.slow_concurrency)
        self.result = Hour(keys=scenario.keys, interval_minutes=scenario.interval_minutes, minutes=scenario.minutes)
        self._detections: list[float] = []
        self._found: set[int] = set()
        self.seen: set[int] = set()
        self._asked_for: set[str] = set()
        self._incidents: set[str] = set()
        self._wire()
        self._breaks: dict[int, tuple[float, float]] = {}
        last = scenario.minutes * 60 - scenario.interval_minutes * 60 - 120
        for number in self._random.sample(range(scenario.keys), round(scenario.keys * scenario.failing)):
            at = self._random.uniform(0.2 * last, last)
            mended = at + 600 if self._random.random() < scenario.recovering else float("inf")
            self._breaks[number] = (at, mended)
        self.result.broken = len(self._breaks)

    def _wire(self) -> None:
        """As wiring.py does, with ports in memory."""
        store, clock, ids = self.store, self.clock, CountingIds()
        self._customers = _Customers(self)
        own = OwnCanary(key_arn=examples.canary().key_arn, role_arn=examples.canary().role_arn, external_id="canary")
        self._check_canary = CheckCanary(store, self._customers, clock, ids, own=own)
        doubt = AskCanaries(self._check_canary, clock)
        self._check_key = CheckKey(store, self._customers, clock, ids, doubt=doubt, confirmation_probes=3)
        stack = self._scenario.stack
        self._plan = PlanSweep(store, self._queue, self._slow_queue, clock, keys_a_sweep=stack.keys_a_sweep)
        workflow, receivers = _Workflow(self._started), FakeReceiverCalls()
        self._resent = FakeRelay()
        ask_brake = AskBrake(store, clock, BrakeSettings(minimum_accounts=3, percent=25, max_lockouts=20))
        settle = SettleLockout(store, clock, ids)
        record = RecordLockResult(store, workflow, settle, clock, ids)
        self._decide = DecideLockout(store, ask_brake, clock, ids, confirmation_probes=3)
        self._reconcile = Reconcile(
            store,
            workflow,
            self._resent,
            FailOverdueLock(store, record, clock),
            settle,
            SettleRecovery(store, clock, ids),
            clock,
            ids,
            ask_brake=ask_brake,
            braking=Braking(store, clock, ids),
            confirmation_probes=3,
        )
        self._tell_stale = TellStale(store, clock, ids)
        self._relay = RelayOutbox(
            store, self._notifier, workflow, clock, operator_topic_arn="operator", receiver_calls=receivers
        )

    # --- the world ------------------------------------------------------------------------------------------------

    def kms_second(self) -> float:
        return self.latencies.kms_median * self._random.lognormvariate(0, self.latencies.kms_spread)

    def is_out(self, region: str, second: float) -> bool:
        outage = self._scenario.outage
        return outage is not None and region == outage[0] and outage[1] <= second / 60 < outage[2]

    def is_broken(self, key_id: str) -> bool:
        at, mended = self._breaks.get(number_of(key_id), (float("inf"), 0.0))
        return at <= self.second < mended

    # --- time -----------------------------------------------------------------------------------------------------

    def _set(self, second: float) -> None:
        self.second = second
        self.clock.time = self._start + timedelta(milliseconds=int(second * 1000))
        self.store.now = self.clock.time

    def take(self, seconds: float) -> None:
        self._set(self.second + seconds)

    def _at(self, second: float, do: Callable[[], None]) -> None:
        self._events_made += 1
        heapq.heappush(self._events, (second, self._events_made, do))

    def run(self) -> Hour:
        began = time.process_time()
        gc.disable()  # the keys are millions of objects in no cycle, and would be walked again and again
        for minute in range(self._scenario.minutes):
            self._at(minute * 60 + self._random.uniform(0, 2), self._sweep)
        end = self._scenario.minutes * 60
        while self._events and self._events[0][0] < end:
            second, _, do = heapq.heappop(self._events)
            self._set(second)
            do()
        return self._ended(time.process_time() - began)

    # --- functions ------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        began, reads = self.second, self.store.reads["entries of the index"]
        swept = self._plan()
        lanes = ((self._lane, self._queue.sent), (self._slow_lane, self._slow_queue.sent))
        self._queue.sent, self._slow_queue.sent = [], []
        at = began + self._reading(reads)
        requests = keys = 0
        each = max(
            self.latencies.send_batch / SENDERS, 100 * self.latencies.due_key_cpu / self._scenario.stack.planner_cpu
        )
        for lane, sent in lanes:
            for batch in batched(sent, 10, strict=False):
                requests += 1
                at += each
                for delay, some in groupby(batch, key=lambda it: it[0]):
                    self._at(at + delay, self._arrival(lane, [message for _, message in some]))
            keys += sum(1 + len(message.others) for _, message in sent)
        messages = sum(len(sent) for _, sent in lanes)
        result = self.result
        result.sweeps += 1
        result.queue_requests += requests
        result.messages += messages
        result.not_sent = swept.keys_due - swept.keys_sent
        result.most_sent = max(result.most_sent, keys)
        result.sent_each_minute.append(keys)
        result.most_not_sent = max(result.most_not_sent, result.not_sent)
        self._set(at)
        counted = self.store.reads["entries of the index"]
        mended = self._reconcile()
        rows, self._resent.asked = self._resent.asked, []
        if rows:
            self._deliver(rows)
        result.stale_keys = max(result.stale_keys, self._tell_stale().stale_keys)
        self.store.count_fleet()
        looked_at = min(len(self.store.open_incidents()), INCIDENTS_A_SWEEP)
        # Looked at here one after the other: the world is in one thread. The functions' threads wait at the same time.
        at_once = INCIDENTS_AT_ONCE if looked_at > FEW else 1
        spent = self._reading(counted) + 6 * looked_at * max(
            self.latencies.table / at_once, self.latencies.request_cpu / self._scenario.stack.planner_cpu
        )
        result.longest_planning = max(result.longest_planning, at - began)
        result.longest_sweep = max(result.longest_sweep, at + spent - began)
        assert not mended.errors, mended.errors[:3]  # noqa: S101  a simulation that stumbles proves nothing
        self._outbox()

    def _reading(self, before: int) -> float:
        """Seconds that it takes to read what was read of the index since."""
        pages = (self.store.reads["entries of the index"] - before) * ENTRY_BYTES // MEGABYTE + 10 * SHARDS
        return -(-pages // READERS) * self.latencies.index_page

    def _arrival(self, lane: _Lane, messages: list[CheckMessage]) -> Callable[[], None]:
        def arrive() -> None:
            lane.waiting.extend((self.second, message) for message in messages)
            self._poll(lane)

        return arrive

    def _poll(self, lane: _Lane) -> None:
        """Hand what waits to the functions that are free."""
        stack, began = self._scenario.stack, self.second
        cpu = self.latencies.check_cpu / stack.check_cpu
        is_slow = lane is self._slow_lane
        while lane.idle and lane.waiting:
            batch: list[CheckMessage] = []
            while lane.waiting and len(batch) < stack.batch:
                arrived, message = lane.waiting.popleft()
                age = min(began - arrived, stack.retention)
                if is_slow:
                    self.result.oldest_slow_message = max(self.result.oldest_slow_message, age)
                else:
                    self.result.oldest_message = max(self.result.oldest_message, age)
                if began - arrived > stack.retention:
                    self.result.messages_expired += 1
                else:
                    batch.append(message)
            if not batch:
                return
            lane.idle -= 1
            longest, checked = 0.0, 0
            for message in batch:
                for one in message.singly():
                    self._set(began)
                    checked += self._check(one)
                    longest = max(longest, self.second - began)
            # Its threads wait at the same time, and share its CPU.
            took = max(longest + cpu, checked * cpu)
            self.result.check_invocations += 1
            self.result.check_seconds += took
            self._at(began + took, partial(self._free, lane))
            self._set(began)

    def _free(self, lane: _Lane) -> None:
        lane.idle += 1
        self.result.queue_requests += 2  # one receives, one deletes
        self._outbox()
        self._poll(lane)

    def _check(self, message: CheckMessage) -> bool:
        """Check what a message names; whether anything was probed."""
        if message.canary:
            self.take(self.latencies.table)
            return self._check_canary(message.key_id, due_at=message.due_at).probed
        before = self.result.checks
        self._check_one(message.project_id, message.key_id, message.trigger, message.due_at)
        return self.result.checks > before

    def _check_one(self, project_id: str, key_id: str, trigger: Trigger, due_at: datetime | None) -> bool:
        """Check a key; whether the outage is confirmed or over."""
        self.take(self.latencies.table)
        result = self._check_key(project_id, key_id, trigger, due_at=due_at)
        self.take(3 * self.latencies.table)
        self.result.checks += result.probed
        incident_id = result.key.open_incident_id
        if incident_id is not None and incident_id not in self._incidents:
            self._incidents.add(incident_id)
            self.result.found += 1
            self._found.add(number_of(key_id))
            broke, _ = self._breaks.get(number_of(key_id), (None, None))
            if broke is None:
                self.result.false_incidents += 1
            else:
                self._detections.append(self.second - broke)
        return result.confirmed or result.key.health.status is KeyStatus.HEALTHY

    def _outbox(self) -> None:
        """The stream brings new rows to the relay."""
        rows = [row for row in self.store.unsent_rows(self.clock.now()) if row not in self._asked_for]
        self._asked_for.update(rows)
        for first in range(0, len(rows), 25):
            self._at(self.second + self.latencies.stream, partial(self._deliver, rows[first : first + 25]))

    def _deliver(self, rows: Sequence[str]) -> None:
        began = self.second
        self.result.relay_invocations += 1
        report = self._relay(rows)
        assert not report.failures, report.failures[:3]  # noqa: S101  as above
        self.take(len(rows) * 6 * self.latencies.table)
        self.result.relay_seconds += self.second - began

    def _started(self, start: WorkflowStart) -> None:
        self.result.executions += 1
        if start.workflow is WorkflowKind.LOCKOUT:
            self._at(self.second + 1, lambda: self._confirm(start, 0))

    def _confirm(self, start: WorkflowStart, tries: int) -> None:
        """The lockout workflow: a probe every ten seconds until the outage is confirmed or over, then the decision."""
        incident = self.store.incident(start.project_id, start.incident_id)
        if incident is None:
            return
        over = self._check_one(incident.project_id, incident.key_id, Trigger.LOCKOUT, None)
        self.result.check_invocations += 1
        self.result.check_seconds += 0.1
        if not over and tries < 60:
            self._at(self.second + 10, lambda: self._confirm(start, tries + 1))
        else:
            self._decide(incident.project_id, incident.key_id, incident.incident_id)
        self._outbox()

    def _ended(self, spent: float) -> Hour:
        result = self.result
        result.kms_requests = self._customers.requests
        result.reads = dict(self.store.reads)
        result.writes = dict(self.store.writes)
        result.most_index_writes_a_second = max(self.store.index_writes.values(), default=0) / 60
        result.most_project_writes = max(self.store.table_writes.values(), default=0)
        result.notifications = sum(self._notifier.published.values())
        result.alerts = dict(self._notifier.published)
        for number in self._breaks.keys() - self._found:
            at, mended = self._breaks[number]
            lasted = min(mended, self._scenario.minutes * 60) - at
            is_short = number not in self.seen and lasted <= self._scenario.interval_minutes * 60 + 60
            result.mended_unseen += is_short
            result.overlooked += not is_short
        result.detection_median = median(self._detections) if self._detections else 0
        result.detection_worst = max(self._detections, default=0)
        result.cpu_seconds = spent
        result.peak_megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return result


def simulate(scenario: Scenario) -> Hour:
    """Run one scenario."""
    return Simulation(scenario).run()
