"""Step Functions."""

import json
from functools import cached_property
from typing import TYPE_CHECKING, override

from botocore.exceptions import BotoCoreError, ClientError

from keyvigil.adapters.aws import config, session
from keyvigil.domain.alerts import WorkflowStart
from keyvigil.domain.incidents import WorkflowKind
from keyvigil.errors import DeliveryError
from keyvigil.ports import ExecutionAtWork, ExecutionState, Workflow

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

_LISTED = 1000
_NOBODY_WAITS = {"TaskDoesNotExist", "TaskTimedOut", "InvalidToken"}


def _code(error: ClientError | BotoCoreError) -> str:
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__


class StepFunctionsWorkflow(Workflow):
    """The lockout and recovery state machines."""

    def __init__(self, lockout_arn: str | None, recovery_arn: str | None) -> None:
        """Keep the ARNs that this function needs; nothing is called yet."""
        self._arns = {WorkflowKind.LOCKOUT: lockout_arn, WorkflowKind.RECOVERY: recovery_arn}

    @cached_property
    def _client(self) -> "SFNClient":
        return session().client("stepfunctions", config=config())

    def _arn(self, kind: WorkflowKind) -> str:
        arn = self._arns[kind]
        if arn is None:
            message = f"this function was not told the ARN of the {kind} state machine"
            raise ValueError(message)
        return arn

    @override
    def start(self, start: WorkflowStart) -> None:
        document = {
            "project_id": start.project_id,
            "key_id": start.key_id,
            "incident_id": start.incident_id,
        }
        try:
            self._client.start_execution(
                stateMachineArn=self._arn(start.workflow), name=start.name, input=json.dumps(document)
            )
        except (ClientError, BotoCoreError) as error:
            # The name says which start this is, so one of that name is this one.
            if _code(error) == "ExecutionAlreadyExists":
                return
            message = f"Step Functions did not start {start.name}: {_code(error)}"
            raise DeliveryError(message, unreachable=isinstance(error, BotoCoreError)) from error

    @override
    def execution_arn(self, name: str) -> str:
        kind = WorkflowKind(name.rsplit("-", 2)[1])
        return f"{self._arn(kind).replace(':stateMachine:', ':execution:')}:{name}"

    @override
    def state(self, name: str) -> ExecutionState:
        try:
            answer = self._client.describe_execution(executionArn=self.execution_arn(name))
        except (ClientError, BotoCoreError) as error:
            if _code(error) == "ExecutionDoesNotExist":
                return ExecutionState.NOT_STARTED
            message = f"Step Functions did not describe {name}: {_code(error)}"
            raise DeliveryError(message) from error
        return ExecutionState.RUNNING if answer["status"] == "RUNNING" else ExecutionState.ENDED

    @override
    def at_work(self) -> list[ExecutionAtWork]:
        found: list[ExecutionAtWork] = []
        for kind in WorkflowKind:
            try:
                # One page, newest first: https://docs.aws.amazon.com/step-functions/latest/apireference/API_ListExecutions.html
                answer = self._client.list_executions(
                    stateMachineArn=self._arn(kind), statusFilter="RUNNING", maxResults=_LISTED
                )
            except (ClientError, BotoCoreError) as error:
                message = f"Step Functions did not list what is running: {_code(error)}"
                raise DeliveryError(message) from error
            found += [ExecutionAtWork(each["name"]) for each in answer["executions"]]
        # Somebody may have started one by hand, under a name that says nothing.
        kinds = {str(kind) for kind in WorkflowKind}
        return [each for each in found if each.name.count("-") > 1 and each.name.rsplit("-", 2)[1] in kinds]

    @override
    def project_of(self, name: str) -> str | None:
        try:
            answer = self._client.describe_execution(executionArn=self.execution_arn(name))
        except (ClientError, BotoCoreError) as error:
            if _code(error) == "ExecutionDoesNotExist":
                return None
            message = f"Step Functions did not describe {name}: {_code(error)}"
            raise DeliveryError(message) from error
        try:
            given = json.loads(answer.get("input", ""))
            return str(given["project_id"]) if given["incident_id"] == name.rsplit("-", 2)[0] else None
        except (ValueError, LookupError, TypeError):
            return None

    @override
    def stop(self, name: str, reason: str) -> None:
        try:
            self._client.stop_execution(executionArn=self.execution_arn(name), error="Orphaned", cause=reason)
        except (ClientError, BotoCoreError) as error:
            if _code(error) == "ExecutionDoesNotExist":
                return
            message = f"Step Functions did not stop {name}: {_code(error)}"
            raise DeliveryError(message) from error

    @override
    def complete(self, task_token: str, result: str, detail: str | None) -> None:
        try:
            self._client.send_task_success(
                taskToken=task_token, output=json.dumps({"result": result, "detail": detail})
            )
        except (ClientError, BotoCoreError) as error:
            if _code(error) in _NOBODY_WAITS:
                return
            message = f"Step Functions did not take the answer: {_code(error)}"
            raise DeliveryError(message) from error
