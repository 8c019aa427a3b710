"""Real use cases, the real relay and sweep on a table in memory; SNS, the bus and the relay itself fail.

Time goes by minutes. What is published to a topic reaches the queues whose filter policy lets it through, as in SNS.
What makes a copy more is counted where it happens, so that a duplicate without a reason shows.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import override

from keyvigil.adapters.messaging import filter_policy
from keyvigil.domain.alerts import Alert, OutboxRow, Target
from keyvigil.domain.brake import BrakeSettings
from keyvigil.domain.keys import KeyFacts, Trigger
from keyvigil.domain.projects import Enforcement, Protocol, Subscription
from keyvigil.domain.verdicts import Cause
from keyvigil.errors import ConflictError, DamagedItemError, DeliveryError
from keyvigil.ports import OutboxRelay, ProbeAnswer, Write
from keyvigil.use_cases.braking import AskBrake, Braking
from keyvigil.use_cases.check_key import CheckKey
from keyvigil.use_cases.lock_clusters import FailOverdueLock
from keyvigil.use_cases.outbox_aside import OutboxAside
from keyvigil.use_cases.reconcile import Reconcile
from keyvigil.use_cases.record_lock_result import RecordLockResult
from keyvigil.use_cases.relay_outbox import RelayResult
from keyvigil.use_cases.settle_lockout import SettleLockout
from keyvigil.use_cases.unlock_clusters import SettleRecovery
from tests.examples import NOW, key, project, verdict
from tests.fakes import (
    CountingIds,
    FakeClock,
    FakeNotifier,
    FakeWorkflow,
    MemoryStore,
    ScriptedProber,
    no_doubt,
)
from tests.unit.relaying import relay_of

PROJECTS = ("acme-prod", "beta-prod", "corp-prod")
KEYS = 14
STREAM_BATCH = 25


class KilledError(BaseException):
    """The relay's sandbox is gone, in the middle of what it did."""


@dataclass(frozen=True)
class Weather:
    """How likely each fault is at each occasion, and in which minutes a service is away altogether."""

    throttled: float = 0
    after_accepting: float = 0
    """The service took the message, and answers 500 all the same."""
    killed: float = 0
    read_twice: float = 0
    lost: float = 0
    """A batch of the stream that nobody handles."""
    overtaken: float = 0
    """Two relays have the same row at the same time."""
    poison: float = 0
    sns_down: range = range(0)
    bus_down: range = range(0)


class Topics(FakeNotifier):
    """SNS with queues behind filter policies, and the bus; both as faulty as the weather says."""

    def __init__(self, world: "Deliveries") -> None:
        super().__init__()
        self._world = world
        self.queues: dict[str, list[Alert]] = {}
        self.subscriptions: list[Subscription] = []
        self.never: set[str] = set()

    def subscribe(self, subscription: Subscription) -> None:
        self.subscriptions.append(subscription)
        self.queues[subscription.subscription_id] = []

    @override
    def publish(self, topic_arn: str, alert: Alert) -> None:
        self._world.fails_before("topic", alert)
        if alert.alert_id in self.never:
            message = "SNS did not take the message: InvalidParameter"
            raise DeliveryError(message, refused=True)
        super().publish(topic_arn, alert)
        for each in self.subscriptions:
            if topic_arn.endswith(each.project_id) and lets_through(each, alert):
                self.queues[each.subscription_id].append(alert)
        self._world.fails_after("topic", alert)

    @override
    def put_alert(self, alert: Alert) -> None:
        self._world.fails_before("bus", alert)
        super().put_alert(alert)
        self._world.fails_after("bus", alert)


def lets_through(subscription: Subscription, alert: Alert) -> bool:
    """What SNS does with a filter policy: every attribute that it names has one of the values, or begins with one.

    https://docs.aws.amazon.com/sns/latest/dg/sns-subscription-filter-policies.html
    """
    values = {"type": str(alert.type), "severity": str(alert.severity)}
    return all(
        any(
            values[name].startswith(each["prefix"]) if isinstance(each, dict) else values[name] == each
            for each in anyof
        )
        for name, anyof in filter_policy(subscription).items()
    )


