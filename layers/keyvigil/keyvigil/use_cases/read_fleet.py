"""The state of everything under watch, for the operator."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.keys import KeyStatus, is_stale
from keyvigil.ports import Clock, Page, RoleAudit, Store, SweepRecord

_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Counts over all projects. A status that nothing has is counted too, as zero."""

    keys: dict[KeyStatus, int]
    unknown: int
    stale_keys: int
    clusters: dict[ClusterStatus, int]
    open_incidents: int
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

    def __call__(self) -> Fleet:
        """Count."""
        now = self._clock.now()
        keys: Counter[KeyStatus] = Counter(dict.fromkeys(KeyStatus, 0))
        clusters: Counter[ClusterStatus] = Counter(dict.fromkeys(ClusterStatus, 0))
        unknown = stale = 0
        for project in every(self._store.projects):
            name = project.project_id
            for key in every(partial(self._store.keys, name)):
                keys[key.health.status] += 1
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
            last_sweep=self._store.last_sweep(),
            role_audit=self._store.role_audit(),
        )
