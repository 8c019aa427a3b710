"""A tenant's Lambda function, in this account or another: there its resource policy must let KeyVigil's role in."""

import json
from typing import TYPE_CHECKING, override

from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError

from keyvigil.adapters.aws import config, session
from keyvigil.adapters.aws_errors import error_name, may_pass
from keyvigil.adapters.plain_data import lock_request_detail
from keyvigil.domain.alerts import LockRequest
from keyvigil.domain.clusters import LockSettings
from keyvigil.domain.lock_calls import CallAnswer, CallOutcome, clean, read_answer
from keyvigil.domain.lock_settings import function_region
from keyvigil.ports import LockReceiver

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

LARGEST_ANSWER = 64 * 1024
_TIMEOUTS = (60.0, 30.0, 15.0, 8.0, 4.0, 2.0, 1.0)
"""Read time-outs, in seconds: a client has one, so the longest that fits is taken and there are only so many clients.
A function that needs longer than the longest answers by lock-result."""

_CONNECT_SECONDS = 2.0
_HINTS = {
    "AccessDeniedException": " (its resource policy and this stack's IAM must both allow lambda:InvokeFunction)",
    "ResourceNotFoundException": " (there is no such function, version or alias)",
}


class FunctionReceiver(LockReceiver):
    """Invokes the function and waits for what it returns, `{"result": …, "detail": …}`."""

    def __init__(self) -> None:
        """Nothing is called yet."""
        self._clients: dict[tuple[str, float], LambdaClient] = {}

    def _client(self, region: str, read_timeout: float) -> "LambdaClient":
        if (region, read_timeout) not in self._clients:
            # One attempt: whether and when to try again is decided in one place, which knows the lock's time-out.
            settings = config(read_timeout=read_timeout, attempts=1)
            self._clients[region, read_timeout] = session().client("lambda", region_name=region, config=settings)
        return self._clients[region, read_timeout]

    @override
    def call(self, request: LockRequest, lock: LockSettings, *, receipt: str | None, seconds: float) -> CallAnswer:
        function_arn = lock.function_arn or ""
        timeout = next((each for each in _TIMEOUTS if each + _CONNECT_SECONDS <= seconds), _TIMEOUTS[-1])
        client = self._client(function_region(function_arn), timeout)
        try:
            answer = client.invoke(FunctionName=function_arn, Payload=json.dumps(lock_request_detail(request)).encode())
            document = answer["Payload"].read(LARGEST_ANSWER + 1)
        except ReadTimeoutError:
            # It may be at work and would be again: whatever it does, it can still say so.
            detail = f"no answer within {timeout:.0f} s; it can still answer by lock-result"
            return CallAnswer(outcome=CallOutcome.ACCEPTED, detail=detail)
        except (ClientError, BotoCoreError) as error:
            name = error_name(error)
            outcome = CallOutcome.TRANSIENT if may_pass(error) else CallOutcome.FAILED
            return CallAnswer(outcome=outcome, detail=f"it could not be invoked: {name}{_HINTS.get(name, '')}")
        if len(document) > LARGEST_ANSWER:
            return CallAnswer(outcome=CallOutcome.FAILED, detail=f"it answered more than {LARGEST_ANSWER // 1024} KB")
        if answer.get("FunctionError"):
            return CallAnswer(outcome=CallOutcome.TRANSIENT, detail=f"it raised {_raised(document)}")
        try:
            return read_answer(json.loads(document), request.action)
        except (ValueError, RecursionError):
            return CallAnswer(outcome=CallOutcome.FAILED, detail="its answer is not JSON")


def _raised(document: bytes) -> str:
    """The type of what a function raised. Its message stays where it is: it may quote anything."""
    try:
        said = json.loads(document)
    except (ValueError, RecursionError):
        return "an error"
    kind = said.get("errorType") if isinstance(said, dict) else None
    return clean(kind, 100) if isinstance(kind, str) and kind else "an error"
