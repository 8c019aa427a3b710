from collections.abc import Iterator

import pytest

from keyvigil_cli.waiting import DeadlineExceededError, wait_until


class Time:
    """A clock that only sleeping advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def wait_for(seen: Iterator[str], wanted: str, *, within: float, time: Time) -> str:
    return wait_until(
        "the key to be healthy",
        lambda: next(seen),
        lambda state: state == wanted,
        within=within,
        every=1.0,
        clock=time.clock,
        sleep=time.sleep,
    )


def test_what_is_there_is_returned_without_waiting() -> None:
    time = Time()
    assert wait_for(iter(["HEALTHY"]), "HEALTHY", within=10, time=time) == "HEALTHY"
    assert time.now == 0


def test_it_looks_until_it_is_there() -> None:
    time = Time()
    assert wait_for(iter(["SUSPECT", "SUSPECT", "HEALTHY"]), "HEALTHY", within=10, time=time) == "HEALTHY"
    assert time.now == 2


def test_it_looks_once_even_without_any_time() -> None:
    assert wait_for(iter(["HEALTHY"]), "HEALTHY", within=0, time=Time()) == "HEALTHY"


def test_it_looks_once_more_after_the_deadline() -> None:
    assert wait_for(iter(["SUSPECT", "HEALTHY"]), "HEALTHY", within=0.5, time=Time()) == "HEALTHY"


def test_a_missed_deadline_says_what_was_waited_for_and_seen() -> None:
    with pytest.raises(DeadlineExceededError, match="waited 2 s for the key to be healthy; last seen: 'SUSPECT'"):
        wait_for(iter(["SUSPECT"] * 5), "HEALTHY", within=2, time=Time())
