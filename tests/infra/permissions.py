"""What each role of the rendered template may do, and what ``docs/permissions.md`` says that it may."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.infra.source_template import Template


class Permission(NamedTuple):
    """One action that one role may do to one thing."""

    role: str
    action: str
    on: str


_ARN = re.compile(r"^arn:[^:]*:(?P<service>[^:]*):[^:]*:[^:]*:(?P<resource>.*)$")
_VARIABLE = re.compile(r"\$\{AWS::\w+\}")


def _name(resource: Any) -> str:
    """A resource as a reader knows it: the template's own by its logical id, others by the end of their ARN."""
    match resource:
        case {"Ref": "KmsKeyArn"}:
            return "the stack's key"
        case {"Fn::GetAtt": [str(logical_id), "Arn"]} | {"Ref": str(logical_id)}:
            return logical_id
        case {"Fn::GetAtt": [str(logical_id), "StreamArn"]}:
            return f"{logical_id}'s stream"
        case {"Fn::Sub": str(text)}:
            text = _VARIABLE.sub("-", text.replace("${AWS::StackName}", "<stack>"))
            text = re.sub(r"\$\{(\w+)\.Arn\}", r"\1", text)
            arn = _ARN.match(text)
            return arn["resource"] if arn else text
        case str(text):
            return text
        case _:
            message = f"{resource} has no name for readers"
            raise ValueError(message)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _scope(statement: dict[str, Any]) -> str:
    """What narrows a statement beside its resource: the one service that may use a key, one partition of a table."""
    match statement.get("Condition"):
        case None:
            return ""
        case {"StringEquals": {"kms:ViaService": {"Fn::Sub": str(service)}}, **rest} if not rest:
            return f" through {service.partition('.')[0]}"
        case {"StringEquals": {"iam:PassedToService": str(service)}, **rest} if not rest:
            return f" to {service.partition('.')[0]}"
        case {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": [str(partition)]}, **rest} if not rest:
            return f", partition {partition} only"
        case condition:
            message = f"{condition} has no words for readers"
            raise ValueError(message)


def _policies(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    for logical_id, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::IAM::Role":
            if properties.get("ManagedPolicyArns"):
                message = f"{logical_id} has managed policies, which do not say what they allow"
                raise ValueError(message)
            for policy in properties.get("Policies", []):
                yield logical_id, policy["PolicyDocument"]
        elif resource["Type"] in {"AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"}:
            for role in properties["Roles"]:
                yield role["Ref"], properties["PolicyDocument"]


def granted(template: Template) -> list[Permission]:
    """Every permission of every role, in the template's order; a repeated one is there twice."""
    return [
        Permission(role, action, _name(resource) + _scope(statement))
        for role, document in _policies(template)
        for statement in document["Statement"]
        if statement["Effect"] == "Allow"
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
    ]


_ROW = re.compile(r"^\| `(?P<action>[^`]+)` \| `(?P<on>[^`]+)` \| (?P<why>.*?) *\|$")


def documented(page: str) -> dict[Permission, str]:
    """Every permission that the page lists under a role's heading, with its reason."""
    found: dict[Permission, str] = {}
    role = ""
    for line in page.splitlines():
        if line.startswith("## "):
            role = line.removeprefix("## ")
        elif row := _ROW.match(line):
            permission = Permission(role, row["action"], row["on"])
            if permission in found:
                message = f"the page lists {permission} twice"
                raise ValueError(message)
            found[permission] = row["why"]
    return found


_WORDS_OF_A_REASON = 3


def permission_problems(template: Template, page: str) -> list[str]:
    """What a role may and the page does not say, what the page says and no role may, and rows without a reason."""
    may = granted(template)
    said = documented(page)
    return [
        *(f"granted twice: {each}" for each in sorted(set(may)) if may.count(each) > 1),
        *(f"not documented: {each}" for each in sorted(set(may) - said.keys())),
        *(f"not granted: {each}" for each in sorted(said.keys() - set(may))),
        *(f"no reason: {each}" for each, why in said.items() if len(why.split()) < _WORDS_OF_A_REASON),
    ]
