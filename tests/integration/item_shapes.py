"""The shapes of what lies in the table, as they were accepted: `python -m tests.integration.item_shapes` accepts them.

Two files: for each kind its newest schema number with its shape, and for each kind and number bodies that were written
with it, which must be readable for ever.
"""

import json
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from keyvigil.adapters.dynamodb_store import _KINDS, _NOTES
from keyvigil.adapters.item_schemas import newest
from keyvigil.adapters.plain_data import to_plain
from keyvigil.ports import RoleAudit, SharedRole, SweepRecord
from tests.examples import CUSTOMER, NOW
from tests.fakes import changed
from tests.integration.test_store_contract import FULL

_HERE = Path(__file__).parent / "stored"
SHAPES = _HERE / "shapes.json"
BODIES = _HERE / "bodies.json"

type Shape = dict[str, dict[str, str] | list[str]]

STORED: dict[str, type[Any]] = {kind: entity for entity, kind in _KINDS.items()} | _NOTES
NOTES: list[Any] = [
    SweepRecord(at=NOW, keys_due=7, keys_sent=6),
    RoleAudit(finished_at=NOW, shared=(SharedRole(CUSTOMER, "KeyVigil-Customer", ("acme-prod", "acme-test")),)),
]


def shape_of(stored: type[Any]) -> Shape:
    """Every dataclass and enumeration that a stored one is made of: fields with types and defaults, or members."""
    found: Shape = {}
    ahead = [stored]
    while ahead:
        part = ahead.pop()
        if part.__name__ in found:
            continue
        if issubclass(part, Enum):
            found[part.__name__] = sorted(str(member.value) for member in part)
        elif is_dataclass(part):
            hints = get_type_hints(part)
            found[part.__name__] = {each.name: _words(hints[each.name]) + _default(each) for each in fields(part)}
            ahead.extend(inner for hint in hints.values() for inner in _types_in(hint))
    return dict(sorted(found.items()))


def _types_in(hint: Any) -> Iterator[type[Any]]:
    if isinstance(hint, type) and get_origin(hint) is None:
        yield hint
    for inner in get_args(hint):
        yield from _types_in(inner)


def _words(hint: Any) -> str:
    if get_origin(hint) in {Union, types.UnionType}:
        return " | ".join(map(_words, get_args(hint)))
    if hint is Ellipsis:
        return "..."
    if hint is types.NoneType:
        return "None"
    name = (get_origin(hint) or hint).__name__
    inner = ", ".join(map(_words, get_args(hint)))
    return f"{name}[{inner}]" if inner else name


def _default(of: Field[Any]) -> str:
    if of.default_factory is not MISSING:
        return f" = {getattr(of.default_factory, '__name__', 'made')}()"
    return "" if of.default is MISSING else f" = {of.default if isinstance(of.default, Enum) else repr(of.default)}"


def problem(kind: str, number: int, shape: Shape, kept: Mapping[str, Any] | None) -> str | None:
    """Say what is to be done about a kind whose shape or number is not the accepted one; None if it is."""
    accept = "then `make schemas`, read the diff and commit it"
    if kept is None:
        return f"{kind} is a new kind of item: give it a full example in {FULL_EXAMPLES}, {accept}"
    if number < kept["schema"]:
        return f"{kind} has schema {number}, and items of schema {kept['schema']} are in tables: take no step away"
    if shape != kept["shape"] and number == kept["schema"]:
        parts = sorted(name for name in shape.keys() | kept["shape"] if shape.get(name) != kept["shape"].get(name))
        return (
            f"What is stored of {kind} changed its shape ({', '.join(parts)}), and its schema number is still {number}."
            f" Items of {number} are in tables, and code of {number} must not write over newer ones. Append the step "
            f"from {number} to {number + 1} to STEPS[{kind!r}] in layers/keyvigil/keyvigil/adapters/item_schemas.py "
            f"(a function that gives an old body every field that is new), set what is new in {FULL_EXAMPLES}, {accept}"
        )
    if shape != kept["shape"] or number != kept["schema"]:
        was = kept["schema"]
        return f"{kind} has schema {number} now, accepted is {was}: set what is new in {FULL_EXAMPLES}, {accept}"
    return None


FULL_EXAMPLES = "tests/integration/test_store_contract.py"


def kept_shapes() -> dict[str, Any]:
    """What was accepted last."""
    return dict(json.loads(SHAPES.read_text(encoding="utf-8")))


def kept_bodies() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Bodies of each kind, by number."""
    return dict(json.loads(BODIES.read_text(encoding="utf-8")))


def written(kind: str) -> list[dict[str, Any]]:
    """Bodies as this code writes them, every field set."""
    entities = [changed(entity, version=0) for entity in FULL] + NOTES
    return [to_plain(entity) for entity in entities if isinstance(entity, STORED[kind])]


def accept() -> list[str]:
    """Accept all shapes that have a number of their own, and keep bodies of it; return what cannot be accepted."""
    shapes, bodies = kept_shapes(), kept_bodies()
    refused = []
    for kind, stored in STORED.items():
        number, shape = newest(kind), shape_of(stored)
        kept = shapes.get(kind)
        if kept is not None and number <= kept["schema"]:
            refused += [told for told in [problem(kind, number, shape, kept)] if told]
            continue
        shapes[kind] = {"schema": number, "shape": shape}
        bodies.setdefault(kind, {}).setdefault(str(number), written(kind))
    for path, content in ((SHAPES, shapes), (BODIES, bodies)):
        path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return refused


if __name__ == "__main__":
    sys.exit("\n".join(accept()) or None)
