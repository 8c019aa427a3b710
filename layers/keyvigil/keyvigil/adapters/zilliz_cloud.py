"""Zilliz Cloud: a cluster is locked by suspending it, and unlocked by resuming it.

Its public REST API, by which a Dedicated cluster (BYOC ones too) is suspended and resumed and tells its status:

- https://docs.zilliz.com/reference/restful/suspend-cluster-v2, `POST /v2/clusters/{CLUSTER_ID}/suspend`
- https://docs.zilliz.com/reference/restful/resume-cluster-v2, `POST /v2/clusters/{CLUSTER_ID}/resume`
- https://docs.zilliz.com/reference/restful/describe-cluster-v2, `GET /v2/clusters/{CLUSTER_ID}`

An error is a `code` other than 0 or 200 in the body, also under HTTP 200. The status of a suspended cluster is STOPPED,
which the description of the API leaves out and Zilliz's own Terraform provider calls SUSPENDED; both are taken.
The API knows no fences: what orders its requests is that each is made only while it is the newest and in time.
"""

import json
import time
from collections.abc import Callable
from typing import Any, override

from keyvigil.adapters.guarded_https import GuardedHttps, HttpsFailedError, HttpsRefusedError
from keyvigil.adapters.secret_reader import SecretUnreadableError
from keyvigil.adapters.webhook_receiver import ATTEMPT_SECONDS, USER_AGENT, ReadSecret, refused, trouble
from keyvigil.domain.alerts import LockRequest
from keyvigil.domain.clusters import LockAction, LockSettings
from keyvigil.domain.lock_calls import LEAST_SECONDS, CallAnswer, CallOutcome, clean
from keyvigil.domain.lock_settings import ZILLIZ_CLOUD_URLS
from keyvigil.ports import LockReceiver

LOOK_SECONDS = 50.0
"""How long one call watches the cluster, in seconds; after that the sweep has it looked at once a minute."""

_EVERY_SECONDS = 5.0
_SUSPENDED = frozenset({"STOPPED", "SUSPENDED"})
_RUNNING = frozenset({"RUNNING"})
_GONE = frozenset({"DELETING", "DELETED", "ABNORMAL", "FROZEN"})
_SUCCESS_CODES = frozenset({0, 200})


class _RefusedError(Exception):
    """The API did not do it; the answer says why."""

    def __init__(self, answer: CallAnswer) -> None:
        super().__init__(answer.detail)
        self.answer = answer


class ZillizCloudReceiver(LockReceiver):
    """Suspends and resumes; a cluster that is already as it should be counts as done."""

    def __init__(
        self,
        https: GuardedHttps,
        read_secret: ReadSecret,
        *,
        every_seconds: float = _EVERY_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Keep how to connect and how to read the API key; nothing is called yet."""
        self._https = https
        self._read_secret = read_secret
        self._every = every_seconds
        self._sleep = sleep

    @override
    def call(self, request: LockRequest, lock: LockSettings, *, receipt: str | None, seconds: float) -> CallAnswer:
        url = f"{lock.url or ZILLIZ_CLOUD_URLS[0]}/v2/clusters/{request.cluster_id}"
        try:
            key = self._read_secret(lock.secret_arn or "")
            until = time.monotonic() + min(seconds, LOOK_SECONDS)
            return self._bring(request.action, url, key, until, again=receipt is not None)
        except (HttpsRefusedError, HttpsFailedError, SecretUnreadableError) as error:
            return trouble(error)
        except _RefusedError as error:
            return error.answer

    def _bring(self, action: LockAction, url: str, key: str, until: float, *, again: bool) -> CallAnswer:
        """Ask for it if the cluster is in the other state, and watch until it is done or the time is over.

        `again`: it was accepted before, so a refusal may only mean that it is being done.
        """
        lock = action is LockAction.LOCK
        there, elsewhere = (_SUSPENDED, _RUNNING) if lock else (_RUNNING, _SUSPENDED)
        asked = False
        while True:
            status = self._status(url, key, until)
            if status in there:
                return CallAnswer(outcome=CallOutcome.DONE, detail=f"the cluster is {clean(status, 40)}")
            if status in _GONE:
                reason = f"the cluster is {status}, so it was not {'suspended' if lock else 'resumed'}"
                return CallAnswer(outcome=CallOutcome.FAILED, detail=reason)
            if status in elsewhere and not asked:
                asked = True
                refusal = self._change(f"{url}/{'suspend' if lock else 'resume'}", key, until)
                if refusal is not None and self._status(url, key, until) == status:
                    return CallAnswer(outcome=CallOutcome.TRANSIENT, detail=refusal.detail) if again else refusal
            if until - time.monotonic() < self._every + LEAST_SECONDS:
                return CallAnswer(outcome=CallOutcome.ACCEPTED, detail=f"the cluster is {clean(status, 40)}")
            self._sleep(self._every)

    def _status(self, url: str, key: str, until: float) -> str:
        return str(self._ask("GET", url, key, until).get("status", "without a status"))

    def _change(self, url: str, key: str, until: float) -> CallAnswer | None:
        """Ask for the change; the refusal if it is refused. Another call for the same request may have been faster."""
        try:
            self._ask("POST", url, key, until)
        except _RefusedError as error:
            return error.answer
        return None

    def _ask(self, method: str, url: str, key: str, until: float) -> dict[str, Any]:
        """One call of the API; return its `data`."""
        headers = {"authorization": f"Bearer {key}", "accept": "application/json", "user-agent": USER_AGENT}
        seconds = min(until - time.monotonic(), ATTEMPT_SECONDS)
        body = b"" if method == "POST" else None
        answer = self._https.send(method, url, headers=headers, body=body, seconds=seconds)
        refusal = refused(answer)
        if refusal is not None:
            raise _RefusedError(refusal)
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise _RefusedError(CallAnswer(outcome=CallOutcome.TRANSIENT, detail="it answered without JSON"))
        code = document.get("code")
        if code not in _SUCCESS_CODES:
            reason = clean(f"it refused with code {code}: {document.get('message')}")
            raise _RefusedError(CallAnswer(outcome=CallOutcome.FAILED, detail=reason))
        data = document.get("data")
        return data if isinstance(data, dict) else {}
