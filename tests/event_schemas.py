"""JSON Schemas of what leaves KeyVigil and of what answers it, made from the code: `make event-schemas` writes them.

They say what is always there and what it looks like, and allow fields beyond that, since later releases may add some.
`checked` is stricter: what this release emits has no field that its schema does not name.
"""

import json
import sys
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from inspect import cleandoc
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonschema import Draft202012Validator

from keyvigil.adapters.alert_documents import document
from keyvigil.adapters.messaging import SOURCE
from keyvigil.adapters.plain_data import lock_request_detail
from keyvigil.api.requests import AnswerLock
from keyvigil.domain.alerts import _DETAIL_TYPES, TEST_TYPE, Alert, LockRequest
from keyvigil.domain.clusters import LockAction, LockResult

type Schema = dict[str, Any]

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
# As `rfc3339` writes a time: `format` alone is only a hint to most validators.
_MOMENT = {"type": "string", "format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
_PLAIN: dict[Any, Schema] = {str: {"type": "string"}, int: {"type": "integer"}, bool: {"type": "boolean"}}


def _of_type(hint: Any, parts: dict[str, Schema]) -> Schema:
    """The schema of what `to_plain` makes of a value of this type; dataclasses and enumerations go into `parts`."""
    if get_origin(hint) in {Union, types.UnionType}:
        return {"anyOf": [_of_type(each, parts) for each in get_args(hint)]}
    if hint is types.NoneType:
        return {"type": "null"}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _of_type(get_args(hint)[0], parts)}
    if get_origin(hint) is dict:
        return {"type": "object", "additionalProperties": _of_type(get_args(hint)[1], parts)}
    if hint is datetime:
        return dict(_MOMENT)
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if hint.__name__ not in parts:
        parts[hint.__name__] = {}  # itself, should it contain itself
        parts[hint.__name__] = _of_class(hint, parts)
    return {"$ref": f"#/$defs/{hint.__name__}"}


def _of_class(kind: type[Any], parts: dict[str, Schema]) -> Schema:
    described = {"description": " ".join(cleandoc(kind.__doc__ or "").split("\n\n")[0].split()).replace("`", "")}
    if issubclass(kind, StrEnum):
        return {**described, "type": "string", "enum": [str(member) for member in kind]}
    if not is_dataclass(kind):
        message = f"{kind} has no schema: say here how it is written"
        raise TypeError(message)
    hints = get_type_hints(kind)
    properties = {each.name: _of_type(hints[each.name], parts) for each in fields(kind)}
    return {**described, "type": "object", "properties": properties, "required": list(properties)}


def _document(title: str, description: str, content: Schema, parts: Mapping[str, Schema]) -> Schema:
    head = {"$schema": DIALECT, "title": title, "description": description}
    content = {name: each for name, each in content.items() if name not in head}
    return {**head, **content, **({"$defs": dict(sorted(parts.items()))} if parts else {})}


def _alert() -> tuple[Schema, dict[str, Schema]]:
    parts: dict[str, Schema] = {}
    content = _of_class(Alert, parts)
    # A test is an alert about nothing: of a type that no other has, and without a cause.
    properties = content["properties"]
    properties["clusters_total"] = {"type": "integer"}
    content["required"] = [*content["required"], "clusters_total"]
    parts["AlertType"] = {**parts["AlertType"], "enum": [*parts["AlertType"]["enum"], TEST_TYPE]}
    properties["cause"] = {"anyOf": [properties["cause"], {"type": "null"}]}
    content["if"] = {"properties": {"cause": {"type": "null"}}}
    content["then"] = {"properties": {"type": {"const": TEST_TYPE}}}
    return content, parts


def _lock_request() -> tuple[Schema, dict[str, Schema]]:
    parts: dict[str, Schema] = {}
    whole = _of_class(LockRequest, parts)
    sent = {name: schema for name, schema in whole["properties"].items() if name not in {"detail_type", "via"}}
    properties = {"action": _of_type(LockAction, parts), **sent}
    del parts["LockVia"]
    return {**whole, "properties": properties, "required": list(properties)}, parts


