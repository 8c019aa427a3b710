"""Backups, subscriptions and silences from the command line; alerts that stand, and alerts as they come."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from moto import mock_aws

from keyvigil.domain.alerts import AlertType, Severity
from keyvigil.domain.projects import Protocol
from keyvigil.domain.quiet import Ledger, Problem
from keyvigil.domain.verdicts import Cause
from keyvigil.ports import RestoreAnswer
from keyvigil_cli.commands import alert as alert_commands
from tests.examples import KEY_ID, full_problem, verdict
from tests.unit.cli.conftest import Keyvigil
from tests.unit.cli.registry_server import Canned

P = "acme-prod"
QUEUE = "arn:aws:sqs:us-west-2:222222222222:ours"


def test_choices_are_the_api_s() -> None:
    assert set(alert_commands.ProtocolWord.__args__) == set(Protocol)  # type: ignore[attr-defined]  # a Literal has them
    assert set(alert_commands.SeverityWord.__args__) == set(Severity)  # type: ignore[attr-defined]  # likewise


def test_a_backup_is_registered_listed_tried_and_forgotten(keyvigil: Keyvigil) -> None:
    made = keyvigil(f"backup register {P} monday --cluster-id vectors-prod --key-id {KEY_ID} --output json")
    assert (made.status, made.json["region"]) == (0, "us-west-2")
    assert "monday" in keyvigil("backup list").output
    tried = keyvigil(f"backup restore-check {P} monday us-west-2 --output json")
    assert (tried.status, tried.json["restorable"]) == (0, True)
    assert keyvigil(f"backup delete {P} monday --yes").status == 0
    assert "monday" not in keyvigil(f"backup list {P}").output


def test_what_could_not_be_restored_is_3_with_the_reason_and_what_nobody_knows_4(keyvigil: Keyvigil) -> None:
    keyvigil(f"backup register {P} monday --cluster-id vectors-prod --key-id {KEY_ID}")
    keyvigil.api.checker.restore = RestoreAnswer(verdict=verdict(Cause.KEY_DISABLED))
    tried = keyvigil(f"backup restore-check {P} monday us-west-2")
    assert tried.status == 3
    assert "aws kms enable-key" in tried.output
    keyvigil.api.checker.restore = RestoreAnswer(verdict=verdict(Cause.THROTTLED))
    assert keyvigil(f"backup restore-check {P} monday us-west-2").status == 4


def test_an_endpoint_is_subscribed_tried_and_told_no_more(keyvigil: Keyvigil) -> None:
    made = keyvigil(
        f"alert subscribe {P} sqs {QUEUE} --min-severity warning --type key.* --type cluster.locked", "-o", "json"
    )
    assert made.status == 0, made.messages
    assert keyvigil.server.seen[-1].body == {
        "protocol": "sqs",
        "endpoint": QUEUE,
        "min_severity": "warning",
        "types": ["key.*", "cluster.locked"],
    }
    subscription = made.json["subscription_id"]
    assert f"keyvigil alert test {P} {subscription}" in made.messages
    assert keyvigil(f"alert test {P} {subscription} -o json").json["alert_id"]
    assert subscription in keyvigil("alert subscriptions").output
    assert keyvigil(f"alert unsubscribe {P} {subscription}").status == 0
    assert subscription not in keyvigil(f"alert subscriptions {P}").output


def test_who_must_confirm_is_told_so(keyvigil: Keyvigil) -> None:
    keyvigil.api.topics.status = "pending"
    made = keyvigil(f"alert subscribe {P} email you@example.com")
    assert "must confirm within 48 hours" in made.messages


# --- silences, and what stands


def test_a_silence_is_made_listed_and_ended(keyvigil: Keyvigil) -> None:
    made = keyvigil(
        f"silence create {P} --type key.rotation_disabled --until 2026-12-01T01:00:00+01:00 --reason known -o json"
    )
    assert made.status == 0, made.messages
    assert made.json["types"] == ["key.rotation_disabled"]
    assert (made.json["until"], made.json["key_id"]) == ("2026-12-01T00:00:00.000Z", None)
    assert made.json["reason"] == "known"
    silence = made.json["silence_id"]
    assert silence in keyvigil(f"silence list {P}").output
    assert silence in [each["silence_id"] for each in keyvigil("silence list -o json").json["items"]]
    assert keyvigil(f"silence delete {P} {silence}").status == 0
    assert silence not in keyvigil("silence list").output
    again = keyvigil(f"silence delete {P} {silence}")
    assert (again.status, "404" in again.messages) == (1, True)


def test_a_silence_can_be_given_its_length(keyvigil: Keyvigil) -> None:
    now = keyvigil.api.clock.time = datetime.now(UTC)
    made = keyvigil(
        f"silence create {P} --type key.rotation_disabled --key-id {KEY_ID} --for 4h --reason known -o json"
    )
    assert made.status == 0, made.messages
    assert made.json["key_id"] == KEY_ID
    lasts = datetime.fromisoformat(made.json["until"]) - now
    assert timedelta(hours=3.99) < lasts < timedelta(hours=4.1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("--type key.nonsense --until 2026-12-01T00:00:00Z", "key.nonsense is no type of alert"),
        ("--type key.stale --until 2026-12-01T00:00:00Z", "a project's silence does not mute it"),
        ("--type key.* --until 2026-11-01T00:00:00Z", "`until` is past"),
        (
            "--type key.* --until 2026-12-01T00:00:00Z --key-id us-west-2.99999999-9999-4999-8999-999999999999",
            "Register the key",
        ),
    ],
    ids=["a type that there is not", "the operator's", "an end that is past", "a key that is not registered"],
)
def test_a_silence_that_makes_no_sense_is_refused_with_what_to_do(keyvigil: Keyvigil, wrong: str, said: str) -> None:
    refused = keyvigil(f"silence create {P} --reason known {wrong}")
    assert refused.status == 1
    assert said in " ".join(refused.messages.split())


def problem(**changes: Any) -> Problem:
    return replace(full_problem(), over_at=None, **changes)


def test_what_stands_is_listed_silenced_or_not_and_what_is_over_is_not(keyvigil: Keyvigil) -> None:
    told = problem(dedup_key="told", unsaid=None)
    silenced = problem(
        dedup_key="silenced", type=AlertType.KEY_ROTATION_DISABLED, severity=Severity.WARNING, incident_id=None,
        told_at=None,
    )  # fmt: skip
    over = replace(full_problem(), dedup_key="over")
    problems = {each.dedup_key: each for each in (told, silenced, over)}
    keyvigil.api.store.put(Ledger(project_id=P, key_id=KEY_ID, problems=problems))

    listed = keyvigil(f"alert list {P}")
    assert listed.status == 0, listed.messages
    heading, *lines = listed.output.splitlines()
    assert heading.split("  ")[0] == "PROJECT"
    first, second = sorted(lines, key=lambda line: "rotation" in line)
    assert "key.unhealthy" in first
    assert "it is silenced" not in first
    assert "never" in second
    assert "it is silenced" in second
    found = keyvigil("alert list -o json").json["items"]
    assert [(each["project_id"], each["dedup_key"], each["withheld"]) for each in found] == [
        (P, "silenced", "it is silenced"),
        (P, "told", None),
    ]


def test_where_nothing_is_wrong_no_alert_is_listed(keyvigil: Keyvigil) -> None:
    keyvigil.api.store.put(Ledger(project_id=P, key_id=KEY_ID, problems={}))
    assert keyvigil("alert list -o json").json == {"items": [], "next_token": None}
    assert keyvigil("alert list nothing-here").status == 1


@pytest.mark.parametrize(
    "end",
    ["", "--for 4h --until 2026-12-01T00:00:00Z", "--for 4", "--for 0h", "--for soon", "--until soon",
     "--until 2026-12-01T00:00:00"],
)  # fmt: skip
def test_a_silence_that_ends_nobody_knows_when_is_a_mistake_in_usage(keyvigil: Keyvigil, end: str) -> None:
    assert keyvigil(f"silence create {P} --type key.rotation_disabled --reason known {end}").status == 2
    assert keyvigil.server.seen == []


# --- alerts as they come


@pytest.fixture
def sqs(monkeypatch: pytest.MonkeyPatch, keyvigil: Keyvigil) -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("sqs", region_name="us-west-2")


def alert(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "alert_id": f"01JALERT{number}",
        "type": "key.unhealthy",
        "severity": "critical",
        "status": "firing",
        "key": {"arn": "arn:aws:kms:us-west-2:222222222222:key/1"},
        "cause": {"message": "It is disabled.\x1b[2J"},
        "clusters": [{"cluster_id": "vectors", "status": "LOCKED"}],
        "remediation": {"summary": "Enable it.", "commands": ["aws kms enable-key --key-id 1"]},
        "occurred_at": "2026-11-22T21:18:53.994Z",
        **changes,
    }


@pytest.fixture
def sending(sqs: Any, monkeypatch: pytest.MonkeyPatch, keyvigil: Keyvigil) -> list[dict[str, Any]]:
    """What the project's topic sends as soon as a queue is subscribed to it."""
    to_send: list[dict[str, Any]] = []
    create = keyvigil.api.topics.subscribe

    def subscribe(*values: Any, **named: Any) -> Any:
        made = create(*values, **named)
        [url] = sqs.list_queues()["QueueUrls"]
        for each in to_send:
            sqs.send_message(QueueUrl=url, MessageBody=json.dumps(each))
        return made

    monkeypatch.setattr(keyvigil.api.topics, "subscribe", subscribe)
    return to_send


