"""`keyvigil project`: tenants."""

from typing import Annotated, Literal

import typer

from keyvigil_cli.command_line import Run, Yes, changes, command, given
from keyvigil_cli.commands.parameters import Project
from keyvigil_cli.table import Column, fields_of, table_of, when

group = typer.Typer(help="Tenants: each with its keys, clusters, subscriptions and policy.", no_args_is_help=True)

EnforcementWord = Literal["observe", "enforce"]
ApprovalWord = Literal["automatic", "manual"]
ProbePlanWord = Literal["full", "lean"]

_COLUMNS = (
    Column("PROJECT", "project_id"),
    Column("NAME", "name"),
    Column("ENFORCEMENT", "enforcement"),
    Column("APPROVAL", "approval"),
    Column("EVERY", lambda item: f"{item['check_interval_minutes']} min"),
    Column("KEYS", "keys"),
    Column("CLUSTERS", "clusters"),
    Column("OPEN INCIDENTS", "open_incidents"),
)
_FIELDS = (
    Column("Project", "project_id"),
    Column("Name", "name"),
    Column("Enforcement", "enforcement"),
    Column("Approval", "approval"),
    Column("Probed every", lambda item: f"{item['check_interval_minutes']} min"),
    Column("Probe plan", "probe_plan"),
    Column("Grace", lambda item: f"{item['grace_minutes']} min"),
    Column("Keys", "keys"),
    Column("Clusters", "clusters"),
    Column("Open incidents", "open_incidents"),
    Column("ExternalId", "external_id"),
    Column("Alert topic", "alert_topic_arn"),
    Column("Created", lambda item: when(item["created_at"])),
)

Name = Annotated[str | None, typer.Option(help="A name for people; the id otherwise.")]
Enforcement = Annotated[
    EnforcementWord | None,
    typer.Option(help="`observe` tells of outages, `enforce` locks clusters too.  [default: observe]"),
]
Approval = Annotated[
    ApprovalWord | None, typer.Option(help="`manual`: a person approves every lockout.  [default: automatic]")
]
CheckInterval = Annotated[
    int | None, typer.Option("--check-interval-minutes", min=1, max=60, help="How often each key is probed.")
]
ProbePlan = Annotated[
    ProbePlanWord | None,
    typer.Option(
        help="`lean`: a key that works is asked for Decrypt alone, and the whole check is made hourly, at any failure "
        "and at any event: less than half of the requests at an interval of 10 minutes. What `lean` finds within the "
        "hour and not within one interval: Encrypt or GenerateDataKey denied while Decrypt is allowed; DescribeKey "
        "denied; new key material that cannot be used; a changed expiry of material; a replica that went. Rotation "
        "that was switched off or an alias that moved it finds within four hours.  [default: full]"
    ),
]
Grace = Annotated[
    int | None,
    typer.Option("--grace-minutes", min=0, max=1440, help="How long a confirmed outage waits before it locks."),
]


@command(group, "list")
def list_projects(run: Run) -> None:
    """List projects."""
    found = run.items("reading projects", "projects")
    run.show({"items": found, "next_token": None}, lambda: table_of(_COLUMNS, found))


@command(group)
def show(run: Run, project: Project) -> None:
    """Show a project."""
    found = run.api.get("projects", project)
    run.show(found, lambda: fields_of(_FIELDS, found))


@command(group)
def create(
    run: Run,
    project: Project,
    *,
    name: Name = None,
    enforcement: Enforcement = None,
    approval: Approval = None,
    check_interval: CheckInterval = None,
    probe_plan: ProbePlan = None,
    grace: Grace = None,
) -> None:
    """Make a project; KeyVigil answers with its ExternalId, which the customer's role must ask for."""
    body = given(
        project_id=project,
        name=project if name is None else name,
        enforcement=enforcement,
        approval=approval,
        check_interval_minutes=check_interval,
        probe_plan=probe_plan,
        grace_minutes=grace,
    )
    made = run.create(f"making project {project}", "projects", body=body)
    run.show(made, lambda: fields_of(_FIELDS, made))


@command(group)
def update(
    run: Run,
    project: Project,
    *,
    name: Name = None,
    enforcement: Enforcement = None,
    approval: Approval = None,
    check_interval: CheckInterval = None,
    probe_plan: ProbePlan = None,
    grace: Grace = None,
    yes: Yes = False,
) -> None:
    """Change a project. `enforce` lets open incidents lock, `observe` unlocks what is locked."""
    body = changes(
        name=name,
        enforcement=enforcement,
        approval=approval,
        check_interval_minutes=check_interval,
        probe_plan=probe_plan,
        grace_minutes=grace,
    )
    if enforcement is not None:
        _confirm_enforcement(run, project, enforcement, yes=yes)
    changed = run.api.patch("projects", project, body=body)
    run.show(changed, lambda: fields_of(_FIELDS, changed))


def _confirm_enforcement(run: Run, project: str, enforcement: str, *, yes: bool) -> None:
    if yes:
        return
    now = run.api.get("projects", project)
    if now["enforcement"] == enforcement or not now["open_incidents"]:
        return
    effect = "lets them lock clusters" if enforcement == "enforce" else "unlocks what they have locked"
    run.confirm(f"{project} has {now['open_incidents']} open incidents; `{enforcement}` {effect}.", yes=False)


@command(group)
def delete(run: Run, project: Project, *, yes: Yes = False) -> None:
    """Remove an empty project."""
    run.confirm(f"Project {project} goes, with its ExternalId and its subscriptions.", yes=yes)
    run.api.delete("projects", project)
    run.say(f"Project {project} is gone.")
