"""Calls to AWS for discovery: paged, with bounded retries and time-outs, and every refusal in words."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, HTTPClientError

from keyvigil_cli.discovery.model import Json, Place, Unread

AWS_ERRORS = (BotoCoreError, ClientError)

# A read is tried six times, with pauses that double up to 20 seconds ("standard" mode):
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
ATTEMPTS = 6
CONFIG = Config(
    connect_timeout=5,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    user_agent_extra="keyvigil-discover",
)

_DENIED = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError",
     "AuthorizationErrorException", "NotAuthorized", "AllAccessDisabled"}
)  # fmt: skip
_THROTTLED = frozenset(
    {"Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded", "TooManyRequestsException",
     "SlowDown", "RequestThrottled", "ProvisionedThroughputExceededException", "LimitExceededException"}
)  # fmt: skip
# What a Region answers that the account has not enabled: it does not know the credentials.
# https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-regions.html
_NOT_ENABLED = frozenset({"UnrecognizedClientException", "InvalidClientTokenId", "AuthFailure", "OptInRequired",
                          "InvalidAccessKeyId", "InvalidToken"})  # fmt: skip
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})

REGION_NOT_ENABLED = "RegionNotEnabled"
NO_ENDPOINT = "NoEndpoint"
CLOSED = frozenset({REGION_NOT_ENABLED, NO_ENDPOINT})
"""Codes after which nothing else is asked in a Region."""


class Calls:
    """One service in one Region of one account. Arguments and answers are the AWS API's."""

    def __init__(self, client: Any) -> None:
        """Take a client, of whatever service."""
        self._client = client

    def one(self, operation: str, **arguments: Any) -> Json:
        """Call once; what is throttled or fails in passing is tried again."""
        answer: Json = getattr(self._client, operation)(**arguments)
        return answer

    def pages(self, operation: str, **arguments: Any) -> Iterator[Json]:
        """Go through all pages of a list."""
        yield from self._client.get_paginator(operation).paginate(**arguments)

    def items(self, operation: str, member: str, **arguments: Any) -> Iterator[Any]:
        """Go through what a member of all pages lists."""
        for page in self.pages(operation, **arguments):
            yield from page.get(member) or ()


type Service = Callable[[str], Calls]
"""Gives the calls of a service by its name in the SDK, where the reader reads."""


class Account:
    """An account with credentials for it, for many threads."""

    def __init__(self, account_id: str, session: boto3.Session) -> None:
        """Take a session whose credentials are the account's."""
        self.account_id = account_id
        self._session: Any = session  # its `client` takes services by their literal names only, for mypy
        self._made: dict[tuple[str, str], Calls] = {}
        self._lock = threading.Lock()

    def calls(self, service: str, region: str) -> Calls:
        """Return the calls of a service in a Region.

        Clients may be used by several threads and not made by them:
        https://docs.aws.amazon.com/boto3/latest/guide/clients.html#multithreading-or-multiprocessing-with-clients
        """
        with self._lock:
            found = self._made.get((service, region))
            if found is None:
                found = Calls(self._session.client(service, region_name=region, config=CONFIG))
                self._made[service, region] = found
            return found


def code_of(error: Exception) -> str:
    """Return AWS's code of a refusal, or the name of what went wrong on the way."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "")) or "Unknown"
    return type(error).__name__


def unread_because(error: Exception, place: Place, what: str, *, partly: bool = False) -> Unread:
    """Say in words why something could not be read, and what to do about it."""
    code = code_of(error)
    detail = " ".join(str(error).split())
    if isinstance(error, EndpointConnectionError):
        code, why = NO_ENDPOINT, f"nothing answers there: is there such a Region, and is the network up? {detail}"
    elif isinstance(error, HTTPClientError):
        why = f"no answer in time, asked {ATTEMPTS} times: {detail}"
    elif code in _DENIED:
        why = f"denied; `keyvigil discover --permissions` prints the policy that is needed: {detail}"
    elif code in _THROTTLED:
        why = f"throttled, asked {ATTEMPTS} times; run it again when less is asked of the account: {detail}"
    elif code in _NOT_ENABLED:
        code = REGION_NOT_ENABLED
        why = f"the Region is not enabled for this account, or does not know these credentials: {detail}"
    elif code in _EXPIRED:
        why = f"the credentials expired on the way: log in again, and run it again: {detail}"
    else:
        why = detail
    return Unread(place=place, what=what, why=why, code=code, partly=partly)
