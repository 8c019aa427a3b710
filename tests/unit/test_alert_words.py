"""What alerts look like to who gets them: as JSON, as mail, in a chat channel. And that nobody's name changes that."""

import json
import re
import string
import unicodedata
from datetime import timedelta
from typing import Any, override

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from keyvigil import wiring
from keyvigil.adapters.alert_documents import ROOM, document, fits
from keyvigil.adapters.messaging import AwsNotifier
from keyvigil.adapters.plain_data import to_plain
from keyvigil.domain.actors import Actor
from keyvigil.domain.alert_words import (
    CHAT_DESCRIPTION,
    CHAT_STEP,
    CHAT_TITLE,
    SUBJECT_LIMIT,
    chat,
    headline,
    in_one_line,
    mail,
    subject,
)
from keyvigil.domain.alerts import (
    INCIDENT_ALERTS,
    Alert,
    AlertCause,
    AlertKey,
    AlertRemediation,
    AlertStatus,
    AlertType,
    Notice,
    Severity,
    make_alert,
    make_fleet_notice,
    make_key_notice,
    published_at,
    runbook,
)
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.incidents import AffectedCluster
from keyvigil.domain.remediation import Subject, explain
from keyvigil.domain.verdicts import Cause, Remediation
from keyvigil.settings import Settings
from tests.examples import EXTERNAL_ID, KEY_ARN, MONITOR_ROLE_ARN, NOW, ROLE_ARN, actor, incident, key, verdict
from tests.fakes import changed
from tests.infra.source_template import SourceTemplate

ALIAS = KEY_ARN.partition(":key/")[0] + ":alias/orders"
CLUSTERS = (
    AffectedCluster(cluster_id="vectors-prod", status=ClusterStatus.LOCKED),
    AffectedCluster(cluster_id="minio-prod", status=ClusterStatus.LOCK_FAILED, detail="no quorum"),
)
OVER = {AlertType.KEY_RECOVERED, AlertType.CLUSTER_UNLOCKED, AlertType.BRAKE_RELEASED}
ABOUT_KEYVIGIL = {AlertType.BRAKE_ENGAGED, AlertType.BRAKE_RELEASED, AlertType.CANARY_UNHEALTHY}
SNS_LIMIT = 256 * 1024


def broken_key(cause: Cause = Cause.KEY_DISABLED) -> Any:
    about = Subject(
        key_arn=KEY_ARN,
        region="us-west-2",
        role_arn=ROLE_ARN,
        external_id=EXTERNAL_ID,
        monitor_role_arn=MONITOR_ROLE_ARN,
        operations=("DescribeKey", "Encrypt", "Decrypt"),
    )
    message, remediation = explain(cause, "Encrypt", about)
    seen = verdict(cause, message=message, remediation=remediation, aws_error_code="DisabledException")
    return key(verdict=seen, alias_arn=ALIAS, alert_sequence=6)


def example(kind: AlertType, **fields: Any) -> Alert:
    """An alert of each type as it is made, with an actor and clusters where it can have them."""
    times: dict[str, Any] = {"occurred_at": NOW, "detected_at": NOW + timedelta(seconds=2)}
    if kind in INCIDENT_ALERTS:
        watched = key(alias_arn=ALIAS) if kind in OVER else broken_key()
        made, _ = make_alert(
            kind, alert_id="01JALERT", key=watched, incident=incident(actor=actor()), clusters=CLUSTERS, **times
        )
        return changed(made, **fields)
    notice = Notice(
        type=kind,
        status=AlertStatus.RESOLVED if kind in OVER else AlertStatus.FIRING,
        severity=Severity.WARNING,
        subject="subject",
        cause=AlertCause(code="CODE", operation=None, aws_error_code=None, message="Why it is so, in one sentence."),
        remediation=Remediation(summary="Do this.", commands=("aws kms describe-key --key-id 1",)),
    )
    if kind in ABOUT_KEYVIGIL:
        return changed(make_fleet_notice(notice, alert_id="01JALERT", **times), **fields)
    made, _ = make_key_notice(notice, alert_id="01JALERT", key=key(), clusters=CLUSTERS[:1], **times)
    return changed(made, **fields)


