"""The fleet as a page for a browser: the dashboard's own picture, read over the API, without AWS's console."""

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from keyvigil.page.overview import overview
from keyvigil.page.render import PAGE_BOUNDS, page
from keyvigil_cli.command_line import Run
from keyvigil_cli.commands.all_projects import items_of, unless_gone
from keyvigil_cli.errors import CliError
from keyvigil_cli.settings import DEFAULT_STACK

if TYPE_CHECKING:
    from keyvigil_cli.api_client import JsonObject


class NotWrittenError(CliError):
    """The page could not be written where it should be."""


def page_of(run: Run, fleet: "JsonObject") -> str:
    """Read every key, and the open incidents with their timelines; the newest, if there are very many."""
    keys = [(str(key["project_id"]), key) for key in items_of(run, None, "keys")]
    opened = {(project, str(key["open_incident_id"])) for project, key in keys if key["open_incident_id"]}
    newest = sorted(opened, key=lambda each: each[1], reverse=True)[: PAGE_BOUNDS.incidents]
    incidents = []
    with run.working("reading incidents") as news:
        for count, (project, incident) in enumerate(newest, start=1):
            with unless_gone():
                incidents.append(run.api.get("projects", project, "incidents", incident))
            news(f"{count} of {len(newest)}")
    return page(
        overview(
            fleet,
            keys,
            incidents,
            stack=run.settings.stack or DEFAULT_STACK,
            region=run.api.region,
            taken_at=datetime.now(UTC),
        )
    )


def write(path: Path, written: str) -> None:
    """Write the page whole or not at all: a browser that looks meanwhile sees the one before.

    It tells of customers' keys, so that only its owner may read it.

    Raises:
        NotWrittenError: there is no such folder, or nothing may be written there.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(written)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        message = f"the page could not be written to {path}: {error.strerror or error}"
        raise NotWrittenError(message) from error
