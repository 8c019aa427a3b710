"""What a sandbox makes once, whichever of its threads asks first."""

from collections.abc import Callable
from functools import update_wrapper
from threading import RLock

_making = RLock()


class once[T]:  # noqa: N801  it is used as a decorator, like functools.cache
    """A function without arguments that is called once; its result is given to all who ask.

    `functools.cache` calls it once for each thread that asks before there is a result: a batch of ten keys in a new
    sandbox made ten probers, with ten sets of clients, and asked the canaries of ten. What it raises is not kept.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        """Keep the function; nothing is made yet."""
        update_wrapper(self, make)
        self.__wrapped__ = make
        self._made: tuple[T] | None = None

    def __call__(self) -> T:
        """What was made, or is made now."""
        made = self._made
        if made is None:
            # One lock for all: what is made asks for what else it needs, in no fixed order.
            with _making:
                made = self._made = self._made or (self.__wrapped__(),)
        return made[0]

    def cache_clear(self) -> None:
        """Forget it, so that it is made anew: for tests."""
        self._made = None