class Table(MemoryStore):
    """The table; a relay may die before it marks, or another be faster, and rows may be damaged."""

    def __init__(self, world: "Deliveries") -> None:
        super().__init__()
        self._world = world
        self.damaged: set[str] = set()

    @override
    def outbox_row(self, row_id: str) -> OutboxRow | None:
        if row_id in self.damaged:
            message = f"OUTBOX#{row_id}/OUTBOX does not have the shape of its schema"
            raise DamagedItemError(message)
        return super().outbox_row(row_id)

    @override
    def commit(self, writes: Sequence[Write]) -> None:
        new = [each.entity for each in writes if isinstance(each.entity, OutboxRow) and each.entity.version == 0]
        mark = next(
            (each.entity for each in writes if isinstance(each.entity, OutboxRow) and each.entity.version), None
        )
        if mark is not None:
            self._world.before_mark(mark)
        try:
            super().commit(writes)
        except ConflictError:
            if mark is not None:
                self._world.excuse(mark)
            raise
        self._world.stream += [row.row_id for row in new]
        for row in new:
            self._world.perhaps_poison(row)


class Deliveries(OutboxRelay):
    """A fleet whose keys break and recover, and everything between that and the subscribers' queues."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311  it draws faults, not secrets
        self.weather = Weather()
        self.clock = FakeClock(NOW)
        self.store = Table(self)
        self.notifier = Topics(self)
        self.stream: list[str] = []
        self.asked: list[str] = []
        self.copies_excused: Counter[tuple[str, str]] = Counter()
        self.seen: Counter[str] = Counter()
        self.minute = 0
        self._inside = False
        self._delivered_now: dict[str, set[Target]] = {}
        ids, workflow = CountingIds(), FakeWorkflow()
        self.prober = ScriptedProber()
        self.check = CheckKey(self.store, self.prober, self.clock, ids, doubt=no_doubt, confirmation_probes=3)
        self.relay = relay_of(self.store, self.notifier, self.clock, workflow=workflow)
        settle = SettleLockout(self.store, self.clock, ids)
        record = RecordLockResult(self.store, workflow, settle, self.clock, ids)
        self.reconcile = Reconcile(
            self.store,
            workflow,
            self,
            FailOverdueLock(self.store, record, self.clock),
            settle,
            SettleRecovery(self.store, self.clock, ids),
            self.clock,
            ids,
            ask_brake=AskBrake(self.store, self.clock, BrakeSettings()),
            braking=Braking(self.store, self.clock, ids),
            confirmation_probes=3,
        )
        self.aside = OutboxAside(self.store, self.clock)
        self._broken: dict[tuple[str, str], Cause | None] = {}
        for name in PROJECTS:
            self.store.put(
                project(
                    project_id=name,
                    enforcement=Enforcement.OBSERVE,
                    check_interval_minutes=1,
                    alert_topic_arn=f"arn:aws:sns:us-west-2:111111111111:keyvigil-project-{name}",
                )
            )
            for number in range(KEYS):
                self.store.put(key(project_id=name, key_id=f"us-west-2.{number}", facts=KeyFacts(key_state="Enabled")))
                self._broken[name, f"us-west-2.{number}"] = None
            for wanted, types, severity in (
                ("all", (), "info"),
                ("keys", ("key.*",), "warning"),
                ("worst", (), "critical"),
            ):
                self.notifier.subscribe(subscription(name, wanted, types, severity))

    # --- faults -------------------------------------------------------------------------------------------------

    def happens(self, probability: float, what: str) -> bool:
        if self._inside or self.chance.random() >= probability:
            return False
        self.seen[what] += 1
        return True

    def fails_before(self, target: str, alert: Alert) -> None:
        del alert
        away = self.weather.sns_down if target == "topic" else self.weather.bus_down
        if self.minute in away:
            self.seen[f"{target} is down"] += 1
            message = f"{target} did not answer"
            raise DeliveryError(message, unreachable=True)
        if self.happens(self.weather.throttled, f"{target} throttles"):
            message = f"{target} did not take the message: Throttled"
            raise DeliveryError(message)

    def fails_after(self, target: str, alert: Alert) -> None:
        if self.happens(self.weather.after_accepting, f"{target} answers 500 after it accepted"):
            self.copies_excused[alert.alert_id, target] += 1
            message = f"{target} did not take the message: InternalFailure"
            raise DeliveryError(message)

    def before_mark(self, mark: OutboxRow) -> None:
        stored = MemoryStore.outbox_row(self.store, mark.row_id)
        before = stored.delivered if stored is not None else ()
        if not self._inside:
            self._delivered_now[mark.row_id] = set(mark.delivered) - set(before)
        if self.happens(self.weather.killed, "the relay is killed"):
            self.excuse(mark)
            raise KilledError
        if self.happens(self.weather.overtaken, "another relay is faster"):
            self._inside = True
            try:
                self.relay([mark.row_id])
            finally:
                self._inside = False

    def excuse(self, mark: OutboxRow) -> None:
        """What was delivered and could not be marked will be delivered again."""
        if mark.alert is not None:
            for target in self._delivered_now[mark.row_id] & _NAME.keys():
                self.copies_excused[mark.alert.alert_id, _NAME[target]] += 1

    def perhaps_poison(self, row: OutboxRow) -> None:
        if row.alert is not None and self.happens(self.weather.poison, "a row is poison"):
            if self.chance.random() < 0.5:
                self.store.damaged.add(row.row_id)
            else:
                self.notifier.never.add(row.alert.alert_id)

    # --- time ---------------------------------------------------------------------------------------------------

    def run(self, minutes: int, *, outages: float) -> None:
        """Let time go by. `outages` is how likely a key changes between working and not, in each minute."""
        for _ in range(minutes):
            self.minute += 1
            self.clock.advance(40)
            for (name, key_id), cause in list(self._broken.items()):
                if self.chance.random() < outages:
                    causes = (Cause.KEY_DISABLED, Cause.KEY_PENDING_DELETION)
                    self._broken[name, key_id] = None if cause is not None else self.chance.choice(causes)
                answer = verdict(self._broken[name, key_id], at=self.clock.now())
                self.prober.answers = [ProbeAnswer(verdict=answer, facts=None)]
                self.check(name, key_id, Trigger.SCHEDULE)
            self._read_stream()
            self.clock.advance(20)
            self.reconcile()
            asked, self.asked = self.asked, []
            self._relay(asked)

    def mend(self) -> None:
        """All keys work again, and every service too."""
        self.weather = Weather()
        self._broken = dict.fromkeys(self._broken)
        self.run(12, outages=0)

    def _read_stream(self) -> None:
        waiting, self.stream = self.stream, []
        while waiting:
            batch, waiting = waiting[:STREAM_BATCH], waiting[STREAM_BATCH:]
            if self.happens(self.weather.lost, "a batch is lost"):
                continue
            self._relay(batch)
            if self.happens(self.weather.read_twice, "the stream is read twice"):
                self._relay(batch)

    def _relay(self, row_ids: Sequence[str]) -> None:
        for start in range(0, len(row_ids), STREAM_BATCH):
            try:
                self._relayed(self.relay(row_ids[start : start + STREAM_BATCH]))
            except KilledError:
                continue

    def _relayed(self, result: RelayResult) -> None:
        self.seen["rows set aside"] += len(result.set_aside)

    @override
    def resend(self, row_ids: Sequence[str]) -> None:
        self.asked += row_ids


_NAME = {Target.TOPIC: "topic", Target.CHAT: "chat", Target.BUS: "bus"}


def subscription(project_id: str, name: str, types: tuple[str, ...], severity: str) -> Subscription:
    return Subscription(
        project_id=project_id,
        subscription_id=f"{project_id}/{name}",
        protocol=Protocol.SQS,
        endpoint=f"arn:aws:sqs:us-west-2:111111111111:{project_id}-{name}",
        min_severity=severity,
        types=types,
        subscription_arn="arn",
        status="confirmed",
        created_at=NOW,
    )
