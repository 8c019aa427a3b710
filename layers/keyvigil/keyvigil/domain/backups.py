"""Backups: what is to be restorable, in which Region, with which key."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from keyvigil.domain.arns import is_multi_region
from keyvigil.domain.keys import Key
from keyvigil.domain.verdicts import Remediation

MAX_BACKUPS_PER_KEY = 1000
"""Enough for five backups of each of 200 clusters; and what stands in the way of a key's deletion is found by reading
at most twenty times as many small items."""

MAX_REGIONS_PER_KEY = 40
"""In how many Regions the backups under one key are to be restorable: more than AWS has, and few enough that one
transaction can tell of all of them (a replica is missing, or is needed no more) beside a probe's own writes."""

BACKUPS_NAMED = 100
"""How many backups a refused deletion names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup of a cluster, encrypted under a key. It outlives its cluster, but keeps its key in the registry.

    `region` is where it is to be restorable.
    """

    project_id: str
    backup_id: str
    cluster_id: str
    key_id: str
    region: str
    created_at: datetime
    version: int = 0


class RestorePath(StrEnum):
    """How a key could open in a Region what was encrypted under it."""

    ITSELF = "ITSELF"
    RELATED_KEY = "RELATED_KEY"
    NONE = "NONE"


def restore_path(key: Key, region: str) -> RestorePath:
    """Say which key could open in a Region what this key encrypted.

    Ciphertexts of a multi-Region key open with each of its related keys; single-Region keys never leave their Region.
    Source: https://docs.aws.amazon.com/kms/latest/developerguide/multi-region-keys-overview.html
    """
    if region == key.region:
        return RestorePath.ITSELF
    return RestorePath.RELATED_KEY if is_multi_region(key.key_arn) else RestorePath.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorability:
    """Whether a restore in a Region would work now: with which key, or why not and what would let it."""

    restorable: bool
    with_key_id: str | None = None
    reason: str | None = None
    remediation: Remediation | None = None
