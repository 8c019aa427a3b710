"""What AWS Security Hub is told: one finding for each incident, updated by its alerts and archived when it is over."""

from dataclasses import dataclass
from datetime import datetime

from keyvigil.domain.alerts import Alert, AlertStatus, Severity
from keyvigil.domain.incidents import AffectedCluster, Incident


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An incident as one of its alerts tells it. `finding_id` is the same for all of them.

    `sequence` sorts what is told of it: of two updates of the same millisecond the higher one is the newer.
    """

    finding_id: str
    incident_id: str
    project_id: str
    key_arn: str
    region: str
    account_id: str
    alert_type: str
    dedup_key: str
    severity: Severity
    cause: str
    message: str
    summary: str
    runbook: str
    clusters: tuple[AffectedCluster, ...]
    opened_at: datetime
    updated_at: datetime
    sequence: int
    over: bool


def finding_of(alert: Alert, incident: Incident) -> Finding | None:
    """What an alert makes of its incident's finding. None for one that no incident stands behind.

    The finding is over with the incident. A key's recovery ends it if no cluster's lock was told of: nothing is told
    after that; otherwise the unlock ends it.
    """
    if alert.key is None or alert.project_id is None or alert.incident_id != incident.incident_id:
        return None
    over = not incident.is_open or (alert.status is AlertStatus.RESOLVED and not incident.clusters_told)
    return Finding(
        finding_id=f"{alert.project_id}/{incident.key_id}/{incident.incident_id}",
        incident_id=incident.incident_id,
        project_id=alert.project_id,
        key_arn=alert.key.arn,
        region=alert.key.region,
        account_id=alert.key.account_id,
        alert_type=alert.type,
        dedup_key=alert.dedup_key,
        severity=Severity.INFO if over else _while_it_lasts(alert.severity),
        cause=str(incident.cause),
        message=alert.cause.message,
        summary=alert.remediation.summary,
        runbook=alert.remediation.runbook,
        clusters=alert.clusters,
        opened_at=incident.opened_at,
        updated_at=alert.detected_at,
        sequence=alert.sequence,
        over=over,
    )


def _while_it_lasts(severity: Severity) -> Severity:
    """Good news of the key is no end while clusters are locked."""
    return Severity.WARNING if severity is Severity.INFO else severity


def newest(findings: list[Finding]) -> list[Finding]:
    """The newest state of each finding: one request must not name a finding twice."""
    found: dict[str, Finding] = {}
    for each in sorted(findings, key=lambda finding: finding.sequence):
        found[each.finding_id] = each
    return list(found.values())
