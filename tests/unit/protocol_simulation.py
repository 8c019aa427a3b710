"""KeyVigil's protocol in a storm: the real use cases on ports in memory, driven by a seeded game of chance.

What can go wrong in AWS goes wrong here: keys break and mend, invocations crash before or after they did their work,
executions are killed between two steps, other writers are faster, stream records are lost, sweeps are missed or come
twice, Step Functions is out of reach, and control planes and receivers that are called (simulated_receivers.py) answer
late, twice, wrongly or not at all. Then the world
becomes calm, and what the protocol promises must have come true. The executions follow `statemachines/*.asl.json`
step by step.

`Simulation(weather, seed).run()` returns the promises that were broken. The same seed plays the same game.
"""

import contextlib
import functools
import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import override

from keyvigil.domain.alerts import AlertStatus, AlertType, LockRequest, OutboxRow, WorkflowStart
from keyvigil.domain.brake import BrakeSettings
from keyvigil.domain.canaries import CANARY_PROJECT, OwnCanary
from keyvigil.domain.clusters import Cluster, ClusterKind, ClusterStatus, LockAction, LockResult, LockVia
from keyvigil.domain.held import HeldFor
from keyvigil.domain.incidents import (
    Decision,
    Incident,
    IncidentStatus,
    LockoutVerb,
    RecoveryVerb,
    WorkflowKind,
)
from keyvigil.domain.keys import Baseline, Key, KeyStatus, Registration, Trigger
from keyvigil.domain.lock_settings import LockBounds
from keyvigil.domain.projects import Approval, Enforcement
from keyvigil.domain.verdicts import Cause
from keyvigil.errors import AlreadyExistsError, ConflictError, DeliveryError, NotFoundError, RefusedError
from keyvigil.ports import (
    CheckMessage,
    Entity,
    ExecutionAtWork,
    ExecutionState,
    OutboxRelay,
    ProbeAnswer,
    Prober,
    RegistrationAnswer,
    RestoreAnswer,
    ValidationAnswer,
    Workflow,
    Write,
)
from keyvigil.use_cases.assert_anew import AssertAnew
from keyvigil.use_cases.braking import AskBrake, Braking
from keyvigil.use_cases.call_receiver import CallReceiver
from keyvigil.use_cases.check_canary import AskCanaries, CheckCanary
from keyvigil.use_cases.check_key import CheckKey
from keyvigil.use_cases.decide_incident import DecideIncident
from keyvigil.use_cases.follow_receivers import FollowReceivers
from keyvigil.use_cases.lock_clusters import DecideLockout, FailOverdueLock, RequestLock
from keyvigil.use_cases.plan_sweep import PlanSweep
from keyvigil.use_cases.reconcile import Reconcile
from keyvigil.use_cases.record_lock_result import LockAnswer, RecordLockResult
from keyvigil.use_cases.registry import Clusters, NewCluster, Projects
from keyvigil.use_cases.settle_lockout import SettleLockout
from keyvigil.use_cases.unlock_clusters import DecideRecovery, SettleRecovery
from tests import examples
from tests.fakes import (
    CountingIds,
    FakeClock,
    FakeFindings,
    FakeNotifier,
    FakeQueue,
    FakeTopics,
    MemoryStore,
    Place,
)
from tests.unit.relaying import relay_of
from tests.unit.simulated_receivers import CALLED, SimulatedReceivers, settings

PROJECT = "acme-prod"
KEY = examples.KEY_ID
ACTING = (LockVia.EVENT, *CALLED)
PROBES = 3
STORM_SECONDS = 2400
# Longer than everything that may still be waited for when the storm ends: the longest time-out of a control plane,
# the workflow's own net of 2,100 s, and the longest pause before reconciling tries again.
CALM_SECONDS = 7200


class Promise(StrEnum):
    """What the protocol promises, whatever happens."""

    INCIDENTS_END = "every incident ends once its key is healthy and the world is calm"
    LOCKS_END = "no cluster stays locked or waiting once its key is healthy and the world is calm"
    OUTAGE_LOCKS = "no cluster is in use under a confirmed outage of an enforcing project once its lockout settled"
    ONLY_CONFIRMED_LOCKS = "nothing is locked without a confirmed outage and an incident that is locking"
    OBSERVE_LOCKS_NOTHING = "nothing is locked in a project that only observes"
    APPROVAL_IS_AWAITED = "nothing is locked in a project that wants every lockout approved"
    GRACE_IS_AWAITED = "nothing is locked before the project's grace is over"
    PEOPLE_ARE_HEARD = "nothing is locked that a person dismissed or holds"
    FENCES_RISE = "a cluster's fence only rises, and every request has its own"
    COUNTS_MATCH = "a key counts the clusters under it, and those that wait for it, right"
    ALERTS_RESOLVE = "every alert that fires is resolved once its key is healthy and the world is calm"
    ALERTS_ARE_TRUE = "an alert says of clusters and approvals only what is so"
    ANSWERS_ARE_AWAITED = "a lock is given up only when its control plane's time is over"
    NOTHING_UNSENT = "nothing stays unsent once the world is calm"
    RECEIVERS_GET_THE_NEWEST = "a receiver is called only with its cluster's newest request"
    RECEIVERS_DO_AS_IS_SHOWN = "a receiver has locked what shows LOCKED, and nothing that shows ACTIVE"
    EXECUTIONS_END = "no execution runs on once the world is calm"
    OWN_TROUBLE_IS_UNKNOWN = "what goes wrong at KeyVigil itself opens no incident and confirms none"
    RECONCILING_WORKS = "reconciling meets no error in a calm world"


