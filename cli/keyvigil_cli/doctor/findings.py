"""What the doctor found: one line a check, and what to add where something is missing."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.policies.documents import Statement


class Result(StrEnum):
    """How one check ended. ALLOWED is read in a policy and not tried; NOT_TRIED would have changed something."""

    WORKS = "WORKS"
    ALLOWED = "ALLOWED"
    MISSING = "MISSING"
    UNKNOWN = "UNKNOWN"
    NOT_TRIED = "NOT TRIED"


class Place(StrEnum):
    """Where a statement belongs."""

    ROLE = "role policy"
    KEY = "key policy"
    TRUST = "trust policy"
    CALLER = "caller's policy"


@dataclass(frozen=True, kw_only=True)
class Addition:
    """A statement that would help, and where: in the policy of that kind which belongs to `of`."""

    place: Place
    of: str
    statement: Statement


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at. Of several additions with `either`, one is enough."""

    check: str
    result: Result
    said: str
    cause: str | None = None
    additions: tuple[Addition, ...] = ()
    either: bool = False
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All of it. `notes` do not make a key unhealthy."""

    key_arn: str
    system: str
    caller_arn: str | None
    role_arn: str | None
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def outcome(self) -> str:
        """HEALTHY if nothing is missing and nothing unknown."""
        return outcome_of(self.checks)

    @property
    def status(self) -> ExitStatus:
        """What the command says to scripts."""
        ends = {"HEALTHY": ExitStatus.FINE, "UNHEALTHY": ExitStatus.UNHEALTHY, "UNKNOWN": ExitStatus.UNKNOWN}
        return ends[self.outcome]

    @property
    def to_add(self) -> Sequence[Addition]:
        """Every statement once, however many checks miss it."""
        found: list[Addition] = []
        for check in self.checks:
            found += [each for each in check.additions if each not in found]
        return found

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {"outcome": self.outcome, **asdict(self)}


def outcome_of(checks: Iterable[Check]) -> str:
    """Return the product's word for what several checks found."""
    found = {each.result for each in checks}
    if Result.MISSING in found:
        return "UNHEALTHY"
    return "UNKNOWN" if Result.UNKNOWN in found else "HEALTHY"
