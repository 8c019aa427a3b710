"""What a key's policy says about somebody: read, not asked of AWS. Good for advice; AWS alone decides.

Source of the rules:
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
    https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html (what the account's root stands for)
"""

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from keyvigil_cli.policies.documents import Document, Statement, listed


class Says(StrEnum):
    """What a key's policy says of one principal and one action."""

    DENIES = "denies"
    ALLOWS = "allows"
    ALLOWS_UNDER_CONDITIONS = "allows under conditions"
    LEAVES_TO_IAM = "leaves to IAM"
    NOTHING = "says nothing"


def says(policy: Document, principal: str, action: str, *, via: str | None = None) -> Says:
    """Return what a key's policy says.

    Args:
        policy: the key's policy.
        principal: a role's or user's ARN, or a service's principal (`cloudtrail.amazonaws.com`).
        action: `kms:Encrypt`.
        via: the service through which the key is used, as `kms:ViaService` names it; None: directly.
    """
    found = Says.NOTHING
    rank = (Says.NOTHING, Says.LEAVES_TO_IAM, Says.ALLOWS_UNDER_CONDITIONS, Says.ALLOWS)
    for statement in policy["Statement"]:
        named = _named(statement, principal)
        if named is None or not _is_about(statement, action):
            continue
        conditions = dict(_conditions(statement))
        hosts = conditions.pop("kms:ViaService", None)
        if hosts is not None and not (via and any(fnmatchcase(via, str(host)) for host in hosts)):
            continue
        if statement.get("Effect") == "Deny":
            if not conditions:
                return Says.DENIES
            continue  # whether it holds is not to be read here
        this = Says.ALLOWS_UNDER_CONDITIONS if conditions else Says.ALLOWS
        this = Says.LEAVES_TO_IAM if named == "root" else this
        found = max(found, this, key=rank.index)
    return found


def _named(statement: Statement, principal: str) -> str | None:
    """How a statement names a principal: itself, as everybody, or as its account; None if it does not."""
    who = statement.get("Principal")
    if who == "*":
        return "everybody"
    if not isinstance(who, dict):
        return None
    if principal in listed(who.get("Service")):
        return "itself"
    if not principal.startswith("arn:"):
        return None
    names = [str(each) for each in listed(who.get("AWS"))]
    account = principal.split(":")[4]
    if principal in names:
        return "itself"
    if "*" in names:
        return "everybody"
    return "root" if {account, f"arn:aws:iam::{account}:root"} & {*names} else None


def _is_about(statement: Statement, action: str) -> bool:
    if "NotAction" in statement:
        return not _among(statement["NotAction"], action)
    return _among(statement.get("Action"), action)


def _among(patterns: Any, action: str) -> bool:
    return any(fnmatchcase(action.lower(), str(each).lower()) for each in listed(patterns))


def _conditions(statement: Statement) -> list[tuple[str, list[Any]]]:
    found = statement.get("Condition", {}).values()
    return [(name, listed(values)) for keys in found for name, values in keys.items()]
