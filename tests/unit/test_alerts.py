"""Alerts: what each says, and that somebody wrote down what to do about it."""

from pathlib import Path

import pytest

from keyvigil.domain.alerts import Alert, AlertStatus, AlertType, Severity, make_alert, sentence
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.incidents import AffectedCluster
from keyvigil.domain.verdicts import Cause
from tests.examples import KEY_ARN, NOW, incident, key, verdict

PAGE = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")


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
    page, _, anchor = alert(kind).remediation.runbook.partition("#")
    assert page == "docs/alerts.md"
    headings = [line.removeprefix("## ") for line in PAGE.splitlines() if line.startswith("## ")]
    assert anchor in [heading.replace(".", "") for heading in headings]


def test_a_subscriber_who_reads_mail_gets_words_with_the_command_that_mends_it() -> None:
    words = sentence(alert(AlertType.KEY_UNHEALTHY))
    for part in ("[critical] key.unhealthy", KEY_ARN, "vectors-prod (LOCKED)", "aws kms enable-key", "01JINCIDENT"):
        assert part in words
    assert "{" not in words


def test_what_is_over_is_resolved_and_nothing_else_is() -> None:
    resolved = {kind for kind in AlertType if alert(kind).status is AlertStatus.RESOLVED}
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
