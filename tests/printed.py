"""What a run of the command `keyvigil` printed, for tests that run it in this process and for those that start it."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Printed:
    """How a command ended."""

    status: int
    output: str
    messages: str

    @property
    def json(self) -> Any:
        return json.loads(self.output)
