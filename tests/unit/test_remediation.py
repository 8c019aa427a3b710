"""What mends a key: sentences with dates, and commands that can be pasted and do what they say."""

import json
import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.session
import pytest
from botocore import xform_name

from keyvigil.domain import aws_commands
from keyvigil.domain.remediation import Seen, Subject, explain, missing_permission
from keyvigil.domain.verdicts import Cause, Permission, PolicyKind, Refusal, Remediation
from tests.examples import EXTERNAL_ID, KEY_ARN, KMS_KEY, MONITOR_ROLE_ARN, NOW, ROLE_ARN
from tests.fakes import changed

SUBJECT = Subject(
    key_arn=KEY_ARN,
    region="us-west-2",
    role_arn=ROLE_ARN,
    external_id=EXTERNAL_ID,
    monitor_role_arn=MONITOR_ROLE_ARN,
    operations=("DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey"),
)
ACTIONS = ["kms:DescribeKey", "kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey"]
ALIAS_ARN = KEY_ARN.replace(f"key/{KMS_KEY}", "alias/teams/vectors")
REPLICA_ARN = f"arn:aws:kms:us-west-2:222222222222:key/mrk-{'0' * 32}"
AT_KEY = f"--region us-west-2 --key-id {KEY_ARN}"
REFUSALS = [None, *(Refusal(policy=kind, explicit=explicit) for kind in PolicyKind for explicit in (False, True))]


def seen(**fields: Any) -> Seen:
    return changed(Seen(at=NOW), **fields)


def said(cause: Cause, operation: str = "Encrypt", **fields: Any) -> str:
    return explain(cause, operation, SUBJECT, seen(**fields))[0]


def mended(cause: Cause, operation: str = "Encrypt", subject: Subject = SUBJECT, **fields: Any) -> Remediation:
    _, remediation = explain(cause, operation, subject, seen(**fields))
    assert remediation is not None
    return remediation


# --- sentences --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (timedelta(days=7), "on 2026-11-29, in 7 days, so"),
        (timedelta(days=6, hours=23), "on 2026-11-29, in 6 days, so"),
        (timedelta(days=1, minutes=1), "on 2026-11-23, in 1 day, so"),
        (timedelta(hours=23), "on 2026-11-23, in less than a day, so"),
        (timedelta(hours=-1), "on 2026-11-22, any moment now, so"),
    ],
)
def test_a_key_pending_deletion_says_on_which_date_and_how_many_days_are_left(after: timedelta, words: str) -> None:
    assert words in said(Cause.KEY_PENDING_DELETION, deletion_date=NOW + after)


def test_a_primary_key_with_replicas_has_no_date_yet_but_says_what_it_waits_for() -> None:
    words = said(
        Cause.KEY_PENDING_DELETION,
        key_state="PendingReplicaDeletion",
        deletion_window_days=7,
        replica_regions=("eu-west-1", "us-east-1"),
    )

    assert "once its last replica in eu-west-1, us-east-1 is gone, 7 days after that, so Encrypt was refused" in words


def test_a_key_whose_deletion_was_cancelled_says_why_it_is_disabled() -> None:
    assert "is disabled, as a cancelled deletion leaves it, so" in said(Cause.KEY_DISABLED, deletion_cancelled=True)
    assert "cancelled" not in said(Cause.KEY_DISABLED)


def test_a_key_that_is_not_found_names_the_region_of_its_arn_and_the_date_of_a_deletion() -> None:
    assert said(Cause.KEY_NOT_FOUND).endswith("in us-west-2, the Region that its ARN names.")
    gone = said(Cause.KEY_NOT_FOUND, deletion_date=datetime(2026, 11, 20, tzinfo=UTC))
    assert gone.endswith("its deletion was due on 2026-11-20.")
    assert "due" not in said(Cause.KEY_NOT_FOUND, deletion_date=NOW + timedelta(days=1)), "it should still be there"


def test_missing_material_says_whether_it_expired_or_was_deleted_as_far_as_that_is_known() -> None:
    assert said(Cause.KEY_MATERIAL_MISSING, material_expires_at=NOW).endswith("it expired on 2026-11-22.")
    deleted = said(Cause.KEY_MATERIAL_MISSING, material_expires_at=NOW + timedelta(days=30))
    assert deleted.endswith("it was deleted before it would have expired on 2026-12-22.")
    assert said(Cause.KEY_MATERIAL_MISSING).endswith("it was deleted, has expired or was never imported.")


