"""Judge alerts before they are sent, and tell again what lasts."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from keyvigil.domain import bundles
from keyvigil.domain.alerts import Alert, AlertCause, AlertStatus, OutboxRow, Severity, make_alert
from keyvigil.domain.bundles import Bundle
from keyvigil.domain.incidents import affected
from keyvigil.domain.keys import Key
from keyvigil.domain.projects import Project
from keyvigil.domain.quiet import Ledger, Problem, QuietDecision, Retelling, Why, decide_quiet, key_of
from keyvigil.domain.silences import Silence
from keyvigil.errors import ConflictError, DamagedItemError, NewerItemError, in_short
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

    def __call__(self, row: OutboxRow, *, left_to_do: bool = False) -> OutboxRow | None:
        """The row with what was decided about it; None if somebody else has it. What is no alert needs no decision.

        If it cannot be read what was told before, the alert is sent: an outage must not go unannounced for that.
        A row that is withheld is done with, unless it has something `left_to_do` that no silence is about.

        Raises:
            ConflictError: others were faster every time; the row stays unsent, and the next sweep tries again.
        """
        if row.alert is None or row.judged is not None:
            return row
        try:
            return until_committed(self._judge, row.row_id, left_to_do=left_to_do)
        except (DamagedItemError, NewerItemError):
            return row
        except ConflictError:
            # Keys of one project that break at once write to one ledger. What begins need not wait for that.
            return until_committed(self._judge, row.row_id, left_to_do=left_to_do, by_itself=True)

    def _judge(self, row_id: str, *, left_to_do: bool, by_itself: bool = False) -> OutboxRow | None:
        row = self._store.outbox_row(row_id)
        if row is None or row.alert is None or row.judged is not None:
            return row
        now = self._clock.now()
        key_id = key_of(row.alert)
        project = self._store.project(row.project_id) if row.project_id else None
        ledger = _of_this_project(self._store.ledger(row.project_id if key_id else None, key_id), project)
        shared = self._shared(row, row.alert, project)
        if by_itself and shared is not None:
            if row.alert.status is AlertStatus.RESOLVED or row.alert.dedup_key in shared.told_together:
                message = f"others wrote to what was told of project {row.project_id} every time"
                raise ConflictError(message)
            shared = None
        silences = silences_of(self._store, row, now)
        decision = decide_quiet(ledger, row.alert, silences, now, row_id=row_id, shared=shared)
        judged = _judged(row, decision, None if left_to_do else now)
        writes: list[Write] = []
        if decision.ledger != ledger:
            writes.append(Put(decision.ledger))
        told = decision.shared
        if told is not None and decision.bundle is not None:
            sequence, numbered = next_in(self._store, told, decision.bundle, row.alert)
            told = numbered_in(told, decision.bundle, sequence)
            judged = replace(judged, told_as=bundles.spoken_for(decision.bundle, row.alert, sequence))
            writes += [Put(numbered)] if numbered is not None else []
        if told is not None and told != shared:
            writes.append(Put(told))
        self._store.commit([Put(judged), *writes])
        return replace(judged, version=judged.version + 1)

    def _shared(self, row: OutboxRow, alert: Alert, project: Project | None) -> Ledger | None:
        """The ledger of the project, where an alert can be told together with others."""
        if project is None or row.for_operator or not bundles.can_be_bundled(alert):
            return None
        return _of_this_project(self._store.ledger(project.project_id, None), project)


def next_in(store: Store, shared: Ledger, bundle: Bundle, alert: Alert | None) -> tuple[int, Key | None]:
    """The next `sequence` under which a bundle is told, and the key that counts it if it must be written.

    It is the first key's. If that is gone, or was registered anew, the bundle counts on by itself.
    """
    if alert is not None and alert.dedup_key == bundle.dedup_key and alert.sequence > bundle.sequence:
        return alert.sequence, None
    key = store.key(shared.project_id, bundle.first.key_id) if shared.project_id else None
    if key is None or key.created_at > bundle.began_at:
        return bundle.sequence + 1, None
    numbered = replace(key, alert_sequence=max(key.alert_sequence, bundle.sequence) + 1)
    return numbered.alert_sequence, numbered


def numbered_in(shared: Ledger, bundle: Bundle, sequence: int) -> Ledger:
    """The ledger of a project, in which a bundle was told with this `sequence`."""
    return replace(shared, bundles={**shared.bundles, bundle.dedup_key: replace(bundle, sequence=sequence)})


def _judged(row: OutboxRow, decision: QuietDecision, done_at: datetime | None) -> OutboxRow:
    assert decision.why is not None  # noqa: S101  an alert came
    words = str(decision.why) + (f" by {decision.by}" if decision.by else "")
    if decision.why.sends:
        return replace(row, judged=words)
    return replace(row, judged=words, withheld=True, sent_at=done_at)


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
        if project_id and key_id is None:
            return self._tell_together(ledger, project_id, now)
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
        shared = self._store.ledger(project_id, None) if project_id else None
        left = {
            name: row
            for name, row in rows.items()
            if project_id is not None and (key is None or ledger.problems[name].heard_at < key.created_at)
        }
        if left:
            together = shared.told_together if shared is not None else frozenset()
            ledger, writes = self._end_all(ledger, left, now, together)
            self._store.commit(writes)
            return len(writes) - 1
        silences = self._store.silences(project_id).at(now) if project_id else ()
        operators = {name for name, row in rows.items() if row is not None and row.for_operator}
        mine = decide_quiet(_without(ledger, operators), None, silences, now, shared=shared)
        theirs = decide_quiet(_without(ledger, ledger.problems.keys() - operators), None, (), now)
        problems = {
            name: mine.ledger.problems[name] if shared is not None and name in shared.told_together else each
            for name, each in ledger.problems.items()
        }
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
        if not writes and problems == ledger.problems:
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

    def _tell_together(self, ledger: Ledger, project_id: str, now: datetime) -> int:
        """Several keys of which there is more to say, that last, or of which the last is not under watch any more."""
        project = self._store.project(project_id)
        mine_only = _of_this_project(ledger, project)
        if mine_only != ledger or project is None:
            self._store.commit([Put(mine_only if project is not None else replace(ledger, bundles={}))])
            return 0
        decision = decide_quiet(ledger, None, self._store.silences(project_id).at(now), now)
        told, rows, numbered = ledger, [], dict[str, Key]()
        for each in decision.retold_together:
            bundle, keys = self._as_they_are(project_id, each.bundle, now)
            unsaid = bundle.over_at is None and not any(key.open_incident_id for key in keys)
            if unsaid:  # the end of each is on its way
                continue
            sequence, first = next_in(self._store, ledger, bundle, None)
            if first is not None:
                if first.key_id in numbered:  # one key leads two: the next sweep tells the other
                    continue
                numbered[first.key_id] = first
            told = numbered_in(told, bundle, sequence)
            rows.append(self._row_of(project_id, bundle, keys, each.why, sequence, now))
        if not rows:
            return 0
        self._store.commit([*(Put(row) for row in rows), *(Put(key) for key in numbered.values()), Put(told)])
        return len(rows)

    def _as_they_are(self, project_id: str, bundle: Bundle, now: datetime) -> tuple[Bundle, list[Key]]:
        """A bundle without the keys that are not under watch any more, and the keys of those that last."""
        found = {each.dedup_key: self._store.key(project_id, each.key_id) for each in bundle.lasting}
        gone = {name for name, key in found.items() if key is None or key.created_at > bundle.began_at}
        left = bundle.without(frozenset(gone), now) if gone else bundle
        return left, [key for name, key in found.items() if key is not None and name not in gone]

    def _row_of(
        self, project_id: str, bundle: Bundle, keys: list[Key], why: Why, sequence: int, now: datetime
    ) -> OutboxRow:
        affected_now = [each for key in keys for each in affected(self._store.clusters_of_key(project_id, key.key_id))]
        incident = self._store.incident(project_id, bundle.worst.incident_id)
        alert = bundles.told_again(
            bundle,
            keys,
            affected_now[: bundles.CLUSTERS_LISTED],
            incident.actor if incident is not None else None,
            alert_id=self._ids.ulid(),
            sequence=sequence,
            project_id=project_id,
            now=now,
        )
        return OutboxRow(
            row_id=alert.alert_id,
            project_id=project_id,
            created_at=now,
            alert=alert,
            judged=str(why if bundle.over_at is None else Why.OVER),
        )

    def _end_all(
        self, ledger: Ledger, rows: dict[str, OutboxRow | None], now: datetime, together: frozenset[str]
    ) -> tuple[Ledger, list[Write]]:
        """The key is not under watch any more: what was told of it is over, and that is told too.

        What was told together with other keys ends with the last of them.
        """
        writes: list[Write] = []
        problems = dict(ledger.problems)
        for name, row in list(rows.items())[:RETOLD_AT_ONCE]:
            problem = ledger.problems[name]
            if problem.told_at is not None and row is not None and row.alert is not None and name not in together:
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
    mine = {name: each for name, each in ledger.bundles.items() if each.began_at >= project.created_at}
    ledger = replace(ledger, bundles=mine)
    return _without(ledger, {name for name, each in ledger.problems.items() if each.heard_at < project.created_at})


def _without(ledger: Ledger, names: set[str] | frozenset[str]) -> Ledger:
    return replace(ledger, problems={name: each for name, each in ledger.problems.items() if name not in names})
