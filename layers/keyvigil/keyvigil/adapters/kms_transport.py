"""How requests reach KMS: by a boto3 client, or by botocore's parts without what lies between them.

boto3 spends about 1 ms of CPU on a call, most of it on what a probe does not need. `LeanKms` borrows from a client that
boto3 made (its model, endpoint, connections, hooks and retry rules) and uses botocore's own serializer, signer and
parser; nothing is signed, sent or read by code of ours. docs/decisions/0029-transport.md has the figures.
"""

import time
from typing import TYPE_CHECKING, Any, Protocol, Unpack
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.endpoint import convert_to_response_dict
from botocore.exceptions import ClientError, HTTPClientError
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

if TYPE_CHECKING:
    from botocore.awsrequest import AWSResponse
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


class LeanKms:
    """Five operations of KMS without boto3's client layers. Safe to use from several threads."""

    def __init__(self, client: "KMSClient", credentials: "Credentials | None") -> None:
        """Borrow from a client of the Region what is the same for each of its calls.

        `credentials` are asked at every request for those to sign with. Without any, calls raise NoCredentialsError.
        """
        whole: Any = client  # its HTTP session and its user agent are not in its types
        self._events = client.meta.events
        self._model = client.meta.service_model
        url = client.meta.endpoint_url
        self._url = url if urlsplit(url).path else f"{url}/"
        self._region = client.meta.region_name
        self._credentials = credentials
        self._http = whole._endpoint.http_session  # noqa: SLF001  proxies, CA bundle, time-outs: no public way to them
        self._user_agent = whole._user_agent_creator.to_string()  # noqa: SLF001  likewise, and built once
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
        headers = {**serialized["headers"], "User-Agent": self._user_agent}
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
    ) -> tuple["AWSResponse | None", Any, Exception | None]:
        request: Any = _Request(self._url, headers, body)
        frozen: Any = self._credentials and self._credentials.get_frozen_credentials()
        SigV4Auth(frozen, "kms", self._region).add_auth(request)
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

    def _parsed(self, response: "AWSResponse", operation: Any) -> Any:
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
