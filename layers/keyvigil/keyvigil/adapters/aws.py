"""The process's one botocore Session, and the time-outs and retries of every call to AWS.

A Session costs 64 ms of CPU and 9 MB (design, performance.md), so there is one; it also carries the
credentials of whichever customer's role the running probe has assumed, through a context variable. That is
how one KMS client for each Region serves every tenant.

botocore without boto3: clients are botocore's own, and what boto3 adds to them (resources, S3's transfers) is a seventh
of the time to a first client.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import botocore.session
from botocore.config import Config
from botocore.credentials import (
    Credentials,
    ReadOnlyCredentials,
    create_credential_resolver,
)
from botocore.httpsession import get_cert_path
from botocore.loaders import Loader, create_loader

from keyvigil.once import once

if TYPE_CHECKING:
    import boto3

CONNECT_TIMEOUT_SECONDS = 2
READ_TIMEOUT_SECONDS = 5
PROBE_READ_TIMEOUT_SECONDS = 3

_tenant: ContextVar[ReadOnlyCredentials | None] = ContextVar("tenant", default=None)


class TenantCredentials(Credentials):
    """Signs with the credentials of the running probe's tenant; outside of a probe, with the function's own."""

    def __init__(self, own: Credentials) -> None:
        """Keep the function's own credentials."""
        super().__init__(own.access_key, own.secret_key, own.token)
        self._own = own

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The credentials to sign the call that is being made."""
        return _tenant.get() or self._own.get_frozen_credentials()


@contextmanager
def acting_as(credentials: ReadOnlyCredentials) -> Generator[None]:
    """Sign every call made inside with a tenant's credentials. Holds for this thread or task only."""
    token = _tenant.set(credentials)
    try:
        yield
    finally:
        _tenant.reset(token)


class _TenantProvider:
    """A botocore credential provider that hands out `TenantCredentials`."""

    METHOD = "keyvigil-tenant"
    CANONICAL_NAME = None

    def __init__(self, session: botocore.session.Session) -> None:
        self._own = create_credential_resolver(session)

    def load(self) -> TenantCredentials | None:
        own = self._own.load_credentials()
        return TenantCredentials(own) if own is not None else None


@once
def _definitions() -> Loader:
    """AWS's services and endpoints as botocore defines them: reading them is half of what a first client costs."""
    return create_loader()


def own_session(env_vars: Any = None) -> botocore.session.Session:
    """A session that signs with the function's own credentials, whatever probe is running.

    It reads none of botocore's definitions again that `session` has read. `env_vars` are botocore's, as
    `botocore.session.get_session` takes them.
    """
    core = botocore.session.Session(env_vars)
    core.register_component("data_loader", _definitions())
    return core


class _Session:
    """Of boto3's Session what the adapters call."""

    def __init__(self, core: botocore.session.Session) -> None:
        self._session = core

    def client(self, service_name: str, *, region_name: str | None = None, config: Config | None = None) -> Any:
        return self._session.create_client(service_name, region_name=region_name, config=config)

    def get_credentials(self) -> Credentials | None:
        return self._session.get_credentials()

    def ca_bundle(self) -> Any:
        return self._session.get_config_variable("ca_bundle")


@once
def session() -> "boto3.Session":
    """The process's one Session, typed as boto3's: its stubs know the client of each service."""
    core = own_session()
    core.get_component("credential_provider").insert_before("env", _TenantProvider(core))
    return cast("boto3.Session", _Session(core))


def ca_bundle() -> str:
    """The file of the certificates that TLS trusts, found as botocore finds it for a client.

    Source: https://docs.aws.amazon.com/sdkref/latest/guide/feature-gen-config.html (`ca_bundle`)
    """
    ours: Any = session()
    asked_for: Any = ours.ca_bundle() or os.environ.get("REQUESTS_CA_BUNDLE") or True
    return str(get_cert_path(asked_for))


def config(*, read_timeout: float = READ_TIMEOUT_SECONDS, connections: int = 10, attempts: int = 2) -> Config:
    """Time-outs, in seconds, and at most one retry: a sweep every minute is the better retry."""
    return Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=connections,
    )
