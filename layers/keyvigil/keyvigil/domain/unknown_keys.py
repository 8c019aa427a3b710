"""Keys about which nothing has been found out for too long: that never locks, but somebody must hear of it."""

from dataclasses import replace
from datetime import datetime, timedelta

from keyvigil.domain.alerts import AlertCause, AlertStatus, AlertType, Notice, Severity
from keyvigil.domain.keys import Key
from keyvigil.domain.projects import Project
from keyvigil.domain.verdicts import Remediation

UNKNOWN_INTERVALS = 3
"""For how many of its intervals a key may be UNKNOWN before that is told: a throttled probe or two are not worth it."""


def watch_unknown(before: Key, after: Key, project: Project, now: datetime) -> tuple[Key, tuple[Notice, ...]]:
    """Tell once that a key has been UNKNOWN for three of its project's intervals, and once that an answer came."""
    del before  # what was told before is kept in the key
    since = after.health.unknown_since
    if since is None:
        return (replace(after, unknown_told=False), (_notice(after, since),)) if after.unknown_told else (after, ())
    lasted_enough = now - since >= timedelta(minutes=UNKNOWN_INTERVALS * project.check_interval_minutes)
    if after.unknown_told or not lasted_enough:
        return after, ()
    return replace(after, unknown_told=True), (_notice(after, since),)


def _notice(key: Key, since: datetime | None) -> Notice:
    verdict = key.verdict
    if since is None:
        status = AlertStatus.RESOLVED
        message = f"There is an answer about the key again: it is {verdict.outcome}. {verdict.message}"
        remediation = verdict.remediation or Remediation(summary="Nothing is to be done.")
    else:
        status = AlertStatus.FIRING
        message = f"Nothing could be found out about the key since {since:%Y-%m-%d %H:%M} UTC. {verdict.message}"
        remediation = verdict.remediation or Remediation(
            summary="Nothing is locked for it. See what keeps the probes from an answer."
        )
    return Notice(
        type=AlertType.KEY_UNKNOWN,
        status=status,
        severity=Severity.WARNING,
        subject="unknown",
        cause=AlertCause(
            code=verdict.cause,
            operation=verdict.operation,
            aws_error_code=verdict.aws_error_code,
            message=message,
        ),
        remediation=remediation,
    )
