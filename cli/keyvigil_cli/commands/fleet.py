"""`keyvigil fleet`: everything under watch at a glance, live if asked for; the brake; the canaries."""

import contextlib
import itertools
import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from keyvigil_cli.command_line import Run, Yes, as_command, command, given
from keyvigil_cli.commands.all_projects import items_of_listed
from keyvigil_cli.commands.incident import COLUMNS as INCIDENT_COLUMNS
from keyvigil_cli.commands.incident import is_open
from keyvigil_cli.commands.parameters import Reason
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.printable import printable
from keyvigil_cli.table import Cell, Column, Item, fields_of, moment_of, styled, table_of, when

if TYPE_CHECKING:
    from keyvigil_cli.api_client import JsonObject

group = typer.Typer(help="Everything under watch at a glance; the brake; the canaries.")
brake_group = typer.Typer(help="Hold new lockouts, or let them go on.", no_args_is_help=True)
canary_group = typer.Typer(help="KeyVigil's own make-believe customers.", no_args_is_help=True)
group.add_typer(brake_group, name="brake")
group.add_typer(canary_group, name="canary")

SWEEP_IS_LATE = timedelta(minutes=3)
"""Sweeps come every minute."""

_PASSING = frozenset({429, 500, 502, 503, 504})
"""Statuses that another try may not have."""

_FAILED = ("LOCK_FAILED", "UNLOCK_FAILED")


def _counts(counts: dict[str, int]) -> Cell:
    """What there is of each status; of what nothing has, nothing is said."""
    shown = [f"{count} {printable(status)}" for status, count in counts.items() if count]
    return ", ".join(shown) or "none"


def _doubts(fleet: Item) -> Cell:
    if not fleet["unknown"] and not fleet["stale_keys"]:
        return "none"
    return Text(f"{fleet['unknown']} UNKNOWN, {fleet['stale_keys']} not probed for three intervals", "yellow")


def _sweep(fleet: Item) -> Cell:
    last = fleet["last_sweep"]
    if last is None:
        return Text("never", "yellow")
    words = f"{when(last['at'])}: {last['keys_due']} keys due, {last['keys_sent']} sent"
    return Text(words, "bold red" if _sweep_is_late(fleet) else "")


def _sweep_is_late(fleet: Item) -> bool:
    at = moment_of((fleet["last_sweep"] or {}).get("at"))
    return at is None or datetime.now(UTC) - at > SWEEP_IS_LATE


_FIELDS = (
    Column("Keys", lambda item: _counts(item["keys"])),
    Column("In doubt", _doubts),
    Column("Clusters", lambda item: _counts(item["clusters"])),
    Column("Open incidents", "open_incidents"),
    Column("Brake", lambda item: Text("engaged", "bold red") if item["brake"] else "released"),
    Column("Last sweep", _sweep),
)
_BRAKES = (
    Column("BRAKE: REGION", lambda item: printable(item["region"] or "all")),
    Column("CAUSE", lambda item: printable(item["cause"] or "all")),
    Column("PROJECT", lambda item: printable(item.get("project_id") or "all")),
    Column("SINCE", lambda item: when(item["since"])),
    Column("BY", "by"),
    Column("REASON", "reason"),
)
_SPEAKERS = (
    Column("CANARY FOR", "region"),
    Column("OUTCOME", lambda item: styled(item["outcome"])),
    Column("PROBED", lambda item: when(item["probed_at"])),
    Column("", lambda item: "the stack's: sees only part of it" if item["partial"] else ""),
)
_CANARIES = (
    Column("CANARY", "canary_id"),
    Column("REGION", "region"),
    Column("ACCOUNT", "account_id"),
    Column("OUTCOME", lambda item: styled(item["outcome"])),
    Column("VOUCHES", "vouches"),
    Column("PROBED", lambda item: when(item["probed_at"])),
    Column("KEY", "key_arn"),
)


