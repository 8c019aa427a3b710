"""The real API over ports in memory, behind HTTP: what the command line is tested against."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, override
from urllib.parse import parse_qsl, urlsplit

from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyItemAlreadyExistsError,
    IdempotencyItemNotFoundError,
)
from aws_lambda_powertools.utilities.idempotency.persistence.base import BasePersistenceLayer
from aws_lambda_powertools.utilities.idempotency.persistence.datarecord import DataRecord

from keyvigil import wiring
from keyvigil.api import app as api_app
from tests.unit.test_api import Api, event


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Canned:
    """An answer that the API does not give itself; without a status the connection is dropped."""

    status: int | None
    body: str = ""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class RegistryServer:
    """Where it answers, what it was asked, and what it answers instead of the API's own next answers."""

    url: str
    api: Api
    seen: list[Seen] = field(default_factory=list)
    instead: list[Canned | None] = field(default_factory=list)
    """For each coming request, in order; None lets the API answer."""

    def asked(self) -> list[tuple[str, str]]:
        return [(each.method, each.path) for each in self.seen]


class _Context:
    """A LambdaContext, as far as Powertools looks at it."""

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


class _KeptAnswers(BasePersistenceLayer):
    """What Idempotency-Keys were answered, in memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Powertools publishes it without types
        self.records: dict[str, DataRecord] = {}

    @override
    def _get_record(self, idempotency_key: str) -> DataRecord:
        if idempotency_key not in self.records:
            raise IdempotencyItemNotFoundError
        return self.records[idempotency_key]

    @override
    def _put_record(self, data_record: DataRecord) -> None:
        kept = self.records.get(data_record.idempotency_key)
        if kept is not None:
            raise IdempotencyItemAlreadyExistsError(old_data_record=kept)
        self.records[data_record.idempotency_key] = data_record

    @override
    def _update_record(self, data_record: DataRecord) -> None:
        self.records[data_record.idempotency_key] = data_record

    @override
    def _delete_record(self, data_record: DataRecord) -> None:
        del self.records[data_record.idempotency_key]


@contextmanager
def serving(api: Api) -> Iterator[RegistryServer]:
    kept = _KeptAnswers()
    api.patch.setattr(wiring, "kept_answers", lambda: kept)
    turns = threading.Lock()  # the router answers one request at a time, as in a function

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            with turns:
                answer = self._answer()
            self.close_connection = True
            if answer.status is None:
                return
            content = answer.body.encode()
            self.send_response(answer.status)
            for name, value in (("Content-Type", answer.content_type), *answer.headers):
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - the names http.server asks for

        def _answer(self) -> Canned:
            address = urlsplit(self.path)
            query = dict(parse_qsl(address.query))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            parsed = json.loads(body) if headers.get("content-type") == "application/json" and body else body
            server.seen.append(Seen(self.command, address.path, query, headers, parsed))
            canned = server.instead.pop(0) if server.instead else None
            if canned is not None:
                return canned
            if not headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 "):
                return Canned(403, '{"message": "Missing Authentication Token"}')
            path = address.path.removeprefix(STAGE)
            asked = event(self.command, path, body or None, query=query or None, headers=headers)
            answered = api_app.handle(asked, _Context())
            extra = {name: str(value) for name, value in answered["headers"].items()}
            kind = extra.pop("Content-Type", "application/json")
            return Canned(int(answered["statusCode"]), str(answered["body"] or ""), kind, tuple(extra.items()))

        def log_message(self, *_: object) -> None:
            return

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = RegistryServer(f"http://127.0.0.1:{httpd.server_port}", api)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()


STAGE = "/_aws/execute-api/api1234567/$default"
"""Where an emulator of AWS puts an API's paths."""


def stack(status: str = "CREATE_COMPLETE", *outputs: tuple[str, str]) -> Canned:
    """CloudFormation's answer to DescribeStacks."""
    told = outputs or (
        ("ApiId", "api1234567"),
        ("ApiUrl", "https://api1234567.execute-api.us-west-2.amazonaws.com"),
        ("MonitorRoleArn", "arn:aws:iam::111111111111:role/keyvigil-monitor"),
    )
    members = "".join(
        f"<member><OutputKey>{name}</OutputKey><OutputValue>{value}</OutputValue></member>" for name, value in told
    )
    return Canned(
        200,
        '<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><DescribeStacksResult>'
        "<Stacks><member><StackName>keyvigil</StackName><StackId>arn:aws:cloudformation:us-west-2:1:stack/k/1</StackId>"
        f"<StackStatus>{status}</StackStatus><CreationTime>2026-11-22T00:00:00Z</CreationTime>"
        f"<Description>KeyVigil watches</Description><Outputs>{members}</Outputs></member></Stacks>"
        "</DescribeStacksResult></DescribeStacksResponse>",
        "text/xml",
    )


def aws_error(status: int, code: str, message: str) -> Canned:
    """An error as CloudFormation words it."""
    return Canned(
        status,
        '<ErrorResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><Error><Type>Sender</Type>'
        f"<Code>{code}</Code><Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>",
        "text/xml",
    )
