"""Who did it: which call explains an outage, when CloudTrail is asked, and that it is told once."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvigil.adapters.cloudtrail_history import SECONDS_BETWEEN_CALLS
from keyvigil.domain.actors import Actor
from keyvigil.domain.alerts import AlertStatus, AlertType, Severity
from keyvigil.domain.attribution import (
    EXPLANATIONS,
    HINT_KEPT,
    LOOKUPS_AFTER,
    ActorSearch,
    EventHints,
    after_lookup,
    at_end,
    begin_search,
    find_actor,
    found,
    is_due,
    takes_effect_within,
    window,
)
from keyvigil.domain.incidents import Incident, IncidentStatus, TimelineEntry
from keyvigil.domain.key_events import CALLS
from keyvigil.domain.keys import KeyFacts, Trigger
from keyvigil.domain.verdicts import DEFINITE_CAUSES, OUTCOME_OF_CAUSE, Cause, Outcome
from keyvigil.errors import ConflictError
from keyvigil.ports import ProbeAnswer
from keyvigil.use_cases.check_key import CheckKey
from keyvigil.use_cases.find_actor import FindActor, SearchOutcome
from keyvigil.use_cases.plan_actor_searches import SEARCHES_AN_ACCOUNT, SECONDS_BETWEEN_SEARCHES, PlanActorSearches
from tests.examples import CUSTOMER, KEY_ID, NOW, actor, cluster, incident, key, project, verdict
from tests.fakes import CountingIds, FakeClock, FakeHistory, FakeQueue, MemoryStore, ScriptedProber, changed, no_doubt

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
HEALTHY_AT = NOW - 10 * MINUTE
OUTAGE = incident(last_healthy_at=HEALTHY_AT)


def call(name: str, at: datetime, who: str = "Alice") -> Actor:
    return actor(arn=f"arn:aws:iam::{CUSTOMER}:user/{who}", event_name=name, event_time=at)


# --- which call explains it -------------------------------------------------------------------------------------


def test_every_call_that_explains_something_is_one_that_events_tell_of() -> None:
    assert {name for names in EXPLANATIONS.values() for name in names} <= CALLS["aws.kms"] | CALLS["aws.iam"]


def test_only_what_makes_a_key_unhealthy_is_explained() -> None:
    assert {OUTCOME_OF_CAUSE[cause] for cause in EXPLANATIONS} == {Outcome.UNHEALTHY}
    assert max(len(names) for names in EXPLANATIONS.values()) == 11  # what a search asks CloudTrail at most


@pytest.mark.parametrize("cause", EXPLANATIONS)
def test_a_call_explains_the_causes_that_it_can_bring_about_and_no_other(cause: Cause) -> None:
    outage = changed(OUTAGE, cause=cause)
    for name in CALLS["aws.kms"] | CALLS["aws.iam"]:
        able = find_actor(outage, [call(name, NOW - MINUTE)]) is not None
        assert able == (name in EXPLANATIONS[cause]), name


def test_a_cause_that_is_nobody_s_call_has_no_actor() -> None:
    for cause in set(Cause) - set(EXPLANATIONS):
        assert find_actor(changed(OUTAGE, cause=cause), [call("DisableKey", NOW - MINUTE)]) is None


@pytest.mark.parametrize("cause", EXPLANATIONS)
def test_the_call_was_made_after_the_key_was_last_healthy_and_before_it_was_found_broken(cause: Cause) -> None:
    outage, name = changed(OUTAGE, cause=cause), EXPLANATIONS[cause][0]
    earliest = HEALTHY_AT - takes_effect_within(cause)
    assert find_actor(outage, [call(name, earliest)]) is not None
    assert find_actor(outage, [call(name, earliest - SECOND)]) is None
    assert find_actor(outage, [call(name, NOW)]) is not None
    assert find_actor(outage, [call(name, NOW + SECOND)]) is None


def test_the_less_sure_a_cause_the_longer_it_may_have_taken_to_show() -> None:
    spreads = {cause: takes_effect_within(cause) for cause in EXPLANATIONS}
    assert {spreads[cause] for cause in DEFINITE_CAUSES & spreads.keys()} == {MINUTE}
    # Sessions of a role are used again for ten minutes, and a changed trust policy shows only after that.
    assert max(spreads, key=spreads.__getitem__) is Cause.ROLE_NOT_ASSUMABLE
    assert spreads[Cause.ROLE_NOT_ASSUMABLE] == 15 * MINUTE


def test_an_outage_whose_cause_was_confirmed_later_may_be_explained_until_then() -> None:
    outage = changed(OUTAGE, confirmed_at=NOW + MINUTE)
    assert find_actor(outage, [call("DisableKey", NOW + MINUTE)]) is not None
    assert find_actor(outage, [call("DisableKey", NOW + MINUTE + SECOND)]) is None


def test_an_incident_from_before_last_healthy_was_kept_is_searched_for_the_longest_interval() -> None:
    since, until = window(incident(last_healthy_at=None))
    assert (since, until) == (NOW - timedelta(hours=1) - MINUTE, NOW)


@given(st.lists(st.tuples(st.sampled_from(["DisableKey", "CancelKeyDeletion", "EnableKey"]), st.integers(-900, 60))))
def test_the_newest_call_that_explains_it_is_taken_whatever_the_order(calls: list[tuple[str, int]]) -> None:
    made = [
        call(name, NOW + timedelta(seconds=seconds), who=f"{number}") for number, (name, seconds) in enumerate(calls)
    ]
    able = [each for each in made if each.event_name != "EnableKey" and HEALTHY_AT - MINUTE <= each.event_time <= NOW]
    taken = find_actor(OUTAGE, made)
    assert (taken is None) == (not able)
    if taken is not None:
        assert taken in able
        assert taken.event_time == max(each.event_time for each in able)


# --- when CloudTrail is asked -----------------------------------------------------------------------------------


def minutes_asked(over_after: float | None) -> list[float]:
    """At which minutes after its opening an incident is looked up, by a sweep a minute, and nobody is ever found."""
    search, asked = begin_search(incident(), CUSTOMER), []
    for half_minutes in range(200):
        now = NOW + half_minutes * MINUTE / 2
        if over_after is not None and now >= NOW + over_after * MINUTE:
            search = at_end(search, now)
        if half_minutes % 2 == 0 and is_due(search, now):
            asked.append((now - NOW) / MINUTE)
            search = after_lookup(search, now)
    assert (search.done_at is not None) == (over_after is not None)
    assert search.lookups == len(asked)
    return asked


def test_it_is_asked_one_five_fifteen_and_thirty_minutes_after_the_opening() -> None:
    assert minutes_asked(over_after=None) == [1, 5, 15, 30]


@pytest.mark.parametrize(
    ("over_after", "asked"),
    [
        (0.5, [1, 5, 15, 30]),
        (2.5, [1, 3, 5, 15, 30]),
        (10, [1, 5, 10, 15, 30]),
        (60, [1, 5, 15, 30, 60]),
    ],
)
def test_and_at_the_incident_s_end_however_short_it_was(over_after: float, asked: list[float]) -> None:
    assert minutes_asked(over_after) == asked


def test_a_sweep_that_comes_late_asks_once_and_not_for_each_time_that_it_missed() -> None:
    search = after_lookup(begin_search(incident(), CUSTOMER), NOW + 20 * MINUTE)
    assert search.next_at == NOW + LOOKUPS_AFTER[-1]


def test_a_search_that_is_over_stays_over() -> None:
    over = found(begin_search(incident(), CUSTOMER), NOW)
    assert at_end(over, NOW + MINUTE) == over
    assert not is_due(over, NOW + 60 * MINUTE)


def test_the_end_of_an_incident_is_its_end_once() -> None:
    ended = at_end(begin_search(incident(), CUSTOMER), NOW)
    assert at_end(after_lookup(ended, NOW), NOW + MINUTE).next_at == NOW + MINUTE


# --- the whole story --------------------------------------------------------------------------------------------


class World:
    """One key under watch, its customer's CloudTrail, and the function that searches it, in memory."""

    def __init__(self) -> None:
        self.store, self.clock, self.prober, self.history = (
            MemoryStore(),
            FakeClock(NOW),
            ScriptedProber(),
            FakeHistory(),
        )
        self.store.put(project(), key(), cluster())
        ids = CountingIds()
        self.check = CheckKey(self.store, self.prober, self.clock, ids, doubt=no_doubt, confirmation_probes=3)
        self.find = FindActor(self.store, self.history, self.clock, ids)
        self.queue = FakeQueue()
        self.plan = PlanActorSearches(self.store, self.queue, self.clock)

    def probe(self, cause: Cause | None, *, seconds: float = 10) -> None:
        self.clock.advance(seconds)
        self.prober.answers = [ProbeAnswer(verdict=verdict(cause, self.clock.now()), facts=KeyFacts())]
        self.check("acme-prod", KEY_ID, Trigger.EVENT)

    def told(self, name: str = "DisableKey") -> Actor:
        """An event that has just told of a call."""
        made = call(name, self.clock.now())
        self.store.put(
            EventHints(project_id="acme-prod", key_id=KEY_ID, calls=(made,), kept_until=self.clock.now() + HINT_KEPT)
        )
        return made

    def sweep(self, *, seconds: float = 60) -> list[SearchOutcome]:
        self.clock.advance(seconds)
        self.queue.searches.clear()
        self.plan()
        return [self.find.look_up(each.project_id, each.incident_id) for each in self.queue.searches]

    def incident(self) -> Incident:
        (only,) = self.store.all(Incident)
        return only

    def search(self) -> ActorSearch | None:
        return self.store.actor_search("acme-prod", self.incident().incident_id)

    def alert_types(self) -> list[AlertType]:
        return [alert.type for alert in self.store.alerts()]

    def timeline(self) -> list[tuple[str, str]]:
        entries = self.store.timeline(self.incident().incident_id)
        return [(each.what, each.detail) for each in entries if "actor" in each.what]


