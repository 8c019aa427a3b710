"""Send the searches for actors that are due to the check queue, whose function alone may look into CloudTrail."""

from collections import Counter
from dataclasses import dataclass, field

from keyvigil.errors import in_short
from keyvigil.ports import CheckQueue, Clock, FindActorMessage, Store

SEARCHES_A_SWEEP = 500
"""How many searches one sweep looks at, one small read each; the others stay due."""

SEARCHES_AN_ACCOUNT = 4
"""How many searches one sweep sends for one account, one after the other: LookupEvents takes two requests a second from
an account in a Region, a search makes up to 11, and the account's owner wants some too."""

SECONDS_BETWEEN_SEARCHES = 15


@dataclass(kw_only=True)
class PlannedSearches:
    """How many searches were sent, and what kept them from being."""

    sent: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)


class PlanActorSearches:
    """Plans the minute's searches. Nothing is claimed: a search stays due until its result is written."""

    def __init__(self, store: Store, queue: CheckQueue, clock: Clock) -> None:
        """Keep the ports."""
        self._store = store
        self._queue = queue
        self._clock = clock

    def __call__(self) -> PlannedSearches:
        """Send what is due, the oldest first. Whatever fails is reported, for nothing else of a sweep hangs on it."""
        planned = PlannedSearches()
        try:
            for place, messages in enumerate(self._due()):
                planned.sent += self._queue.send(messages, delay_seconds=place * SECONDS_BETWEEN_SEARCHES)
        except Exception as error:  # noqa: BLE001  what was not sent stays due, and the next sweep sends it
            planned.errors.append(("searches for actors", in_short(error)))
        return planned

    def _due(self) -> list[list[FindActorMessage]]:
        """What is due: of each account the oldest search, the second oldest, and so on."""
        of_account: Counter[str] = Counter()
        places: list[list[FindActorMessage]] = [[] for _ in range(SEARCHES_AN_ACCOUNT)]
        for project_id, incident_id in self._store.due_searches(self._clock.now(), SEARCHES_A_SWEEP):
            search = self._store.actor_search(project_id, incident_id)
            if search is None or of_account[search.account_id] >= SEARCHES_AN_ACCOUNT:
                continue
            places[of_account[search.account_id]].append(FindActorMessage(project_id, incident_id))
            of_account[search.account_id] += 1
        return places
