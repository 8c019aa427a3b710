"""What AWS's refusals of a call to a receiver mean: wait and try again, or not."""

from botocore.exceptions import BotoCoreError, ClientError

_SERVER_FAULT = 500
# Sources: the errors of each operation's page, and
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html (what the SDKs take for throttling)
_BUSY = {
    "AutomationExecutionLimitExceededException",
    "EC2ThrottledException",
    "EC2UnexpectedException",
    "ENILimitReachedException",
    "InternalServerError",
    "InternalServiceError",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "ResourceConflictException",
    "ResourceNotReadyException",
    "ServiceException",
    "SlowDown",
    "SnapStartNotReadyException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}


def error_name(error: ClientError | BotoCoreError) -> str:
    """The error's code, or its class where AWS was not reached. Never its message: that may quote the request."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__


def may_pass(error: ClientError | BotoCoreError) -> bool:
    """Whether the same call may succeed a little later."""
    if not isinstance(error, ClientError):
        return True
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return error_name(error) in _BUSY or status >= _SERVER_FAULT