@pytest.fixture
def world() -> World:
    return World()


WORDS = f"arn:aws:iam::{CUSTOMER}:user/Alice called DisableKey at 2026-11-22 03:00:00 UTC from 192.0.2.0"


def test_an_event_that_comes_before_the_outage_is_found_names_the_actor_in_the_first_alert(world: World) -> None:
    made = world.told()
    world.probe(Cause.KEY_DISABLED)
    assert world.incident().actor == made
    (alert,) = world.store.alerts()
    assert (alert.type, alert.actor) == (AlertType.KEY_SUSPECT, made)
    assert world.timeline() == [("incident.actor_found", WORDS)]
    assert world.search() is None
    for _ in range(3):
        world.probe(Cause.KEY_DISABLED)
        assert world.sweep() == []
    assert world.alert_types() == [AlertType.KEY_SUSPECT, AlertType.KEY_UNHEALTHY]
    assert all(alert.actor == made for alert in world.store.alerts())
    assert world.history.asked == []


def test_an_event_that_comes_after_the_first_alert_is_told_once_by_itself(world: World) -> None:
    made_at = world.clock.now()
    world.probe(Cause.KEY_DISABLED)
    assert world.incident().actor is None
    world.told()
    # CloudTrail is late: the call was made before the outage was found.
    hints = world.store.event_hints("acme-prod", KEY_ID)
    assert hints is not None
    world.store.put(changed(hints, calls=(call("DisableKey", made_at),)))
    incident_id = world.incident().incident_id
    outcomes = [world.find.from_events("acme-prod", incident_id) for _ in range(3)]
    assert outcomes == [SearchOutcome.FOUND, SearchOutcome.NOT_DUE, SearchOutcome.NOT_DUE]
    assert world.alert_types() == [AlertType.KEY_SUSPECT, AlertType.ACTOR_FOUND]
    alert = world.store.alerts()[-1]
    assert (alert.status, alert.severity) == (AlertStatus.FIRING, Severity.WARNING)
    assert alert.actor is not None
    assert alert.cause.message == f"{WORDS}, which can explain KEY_DISABLED."
    assert alert.cause.code == Cause.KEY_DISABLED
    assert alert.dedup_key == world.store.alerts()[0].dedup_key
    assert (alert.sequence, alert.occurred_at, len(alert.clusters)) == (2, made_at, 1)
    assert world.timeline() == [("incident.actor_found", WORDS)]
    assert world.sweep() == []


