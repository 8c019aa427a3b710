"""Every fault of STS and KMS that the proxy can inject, each on a key of its own, all at the same time."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import batched
from typing import Any

from keyvigil_cli.api_client import JsonObject
from keyvigil_cli.project import Project
from tests.e2e.stage import Stage, WatchedKey
from tests.e2e.story import story
from tests.fault_table import Observed, tell

KEYS_PER_PROJECT = 20
# Two of the sweep's minutes: in the first one, a batch with many keys that hang may still be under way.
_SWEEP_SECONDS = 200


def error(code: str, status: int = 400) -> dict[str, Any]:
    return {"error": {"code": code, "status": status}}


SILENCE = {"timeout_ms": 8000}
RESET = {"reset": True}
HALF = {"response": {"truncate_frac": 0.5}}


@dataclass(frozen=True)
class Fault:
    """A row: what the proxy does to one operation, and what that must be."""

    fault: str
    at: str
    expected: str
    does: dict[str, Any] = field(default_factory=dict)
    region: str | None = None
    """A Region that is denied as a whole. It has one row only, since no other may be disturbed."""

    @property
    def operation(self) -> str:
        return self.at.rpartition(" ")[2]


ASSUME, DESCRIBE, ENCRYPT, DECRYPT = "STS AssumeRole", "KMS DescribeKey", "KMS Encrypt", "KMS Decrypt"
THROTTLED, FAULTY, OURS = "UNKNOWN THROTTLED", "UNKNOWN KMS_FAULT", "UNKNOWN OWN_CREDENTIALS"
LATE, AWAY, STRANGE = "UNKNOWN TIMEOUT", "UNKNOWN NETWORK", "UNKNOWN UNCLASSIFIED"
FAULTS = [
    Fault("Throttling", ASSUME, THROTTLED, error("Throttling")),
    Fault("RequestLimitExceeded, 503", ASSUME, THROTTLED, error("RequestLimitExceeded", 503)),
    Fault("InternalFailure, 500", ASSUME, FAULTY, error("InternalFailure", 500)),
    Fault("ServiceUnavailable, 503", ASSUME, FAULTY, error("ServiceUnavailable", 503)),
    Fault("no answer within the time-out", ASSUME, LATE, SILENCE),
    Fault("a reset", ASSUME, AWAY, RESET),
    Fault("half of the answer", ASSUME, STRANGE, HALF),
    Fault("ExpiredToken: our credentials have expired", ASSUME, OURS, error("ExpiredToken", 403)),
    Fault("InvalidClientTokenId", ASSUME, OURS, error("InvalidClientTokenId", 403)),
    Fault("SignatureDoesNotMatch: our clock is off", ASSUME, OURS, error("SignatureDoesNotMatch", 403)),
    Fault("RequestTimeTooSkewed: our clock is off", ASSUME, OURS, error("RequestTimeTooSkewed", 403)),
    Fault("RegionDisabledException", ASSUME, OURS, error("RegionDisabledException", 403)),
    Fault("ThrottlingException", DESCRIBE, THROTTLED, error("ThrottlingException")),
    Fault("ThrottlingException", ENCRYPT, THROTTLED, error("ThrottlingException")),
    Fault("LimitExceededException", DECRYPT, THROTTLED, error("LimitExceededException")),
    Fault("KMSInternalException, 500", ENCRYPT, FAULTY, error("KMSInternalException", 500)),
    Fault("KMSInternalException, 500", DECRYPT, FAULTY, error("KMSInternalException", 500)),
    Fault("DependencyTimeoutException, 503", ENCRYPT, FAULTY, error("DependencyTimeoutException", 503)),
    Fault("KeyUnavailableException, 500", DECRYPT, FAULTY, error("KeyUnavailableException", 500)),
    Fault("ServiceUnavailableException, 503", DESCRIBE, FAULTY, error("ServiceUnavailableException", 503)),
    Fault("no answer within the time-out", ENCRYPT, LATE, SILENCE),
    Fault("a reset", DECRYPT, AWAY, RESET),
    Fault("half of the answer", ENCRYPT, STRANGE, HALF),
    Fault("ExpiredTokenException: the session has expired", ENCRYPT, OURS, error("ExpiredTokenException")),
    Fault("UnrecognizedClientException", DESCRIBE, OURS, error("UnrecognizedClientException")),
    Fault("InvalidSignatureException: our clock is off", DECRYPT, OURS, error("InvalidSignatureException")),
    Fault("a Region that does not answer", "KMS", LATE, SILENCE, region="eu-central-1"),
    Fault("a Region that resets every connection", "KMS", AWAY, RESET, region="ap-south-1"),
    Fault("a second late, but within the time-out", ENCRYPT, "HEALTHY", {"latency": 1000}),
]


def rule_of(fault: Fault, watched: WatchedKey) -> dict[str, Any]:
    """The proxy's rule that does this to this key, and to no other."""
    if fault.region is not None:
        return {"service": "kms", "region": fault.region, **fault.does}
    if fault.at == ASSUME:
        mine = f"ends_with(RoleArn, '/{watched.key.role_name}')"
        return {"service": "sts", "operation": fault.operation, "body": mine, **fault.does}
    mine = f"contains(KeyId, '{watched.key.key_arn.rpartition('/')[2]}')"
    return {"service": "kms", "operation": fault.operation, "body": mine, **fault.does}


