"""House rules of the template: each returns what breaks it in the rendered template, one line each."""

import json
from collections.abc import Iterator
from typing import Any

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


def keyless_problems(template: Template) -> list[str]:
    """Without a key nothing names one, and what can be encrypted without one is."""
    problems = []
    for logical_id, resource in template["Resources"].items():
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
    """Use of the stack's key is granted for that key alone, and only through the service that holds the data."""
    problems = []
    for logical_id, resource in template["Resources"].items():
        for statement in _statements(resource.get("Properties", {})):
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if not any(action.startswith("kms:") for action in actions):
                continue
            via = statement.get("Condition", {}).get("StringEquals", {}).get("kms:ViaService")
            if statement.get("Resource") != _STACK_KEY or not via:
                problems.append(f"{logical_id}: {actions} on {statement.get('Resource')} via {via}")
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
    """Yield what dead letters are sent to: by queues, schedules, rules, event sources and asynchronous calls."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in {"deadLetterTargetArn", "Destination"}:
                yield _target(item)
            elif key == "DeadLetterConfig":
                yield _target(item.get("Arn"))
            else:
                yield from _dead_letter_targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _dead_letter_targets(item)


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