def test_without_an_event_cloudtrail_is_asked_and_its_answer_told_once(world: World) -> None:
    made = call("DisableKey", world.clock.now() + 2 * SECOND)
    world.probe(Cause.KEY_DISABLED)
    opened_at = world.clock.now()
    assert world.sweep(seconds=50) == []
    world.history.recorded = [made]
    assert world.sweep(seconds=10) == [SearchOutcome.FOUND]
    assert world.history.asked == [(KEY_ID, EXPLANATIONS[Cause.KEY_DISABLED], NOW - MINUTE, opened_at)]
    assert world.incident().actor == made
    assert world.alert_types() == [AlertType.KEY_SUSPECT, AlertType.ACTOR_FOUND]
    assert [world.sweep() for _ in range(40)] == [[]] * 40
    assert len(world.history.asked) == 1


def test_a_role_that_may_not_look_is_no_error_and_is_asked_no_more_often(world: World) -> None:
    world.history.recorded = None
    world.probe(Cause.KEY_DISABLED)
    outcomes = [outcome for _ in range(60) for outcome in world.sweep()]
    assert outcomes == [SearchOutcome.NO_ANSWER] * 4
    assert world.alert_types() == [AlertType.KEY_SUSPECT]
    assert world.timeline() == []
    search = world.search()
    assert search is not None
    assert (search.next_at, search.done_at) == (None, None)
    for _ in range(3):
        world.probe(None)
    assert world.sweep() == [SearchOutcome.NO_ANSWER]
    assert [world.sweep() for _ in range(10)] == [[]] * 10
    search = world.search()
    assert search is not None
    assert search.done_at is not None


