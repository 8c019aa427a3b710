"""Who did it: which recorded call can explain an outage, and when CloudTrail is asked for one. No clock and no I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType

from keyvigil.domain.actors import Actor
from keyvigil.domain.incidents import Incident
from keyvigil.domain.verdicts import DEFINITE_CAUSES, Cause

EXPLANATIONS: Mapping[Cause, tuple[str, ...]] = MappingProxyType(
    {
        # A cancelled deletion leaves the key Disabled.
        Cause.KEY_DISABLED: ("DisableKey", "CancelKeyDeletion"),
        Cause.KEY_PENDING_DELETION: ("ScheduleKeyDeletion",),
        Cause.KEY_NOT_FOUND: ("ScheduleKeyDeletion",),
        Cause.KEY_MATERIAL_MISSING: ("DeleteImportedKeyMaterial",),
        Cause.CIPHERTEXT_UNREADABLE: ("DeleteImportedKeyMaterial", "ImportKeyMaterial"),
        Cause.KEY_STORE_UNAVAILABLE: ("DisconnectCustomKeyStore", "UpdateCustomKeyStore"),
        Cause.ROLE_NOT_ASSUMABLE: ("UpdateAssumeRolePolicy", "DeleteRole", "CreateRole"),
        Cause.ACCESS_DENIED: (
            "PutKeyPolicy",
            "RevokeGrant",
            "RetireGrant",
            "PutRolePolicy",
            "DeleteRolePolicy",
            "DetachRolePolicy",
            "AttachRolePolicy",
            "PutRolePermissionsBoundary",
            "DeleteRole",
            "UntagResource",
            "TagResource",
        ),
    }
)
"""The calls that can bring a cause about, the likeliest first. A cause that is not here is nobody's call.

Source: https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html, and for the authorization by grants and
tags https://docs.aws.amazon.com/kms/latest/developerguide/control-access.html
"""

_EXPLAINING = frozenset(name for names in EXPLANATIONS.values() for name in names)

_SPREADS_OVER = timedelta(minutes=1)
_POLICY_SPREADS_OVER = timedelta(minutes=5)
_SESSION_HIDES_FOR = timedelta(minutes=15)


def takes_effect_within(cause: Cause) -> timedelta:
    """How long after the call that brought a cause about a probe may still have found the key healthy.

    A key's state spreads within seconds, policies and grants within five minutes, and a trust policy shows only when
    the role's session, used again for ten minutes, is over. The shorter this is, the less an earlier call that was
    undone since can be taken for the one that did it.
    https://docs.aws.amazon.com/kms/latest/developerguide/programming-eventual-consistency.html
    """
    if cause is Cause.ROLE_NOT_ASSUMABLE:
        return _SESSION_HIDES_FOR
    return _SPREADS_OVER if cause in DEFINITE_CAUSES else _POLICY_SPREADS_OVER


UNKNOWN_LAST_HEALTHY = timedelta(hours=1)
"""How long before its incident an outage may have begun if nobody knows when the key was last healthy: the longest
check interval."""


def window(incident: Incident) -> tuple[datetime, datetime]:
    """From when to when the call was made that brought an incident about: its cause is the one that was confirmed."""
    healthy = incident.last_healthy_at or incident.opened_at - UNKNOWN_LAST_HEALTHY
    return healthy - takes_effect_within(incident.cause), incident.confirmed_at or incident.opened_at


def find_actor(incident: Incident, calls: Iterable[Actor]) -> Actor | None:
    """The newest of these calls, all of them about the incident's key or its role, that can explain the incident."""
    since, until = window(incident)
    names = EXPLANATIONS.get(incident.cause, ())
    able = [call for call in calls if call.event_name in names and since <= call.event_time <= until]
    return max(able, key=lambda call: call.event_time, default=None)


HINT_KEPT = timedelta(hours=24)
"""How old a call may be that an event told of. An outage is found within its check interval; only a key that nobody
could tell anything about for long is found broken much later."""

CLOCKS_DIFFER = timedelta(minutes=5)
"""How far in the future a recorded call may seem to be. What is later than that is not believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventHints:
    """What events told of a key: of each call that can explain an outage the newest, so at most one of each name.

    It is an item beside the key, so that what comes from outside writes no item that a probe decides on.
    """

    project_id: str
    key_id: str
    calls: tuple[Actor, ...] = ()
    kept_until: datetime
    version: int = 0


def remember(hints: EventHints, call: Actor, now: datetime) -> EventHints | None:
    """Take a call into what is known of a key; None if it says nothing new. What is old is forgotten."""
    known = {each.event_name: each for each in hints.calls if now - each.event_time <= HINT_KEPT}
    before = known.get(call.event_name)
    if call.event_name not in _EXPLAINING or not now - HINT_KEPT <= call.event_time <= now + CLOCKS_DIFFER:
        return None
    if before is not None and before.event_time >= call.event_time:
        return None
    known[call.event_name] = call
    calls = tuple(sorted(known.values(), key=lambda each: each.event_name))
    return replace(hints, calls=calls, kept_until=now + HINT_KEPT)


LOOKUPS_AFTER = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 30))
"""When CloudTrail is asked, after an incident opened: it is about five minutes late on average.

Source: https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-concepts.html
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSearch:
    """The search for who brought an incident about, from its opening without an actor until it ends.

    It is asked for again at `next_at`; None waits for the incident's end. `done_at` ends it.
    """

    incident_id: str
    project_id: str
    key_id: str
    account_id: str
    opened_at: datetime
    next_at: datetime | None
    incident_over: bool = False
    lookups: int = 0
    done_at: datetime | None = None
    version: int = 0


def begin_search(incident: Incident, account_id: str) -> ActorSearch:
    """The search that a new incident without an actor begins with."""
    return ActorSearch(
        incident_id=incident.incident_id,
        project_id=incident.project_id,
        key_id=incident.key_id,
        account_id=account_id,
        opened_at=incident.opened_at,
        next_at=incident.opened_at + LOOKUPS_AFTER[0],
    )


def is_due(search: ActorSearch, now: datetime) -> bool:
    """Say whether CloudTrail is to be asked now."""
    return search.done_at is None and search.next_at is not None and search.next_at <= now


def at_end(search: ActorSearch, now: datetime) -> ActorSearch:
    """The search when its incident is over: CloudTrail is asked once more at once, and then as planned."""
    if search.done_at is not None or search.incident_over:
        return search
    return replace(search, next_at=now, incident_over=True)


def after_lookup(search: ActorSearch, now: datetime) -> ActorSearch:
    """The search after CloudTrail was asked and named nobody, whatever the reason."""
    planned = (search.opened_at + after for after in LOOKUPS_AFTER)
    following = min((at for at in planned if at > now), default=None)
    done_at = now if following is None and search.incident_over else None
    return replace(search, next_at=following, lookups=search.lookups + 1, done_at=done_at)


def found(search: ActorSearch, now: datetime) -> ActorSearch:
    """The search when it is over: somebody was found, or nothing is left to be explained."""
    return replace(search, next_at=None, done_at=now)
