"""Domain values as plain JSON data and back: for the table, for alerts, for payloads between functions."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cattrs import BaseValidationError, Converter, transform_error

from keyvigil.domain.alerts import LockRequest


def rfc3339(moment: datetime) -> str:
    """A time as the contract writes it: RFC 3339, UTC, milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _make_converter(*, exact: bool) -> Converter:
    converter = Converter(omit_if_default=False, forbid_extra_keys=exact)
    converter.register_unstructure_hook(datetime, rfc3339)
    converter.register_structure_hook(datetime, lambda text, _: datetime.fromisoformat(text))
    converter.register_unstructure_hook(bytes, lambda raw: base64.b64encode(raw).decode())
    converter.register_structure_hook(bytes, lambda text, _: base64.b64decode(text))
    return converter


_converter = _make_converter(exact=False)
_exact_converter = _make_converter(exact=True)


def to_plain(value: Any) -> Any:
    """A domain value as dicts, lists, strings, numbers and None."""
    return _converter.unstructure(value)


def from_plain[T](data: Mapping[str, Any], kind: type[T]) -> T:
    """The domain value that `to_plain` made this of, on its way between functions.

    Unknown fields are ignored: while a stack is updated, a newer function may have sent them.
    """
    return _converter.structure(data, kind)


def from_stored[T](data: Mapping[str, Any], kind: type[T]) -> T:
    """The domain value that `to_plain` made this of, out of the table. A missing field has its default.

    Raises:
        ValueError: a field is unknown, is missing and has no default, or holds something else. The message names
            fields and never what they hold.
    """
    try:
        return _exact_converter.structure(data, kind)
    except BaseValidationError as error:
        raise ValueError("; ".join(transform_error(error))) from None


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
