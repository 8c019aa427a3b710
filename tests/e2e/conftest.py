"""One local cloud with the real stack for all end-to-end tests, and what they build their scenarios from."""

import contextlib
import re
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyvigil_cli.alert_queue import AlertQueue
from keyvigil_cli.api_client import ApiClient, JsonObject
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.control_plane import Answer, ControlPlane, obedient
from keyvigil_cli.customer import CustomerAccount, RegistrableKey
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, LocalCloud, StackOutputs
from keyvigil_cli.project import Project

_HERE = Path(__file__).parent
# Building the layers without a cache, deploying, and sweeps that come once a minute.
_TEST_SECONDS = 900

_CLOUD = pytest.StashKey[LocalCloud]()

type ProjectFactory = Callable[..., Project]
type CustomerFactory = Callable[..., CustomerAccount]
type AlertQueueFactory = Callable[[Project], AlertQueue]
type ControlPlaneFactory = Callable[..., ControlPlane]


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


type WatchedKeyFactory = Callable[..., WatchedKey]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TEST_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    cloud = item.config.stash.get(_CLOUD, None)
    if report.failed and cloud is not None:
        troubles = cloud.troubles()
        report.sections.append(("logs", "\n".join(str(path) for path in cloud.logs())))
        report.sections.append(("what the functions complained about last", troubles))
        report.sections.append(("the local cloud's log, last lines", cloud.log_tail()))
    return report


@pytest.fixture(scope="session")
def cloud(pytestconfig: pytest.Config) -> Iterator[LocalCloud]:
    """One local cloud for the whole session."""
    with LocalCloud(Checkout.find(_HERE)) as running:
        pytestconfig.stash[_CLOUD] = running
        yield running
        del pytestconfig.stash[_CLOUD]


@pytest.fixture(scope="session")
def stack(cloud: LocalCloud) -> StackOutputs:
    """The real stack, deployed once: its outputs."""
    return cloud.deploy()


@pytest.fixture(scope="session")
def api(cloud: LocalCloud, stack: StackOutputs) -> ApiClient:
    """The API, called by the operator."""
    return cloud.api(stack)


@pytest.fixture
def unique_name(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Names that nobody else has, with the test's in them, fit for project ids, roles, queues and rules."""
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-").removeprefix("test-")[:22]
    return lambda: f"t-{test}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def fresh_project(api: ApiClient, unique_name: Callable[[], str]) -> ProjectFactory:
    """``fresh_project(enforcement="enforce", ...)`` creates a project that only this test knows."""

    def create(**settings: str | int) -> Project:
        return Project.create(api, unique_name(), **settings)

    return create


@pytest.fixture
def customer(cloud: LocalCloud) -> CustomerFactory:
    """``customer(account_id=...)`` is the administrator of a customer's account."""

    def administrator(account_id: str = CUSTOMER_ACCOUNT) -> CustomerAccount:
        return CustomerAccount(cloud.session(account_id), account_id)

    return administrator


@pytest.fixture
def watched_key(stack: StackOutputs, customer: CustomerFactory, unique_name: Callable[[], str]) -> WatchedKeyFactory:
    """``watched_key(project, account_id=...)``: a key with a role of its own, registered and HEALTHY."""

    def register(project: Project, account_id: str = CUSTOMER_ACCOUNT, use: str = "cmek") -> WatchedKey:
        owner = customer(account_id)
        key = owner.onboard(stack["MonitorRoleArn"], project.external_id, role_name=f"keyvigil-{unique_name()}")
        registered = project.register_key(key, use=use)
        assert registered["status"] == "HEALTHY"
        return WatchedKey(project, owner, key, registered["key_id"], registered)

    return register


@pytest.fixture
def alert_queue(cloud: LocalCloud, unique_name: Callable[[], str]) -> Iterator[AlertQueueFactory]:
    """``alert_queue(project)``: a queue in the operator's account that is subscribed to all alerts."""
    with contextlib.ExitStack() as created:

        def subscribe(project: Project) -> AlertQueue:
            queue = AlertQueue(cloud.session(), unique_name(), project.alert_topic_arn)
            created.callback(queue.delete)
            project.subscribe(queue)
            return queue

        yield subscribe


@pytest.fixture
def control_plane(
    cloud: LocalCloud, stack: StackOutputs, api: ApiClient, unique_name: Callable[[], str]
) -> Iterator[ControlPlaneFactory]:
    """``control_plane(project, answer=...)`` answers one project's lock requests until the test ends."""
    with contextlib.ExitStack() as running:

        def start(project: Project, answer: Answer = obedient) -> ControlPlane:
            return running.enter_context(
                ControlPlane(
                    cloud.session(),
                    api,
                    stack["AlertBusName"],
                    name=unique_name(),
                    project_id=project.project_id,
                    answer=answer,
                )
            )

        yield start
