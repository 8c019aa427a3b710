"""Arguments and options that several groups of commands share."""

from typing import Annotated

import typer

Project = Annotated[str, typer.Argument(metavar="PROJECT", help="The project's id, such as acme-prod.")]
AnyProject = Annotated[
    str | None, typer.Argument(metavar="PROJECT", help="The project's id; all projects if it is left out.")
]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The key's id, such as us-west-2.1234abcd-....")]
Cluster = Annotated[str, typer.Argument(metavar="CLUSTER", help="The cluster's id.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept.")]
