"""From the options of a command to the API: a session with the caller's AWS settings, and the API's address."""

import os
import re
from typing import cast
from urllib.parse import urlsplit

import boto3

from keyvigil_cli.api_client import ApiClient
from keyvigil_cli.aws_account import AwsAccount, NotConfiguredError
from keyvigil_cli.errors import CliError
from keyvigil_cli.settings import DEFAULT_STACK, Settings

_REGION_IN_HOST = re.compile(r"[a-z0-9]+\.execute-api\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?\Z")
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class BadAddressError(CliError):
    """What was given as the API's address is none that a signed request may be sent to."""


def session_of(settings: Settings) -> boto3.Session:
    """Return a session with the caller's AWS settings, changed by the options."""
    return boto3.Session(profile_name=settings.profile, region_name=settings.region)


def account_of(settings: Settings) -> AwsAccount:
    """Return the account that the caller's AWS settings lead to, and in it the stack."""
    stack = settings.stack or DEFAULT_STACK
    return AwsAccount(stack, session_of(settings), endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))


def api_of(settings: Settings) -> ApiClient:
    """Return the API at the address that was given, or else that of the stack.

    Raises:
        NotConfiguredError: there are no credentials, no Region, or no such stack.
        BadAddressError: the address is none.
    """
    if settings.api_url is None:
        return account_of(settings).api()
    session = session_of(settings)
    region = _region_of(settings.api_url) or cast("str | None", session.region_name)
    credentials = session.get_credentials()
    if region is None:
        raise NotConfiguredError(
            f"the address {settings.api_url} does not say which Region it is in", "Give it with `--region`."
        )
    if credentials is None:
        raise NotConfiguredError(
            "your AWS settings name no credentials",
            "Give some: `--profile NAME`, AWS_PROFILE, `aws sso login` or `aws configure`.",
        )
    return ApiClient(settings.api_url, settings.region or region, credentials)


def _region_of(url: str) -> str | None:
    """Return the Region in an address of API Gateway; None if it is one of its owner's own.

    A signed request carries a session token: it goes out encrypted, or stays on this machine.
    """
    try:
        address = urlsplit(url)
        host = address.hostname or ""
    except ValueError as error:
        message = f"{url} is no address: {error}"
        raise BadAddressError(message) from error
    if not host or not (address.scheme == "https" or (address.scheme == "http" and host in _LOOPBACK)):
        message = f"{url} is not an address of an API: it begins with https://"
        raise BadAddressError(message)
    found = _REGION_IN_HOST.match(host)
    return found[1] if found else None
