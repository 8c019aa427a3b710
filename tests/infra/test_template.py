"""``template.yaml`` as CloudFormation gets it: compared with what was agreed, and held to the house rules."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension

from tests.infra import template_rules
from tests.infra.source_template import SourceTemplate, Template

type Properties = dict[str, Any]


def test_the_rendered_template_is_the_agreed_one(rendered_template: Template, snapshot: SnapshotAssertion) -> None:
    # `make snapshot` accepts a change; its diff is part of the review.
    assert rendered_template == snapshot(extension_class=JSONSnapshotExtension)


def test_the_stack_without_anything_optional_is_the_agreed_one(
    plain_template: Template, snapshot: SnapshotAssertion
) -> None:
    assert plain_template["Resources"] == snapshot(extension_class=JSONSnapshotExtension)


def test_the_stack_with_everything_optional_is_the_agreed_one(
    full_template: Template, snapshot: SnapshotAssertion
) -> None:
    assert full_template["Resources"] == snapshot(extension_class=JSONSnapshotExtension)


def test_a_given_key_encrypts_all_that_it_should_and_never_what_alarms(full_template: Template) -> None:
    assert template_rules.key_problems(full_template) == []


def test_without_a_key_nothing_names_one(plain_template: Template) -> None:
    assert template_rules.keyless_problems(plain_template) == []


def test_the_key_is_used_only_through_the_services_that_hold_the_data(full_template: Template) -> None:
    assert template_rules.key_grant_problems(full_template) == []


@pytest.mark.parametrize(
    ("logical_id", "change"),
    [
        pytest.param("Table", lambda table: table.pop("SSESpecification"), id="table"),
        pytest.param("CheckQueue", lambda queue: queue.pop("KmsMasterKeyId"), id="queue"),
        pytest.param("CheckQueue", lambda queue: queue.update(SqsManagedSseEnabled=True), id="queue-twice"),
        pytest.param("SweepDeadLetters", lambda queue: queue.pop("KmsMasterKeyId"), id="dead-letters"),
        pytest.param("ApiLogs", lambda group: group.pop("KmsKeyId"), id="log-group"),
        pytest.param(
            "OperatorTopic", lambda topic: topic.update(KmsMasterKeyId={"Ref": "KmsKeyArn"}), id="operator-topic"
        ),
        pytest.param(
            "OperatorTopic", lambda topic: topic.update(KmsMasterKeyId="alias/aws/sns"), id="operator-topic-under-sns"
        ),
        pytest.param(
            "RegistryApiFunction",
            lambda function: function["Environment"]["Variables"].pop("KEYVIGIL_KMS_KEY_ARN"),
            id="topics",
        ),
    ],
)
def test_something_that_the_key_forgot_or_should_not_touch_is_found(
    full_template: Template, logical_id: str, change: Callable[[Properties], object]
) -> None:
    template = copy.deepcopy(full_template)
    change(template["Resources"][logical_id]["Properties"])
    assert [problem.partition(":")[0] for problem in template_rules.key_problems(template)] == [logical_id]


@pytest.mark.parametrize(
    ("logical_id", "change"),
    [
        pytest.param("Table", lambda table: table.update(SSESpecification={"KMSMasterKeyId": "k"}), id="table"),
        pytest.param("CheckQueue", lambda queue: queue.pop("SqsManagedSseEnabled"), id="open-queue"),
        pytest.param(
            "MonitorRole",
            lambda role: role["Policies"].append({"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}),
            id="grant",
        ),
    ],
)
def test_a_key_that_nobody_gave_is_found(
    plain_template: Template, logical_id: str, change: Callable[[Properties], object]
) -> None:
    template = copy.deepcopy(plain_template)
    change(template["Resources"][logical_id]["Properties"])
    assert [problem.partition(":")[0] for problem in template_rules.keyless_problems(template)] == [logical_id]


@pytest.mark.parametrize("wrong", [{"Resource": "*"}, {"Condition": {}}], ids=["every key", "by whatever service"])
def test_a_grant_of_more_than_the_stacks_key_is_found(full_template: Template, wrong: Properties) -> None:
    template = copy.deepcopy(full_template)
    statements = template["Resources"]["MonitorRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    next(each for each in statements if "kms:Decrypt" in each["Action"]).update(wrong)
    assert len(template_rules.key_grant_problems(template)) == 1


def test_globals_choose_the_runtime_and_the_architecture(source_template: SourceTemplate) -> None:
    chosen = source_template.content["Globals"]["Function"]
    assert (chosen["Runtime"], chosen["Architectures"]) == ("python3.13", ["arm64"])


def test_no_function_chooses_another_runtime(rendered_template: Template) -> None:
    assert template_rules.runtime_problems(rendered_template) == []


def test_each_function_has_a_log_group_beside_it(rendered_template: Template, source_template: SourceTemplate) -> None:
    assert template_rules.log_group_problems(rendered_template, source_template.resources) == []


def test_no_policy_allows_a_wildcard_action(rendered_template: Template) -> None:
    assert template_rules.wildcard_action_problems(rendered_template) == []


def test_every_route_is_authorized_by_iam(rendered_template: Template) -> None:
    assert template_rules.route_problems(rendered_template) == []


def test_the_queue_that_feeds_check_keys_has_a_dead_letter_queue(rendered_template: Template) -> None:
    assert template_rules.check_queue_problems(rendered_template) == []


def test_every_queue_has_a_dead_letter_queue_or_is_one(rendered_template: Template) -> None:
    assert template_rules.dead_letter_problems(rendered_template) == []


def test_tables_are_restorable_on_demand_and_forget(rendered_template: Template) -> None:
    assert template_rules.table_problems(rendered_template) == []


# Each rule is shown to fail on the real template with one thing changed.


def _first(template: Template, kind: str) -> Properties:
    return next(resource["Properties"] for resource in template["Resources"].values() if resource["Type"] == kind)


@pytest.mark.parametrize(
    ("rule", "kind", "change"),
    [
        pytest.param(
            template_rules.runtime_problems,
            "AWS::Lambda::Function",
            lambda function: function.update(Runtime="python3.12"),
            id="old-runtime",
        ),
        pytest.param(
            template_rules.runtime_problems,
            "AWS::Lambda::Function",
            lambda function: function.pop("Architectures"),
            id="default-architecture",
        ),
        pytest.param(
            template_rules.wildcard_action_problems,
            "AWS::IAM::Role",
            lambda role: role.update(
                Policies=[
                    {
                        "PolicyName": "broad",
                        "PolicyDocument": {
                            "Statement": [{"Effect": "Allow", "Action": ["kms:Decrypt", "sqs:*"], "Resource": "*"}]
                        },
                    }
                ]
            ),
            id="wildcard-action",
        ),
        pytest.param(
            template_rules.route_problems,
            "AWS::ApiGatewayV2::Route",
            lambda route: route.pop("AuthorizationType"),
            id="open-route",
        ),
        pytest.param(
            template_rules.table_problems,
            "AWS::DynamoDB::Table",
            lambda table: table.pop("PointInTimeRecoverySpecification"),
            id="no-point-in-time-recovery",
        ),
        pytest.param(
            template_rules.table_problems,
            "AWS::DynamoDB::Table",
            lambda table: table.update(BillingMode="PROVISIONED"),
            id="provisioned",
        ),
        pytest.param(
            template_rules.table_problems,
            "AWS::DynamoDB::Table",
            lambda table: table.pop("TimeToLiveSpecification"),
            id="no-time-to-live",
        ),
    ],
)
def test_a_rule_finds_its_mistake(
    rendered_template: Template,
    rule: Callable[[Template], list[str]],
    kind: str,
    change: Callable[[Properties], object],
) -> None:
    template = copy.deepcopy(rendered_template)
    change(_first(template, kind))
    assert len(rule(template)) == 1


def test_a_check_queue_without_a_dead_letter_queue_is_found(rendered_template: Template) -> None:
    template = copy.deepcopy(rendered_template)
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::SQS::Queue":
            resource.get("Properties", {}).pop("RedrivePolicy", None)
    assert len(template_rules.check_queue_problems(template)) == 1
    assert template_rules.dead_letter_problems(template)


def test_a_queue_that_nothing_catches_is_found(rendered_template: Template) -> None:
    template = copy.deepcopy(rendered_template)
    template["Resources"]["Lonely"] = {"Type": "AWS::SQS::Queue"}
    assert template_rules.dead_letter_problems(template) == ["Lonely: neither has a dead-letter queue nor is one"]


def test_a_log_group_that_keeps_everything_is_found(
    rendered_template: Template, source_template: SourceTemplate
) -> None:
    template = copy.deepcopy(rendered_template)
    function = _first(template, "AWS::Lambda::Function")
    template["Resources"][function["LoggingConfig"]["LogGroup"]["Ref"]]["Properties"].pop("RetentionInDays")
    assert len(template_rules.log_group_problems(template, source_template.resources)) == 1


def test_a_function_without_a_log_group_is_found(rendered_template: Template, source_template: SourceTemplate) -> None:
    template = copy.deepcopy(rendered_template)
    _first(template, "AWS::Lambda::Function").pop("LoggingConfig")
    assert len(template_rules.log_group_problems(template, source_template.resources)) == 1
