"""Alerts, and the outbox rows that carry them and everything else that leaves the table."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from keyvigil.domain.actors import Actor, in_words
from keyvigil.domain.clusters import Cluster, ClusterStatus, LockAction, LockVia
from keyvigil.domain.incidents import AffectedCluster, Incident, WorkflowKind
from keyvigil.domain.keys import Key
from keyvigil.domain.projects import Project
from keyvigil.domain.verdicts import Remediation

SCHEMA_VERSION = "1.0"


TEST_TYPE = "subscription.test"
"""The type of a message that a subscriber asked for to see whether alerts reach them. It is about no key."""


class AlertType(StrEnum):
    """What an alert is about."""

    KEY_SUSPECT = "key.suspect"
    KEY_UNHEALTHY = "key.unhealthy"
    KEY_RECOVERED = "key.recovered"
    KEY_DELETION_SCHEDULED = "key.deletion_scheduled"
    KEY_MATERIAL_EXPIRING = "key.material_expiring"
    KEY_ROTATION_DISABLED = "key.rotation_disabled"
    KEY_ALIAS_MOVED = "key.alias_moved"
    KEY_REPLICA_MISSING = "key.replica_missing"
    KEY_STALE = "key.stale"
    APPROVAL_NEEDED = "incident.approval_needed"
    ACTOR_FOUND = "incident.actor_found"
    CLUSTER_LOCKED = "cluster.locked"
    CLUSTER_UNLOCKED = "cluster.unlocked"
    CLUSTER_LOCK_FAILED = "cluster.lock_failed"
    CLUSTER_UNLOCK_FAILED = "cluster.unlock_failed"
    BRAKE_ENGAGED = "fleet.brake_engaged"
    BRAKE_RELEASED = "fleet.brake_released"
    KEY_UNKNOWN = "key.unknown"
    CANARY_UNHEALTHY = "fleet.canary_unhealthy"


class Severity(StrEnum):
    """How bad it is, in rising order."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class AlertStatus(StrEnum):
    """Whether something is wrong, or is over."""

    FIRING = "firing"
    RESOLVED = "resolved"


_KIND: dict[AlertType, tuple[Severity, AlertStatus, str]] = {
    AlertType.KEY_SUSPECT: (Severity.WARNING, AlertStatus.FIRING, "key"),
    AlertType.KEY_UNHEALTHY: (Severity.CRITICAL, AlertStatus.FIRING, "key"),
    AlertType.KEY_RECOVERED: (Severity.INFO, AlertStatus.RESOLVED, "key"),
    AlertType.APPROVAL_NEEDED: (Severity.CRITICAL, AlertStatus.FIRING, "key"),
    AlertType.ACTOR_FOUND: (Severity.WARNING, AlertStatus.FIRING, "key"),
    AlertType.CLUSTER_LOCKED: (Severity.CRITICAL, AlertStatus.FIRING, "clusters"),
    AlertType.CLUSTER_UNLOCKED: (Severity.INFO, AlertStatus.RESOLVED, "clusters"),
    AlertType.CLUSTER_LOCK_FAILED: (Severity.CRITICAL, AlertStatus.FIRING, "clusters"),
    AlertType.CLUSTER_UNLOCK_FAILED: (Severity.CRITICAL, AlertStatus.FIRING, "clusters"),
}
"""The alerts that an incident stands behind: severity, status, and the subject that firing and resolved alerts share
in their `dedup_key`."""


INCIDENT_ALERTS = frozenset(_KIND)
"""The types that `make_alert` makes. All others are notices."""

