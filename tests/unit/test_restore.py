"""The table restored from a backup: what it says is old, and everything comes right by itself all the same."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from keyvigil.domain.clusters import Answer, Cluster, ClusterStatus, LockResult, LockVia
from keyvigil.domain.incidents import Incident, IncidentStatus, TimelineEntry
from keyvigil.domain.keys import KeyStatus
from keyvigil.domain.verdicts import Cause
from keyvigil.use_cases.assert_anew import AssertAnew
from keyvigil.use_cases.record_lock_result import LockAnswer
from tests.examples import NOW, cluster, key
from tests.fakes import CountingIds, changed
from tests.unit.fair_weather import FairWeather
from tests.unit.protocol_simulation import KEY, PROJECT
from tests.unit.simulated_receivers import settings


class DiedError(BaseException):
    """Whoever ran it was killed."""


class World(FairWeather):
    """A cluster for each way of locking."""

    def __init__(self) -> None:
        super().__init__(LockVia.EVENT, LockVia.LAMBDA, LockVia.SSM_AUTOMATION, LockVia.NONE)
        self.new_ids = CountingIds()
        self.new_ids._count = 10**6

    def assert_all_anew(self) -> int:
        return AssertAnew(self.store, self.clock, self.new_ids)().clusters


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    made.passes(2)
    yield made
    made.receivers.close()


def breaks_and_is_locked(world: World) -> None:
    world.cause = Cause.KEY_DISABLED
    world.passes(5)
    assert world.is_all_locked()


def comes_back(world: World) -> None:
    world.cause = None
    world.passes(5)
    assert world.is_all_free()


def test_clusters_locked_since_the_backup_come_back_although_the_table_knows_of_no_lock(world: World) -> None:
    backup = world.back_up()
    breaks_and_is_locked(world)
    world.restore(backup)
    world.cause = None
    assert world.assert_all_anew() == 3
    world.passes(6)
    assert world.is_all_free()
    assert {each.status for each in world.store.all(Incident)} == {IncidentStatus.RESOLVED}
    assert not world.broken


def test_clusters_locked_since_the_backup_stay_locked_while_the_key_is_still_broken(world: World) -> None:
    backup = world.back_up()
    breaks_and_is_locked(world)
    world.restore(backup)
    world.assert_all_anew()
    world.passes(6)
    assert world.is_all_locked()
    comes_back(world)
    assert not world.broken


def test_clusters_unlocked_since_the_backup_stay_in_use_once_the_key_is_proved(world: World) -> None:
    breaks_and_is_locked(world)
    backup = world.back_up()
    comes_back(world)
    world.restore(backup)
    world.assert_all_anew()
    world.passes(6)
    assert world.is_all_free()
    assert not world.broken


def test_clusters_unlocked_since_the_backup_are_locked_again_if_the_key_broke_again(world: World) -> None:
    """The table says LOCKED and nobody is: nothing but asking again shows it."""
    breaks_and_is_locked(world)
    backup = world.back_up()
    comes_back(world)
    world.restore(backup)
    world.cause = Cause.KEY_DISABLED
    world.assert_all_anew()
    world.passes(6)
    assert world.is_all_locked()
    assert not world.broken


@pytest.mark.parametrize("seconds", range(0, 200, 10))
def test_a_backup_of_any_moment_of_a_lockout_ends_right(world: World, seconds: int) -> None:
    world.cause = Cause.KEY_DISABLED
    world.agenda.run(until=world.agenda.seconds + seconds)
    backup = world.back_up()
    world.passes(5)
    comes_back(world)
    world.restore(backup)
    world.assert_all_anew()
    world.passes(8)
    assert world.is_all_free()
    assert {each.status for each in world.store.all(Incident)} == {IncidentStatus.RESOLVED}
    assert not world.broken


@pytest.mark.parametrize("seconds", range(0, 120, 10))
def test_a_backup_of_any_moment_of_a_recovery_ends_right(world: World, seconds: int) -> None:
    breaks_and_is_locked(world)
    world.cause = None
    world.agenda.run(until=world.agenda.seconds + seconds)
    backup = world.back_up()
    world.passes(5)
    breaks_and_is_locked(world)
    world.restore(backup)
    world.assert_all_anew()
    world.passes(8)
    assert world.is_all_locked()
    comes_back(world)
    assert not world.broken


def test_every_fence_rises_above_all_that_receivers_and_readers_have_seen(world: World) -> None:
    backup = world.back_up()
    breaks_and_is_locked(world)
    seen = {each.cluster_id: each.fence for each in world.store.all(Cluster)}
    world.restore(backup)
    world.assert_all_anew()
    assert all(each.fence > seen[each.cluster_id] for each in world.store.all(Cluster))


def test_a_fence_that_a_receiver_is_known_to_have_seen_may_be_named(world: World) -> None:
    """A clock that was ahead gave fences that the clock reaches only in a year."""
    far = 2**45
    AssertAnew(world.store, world.clock, world.new_ids)(above=far)
    assert {each.fence for each in world.store.all(Cluster)} == {far + 1}


def test_an_answer_from_before_the_restore_is_stale(world: World) -> None:
    world.cause = Cause.KEY_DISABLED
    began = world.agenda.seconds
    backup = next(
        backup
        for second in range(1, 200)
        if (backup := world.after_seconds(began + second)) and world.cluster("c0").status is ClusterStatus.LOCKING
    )
    asked = world.cluster("c0").fence
    world.passes(5)
    comes_back(world)
    newest = world.cluster("c0").fence
    world.restore(backup)
    assert world.cluster("c0").fence == asked
    world.assert_all_anew()
    for answered in (asked, newest):
        answer = LockAnswer(
            project_id=PROJECT, cluster_id="c0", fence=answered, result=LockResult.LOCKED, detail=None, by="late"
        )
        assert world.record(answer).answer is Answer.STALE


def test_executions_get_names_that_were_never_used(world: World) -> None:
    """Step Functions starts nothing under a name that was used; counting on from the backup would meet many."""
    breaks_and_is_locked(world)
    backup = world.back_up()
    [incident] = world.store.all(Incident)
    for number in range(1, 400):
        world.executions._started |= {f"{incident.incident_id}-{kind}-{number}" for kind in ("lock", "unlock")}
    world.restore(backup)
    world.assert_all_anew()
    world.cause = None
    world.passes(6)
    assert world.is_all_free()


def test_alerts_go_on_with_numbers_above_those_that_were_given_since_the_backup(world: World) -> None:
    backup = world.back_up()
    breaks_and_is_locked(world)
    given = max(alert.sequence for alert in world.notifier.bus)
    told = len(world.notifier.bus)
    world.restore(backup)
    world.cause = None
    world.assert_all_anew()
    world.passes(6)
    assert world.notifier.bus[told:]
    assert min(alert.sequence for alert in world.notifier.bus[told:]) > given


def test_nothing_is_locked_or_unlocked_for_what_was_probed_before_the_restore(world: World) -> None:
    breaks_and_is_locked(world)
    world.assert_all_anew()
    assert world.the_key().health.status is KeyStatus.UNHEALTHY
    assert (world.the_key().health.failing_streak, world.the_key().health.definite_streak) == (0, 0)
    comes_back(world)
    world.assert_all_anew()
    assert world.the_key().health.status is KeyStatus.RECOVERING
    assert world.the_key().health.healthy_streak == 0


def test_a_cluster_that_waited_for_its_key_at_the_backup_comes_back_too(world: World) -> None:
    """It may have been let in, and locked, since."""
    world.store.put(
        cluster(cluster_id="c4", lock=settings(LockVia.EVENT, 300), status=ClusterStatus.PENDING_KEY),
        key(clusters=5, pending_clusters=1, due_at=world.clock.now() + timedelta(seconds=1)),
    )
    backup = world.back_up()
    world.passes(2)
    breaks_and_is_locked(world)
    world.restore(backup)
    world.cause = None
    assert world.assert_all_anew() == 4
    assert world.the_key().pending_clusters == 0
    world.passes(6)
    assert world.is_all_free()


def test_a_key_without_receivers_needs_no_incident_and_is_probed_at_once(world: World) -> None:
    for each in ("c0", "c1", "c2"):
        world.store.put(cluster(cluster_id=each, lock=settings(LockVia.NONE, 300)))
    assert world.assert_all_anew() == 0
    assert world.store.all(Incident) == []
    assert world.the_key().health.status is KeyStatus.HEALTHY
    assert world.the_key().due_at == world.clock.now()


def test_the_timeline_says_that_the_table_was_restored(world: World) -> None:
    world.assert_all_anew()
    told = [(each.what, each.detail) for each in world.store.all(TimelineEntry)]
    assert told[0][0] == "incident.restored"
    assert ("cluster.in_doubt", "c0: it was ACTIVE") in told


def die() -> None:
    raise DiedError


def test_it_may_be_run_again_and_half_of_it_is_no_harm(world: World) -> None:
    backup = world.back_up()
    breaks_and_is_locked(world)
    world.restore(backup)
    world.cause = None
    world.after_commits[world.commits + 4] = die
    with pytest.raises(DiedError):
        world.assert_all_anew()
    world.passes(1)
    for _ in range(2):
        world.assert_all_anew()
    world.passes(8)
    assert world.is_all_free()
    assert {each.status for each in world.store.all(Incident)} == {IncidentStatus.RESOLVED}
    assert not world.broken


def test_a_writer_that_was_faster_is_waited_for(world: World) -> None:
    def resolve() -> None:
        found = world.the_key()
        world.store.items["key", PROJECT, KEY] = key(version=found.version + 1, clusters=4)

    world.store.before_commit = resolve
    assert world.assert_all_anew() == 3


def test_without_it_an_older_lock_still_wins_over_nothing(world: World) -> None:
    """What holds even if nobody runs it: new fences are above old ones, because milliseconds are."""
    breaks_and_is_locked(world)
    backup = world.back_up()
    comes_back(world)
    seen = world.cluster("c0").fence
    world.restore(backup)
    world.passes(6)
    assert world.is_all_free()
    assert world.cluster("c0").fence > seen


def test_a_key_that_broke_since_a_backup_of_unlocks_under_way_is_locked(world: World) -> None:
    """The table has its recovery as proved, and that is over."""
    breaks_and_is_locked(world)
    world.cause = None
    began = world.agenda.seconds
    backup = next(
        backup
        for second in range(1, 200)
        if (backup := world.after_seconds(began + second)) and world.cluster("c0").status is ClusterStatus.UNLOCKING
    )
    world.passes(5)
    world.restore(backup)
    world.cause = Cause.KEY_DISABLED
    world.assert_all_anew()
    world.passes(6)
    assert world.is_all_locked()
    assert not world.broken


def test_an_execution_from_before_that_still_waits_holds_nothing_up(world: World) -> None:
    """Nor does it matter that one was asked for a moment before the backup."""
    breaks_and_is_locked(world)
    [incident] = world.store.all(Incident)
    world.executions.running.add(f"{incident.incident_id}-lock-1")
    world.store.put(changed(incident, execution_asked_at=world.clock.now() + timedelta(minutes=30)))
    world.assert_all_anew()
    assert ClusterStatus.LOCKED not in {world.cluster(each).status for each in ("c0", "c1", "c2")}
    world.passes(6)
    assert world.is_all_locked()


def test_nobody_waits_for_the_answer_to_a_request_from_before(world: World) -> None:
    asked = cluster(cluster_id="c0", status=ClusterStatus.LOCKING, fence=5, task_token="t", receipt="r", respond_by=NOW)
    world.store.put(asked)
    world.assert_all_anew()
    found = world.cluster("c0")
    assert (found.task_token, found.receipt, found.respond_by) == (None, None, None)
    assert world.store.overdue_clusters(world.clock.now()) == []


def test_an_incident_that_ends_meanwhile_holds_no_cluster(world: World) -> None:
    def end() -> None:
        found = world.the_key()
        [incident] = world.store.all(Incident)
        over = changed(incident, status=IncidentStatus.RESOLVED, version=incident.version + 1)
        world.store.items["incident", PROJECT, incident.incident_id] = over
        world.store.items["key", PROJECT, KEY] = changed(found, open_incident_id=None, version=found.version + 1)

    def end_before_the_next() -> None:
        world.store.before_commit = end

    # The key and its incident, then c0 and c1: the incident ends just before the last one is put under it.
    world.after_commits[world.commits + 3] = end_before_the_next
    world.assert_all_anew()
    holding = {world.cluster(each).locked_by_incident_id for each in ("c0", "c1", "c2")}
    assert holding == {world.the_key().open_incident_id}
