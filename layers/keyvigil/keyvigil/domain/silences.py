"""Silences: what a project does not want to be told for a while. It is stored and shown all the same."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from keyvigil.domain.alerts import Severity

MAX_SILENCES_PER_PROJECT = 20
"""They are one item, and a reason of a thousand characters that need escapes takes 12 KB of its 400.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html
"""
LONGEST_SILENCE = timedelta(days=366)
"""How far away the end of a silence may be: what nobody wants to hear for longer is looked at once a year."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """What is not to be told until when, why, and who said so. `key_id` None is every key of the project.

    `types` are types of alerts, or patterns like `key.*`.
    """

    project_id: str
    silence_id: str
    types: tuple[str, ...]
    key_id: str | None
    until: datetime
    reason: str
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Silences:
    """All silences of a project, the oldest first. They are one item, so that one read answers what is muted."""

    project_id: str
    silences: tuple[Silence, ...] = ()
    version: int = 0

    def at(self, now: datetime) -> tuple[Silence, ...]:
        """Those that are not over."""
        return tuple(each for each in self.silences if now < each.until)


def mutes(silence: Silence, kind: str, severity: Severity, key_id: str | None, now: datetime) -> bool:
    """Whether an alert is not sent because of a silence. A critical one only is if the silence names its very type."""
    if now >= silence.until or silence.key_id not in {None, key_id}:
        return False
    if kind in silence.types:
        return True
    patterns = [each.removesuffix("*") for each in silence.types if each.endswith("*")]
    return severity is not Severity.CRITICAL and any(kind.startswith(each) for each in patterns)