def test_a_key_of_the_wrong_kind_is_told_which_kind_it_is() -> None:
    words = said(Cause.KEY_WRONG_USAGE, key_usage="SIGN_VERIFY", key_spec="ECC_NIST_P256")

    assert "(it is ECC_NIST_P256 for SIGN_VERIFY)" in words


def test_a_custom_key_store_is_named() -> None:
    for cause in (Cause.KEY_STORE_UNAVAILABLE, Cause.KEY_STORE_UNREACHABLE):
        assert "key store cks-1234567890abcdef0 that holds" in said(cause, key_store_id="cks-1234567890abcdef0")


@pytest.mark.parametrize("refused_by", REFUSALS)
def test_a_denial_says_whose_policy_it_was(refused_by: Refusal | None) -> None:
    words = said(Cause.ACCESS_DENIED, refused_by=refused_by)

    start = f"The role {ROLE_ARN} may not use kms:Encrypt on {KEY_ARN}"
    assert words.startswith(start)
    rest = words.removeprefix(start)
    if refused_by is None:
        assert rest == "."
        return
    whose = {PolicyKind.IDENTITY: "of the role", PolicyKind.RESOURCE: "the key's"}
    assert whose.get(refused_by.policy, refused_by.policy) in rest
    assert ("denies" in rest) is refused_by.explicit


def test_the_missing_permission_is_the_action_on_the_key_or_on_the_role() -> None:
    refused_by = Refusal(policy=PolicyKind.RESOURCE, explicit=False)

    assert missing_permission(Cause.ACCESS_DENIED, "Decrypt", SUBJECT, seen(refused_by=refused_by)) == Permission(
        action="kms:Decrypt", resource=KEY_ARN, refused_by=refused_by
    )
    assert missing_permission(Cause.ROLE_NOT_ASSUMABLE, "AssumeRole", SUBJECT) == Permission(
        action="sts:AssumeRole", resource=ROLE_ARN
    )
    others = set(Cause) - {Cause.ACCESS_DENIED, Cause.ROLE_NOT_ASSUMABLE}
    assert {missing_permission(cause, "Encrypt", SUBJECT) for cause in others} == {None}


# --- commands ---------------------------------------------------------------------------------------------------


def test_a_disabled_key_is_enabled_and_a_deletion_cancelled_first() -> None:
    enable = f"aws kms enable-key {AT_KEY}"
    assert mended(Cause.KEY_DISABLED).commands == (enable,)
    assert mended(Cause.KEY_PENDING_DELETION).commands == (f"aws kms cancel-key-deletion {AT_KEY}", enable)


def test_a_replica_that_is_gone_is_made_again_from_its_primary() -> None:
    replica = replace(SUBJECT, key_arn=REPLICA_ARN)

    remediation = mended(Cause.KEY_NOT_FOUND, subject=replica, primary_region="eu-west-1")

    assert remediation.commands == (
        f"aws kms replicate-key --region eu-west-1 --key-id mrk-{'0' * 32} --replica-region us-west-2",
    )


def test_a_key_that_is_gone_for_good_is_not_promised_back() -> None:
    assert "cannot be brought back" in mended(Cause.KEY_NOT_FOUND, deletion_date=NOW).summary
    assert "cannot be brought back" in mended(Cause.KEY_NOT_FOUND).summary
    own_primary = mended(Cause.KEY_NOT_FOUND, primary_region="us-west-2")
    assert own_primary.commands == (f"aws kms describe-key {AT_KEY}",)


def test_a_replica_that_is_still_being_made_is_waited_for() -> None:
    assert mended(Cause.KEY_NOT_FOUND, key_state="Creating").summary == "Wait until the replica is made."
    assert "is still being made" in said(Cause.KEY_NOT_FOUND, key_state="Creating")


