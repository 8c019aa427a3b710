"""Alerts of one tenant never reach a subscriber of another, also while projects and subscriptions come and go.

Tenants follow one another under few project ids. Each tenant's key lies in an account of its own, so that whatever a
subscriber is sent says whose it was.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import override

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyvigil.domain.alerts import Alert, AlertType
from keyvigil.domain.keys import Key
from keyvigil.domain.projects import Approval, Enforcement, Project, Protocol, Subscription
from keyvigil.errors import AlreadyExistsError, DeliveryError, NotFoundError
from keyvigil.use_cases.registry import NewProject, Projects, Subscriptions
from keyvigil.use_cases.telling import Telling
from tests.examples import incident, key, verdict
from tests.fakes import (
    CountingIds,
    FakeClock,
    FakeNotifier,
    FakeTopics,
    MemoryStore,
)
from tests.unit.relaying import relay_of

PROJECT_IDS = ("acme", "bolt")


@dataclass
class Subscriber:
    """Somebody who subscribed as one tenant, and what they were sent."""

    account_id: str
    arn: str = ""
    received: list[Alert] = field(default_factory=list)


class Sns(FakeTopics):
    """Topics with subscribers. A topic's name is free when it is deleted, and its subscriptions are gone for good.

    https://docs.aws.amazon.com/sns/latest/dg/sns-delete-subscription-topic.html
    """

    def __init__(self) -> None:
        super().__init__()
        self.subscribers: dict[str, Subscriber] = {}
        self.on_subscribe: Callable[[], None] = lambda: None
        self.deletions_fail = False

    @override
    def delete(self, topic_arn: str) -> None:
        if self.deletions_fail:
            message = "SNS did not answer"
            raise DeliveryError(message)
        super().delete(topic_arn)
        self.subscriptions = {arn: it for arn, it in self.subscriptions.items() if not arn.startswith(f"{topic_arn}:")}

    @override
    def subscribe(self, topic_arn: str, subscription: Subscription) -> tuple[str, str]:
        hook, self.on_subscribe = self.on_subscribe, lambda: None
        hook()
        if topic_arn not in self.topics:
            message = f"{topic_arn} does not exist"
            raise NotFoundError(message)
        arn, status = super().subscribe(topic_arn, subscription)
        self.subscribers[subscription.endpoint].arn = arn
        return arn, status

    def publish(self, topic_arn: str, alert: Alert) -> None:
        if topic_arn not in self.topics:
            message = f"{topic_arn} does not exist"
            raise DeliveryError(message)
        for subscriber in self.subscribers.values():
            if subscriber.arn in self.subscriptions and subscriber.arn.startswith(f"{topic_arn}:"):
                subscriber.received.append(alert)


class Notifier(FakeNotifier):
    """Publishes to these topics."""

    def __init__(self, sns: Sns) -> None:
        super().__init__()
        self._sns = sns

    @override
    def publish(self, topic_arn: str, alert: Alert) -> None:
        super().publish(topic_arn, alert)
        self._sns.publish(topic_arn, alert)


class World:
    """The registry, the relay and SNS, with tenants who come and go."""

    def __init__(self) -> None:
        self.store, self.clock, self.sns, ids = MemoryStore(), FakeClock(), Sns(), CountingIds()
        self.projects = Projects(self.store, self.sns, self.clock, ids)
        self.subscriptions = Subscriptions(self.store, self.sns, self.clock, ids)
        self.notifier = Notifier(self.sns)
        self.relay = relay_of(self.store, self.notifier, self.clock)
        self.telling = Telling(self.clock, ids)
        self._tenants = 0
        self.keys: dict[str, Key] = {}

    def tenant_comes(self, project_id: str) -> Project:
        """Somebody whom nobody knew before makes a project of this id, with one key."""
        new = NewProject(
            project_id=project_id,
            name=project_id,
            enforcement=Enforcement.OBSERVE,
            approval=Approval.AUTOMATIC,
            check_interval_minutes=10,
            grace_minutes=0,
            probe_plan="full",
        )
        made = self.projects.create(new)
        self._tenants += 1
        account_id = f"{self._tenants:012d}"
        arn = f"arn:aws:kms:us-west-2:{account_id}:key/k"
        self.keys[project_id] = key(project_id=project_id, account_id=account_id, key_arn=arn, verdict=verdict())
        return made

    def tenant_goes(self, project_id: str) -> None:
        self.projects.delete(project_id)
        del self.keys[project_id]

    def subscribe(self, project_id: str) -> Subscriber:
        """The tenant who has the project now subscribes an endpoint that is nobody else's."""
        subscriber = Subscriber(self.keys[project_id].account_id)
        endpoint = f"arn:aws:sqs:us-west-2:{subscriber.account_id}:q{len(self.sns.subscribers)}"
        self.sns.subscribers[endpoint] = subscriber
        self.subscriptions.create(project_id, Protocol.SQS, endpoint, "info", ())
        return subscriber

    def alert(self, project_id: str, kind: AlertType = AlertType.KEY_UNHEALTHY) -> None:
        """Something is to be told of the tenant's key; nobody has sent it yet."""
        row, self.keys[project_id] = self.telling.alert(kind, self.keys[project_id], incident(), ())
        self.store.commit([row])

    def send(self) -> None:
        self.relay(self.store.unsent_rows(self.clock.now()))

    def strangers_alerts(self) -> list[str]:
        """What subscribers were sent of keys that are not their tenant's."""
        return [
            f"{endpoint} got an alert about {alert.key.arn if alert.key else None}"
            for endpoint, subscriber in self.sns.subscribers.items()
            for alert in subscriber.received
            if alert.key is None or alert.key.account_id != subscriber.account_id
        ]


