"""docs/causes.md against the code: every cause is explained, and what is said to show it does."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from keyvigil.domain.verdicts import DEFINITE_CAUSES, OUTCOME_OF_CAUSE, Cause, Outcome
from tests.e2e.cause_stories import CASES, FAULTS, OTHERS, SHOWN
from tests.unit.test_kms_prober import STUBBED

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "causes.md").read_text(encoding="utf-8")
CHAPTERS = dict(chapter.split("\n", 1) for chapter in re.split("^## ", PAGE, flags=re.MULTILINE)[1:])
NO_CAUSE = "What breaks nothing"


def listed(chapter: str, label: str) -> list[str]:
    """The names in one point of a chapter."""
    found = re.search(rf"^- \*\*{label}:\*\*(.*?)(?=^- |\Z)", chapter, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{label} is missing"
    names = re.findall(r"`(\w+)`", found[1])
    assert names or found[1].strip() == "no"
    return names


def test_the_page_has_a_chapter_for_every_cause_and_none_for_what_is_no_cause() -> None:
    assert [name for name in CHAPTERS if name != NO_CAUSE] == sorted(
        Cause, key=lambda cause: OUTCOME_OF_CAUSE[cause] is Outcome.UNKNOWN
    )


@pytest.mark.parametrize("cause", Cause)
def test_each_chapter_says_what_the_cause_does_and_what_shows_it(cause: Cause) -> None:
    chapter = CHAPTERS[cause]

    assert chapter.strip().startswith(f"{OUTCOME_OF_CAUSE[cause]}. ")
    for label in ("Shows as", "Mended by"):
        assert f"- **{label}:** " in chapter
    assert listed(chapter, "Local cloud") == SHOWN[cause]
    assert listed(chapter, "Stubber") == [name for name, case in STUBBED.items() if case.cause is cause]


def test_every_cause_that_a_probe_can_give_is_shown_somewhere() -> None:
    shown = {cause for cause, names in SHOWN.items() if names} | {case.cause for case in STUBBED.values()}

    assert shown == set(Cause)


def test_the_definite_causes_are_named_and_the_others_marked() -> None:
    head = PAGE.partition("\n## ")[0]
    unhealthy = {cause for cause in Cause if OUTCOME_OF_CAUSE[cause] is Outcome.UNHEALTHY}

    assert {cause for cause in Cause if re.search(rf"\b{cause}\b", head)} == DEFINITE_CAUSES
    ambiguous = {cause for cause in unhealthy if "mbiguous" in CHAPTERS[cause].partition("- **")[0]}
    assert ambiguous == unhealthy - DEFINITE_CAUSES


def test_every_story_of_a_cause_stands_on_the_page() -> None:
    def missing(names: Iterable[str]) -> list[str]:
        return [name for name in names if f"`{name}`" not in PAGE]

    assert missing([*CASES, *FAULTS, *OTHERS, *STUBBED]) == []


def test_what_is_mended_on_the_local_cloud_is_every_cause_that_can_be_mended_there() -> None:
    """The rest: a key that is gone, a key of another kind, and the stores that the local cloud has not got."""
    mended = {case.cause for case in CASES.values()}

    assert {cause for cause in Cause if OUTCOME_OF_CAUSE[cause] is Outcome.UNHEALTHY} - mended == {
        Cause.KEY_NOT_FOUND,
        Cause.KEY_WRONG_USAGE,
        Cause.KEY_STORE_UNAVAILABLE,
    }