@dataclass(frozen=True, kw_only=True)
class Weather:
    """One configuration of the world. Chances are from 0 to 1."""

    enforcement: Enforcement = Enforcement.ENFORCE
    approval: Approval = Approval.AUTOMATIC
    grace_minutes: int = 0
    clusters: int = 3
    flips: bool = False
    workflow_outages: bool = False
    own_trouble: bool = False
    people: bool = False
    restores: bool = False
    final_cause: Cause | None = None
    stray_verdicts: float = 0.05
    crashes: float = 0.05
    kills: float = 0.01
    races: float = 0.03
    losses: float = 0.1


WEATHERS: dict[str, Weather] = {
    "enforce": Weather(),
    "observe": Weather(enforcement=Enforcement.OBSERVE),
    "flips of enforcement": Weather(flips=True),
    "grace": Weather(grace_minutes=5),
    "manual approval": Weather(approval=Approval.MANUAL),
    "workflow service down": Weather(workflow_outages=True),
    "our own role broken at times": Weather(own_trouble=True),
    "people who decide": Weather(people=True, grace_minutes=2),
    "people who decide in an outage that stays": Weather(people=True, final_cause=Cause.KEY_PENDING_DELETION),
    "a table restored from a backup": Weather(restores=True),
    "many clusters": Weather(clusters=45),
    "an outage that stays": Weather(final_cause=Cause.KEY_DISABLED),
    "no faults of our own": Weather(crashes=0, kills=0, races=0, losses=0, stray_verdicts=0),
}


@dataclass(frozen=True)
class Answered:
    """An execution's wait for the answer to a task token."""

    token: str
    timeout_seconds: float


@dataclass(frozen=True)
class Parallel:
    """An execution's Map state: some branches at once, the next when one ends."""

    branches: Sequence["Steps"]
    at_once: int = 40


type Pause = float | Answered | Parallel
type Steps = Generator[Pause]
"""An execution: what it does between two pauses happens at once."""


class WatchedStore(MemoryStore):
    """A table that lets others be faster at times, and shows every commit."""

    def __init__(self, interfere: Callable[[], None], watch: Callable[[Sequence[Write]], None]) -> None:
        super().__init__()
        self._interfere = interfere
        self._watch = watch

    @override
    def commit(self, writes: Sequence[Write]) -> None:
        self._interfere()
        super().commit(writes)
        self._watch(writes)


