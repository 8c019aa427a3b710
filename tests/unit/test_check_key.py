"""Checking a key: probe, decide, commit in one transaction."""

import itertools
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvigil.domain.alerts import AlertStatus, AlertType, OutboxRow, Severity, Target
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.incidents import Decision, Incident, IncidentStatus, TimelineEntry, WorkflowKind
from keyvigil.domain.keys import CloserLook, KeyFacts, KeyStatus, Rotation, Trigger, is_closer_look_due
from keyvigil.domain.verdicts import OUTCOME_OF_CAUSE, Cause, Outcome
from keyvigil.errors import ConflictError, NotFoundError
from keyvigil.ports import ProbeAnswer, Put
from keyvigil.use_cases.check_key import CheckKey, CheckResult
from keyvigil.use_cases.decide_incident import DecideIncident
from tests.examples import KEY_ID, NOW, cluster, key, project, verdict
from tests.fakes import CountingIds, FakeClock, MemoryStore, ScriptedProber, changed, no_doubt


class World:
    """One key under watch, in memory."""

    def __init__(self) -> None:
        self.store, self.clock, self.prober = MemoryStore(), FakeClock(NOW), ScriptedProber()
        self.store.put(project(), key())
        self.check = CheckKey(self.store, self.prober, self.clock, CountingIds(), doubt=no_doubt, confirmation_probes=3)

    def probe(self, cause: Cause | None, *, seconds: float = 10, trigger: Trigger = Trigger.SCHEDULE) -> CheckResult:
        self.clock.advance(seconds)
        self.prober.answers = [ProbeAnswer(verdict=verdict(cause, self.clock.now()), facts=KeyFacts())]
        return self.check("acme-prod", KEY_ID, trigger)

    def look(self, facts: KeyFacts | None, *, trigger: Trigger = Trigger.SCHEDULE, minutes: float = 1) -> CheckResult:
        """A probe that finds the key healthy, and shows these facts."""
        self.clock.advance(minutes * 60)
        self.prober.answers = [ProbeAnswer(verdict=verdict(None, self.clock.now()), facts=facts)]
        return self.check("acme-prod", KEY_ID, trigger)

    def incident(self) -> Incident:
        (found,) = self.store.all(Incident)
        return found

    def alert_types(self) -> list[AlertType]:
        return [alert.type for alert in self.store.alerts()]


@pytest.fixture
def world() -> World:
    return World()


def test_a_healthy_probe_writes_the_key_and_nothing_else(world: World) -> None:
    result = world.probe(None)
    assert result.probed
    assert result.key.last_probed_at == world.clock.now()
    assert result.key.last_trigger is Trigger.SCHEDULE
    (writes,) = world.store.commits
    assert len(writes) == 1


def test_the_first_unhealthy_verdict_opens_an_incident_and_tells_it_in_the_same_transaction(world: World) -> None:
    world.store.put(cluster(cluster_id="b"), cluster(cluster_id="a"))
    result = world.probe(Cause.KEY_DISABLED)
    incident = world.incident()
    assert result.key.health.status is KeyStatus.SUSPECT
    assert result.key.open_incident_id == incident.incident_id
    assert incident.status is IncidentStatus.CONFIRMING
    assert [each.cluster_id for each in incident.clusters] == ["a", "b"]
    (writes,) = world.store.commits
    kinds = sorted(type(write.entity).__name__ for write in writes)
    assert kinds == ["ActorSearch", "Incident", "Key", "OutboxRow", "OutboxRow", "TimelineEntry"]
    (start,) = world.store.starts()
    assert (start.workflow, start.name) == (WorkflowKind.LOCKOUT, f"{incident.incident_id}-lock-1")
    (alert,) = world.store.alerts()
    assert alert.type is AlertType.KEY_SUSPECT
    assert [each.cluster_id for each in alert.clusters] == ["a", "b"]


def test_an_outage_from_suspicion_to_false_alarm_is_resolved_unconfirmed(world: World) -> None:
    world.probe(Cause.KEY_DISABLED)
    result = [world.probe(None) for _ in range(3)][-1]
    assert result.key.health.status is KeyStatus.HEALTHY
    assert result.key.open_incident_id is None
    incident = world.incident()
    assert incident.status is IncidentStatus.RESOLVED
    assert incident.confirmed_at is None
    assert incident.recovered_at == incident.resolved_at == world.clock.now()
    assert world.alert_types() == [AlertType.KEY_SUSPECT, AlertType.KEY_RECOVERED]


