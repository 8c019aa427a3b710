"""The real clock, real waiting, and real identifiers."""

import random
import secrets
import time
from datetime import UTC, datetime
from typing import override

from ulid import ULID

from keyvigil.ports import Clock, Ids, Pauses


class SystemClock(Clock):
    """The machine's clock."""

    @override
    def now(self) -> datetime:
        now = datetime.now(UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)


class RandomPauses(Pauses):
    """Sleeps."""

    @override
    def up_to(self, seconds: float) -> None:
        time.sleep(random.uniform(0, seconds))  # noqa: S311  spreads retries out, guards nothing


class RandomIds(Ids):
    """Identifiers from the machine's source of randomness."""

    @override
    def ulid(self) -> str:
        return str(ULID())

    @override
    def external_id(self) -> str:
        return f"keyvigil-{secrets.token_hex(16)}"
