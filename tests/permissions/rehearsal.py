"""Playing drills on a stack, whole and with something taken away."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.infra.permissions import Permission
from tests.permissions.drill import Drill
from tests.permissions.running_stack import RunningStack
from tests.permissions.scene import Scene


@dataclass(frozen=True)
class Failure:
    """How a drill failed, and what the function that was narrowed logged about being refused."""

    words: str
    seconds: float
    refusals: tuple[str, ...]


class Rehearsal:
    """A stack, and the drills that have succeeded on it since it was last whole."""

    def __init__(self, scene: Scene, stack: RunningStack) -> None:
        self.scene = scene
        self.stack = stack
        self._succeeds: set[str] = set()

    def succeeds(self, drill: Drill) -> None:
        """Play a drill that must succeed, unless it did since anything was changed."""
        if drill.name not in self._succeeds:
            self._play(drill)
            self._succeeds.add(drill.name)

    def failure_without(self, permission: Permission, drill: Drill) -> Failure | None:
        """Play a drill without one permission; None if it succeeded all the same."""
        self._succeeds.discard(drill.name)
        began, clock = datetime.now(UTC), time.monotonic()
        with self.stack.without(permission):
            try:
                self._play(drill)
            except Exception as error:  # noqa: BLE001 - however it fails: its success before and after shows why
                words = " ".join(f"{type(error).__name__}: {error}".split())
            else:
                return None
        refusals = self.scene.refusals(self.stack.functions_of(permission.role), began)
        return Failure(words, time.monotonic() - clock, tuple(refusals))

    def _play(self, drill: Drill) -> None:
        try:
            drill.play(self.scene)
        finally:
            self.scene.tidy()
