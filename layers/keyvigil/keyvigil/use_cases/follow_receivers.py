"""Ask again after requests that a receiver accepted and is still busy with, once a minute with the sweep."""

from dataclasses import dataclass, field
from datetime import timedelta

from keyvigil.domain.clusters import UNDER_WAY
from keyvigil.domain.lock_calls import can_be_followed
from keyvigil.errors import in_short
from keyvigil.ports import Clock, ReceiverCalls, Store
from keyvigil.use_cases.taking_turns import turn

REQUESTS_A_SWEEP = 1000
"""How many requests under way one sweep looks at. Each costs a read of the table, at 5 ms."""

_LONGEST_TIMEOUT = timedelta(seconds=1800)
"""The longest `timeout_seconds` that the API takes: every request under way is answerable until then at most."""


@dataclass(kw_only=True)
class FollowReport:
    """How many requests are being asked after, and what could not be."""

    asked: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)


class FollowReceivers:
    """Finds requests whose receiver can be asked what became of them: runbooks, and services with an API."""

    def __init__(self, store: Store, calls: ReceiverCalls, clock: Clock) -> None:
        """Keep the ports."""
        self._store = store
        self._calls = calls
        self._clock = clock

    def __call__(self) -> FollowReport:
        """Ask after each. One that cannot be asked does not keep the others from it."""
        report = FollowReport()
        now = self._clock.now()
        under_way = self._store.overdue_clusters(now + _LONGEST_TIMEOUT)
        for project_id, cluster_id in turn(under_way, REQUESTS_A_SWEEP, now):
            try:
                report.asked += self._ask(project_id, cluster_id)
            except Exception as error:  # noqa: BLE001  whatever it is, the next one must have its turn
                report.errors.append((f"{project_id}/{cluster_id}", in_short(error)))
        return report

    def _ask(self, project_id: str, cluster_id: str) -> bool:
        cluster = self._store.cluster(project_id, cluster_id)
        if cluster is None or cluster.status not in UNDER_WAY or cluster.receipt is None:
            return False
        if not can_be_followed(cluster.lock):
            return False
        self._calls.ask(project_id, cluster_id, cluster.fence)
        return True
