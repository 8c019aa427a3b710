"""Lists that go over one project, or over all of them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from keyvigil_cli.command_line import Run

if TYPE_CHECKING:
    from keyvigil_cli.api_client import JsonObject


def items_of(run: Run, project: str | None, collection: str, **query: str) -> "Iterator[JsonObject]":
    """Go through what a project has, or all projects have; each item says whose it is."""
    words = f"reading {collection}"
    for project_id in _projects(run, project):
        for item in run.each(f"{words} of {project_id}", "projects", project_id, collection, **query):
            yield {"project_id": project_id, **item}


def _projects(run: Run, project: str | None) -> list[str]:
    if project is not None:
        return [project]
    return [str(each["project_id"]) for each in run.items("reading projects", "projects")]
