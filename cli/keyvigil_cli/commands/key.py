"""`keyvigil key`: customers' KMS keys, and whether they can be used."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import RenderableType
from rich.text import Text

from keyvigil_cli.command_line import Run, Yes, changes, command, given
from keyvigil_cli.commands.all_projects import items_of
from keyvigil_cli.commands.parameters import AnyProject, Key, Project, Reason
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.printable import printable
from keyvigil_cli.table import Cell, Column, Item, fields_of, styled, table_of, when

if TYPE_CHECKING:
    from keyvigil_cli.api_client import JsonObject

group = typer.Typer(help="Customers' KMS keys: whether they can be used, and why not.", no_args_is_help=True)

Use = Literal["cmek", "cse", "kes", "service"]
KeyStatusWord = Literal["HEALTHY", "SUSPECT", "UNHEALTHY", "RECOVERING"]

KeyArn = Annotated[str, typer.Option("--key-arn", help="ARN of the KMS key, or of an alias.")]
RoleArn = Annotated[str, typer.Option("--role-arn", help="ARN of the customer's role that may probe the key.")]
UseOption = Annotated[Use, typer.Option("--use", help="What the key is used for: it decides what a probe tries.")]
SecretArn = Annotated[
    str | None, typer.Option("--probe-secret-arn", help="ARN of the secret that a probe reads; only for `kes`.")
]


def _status(item: Item) -> Cell:
    words = [item["status"]]
    if item["unknown_since"] is not None:
        words.append("UNKNOWN")
    if item["stale"]:
        words.append("STALE")
    return styled(*words)


def _cause(item: Item) -> Cell:
    return styled((item["verdict"] or {}).get("cause"))


def _probed(item: Item) -> Cell:
    return f"{when(item['last_probed_at'])} by {printable(item['last_trigger'])}"


_COLUMNS = (
    Column("PROJECT", "project_id"),
    Column("KEY", "key_id"),
    Column("STATUS", _status),
    Column("CAUSE", _cause),
    Column("USE", "use"),
    Column("LAST PROBED", _probed),
    Column("CLUSTERS", "clusters"),
    Column("INCIDENT", "open_incident_id"),
)
_FIELDS = (
    Column("Key", "key_id"),
    Column("ARN", "key_arn"),
    Column("Alias", "alias_arn"),
    Column("Role", "role_arn"),
    Column("Use", lambda item: styled(item["use"], f"({printable(item['operations'])})")),
    Column("Status", _status),
    Column("Last probed", _probed),
    Column("Clusters", "clusters"),
    Column("Backups", "backups"),
    Column("Open incident", "open_incident_id"),
    Column("To be deleted", lambda item: when(item["deletion_date"])),
    Column("Material expires", lambda item: when(item["material_expires_at"])),
    Column("Rotation", "rotation_enabled"),
    Column("Replicas in", "replica_regions"),
    Column("Registered", lambda item: when(item["created_at"])),
)
_OPERATIONS = (
    Column("OPERATION", "operation"),
    Column("ALLOWED", lambda item: _allowed(item["allowed"])),
    Column("ERROR", "error"),
)


def _allowed(allowed: object) -> Cell:
    return styled("UNKNOWN") if allowed is None else Text("yes", "green") if allowed else Text("no", "bold red")


def _shown(key: Item) -> Iterable[RenderableType]:
    yield fields_of(_FIELDS, key)
    yield from _verdict(key["verdict"])


def _verdict(verdict: Item | None) -> Iterable[RenderableType]:
    """What a probe found: in words, and what mends it in commands to be pasted."""
    if verdict is None:
        return
    yield fields_of(
        (
            Column("Verdict", lambda item: styled(item["outcome"], *([item["cause"]] if item["cause"] else []))),
            Column("What was seen", "message"),
            Column("AWS said", lambda item: f"{printable(item['aws_error_code'])} to {printable(item['operation'])}"),
            Column("Took", lambda item: f"{printable(item['latency_ms'])} ms"),
            Column("At", lambda item: when(item["probed_at"])),
        ),
        verdict,
    )
    yield from remedy(verdict["remediation"])
    for finding in verdict.get("findings") or ():
        yield Text.assemble((printable(finding["code"]), "yellow"), " ", printable(finding["message"]))
        yield from remedy(finding.get("remediation"))


def remedy(remediation: Item | None) -> Iterable[RenderableType]:
    """What mends it, each command on one line."""
    if not remediation:
        return
    lines = [printable(remediation["summary"]), *(f"  {printable(each)}" for each in remediation["commands"])]
    yield Text("\n".join(lines), overflow="ignore", no_wrap=True)


def health_of(key: Item) -> ExitStatus:
    """What a key's answer says about it. What was not probed for long is unknown, not healthy."""
    if key["status"] != "HEALTHY":
        return ExitStatus.UNHEALTHY
    outcome = (key["verdict"] or {}).get("outcome")
    if outcome != "HEALTHY" or key["unknown_since"] is not None or key["stale"]:
        return ExitStatus.UNKNOWN
    return ExitStatus.FINE


