"""`keyvigil discover`: what hangs on which KMS key in AWS accounts, and what is not well kept."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyvigil_cli.command_line import Run
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.printable import as_json

if TYPE_CHECKING:
    from keyvigil_cli.discovery.model import Inventory

_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d{1,2}\Z", re.ASCII)

InRegions = Annotated[
    list[str] | None,
    typer.Option("--in-region", help="Read this Region; repeatable.  [default: your AWS settings' Region]"),
]
Roles = Annotated[
    list[str] | None,
    typer.Option("--role", help="Read the account of this role instead of your own; repeatable."),
]
ExternalId = Annotated[str | None, typer.Option("--external-id", help="What the roles ask for, if they do.")]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page for a browser instead of tables.")
]
Permissions = Annotated[
    bool, typer.Option("--permissions", help="Print the IAM policy that reading needs, and read nothing.")
]


def discover(
    run: Run,
    *,
    in_region: InRegions = None,
    role: Roles = None,
    external_id: ExternalId = None,
    html: HtmlFile = None,
    permissions: Permissions = False,
) -> ExitStatus:
    """Read accounts: what hangs on which KMS key, what would stop, what is not well kept. Changes nothing.

    Exit status 3: something hangs on a key that cannot be used; 4: something could not be read.
    """
    regions, roles = checked_regions(in_region), checked_roles(role)
    if permissions:
        from keyvigil_cli.discovery.permissions import policy  # noqa: PLC0415 - only this needs it

        run.output.out(as_json(policy(roles)), highlight=False)
        return ExitStatus.FINE
    found = read(run, regions, roles, external_id)
    return show(run, found, html)


def checked_regions(regions: list[str] | None) -> list[str]:
    """Refuse what is no Region's name."""
    for each in regions or ():
        if not _REGION.match(each):
            raise typer.BadParameter(f"--in-region {each!r} is no Region: those are like us-west-2")
    return list(regions or ())


def checked_roles(roles: list[str] | None) -> list[str]:
    """Refuse what is no role's ARN."""
    from keyvigil.domain.arns import role_account  # noqa: PLC0415 - only this needs it

    for each in roles or ():
        if role_account(each) is None:
            raise typer.BadParameter(f"--role {each!r} is no role's ARN: arn:aws:iam::ACCOUNT_ID:role/NAME")
    return list(dict.fromkeys(roles or ()))


def read(run: Run, regions: list[str], roles: list[str], external_id: str | None) -> "Inventory":
    """Read, and say on standard error how far that is."""
    from keyvigil_cli.discovery.account import discover as discover_in  # noqa: PLC0415 - loads the AWS SDK
    from keyvigil_cli.discovery.credentials import accounts_of, regions_of  # noqa: PLC0415 - likewise

    taken_at = datetime.now(UTC)
    with run.working("reading accounts") as news:
        places = regions_of(run.session, regions)
        accounts, unread = accounts_of(run.session, roles, external_id, places)
        return discover_in(accounts, places, taken_at=taken_at, unread=unread, news=news)


def show(run: Run, found: "Inventory", html: Path | None) -> ExitStatus:
    """Show what was found, and say it in a number."""
    from keyvigil_cli.discovery.report import as_plain, status_of, summary, tables  # noqa: PLC0415 - slow to load

    if html is not None:
        from keyvigil_cli.discovery.page import page  # noqa: PLC0415 - only this needs the page
        from keyvigil_cli.fleet_page import write  # noqa: PLC0415 - likewise

        write(html, page(found))
        run.say(f"The page is written: {html.resolve().as_uri()}")
        if run.wants_json:
            run.show(as_plain(found), lambda: ())
    else:
        run.show(as_plain(found), lambda: tables(found))
    if html is not None or run.wants_json:
        run.say(summary(found))
    return status_of(found)
