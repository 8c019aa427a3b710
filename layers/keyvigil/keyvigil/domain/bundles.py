"""Outages of several keys of one project, with one cause, that begin within a minute: they are told as one.

The first is told at once and leads: all of it is told under its `dedup_key` and with its key's `sequence`. What the
others have to say that was not said yet, a further type or cause or who did it, is said at once; that more keys are hit
is said once, a minute after what was said last. It is resolved once, when the last of its keys works again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from keyvigil.domain.actors import Actor
from keyvigil.domain.alerts import (
    SCHEMA_VERSION,
    Alert,
    AlertCause,
    AlertKey,
    AlertRemediation,
    AlertStatus,
    AlertType,
    BundledKey,
    Severity,
    runbook,
)
from keyvigil.domain.incidents import AffectedCluster, listed
from keyvigil.domain.keys import Key

WINDOW = timedelta(minutes=1)
"""How long after the first others join, and how long it waits to say that more keys are hit."""

MOST_MEMBERS = 20
"""How many outages are told as one, which is also how many keys a project has. What comes then is told by itself."""

BUNDLES_OVER_KEPT = 10
"""How many that are over one project keeps, so that an alert that comes late is not taken for a new outage."""

OVER_KEPT = timedelta(days=1)

CLUSTERS_LISTED = 200
"""How many clusters of all its keys an alert lists, as many as there can be under one; `clusters_total` counts all."""

_RISING = list(Severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One key's outage. `type` and `severity` are those of its newest alert, `clusters` how many that was about."""

    dedup_key: str
    key_id: str
    key: AlertKey
    incident_id: str
    type: AlertType
    severity: Severity
    clusters: int
    over_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Outages that are told as one, by their `dedup_key`; of one only, as long as no other joined it.

    `due_at` is from when on there is more to say, None if all is said. `news` is what was said.
    """

    dedup_key: str
    cause: str
    began_at: datetime
    told_at: datetime
    sequence: int
    members: Mapping[str, Member] = field(default_factory=dict)
    news: tuple[str, ...] = ()
    due_at: datetime | None = None
    reminders: int = 0
    over_at: datetime | None = None

    @property
    def first(self) -> Member:
        """The one that leads."""
        return self.members[self.dedup_key]

    @property
    def joined(self) -> bool:
        """Whether it is more than one outage, so that none of them is told by itself any more."""
        return len(self.members) > 1

    @property
    def lasting(self) -> tuple[Member, ...]:
        """Those that are not over, the first one first."""
        ordered = sorted(self.members.values(), key=lambda each: (each.dedup_key != self.dedup_key, each.dedup_key))
        return tuple(each for each in ordered if each.over_at is None)

    @property
    def worst(self) -> Member:
        """Of those that last, one that is as bad as any; the first one if none lasts."""
        return max(self.lasting or (self.first,), key=lambda each: _RISING.index(each.severity))

    def takes(self, key_id: str, cause: str, now: datetime) -> bool:
        """Whether a key's outage that begins now is told with it. A further outage of one of its keys is not."""
        room = len(self.members) < MOST_MEMBERS and bool(self.lasting)
        other = all(each.key_id != key_id for each in self.members.values())
        return room and other and self.cause == cause and now - self.began_at < WINDOW

    def as_listed(self) -> tuple[BundledKey, ...]:
        """Its keys as alerts list them, the first one first."""
        ordered = sorted(self.members.values(), key=lambda each: (each.dedup_key != self.dedup_key, each.dedup_key))
        return tuple(
            BundledKey(
                arn=each.key.arn,
                region=each.key.region,
                account_id=each.key.account_id,
                alias=each.key.alias,
                incident_id=each.incident_id,
                status=AlertStatus.FIRING if each.over_at is None else AlertStatus.RESOLVED,
                clusters=each.clusters,
            )
            for each in ordered
        )

    def said(self, now: datetime, *news: str) -> "Bundle":
        """It, when everything about it was told just now."""
        return replace(self, told_at=now, due_at=None, reminders=0, news=(*self.news, *news))

    def with_more_to_say(self, now: datetime) -> "Bundle":
        """It, when there is something to add that can wait."""
        return replace(self, due_at=self.due_at or max(self.told_at + WINDOW, now))

    def with_member(self, member: Member) -> "Bundle":
        """It, with a member as that is now."""
        return replace(self, members={**self.members, member.dedup_key: member})

    def without(self, names: frozenset[str], now: datetime) -> "Bundle":
        """It, when some of its outages are over; with the last of them it is over itself."""
        members = {
            name: replace(each, over_at=each.over_at or now) if name in names else each
            for name, each in self.members.items()
        }
        last = all(each.over_at is not None for each in members.values())
        return replace(self, members=members, over_at=now if last else None, due_at=None if last else self.due_at)


