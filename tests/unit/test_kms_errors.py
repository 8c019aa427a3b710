"""The table of errors: every row of AWS's own tables that a probe can meet, with what it means.

Sources:
    https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
    https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    UnknownEndpointError,
)

from keyvigil.adapters.kms_errors import classify
from keyvigil.domain.remediation import Subject, explain
from keyvigil.domain.verdicts import AMBIGUOUS_CAUSES, DEFINITE_CAUSES, OUTCOME_OF_CAUSE, Cause, Outcome
from tests.examples import EXTERNAL_ID, KEY_ARN, ROLE_ARN

URL = "https://kms.us-west-2.amazonaws.com"
SUBJECT = Subject(
    key_arn=KEY_ARN,
    region="us-west-2",
    role_arn=ROLE_ARN,
    external_id=EXTERNAL_ID,
    operations=("DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What AWS answers, and what it means."""

    code: str
    cause: Cause
    outcome: Outcome
    status: int = 400
    state: str | None = "Enabled"
    operation: str = "Encrypt"


def unhealthy(code: str, cause: Cause, **fields: str | int | None) -> Row:
    return Row(code=code, cause=cause, outcome=Outcome.UNHEALTHY, **fields)  # type: ignore[arg-type]  # a row's fields


def unknown(code: str, cause: Cause, **fields: str | int | None) -> Row:
    return Row(code=code, cause=cause, outcome=Outcome.UNKNOWN, **fields)  # type: ignore[arg-type]  # a row's fields


ROWS = [
    # What refuses the key because of its state.
    unhealthy("DisabledException", Cause.KEY_DISABLED, state="Disabled"),
    unhealthy("DisabledException", Cause.KEY_PENDING_DELETION, state="PendingDeletion"),
    unhealthy("DisabledException", Cause.KEY_PENDING_DELETION, state="PendingReplicaDeletion"),
    # DescribeKey denied, or its answer older than the change: the error itself says which key it speaks of.
    unhealthy("DisabledException", Cause.KEY_DISABLED, state=None),
    unhealthy("DisabledException", Cause.KEY_DISABLED, state="Enabled"),
    unhealthy("KMSInvalidStateException", Cause.KEY_PENDING_DELETION, state="PendingDeletion"),
    unhealthy("KMSInvalidStateException", Cause.KEY_PENDING_DELETION, state="PendingReplicaDeletion"),
    unhealthy("KMSInvalidStateException", Cause.KEY_MATERIAL_MISSING, state="PendingImport"),
    unhealthy("KMSInvalidStateException", Cause.KEY_STORE_UNAVAILABLE, state="Unavailable"),
    unhealthy("KMSInvalidStateException", Cause.KEY_NOT_FOUND, state="Creating"),
    unhealthy("KMSInvalidStateException", Cause.KEY_DISABLED, state="Disabled"),
    # Every failed call to an external key store says this, while the key itself is enabled.
    unknown("KMSInvalidStateException", Cause.KEY_STORE_UNREACHABLE, state="Enabled"),
    unknown("KMSInvalidStateException", Cause.KEY_STORE_UNREACHABLE, state="Updating"),
    unknown("KMSInvalidStateException", Cause.UNCLASSIFIED, state=None),
    unknown("KMSInvalidStateException", Cause.UNCLASSIFIED, state="AStateOfTheFuture"),
    # What refuses the key itself.
    unhealthy("NotFoundException", Cause.KEY_NOT_FOUND),
    unhealthy("NotFoundException", Cause.KEY_NOT_FOUND, state=None, operation="DescribeKey"),
    unhealthy("InvalidKeyUsageException", Cause.KEY_WRONG_USAGE),
    unhealthy("UnsupportedOperationException", Cause.KEY_WRONG_USAGE),
    unhealthy("InvalidCiphertextException", Cause.CIPHERTEXT_UNREADABLE, operation="Decrypt"),
    unhealthy("IncorrectKeyException", Cause.CIPHERTEXT_UNREADABLE, operation="Decrypt"),
    # What refuses us.
    unhealthy("AccessDeniedException", Cause.ACCESS_DENIED),
    unhealthy("AccessDeniedException", Cause.ACCESS_DENIED, operation="Decrypt", status=403),
    unhealthy("AccessDenied", Cause.ROLE_NOT_ASSUMABLE, operation="AssumeRole", status=403),
    unhealthy("AccessDeniedException", Cause.ROLE_NOT_ASSUMABLE, operation="AssumeRole", status=403),
    # Our own credentials, or our own clock.
    unknown("ExpiredToken", Cause.OWN_CREDENTIALS, operation="AssumeRole", status=403),
    unknown("ExpiredTokenException", Cause.OWN_CREDENTIALS),
    unknown("InvalidClientTokenId", Cause.OWN_CREDENTIALS, operation="AssumeRole", status=403),
    unknown("UnrecognizedClientException", Cause.OWN_CREDENTIALS),
    unknown("SignatureDoesNotMatch", Cause.OWN_CREDENTIALS, operation="AssumeRole", status=403),
    unknown("InvalidSignatureException", Cause.OWN_CREDENTIALS),
    unknown("RequestExpired", Cause.OWN_CREDENTIALS),
    unknown("RequestTimeTooSkewed", Cause.OWN_CREDENTIALS, operation="AssumeRole", status=403),
    unknown("IncompleteSignature", Cause.OWN_CREDENTIALS),
    unknown("MissingAuthenticationToken", Cause.OWN_CREDENTIALS, status=403),
    unknown("OptInRequired", Cause.OWN_CREDENTIALS, status=403),
    unknown("RegionDisabledException", Cause.OWN_CREDENTIALS, operation="AssumeRole", status=403),
    # The quota of the customer's account, which their own traffic uses too.
    unknown("ThrottlingException", Cause.THROTTLED),
    unknown("LimitExceededException", Cause.THROTTLED),
    unknown("RequestLimitExceeded", Cause.THROTTLED, status=503),
    unknown("Throttling", Cause.THROTTLED, operation="AssumeRole"),
    unknown("TooManyRequestsException", Cause.THROTTLED),
    unknown("RequestThrottled", Cause.THROTTLED),
    unknown("ACodeOfTheFuture", Cause.THROTTLED, status=429),
    # KMS's own faults.
    unknown("KMSInternalException", Cause.KMS_FAULT, status=500),
    unknown("DependencyTimeoutException", Cause.KMS_FAULT, status=503),
    unknown("KeyUnavailableException", Cause.KMS_FAULT, status=500),
    unknown("InternalFailure", Cause.KMS_FAULT, status=500),
    unknown("InternalError", Cause.KMS_FAULT, status=500),
    unknown("ServiceUnavailable", Cause.KMS_FAULT, operation="AssumeRole", status=503),
    unknown("ServiceUnavailableException", Cause.KMS_FAULT, status=503),
    unknown("ACodeOfTheFuture", Cause.KMS_FAULT, status=500),
    unknown("", Cause.KMS_FAULT, status=502),
    # What nobody has seen yet.
    unknown("ACodeOfTheFuture", Cause.UNCLASSIFIED),
    unknown("", Cause.UNCLASSIFIED),
    unknown("ValidationError", Cause.UNCLASSIFIED, operation="AssumeRole"),
]

