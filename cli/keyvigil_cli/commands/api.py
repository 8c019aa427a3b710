"""`keyvigil api`: any call of the API, as it is written in docs/api.md."""

from typing import Annotated

import typer

from keyvigil_cli.command_line import Run


def api(
    run: Run,
    method: Annotated[str, typer.Argument(help="GET, POST, PATCH or DELETE.")],
    path: Annotated[str, typer.Argument(help="Such as /projects/acme-prod/keys.")],
    body: Annotated[str, typer.Argument(help="The request's body, JSON.")] = "",
    *,
    field: Annotated[str, typer.Option(help="Print only this field of the answer, without quotes.")] = "",
) -> None:
    """Call the registry's API with your AWS credentials, and print its answer."""
    from keyvigil_cli.api_call import call  # noqa: PLC0415 - loads the AWS SDK

    with run.working(f"{method} {path}"):
        answer = call(run.api, method, path, body, field=field)
    run.output.out(answer, highlight=False)