def begun_by(alert: Alert, member: Member, now: datetime) -> Bundle:
    """A bundle of one, which others may join."""
    return Bundle(
        dedup_key=alert.dedup_key,
        cause=str(alert.cause.code),
        began_at=now,
        told_at=now,
        sequence=alert.sequence,
        members={member.dedup_key: member},
        news=(said_by(alert),),
    )


def can_be_bundled(alert: Alert) -> bool:
    """Whether it tells of a key's outage. Alerts about clusters name other clusters for each key, and stay apart."""
    return alert.key is not None and alert.incident_id is not None and alert.dedup_key.endswith("/key")


def said_by(alert: Alert) -> str:
    """What an alert says that another of the same bundle may have said already."""
    who = f" {alert.actor.arn} {alert.actor.event_name}" if alert.type is AlertType.ACTOR_FOUND and alert.actor else ""
    return f"{alert.type} {alert.cause.code}{who}"


def of_alert(alert: Alert) -> Member:
    """The member that an alert makes.

    Raises:
        ValueError: it tells of no key's outage.
    """
    if alert.key is None or alert.incident_id is None:
        message = f"alert {alert.alert_id} tells of no key's outage"
        raise ValueError(message)
    return Member(
        dedup_key=alert.dedup_key,
        key_id=alert.dedup_key.split("/")[1],
        key=alert.key,
        incident_id=alert.incident_id,
        type=alert.type,
        severity=alert.severity,
        clusters=len(alert.clusters),
    )


def spoken_for(bundle: Bundle, alert: Alert, sequence: int) -> Alert:
    """An alert of one member as the whole bundle tells it."""
    over = bundle.over_at is not None
    severity = Severity.INFO if over else alert.severity
    if not over and alert.status is AlertStatus.RESOLVED:
        severity = Severity.WARNING
    return replace(
        alert,
        dedup_key=bundle.dedup_key,
        sequence=sequence,
        key=bundle.first.key,
        incident_id=bundle.first.incident_id,
        status=AlertStatus.RESOLVED if over else AlertStatus.FIRING,
        severity=severity,
        keys=bundle.as_listed(),
    )


def kept(bundles: Mapping[str, Bundle], now: datetime) -> dict[str, Bundle]:
    """Those that still matter: what nobody can join any more and nobody joined is told by itself."""
    live = [each for each in bundles.values() if each.over_at is None and (each.joined or now - each.began_at < WINDOW)]
    over = sorted(
        (each for each in bundles.values() if each.over_at is not None and now - each.over_at < OVER_KEPT),
        key=lambda each: each.over_at or now,
    )
    return {each.dedup_key: each for each in (*live, *over[-BUNDLES_OVER_KEPT:])}


def told_again(
    bundle: Bundle,
    keys: Sequence[Key],
    clusters: Sequence[AffectedCluster],
    actor: Actor | None,
    *,
    alert_id: str,
    sequence: int,
    project_id: str,
    now: datetime,
) -> Alert:
    """An alert of a bundle as it stands now: that more keys were hit, that they still are, or that none is watched.

    Args:
        bundle: what it is about.
        keys: those of its keys that last, as they are now.
        clusters: the first of those that depend on them.
        actor: who brought it about, if that was found.
        alert_id: a new ULID.
        sequence: the next of its first key.
        project_id: whose keys they are.
        now: the time now.
    """
    over, worst = bundle.over_at is not None, bundle.worst
    remedies = [each.verdict.remediation for each in keys if each.verdict.remediation is not None]
    commands = tuple(dict.fromkeys(command for each in remedies for command in each.commands))
    names = listed([each.key_arn for each in keys])
    message = (
        "None of the keys is under watch any more."
        if over
        else f"{len(bundle.members)} keys of this project failed with {bundle.cause} within a minute; "
        f"these still do: {names}."
    )
    summary = next((each.summary for each in remedies), "Nothing is to be done.")
    kind = AlertType.KEY_RECOVERED if over else worst.type
    verdict = keys[0].verdict if keys and not over else None
    return Alert(
        schema_version=SCHEMA_VERSION,
        alert_id=alert_id,
        dedup_key=bundle.dedup_key,
        sequence=sequence,
        type=kind,
        severity=Severity.INFO if over else worst.severity,
        status=AlertStatus.RESOLVED if over else AlertStatus.FIRING,
        project_id=project_id,
        key=bundle.first.key,
        incident_id=bundle.first.incident_id,
        cause=AlertCause(
            code=None if over else bundle.cause,
            operation=verdict.operation if verdict is not None else None,
            aws_error_code=verdict.aws_error_code if verdict is not None else None,
            message=message,
        ),
        actor=None if over else actor,
        clusters=tuple(clusters),
        remediation=AlertRemediation(summary=summary, commands=commands, runbook=runbook(kind)),
        occurred_at=now if over else bundle.began_at,
        detected_at=now,
        keys=bundle.as_listed(),
    )
