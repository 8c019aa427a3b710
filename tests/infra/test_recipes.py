"""The recipes for PagerDuty and Slack: their own templates, asked with real alerts, against a local server."""

import json
import re
import threading
import types
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, override
from urllib.error import HTTPError

import pytest
from moto.events.models import EventPattern
from samtranslator.yaml_helper import yaml_parse

from keyvigil.adapters.alert_documents import document
from keyvigil.domain.alerts import Alert, AlertKey, AlertStatus, AlertType, make_alert
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.incidents import AffectedCluster
from keyvigil.domain.verdicts import Cause
from tests.examples import KEY_ARN, NOW, actor, incident, key, verdict
from tests.fakes import changed
from tests.infra.onboarding import Onboarding
from tests.infra.source_template import ROOT

RECIPES = ROOT / "docs" / "recipes"
ROUTING_KEY = "0123456789abcdef0123456789abcdef"
SECRET_ARN = "arn:aws:secretsmanager:us-west-2:111111111111:secret:slack-AbCdEf"
HOSTILE = 'x" , <!channel> <https://evil.example|ok> `*_~ \n</b>\\'


def resources(name: str, **parameters: str) -> dict[str, dict[str, Any]]:
    content = yaml_parse((RECIPES / name).read_text(encoding="utf-8"))
    return Onboarding(content).given(AlertBusName="keyvigil-alerts", ProjectId="acme-prod", **parameters).resources


def alert(kind: AlertType = AlertType.KEY_UNHEALTHY, **fields: Any) -> Alert:
    made, _ = make_alert(
        kind,
        alert_id="01JALERT",
        key=key(verdict=verdict(Cause.KEY_DISABLED)),
        incident=incident(actor=actor()),
        clusters=[AffectedCluster(cluster_id="vectors-prod", status=ClusterStatus.LOCKED)],
        occurred_at=NOW,
        detected_at=NOW,
    )
    return changed(made, **fields)


def event(of: Alert) -> Any:
    return {"source": "keyvigil", "detail-type": str(of.type), "detail": json.loads(json.dumps(document(of)))}


# --- a server that takes what PagerDuty and Slack take ----------------------------------------------------------


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted to it, and answers what the test says."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.status = 202
        super().__init__(("127.0.0.1", 0), Post)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/enqueue"

    def incidents(self) -> dict[str, str]:
        """What PagerDuty's rules make of the posts: a key's state by its `dedup_key`; an end of nothing is ignored.

        Source: https://developer.pagerduty.com/docs/events-api-v2-overview
        """
        states: dict[str, str] = {}
        for sent in self.posted:
            assert sent["routing_key"] == ROUTING_KEY
            assert len(sent["dedup_key"]) <= 255
            if sent["event_action"] == "trigger":
                payload = sent["payload"]
                assert payload["severity"] in {"critical", "error", "warning", "info"}
                assert payload["summary"]
                assert payload["source"]
                states[sent["dedup_key"]] = "open"
            elif sent["dedup_key"] in states:
                states[sent["dedup_key"]] = "resolved"
        return states


class Post(BaseHTTPRequestHandler):
    """One POST."""

    server: Receiver

    def do_POST(self) -> None:
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    @override
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


# --- PagerDuty --------------------------------------------------------------------------------------------------


def at(path: str, event: dict[str, Any]) -> Any:
    found: Any = event
    for step in path.removeprefix("$.").split("."):
        found = found[step]
    return found