TRANSPORT: list[tuple[BotoCoreError, Cause]] = [
    (ConnectTimeoutError(endpoint_url=URL), Cause.TIMEOUT),
    (ReadTimeoutError(endpoint_url=URL), Cause.TIMEOUT),
    (EndpointConnectionError(endpoint_url=URL), Cause.NETWORK),
    (ProxyConnectionError(proxy_url=URL), Cause.NETWORK),
    (ConnectionClosedError(endpoint_url=URL), Cause.NETWORK),
    (SSLError(endpoint_url=URL, error=OSError("bad certificate")), Cause.NETWORK),
    (HTTPClientError(error="no such host"), Cause.NETWORK),
    (NoCredentialsError(), Cause.OWN_CREDENTIALS),
    (PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), Cause.OWN_CREDENTIALS),
    (UnknownEndpointError(service_name="kms", region_name="xx-nowhere-1"), Cause.UNCLASSIFIED),
]

NEVER_GIVEN = {Cause.SECRET_UNREADABLE}
"""Causes of a use (`kes`) that is not probed yet."""


def client_error(code: str, status: int, operation: str = "Encrypt") -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": "whatever AWS says"},
            "ResponseMetadata": {
                "HTTPStatusCode": status,
                "RequestId": "",
                "HostId": "",
                "HTTPHeaders": {},
                "RetryAttempts": 0,
            },
        },
        operation,
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.operation}:{row.code}:{row.status}:{row.state}")
def test_each_error_of_aws_has_its_cause_and_outcome(row: Row) -> None:
    classified = classify(row.operation, client_error(row.code, row.status, row.operation), key_state=row.state)

    assert classified.cause is row.cause
    assert OUTCOME_OF_CAUSE[classified.cause] is row.outcome
    assert classified.aws_error_code == (row.code or None)


