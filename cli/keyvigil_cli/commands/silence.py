"""`keyvigil silence`: alerts that are kept and shown, but not sent, until a time."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from keyvigil_cli.command_line import Run, command, given
from keyvigil_cli.commands.all_projects import items_of
from keyvigil_cli.commands.parameters import AnyProject, Project, Reason
from keyvigil_cli.table import Column, fields_of, table_of, when

group = typer.Typer(
    help="Alerts that are kept and shown, but not sent. A silence never stops a lockout.", no_args_is_help=True
)

_LENGTH = re.compile(r"([1-9][0-9]{0,4})([mhd])\Z")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

_COLUMNS = (
    Column("PROJECT", "project_id"),
    Column("SILENCE", "silence_id"),
    Column("TYPES", "types"),
    Column("KEY", lambda item: item["key_id"] or "all"),
    Column("UNTIL", lambda item: when(item["until"])),
    Column("REASON", "reason"),
)


def _end(until: str | None, length: str | None) -> str:
    """Return when it ends, as the API writes times."""
    if (until is None) == (length is None):
        message = "say when it ends: either --until or --for"
        raise typer.BadParameter(message)
    if length is not None:
        found = _LENGTH.match(length)
        if found is None:
            message = f"{length} is no length of time such as 90m, 4h or 2d"
            raise typer.BadParameter(message)
        end = datetime.now(UTC) + timedelta(**{_UNITS[found[2]]: int(found[1])})
    else:
        try:
            end = datetime.fromisoformat(until or "")
        except ValueError as error:
            message = f"{until} is no time such as 2026-11-23T06:00:00Z"
            raise typer.BadParameter(message) from error
        if end.tzinfo is None:
            message = f"{until} does not say its time zone: end it with Z, or +01:00"
            raise typer.BadParameter(message)
    return end.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@command(group, "list")
def list_silences(run: Run, project: AnyProject = None) -> None:
    """List silences, of one project or of all."""
    found = list(items_of(run, project, "silences"))
    run.show({"items": found, "next_token": None}, lambda: table_of(_COLUMNS, found))


@command(group)
def create(
    run: Run,
    project: Project,
    *,
    types: Annotated[
        list[str], typer.Option("--type", help="Type of the alerts, such as key.rotation_disabled; can be repeated.")
    ],
    reason: Reason,
    key: Annotated[str | None, typer.Option("--key-id", help="Only alerts about this key.")] = None,
    until: Annotated[str | None, typer.Option(help="When it ends, such as 2026-11-23T06:00:00Z.")] = None,
    length: Annotated[str | None, typer.Option("--for", help="How long it lasts: 90m, 4h, 2d.")] = None,
) -> None:
    """Keep alerts from being sent until a time. A critical alert is silenced only by its own type's name."""
    body = {**given(types=types, reason=reason, key_id=key), "until": _end(until, length)}
    made = run.create("silencing", "projects", project, "silences", body=body)
    run.show(made, lambda: fields_of(_COLUMNS, made))


@command(group)
def delete(
    run: Run, project: Project, silence: Annotated[str, typer.Argument(metavar="SILENCE", help="The silence's id.")]
) -> None:
    """End a silence."""
    run.api.delete("projects", project, "silences", silence)
    run.say(f"Silence {silence} has ended.")
