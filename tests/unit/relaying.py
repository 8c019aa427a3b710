"""The relay with its ports in memory, for the tests of what it delivers, withholds and tells again."""

from keyvigil.ports import Clock, Findings, Notifier, ReceiverCalls, Store, Workflow
from keyvigil.use_cases.relay_outbox import RelayOutbox
from tests.fakes import FakeReceiverCalls, FakeWorkflow

OPERATOR_TOPIC = "arn:aws:sns:us-west-2:111111111111:operator"


def relay_of(
    store: Store,
    notifier: Notifier,
    clock: Clock,
    *,
    workflow: Workflow | None = None,
    calls: ReceiverCalls | None = None,
    findings: Findings | None = None,
) -> RelayOutbox:
    """A relay that delivers to these; what a test does not look at is a fake that takes everything."""
    return RelayOutbox(
        store,
        notifier,
        workflow or FakeWorkflow(),
        clock,
        operator_topic_arn=OPERATOR_TOPIC,
        receiver_calls=calls or FakeReceiverCalls(),
        findings=findings,
    )
