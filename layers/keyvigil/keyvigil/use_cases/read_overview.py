"""What the operator's widget shows: the fleet, the keys that are not simply fine, and the open incidents."""

import heapq
from dataclasses import dataclass
from datetime import datetime

from keyvigil.domain.incidents import Incident, TimelineEntry
from keyvigil.domain.keys import Key, KeyStatus, is_stale
from keyvigil.domain.projects import Project
from keyvigil.ports import Clock, Store
from keyvigil.use_cases.read_fleet import Fleet, ReadFleet


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOverview:
    """The fleet as it was at `taken_at`. `left_out` counts the keys that are not fine and not among `keys`.

    Of the open incidents only the newest are here, each with the newest entries of its timeline, one more than asked
    for if there are more.
    """

    taken_at: datetime
    fleet: Fleet
    keys: tuple[tuple[Project, Key], ...]
    left_out: int
    incidents: tuple[tuple[Incident, tuple[TimelineEntry, ...]], ...]


class ReadOverview:
    """Reads the fleet as `GET /fleet` does, and details of a bounded number of things."""

    def __init__(self, store: Store, clock: Clock, read_fleet: ReadFleet) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._read_fleet = read_fleet

    def __call__(self, *, keys: int, incidents: int, entries: int) -> FleetOverview:
        """Read at most so many keys, the worst first, incidents, and entries of each."""
        now = self._clock.now()
        troubled: list[tuple[Project, Key]] = []
        seen = 0

        def visit(project: Project, key: Key) -> None:
            nonlocal seen, troubled
            if _trouble(project, key, now) == _FINE:
                return
            seen += 1
            troubled.append((project, key))
            if len(troubled) > 2 * keys:  # a mass outage need not be held in memory to show its first page
                troubled = _worst(troubled, keys, now)

        fleet = self._read_fleet(visit)
        worst = _worst(troubled, keys, now)
        newest = heapq.nlargest(incidents, self._store.open_incidents(), key=lambda each: each[1])
        found = [self._store.incident(project_id, incident_id) for project_id, incident_id in newest]
        opened = [each for each in found if each is not None and each.is_open]
        known = {(key.project_id, key.key_id) for _, key in worst}
        for each in opened:  # an incident without its key could not say how it is mended
            if (each.project_id, each.key_id) not in known:
                project, key = self._store.project(each.project_id), self._store.key(each.project_id, each.key_id)
                if project is not None and key is not None:
                    known.add((key.project_id, key.key_id))
                    worst.append((project, key))
        return FleetOverview(
            taken_at=now,
            fleet=fleet,
            keys=tuple(worst),
            left_out=seen - sum(_trouble(project, key, now) != _FINE for project, key in worst),
            incidents=tuple(
                (each, tuple(self._store.timeline(each.incident_id, newest=entries + 1))) for each in opened
            ),
        )


_FINE = 3


def _trouble(project: Project, key: Key, now: datetime) -> int:
    """How near the top of a list a key belongs: 0 is the first."""
    if key.health.status is KeyStatus.UNHEALTHY:
        return 0
    if key.health.status is not KeyStatus.HEALTHY:
        return 1
    stale = is_stale(key.last_probed_at, project.check_interval_minutes, now)
    return 2 if stale or key.health.unknown_since is not None else _FINE


def _worst(found: list[tuple[Project, Key]], most: int, now: datetime) -> list[tuple[Project, Key]]:
    return sorted(found, key=lambda each: (_trouble(each[0], each[1], now), each[1].project_id, each[1].key_id))[:most]
