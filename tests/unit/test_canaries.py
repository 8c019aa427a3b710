"""Canaries: what their probes make of them, when they vouch for KeyVigil, and what becomes of a denial."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.alerts import AlertStatus, AlertType, Severity
from keyvigil.domain.canaries import (
    DOUBTED_CAUSES,
    STACKS_OWN,
    STALE_AFTER,
    Canary,
    CanaryChange,
    Evidence,
    OwnCanary,
    believe,
    ended_at,
    is_answered,
    known_as,
    notice_of,
    outcome_now,
    speakers,
    take,
    vouch,
)
from keyvigil.domain.verdicts import OUTCOME_OF_CAUSE, Cause, Outcome
from tests.examples import CUSTOMER, KEY_ARN, NOW, canary, verdict
from tests.fakes import changed

SECOND = timedelta(seconds=1)
ILL = Cause.ROLE_NOT_ASSUMABLE


def probed(subject: Canary, *row: Cause | None, every: float = 60) -> tuple[Canary, list[CanaryChange | None]]:
    """Take some probes in turn; what the last made of the canary, and what each had to tell."""
    changes = []
    at = subject.began_at or NOW
    for cause in row:
        at += timedelta(seconds=every)
        subject, change = take(subject, verdict(cause, at), ended_at=at + SECOND)
        changes.append(change)
    return subject, changes


def at_the_end(subject: Canary) -> Evidence:
    """Whether a canary vouches, asked a moment after its last probe about a denial a moment before it."""
    assert subject.began_at is not None
    assert subject.ended_at is not None
    return vouch([subject], "us-west-2", since=subject.began_at - SECOND, now=subject.ended_at + SECOND)


# --- what probes make of a canary -------------------------------------------------------------------------------


def test_a_healthy_canary_vouches_with_its_name_in_the_reason() -> None:
    evidence = at_the_end(probed(canary(), None)[0])
    assert (evidence.vouches, evidence.partial) == (True, False)
    assert "the canary stack in us-west-2" in evidence.reason
    assert "111111111111" not in evidence.reason, "tenants read it"


@pytest.mark.parametrize("cause", Cause)
def test_one_probe_that_is_not_healthy_is_doubt_enough_and_no_alert(cause: Cause) -> None:
    ill, changes = probed(canary(), cause)
    assert not at_the_end(ill).vouches
    assert ill.in_doubt
    assert changes == [None]


def test_two_probes_in_a_row_that_are_not_healthy_are_told_once() -> None:
    _, changes = probed(canary(), ILL, Cause.THROTTLED, ILL, ILL)
    assert changes == [None, CanaryChange.FELL_ILL, None, None]


def test_two_probes_within_five_seconds_are_one_reading() -> None:
    ill, changes = probed(canary(), ILL, ILL, ILL, every=2)
    assert changes == [None, None, None]
    assert ill.unwell_streak == 1
    _, changes = probed(ill, ILL, every=2)
    assert changes == [CanaryChange.FELL_ILL], "six seconds after the first that counted"


def test_a_canary_that_was_ill_vouches_again_after_two_healthy_probes() -> None:
    ill, _ = probed(canary(), ILL, ILL)
    better, changes = probed(ill, None)
    assert (changes, better.in_doubt, at_the_end(better).vouches) == ([None], True, False)
    well, changes = probed(better, None)
    assert (changes, well.in_doubt, at_the_end(well).vouches) == ([CanaryChange.IS_WELL_AGAIN], False, True)


def test_a_canary_that_alternates_is_one_alert_and_never_vouches() -> None:
    alternating, changes = probed(canary(), ILL, ILL, *(None, ILL) * 5)
    assert changes.count(CanaryChange.FELL_ILL) == 1
    assert CanaryChange.IS_WELL_AGAIN not in changes
    assert not at_the_end(alternating).vouches


def test_a_short_trouble_is_doubted_but_not_told() -> None:
    well, changes = probed(canary(), ILL, None, None)
    assert changes == [None, None, None]
    assert at_the_end(well).vouches


def test_a_probe_that_comes_late_changes_nothing() -> None:
    ill, _ = probed(canary(), ILL)
    assert ill.began_at is not None
    assert take(ill, verdict(None, ill.began_at - SECOND), ended_at=ill.began_at) == (ill, None)


def test_after_a_clock_was_set_back_the_watch_goes_on() -> None:
    ahead = canary(began_at=NOW + timedelta(hours=1), ended_at=NOW + timedelta(hours=1))
    after, _ = take(ahead, verdict(ILL, NOW), ended_at=NOW)
    assert (after.outcome, after.began_at) == (Outcome.UNHEALTHY, NOW)


def test_the_first_ciphertext_is_kept_for_good() -> None:
    first = canary(baseline=None, verdict=None, began_at=None, ended_at=None, healthy_streak=0, counted_at=None)
    made = canary().baseline
    known, _ = take(first, verdict(), ended_at=NOW, baseline=made)
    assert known.baseline == made
    assert at_the_end(known).vouches, "a canary that was never ill need not prove that it is well again"
    later, _ = probed(known, None)
    assert later.baseline == made


@given(st.lists(st.one_of(st.none(), st.sampled_from(list(Cause))), max_size=30), st.floats(0.1, 200))
def test_whatever_a_canary_goes_through_its_alerts_alternate_and_doubt_ends_with_two_healthy_probes(
    row: list[Cause | None], every: float
) -> None:
    subject, changes = probed(canary(), *row, every=every)
    told = [change for change in changes if change is not None]
    assert told == [CanaryChange.FELL_ILL, CanaryChange.IS_WELL_AGAIN] * (len(told) // 2) + told[len(told) // 2 * 2 :]
    assert subject.told == (len(told) % 2 == 1)
    well, _ = probed(subject, None, None)
    assert at_the_end(well).vouches
    assert not well.told


# --- who speaks for a Region, and what proves anything ----------------------------------------------------------


HERE = canary()
THERE = canary(canary_id="eu-west-1.a", region="eu-west-1", account_id="333333333333")
ALSO_THERE = canary(canary_id="eu-west-1.b", region="eu-west-1")


def test_a_regions_own_canary_speaks_for_it_and_the_stacks_where_there_is_none() -> None:
    canaries = [THERE, HERE]
    assert speakers(canaries, "us-west-2") == ((HERE,), False)
    assert speakers(canaries, "eu-west-1") == ((THERE,), False)
    assert speakers(canaries, "ap-south-1") == ((HERE,), True)
    assert speakers([THERE], "ap-south-1") == ((), True), "another Region's canary knows nothing"


def test_a_canary_that_stands_in_says_so() -> None:
    evidence = vouch([HERE, THERE], "ap-south-1", since=NOW, now=NOW)
    assert (evidence.vouches, evidence.partial) == (True, True)
    assert "the nearest to ap-south-1 that there is" in evidence.reason


def test_all_canaries_of_a_region_must_be_well() -> None:
    ill = changed(ALSO_THERE, verdict=verdict(ILL))
    assert vouch([HERE, THERE, ALSO_THERE], "eu-west-1", since=NOW, now=NOW).vouches
    evidence = vouch([HERE, THERE, ill], "eu-west-1", since=NOW, now=NOW)
    assert not evidence.vouches
    assert "eu-west-1.b" in evidence.reason
    assert "ROLE_NOT_ASSUMABLE" in evidence.reason


def test_an_ill_canary_of_another_region_takes_nothing_away() -> None:
    ill = changed(THERE, verdict=verdict(ILL))
    assert vouch([HERE, ill], "us-west-2", since=NOW, now=NOW).vouches


def test_without_any_canary_nobody_vouches() -> None:
    evidence = vouch([], "us-west-2", since=NOW, now=NOW)
    assert (evidence.vouches, evidence.partial) == (False, True)


def test_a_canary_that_was_never_probed_does_not_vouch() -> None:
    unborn = canary(verdict=None, began_at=None, ended_at=None)
    assert not vouch([unborn], "us-west-2", since=NOW, now=NOW).vouches


@pytest.mark.parametrize(
    ("began", "now", "vouches"),
    [
        pytest.param(timedelta(), timedelta(), True, id="begun when the denial came"),
        pytest.param(-timedelta(milliseconds=1), timedelta(), False, id="begun before the denial came"),
        pytest.param(SECOND, SECOND, True, id="begun after it"),
        pytest.param(2 * SECOND, SECOND, False, id="from the future"),
        pytest.param(SECOND, SECOND + STALE_AFTER, True, id="as old as it may be"),
        pytest.param(SECOND, 2 * SECOND + STALE_AFTER, False, id="too old"),
    ],
)
def test_only_a_probe_begun_after_the_denial_and_not_long_ago_proves_anything(
    began: timedelta, now: timedelta, *, vouches: bool
) -> None:
    subject = canary(began_at=NOW + began, ended_at=NOW + began)
    assert vouch([subject], "us-west-2", since=NOW, now=NOW + now).vouches is vouches


def test_a_canary_is_probed_again_for_a_denial_unless_it_has_answered() -> None:
    later = NOW + 5 * SECOND
    assert is_answered(canary(began_at=later, ended_at=later), since=NOW, now=later)
    assert not is_answered(canary(), since=later, now=later), "well, but that was before the denial"
    assert is_answered(canary(verdict=verdict(ILL)), since=later, now=later), "ill a moment ago"
    assert is_answered(canary(in_doubt=True), since=later, now=later)
    assert not is_answered(canary(verdict=verdict(ILL)), since=later, now=NOW + 11 * SECOND)
    assert not is_answered(canary(verdict=None, began_at=None, ended_at=None), since=NOW, now=NOW)


# --- what becomes of a verdict ----------------------------------------------------------------------------------


NOBODY = Evidence(vouches=False, partial=False, reason="the canary stack is UNHEALTHY itself")
SOMEBODY = Evidence(vouches=True, partial=False, reason="the canary stack was HEALTHY")


@pytest.mark.parametrize("cause", [None, *Cause])
def test_only_a_denial_that_nobody_vouches_against_becomes_unknown(cause: Cause | None) -> None:
    found = verdict(cause, aws_error_code="AccessDenied")
    assert believe(found, SOMEBODY) == found
    doubted = believe(found, NOBODY)
    if cause not in DOUBTED_CAUSES:
        assert doubted == found
        return
    assert (doubted.outcome, doubted.cause) == (Outcome.UNKNOWN, Cause.OWN_CREDENTIALS)
    assert (doubted.operation, doubted.aws_error_code) == ("Encrypt", "AccessDenied")
    assert doubted.probed_at == found.probed_at
    assert doubted.remediation is None, "nothing that the customer could do"
    assert NOBODY.reason in doubted.message


def test_the_doubted_causes_are_those_that_a_fault_of_our_own_role_looks_like() -> None:
    assert {Cause.ACCESS_DENIED, Cause.ROLE_NOT_ASSUMABLE} == DOUBTED_CAUSES
    assert {OUTCOME_OF_CAUSE[cause] for cause in DOUBTED_CAUSES} == {Outcome.UNHEALTHY}
    assert OUTCOME_OF_CAUSE[Cause.OWN_CREDENTIALS] is Outcome.UNKNOWN


def test_a_denial_came_when_its_probe_ended() -> None:
    assert ended_at(verdict(ILL, NOW, latency_ms=1500)) == NOW + timedelta(seconds=1.5)


# --- what is shown and told -------------------------------------------------------------------------------------


def test_an_old_probe_is_never_shown_as_green() -> None:
    assert outcome_now(canary(), NOW + STALE_AFTER) is Outcome.HEALTHY
    assert outcome_now(canary(), NOW + STALE_AFTER + SECOND) is Outcome.UNKNOWN
    assert outcome_now(canary(verdict=None, ended_at=None), NOW) is Outcome.UNKNOWN


def test_the_operator_is_told_what_it_means_and_firing_and_resolved_are_one_problem() -> None:
    ill, _ = probed(canary(), ILL, ILL)
    firing = notice_of(ill, CanaryChange.FELL_ILL)
    assert (firing.type, firing.status, firing.severity) == (
        AlertType.CANARY_UNHEALTHY,
        AlertStatus.FIRING,
        Severity.CRITICAL,
    )
    assert firing.cause.code == ILL
    for part in ("The canary stack in us-west-2 of account 111111111111", "UNHEALTHY", "denials of keys in us-west-2"):
        assert part in firing.cause.message
    assert "in Regions without a canary of their own" in firing.cause.message
    elsewhere = notice_of(changed(ill, canary_id="eu-west-1.a", region="eu-west-1"), CanaryChange.FELL_ILL)
    assert "denials of keys in eu-west-1 count as UNKNOWN" in elsewhere.cause.message
    assert firing.remediation.summary.startswith("Look at KeyVigil's own role")
    well, _ = probed(ill, None, None)
    for change in (CanaryChange.IS_WELL_AGAIN, CanaryChange.WAS_REMOVED):
        resolved = notice_of(well, change)
        assert (resolved.status, resolved.subject) == (AlertStatus.RESOLVED, firing.subject)


# --- the stack's own --------------------------------------------------------------------------------------------


OWN = OwnCanary(key_arn=canary().key_arn, role_arn=canary().role_arn, external_id=canary().external_id)


def test_the_stacks_own_makes_itself_known() -> None:
    unborn = known_as(OWN, None, NOW)
    assert (unborn.canary_id, unborn.region, unborn.account_id) == (STACKS_OWN, "us-west-2", "111111111111")
    assert (unborn.baseline, unborn.outcome, unborn.version) == (None, Outcome.UNKNOWN, 0)


def test_the_stacks_own_is_as_the_table_has_it() -> None:
    stored = canary(version=7, in_doubt=True)
    assert known_as(OWN, stored, NOW) == stored


def test_a_role_that_was_made_anew_is_asked_from_now_on() -> None:
    stored = canary(role_arn="arn:aws:iam::111111111111:role/the-old-one", version=7)
    known = known_as(OWN, stored, NOW)
    assert (known.role_arn, known.baseline, known.version) == (OWN.role_arn, stored.baseline, 7)


def test_another_key_takes_the_old_ones_place_and_is_not_believed_sooner() -> None:
    stored = canary(key_arn=KEY_ARN.replace(CUSTOMER, "111111111111").replace("1234", "9999"), version=7, told=True)
    known = known_as(OWN, changed(stored, in_doubt=True), NOW)
    assert (known.key_arn, known.baseline, known.verdict, known.version) == (OWN.key_arn, None, None, 7)
    assert (known.told, known.in_doubt) == (True, True)
