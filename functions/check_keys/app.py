"""Check keys: those that the queue names, one that a caller names, or one that is to be registered.

The only function that may act in a customer's account. It also finds who broke a key, where the queue asks for that
and the customer's role may look into CloudTrail.
"""

import contextlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil import wiring
from keyvigil.adapters.plain_data import from_plain, to_plain
from keyvigil.domain.keys import Registration, Trigger
from keyvigil.domain.verdicts import Outcome, Verdict
from keyvigil.errors import (
    ConflictError,
    DamagedItemError,
    NewerItemError,
    NewerMessageError,
    NotFoundError,
    in_short,
)
from keyvigil.ports import MESSAGE_VERSION, CheckMessage, FindActorMessage
from keyvigil.use_cases.check_canary import CanaryResult
from keyvigil.use_cases.check_key import CheckResult
from keyvigil.use_cases.find_actor import SearchOutcome

logger = Logger(service="check_keys")
metrics = Metrics(service="check_keys")

RECORD_SECONDS = 25
"""How long one key of a batch may take: the function's time-out less the time to tell the queue about the others."""

DEFERRED = (
    "The key was not probed now: requests and events have used up their part of KeyVigil's share of the account's KMS "
    "quotas (QuotaSharePercent). The next sweep probes it."
)

COUNTED = (
    *(f"Verdict{outcome.title()}" for outcome in Outcome),
    "KeysProbedSince",
    "KeysGone",
    "RegistrationProbes",
    "Validations",
    "RestoreChecks",
    "DenialsDoubted",
    *(f"Canary{outcome.title()}" for outcome in Outcome),
    *(f"ActorSearch{outcome.title().replace('_', '')}" for outcome in SearchOutcome),
)
"""What every invocation counts, at least to zero: what is missing must mean that nothing ran."""

_threads = ThreadPoolExecutor(max_workers=20, thread_name_prefix="probe")


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], _context: LambdaContext) -> Any:
    """Take a batch from the queue, or one request from the API or a workflow."""
    for name in COUNTED:
        metrics.add_metric(name=name, unit=MetricUnit.Count, value=0)
    try:
        return _handle(event)
    finally:
        # What a record that timed out still asks for is counted by the next invocation.
        requests, throttled = wiring.kms_calls().take()
        metrics.add_metric(name="KmsRequests", unit=MetricUnit.Count, value=requests)
        metrics.add_metric(name="KmsThrottles", unit=MetricUnit.Count, value=throttled)


def _handle(event: dict[str, Any]) -> Any:
    if "Records" in event:
        return _check_batch(event["Records"])
    match event.get("action"):
        case "check":
            return _check(event)
        case "probe_registration":
            metrics.add_metric(name="RegistrationProbes", unit=MetricUnit.Count, value=1)
            registration = from_plain(event["registration"], Registration)
            answer = wiring.prober().probe_registration(registration)
            return to_plain(replace(answer, verdict=_doubted(answer.verdict, registration)))
        case "validate_key":
            metrics.add_metric(name="Validations", unit=MetricUnit.Count, value=1)
            registration = from_plain(event["registration"], Registration)
            validation = wiring.prober().validate(registration)
            return to_plain(replace(validation, verdict=_doubted(validation.verdict, registration)))
        case "check_restore":
            metrics.add_metric(name="RestoreChecks", unit=MetricUnit.Count, value=1)
            return _check_restore(event)
        case action:
            known = "`check`, `probe_registration`, `validate_key` or `check_restore`"
            message = f"unknown action {action!r}: it is {known}"
            raise ValueError(message)


def _doubted(verdict: Verdict, registration: Registration) -> Verdict:
    """A customer who registers a key while our own role is broken must not be told that theirs is."""
    return wiring.ask_canaries()(verdict, registration.key_arn.split(":")[3])


type _Begun = list[tuple[CheckMessage | FindActorMessage, Future[Any]]]


