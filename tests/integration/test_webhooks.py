"""Webhooks and Zilliz Cloud, called over https at a local server that answers as theirs would."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self, override

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from keyvigil.adapters import webhook_receiver
from keyvigil.adapters.guarded_https import GuardedHttps
from keyvigil.adapters.secret_reader import SecretUnreadableError
from keyvigil.adapters.webhook_receiver import WebhookReceiver
from keyvigil.adapters.zilliz_cloud import ZillizCloudReceiver
from keyvigil.domain.alerts import LockRequest
from keyvigil.domain.clusters import LockSettings, LockVia, Preset
from keyvigil.domain.lock_calls import CallAnswer, CallOutcome
from tests.fakes import FakeClock
from tests.integration.tls_server import LOOPBACK, Authority, Exchange, TlsServer

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECRET_ARN = "arn:aws:secretsmanager:us-west-2:111111111111:secret:keyvigil/acme-prod/webhook-AbCd12"
NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
FENCE = 1795369305484


def asked(action: str = "Lock") -> LockRequest:
    return LockRequest(
        detail_type=f"Cluster {action} Requested",
        project_id="acme-prod",
        cluster_id="in01-3f5a",
        incident_id="01JINCIDENT",
        fence=FENCE,
        reason="because",
        respond_by=NOW + timedelta(seconds=300),
        via=LockVia.WEBHOOK,
    )


LOCK, UNLOCK = asked(), asked("Unlock")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def https_to(server: TlsServer, authority: Authority) -> GuardedHttps:
    return GuardedHttps(
        resolve=lambda _host, _port: [(LOOPBACK, server.port)],
        allows=lambda _address: True,
        context=authority.trusted,
    )


# --- a tenant's webhook -----------------------------------------------------------------------------------------

HOOK = LockSettings(via=LockVia.WEBHOOK, url="https://hooks.example.com/lock", secret_arn=SECRET_ARN)


class Hook:
    """A webhook that keeps what it gets and answers as it is told."""

    def __init__(self, authority: Authority, secret: str = SECRET) -> None:
        self.status, self.answer = 200, b'{"result": "locked", "detail": "done"}'
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.server = TlsServer(authority, "hooks.example.com", self._take)
        self.secrets_read: list[str] = []
        self.receiver = WebhookReceiver(https_to(self.server, authority), self._read, FakeClock(NOW))
        self.secret = secret

    def _read(self, secret_arn: str) -> str:
        self.secrets_read.append(secret_arn)
        return self.secret

    def _take(self, exchange: Exchange) -> None:
        self.got.append((dict(exchange.headers), exchange.body()))
        exchange.reply(self.status, self.answer, location="https://hooks.example.com/elsewhere")

    def call(self, request: LockRequest = LOCK, lock: LockSettings = HOOK, seconds: float = 5) -> CallAnswer:
        return self.receiver.call(request, lock, receipt=None, seconds=seconds)


@pytest.fixture(autouse=True)
def _the_verifier_has_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who verifies refuses what is five minutes old, and the tests before these may take as long."""

    class Then(datetime):
        @classmethod
        @override
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(NOW.timestamp(), tz)

    monkeypatch.setattr("standardwebhooks.webhooks.datetime", Then)


@pytest.fixture
def hook(authority: Authority) -> Iterator[Hook]:
    made = Hook(authority)
    with made.server:
        yield made


def test_a_webhook_gets_the_request_signed_as_standard_webhooks_define(hook: Hook) -> None:
    answer = hook.call()
    assert answer == CallAnswer(outcome=CallOutcome.DONE, detail="done")
    [(headers, body)] = hook.got
    assert Webhook(SECRET).verify(body, headers) == {
        "action": "lock",
        "project_id": "acme-prod",
        "cluster_id": "in01-3f5a",
        "incident_id": "01JINCIDENT",
        "fence": FENCE,
        "reason": "because",
        "respond_by": (NOW + timedelta(seconds=300)).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    assert headers["webhook-id"] == f"lock_acme-prod_in01-3f5a_{FENCE}"
    assert headers["webhook-timestamp"] == str(int(NOW.timestamp()))
    assert headers["content-type"] == "application/json"


def test_a_body_that_was_changed_or_another_secret_does_not_verify(hook: Hook) -> None:
    hook.call()
    [(headers, body)] = hook.got
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b'"lock"', b'"unlock"'), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_b3RoZXI=").verify(body, headers)


