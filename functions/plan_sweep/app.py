"""Plan the minute's sweep, then mend what nobody is working on."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil import wiring
from keyvigil.errors import UnreadableItemsError

logger = Logger(service="plan_sweep")
metrics = Metrics(namespace="KeyVigil", service="plan_sweep")


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(_event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Sweep; the keys go first, so that a fault in reconciling delays no probe.

    Raises:
        UnreadableItemsError: the sweep is done, but for incidents or clusters that cannot be read.
    """
    sweep = wiring.plan_sweep()()
    if not sweep.claimed:
        logger.info("another sweep has this minute")
        metrics.add_metric(name="SweepsNotClaimed", unit=MetricUnit.Count, value=1)
        return {"claimed": False}
    metrics.add_metric(name="KeysDue", unit=MetricUnit.Count, value=sweep.keys_due)
    metrics.add_metric(name="KeysSent", unit=MetricUnit.Count, value=sweep.keys_sent)
    report = wiring.reconcile()()
    topics = wiring.keep_topics()()
    roles = wiring.audit_roles()()
    for topic_arn in topics.changed:
        logger.info("topic follows the stack's key", extra={"topic_arn": topic_arn})
    for account_id, role_name, project_id in roles.claimed:
        logger.info("role counted", extra={"account_id": account_id, "role": role_name, "project_id": project_id})
    for shared in roles.shared:
        logger.error(
            "role serves several projects",
            extra={"account_id": shared.account_id, "role": shared.role_name, "projects": shared.project_ids},
        )
    for subject, reason in [*report.errors, *topics.errors, *roles.errors]:
        logger.error("could not be mended", extra={"subject": subject, "reason": reason})
    for incident_id, mending, reason in report.mended:
        logger.info("mended", extra={"incident_id": incident_id, "mending": mending, "reason": reason})
    metrics.add_metric(name="OutboxRowsResent", unit=MetricUnit.Count, value=report.rows_resent)
    metrics.add_metric(name="SweepsDone", unit=MetricUnit.Count, value=1)
    if report.unreadable:
        # Everything else is done, and a second try would find the minute taken: this is for the alarm on errors.
        message = f"{report.unreadable} items could not be read, so nothing is mended there; the log names them"
        raise UnreadableItemsError(message)
    return {"claimed": True, "keys_due": sweep.keys_due, "keys_sent": sweep.keys_sent}
