"""STS and KMS on this machine: a server that answers as a test says, rightly or wrongly or not at all."""

import base64
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, override
from urllib.parse import parse_qs

from keyvigil.adapters.kms_prober import PLAINTEXT
from tests.examples import KEY_ARN, KMS_KEY

type Answer = Callable[["Request"], None]
"""What a server does about one request."""

_SESSION = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>ASIASESSION000000001</AccessKeyId><SecretAccessKey>made-up</SecretAccessKey><SessionToken>t</SessionToken>
<Expiration>2036-11-22T03:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""
_KEY = {"KeyId": KMS_KEY, "Arn": KEY_ARN, "KeyState": "Enabled", "KeyUsage": "ENCRYPT_DECRYPT"}


class Request(BaseHTTPRequestHandler):
    """One request, with what can be done about it."""

    protocol_version = "HTTP/1.1"
    server: "FaultServer"
    body = b""

    def do_POST(self) -> None:
        """Let the test's answer to this operation happen."""
        self.body = body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = self.headers.get("X-Amz-Target")
        operation = target.partition(".")[2] if target else parse_qs(body.decode())["Action"][0]
        with contextlib.suppress(OSError):  # the client may have given up
            self.server.answer(operation)(self)

    def reply(self, status: int, content_type: str, body: str, *, length: int | None = None) -> None:
        """Answer. With `length` it is announced otherwise than it is."""
        raw = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(raw) if length is None else length))
        self.end_headers()
        self.wfile.write(raw)
        self.close_connection = length is not None

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class FaultServer(ThreadingHTTPServer):
    """Answers well, but where a test says otherwise."""

    daemon_threads = True

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self._answers = dict(answers)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, operation: str) -> Answer:
        self.asked.append(operation)
        return self._answers.get(operation) or _WELL[operation]

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that give up are what it is about."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()


def json_answer(document: Mapping[str, Any], status: int = 200) -> Answer:
    """An answer of KMS's."""
    return lambda request: request.reply(status, "application/x-amz-json-1.1", json.dumps(document))


def kms_error(code: str, status: int = 400) -> Answer:
    """An error of KMS's."""
    return json_answer({"__type": code, "message": "whatever AWS says"}, status)


def sts_error(code: str, status: int = 400) -> Answer:
    """An error of STS's."""
    xml = f"<ErrorResponse><Error><Code>{code}</Code><Message>whatever</Message></Error></ErrorResponse>"
    return lambda request: request.reply(status, "text/xml", xml)


def page(status: int, body: str = "<html><body>A proxy's own page</body></html>") -> Answer:
    """What something between us and AWS answers."""
    return lambda request: request.reply(status, "text/html", body)


def sts_xml(body: str) -> Answer:
    """An answer of STS's, as it is written."""
    return lambda request: request.reply(200, "text/xml", body)


def half_a_session() -> Answer:
    """STS's answer, of which the end is missing."""
    return sts_xml(_SESSION[: len(_SESSION) // 2])


def hangs_up(request: Request) -> None:
    """Close the connection without a word."""
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)


def resets(request: Request) -> None:
    """Reset the connection."""
    request.close_connection = True
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()


def hangs_up_half_way(request: Request) -> None:
    """Announce more than is sent."""
    request.reply(200, "application/x-amz-json-1.1", '{"Plaintext": "S2V5', length=500)


def never_answers(request: Request) -> None:
    """Take the request, and be silent for longer than anybody waits."""
    request.close_connection = True
    time.sleep(2)


def after(seconds: float, answer: Answer) -> Answer:
    """The same, but later."""

    def late(request: Request) -> None:
        time.sleep(seconds)
        answer(request)

    return late


def at_first(fault: Answer, operation: str) -> Answer:
    """A fault that the client's next try does not meet."""
    tries: list[Request] = []

    def answer(request: Request) -> None:
        tries.append(request)
        (fault if len(tries) == 1 else _WELL[operation])(request)

    return answer


def well(operation: str) -> Answer:
    """What AWS answers if all is well."""
    return _WELL[operation]


_WELL: dict[str, Answer] = {
    "AssumeRole": sts_xml(_SESSION),
    "DescribeKey": json_answer({"KeyMetadata": _KEY}),
    "Encrypt": json_answer({"CiphertextBlob": base64.b64encode(b"new").decode(), "KeyId": KEY_ARN}),
    "Decrypt": json_answer({"Plaintext": base64.b64encode(PLAINTEXT).decode(), "KeyId": KEY_ARN}),
    "GenerateDataKey": json_answer(
        {"CiphertextBlob": base64.b64encode(b"new").decode(), "Plaintext": base64.b64encode(b"key").decode()}
    ),
}
