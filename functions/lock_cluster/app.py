"""Ask for one cluster to be locked; the workflow waits for the answer."""

from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil import wiring
from keyvigil.domain.clusters import LockAction

logger = Logger(service="lock_cluster")


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Ask for the lock."""
    outcome = wiring.request_lock()(
        LockAction.LOCK,
        event["project_id"],
        event["cluster_id"],
        event["incident_id"],
        event["task_token"],
    )
    logger.info(
        "asked",
        extra={"incident_id": event["incident_id"], "cluster_id": event["cluster_id"], "outcome": outcome},
    )
    return {"outcome": outcome}
