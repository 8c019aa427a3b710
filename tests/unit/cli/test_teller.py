import io

import pytest
from rich.console import Console

from keyvigil_cli.teller import Teller


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


def test_elsewhere_than_on_a_terminal_a_step_is_one_plain_line(output: io.StringIO) -> None:
    with Teller(Console(file=output)).step("the key is [registered]") as step:
        assert output.getvalue() == "  the key is [registered] ... "
        step.outcome = "HEALTHY"
    assert output.getvalue().startswith("  the key is [registered] ... HEALTHY (0.")
    assert output.getvalue().endswith(" s)\n")


def test_a_step_that_fails_says_so_and_lets_the_error_through(output: io.StringIO) -> None:
    teller = Teller(Console(file=output))
    with pytest.raises(LookupError), teller.step("a sweep"):
        raise LookupError
    assert "a sweep ... DID NOT HAPPEN" in output.getvalue()


def test_on_a_terminal_the_finished_step_stays(output: io.StringIO) -> None:
    console = Console(file=output, force_terminal=True, width=200)
    with Teller(console).step("a sweep") as step:
        step.outcome = "HEALTHY"
    assert "a sweep: HEALTHY" in output.getvalue()


def test_news_without_a_step_are_not_shown(output: io.StringIO) -> None:
    Teller(Console(file=output)).news("1 of 2 resources")
    assert not output.getvalue()
