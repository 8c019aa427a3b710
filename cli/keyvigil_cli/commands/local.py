"""`keyvigil local`: an AWS of your own with the deployed stack, to play with and to try a customer's files."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from keyvigil_cli.command_line import Run, command
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.table import Cell, Column, fields_of, when

if TYPE_CHECKING:
    from keyvigil_cli.local_stack import Standing

group = typer.Typer(
    help="A local cloud with the deployed stack: to play with, and to try a customer's files.", no_args_is_help=True
)

CheckoutFolder = Annotated[
    Path | None, typer.Option("--checkout", help="A folder in the checkout to use, instead of the current one.")
]

Name = Annotated[str, typer.Option(help="Which local cloud: several can be up.")]


def _state(item: dict[str, object]) -> Cell:
    if item["up"]:
        return Text("up", "green")
    return Text(f"broken: {item['trouble']}", "bold red") if item["trouble"] else Text("down")


def _last_sweep(item: dict[str, object]) -> Cell:
    last = item["last_sweep"]
    return when(last["at"]) if isinstance(last, dict) else "none yet: they come every minute"


_FIELDS = (
    Column("Local cloud", _state),
    Column("Endpoint", "endpoint_url"),
    Column("API", "api_url"),
    Column("Region", "region"),
    Column("Accounts", "accounts"),
    Column("Last sweep", _last_sweep),
    Column("Process", "pid"),
    Column("Logs", "directory"),
)


def _shown(standing: "Standing") -> Iterable[RenderableType]:
    plain = standing.as_plain()
    yield fields_of(_FIELDS if standing.directory else _FIELDS[:1], plain)


def _show(run: Run, standing: "Standing") -> None:
    run.show(standing.as_plain(), lambda: _shown(standing))


@command(group)
def up(
    run: Run,
    *,
    name: Name = "default",
    checkout: CheckoutFolder = None,
    redeploy: Annotated[
        bool, typer.Option("--redeploy", help="If it is up: deploy the checkout as it is now, too.")
    ] = False,
) -> None:
    """Start a local cloud in the background and deploy the stack to it; say how to reach it. Again changes nothing."""
    from keyvigil_cli import local_stack  # noqa: PLC0415 - loads the AWS SDK
    from keyvigil_cli.checkout import Checkout  # noqa: PLC0415 - likewise

    standing = local_stack.up(Checkout.find(checkout), run.teller, name=name, redeploy=redeploy)
    _show(run, standing)
    run.say(
        f"\nLead this shell to it:\n  . {standing.environment_file}\n"
        "then, as the operator:\n"
        "  keyvigil project create acme-prod --enforcement enforce\n"
        "  keyvigil fleet watch\n"
        "as the customer:\n"
        "  aws --profile customer kms create-key\n"
        "docs/deploy.md goes on from here; on this cloud its ROLE_PARAMETERS is RestrictToProbes=false.\n"
        "End it: keyvigil local down"
    )


@command(group)
def status(run: Run, *, name: Name = "default", checkout: CheckoutFolder = None) -> ExitStatus:
    """Say what runs, where its API is, and whether it answers. Exit status 3: it is not up."""
    from keyvigil_cli import local_stack  # noqa: PLC0415 - loads the AWS SDK
    from keyvigil_cli.checkout import Checkout  # noqa: PLC0415 - likewise

    with run.working("asking the local cloud"):
        standing = local_stack.standing(Checkout.find(checkout), name=name)
    _show(run, standing)
    return ExitStatus.FINE if standing.is_up else ExitStatus.UNHEALTHY


@command(group)
def down(run: Run, *, name: Name = "default", checkout: CheckoutFolder = None) -> None:
    """End the local cloud and all that it started, with everything in it."""
    from keyvigil_cli import local_stack  # noqa: PLC0415 - loads the AWS SDK
    from keyvigil_cli.checkout import Checkout  # noqa: PLC0415 - likewise

    ended = local_stack.down(Checkout.find(checkout), run.teller, name=name)
    run.say("The local cloud has ended." if ended else "No local cloud is up.")
