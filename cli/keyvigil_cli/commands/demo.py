"""`keyvigil demo`: an outage from end to end, on the local cloud."""

from pathlib import Path
from typing import Annotated

import typer

from keyvigil_cli.command_line import Run
from keyvigil_cli.exit_status import ExitStatus


def demo(
    run: Run,
    checkout: Annotated[
        Path | None, typer.Option(help="A folder in the checkout to use, instead of the current one.")
    ] = None,
    *,
    keep: Annotated[
        bool,
        typer.Option("--keep", envvar="KEEP", help="Leave the local cloud running and say how to reach it."),
    ] = False,
) -> ExitStatus:
    """Show an outage of a customer's key from end to end on a local cloud; takes about five minutes."""
    from keyvigil_cli import demo as story  # noqa: PLC0415 - loads the AWS SDK
    from keyvigil_cli.checkout import Checkout  # noqa: PLC0415 - likewise

    found = Checkout.find(checkout)
    return ExitStatus(story.run(found, keep=keep, output=run.told, errors=run.messages))
