"""Take what KMS, CloudTrail and IAM tell of keys, from the default bus and from the one that customers forward to.

It decides nothing about a key: it asks `check_keys` for probes, and keeps who acted.
"""

from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil import wiring
from keyvigil.adapters.cloudtrail_records import Ignored, from_eventbridge

logger = Logger(service="receive_key_event")
metrics = Metrics(service="receive_key_event")

COUNTED = ("KeyEvents", "KeyEventRegistrations", "KeyEventsIgnored", "KeyEventsCut")
"""What every invocation counts, at least to zero: what is missing must mean that nothing ran."""


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: Any, _context: LambdaContext) -> dict[str, Any]:
    """Take one event. What is no event about a key is ignored: trying it again would not make it one."""
    for name in COUNTED:
        metrics.add_metric(name=name, unit=MetricUnit.Count, value=0)
    taken = from_eventbridge(event)
    if isinstance(taken, Ignored):
        logger.info("event ignored", extra={"reason": taken.reason})
        metrics.add_metric(name="KeyEventsIgnored", unit=MetricUnit.Count, value=1)
        return {"registrations": 0, "messages": 0, "ignored": taken.reason}
    received = wiring.receive_key_event()(taken)
    metrics.add_metric(name="KeyEvents", unit=MetricUnit.Count, value=1)
    metrics.add_metric(name="KeyEventRegistrations", unit=MetricUnit.Count, value=received.registrations)
    if received.left_out:
        logger.warning("event concerns more registrations than are looked at", extra={"name_of_event": taken.name})
        metrics.add_metric(name="KeyEventsCut", unit=MetricUnit.Count, value=1)
    logger.info(
        "event taken",
        extra={
            "name_of_event": taken.name,
            "account_id": taken.account_id,
            "registrations": received.registrations,
            "messages": received.messages,
            "hints": received.hints,
        },
    )
    return {"registrations": received.registrations, "messages": received.messages, "ignored": None}
