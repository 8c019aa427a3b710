"""One local cloud with the real stack for all end-to-end tests; stories are told at once, each on its own stage."""

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path

import pytest

from keyvigil_cli.api_client import ApiClient
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.local_cloud import LocalCloud, StackOutputs
from tests.e2e.fault_proxy import FaultProxy
from tests.e2e.stage import Stage, TroubledCloud
from tests.e2e.story import ON_THEIR_OWN_CLOUDS, STORIES

_HERE = Path(__file__).parent
# Building the layers without a cache, deploying, and sweeps that come once a minute.
_TEST_SECONDS = 900
_OWN_CLOUDS_AT_ONCE = 2
_SECONDS_APART = 5.0

_CLOUD = pytest.StashKey[LocalCloud]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The stories begin with the first end-to-end test and are asked for at the end: meanwhile everything else runs.
    items.sort(key=lambda item: item.path.name == "test_stories.py")
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
def faults() -> FaultProxy:
    """The proxy through which every call of the functions goes."""
    checkout = Checkout.find(_HERE)
    return FaultProxy(checkout.ministack().with_name("microburst"), checkout.root / ".local-cloud" / "faults")


@pytest.fixture(scope="session")
def cloud(pytestconfig: pytest.Config, faults: FaultProxy) -> Iterator[LocalCloud]:
    """One local cloud for the whole session."""
    with (
        LocalCloud(Checkout.find(_HERE), extra_environ={"HTTP_PROXY": faults.url}) as running,
        faults.in_front_of(running.endpoint_url),
    ):
        pytestconfig.stash[_CLOUD] = running
        yield running
        del pytestconfig.stash[_CLOUD]


@pytest.fixture(scope="session")
def stack(cloud: LocalCloud) -> StackOutputs:
    """The real stack, deployed once: its outputs."""
    # All stories ask out of turn in one account and Region, at the same time.
    outputs = cloud.deploy({"QuotaSharePercent": "50"})
    go_round_the_proxy(cloud, outputs["CallReceiverFunctionName"])
    return outputs


def go_round_the_proxy(cloud: LocalCloud, function_name: str) -> None:
    """Let one function reach the cloud directly.

    It invokes functions by their ARN. The proxy passes the ARN's colons on unescaped, which breaks the signature.
    """
    functions = cloud.session().client("lambda")
    variables = functions.get_function_configuration(FunctionName=function_name)["Environment"]["Variables"]
    functions.update_function_configuration(
        FunctionName=function_name, Environment={"Variables": {**variables, "HTTP_PROXY": ""}}
    )


@pytest.fixture(scope="session")
def api(cloud: LocalCloud, stack: StackOutputs) -> ApiClient:
    """The API, called by the operator."""
    return cloud.api(stack)


@pytest.fixture
def stage(cloud: LocalCloud, stack: StackOutputs, faults: FaultProxy) -> Iterator[Stage]:
    """A corner of the cloud for one test."""
    with Stage(cloud, stack, faults) as mine:
        yield mine


@pytest.fixture(scope="session")
def spare_cloud() -> Iterator[LocalCloud]:
    """A second cloud, for the story that changes the stack itself. Its services ask the key, as AWS's do."""
    asking = {"PYTHONPATH": str(_HERE / "encrypting_services")}
    with LocalCloud(Checkout.find(_HERE), extra_environ=asking) as running:
        yield running


@pytest.fixture(scope="session")
def troubled_cloud() -> Iterator[TroubledCloud]:
    """A third cloud, for the story in which KeyVigil itself is in trouble."""
    checkout = Checkout.find(_HERE)
    faults = FaultProxy(checkout.ministack().with_name("microburst"), checkout.root / ".local-cloud" / "own-faults")
    with (
        LocalCloud(checkout, extra_environ={"HTTP_PROXY": faults.url}) as running,
        faults.in_front_of(running.endpoint_url),
    ):
        yield TroubledCloud(running, faults)


@pytest.fixture(scope="session", autouse=True)
def stories_begin(request: pytest.FixtureRequest) -> None:
    """Begin the stories with the first end-to-end test, if any was selected."""
    if any(item.path.name == "test_stories.py" for item in request.session.items):
        request.getfixturevalue("told")


@pytest.fixture(scope="session")
def told(
    request: pytest.FixtureRequest,
    cloud: LocalCloud,
    stack: StackOutputs,
    faults: FaultProxy,
    spare_cloud: LocalCloud,
    troubled_cloud: TroubledCloud,
) -> Callable[[str], None]:
    """The stories, begun at once: most of their time they wait for the next sweep. `told(name)` is how one ended."""
    wanted = [name for name in STORIES if any(f"[{name}]" in item.name for item in request.session.items)]

    endings: dict[str, Future[None]] = {name: Future() for name in wanted}
    own_clouds = threading.Semaphore(_OWN_CLOUDS_AT_ONCE)

    def tell(name: str, place: int) -> None:
        alone = own_clouds if name in ON_THEIR_OWN_CLOUDS else nullcontext()
        try:
            # Each story begins with cold functions: all of them at once would wait for one another's time-outs.
            time.sleep(place * _SECONDS_APART)
            with alone, Stage(cloud, stack, faults, spare_cloud, troubled_cloud) as stage:
                STORIES[name](stage)
        except BaseException as error:  # noqa: BLE001 - the test that asks for the ending raises it
            endings[name].set_exception(error)
        else:
            endings[name].set_result(None)

    # The long ones first; those of single causes are many and short.
    wanted.sort(key=lambda name: (name not in ON_THEIR_OWN_CLOUDS, STORIES[name].__module__.endswith("cause_stories")))
    # What is tested meanwhile in this process waits for the clouds, and not they for it.
    os.nice(5)
    for place, name in enumerate(wanted):
        # Daemons, so that a run that is interrupted does not wait for stories to end.
        threading.Thread(target=tell, args=(name, place), name=name, daemon=True).start()
    return lambda name: endings[name].result(timeout=_TEST_SECONDS)
