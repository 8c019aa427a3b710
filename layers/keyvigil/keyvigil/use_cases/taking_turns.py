"""A sweep has less than a minute: of a list that is too long for one, each takes its part."""

from collections.abc import Sequence
from datetime import datetime


def turn[T](items: Sequence[T], at_most: int, now: datetime) -> Sequence[T]:
    """The part of a list that this minute's sweep takes; the next minute's takes the next, and all have their turn.

    Taking the oldest each time would let what cannot be done keep the rest from ever being tried.
    """
    if len(items) <= at_most:
        return items
    start = int(now.timestamp()) // 60 * at_most % len(items)
    return [*items[start:], *items[:start]][:at_most]