def test_every_attempt_has_the_same_id_and_a_rotated_secret_is_used_at_once(hook: Hook) -> None:
    hook.call()
    hook.secret = "whsec_bmV3ZXI="
    hook.call()
    (first, _), (second, body) = hook.got
    assert first["webhook-id"] == second["webhook-id"]
    Webhook("whsec_bmV3ZXI=").verify(body, second)
    assert hook.secrets_read == [SECRET_ARN] * 2


def test_while_a_secret_is_changed_both_sign(hook: Hook) -> None:
    hook.secret = f"whsec_bmV3ZXI= {SECRET}"
    hook.call()
    [(headers, body)] = hook.got
    for secret in hook.secret.split():
        Webhook(secret).verify(body, headers)


@pytest.mark.parametrize(
    ("status", "body", "outcome", "detail"),
    [
        (200, b'{"result": "locked"}', CallOutcome.DONE, None),
        (201, b'{"result": "failed", "detail": "quorum\\u0000lost"}', CallOutcome.FAILED, "quorum lost"),
        (200, b'{"result": "accepted"}', CallOutcome.ACCEPTED, None),
        (202, b"", CallOutcome.ACCEPTED, None),
        (202, b'{"result": "failed"}', CallOutcome.ACCEPTED, None),
        (204, b"", CallOutcome.FAILED, "it answered 204 without JSON"),
        (200, b"<html>", CallOutcome.FAILED, "it answered 200 without JSON"),
        (200, b"\xff\xfe", CallOutcome.FAILED, "it answered 200 without JSON"),
        (200, b"[" * 60_000, CallOutcome.FAILED, "it answered 200 without JSON"),
        (200, b"[]", CallOutcome.FAILED, "its answer is not a JSON object with `result`"),
        (301, b"", CallOutcome.FAILED, "it answered 301; redirects are not followed"),
        (307, b"", CallOutcome.FAILED, "it answered 307; redirects are not followed"),
        (401, b'{"result": "locked"}', CallOutcome.FAILED, "it answered 401"),
        (404, b"", CallOutcome.FAILED, "it answered 404"),
        (409, b"", CallOutcome.FAILED, "it answered 409"),
        (408, b"", CallOutcome.TRANSIENT, "it answered 408"),
        (429, b"", CallOutcome.TRANSIENT, "it answered 429"),
        (500, b"", CallOutcome.TRANSIENT, "it answered 500"),
        (503, b'{"result": "locked"}', CallOutcome.TRANSIENT, "it answered 503"),
    ],
)
def test_what_a_webhooks_answer_means(
    hook: Hook, status: int, body: bytes, outcome: CallOutcome, detail: str | None
) -> None:
    hook.status, hook.answer = status, body
    assert hook.call() == CallAnswer(outcome=outcome, detail=detail)
    assert len(hook.got) == 1


@pytest.mark.parametrize("secret", ["whsec_", "whsec_a", "not base64 at all é"])
def test_a_secret_that_signs_nothing_is_a_failure_that_does_not_show_it(hook: Hook, secret: str) -> None:
    hook.secret = secret
    answer = hook.call()
    assert answer.outcome is CallOutcome.FAILED
    assert answer.detail == "its secret is no Standard Webhooks secret: whsec_ and base64"
    assert hook.got == []


