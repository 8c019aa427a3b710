"""What answers look like, field by field as in contract.md."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from keyvigil.adapters.plain_data import to_plain
from keyvigil.domain.backups import Backup, Restorability
from keyvigil.domain.brake import Brake
from keyvigil.domain.canaries import Canary, outcome_now, vouches_now
from keyvigil.domain.clusters import Cluster
from keyvigil.domain.incidents import TIMELINE_SHOWN, Incident, TimelineEntry
from keyvigil.domain.keys import Key, is_stale
from keyvigil.domain.projects import Project, Subscription
from keyvigil.domain.quiet import Problem
from keyvigil.domain.silences import Silence
from keyvigil.ports import Page, ValidationAnswer
from keyvigil.use_cases.outbox_aside import AsideView
from keyvigil.use_cases.read_fleet import Fleet


def page[T](found: Page[T], view: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    """One page of a list."""
    return {"items": [view(item) for item in found.items], "next_token": found.next_token}


def project(shown: Project, *, clusters: int, open_incidents: int) -> dict[str, Any]:
    """A project with its counts."""
    fields = to_plain(shown)
    for internal in ("deleting", "version"):
        del fields[internal]
    fields["chat_topic_arn"] = shown.chat_topic_arn if shown.chat else None
    return {**fields, "keys": shown.keys, "clusters": clusters, "open_incidents": open_incidents}


def key(shown: Key, *, interval_minutes: int, now: datetime) -> dict[str, Any]:
    """A key. The registration ciphertext and the streaks are KeyVigil's own and are not shown."""
    closer = shown.facts.closer
    rotation, alias = (closer.rotation, closer.alias) if closer else (None, None)
    return to_plain_dict(
        {
            "key_id": shown.key_id,
            "key_arn": shown.key_arn,
            "alias_arn": shown.alias_arn,
            "region": shown.region,
            "account_id": shown.account_id,
            "role_arn": shown.role_arn,
            "use": shown.use,
            "probe_secret_arn": shown.probe_secret_arn,
            "operations": list(shown.use.operations),
            "multi_region": shown.facts.multi_region,
            "replica_regions": list(shown.facts.replica_regions),
            "status": shown.health.status,
            "unknown_since": shown.health.unknown_since,
            "stale": is_stale(shown.last_probed_at, interval_minutes, now),
            "verdict": shown.verdict,
            "last_probed_at": shown.last_probed_at,
            "last_trigger": shown.last_trigger,
            "deletion_date": shown.facts.deletion_date,
            "material_expires_at": shown.facts.material_expires_at,
            "rotation_enabled": rotation.enabled if rotation else None,
            "next_rotation_at": rotation.next_at if rotation else None,
            "alias_target_arn": alias.key_arn if alias else None,
            "open_incident_id": shown.open_incident_id,
            "clusters": shown.clusters,
            "backups": sum(shown.backups.values()),
            "created_at": shown.created_at,
            "rebaselines": shown.rebaselines,
        }
    )


def validation(shown: ValidationAnswer) -> dict[str, Any]:
    """The verdict on a key that is not registered, and each operation by itself."""
    return to_plain_dict({"verdict": shown.verdict, "operations": shown.operations})


def to_plain_dict(fields: dict[str, Any]) -> dict[str, Any]:
    """Plain data of every field."""
    return {name: to_plain(value) for name, value in fields.items()}


def cluster(shown: Cluster) -> dict[str, Any]:
    """A cluster, its `lock` with what belongs to it.

    The task token lets its holder answer for the control plane and is never shown.
    """
    fields = dict(to_plain(shown))
    for internal in ("task_token", "receipt", "deleted_at", "version"):
        del fields[internal]
    fields["lock"] = {name: value for name, value in fields["lock"].items() if value is not None}
    return fields


def backup(shown: Backup) -> dict[str, Any]:
    """A backup."""
    fields = dict(to_plain(shown))
    del fields["version"]
    return fields


