"""How requests reach KMS: by a boto3 client, or by botocore's parts without what lies between them.

boto3 spends about 1 ms of CPU on a call, most of it on what a probe does not need. `Urllib3Kms` borrows from a client
that boto3 made (its model, endpoint, hooks and retry rules) and uses botocore's own serializer, signer and parser and
urllib3's connections; nothing is signed and no HTTP written by code of ours. docs/decisions/0029-transport.md has the
figures.
"""

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, Unpack, override

from botocore.auth import SIGNED_HEADERS_BLACKLIST, SigV4Auth
from botocore.credentials import ReadOnlyCredentials
from botocore.endpoint import convert_to_response_dict
from botocore.exceptions import ClientError, HTTPClientError
from botocore.httpsession import ProxyConfiguration
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from botocore.utils import get_environ_proxies
from urllib3.util import parse_url

from keyvigil.adapters.aws import ca_bundle
from keyvigil.adapters.kms_connections import Answer, KmsConnections

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_kms import KMSClient
    from mypy_boto3_kms.type_defs import (
        DecryptRequestTypeDef,
        DecryptResponseTypeDef,
        DescribeKeyRequestTypeDef,
        DescribeKeyResponseTypeDef,
        EncryptRequestTypeDef,
        EncryptResponseTypeDef,
        GenerateDataKeyRequestTypeDef,
        GenerateDataKeyResponseTypeDef,
        GetKeyRotationStatusRequestTypeDef,
        GetKeyRotationStatusResponseTypeDef,
    )

_REFUSED = 300
_UNSIGNED = frozenset(SIGNED_HEADERS_BLACKLIST)
_CACHED_SECRETS = 4000
"""How many steps to signing keys are kept: four for each of as many roles as the prober keeps sessions of."""


class KmsTransport(Protocol):
    """What a probe asks of KMS. A boto3 client is one; every other raises what that would."""

    def describe_key(self, **asked: Unpack["DescribeKeyRequestTypeDef"]) -> "DescribeKeyResponseTypeDef":
        """DescribeKey."""

    def encrypt(self, **asked: Unpack["EncryptRequestTypeDef"]) -> "EncryptResponseTypeDef":
        """Encrypt."""

    def decrypt(self, **asked: Unpack["DecryptRequestTypeDef"]) -> "DecryptResponseTypeDef":
        """Decrypt."""

    def generate_data_key(self, **asked: Unpack["GenerateDataKeyRequestTypeDef"]) -> "GenerateDataKeyResponseTypeDef":
        """GenerateDataKey."""

    def get_key_rotation_status(
        self, **asked: Unpack["GetKeyRotationStatusRequestTypeDef"]
    ) -> "GetKeyRotationStatusResponseTypeDef":
        """GetKeyRotationStatus."""


class _Request:
    """What botocore's signer, hooks and connections want of a request. A plain dict of headers does for all of them."""

    __slots__ = ("body", "context", "headers", "method", "params", "stream_output", "url")

    def __init__(self, url: str, headers: dict[str, str], body: bytes) -> None:
        self.method = "POST"
        self.url = url
        self.headers = headers
        self.body = body
        self.params: dict[str, str] = {}
        self.context: dict[str, Any] = {}
        self.stream_output = False


class _HeadersToSign(dict[str, str]):
    """As much of an HTTPMessage as the signer reads."""

    def get_all(self, name: str) -> list[str]:
        return [self[name]]


_BOTOCORES: Any = SigV4Auth(ReadOnlyCredentials("", "", None), "kms", "")


@lru_cache(_CACHED_SECRETS)
def _derived(key: bytes, part: str) -> Any:
    return _hmac(key, part)


def _hmac(key: bytes, said: str, *, in_hex: bool = False) -> Any:
    return _BOTOCORES._sign(key, said, in_hex)  # noqa: SLF001  one of botocore's steps, which has no other name


@lru_cache(64)
def _joined(names: tuple[str, ...]) -> str:
    return ";".join(sorted(names))


