"""The shapes of stored bodies, by number. An older one becomes the newest when it is read; a newer one is refused.

A kind's newest number is one more than it has steps, so a new shape is a new step and nothing else. `make schemas`
keeps the shapes themselves, and a test holds the entities against them. Why: docs/decisions/0008-schema-numbers.md.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from keyvigil.errors import DamagedItemError, NewerItemError

type Body = Mapping[str, Any]
"""A stored body: JSON data as `plain_data.to_plain` made it."""

type Step = Callable[[Body], Body]
"""Makes a body of one number into the next. Pure, and it names every field that it adds or takes away."""

FIRST = 1
"""The number of what was written before numbers were looked at, and of an item without one."""


def _with_executions_counted_and_told(incident: Body) -> Body:
    """INCIDENT 1 to 2: the first versions counted no executions, and did not keep that an alert is firing.

    Uncounted, the next execution would get the name of the first, which has ended, and never start. Not told,
    nobody would resolve `cluster.locked`. Number 1 was written with and without these fields; those that are there
    are right.
    """
    executions = [str(name).rsplit("-", 2)[1] for name in incident.get("executions", ())]
    locked = incident["status"] in {"LOCKED", "PARTLY_LOCKED", "UNLOCKING"}
    told = locked and bool(incident.get("clusters"))
    return {
        "lockouts": executions.count("lock"),
        "recoveries": executions.count("unlock"),
        "clusters_told": told,
        **incident,
    }


def _with_all_that_came_after(key: Body) -> Body:
    """KEY 1 to 2: no secret, rebaselines, backups, dangers told, openings counted or closer look yet.

    Number 1 was written with and without some of these fields; those that are there are right.
    """
    unseen = {
        "primary_region": None,
        "key_state": None,
        "closer": None,
        "custom_key_store_id": None,
        "deletion_cancelled": False,
    }
    return {
        "rebaselines": [],
        "probe_secret_arn": None,
        "backups": {},
        "told": {},
        "unknown_told": False,
        "incidents_opened": [],
        **key,
        "facts": {**unseen, **key["facts"]},
    }


def _with_every_check_whole(key: Body) -> Body:
    """KEY 2 to 3: there was no plan but `full`."""
    return {"lean_until": None, **key}


def _by_event_or_in_the_registry(cluster: Body) -> Body:
    """CLUSTER 1 to 2: no receiver that is called, so nothing that belongs to one and no receipt."""
    called = ("function_arn", "url", "secret_arn", "preset", "document_name", "parameters")
    lock = {**dict.fromkeys(called), **cluster["lock"]}
    return {"receipt": None, **cluster, "lock": lock}


def _without_reasons(clusters: Iterable[Body]) -> list[Body]:
    """Affected clusters, of whose failures nobody kept the reason."""
    return [{"detail": None, **each} for each in clusters]


def _with_account_unknown(incident: Body) -> Body:
    """INCIDENT 2 to 3: nobody looked for who did it or for flapping; the account and clusters' reasons are not known.

    An outage of an account that is not known counts as its project's, for the brake.
    """
    decision = incident.get("decision")
    return {
        "actor": None,
        "last_healthy_at": None,
        "account_id": "",
        "flapping": False,
        **incident,
        "clusters": _without_reasons(incident.get("clusters", ())),
        "decision": {"held_for": None, **decision} if decision else None,
    }


def _with_dead_letters_unknown(subscription: Body) -> Body:
    """SUBSCRIPTION 1 to 2: not known to have dead letters, so that a sweep brings it under them.

    Number 1 was written with and without the field; one that is there is right.
    """
    return {"dead_letters_arn": None, **subscription}


def _for_a_project(row: Body) -> Body:
    """OUTBOX 1 to 2: all alerts were projects', of fewer types, without reasons; all lock requests were events.

    Number 1 was written with and without `for_operator`; one that is there is right.
    """
    alert, request = row.get("alert"), row.get("lock_request")
    return {
        "for_operator": False,
        **row,
        "alert": {**alert, "clusters": _without_reasons(alert.get("clusters", ()))} if alert else None,
        "lock_request": {"via": "event", **request} if request else None,
    }


def _without_chat(project: Body) -> Body:
    """PROJECT 1 to 2: no topic for chat channels."""
    return {"chat": False, **project}


def _not_judged(row: Body) -> Body:
    """OUTBOX 2 to 3: nobody decided whether it is sent, so that is decided now if it is not.

    Among what is `delivered` there can be `chat` and `finding` now, which older code does not know. No alert
    told of several keys.
    """
    alert = row.get("alert")
    return {
        "judged": None,
        "withheld": False,
        "told_as": None,
        **row,
        "alert": {"keys": [], **alert} if alert else None,
    }


def _shared_with_nobody(claim: Body) -> Body:
    """ROLE 1 to 2: who wrote number 1 let no second project have the role."""
    return {**claim, "sharing": {}}


STEPS: Mapping[str, tuple[Step, ...]] = {
    "PROJECT": (_without_chat,),
    "KEY": (_with_all_that_came_after, _with_every_check_whole),
    "ROLE": (_shared_with_nobody,),
    "CLUSTER": (_by_event_or_in_the_registry,),
    "INCIDENT": (_with_executions_counted_and_told, _with_account_unknown),
    "SUBSCRIPTION": (_with_dead_letters_unknown,),
    "TIMELINE": (),
    "OUTBOX": (_for_a_project, _not_judged),
    "LAST_SWEEP": (),
    "ROLE_AUDIT": (),
    "FLEET_TALLY": (),
    "BACKUP": (),
    "FLEET_TOLD": (),
    "POINTER": (),
    "HINTS": (),
    "SEARCH": (),
    "CANARY": (),
    "BRAKE": (),
    "LOCKOUT_TALLY": (),
    "QUIET": (),
    "SILENCES": (),
    "OUT_OF_TURN": (),
}
"""For each kind the steps from number 1 to 2, from 2 to 3, and so on."""


def newest(kind: str) -> int:
    """The number that this code writes."""
    return FIRST + len(STEPS[kind])


def upgraded(kind: str, number: float | None, stored: Any, *, place: str) -> Body:
    """A body as the newest number has it, from whatever JSON was stored. `place` names the item in errors.

    Raises:
        NewerItemError: newer code wrote it.
        DamagedItemError: it has a number that was never given, or does not have that number's fields.
    """
    number = FIRST if number is None else number
    if number > newest(kind):
        message = (
            f"{place} has schema {number:g} of {kind}, and this code knows up to {newest(kind)}: newer code wrote it. "
            "It is not read and not changed. If an upgrade is under way this passes; if it was rolled back, deploy "
            "the newer code again (docs/deploy.md, Upgrade)"
        )
        raise NewerItemError(message)
    if number < FIRST or number != int(number):
        message = f"{place} has schema {number:g} of {kind}, which was never given to any"
        raise DamagedItemError(message)
    if not isinstance(stored, dict):
        message = f"{place} has a body that is no JSON object"
        raise DamagedItemError(message)
    body: Body = stored
    for step in STEPS[kind][int(number) - FIRST :]:
        try:
            body = step(body)
        except (IndexError, KeyError, TypeError) as error:
            message = f"{place} does not have the fields of schema {number:g} of {kind}: {error!r}"
            raise DamagedItemError(message) from error
    return body
