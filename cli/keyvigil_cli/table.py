"""Answers of the API as tables for people: one line a thing, or one line a field."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any, NamedTuple

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from keyvigil_cli.printable import printable

type Item = dict[str, Any]
type Cell = str | Text

_WIDEST = 100_000  # characters: more than any table has
_GOOD, _BAD, _DOUBTFUL, _QUIET = "green", "bold red", "yellow", "dim"
_STYLES = {
    "HEALTHY": _GOOD, "ACTIVE": _GOOD, "RESOLVED": _GOOD, "confirmed": _GOOD,
    "UNHEALTHY": _BAD, "LOCKED": _BAD, "PARTLY_LOCKED": _BAD, "LOCK_FAILED": _BAD, "UNLOCK_FAILED": _BAD,
    "critical": _BAD,
    "SUSPECT": _DOUBTFUL, "RECOVERING": _DOUBTFUL, "UNKNOWN": _DOUBTFUL, "STALE": _DOUBTFUL, "HELD": _DOUBTFUL,
    "CONFIRMING": _DOUBTFUL, "LOCKING": _DOUBTFUL, "UNLOCKING": _DOUBTFUL, "PENDING_KEY": _DOUBTFUL,
    "OBSERVED": _DOUBTFUL, "pending": _DOUBTFUL, "gone": _DOUBTFUL, "warning": _DOUBTFUL,
    "DISMISSED": _QUIET, "-": _QUIET,
}  # fmt: skip


class Column(NamedTuple):
    """A heading and what stands under it: a field's name, or a function of the item."""

    heading: str
    cell: str | Callable[[Item], Cell]


def table_of(columns: Sequence[Column], items: Iterable[Item]) -> Table:
    """Return a table with a line for each item."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.heading, overflow="fold")
    for item in items:
        table.add_row(*(_cell(column, item) for column in columns))
    return table


def fields_of(columns: Sequence[Column], item: Item) -> Table:
    """Return a table of one item, with a line for each field."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for column in columns:
        table.add_row(column.heading, _cell(column, item))
    return table


def styled(*words: object) -> Text:
    """Return words in the colours of what they mean."""
    text = Text()
    for place, word in enumerate(words):
        shown = printable(word)
        text.append(" " if place else "")
        text.append(shown, style=_STYLES.get(shown, ""))
    return text


def when(timestamp: object, *, now: datetime | None = None) -> str:
    """Return a time of the API for people: to the second, in UTC, and how long ago that was."""
    moment = moment_of(timestamp)
    if moment is None:
        return printable(timestamp)
    past = (now or datetime.now(UTC)) - moment
    distance = f"{duration(past)} ago" if past >= timedelta() else f"in {duration(-past)}"
    return f"{moment:%Y-%m-%d %H:%M:%S}Z ({distance})"


def moment_of(timestamp: object) -> datetime | None:
    """Return a time of the API; None if there is none."""
    try:
        return datetime.fromisoformat(str(timestamp)).astimezone(UTC)
    except ValueError:
        return None


def duration(length: timedelta) -> str:
    """Return a length of time in its two largest units, seconds the smallest."""
    seconds = int(length.total_seconds())
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    units = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds % 60, "s"))
    first = next((place for place, (count, _) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count) or "0 s"


def print_whole(console: Console, shown: RenderableType) -> None:
    """Print something; where it goes to a file or a pipe, as wide as it is, so that no cell is broken."""
    if console.is_terminal:
        console.print(shown)
        return
    unbounded = console.options.update(width=_WIDEST, max_width=_WIDEST)
    width = max(Measurement.get(console, unbounded, shown).maximum, 1)
    plain = Console(file=StringIO(), width=width, color_system=None)
    with plain.capture() as captured:
        plain.print(shown)
    lines = (line.rstrip() for line in captured.get().splitlines())
    console.out("\n".join(lines), highlight=False)


def _cell(column: Column, item: Item) -> Text:
    found = item.get(column.cell) if isinstance(column.cell, str) else column.cell(item)
    return found if isinstance(found, Text) else styled(found)


def print_all(console: Console, shown: RenderableType | Iterable[RenderableType]) -> None:
    """Print one thing, or several with an empty line between them."""
    parts = list(shown) if isinstance(shown, Iterable) and not isinstance(shown, str) else [shown]
    for place, part in enumerate(parts):
        if place:
            console.out("")
        print_whole(console, part)
