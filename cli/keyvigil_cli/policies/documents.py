"""Policy documents as plain JSON: put together, read, and held against AWS's limits."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from keyvigil_cli.errors import CliError

type Statement = dict[str, Any]
type Document = dict[str, Any]

VERSION = "2012-10-17"

LONGEST_KEY_POLICY = 32_768
"""In bytes. Source: https://docs.aws.amazon.com/kms/latest/developerguide/resource-limits.html"""

LONGEST_ROLE_POLICY = 10_240
"""In characters, white space not counted, for all of a role's inline policies together.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
"""

LONGEST_TRUST_POLICY = 2_048
"""In characters, white space not counted; the quota without an increase. Source: as LONGEST_ROLE_POLICY."""


class BadPolicyError(CliError):
    """A policy that cannot be made from what was said, or read."""


def document(statements: Iterable[Statement]) -> Document:
    """Return a policy document of these statements."""
    return {"Version": VERSION, "Statement": list(statements)}


def within(limit: int, made: Document, what: str) -> Document:
    """Return a document, if AWS takes one so long.

    Raises:
        BadPolicyError: it is too long.
    """
    length = len(json.dumps(made, separators=(",", ":")))
    if length > limit:
        message = f"this {what} would have {length} characters, and AWS takes {limit}: use another role for some keys"
        raise BadPolicyError(message)
    return made


def one_or_many(values: Sequence[str]) -> str | list[str]:
    """Return one value alone, several as a list: AWS reads both, and people the shorter one."""
    return values[0] if len(values) == 1 else list(values)


def listed(value: Any) -> list[Any]:
    """Return what a policy writes as one thing or as a list of them, as a list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def parsed(text: str) -> Document:
    """Read a policy document.

    Raises:
        BadPolicyError: it is none.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"this is no JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        raise BadPolicyError(message) from error
    if isinstance(found, dict) and isinstance(found.get("PolicyDocument"), dict):
        found = found["PolicyDocument"]  # as `aws iam get-role-policy` prints it
    statements = listed(found.get("Statement")) if isinstance(found, dict) else []
    if not statements or not all(isinstance(each, dict) for each in statements):
        raise BadPolicyError("this is no policy document: it has no `Statement`")
    return {**found, "Statement": statements}
