"""``docs/permissions.md`` and the rendered template say the same, and each permission has its reason."""

import copy
from typing import Any

import pytest

from tests.infra.permissions import granted, grants, permission_problems, without
from tests.infra.source_template import ROOT, Template

PAGE = ROOT / "docs" / "permissions.md"


def test_every_permission_is_documented_with_its_reason_and_none_that_is_not_granted(full_template: Template) -> None:
    assert len(granted(full_template)) > 80
    assert permission_problems(full_template, PAGE.read_text()) == []


def test_nothing_optional_is_granted_to_a_stack_that_did_not_ask_for_it(
    plain_template: Template, full_template: Template
) -> None:
    only_on_request = set(granted(full_template)) - set(granted(plain_template))
    assert {each.action.partition(":")[0] for each in only_on_request} == {
        "events",
        "iam",
        "kms",
        "securityhub",
        "ssm",
        "xray",
    }
    assert {each.role for each in only_on_request if each.action.startswith("events:")} == {
        "IntakeFromAccounts",
        "IntakeFromOrganization",
    }
    assert set(granted(plain_template)) < set(granted(full_template))


def _statements(template: Template, role: str) -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = template["Resources"][role]["Properties"]["Policies"][0]["PolicyDocument"][
        "Statement"
    ]
    return statements


