"""The operator's account as the caller's AWS settings lead to it: on AWS, or on a local cloud (AWS_ENDPOINT_URL)."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from keyvigil_cli.api_client import ApiClient
from keyvigil_cli.errors import CliError
from keyvigil_cli.uninstall import Account, Deletion, Leftover, Stack

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import StackTypeDef
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_sns import SNSClient

FUNCTIONS = (
    "call-receiver",
    "check-keys",
    "decide-lockout",
    "decide-recovery",
    "lock-cluster",
    "plan-sweep",
    "receive-key-event",
    "registry-api",
    "relay-outbox",
    "render-widget",
    "settle-lockout",
    "settle-recovery",
    "unlock-cluster",
)
"""The stack's functions without its name, for the names of their log groups."""

LAYERS = ("package", "api")
"""The stack's layers without its name."""

DESCRIPTION = "KeyVigil "
"""How the template's description begins: nobody's stack is deleted for a slip of the finger."""

# Once its deletion has begun, the API may be gone already, or gone the next moment.
_GOING = ("DELETE_IN_PROGRESS", "DELETE_FAILED", "ROLLBACK_COMPLETE")


class NotConfiguredError(CliError):
    """The caller's AWS settings lack something."""

    def __init__(self, message: str, *next_steps: str) -> None:
        """Say what is lacking, and what to do about it."""
        super().__init__(message)
        self.next_steps = next_steps


