"""Take an event about keys: probe those that it concerns now and again, and remember who acted."""

from dataclasses import dataclass

from keyvigil.domain.attribution import HINT_KEPT, EventHints, remember
from keyvigil.domain.key_events import Bearing, KeyEvent, bearing, probes_due, resources_named
from keyvigil.domain.keys import Key, Trigger
from keyvigil.errors import ConflictError, DeliveryError
from keyvigil.ports import CheckMessage, CheckQueue, Clock, Put, Store
from keyvigil.use_cases.retrying import until_committed

MOST_REGISTRATIONS = 100
"""How many registrations one event can concern, in all projects. A key or a role that is registered more often has the
rest probed by the schedule; who acted is then looked up, not taken from the event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What an event led to. `left_out` says that it concerned more registrations than are looked at."""

    registrations: int
    messages: int
    hints: int
    left_out: bool


class ReceiveKeyEvent:
    """Decides nothing about a key: it asks for probes, and keeps who acted for an incident that may open.

    An event that comes twice, late or again changes nothing but when its keys are probed.
    """

    def __init__(self, store: Store, queue: CheckQueue, clock: Clock) -> None:
        """Keep the ports."""
        self._store = store
        self._queue = queue
        self._clock = clock

    def __call__(self, event: KeyEvent) -> Received:
        """Take one event.

        Raises:
            DeliveryError: the queue did not take every message; the event can be taken again as it is.
        """
        keys, left_out = self._concerned(event)
        hints = sum(self._remember(event, key) for key in keys)
        return Received(registrations=len(keys), messages=self._ask(keys), hints=hints, left_out=left_out)

    def _concerned(self, event: KeyEvent) -> tuple[list[Key], bool]:
        """The registered keys that an event concerns, and whether there are more than are looked at."""
        places: set[tuple[str, str]] = set()
        for resource in resources_named(event):
            pointers = self._store.pointers(event.account_id, resource, MOST_REGISTRATIONS + 1)
            places |= {(each.project_id, each.key_id) for each in pointers}
        taken = sorted(places)[:MOST_REGISTRATIONS]
        keys = [self._store.key(project_id, key_id) for project_id, key_id in taken]
        # What a pointer leads to may be gone, or changed: the key itself decides whether it is concerned.
        concerned = [key for key in keys if key is not None and bearing(event, key) is not Bearing.NONE]
        return concerned, len(places) > MOST_REGISTRATIONS

    def _remember(self, event: KeyEvent, key: Key) -> bool:
        """Keep who acted, before the probe that may find the outage."""
        if event.actor is None or bearing(event, key) is not Bearing.ACTS_ON_IT:
            return False
        try:
            return until_committed(self._keep, event, key)
        except ConflictError:
            # Other events of the same key were faster every time. Its incident asks CloudTrail.
            return False

    def _keep(self, event: KeyEvent, key: Key) -> bool:
        now = self._clock.now()
        known = self._store.event_hints(key.project_id, key.key_id) or EventHints(
            project_id=key.project_id, key_id=key.key_id, kept_until=now + HINT_KEPT
        )
        hints = remember(known, event.actor, now) if event.actor is not None else None
        if hints is None:
            return False
        self._store.commit([Put(hints)])
        return True

    def _ask(self, keys: list[Key]) -> int:
        sent = 0
        for due_at, delay_seconds in probes_due(self._clock.now()) if keys else ():
            messages = [CheckMessage(key.project_id, key.key_id, due_at, Trigger.EVENT) for key in keys]
            taken = self._queue.send(messages, delay_seconds=delay_seconds)
            if taken < len(messages):
                message = f"the check queue took {taken} of {len(messages)} messages"
                raise DeliveryError(message)
            sent += taken
        return sent
