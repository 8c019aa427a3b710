"""Bad input is refused clearly, stores nothing, and never breaks a log record in two."""

import io
import json
from typing import Any

import pytest

from keyvigil.api import app as api_app
from tests.examples import KEY_ARN, KEY_ID, ROLE_ARN
from tests.unit.test_api import (
    DECISION,
    NEW_CANARY,
    NEW_CLUSTER,
    NEW_KEY,
    NEW_PROJECT,
    NEW_SUBSCRIPTION,
    Api,
    P,
    event,
)
from tests.unit.test_functions import Context, load


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    api = Api(monkeypatch)
    api.fill()
    return api


LONG = "x" * 10_000
FORGED = 'x"}\n{"level": "ERROR", "message": "forged"}'
CONTROL = ["\x00", "\n", "\r\n", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\u200b", "\ufeff", "\ud800"]
REPLACED = "us-west-2"

BAD_KEY_ARNS = [
    f"{KEY_ARN}\n",
    KEY_ARN.replace(":key/", ":key/\n"),
    *(KEY_ARN.replace("arn:aws:", f"arn:{each}:") for each in ("aws-cn", "aws-us-gov", "aws-iso", "AWS", "")),
    *(
        KEY_ARN.replace(REPLACED, each)
        for each in ("us/west-2", "us-west-2#", "us-west-2/..", "us-west-2@evil.test", "")
    ),
    KEY_ARN.replace("key/", "key/../"),
    f"{KEY_ARN}?x=1",
    f"{KEY_ARN}#",
]
BAD_ROLE_ARNS = [
    f"{ROLE_ARN}\n",
    *(ROLE_ARN.replace("arn:aws:", f"arn:{each}:") for each in ("aws-cn", "aws-us-gov")),
    ROLE_ARN.replace(":role/", ":user/"),
    ROLE_ARN.replace("iam::", "iam:us-west-2:"),
]


@pytest.mark.parametrize("path", [f"{P}/keys", f"{P}/key-validations"])
@pytest.mark.parametrize(
    ("field", "arn", "title"),
    [("key_arn", arn, "Invalid KMS key ARN format") for arn in BAD_KEY_ARNS]
    + [("role_arn", arn, "Invalid IAM role ARN format") for arn in BAD_ROLE_ARNS],
)
def test_an_arn_that_is_none_is_400_before_aws_is_asked(api: Api, path: str, field: str, arn: str, title: str) -> None:
    before = dict(api.store.items)

    reply = api.ask("POST", path, {**NEW_KEY, field: arn})

    assert (reply.status, reply.json["title"]) == (400, title)
    assert api.checker.seen == []
    assert api.store.items == before


@pytest.mark.parametrize(
    ("field", "arn", "title"),
    [("key_arn", arn, "Invalid KMS key ARN format") for arn in BAD_KEY_ARNS]
    + [("role_arn", arn, "Invalid IAM role ARN format") for arn in BAD_ROLE_ARNS],
)
def test_a_canary_of_an_arn_that_is_none_is_400_before_aws_is_asked(api: Api, field: str, arn: str, title: str) -> None:
    before = dict(api.store.items)

    reply = api.ask("POST", "/fleet/canaries", {**NEW_CANARY, field: arn})

    assert (reply.status, reply.json["title"]) == (400, title)
    assert api.checker.seen == []
    assert api.store.items == before


TEXTS = [
    ("POST", "/projects", NEW_PROJECT, "name"),
    ("POST", "/projects", NEW_PROJECT, "project_id"),
    ("PATCH", P, {}, "name"),
    ("POST", f"{P}/clusters", NEW_CLUSTER, "name"),
    ("POST", f"{P}/clusters", NEW_CLUSTER, "cluster_id"),
    ("POST", f"{P}/clusters", NEW_CLUSTER, "region"),
    ("POST", f"{P}/clusters", NEW_CLUSTER, "key_id"),
    ("PATCH", f"{P}/clusters/vectors-prod", {}, "name"),
    ("POST", f"{P}/clusters/vectors-prod/lock-result", {"fence": 1795369305484, "result": "locked"}, "detail"),
    ("POST", f"{P}/keys/{KEY_ID}/rebaseline", {}, "reason"),
    ("POST", DECISION, {"decision": "approve"}, "reason"),
    ("POST", f"{P}/subscriptions", NEW_SUBSCRIPTION, "endpoint"),
]


@pytest.mark.parametrize(("method", "path", "body", "field"), TEXTS, ids=lambda each: str(each)[-30:])
def test_no_text_takes_ten_thousand_or_control_characters(
    api: Api, method: str, path: str, body: dict[str, Any], field: str
) -> None:
    before = dict(api.store.items)

    for text in (LONG, FORGED, *(f"a{each}b" for each in CONTROL)):
        reply = api.ask(method, path, {**body, field: text})
        assert reply.status == 422, repr(text[:20])
        assert len(reply.text) < 2000, "what was wrong is not sent back at full length"

    assert api.store.items == before


@pytest.mark.parametrize(("method", "path", "body", "field"), TEXTS, ids=lambda each: str(each)[-30:])
@pytest.mark.parametrize("value", [0, 1.5, True, [], ["x"], {}, {"x": 1}], ids=repr)
def test_no_text_takes_another_json_type(
    api: Api, method: str, path: str, body: dict[str, Any], field: str, value: Any
) -> None:
    reply = api.ask(method, path, {**body, field: value})

    assert reply.status == 422
    assert {error["field"].split(".")[0] for error in reply.json["errors"]} == {field}


@pytest.mark.parametrize(
    "path",
    [
        f"{P}/keys/../../other/keys/{KEY_ID}",
        f"{P}/clusters/..",
        f"{P}/incidents/..%2f..",
        f"{P}/subscriptions/%2e%2e/test",
        f"{P}/clusters/{LONG}",
        f"{P}/clusters/a\x00b",
        f"{P}/clusters/a\nb",
        "/projects/acme-prod\\..\\other",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE", "POST"])
def test_an_id_that_climbs_or_hides_is_400(api: Api, method: str, path: str) -> None:
    before = dict(api.store.items)

    assert api.ask(method, path, {}).status == 400
    assert api.store.items == before


def test_a_body_of_a_megabyte_is_413_on_every_route_that_reads_one(api: Api) -> None:
    for method, path in {(method, path) for method, path, _, _ in TEXTS} | {("POST", f"{P}/keys")}:
        assert api.ask(method, path, {"name": "x" * 1_000_000}).status == 413


@pytest.mark.parametrize("depth", [100, 600, 5_000, 30_000])
@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "deep"}])
def test_endless_nesting_is_refused_and_no_fault(api: Api, depth: int, headers: dict[str, str]) -> None:
    sent = {"content-type": "application/json", **headers}

    for opening, closing in (("[", "]"), ('{"name":', "}")):
        body = opening * depth + "1" + closing * depth
        if len(body) <= 64 * 1024:
            reply = api.send("PATCH", P, body, headers=sent)
            assert reply.status in {400, 422}


