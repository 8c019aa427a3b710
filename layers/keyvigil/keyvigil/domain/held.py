"""What a confirmed outage may wait for before its clusters are locked."""

from enum import StrEnum


class HeldFor(StrEnum):
    """What a HELD incident waits for; the contract's words."""

    BRAKE = "brake"
    APPROVAL = "approval"
    GRACE = "grace"
    FLAPPING = "flapping"
    CEILING = "ceiling"
    OPERATOR = "operator"
