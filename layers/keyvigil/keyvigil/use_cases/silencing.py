"""Silences of a project: made, listed and ended by its people; and what stands in it, told or not."""

from dataclasses import replace
from datetime import datetime, timedelta

from keyvigil.domain.alerts import OPERATOR_ALERTS, AlertType
from keyvigil.domain.projects import Project
from keyvigil.domain.quiet import Problem
from keyvigil.domain.silences import LONGEST_SILENCE, MAX_SILENCES_PER_PROJECT, Silence
from keyvigil.errors import NotFoundError, RefusedError
from keyvigil.ports import Clock, Ids, Put, Store
from keyvigil.use_cases.read_fleet import every
from keyvigil.use_cases.retrying import until_committed

_OPERATORS = frozenset({*OPERATOR_ALERTS, *(each for each in AlertType if each.startswith("fleet."))})
SILENCEABLE = tuple(sorted(set(AlertType) - _OPERATORS))
"""The types that a project's subscribers get. The others go to the operator, and no tenant's silence mutes them."""

_PATTERNS = tuple(sorted({f"{each.partition('.')[0]}.*" for each in SILENCEABLE}))


class Silencing:
    """Silences of projects. What they do is decided by domain/quiet.py, at each alert and each sweep."""

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock
        self._ids = ids

    def create(
        self, project_id: str, *, types: tuple[str, ...], key_id: str | None, until: datetime, reason: str, by: str
    ) -> Silence:
        """Silence types of alerts of a project, or of one of its keys, until a time.

        Raises:
            NotFoundError: there is no such project.
            RefusedError: a type is none that a project gets, the end is past or too far away, the key is not
                registered, or the project has too many silences.
        """
        now = self._clock.now()
        _refuse_types(types)
        _refuse_end(until, now)
        self._must_exist(project_id)
        if key_id is not None and self._store.key(project_id, key_id) is None:
            detail = f"Register the key {key_id} in project {project_id} first, or leave `key_id` out for all keys."
            raise RefusedError(409, "KMS key is not registered", detail)
        silence = Silence(
            project_id=project_id,
            silence_id=self._ids.ulid(),
            types=types,
            key_id=key_id,
            until=until,
            reason=reason,
            created_by=by,
            created_at=now,
        )

        def add() -> Silence:
            kept = self._store.silences(project_id)
            live = kept.at(now)
            if len(live) >= MAX_SILENCES_PER_PROJECT:
                detail = f"A project has at most {MAX_SILENCES_PER_PROJECT} silences. Delete one first."
                raise RefusedError(409, "Too many silences in project", detail)
            self._store.commit([Put(replace(kept, silences=(*live, silence)))])
            return silence

        return until_committed(add)

    def current(self, project_id: str) -> tuple[Silence, ...]:
        """The silences of a project that are not over, oldest first."""
        self._must_exist(project_id)
        return self._store.silences(project_id).at(self._clock.now())

    def delete(self, project_id: str, silence_id: str) -> None:
        """End a silence now. What it muted and still stands is told by the next sweep.

        Raises:
            NotFoundError: there is no such silence, or it is over.
        """

        def remove() -> None:
            kept = self._store.silences(project_id)
            live = kept.at(self._clock.now())
            left = tuple(each for each in live if each.silence_id != silence_id)
            if len(left) == len(live):
                message = f"silence {silence_id} does not exist in project {project_id}"
                raise NotFoundError(message)
            self._store.commit([Put(replace(kept, silences=left))])

        until_committed(remove)

    def standing(self, project_id: str) -> list[Problem]:
        """Everything that is wrong with a project's keys now and was not withheld for good: told, or silenced.

        At most 20 keys, so at most some twenty reads.
        """
        since = self._must_exist(project_id).created_at
        ledgers = [
            self._store.ledger(project_id, key.key_id)
            for key in every(lambda limit, token: self._store.keys(project_id, limit, token))
        ]
        problems = (each for ledger in ledgers for each in ledger.problems.values())
        return sorted(
            (
                each
                for each in problems
                if each.over_at is None and each.type not in _OPERATORS and each.heard_at >= since
            ),
            key=lambda each: (each.since, each.dedup_key),
        )

    def _must_exist(self, project_id: str) -> Project:
        project = self._store.project(project_id)
        if project is None or project.deleting:
            message = f"project {project_id} does not exist"
            raise NotFoundError(message)
        return project


def _refuse_types(types: tuple[str, ...]) -> None:
    for each in types:
        if each in SILENCEABLE or each in _PATTERNS:
            continue
        detail = (
            f"{each} goes to the operator, and a project's silence does not mute it."
            if each in _OPERATORS or each == "fleet.*"
            else f"{each} is no type of alert. Name some of {', '.join((*_PATTERNS, *SILENCEABLE))}."
        )
        raise RefusedError(422, "Invalid silence", detail, field="types")


def _refuse_end(until: datetime, now: datetime) -> None:
    if until <= now:
        raise RefusedError(422, "Invalid silence", "`until` is past. Name a time that is still to come.", field="until")
    if until - now > LONGEST_SILENCE:
        detail = f"`until` is too far away. A silence lasts at most {LONGEST_SILENCE // timedelta(days=1)} days."
        raise RefusedError(422, "Invalid silence", detail, field="until")
