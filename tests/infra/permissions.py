"""What each role of the rendered template may do, and what ``docs/permissions.md`` says that it may.

Beside the roles stand the policies of resources: who else may send to a queue or invoke a function.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from tests.infra.source_template import Template


class Permission(NamedTuple):
    """One action that one role may do to one thing; or, from a resource's own policy, that somebody may."""

    role: str
    action: str
    on: str

    def __str__(self) -> str:
        return f"{self.role}: {self.action} on {self.on}"


class Grant(NamedTuple):
    """A permission, and where it stands: in which policy, in which of its statements, on which of its resources.

    CloudFormation and IAM keep the order of all three, so the places are those of the running stack too. The policy
    that a resource has of its own has no name.
    """

    permission: Permission
    policy: str
    statement: int
    resource: int

    @property
    def place(self) -> "Place":
        """Where it stands in its policy."""
        return self.statement, self.permission.action, self.resource


_WHOLE_ACCOUNT = "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"
_ARN = re.compile(r"^arn:[^:]*:(?P<service>[^:]*):[^:]*:[^:]*:(?P<resource>.*)$")
_VARIABLE = re.compile(r"\$\{AWS::\w+\}")


def _name(resource: Any) -> str:
    """A resource as a reader knows it: the template's own by its logical id, others by the end of their ARN."""
    match resource:
        case {"Ref": "KmsKeyArn"}:
            return "the stack's key"
        case {"Fn::Sub": str(text)} if text == _WHOLE_ACCOUNT:
            return "this account's IAM"
        case {"Fn::GetAtt": [str(logical_id), "Arn"]} | {"Ref": str(logical_id)}:
            return logical_id
        case {"Fn::GetAtt": [str(logical_id), "StreamArn"]}:
            return f"{logical_id}'s stream"
        case {"Fn::Sub": str(text)}:
            text = _VARIABLE.sub("-", text.replace("${AWS::StackName}", "<stack>"))
            text = re.sub(r"\$\{(\w+)(?:\.Arn)?\}", r"\1", text)
            arn = _ARN.match(text)
            return arn["resource"] if arn else text
        case str(text):
            return text
        case _:
            message = f"{resource} has no name for readers"
            raise ValueError(message)


