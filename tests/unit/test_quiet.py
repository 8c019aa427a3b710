"""What is told, what is not, and what is told again: the one function, and the use cases around it."""

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvigil.domain.alerts import (
    Alert,
    AlertCause,
    AlertStatus,
    AlertType,
    Notice,
    OutboxRow,
    Severity,
    make_alert,
    make_fleet_notice,
    make_key_notice,
)
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.dangers import MATERIAL_CRITICAL_DAYS
from keyvigil.domain.incidents import AffectedCluster, IncidentStatus, affected
from keyvigil.domain.keys import Health, Key, KeyStatus
from keyvigil.domain.quiet import Ledger, QuietDecision, Why, decide_quiet, news_of
from keyvigil.domain.silences import Silence, Silences, mutes
from keyvigil.domain.verdicts import Cause, Remediation
from keyvigil.errors import DamagedItemError
from keyvigil.use_cases.quiet import JudgeAlert, TellAgain
from tests.examples import KEY_ID, NOW, cluster, incident, key, project, verdict
from tests.fakes import (
    CountingIds,
    FakeClock,
    FakeNotifier,
    MemoryStore,
    changed,
)
from tests.unit.relaying import OPERATOR_TOPIC, relay_of

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
CAUSE = AlertCause(code="ROTATION_OFF", operation=None, aws_error_code=None, message="Rotation is off.")


def of_incident(kind: AlertType, sequence: int, at: datetime, *, number: int = 1, clusters: int = 0) -> Alert:
    made, _ = make_alert(
        kind,
        alert_id=f"01J{sequence:04d}",
        key=key(alert_sequence=sequence - 1, verdict=verdict(Cause.KEY_DISABLED)),
        incident=incident(incident_id=f"01JINCIDENT{number}"),
        clusters=[AffectedCluster(cluster_id=f"c{each:02d}", status=ClusterStatus.LOCKED) for each in range(clusters)],
        occurred_at=at,
        detected_at=at,
    )
    return made


def of_danger(
    kind: AlertType, status: AlertStatus, sequence: int, at: datetime, *, severity: Severity = Severity.WARNING
) -> Alert:
    notice = Notice(
        type=kind,
        status=status,
        severity=severity,
        subject=kind.partition(".")[2],
        cause=CAUSE,
        remediation=Remediation(summary="Mend it."),
    )
    made, _ = make_key_notice(
        notice,
        alert_id=f"01J{sequence:04d}",
        key=key(alert_sequence=sequence - 1),
        clusters=(),
        occurred_at=at,
        detected_at=at,
    )
    return made


def silence(*types: str, key_id: str | None = None, until: datetime = NOW + DAY, number: int = 1) -> Silence:
    return Silence(
        project_id="acme-prod",
        silence_id=f"01JSILENCE{number}",
        types=types,
        key_id=key_id,
        until=until,
        reason="We know.",
        created_by="arn:aws:iam::111111111111:user/op",
        created_at=NOW,
    )


EMPTY = Ledger(project_id="acme-prod", key_id=KEY_ID)
FIRING, RESOLVED = AlertStatus.FIRING, AlertStatus.RESOLVED
SUSPECT, UNHEALTHY, RECOVERED = AlertType.KEY_SUSPECT, AlertType.KEY_UNHEALTHY, AlertType.KEY_RECOVERED
ROTATION = AlertType.KEY_ROTATION_DISABLED


