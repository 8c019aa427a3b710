"""Plan the minute's sweep, then mend what nobody is working on."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil import wiring

logger = Logger(service="plan_sweep")
metrics = Metrics(namespace="KeyVigil", service="plan_sweep")


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(_event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Sweep; the keys go first, so that a fault in reconciling delays no probe."""
    sweep = wiring.plan_sweep()()
    if not sweep.claimed:
        logger.info("another sweep has this minute")
        metrics.add_metric(name="SweepsNotClaimed", unit=MetricUnit.Count, value=1)
        return {"claimed": False}
    metrics.add_metric(name="KeysDue", unit=MetricUnit.Count, value=sweep.keys_due)
    metrics.add_metric(name="KeysSent", unit=MetricUnit.Count, value=sweep.keys_sent)
    report = wiring.reconcile()()
    followed = wiring.follow_receivers()()
    topics = wiring.keep_topics()()
    for topic_arn in topics.changed:
        logger.info("topic follows the stack's key", extra={"topic_arn": topic_arn})
    for subject, reason in [*report.errors, *followed.errors, *topics.errors]:
        logger.error("could not be mended", extra={"subject": subject, "reason": reason})
    for incident_id, mending, reason in report.mended:
        logger.info("mended", extra={"incident_id": incident_id, "mending": mending, "reason": reason})
    metrics.add_metric(name="OutboxRowsResent", unit=MetricUnit.Count, value=report.rows_resent)
    metrics.add_metric(name="SweepsDone", unit=MetricUnit.Count, value=1)
    return {"claimed": True, "keys_due": sweep.keys_due, "keys_sent": sweep.keys_sent}
