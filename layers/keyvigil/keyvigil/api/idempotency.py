"""`Idempotency-Key`: who repeats a POST that creates gets the answer of the first time.

Only answers that created something are kept. A refusal leaves nothing behind, so the same key can be tried again
with what was wrong mended.
"""

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyPersistenceLayerError,
    IdempotencyValidationError,
)
from aws_lambda_powertools.utilities.idempotency.persistence.datarecord import DataRecord

from keyvigil import wiring
from keyvigil.api.problems import problem

type Event = dict[str, Any]
type Answer = dict[str, Any]

logger = Logger(service="registry_api")

KEPT_SECONDS = 24 * 60 * 60
# Source: https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/ (with or without its quotes)
_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z", re.ASCII)


class _NotCreatedError(Exception):
    """Nothing was created, so the answer is not kept."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


def answer_once(
    event: Event, context: Any, key: str, content: bytes, answer: Callable[[], Answer]
) -> Answer | Response[str]:
    """Answer a request that creates, or give the answer that it got the first time.

    A key belongs to its caller's role or user and to one route: other tenants' keys are other keys.
    """
    if not _KEY.match(key):
        return problem(
            400, "Invalid Idempotency-Key", "An Idempotency-Key has 1 to 255 printable ASCII characters and no space."
        )
    caller = str(event["requestContext"]["authorizer"]["iam"]["userId"])
    request = {
        # The part after the colon names the session, and a retry may come from the role's next one.
        "place": [caller.partition(":")[0], event["rawPath"], key],
        "content": _fingerprint(content),
    }
    config = IdempotencyConfig(
        event_key_jmespath="place",
        payload_validation_jmespath="content",
        raise_on_no_idempotency_key=True,
        expires_after_seconds=KEPT_SECONDS,
        hash_function="sha256",
        lambda_context=context,
        response_hook=_as_repeated,
    )

    answers: list[Answer] = []

    def create(*, request: dict[str, Any]) -> Answer:
        del request  # Powertools makes the key of it
        made = answer()
        answers.append(made)
        if made["statusCode"] != HTTPStatus.CREATED:
            raise _NotCreatedError(made)
        return {name: made[name] for name in ("statusCode", "headers", "body", "isBase64Encoded") if name in made}

    once = idempotent_function(
        create,
        data_keyword_argument="request",
        persistence_store=wiring.kept_answers(),
        config=config,
        key_prefix="create",
    )
    try:
        made: Answer = once(request=request)
    except _NotCreatedError as nothing:
        return nothing.answer
    except IdempotencyValidationError:
        return problem(
            409,
            "Idempotency-Key was used for other content",
            "A request with this Idempotency-Key and other content was answered before. Take a new key for a new "
            "request.",
        )
    except IdempotencyAlreadyInProgressError:
        return problem(
            409,
            "Request is under way",
            "A request with this Idempotency-Key is being answered; ask again.",
            retry_after_seconds=5,
        )
    except IdempotencyPersistenceLayerError:
        logger.exception("the answer could not be kept")
        if answers:  # what was done is told, although it could not be kept
            return answers[0]
        return problem(503, "Answers cannot be kept now", "Nothing was stored; ask again.", retry_after_seconds=5)
    return made


def _fingerprint(content: bytes) -> str:
    """The same for the same JSON, however it is laid out."""
    with suppress(ValueError, RecursionError):  # no content, or too deep to be laid out anew
        content = json.dumps(json.loads(content), sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def _as_repeated(response: Any, idempotent_data: DataRecord) -> Answer:
    """The kept answer. It creates nothing this time, so it is no 201."""
    del idempotent_data  # when it was kept is no matter
    return {**response, "statusCode": int(HTTPStatus.OK)}