def in_words(key: JsonObject) -> str:
    verdict = key["verdict"]
    return f"{verdict['outcome']} {verdict['cause']}" if verdict["cause"] else str(verdict["outcome"])


def what_is_wrong(key: JsonObject) -> str:
    """What must not have happened to a key of which nothing is known."""
    return "" if (key["status"], key["open_incident_id"]) == ("HEALTHY", None) else f", {key['status']}"


@story
def every_fault_of_sts_and_kms_is_unknown_and_opens_no_incident(stage: Stage) -> None:
    # Due once an hour while they are well: a probe before the fault would leave a session that hides it.
    projects = [stage.project(check_interval_minutes=60) for _ in batched(FAULTS, KEYS_PER_PROJECT, strict=False)]
    owners = [projects[number // KEYS_PER_PROJECT] for number in range(len(FAULTS))]
    with ExitStack() as rules, ThreadPoolExecutor(max_workers=4) as pool:

        def begin(fault: Fault, project: Project) -> WatchedKey:
            watched = stage.watched_key(project, region=fault.region)
            rules.enter_context(stage.faults.failing(rule_of(fault, watched)))
            return watched

        keys = list(pool.map(begin, FAULTS, owners))
        since = datetime.now(UTC)
        checked = list(pool.map(WatchedKey.check, keys))

        def swept(fault: Fault, watched: WatchedKey) -> JsonObject:
            if fault.expected == "HEALTHY":  # due in an hour
                return watched.check()
            return watched.project.wait_for_key(
                watched.key_id,
                f"a sweep to probe the key of {fault}",
                lambda key: key["last_trigger"] == "schedule" and datetime.fromisoformat(key["last_probed_at"]) > since,
                within=_SWEEP_SECONDS,
            )

        found = list(pool.map(swept, FAULTS, keys))
    with ThreadPoolExecutor(max_workers=4) as pool:
        after = list(pool.map(WatchedKey.check, keys))

    rows = []
    for fault, first, second, last in zip(FAULTS, checked, found, after, strict=True):
        seen = in_words(first) + what_is_wrong(first)
        if in_words(second) + what_is_wrong(second) != seen:
            seen += f", by the sweep {in_words(second)}{what_is_wrong(second)}"
        if in_words(last) != "HEALTHY" or last["unknown_since"] is not None:
            seen += f", and afterwards {in_words(last)}"
        rows.append(Observed(fault.fault, fault.at, fault.expected, seen))
    assert [incident for project in projects for incident in project.incidents()] == []
    tell("STS and KMS, on the local cloud", rows)
