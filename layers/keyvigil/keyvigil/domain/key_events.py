"""What KMS, CloudTrail and IAM tell of a key, and which registered keys that concerns.

Events are hints (invariant 8): one makes probes happen now and may say who acted. It never decides a verdict.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from keyvigil.domain.actors import Actor
from keyvigil.domain.arns import KmsArn, role_name
from keyvigil.domain.keys import Key

KMS_EVENTS = frozenset({"KMS CMK Deletion", "KMS CMK Rotation", "KMS Imported Key Material Expiration"})
"""What KMS itself sends to EventBridge, by `detail-type`.

Source: https://docs.aws.amazon.com/kms/latest/developerguide/kms-events.html
"""

CALLS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "aws.kms": frozenset(
            {
                "CancelKeyDeletion",
                "ConnectCustomKeyStore",
                "CreateGrant",
                "DeleteAlias",
                "DeleteCustomKeyStore",
                "DeleteImportedKeyMaterial",
                "DisableKey",
                "DisableKeyRotation",
                "DisconnectCustomKeyStore",
                "EnableKey",
                "EnableKeyRotation",
                "ImportKeyMaterial",
                "PutKeyPolicy",
                "ReplicateKey",
                "RetireGrant",
                "RevokeGrant",
                "RotateKeyOnDemand",
                "ScheduleKeyDeletion",
                "TagResource",
                "UntagResource",
                "UpdateAlias",
                "UpdateCustomKeyStore",
                "UpdatePrimaryRegion",
            }
        ),
        "aws.iam": frozenset(
            {
                "AttachRolePolicy",
                "CreateRole",
                "DeleteRole",
                "DeleteRolePermissionsBoundary",
                "DeleteRolePolicy",
                "DetachRolePolicy",
                "PutRolePermissionsBoundary",
                "PutRolePolicy",
                "UpdateAssumeRolePolicy",
            }
        ),
    }
)
"""The API calls, as CloudTrail records them, that can break or mend a key or the role that it is probed with."""

GRANT_CALLS = frozenset({"CreateGrant", "RetireGrant", "RevokeGrant"})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvent:
    """One thing that happened. `account_id` is the account that recorded it; what it names is in that account.

    `arns` are the keys and aliases that it names, `key_store_id` the custom key store in `region`, `role_name` the
    IAM role. `actor` is None if no caller with an ARN is recorded, as for what AWS does by itself.
    """

    account_id: str
    region: str
    name: str
    arns: tuple[KmsArn, ...] = ()
    role_name: str | None = None
    key_store_id: str | None = None
    actor: Actor | None = None


class Bearing(StrEnum):
    """What an event has to do with a registered key."""

    ACTS_ON_IT = "ACTS_ON_IT"
    RELATED = "RELATED"
    NONE = "NONE"


def bearing(event: KeyEvent, key: Key) -> Bearing:
    """Say what an event has to do with a key: an account is believed about its own keys only.

    What happens to one key of a multi-Region set is related to the others: they share id and material, but each
    has its own state and policy, so it explains nothing about them.
    https://docs.aws.amazon.com/kms/latest/developerguide/multi-region-keys-overview.html
    """
    if event.account_id != key.account_id:
        return Bearing.NONE
    found = Bearing.NONE
    for arn in event.arns:
        if arn.arn in {key.key_arn, key.alias_arn}:
            return Bearing.ACTS_ON_IT
        if _is_multi_region(arn.kms_key_id) and arn.kms_key_id == key.key_id.partition(".")[2]:
            found = Bearing.RELATED
    # IAM does not tell role names apart by case.
    if event.role_name is not None and event.role_name.lower() == role_name(key.role_arn).lower():
        return Bearing.ACTS_ON_IT
    store = key.facts.custom_key_store_id
    if store is not None and (event.key_store_id, event.region) == (store, key.region):
        return Bearing.ACTS_ON_IT
    return found


def _is_multi_region(kms_key_id: str | None) -> bool:
    return kms_key_id is not None and kms_key_id.startswith("mrk-")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPointer:
    """Leads from something that an event can name, in one account, to one registered key. Written with the key."""

    account_id: str
    resource: str
    project_id: str
    key_id: str
    version: int = 0


def resources_of(key: Key) -> tuple[str, ...]:
    """What an event can name that concerns this key, each within the key's account."""
    kms_key_id = key.key_id.partition(".")[2]
    resources = [f"key/{kms_key_id}", f"role/{role_name(key.role_arn).lower()}"]
    if key.alias_arn is not None:
        resources.append(f"{key.region}/{key.alias_arn.rpartition(':')[2]}")
    if key.facts.custom_key_store_id is not None:
        resources.append(f"{key.region}/key-store/{key.facts.custom_key_store_id}")
    return tuple(resources)


def resources_named(event: KeyEvent) -> tuple[str, ...]:
    """What an event names, in the words of `resources_of`."""
    resources = {
        f"key/{arn.kms_key_id}" if arn.kms_key_id is not None else f"{arn.region}/{arn.alias_name}"
        for arn in event.arns
    }
    if event.role_name is not None:
        resources.add(f"role/{event.role_name.lower()}")
    if event.key_store_id is not None:
        resources.add(f"{event.region}/key-store/{event.key_store_id}")
    return tuple(sorted(resources))


def pointers_to(key: Key) -> tuple[KeyPointer, ...]:
    """All pointers that a registered key should have."""
    return tuple(
        KeyPointer(account_id=key.account_id, resource=resource, project_id=key.project_id, key_id=key.key_id)
        for resource in resources_of(key)
    )


PROBES_AFTER = (0, 15, 60, 180)
"""How many seconds after an event its keys are probed: key states and policies take seconds, sometimes minutes, to
spread. https://docs.aws.amazon.com/kms/latest/developerguide/programming-eventual-consistency.html
"""

EVENT_GRID = 5
"""Events make keys due at full multiples of this many seconds only, so that a burst of them, or one that comes twice,
makes one probe in five seconds and not one each. More would not count anyway (`MINIMUM_SPACING`)."""


def probes_due(now: datetime) -> tuple[tuple[datetime, int], ...]:
    """When an event's keys are to be probed, each with the whole seconds until then, rounded up."""
    begin = math.ceil(now.timestamp() / EVENT_GRID) * EVENT_GRID
    due = (datetime.fromtimestamp(begin + seconds, UTC) for seconds in PROBES_AFTER)
    return tuple((each, math.ceil((each - now) / timedelta(seconds=1))) for each in due)
