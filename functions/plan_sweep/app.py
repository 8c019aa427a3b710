"""Plan the minute's sweep, then mend what nobody is working on."""

import time
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from keyvigil import wiring
from keyvigil.errors import DeliveryError, UnreadableItemsError

logger = Logger(service="plan_sweep")
metrics = Metrics(service="plan_sweep")


@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(_event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Sweep; the keys go first, so that a fault in reconciling delays no probe.

    Raises:
        UnreadableItemsError: the sweep is done, but for incidents or clusters that cannot be read.
    """
    began = time.monotonic()
    sweep = wiring.plan_sweep()()
    _count("SweepsNotClaimed", not sweep.claimed)
    if not sweep.claimed:
        logger.info("another sweep has this minute")
        return {"claimed": False}
    _count("KeysDue", sweep.keys_due)
    _count("KeysSent", sweep.keys_sent)
    _count("KeysNotSent", sweep.keys_due - sweep.keys_sent)
    if sweep.trouble is not None:
        logger.error("no key could be sent", extra={"reason": sweep.trouble})
    unreadable = _mend()
    _count_fleet()
    metrics.add_metric(name="SweepDuration", unit=MetricUnit.Milliseconds, value=(time.monotonic() - began) * 1000)
    # A sweep that had keys to send and could send none is not done: keys are not being checked.
    done = sweep.trouble is None
    _count("SweepsDone", done)
    if done:
        _beat()
    if unreadable:
        # Everything else is done, and a second try finds the minute taken: this is for the alarm on errors.
        message = f"{unreadable} items could not be read, so nothing is mended there; the log names them"
        raise UnreadableItemsError(message)
    return {"claimed": True, "keys_due": sweep.keys_due, "keys_sent": sweep.keys_sent}


def _mend() -> int:
    """Mend what is not as it should be; how many items could not be read."""
    # First, because the keys that were just sent are being probed: one that was stale until now is told all the same.
    stale = wiring.tell_stale()()
    report = wiring.reconcile()()
    opened = wiring.open_shut_clusters()()
    orphans = wiring.stop_orphans()()
    followed = wiring.follow_receivers()()
    searches = wiring.plan_actor_searches()()
    again = wiring.tell_again()()
    topics = wiring.keep_topics()()
    roles = wiring.audit_roles()()
    pointers = wiring.keep_pointers()()
    errors = [
        *report.errors,
        *opened.errors,
        *orphans.errors,
        *followed.errors,
        *searches.errors,
        *stale.errors,
        *again.errors,
        *topics.errors,
        *roles.errors,
        *pointers.errors,
    ]
    for arn in topics.changed:
        logger.info("topic or subscription follows the stack", extra={"arn": arn})
    for account_id, role_name, project_id in roles.claimed:
        logger.info("role counted", extra={"account_id": account_id, "role": role_name, "project_id": project_id})
    for shared in roles.shared:
        logger.error(
            "role serves several projects",
            extra={"account_id": shared.account_id, "role": shared.role_name, "projects": shared.project_ids},
        )
    for subject, reason in errors:
        logger.error("could not be mended", extra={"subject": subject, "reason": reason})
    for incident_id, mending, reason in report.mended:
        logger.info("mended", extra={"incident_id": incident_id, "mending": mending, "reason": reason})
    for project_id, cluster_id in opened.let_in:
        logger.info("let in", extra={"project_id": project_id, "cluster_id": cluster_id})
    for project_id, cluster_id in opened.taken_up:
        logger.info("locked for nothing", extra={"project_id": project_id, "cluster_id": cluster_id})
    for name in orphans.stopped:
        logger.info("stopped", extra={"execution": name})
    _count("OutboxRowsResent", report.rows_resent)
    _count("LocksOverdue", report.overdue_failed)
    brought_back = len(opened.let_in) + len(opened.taken_up)
    _count("MendingsDone", len(report.mended) + brought_back + len(orphans.stopped))
    _count("MendingsFailed", len(errors))
    _count("ActorSearchesSent", searches.sent)
    _count("PointersMade", pointers.made)
    _count("AlertsToldAgain", again.told)
    _count("StaleKeys", stale.stale_keys)
    return report.unreadable + opened.unreadable


def _count_fleet() -> None:
    fleet = wiring.store().count_fleet()
    for status, keys in fleet.keys.items():
        _count(f"Keys{status.title()}", keys)
    _count("KeysUnknown", fleet.unknown)
    _count("IncidentsOpen", fleet.open_incidents)
    _count("OutboxRowsAside", wiring.store().count_aside())
    oldest = wiring.store().oldest_unsent_row()
    waits = 0.0 if oldest is None else (wiring.clock().now() - oldest).total_seconds()
    metrics.add_metric(name="OldestUnsentRow", unit=MetricUnit.Seconds, value=max(0.0, waits))


def _beat() -> None:
    """Tell the watcher outside. It must hear of nothing else, and its deafness fails no sweep."""
    heartbeat = wiring.heartbeat()
    failed = False
    try:
        if heartbeat is not None:
            heartbeat.beat()
    except DeliveryError as error:
        logger.error("no heartbeat", extra={"reason": str(error)})  # noqa: TRY400  a traceback could name the address
        failed = True
    _count("HeartbeatsSent", heartbeat is not None and not failed)
    _count("HeartbeatsFailed", failed)


def _count(name: str, value: int) -> None:
    """Zeros are published too: what is missing must mean that nobody counted."""
    metrics.add_metric(name=name, unit=MetricUnit.Count, value=int(value))
