"""End a lockout: what is not locked by now has failed."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil import wiring

logger = Logger(service="settle_lockout")
metrics = Metrics(service="settle_lockout")


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Settle; the workflow fails if `failed` is not empty."""
    settlement = wiring.settle_lockout()(event["project_id"], event["key_id"], event["incident_id"])
    metrics.add_metric(name="LocksFailed", unit=MetricUnit.Count, value=len(settlement.failed))
    if settlement.locked_after is not None:
        seconds = settlement.locked_after.total_seconds()
        metrics.add_metric(name="TimeToLockout", unit=MetricUnit.Seconds, value=seconds)
    logger.info(
        "settled",
        extra={
            "incident_id": event["incident_id"],
            "status": settlement.status,
            "failed": len(settlement.failed),
        },
    )
    return {"status": settlement.status, "failed": list(settlement.failed)}
