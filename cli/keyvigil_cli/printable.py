"""Text of other people's, made fit for a terminal: names and messages must not move the cursor or colour anything."""

import json
import unicodedata
from collections.abc import Iterable, Mapping

# Control characters end escape sequences' harmlessness, format characters (bidirectional overrides, zero-width
# joiners) make one name look like another, and separators break lines.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(value: object) -> str:
    """Return a value as one line of text in which everything that is not seen is written as its escape."""
    text = _words(value)
    if text.isprintable():
        return text
    return "".join(_escaped(character) if _is_unseen(character) else character for character in text)


def printable_lines(text: str) -> str:
    """Return a text of several lines, in which everything else that is not seen is escaped."""
    return "\n".join(printable(line) for line in text.splitlines())


def as_json(value: object) -> str:
    """Return JSON in ASCII, so that no terminal finds a control character in it."""
    return json.dumps(value, indent=2, ensure_ascii=True)


def _words(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items()) or "-"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(_words(each) for each in value) or "-"
    return str(value)


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:  # noqa: PLR2004 - two digits are enough
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004 - four, or eight
