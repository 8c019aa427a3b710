"""House rules of the template: each returns what breaks it in the rendered template, one line each."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.infra.source_template import Resources, Template

_STACK_KEY = {"Ref": "KmsKeyArn"}


def _of_type(template: Template, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for logical_id, resource in template["Resources"].items():
        if resource["Type"] == kind:
            yield logical_id, resource.get("Properties", {})


def _target(value: object) -> str | None:
    """Return the logical id that a Ref or a GetAtt points at."""
    match value:
        case {"Ref": str(logical_id)}:
            return logical_id
        case {"Fn::GetAtt": [str(logical_id), _]}:
            return logical_id
        case {"Fn::GetAtt": str(attribute)}:
            return attribute.partition(".")[0]
        case _:
            return None


def runtime_problems(template: Template) -> list[str]:
    """Functions run on the Python that the byte code is made for, and on the cheaper architecture."""
    return [
        f"{logical_id}: {properties.get('Runtime')} on {properties.get('Architectures')}"
        for logical_id, properties in _of_type(template, "AWS::Lambda::Function")
        if (properties.get("Runtime"), properties.get("Architectures")) != ("python3.13", ["arm64"])
    ]


def log_group_problems(template: Template, written: Resources) -> list[str]:
    """Each function has a log group of its own that forgets, written next to it in the template.

    Without one Lambda makes a group that keeps everything for ever.
    """
    groups = dict(_of_type(template, "AWS::Logs::LogGroup"))
    order = list(written)
    problems = []
    for function, properties in _of_type(template, "AWS::Lambda::Function"):
        group = _target(properties.get("LoggingConfig", {}).get("LogGroup"))
        if group is None or group not in groups:
            problems.append(f"{function}: LoggingConfig names no log group of the template")
        elif "RetentionInDays" not in groups[group]:
            problems.append(f"{group}: keeps logs for ever")
        elif abs(order.index(group) - order.index(function)) != 1:
            problems.append(f"{group}: does not stand beside {function}")
    return problems


def workflow_log_problems(template: Template, written: Resources) -> list[str]:
    """Each workflow writes its errors, and nothing of what it works on, to a log group beside it that forgets.

    https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html
    """
    groups = dict(_of_type(template, "AWS::Logs::LogGroup"))
    order = list(written)
    problems = []
    for machine, properties in _of_type(template, "AWS::StepFunctions::StateMachine"):
        logging = properties.get("LoggingConfiguration", {})
        if logging.get("Level") != "ERROR" or logging.get("IncludeExecutionData") is not False:
            problems.append(f"{machine}: does not log its errors, without execution data")
        named = [_target(each["CloudWatchLogsLogGroup"]["LogGroupArn"]) for each in logging.get("Destinations", [])]
        group = named[0] if named else None
        if group is None or group not in groups:
            problems.append(f"{machine}: logs to no log group of the template")
        elif "RetentionInDays" not in groups[group]:
            problems.append(f"{group}: keeps logs for ever")
        elif abs(order.index(group) - order.index(machine)) != 1:
            problems.append(f"{group}: does not stand beside {machine}")
    return problems


def _statements(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict) and {"Effect", "Action"} <= value.keys():
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _statements(item)


def wildcard_action_problems(template: Template) -> list[str]:
    """No policy allows an action that it does not name in full."""
    problems = []
    for logical_id, resource in template["Resources"].items():
        for statement in _statements(resource.get("Properties", {})):
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            problems += [
                f"{logical_id}: allows {action}"
                for action in actions
                if statement["Effect"] == "Allow" and "*" in action and not _is_key_of_account(resource, statement)
            ]
    return problems


def _is_key_of_account(resource: dict[str, Any], statement: dict[str, Any]) -> bool:
    """Say whether this is the statement without which a KMS key can become unmanageable.

    It hands the key's permissions over to the account's IAM policies.
    https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
    """
    return resource["Type"] == "AWS::KMS::Key" and ":root" in str(statement.get("Principal"))


_KEYS = {
    "AWS::DynamoDB::Table": ("SSESpecification", {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": _STACK_KEY}),
    "AWS::SQS::Queue": ("KmsMasterKeyId", _STACK_KEY),
    "AWS::Logs::LogGroup": ("KmsKeyId", _STACK_KEY),
}
# What the watcher needs to be heard when the stack's own key is the one that broke (invariant 9).
_NEVER_UNDER_A_KEY = ("AWS::SNS::Topic", "AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm")


def key_problems(template: Template) -> list[str]:
    """With a key given, it encrypts the table, the queues and the log groups, and the API's topics.

    The operator's topic and the alarms never depend on it, nor on any other key.
    """
    problems = []
    for logical_id, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        if resource["Type"] in _KEYS:
            name, value = _KEYS[resource["Type"]]
            if properties.get(name) != value:
                problems.append(f"{logical_id}: {name} is {properties.get(name)}")
        if resource["Type"] == "AWS::SQS::Queue" and "SqsManagedSseEnabled" in properties:
            problems.append(f"{logical_id}: cannot be encrypted by SQS and by the key at once")
        if resource["Type"] in _NEVER_UNDER_A_KEY and "kms" in json.dumps(properties).lower():
            problems.append(f"{logical_id}: depends on a key")
    for function in ("RegistryApiFunction", "PlanSweepFunction"):
        variables = template["Resources"][function]["Properties"]["Environment"]["Variables"]
        if variables.get("KEYVIGIL_KMS_KEY_ARN") != _STACK_KEY:
            problems.append(f"{function}: is not told the key of the projects' topics")
    return problems


_CANARY = ("CanaryKey", "CanaryRole")
"""The make-believe customer, whose key encrypts nothing of the stack's."""


