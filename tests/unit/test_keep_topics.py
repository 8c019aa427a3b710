"""Projects' topics and subscriptions follow the stack, some in each sweep, and each once."""

from typing import Any, override

import pytest

from keyvigil.domain.projects import Project, Protocol, Subscription
from keyvigil.errors import RefusedError
from keyvigil.ports import Page
from keyvigil.use_cases.keep_topics import KeepTopics
from tests.examples import NOW, project
from tests.fakes import FakeTopics, MemoryStore, changed


def topic(number: int) -> str:
    return f"arn:aws:sns:us-west-2:111111111111:keyvigil-project-{number}"


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    for number in range(5):
        store.put(project(project_id=f"p{number}", alert_topic_arn=topic(number)))
    return store


@pytest.fixture
def topics() -> FakeTopics:
    topics = FakeTopics()
    topics.unencrypted = {topic(number) for number in range(5)}
    return topics


def test_a_sweep_looks_at_some_topics_and_the_next_ones_at_the_rest(store: MemoryStore, topics: FakeTopics) -> None:
    keep = KeepTopics(store, topics, at_once=2)

    changed = [keep().changed for _ in range(3)]

    assert changed == [[topic(0), topic(1)], [topic(2), topic(3)], [topic(4)]]
    assert topics.unencrypted == set()


def test_a_topic_for_chat_is_kept_as_its_projects_topic_is() -> None:
    store, topics = MemoryStore(), FakeTopics()
    store.put(project(chat=True), project(project_id="other"))
    topics.unencrypted = {project().chat_topic_arn}

    assert KeepTopics(store, topics)().changed == [project().chat_topic_arn]
    assert topics.looked_at.count(project().chat_topic_arn) == 1


def test_topics_that_were_looked_at_are_not_asked_about_again(store: MemoryStore, topics: FakeTopics) -> None:
    keep = KeepTopics(store, topics)
    keep()
    keep()

    assert len(topics.looked_at) == 5


def test_a_topic_that_cannot_be_changed_delays_no_other_and_is_tried_again(
    store: MemoryStore, topics: FakeTopics
) -> None:
    topics.refuses = {topic(1)}
    keep = KeepTopics(store, topics)

    first = keep()
    topics.refuses = set()
    second = keep()

    assert first.changed == [topic(0), topic(2), topic(3), topic(4)]
    assert first.errors == [(topic(1), f"PermissionError: {topic(1)}")]
    assert second.changed == [topic(1)]
    assert keep().changed == []
    assert len(topics.looked_at) == 10


def test_a_topic_from_before_topics_were_closed_is_closed(store: MemoryStore, topics: FakeTopics) -> None:
    topics.unencrypted, topics.open = {topic(2)}, {topic(1), topic(2)}

    assert KeepTopics(store, topics)().changed == [topic(1), topic(2)]
    assert topics.unencrypted == topics.open == set()


def subscribed(store: MemoryStore, topics: FakeTopics, number: int, **fields: Any) -> Subscription:
    """A subscription of project 0, known to SNS, as code wrote it that knew no dead letters."""
    example = Subscription(
        project_id="p0",
        subscription_id=f"01J{number}",
        protocol=Protocol.SQS,
        endpoint=f"arn:aws:sqs:us-west-2:222222222222:alerts-{number}",
        min_severity="info",
        types=(),
        subscription_arn=f"{topic(0)}:{number}",
        status="confirmed",
        created_at=NOW,
    )
    made = changed(example, **fields)
    store.put(made)
    topics.subscriptions[made.subscription_arn] = made
    return made


def dead_letters(store: MemoryStore) -> list[str | None]:
    return [each.dead_letters_arn for each in store.all(Subscription)]


def test_subscriptions_from_before_the_dead_letters_are_brought_under_them_once(
    store: MemoryStore, topics: FakeTopics
) -> None:
    topics.unencrypted.clear()
    old, other = subscribed(store, topics, 1), subscribed(store, topics, 2, dead_letters_arn="arn:of:a:queue:before")
    subscribed(store, topics, 3, dead_letters_arn=topics.dead_letters)

    first = KeepTopics(store, topics)()
    again = KeepTopics(store, topics)()

    assert first.changed == topics.redriven == [old.subscription_arn, other.subscription_arn]
    assert dead_letters(store) == [topics.dead_letters] * 3
    assert (again.changed, again.errors) == ([], [])


def test_a_subscription_that_cannot_be_changed_delays_no_other_and_is_tried_again(
    store: MemoryStore, topics: FakeTopics
) -> None:
    topics.unencrypted.clear()
    refusing, other = subscribed(store, topics, 1), subscribed(store, topics, 2)
    topics.refuses = {refusing.subscription_arn}
    keep = KeepTopics(store, topics)

    first = keep()
    topics.refuses = set()
    second = keep()

    assert first.changed == [other.subscription_arn]
    assert first.errors == [(refusing.subscription_arn, f"PermissionError: {refusing.subscription_arn}")]
    assert second.changed == [refusing.subscription_arn]


def test_a_subscription_that_sns_forgot_is_not_asked_about_again(store: MemoryStore, topics: FakeTopics) -> None:
    topics.unencrypted.clear()
    subscribed(store, topics, 1)
    topics.subscriptions.clear()

    assert KeepTopics(store, topics)().changed == []
    assert dead_letters(store) == [topics.dead_letters]


@pytest.mark.parametrize(("status", "errors"), [("pending", 0), ("confirmed", 1)])
def test_a_subscription_that_is_not_confirmed_yet_waits_for_a_later_sandbox(
    store: MemoryStore, topics: FakeTopics, status: str, errors: int
) -> None:
    class NotYet(FakeTopics):
        @override
        def redrive(self, subscription_arn: str) -> bool:
            raise RefusedError(409, "Subscription is not confirmed", "SNS takes no queue of dead letters.")

    not_yet = NotYet()
    subscribed(store, not_yet, 1, status=status)

    assert len(KeepTopics(store, not_yet)().errors) == errors
    assert dead_letters(store) == [None]


def test_a_stack_without_dead_letters_changes_no_subscription(store: MemoryStore, topics: FakeTopics) -> None:
    topics.dead_letters = None
    subscribed(store, topics, 1)

    KeepTopics(store, topics)()

    assert topics.redriven == []


def test_subscriptions_that_cannot_be_read_delay_no_other_project(
    store: MemoryStore, topics: FakeTopics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(project_id: str, limit: int, token: str | None) -> Page[Subscription]:
        if project_id == "p0":
            raise TimeoutError("the table did not answer")
        return Page((), None)

    monkeypatch.setattr(store, "subscriptions", read)

    kept = KeepTopics(store, topics)()

    assert kept.changed == [topic(number) for number in range(5)]
    assert kept.errors == [(topic(0), "TimeoutError: the table did not answer")]


class StoreThatFailsOnce(MemoryStore):
    failed = False

    @override
    def projects(self, limit: int, token: str | None) -> Page[Project]:
        if not self.failed:
            self.failed = True
            raise TimeoutError("the table did not answer")
        return super().projects(limit, token)


def test_a_table_that_does_not_answer_is_asked_again_by_the_next_sweep(topics: FakeTopics) -> None:
    store = StoreThatFailsOnce()
    store.put(project(alert_topic_arn=topic(0)))
    keep = KeepTopics(store, topics)

    assert keep().errors == [("topics", "TimeoutError: the table did not answer")]
    assert keep().changed == [topic(0)]
