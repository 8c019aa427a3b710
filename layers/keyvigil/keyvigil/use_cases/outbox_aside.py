"""Outbox rows that were set aside: the operator looks at them, and has one sent again."""

from dataclasses import dataclass
from datetime import datetime

from keyvigil.domain.alerts import OutboxRow
from keyvigil.errors import DamagedItemError, NewerItemError, NotFoundError
from keyvigil.ports import Clock, RowAside, Store

ROWS_SHOWN = 100
"""How many rows that were set aside are shown at once, the oldest; each costs two reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AsideView:
    """A row that was set aside. What it carries is None as far as it cannot be read."""

    row_id: str
    set_aside_at: datetime
    reason: str
    project_id: str | None
    carries: str | None
    created_at: datetime | None


class OutboxAside:
    """What nobody tries to send any more, until it is asked for here."""

    def __init__(self, store: Store, clock: Clock) -> None:
        """Keep the ports."""
        self._store = store
        self._clock = clock

    def rows(self) -> list[AsideView]:
        """The oldest of them."""
        return [self._view(each) for each in self._store.rows_aside(ROWS_SHOWN)]

    def send_again(self, row_id: str) -> None:
        """Have a row sent by the next sweeps, as if it had never been set aside.

        Raises:
            NotFoundError: no such row was set aside.
        """
        if not self._store.take_back(row_id, self._clock.now()):
            message = f"outbox row {row_id} is not one that was set aside"
            raise NotFoundError(message)

    def _view(self, aside: RowAside) -> AsideView:
        try:
            row = self._store.outbox_row(aside.row_id)
        except (DamagedItemError, NewerItemError):
            row = None
        return AsideView(
            row_id=aside.row_id,
            set_aside_at=aside.since,
            reason=aside.reason,
            project_id=row.project_id if row else None,
            carries=_carries(row) if row else None,
            created_at=row.created_at if row else None,
        )


def _carries(row: OutboxRow) -> str:
    if row.alert is not None:
        return str(row.alert.type)
    if row.lock_request is not None:
        return row.lock_request.detail_type
    return "workflow start"
