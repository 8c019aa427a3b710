"""What the use cases need from the outside world. Adapters implement these; unit tests use in-memory ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from keyvigil.domain.actors import Actor
from keyvigil.domain.alerts import Alert, LockRequest, OutboxRow, WorkflowStart
from keyvigil.domain.arns import region_of
from keyvigil.domain.attribution import ActorSearch, EventHints
from keyvigil.domain.backups import Backup
from keyvigil.domain.brake import Brake, LockoutTally
from keyvigil.domain.canaries import Canary
from keyvigil.domain.clusters import Cluster, LockSettings
from keyvigil.domain.findings import Finding
from keyvigil.domain.incidents import TIMELINE_SHOWN, Incident, TimelineEntry
from keyvigil.domain.key_events import KeyPointer
from keyvigil.domain.keys import Baseline, Key, KeyFacts, KeyStatus, Registration, RoleClaim, Trigger
from keyvigil.domain.lock_calls import CallAnswer
from keyvigil.domain.out_of_turn import OutOfTurn
from keyvigil.domain.projects import Project, Subscription
from keyvigil.domain.quiet import Ledger
from keyvigil.domain.quotas import THE_MOST, NextProbe
from keyvigil.domain.silences import Silences
from keyvigil.domain.staleness import FleetTold
from keyvigil.domain.verdicts import Verdict
from keyvigil.errors import DeliveryError

type Entity = (
    Project
    | Key
    | RoleClaim
    | KeyPointer
    | EventHints
    | Cluster
    | Backup
    | Incident
    | ActorSearch
    | TimelineEntry
    | Subscription
    | OutboxRow
    | Canary
    | FleetTold
    | Brake
    | LockoutTally
    | Ledger
    | Silences
    | OutOfTurn
)


@dataclass(frozen=True, slots=True)
class Put:
    """Write an entity if its version is still the one that was read; version 0 must not exist yet."""

    entity: Entity


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete an entity if its version is still the one that was read."""

    entity: Entity


type Write = Put | Remove


@dataclass(frozen=True, slots=True)
class Page[T]:
    """One page of a list. `next_token` is None on the last.

    A page ends at its limit or when it has grown large, so that one that is short need not be the last.
    """

    items: tuple[T, ...]
    next_token: str | None


@dataclass(frozen=True, slots=True)
class DueKey:
    """A key that is due, as the index shows it; the index may lag behind the table.

    `account_id` is the account of the key's role, None for an item that was written before that was kept there; `probe`
    is what its next probe asks for, the most that one can for such an item.
    """

    project_id: str
    key_id: str
    due_at: datetime
    account_id: str | None = field(default=None, compare=False)
    probe: NextProbe = field(default=THE_MOST, compare=False)
    unknown: bool = field(default=False, compare=False)

    @property
    def region(self) -> str:
        """The key's Region."""
        return region_of(self.key_id)


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """What the last sweep did. `at` is its UTC minute."""

    at: datetime
    keys_due: int
    keys_sent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCounts:
    """How many keys have which status, and how many incidents are open.

    `unknown` counts keys about which nothing is known, whatever their status was before.
    """

    keys: Mapping[KeyStatus, int]
    unknown: int
    open_incidents: int


@dataclass(frozen=True, slots=True)
class ListTally:
    """What counting found on one list: how many entries each shard has, and which shard is next."""

    counted: tuple[int, ...]
    next_shard: int


@dataclass(frozen=True, slots=True)
class FleetTally:
    """What counting the keys found, by list. Nothing is added up over time, so nothing can drift."""

    lists: Mapping[str, ListTally]


@dataclass(frozen=True, slots=True)
class SharedRole:
    """A customer's role with which the keys of several projects are probed: registered so before that was refused."""

    account_id: str
    role_name: str
    project_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoleAudit:
    """What the last look at every key's role found. Until there is one, keys may use roles that nobody claimed."""

    finished_at: datetime
    shared: tuple[SharedRole, ...]


