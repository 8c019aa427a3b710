"""The protocol as a hypothesis state machine: the real use cases, and rules that do to them what the world may do.

Where `test_protocol.py` plays games of chance, here hypothesis chooses each step, so what it finds comes with the steps
that lead there. The properties bear the names of `tests/models/protocol.pml`, and each deliberate break of
`docs/models.md` must be caught by the property that it is listed with.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Any, cast, override

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from docs.reference_receiver import Receiver
from keyvigil.domain import incidents, status_machine
from keyvigil.domain.alerts import LockRequest
from keyvigil.domain.clusters import (
    AnswerDecision,
    Cluster,
    ClusterKind,
    ClusterStatus,
    LockResult,
    LockVia,
    take_answer,
)
from keyvigil.domain.incidents import Incident, IncidentStatus, Mending, MendingDecision, WorkflowKind
from keyvigil.domain.keys import Health, Key, KeyStatus, Trigger
from keyvigil.domain.verdicts import Cause
from keyvigil.errors import AlreadyExistsError, DeliveryError, NotFoundError, RefusedError
from keyvigil.ports import ProbeAnswer, Put, Write
from keyvigil.use_cases import check_key, reconcile, record_lock_result
from keyvigil.use_cases.lock_clusters import RequestLock
from keyvigil.use_cases.record_lock_result import LockAnswer, RecordLockResult
from keyvigil.use_cases.registry import Clusters, NewCluster
from keyvigil.use_cases.settle_lockout import SettleLockout
from tests.unit.protocol_simulation import KEY, PROBES, PROJECT, Promise, Simulation, Weather
from tests.unit.simulated_receivers import settings as lock_settings

QUIET = Weather(clusters=1, stray_verdicts=0, crashes=0, kills=0, races=0, losses=0)
TIMEOUT_SECONDS = 60
CALM_SECONDS = 4500


class Property(StrEnum):
    """What must hold, named as in tests/models/protocol.pml."""

    OUTAGE_LOCKS = "outage_locks"
    OUTAGE_LOCKS_IN_THE_END = "outage_locks_in_the_end"
    RECOVERY_UNLOCKS = "recovery_unlocks"
    NO_OLDER_FENCE_WINS = "no_older_fence_wins"
    NO_LOCK_WITHOUT_CONFIRMATION = "no_lock_without_confirmation"


_PROMISED = {
    Promise.FENCES_RISE: Property.NO_OLDER_FENCE_WINS,
    Promise.INCIDENTS_END: Property.RECOVERY_UNLOCKS,
    Promise.LOCKS_END: Property.RECOVERY_UNLOCKS,
}
"""The promises of the storm that are these properties; those of them that need another form are looked at here."""


class Stage(Simulation):
    """The storm's world without its chance. What goes wrong, and when, is for the rules to say."""

    def __init__(self) -> None:
        self.on_the_bus: list[LockRequest] = []
        self.answers: list[LockAnswer] = []
        self.lost: set[Property] = set()
        self.stalled_for = 0.0
        self.recovers_meanwhile = False
        self._asking = False
        self._failed_at: list[datetime] = []
        self._proved_at: list[datetime] = []
        self._wavered: set[str] = set()
        super().__init__(QUIET, seed=0)
        self.cannot_ask = 0
        self._ask_in_peace = self.request
        self.request = cast("RequestLock", self._ask_or_not)
        self.agenda.every(60, self._sweep)
        self.agenda.after(45, self._look_at_incidents)

    # --- what the rules do --------------------------------------------------------------------------------------

    def make_calm(self) -> None:
        """Nothing goes wrong any more, for long; then look at what is left."""
        final = self.cause if self.cause is not Cause.THROTTLED else None
        self.weather = replace(self.weather, final_cause=final)
        self.stalled_for, self.cannot_ask = 0.0, 0
        self._become_calm()
        self.let_pass(CALM_SECONDS)
        self._look_back()

    def kill(self, name: str) -> None:
        self.executions.running.discard(name)

    def go_on_until_asked(self) -> None:
        """Let pass what a confirmation or a proof takes, until another request is on the bus."""
        before = len(self.on_the_bus)
        for _ in range(20):
            if len(self.on_the_bus) == before:
                self.check(PROJECT, KEY, Trigger.REQUEST)
                self.let_pass(10)

    def answer_the_newest(self) -> None:
        self.act(self.on_the_bus[-1], fails=False)
        self.bring(self.answers[-1])
        self.let_pass(5)

    def _ask_or_not(self, *args: Any) -> str:
        """RequestLock: it alone commits what it decided by items that it does not write."""
        if self.cannot_ask:
            self.cannot_ask -= 1
            message = "the function does not answer"
            raise DeliveryError(message)
        self._asking = True
        try:
            return self._ask_in_peace(*args)
        finally:
            self._asking = False

    def act(self, asked: LockRequest, *, fails: bool) -> None:
        """A control plane takes a request, and gives an answer that may arrive at any time."""
        result = LockResult.FAILED if fails else self.receivers.take(asked)
        self.answers.append(
            LockAnswer(
                project_id=PROJECT,
                cluster_id=asked.cluster_id,
                fence=asked.fence,
                result=result,
                detail=None,
                by="its control plane",
            )
        )

    def bring(self, answer: LockAnswer) -> None:
        self._answer(answer)

    # --- what the simulation asks -------------------------------------------------------------------------------

    @override
    def _register(self, cluster_id: str) -> None:
        new = NewCluster(
            cluster_id=cluster_id,
            name=cluster_id,
            kind=ClusterKind.OTHER,
            region="us-west-2",
            key_id=KEY,
            lock=lock_settings(LockVia.EVENT, TIMEOUT_SECONDS),
        )
        with contextlib.suppress(AlreadyExistsError):
            self.clusters.register(PROJECT, new)

    @override
    def _control_plane_takes(self, asked: LockRequest) -> None:
        self.on_the_bus.append(asked)
        if self.calm:
            super()._control_plane_takes(asked)

    @override
    def _someone_was_faster(self) -> None:
        """A function that asks for a lock is stopped between its reading and its commit, and goes on later."""
        if self._asking and self.stalled_for:
            seconds, self.stalled_for, self._asking = self.stalled_for, 0.0, False
            if self.recovers_meanwhile:
                self.cause = None
                self.executions.running.clear()
            self.let_pass(seconds)

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        answer = super().probe(key, fresh=fresh, closely=closely, spent_seconds=spent_seconds)
        now = self.clock.now()
        if key.project_id != PROJECT:
            return answer
        if answer.verdict.outcome == "HEALTHY":
            self._failed_at = []
        elif answer.verdict.outcome == "UNHEALTHY":
            spaced = not self._failed_at or (now - self._failed_at[-1]).total_seconds() >= 5
            self._failed_at += [now] if spaced else []
            if len(self._failed_at) >= PROBES:
                self._proved_at.append(now)
        return answer

    # --- the properties -----------------------------------------------------------------------------------------

    @override
    def breaks(self, promise: Promise, how: object) -> None:
        super().breaks(promise, how)
        if promise is Promise.OUTAGE_LOCKS:
            self.lost.add(Property.OUTAGE_LOCKS_IN_THE_END if self.calm else Property.OUTAGE_LOCKS)
        if promise in _PROMISED:
            self.lost.add(_PROMISED[promise])

    @override
    def _watch(self, writes: Sequence[Write]) -> None:
        super()._watch(writes)
        for write in writes:
            match write.entity:
                case Key(open_incident_id=str(incident_id)) as key if key.health.status is not KeyStatus.UNHEALTHY:
                    self._wavered.add(incident_id)
                case Incident(status=IncidentStatus.LOCKING) as incident:
                    self._wavered.discard(incident.incident_id)
                case _:
                    pass

    @override
    def _watch_lock(self, cluster: Cluster) -> None:
        """Only a confirmed outage locks: as many failing probes in a row as confirm one, since the incident opened."""
        incident = self.store.incident(PROJECT, cluster.locked_by_incident_id or "")
        if incident is None or not any(at >= incident.opened_at for at in self._proved_at):
            self.lost.add(Property.NO_LOCK_WITHOUT_CONFIRMATION)

    def look(self) -> None:
        """Look at what must hold at every moment."""
        key = self.store.key(PROJECT, KEY)
        assert key is not None
        live = self.store.clusters_of_key(PROJECT, KEY)
        for cluster in live:
            shown = {ClusterStatus.LOCKED: True, ClusterStatus.ACTIVE: False}.get(cluster.status)
            if cluster.fence and shown not in {None, self.receivers.is_locked(cluster)}:
                self.lost.add(Property.NO_OLDER_FENCE_WINS)
        incident = self.store.incident(PROJECT, key.open_incident_id or "")
        if incident is None or key.health.status is not KeyStatus.UNHEALTHY:
            return
        settled = incident.status in {IncidentStatus.LOCKED, IncidentStatus.PARTLY_LOCKED}
        at_work = any(f"-{WorkflowKind.LOCKOUT}-" in name for name in self.executions.running)
        in_use = any(each.status is ClusterStatus.ACTIVE for each in live)
        if settled and in_use and not at_work and incident.incident_id not in self._wavered:
            self.lost.add(Property.OUTAGE_LOCKS)