def _on_bus(
    detail_types: Schema, detail: Schema, parts: dict[str, Schema], name: str
) -> tuple[Schema, dict[str, Schema]]:
    """An event as a rule's target gets it, EventBridge's own fields included.

    https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html
    """
    properties = {
        "version": {"const": "0"},
        "id": {"type": "string"},
        "detail-type": detail_types,
        "source": {"const": SOURCE},
        "account": {"type": "string", "pattern": r"^\d{12}$"},
        "time": {"type": "string", "format": "date-time"},
        "region": {"type": "string"},
        "resources": {"type": "array", "items": {"type": "string"}},
        "detail": {"$ref": f"#/$defs/{name}"},
    }
    return {"type": "object", "properties": properties, "required": list(properties)}, {**parts, name: detail}


def _receiver_answer() -> tuple[Schema, dict[str, Schema]]:
    results = [str(each) for each in LockResult]
    properties = {"result": {"type": "string", "enum": [*results, "accepted"]}, "detail": {"type": ["string", "null"]}}
    return {"type": "object", "properties": properties, "required": ["result"]}, {}


def _lock_result() -> tuple[Schema, dict[str, Schema]]:
    content = AnswerLock.model_json_schema()
    parts = content.pop("$defs", {})
    # Of classes of characters, which many validators do not know. The API says what it does not take.
    for each in content["properties"]["detail"]["anyOf"]:
        each.pop("pattern", None)
    return {name: content[name] for name in ("type", "properties", "required", "additionalProperties")}, parts


def schemas() -> dict[str, Schema]:
    """Every schema, by the name of its file."""
    alert, of_alert = _alert()
    request, of_request = _lock_request()
    types_of_alerts = {"$ref": "#/$defs/AlertType"}
    types_of_requests = {"type": "string", "enum": sorted(_DETAIL_TYPES.values())}
    made = {
        "alert": ("Alert", "What a project's topic, and the operator's, carry.", (alert, of_alert)),
        "alert-event": (
            "Alert on the bus",
            "The same on the alert bus; `detail-type` is the alert's type.",
            _on_bus(types_of_alerts, alert, of_alert, "Alert"),
        ),
        "lock-request": (
            "Request to lock or unlock one cluster",
            "What a function is invoked with and a webhook is sent.",
            (request, of_request),
        ),
        "lock-request-event": (
            "Request to lock or unlock one cluster, on the bus",
            "What a control plane gets that is locked `via: event`.",
            _on_bus(types_of_requests, request, of_request, "LockRequest"),
        ),
        "lock-result": (
            "Acknowledgement of a request",
            "What a control plane posts to `/projects/{project_id}/clusters/{cluster_id}/lock-result`.",
            _lock_result(),
        ),
        "receiver-answer": (
            "A receiver's answer to a request",
            "What a function returns, and a webhook answers with 2xx; `accepted`: it posts a lock-result later.",
            _receiver_answer(),
        ),
    }
    return {name: _document(title, words, *content) for name, (title, words, content) in made.items()}


def as_written(schema: Schema) -> str:
    """A schema as its file has it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _strict(schema: Any) -> Any:
    """The same schema, of objects that have no field but those it names."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _strict(each) for name, each in schema.items()}
    return {**inner, "additionalProperties": False} if "required" in schema and "properties" in schema else inner


@cache
def _validator(name: str) -> Draft202012Validator:
    """The committed schema: what consumers hold on to, and not what the code would make of it today."""
    return Draft202012Validator(_strict(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))))


def problems(name: str, document: object) -> list[str]:
    """What a document lacks, has too much or has wrong by a committed schema; a line each."""
    return [f"{error.json_path}: {error.message}" for error in _validator(name).iter_errors(document)]


def checked[T: Alert | LockRequest](emitted: T) -> T:
    """What was emitted, which is as its committed schema says.

    Raises:
        AssertionError: it is not.
    """
    name, plain = (
        ("alert", document(emitted)) if isinstance(emitted, Alert) else ("lock-request", lock_request_detail(emitted))
    )
    found = problems(name, plain)
    assert not found, (
        f"docs/schemas/{name}.json does not describe {plain}: {found}; `make event-schemas` writes it anew"
    )
    return emitted


def main() -> None:
    """Write all schemas, and remove what is none any more."""
    made = schemas()
    for path in FOLDER.glob("*.json"):
        if path.stem not in made:
            path.unlink()
    for name, schema in made.items():
        (FOLDER / f"{name}.json").write_text(as_written(schema), encoding="utf-8")
        sys.stdout.write(f"docs/schemas/{name}.json\n")


if __name__ == "__main__":
    main()