def listed(value: Any) -> list[Any]:
    """What a policy says of one thing or of several, always as a list."""
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
        case {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": [str(partitions)]}, **rest} if not rest:
            return f", partitions {partitions} only"
        case condition:
            message = f"{condition} has no words for readers"
            raise ValueError(message)


type _Policy = tuple[str, str, dict[str, Any]]


def _policies_of_roles(template: Template) -> Iterator[_Policy]:
    """Every role's policies: the role, the policy's name, the document."""
    for logical_id, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::IAM::Role":
            if properties.get("ManagedPolicyArns"):
                message = f"{logical_id} has managed policies, which do not say what they allow"
                raise ValueError(message)
            for policy in properties.get("Policies", []):
                yield logical_id, policy["PolicyName"], policy["PolicyDocument"]
        elif resource["Type"] in {"AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"}:
            for role in properties["Roles"]:
                yield role["Ref"], properties["PolicyName"], properties["PolicyDocument"]


def _of_whom(principal: Any) -> str:
    """Whom a resource's policy lets in, in words."""
    match principal:
        case {"Service": str(service)} | str(service) if service.endswith(".amazonaws.com"):
            return f" by {service.partition('.')[0]}"
        case {"AWS": who} if len(principal) == 1:
            return f" by {', '.join(_name(each) for each in listed(who))}"
        case "*":
            return " by anybody"
        case _:
            message = f"{principal} has no words for readers"
            raise ValueError(message)


def _statement_of(permission: dict[str, Any]) -> dict[str, Any]:
    """What an AWS::Lambda::Permission puts into its function's policy."""
    return {
        "Effect": "Allow",
        "Principal": permission["Principal"],
        "Action": permission["Action"],
        "Resource": permission["FunctionName"],
        **({"Condition": {"ArnLike": {"aws:SourceArn": permission["SourceArn"]}}} if "SourceArn" in permission else {}),
    }


def _of_key(logical_id: str, policy: dict[str, Any]) -> dict[str, Any]:
    """A key's policy, in which ``*`` is the key and nothing else.

    https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-overview.html
    """
    statements = [{**each, "Resource": {"Ref": logical_id}} for each in policy["Statement"] if each["Resource"] == "*"]
    if len(statements) < len(policy["Statement"]):
        message = f"{logical_id} has a policy of a kind that nobody reads yet: a key's policy says *, which is the key"
        raise ValueError(message)
    return {**policy, "Statement": statements}


_OTHER_POLICIES = {"PolicyDocument", "KeyPolicy", "ResourcePolicy"}


def _policies_of_resources(template: Template) -> Iterator[_Policy]:
    """Every policy that a resource has of its own: its logical id, its only name, the document.

    One that this cannot read is refused, so that none is overlooked.
    """
    for logical_id, resource in template["Resources"].items():
        kind, properties = resource["Type"], resource.get("Properties", {})
        if kind == "AWS::Lambda::Permission":
            yield logical_id, "", {"Statement": [_statement_of(properties)]}
        elif kind in {"AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy"}:
            yield logical_id, "", properties["PolicyDocument"]
        elif kind == "AWS::Events::EventBusPolicy":
            yield logical_id, "", {"Statement": [properties["Statement"]]}
        elif kind == "AWS::KMS::Key":
            yield logical_id, "", _of_key(logical_id, properties["KeyPolicy"])
        elif not kind.startswith("AWS::IAM::") and _OTHER_POLICIES & properties.keys():
            message = f"{logical_id} has a policy of a kind that nobody reads yet: say here how"
            raise ValueError(message)


def _narrowed(operator: str, key: str, value: Any) -> str:
    """What one condition of a resource's policy adds, in words."""
    match operator, key, value:
        case "ArnLike", "aws:SourceArn", source:
            return f", from {_name(source)}"
        case "StringEquals", "aws:SourceAccount", {"Ref": "AWS::AccountId"}:
            return ", of this account"
        case "StringEquals", "aws:PrincipalOrgID", organization:
            return f", of {_name(organization)}"
        case "Bool", "events:eventBusInvocation", "true":
            return ", through a bus of theirs"
        case "ForAllValues:StringEquals", "events:source", sources:
            return f", {' and '.join(listed(sources))} only"
        case "Null", "events:source", "false":  # without it ForAllValues is true of a call that names no source
            return ""
        case _:
            message = f"{operator} {key} {value} has no words for readers"
            raise ValueError(message)


def _scope_of_resources_policy(statement: dict[str, Any]) -> str:
    conditions = statement.get("Condition", {}).items()
    return _of_whom(statement["Principal"]) + "".join(
        _narrowed(operator, key, value) for operator, keys in conditions for key, value in keys.items()
    )


def _in(statement: dict[str, Any], role: str, scope: str) -> Iterator[tuple[int, Permission]]:
    """The permissions of one statement, each with the number of its resource."""
    for action in listed(statement["Action"]):
        for number, resource in enumerate(listed(statement["Resource"])):
            yield number, Permission(role, action, _name(resource) + scope)


def grants(template: Template) -> list[Grant]:
    """Every permission and where it stands, in the template's order, those of roles first; repeated ones too."""
    policies = [
        *((holder, policy, document, _scope) for holder, policy, document in _policies_of_roles(template)),
        *(
            (holder, policy, document, _scope_of_resources_policy)
            for holder, policy, document in _policies_of_resources(template)
        ),
    ]
    return [
        Grant(permission, policy, number, resource)
        for holder, policy, document, scope in policies
        for number, statement in enumerate(document["Statement"])
        if statement["Effect"] == "Allow"
        for resource, permission in _in(statement, holder, scope(statement))
    ]


def granted(template: Template) -> list[Permission]:
    """Every permission, in the template's order, those of roles first; a repeated one is there twice."""
    return [grant.permission for grant in grants(template)]


type Place = tuple[int, str, int]
"""Where in a policy something is allowed: the statement's number, the action, the resource's number."""


def without(document: dict[str, Any], taken: Collection[Place]) -> dict[str, Any]:
    """A policy less some actions on some resources; all else is allowed as it was."""
    left: list[dict[str, Any]] = []
    for number, statement in enumerate(document["Statement"]):
        pairs = [
            (action, place, resource)
            for action in listed(statement["Action"])
            for place, resource in enumerate(listed(statement["Resource"]))
        ]
        kept = [each for each in pairs if (number, each[0], each[1]) not in taken]
        if kept == pairs:
            left.append(statement)
        else:
            left += [{**statement, "Action": action, "Resource": resource} for action, _, resource in kept]
    return {**document, "Statement": left}


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
