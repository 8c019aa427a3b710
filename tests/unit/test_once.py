"""What a sandbox makes once."""

from threading import Barrier, Thread

import pytest

from keyvigil import wiring
from keyvigil.once import once


def test_ten_threads_that_ask_at_once_get_the_same_thing() -> None:
    everybody_is_in = Barrier(2, timeout=10)
    made: list[object] = []

    @once
    def thing() -> object:
        """A thing."""
        made.append(object())
        everybody_is_in.wait()
        return made[-1]

    got: list[object] = []
    threads = [Thread(target=lambda: got.append(thing())) for _ in range(10)]
    for each in threads:
        each.start()
    everybody_is_in.wait()
    for each in threads:
        each.join()
    assert got == made * 10


def test_what_is_made_may_need_what_else_is_made_once() -> None:
    inner = once(lambda: "inner")
    outer = once(lambda: f"outer of {inner()}")
    assert (outer(), outer()) == ("outer of inner", "outer of inner")


def test_what_could_not_be_made_is_tried_again() -> None:
    tries: list[int] = []

    @once
    def thing() -> int:
        tries.append(1)
        return 1 // (len(tries) - 1)

    with pytest.raises(ZeroDivisionError):
        thing()
    assert (thing(), thing(), len(tries)) == (1, 1, 2)


def test_it_is_forgotten_for_a_test_and_says_what_it_makes() -> None:
    thing = once(object)
    first = thing()
    thing.cache_clear()
    assert thing() is not first


def test_everything_that_is_wired_is_made_once() -> None:
    """Threads of one batch ask for the same use case in the first moment of a sandbox."""
    made = {name for name, each in vars(wiring).items() if isinstance(each, once)}
    assert {"check_key", "ask_canaries", "prober", "store", "kms_calls", "settings"} <= made
    assert not [name for name, each in vars(wiring).items() if type(each).__name__ == "_lru_cache_wrapper"]
