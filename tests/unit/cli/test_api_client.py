import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.credentials import Credentials

from keyvigil_cli.api_client import ApiClient, ApiProblemError, ApiUnreachableError, NoSuchPathError, path_of

PROBLEM = {
    "type": "about:blank",
    "title": "Access denied to KMS key",
    "status": 422,
    "detail": "kms:Decrypt was refused",
    "cause": "ACCESS_DENIED",
    "remediation": {"summary": "Allow the role kms:Decrypt.", "commands": []},
}


@dataclass
class Answer:
    """What the server says to one request; without a status it hangs up."""

    status: int | None = 200
    body: bytes = b"{}"
    content_type: str = "application/json"


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: Message
    body: bytes


@dataclass
class Server:
    """A server on this machine that gives the answers it was told to, in order, and then repeats the last."""

    url: str
    answers: list[Answer]
    asked: list[Asked] = field(default_factory=list)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    running: list[ThreadingHTTPServer] = []

    def start(*answers: Answer) -> Server:
        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                server.asked.append(Asked(self.command, self.path, self.headers, self.rfile.read(length)))
                answer = server.answers[min(len(server.asked), len(server.answers)) - 1]
                self.close_connection = True
                if answer.status is None:
                    return
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.content_type)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 - the names http.server asks for

            def log_message(self, *_: object) -> None:
                return

        httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server = Server(f"http://127.0.0.1:{httpd.server_port}", list(answers))
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        running.append(httpd)
        return server

    yield start
    for httpd in running:
        httpd.shutdown()
        httpd.server_close()


@pytest.fixture(autouse=True)
def no_pause_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib3.util.retry.Retry.get_backoff_time", lambda _self: 0)


def client(server: Server) -> ApiClient:
    return ApiClient(server.url, "us-west-2", Credentials("AKIDEXAMPLE", "secret", "session"))


def answer(content: object, status: int = 200, content_type: str = "application/json") -> Answer:
    return Answer(status, json.dumps(content).encode(), content_type)


def test_a_request_is_signed_for_execute_api_in_the_stack_s_region(serve: Callable[..., Server]) -> None:
    server = serve(answer({"items": []}))
    client(server).get("projects")
    headers = server.asked[0].headers
    assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/us-west-2/execute-api/aws4_request" in headers["Authorization"]
    assert headers["X-Amz-Security-Token"] == "session"


def test_segments_and_queries_are_quoted(serve: Callable[..., Server]) -> None:
    server = serve(answer({}))
    client(server).get("projects", "a/../b", next_token="x+/= y")
    assert server.asked[0].path == "/projects/a%2F..%2Fb?next_token=x%2B%2F%3D%20y"


def test_a_body_is_json_and_an_idempotency_key_a_header(serve: Callable[..., Server]) -> None:
    server = serve(answer({"project_id": "acme-prod"}, status=201))
    created = client(server).post("projects", body={"project_id": "acme-prod"}, idempotency_key="once")
    assert created == {"project_id": "acme-prod"}
    assert json.loads(server.asked[0].body) == {"project_id": "acme-prod"}
    assert server.asked[0].headers["Content-Type"] == "application/json"
    assert server.asked[0].headers["Idempotency-Key"] == "once"


def test_an_empty_answer_is_an_empty_object(serve: Callable[..., Server]) -> None:
    assert client(serve(Answer(204, b""))).delete("projects", "acme-prod") == {}


def test_all_pages_of_a_list_are_read(serve: Callable[..., Server]) -> None:
    server = serve(answer({"items": [{"n": 1}], "next_token": "t"}), answer({"items": [{"n": 2}], "next_token": None}))
    assert list(client(server).items("projects", limit="1")) == [{"n": 1}, {"n": 2}]
    assert server.asked[1].path == "/projects?limit=1&next_token=t"


def test_a_problem_report_is_raised_with_all_it_says(serve: Callable[..., Server]) -> None:
    server = serve(answer(PROBLEM, status=422, content_type="application/problem+json; charset=utf-8"))
    with pytest.raises(ApiProblemError) as caught:
        client(server).post("projects", "acme-prod", "keys")
    problem = caught.value
    assert (problem.status, problem.title, problem.cause) == (
        422,
        "Access denied to KMS key",
        "ACCESS_DENIED",
    )
    assert problem.remediation == PROBLEM["remediation"]
    assert str(problem) == "422 Access denied to KMS key; kms:Decrypt was refused; Allow the role kms:Decrypt."


def test_refused_fields_are_named() -> None:
    body = {"title": "Invalid request", "errors": [{"field": "project_id", "message": "too long"}]}
    problem = ApiProblemError.of(422, "application/problem+json", json.dumps(body).encode())
    assert str(problem) == "422 Invalid request; project_id: too long"


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("application/json", b'{"message": "Forbidden"}', "403 Forbidden; Forbidden"),
        ("text/html", b"<h1>no</h1>", "403 Forbidden; <h1>no</h1>"),
        ("application/json", b'["no"]', '403 Forbidden; ["no"]'),
        ("application/json", b"\xff", "403 Forbidden; \ufffd"),
        ("", b"", "403 Forbidden"),
    ],
)
def test_what_is_no_problem_report_is_still_understood(content_type: str, body: bytes, words: str) -> None:
    assert str(ApiProblemError.of(403, content_type, body)) == words


def test_a_get_is_tried_again_when_the_connection_breaks(serve: Callable[..., Server]) -> None:
    server = serve(Answer(status=None), Answer(status=None), answer({"ok": True}))
    assert client(server).get("fleet") == {"ok": True}
    assert len(server.asked) == 3


def test_a_get_is_not_tried_for_ever(serve: Callable[..., Server]) -> None:
    server = serve(Answer(status=None))
    with pytest.raises(ApiUnreachableError, match=r"no answer from GET http://127\.0\.0\.1"):
        client(server).get("fleet")
    assert len(server.asked) == 4


def test_a_get_that_was_answered_is_not_tried_again(serve: Callable[..., Server]) -> None:
    server = serve(answer({"title": "Unknown"}, status=503))
    with pytest.raises(ApiProblemError):
        client(server).get("fleet")
    assert len(server.asked) == 1


def test_a_post_is_never_tried_again(serve: Callable[..., Server]) -> None:
    server = serve(Answer(status=None))
    with pytest.raises(ApiUnreachableError):
        client(server).post("projects")
    assert len(server.asked) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]"])
def test_an_answer_that_is_no_json_object_is_refused(serve: Callable[..., Server], body: bytes) -> None:
    with pytest.raises(ApiUnreachableError):
        client(serve(Answer(200, body))).get("fleet")


@pytest.mark.parametrize(
    ("segments", "path"),
    [(("projects",), "/projects"), (("projects", "a b", "ü"), "/projects/a%20b/%C3%BC")],
)
def test_a_path_is_made_of_quoted_segments(segments: tuple[str, ...], path: str) -> None:
    assert path_of(*segments) == path


@pytest.mark.parametrize("segment", ["", ".", ".."])
def test_a_segment_that_would_lead_elsewhere_is_refused(segment: str) -> None:
    with pytest.raises(NoSuchPathError):
        path_of("projects", segment, "keys")
