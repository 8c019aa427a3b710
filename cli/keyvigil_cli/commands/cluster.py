"""`keyvigil cluster`: what stops working without a key, and how it is locked."""

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from keyvigil_cli.command_line import Run, Yes, changes, command, given
from keyvigil_cli.commands.all_projects import items_of
from keyvigil_cli.commands.parameters import AnyProject, Cluster, Project
from keyvigil_cli.printable import printable
from keyvigil_cli.table import Column, Item, fields_of, styled, table_of, when

if TYPE_CHECKING:
    from keyvigil_cli.api_client import JsonObject

group = typer.Typer(help="What stops working without a key, and how it is locked.", no_args_is_help=True)

Kind = Literal[
    "zilliz-dedicated",
    "zilliz-byoc",
    "minio-kes",
    "aws-rds",
    "aws-s3",
    "aws-lambda",
    "aws-secretsmanager",
    "aws-dynamodb",
    "other",
]
Via = Literal["none", "event", "lambda", "webhook", "ssm-automation"]
Result = Literal["locked", "unlocked", "failed"]

_COLUMNS = (
    Column("PROJECT", "project_id"),
    Column("CLUSTER", "cluster_id"),
    Column("STATUS", lambda item: styled(item["status"])),
    Column("SINCE", lambda item: when(item["status_changed_at"])),
    Column("KIND", "kind"),
    Column("LOCKED VIA", lambda item: printable(item["lock"]["via"])),
    Column("KEY", "key_id"),
    Column("NAME", "name"),
)
_FIELDS = (
    Column("Cluster", "cluster_id"),
    Column("Name", "name"),
    Column("Kind", "kind"),
    Column("Region", "region"),
    Column("Key", "key_id"),
    Column("Status", lambda item: styled(item["status"])),
    Column("Since", lambda item: when(item["status_changed_at"])),
    Column("Told", "detail"),
    Column("Locked by incident", "locked_by_incident_id"),
    Column("Fence", "fence"),
    Column("Answer due", lambda item: when(item["respond_by"])),
    Column("Lock", lambda item: printable(item["lock"])),
)

Name = Annotated[str | None, typer.Option(help="A name for people.")]
LockVia = Annotated[Via | None, typer.Option("--lock-via", help="Who locks and unlocks it.  [default: event]")]
Timeout = Annotated[
    int | None, typer.Option("--lock-timeout-seconds", min=10, max=1800, help="How long that may take.  [default: 300]")
]
FunctionArn = Annotated[str | None, typer.Option("--lock-function-arn", help="For `lambda`: keyvigil-lock-....")]
Url = Annotated[str | None, typer.Option("--lock-url", help="For `webhook`: an https address.")]
SecretArn = Annotated[str | None, typer.Option("--lock-secret-arn", help="For `webhook`: ARN of its secret.")]
Preset = Annotated[Literal["zilliz-cloud"] | None, typer.Option("--lock-preset", help="For `webhook`.")]
Document = Annotated[
    str | None, typer.Option("--lock-document-name", help="For `ssm-automation`: a runbook, KeyVigilLock-....")
]
Parameters = Annotated[
    str | None,
    typer.Option("--lock-parameters", help='For `ssm-automation`, as JSON: {"NAME": ["VALUE"]}.'),
]


def _show(run: Run, cluster: Item) -> None:
    run.show(cluster, lambda: fields_of(_FIELDS, cluster))


def _lock(via: str | None, parameters: str | None, **settings: object) -> "JsonObject | None":
    lock = given(via=via, **settings)
    if parameters is not None:
        try:
            lock["parameters"] = json.loads(parameters)
        except ValueError as error:
            message = f"--lock-parameters is not JSON: {error}"
            raise typer.BadParameter(message) from error
    if lock and via is None:
        message = "say who locks: --lock-via"
        raise typer.BadParameter(message)
    return lock or None


