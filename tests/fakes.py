"""In-memory ports. They implement the real Protocols, so mypy tells when they drift away from them."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast, override

from keyvigil.domain.actors import Actor
from keyvigil.domain.alerts import Alert, LockRequest, OutboxRow, WorkflowStart
from keyvigil.domain.attribution import ActorSearch, EventHints
from keyvigil.domain.backups import Backup
from keyvigil.domain.brake import Brake, LockoutTally
from keyvigil.domain.canaries import Canary
from keyvigil.domain.clusters import Cluster, ClusterStatus, LockSettings
from keyvigil.domain.findings import Finding
from keyvigil.domain.incidents import TIMELINE_SHOWN, Incident, TimelineEntry
from keyvigil.domain.key_events import KeyPointer
from keyvigil.domain.keys import Key, KeyStatus, Registration, RoleClaim, Trigger
from keyvigil.domain.lock_calls import CallAnswer
from keyvigil.domain.out_of_turn import OutOfTurn
from keyvigil.domain.projects import Project, Subscription
from keyvigil.domain.quiet import Ledger
from keyvigil.domain.quotas import next_probe
from keyvigil.domain.shut_clusters import SHUT
from keyvigil.domain.silences import Silences
from keyvigil.domain.staleness import FleetTold
from keyvigil.domain.verdicts import Verdict
from keyvigil.errors import CheckerUnavailableError, ConflictError, DeliveryError, RefusedError
from keyvigil.ports import (
    DUE_KEYS_READ,
    CallHistory,
    CheckMessage,
    CheckQueue,
    Clock,
    DueKey,
    Entity,
    ExecutionAtWork,
    ExecutionState,
    FindActorMessage,
    Findings,
    FleetCounts,
    Heartbeat,
    Ids,
    KeyChecker,
    LockReceiver,
    Notifier,
    OutboxRelay,
    Page,
    Pauses,
    ProbeAnswer,
    Prober,
    Put,
    ReceiverCalls,
    RegistrationAnswer,
    Remove,
    RestoreAnswer,
    RoleAudit,
    RowAside,
    Store,
    SweepRecord,
    Topics,
    ValidationAnswer,
    Workflow,
    Write,
)
from tests.event_schemas import checked

type Place = tuple[str, ...]


class FakeClock(Clock):
    """A clock that stands still until it is moved."""

    def __init__(self, start: datetime = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)) -> None:
        self.time = start

    @override
    def now(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class FakePauses(Pauses):
    """Moves a clock instead of waiting, by all that it may."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.pauses: list[float] = []

    @override
    def up_to(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._clock.advance(seconds)


class CountingIds(Ids):
    """Ids that count up and look like ULIDs."""

    def __init__(self) -> None:
        self._count = 0

    @override
    def ulid(self) -> str:
        self._count += 1
        return f"01J{self._count:023d}"

    @override
    def external_id(self) -> str:
        return f"external-{self.ulid()}"


def place(entity: Entity) -> Place:  # noqa: C901, PLR0912  one line a kind
    match entity:
        case Project():
            return ("project", entity.project_id)
        case Key():
            return ("key", entity.project_id, entity.key_id)
        case RoleClaim():
            return ("role", entity.account_id, entity.role_name.lower())
        case KeyPointer() | EventHints() | ActorSearch():
            return place_for_events(entity)
        case Cluster():
            return ("cluster", entity.project_id, entity.cluster_id)
        case Backup():
            return ("backup", entity.project_id, entity.backup_id)
        case Incident():
            return ("incident", entity.project_id, entity.incident_id)
        case TimelineEntry():
            return ("timeline", entity.incident_id, entity.entry_id)
        case Subscription():
            return ("subscription", entity.project_id, entity.subscription_id)
        case OutboxRow():
            return ("outbox", entity.row_id)
        case FleetTold():
            return ("fleet", "told")
        case Brake():
            return ("brake", str(entity.region), str(entity.cause), str(entity.project_id))
        case LockoutTally():
            return ("lockout tally",)
        case Ledger():
            return ("quiet", entity.project_id or "", entity.key_id or "")
        case Silences():
            return ("silences", entity.project_id)
        case Canary():
            return ("canary", entity.canary_id)
        case OutOfTurn():
            return ("out of turn", entity.account_id, entity.region)


def place_for_events(entity: KeyPointer | EventHints | ActorSearch) -> Place:
    match entity:
        case KeyPointer():
            return ("pointer", entity.account_id, entity.resource, entity.project_id, entity.key_id)
        case EventHints():
            return ("hints", entity.project_id, entity.key_id)
        case ActorSearch():
            return ("search", entity.project_id, entity.incident_id)


class MemoryStore(Store):
    """A table in memory, with the same conditions. `before_commit` lets a test be the faster writer."""

    def __init__(self) -> None:
        self.items: dict[Place, Entity] = {}
        self.commits: list[Sequence[Write]] = []
        self.before_commit: Callable[[], None] | None = None
        self.aside: dict[str, RowAside] = {}
        self._sweeps: set[datetime] = set()
        self._last_sweep: SweepRecord | None = None
        self._role_audit: RoleAudit | None = None
        self._lock = threading.RLock()

    @override
    def commit(self, writes: Sequence[Write]) -> None:
        if len(writes) > 100:
            message = "a transaction takes 100 writes"
            raise ValueError(message)
        if len({place(write.entity) for write in writes}) < len(writes):
            message = "a transaction names an item once"
            raise ValueError(message)
        hook, self.before_commit = self.before_commit, None
        if hook is not None:
            hook()
        with self._lock:
            for write in writes:
                self._check(write)
            for write in writes:
                match write:
                    case Put(entity):
                        self.items[place(entity)] = replace(entity, version=entity.version + 1)
                    case Remove(entity):
                        self.items.pop(place(entity), None)
            self.commits.append(writes)

    def _check(self, write: Write) -> None:
        found = self.items.get(place(write.entity))
        version = found.version if found is not None else 0
        if version != write.entity.version:
            message = f"{place(write.entity)} is at version {version}, not {write.entity.version}"
            raise ConflictError(message)
        if isinstance(write, Remove) and isinstance(found, Cluster) and found.fence > 0:
            message = "the fence would be forgotten"
            raise ConflictError(message)
        lower = isinstance(write, Put) and isinstance(found, Cluster) and isinstance(write.entity, Cluster)
        if lower and cast("Cluster", write.entity).fence < cast("Cluster", found).fence:
            message = "the fence is below the highest seen"
            raise ConflictError(message)

    def put(self, *entities: Entity) -> None:
        """Put a test's starting point into the table, whatever is there."""
        for entity in entities:
            self.items[place(entity)] = replace(entity, version=1)

    def all[T](self, kind: type[T]) -> list[T]:
        """Everything of one kind, in order of its place."""
        mine = ((place, entity) for place, entity in self.items.items() if isinstance(entity, kind))
        return [entity for _, entity in sorted(mine, key=lambda each: each[0])]

    def rows(self) -> list[OutboxRow]:
        return self.all(OutboxRow)

    def alerts(self) -> list[Alert]:
        return [row.alert for row in self.rows() if row.alert is not None]

    def starts(self) -> list[WorkflowStart]:
        return [row.workflow_start for row in self.rows() if row.workflow_start is not None]

    def lock_requests(self) -> list[LockRequest]:
        return [row.lock_request for row in self.rows() if row.lock_request is not None]

    @override
    def project(self, project_id: str) -> Project | None:
        return cast("Project | None", self.items.get(("project", project_id)))

    @override
    def key(self, project_id: str, key_id: str) -> Key | None:
        return cast("Key | None", self.items.get(("key", project_id, key_id)))

    @override
    def role_claim(self, account_id: str, role_name: str) -> RoleClaim | None:
        return cast("RoleClaim | None", self.items.get(("role", account_id, role_name.lower())))

    @override
    def pointer(self, pointer: KeyPointer) -> KeyPointer | None:
        return cast("KeyPointer | None", self.items.get(place(pointer)))

    @override
    def pointers(self, account_id: str, resource: str, limit: int) -> list[KeyPointer]:
        found = [each for each in self.all(KeyPointer) if (each.account_id, each.resource) == (account_id, resource)]
        return found[:limit]

    @override
    def event_hints(self, project_id: str, key_id: str) -> EventHints | None:
        return cast("EventHints | None", self.items.get(("hints", project_id, key_id)))

    @override
    def actor_search(self, project_id: str, incident_id: str) -> ActorSearch | None:
        return cast("ActorSearch | None", self.items.get(("search", project_id, incident_id)))

    @override
    def due_searches(self, until: datetime, limit: int) -> list[tuple[str, str]]:
        due = [
            (each.next_at, each.project_id, each.incident_id)
            for each in self.all(ActorSearch)
            if each.done_at is None and each.next_at is not None and each.next_at <= until
        ]
        return [(project_id, incident_id) for _, project_id, incident_id in sorted(due)[:limit]]

    @override
    def cluster(self, project_id: str, cluster_id: str) -> Cluster | None:
        return cast("Cluster | None", self.items.get(("cluster", project_id, cluster_id)))

    @override
    def incident(self, project_id: str, incident_id: str) -> Incident | None:
        return cast("Incident | None", self.items.get(("incident", project_id, incident_id)))

    @override
    def subscription(self, project_id: str, subscription_id: str) -> Subscription | None:
        return cast("Subscription | None", self.items.get(("subscription", project_id, subscription_id)))

    @override
    def outbox_row(self, row_id: str) -> OutboxRow | None:
        return cast("OutboxRow | None", self.items.get(("outbox", row_id)))

    @override
    def ledger(self, project_id: str | None, key_id: str | None) -> Ledger:
        empty = Ledger(project_id=project_id, key_id=key_id)
        return cast("Ledger", self.items.get(("quiet", project_id or "", key_id or ""), empty))

    @override
    def due_ledgers(self, now: datetime) -> list[tuple[str | None, str | None]]:
        due = [each for each in self.all(Ledger) if each.next_at is not None and each.next_at <= now]
        return [(each.project_id, each.key_id) for each in due]

    @override
    def silences(self, project_id: str) -> Silences:
        return cast("Silences", self.items.get(("silences", project_id), Silences(project_id=project_id)))

    @override
    def canary(self, canary_id: str) -> Canary | None:
        return cast("Canary | None", self.items.get(("canary", canary_id)))

    @override
    def canaries(self) -> list[Canary]:
        return self.all(Canary)

    def _page[T](self, items: list[T], limit: int, token: str | None) -> Page[T]:
        if token is not None and not (token.isascii() and token.isdecimal()):
            raise RefusedError(400, "Invalid next_token", "Pass the `next_token` of the page before, as it was given.")
        start = int(token) if token else 0
        end = start + limit
        return Page(tuple(items[start:end]), str(end) if end < len(items) else None)

    @override
    def projects(self, limit: int, token: str | None) -> Page[Project]:
        return self._page(self.all(Project), limit, token)

    @override
    def keys(self, project_id: str, limit: int, token: str | None) -> Page[Key]:
        return self._page([each for each in self.all(Key) if each.project_id == project_id], limit, token)

    @override
    def clusters(self, project_id: str, limit: int, token: str | None) -> Page[Cluster]:
        mine = [each for each in self.all(Cluster) if each.project_id == project_id and not each.deleted_at]
        return self._page(mine, limit, token)

    @override
    def clusters_of_key(self, project_id: str, key_id: str) -> list[Cluster]:
        return [each for each in self.clusters(project_id, 10_000, None).items if each.key_id == key_id]

    @override
    def backup(self, project_id: str, backup_id: str) -> Backup | None:
        return cast("Backup | None", self.items.get(("backup", project_id, backup_id)))

    @override
    def backups(self, project_id: str, limit: int, token: str | None) -> Page[Backup]:
        return self._page([each for each in self.all(Backup) if each.project_id == project_id], limit, token)

    @override
    def backups_of_key(self, project_id: str, key_id: str, limit: int) -> list[Backup]:
        return [each for each in self.backups(project_id, 100_000, None).items if each.key_id == key_id][:limit]

    @override
    def incidents(self, project_id: str, limit: int, token: str | None) -> Page[Incident]:
        mine = [each for each in self.all(Incident) if each.project_id == project_id]
        return self._page(mine[::-1], limit, token)

    @override
    def timeline(self, incident_id: str, newest: int = TIMELINE_SHOWN) -> list[TimelineEntry]:
        return [each for each in self.all(TimelineEntry) if each.incident_id == incident_id][-newest:]

    @override
    def timeline_page(self, incident_id: str, limit: int, token: str | None) -> Page[TimelineEntry]:
        return self._page([each for each in self.all(TimelineEntry) if each.incident_id == incident_id], limit, token)

    @override
    def subscriptions(self, project_id: str, limit: int, token: str | None) -> Page[Subscription]:
        return self._page([each for each in self.all(Subscription) if each.project_id == project_id], limit, token)

    @override
    def due_keys(self, until: datetime, most: int = DUE_KEYS_READ) -> list[DueKey]:
        due = [
            DueKey(
                each.project_id,
                each.key_id,
                each.due_at,
                each.role_arn.split(":")[4],
                next_probe(each),
                each.health.unknown_since is not None,
            )
            for each in self.all(Key)
            if each.due_at <= until
        ]
        due.sort(key=lambda each: each.due_at)
        known, unknown = ([each for each in due if each.unknown is which][:most] for which in (False, True))
        return sorted(known + unknown, key=lambda each: each.due_at)

    @override
    def unsent_rows(self, before: datetime) -> list[str]:
        unsent = [row for row in self.rows() if row.sent_at is None and row.row_id not in self.aside]
        return [row.row_id for row in unsent if row.created_at <= before]

    @override
    def set_aside(self, row_id: str, reason: str, at: datetime) -> bool:
        row = self.items.get(("outbox", row_id))
        if not isinstance(row, OutboxRow) or row.sent_at is not None or row_id in self.aside:
            return False
        self.aside[row_id] = RowAside(row_id, at, reason)
        return True

    @override
    def take_back(self, row_id: str, at: datetime) -> bool:
        return self.aside.pop(row_id, None) is not None

    @override
    def rows_aside(self, limit: int) -> list[RowAside]:
        return sorted(self.aside.values(), key=lambda each: each.since)[:limit]

    @override
    def count_aside(self) -> int:
        return len(self.aside)

    @override
    def oldest_unsent_row(self) -> datetime | None:
        return min(
            (row.created_at for row in self.rows() if row.sent_at is None and row.row_id not in self.aside),
            default=None,
        )

    @override
    def open_incidents(self) -> list[tuple[str, str]]:
        return [(each.project_id, each.incident_id) for each in self.all(Incident) if each.is_open]

    @override
    def opened_since(self, moment: datetime) -> list[tuple[str, str]]:
        recent = [each for each in self.all(Incident) if each.is_open and each.opened_at > moment]
        return [(each.project_id, each.incident_id) for each in recent]

    @override
    def count_keys(self, region: str) -> int:
        return sum(each.region == region for each in self.all(Key))

    @override
    def brakes(self) -> list[Brake]:
        return self.all(Brake)

    @override
    def out_of_turn(self, account_id: str, region: str) -> OutOfTurn:
        nothing = OutOfTurn(account_id=account_id, region=region)
        return cast("OutOfTurn", self.items.get(place(nothing), nothing))

    @override
    def lockout_tally(self) -> LockoutTally:
        return next(iter(self.all(LockoutTally)), LockoutTally())

    @override
    def shut_clusters(self, before: datetime) -> list[tuple[str, str]]:
        shut = [each for each in self.all(Cluster) if each.status in SHUT and each.deleted_at is None]
        return [(each.project_id, each.cluster_id) for each in shut if each.status_changed_at <= before]

    @override
    def overdue_clusters(self, now: datetime) -> list[tuple[str, str]]:
        under_way = {ClusterStatus.LOCKING, ClusterStatus.UNLOCKING}
        return [
            (each.project_id, each.cluster_id)
            for each in self.all(Cluster)
            if each.status in under_way and each.respond_by is not None and each.respond_by <= now
        ]

    @override
    def count_fleet(self) -> FleetCounts:
        keys = self.all(Key)
        statuses = Counter(key.health.status for key in keys)
        return FleetCounts(
            keys={status: statuses[status] for status in KeyStatus},
            unknown=sum(key.health.unknown_since is not None for key in keys),
            open_incidents=len(self.open_incidents()),
        )

    @override
    def claim_sweep(self, minute: datetime) -> bool:
        with self._lock:
            free = minute not in self._sweeps
            self._sweeps.add(minute)
            return free

    @override
    def record_sweep(self, record: SweepRecord) -> None:
        self._last_sweep = record

    @override
    def last_sweep(self) -> SweepRecord | None:
        return self._last_sweep

    @override
    def record_role_audit(self, audit: RoleAudit) -> None:
        self._role_audit = audit

    @override
    def role_audit(self) -> RoleAudit | None:
        return self._role_audit

    @override
    def fleet_told(self) -> FleetTold:
        return cast("FleetTold", self.items.get(("fleet", "told"), FleetTold()))


class ScriptedProber(Prober):
    """Answers with what a test laid ready: once each in turn, the last again and again."""

    def __init__(self, *answers: ProbeAnswer) -> None:
        self.answers = list(answers)
        self.probes = 0
        self.closely: list[bool] = []
        self.lean: list[bool] = []
        self.registration: RegistrationAnswer | None = None
        self.validation: ValidationAnswer | None = None
        self.restore: RestoreAnswer | None = None

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        self.probes += 1
        self.closely.append(closely)
        self.lean.append(lean)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @override
    def probe_registration(self, registration: Registration, *, spent_seconds: float = 0) -> RegistrationAnswer:
        assert self.registration is not None
        return self.registration

    @override
    def validate(self, registration: Registration) -> ValidationAnswer:
        assert self.validation is not None
        return self.validation

    @override
    def check_restore(self, key: Key, region: str) -> RestoreAnswer:
        assert self.restore is not None
        return self.restore


def no_doubt(verdict: Verdict, region: str) -> Verdict:
    """A world in which every denial is the customer's doing."""
    del region
    return verdict


class FakeChecker(KeyChecker):
    """`check_keys`, answered by a test."""

    def __init__(self) -> None:
        self.answer: RegistrationAnswer | None = None
        self.validation: ValidationAnswer | None = None
        self.checked: list[tuple[str, str, Trigger]] = []
        self.restore: RestoreAnswer | None = None
        self.seen: list[Registration] = []
        self.restores: list[tuple[str, str, str]] = []

    @override
    def check(self, project_id: str, key_id: str, trigger: Trigger) -> None:
        self.checked.append((project_id, key_id, trigger))

    @override
    def probe_registration(self, registration: Registration) -> RegistrationAnswer:
        self.seen.append(registration)
        if self.answer is None:
            message = "check_keys failed"
            raise CheckerUnavailableError(message)
        return self.answer

    @override
    def validate_key(self, registration: Registration) -> ValidationAnswer:
        self.seen.append(registration)
        if self.validation is None:
            message = "check_keys failed"
            raise CheckerUnavailableError(message)
        return self.validation

    @override
    def check_restore(self, project_id: str, key_id: str, region: str) -> RestoreAnswer:
        self.restores.append((project_id, key_id, region))
        if self.restore is None:
            message = "check_keys failed"
            raise CheckerUnavailableError(message)
        return self.restore


class FakeQueue(CheckQueue):
    """A queue that takes at most `room` messages. Those about canaries are kept apart from those about keys."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.room = room
        self.messages: list[CheckMessage] = []
        """Those about keys, taken apart: one for each key."""
        self.whole: list[CheckMessage] = []
        """Those about keys, as they were sent."""
        self.searches: list[FindActorMessage] = []
        self.delays: list[int] = []
        self.canaries: list[CheckMessage] = []

    @override
    def send(self, messages: Sequence[CheckMessage | FindActorMessage], *, delay_seconds: int = 0) -> int:
        taken = messages[: self.room]
        named = 0
        for message in taken:
            if isinstance(message, FindActorMessage):
                self.searches.append(message)
                named += 1
            elif message.canary:
                self.canaries.append(message)
                named += 1
            else:
                self.whole.append(message)
                self.messages += message.singly()
                named += len(message.singly())
        self.delays.extend([delay_seconds] * len(taken))
        return named


class FakeHistory(CallHistory):
    """A customer's CloudTrail. None in `recorded` is a role that may not look."""

    def __init__(self, *recorded: Actor) -> None:
        self.recorded: list[Actor] | None = list(recorded)
        self.asked: list[tuple[str, tuple[str, ...], datetime, datetime]] = []

    @override
    def calls(self, key: Key, names: Sequence[str], since: datetime, until: datetime) -> list[Actor] | None:
        self.asked.append((key.key_id, tuple(names), since, until))
        return self.recorded


class FakeNotifier(Notifier):
    """Topics and a bus; what is in `broken` refuses everything. Whatever they take is as docs/schemas/ says."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.unreachable = False
        self.on_delivery: Callable[[str], None] = lambda _target: None
        self.published: list[tuple[str, Alert]] = []
        self.chat: list[tuple[str, Alert]] = []
        self.bus: list[Alert] = []
        self.requests: list[LockRequest] = []

    def _refuse(self, target: str) -> None:
        self.on_delivery(target)
        if target in self.broken:
            message = f"{target} did not take the message"
            raise DeliveryError(message, unreachable=self.unreachable)

    @override
    def publish(self, topic_arn: str, alert: Alert) -> None:
        self._refuse("topic")
        self.published.append((topic_arn, checked(alert)))

    @override
    def publish_to_chat(self, topic_arn: str, alert: Alert) -> None:
        self._refuse("chat")
        self.chat.append((topic_arn, alert))

    @override
    def put_alert(self, alert: Alert) -> None:
        self._refuse("bus")
        self.bus.append(checked(alert))

    @override
    def put_lock_request(self, request: LockRequest) -> None:
        self._refuse("bus")
        self.requests.append(checked(request))


class FakeFindings(Findings):
    """Security Hub: the newest state of each finding. What is in `refuses` is not taken."""

    def __init__(self) -> None:
        self.found: dict[str, Finding] = {}
        self.requests: list[list[str]] = []
        self.refuses: dict[str, DeliveryError] = {}
        self.broken: Exception | None = None

    @override
    def import_findings(self, findings: Sequence[Finding]) -> dict[str, DeliveryError]:
        self.requests.append([each.finding_id for each in findings])
        if self.broken is not None:
            raise self.broken
        for each in findings:
            known = self.found.get(each.finding_id)
            newer = known is None or (known.updated_at, known.sequence) < (each.updated_at, each.sequence)
            if each.finding_id not in self.refuses and newer:
                self.found[each.finding_id] = each
        return {each.finding_id: self.refuses[each.finding_id] for each in findings if each.finding_id in self.refuses}


class FakeWorkflow(Workflow):
    """Executions by name; `complete` keeps each answer that reached a waiting step."""

    def __init__(self) -> None:
        self.broken = False
        self.started: dict[str, WorkflowStart] = {}
        self.on_start: Callable[[str], None] = lambda _name: None
        self.starts = 0
        self.running: set[str] = set()
        self.not_started: set[str] = set()
        self.completed: list[tuple[str, str]] = []
        self.projects: dict[str, str | None] = {}
        self.stopped: list[tuple[str, str]] = []

    def _refuse(self) -> None:
        if self.broken:
            message = "Step Functions did not answer"
            raise DeliveryError(message)

    @override
    def start(self, start: WorkflowStart) -> None:
        self._refuse()
        self.on_start(start.name)
        self.starts += 1
        self.started.setdefault(start.name, start)

    @override
    def state(self, name: str) -> ExecutionState:
        self._refuse()
        if name in self.running:
            return ExecutionState.RUNNING
        return ExecutionState.NOT_STARTED if name in self.not_started else ExecutionState.ENDED

    @override
    def at_work(self) -> list[ExecutionAtWork]:
        self._refuse()
        return [ExecutionAtWork(name) for name in sorted(self.running)]

    @override
    def project_of(self, name: str) -> str | None:
        self._refuse()
        return self.projects.get(name, "acme-prod")

    @override
    def stop(self, name: str, reason: str) -> None:
        self._refuse()
        self.running.discard(name)
        self.stopped.append((name, reason))

    @override
    def execution_arn(self, name: str) -> str:
        return f"arn:aws:states:us-west-2:111111111111:execution:machine:{name}"

    @override
    def complete(self, task_token: str, result: str, detail: str | None) -> None:
        self._refuse()
        self.completed.append((task_token, result))


class FakeReceiverCalls(ReceiverCalls):
    """Remembers which requests were to be made."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.unreachable = False

    @override
    def ask(self, project_id: str, cluster_id: str, fence: int) -> None:
        if self.unreachable:
            message = "call_receiver could not be asked"
            raise DeliveryError(message, unreachable=True)
        self.asked.append((project_id, cluster_id, fence))


class ScriptedReceiver(LockReceiver):
    """Answers with what a test laid ready: once each in turn, the last again and again. An exception is raised."""

    def __init__(self, *answers: CallAnswer | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[LockRequest] = []
        self.receipts: list[str | None] = []
        self.seconds: list[float] = []
        self.on_call: Callable[[LockRequest], object] = lambda _request: None

    @override
    def call(self, request: LockRequest, lock: LockSettings, *, receipt: str | None, seconds: float) -> CallAnswer:
        self.requests.append(request)
        self.receipts.append(receipt)
        self.seconds.append(seconds)
        self.on_call(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class FakeTopics(Topics):
    """Topics by project."""

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.unencrypted: set[str] = set()
        self.open: set[str] = set()
        self.refuses: set[str] = set()
        self.looked_at: list[str] = []
        self.subscriptions: dict[str, Subscription] = {}
        self.status = "confirmed"
        self.broken = False
        self.tested: list[tuple[str, str, str]] = []
        self.redriven: list[str] = []
        self.dead_letters: str | None = "arn:aws:sqs:us-west-2:111111111111:dead-letters"

    @property
    @override
    def dead_letters_arn(self) -> str | None:
        return self.dead_letters

    @override
    def redrive(self, subscription_arn: str) -> bool:
        if subscription_arn in self.refuses:
            raise PermissionError(subscription_arn)
        self.redriven.append(subscription_arn)
        return subscription_arn in self.subscriptions

    @override
    def create(self, project_id: str) -> str:
        arn = f"arn:aws:sns:us-west-2:111111111111:keyvigil-project-{project_id}"
        self.topics.add(arn)
        return arn

    @override
    def create_for_chat(self, project_id: str) -> str:
        arn = f"{self.create(project_id)}_chat"
        self.topics.add(arn)
        return arn

    @override
    def keep_encrypted(self, topic_arn: str) -> bool:
        self.looked_at.append(topic_arn)
        if topic_arn in self.refuses:
            raise PermissionError(topic_arn)
        changed = topic_arn in self.unencrypted
        self.unencrypted.discard(topic_arn)
        return changed

    @override
    def keep_closed(self, topic_arn: str) -> bool:
        changed = topic_arn in self.open
        self.open.discard(topic_arn)
        return changed

    @override
    def delete(self, topic_arn: str) -> None:
        self.topics.discard(topic_arn)

    @override
    def subscribe(self, topic_arn: str, subscription: Subscription) -> tuple[str, str]:
        arn = f"{topic_arn}:{subscription.subscription_id}"
        self.subscriptions[arn] = subscription
        return arn, self.status

    @override
    def subscription_status(self, subscription_arn: str) -> str:
        return self.status

    @override
    def send_test(self, topic_arn: str, subscription: Subscription, alert_id: str, at: datetime) -> None:
        if self.broken:
            message = "SNS did not take the message"
            raise DeliveryError(message)
        self.tested.append((topic_arn, subscription.subscription_id, alert_id))

    @override
    def unsubscribe(self, subscription_arn: str) -> None:
        self.subscriptions.pop(subscription_arn, None)


class FakeHeartbeat(Heartbeat):
    """A watcher outside that hears, or does not."""

    def __init__(self, trouble: str | None = None) -> None:
        self.trouble = trouble
        self.beats = 0

    @override
    def beat(self) -> None:
        if self.trouble is not None:
            raise DeliveryError(self.trouble)
        self.beats += 1


class FakeRelay(OutboxRelay):
    """Remembers what it was asked to send again."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @override
    def resend(self, row_ids: Sequence[str]) -> None:
        self.asked.extend(row_ids)


def changed[T](value: T, **fields: Any) -> T:
    """A copy of a frozen value with some fields changed."""
    return cast("T", replace(cast("Any", value), **fields))
