"""When many keys are stale at once, the operator is told so once, and not of each key."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from keyvigil.domain.alerts import AlertType, Notice, Severity
from keyvigil.domain.dangers import STALE, Danger, Mended, Seen, tell
from keyvigil.domain.keys import Told
from keyvigil.domain.verdicts import Remediation

TOLD_SINGLY = 20
"""How many stale keys at once are told one by one: as many as one project can have."""

FEW_AGAIN = TOLD_SINGLY // 2
"""How few must be left before keys are told one by one again, so that a number that wavers is not told each minute."""

STALE_KEYS = "stale-keys"

SOONEST_STALE = timedelta(minutes=2)
"""How long a key has been due at least when it is stale. A key is due half a minute before its interval is over, and
stale after three intervals, the shortest of which is a minute; half a minute is for a slow registration."""

LOOKED_AT = 300
"""How many overdue keys one sweep looks at, those that wait longest first. Two reads each are a few seconds of the
sweep's fifty. Further ones are counted as stale without being looked at: that many are overdue only in an outage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetTold:
    """What the operator was told about the fleet, by its subject."""

    told: Mapping[str, Told] = field(default_factory=dict)
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessDecision:
    """Whether keys are told of one by one, and what is to be told about all of them together."""

    singly: bool
    fleet: FleetTold
    notice: Notice | None


def decide_staleness(stale_keys: int, fleet: FleetTold, now: datetime) -> StalenessDecision:
    """Decide how the operator is told of so many stale keys."""
    told = fleet.told.get(STALE_KEYS)
    many = stale_keys > (TOLD_SINGLY if told is None else FEW_AGAIN)
    seen: Seen
    if many:
        seen = Danger(
            what=STALE,
            step=STALE,
            steps=(STALE,),
            severity=Severity.CRITICAL,
            code="NOT_PROBED",
            message=(
                f"{stale_keys} keys were not probed for three of their intervals: nothing is known about them. They "
                "are not told one by one."
            ),
            remediation=Remediation(
                summary="Look at the alarms and the log of check-keys, and at the check queue and its dead letters."
            ),
        )
    else:
        seen = Mended(message=f"{stale_keys} keys are stale now; they are told one by one again.")
    remembered, notice = tell(AlertType.KEY_STALE, STALE_KEYS, told, seen, now)
    rest = {name: each for name, each in fleet.told.items() if name != STALE_KEYS}
    after = {**rest, STALE_KEYS: remembered} if remembered is not None else rest
    return StalenessDecision(singly=not many, fleet=replace(fleet, told=after), notice=notice)
