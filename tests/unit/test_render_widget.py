"""The dashboard's widget: what it reads, what a press of its button does, and what it says of itself."""

import json
from datetime import timedelta
from typing import Any

import pytest

from keyvigil import wiring
from keyvigil.domain.incidents import IncidentStatus
from keyvigil.domain.keys import Health, KeyStatus, Trigger
from keyvigil.domain.verdicts import Cause
from keyvigil.errors import DeliveryError, NotFoundError
from keyvigil.ports import CheckMessage
from keyvigil.settings import Settings
from keyvigil.use_cases.ask_check import AskCheck
from keyvigil.use_cases.read_fleet import ReadFleet
from keyvigil.use_cases.read_overview import ReadOverview
from tests.examples import KEY_ID, NOW, canary, cluster, incident, key, project, verdict
from tests.fakes import FakeClock, FakeQueue, MemoryStore
from tests.page.fleets import HOSTILE
from tests.unit.test_functions import Context, Use, load
from tests.unit.test_page import Document

BROKEN = Health(status=KeyStatus.UNHEALTHY, confirmed=True)
UNKNOWN = Health(unknown_since=NOW)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.put(project(), key(), canary())
    return store


@pytest.fixture
def queue() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, store: MemoryStore, queue: FakeQueue) -> Use:
    use = Use(monkeypatch)
    clock = FakeClock()
    use(
        read_overview=ReadOverview(store, clock, ReadFleet(store, clock)),
        ask_check=AskCheck(store, queue, clock),
        settings=Settings({"KEYVIGIL_STACK_NAME": "keyvigil"}, "us-west-2"),
    )
    return use


def draw(event: dict[str, Any] | None = None) -> Document:
    return Document(load("render_widget").handler(event or {}, Context()))


def test_it_says_what_it_is_when_asked() -> None:
    answer = load("render_widget").handler({"describe": True}, Context())

    assert set(answer) == {"markdown"}
    assert "Check now" in answer["markdown"]


def test_it_shows_the_fleet_from_the_table(use: Use) -> None:
    drawn = draw({"widgetContext": {"theme": "dark"}})

    assert "1 key by status" in drawn.texts
    assert ("div", "class", "kv dark") in drawn.attributes
    assert drawn.actions == []


def test_it_shows_an_open_incident_with_its_key_and_its_timeline(use: Use, store: MemoryStore) -> None:
    store.put(
        key(health=BROKEN, verdict=verdict(Cause.KEY_DISABLED), open_incident_id="01J-OPEN", version=1),
        incident(incident_id="01J-OPEN", status=IncidentStatus.HELD),
        incident(incident_id="01J-OVER", status=IncidentStatus.RESOLVED),
        cluster(),
    )
    drawn = draw()

    assert "Open incidents (1)" in drawn.texts
    assert "KEY_DISABLED" in drawn.text
    assert "01J-OPEN" in drawn.text
    assert "01J-OVER" not in drawn.text
    assert [each["key_id"] for each in drawn.actions] == [KEY_ID]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_the_table_holds_cannot_break_out(use: Use, store: MemoryStore, text: str) -> None:
    def drawn_with(said: str) -> Document:
        broken = verdict(Cause.KEY_DISABLED, message=said)
        store.items.clear()
        store.put(project(), key(health=BROKEN, verdict=broken, open_incident_id="01J-OPEN"))
        store.put(incident(incident_id="01J-OPEN"), cluster(name=said))
        return draw()

    assert drawn_with(text).elements == drawn_with("plain").elements


def test_check_now_puts_the_key_on_the_queue_and_nothing_else(use: Use, queue: FakeQueue, store: MemoryStore) -> None:
    before = dict(store.items)
    drawn = draw({"action": "check_now", "project_id": "acme-prod", "key_id": KEY_ID})

    assert queue.messages == [CheckMessage("acme-prod", KEY_ID, NOW, Trigger.REQUEST)]
    assert store.items == before
    assert f"{KEY_ID} is being probed. Refresh in a few seconds to see the result." in drawn.texts


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"project_id": "acme-prod", "key_id": "gone"}, "gone is not registered in acme-prod any more."),
        ({"project_id": "acme-prod"}, "No key was named, so none is probed."),
        ({"project_id": ["a"], "key_id": {"b": 1}}, "{'b': 1} is not registered in ['a'] any more."),
    ],
)
def test_a_key_that_is_not_there_is_not_probed(use: Use, queue: FakeQueue, named: dict[str, Any], said: str) -> None:
    drawn = draw({"action": "check_now", **named})

    assert said in drawn.texts
    assert queue.messages == []


