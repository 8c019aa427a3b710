"""A key that is UNKNOWN for three intervals is told once, and once that an answer came."""

from datetime import timedelta

import pytest

from keyvigil.domain.alerts import Alert, AlertStatus, AlertType, Severity
from keyvigil.domain.incidents import Incident
from keyvigil.domain.keys import Trigger
from keyvigil.domain.verdicts import Cause
from keyvigil.ports import ProbeAnswer
from keyvigil.use_cases.check_key import CheckKey
from tests.examples import KEY_ID, NOW, cluster, key, project, verdict
from tests.fakes import CountingIds, FakeClock, MemoryStore, ScriptedProber, no_doubt


class World:
    """One key, probed every minute."""

    def __init__(self, interval: int = 2) -> None:
        self.store, self.clock, self.prober = MemoryStore(), FakeClock(NOW), ScriptedProber()
        self.store.put(project(check_interval_minutes=interval), key(), cluster())
        self.check = CheckKey(self.store, self.prober, self.clock, CountingIds(), doubt=no_doubt, confirmation_probes=3)

    def minutes(self, *causes: Cause | None) -> list[Alert]:
        """Probe once a minute; what was told about the key's being UNKNOWN so far."""
        for cause in causes:
            self.clock.advance(60)
            self.prober.answers = [ProbeAnswer(verdict=verdict(cause, self.clock.now()), facts=None)]
            self.check("acme-prod", KEY_ID, Trigger.SCHEDULE)
        return [alert for alert in self.store.alerts() if alert.type is AlertType.KEY_UNKNOWN]


UNKNOWN = Cause.THROTTLED


def test_it_is_told_when_three_intervals_have_passed_since_the_first_unknown_and_not_before() -> None:
    world = World(interval=2)
    assert world.minutes(*[UNKNOWN] * 6) == []
    [told] = world.minutes(UNKNOWN)
    assert (told.severity, told.status, told.incident_id) == (Severity.WARNING, AlertStatus.FIRING, None)
    assert told.cause.code is UNKNOWN
    assert "since 2026-11-22 03:01 UTC" in told.cause.message
    assert [each.cluster_id for each in told.clusters] == ["vectors-prod"]
    assert world.minutes(*[UNKNOWN, Cause.TIMEOUT] * 20) == [told], "once"
    assert world.store.all(Incident) == []


def test_the_interval_is_the_projects() -> None:
    assert World(interval=10).minutes(*[UNKNOWN] * 30) == []
    assert len(World(interval=10).minutes(*[UNKNOWN] * 31)) == 1
    assert len(World(interval=1).minutes(*[UNKNOWN] * 4)) == 1


@pytest.mark.parametrize("answer", [None, Cause.KEY_DISABLED])
def test_the_first_answer_resolves_it_whatever_it_is(answer: Cause | None) -> None:
    world = World()
    [firing] = world.minutes(*[UNKNOWN] * 7)
    [_, resolved] = world.minutes(answer)
    assert (resolved.status, resolved.severity) == (AlertStatus.RESOLVED, Severity.INFO)
    assert resolved.dedup_key == firing.dedup_key
    assert resolved.sequence > firing.sequence
    assert len(world.minutes(answer, answer)) == 2


def test_the_next_silence_is_told_again() -> None:
    world = World()
    told = world.minutes(*[UNKNOWN] * 7, None, *[UNKNOWN] * 7, None)
    assert [alert.status for alert in told] == [AlertStatus.FIRING, AlertStatus.RESOLVED] * 2


def test_an_answer_in_time_is_not_worth_a_word() -> None:
    assert World().minutes(*([UNKNOWN] * 5 + [None]) * 3) == []


def test_it_is_told_in_the_transaction_of_the_probe() -> None:
    world = World()
    world.minutes(*[UNKNOWN] * 7)
    kinds = sorted(type(write.entity).__name__ for write in world.store.commits[-1])
    assert kinds == ["Key", "OutboxRow"]
    known = world.store.key("acme-prod", KEY_ID)
    assert known is not None
    assert known.unknown_told
    assert known.health.unknown_since == NOW + timedelta(minutes=1)
