"""Keys that were not probed for too long: found by the sweep, told to the operator once, singly or all together."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.alerts import Alert, AlertStatus, AlertType, Target
from keyvigil.domain.keys import Health, Key, KeyStatus, Trigger, is_stale, next_due
from keyvigil.domain.staleness import FEW_AGAIN, LOOKED_AT, SOONEST_STALE, TOLD_SINGLY, FleetTold, decide_staleness
from keyvigil.ports import DueKey, ProbeAnswer, Put
from keyvigil.use_cases.check_key import CheckKey
from keyvigil.use_cases.tell_stale import StaleReport, TellStale
from tests.examples import KEY_ID, NOW, cluster, key, project, verdict
from tests.fakes import CountingIds, FakeClock, MemoryStore, ScriptedProber, changed, no_doubt


class World:
    """Keys under watch, and a sweep that looks for stale ones; nothing probes unless a test does."""

    def __init__(self) -> None:
        self.store, self.clock, ids = MemoryStore(), FakeClock(NOW), CountingIds()
        self.store.put(project())
        self.tell = TellStale(self.store, self.clock, ids)
        self.prober = ScriptedProber()
        self.check = CheckKey(self.store, self.prober, self.clock, ids, doubt=no_doubt, confirmation_probes=3)

    def keys(self, count: int, **fields: object) -> list[str]:
        names = [f"us-west-2.{number:04d}" for number in range(count)]
        self.store.put(*(key(**{"key_id": name, **fields}) for name in names))
        return names

    def sweep(self, *, minutes: float = 0) -> StaleReport:
        self.clock.advance(minutes * 60)
        return self.tell()

    def probe(self, *key_ids: str) -> None:
        self.prober.answers = [ProbeAnswer(verdict=verdict(at=self.clock.now()), facts=None)]
        for key_id in key_ids:
            self.check("acme-prod", key_id, Trigger.SCHEDULE)

    def alerts(self) -> list[Alert]:
        return [each for each in self.store.alerts() if each.type is AlertType.KEY_STALE]

    def told(self) -> list[tuple[str | None, AlertStatus]]:
        """(key, status) of each alert; no key where all are meant."""
        return [(each.dedup_key.split("/")[1] if each.key else None, each.status) for each in self.alerts()]


@pytest.fixture
def world() -> World:
    return World()


def test_a_key_that_nobody_probes_is_told_to_the_operator_once_and_resolved_by_its_next_probe(world: World) -> None:
    world.store.put(cluster(key_id="us-west-2.0000"))
    (name,) = world.keys(1)
    counts = [world.sweep(minutes=1).stale_keys for _ in range(40)]

    assert counts == [0] * 30 + [1] * 10, "from the first minute after three intervals of ten"
    assert world.told() == [(name, AlertStatus.FIRING)]
    assert [each.cluster_id for each in world.alerts()[0].clusters] == ["vectors-prod"]
    assert world.alerts()[0].occurred_at == NOW, "nothing is known since its last probe"
    world.probe(name)
    world.probe(name)
    assert world.told() == [(name, AlertStatus.FIRING), (name, AlertStatus.RESOLVED)]
    assert {row.missing for row in world.store.rows()} == {(Target.OPERATOR, Target.BUS)}, "and to no project's topic"
    assert world.sweep(minutes=1).stale_keys == 0


def test_a_key_that_is_stale_again_is_told_again(world: World) -> None:
    (name,) = world.keys(1)
    for _ in range(2):
        world.sweep(minutes=31)
        world.probe(name)
    assert world.told() == [(name, AlertStatus.FIRING), (name, AlertStatus.RESOLVED)] * 2


def test_what_is_told_of_a_key_is_remembered_in_the_same_transaction(world: World) -> None:
    world.keys(1)
    world.sweep(minutes=31)

    (writes,) = world.store.commits
    assert sorted(type(write.entity).__name__ for write in writes) == ["Key", "OutboxRow"]
    (stale,) = world.store.keys("acme-prod", 10, None).items
    assert (stale.told["stale"].at, stale.alert_sequence) == (world.clock.now(), 1)


def test_a_probe_that_comes_while_the_sweep_tells_wins(world: World) -> None:
    (name,) = world.keys(1)
    world.clock.advance(31 * 60)
    world.store.before_commit = lambda: world.probe(name)

    world.tell()

    assert world.told() == []


@pytest.mark.parametrize("status", list(KeyStatus))
def test_a_key_is_stale_whatever_its_status(world: World, status: KeyStatus) -> None:
    world.keys(1, health=Health(status=status))
    assert world.sweep(minutes=31).stale_keys == 1


def test_as_many_as_a_project_can_have_are_told_one_by_one(world: World) -> None:
    names = world.keys(TOLD_SINGLY)
    assert world.sweep(minutes=31).told == TOLD_SINGLY
    assert world.told() == [(name, AlertStatus.FIRING) for name in names]


def test_more_are_told_all_together_with_their_number_and_once(world: World) -> None:
    names = world.keys(TOLD_SINGLY + 1)
    reports = [world.sweep(minutes=31), world.sweep(minutes=1)]

    assert [report.stale_keys for report in reports] == [21, 21]
    (alert,) = world.alerts()
    assert (alert.key, alert.project_id, alert.dedup_key) == (None, None, "fleet/stale-keys")
    assert alert.cause.message.startswith("21 keys were not probed")
    world.probe(*names[: TOLD_SINGLY + 1 - FEW_AGAIN])
    world.sweep()
    rest = names[-FEW_AGAIN:]
    assert world.told() == [
        (None, AlertStatus.FIRING),
        (None, AlertStatus.RESOLVED),
        *((name, AlertStatus.FIRING) for name in rest),
    ]


def test_a_number_that_wavers_is_not_told_each_minute(world: World) -> None:
    names = world.keys(TOLD_SINGLY + 1)
    world.sweep(minutes=31)
    for name in names[:5]:
        world.probe(name)
        world.sweep()

    assert world.told() == [(None, AlertStatus.FIRING)]


def test_a_sweep_looks_at_no_more_than_it_has_time_for_and_counts_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.keys(LOOKED_AT + 50)
    reads: list[str] = []
    read = world.store.key

    def counted(project_id: str, key_id: str) -> Key | None:
        reads.append(key_id)
        return read(project_id, key_id)

    monkeypatch.setattr(world.store, "key", counted)

    assert world.sweep(minutes=31).stale_keys == LOOKED_AT + 50
    assert len(reads) == LOOKED_AT


def test_a_key_that_cannot_be_told_of_keeps_no_other_from_being_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = world.keys(2)
    commit = world.store.commit

    def refuses(writes: list[Put]) -> None:
        if any(getattr(write.entity, "key_id", None) == first for write in writes):
            raise OSError(first)
        commit(writes)

    monkeypatch.setattr(world.store, "commit", refuses)
    report = world.sweep(minutes=31)

    assert (report.stale_keys, report.told) == (2, 1)
    assert report.errors == [(f"acme-prod/{first}", f"OSError: {first}")]
    assert world.told() == [(second, AlertStatus.FIRING)]


def test_a_key_that_cannot_be_read_hides_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = world.keys(2)
    read = world.store.key

    def breaks(project_id: str, key_id: str) -> Key | None:
        if key_id == first:
            raise ValueError(key_id)
        return read(project_id, key_id)

    monkeypatch.setattr(world.store, "key", breaks)
    report = world.sweep(minutes=31)

    assert report.errors == [(f"acme-prod/{first}", f"ValueError: {first}")]
    assert world.told() == [(second, AlertStatus.FIRING)]


def test_a_fleet_that_cannot_be_told_of_is_still_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.keys(30)
    monkeypatch.setattr(world.store, "commit", lambda _writes: 1 / 0)
    report = world.sweep(minutes=31)

    assert report.stale_keys == 30
    assert [subject for subject, _ in report.errors] == ["stale keys"]


def test_a_key_or_a_project_that_is_gone_is_not_stale(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.store.put(key(project_id="no-such-project"))
    gone = DueKey("acme-prod", "us-west-2.gone", NOW)
    monkeypatch.setattr(world.store, "due_keys", lambda _until: [gone, DueKey("no-such-project", KEY_ID, NOW)])
    assert world.sweep(minutes=31).stale_keys == 0


@given(st.lists(st.integers(0, 60), max_size=30))
def test_firing_and_resolved_alternate_and_keys_are_told_singly_only_while_they_are_few(counts: list[int]) -> None:
    fleet, firing = FleetTold(), False
    for count in counts:
        decision = decide_staleness(count, fleet, NOW)
        if decision.notice is not None:
            assert firing == (decision.notice.status is AlertStatus.RESOLVED)
            firing = not firing
        assert decision.singly is not firing
        assert not decision.singly or count <= TOLD_SINGLY
        fleet = changed(decision.fleet, version=fleet.version + 1)


@given(
    st.integers(1, 3) | st.integers(1, 60),
    st.datetimes(min_value=datetime(2026, 1, 1), max_value=datetime(2027, 1, 1)),  # noqa: DTZ001  the zone is added below
    st.integers(0, 25),
    st.integers(1, 60) | st.integers(1, 24 * 60 * 60),
    st.sampled_from(list(KeyStatus)),
)
def test_every_stale_key_is_among_those_that_a_sweep_looks_at(
    interval: int, moment: datetime, seconds_to_write: int, seconds_stale: int, status: KeyStatus
) -> None:
    probed_at = moment.replace(tzinfo=NOW.tzinfo)
    due_at = next_due(
        "acme-prod", KEY_ID, Health(status=status), interval, probed_at + timedelta(seconds=seconds_to_write)
    )
    now = probed_at + timedelta(minutes=3 * interval, seconds=seconds_stale)

    assert is_stale(probed_at, interval, now)
    assert due_at <= now - SOONEST_STALE
