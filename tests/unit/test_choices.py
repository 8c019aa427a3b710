"""What an incident can be held for, and what is chosen about it: each is in the timeline, each survives a restart.

A restart is everything written down as the table keeps it and read back, with new use cases on it.
"""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from keyvigil.adapters.plain_data import from_stored, to_plain
from keyvigil.domain.brake import BegunLockout, Brake, BrakeSettings, LockoutTally
from keyvigil.domain.held import HeldFor
from keyvigil.domain.incidents import Decision, Incident, IncidentStatus, LockoutVerb, TimelineEntry
from keyvigil.domain.keys import Health
from keyvigil.domain.projects import Approval, Enforcement
from keyvigil.domain.verdicts import Cause
from keyvigil.use_cases.braking import AskBrake
from keyvigil.use_cases.decide_incident import DecideIncident
from keyvigil.use_cases.lock_clusters import DecideLockout, LockoutPlan
from keyvigil.use_cases.registry import Projects
from tests.examples import KEY_ID, NOW, canary, cluster, incident, key, project, verdict
from tests.fakes import CountingIds, FakeClock, FakeTopics, MemoryStore, changed
from tests.unit.test_lockout_and_recovery import BROKEN, INCIDENT

EVE = "arn:aws:iam::111111111111:user/eve"
SLOWLY = changed(BROKEN, failing_streak=6, definite_streak=0, failing_since=NOW - timedelta(minutes=3))


class Choices:
    """A key whose outage is confirmed, and whoever decides about it."""

    def __init__(self, cause: Cause = Cause.KEY_DISABLED, health: Health = BROKEN) -> None:
        self.store, self.clock = MemoryStore(), FakeClock(NOW)
        self.store.put(
            project(),
            key(health=health, verdict=verdict(cause), open_incident_id=INCIDENT, clusters=1),
            incident(confirmed_at=NOW, cause=cause),
            cluster(),
        )
        self._ids = CountingIds()
        self._wire()

    def _wire(self) -> None:
        ask = AskBrake(self.store, self.clock, BrakeSettings(max_lockouts=1))
        self.decide = DecideLockout(self.store, ask, self.clock, self._ids, confirmation_probes=3)
        self.person = DecideIncident(self.store, self.clock, self._ids)
        self.projects = Projects(self.store, FakeTopics(), self.clock, self._ids)

    def restart(self) -> None:
        """Write everything down, and read it with new code in a new process."""
        fresh = MemoryStore()
        for place, entity in self.store.items.items():
            written = json.dumps(to_plain(cast("Any", entity)))
            fresh.items[place] = replace(
                cast("Any", from_stored(json.loads(written), type(entity))), version=entity.version
            )
        assert fresh.items == self.store.items
        self.store = fresh
        self._wire()

    def lockout(self) -> LockoutPlan:
        return self.decide("acme-prod", KEY_ID, INCIDENT)

    def incident(self) -> Incident:
        found = self.store.incident("acme-prod", INCIDENT)
        assert found is not None
        return found

    def change(self, **fields: Any) -> None:
        self.store.put(changed(self.incident(), **fields))

    def told(self, what: str) -> list[str]:
        return [each.detail for each in self.store.all(TimelineEntry) if each.what == what]


def by_the_brake(choices: Choices) -> None:
    choices.store.put(
        Brake(
            region=None,
            cause=None,
            project_id="acme-prod",
            engaged_at=NOW,
            engaged_by=EVE,
            reason="we move the network",
            seen_at=NOW,
        )
    )


def by_the_canary(choices: Choices) -> None:
    choices.store.put(canary(verdict=verdict(Cause.ACCESS_DENIED), in_doubt=True))


def by_the_project(choices: Choices) -> None:
    choices.store.put(project(approval=Approval.MANUAL))


def by_grace(choices: Choices) -> None:
    choices.store.put(project(grace_minutes=30))


def by_flapping(choices: Choices) -> None:
    choices.change(flapping=True)


def by_the_ceiling(choices: Choices) -> None:
    choices.store.put(LockoutTally(begun=(BegunLockout(incident_id="01JOTHER", at=NOW),)))


def by_a_person(choices: Choices) -> None:
    choices.change(status=IncidentStatus.CONFIRMING)
    choices.person("acme-prod", INCIDENT, Decision.HOLD, reason="wait for me", by=EVE)
    choices.change(status=IncidentStatus.CONFIRMING, held_for=None)