@pytest.mark.parametrize(("may_pass", "outcome"), [(True, CallOutcome.TRANSIENT), (False, CallOutcome.FAILED)])
def test_a_secret_that_cannot_be_read_is_told(authority: Authority, *, may_pass: bool, outcome: CallOutcome) -> None:
    def refuse(_arn: str) -> str:
        message = "its secret could not be read: ResourceNotFoundException"
        raise SecretUnreadableError(message, may_pass=may_pass)

    receiver = WebhookReceiver(GuardedHttps(), refuse, FakeClock(NOW))
    answer = receiver.call(LOCK, HOOK, receipt=None, seconds=5)
    assert answer == CallAnswer(outcome=outcome, detail="its secret could not be read: ResourceNotFoundException")


def test_a_webhook_that_points_inside_is_refused_with_the_reason_and_for_good(authority: Authority) -> None:
    https = GuardedHttps(resolve=lambda _host, _port: [("10.0.0.7", 443)])
    receiver = WebhookReceiver(https, lambda _arn: SECRET, FakeClock(NOW))
    assert receiver.call(LOCK, HOOK, receipt=None, seconds=5) == CallAnswer(
        outcome=CallOutcome.FAILED, detail="hooks.example.com is at 10.0.0.7, which is not a public address"
    )


def test_a_webhook_that_does_not_answer_in_time_may_be_asked_again(hook: Hook) -> None:
    hook.server.answer = lambda _exchange: None
    answer = hook.call()
    assert answer.outcome is CallOutcome.TRANSIENT
    assert (answer.detail or "").startswith("no whole answer came from hooks.example.com")


