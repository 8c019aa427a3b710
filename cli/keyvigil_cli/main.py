"""The command ``keyvigil``."""

import os
from pathlib import Path
from typing import Annotated

import boto3
import typer
from rich.console import Console

from keyvigil.errors import KeyVigilError
from keyvigil_cli import demo as demo_story
from keyvigil_cli import uninstall as uninstallation
from keyvigil_cli.api_call import call
from keyvigil_cli.aws_account import AWS_ERRORS, AwsAccount
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.errors import CliError

_PIPE_WIDTH = 140

StackName = Annotated[str, typer.Option(help="The stack's name.")]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _output() -> Console:
    console = Console()
    # A file or a pipe has no width: rich would take 80 columns and break every second cell of a table.
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


@app.callback()
def keyvigil() -> None:
    """Watch customers' KMS keys, and what depends on them."""


@app.command()
def demo(
    checkout: Annotated[
        Path | None, typer.Option(help="A folder in the checkout to use, instead of the current one.")
    ] = None,
    *,
    keep: Annotated[
        bool,
        typer.Option("--keep", envvar="KEEP", help="Leave the local cloud running and say how to reach it."),
    ] = False,
) -> None:
    """Show an outage of a customer's key from end to end on a local cloud; takes about five minutes."""
    errors = Console(stderr=True)
    try:
        found = Checkout.find(checkout)
    except CliError as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    raise typer.Exit(demo_story.run(found, keep=keep, output=_output(), errors=errors))


def _account(stack: str) -> AwsAccount:
    return AwsAccount(stack, boto3.Session(), endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))


@app.command()
def api(
    method: Annotated[str, typer.Argument(help="GET, POST, PATCH or DELETE.")],
    path: Annotated[str, typer.Argument(help="Such as /projects/acme-prod/keys.")],
    body: Annotated[str, typer.Argument(help="The request's body, JSON.")] = "",
    *,
    field: Annotated[str, typer.Option(help="Print only this field of the answer, without quotes.")] = "",
    stack: StackName = "keyvigil",
) -> None:
    """Call the registry's API with your AWS credentials, and print its answer."""
    errors = Console(stderr=True)
    try:
        print(call(_account(stack).api(), method, path, body, field=field))  # noqa: T201 - data, for other programs
    except (CliError, *AWS_ERRORS) as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


@app.command()
def uninstall(
    stack: StackName = "keyvigil",
    *,
    release: Annotated[
        bool,
        typer.Option("--release", help="Unlock what is locked first, whatever the keys, instead of refusing."),
    ] = False,
    wait_minutes: Annotated[int, typer.Option(help="How long unlocking may take.", min=1)] = 45,
) -> None:
    """Remove a stack with everything that it made; refuse while clusters are locked."""
    errors = Console(stderr=True)
    try:
        uninstallation.run(
            _account(stack), stack, release=release, release_seconds=wait_minutes * 60.0, output=_output()
        )
    except (CliError, *AWS_ERRORS) as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


@app.command()
def restore(
    stack: StackName = "keyvigil",
    *,
    from_table: Annotated[
        str, typer.Option(help="A restored table, whose items are copied into the stack's first.")
    ] = "",
    above: Annotated[int, typer.Option(help="A fence that a receiver says it has seen.", min=0, max=2**53)] = 0,
) -> None:
    """After a restore of the table: prove every key anew, and ask every receiver anew (docs/restore.md)."""
    from keyvigil_cli import restore as restoring  # noqa: PLC0415  nothing else here needs what the functions need

    errors = Console(stderr=True)
    try:
        table = _account(stack).table_name()
        restoring.run(boto3.Session(), table, from_table=from_table or None, above=above, output=_output())
    except (CliError, KeyVigilError, *AWS_ERRORS) as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
