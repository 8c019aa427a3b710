"""The one place where an error from AWS becomes a cause. Tested by a table: `tests/unit/test_kms_errors.py`.

Sources:
    https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
    https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html
    https://docs.aws.amazon.com/kms/latest/developerguide/programming-eventual-consistency.html
    https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
"""

import re
from dataclasses import dataclass

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from keyvigil.domain.keys import READ_SECRET
from keyvigil.domain.verdicts import Cause, PolicyKind, Refusal

_BY_CODE = {
    "NotFoundException": Cause.KEY_NOT_FOUND,
    "InvalidKeyUsageException": Cause.KEY_WRONG_USAGE,
    "UnsupportedOperationException": Cause.KEY_WRONG_USAGE,
    "InvalidCiphertextException": Cause.CIPHERTEXT_UNREADABLE,
    "IncorrectKeyException": Cause.CIPHERTEXT_UNREADABLE,
    "AccessDeniedException": Cause.ACCESS_DENIED,
    "AccessDenied": Cause.ACCESS_DENIED,
    "KMSInternalException": Cause.KMS_FAULT,
    "DependencyTimeoutException": Cause.KMS_FAULT,
    "KeyUnavailableException": Cause.KMS_FAULT,
    "InternalFailure": Cause.KMS_FAULT,
    "InternalError": Cause.KMS_FAULT,
    "ServiceUnavailable": Cause.KMS_FAULT,
    "ServiceUnavailableException": Cause.KMS_FAULT,
    "ThrottlingException": Cause.THROTTLED,
    "Throttling": Cause.THROTTLED,
    "LimitExceededException": Cause.THROTTLED,
    "RequestLimitExceeded": Cause.THROTTLED,
    "TooManyRequestsException": Cause.THROTTLED,
    "RequestThrottled": Cause.THROTTLED,
    "ExpiredToken": Cause.OWN_CREDENTIALS,
    "ExpiredTokenException": Cause.OWN_CREDENTIALS,
    "InvalidClientTokenId": Cause.OWN_CREDENTIALS,
    "UnrecognizedClientException": Cause.OWN_CREDENTIALS,
    "SignatureDoesNotMatch": Cause.OWN_CREDENTIALS,
    "InvalidSignatureException": Cause.OWN_CREDENTIALS,
    "RequestExpired": Cause.OWN_CREDENTIALS,
    "RequestTimeTooSkewed": Cause.OWN_CREDENTIALS,
    "IncompleteSignature": Cause.OWN_CREDENTIALS,
    "MissingAuthenticationToken": Cause.OWN_CREDENTIALS,
    "OptInRequired": Cause.OWN_CREDENTIALS,
    "RegionDisabledException": Cause.OWN_CREDENTIALS,
}

THROTTLE_CODES = frozenset(code for code, cause in _BY_CODE.items() if cause is Cause.THROTTLED)

_BY_STATE = {
    "Disabled": Cause.KEY_DISABLED,
    "PendingDeletion": Cause.KEY_PENDING_DELETION,
    "PendingReplicaDeletion": Cause.KEY_PENDING_DELETION,
    "PendingImport": Cause.KEY_MATERIAL_MISSING,
    "Unavailable": Cause.KEY_STORE_UNAVAILABLE,
    # A multi-Region replica that is not there yet: ambiguous, and over by itself.
    "Creating": Cause.KEY_NOT_FOUND,
}

# Source: https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html#API_GetSecretValue_Errors
# A secret under a key that refuses Secrets Manager is AccessDeniedException or DecryptionFailure.
_SECRET_CODES = {
    "AccessDeniedException",
    "DecryptionFailure",
    "InvalidParameterException",
    "InvalidRequestException",
    "ResourceNotFoundException",
}

_DENIALS = {Cause.ACCESS_DENIED, Cause.ROLE_NOT_ASSUMABLE, Cause.SECRET_UNREADABLE}
_STATE_CODES = {"DisabledException", "KMSInvalidStateException"}
LONGEST_CODE = 100
"""How many characters of AWS's error code are kept, in a table item and in alerts; AWS's own are shorter."""

_SERVER_ERROR = 500
_THROTTLED = 429


_REFUSAL = re.compile(
    rf"(?P<how>with an explicit deny in an?|because no) (?P<policy>{'|'.join(PolicyKind)})\b", re.ASCII | re.IGNORECASE
)
_KIND = {kind.lower(): kind for kind in PolicyKind}


@dataclass(frozen=True, slots=True)
class Classified:
    """An error's cause, and the code that AWS gave, if AWS gave any.

    `refused_by` is what the words of a denial say of the policy behind it. It is good for advice and decides no
    cause: what AWS says there differs by service, and names one policy even where several refuse.
    """

    cause: Cause
    aws_error_code: str | None
    refused_by: Refusal | None = None


def classify(operation: str, error: ClientError | BotoCoreError, *, key_state: str | None) -> Classified:
    """Say what an error means.

    Args:
        operation: the operation that failed, `AssumeRole` among them.
        error: what botocore raised, after its own retries.
        key_state: KeyState as DescribeKey told it just before, None if it did not.
    """
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))[:LONGEST_CODE] or None
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        cause = _of_client_error(operation, code, status, key_state)
        said = str(error.response.get("Error", {}).get("Message", ""))
        return Classified(cause, code, _refused_by(said) if cause in _DENIALS else None)
    return Classified(_of_transport_error(error), None)


def _refused_by(said: str) -> Refusal | None:
    found = _REFUSAL.search(said)
    if found is None:
        return None
    return Refusal(policy=_KIND[found["policy"].lower()], explicit=found["how"].lower().startswith("with"))


def _of_client_error(operation: str, code: str | None, status: int, key_state: str | None) -> Cause:
    if operation == READ_SECRET and code in _SECRET_CODES:
        return Cause.SECRET_UNREADABLE
    if code in _STATE_CODES:
        return _of_state(code, key_state)
    cause = _BY_CODE.get(code or "")
    if operation == "AssumeRole" and cause is Cause.ACCESS_DENIED:
        return Cause.ROLE_NOT_ASSUMABLE
    if cause is not None:
        return cause
    if status == _THROTTLED:
        return Cause.THROTTLED
    if status >= _SERVER_ERROR:
        return Cause.KMS_FAULT
    return Cause.UNCLASSIFIED


def _of_state(code: str | None, key_state: str | None) -> Cause:
    """What refuses the key, by its state.

    Without a state (DescribeKey denied) DisabledException still says that the key is disabled or pending
    deletion, while KMSInvalidStateException could be a key store out of reach. In a custom key store every
    failed call says KMSInvalidStateException although KeyState is Enabled.
    """
    if key_state in _BY_STATE:
        return _BY_STATE[key_state]
    if code == "DisabledException":
        return Cause.KEY_DISABLED
    return Cause.KEY_STORE_UNREACHABLE if key_state in {"Enabled", "Updating"} else Cause.UNCLASSIFIED


def _of_transport_error(error: BotoCoreError) -> Cause:
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        return Cause.TIMEOUT
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return Cause.OWN_CREDENTIALS
    if isinstance(error, BotoConnectionError | EndpointConnectionError | HTTPClientError):
        return Cause.NETWORK
    return Cause.UNCLASSIFIED