def test_a_queue_that_does_not_take_it_is_said(use: Use) -> None:
    class Deaf:
        def __call__(self, *_named: str) -> None:
            raise DeliveryError("no answer")

    use(ask_check=Deaf())
    drawn = draw({"action": "check_now", "project_id": "acme-prod", "key_id": KEY_ID})

    assert "could not be put on the check queue" in drawn.text
    assert f"keyvigil key check acme-prod {KEY_ID}" in drawn.text


def test_anything_else_that_is_asked_for_is_not_done(use: Use, queue: FakeQueue, store: MemoryStore) -> None:
    """What needs a name cannot be done by whoever may invoke the widget."""
    before = dict(store.items)
    for action in ("approve", "dismiss", "release", "", None, 7):
        draw({"action": action, "project_id": "acme-prod", "key_id": KEY_ID, "decision": "approve"})

    assert queue.messages == []
    assert store.items == before


def test_a_fleet_that_cannot_be_read_is_an_error_and_not_an_empty_picture(use: Use) -> None:
    def unreadable(**_bounds: int) -> None:
        raise ConnectionError

    use(read_overview=unreadable)
    with pytest.raises(ConnectionError):
        draw()


# --- what is read -----------------------------------------------------------------------------------------------


def read(store: MemoryStore, *, keys: int = 10, incidents: int = 10, entries: int = 10) -> Any:
    clock = FakeClock()
    return ReadOverview(store, clock, ReadFleet(store, clock))(keys=keys, incidents=incidents, entries=entries)


def test_only_keys_that_are_not_fine_are_read_the_worst_first(store: MemoryStore) -> None:
    store.put(
        key(key_id="a-stale", last_probed_at=NOW - timedelta(hours=2)),
        key(key_id="b-unknown", health=UNKNOWN),
        key(key_id="c-suspect", health=Health(status=KeyStatus.SUSPECT)),
        key(key_id="d-broken", health=BROKEN),
    )
    found = read(store)

    assert [each.key_id for _, each in found.keys] == ["d-broken", "c-suspect", "a-stale", "b-unknown"]
    assert found.left_out == 0


def test_what_is_not_read_is_counted_and_is_not_the_worst(store: MemoryStore) -> None:
    for number in range(30):
        store.put(key(key_id=f"unknown-{number:02}", health=UNKNOWN))
    store.put(key(key_id="unknown-07-broken", health=BROKEN))
    found = read(store, keys=4)

    assert [each.key_id for _, each in found.keys] == ["unknown-07-broken", "unknown-00", "unknown-01", "unknown-02"]
    assert found.left_out == 27


def test_of_many_incidents_the_newest_are_read_each_with_its_key(store: MemoryStore) -> None:
    for number in range(6):
        store.put(incident(incident_id=f"01J-{number}"))
    found = read(store, keys=0, incidents=2)

    assert [each.incident_id for each, _ in found.incidents] == ["01J-5", "01J-4"]
    assert [each.key_id for _, each in found.keys] == [KEY_ID]
    assert (found.left_out, found.fleet.open_incidents) == (0, 6)


def test_asking_for_a_probe_of_no_key_is_refused(store: MemoryStore, queue: FakeQueue) -> None:
    with pytest.raises(NotFoundError, match="not registered"):
        AskCheck(store, queue, FakeClock())("acme-prod", "nothing")


def test_the_answer_is_a_string_which_lambda_writes_as_json(use: Use) -> None:
    use(read_overview=wiring.read_overview())
    answer = load("render_widget").handler({}, Context())

    assert isinstance(json.loads(json.dumps(answer)), str)
