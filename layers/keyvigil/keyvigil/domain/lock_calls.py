"""What became of a call to a cluster's receiver, and when it is tried again."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from keyvigil.domain.clusters import LockAction, LockResult, LockSettings, LockVia, Preset

CALL_SECONDS = 100.0
"""How long one invocation goes on with one request, in seconds; the function's time-out in template.yaml is longer."""

ATTEMPTS = 5
"""How often an invocation makes a request that finds nobody, or somebody who is busy."""

LEAST_SECONDS = 1.0
"""With less time left than this, in seconds, no call is begun: it would end after its answer is of use."""

LONGEST_DETAIL = 500
"""How many characters of what a receiver says are kept."""

_FIRST_PAUSE_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 16.0
_UNSEEN_SEPARATORS = {"Zl", "Zp"}


class CallOutcome(StrEnum):
    """What became of a call."""

    DONE = "DONE"
    ACCEPTED = "ACCEPTED"
    FAILED = "FAILED"
    TRANSIENT = "TRANSIENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAnswer:
    """What became of a call, and why.

    ACCEPTED: the receiver answers later, or is asked again with `receipt`. FAILED: it will not do it. TRANSIENT: it
    was not reached or is busy, so that trying again may help.
    """

    outcome: CallOutcome
    detail: str | None = None
    receipt: str | None = None


def longest_pause(attempt: int) -> float:
    """How long the pause after this attempt (from 1) may last, in seconds: a random part of it is waited.

    Source: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """
    return min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1))


def clean(text: str, limit: int = LONGEST_DETAIL) -> str:
    """What a receiver said, fit for a timeline, an alert and a terminal: one line, no control characters, not long."""
    seen = "".join(" " if _is_unseen(character) else character for character in text[: 4 * limit])
    line = " ".join(seen.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _is_unseen(character: str) -> bool:
    """Control, format, surrogate, private and unassigned characters, and Unicode's own separators of lines."""
    category = unicodedata.category(character)
    return category.startswith("C") or category in _UNSEEN_SEPARATORS


def read_answer(document: object, action: LockAction) -> CallAnswer:
    """Read a receiver's `{"result": …, "detail": …}`. Anything else is a failure that says what was wrong with it."""
    wanted = LockResult.LOCKED if action is LockAction.LOCK else LockResult.UNLOCKED
    if not isinstance(document, Mapping):
        return CallAnswer(outcome=CallOutcome.FAILED, detail="its answer is not a JSON object with `result`")
    said = document.get("detail")
    detail = clean(said) if isinstance(said, str) and said else None
    match document.get("result"):
        case str(result) if result == wanted:
            return CallAnswer(outcome=CallOutcome.DONE, detail=detail)
        case "accepted":
            return CallAnswer(outcome=CallOutcome.ACCEPTED, detail=detail)
        case "failed":
            return CallAnswer(outcome=CallOutcome.FAILED, detail=detail or "it failed and gave no reason")
        case str(result):
            reason = (
                f"it answered `{clean(result, 40)}` to a request to {action}; `{wanted}`, `failed` or `accepted` fit"
            )
            return CallAnswer(outcome=CallOutcome.FAILED, detail=reason)
        case _:
            return CallAnswer(outcome=CallOutcome.FAILED, detail="its answer has no `result`")


def receiver_name(lock: LockSettings) -> str:
    """Who a cluster's receiver is, in words for the timeline."""
    if lock.preset is Preset.ZILLIZ_CLOUD:
        return "Zilliz Cloud"
    names = {LockVia.LAMBDA: "its function", LockVia.WEBHOOK: "its webhook", LockVia.SSM_AUTOMATION: "its runbook"}
    return names.get(lock.via, "its control plane")


def can_be_followed(lock: LockSettings) -> bool:
    """Whether a receiver that accepted a request can be asked what became of it; the others answer by themselves."""
    return lock.via is LockVia.SSM_AUTOMATION or lock.preset is Preset.ZILLIZ_CLOUD
