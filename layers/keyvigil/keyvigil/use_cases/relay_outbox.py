"""Deliver outbox rows: to the project's or operator's topic, the bus, the workflows and receivers, each by itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from keyvigil.domain.alerts import OutboxRow, Target
from keyvigil.errors import ConflictError, DeliveryError, in_short
from keyvigil.ports import Clock, Notifier, Put, ReceiverCalls, Store, Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayResult:
    """What became of the rows: how many are sent now, and which targets of which rows did not take theirs.

    A failure without a target is a row that could not even be read.
    """

    sent: int
    failures: tuple[tuple[str, Target | None, str], ...]


class RelayOutbox:
    """Delivers rows at least once. What fails stays unsent, and the reconciler asks for it again."""

    def __init__(
        self,
        store: Store,
        notifier: Notifier,
        workflow: Workflow,
        clock: Clock,
        *,
        operator_topic_arn: str,
        receiver_calls: ReceiverCalls,
    ) -> None:
        """Keep the ports, and the topic for what concerns KeyVigil itself."""
        self._store = store
        self._receiver_calls = receiver_calls
        self._notifier = notifier
        self._workflow = workflow
        self._clock = clock
        self._operator_topic_arn = operator_topic_arn

    def __call__(self, row_ids: Sequence[str]) -> RelayResult:
        """Deliver what is missing of these rows. The row is read again first, so a replay sends nothing twice.

        What locks and unlocks goes before what tells of it, and a service that does not answer is not asked
        again for the rest of the batch: its time-outs would use up the time of everything behind it.
        """
        sent = 0
        failures: list[tuple[str, Target | None, str]] = []
        rows = self._read(row_ids, failures)
        unreachable: set[Target] = set()
        for row in sorted(rows, key=lambda each: each.alert is not None):
            delivered: list[Target] = []
            for target in row.missing:
                if target in unreachable:
                    failures.append((row.row_id, target, "it did not answer a moment ago"))
                    continue
                try:
                    self._deliver(row, target)
                    delivered.append(target)
                except DeliveryError as error:
                    failures.append((row.row_id, target, str(error)))
                    if error.unreachable:
                        unreachable.add(target)
            sent += self._mark(row, delivered)
        return RelayResult(sent=sent, failures=tuple(failures))

    def _read(self, row_ids: Sequence[str], failures: list[tuple[str, Target | None, str]]) -> list[OutboxRow]:
        """The rows that are there. One that cannot be read does not hold up the others of its batch."""
        rows = []
        for row_id in dict.fromkeys(row_ids):
            try:
                row = self._store.outbox_row(row_id)
            except Exception as error:  # noqa: BLE001  whatever it is, the other rows must go out
                failures.append((row_id, None, in_short(error)))
                continue
            if row is not None:
                rows.append(row)
        return rows

    def _mark(self, row: OutboxRow, delivered: Sequence[Target]) -> bool:
        if not delivered:
            return False
        marked = replace(row, delivered=(*row.delivered, *delivered))
        if not marked.missing:
            marked = replace(marked, sent_at=self._clock.now())
        try:
            self._store.commit([Put(marked)])
        except ConflictError:
            # Another relay delivered the row at the same time: a duplicate, which at least once allows.
            return False
        return marked.sent_at is not None

    def _deliver(self, row: OutboxRow, target: Target) -> None:
        match target:
            case Target.TOPIC | Target.CHAT:
                self._tell_project(row, target)
            case Target.OPERATOR:
                if row.alert is not None:
                    self._notifier.publish(self._operator_topic_arn, row.alert)
            case Target.BUS:
                self._put_on_bus(row)
            case Target.WORKFLOW:
                if row.workflow_start is not None:
                    self._workflow.start(row.workflow_start)
            case Target.RECEIVER:
                self._have_called(row)
            case _:
                assert_never(target)

    def _tell_project(self, row: OutboxRow, target: Target) -> None:
        """One of a project's topics. What has no topic for chat, or is gone, has all that it can get."""
        project = self._store.project(row.project_id) if row.project_id else None
        if row.alert is None or project is None:
            return
        if target is Target.TOPIC:
            self._notifier.publish(project.alert_topic_arn, row.alert)
        elif project.chat:
            self._notifier.publish_to_chat(project.chat_topic_arn, row.alert)

    def _put_on_bus(self, row: OutboxRow) -> None:
        if row.alert is not None:
            self._notifier.put_alert(row.alert)
        if row.lock_request is not None:
            self._notifier.put_lock_request(row.lock_request)

    def _have_called(self, row: OutboxRow) -> None:
        if row.lock_request is not None:
            asked = row.lock_request
            self._receiver_calls.ask(asked.project_id, asked.cluster_id, asked.fence)