ids_of_projects = st.sampled_from(PROJECT_IDS)


class TenantsComeAndGo(RuleBasedStateMachine):
    """Whatever order things happen in, nobody hears of another's key, and whoever is subscribed hears of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def _has(self, project_id: str) -> bool:
        self.world.clock.advance(0.001)
        project = self.world.store.project(project_id)
        return project is not None and not project.deleting

    @rule(project_id=ids_of_projects)
    def a_tenant_comes(self, project_id: str) -> None:
        self._has(project_id)
        try:
            self.world.tenant_comes(project_id)
        except AlreadyExistsError:
            assert self.world.store.project(project_id) is not None

    @rule(project_id=ids_of_projects, dies=st.booleans())
    def a_tenant_goes(self, project_id: str, *, dies: bool) -> None:
        if self.world.store.project(project_id) is None:
            return
        self.world.sns.deletions_fail = dies
        try:
            self.world.tenant_goes(project_id)
        except DeliveryError:
            assert dies
        self.world.sns.deletions_fail = False

    @rule(project_id=ids_of_projects, still_to_tell=st.booleans())
    def another_tenant_follows_at_once_and_subscribes(self, project_id: str, *, still_to_tell: bool) -> None:
        if self._has(project_id):
            if still_to_tell:
                self.world.alert(project_id)
            self.world.clock.advance(0.001)
            self.world.tenant_goes(project_id)
            self.world.tenant_comes(project_id)
            self.world.subscribe(project_id)

    @rule(project_id=ids_of_projects)
    def somebody_subscribes(self, project_id: str) -> None:
        if self._has(project_id):
            self.world.subscribe(project_id)

    @rule(project_id=ids_of_projects)
    def somebody_subscribes_while_the_tenant_changes(self, project_id: str) -> None:
        if not self._has(project_id):
            return

        def change() -> None:
            self.world.clock.advance(0.001)
            self.world.tenant_goes(project_id)
            self.world.tenant_comes(project_id)

        self.world.sns.on_subscribe = change
        with pytest.raises(NotFoundError):
            self.world.subscribe(project_id)

    @rule(project_id=ids_of_projects, which=st.integers(0, 5))
    def somebody_unsubscribes(self, project_id: str, which: int) -> None:
        present = self.world.store.subscriptions(project_id, 100, None).items
        if which < len(present):
            self.world.subscriptions.delete(project_id, present[which].subscription_id)

    @rule(project_id=ids_of_projects, kind=st.sampled_from([AlertType.KEY_UNHEALTHY, AlertType.KEY_RECOVERED]))
    def something_is_to_be_told(self, project_id: str, kind: AlertType) -> None:
        if self._has(project_id):
            self.world.alert(project_id, kind)

    @rule(broken=st.sampled_from([set(), {"topic"}, {"bus"}, {"topic", "bus"}]))
    def the_outbox_is_relayed(self, broken: set[str]) -> None:
        self.world.clock.advance(0.001)
        self.world.notifier.broken = set(broken)
        self.world.send()
        self.world.notifier.broken = set()
        if "topic" in broken:
            return
        wanted = {
            (subscriber.arn, row.alert.alert_id)
            for row in self.world.store.rows()
            for subscriber in self.world.sns.subscribers.values()
            if row.alert is not None and row.sent_at == self.world.clock.now() and "topic" in row.delivered
            if row.alert.key is not None and row.alert.key.account_id == subscriber.account_id
            if subscriber.arn in self.world.sns.subscriptions
        }
        received = {
            (each.arn, alert.alert_id) for each in self.world.sns.subscribers.values() for alert in each.received
        }
        assert wanted <= received

    @invariant()
    def nobody_hears_of_anothers_key(self) -> None:
        assert self.world.strangers_alerts() == []


TestTenantsComeAndGo = TenantsComeAndGo.TestCase
TestTenantsComeAndGo.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_what_an_earlier_project_of_the_same_id_had_to_tell_reaches_nobody_of_the_next() -> None:
    world = World()
    world.tenant_comes("acme")
    world.alert("acme")
    world.clock.advance(1)
    world.tenant_goes("acme")
    world.tenant_comes("acme")
    next_one = world.subscribe("acme")

    world.send()
    assert next_one.received == []
    assert world.store.unsent_rows(world.clock.now()) == []

    world.alert("acme")
    world.send()
    assert [alert.key and alert.key.account_id for alert in next_one.received] == [next_one.account_id]


def test_a_subscription_that_was_asked_for_under_an_earlier_project_is_not_the_next_ones() -> None:
    world = World()
    world.tenant_comes("acme")

    def tenant_changes() -> None:
        world.clock.advance(1)
        world.tenant_goes("acme")
        world.tenant_comes("acme")

    world.sns.on_subscribe = tenant_changes
    with pytest.raises(NotFoundError, match="project acme does not exist"):
        world.subscribe("acme")

    assert world.sns.subscriptions == {}
    assert world.store.subscriptions("acme", 10, None).items == ()


def test_two_projects_whose_names_begin_alike_do_not_hear_of_each_other() -> None:
    world = World()
    for name in ("acme", "acme-prod"):
        world.tenant_comes(name)
    short, long = world.subscribe("acme"), world.subscribe("acme-prod")

    world.alert("acme")
    world.send()

    assert (len(short.received), len(long.received)) == (1, 0)