@pytest.mark.parametrize("kind", AlertType)
def test_each_type_reads_like_this_as_json_as_mail_and_in_chat(kind: AlertType, snapshot: SnapshotAssertion) -> None:
    # `make snapshot` accepts a change; its diff is part of the review.
    alert = example(kind)
    over = changed(alert, status=AlertStatus.RESOLVED, severity=Severity.INFO)
    assert document(alert) == snapshot(name="json")
    assert f"Subject: {subject(alert)}\n\n{mail(alert)}" == snapshot(name="mail")
    assert chat(alert) == snapshot(name="chat")
    assert [subject(over), headline(over)] == snapshot(name="when resolved")


@pytest.mark.parametrize("kind", AlertType)
def test_the_mail_says_what_since_when_whom_it_hits_who_did_it_how_to_mend_it_and_where_to_read_on(
    kind: AlertType,
) -> None:
    alert = example(kind)
    text = mail(alert)
    assert text.startswith(headline(alert))
    needed = [alert.cause.message, "2026-11-22 03:00:00 UTC", *alert.remediation.commands, alert.remediation.runbook]
    if alert.incident_id is not None:
        needed += [alert.incident_id, actor().arn, "called DisableKey", "192.0.2.0"]
    if alert.key is not None:
        needed += [alert.key.arn, *(cluster.cluster_id for cluster in alert.clusters)]
    for part in needed:
        assert part in text
    assert "None" not in text


@pytest.mark.parametrize("kind", AlertType)
def test_the_chat_channel_gets_the_same(kind: AlertType) -> None:
    alert = example(kind)
    sent = chat(alert)
    text = json.dumps(sent, ensure_ascii=False)
    assert (sent["version"], sent["source"], sent["content"]["textType"]) == ("1.0", "custom", "client-markdown")
    for part in (headline(alert), "2026-11-22 03:00:00 UTC", alert.remediation.runbook, *alert.remediation.commands):
        assert part in text
    assert "None" not in text


def test_what_fires_and_its_end_stand_in_one_thread_of_the_channel() -> None:
    begun, other = (example(AlertType.KEY_UNHEALTHY, incident_id=number) for number in ("1", "1"))
    over = changed(other, type=AlertType.KEY_RECOVERED, status=AlertStatus.RESOLVED)
    assert chat(begun)["metadata"]["threadId"] == chat(over)["metadata"]["threadId"] == begun.dedup_key


def test_who_did_it_is_said_to_be_unknown_while_an_incident_is_open_and_not_talked_of_otherwise() -> None:
    assert "Who:      not known" in mail(example(AlertType.KEY_UNHEALTHY, actor=None))
    assert "Who:" not in mail(example(AlertType.KEY_RECOVERED, actor=None))
    assert "Who:" not in mail(example(AlertType.KEY_ROTATION_DISABLED))


def test_a_page_elsewhere_is_linked_instead_of_the_repositorys() -> None:
    alert, page = example(AlertType.KEY_UNHEALTHY), "https://wiki.example.com/keyvigil/alerts"
    assert f"Read:     {page}#keyunhealthy\n" in mail(alert, page)
    assert f"Read {page}#keyunhealthy" in chat(alert, page)["content"]["nextSteps"]
    assert document(alert, page)["remediation"]["runbook"] == f"{page}#keyunhealthy"


def test_the_longest_address_that_the_template_takes_is_linked_whole() -> None:
    parameter = SourceTemplate.load().content["Parameters"]["DocumentationUrl"]
    page = "https://" + "w" * (parameter["MaxLength"] - len("https://"))
    for kind in AlertType:
        link = published_at(page, runbook(kind))
        assert f"Read:     {link}\n" in mail(example(kind), page)
        assert f"Read {link}" in chat(example(kind), page)["content"]["nextSteps"]