class Protocol(RuleBasedStateMachine):
    """What the world may do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage()

    @initialize(so_far=st.integers(0, 4), mishap=st.sampled_from(["", "", "stopped", "cannot ask"]))
    def it_begins_in_mid_story(self, so_far: int, mishap: str) -> None:
        """Nothing yet; a lock is asked for; locked; an unlock is asked for; a lock is asked for again."""
        stage = self.stage
        stage.stalled_for, stage.recovers_meanwhile = 300.0 * (mishap == "stopped"), True
        stage.cannot_ask = 5 * (mishap == "cannot ask")
        for cause in (Cause.KEY_DISABLED, None, Cause.KEY_DISABLED)[: (so_far + 1) // 2 + (so_far == 4)]:
            if stage.on_the_bus:
                stage.answer_the_newest()
            stage.cause = cause
            stage.go_on_until_asked()
        if so_far == 2:
            stage.answer_the_newest()

    @rule(cause=st.sampled_from([None, Cause.KEY_DISABLED, Cause.KEY_DISABLED, Cause.THROTTLED]))
    def the_key_changes(self, cause: Cause | None) -> None:
        self.stage.cause = cause

    @rule(seconds=st.sampled_from([1.0, 6.0, 30.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.stage.let_pass(seconds)

    @rule()
    def somebody_asks_for_a_check(self) -> None:
        self.stage.check(PROJECT, KEY, Trigger.REQUEST)

    @precondition(lambda self: self.stage.on_the_bus)
    @rule(back=st.integers(0, 2), fails=st.sampled_from([False, False, False, True]), at_once=st.booleans())
    def a_request_arrives(self, back: int, *, fails: bool, at_once: bool) -> None:
        """The newest, an older one, or one that came before: nothing says in what order, and how often."""
        self.stage.act(self.stage.on_the_bus[-1 - back % len(self.stage.on_the_bus)], fails=fails)
        if at_once:
            self.stage.bring(self.stage.answers[-1])

    @precondition(lambda self: self.stage.answers)
    @rule(back=st.integers(0, 2))
    def an_answer_arrives(self, back: int) -> None:
        self.stage.bring(self.stage.answers[-1 - back % len(self.stage.answers)])

    @precondition(lambda self: self.stage.executions.running)
    @rule(which=st.integers(0, 1))
    def an_execution_is_killed(self, which: int) -> None:
        running = sorted(self.stage.executions.running)
        self.stage.kill(running[which % len(running)])

    @rule(seconds=st.sampled_from([30.0, 300.0]), recovers=st.booleans())
    def the_next_lock_is_asked_for_by_a_function_that_is_stopped_for_a_while(
        self, seconds: float, *, recovers: bool
    ) -> None:
        self.stage.stalled_for, self.stage.recovers_meanwhile = seconds, recovers

    @rule()
    def the_next_lock_cannot_be_asked_for(self) -> None:
        self.stage.cannot_ask = 5

    @rule(number=st.integers(0, 1))
    def a_cluster_is_registered(self, number: int) -> None:
        self.stage._register(f"c{number}")

    @rule(number=st.integers(0, 1))
    def a_cluster_is_removed(self, number: int) -> None:
        with contextlib.suppress(RefusedError, NotFoundError):
            self.stage.clusters.delete(PROJECT, f"c{number}")

    @invariant()
    def everything_holds(self) -> None:
        self.stage.look()
        assert not self.stage.lost, f"lost: {sorted(self.stage.lost)}"

    @override
    def teardown(self) -> None:
        try:
            if not self.stage.lost:
                self.stage.make_calm()
                assert not self.stage.lost, f"lost: {sorted(self.stage.lost)}; {sorted(self.stage.broken)}"
        finally:
            self.stage.receivers.close()


def play(games: int) -> None:
    """Play this many games of at most 20 steps each, the same ones every time."""
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=games,
            stateful_step_count=20,
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_every_property_holds_whatever_the_world_does() -> None:
    play(150)


# --- deliberate breaks ------------------------------------------------------------------------------------------------


def _register_in_use(patch: pytest.MonkeyPatch) -> None:
    """A cluster registered in an outage is ACTIVE."""
    register = Clusters._register

    def at_once(self: Clusters, project_id: str, new: NewCluster) -> Cluster:
        made = register(self, project_id, new)
        active = replace(made, status=ClusterStatus.ACTIVE)
        self._store.commit([Put(active)])
        return replace(active, version=active.version + 1)

    patch.setattr(Clusters, "_register", at_once)


def _leave_what_was_not_asked_for(patch: pytest.MonkeyPatch) -> None:
    """Settling leaves locks that could not be asked for as they are."""
    patch.setattr(SettleLockout, "_fail", lambda _self, _incident, _cluster_id: None)


def _never_mend(mending: Mending) -> Callable[[pytest.MonkeyPatch], None]:
    """Reconciling never starts this."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        decide = incidents.decide_mending

        def blind(*args: Any, **kwargs: Any) -> MendingDecision:
            decision = decide(*args, **kwargs)
            return replace(decision, mending=Mending.NONE) if decision.mending is mending else decision

        patch.setattr(reconcile, "decide_mending", blind)

    return apply