OPERATOR_ALERTS = frozenset({AlertType.KEY_STALE})
"""The types about a key that go to the operator: they tell of a gap in what KeyVigil does, not of the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertKey:
    """The key that an alert is about."""

    arn: str
    region: str
    account_id: str
    alias: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledKey:
    """One of several keys that an alert is about, and whether it works again. `clusters` is how many depend on it."""

    arn: str
    region: str
    account_id: str
    alias: str | None
    incident_id: str
    status: AlertStatus
    clusters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertCause:
    """Why, in AWS's codes and in one plain sentence."""

    code: str | None
    operation: str | None
    aws_error_code: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRemediation:
    """How to mend it. `runbook` is the alert's page in docs/alerts.md."""

    summary: str
    commands: tuple[str, ...]
    runbook: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A message about a change, field by field as in contract.md.

    An alert about KeyVigil itself names no project, and one about no single key names no key; `incident_id` is
    None where no outage stands behind it. `keys` are all that it is about, if these are several that are told as one
    (domain/bundles.py); `key` and `incident_id` are then those of the first.
    """

    schema_version: str
    alert_id: str
    dedup_key: str
    sequence: int
    type: AlertType
    severity: Severity
    status: AlertStatus
    project_id: str | None
    key: AlertKey | None
    incident_id: str | None
    cause: AlertCause
    actor: Actor | None
    clusters: tuple[AffectedCluster, ...]
    remediation: AlertRemediation
    occurred_at: datetime
    detected_at: datetime
    keys: tuple[BundledKey, ...] = ()

    @property
    def clusters_total(self) -> int:
        """How many clusters it is about, of which `clusters` may list fewer."""
        return sum(each.clusters for each in self.keys) if self.keys else len(self.clusters)


def make_alert(
    kind: AlertType,
    *,
    alert_id: str,
    key: Key,
    incident: Incident,
    clusters: Iterable[AffectedCluster],
    occurred_at: datetime,
    detected_at: datetime,
) -> tuple[Alert, Key]:
    """Make an alert and the key with its `alert_sequence` moved on; both are stored in one transaction."""
    severity, status, subject = _KIND[kind]
    numbered = replace(key, alert_sequence=key.alert_sequence + 1)
    remediation = key.verdict.remediation or Remediation(summary="Nothing is to be done.")
    verdict = key.verdict
    code, message = verdict.cause or incident.cause, verdict.message
    if kind is AlertType.ACTOR_FOUND and incident.actor is not None:
        code, message = incident.cause, f"{in_words(incident.actor)}, which can explain {incident.cause}."
        if incident.recovered_at is not None or not incident.is_open:
            # CloudTrail is late: what is over must not seem to have begun again.
            severity, status = Severity.INFO, AlertStatus.RESOLVED
    alert = Alert(
        schema_version=SCHEMA_VERSION,
        alert_id=alert_id,
        dedup_key=f"{key.project_id}/{key.key_id}/{incident.incident_id}/{subject}",
        sequence=numbered.alert_sequence,
        type=kind,
        severity=severity,
        status=status,
        project_id=key.project_id,
        key=_of_key(key),
        incident_id=incident.incident_id,
        cause=AlertCause(
            code=code, operation=verdict.operation, aws_error_code=verdict.aws_error_code, message=message
        ),
        actor=incident.actor,
        clusters=tuple(clusters),
        remediation=_with_runbook(remediation, kind),
        occurred_at=occurred_at,
        detected_at=detected_at,
    )
    return alert, numbered


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What an alert says that no incident stands behind: a danger to a key, a gap in what KeyVigil knows, the brake.

    `subject` is what firing and resolved alerts of one problem share in their `dedup_key`, within the key or,
    if there is none, within the fleet. `severity` is how bad it is while it lasts; its end is always info.
    """

    type: AlertType
    status: AlertStatus
    severity: Severity
    subject: str
    cause: AlertCause
    remediation: Remediation
    actor: Actor | None = None


def make_key_notice(
    notice: Notice,
    *,
    alert_id: str,
    key: Key,
    clusters: Iterable[AffectedCluster],
    occurred_at: datetime,
    detected_at: datetime,
) -> tuple[Alert, Key]:
    """Make an alert about a key from a notice, and the key with its `alert_sequence` moved on."""
    numbered = replace(key, alert_sequence=key.alert_sequence + 1)
    alert = _of_notice(
        notice,
        alert_id=alert_id,
        dedup_key=f"{key.project_id}/{key.key_id}/{notice.subject}",
        sequence=numbered.alert_sequence,
        project_id=key.project_id,
        key=_of_key(key),
        clusters=tuple(clusters),
        occurred_at=occurred_at,
        detected_at=detected_at,
    )
    return alert, numbered


def make_fleet_notice(notice: Notice, *, alert_id: str, occurred_at: datetime, detected_at: datetime) -> Alert:
    """Make an alert about KeyVigil itself. Its `sequence` is its time in Unix milliseconds: no key counts it."""
    return _of_notice(
        notice,
        alert_id=alert_id,
        dedup_key=f"fleet/{notice.subject}",
        sequence=int(detected_at.timestamp() * 1000),
        project_id=None,
        key=None,
        clusters=(),
        occurred_at=occurred_at,
        detected_at=detected_at,
    )


def _of_notice(
    notice: Notice,
    *,
    alert_id: str,
    dedup_key: str,
    sequence: int,
    project_id: str | None,
    key: AlertKey | None,
    clusters: tuple[AffectedCluster, ...],
    occurred_at: datetime,
    detected_at: datetime,
) -> Alert:
    return Alert(
        schema_version=SCHEMA_VERSION,
        alert_id=alert_id,
        dedup_key=dedup_key,
        sequence=sequence,
        type=notice.type,
        severity=Severity.INFO if notice.status is AlertStatus.RESOLVED else notice.severity,
        status=notice.status,
        project_id=project_id,
        key=key,
        incident_id=None,
        cause=notice.cause,
        actor=notice.actor,
        clusters=clusters,
        remediation=_with_runbook(notice.remediation, notice.type),
        occurred_at=occurred_at,
        detected_at=detected_at,
    )


