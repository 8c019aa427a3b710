r"""Alerts in words: a subject and plain text for mail, and the notification that chat channels take.

Names, error messages and ARNs are other people's. None of them adds a line, a link or a mark-up of its own, or makes
its neighbours unreadable: what does not show, or turns the text around it, is written out as `\u202e`, and what is too
long is cut. Commands are never cut and never changed, because they are pasted: one that cannot stand as it is is left
out, and the text says so.
"""

import re
import unicodedata
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from keyvigil.domain.actors import in_words
from keyvigil.domain.alerts import Alert, AlertStatus, AlertType, published_at
from keyvigil.domain.incidents import REASONS_SHOWN, AffectedCluster, listed

SUBJECT_LIMIT = 100
"""Characters of a subject, all ASCII. Source: https://docs.aws.amazon.com/sns/latest/api/API_Publish.html"""

LONGEST_VALUE = 500
LONGEST_NAME = 100
LONGEST_MESSAGE = 2000
"""Characters of one ARN or reason, of one name, and of the cause's sentence in a text."""

LONGEST_LINK = 1100
"""Characters of a page's address, which the template bounds at 1,024, and the section on it: cut it leads nowhere."""

COMMANDS_ROOM = 12_000
"""Characters that the commands of a mail take together at most."""

CHAT_TITLE = 200
CHAT_DESCRIPTION = 4000
CHAT_STEP = 300
CHAT_WORD = 60
"""Bounds of ours, in characters, so that a chat client shows the notification whole. Slack cuts a text at 4,000."""

_SAID: dict[AlertType, tuple[str, str]] = {
    AlertType.KEY_SUSPECT: (
        "{key} failed a probe; this is not confirmed yet, and nothing is locked.",
        "{key} passed its probes again; the suspicion is over.",
    ),
    AlertType.KEY_UNHEALTHY: ("{key} cannot be used.", "{key} can be used again."),
    AlertType.KEY_RECOVERED: ("{key} can be used again.", "{key} can be used again."),
    AlertType.KEY_DELETION_SCHEDULED: (
        "{key} is going to be deleted, and what it encrypted is lost with it.",
        "{key} is not going to be deleted any more.",
    ),
    AlertType.KEY_MATERIAL_EXPIRING: (
        "The imported material of {key} expires; without it the key cannot be used.",
        "The imported material of {key} does not expire soon any more.",
    ),
    AlertType.KEY_ROTATION_DISABLED: (
        "{key} is not rotated as it should be.",
        "{key} is rotated as it should be again.",
    ),
    AlertType.KEY_ALIAS_MOVED: (
        "The alias by which {key} was registered stands for another key, or is gone.",
        "The alias by which {key} was registered stands for it again.",
    ),
    AlertType.KEY_REPLICA_MISSING: (
        "Backups under {key} cannot be restored in a Region where they should be.",
        "No backup under {key} waits for a replica of the key any more.",
    ),
    AlertType.KEY_STALE: (
        "KeyVigil could not check {key} in time.",
        "KeyVigil checks {key} in time again.",
    ),
    AlertType.APPROVAL_NEEDED: (
        "{key} cannot be used, and a person must decide whether its clusters are locked.",
        "No decision about {key} is waited for any more.",
    ),
    AlertType.ACTOR_FOUND: (
        "It was found who can have broken {key}.",
        "It was found who can have broken {key}, which is over.",
    ),
    AlertType.CLUSTER_LOCKED: (
        "Clusters are locked because {key} cannot be used.",
        "Clusters under {key} are not locked any more.",
    ),
    AlertType.CLUSTER_UNLOCKED: (
        "Clusters under {key} are in use again.",
        "Clusters under {key} are in use again.",
    ),
    AlertType.CLUSTER_LOCK_FAILED: (
        "{key} cannot be used, and not every cluster under it could be locked.",
        "Locking clusters under {key} is over.",
    ),
    AlertType.CLUSTER_UNLOCK_FAILED: (
        "{key} can be used again, but a cluster under it is still locked.",
        "Unlocking clusters under {key} is over.",
    ),
    AlertType.BRAKE_ENGAGED: ("New lockouts wait: the brake is engaged.", "The brake is released."),
    AlertType.BRAKE_RELEASED: ("The brake is released.", "The brake is released."),
    AlertType.KEY_UNKNOWN: (
        "No probe could tell whether {key} works; nothing is locked for that.",
        "Probes can tell again whether {key} works.",
    ),
    AlertType.CANARY_UNHEALTHY: (
        "A canary does not work, so denials in its Region may be KeyVigil's own fault.",
        "The canary works again.",
    ),
}
"""What each type says, while it fires and when it is resolved."""

