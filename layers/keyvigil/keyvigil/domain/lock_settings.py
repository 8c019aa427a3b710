"""What a tenant may name as its cluster's receiver: checked when it is registered, and again before each call."""

import ipaddress
import re
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import urlsplit

from keyvigil.domain.clusters import LockSettings, LockVia, Preset
from keyvigil.domain.endpoints import https_url_problem

# Source: https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html (FunctionName): a name has 64 characters.
_FUNCTION_ARN = re.compile(
    r"arn:aws:lambda:(?P<region>[a-z]{2}(?:-[a-z]+)+-\d{1,2}):(?P<account>\d{12}):function:"
    r"(?P<name>keyvigil-lock-[a-zA-Z0-9_-]{1,50})(?::(?:\$LATEST|[\w-]{1,128}))?\Z",
    re.ASCII,
)
# Source: https://docs.aws.amazon.com/secretsmanager/latest/userguide/getting-started.html: six random characters last.
_SECRET_ARN = re.compile(
    r"arn:aws:secretsmanager:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):secret:"
    r"keyvigil/(?P<project>[a-z0-9-]+)/[\w/+=.@-]{1,256}-[a-zA-Z0-9]{6}\Z",
    re.ASCII,
)
# Source: https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_CreateDocument.html (Name)
_DOCUMENT_NAME = re.compile(r"KeyVigilLock-[a-zA-Z0-9_.-]{1,115}\Z", re.ASCII)

ZILLIZ_CLOUD_URLS = ("https://api.cloud.zilliz.com", "https://api.cloud.zilliz.com.cn")
"""Where Zilliz Cloud's control plane answers, in the world and in China; the first unless the other is named.

Source: https://docs.zilliz.com/reference/restful/suspend-cluster-v2 (Base URL) and the same page of docs.zilliz.com.cn.
"""

RUNBOOK_PARAMETERS = ("Action", "ProjectId", "ClusterId", "IncidentId", "Fence")
"""The parameters that KeyVigil gives every runbook, which must therefore declare them."""

_RESERVED = frozenset({*RUNBOOK_PARAMETERS, "AutomationAssumeRole"})

FUNCTION_PREFIX = "keyvigil-lock-"
OWN_FUNCTIONS_IN_PREFIX = ("lock-cluster",)
"""The stack's functions, without its name before them, that stand in the prefix if the stack is called keyvigil."""

