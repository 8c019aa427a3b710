"""docs/onboarding.md, docs/api.md, docs/recipes/chat.md, docs/recipes/slack.md: roles, receivers and channels."""

import http.server
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT
from keyvigil_cli.loopback import LOOPBACK
from keyvigil_cli.waiting import wait_until
from tests.guides.playground import Playground
from tests.guides.reader import Pages


def test_a_customer_deploys_both_stacks_and_leaves(playground: Playground, pages: Pages) -> None:
    taken_in = playground.take_in("acme-onboarding")
    customer, operator = playground.customer("acme-onboarding"), playground.operator("acme-onboarding")
    playground.tell(customer, taken_in)
    # The local cloud compares no encryption context.
    customer.stands_for[r"\bUse=cmek\b"] = "Use=cmek RestrictToProbes=false"
    cloudformation = playground.client("cloudformation", CUSTOMER_ACCOUNT)
    with pages.open("docs/onboarding.md") as page:
        assert "role/keyvigil-customer" in page.follow(customer, "What you deploy")
        [stack] = cloudformation.describe_stacks(StackName="keyvigil-role")["Stacks"]
        outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
        assert "HEALTHY" in operator.paste(outputs["RegisterTheFirstKey"])
        assert "keyvigil-events" in page.follow(customer, "Sooner, and with a name: forwarding events")
        page.follow(customer, "How to leave")
    iam = playground.client("iam", CUSTOMER_ACCOUNT)
    roles = wait_until(
        "the stacks to be gone",
        lambda: {each["RoleName"] for each in iam.list_roles()["Roles"]},
        lambda names: not any(name == "keyvigil-customer" or name.startswith("keyvigil-events") for name in names),
        within=60,
    )
    assert "keyvigil-customer-acme-onboarding" in roles


def test_a_probe_s_secret_a_function_and_a_webhook_s_secret_are_made(playground: Playground, pages: Pages) -> None:
    taken_in = playground.take_in("acme-api")
    customer, operator = playground.customer("acme-api"), playground.operator("acme-api")
    playground.tell(customer, taken_in)
    has_a_function(playground, "keyvigil-lock-vectors")
    with pages.open("docs/api.md") as page:
        page.follow(customer, "What a key is used for")
        page.follow(operator, "By a function", "By a webhook")
    probe = playground.client("secretsmanager", CUSTOMER_ACCOUNT).describe_secret(SecretId="keyvigil/acme-api/probe")
    assert probe["KmsKeyId"] == taken_in.key.key_arn
    policy = playground.client("lambda", CUSTOMER_ACCOUNT).get_policy(FunctionName="keyvigil-lock-vectors")["Policy"]
    assert operator.value("CALL_RECEIVER_ROLE") in policy
    signed = playground.client("secretsmanager").get_secret_value(SecretId="keyvigil/acme-api/webhook")
    assert signed["SecretString"].startswith("whsec_")


def has_a_function(playground: Playground, name: str) -> None:
    """What the page takes for granted: a function of the customer's that locks."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("index.py", "def handler(event, context):\n    return {'result': 'locked'}\n")
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = playground.client("iam", CUSTOMER_ACCOUNT).create_role(RoleName=name, AssumeRolePolicyDocument=document)
    playground.client("lambda", CUSTOMER_ACCOUNT).create_function(
        FunctionName=name,
        Runtime="python3.13",
        Handler="index.handler",
        Role=role["Role"]["Arn"],
        Code={"ZipFile": content.getvalue()},
    )


def test_a_project_gets_a_topic_for_a_chat(playground: Playground, pages: Pages) -> None:
    playground.take_in("acme-chat")
    operator = playground.operator("acme-chat")
    with pages.open("docs/recipes/chat.md") as page:
        page.follow(operator)
    arn = operator.value("CHAT_TOPIC_ARN")
    assert arn.endswith("_chat")
    assert playground.client("sns").get_topic_attributes(TopicArn=arn)["Attributes"]["TopicArn"] == arn


@pytest.fixture
def channel() -> Iterator[tuple[str, list[Any]]]:
    """What stands for Slack: the address of its webhook, and what was posted there."""
    posted: list[Any] = []

    class Webhook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((LOOPBACK, 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{LOOPBACK}:{server.server_port}/services/T/B/X", posted
        server.shutdown()


def test_an_alert_is_posted_to_an_incoming_webhook(
    playground: Playground, pages: Pages, channel: tuple[str, list[Any]]
) -> None:
    url, posted = channel
    taken_in = playground.take_in("acme-slack")
    watched = taken_in.project.register_key(taken_in.key)
    operator = playground.operator("acme-slack")
    operator.stands_for[r"https://hooks\.slack\.com/\S+"] = url
    with pages.open("docs/recipes/slack.md") as page:
        page.follow(operator)
    taken_in.account.disable_key(taken_in.key)
    operator.paste(f"keyvigil key check acme-slack {watched['key_id']}", ends=3)
    wait_until("the alert in the channel", lambda: [each["text"] for each in posted], bool, within=60)
    assert "acme-slack: key." in posted[0]["text"]
