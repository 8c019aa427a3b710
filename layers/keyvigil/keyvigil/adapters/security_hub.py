"""Findings for AWS Security Hub, in the AWS Security Finding Format (ASFF).

Sources:
    https://docs.aws.amazon.com/securityhub/latest/userguide/finding-update-batchimportfindings.html
    https://docs.aws.amazon.com/securityhub/latest/userguide/asff-required-attributes.html
    https://docs.aws.amazon.com/securityhub/1.0/APIReference/API_BatchImportFindings.html
"""

import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import batched
from typing import Any, override

from botocore.exceptions import BotoCoreError, ClientError

from keyvigil.adapters.aws import config, session
from keyvigil.domain.alerts import Severity
from keyvigil.domain.findings import Finding
from keyvigil.errors import DeliveryError
from keyvigil.ports import Findings

BATCH = 100
"""Findings in one request, at most (API_BatchImportFindings)."""

LONGEST_TITLE = 256
"""Characters of a finding's title (API_AwsSecurityFinding)."""

LONGEST_DESCRIPTION = 1024
"""Characters of a finding's description (API_AwsSecurityFinding)."""

LONGEST_RECOMMENDATION = 512
"""Characters of what to do about a finding (API_Recommendation)."""

RESOURCES = 32
"""Resources of a finding (API_AwsSecurityFinding): the key, and as many of its clusters as there is room for."""

_SCHEMA_VERSION = "2018-10-08"
_LABELS = {Severity.INFO: "INFORMATIONAL", Severity.WARNING: "MEDIUM", Severity.CRITICAL: "CRITICAL"}
_TYPES = ["Software and Configuration Checks/KMS key"]
# What is wrong with the finding itself, so that no repetition helps.
_NEVER_TAKEN = {"InvalidInput", "InvalidInputException"}


class SecurityHubFindings(Findings):
    """Imports findings as the account's own product, which needs no subscription to any.

    The account of a finding must be the one that imports it, so the key's own account stands in its ARN only.
    """

    def __init__(self, *, account_id: str, partition: str, region: str, stack_name: str) -> None:
        """Keep whose findings these are; nothing is called yet."""
        self._account_id = account_id
        self._stack = stack_name
        self._product = f"arn:{partition}:securityhub:{region}:{account_id}:product/{account_id}/default"

    @cached_property
    def _client(self) -> Any:  # boto3-stubs has this service too, but for one call it is not worth a dependency
        return session().client("securityhub", config=config())

    @override
    def import_findings(self, findings: Sequence[Finding]) -> Mapping[str, DeliveryError]:
        failed: dict[str, DeliveryError] = {}
        for batch in batched(findings, BATCH, strict=False):
            failed |= self._import(batch)
        return failed

    def _import(self, batch: Sequence[Finding]) -> dict[str, DeliveryError]:
        by_asff_id = {self._id_of(each): each.finding_id for each in batch}
        try:
            answer = self._client.batch_import_findings(Findings=[self.asff(each) for each in batch])
        except (ClientError, BotoCoreError) as error:
            reason = _not_taken(error)
            if reason.refused and len(batch) > 1:
                # One finding that is not of the form spoils the whole request: each by itself, the others are taken.
                return {finding_id: why for each in batch for finding_id, why in self._import([each]).items()}
            return dict.fromkeys(by_asff_id.values(), reason)
        # It answers 200 although it refused some: those, and only those, are sent again.
        failed: dict[str, DeliveryError] = {}
        for refused in answer.get("FailedFindings", []):
            code = str(refused.get("ErrorCode"))
            if (finding_id := by_asff_id.get(str(refused.get("Id")))) is not None:
                reason = DeliveryError(f"Security Hub refused the finding: {code}", refused=code in _NEVER_TAKEN)
                failed[finding_id] = reason
        return failed

    def _id_of(self, finding: Finding) -> str:
        return f"{self._stack}/{finding.finding_id}"

    def asff(self, finding: Finding) -> dict[str, Any]:
        """A finding as Security Hub wants it.

        One whose `UpdatedAt` is not after that of the same finding which is there is ignored, so that an alert that
        comes late changes nothing. `Workflow` is for those who work on findings: a provider archives what is over.
        """
        title = f"KMS key {finding.key_arn.rpartition('/')[2]} of project {finding.project_id}: {finding.cause}"
        state = "It is over." if finding.over else f"Last told: {finding.alert_type}."
        description = f"{finding.message} {state} Incident {finding.incident_id}."
        severity = {"Label": _LABELS[finding.severity], "Original": str(finding.severity)}
        recommendation = {"Text": _fit(finding.summary, LONGEST_RECOMMENDATION)}
        if finding.runbook.startswith("https://"):
            recommendation["Url"] = finding.runbook
        partition = finding.key_arn.split(":", 2)[1]
        clusters = [
            {
                "Type": "Other",
                "Id": f"{finding.project_id}/{each.cluster_id}",
                "Details": {"Other": {"status": str(each.status)}},
            }
            for each in finding.clusters[: RESOURCES - 1]
        ]
        return {
            "SchemaVersion": _SCHEMA_VERSION,
            "Id": self._id_of(finding),
            "ProductArn": self._product,
            "GeneratorId": f"{self._stack}/incident",
            "AwsAccountId": self._account_id,
            "Types": _TYPES,
            "CreatedAt": _moment(finding.opened_at),
            "UpdatedAt": _moment(finding.updated_at, finding.sequence),
            "FirstObservedAt": _moment(finding.opened_at),
            "LastObservedAt": _moment(finding.updated_at),
            "Severity": severity,
            "FindingProviderFields": {"Severity": severity, "Types": _TYPES},
            "Title": _fit(title, LONGEST_TITLE),
            "Description": _fit(description, LONGEST_DESCRIPTION),
            "Remediation": {"Recommendation": recommendation},
            "ProductFields": {
                "keyvigil/project_id": finding.project_id,
                "keyvigil/incident_id": finding.incident_id,
                "keyvigil/key_account_id": finding.account_id,
                "keyvigil/cause": finding.cause,
                "keyvigil/alert_type": finding.alert_type,
                "keyvigil/dedup_key": finding.dedup_key,
            },
            "Resources": [
                {"Type": "AwsKmsKey", "Id": finding.key_arn, "Partition": partition, "Region": finding.region},
                *clusters,
            ],
            "RecordState": "ARCHIVED" if finding.over else "ACTIVE",
        }


def _moment(moment: datetime, sequence: int | None = None) -> str:
    """A time as ASFF takes it, up to nine digits of a second; updates of one millisecond are told apart by more."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "")
    return f"{text}Z" if sequence is None else f"{text}{sequence % 1000:03d}Z"


def _fit(text: str, limit: int) -> str:
    """A text as ASFF takes it: one line without control characters, not too long, and never nothing."""
    seen = "".join(" " if unicodedata.category(each)[0] == "C" else each for each in text)
    line = " ".join(seen.split()) or "-"
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _not_taken(error: ClientError | BotoCoreError) -> DeliveryError:
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code"))
        return DeliveryError(f"Security Hub did not take the findings: {code}", refused=code in _NEVER_TAKEN)
    return DeliveryError(f"Security Hub did not take the findings: {type(error).__name__}", unreachable=True)
