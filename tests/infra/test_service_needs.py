"""Every permission has somebody who misses it, and what only AWS can miss is derived from the rendered template."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from tests.infra.permissions import Permission, granted, grants, without
from tests.infra.service_needs import NEEDS, needed_by_aws, row, unmet_needs
from tests.infra.source_template import ROOT, Template
from tests.permissions import drills
from tests.permissions.coverage import coverage_problems
from tests.permissions.drill import DRILLS, Drill

PAGE = ROOT / "docs" / "permissions.md"
LISTED = "## What only AWS can miss"

_ = drills  # importing them adds them


def all_drills() -> list[Drill]:
    return list(DRILLS.values())


def less(template: Template, permission: Permission) -> Template:
    """The template without one permission."""
    reduced = copy.deepcopy(template)
    resources = reduced["Resources"]
    [grant] = [each for each in grants(template) if each.permission == permission]
    properties = resources[permission.role]["Properties"]
    if resources[permission.role]["Type"] in {"AWS::Lambda::Permission", "AWS::Events::EventBusPolicy"}:
        del resources[permission.role]
    elif not grant.policy:
        properties["PolicyDocument"] = without(properties["PolicyDocument"], {grant.place})
    elif grant.policy in [each["PolicyName"] for each in properties["Policies"]]:
        [policy] = [each for each in properties["Policies"] if each["PolicyName"] == grant.policy]
        policy["PolicyDocument"] = without(policy["PolicyDocument"], {grant.place})
    else:  # a policy that stands apart, for several roles
        [apart] = [
            each["Properties"] for each in resources.values() if each["Properties"].get("PolicyName") == grant.policy
        ]
        apart["Roles"].remove({"Ref": permission.role})
        narrower = without(apart["PolicyDocument"], {grant.place})
        properties["Policies"].append({"PolicyName": grant.policy, "PolicyDocument": narrower})
    return reduced


def test_each_permission_is_missed_by_a_drill_or_by_aws_itself(
    plain_template: Template, full_template: Template
) -> None:
    assert coverage_problems(plain_template, full_template, all_drills()) == []


def test_what_aws_needs_is_granted(plain_template: Template, full_template: Template) -> None:
    assert unmet_needs(plain_template) == []
    assert unmet_needs(full_template) == []


def test_each_permission_that_only_aws_can_miss_leaves_a_need_unmet_when_it_is_taken_away(
    full_template: Template,
) -> None:
    needed = needed_by_aws(full_template)
    assert len(needed) > 80
    for permission in needed:
        reduced = less(full_template, permission)
        assert set(granted(full_template)) - set(granted(reduced)) == {permission}
        problems = unmet_needs(reduced)
        assert len(problems) == 1, (permission, problems)
        assert problems[0].endswith(f"{permission.action} on {permission.on}")


def test_every_need_is_of_use(full_template: Template) -> None:
    for need in NEEDS:
        assert list(need.find(full_template)), f"{need.name}: nothing in the template needs it any more"
        assert need.source.startswith("https://docs.aws.amazon.com/"), need.name


def test_the_page_lists_what_only_aws_can_miss(full_template: Template) -> None:
    _, _, section = PAGE.read_text().partition(LISTED)
    listed = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    assert listed[1:] == [row(need, full_template) for need in NEEDS]


# ---------------------------------------------------------------------------------------------- planted mistakes


def _statements(template: Template, role: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = template["Resources"][role]["Properties"]["Policies"][0]["PolicyDocument"][
        "Statement"
    ]
    return found


def _problems(full: Template, plain: Template | None = None) -> list[str]:
    return coverage_problems(plain or full, full, all_drills())


def test_a_permission_that_nobody_misses_is_found_and_told_what_to_do_about(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    queue = {"Fn::GetAtt": ["CheckQueue", "Arn"]}
    _statements(template, "LockClusterRole").append({"Effect": "Allow", "Action": "sqs:PurgeQueue", "Resource": queue})
    [problem] = _problems(template, plain=full_template_less_key(full_template))
    assert problem.startswith("LockClusterRole: sqs:PurgeQueue on CheckQueue: nobody misses it; let a drill in")


def full_template_less_key(full_template: Template) -> Template:
    """Stands for the plain template, where what is granted with a key only is of no matter."""
    return {**full_template, "Resources": {}}


@pytest.mark.parametrize(
    ("role", "statement", "found"),
    [
        (
            "SettleLockoutRole",
            {"Action": "sqs:ReceiveMessage", "Resource": {"Fn::GetAtt": ["CheckQueue", "Arn"]}},
            "SettleLockoutRole: sqs:ReceiveMessage on CheckQueue",
        ),
        (
            "SettleLockoutRole",
            {"Action": "logs:PutLogEvents", "Resource": {"Fn::GetAtt": ["CheckKeysLogs", "Arn"]}},
            "SettleLockoutRole: logs:PutLogEvents on CheckKeysLogs",
        ),
        (
            "RecoveryStateMachineRole",
            {"Action": "lambda:InvokeFunction", "Resource": {"Fn::GetAtt": ["LockClusterFunction", "Arn"]}},
            "RecoveryStateMachineRole: lambda:InvokeFunction on LockClusterFunction",
        ),
        (
            "SweepScheduleRole",
            {
                "Action": "kms:Decrypt",
                "Resource": {"Ref": "KmsKeyArn"},
                "Condition": {"StringEquals": {"kms:ViaService": {"Fn::Sub": "sns.${AWS::Region}.amazonaws.com"}}},
            },
            "SweepScheduleRole: kms:Decrypt on the stack's key through sns",
        ),
    ],
)
def test_what_aws_needs_of_one_role_is_not_needed_of_another(
    full_template: Template, role: str, statement: dict[str, Any], found: str
) -> None:
    template = copy.deepcopy(full_template)
    _statements(template, role).append({"Effect": "Allow", **statement})
    problems = _problems(template, plain=full_template_less_key(full_template))
    assert [problem.partition(": nobody")[0] for problem in problems if ": nobody" in problem] == [found]


def test_somebody_whom_a_resource_lets_in_for_nothing_is_found(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    template["Resources"]["BucketMayInvoke"] = {
        "Type": "AWS::Lambda::Permission",
        "Properties": {
            "FunctionName": {"Ref": "CheckKeysFunction"},
            "Action": "lambda:InvokeFunction",
            "Principal": "s3.amazonaws.com",
        },
    }
    [problem] = _problems(template, plain=full_template_less_key(full_template))
    assert problem.startswith("BucketMayInvoke: lambda:InvokeFunction on CheckKeysFunction by s3: nobody misses it")


def test_a_drill_for_a_permission_that_is_gone_is_found(full_template: Template, plain_template: Template) -> None:
    [assume] = [each for each in granted(full_template) if each.action == "sts:AssumeRole"]
    assert _problems(less(full_template, assume), plain_template) == [
        f"{assume}: a drill misses it, and nobody grants it"
    ]


def test_a_permission_that_a_drill_and_aws_are_said_to_miss_is_found(
    full_template: Template, plain_template: Template
) -> None:
    logs = Permission("MonitorRole", "logs:PutLogEvents", "CheckKeysLogs")
    wrong = Drill("one", lambda _scene: None, (logs,), with_key=False)
    problems = coverage_problems(plain_template, full_template, [*all_drills(), wrong])
    assert problems == [f"{logs}: a drill misses it, so it is not only AWS that can"]


def test_a_permission_that_two_drills_claim_is_found(full_template: Template, plain_template: Template) -> None:
    claimed = Permission("MonitorRole", "dynamodb:Query", "Table")
    again = Drill("one", lambda _scene: None, (claimed,), with_key=False)
    problems = coverage_problems(plain_template, full_template, [*all_drills(), again])
    assert problems == [f"{claimed}: more than one drill says that it misses it"]


def test_a_permission_that_is_granted_without_a_key_and_missed_only_with_one_is_found(full_template: Template) -> None:
    drills = [replace(each, with_key=each.with_faults) for each in all_drills()]
    problems = coverage_problems(full_template, full_template, drills)
    assert [problem.partition(":")[0] for problem in problems] == ["RegistryApiRole"] * 2
    assert all("put it under the condition KeyIsGiven" in problem for problem in problems)


def test_a_need_that_the_template_brings_with_it_is_unmet_until_it_is_granted(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    template["Resources"]["RelayOutboxFunction"]["Properties"]["Role"] = {"Fn::GetAtt": ["LockClusterRole", "Arn"]}
    unmet = unmet_needs(template)
    assert "a stream that Lambda reads: LockClusterRole: dynamodb:GetRecords on Table's stream" in unmet
    assert "a failure destination: LockClusterRole: sqs:SendMessage on OutboxDeadLetters" in unmet
    assert "a function's log: LockClusterRole: logs:PutLogEvents on RelayOutboxLogs" in unmet


def test_an_integration_of_a_function_that_does_not_let_the_api_in_is_found(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    uri = {"Fn::GetAtt": ["CheckKeysFunction", "Arn"]}
    template["Resources"]["ApiIntegration"]["Properties"]["IntegrationUri"] = uri
    [unmet] = unmet_needs(template)
    assert unmet.endswith(
        "(an AWS::Lambda::Permission): lambda:InvokeFunction on CheckKeysFunction by apigateway, from Api/*"
    )


def test_a_rule_that_its_function_does_not_let_in_is_found(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    [target] = template["Resources"]["ReceiveKeyEventFunctionIamCalls"]["Properties"]["Targets"]
    target["Arn"] = {"Fn::GetAtt": ["CheckKeysFunction", "Arn"]}
    [unmet] = unmet_needs(template)
    assert unmet.endswith("on CheckKeysFunction by events, from ReceiveKeyEventFunctionIamCalls")


@pytest.mark.parametrize(
    ("renamed", "words"), [("ReceiveKeyEventFunctionIamCalls", "on the default bus"), ("IntakeBus", "on a bus")]
)
def test_a_rule_whose_name_the_dead_letters_do_not_take_is_found(
    full_template: Template, renamed: str, words: str
) -> None:
    template = copy.deepcopy(full_template)
    template["Resources"][renamed]["Properties"]["Name"] = {"Fn::Sub": f"mine-{words}"}
    [unmet] = unmet_needs(template)
    assert unmet.endswith(f"sqs:SendMessage on EventDeadLetters by events, from rule/mine-{words}*")


def test_accounts_that_are_trusted_and_not_let_in_are_found(full_template: Template, plain_template: Template) -> None:
    unmet = unmet_needs(_given(plain_template, full_template, "TrustedEventAccounts", "TrustedEventOrganization"))
    assert [each.partition(": (")[0] for each in unmet] == ["events that customers forward"] * 2


def test_runbooks_that_are_allowed_and_not_granted_are_found(full_template: Template, plain_template: Template) -> None:
    unmet = unmet_needs(_given(plain_template, full_template, "AllowRunbooks"))
    assert [each.partition(" on ")[0] for each in unmet] == [
        *["runbooks: CallReceiverRole: ssm:StartAutomationExecution"] * 3,
        "runbooks: CallReceiverRole: ssm:GetAutomationExecution",
        "runbooks: CallReceiverRole: iam:PassRole",
    ]


def _given(plain_template: Template, full_template: Template, *names: str) -> Template:
    """The plain template's resources, as if these parameters had been given."""
    given = {name: full_template["Parameters"][name] for name in names}
    return {**plain_template, "Parameters": {**plain_template["Parameters"], **given}}


def test_a_step_or_a_schedule_that_nobody_knows_the_needs_of_is_refused(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    template["Resources"]["SweepSchedule"]["Properties"]["Target"]["Arn"] = {"Fn::GetAtt": ["CheckQueue", "Arn"]}
    with pytest.raises(ValueError, match="CheckQueue, which is no function"):
        needed_by_aws(template)
