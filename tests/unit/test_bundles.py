"""Many keys of one project, with one cause, within a minute: they are told as one, and none of them is lost."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from itertools import permutations
from typing import override

from hypothesis import given, settings
from hypothesis import strategies as st

from keyvigil.adapters.alert_documents import document
from keyvigil.domain import bundles
from keyvigil.domain.alert_words import chat, mail
from keyvigil.domain.alerts import Alert, AlertStatus, AlertType, OutboxRow, make_alert
from keyvigil.domain.incidents import IncidentStatus, affected
from keyvigil.domain.keys import Health, KeyStatus
from keyvigil.domain.quiet import Ledger, Why, decide_quiet
from keyvigil.domain.silences import Silence, Silences
from keyvigil.domain.verdicts import Cause
from keyvigil.errors import ConflictError
from keyvigil.ports import Put, Write
from keyvigil.use_cases.quiet import TellAgain
from tests.examples import NOW, cluster, incident, key, project, verdict
from tests.fakes import (
    CountingIds,
    FakeClock,
    FakeNotifier,
    MemoryStore,
    changed,
)
from tests.unit.relaying import relay_of

SUSPECT, UNHEALTHY, RECOVERED = AlertType.KEY_SUSPECT, AlertType.KEY_UNHEALTHY, AlertType.KEY_RECOVERED
FIRING, RESOLVED = AlertStatus.FIRING, AlertStatus.RESOLVED


class Project:
    """A project with keys that break and recover, the relay, and the sweep that tells again."""

    def __init__(self, keys: int, store: MemoryStore | None = None) -> None:
        self.store, self.clock, self.notifier = store or MemoryStore(), FakeClock(NOW), FakeNotifier()
        self.relay = relay_of(self.store, self.notifier, self.clock)
        self.again = TellAgain(self.store, self.clock, CountingIds())
        self.rounds: Counter[int] = Counter()
        self.alerts = 0
        self.store.put(project())
        for number in range(keys):
            self.store.put(key(key_id=f"r.{number:02}", key_arn=f"arn:aws:kms:us-west-2:222222222222:key/{number:02}"))
            self.store.put(cluster(cluster_id=f"c{number:02}", key_id=f"r.{number:02}"))

    def tell(self, number: int, kind: AlertType, cause: Cause = Cause.KEY_DISABLED) -> Alert:
        if kind is SUSPECT:
            self.rounds[number] += 1
        of = self.store.key("acme-prod", f"r.{number:02}")
        assert of is not None
        over = kind is RECOVERED
        open_one = incident(
            incident_id=f"01JINCIDENT{number:02}{self.rounds[number]:03}",
            key_id=of.key_id,
            status=IncidentStatus.RESOLVED if over else IncidentStatus.OBSERVED,
        )
        self.alerts += 1
        alert, numbered = make_alert(
            kind,
            alert_id=f"01JALERT{self.alerts:05}",
            key=changed(
                of,
                health=Health(status=KeyStatus.HEALTHY if over else KeyStatus.UNHEALTHY),
                verdict=verdict(None if over else cause),
                open_incident_id=None if over else open_one.incident_id,
            ),
            incident=open_one,
            clusters=affected(self.store.clusters_of_key("acme-prod", of.key_id)),
            occurred_at=self.clock.now(),
            detected_at=self.clock.now(),
        )
        self.store.put(
            open_one,
            numbered,
            OutboxRow(row_id=alert.alert_id, project_id="acme-prod", created_at=self.clock.now(), alert=alert),
        )
        assert self.relay([alert.alert_id]).failures == ()
        return alert

    def sweep_for(self, lasting: timedelta) -> None:
        until = self.clock.now() + lasting
        while self.clock.now() < until:
            self.clock.advance(60)
            assert self.again().errors == []
            self.relay(self.store.unsent_rows(self.clock.now()))

    def sent(self) -> list[tuple[AlertType, int]]:
        return [(each.type, len(each.keys)) for _, each in self.notifier.published]

    @property
    def published(self) -> list[Alert]:
        return [each for _, each in self.notifier.published]


def test_twenty_keys_that_break_in_one_sweep_are_one_alert_one_that_lists_them_and_one_end() -> None:
    world = Project(20)
    for number in range(20):
        world.tell(number, SUSPECT)
    assert world.sent() == [(SUSPECT, 0)]
    world.sweep_for(timedelta(minutes=30))
    assert world.sent() == [(SUSPECT, 0), (SUSPECT, 20)]
    for number in reversed(range(20)):
        world.tell(number, RECOVERED)
    world.sweep_for(timedelta(days=2))
    assert world.sent() == [(SUSPECT, 0), (SUSPECT, 20), (RECOVERED, 20)]
    first, update, end = world.published
    assert {each.dedup_key for each in (first, update, end)} == {first.dedup_key}
    assert first.sequence < update.sequence < end.sequence
    assert (update.clusters_total, len(update.clusters), update.key) == (20, 20, first.key)
    assert [each.status for each in end.keys] == [RESOLVED] * 20
    assert end.status is RESOLVED
    assert world.notifier.bus == world.published


def test_that_an_outage_is_confirmed_is_said_at_once_for_the_first_key_and_once_for_the_others() -> None:
    world = Project(5)
    for number in range(5):
        world.tell(number, SUSPECT)
    world.clock.advance(20)
    for number in reversed(range(5)):
        world.tell(number, UNHEALTHY)
    assert world.sent() == [(SUSPECT, 0), (UNHEALTHY, 5)]
    world.sweep_for(timedelta(minutes=5))
    assert world.sent() == [(SUSPECT, 0), (UNHEALTHY, 5), (UNHEALTHY, 5)]
    assert [each.key == world.published[0].key for each in world.published] == [True] * 3
    commands = world.published[-1].remediation.commands
    assert len(commands) == len(set(commands)) >= 1


def test_keys_with_another_cause_or_a_minute_later_are_told_by_themselves() -> None:
    world = Project(3)
    world.tell(0, SUSPECT)
    world.tell(1, SUSPECT, Cause.KEY_PENDING_DELETION)
    world.clock.advance(60)
    world.tell(2, SUSPECT)
    assert world.sent() == [(SUSPECT, 0)] * 3
    for number in range(3):
        world.tell(number, RECOVERED)
    assert world.sent()[3:] == [(RECOVERED, 0)] * 3


def test_a_bundle_that_lasts_is_told_again_as_one_although_its_first_key_works_again() -> None:
    world = Project(4)
    for number in range(4):
        world.tell(number, SUSPECT)
    world.sweep_for(timedelta(minutes=2))
    world.tell(0, RECOVERED)
    world.sweep_for(timedelta(days=1, hours=3))
    assert world.sent() == [(SUSPECT, 0)] + [(SUSPECT, 4)] * 3
    last = world.published[-1]
    assert [each.status for each in last.keys] == [RESOLVED, FIRING, FIRING, FIRING]
    assert last.cause.message.endswith("/01, " + last.keys[2].arn + ", " + last.keys[3].arn + ".")


def test_what_is_told_together_ends_when_the_last_of_its_keys_is_deleted() -> None:
    world = Project(2)
    world.tell(0, SUSPECT)
    world.tell(1, SUSPECT)
    world.sweep_for(timedelta(minutes=2))
    world.tell(0, RECOVERED)
    del world.store.items["key", "acme-prod", "r.01"]
    world.sweep_for(timedelta(days=3))
    assert world.sent() == [(SUSPECT, 0), (SUSPECT, 2), (RECOVERED, 2)]
    assert world.published[-1].dedup_key == world.published[0].dedup_key


def test_a_silence_of_all_keys_mutes_what_is_told_together_and_its_end_is_told() -> None:
    world = Project(3)
    for number in range(3):
        world.tell(number, SUSPECT)
    silence = Silence(
        project_id="acme-prod",
        silence_id="01JSILENCE",
        types=("key.*",),
        key_id=None,
        until=NOW + timedelta(hours=5),
        reason="We know.",
        created_by="op",
        created_at=NOW,
    )
    world.store.put(Silences(project_id="acme-prod", silences=(silence,)))
    world.sweep_for(timedelta(hours=4))
    assert world.sent() == [(SUSPECT, 0)]
    world.sweep_for(timedelta(hours=2))
    assert world.sent()[1] == (SUSPECT, 3)
    for number in range(3):
        world.tell(number, RECOVERED)
    assert world.sent()[-1] == (RECOVERED, 3)


def test_where_others_write_to_the_projects_ledger_every_time_a_key_is_told_by_itself() -> None:
    class Contended(MemoryStore):
        @override
        def commit(self, writes: Sequence[Write]) -> None:
            if any(
                isinstance(each, Put) and isinstance(each.entity, Ledger) and not each.entity.key_id for each in writes
            ):
                message = "somebody was faster"
                raise ConflictError(message)
            super().commit(writes)

    world = Project(20, Contended())
    for number in range(20):
        world.tell(number, SUSPECT)
    for number in range(20):
        world.tell(number, RECOVERED)
    assert world.sent() == [(SUSPECT, 0)] * 20 + [(RECOVERED, 0)] * 20
    assert set(Counter(each.dedup_key for each in world.published).values()) == {2}


def test_an_alert_of_several_keys_lists_them_in_each_of_its_three_forms() -> None:
    world = Project(20)
    for number in range(20):
        world.tell(number, SUSPECT)
    world.tell(3, RECOVERED)
    world.sweep_for(timedelta(minutes=2))
    alert = world.published[-1]
    sent = document(alert)
    assert [each["status"] for each in sent["keys"]].count("firing") == 19
    assert sent["clusters_total"] == 20
    text = mail(alert)
    assert "together with 19 more" in text
    assert "Keys:     20\n          not usable: 00, 01, 02, 04" in text
    assert "          usable again: 03\n" in text
    assert "*Keys not usable:* `00, 01, 02, 04" in chat(alert)["content"]["description"]
    assert len(chat(alert)["metadata"]["relatedResources"]) == 20


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([0, 5, 30, 61, 4000]), st.booleans()), min_size=1, max_size=40
    )
)
def test_in_any_course_no_outage_is_unannounced_and_each_alert_that_fires_is_resolved_once(
    steps: list[tuple[int, int, bool]],
) -> None:
    world = Project(5)
    broken: dict[int, AlertType] = {}
    for number, seconds, recovers in steps:
        if number not in broken:
            world.tell(number, SUSPECT)
            broken[number] = SUSPECT
        elif recovers:
            world.tell(number, RECOVERED)
            del broken[number]
        elif broken[number] is SUSPECT:
            world.tell(number, UNHEALTHY)
            broken[number] = UNHEALTHY
        world.clock.advance(seconds)
        assert world.again().errors == []
        world.relay(world.store.unsent_rows(world.clock.now()))
    for number in broken:
        world.tell(number, RECOVERED)
    world.sweep_for(timedelta(minutes=3))

    firing = [each for each in world.published if each.status is FIRING]
    named = {name for each in world.published for name in (each.incident_id, *(one.incident_id for one in each.keys))}
    assert named == {each.incident_id for each in world.store.alerts()}
    assert max(Counter(each.alert_id for each in world.published).values()) == 1
    ends = Counter(each.dedup_key for each in world.published if each.status is RESOLVED)
    assert ends == Counter({each.dedup_key for each in firing}), "each that fires is resolved, and once"
    for dedup_key in ends:
        mine = sorted((each for each in world.published if each.dedup_key == dedup_key), key=lambda each: each.sequence)
        assert mine[-1].status is RESOLVED
        assert len({each.sequence for each in mine}) == len(mine)
    # Of keys that broke once each, none begins by itself within a minute of another that lasts.
    firsts = {each.dedup_key: each for each in reversed(firing)}.values()
    begun = [each for each in firsts if world.rounds[number_of(each)] == 1]
    ended = {each.dedup_key: each.detected_at for each in world.published if each.status is RESOLVED}
    for one, other in permutations(begun, 2):
        after = other.detected_at - one.detected_at
        if one.alert_id < other.alert_id and after < bundles.WINDOW:
            assert ended[one.dedup_key] <= other.detected_at


def number_of(alert: Alert) -> int:
    assert alert.key is not None
    return int(alert.key.arn[-2:])


def test_the_one_function_joins_a_key_to_what_began_a_moment_ago() -> None:
    world = Project(2)
    one, two = world.tell(0, SUSPECT), world.tell(1, SUSPECT)
    shared = Ledger(project_id="acme-prod", key_id=None)
    begins = decide_quiet(Ledger(project_id="acme-prod", key_id="r.00"), one, (), NOW, shared=shared)
    assert begins.why is Why.BEGINS
    joins = decide_quiet(Ledger(project_id="acme-prod", key_id="r.01"), two, (), NOW, shared=begins.shared)
    assert joins.why is Why.TOGETHER
    assert joins.shared is not None
    assert joins.shared.next_at == NOW + bundles.WINDOW
    alone = decide_quiet(Ledger(project_id="acme-prod", key_id="r.01"), two, (), NOW)
    assert alone.why is Why.BEGINS
