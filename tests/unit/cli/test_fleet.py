"""`keyvigil fleet`: what an operator sees first, and what a script is told."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from keyvigil.domain.incidents import IncidentStatus
from keyvigil_cli.commands.fleet import health_of
from keyvigil_cli.exit_status import ExitStatus
from tests.examples import NOW, incident, project
from tests.unit.cli.conftest import Keyvigil
from tests.unit.cli.registry_server import Canned

FINE: dict[str, Any] = {
    "keys": {"HEALTHY": 2, "SUSPECT": 0},
    "unknown": 0,
    "stale_keys": 0,
    "clusters": {"ACTIVE": 1, "LOCK_FAILED": 0},
    "open_incidents": 0,
    "brake": [],
    "canaries": [{"region": "us-west-2", "partial": False, "outcome": "HEALTHY", "probed_at": None}],
}


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, ExitStatus.FINE),
        ({"keys": {"HEALTHY": 1, "SUSPECT": 1}}, ExitStatus.UNHEALTHY),
        ({"clusters": {"LOCK_FAILED": 1}}, ExitStatus.UNHEALTHY),
        ({"open_incidents": 1}, ExitStatus.UNHEALTHY),
        ({"brake": [{"region": None}]}, ExitStatus.UNHEALTHY),
        ({"unknown": 1}, ExitStatus.UNKNOWN),
        ({"stale_keys": 1}, ExitStatus.UNKNOWN),
        ({"canaries": [{"outcome": "UNKNOWN"}]}, ExitStatus.UNKNOWN),
        ({"last_sweep": None}, ExitStatus.UNKNOWN),
        ({"last_sweep": {"at": "2020-01-01T00:00:00.000Z"}}, ExitStatus.UNKNOWN),
        ({"unknown": 1, "open_incidents": 1}, ExitStatus.UNHEALTHY),
    ],
    ids=str,
)
def test_nothing_that_is_unknown_or_late_is_fine(changed: dict[str, Any], status: ExitStatus) -> None:
    now = {"at": datetime.now(UTC).isoformat(), "keys_due": 1, "keys_sent": 1}
    assert health_of({**FINE, "last_sweep": now, **changed}) is status


def test_the_fleet_shows_open_incidents_of_all_projects(keyvigil: Keyvigil) -> None:
    keyvigil.api.store.put(project(project_id="calm"))
    shown = keyvigil("fleet")
    assert shown.status == 3
    assert "01JINCIDENT" in shown.output
    assert ("GET", "/projects/calm/incidents") not in keyvigil.server.asked()


def test_the_fleet_as_json_is_the_api_s_answer(keyvigil: Keyvigil) -> None:
    shown = keyvigil("fleet --output json")
    assert shown.json["open_incidents"] == 1
    assert keyvigil.server.asked() == [("GET", "/fleet")]


def test_a_watched_fleet_is_one_line_of_json_a_look(keyvigil: Keyvigil) -> None:
    watched = keyvigil("fleet watch --looks 3 --output json")
    assert watched.status == 3
    assert [json.loads(line)["open_incidents"] for line in watched.output.splitlines()] == [1, 1, 1]


def test_a_watched_fleet_is_printed_again_only_when_it_changed(keyvigil: Keyvigil) -> None:
    assert keyvigil("fleet watch --looks 3").output.count("Last sweep") == 1


def test_while_the_api_does_not_answer_watching_goes_on_and_nothing_is_called_fine(keyvigil: Keyvigil) -> None:
    keyvigil.api.store.put(incident(status=IncidentStatus.RESOLVED, resolved_at=NOW))
    nothing = Canned(503, '{"message": "Service Unavailable"}')
    keyvigil.server.instead = [None, nothing]
    watched = keyvigil("fleet watch --looks 2 --output json")
    assert watched.status == 4
    assert "503" in watched.messages
    assert len(watched.output.splitlines()) == 1


def test_who_may_not_see_the_fleet_does_not_watch_it(keyvigil: Keyvigil) -> None:
    denied = Canned(403, '{"message": "User is not authorized to perform: execute-api:Invoke"}')
    keyvigil.server.instead = [denied]
    assert keyvigil("fleet watch").status == 1
    keyvigil.server.instead = [Canned(503, "{}")]
    assert keyvigil("fleet watch").status == 1


def test_the_brake_is_engaged_for_what_was_said_and_released(keyvigil: Keyvigil) -> None:
    asked = keyvigil("fleet brake engage --in-region eu-west-1 --reason", "they rotate everything")
    assert (asked.status, "Nothing is locked any more: all projects in eu-west-1" in asked.messages) == (1, True)
    engaged = keyvigil("fleet brake engage --in-region eu-west-1 --yes --reason", "they rotate everything")
    assert engaged.status == 0
    assert keyvigil.server.seen[-1].body == {
        "action": "engage",
        "region": "eu-west-1",
        "reason": "they rotate everything",
    }
    assert "they rotate everything" in engaged.output
    assert "they rotate everything" in keyvigil("fleet").output
    released = keyvigil("fleet brake release --in-region eu-west-1 --yes --reason done --output json")
    assert released.json == {"brake": []}


def test_canaries_are_listed_registered_and_forgotten(keyvigil: Keyvigil) -> None:
    assert "keyvigil-canary-1" in keyvigil("fleet canary list").output
    listed = keyvigil("fleet canary list --output json").json
    [other] = [each["canary_id"] for each in listed["items"] if each["canary_id"] != "stack"]
    assert keyvigil(f"fleet canary delete {other} --yes").status == 0
    stays = keyvigil("fleet canary delete stack --yes")
    assert (stays.status, "409" in stays.messages) == (1, True)
