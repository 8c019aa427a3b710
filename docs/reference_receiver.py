"""A reference receiver: the fencing that every control plane needs, complete. Standard library only.

What it promises, in whatever order, however often and however late requests arrive, and wherever it dies:

- a request is acted on only if its fence is above every fence seen of its cluster, or if it is the newest and was not
  finished: a lock that arrives after its unlock does nothing;
- the newest fence is on disk *before* anything is done, so a crash forgets no request that may have had effect;
- the same request again gets the same answer, and once it was answered nothing is done for it again;
- whichever of several finishes last, the newest request has the last word; after a crash, once `catch_up` has run.

Adapt it: put what locks and unlocks your clusters into ``act`` (it must be idempotent, and raise if it failed), and
keep ``Memory`` where your control plane keeps its clusters. Any store will do that can compare and write in one step,
as ``remember`` does. docs/receivers.md says more, and how requests arrive by event, function, webhook and runbook.

As it stands it is a webhook, behind whatever ends TLS for you:

    export KEYVIGIL_WEBHOOK_SECRET=whsec_...
    python3 docs/reference_receiver.py --database fences.sqlite --port 8080 --lock ./lock.sh --unlock ./unlock.sh

The two commands get the project's and the cluster's id as arguments.
"""

import argparse
import base64
import hashlib
import hmac
import http.server
import json
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, override

LONGEST_BODY = 64 * 1024
"""A request has some hundred bytes; nobody needs to send more than this."""

TOLERANCE_SECONDS = 300
"""How far a webhook's timestamp may be from this machine's clock. The fence, not this, is what stops a replay."""

COMMAND_SECONDS = 8
"""KeyVigil waits ten seconds for a webhook's answer. What takes longer answers 202, and by `lock-result` when done."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to lock or unlock one cluster."""

    action: str
    project_id: str
    cluster_id: str
    fence: int

    @classmethod
    def of(cls, detail: Mapping[str, Any]) -> "Request":
        """Read the body of a webhook, the payload of a function, or the `detail` of an event: they are the same.

        Raises:
            ValueError: it is no request; a field is missing or of the wrong type.
        """
        action, fence = detail.get("action"), detail.get("fence")
        project_id, cluster_id = detail.get("project_id"), detail.get("cluster_id")
        if action not in {"lock", "unlock"}:
            raise ValueError("`action` must be lock or unlock")
        if not isinstance(fence, int) or isinstance(fence, bool):
            raise ValueError("`fence` must be a whole number")  # noqa: TRY004  what arrived is wrong, not the call
        if not isinstance(project_id, str) or not isinstance(cluster_id, str):
            raise ValueError("`project_id` and `cluster_id` must be strings")  # noqa: TRY004  likewise
        return cls(action, project_id, cluster_id, fence)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered: `locked`, `unlocked` or `failed`, and why."""

    result: str
    detail: str


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest request of a cluster, and its answer once there is one."""

    request: Request
    answer: Answer | None


class Memory:
    """The newest request of each cluster, on disk. It may be used by several threads, and by several processes."""

    def __init__(self, path: str) -> None:
        """Open the file, and make it if it is not there."""
        self._turn = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        # Each statement is a transaction of its own, and on disk when it returns:
        # https://www.sqlite.org/pragma.html#pragma_synchronous
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS newest (project_id TEXT, cluster_id TEXT, fence INTEGER NOT NULL, "
            "action TEXT NOT NULL, result TEXT, detail TEXT, PRIMARY KEY (project_id, cluster_id))"
        )

    def close(self) -> None:
        self._database.close()

    def remember(self, request: Request) -> Newest:
        """Take a request in if it is above all before, in one step; say which is the newest now."""
        with self._turn:
            self._database.execute(
                "INSERT INTO newest (project_id, cluster_id, fence, action) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (project_id, cluster_id) DO UPDATE SET "
                "fence = excluded.fence, action = excluded.action, result = NULL, detail = NULL "
                "WHERE excluded.fence > newest.fence",
                (request.project_id, request.cluster_id, request.fence, request.action),
            )
        return self.newest(request)

    def newest(self, request: Request) -> Newest:
        """The newest request of this one's cluster."""
        with self._turn:
            fence, action, result, detail = self._database.execute(
                "SELECT fence, action, result, detail FROM newest WHERE project_id = ? AND cluster_id = ?",
                (request.project_id, request.cluster_id),
            ).fetchone()
        answer = Answer(result, detail) if result is not None else None
        return Newest(Request(action, request.project_id, request.cluster_id, fence), answer)

    def all(self) -> list[Request]:
        """The newest request of every cluster."""
        with self._turn:
            rows = self._database.execute("SELECT action, project_id, cluster_id, fence FROM newest").fetchall()
        return [Request(*row) for row in rows]

    def keep_answer(self, request: Request, answer: Answer) -> None:
        """Keep a request's answer, unless a newer request has come."""
        with self._turn:
            self._database.execute(
                "UPDATE newest SET result = ?, detail = ? WHERE project_id = ? AND cluster_id = ? AND fence = ?",
                (answer.result, answer.detail, request.project_id, request.cluster_id, request.fence),
            )