def test_what_is_found_after_the_end_begins_nothing_again(world: World) -> None:
    made = call("DisableKey", world.clock.now() + SECOND)
    world.probe(Cause.KEY_DISABLED)
    for _ in range(3):
        world.probe(None)
    assert world.incident().status is IncidentStatus.RESOLVED
    world.history.recorded = [made]
    assert world.sweep() == [SearchOutcome.FOUND]
    alert = world.store.alerts()[-1]
    assert (alert.type, alert.status, alert.severity) == (AlertType.ACTOR_FOUND, AlertStatus.RESOLVED, Severity.INFO)
    assert world.incident().status is IncidentStatus.RESOLVED
    assert world.incident().actor == made


def test_a_search_whose_key_is_gone_ends_without_a_word(world: World) -> None:
    world.probe(Cause.KEY_DISABLED)
    del world.store.items["key", "acme-prod", KEY_ID]
    assert world.sweep() == [SearchOutcome.NOBODY]
    assert world.history.asked == []
    assert world.sweep(seconds=600) == []


def test_a_message_that_comes_twice_asks_cloudtrail_once(world: World) -> None:
    world.probe(Cause.KEY_DISABLED)
    incident_id = world.incident().incident_id
    assert world.find.look_up("acme-prod", incident_id) is SearchOutcome.NOT_DUE
    world.clock.advance(60)
    outcomes = [world.find.look_up("acme-prod", incident_id) for _ in range(2)]
    assert outcomes == [SearchOutcome.NOBODY, SearchOutcome.NOT_DUE]
    assert len(world.history.asked) == 1


def test_an_incident_that_has_an_actor_keeps_it_and_its_search_ends(world: World) -> None:
    world.probe(Cause.KEY_DISABLED)
    world.store.put(changed(world.incident(), actor=actor(arn="arn:aws:iam::222222222222:user/Eve")))
    world.history.recorded = [call("DisableKey", NOW)]
    assert world.sweep() == [SearchOutcome.NOBODY]
    assert world.incident().actor == actor(arn="arn:aws:iam::222222222222:user/Eve")
    assert world.alert_types() == [AlertType.KEY_SUSPECT]
    assert world.sweep(seconds=600) == []


def test_what_cloudtrail_knows_of_other_times_names_nobody(world: World) -> None:
    world.probe(Cause.KEY_DISABLED)
    world.history.recorded = [call("DisableKey", NOW - 2 * MINUTE), call("DisableKey", NOW + timedelta(hours=1))]
    assert world.sweep() == [SearchOutcome.NOBODY]
    assert world.incident().actor is None


def test_a_cause_that_is_nobody_s_call_is_not_looked_up(world: World) -> None:
    world.probe(Cause.KEY_WRONG_USAGE)
    assert world.sweep() == [SearchOutcome.NOBODY]
    assert world.history.asked == []