def keyless_problems(template: Template) -> list[str]:
    """Without a key nothing but the canary names one, and what can be encrypted without one is."""
    problems = []
    for logical_id, resource in template["Resources"].items():
        if logical_id in _CANARY:
            continue
        properties = dict(resource.get("Properties", {}))
        if resource["Type"] == "AWS::Lambda::Function":
            # It is told that there is no key, so that topics lose the one that they had.
            variables = dict(properties["Environment"]["Variables"])
            variables.pop("KEYVIGIL_KMS_KEY_ARN", None)
            properties["Environment"] = variables
        text = json.dumps(properties)
        if "KmsKeyArn" in text or "kms:" in text or "KMSMasterKeyId" in text or "KmsMasterKeyId" in text:
            problems.append(f"{logical_id}: names a key")
        if resource["Type"] == "AWS::SQS::Queue" and properties.get("SqsManagedSseEnabled") is not True:
            problems.append(f"{logical_id}: is not encrypted")
    return problems


def key_grant_problems(template: Template) -> list[str]:
    """Use of the stack's key is granted for that key alone, and only through the service that holds the data.

    The canary's key is used as a customer's is: by its role, which no function has, and for probes.
    """
    problems = []
    for logical_id, resource in template["Resources"].items():
        if logical_id in _CANARY:
            continue
        for statement in _statements(resource.get("Properties", {})):
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if not any(action.startswith("kms:") for action in actions):
                continue
            via = statement.get("Condition", {}).get("StringEquals", {}).get("kms:ViaService")
            if statement.get("Resource") != _STACK_KEY or not via:
                problems.append(f"{logical_id}: {actions} on {statement.get('Resource')} via {via}")
    return problems


_PROBES = {"kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"}


