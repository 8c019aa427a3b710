"""The real clock, and real identifiers."""

import secrets
from datetime import UTC, datetime
from typing import override

from ulid import ULID

from keyvigil.ports import Clock, Ids


class SystemClock(Clock):
    """The machine's clock."""

    @override
    def now(self) -> datetime:
        now = datetime.now(UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)


class RandomIds(Ids):
    """Identifiers from the machine's source of randomness."""

    @override
    def ulid(self) -> str:
        return str(ULID())

    @override
    def external_id(self) -> str:
        return f"keyvigil-{secrets.token_hex(16)}"