def test_a_log_record_is_one_line_whatever_a_request_says(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudWatch makes a record of each line: a line break in a value would let a caller forge one."""
    function = load("registry_api")
    requests = [
        event("GET", f"{P}/clusters/{FORGED}"),
        event("POST", "/projects", json.dumps({**NEW_PROJECT, "name": FORGED})),
        event("POST", f"{P}/keys", json.dumps({**NEW_KEY, "key_arn": f"{KEY_ARN}\n{FORGED}"})),
        event("POST", "/projects", FORGED),
        event("POST", f"{P}/keys", json.dumps({**NEW_KEY, "key_arn": KEY_ARN.replace("1234abcd", "ffffabcd")})),
    ]
    for request in requests:
        request["routeKey"] = f"GET /{FORGED}\r\n"
        request["requestContext"]["authorizer"]["iam"]["callerId"] = FORGED
    api.checker.answer = None  # check_keys does not answer: that is logged too

    stream = io.StringIO()
    for logger in (function.logger, api_app.logger):
        for handler in logger.handlers:
            monkeypatch.setattr(handler, "stream", stream)
    for request in requests:
        function.handler(request, Context())

    records = stream.getvalue().split("\n")
    assert records.pop() == ""
    assert len(records) > len(requests), "every request is logged, and that check_keys failed"
    for record in records:
        assert json.loads(record)["message"] != "forged"
