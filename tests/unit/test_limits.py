"""docs/limits.md names every bound, and the number that the code, the template or the OpenAPI document really has."""

import ast
import json
import pydoc
import re
from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

from keyvigil.adapters import dynamodb_store
from keyvigil.page.render import Bounds
from tests.infra.source_template import ROOT, SourceTemplate

PAGE = (ROOT / "docs" / "limits.md").read_text()
UNITS = {
    "": 1,
    "s": 1,
    "KB": 1024,
    "MB": 1024 * 1024,
    "hour": 3600,
    "hours": 3600,
    "day": 86400,
    "days": 86400,
    "a second": 1,
}
_ROW = re.compile(
    r"^\| (?P<limit>[^|]+) \| (?P<number>[^|]+) \| `(?P<where>[^`]+)` \| (?P<beyond>[^|]*) ?\|$", re.MULTILINE
)
_NUMBER = re.compile(r"(?P<number>\d[\d,]*)(?: (?P<unit>KB|MB|s|hours?|days?|a second)\b)?")


class Row(NamedTuple):
    """One bound, as the page tells it."""

    limit: str
    number: str
    where: str
    beyond: str


ROWS = [Row(*(part.strip() for part in found.groups())) for found in _ROW.finditer(PAGE)]


def told(text: str) -> list[int]:
    """The numbers in a cell, in bytes, seconds or pieces."""
    found = _NUMBER.finditer(text)
    return [int(each["number"].replace(",", "")) * UNITS[each["unit"] or ""] for each in found]


def _walk(document: Any, steps: list[str]) -> Any:
    for number, step in enumerate(steps):
        if not isinstance(document, dict):
            break
        # The name of a route has slashes of its own.
        rest = "/".join(steps[number:])
        if rest in document:
            return document[rest]
        if step not in document and "anyOf" in document:
            document = document["anyOf"][0]
        document = document[step]
    return document


def _lengths(pattern: str) -> list[int]:
    """The shortest and the longest text of letters that a pattern takes."""
    fitting = [length for length in range(1, 200) if re.match(pattern, "a" * length)]
    return [fitting[0], fitting[-1]]


def _numbers(value: Any) -> list[int]:
    match value:
        case timedelta():
            return [int(value.total_seconds())]
        case {"ThrottlingRateLimit": rate, "ThrottlingBurstLimit": burst}:
            return [int(rate), int(burst)]
        case {"Fn::If": [_, number, _]}:
            return [int(number)]
        case str():
            return _lengths(value)
        case _:
            return [int(value)]


def actual(where: str) -> list[int]:
    """What a reference of the page leads to."""
    kind, _, rest = where.partition(": ")
    match kind:
        case "openapi":
            document = json.loads((ROOT / "docs" / "openapi.json").read_text())
            model, *steps = rest.split("/")
            return _numbers(_walk(document["components"]["schemas"][model]["properties"], steps))
        case "template":
            logical_id, *steps = rest.split("/")
            return _numbers(_walk(SourceTemplate.load().resources[logical_id]["Properties"], steps))
        case "capacity":
            concurrency, what = rest.split("/")
            return [int(SourceTemplate.load().content["Mappings"]["Capacity"][concurrency][what])]
        case "statemachine":
            name, *steps = rest.split("/")
            machine = json.loads((ROOT / "statemachines" / f"{name}.asl.json").read_text())
            return _numbers(_walk(machine, steps))
        case _ if kind.endswith(".py"):
            return _numbers(_constant(kind, rest))
        case _:
            return _numbers(pydoc.locate(where, forceload=False))


def _constant(path: str, name: str) -> Any:
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(each, ast.Name) and each.id == name for each in node.targets
        ):
            return ast.literal_eval(node.value)
    message = f"{path} has no {name}"
    raise LookupError(message)


def test_no_row_of_the_tables_of_limits_is_overlooked() -> None:
    tables = re.split(
        r"^\| limit \| number \| where \| beyond it \|\n\|---\|---\|---\|---\|\n", PAGE, flags=re.MULTILINE
    )[1:]
    written = [line for table in tables for line in table.partition("\n\n")[0].splitlines()]
    assert len(tables) == 8
    assert len(written) == len(ROWS) > 65


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.limit)
def test_the_page_tells_the_number_that_is_enforced(row: Row) -> None:
    assert told(row.number) == actual(row.where)


def _bounded(schema: Any, path: str) -> Iterator[str]:
    if isinstance(schema, dict):
        for name in ("maxLength", "maximum", "maxItems"):
            if name in schema:
                yield f"{path}/{name}"
        for name, value in schema.items():
            yield from _bounded(value, path if name == "anyOf" else f"{path}/{name}")
    elif isinstance(schema, list):
        for each in schema:
            yield from _bounded(each, path)


def test_every_bounded_field_of_the_api_is_on_the_page() -> None:
    """A change takes what the first request took, so its fields are not listed again."""
    schemas = json.loads((ROOT / "docs" / "openapi.json").read_text())["components"]["schemas"]
    bounded = {
        f"openapi: {model}{path}"
        for model, schema in schemas.items()
        if not model.startswith("Change")
        for path in _bounded(schema.get("properties", {}), "")
    }
    assert bounded - {row.where for row in ROWS} == set()


def test_every_time_after_which_something_is_deleted_is_on_the_page() -> None:
    kept = {name for name, value in vars(dynamodb_store).items() if isinstance(value, timedelta)}
    assert len(kept) == 5
    assert {f"keyvigil.adapters.dynamodb_store.{name}" for name in kept} <= {row.where for row in ROWS}


def test_every_bound_of_the_page_and_of_the_widget_is_on_the_page() -> None:
    bounds = {each.name for each in fields(Bounds)} - {"all_keys"}
    places = {f"keyvigil.page.render.{shown}.{name}" for shown in ("PAGE_BOUNDS", "WIDGET_BOUNDS") for name in bounds}
    assert len(places) == 8
    assert places <= {row.where for row in ROWS}


def test_every_route_that_is_throttled_is_on_the_page() -> None:
    settings = SourceTemplate.load().resources["ApiStage"]["Properties"]["RouteSettings"]
    assert {f"template: ApiStage/RouteSettings/{route}" for route in settings} <= {row.where for row in ROWS}


def test_a_number_that_is_wrong_is_found() -> None:
    assert told("21") != actual("keyvigil.domain.projects.MAX_KEYS_PER_PROJECT")
    assert told("2 a second, bursts of 11") != actual(
        "template: ApiStage/RouteSettings/POST /projects/{project_id}/keys"
    )
    assert told("3 to 41") != actual("openapi: CreateProject/project_id/pattern")
    assert told("401 days") != actual("keyvigil.adapters.dynamodb_store.KEPT_AFTER_END")
