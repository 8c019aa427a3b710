"""`keyvigil policy`: policies to be pasted, or given to `aws` as files. Nothing is looked up and nothing is changed."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from keyvigil.domain.keys import KeyUse
from keyvigil_cli.command_line import Run, command
from keyvigil_cli.errors import CliError
from keyvigil_cli.policies.adding_keys import with_key
from keyvigil_cli.policies.customer_role import CustomerRole, trust
from keyvigil_cli.policies.documents import BadPolicyError, Document, parsed
from keyvigil_cli.policies.key_policy import Users, key_policy, stack_key_policy
from keyvigil_cli.policies.services import SERVICES
from keyvigil_cli.policies.tenant import tenant_policy
from keyvigil_cli.printable import as_json

group = typer.Typer(help="Policies: of roles, keys and tenants, printed as JSON.", no_args_is_help=True)

UseWord = Literal["cmek", "cse", "kes", "service"]

KeyArn = Annotated[str, typer.Argument(metavar="KEY_ARN", help="ARN of the key.")]
Project = Annotated[str, typer.Option(help="The project whose probes the role may encrypt and decrypt.")]
UseOption = Annotated[UseWord, typer.Option("--use", help="What the keys are used for.")]
Restricted = Annotated[
    bool,
    typer.Option(
        "--restrict-to-probes/--no-restrict-to-probes",
        help="Allow KeyVigil's own probes only. `no` is for clouds that compare no encryption context.",
    ),
]
Rotation = Annotated[bool, typer.Option("--rotation-status/--no-rotation-status", help="Let KeyVigil see rotation.")]
ProbeSecret = Annotated[str | None, typer.Option("--probe-secret-arn", help="The secret of use `kes`.")]
Account = Annotated[str, typer.Option("--account", help="The AWS account that KeyVigil runs in.")]


class UnreadableFileError(CliError):
    """A file that was named cannot be read."""


@command(group, "trust")
def trust_policy(
    run: Run,
    *,
    account: Account,
    external_id: Annotated[str, typer.Option(help="The project's ExternalId.")],
    monitor_role_name: Annotated[str, typer.Option(help="KeyVigil's role there.")] = "keyvigil-monitor",
) -> None:
    """Print whom a customer's role trusts: KeyVigil's monitor role, with the project's ExternalId, and nobody else."""
    _print(run, trust(account, external_id, monitor_role_name=monitor_role_name))


@command(group)
def role(
    run: Run,
    *,
    project: Project,
    key: Annotated[list[str], typer.Option("--key", help="ARN of a key or a replica; again for each.")],
    use: UseOption = "cmek",
    probe_secret_arn: ProbeSecret = None,
    rotation_status: Rotation = True,
    lookup_events: Annotated[
        bool, typer.Option("--lookup-events", help="Let KeyVigil search CloudTrail for who broke a key.")
    ] = False,
    restrict_to_probes: Restricted = True,
) -> None:
    """Print what a customer's role may do: as onboarding/customer-role.yaml and the Terraform module say it."""
    made = CustomerRole(
        key_arns=tuple(key),
        use=KeyUse(use),
        project_id=project if restrict_to_probes else None,
        probe_secret_arn=probe_secret_arn,
        rotation_status=rotation_status,
        lookup_events=lookup_events,
    )
    _print(run, made.permissions())


@command(group, "add-key")
def add_key(
    run: Run,
    key_arn: KeyArn,
    *,
    policy: Annotated[str, typer.Option("--policy", help="A file with the role's policy; `-`: standard input.")] = "-",
) -> None:
    """Print a role's policy with one key more, wherever it allows something on keys."""
    _print(run, with_key(parsed(_read(policy)), key_arn))


@command(group, "key")
def key_policy_of(
    run: Run,
    key_arn: KeyArn,
    *,
    probe_role: Annotated[list[str] | None, typer.Option(help="A role that KeyVigil assumes; again for each.")] = None,
    project: Annotated[str | None, typer.Option(help="Allow --probe-role the probes of this project only.")] = None,
    use: UseOption = "cmek",
    service: Annotated[
        list[str] | None, typer.Option(help=f"An AWS service that uses the key; again for each: {', '.join(SERVICES)}.")
    ] = None,
    role_arn: Annotated[
        list[str] | None, typer.Option("--role", help="A role that uses the key through the --service; again for each.")
    ] = None,
    resource: Annotated[
        list[str] | None,
        typer.Option(help="ARN of a bucket, table, secret, function, parameter, trail or log group; for nothing else."),
    ] = None,
    set_up: Annotated[
        bool, typer.Option("--set-up", help="Allow --role also to make new resources under the key.")
    ] = False,
    administrator: Annotated[
        list[str] | None,
        typer.Option(help="Who alone manages the key; without any, the account's IAM decides. Again for each."),
    ] = None,
) -> None:
    """Print a key's policy: for the roles that KeyVigil assumes, for AWS services, for roles that go through them."""
    users = Users(
        probes=tuple(probe_role or ()),
        roles=tuple(role_arn or ()),
        services=tuple(service or ()),
        resources=tuple(resource or ()),
        set_up=set_up,
    )
    unknown = sorted({*users.services} - {*SERVICES})
    if unknown:
        message = f"{unknown[0]} is none of {', '.join(SERVICES)}"
        raise typer.BadParameter(message, param_hint="--service")
    if users.roles and not users.services:
        raise BadPolicyError("say with --service what --role uses the key through, or name a --probe-role")
    # The probe's secret is opened by the role's policy; a key's has no part in it.
    probing = CustomerRole(key_arns=(key_arn,), use=_of_keys(use), project_id=project)
    _print(run, key_policy(key_arn, users, use=probing, administrators=tuple(administrator or ())))


def _of_keys(use: UseWord) -> KeyUse:
    return KeyUse.CMEK if use == "kes" else KeyUse(use)


@command(group, "stack-key")
def stack_key(
    run: Run,
    key_arn: KeyArn,
    *,
    account: Account,
    stack_region: Annotated[str, typer.Option(help="The Region that KeyVigil is deployed in.")],
) -> None:
    """Print the policy of the key that `KmsKeyArn` names: docs/own-key.md."""
    _print(run, stack_key_policy(key_arn, account_id=account, region=stack_region))


@command(group)
def tenant(
    run: Run,
    *,
    project: Annotated[str, typer.Option(help="The tenant's project.")],
    api_id: Annotated[str, typer.Option(help="The stack's output ApiId.")],
    account: Account,
    api_region: Annotated[str, typer.Option(help="The Region that KeyVigil is deployed in.")],
    read_only: Annotated[bool, typer.Option("--read-only", help="Look, and change nothing.")] = False,
) -> None:
    """Print what lets a tenant's role call the API for its own project."""
    made = tenant_policy(api_id, account_id=account, region=api_region, project_id=project, read_only=read_only)
    _print(run, made)


def _print(run: Run, made: Document) -> None:
    """A policy is one JSON document, whoever reads it."""
    run.output.out(as_json(made), highlight=False)


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{name} cannot be read: {error}"
        raise UnreadableFileError(message) from error
