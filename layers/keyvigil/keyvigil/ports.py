"""What the use cases need from the outside world. Adapters implement these; unit tests use in-memory ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from keyvigil.domain.alerts import Alert, LockRequest, OutboxRow, WorkflowStart
from keyvigil.domain.clusters import Cluster, LockSettings
from keyvigil.domain.incidents import Incident, TimelineEntry
from keyvigil.domain.keys import Baseline, Key, KeyFacts, Registration, RoleClaim, Trigger
from keyvigil.domain.lock_calls import CallAnswer
from keyvigil.domain.projects import Project, Subscription
from keyvigil.domain.verdicts import Verdict

type Entity = Project | Key | RoleClaim | Cluster | Incident | TimelineEntry | Subscription | OutboxRow


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
    """One page of a list. `next_token` is None on the last."""

    items: tuple[T, ...]
    next_token: str | None


@dataclass(frozen=True, slots=True)
class DueKey:
    """A key that is due, as the index shows it; the index may lag behind the table."""

    project_id: str
    key_id: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """What the last sweep did. `at` is its UTC minute."""

    at: datetime
    keys_due: int
    keys_sent: int


class Store(Protocol):
    """The table. Reads are strongly consistent unless said otherwise."""

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

    def cluster(self, project_id: str, cluster_id: str) -> Cluster | None:
        """Read a cluster, or the tombstone that a deleted one left (`deleted_at` set)."""

    def clusters(self, project_id: str, limit: int, token: str | None) -> Page[Cluster]:
        """List a project's clusters by id, without tombstones."""

    def clusters_of_key(self, project_id: str, key_id: str) -> list[Cluster]:
        """Read all clusters under a key, without tombstones; at most 200 by contract."""

    def incident(self, project_id: str, incident_id: str) -> Incident | None:
        """Read an incident."""

    def incidents(self, project_id: str, limit: int, token: str | None) -> Page[Incident]:
        """List a project's incidents, newest first."""

    def timeline(self, incident_id: str) -> list[TimelineEntry]:
        """Read an incident's timeline, oldest first."""

    def subscription(self, project_id: str, subscription_id: str) -> Subscription | None:
        """Read a subscription."""

    def subscriptions(self, project_id: str, limit: int, token: str | None) -> Page[Subscription]:
        """List a project's subscriptions by id."""

    def outbox_row(self, row_id: str) -> OutboxRow | None:
        """Read an outbox row."""

    def due_keys(self, until: datetime) -> list[DueKey]:
        """Keys whose due time has come, from the index: eventually consistent, oldest first."""

    def unsent_rows(self, before: datetime) -> list[str]:
        """Ids of outbox rows made before this and not sent yet; eventually consistent."""

    def open_incidents(self) -> list[tuple[str, str]]:
        """(project id, incident id) of every incident that is not over; eventually consistent."""

    def overdue_clusters(self, now: datetime) -> list[tuple[str, str]]:
        """(project id, cluster id) of clusters whose answer is overdue; eventually consistent."""

    def claim_sweep(self, minute: datetime) -> bool:
        """Take this UTC minute's sweep; False if somebody has it already."""

    def record_sweep(self, record: SweepRecord) -> None:
        """Keep what the last sweep did."""

    def last_sweep(self) -> SweepRecord | None:
        """Read what the last sweep did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer:
    """A probe's verdict, and what DescribeKey said if it answered."""

    verdict: Verdict
    facts: KeyFacts | None


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


class Prober(Protocol):
    """The only thing that touches a customer's account. Never raises for what AWS answers."""

    def probe(self, key: Key) -> ProbeAnswer:
        """Try the operations of a registered key, Decrypt on its registration ciphertext."""

    def probe_registration(self, registration: Registration) -> RegistrationAnswer:
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


@dataclass(frozen=True, slots=True)
class CheckMessage:
    """A key to check. It is dropped if the key was probed since it was due."""

    project_id: str
    key_id: str
    due_at: datetime


class CheckQueue(Protocol):
    """The queue that feeds `check_keys`."""

    def send(self, messages: Sequence[CheckMessage]) -> int:
        """Send messages; return how many the queue took."""


class Notifier(Protocol):
    """Where outbox rows go. Each method raises DeliveryError if the target did not take the message."""

    def publish(self, topic_arn: str, alert: Alert) -> None:
        """Publish an alert to a project's topic."""

    def put_alert(self, alert: Alert) -> None:
        """Put an alert on the alert bus."""

    def put_lock_request(self, request: LockRequest) -> None:
        """Put a lock or unlock request on the alert bus."""


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

    def execution_arn(self, name: str) -> str:
        """The ARN that the execution of this name has."""

    def complete(self, task_token: str, result: str, detail: str | None) -> None:
        """Wake the step that waits with this token. A step that no longer waits is not an error.

        Raises:
            DeliveryError: Step Functions could not be reached.
        """


class Topics(Protocol):
    """SNS topics, one for each project."""

    def create(self, project_id: str) -> str:
        """Make the project's topic, or find it, under the stack's key if there is one; return its ARN."""

    def keep_encrypted(self, topic_arn: str) -> bool:
        """Bring a topic under the stack's key, or away from one if there is none; say whether it had to be changed.

        One that is gone is not an error.
        """

    def delete(self, topic_arn: str) -> None:
        """Delete a topic with its subscriptions. One that is gone is not an error."""

    def subscribe(self, topic_arn: str, subscription: Subscription) -> tuple[str, str]:
        """Subscribe an endpoint; return the subscription's ARN and status (`pending` or `confirmed`).

        Raises:
            RefusedError: SNS does not take the endpoint.
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