def test_a_confirmed_outage_is_told_once_and_says_so_to_the_workflow(world: World) -> None:
    results = [world.probe(Cause.KEY_DISABLED) for _ in range(5)]
    assert [result.confirmed for result in results] == [False, False, True, True, True]
    assert world.alert_types() == [AlertType.KEY_SUSPECT, AlertType.KEY_UNHEALTHY]
    assert world.incident().confirmed_at == NOW + timedelta(seconds=30)


def test_a_locked_incident_stays_open_after_recovery_until_its_clusters_are_unlocked(world: World) -> None:
    world.store.put(cluster())
    for _ in range(3):
        world.probe(Cause.KEY_DISABLED)
    incident = world.incident()
    world.store.put(cluster(status=ClusterStatus.LOCKED, locked_by_incident_id=incident.incident_id))
    world.store.put(changed(incident, status=IncidentStatus.LOCKED))
    result = [world.probe(None) for _ in range(3)][-1]
    assert result.key.health.status is KeyStatus.HEALTHY
    assert result.key.open_incident_id == incident.incident_id
    assert world.incident().status is IncidentStatus.LOCKED
    assert world.incident().recovered_at is not None
    assert [start.workflow for start in world.store.starts()] == [WorkflowKind.LOCKOUT, WorkflowKind.RECOVERY]


def test_firing_and_resolved_alerts_share_a_dedup_key_and_are_numbered(world: World) -> None:
    for cause in [Cause.KEY_DISABLED] * 3 + [None] * 3:
        world.probe(cause)
    alerts = world.store.alerts()
    assert len({alert.dedup_key for alert in alerts}) == 1
    assert [alert.sequence for alert in alerts] == [1, 2, 3]
    assert [alert.status for alert in alerts] == [AlertStatus.FIRING, AlertStatus.FIRING, AlertStatus.RESOLVED]


@pytest.mark.parametrize("cause", [cause for cause in Cause if OUTCOME_OF_CAUSE[cause] is Outcome.UNKNOWN])
def test_unknown_opens_no_incident_and_is_shown(world: World, cause: Cause) -> None:
    result = [world.probe(cause, seconds=60) for _ in range(20)][-1]
    assert world.store.all(Incident) == []
    assert world.store.rows() == []
    assert result.key.health.unknown_since == NOW + timedelta(seconds=60)
    assert result.key.verdict.cause is cause


def test_the_same_message_twice_probes_once(world: World) -> None:
    due = world.clock.now() + timedelta(seconds=5)
    world.clock.advance(10)
    world.prober.answers = [ProbeAnswer(verdict=verdict(Cause.KEY_DISABLED, world.clock.now()), facts=None)]
    first = world.check("acme-prod", KEY_ID, Trigger.SCHEDULE, due_at=due)
    second = world.check("acme-prod", KEY_ID, Trigger.SCHEDULE, due_at=due)
    assert (first.probed, second.probed) == (True, False)
    assert world.prober.probes == 1
    assert len(world.store.all(Incident)) == 1


def test_the_loser_of_a_race_reads_again_and_does_not_open_a_second_incident(world: World) -> None:
    rival = CheckKey(world.store, world.prober, world.clock, CountingIds(), doubt=no_doubt, confirmation_probes=3)
    world.clock.advance(10)
    world.prober.answers = [ProbeAnswer(verdict=verdict(Cause.KEY_DISABLED, world.clock.now()), facts=None)]
    world.store.before_commit = lambda: assert_probed(rival("acme-prod", KEY_ID, Trigger.REQUEST))
    result = world.check("acme-prod", KEY_ID, Trigger.SCHEDULE)
    assert len(world.store.all(Incident)) == 1
    assert world.alert_types() == [AlertType.KEY_SUSPECT]
    assert result.key.health.failing_streak == 1


def assert_probed(result: CheckResult) -> None:
    assert result.probed


