"""What people run already comes under watch from their own files, on real keys; the second time nothing is made."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from keyvigil_cli.customer import RegistrableKey
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, REGION
from keyvigil_cli.project import Project
from tests.e2e.command_line_story import CommandLine
from tests.e2e.stage import Stage
from tests.e2e.story import story

STACK = """\
Resources:
  Key:
    Type: AWS::KMS::Key
    Properties:
      KeyPolicy:
        Version: "2012-10-17"
        Statement:
          - Effect: Allow
            Principal: {AWS: !Sub "arn:aws:iam::${AWS::AccountId}:root"}
            Action: "kms:*"
            Resource: "*"
  Secret:
    Type: AWS::SecretsManager::Secret
    Properties: {KmsKeyId: !GetAtt Key.Arn, SecretString: nothing}
"""


def outcomes(printed: Any) -> list[tuple[str, str]]:
    return [(each["what"], each["outcome"]) for each in printed["items"]]


@story
def what_people_run_comes_under_watch_from_their_files(stage: Stage) -> None:
    keyvigil, name = CommandLine(stage.cloud), stage.name()
    project = Project(stage.api, keyvigil.json(f"project create {name} --check-interval-minutes 1"))
    role = stage.role(project)
    key = stage.customer.create_key(role, data_keys=True)
    named = f"--project {name} --role {role}"
    with TemporaryDirectory() as folder:
        state = Path(folder) / "state.json"
        state.write_text(json.dumps(terraform_state(key.key_arn)), encoding="utf-8")
        tried = keyvigil.json(f"import terraform {state} {named} --dry-run")
        assert outcomes(tried) == [("key", "would register"), ("zilliz-byoc", "would register")]
        assert project.api.get("projects", name)["keys"] == 0
        first = keyvigil.json(f"import terraform {state} {named}")
        assert outcomes(first) == [("key", "registered"), ("zilliz-byoc", "registered")]
        again = keyvigil.json(f"import terraform {state} {named}")
        assert outcomes(again) == [("key", "there already"), ("zilliz-byoc", "there already")]
    cluster = project.cluster("in01-story")
    assert (cluster["status"], cluster["key_id"]) == ("ACTIVE", first["items"][0]["id"])
    probed = project.key(cluster["key_id"])["last_probed_at"]
    watched = project.wait_for_key(cluster["key_id"], "a sweep", lambda seen: seen["last_probed_at"] > probed)
    assert (watched["use"], watched["status"]) == ("cse", "HEALTHY")

    # A stack in the customer's account, read with the customer's own credentials.
    session = stage.cloud.session(CUSTOMER_ACCOUNT)
    client = session.client("cloudformation", region_name=REGION)
    client.create_stack(StackName=name, TemplateBody=STACK)
    client.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    made = {
        each["LogicalResourceId"]: each["PhysicalResourceId"]
        for each in client.list_stack_resources(StackName=name)["StackResourceSummaries"]
    }
    stacks_key = f"arn:aws:kms:{REGION}:{CUSTOMER_ACCOUNT}:key/{made['Key']}"
    stage.customer.allow(RegistrableKey(stacks_key, role), data_keys=True)
    with TemporaryDirectory() as folder:
        settings = Path(folder) / "credentials"
        lines = ("[customer]", f"aws_access_key_id = {CUSTOMER_ACCOUNT}", "aws_secret_access_key = local-only", "")
        settings.write_text("\n".join(lines), encoding="utf-8")
        theirs = CommandLine(stage.cloud, {"AWS_SHARED_CREDENTIALS_FILE": str(settings)})
        words = f"import cloudformation {name} {named} --stack-profile customer"
        assert outcomes(theirs.json(words)) == [("key", "registered"), ("aws-secretsmanager", "registered")]
        assert outcomes(theirs.json(words)) == [("key", "there already"), ("aws-secretsmanager", "there already")]


def terraform_state(key_arn: str) -> dict[str, Any]:
    values = {"id": "in01-story", "cluster_name": "Story", "region_id": f"aws-{REGION}", "aws_cse_key_arn": key_arn}
    resource = {
        "address": "zillizcloud_cluster.story",
        "mode": "managed",
        "type": "zillizcloud_cluster",
        "name": "story",
        "values": values,
        "sensitive_values": {},
    }
    return {"format_version": "1.0", "values": {"root_module": {"resources": [resource]}}}
