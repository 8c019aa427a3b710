"""Relay the outbox: new rows from the table's stream, or old ones that the reconciler names."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil import wiring
from keyvigil.errors import UnreadableItemsError

logger = Logger(service="relay_outbox")
metrics = Metrics(service="relay_outbox")


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, int]:
    """Deliver rows. What a target did not take stays unsent: raising would hold up the rows behind it.

    Raises:
        UnreadableItemsError: the reconciler asked, nothing waits behind, and rows cannot be read or marked: for the
            alarm.
    """
    row_ids = event["resend"] if "resend" in event else [_row_id(record) for record in event["Records"]]
    result = wiring.relay_outbox()(row_ids)
    for row_id, target, reason in result.failures:
        logger.error("not delivered", extra={"row_id": row_id, "target": target, "reason": reason})
    for row_id, reason in result.set_aside:
        logger.error("set aside", extra={"row_id": row_id, "reason": reason})
    metrics.add_metric(name="OutboxRowsSent", unit=MetricUnit.Count, value=result.sent)
    metrics.add_metric(name="AlertsWithheld", unit=MetricUnit.Count, value=result.withheld)
    metrics.add_metric(name="DeliveriesFailed", unit=MetricUnit.Count, value=len(result.failures))
    unreadable = sum(target is None for _, target, _ in result.failures)
    if unreadable and "resend" in event:
        message = f"{unreadable} rows could not be read or marked; the log names them"
        raise UnreadableItemsError(message)
    return {"sent": result.sent, "failed": len(result.failures)}


def _row_id(record: dict[str, Any]) -> str:
    return str(record["dynamodb"]["Keys"]["pk"]["S"]).removeprefix("OUTBOX#")
