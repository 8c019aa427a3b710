"""Have a key probed soon by whoever may not probe: the request goes the way that a sweep's does."""

from keyvigil.domain.keys import Trigger
from keyvigil.errors import NotFoundError
from keyvigil.ports import CheckMessage, CheckQueue, Clock, Store


class AskCheck:
    """Puts a key on the check queue. `check_keys` drops the message if the key is probed before it is received."""

    def __init__(self, store: Store, queue: CheckQueue, clock: Clock) -> None:
        """Keep the ports."""
        self._store = store
        self._queue = queue
        self._clock = clock

    def __call__(self, project_id: str, key_id: str) -> None:
        """Ask.

        Raises:
            NotFoundError: the key is not registered.
            DeliveryError: the queue did not take it.
        """
        if self._store.key(project_id, key_id) is None:
            message = f"key {key_id} is not registered in project {project_id}"
            raise NotFoundError(message)
        self._queue.send([CheckMessage(project_id, key_id, self._clock.now(), Trigger.REQUEST)])
