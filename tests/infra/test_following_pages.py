"""Whoever follows a page notices a command that fails, and one that was left out; and keeps what variables hold."""

from pathlib import Path

import pytest

from tests.guides.reader import Page, Pages, Reader
from tests.guides.written_commands import blocks_of

TEXT = """\
# A page

## First

```sh
MADE=$(printf 'keyvigil-%s' acme-prod)
```

## Second

```sh
test "$MADE" = keyvigil-acme-mine
false | true
true
```
"""


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path / "home", project="acme-mine", folder=tmp_path)


def page_with(text: str) -> Page:
    page = Page("docs/new.md")
    page.left = list(blocks_of("docs/new.md", text))
    return page


@pytest.fixture(autouse=True)
def no_such_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.guides.reader.commands_of", lambda _path: [])


def test_a_command_that_fails_is_told_with_what_it_printed(reader: Reader) -> None:
    page = page_with(TEXT.replace("true\n```", "aws --no-such-option\n```"))
    page.follow(reader, "First")
    with pytest.raises(AssertionError, match=r"ended with 1"):
        page.follow(reader, "Second")


def test_variables_live_on_and_the_project_is_the_reader_s_own(reader: Reader) -> None:
    page = page_with(TEXT.replace("false | true\n", ""))
    page.follow(reader)
    assert reader.value("MADE") == "keyvigil-acme-mine"
    assert page.left == []


def test_a_page_is_not_followed_to_its_end_if_a_block_is_left(reader: Reader) -> None:
    page = page_with(TEXT)
    page.follow(reader, "First")
    pages = Pages()
    with pytest.raises(AssertionError, match="not followed"):
        pages.close(page)
    assert pages.seconds == {}


def test_a_chapter_that_is_not_there_is_not_followed(reader: Reader) -> None:
    with pytest.raises(AssertionError, match="no commands left"):
        page_with(TEXT).follow(reader, "Third")


def test_lines_are_held_against_the_statuses_that_they_are_to_end_with(reader: Reader) -> None:
    page = page_with("# A page\n\n```sh\nexit 3\ntrue\n```\n")
    with pytest.raises(AssertionError, match="ended with 3"):
        page.follow(reader)
    page.follow(reader, statuses=(3, 0))