@command(group, "list")
def list_clusters(run: Run, project: AnyProject = None) -> None:
    """List clusters, of one project or of all."""
    found = list(items_of(run, project, "clusters"))
    run.show({"items": found, "next_token": None}, lambda: table_of(_COLUMNS, found))


@command(group)
def show(run: Run, project: Project, cluster: Cluster) -> None:
    """Show a cluster."""
    _show(run, run.api.get("projects", project, "clusters", cluster))


@command(group)
def register(
    run: Run,
    project: Project,
    cluster: Cluster,
    *,
    key: Annotated[str, typer.Option("--key-id", help="Id of the key without which it stops working.")],
    kind: Annotated[Kind, typer.Option(help="What it is.")] = "other",
    name: Name = None,
    cluster_region: Annotated[
        str | None, typer.Option("--cluster-region", help="Where it is; the key's Region otherwise.")
    ] = None,
    lock_via: LockVia = None,
    lock_timeout_seconds: Timeout = None,
    lock_function_arn: FunctionArn = None,
    lock_url: Url = None,
    lock_secret_arn: SecretArn = None,
    lock_preset: Preset = None,
    lock_document_name: Document = None,
    lock_parameters: Parameters = None,
) -> None:
    """Register a cluster under a key. It is PENDING_KEY until the key is HEALTHY."""
    lock = _lock(
        lock_via,
        lock_parameters,
        timeout_seconds=lock_timeout_seconds,
        function_arn=lock_function_arn,
        url=lock_url,
        secret_arn=lock_secret_arn,
        preset=lock_preset,
        document_name=lock_document_name,
    )
    body = given(
        cluster_id=cluster,
        name=name or cluster,
        kind=kind,
        region=cluster_region or key.partition(".")[0],
        key_id=key,
        lock=lock,
    )
    _show(run, run.create(f"registering {cluster}", "projects", project, "clusters", body=body))


@command(group)
def update(
    run: Run,
    project: Project,
    cluster: Cluster,
    *,
    name: Name = None,
    kind: Annotated[Kind | None, typer.Option(help="What it is.")] = None,
    lock_via: LockVia = None,
    lock_timeout_seconds: Timeout = None,
    lock_function_arn: FunctionArn = None,
    lock_url: Url = None,
    lock_secret_arn: SecretArn = None,
    lock_preset: Preset = None,
    lock_document_name: Document = None,
    lock_parameters: Parameters = None,
) -> None:
    """Change a cluster's name, kind or lock; of the lock, all that belongs to it is said anew."""
    lock = _lock(
        lock_via,
        lock_parameters,
        timeout_seconds=lock_timeout_seconds,
        function_arn=lock_function_arn,
        url=lock_url,
        secret_arn=lock_secret_arn,
        preset=lock_preset,
        document_name=lock_document_name,
    )
    body = {**given(lock=lock), **(given(name=name, kind=kind) if lock else changes(name=name, kind=kind))}
    _show(run, run.api.patch("projects", project, "clusters", cluster, body=body))


@command(group, "lock-result")
def lock_result(
    run: Run,
    project: Project,
    cluster: Cluster,
    *,
    fence: Annotated[int, typer.Option(min=0, help="The request's fence.")],
    result: Annotated[Result, typer.Option(help="What became of it.")],
    detail: Annotated[str | None, typer.Option(help="In words; no secret.")] = None,
) -> None:
    """Answer a lock or unlock request for the control plane."""
    body = given(fence=fence, result=result, detail=detail)
    _show(run, run.api.post("projects", project, "clusters", cluster, "lock-result", body=body))


@command(group)
def delete(run: Run, project: Project, cluster: Cluster, *, yes: Yes = False) -> None:
    """Forget a cluster: nothing locks or unlocks it any more."""
    run.confirm(f"Nobody will lock or unlock {cluster} of {project} any more.", yes=yes)
    run.api.delete("projects", project, "clusters", cluster)
    run.say(f"Cluster {cluster} is forgotten.")
