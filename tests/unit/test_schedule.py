"""When keys are due."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.keys import Health, KeyStatus, is_stale, next_due
from tests.examples import NOW

moments = st.datetimes(min_value=datetime(2020, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  hypothesis wants it so
intervals = st.integers(min_value=1, max_value=60)


@given(moments, intervals, st.text(max_size=20))
def test_a_healthy_key_is_due_on_a_whole_minute_within_one_interval(now: datetime, interval: int, key: str) -> None:
    due = next_due("acme", key, Health(), interval, now)
    assert timedelta(0) < due - now <= timedelta(minutes=interval)
    assert (due.second, due.microsecond) == (0, 0)


@given(moments, intervals)
def test_a_healthy_key_keeps_its_place_in_the_interval(now: datetime, interval: int) -> None:
    first = next_due("acme", "key", Health(), interval, now)
    second = next_due("acme", "key", Health(), interval, first + timedelta(seconds=3))
    assert second - first == timedelta(minutes=interval)


@given(moments, intervals, st.sampled_from([status for status in KeyStatus if status is not KeyStatus.HEALTHY]))
def test_a_key_that_is_not_healthy_is_due_for_every_sweep_whatever_its_second(
    now: datetime, interval: int, status: KeyStatus
) -> None:
    due = next_due("acme", "key", Health(status=status), interval, now)
    assert due - now == timedelta(seconds=5)


def test_a_key_about_which_nothing_is_known_is_due_for_every_sweep() -> None:
    due = next_due("acme", "key", Health(unknown_since=NOW), 60, NOW)
    assert due == NOW + timedelta(seconds=5)


def test_keys_are_spread_evenly_over_the_interval() -> None:
    minutes = Counter(next_due("acme", f"key-{number}", Health(), 10, NOW).minute % 10 for number in range(10_000))
    assert len(minutes) == 10
    assert max(minutes.values()) < 1.2 * min(minutes.values())


def test_a_key_is_stale_after_three_of_its_intervals() -> None:
    assert not is_stale(NOW, 10, NOW + timedelta(minutes=30))
    assert is_stale(NOW, 10, NOW + timedelta(minutes=30, seconds=1))
