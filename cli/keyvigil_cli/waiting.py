"""Waiting for something to become true: polling, with a deadline, and words for when it did not."""

import time
from collections.abc import Callable

from keyvigil_cli.errors import CliError


class DeadlineExceededError(CliError):
    """What was waited for did not happen in time."""

    def __init__(self, waited_for: str, seconds: float, last_seen: str) -> None:
        """Say what was waited for, how long, and what was seen last."""
        super().__init__(f"waited {seconds:.0f} s for {waited_for}; last seen: {last_seen}")
        self.waited_for = waited_for
        self.last_seen = last_seen


def wait_until[T](
    waited_for: str,
    look: Callable[[], T],
    is_there: Callable[[T], bool],
    *,
    within: float,
    every: float = 0.5,
    show: Callable[[T], str] = repr,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Look every ``every`` seconds until ``is_there`` accepts what was seen, and return it.

    It looks at least once, and once more after the deadline has passed while it slept, so that a slow
    machine is not told that something is missing which is there. Whatever ``look`` raises goes through.

    Raises:
        DeadlineExceededError: after ``within`` seconds, with ``show`` of what was seen last.
    """
    deadline = clock() + within
    while True:
        last_try = clock() >= deadline
        seen = look()
        if is_there(seen):
            return seen
        if last_try:
            raise DeadlineExceededError(waited_for, within, show(seen))
        sleep(every)