def _check_batch(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Check the keys of all messages at the same time, and name the messages that failed, as the queue asks for it.

    One that fails or hangs leaves the others alone. A message fails if one of its keys does, and goes to the dead
    letters: nothing of it is tried again. The keys that were checked are no longer due, those that were not still are:
    the next sweep sends them, and only them.

    Powertools' batch processor would do for this, but costs a tenth of the start (docs/decisions/0034-start-up.md).
    Source: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    """
    until = time.monotonic() + RECORD_SECONDS
    begun: dict[str, _Begun] = {}
    failed = []
    for record in records:
        try:
            begun[record["messageId"]] = _begin(record)
        except Exception as error:  # noqa: BLE001  whatever a message holds, the others are checked
            # The dead letters say nothing of the reason; what the message holds is not repeated in the log.
            reason = in_short(error) if isinstance(error, NewerMessageError) else type(error).__name__
            logger.error("message not taken", extra={"message_id": record["messageId"], "reason": reason})  # noqa: TRY400  likewise
            failed.append(record["messageId"])
    # Metrics are gathered in this thread only: Powertools' collector is not made for several.
    for message_id, works in begun.items():
        ended = [_end(message, work, until) for message, work in works]
        if not all(ended):
            failed.append(message_id)
    return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}


def _begin(record: dict[str, Any]) -> _Begun:
    """Hand what a message asks for to the threads.

    Raises:
        NewerMessageError: newer code sent it, in another shape; its keys stay due.
    """
    body = json.loads(record["body"])
    if "incident_id" in body:
        search = from_plain(body, FindActorMessage)
        return [(search, _threads.submit(_find_actor, search))]
    message = from_plain(body, CheckMessage)
    if message.version > MESSAGE_VERSION:
        refused = f"message of version {message.version}, and this code knows up to {MESSAGE_VERSION}"
        raise NewerMessageError(refused)
    return [(each, _threads.submit(_check_message, each)) for each in message.singly()]


def _end(message: CheckMessage | FindActorMessage, work: Future[Any], until: float) -> bool:
    """Wait for what was begun, no longer than until then, and tell of it; whether it came to an end."""
    try:
        result = work.result(timeout=max(0.0, until - time.monotonic()))
    except Exception as error:  # noqa: BLE001  whatever it is, it fails its own message only
        work.cancel()  # of use if no thread was free to begin it
        told = {"project_id": message.project_id, "reason": in_short(error)}
        if isinstance(message, CheckMessage):
            logger.error("not checked", extra={**told, "key_id": message.key_id})  # noqa: TRY400  named by its reason
        else:
            logger.error("not searched", extra={**told, "incident_id": message.incident_id})  # noqa: TRY400  likewise
        return False
    if isinstance(message, FindActorMessage):
        _tell_of_search(message, result)
    elif isinstance(result, CanaryResult):
        _tell_of_canary(result)
    elif result is None:
        logger.info("key is gone", extra={"project_id": message.project_id, "key_id": message.key_id})
        metrics.add_metric(name="KeysGone", unit=MetricUnit.Count, value=1)
    else:
        _tell(result)
    return True


def _check_message(message: CheckMessage) -> CheckResult | CanaryResult | None:
    try:
        if message.canary:
            return wiring.check_canary()(message.key_id, due_at=message.due_at)
        result = wiring.check_key()(message.project_id, message.key_id, message.trigger, due_at=message.due_at)
    except NotFoundError:
        return None
    except (NewerItemError, DamagedItemError):
        # The message goes to the dead letters, which say nothing of the reason.
        logger.exception("cannot be read", extra={"project_id": message.project_id, "key_id": message.key_id})
        raise
    incident_id = result.key.open_incident_id
    if message.trigger is Trigger.EVENT and incident_id is not None:
        # The event may say who broke a key that was found broken before it came. If not, the search goes on.
        with contextlib.suppress(ConflictError):
            wiring.find_actor().from_events(message.project_id, incident_id)
    return result


def _tell_of_search(message: FindActorMessage, outcome: SearchOutcome) -> None:
    """Not to find anybody, or not to be let look, is no error."""
    logger.info("searched for an actor", extra={"incident_id": message.incident_id, "outcome": outcome})
    metrics.add_metric(name=f"ActorSearch{outcome.title().replace('_', '')}", unit=MetricUnit.Count, value=1)


def _find_actor(message: FindActorMessage) -> SearchOutcome:
    try:
        return wiring.find_actor().look_up(message.project_id, message.incident_id)
    except ConflictError:
        return SearchOutcome.NOT_DUE  # others were faster every time: the next sweep asks again


def _check(event: dict[str, Any]) -> dict[str, Any]:
    due = event.get("due_at")
    try:
        result = wiring.check_key()(
            event["project_id"],
            event["key_id"],
            Trigger(event["trigger"]),
            due_at=datetime.fromisoformat(due) if due else None,
        )
    except NotFoundError as error:
        metrics.add_metric(name="KeysGone", unit=MetricUnit.Count, value=1)
        return {"error": "not_found", "message": str(error)}
    _tell(result)
    if result.deferred:
        return {"error": "deferred", "message": DEFERRED}
    return {
        "error": None,
        "status": result.key.health.status,
        "outcome": result.key.verdict.outcome,
        "cause": result.key.verdict.cause,
        "confirmed": result.confirmed,
        "incident_id": result.key.open_incident_id,
    }


def _check_restore(event: dict[str, Any]) -> Any:
    key = wiring.store().key(event["project_id"], event["key_id"])
    if key is None:
        return {"error": "not_found", "message": f"key {event['key_id']} is not registered"}
    return to_plain(wiring.prober().check_restore(key, event["region"]))


def _tell(result: CheckResult) -> None:
    if result.deferred:
        logger.warning(DEFERRED, extra={"project_id": result.key.project_id, "key_id": result.key.key_id})
        return
    if not result.probed:
        metrics.add_metric(name="KeysProbedSince", unit=MetricUnit.Count, value=1)
        return
    key = result.key
    metrics.add_metric(name=f"Verdict{key.verdict.outcome.title()}", unit=MetricUnit.Count, value=1)
    metrics.add_metric(name="ProbeLatency", unit=MetricUnit.Milliseconds, value=key.verdict.latency_ms)
    if result.noticed_after is not None:
        seconds = result.noticed_after.total_seconds()
        metrics.add_metric(name="TimeToDetection", unit=MetricUnit.Seconds, value=seconds)
    if result.doubted:
        metrics.add_metric(name="DenialsDoubted", unit=MetricUnit.Count, value=1)
    logger.info(
        "probed",
        extra={
            "project_id": key.project_id,
            "key_id": key.key_id,
            "trigger": key.last_trigger,
            "outcome": key.verdict.outcome,
            "cause": key.verdict.cause,
            "operation": key.verdict.operation,
            "aws_error_code": key.verdict.aws_error_code,
            "status": key.health.status,
            "latency_ms": key.verdict.latency_ms,
        },
    )


def _tell_of_canary(result: CanaryResult) -> None:
    if not result.probed:
        return
    canary, verdict = result.canary, result.canary.verdict
    metrics.add_metric(name=f"Canary{canary.outcome.title()}", unit=MetricUnit.Count, value=1)
    # The alarm looks at this one: a nought says that a canary was probed, which the lack of it does not.
    unwell = int(canary.outcome is not Outcome.HEALTHY)
    metrics.add_metric(name="CanariesUnwell", unit=MetricUnit.Count, value=unwell)
    logger.info(
        "probed a canary",
        extra={
            "canary_id": canary.canary_id,
            "outcome": canary.outcome,
            "cause": verdict.cause if verdict else None,
            "operation": verdict.operation if verdict else None,
            "aws_error_code": verdict.aws_error_code if verdict else None,
            "in_doubt": canary.in_doubt,
        },
    )
