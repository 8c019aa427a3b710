"""Projects' topics follow the stack's key, some in each sweep, and each once."""

from typing import override

import pytest

from keyvigil.domain.projects import Project
from keyvigil.ports import Page
from keyvigil.use_cases.keep_topics import KeepTopics
from tests.examples import project
from tests.fakes import FakeTopics, MemoryStore


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
