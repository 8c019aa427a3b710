"""Other functions of the stack, invoked: `check_keys`, `relay_outbox` and `call_receiver`."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import batched
from typing import TYPE_CHECKING, Any, override

from botocore.exceptions import BotoCoreError, ClientError

from keyvigil.adapters.aws import config, session
from keyvigil.adapters.plain_data import from_plain, to_plain
from keyvigil.domain.keys import Registration, Trigger
from keyvigil.errors import CheckerUnavailableError, DeliveryError, NotFoundError
from keyvigil.ports import KeyChecker, OutboxRelay, ReceiverCalls, RegistrationAnswer, RestoreAnswer, ValidationAnswer

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

CHECK_TIMEOUT_SECONDS = 25
"""HTTP API integrations end after 30 seconds, and the answer needs time on its way."""


def _code(error: ClientError | BotoCoreError) -> str:
    """What Lambda called it (AccessDeniedException, TooManyRequestsException), or botocore if Lambda did not answer."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__


class InvokedKeyChecker(KeyChecker):
    """`check_keys`, invoked and waited for."""

    def __init__(self, function_name: str) -> None:
        """Name the function; nothing is called yet."""
        self._name = function_name

    @cached_property
    def _lambda(self) -> "LambdaClient":
        # No retry: a second probe would not fit into the API's 30 seconds.
        settings = config(read_timeout=CHECK_TIMEOUT_SECONDS, attempts=1)
        return session().client("lambda", config=settings)

    @override
    def check(self, project_id: str, key_id: str, trigger: Trigger) -> None:
        answer = self._invoke({"action": "check", "project_id": project_id, "key_id": key_id, "trigger": trigger})
        if answer.get("error") == "not_found":
            raise NotFoundError(str(answer.get("message")))
        if answer.get("error") == "deferred":
            raise CheckerUnavailableError(str(answer.get("message")))

    @override
    def probe_registration(self, registration: Registration) -> RegistrationAnswer:
        answer = self._invoke({"action": "probe_registration", "registration": to_plain(registration)})
        return from_plain(answer, RegistrationAnswer)

    @override
    def validate_key(self, registration: Registration) -> ValidationAnswer:
        answer = self._invoke({"action": "validate_key", "registration": to_plain(registration)})
        return from_plain(answer, ValidationAnswer)

    @override
    def check_restore(self, project_id: str, key_id: str, region: str) -> RestoreAnswer:
        answer = self._invoke({"action": "check_restore", "project_id": project_id, "key_id": key_id, "region": region})
        if answer.get("error") == "not_found":
            raise NotFoundError(str(answer.get("message")))
        return from_plain(answer, RestoreAnswer)

    def _invoke(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer = self._lambda.invoke(FunctionName=self._name, Payload=json.dumps(payload).encode())
            document = answer["Payload"].read()
        except (ClientError, BotoCoreError) as error:
            message = f"check_keys could not be asked: {_code(error)}"
            raise CheckerUnavailableError(message) from error
        if answer.get("FunctionError"):
            message = "check_keys failed"
            raise CheckerUnavailableError(message)
        return dict(json.loads(document))


class InvokedOutboxRelay(OutboxRelay):
    """`relay_outbox`, asked to send rows again and not waited for."""

    _BATCH = 25

    def __init__(self, function_name: str) -> None:
        """Name the function; nothing is called yet."""
        self._name = function_name

    @cached_property
    def _lambda(self) -> "LambdaClient":
        return session().client("lambda", config=config())

    @override
    def resend(self, row_ids: Sequence[str]) -> None:
        for batch in batched(row_ids, self._BATCH, strict=False):
            try:
                self._lambda.invoke(
                    FunctionName=self._name,
                    InvocationType="Event",
                    Payload=json.dumps({"resend": list(batch)}).encode(),
                )
            except (ClientError, BotoCoreError) as error:
                message = f"relay_outbox could not be asked: {_code(error)}"
                raise DeliveryError(message) from error


class InvokedReceiverCalls(ReceiverCalls):
    """`call_receiver`, invoked for each request by itself and not waited for: one that hangs holds up nothing else."""

    def __init__(self, function_name: str) -> None:
        """Name the function; nothing is called yet."""
        self._name = function_name

    @cached_property
    def _lambda(self) -> "LambdaClient":
        return session().client("lambda", config=config())

    @override
    def ask(self, project_id: str, cluster_id: str, fence: int) -> None:
        payload = {"project_id": project_id, "cluster_id": cluster_id, "fence": fence}
        try:
            self._lambda.invoke(FunctionName=self._name, InvocationType="Event", Payload=json.dumps(payload).encode())
        except ClientError as error:
            message = f"call_receiver could not be asked: {error.response.get('Error', {}).get('Code')}"
            raise DeliveryError(message) from error
        except BotoCoreError as error:
            message = f"call_receiver could not be asked: {type(error).__name__}"
            raise DeliveryError(message, unreachable=True) from error
