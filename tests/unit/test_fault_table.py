"""The page of faults is whole: its parts are those that tests make, and its counts are those of its rows."""

from pathlib import Path

import pytest

from tests import fault_table
from tests.fault_table import PAGE, PARTS, Observed, counts, page_of, parts_of, rows_of, tell

RIGHT = Observed("throttling", "STS AssumeRole", "UNKNOWN THROTTLED", "UNKNOWN THROTTLED")
WRONG = Observed("a reset", "KMS Encrypt", "UNKNOWN NETWORK", "UNHEALTHY ACCESS_DENIED")
NAME = next(iter(PARTS))


def test_the_page_has_every_part_and_counts_its_rows_right() -> None:
    page = PAGE.read_text(encoding="utf-8")
    parts = parts_of(page)

    assert list(parts) == list(PARTS)
    assert page == page_of(parts)
    for part in parts.values():
        assert counts(len(rows_of(part)), 0) in part
    assert len(rows_of(page)) >= 40
    assert set(rows_of(page)) == {"right"}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_table, "PAGE", tmp_path / "fault-table.md")
    monkeypatch.delenv(fault_table.WRITE, raising=False)


@pytest.mark.usefixtures("page")
def test_a_run_that_observes_something_else_than_is_written_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="run `make fault-table`"):
        tell(NAME, [RIGHT])
    monkeypatch.setenv(fault_table.WRITE, "1")
    tell(NAME, [RIGHT])
    monkeypatch.delenv(fault_table.WRITE)
    tell(NAME, [RIGHT])
    with pytest.raises(AssertionError, match="run `make fault-table`"):
        tell(NAME, [RIGHT, RIGHT])


@pytest.mark.usefixtures("page")
def test_what_is_wrong_is_written_and_counted_and_fails_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fault_table.WRITE, "1")
    with pytest.raises(AssertionError):
        tell(NAME, [RIGHT, WRONG])
    written = fault_table.PAGE.read_text(encoding="utf-8")
    assert written.count("2 rows: 1 right, 1 wrong.") == 2
    assert rows_of(written) == ["right", "wrong"]
    monkeypatch.delenv(fault_table.WRITE)
    with pytest.raises(AssertionError):
        tell(NAME, [RIGHT, WRONG])
