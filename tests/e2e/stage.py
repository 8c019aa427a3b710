"""What a story is told with: projects, customers, queues and control planes, all of them real and its own."""

import contextlib
import itertools
import threading
from dataclasses import dataclass
from typing import Any, Self

from docs.reference_receiver import Memory, Receiver, Request
from keyvigil_cli.alert_queue import AlertQueue
from keyvigil_cli.api_client import ApiClient, JsonObject
from keyvigil_cli.control_plane import Answer, ControlPlane, LockRequest
from keyvigil_cli.customer import CustomerAccount, RegistrableKey
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, LocalCloud, StackOutputs
from keyvigil_cli.project import Project
from tests.e2e.fault_proxy import FaultProxy


@dataclass(frozen=True)
class WatchedKey:
    """A customer's key that is registered in a project."""

    project: Project
    customer: CustomerAccount
    key: RegistrableKey
    key_id: str
    registered: JsonObject

    def disable(self) -> None:
        self.customer.disable_key(self.key)

    def enable(self) -> None:
        self.customer.enable_key(self.key)

    def check(self) -> JsonObject:
        return self.project.api.post("projects", self.project.project_id, "keys", self.key_id, "check")


@dataclass(frozen=True)
class TroubledCloud:
    """A cloud and the proxy in front of it: what fails there fails for nobody else."""

    cloud: LocalCloud
    faults: FaultProxy


class Stage:
    """One story's own corner of the shared cloud. Its names are nobody else's; a context manager that tidies up."""

    _numbers = itertools.count(1)

    def __init__(
        self,
        cloud: LocalCloud,
        outputs: StackOutputs,
        faults: FaultProxy,
        spare: LocalCloud | None = None,
        troubled: TroubledCloud | None = None,
    ) -> None:
        self.cloud = cloud
        self._spare = spare
        self._troubled = troubled
        self.outputs = outputs
        self.faults = faults
        self.api: ApiClient = cloud.api(outputs)
        self.customer = CustomerAccount(cloud.session(CUSTOMER_ACCOUNT), CUSTOMER_ACCOUNT)
        self._created = contextlib.ExitStack()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._created.close()

    @property
    def spare(self) -> LocalCloud:
        """A second cloud with nothing in it, for a story that changes the stack itself."""
        assert self._spare is not None
        return self._spare

    @property
    def troubled(self) -> TroubledCloud:
        """A third cloud with nothing in it, for the story in which KeyVigil itself is in trouble."""
        assert self._troubled is not None
        return self._troubled

    def name(self) -> str:
        """A name that nobody else has, fit for projects, roles, queues and rules."""
        with self._lock:
            return f"story-{next(self._numbers):03d}"

    def project(self, **settings: str | int) -> Project:
        """A project that enforces, unless told otherwise, and whose keys are due every minute."""
        return Project.create(self.api, self.name(), **{"enforcement": "enforce", **settings})

    def role(self, project: Project) -> str:
        """A role of the customer's that trusts KeyVigil with the project's ExternalId; it comes with its first key."""
        return self.customer.role_for(
            self.outputs["MonitorRoleArn"],
            project.external_id,
            project.project_id,
            role_name=f"keyvigil-{self.name()}",
        )

    def watched_key(self, project: Project, *, use: str = "cmek", region: str | None = None) -> WatchedKey:
        """A customer's key with a role of its own, registered and HEALTHY."""
        key = self.customer.create_key(self.role(project), region=region)
        registered = project.register_key(key, use=use)
        assert registered["status"] == "HEALTHY"
        return WatchedKey(project, self.customer, key, registered["key_id"], registered)

    def alert_queue(self, project: Project) -> AlertQueue:
        """A queue that is subscribed to all alerts of a project."""
        queue = AlertQueue(self.cloud.session(), self.name(), project.alert_topic_arn)
        self._created.callback(queue.delete)
        project.subscribe(queue)
        return queue

    def control_plane(self, project: Project, answer: Answer | None = None) -> ControlPlane:
        """A control plane that answers a project's lock requests until the story ends, as the reference receiver."""
        memory = Memory(":memory:")
        self._created.callback(memory.close)
        receiver = Receiver(memory, lambda _request: None)

        def take(request: LockRequest) -> str:
            action = "lock" if request.lock else "unlock"
            return receiver.take(Request(action, request.project_id, request.cluster_id, request.fence)).result

        return self._created.enter_context(
            ControlPlane(
                self.cloud.session(),
                self.api,
                self.outputs["AlertBusName"],
                name=self.name(),
                project_id=project.project_id,
                answer=answer or take,
            )
        )

    def answer_lock(self, project: Project, cluster_id: str, fence: int, result: str) -> JsonObject:
        """Answer a lock request by hand."""
        body: dict[str, Any] = {"fence": fence, "result": result}
        return self.api.post("projects", project.project_id, "clusters", cluster_id, "lock-result", body=body)