def transformed(transformer: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """What EventBridge makes of an event, for placeholders that stand by themselves: each is put in as JSON.

    Source: https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-transform-target-input.html
    """
    template = transformer["InputTemplate"]
    bare = json.dumps(json.loads(re.sub(r"<\w+>", "null", template))).count(": null")
    assert bare == template.count("<"), "a placeholder within quotes would not be escaped"
    values = {name: json.dumps(at(path, event)) for name, path in transformer["InputPathsMap"].items()}
    body: dict[str, Any] = json.loads(re.sub(r"<(\w+)>", lambda found: values[found[1]], template))
    return body


def send_to_pagerduty(stack: dict[str, dict[str, Any]], receiver: Receiver, *alerts: Alert) -> None:
    """Do as the deployed stack would: rules, input transformers, the connection's body parameters, the POST."""
    secret = stack["Connection"]["AuthParameters"]["InvocationHttpParameters"]["BodyParameters"]
    for each in map(event, alerts):
        for rule in (stack["Trigger"], stack["Resolve"]):
            if EventPattern.load(json.dumps(rule["EventPattern"])).matches_event(each):
                (target,) = rule["Targets"]
                body = transformed(target["InputTransformer"], each) | {one["Key"]: one["Value"] for one in secret}
                request = urllib.request.Request(receiver.url, data=json.dumps(body).encode())  # noqa: S310  our own
                with urllib.request.urlopen(request, timeout=5):  # noqa: S310  our own server
                    pass


def test_an_outage_opens_one_incident_in_pagerduty_and_its_end_resolves_it(receiver: Receiver) -> None:
    stack = resources("pagerduty.yaml", RoutingKey=ROUTING_KEY)
    begun, over = alert(), alert(AlertType.KEY_RECOVERED)
    locked, unlocked = alert(AlertType.CLUSTER_LOCKED), alert(AlertType.CLUSTER_UNLOCKED)

    send_to_pagerduty(stack, receiver, begun, begun, locked)
    assert receiver.incidents() == {begun.dedup_key: "open", locked.dedup_key: "open"}
    send_to_pagerduty(stack, receiver, over, unlocked)
    assert receiver.incidents() == {begun.dedup_key: "resolved", locked.dedup_key: "resolved"}

    first = receiver.posted[0]["payload"]
    assert (first["summary"], first["class"]) == (begun.cause.message, "key.unhealthy")
    assert first["custom_details"]["remediation"]["commands"] == list(begun.remediation.commands)


def test_only_the_projects_own_alerts_page_and_only_those_that_are_bad_enough(receiver: Receiver) -> None:
    stack = resources("pagerduty.yaml", RoutingKey=ROUTING_KEY)
    request: Any = {
        "source": "keyvigil",
        "detail-type": "Cluster Lock Requested",
        "detail": {"project_id": "acme-prod"},
    }
    for rule in ("Trigger", "Resolve"):
        assert not EventPattern.load(json.dumps(stack[rule]["EventPattern"])).matches_event(request)
    send_to_pagerduty(stack, receiver, alert(project_id="other"), alert(AlertType.KEY_SUSPECT))
    assert receiver.posted == []
    chatty = resources("pagerduty.yaml", RoutingKey=ROUTING_KEY, Severities="critical,warning")
    send_to_pagerduty(chatty, receiver, alert(AlertType.KEY_SUSPECT))
    assert len(receiver.incidents()) == 1


@pytest.mark.parametrize("missing", [{}, {"key": None}, {"actor": None, "incident_id": None, "clusters": ()}])
def test_what_pagerduty_gets_is_json_whatever_an_alert_says_or_lacks(receiver: Receiver, missing: Any) -> None:
    named = changed(alert(), key=AlertKey(arn=HOSTILE, region="us-west-2", account_id="1", alias=HOSTILE))
    hostile = changed(named, cause=changed(named.cause, message=HOSTILE), **missing)
    send_to_pagerduty(resources("pagerduty.yaml", RoutingKey=ROUTING_KEY), receiver, hostile)
    assert receiver.posted[0]["payload"]["summary"] == HOSTILE


def test_what_pagerduty_never_takes_is_kept_and_its_rules_alone_may_put_it_there() -> None:
    stack = resources("pagerduty.yaml", RoutingKey=ROUTING_KEY)
    for rule in ("Trigger", "Resolve"):
        (target,) = stack[rule]["Targets"]
        assert target["DeadLetterConfig"] == {"Arn": "<DeadLetters.Arn>"}
    (statement,) = stack["DeadLettersPolicy"]["PolicyDocument"]["Statement"]
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": ["<Trigger.Arn>", "<Resolve.Arn>"]}}


# --- Slack ------------------------------------------------------------------------------------------------------


@pytest.fixture
def slack(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The function's code out of the template, with a secret that names the local server."""
    stack = resources("slack.yaml", WebhookSecretArn=SECRET_ARN)
    code = stack["Post"]["Code"]["ZipFile"]
    assert len(code) <= 4096, "CloudFormation takes no more in a template"
    module = types.ModuleType("index")
    exec(compile(code, "slack.yaml", "exec"), module.__dict__)  # noqa: S102  the recipe's own code

    class Secrets:
        def get_secret_value(self, **asked: str) -> dict[str, str]:
            assert asked == {"SecretId": SECRET_ARN}
            return {"SecretString": f"{receiver.url}\n"}

    monkeypatch.setenv("WEBHOOK_SECRET_ARN", SECRET_ARN)
    monkeypatch.setattr(module.boto3, "client", lambda _name: Secrets())
    return module


def texts(block: Any) -> list[str]:
    """Every text of a message, however deep."""
    if isinstance(block, dict):
        own = [block["text"]] if isinstance(block.get("text"), str) else []
        return own + [text for each in block.values() for text in texts(each)]
    return [text for each in block for text in texts(each)] if isinstance(block, list) else []


def test_an_alert_and_its_end_are_posted_to_slack_joined_by_their_dedup_key(
    slack: types.ModuleType, receiver: Receiver
) -> None:
    receiver.status = 200
    begun, over = alert(), alert(AlertType.KEY_RECOVERED)
    for each in (begun, over):
        assert slack.handler(event(each), None) == 200
    first, second = receiver.posted
    assert first["text"] == "CRITICAL in acme-prod: key.unhealthy"
    assert second["text"] == "RESOLVED in acme-prod: key.recovered"
    assert first["blocks"][-1] == second["blocks"][-1]
    assert begun.dedup_key in texts(first["blocks"][-1])
    said = "\n".join(texts(first))
    for part in (begun.cause.message, "vectors-prod LOCKED", actor().arn, *begun.remediation.commands):
        assert part in said


def test_nobodys_name_is_a_mention_or_a_link_in_slack(slack: types.ModuleType, receiver: Receiver) -> None:
    clusters = tuple(AffectedCluster(cluster_id=HOSTILE * 40, status=ClusterStatus.LOCKED) for _ in range(200))
    hostile = changed(alert(), clusters=clusters, actor=changed(actor(), arn=HOSTILE), key=None)
    slack.handler(event(changed(hostile, cause=changed(hostile.cause, message=""))), None)
    (sent,) = receiver.posted

    def kinds(block: Any) -> set[str]:
        if isinstance(block, dict):
            own = {block["type"]} if "text" in block and isinstance(block["text"], str) else set()
            return own.union(*(kinds(each) for each in block.values()))
        return set().union(*(kinds(each) for each in block)) if isinstance(block, list) else set()

    assert kinds(sent["blocks"]) <= {"plain_text", "text"}, "mrkdwn is what Slack looks for mentions and links in"
    assert all(0 < len(text) <= 3000 for text in texts(sent))
    assert "<" not in sent["text"]


def test_what_slack_refuses_fails_so_that_lambda_tries_again(slack: types.ModuleType, receiver: Receiver) -> None:
    receiver.status = 429
    with pytest.raises(HTTPError):
        slack.handler(event(alert()), None)


def test_only_the_projects_own_alerts_are_posted_to_slack() -> None:
    stack = resources("slack.yaml", WebhookSecretArn=SECRET_ARN)
    rule = EventPattern.load(json.dumps(stack["Rule"]["EventPattern"]))
    assert rule.matches_event(event(alert()))
    assert rule.matches_event(event(alert(status=AlertStatus.RESOLVED)))
    assert not rule.matches_event(event(alert(project_id="other")))
    assert stack["Retries"]["DestinationConfig"]["OnFailure"]["Destination"] == "<DeadLetters.Arn>"


@pytest.mark.parametrize("name", ["pagerduty", "slack", "chat"])
def test_each_recipe_has_its_page_and_its_commands_name_parameters_that_exist(name: str) -> None:
    page = (RECIPES / f"{name}.md").read_text(encoding="utf-8")
    file = RECIPES / f"{name}.yaml"
    if name != "chat":
        wanted = {each for each, said in yaml_parse(file.read_text())["Parameters"].items() if "Default" not in said}
        assert set(re.findall(r"(\w+)=", page.partition("--parameter-overrides")[2].splitlines()[0])) == wanted
    assert KEY_ARN not in page
