"""Decide whether a confirmed outage locks its clusters."""

from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil import wiring

logger = Logger(service="decide_lockout")


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Decide; the workflow branches on `verb`. A reason can be in a person's words, so it is not logged."""
    plan = wiring.decide_lockout()(event["project_id"], event["key_id"], event["incident_id"])
    logger.info(
        "decided",
        extra={
            "incident_id": event["incident_id"],
            "verb": plan.decision.verb,
            "held_for": plan.decision.held_for,
            "clusters": len(plan.cluster_ids),
        },
    )
    return {"verb": plan.decision.verb, "reason": plan.decision.reason, "cluster_ids": list(plan.cluster_ids)}
