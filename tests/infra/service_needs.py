"""Permissions that AWS itself uses on our behalf, and the local cloud does without: no test there can miss them.

Each need is derived from what the template asks AWS to do (a log group, an event source, a schedule, a queue under a
key), never from the grant itself, and names the AWS page that asks for the permission. So a permission that only AWS
can miss is held here: take it away and a need is unmet; grant it to a role that has no such need and nothing says why.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.infra.permissions import Permission, granted
from tests.infra.source_template import ROOT, Template

type Find = Callable[[Template], Iterable[Permission]]

_LAMBDA = "https://docs.aws.amazon.com/lambda/latest/dg"
_SQS = "https://docs.aws.amazon.com/AWSSimpleQueueService/latest"
_INVOKES = frozenset({"arn:aws:states:::lambda:invoke", "arn:aws:states:::lambda:invoke.waitForTaskToken"})

_LOG_DELIVERY = (
    "CreateLogDelivery",
    "GetLogDelivery",
    "UpdateLogDelivery",
    "DeleteLogDelivery",
    "ListLogDeliveries",
    "PutResourcePolicy",
    "DescribeResourcePolicies",
    "DescribeLogGroups",
)


@dataclass(frozen=True)
class Need:
    """Why AWS needs some permissions, on which page it says so, and what the local cloud does instead."""

    name: str
    why: str
    source: str
    locally: str
    find: Find


def _of_type(template: Template, *kinds: str) -> Iterator[dict[str, Any]]:
    for resource in template["Resources"].values():
        if resource["Type"] in kinds:
            yield resource.get("Properties", {})


def _target(value: Any) -> str:
    """The logical id that a Ref or a GetAtt points at."""
    match value:
        case {"Ref": str(logical_id)} | {"Fn::GetAtt": [str(logical_id), str()]}:
            return logical_id
        case _:
            message = f"{value} points at nothing in the template"
            raise ValueError(message)


def _functions(template: Template) -> Iterator[dict[str, Any]]:
    return _of_type(template, "AWS::Lambda::Function")


def _state_machines(template: Template) -> Iterator[dict[str, Any]]:
    return _of_type(template, "AWS::StepFunctions::StateMachine")


def _role_of(template: Template, function: Any) -> str:
    return _target(template["Resources"][_target(function)]["Properties"]["Role"])


def _logs(template: Template) -> Iterator[Permission]:
    for function in _functions(template):
        role, group = _target(function["Role"]), _target(function["LoggingConfig"]["LogGroup"])
        for action in ("logs:CreateLogStream", "logs:PutLogEvents"):
            yield Permission(role, action, group)


def _sources(template: Template, service: str) -> Iterator[tuple[str, str]]:
    """The roles that Lambda reads with, and what it reads, from queues (`Arn`) or streams (`StreamArn`)."""
    for mapping in _of_type(template, "AWS::Lambda::EventSourceMapping"):
        match mapping["EventSourceArn"]:
            case {"Fn::GetAtt": [str(source), str(attribute)]} if attribute == service:
                yield _role_of(template, mapping["FunctionName"]), source


def _queues(template: Template) -> Iterator[Permission]:
    for role, queue in _sources(template, "Arn"):
        for action in ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"):
            yield Permission(role, action, queue)


def _streams(template: Template) -> Iterator[Permission]:
    for role, table in _sources(template, "StreamArn"):
        for action in ("dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"):
            yield Permission(role, action, f"{table}'s stream")
        yield Permission(role, "dynamodb:ListStreams", f"{table}/stream/*")


def _failure_destinations(template: Template) -> Iterator[Permission]:
    for config in _of_type(template, "AWS::Lambda::EventInvokeConfig", "AWS::Lambda::EventSourceMapping"):
        if destination := config.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination"):
            yield Permission(_role_of(template, config["FunctionName"]), "sqs:SendMessage", _target(destination))


def _schedules(template: Template) -> Iterator[Permission]:
    for schedule in _of_type(template, "AWS::Scheduler::Schedule"):
        target = schedule["Target"]
        role, function = _target(target["RoleArn"]), _target(target["Arn"])
        if template["Resources"][function]["Type"] != "AWS::Lambda::Function":
            message = f"a schedule has target {function}, which is no function: say here what its role needs for that"
            raise ValueError(message)
        yield Permission(role, "lambda:InvokeFunction", function)
        if letters := target.get("DeadLetterConfig"):
            yield Permission(role, "sqs:SendMessage", _target(letters["Arn"]))


def _tasks(states: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for state in states.values():
        if state["Type"] == "Task":
            yield state
        inner = [state["ItemProcessor"]] if "ItemProcessor" in state else state.get("Branches", [])
        for part in inner:
            yield from _tasks(part["States"])


def _steps(template: Template) -> Iterator[Permission]:
    for machine in _state_machines(template):
        definition = json.loads((ROOT / machine["DefinitionS3Location"]["Key"]).read_text(encoding="utf-8"))
        for task in _tasks(definition["States"]):
            if task["Resource"] not in _INVOKES:
                message = f"a step does {task['Resource']}: say here what the workflow's role needs for that"
                raise ValueError(message)
            name = task["Arguments"]["FunctionName"].removeprefix("${").removesuffix("}")
            function = _target(machine["DefinitionSubstitutions"][name])
            yield Permission(_target(machine["RoleArn"]), "lambda:InvokeFunction", function)


def _integrations(template: Template) -> Iterator[Permission]:
    for integration in _of_type(template, "AWS::ApiGatewayV2::Integration"):
        function = _target(integration["IntegrationUri"])
        lets_in = f"{function} by apigateway, from {_target(integration['ApiId'])}/*"
        yield from _in_policies(template, "AWS::Lambda::Permission", "lambda:InvokeFunction", lets_in)


def _undelivered(template: Template) -> Iterator[Permission]:
    for function in _functions(template):
        variables = function.get("Environment", {}).get("Variables", {})
        if letters := variables.get("KEYVIGIL_ALERT_DEAD_LETTERS_ARN"):
            lets_in = f"{_target(letters)} by sns, from <stack>-project-*"
            yield from _in_policies(template, "AWS::SQS::QueuePolicy", "sqs:SendMessage", lets_in)


def _alarms(template: Template) -> Iterator[Permission]:
    told = {
        _target(action) for alarm in _of_type(template, "AWS::CloudWatch::Alarm") for action in alarm["AlarmActions"]
    }
    for topic in sorted(told):
        lets_in = f"{topic} by cloudwatch, of this account, from alarm:<stack>-*"
        yield from _in_policies(template, "AWS::SNS::TopicPolicy", "sns:Publish", lets_in)


def _rules(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    for logical_id, resource in template["Resources"].items():
        if resource["Type"] == "AWS::Events::Rule":
            yield logical_id, resource["Properties"]


def _targets(template: Template) -> Iterator[Permission]:
    for logical_id, rule in _rules(template):
        for target in rule["Targets"]:
            function = _target(target["Arn"])
            if template["Resources"][function]["Type"] != "AWS::Lambda::Function" or "RoleArn" in target:
                message = f"{logical_id} has target {function}: say here what lets a rule in there"
                raise ValueError(message)
            lets_in = f"{function} by events, from {logical_id}"
            yield from _in_policies(template, "AWS::Lambda::Permission", "lambda:InvokeFunction", lets_in)


def _not_handed_over(template: Template) -> Iterator[Permission]:
    found = {
        f"{_target(target['DeadLetterConfig']['Arn'])} by events, from rule/{_beginning(rule, template)}*"
        for _, rule in _rules(template)
        for target in rule["Targets"]
        if "DeadLetterConfig" in target
    }
    for lets_in in sorted(found):
        yield from _in_policies(template, "AWS::SQS::QueuePolicy", "sqs:SendMessage", lets_in)


def _beginning(rule: dict[str, Any], template: Template) -> str:
    """What a rule's ARN has after `rule/`, as far as all of this stack's share it: the bus's name comes before its own.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoneventbridge.html
    """
    bus = rule.get("EventBusName")
    named = template["Resources"][_target(bus)]["Properties"] if bus else rule
    stack, _, rest = str(named["Name"]["Fn::Sub"]).partition("-")
    return "<stack>-" if stack == "${AWS::StackName}" else f"{stack}-{rest}"


_TRUSTED = {
    "TrustedEventAccounts": "by TrustedEventAccounts",
    "TrustedEventOrganization": "by anybody, of TrustedEventOrganization",
}


def _forwarded(template: Template) -> Iterator[Permission]:
    """Rules of customers' accounts forward to every bus but the default one on which a rule waits for AWS's events."""
    buses = {
        _target(rule["EventBusName"])
        for _, rule in _rules(template)
        if "EventBusName" in rule and any(each.startswith("aws.") for each in rule["EventPattern"]["source"])
    }
    for parameter, who in _TRUSTED.items():
        if template["Parameters"][parameter]["Default"]:
            for bus in sorted(buses):
                lets_in = f"{bus} {who}, through a bus of theirs, aws.kms and aws.iam only"
                yield from _in_policies(template, "AWS::Events::EventBusPolicy", "events:PutEvents", lets_in)


def _in_policies(template: Template, kind: str, action: str, on: str) -> Iterator[Permission]:
    """A permission that some resource's policy must give. Which resource that is, is its own business."""
    holders = {name for name, resource in template["Resources"].items() if resource["Type"] == kind}
    given = [each for each in granted(template) if each.role in holders and (each.action, each.on) == (action, on)]
    yield from given or [Permission(f"(an {kind})", action, on)]


