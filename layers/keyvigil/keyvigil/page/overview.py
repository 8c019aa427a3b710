"""What a picture of the fleet shows, read from the API's own answers.

So the widget, which reads the table, and the command line, which reads the API, cannot tell different stories.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

type Json = Mapping[str, Any]

SWEEP_LATE_AFTER = timedelta(minutes=3)
"""Sweeps come once a minute; the alarm on missed ones needs as long."""


class Level(StrEnum):
    """How much of an operator's attention something wants; each has its own colour, sign and word."""

    ALARM = "alarm"
    WARNING = "warning"
    FINE = "fine"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyShown:
    """A key, as the API shows it. `name` is the alias's name, or the key's id without its Region."""

    project_id: str
    key_id: str
    name: str
    region: str
    account_id: str
    status: str
    unknown_since: datetime | None
    stale: bool
    cause: str | None
    message: str
    mending: str | None
    commands: tuple[str, ...]
    last_probed_at: datetime
    last_trigger: str
    open_incident_id: str | None
    clusters: int

    @property
    def level(self) -> Level:
        """How bad it is: a key that is known to be broken before one of which nothing is known."""
        if self.status == "UNHEALTHY":
            return Level.ALARM
        return Level.WARNING if self.unknown_since or self.stale or self.status != "HEALTHY" else Level.FINE

    @property
    def word(self) -> str:
        """Its status in one word."""
        if self.status != "HEALTHY":
            return self.status
        return "UNKNOWN" if self.unknown_since else "STALE" if self.stale else "HEALTHY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened in an incident."""

    at: datetime
    what: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentShown:
    """An open incident with its key, if that was found, and its timeline, oldest first.

    `actor` is who did it and what they called, in words. `earlier` says that the timeline had more entries.
    """

    incident_id: str
    project_id: str
    key_id: str
    status: str
    held_for: str | None
    cause: str
    opened_at: datetime
    actor: str | None
    clusters: tuple[tuple[str, str], ...]
    timeline: tuple[Entry, ...]
    earlier: bool
    key: KeyShown | None = None

    @property
    def may_be_held(self) -> bool:
        """Whether its lockout has not begun, so that a person can still hold or approve it."""
        return self.status in {"CONFIRMING", "HELD", "OBSERVED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryShown:
    """Who speaks for a Region: is KeyVigil itself let in?"""

    region: str
    outcome: str
    partial: bool
    probed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrakeShown:
    """A brake that is engaged: what it holds, in words, and why."""

    scope: str
    since: datetime | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything that is shown, as it was at `taken_at`.

    `open_incidents` counts all, also those that are not among `incidents`; `left_out` counts the keys that are not fine
    and not among `keys`. Both are sorted: incidents that wait for somebody first, then the newest; keys by their level.
    """

    stack: str
    region: str
    taken_at: datetime
    key_counts: Mapping[str, int]
    unknown: int
    stale: int
    cluster_counts: Mapping[str, int]
    open_incidents: int
    brakes: tuple[BrakeShown, ...]
    canaries: tuple[CanaryShown, ...]
    last_sweep_at: datetime | None
    keys: tuple[KeyShown, ...]
    incidents: tuple[IncidentShown, ...]
    left_out: int = 0

    @property
    def total(self) -> int:
        """How many keys are under watch."""
        return sum(self.key_counts.values())

    @property
    def sweep_is_late(self) -> bool:
        """Whether keys are not being checked: whatever else is shown is then old."""
        return self.last_sweep_at is None or self.taken_at - self.last_sweep_at > SWEEP_LATE_AFTER

    @property
    def troubled(self) -> tuple[KeyShown, ...]:
        """The keys that are not simply fine."""
        return tuple(each for each in self.keys if each.level is not Level.FINE)


def overview(
    fleet: Json,
    keys: Iterable[tuple[str, Json]],
    incidents: Iterable[Json],
    *,
    stack: str,
    region: str,
    taken_at: datetime,
    left_out: int = 0,
) -> Overview:
    """What to show of `GET /fleet`, of (project id, key) and of open incidents with their timelines."""
    read = sorted(
        (_key(project_id, key) for project_id, key in keys),
        key=lambda each: (list(Level).index(each.level), each.project_id, each.region, each.name),
    )
    by_id = {(each.project_id, each.key_id): each for each in read}
    sweep = fleet.get("last_sweep")
    return Overview(
        stack=stack,
        region=region,
        taken_at=taken_at,
        key_counts=dict(fleet["keys"]),
        unknown=fleet["unknown"],
        stale=fleet["stale_keys"],
        cluster_counts=dict(fleet["clusters"]),
        open_incidents=fleet["open_incidents"],
        brakes=tuple(_brake(each) for each in fleet["brake"]),
        canaries=tuple(_canary(each) for each in fleet["canaries"]),
        last_sweep_at=_when(sweep["at"]) if sweep else None,
        keys=tuple(read),
        incidents=tuple(
            sorted(
                (_incident(each, by_id) for each in incidents),
                key=lambda each: (each.status != "HELD", -each.opened_at.timestamp()),
            )
        ),
        left_out=left_out,
    )


def _when(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _key(project_id: str, key: Json) -> KeyShown:
    verdict = key["verdict"]
    mending = verdict["remediation"] or {}
    alias = key["alias_arn"]
    return KeyShown(
        project_id=project_id,
        key_id=key["key_id"],
        name=alias.partition(":alias/")[2] if alias else key["key_id"].partition(".")[2],
        region=key["region"],
        account_id=key["account_id"],
        status=key["status"],
        unknown_since=_when(key["unknown_since"]),
        stale=key["stale"],
        cause=verdict["cause"],
        message=verdict["message"],
        mending=mending.get("summary"),
        commands=tuple(mending.get("commands", ())),
        last_probed_at=datetime.fromisoformat(key["last_probed_at"]),
        last_trigger=key["last_trigger"],
        open_incident_id=key["open_incident_id"],
        clusters=key["clusters"],
    )


def _incident(incident: Json, keys: Mapping[tuple[str, str], KeyShown]) -> IncidentShown:
    actor = incident["actor"]
    return IncidentShown(
        incident_id=incident["incident_id"],
        project_id=incident["project_id"],
        key_id=incident["key_id"],
        status=incident["status"],
        held_for=incident["held_for"],
        cause=incident["cause"],
        opened_at=datetime.fromisoformat(incident["opened_at"]),
        actor=f"{actor['arn']} called {actor['event_name']}" if actor else None,
        clusters=tuple((each["cluster_id"], each["status"]) for each in incident["clusters"]),
        timeline=tuple(
            Entry(at=datetime.fromisoformat(each["at"]), what=each["what"], detail=each["detail"])
            for each in incident.get("timeline", ())
        ),
        earlier=bool(incident.get("timeline_truncated")),
        key=keys.get((incident["project_id"], incident["key_id"])),
    )


def _canary(canary: Json) -> CanaryShown:
    return CanaryShown(
        region=canary["region"],
        outcome=canary["outcome"],
        partial=canary["partial"],
        probed_at=_when(canary["probed_at"]),
    )


def _brake(brake: Json) -> BrakeShown:
    limits = [
        f"{word} {brake[name]}"
        for name, word in (("region", "Region"), ("cause", "cause"), ("project_id", "project"))
        if brake.get(name)
    ]
    return BrakeShown(scope=", ".join(limits) or "everything", since=_when(brake["since"]), reason=brake["reason"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What an operator must know first: how bad it is, one sentence, and what else there is to say."""

    level: Level
    title: str
    points: tuple[str, ...]


def headline(seen: Overview) -> Headline:
    """Say how things are. Nothing is called fine that KeyVigil could not look at (invariant 5)."""
    broken, other = _alarming(seen), _worrying(seen)
    if broken:
        return Headline(level=Level.ALARM, title=broken[0], points=(*broken[1:], *other))
    if other:
        return Headline(level=Level.WARNING, title=other[0], points=other[1:])
    if not seen.total:
        return Headline(level=Level.EMPTY, title="No key is registered yet", points=())
    title = "The one key under watch works" if seen.total == 1 else f"All {seen.total:,} keys work"
    return Headline(level=Level.FINE, title=title, points=())


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many}"


