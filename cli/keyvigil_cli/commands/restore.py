"""`keyvigil restore`: after the table was restored from a backup, every key is proved and every receiver asked anew."""

import os
from typing import Annotated

import typer

from keyvigil_cli.command_line import Run


def restore(
    run: Run,
    *,
    from_table: Annotated[
        str, typer.Option(help="A restored table, whose items are copied into the stack's first.")
    ] = "",
    above: Annotated[int, typer.Option(help="A fence that a receiver says it has seen.", min=0, max=2**53)] = 0,
) -> None:
    """After a restore of the table: prove every key anew, and ask every receiver anew (docs/restore.md)."""
    from keyvigil_cli import restore as restoring  # noqa: PLC0415 - loads the AWS SDK, and what the functions need
    from keyvigil_cli.connection import account_of  # noqa: PLC0415 - likewise

    table = account_of(run.settings).table_name()
    if run.settings.profile is not None:
        # The table is read and written by the functions' own code, which knows the environment only.
        os.environ["AWS_PROFILE"] = run.settings.profile
    restoring.run(run.session, table, from_table=from_table or None, above=above, output=run.told)