def _beside(template: Template, action: str, also: str) -> Iterator[Permission]:
    """A second permission that AWS asks for, on the same thing, of whoever has the first one."""
    for each in granted(template):
        if each.action == action:
            yield Permission(each.role, also, each.on)


def _batches(template: Template) -> Iterator[Permission]:
    return _beside(template, "sqs:SendMessageBatch", "sqs:SendMessage")


def _tags(template: Template) -> Iterator[Permission]:
    return _beside(template, "sns:CreateTopic", "sns:TagResource")


def _traced_functions(template: Template) -> Iterator[Permission]:
    for function in _functions(template):
        if function.get("TracingConfig", {}).get("Mode") == {"Ref": "Tracing"} and _is_traced(template):
            for action in ("xray:PutTraceSegments", "xray:PutTelemetryRecords"):
                yield Permission(_target(function["Role"]), action, "*")


def _is_traced(template: Template) -> bool:
    """Whether Tracing is Active: functions refer to the parameter, only what has a condition shows its value."""
    return any(machine.get("TracingConfiguration", {}).get("Enabled") is True for machine in _state_machines(template))


def _traced_workflows(template: Template) -> Iterator[Permission]:
    for machine in _state_machines(template):
        if machine.get("TracingConfiguration", {}).get("Enabled") is True:
            for action in ("PutTraceSegments", "PutTelemetryRecords", "GetSamplingRules", "GetSamplingTargets"):
                yield Permission(_target(machine["RoleArn"]), f"xray:{action}", "*")