def test_one_attempt_takes_ten_seconds_at_most(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    send = GuardedHttps.send

    def watched(self: GuardedHttps, *args: Any, seconds: float, **kwargs: Any) -> Any:
        given.append(seconds)
        return send(self, *args, seconds=seconds, **kwargs)

    monkeypatch.setattr(GuardedHttps, "send", watched)
    hook.call(seconds=100)
    hook.call(seconds=3)
    assert given == [10, 3]


# --- Zilliz Cloud -----------------------------------------------------------------------------------------------

ZILLIZ = LockSettings(via=LockVia.WEBHOOK, preset=Preset.ZILLIZ_CLOUD, secret_arn=SECRET_ARN)
KEY = "zilliz-api-key"


class ZillizCloud:
    """A control plane as https://docs.zilliz.com/reference/restful describes it: errors come under 200, with a code."""

    def __init__(self, authority: Authority, status: str = "RUNNING") -> None:
        self.status = status
        self.looks_until_done = 2
        self.calls: list[str] = []
        self.slept: list[float] = []
        self.fault: Callable[[Exchange], bool] = lambda _exchange: False
        self.server = TlsServer(authority, "api.cloud.zilliz.com", self._answer)
        self.receiver = ZillizCloudReceiver(
            https_to(self.server, authority), lambda _arn: KEY, every_seconds=0.01, sleep=self.slept.append
        )

    def _answer(self, exchange: Exchange) -> None:
        exchange.body()
        self.calls.append(f"{exchange.command} {exchange.path}")
        if self.fault(exchange):
            return
        if exchange.headers["authorization"] != f"Bearer {KEY}":
            self._say(exchange, {"code": 21119, "message": "The apikey is illegal."})
        elif not exchange.path.startswith("/v2/clusters/in01-3f5a"):
            self._say(exchange, {"code": 40021, "message": "The cluster does not exist."})
        elif exchange.command == "GET":
            self._say(exchange, {"code": 0, "data": {"clusterId": "in01-3f5a", "status": self._look()}})
        else:
            self._change(exchange, exchange.path.rpartition("/")[2])

    def _look(self) -> str:
        if self.status in {"STOPPING", "RESUMING"}:
            self.looks_until_done -= 1
            if self.looks_until_done <= 0:
                self.status = {"STOPPING": "STOPPED", "RESUMING": "RUNNING"}[self.status]
        return self.status

    def _change(self, exchange: Exchange, verb: str) -> None:
        needed, after = {"suspend": ("RUNNING", "STOPPING"), "resume": ("STOPPED", "RESUMING")}[verb]
        if self.status != needed:
            self._say(exchange, {"code": 40022, "message": f"The cluster is {self.status}."})
            return
        self.status = after
        self._say(exchange, {"code": 0, "data": {"clusterId": "in01-3f5a", "prompt": "Successfully Submitted."}})

    def _say(self, exchange: Exchange, document: dict[str, Any]) -> None:
        exchange.reply(200, json.dumps(document).encode())

    def call(self, request: LockRequest = LOCK, *, receipt: str | None = None, seconds: float = 5) -> CallAnswer:
        return self.receiver.call(request, ZILLIZ, receipt=receipt, seconds=seconds)


@pytest.fixture
def zilliz(authority: Authority) -> Iterator[ZillizCloud]:
    made = ZillizCloud(authority)
    with made.server:
        yield made


def test_a_cluster_is_locked_by_suspending_it_and_locked_when_it_has_stopped(zilliz: ZillizCloud) -> None:
    assert zilliz.call() == CallAnswer(outcome=CallOutcome.DONE, detail="the cluster is STOPPED")
    assert zilliz.calls == [
        "GET /v2/clusters/in01-3f5a",
        "POST /v2/clusters/in01-3f5a/suspend",
        "GET /v2/clusters/in01-3f5a",
        "GET /v2/clusters/in01-3f5a",
    ]
    assert zilliz.slept == [0.01, 0.01]
    assert zilliz.server.names_asked_for == ["api.cloud.zilliz.com"] * 4


def test_a_cluster_is_unlocked_by_resuming_it_and_unlocked_when_it_runs(zilliz: ZillizCloud) -> None:
    zilliz.status = "STOPPED"
    assert zilliz.call(UNLOCK) == CallAnswer(outcome=CallOutcome.DONE, detail="the cluster is RUNNING")
    assert zilliz.calls[1] == "POST /v2/clusters/in01-3f5a/resume"


@pytest.mark.parametrize(("request_", "status"), [(LOCK, "STOPPED"), (LOCK, "SUSPENDED"), (UNLOCK, "RUNNING")], ids=str)
def test_a_cluster_that_is_already_as_it_should_be_is_left_alone(
    zilliz: ZillizCloud, request_: LockRequest, status: str
) -> None:
    zilliz.status = status
    assert zilliz.call(request_).outcome is CallOutcome.DONE
    assert zilliz.calls == ["GET /v2/clusters/in01-3f5a"]


def test_a_cluster_that_is_stopping_already_is_waited_for(zilliz: ZillizCloud) -> None:
    zilliz.status = "STOPPING"
    assert zilliz.call().outcome is CallOutcome.DONE
    assert not any(call.startswith("POST") for call in zilliz.calls)


def test_a_cluster_that_is_resuming_is_suspended_when_it_runs(zilliz: ZillizCloud) -> None:
    zilliz.status = "RESUMING"
    zilliz.looks_until_done = 1
    assert zilliz.call().outcome is CallOutcome.DONE
    assert zilliz.calls.count("POST /v2/clusters/in01-3f5a/suspend") == 1


def test_a_cluster_that_takes_long_is_asked_after_later_and_suspended_only_once(zilliz: ZillizCloud) -> None:
    zilliz.looks_until_done = 100
    answer = zilliz.call(seconds=1.2)
    assert answer == CallAnswer(outcome=CallOutcome.ACCEPTED, detail=answer.detail)
    zilliz.looks_until_done = 1
    assert zilliz.call(receipt="accepted").outcome is CallOutcome.DONE
    assert zilliz.calls.count("POST /v2/clusters/in01-3f5a/suspend") == 1


def test_a_refusal_to_who_asks_second_is_none_if_the_first_is_being_served(zilliz: ZillizCloud) -> None:
    def served_the_other_one(exchange: Exchange) -> bool:
        if exchange.command == "POST":
            zilliz.status = "STOPPING"
        return False

    zilliz.fault = served_the_other_one
    assert zilliz.call().outcome is CallOutcome.DONE


@pytest.mark.parametrize(("receipt", "outcome"), [(None, CallOutcome.FAILED), ("accepted", CallOutcome.TRANSIENT)])
def test_a_refusal_is_final_unless_the_request_was_accepted_before(
    zilliz: ZillizCloud, receipt: str | None, outcome: CallOutcome
) -> None:
    def refuse(exchange: Exchange) -> bool:
        if exchange.command == "POST":
            zilliz._say(exchange, {"code": 40022, "message": "Not now."})
        return exchange.command == "POST"

    zilliz.fault = refuse
    answer = zilliz.call(receipt=receipt)
    assert answer == CallAnswer(outcome=outcome, detail="it refused with code 40022: Not now.")


@pytest.mark.parametrize("status", ["DELETED", "DELETING", "ABNORMAL", "FROZEN"])
def test_a_cluster_that_can_be_neither_is_a_failure_that_says_so(zilliz: ZillizCloud, status: str) -> None:
    zilliz.status = status
    assert zilliz.call() == CallAnswer(
        outcome=CallOutcome.FAILED, detail=f"the cluster is {status}, so it was not suspended"
    )


def test_a_refusal_under_200_is_a_failure_with_its_code_and_words(zilliz: ZillizCloud) -> None:
    zilliz.receiver._read_secret = lambda _arn: "wrong"
    answer = zilliz.call()
    assert answer == CallAnswer(outcome=CallOutcome.FAILED, detail="it refused with code 21119: The apikey is illegal.")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(429, CallOutcome.TRANSIENT), (503, CallOutcome.TRANSIENT), (401, CallOutcome.FAILED), (302, CallOutcome.FAILED)],
)
def test_what_an_http_error_of_zilliz_cloud_means(zilliz: ZillizCloud, status: int, outcome: CallOutcome) -> None:
    def fail(exchange: Exchange) -> bool:
        exchange.reply(status)
        return True

    zilliz.fault = fail
    assert zilliz.call().outcome is outcome


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"null"])
def test_an_answer_that_is_none_may_be_one_later(zilliz: ZillizCloud, body: bytes) -> None:
    def babble(exchange: Exchange) -> bool:
        exchange.reply(200, body)
        return True

    zilliz.fault = babble
    assert zilliz.call().outcome is CallOutcome.TRANSIENT