class AwsAccount(Account):
    """A stack's account and Region, with the caller's credentials."""

    def __init__(self, stack_name: str, session: boto3.Session, *, endpoint_url: str | None = None) -> None:
        """Take the stack's name. `endpoint_url` is that of a local cloud, whose APIs have addresses of their own.

        Raises:
            NotConfiguredError: there are no credentials, or no Region.
        """
        self._stack_name = stack_name
        self._session = session
        self._endpoint_url = endpoint_url
        # The stubs promise a Region; a machine without settings has none.
        region = cast("str | None", session.region_name)
        credentials = session.get_credentials()
        if region is None or credentials is None:
            if region is None:
                raise NotConfiguredError(
                    "your AWS settings name no Region",
                    "Give the one that KeyVigil is deployed in: `--region us-west-2`.",
                )
            raise NotConfiguredError(
                "your AWS settings name no credentials",
                "Give some: `--profile NAME`, AWS_PROFILE, `aws sso login` or `aws configure`.",
            )
        self._region, self._credentials = region, credentials

    # Each client reads its service's model, which takes a person's while; most callers need one of them.
    @cached_property
    def _stacks(self) -> "CloudFormationClient":
        return self._session.client("cloudformation")

    @cached_property
    def _topics(self) -> "SNSClient":
        return self._session.client("sns")

    @cached_property
    def _functions(self) -> "LambdaClient":
        return self._session.client("lambda")

    @cached_property
    def _logs(self) -> Any:
        return self._session.client("logs")

    @cached_property
    def _buckets(self) -> Any:
        return self._session.client("s3")

    def stack(self) -> Stack | None:
        """Find the stack, and its API by its outputs."""
        found = self._find()
        if found is None:
            return None
        return Stack(stack_id=found["StackId"], status=found["StackStatus"], registry=self._api_of(found))

    def api(self) -> ApiClient:
        """Find the stack's API.

        Raises:
            NotConfiguredError: there is no such stack here.
        """
        found = self._find()
        if found is None:
            raise NotConfiguredError(
                f"there is no stack {self._stack_name} in {self._region} of this account",
                "Name the stack with `--stack`, and the Region that it is deployed in with `--region`.",
                "If it is in another account: `--profile`, or the API's address with `--api-url`.",
            )
        api = self._api_of(found)
        if api is None:
            raise NotConfiguredError(
                f"stack {self._stack_name} is {found['StackStatus']} and has no API",
                "Wait until its deployment has ended, or deploy it again: `make deploy`.",
            )
        return api

    def table_name(self) -> str:
        """Find the stack's table.

        Raises:
            NotConfiguredError: there is no such stack here, or it has no table.
        """
        found = self._find()
        name = _outputs(found).get("TableName") if found is not None else None
        if name is None:
            message = f"there is no stack {self._stack_name} with a table in {self._region} of this account"
            raise NotConfiguredError(message)
        return name

    def _api_of(self, stack: "StackTypeDef") -> ApiClient | None:
        """Make a client of a stack's API; None before it was deployed, or once it may be gone."""
        outputs = _outputs(stack)
        if "ApiUrl" not in outputs or stack["StackStatus"] in _GOING:
            return None
        url = outputs["ApiUrl"]
        if self._endpoint_url is not None:
            url = f"{self._endpoint_url.rstrip('/')}/_aws/execute-api/{outputs['ApiId']}/$default"
        return ApiClient(url, self._region, self._credentials)

    def _find(self) -> "StackTypeDef | None":
        """Find the stack by its name.

        Raises:
            NotConfiguredError: it is another application's.
        """
        found = self._describe(self._stack_name)
        if found is None:
            return None
        description = found.get("Description", "")
        # The local cloud forgets descriptions, so either sign will do.
        if not description.startswith(DESCRIPTION) and "MonitorRoleArn" not in _outputs(found):
            message = f"stack {self._stack_name} is not KeyVigil's; it says it is: {description or 'nothing'}"
            raise NotConfiguredError(message)
        return found

    def _describe(self, name: str) -> "StackTypeDef | None":
        try:
            (stack,) = self._stacks.describe_stacks(StackName=name)["Stacks"]
        except ClientError as error:
            # CloudFormation's word for a stack that is not there is ValidationError, with this sentence.
            if "does not exist" in str(error):
                return None
            raise
        return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack

    def delete_stack(self, stack_id: str) -> None:
        """Ask for it."""
        self._stacks.delete_stack(StackName=stack_id)

    def deletion(self, stack_id: str) -> Deletion:
        """Count the resources that are gone."""
        stack = self._describe(stack_id)
        if stack is None:
            return Deletion(status="DELETE_COMPLETE", deleted=0, resources=0, reason="")
        pages = self._stacks.get_paginator("list_stack_resources").paginate(StackName=stack_id)
        resources = [each for page in pages for each in page["StackResourceSummaries"]]
        gone = sum(each["ResourceStatus"] == "DELETE_COMPLETE" for each in resources)
        reason = stack.get("StackStatusReason", "")
        return Deletion(status=stack["StackStatus"], deleted=gone, resources=len(resources), reason=reason)

    def leftovers(self) -> Sequence[Leftover]:
        """Find topics of projects, layer versions and log groups of the stack; and buckets that bear its name.

        The stack makes no bucket. `sam deploy` puts what it uploads into one of SAM's own, which other
        applications use too.
        """
        return [*self._left_topics(), *self._left_layers(), *self._left_log_groups(), *self._left_buckets()]

    def _left_topics(self) -> Iterator[Leftover]:
        for page in self._topics.get_paginator("list_topics").paginate():
            for topic in page["Topics"]:
                arn = topic["TopicArn"]
                if arn.rpartition(":")[2].startswith(f"{self._stack_name}-project-"):
                    yield Leftover("topic", arn, is_ours=self._is_tagged(arn))

    def _is_tagged(self, topic_arn: str) -> bool:
        """Whether a topic says that it is this stack's; one of a stack with a longer name begins the same way."""
        tags = self._topics.list_tags_for_resource(ResourceArn=topic_arn)["Tags"]
        return {"Key": "keyvigil:stack", "Value": self._stack_name} in tags

    def _left_layers(self) -> Iterator[Leftover]:
        for layer in LAYERS:
            name = f"{self._stack_name}-{layer}"
            for page in self._functions.get_paginator("list_layer_versions").paginate(LayerName=name):
                for version in page["LayerVersions"]:
                    yield Leftover("layer version", f"{name}:{version['Version']}", is_ours=True)

    def _left_log_groups(self) -> Iterator[Leftover]:
        ours = {f"/aws/lambda/{self._stack_name}-{name}" for name in FUNCTIONS}
        ours.add(f"/aws/apigateway/{self._stack_name}")
        ours |= {f"/aws/vendedlogs/states/{self._stack_name}-cluster-{each}" for each in ("lockout", "recovery")}
        pages = self._logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix="/aws/")
        for page in pages:
            for group in page["logGroups"]:
                if group["logGroupName"] in ours:
                    yield Leftover("log group", group["logGroupName"], is_ours=True)

    def _left_buckets(self) -> Iterator[Leftover]:
        for bucket in self._buckets.list_buckets()["Buckets"]:
            if bucket["Name"].startswith(f"{self._stack_name}-"):
                yield Leftover("bucket", bucket["Name"], is_ours=False)

    def remove(self, leftover: Leftover) -> None:
        """Delete one of them."""
        match leftover.kind:
            case "topic":
                self._topics.delete_topic(TopicArn=leftover.name)
            case "layer version":
                name, _, version = leftover.name.rpartition(":")
                self._functions.delete_layer_version(LayerName=name, VersionNumber=int(version))
            case "log group":
                self._logs.delete_log_group(logGroupName=leftover.name)
            case _:
                message = f"{leftover.kind} {leftover.name} is not KeyVigil's to delete"
                raise ValueError(message)


def _outputs(stack: "StackTypeDef") -> dict[str, str]:
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


AWS_ERRORS = (BotoCoreError, ClientError)
"""What a call may raise that a person should read as one message."""
