"""Alerts and timeline entries, ready to be written in the transaction of the change that they tell of."""

from collections.abc import Sequence
from datetime import datetime

from keyvigil.domain.alerts import (
    AlertType,
    Notice,
    OutboxRow,
    WorkflowStart,
    make_alert,
    make_fleet_notice,
    make_key_notice,
)
from keyvigil.domain.clusters import Cluster
from keyvigil.domain.incidents import Incident, TimelineEntry, WorkflowKind, affected, ask_execution
from keyvigil.domain.keys import Key
from keyvigil.ports import Clock, Ids, Put


class Telling:
    """Makes what a change has to tell. Nothing is stored here."""

    def __init__(self, clock: Clock, ids: Ids) -> None:
        """Keep the ports."""
        self._clock = clock
        self._ids = ids

    def alert(
        self,
        kind: AlertType,
        key: Key,
        incident: Incident,
        clusters: Sequence[Cluster],
        *,
        occurred_at: datetime | None = None,
    ) -> tuple[Put, Key]:
        """An alert's outbox row, and the key with its sequence moved on; both belong into the transaction."""
        now = self._clock.now()
        alert, numbered = make_alert(
            kind,
            alert_id=self._ids.ulid(),
            key=key,
            incident=incident,
            clusters=affected(clusters),
            occurred_at=occurred_at or now,
            detected_at=now,
        )
        row = OutboxRow(row_id=alert.alert_id, project_id=key.project_id, created_at=now, alert=alert)
        return Put(row), numbered

    def key_notice(
        self,
        notice: Notice,
        key: Key,
        clusters: Sequence[Cluster],
        *,
        occurred_at: datetime | None = None,
        for_operator: bool = False,
    ) -> tuple[Put, Key]:
        """The outbox row of a notice about a key, and the key with its sequence moved on; both belong together."""
        now = self._clock.now()
        alert, numbered = make_key_notice(
            notice,
            alert_id=self._ids.ulid(),
            key=key,
            clusters=affected(clusters),
            occurred_at=occurred_at or now,
            detected_at=now,
        )
        row = OutboxRow(
            row_id=alert.alert_id, project_id=key.project_id, created_at=now, alert=alert, for_operator=for_operator
        )
        return Put(row), numbered

    def fleet_notice(self, notice: Notice, *, occurred_at: datetime | None = None) -> Put:
        """The outbox row of a notice about KeyVigil itself, which goes to the operator."""
        now = self._clock.now()
        alert = make_fleet_notice(notice, alert_id=self._ids.ulid(), occurred_at=occurred_at or now, detected_at=now)
        return Put(OutboxRow(row_id=alert.alert_id, project_id=None, created_at=now, alert=alert, for_operator=True))

    def entry(self, incident_id: str, what: str, detail: str) -> Put:
        """An entry of an incident's timeline."""
        entry = TimelineEntry(
            incident_id=incident_id, entry_id=self._ids.ulid(), at=self._clock.now(), what=what, detail=detail
        )
        return Put(entry)

    def execution(self, incident: Incident, kind: WorkflowKind) -> tuple[Put, Incident, str]:
        """The outbox row that starts an incident's next execution, the incident that knows of it, and its name."""
        now = self._clock.now()
        asked, name = ask_execution(incident, kind, now)
        start = WorkflowStart(
            workflow=kind,
            name=name,
            project_id=incident.project_id,
            key_id=incident.key_id,
            incident_id=incident.incident_id,
        )
        row = OutboxRow(row_id=self._ids.ulid(), project_id=incident.project_id, created_at=now, workflow_start=start)
        return Put(row), asked, name
