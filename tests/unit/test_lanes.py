"""Which keys go into the queue for what may hang, and that a Region that hangs takes no other one's place."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.keys import Health, Key
from keyvigil.domain.lanes import HANGING_ACCOUNTS, HANGING_KEYS, Waiting, divide, hanging
from keyvigil.use_cases.plan_sweep import SLOW_PART, PlanSweep
from tests.examples import NOW, key, project
from tests.fakes import FakeClock, FakeQueue, MemoryStore

waiting = st.builds(
    Waiting,
    account=st.sampled_from([f"{number:012d}" for number in range(6)]),
    region=st.sampled_from(["us-east-1", "us-west-2", "eu-north-1"]),
    unknown=st.booleans(),
)


def out(keys: int = HANGING_KEYS, accounts: int = HANGING_ACCOUNTS, region: str = "us-west-2") -> list[Waiting]:
    return [Waiting(f"{number % accounts:012d}", region, unknown=True) for number in range(keys)]


def well(keys: int, region: str = "us-west-2") -> list[Waiting]:
    return [Waiting("222222222222", region, unknown=False)] * keys


@given(st.lists(waiting, max_size=150), st.integers(0, 60))
def test_every_key_has_one_place_and_what_is_known_in_a_region_that_answers_is_never_slow(
    keys: list[Waiting], slow: int
) -> None:
    lanes = divide(keys, slow=slow)

    assert sorted([*lanes.fast, *lanes.slow]) == sorted({*lanes.fast, *lanes.slow}), "none has two places"
    assert len(lanes.slow) == min(slow, len(keys) - len(lanes.fast)), "none is left that would fit"
    assert list(lanes.fast) == sorted(lanes.fast), "oldest first"
    assert list(lanes.slow) == sorted(lanes.slow), "oldest first"
    hangs = hanging(keys)
    for place, each in enumerate(keys):
        assert (place in lanes.fast) is not (each.unknown or each.region in hangs)


def test_a_region_hangs_if_many_of_its_keys_of_several_accounts_are_unknown() -> None:
    assert hanging(out()) == {"us-west-2"}
    assert hanging([*out(), *well(3 * HANGING_KEYS)]) == {"us-west-2"}


def test_few_keys_or_one_accounts_or_a_small_part_are_no_region_that_hangs() -> None:
    assert hanging(out(HANGING_KEYS - 1)) == frozenset()
    assert hanging(out(accounts=HANGING_ACCOUNTS - 1)) == frozenset()
    assert hanging([*out(), *well(3 * HANGING_KEYS + 1)]) == frozenset()


def test_all_keys_of_a_region_that_hangs_are_slow_and_no_others() -> None:
    keys = [*out(), *well(5), *well(7, "us-east-1")]

    assert len(divide(keys, slow=100).slow) == HANGING_KEYS + 5
    assert [keys[place].region for place in divide(keys, slow=100).fast] == ["us-east-1"] * 7


# --- the sweep --------------------------------------------------------------------------------------------------


class Sweep:
    """A planner with its two queues."""

    def __init__(self, *keys: Key, most: int = 30_000) -> None:
        self.store, self.queue, self.slow_queue = MemoryStore(), FakeQueue(), FakeQueue()
        self.store.put(project(), *keys)
        self.plan = PlanSweep(self.store, self.queue, self.slow_queue, FakeClock(NOW), keys_a_sweep=most)


def known(number: int, region: str = "us-east-1") -> Key:
    return key(key_id=f"{region}.{number}", due_at=NOW - timedelta(seconds=10))


def unknown(number: int, region: str = "us-west-2") -> Key:
    account = f"{number % 5:012d}"
    return key(
        key_id=f"{region}.unknown-{number}",
        due_at=NOW - timedelta(minutes=5),
        role_arn=f"arn:aws:iam::{account}:role/keyvigil",
        health=Health(unknown_since=NOW),
    )


def test_a_key_of_which_nothing_is_known_goes_into_the_queue_for_what_may_hang() -> None:
    sweep = Sweep(known(1), unknown(1))

    result = sweep.plan()

    assert [each.key_id for each in sweep.queue.messages] == ["us-east-1.1"]
    assert [each.key_id for each in sweep.slow_queue.messages] == ["us-west-2.unknown-1"]
    assert (result.keys_due, result.keys_sent) == (2, 2)
    assert sweep.queue.canaries, "canaries are no customers' keys and wait for none"


def test_a_region_that_hangs_takes_no_other_ones_place_however_long_its_keys_have_been_due() -> None:
    many = [unknown(number) for number in range(60)]
    sweep = Sweep(*many, known(1, "us-west-2"), *(known(number) for number in range(40)), most=40)

    result = sweep.plan()

    assert {each.key_id.partition(".")[0] for each in sweep.queue.messages} == {"us-east-1"}
    assert len(sweep.queue.messages) == 40
    assert len(sweep.slow_queue.messages) == 40 // SLOW_PART
    assert (result.keys_due, result.keys_sent) == (101, 50), "what does not fit is told, and stays due"
    assert len(sweep.store.due_keys(NOW)) == 101
