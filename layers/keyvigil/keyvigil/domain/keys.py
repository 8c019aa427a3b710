"""Registered keys: what is known about each, and when it is probed next."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import assert_never

from keyvigil.domain.verdicts import Verdict

READ_SECRET = "GetSecretValue"  # noqa: S105  an operation's name, not a secret
"""The one operation of a probe that is not KMS's."""


class KeyUse(StrEnum):
    """What the key is used for, which decides the operations that a probe tries."""

    CMEK = "cmek"
    CSE = "cse"
    KES = "kes"
    SERVICE = "service"

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations of one probe, in the order in which they are tried: KMS's, and for `kes` Secrets Manager's."""
        basic = ("DescribeKey", "Encrypt", "Decrypt")
        match self:
            case KeyUse.CSE:
                return (*basic, "GenerateDataKey")
            case KeyUse.KES:
                return (*basic, READ_SECRET)
            case KeyUse.CMEK | KeyUse.SERVICE:
                return basic
            case _:
                assert_never(self)


class KeyStatus(StrEnum):
    """What a key is after hysteresis: one reading proves nothing."""

    HEALTHY = "HEALTHY"
    SUSPECT = "SUSPECT"
    UNHEALTHY = "UNHEALTHY"
    RECOVERING = "RECOVERING"


class Trigger(StrEnum):
    """What made a probe happen."""

    REGISTRATION = "registration"
    SCHEDULE = "schedule"
    EVENT = "event"
    REQUEST = "request"
    LOCKOUT = "lockout"
    RECOVERY = "recovery"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The ciphertext made at registration, which every probe decrypts: the old data must still open.

    `checksum` (SHA-256, hex) tells a ciphertext that we damaged from one that KMS refuses.
    """

    ciphertext: bytes
    checksum: str
    context: Mapping[str, str]
    made_at: datetime

    @staticmethod
    def of(ciphertext: bytes, context: Mapping[str, str], made_at: datetime) -> "Baseline":
        """Keep a fresh ciphertext together with its checksum."""
        checksum = hashlib.sha256(ciphertext).hexdigest()
        return Baseline(ciphertext=ciphertext, checksum=checksum, context=context, made_at=made_at)

    @property
    def intact(self) -> bool:
        """Whether the stored bytes are still those that KMS returned."""
        return hashlib.sha256(self.ciphertext).hexdigest() == self.checksum


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebaseline:
    """A registration ciphertext that was replaced: who did it, when, and the reason they gave."""

    at: datetime
    by: str
    reason: str