def test_an_action_that_the_page_does_not_know_is_found(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    _statements(template, "LockClusterRole").append(
        {"Effect": "Allow", "Action": ["sqs:PurgeQueue"], "Resource": {"Fn::GetAtt": ["CheckQueue", "Arn"]}}
    )
    [problem] = permission_problems(template, PAGE.read_text())
    assert problem.startswith("not documented: LockClusterRole: sqs:PurgeQueue")


def test_a_wider_resource_than_the_page_says_is_found_from_both_sides(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    statement = next(each for each in _statements(template, "RelayOutboxRole") if each["Action"] == "sns:Publish")
    statement["Resource"] = "*"
    problems = permission_problems(template, PAGE.read_text())
    assert [problem.partition(":")[0] for problem in problems] == ["not documented", "not granted"]


def test_a_policy_that_stands_apart_from_its_role_counts(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    template["Resources"]["TracingPolicy"]["Properties"]["Roles"].append({"Ref": "SweepScheduleRole"})
    assert len(permission_problems(template, PAGE.read_text())) == 2


def test_a_permission_that_is_gone_from_the_template_is_found_on_the_page(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    _statements(template, "MonitorRole").pop()
    [problem] = permission_problems(template, PAGE.read_text())
    assert problem.startswith("not granted: MonitorRole: sts:AssumeRole")


def test_a_permission_without_a_reason_is_found(full_template: Template) -> None:
    page = PAGE.read_text().replace("| marks the row as sent |", "| needed |")
    [problem] = permission_problems(full_template, page)
    assert problem.startswith("no reason: RelayOutboxRole: dynamodb:PutItem")


def test_a_permission_that_is_granted_twice_is_found(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    statements = _statements(template, "MonitorRole")
    statements.append(statements[0])
    assert [problem.partition(":")[0] for problem in permission_problems(template, PAGE.read_text())] == [
        "granted twice"
    ] * 2


@pytest.mark.parametrize("role", ["MonitorRole", "RegistryApiRole"])
def test_a_managed_policy_which_says_nothing_here_is_refused(full_template: Template, role: str) -> None:
    template = copy.deepcopy(full_template)
    template["Resources"][role]["Properties"]["ManagedPolicyArns"] = ["arn:aws:iam::aws:policy/ReadOnlyAccess"]
    with pytest.raises(ValueError, match=role):
        granted(template)


def test_somebody_whom_a_resource_lets_in_counts(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    template["Resources"]["ApiMayInvoke"]["Properties"]["Principal"] = "events.amazonaws.com"
    problems = permission_problems(template, PAGE.read_text())
    assert problems == [
        "not documented: ApiMayInvoke: lambda:InvokeFunction on RegistryApiFunction by events, from Api/*",
        "not granted: ApiMayInvoke: lambda:InvokeFunction on RegistryApiFunction by apigateway, from Api/*",
    ]


@pytest.mark.parametrize(
    ("principal", "condition", "words"),
    [
        ("*", {"StringEquals": {"aws:PrincipalOrgID": {"Ref": "Organization"}}}, "Bus by anybody, of Organization"),
        ({"AWS": {"Ref": "Accounts"}}, None, "Bus by Accounts"),
        ({"AWS": ["111111111111", "222222222222"]}, None, "Bus by 111111111111, 222222222222"),
        (
            {"Service": "sns.amazonaws.com"},
            {"ArnLike": {"aws:SourceArn": {"Ref": "Topic"}}},
            "Bus by sns, from Topic",
        ),
        (
            {"AWS": {"Ref": "Accounts"}},
            {
                "Bool": {"events:eventBusInvocation": "true"},
                "ForAllValues:StringEquals": {"events:source": ["aws.kms", "aws.iam"]},
                "Null": {"events:source": "false"},
            },
            "Bus by Accounts, through a bus of theirs, aws.kms and aws.iam only",
        ),
        (
            {"AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}},
            None,
            "Bus by this account's IAM",
        ),
    ],
)
def test_whom_a_resource_lets_in_is_said_in_words(principal: Any, condition: Any, words: str) -> None:
    statement = {"Effect": "Allow", "Principal": principal, "Action": "events:PutEvents", "Resource": {"Ref": "Bus"}}
    if condition is not None:
        statement["Condition"] = condition
    policy = {"Type": "AWS::Events::EventBusPolicy", "Properties": {"StatementId": "x", "Statement": statement}}
    assert granted({"Resources": {"Intake": policy}}) == [("Intake", "events:PutEvents", words)]


@pytest.mark.parametrize(
    "resource",
    [
        {"Type": "AWS::S3::BucketPolicy", "Properties": {"PolicyDocument": {"Statement": []}}},
        {"Type": "AWS::S3Express::BucketPolicy", "Properties": {"ResourcePolicy": {"Statement": []}}},
        {
            "Type": "AWS::KMS::Key",
            "Properties": {
                "KeyPolicy": {
                    "Statement": [
                        {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": {"Ref": "AnotherKey"}}
                    ]
                }
            },
        },
        {
            "Type": "AWS::Events::EventBusPolicy",
            "Properties": {
                "StatementId": "x",
                "Statement": {
                    "Effect": "Allow",
                    "Principal": "*",
                    "Action": "events:PutEvents",
                    "Resource": {"Ref": "Bus"},
                    "Condition": {"Bool": {"events:eventBusInvocation": "false"}},
                },
            },
        },
        {
            "Type": "AWS::Lambda::Permission",
            "Properties": {"FunctionName": "f", "Action": "lambda:InvokeFunction", "Principal": "222222222222"},
        },
        {
            "Type": "AWS::SQS::QueuePolicy",
            "Properties": {
                "PolicyDocument": {
                    "Statement": [
                        {
                            "Effect": "Allow",
                            "Principal": "*",
                            "Action": "sqs:SendMessage",
                            "Resource": "q",
                            "Condition": {"Bool": {"aws:SecureTransport": "true"}},
                        }
                    ]
                }
            },
        },
    ],
)
def test_a_policy_of_a_resource_that_cannot_be_read_is_refused_and_not_overlooked(resource: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"nobody reads yet|no words"):
        granted({"Resources": {"Something": resource}})


POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["a:One", "a:Two"], "Resource": ["x", "y"], "Condition": {"some": "condition"}},
        {"Effect": "Allow", "Action": "b:One", "Resource": "z"},
    ],
}


def allowed(document: dict[str, Any]) -> set[tuple[str, str, str]]:
    def several(value: Any) -> list[str]:
        return value if isinstance(value, list) else [value]

    return {
        (action, resource, str(statement.get("Condition")))
        for statement in document["Statement"]
        for action in several(statement["Action"])
        for resource in several(statement["Resource"])
    }


@pytest.mark.parametrize(
    "taken",
    [
        {(0, "a:One", 0)},
        {(0, "a:Two", 1)},
        {(0, "a:One", 0), (0, "a:One", 1)},
        {(0, "a:One", 0), (0, "a:Two", 1), (1, "b:One", 0)},
        {(1, "b:One", 0)},
        set(),
    ],
)
def test_a_policy_without_something_allows_all_the_rest_under_the_same_conditions(
    taken: set[tuple[int, str, int]],
) -> None:
    things = [["x", "y"], ["z"]]
    gone = {(action, things[statement][resource]) for statement, action, resource in taken}
    left = allowed(without(POLICY, taken))
    assert left == {each for each in allowed(POLICY) if each[:2] not in gone}
    assert len(allowed(POLICY)) - len(left) == len(taken)


def test_every_grant_of_a_role_can_be_found_where_it_stands(full_template: Template) -> None:
    for grant in (each for each in grants(full_template) if each.policy):
        resource = full_template["Resources"][grant.permission.role]["Properties"]
        policies = {policy["PolicyName"]: policy["PolicyDocument"] for policy in resource["Policies"]} | {
            each["Properties"]["PolicyName"]: each["Properties"]["PolicyDocument"]
            for each in full_template["Resources"].values()
            if each["Type"] == "AWS::IAM::Policy"
        }
        before = policies[grant.policy]
        assert len(allowed_raw(before)) - len(allowed_raw(without(before, {grant.place}))) == 1


def allowed_raw(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (action, str(resource))
        for statement in document["Statement"]
        for action in (statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]])
        for resource in (statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]])
    ]