def test_alerts_are_printed_once_each_and_nothing_is_left_behind(
    keyvigil: Keyvigil, sqs: Any, sending: list[dict[str, Any]]
) -> None:
    sending += [alert(1), alert(1), alert(2, status="resolved", severity="info", type="key.recovered")]
    tailed = keyvigil(f"alert tail {P} --type key.* --count 2")
    assert tailed.status == 0, tailed.messages
    first, command, second, *_ = tailed.output.splitlines()
    assert first.startswith("21:18:53Z  critical  key.unhealthy  arn:aws:kms")
    assert "\\x1b[2J" in first
    assert command == "    aws kms enable-key --key-id 1"
    assert "key.recovered  resolved" in second
    assert "QueueUrls" not in sqs.list_queues()
    assert [each.subscription_id for each in keyvigil.api.topics.subscriptions.values()] == []


def test_alerts_as_json_are_one_line_each(keyvigil: Keyvigil, sending: list[dict[str, Any]]) -> None:
    sending.append(alert(1))
    tailed = keyvigil(f"alert tail {P} --count 1 --output json")
    assert json.loads(tailed.output)["alert_id"] == "01JALERT1"


def test_ctrl_c_ends_it_tidily(keyvigil: Keyvigil, sqs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_self: object, *, wait_seconds: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("keyvigil_cli.alert_queue.AlertQueue.take", interrupted)
    tailed = keyvigil(f"alert tail {P}")
    assert (tailed.status, tailed.output) == (0, "")
    assert "QueueUrls" not in sqs.list_queues()


def test_a_project_that_is_not_there_leaves_no_queue(keyvigil: Keyvigil, sqs: Any) -> None:
    assert keyvigil("alert tail nothing-here").status == 1
    assert "QueueUrls" not in sqs.list_queues()


def test_a_refused_subscription_leaves_no_queue_and_one_that_stays_is_named(
    keyvigil: Keyvigil, sqs: Any, sending: list[dict[str, Any]]
) -> None:
    keyvigil.server.instead = [None, Canned(422, '{"title": "Invalid request"}', "application/problem+json")]
    assert keyvigil(f"alert tail {P}").status == 1
    assert "QueueUrls" not in sqs.list_queues()
    sending.append(alert(1))
    keyvigil.server.instead = [None, None, Canned(409, '{"title": "Still pending"}', "application/problem+json")]
    assert "keyvigil alert unsubscribe" in keyvigil(f"alert tail {P} --count 1").messages
