"""What was found in an account: keys, resources under them, what is not well kept, and what could not be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

type Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One Region of one account."""

    account_id: str
    region: str

    def __str__(self) -> str:
        return f"{self.account_id} {self.region}"


class Weight(StrEnum):
    """How bad a finding is."""

    UNHEALTHY = "unhealthy"
    """The key cannot be used, or soon cannot: what hangs on it stops, or has stopped."""
    CARELESS = "careless"
    """It works, and is not kept as it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not well kept. `about` is a key's ARN or a resource's; `advice` is what to do."""

    code: str
    weight: Weight
    place: Place
    about: str
    name: str
    message: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Something that a service keeps under a key.

    Attributes:
        place: where it is.
        service: the reader that found it, such as `rds`.
        kind: what it is, such as `database`; `discovery.stops` says what happens to it without its key.
        name: what people call it.
        arn: its own ARN, or what identifies it where AWS answers none.
        key: the key as the service names it (an ARN, an id, an alias); None if it has none of its own.
        part: which part of it hangs on this key, if it is not all of it.
        findings: what its own settings leave to be desired.
    """

    place: Place
    service: str
    kind: str
    name: str
    arn: str
    key: str | None
    part: str = ""
    findings: tuple[Finding, ...] = ()


class Manager(StrEnum):
    """Who may change a key."""

    CUSTOMER = "customer"
    AWS = "aws"
    """`alias/aws/...`: nobody can disable it, delete it or probe it."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as KMS describes it; of one that may not be looked into, only what its ARN says.

    `rotation_enabled` and `policy` are None where they could not be read, or do not apply. `state` is KMS's KeyState,
    or `NotFound`. `aliases_known` says whether all its aliases are among `aliases`.
    """

    arn: str
    place: Place
    manager: Manager
    of_other_account: bool = False
    state: str | None = None
    aliases: tuple[str, ...] = ()
    aliases_known: bool = False
    description: str = ""
    usage: str | None = None
    spec: str | None = None
    origin: str | None = None
    multi_region: bool = False
    deletion_date: datetime | None = None
    material_expires_at: datetime | None = None
    rotation_enabled: bool | None = None
    policy: Json | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.aliases[0] if self.aliases else self.arn.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """Something that could not be read, so that nobody takes its absence for an answer.

    `what` is a service or one thing in it; `partly` means that some of it was read before.
    """

    place: Place
    what: str
    why: str
    code: str
    partly: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """A key, and everything that was found under it."""

    key: Key
    resources: tuple[Resource, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All that was found.

    Attributes:
        taken_at: when reading began.
        places: where was looked.
        keys: each with what hangs on it: keys that somebody can take away first, those with most on them first.
        keyless: resources without a key of anybody's whose settings leave something to be desired.
        findings: everything that is not well kept, the worst first.
        unread: what could not be read.
        notes: what was not looked for, though it was seen.
        answered: how many reads gave all that they should.
    """

    taken_at: datetime
    places: tuple[Place, ...]
    keys: tuple[KeyUse, ...]
    keyless: tuple[Resource, ...]
    findings: tuple[Finding, ...]
    unread: tuple[Unread, ...]
    notes: tuple[str, ...] = ()
    answered: int = 0

    @property
    def customers(self) -> tuple[KeyUse, ...]:
        """Keys that somebody can take away, or of which that is not known."""
        return tuple(each for each in self.keys if each.key.manager is not Manager.AWS)

    @property
    def of_aws(self) -> tuple[KeyUse, ...]:
        """AWS's own keys that something hangs on."""
        return tuple(each for each in self.keys if each.key.manager is Manager.AWS)


@dataclass
class Reading:
    """What one read gives: it grows as answers come, and keeps what came when a later page is refused.

    `aliases` leads from an alias's ARN to its key's; of the places in `listed` all aliases are there.
    """

    resources: list[Resource] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    listed: set[Place] = field(default_factory=set)
    unread: list[Unread] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def merged(cls, readings: Sequence["Reading"]) -> "Reading":
        """Put several together."""
        whole = cls()
        for each in readings:
            whole.resources += each.resources
            whole.keys += each.keys
            whole.aliases |= each.aliases
            whole.listed |= each.listed
            whole.unread += each.unread
            whole.notes += each.notes
        return whole
