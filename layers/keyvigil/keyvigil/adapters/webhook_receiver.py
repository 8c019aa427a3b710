"""A tenant's webhook, signed as Standard Webhooks define."""

import binascii
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import override

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from keyvigil.adapters.guarded_https import GuardedHttps, HttpsAnswer, HttpsFailedError, HttpsRefusedError
from keyvigil.adapters.plain_data import lock_request_detail
from keyvigil.adapters.secret_reader import SecretUnreadableError
from keyvigil.domain.alerts import LockRequest
from keyvigil.domain.clusters import LockSettings
from keyvigil.domain.lock_calls import CallAnswer, CallOutcome, clean, read_answer
from keyvigil.ports import Clock, LockReceiver

ATTEMPT_SECONDS = 10.0
"""How long one attempt may take, from looking the name up to the answer's last byte."""

USER_AGENT = "KeyVigil/1"

# Somebody who answers so may answer otherwise a little later.
_BUSY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}

type ReadSecret = Callable[[str], str]


class WebhookReceiver(LockReceiver):
    """Posts the request; 2xx with `{"result": …}` answers it, 202 means that lock-result will."""

    def __init__(self, https: GuardedHttps, read_secret: ReadSecret, clock: Clock) -> None:
        """Keep how to connect and how to read a secret; nothing is called yet."""
        self._https = https
        self._read_secret = read_secret
        self._clock = clock

    @override
    def call(self, request: LockRequest, lock: LockSettings, *, receipt: str | None, seconds: float) -> CallAnswer:
        body = json.dumps(lock_request_detail(request), separators=(",", ":"))
        try:
            headers = self._signed(request, body, self._read_secret(lock.secret_arn or ""))
            answer = self._https.send(
                "POST", lock.url or "", headers=headers, body=body.encode(), seconds=min(seconds, ATTEMPT_SECONDS)
            )
        except (HttpsRefusedError, HttpsFailedError, SecretUnreadableError) as error:
            return trouble(error)
        if answer.status == HTTPStatus.ACCEPTED:
            return CallAnswer(outcome=CallOutcome.ACCEPTED)
        refusal = refused(answer)
        if refusal is not None:
            return refusal
        try:
            return read_answer(json.loads(answer.body), request.action)
        except (ValueError, RecursionError):  # no UTF-8, no JSON, endless nesting
            return CallAnswer(outcome=CallOutcome.FAILED, detail=f"it answered {answer.status} without JSON")

    def _signed(self, request: LockRequest, body: str, secret: str) -> dict[str, str]:
        """The headers that prove who sent it. The id is the same for every attempt, as the specification wants it.

        A secret may hold several, with blanks between them: while a receiver changes from one to the next, each signs.

        Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
        """
        now = self._clock.now()
        message_id = f"lock_{request.project_id}_{request.cluster_id}_{request.fence}"
        try:
            signatures = [Webhook(each).sign(message_id, now, body) for each in secret.split()]
        except (EmptyWebhookSecretError, binascii.Error, ValueError) as error:
            message = "its secret is no Standard Webhooks secret: whsec_ and base64"
            raise SecretUnreadableError(message) from error
        return {
            "content-type": "application/json",
            "accept": "application/json",
            "user-agent": USER_AGENT,
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }


def trouble(error: HttpsRefusedError | HttpsFailedError | SecretUnreadableError) -> CallAnswer:
    """What it means that no answer came."""
    again = isinstance(error, HttpsFailedError) or (isinstance(error, SecretUnreadableError) and error.may_pass)
    return CallAnswer(outcome=CallOutcome.TRANSIENT if again else CallOutcome.FAILED, detail=clean(str(error)))


def refused(answer: HttpsAnswer) -> CallAnswer | None:
    """What a status other than 2xx means; None for those."""
    status = answer.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return None
    if status < HTTPStatus.OK or HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return CallAnswer(outcome=CallOutcome.FAILED, detail=f"it answered {status}; redirects are not followed")
    again = status in _BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return CallAnswer(outcome=CallOutcome.TRANSIENT if again else CallOutcome.FAILED, detail=f"it answered {status}")
