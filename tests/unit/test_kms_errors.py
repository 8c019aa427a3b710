"""The table of errors: every row of AWS's own tables that a probe can meet, with what it means.

Sources:
    https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
    https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html
"""

import json
import shlex
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
from keyvigil.domain.remediation import Seen, Subject, explain
from keyvigil.domain.verdicts import (
    AMBIGUOUS_CAUSES,
    DEFINITE_CAUSES,
    OUTCOME_OF_CAUSE,
    Cause,
    Outcome,
    PolicyKind,
    Refusal,
)
from tests.examples import EXTERNAL_ID, KEY_ARN, KMS_KEY, MONITOR_ROLE_ARN, ROLE_ARN, SECRET_ARN
from tests.fakes import changed

URL = "https://kms.us-west-2.amazonaws.com"
SUBJECT = Subject(
    key_arn=KEY_ARN,
    region="us-west-2",
    role_arn=ROLE_ARN,
    external_id=EXTERNAL_ID,
    monitor_role_arn=MONITOR_ROLE_ARN,
    operations=("DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey", "GetSecretValue"),
    probe_secret_arn=SECRET_ARN,
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
    # What keeps a role from reading the secret made for the probe; a secret that is going to be deleted is a request
    # that is invalid for its state.
    *(
        unhealthy(code, Cause.SECRET_UNREADABLE, operation="GetSecretValue")
        for code in (
            "AccessDeniedException",
            "DecryptionFailure",
            "InvalidParameterException",
            "InvalidRequestException",
            "ResourceNotFoundException",
        )
    ),
    unknown("InternalServiceError", Cause.KMS_FAULT, status=500, operation="GetSecretValue"),
    unknown("ThrottlingException", Cause.THROTTLED, operation="GetSecretValue"),
    unknown("ExpiredTokenException", Cause.OWN_CREDENTIALS, operation="GetSecretValue"),
    unknown("SomethingNew", Cause.UNCLASSIFIED, operation="GetSecretValue"),
    # The same codes of KMS are about the key.
    unknown("InvalidRequestException", Cause.UNCLASSIFIED),
    unknown("ResourceNotFoundException", Cause.UNCLASSIFIED),
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

DENIALS: list[tuple[str, Refusal | None]] = [
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
    (
        "because no identity-based policy allows the kms:Decrypt action",
        Refusal(policy=PolicyKind.IDENTITY, explicit=False),
    ),
    ("with an explicit deny in an identity-based policy", Refusal(policy=PolicyKind.IDENTITY, explicit=True)),
    (
        "because no resource-based policy allows the kms:Decrypt action",
        Refusal(policy=PolicyKind.RESOURCE, explicit=False),
    ),
    ("with an explicit deny in a resource-based policy", Refusal(policy=PolicyKind.RESOURCE, explicit=True)),
    (
        "because no service control policy allows the kms:Decrypt action",
        Refusal(policy=PolicyKind.SERVICE_CONTROL, explicit=False),
    ),
    ("with an explicit deny in a service control policy", Refusal(policy=PolicyKind.SERVICE_CONTROL, explicit=True)),
    (
        "with an explicit deny in a service control policy: arn:aws:organizations::1:policy/x",
        Refusal(policy=PolicyKind.SERVICE_CONTROL, explicit=True),
    ),
    ("with an explicit deny in a resource control policy", Refusal(policy=PolicyKind.RESOURCE_CONTROL, explicit=True)),
    (
        "because no permissions boundary allows the kms:Decrypt action",
        Refusal(policy=PolicyKind.BOUNDARY, explicit=False),
    ),
    ("with an explicit deny in a permissions boundary", Refusal(policy=PolicyKind.BOUNDARY, explicit=True)),
    ("with an explicit deny in a session policy", Refusal(policy=PolicyKind.SESSION, explicit=True)),
    (
        "because no VPC endpoint policy allows the kms:Decrypt action",
        Refusal(policy=PolicyKind.ENDPOINT, explicit=False),
    ),
    # What says no reason, or one of the future.
    ("", None),
    ("with an explicit deny in a policy of the future", None),
    ("You are not allowed to access the key that the ciphertext refers to.", None),
]


def client_error(code: str, status: int, operation: str = "Encrypt", message: str = "whatever AWS says") -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
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


@pytest.mark.parametrize(("reason", "refused_by"), DENIALS, ids=[each[0] or "nothing" for each in DENIALS])
def test_a_denial_says_which_policy_refused(reason: str, refused_by: Refusal | None) -> None:
    said = f"User: {ROLE_ARN} is not authorized to perform: kms:Decrypt on resource: {KEY_ARN} {reason}"
    denied = client_error("AccessDeniedException", 400, "Decrypt", said)
    disabled = client_error("DisabledException", 400, "Decrypt", said)

    classified = classify("Decrypt", denied, key_state="Enabled")

    assert classified.cause is Cause.ACCESS_DENIED, "the words decide no cause"
    assert classified.refused_by == refused_by
    assert classify("Decrypt", disabled, key_state="Disabled").refused_by is None


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

    assert shown == set(Cause)


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


@pytest.mark.parametrize("cause", sorted(DEFINITE_CAUSES | AMBIGUOUS_CAUSES))
def test_every_unhealthy_cause_has_commands_that_name_the_very_key_or_role(cause: Cause) -> None:
    _, remediation = explain(cause, "Decrypt", SUBJECT)

    assert remediation is not None
    assert remediation.summary.endswith(".")
    assert remediation.commands
    for command in remediation.commands:
        assert any(word in command for word in (KMS_KEY, SECRET_ARN, "keyvigil-customer", "--region us-west-2"))


MENDED_ALTHOUGH_UNKNOWN = {Cause.KEY_STORE_UNREACHABLE}
"""What the key's owner can mend, although it says nothing of the key."""


@pytest.mark.parametrize("cause", [cause for cause in Cause if OUTCOME_OF_CAUSE[cause] is Outcome.UNKNOWN])
def test_nothing_is_to_be_mended_when_nothing_is_known(cause: Cause) -> None:
    _, remediation = explain(cause, "Decrypt", SUBJECT)

    assert (remediation is not None) is (cause in MENDED_ALTHOUGH_UNKNOWN)


def test_a_cancelled_deletion_must_also_be_followed_by_enabling() -> None:
    _, remediation = explain(Cause.KEY_PENDING_DELETION, "Encrypt", SUBJECT)

    assert remediation is not None
    assert [command.split()[2] for command in remediation.commands] == ["cancel-key-deletion", "enable-key"]


def test_the_date_of_a_deletion_is_in_the_sentence_if_it_is_known() -> None:
    when = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)

    with_date, _ = explain(Cause.KEY_PENDING_DELETION, "Encrypt", SUBJECT, Seen(deletion_date=when))
    without, _ = explain(Cause.KEY_PENDING_DELETION, "Encrypt", SUBJECT)

    assert "2026-12-01" in with_date
    assert "2026" not in without.replace(KEY_ARN, "")