def test_the_relay_links_to_the_page_that_the_stack_was_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    page = "https://wiki.example.com/alerts"
    variables = SourceTemplate.load().content["Resources"]["RelayOutboxFunction"]["Properties"]["Environment"]
    assert variables["Variables"]["KEYVIGIL_DOCUMENTATION_URL"] == {"Ref": "DocumentationUrl"}
    told = dict.fromkeys(variables["Variables"], "x") | {"KEYVIGIL_DOCUMENTATION_URL": page}
    monkeypatch.setattr(wiring, "settings", lambda: Settings({**told, "KEYVIGIL_TABLE_NAME": "table"}, "us-west-2"))
    wire, notifier = Wire(), wiring.relay_outbox.__wrapped__()._notifier
    notifier.__dict__.update(_sns=wire, _events=wire)
    alert = example(AlertType.KEY_UNHEALTHY)
    notifier.publish("arn:topic", alert)
    notifier.publish_to_chat("arn:topic_chat", alert)
    notifier.put_alert(alert)
    assert ["https://wiki.example.com/alerts#keyunhealthy" in json.dumps(each) for each in wire.sent] == [True] * 3


def test_an_alert_says_how_many_clusters_it_is_about_also_where_it_lists_fewer() -> None:
    wide = tuple(
        AffectedCluster(cluster_id=f"{number:03}" + "\U0001f511" * 300, status=ClusterStatus.LOCKED, detail=None)
        for number in range(200)
    )
    sent = document(example(AlertType.CLUSTER_LOCKED, clusters=wide))
    assert len(sent["clusters"]) < 200
    assert sent["clusters_total"] == 200


def test_sorted_subjects_stand_together_by_project_then_key_then_severity() -> None:
    def of(project_id: str, number: str, kind: AlertType) -> str:
        made = example(kind)
        assert made.key is not None
        return subject(changed(made, project_id=project_id, key=changed(made.key, arn=f"arn:aws:kms:::key/{number}")))

    subjects = [
        of("acme", "1111aaaa-1", AlertType.KEY_UNHEALTHY),
        of("acme", "1111aaaa-1", AlertType.KEY_RECOVERED),
        of("acme", "1111aaaa-1", AlertType.KEY_SUSPECT),
        of("acme", "mrk-2222bbbb", AlertType.CLUSTER_LOCKED),
        of("beta", "1111aaaa-1", AlertType.KEY_UNHEALTHY),
    ]
    assert subjects == sorted(subjects)
    assert subjects[0] == "KeyVigil acme 1111aaaa CRITICAL key.unhealthy"
    assert subjects[3] == "KeyVigil acme mrk-2222bbbb CRITICAL cluster.locked"


def test_many_clusters_are_counted_and_the_first_ones_named() -> None:
    many = tuple(AffectedCluster(cluster_id=f"c{number:03}", status=ClusterStatus.LOCKED) for number in range(200))
    text = mail(example(AlertType.CLUSTER_LOCKED, clusters=many))
    assert "Affected: 200 clusters\n          LOCKED: c000, c001" in text
    assert "c019 and 180 more\n" in text


# --- other people's words ---------------------------------------------------------------------------------------

BREAKING = (
    "\n\r\t\v\f\0\x07\x1b\x7f\x85\u2028\u2029"
    "\u200b\u200d\u200e\u200f\u202a\u202e\u2066\u2069\ufeff\u00ad\u2800\u3164\ufe0f"
    "<>&\"'`*_~[]()|#!@\\/:{}$%;=ü猫\U0001f4a9\U000e0041\ud83d"
)
HOSTILE = st.one_of(
    st.text(alphabet=BREAKING + string.ascii_letters, max_size=60),
    st.text(max_size=60),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "<!channel> <@U012AB3CD> <https://evil.example|click here>",
            "[click here](https://evil.example) ![](https://evil.example/i.png)",
            "```\nrm -rf ~\n```",
            "x\nSubject: all is well\n\nIncident: none",
            "\u202egnp.exe\u202c",
            "A" * 20_000,
            "\U0001f4a9" * 5_000,
            '"' * 9_000,
        ]
    ),
)


class Tampered:
    """An alert that a failing test names in short: some are megabytes."""

    def __init__(self, alert: Alert) -> None:
        self.alert = alert

    @override
    def __repr__(self) -> str:
        return repr(to_plain(self.alert))[:2000]


