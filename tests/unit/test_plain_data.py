"""What is written and read as plain data is what cattrs, which does this for everybody, would write and read."""

import base64
import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from cattrs import BaseValidationError, Converter
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.adapters.item_schemas import newest
from keyvigil.adapters.plain_data import from_plain, from_stored, rfc3339, to_plain
from keyvigil.domain.keys import Trigger
from keyvigil.ports import CheckMessage, DueKey, FindActorMessage
from tests.examples import KEY_ID, NOW, key
from tests.integration.item_shapes import NOTES, STORED, kept_bodies
from tests.integration.test_store_contract import FULL


def by_cattrs(*, exact: bool) -> Converter:
    converter = Converter(omit_if_default=False, forbid_extra_keys=exact)
    converter.register_unstructure_hook(datetime, rfc3339)
    converter.register_structure_hook(datetime, lambda text, _: datetime.fromisoformat(text))
    converter.register_unstructure_hook(bytes, lambda raw: base64.b64encode(raw).decode())
    converter.register_structure_hook(bytes, lambda text, _: base64.b64decode(text))
    return converter


LENIENT, EXACT = by_cattrs(exact=False), by_cattrs(exact=True)
MESSAGES = [
    CheckMessage("acme-prod", KEY_ID, NOW, Trigger.EVENT),
    CheckMessage.of_due(*(DueKey("acme-prod", f"us-west-2.{number}", NOW) for number in range(3))),
    FindActorMessage("acme-prod", "01JOPEN"),
]
VALUES: list[Any] = [*FULL, *NOTES, *MESSAGES]
BODIES: list[tuple[str, dict[str, Any]]] = [
    (kind, dict(body)) for kind, numbers in kept_bodies().items() for body in numbers[str(newest(kind))]
]


@pytest.mark.parametrize(
    "value", [pytest.param(each, id=f"{at}-{type(each).__name__}") for at, each in enumerate(VALUES)]
)
def test_a_value_is_written_as_cattrs_writes_it_and_read_back(value: Any) -> None:
    plain = to_plain(value)

    assert json.dumps(plain) == json.dumps(LENIENT.unstructure(value))
    sent = json.loads(json.dumps(plain))
    assert from_plain(sent, type(value)) == value == from_stored(sent, type(value))


def test_what_was_stored_is_read_as_cattrs_reads_it() -> None:
    assert {kind for kind, _ in BODIES} == set(STORED)
    for kind, body in BODIES:
        assert from_stored(body, STORED[kind]) == EXACT.structure(body, STORED[kind])


def places(data: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every part of plain data."""
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, each in inside:
        yield (*before, name)
        yield from places(each, (*before, name))


RUBBISH = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["2026-11-23T00:00:00Z", "HEALTHY", "aGVsbG8="]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(st.data())
def test_of_damaged_data_both_make_the_same_or_both_refuse_it(data: st.DataObject) -> None:
    kind, body = data.draw(st.sampled_from(BODIES))
    damaged: Any = copy.deepcopy(body)
    *way, last = data.draw(st.sampled_from(sorted(places(body), key=repr)))
    part = damaged
    for each in way:
        part = part[each]
    match data.draw(st.sampled_from(["other", "gone", "more"])):
        case "other":
            part[last] = data.draw(RUBBISH)
        case "gone":
            del part[last]
        case _:
            damaged["a_field_of_the_future"] = 1
    try:
        expected = EXACT.structure(damaged, STORED[kind])
    except BaseValidationError:
        with pytest.raises(ValueError, match=r" @ \$"):
            from_stored(damaged, STORED[kind])
    else:
        assert repr(from_stored(damaged, STORED[kind])) == repr(expected)  # a NaN is not equal to itself


def test_everything_wrong_is_told_at_once_by_its_place_and_without_what_is_there() -> None:
    plain = json.loads(json.dumps(to_plain(key())))
    plain |= {"created_at": "some day", "told": {"danger": "told-at-noon"}, "surprise": "boo", "rebaselines": [3]}
    plain["health"]["status"] = "POORLY"
    del plain["region"]

    with pytest.raises(ValueError, match="created_at") as refused:
        from_stored(plain, type(key()))

    assert sorted(str(refused.value).split("; ")) == [
        "extra fields found (surprise) @ $",
        "invalid value for type, expected KeyStatus @ $.health.status",
        "invalid value for type, expected Rebaseline @ $.rebaselines[0]",
        "invalid value for type, expected Told @ $.told['danger']",
        "invalid value for type, expected datetime @ $.created_at",
        "required field missing @ $.region",
    ]
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


def test_a_field_of_the_future_is_passed_over_on_its_way_between_functions_and_refused_from_the_table() -> None:
    plain = to_plain(MESSAGES[0]) | {"a_field_of_the_future": 1}

    assert from_plain(plain, CheckMessage) == MESSAGES[0]
    with pytest.raises(ValueError, match="a_field_of_the_future"):
        from_stored(plain, CheckMessage)


def test_an_annotation_that_nobody_can_read_is_told_when_it_is_first_met() -> None:
    @dataclass(frozen=True, slots=True)
    class Odd:
        """It has a field of a kind that nothing stored has."""

        numbers: frozenset[int]

    with pytest.raises(TypeError, match=r"frozenset\[int\] is read: say it here"):
        from_plain({"numbers": [1]}, Odd)
