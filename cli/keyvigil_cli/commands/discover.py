"""`keyvigil discover`: what hangs on which KMS key in AWS accounts, and what is not well kept."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from keyvigil_cli.command_line import Run
from keyvigil_cli.commands.imports import shown
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.printable import as_json

if TYPE_CHECKING:
    from keyvigil_cli.discovery.model import Inventory
    from keyvigil_cli.registering import Registering

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
Register = Annotated[
    bool, typer.Option("--register", help="Put what was found under watch; what is there already stays as it is.")
]
ProjectOption = Annotated[
    str | None, typer.Option("--project", help="The project to register in; it is made if it is not there.")
]
ProbeRoles = Annotated[
    list[str] | None,
    typer.Option(
        "--probe-role", help="The customer's role that may probe; one for each account with keys, repeatable."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="With --register: try the keys, and register nothing.")]
LockVia = Annotated[
    Literal["none", "event"],
    typer.Option("--lock-via", help="With --register: how what was found is locked; `cluster update` knows more."),
]


def discover(
    run: Run,
    *,
    in_region: InRegions = None,
    role: Roles = None,
    external_id: ExternalId = None,
    html: HtmlFile = None,
    permissions: Permissions = False,
    register: Register = False,
    project: ProjectOption = None,
    probe_role: ProbeRoles = None,
    lock_via: LockVia = "none",
    dry_run: DryRun = False,
) -> ExitStatus:
    """Read accounts: what hangs on which KMS key, what would stop, what is not well kept. Changes nothing in them.

    Exit status 3: something hangs on a key that cannot be used; 4: something could not be read.
    """
    regions, roles = checked_regions(in_region), checked_roles("--role", role)
    wish = Wish(project or "", tuple(checked_roles("--probe-role", probe_role)), lock_via, dry_run)
    if register != (project is not None) or ((wish.roles or dry_run) and not register):
        raise typer.BadParameter("--register goes with --project, and --probe-role and --dry-run with both")
    if permissions:
        from keyvigil_cli.discovery.permissions import policy  # noqa: PLC0415 - only this needs it

        run.output.out(as_json(policy(roles)), highlight=False)
        return ExitStatus.FINE
    found = read(run, regions, roles, external_id)
    return show(run, found, html, watch(run, found, wish) if register else None)


@dataclass(frozen=True)
class Wish:
    """Where what was found is registered, and how."""

    project: str
    roles: tuple[str, ...]
    lock_via: str
    dry_run: bool


def watch(run: Run, found: "Inventory", wish: Wish) -> "Registering":
    """Register what was found, or in a dry run find out what would be."""
    from keyvigil_cli.discovery.watching import to_watch  # noqa: PLC0415 - only where it is used
    from keyvigil_cli.registering import Registering, Wanted  # noqa: PLC0415 - loads the AWS SDK

    wanted = Wanted(
        project_id=wish.project, role_arns=wish.roles, lock_via=wish.lock_via, dry_run=wish.dry_run,
        again="discover again with --probe-role",
    )  # fmt: skip
    registering = Registering(run, wanted)
    registering.carry_out(to_watch(found))
    return registering


def checked_regions(regions: list[str] | None) -> list[str]:
    """Refuse what is no Region's name."""
    for each in regions or ():
        if not _REGION.match(each):
            raise typer.BadParameter(f"--in-region {each!r} is no Region: those are like us-west-2")
    return list(regions or ())


def checked_roles(option: str, roles: list[str] | None) -> list[str]:
    """Refuse what is no role's ARN."""
    from keyvigil.domain.arns import role_account  # noqa: PLC0415 - only this needs it

    for each in roles or ():
        if role_account(each) is None:
            raise typer.BadParameter(f"{option} {each!r} is no role's ARN: arn:aws:iam::ACCOUNT_ID:role/NAME")
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


def show(run: Run, found: "Inventory", html: Path | None, registering: "Registering | None") -> ExitStatus:
    """Show what was found, and what became of it; say it in a number."""
    from keyvigil_cli.discovery.report import as_plain, status_of, summary, tables  # noqa: PLC0415 - slow to load

    lines = registering.lines if registering is not None else []
    answer = as_plain(found)
    if registering is not None:
        wanted = registering.wanted
        items = [each.as_plain() for each in lines]
        answer["registration"] = {"project_id": wanted.project_id, "dry_run": wanted.dry_run, "items": items}
    if html is not None:
        from keyvigil_cli.discovery.page import page  # noqa: PLC0415 - only this needs the page
        from keyvigil_cli.fleet_page import write  # noqa: PLC0415 - likewise

        write(html, page(found))
        run.say(f"The page is written: {html.resolve().as_uri()}")
    if html is None or run.wants_json or lines:
        run.show(answer, lambda: (*(() if html else tables(found)), *shown(lines)))
    if html is not None or run.wants_json:
        run.say(summary(found))
    return ExitStatus.worst(status_of(found), *(each.status for each in lines))