# What a reader does not see and `unicodedata` does not call a control or format character: fillers and selectors.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_INNER = re.compile(r"(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
# Slack's own three, and what its mark-up and Markdown begin with. An underline between letters begins nothing.
# Source: https://api.slack.com/reference/surfaces/formatting#escaping
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_NO_MARKUP = str.maketrans({"`": "'", "*": "\u2217", "~": "\u223c", "[": "(", "]": ")", "|": "\u00a6"})
_LEFT_OUT = "A command is left out here; it stands in the alert's JSON."


def in_one_line(text: str, limit: int = LONGEST_VALUE) -> str:
    """Somebody's text as one line of at most `limit` characters, all of which show.

    Whatever breaks lines is a space. Control characters, those that turn the direction of writing, zero-width ones,
    and halves of surrogate pairs are written out: a reader sees that they are there, and they do nothing.
    """
    # Everything behind this is cut off anyway: what is too long must not take long.
    shown = "".join(map(_shown, text[: 4 * limit]))
    line = " ".join(shown.split())
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 1] + "…"


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if character.isspace() or category in {"Zl", "Zp"}:
        return " "
    if category.startswith("C") or _UNSEEN.match(character):
        return f"\\u{ord(character):04x}"
    return character


def headline(alert: Alert) -> str:
    """One plain sentence of what happened."""
    firing, resolved = _SAID[alert.type]
    said = resolved if alert.status is AlertStatus.RESOLVED else firing
    sentence = said.format(key=_key_in_words(alert))
    return sentence[0].upper() + sentence[1:]


def _key_in_words(alert: Alert) -> str:
    if alert.key is None:
        return "some keys"
    alias = alert.key.alias.rpartition(":")[2] if alert.key.alias else None
    name = in_one_line(alias or alert.key.arn.rpartition("/")[2], limit=120)
    one = f"the key {name} (account {in_one_line(alert.key.account_id, 20)}, {in_one_line(alert.key.region, 30)})"
    more = len(alert.keys) - 1
    return one if more < 1 else f"{one}, together with {more} more that failed within a minute,"


def subject(alert: Alert) -> str:
    """A mail's subject: at most 100 characters of ASCII that begin with a letter.

    Sorted, the mails of one project stand together, in it those of one key, and in it those of one severity.
    """
    key = alert.key.arn.rpartition("/")[2] if alert.key else None
    number = re.match(r"(mrk-)?[0-9A-Za-z]{1,8}", key) if key else None
    words = (
        "KeyVigil",
        alert.project_id or "fleet",
        number.group() if number else None,
        "RESOLVED" if alert.status is AlertStatus.RESOLVED else alert.severity.upper(),
        alert.type,
    )
    line = in_one_line(" ".join(word for word in words if word), 4 * SUBJECT_LIMIT)
    return line.encode("ascii", "replace").decode()[:SUBJECT_LIMIT]


