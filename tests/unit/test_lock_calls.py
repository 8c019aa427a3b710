"""What receivers say, made fit for a timeline, and how long is waited before they are asked again."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.clusters import LockAction, LockSettings, LockVia, Preset
from keyvigil.domain.lock_calls import (
    ATTEMPTS,
    CALL_SECONDS,
    LONGEST_DETAIL,
    CallOutcome,
    can_be_followed,
    clean,
    longest_pause,
    read_answer,
    receiver_name,
)


@pytest.mark.parametrize(
    ("document", "action", "outcome"),
    [
        ({"result": "locked"}, LockAction.LOCK, CallOutcome.DONE),
        ({"result": "unlocked"}, LockAction.UNLOCK, CallOutcome.DONE),
        ({"result": "locked", "detail": None, "more": 1}, LockAction.LOCK, CallOutcome.DONE),
        ({"result": "failed"}, LockAction.LOCK, CallOutcome.FAILED),
        ({"result": "accepted"}, LockAction.UNLOCK, CallOutcome.ACCEPTED),
        ({"result": "unlocked"}, LockAction.LOCK, CallOutcome.FAILED),
        ({"result": "locked"}, LockAction.UNLOCK, CallOutcome.FAILED),
        ({"result": "LOCKED"}, LockAction.LOCK, CallOutcome.FAILED),
        ({"result": True}, LockAction.LOCK, CallOutcome.FAILED),
        ({}, LockAction.LOCK, CallOutcome.FAILED),
        (None, LockAction.LOCK, CallOutcome.FAILED),
        ("locked", LockAction.LOCK, CallOutcome.FAILED),
        (["locked"], LockAction.LOCK, CallOutcome.FAILED),
    ],
)
def test_only_an_answer_to_what_was_asked_is_success(document: Any, action: LockAction, outcome: CallOutcome) -> None:
    answer = read_answer(document, action)

    assert answer.outcome is outcome
    assert answer.detail is not None or outcome is not CallOutcome.FAILED


def test_a_wrong_answer_is_told_with_what_would_have_been_right() -> None:
    answer = read_answer({"result": "unlocked"}, LockAction.LOCK)

    assert answer.detail == "it answered `unlocked` to a request to lock; `locked`, `failed` or `accepted` fit"


def test_the_receivers_own_reason_is_kept() -> None:
    assert read_answer({"result": "failed", "detail": "quorum lost"}, LockAction.LOCK).detail == "quorum lost"


def test_control_characters_and_separators_of_lines_become_blanks() -> None:
    assert clean("a\r\n\tb\x00\x1b[31mc\u2028d\u202ee") == "a b [31mc d e"


@given(st.text(max_size=5000), st.integers(min_value=1, max_value=600))
def test_whatever_a_receiver_says_becomes_one_short_line_that_can_be_seen(text: str, limit: int) -> None:
    line = clean(text, limit)

    assert len(line) <= limit
    assert not any(unicodedata.category(each).startswith("C") for each in line)
    assert not any(unicodedata.category(each) in {"Zl", "Zp"} for each in line)
    assert len(line.splitlines()) <= 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda each: st.dictionaries(st.text(), each),
        max_leaves=5,
    ),
    st.sampled_from(LockAction),
)
def test_no_answer_is_a_fault_of_ours(document: Any, action: LockAction) -> None:
    answer = read_answer(document, action)

    assert answer.detail is None or len(answer.detail) <= LONGEST_DETAIL


def test_pauses_grow_to_a_limit_and_all_attempts_that_fail_at_once_fit_into_an_invocation() -> None:
    pauses = [longest_pause(attempt) for attempt in range(1, 10)]

    assert pauses == sorted(pauses)
    assert pauses[:5] == [2, 4, 8, 16, 16]
    assert sum(pauses[: ATTEMPTS - 1]) < CALL_SECONDS


@pytest.mark.parametrize(
    ("lock", "name", "followed"),
    [
        (LockSettings(via=LockVia.LAMBDA), "its function", False),
        (LockSettings(via=LockVia.WEBHOOK), "its webhook", False),
        (LockSettings(via=LockVia.WEBHOOK, preset=Preset.NONE), "its webhook", False),
        (LockSettings(via=LockVia.WEBHOOK, preset=Preset.ZILLIZ_CLOUD), "Zilliz Cloud", True),
        (LockSettings(via=LockVia.SSM_AUTOMATION), "its runbook", True),
        (LockSettings(via=LockVia.EVENT), "its control plane", False),
    ],
)
def test_who_can_be_asked_what_became_of_a_request(lock: LockSettings, name: str, *, followed: bool) -> None:
    assert (receiver_name(lock), can_be_followed(lock)) == (name, followed)
