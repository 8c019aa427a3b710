"""What mends a key, pasted into a real shell: nothing that a tenant named is run, and policies keep their form."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyvigil.domain.verdicts import Cause, PolicyKind, Refusal
from tests.examples import ROLE_ARN
from tests.unit.test_remediation import ACTIONS, ALIAS_ARN, REFUSALS, SUBJECT, mended

FAKE_AWS = """#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[2] == "get-key-policy":
    print((here / "policy.json").read_text())
if sys.argv[2] == "put-key-policy":
    name = sys.argv[-1].removeprefix("file://")
    (here / "put.json").write_text(sys.stdin.read() if name == "/dev/stdin" else pathlib.Path(name).read_text())
if sys.argv[2] == "describe-key":
    print("the-key-behind-it")
"""


class Shell:
    """A POSIX shell whose `aws` writes down how it was called, and keeps one key policy."""

    def __init__(self, home: Path) -> None:
        self.home = home
        aws = home / "aws"
        aws.write_text(FAKE_AWS.format(python=sys.executable))
        aws.chmod(0o700)

    def run(self, command: str, **environ: str) -> list[list[str]]:
        path = f"{self.home}:{os.environ['PATH']}"
        subprocess.run(["sh", "-euc", command], cwd=self.home, env={"PATH": path, **environ}, check=True, timeout=20)
        calls = self.home / "calls.jsonl"
        return [json.loads(line) for line in calls.read_text().splitlines()]

    def policy(self) -> Any:
        return json.loads((self.home / "put.json").read_text())


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


# IAM's own characters for a path are these and no more: [\x21-\x7e].
HOSTILE_ROLE = (
    r"""arn:aws:iam::222222222222:role/a';touch${IFS}pwned;'"&|$(touch${IFS}pwned)`touch${IFS}pwned`\1!#/name"""
)


def test_what_a_tenant_names_is_never_run(shell: Shell) -> None:
    subject = replace(SUBJECT, role_arn=HOSTILE_ROLE, external_id="it's; touch pwned")
    for cause, refused_by in ((Cause.ROLE_NOT_ASSUMABLE, None), *((Cause.ACCESS_DENIED, each) for each in REFUSALS)):
        (shell.home / "policy.json").write_text('{"Statement": [{"Sid": "first"}]}')
        remediation = mended(cause, subject=subject, refused_by=refused_by)
        for command in remediation.commands:
            shell.run(command, EDITOR="true")
    assert not (shell.home / "pwned").exists()
    calls = shell.run("true")
    documents = [json.loads(word) for call in calls for word in call if word.startswith("{")]
    assert documents, "policies came through as JSON"


POLICIES = {
    "pretty, as KMS gives its default": (
        '{\n  "Version" : "2012-10-17",\n  "Statement" : [ {\n    "Sid" : "first"\n  } ]\n}'
    ),
    "compact": '{"Version":"2012-10-17","Statement":[{"Sid":"first"},{"Sid":"\\"Statement\\": ["}]}',
}


@pytest.mark.parametrize("text", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("role_arn", [ROLE_ARN, HOSTILE_ROLE], ids=["plain", "hostile"])
def test_a_statement_is_put_before_the_others_of_the_key_s_policy(shell: Shell, text: str, role_arn: str) -> None:
    (shell.home / "policy.json").write_text(text)
    refused_by = Refusal(policy=PolicyKind.RESOURCE, explicit=False)
    (command,) = mended(
        Cause.ACCESS_DENIED, subject=replace(SUBJECT, role_arn=role_arn), refused_by=refused_by
    ).commands

    shell.run(command)

    before = json.loads(text)
    new = {"Effect": "Allow", "Principal": {"AWS": role_arn}, "Action": ACTIONS, "Resource": "*"}
    assert shell.policy() == {**before, "Statement": [new, *before["Statement"]]}


def test_a_policy_of_an_unusual_form_is_put_back_as_it_is(shell: Shell) -> None:
    text = '{"Version": "2012-10-17", "Statement": {"Sid": "the only one"}}'
    (shell.home / "policy.json").write_text(text)
    refused_by = Refusal(policy=PolicyKind.RESOURCE, explicit=False)

    shell.run(mended(Cause.ACCESS_DENIED, refused_by=refused_by).commands[0])

    assert shell.policy() == json.loads(text)


def test_a_denial_in_the_key_s_policy_is_taken_out_by_a_person_in_an_editor(shell: Shell) -> None:
    (shell.home / "policy.json").write_text('{"Statement": ["deny"]}')
    editor = shell.home / "editor"
    editor.write_text('#!/bin/sh\nsed -i.bak s/deny/allow/ "$1"\n')
    editor.chmod(0o700)
    remediation = mended(Cause.ACCESS_DENIED, refused_by=Refusal(policy=PolicyKind.RESOURCE, explicit=True))

    for command in remediation.commands:
        shell.run(command, EDITOR=str(editor))

    assert shell.policy() == {"Statement": ["allow"]}


def test_a_key_behind_an_alias_is_looked_up_when_the_command_is_run(shell: Shell) -> None:
    alias = replace(SUBJECT, key_arn=ALIAS_ARN)

    calls = shell.run(mended(Cause.KEY_DISABLED, subject=alias).commands[0])

    assert calls[-1] == ["kms", "enable-key", "--region", "us-west-2", "--key-id", "the-key-behind-it"]
