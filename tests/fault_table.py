"""docs/fault-table.md: which fault shows as which verdict. Tests make it, part by part, and hold it against their runs.

`make fault-table` writes what was observed; any other run fails if it observed something else than is written.
"""

import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "fault-table.md"
WRITE = "KEYVIGIL_WRITE_FAULT_TABLE"
"""The environment variable that lets a run write the page."""

TITLE = "# Which fault shows as which verdict"
PARTS: dict[str, str] = {
    "STS and KMS, on the local cloud": (
        "The real stack, deployed to the local cloud; microburst fails the calls that `check_keys` makes about one "
        "role or key. Each key was probed by `POST …/check` and again by a sweep while the fault lasted, and by "
        "`check` after it."
    ),
    "DynamoDB, on the local cloud": (
        "The same, with the calls that `check_keys` makes to the table failing. What cannot be stored is not: the key "
        "is as it was, and stays due."
    ),
    "KeyVigil's own permissions, on the local cloud": (
        "The same, with permissions taken away, canaries broken and a Region denied. Each customer's key was probed by "
        "`POST …/check`; their roles and keys were in order unless the row says otherwise."
    ),
    "Answers that the local cloud cannot give": (
        "The real prober with botocore's real client, against a server on this machine that answers as written, or not "
        "at all."
    ),
}
"""The parts of the page, each made by one test, with how it was shown."""

_lock = threading.Lock()


@dataclass(frozen=True)
class Observed:
    """One row: a fault, where it struck, what must come of it, and what did."""

    fault: str
    at: str
    expected: str
    observed: str

    @property
    def is_right(self) -> bool:
        """Whether it came as it must."""
        return self.expected == self.observed

    def __str__(self) -> str:
        """The row as the page has it."""
        ended = "right" if self.is_right else "wrong"
        return f"| {self.fault} | {self.at} | {self.expected} | {self.observed} | {ended} |"


def counts(rows: int, wrong: int) -> str:
    """The sentence that says how many there are."""
    return f"{rows} rows: {rows - wrong} right, {wrong} wrong."


def _part(name: str, rows: Sequence[Observed]) -> str:
    wrong = sum(not row.is_right for row in rows)
    header = "| fault | at | expected | observed | |\n|---|---|---|---|---|"
    return "\n\n".join((f"## {name}", PARTS[name], counts(len(rows), wrong), "\n".join((header, *map(str, rows)))))


def parts_of(page: str) -> dict[str, str]:
    """The parts of a page, by their names."""
    return {each.split("\n", 1)[0]: f"## {each.strip()}" for each in page.split("\n## ")[1:]}


def rows_of(page: str) -> list[str]:
    """How each row of a page ended: `right` or `wrong`."""
    return re.findall(r"\| (right|wrong) \|$", page, flags=re.MULTILINE)


def page_of(parts: dict[str, str]) -> str:
    """The page that these parts make."""
    ended = rows_of("\n".join(parts.values()))
    head = (
        "What is KeyVigil's own trouble, AWS's or the network's is UNKNOWN: it opens no incident and locks nothing. "
        "`make fault-table` makes this page by running the tests that inject the faults; `make test` fails if it "
        "observes anything else.\n\n"
        f"In all {counts(len(ended), ended.count('wrong'))}"
    )
    return "\n\n".join((TITLE, head, *(parts[name] for name in PARTS if name in parts))) + "\n"


def tell(name: str, rows: Sequence[Observed]) -> None:
    """Compare what a test observed with the page, or write it, and fail if anything is wrong."""
    made = _part(name, rows)
    with _lock:
        parts = parts_of(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
        if os.environ.get(WRITE):
            PAGE.write_text(page_of({**parts, name: made}), encoding="utf-8")
        else:
            assert parts.get(name) == made, f"{PAGE.name} says otherwise; if that is meant, run `make fault-table`"
    assert [str(row) for row in rows if not row.is_right] == []
