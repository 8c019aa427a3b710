"""Example values, each valid as it stands; a test changes what it is about."""

from datetime import UTC, datetime, timedelta
from typing import Any

from keyvigil.domain.actors import Actor
from keyvigil.domain.alerts import AlertKey, AlertType, Severity
from keyvigil.domain.backups import Backup
from keyvigil.domain.bundles import Bundle, Member
from keyvigil.domain.canaries import STACKS_OWN, Canary
from keyvigil.domain.clusters import Cluster, ClusterKind, ClusterStatus, LockSettings, LockVia
from keyvigil.domain.incidents import Incident, IncidentStatus
from keyvigil.domain.keys import Baseline, Health, Key, KeyFacts, KeyUse, Trigger
from keyvigil.domain.projects import Approval, Enforcement, Project
from keyvigil.domain.quiet import Problem, Why
from keyvigil.domain.silences import Silence
from keyvigil.domain.verdicts import OUTCOME_OF_CAUSE, Cause, Outcome, Remediation, Verdict
from tests.fakes import changed

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
OPERATOR = "111111111111"
CUSTOMER = "222222222222"
KMS_KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
KEY_ARN = f"arn:aws:kms:us-west-2:{CUSTOMER}:key/{KMS_KEY}"
KEY_ID = f"us-west-2.{KMS_KEY}"
ROLE_ARN = f"arn:aws:iam::{CUSTOMER}:role/keyvigil-customer"
EXTERNAL_ID = "external-1"
SECRET_ARN = f"arn:aws:secretsmanager:us-west-2:{CUSTOMER}:secret:keyvigil/acme-prod/probe-AbC123"
MONITOR_ROLE_ARN = "arn:aws:iam::111111111111:role/keyvigil-monitor"


def project(**fields: Any) -> Project:
    example = Project(
        project_id="acme-prod",
        name="Acme production",
        enforcement=Enforcement.ENFORCE,
        approval=Approval.AUTOMATIC,
        check_interval_minutes=10,
        grace_minutes=0,
        probe_plan="full",
        external_id=EXTERNAL_ID,
        alert_topic_arn="arn:aws:sns:us-west-2:111111111111:keyvigil-project-acme-prod",
        created_at=NOW,
        keys=1,
    )
    return changed(example, **fields)


def verdict(cause: Cause | None = None, at: datetime = NOW, **fields: Any) -> Verdict:
    example = Verdict(
        outcome=Outcome.HEALTHY if cause is None else OUTCOME_OF_CAUSE[cause],
        cause=cause,
        operation=None if cause is None else "Encrypt",
        aws_error_code=None,
        message="The key works." if cause is None else f"The key does not work: {cause}.",
        remediation=None if cause is None else Remediation(summary="Mend it.", commands=("aws kms enable-key",)),
        latency_ms=41,
        probed_at=at,
    )
    return changed(example, **fields)


def key(**fields: Any) -> Key:
    example = Key(
        project_id="acme-prod",
        key_id=KEY_ID,
        key_arn=KEY_ARN,
        alias_arn=None,
        region="us-west-2",
        account_id=CUSTOMER,
        role_arn=ROLE_ARN,
        external_id=EXTERNAL_ID,
        use=KeyUse.CMEK,
        baseline=Baseline.of(b"ciphertext", {"tested-by": "KeyVigil"}, NOW),
        facts=KeyFacts(),
        health=Health(),
        verdict=verdict(),
        last_probed_at=NOW,
        last_trigger=Trigger.REGISTRATION,
        due_at=NOW,
        created_at=NOW,
    )
    return changed(example, **fields)


def actor(**fields: Any) -> Actor:
    example = Actor(
        arn=f"arn:aws:iam::{CUSTOMER}:user/Alice", event_name="DisableKey", source_ip="192.0.2.0", event_time=NOW
    )
    return changed(example, **fields)


def canary(**fields: Any) -> Canary:
    """The stack's own, HEALTHY a moment ago."""
    example = Canary(
        canary_id=STACKS_OWN,
        key_arn=KEY_ARN.replace(CUSTOMER, OPERATOR),
        region="us-west-2",
        account_id=OPERATOR,
        role_arn=f"arn:aws:iam::{OPERATOR}:role/keyvigil-CanaryRole-1",
        external_id="keyvigil-canary-1",
        created_at=NOW,
        baseline=Baseline.of(b"the canary's ciphertext", {"tested-by": "KeyVigil"}, NOW),
        verdict=verdict(),
        began_at=NOW,
        ended_at=NOW,
        healthy_streak=1,
        counted_at=NOW,
    )
    return changed(example, **fields)


def cluster(**fields: Any) -> Cluster:
    example = Cluster(
        project_id="acme-prod",
        cluster_id="vectors-prod",
        name="Vectors",
        kind=ClusterKind.ZILLIZ_BYOC,
        region="us-west-2",
        key_id=KEY_ID,
        lock=LockSettings(via=LockVia.EVENT, timeout_seconds=300),
        status=ClusterStatus.ACTIVE,
        fence=0,
        status_changed_at=NOW,
        created_at=NOW,
    )
    return changed(example, **fields)


def incident(**fields: Any) -> Incident:
    example = Incident(
        incident_id="01JINCIDENT",
        project_id="acme-prod",
        key_id=KEY_ID,
        status=IncidentStatus.CONFIRMING,
        cause=Cause.KEY_DISABLED,
        opened_at=NOW,
    )
    return changed(example, **fields)


def backup(**fields: Any) -> Backup:
    example = Backup(
        project_id="acme-prod",
        backup_id="old",
        cluster_id="vectors-prod",
        key_id=KEY_ID,
        region="us-west-2",
        created_at=NOW,
    )
    return changed(example, **fields)


def full_problem() -> Problem:
    return Problem(
        dedup_key="acme-prod/k/01JINCIDENT/key",
        row_id="01JROW",
        type=AlertType.KEY_UNHEALTHY,
        severity=Severity.CRITICAL,
        key_id=KEY_ID,
        incident_id="01JINCIDENT",
        since=NOW,
        heard_at=NOW,
        sequence=7,
        told_at=NOW,
        reminders=2,
        news=("key.unhealthy KEY_DISABLED",),
        unsaid=Why.SILENCED,
        over_at=NOW + timedelta(days=1),
        together=True,
    )


def full_bundle() -> Bundle:
    member = Member(
        dedup_key="acme-prod/k/01JINCIDENT/key",
        key_id=KEY_ID,
        key=AlertKey(arn=KEY_ARN, region="us-west-2", account_id=CUSTOMER, alias="alias/vectors"),
        incident_id="01JINCIDENT",
        type=AlertType.KEY_UNHEALTHY,
        severity=Severity.CRITICAL,
        clusters=7,
        over_at=NOW,
    )
    return Bundle(
        dedup_key=member.dedup_key,
        cause="KEY_DISABLED",
        began_at=NOW,
        told_at=NOW,
        sequence=7,
        members={member.dedup_key: member},
        news=("key.unhealthy KEY_DISABLED",),
        due_at=NOW,
        reminders=1,
        over_at=NOW,
    )


def full_silence() -> Silence:
    return Silence(
        project_id="acme-prod",
        silence_id="01JSILENCE",
        types=("key.rotation_disabled", "cluster.*"),
        key_id=KEY_ID,
        until=NOW + timedelta(days=1),
        reason="We rotate by hand.",
        created_by="arn:aws:iam::111111111111:user/op",
        created_at=NOW,
    )
