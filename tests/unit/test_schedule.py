"""When keys are due."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.keys import Health, KeyStatus, is_stale, next_due
from tests.examples import NOW

moments = st.datetimes(min_value=datetime(2020, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  hypothesis wants it so
intervals = st.integers(min_value=1, max_value=60)


def sweeps(begin: datetime, second: float, jitter: list[float], count: int) -> Iterator[datetime]:
    """Sweeps once a minute, at any second of it, each a little early or late."""
    for number in range(count):
        off = jitter[number % len(jitter)]
        yield begin.replace(second=0, microsecond=0) + timedelta(seconds=60 * number + second + off)


@given(
    st.integers(min_value=1, max_value=30),
    st.floats(min_value=0, max_value=60),
    st.lists(st.floats(min_value=-3, max_value=3), min_size=1, max_size=9),
    st.integers(min_value=0, max_value=1000),
)
def test_a_healthy_key_is_probed_within_every_interval_and_hardly_more_often(
    interval: int, second: float, jitter: list[float], number: int
) -> None:
    due, probes = NOW, []
    for sweep in sweeps(NOW, second, jitter, 6 * interval + 2):
        if due <= sweep:
            probes.append(sweep + timedelta(seconds=1))
            due = next_due("acme", f"key-{number}", Health(), interval, probes[-1])
    gaps = [later - earlier for earlier, later in pairwise(probes)]
    assert max(gaps) <= timedelta(minutes=interval, seconds=6)
    # One probe may come early, to bring the key to its own minute.
    assert len(probes) <= 6 + 2 + 1


@given(moments, intervals, st.sampled_from([status for status in KeyStatus if status is not KeyStatus.HEALTHY]))
def test_a_key_that_is_not_healthy_is_due_for_every_sweep_whatever_its_second(
    now: datetime, interval: int, status: KeyStatus
) -> None:
    due = next_due("acme", "key", Health(status=status), interval, now)
    assert due - now == timedelta(seconds=5)


def test_a_key_about_which_nothing_is_known_is_due_for_every_sweep() -> None:
    due = next_due("acme", "key", Health(unknown_since=NOW), 60, NOW)
    assert due == NOW + timedelta(seconds=5)


def test_keys_that_were_all_probed_at_once_are_spread_evenly_over_the_interval_again() -> None:
    due = [next_due("acme", f"key-{number}", Health(), 10, NOW) for number in range(10_000)]
    minutes = Counter((each - NOW) // timedelta(minutes=1) for each in due)
    assert len(minutes) == 10
    assert max(minutes.values()) < 1.2 * min(minutes.values())


def test_a_key_is_stale_after_three_of_its_intervals() -> None:
    assert not is_stale(NOW, 10, NOW + timedelta(minutes=30))
    assert is_stale(NOW, 10, NOW + timedelta(minutes=30, seconds=1))