@dataclass(frozen=True, slots=True)
class RowAside:
    """An outbox row that was set aside: nobody tries to send it until somebody asks for that."""

    row_id: str
    since: datetime
    reason: str


DUE_KEYS_READ = 20_000
"""How many due keys are read if nobody says how many."""


class Store(Protocol):
    """The table. Reads are strongly consistent unless said otherwise.

    Every read raises NewerItemError if newer code wrote the item, and DamagedItemError if it cannot be read at all.
    """

    def commit(self, writes: Sequence[Write]) -> None:
        """Apply all writes or none, at most 100.

        Raises:
            ConflictError: an entity changed since it was read.
        """

    def project(self, project_id: str) -> Project | None:
        """Read a project."""

    def projects(self, limit: int, token: str | None) -> Page[Project]:
        """List projects, in no order that means anything; eventually consistent."""

    def key(self, project_id: str, key_id: str) -> Key | None:
        """Read a key."""

    def keys(self, project_id: str, limit: int, token: str | None) -> Page[Key]:
        """List a project's keys by id."""

    def role_claim(self, account_id: str, role_name: str) -> RoleClaim | None:
        """Read which project a customer's role serves; the name's case does not matter."""

    def pointer(self, pointer: KeyPointer) -> KeyPointer | None:
        """Read a pointer by what it leads from and to."""

    def pointers(self, account_id: str, resource: str, limit: int) -> list[KeyPointer]:
        """Read at most so many of the pointers that lead from a resource; eventually consistent."""

    def event_hints(self, project_id: str, key_id: str) -> EventHints | None:
        """Read what events told of a key."""

    def cluster(self, project_id: str, cluster_id: str) -> Cluster | None:
        """Read a cluster, or the tombstone that a deleted one left (`deleted_at` set)."""

    def clusters(self, project_id: str, limit: int, token: str | None) -> Page[Cluster]:
        """List a project's clusters by id, without tombstones."""

    def clusters_of_key(self, project_id: str, key_id: str) -> list[Cluster]:
        """Read all clusters under a key, without tombstones; at most 200 by contract."""

    def backup(self, project_id: str, backup_id: str) -> Backup | None:
        """Read a backup."""

    def backups(self, project_id: str, limit: int, token: str | None) -> Page[Backup]:
        """List a project's backups by id."""

    def backups_of_key(self, project_id: str, key_id: str, limit: int) -> list[Backup]:
        """Read some of the backups that need a key, at most `limit`."""

    def incident(self, project_id: str, incident_id: str) -> Incident | None:
        """Read an incident."""

    def incidents(self, project_id: str, limit: int, token: str | None) -> Page[Incident]:
        """List a project's incidents, newest first."""

    def actor_search(self, project_id: str, incident_id: str) -> ActorSearch | None:
        """Read the search for who brought an incident about."""

    def due_searches(self, until: datetime, limit: int) -> list[tuple[str, str]]:
        """(project id, incident id) of at most so many searches that are due; eventually consistent, oldest first."""

    def timeline(self, incident_id: str, newest: int = TIMELINE_SHOWN) -> list[TimelineEntry]:
        """Read the newest entries of an incident's timeline, oldest first."""

    def timeline_page(self, incident_id: str, limit: int, token: str | None) -> Page[TimelineEntry]:
        """List an incident's whole timeline, oldest first."""

    def subscription(self, project_id: str, subscription_id: str) -> Subscription | None:
        """Read a subscription."""

    def subscriptions(self, project_id: str, limit: int, token: str | None) -> Page[Subscription]:
        """List a project's subscriptions by id."""

    def outbox_row(self, row_id: str) -> OutboxRow | None:
        """Read an outbox row."""

    def ledger(self, project_id: str | None, key_id: str | None) -> Ledger:
        """Read what was told about a key, or about KeyVigil itself; an empty one if nothing was."""

    def due_ledgers(self, now: datetime) -> list[tuple[str | None, str | None]]:
        """(project id, key id) of what may have to be told again by now; eventually consistent."""

    def silences(self, project_id: str) -> Silences:
        """Read a project's silences, those that are over perhaps among them; none if there never was one."""

    def out_of_turn(self, account_id: str, region: str) -> OutOfTurn:
        """Read what was taken of an account's quotas out of turn; nothing if nothing was written yet."""

    def canary(self, canary_id: str) -> Canary | None:
        """Read a canary."""

    def canaries(self) -> list[Canary]:
        """Read all canaries by id; they are few."""

    def due_keys(self, until: datetime, most: int = DUE_KEYS_READ) -> list[DueKey]:
        """Keys whose due time has come, from the index: eventually consistent, oldest first.

        If there are more than `most` whose answer was known last, or whose was not, the oldest of them, at least so
        many: what a fleet that stood still for long has due is more than one sweep can hold.
        """

    def unsent_rows(self, before: datetime) -> list[str]:
        """Ids of outbox rows made before this and not sent yet; eventually consistent."""

    def set_aside(self, row_id: str, reason: str, at: datetime) -> bool:
        """Take an unsent outbox row off the list of what is sent again; its body is not touched, nor even read.

        False if it is not there, is sent already, or changed at this moment.
        """

    def take_back(self, row_id: str, at: datetime) -> bool:
        """Put a row that was set aside onto the list of what is sent again; False if it is not there."""

    def rows_aside(self, limit: int) -> list[RowAside]:
        """At most so many of the rows that were set aside; eventually consistent, oldest first."""

    def count_aside(self) -> int:
        """How many rows were set aside; eventually consistent."""

    def oldest_unsent_row(self) -> datetime | None:
        """When the oldest outbox row was made that is not sent yet, None if all are; eventually consistent."""

    def open_incidents(self) -> list[tuple[str, str]]:
        """(project id, incident id) of every incident that is not over; eventually consistent."""

    def opened_since(self, moment: datetime) -> list[tuple[str, str]]:
        """(project id, incident id) of every open incident that opened after this; eventually consistent."""

    def count_keys(self, region: str) -> int:
        """How many keys are registered in a Region, from the index: eventually consistent, reads every key's entry."""

    def brakes(self) -> list[Brake]:
        """Read all brakes, engaged or released; they are few."""

    def lockout_tally(self) -> LockoutTally:
        """Read which lockouts began lately, all projects together."""

    def shut_clusters(self, before: datetime) -> list[tuple[str, str]]:
        """(project id, cluster id) of clusters that have not been in use, and asked for nothing, since before this.

        Eventually consistent. What older code wrote last is not listed.
        """

    def overdue_clusters(self, now: datetime) -> list[tuple[str, str]]:
        """(project id, cluster id) of clusters whose answer is overdue; eventually consistent."""

    def count_fleet(self) -> FleetCounts:
        """Count keys and open incidents in the index, without reading any of them; eventually consistent.

        Of a list that is very long one call counts a part, and takes what calls before it counted for the rest.
        """

    def claim_sweep(self, minute: datetime) -> bool:
        """Take this UTC minute's sweep; False if somebody has it already."""

    def record_sweep(self, record: SweepRecord) -> None:
        """Keep what the last sweep did."""

    def last_sweep(self) -> SweepRecord | None:
        """Read what the last sweep did."""

    def record_role_audit(self, audit: RoleAudit) -> None:
        """Keep what a finished look at every key's role found."""

    def role_audit(self) -> RoleAudit | None:
        """Read what the last one found; None if none was ever finished."""

    def fleet_told(self) -> FleetTold:
        """Read what the operator was told about the fleet; nothing if nothing was written yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer:
    """A probe's verdict, and what DescribeKey said if it answered. `whole` is False if Decrypt alone was tried."""

    verdict: Verdict
    facts: KeyFacts | None
    whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreAnswer:
    """Whether what was encrypted at registration opens in a Region. `verdict` is None if the key is not there."""

    verdict: Verdict | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationAnswer:
    """The answer to a probe of a key that is not registered yet.

    `role_checks_external_id` is False if the role could be assumed without the ExternalId or with
    another, None if that was not found out. `baseline` and `key_arn` (an alias resolved) are set when
    the verdict is HEALTHY.
    """

    verdict: Verdict
    role_checks_external_id: bool | None
    key_arn: str | None
    baseline: Baseline | None
    facts: KeyFacts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationAnswer:
    """One operation, tried by itself. `allowed` is None if that was not found out; `error` says why it is not True."""

    operation: str
    allowed: bool | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationAnswer:
    """The answer to a validation: the verdict that a registration would get, and every operation by itself.

    `role_checks_external_id` is as in `RegistrationAnswer`.
    """

    verdict: Verdict
    role_checks_external_id: bool | None
    operations: tuple[OperationAnswer, ...]


