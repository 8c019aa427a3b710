"""Whether a request or an event may be asked of a customer's KMS now, a little later, or not before the next sweep."""

from collections.abc import Callable
from datetime import timedelta
from threading import Lock

from keyvigil.domain.keys import Key
from keyvigil.domain.out_of_turn import asked_out_of_turn, take
from keyvigil.errors import ConflictError
from keyvigil.ports import Clock, Pauses, Put, Store
from keyvigil.use_cases.retrying import until_committed

_TRIES = 4
_SPREAD_SECONDS = 0.4


class AskOutOfTurn:
    """Takes tokens from the part of an account's quotas that sweeps leave, for all sandboxes together."""

    def __init__(
        self, store: Store, clock: Clock, pauses: Pauses, wait: Callable[[float], None], *, quota_share_percent: int
    ) -> None:
        """Keep the ports, what waits for so many seconds, and how much of a quota probes take."""
        self._wait = wait
        self._store = store
        self._clock = clock
        self._pauses = pauses
        self._share = quota_share_percent
        self._lock = Lock()

    def __call__(self, key: Key) -> timedelta | None:
        """Wait for this key's turn, and say how long that was; None if it does not come in time."""
        began = self._clock.now()
        wait = self.take(key)
        if wait is None:
            return None
        if wait > timedelta(0):
            self._wait(wait.total_seconds())
        return self._clock.now() - began

    def take(self, key: Key) -> timedelta | None:
        """Take what this key's probe asks for, and say how long to wait for it; None if that is too long."""
        with self._lock:  # so that the threads of a batch do not race each other
            for _ in range(_TRIES):
                try:
                    return until_committed(self._take, key)
                except ConflictError:
                    self._pauses.up_to(_SPREAD_SECONDS)
        return None

    def _take(self, key: Key) -> timedelta | None:
        wanted = asked_out_of_turn(key)
        part = self._store.out_of_turn(wanted.account, wanted.region)
        turn = take(part, wanted, self._share, self._clock.now())
        if turn.part is None:
            return None
        self._store.commit([Put(turn.part)])
        return turn.wait
