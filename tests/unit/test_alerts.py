"""Alerts: what each says, and that somebody wrote down what to do about it."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from keyvigil.domain.alerts import (
    INCIDENT_ALERTS,
    Alert,
    AlertCause,
    AlertStatus,
    AlertType,
    Notice,
    Severity,
    make_alert,
    make_fleet_notice,
    make_key_notice,
    runbook,
)
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.incidents import AffectedCluster
from keyvigil.domain.verdicts import Cause, Remediation
from keyvigil_cli.main import app
from tests.examples import KEY_ARN, NOW, incident, key, verdict

PAGE = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
API = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text(encoding="utf-8"))


def alert(kind: AlertType) -> Alert:
    made, _ = make_alert(
        kind,
        alert_id="01JALERT",
        key=key(verdict=verdict(Cause.KEY_DISABLED)),
        incident=incident(),
        clusters=[AffectedCluster(cluster_id="vectors-prod", status=ClusterStatus.LOCKED)],
        occurred_at=NOW,
        detected_at=NOW,
    )
    return made


@pytest.mark.parametrize("kind", AlertType)
def test_each_alert_s_runbook_is_a_heading_of_the_page(kind: AlertType) -> None:
    page, _, anchor = runbook(kind).partition("#")
    assert page == "docs/alerts.md"
    headings = [line.removeprefix("## ") for line in PAGE.splitlines() if line.startswith("## ")]
    assert anchor in [heading.replace(".", "") for heading in headings]


def page_of(kind: AlertType) -> str:
    """What the page says under an alert's heading."""
    (text,) = [part for part in PAGE.split("\n## ")[1:] if part.splitlines()[0] == kind]
    return text.partition("\n")[2].strip()


@pytest.mark.parametrize("kind", AlertType)
def test_each_alert_s_runbook_says_what_it_means_what_is_likely_and_what_to_do(kind: AlertType) -> None:
    text = page_of(kind)
    means, likely, do = text.find("*"), text.find("**Likely:**"), text.find("**Do:**")
    assert 0 == means < likely < do, "how severe, and its meaning; then **Likely:**; then **Do:**"
    for part in (text[means:likely], text[likely:do], text[do:]):
        assert len(part.split()) > 1


LOCKOUT_ALERTS = [kind for kind in AlertType if kind.startswith(("incident.approval", "cluster.", "fleet.brake"))]


@pytest.mark.parametrize("kind", LOCKOUT_ALERTS)
def test_the_runbook_of_an_alert_about_a_lockout_has_the_commands(kind: AlertType) -> None:
    assert commands_in(page_of(kind))


def commands_in(text: str) -> list[str]:
    return re.findall(r"`keyvigil ([^`]+)`", text)


@pytest.mark.parametrize("words", commands_in(PAGE))
def test_every_command_of_the_page_is_one_and_takes_what_it_is_given(words: str) -> None:
    given = shlex.split(words.replace("FENCE", "7"))
    if given[0] == "api":
        method, path = given[1:3]
        route = re.sub(r"[A-Z]+_ID", lambda found: f"{{{found[0].lower()}}}", path)
        assert method.lower() in API["paths"].get(route, {}), f"{method} {route} is no route"
        return
    command: Any = typer.main.get_command(app)
    while given and hasattr(command, "commands"):
        command = command.commands[given.pop(0)]
    # Reads the words as the command line does, and calls nothing. (`fleet` alone shows the fleet.)
    command.make_context(command.name, given, resilient_parsing=hasattr(command, "commands"))


def test_what_is_over_is_resolved_and_nothing_else_is() -> None:
    resolved = {kind for kind in INCIDENT_ALERTS if alert(kind).status is AlertStatus.RESOLVED}
    assert resolved == {AlertType.KEY_RECOVERED, AlertType.CLUSTER_UNLOCKED}
    assert all(alert(kind).severity is Severity.INFO for kind in resolved)


def test_an_alert_moves_its_key_s_sequence_on() -> None:
    made, numbered = make_alert(
        AlertType.KEY_SUSPECT,
        alert_id="01JALERT",
        key=key(alert_sequence=6),
        incident=incident(),
        clusters=(),
        occurred_at=NOW,
        detected_at=NOW,
    )
    assert made.sequence == numbered.alert_sequence == 7


def notice(status: AlertStatus = AlertStatus.FIRING, **fields: Any) -> Notice:
    cause = AlertCause(code=None, operation=None, aws_error_code=None, message="Something is about to go wrong.")
    said: dict[str, Any] = {
        "type": AlertType.KEY_SUSPECT,
        "status": status,
        "severity": Severity.WARNING,
        "subject": "danger",
        "cause": cause,
        "remediation": Remediation(summary="Look at it."),
    }
    return Notice(**(said | fields))


def test_a_notice_about_a_key_moves_its_sequence_on_and_has_no_incident() -> None:
    made, numbered = make_key_notice(
        notice(), alert_id="01JALERT", key=key(alert_sequence=6), clusters=(), occurred_at=NOW, detected_at=NOW
    )
    assert made.sequence == numbered.alert_sequence == 7
    assert (made.project_id, made.incident_id, made.severity) == ("acme-prod", None, Severity.WARNING)
    assert made.key is not None
    assert made.key.arn == KEY_ARN


def test_the_end_of_what_a_notice_told_shares_its_dedup_key_and_is_info() -> None:
    begun, over = (
        make_key_notice(notice(status), alert_id="01JALERT", key=key(), clusters=(), occurred_at=NOW, detected_at=NOW)[
            0
        ]
        for status in (AlertStatus.FIRING, AlertStatus.RESOLVED)
    )
    assert begun.dedup_key == over.dedup_key
    assert over.severity is Severity.INFO


def test_a_notice_about_keyvigil_itself_names_no_project_and_no_key() -> None:
    made = make_fleet_notice(notice(), alert_id="01JALERT", occurred_at=NOW, detected_at=NOW)
    assert (made.project_id, made.key, made.dedup_key) == (None, None, "fleet/danger")
