"""The reference receiver (docs/reference_receiver.py) keeps what it promises, and KeyVigil's requests make it do so."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from docs.reference_receiver import LONGEST_BODY, Answer, Memory, Receiver, Request, WebhookServer, run_command
from keyvigil.domain.alerts import lock_request
from keyvigil.domain.clusters import LockAction
from keyvigil.domain.clusters import request as ask
from tests.examples import NOW, cluster

LOCK = Request("lock", "acme-prod", "vectors-prod", 7)
UNLOCK = Request("unlock", "acme-prod", "vectors-prod", 8)


class DiedError(BaseException):
    """The receiver's process was killed."""


class Clusters:
    """What a receiver locks and unlocks. `before` and `after` are called around each effect."""

    def __init__(self) -> None:
        self.locked: dict[str, bool] = {}
        self.acted: list[Request] = []
        self.before: Callable[[Request], None] = lambda _request: None
        self.after: Callable[[Request], None] = lambda _request: None

    def act(self, request: Request) -> None:
        self.before(request)
        self.locked[request.cluster_id] = request.action == "lock"
        self.acted.append(request)
        self.after(request)


@contextmanager
def receiving(path: Path | str = ":memory:") -> Iterator[tuple[Receiver, Clusters]]:
    memory, clusters = Memory(str(path)), Clusters()
    try:
        yield Receiver(memory, clusters.act), clusters
    finally:
        memory.close()


def asked_for(actions: list[LockAction]) -> list[Request]:
    """What KeyVigil sends for a row of actions on one cluster, made by its own code, within one millisecond."""
    asked, sent = cluster(), []
    for action in actions:
        asked = ask(asked, action, incident_id="01JINCIDENT", task_token="t", now=NOW)
        told = lock_request(asked)
        sent.append(Request(str(told.action), told.project_id, told.cluster_id, told.fence))
    return sent


# --- examples -----------------------------------------------------------------------------------------------------


def test_a_lock_that_is_delivered_after_its_unlock_does_nothing() -> None:
    with receiving() as (receiver, clusters):
        assert receiver.take(UNLOCK) == Answer("unlocked", "done")
        assert receiver.take(LOCK) == Answer("failed", "refused: a request with fence 8 was seen before")
        assert clusters.acted == [UNLOCK]


def test_a_lock_that_is_replayed_after_its_unlock_does_nothing() -> None:
    with receiving() as (receiver, clusters):
        receiver.take(LOCK)
        receiver.take(UNLOCK)
        assert receiver.take(LOCK).result == "failed"
        assert clusters.locked == {"vectors-prod": False}


def test_the_same_request_again_gets_the_same_answer_and_nothing_is_done() -> None:
    with receiving() as (receiver, clusters):
        assert [receiver.take(LOCK) for _ in range(3)] == [Answer("locked", "done")] * 3
        assert clusters.acted == [LOCK]


def test_a_failure_is_answered_with_its_reason_and_answered_again_the_same_way() -> None:
    def fail(_request: Request) -> None:
        message = "the cluster is not there"
        raise RuntimeError(message)

    with receiving() as (receiver, clusters):
        clusters.before = fail
        assert receiver.take(LOCK) == Answer("failed", "RuntimeError: the cluster is not there")
        clusters.before = lambda _request: None
        assert receiver.take(LOCK).result == "failed"
        assert receiver.take(replace(LOCK, fence=9)).result == "locked"


def test_clusters_and_projects_have_fences_of_their_own() -> None:
    with receiving() as (receiver, _):
        receiver.take(UNLOCK)
        assert receiver.take(replace(LOCK, cluster_id="other")).result == "locked"
        assert receiver.take(replace(LOCK, project_id="other")).result == "locked"


def test_what_was_seen_is_known_after_a_restart(tmp_path: Path) -> None:
    with receiving(tmp_path / "fences") as (receiver, _):
        receiver.take(UNLOCK)
    with receiving(tmp_path / "fences") as (receiver, clusters):
        assert receiver.take(LOCK).result == "failed"
        assert receiver.take(UNLOCK).result == "unlocked"
        assert clusters.acted == []


def test_a_newer_request_that_overtakes_one_that_is_being_done_has_the_last_word() -> None:
    with receiving() as (receiver, clusters):
        answers = []

        def overtaken(request: Request) -> None:
            if request == LOCK:
                answers.append(receiver.take(UNLOCK))

        clusters.before = overtaken
        answers.append(receiver.take(LOCK))
        assert [answer.result for answer in answers] == ["unlocked", "failed"]
        assert clusters.acted == [UNLOCK, LOCK, UNLOCK]
        assert clusters.locked == {"vectors-prod": False}


def test_two_processes_that_share_the_memory_agree_on_the_newest(tmp_path: Path) -> None:
    with receiving(tmp_path / "fences") as (first, _), receiving(tmp_path / "fences") as (second, clusters):
        first.take(UNLOCK)
        assert second.take(LOCK).result == "failed"
        assert clusters.acted == []


# --- in whatever order, however often, wherever it dies -----------------------------------------------------------

actions = st.lists(st.sampled_from(list(LockAction)), min_size=1, max_size=6)


