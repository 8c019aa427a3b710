"""`keyvigil incident`: what happened, second by second, and a person's decision about it."""

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from keyvigil_cli.command_line import Run, Yes, command
from keyvigil_cli.commands.all_projects import items_of
from keyvigil_cli.commands.parameters import AnyProject, Project, Reason
from keyvigil_cli.printable import printable
from keyvigil_cli.table import Cell, Column, Item, duration, fields_of, moment_of, styled, table_of, when

if TYPE_CHECKING:
    from keyvigil_cli.api_client import JsonObject

group = typer.Typer(
    help="Outages: what happened second by second, and what a person decides about them.", no_args_is_help=True
)

Incident = Annotated[str, typer.Argument(metavar="INCIDENT", help="The incident's id; alerts name it.")]

_EXACT = timedelta(minutes=2)
"""Up to here, lengths of time are shown to a tenth of a second."""

_WAITS_FOR = {
    "approval": "It waits for a person to approve the lockout, or to dismiss it.",
    "grace": "It waits for the end of the project's grace period; `approve` does not wait.",
    "brake": "The brake holds it: see `keyvigil fleet`.",
    "ceiling": "Too many lockouts began within 15 minutes; it goes on when there are fewer. `approve` does not wait.",
    "flapping": "It is the key's third incident within an hour, so it waits for a person.",
    "operator": "A person held it: it waits for another decision.",
}


def is_open(incident: Item) -> bool:
    """Whether the outage goes on, as far as KeyVigil knows."""
    return incident["resolved_at"] is None


def status_of(incident: Item) -> Cell:
    """Its status, and what it waits for."""
    text = styled(incident["status"])
    if incident["held_for"]:
        text.append(f" for {printable(incident['held_for'])}", "yellow")
    return text


def _lasted(incident: Item) -> str:
    began, ended = moment_of(incident["opened_at"]), moment_of(incident["resolved_at"])
    if began is None:
        return "-"
    return duration(ended - began) if ended else when(incident["opened_at"]).rpartition("(")[2].removesuffix(" ago)")


def _clusters(incident: Item) -> str:
    return ", ".join(f"{printable(each['cluster_id'])} {printable(each['status'])}" for each in incident["clusters"])


COLUMNS = (
    Column("PROJECT", "project_id"),
    Column("INCIDENT", "incident_id"),
    Column("STATUS", status_of),
    Column("CAUSE", "cause"),
    Column("KEY", "key_id"),
    Column("OPENED", lambda item: when(item["opened_at"])),
    Column("LASTED", _lasted),
    Column("CLUSTERS", lambda item: str(len(item["clusters"]))),
)


def _between(length: timedelta) -> str:
    return f"{length.total_seconds():.1f} s" if length < _EXACT else duration(length)


def _actor(incident: Item) -> str:
    actor = incident["actor"]
    if not actor:
        return "nobody was found (docs/events.md says what that needs)"
    at = when(actor["event_time"])
    return (
        f"{printable(actor['arn'])} called {printable(actor['event_name'])} from {printable(actor['source_ip'])}, {at}"
    )


def _course(incident: Item) -> str:
    """When it opened, and how long after that it got where."""
    opened = moment_of(incident["opened_at"])
    if opened is None:
        return "-"
    steps = [f"opened {when(incident['opened_at'])}"]
    for word in ("confirmed", "locked", "recovered", "resolved"):
        moment = moment_of(incident[f"{word}_at"])
        if moment is not None:
            steps.append(f"{word} after {_between(moment - opened)}")
    return ", ".join(steps)


def _decision(incident: Item) -> str:
    made = incident.get("decision")
    if not made:
        return "-"
    return f"{printable(made['decision'])} by {printable(made['by'])}, {when(made['at'])}: {printable(made['reason'])}"


_FIELDS = (
    Column("Incident", "incident_id"),
    Column("Status", status_of),
    Column("Key", lambda item: f"{printable(item['key_id'])} of {printable(item['project_id'])}"),
    Column("Cause", "cause"),
    Column("Who", _actor),
    Column("Course", _course),
    Column("Clusters", lambda item: _clusters(item) or "none"),
    Column("Decision", _decision),
)


def story_of(incident: Item) -> Iterable[RenderableType]:
    """The incident as it went: each thing that happened, with the seconds since the last and since it opened."""
    yield fields_of(_FIELDS, incident)
    if incident["timeline"]:
        yield table_of(
            (
                Column("UTC", "clock"),
                Column("AFTER", "after"),
                Column("SINCE OPENED", "since"),
                Column("WHAT", "what"),
                Column("DETAIL", "detail"),
            ),
            _told(incident),
        )
    if is_open(incident):
        yield Text("\n".join(_next_steps(incident)), overflow="ignore", no_wrap=True)


