"""``template.yaml`` as CloudFormation gets it: compared with what was agreed, and held to the house rules."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension

from keyvigil.domain.lock_calls import CALL_SECONDS
from keyvigil.domain.lock_settings import OWN_FUNCTIONS_IN_PREFIX
from tests.infra import template_rules
from tests.infra.source_template import ROOT, SourceTemplate, Template

type Properties = dict[str, Any]

SOURCE = ROOT / "template.yaml"
ALERTS = ROOT / "docs" / "alerts.md"


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


def test_the_canary_is_a_customer_like_any_other(rendered_template: Template) -> None:
    assert template_rules.canary_problems(rendered_template) == []


def _trust(role: Properties) -> Properties:
    statement: Properties = role["AssumeRolePolicyDocument"]["Statement"][0]
    return statement


@pytest.mark.parametrize(
    ("logical_id", "change"),
    [
        pytest.param(
            "CanaryRole",
            lambda role: _trust(role).update(Principal={"AWS": {"Fn::GetAtt": ["MonitorRole", "Arn"]}}),
            id="the role itself",
        ),
        pytest.param("CanaryRole", lambda role: _trust(role)["Condition"].pop("ArnLike"), id="anybody here"),
        pytest.param(
            "CanaryRole",
            lambda role: _trust(role)["Condition"]["StringEquals"].update({"sts:ExternalId": "another"}),
            id="another ExternalId",
        ),
        pytest.param(
            "CanaryRole",
            lambda role: role["Policies"][0]["PolicyDocument"]["Statement"][0].update(Resource="*"),
            id="every key",
        ),
        pytest.param("CanaryKey", lambda key: key.pop("EnableKeyRotation"), id="no rotation"),
        pytest.param(
            "CanaryKey",
            lambda key: key["KeyPolicy"]["Statement"].append(
                {"Effect": "Allow", "Action": "kms:Encrypt", "Principal": {"AWS": "role"}, "Resource": "*"}
            ),
            id="more than IAM",
        ),
    ],
)
def test_a_canary_that_is_no_customer_is_found(
    rendered_template: Template, logical_id: str, change: Callable[[Properties], object]
) -> None:
    template = copy.deepcopy(rendered_template)
    change(template["Resources"][logical_id]["Properties"])
    problems = template_rules.canary_problems(template)
    assert [problem.partition(":")[0] for problem in problems] == [logical_id]


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


def test_each_workflow_logs_its_errors_to_a_group_beside_it(
    full_template: Template, source_template: SourceTemplate
) -> None:
    assert template_rules.workflow_log_problems(full_template, source_template.resources) == []


@pytest.mark.parametrize(
    ("logical_id", "change", "problem"),
    [
        pytest.param(
            "LockoutStateMachine",
            lambda machine: machine.pop("LoggingConfiguration"),
            ["does not log its errors, without execution data", "logs to no log group of the template"],
            id="no-logs",
        ),
        pytest.param(
            "RecoveryStateMachine",
            lambda machine: machine["LoggingConfiguration"].update(IncludeExecutionData=True),
            ["does not log its errors, without execution data"],
            id="execution-data",
        ),
        pytest.param(
            "RecoveryStateMachineLogs",
            lambda group: group.pop("RetentionInDays"),
            ["keeps logs for ever"],
            id="for-ever",
        ),
    ],
)
def test_a_workflow_that_logs_too_much_or_nothing_is_found(
    full_template: Template,
    source_template: SourceTemplate,
    logical_id: str,
    change: Callable[[Properties], object],
    problem: list[str],
) -> None:
    template = copy.deepcopy(full_template)
    change(template["Resources"][logical_id]["Properties"])
    found = template_rules.workflow_log_problems(template, source_template.resources)
    assert found == [f"{logical_id}: {each}" for each in problem]


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


def test_what_is_called_without_waiting_has_a_place_for_what_fails(full_template: Template) -> None:
    assert template_rules.failure_destination_problems(full_template) == []


def test_the_operator_hears_of_every_function_workflow_and_queue_that_fails(full_template: Template) -> None:
    assert template_rules.alarm_problems(full_template) == []


def test_every_alarm_tells_the_operator_and_always_has_a_state(full_template: Template) -> None:
    assert template_rules.deaf_alarm_problems(full_template) == []


def test_somebody_hears_of_the_heartbeat_the_canaries_stale_keys_and_what_waits(full_template: Template) -> None:
    assert template_rules.sign_of_life_problems(full_template) == []


def test_every_alarm_names_the_page_that_says_what_to_do(full_template: Template) -> None:
    assert template_rules.runbook_problems(full_template, ALERTS.read_text()) == []


def test_the_queue_leaves_room_for_the_probes_of_the_api_and_the_workflows(full_template: Template) -> None:
    assert template_rules.concurrency_problems(full_template) == []


def test_a_low_account_limit_can_do_without_reserved_concurrency(
    source_template: SourceTemplate, rendered_template: Template
) -> None:
    without = source_template.resolve(rendered_template, ReserveConcurrency="false")
    assert "ReservedConcurrentExecutions" not in json.dumps(without["Resources"])


def test_a_queue_hides_a_message_for_six_times_its_functions_time_out(full_template: Template) -> None:
    assert template_rules.visibility_problems(full_template) == []


def test_what_makes_probes_is_throttled_more_than_the_rest_of_the_api(full_template: Template) -> None:
    assert template_rules.throttling_problems(full_template) == []


def test_with_tracing_on_everything_that_runs_traces(full_template: Template) -> None:
    assert template_rules.tracing_problems(full_template) == []


def test_without_tracing_nobody_may_send_traces_and_nothing_loads_the_tracer(plain_template: Template) -> None:
    assert "xray:" not in json.dumps(plain_template["Resources"])
    code = [*ROOT.glob("functions/*/app.py"), *ROOT.glob("layers/keyvigil/keyvigil/**/*.py")]
    assert len(code) > 10
    assert [path for path in code if "Tracer" in path.read_text()] == []


def test_every_wildcard_resource_has_a_written_reason() -> None:
    assert template_rules.wildcard_resource_problems(SOURCE.read_text()) == []


def unexplained_exceptions(configuration: str) -> list[str]:
    """What checkov is told to skip without a comment right above it."""
    lines = configuration.splitlines()
    return [
        line.strip("- ")
        for number, line in enumerate(lines)
        if line.lstrip().startswith("- CKV") and not lines[number - 1].lstrip().startswith("#")
    ]


def test_what_checkov_does_not_look_at_has_its_reason(source_template: SourceTemplate) -> None:
    configuration = (ROOT / ".checkov.yaml").read_text()
    assert "- CKV" in configuration
    assert unexplained_exceptions(configuration) == []
    assert unexplained_exceptions("skip-check:\n  - CKV_AWS_1\n  # why\n  - CKV_AWS_2") == ["CKV_AWS_1"]
    skipped = {
        (logical_id, skip["id"]): skip["comment"]
        for logical_id, resource in source_template.resources.items()
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", [])
    }
    assert set(skipped) == {("OperatorTopic", "CKV_AWS_26")}
    assert all(len(reason.split()) > 3 for reason in skipped.values())


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
    assert len(template_rules.check_queue_problems(template)) == 2
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


@pytest.mark.parametrize(
    ("rule", "logical_id", "change", "problem"),
    [
        pytest.param(
            template_rules.failure_destination_problems,
            "SweepSchedule",
            lambda schedule: schedule["Target"].pop("DeadLetterConfig"),
            "SweepSchedule: has no dead-letter queue",
            id="schedule",
        ),
        pytest.param(
            template_rules.failure_destination_problems,
            "PlanSweepFunctionEventInvokeConfig",
            lambda config: config.pop("DestinationConfig"),
            "PlanSweepFunction: has no failure destination",
            id="scheduled-function",
        ),
        pytest.param(
            template_rules.failure_destination_problems,
            "RelayOutboxFunctionEventInvokeConfig",
            lambda config: config.pop("DestinationConfig"),
            "RelayOutboxFunction: has no failure destination",
            id="function-called-by-code",
        ),
        pytest.param(
            template_rules.failure_destination_problems,
            "RelayOutboxFunctionNewOutboxRows",
            lambda mapping: mapping.pop("DestinationConfig"),
            "RelayOutboxFunctionNewOutboxRows: has no failure destination",
            id="stream",
        ),
        pytest.param(
            template_rules.alarm_problems,
            "LockClusterErrorsAlarm",
            lambda alarm: alarm.update(MetricName="Invocations"),
            "LockClusterFunction: no alarm on Errors",
            id="errors",
        ),
        pytest.param(
            template_rules.alarm_problems,
            "CheckKeysThrottlesAlarm",
            lambda alarm: alarm.pop("AlarmActions"),
            "CheckKeysFunction: no alarm on Throttles",
            id="alarm-that-tells-nobody",
        ),
        pytest.param(
            template_rules.alarm_problems,
            "RecoveryFailedAlarm",
            lambda alarm: alarm.update(Dimensions=[]),
            "RecoveryStateMachine: no alarm on ExecutionsFailed",
            id="workflow",
        ),
        pytest.param(
            template_rules.alarm_problems,
            "CheckQueueAgeAlarm",
            lambda alarm: alarm.update(Namespace="KeyVigil"),
            "CheckQueue: no alarm on ApproximateAgeOfOldestMessage",
            id="oldest-message",
        ),
        pytest.param(
            template_rules.alarm_problems,
            "OutboxDeadLettersAlarm",
            lambda alarm: alarm.update(Namespace="KeyVigil"),
            "OutboxDeadLetters: no alarm on ApproximateNumberOfMessagesVisible",
            id="dead-letters",
        ),
        pytest.param(
            template_rules.deaf_alarm_problems,
            "CheckQueueAgeAlarm",
            lambda alarm: alarm.pop("TreatMissingData"),
            "CheckQueueAgeAlarm: has no state while there is no data",
            id="insufficient-data",
        ),
        pytest.param(
            template_rules.deaf_alarm_problems,
            "CanaryAlarm",
            lambda alarm: alarm.pop("OKActions"),
            "CanaryAlarm: OKActions do not tell the operator",
            id="an-end-that-nobody-hears-of",
        ),
        pytest.param(
            template_rules.deaf_alarm_problems,
            "CanaryAlarm",
            lambda alarm: alarm.update(ActionsEnabled=False),
            "CanaryAlarm: its actions are switched off",
            id="switched-off",
        ),
        pytest.param(
            template_rules.sign_of_life_problems,
            "SweepMissedAlarm",
            lambda alarm: alarm.update(TreatMissingData="notBreaching"),
            "no alarm on SweepsDone, missing data breaching",
            id="silence-is-not-alarming",
        ),
        pytest.param(
            template_rules.sign_of_life_problems,
            "OutboxAgeAlarm",
            lambda alarm: alarm.update(Dimensions=[{"Name": "service", "Value": "relay_outbox"}]),
            "no alarm on OldestUnsentRow, missing data notBreaching",
            id="a-metric-that-nobody-publishes",
        ),
        pytest.param(
            template_rules.concurrency_problems,
            "PlanSweepFunction",
            lambda function: function.pop("ReservedConcurrentExecutions"),
            "PlanSweepFunction: has no concurrency of its own",
            id="nothing-reserved",
        ),
        pytest.param(
            template_rules.concurrency_problems,
            "CheckKeysFunctionQueue",
            lambda mapping: mapping["ScalingConfig"].update(MaximumConcurrency=46),
            "CheckKeysFunctionQueue: may take 46 of 65",
            id="queue-takes-too-much",
        ),
        pytest.param(
            template_rules.concurrency_problems,
            "CheckKeysFunctionSlowQueue",
            lambda mapping: mapping["ScalingConfig"].update(MaximumConcurrency=36),
            "CheckKeysFunction: its queues may take 46 of 65",
            id="queues-together-take-too-much",
        ),
        pytest.param(
            template_rules.concurrency_problems,
            "CheckKeysFunctionQueue",
            lambda mapping: mapping.pop("ScalingConfig"),
            "CheckKeysFunctionQueue: may take all of 65",
            id="queue-takes-all",
        ),
        pytest.param(
            template_rules.visibility_problems,
            "CheckQueue",
            lambda queue: queue.update(VisibilityTimeout=179),
            "CheckQueue: hides messages for less than 180 s",
            id="visibility",
        ),
        pytest.param(
            template_rules.throttling_problems,
            "ApiStage",
            lambda stage: stage["RouteSettings"].pop("POST /projects/{project_id}/keys"),
            "ApiStage: POST /projects/{project_id}/keys is not throttled more than the rest",
            id="probing-route",
        ),
        pytest.param(
            template_rules.throttling_problems,
            "CheckRoute",
            lambda route: route.update(RouteKey="ANY /elsewhere"),
            "ApiStage: POST /projects/{project_id}/keys/{key_id}/check is no route of its own, "
            "so its throttling is refused",
            id="no-such-route",
        ),
        pytest.param(
            template_rules.throttling_problems,
            "ApiStage",
            lambda stage: stage.pop("AccessLogSettings"),
            "ApiStage: keeps no access log",
            id="access-log",
        ),
        pytest.param(
            template_rules.tracing_problems,
            "TracingPolicy",
            lambda policy: policy["Roles"].remove({"Ref": "MonitorRole"}),
            "MonitorRole: may not send traces",
            id="untraced-role",
        ),
        pytest.param(
            template_rules.tracing_problems,
            "LockClusterFunction",
            lambda function: function.pop("TracingConfig"),
            "LockClusterFunction: is not traced",
            id="untraced-function",
        ),
    ],
)
def test_a_rule_names_what_breaks_it(
    full_template: Template,
    rule: Callable[[Template], list[str]],
    logical_id: str,
    change: Callable[[Properties], object],
    problem: str,
) -> None:
    template = copy.deepcopy(full_template)
    change(template["Resources"][logical_id]["Properties"])
    assert rule(template) == [problem]


@pytest.mark.parametrize(
    ("description", "problem"),
    [("Something is wrong.", "no part"), ("See docs/alerts.md#nowhere", "['nowhere']")],
    ids=["no page", "no such part"],
)
def test_an_alarm_that_leaves_the_operator_alone_is_found(
    full_template: Template, description: str, problem: str
) -> None:
    template = copy.deepcopy(full_template)
    template["Resources"]["SweepMissedAlarm"]["Properties"]["AlarmDescription"] = description
    found = template_rules.runbook_problems(template, ALERTS.read_text())
    assert found == [f"SweepMissedAlarm: names {problem} of docs/alerts.md"]


STATEMENT = """
Statement:
  - Effect: Allow{beside}
    Action: states:SendTaskSuccess
    Resource: {resource}