def _of_key(key: Key) -> AlertKey:
    return AlertKey(arn=key.key_arn, region=key.region, account_id=key.account_id, alias=key.alias_arn)


def _with_runbook(remediation: Remediation, kind: AlertType) -> AlertRemediation:
    return AlertRemediation(
        summary=remediation.summary,
        commands=remediation.commands,
        runbook=runbook(kind),
    )


def runbook(kind: AlertType) -> str:
    """Where a type of alert is explained."""
    return f"docs/alerts.md#{kind.replace('.', '')}"


def published_at(page: str | None, runbook: str) -> str:
    """A runbook's address where the operator publishes docs/alerts.md; without a page, its place in the repository."""
    return f"{page}#{runbook.partition('#')[2]}" if page else runbook


def is_of(row: "OutboxRow", project: Project) -> bool:
    """Whether a row was written for this project, and not for an earlier one that had the same id.

    What an earlier project still had to tell is nobody's any more: its subscribers went with it.
    """
    return row.project_id == project.project_id and row.created_at >= project.created_at


class Target(StrEnum):
    """Where an outbox row goes. Each target is delivered to, and retried, by itself."""

    TOPIC = "topic"
    CHAT = "chat"
    OPERATOR = "operator"
    BUS = "bus"
    WORKFLOW = "workflow"
    RECEIVER = "receiver"
    FINDING = "finding"


_DETAIL_TYPES = {
    LockAction.LOCK: "Cluster Lock Requested",
    LockAction.UNLOCK: "Cluster Unlock Requested",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LockRequest:
    """One request to lock or unlock one cluster, as its receiver gets it: on the alert bus or by a call."""

    detail_type: str
    project_id: str
    cluster_id: str
    incident_id: str
    fence: int
    reason: str
    respond_by: datetime
    via: LockVia = LockVia.EVENT

    @property
    def action(self) -> LockAction:
        """What is asked for."""
        unlock = self.detail_type == _DETAIL_TYPES[LockAction.UNLOCK]
        return LockAction.UNLOCK if unlock else LockAction.LOCK


def lock_request(cluster: Cluster) -> LockRequest:
    """The request that is under way on a cluster."""
    if cluster.locked_by_incident_id is None or cluster.respond_by is None:
        message = f"no request is under way on cluster {cluster.cluster_id}, which is {cluster.status}"
        raise ValueError(message)
    action = LockAction.UNLOCK if cluster.status is ClusterStatus.UNLOCKING else LockAction.LOCK
    return LockRequest(
        detail_type=_DETAIL_TYPES[action],
        project_id=cluster.project_id,
        cluster_id=cluster.cluster_id,
        incident_id=cluster.locked_by_incident_id,
        fence=cluster.fence,
        reason=f"{cluster.key_id}: incident {cluster.locked_by_incident_id}",
        respond_by=cluster.respond_by,
        via=cluster.lock.via,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStart:
    """An execution to start; its name makes starting it twice harmless."""

    workflow: WorkflowKind
    name: str
    project_id: str
    key_id: str
    incident_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """Something that must leave the table, written in the transaction of the change that it tells of.

    Exactly one of `alert`, `lock_request` and `workflow_start` is set. An alert `for_operator` goes to the
    operator's topic and to no project's; one without a project always does. `told_as` is the alert in the form in which
    it is told, if it speaks for several keys. `delivered` are the targets that
    have it; the row is sent when none is missing. `judged` is why an alert is sent, or, if it is `withheld`, why not;
    None as long as nobody looked (domain/quiet.py).
    """

    row_id: str
    project_id: str | None
    created_at: datetime
    alert: Alert | None = None
    lock_request: LockRequest | None = None
    workflow_start: WorkflowStart | None = None
    for_operator: bool = False
    delivered: tuple[Target, ...] = ()
    sent_at: datetime | None = None
    judged: str | None = None
    withheld: bool = False
    told_as: Alert | None = None
    version: int = 0

    @property
    def makes_finding(self) -> bool:
        """Whether it tells of an incident, for which AWS Security Hub has a finding where the stack wants any."""
        return self.alert is not None and self.alert.incident_id is not None

    @property
    def missing(self) -> tuple[Target, ...]:
        """The targets that have not got it yet, less the finding, which not every stack makes.

        What was sent when there were fewer targets is sent.
        """
        if self.withheld or self.sent_at is not None:
            return ()
        if self.alert is not None:
            for_operator = self.for_operator or self.project_id is None
            wanted: tuple[Target, ...] = (Target.OPERATOR,) if for_operator else (Target.TOPIC, Target.CHAT)
            wanted = (*wanted, Target.BUS)
        elif self.lock_request is not None:
            wanted = (Target.BUS if self.lock_request.via is LockVia.EVENT else Target.RECEIVER,)
        else:
            wanted = (Target.WORKFLOW,)
        return tuple(target for target in wanted if target not in self.delivered)
