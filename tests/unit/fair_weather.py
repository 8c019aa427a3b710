"""The protocol's simulation (protocol_simulation.py) in fair weather: a test says what happens, and when."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import override

from keyvigil.domain.alerts import LockRequest
from keyvigil.domain.clusters import Cluster, ClusterStatus, LockResult, LockVia
from keyvigil.domain.incidents import TimelineEntry
from keyvigil.domain.keys import Key
from keyvigil.domain.verdicts import Cause
from keyvigil.ports import Entity, ProbeAnswer, Write
from keyvigil.use_cases.record_lock_result import LockAnswer
from tests.examples import cluster, key, project
from tests.fakes import Place
from tests.unit.protocol_simulation import KEY, PROJECT, WEATHERS, Simulation
from tests.unit.simulated_receivers import settings

type Backup = dict[Place, Entity]


class FairWeather(Simulation):
    """A key that is probed every minute, with a cluster for each way of locking, `c0` and so on.

    `script` is what the next probes find, one after the other, before `cause` does. The control plane answers after
    `answers_after` seconds unless it `fails` or is `silent`. `sweeps` may be turned off.
    """

    def __init__(self, *ways: LockVia) -> None:
        self.commits = 0
        self.after_commits: dict[int, Callable[[], None]] = {}
        self.script: list[Cause | None] = []
        self.probed: list[tuple[datetime, Cause | None]] = []
        self.asked: list[tuple[datetime, LockRequest]] = []
        self.answers_after = 2.0
        self.fails = self.silent = False
        self.sweeps = True
        self._hooks: dict[str, Callable[[], None]] = {}
        super().__init__(replace(WEATHERS["no faults of our own"], clusters=0), seed=0)
        self.calm = True
        for number, via in enumerate(ways):
            self.store.put(cluster(cluster_id=f"c{number}", lock=settings(via, 300)))
        due = self.clock.now() + timedelta(seconds=1)
        self.store.put(project(check_interval_minutes=1), key(clusters=len(ways), due_at=due))
        self.agenda.every(60, self._sweep)

    def passes(self, minutes: float) -> None:
        """Let time pass."""
        until = self.agenda.seconds + 60 * minutes
        self.agenda.after(60 * minutes, lambda: None)
        self.agenda.run(until=until)

    def when(self, what: str, do: Callable[[], None]) -> None:
        """Do something a moment after the timeline next says `what`."""
        self._hooks[what] = do

    # --- what a test looks at ---------------------------------------------------------------------------------------

    def the_key(self) -> Key:
        found = self.store.key(PROJECT, KEY)
        assert found is not None
        return found

    def cluster(self, cluster_id: str) -> Cluster:
        found = self.store.cluster(PROJECT, cluster_id)
        assert found is not None
        return found

    def shown(self) -> set[ClusterStatus]:
        return {each.status for each in self.store.clusters_of_key(PROJECT, KEY)}

    def truly_locked(self) -> set[bool]:
        acting = [each for each in self.store.clusters_of_key(PROJECT, KEY) if each.lock.via is not LockVia.NONE]
        return {self.receivers.is_locked(each) for each in acting}

    def is_all_locked(self) -> bool:
        return self.shown() == {ClusterStatus.LOCKED} and self.truly_locked() == {True}

    def is_all_free(self) -> bool:
        return self.shown() == {ClusterStatus.ACTIVE} and self.truly_locked() == {False}

    # --- the table ------------------------------------------------------------------------------------------------

    def back_up(self) -> Backup:
        return dict(self.store.items)

    def after_seconds(self, seconds: float) -> Backup:
        """A backup of the moment that many seconds after the beginning."""
        self.agenda.run(until=seconds)
        return self.back_up()

    def restore(self, backup: Backup) -> None:
        """Put the table back; what watches over each commit forgets with it."""
        self.store.items = dict(backup)
        self._clusters.clear()
        self._incidents.clear()

    # --- the world --------------------------------------------------------------------------------------------------

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        lasting = self.cause
        watched = key.project_id == PROJECT
        if watched and self.script:
            self.cause = self.script.pop(0)
        if watched:
            self.probed.append((self.clock.now(), self.cause))
        answer = super().probe(key, fresh=fresh, closely=closely, lean=lean, spent_seconds=spent_seconds)
        self.cause = lasting
        return answer

    @override
    def _sweep(self) -> None:
        if self.sweeps:
            super()._sweep()

    @override
    def _control_plane_takes(self, asked: LockRequest) -> None:
        self.asked.append((self.clock.now(), asked))
        if self.silent:
            return

        def act_and_answer() -> None:
            self._answer(
                LockAnswer(
                    project_id=PROJECT,
                    cluster_id=asked.cluster_id,
                    fence=asked.fence,
                    result=LockResult.FAILED if self.fails else self.receivers.take(asked),
                    detail=None,
                    by="its control plane",
                )
            )

        self.agenda.after(self.answers_after, act_and_answer)

    @override
    def _watch(self, writes: Sequence[Write]) -> None:
        super()._watch(writes)
        self.commits += 1
        then = self.after_commits.pop(self.commits, None)
        if then is not None:
            then()
        for write in writes:
            hook = self._hooks.pop(write.entity.what, None) if isinstance(write.entity, TimelineEntry) else None
            if hook is not None:
                self.agenda.after(0.05, hook)
