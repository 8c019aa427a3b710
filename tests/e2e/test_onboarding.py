"""What a customer deploys from onboarding/, deployed: it lets KeyVigil probe, and nobody do anything else."""

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from keyvigil_cli.customer import deploy
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, OPERATOR_ACCOUNT, LocalCloud
from keyvigil_cli.project import Project
from tests.e2e.command_line_story import CommandLine
from tests.e2e.stage import Stage

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

BUS = f"arn:aws:events:us-west-2:{OPERATOR_ACCOUNT}:event-bus/keyvigil-intake"


def stack(stage: Stage, project: Project, key_arns: list[str], **parameters: str) -> dict[str, str]:
    """Deploy a role, as docs/onboarding.md has it."""
    monitor = stage.outputs["MonitorRoleArn"]
    name = stage.name()
    given = {
        "KeyVigilAccountId": monitor.split(":")[4],
        "MonitorRoleName": monitor.rpartition("/")[2],
        "ProjectId": project.project_id,
        "ExternalId": project.external_id,
        "KeyArns": ",".join(key_arns),
        "RoleName": f"keyvigil-{name}",
        # The local cloud compares no encryption context.
        "RestrictToProbes": "false",
        **parameters,
    }
    return deploy(stage.cloud.session(CUSTOMER_ACCOUNT), name, "customer-role.yaml", given)


def new_key(cloud: LocalCloud) -> str:
    return cloud.session(CUSTOMER_ACCOUNT).client("kms").create_key()["KeyMetadata"]["Arn"]


@pytest.mark.parametrize("use", ["cmek", "cse", "service"])
def test_a_key_is_registered_with_what_the_stack_puts_out(stage: Stage, use: str) -> None:
    project = stage.project()
    key_arn = new_key(stage.cloud)
    outputs = stack(stage, project, [key_arn], Use=use)

    command = outputs["RegisterTheFirstKey"]
    named = f"--key-arn {key_arn} --role-arn {outputs['RoleArn']} --use {use}"
    assert command == f"keyvigil key register {project.project_id} {named}"
    registered = CommandLine(stage.cloud).json(command.removeprefix("keyvigil "))
    assert (registered["key_arn"], registered["use"], registered["status"]) == (key_arn, use, "HEALTHY")


def test_a_role_for_kes_reads_the_one_secret(stage: Stage) -> None:
    project = stage.project()
    key_arn = new_key(stage.cloud)
    secrets_manager = stage.cloud.session(CUSTOMER_ACCOUNT).client("secretsmanager")
    name = f"keyvigil/{project.project_id}/probe"
    secret_arn = secrets_manager.create_secret(Name=name, KmsKeyId=key_arn, SecretString="a probe")["ARN"]
    other = secrets_manager.create_secret(Name=f"{name}-not", KmsKeyId=key_arn, SecretString="no probe")["ARN"]
    outputs = stack(stage, project, [key_arn], Use="kes", ProbeSecretArn=secret_arn)

    command = outputs["RegisterTheFirstKey"]
    assert command.endswith(f" --role-arn {outputs['RoleArn']} --use kes --probe-secret-arn {secret_arn}")
    registered = CommandLine(stage.cloud).json(command.removeprefix("keyvigil "))
    assert (registered["key_arn"], registered["use"], registered["status"]) == (key_arn, "kes", "HEALTHY")
    session = as_the_role(stage, outputs["RoleArn"], project.external_id)
    assert "AccessDenied" in refused(session.client("secretsmanager").get_secret_value, SecretId=other)


def test_a_role_for_cmek_is_short_of_what_cse_needs(stage: Stage) -> None:
    project = stage.project()
    key_arn = new_key(stage.cloud)
    outputs = stack(stage, project, [key_arn])

    body = {"key_arn": key_arn, "role_arn": outputs["RoleArn"], "use": "cse"}
    found = stage.api.post("projects", project.project_id, "key-validations", body=body)

    allowed = {each["operation"]: each["allowed"] for each in found["operations"]}
    assert allowed == {"DescribeKey": True, "Encrypt": True, "Decrypt": True, "GenerateDataKey": False}


def refused(call: Any, **parameters: Any) -> str:
    with pytest.raises(ClientError) as error:
        call(**parameters)
    return str(error.value.response["Error"]["Code"])


def test_nobody_else_in_the_operator_s_account_assumes_the_role_even_with_the_external_id(stage: Stage) -> None:
    project = stage.project()
    outputs = stack(stage, project, [new_key(stage.cloud)])
    sts = stage.cloud.session(OPERATOR_ACCOUNT).client("sts")
    asked = {"RoleArn": outputs["RoleArn"], "RoleSessionName": "somebody"}

    assert refused(sts.assume_role, **asked, ExternalId=project.external_id) == "AccessDenied"
    assert refused(sts.assume_role, **asked) == "AccessDenied"


