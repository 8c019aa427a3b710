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
