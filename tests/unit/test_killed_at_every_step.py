"""Nothing is left half done: every function of the two workflows dies at every step, and the end is always right.

The story of dying_functions.py is played once to record every call of a port that a function makes, and then again for
each of them: the function dies right before it, and right after its last one. Between two calls nothing happens that
anybody could see, so that is before every call, between every call and every write, and after every write. It dies
once; or whenever it comes to that call again, for longer than a step is tried again; or its execution ends with it.
However it dies, all clusters are LOCKED, in the table and in truth, before the key works again, and ACTIVE after; the
incident is resolved; no two executions of a kind are at work at once; everything was told, and nothing still fires; no
fence was used twice.

It can fail. Each of these, done to a copy of the sources, made so many of its 30 tests red (2026-11-23):

| what was broken | red |
|---|---|
| reconciling sends nothing again | 2 |
| reconciling does not wake a step whose answer went no further than the table | 4 |
| reconciling fails no lock whose time is over | 5 |
| reconciling never starts a lockout | 10 |
| reconciling never starts a recovery | 5 |
| reconciling does not settle a lockout | 5 |
| reconciling does not settle a recovery | 3 |
| the relay marks a row as sent before it sends it | 2 |
| a request keeps the fence of the one before | 30 |

What it does not notice, because something else makes up for it: a step that is not tried again, or whose failure ends
the execution as a success (reconciling starts another one).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO

import pytest

from keyvigil import wiring
from tests.unit.dying_functions import FUNCTIONS, Call, Death, Extent, Moment, Outage

STEPS = (
    "check_keys",
    "decide_lockout",
    "lock_cluster",
    "settle_lockout",
    "decide_recovery",
    "unlock_cluster",
    "settle_recovery",
)
"""The functions that an execution invokes."""


class Stage:
    """Where the story is played: the functions' handlers find in `wiring` what the play brings."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.play = Outage()
        for name in self.play.use_cases:
            patch.setattr(wiring, name, lambda name=name: self.play.use_cases[name])

    def wrong(self, death: Death | None = None, prologue: Callable[[], None] = lambda: None) -> list[str]:
        """Play the story with a death, after a prologue; what is not as it should be."""
        self.play = Outage(death)
        prologue()
        with redirect_stdout(StringIO()):  # metrics, thousands of lines of them
            wrong = self.play.play()
        if death is not None and not self.play.died:
            wrong.append("nothing died")
        return wrong


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    logging.disable(logging.CRITICAL)
    yield Stage(monkeypatch)
    logging.disable(logging.NOTSET)


def invocations(stage: Stage, function: str) -> list[list[Call]]:
    """What a function calls, once for every course that its invocations take."""
    assert stage.wrong() == []
    found: dict[int, list[Call]] = {}
    for call in stage.play.calls:
        if call.function == function:
            found.setdefault(call.invocation, []).append(call)
    return list({tuple(call.port for call in calls): calls for calls in reversed(found.values())}.values())


def deaths(stage: Stage, function: str, extent: Extent) -> Iterator[Death]:
    for calls in invocations(stage, function):
        yield from (Death(call, Moment.BEFORE, extent) for call in calls)
        yield Death(calls[-1], Moment.AFTER, extent)


pytestmark = pytest.mark.filterwarnings("ignore:No application metrics to publish")


def test_without_any_death_the_story_ends_well(stage: Stage) -> None:
    assert stage.wrong() == []
    assert {call.function for call in stage.play.calls} == set(FUNCTIONS)


@pytest.mark.parametrize("extent", [Extent.ONCE, Extent.A_WHILE])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_that_dies_leaves_nothing_half_done(function: str, extent: Extent, stage: Stage) -> None:
    wrong = {str(death): stage.wrong(death) for death in list(deaths(stage, function, extent))}
    assert len(wrong) > 1
    assert {death: found for death, found in wrong.items() if found} == {}


@pytest.mark.parametrize("function", STEPS)
def test_an_execution_that_is_killed_in_a_step_leaves_nothing_half_done(function: str, stage: Stage) -> None:
    wrong = {str(death): stage.wrong(death) for death in list(deaths(stage, function, Extent.EXECUTION))}
    assert len(wrong) > 1
    assert {death: found for death, found in wrong.items() if found} == {}