@pytest.mark.parametrize(("error", "cause"), TRANSPORT, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("operation", ["AssumeRole", "DescribeKey", "Decrypt"])
def test_a_call_that_did_not_get_through_says_nothing_about_the_key(
    error: BotoCoreError, cause: Cause, operation: str
) -> None:
    classified = classify(operation, error, key_state="Disabled")

    assert classified.cause is cause
    assert classified.aws_error_code is None
    assert OUTCOME_OF_CAUSE[cause] is Outcome.UNKNOWN


def test_an_error_without_code_or_status_is_unclassified() -> None:
    assert classify("Encrypt", ClientError({}, "Encrypt"), key_state=None).cause is Cause.UNCLASSIFIED


def test_only_assume_role_can_say_that_a_role_is_not_assumable() -> None:
    codes = {row.code for row in ROWS}
    causes = {classify("Encrypt", client_error(code, 403), key_state="Enabled").cause for code in codes}

    assert Cause.ROLE_NOT_ASSUMABLE not in causes


def test_the_table_holds_every_cause_that_a_probe_can_give() -> None:
    shown = {row.cause for row in ROWS} | {cause for _, cause in TRANSPORT}

    assert shown == set(Cause) - NEVER_GIVEN


def test_definite_and_ambiguous_causes_are_the_unhealthy_ones_and_no_cause_is_both() -> None:
    unhealthy_causes = {cause for cause, outcome in OUTCOME_OF_CAUSE.items() if outcome is Outcome.UNHEALTHY}

    assert unhealthy_causes == DEFINITE_CAUSES | AMBIGUOUS_CAUSES
    assert not DEFINITE_CAUSES & AMBIGUOUS_CAUSES


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_one_plain_sentence(cause: Cause) -> None:
    sentence, _ = explain(cause, "Decrypt", SUBJECT)

    assert sentence[0].isupper()
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert cause not in sentence, "a sentence is for people, who do not know the codes"


def test_no_two_causes_have_the_same_sentence() -> None:
    sentences = {explain(cause, "Decrypt", SUBJECT)[0] for cause in Cause}

    assert len(sentences) == len(Cause)


@pytest.mark.parametrize("cause", sorted((DEFINITE_CAUSES | AMBIGUOUS_CAUSES) - NEVER_GIVEN))
def test_every_unhealthy_cause_has_commands_that_name_the_very_key_or_role(cause: Cause) -> None:
    _, remediation = explain(cause, "Decrypt", SUBJECT)

    assert remediation is not None
    assert remediation.summary.endswith(".")
    assert remediation.commands
    for command in remediation.commands:
        assert any(word in command for word in (KEY_ARN, ROLE_ARN, "keyvigil-customer", "--region us-west-2"))


@pytest.mark.parametrize("cause", [cause for cause in Cause if OUTCOME_OF_CAUSE[cause] is Outcome.UNKNOWN])
def test_nothing_is_to_be_mended_when_nothing_is_known(cause: Cause) -> None:
    _, remediation = explain(cause, "Decrypt", SUBJECT)

    assert remediation is None


def test_a_cancelled_deletion_must_also_be_followed_by_enabling() -> None:
    _, remediation = explain(Cause.KEY_PENDING_DELETION, "Encrypt", SUBJECT)

    assert remediation is not None
    assert [command.split()[2] for command in remediation.commands] == ["cancel-key-deletion", "enable-key"]


def test_the_date_of_a_deletion_is_in_the_sentence_if_it_is_known() -> None:
    when = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)

    with_date, _ = explain(Cause.KEY_PENDING_DELETION, "Encrypt", SUBJECT, deletion_date=when)
    without, _ = explain(Cause.KEY_PENDING_DELETION, "Encrypt", SUBJECT)

    assert "2026-12-01" in with_date
    assert "2026" not in without.replace(KEY_ARN, "")


def test_denied_access_is_mended_by_policy_statements_that_can_be_pasted() -> None:
    _, remediation = explain(Cause.ACCESS_DENIED, "Decrypt", SUBJECT)

    assert remediation is not None
    role_statement, key_statement = (json.loads(command) for command in remediation.commands)
    actions = ["kms:DescribeKey", "kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey"]
    assert role_statement == {"Effect": "Allow", "Action": actions, "Resource": KEY_ARN}
    assert key_statement == {
        "Effect": "Allow",
        "Principal": {"AWS": ROLE_ARN},
        "Action": actions,
        "Resource": "*",
    }