def mail(alert: Alert, page: str | None = None) -> str:
    """An alert as plain text. `page` is where docs/alerts.md can be read, if not in the repository."""
    lines = [_unmarked(headline(alert)), "", _row("Why", _message(alert))]
    if alert.cause.code is not None:
        codes = (alert.cause.code, alert.cause.operation, alert.cause.aws_error_code)
        lines.append(_row("Cause", ", ".join(in_one_line(code) for code in codes if code)))
    over = alert.status is AlertStatus.RESOLVED
    lines.append(_row("Over at" if over else "Since", f"{alert.occurred_at:%Y-%m-%d %H:%M:%S} UTC"))
    if alert.keys:
        lines.append(_row("Keys", str(len(alert.keys))))
        lines += [_row("", f"{status}: {listed(names)}") for status, names in _keys_by_status(alert)]
    lines += _clusters_in_mail(alert)
    if alert.actor is not None or (alert.incident_id is not None and not over):
        lines.append(_row("Who", _who(alert)))
    lines.append(_row("To mend", in_one_line(alert.remediation.summary, LONGEST_MESSAGE)))
    commands, left_out = _whole(alert.remediation.commands, COMMANDS_ROOM)
    if commands:
        lines += ["", *(f"    {command}" for command in commands), ""]
    if left_out:
        lines.append(_row("", _LEFT_OUT))
    lines.append(_row("Read", in_one_line(published_at(page, alert.remediation.runbook), LONGEST_LINK)))
    if alert.key is not None:
        lines.append(_row("Key", in_one_line(alert.key.arn)))
    for name, value in (("Project", alert.project_id), ("Incident", alert.incident_id)):
        if value is not None:
            lines.append(_row(name, in_one_line(value)))
    lines.append(_row("Alert", f"{alert.type}, {alert.severity}, {alert.status}; {in_one_line(alert.alert_id)}"))
    return "\n".join(lines) + "\n"


def _row(name: str, value: str) -> str:
    return f"{f'{name}:' if name else '':<10}{_unmarked(value)}"


def _unmarked(text: str) -> str:
    """Without what a mail reader could take for HTML."""
    return text.replace("<", "\u2039").replace(">", "\u203a")


def _message(alert: Alert) -> str:
    return in_one_line(alert.cause.message, LONGEST_MESSAGE)


def _who(alert: Alert) -> str:
    if alert.actor is None:
        return "not known; no call that can explain it was found so far"
    return in_one_line(in_words(alert.actor), LONGEST_VALUE)


def _by_status(clusters: Iterable[AffectedCluster]) -> list[tuple[str, list[str]]]:
    ordered = sorted(clusters, key=lambda each: str(each.status))
    return [
        (str(status), [in_one_line(each.cluster_id, LONGEST_NAME) for each in group])
        for status, group in groupby(ordered, key=lambda each: each.status)
    ]


def _explained(alert: Alert) -> list[tuple[str, str]]:
    """Clusters with the reason of their failure."""
    failed = [each for each in alert.clusters if each.detail][:REASONS_SHOWN]
    return [(in_one_line(each.cluster_id, LONGEST_NAME), in_one_line(each.detail or "")) for each in failed]


def _keys_by_status(alert: Alert) -> list[tuple[str, list[str]]]:
    """Several keys that are told as one, those that still do not work first; none if it is about one."""
    words = {AlertStatus.FIRING: "not usable", AlertStatus.RESOLVED: "usable again"}
    return [
        (said, [in_one_line(each.arn.rpartition("/")[2], LONGEST_NAME) for each in alert.keys if each.status is status])
        for status, said in words.items()
        if any(each.status is status for each in alert.keys)
    ]


def _count(alert: Alert) -> str:
    number = alert.clusters_total
    return f"{number or 'no'} {'cluster' if number == 1 else 'clusters'}"


def _clusters_in_mail(alert: Alert) -> list[str]:
    if alert.key is None and not alert.clusters:
        return []
    lines = [_row("Affected", _count(alert))]
    lines += [_row("", f"{status}: {listed(names)}") for status, names in _by_status(alert.clusters)]
    if alert.clusters_total > len(alert.clusters):
        lines.append(_row("", f"{alert.clusters_total - len(alert.clusters)} more are not listed"))
    return lines + [_row("", f"{name}: {reason}") for name, reason in _explained(alert)]


def _whole(commands: Iterable[str], room: int) -> tuple[list[str], bool]:
    """The commands that can stand as they are, in their order, and whether any cannot.

    What follows one that is left out is left out too: half of a remedy, run out of its order, can do harm.
    """
    shown: list[str] = []
    for command in commands:
        room -= len(command)
        if room < 0 or any(_shown(character) != character for character in command):
            return shown, True
        shown.append(command)
    return shown, False