def _alarming(seen: Overview) -> tuple[str, ...]:
    clusters = seen.cluster_counts
    failed = clusters.get("LOCK_FAILED", 0) + clusters.get("UNLOCK_FAILED", 0)
    locked = clusters.get("LOCKED", 0)
    said = []
    if unhealthy := seen.key_counts.get("UNHEALTHY", 0):
        said.append(counted(unhealthy, "key cannot be used", "keys cannot be used"))
    if failed:
        said.append(counted(failed, "cluster did not lock or unlock", "clusters did not lock or unlock"))
    if locked:
        said.append(counted(locked, "cluster is locked", "clusters are locked"))
    if seen.sweep_is_late:
        since = f"the last sweep was at {seen.last_sweep_at:%H:%M} UTC" if seen.last_sweep_at else "no sweep ever ended"
        said.append(f"Keys are not being checked: {since}, so what is shown may be old")
    return tuple(said)


def _worrying(seen: Overview) -> tuple[str, ...]:
    said = []
    if seen.brakes:
        said.append("The brake is engaged: it holds lockouts back")
    if suspect := seen.key_counts.get("SUSPECT", 0):
        said.append(counted(suspect, "key failed and is being confirmed", "keys failed and are being confirmed"))
    if recovering := seen.key_counts.get("RECOVERING", 0):
        said.append(counted(recovering, "key is recovering", "keys are recovering"))
    if seen.unknown:
        said.append(f"Nothing is known about {counted(seen.unknown, 'key', 'keys')}")
    if seen.stale:
        said.append(counted(seen.stale, "key was not probed for too long", "keys were not probed for too long"))
    if unwell := sorted({each.region for each in seen.canaries if each.outcome != "HEALTHY"}):
        said.append(f"No canary vouches for KeyVigil in {', '.join(unwell)}: denials there count as unknown")
    if not said and seen.open_incidents:
        said.append(counted(seen.open_incidents, "incident is open", "incidents are open"))
    return tuple(said)


def ago(then: datetime, now: datetime) -> str:
    """How long something is ago, to its largest unit or two."""
    seconds = max(0, int((now - then).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 1:
        return f"{seconds} s"
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60:02} min"
    return f"{days} d {hours % 24} h"