@st.composite
def hostile_alerts(draw: st.DrawFn) -> Tampered:
    """Any type, with other people's words wherever other people have a word."""
    alert = example(draw(st.sampled_from(sorted(AlertType))))
    clusters = tuple(
        AffectedCluster(cluster_id=draw(HOSTILE), status=status, detail=draw(st.none() | HOSTILE))
        for status in draw(st.lists(st.sampled_from(sorted(ClusterStatus)), max_size=4))
    )
    alias = draw(st.none() | HOSTILE)
    tampered: Alert = changed(
        alert,
        project_id=draw(st.none() | HOSTILE),
        dedup_key=draw(HOSTILE),
        key=AlertKey(arn=draw(HOSTILE), region=draw(HOSTILE), account_id=draw(HOSTILE), alias=alias),
        cause=AlertCause(
            code=draw(st.none() | HOSTILE), operation=None, aws_error_code=draw(st.none() | HOSTILE),
            message=draw(HOSTILE),
        ),
        actor=draw(
            st.none()
            | st.builds(Actor, arn=HOSTILE, event_name=HOSTILE, source_ip=st.none() | HOSTILE, event_time=st.just(NOW))
        ),
        clusters=clusters * draw(st.sampled_from([1, 1, 20, 100])),
        remediation=AlertRemediation(
            summary=draw(HOSTILE),
            commands=tuple(draw(st.lists(HOSTILE, max_size=3))),
            runbook="docs/alerts.md#keyunhealthy",
        ),
    )  # fmt: skip
    return Tampered(tampered)


def unseen(text: str) -> set[str]:
    """Characters that do not show, turn what is beside them, or break lines; not the text's own newlines."""
    return {each for each in text if unicodedata.category(each)[0] == "C" or each in "\u2028\u2029\ufe0f\u3164"} - {
        "\n"
    }


@settings(max_examples=50)
@given(hostile_alerts())
def test_a_subject_is_always_one_line_of_ascii_that_sns_takes(case: Tampered) -> None:
    alert = case.alert
    line = subject(alert)
    assert line.isascii()
    assert line.isprintable()
    assert line.startswith("KeyVigil ")
    assert len(line) <= SUBJECT_LIMIT


NAMES = (
    "Why",
    "Cause",
    "Since",
    "Over at",
    "Affected",
    "Who",
    "To mend",
    "Read",
    "Key",
    "Project",
    "Incident",
    "Alert",
)
ROW = re.compile(rf"(?:{'|'.join(NAMES)}):\s+.*|\s{{10}}\S.*")


@settings(max_examples=50)
@given(hostile_alerts())
def test_nobodys_words_add_a_line_to_a_mail_or_html_or_what_does_not_show(case: Tampered) -> None:
    alert = case.alert
    text = mail(alert)
    assert not unseen(text)
    first, _, rest = text.partition("\n\n")
    assert "\n" not in first
    commands = [f"    {command}" for command in alert.remediation.commands]
    rows = [line for line in rest.splitlines() if line and line not in commands]
    assert all(ROW.fullmatch(row) for row in rows), rows
    names = [row.partition(":")[0] for row in rows if not row.startswith(" ")]
    assert len(names) == len(set(names)), "each row stands there once"
    assert not set("<>") & set("".join([first, *rows]))


@settings(max_examples=50)
@given(hostile_alerts())
def test_nobodys_words_mention_link_or_mark_up_anything_in_chat(case: Tampered) -> None:
    alert = case.alert
    sent = chat(alert)
    content = sent["content"]
    text = content["description"]
    assert not unseen(json.dumps(sent, ensure_ascii=False))
    for each in (text, content["title"], *content["nextSteps"], sent["metadata"]["summary"]):
        assert not set("<>") & set(each), "no mention, link or channel: Slack's are <@…>, <…|…>, <!…>"
        assert not re.search(r"&(?!(amp|lt|gt);)", each)
    prose, _, block = text.partition("\n```\n")
    assert block.count("```") == (1 if block else 0)
    assert block.partition("\n```")[2] in {"", "\nA command is left out here; it stands in the alert's JSON."}
    own = re.sub(r"`[^`\n]*`", "", prose)
    for name in ("Cause", "Since", "Over at", "Affected", "Who", "Incident"):
        own = own.replace(f"*{name}:*", name)
    for each in (own, content["title"], *content["nextSteps"]):
        assert not set("`*~[]|") & set(each)
        assert "://" not in each
    assert len(content["title"]) <= CHAT_TITLE
    assert len(text) <= CHAT_DESCRIPTION
    assert all(len(step) <= CHAT_STEP for step in content["nextSteps"])