def _leave_orphans(patch: pytest.MonkeyPatch) -> None:
    """A lock that was written after the end of its incident stays."""
    patch.setattr(RecordLockResult, "_take_up", lambda _self, _cluster: [])


def _take_any_answer(patch: pytest.MonkeyPatch) -> None:
    """An answer counts, whichever request it answers."""

    def whichever(cluster: Cluster, *, fence: int, **rest: Any) -> AnswerDecision:
        return take_answer(cluster, fence=cluster.fence if fence else fence, **rest)

    patch.setattr(record_lock_result, "take_answer", whichever)


def _forget_fences(patch: pytest.MonkeyPatch) -> None:
    """A receiver does what arrives late all the same."""
    patch.setattr(Receiver, "take", lambda self, request: self._try(request))


def _confirm_at_once(patch: pytest.MonkeyPatch) -> None:
    """One failing probe confirms."""

    def at_once(health: Health, cause: Cause | None, *_: Any, **__: Any) -> tuple[bool, str]:
        return cause is not None and health.failing_since is not None, "it failed"

    for module in (status_machine, check_key, incidents):
        patch.setattr(module, "is_confirmed", at_once)


BREAKS: dict[str, tuple[Property, Callable[[pytest.MonkeyPatch], None]]] = {
    "BREAK_REGISTRATION": (Property.OUTAGE_LOCKS, _register_in_use),
    "BREAK_SETTLING": (Property.OUTAGE_LOCKS, _leave_what_was_not_asked_for),
    "BREAK_MENDING_LOCKOUTS": (Property.OUTAGE_LOCKS_IN_THE_END, _never_mend(Mending.START_LOCKOUT)),
    "BREAK_MENDING_RECOVERIES": (Property.RECOVERY_UNLOCKS, _never_mend(Mending.START_RECOVERY)),
    "BREAK_ORPHANS": (Property.RECOVERY_UNLOCKS, _leave_orphans),
    "BREAK_FENCE": (Property.NO_OLDER_FENCE_WINS, _forget_fences),
    "BREAK_STALE_ANSWER": (Property.NO_OLDER_FENCE_WINS, _take_any_answer),
    "BREAK_CONFIRMATION": (Property.NO_LOCK_WITHOUT_CONFIRMATION, _confirm_at_once),
}
"""The deliberate breaks, named as in tests/models/protocol.pml, each with the property that catches it."""


@pytest.mark.parametrize("broken", BREAKS)
def test_a_deliberate_break_is_caught_by_its_property(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    caught_by, apply = BREAKS[broken]
    apply(monkeypatch)
    with pytest.raises(AssertionError, match=rf"lost: \[<Property\.{caught_by.name}: '{caught_by}'>\]"):
        play(100)
