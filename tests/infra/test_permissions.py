"""``docs/permissions.md`` and the rendered template say the same, and each permission has its reason."""

import copy
from typing import Any

import pytest

from tests.infra.permissions import granted, permission_problems
from tests.infra.source_template import ROOT, Template

PAGE = ROOT / "docs" / "permissions.md"


def test_every_permission_is_documented_with_its_reason_and_none_that_is_not_granted(full_template: Template) -> None:
    assert len(granted(full_template)) > 80
    assert permission_problems(full_template, PAGE.read_text()) == []


def test_nothing_optional_is_granted_to_a_stack_that_did_not_ask_for_it(
    plain_template: Template, full_template: Template
) -> None:
    only_on_request = set(granted(full_template)) - set(granted(plain_template))
    assert {each.action.partition(":")[0] for each in only_on_request} == {"iam", "kms", "ssm", "xray"}
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
    assert problem.startswith("not documented: Permission(role='LockClusterRole', action='sqs:PurgeQueue'")


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
    assert problem.startswith("not granted: Permission(role='MonitorRole', action='sts:AssumeRole'")


def test_a_permission_without_a_reason_is_found(full_template: Template) -> None:
    page = PAGE.read_text().replace("| marks the row as sent |", "| needed |")
    [problem] = permission_problems(full_template, page)
    assert problem.startswith("no reason: Permission(role='RelayOutboxRole', action='dynamodb:PutItem'")


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