def nobody(_choices: Choices) -> None:
    pass


HOLDS = [
    pytest.param(HeldFor.BRAKE, Choices, by_the_brake, "we move the network", id="a brake that a person pulled"),
    pytest.param(
        HeldFor.BRAKE, lambda: Choices(Cause.ACCESS_DENIED, SLOWLY), by_the_canary, "our own fault", id="the canary"
    ),
    pytest.param(HeldFor.APPROVAL, Choices, by_the_project, "wants every lockout approved", id="the project"),
    pytest.param(
        HeldFor.APPROVAL, lambda: Choices(Cause.ACCESS_DENIED, SLOWLY), nobody, "a person decides", id="no canary"
    ),
    pytest.param(HeldFor.GRACE, Choices, by_grace, "grace lasts until 2026-11-22 03:30:00 UTC", id="grace"),
    pytest.param(HeldFor.FLAPPING, Choices, by_flapping, "third time within an hour", id="flapping"),
    pytest.param(HeldFor.CEILING, Choices, by_the_ceiling, "no more than 1 may", id="the ceiling"),
    pytest.param(HeldFor.OPERATOR, Choices, by_a_person, f"{EVE} holds it: wait for me", id="a person"),
]


@pytest.mark.parametrize(("held_for", "made", "holds", "why"), HOLDS)
def test_a_held_incident_says_for_what_and_why_in_its_timeline_and_holds_after_a_restart(
    held_for: HeldFor, made: Any, holds: Any, why: str
) -> None:
    choices: Choices = made()
    holds(choices)
    assert choices.lockout().decision.verb is LockoutVerb.HOLD
    assert (choices.incident().status, choices.incident().held_for) == (IncidentStatus.HELD, held_for)
    [said] = choices.told("incident.held")
    assert said.startswith(f"for {held_for}: ")
    assert why in said
    choices.restart()
    again = choices.lockout().decision
    assert (again.verb, again.held_for) == (LockoutVerb.HOLD, held_for)
    assert choices.told("incident.held") == [said], "it is told once"


def test_there_is_an_example_of_everything_that_an_incident_can_be_held_for() -> None:
    assert {hold.values[0] for hold in HOLDS} == set(HeldFor)


@pytest.mark.parametrize(("held_for", "made", "holds", "_why"), HOLDS)
def test_an_approval_with_who_and_why_lets_each_go_after_a_restart(
    held_for: HeldFor, made: Any, holds: Any, _why: str
) -> None:
    choices: Choices = made()
    holds(choices)
    choices.lockout()
    choices.person("acme-prod", INCIDENT, Decision.APPROVE, reason="they left us", by=EVE)
    choices.restart()
    decision = choices.incident().decision
    assert decision is not None
    assert (decision.decision, decision.by, decision.reason) == (Decision.APPROVE, EVE, "they left us")
    assert decision.held_for is held_for
    assert choices.lockout().decision.verb is LockoutVerb.LOCK
    assert choices.told("decision.approve") == [f"{EVE} decided approve: they left us"]
    assert f"{EVE} approved" in choices.told("lockout.begun")[0]


def test_a_dismissal_with_who_and_why_locks_nothing_after_a_restart() -> None:
    choices = Choices()
    choices.person("acme-prod", INCIDENT, Decision.DISMISS, reason="a drill", by=EVE)
    choices.restart()
    assert choices.lockout().decision.verb is LockoutVerb.STOP
    assert choices.incident().status is IncidentStatus.DISMISSED
    assert choices.told("decision.dismiss") == [f"{EVE} decided dismiss: a drill"]


def test_observing_and_enforcing_again_are_told_with_who_did_it_and_hold_after_a_restart() -> None:
    choices = Choices()
    choices.projects.update("acme-prod", {"enforcement": Enforcement.OBSERVE}, by=EVE)
    choices.restart()
    assert choices.lockout().decision.verb is LockoutVerb.OBSERVE
    assert choices.incident().status is IncidentStatus.OBSERVED
    choices.projects.update("acme-prod", {"enforcement": Enforcement.ENFORCE}, by=EVE)
    choices.restart()
    assert choices.lockout().decision.verb is LockoutVerb.LOCK
    assert choices.told("project.changed") == [
        f"{EVE} changed the project's enforcement from enforce to observe",
        f"{EVE} changed the project's enforcement from observe to enforce",
    ]
    assert choices.told("incident.observed") == ["the project only observes"]
