"""The fenced protocol of locks and unlocks."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.clusters import Answer, ClusterStatus, LockAction, LockResult, next_fence, request, take_answer
from tests.examples import NOW, cluster

MILLISECONDS = int(NOW.timestamp() * 1000)


@given(st.integers(min_value=0, max_value=2**62), st.datetimes(timezones=st.just(UTC), min_value=datetime(2020, 1, 1)))  # noqa: DTZ001
def test_a_fence_is_above_every_earlier_one_and_never_below_the_clock(last: int, now: datetime) -> None:
    fence = next_fence(last, now)
    assert fence > last
    assert fence >= int(now.timestamp() * 1000)


def test_two_requests_in_one_millisecond_have_two_fences() -> None:
    first = request(cluster(), LockAction.LOCK, incident_id="i", task_token="t", now=NOW)
    second = request(first, LockAction.UNLOCK, incident_id="i", task_token="u", now=NOW)
    assert first.fence == MILLISECONDS
    assert second.fence == MILLISECONDS + 1


def test_a_request_says_until_when_it_must_be_answered() -> None:
    asked = request(cluster(), LockAction.LOCK, incident_id="i", task_token="t", now=NOW)
    assert asked.status is ClusterStatus.LOCKING
    assert asked.respond_by == NOW + timedelta(seconds=300)
    assert asked.locked_by_incident_id == "i"


@pytest.mark.parametrize(
    ("status", "result", "answer", "after"),
    [
        (ClusterStatus.LOCKING, LockResult.LOCKED, Answer.ACCEPTED, ClusterStatus.LOCKED),
        (ClusterStatus.LOCKING, LockResult.FAILED, Answer.ACCEPTED, ClusterStatus.LOCK_FAILED),
        (ClusterStatus.LOCKING, LockResult.UNLOCKED, Answer.CONTRADICTED, ClusterStatus.LOCKING),
        (ClusterStatus.LOCKED, LockResult.LOCKED, Answer.REPEATED, ClusterStatus.LOCKED),
        (ClusterStatus.LOCKED, LockResult.FAILED, Answer.CONTRADICTED, ClusterStatus.LOCKED),
        (ClusterStatus.LOCK_FAILED, LockResult.LOCKED, Answer.ACCEPTED, ClusterStatus.LOCKED),
        (ClusterStatus.LOCK_FAILED, LockResult.FAILED, Answer.REPEATED, ClusterStatus.LOCK_FAILED),
        (ClusterStatus.UNLOCKING, LockResult.UNLOCKED, Answer.ACCEPTED, ClusterStatus.ACTIVE),
        (ClusterStatus.UNLOCKING, LockResult.FAILED, Answer.ACCEPTED, ClusterStatus.UNLOCK_FAILED),
        (ClusterStatus.UNLOCKING, LockResult.LOCKED, Answer.CONTRADICTED, ClusterStatus.UNLOCKING),
        (ClusterStatus.ACTIVE, LockResult.UNLOCKED, Answer.REPEATED, ClusterStatus.ACTIVE),
        (ClusterStatus.ACTIVE, LockResult.FAILED, Answer.CONTRADICTED, ClusterStatus.ACTIVE),
        (ClusterStatus.ACTIVE, LockResult.LOCKED, Answer.CONTRADICTED, ClusterStatus.ACTIVE),
        (ClusterStatus.UNLOCK_FAILED, LockResult.UNLOCKED, Answer.ACCEPTED, ClusterStatus.ACTIVE),
        (ClusterStatus.PENDING_KEY, LockResult.FAILED, Answer.CONTRADICTED, ClusterStatus.PENDING_KEY),
    ],
)
def test_what_an_answer_to_the_newest_request_means(
    status: ClusterStatus, result: LockResult, answer: Answer, after: ClusterStatus
) -> None:
    asked = cluster(status=status, fence=5, locked_by_incident_id="i", task_token="t")
    decision = take_answer(asked, fence=5, result=result, detail=None, now=NOW)
    assert (decision.answer, decision.cluster.status) == (answer, after)


@given(
    st.sampled_from(list(ClusterStatus)),
    st.sampled_from(list(LockResult)),
    st.integers(min_value=0, max_value=100).filter(lambda fence: fence != 50),
)
def test_an_answer_with_another_fence_changes_nothing(status: ClusterStatus, result: LockResult, fence: int) -> None:
    asked = cluster(status=status, fence=50)
    decision = take_answer(asked, fence=fence, result=result, detail=None, now=NOW)
    assert decision.answer is Answer.STALE
    assert decision.cluster == asked


def test_the_token_outlives_the_answer_so_that_a_repeated_answer_can_wake_the_step() -> None:
    asked = request(cluster(), LockAction.LOCK, incident_id="i", task_token="t", now=NOW)
    decision = take_answer(asked, fence=asked.fence, result=LockResult.LOCKED, detail=None, now=NOW)
    assert decision.cluster.task_token == "t"
    assert decision.cluster.respond_by is None


def test_an_unlocked_cluster_belongs_to_no_incident() -> None:
    asked = request(cluster(), LockAction.UNLOCK, incident_id="i", task_token="t", now=NOW)
    decision = take_answer(asked, fence=asked.fence, result=LockResult.UNLOCKED, detail=None, now=NOW)
    assert decision.cluster.locked_by_incident_id is None