PROBE_SECONDS = 12
"""How long one probe may take before no further operation is begun."""


class Prober(Protocol):
    """The only thing that touches a customer's account. Never raises for what AWS answers.

    `spent_seconds` says how much of `PROBE_SECONDS` was used up before.
    """

    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        """Try the operations of a registered key, Decrypt on its registration ciphertext.

        `lean` tries Decrypt alone (and reads the secret, if there is one), and all of them if that fails; KMS being
        busy is no reason to ask more of it.

        `fresh` assumes the role anew, whatever session of it is still good: a session hides a role that is broken.
        A key that works is looked at more closely if wanted: rotation and alias. That changes no verdict. `facts`
        have `closer` None if there was no closer look.
        """

    def check_restore(self, key: Key, region: str) -> RestoreAnswer:
        """Try to decrypt the registration ciphertext in a Region, with the key or its related key there."""

    def probe_registration(self, registration: Registration, *, spent_seconds: float = 0) -> RegistrationAnswer:
        """Try a key before it is registered, and make its registration ciphertext."""

    def validate(self, registration: Registration) -> ValidationAnswer:
        """Try each operation of a key by itself, whether or not the ones before it worked."""


class KeyChecker(Protocol):
    """`check_keys` as the API reaches it.

    Every method raises CheckerUnavailableError if it did not answer.
    """

    def check(self, project_id: str, key_id: str, trigger: Trigger) -> None:
        """Probe a registered key now and take the verdict into its status."""

    def probe_registration(self, registration: Registration) -> RegistrationAnswer:
        """Probe a key before it is registered."""

    def validate_key(self, registration: Registration) -> ValidationAnswer:
        """Try each operation of a key by itself; nothing is stored."""

    def check_restore(self, project_id: str, key_id: str, region: str) -> RestoreAnswer:
        """Try whether a registered key opens in a Region what was encrypted at registration; nothing is stored.

        Raises:
            NotFoundError: the key is not registered.
        """