def test_who_is_faster_with_another_answer_is_not_overwritten(world: World) -> None:
    first = call("DisableKey", world.clock.now())
    world.probe(Cause.KEY_DISABLED)
    world.history.recorded = [call("DisableKey", world.clock.now(), who="Bob")]
    incident_id = world.incident().incident_id

    def somebody_else() -> None:
        world.store.put(EventHints(project_id="acme-prod", key_id=KEY_ID, calls=(first,), kept_until=NOW + HINT_KEPT))
        world.find.from_events("acme-prod", incident_id)

    world.clock.advance(60)
    world.store.before_commit = somebody_else
    assert world.find.look_up("acme-prod", incident_id) is SearchOutcome.NOT_DUE
    assert world.incident().actor == first
    assert world.alert_types() == [AlertType.KEY_SUSPECT, AlertType.ACTOR_FOUND]


def test_a_search_that_loses_every_race_stays_due(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.probe(Cause.KEY_DISABLED)
    world.clock.advance(60)

    def lose(_writes: object) -> None:
        raise ConflictError

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "commit", lose)
        with pytest.raises(ConflictError):
            world.find.look_up("acme-prod", world.incident().incident_id)
    assert world.sweep(seconds=1) == [SearchOutcome.NOBODY]


def test_a_probe_that_is_told_to_nobody_reads_no_hint_and_writes_no_search(world: World) -> None:
    world.told()
    world.probe(None)
    assert world.store.all(ActorSearch) == []
    assert world.store.all(TimelineEntry) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["break", "mend", "event", "trail", "sweep", "look"]), max_size=40))
def test_whatever_happens_each_incident_s_actor_is_told_at_most_once_and_only_after_a_first_alert_without(
    steps: list[str],
) -> None:
    world = World()
    for step in steps:
        match step:
            case "break":
                world.probe(Cause.KEY_DISABLED)
            case "mend":
                world.probe(None)
            case "event":
                world.told()
            case "trail":
                world.history.recorded = [call("DisableKey", world.clock.now(), who="Bob")]
            case "sweep":
                world.sweep()
            case _:
                for each in world.store.all(Incident):
                    world.find.from_events("acme-prod", each.incident_id)
    for each in world.store.all(Incident):
        alerts = [alert for alert in world.store.alerts() if alert.incident_id == each.incident_id]
        told = [alert for alert in alerts if alert.type is AlertType.ACTOR_FOUND]
        first = min(alerts, key=lambda alert: alert.sequence)
        assert first.type is AlertType.KEY_SUSPECT
        assert len(told) == (each.actor is not None and first.actor is None)
        assert {alert.actor for alert in alerts} <= {None, each.actor}
        assert len([entry for entry in world.store.timeline(each.incident_id) if "actor" in entry.what]) == (
            each.actor is not None
        )
        firing = [alert for alert in told if alert.status is AlertStatus.FIRING]
        over = [alert for alert in alerts if alert.type is AlertType.KEY_RECOVERED]
        assert all(alert.sequence < end.sequence for alert in firing for end in over)


# --- planning searches ------------------------------------------------------------------------------------------


def due_searches(store: MemoryStore, count: int, account_id: str = CUSTOMER) -> None:
    for number in range(count):
        opened = incident(incident_id=f"01J{account_id[:1]}{number:03d}")
        store.put(replace(begin_search(opened, account_id), next_at=NOW + number * SECOND))


def test_an_account_is_sent_a_few_searches_a_minute_one_after_the_other_and_keeps_nobody_waiting(world: World) -> None:
    due_searches(world.store, 10)
    due_searches(world.store, 2, account_id="333333333333")
    world.clock.advance(60)
    assert world.plan().sent == SEARCHES_AN_ACCOUNT + 2
    sent = zip((each.incident_id for each in world.queue.searches), world.queue.delays, strict=True)
    assert sorted(sent) == [
        ("01J2000", 0),
        ("01J2001", 15),
        ("01J2002", 30),
        ("01J2003", 45),
        ("01J3000", 0),
        ("01J3001", 15),
    ]


def test_a_search_is_over_before_the_next_of_its_account_begins() -> None:
    longest = max(len(names) for names in EXPLANATIONS.values())
    assert longest * (SECONDS_BETWEEN_CALLS + 0.5) < SECONDS_BETWEEN_SEARCHES
    assert SEARCHES_AN_ACCOUNT * SECONDS_BETWEEN_SEARCHES <= 60


def test_a_queue_or_table_that_fails_is_reported_and_fails_no_sweep(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(world.store, "due_searches", fail)
    planned = world.plan()
    assert (planned.sent, [subject for subject, _ in planned.errors]) == (0, ["searches for actors"])