@given(actions, st.data())
def test_replayed_duplicated_reordered_and_late_the_newest_wins(rows: list[LockAction], data: st.DataObject) -> None:
    sent = asked_for(rows)
    arriving = data.draw(st.permutations(sent * data.draw(st.integers(1, 3))))
    with receiving() as (receiver, clusters):
        highest = -1
        for request in arriving:
            before = len(clusters.acted)
            answer = receiver.take(request)
            acted = clusters.acted[before:]
            # Nothing but a fence above all before is ever acted on, and only that has a good answer the first time.
            assert acted == ([request] if request.fence > highest else [])
            assert (answer.result != "failed") is (request.fence >= highest)
            highest = max(highest, request.fence)
        assert clusters.locked["vectors-prod"] is (rows[-1] is LockAction.LOCK)
        assert receiver.take(sent[-1]).result == f"{sent[-1].action}ed"


@given(actions, st.data())
def test_wherever_it_dies_the_newest_wins_when_requests_are_delivered_again(
    rows: list[LockAction], data: st.DataObject
) -> None:
    sent = asked_for(rows)
    arriving = data.draw(st.permutations(sent))
    dies = data.draw(st.lists(st.sampled_from(("before", "after", "no")), min_size=len(sent), max_size=len(sent)))

    def die(_request: Request) -> None:
        raise DiedError

    with receiving() as (receiver, clusters):
        for request, when in zip(arriving, dies, strict=True):
            clusters.before = die if when == "before" else lambda _request: None
            clusters.after = die if when == "after" else lambda _request: None
            with suppress(DiedError):
                receiver.take(request)
        clusters.before = clusters.after = lambda _request: None
        for request in data.draw(st.permutations(sent)):
            receiver.take(request)
        assert clusters.locked["vectors-prod"] is (rows[-1] is LockAction.LOCK)


@given(actions, st.data())
def test_overtaken_in_the_middle_and_killed_then_the_newest_wins_after_catching_up(
    rows: list[LockAction], data: st.DataObject
) -> None:
    """While one request is acted on, the next ones come in; the process dies before the outermost one is through."""
    sent = asked_for(rows)
    waiting = data.draw(st.permutations(sent))

    with receiving() as (receiver, clusters):

        def overtaken(_request: Request) -> None:
            if waiting:
                receiver.take(waiting.pop())

        def die(request: Request) -> None:
            if request == outermost:
                raise DiedError

        outermost = waiting.pop()
        clusters.before, clusters.after = overtaken, die
        with suppress(DiedError):
            receiver.take(outermost)
        clusters.before = clusters.after = lambda _request: None
        while waiting:
            receiver.take(waiting.pop())
        receiver.catch_up()
        assert clusters.locked["vectors-prod"] is (rows[-1] is LockAction.LOCK)


# --- as a webhook -------------------------------------------------------------------------------------------------

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def body_of(request: Request) -> dict[str, Any]:
    """What KeyVigil posts, of which a receiver needs four fields."""
    return {
        "action": request.action,
        "project_id": request.project_id,
        "cluster_id": request.cluster_id,
        "fence": request.fence,
        "incident_id": "01JINCIDENT",
        "reason": "because",
    }


@contextmanager
def serving(clock: float) -> Iterator[tuple[Callable[..., tuple[int, dict[str, str]]], Clusters]]:
    with receiving() as (receiver, clusters), WebhookServer(0, receiver, SECRET, lambda: clock) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def post(body: bytes, secret: str = SECRET) -> tuple[int, dict[str, str]]:
            headers = {
                "Webhook-Id": "lock_1",
                "Webhook-Timestamp": str(int(NOW.timestamp())),
                "Webhook-Signature": f"v1,bm8= {Webhook(secret).sign('lock_1', NOW, body.decode())}",
            }
            url = f"http://127.0.0.1:{server.server_port}/"
            try:
                with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=5) as answer:
                    return answer.status, json.loads(answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, json.loads(error.read())

        try:
            yield post, clusters
        finally:
            server.shutdown()
            thread.join()


def test_a_signed_webhook_is_taken_and_answered() -> None:
    with serving(NOW.timestamp()) as (post, clusters):
        assert post(json.dumps(body_of(LOCK)).encode()) == (200, {"result": "locked", "detail": "done"})
        assert clusters.acted == [LOCK]


def test_a_webhook_that_somebody_else_signed_or_that_is_old_does_nothing() -> None:
    body = json.dumps(body_of(LOCK)).encode()
    with serving(NOW.timestamp()) as (post, clusters):
        assert post(body, "whsec_c29tZWJvZHkgZWxzZQ==")[0] == 401
    with serving(NOW.timestamp() + 301) as (post, clusters_later):
        assert post(body)[0] == 401
    assert clusters.acted == clusters_later.acted == []


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        b"[]",
        b'{"action": "explode", "project_id": "p", "cluster_id": "c", "fence": 1}',
        b'{"action": "lock", "project_id": "p", "cluster_id": "c", "fence": "1"}',
        b'{"action": "lock", "project_id": "p", "cluster_id": "c", "fence": true}',
        b'{"action": "lock", "project_id": "p", "cluster_id": null, "fence": 1}',
        b" " * (LONGEST_BODY + 1),
    ],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with serving(NOW.timestamp()) as (post, clusters):
        assert post(body)[0] == 400
        assert clusters.acted == []


def test_it_acts_by_running_a_command(tmp_path: Path) -> None:
    with receiving() as (_, _):
        memory = Memory(":memory:")
    receiver = Receiver(memory, run_command({"lock": "false", "unlock": "true"}))
    assert receiver.take(LOCK).result == "failed"
    assert receiver.take(UNLOCK).result == "unlocked"
    memory.close()