@settings(max_examples=50)
@given(hostile_alerts())
def test_commands_are_pasted_so_they_stand_whole_or_not_at_all(case: Tampered) -> None:
    alert = case.alert
    wanted = alert.remediation.commands
    text = mail(alert)
    shown = [command for command in wanted if f"\n    {command}\n" in text]
    assert len(shown) == len(wanted) or "A command is left out here" in text
    block = chat(alert)["content"]["description"].partition("\n```\n")[2].partition("\n```")[0]
    meant = block.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert meant == "\n".join(wanted[: meant.count("\n") + 1 if meant else 0])
    in_json = document(alert)["remediation"]["commands"]
    assert in_json in (list(wanted), [])


class Wire:
    """SNS and EventBridge, which keep what they are sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def publish(self, **message: Any) -> dict[str, Any]:
        self.sent.append(message)
        return {}

    def put_events(self, **events: Any) -> dict[str, Any]:
        self.sent.append(events["Entries"][0])
        return {"FailedEntryCount": 0}


@settings(max_examples=50)
@given(hostile_alerts())
def test_whatever_is_put_into_it_an_alert_fits_into_sns_and_the_bus_and_stays_json(case: Tampered) -> None:
    alert = case.alert
    wire = Wire()
    notifier = AwsNotifier("bus")
    notifier.__dict__.update(_sns=wire, _events=wire)
    notifier.publish("arn:aws:sns:us-west-2:111111111111:topic", alert)
    notifier.put_alert(alert)
    published, put = wire.sent
    attributes = json.dumps(published["MessageAttributes"], ensure_ascii=False).encode(errors="surrogatepass")
    assert len(published["Message"].encode()) + len(attributes) < SNS_LIMIT
    assert len(put["Detail"].encode()) < SNS_LIMIT
    both = json.loads(published["Message"])
    assert both["email"] == mail(alert)
    assert json.loads(both["default"]) == json.loads(put["Detail"]) == json.loads(json.dumps(document(alert)))
    assert len(json.dumps(chat(alert)).encode()) < SNS_LIMIT


def test_an_alert_that_has_no_room_gives_up_what_can_be_spared_and_says_so() -> None:
    reasons = tuple(
        AffectedCluster(cluster_id=f"c{number}", status=ClusterStatus.LOCK_FAILED, detail="x" * 1000)
        for number in range(200)
    )
    sent = document(example(AlertType.CLUSTER_LOCK_FAILED, clusters=reasons))
    assert fits(sent)
    assert len(sent["clusters"]) == 200, "who is hit is said to the last"
    assert sent["remediation"]["commands"]
    assert sent["cause"]["message"].endswith("Reasons of failures are left out here.")
    assert len(json.dumps(document(example(AlertType.CLUSTER_LOCKED)))) < ROOM / 10, "an ordinary one gives up nothing"


def test_even_the_widest_names_of_clusters_leave_an_alert_that_fits() -> None:
    widest = AffectedCluster(cluster_id="\U0001f4a9" * 5000, status=ClusterStatus.LOCK_FAILED, detail="x")
    assert fits(document(example(AlertType.CLUSTER_LOCK_FAILED, clusters=(widest,) * 200)))


def test_a_command_too_long_for_json_is_left_out_whole_and_the_message_says_so() -> None:
    remediation = AlertRemediation(summary="Do it.", commands=("aws kms", "x" * 4001), runbook="docs/alerts.md#x")
    sent = document(example(AlertType.KEY_UNHEALTHY, remediation=remediation))
    assert sent["remediation"]["commands"] == []
    assert sent["cause"]["message"].endswith("Commands are left out here.")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\r\n and\ttabs", "two lines and tabs"),
        ("gnp\u202eexe", "gnp\\u202eexe"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("bell\x07", "bell\\u0007"),
        ("tag\U000e0041", "tag\\ue0041"),
        ("x" * 600, "x" * 499 + "…"),
    ],
)
def test_somebodys_text_is_one_line_in_which_everything_shows(said: str, shown: str) -> None:
    assert in_one_line(said) == shown