def test_a_disconnected_key_store_is_connected_and_one_out_of_reach_looked_at() -> None:
    store = "cks-1234567890abcdef0"
    at_store = "--region us-west-2 --custom-key-store-id cks-1234567890abcdef0"
    assert mended(Cause.KEY_STORE_UNAVAILABLE, key_store_id=store).commands == (
        f"aws kms connect-custom-key-store {at_store}",
        f"aws kms describe-custom-key-stores {at_store}",
    )
    assert mended(Cause.KEY_STORE_UNREACHABLE, key_store_id=store).commands == (
        f"aws kms describe-custom-key-stores {at_store}",
    )
    assert mended(Cause.KEY_STORE_UNAVAILABLE).commands == ("aws kms describe-custom-key-stores --region us-west-2",)


def test_unreadable_ciphertext_of_an_imported_key_is_mended_by_its_old_material() -> None:
    imported = mended(Cause.CIPHERTEXT_UNREADABLE, imported=True)

    assert imported.commands == mended(Cause.KEY_MATERIAL_MISSING).commands
    assert mended(Cause.CIPHERTEXT_UNREADABLE).commands == (f"aws kms describe-key {AT_KEY}",)


def test_a_policy_of_the_role_that_is_short_gets_a_statement_and_nothing_else_is_overwritten() -> None:
    remediation = mended(Cause.ACCESS_DENIED, refused_by=Refusal(policy=PolicyKind.IDENTITY, explicit=False))

    (command,) = remediation.commands
    *words, document = shlex.split(command)
    assert words == [
        *("aws", "iam", "put-role-policy", "--role-name", "keyvigil-customer"),
        *("--policy-name", f"keyvigil-us-west-2-{KMS_KEY}", "--policy-document"),
    ]
    statement = {"Effect": "Allow", "Action": ACTIONS, "Resource": KEY_ARN}
    assert json.loads(document) == {"Version": "2012-10-17", "Statement": [statement]}
    assert json.loads(remediation.statement or "") == statement
    another = replace(SUBJECT, key_arn=KEY_ARN.replace("1234abcd", "00000000"))
    other = mended(Cause.ACCESS_DENIED, subject=another, refused_by=Refusal(policy=PolicyKind.IDENTITY, explicit=False))
    assert shlex.split(other.commands[0])[6] != words[6]


def test_a_role_s_policy_never_gets_longer_names_than_iam_takes() -> None:
    alias = replace(SUBJECT, key_arn=f"arn:aws:kms:us-west-2:222222222222:alias/{'a' * 250}")
    (command, _) = mended(Cause.ACCESS_DENIED, subject=alias).commands

    name = shlex.split(command)[6]
    assert re.fullmatch(r"[\w+=,.@-]{1,128}", name, re.ASCII)


