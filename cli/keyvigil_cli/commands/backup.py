"""`keyvigil backup`: backups that open only with a key, and whether a restore would work now."""

from typing import Annotated

import typer

from keyvigil_cli.command_line import Run, Yes, command
from keyvigil_cli.commands.all_projects import items_of
from keyvigil_cli.commands.key import remedy
from keyvigil_cli.commands.parameters import AnyProject, Project
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.table import Column, fields_of, table_of, when

group = typer.Typer(help="Backups, and whether a restore would work now.", no_args_is_help=True)

Backup = Annotated[str, typer.Argument(metavar="BACKUP", help="The backup's id.")]

_COLUMNS = (
    Column("PROJECT", "project_id"),
    Column("BACKUP", "backup_id"),
    Column("CLUSTER", "cluster_id"),
    Column("RESTORABLE IN", "region"),
    Column("KEY", "key_id"),
    Column("REGISTERED", lambda item: when(item["created_at"])),
)
_ANSWER = (
    Column("Restorable", "restorable"),
    Column("With key", "with_key_id"),
    Column("Reason", "reason"),
)


@command(group, "list")
def list_backups(run: Run, project: AnyProject = None) -> None:
    """List backups, of one project or of all."""
    found = list(items_of(run, project, "backups"))
    run.show({"items": found, "next_token": None}, lambda: table_of(_COLUMNS, found))


@command(group)
def register(
    run: Run,
    project: Project,
    backup: Backup,
    *,
    cluster: Annotated[str, typer.Option("--cluster-id", help="Id of the cluster that was backed up.")],
    key: Annotated[str, typer.Option("--key-id", help="Id of the key that encrypts it.")],
    backup_region: Annotated[
        str | None, typer.Option("--backup-region", help="Where it is to be restorable; the key's Region otherwise.")
    ] = None,
) -> None:
    """Register a backup: its key stays watched, and the Region in which it is to be restorable with it."""
    region = backup_region or key.partition(".")[0]
    body = {"backup_id": backup, "cluster_id": cluster, "key_id": key, "region": region}
    made = run.create(f"registering {backup}", "projects", project, "backups", body=body)
    run.show(made, lambda: fields_of(_COLUMNS, made))


@command(group, "restore-check")
def restore_check(
    run: Run,
    project: Project,
    backup: Backup,
    in_region: Annotated[str, typer.Argument(metavar="IN_REGION", help="Where it would be restored.")],
) -> ExitStatus:
    """Try whether a restore in a Region would work now. Exit status 3: it would not; 4: nobody knows."""
    with run.working(f"decrypting in {in_region}"):
        path = ("projects", project, "backups", backup, "restore-check")
        found = run.api.post(*path, body={"region": in_region})
    run.show(found, lambda: (fields_of(_ANSWER, found), *remedy(found["remediation"])))
    return ExitStatus.FINE if found["restorable"] else ExitStatus.UNHEALTHY


@command(group)
def delete(run: Run, project: Project, backup: Backup, *, yes: Yes = False) -> None:
    """Forget a backup: its key may go."""
    run.confirm(f"Nobody will keep the key of backup {backup} of {project} any more.", yes=yes)
    run.api.delete("projects", project, "backups", backup)
    run.say(f"Backup {backup} is forgotten.")
