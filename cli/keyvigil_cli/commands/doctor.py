"""`keyvigil doctor`: what works with a key, what is missing, and the statement to add. Needs no stack."""

from collections.abc import Iterable
from json import dumps
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import RenderableType
from rich.text import Text

from keyvigil.domain.arns import parse_kms_arn, role_account
from keyvigil_cli.command_line import Run
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.printable import printable
from keyvigil_cli.table import Column, Item, styled, table_of

if TYPE_CHECKING:
    from keyvigil_cli.doctor.findings import Addition, Diagnosis

SystemWord = Literal[
    "zilliz-cmek", "zilliz-byoc", "minio-kes", "bedrock-budgeteer", "stack", "keyvigil", "rds", "s3", "lambda",
    "secretsmanager", "dynamodb", "cloudtrail", "ssm"
]  # fmt: skip

_STYLES = {"WORKS": "green", "ALLOWED": "green", "MISSING": "bold red", "UNKNOWN": "yellow", "NOT TRIED": "dim"}
_COLUMNS = (
    Column("CHECK", "check"),
    Column("RESULT", lambda item: Text(str(item["result"]), _STYLES[str(item["result"])])),
    Column("CAUSE", "cause"),
    Column("", "said"),
)


def doctor(
    run: Run,
    key_arn: Annotated[str, typer.Argument(metavar="KEY_ARN", help="ARN of the key.")],
    *,
    system: Annotated[SystemWord, typer.Option("--for", help="What uses the key.")] = "zilliz-cmek",
    role: Annotated[str | None, typer.Option(help="ARN of the role to try it as; you yourself otherwise.")] = None,
    external_id: Annotated[str | None, typer.Option(help="The ExternalId that the role asks for.")] = None,
    project: Annotated[
        str | None, typer.Option(help="The project whose probes the role is restricted to, if it is.")
    ] = None,
    cluster_region: Annotated[str | None, typer.Option(help="The Region of what uses the key.")] = None,
    restore_region: Annotated[
        str | None, typer.Option(help="A Region in which backups must be restorable: tries the replica there.")
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(help="ARN of a stack's role that must be let in; again for each.")
    ] = None,
    service: Annotated[
        list[str] | None, typer.Option(help="A service that must be let in (cloudtrail, logs, sns, events).")
    ] = None,
    probe_secret_arn: Annotated[str | None, typer.Option(help="For minio-kes: a secret made for probes.")] = None,
    make_secret: Annotated[
        bool, typer.Option("--make-secret", help="For minio-kes: make a secret under the key, and delete it at once.")
    ] = False,
) -> ExitStatus:
    """Try a key, operation by operation. Exit status 3: something is missing; 4: something is not known."""
    from keyvigil_cli.doctor.calls import AwsCalls  # noqa: PLC0415 - loads the AWS SDK
    from keyvigil_cli.doctor.examination import Question, examine  # noqa: PLC0415 - likewise
    from keyvigil_cli.doctor.systems import SYSTEMS  # noqa: PLC0415 - likewise
    from keyvigil_cli.policies.services import BY_THEMSELVES  # noqa: PLC0415 - only a doctor needs it

    found = parse_kms_arn(key_arn)
    if found is None or found.kms_key_id is None:
        message = f"Invalid KMS key ARN format: {key_arn} is not arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID"
        raise typer.BadParameter(message)
    for arn in (*((role,) if role else ()), *(user or ())):
        if role_account(arn) is None:
            message = f"{arn} is no role: arn:aws:iam::ACCOUNT_ID:role/NAME"
            raise typer.BadParameter(message)
    for each in service or ():
        if each not in BY_THEMSELVES:
            message = f"{each} is none of {', '.join(BY_THEMSELVES)}"
            raise typer.BadParameter(message)
    question = Question(
        key_arn=key_arn,
        system=SYSTEMS[system],
        role_arn=role,
        external_id=external_id,
        project_id=project,
        cluster_region=cluster_region,
        restore_region=restore_region,
        users=tuple(user or ()),
        services=tuple(service or ()),
        probe_secret_arn=probe_secret_arn,
        makes_secret=make_secret,
    )
    with run.working("trying the key") as news:
        diagnosis = examine(question, AwsCalls(run.session), news)
    run.show(diagnosis.as_json(), lambda: _shown(diagnosis))
    return diagnosis.status


def _shown(diagnosis: "Diagnosis") -> Iterable[RenderableType]:
    items: list[Item] = [{name: getattr(each, name) for name in ("check", "result", "cause", "said")}
                         for each in diagnosis.checks]  # fmt: skip
    yield table_of(_COLUMNS, items)
    yield Text.assemble(("Outcome: ", "bold"), styled(diagnosis.outcome))
    for addition in diagnosis.to_add:
        yield _to_add(addition)
    commands = list(dict.fromkeys(command for check in diagnosis.checks for command in check.commands))
    if commands:
        either = any(check.either for check in diagnosis.checks)
        head = "To mend it, one policy is enough:" if either else "To mend it:"
        yield Text("\n".join((head, *(f"  {printable(each)}" for each in commands))), no_wrap=True)
    for note in diagnosis.notes:
        yield Text(printable(note), no_wrap=True)


def _to_add(addition: "Addition") -> Text:
    head = f"To add to the {addition.place} of {printable(addition.of)}:"
    return Text(f"{head}\n{dumps(addition.statement, indent=2)}", no_wrap=True)
