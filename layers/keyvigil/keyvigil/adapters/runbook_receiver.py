"""An SSM Automation runbook of the operator's, started with the request as its parameters and asked how it ended.

Source: https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_StartAutomationExecution.html
"""

import time
import uuid
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, override

from botocore.exceptions import BotoCoreError, ClientError

from keyvigil.adapters.aws import config, session
from keyvigil.adapters.aws_errors import error_name, may_pass
from keyvigil.domain.alerts import LockRequest
from keyvigil.domain.clusters import LockSettings
from keyvigil.domain.lock_calls import LEAST_SECONDS, CallAnswer, CallOutcome, clean
from keyvigil.domain.lock_settings import RUNBOOK_PARAMETERS
from keyvigil.ports import LockReceiver

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

LOOK_SECONDS = 50.0
"""How long one call watches the runbook, in seconds; after that the sweep has it looked at once a minute."""

_EVERY_SECONDS = 5.0
_NAMESPACE = uuid.UUID("7a1c1c55-3f0e-4d63-9a52-6c1d0f7c6f3b")
# Source: https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_AutomationExecution.html, its statuses
_SUCCEEDED = frozenset({"Success", "CompletedWithSuccess"})
_FAILED = frozenset(
    {
        "TimedOut",
        "Cancelled",
        "Failed",
        "Rejected",
        "ChangeCalendarOverrideRejected",
        "CompletedWithFailure",
        "Exited",
    }
)
_HINTS = {
    "AutomationDefinitionNotFoundException": " (there is no such runbook in this account and Region)",
    "InvalidAutomationExecutionParametersException": f" (it must declare {', '.join(RUNBOOK_PARAMETERS)})",
    "AccessDeniedException": " (the role that it names must be called KeyVigilLock-…)",
}


class RunbookReceiver(LockReceiver):
    """Starts the runbook once for each fence, and waits for its end."""

    def __init__(self, *, every_seconds: float = _EVERY_SECONDS, sleep: Callable[[float], None] = time.sleep) -> None:
        """Keep how often to look; nothing is called yet."""
        self._every = every_seconds
        self._sleep = sleep

    @cached_property
    def _client(self) -> "SSMClient":
        return session().client("ssm", config=config())

    @override
    def call(self, request: LockRequest, lock: LockSettings, *, receipt: str | None, seconds: float) -> CallAnswer:
        until = time.monotonic() + min(seconds, LOOK_SECONDS)
        if receipt is None:
            try:
                receipt = self._start(request, lock)
            except (ClientError, BotoCoreError) as error:
                name = error_name(error)
                outcome = CallOutcome.TRANSIENT if may_pass(error) else CallOutcome.FAILED
                return CallAnswer(outcome=outcome, detail=f"it could not be started: {name}{_HINTS.get(name, '')}")
        return self._watch(receipt, until)

    def _start(self, request: LockRequest, lock: LockSettings) -> str:
        """Start it. The token is made of the fence, so that starting it again for the same request starts nothing.

        Source: as above, ClientToken, and IdempotentParameterMismatch, which only other parameters get.
        """
        given = (
            str(request.action),
            request.project_id,
            request.cluster_id,
            request.incident_id,
            str(request.fence),
        )
        parameters = {name: list(values) for name, values in (lock.parameters or {}).items()}
        parameters |= {name: [value] for name, value in zip(RUNBOOK_PARAMETERS, given, strict=True)}
        token = uuid.uuid5(_NAMESPACE, f"{request.project_id}/{request.cluster_id}/{request.fence}")
        answer = self._client.start_automation_execution(
            DocumentName=lock.document_name or "", Parameters=parameters, ClientToken=str(token)
        )
        return answer["AutomationExecutionId"]

    def _watch(self, execution_id: str, until: float) -> CallAnswer:
        while True:
            status, reason = self._look(execution_id)
            if status in _SUCCEEDED:
                return CallAnswer(outcome=CallOutcome.DONE, detail=f"runbook execution {execution_id}")
            if status in _FAILED:
                detail = clean(f"runbook execution {execution_id} ended {status}: {reason or 'no reason given'}")
                return CallAnswer(outcome=CallOutcome.FAILED, detail=detail)
            if until - time.monotonic() < self._every + LEAST_SECONDS:
                detail = f"runbook execution {execution_id}"
                return CallAnswer(outcome=CallOutcome.ACCEPTED, detail=detail, receipt=execution_id)
            self._sleep(self._every)

    def _look(self, execution_id: str) -> tuple[str, str]:
        """Its status and why it failed. What cannot be looked at now is looked at again: it was started."""
        try:
            answer = self._client.get_automation_execution(AutomationExecutionId=execution_id)
        except (ClientError, BotoCoreError):
            return "unknown", ""
        execution = answer["AutomationExecution"]
        return execution.get("AutomationExecutionStatus", "unknown"), execution.get("FailureMessage", "")
