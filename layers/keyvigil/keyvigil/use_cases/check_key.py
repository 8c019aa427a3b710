"""Probe a registered key and take the verdict into its status, incident and outbox, in one transaction."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol, assert_never

from keyvigil.domain.actors import in_words
from keyvigil.domain.alerts import OPERATOR_ALERTS, AlertType, Notice
from keyvigil.domain.attribution import at_end, begin_search, find_actor
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.dangers import watch_dangers, watch_staleness
from keyvigil.domain.incidents import (
    Incident,
    IncidentStatus,
    WorkflowKind,
    affected,
    held_by,
    note_opening,
    of_incident,
)
from keyvigil.domain.keys import Health, Key, KeyStatus, Trigger, is_closer_look_due, next_due
from keyvigil.domain.probe_plans import closer_look_every, is_lean_enough, lean_until
from keyvigil.domain.projects import Project
from keyvigil.domain.status_machine import CLOCK_JUMP, Change, is_confirmed, observe
from keyvigil.domain.unknown_keys import watch_unknown
from keyvigil.domain.verdicts import Cause, Outcome, Verdict
from keyvigil.errors import ConflictError, NotFoundError
from keyvigil.ports import Clock, Ids, ProbeAnswer, Prober, Put, Store, Write
from keyvigil.use_cases.open_shut_clusters import LetIn
from keyvigil.use_cases.retrying import until_committed
from keyvigil.use_cases.telling import Telling


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check found. `probed` is False if the key had been probed since the message was due.

    `deferred` is True if the share of the account's quotas had no room for it: then it is due for the next sweep.
    `confirmed` says that the running failing streak proves an outage now: a workflow may act on it. `doubted` says
    that a denial was taken as UNKNOWN, because no canary vouched for KeyVigil. `noticed_after` is set if this opened an
    incident: how long it was since the last probe that found the key usable, so at most this long was it not noticed.
    """

    key: Key
    probed: bool
    confirmed: bool
    doubted: bool = False
    deferred: bool = False
    noticed_after: timedelta | None = None


class Doubt(Protocol):
    """Asks whether a denial might be KeyVigil's own fault."""

    def __call__(self, verdict: Verdict, region: str) -> Verdict:
        """The verdict on a key of this Region, or UNKNOWN if it might be."""


class Turn(Protocol):
    """Waits until a probe that asks out of turn may be made."""

    def __call__(self, key: Key, /) -> timedelta | None:
        """How long it waited; None if its turn does not come in time."""


class Watch(Protocol):
    """A pure decision about a key beside its status, made at every probe."""

    def __call__(self, before: Key, after: Key, project: Project, now: datetime, /) -> tuple[Key, tuple[Notice, ...]]:
        """The key with what is remembered of it, and what is to be told."""


WATCHES: tuple[Watch, ...] = (watch_dangers, watch_staleness, watch_unknown)
"""What is looked at beside the status, in this order."""

LOOKS_CLOSER = frozenset({Trigger.REQUEST, Trigger.EVENT})
"""The triggers of probes that look closely however long ago the last closer look was: somebody wants to know, or has
changed something. Confirmation and recovery look at nothing but whether the key works."""


