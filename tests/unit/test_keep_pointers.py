"""Pointers: a registration writes them, a removal takes them away, and older keys get theirs from the sweeps."""

from typing import override

import pytest

from keyvigil.domain.key_events import KeyPointer, pointers_to
from keyvigil.domain.keys import Key, KeyFacts
from keyvigil.domain.projects import Project
from keyvigil.ports import Page, Put
from keyvigil.use_cases.keep_pointers import KeepPointers
from tests.examples import KEY_ID, key, project
from tests.fakes import MemoryStore, changed


def registered_by_older_code(store: MemoryStore, number: int) -> Key:
    made = key(project_id=f"p{number}")
    store.put(project(project_id=f"p{number}"), made)
    return made


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    for number in range(5):
        registered_by_older_code(store, number)
    return store


def test_keys_that_were_registered_before_are_found_by_events_after_some_sweeps(store: MemoryStore) -> None:
    keep = KeepPointers(store, at_once=2)
    assert [keep().made for _ in range(4)] == [4, 4, 2, 0]
    assert {(each.project_id, each.resource) for each in store.all(KeyPointer)} == {
        (f"p{number}", each.resource) for number in range(5) for each in pointers_to(key())
    }


def test_doing_it_again_changes_nothing(store: MemoryStore) -> None:
    KeepPointers(store)()
    before = dict(store.items)
    again = KeepPointers(store)()
    assert (again.made, again.errors) == (0, [])
    assert store.items == before


def test_keys_that_were_looked_at_are_not_read_again(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[KeyPointer] = []
    read = store.pointer

    def noted(pointer: KeyPointer) -> KeyPointer | None:
        reads.append(pointer)
        return read(pointer)

    monkeypatch.setattr(store, "pointer", noted)
    keep = KeepPointers(store, at_once=2)
    for _ in range(20):
        keep()
    assert len(reads) == 10


def test_a_key_store_that_a_probe_learned_of_later_gets_its_pointer(store: MemoryStore) -> None:
    KeepPointers(store)()
    store.put(key(project_id="p0", facts=KeyFacts(custom_key_store_id="cks-1")))
    assert KeepPointers(store)().made == 1


def test_a_registration_that_is_faster_is_no_error(store: MemoryStore) -> None:
    def register() -> None:
        store.commit([Put(each) for each in pointers_to(key(project_id="p0"))])

    store.before_commit = register
    kept = KeepPointers(store)()
    assert (kept.made, kept.errors) == (8, [])
    assert len(store.all(KeyPointer)) == 10


class StoreWithTroubles(MemoryStore):
    unreadable = ""
    answers = True

    @override
    def projects(self, limit: int, token: str | None) -> Page[Project]:
        if not self.answers:
            raise TimeoutError("the table did not answer")
        return super().projects(limit, token)

    @override
    def keys(self, project_id: str, limit: int, token: str | None) -> Page[Key]:
        if project_id == self.unreadable:
            raise ValueError("it cannot be read")
        return super().keys(project_id, limit, token)


def test_a_project_that_cannot_be_read_delays_no_other_and_is_tried_again() -> None:
    store = StoreWithTroubles()
    for number in range(3):
        registered_by_older_code(store, number)
    keep, store.unreadable = KeepPointers(store), "p1"
    first = keep()
    assert (first.made, first.errors) == (4, [("pointers of p1", "ValueError: it cannot be read")])
    store.unreadable = ""
    assert keep().made == 2
    assert keep().made == 0


def test_a_table_that_does_not_answer_is_asked_again_by_the_next_sweep() -> None:
    store = StoreWithTroubles()
    made = registered_by_older_code(store, 0)
    keep, store.answers = KeepPointers(store), False
    assert keep().errors == [("pointers", "TimeoutError: the table did not answer")]
    store.answers = True
    assert keep().made == len(pointers_to(changed(made, key_id=KEY_ID)))
