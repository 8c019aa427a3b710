"""`keyvigil import`: what people run already comes under watch, from the files that describe it."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import RenderableType
from rich.text import Text

from keyvigil_cli.command_line import Run, command
from keyvigil_cli.errors import CliError
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.printable import printable
from keyvigil_cli.settings import Settings
from keyvigil_cli.table import Column, styled, table_of

if TYPE_CHECKING:
    from keyvigil_cli.imports.found import Found
    from keyvigil_cli.registering import Line

group = typer.Typer(
    help="Put what you run already under watch; run twice, it registers nothing twice.", no_args_is_help=True
)

_LARGEST_FILE = 256 * 1024 * 1024  # bytes; JSON takes several times that in memory
_DIGITS_OF_ACCOUNT = 12

File = Annotated[str, typer.Argument(metavar="FILE", help="The file; - for standard input.")]
ProjectOption = Annotated[
    str | None, typer.Option("--project", help="The project to register in; it is made if it is not there.")
]
Roles = Annotated[
    list[str] | None,
    typer.Option("--role", help="ARN of the customer's role that may probe; one for each account, can be repeated."),
]
Account = Annotated[
    str,
    typer.Option("--account", help="The account of keys that are named without their ARN, if the file does not say."),
]
KeyRegion = Annotated[str, typer.Option("--key-region", help="Likewise, their Region.")]
LockVia = Annotated[
    Literal["none", "event"],
    typer.Option("--lock-via", help="How the clusters are locked; `cluster update` knows more."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Value of a variable; can be repeated.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Register nothing; say what would be, and what is refused.")]

_COLUMNS = (
    Column("OUTCOME", lambda item: styled(item["outcome"])),
    Column("WHAT", lambda item: printable(item["what"])),
    Column("ID", "id"),
    Column("KEY", "key"),
    Column("FROM", lambda item: printable(item["from"])),
    Column("WHY", lambda item: printable(item["reason"] or "")),
)


class NoFileError(CliError):
    """A file cannot be read."""


def content_of(file: str) -> bytes:
    """Return what is in a file, or on standard input.

    Raises:
        NoFileError: it cannot be read, or is larger than anything that is meant.
    """
    try:
        if file == "-":
            content = sys.stdin.buffer.read(_LARGEST_FILE + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise NoFileError(f"cannot read {printable(file)}: {error.strerror}") from error
    if len(content) > _LARGEST_FILE:
        raise NoFileError(
            f"{printable(file)} is larger than {_LARGEST_FILE >> 20} MiB, which nothing that is meant here is"
        )
    return content


def checked(project: str | None, account: str, *, dry_run: bool) -> None:
    """Refuse what cannot be meant, before anything is read."""
    if project is None and not dry_run:
        message = "say into which project: --project (only a dry run goes without)"
        raise typer.BadParameter(message)
    if account and not (account.isascii() and account.isdecimal() and len(account) == _DIGITS_OF_ACCOUNT):
        message = f"--account {account} is no account id: those have {_DIGITS_OF_ACCOUNT} digits"
        raise typer.BadParameter(message)


def register(
    run: Run,
    found: "Found",
    project: str | None,
    roles: list[str] | None,
    *,
    dry_run: bool,
    lock_via: str = "none",
    probe_secret_arn: str | None = None,
) -> ExitStatus:
    """Register what a file says, and print what became of each line."""
    from keyvigil_cli.registering import Registering, Wanted  # noqa: PLC0415 - loads the AWS SDK

    wanted = Wanted(
        project_id=project,
        role_arns=tuple(roles or ()),
        lock_via=lock_via,
        dry_run=dry_run,
        probe_secret_arn=probe_secret_arn,
    )
    registering = Registering(run, wanted)
    status = registering.carry_out(found)
    lines = registering.lines
    plain = [each.as_plain() for each in lines]
    answer = {"project_id": project, "dry_run": dry_run, "items": plain, "without_key": found.without_key}
    run.show(answer, lambda: shown(lines))
    if found.without_key:
        count = len(found.without_key)
        run.say(f"{count} more could have a KMS key of the customer's, and name none (--output json lists them).")
    if not lines:
        run.say("Nothing in it names a KMS key.")
    return status


def shown(lines: "Iterable[Line]") -> Iterable[RenderableType]:
    """What became of each line, and what to do about those that are not under watch."""
    lines = list(lines)
    if not lines:
        return
    yield table_of(_COLUMNS, [each.as_plain() for each in lines])
    steps: dict[str, None] = dict.fromkeys(step for each in lines for step in each.to_do)
    if steps:
        words = "\n".join(["What to do:", *(f"  {printable(step)}" for step in steps)])
        yield Text(words, overflow="ignore", no_wrap=True)


@command(group)
def terraform(
    run: Run,
    file: File,
    *,
    project: ProjectOption = None,
    roles: Roles = None,
    account: Account = "",
    key_region: KeyRegion = "",
    lock_via: LockVia = "none",
    dry_run: DryRun = False,
) -> ExitStatus:
    """Import the JSON of `terraform show -json`, of a state or a plan. Exit status 1: something is not under watch."""
    from keyvigil_cli.imports.terraform import read_terraform  # noqa: PLC0415 - only where it is used

    checked(project, account, dry_run=dry_run)
    found = read_terraform(content_of(file), account_id=account, region=key_region)
    return register(run, found, project, roles, dry_run=dry_run, lock_via=lock_via)


def variables_of(given: list[str] | None, *, environment: bool) -> dict[str, str]:
    """Return what was given as NAME=VALUE, and on request the environment below it."""
    variables = dict(os.environ) if environment else {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not name or not equals:
            message = f"--set {each.partition('=')[0]} is not NAME=VALUE"
            raise typer.BadParameter(message)
        variables[name] = value
    return variables


@command(group)
def kes(
    run: Run,
    file: File,
    *,
    project: ProjectOption = None,
    roles: Roles = None,
    probe_secret_arn: Annotated[
        str | None,
        typer.Option("--probe-secret-arn", help="ARN of a secret made for the probe; MinIO's own are never read."),
    ] = None,
    given: SetOption = None,
    environment: Annotated[
        bool, typer.Option("--environment", help="Variables have the values that they have here.")
    ] = False,
    cluster_id: Annotated[
        str | None, typer.Option("--cluster-id", help="The MinIO deployment's id; made from its key otherwise.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Its name, for people.")] = None,
    account: Account = "",
    lock_via: LockVia = "none",
    dry_run: DryRun = False,
) -> ExitStatus:
    """Import a KES server's configuration: the KMS key behind MinIO. Exit status 1: it is not under watch."""
    from keyvigil.domain.arns import role_account  # noqa: PLC0415 - only where it is used
    from keyvigil_cli.imports.found import is_cluster_id  # noqa: PLC0415 - likewise
    from keyvigil_cli.imports.kes import read_kes  # noqa: PLC0415 - likewise: loads YAML

    checked(project, account, dry_run=dry_run)
    if cluster_id is not None and not is_cluster_id(cluster_id):
        message = "--cluster-id has 1 to 63 letters, digits, - and _, and begins with a letter or digit"
        raise typer.BadParameter(message)
    accounts = {role_account(each) or "" for each in roles or ()}
    found = read_kes(
        content_of(file),
        "standard input" if file == "-" else Path(file).name,
        variables=variables_of(given, environment=environment),
        account_id=account or (accounts.pop() if len(accounts) == 1 else ""),
        cluster_id=cluster_id,
        name=name,
    )
    return register(run, found, project, roles, dry_run=dry_run, lock_via=lock_via, probe_secret_arn=probe_secret_arn)


