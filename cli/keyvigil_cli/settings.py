"""What the options that all commands share were set to."""

from dataclasses import dataclass, fields, replace
from typing import Literal

OutputFormat = Literal["table", "json"]

DEFAULT_STACK = "keyvigil"


@dataclass(frozen=True)
class Settings:
    """None is what was not said."""

    profile: str | None = None
    region: str | None = None
    stack: str | None = None
    api_url: str | None = None
    output: OutputFormat | None = None

    def but(self, later: "Settings") -> "Settings":
        """Return these, changed by what `later` says."""
        said = {field.name: getattr(later, field.name) for field in fields(later)}
        return replace(self, **{name: value for name, value in said.items() if value is not None})
