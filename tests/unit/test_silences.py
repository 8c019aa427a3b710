"""Silences, from the API to what is not sent."""

from datetime import timedelta
from typing import Any

import pytest

from keyvigil.domain.silences import MAX_SILENCES_PER_PROJECT
from keyvigil.use_cases.registry import Projects
from keyvigil.use_cases.silencing import SILENCEABLE, Silencing
from tests.examples import KEY_ID, NOW, key, project
from tests.fakes import CountingIds, FakeClock, FakeTopics, MemoryStore
from tests.unit.test_api import NEW_SILENCE, Api
from tests.unit.test_quiet import FIRING, RESOLVED, ROTATION, World, of_danger

P = "/projects/acme-prod"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    api = Api(monkeypatch)
    api.store.put(project(), key(), project(project_id="beta-prod"))
    return api


def silenced(api: Api, **changes: Any) -> str:
    reply = api.ask("POST", f"{P}/silences", {**NEW_SILENCE, **changes})
    assert reply.status == 201, reply.text
    return str(reply.json["silence_id"])


def test_a_silence_says_what_until_when_why_and_who(api: Api) -> None:
    made = api.ask("POST", f"{P}/silences", NEW_SILENCE).json
    assert made == {
        "silence_id": made["silence_id"],
        "project_id": "acme-prod",
        "types": ["key.rotation_disabled", "cluster.*"],
        "key_id": KEY_ID,
        "until": "2026-12-24T17:00:00.000Z",
        "reason": "We rotate by hand.",
        "created_by": "arn:aws:sts::222222222222:assumed-role/tenant/session",
        "created_at": "2026-11-22T03:00:00.000Z",
    }
    assert api.ask("GET", f"{P}/silences").json["items"] == [made]
    assert api.ask("GET", "/projects/beta-prod/silences").json["items"] == []


@pytest.mark.parametrize(
    ("wrong", "status", "says"),
    [
        ({"types": []}, 422, "types"),
        ({"types": ["key.broken"]}, 422, "key.broken is no type of alert"),
        ({"types": ["secret.*"]}, 422, "secret.* is no type of alert"),
        ({"types": ["fleet.*"]}, 422, "goes to the operator"),
        ({"types": ["fleet.canary_unhealthy"]}, 422, "goes to the operator"),
        ({"types": ["key.stale"]}, 422, "goes to the operator"),
        ({"until": "2026-11-22T03:00:00Z"}, 422, "is past"),
        ({"until": "2027-11-24T03:00:00Z"}, 422, "at most 366 days"),
        ({"until": "2026-02-31T03:00:00Z"}, 422, "there is no such time"),
        ({"until": "9999-12-31T23:59:59-23:59"}, 422, "until"),
        ({"until": 1795316400}, 422, "until"),
        ({"until": "tomorrow"}, 422, "until"),
        ({"reason": ""}, 422, "reason"),
        ({"key_id": "us-west-2.9999abcd-12ab-34cd-56ef-1234567890ab"}, 409, "Register the key"),
        ({"every": True}, 422, "every"),
    ],
)
def test_a_silence_that_makes_no_sense_is_refused_with_what_is_wrong(
    api: Api, wrong: dict[str, Any], status: int, says: str
) -> None:
    refused = api.ask("POST", f"{P}/silences", {**NEW_SILENCE, **wrong})
    assert refused.status == status
    assert says in refused.text
    assert api.store.silences("acme-prod").silences == ()


@pytest.mark.parametrize("kind", SILENCEABLE)
def test_every_type_that_a_project_gets_can_be_silenced(api: Api, kind: str) -> None:
    silenced(api, types=[kind])


def test_a_project_has_a_bounded_number_of_silences_and_those_that_are_over_do_not_count(api: Api) -> None:
    for _ in range(MAX_SILENCES_PER_PROJECT):
        silenced(api, until="2026-11-22T04:00:00Z")
    assert api.ask("POST", f"{P}/silences", NEW_SILENCE).status == 409
    api.clock.advance(3600)
    assert api.ask("GET", f"{P}/silences").json["items"] == []
    silenced(api)
    assert len(api.store.silences("acme-prod").silences) == 1


def test_a_silence_is_deleted_once_and_by_its_own_project(api: Api) -> None:
    silence_id = silenced(api)
    assert api.ask("DELETE", f"/projects/beta-prod/silences/{silence_id}").status == 404
    assert api.ask("DELETE", f"{P}/silences/{silence_id}").status == 204
    assert api.ask("DELETE", f"{P}/silences/{silence_id}").status == 404


def test_a_project_that_does_not_exist_has_no_silences_and_no_alerts(api: Api) -> None:
    assert api.ask("POST", "/projects/nobody/silences", {**NEW_SILENCE, "key_id": None}).status == 404
    assert api.ask("GET", "/projects/nobody/silences").status == 404
    assert api.ask("GET", "/projects/nobody/alerts").status == 404


def test_a_silenced_alert_is_shown_and_told_when_the_silence_is_deleted(api: Api) -> None:
    world = World(api.store)
    world.clock = api.clock
    silence_id = silenced(api, key_id=None)
    world.relay([world.write(of_danger(ROTATION, FIRING, 1, NOW))])
    [shown] = api.ask("GET", f"{P}/alerts").json["items"]
    assert (shown["type"], shown["told_at"], shown["withheld"]) == ("key.rotation_disabled", None, "it is silenced")
    assert api.ask("GET", "/projects/beta-prod/alerts").json["items"] == []
    assert world.sent() == []

    api.ask("DELETE", f"{P}/silences/{silence_id}")
    world.again()
    world.relay(api.store.unsent_rows(NOW))
    [shown] = api.ask("GET", f"{P}/alerts").json["items"]
    assert (shown["told_at"], shown["withheld"]) == ("2026-11-22T03:00:00.000Z", None)
    world.relay([world.write(of_danger(ROTATION, RESOLVED, 3, NOW))])
    assert world.sent() == [(ROTATION, 2, FIRING), (ROTATION, 3, RESOLVED)]
    assert api.ask("GET", f"{P}/alerts").json["items"] == []


def test_a_later_project_of_the_same_id_is_not_shown_what_was_wrong_in_the_one_before(api: Api) -> None:
    world = World(api.store)
    world.relay([world.write(of_danger(ROTATION, FIRING, 1, NOW))])
    assert len(api.ask("GET", f"{P}/alerts").json["items"]) == 1
    api.store.put(project(created_at=NOW + timedelta(days=1)))
    assert api.ask("GET", f"{P}/alerts").json["items"] == []


def test_a_later_project_of_the_same_id_inherits_no_silences() -> None:
    store, clock = MemoryStore(), FakeClock(NOW)
    projects = Projects(store, FakeTopics(), clock, CountingIds())
    store.put(project(keys=0))
    silencing = Silencing(store, clock, CountingIds())
    silencing.create(
        "acme-prod", types=("key.*",), key_id=None, until=NOW.replace(year=2027, month=1), reason="r", by="me"
    )
    projects.delete("acme-prod")
    assert store.silences("acme-prod").silences == ()