class CallHistory(Protocol):
    """CloudTrail's event history in a customer's account. Never raises for what AWS answers."""

    def calls(self, key: Key, names: Sequence[str], since: datetime, until: datetime) -> list[Actor] | None:
        """The calls of these names on a key or its role in that time, newest first.

        None if the customer's role may not look, or CloudTrail did not answer.
        """


MESSAGE_VERSION = 2
"""The newest shape of a `CheckMessage`. 1, with which every message was sent once, has one key."""


@dataclass(frozen=True, slots=True)
class OtherKey:
    """One more key of a `CheckMessage`."""

    project_id: str
    key_id: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class CheckMessage:
    """A key to check, or several. Each is dropped if it was probed since it was due.

    With `canary`, `key_id` is the id of a canary, and `project_id` no project's: a `check_keys` from before there were
    canaries, which does not know the field, finds no such key and drops the message.

    `others` came with version 2. A `check_keys` of version 1 checks the first key and knows nothing of the others:
    they stay due, so that the sweep after the stack's update sends them again.
    """

    project_id: str
    key_id: str
    due_at: datetime
    trigger: Trigger = Trigger.SCHEDULE
    canary: bool = False
    version: int = 1
    others: tuple[OtherKey, ...] = ()

    @classmethod
    def of_due(cls, first: DueKey, *more: DueKey) -> "CheckMessage":
        """The message of a sweep about these keys; about one alone in the old shape."""
        others = tuple(OtherKey(each.project_id, each.key_id, each.due_at) for each in more)
        version = MESSAGE_VERSION if others else 1
        return cls(first.project_id, first.key_id, first.due_at, version=version, others=others)

    def singly(self) -> tuple["CheckMessage", ...]:
        """A message about each of its keys."""
        if not self.others:
            return (self,)
        first = replace(self, version=1, others=())
        return (
            first,
            *(CheckMessage(each.project_id, each.key_id, each.due_at, self.trigger) for each in self.others),
        )


