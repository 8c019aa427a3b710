"""Which of a sweep's keys go into a queue of their own, because their probes may hang.

A Region that does not answer keeps a probe for seconds, and must hold up no other Region's keys.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HANGING_KEYS = 20
HANGING_ACCOUNTS = 3
HANGING_PERCENT = 25
"""A Region hangs if so many of its keys are due and unknown, of so many accounts, and such a part of what is due."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A due key, as far as it matters here. `unknown`: its last probe got no answer that says anything about it."""

    account: str
    region: str
    unknown: bool


@dataclass(frozen=True, slots=True)
class Lanes:
    """Positions of the keys of each queue, oldest first. What does not fit into `slow` is in neither, and stays due."""

    fast: Sequence[int]
    slow: Sequence[int]


def hanging(waiting: Iterable[Waiting]) -> frozenset[str]:
    """The Regions that hang. One account's trouble, a quota that is used up, is not its Region's."""
    due: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    accounts: defaultdict[str, set[str]] = defaultdict(set)
    for each in waiting:
        due[each.region] += 1
        if each.unknown:
            unknown[each.region] += 1
            accounts[each.region].add(each.account)
    return frozenset(
        region
        for region, keys in unknown.items()
        if keys >= HANGING_KEYS
        and len(accounts[region]) >= HANGING_ACCOUNTS
        and keys * 100 >= due[region] * HANGING_PERCENT
    )


def divide(waiting: Sequence[Waiting], *, slow: int) -> Lanes:
    """Divide the due keys, oldest first, between the queues, with at most `slow` in the one for what may hang.

    Into that go the keys that are unknown, and all of a Region that hangs. It is the second sweep of an outage at the
    latest that knows of it: the keys of the first are those of one minute.
    """
    hangs = hanging(waiting)
    fast: list[int] = []
    held: list[int] = []
    for place, each in enumerate(waiting):
        (held if each.unknown or each.region in hangs else fast).append(place)
    return Lanes(fast=fast, slow=held[:slow])
