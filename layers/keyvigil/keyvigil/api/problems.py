"""Errors as RFC 9457 problem details."""

import json
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools.event_handler import Response

CONTENT_TYPE = "application/problem+json"


def problem(
    status: int, title: str, detail: str, *, retry_after_seconds: int | None = None, **more: Any
) -> Response[str]:
    """A problem document. What is None is left out."""
    document = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        **{name: value for name, value in more.items() if value is not None},
    }
    headers = {"Retry-After": str(retry_after_seconds)} if retry_after_seconds is not None else {}
    return Response(
        status_code=HTTPStatus(status), content_type=CONTENT_TYPE, body=json.dumps(document), headers=headers
    )