class Signer(SigV4Auth):
    """botocore's signer, without reckoning twice what a request does not change.

    The four steps from a secret key to the day's signing key are kept, and headers are picked once for each request.
    """

    @override
    def headers_to_sign(self, request: Any) -> Any:
        """The headers that are signed, by their names in lower case."""
        kept = request.context.get("headers_to_sign")
        if kept is None:
            named = ((name.lower(), value) for name, value in request.headers.items())
            kept = _HeadersToSign((name, value) for name, value in named if name not in _UNSIGNED)
            request.context["headers_to_sign"] = kept
        return kept

    @override
    def signed_headers(self, headers_to_sign: Any) -> str:
        """Their names, which are the same for nearly every request."""
        return _joined(tuple(headers_to_sign))

    def _sign(self, key: bytes, msg: str, hex: bool = False) -> Any:  # noqa: A002, FBT001, FBT002  botocore's names
        return _hmac(key, msg, in_hex=True) if hex else _derived(key, msg)


class Urllib3Kms:
    """Five operations of KMS without boto3's client layers. Safe to use from several threads."""

    def __init__(self, client: "KMSClient", credentials: "Credentials | None") -> None:
        """Borrow from a client of the Region what is the same for each of its calls.

        `credentials` are asked at every request for those to sign with. Without any, calls raise NoCredentialsError.
        """
        self._events = client.meta.events
        self._model = client.meta.service_model
        self._region = client.meta.region_name
        self._credentials = credentials
        self._url, user_agent = _first_request(client)
        self._headers = {"Host": parse_url(self._url).netloc or "", "User-Agent": user_agent}
        config: Any = client.meta.config  # what Config takes by name is not in its types
        self._http = KmsConnections(
            self._url,
            connect_seconds=config.connect_timeout,
            read_seconds=config.read_timeout,
            kept=config.max_pool_connections,
            ca_bundle=ca_bundle(),
        )
        self._serializer = create_serializer("json", include_validation=False)
        self._parser = create_parser("json")

    def describe_key(self, **asked: Unpack["DescribeKeyRequestTypeDef"]) -> "DescribeKeyResponseTypeDef":
        """DescribeKey."""
        answer: DescribeKeyResponseTypeDef = self._call("DescribeKey", asked)
        return answer

    def encrypt(self, **asked: Unpack["EncryptRequestTypeDef"]) -> "EncryptResponseTypeDef":
        """Encrypt."""
        answer: EncryptResponseTypeDef = self._call("Encrypt", asked)
        return answer

    def decrypt(self, **asked: Unpack["DecryptRequestTypeDef"]) -> "DecryptResponseTypeDef":
        """Decrypt."""
        answer: DecryptResponseTypeDef = self._call("Decrypt", asked)
        return answer

    def generate_data_key(self, **asked: Unpack["GenerateDataKeyRequestTypeDef"]) -> "GenerateDataKeyResponseTypeDef":
        """GenerateDataKey."""
        answer: GenerateDataKeyResponseTypeDef = self._call("GenerateDataKey", asked)
        return answer

    def get_key_rotation_status(
        self, **asked: Unpack["GetKeyRotationStatusRequestTypeDef"]
    ) -> "GetKeyRotationStatusResponseTypeDef":
        """GetKeyRotationStatus."""
        answer: GetKeyRotationStatusResponseTypeDef = self._call("GetKeyRotationStatus", asked)
        return answer

    def _call(self, name: str, asked: Any) -> Any:
        """Ask once, and again as often as the client's retry rules say.

        Raises:
            ClientError, BotoCoreError: what the client would raise.
        """
        operation = self._model.operation_model(name)
        serialized = self._serializer.serialize_to_request(asked, operation)
        headers = {**serialized["headers"], **self._headers}
        context: dict[str, Any] = {}
        attempts = 0
        while True:
            attempts += 1
            response, parsed, error = self._attempt(operation, dict(headers), serialized["body"])
            if response is None or response.status_code >= _REFUSED:
                pause = self._pause(operation, attempts, response, parsed, error, context)
                if pause is not None:
                    time.sleep(pause)
                    continue
            if response is None:
                raise error or HTTPClientError(error=None)
            # What was taken from the client's budget of retries is given back.
            self._events.emit(
                f"after-call.kms.{name}", http_response=response, parsed=parsed, model=operation, context=context
            )
            parsed["ResponseMetadata"]["RetryAttempts"] = attempts - 1
            if response.status_code >= _REFUSED:
                raise ClientError(parsed, name)
            return parsed

    def _attempt(
        self, operation: Any, headers: dict[str, str], body: bytes
    ) -> tuple[Answer | None, Any, Exception | None]:
        request: Any = _Request(self._url, headers, body)
        frozen: Any = self._credentials and self._credentials.get_frozen_credentials()
        Signer(frozen, "kms", self._region).add_auth(request)
        response, parsed, error = None, None, None
        try:
            given = self._events.emit(f"before-send.kms.{operation.name}", request=request)
            response = next((each for _, each in given if each is not None), None) or self._http.send(request)
        except Exception as raised:  # noqa: BLE001  as botocore does: whatever it is, the retry rules are asked about it
            error = raised
        if response is not None:
            parsed = self._parsed(response, operation)
        self._events.emit(
            f"response-received.kms.{operation.name}", response_dict=None, parsed_response=parsed, exception=error
        )
        return response, parsed, error

    def _parsed(self, response: Answer, operation: Any) -> Any:
        answer = convert_to_response_dict(response, operation)
        parsed = self._parser.parse(answer, operation.output_shape)
        if response.status_code >= _REFUSED:
            shape = self._model.shape_for_error_code(parsed.get("Error", {}).get("Code"))
            if shape is not None:
                parsed.update(self._parser.parse(answer, shape))
        return parsed

    def _pause(
        self, operation: Any, attempts: int, response: Any, parsed: Any, error: Exception | None, context: Any
    ) -> float | None:
        """How many seconds to wait before another attempt, None if there is to be none."""
        given = self._events.emit(
            f"needs-retry.kms.{operation.name}",
            response=None if response is None else (response, parsed),
            endpoint=None,
            operation=operation,
            attempts=attempts,
            caught_exception=error,
            request_dict={"context": context},
        )
        pause: float | None = next((each for _, each in given if each is not None), None)
        return pause


