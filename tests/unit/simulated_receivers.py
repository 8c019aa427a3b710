"""Receivers that are called, in the storm of protocol_simulation.py: functions, and runbooks that are asked after.

Behind each is the reference receiver (docs/reference_receiver.py), and behind the control plane that hears events too:
one for all, so that a cluster is locked or not, however it was asked for. They answer at once, after a while, later by
lock-result, twice, wrongly or never; their answers get lost; the function that calls them dies before it calls, while
it waits, or before it has written the answer down.
"""

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol, override

from docs.reference_receiver import Memory, Receiver, Request
from keyvigil.domain.alerts import LockRequest
from keyvigil.domain.clusters import Cluster, LockResult, LockSettings, LockVia, Preset
from keyvigil.domain.lock_calls import CallAnswer, CallOutcome
from keyvigil.errors import ConflictError, DeliveryError
from keyvigil.ports import LockReceiver, Pauses, ReceiverCalls, Store
from keyvigil.use_cases.call_receiver import CallReceiver, Receivers
from keyvigil.use_cases.record_lock_result import LockAnswer

CALLED = (LockVia.LAMBDA, LockVia.SSM_AUTOMATION)
_FUNCTION = "arn:aws:lambda:us-west-2:222222222222:function:keyvigil-lock-simulated"
# Calls within calls: while one waits, everything else goes on, further calls as well.
_DEEPEST = 4


class Died(BaseException):
    """The function that calls was killed. Nothing of ours could catch it."""


class World(Protocol):
    """What the game gives: time, chance, and what may be looked at and answered."""

    calm: bool
    chance: random.Random

    def happens(self, probability: float) -> bool: ...
    def after(self, seconds: float, do: Callable[[], None]) -> None: ...
    def let_pass(self, seconds: float) -> None: ...
    def answer(self, answer: LockAnswer) -> None: ...
    def called_wrongly(self, how: str) -> None: ...


def settings(via: LockVia, timeout_seconds: int) -> LockSettings:
    """How a cluster is locked this way."""
    match via:
        case LockVia.LAMBDA:
            return LockSettings(via=via, timeout_seconds=timeout_seconds, function_arn=_FUNCTION)
        case LockVia.SSM_AUTOMATION:
            return LockSettings(via=via, timeout_seconds=timeout_seconds, document_name="KeyVigilLock-simulated")
        case _:
            return LockSettings(via=via, timeout_seconds=timeout_seconds)


class SimulatedReceivers(LockReceiver, ReceiverCalls, Pauses):
    """All receivers of a game, and the invocations of the function that calls them."""

    def __init__(self, world: World, store: Store, crashes: float, losses: float) -> None:
        self.use_case: CallReceiver | None = None
        self._world = world
        self._store = store
        self._crashes = crashes
        self._losses = losses
        self._locked: dict[str, bool] = defaultdict(bool)
        self._memory = Memory(":memory:")
        self._receiver = Receiver(self._memory, self._act)
        self._depth = 0

    @property
    def by_kind(self) -> Receivers:
        return {(via, Preset.NONE): self for via in CALLED}

    def is_locked(self, cluster: Cluster) -> bool:
        return self._locked[cluster.cluster_id]

    # --- invocations: at least once, and again after one that died ----------------------------------------------

    @override
    def ask(self, project_id: str, cluster_id: str, fence: int) -> None:
        if self._world.happens(self._losses):
            message = "call_receiver could not be asked"
            raise DeliveryError(message, unreachable=True)
        for _ in range(2 if self._world.happens(0.1) else 1):
            self._world.after(0.5, lambda: self._invoke(project_id, cluster_id, fence, (60.0, 120.0)))

    def _invoke(self, project_id: str, cluster_id: str, fence: int, retries: tuple[float, ...]) -> None:
        assert self.use_case is not None
        try:
            self._die_at_times()
            self.use_case(project_id, cluster_id, fence)
        except (Died, ConflictError, DeliveryError):
            if retries:
                seconds, *left = retries
                self._world.after(seconds, lambda: self._invoke(project_id, cluster_id, fence, tuple(left)))

    def _die_at_times(self) -> None:
        if self._world.happens(self._crashes):
            raise Died

    @override
    def up_to(self, seconds: float) -> None:
        self._let_pass(seconds * self._world.chance.random())

    def _let_pass(self, seconds: float) -> None:
        if self._depth < _DEEPEST:
            self._depth += 1
            self._world.let_pass(seconds)
            self._depth -= 1

    # --- the receivers ------------------------------------------------------------------------------------------

    @override
    def call(self, request: LockRequest, lock: LockSettings, *, receipt: str | None, seconds: float) -> CallAnswer:
        newest = self._store.cluster(request.project_id, request.cluster_id)
        if newest is None or newest.fence != request.fence:
            self._world.called_wrongly(f"with {request.fence} when {newest and newest.fence} was asked for")
        moods = ("obedient",) * 6 + ("fails", "refuses to be reached", "loses its answer", "late", "silent")
        mood = "obedient" if self._world.calm else self._world.chance.choice(moods)
        if mood == "refuses to be reached":
            return CallAnswer(outcome=CallOutcome.TRANSIENT, detail="nobody was reached")
        takes = 1.0 if self._world.calm else self._world.chance.choice((0.2, 1.0, 10.0, 60.0))
        self._let_pass(min(takes, seconds))
        if mood == "fails":
            return CallAnswer(outcome=CallOutcome.FAILED, detail="it could not")
        if mood == "silent":
            return CallAnswer(outcome=CallOutcome.ACCEPTED)
        if mood == "late":
            self._world.after(400 * self._world.chance.random(), lambda: self._answer_late(request))
            return CallAnswer(outcome=CallOutcome.ACCEPTED)
        answer = self._carry_out(request)
        self._die_at_times()
        if mood == "loses its answer":
            return CallAnswer(outcome=CallOutcome.TRANSIENT, detail="no whole answer came")
        return answer

    def _act(self, request: Request) -> None:
        self._locked[request.cluster_id] = request.action == "lock"

    def take(self, request: LockRequest) -> LockResult:
        """Do as the reference receiver does with a request, whoever brings it."""
        taken = Request(str(request.action), request.project_id, request.cluster_id, request.fence)
        return LockResult(self._receiver.take(taken).result)

    def close(self) -> None:
        self._memory.close()

    def _carry_out(self, request: LockRequest) -> CallAnswer:
        done = self.take(request) is not LockResult.FAILED
        return CallAnswer(outcome=CallOutcome.DONE if done else CallOutcome.FAILED)

    def _answer_late(self, request: LockRequest) -> None:
        self._world.answer(
            LockAnswer(
                project_id=request.project_id,
                cluster_id=request.cluster_id,
                fence=request.fence,
                result=self.take(request),
                detail=None,
                by="its function, late",
            )
        )