_NEEDED: dict[LockVia, tuple[str, ...]] = {
    LockVia.NONE: (),
    LockVia.EVENT: (),
    LockVia.LAMBDA: ("function_arn",),
    LockVia.WEBHOOK: ("url", "secret_arn"),
    LockVia.SSM_AUTOMATION: ("document_name",),
}
_OPTIONAL: dict[LockVia, tuple[str, ...]] = {LockVia.WEBHOOK: ("preset",), LockVia.SSM_AUTOMATION: ("parameters",)}
_FIELDS = ("function_arn", "url", "secret_arn", "preset", "document_name", "parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockBounds:
    """What the operator lets tenants name: secrets of this account and Region, runbooks or not, no own function.

    Without an account and a Region no secret may be named.
    """

    account_id: str = ""
    region: str = ""
    stack_name: str = ""
    runbooks: bool = False


def lock_problem(lock: LockSettings, project_id: str, bounds: LockBounds) -> str | None:
    """What is wrong with how a cluster is to be locked, as a sentence that says what to do; None if nothing."""
    zilliz = lock.preset is Preset.ZILLIZ_CLOUD
    needed = tuple(name for name in _NEEDED[lock.via] if not (zilliz and name == "url"))
    for name in needed:
        if getattr(lock, name) is None:
            return f"`via: {lock.via}` needs `{name}`."
    belongs = {*_NEEDED[lock.via], *_OPTIONAL.get(lock.via, ())}
    for name in _FIELDS:
        if getattr(lock, name) is not None and name not in belongs:
            return f"`{name}` does not belong to `via: {lock.via}`; leave it out."
    match lock.via:
        case LockVia.NONE | LockVia.EVENT:
            return None
        case LockVia.LAMBDA:
            return _function_problem(lock.function_arn or "", bounds)
        case LockVia.WEBHOOK:
            problem = _zilliz_problem(lock.url) if zilliz else _webhook_problem(lock.url or "")
            return problem or _secret_problem(lock.secret_arn or "", project_id, bounds)
        case LockVia.SSM_AUTOMATION:
            return _runbook_problem(lock, bounds)
        case _:
            assert_never(lock.via)


def function_region(function_arn: str) -> str:
    """The Region of a receiving function.

    Raises:
        ValueError: it is not one.
    """
    match = _FUNCTION_ARN.match(function_arn)
    if match is None:
        message = "this is not the ARN of a receiving function"
        raise ValueError(message)
    return match["region"]


def _function_problem(function_arn: str, bounds: LockBounds) -> str | None:
    match = _FUNCTION_ARN.match(function_arn)
    if match is None:
        return "`function_arn` must look like arn:aws:lambda:REGION:ACCOUNT_ID:function:keyvigil-lock-NAME."
    if match["account"] == bounds.account_id and _is_own(match["name"], f"{bounds.stack_name}-"):
        return f"`function_arn` names a function of KeyVigil's own, {match['name']}; name your function otherwise."
    return None


def _is_own(name: str, stack: str) -> bool:
    """Whether the stack itself made this function: its name lies in the prefix, or is all that is before it."""
    if not name.startswith(stack):
        return False
    return stack.startswith(FUNCTION_PREFIX) or name.removeprefix(stack) in OWN_FUNCTIONS_IN_PREFIX


def _webhook_problem(url: str) -> str | None:
    problem = https_url_problem(url, "`url` must look like https://HOST/PATH")
    if problem is not None:
        return problem
    parts = urlsplit(url)
    if parts.port not in {None, 443}:
        return "`url` must use port 443, which is https's own; leave the port out."
    try:
        ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return None
    return "`url` must name its host: a certificate is checked against the name, so an IP address will not do."


def _zilliz_problem(url: str | None) -> str | None:
    if url is None or url in ZILLIZ_CLOUD_URLS:
        return None
    return f"With `preset: zilliz-cloud`, `url` is {' or '.join(ZILLIZ_CLOUD_URLS)}; leave it out for the first."


def _secret_problem(secret_arn: str, project_id: str, bounds: LockBounds) -> str | None:
    match = _SECRET_ARN.match(secret_arn)
    place = (bounds.region, bounds.account_id, project_id)
    if match is None or (match["region"], match["account"], match["project"]) != place:
        return (
            "`secret_arn` must be the whole ARN of a secret of this project in KeyVigil's own account and Region: "
            f"arn:aws:secretsmanager:{bounds.region or 'REGION'}:{bounds.account_id or 'ACCOUNT_ID'}:secret:"
            f"keyvigil/{project_id}/NAME-SUFFIX."
        )
    return None


def _runbook_problem(lock: LockSettings, bounds: LockBounds) -> str | None:
    if not bounds.runbooks:
        return (
            "This KeyVigil runs no runbooks: its operator has to deploy it with AllowRunbooks=true before "
            "`via: ssm-automation` can be used."
        )
    if not _DOCUMENT_NAME.match(lock.document_name or ""):
        return "`document_name` must be the name of a runbook that begins with KeyVigilLock-."
    taken = sorted(_RESERVED & (lock.parameters or {}).keys())
    if taken:
        return f"`parameters` must not name {', '.join(taken)}: KeyVigil or the runbook itself sets that."
    # SSM writes other things in place of {{…}}: its variables, and for Run Command the operator's stored parameters.
    # Whether it does so in a value that it was given, AWS does not say, so it is given none.
    # Source: https://docs.aws.amazon.com/systems-manager/latest/userguide/automation-variables.html
    if any("{{" in value for values in (lock.parameters or {}).values() for value in values):
        return "`parameters` must not contain {{, which SSM may replace by what is the operator's."
    return None
