"""Slow dangers: what will break a key, or leave a gap, later. Told early, once for each step, and once when mended.

Every danger is seen by a pure function of the key, what the last probe showed of it, and the time. What it sees is a
`Danger`, that there is none any more (`Mended`), or None: nothing was found out, which neither tells nor resolves.
`tell` holds what is seen against what was told last.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from keyvigil.domain.alerts import AlertCause, AlertStatus, AlertType, Notice, Severity
from keyvigil.domain.arns import is_multi_region, related_key_arn
from keyvigil.domain.aws_commands import KeyCommands
from keyvigil.domain.keys import Key, Told, is_stale
from keyvigil.domain.projects import Project
from keyvigil.domain.verdicts import Remediation

DELETION_DAYS = (14, 7, 3, 1)
"""How many days before its end a scheduled deletion is told of again, after it was told of at once."""

DELETION_CRITICAL_DAYS = 7
"""From how many days before its end a deletion is critical. It is the shortest waiting period that KMS knows.

Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_ScheduleKeyDeletion.html
"""

MATERIAL_DAYS = (30, 14, 7, 3, 1)
"""How many days before imported key material expires this is told."""

MATERIAL_CRITICAL_DAYS = 3
"""From how many days before it expires imported material is critical: the same material brings it back at any time."""

OVERDUE_AFTER = timedelta(days=7)
"""How long after its NextRotationDate a rotation that has not happened is overdue.

