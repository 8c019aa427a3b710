"""One local cloud for all pages that are followed, and at the end how long each took."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from keyvigil_cli import local_stack
from keyvigil_cli.teller import Teller
from tests.guides.playground import Playground
from tests.guides.reader import CHECKOUT, NAME, Pages

_HERE = Path(__file__).parent
# Building the layers without a cache and deploying belong to whichever test comes first.
_TEST_SECONDS = 900

_PAGES = pytest.StashKey[Pages]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TEST_SECONDS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    pages = config.stash.get(_PAGES, None)
    if pages is not None and pages.seconds:
        terminalreporter.section("how long the commands of a page took")
        for path, seconds in pages.seconds.items():
            terminalreporter.line(f"{seconds:5.0f} s  {path}")


@pytest.fixture(scope="session")
def pages(pytestconfig: pytest.Config) -> Pages:
    """The pages that are followed."""
    pytestconfig.stash[_PAGES] = Pages()
    return pytestconfig.stash[_PAGES]


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """The local cloud of all guides, which ends as the operator's quick start says."""
    try:
        running = Playground(tmp_path_factory.mktemp("readers"))
        yield running
        running.end()
    finally:
        local_stack.down(CHECKOUT, Teller(Console(stderr=True)), name=NAME)
