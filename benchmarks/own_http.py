"""A trial, and nothing that KeyVigil ships: what a check would cost with a signature and an HTTP of our own.

One thread reads and writes many connections, the head is a few lines of text, and of the signature only the last steps
are made for each request. docs/decisions/0029-transport.md says why that is not worth what it takes: no retries, no
chunked bodies, no redirects to refuse, no proxies, and every other answer than a plain 200 is an exception here.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, override
from urllib.parse import urlsplit

_SIGNED = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
_EMPTY_LINE = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """One request at a time, and its answer's body."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._read = b""
        self._answer: asyncio.Future[bytes] | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    @override
    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(_EMPTY_LINE)
        if not found or self._answer is None:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        assert head.startswith(b"HTTP/1.1 200 "), head
        self._read = b""
        self._answer.set_result(body)

    def ask(self, request: bytes) -> Awaitable[bytes]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer


class Signer:
    """AWS's version 4, https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html."""

    def __init__(self, host: str, region: str) -> None:
        self._host, self._region = host, region
        self._key_id, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        self._token = os.environ["AWS_SESSION_TOKEN"]
        self._day = f"{datetime.now(UTC):%Y%m%d}"
        key = f"AWS4{secret}".encode()
        for part in (self._day, region, "kms", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        self._key = key

    def request(self, operation: str, body: bytes) -> bytes:
        at = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        head = (
            f"content-type:application/x-amz-json-1.1\nhost:{self._host}\nx-amz-date:{at}\n"
            f"x-amz-security-token:{self._token}\nx-amz-target:TrentService.{operation}\n"
        )
        canonical = f"POST\n/\n\n{head}\n{_SIGNED}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{self._day}/{self._region}/kms/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._key, to_sign.encode(), "sha256").hex()
        credential = (
            f"AWS4-HMAC-SHA256 Credential={self._key_id}/{scope}, SignedHeaders={_SIGNED}, Signature={signature}"
        )
        lines = head.replace("\n", "\r\n")
        return (
            f"POST / HTTP/1.1\r\n{lines}authorization:{credential}\r\ncontent-length:{len(body)}\r\n\r\n"
        ).encode() + body


def checks(
    arn_of: Callable[[int], str], region: str, plaintext: bytes, context: dict[str, str], connections: int
) -> Callable[[int], None]:
    """Something that makes so many checks, over so many connections."""
    address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    trusted = os.environ.get("AWS_CA_BUNDLE")
    tls = ssl.create_default_context(cafile=trusted) if trusted else None
    host = address.hostname or ""
    signer = Signer(address.netloc, region)
    sealed = base64.b64encode(plaintext).decode()

    async def ask(connection: Connection, operation: str, **said: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await connection.ask(signer.request(operation, json.dumps(said).encode())))
        return answer

    async def one(connection: Connection, number: int) -> None:
        arn = arn_of(number)
        described = await ask(connection, "DescribeKey", KeyId=arn)
        assert described["KeyMetadata"]["KeyState"] == "Enabled"
        made = await ask(connection, "Encrypt", KeyId=arn, Plaintext=sealed, EncryptionContext=context)
        opened = await ask(
            connection, "Decrypt", KeyId=arn, CiphertextBlob=made["CiphertextBlob"], EncryptionContext=context
        )
        assert opened["Plaintext"] == sealed

    loop = asyncio.new_event_loop()
    opened: list[Connection] = []

    async def run(count: int) -> None:
        while len(opened) < connections:
            _, connection = await loop.create_connection(Connection, host, address.port or 443, ssl=tls)
            opened.append(connection)
        waiting = iter(range(count))

        async def worker(connection: Connection) -> None:
            for number in waiting:
                await one(connection, number)

        await asyncio.gather(*(worker(connection) for connection in opened))

    return lambda count: loop.run_until_complete(run(count))
