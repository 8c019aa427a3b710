"""Deliver outbox rows: to the project's or operator's topic, the bus, the workflows and receivers, each by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from keyvigil.domain.alerts import Alert, LockRequest, OutboxRow, Target, is_of
from keyvigil.domain.clusters import UNDER_WAY
from keyvigil.domain.findings import Finding, finding_of, newest
from keyvigil.domain.outbox_faults import decide_aside
from keyvigil.errors import ConflictError, DamagedItemError, DeliveryError, in_short
from keyvigil.ports import Clock, Findings, Notifier, Put, ReceiverCalls, Store, Workflow
from keyvigil.use_cases.quiet import JudgeAlert


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayResult:
    """What became of the rows: how many are sent now, and which targets of which rows did not take theirs.

    A failure without a target is a row that could not even be read, or not be marked. `set_aside` are the rows that
    no repetition would help, with the reason: they are not sent again until somebody asks for it. `withheld` counts the
    alerts that are not sent, because of a silence or because enough was told (domain/quiet.py).
    """

    sent: int
    failures: tuple[tuple[str, Target | None, str], ...]
    set_aside: tuple[tuple[str, str], ...] = ()
    withheld: int = 0


@dataclass(kw_only=True)
class _Round:
    """What one call of the relay has found so far."""

    sent: int = 0
    withheld: int = 0
    failures: list[tuple[str, Target | None, str]] = field(default_factory=list)
    set_aside: list[tuple[str, str]] = field(default_factory=list)
    unreachable: set[Target] = field(default_factory=set)


class RelayOutbox:
    """Delivers rows at least once. What fails stays unsent, and the reconciler asks for it again.

    No row holds up another, whatever is wrong with it: not in its batch, and not in the sweeps to come.
    """

    def __init__(
        self,
        store: Store,
        notifier: Notifier,
        workflow: Workflow,
        clock: Clock,
        *,
        operator_topic_arn: str,
        receiver_calls: ReceiverCalls,
        findings: Findings | None = None,
    ) -> None:
        """Keep the ports, and the topic for what concerns KeyVigil itself. Without `findings` nobody makes any."""
        self._findings = findings
        self._judge = JudgeAlert(store, clock)
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
        found = _Round()
        rows = self._read(row_ids, found)
        not_imported = self._import(rows)
        for row in sorted(rows, key=lambda each: each.alert is not None):
            self._send(row, found, not_imported)
        return RelayResult(
            sent=found.sent, failures=tuple(found.failures), set_aside=tuple(found.set_aside), withheld=found.withheld
        )

    def _read(self, row_ids: Sequence[str], found: _Round) -> list[OutboxRow]:
        """The rows that are there. One that cannot be read does not hold up the others of its batch."""
        rows = []
        for row_id in dict.fromkeys(row_ids):
            try:
                row = self._store.outbox_row(row_id)
            except DamagedItemError as error:
                if not self._set_aside(row_id, in_short(error), found):
                    found.failures.append((row_id, None, in_short(error)))
                continue
            except Exception as error:  # noqa: BLE001  whatever it is, the other rows must go out
                found.failures.append((row_id, None, in_short(error)))
                continue
            if row is not None:
                rows.append(row)
        return rows

    def _missing(self, row: OutboxRow) -> tuple[Target, ...]:
        """The targets that have not got a row yet, in a stack like this one."""
        can_have = row.makes_finding and row.sent_at is None and Target.FINDING not in row.delivered
        wanted = self._findings is not None and can_have
        return (*row.missing, Target.FINDING) if wanted else row.missing

    def _import(self, rows: Sequence[OutboxRow]) -> dict[str, Exception]:
        """Import the findings of all rows in as few requests as may be; the rows whose finding was not taken, and why.

        Several alerts of one incident are one finding, in its newest state.
        """
        made: dict[str, Finding] = {}
        faults: dict[str, Exception] = {}
        for row in rows:
            if Target.FINDING not in self._missing(row) or row.alert is None:
                continue
            try:
                finding = self._finding_of(row.alert)
            except Exception as error:  # noqa: BLE001  whatever it is, the other findings must be imported
                faults[row.row_id] = error
                continue
            if finding is not None:
                made[row.row_id] = finding
        if self._findings is None or not made:
            return faults
        try:
            failed: Mapping[str, Exception] = self._findings.import_findings(newest(list(made.values())))
        except Exception as error:  # noqa: BLE001  whatever it is, topics and the bus must get what is theirs
            failed = {finding.finding_id: error for finding in made.values()}
        return faults | {row: failed[each.finding_id] for row, each in made.items() if each.finding_id in failed}

    def _finding_of(self, alert: Alert) -> Finding | None:
        if alert.project_id is None or alert.incident_id is None:
            return None
        incident = self._store.incident(alert.project_id, alert.incident_id)
        return finding_of(alert, incident) if incident is not None else None

    def _send(self, read: OutboxRow, found: _Round, not_imported: Mapping[str, Exception]) -> None:
        try:
            # What is silenced is no secret: its finding, if it was not taken, is imported again all the same.
            row = self._judge(read, left_to_do=read.row_id in not_imported)
        except Exception as error:  # noqa: BLE001  it stays unsent, and the next sweep has it judged again
            found.failures.append((read.row_id, None, f"not judged: {in_short(error)}"))
            return
        if row is None:
            return
        found.withheld += row.withheld and not read.withheld
        delivered, faults = self._deliver_all(row, found, not_imported)
        found.failures += [(row.row_id, target, _why(error)) for target, error in faults.items()]
        try:
            found.sent += self._mark(row, delivered)
        except Exception as error:  # noqa: BLE001  what is not marked is sent again: a duplicate, and nothing is lost
            found.failures.append((row.row_id, None, f"not marked as delivered: {in_short(error)}"))
            return
        reason = decide_aside(
            {target: isinstance(each, DeliveryError) and each.refused for target, each in faults.items()},
            {target: not isinstance(each, DeliveryError) for target, each in faults.items()},
            age=self._clock.now() - row.created_at,
        )
        if reason is not None:
            words = "; ".join(f"{target}: {_why(each)}" for target, each in faults.items())
            self._set_aside(row.row_id, f"{reason}: {words}", found)

    def _deliver_all(
        self, row: OutboxRow, found: _Round, not_imported: Mapping[str, Exception]
    ) -> tuple[list[Target], dict[Target, Exception]]:
        """Give a row to every target that lacks it: those that took it, and those that did not, with the reason."""
        delivered: list[Target] = []
        faults: dict[Target, Exception] = {}
        for target in self._missing(row):
            if target is Target.FINDING and row.row_id in not_imported:
                faults[target] = not_imported[row.row_id]
                continue
            if target in found.unreachable:
                faults[target] = DeliveryError("it did not answer a moment ago")
                continue
            try:
                self._deliver(row, target)
                delivered.append(target)
            except DeliveryError as error:
                faults[target] = error
                if error.unreachable:
                    found.unreachable.add(target)
            except Exception as error:  # noqa: BLE001  a row that makes our own code stumble must not stop the others
                faults[target] = error
        return delivered, faults

    def _set_aside(self, row_id: str, reason: str, found: _Round) -> bool:
        try:
            moved = self._store.set_aside(row_id, reason, self._clock.now())
        except Exception as error:  # noqa: BLE001  it stays on the list, and the next sweep tries again
            found.failures.append((row_id, None, f"not set aside: {in_short(error)}"))
            return False
        if moved:
            found.set_aside.append((row_id, reason))
        return moved

    def _mark(self, row: OutboxRow, delivered: Sequence[Target]) -> bool:
        """Keep which targets have a row; say whether it is sent now. What a stack no longer makes is not waited for."""
        if not delivered and (row.sent_at is not None or self._missing(row)):
            return False
        marked = replace(row, delivered=(*row.delivered, *delivered))
        if not self._missing(marked):
            marked = replace(marked, sent_at=self._clock.now())
        try:
            self._store.commit([Put(marked)])
        except ConflictError:
            # Another relay delivered the row at the same time: a duplicate, which at least once allows.
            return False
        return marked.sent_at is not None and not marked.withheld

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
            case Target.FINDING:
                pass  # it was imported with those of the other rows
            case _:
                assert_never(target)

    def _tell_project(self, row: OutboxRow, target: Target) -> None:
        """One of a project's topics. What has no topic for chat, or is gone, has all that it can get."""
        project = self._store.project(row.project_id) if row.project_id else None
        if row.alert is None or project is None or not is_of(row, project):
            return
        if target is Target.TOPIC:
            self._notifier.publish(project.alert_topic_arn, row.told_as or row.alert)
        elif project.chat:
            self._notifier.publish_to_chat(project.chat_topic_arn, row.told_as or row.alert)

    def _put_on_bus(self, row: OutboxRow) -> None:
        if row.alert is not None:
            self._notifier.put_alert(row.told_as or row.alert)
        if row.lock_request is not None and self._is_under_way(row.lock_request):
            self._notifier.put_lock_request(row.lock_request)

    def _is_under_way(self, asked: LockRequest) -> bool:
        """Whether a request is still wanted: a row may be late by hours, or come from a backup of the table."""
        cluster = self._store.cluster(asked.project_id, asked.cluster_id)
        return cluster is not None and cluster.fence == asked.fence and cluster.status in UNDER_WAY

    def _have_called(self, row: OutboxRow) -> None:
        if row.lock_request is not None:
            asked = row.lock_request
            self._receiver_calls.ask(asked.project_id, asked.cluster_id, asked.fence)


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, DeliveryError) else in_short(error)
