"""The hysteresis, by example and by property: random rows of verdicts, with random times between them."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvigil.domain.keys import Health, KeyStatus
from keyvigil.domain.status_machine import Change, Decision, is_confirmed, observe
from keyvigil.domain.verdicts import AMBIGUOUS_CAUSES, DEFINITE_CAUSES, OUTCOME_OF_CAUSE, Cause, Outcome
from tests.examples import NOW, verdict

PROBES = 3
UNKNOWN_CAUSES = [cause for cause in Cause if OUTCOME_OF_CAUSE[cause] is Outcome.UNKNOWN]


@dataclass
class Watch:
    """A key under watch: it takes verdicts and remembers what changed."""

    health: Health = field(default_factory=Health)
    time: datetime = NOW
    changes: list[Change] = field(default_factory=list)
    last: Decision | None = None

    def status(self) -> KeyStatus:
        return self.health.status

    def see(self, cause: Cause | None, *, after: float = 10, deletion_date: datetime | None = None) -> Decision:
        self.time += timedelta(seconds=after)
        decision = observe(self.health, verdict(cause, self.time), probes=PROBES, deletion_date=deletion_date)
        self.health = decision.health
        if decision.change is not None:
            self.changes.append(decision.change)
        return decision


def test_a_healthy_key_stays_healthy() -> None:
    watch = Watch()
    for _ in range(5):
        watch.see(None)
    assert watch.status() is KeyStatus.HEALTHY
    assert watch.changes == []


def test_three_probes_in_a_row_confirm_a_definite_cause() -> None:
    watch = Watch()
    watch.see(Cause.KEY_DISABLED)
    assert watch.status() is KeyStatus.SUSPECT
    watch.see(Cause.KEY_DISABLED)
    assert watch.status() is KeyStatus.SUSPECT
    watch.see(Cause.KEY_DISABLED)
    assert watch.status() is KeyStatus.UNHEALTHY
    assert watch.changes == [Change.SUSPECTED, Change.CONFIRMED]


def test_readings_less_than_five_seconds_apart_are_one_reading() -> None:
    watch = Watch()
    for _ in range(5):
        watch.see(Cause.KEY_DISABLED, after=0.9)
    assert watch.status() is KeyStatus.SUSPECT
    assert watch.health.failing_streak == 1


def test_an_ambiguous_cause_needs_twice_as_many_probes_over_two_minutes() -> None:
    watch = Watch()
    for _ in range(12):
        watch.see(Cause.ACCESS_DENIED)
    assert watch.health.failing_streak == 12
    assert watch.status() is KeyStatus.SUSPECT  # 110 seconds
    watch.see(Cause.ACCESS_DENIED)
    assert watch.status() is KeyStatus.UNHEALTHY


def test_few_probes_over_a_long_time_do_not_confirm_an_ambiguous_cause() -> None:
    watch = Watch()
    for _ in range(5):
        watch.see(Cause.ACCESS_DENIED, after=60)
    assert watch.status() is KeyStatus.SUSPECT
    watch.see(Cause.ACCESS_DENIED, after=60)
    assert watch.status() is KeyStatus.UNHEALTHY


def test_key_not_found_must_last_five_minutes() -> None:
    watch = Watch()
    for _ in range(30):
        watch.see(Cause.KEY_NOT_FOUND)
    assert watch.status() is KeyStatus.SUSPECT  # 290 seconds
    watch.see(Cause.KEY_NOT_FOUND)
    assert watch.status() is KeyStatus.UNHEALTHY


def test_key_not_found_is_definite_once_its_deletion_date_has_passed() -> None:
    watch = Watch()
    for _ in range(3):
        watch.see(Cause.KEY_NOT_FOUND, deletion_date=NOW - timedelta(days=1))
    assert watch.status() is KeyStatus.UNHEALTHY


def test_key_not_found_before_its_deletion_date_is_ambiguous() -> None:
    watch = Watch()
    for _ in range(3):
        watch.see(Cause.KEY_NOT_FOUND, deletion_date=NOW + timedelta(days=1))
    assert watch.status() is KeyStatus.SUSPECT


def test_an_ambiguous_reading_interrupts_a_row_of_definite_ones() -> None:
    watch = Watch()
    watch.see(Cause.KEY_DISABLED)
    watch.see(Cause.KEY_DISABLED)
    watch.see(Cause.ACCESS_DENIED)
    watch.see(Cause.KEY_DISABLED)
    assert watch.status() is KeyStatus.SUSPECT


def test_recovery_needs_three_healthy_probes_in_a_row() -> None:
    watch = Watch()
    for _ in range(3):
        watch.see(Cause.KEY_DISABLED)
    watch.see(None)
    assert watch.status() is KeyStatus.RECOVERING
    watch.see(None)
    assert watch.status() is KeyStatus.RECOVERING
    watch.see(None)
    assert watch.status() is KeyStatus.HEALTHY
    assert not watch.health.confirmed
    assert watch.changes[-2:] == [Change.RECOVERY_BEGAN, Change.RECOVERED]


def test_any_unhealthy_verdict_resets_recovery_even_within_five_seconds() -> None:
    watch = Watch()
    for _ in range(3):
        watch.see(Cause.KEY_DISABLED)
    watch.see(None)
    watch.see(None)
    watch.see(Cause.KEY_DISABLED, after=1)
    assert watch.status() is KeyStatus.UNHEALTHY
    assert watch.health.healthy_streak == 0


def test_a_relapse_of_an_unconfirmed_outage_is_only_suspect_again() -> None:
    watch = Watch()
    watch.see(Cause.KEY_DISABLED)
    watch.see(None)
    watch.see(Cause.KEY_DISABLED)
    assert watch.status() is KeyStatus.SUSPECT
    assert watch.changes == [Change.SUSPECTED, Change.RECOVERY_BEGAN, Change.RELAPSED]


def test_an_answer_that_alternates_is_one_suspicion_and_not_many() -> None:
    watch = Watch()
    for _ in range(20):
        watch.see(Cause.KEY_DISABLED)
        watch.see(None)
    assert watch.changes.count(Change.SUSPECTED) == 1
    assert Change.CONFIRMED not in watch.changes


def test_a_single_failure_after_a_relapse_confirms_nothing_afresh() -> None:
    watch = Watch()
    for _ in range(3):
        watch.see(Cause.KEY_DISABLED)
    watch.see(None)
    decision = watch.see(Cause.KEY_DISABLED)
    confirmed, _ = is_confirmed(decision.health, Cause.KEY_DISABLED, watch.time, probes=PROBES, deletion_date=None)
    assert decision.health.status is KeyStatus.UNHEALTHY
    assert not confirmed


@pytest.mark.parametrize("cause", UNKNOWN_CAUSES)
def test_unknown_changes_nothing_however_long_it_lasts(cause: Cause) -> None:
    watch = Watch()
    watch.see(None)
    before = watch.health
    for _ in range(500):
        watch.see(cause, after=60)
    assert watch.changes == []
    assert watch.health.unknown_since == NOW + timedelta(seconds=70)
    assert watch.health.failing_streak == before.failing_streak
    assert watch.health.healthy_streak == before.healthy_streak
    assert watch.status() is KeyStatus.HEALTHY


def test_unknown_neither_counts_nor_resets_in_a_failing_row() -> None:
    watch = Watch()
    watch.see(Cause.KEY_DISABLED)
    watch.see(Cause.THROTTLED)
    watch.see(Cause.KEY_DISABLED)
    watch.see(Cause.TIMEOUT)
    assert watch.status() is KeyStatus.SUSPECT
    watch.see(Cause.KEY_DISABLED)
    assert watch.status() is KeyStatus.UNHEALTHY
    assert watch.health.unknown_since is None


def test_a_verdict_that_comes_late_is_ignored() -> None:
    watch = Watch()
    watch.see(None, after=60)
    decision = watch.see(Cause.KEY_DISABLED, after=-20)
    assert decision.change is None
    assert decision.health.status is KeyStatus.HEALTHY


def test_a_clock_that_was_set_back_does_not_stop_the_watch() -> None:
    watch = Watch()
    watch.see(None, after=3600)
    watch.see(Cause.KEY_DISABLED, after=-3600)
    assert watch.status() is KeyStatus.SUSPECT


verdicts = st.lists(
    st.tuples(
        st.one_of(st.none(), st.none(), st.sampled_from(list(Cause))),
        st.floats(min_value=0.1, max_value=900, allow_nan=False),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(verdicts)
def test_nothing_flaps_and_every_confirmation_is_earned(row: list[tuple[Cause | None, float]]) -> None:
    watch = Watch()
    since_suspected: list[Outcome] = []
    definite_in_a_row = unhealthy_in_a_row = healthy_in_a_row = 0
    for cause, after in row:
        decision = watch.see(cause, after=after)
        outcome = OUTCOME_OF_CAUSE[cause] if cause else Outcome.HEALTHY
        since_suspected.append(outcome)
        if outcome is Outcome.UNKNOWN:
            assert decision.change is None
            continue
        if outcome is Outcome.HEALTHY:
            healthy_in_a_row, definite_in_a_row, unhealthy_in_a_row = healthy_in_a_row + 1, 0, 0
        else:
            healthy_in_a_row, unhealthy_in_a_row = 0, unhealthy_in_a_row + 1
            definite_in_a_row = definite_in_a_row + 1 if cause in DEFINITE_CAUSES else 0
        match decision.change:
            case Change.SUSPECTED:
                assert outcome is Outcome.UNHEALTHY
            case Change.CONFIRMED:
                assert definite_in_a_row >= PROBES or unhealthy_in_a_row >= 2 * PROBES
                if cause in AMBIGUOUS_CAUSES:
                    assert watch.health.failing_since is not None
                    assert watch.time - watch.health.failing_since >= timedelta(minutes=2)
            case Change.RECOVERED:
                assert healthy_in_a_row >= PROBES
            case _:
                pass
    # Between two suspicions there is always a proved recovery: that is what "nothing flaps" means.
    opened_and_closed = [change for change in watch.changes if change in {Change.SUSPECTED, Change.RECOVERED}]
    for index, change in enumerate(opened_and_closed):
        assert change is (Change.SUSPECTED if index % 2 == 0 else Change.RECOVERED)


@given(verdicts)
def test_every_outage_that_begins_ends_with_enough_healthy_probes(row: list[tuple[Cause | None, float]]) -> None:
    watch = Watch()
    for cause, after in row:
        watch.see(cause, after=after)
    for _ in range(PROBES + 1):
        watch.see(None, after=10)
    assert watch.status() is KeyStatus.HEALTHY
    assert watch.changes.count(Change.SUSPECTED) == watch.changes.count(Change.RECOVERED)


@given(verdicts)
def test_unhealthy_is_only_ever_reached_through_a_confirmation(row: list[tuple[Cause | None, float]]) -> None:
    watch = Watch()
    for cause, after in row:
        before = watch.health
        decision = watch.see(cause, after=after)
        if decision.health.status is KeyStatus.UNHEALTHY and before.status is not KeyStatus.UNHEALTHY:
            assert decision.change is Change.CONFIRMED or before.confirmed
        assert decision.health.confirmed or decision.health.status is not KeyStatus.UNHEALTHY


def test_a_late_verdict_of_unknown_does_not_hide_a_later_answer() -> None:
    watch = Watch()
    watch.see(None, after=60)
    decision = watch.see(Cause.TIMEOUT, after=-20)
    assert decision.health.unknown_since is None
