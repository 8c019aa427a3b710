"""An alert as JSON (contract.md, Alerts), small enough for SNS and EventBridge whatever was put into it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from keyvigil.adapters.plain_data import to_plain
from keyvigil.domain.alerts import Alert, published_at

ROOM = 120 * 1024
"""Bytes of one alert as JSON inside of JSON, as SNS gets it beside the mail's text in a message of 256 KB.

Sources:
    https://docs.aws.amazon.com/sns/latest/api/API_Publish.html
    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevents.html
"""

LONGEST_TEXT = 4000
"""Characters of one text: a sentence, a command, an ARN. AWS's own ARNs have at most 2,048."""

_LAST_RESORT = 120


def document(alert: Alert, page: str | None = None) -> dict[str, Any]:
    """The alert field by field, and how many clusters it is about, of which it may list fewer.

    `page` is where docs/alerts.md can be read, if not in the repository.

    One that has no room gives up, in this order, the reasons of clusters' failures, its commands, clusters from the
    end of the list, and the ends of its texts; its message says so.
    """
    plain: dict[str, Any] = {**to_plain(alert), "clusters_total": alert.clusters_total}
    plain["remediation"]["runbook"] = published_at(page, alert.remediation.runbook)
    commands = plain["remediation"]["commands"]
    plain = _cut(plain, LONGEST_TEXT)
    # A command that was cut would be pasted all the same.
    if any(len(each) > LONGEST_TEXT for each in commands):
        plain = _without_commands(plain)
    for give_up in _sacrifices(plain):
        if fits(plain):
            break
        plain = give_up(plain)
    return plain


def fits(plain: dict[str, Any]) -> bool:
    """Whether a document leaves room for the mail's text."""
    return len(json.dumps(json.dumps(plain))) <= ROOM


def _sacrifices(plain: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    clusters = plain["clusters"]
    yield lambda doc: _without(doc, "Reasons of failures", clusters=[{**each, "detail": None} for each in clusters])
    yield _without_commands
    yield lambda doc: _without(doc, f"All but 100 of {len(clusters)} clusters", clusters=doc["clusters"][:100])
    yield lambda doc: _without(_cut(doc, _LAST_RESORT), "More", clusters=_cut(doc["clusters"][:20], _LAST_RESORT))


def _without_commands(plain: dict[str, Any]) -> dict[str, Any]:
    return _without(plain, "Commands", remediation={**plain["remediation"], "commands": []})


def _without(plain: dict[str, Any], what: str, **fields: Any) -> dict[str, Any]:
    message = f"{plain['cause']['message']} {what} are left out here."
    return plain | fields | {"cause": {**plain["cause"], "message": message}}


def _cut(value: Any, limit: int) -> Any:
    match value:
        case str() if len(value) > limit:
            return f"{value[: limit - 1]}…"
        case dict():
            return {name: _cut(each, limit) for name, each in value.items()}
        case list() | tuple():
            return [_cut(each, limit) for each in value]
        case _:
            return value
