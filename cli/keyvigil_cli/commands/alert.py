"""`keyvigil alert`: who is told, and what is told now."""

from typing import Annotated, Literal

import typer

from keyvigil_cli.command_line import Run, command, given
from keyvigil_cli.commands.all_projects import items_of
from keyvigil_cli.commands.parameters import AnyProject, Project
from keyvigil_cli.table import Column, fields_of, styled, table_of, when

group = typer.Typer(help="Who is told of what happens, and what is told now.", no_args_is_help=True)

ProtocolWord = Literal["email", "https", "sqs", "lambda"]
SeverityWord = Literal["info", "warning", "critical"]

Protocol = Annotated[ProtocolWord, typer.Argument(metavar="PROTOCOL", help="email, https, sqs or lambda.")]
Severity = Annotated[SeverityWord | None, typer.Option("--min-severity", help="Nothing less.  [default: info]")]
Types = Annotated[
    list[str] | None, typer.Option("--type", help="Only this type, such as key.* or cluster.locked; can be repeated.")
]
Subscription = Annotated[str, typer.Argument(metavar="SUBSCRIPTION", help="The subscription's id.")]

_COLUMNS = (
    Column("PROJECT", "project_id"),
    Column("SUBSCRIPTION", "subscription_id"),
    Column("STATUS", lambda item: styled(item["status"])),
    Column("PROTOCOL", "protocol"),
    Column("ENDPOINT", "endpoint"),
    Column("FROM SEVERITY", "min_severity"),
    Column("TYPES", lambda item: ", ".join(item["types"]) or "all"),
    Column("SINCE", lambda item: when(item["created_at"])),
)

_STANDING = (
    Column("PROJECT", "project_id"),
    Column("TYPE", "type"),
    Column("SEVERITY", lambda item: styled(item["severity"])),
    Column("KEY", "key_id"),
    Column("SINCE", lambda item: when(item["since"])),
    Column("LAST TOLD", lambda item: when(item["told_at"]) if item["told_at"] else styled("never")),
    Column("NOT SENT", "withheld"),
    Column("INCIDENT", "incident_id"),
)


@command(group, "list")
def list_alerts(run: Run, project: AnyProject = None) -> None:
    """List what is wrong now and what was told of it, what is silenced too; of one project or of all."""
    found = list(items_of(run, project, "alerts"))
    run.show({"items": found, "next_token": None}, lambda: table_of(_STANDING, found))


@command(group, "subscriptions")
def list_subscriptions(run: Run, project: AnyProject = None) -> None:
    """List who is told, of one project or of all."""
    found = list(items_of(run, project, "subscriptions"))
    run.show({"items": found, "next_token": None}, lambda: table_of(_COLUMNS, found))


@command(group)
def subscribe(
    run: Run,
    project: Project,
    protocol: Protocol,
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="An address, or the ARN of a queue or function.")],
    *,
    min_severity: Severity = None,
    types: Types = None,
) -> None:
    """Tell somebody of a project's alerts. It is pending until the endpoint has confirmed."""
    body = given(protocol=protocol, endpoint=endpoint, min_severity=min_severity, types=types or None)
    made = run.create("subscribing", "projects", project, "subscriptions", body=body)
    run.show(made, lambda: fields_of(_COLUMNS, made))
    if made["status"] == "pending":
        run.say(f"{endpoint} must confirm within 48 hours: SNS has sent it what to answer.")
    else:
        run.say(f"Try it: keyvigil alert test {project} {made['subscription_id']}")


@command(group)
def test(run: Run, project: Project, subscription: Subscription) -> None:
    """Send a test message to one subscription."""
    with run.working("sending"):
        sent = run.api.post("projects", project, "subscriptions", subscription, "test")
    run.show(sent, lambda: fields_of((*_COLUMNS, Column("Sent", "alert_id")), sent))


@command(group)
def unsubscribe(run: Run, project: Project, subscription: Subscription) -> None:
    """Tell somebody no more."""
    run.api.delete("projects", project, "subscriptions", subscription)
    run.say(f"Subscription {subscription} has ended.")


@command(group)
def tail(
    run: Run,
    project: Project,
    *,
    min_severity: Severity = None,
    types: Types = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many alerts; never otherwise.")] = None,
) -> None:
    """Print a project's alerts as they come, until Ctrl-C; as JSON, one line an alert.

    They come through a queue of yours in the stack's Region, made for this and deleted at the end.
    """
    from keyvigil_cli.alert_tail import AlertTail, line_of  # noqa: PLC0415 - loads the AWS SDK

    with AlertTail(run, project, given(min_severity=min_severity, types=types or None)) as alerts:
        run.say("Waiting for alerts; Ctrl-C ends it.")
        for number, alert in enumerate(alerts.arriving(), start=1):
            line_of(run, alert)
            if number == count:
                return
