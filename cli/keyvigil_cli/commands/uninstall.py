"""`keyvigil uninstall`: KeyVigil goes, and nothing of it stays."""

from typing import Annotated

import typer

from keyvigil_cli.command_line import Run
from keyvigil_cli.settings import DEFAULT_STACK


def uninstall(
    run: Run,
    *,
    release: Annotated[
        bool,
        typer.Option("--release", help="Unlock what is locked first, whatever the keys, instead of refusing."),
    ] = False,
    wait_minutes: Annotated[int, typer.Option(help="How long unlocking may take.", min=1)] = 45,
) -> None:
    """Remove a stack with everything that it made; refuse while clusters are locked."""
    from keyvigil_cli import uninstall as uninstallation  # noqa: PLC0415 - loads the AWS SDK
    from keyvigil_cli.connection import account_of  # noqa: PLC0415 - likewise

    stack = run.settings.stack or DEFAULT_STACK
    uninstallation.run(
        account_of(run.settings), stack, release=release, release_seconds=wait_minutes * 60.0, output=run.told
    )
