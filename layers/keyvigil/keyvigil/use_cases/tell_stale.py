"""Find the keys that were not probed for too long, every minute, and tell the operator (invariant 5)."""

from dataclasses import dataclass, field

from keyvigil.domain.dangers import STALE, tell_stale
from keyvigil.domain.keys import is_stale
from keyvigil.domain.projects import Project
from keyvigil.domain.staleness import LOOKED_AT, SOONEST_STALE, decide_staleness
from keyvigil.errors import in_short
from keyvigil.ports import Clock, DueKey, Ids, Put, Store, Write
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.telling import Telling


@dataclass(kw_only=True)
class StaleReport:
    """How many keys are stale, and what could not be told."""

    stale_keys: int = 0
    told: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)


class TellStale:
    """Looks at the keys that have been due for long: a key becomes stale when nothing happens to it.

    One that cannot be told of does not keep the others from it. Who probes a key again tells that that is over.
    """

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._telling = Telling(clock, ids)

    def __call__(self) -> StaleReport:
        """Count the stale keys, and tell of those that were not told of yet."""
        report = StaleReport()
        overdue = self._store.due_keys(self._clock.now() - SOONEST_STALE)
        projects: dict[str, Project | None] = {}
        untold = []
        for each in overdue[:LOOKED_AT]:
            try:
                if each.project_id not in projects:
                    projects[each.project_id] = self._store.project(each.project_id)
                key, project = self._store.key(each.project_id, each.key_id), projects[each.project_id]
            except Exception as error:  # noqa: BLE001  an item that cannot be read must not hide the others
                report.errors.append((f"{each.project_id}/{each.key_id}", in_short(error)))
                continue
            if key is None or project is None:
                continue
            if is_stale(key.last_probed_at, project.check_interval_minutes, self._clock.now()):
                report.stale_keys += 1
                if STALE not in key.told:
                    untold.append(each)
        # Of the others as many as of these, which are due the longest: to be due is not to be stale.
        report.stale_keys += len(overdue[LOOKED_AT:]) * report.stale_keys // LOOKED_AT
        if self._tell_of_all(report):
            for each in untold:
                self._tell_of_one(each, report)
        return report

    def _tell_of_all(self, report: StaleReport) -> bool:
        """Tell it if there are many; say whether keys are to be told of one by one."""

        def decide() -> bool:
            decision = decide_staleness(report.stale_keys, self._store.fleet_told(), self._clock.now())
            if decision.notice is not None:
                self._store.commit([Put(decision.fleet), self._telling.fleet_notice(decision.notice)])
            return decision.singly

        try:
            return until_committed(decide)
        except Exception as error:  # noqa: BLE001  whatever it is, the sweep goes on and the metric is published
            report.errors.append(("stale keys", in_short(error)))
            return False

    def _tell_of_one(self, due: DueKey, report: StaleReport) -> None:
        try:
            report.told += until_committed(self._tell, due)
        except Exception as error:  # noqa: BLE001  whatever it is, the next key must have its turn
            report.errors.append((f"{due.project_id}/{due.key_id}", in_short(error)))

    def _tell(self, due: DueKey) -> bool:
        key, project = self._store.key(due.project_id, due.key_id), self._store.project(due.project_id)
        if key is None or project is None:
            return False
        after, notices = tell_stale(key, project, self._clock.now())
        writes: list[Write] = []
        for notice in notices:
            clusters = self._store.clusters_of_key(due.project_id, due.key_id)
            row, after = self._telling.key_notice(
                notice, after, clusters, occurred_at=key.last_probed_at, for_operator=True
            )
            writes.append(row)
        if not writes:
            return False
        self._store.commit([Put(after), *writes])
        return True