def chat(alert: Alert, page: str | None = None) -> dict[str, Any]:
    """An alert as a custom notification of Amazon Q Developer in chat applications; it and its end share a thread.

    `page` is where docs/alerts.md can be read, if not in the repository.
    Source: https://docs.aws.amazon.com/chatbot/latest/adminguide/custom-notifs.html#event-schema
    """
    word = "RESOLVED" if alert.status is AlertStatus.RESOLVED else alert.severity.upper()
    metadata: dict[str, Any] = {
        "threadId": in_one_line(alert.dedup_key, LONGEST_VALUE),
        "summary": _in_chat(headline(alert), CHAT_STEP),
        "eventType": str(alert.type),
        "additionalContext": {"severity": str(alert.severity), "status": str(alert.status)},
    }
    if alert.key is not None:
        metadata["relatedResources"] = [in_one_line(each.arn) for each in alert.keys or (alert.key,)]
    where = in_one_line(alert.project_id or "KeyVigil", CHAT_WORD)
    keywords = [str(alert.type), str(alert.severity), where]
    return {
        "version": "1.0",
        "source": "custom",
        "id": in_one_line(alert.alert_id),
        "content": {
            "textType": "client-markdown",
            "title": _in_chat(f"{word} in {where}: {headline(alert)}", CHAT_TITLE),
            "description": _description(alert),
            "nextSteps": [
                _in_chat(alert.remediation.summary, CHAT_STEP),
                f"Read {in_one_line(published_at(page, alert.remediation.runbook), LONGEST_LINK).translate(_ENTITIES)}",
            ],
            "keywords": keywords,
        },
        "metadata": metadata,
    }


def _description(alert: Alert) -> str:
    """What stands in the channel. Other people's values stand in code, in which nothing has a meaning."""
    over = alert.status is AlertStatus.RESOLVED
    lines = [_in_chat(alert.cause.message, CHAT_STEP * 3)]
    if alert.cause.code is not None:
        lines.append(f"*Cause:* {_code(alert.cause.code)}")
    lines.append(f"*{'Over at' if over else 'Since'}:* {alert.occurred_at:%Y-%m-%d %H:%M:%S} UTC")
    lines += [f"*Keys {status}:* {_code(listed(names), CHAT_STEP)}" for status, names in _keys_by_status(alert)]
    if alert.clusters:
        lines.append(f"*Affected:* {_count(alert)}")
        # Twenty ids of the longest do not fit into a line beside the commands.
        lines += [f"{status}: {_code(listed(names), CHAT_STEP)}" for status, names in _by_status(alert.clusters)][:4]
        lines += [_code(f"{name}: {reason}", CHAT_STEP) for name, reason in _explained(alert)][:2]
    if alert.actor is not None or (alert.incident_id is not None and not over):
        lines.append(f"*Who:* {_code(_who(alert), CHAT_STEP) if alert.actor else _who(alert)}")
    if alert.incident_id is not None:
        lines.append(f"*Incident:* {_code(alert.incident_id)}")
    said = "\n".join(lines)
    commands, left_out = _whole(alert.remediation.commands, CHAT_DESCRIPTION)
    block = f"\n```\n{'\n'.join(commands)}\n```".translate(_ENTITIES) if commands else ""
    if "`" in "".join(commands) or len(said) + len(block) + len(_LEFT_OUT) > CHAT_DESCRIPTION:
        block, left_out = "", True
    return f"{said}{block}\n{_LEFT_OUT}" if left_out else f"{said}{block}"


def _in_chat(text: str, limit: int) -> str:
    """Somebody's words outside of code: no mention, no link, no mark-up."""
    line = in_one_line(text, limit).translate(_NO_MARKUP).replace("://", ": //")
    return _escaped(_INNER.sub("\uff3f", line), limit)


def _code(text: str, limit: int = CHAT_STEP) -> str:
    return f"`{_escaped(in_one_line(text, limit).replace('`', "'"), limit)}`"


def _escaped(line: str, limit: int) -> str:
    """With entities, and still no longer than `limit`: an entity counts as it is sent, and is not cut in two."""
    parts = [character.translate(_ENTITIES) for character in line]
    while sum(map(len, parts)) > limit:
        parts[-2:] = ["…"]
    return "".join(parts)