def canary_problems(template: Template) -> list[str]:
    """The canary is a customer like any other: nothing lets the monitor's role in that a customer would not give.

    A trust policy that names the role itself needs no `sts:AssumeRole` of the role's own in the same account, so that a
    canary behind it would stay green when that is lost.
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
    """
    resources = template["Resources"]
    problems = []
    [trust] = resources["CanaryRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    if not str(trust["Principal"].get("AWS")).endswith(":root'}"):
        problems.append(f"CanaryRole: trusts {trust['Principal']}")
    conditions = {name for keys in trust.get("Condition", {}).values() for name in keys}
    problems += [
        f"CanaryRole: trusts without asking for {name}"
        for name in ("aws:PrincipalArn", "sts:ExternalId")
        if name not in conditions
    ]
    statements = [each for policy in resources["CanaryRole"]["Properties"]["Policies"] for each in _statements(policy)]
    for statement in statements:
        if set(statement["Action"]) != _PROBES or _target(statement["Resource"]) != "CanaryKey":
            problems.append(f"CanaryRole: may do {statement['Action']} to {statement['Resource']}")
    key = resources["CanaryKey"]["Properties"]
    if any(not str(each["Principal"]).endswith(":root'}}") for each in _statements(key["KeyPolicy"])):
        problems.append("CanaryKey: its policy grants what the role's own does not")
    if key.get("EnableKeyRotation") is not True:
        problems.append("CanaryKey: is not rotated")
    told = resources["CheckKeysFunction"]["Properties"]["Environment"]["Variables"]["KEYVIGIL_CANARY_EXTERNAL_ID"]
    if trust["Condition"]["StringEquals"].get("sts:ExternalId") != told:
        problems.append("CanaryRole: asks for another ExternalId than check_keys is told")
    return problems


def route_problems(template: Template) -> list[str]:
    """Every route of the API asks for a signature: IAM on the path is what keeps tenants apart."""
    routes = list(_of_type(template, "AWS::ApiGatewayV2::Route"))
    if not routes:
        return ["the API has no routes"]
    return [
        f"{logical_id}: {route.get('RouteKey')} is authorized by {route.get('AuthorizationType')}"
        for logical_id, route in routes
        if route.get("AuthorizationType") != "AWS_IAM"
    ]


def _dead_letter_targets(value: Any) -> Iterator[str | None]:
    """Yield what dead letters are sent to: by queues, schedules, rules, event sources and asynchronous calls.

    And by subscriptions, which the API makes and is told the queue for.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if key in {"deadLetterTargetArn", "Destination", "KEYVIGIL_ALERT_DEAD_LETTERS_ARN"}:
                yield _target(item)
            elif key == "DeadLetterConfig":
                yield _target(item.get("Arn"))
            else:
                yield from _dead_letter_targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _dead_letter_targets(item)


# What is called by somebody who does not wait for an answer. plan_sweep and relay_outbox call others so, in their code.
_CALLS_WITHOUT_WAITING = ("AWS::Scheduler::Schedule", "AWS::Events::Rule", "AWS::SNS::Subscription")
_CALLED_BY_CODE = frozenset({"CallReceiverFunction", "RelayOutboxFunction"})


def _targets(value: Any) -> Iterator[str]:
    if (target := _target(value)) is not None:
        yield target
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _targets(item)


def failure_destination_problems(template: Template) -> list[str]:
    """What is called asynchronously, and what reads a stream, has a place for what fails for good.

    Schedules and rules have one too, for what they could not hand over.
    """
    functions = dict(_of_type(template, "AWS::Lambda::Function"))
    configured = {
        _target(config["FunctionName"])
        for _, config in _of_type(template, "AWS::Lambda::EventInvokeConfig")
        if config.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
    }
    called = set(_CALLED_BY_CODE & functions.keys())
    problems = []
    for kind in _CALLS_WITHOUT_WAITING:
        for logical_id, properties in _of_type(template, kind):
            called |= functions.keys() & set(_targets(properties))
            targets = properties.get("Targets", [properties.get("Target")])
            if kind != "AWS::SNS::Subscription" and any("DeadLetterConfig" not in (each or {}) for each in targets):
                problems.append(f"{logical_id}: has no dead-letter queue")
    problems += [f"{function}: has no failure destination" for function in sorted(called - configured)]
    for logical_id, mapping in _of_type(template, "AWS::Lambda::EventSourceMapping"):
        reads_stream = "StartingPosition" in mapping
        if reads_stream and not mapping.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination"):
            problems.append(f"{logical_id}: has no failure destination")
    return problems


def _alarmed(template: Template) -> set[tuple[str, str, str | None]]:
    """What alarms watch, of those that tell the operator: namespace, metric, and the resource they look at."""
    return {
        (str(alarm["Namespace"]), alarm["MetricName"], _target(dimension["Value"]))
        for _, alarm in _of_type(template, "AWS::CloudWatch::Alarm")
        for dimension in alarm.get("Dimensions", [])
        if "OperatorTopic" in {_target(action) for action in alarm.get("AlarmActions", [])}
    }


_ALARMS = {
    "AWS::Lambda::Function": ("AWS/Lambda", ["Errors", "Throttles"]),
    "AWS::StepFunctions::StateMachine": ("AWS/States", ["ExecutionsFailed", "ExecutionsTimedOut"]),
}


def alarm_problems(template: Template) -> list[str]:
    """The operator hears of every function's errors and throttles, of failed workflows, and of each queue.

    Of a queue of dead letters that there is one, of any other that its oldest message waits.
    """
    watched = _alarmed(template)
    wanted = [
        (namespace, metric, logical_id)
        for kind, (namespace, metrics) in _ALARMS.items()
        for logical_id, _ in _of_type(template, kind)
        for metric in metrics
    ]
    for logical_id, queue in _of_type(template, "AWS::SQS::Queue"):
        metric = "ApproximateAgeOfOldestMessage" if "RedrivePolicy" in queue else "ApproximateNumberOfMessagesVisible"
        wanted.append(("AWS/SQS", metric, logical_id))
    return [
        f"{logical_id}: no alarm on {metric}"
        for namespace, metric, logical_id in wanted
        if (namespace, metric, logical_id) not in watched
    ]


def deaf_alarm_problems(template: Template) -> list[str]:
    """Every alarm tells the operator of its beginning and its end, and is never without a state.

    An alarm that does not say what missing data means sits in INSUFFICIENT_DATA while there is none; that tells nobody.
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
    """
    problems = []
    for logical_id, alarm in _of_type(template, "AWS::CloudWatch::Alarm"):
        if alarm.get("TreatMissingData") not in {"breaching", "notBreaching"}:
            problems.append(f"{logical_id}: has no state while there is no data")
        problems += [
            f"{logical_id}: {actions} do not tell the operator"
            for actions in ("AlarmActions", "OKActions")
            if [_target(action) for action in alarm.get(actions, [])] != ["OperatorTopic"]
        ]
        if alarm.get("ActionsEnabled", True) is not True:
            problems.append(f"{logical_id}: its actions are switched off")
    return problems


_SIGNS_OF_LIFE = (
    ("SweepsDone", "plan_sweep", "breaching"),
    ("CanariesUnwell", "check_keys", "breaching"),
    ("KeysNotSent", "plan_sweep", "notBreaching"),
    ("OldestUnsentRow", "plan_sweep", "notBreaching"),
    ("StaleKeys", "plan_sweep", "notBreaching"),
)
"""What the functions say of themselves and somebody must hear of, who says it, and what its absence means: of the
sweep's end and the canaries that they did not happen; of the others nothing, since the same sweep's end is missed."""


def sign_of_life_problems(template: Template) -> list[str]:
    """There is an alarm on the sweep's heartbeat, on the canaries, on stale keys, and on what waits to be sent."""
    alarms = {
        (alarm["MetricName"], dimension["Value"], alarm.get("TreatMissingData"))
        for _, alarm in _of_type(template, "AWS::CloudWatch::Alarm")
        if str(alarm["Namespace"]) == str({"Fn::Sub": "KeyVigil/${AWS::StackName}"})
        for dimension in alarm.get("Dimensions", [])
    }
    return [f"no alarm on {sign[0]}, missing data {sign[2]}" for sign in _SIGNS_OF_LIFE if sign not in alarms]


_RUNBOOK = re.compile(r"docs/alerts\.md#([\w-]+)")


def runbook_problems(template: Template, alerts: str) -> list[str]:
    """Each alarm names the part of docs/alerts.md that says what to do, and that part exists."""
    headings = re.findall(r"^## (.+)$", alerts, flags=re.MULTILINE)
    # As GitHub makes anchors of headings: lower case, blanks to hyphens, without other punctuation.
    anchors = {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}
    problems = []
    for logical_id, alarm in _of_type(template, "AWS::CloudWatch::Alarm"):
        named = _RUNBOOK.findall(alarm.get("AlarmDescription", ""))
        if not named or not set(named) <= anchors:
            problems.append(f"{logical_id}: names {named or 'no part'} of docs/alerts.md")
    return problems


ROOM_FOR_PROBES = 20
"""How many probes the API and the workflows must be able to have run beside those of the queue."""


def concurrency_problems(template: Template) -> list[str]:
    """The queue that feeds `check_keys` cannot take all its concurrency: the API's and the workflows' probes find room.

    And the sweep, the intake of events, the API and the relay have some that nobody else can take.
    """
    functions = dict(_of_type(template, "AWS::Lambda::Function"))
    reserved = {name: function.get("ReservedConcurrentExecutions") for name, function in functions.items()}
    together = 0
    problems = [
        f"{name}: has no concurrency of its own"
        for name in (
            "PlanSweepFunction",
            "ReceiveKeyEventFunction",
            "CheckKeysFunction",
            "RegistryApiFunction",
            "RelayOutboxFunction",
            "CallReceiverFunction",
        )
        if not reserved[name]
    ]
    for logical_id, mapping in _of_type(template, "AWS::Lambda::EventSourceMapping"):
        if _target(mapping["FunctionName"]) != "CheckKeysFunction":
            continue
        taken = mapping.get("ScalingConfig", {}).get("MaximumConcurrency")
        together += taken or 0
        if taken is None or taken + ROOM_FOR_PROBES > (reserved["CheckKeysFunction"] or 0):
            problems.append(f"{logical_id}: may take {taken or 'all'} of {reserved['CheckKeysFunction']}")
    if not problems and together + ROOM_FOR_PROBES > (reserved["CheckKeysFunction"] or 0):
        problems.append(f"CheckKeysFunction: its queues may take {together} of {reserved['CheckKeysFunction']}")
    return problems


def visibility_problems(template: Template) -> list[str]:
    """A queue hides a message for six times as long as its function may take.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
    """
    functions = dict(_of_type(template, "AWS::Lambda::Function"))
    queues = dict(_of_type(template, "AWS::SQS::Queue"))
    problems = []
    for _, mapping in _of_type(template, "AWS::Lambda::EventSourceMapping"):
        queue = _target(mapping.get("EventSourceArn"))
        if queue in queues:
            timeout = functions[_target(mapping["FunctionName"]) or ""]["Timeout"]
            if queues[queue].get("VisibilityTimeout", 30) < 6 * timeout:
                problems.append(f"{queue}: hides messages for less than {6 * timeout} s")
    return problems


# What waits for a probe in a customer's account and is charged to the customer's quota, or has SNS send something to
# whoever is named.
_DEAR_ROUTES = (
    "POST /projects/{project_id}/keys",
    "POST /projects/{project_id}/keys/{key_id}/check",
    "POST /projects/{project_id}/key-validations",
    "PATCH /projects/{project_id}/keys/{key_id}",
    "POST /projects/{project_id}/keys/{key_id}/rebaseline",
    "POST /projects/{project_id}/subscriptions",
    "POST /projects/{project_id}/subscriptions/{subscription_id}/test",
    "POST /projects/{project_id}/backups/{backup_id}/restore-check",
)


def throttling_problems(template: Template) -> list[str]:
    """Every stage is throttled, and what makes probes or messages more than the rest.

    A route's settings count only if a route of exactly that key exists.
    """
    problems = []
    routes = {route["RouteKey"] for _, route in _of_type(template, "AWS::ApiGatewayV2::Route")}
    for logical_id, stage in _of_type(template, "AWS::ApiGatewayV2::Stage"):
        overall = stage.get("DefaultRouteSettings", {}).get("ThrottlingRateLimit")
        if overall is None:
            problems.append(f"{logical_id}: is not throttled")
        for route in _DEAR_ROUTES:
            settings = stage.get("RouteSettings", {}).get(route, {})
            if settings.get("ThrottlingRateLimit", overall or 0) >= (overall or 0):
                problems.append(f"{logical_id}: {route} is not throttled more than the rest")
            if route not in routes:
                problems.append(f"{logical_id}: {route} is no route of its own, so its throttling is refused")
        if "AccessLogSettings" not in stage:
            problems.append(f"{logical_id}: keeps no access log")
    return problems


def tracing_problems(template: Template) -> list[str]:
    """With tracing on, everything that runs traces and may; X-Ray drops in silence what it is not allowed to take."""
    problems = [
        f"{name}: is not traced"
        for name, function in _of_type(template, "AWS::Lambda::Function")
        if function.get("TracingConfig", {}).get("Mode") != {"Ref": "Tracing"}
    ]
    running = {"AWS::Lambda::Function": "Role", "AWS::StepFunctions::StateMachine": "RoleArn"}
    roles = {_target(properties[role]) for kind, role in running.items() for _, properties in _of_type(template, kind)}
    may = {
        _target(role)
        for _, policy in _of_type(template, "AWS::IAM::Policy")
        if "xray:" in json.dumps(policy)
        for role in policy["Roles"]
    }
    return [*problems, *(f"{role}: may not send traces" for role in sorted(map(str, roles - may)))]


_RECEIVERS = {
    "lambda:InvokeFunction": (":function:keyvigil-lock-*",),
    "secretsmanager:GetSecretValue": (":secret:keyvigil/*",),
    "ssm:StartAutomationExecution": (
        ":document/KeyVigilLock-*",
        ":automation-definition/KeyVigilLock-*:*",
        ":automation-execution/*",
    ),
    "ssm:GetAutomationExecution": (":automation-execution/*",),
    "iam:PassRole": (":role/KeyVigilLock-*",),
}
"""What a tenant's lock may name, by the operator's prefixes."""


def receiver_problems(template: Template) -> list[str]:
    """One role calls what tenants name, only within the operator's prefixes, and not the stack's own functions.

    Other roles invoke functions of the stack alone.
    """
    problems = []
    denied: list[str] = []
    for logical_id, resource in template["Resources"].items():
        if resource["Type"] not in {"AWS::IAM::Role", "AWS::IAM::Policy"}:
            continue
        for statement in _statements(resource.get("Properties", {})):
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            named = statement.get("Resource", [])
            texts = [_text(each) for each in (named if isinstance(named, list) else [named])]
            if statement["Effect"] == "Deny":
                denied += texts if logical_id == "CallReceiverRole" else []
                continue
            for action in actions:
                allowed = _RECEIVERS.get(action) if logical_id == "CallReceiverRole" else ()
                if action not in _RECEIVERS:
                    continue
                problems += [
                    f"{logical_id}: {action} on {text}"
                    for text in texts
                    if not text.endswith(allowed or ()) and not _is_of_the_stack(text)
                ]
            service = statement.get("Condition", {}).get("StringEquals", {}).get("iam:PassedToService")
            if "iam:PassRole" in actions and service != "ssm.amazonaws.com":
                problems.append(f"{logical_id}: passes roles to {service or 'every service'}")
    own = [text for text in denied if text.endswith((":${AWS::StackName}-lock-cluster", "-lock-cluster:*"))]
    return problems if len(own) == len(_QUALIFIED) else [*problems, "CallReceiverRole: may invoke lock_cluster"]


_QUALIFIED = ("by its name", "by a version or alias")


def _text(value: Any) -> str:
    return str(value["Fn::Sub"]) if isinstance(value, dict) and "Fn::Sub" in value else json.dumps(value)


def _is_of_the_stack(text: str) -> bool:
    """Whether a resource is the template's own, by its logical id or by the stack's name at its beginning."""
    return "Fn::GetAtt" in text or ":function:${AWS::StackName}-" in text


def call_time_problems(template: Template, seconds: float) -> list[str]:
    """`call_receiver` has time to record an answer after the longest that it goes on with a request."""
    timeout = template["Resources"]["CallReceiverFunction"]["Properties"]["Timeout"]
    return [] if timeout >= seconds + ROOM_FOR_RECORDING else [f"CallReceiverFunction: ends after {timeout} s"]


ROOM_FOR_RECORDING = 15
"""Seconds that call_receiver needs to start and to write down an answer, with a retry."""


def wildcard_resource_problems(source: str) -> list[str]:
    """Where a policy's resource is or has a wildcard, a comment beside it says why no narrower one will do.

    Reads the template as it was written: the comments are gone from the rendered one.
    """
    lines = source.splitlines()
    problems = []
    for statement in _written_statements(yaml.compose(source, Loader=yaml.SafeLoader)):
        wild = [text for text in _scalars(_entry(statement, "Resource")) if "*" in text]
        first, last = statement.start_mark.line, statement.end_mark.line
        while first > 0 and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        said = " ".join(line.partition("#")[2].strip() for line in lines[first:last] if "#" in line)
        if wild and len(said.split()) < _WORDS_OF_A_REASON:
            problems.append(f"line {statement.start_mark.line + 1}: {', '.join(wild)} without a reason")
    return problems


_WORDS_OF_A_REASON = 3


def _entry(node: yaml.Node | None, name: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == name), None)
    return None