KMS calls that "the next date that KMS will automatically rotate the key material" and rotates in the background; it
publishes no tolerance, so a week is ours.
Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_GetKeyRotationStatus.html
"""

SCHEDULED = "scheduled"
STALE = "stale"
REPLICA = "replica/"
_NOTHING_TO_DO = Remediation(summary="Nothing is to be done.")
_USABLE_STATES = frozenset({None, "Enabled", "Updating"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Danger:
    """A danger as it stands now.

    `what` tells one danger of a kind from the next: a deletion at another date is another one, and is told afresh.
    `step` is one of `steps`, which come in this order; only what is further on than what was told is told.
    """

    what: str
    step: str
    steps: tuple[str, ...]
    severity: Severity
    code: str
    message: str
    remediation: Remediation


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """There is no such danger (any more)."""

    message: str


type Seen = Danger | Mended | None


def tell(
    kind: AlertType, subject: str, told: Told | None, seen: Seen, now: datetime
) -> tuple[Told | None, Notice | None]:
    """Hold what is seen of a danger against what was told of it: what is remembered now, and what is to be told.

    Each step is told at most once, and what passed unseen is skipped: one alert, of the step that holds now. A step
    that is told already is not told again if a clock was ahead and goes back.
    """
    match seen:
        case None:
            return told, None
        case Mended(message=message):
            if told is None:
                return None, None
            over = AlertCause(code=None, operation=None, aws_error_code=None, message=message)
            return None, Notice(
                type=kind,
                status=AlertStatus.RESOLVED,
                severity=Severity.INFO,
                subject=subject,
                cause=over,
                remediation=_NOTHING_TO_DO,
            )
        case Danger():
            if told is not None and told.what == seen.what and not _is_further(seen, told.step):
                return told, None
            cause = AlertCause(code=seen.code, operation=None, aws_error_code=None, message=seen.message)
            return Told(what=seen.what, step=seen.step, at=now), Notice(
                type=kind,
                status=AlertStatus.FIRING,
                severity=seen.severity,
                subject=subject,
                cause=cause,
                remediation=seen.remediation,
            )


def _is_further(seen: Danger, told: str) -> bool:
    """Whether the step is later than the one that was told. One that another version told is not known: told again."""
    return told not in seen.steps or seen.steps.index(seen.step) > seen.steps.index(told)


def see_deletion(key: Key, now: datetime) -> Seen:
    """A deletion that is scheduled.

    The primary of a multi-Region key that has replicas waits for their deletion, and has no date until then.
    Source: https://docs.aws.amazon.com/kms/latest/developerguide/multi-region-keys-delete.html
    """
    date = key.facts.deletion_date
    steps = (SCHEDULED, *map(str, DELETION_DAYS))
    if date is None and key.facts.key_state != "PendingReplicaDeletion":
        return Mended(message=f"The key {key.key_arn} is not going to be deleted any more.")
    at = f"--region {key.region} --key-id {key.key_arn}"
    unless = ", unless a related multi-Region key is left" if is_multi_region(key.key_arn) else ""
    if date is None:
        step, what, severity, when = SCHEDULED, "no date", Severity.WARNING, " when its last replica is gone"
    else:
        step, what = _step(date - now, DELETION_DAYS) or SCHEDULED, _moment(date)
        near = date - now <= timedelta(days=DELETION_CRITICAL_DAYS)
        severity = Severity.CRITICAL if near else Severity.WARNING
        when = f" on {date.astimezone(UTC):%Y-%m-%d at %H:%M} UTC, {_in_days(date - now)}"
    return Danger(
        what=what,
        step=step,
        steps=steps,
        severity=severity,
        code="DELETION_SCHEDULED",
        message=(
            f"The key {key.key_arn} is going to be deleted{when}. It cannot be used until then, and nothing that was "
            f"encrypted under it can be read afterwards{unless}."
        ),
        remediation=Remediation(
            summary="Cancel the deletion, then enable the key: a cancelled deletion leaves it disabled.",
            commands=(f"aws kms cancel-key-deletion {at}", f"aws kms enable-key {at}"),
        ),
    )


def see_expiry(key: Key, now: datetime) -> Seen:
    """Imported key material that expires.

    A key whose material is gone (PendingImport) is an outage, which is told as such: the danger came true and is not
    mended.
    Source: https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-import-key-material.html
    """
    date = key.facts.material_expires_at
    if key.facts.key_state == "PendingImport":
        return None
    step = _step(date - now, MATERIAL_DAYS) if date is not None else None
    if date is None or step is None:
        return Mended(message=f"The imported key material of {key.key_arn} does not expire soon any more.")
    near = date - now <= timedelta(days=MATERIAL_CRITICAL_DAYS)
    return Danger(
        what=_moment(date),
        step=step,
        steps=tuple(map(str, MATERIAL_DAYS)),
        severity=Severity.CRITICAL if near else Severity.WARNING,
        code="MATERIAL_EXPIRING",
        message=(
            f"The imported key material of {key.key_arn} expires on {date.astimezone(UTC):%Y-%m-%d at %H:%M} UTC, "
            f"{_in_days(date - now)}. The key cannot be used without it."
        ),
        remediation=Remediation(
            summary=(
                "Import the same key material again, from a file key-material.bin; other material will not open the "
                "old data."
            ),
            commands=KeyCommands(key.key_arn, key.region).import_material(),
        ),
    )


def see_rotation(key: Key, now: datetime) -> Seen:
    """Automatic rotation that is off, or has not happened when it should have.

    Only a key that can be used is looked at: while it is pending deletion KMS says that rotation is off, and a
    disabled one is not rotated.
    Source: https://docs.aws.amazon.com/kms/latest/APIReference/API_GetKeyRotationStatus.html
    """
    rotation = key.facts.closer.rotation if key.facts.closer else None
    if rotation is None or key.facts.key_state not in _USABLE_STATES:
        return None
    # Related multi-Region keys share it, and it is set on the primary.
    region = key.facts.primary_region or key.region
    at = f"--region {region} --key-id {related_key_arn(key.key_arn, region)}"
    if not rotation.enabled:
        return Danger(
            what="off",
            step="off",
            steps=("off",),
            severity=Severity.WARNING,
            code="ROTATION_OFF",
            message=f"Automatic rotation of the key {key.key_arn} is off.",
            remediation=Remediation(
                summary="Enable automatic rotation. Old data stays readable: KMS keeps the old key material.",
                commands=(f"aws kms enable-key-rotation {at}",),
            ),
        )
    if rotation.next_at is not None and now - rotation.next_at > OVERDUE_AFTER:
        return Danger(
            what="overdue",
            step="overdue",
            steps=("overdue",),
            severity=Severity.WARNING,
            code="ROTATION_OVERDUE",
            message=(
                f"The key {key.key_arn} was to be rotated on {rotation.next_at.astimezone(UTC):%Y-%m-%d}, and was not."
            ),
            remediation=Remediation(
                summary="Rotate the key now, and ask AWS Support why its automatic rotation did not happen.",
                commands=(f"aws kms rotate-key-on-demand {at}",),
            ),
        )
    return Mended(message=f"The key {key.key_arn} is rotated automatically again.")


def see_alias(key: Key, _now: datetime) -> Seen:
    """An alias by which the key was registered, and which stands for another key now, or for none."""
    alias = key.facts.closer.alias if key.facts.closer else None
    if key.alias_arn is None or alias is None:
        return None
    if alias.key_arn == key.key_arn:
        return Mended(message=f"The alias {key.alias_arn} stands for the key {key.key_arn} again.")
    name = key.alias_arn.split(":", 5)[5]
    command = "update-alias" if alias.key_arn else "create-alias"
    became = f"now stands for {alias.key_arn}" if alias.key_arn else "is gone"
    return Danger(
        what=alias.key_arn or "gone",
        step="moved",
        steps=("moved",),
        severity=Severity.WARNING,
        code="ALIAS_MOVED",
        message=(
            f"The alias {key.alias_arn} {became}. {key.key_arn}, which it stood for at registration, is still the key "
            "that is watched; what asks for the alias uses it no more."
        ),
        remediation=Remediation(
            summary="Move the alias back; or, if it was meant to move, register the key that it stands for now.",
            commands=(
                (
                    f"aws kms {command} --region {key.region} --alias-name {name} "
                    f"--target-key-id {key.key_arn.rsplit('/', 1)[-1]}"
                ),
            ),
        ),
    )


def see_replica(key: Key, region: str) -> Seen:
    """A Region in which backups are to be restorable, and in which the key has no replica."""
    if not key.backups.get(region) or region == key.region:
        return Mended(message=f"No backup needs the key {key.key_arn} in {region} any more.")
    if is_multi_region(key.key_arn) and region in key.facts.regions:
        return Mended(message=f"The key {key.key_arn} has a replica in {region} now.")
    reason, remediation = missing_in(key, region)
    count = key.backups[region]
    return Danger(
        what="missing",
        step="missing",
        steps=("missing",),
        severity=Severity.WARNING,
        code="REPLICA_MISSING",
        message=f"{count} {'backup is' if count == 1 else 'backups are'} to be restorable in {region}. {reason}",
        remediation=remediation,
    )


def missing_in(key: Key, region: str) -> tuple[str, Remediation]:
    """Why nothing can be restored with this key in another Region, and what would let it.

    Source: https://docs.aws.amazon.com/kms/latest/developerguide/multi-region-keys-overview.html
    """
    if not is_multi_region(key.key_arn):
        return (
            (
                f"The key {key.key_arn} is a single-Region key: it exists in {key.region} only, and cannot be moved or "
                "made a multi-Region key."
            ),
            Remediation(
                summary=(
                    f"Register a key of {region}, and copy the backups there re-encrypted under it; then register "
                    "the copies."
                ),
            ),
        )
    primary = key.facts.primary_region or key.region
    return (
        f"The key {key.key_arn} is a multi-Region key without a replica in {region}.",
        Remediation(
            summary=(
                f"Replicate the key to {region}, and let its role use the replica, which has a key policy of its own."
            ),
            commands=(
                (
                    f"aws kms replicate-key --region {primary} --key-id {related_key_arn(key.key_arn, primary)} "
                    f"--replica-region {region}"
                ),
            ),
        ),
    )


_WATCHED: tuple[tuple[AlertType, str, Callable[[Key, datetime], Seen]], ...] = (
    (AlertType.KEY_DELETION_SCHEDULED, "deletion", see_deletion),
    (AlertType.KEY_MATERIAL_EXPIRING, "material", see_expiry),
    (AlertType.KEY_ROTATION_DISABLED, "rotation", see_rotation),
    (AlertType.KEY_ALIAS_MOVED, "alias", see_alias),
)


def watch_dangers(_before: Key, after: Key, _project: Project, now: datetime) -> tuple[Key, tuple[Notice, ...]]:
    """Every slow danger to a key: the key with what is remembered of them, and what is to be told."""
    seen = [(kind, subject, see(after, now)) for kind, subject, see in _WATCHED]
    regions = {*after.backups, *(each.removeprefix(REPLICA) for each in after.told if each.startswith(REPLICA))}
    seen += [(AlertType.KEY_REPLICA_MISSING, f"{REPLICA}{each}", see_replica(after, each)) for each in sorted(regions)]
    told, notices = dict(after.told), []
    for kind, subject, each in seen:
        notice = _remember(told, kind, subject, each, now)
        if notice is not None:
            notices.append(notice)
    return _with(after, told), tuple(notices)


def see_stale(key: Key, project: Project, now: datetime) -> Seen:
    """A key that was not probed for too long: KeyVigil knows nothing of it."""
    if not is_stale(key.last_probed_at, project.check_interval_minutes, now):
        return Mended(message=f"The key {key.key_arn} was probed again.")
    return Danger(
        what=STALE,
        step=STALE,
        steps=(STALE,),
        severity=Severity.CRITICAL,
        code="NOT_PROBED",
        message=(
            f"The key {key.key_arn} was not probed since {key.last_probed_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC, "
            f"although its interval is {project.check_interval_minutes} minutes: nothing is known about it."
        ),
        remediation=Remediation(
            summary="Look at the alarms and the log of check-keys, and at the check queue and its dead letters."
        ),
    )


def watch_staleness(_before: Key, after: Key, project: Project, now: datetime) -> tuple[Key, tuple[Notice, ...]]:
    """The end of a key's staleness. Its beginning happens when no probe does, so the sweep tells of it."""
    if STALE not in after.told:
        return after, ()
    return tell_stale(after, project, now)