def health_of(fleet: Item) -> ExitStatus:
    """What the fleet's answer says: something is unhealthy, or nobody can know, or all is fine."""
    unhealthy = any(count for status, count in fleet["keys"].items() if status != "HEALTHY")
    failed = any(fleet["clusters"].get(status) for status in _FAILED)
    if unhealthy or failed or fleet["open_incidents"] or fleet["brake"]:
        return ExitStatus.UNHEALTHY
    silent = any(each["outcome"] != "HEALTHY" for each in fleet["canaries"])
    if fleet["unknown"] or fleet["stale_keys"] or silent or _sweep_is_late(fleet):
        return ExitStatus.UNKNOWN
    return ExitStatus.FINE


def _shown(fleet: Item, incidents: list[Item]) -> Iterable[RenderableType]:
    yield fields_of(_FIELDS, fleet)
    if incidents:
        yield table_of(INCIDENT_COLUMNS, incidents)
    if fleet["brake"]:
        yield table_of(_BRAKES, fleet["brake"])
    if fleet["canaries"]:
        yield table_of(_SPEAKERS, fleet["canaries"])


def _look(run: Run) -> "tuple[JsonObject, list[JsonObject]]":
    """Read the fleet, and the open incidents if there are any and people want to see them."""
    fleet = run.api.get("fleet")
    if run.wants_json or not fleet["open_incidents"]:
        return fleet, []
    affected = [each["project_id"] for each in run.items("reading projects", "projects") if each["open_incidents"]]
    return fleet, [each for each in items_of_listed(run, affected, "incidents") if is_open(each)]


def fleet(
    run: Run,
    *,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page for a browser instead: every key, every open incident."),
    ] = None,
) -> ExitStatus:
    """Show everything under watch. Exit status 3: something is unhealthy; 4: something is not known."""
    if html is not None:
        return _write_page(run, html)
    with run.working("reading the fleet"):
        found, incidents = _look(run)
    run.show(found, lambda: _shown(found, incidents))
    return health_of(found)


def _write_page(run: Run, path: Path) -> ExitStatus:
    from keyvigil_cli.fleet_page import page_of, write  # noqa: PLC0415 - only this needs the page

    with run.working("reading the fleet"):
        found = run.api.get("fleet")
    write(path, page_of(run, found))
    run.say(f"The page is written: {path.resolve().as_uri()}")
    return health_of(found)


group.callback(invoke_without_command=True)(as_command(fleet))


@command(group)
def watch(
    run: Run,
    *,
    interval: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 5.0,
    looks: Annotated[int | None, typer.Option(min=1, help="End after so many looks; never otherwise.")] = None,
) -> ExitStatus:
    """Show the fleet as it changes, until Ctrl-C; as JSON, one line a look. Exit status as of `fleet`, last seen.

    While the API does not answer, that is said beside what was seen last, and asked again.
    """
    from keyvigil_cli.api_client import ApiProblemError, ApiUnreachableError  # noqa: PLC0415 - loads the AWS SDK

    screen = _Screen(run)
    seen = ExitStatus.UNKNOWN
    # Ctrl-C is how it ends, not a failure.
    with contextlib.suppress(KeyboardInterrupt), screen:
        for number in itertools.count(1):
            try:
                found, incidents = _look(run)
            except (ApiUnreachableError, ApiProblemError) as error:
                passes = isinstance(error, ApiUnreachableError) or error.status in _PASSING
                if number == 1 or not passes:
                    raise
                seen = ExitStatus.UNKNOWN
                screen.trouble(str(error))
            else:
                seen = health_of(found)
                screen.look(found, incidents)
            if number == looks:
                break
            time.sleep(interval)
    return seen


