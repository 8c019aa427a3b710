"""Recovery is proved, then quick: the whole of it, by the clock, with the real use cases."""

import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from keyvigil.domain.alerts import AlertStatus, AlertType
from keyvigil.domain.clusters import Cluster, ClusterStatus, LockAction, LockVia
from keyvigil.domain.held import HeldFor
from keyvigil.domain.incidents import LONGEST_RESTART, Decision, Incident, IncidentStatus, TimelineEntry
from keyvigil.domain.keys import KeyStatus, Trigger
from keyvigil.domain.verdicts import Cause
from keyvigil.use_cases.settle_lockout import TELL_AGAIN_AFTER
from tests.unit.fair_weather import FairWeather
from tests.unit.fair_weather_as_deployed import AsDeployed
from tests.unit.protocol_simulation import KEY, PROBES, PROJECT

MINUTE = timedelta(minutes=1)


@pytest.fixture(params=[FairWeather, AsDeployed])
def world(request: pytest.FixtureRequest) -> Iterator[FairWeather]:
    """Executions as the simulation writes them out, and as the definitions of the state machines have them."""
    made: FairWeather = request.param(LockVia.EVENT, LockVia.NONE)
    made.passes(2)
    yield made
    made.receivers.close()


def entries(world: FairWeather, what: str) -> list[TimelineEntry]:
    return [each for each in world.store.all(TimelineEntry) if each.what == what]


def asked(world: FairWeather, action: LockAction) -> list[datetime]:
    """When the control plane was asked."""
    return [at for at, request in world.asked if request.action is action]


def newest_incident(world: FairWeather) -> Incident:
    return max(world.store.all(Incident), key=lambda each: each.opened_at)


def breaks_and_is_locked(world: FairWeather) -> None:
    world.cause = Cause.KEY_DISABLED
    world.passes(5)
    assert world.is_all_locked()


# --- proved -------------------------------------------------------------------------------------------------------


def test_nothing_is_unlocked_before_confirmation_probes_in_a_row_were_healthy(world: FairWeather) -> None:
    breaks_and_is_locked(world)
    # One short of the proof, twice, then the proof.
    short: list[Cause | None] = [None] * (PROBES - 1)
    world.script = [*short, Cause.KEY_DISABLED, *short, Cause.KEY_DISABLED]
    world.cause = None
    world.passes(6)
    [unlocked] = asked(world, LockAction.UNLOCK)
    seen = [cause for at, cause in world.probed if at <= unlocked]
    assert seen[-PROBES - 1 :] == [Cause.KEY_DISABLED, *[None] * PROBES]
    assert world.is_all_free()


def test_a_throttled_probe_neither_proves_nor_refutes_a_recovery(world: FairWeather) -> None:
    breaks_and_is_locked(world)
    world.script = [None, Cause.THROTTLED, None, Cause.THROTTLED, None]
    world.cause = Cause.THROTTLED
    world.passes(6)
    assert world.is_all_free()


# --- then quick ---------------------------------------------------------------------------------------------------


def test_clusters_are_in_use_within_a_minute_of_the_proof(world: FairWeather) -> None:
    breaks_and_is_locked(world)
    world.cause = None
    world.passes(5)
    [incident] = world.store.all(Incident)
    assert incident.recovered_at is not None
    [unlocked] = asked(world, LockAction.UNLOCK)
    assert unlocked - incident.recovered_at < timedelta(seconds=15)
    assert all(each.status_changed_at - incident.recovered_at < MINUTE for each in world.store.all(Cluster))
    assert incident.resolved_at is not None
    assert incident.resolved_at - incident.recovered_at < MINUTE


def test_a_check_starts_a_recovery_at_once_and_no_sweep_is_needed(world: FairWeather) -> None:
    breaks_and_is_locked(world)
    world.sweeps = False
    world.passes(1)
    world.cause = None
    world.passes(30)
    assert world.is_all_locked()
    mended = world.clock.now()
    world.check(PROJECT, KEY, Trigger.REQUEST)
    world.passes(2)
    assert world.is_all_free()
    assert max(each.status_changed_at for each in world.store.all(Cluster)) - mended < MINUTE


def test_an_execution_that_was_lost_is_made_up_for(world: FairWeather) -> None:
    breaks_and_is_locked(world)
    world.cause = None
    world.check(PROJECT, KEY, Trigger.REQUEST)
    world.agenda.run(until=world.agenda.seconds + 5)
    assert world.executions.running
    world.executions.running.clear()
    world.passes(6)
    assert world.is_all_free()


# --- a key that breaks again --------------------------------------------------------------------------------------


def test_a_key_that_breaks_again_while_its_recovery_is_being_proved_unlocks_nothing(world: FairWeather) -> None:
    breaks_and_is_locked(world)
    world.script = [None, None]
    world.passes(5)
    assert entries(world, "key.recovering")
    assert entries(world, "key.relapsed")
    assert asked(world, LockAction.UNLOCK) == []
    assert world.is_all_locked()


def test_a_key_that_breaks_again_between_the_proof_and_the_unlock_unlocks_nothing(world: FairWeather) -> None:
    breaks_and_is_locked(world)

    def break_again() -> None:
        world.cause = Cause.KEY_DISABLED
        world.check(PROJECT, KEY, Trigger.REQUEST)

    world.when("recovery.begun", break_again)
    world.cause = None
    world.passes(6)
    assert entries(world, "recovery.begun")
    assert entries(world, "cluster.unlock_requested") == []
    assert world.is_all_locked()
    assert {each.locked_by_incident_id for each in world.store.all(Cluster)} == {newest_incident(world).incident_id}
    world.cause = None
    world.passes(6)
    assert world.is_all_free()
    assert {each.status for each in world.store.all(Incident)} == {IncidentStatus.RESOLVED}


