"""The state of everything under watch, for the operator."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from keyvigil.domain.brake import Brake
from keyvigil.domain.canaries import Canary, outcome_now, speakers
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.keys import Key, KeyStatus, is_stale
from keyvigil.domain.projects import Project
from keyvigil.domain.verdicts import Outcome
from keyvigil.ports import Clock, Page, RoleAudit, Store, SweepRecord

_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryView:
    """A canary that speaks for a Region. `partial`: it is the stack's, for want of one there; None if that is unknown.

    `outcome` is UNKNOWN when the last probe is too old to say anything.
    """

    region: str
    partial: bool
    outcome: Outcome
    probed_at: datetime | None
    canary_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Counts over all projects. A status that nothing has is counted too, as zero."""

    keys: dict[KeyStatus, int]
    unknown: int
    stale_keys: int
    clusters: dict[ClusterStatus, int]
    open_incidents: int
    brake: tuple[Brake, ...]
    canaries: tuple[CanaryView, ...]
    last_sweep: SweepRecord | None
    role_audit: RoleAudit | None


def every[T](read_page: Callable[[int, str | None], Page[T]]) -> Iterator[T]:
    """All items of a paged list."""
    token: str | None = None
    while True:
        page = read_page(_PAGE, token)
        yield from page.items
        token = page.next_token
        if token is None:
            return


class ReadFleet:
    """Counts by reading every project: cheap for thousands of keys, and never out of step with the table."""

    def __init__(self, store: Store, clock: Clock) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock

    def __call__(self, visit: Callable[[Project, Key], None] = lambda _project, _key: None) -> Fleet:
        """Count, and show every key to whoever wants more than counts."""
        now = self._clock.now()
        keys: Counter[KeyStatus] = Counter(dict.fromkeys(KeyStatus, 0))
        clusters: Counter[ClusterStatus] = Counter(dict.fromkeys(ClusterStatus, 0))
        regions: set[str] = set()
        unknown = stale = 0
        for project in every(self._store.projects):
            name = project.project_id
            for key in every(partial(self._store.keys, name)):
                visit(project, key)
                keys[key.health.status] += 1
                regions.add(key.region)
                unknown += key.health.unknown_since is not None
                stale += is_stale(key.last_probed_at, project.check_interval_minutes, now)
            for cluster in every(partial(self._store.clusters, name)):
                clusters[cluster.status] += 1
        return Fleet(
            keys=dict(keys),
            unknown=unknown,
            stale_keys=stale,
            clusters=dict(clusters),
            open_incidents=len(self._store.open_incidents()),
            brake=tuple(each for each in self._store.brakes() if each.is_engaged),
            canaries=_canaries(self._store.canaries(), regions, now),
            last_sweep=self._store.last_sweep(),
            role_audit=self._store.role_audit(),
        )


def _canaries(canaries: list[Canary], regions: set[str], now: datetime) -> tuple[CanaryView, ...]:
    """Who speaks for each Region that has keys, or a canary."""
    shown: list[CanaryView] = []
    for region in sorted(regions | {each.region for each in canaries}):
        there, partial_only = speakers(canaries, region)
        shown += [
            CanaryView(
                region=region,
                partial=partial_only,
                outcome=outcome_now(each, now),
                probed_at=each.began_at,
                canary_id=each.canary_id,
            )
            for each in there
        ]
        if not there:
            nobody = CanaryView(region=region, partial=True, outcome=Outcome.UNKNOWN, probed_at=None, canary_id=None)
            shown.append(nobody)
    return tuple(shown)