class _Screen:
    """Where looks are shown: redrawn on a terminal, one after the other elsewhere if something has changed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._live: Live | None = None
        self._last: list[RenderableType] = []
        self._printed = ""

    def __enter__(self) -> Self:
        if self._run.output.is_terminal and not self._run.wants_json:
            self._live = Live(console=self._run.output, screen=False, auto_refresh=False, vertical_overflow="visible")
            self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def look(self, found: "JsonObject", incidents: "list[JsonObject]") -> None:
        if self._run.wants_json:
            self._run.output.out(json.dumps(found), highlight=False)
            return
        self._last = [*_shown(found, incidents)]
        if self._live is not None:
            self._draw("")
            return
        # Ages change with every look: what is compared is what was answered.
        told = json.dumps([{**found, "last_sweep": None, "canaries": _outcomes(found)}, incidents])
        if told != self._printed:
            self._printed = told
            self._run.show(found, lambda: (Text(f"{datetime.now(UTC):%H:%M:%S}Z"), *self._last, Text()))

    def trouble(self, words: str) -> None:
        if self._live is None:
            self._run.say(words)
        else:
            self._draw(words)

    def _draw(self, trouble: str) -> None:
        if self._live is None:
            return
        at = f"{datetime.now(UTC):%H:%M:%S}Z"
        state = Text(f"{at}  no answer: {printable(trouble)}", "bold red") if trouble else Text(at, "dim")
        parts = [each for part in self._last for each in (part, Text())]
        self._live.update(Group(*parts, state), refresh=True)


def _outcomes(fleet: Item) -> list[str]:
    return [f"{each['region']} {each['outcome']}" for each in fleet["canaries"]]


# --- the brake

BrakeRegion = Annotated[str | None, typer.Option("--in-region", help="Only lockouts of keys in this Region.")]
BrakeProject = Annotated[str | None, typer.Option("--project", help="Only this project's lockouts.")]


def _pull(run: Run, action: Literal["engage", "release"], reason: str, **scope: str | None) -> None:
    with run.working(f"the brake: {action}"):
        now = run.api.post("fleet", "brake", body=given(action=action, reason=reason, **scope))
    run.show(now, lambda: table_of(_BRAKES, now["brake"]) if now["brake"] else Text("The brake is released."))


def _scope(region: str | None, project: str | None) -> str:
    places = [f"project {project}" if project else "all projects", f"in {region}" if region else "in all Regions"]
    return " ".join(places)


@command(brake_group)
def engage(
    run: Run, *, reason: Reason, in_region: BrakeRegion = None, project: BrakeProject = None, yes: Yes = False
) -> None:
    """Hold every new lockout, whatever its cause, until a person releases it."""
    run.confirm(f"Nothing is locked any more: {_scope(in_region, project)}.", yes=yes)
    _pull(run, "engage", reason, region=in_region, project_id=project)


@command(brake_group)
def release(
    run: Run,
    *,
    reason: Reason,
    in_region: BrakeRegion = None,
    project: BrakeProject = None,
    cause: Annotated[str | None, typer.Option(help="Only the brake of this cause.")] = None,
    yes: Yes = False,
) -> None:
    """Let lockouts go on: what was held is confirmed afresh, then locked."""
    run.confirm(f"What the brake holds may lock: {_scope(in_region, project)}.", yes=yes)
    _pull(run, "release", reason, region=in_region, project_id=project, cause=cause)


# --- canaries


@command(canary_group, "list")
def list_canaries(run: Run) -> None:
    """List canaries, and the ExternalId that a new one's role must ask for."""
    found = run.api.get("fleet", "canaries")
    external_id = Text(f"ExternalId of all canaries' roles: {printable(found['external_id'])}")
    run.show(found, lambda: (table_of(_CANARIES, found["items"]), external_id))


@command(canary_group, "register")
def register_canary(
    run: Run,
    *,
    key_arn: Annotated[str, typer.Option("--key-arn", help="ARN of the canary's key, not of an alias.")],
    role_arn: Annotated[str, typer.Option("--role-arn", help="ARN of the role that may probe it.")],
) -> None:
    """Probe a canary's key and register it."""
    body = {"key_arn": key_arn, "role_arn": role_arn}
    made = run.create("probing the canary's key", "fleet", "canaries", body=body)
    run.show(made, lambda: fields_of(_CANARIES, made))


@command(canary_group, "delete")
def delete_canary(
    run: Run,
    canary: Annotated[str, typer.Argument(metavar="CANARY", help="The canary's id.")],
    *,
    yes: Yes = False,
) -> None:
    """Forget a canary."""
    run.confirm(f"Canary {canary} vouches for nothing any more.", yes=yes)
    run.api.delete("fleet", "canaries", canary)
    run.say(f"Canary {canary} is forgotten.")