def _answer(run: Run, key: "JsonObject") -> ExitStatus:
    run.show(key, lambda: _shown(key))
    return health_of(key)


def _keys(keys: Sequence[Item]) -> RenderableType:
    return table_of(_COLUMNS, keys)


@command(group, "list")
def list_keys(
    run: Run,
    project: AnyProject = None,
    *,
    status: Annotated[KeyStatusWord | None, typer.Option(help="Only keys with this status.")] = None,
) -> ExitStatus:
    """List keys, of one project or of all. Exit status 3: one is not HEALTHY; 4: of one that is not known."""
    found = list(items_of(run, project, "keys", **given(status=status)))
    run.show({"items": found, "next_token": None}, lambda: _keys(found))
    return ExitStatus.worst(*map(health_of, found))


@command(group)
def show(run: Run, project: Project, key: Key) -> ExitStatus:
    """Show a key as it was last probed. Exit status as of `list`."""
    return _answer(run, run.api.get("projects", project, "keys", key))


@command(group)
def check(run: Run, project: Project, key: Key) -> ExitStatus:
    """Probe a key now. Exit status 3: it is not HEALTHY; 4: that could not be found out."""
    with run.working(f"probing {key}"):
        found = run.api.post("projects", project, "keys", key, "check")
    return _answer(run, found)


@command(group)
def register(
    run: Run,
    project: Project,
    *,
    key_arn: KeyArn,
    role_arn: RoleArn,
    use: UseOption,
    probe_secret_arn: SecretArn = None,
) -> ExitStatus:
    """Probe a key, and watch it from now on. A key that cannot be used is refused: exit status 3, or 4."""
    body = given(key_arn=key_arn, role_arn=role_arn, use=use, probe_secret_arn=probe_secret_arn)
    return _answer(run, run.create("probing the key", "projects", project, "keys", body=body))


@command(group)
def validate(
    run: Run,
    project: Project,
    *,
    key_arn: KeyArn,
    role_arn: RoleArn,
    use: UseOption,
    probe_secret_arn: SecretArn = None,
) -> ExitStatus:
    """Try a key operation by operation, as a registration would, and store nothing. Exit status as of `check`."""
    body = given(key_arn=key_arn, role_arn=role_arn, use=use, probe_secret_arn=probe_secret_arn)
    with run.working("trying the key"):
        found = run.api.post("projects", project, "key-validations", body=body)
    run.show(found, lambda: (table_of(_OPERATIONS, found["operations"]), *_verdict(found["verdict"])))
    outcomes = {"HEALTHY": ExitStatus.FINE, "UNHEALTHY": ExitStatus.UNHEALTHY}
    return outcomes.get(found["verdict"]["outcome"], ExitStatus.UNKNOWN)


@command(group)
def update(
    run: Run,
    project: Project,
    key: Key,
    *,
    role_arn: Annotated[str | None, typer.Option("--role-arn", help="Another role of the customer's.")] = None,
    use: Annotated[Use | None, typer.Option("--use", help="What the key is used for.")] = None,
    probe_secret_arn: SecretArn = None,
) -> None:
    """Change a key's role, use or secret; it is probed the new way first."""
    body = changes(role_arn=role_arn, use=use, probe_secret_arn=probe_secret_arn)
    with run.working(f"probing {key} the new way"):
        changed = run.api.patch("projects", project, "keys", key, body=body)
    run.show(changed, lambda: _shown(changed))


@command(group)
def rebaseline(run: Run, project: Project, key: Key, *, reason: Reason) -> None:
    """Replace the ciphertext made at registration; for when KeyVigil's own copy is damaged."""
    with run.working(f"encrypting anew under {key}"):
        made = run.api.post("projects", project, "keys", key, "rebaseline", body={"reason": reason})
    run.show(made, lambda: _shown(made))


@command(group)
def delete(run: Run, project: Project, key: Key, *, yes: Yes = False) -> None:
    """Stop watching a key, which must have no clusters, backups or open incident."""
    run.confirm(f"Nobody will watch {key} of {project} any more.", yes=yes)
    run.api.delete("projects", project, "keys", key)
    run.say(f"Key {key} is not watched any more.")
