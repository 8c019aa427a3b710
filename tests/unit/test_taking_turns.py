"""Of a list that is too long for one sweep, each takes its part, and everything has its turn."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.use_cases.taking_turns import turn
from tests.examples import NOW


@pytest.mark.parametrize("count", [0, 1, 10])
def test_a_short_list_is_taken_whole_and_in_order(count: int) -> None:
    assert list(turn(range(count), 10, NOW)) == list(range(count))


@given(count=st.integers(1, 500), at_most=st.integers(1, 50), minute=st.integers(0, 10_000))
def test_everything_has_its_turn_within_as_many_sweeps_as_it_takes(count: int, at_most: int, minute: int) -> None:
    sweeps = -(-count // at_most) + 1
    taken = [turn(range(count), at_most, NOW + timedelta(minutes=minute + each)) for each in range(sweeps)]

    assert all(len(each) == min(count, at_most) == len(set(each)) for each in taken)
    # The wrap-around may fall between two sweeps; one sweep more covers it.
    assert set().union(*map(set, taken)) == set(range(count))


def test_the_second_of_a_sweep_does_not_matter() -> None:
    assert turn(range(50), 7, NOW) == turn(range(50), 7, NOW + timedelta(seconds=59))