# --- unlocks that fail --------------------------------------------------------------------------------------------


def test_unlocks_are_retried_until_they_succeed_and_told_at_the_first_failure_and_hourly(world: FairWeather) -> None:
    breaks_and_is_locked(world)
    world.fails = True
    world.cause = None
    world.passes(6 * 60)
    [incident] = world.store.all(Incident)
    recovered = incident.recovered_at
    assert recovered is not None
    told = [alert.occurred_at for alert in world.store.alerts() if alert.type is AlertType.CLUSTER_UNLOCK_FAILED]
    assert told[0] - recovered < MINUTE
    gaps = [later - earlier for earlier, later in itertools.pairwise(told)]
    assert len(gaps) >= 4
    # Hourly is: at the first failure that is an hour after the one that was told.
    assert all(TELL_AGAIN_AFTER <= gap <= TELL_AGAIN_AFTER + LONGEST_RESTART + 2 * MINUTE for gap in gaps)
    tries = asked(world, LockAction.UNLOCK)
    assert all(later - earlier <= LONGEST_RESTART + 2 * MINUTE for earlier, later in itertools.pairwise(tries))
    assert incident.status is IncidentStatus.UNLOCKING
    world.fails = False
    world.passes(20)
    assert world.is_all_free()
    assert newest_incident(world).status is IncidentStatus.RESOLVED
    last = [alert for alert in world.store.alerts() if alert.type is AlertType.CLUSTER_UNLOCKED][-1]
    assert last.status is AlertStatus.RESOLVED
    assert not world.broken


# --- flapping -----------------------------------------------------------------------------------------------------


def flaps(world: FairWeather, times: int) -> None:
    for _ in range(times):
        breaks_and_is_locked(world)
        world.cause = None
        world.passes(6)
        assert world.is_all_free()


def test_the_third_incident_of_a_key_within_an_hour_is_held_as_flapping_until_a_person_decides(
    world: FairWeather,
) -> None:
    flaps(world, 2)
    world.cause = Cause.KEY_DISABLED
    world.passes(10)
    third = newest_incident(world)
    assert (third.status, third.held_for) == (IncidentStatus.HELD, HeldFor.FLAPPING)
    assert world.shown() == {ClusterStatus.ACTIVE}
    assert [each.type for each in world.store.alerts()].count(AlertType.APPROVAL_NEEDED) == 1
    world.person(PROJECT, third.incident_id, Decision.APPROVE, reason="it is meant", by="arn:eve")
    world.passes(3)
    assert world.is_all_locked()


def test_a_flapping_key_that_comes_back_needs_nobody(world: FairWeather) -> None:
    flaps(world, 2)
    world.cause = Cause.KEY_DISABLED
    world.passes(10)
    world.cause = None
    world.passes(6)
    assert newest_incident(world).status is IncidentStatus.RESOLVED
    assert world.is_all_free()


def test_a_third_incident_after_more_than_an_hour_locks_like_any_other(world: FairWeather) -> None:
    flaps(world, 2)
    world.passes(61)
    breaks_and_is_locked(world)
    assert newest_incident(world).held_for is None


# --- while locks are under way ------------------------------------------------------------------------------------


def comes_back_while_locking(world: FairWeather) -> None:
    world.cause = Cause.KEY_DISABLED
    world.when("cluster.lock_requested", lambda: setattr(world, "cause", None))
    world.passes(4)
    assert world.the_key().health.status is KeyStatus.HEALTHY
    assert newest_incident(world).status is IncidentStatus.LOCKING


def test_a_recovery_waits_for_locks_under_way_to_settle_and_then_unlocks(world: FairWeather) -> None:
    world.answers_after = 280
    comes_back_while_locking(world)
    assert asked(world, LockAction.UNLOCK) == []
    world.passes(4)
    [locked] = [each.at for each in entries(world, "cluster.locked") if each.detail.startswith("c0")]
    [settled] = [each.at for each in entries(world, "incident.locked")]
    [unlocked] = asked(world, LockAction.UNLOCK)
    assert locked <= settled <= unlocked
    assert unlocked - settled < 2 * MINUTE
    world.passes(6)
    assert world.is_all_free()
    assert newest_incident(world).status is IncidentStatus.RESOLVED
    assert not world.broken


def test_a_recovery_waits_no_longer_for_a_lock_than_its_time_out(world: FairWeather) -> None:
    world.silent = True
    comes_back_while_locking(world)
    world.passes(1)
    world.silent = False
    world.passes(10)
    [failed] = [each.at for each in entries(world, "cluster.lock_failed")]
    [unlocked] = asked(world, LockAction.UNLOCK)
    assert failed <= unlocked
    assert unlocked - failed < 3 * MINUTE
    assert world.is_all_free()


def test_a_lock_that_is_carried_out_after_its_time_out_and_the_unlock_does_nothing(world: FairWeather) -> None:
    """The control plane finds the lock request in its queue when the cluster has been in use again for long."""
    world.silent = True
    comes_back_while_locking(world)
    world.passes(1)
    world.silent = False
    [(_, late)] = world.asked
    world.passes(10)
    assert world.is_all_free()
    assert world.receivers.take(late) == "failed"
    assert world.is_all_free()
