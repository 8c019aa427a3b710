"""Which outbox rows are set aside: those that no repetition helps. What is merely late is tried for ever."""

from collections.abc import Mapping
from datetime import timedelta

from keyvigil.domain.alerts import Target

STUMBLES_FOR = timedelta(minutes=15)
"""How long a row is tried that makes our own code fail, in a way that nobody foresaw: some fifteen times. It may be a
passing fault of the sandbox; if it is the row, nothing but a person or another version mends it."""


def decide_aside(refused: Mapping[Target, bool], stumbled: Mapping[Target, bool], *, age: timedelta) -> str | None:
    """Why a row is set aside now, or None if it is not: because it is sent, or may still be.

    As long as one of its targets may take it yet, a row stays on the list: what the others refused costs that one
    nothing. So every target that can have the row has it before the row is set aside.

    Args:
        refused: for each target that did not take the row, whether it said that it never will.
        stumbled: for each of them, whether our own code failed before the target could say anything.
        age: since the row was written.
    """
    if not refused:
        return None
    in_vain = {target: refused[target] or (stumbled[target] and age >= STUMBLES_FOR) for target in refused}
    if not all(in_vain.values()):
        return None
    if any(stumbled.values()):
        return f"it could not be sent for {STUMBLES_FOR // timedelta(minutes=1)} minutes"
    return "it will never be taken"
