"""What the prober makes of answers that no cloud gives on demand: the part of docs/fault-table.md made without one."""

import hashlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import pytest

from keyvigil.adapters import aws, kms_prober
from keyvigil.adapters.kms_prober import KmsProber
from keyvigil.adapters.kms_transport import BOTO3, TRANSPORTS, URLLIB3
from keyvigil.domain.keys import Key, KeyUse
from keyvigil.domain.probe_plans import LEAN
from keyvigil.domain.verdicts import OUTCOME_OF_CAUSE, Cause, Outcome, Verdict
from tests.examples import MONITOR_ROLE_ARN, key
from tests.fakes import FakeClock, changed
from tests.fault_table import Observed, tell
from tests.unit.fault_server import (
    Answer,
    FaultServer,
    after,
    at_first,
    half_a_session,
    hangs_up,
    hangs_up_half_way,
    json_answer,
    kms_error,
    never_answers,
    page,
    resets,
    sts_error,
    well,
)

READ_TIMEOUT_SECONDS = 0.4
HEALTHY = None


class Probe(Protocol):
    """Probe a key while a fault lasts, by either transport."""

    def __call__(self, fault: "Fault", *, transport: str = BOTO3, plan: str = "full") -> Verdict: ...


@dataclass(frozen=True)
class Fault:
    """A row: what AWS, or somebody else, answers to one operation, and the cause that it must be."""

    fault: str
    at: str
    cause: Cause | None
    answer: Answer | None = None
    use: KeyUse = KeyUse.CMEK
    environ: Mapping[str, str] = field(default_factory=dict)
    probed: Key = field(default_factory=key)


