"""An hour at a thousand keys: the promises that must hold at a million, small enough for every run of the tests."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.simulation.fleet import FleetStore, key_id_of, project_id_of
from benchmarks.simulation.hour import Hour, Scenario, simulate
from benchmarks.simulation.run import RESULTS
from keyvigil.domain.keys import KeyStatus
from keyvigil.domain.verdicts import Cause
from keyvigil.ports import Put
from tests.examples import NOW, verdict
from tests.fakes import changed

HOUR = Scenario(keys=1000, failing=0.01)


@pytest.fixture(scope="module")
def hour() -> Hour:
    return simulate(HOUR)


@pytest.fixture(scope="module")
def bad_hour() -> Hour:
    return simulate(replace(HOUR, outage=("us-west-2", 25.0, 35.0)))


def test_every_broken_key_is_found_within_one_interval(hour: Hour) -> None:
    assert hour.found == hour.broken == 10
    assert hour.detection_worst <= 10 * 60 + 60


def test_nothing_is_found_that_is_not_broken(hour: Hour) -> None:
    assert hour.false_incidents == 0
    assert hour.stale_keys == 0
    assert hour.alerts["key.suspect"] == hour.broken


def test_a_key_is_checked_once_an_interval_and_a_batch_is_not_wasted(hour: Hour) -> None:
    # A broken key is checked every minute, and by its lockout every ten seconds.
    assert hour.checks <= 1000 * 6 * 1.1 + hour.broken * 60
    assert hour.kms_requests <= 3.5 * hour.checks
    assert hour.check_invocations <= hour.checks / 10 * 1.1 + hour.broken * 60 + 60


def test_a_sweep_takes_less_than_ten_seconds_and_no_message_gets_old(hour: Hour) -> None:
    assert hour.longest_sweep < 10
    assert hour.oldest_message < 60
    assert hour.messages_expired == 0


def test_nothing_grows_faster_than_the_number_of_keys(hour: Hour) -> None:
    half = simulate(replace(HOUR, keys=500))
    for count in ("checks", "kms_requests", "messages", "check_invocations", "notifications", "executions"):
        assert getattr(hour, count) <= 2.2 * getattr(half, count) + 50, count


def test_no_list_of_the_index_takes_more_than_its_share(hour: Hour) -> None:
    even = sum(hour.writes[each] for each in hour.writes if each.startswith("Key")) / 3600 / 8
    assert hour.most_index_writes_a_second <= 3 * even


def test_a_region_without_an_answer_makes_no_incident(bad_hour: Hour) -> None:
    assert bad_hour.false_incidents == 0
    assert bad_hour.found == bad_hour.broken
    assert bad_hour.overlooked == 0


def test_the_return_of_a_region_is_no_herd(bad_hour: Hour) -> None:
    before, after = bad_hour.sent_each_minute[10:25], bad_hour.sent_each_minute[38:]
    assert max(after) <= 1.5 * max(before)


KEPT = json.loads(RESULTS.read_text())
SIZES = ("1,000 keys", "100,000 keys", "1,000,000 keys")


@pytest.mark.parametrize(("small", "large"), list(pairwise(SIZES)))
def test_in_the_kept_results_nothing_grows_faster_than_the_number_of_keys(small: str, large: str) -> None:
    few, many = KEPT[small], KEPT[large]
    for count in ("checks", "kms_requests", "messages", "check_invocations"):
        assert many[count] <= 1.1 * many["keys"] / few["keys"] * few[count], count


@pytest.mark.parametrize("name", [*SIZES, *(f"{size}, a Region out" for size in SIZES)])
def test_in_the_kept_results_no_sweep_plans_for_ten_seconds_and_nothing_false_is_found(name: str) -> None:
    kept = KEPT[name]
    assert kept["longest_planning"] < 10
    assert kept["false_incidents"] == kept["stale_keys"] == kept["not_sent"] == kept["overlooked"] == 0
    assert kept["oldest_message"] < 300


@pytest.mark.parametrize("name", SIZES)
def test_in_the_kept_results_a_whole_sweep_stays_under_ten_seconds(name: str) -> None:
    assert KEPT[name]["longest_sweep"] < 10


@pytest.mark.parametrize("name", SIZES)
def test_in_the_kept_results_every_key_was_sent_in_the_minute_in_which_it_was_due(name: str) -> None:
    assert KEPT[name]["most_not_sent"] == KEPT[name]["messages_expired"] == 0


def test_the_same_hour_comes_out_twice() -> None:
    one, two = (simulate(replace(HOUR, minutes=25, keys=200)) for _ in range(2))
    assert replace(one, cpu_seconds=0, peak_megabytes=0) == replace(two, cpu_seconds=0, peak_megabytes=0)


def test_the_compact_table_forgets_nothing_of_a_key() -> None:
    store = FleetStore(50, interval_minutes=10, start=NOW)
    before = store.key(project_id_of(7), key_id_of(7))
    assert before is not None
    odd = changed(before, health=changed(before.health, status=KeyStatus.SUSPECT), verdict=verdict(Cause.KEY_DISABLED))
    for key in (odd, changed(before, alert_sequence=3), changed(before, clusters=2)):
        current = store.key(key.project_id, key.key_id)
        assert current is not None
        store.commit([Put(changed(key, version=current.version))])
        assert store.key(key.project_id, key.key_id) == changed(key, version=current.version + 1)