def tell_stale(key: Key, project: Project, now: datetime) -> tuple[Key, tuple[Notice, ...]]:
    """The key with what is remembered of its staleness, and what is to be told of it."""
    told = dict(key.told)
    notice = _remember(told, AlertType.KEY_STALE, STALE, see_stale(key, project, now), now)
    return _with(key, told), (notice,) if notice is not None else ()


def _remember(told: dict[str, Told], kind: AlertType, subject: str, seen: Seen, now: datetime) -> Notice | None:
    remembered, notice = tell(kind, subject, told.get(subject), seen, now)
    if remembered is None:
        told.pop(subject, None)
    else:
        told[subject] = remembered
    return notice


def _with(key: Key, told: Mapping[str, Told]) -> Key:
    return key if told == key.told else replace(key, told=told)


def _step(left: timedelta, days: tuple[int, ...]) -> str | None:
    """The last of the steps, in falling order, that has come; None if none has."""
    reached = [each for each in days if left <= timedelta(days=each)]
    return str(reached[-1]) if reached else None


def _in_days(left: timedelta) -> str:
    if left < timedelta(0):
        return "which is past"
    days = left // timedelta(days=1)
    if days == 0:
        return "in less than a day"
    return "in 1 day" if days == 1 else f"in {days} days"


def _moment(date: datetime) -> str:
    """A date as its own name: to the second, whatever zone it is told in."""
    return date.astimezone(UTC).isoformat(timespec="seconds")
