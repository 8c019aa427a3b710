"""The registry on real parts: the contract's fixed words, IAM on every route, and what a project leaves behind."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from keyvigil_cli.api_client import ApiProblemError, JsonObject
from keyvigil_cli.customer import RegistrableKey
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, OPERATOR_ACCOUNT, STACK_NAME
from tests.e2e.stage import Stage

REGISTRY: dict[str, str | int] = {"via": "none"}


def refusal(call: Callable[[], object]) -> JsonObject:
    """The problem document that a call is refused with."""
    with pytest.raises(ApiProblemError) as refused:
        call()
    problem: JsonObject = {"status": refused.value.status, **refused.value.problem}
    return problem


def test_a_malformed_arn_is_answered_in_the_fixed_words(stage: Stage) -> None:
    project = stage.project()
    key = RegistrableKey(key_arn="arn:aws:kms:us-west-2:1234:key/abc", role_arn="arn:aws:iam::222222222222:role/r")
    problem = refusal(lambda: project.register_key(key))
    assert (problem["status"], problem["title"]) == (400, "Invalid KMS key ARN format")
    assert "arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID" in problem["detail"]


def test_a_key_that_the_role_may_not_use_is_refused_with_the_statement_to_add(stage: Stage) -> None:
    project = stage.project()
    key = stage.customer.create_key(stage.role(project))
    stage.customer.deny(key, "kms:Encrypt")
    problem = refusal(lambda: project.register_key(key))
    assert (problem["status"], problem["title"], problem["cause"]) == (
        422,
        "Access denied to KMS key",
        "ACCESS_DENIED",
    )
    assert "kms:Encrypt was refused" in problem["detail"]
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": key.role_arn},
        "Action": ["kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"],
        "Resource": "*",
    }
    assert json.dumps(statement) in problem["detail"]
    assert project.api.get("projects", project.project_id)["keys"] == 0


def test_a_role_without_external_id_is_refused(stage: Stage) -> None:
    project = stage.project()
    role_arn = stage.role(project)
    key = stage.customer.create_key(role_arn)
    open_to_anybody = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:aws:iam::{OPERATOR_ACCOUNT}:root"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
    stage.cloud.session(CUSTOMER_ACCOUNT).client("iam").update_assume_role_policy(
        RoleName=key.role_name, PolicyDocument=json.dumps(open_to_anybody)
    )
    problem = refusal(lambda: project.register_key(key))
    assert (problem["status"], problem["title"]) == (422, "Role does not check the ExternalId")
    assert project.external_id in problem["remediation"]["commands"][0]


def test_a_role_that_trusts_another_external_id_cannot_be_assumed(stage: Stage) -> None:
    theirs, ours = stage.project(), stage.project()
    key = stage.customer.create_key(stage.role(theirs))
    problem = refusal(lambda: ours.register_key(key))
    assert (problem["status"], problem["cause"]) == (422, "ROLE_NOT_ASSUMABLE")


def test_a_disabled_key_is_refused_with_the_command_that_mends_it(stage: Stage) -> None:
    project = stage.project()
    key = stage.customer.create_key(stage.role(project))
    stage.customer.disable_key(key)
    problem = refusal(lambda: project.register_key(key))
    assert (problem["status"], problem["title"]) == (422, "KMS key is disabled")
    assert problem["remediation"]["commands"][0].startswith("aws kms enable-key --region us-west-2")


def test_an_alias_is_resolved_once_and_both_arns_are_kept(stage: Stage) -> None:
    project = stage.project()
    key = stage.customer.create_key(stage.role(project))
    stage.customer.name_role(key)
    alias = f"alias/{stage.name()}"
    stage.cloud.session(CUSTOMER_ACCOUNT).client("kms").create_alias(AliasName=alias, TargetKeyId=key.key_arn)
    alias_arn = f"{key.key_arn.rpartition(':')[0]}:{alias}"
    registered = project.register_key(RegistrableKey(key_arn=alias_arn, role_arn=key.role_arn))
    assert (registered["key_arn"], registered["alias_arn"]) == (key.key_arn, alias_arn)


def test_a_cluster_keeps_its_key_for_life(stage: Stage) -> None:
    project = stage.project()
    first, second = stage.watched_key(project), stage.watched_key(project)
    project.register_cluster("vectors", first.key_id, REGISTRY)
    words = "Cannot change AWS CSE key ARN after cluster is created"
    again = refusal(lambda: project.register_cluster("vectors", second.key_id, REGISTRY))
    assert (again["status"], again["title"]) == (409, words)
    path = ("projects", project.project_id, "clusters", "vectors")
    changed = refusal(lambda: stage.api.patch(*path, body={"key_id": second.key_id}))
    assert (changed["status"], changed["title"]) == (409, words)


def test_a_key_of_another_region_is_refused(stage: Stage) -> None:
    project = stage.project()
    watched = stage.watched_key(project)
    body = {
        "cluster_id": "vectors",
        "name": "vectors",
        "kind": "zilliz-byoc",
        "region": "eu-west-1",
        "key_id": watched.key_id,
        "lock": REGISTRY,
    }
    problem = refusal(lambda: stage.api.post("projects", project.project_id, "clusters", body=body))
    assert problem["status"] == 409
    assert "eu-west-1" in problem["detail"]


def test_the_api_itself_cannot_touch_a_customer_s_key(stage: Stage) -> None:
    """Only `check_keys` may assume customers' roles: the registry's own role is refused by IAM."""
    project = stage.project()
    key = stage.customer.create_key(stage.role(project))
    iam = stage.cloud.session().client("iam")
    allowed = set()
    # Other tests make roles in this account, too.
    for role in iam.get_paginator("list_roles").paginate().search(f"Roles[?starts_with(RoleName, '{STACK_NAME}-')]"):
        for name in iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]:
            document = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"]
            if "sts:AssumeRole" in json.dumps(document):
                allowed.add(role["RoleName"])
    assert allowed == {stage.outputs["MonitorRoleArn"].rpartition("/")[2]}
    assert project.register_key(key)["status"] == "HEALTHY"


def test_a_project_takes_its_topic_with_it_and_goes_only_when_it_is_empty(stage: Stage) -> None:
    project = stage.project()
    watched = stage.watched_key(project)
    project.register_cluster("vectors", watched.key_id, REGISTRY)
    path = ("projects", project.project_id)
    problem = refusal(lambda: stage.api.delete(*path))
    assert (problem["status"], problem["in_the_way"]) == (409, [f"key {watched.key_id}", "cluster vectors"])
    stage.api.delete(*path, "clusters", "vectors")
    stage.api.delete(*path, "keys", watched.key_id)
    stage.api.delete(*path)
    assert refusal(lambda: stage.api.get(*path))["status"] == 404
    sns = stage.cloud.session().client("sns")
    with pytest.raises(ClientError, match="NotFound"):
        sns.get_topic_attributes(TopicArn=project.alert_topic_arn)


def test_a_cluster_that_was_never_locked_leaves_nothing_behind(stage: Stage) -> None:
    project = stage.project()
    watched = stage.watched_key(project)
    project.register_cluster("vectors", watched.key_id, REGISTRY)
    table = stage.cloud.session().client("dynamodb")
    place = {"pk": {"S": f"PROJECT#{project.project_id}"}, "sk": {"S": "CLUSTER#vectors"}}
    stage.api.delete("projects", project.project_id, "clusters", "vectors")
    assert "Item" not in table.get_item(TableName=stage.outputs["TableName"], Key=place, ConsistentRead=True)
    assert project.register_cluster("vectors", watched.key_id, REGISTRY)["fence"] == 0


def test_the_fleet_shows_what_is_under_watch_and_when_it_was_swept(stage: Stage) -> None:
    project = stage.project()
    stage.watched_key(project)
    fleet = stage.api.get("fleet")
    assert fleet["keys"]["HEALTHY"] >= 1
    assert set(fleet["clusters"]) >= {"ACTIVE", "LOCKED", "PENDING_KEY"}
    if fleet["last_sweep"] is not None:
        assert datetime.fromisoformat(fleet["last_sweep"]["at"]) <= datetime.now(UTC)


def test_the_dashboard_is_there_and_cloudwatch_has_its_json(stage: Stage) -> None:
    cloudwatch: Any = stage.cloud.session().client("cloudwatch")
    shown = cloudwatch.get_dashboard(DashboardName=stage.outputs["DashboardName"])
    body = json.loads(shown["DashboardBody"])
    assert len(body["widgets"]) > 20
    assert "${" not in shown["DashboardBody"], "everything that it refers to is filled in"
    functions = [metric for widget in body["widgets"] for metric in widget["properties"].get("metrics", [])]
    assert ["AWS/Lambda", "Errors", "FunctionName", stage.outputs["PlanSweepFunctionName"]] in functions


def test_a_request_that_is_repeated_with_its_idempotency_key_creates_once(stage: Stage) -> None:
    body: JsonObject = {"project_id": stage.name(), "name": "once"}
    key = stage.name()
    first = stage.api.post("projects", body=body, idempotency_key=key)
    assert stage.api.post("projects", body=body, idempotency_key=key) == first
    other = refusal(lambda: stage.api.post("projects", body={**body, "name": "twice"}, idempotency_key=key))
    assert (other["status"], other["title"]) == (409, "Idempotency-Key was used for other content")


def test_a_role_serves_one_project_and_is_free_again_after_its_last_key(stage: Stage) -> None:
    theirs, ours = stage.project(), stage.project()
    role_arn = stage.role(theirs)
    registered = theirs.register_key(stage.customer.create_key(role_arn))
    problem = refusal(lambda: ours.register_key(stage.customer.create_key(role_arn)))
    assert (problem["status"], problem["title"]) == (409, "Role serves another project")
    stage.api.delete("projects", theirs.project_id, "keys", registered["key_id"])
    freed = refusal(lambda: ours.register_key(stage.customer.create_key(role_arn)))
    assert freed["cause"] == "ROLE_NOT_ASSUMABLE", "the role still checks the other project's ExternalId"


def test_a_keys_role_is_changed_and_its_ciphertext_made_anew(stage: Stage) -> None:
    project = stage.project()
    key = stage.customer.create_key(stage.role(project))
    path = ("projects", project.project_id, "keys", project.register_key(key)["key_id"])
    problem = refusal(lambda: stage.api.patch(*path, body={"role_arn": f"{key.role_arn}-that-is-not-there"}))
    assert (problem["status"], problem["cause"]) == (422, "ROLE_NOT_ASSUMABLE")
    assert stage.api.get(*path)["role_arn"] == key.role_arn
    again = stage.api.post(*path, "rebaseline", body={"reason": "a rehearsal"})
    assert [each["reason"] for each in again["rebaselines"]] == ["a rehearsal"]
    assert again["rebaselines"][0]["by"].startswith("arn:aws:")
    assert stage.api.post(*path, "check")["verdict"]["outcome"] == "HEALTHY"


def test_a_validation_tries_each_operation_by_itself_and_stores_nothing(stage: Stage) -> None:
    project = stage.project()
    key = stage.customer.create_key(stage.role(project))
    stage.customer.deny(key, "kms:Decrypt")
    body: JsonObject = {"key_arn": key.key_arn, "role_arn": key.role_arn, "use": "cmek"}
    found = stage.api.post("projects", project.project_id, "key-validations", body=body)
    allowed = {each["operation"]: each["allowed"] for each in found["operations"]}
    assert allowed == {"DescribeKey": True, "Encrypt": True, "Decrypt": False}
    assert (found["verdict"]["cause"], found["verdict"]["operation"]) == ("ACCESS_DENIED", "Decrypt")
    assert project.api.get("projects", project.project_id)["keys"] == 0


def test_a_test_message_reaches_one_subscriber_and_no_other(stage: Stage) -> None:
    project = stage.project()
    tested, other = stage.alert_queue(project), stage.alert_queue(project)
    [first, _] = project.api.get("projects", project.project_id, "subscriptions")["items"]
    mine, theirs = (tested, other) if first["endpoint"] == tested.endpoint else (other, tested)
    sent = stage.api.post("projects", project.project_id, "subscriptions", first["subscription_id"], "test")
    [received] = mine.wait_for("subscription.test")
    assert received["alert_id"] == sent["alert_id"]
    assert theirs.collect() == []