def test_the_api_key_goes_to_zilliz_clouds_own_host_only(authority: Authority) -> None:
    looked_up: list[str] = []

    def look_up(host: str, _port: int) -> list[Any]:
        looked_up.append(host)
        return [("10.0.0.1", 443)]

    receiver = ZillizCloudReceiver(GuardedHttps(resolve=look_up), lambda _arn: KEY)
    answer = receiver.call(LOCK, ZILLIZ, receipt=None, seconds=5)
    assert looked_up == ["api.cloud.zilliz.com"]
    assert answer.outcome is CallOutcome.FAILED
    china = LockSettings(
        via=LockVia.WEBHOOK,
        preset=Preset.ZILLIZ_CLOUD,
        secret_arn=SECRET_ARN,
        url="https://api.cloud.zilliz.com.cn",
    )
    receiver.call(LOCK, china, receipt=None, seconds=5)
    assert looked_up[1:] == ["api.cloud.zilliz.com.cn"]


def test_an_api_key_that_is_no_header_is_not_quoted(zilliz: ZillizCloud) -> None:
    for key in ("two\nlines", "не латиница"):
        zilliz.receiver._read_secret = lambda _arn, key=key: key  # type: ignore[misc]  # a plain function takes one
        answer = zilliz.call()
        assert answer.outcome is CallOutcome.FAILED
        assert answer.detail == "the request has characters in its headers that HTTP does not allow"
    assert zilliz.calls == []


def test_no_receiver_over_https_writes_to_a_log() -> None:
    folder = Path(webhook_receiver.__file__).parent
    for name in ("webhook_receiver", "zilliz_cloud", "guarded_https", "secret_reader", "function_receiver"):
        source = (folder / f"{name}.py").read_text()
        assert "logg" not in source
        assert "print(" not in source
