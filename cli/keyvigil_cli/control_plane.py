"""A control plane as an operator would write one: it locks and unlocks clusters when KeyVigil asks for it."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

from keyvigil_cli.api_client import ApiClient, ApiProblemError, ApiUnreachableError
from keyvigil_cli.errors import CliError

if TYPE_CHECKING:
    import boto3

LOCK = "Cluster Lock Requested"
UNLOCK = "Cluster Unlock Requested"

# A request that could not be answered comes again after this time.
_VISIBILITY_SECONDS = 5
_POLL_SECONDS = 1
_END_SECONDS = 15.0


class ControlPlaneError(CliError):
    """The control plane stopped: what it was asked for since then was not done."""


@dataclass(frozen=True)
class LockRequest:
    """One request to lock or unlock one cluster."""

    project_id: str
    cluster_id: str
    incident_id: str
    fence: int
    lock: bool
    reason: str

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> Self:
        """Read the event that the alert bus carries."""
        detail = event["detail"]
        return cls(
            project_id=detail["project_id"],
            cluster_id=detail["cluster_id"],
            incident_id=detail["incident_id"],
            fence=int(detail["fence"]),
            lock=event["detail-type"] == LOCK,
            reason=str(detail.get("reason", "")),
        )


class Fenced(Enum):
    """What a fence says about a request."""

    NEWER = "newer than all before: to be carried out"
    REPEATED = "the newest, seen before: to be answered again, not carried out again"
    OLDER = "older than one seen before: to be refused"


class FenceMemory:
    """The highest fence seen of each cluster. A real control plane keeps it with the cluster, durably."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._highest: dict[tuple[str, str], int] = {}

    def judge(self, request: LockRequest) -> Fenced:
        """Say what the request's fence means, and remember it if it is the highest."""
        cluster = (request.project_id, request.cluster_id)
        highest = self._highest.get(cluster)
        if highest is not None and request.fence < highest:
            return Fenced.OLDER
        if request.fence == highest:
            return Fenced.REPEATED
        self._highest[cluster] = request.fence
        return Fenced.NEWER


type Answer = Callable[[LockRequest], str | None]


def obedient(request: LockRequest) -> str | None:
    """Do as asked."""
    return "locked" if request.lock else "unlocked"


class ControlPlane:
    """Listens on the alert bus, through a queue of its own, and acknowledges each request over the API.

    ``answer`` decides what it says: ``locked``, ``unlocked``, ``failed``, or None to stay silent.
    A context manager: a thread works while the context lasts.
    """

    def __init__(
        self,
        session: "boto3.Session",
        api: ApiClient,
        alert_bus_name: str,
        *,
        name: str,
        project_id: str | None = None,
        answer: Answer = obedient,
    ) -> None:
        """Create queue and rule, both called ``name``; ``project_id`` limits what it hears."""
        self.answer = answer
        self.carried_out: list[LockRequest] = []
        self.refused: list[LockRequest] = []
        self._fences = FenceMemory()
        self._api = api
        self._name = name
        self._bus = alert_bus_name
        self._sqs = session.client("sqs")
        self._events = session.client("events")
        self._url = self._sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": str(_VISIBILITY_SECONDS)})[
            "QueueUrl"
        ]
        self._connect_queue_to_bus(project_id)
        self._ending = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Self:
        """Start working."""
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Stop working and take queue and rule away."""
        self._ending.set()
        self._thread.join(_END_SECONDS)
        self._events.remove_targets(Rule=self._name, EventBusName=self._bus, Ids=["queue"])
        self._events.delete_rule(Name=self._name, EventBusName=self._bus)
        self._sqs.delete_queue(QueueUrl=self._url)

    def check(self) -> None:
        """Complain if the thread has died.

        Raises:
            ControlPlaneError: it has; the cause is attached.
        """
        if self._failure is not None:
            message = f"the control plane {self._name} stopped: {self._failure!r}"
            raise ControlPlaneError(message) from self._failure

    def handle(self, request: LockRequest) -> None:
        """Carry out one request, or refuse it, and acknowledge it.

        Raises:
            ApiProblemError: the acknowledgement was not taken, and not because it came too late.
            ApiUnreachableError: nobody answered.
        """
        fenced = self._fences.judge(request)
        if fenced is Fenced.OLDER:
            self.refused.append(request)
            return
        if fenced is Fenced.NEWER:
            self.carried_out.append(request)
        result = self.answer(request)
        if result is None:
            return
        try:
            self._api.post(
                "projects", request.project_id, "clusters", request.cluster_id, "lock-result",
                body={"fence": request.fence, "result": result, "detail": f"{self._name}: {result}"},
            )  # fmt: skip
        except ApiProblemError as problem:
            # 409: a newer request has been made meanwhile, so this answer is of no use to anybody.
            if problem.status != HTTPStatus.CONFLICT:
                raise

    def _connect_queue_to_bus(self, project_id: str | None) -> None:
        pattern: dict[str, Any] = {"detail-type": [LOCK, UNLOCK]}
        if project_id is not None:
            pattern["detail"] = {"project_id": [project_id]}
        rule_arn = self._events.put_rule(
            Name=self._name, EventBusName=self._bus, EventPattern=json.dumps(pattern), State="ENABLED"
        )["RuleArn"]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
        queue_arn = attributes["Attributes"]["QueueArn"]
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": queue_arn,
            "Condition": {"ArnEquals": {"aws:SourceArn": rule_arn}},
        }
        self._sqs.set_queue_attributes(
            QueueUrl=self._url,
            Attributes={"Policy": json.dumps({"Version": "2012-10-17", "Statement": [statement]})},
        )
        self._events.put_targets(Rule=self._name, EventBusName=self._bus, Targets=[{"Id": "queue", "Arn": queue_arn}])

    def _work(self) -> None:
        try:
            while not self._ending.is_set():
                answer = self._sqs.receive_message(
                    QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=_POLL_SECONDS
                )
                for message in answer.get("Messages", []):
                    self._take(message["Body"], message["ReceiptHandle"])
        except Exception as error:  # noqa: BLE001 - nobody sees a thread fail: check() shows it
            self._failure = error

    def _take(self, body: str, receipt_handle: str) -> None:
        try:
            self.handle(LockRequest.from_event(json.loads(body)))
        except ApiUnreachableError:
            return  # the message comes again
        except ApiProblemError as problem:
            if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR and problem.status != HTTPStatus.TOO_MANY_REQUESTS:
                raise
            return
        self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=receipt_handle)
