"""The OpenAPI document of the API, made from the code that answers it: `make openapi` writes docs/openapi.json."""

import json
import sys
from http import HTTPStatus
from inspect import cleandoc
from typing import Any

from keyvigil.api.app import app
from keyvigil.api.idempotency_keys import creates
from keyvigil.api.problems import CONTENT_TYPE

PROBLEM: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "cause": {"type": "string", "description": "Of a refused key: its cause code."},
        "remediation": {
            "type": "object",
            "properties": {
                "summary": {"type": "string"},
                "commands": {"type": "array", "items": {"type": "string"}},
            },
        },
        "in_the_way": {"type": "array", "items": {"type": "string"}},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same content again with the same key is answered 200 with the first answer, other content 409.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
# Many readers of such documents know no `\p{…}`. The ranges leave out what is only unassigned or private.
_UNSEEN = r"\\p{C}\\p{Zl}\\p{Zp}"
_UNSEEN_IN_RANGES = r"\\u0000-\\u001f\\u007f-\\u009f\\u200b-\\u200f\\u2028-\\u202e"
_UNUSED = ("HTTPValidationError", "ValidationError", "ResponseValidationError")


def document() -> dict[str, Any]:
    """The document, with what the router's generator does not know: statuses, problems, headers, signatures."""
    generated = app.get_openapi_json_schema(
        title="KeyVigil",
        version="1.0",
        description="Watches customer-managed KMS keys. Every request is signed with SigV4 for `execute-api`.",
    )
    made: dict[str, Any] = json.loads(generated.replace(_UNSEEN, _UNSEEN_IN_RANGES))
    words = {
        (str(route.method).lower(), str(route.openapi_path)): cleandoc(route.func.__doc__ or "")
        for route in (*app._static_routes, *app._dynamic_routes)  # noqa: SLF001  the router has no public list
    }
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            _complete(operation, method, path, words[method, path])
    components = made["components"]
    for name in _UNUSED:
        components["schemas"].pop(name, None)
    components["schemas"]["Problem"] = PROBLEM
    components["securitySchemes"] = {
        "sigv4": {
            "type": "apiKey",
            "name": "Authorization",
            "in": "header",
            "x-amazon-apigateway-authtype": "awsSigv4",
        }
    }
    made["security"] = [{"sigv4": []}]
    made["paths"] = dict(sorted(made["paths"].items()))
    return made


def _complete(operation: dict[str, Any], method: str, path: str, words: str) -> None:
    operation["summary"] = words.split("\n", 1)[0].rstrip(".")
    parameters: list[dict[str, Any]] = operation.setdefault("parameters", [])
    for parameter in parameters:
        if parameter["in"] == "path":
            parameter["schema"]["pattern"] = "^(?!\\.+$)[A-Za-z0-9_.-]{1,128}$"
    found: dict[str, Any] = operation["responses"]["200"]
    if method == "delete":
        responses = {str(int(HTTPStatus.NO_CONTENT)): {"description": "It is gone."}}
    elif method == "post" and creates(path):
        parameters.append(IDEMPOTENCY_KEY)
        repeated = {**found, "description": "It was created before, by a request with the same Idempotency-Key."}
        responses = {"201": {**found, "description": "It was created."}, "200": repeated}
    else:
        responses = {"200": {**found, "description": "The answer."}}
    problem = {
        "description": "A problem.",
        "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    operation["responses"] = {**responses, "default": problem}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=2) + "\n")
