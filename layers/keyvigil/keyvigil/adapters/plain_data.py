"""Domain values as plain JSON data and back: for the table, for alerts, for payloads between functions.

What is read is said by the annotations of the dataclasses alone. There are few of them: texts, numbers, times, bytes,
enums, tuples, mappings, other dataclasses, and None. A test holds it against cattrs, which does the same and far more,
and costs a tenth of a start and the time to write its code (docs/decisions/0034-start-up.md).
"""

import base64
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from keyvigil.domain.alerts import LockRequest

type _Change = Callable[[Any], Any]

_OR_NONE = 2
"""Of how many members the one union is that is read: something, or None."""


def rfc3339(moment: datetime) -> str:
    """A time as the contract writes it: RFC 3339, UTC, milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_plain(value: Any) -> Any:
    """A domain value as dicts, lists, strings, numbers and None."""
    return _writer(cast("Any", type(value)))(value)


def from_plain[T](data: Mapping[str, Any], kind: type[T]) -> T:
    """The domain value that `to_plain` made this of, on its way between functions.

    Unknown fields are ignored: while a stack is updated, a newer function may have sent them.

    Raises:
        ValueError: as `from_stored`, but for unknown fields.
    """
    return cast("T", _reader(cast("Any", kind), False)(data))


def from_stored[T](data: Mapping[str, Any], kind: type[T]) -> T:
    """The domain value that `to_plain` made this of, out of the table. A missing field has its default.

    Raises:
        ValueError: a field is unknown, is missing and has no default, or holds something else. The message names
            fields and never what they hold.
    """
    return cast("T", _reader(cast("Any", kind), True)(data))


@cache
def _writer(kind: type) -> _Change:
    if is_dataclass(kind):
        names = tuple(each.name for each in fields(kind))
        return lambda value: {name: to_plain(getattr(value, name)) for name in names}
    if issubclass(kind, Enum):
        return lambda value: value.value
    if issubclass(kind, datetime):
        return rfc3339
    if issubclass(kind, bytes):
        return lambda value: base64.b64encode(value).decode()
    if issubclass(kind, Mapping):
        return lambda value: {to_plain(name): to_plain(each) for name, each in value.items()}
    if issubclass(kind, list | tuple):
        return lambda value: [to_plain(each) for each in value]
    return lambda value: value


class _MisfitError(ValueError):
    """Data does not have the shape asked for: what is wrong in which place, and never what is there."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{reason} @ ${place}" for place, reason in reasons.items()))
        self.reasons = reasons


@cache
def _reader(kind: Any, exact: bool) -> _Change:  # noqa: FBT001  the cache tells positions and keywords apart
    origin, inside = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass_reader(kind, exact=exact)
    if origin is UnionType and len(inside) == _OR_NONE and inside[1] is NoneType:
        known = _reader(inside[0], exact)
        return lambda data: None if data is None else known(data)
    if origin is tuple and inside[1:] == (...,):
        return _tuple_reader(inside[0], _reader(inside[0], exact))
    if origin is Mapping and inside[0] is str:
        return _mapping_reader(inside[1], _reader(inside[1], exact))
    if kind is datetime:
        return datetime.fromisoformat
    if kind is bytes:
        return base64.b64decode
    if isinstance(kind, type) and issubclass(kind, Enum | str | int):
        return kind
    message = f"nobody has said how {kind} is read: say it here"
    raise TypeError(message)


def _dataclass_reader(kind: type, *, exact: bool) -> _Change:
    kinds = get_type_hints(kind)
    readers = {each.name: _reader(kinds[each.name], exact) for each in fields(kind)}
    required = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}

    def read(data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise _MisfitError({"": f"invalid value for type, expected {kind.__name__}"})
        unknown = data.keys() - readers.keys() if exact else set()
        if not unknown:
            with suppress(Exception):  # whatever it is, what follows finds the fields
                return kind(**{name: readers[name](each) for name, each in data.items() if name in readers})
        parts = ((f".{name}", kinds[name], readers[name], each) for name, each in data.items() if name in readers)
        missing = {f".{name}": "required field missing" for name in sorted(required - data.keys())}
        extra = {"": f"extra fields found ({', '.join(sorted(unknown))})"} if unknown else {}
        raise _MisfitError(_misfits(parts) | missing | extra or {"": "invalid value"})

    return read


def _tuple_reader(kind: Any, one: _Change) -> _Change:
    def read(data: Any) -> Any:
        with suppress(Exception):
            return tuple(map(one, data))
        # What cannot be gone through raises here, and its field is told of it.
        raise _MisfitError(_misfits((f"[{at}]", kind, one, each) for at, each in enumerate(data)))

    return read


def _mapping_reader(kind: Any, one: _Change) -> _Change:
    def read(data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise _MisfitError({"": "expected a mapping"})
        with suppress(Exception):
            return {str(name): one(each) for name, each in data.items()}
        raise _MisfitError(_misfits((f"[{name!r}]", kind, one, each) for name, each in data.items()))

    return read


def _misfits(parts: Iterable[tuple[str, Any, _Change, Any]]) -> dict[str, str]:
    """What is wrong with which part, of which each has its place, kind, reader and data."""
    found: dict[str, str] = {}
    for place, kind, read, data in parts:
        try:
            read(data)
        except _MisfitError as misfit:
            found |= {place + inner: reason for inner, reason in misfit.reasons.items()}
        except Exception:  # noqa: BLE001  its words might say what is there
            found[place] = f"invalid value for type, expected {getattr(kind, '__name__', kind)}"
    return found


def lock_request_detail(request: LockRequest) -> dict[str, Any]:
    """A lock or unlock request as every receiver gets it (contract.md, Cluster)."""
    return {
        "action": str(request.action),
        "project_id": request.project_id,
        "cluster_id": request.cluster_id,
        "incident_id": request.incident_id,
        "fence": request.fence,
        "reason": request.reason,
        "respond_by": rfc3339(request.respond_by),
    }