def closed_port() -> str:
    """An address at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


NOWHERE = MappingProxyType({"AWS_ENDPOINT_URL_KMS": "http://kms.nowhere.invalid"})
NO_CREDENTIALS = MappingProxyType({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})
DAMAGED = changed(
    key().baseline, ciphertext=b"ciphertexT", checksum=hashlib.sha256(key().baseline.ciphertext).hexdigest()
)
FAULTS = [
    Fault("a proxy's page instead of an answer", "STS AssumeRole", Cause.UNCLASSIFIED, page(200)),
    Fault("half of the answer", "STS AssumeRole", Cause.UNCLASSIFIED, half_a_session()),
    Fault("no answer within the time-out", "STS AssumeRole", Cause.TIMEOUT, never_answers),
    Fault("a connection closed without a word", "STS AssumeRole", Cause.NETWORK, hangs_up),
    Fault("502 from a gateway", "STS AssumeRole", Cause.KMS_FAULT, page(502)),
    Fault("504 from a gateway", "STS AssumeRole", Cause.KMS_FAULT, page(504)),
    Fault("429 with a code that nobody knows", "STS AssumeRole", Cause.THROTTLED, sts_error("Calm", 429)),
    Fault("400 with a code that nobody knows", "STS AssumeRole", Cause.UNCLASSIFIED, sts_error("Novelty", 400)),
    Fault("IncompleteSignature", "STS AssumeRole", Cause.OWN_CREDENTIALS, sts_error("IncompleteSignature", 400)),
    Fault(
        "MissingAuthenticationToken",
        "STS AssumeRole",
        Cause.OWN_CREDENTIALS,
        sts_error("MissingAuthenticationToken", 403),
    ),
    Fault("a function without credentials", "STS AssumeRole", Cause.OWN_CREDENTIALS, environ=NO_CREDENTIALS),
    Fault("a proxy's page instead of an answer", "KMS DescribeKey", Cause.UNCLASSIFIED, page(200)),
    Fault("an answer without its content", "KMS DescribeKey", Cause.UNCLASSIFIED, json_answer({})),
    Fault("nobody listens", "KMS DescribeKey", Cause.NETWORK, environ={"AWS_ENDPOINT_URL_KMS": closed_port()}),
    Fault("a name that does not resolve", "KMS DescribeKey", Cause.NETWORK, environ=NOWHERE),
    Fault("no TLS where there should be", "KMS DescribeKey", Cause.NETWORK, environ={"AWS_ENDPOINT_URL_KMS": "https"}),
    Fault("OptInRequired", "KMS DescribeKey", Cause.OWN_CREDENTIALS, kms_error("OptInRequired", 403)),
    Fault("an answer without its content", "KMS Encrypt", Cause.UNCLASSIFIED, json_answer({})),
    Fault("a ciphertext that is no base64", "KMS Encrypt", Cause.UNCLASSIFIED, json_answer({"CiphertextBlob": "a"})),
    Fault("503 from a gateway", "KMS Encrypt", Cause.KMS_FAULT, page(503)),
    Fault("429 with a code that nobody knows", "KMS Encrypt", Cause.THROTTLED, kms_error("Calm", 429)),
    Fault(
        "KMSInvalidStateException of an enabled key (its key store is out of reach)",
        "KMS Encrypt",
        Cause.KEY_STORE_UNREACHABLE,
        kms_error("KMSInvalidStateException"),
    ),
    Fault("a reset", "KMS Encrypt", Cause.NETWORK, resets),
    Fault("half of the answer, then nothing", "KMS Decrypt", Cause.UNCLASSIFIED, hangs_up_half_way),
    Fault("no answer within the time-out", "KMS Decrypt", Cause.TIMEOUT, never_answers),
    Fault("a connection closed without a word", "KMS Decrypt", Cause.NETWORK, hangs_up),
    Fault("an answer without its content", "KMS Decrypt", Cause.UNCLASSIFIED, json_answer({})),
    Fault(
        "KMSInternalException, 500",
        "KMS GenerateDataKey",
        Cause.KMS_FAULT,
        kms_error("KMSInternalException", 500),
        use=KeyUse.CSE,
    ),
    Fault("the stored ciphertext is damaged", "before any call", Cause.UNCLASSIFIED, probed=key(baseline=DAMAGED)),
    Fault("a reset, once", "KMS Encrypt", HEALTHY, at_first(resets, "Encrypt")),
    Fault(
        "KMSInternalException, once",
        "KMS Decrypt",
        HEALTHY,
        at_first(kms_error("KMSInternalException", 500), "Decrypt"),
    ),
    Fault("slow, but within the time-out", "KMS Encrypt", HEALTHY, after(READ_TIMEOUT_SECONDS / 4, well("Encrypt"))),
]


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> Probe:
    """Probe a key while a fault lasts. Time-outs are short and retries come at once, or it would take minutes."""
    monkeypatch.setattr(kms_prober, "PROBE_READ_TIMEOUT_SECONDS", READ_TIMEOUT_SECONDS)
    monkeypatch.setattr("botocore.retries.standard.random.random", lambda: 0.0)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)

    def probe(fault: Fault, *, transport: str = BOTO3, plan: str = "full") -> Verdict:
        operation = fault.at.partition(" ")[2]
        server = FaultServer({operation: fault.answer} if fault.answer is not None else {})
        with server.running(), monkeypatch.context() as patch:
            environ = {
                "AWS_ACCESS_KEY_ID": "AKIAKEYVIGILITSELF01",
                "AWS_SECRET_ACCESS_KEY": "made-up",
                "AWS_DEFAULT_REGION": "us-west-2",
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_CONFIG_FILE": "/dev/null",
                "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
                "AWS_ENDPOINT_URL_STS": server.url,
                "AWS_ENDPOINT_URL_KMS": server.url,
                **fault.environ,
            }
            if environ["AWS_ENDPOINT_URL_KMS"] == "https":
                environ["AWS_ENDPOINT_URL_KMS"] = server.url.replace("http:", "https:")
            for name, value in environ.items():
                patch.setenv(name, value) if value else patch.delenv(name, raising=False)
            aws.session.cache_clear()
            try:
                return (
                    KmsProber(FakeClock(), monitor_role_arn=MONITOR_ROLE_ARN, transport=transport)
                    .probe(changed(fault.probed, use=fault.use), lean=plan == LEAN)
                    .verdict
                )
            finally:
                aws.session.cache_clear()

    return probe


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: f"{each.at}: {each.fault}")
def test_the_other_transport_comes_to_the_same_verdict(probed: Probe, fault: Fault) -> None:
    verdict = probed(fault, transport=URLLIB3)

    assert verdict.cause == fault.cause
    assert verdict.operation in {None, fault.at.partition(" ")[2], "Decrypt"}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_list_is_no_answer_about_the_key_either(probed: Probe, transport: str) -> None:
    a_list = Fault("a list", "KMS DescribeKey", Cause.UNCLASSIFIED, page(200, "[1]"))

    assert probed(a_list, transport=transport).cause is Cause.UNCLASSIFIED


def shown(outcome: Outcome, cause: Cause | None) -> str:
    return f"{outcome} {cause}" if cause else str(outcome)


def test_every_answer_that_is_no_answer_about_the_key_is_unknown(probed: Probe) -> None:
    rows = []
    for fault in FAULTS:
        verdict = probed(fault)
        expected = Outcome.HEALTHY if fault.cause is None else OUTCOME_OF_CAUSE[fault.cause]
        assert "made-up" not in repr(verdict), "half of STS's answer has the session's secret in it"
        rows.append(
            Observed(fault.fault, fault.at, shown(expected, fault.cause), shown(verdict.outcome, verdict.cause))
        )
        assert verdict.operation in {None, fault.at.partition(" ")[2], "Decrypt"}

    tell("Answers that the local cloud cannot give", rows)


def test_a_key_that_is_well_is_healthy_here_too(probed: Probe) -> None:
    """Or every row above might be UNKNOWN for want of a server that works."""
    assert probed(Fault("nothing", "KMS Encrypt", HEALTHY, use=KeyUse.CSE)).outcome is Outcome.HEALTHY


NOT_ASKED_WHEN_LEAN = ("KMS DescribeKey", "KMS Encrypt", "KMS GenerateDataKey")
"""A fault that strikes one of these operations alone waits for the whole check, an hour at most."""


def test_a_lean_probe_finds_the_same_unless_the_fault_strikes_only_what_it_does_not_ask(probed: Probe) -> None:
    for fault in FAULTS:
        of_the_endpoint = not fault.answer and fault.environ
        missed = fault.at in NOT_ASKED_WHEN_LEAN and not of_the_endpoint
        verdict = probed(fault, plan=LEAN)
        assert verdict.cause is (None if missed else fault.cause), fault