def test_losing_every_time_raises_and_loses_nothing(world: World) -> None:
    world.clock.advance(10)
    world.prober.answers = [ProbeAnswer(verdict=verdict(None, world.clock.now()), facts=None)]

    def always_faster() -> None:
        found = world.store.key("acme-prod", KEY_ID)
        assert found is not None
        world.store.items["key", "acme-prod", KEY_ID] = changed(found, version=found.version + 1)
        world.store.before_commit = always_faster

    world.store.before_commit = always_faster
    with pytest.raises(ConflictError):
        world.check("acme-prod", KEY_ID, Trigger.SCHEDULE)
    found = world.store.key("acme-prod", KEY_ID)
    assert found is not None
    assert found.last_probed_at == NOW


def test_a_key_that_was_removed_is_not_checked(world: World) -> None:
    with pytest.raises(NotFoundError):
        world.check("acme-prod", "us-west-2.gone", Trigger.SCHEDULE)


def test_clusters_that_waited_become_active_when_the_key_is_found_healthy(world: World) -> None:
    waiting = [cluster(cluster_id=f"c{number}", status=ClusterStatus.PENDING_KEY) for number in range(3)]
    world.store.put(key(pending_clusters=3), *waiting)
    result = world.probe(None)
    statuses = {each.status for each in world.store.clusters_of_key("acme-prod", KEY_ID)}
    assert statuses == {ClusterStatus.ACTIVE}
    assert result.key.pending_clusters == 0


@pytest.mark.parametrize("cause", [Cause.KEY_DISABLED, Cause.THROTTLED])
def test_clusters_go_on_waiting_while_the_key_is_not_found_healthy(world: World, cause: Cause) -> None:
    world.store.put(key(pending_clusters=1), cluster(status=ClusterStatus.PENDING_KEY))
    world.probe(cause)
    (waiting,) = world.store.clusters_of_key("acme-prod", KEY_ID)
    assert waiting.status is ClusterStatus.PENDING_KEY


def test_the_timeline_tells_what_was_probed_and_why_it_counted(world: World) -> None:
    for cause in [Cause.KEY_DISABLED] * 3 + [None] * 3:
        world.probe(cause)
    entries = world.store.all(TimelineEntry)
    assert [entry.what for entry in entries] == ["key.suspect", "key.unhealthy", "key.recovering", "key.recovered"]
    assert "schedule probe" in entries[0].detail
    assert "3 of 3 probes in a row" in entries[1].detail


def test_every_change_of_status_has_its_outbox_row_in_its_own_transaction(world: World) -> None:
    for cause in [Cause.KEY_DISABLED] * 4 + [None] * 2 + [Cause.KEY_DISABLED] + [None] * 4:
        world.probe(cause)
    for writes in world.store.commits:
        rows = [write for write in writes if isinstance(write, Put) and isinstance(write.entity, OutboxRow)]
        entries = [write for write in writes if isinstance(write.entity, TimelineEntry)]
        told = [entry for entry in entries if isinstance(entry.entity, TimelineEntry)]
        changes = {each.entity.what for each in told if isinstance(each.entity, TimelineEntry)}
        assert bool(rows) == bool(changes - {"key.relapsed"})


rows = st.lists(
    st.tuples(st.one_of(st.none(), st.sampled_from(list(Cause))), st.floats(min_value=0.1, max_value=600)), max_size=40
)


@settings(max_examples=150)
@given(rows)
def test_whatever_the_probes_say_every_incident_ends_and_no_two_are_open(row: list[tuple[Cause | None, float]]) -> None:
    world = World()
    for cause, seconds in row:
        before = len(world.store.all(Incident))
        world.probe(cause, seconds=seconds)
        incidents = world.store.all(Incident)
        assert sum(each.is_open for each in incidents) <= 1
        if cause is None or OUTCOME_OF_CAUSE[cause] is Outcome.UNKNOWN:
            assert len(incidents) == before
    result = [world.probe(None) for _ in range(4)][-1]
    assert result.key.open_incident_id is None
    assert all(not each.is_open for each in world.store.all(Incident))
    # Each problem that was told as firing is told once as resolved, after it.
    for dedup_key in {alert.dedup_key for alert in world.store.alerts()}:
        statuses = [alert.status for alert in world.store.alerts() if alert.dedup_key == dedup_key]
        assert statuses.count(AlertStatus.RESOLVED) == 1
        assert statuses[-1] is AlertStatus.RESOLVED