@dataclass(frozen=True, slots=True)
class FindActorMessage:
    """An incident about which CloudTrail is to be asked. `incident_id` is what tells it from a `CheckMessage`."""

    project_id: str
    incident_id: str


class CheckQueue(Protocol):
    """The queue that feeds `check_keys`."""

    def send(self, messages: Sequence[CheckMessage | FindActorMessage], *, delay_seconds: int = 0) -> int:
        """Send messages, to be received after a delay of at most 900 seconds.

        Return how many keys and searches are named by those that the queue took.

        A batch that it refuses does not keep the others back.

        Raises:
            DeliveryError: it took none of them.
        """


class Notifier(Protocol):
    """Where outbox rows go. Each method raises DeliveryError if the target did not take the message."""

    def publish(self, topic_arn: str, alert: Alert) -> None:
        """Publish an alert to a project's topic."""

    def publish_to_chat(self, topic_arn: str, alert: Alert) -> None:
        """Publish an alert to a project's topic for chat channels, in the form that those take."""

    def put_alert(self, alert: Alert) -> None:
        """Put an alert on the alert bus."""

    def put_lock_request(self, request: LockRequest) -> None:
        """Put a lock or unlock request on the alert bus."""


class Findings(Protocol):
    """AWS Security Hub, in a stack that wants its findings."""

    def import_findings(self, findings: Sequence[Finding]) -> Mapping[str, DeliveryError]:
        """Make or update findings, each named once; those that were not taken, by `finding_id`, with the reason."""


class LockReceiver(Protocol):
    """Who locks and unlocks a cluster when it is called: a function, a webhook, a service's API or a runbook.

    Idempotent by fence: the same request may be made again, and is answered as before.
    """

    def call(self, request: LockRequest, lock: LockSettings, *, receipt: str | None, seconds: float) -> CallAnswer:
        """Make the request, or ask after one that was accepted before (`receipt`), within this many seconds.

        Never raises for what the receiver does or is.
        """


class ReceiverCalls(Protocol):
    """`call_receiver` as the relay and the sweep reach it."""

    def ask(self, project_id: str, cluster_id: str, fence: int) -> None:
        """Have the request with this fence made to the cluster's receiver, without waiting for it.

        Raises:
            DeliveryError: it could not be asked for.
        """


class Pauses(Protocol):
    """Waiting."""

    def up_to(self, seconds: float) -> None:
        """Wait for a time between 0 and this, at random."""


class ExecutionState(StrEnum):
    """What became of an execution. Step Functions forgets one 90 days after its end: then it is NOT_STARTED again."""

    NOT_STARTED = "NOT_STARTED"
    RUNNING = "RUNNING"
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class ExecutionAtWork:
    """An execution that is at work. Its name says for which incident."""

    name: str

    @property
    def incident_id(self) -> str:
        """The incident that it is named after."""
        return self.name.rsplit("-", 2)[0]