def restorability(shown: Restorability) -> dict[str, Any]:
    """Whether a restore would work now."""
    return dict(to_plain(shown))


def incident(
    shown: Incident, timeline: Iterable[TimelineEntry] | None, execution_arn: Callable[[str], str]
) -> dict[str, Any]:
    """An incident; in a list without its timeline. Of a long timeline the newest entries are shown."""
    fields: dict[str, Any] = {
        "incident_id": shown.incident_id,
        "project_id": shown.project_id,
        "key_id": shown.key_id,
        "status": shown.status,
        "held_for": shown.held_for,
        "cause": shown.cause,
        "actor": shown.actor,
        "opened_at": shown.opened_at,
        "confirmed_at": shown.confirmed_at,
        "locked_at": shown.locked_at,
        "recovered_at": shown.recovered_at,
        "resolved_at": shown.resolved_at,
        "execution_arns": [execution_arn(name) for name in shown.executions],
        "clusters": shown.clusters,
        "decision": shown.decision,
    }
    if timeline is not None:
        ordered = sorted(timeline, key=lambda entry: (entry.at, entry.entry_id))
        fields["timeline"] = [timeline_entry(entry, shown.opened_at) for entry in ordered[-TIMELINE_SHOWN:]]
        fields["timeline_truncated"] = len(ordered) > TIMELINE_SHOWN
    return to_plain_dict(fields)


def timeline_entry(shown: TimelineEntry, opened_at: datetime) -> dict[str, Any]:
    """One thing that happened in an incident, and how many seconds after it opened."""
    seconds = round((shown.at - opened_at).total_seconds(), 3)
    return to_plain_dict({"at": shown.at, "seconds": seconds, "what": shown.what, "detail": shown.detail})


def subscription(shown: Subscription) -> dict[str, Any]:
    """A subscription."""
    fields = dict(to_plain(shown))
    for internal in ("subscription_arn", "dead_letters_arn", "version"):
        del fields[internal]
    return fields


def fleet(shown: Fleet) -> dict[str, Any]:
    """The state of everything under watch."""
    return {**to_plain(shown), "brake": [brake(each) for each in shown.brake]}


def silence(shown: Silence) -> dict[str, Any]:
    """A silence."""
    return dict(to_plain(shown))


def standing(shown: Problem) -> dict[str, Any]:
    """Something that is wrong now, and what was told of it. `withheld` is why the newest of it was not sent."""
    return to_plain_dict(
        {
            "dedup_key": shown.dedup_key,
            "type": shown.type,
            "severity": shown.severity,
            "key_id": shown.key_id,
            "incident_id": shown.incident_id,
            "since": shown.since,
            "told_at": shown.told_at,
            "reminders": shown.reminders,
            "withheld": shown.unsaid,
        }
    )


def row_aside(shown: AsideView) -> dict[str, Any]:
    """An outbox row that was set aside."""
    return dict(to_plain(shown))


def brake(shown: Brake) -> dict[str, Any]:
    """A brake that is engaged. None is no limit: all Regions, all causes, all projects."""
    return to_plain_dict(
        {
            "region": shown.region,
            "cause": shown.cause,
            "project_id": shown.project_id,
            "since": shown.engaged_at,
            "by": shown.engaged_by,
            "reason": shown.reason,
            "exempt_projects": shown.exempt,
        }
    )


def canary(shown: Canary, *, now: datetime) -> dict[str, Any]:
    """A canary. Its registration ciphertext is KeyVigil's own and is not shown."""
    return to_plain_dict(
        {
            "canary_id": shown.canary_id,
            "key_arn": shown.key_arn,
            "role_arn": shown.role_arn,
            "external_id": shown.external_id,
            "region": shown.region,
            "account_id": shown.account_id,
            "outcome": outcome_now(shown, now),
            "vouches": vouches_now(shown, now),
            "verdict": shown.verdict,
            "probed_at": shown.began_at,
            "created_at": shown.created_at,
        }
    )
