"""Call one cluster's receiver, invoked by the relay for a new request and by the sweep for one that was accepted."""

from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil import wiring

logger = Logger(service="call_receiver")


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Call it. What it said is in the incident's timeline, not in the log."""
    asked = {name: event[name] for name in ("project_id", "cluster_id", "fence")}
    report = wiring.call_receiver()(**asked)
    for fault in report.faults:
        logger.error("the call failed", extra={**asked, "fault": fault})
    logger.info("called", extra={**asked, "outcome": report.outcome})
    return {"outcome": report.outcome}
