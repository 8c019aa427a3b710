"""What is told, what is not, and what is told again: one pure function of what was told so far.

Every alert is written in the transaction of its change; whether it is sent is decided here, once, before the first
attempt, and kept with the row. A problem is what firing and resolved alerts share by their `dedup_key`. It is told
when it begins and when it changes, again after an hour, then daily while it lasts, and once when it is over; and its
end is told if and only if its beginning was. docs/decisions/0019-quiet.md says why.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from keyvigil.domain.alerts import Alert, AlertStatus, AlertType, Severity
from keyvigil.domain.silences import Silence, mutes

FIRST_REMINDER = timedelta(hours=1)
NEXT_REMINDERS = timedelta(days=1)

OVER_KEPT = timedelta(days=1)
"""How long it is kept that a problem is over, so that an alert of it that comes late does not open it again."""

OVER_KEPT_MOST = 40
"""How many problems that are over are kept for one key: one that breaks every few minutes must not outgrow its item."""

NEWS_KEPT = 20
"""How much of what was told of one problem is kept, to tell it from what is new."""


class Why(StrEnum):
    """Why an alert is sent, or is not."""

    BEGINS = "it begins"
    CHANGED = "it changed"
    LASTS = "it lasts"
    OVER = "it is over"
    TOLD_BEFORE = "it was told before"
    OUTAGE = "the outage of its key says more"
    SILENCED = "it is silenced"
    NEVER_TOLD = "its beginning was never told"
    LATE = "it is over, which was told first"

    @property
    def sends(self) -> bool:
        """Whether the alert is sent."""
        return self in {Why.BEGINS, Why.CHANGED, Why.LASTS, Why.OVER, Why.LATE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, or was until a moment ago, and what was told of it.

    `row_id` is the outbox row whose alert is told again while it lasts. `told_at` is when it was told last, None if
    never; `unsaid` why the newest of it was not. `reminders` counts since the last news. `over_at` is when it ended.
    """

    dedup_key: str
    row_id: str
    type: AlertType
    severity: Severity
    key_id: str | None
    incident_id: str | None
    since: datetime
    heard_at: datetime
    sequence: int
    told_at: datetime | None = None
    reminders: int = 0
    news: tuple[str, ...] = ()
    unsaid: Why | None = None
    over_at: datetime | None = None

    @property
    def is_outage(self) -> bool:
        """Whether it is that the key itself does not work."""
        return self.incident_id is not None and self.dedup_key.endswith("/key")

    @property
    def next_at(self) -> datetime | None:
        """From when on there may be something to tell of it without anything new."""
        if self.over_at is not None:
            return None
        if self.unsaid is not None or self.told_at is None:
            return self.heard_at
        return self.told_at + (FIRST_REMINDER if self.reminders == 0 else NEXT_REMINDERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What was told about one key, by `dedup_key`; about KeyVigil itself if `project_id` and `key_id` are None."""

    project_id: str | None
    key_id: str | None
    problems: Mapping[str, Problem] = field(default_factory=dict)
    version: int = 0

    @property
    def next_at(self) -> datetime | None:
        """From when on a sweep must look at it."""
        return min((at for each in self.problems.values() if (at := each.next_at) is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retelling:
    """A problem whose alert is sent again: `why` says what for."""

    problem: Problem
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietDecision:
    """What is remembered now, whether the alert that came is sent (None if none came), and what is told again."""

    ledger: Ledger
    why: Why | None
    by: str | None = None
    retold: tuple[Retelling, ...] = ()


def decide_quiet(
    ledger: Ledger, alert: Alert | None, silences: Sequence[Silence], now: datetime, *, row_id: str | None = None
) -> QuietDecision:
    """Decide whether an alert that came is sent; or, if none came, what is told again because time went by.

    Args:
        ledger: what was told so far about the alert's key.
        alert: what came, None for a sweep.
        silences: those of the project; none for what goes to the operator.
        now: the time now.
        row_id: the outbox row of the alert.
    """
    if alert is None:
        return _sweep(ledger, silences, now)
    known = ledger.problems.get(alert.dedup_key)
    if known is not None and known.over_at is not None:
        # The sequence alone would take a key that was registered anew for one that comes late.
        if alert.sequence < known.sequence and alert.detected_at <= known.heard_at:
            return _late(ledger, known, alert, silences, now)
        if alert.status is AlertStatus.RESOLVED:
            return _after_the_end(ledger, known, alert)
        known = None
    if alert.status is AlertStatus.RESOLVED:
        return _resolve(ledger, known, alert, row_id or alert.alert_id, now)
    return _fire(ledger, known, alert, silences, row_id or alert.alert_id, now)


def _late(ledger: Ledger, known: Problem, alert: Alert, silences: Sequence[Silence], now: datetime) -> QuietDecision:
    """What was overtaken by its end is sent all the same, if that was: nothing is lost, and `sequence` sorts it.

    It does not open its problem again, so it is told once and no more.
    """
    if known.told_at is None:
        return QuietDecision(ledger=ledger, why=Why.NEVER_TOLD)
    muted, by = _muted(ledger, known, alert.type, alert.severity, silences, now)
    return QuietDecision(ledger=ledger, why=muted or Why.LATE, by=by)


def _after_the_end(ledger: Ledger, known: Problem, alert: Alert) -> QuietDecision:
    """What comes when all is over: who it was is still worth telling, if the outage was told; a second end is not."""
    if alert.type is AlertType.ACTOR_FOUND and known.told_at is not None:
        return QuietDecision(ledger=ledger, why=Why.CHANGED)
    return QuietDecision(ledger=ledger, why=Why.NEVER_TOLD if known.told_at is None else Why.TOLD_BEFORE)


def _resolve(ledger: Ledger, known: Problem | None, alert: Alert, row_id: str, now: datetime) -> QuietDecision:
    if known is None:
        # Nothing is known of its beginning: a version told it that kept no ledger. Its end must be told.
        over = _problem(alert, row_id, now)
        return QuietDecision(ledger=_with(ledger, replace(over, told_at=now, over_at=now), now), why=Why.OVER)
    over = replace(known, over_at=now, heard_at=alert.detected_at, sequence=alert.sequence, unsaid=None)
    why = Why.OVER if known.told_at is not None else Why.NEVER_TOLD
    return QuietDecision(ledger=_with(ledger, over, now), why=why)


def _fire(
    ledger: Ledger, known: Problem | None, alert: Alert, silences: Sequence[Silence], row_id: str, now: datetime
) -> QuietDecision:
    news = news_of(alert)
    problem = known or _problem(alert, row_id, now)
    heard = replace(
        problem,
        heard_at=max(problem.heard_at, alert.detected_at),
        sequence=max(problem.sequence, alert.sequence),
    )
    if alert.type is not AlertType.ACTOR_FOUND and (known is None or alert.sequence >= known.sequence):
        heard = replace(heard, row_id=row_id, type=alert.type, severity=alert.severity)
    if known is not None and news in known.news:
        return QuietDecision(ledger=_with(ledger, heard, now), why=Why.TOLD_BEFORE)
    heard = replace(heard, news=(*heard.news, news)[-NEWS_KEPT:])
    muted, by = _muted(ledger, heard, alert.type, alert.severity, silences, now)
    if muted is not None:
        # A sweep tells it when nothing mutes it any more, so that it is known from now on.
        return QuietDecision(ledger=_with(ledger, replace(heard, unsaid=muted), now), why=muted, by=by)
    why = Why.BEGINS if heard.told_at is None else Why.CHANGED
    told = replace(heard, told_at=now, reminders=0, unsaid=None)
    return QuietDecision(ledger=_with(ledger, told, now), why=why)


def _sweep(ledger: Ledger, silences: Sequence[Silence], now: datetime) -> QuietDecision:
    retold = []
    after = ledger
    for problem in sorted(ledger.problems.values(), key=lambda each: each.since):
        if problem.next_at is None or problem.next_at > now:
            continue
        if _muted(ledger, problem, problem.type, problem.severity, silences, now)[0] is not None:
            continue
        if problem.type is AlertType.CLUSTER_LOCKED and problem.told_at is not None and _outage(ledger, problem.key_id):
            continue  # the outage is told again, and lists the clusters that it locked
        if problem.unsaid is not None:
            why = Why.BEGINS if problem.told_at is None else Why.CHANGED
            told = replace(problem, told_at=now, reminders=0, unsaid=None)
        else:
            why = Why.LASTS
            told = replace(problem, told_at=now, reminders=problem.reminders + 1)
        retold.append(Retelling(problem=told, why=why))
        after = _with(after, told, now)
    return QuietDecision(ledger=after, why=None, retold=tuple(retold))


def _muted(
    ledger: Ledger,
    problem: Problem,
    kind: AlertType,
    severity: Severity,
    silences: Sequence[Silence],
    now: datetime,
) -> tuple[Why | None, str | None]:
    """What keeps an alert from being sent now, and which silence that is."""
    for silence in silences:
        if mutes(silence, kind, severity, problem.key_id, now):
            return Why.SILENCED, silence.silence_id
    # What belongs to the outage itself is never muted by it, and what is critical by nothing but a silence.
    if problem.incident_id is None and severity is Severity.WARNING and _outage(ledger, problem.key_id):
        return Why.OUTAGE, None
    return None, None


def _outage(ledger: Ledger, key_id: str | None) -> bool:
    """Whether an outage of the key stands that was told: one that is silenced says nothing for others."""
    return key_id is not None and any(
        each.is_outage and each.over_at is None and each.told_at is not None and each.key_id == key_id
        for each in ledger.problems.values()
    )


def news_of(alert: Alert) -> str:
    """What an alert says that one before it did not; the same again is no news.

    A notice is made when there is something new only, so each is news. Alerts of an incident are made at every
    settling: of them type, cause and, where they are about clusters, these count.
    """
    if alert.incident_id is None:
        return alert.alert_id
    parts = [str(alert.type), str(alert.cause.code)]
    if alert.dedup_key.endswith("/clusters"):
        parts += sorted(each.cluster_id for each in alert.clusters)
    return " ".join(parts)


def key_of(alert: Alert) -> str | None:
    """The registry's id of the key that an alert is about; None if it is about none."""
    return alert.dedup_key.split("/")[1] if alert.key is not None else None


def _problem(alert: Alert, row_id: str, now: datetime) -> Problem:
    return Problem(
        dedup_key=alert.dedup_key,
        row_id=row_id,
        type=alert.type,
        severity=alert.severity,
        key_id=key_of(alert),
        incident_id=alert.incident_id,
        since=now,
        heard_at=alert.detected_at,
        sequence=alert.sequence,
    )


def _with(ledger: Ledger, problem: Problem, now: datetime) -> Ledger:
    """The ledger with a problem as it is now, and without what is over for long."""
    problems = {**ledger.problems, problem.dedup_key: problem}
    return replace(ledger, problems={each.dedup_key: each for each in _kept(problems.values(), now)})


def _kept(problems: Iterable[Problem], now: datetime) -> list[Problem]:
    problems = list(problems)
    over = sorted(
        (each for each in problems if each.over_at is not None and now - each.over_at < OVER_KEPT),
        key=lambda each: each.over_at or now,
    )
    return [each for each in problems if each.over_at is None] + over[-OVER_KEPT_MOST:]