def _written_statements(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        if _entry(node, "Effect") is not None and _entry(node, "Resource") is not None:
            yield node
        else:
            for _, value in node.value:
                yield from _written_statements(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _written_statements(item)


def _scalars(node: yaml.Node | None) -> Iterator[str]:
    if isinstance(node, yaml.ScalarNode):
        yield node.value
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item)
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _scalars(value)


def dead_letter_problems(template: Template) -> list[str]:
    """A queue has a dead-letter queue or is one: what cannot be worked off never ends in nothing."""
    dead_letter_queues = set(_dead_letter_targets(template["Resources"]))
    return [
        f"{logical_id}: neither has a dead-letter queue nor is one"
        for logical_id, queue in _of_type(template, "AWS::SQS::Queue")
        if "RedrivePolicy" not in queue and logical_id not in dead_letter_queues
    ]


def check_queue_problems(template: Template) -> list[str]:
    """`check_keys` is fed by a queue, which keeps what it could not work off."""
    queues = dict(_of_type(template, "AWS::SQS::Queue"))
    sources = [
        _target(mapping.get("EventSourceArn"))
        for _, mapping in _of_type(template, "AWS::Lambda::EventSourceMapping")
        if _target(mapping.get("FunctionName")) == "CheckKeysFunction"
    ]
    feeding = [source for source in sources if source in queues]
    if not feeding:
        return ["no queue feeds CheckKeysFunction"]
    return [f"{queue}: has no RedrivePolicy" for queue in feeding if "RedrivePolicy" not in queues[queue]]


def table_problems(template: Template) -> list[str]:
    """Tables can be restored to any second, cost what they are used, and forget what has expired."""
    tables = list(_of_type(template, "AWS::DynamoDB::Table"))
    if not tables:
        return ["there is no table"]
    problems = []
    for logical_id, table in tables:
        if table.get("BillingMode") != "PAY_PER_REQUEST":
            problems.append(f"{logical_id}: BillingMode is {table.get('BillingMode')}")
        if table.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled") is not True:
            problems.append(f"{logical_id}: has no point-in-time recovery")
        if table.get("TimeToLiveSpecification", {}).get("Enabled") is not True:
            problems.append(f"{logical_id}: has no time to live")
    return problems
