"""Clusters that are locked by calling their receiver: a function, and a webhook that points where it must not."""

import io
import json
import zipfile
from contextlib import ExitStack
from typing import Any

import pytest

from keyvigil_cli.api_client import ApiProblemError, JsonObject
from keyvigil_cli.local_cloud import OPERATOR_ACCOUNT, REGION
from keyvigil_cli.waiting import wait_until
from tests.e2e.stage import Stage
from tests.e2e.story import story

# Counts its calls for each fence in a file. The first one fails, so that there is a second.
FUNCTION = """
import pathlib, tempfile

def handler(event, context):
    seen = pathlib.Path(tempfile.gettempdir(), f"{event['project_id']}-{event['fence']}")
    with seen.open("a") as file:
        file.write("x")
    calls = len(seen.read_text())
    if calls == 1:
        raise RuntimeError("not yet")
    done = {"lock": "locked", "unlock": "unlocked"}[event["action"]]
    return {"result": done, "detail": f"call {calls} for {event['cluster_id']} of {event['project_id']}"}
"""


def function_named(stage: Stage, name: str, created: ExitStack) -> str:
    """Deploy a receiving function in the operator's account; its ARN."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", FUNCTION)
    iam, functions = stage.cloud.session().client("iam"), stage.cloud.session().client("lambda")
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    role = iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )
    created.callback(iam.delete_role, RoleName=name)
    made = functions.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Handler="app.handler",
        Role=role["Role"]["Arn"],
        Code={"ZipFile": packed.getvalue()},
        Timeout=30,
    )
    created.callback(functions.delete_function, FunctionName=name)
    arn: str = made["FunctionArn"]
    return arn


def call_again(stage: Stage, project_id: str, cluster_id: str, fence: int) -> JsonObject:
    """Have call_receiver invoked once more for a request, as Lambda may at any time."""
    payload = {"project_id": project_id, "cluster_id": cluster_id, "fence": fence}
    answer = (
        stage.cloud.session()
        .client("lambda")
        .invoke(FunctionName=stage.outputs["CallReceiverFunctionName"], Payload=json.dumps(payload).encode())
    )
    assert not answer.get("FunctionError")
    document: JsonObject = json.loads(answer["Payload"].read())
    return document


def told(incident: JsonObject, what: str) -> list[str]:
    return [entry["detail"] for entry in incident["timeline"] if entry["what"] == what]


@story
def a_function_that_fails_at_first_locks_and_unlocks_its_cluster_with_the_fence_it_was_given(stage: Stage) -> None:
    with ExitStack() as created:
        project = stage.project()
        watched = stage.watched_key(project)
        function_arn = function_named(stage, f"keyvigil-lock-{stage.name()}", created)
        project.register_cluster(
            "vectors", watched.key_id, {"via": "lambda", "function_arn": function_arn, "timeout_seconds": 120}
        )
        watched.disable()
        incident_id = watched.check()["open_incident_id"]
        locked = project.wait_for_clusters(["vectors"], "LOCKED")["vectors"]
        assert locked["detail"] == f"call 2 for vectors of {project.project_id}"
        incident = project.wait_for_incident(incident_id, "LOCKED")
        [answered] = told(incident, "cluster.locked")
        assert f"locked said its function for fence {locked['fence']}" in answered
        # The same request once more: it is answered, so nobody is called, and an older one is not made at all.
        assert call_again(stage, project.project_id, "vectors", locked["fence"]) == {"outcome": "answered"}
        assert call_again(stage, project.project_id, "vectors", locked["fence"] - 1) == {"outcome": "superseded"}
        watched.enable()
        project.wait_for_incident(incident_id, "RESOLVED", within=300)
        unlocked = project.cluster("vectors")
        assert (unlocked["status"], unlocked["detail"]) == ("ACTIVE", locked["detail"])
        assert unlocked["fence"] > locked["fence"]


def point_elsewhere(stage: Stage, project_id: str, cluster_id: str, url: str) -> None:
    """Write a URL into the table that the API would never have let in."""
    table = stage.cloud.session().client("dynamodb")
    key = {"pk": {"S": f"PROJECT#{project_id}"}, "sk": {"S": f"CLUSTER#{cluster_id}"}}
    name = stage.outputs["TableName"]
    item = table.get_item(TableName=name, Key=key, ConsistentRead=True)["Item"]
    body: dict[str, Any] = json.loads(item["body"]["S"])
    body["lock"]["url"] = url
    table.put_item(TableName=name, Item={**item, "body": {"S": json.dumps(body)}})


@story
def a_webhook_that_points_at_the_machines_metadata_is_not_called_and_the_reason_is_told(stage: Stage) -> None:
    inside = "https://169.254.169.254/latest/meta-data/"
    with ExitStack() as created:
        project = stage.project()
        queue = stage.alert_queue(project)
        watched = stage.watched_key(project)
        secrets = stage.cloud.session().client("secretsmanager")
        secret = secrets.create_secret(
            Name=f"keyvigil/{project.project_id}/webhook", SecretString="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        )
        created.callback(secrets.delete_secret, SecretId=secret["ARN"], ForceDeleteWithoutRecovery=True)
        lock = {"via": "webhook", "url": "https://hooks.example.com/lock", "secret_arn": secret["ARN"]}
        with pytest.raises(ApiProblemError) as refused:
            project.register_cluster("vectors", watched.key_id, {**lock, "url": inside})
        assert refused.value.status == 422
        with pytest.raises(ApiProblemError) as refused:
            project.register_cluster(
                "vectors", watched.key_id, {"via": "ssm-automation", "document_name": "KeyVigilLock-a"}
            )
        assert "AllowRunbooks" in str(refused.value)
        project.register_cluster("vectors", watched.key_id, lock)
        point_elsewhere(stage, project.project_id, "vectors", inside)
        watched.disable()
        incident_id = watched.check()["open_incident_id"]
        failed = project.wait_for_clusters(["vectors"], "LOCK_FAILED")["vectors"]
        assert "169.254.169.254 is not a public address" in failed["detail"]
        incident = project.wait_for_incident(incident_id, "PARTLY_LOCKED")
        [reason] = told(incident, "cluster.lock_failed")
        assert reason.endswith(failed["detail"])
        [alert] = queue.wait_for("cluster.lock_failed")
        [listed] = alert["clusters"]
        assert listed["detail"] == failed["detail"][:200]
        # What failed may be mended while the outage lasts, and the next attempt goes the new way.
        mended = stage.api.patch("projects", project.project_id, "clusters", "vectors", body={"lock": {"via": "none"}})
        assert mended["lock"]["via"] == "none"
        wait_until(
            "the lockout to be taken up again",
            lambda: project.cluster("vectors")["status"],
            lambda status: status == "LOCKED",
            within=300,
        )


@story
def the_role_that_calls_receivers_is_held_to_the_operators_prefixes_by_iam(stage: Stage) -> None:
    iam = stage.cloud.session().client("iam")
    role = next(
        each["Arn"]
        for page in iam.get_paginator("list_roles").paginate()
        for each in page["Roles"]
        if "CallReceiverRole" in each["RoleName"]
    )
    own, other = f"{REGION}:{OPERATOR_ACCOUNT}", "eu-central-1:222222222222"
    asked = {
        ("lambda:InvokeFunction", f"arn:aws:lambda:{own}:function:keyvigil-lock-demo"): True,
        ("lambda:InvokeFunction", f"arn:aws:lambda:{other}:function:keyvigil-lock-demo:live"): True,
        ("lambda:InvokeFunction", f"arn:aws:lambda:{own}:function:keyvigil-lock-cluster"): False,
        ("lambda:InvokeFunction", f"arn:aws:lambda:{own}:function:keyvigil-check-keys"): False,
        ("lambda:InvokeFunction", f"arn:aws:lambda:{other}:function:something-else"): False,
        ("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{own}:secret:keyvigil/acme/a-AbCdEf"): True,
        ("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{own}:secret:other/acme/a-AbCdEf"): False,
        ("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{other}:secret:keyvigil/acme/a-AbCdEf"): False,
        ("ssm:StartAutomationExecution", f"arn:aws:ssm:{own}:document/KeyVigilLock-a"): False,
        ("iam:PassRole", f"arn:aws:iam::{OPERATOR_ACCOUNT}:role/KeyVigilLock-a"): False,
    }
    for (action, resource), allowed in asked.items():
        answer = iam.simulate_principal_policy(PolicySourceArn=role, ActionNames=[action], ResourceArns=[resource])
        [result] = answer["EvaluationResults"]
        assert (result["EvalDecision"] == "allowed") is allowed, (action, resource, result["EvalDecision"])