class Agenda:
    """What happens when. Time passes only from one entry to the next."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._began = clock.time
        self._entries: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    @property
    def seconds(self) -> float:
        """The seconds since the game began."""
        return (self._clock.time - self._began).total_seconds()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._entries, (self.seconds + seconds, next(self._numbers), do))

    def every(self, seconds: float, do: Callable[[], None]) -> None:
        def again() -> None:
            self.after(seconds, again)
            do()

        self.after(0, again)

    def run(self, until: float) -> None:
        while self._entries and self._entries[0][0] <= until:
            at, _, do = heapq.heappop(self._entries)
            self._clock.time = max(self._clock.time, self._began + timedelta(seconds=at))
            do()


class Executions(Workflow):
    """Step Functions: runs generators, ends what is killed, wakes steps by their token."""

    def __init__(self, agenda: Agenda, steps_of: Callable[[WorkflowStart], Steps], killed: Callable[[], bool]) -> None:
        self._agenda = agenda
        self._steps_of = steps_of
        self._killed = killed
        self._started: set[str] = set()
        self._wake: dict[str, Callable[[], None]] = {}
        self._answered: set[str] = set()
        self.running: set[str] = set()
        self.unreachable = False

    def _refuse(self) -> None:
        if self.unreachable:
            message = "Step Functions does not answer"
            raise DeliveryError(message)

    @override
    def start(self, start: WorkflowStart) -> None:
        self._refuse()
        if start.name not in self._started:
            self._started.add(start.name)
            self.running.add(start.name)
            self._spawn(start.name, self._steps_of(start), lambda: self.running.discard(start.name))

    @override
    def state(self, name: str) -> ExecutionState:
        self._refuse()
        if name in self.running:
            return ExecutionState.RUNNING
        return ExecutionState.ENDED if name in self._started else ExecutionState.NOT_STARTED

    @override
    def at_work(self) -> list[ExecutionAtWork]:
        return []  # nobody stops an execution in the storm

    @override
    def project_of(self, name: str) -> str | None:
        return PROJECT

    @override
    def stop(self, name: str, reason: str) -> None:
        self.running.discard(name)

    @override
    def execution_arn(self, name: str) -> str:
        return name

    @override
    def complete(self, task_token: str, result: str, detail: str | None) -> None:
        self._refuse()
        self._answered.add(task_token)
        wake = self._wake.pop(task_token, None)
        if wake is not None:
            self._agenda.after(0.1, wake)

    def _spawn(self, name: str, steps: Steps, ended: Callable[[], None]) -> None:
        def step() -> None:
            if name not in self.running:
                return
            if self._killed():
                self.running.discard(name)
                return
            try:
                pause = next(steps)
            except StopIteration:
                ended()
                return
            self._pause(name, pause, step)

        self._agenda.after(0.1, step)

    def _pause(self, name: str, pause: Pause, step: Callable[[], None]) -> None:
        match pause:
            case Answered(token, timeout_seconds):
                if token in self._answered:
                    self._agenda.after(0.1, step)
                    return

                def time_out() -> None:
                    if self._wake.pop(token, None) is not None:
                        step()

                self._wake[token] = step
                self._agenda.after(timeout_seconds, time_out)
            case Parallel(branches, at_once):
                self._run_branches(name, list(branches), at_once, step)
            case seconds:
                self._agenda.after(seconds, step)

    def _run_branches(self, name: str, waiting: list[Steps], at_once: int, joined: Callable[[], None]) -> None:
        left = len(waiting)

        def begin_one() -> None:
            if waiting:
                self._spawn(name, waiting.pop(0), ended)

        def ended() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                joined()
            begin_one()

        for _ in range(at_once):
            begin_one()
        if left == 0:
            joined()


class Simulation(Prober, OutboxRelay):
    """One game. It is the customer's key, the control plane and the stream as well."""

    def __init__(self, weather: Weather, seed: int) -> None:
        self.weather = weather
        self.chance = random.Random(seed)  # noqa: S311 - a game, no secret
        self.broken: set[str] = set()
        self.calm = False
        self.cause: Cause | None = None
        self.own_trouble = self.own_trouble_was_seen = False
        self._interfering = False
        self._handed_over = 0
        self._fences: dict[str, int] = defaultdict(int)
        self._request_of_fence: dict[tuple[str, int], str | None] = {}
        self._confirmed: set[str] = set()
        self._clusters: dict[str, Cluster] = {}
        self._incidents: dict[str, IncidentStatus] = {}
        self._respond_by_seen: dict[str, float] = {}
        self._tokens = itertools.count()

        self.clock = FakeClock()
        self.agenda = Agenda(self.clock)
        self.store = store = WatchedStore(self._someone_was_faster, self._watch)
        self.notifier = FakeNotifier()
        self.findings = FakeFindings()
        self.queue = FakeQueue()
        self.executions = Executions(self.agenda, self._steps_of, lambda: self._happens(weather.kills))
        clock, ids = self.clock, CountingIds()

        bounds = LockBounds(account_id="111111111111", region="us-west-2", stack_name="keyvigil", runbooks=True)
        self.receivers = SimulatedReceivers(self, store, weather.crashes, weather.losses)
        self.clusters = Clusters(store, clock, bounds)
        self.projects = Projects(store, FakeTopics(), clock, ids)
        own = OwnCanary(
            key_arn=examples.KEY_ARN.replace(examples.CUSTOMER, "111111111111"),
            role_arn="arn:aws:iam::111111111111:role/canary",
            external_id="canary",
        )
        self.check_canary = CheckCanary(store, self, clock, ids, own=own)
        doubt = AskCanaries(self.check_canary, clock)
        self.check = CheckKey(store, self, clock, ids, doubt=doubt, confirmation_probes=PROBES)
        self.settle_lockout = SettleLockout(store, clock, ids)
        self.record = RecordLockResult(store, self.executions, self.settle_lockout, clock, ids)
        ask_brake = AskBrake(store, clock, BrakeSettings())
        self.decide_lockout = DecideLockout(store, ask_brake, clock, ids, confirmation_probes=PROBES)
        self.request = RequestLock(store, self.executions, self.record, clock, ids)
        self.decide_recovery = DecideRecovery(store, clock, ids)
        self.settle_recovery = SettleRecovery(store, clock, ids)
        self.person = DecideIncident(store, clock, ids)
        self.assert_anew = AssertAnew(store, clock, ids)
        self.plan_sweep = PlanSweep(store, self.queue, self.queue, clock)
        self.receivers.use_case = CallReceiver(
            store, self.receivers.by_kind, self.record, clock, ids, self.receivers, bounds
        )
        self.follow = FollowReceivers(store, self.receivers, clock)
        self.relay = relay_of(
            store, self.notifier, clock, workflow=self.executions, calls=self.receivers, findings=self.findings
        )
        self.reconcile = Reconcile(
            store,
            self.executions,
            self,
            FailOverdueLock(store, self.record, clock),
            self.settle_lockout,
            self.settle_recovery,
            clock,
            ids,
            ask_brake=ask_brake,
            braking=Braking(store, clock, ids),
            confirmation_probes=PROBES,
        )

        store.put(
            examples.project(
                enforcement=weather.enforcement, approval=weather.approval, grace_minutes=weather.grace_minutes
            ),
            examples.key(due_at=clock.time + timedelta(seconds=10)),
        )
        for number in range(weather.clusters):
            self._register(f"c{number}")

    def run(self) -> list[str]:
        """Play: a storm, then calm. Return what was promised and not kept, in words."""
        self.agenda.every(60, self._sweep)
        self.agenda.after(30, self._change_the_world)
        self.agenda.after(45, self._look_at_incidents)
        if self.weather.flips:
            self.agenda.after(60, self._flip)
        if self.weather.restores:
            self.agenda.after(self.chance.uniform(60, 1200), self._back_up)
        self.agenda.after(STORM_SECONDS, self._become_calm)
        self.agenda.run(until=STORM_SECONDS + CALM_SECONDS)
        self._look_back()
        self.receivers.close()
        return sorted(self.broken)

    def breaks(self, promise: Promise, how: object) -> None:
        self.broken.add(f"{promise}: {how}")

    # --- what receivers are given -------------------------------------------------------------------------------

    def happens(self, probability: float) -> bool:
        return self._happens(probability)

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self.agenda.after(seconds, do)

    def let_pass(self, seconds: float) -> None:
        """While somebody waits, everything else goes on."""
        ends = self.agenda.seconds + seconds
        self.agenda.run(until=ends)
        self.clock.advance(max(0.0, ends - self.agenda.seconds))

    def answer(self, answer: LockAnswer) -> None:
        self._answer(answer)

    def called_wrongly(self, how: str) -> None:
        self.breaks(Promise.RECEIVERS_GET_THE_NEWEST, how)

    # --- chance -------------------------------------------------------------------------------------------------

    def _happens(self, probability: float) -> bool:
        return not self.calm and self.chance.random() < probability

    def _someone_was_faster(self) -> None:
        """Between a use case's reading and its commit, another one commits."""
        if self._interfering or not self._happens(self.weather.races):
            return
        self._interfering = True
        with contextlib.suppress(ConflictError, NotFoundError, DeliveryError):
            match self.chance.choice(("probe", "probe", "probe", "register", "reconcile")):
                case "probe":
                    self.check(PROJECT, KEY, Trigger.REQUEST)
                case "register":
                    self._register(self._some_cluster())
                case _:
                    self.reconcile()
        self._interfering = False

    def _some_cluster(self) -> str:
        return f"c{self.chance.randrange(5)}"

    def _register(self, cluster_id: str) -> None:
        lock = settings(
            self.chance.choice((LockVia.EVENT, LockVia.EVENT, LockVia.NONE, LockVia.LAMBDA, *CALLED)),
            self.chance.choice((30, 300, 1800)),
        )
        new = NewCluster(
            cluster_id=cluster_id, name=cluster_id, kind=ClusterKind.OTHER, region="us-west-2", key_id=KEY, lock=lock
        )
        with contextlib.suppress(AlreadyExistsError, ConflictError, RefusedError):
            self.clusters.register(PROJECT, new)

    # --- the world ----------------------------------------------------------------------------------------------

    def _change_the_world(self) -> None:
        if self.calm:
            return
        outages = (Cause.KEY_DISABLED, Cause.KEY_DISABLED, Cause.ACCESS_DENIED, Cause.THROTTLED)
        self.cause = self.chance.choice((None, None, *outages))
        if self.weather.workflow_outages:
            self.executions.unreachable = self._happens(0.2)
        if self.weather.own_trouble and not self.own_trouble:
            self.own_trouble, self.own_trouble_was_seen = self._happens(0.5), False
        self.notifier.broken = {target for target in ("topic", "bus") if self._happens(self.weather.losses)}
        if self._happens(0.3):
            cluster_id = self._some_cluster()
            with contextlib.suppress(RefusedError, ConflictError):
                try:
                    self.clusters.delete(PROJECT, cluster_id)
                except NotFoundError:
                    self._register(cluster_id)
        self.agenda.after(self.chance.choice((10, 30, 60, 120, 300, 600)), self._change_the_world)

    def _back_up(self) -> None:
        backup = dict(self.store.items)
        self.agenda.after(self.chance.uniform(1, 1100), lambda: self._restore(backup))

    def _restore(self, backup: dict[Place, Entity]) -> None:
        """The table is what it was; whoever restored it says so, and what watches over each commit forgets with it."""
        self.store.items = backup
        self._clusters.clear()
        self._incidents.clear()
        # What was registered since is registered again as something new, whose next fence is above by its time.
        known = {each.cluster_id for each in backup.values() if isinstance(each, Cluster)}
        self._fences = defaultdict(int, {name: fence for name, fence in self._fences.items() if name in known})
        while True:
            with contextlib.suppress(ConflictError):
                self.assert_anew()
                return

    def _flip(self) -> None:
        """An operator who cannot make up their mind."""
        if not self.calm:
            self._enforce(self.chance.choice((Enforcement.ENFORCE, Enforcement.ENFORCE, Enforcement.OBSERVE)))
            self.agenda.after(self.chance.choice((1.0, 60.0, 300.0)), self._flip)

    def _look_at_incidents(self) -> None:
        """People: in the storm some decide anything; in the calm somebody lets go what waits for a person."""
        for project_id, incident_id in self.store.open_incidents():
            incident = self.store.incident(project_id, incident_id)
            assert incident is not None
            decision: Decision | None = None
            if self.calm:
                waits = incident.held_for in {HeldFor.FLAPPING, HeldFor.OPERATOR} or incident.is_dismissed
                decision = Decision.APPROVE if waits else None
            elif self.weather.people and self._happens(0.5):
                decision = self.chance.choice(tuple(Decision))
            if decision is not None:
                with contextlib.suppress(RefusedError, ConflictError):
                    self.person(project_id, incident_id, decision, reason="I looked", by="arn:eve")
        self.agenda.after(self.chance.choice((1, 30, 300)), self._look_at_incidents)

    def _enforce(self, enforcement: Enforcement) -> None:
        self.projects.update(PROJECT, {"enforcement": enforcement})

    def _become_calm(self) -> None:
        self.calm = True
        self.cause = self.weather.final_cause
        self.executions.unreachable = self.own_trouble = False
        self.notifier.broken = set()
        if self.weather.flips:
            self._enforce(Enforcement.ENFORCE)

    # --- what AWS does ------------------------------------------------------------------------------------------

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        """Our own trouble denies us every role, the canary's too.

        It may be over between a customer's denial and the canary's next probe, once a canary has seen it: one that
        nobody saw from its beginning to its end looks like a customer's doing.
        """
        cause = self.cause
        if key.project_id == CANARY_PROJECT:
            self.own_trouble_was_seen |= self.own_trouble
            cause = Cause.ROLE_NOT_ASSUMABLE if self.own_trouble else None
            return ProbeAnswer(verdict=examples.verdict(cause, at=self.clock.now(), latency_ms=0), facts=None)
        if self.own_trouble:
            self.own_trouble = not (self.own_trouble_was_seen and self._happens(0.1))
            denied = examples.verdict(Cause.ROLE_NOT_ASSUMABLE, at=self.clock.now(), latency_ms=0)
            return ProbeAnswer(verdict=denied, facts=None)
        if self._happens(self.weather.stray_verdicts):
            cause = self.chance.choice((None, Cause.KEY_DISABLED, Cause.ACCESS_DENIED, Cause.THROTTLED))
        return ProbeAnswer(verdict=examples.verdict(cause, at=self.clock.now(), latency_ms=0), facts=None)

    @override
    def probe_registration(self, registration: Registration, *, spent_seconds: float = 0) -> RegistrationAnswer:
        """No key is registered in the storm; only the canary makes itself known."""
        self.own_trouble_was_seen |= self.own_trouble
        verdict = examples.verdict(
            Cause.ROLE_NOT_ASSUMABLE if self.own_trouble else None, at=self.clock.now(), latency_ms=0
        )
        return RegistrationAnswer(
            verdict=verdict,
            role_checks_external_id=None if self.own_trouble else True,
            key_arn=registration.key_arn,
            baseline=None if self.own_trouble else Baseline.of(b"ciphertext", registration.context, self.clock.now()),
            facts=None,
        )

    @override
    def validate(self, registration: Registration) -> ValidationAnswer:
        message = "no key is validated in the storm"
        raise AssertionError(message)

    @override
    def check_restore(self, key: Key, region: str) -> RestoreAnswer:
        message = "nothing is restored in the storm"
        raise AssertionError(message)

    def _sweep(self) -> None:
        """The schedule, the check queue (at least once, and lost at times) and the reconciling that follows."""
        if self._happens(0.05):
            return
        self.queue.messages.clear()
        self.queue.canaries.clear()
        self.plan_sweep()
        for message in (*self.queue.canaries, *self.queue.messages):
            for _ in range(2 if self._happens(0.1) else 1):
                self.agenda.after(3 * self.chance.random(), functools.partial(self._check, message))
        self.agenda.after(4, self._reconcile)

    def _check(self, message: CheckMessage) -> None:
        if self._happens(self.weather.crashes):
            return
        with contextlib.suppress(ConflictError):
            if message.canary:
                self.check_canary(message.key_id, due_at=message.due_at)
                return
            self.check(message.project_id, message.key_id, Trigger.SCHEDULE, due_at=message.due_at)

    def _reconcile(self) -> None:
        errors = [*self.reconcile().errors, *self.follow().errors]
        if self.calm and errors:
            self.breaks(Promise.RECONCILING_WORKS, errors)

    @override
    def resend(self, row_ids: Sequence[str]) -> None:
        self.agenda.after(1, lambda: self._relay(row_ids))

    def _relay(self, row_ids: Sequence[str]) -> None:
        """One batch of the stream, or one call of the reconciler's; either may be lost."""
        if self._happens(self.weather.losses):
            return
        self.relay(row_ids)
        while self._handed_over < len(self.notifier.requests):
            self._control_plane_takes(self.notifier.requests[self._handed_over])
            self._handed_over += 1

    def _control_plane_takes(self, asked: LockRequest) -> None:
        """Most act and answer soon; some late, some are asked twice, some fail, some do nothing."""
        mood = "obedient" if self.calm else self.chance.choice(("obedient",) * 8 + ("fails", "silent"))
        if mood == "silent":
            return
        seconds = 2.0 if self.calm else self.chance.choice((1.0, 5.0, 40.0, 120.0, 250.0, 400.0))

        def act_and_answer() -> None:
            result = LockResult.FAILED if mood == "fails" else self.receivers.take(asked)
            self._answer(
                LockAnswer(
                    project_id=PROJECT,
                    cluster_id=asked.cluster_id,
                    fence=asked.fence,
                    result=result,
                    detail=None,
                    by="its control plane",
                )
            )

        self.agenda.after(seconds, act_and_answer)
        if self._happens(0.3):
            self.agenda.after(seconds + 200 * self.chance.random(), act_and_answer)
        if self._happens(0.1):
            # The bus delivers at least once: again after long, when the cluster may have been unlocked since.
            self.agenda.after(seconds + 3000 * self.chance.random(), act_and_answer)

    def _answer(self, answer: LockAnswer) -> None:
        with contextlib.suppress(NotFoundError, ConflictError, DeliveryError):
            self.record(answer)

    # --- the workflows ------------------------------------------------------------------------------------------

    def _steps_of(self, start: WorkflowStart) -> Steps:
        return self._lockout(start) if start.workflow is WorkflowKind.LOCKOUT else self._recovery(start)

    def _invoke[T](self, call: Callable[[], T]) -> Generator[Pause, None, T | None]:
        """A Task with its Retry: five attempts, each of which may crash before or after its work. None: caught."""
        for _ in range(5):
            if self._happens(self.weather.crashes):
                yield self.chance.choice((1.0, 30.0))
                continue
            try:
                answer = call()
            except (ConflictError, DeliveryError):
                yield 2.0
                continue
            except NotFoundError:
                return None
            if self.weather.flips and self._happens(0.1):
                self._enforce(self.chance.choice(list(Enforcement)))
            if self._happens(self.weather.crashes):
                yield self.chance.choice((1.0, 30.0))
                continue
            yield 0.5
            return answer
        return None

    def _lockout(self, start: WorkflowStart) -> Steps:
        for _ in range(40):
            found = yield from self._invoke(lambda: self.check(PROJECT, KEY, Trigger.LOCKOUT))
            if found is not None:
                mine = found.key.open_incident_id == start.incident_id
                if found.confirmed and mine:
                    plan = yield from self._invoke(lambda: self.decide_lockout(PROJECT, KEY, start.incident_id))
                    if plan is None:
                        return
                    if plan.decision.verb is LockoutVerb.LOCK:
                        yield self._map(LockAction.LOCK, start.incident_id, plan.cluster_ids)
                        yield from self._invoke(lambda: self.settle_lockout(PROJECT, KEY, start.incident_id))
                        return
                    if plan.decision.verb is not LockoutVerb.WAIT:
                        return
                elif found.key.health.status is KeyStatus.HEALTHY or not mine:
                    return
            yield 10.0

    def _recovery(self, start: WorkflowStart) -> Steps:
        for _ in range(41):
            plan = yield from self._invoke(lambda: self.decide_recovery(PROJECT, KEY, start.incident_id))
            if plan is None:
                return
            if plan.decision.verb is RecoveryVerb.UNLOCK:
                yield self._map(LockAction.UNLOCK, start.incident_id, plan.cluster_ids)
                yield from self._invoke(lambda: self.settle_recovery(PROJECT, KEY, start.incident_id))
                return
            if plan.decision.verb is not RecoveryVerb.WAIT:
                return
            yield 10.0
            yield from self._invoke(lambda: self.check(PROJECT, KEY, Trigger.RECOVERY))

    def _map(self, action: LockAction, incident_id: str, cluster_ids: Sequence[str]) -> Parallel:
        return Parallel([self._ask(action, incident_id, cluster_id) for cluster_id in cluster_ids])

    def _ask(self, action: LockAction, incident_id: str, cluster_id: str) -> Steps:
        """A Task that waits for its token. Every attempt has a token of its own."""
        for _ in range(5):
            token = f"token-{next(self._tokens)}"
            if self._happens(self.weather.crashes):
                yield 1.0
                continue
            try:
                self.request(action, PROJECT, cluster_id, incident_id, token)
            except (ConflictError, DeliveryError):
                yield 2.0
                continue
            if self._happens(self.weather.crashes):
                yield self.chance.choice((1.0, 30.0))
                continue
            yield Answered(token, 2100)
            return

    # --- the promises -------------------------------------------------------------------------------------------

    def _watch(self, writes: Sequence[Write]) -> None:
        """Look at every commit."""
        new_rows = []
        for write in writes:
            match write.entity:
                case Cluster() as cluster:
                    self._watch_cluster(cluster)
                case Incident() as incident:
                    self._watch_incident(incident)
                case OutboxRow(version=0) as row:
                    new_rows.append(row.row_id)
                    self._watch_alert(row)
                case _:
                    pass
        if new_rows:
            self.agenda.after(1, lambda: self._relay(new_rows))

    def _watch_cluster(self, cluster: Cluster) -> None:
        name, now = cluster.cluster_id, self.clock.now()
        if cluster.fence < self._fences[name]:
            self.breaks(Promise.FENCES_RISE, f"{name} fell to {cluster.fence}")
        asked = cluster.status in {ClusterStatus.LOCKING, ClusterStatus.UNLOCKING}
        before = self._clusters.get(name)
        self._clusters[name] = cluster
        if cluster.status is ClusterStatus.UNLOCKING and before is not None and self._is_asked_to_lock(before):
            self.breaks(Promise.ANSWERS_ARE_AWAITED, "an unlock overtook its lock")
        if asked and self._request_of_fence.setdefault((name, cluster.fence), cluster.task_token) != cluster.task_token:
            self.breaks(Promise.FENCES_RISE, f"{name} was asked twice with {cluster.fence}")
        was_asked_before = cluster.fence == self._fences[name]
        self._fences[name] = cluster.fence
        if cluster.status is ClusterStatus.LOCKING and not was_asked_before:
            self._watch_lock(cluster)
        if asked and cluster.respond_by is not None:
            self._respond_by_seen[name] = cluster.respond_by.timestamp()
        given_up = cluster.status is ClusterStatus.LOCK_FAILED and (cluster.detail or "").startswith("no answer")
        if given_up and now.timestamp() < self._respond_by_seen[name]:
            self.breaks(Promise.ANSWERS_ARE_AWAITED, f"{name} had time until {self._respond_by_seen[name]}")

    def _is_asked_to_lock(self, cluster: Cluster) -> bool:
        """Whether its control plane may still answer in time."""
        in_time = cluster.respond_by is not None and cluster.respond_by > self.clock.now()
        return cluster.status is ClusterStatus.LOCKING and in_time

    def _watch_lock(self, cluster: Cluster) -> None:
        incident = self.store.incident(PROJECT, cluster.locked_by_incident_id or "")
        project, key = self.store.project(PROJECT), self.store.key(PROJECT, KEY)
        assert incident is not None
        assert project is not None
        assert key is not None
        if incident.confirmed_at is None or not key.health.confirmed:
            self.breaks(Promise.ONLY_CONFIRMED_LOCKS, f"locked when the key was {key.health.status}")
        if incident.status is not IncidentStatus.LOCKING:
            self.breaks(Promise.ONLY_CONFIRMED_LOCKS, f"its incident is {incident.status}")
        if project.enforcement is Enforcement.OBSERVE:
            self.breaks(Promise.OBSERVE_LOCKS_NOTHING, cluster.status)
        decision = incident.decision.decision if incident.decision is not None else None
        if decision in {Decision.DISMISS, Decision.HOLD}:
            self.breaks(Promise.PEOPLE_ARE_HEARD, f"{decision} at {incident.status}")
        approved = decision is Decision.APPROVE
        if project.approval is Approval.MANUAL and not approved:
            self.breaks(Promise.APPROVAL_IS_AWAITED, cluster.status)
        grace = timedelta(minutes=project.grace_minutes)
        early = incident.confirmed_at is not None and self.clock.now() < incident.confirmed_at + grace
        if incident.confirmed_at is not None and early and not approved:
            self.breaks(Promise.GRACE_IS_AWAITED, f"locked {self.clock.now() - incident.confirmed_at} after")

    def _watch_incident(self, incident: Incident) -> None:
        project, key = self.store.project(PROJECT), self.store.key(PROJECT, KEY)
        assert project is not None
        assert key is not None
        if incident.cause is Cause.ROLE_NOT_ASSUMABLE:
            self.breaks(Promise.OWN_TROUBLE_IS_UNKNOWN, incident.status)
        if incident.confirmed_at is not None and incident.incident_id not in self._confirmed:
            self._confirmed.add(incident.incident_id)
            if key.health.failing_streak < PROBES:
                self.breaks(Promise.ONLY_CONFIRMED_LOCKS, f"confirmed by {key.health.failing_streak} failing probes")
        before = self._incidents.get(incident.incident_id)
        self._incidents[incident.incident_id] = incident.status
        if before is not IncidentStatus.LOCKING or incident.status is IncidentStatus.LOCKING:
            return
        for cluster in self.store.clusters_of_key(PROJECT, KEY):
            if cluster.locked_by_incident_id == incident.incident_id and self._is_asked_to_lock(cluster):
                self.breaks(Promise.ANSWERS_ARE_AWAITED, f"its incident became {incident.status}")
        outage = key.health.status is KeyStatus.UNHEALTHY and key.open_incident_id == incident.incident_id
        if outage and project.enforcement is Enforcement.ENFORCE and not incident.is_dismissed:
            for cluster in self.store.clusters_of_key(PROJECT, KEY):
                if cluster.status is ClusterStatus.ACTIVE:
                    self.breaks(Promise.OUTAGE_LOCKS, f"ACTIVE when its incident became {incident.status}")

    def _watch_alert(self, row: OutboxRow) -> None:
        if row.alert is None:
            return
        alert = row.alert
        if alert.incident_id is None:
            return
        incident = self.store.incident(PROJECT, alert.incident_id)
        assert incident is not None
        if alert.type is AlertType.CLUSTER_UNLOCKED:
            for listed in alert.clusters:
                cluster = self.store.cluster(PROJECT, listed.cluster_id)
                if cluster is None or cluster.status is not ClusterStatus.ACTIVE:
                    self.breaks(Promise.ALERTS_ARE_TRUE, f"{alert.type} lists {cluster and cluster.status}")
        asked = {HeldFor.APPROVAL, HeldFor.FLAPPING}
        if alert.type is AlertType.APPROVAL_NEEDED and incident.held_for not in asked:
            self.breaks(Promise.ALERTS_ARE_TRUE, f"{alert.type} of an incident held for {incident.held_for}")

    def _look_back(self) -> None:
        """Look at what is left when the world has been calm for long."""
        key = self.store.key(PROJECT, KEY)
        assert key is not None
        live = self.store.clusters_of_key(PROJECT, KEY)
        waiting = sum(cluster.status is ClusterStatus.PENDING_KEY for cluster in live)
        if (key.clusters, key.pending_clusters) != (len(live), waiting):
            counted = (key.clusters, key.pending_clusters)
            self.breaks(Promise.COUNTS_MATCH, f"counted {counted}, there are {(len(live), waiting)}")
        if self.weather.final_cause is None:
            self._look_back_on_a_healthy_key(live)
        else:
            for cluster in live:
                if cluster.status not in {ClusterStatus.LOCKED, ClusterStatus.PENDING_KEY}:
                    self.breaks(Promise.OUTAGE_LOCKS, f"{cluster.status} in the end")
        unsent = sum(row.sent_at is None for row in self.store.rows())
        if unsent:
            self.breaks(Promise.NOTHING_UNSENT, f"{unsent} rows")
        told = {alert.alert_id for _, alert in self.notifier.published}
        on_bus = {alert.alert_id for alert in self.notifier.bus}
        sent = [row.alert for row in self.store.rows() if row.alert is not None and not row.withheld]
        missed = [alert for alert in sent if alert.alert_id not in told & on_bus]
        if missed:
            self.breaks(Promise.NOTHING_UNSENT, f"{len(missed)} alerts did not reach topic and bus")
        for cluster in live:
            shown = {ClusterStatus.LOCKED: True, ClusterStatus.ACTIVE: False}.get(cluster.status)
            if cluster.lock.via in ACTING and cluster.fence and shown not in {None, self.receivers.is_locked(cluster)}:
                self.breaks(Promise.RECEIVERS_DO_AS_IS_SHOWN, f"{cluster.status} in the end")
        if self.executions.running:
            self.breaks(Promise.EXECUTIONS_END, sorted(self.executions.running))

    def _look_back_on_a_healthy_key(self, live: Sequence[Cluster]) -> None:
        for incident in self.store.all(Incident):
            if incident.is_open:
                self.breaks(Promise.INCIDENTS_END, f"{incident.status}")
        for cluster in live:
            if cluster.status is not ClusterStatus.ACTIVE:
                self.breaks(Promise.LOCKS_END, f"{cluster.status}")
        for incident in self.store.all(Incident):
            [finding] = [each for each in self.findings.found.values() if each.incident_id == incident.incident_id]
            if not finding.over:
                self.breaks(Promise.ALERTS_RESOLVE, f"the finding of an incident that is {incident.status}")
        last = {alert.dedup_key: alert for alert in self.store.alerts()}
        for alert in last.values():
            if alert.status is AlertStatus.FIRING:
                self.breaks(Promise.ALERTS_RESOLVE, f"{alert.type}")