def _logging_workflows(template: Template) -> Iterator[Permission]:
    for machine in _state_machines(template):
        if machine.get("LoggingConfiguration", {}).get("Level", "OFF") != "OFF":
            for action in _LOG_DELIVERY:
                yield Permission(_target(machine["RoleArn"]), f"logs:{action}", "*")


def _key_is_given(template: Template) -> bool:
    return any("KmsMasterKeyId" in queue for queue in _of_type(template, "AWS::SQS::Queue"))


def _users(template: Template, *actions: str) -> list[str]:
    """The roles that may do one of these, if what they do it to is encrypted with the stack's key."""
    if not _key_is_given(template):
        return []
    roles = {name for name, resource in template["Resources"].items() if resource["Type"] == "AWS::IAM::Role"}
    # Topics of the template's own are under no key: what alarms must not depend on one (invariant 9).
    keyless = {name for name, resource in template["Resources"].items() if resource["Type"] == "AWS::SNS::Topic"}
    found = {each.role for each in granted(template) if each.action in actions and each.on not in keyless}
    return sorted(found & roles)


def _key_of_table(template: Template) -> Iterator[Permission]:
    actions = ("GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "GetRecords")
    for role in _users(template, *(f"dynamodb:{action}" for action in actions)):
        yield Permission(role, "kms:Decrypt", "the stack's key through dynamodb")


def _key_of_queues(template: Template) -> Iterator[Permission]:
    for role in _users(template, "sqs:SendMessage"):
        yield Permission(role, "kms:GenerateDataKey", "the stack's key through sqs")
    for role in _users(template, "sqs:SendMessage", "sqs:ReceiveMessage"):
        yield Permission(role, "kms:Decrypt", "the stack's key through sqs")


def _key_of_topics(template: Template) -> Iterator[Permission]:
    for role in _users(template, "sns:Publish"):
        for action in ("kms:GenerateDataKey", "kms:Decrypt"):
            yield Permission(role, action, "the stack's key through sns")


def _key_of_secrets(template: Template) -> Iterator[Permission]:
    for role in _users(template, "secretsmanager:GetSecretValue"):
        yield Permission(role, "kms:Decrypt", "the stack's key through secretsmanager")


def _runbooks(template: Template) -> Iterator[Permission]:
    """Whoever is invoked to call receivers runs runbooks, where the operator lets tenants name any."""
    if template["Parameters"]["AllowRunbooks"]["Default"] != "true":
        return
    told = [function.get("Environment", {}).get("Variables", {}) for function in _functions(template)]
    callers = [each[_CALLER] for each in told if _CALLER in each]
    for function in _functions(template):
        if function["FunctionName"] in callers:
            role = _target(function["Role"])
            for started in _RUNBOOK_NAMES:
                yield Permission(role, "ssm:StartAutomationExecution", started)
            yield Permission(role, "ssm:GetAutomationExecution", "automation-execution/*")
            yield Permission(role, "iam:PassRole", "role/KeyVigilLock-* to ssm")


def _findings(template: Template) -> Iterator[Permission]:
    """Whoever is told that the stack wants findings imports them."""
    if template["Parameters"]["SecurityHub"]["Default"] == "true":
        for function in _functions(template):
            if "KEYVIGIL_SECURITY_HUB" in function.get("Environment", {}).get("Variables", {}):
                yield Permission(_target(function["Role"]), "securityhub:BatchImportFindings", "product/-/default")


_RUNBOOK_NAMES = ("document/KeyVigilLock-*", "automation-definition/KeyVigilLock-*:*", "automation-execution/*")
_CALLER = "KEYVIGIL_CALL_RECEIVER_FUNCTION_NAME"


NEEDS = (
    Need(
        "a function's log",
        "Lambda writes a function's log with the function's own role",
        f"{_LAMBDA}/lambda-intro-execution-role.html",
        "writes the log without asking the role",
        _logs,
    ),
    Need(
        "a queue that Lambda reads",
        "Lambda polls the queue with the function's own role",
        f"{_SQS}/SQSDeveloperGuide/sqs-configure-lambda-function-trigger.html",
        "polls without asking the role",
        _queues,
    ),
    Need(
        "a stream that Lambda reads",
        "Lambda reads the stream with the function's own role",
        "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/"
        "iam-policy-example-lamda-process-dynamodb-streams.html",
        "reads without asking the role",
        _streams,
    ),
    Need(
        "a failure destination",
        "Lambda sends what failed for good with the function's own role",
        f"{_LAMBDA}/invocation-async-retain-records.html",
        "sends without asking the role",
        _failure_destinations,
    ),
    Need(
        "a schedule",
        "EventBridge Scheduler invokes its target, and keeps what it could not hand over, with the schedule's role",
        "https://docs.aws.amazon.com/scheduler/latest/UserGuide/setting-up.html",
        "invokes without asking the role, and sends nothing to its dead letters",
        _schedules,
    ),
    Need(
        "a workflow's steps",
        "Step Functions invokes each step's function with the workflow's role",
        "https://docs.aws.amazon.com/step-functions/latest/dg/procedure-create-iam-role.html",
        "invokes without asking the role",
        _steps,
    ),
    Need(
        "a workflow's log",
        "Step Functions sets up, changes and ends the delivery of a workflow's log with the workflow's role",
        "https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html",
        "delivers no workflow's log, and asks nobody",
        _logging_workflows,
    ),
    Need(
        "the API's integration",
        "API Gateway may invoke a function only if the function's own policy lets it",
        f"{_LAMBDA}/services-apigateway.html",
        "invokes without asking the function's policy",
        _integrations,
    ),
    Need(
        "alerts that nobody took",
        "SNS puts them into the subscription's dead-letter queue only if the queue's own policy lets it",
        "https://docs.aws.amazon.com/sns/latest/dg/sns-configure-dead-letter-queue.html",
        "sends nothing to a subscription's dead letters",
        _undelivered,
    ),
    Need(
        "alarms",
        "CloudWatch may publish to a topic that has a policy of its own only if that lets the alarm in",
        "https://docs.aws.amazon.com/sns/latest/dg/sns-access-policy-use-cases.html",
        "publishes without asking the topic's policy",
        _alarms,
    ),
    Need(
        "a rule's target",
        "EventBridge may invoke a function only if the function's own policy lets the rule in",
        "https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-use-resource-based.html",
        "invokes without asking the function's policy",
        _targets,
    ),
    Need(
        "events that could not be handed over",
        "EventBridge puts them into the rule's dead-letter queue only if the queue's own policy lets it",
        "https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html",
        "asks no queue's policy",
        _not_handed_over,
    ),
    Need(
        "events that customers forward",
        "a rule of another account may send to a bus only if the bus's own policy lets it",
        "https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-cross-account.html",
        "knows no policies of buses in templates, and has no bus of another account",
        _forwarded,
    ),
    Need(
        "a batch of messages",
        "SQS knows no permission for a batch: SendMessage is what allows it",
        f"{_SQS}/APIReference/API_AddPermission.html",
        "asks for SendMessageBatch, by the operation's own name",
        _batches,
    ),
    Need(
        "a topic that is made with tags",
        "SNS asks for TagResource too when a topic is tagged as it is made",
        "https://docs.aws.amazon.com/sns/latest/api/API_CreateTopic.html",
        "asks for CreateTopic only",
        _tags,
    ),
    Need(
        "traces of functions",
        "with Tracing=Active Lambda sends a function's traces with the function's own role",
        f"{_LAMBDA}/services-xray.html",
        "makes no traces",
        _traced_functions,
    ),
    Need(
        "traces of workflows",
        "with Tracing=Active Step Functions asks what to trace, and sends it, with the workflow's role",
        "https://docs.aws.amazon.com/step-functions/latest/dg/xray-iam.html",
        "makes no traces",
        _traced_workflows,
    ),
    Need(
        "the stack's key, for the table",
        "with KmsKeyArn DynamoDB opens the table's key on behalf of whoever reads or writes",
        "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html",
        "encrypts nothing at rest, so nobody asks the key",
        _key_of_table,
    ),
    Need(
        "the stack's key, for the queues",
        "with KmsKeyArn SQS makes and opens data keys on behalf of whoever sends and receives",
        f"{_SQS}/SQSDeveloperGuide/sqs-key-management.html",
        "encrypts nothing at rest, so nobody asks the key",
        _key_of_queues,
    ),
    Need(
        "the stack's key, for the topics",
        "with KmsKeyArn SNS makes and opens data keys on behalf of whoever publishes",
        "https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html",
        "encrypts nothing at rest, so nobody asks the key",
        _key_of_topics,
    ),
    Need(
        "the stack's key, for receivers' secrets",
        "with KmsKeyArn a secret may be under that key, and Secrets Manager opens it on behalf of whoever reads it",
        "https://docs.aws.amazon.com/secretsmanager/latest/userguide/security-encryption.html",
        "encrypts nothing at rest, so nobody asks the key",
        _key_of_secrets,
    ),
    Need(
        "runbooks",
        "with AllowRunbooks=true whoever starts a runbook needs a permission on each of its names, and passes its role",
        "https://docs.aws.amazon.com/systems-manager/latest/userguide/automation-setup-identity-based-policies.html",
        "runs no runbooks",
        _runbooks,
    ),
    Need(
        "findings",
        "with SecurityHub=true the relay imports findings as the account's own product, whose ARN is the resource",
        "https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecurityhub.html",
        "has no Security Hub",
        _findings,
    ),
)


def row(need: Need, template: Template) -> str:
    """A need as ``docs/permissions.md`` lists it."""
    actions = sorted({permission.action for permission in need.find(template)})
    listed = ", ".join(f"`{action}`" for action in actions)
    return f"| {need.name} | {listed} | {need.why} ([AWS]({need.source})) | {need.locally} |"


def needed_by_aws(template: Template) -> dict[Permission, str]:
    """Every permission that only AWS itself can miss, and the name of the first need that it serves."""
    found: dict[Permission, str] = {}
    for need in NEEDS:
        for permission in need.find(template):
            found.setdefault(permission, need.name)
    return found


def unmet_needs(template: Template) -> list[str]:
    """What AWS needs and nobody granted, one line each."""
    given = set(granted(template))
    return [f"{name}: {each}" for each, name in needed_by_aws(template).items() if each not in given]
