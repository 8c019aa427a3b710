"""Lists that go over one project, or over all of them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from keyvigil_cli.command_line import Run

if TYPE_CHECKING:
    from keyvigil_cli.api_client import JsonObject


def items_of(run: Run, project: str | None, collection: str, **query: str) -> "Iterator[JsonObject]":
    """Go through what a project has, or all projects have; each item says whose it is."""
    if project is not None:
        return _each(run, project, collection, **query)
    listed = [str(each["project_id"]) for each in run.items("reading projects", "projects")]
    return items_of_listed(run, listed, collection, **query)


def items_of_listed(run: Run, projects: Iterable[str], collection: str, **query: str) -> "Iterator[JsonObject]":
    """Go through what projects have that were there a moment ago. One that was deleted since has nothing."""
    for project_id in projects:
        with unless_gone():
            yield from _each(run, project_id, collection, **query)


@contextmanager
def unless_gone() -> Iterator[None]:
    """Read something that was listed a moment ago, and go on without it if it was deleted since."""
    from keyvigil_cli.api_client import ApiProblemError  # noqa: PLC0415 - loads the AWS SDK

    try:
        yield
    except ApiProblemError as problem:
        if problem.status != HTTPStatus.NOT_FOUND:
            raise


def _each(run: Run, project_id: str, collection: str, **query: str) -> "Iterator[JsonObject]":
    for item in run.each(f"reading {collection} of {project_id}", "projects", project_id, collection, **query):
        yield {"project_id": project_id, **item}
