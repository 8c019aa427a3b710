"""Find executions at work whose incident is over, every minute, and stop them."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from keyvigil.domain.incidents import Incident
from keyvigil.errors import in_short
from keyvigil.ports import Clock, ExecutionAtWork, Store, Workflow
from keyvigil.use_cases.taking_turns import turn

OVER_FOR = timedelta(minutes=2)
"""How long an execution's incident must have been over: the step that ends an incident is not the execution's end."""

EXECUTIONS_A_SWEEP = 20
"""How many executions without an open incident one sweep asks after: two calls of Step Functions each."""


@dataclass(kw_only=True)
class StoppedOrphans:
    """Which executions were stopped, and what could not be looked at."""

    stopped: list[str] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)


class StopOrphans:
    """Stops executions that work for no open incident. Everything they could still do is refused, so nothing is lost.

    One like that waits for an answer that nobody will give, for half an hour, or probes a key that is fine.
    """

    def __init__(self, store: Store, workflow: Workflow, clock: Clock) -> None:
        """Keep the ports."""
        self._store = store
        self._workflow = workflow
        self._clock = clock

    def __call__(self) -> StoppedOrphans:
        """Look at the executions that are at work. One that cannot be looked at does not keep the others from being."""
        orphans = StoppedOrphans()
        now = self._clock.now()
        try:
            running = self._workflow.at_work()
            still_open = {incident_id for _, incident_id in self._store.open_incidents()} if running else set()
        except Exception as error:  # noqa: BLE001  the sweep is done all the same, and the next one asks again
            orphans.errors.append(("executions", in_short(error)))
            return orphans
        left = [each for each in running if each.incident_id not in still_open]
        for each in turn(left, EXECUTIONS_A_SWEEP, now):
            try:
                self._look_at(each, now, orphans)
            except Exception as error:  # noqa: BLE001  whatever it is, the next one must have its turn
                orphans.errors.append((each.name, in_short(error)))
        return orphans

    def _look_at(self, execution: ExecutionAtWork, now: datetime, orphans: StoppedOrphans) -> None:
        """The list of open incidents may lag behind the table, which is asked itself before anything is stopped."""
        project_id = self._workflow.project_of(execution.name)
        if project_id is None or not _is_over(self._store.incident(project_id, execution.incident_id), now):
            return
        self._workflow.stop(execution.name, "its incident is over")
        orphans.stopped.append(execution.name)


def _is_over(incident: Incident | None, now: datetime) -> bool:
    if incident is None:
        return True
    return not incident.is_open and incident.resolved_at is not None and now - incident.resolved_at >= OVER_FOR
