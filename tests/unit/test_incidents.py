"""What is to be done about an incident: lock, hold, observe, wait; unlock; mend."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from keyvigil.domain.brake import BrakeDecision, BrakeVerb
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.held import HeldFor
from keyvigil.domain.incidents import (
    Decision,
    Incident,
    IncidentStatus,
    LockoutVerb,
    Mending,
    PersonsDecision,
    RecoveryVerb,
    WorkflowKind,
    ask_execution,
    decide_lockout,
    decide_mending,
    decide_recovery,
    may_decide,
    newest_executions,
    note_opening,
    restart_after,
)
from keyvigil.domain.keys import Health, Key, KeyStatus
from keyvigil.domain.projects import Approval, Enforcement
from keyvigil.domain.verdicts import Cause
from tests.examples import NOW, cluster, incident, key, project, verdict

PROBES = 3
GO = BrakeDecision(verb=BrakeVerb.PROCEED, reason="nothing speaks against it")


def holding(what: HeldFor = HeldFor.BRAKE, verb: BrakeVerb = BrakeVerb.HOLD) -> BrakeDecision:
    return BrakeDecision(verb=verb, held_for=what, reason="it might be our own fault")


def decided(decision: Decision, held_for: HeldFor | None = None) -> PersonsDecision:
    return PersonsDecision(decision=decision, reason="I looked", by="arn:eve", at=NOW, held_for=held_for)


def broken(cause: Cause = Cause.KEY_DISABLED, **health: Any) -> Key:
    """A key whose outage is confirmed."""
    confirmed = Health(
        status=KeyStatus.UNHEALTHY,
        failing_streak=13,
        definite_streak=3,
        failing_since=NOW - timedelta(minutes=6),
        counted_at=NOW,
        confirmed=True,
    )
    return key(
        health=Health(**{**{name: getattr(confirmed, name) for name in confirmed.__slots__}, **health}),
        verdict=verdict(cause),
        open_incident_id="01JINCIDENT",
    )


def test_a_confirmed_definite_outage_of_an_enforcing_project_locks() -> None:
    decision = decide_lockout(incident(confirmed_at=NOW), broken(), project(), GO, probes=PROBES, now=NOW)
    assert decision.verb is LockoutVerb.LOCK


@pytest.mark.parametrize("status", [KeyStatus.HEALTHY, KeyStatus.SUSPECT, KeyStatus.RECOVERING])
def test_nothing_but_unhealthy_locks(status: KeyStatus) -> None:
    decision = decide_lockout(incident(), broken(status=status), project(), GO, probes=PROBES, now=NOW)
    assert decision.verb is LockoutVerb.WAIT


def test_an_unhealthy_key_whose_last_probe_got_no_answer_does_not_lock() -> None:
    decision = decide_lockout(incident(), broken(Cause.THROTTLED), project(), GO, probes=PROBES, now=NOW)
    assert decision.verb is LockoutVerb.WAIT


def test_an_unhealthy_key_is_confirmed_afresh_before_it_locks() -> None:
    decision = decide_lockout(incident(), broken(definite_streak=2), project(), GO, probes=PROBES, now=NOW)
    assert decision.verb is LockoutVerb.WAIT


def test_a_project_that_observes_locks_nothing() -> None:
    observing = project(enforcement=Enforcement.OBSERVE)
    decision = decide_lockout(incident(), broken(), observing, GO, probes=PROBES, now=NOW)
    assert decision.verb is LockoutVerb.OBSERVE


@pytest.mark.parametrize("verb", [BrakeVerb.HOLD, BrakeVerb.ENGAGE])
@pytest.mark.parametrize("what", [HeldFor.BRAKE, HeldFor.APPROVAL, HeldFor.CEILING])
def test_what_the_brake_holds_is_held_for_what_the_brake_says(what: HeldFor, verb: BrakeVerb) -> None:
    decision = decide_lockout(incident(), broken(), project(), holding(what, verb), probes=PROBES, now=NOW)
    assert (decision.verb, decision.held_for) == (LockoutVerb.HOLD, what)


def test_an_approval_lifts_approval_grace_and_flapping() -> None:
    approved = incident(confirmed_at=NOW, flapping=True, decision=decided(Decision.APPROVE))
    careful = project(approval=Approval.MANUAL, grace_minutes=30)
    decision = decide_lockout(approved, broken(), careful, holding(HeldFor.APPROVAL), probes=PROBES, now=NOW)
    assert decision.verb is LockoutVerb.LOCK
    assert "arn:eve approved" in decision.reason


@pytest.mark.parametrize("what", [HeldFor.BRAKE, HeldFor.CEILING])
def test_an_approval_lifts_a_brake_or_a_ceiling_only_if_the_person_had_seen_it(what: HeldFor) -> None:
    knew, did_not_know = decided(Decision.APPROVE, what), decided(Decision.APPROVE, HeldFor.APPROVAL)
    about = (broken(), project(), holding(what))
    assert decide_lockout(incident(decision=knew), *about, probes=PROBES, now=NOW).verb is LockoutVerb.LOCK
    held = decide_lockout(incident(decision=did_not_know), *about, probes=PROBES, now=NOW)
    assert (held.verb, held.held_for) == (LockoutVerb.HOLD, what)


def test_an_approval_does_not_replace_the_confirmation() -> None:
    approved = incident(decision=decided(Decision.APPROVE))
    decision = decide_lockout(approved, broken(definite_streak=2), project(), GO, probes=PROBES, now=NOW)
    assert decision.verb is LockoutVerb.WAIT


def test_a_person_who_holds_an_incident_holds_it_whatever_the_brake_says() -> None:
    held = incident(confirmed_at=NOW, decision=decided(Decision.HOLD))
    decision = decide_lockout(held, broken(), project(), GO, probes=PROBES, now=NOW)
    assert (decision.verb, decision.held_for) == (LockoutVerb.HOLD, HeldFor.OPERATOR)


def test_a_dismissed_incident_locks_nothing_and_unlocks_what_is_locked() -> None:
    dismissed = incident(status=IncidentStatus.LOCKED, decision=decided(Decision.DISMISS))
    assert decide_lockout(dismissed, broken(), project(), GO, probes=PROBES, now=NOW).verb is LockoutVerb.STOP
    recovery = decide_recovery(dismissed, broken(), project(), holds_clusters=True)
    assert recovery.verb is RecoveryVerb.UNLOCK


def test_the_third_incident_within_an_hour_is_held_as_flapping() -> None:
    opened: tuple[datetime, ...] = ()
    flaps = []
    for minutes in (0, 20, 59, 79, 200):
        opened, flapping = note_opening(opened, NOW + timedelta(minutes=minutes))
        flaps.append(flapping)
    assert flaps == [False, False, True, True, False]
    decision = decide_lockout(incident(flapping=True), broken(), project(), GO, probes=PROBES, now=NOW)
    assert (decision.verb, decision.held_for) == (LockoutVerb.HOLD, HeldFor.FLAPPING)


@pytest.mark.parametrize("status", set(IncidentStatus) - {IncidentStatus.RESOLVED})
def test_an_incident_is_held_only_before_its_lockout_and_dismissed_or_approved_at_any_time(
    status: IncidentStatus,
) -> None:
    about = incident(status=status)
    before = {IncidentStatus.CONFIRMING, IncidentStatus.HELD, IncidentStatus.OBSERVED, IncidentStatus.DISMISSED}
    assert may_decide(about, Decision.HOLD)[0] is (status in before)
    assert may_decide(about, Decision.DISMISS)[0]
    assert may_decide(about, Decision.APPROVE)[0]


def test_an_incident_whose_key_recovered_can_only_be_dismissed() -> None:
    left = incident(status=IncidentStatus.UNLOCKING, recovered_at=NOW)
    assert [decision for decision in Decision if may_decide(left, decision)[0]] == [Decision.DISMISS]


@pytest.mark.parametrize("over", [incident(status=IncidentStatus.RESOLVED, recovered_at=at) for at in (None, NOW)])
def test_nothing_is_left_to_decide_when_it_is_over(over: Incident) -> None:
    assert not any(may_decide(over, decision)[0] for decision in Decision)


def test_a_project_that_wants_approval_is_held_for_it() -> None:
    manual = project(approval=Approval.MANUAL)
    decision = decide_lockout(incident(confirmed_at=NOW), broken(), manual, GO, probes=PROBES, now=NOW)
    assert (decision.verb, decision.held_for) == (LockoutVerb.HOLD, HeldFor.APPROVAL)


def test_a_project_s_grace_is_waited_for_and_then_it_locks() -> None:
    gracious, confirmed = project(grace_minutes=30), incident(confirmed_at=NOW)
    early = decide_lockout(confirmed, broken(), gracious, GO, probes=PROBES, now=NOW + timedelta(minutes=29))
    late = decide_lockout(confirmed, broken(), gracious, GO, probes=PROBES, now=NOW + timedelta(minutes=30))
    assert (early.verb, early.held_for) == (LockoutVerb.HOLD, HeldFor.GRACE)
    assert late.verb is LockoutVerb.LOCK


@pytest.mark.parametrize(
    "over",
    [incident(status=IncidentStatus.RESOLVED), incident(recovered_at=NOW), incident(incident_id="01JEARLIER")],
    ids=["resolved", "recovered", "superseded"],
)
def test_an_incident_that_is_over_locks_nothing(over: Any) -> None:
    assert decide_lockout(over, broken(), project(), GO, probes=PROBES, now=NOW).verb is LockoutVerb.STOP


def test_clusters_are_unlocked_once_recovery_is_proved() -> None:
    decision = decide_recovery(incident(status=IncidentStatus.LOCKED), key(), project(), holds_clusters=True)
    assert decision.verb is RecoveryVerb.UNLOCK


def test_a_recovery_waits_until_the_locks_under_way_have_settled() -> None:
    decision = decide_recovery(incident(status=IncidentStatus.LOCKING), key(), project(), holds_clusters=True)
    assert decision.verb is RecoveryVerb.WAIT


@pytest.mark.parametrize(
    ("status", "verb"),
    [
        (KeyStatus.UNHEALTHY, RecoveryVerb.STOP),
        (KeyStatus.SUSPECT, RecoveryVerb.WAIT),
        (KeyStatus.RECOVERING, RecoveryVerb.WAIT),
    ],
)
def test_a_key_that_is_not_proved_usable_unlocks_nothing(status: KeyStatus, verb: RecoveryVerb) -> None:
    decision = decide_recovery(
        incident(status=IncidentStatus.LOCKED), broken(status=status), project(), holds_clusters=True
    )
    assert decision.verb is verb


def test_where_nothing_is_locked_a_project_that_observes_has_nothing_to_unlock() -> None:
    observing = project(enforcement=Enforcement.OBSERVE)
    observed = incident(status=IncidentStatus.OBSERVED)
    assert decide_recovery(observed, broken(), observing, holds_clusters=False).verb is RecoveryVerb.STOP


def test_a_project_that_stops_enforcing_is_unlocked_whatever_its_key() -> None:
    observing = project(enforcement=Enforcement.OBSERVE)
    assert (
        decide_recovery(incident(status=IncidentStatus.LOCKED), broken(), observing, holds_clusters=True).verb
        is RecoveryVerb.UNLOCK
    )


FAILED = cluster(status=ClusterStatus.LOCK_FAILED, locked_by_incident_id="01JINCIDENT")
DISMISS = decided(Decision.DISMISS)
LOCKED = cluster(status=ClusterStatus.LOCKED, locked_by_incident_id="01JINCIDENT")
ENFORCING, OBSERVING = project(), project(enforcement=Enforcement.OBSERVE)


@pytest.mark.parametrize(
    ("about", "of_key", "of_project", "clusters", "mending"),
    [
        (incident(status=IncidentStatus.RESOLVED), key(), ENFORCING, [], Mending.NONE),
        (incident(status=IncidentStatus.LOCKING), broken(), ENFORCING, [], Mending.SETTLE_LOCKOUT),
        (incident(status=IncidentStatus.LOCKED), key(), ENFORCING, [LOCKED], Mending.START_RECOVERY),
        (incident(status=IncidentStatus.UNLOCKING), key(), ENFORCING, [LOCKED], Mending.START_RECOVERY),
        (incident(status=IncidentStatus.LOCKED), broken(), ENFORCING, [LOCKED], Mending.NONE),
        (incident(status=IncidentStatus.LOCKED), broken(), ENFORCING, [LOCKED, cluster()], Mending.START_LOCKOUT),
        (incident(status=IncidentStatus.LOCKED), broken(), OBSERVING, [LOCKED], Mending.START_RECOVERY),
        (incident(status=IncidentStatus.UNLOCKING), key(), ENFORCING, [cluster()], Mending.SETTLE_RECOVERY),
        (incident(status=IncidentStatus.CONFIRMING), broken(), ENFORCING, [cluster()], Mending.START_LOCKOUT),
        (incident(status=IncidentStatus.OBSERVED), broken(), ENFORCING, [cluster()], Mending.START_LOCKOUT),
        (incident(status=IncidentStatus.OBSERVED), broken(), OBSERVING, [cluster()], Mending.NONE),
        (incident(status=IncidentStatus.CONFIRMING), broken(), OBSERVING, [cluster()], Mending.START_LOCKOUT),
        (incident(status=IncidentStatus.DISMISSED, decision=DISMISS), broken(), ENFORCING, [cluster()], Mending.NONE),
        (
            incident(status=IncidentStatus.LOCKED, decision=DISMISS),
            broken(),
            ENFORCING,
            [LOCKED],
            Mending.START_RECOVERY,
        ),
        (
            incident(status=IncidentStatus.UNLOCKING, decision=DISMISS),
            broken(),
            ENFORCING,
            [cluster()],
            Mending.START_RECOVERY,
        ),
        (incident(status=IncidentStatus.DISMISSED, decision=DISMISS), key(), ENFORCING, [], Mending.SETTLE_RECOVERY),
        (incident(status=IncidentStatus.HELD), broken(), ENFORCING, [cluster()], Mending.START_LOCKOUT),
        (incident(incident_id="01JEARLIER"), broken(), ENFORCING, [LOCKED], Mending.SETTLE_RECOVERY),
        (incident(status=IncidentStatus.PARTLY_LOCKED), broken(), ENFORCING, [FAILED], Mending.START_LOCKOUT),
        (incident(status=IncidentStatus.PARTLY_LOCKED), broken(), ENFORCING, [LOCKED], Mending.SETTLE_LOCKOUT),
        (incident(status=IncidentStatus.UNLOCKING), broken(), ENFORCING, [LOCKED], Mending.SETTLE_RECOVERY),
    ],
)
def test_what_reconciling_does_about_an_incident_that_nobody_works_on(
    about: Any, of_key: Key, of_project: Any, clusters: list[Any], mending: Mending
) -> None:
    assert decide_mending(about, of_key, of_project, clusters, GO, probes=PROBES, now=NOW).mending is mending


def test_an_incident_that_the_brake_holds_is_left_held_and_taken_up_when_it_lets_go() -> None:
    held = incident(status=IncidentStatus.HELD, held_for=HeldFor.BRAKE)
    about = (held, broken(Cause.ACCESS_DENIED), ENFORCING, [cluster()])
    assert decide_mending(*about, holding(), probes=PROBES, now=NOW).mending is Mending.NONE
    assert decide_mending(*about, GO, probes=PROBES, now=NOW).mending is Mending.START_LOCKOUT


def test_an_incident_that_waits_for_something_else_by_now_says_so() -> None:
    held = incident(status=IncidentStatus.HELD, held_for=HeldFor.GRACE)
    decision = decide_mending(held, broken(), ENFORCING, [cluster()], holding(), probes=PROBES, now=NOW)
    assert decision.mending is Mending.START_LOCKOUT


def test_reconciling_leaves_an_execution_that_was_just_asked_for_alone() -> None:
    asked = incident(status=IncidentStatus.LOCKED, execution_asked_at=NOW)
    early = decide_mending(asked, key(), ENFORCING, [LOCKED], GO, probes=PROBES, now=NOW + timedelta(seconds=60))
    late = decide_mending(asked, key(), ENFORCING, [LOCKED], GO, probes=PROBES, now=NOW + timedelta(seconds=100))
    assert (early.mending, late.mending) == (Mending.NONE, Mending.START_RECOVERY)


def test_what_goes_on_failing_is_tried_again_less_and_less_often_but_never_given_up() -> None:
    waits = [restart_after(executions) for executions in range(1, 50)]
    assert waits[0] == timedelta(seconds=90)
    assert waits == sorted(waits)
    assert waits[-1] == timedelta(minutes=15)


def test_an_incident_keeps_the_newest_executions_and_counts_on() -> None:
    asked, name = incident(), ""
    for _ in range(100):
        asked, name = ask_execution(asked, WorkflowKind.RECOVERY, NOW)
    assert name == "01JINCIDENT-unlock-100"
    assert len(asked.executions) == 20
    asked, lock = ask_execution(asked, WorkflowKind.LOCKOUT, NOW)
    assert set(newest_executions(asked)) == {"01JINCIDENT-unlock-100", lock}


def test_executions_are_numbered_by_kind() -> None:
    names = []
    asked = incident()
    for kind in (WorkflowKind.LOCKOUT, WorkflowKind.RECOVERY, WorkflowKind.LOCKOUT):
        asked, name = ask_execution(asked, kind, NOW)
        names.append(name)
    assert names == ["01JINCIDENT-lock-1", "01JINCIDENT-unlock-1", "01JINCIDENT-lock-2"]
