"""Which requests have an `Idempotency-Key` that counts. Most have none, and need nothing of what keeps answers."""

import re
from collections.abc import Mapping
from typing import Any

_CREATES = re.compile(r"(?:/projects(?:/[^/]+/(?:keys|clusters|backups|subscriptions|silences))?|/fleet/canaries)\Z")


def creates(path: str) -> bool:
    """Whether a POST on this path creates something."""
    return _CREATES.match(path) is not None


def key_of(event: dict[str, Any]) -> str | None:
    """The request's Idempotency-Key, None if it has none or is not one that creates."""
    http = event["requestContext"]["http"]
    if http["method"] != "POST" or not creates(str(event["rawPath"])):
        return None
    headers: Mapping[str, str] = event.get("headers") or {}
    return next((value for name, value in headers.items() if name.lower() == "idempotency-key"), None)