class Receiver:
    """Takes requests as they come, and does what the newest of each cluster says."""

    def __init__(self, memory: Memory, act: Callable[[Request], None]) -> None:
        """Keep the memory, and what locks and unlocks: idempotent, and raising if it failed."""
        self._memory = memory
        self._act = act

    def take(self, request: Request) -> Answer:
        """Take a request. May be called again for the same one at any time, and for several at once."""
        newest = self._memory.remember(request)
        if newest.request == request and newest.answer is None:
            self._carry_out(newest.request)
            newest = self._memory.newest(request)
        if newest.request == request and newest.answer is not None:
            return newest.answer
        return Answer("failed", f"refused: a request with fence {newest.request.fence} was seen before")

    def catch_up(self) -> None:
        """Do the newest request of every cluster once more: a process that died may have been doing an older one."""
        for request in self._memory.all():
            self._carry_out(request)

    def _carry_out(self, request: Request) -> None:
        """Act until what was done last is what the newest request wants.

        A newer one may come in while this one is acted on, and be done first: then this one's effect came last, and
        the newer one is done once more.
        """
        while True:
            self._memory.keep_answer(request, self._try(request))
            newest = self._memory.newest(request).request
            if newest == request:
                return
            request = newest

    def _try(self, request: Request) -> Answer:
        try:
            self._act(request)
        except Exception as error:  # noqa: BLE001  whatever it is, KeyVigil is told, and asks again with a new fence
            return Answer("failed", f"{type(error).__name__}: {error}")
        return Answer(f"{request.action}ed", "done")


def is_signed(headers: Mapping[str, str], body: bytes, secret: str, now: float) -> bool:
    """Whether a webhook is signed with the secret, and not long ago.

    Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    message_id, sent_at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not sent_at.isdecimal() or abs(now - int(sent_at)) > TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    wanted = hmac.new(key, f"{message_id}.{sent_at}.".encode() + body, hashlib.sha256).digest()
    given = (each.partition(",") for each in headers.get("webhook-signature", "").split())
    return any(
        version == "v1" and hmac.compare_digest(base64.b64encode(wanted).decode(), signature)
        for version, _, signature in given
    )


class WebhookServer(http.server.ThreadingHTTPServer):
    """Takes signed webhooks."""

    def __init__(self, port: int, receiver: Receiver, secret: str, clock: Callable[[], float] = time.time) -> None:
        """Listen on the loopback address; `port` 0 takes any that is free."""
        super().__init__(("127.0.0.1", port), _Webhook)
        self.receiver = receiver
        self.secret = secret
        self.clock = clock


class _Webhook(http.server.BaseHTTPRequestHandler):
    timeout = 10.0

    def do_POST(self) -> None:
        status, document = self._handle()
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> tuple[HTTPStatus, dict[str, str]]:
        server = self.server
        length = self.headers.get("content-length", "")
        if not isinstance(server, WebhookServer) or not length.isdecimal() or int(length) > LONGEST_BODY:
            return HTTPStatus.BAD_REQUEST, {"error": "no body, or too long a one"}
        body = self.rfile.read(int(length))
        if not is_signed(
            {name.lower(): value for name, value in self.headers.items()}, body, server.secret, server.clock()
        ):
            return HTTPStatus.UNAUTHORIZED, {"error": "not signed with this receiver's secret"}
        try:
            request = Request.of(json.loads(body))
        except (ValueError, AttributeError) as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}
        answer = server.receiver.take(request)
        return HTTPStatus.OK, {"result": answer.result, "detail": answer.detail}

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing; log what you need in `act`."""


def run_command(commands: Mapping[str, str]) -> Callable[[Request], None]:
    """Act by running a command with the project's and the cluster's id."""

    def act(request: Request) -> None:
        program = [commands[request.action], request.project_id, request.cluster_id]
        subprocess.run(program, check=True, timeout=COMMAND_SECONDS)  # noqa: S603  the operator's own, without a shell

    return act


def main() -> None:
    """Serve webhooks until interrupted."""
    parser = argparse.ArgumentParser(description="Lock and unlock clusters when KeyVigil asks for it.")
    parser.add_argument("--database", required=True, help="the file that remembers fences")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--lock", required=True, help="the command that locks a cluster")
    parser.add_argument("--unlock", required=True, help="the command that unlocks a cluster")
    given = parser.parse_args()
    receiver = Receiver(Memory(given.database), run_command({"lock": given.lock, "unlock": given.unlock}))
    receiver.catch_up()
    with WebhookServer(given.port, receiver, os.environ["KEYVIGIL_WEBHOOK_SECRET"]) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
