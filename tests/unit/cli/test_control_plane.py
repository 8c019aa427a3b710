from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.reference_receiver import Memory, Receiver, Request
from keyvigil_cli.control_plane import LOCK, UNLOCK, Fenced, FenceMemory, LockRequest


def request(fence: int, *, cluster_id: str = "vectors-prod", lock: bool = True) -> LockRequest:
    return LockRequest(
        project_id="acme-prod",
        cluster_id=cluster_id,
        incident_id="01J",
        fence=fence,
        lock=lock,
        reason="KEY_DISABLED",
    )


def test_the_first_request_of_a_cluster_is_carried_out() -> None:
    assert FenceMemory().judge(request(1)) is Fenced.NEWER


def test_an_older_request_is_refused() -> None:
    memory = FenceMemory()
    memory.judge(request(2, lock=False))
    assert memory.judge(request(1)) is Fenced.OLDER


def test_a_repeated_request_is_not_carried_out_again() -> None:
    memory = FenceMemory()
    memory.judge(request(2))
    assert memory.judge(request(2)) is Fenced.REPEATED


def test_clusters_have_fences_of_their_own() -> None:
    memory = FenceMemory()
    memory.judge(request(2))
    assert memory.judge(request(1, cluster_id="analytics-dev")) is Fenced.NEWER


@given(st.lists(st.integers(min_value=0, max_value=20)))
def test_in_whatever_order_requests_come_what_is_carried_out_only_rises(fences: list[int]) -> None:
    memory = FenceMemory()
    carried_out = [fence for fence in fences if memory.judge(request(fence)) is Fenced.NEWER]
    assert carried_out == sorted(set(carried_out))
    assert not fences or carried_out[-1] == max(fences)


@given(st.lists(st.tuples(st.integers(min_value=0, max_value=9), st.sampled_from(("a", "b")))))
def test_it_carries_out_and_refuses_what_the_reference_receiver_does(requests: list[tuple[int, str]]) -> None:
    acted: list[Request] = []
    memory = Memory(":memory:")
    receiver, fences = Receiver(memory, acted.append), FenceMemory()
    for fence, cluster_id in requests:
        before = len(acted)
        answer = receiver.take(Request("lock", "acme-prod", cluster_id, fence))
        judged = fences.judge(request(fence, cluster_id=cluster_id))
        assert (judged is Fenced.NEWER) is (len(acted) > before)
        assert (judged is Fenced.OLDER) is (answer.result == "failed")
    memory.close()


@pytest.mark.parametrize(("detail_type", "lock"), [(LOCK, True), (UNLOCK, False)])
def test_an_event_is_read(detail_type: str, lock: bool) -> None:  # noqa: FBT001 - a parameter of the test
    event: dict[str, Any] = {
        "detail-type": detail_type,
        "detail": {
            "project_id": "acme-prod",
            "cluster_id": "vectors-prod",
            "incident_id": "01J",
            "fence": 7,
            "reason": "KEY_DISABLED",
            "respond_by": "2026-01-01T00:00:00.000Z",
        },
    }
    assert LockRequest.from_event(event) == request(7, lock=lock)