"""


@pytest.mark.parametrize(
    ("resource", "beside", "found"),
    [
        pytest.param('"*"', "", True, id="no-reason"),
        pytest.param('"*"', "  # because", True, id="too-short-a-reason"),
        pytest.param("!Sub arn:${AWS::Partition}:iam::*:role/*", "", True, id="part-of-an-arn"),
        pytest.param('[!GetAtt Table.Arn, "*"]', "", True, id="one-of-several"),
        pytest.param('"*"', "  # Step Functions knows no resource for it", False, id="reason"),
        pytest.param("!GetAtt Table.Arn", "", False, id="no-wildcard"),
    ],
)
def test_a_wildcard_resource_without_a_reason_is_found(resource: str, beside: str, *, found: bool) -> None:
    source = STATEMENT.format(resource=resource, beside=beside)
    assert bool(template_rules.wildcard_resource_problems(source)) is found


def test_a_reason_may_stand_above_its_statement() -> None:
    source = STATEMENT.format(resource='"*"', beside="").replace(
        "  - Effect", "  # The token is the scope.\n  - Effect"
    )
    assert template_rules.wildcard_resource_problems(source) == []


# --- receivers --------------------------------------------------------------------------------------------------


def test_only_call_receiver_calls_what_tenants_name_and_only_within_the_prefixes(
    full_template: Template, plain_template: Template
) -> None:
    assert template_rules.receiver_problems(full_template) == []
    assert template_rules.receiver_problems(plain_template) == []


def _statement(template: Template, role: str, action: str, effect: str = "Allow") -> Properties:
    statements: list[Properties] = template["Resources"][role]["Properties"]["Policies"][0]["PolicyDocument"][
        "Statement"
    ]
    return next(each for each in statements if action in each["Action"] and each["Effect"] == effect)


@pytest.mark.parametrize(
    ("role", "action", "wider"),
    [
        ("CallReceiverRole", "lambda:InvokeFunction", "arn:${AWS::Partition}:lambda:*:*:function:*"),
        ("CallReceiverRole", "lambda:InvokeFunction", "arn:${AWS::Partition}:lambda:*:*:function:keyvigil-*"),
        ("CallReceiverRole", "secretsmanager:GetSecretValue", "arn:aws:secretsmanager:*:*:secret:*"),
        ("CallReceiverRole", "ssm:StartAutomationExecution", "arn:aws:ssm:us-west-2:1:document/*"),
        ("CallReceiverRole", "iam:PassRole", "arn:aws:iam::1:role/*"),
        ("RelayOutboxRole", "lambda:InvokeFunction", "arn:${AWS::Partition}:lambda:*:*:function:keyvigil-lock-*"),
    ],
)
def test_a_receiver_outside_the_prefixes_or_called_by_another_role_is_found(
    full_template: Template, role: str, action: str, wider: str
) -> None:
    template = copy.deepcopy(full_template)
    _statement(template, role, action)["Resource"] = {"Fn::Sub": wider}
    assert template_rules.receiver_problems(template) == [f"{role}: {action} on {wider}"]


def test_a_secret_read_by_another_role_is_found(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    statement = _statement(template, "CallReceiverRole", "secretsmanager:GetSecretValue")
    template["Resources"]["RegistryApiRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"].append(
        statement
    )
    [problem] = template_rules.receiver_problems(template)
    assert problem.startswith("RegistryApiRole: secretsmanager:GetSecretValue")


def test_a_role_that_is_passed_to_any_service_is_found(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    del _statement(template, "CallReceiverRole", "iam:PassRole")["Condition"]
    assert template_rules.receiver_problems(template) == ["CallReceiverRole: passes roles to every service"]


@pytest.mark.parametrize("which", [0, 1])
def test_a_stack_whose_own_function_could_be_named_as_a_receiver_is_found(full_template: Template, which: int) -> None:
    template = copy.deepcopy(full_template)
    del _statement(template, "CallReceiverRole", "lambda:InvokeFunction", "Deny")["Resource"][which]
    assert template_rules.receiver_problems(template) == ["CallReceiverRole: may invoke lock_cluster"]


def test_no_other_function_of_the_stack_stands_in_the_prefix_of_receivers(full_template: Template) -> None:
    names = [
        function["Properties"]["FunctionName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
        for function in full_template["Resources"].values()
        if function["Type"] == "AWS::Lambda::Function"
    ]
    assert tuple(name for name in names if name.startswith("lock-")) == OWN_FUNCTIONS_IN_PREFIX


def test_call_receiver_has_time_to_write_down_what_a_slow_receiver_answers(full_template: Template) -> None:
    assert template_rules.call_time_problems(full_template, CALL_SECONDS) == []
    template = copy.deepcopy(full_template)
    template["Resources"]["CallReceiverFunction"]["Properties"]["Timeout"] = CALL_SECONDS
    assert template_rules.call_time_problems(template, CALL_SECONDS) == ["CallReceiverFunction: ends after 100.0 s"]