def test_an_answer_from_before_the_sandbox_slept_says_nothing_about_now(world: World) -> None:
    world.prober.answers = [ProbeAnswer(verdict=verdict(Cause.KEY_DISABLED, world.clock.now()), facts=None)]
    world.clock.advance(600)
    result = world.check("acme-prod", KEY_ID, Trigger.SCHEDULE)
    assert result.key.health.status is KeyStatus.HEALTHY
    assert world.store.all(Incident) == []


def test_a_probe_of_a_clock_that_was_ahead_does_not_keep_the_key_from_being_probed(world: World) -> None:
    world.store.put(key(last_probed_at=NOW + timedelta(hours=1)))
    world.clock.advance(60)
    world.prober.answers = [ProbeAnswer(verdict=verdict(None, world.clock.now()), facts=None)]
    assert world.check("acme-prod", KEY_ID, Trigger.SCHEDULE, due_at=world.clock.now() + timedelta(seconds=1)).probed


# --- closer looks and slow dangers ------------------------------------------------------------------------------


def closer(world: World, *, enabled: bool) -> KeyFacts:
    look = CloserLook(looked_at=world.clock.now(), rotation=Rotation(enabled=enabled))
    return KeyFacts(key_state="Enabled", closer=look)


@pytest.mark.parametrize("interval", [1, 10, 60])
def test_a_scheduled_probe_looks_closely_about_once_an_hour_whatever_the_interval(world: World, interval: int) -> None:
    looks: list[int] = []
    for minute in range(0, 360, interval):
        before = world.prober.probes
        found = world.store.key("acme-prod", KEY_ID)
        assert found is not None
        world.clock.time = NOW + timedelta(minutes=minute)
        due = is_closer_look_due(found.facts, world.clock.now())
        world.prober.answers = [
            ProbeAnswer(
                verdict=verdict(None, world.clock.now()), facts=closer(world, enabled=True) if due else KeyFacts()
            )
        ]
        world.check("acme-prod", KEY_ID, Trigger.SCHEDULE)
        assert world.prober.closely[before:] == [due]
        looks += [minute] if due else []
    assert 6 <= len(looks) <= 7
    assert {55, 60} >= {later - earlier for earlier, later in itertools.pairwise(looks)}


@pytest.mark.parametrize(
    ("trigger", "closely"),
    [
        (Trigger.REQUEST, True),
        (Trigger.EVENT, True),
        (Trigger.SCHEDULE, False),
        (Trigger.LOCKOUT, False),
        (Trigger.RECOVERY, False),
    ],
)
def test_who_asks_gets_a_closer_look_and_the_schedule_only_when_it_is_due(
    world: World, trigger: Trigger, *, closely: bool
) -> None:
    world.look(closer(world, enabled=True))
    world.look(None, trigger=trigger)
    assert world.prober.closely == [True, closely]


def test_what_a_closer_look_showed_stays_until_the_next_one(world: World) -> None:
    seen = closer(world, enabled=True)
    world.look(seen)
    for facts in (KeyFacts(key_state="Enabled"), None):
        assert world.look(facts).key.facts.closer == seen.closer
    newer = closer(world, enabled=False)
    assert world.look(newer).key.facts.closer == newer.closer


def test_a_danger_is_told_to_the_project_in_the_transaction_of_the_probe_that_saw_it(world: World) -> None:
    world.store.put(cluster())
    world.look(closer(world, enabled=False))

    (writes,) = world.store.commits
    assert sorted(type(write.entity).__name__ for write in writes) == ["Key", "OutboxRow"]
    (row,) = world.store.rows()
    assert row.missing == (Target.TOPIC, Target.CHAT, Target.BUS)
    assert row.alert is not None
    assert (row.alert.type, row.alert.sequence) == (AlertType.KEY_ROTATION_DISABLED, 1)
    assert [each.cluster_id for each in row.alert.clusters] == ["vectors-prod"]
    world.look(closer(world, enabled=False))
    assert len(world.store.rows()) == 1


def test_a_scheduled_deletion_is_told_beside_the_incident_that_it_opens(world: World) -> None:
    date = world.clock.now() + timedelta(days=20)
    for _ in range(3):
        world.clock.advance(10)
        found = verdict(Cause.KEY_PENDING_DELETION, world.clock.now())
        facts = KeyFacts(key_state="PendingDeletion", deletion_date=date)
        world.prober.answers = [ProbeAnswer(verdict=found, facts=facts)]
        world.check("acme-prod", KEY_ID, Trigger.SCHEDULE)

    assert world.alert_types() == [
        AlertType.KEY_SUSPECT,
        AlertType.KEY_DELETION_SCHEDULED,
        AlertType.KEY_UNHEALTHY,
    ]
    assert [alert.sequence for alert in world.store.alerts()] == [1, 2, 3]
    told = world.store.alerts()[1]
    assert (told.incident_id, told.severity) == (None, Severity.WARNING)


