"""The brake, as a pure function: when a lockout waits although an outage is confirmed, and when it goes on."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.brake import (
    QUIET,
    WINDOW,
    Brake,
    BrakeSettings,
    BrakeVerb,
    CanaryWord,
    LockoutTally,
    Outage,
    ReleaseVerb,
    ambiguous,
    ceiling,
    cohort,
    count,
    decide_release,
    joined,
)
from keyvigil.domain.held import HeldFor
from keyvigil.domain.verdicts import AMBIGUOUS_CAUSES, Cause
from tests.examples import NOW

SETTINGS = BrakeSettings()
SECOND = timedelta(seconds=1)


def outage(number: int, account: int = 1, **fields: Any) -> Outage:
    about: dict[str, Any] = {
        "incident_id": f"01J{number:05}",
        "project_id": f"customer-{account}",
        "key_id": f"us-west-2.{number}",
        "account_id": f"{account:012}",
        "region": "us-west-2",
        "cause": Cause.ACCESS_DENIED,
        "opened_at": NOW - timedelta(minutes=3),
    }
    return Outage(**(about | fields))


def canary(*, vouches: bool = True) -> CanaryWord:
    return CanaryWord(vouches=vouches, reason="the canary was HEALTHY" if vouches else "the canary is UNHEALTHY itself")


def decide(together: list[Outage], keys_there: int, says: CanaryWord | None) -> tuple[BrakeVerb, HeldFor | None]:
    decision = ambiguous(together[0], together, keys_there, says, SETTINGS)
    assert decision.reason
    return decision.verb, decision.held_for


def test_a_customer_who_breaks_his_only_role_over_twelve_keys_is_locked_out() -> None:
    assert decide([outage(number) for number in range(12)], 40, canary()) == (BrakeVerb.PROCEED, None)


def test_three_customers_denied_at_once_engage_the_brake() -> None:
    together = [outage(number, account=number % 3) for number in range(10)]
    assert decide(together, 40, canary()) == (BrakeVerb.ENGAGE, HeldFor.BRAKE)


@pytest.mark.parametrize(
    ("keys", "accounts", "keys_there", "engages"),
    [(10, 3, 40, True), (9, 3, 40, False), (10, 2, 40, False), (3, 3, 12, True), (3, 3, 13, False), (3, 3, 0, True)],
)
def test_the_brake_engages_at_its_least_accounts_and_its_percentage_and_not_below(
    *, keys: int, accounts: int, keys_there: int, engages: bool
) -> None:
    together = [outage(number, account=number % accounts) for number in range(keys)]
    expected = BrakeVerb.ENGAGE if engages else BrakeVerb.PROCEED
    assert decide(together, keys_there, canary())[0] is expected


def test_without_a_canary_a_person_approves() -> None:
    assert decide([outage(1)], 40, None) == (BrakeVerb.HOLD, HeldFor.APPROVAL)


def test_a_canary_that_does_not_vouch_holds() -> None:
    assert decide([outage(1)], 40, canary(vouches=False)) == (BrakeVerb.HOLD, HeldFor.BRAKE)


def test_only_keys_of_the_same_region_and_cause_within_the_window_turned_bad_together() -> None:
    mine = outage(1)
    others = [
        outage(2),
        outage(3, region="eu-west-1"),
        outage(4, cause=Cause.ROLE_NOT_ASSUMABLE),
        outage(5, opened_at=NOW - WINDOW),
        outage(6, opened_at=NOW - WINDOW + SECOND),
    ]
    assert [each.incident_id[-1] for each in cohort(mine, others, None, NOW)] == ["2", "6", "1"]


def test_what_turned_bad_before_a_release_does_not_engage_the_brake_again() -> None:
    mine = outage(1, opened_at=NOW)
    assert cohort(mine, [outage(2), outage(3)], NOW - SECOND, NOW) == [mine]


def test_the_ceiling_holds_the_one_above_it_and_lets_go_when_the_window_has_passed() -> None:
    tally = LockoutTally()
    for number in range(SETTINGS.max_lockouts):
        assert ceiling(tally, f"i{number}", SETTINGS, NOW).verb is BrakeVerb.PROCEED
        tally = tally.with_lockout(f"i{number}", NOW)
    held = ceiling(tally, "one more", SETTINGS, NOW + WINDOW - SECOND)
    assert (held.verb, held.held_for) == (BrakeVerb.HOLD, HeldFor.CEILING)
    assert ceiling(tally, "one more", SETTINGS, NOW + WINDOW).verb is BrakeVerb.PROCEED


def test_a_lockout_that_is_taken_up_again_is_counted_once() -> None:
    tally = LockoutTally().with_lockout("i1", NOW).with_lockout("i1", NOW + SECOND)
    assert [each.incident_id for each in tally.begun] == ["i1"]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3600)), max_size=60))
def test_whatever_begins_the_tally_holds_no_more_than_the_window(starts: list[tuple[int, int]]) -> None:
    tally, now = LockoutTally(), NOW
    for incident, seconds in starts:
        now += seconds * SECOND
        if ceiling(tally, f"i{incident}", SETTINGS, now).verb is BrakeVerb.PROCEED:
            tally = tally.with_lockout(f"i{incident}", now)
        within = {each.incident_id for each in tally.begun if now - each.at < WINDOW}
        assert len(within) <= SETTINGS.max_lockouts


def brake(**fields: Any) -> Brake:
    pulled: dict[str, Any] = {
        "region": "us-west-2",
        "cause": Cause.ACCESS_DENIED,
        "project_id": None,
        "engaged_at": NOW,
        "engaged_by": "KeyVigil",
        "reason": "too many",
        "seen_at": NOW,
    }
    return Brake(**(pulled | fields))


def test_the_brake_releases_itself_after_ten_quiet_minutes_with_a_healthy_canary() -> None:
    end = NOW + QUIET
    assert decide_release(brake(), canary(), end).verb is ReleaseVerb.RELEASE


@pytest.mark.parametrize(
    ("held", "says", "at"),
    [
        (brake(), canary(), NOW + QUIET - SECOND),
        (brake(), canary(vouches=False), NOW + QUIET),
        (brake(), None, NOW + QUIET),
        (brake(cause=None), canary(), NOW + QUIET),
        (brake(released_at=NOW), canary(), NOW + QUIET),
        (joined(brake(), [outage(1, opened_at=NOW + SECOND)]), canary(), NOW + QUIET),
    ],
    ids=["too soon", "canary unhealthy", "no canary", "a person's", "released", "another key"],
)
def test_it_stays_engaged_otherwise(held: Brake, says: CanaryWord | None, at: datetime) -> None:
    decision = decide_release(held, says, at)
    assert decision.verb is ReleaseVerb.KEEP
    assert decision.reason


@pytest.mark.parametrize(
    ("scope", "held"),
    [
        ({}, True),
        ({"region": "eu-west-1"}, False),
        ({"cause": Cause.ROLE_NOT_ASSUMABLE}, False),
        ({"cause": None}, True),
        ({"cause": None, "region": None, "project_id": "customer-1"}, True),
        ({"cause": None, "region": None, "project_id": "customer-2"}, False),
        ({"cause": None, "region": None}, True),
        ({"released_at": NOW}, False),
        ({"exempt": ("customer-1",)}, False),
        ({"exempt": ("customer-2",)}, True),
    ],
)
def test_a_brake_holds_what_is_in_its_scope(*, scope: dict[str, Any], held: bool) -> None:
    assert brake(**scope).holds(outage(1)) is held


def test_a_cohort_is_counted_by_cause_account_and_region() -> None:
    counts = count([outage(1), outage(2, account=2), outage(3, account=2)])
    assert counts.sentence() == (
        "by cause: ACCESS_DENIED 3; by account: 000000000001 1, 000000000002 2; by Region: us-west-2 3"
    )


@given(
    failing=st.lists(st.tuples(st.sampled_from(sorted(AMBIGUOUS_CAUSES)), st.integers(1, 6)), min_size=1, max_size=40),
    keys_there=st.integers(0, 200),
    says=st.sampled_from([None, canary(), canary(vouches=False)]),
)
def test_no_lockout_for_an_ambiguous_cause_goes_on_unless_a_canary_vouches_and_few_are_affected(
    failing: list[tuple[Cause, int]], keys_there: int, says: CanaryWord | None
) -> None:
    outages = [outage(number, account, cause=cause) for number, (cause, account) in enumerate(failing)]
    together = cohort(outages[0], outages, None, NOW)
    verb, held_for = decide([outages[0], *together], keys_there, says)
    if verb is BrakeVerb.PROCEED:
        assert says is not None
        assert says.vouches
        assert len({each.account_id for each in together}) < 3 or len(together) * 4 < max(keys_there, 1)
    else:
        assert held_for is not None
