"""Keys as KMS describes them, and the key that a service means when it names one."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from keyvigil_cli.discovery.aws_calls import AWS_ERRORS, Calls, Service, code_of, unread_because
from keyvigil_cli.discovery.model import Json, Key, Manager, Place, Reading

ACTIONS = ("kms:ListKeys", "kms:ListAliases", "kms:DescribeKey", "kms:GetKeyRotationStatus", "kms:GetKeyPolicy")
"""What reading keys needs."""

OF_AWS = "alias/aws/"
_KEY_ID = re.compile(r"(?:mrk-[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z")

# Conditions that hold everybody else off, if they ask for equality and something is asked for.
# https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html
_WHO = frozenset(
    {"kms:calleraccount", "aws:principalaccount", "aws:principalarn", "aws:principalorgid", "aws:principalorgpaths",
     "aws:sourceaccount", "aws:sourcearn", "aws:sourceorgid", "aws:sourceorgpaths", "aws:sourcevpc", "aws:sourcevpce",
     "aws:userid"}
)  # fmt: skip
# `...IfExists` holds where the value is missing, `...Not...` for everybody but one.
_EQUALITY = frozenset({"stringequals", "stringequalsignorecase", "stringlike", "arnequals", "arnlike"})


def of_metadata(metadata: Json, place: Place, *, seen_by: str | None = None) -> Key:
    """Give a key. `seen_by` is the account that asked.

    https://docs.aws.amazon.com/kms/latest/APIReference/API_KeyMetadata.html
    """
    arn = str(metadata["Arn"])
    return Key(
        arn=arn,
        place=place,
        manager=Manager.AWS if metadata.get("KeyManager") == "AWS" else Manager.CUSTOMER,
        of_other_account=seen_by is not None and account_of(arn) != seen_by,
        state=metadata.get("KeyState"),
        description=str(metadata.get("Description") or ""),
        usage=metadata.get("KeyUsage"),
        spec=metadata.get("KeySpec") or metadata.get("CustomerMasterKeySpec"),
        origin=metadata.get("Origin"),
        multi_region=bool(metadata.get("MultiRegion")),
        deletion_date=metadata.get("DeletionDate"),
        material_expires_at=metadata.get("ValidTo"),
    )


def may_rotate(key: Key) -> bool:
    """Say whether KMS can rotate a key by itself, and tells whether it does.

    https://docs.aws.amazon.com/kms/latest/developerguide/rotate-keys.html
    """
    return key.spec == "SYMMETRIC_DEFAULT" and key.origin == "AWS_KMS" and key.state == "Enabled"


def open_statements(policy: Json) -> list[str]:
    """Name the statements of a key policy that allow everybody something: by their Sid, or their place.

    https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-overview.html
    """
    statements = policy.get("Statement") or []
    listed: Sequence[Json] = [statements] if isinstance(statements, Mapping) else statements
    return [
        str(each.get("Sid") or f"statement {number}") for number, each in enumerate(listed, start=1) if _is_open(each)
    ]


def _is_open(statement: Json) -> bool:
    if statement.get("Effect") != "Allow":
        return False
    principal = statement.get("Principal")
    everybody = "NotPrincipal" in statement or "*" in _listed(
        principal.get("AWS") if isinstance(principal, Mapping) else principal
    )
    return everybody and not any(
        operator.lower().removeprefix("foranyvalue:") in _EQUALITY
        and any(name.lower() in _WHO and "*" not in _listed(values) for name, values in asked.items())
        for operator, asked in (statement.get("Condition") or {}).items()
    )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def read_keys(service: Service, place: Place, found: Reading) -> None:
    """Read aliases and keys; of keys that a customer manages their rotation and their policy too."""
    kms = service("kms")
    names: dict[str, list[str]] = {}
    try:
        for alias in kms.items("list_aliases", "Aliases"):
            target = alias.get("TargetKeyId")
            if target:
                arn = key_arn(str(target), place)
                found.aliases[str(alias["AliasArn"])] = arn
                names.setdefault(arn, []).append(str(alias["AliasName"]))
        found.listed.add(place)
    except AWS_ERRORS as error:
        found.unread.append(unread_because(error, place, "kms aliases", partly=bool(names)))
    aliases_known = place in found.listed
    for item in kms.items("list_keys", "Keys"):
        arn = str(item["KeyArn"])
        found.keys.append(described(kms, arn, place, found, tuple(names.get(arn, ())), aliases_known=aliases_known))


def described(
    kms: Calls, arn: str, place: Place, found: Reading, aliases: tuple[str, ...] = (), *, aliases_known: bool = True
) -> Key:
    """Ask KMS about a key; what it does not tell is kept as unread."""
    managed = Manager.AWS if any(each.startswith(OF_AWS) for each in aliases) else Manager.UNKNOWN
    other = account_of(arn) != place.account_id
    try:
        key = of_metadata(kms.one("describe_key", KeyId=arn)["KeyMetadata"], place, seen_by=place.account_id)
    except AWS_ERRORS as error:
        if code_of(error) == "NotFoundException" and not other:
            return Key(arn=arn, place=place, manager=Manager.CUSTOMER, state="NotFound", aliases=aliases)
        found.unread.append(unread_because(error, place, f"kms key {arn}"))
        return Key(arn=arn, place=place, manager=managed, of_other_account=other, aliases=aliases)
    rotates, policy = None, None
    if key.manager is Manager.CUSTOMER and not other:
        try:
            if may_rotate(key):
                rotates = bool(kms.one("get_key_rotation_status", KeyId=arn)["KeyRotationEnabled"])
        except AWS_ERRORS as error:
            found.unread.append(unread_because(error, place, f"rotation of kms key {arn}"))
        try:
            policy = json.loads(kms.one("get_key_policy", KeyId=arn, PolicyName="default")["Policy"])
        except AWS_ERRORS as error:
            found.unread.append(unread_because(error, place, f"policy of kms key {arn}"))
    return replace(
        key, aliases=aliases, aliases_known=aliases_known and not other, rotation_enabled=rotates, policy=policy
    )


# --- names ---------------------------------------------------------------------------------------------------------


def account_of(arn: str) -> str:
    """Return the account in an ARN."""
    parts = arn.split(":")
    return parts[4] if len(parts) > 5 else ""  # noqa: PLR2004 - arn:partition:service:region:account:resource


def region_of(arn: str) -> str:
    """Return the Region in an ARN."""
    parts = arn.split(":")
    return parts[3] if len(parts) > 5 else ""  # noqa: PLR2004 - likewise


def key_arn(written: str, place: Place, aliases: Mapping[str, str] | None = None) -> str:
    """Return the ARN of the key that a service in a place means; an alias's ARN if nobody knows where it leads.

    Where a key's id or an alias's name stands, a key of the same account and Region is meant:
    https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id
    """
    prefix = f"arn:aws:kms:{place.region}:{place.account_id}:"
    if _KEY_ID.match(written):
        return f"{prefix}key/{written}"
    arn = f"{prefix}{written}" if written.startswith("alias/") else written
    return (aliases or {}).get(arn, arn)


def is_alias(arn: str) -> bool:
    """Say whether an ARN is that of an alias."""
    return ":alias/" in arn


def is_of_aws(arn: str) -> bool:
    """Say whether an alias's ARN is that of a key of AWS's."""
    return f":{OF_AWS}" in arn
