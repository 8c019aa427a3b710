"""The policies of a deployed stack, which can be narrowed while it runs and are put back as they were."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import boto3

from keyvigil_cli.local_cloud import STACK_NAME
from tests.infra.permissions import Grant, Permission, grants, listed, without
from tests.infra.source_template import Template

type Document = dict[str, Any]
type PolicyName = tuple[str, str]
"""Whose policy, by logical id, and its name; a resource's own policy has none."""


class RunningStack:
    """What the deployed stack's policies say now. ``template`` is what it was deployed from, resolved."""

    def __init__(self, session: boto3.Session, template: Template) -> None:
        self._iam = session.client("iam")
        self._sqs = session.client("sqs")
        self._lambda = session.client("lambda")
        self._kms = session.client("kms")
        self._sns = session.client("sns")
        self._resources = template["Resources"]
        self._physical: dict[str, str] = {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for page in session.client("cloudformation")
            .get_paginator("list_stack_resources")
            .paginate(StackName=STACK_NAME)
            for resource in page["StackResourceSummaries"]
        }
        self._grants: dict[Permission, Grant] = {grant.permission: grant for grant in grants(template)}
        self._written: dict[PolicyName, Document] = {
            (grant.permission.role, grant.policy): {} for grant in self._grants.values()
        }
        for policy in self._written:
            self._written[policy] = self._read(policy)
        self._refuse_other_policies()

    def _read(self, policy: PolicyName) -> Document:
        holder, name = policy
        match self._resources[holder]["Type"]:
            case "AWS::IAM::Role":
                answer = self._iam.get_role_policy(RoleName=self._physical[holder], PolicyName=name)
                document: Any = answer["PolicyDocument"]
            case "AWS::SQS::QueuePolicy":
                asked = self._sqs.get_queue_attributes(QueueUrl=self._queue(holder), AttributeNames=["Policy"])
                document = json.loads(asked["Attributes"]["Policy"])
            case "AWS::SNS::TopicPolicy":
                topic = self._sns.get_topic_attributes(TopicArn=self._topic(holder))
                document = json.loads(topic["Attributes"]["Policy"])
            case "AWS::Lambda::Permission":
                whole = json.loads(self._lambda.get_policy(FunctionName=self._function(holder))["Policy"])
                sid = self._physical[holder]
                document = {"Statement": [each for each in whole["Statement"] if each["Sid"] == sid]}
            case "AWS::KMS::Key":
                document = json.loads(self._kms.get_key_policy(KeyId=self._physical[holder])["Policy"])
            case kind:
                message = f"{holder} is an {kind}: say here how its policy is read and written"
                raise ValueError(message)
        return dict(document)

    def _write(self, policy: PolicyName, document: Document) -> None:
        holder, name = policy
        match self._resources[holder]["Type"]:
            case "AWS::IAM::Role" if document["Statement"]:
                self._iam.put_role_policy(
                    RoleName=self._physical[holder], PolicyName=name, PolicyDocument=json.dumps(document)
                )
            case "AWS::IAM::Role":
                self._iam.delete_role_policy(RoleName=self._physical[holder], PolicyName=name)
            case "AWS::SQS::QueuePolicy":
                said = json.dumps(document) if document["Statement"] else ""
                self._sqs.set_queue_attributes(QueueUrl=self._queue(holder), Attributes={"Policy": said})
            case "AWS::SNS::TopicPolicy":
                self._sns.set_topic_attributes(
                    TopicArn=self._topic(holder), AttributeName="Policy", AttributeValue=json.dumps(document)
                )
            case "AWS::KMS::Key":
                # Nobody could put it back on AWS; here the account's root may, whatever the policy says.
                self._kms.put_key_policy(KeyId=self._physical[holder], Policy=json.dumps(document))
            case _:
                self._write_function_policy(holder, document)

    def _write_function_policy(self, holder: str, document: Document) -> None:
        """A function's policy is changed statement by statement."""
        for statement in self._written[holder, ""]["Statement"]:
            if not document["Statement"]:
                self._lambda.remove_permission(FunctionName=self._function(holder), StatementId=statement["Sid"])
            else:
                source = statement.get("Condition", {}).get("ArnLike", {}).get("AWS:SourceArn")
                self._lambda.add_permission(
                    FunctionName=self._function(holder),
                    StatementId=statement["Sid"],
                    Action=statement["Action"],
                    Principal=statement["Principal"]["Service"],
                    **({"SourceArn": source} if source else {}),
                )

    def _queue(self, policy: str) -> str:
        [queue] = self._resources[policy]["Properties"]["Queues"]
        return self._physical[queue["Ref"]]

    def _topic(self, policy: str) -> str:
        [topic] = self._resources[policy]["Properties"]["Topics"]
        return self._physical[topic["Ref"]]

    def _function(self, permission: str) -> str:
        return self._physical[self._resources[permission]["Properties"]["FunctionName"]["Ref"]]

    def _refuse_other_policies(self) -> None:
        """The template's places are the running policies' places: otherwise something else would be taken away."""
        places = Counter((grant.permission.role, grant.policy, grant.statement) for grant in self._grants.values())
        for permission, grant in self._grants.items():
            statement = self._written[permission.role, grant.policy]["Statement"][grant.statement]
            actions, resources = listed(statement["Action"]), listed(statement["Resource"])
            assert permission.action in actions, f"{permission} is not where it should be"
            allowed = len(actions) * len(resources)
            assert places[permission.role, grant.policy, grant.statement] == allowed, f"{permission} is not alone there"
        for role in {role for role, name in self._written if name}:
            running = set(self._iam.list_role_policies(RoleName=self._physical[role])["PolicyNames"])
            assert running == {name for of, name in self._written if of == role}
            assert not self._iam.list_attached_role_policies(RoleName=self._physical[role])["AttachedPolicies"]

    @contextlib.contextmanager
    def without(self, *permissions: Permission) -> Iterator[None]:
        """Take these away, and nothing else, inside the context."""
        wanted = [self._grants[each] for each in permissions]
        narrowed = {
            policy: without(document, {each.place for each in wanted if (each.permission.role, each.policy) == policy})
            for policy, document in self._written.items()
            if any((each.permission.role, each.policy) == policy for each in wanted)
        }
        try:
            for policy, document in narrowed.items():
                self._write(policy, document)
            yield
        finally:
            for policy in narrowed:
                self._write(policy, self._written[policy])

    def functions_of(self, role: str) -> list[str]:
        """The names of the functions that have this role; none has what is no role."""
        return [
            self._physical[name]
            for name, resource in self._resources.items()
            if resource["Type"] == "AWS::Lambda::Function"
            and resource["Properties"]["Role"] == {"Fn::GetAtt": [role, "Arn"]}
        ]
