"""Check keys: those that the queue names, one that a caller names, or one that is to be registered.

The only function that may act in a customer's account.
"""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    EventType,
    async_process_partial_response,
)
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil import wiring
from keyvigil.adapters.plain_data import from_plain, to_plain
from keyvigil.domain.keys import Registration, Trigger
from keyvigil.errors import DamagedItemError, NewerItemError, NotFoundError
from keyvigil.ports import CheckMessage
from keyvigil.use_cases.check_key import CheckResult

logger = Logger(service="check_keys")
metrics = Metrics(namespace="KeyVigil", service="check_keys")
processor = AsyncBatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)

RECORD_SECONDS = 25
"""How long one key of a batch may take: the function's time-out less the time to tell the queue about the others."""

_threads = ThreadPoolExecutor(max_workers=20, thread_name_prefix="probe")


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    """Take a batch from the queue, or one request from the API or a workflow."""
    if "Records" in event:
        return async_process_partial_response(
            event=event, record_handler=_check_record, processor=processor, context=context
        )
    match event.get("action"):
        case "check":
            return _check(event)
        case "probe_registration":
            metrics.add_metric(name="RegistrationProbes", unit=MetricUnit.Count, value=1)
            registration = from_plain(event["registration"], Registration)
            return to_plain(wiring.prober().probe_registration(registration))
        case "validate_key":
            metrics.add_metric(name="Validations", unit=MetricUnit.Count, value=1)
            return to_plain(wiring.prober().validate(from_plain(event["registration"], Registration)))
        case action:
            message = f"unknown action {action!r}: it is `check`, `probe_registration` or `validate_key`"
            raise ValueError(message)


async def _check_record(record: dict[str, Any]) -> None:
    """Check one key in a thread. One that hangs fails by itself and leaves the others of its batch alone."""
    message = from_plain(json.loads(record["body"]), CheckMessage)
    async with asyncio.timeout(RECORD_SECONDS):
        result = await asyncio.get_running_loop().run_in_executor(_threads, _check_message, message)
    # Metrics are gathered in the loop's thread only: Powertools' collector is not made for several.
    if result is None:
        logger.info("key is gone", extra={"project_id": message.project_id, "key_id": message.key_id})
        metrics.add_metric(name="KeysGone", unit=MetricUnit.Count, value=1)
    else:
        _tell(result)


def _check_message(message: CheckMessage) -> CheckResult | None:
    try:
        return wiring.check_key()(message.project_id, message.key_id, Trigger.SCHEDULE, due_at=message.due_at)
    except NotFoundError:
        return None
    except (NewerItemError, DamagedItemError):
        # The message goes to the dead letters, which say nothing of the reason.
        logger.exception("cannot be read", extra={"project_id": message.project_id, "key_id": message.key_id})
        raise


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
    return {
        "error": None,
        "status": result.key.health.status,
        "outcome": result.key.verdict.outcome,
        "cause": result.key.verdict.cause,
        "confirmed": result.confirmed,
        "incident_id": result.key.open_incident_id,
    }


def _tell(result: CheckResult) -> None:
    if not result.probed:
        metrics.add_metric(name="KeysProbedSince", unit=MetricUnit.Count, value=1)
        return
    key = result.key
    metrics.add_metric(name=f"Verdict{key.verdict.outcome.title()}", unit=MetricUnit.Count, value=1)
    metrics.add_metric(name="ProbeLatency", unit=MetricUnit.Milliseconds, value=key.verdict.latency_ms)
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
