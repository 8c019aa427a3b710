"""A deployed CloudFormation stack with its nested ones: template, parameters, what was made, what is exported."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

from botocore.exceptions import ClientError

from keyvigil_cli.errors import CliError
from keyvigil_cli.imports.cloudformation import Deployed, needs_exports, read_resources, read_template
from keyvigil_cli.imports.found import Found, Why
from keyvigil_cli.imports.kms_names import place_of
from keyvigil_cli.printable import printable

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

_DEEPEST = 10  # stacks in stacks
_MOST = 200  # stacks in one import


class StackUnreadableError(CliError):
    """CloudFormation does not tell what was asked."""

    next_steps = (
        "Where is it? --stack-profile and --stack-region say so; without them it is where KeyVigil is.",
        "Reading it, and what is nested in it, needs cloudformation:DescribeStacks, cloudformation:GetTemplate,",
        "cloudformation:ListStackResources and cloudformation:ListExports.",
    )


class Session(Protocol):
    """What of the SDK's session is needed."""

    def client(self, service_name: Literal["cloudformation"]) -> "CloudFormationClient":
        """Make a client."""


def read_stack(session: Session, stack: str, news: Callable[[str], None]) -> Found:
    """Read a stack, by its name or ARN, and all that are nested in it. It calls what reads, and nothing else.

    Raises:
        StackUnreadableError: there is no such stack, or it may not be read.
    """
    found = Found()
    try:
        parts = list(_Stacks(session.client("cloudformation"), news).read(stack))
    except ClientError as error:
        message = f"cannot read the stack {printable(stack)}: {printable(error)}"
        raise StackUnreadableError(message) from error
    for part in parts:
        found.dependents += part.dependents
        found.left_out += part.left_out
        found.without_key += part.without_key
    return found.settled()


class _Stacks:
    def __init__(self, client: "CloudFormationClient", news: Callable[[str], None]) -> None:
        self._client = client
        self._news = news
        self._read = 0
        self._exports: dict[str, str] | None = None

    def read(self, stack: str, depth: int = 0) -> Iterator[Found]:
        """Read one, then those nested in it."""
        self._read += 1
        self._news(f"{self._read} stacks")
        told = self._client.describe_stacks(StackName=stack)["Stacks"][0]
        # The template as it was carried out, transforms and macros done.
        # https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_GetTemplate.html
        body: Any = self._client.get_template(StackName=stack, TemplateStage="Processed")["TemplateBody"]
        template = read_template(body) if isinstance(body, str) else dict(body)
        made = dict(self._made(stack))
        place = place_of(told["StackId"])
        nested = {name: physical for name, (kind, physical) in made.items() if kind == "AWS::CloudFormation::Stack"}
        deployed = Deployed(
            region=place.region,
            account_id=place.account_id,
            name=told["StackName"],
            # A parameter that names one of SSM's has the value in ResolvedValue.
            parameters={
                each["ParameterKey"]: each.get("ResolvedValue") or each.get("ParameterValue", "")
                for each in told.get("Parameters", [])
            },
            physical={name: physical for name, (_, physical) in made.items()},
            exports=self._exported() if needs_exports(template) else {},
            nested={name: self._outputs(physical) for name, physical in nested.items()},
            is_stack=True,
        )
        yield read_resources(template, deployed)
        for name, physical in nested.items():
            if depth >= _DEEPEST or self._read >= _MOST:
                left = Found()
                left.leave_out(
                    f"{told['StackName']}.{name}", Why.REFUSED, "is nested too deeply", "Import it by its name."
                )
                yield left
            else:
                yield from self.read(physical, depth + 1)

    def _made(self, stack: str) -> Iterator[tuple[str, tuple[str, str]]]:
        # DescribeStackResources stops at 100: https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_DescribeStackResources.html
        for page in self._client.get_paginator("list_stack_resources").paginate(StackName=stack):
            for each in page["StackResourceSummaries"]:
                physical = each.get("PhysicalResourceId", "")
                if physical and each["ResourceStatus"] != "DELETE_COMPLETE":
                    yield each["LogicalResourceId"], (each["ResourceType"], physical)

    def _outputs(self, stack: str) -> dict[str, str]:
        told = self._client.describe_stacks(StackName=stack)["Stacks"][0]
        return {each["OutputKey"]: each["OutputValue"] for each in told.get("Outputs", [])}

    def _exported(self) -> dict[str, str]:
        if self._exports is None:
            pages = self._client.get_paginator("list_exports").paginate()
            try:
                self._exports = {each["Name"]: each["Value"] for page in pages for each in page["Exports"]}
            except ClientError:
                self._exports = {}  # what needs one is told to be open
        return self._exports
