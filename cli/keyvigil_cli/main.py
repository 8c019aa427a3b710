"""The command ``keyvigil``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from keyvigil_cli import demo as demo_story
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.errors import CliError

_PIPE_WIDTH = 140

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