def test_a_key_that_is_known_by_its_alias_only_is_allowed_and_named_by_the_key_behind_it() -> None:
    alias = replace(SUBJECT, key_arn=ALIAS_ARN)
    of_role, of_key = mended(Cause.ACCESS_DENIED, "DescribeKey", subject=alias).commands

    (statement,) = json.loads(shlex.split(of_role)[-1])["Statement"]
    assert statement["Resource"] == "arn:aws:kms:us-west-2:222222222222:key/*"
    assert statement["Condition"] == {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/teams/vectors"}}
    looked_up = (
        f'"$(aws kms describe-key --region us-west-2 --key-id {ALIAS_ARN} --query KeyMetadata.Arn --output text)"'
    )
    assert of_key.count(f"--key-id {looked_up}") == 2


def test_a_role_that_cannot_be_assumed_gets_its_exact_trust_back_or_is_made_again_where_it_was() -> None:
    subject = replace(SUBJECT, role_arn="arn:aws:iam::222222222222:role/teams/data/keyvigil-customer")
    trust, permissions = mended(Cause.ROLE_NOT_ASSUMABLE, "AssumeRole", subject=subject).commands

    update, create = (shlex.split(part) for part in trust.split(" || "))
    assert update[:-1] == [
        *("aws", "iam", "update-assume-role-policy", "--role-name", "keyvigil-customer", "--policy-document")
    ]
    assert create[:-1] == [
        *("aws", "iam", "create-role", "--role-name", "keyvigil-customer", "--path", "/teams/data/"),
        "--assume-role-policy-document",
    ]
    assert update[-1] == create[-1]
    assert json.loads(update[-1])["Statement"] == [
        {
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::111111111111:root"},
            "Action": "sts:AssumeRole",
            "Condition": {
                "ArnLike": {
                    "aws:PrincipalArn": [
                        "arn:aws:iam::111111111111:role/keyvigil-monitor",
                        "arn:aws:sts::111111111111:assumed-role/keyvigil-monitor/*",
                    ]
                },
                "StringEquals": {"sts:ExternalId": EXTERNAL_ID},
            },
        }
    ]
    assert shlex.split(permissions)[1:3] == ["iam", "put-role-policy"]


def test_a_role_without_a_path_is_made_at_the_root() -> None:
    assert aws_commands.role_path(ROLE_ARN) == "/"
    assert aws_commands.role_path("arn:aws:iam::222222222222:role/a/b/c") == "/a/b/"


@pytest.mark.parametrize("refused_by", REFUSALS)
def test_a_denial_is_mended_where_it_was_made(refused_by: Refusal | None) -> None:
    remediation = mended(Cause.ACCESS_DENIED, "Decrypt", refused_by=refused_by)

    calls = [call.split()[1:3] for command in remediation.commands for call in _calls(command)]
    put_role, put_key = ["iam", "put-role-policy"], ["kms", "put-key-policy"]
    get_key, simulate = ["kms", "get-key-policy"], ["iam", "simulate-principal-policy"]
    match refused_by:
        case None:
            assert calls == [put_role, get_key, put_key]
        case Refusal(policy=PolicyKind.IDENTITY, explicit=False):
            assert calls == [put_role]
        case Refusal(policy=PolicyKind.RESOURCE):
            assert calls == [get_key, put_key]
        case Refusal(policy=PolicyKind.BOUNDARY):
            assert calls == [["iam", "get-role"]]
        case _:
            assert calls == [simulate]
    statement = json.loads(remediation.statement or "")
    assert statement["Action"] == ACTIONS
    by_key = refused_by is not None and refused_by.policy is PolicyKind.RESOURCE
    assert ("Principal" in statement) is by_key


def _calls(command: str) -> list[str]:
    """The calls of the AWS command line in one line of shell."""
    return re.findall(r"aws (?:kms|iam) [a-z-]+[^|>]*", command)


# --- that they can be pasted ------------------------------------------------------------------------------------

MODELS = {name: botocore.session.Session().get_service_model(name) for name in ("kms", "iam")}
CLI_OWN_OPTIONS = {"region", "query", "output"}
EVERY_SUBJECT = [
    SUBJECT,
    replace(SUBJECT, key_arn=ALIAS_ARN),
    replace(SUBJECT, key_arn=REPLICA_ARN, role_arn="arn:aws:iam::222222222222:role/teams/data/keyvigil"),
]
EVERY_SIGHT = [
    Seen(),
    *(Seen(at=NOW, refused_by=each) for each in REFUSALS),
    Seen(at=NOW, primary_region="eu-west-1", key_store_id="cks-1234567890abcdef0", imported=True),
    Seen(at=NOW, deletion_date=NOW, key_state="PendingReplicaDeletion"),
]


@pytest.mark.parametrize("cause", Cause)
def test_every_call_is_one_that_aws_knows_with_all_that_it_needs(cause: Cause) -> None:
    for subject in EVERY_SUBJECT:
        for sight in EVERY_SIGHT:
            _, remediation = explain(cause, "Decrypt", subject, sight)
            for command in remediation.commands if remediation else ():
                for call in re.findall(r"aws (?:kms|iam) [^|>]*", re.sub(r'"\$\(.*?\)"', "looked-up", command)):
                    _check(shlex.split(call))


def _check(words: list[str]) -> None:
    _, service, operation, *rest = words
    model = MODELS[service]
    named = {xform_name(name, "-"): name for name in model.operation_names}
    shape = model.operation_model(named[operation]).input_shape
    assert shape is not None
    given = {word.removeprefix("--") for word in rest if word.startswith("--")} - CLI_OWN_OPTIONS
    assert given <= {xform_name(member, "-") for member in shape.members}, words
    assert {xform_name(member, "-") for member in shape.required_members} <= given, words
    if service == "kms":
        assert "--region" in rest, "a key's commands name its Region"
