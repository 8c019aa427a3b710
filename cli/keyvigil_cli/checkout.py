"""Where the checkout is, and the tools that ``make install`` puts into it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keyvigil_cli.errors import CliError

_MARKS = ("template.yaml", "samconfig.toml")


class CheckoutNotFoundError(CliError):
    """No folder from here upwards is a KeyVigil checkout."""


class ToolMissingError(CliError):
    """A tool of the checkout is not installed."""


@dataclass(frozen=True)
class Checkout:
    """A KeyVigil checkout: the folder that holds ``template.yaml`` and ``samconfig.toml``."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> "Checkout":
        """Return the checkout that contains ``start`` (the current folder unless given)."""
        first = (start or Path.cwd()).resolve()
        for folder in (first, *first.parents):
            if all((folder / mark).is_file() for mark in _MARKS):
                return cls(folder)
        message = f"no KeyVigil checkout at {first} or above it: {' and '.join(_MARKS)} were looked for"
        raise CheckoutNotFoundError(message)

    @property
    def template(self) -> Path:
        """The stack's template."""
        return self.root / "template.yaml"

    def ministack(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Return the local cloud's program; ``KEYVIGIL_MINISTACK`` names another."""
        return self._tool("KEYVIGIL_MINISTACK", ".tools/cloud/bin/ministack", environ)

    def sam(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Return the SAM command line; ``KEYVIGIL_SAM`` names another."""
        return self._tool("KEYVIGIL_SAM", ".tools/sam/bin/sam", environ)

    def python(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Return the Python that builds the layers; ``KEYVIGIL_PYTHON`` names another."""
        return self._tool("KEYVIGIL_PYTHON", ".venv/bin/python", environ)

    def _tool(self, variable: str, place: str, environ: Mapping[str, str]) -> Path:
        chosen = environ.get(variable)
        path = Path(chosen) if chosen else self.root / place
        if not os.access(path, os.X_OK):
            source = f"named by {variable}" if chosen else f"run `make install` in {self.root}"
            message = f"{path} is missing or cannot be run ({source})"
            raise ToolMissingError(message)
        # Not resolved: a virtual environment's python is a link; following it would leave the environment.
        return path.absolute()