def test_the_loser_of_a_race_does_not_tell_a_danger_twice(world: World) -> None:
    rival = CheckKey(world.store, world.prober, world.clock, CountingIds(), doubt=no_doubt, confirmation_probes=3)
    facts = closer(world, enabled=False)
    world.store.before_commit = lambda: assert_probed(rival("acme-prod", KEY_ID, Trigger.REQUEST))
    world.look(facts)
    assert world.alert_types() == [AlertType.KEY_ROTATION_DISABLED]


def test_a_late_probe_s_facts_tell_nothing(world: World) -> None:
    world.store.put(key(last_probed_at=NOW + timedelta(minutes=5)))
    world.look(closer(world, enabled=False))
    assert world.alert_types() == []


def dismiss(world: World) -> None:
    decide = DecideIncident(world.store, world.clock, CountingIds())
    decide("acme-prod", world.incident().incident_id, Decision.DISMISS, reason="we rotate", by="arn:eve")


def test_the_same_outage_does_not_open_again_after_it_was_dismissed(world: World) -> None:
    for _ in range(3):
        world.probe(Cause.KEY_DISABLED)
    dismiss(world)
    result = [world.probe(Cause.KEY_DISABLED) for _ in range(10)][-1]
    assert result.key.open_incident_id == world.incident().incident_id
    assert world.incident().status is IncidentStatus.DISMISSED
    assert world.alert_types() == [AlertType.KEY_SUSPECT, AlertType.KEY_UNHEALTHY]


def test_another_cause_reopens_a_dismissed_incident_and_is_confirmed_afresh(world: World) -> None:
    for _ in range(3):
        world.probe(Cause.KEY_DISABLED)
    dismiss(world)
    reopened = world.probe(Cause.KEY_PENDING_DELETION)
    incident = world.incident()
    assert (incident.status, incident.decision, incident.cause) == (
        IncidentStatus.CONFIRMING,
        None,
        Cause.KEY_PENDING_DELETION,
    )
    assert (reopened.key.health.status, reopened.key.health.definite_streak) == (KeyStatus.SUSPECT, 1)
    assert not reopened.confirmed
    assert [start.name for start in world.store.starts()][-1] == f"{incident.incident_id}-lock-2"
    confirmed = [world.probe(Cause.KEY_PENDING_DELETION).confirmed for _ in range(2)]
    assert confirmed == [False, True]
    assert len({alert.dedup_key for alert in world.store.alerts()}) == 1


def test_a_dismissed_incident_ends_when_the_key_s_recovery_is_proved(world: World) -> None:
    for _ in range(3):
        world.probe(Cause.KEY_DISABLED)
    dismiss(world)
    result = [world.probe(None) for _ in range(3)][-1]
    assert world.incident().status is IncidentStatus.RESOLVED
    assert result.key.open_incident_id is None
    assert world.alert_types()[-1] is AlertType.KEY_RECOVERED


def test_the_third_incident_of_a_key_within_an_hour_is_marked_as_flapping(world: World) -> None:
    for _ in range(3):
        world.probe(Cause.KEY_DISABLED, seconds=300)
        for _ in range(3):
            world.probe(None)
    flaps = sorted((each.opened_at, each.flapping) for each in world.store.all(Incident))
    assert [flapping for _, flapping in flaps] == [False, False, True]


def test_the_probe_that_opens_an_incident_says_for_how_long_at_most_nobody_noticed(world: World) -> None:
    assert world.probe(None).noticed_after is None
    opened = world.probe(Cause.KEY_DISABLED, seconds=90)
    again = world.probe(Cause.KEY_DISABLED)

    assert opened.noticed_after == timedelta(seconds=90)
    assert again.noticed_after is None, "it is noticed once"


def test_after_a_time_in_which_nothing_was_known_nobody_says_how_soon_it_was_noticed(world: World) -> None:
    world.probe(Cause.THROTTLED)

    assert world.probe(Cause.KEY_DISABLED).noticed_after is None