def _first_request(client: "KMSClient") -> tuple[str, str]:
    """The URL and the user agent of a client's requests, from one that it makes ready and does not send."""
    ready: dict[str, Any] = {}

    def keep(params: dict[str, Any], **_request: Any) -> Any:
        ready.update(params)
        return _Kept(), {}

    client.meta.events.register_first("before-call.kms.DescribeKey", keep)
    try:
        client.describe_key(KeyId="-")
    finally:
        client.meta.events.unregister("before-call.kms.DescribeKey", keep)
    return str(ready["url"]), str(ready["headers"]["User-Agent"])


class _Kept:
    """The answer to what was not sent."""

    status_code = 200


def _is_roundabout(client: "KMSClient") -> bool:
    """Whether a client's requests go by a proxy, or its connections need settings that are not the usual ones."""
    config: Any = client.meta.config
    url = client.meta.endpoint_url
    proxies = get_environ_proxies(url) if config.proxies is None else config.proxies
    return bool(config.client_cert or config.tcp_keepalive or ProxyConfiguration(proxies).proxy_url_for(url))


def by_boto3(client: "KMSClient", _credentials: "Credentials | None") -> KmsTransport:
    """The client itself."""
    return client


def by_urllib3(client: "KMSClient", credentials: "Credentials | None") -> KmsTransport:
    """`Urllib3Kms`; behind a proxy the client, which knows the way."""
    return client if _is_roundabout(client) else Urllib3Kms(client, credentials)


BOTO3, URLLIB3 = "boto3", "urllib3"
TRANSPORTS: Mapping[str, Callable[["KMSClient", "Credentials | None"], KmsTransport]] = {
    BOTO3: by_boto3,
    URLLIB3: by_urllib3,
}
"""By the values of the template's parameter `KmsTransport`."""
