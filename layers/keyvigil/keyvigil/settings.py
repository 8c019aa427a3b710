"""What the functions are told by their environment: read once, frozen, and it names what is missing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from keyvigil.errors import SettingMissingError

PREFIX = "KEYVIGIL_"


@dataclass(frozen=True, slots=True)
class Settings:
    """The `KEYVIGIL_*` variables of one function, and its Region.

    A function is told only what it uses, so a setting is looked for when it is asked for; wiring does that
    when the sandbox starts, so that a missing one shows at once.
    """

    values: Mapping[str, str]
    region: str

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the environment.

        Raises:
            SettingMissingError: AWS_REGION is not set.
        """
        environ = os.environ if environ is None else environ
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
        if not region:
            message = "AWS_REGION is not set"
            raise SettingMissingError(message)
        return cls({name: value for name, value in environ.items() if name.startswith(PREFIX)}, region)

    def text(self, name: str) -> str:
        """A setting that must be there, by its name without the prefix.

        Raises:
            SettingMissingError: it is not set, or empty.
        """
        value = self.values.get(PREFIX + name, "")
        if not value:
            message = f"the environment variable {PREFIX}{name} is not set; template.yaml sets it"
            raise SettingMissingError(message)
        return value

    def optional(self, name: str) -> str | None:
        """A setting that may be missing or empty."""
        return self.values.get(PREFIX + name) or None

    def number(self, name: str) -> int:
        """A setting that must be a whole number.

        Raises:
            SettingMissingError: it is not set, or not a number.
        """
        text = self.text(name)
        if not text.isdecimal():
            message = f"the environment variable {PREFIX}{name} is {text!r}, not a whole number"
            raise SettingMissingError(message)
        return int(text)