def names_a_file(text: str) -> bool:
    """Say whether this is a file rather than a stack: stacks' names have neither dots nor slashes, their ARNs both."""
    return not text.startswith("arn:") and (text == "-" or "." in text or "/" in text or Path(text).exists())


@command(group)
def cloudformation(
    run: Run,
    source: Annotated[str, typer.Argument(metavar="STACK|FILE", help="A deployed stack's name or ARN; or a template.")],
    *,
    project: ProjectOption = None,
    roles: Roles = None,
    stack_profile: Annotated[
        str | None, typer.Option("--stack-profile", help="Profile that may read the stack, if not that of KeyVigil.")
    ] = None,
    stack_region: Annotated[
        str | None, typer.Option("--stack-region", help="Region of the stack, if not that of KeyVigil.")
    ] = None,
    given: SetOption = None,
    account: Account = "",
    key_region: KeyRegion = "",
    lock_via: LockVia = "none",
    dry_run: DryRun = False,
) -> ExitStatus:
    """Import a deployed CloudFormation stack, or a template, CDK's too. Exit status 1: something is not under watch."""
    from keyvigil_cli.imports.cloudformation import (  # noqa: PLC0415 - loads YAML
        Deployed,
        read_resources,
        read_template,
    )

    checked(project, account, dry_run=dry_run)
    if names_a_file(source):
        variables = variables_of(given, environment=False)
        said = Deployed(region=key_region, account_id=account, parameters=variables)
        found = read_resources(read_template(content_of(source)), said)
    else:
        if given:
            message = "--set is for a template in a file: a deployed stack has the values of its parameters"
            raise typer.BadParameter(message)
        from keyvigil_cli.connection import session_of  # noqa: PLC0415 - loads the AWS SDK
        from keyvigil_cli.deployed_stack import read_stack  # noqa: PLC0415 - likewise

        theirs = run.settings.but(Settings(profile=stack_profile, region=stack_region))
        with run.working(f"reading the stack {source}") as news:
            found = read_stack(session_of(theirs), source, news)
    return register(run, found, project, roles, dry_run=dry_run, lock_via=lock_via)
