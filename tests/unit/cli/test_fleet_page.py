"""`keyvigil fleet --html FILE`: the dashboard's picture without the console."""

import stat
from pathlib import Path

from keyvigil.domain.keys import Health, Key, KeyStatus
from keyvigil.domain.verdicts import Cause
from keyvigil_cli.main import app
from tests.examples import KEY_ID, key, project, verdict
from tests.unit.cli.conftest import Keyvigil
from tests.unit.cli.registry_server import Canned
from tests.unit.test_page import Document

UNHEALTHY = Health(status=KeyStatus.UNHEALTHY, confirmed=True)


def broken() -> Key:
    return key(health=UNHEALTHY, verdict=verdict(Cause.KEY_DISABLED), open_incident_id="01JINCIDENT")


def test_the_page_shows_the_incident_with_its_timeline_and_every_key(keyvigil: Keyvigil, tmp_path: Path) -> None:
    store = keyvigil.api.store
    store.items = {place: each for place, each in store.items.items() if each != key()}
    store.put(project(project_id="calm"), broken(), key(project_id="calm", key_id="us-west-2.calm"))
    shown = keyvigil(f"fleet --html {tmp_path / 'fleet.html'}")
    drawn = Document((tmp_path / "fleet.html").read_text(encoding="utf-8"))

    assert (shown.status, shown.output) == (3, "")
    assert (tmp_path / "fleet.html").as_uri() in shown.messages
    assert {"calm", KEY_ID.partition(".")[2], "us-west-2"} <= {
        part for text in drawn.texts for part in text.split(" · ")
    }
    assert "Open incidents (1)" in drawn.texts
    assert ("GET", "/projects/acme-prod/incidents/01JINCIDENT") in keyvigil.server.asked()


def test_a_project_that_is_deleted_meanwhile_is_left_out(keyvigil: Keyvigil, tmp_path: Path) -> None:
    gone = Canned(
        404, '{"title": "Not found", "detail": "Project acme-prod does not exist."}', "application/problem+json"
    )
    keyvigil.api.store.put(project(project_id="calm"), key(project_id="calm", key_id="us-west-2.calm"))
    # The fleet, the projects, the keys of the first.
    keyvigil.server.instead = [None, None, gone]
    shown = keyvigil(f"fleet --html {tmp_path / 'fleet.html'}")
    drawn = Document((tmp_path / "fleet.html").read_text(encoding="utf-8"))

    assert keyvigil.server.asked()[2] == ("GET", "/projects/acme-prod/keys")
    assert "Not found" not in shown.messages
    assert {part for text in drawn.texts for part in text.split(" · ")} >= {"calm"}


def test_what_else_goes_wrong_is_no_missing_project(keyvigil: Keyvigil, tmp_path: Path) -> None:
    keyvigil.server.instead = [None, None, Canned(403, '{"message": "Forbidden"}')]
    assert keyvigil(f"fleet --html {tmp_path / 'fleet.html'}").status == 1


def test_the_page_is_its_owners_alone_and_nothing_is_left_beside_it(keyvigil: Keyvigil, tmp_path: Path) -> None:
    path = tmp_path / "fleet.html"
    path.write_text("the page before")
    keyvigil(f"fleet --html {path}")

    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["fleet.html"]


def test_where_nothing_can_be_written_it_says_so(keyvigil: Keyvigil, tmp_path: Path) -> None:
    shown = keyvigil(f"fleet --html {tmp_path / 'missing' / 'fleet.html'}")

    assert shown.status == 1
    assert "could not be written" in shown.messages


def test_every_command_that_the_page_prints_is_one(keyvigil: Keyvigil, tmp_path: Path) -> None:
    """Approve, hold, dismiss, check, list: renamed, they would send an operator the wrong way at night."""
    for words in ("incident approve", "incident hold", "incident dismiss", "key check", "incident list", "fleet"):
        assert keyvigil(f"{words} --help").status == 0
    assert app.registered_groups
