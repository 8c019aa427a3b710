"""Somebody who does not know which of a customer's resources hangs on which key finds out, and watches them."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from keyvigil_cli.customer import CustomerAccount
from keyvigil_cli.local_cloud import OPERATOR_ACCOUNT, REGION
from tests.e2e.command_line_story import CommandLine
from tests.e2e.stage import Stage
from tests.e2e.story import story

# Nobody else's on this cloud, so that all that is found there is this story's.
ACCOUNT = "444444444444"
READER = "discover-reader"


def let_read(iam: Any, permissions: Any, *, but: str | None = None, role: str = READER) -> None:
    """Give the reader what `discover --permissions` asks for, and nothing else."""
    [statement] = permissions["Statement"]
    actions = [each for each in statement["Action"] if each != but]
    document = {**permissions, "Statement": [{**statement, "Action": actions}]}
    iam.put_role_policy(RoleName=role, PolicyName="read", PolicyDocument=json.dumps(document))


@story
def somebody_finds_out_what_hangs_on_a_key_and_puts_it_under_watch(stage: Stage) -> None:
    keyvigil, session = CommandLine(stage.cloud), stage.cloud.session(ACCOUNT)
    customer = CustomerAccount(session, ACCOUNT)
    project = stage.project()
    role_arn = customer.role_for(
        stage.outputs["MonitorRoleArn"], project.external_id, project.project_id, role_name=f"keyvigil-{stage.name()}"
    )
    key = customer.create_key(role_arn)
    session.client("kms").create_alias(AliasName="alias/app", TargetKeyId=key.key_arn)
    session.client("sqs").create_queue(QueueName="orders", Attributes={"KmsMasterKeyId": "alias/app"})
    session.client("sns").create_topic(Name="alarms", Attributes={"KmsMasterKeyId": "alias/app"})
    session.client("ssm").put_parameter(Name="/token", Value="v", Type="SecureString", KeyId=key.key_arn)
    session.client("dynamodb").create_table(
        TableName="orders",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
        SSESpecification={"Enabled": True, "SSEType": "KMS", "KMSMasterKeyId": key.key_arn},
    )
    s3: Any = session.client("s3")
    bucket = f"{stage.name()}-logs"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key.key_arn}
    s3.put_bucket_encryption(
        Bucket=bucket,
        ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": default}]},
    )

    iam = session.client("iam")
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{OPERATOR_ACCOUNT}:root"},
        "Action": "sts:AssumeRole",
    }
    iam.create_role(
        RoleName=READER, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )
    permissions = keyvigil.json("discover --permissions")
    let_read(iam, permissions)
    discover = f"discover --role arn:aws:iam::{ACCOUNT}:role/{READER}"

    found = keyvigil.json(discover)
    assert found["unread"] == []
    [used] = found["keys"]
    assert (used["key_arn"], used["aliases"]) == (key.key_arn, ["alias/app"])
    names = {each["name"] for each in used["resources"]}
    assert names >= {"orders", "alarms", "/token", bucket}, names
    assert {"s3-bucket-key-off", "rotation-off"} <= {each["code"] for each in found["findings"]}

    register = f"{discover} --register --project {project.project_id} --probe-role {role_arn}"
    first = keyvigil.json(register)["registration"]["items"]
    assert {each["outcome"] for each in first} <= {"registered", "not watchable"}, first
    clusters = keyvigil.json(f"cluster list {project.project_id}")["items"]
    assert {each["name"] for each in clusters} == names
    assert {each["status"] for each in clusters} == {"ACTIVE"}
    again = keyvigil.json(register)["registration"]["items"]
    assert {each["outcome"] for each in again} <= {"there already", "not watchable"}, again

    let_read(iam, permissions, but="sqs:ListQueues")
    partly = keyvigil.json(discover, ends=4)
    assert [each["what"] for each in partly["unread"]] == ["sqs"]

    let_read(iam, permissions)
    customer.disable_key(key)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "keys.html"
        keyvigil(discover, "--html", str(file), ends=3)
        page = file.read_text(encoding="utf-8")
    assert "key-disabled" in page
    assert bucket in page