@dataclass
class Course:
    """A ledger through time: what came of each alert, and when something was told again."""

    ledger: Ledger = EMPTY
    now: datetime = NOW
    silences: tuple[Silence, ...] = ()
    sequence: int = 0

    def tell(self, kind: AlertType, status: AlertStatus | None = None, **more: Any) -> Why | None:
        self.sequence += 1
        alert = (
            of_incident(kind, self.sequence, self.now, **more)
            if status is None
            else of_danger(kind, status, self.sequence, self.now, **more)
        )
        return self.hear(alert)

    def hear(self, alert: Alert) -> Why | None:
        decision = decide_quiet(self.ledger, alert, self.silences, self.now)
        self.ledger = decision.ledger
        return decision.why

    def sweep_for(self, lasting: timedelta) -> list[tuple[timedelta, AlertType, Why]]:
        """Sweep every minute; when, after now, which problem was told again, and why."""
        began, told = self.now, []
        while self.now < began + lasting:
            self.now += MINUTE
            decision: QuietDecision = decide_quiet(self.ledger, None, self.silences, self.now)
            self.ledger = decision.ledger
            told += [(self.now - began, each.problem.type, each.why) for each in decision.retold]
        return told


# --- one alert when it starts, after an hour, daily, and one at the end ------------------------------------------


def test_an_outage_is_told_when_it_begins_when_it_is_confirmed_after_an_hour_daily_and_once_at_its_end() -> None:
    course = Course()
    assert course.tell(SUSPECT) is Why.BEGINS
    assert course.tell(UNHEALTHY) is Why.CHANGED
    assert course.sweep_for(3 * DAY) == [
        (HOUR, UNHEALTHY, Why.LASTS),
        (HOUR + DAY, UNHEALTHY, Why.LASTS),
        (HOUR + 2 * DAY, UNHEALTHY, Why.LASTS),
    ]
    assert course.tell(RECOVERED) is Why.OVER
    assert course.sweep_for(3 * DAY) == []
    assert course.ledger.next_at is None


def test_the_same_thing_told_twice_is_told_once() -> None:
    course = Course()
    assert course.tell(AlertType.CLUSTER_LOCK_FAILED, clusters=2) is Why.BEGINS
    course.now += HOUR
    assert course.tell(AlertType.CLUSTER_LOCK_FAILED, clusters=2) is Why.TOLD_BEFORE
    assert course.tell(AlertType.CLUSTER_LOCK_FAILED, clusters=3) is Why.CHANGED
    assert course.tell(AlertType.CLUSTER_UNLOCKED, clusters=3) is Why.OVER


def test_twenty_clusters_under_one_key_are_one_alert() -> None:
    course = Course()
    assert course.tell(AlertType.CLUSTER_LOCKED, clusters=20) is Why.BEGINS
    assert course.sweep_for(2 * HOUR) == [(HOUR, AlertType.CLUSTER_LOCKED, Why.LASTS)]


def test_while_the_outage_is_told_again_its_locked_clusters_are_not_but_those_that_failed_are() -> None:
    course = Course()
    course.tell(UNHEALTHY)
    course.tell(AlertType.CLUSTER_LOCKED, clusters=20)
    assert course.sweep_for(2 * HOUR) == [(HOUR, UNHEALTHY, Why.LASTS)]
    course.tell(AlertType.CLUSTER_LOCK_FAILED, clusters=1)
    assert (HOUR, AlertType.CLUSTER_LOCK_FAILED, Why.LASTS) in course.sweep_for(2 * HOUR)


def test_a_further_step_of_a_danger_is_told_at_once_and_its_reminders_begin_anew() -> None:
    course = Course()
    assert course.tell(AlertType.KEY_MATERIAL_EXPIRING, FIRING) is Why.BEGINS
    course.sweep_for(2 * HOUR)
    assert course.tell(AlertType.KEY_MATERIAL_EXPIRING, FIRING, severity=Severity.CRITICAL) is Why.CHANGED
    assert course.sweep_for(2 * HOUR) == [(HOUR, AlertType.KEY_MATERIAL_EXPIRING, Why.LASTS)]
    assert MATERIAL_CRITICAL_DAYS > 0


