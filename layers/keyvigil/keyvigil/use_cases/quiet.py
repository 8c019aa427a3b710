"""Judge alerts before they are sent, and tell again what lasts."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from keyvigil.domain.alerts import Alert, AlertCause, AlertStatus, OutboxRow, Severity, make_alert
from keyvigil.domain.incidents import affected
from keyvigil.domain.keys import Key
from keyvigil.domain.projects import Project
from keyvigil.domain.quiet import Ledger, Problem, QuietDecision, Retelling, decide_quiet, key_of
from keyvigil.domain.silences import Silence
from keyvigil.errors import DamagedItemError, NewerItemError, in_short
from keyvigil.ports import Clock, Ids, Put, Store, Write
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.taking_turns import turn

LEDGERS_A_SWEEP = 200
"""How many keys of which something may have to be told again one sweep looks at. Each costs some five requests."""

RETOLD_AT_ONCE = 20
"""How many problems of one key one transaction tells again; the next sweep tells the others."""


class JudgeAlert:
    """Decides once about an alert whether it is sent, and keeps that with its row."""

    def __init__(self, store: Store, clock: Clock) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock

    def __call__(self, row: OutboxRow) -> OutboxRow | None:
        """The row with what was decided about it; None if somebody else has it. What is no alert needs no decision.

        If it cannot be read what was told before, the alert is sent: an outage must not go unannounced for that.

        Raises:
            ConflictError: others were faster every time; the row stays unsent, and the next sweep tries again.
        """
        if row.alert is None or row.judged is not None:
            return row
        try:
            return until_committed(self._judge, row.row_id)
        except (DamagedItemError, NewerItemError):
            return row

    def _judge(self, row_id: str) -> OutboxRow | None:
        row = self._store.outbox_row(row_id)
        if row is None or row.alert is None or row.judged is not None:
            return row
        now = self._clock.now()
        key_id = key_of(row.alert)
        project = self._store.project(row.project_id) if row.project_id else None
        ledger = _of_this_project(self._store.ledger(row.project_id if key_id else None, key_id), project)
        decision = decide_quiet(ledger, row.alert, silences_of(self._store, row, now), now, row_id=row_id)
        judged = _judged(row, decision, now)
        writes: list[Write] = [Put(judged)]
        if decision.ledger != ledger:
            writes.append(Put(decision.ledger))
        self._store.commit(writes)
        return replace(judged, version=judged.version + 1)


def _judged(row: OutboxRow, decision: QuietDecision, now: datetime) -> OutboxRow:
    assert decision.why is not None  # noqa: S101  an alert came
    words = str(decision.why) + (f" by {decision.by}" if decision.by else "")
    if decision.why.sends:
        return replace(row, judged=words)
    return replace(row, judged=words, withheld=True, sent_at=now)


def silences_of(store: Store, row: OutboxRow, now: datetime) -> tuple[Silence, ...]:
    """The silences that may mute a row's alert. A tenant's mute nothing that goes to the operator."""
    return () if row.project_id is None or row.for_operator else store.silences(row.project_id).at(now)


@dataclass(kw_only=True)
class RetoldReport:
    """How many alerts were told again, and what could not be."""

    told: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)


class TellAgain:
    """Tells again what lasts, and what was muted and is not any more; every minute, with the sweep."""

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._ids = ids

    def __call__(self) -> RetoldReport:
        """Tell again what is due. One key that cannot be told of does not keep the others from it."""
        report = RetoldReport()
        now = self._clock.now()
        for project_id, key_id in turn(self._store.due_ledgers(now), LEDGERS_A_SWEEP, now):
            try:
                report.told += until_committed(self._tell, project_id, key_id)
            except Exception as error:  # noqa: BLE001  whatever it is, the next key must have its turn
                report.errors.append((f"{project_id}/{key_id}", in_short(error)))
        return report

    def _tell(self, project_id: str | None, key_id: str | None) -> int:
        now = self._clock.now()
        ledger = self._store.ledger(project_id, key_id)
        key = self._store.key(project_id, key_id) if project_id and key_id else None
        rows = {
            each.dedup_key: self._store.outbox_row(each.row_id)
            for each in ledger.problems.values()
            if each.next_at is not None and each.next_at <= now
        }
        writes: list[Write] = []
        project = self._store.project(project_id) if project_id else None
        mine_only = _of_this_project(ledger, project)
        if mine_only != ledger:
            self._store.commit([Put(mine_only)])
            return 0
        # Of a key that was registered anew nothing is remembered that could end what was told of it before.
        left = {
            name: row
            for name, row in rows.items()
            if project_id is not None and (key is None or ledger.problems[name].heard_at < key.created_at)
        }
        if left:
            ledger, writes = self._end_all(ledger, left, now)
            self._store.commit(writes)
            return len(writes) - 1
        silences = self._store.silences(project_id).at(now) if project_id else ()
        operators = {name for name, row in rows.items() if row is not None and row.for_operator}
        mine = decide_quiet(_without(ledger, operators), None, silences, now)
        theirs = decide_quiet(_without(ledger, ledger.problems.keys() - operators), None, (), now)
        problems = dict(ledger.problems)
        for retelling in (*mine.retold, *theirs.retold)[:RETOLD_AT_ONCE]:
            row = rows.get(retelling.problem.dedup_key)
            told = self._again(retelling, row, key, now)
            if row is None or told is None:
                continue
            alert, key = told
            again = replace(
                row,
                row_id=alert.alert_id,
                alert=alert,
                created_at=now,
                delivered=(),
                sent_at=None,
                judged=str(retelling.why),
                withheld=False,
                version=0,
            )
            writes.append(Put(again))
            problems[alert.dedup_key] = replace(
                retelling.problem, row_id=alert.alert_id, sequence=alert.sequence, heard_at=now
            )
        if not writes:
            return 0
        told_now = len(writes)
        if key is not None:
            writes.append(Put(key))
        self._store.commit([*writes, Put(replace(ledger, problems=problems))])
        return told_now

    def _again(
        self, retelling: Retelling, row: OutboxRow | None, key: Key | None, now: datetime
    ) -> tuple[Alert, Key | None] | None:
        """The alert as it is told again, with its key as it is now; None if its end is already on its way."""
        if row is None or row.alert is None:
            return None
        problem, alert = retelling.problem, row.alert
        if key is None:
            sequence = int(now.timestamp() * 1000)
            return replace(alert, alert_id=self._ids.ulid(), sequence=sequence, detected_at=now), None
        clusters = affected(self._store.clusters_of_key(key.project_id, key.key_id))
        if problem.incident_id is None:
            numbered = replace(key, alert_sequence=key.alert_sequence + 1)
            again = replace(
                alert,
                alert_id=self._ids.ulid(),
                sequence=numbered.alert_sequence,
                clusters=clusters,
                detected_at=now,
            )
            return again, numbered
        incident = self._store.incident(key.project_id, problem.incident_id)
        if incident is None or not incident.is_open or (problem.is_outage and incident.recovered_at is not None):
            return None
        listed = {each.cluster_id for each in alert.clusters}
        return make_alert(
            problem.type,
            alert_id=self._ids.ulid(),
            key=key,
            incident=incident,
            clusters=clusters if problem.is_outage else [each for each in clusters if each.cluster_id in listed],
            occurred_at=alert.occurred_at,
            detected_at=now,
        )

    def _end_all(self, ledger: Ledger, rows: dict[str, OutboxRow | None], now: datetime) -> tuple[Ledger, list[Write]]:
        """The key is not under watch any more: what was told of it is over, and that is told too."""
        writes: list[Write] = []
        problems = dict(ledger.problems)
        for name, row in list(rows.items())[:RETOLD_AT_ONCE]:
            problem = ledger.problems[name]
            if problem.told_at is not None and row is not None and row.alert is not None:
                writes.append(Put(self._ended(row, row.alert, problem, now)))
            problems[name] = replace(problem, over_at=now, unsaid=None)
        after = replace(ledger, problems=problems)
        return after, [*writes, Put(after)]

    def _ended(self, row: OutboxRow, alert: Alert, problem: Problem, now: datetime) -> OutboxRow:
        message = f"{'The key' if alert.key is None else alert.key.arn} is not under watch any more."
        ended = replace(
            alert,
            alert_id=self._ids.ulid(),
            sequence=problem.sequence + 1,
            status=AlertStatus.RESOLVED,
            severity=Severity.INFO,
            cause=AlertCause(code=None, operation=None, aws_error_code=None, message=message),
            detected_at=now,
        )
        return replace(
            row,
            row_id=ended.alert_id,
            alert=ended,
            created_at=now,
            delivered=(),
            sent_at=None,
            judged="its key is not under watch any more",
            withheld=False,
            version=0,
        )


def _of_this_project(ledger: Ledger, project: Project | None) -> Ledger:
    """The ledger without what an earlier project of the same id had: that is another tenant's."""
    if project is None:
        return ledger
    return _without(ledger, {name for name, each in ledger.problems.items() if each.heard_at < project.created_at})


def _without(ledger: Ledger, names: set[str] | frozenset[str]) -> Ledger:
    return replace(ledger, problems={name: each for name, each in ledger.problems.items() if name not in names})