def _told(incident: Item) -> Iterable[Item]:
    opened, before = moment_of(incident["opened_at"]), None
    for entry in incident["timeline"]:
        at = moment_of(entry["at"])
        if at is None or opened is None:
            yield {"clock": entry["at"], "what": entry["what"], "detail": entry["detail"]}
            continue
        new_day = before is None or before.date() != at.date()
        yield {
            "clock": f"{at:%Y-%m-%d %H:%M:%S}" if new_day else f"{at:%H:%M:%S}",
            "after": "" if before is None else f"+{_between(at - before)}",
            "since": _between(at - opened),
            "what": styled(entry["what"]),
            "detail": printable(entry["detail"] or ""),
        }
        before = at


def _next_steps(incident: Item) -> Iterable[str]:
    place = f"{printable(incident['project_id'])} {printable(incident['incident_id'])}"
    if incident["status"] == "HELD":
        yield _WAITS_FOR.get(str(incident["held_for"]), "It waits.")
        yield f"  keyvigil incident approve {place} --reason WHY"
    if incident["status"] in {"CONFIRMING", "OBSERVED"}:
        yield f"  keyvigil incident hold {place} --reason WHY"
    if incident["status"] != "DISMISSED":
        yield f"  keyvigil incident dismiss {place} --reason WHY"
    yield f"  keyvigil key show {printable(incident['project_id'])} {printable(incident['key_id'])}   (what mends it)"


def _with_whole_timeline(run: Run, incident: "JsonObject") -> "JsonObject":
    if not incident["timeline_truncated"]:
        return incident
    path = ("projects", incident["project_id"], "incidents", incident["incident_id"], "timeline")
    whole = run.items("reading the timeline", *path)
    return {**incident, "timeline": whole, "timeline_truncated": False}


@command(group, "list")
def list_incidents(
    run: Run,
    project: AnyProject = None,
    *,
    only_open: Annotated[bool, typer.Option("--open", help="Only those that are not over.")] = False,
) -> None:
    """List incidents, newest first, of one project or of all."""
    found = [each for each in items_of(run, project, "incidents") if not only_open or is_open(each)]
    run.show({"items": found, "next_token": None}, lambda: table_of(COLUMNS, found))


@command(group)
def show(run: Run, project: Project, incident: Incident) -> None:
    """Tell an incident from its beginning: who did what, what KeyVigil did, and the seconds between."""
    found = _with_whole_timeline(run, run.api.get("projects", project, "incidents", incident))
    run.show(found, lambda: story_of(found))


def _decide(run: Run, project: str, incident: str, decision: str, reason: str) -> None:
    body = {"decision": decision, "reason": reason}
    with run.working(f"deciding {decision}"):
        decided = run.api.post("projects", project, "incidents", incident, "decision", body=body)
    run.show(decided, lambda: story_of(decided))


def _confirm(run: Run, project: str, incident: str, effect: str, *, yes: bool) -> None:
    if yes:
        return
    now = run.api.get("projects", project, "incidents", incident)
    clusters = f"{len(now['clusters'])} clusters ({_clusters(now) or 'none'})"
    run.confirm(f"Incident {incident} is {now['status']}: {now['cause']}. This {effect.format(clusters)}.", yes=False)


@command(group)
def approve(run: Run, project: Project, incident: Incident, *, reason: Reason, yes: Yes = False) -> None:
    """Let it lock: what it waits for is lifted, and the outage confirmed afresh."""
    _confirm(run, project, incident, "confirms the outage afresh, then locks {}", yes=yes)
    _decide(run, project, incident, "approve", reason)


@command(group)
def hold(run: Run, project: Project, incident: Incident, *, reason: Reason) -> None:
    """Keep it from locking until somebody decides otherwise, or the key recovers."""
    _decide(run, project, incident, "hold", reason)


@command(group)
def dismiss(run: Run, project: Project, incident: Incident, *, reason: Reason, yes: Yes = False) -> None:
    """Lock nothing, and unlock what is locked, until the key recovers or has another cause."""
    _confirm(run, project, incident, "locks nothing, and unlocks what is locked of {}", yes=yes)
    _decide(run, project, incident, "dismiss", reason)
