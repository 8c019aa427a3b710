"""What a file says: what depends on which KMS key, and what was left out, each with its reason."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from keyvigil_cli.errors import CliError

_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]+")
_CLUSTER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}\Z")
_LONGEST_ID = 63  # characters, the API's bound
_DIGEST = 8  # hexadecimal digits: a project has at most 20 x 200 clusters


class NotReadableError(CliError):
    """A file is not what it was said to be; `next_steps` says what to run."""

    def __init__(self, message: str, *next_steps: str) -> None:
        """Take what it is, and the commands that make what is wanted."""
        super().__init__(message)
        self.next_steps = next_steps


class Why(StrEnum):
    """How something that was left out stands."""

    REFUSED = "refused"
    """It should be under watch, and is not: somebody has to do something."""
    LATER = "later"
    """It is not there yet, or about to go."""
    NOT_WATCHABLE = "not watchable"
    """It hangs on a key of AWS's, which nobody can take away and nobody can probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependent:
    """Something that stops working without its key. `cluster_id` is None where only a key is named.

    `key_arn` is the ARN of a key or of an alias. `address` is where the file says so.
    """

    address: str
    name: str
    kind: str
    use: str
    region: str
    key_arn: str
    cluster_id: str | None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Something that cannot be registered as the file says it, why, and what to do."""

    address: str
    why: Why
    reason: str
    to_do: str = ""
    key: str = ""


@dataclass
class Found:
    """All that a file says. `without_key` names what could have a key of the customer's, and names none."""

    dependents: list[Dependent] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    without_key: list[str] = field(default_factory=list)

    def leave_out(self, address: str, why: Why, reason: str, to_do: str = "", *, key: str = "") -> None:
        """Keep what is not registered."""
        self.left_out.append(LeftOut(address=address, why=why, reason=reason, to_do=to_do, key=key))

    def settled(self) -> "Found":
        """Return the same without repetitions; what is said to hang on two keys at once is left out with the second."""
        kept: dict[tuple[str | None, str], Dependent] = {}
        keys: dict[str, Dependent] = {}
        result = Found(left_out=list(dict.fromkeys(self.left_out)), without_key=list(dict.fromkeys(self.without_key)))
        for each in self.dependents:
            first = each if each.cluster_id is None else keys.setdefault(each.cluster_id, each)
            if first.key_arn != each.key_arn:
                result.leave_out(
                    each.address, Why.REFUSED,
                    f"names another KMS key than {first.address} does for the same {each.kind}",
                    "Register it by hand under the key that it really has: `keyvigil cluster register`.",
                    key=each.key_arn,
                )  # fmt: skip
                continue
            kept.setdefault((each.cluster_id, each.key_arn), each)
        result.dependents = list(kept.values())
        named = {each.address for each in result.dependents} | {each.address for each in result.left_out}
        result.without_key = [each for each in result.without_key if each not in named]
        return result


def cluster_id_of(service: str, name: str, *, region: str = "", account_id: str = "", part: str = "") -> str:
    """Return the id under which a resource is registered: the same for the same resource, whoever imports it.

    Names of AWS resources may be long and have characters that an id may not, and are unique in their Region and
    account only, so a digest of all that follows the readable part. Buckets' names are unique by themselves.
    """
    identity = f"{service}\n{account_id}\n{region}\n{name}\n{part}"
    digest = hashlib.sha256(identity.encode(errors="replace")).hexdigest()[:_DIGEST]
    words = _NOT_IN_IDS.sub("-", f"{service}-{name}" + (f"-{part}" if part else ""))
    return f"{words[: _LONGEST_ID - _DIGEST - 1].rstrip('-')}-{digest}"


def is_cluster_id(text: str) -> bool:
    """Say whether the API takes this as a cluster's id."""
    return _CLUSTER_ID.match(text) is not None


def strongest_use(uses: Iterable[str]) -> str:
    """Return the use whose probe tries what all of these need: one key is registered once."""
    order: Mapping[str, int] = {"kes": 0, "cse": 1, "service": 2, "cmek": 3}
    return min(uses, key=lambda use: order[use])