def test_who_did_it_is_told_during_the_outage_and_after_it_and_ends_nothing() -> None:
    course = Course()
    course.tell(UNHEALTHY)
    assert course.tell(AlertType.ACTOR_FOUND) is Why.CHANGED
    assert course.sweep_for(2 * HOUR) == [(HOUR, UNHEALTHY, Why.LASTS)]
    course.tell(RECOVERED)
    course.sequence += 1
    late = changed(of_incident(AlertType.ACTOR_FOUND, course.sequence, course.now), status=RESOLVED)
    assert course.hear(late) is Why.CHANGED


def test_a_danger_that_comes_back_is_told_afresh() -> None:
    course = Course()
    for _ in range(3):
        assert course.tell(ROTATION, FIRING) is Why.BEGINS
        course.now += MINUTE
        assert course.tell(ROTATION, RESOLVED) is Why.OVER
        course.now += MINUTE


def test_the_end_of_what_an_older_version_told_is_told() -> None:
    assert Course().tell(RECOVERED) is Why.OVER


def test_what_was_overtaken_by_its_end_is_sent_and_is_not_told_again() -> None:
    course = Course()
    first, last = of_incident(SUSPECT, 1, NOW), of_incident(RECOVERED, 2, NOW + MINUTE)
    course.now += MINUTE
    assert course.hear(last) is Why.OVER
    assert course.hear(first) is Why.LATE
    assert Why.LATE.sends
    assert course.sweep_for(3 * DAY) == []


def test_a_key_that_is_registered_anew_counts_from_one_and_its_dangers_are_told() -> None:
    course = Course()
    course.sequence = 50
    course.tell(ROTATION, FIRING)
    course.now += MINUTE
    course.tell(ROTATION, RESOLVED)
    course.now += MINUTE
    course.sequence = 0
    assert course.tell(ROTATION, FIRING) is Why.BEGINS


# --- a key's outage, and warnings ---------------------------------------------------------------------------------


def test_a_warning_waits_while_the_keys_outage_is_told_and_comes_after_it() -> None:
    course = Course()
    course.tell(SUSPECT)
    assert course.tell(ROTATION, FIRING) is Why.OUTAGE
    assert course.sweep_for(30 * MINUTE) == []
    course.tell(RECOVERED)
    assert course.sweep_for(2 * MINUTE) == [(MINUTE, ROTATION, Why.BEGINS)]
    assert course.tell(ROTATION, RESOLVED) is Why.OVER


def test_a_warning_that_ended_during_the_outage_is_never_told() -> None:
    course = Course()
    course.tell(SUSPECT)
    course.tell(ROTATION, FIRING)
    assert course.tell(ROTATION, RESOLVED) is Why.NEVER_TOLD
    course.tell(RECOVERED)
    assert course.sweep_for(DAY) == []


def test_what_is_critical_is_told_during_the_outage() -> None:
    course = Course()
    course.tell(UNHEALTHY)
    deletion = AlertType.KEY_DELETION_SCHEDULED
    assert course.tell(deletion, FIRING, severity=Severity.CRITICAL) is Why.BEGINS


def test_a_warning_that_was_told_before_the_outage_is_not_told_again_in_it_and_its_end_is_told() -> None:
    course = Course()
    course.tell(ROTATION, FIRING)
    course.tell(UNHEALTHY)
    assert {kind for _, kind, _ in course.sweep_for(2 * DAY)} == {UNHEALTHY}
    assert course.tell(ROTATION, RESOLVED) is Why.OVER


def test_what_was_muted_is_told_once_whether_it_comes_again_or_not() -> None:
    course = Course(silences=(silence("key.unhealthy", until=NOW + HOUR),))
    assert course.tell(UNHEALTHY) is Why.SILENCED
    course.now += HOUR
    assert course.tell(UNHEALTHY) is Why.TOLD_BEFORE
    assert course.sweep_for(2 * MINUTE) == [(MINUTE, UNHEALTHY, Why.BEGINS)]
    assert course.tell(UNHEALTHY) is Why.TOLD_BEFORE


