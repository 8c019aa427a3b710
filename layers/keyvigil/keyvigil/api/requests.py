"""What requests must look like, checked by pydantic before anything else sees them (contract.md)."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from keyvigil.domain.alerts import Severity
from keyvigil.domain.clusters import ClusterKind, LockResult, LockVia, Preset
from keyvigil.domain.incidents import Decision
from keyvigil.domain.keys import KeyUse
from keyvigil.domain.projects import Approval, Enforcement, Protocol
from keyvigil.domain.verdicts import Cause

# pydantic's regular expressions: `\p{C}` is every control, format, unassigned and private character; Zl and Zp are
# Unicode's own line and paragraph separators, at which some readers of logs break a line.
Name = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]+$")]
ProjectId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{2,39}$")]
ClusterId = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}$")]
BackupId = ClusterId
KeyId = Annotated[str, Field(pattern=r"^[a-z0-9-]{9,25}\.[a-z0-9-]{36}$")]
RegionName = Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$", max_length=25)]
# ARNs are taken apart by the domain, which answers in the contract's fixed words; here only their size is bounded.
Arn = Annotated[str, Field(min_length=1, max_length=2048)]
Reason = Annotated[
    str, Field(min_length=1, max_length=1000, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]*[^\p{C}\s][^\p{C}\p{Zl}\p{Zp}]*$")
]
Text = Annotated[str, Field(max_length=1000, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]*$")]


class Request(BaseModel):
    """A request body: unknown fields are refused, and nothing is converted silently.

    A request has one of these, so each is built when it is first asked for, and not all at the start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class CreateProject(Request):
    """`POST /projects`."""

    project_id: ProjectId
    name: Name
    enforcement: Enforcement = Enforcement.OBSERVE
    approval: Approval = Approval.AUTOMATIC
    check_interval_minutes: Annotated[int, Field(ge=1, le=60, strict=True)] | None = None
    grace_minutes: Annotated[int, Field(ge=0, le=1440, strict=True)] = 0
    probe_plan: Literal["full", "lean"] = "full"
    chat: Annotated[bool, Field(strict=True)] = False


class ChangeProject(Request):
    """`PATCH /projects/{project_id}`: what is not named stays."""

    name: Name = ""
    enforcement: Enforcement = Enforcement.OBSERVE
    approval: Approval = Approval.AUTOMATIC
    check_interval_minutes: Annotated[int, Field(ge=1, le=60, strict=True)] = 10
    grace_minutes: Annotated[int, Field(ge=0, le=1440, strict=True)] = 0
    probe_plan: Literal["full", "lean"] = "full"
    chat: Annotated[bool, Field(strict=True)] = False


class RegisterKey(Request):
    """`POST /projects/{p}/keys`."""

    key_arn: Arn
    role_arn: Arn
    use: KeyUse
    probe_secret_arn: Arn | None = None


class ChangeKey(Request):
    """`PATCH /projects/{p}/keys/{key_id}`: what is not named stays."""

    role_arn: Arn = ""
    use: KeyUse = KeyUse.CMEK
    probe_secret_arn: Arn = ""


class Rebaseline(Request):
    """`POST /projects/{p}/keys/{key_id}/rebaseline`."""

    reason: Reason


class Decide(Request):
    """`POST /projects/{p}/incidents/{incident_id}/decision`."""

    decision: Decision
    reason: Reason


ParameterName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,100}$")]
ParameterValue = Annotated[str, Field(max_length=512, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]*$")]


class Lock(Request):
    """How a cluster is locked. `timeout_seconds` is how long its control plane may take.

    Which of the other fields `via` needs and allows, and what they may name, the domain says.
    """

    via: LockVia = LockVia.EVENT
    timeout_seconds: Annotated[int, Field(ge=10, le=1800, strict=True)] = 300
    function_arn: Arn | None = None
    url: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    secret_arn: Arn | None = None
    preset: Preset | None = None
    document_name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    parameters: (
        Annotated[dict[ParameterName, Annotated[list[ParameterValue], Field(max_length=10)]], Field(max_length=20)]
        | None
    ) = None


class RegisterCluster(Request):
    """`POST /projects/{p}/clusters`."""

    cluster_id: ClusterId
    name: Name
    kind: ClusterKind
    region: RegionName
    key_id: KeyId
    lock: Lock = Lock()


class ChangeCluster(Request):
    """`PATCH /projects/{p}/clusters/{cluster_id}`. A key is taken only to be refused in the fixed words."""

    name: Name = ""
    kind: ClusterKind = ClusterKind.OTHER
    lock: Lock = Lock()
    key_id: KeyId = ""


class RegisterCanary(Request):
    """`POST /fleet/canaries`."""

    key_arn: Arn
    role_arn: Arn


class PullBrake(Request):
    """`POST /fleet/brake`. What is not named is no limit; `cause` names a cohort, and only a release can."""

    action: Literal["engage", "release"]
    region: RegionName | None = None
    project_id: ProjectId | None = None
    cause: Cause | None = None
    reason: Reason

    @model_validator(mode="after")
    def _only_a_release_names_a_cause(self) -> Self:
        if self.action == "engage" and self.cause is not None:
            message = "a person engages the brake for every cause; `cause` is for a release"
            raise ValueError(message)
        return self


class AnswerLock(Request):
    """`POST /projects/{p}/clusters/{cluster_id}/lock-result`."""

    fence: Annotated[int, Field(ge=0, lt=2**63, strict=True)]
    result: LockResult
    detail: Text | None = None


class RegisterBackup(Request):
    """`POST /projects/{p}/backups`."""

    backup_id: BackupId
    cluster_id: ClusterId
    key_id: KeyId
    region: RegionName


class CheckRestore(Request):
    """`POST /projects/{p}/backups/{backup_id}/restore-check`."""

    region: RegionName


class Subscribe(Request):
    """`POST /projects/{p}/subscriptions`."""

    protocol: Protocol
    endpoint: Arn
    min_severity: Severity = Severity.INFO
    types: Annotated[
        list[Annotated[str, Field(pattern=r"^[a-z]+\.(\*|[a-z_]+)$", max_length=40)]], Field(max_length=20)
    ] = []


class MakeSilence(Request):
    """`POST /projects/{p}/silences`. Which types there are, and how far away the end may be, the use case says."""

    types: Annotated[
        list[Annotated[str, Field(pattern=r"^[a-z]+\.(\*|[a-z_]+)$", max_length=40)]],
        Field(min_length=1, max_length=20),
    ]
    key_id: KeyId | None = None
    until: Annotated[
        str,
        Field(
            pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$",
            max_length=32,
        ),
    ]
    reason: Reason
