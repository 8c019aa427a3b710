"""The inventory as JSON, and as tables for people."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from rich.console import RenderableType
from rich.text import Text

from keyvigil_cli.discovery.kms_keys import account_of
from keyvigil_cli.discovery.model import Finding, Inventory, Json, Key, KeyUse, Manager, Resource, Unread, Weight
from keyvigil_cli.discovery.stops import KINDS
from keyvigil_cli.exit_status import ExitStatus
from keyvigil_cli.printable import printable
from keyvigil_cli.table import Column, styled, table_of


def status_of(found: Inventory) -> ExitStatus:
    """Say in a number what was found: a key on which something hangs cannot be used, or something is not known."""
    if found.unread and not found.answered:
        return ExitStatus.ERROR
    if any(each.weight is Weight.UNHEALTHY for each in found.findings):
        return ExitStatus.UNHEALTHY
    return ExitStatus.UNKNOWN if found.unread else ExitStatus.FINE


def summary(found: Inventory) -> str:
    """What was found, in one sentence."""
    keys = found.customers
    used = sum(bool(each.resources) for each in keys)
    hanging = sum(len(each.resources) for each in keys)
    parts = [
        f"{_count(len(keys), 'key', 'keys')} that somebody can take away",
        f"{used} in use by {_count(hanging, 'resource', 'resources')}",
        f"{_count(len(found.findings), 'thing', 'things')} not well kept",
        f"{len(found.unread)} not read",
    ]
    return "; ".join(parts) + "."


def whose(key: Key) -> str:
    """Who a key belongs to, in words."""
    if key.manager is Manager.AWS:
        return "AWS"
    if key.of_other_account:
        return f"other account {owner_of(key)}"
    return "customer" if key.manager is Manager.CUSTOMER else "not known"


def owner_of(key: Key) -> str:
    """Return the account that a key belongs to."""
    return account_of(key.arn) or key.place.account_id


def stopping(use: KeyUse) -> list[tuple[str, str, str, list[Resource]]]:
    """What would stop without a key: how many of which kind, what happens to them, AWS's page, and which they are."""
    kinds: dict[str, list[Resource]] = {}
    for each in use.resources:
        kinds.setdefault(each.kind, []).append(each)
    return [
        (_count(len(those), KINDS[kind].singular, KINDS[kind].plural), KINDS[kind].stops, KINDS[kind].source, those)
        for kind, those in sorted(kinds.items(), key=lambda each: list(KINDS).index(each[0]))
    ]


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


# --- JSON ----------------------------------------------------------------------------------------------------------


def as_plain(found: Inventory) -> dict[str, object]:
    """Return all of it as JSON."""
    return {
        "taken_at": _time(found.taken_at),
        "places": [{"account_id": each.account_id, "region": each.region} for each in found.places],
        "keys": [_key(each) for each in found.customers],
        "aws_managed_keys": [_key(each) for each in found.of_aws],
        "findings": [_finding(each) for each in found.findings],
        "unread": [_unread(each) for each in found.unread],
        "notes": list(found.notes),
    }


def _key(use: KeyUse) -> Json:
    key = use.key
    return {
        "key_arn": key.arn,
        "account_id": owner_of(key),
        "region": key.place.region,
        "managed_by": key.manager.value,
        "of_other_account": key.of_other_account,
        "state": key.state,
        "aliases": list(key.aliases),
        "description": key.description,
        "multi_region": key.multi_region,
        "rotation_enabled": key.rotation_enabled,
        "deletion_date": _time(key.deletion_date),
        "resources": [_resource(each) for each in use.resources],
        "stops": [{"what": what, "how": how, "source": source} for what, how, source, _ in stopping(use)],
        "findings": [each.code for each in use.findings],
    }


def _resource(resource: Resource) -> Json:
    return {
        "service": resource.service,
        "kind": resource.kind,
        "name": resource.name,
        "arn": resource.arn,
        "account_id": resource.place.account_id,
        "region": resource.place.region,
        "part": resource.part or None,
        "key_as_named": resource.key,
    }


def _finding(finding: Finding) -> Json:
    return {
        "code": finding.code,
        "weight": finding.weight.value,
        "account_id": finding.place.account_id,
        "region": finding.place.region,
        "about": finding.about,
        "name": finding.name,
        "message": finding.message,
        "advice": finding.advice,
    }


def _unread(unread: Unread) -> Json:
    return {
        "account_id": unread.place.account_id,
        "region": unread.place.region,
        "what": unread.what,
        "code": unread.code,
        "why": unread.why,
        "partly": unread.partly,
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- tables --------------------------------------------------------------------------------------------------------

_KEYS = (
    Column("KEY", "name"),
    Column("STATE", lambda item: styled(item["state"])),
    Column("WHOSE", "whose"),
    Column("ACCOUNT", "account_id"),
    Column("REGION", "region"),
    Column("WHAT HANGS ON IT", "what"),
    Column("ARN", "arn"),
)
_RESOURCES = (
    Column("KEY", "key"),
    Column("WHAT HANGS ON IT", "kind"),
    Column("NAME", "name"),
    Column("", "part"),
    Column("ACCOUNT", "account_id"),
    Column("REGION", "region"),
)
_STOPS = (Column("WITHOUT KEY", "key"), Column("WHAT STOPS", "what"), Column("HOW", "how"))
_FINDINGS = (
    Column("NOT WELL KEPT", lambda item: Text(item["code"], "bold red" if item["weight"] == "unhealthy" else "yellow")),
    Column("OF", "name"),
    Column("REGION", "region"),
    Column("WHY", "message"),
    Column("WHAT TO DO", "advice"),
)
_UNREAD = (
    Column("NOT READ", lambda item: Text(printable(item["what"]) + (" (partly)" if item["partly"] else ""), "yellow")),
    Column("ACCOUNT", "account_id"),
    Column("REGION", "region"),
    Column("WHY", "why"),
)


def tables(found: Inventory) -> Iterable[RenderableType]:
    """Show it: keys, what hangs on them, what would stop, what is not well kept, what could not be read."""
    uses = [*found.customers, *found.of_aws]
    if uses:
        yield table_of(_KEYS, [_key_line(each) for each in uses])
    lines = [
        {**_resource(each), "key": use.key.name, "kind": KINDS[each.kind].singular}
        for use in found.customers
        for each in use.resources
    ]
    if lines:
        yield table_of(_RESOURCES, lines)
        yield table_of(
            _STOPS,
            [
                {"key": use.key.name, "what": what, "how": how}
                for use in found.customers
                for what, how, _, _ in stopping(use)
            ],
        )
    if found.findings:
        yield table_of(_FINDINGS, [dict(_finding(each)) for each in found.findings])
    if found.unread:
        yield table_of(_UNREAD, [dict(_unread(each)) for each in found.unread])
    yield Text("\n".join(map(printable, (summary(found), *found.notes))))


def _key_line(use: KeyUse) -> dict[str, object]:
    counts = Counter(each.service for each in use.resources)
    what = ", ".join(f"{count:,} {service}" for service, count in counts.items())
    key = use.key
    nothing = "-" if key.manager is Manager.AWS else "nothing that was read"
    return {**_key(use), "name": key.name, "whose": whose(key), "what": what or nothing, "arn": key.arn}
