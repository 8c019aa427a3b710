"""Verdicts: what one probe found out about one key."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType


class Outcome(StrEnum):
    """A probe's answer. UNKNOWN is an answer too: it never counts for or against a key."""

    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    UNKNOWN = "UNKNOWN"


class Cause(StrEnum):
    """Why a key is not HEALTHY. Which outcome a cause has is fixed: see `OUTCOME_OF_CAUSE`."""

    KEY_DISABLED = "KEY_DISABLED"
    KEY_PENDING_DELETION = "KEY_PENDING_DELETION"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    KEY_MATERIAL_MISSING = "KEY_MATERIAL_MISSING"
    KEY_STORE_UNAVAILABLE = "KEY_STORE_UNAVAILABLE"
    KEY_WRONG_USAGE = "KEY_WRONG_USAGE"
    CIPHERTEXT_UNREADABLE = "CIPHERTEXT_UNREADABLE"
    ACCESS_DENIED = "ACCESS_DENIED"
    ROLE_NOT_ASSUMABLE = "ROLE_NOT_ASSUMABLE"
    SECRET_UNREADABLE = "SECRET_UNREADABLE"  # noqa: S105  a cause code, not a secret
    THROTTLED = "THROTTLED"
    KMS_FAULT = "KMS_FAULT"
    KEY_STORE_UNREACHABLE = "KEY_STORE_UNREACHABLE"
    TIMEOUT = "TIMEOUT"
    NETWORK = "NETWORK"
    OWN_CREDENTIALS = "OWN_CREDENTIALS"
    UNCLASSIFIED = "UNCLASSIFIED"


DEFINITE_CAUSES = frozenset(
    {Cause.KEY_DISABLED, Cause.KEY_PENDING_DELETION, Cause.KEY_MATERIAL_MISSING, Cause.KEY_WRONG_USAGE}
)
"""AWS says so of that very key; no fault of ours can look like it."""

AMBIGUOUS_CAUSES = frozenset(
    {
        Cause.ACCESS_DENIED,
        Cause.ROLE_NOT_ASSUMABLE,
        Cause.KEY_NOT_FOUND,
        Cause.KEY_STORE_UNAVAILABLE,
        Cause.SECRET_UNREADABLE,
        Cause.CIPHERTEXT_UNREADABLE,
    }
)
"""Might be our own fault, or an echo of KMS's eventual consistency."""

OUTCOME_OF_CAUSE: Mapping[Cause, Outcome] = MappingProxyType(
    {cause: Outcome.UNHEALTHY if cause in DEFINITE_CAUSES | AMBIGUOUS_CAUSES else Outcome.UNKNOWN for cause in Cause}
)


def is_definite(cause: Cause, *, deletion_date: datetime | None, now: datetime) -> bool:
    """Say whether AWS itself vouches for this cause.

    KEY_NOT_FOUND is definite only once a deletion was seen scheduled and its date has passed: before
    that a wrong Region, a wrong account or eventual consistency look the same.
    """
    if cause is Cause.KEY_NOT_FOUND:
        return deletion_date is not None and deletion_date <= now
    return cause in DEFINITE_CAUSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Remediation:
    """How to mend it: one sentence, and the commands (or policy statements) that do it."""

    summary: str
    commands: tuple[str, ...] = ()
    statement: str | None = None
    """The policy statement that must hold, as JSON, where a policy is what refuses."""


class PolicyKind(StrEnum):
    """Which kind of policy refused a request, in AWS's own words.

    Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
    """

    IDENTITY = "identity-based policy"
    RESOURCE = "resource-based policy"
    SERVICE_CONTROL = "service control policy"
    RESOURCE_CONTROL = "resource control policy"
    BOUNDARY = "permissions boundary"
    SESSION = "session policy"
    ENDPOINT = "VPC endpoint policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Who refused, as far as AWS said so. `explicit`: a Deny matched, instead of no Allow."""

    policy: PolicyKind
    explicit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """The permission that a probe found missing. `refused_by` is None where AWS did not say which policy it was."""

    action: str
    resource: str
    refused_by: Refusal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something worth telling about a key that is nevertheless HEALTHY."""

    code: str
    message: str
    remediation: Remediation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A probe's answer. `latency_ms` is the time from `probed_at` to the answer, in whole milliseconds."""

    outcome: Outcome
    cause: Cause | None
    operation: str | None
    aws_error_code: str | None
    message: str
    remediation: Remediation | None
    latency_ms: int
    probed_at: datetime
    findings: tuple[Finding, ...] = ()
    permission: Permission | None = None
