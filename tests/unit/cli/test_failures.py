"""Every failure that a person can meet: in words, with what to do next, and nothing on standard output."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from botocore import exceptions as aws

from keyvigil_cli.advice import Advice, advice_on
from keyvigil_cli.api_client import ApiProblemError
from keyvigil_cli.settings import Settings
from tests.unit.cli.conftest import Keyvigil
from tests.unit.cli.registry_server import Canned, aws_error, stack

GATEWAY_DENIES = json.dumps({"message": "User: arn:aws:iam::1:user/u is not authorized to perform: execute-api:Invoke"})


def gateway(status: int, message: str) -> Canned:
    return Canned(status, json.dumps({"message": message}))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Canned(403, GATEWAY_DENIES), "`execute-api:Invoke`"),
        (gateway(403, "The security token included in the request is expired"), "Log in again"),
        (gateway(403, "Signature expired: 20261122T000000Z is now earlier than"), "Set this machine's clock"),
        (gateway(403, "Credential should be scoped to a valid region."), "give its Region with `--region`"),
        (gateway(403, "The security token included in the request is invalid."), "does not know these credentials"),
        (gateway(403, "The request signature we calculated does not match"), "does not know these credentials"),
        (gateway(404, "Not Found"), "There is no KeyVigil API at this address"),
        (gateway(500, "Internal Server Error"), "Repeat the command in a minute."),
        (gateway(503, "Service Unavailable"), "/aws/lambda/STACK-registry-api"),
        (Canned(200, "<html>welcome to the hotel</html>", "text/html"), "Check the network"),
    ],
)
def test_what_stands_between_us_and_the_api_is_told_with_a_next_step(
    keyvigil: Keyvigil, answer: Canned, words: str
) -> None:
    keyvigil.server.instead = [answer]
    failed = keyvigil("project list")
    assert (failed.status, failed.output) == (1, "")
    assert words in failed.messages


def test_what_is_not_there_says_where_to_look(keyvigil: Keyvigil) -> None:
    failed = keyvigil("project show nothing-here")
    assert failed.status == 1
    assert "404 Not found" in failed.messages
    assert "`keyvigil project list`" in failed.messages


def test_refused_fields_are_named_one_a_line(keyvigil: Keyvigil) -> None:
    failed = keyvigil("project create NOT_AN_ID --name", "x" * 121)
    assert failed.status == 1
    assert "\n  project_id: " in failed.messages
    assert "\n  name: " in failed.messages
    assert "`--help`" in failed.messages


def test_too_many_calls_are_waited_out(keyvigil: Keyvigil) -> None:
    keyvigil.server.instead = [gateway(429, "Too Many Requests")] * 3
    assert keyvigil("project list").status == 0
    assert len(keyvigil.server.seen) == 4


def test_too_many_calls_for_too_long_are_an_error_that_changed_nothing(keyvigil: Keyvigil) -> None:
    keyvigil.server.instead = [gateway(429, "Too Many Requests")] * 4
    failed = keyvigil("project create new-one")
    assert failed.status == 1
    assert "nothing was changed" in failed.messages
    assert len(keyvigil.server.seen) == 4


def test_no_connection_says_what_to_check(keyvigil: Keyvigil) -> None:
    failed = keyvigil("project list --api-url http://127.0.0.1:9")
    assert failed.status == 1
    assert "Check the network" in failed.messages


@pytest.mark.parametrize("url", ["http://example.com", "ftp://127.0.0.1", "nonsense", "https://", "https://[", ""])
def test_a_signed_request_goes_nowhere_unencrypted(keyvigil: Keyvigil, url: str) -> None:
    failed = keyvigil("project list --api-url", url)
    assert failed.status == 1
    assert "it begins with https://" in failed.messages or "is no address" in failed.messages


def test_an_address_that_hides_its_region_asks_for_it(keyvigil: Keyvigil, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    failed = keyvigil("project list")
    assert "Give it with `--region`." in failed.messages


def test_an_address_of_api_gateway_says_its_region(keyvigil: Keyvigil, monkeypatch: pytest.MonkeyPatch) -> None:
    from keyvigil_cli.connection import _region_of  # noqa: PLC0415 - loads the AWS SDK, as the command does

    assert _region_of("https://api1234567.execute-api.eu-west-1.amazonaws.com") == "eu-west-1"
    assert _region_of("https://api1234567.execute-api.cn-north-1.amazonaws.com.cn/") == "cn-north-1"
    assert _region_of("https://keyvigil.example.com") is None


# --- the caller's AWS settings


def test_no_credentials(keyvigil: Keyvigil, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    failed = keyvigil("project list")
    assert (failed.status, failed.output) == (1, "")
    assert "name no credentials" in failed.messages
    assert "`--profile NAME`" in failed.messages


def test_an_unknown_profile(keyvigil: Keyvigil) -> None:
    failed = keyvigil("project list --profile nobody")
    assert failed.status == 1
    assert "aws configure list-profiles" in failed.messages


def test_a_profile_is_taken_from_the_caller_s_settings(
    keyvigil: Keyvigil, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text("[ops]\naws_access_key_id = AKIDOPS\naws_secret_access_key = s\n", encoding="utf-8")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    assert keyvigil("project list --profile ops").status == 0
    assert "Credential=AKIDOPS/" in keyvigil.server.seen[-1].headers["authorization"]


# --- the stack


@pytest.fixture
def by_stack(keyvigil: Keyvigil, monkeypatch: pytest.MonkeyPatch) -> Keyvigil:
    """Nobody said where the API is: it is found by the stack."""
    monkeypatch.delenv("KEYVIGIL_API_URL")
    monkeypatch.setenv("AWS_ENDPOINT_URL", keyvigil.server.url)
    return keyvigil


def test_the_api_is_found_by_the_stack_s_outputs(by_stack: Keyvigil) -> None:
    by_stack.server.instead = [stack()]
    listed = by_stack("project list --stack mine --region eu-west-1")
    assert listed.status == 0, listed.messages
    assert "StackName=mine" in by_stack.server.seen[0].body
    assert "/eu-west-1/cloudformation/" in by_stack.server.seen[0].headers["authorization"]
    assert "/eu-west-1/execute-api/" in by_stack.server.seen[1].headers["authorization"]


def test_a_stack_on_the_command_line_is_meant_whatever_the_environment_says(
    by_stack: Keyvigil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYVIGIL_API_URL", "http://127.0.0.1:9")
    by_stack.server.instead = [stack()]
    assert by_stack("project list --stack mine").status == 0


def test_the_environment_names_a_stack_or_an_address_and_the_address_is_meant_if_both_are_there(
    by_stack: Keyvigil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYVIGIL_STACK", "mine")
    by_stack.server.instead = [stack()]
    assert by_stack("project list").status == 0
    assert "StackName=mine" in by_stack.server.seen[0].body
    by_stack.server.seen.clear()
    monkeypatch.setenv("KEYVIGIL_API_URL", by_stack.server.url)
    assert by_stack("project list").status == 0
    assert by_stack.server.asked() == [("GET", "/projects")]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (aws_error(400, "ValidationError", "Stack with id mine does not exist"), "Name the stack with `--stack`"),
        (stack("ROLLBACK_COMPLETE"), "deploy it again: `make deploy`"),
        (aws_error(403, "AccessDenied", "User is not authorized to perform: cloudformation:DescribeStacks"),
         "give the API's address, `--api-url https://...`"),
        (aws_error(403, "ExpiredToken", "The security token included in the request is expired"), "Log in again"),
        (aws_error(403, "InvalidClientTokenId", "The security token is invalid"), "does not know these credentials"),
        (aws_error(400, "Throttling", "Rate exceeded"), "repeat the command in a minute"),
        (aws_error(400, "OptInRequired", "You are not subscribed"), "OptInRequired"),
    ],
)  # fmt: skip
def test_a_stack_that_cannot_be_looked_up_says_what_to_do(by_stack: Keyvigil, answer: Canned, words: str) -> None:
    by_stack.server.instead = [answer] * 5
    failed = by_stack("project list --stack mine")
    assert (failed.status, failed.output) == (1, "")
    assert words in failed.messages


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (aws.EndpointConnectionError(endpoint_url="https://x"), "`--region` names a Region"),
        (aws.ConnectTimeoutError(endpoint_url="https://x"), "Check the network"),
        (aws.UnauthorizedSSOTokenError(), "`aws sso login --profile ops`"),
        (aws.NoCredentialsError(), "aws configure"),
        (aws.CredentialRetrievalError(provider="p", error_msg="m"), "aws configure"),
        (aws.NoRegionError(), "--region us-west-2"),
    ],
    ids=repr,
)
def test_what_the_aws_sdk_raises_has_a_next_step(error: Exception, words: str) -> None:
    assert words in "\n".join(advice_on(error, Settings(profile="ops")).next_steps)


# --- whoever wrote the words


HOSTILE = "\x1b]0;owned\x07\x1b[2J[bold red]x[/] \u202egnp.exe\u2028\u0085 :skull:"


def test_hostile_names_move_no_cursor_and_colour_nothing(keyvigil: Keyvigil) -> None:
    shown = keyvigil.api.store.project("acme-prod")
    assert shown is not None
    keyvigil.api.store.put(replace(shown, name=HOSTILE))
    for asked in ("project list", "project show acme-prod", "project list -o json"):
        output = keyvigil(asked).output
        assert not {"\x1b", "\x07", "\u202e", "\u2028", "\u0085"} & set(output)
        assert "[bold red]x[/]" in output
        assert ":skull:" in output
        assert output.isprintable() or output.replace("\n", "").isprintable()


def test_hostile_problems_move_no_cursor_either(keyvigil: Keyvigil) -> None:
    problem = {"title": HOSTILE, "detail": HOSTILE, "errors": [{"field": HOSTILE, "message": HOSTILE}],
               "in_the_way": [HOSTILE], "remediation": {"summary": HOSTILE, "commands": [HOSTILE]}}  # fmt: skip
    keyvigil.server.instead = [Canned(409, json.dumps(problem), "application/problem+json")]
    messages = keyvigil("project list").messages
    assert messages.replace("\n", "").isprintable()
    assert messages.count("[bold red]x[/]") == 7


def test_a_problem_whose_shape_is_nonsense_is_still_told() -> None:
    problem = ApiProblemError.of(422, "application/json", b'{"title": "T", "detail": 7, "errors": null}')
    assert isinstance(advice_on(problem, Settings()), Advice)
