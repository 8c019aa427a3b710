"""HTML that cannot be broken out of: text is escaped wherever it is put, because only this module makes `Html`.

What is shown was written by tenants, by AWS and by control planes. Escaping alone would still let a name turn the
line around it (bidirectional controls), hide in it (zero-width) or end it (control characters), so those are shown as
what they are.
"""

import html
import unicodedata
from collections.abc import Iterable

LONGEST_TEXT = 400
"""How many characters of one text are shown. Commands, which must stay whole to be pasted, are not cut."""

# Control, format (bidirectional marks, zero-width, tags), surrogate, private use and unassigned characters, and the
# separators of lines and paragraphs: https://www.unicode.org/reports/tr44/#General_Category_Values
_SHOWN_BY_NUMBER = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class Html(str):
    """HTML that is finished: whatever was put into it is escaped."""

    __slots__ = ()


type Child = Html | str | int | None


def readable(text: str, *, most: int | None = LONGEST_TEXT, lines: bool = False) -> str:
    """Text as a person can read it: cut after `most` characters, what cannot be seen written as `⟨U+202E⟩`.

    `lines` keeps line ends and tabs.
    """
    kept = "\n\t" if lines else ""
    written: list[str] = []
    room = len(text) * 10 if most is None else most
    for number, each in enumerate(text):
        seen = each in kept or unicodedata.category(each) not in _SHOWN_BY_NUMBER
        part = each if seen else f"⟨U+{ord(each):04X}⟩"
        room -= len(part)
        if room < 0:
            written.append(f"… ({len(text) - number:,} more characters)")
            break
        written.append(part)
    return "".join(written)


def shown(child: Child) -> Html:
    """A child as HTML: text is escaped, also for an attribute's value."""
    if isinstance(child, Html):
        return child
    return Html(html.escape(readable(str(child)), quote=True)) if child is not None else Html("")


def whole(text: str) -> Html:
    """Text that must not be cut, such as a command, with its line ends."""
    return Html(html.escape(readable(text, most=None, lines=True), quote=True))


def joined(children: Iterable[Child]) -> Html:
    """Children, one after the other."""
    return Html("".join(shown(each) for each in children))


def tag(name: str, *children: Child, **attributes: str | int | None) -> Html:
    """An element. `class_` is the attribute `class`, `aria_label` is `aria-label`; None leaves an attribute out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{shown(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{joined(children)}</{name}>")


def name(text: str) -> Html:
    """Somebody's text inside a line of ours: its direction cannot reach what stands beside it.

    https://www.w3.org/International/articles/inline-bidi-markup/
    """
    return tag("bdi", text)