class Workflow(Protocol):
    """Step Functions."""

    def start(self, start: WorkflowStart) -> None:
        """Start an execution. Starting one of the same name again does nothing.

        Raises:
            DeliveryError: it could not be started.
        """

    def state(self, name: str) -> ExecutionState:
        """Say what became of the execution of this name.

        Raises:
            DeliveryError: Step Functions could not be reached.
        """

    def at_work(self) -> list[ExecutionAtWork]:
        """The executions that are at work, at most the newest 1,000 of each workflow; eventually consistent.

        Raises:
            DeliveryError: Step Functions could not be reached.
        """

    def project_of(self, name: str) -> str | None:
        """The project that an execution was started for; None if it is not there, or was not started by KeyVigil.

        Raises:
            DeliveryError: Step Functions could not be reached.
        """

    def stop(self, name: str, reason: str) -> None:
        """End an execution where it stands. One that has ended is not an error.

        Raises:
            DeliveryError: Step Functions could not be reached.
        """

    def execution_arn(self, name: str) -> str:
        """The ARN that the execution of this name has."""

    def complete(self, task_token: str, result: str, detail: str | None) -> None:
        """Wake the step that waits with this token. A step that no longer waits is not an error.

        Raises:
            DeliveryError: Step Functions could not be reached.
        """


class Topics(Protocol):
    """SNS topics, one for each project."""

    def create_for_chat(self, project_id: str) -> str:
        """Make the project's topic for chat channels as `create` makes its topic; return its ARN."""

    def create(self, project_id: str) -> str:
        """Make the project's topic, or find it, under the stack's key if there is one and closed; return its ARN."""

    def keep_encrypted(self, topic_arn: str) -> bool:
        """Bring a topic under the stack's key, or away from one if there is none; say whether it had to be changed.

        One that is gone is not an error.
        """

    def keep_closed(self, topic_arn: str) -> bool:
        """See that nobody but KeyVigil can publish to a topic; say whether it had to be changed.

        One that is gone is not an error.
        """

    def delete(self, topic_arn: str) -> None:
        """Delete a topic with its subscriptions. One that is gone is not an error."""

    def subscribe(self, topic_arn: str, subscription: Subscription) -> tuple[str, str]:
        """Subscribe an endpoint; return the subscription's ARN and status (`pending` or `confirmed`).

        Raises:
            RefusedError: SNS does not take the endpoint.
        """

    @property
    def dead_letters_arn(self) -> str | None:
        """The queue that gets what a subscriber's endpoint does not take; None if there is none."""

    def redrive(self, subscription_arn: str) -> bool:
        """Have what an endpoint does not take sent to the queue of dead letters; False if SNS forgot the subscription.

        Raises:
            RefusedError: SNS changes nothing about it; perhaps it was not confirmed yet.
        """

    def subscription_status(self, subscription_arn: str) -> str:
        """`pending` until the subscriber has confirmed, then `confirmed`; `gone` if SNS does not know it any more."""

    def unsubscribe(self, subscription_arn: str) -> None:
        """End a subscription. One that is gone is not an error.

        Raises:
            RefusedError: it was never confirmed, and SNS ends only what was.
        """

    def send_test(self, topic_arn: str, subscription: Subscription, alert_id: str, at: datetime) -> None:
        """Publish a test message that reaches this one subscription.

        Raises:
            DeliveryError: SNS did not take it.
        """


class Heartbeat(Protocol):
    """A watcher outside, which is told of every sweep that was finished, so that it notices silence."""

    def beat(self) -> None:
        """Tell it.

        Raises:
            DeliveryError: it did not take it. The words do not contain its address, which is a secret.
        """


class OutboxRelay(Protocol):
    """`relay_outbox` as the reconciler reaches it."""

    def resend(self, row_ids: Sequence[str]) -> None:
        """Ask for these rows to be delivered again, without waiting for it."""


class Clock(Protocol):
    """The time, in UTC."""

    def now(self) -> datetime:
        """The time now, cut to milliseconds."""


class Ids(Protocol):
    """New identifiers."""

    def ulid(self) -> str:
        """A new ULID; ids made later sort later."""

    def external_id(self) -> str:
        """A new ExternalId that nobody can guess."""
