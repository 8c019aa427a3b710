"""What is told, what is not, and what is told again: one pure function of what was told so far.

Every alert is written in the transaction of its change; whether it is sent is decided here, once, before the first
attempt, and kept with the row. A problem is what firing and resolved alerts share by their `dedup_key`. It is told
when it begins and when it changes, again after an hour, then daily while it lasts, and once when it is over; and its
end is told if and only if its beginning was. Outages of several keys of one project are told as one
(domain/bundles.py). docs/decisions/0019-quiet.md says why.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from keyvigil.domain import bundles
from keyvigil.domain.alerts import Alert, AlertStatus, AlertType, Severity
from keyvigil.domain.bundles import Bundle
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
    TOGETHER = "it is told together with other keys"

    @property
    def sends(self) -> bool:
        """Whether the alert is sent."""
        return self in {Why.BEGINS, Why.CHANGED, Why.LASTS, Why.OVER, Why.LATE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, or was until a moment ago, and what was told of it.

    `row_id` is the outbox row whose alert is told again while it lasts. `told_at` is when it was told last, None if
    never; `unsaid` why the newest of it was not. `reminders` counts since the last news. `over_at` is when it ended.
    `together` says that others speak for it, under a `dedup_key` that is not its own.
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
    together: bool = False

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
    """What was told about one key, by `dedup_key`; about KeyVigil itself if `project_id` and `key_id` are None.

    That of a project, without a `key_id`, has what is told of several keys as one, and no problems.
    """

    project_id: str | None
    key_id: str | None
    problems: Mapping[str, Problem] = field(default_factory=dict)
    bundles: Mapping[str, Bundle] = field(default_factory=dict)
    version: int = 0

    @property
    def next_at(self) -> datetime | None:
        """From when on a sweep must look at it."""
        each_at = [each.next_at for each in self.problems.values()] + [next_of(each) for each in self.bundles.values()]
        return min((at for at in each_at if at is not None), default=None)

    @property
    def told_together(self) -> frozenset[str]:
        """The problems that are not told by themselves."""
        return frozenset(name for each in self.bundles.values() if each.joined for name in each.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retelling:
    """A problem whose alert is sent again: `why` says what for."""

    problem: Problem
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRetelling:
    """Several keys of which there is more to say, or which are told again."""

    bundle: Bundle
    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietDecision:
    """What is remembered now, whether the alert that came is sent (None if none came), and what is told again.

    `shared` is the project's ledger if that changes; `bundle` for what the alert that is sent speaks, if for several.
    """

    ledger: Ledger
    why: Why | None
    by: str | None = None
    retold: tuple[Retelling, ...] = ()
    shared: Ledger | None = None
    bundle: Bundle | None = None
    retold_together: tuple[BundleRetelling, ...] = ()


def decide_quiet(
    ledger: Ledger,
    alert: Alert | None,
    silences: Sequence[Silence],
    now: datetime,
    *,
    row_id: str | None = None,
    shared: Ledger | None = None,
) -> QuietDecision:
    """Decide whether an alert that came is sent; or, if none came, what is told again because time went by.

    Args:
        ledger: what was told so far about the alert's key.
        alert: what came, None for a sweep.
        silences: those of the project; none for what goes to the operator.
        now: the time now.
        row_id: the outbox row of the alert.
        shared: the ledger of the alert's project; without one each key is told by itself.
    """
    if alert is None:
        return _sweep(ledger, silences, now, shared.told_together if shared is not None else frozenset())
    row_id = row_id or alert.alert_id
    if shared is None or not bundles.can_be_bundled(alert):
        return _by_itself(ledger, alert, silences, now, row_id)
    mine = next((each for each in shared.bundles.values() if alert.dedup_key in each.members), None)
    if mine is not None and mine.joined:
        return _within(_Bundled(ledger, shared, mine), alert, silences, now, row_id)
    return _perhaps_joining(_by_itself(ledger, alert, silences, now, row_id), shared, mine, alert, now)


def _by_itself(ledger: Ledger, alert: Alert, silences: Sequence[Silence], now: datetime, row_id: str) -> QuietDecision:
    known = ledger.problems.get(alert.dedup_key)
    if known is not None and known.over_at is not None:
        # The sequence alone would take a key that was registered anew for one that comes late.
        if alert.sequence < known.sequence and alert.detected_at <= known.heard_at:
            return _late(ledger, known, alert, silences, now)
        if alert.status is AlertStatus.RESOLVED:
            return _after_the_end(ledger, known, alert)
        known = None
    if alert.status is AlertStatus.RESOLVED:
        return _resolve(ledger, known, alert, row_id, now)
    return _fire(ledger, known, alert, silences, row_id, now)


@dataclass(frozen=True, slots=True)
class _Bundled:
    """An outage's ledger, its project's, and the bundle that the outage is in."""

    ledger: Ledger
    shared: Ledger
    bundle: Bundle

    def kept(self, bundle: Bundle, problem: Problem | None, now: datetime) -> tuple[Ledger, Ledger]:
        """Both ledgers with the bundle and the problem as they are now."""
        ledger = self.ledger if problem is None else _with(self.ledger, problem, now)
        return ledger, _with_bundle(self.shared, bundle, now)


def _perhaps_joining(
    decision: QuietDecision, shared: Ledger, mine: Bundle | None, alert: Alert, now: datetime
) -> QuietDecision:
    """An outage that is told by itself, or joins one that began a moment ago."""
    if mine is not None:
        if decision.why is Why.OVER and alert.type is not AlertType.ACTOR_FOUND:
            left = {name: each for name, each in shared.bundles.items() if name != mine.dedup_key}
            return replace(decision, shared=replace(shared, bundles=left))
        if decision.why is not None and decision.why.sends and alert.status is AlertStatus.FIRING:
            own = mine.with_member(bundles.of_alert(alert)) if alert.type is not AlertType.ACTOR_FOUND else mine
            own = replace(own.said(now, bundles.said_by(alert)), sequence=max(own.sequence, alert.sequence))
            return replace(decision, shared=_with_bundle(shared, own, now))
        return decision
    if decision.why is not Why.BEGINS or alert.type is AlertType.ACTOR_FOUND:
        return decision
    member, cause = bundles.of_alert(alert), str(alert.cause.code)
    first = next((each for each in shared.bundles.values() if each.takes(member.key_id, cause, now)), None)
    if first is None:
        return replace(decision, shared=_with_bundle(shared, bundles.begun_by(alert, member, now), now))
    both, news = first.with_member(member), bundles.said_by(alert)
    problem = decision.ledger.problems[alert.dedup_key]
    decision = replace(decision, ledger=_with(decision.ledger, replace(problem, together=True), now))
    if news in both.news:
        waiting = both.with_more_to_say(now)
        return replace(decision, why=Why.TOGETHER, by=first.dedup_key, shared=_with_bundle(shared, waiting, now))
    both = both.said(now, news)
    return replace(decision, why=Why.CHANGED, shared=_with_bundle(shared, both, now), bundle=both)


def _within(here: _Bundled, alert: Alert, silences: Sequence[Silence], now: datetime, row_id: str) -> QuietDecision:
    """What comes of an outage that is told together with others: none of it is told by itself."""
    member = here.bundle.members[alert.dedup_key]
    known = here.ledger.problems.get(alert.dedup_key) or _problem(alert, row_id, now)
    if alert.type is AlertType.ACTOR_FOUND:
        return _said_together(here, here.bundle, None, alert, silences, now)
    if alert.status is AlertStatus.RESOLVED:
        if member.over_at is not None:
            return QuietDecision(ledger=here.ledger, why=Why.TOLD_BEFORE)
        over = replace(known, over_at=now, heard_at=alert.detected_at, sequence=alert.sequence, unsaid=None)
        left = here.bundle.without(frozenset({alert.dedup_key}), now)
        ledger, shared = here.kept(left, over, now)
        if left.over_at is None:
            return QuietDecision(ledger=ledger, why=Why.TOGETHER, by=left.dedup_key, shared=shared)
        return QuietDecision(ledger=ledger, why=Why.OVER, shared=shared, bundle=left)
    if member.over_at is not None:
        return QuietDecision(ledger=here.ledger, why=Why.TOGETHER, by=here.bundle.dedup_key)
    bundle = here.bundle
    heard = replace(known, heard_at=max(known.heard_at, alert.detected_at), told_at=now, reminders=0, unsaid=None)
    if alert.sequence >= known.sequence:
        heard = replace(heard, row_id=row_id, type=alert.type, severity=alert.severity, sequence=alert.sequence)
        bundle = bundle.with_member(bundles.of_alert(alert))
    news = news_of(alert)
    if news in known.news:
        ledger, shared = here.kept(bundle, heard, now)
        return QuietDecision(ledger=ledger, why=Why.TOLD_BEFORE, shared=shared)
    heard = replace(heard, news=(*heard.news, news)[-NEWS_KEPT:])
    return _said_together(here, bundle, heard, alert, silences, now)


def _said_together(
    here: _Bundled, bundle: Bundle, problem: Problem | None, alert: Alert, silences: Sequence[Silence], now: datetime
) -> QuietDecision:
    """Say at once what no key of the bundle said yet; that one more says the same can wait."""
    news = bundles.said_by(alert)
    if news in bundle.news:
        waiting = bundle if problem is None else bundle.with_more_to_say(now)
        ledger, shared = here.kept(waiting, problem, now)
        return QuietDecision(ledger=ledger, why=Why.TOGETHER, by=bundle.dedup_key, shared=shared)
    key_id = bundle.members[alert.dedup_key].key_id
    by = next((each for each in silences if mutes(each, alert.type, alert.severity, key_id, now)), None)
    if by is not None:
        # A silence of all keys is asked again when it is to be said; one of this key only ends then.
        later = replace(bundle, due_at=bundle.due_at or (now if by.key_id is None else by.until))
        ledger, shared = here.kept(bundle if problem is None else later, problem, now)
        return QuietDecision(ledger=ledger, why=Why.SILENCED, by=by.silence_id, shared=shared)
    said = bundle.said(now, news) if bundle.over_at is None else replace(bundle, news=(*bundle.news, news))
    ledger, shared = here.kept(said, problem, now)
    return QuietDecision(ledger=ledger, why=Why.CHANGED, shared=shared, bundle=said)


def _late(ledger: Ledger, known: Problem, alert: Alert, silences: Sequence[Silence], now: datetime) -> QuietDecision:
    """What was overtaken by its end is sent all the same, if that was: nothing is lost, and `sequence` sorts it.

    It does not open its problem again, so it is told once and no more.
    """
    if known.told_at is None:
        return QuietDecision(ledger=ledger, why=Why.NEVER_TOLD)
    if known.together:
        # Its end was told under another key's `dedup_key`: under its own, nothing would ever resolve it.
        return QuietDecision(ledger=ledger, why=Why.TOGETHER)
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


def _sweep(ledger: Ledger, silences: Sequence[Silence], now: datetime, told_together: frozenset[str]) -> QuietDecision:
    retold = []
    after = ledger
    for problem in sorted(ledger.problems.values(), key=lambda each: each.since):
        if problem.next_at is None or problem.next_at > now:
            continue
        if problem.dedup_key in told_together:
            after = _with(after, replace(problem, told_at=now, reminders=problem.reminders + 1, unsaid=None), now)
            continue  # its bundle is told again, and lists it
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
    together = []
    for bundle in ledger.bundles.values():
        at, worst = next_of(bundle), bundle.worst
        if at is None or at > now or any(mutes(each, worst.type, worst.severity, None, now) for each in silences):
            continue
        said = bundle.said(now)
        if bundle.due_at is None:
            said = replace(said, reminders=bundle.reminders + 1)
        together.append(BundleRetelling(bundle=said, why=Why.CHANGED if bundle.due_at is not None else Why.LASTS))
        after = _with_bundle(after, said, now)
    return QuietDecision(ledger=after, why=None, retold=tuple(retold), retold_together=tuple(together))


def next_of(bundle: Bundle) -> datetime | None:
    """From when on there is something to tell of several keys without anything new."""
    if bundle.over_at is not None or not bundle.joined:
        return None
    reminder = bundle.told_at + (FIRST_REMINDER if bundle.reminders == 0 else NEXT_REMINDERS)
    return reminder if bundle.due_at is None else min(bundle.due_at, reminder)


def _with_bundle(shared: Ledger, bundle: Bundle, now: datetime) -> Ledger:
    return replace(shared, bundles=bundles.kept({**shared.bundles, bundle.dedup_key: bundle}, now))


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
