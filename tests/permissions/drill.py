"""Drills: the shortest use of a function that misses a permission, each a sentence that must hold."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.infra.permissions import Permission
from tests.permissions.scene import Scene

type Play = Callable[[Scene], None]


@dataclass(frozen=True)
class Drill:
    """What is done, and which permissions it cannot be done without.

    ``with_key`` says that it is about a stack that was given ``KmsKeyArn``, ``with_faults`` that it needs calls to
    fail: the stack that was given everything stands behind a proxy, so it is played there.
    """

    name: str
    play: Play
    misses: tuple[Permission, ...]
    with_key: bool
    with_faults: bool = False

    @property
    def on_full_stack(self) -> bool:
        """Whether it is played on the stack that was given everything."""
        return self.with_key or self.with_faults


DRILLS: dict[str, Drill] = {}


def on(role: str, thing: str, *actions: str) -> tuple[Permission, ...]:
    """Some actions of one role on one thing, in the words of ``docs/permissions.md``."""
    return tuple(Permission(role, action, thing) for action in actions)


def drill(*misses: tuple[Permission, ...], with_key: bool = False, with_faults: bool = False) -> Callable[[Play], Play]:
    """Make a function a drill that fails when any one of these permissions is gone."""

    def add(play: Play) -> Play:
        DRILLS[play.__name__] = Drill(
            name=play.__name__.replace("_", " "),
            play=play,
            misses=tuple(permission for some in misses for permission in some),
            with_key=with_key,
            with_faults=with_faults,
        )
        return play

    return add