class CheckKey:
    """Checks one key: probe, decide, commit; the same path for every trigger."""

    def __init__(
        self,
        store: Store,
        prober: Prober,
        clock: Clock,
        ids: Ids,
        *,
        doubt: Doubt,
        confirmation_probes: int,
        turn: Turn | None = None,
    ) -> None:
        """Keep the ports, what doubts denials, and what requests and events wait for.

        `confirmation_probes` is the stack's ConfirmationProbes.
        """
        self._turn = turn
        self._store = store
        self._prober = prober
        self._doubt = doubt
        self._clock = clock
        self._ids = ids
        self._telling = Telling(clock, ids)
        self._let_in = LetIn(store, clock)
        self._probes = confirmation_probes

    def __call__(
        self, project_id: str, key_id: str, trigger: Trigger, *, due_at: datetime | None = None
    ) -> CheckResult:
        """Check a key now, unless it was probed since `due_at`.

        Raises:
            NotFoundError: the key is not registered (any more).
            ConflictError: other writers were faster every time; nothing is lost, the key stays due.
        """
        key = self._store.key(project_id, key_id)
        if key is None:
            message = f"key {key_id} is not registered in project {project_id}"
            raise NotFoundError(message)
        # A probe of a clock that was ahead must not keep the key from being probed until time catches up.
        if due_at is not None and min(key.last_probed_at, self._clock.now()) >= due_at:
            return self._result(key, probed=False)
        waited: timedelta | None = timedelta(0)
        if self._turn is not None and trigger in LOOKS_CLOSER:
            waited = self._turn(key)
        if waited is None:
            until_committed(self._make_due, project_id, key_id)
            return replace(self._result(key, probed=False), deferred=True)
        now = self._clock.now()
        due = trigger is Trigger.SCHEDULE and is_closer_look_due(key.facts, now, closer_look_every(key))
        lean, _ = is_lean_enough(key, trigger, now)
        closely = not lean and (due or trigger in LOOKS_CLOSER)
        found = self._prober.probe(key, closely=closely, lean=lean, spent_seconds=waited.total_seconds())
        answer = replace(found, verdict=self._doubt(found.verdict, key.region))
        before, key = key, until_committed(self._take, project_id, key_id, answer, trigger)
        found_healthy = answer.verdict.outcome is Outcome.HEALTHY and key.health.status is KeyStatus.HEALTHY
        if found_healthy and key.pending_clusters > 0:
            key = self._activate_pending(key)
        result = self._result(key, probed=True, doubted=answer.verdict.cause is not found.verdict.cause)
        opened = key.open_incident_id not in {None, before.open_incident_id}
        if opened and before.verdict.outcome is Outcome.HEALTHY:
            return replace(result, noticed_after=key.last_probed_at - before.last_probed_at)
        return result

    def _make_due(self, project_id: str, key_id: str) -> None:
        """Leave a key to the next sweep, which makes the whole check that was asked for."""
        key, now = self._store.key(project_id, key_id), self._clock.now()
        if key is not None and (key.due_at > now or key.lean_until is not None):
            whole_from = key.lean_until and min(key.lean_until, now)
            self._store.commit([Put(replace(key, due_at=min(key.due_at, now), lean_until=whole_from))])

    def _result(self, key: Key, *, probed: bool, doubted: bool = False) -> CheckResult:
        confirmed, _ = is_confirmed(
            key.health,
            key.verdict.cause,
            key.last_probed_at,
            probes=self._probes,
            deletion_date=key.facts.deletion_date,
        )
        confirmed = confirmed and key.health.status is KeyStatus.UNHEALTHY
        return CheckResult(key=key, probed=probed, confirmed=confirmed, doubted=doubted)

    def _take(self, project_id: str, key_id: str, answer: ProbeAnswer, trigger: Trigger) -> Key:
        key, project = self._store.key(project_id, key_id), self._store.project(project_id)
        if key is None or project is None:
            message = f"key {key_id} was removed from project {project_id} while it was probed"
            raise NotFoundError(message)
        verdict = answer.verdict
        if self._clock.now() - verdict.probed_at > CLOCK_JUMP:
            # The sandbox slept between probe and commit: an answer from then says nothing about now.
            return key
        facts = (
            key.facts if answer.facts is None else replace(answer.facts, closer=answer.facts.closer or key.facts.closer)
        )
        before = key
        key, writes = self._reopen_dismissed(key, verdict)
        decision = observe(key.health, verdict, probes=self._probes, deletion_date=facts.deletion_date)
        newest = verdict.probed_at >= key.last_probed_at
        after = replace(
            key,
            health=decision.health,
            verdict=verdict if newest else key.verdict,
            facts=facts if newest else key.facts,
            last_probed_at=max(verdict.probed_at, key.last_probed_at),
            last_trigger=trigger if newest else key.last_trigger,
            due_at=next_due(project_id, key_id, decision.health, project.check_interval_minutes, self._clock.now()),
            lean_until=lean_until(key, project.probe_plan, project.check_interval_minutes, verdict, whole=answer.whole),
        )
        if decision.change is not None:
            after, told = self._tell(key, after, verdict, decision.change, decision.reason)
            writes += told
        after, told = self._watch(before, after, project)
        writes += told
        self._store.commit([Put(after), *writes])
        return replace(after, version=after.version + 1)

    def _reopen_dismissed(self, key: Key, verdict: Verdict) -> tuple[Key, list[Write]]:
        """A dismissed incident stands for its own cause only: another cause is suspected and confirmed afresh.

        It stays the same incident, so that what was told about it is resolved with it.
        """
        if verdict.outcome is not Outcome.UNHEALTHY or verdict.cause is None or key.open_incident_id is None:
            return key, []
        incident = self._store.incident(key.project_id, key.open_incident_id)
        if incident is None or incident.status is not IncidentStatus.DISMISSED or incident.cause is verdict.cause:
            return key, []
        clusters = self._store.clusters_of_key(key.project_id, key.key_id)
        after = replace(
            incident, status=IncidentStatus.CONFIRMING, cause=verdict.cause, decision=None, clusters=affected(clusters)
        )
        suspected = replace(key, health=Health(status=KeyStatus.SUSPECT), verdict=verdict)
        told, suspected = self._telling.alert(
            AlertType.KEY_SUSPECT, suspected, after, clusters, occurred_at=verdict.probed_at
        )
        start, after, _ = self._telling.execution(after, WorkflowKind.LOCKOUT)
        detail = f"the dismissed outage was {incident.cause}, and now it is {verdict.cause}: {verdict.message}"
        entry = self._telling.entry(incident.incident_id, "incident.reopened", detail)
        return replace(suspected, verdict=key.verdict), [Put(after), told, start, entry]

    def _watch(self, before: Key, after: Key, project: Project) -> tuple[Key, list[Write]]:
        """What else a probe shows than whether the key works, told in the same transaction."""
        writes: list[Write] = []
        now = self._clock.now()
        for watch in WATCHES:
            after, notices = watch(before, after, project, now)
            clusters = self._store.clusters_of_key(after.project_id, after.key_id) if notices else []
            for notice in notices:
                for_operator = notice.type in OPERATOR_ALERTS
                row, after = self._telling.key_notice(notice, after, clusters, for_operator=for_operator)
                writes.append(row)
        return after, writes

    def _tell(self, before: Key, key: Key, verdict: Verdict, change: Change, reason: str) -> tuple[Key, list[Write]]:
        """The incident, its timeline and the outbox rows that go with a change of status."""
        now = self._clock.now()
        clusters = self._store.clusters_of_key(key.project_id, key.key_id)
        incident = self._incident(before, verdict, change, now)
        alert_type: AlertType | None = None
        workflow: WorkflowKind | None = None
        match change:
            case Change.SUSPECTED:
                opened, flapping = note_opening(key.incidents_opened, now)
                key = replace(key, open_incident_id=incident.incident_id, incidents_opened=opened)
                incident = replace(incident, clusters=affected(clusters), flapping=flapping)
                alert_type, workflow = AlertType.KEY_SUSPECT, WorkflowKind.LOCKOUT
            case Change.CONFIRMED:
                incident = replace(incident, confirmed_at=now, cause=verdict.cause or incident.cause)
                alert_type = AlertType.KEY_UNHEALTHY
            case Change.RECOVERY_BEGAN:
                # A lockout that is still confirming goes on probing by itself and sees the recovery.
                workflow = WorkflowKind.RECOVERY if key.health.confirmed else None
            case Change.RELAPSED:
                pass
            case Change.RECOVERED:
                incident = replace(incident, recovered_at=now)
                nothing_left = not incident.clusters_told and not held_by(incident, clusters)
                if incident.status is not IncidentStatus.LOCKING and nothing_left:
                    incident = replace(incident, status=IncidentStatus.RESOLVED, resolved_at=now)
                    key = replace(key, open_incident_id=None)
                alert_type = AlertType.KEY_RECOVERED
            case _:
                assert_never(change)
        writes: list[Write] = []
        if alert_type is not None:
            occurred_at = verdict.probed_at if change is Change.RECOVERED else incident.opened_at
            shown = of_incident(incident, clusters)
            row, key = self._telling.alert(alert_type, key, incident, shown, occurred_at=occurred_at)
            writes.append(row)
        if workflow is not None:
            row, incident, _ = self._telling.execution(incident, workflow)
            writes.append(row)
        code = f" [{verdict.aws_error_code}]" if verdict.aws_error_code is not None else ""
        detail = f"{key.last_trigger} probe: {verdict.message}{code} ({reason})"
        entry = self._telling.entry(incident.incident_id, _TIMELINE_WORD[change], detail)
        return key, [Put(incident), entry, *writes, *self._attribute(key, incident, change, now)]

    def _attribute(self, key: Key, incident: Incident, change: Change, now: datetime) -> list[Write]:
        """What says who brought an incident about, or begins to search for that, or searches a last time."""
        match change:
            case Change.SUSPECTED if incident.actor is not None:
                return [self._telling.entry(incident.incident_id, AlertType.ACTOR_FOUND, in_words(incident.actor))]
            case Change.SUSPECTED:
                return [Put(begin_search(incident, key.account_id))]
            case Change.RECOVERED:
                search = self._store.actor_search(incident.project_id, incident.incident_id)
                ended = at_end(search, now) if search is not None else None
                return [Put(ended)] if ended is not None and ended != search else []
            case _:
                return []

    def _incident(self, key: Key, verdict: Verdict, change: Change, now: datetime) -> Incident:
        if change is Change.SUSPECTED:
            opened = Incident(
                incident_id=self._ids.ulid(),
                project_id=key.project_id,
                key_id=key.key_id,
                status=IncidentStatus.CONFIRMING,
                cause=verdict.cause or Cause.UNCLASSIFIED,
                opened_at=now,
                last_healthy_at=key.health.counted_at or key.created_at,
                account_id=key.account_id,
            )
            hints = self._store.event_hints(key.project_id, key.key_id)
            return replace(opened, actor=find_actor(opened, hints.calls)) if hints is not None else opened
        incident = self._store.incident(key.project_id, key.open_incident_id or "")
        if incident is None:
            # The key names its incident in the transaction that writes both, so this is a torn read.
            message = f"incident {key.open_incident_id} of key {key.key_id} is not there"
            raise ConflictError(message)
        return incident

    def _activate_pending(self, key: Key) -> Key:
        """Let in the clusters that waited for the key, each in a transaction with the key's status."""
        for waiting in self._store.clusters_of_key(key.project_id, key.key_id):
            if waiting.status is ClusterStatus.PENDING_KEY:
                activated = self._let_in(key.project_id, key.key_id, waiting.cluster_id)
                if activated is None:
                    break
                key = activated
        return key


_TIMELINE_WORD = {
    Change.SUSPECTED: "key.suspect",
    Change.CONFIRMED: "key.unhealthy",
    Change.RECOVERY_BEGAN: "key.recovering",
    Change.RELAPSED: "key.relapsed",
    Change.RECOVERED: "key.recovered",
}
