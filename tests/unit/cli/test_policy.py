"""`keyvigil policy`: what it prints, as tables, and what it refuses."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from keyvigil_cli.main import app
from tests.printed import Printed

KEY = "arn:aws:kms:us-west-2:222222222222:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER = "arn:aws:kms:us-west-2:222222222222:key/99999999-12ab-34cd-56ef-1234567890ab"
ROLE = "arn:aws:iam::222222222222:role/keyvigil-customer"
APP = "arn:aws:iam::222222222222:role/app"


def keyvigil(words: str, typed: str | None = None) -> Printed:
    result = CliRunner().invoke(app, shlex.split(words), input=typed)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Printed(result.exit_code, result.stdout, result.stderr)


def statements(words: str, typed: str | None = None) -> dict[str, Any]:
    printed = keyvigil(words, typed)
    assert (printed.status, printed.messages) == (0, "")
    return {each["Sid"]: each for each in printed.json["Statement"]}


def test_a_role_may_probe_its_keys_and_nothing_else() -> None:
    made = statements(f"policy role --project acme-prod --key {KEY} --key {OTHER} --use cse --no-rotation-status")

    assert made == {
        "SeeTheKeys": {
            "Sid": "SeeTheKeys", "Effect": "Allow", "Action": "kms:DescribeKey", "Resource": [KEY, OTHER],
        },
        "ProbeTheKeys": {
            "Sid": "ProbeTheKeys", "Effect": "Allow",
            "Action": ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey"],
            "Resource": [KEY, OTHER],
            "Condition": {"StringEquals": {"kms:EncryptionContext:tested-by": "KeyVigil",
                                           "kms:EncryptionContext:project": "acme-prod"}},
        },
    }  # fmt: skip


@pytest.mark.parametrize("output", ["", "--output json", "--output table"])
def test_a_policy_is_json_whatever_the_output(output: str) -> None:
    printed = keyvigil(f"policy trust --account 111111111111 --external-id keyvigil-0123 {output}")
    assert printed.json["Statement"][0]["Condition"]["StringEquals"] == {"sts:ExternalId": "keyvigil-0123"}


def test_a_key_is_added_once_however_often(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text(keyvigil(f"policy role --project acme-prod --key {KEY}").output)

    once = keyvigil(f"policy add-key {OTHER} --policy {file}").output
    assert json.loads(once)["Statement"][1]["Resource"] == [KEY, OTHER]
    assert keyvigil(f"policy add-key {OTHER}", typed=once).output == once


def test_a_key_is_added_to_what_aws_prints_of_a_role() -> None:
    policy = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": KEY}}
    asked = json.dumps({"RoleName": "keyvigil-customer", "PolicyName": "p", "PolicyDocument": policy})

    printed = keyvigil(f"policy add-key {OTHER}", typed=asked).json

    assert printed == {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": [KEY, OTHER]}],
    }


def test_what_denies_and_what_is_about_other_things_stays_as_it_is() -> None:
    others = [
        {"Effect": "Deny", "Action": "kms:Decrypt", "Resource": KEY},
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::vectors/*"},
        {"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*"},
    ]
    allowed = {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": KEY}

    printed = keyvigil(f"policy add-key {OTHER}", typed=json.dumps({"Statement": [*others, allowed]})).json

    assert printed["Statement"] == [*others, {**allowed, "Resource": [KEY, OTHER]}]


MIXED = {"Effect": "Allow", "Action": ["kms:Decrypt", "s3:GetObject"], "Resource": [KEY]}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("{", "no JSON (line 1"),
        ("[]", "no policy document"),
        ('{"Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}', "nothing says what to allow"),
        (json.dumps({"Statement": [{**MIXED, "Principal": "*"}]}), "belongs to one key alone"),
        (json.dumps({"Statement": [MIXED]}), "take it apart first"),
    ],
    ids=["no JSON", "no policy", "all keys", "a key's policy", "mixed"],
)
def test_a_policy_that_no_key_can_be_added_to_is_refused(typed: str, words: str) -> None:
    printed = keyvigil(f"policy add-key {OTHER}", typed=typed)
    assert (printed.status, printed.output) == (1, "")
    assert words in printed.messages


def test_a_role_policy_that_aws_would_not_take_is_refused() -> None:
    keys = " ".join(f"--key {KEY[:-12]}{number:012d}" for number in range(60))
    printed = keyvigil(f"policy role --project acme-prod {keys}")
    assert (printed.status, printed.output) == (1, "")
    assert "AWS takes 10240" in printed.messages


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"policy role --project Acme --key {KEY}", "Acme is no project"),
        ("policy role --project acme-prod --key nonsense", "Invalid KMS key ARN format"),
        (f"policy role --project acme-prod --key {KEY.replace('key/1234abcd-12ab-34cd-56ef-1234567890ab', 'alias/a')}",
         "is an alias, and a policy must name the key"),
        (f"policy role --project acme-prod --key {KEY} --use kes", "needs --probe-secret-arn"),
        (f"policy role --project acme-prod --key {KEY} --use kes --probe-secret-arn arn:x", "begins with keyvigil/"),
        ("policy trust --account 1 --external-id keyvigil", "12 digits"),
        ("policy trust --account 111111111111 --external-id 'a b'", "ExternalId"),
        ("policy trust --account 111111111111 --external-id ab --monitor-role-name a/b", "without its path"),
        (f"policy key {KEY} --role {APP}", "say with --service"),
        (f"policy key {KEY} --service s3", "name the roles that do with --role"),
        (f"policy key {KEY} --service rds --role {APP}", "--set-up prints"),
        (f"policy key {KEY} --probe-role app", "is no role"),
        ("policy add-key nonsense --policy /nowhere/policy.json", "cannot be read"),
        ("policy tenant --project acme-prod --api-id 'A*' --account 111111111111 --api-region us-west-2",
         "not the id of an API"),
        (f"policy stack-key {KEY} --account 222222222222 --stack-region eu-west-1",
         "the key is in us-west-2 and the stack in eu-west-1: DynamoDB, SNS, SQS and CloudWatch Logs take keys"),
        (f"policy stack-key {KEY} --account 111111111111 --stack-region us-west-2", "must be in its own account"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused_in_words(words: str, said: str) -> None:
    printed = keyvigil(words)
    assert (printed.status, printed.output) == (1, "")
    assert said in " ".join(printed.messages.split())


def test_a_service_that_is_not_known_is_a_mistake_in_usage() -> None:
    printed = keyvigil(f"policy key {KEY} --service ebs")
    assert (printed.status, printed.output) == (2, "")
    assert "ebs is none of cloudtrail, dynamodb" in " ".join(printed.messages.replace("│", " ").split())


def test_a_key_s_policy_lets_iam_decide_unless_administrators_are_named() -> None:
    assert set(statements(f"policy key {KEY}")) == {"LetIamDecide"}
    named = statements(f"policy key {KEY} --administrator {APP} --probe-role {ROLE}")
    assert set(named) == {"LetAdministratorsManageTheKey", "SeeTheKey", "ProbeTheKey", "SeeRotation"}
    assert not {"kms:Encrypt", "kms:Decrypt", "kms:*"} & set(named["LetAdministratorsManageTheKey"]["Action"])
    assert named["ProbeTheKey"] == {
        "Sid": "ProbeTheKey", "Effect": "Allow", "Principal": {"AWS": ROLE},
        "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": "*",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("service", "resource", "expected"),
    [
        ("s3", "arn:aws:s3:::vectors", {
            "UseThroughS3": (["kms:Decrypt", "kms:GenerateDataKey"], {
                "StringEquals": {"kms:ViaService": "s3.us-west-2.amazonaws.com"},
                "StringLike": {"kms:EncryptionContext:aws:s3:arn": ["arn:aws:s3:::vectors", "arn:aws:s3:::vectors/*"]},
            }),
        }),
        ("dynamodb", "arn:aws:dynamodb:us-west-2:222222222222:table/vectors", {
            "UseThroughDynamoDB": ("kms:Decrypt", {
                "StringEquals": {"kms:ViaService": "dynamodb.us-west-2.amazonaws.com"},
                "StringLike": {"kms:EncryptionContext:aws:dynamodb:tableName": "vectors"},
            }),
        }),
        ("ssm", "arn:aws:ssm:us-west-2:222222222222:parameter/p", {
            "UseThroughParameterStore": ("kms:Decrypt", {
                "StringEquals": {"kms:ViaService": "ssm.us-west-2.amazonaws.com"},
                "StringLike": {"kms:EncryptionContext:PARAMETER_ARN": "arn:aws:ssm:us-west-2:222222222222:parameter/p"},
            }),
        }),
    ],
    ids=["s3", "dynamodb", "ssm"],
)  # fmt: skip
def test_a_role_uses_a_key_through_a_service_for_one_resource(
    service: str, resource: str, expected: dict[str, tuple[Any, Any]]
) -> None:
    made = statements(f"policy key {KEY} --service {service} --role {APP} --resource {resource}")
    del made["LetIamDecide"]
    assert {sid: (each["Action"], each["Condition"]) for sid, each in made.items()} == expected
    assert all(each["Principal"] == {"AWS": APP} for each in made.values())


def test_who_makes_a_database_may_grant_to_the_service_only() -> None:
    made = statements(f"policy key {KEY} --service rds --role {APP} --set-up")
    assert made["GrantToRDS"]["Action"] == "kms:CreateGrant"
    assert made["GrantToRDS"]["Condition"] == {
        "StringEquals": {"kms:ViaService": "rds.us-west-2.amazonaws.com"},
        "Bool": {"kms:GrantIsForAWSResource": "true"},
    }
    assert made["SeeThroughRDS"]["Action"] == "kms:DescribeKey"


def test_trails_encrypt_their_own_logs_only() -> None:
    trail = "arn:aws:cloudtrail:us-west-2:222222222222:trail/all"
    made = statements(f"policy key {KEY} --service cloudtrail --resource {trail}")
    assert made["LetTrailsEncrypt"]["Condition"] == {
        "ArnLike": {"aws:SourceArn": trail},
        "StringLike": {"kms:EncryptionContext:aws:cloudtrail:arn": "arn:aws:cloudtrail:*:222222222222:trail/*"},
    }
    assert made["LetTrailsSeeTheKey"]["Principal"] == {"Service": "cloudtrail.amazonaws.com"}


@pytest.mark.parametrize(("flag", "method"), [("", "*"), ("--read-only", "GET")])
def test_a_tenant_reaches_its_own_project_and_none_whose_name_begins_alike(flag: str, method: str) -> None:
    made = statements(
        "policy tenant --project acme --api-id a1b2c3d4e5 --account 111111111111 --api-region us-west-2 " + flag
    )
    path = f"arn:aws:execute-api:us-west-2:111111111111:a1b2c3d4e5/*/{method}/projects/acme"
    assert made["CallTheApiForOneProject"]["Resource"] == [path, f"{path}/*"]