def test_an_outage_that_is_silenced_keeps_no_warning_back() -> None:
    course = Course(silences=(silence("key.suspect", "key.unhealthy"),))
    assert course.tell(UNHEALTHY) is Why.SILENCED
    assert course.tell(ROTATION, FIRING) is Why.BEGINS


# --- silences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("types", "severity", "muted"),
    [
        (("key.rotation_disabled",), Severity.WARNING, True),
        (("key.*",), Severity.WARNING, True),
        (("cluster.*",), Severity.WARNING, False),
        (("key.*",), Severity.CRITICAL, False),
        (("key.rotation_disabled",), Severity.CRITICAL, True),
        (("key.*", "key.rotation_disabled"), Severity.CRITICAL, True),
        ((), Severity.INFO, False),
    ],
)
def test_a_critical_alert_is_muted_only_by_a_silence_that_names_its_type(
    types: tuple[str, ...], severity: Severity, *, muted: bool
) -> None:
    assert mutes(silence(*types), ROTATION, severity, KEY_ID, NOW) is muted


def test_a_silence_is_about_its_key_and_until_its_end() -> None:
    of_key = silence("key.*", key_id=KEY_ID)
    assert mutes(of_key, ROTATION, Severity.WARNING, KEY_ID, NOW + DAY - MINUTE)
    assert not mutes(of_key, ROTATION, Severity.WARNING, KEY_ID, NOW + DAY)
    assert not mutes(of_key, ROTATION, Severity.WARNING, "another", NOW)
    assert not mutes(of_key, AlertType.BRAKE_ENGAGED, Severity.WARNING, None, NOW)


def test_what_still_stands_when_its_silence_ends_is_told_then_and_resolved() -> None:
    course = Course(silences=(silence("key.*", until=NOW + HOUR),))
    assert course.tell(ROTATION, FIRING) is Why.SILENCED
    assert course.sweep_for(3 * HOUR) == [(HOUR, ROTATION, Why.BEGINS), (2 * HOUR, ROTATION, Why.LASTS)]
    assert course.tell(ROTATION, RESOLVED) is Why.OVER


def test_what_ended_within_its_silence_is_never_told_not_even_its_end() -> None:
    course = Course(silences=(silence("key.*", until=NOW + HOUR),))
    course.tell(ROTATION, FIRING)
    assert course.tell(ROTATION, RESOLVED) is Why.NEVER_TOLD
    assert course.sweep_for(3 * HOUR) == []


def test_the_end_of_what_was_told_before_its_silence_is_told_in_spite_of_it() -> None:
    course = Course()
    course.tell(ROTATION, FIRING)
    course.silences = (silence("key.*", until=NOW + 30 * DAY),)
    assert course.sweep_for(2 * DAY) == []
    assert course.tell(ROTATION, RESOLVED) is Why.OVER


# --- any course of things -----------------------------------------------------------------------------------------

