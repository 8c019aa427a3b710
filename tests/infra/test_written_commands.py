"""Every command in README and docs is run by a test, or stands in a table with the reason why not."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from keyvigil_cli.main import app
from tests.guides.written_commands import (
    CUSTOMER,
    FOLLOWED,
    GUIDE,
    MAKE,
    NOT_RUN,
    OPERATOR,
    ROOT,
    Block,
    blocks_of,
    commands_of,
    pages,
)

# Inline: `make check`, `keyvigil fleet --html FILE`.
_INLINE = re.compile(r"(?<!`)`(make|keyvigil) ([^`]+)`(?!`)", re.DOTALL)
_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def what_runs(block: Block) -> str | None:
    """What runs a block; None if nothing does and nobody says why."""
    if block.why_not_run is not None:
        return block.why_not_run
    if block.page == GUIDE and block.language == "sh":
        return "test_deploy_guide.py"
    if block.page in FOLLOWED:
        return FOLLOWED[block.page]
    lines = block.text.splitlines()
    if all(re.fullmatch(r"make [a-z-]+", line) for line in lines):
        reasons = [MAKE.get(line.removeprefix("make ")) for line in lines]
        return None if None in reasons else "; ".join(map(str, reasons))
    return None


def every_command() -> list[Block]:
    return [block for page in pages() for block in commands_of(page)]


@pytest.mark.parametrize("block", every_command(), ids=lambda block: f"{block.page}: {block.text.splitlines()[0][:50]}")
def test_a_command_on_a_page_is_run_by_a_test_or_has_the_reason_why_not(block: Block) -> None:
    assert what_runs(block), f"{block.page}, {block.chapter}: no test runs\n{block.text}"


def test_every_fence_says_what_it_holds() -> None:
    """So that no command hides: those without a word are looked at by how they begin, and there are none."""
    assert [(block.page, block.text[:40]) for page in pages() for block in blocks_of(page) if not block.language] == []


def test_a_command_that_nothing_runs_is_found() -> None:
    for fence in ("sh", "text", ""):
        [block] = blocks_of("docs/new.md", f"# New\n\n```{fence}\naws s3 ls\n```\n")
        assert block.is_command
        assert what_runs(block) is None
    [indented] = blocks_of("docs/new.md", "1. First\n\n   ```sh\n   make nothing-of-this-name\n   ```\n")
    assert indented.text == "make nothing-of-this-name\n"
    assert what_runs(indented) is None
    [drawing] = blocks_of("docs/new.md", "```text\nEventBridge ──► plan_sweep\n```\n")
    assert not drawing.is_command


def test_every_reason_is_needed() -> None:
    commands = every_command()
    assert [begin for begin in NOT_RUN if not any(block.text.startswith(begin) for block in commands)] == []
    shown = {line for block in commands for line in block.text.splitlines()}
    assert [target for target in MAKE if f"make {target}" not in shown] == []
    assert [page for page in FOLLOWED if not commands_of(page)] == []


def test_targets_that_the_guide_and_ci_are_said_to_run_are_run_by_them() -> None:
    guide = "".join(block.text for block in commands_of(GUIDE))
    for target in ("build", "deploy", "uninstall"):
        assert re.search(rf"^make .*\b{target}$", guide, re.MULTILINE), target
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert {"make test", "make test-guides"} <= set(ci)


@pytest.mark.parametrize(("page", "test"), FOLLOWED.items())
def test_a_page_that_is_said_to_be_followed_is_named_by_the_test_that_follows_it(page: str, test: str) -> None:
    assert re.search(rf"\b{re.escape(Path(page).stem)}\b", (ROOT / "tests" / "guides" / test).read_text())


def test_readme_leads_to_both_quick_starts() -> None:
    readme = (ROOT / "README.md").read_text()
    for page in (OPERATOR, CUSTOMER):
        assert f"]({page})" in readme


def inline(of: str) -> Iterator[tuple[str, list[str]]]:
    for page in pages():
        for program, rest in _INLINE.findall((ROOT / page).read_text()):
            if program == of:
                yield page, rest.split()


def test_every_target_that_a_page_names_exists() -> None:
    named = [(page, word) for page, words in inline("make") for word in words if re.fullmatch(r"[a-z-]+", word)]
    assert len(named) > 20
    assert [(page, word) for page, word in named if word not in _TARGETS] == []


def leads_nowhere(words: list[str]) -> bool:
    """Whether `keyvigil` has no such command."""
    command: Any = typer.main.get_command(app)
    for word in words:
        known = getattr(command, "commands", None)
        if known is None or not re.fullmatch(r"[a-z][a-z-]*", word):
            return False
        if word not in known:
            return True
        command = known[word]
    return False


def test_every_command_of_keyvigil_that_a_page_names_exists() -> None:
    named = [(page, words) for page, words in inline("keyvigil") if words[0] != "…"]
    assert len(named) > 10
    assert [(page, words) for page, words in named if leads_nowhere(words)] == []
    assert leads_nowhere(["incident", "aprove"])
    assert leads_nowhere(["flet"])
