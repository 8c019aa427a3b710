"""The loser of a race reads again."""

from collections.abc import Callable

from keyvigil.errors import ConflictError

ATTEMPTS = 8
"""How often a decision is made afresh. 200 clusters locking in parallel write to items of their own, so more than a
few losses in a row mean that something is wrong, and the caller's own retry is the better place."""


def until_committed[**P, T](decide_and_commit: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a read-decide-commit step again, from reading, as long as another writer is faster.

    Raises:
        ConflictError: it lost every time.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return decide_and_commit(*args, **kwargs)
        except ConflictError:
            continue
    return decide_and_commit(*args, **kwargs)
