"""Two clouds: one whose stack was given nothing, to be narrowed permission by permission; one that was given all."""

import io
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from rich.console import Console

from keyvigil_cli.checkout import Checkout
from keyvigil_cli.demo import Story
from keyvigil_cli.local_cloud import LocalCloud
from keyvigil_cli.teller import Teller
from tests.e2e.conftest import go_round_the_proxy
from tests.e2e.fault_proxy import FaultProxy
from tests.infra.conftest import full_template, plain_template, rendered_template, source_template
from tests.infra.permissions import Permission, granted
from tests.infra.service_needs import needed_by_aws
from tests.infra.source_template import SourceTemplate, Template
from tests.permissions.rehearsal import Rehearsal
from tests.permissions.running_stack import RunningStack
from tests.permissions.scene import Scene

# The table at the end shows what an assertion said.
pytest.register_assert_rewrite("tests.permissions.drills")

__all__ = ["full_template", "plain_template", "rendered_template", "source_template"]

_HERE = Path(__file__).parent
# Building the layers without a cache and deploying belong to whichever test comes first.
_TEST_SECONDS = 600

NOTICED = pytest.StashKey[dict[Permission, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[NOTICED] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.timeout(_TEST_SECONDS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    noticed = config.stash[NOTICED]
    if noticed:
        terminalreporter.section("who notices that a permission is gone")
        for permission, by in noticed.items():
            terminalreporter.line(f"{permission!s:<90} {by}")


@pytest.fixture(scope="session")
def noticed(pytestconfig: pytest.Config, full_template: Template) -> dict[Permission, str]:
    """Who noticed which permission's absence; printed at the end. What AWS alone can miss is known beforehand."""
    found = pytestconfig.stash[NOTICED]
    given = set(granted(full_template))
    found.update({each: f"AWS: {name}" for each, name in needed_by_aws(full_template).items() if each in given})
    return found


@pytest.fixture(scope="session")
def plain(plain_template: Template) -> Iterator[Rehearsal]:
    """A stack that was given nothing. Only drills sweep it."""
    with LocalCloud(Checkout.find(_HERE)) as cloud:
        scene = Scene(cloud, cloud.deploy())
        scene.stop_the_schedule()
        yield Rehearsal(scene, RunningStack(cloud.session(), plain_template))


WITH_KEY = {
    "KmsKeyArn": "arn:aws:kms:us-west-2:111111111111:key/8d2e5b1c-0000-0000-0000-000000000000",
    "Tracing": "Active",
    "AllowRunbooks": "true",
}
"""Everything optional but whom the intake bus trusts: the local cloud knows no policies of buses in templates."""


@pytest.fixture(scope="session")
def template_with_key(source_template: SourceTemplate, rendered_template: Template) -> Template:
    return source_template.resolve(rendered_template, **WITH_KEY)


@pytest.fixture(scope="session")
def full(template_with_key: Template) -> Iterator[Rehearsal]:
    """A stack that was given everything optional that the local cloud takes."""
    checkout = Checkout.find(_HERE)
    faults = FaultProxy(checkout.ministack().with_name("microburst"), checkout.root / ".local-cloud" / "drill-faults")
    with (
        LocalCloud(checkout, extra_environ={"HTTP_PROXY": faults.url}) as cloud,
        faults.in_front_of(cloud.endpoint_url),
    ):
        key = cloud.session().client("kms").create_key()["KeyMetadata"]["Arn"]
        outputs = cloud.deploy({**WITH_KEY, "KmsKeyArn": key})
        go_round_the_proxy(cloud, outputs["CallReceiverFunctionName"])
        scene = Scene(cloud, outputs, stack_key=key, faults=faults)
        yield Rehearsal(scene, RunningStack(cloud.session(), template_with_key))


@pytest.fixture(scope="session")
def without_what_aws_needs(full: Rehearsal, template_with_key: Template) -> Iterator[Rehearsal]:
    """The full stack, for the rest of the session without all that only AWS can miss."""
    with full.stack.without(*needed_by_aws(template_with_key)):
        yield full


@pytest.fixture(scope="session")
def story(without_what_aws_needs: Rehearsal) -> Future[str]:
    """The demo, begun on that stack: most of its time it waits for sweeps. Its result is what it told."""
    ending: Future[str] = Future()
    scene = without_what_aws_needs.scene

    def tell() -> None:
        told = io.StringIO()
        try:
            with Story(scene.cloud, Teller(Console(file=told, width=120))) as demo:
                demo.tell(scene.outputs)
        except BaseException as error:  # noqa: BLE001 - the test that asks for the ending raises it
            ending.set_exception(error)
        else:
            ending.set_result(told.getvalue())

    # A daemon, so that a run that is interrupted does not wait for the story to end.
    threading.Thread(target=tell, name="story", daemon=True).start()
    return ending