def as_the_role(stage: Stage, role_arn: str, external_id: str) -> boto3.Session:
    """A session of the role, for a moment in which it trusts everybody in the operator's account."""
    iam = stage.cloud.session(CUSTOMER_ACCOUNT).client("iam")
    document: Any = iam.get_role(RoleName=role_arn.rpartition("/")[2])["Role"]["AssumeRolePolicyDocument"]
    del document["Statement"][0]["Condition"]["ArnLike"]
    iam.update_assume_role_policy(RoleName=role_arn.rpartition("/")[2], PolicyDocument=json.dumps(document))
    sts = stage.cloud.session(OPERATOR_ACCOUNT).client("sts")
    given = sts.assume_role(RoleArn=role_arn, RoleSessionName="a-test", ExternalId=external_id)["Credentials"]
    session = Credentials(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
    return stage.cloud.session(CUSTOMER_ACCOUNT, credentials=session)


def test_the_role_reaches_the_chosen_key_and_nothing_else(stage: Stage) -> None:
    project = stage.project()
    chosen, other = new_key(stage.cloud), new_key(stage.cloud)
    outputs = stack(stage, project, [chosen])
    kms: KMSClient = as_the_role(stage, outputs["RoleArn"], project.external_id).client("kms")

    assert kms.describe_key(KeyId=chosen)["KeyMetadata"]["Arn"] == chosen
    kms.encrypt(KeyId=chosen, Plaintext=b"probe")
    kms.get_key_rotation_status(KeyId=chosen)
    denied = {
        "encrypt with another key": refused(kms.encrypt, KeyId=other, Plaintext=b"probe"),
        "describe another key": refused(kms.describe_key, KeyId=other),
        "disable the key": refused(kms.disable_key, KeyId=chosen),
        "delete the key": refused(kms.schedule_key_deletion, KeyId=chosen),
        "read its policy": refused(kms.get_key_policy, KeyId=chosen),
        "grant": refused(kms.create_grant, KeyId=chosen, GranteePrincipal=outputs["RoleArn"], Operations=["Decrypt"]),
        "make data keys": refused(kms.generate_data_key, KeyId=chosen, KeySpec="AES_256"),
        "list keys": refused(kms.list_keys),
    }
    assert set(denied.values()) == {"AccessDeniedException"}, denied


def test_what_else_may_be_seen_is_seen_only_if_it_was_allowed(stage: Stage) -> None:
    project = stage.project()
    key_arn = new_key(stage.cloud)
    seeing = stack(stage, project, [key_arn], AllowLookupEvents="true", AllowRotationStatus="false")
    blind = stack(stage, project, [key_arn])

    session = as_the_role(stage, seeing["RoleArn"], project.external_id)
    assert "Events" in session.client("cloudtrail").lookup_events()
    assert refused(session.client("kms").get_key_rotation_status, KeyId=key_arn) == "AccessDeniedException"
    other = as_the_role(stage, blind["RoleArn"], project.external_id)
    assert "AccessDenied" in refused(other.client("cloudtrail").lookup_events)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ExternalId": "with space"}, "ExternalId"),
        ({"KeyArns": "alias/vectors"}, "KeyArns"),
        ({"KeyVigilAccountId": "acme"}, "KeyVigilAccountId"),
        ({"Use": "kes"}, "needs ProbeSecretArn"),
    ],
    ids=["ExternalId", "KeyArns", "KeyVigilAccountId", "kes without its secret"],
)
def test_a_role_that_would_be_wrong_is_not_made(stage: Stage, given: dict[str, str], words: str) -> None:
    project = stage.project()
    with pytest.raises(ClientError, match=words):
        stack(stage, project, [new_key(stage.cloud)], **given)


@pytest.mark.parametrize("region", ["us-west-2", "us-east-1"])
def test_the_events_of_a_region_are_forwarded_to_the_intake_bus(cloud: LocalCloud, region: str) -> None:
    """What a bus of another account gets is not shown: the local cloud has none. The rules and their targets are.

    Nor does it compare AWS::Region in conditions, so the rule about IAM's events, which is us-east-1's, is shown by
    tests/infra/test_onboarding.py alone.
    """
    session = cloud.session(CUSTOMER_ACCOUNT, region)
    name = f"keyvigil-events-{region}"
    outputs = deploy(session, name, "customer-events.yaml", {"IntakeBusArn": BUS})

    events = session.client("events")
    rules = {rule["Name"].split("-")[-2]: rule for rule in events.list_rules(NamePrefix=name)["Rules"]}
    assert set(rules) == {"KeyEvents", "KeyChanges"}
    for rule in rules.values():
        (target,) = events.list_targets_by_rule(Rule=rule["Name"])["Targets"]
        assert target["Arn"] == BUS
        role = target["RoleArn"].rpartition("/")[2]
        policy: Any = session.client("iam").get_role_policy(RoleName=role, PolicyName="forward")["PolicyDocument"]
        assert policy["Statement"] == [{"Effect": "Allow", "Action": "events:PutEvents", "Resource": BUS}]
        assert target["DeadLetterConfig"]["Arn"].rpartition(":")[2] in outputs["UndeliveredUrl"]
