"""One call of the API, as a person writes it on a command line."""

import json
from typing import Protocol

from keyvigil_cli.api_client import JsonObject, path_of
from keyvigil_cli.errors import CliError

_METHODS = ("GET", "POST", "PATCH", "DELETE")


class BadCallError(CliError):
    """What was written is no call of the API."""


class NoSuchFieldError(CliError):
    """The answer has no field of this name."""


class Requests(Protocol):
    """What of the client is needed; `ApiClient` has it."""

    def request(self, method: str, path: str, *, body: JsonObject | None = None) -> JsonObject:
        """Send one request."""


def call(api: Requests, method: str, path: str, body: str = "", *, field: str = "") -> str:
    """Send one request; return the answer as JSON, or one field of it as plain text.

    Raises:
        BadCallError: the method, the path or the body is not one.
        NoSuchFieldError: the answer lacks the field.
    """
    verb = method.upper()
    if verb not in _METHODS:
        message = f"{method} is no method of the API; it has {', '.join(_METHODS)}"
        raise BadCallError(message)
    try:
        content = json.loads(body) if body else None
    except ValueError as error:
        message = f"the body is not JSON: {error}"
        raise BadCallError(message) from error
    if content is not None and not isinstance(content, dict):
        message = "the body is not a JSON object"
        raise BadCallError(message)
    if verb in {"POST", "PATCH"} and content is None:
        content = {}
    answer = api.request(verb, path_of(*path.strip("/").split("/")), body=content)
    if not field:
        return json.dumps(answer, indent=2)
    if field not in answer:
        message = f"the answer has no field {field}; it has {', '.join(answer)}"
        raise NoSuchFieldError(message)
    value = answer[field]
    return value if isinstance(value, str) else json.dumps(value)
