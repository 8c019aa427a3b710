"""Each permission is taken away in turn from the running stack, and a drill misses it: nothing is granted in vain.

What the local cloud does not enforce cannot be shown so; `tests/infra/service_needs.py` derives it from the template,
with AWS's page for each. That nobody here misses it is shown by taking all of it away at once.
"""

from concurrent.futures import Future

import pytest

from tests.infra.permissions import Permission
from tests.permissions import drills
from tests.permissions.drill import DRILLS, Drill
from tests.permissions.rehearsal import Rehearsal
from tests.permissions.scene import REFUSED

_ = drills  # importing them adds them
_STORY_SECONDS = 500

MISSED = [(permission, drill) for drill in DRILLS.values() for permission in drill.misses]
ON_PLAIN_STACK = [
    pytest.param(permission, drill, id=str(permission)) for permission, drill in MISSED if not drill.on_full_stack
]
ON_FULL_STACK = [
    pytest.param(permission, drill, id=str(permission)) for permission, drill in MISSED if drill.on_full_stack
]


@pytest.fixture(scope="session", autouse=True)
def story_begins(request: pytest.FixtureRequest) -> None:
    """The story takes minutes, most of which it waits: if it was selected, everything else runs meanwhile."""
    if any(item.name == test_the_story_does_not_miss_what_only_aws_can.__name__ for item in request.session.items):
        request.getfixturevalue("story")


def misses(rehearsal: Rehearsal, permission: Permission, drill: Drill, noticed: dict[Permission, str]) -> None:
    rehearsal.succeeds(drill)
    failure = rehearsal.failure_without(permission, drill)
    noticed[permission] = "NOBODY" if failure is None else f"{drill.name} ({failure.words[:100]})"
    assert failure is not None, (
        f"nobody noticed that {permission} was gone: “{drill.name}” succeeded. Let a drill miss it, or remove it from "
        "template.yaml and docs/permissions.md"
    )
    if rehearsal.stack.functions_of(permission.role):
        # What a receiver's call was refused stands on the cluster, which the drill quotes, and not in the log.
        refused = failure.refusals or REFUSED.search(failure.words)
        assert refused, f"“{drill.name}” failed, but no function of {permission.role} was refused anything"
    rehearsal.succeeds(drill)


@pytest.mark.parametrize(("permission", "drill"), ON_PLAIN_STACK)
def test_a_permission_is_missed(
    permission: Permission, drill: Drill, plain: Rehearsal, noticed: dict[Permission, str]
) -> None:
    misses(plain, permission, drill, noticed)


@pytest.mark.parametrize(("permission", "drill"), ON_FULL_STACK)
def test_a_permission_is_missed_by_the_stack_that_was_given_everything(
    permission: Permission, drill: Drill, full: Rehearsal, noticed: dict[Permission, str]
) -> None:
    misses(full, permission, drill, noticed)


@pytest.mark.parametrize("drill", DRILLS.values(), ids=lambda drill: drill.name)
def test_a_drill_does_not_miss_what_only_aws_can(drill: Drill, without_what_aws_needs: Rehearsal) -> None:
    try:
        without_what_aws_needs.succeeds(drill)
    except Exception as error:
        message = (
            f"“{drill.name}” misses something that only AWS can miss, as tests/infra/service_needs.py has it. The "
            "failure shows what: let the drill name it, and take it out of there"
        )
        raise AssertionError(message) from error


def test_the_story_does_not_miss_what_only_aws_can(story: Future[str]) -> None:
    assert "cluster.unlocked" in story.result(timeout=_STORY_SECONDS)