OUTAGE = (SUSPECT, UNHEALTHY, AlertType.APPROVAL_NEEDED)
MUTED_BY = st.sampled_from(
    [(), ("key.*",), ("key.rotation_disabled",), ("key.suspect", "key.unhealthy", "incident.approval_needed")]
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_nothing_is_told_twice_for_one_reason_no_outage_goes_unannounced_and_each_end_is_told_once(  # noqa: C901, PLR0912, PLR0915  one course of things, step by step
    data: st.DataObject,
) -> None:
    course = Course()
    standing: set[str] = set()
    last_told: dict[str, datetime] = {}
    told: dict[str, list[str]] = {}
    said: set[tuple[str, str]] = set()
    number = 0

    def note(dedup_key: str, why: Why, status: AlertStatus) -> None:
        told.setdefault(dedup_key, []).append(status)
        if why is Why.LASTS:
            assert course.now - last_told[dedup_key] >= HOUR
        if why is Why.BEGINS:
            assert told[dedup_key].count(FIRING) == 1 or RESOLVED in told[dedup_key][:-1]
        last_told[dedup_key] = course.now

    def hear(alert: Alert) -> None:
        why = course.hear(alert)
        assert why is not None
        if why.sends:
            assert (alert.dedup_key, news_of(alert)) not in said
            said.add((alert.dedup_key, news_of(alert)))
            note(alert.dedup_key, why, alert.status)
        named = any(alert.type in each.types and course.now < each.until for each in course.silences)
        if alert.type in OUTAGE and alert.severity is Severity.CRITICAL and not named:
            assert why in {Why.BEGINS, Why.CHANGED, Why.TOLD_BEFORE}
            assert alert.dedup_key in told

    for _ in range(data.draw(st.integers(1, 30))):
        step = data.draw(st.sampled_from(["outage", "worse", "recovers", "danger", "mended", "time", "silence"]))
        outage = f"acme-prod/{KEY_ID}/01JINCIDENT{number}/key"
        course.sequence += 1
        match step:
            case "outage" if outage not in standing:
                number += 1
                hear(of_incident(SUSPECT, course.sequence, course.now, number=number))
                standing.add(f"acme-prod/{KEY_ID}/01JINCIDENT{number}/key")
            case "worse" if outage in standing:
                kind = data.draw(st.sampled_from(OUTAGE[1:]))
                hear(of_incident(kind, course.sequence, course.now, number=number))
            case "recovers" if outage in standing:
                hear(of_incident(RECOVERED, course.sequence, course.now, number=number))
                standing.remove(outage)
            case "danger" if ROTATION not in standing:
                hear(of_danger(ROTATION, FIRING, course.sequence, course.now))
                standing.add(ROTATION)
            case "mended" if ROTATION in standing:
                hear(of_danger(ROTATION, RESOLVED, course.sequence, course.now))
                standing.remove(ROTATION)
            case "silence":
                types, hours = data.draw(MUTED_BY), data.draw(st.integers(1, 40))
                course.silences = (silence(*types, until=course.now + hours * HOUR),) if types else ()
            case _:
                for _ in range(data.draw(st.integers(1, 30))):
                    course.now += data.draw(st.sampled_from([MINUTE, HOUR]))
                    decision = decide_quiet(course.ledger, None, course.silences, course.now)
                    course.ledger = decision.ledger
                    for each in decision.retold:
                        note(each.problem.dedup_key, each.why, FIRING)
        course.now += timedelta(seconds=10)

    # In the end nothing is muted any more, and whatever stands is told within a minute of a sweep.
    course.silences = ()
    for dedup_key in sorted(standing - {ROTATION}):
        course.sequence += 1
        hear(of_incident(RECOVERED, course.sequence, course.now, number=int(dedup_key.split("01JINCIDENT")[1][:-4])))
    course.now += MINUTE
    for each in decide_quiet(course.ledger, None, (), course.now).retold:
        note(each.problem.dedup_key, each.why, FIRING)
    if ROTATION in standing:
        assert told[f"acme-prod/{KEY_ID}/rotation_disabled"][-1] is FIRING
    for dedup_key, statuses in told.items():
        rounds = "".join("f" if each is FIRING else "r" for each in statuses).split("r")
        ended = Counter(statuses)[RESOLVED]
        assert all(rounds[:ended]), f"{dedup_key} was resolved without having been told, or twice: {statuses}"
        if dedup_key.endswith("/key"):
            assert ended == 1


# --- around it: the relay and the sweep ---------------------------------------------------------------------------


class World:
    """A table with one key in an outage, the relay and the sweep that tells again."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store, self.clock, self.notifier = store or MemoryStore(), FakeClock(NOW), FakeNotifier()
        self.ids = CountingIds()
        self.relay = relay_of(self.store, self.notifier, self.clock)
        self.again = TellAgain(self.store, self.clock, self.ids)
        self.store.put(project(), key(open_incident_id="01JINCIDENT"), incident(status=IncidentStatus.OBSERVED))

    @property
    def key(self) -> Key:
        found = self.store.key("acme-prod", KEY_ID)
        assert found is not None
        return found

    def write(self, alert: Alert, **row: Any) -> str:
        self.store.put(
            OutboxRow(row_id=alert.alert_id, project_id="acme-prod", created_at=self.clock.now(), alert=alert, **row),
            changed(self.key, alert_sequence=alert.sequence),
        )
        return alert.alert_id

    def outage(self, kind: AlertType = UNHEALTHY) -> str:
        broken = Health(status=KeyStatus.UNHEALTHY, confirmed=True)
        self.store.put(changed(self.key, health=broken, verdict=verdict(Cause.KEY_DISABLED)))
        made, _ = make_alert(
            kind,
            alert_id=f"01JALERT{self.key.alert_sequence}",
            key=self.key,
            incident=incident(),
            clusters=affected([cluster()]),
            occurred_at=self.clock.now(),
            detected_at=self.clock.now(),
        )
        return self.write(made)

    def sweep_for(self, lasting: timedelta) -> None:
        until = self.clock.now() + lasting
        while self.clock.now() < until:
            self.clock.advance(60)
            assert self.again().errors == []
            self.relay(self.store.unsent_rows(self.clock.now()))

    def sent(self) -> list[tuple[AlertType, int, AlertStatus]]:
        return [(each.type, each.sequence, each.status) for _, each in self.notifier.published]


def test_a_lasting_outage_is_told_again_by_the_sweep_as_it_stands_then() -> None:
    world = World()
    world.relay([world.outage()])
    world.store.put(cluster(status=ClusterStatus.LOCKED), cluster(cluster_id="second"))
    world.sweep_for(DAY + 2 * HOUR)
    assert world.sent() == [(UNHEALTHY, 1, FIRING), (UNHEALTHY, 2, FIRING), (UNHEALTHY, 3, FIRING)]
    first, *again = (each for _, each in world.notifier.published)
    assert {each.dedup_key for each in again} == {first.dedup_key}
    assert [each.cluster_id for each in again[0].clusters] == ["second", "vectors-prod"]
    assert [each.detected_at for each in again] == [NOW + HOUR, NOW + HOUR + DAY]
    assert {each.occurred_at for each in again} == {first.occurred_at}
    assert world.notifier.bus == [each for _, each in world.notifier.published]
    assert world.key.alert_sequence == 3


def test_an_outage_whose_end_is_on_its_way_is_not_told_again() -> None:
    world = World()
    world.relay([world.outage()])
    world.store.put(incident(status=IncidentStatus.RESOLVED, recovered_at=NOW, resolved_at=NOW))
    world.sweep_for(2 * HOUR)
    assert world.sent() == [(UNHEALTHY, 1, FIRING)]


def test_what_is_withheld_is_stored_with_the_reason_and_never_sent() -> None:
    world = World()
    world.store.put(silences_item(silence("key.*")))
    row_id = world.write(of_danger(ROTATION, FIRING, 1, NOW))
    result = world.relay([row_id])
    assert (result.sent, result.withheld, result.failures) == (0, 1, ())
    row = world.store.outbox_row(row_id)
    assert row is not None
    assert (row.withheld, row.judged, row.delivered) == (True, "it is silenced by 01JSILENCE1", ())
    assert world.store.unsent_rows(NOW) == []
    assert world.relay([row_id]).withheld == 0
    assert world.sent() == []
    world.sweep_for(DAY + MINUTE)
    assert world.sent() == [(ROTATION, 2, FIRING)]


def silences_item(*silences: Silence) -> Silences:
    return Silences(project_id="acme-prod", silences=silences)


def test_a_tenants_silence_mutes_nothing_that_goes_to_the_operator() -> None:
    world = World()
    world.store.put(silences_item(silence("key.stale", "key.*", "fleet.*", until=NOW + 30 * DAY)))
    stale = of_danger(AlertType.KEY_STALE, FIRING, 1, NOW, severity=Severity.CRITICAL)
    world.relay([world.write(stale, for_operator=True)])
    world.sweep_for(2 * HOUR)
    assert [topic for topic, _ in world.notifier.published] == [OPERATOR_TOPIC, OPERATOR_TOPIC]


def test_what_the_operator_is_told_about_the_fleet_is_told_again_too() -> None:
    world = World()
    notice = Notice(
        type=AlertType.CANARY_UNHEALTHY,
        status=FIRING,
        severity=Severity.CRITICAL,
        subject="canary/stack",
        cause=CAUSE,
        remediation=Remediation(summary="Mend it."),
    )
    alert = make_fleet_notice(notice, alert_id="01JFLEET", occurred_at=NOW, detected_at=NOW)
    world.store.put(OutboxRow(row_id="01JFLEET", project_id=None, created_at=NOW, alert=alert, for_operator=True))
    world.relay(["01JFLEET"])
    world.sweep_for(2 * HOUR)
    sequences = [each.sequence for _, each in world.notifier.published]
    assert len(sequences) == 2
    assert sequences == sorted(set(sequences))


def test_what_was_told_of_a_key_that_is_deleted_is_resolved() -> None:
    world = World()
    world.relay([world.write(of_danger(ROTATION, FIRING, 1, NOW))])
    del world.store.items["key", "acme-prod", KEY_ID]
    world.sweep_for(DAY + 2 * HOUR)
    assert world.sent() == [(ROTATION, 1, FIRING), (ROTATION, 2, RESOLVED)]
    assert "is not under watch any more" in world.notifier.published[-1][1].cause.message


def test_what_was_told_of_a_key_that_is_registered_anew_is_resolved() -> None:
    world = World()
    world.relay([world.write(of_danger(ROTATION, FIRING, 1, NOW))])
    world.store.put(changed(world.key, created_at=NOW + MINUTE, alert_sequence=0))
    world.sweep_for(DAY + 2 * HOUR)
    assert [(kind, status) for kind, _, status in world.sent()] == [(ROTATION, FIRING), (ROTATION, RESOLVED)]


def test_what_an_earlier_project_of_the_same_id_was_told_is_never_told_again_to_the_next() -> None:
    world = World()
    world.relay([world.write(of_danger(ROTATION, FIRING, 1, NOW))])
    world.store.put(project(created_at=NOW + MINUTE))
    world.sweep_for(DAY + 2 * HOUR)
    assert world.sent() == [(ROTATION, 1, FIRING)]
    assert world.store.ledger("acme-prod", KEY_ID).problems == {}


def test_a_ledger_that_cannot_be_read_keeps_no_outage_from_being_told() -> None:
    class Damaged(MemoryStore):
        def ledger(self, project_id: str | None, key_id: str | None) -> Ledger:
            message = f"QUIET#{project_id}/KEY#{key_id} does not have the shape"
            raise DamagedItemError(message)

    world = World(Damaged())
    assert world.relay([world.outage()]).sent == 1


def test_two_relays_at_once_judge_once() -> None:
    world = World()
    row_id = world.outage()
    row = world.store.outbox_row(row_id)
    assert row is not None
    judge = JudgeAlert(world.store, world.clock)
    world.store.before_commit = lambda: assert_judged(judge, row)
    judged = judge(row)
    assert judged is not None
    assert (judged.judged, judged.withheld) == (str(Why.BEGINS), False)


def assert_judged(judge: JudgeAlert, row: OutboxRow) -> None:
    judged = judge(row)
    assert judged is not None
    assert judged.judged == str(Why.BEGINS)


def test_a_row_of_an_older_version_is_judged_when_it_is_sent() -> None:
    world = World()
    row = world.store.outbox_row(world.outage())
    assert row is not None
    assert replace(row, judged=None, withheld=False) == row
    world.relay([row.row_id])
    sent = world.store.outbox_row(row.row_id)
    assert sent is not None
    assert sent.judged == str(Why.BEGINS)