def test_an_unreadable_secret_is_mended_by_a_statement_for_that_secret_alone() -> None:
    sentence, remediation = explain(Cause.SECRET_UNREADABLE, "GetSecretValue", SUBJECT)

    assert SECRET_ARN in sentence
    assert remediation is not None
    secret = {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": SECRET_ARN}
    assert json.loads(remediation.statement or "") == secret
    put = shlex.split(remediation.commands[0])
    assert put[1:3] == ["iam", "put-role-policy"]
    key, also = json.loads(put[-1])["Statement"]
    assert "secretsmanager:GetSecretValue" not in key["Action"]
    assert also == secret, "beside what the role needs for the key, which this policy's name stands for"
    assert remediation.commands[1] == (
        f"aws secretsmanager describe-secret --region us-west-2 --secret-id {SECRET_ARN}"
    )


def test_a_key_that_services_use_is_opened_to_the_probe_in_its_own_policy_first() -> None:
    subject = changed(SUBJECT, operations=("DescribeKey", "Encrypt", "Decrypt"), used_by_services=True)
    _, remediation = explain(Cause.ACCESS_DENIED, "Encrypt", subject)

    assert remediation is not None
    assert "kms:ViaService" in remediation.summary
    of_key, of_role = remediation.commands
    assert "put-key-policy" in of_key
    assert "put-role-policy" in of_role
    first = json.loads(remediation.statement or "")
    assert (first["Principal"], first["Action"]) == (
        {"AWS": ROLE_ARN},
        ["kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"],
    )
    assert "Condition" not in first


def test_an_error_code_of_whatever_length_is_kept_to_a_hundred_characters() -> None:
    classified = classify("Encrypt", client_error("X" * 5000, 400), key_state=None)

    assert classified.aws_error_code == "X" * 100