REBASELINES_KEPT = 20
"""How many replacements a key remembers: its item must not outgrow the table's 400 KB, and a reason of a thousand
characters that need escapes takes 12 KB.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Automatic rotation of the key material, as GetKeyRotationStatus tells it. `period_days` is in days."""

    enabled: bool
    next_at: datetime | None = None
    period_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasTarget:
    """The key that an alias stands for; `key_arn` is None if the alias is gone."""

    key_arn: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloserLook:
    """What only calls of its own show, and so is looked at about once an hour.

    A part is None if it does not apply to the key, or if its role may not see it.
    """

    looked_at: datetime
    rotation: Rotation | None = None
    alias: AliasTarget | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFacts:
    """What DescribeKey said, as far as it was allowed to say anything, and what a closer look showed.

    `primary_region` is set for multi-Region keys; `replica_regions` names the others, the key's own among them if it
    is a replica. `material_expires_at` stays known after the material is gone, so that its end can be explained;
    `deletion_cancelled` says that the key is disabled because that is how a cancelled deletion leaves it.
    """

    multi_region: bool = False
    replica_regions: tuple[str, ...] = ()
    deletion_date: datetime | None = None
    material_expires_at: datetime | None = None
    custom_key_store_id: str | None = None
    primary_region: str | None = None
    key_state: str | None = None
    closer: CloserLook | None = None
    deletion_cancelled: bool = False

    @property
    def regions(self) -> frozenset[str]:
        """Where a multi-Region key has its primary or a replica."""
        return frozenset(self.replica_regions) | ({self.primary_region} if self.primary_region else frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The last that was told of a danger: of which one (`what`), at which of its steps, and when."""

    what: str
    step: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A key's status and the streaks behind it.

    A streak is a number of counted probes in a row with the same answer. `counted_at` is when the last
    probe that counted was made, `failing_since` when the running failing streak began. `confirmed` says
    that the outage under way was confirmed; it stays true until recovery is proved.
    """

    status: KeyStatus = KeyStatus.HEALTHY
    unknown_since: datetime | None = None
    failing_streak: int = 0
    definite_streak: int = 0
    healthy_streak: int = 0
    failing_since: datetime | None = None
    counted_at: datetime | None = None
    confirmed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A registered KMS key. `clusters` is a count; `pending_clusters` how many of them wait for the key.

    `alert_sequence` numbers the alerts about this key, so that a reader can sort them. `probe_secret_arn` is
    the secret that a probe of a `kes` key reads, None for every other use. `backups` counts the backups that need the
    key, by the Region in which they are to be restorable; `told` is what was told of each danger.
    `unknown_told` says that an alert about its being UNKNOWN is firing.
    `incidents_opened` are the times of its newest incidents, as far back as flapping counts.
    `lean_until` says until when its scheduled probes may be lean; None under the plan `full`.
    """

    project_id: str
    key_id: str
    key_arn: str
    alias_arn: str | None
    region: str
    account_id: str
    role_arn: str
    external_id: str
    use: KeyUse
    baseline: Baseline
    facts: KeyFacts
    health: Health
    verdict: Verdict
    last_probed_at: datetime
    last_trigger: Trigger
    due_at: datetime
    created_at: datetime
    open_incident_id: str | None = None
    clusters: int = 0
    pending_clusters: int = 0
    alert_sequence: int = 0
    rebaselines: tuple[Rebaseline, ...] = ()
    probe_secret_arn: str | None = None
    backups: Mapping[str, int] = field(default_factory=dict)
    told: Mapping[str, Told] = field(default_factory=dict)
    incidents_opened: tuple[datetime, ...] = ()
    unknown_told: bool = False
    lean_until: datetime | None = None
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleClaim:
    """A customer's role serves one project. `keys` counts the project's keys that are probed with it.

    `sharing` counts those of other projects, which had registered them before that was refused.

    IAM does not tell role names apart by case, and a name is unique in its account whatever its path:
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html#reference_iam-quotas-names
    """

    account_id: str
    role_name: str
    project_id: str
    keys: int
    sharing: Mapping[str, int] = field(default_factory=dict)
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Everything a probe of a key that is not registered yet needs.

    `context` is the encryption context of every probe of this key: constant, stored with the ciphertext,
    and written so that the customer's auditor reads in CloudTrail who is testing and why. `baseline` is
    there if the key is registered already and its role or use is to change: what was encrypted at
    registration must open that way too (invariant 7).
    """

    project_id: str
    key_arn: str
    role_arn: str
    external_id: str
    use: KeyUse
    context: Mapping[str, str] = field(default_factory=dict)
    baseline: Baseline | None = None
    probe_secret_arn: str | None = None


def probe_context(project_id: str) -> dict[str, str]:
    """The encryption context of a project's probes, which CloudTrail shows in plain text to the key's owner."""
    return {"tested-by": "KeyVigil", "purpose": "availability-probe", "project": project_id}


TROUBLED_AFTER = timedelta(seconds=5)
"""How soon a key that is not HEALTHY, or about which nothing is known, is due again: for every sweep, whatever second
of its minute that runs in, but no sooner than a probe would count."""

HALF_A_SWEEP = timedelta(seconds=30)
"""How much earlier than a whole interval a key is due. Sweeps come every minute, but not to the millisecond: a key due
exactly one interval after its last probe would miss the sweep that comes a moment early, and wait for another."""


def next_due(project_id: str, key_id: str, health: Health, interval_minutes: int, now: datetime) -> datetime:
    """When a key is to be probed next. There is a sweep every minute, at any second of it.

    A key that is not HEALTHY, or is UNKNOWN, is due for every sweep, and so is one with an interval of a minute: it may
    have been dealt a late second of this one. Any other healthy key is due at its own minute of
    the interval, which a hash of its id spreads evenly and no restart changes, or one interval after this
    probe, whichever is first.
    """
    if health.status is not KeyStatus.HEALTHY or health.unknown_since is not None or interval_minutes == 1:
        return now + TROUBLED_AFTER
    digest = hashlib.sha256(f"{project_id}/{key_id}".encode()).digest()
    place = int.from_bytes(digest[:8]) % interval_minutes
    minute = int((now + HALF_A_SWEEP).timestamp()) // 60
    own_minute = datetime.fromtimestamp((minute + ((place - minute) % interval_minutes or interval_minutes)) * 60, UTC)
    due = min(own_minute, now + timedelta(minutes=interval_minutes)) - HALF_A_SWEEP
    return max(due, now + TROUBLED_AFTER)


CLOSER_LOOK_EVERY = timedelta(minutes=55)
"""How often rotation and alias are looked at: once an hour, less what probes at an interval of an hour are early."""


def is_closer_look_due(facts: KeyFacts, now: datetime, every: timedelta = CLOSER_LOOK_EVERY) -> bool:
    """Say whether the last closer look is too long ago. One from the future was a clock that has been set back."""
    return facts.closer is None or not timedelta(0) <= now - facts.closer.looked_at < every


STALE_INTERVALS = 3
"""A key not probed for this many of its intervals is stale (invariant 5)."""


def is_stale(last_probed_at: datetime, interval_minutes: int, now: datetime) -> bool:
    """Say whether a key went unprobed for too long."""
    return now - last_probed_at > timedelta(minutes=STALE_INTERVALS * interval_minutes)
