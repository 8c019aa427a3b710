"""Events about keys: what is taken from each, whom it concerns, and that nothing else comes of it."""

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvigil.adapters.cloudtrail_records import Ignored, from_eventbridge
from keyvigil.domain.actors import Actor
from keyvigil.domain.arns import parse_kms_arn
from keyvigil.domain.attribution import CLOCKS_DIFFER, EXPLANATIONS, HINT_KEPT, EventHints, remember
from keyvigil.domain.key_events import (
    CALLS,
    GRANT_CALLS,
    KMS_EVENTS,
    PROBES_AFTER,
    Bearing,
    KeyEvent,
    bearing,
    pointers_to,
    probes_due,
    resources_named,
    resources_of,
)
from keyvigil.domain.keys import Key, KeyFacts, Trigger
from keyvigil.errors import ConflictError, DeliveryError
from keyvigil.ports import CheckMessage
from keyvigil.use_cases.receive_key_event import MOST_REGISTRATIONS, Received, ReceiveKeyEvent
from tests import recorded_events as recordings
from tests.examples import NOW, actor, key, project
from tests.fakes import FakeClock, FakeQueue, MemoryStore, changed
from tests.recorded_events import ACCOUNT, ALIAS_ARN, KEY_ARN, KEY_STORE, KMS_KEY, MULTI_REGION_KEY, ROLE, recorded

ALICE = f"arn:aws:iam::{ACCOUNT}:user/Alice"
KMS_CALLS, IAM_CALLS = sorted(CALLS["aws.kms"]), sorted(CALLS["aws.iam"])
ON_A_KEY = sorted(
    set(KMS_CALLS) - {"ReplicateKey", "UpdatePrimaryRegion"} - {each for each in KMS_CALLS if "KeyStore" in each}
)


def taken(event: object) -> KeyEvent:
    found = from_eventbridge(event)
    assert isinstance(found, KeyEvent)
    return found


def watched(**fields: Any) -> Key:
    """The key that the recorded events are about, as somebody registered it."""
    return key(
        **{
            "key_id": f"us-west-2.{KMS_KEY}",
            "key_arn": KEY_ARN,
            "alias_arn": ALIAS_ARN,
            "account_id": ACCOUNT,
            "role_arn": f"arn:aws:iam::{ACCOUNT}:role/{ROLE}",
            "facts": KeyFacts(custom_key_store_id=KEY_STORE),
            **fields,
        }
    )


# --- what is taken from an event --------------------------------------------------------------------------------


def test_there_is_a_recorded_shape_of_every_call_and_every_event_of_kms() -> None:
    names = {name.partition("-")[0] for name in recordings.TAKEN if not name.startswith("KMS")}
    assert names == {*KMS_CALLS, *IAM_CALLS}
    assert {recorded(name)["detail-type"] for name in recordings.TAKEN if name.startswith("KMS")} == KMS_EVENTS


@pytest.mark.parametrize("name", ON_A_KEY)
def test_a_call_on_a_key_names_it_by_its_arn_and_says_who_called(name: str) -> None:
    event = taken(recorded(name))
    assert KEY_ARN in {arn.arn for arn in event.arns}
    assert (event.account_id, event.region, event.name) == (ACCOUNT, "us-west-2", name)
    at = datetime.fromisoformat(recorded(name)["detail"]["eventTime"])
    assert event.actor == Actor(arn=ALICE, event_name=name, source_ip="192.0.2.0", event_time=at)


@pytest.mark.parametrize("name", IAM_CALLS)
def test_a_call_on_a_role_names_it_and_says_who_called(name: str) -> None:
    event = taken(recorded(name))
    assert (event.role_name, event.arns, event.key_store_id) == (ROLE, (), None)
    assert event.actor is not None
    assert event.actor.arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/RoleToBeAssumed/MySessionName"


@pytest.mark.parametrize("name", [each for each in KMS_CALLS if "KeyStore" in each])
def test_a_call_on_a_custom_key_store_names_it(name: str) -> None:
    event = taken(recorded(name))
    assert (event.key_store_id, event.region, event.arns) == (KEY_STORE, "us-west-2", ())


@pytest.mark.parametrize("name", [each for each in recordings.TAKEN if each.startswith("KMS")])
def test_what_kms_tells_by_itself_names_the_key_and_nobody(name: str) -> None:
    event = taken(recorded(name))
    assert ([arn.arn for arn in event.arns], event.actor) == ([KEY_ARN], None)
    without_resources = {**recorded(name), "resources": []}
    assert [arn.arn for arn in taken(without_resources).arns] == [KEY_ARN]


@pytest.mark.parametrize("name", ["UpdateAlias", "DeleteAlias"])
def test_a_call_on_an_alias_names_the_alias_and_the_key(name: str) -> None:
    assert {arn.arn for arn in taken(recorded(name)).arns} == {ALIAS_ARN, KEY_ARN}
    bare = recorded(name)
    del bare["detail"]["resources"]
    assert ALIAS_ARN in {arn.arn for arn in taken(bare).arns}


def test_a_multi_region_key_is_named_in_both_regions_that_its_primary_moves_between() -> None:
    old, new = (
        taken(recorded(name)) for name in ("UpdatePrimaryRegion", "UpdatePrimaryRegion-in-the-new-primarys-Region")
    )
    regions = [[(arn.region, arn.kms_key_id) for arn in event.arns] for event in (old, new)]
    assert regions == [[("us-west-2", MULTI_REGION_KEY)], [("ap-northeast-1", MULTI_REGION_KEY)]]


def test_the_local_cloud_s_way_of_writing_parameters_is_read_too() -> None:
    event = recorded("DisableKey")
    del event["detail"]["resources"]
    event["detail"]["requestParameters"] = {"KeyId": KEY_ARN}
    assert [arn.arn for arn in taken(event).arns] == [KEY_ARN]


@pytest.mark.parametrize("name", recordings.IGNORED)
def test_what_is_no_event_about_a_key_s_health_is_ignored(name: str) -> None:
    assert isinstance(from_eventbridge(recorded(name)), Ignored)


@pytest.mark.parametrize("name", sorted(GRANT_CALLS))
def test_a_grant_that_a_service_manages_for_itself_probes_nothing(name: str) -> None:
    event = recorded(name)
    event["detail"]["userIdentity"]["invokedBy"] = "ec2.amazonaws.com"
    assert isinstance(from_eventbridge(event), Ignored)


MALFORMED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another source": ({"source": "keyvigil"}, {}),
    "sources": ({"source": ["aws.kms"]}, {}),
    "no account": ({"account": None}, {}),
    "another kind": ({"detail-type": "Something Else"}, {}),
    "no detail": ({"detail": []}, {}),
    "forwarded by another account": ({"account": "222222222222"}, {}),
    "recorded by another account": ({}, {"recipientAccountId": "222222222222"}),
    "another service": ({}, {"eventSource": "iam.amazonaws.com"}),
    "another call": ({}, {"eventName": "Encrypt"}),
    "no call": ({}, {"eventName": {}}),
    "no time": ({}, {"eventTime": "yesterday"}),
    "a time of no zone": ({}, {"eventTime": "2014-11-04T00:52:43"}),
    "a time that no clock in UTC shows": ({}, {"eventTime": "0001-01-01T00:00:00+23:59"}),
    "a call that failed": ({}, {"errorCode": "KMSInternalException"}),
    "no Region": ({}, {"awsRegion": "us-west-2\n"}),
    "no key": ({}, {"resources": None, "requestParameters": None}),
    "an alias instead of a key": ({}, {"resources": [], "requestParameters": {"keyId": "alias/my_alias"}}),
    "another account's key": (
        {},
        {"resources": [{"ARN": KEY_ARN.replace(ACCOUNT, "222222222222")}], "requestParameters": None},
    ),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_a_malformed_or_contradictory_event_is_ignored(how: str) -> None:
    event = recorded("DisableKey")
    envelope, detail = MALFORMED[how]
    event["detail"].update(detail)
    event.update(envelope)
    assert isinstance(from_eventbridge(event), Ignored)


@pytest.mark.parametrize(
    "arn",
    [
        None,
        7,
        "",
        "Alice",
        f"{ALICE}\nBcc: all",
        f"arn:aws:iam::{ACCOUNT}:user/Ali ce",
        f"arn:aws:iam::{ACCOUNT}:user/" + "a" * 1001,
    ],
    ids=lambda each: repr(each)[:60],
)
def test_a_caller_without_a_plain_arn_is_nobody_and_the_key_is_probed_all_the_same(arn: object) -> None:
    event = recorded("DisableKey")
    event["detail"]["userIdentity"]["arn"] = arn
    assert taken(event).actor is None
    assert taken(event).arns


@pytest.mark.parametrize("origin", [None, 1, "", "a" * 256, "192.0.2.0\n", "bücher.example"], ids=ascii)
def test_an_origin_that_is_not_one_plain_line_is_left_out(origin: object) -> None:
    event = recorded("DisableKey")
    event["detail"]["sourceIPAddress"] = origin
    found = taken(event).actor
    assert found is not None
    assert found.source_ip is None


# --- whom it concerns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ON_A_KEY, *IAM_CALLS, *(each for each in KMS_CALLS if "KeyStore" in each)])
def test_an_event_acts_on_the_key_that_it_names_by_any_of_its_names(name: str) -> None:
    event = taken(recorded(name))
    assert bearing(event, watched()) is Bearing.ACTS_ON_IT
    assert set(resources_named(event)) & set(resources_of(watched()))
    other = watched(
        key_id="us-west-2.9" + KMS_KEY[1:],
        key_arn=KEY_ARN.replace("key/1", "key/9"),
        alias_arn=None,
        role_arn=f"arn:aws:iam::{ACCOUNT}:role/{ROLE}-2",
        facts=KeyFacts(custom_key_store_id="cks-0"),
    )
    assert bearing(event, other) is Bearing.NONE
    assert not set(resources_named(event)) & set(resources_of(other))


def test_an_account_is_believed_about_its_own_keys_only() -> None:
    for name in recordings.TAKEN:
        event = taken(recorded(name))
        assert bearing(event, watched(account_id="222222222222")) is Bearing.NONE
        assert bearing(changed(event, account_id="222222222222"), watched()) is Bearing.NONE


def test_the_same_key_id_in_another_region_is_another_key_unless_it_is_multi_region() -> None:
    elsewhere = watched(
        key_id=f"eu-west-1.{KMS_KEY}", key_arn=KEY_ARN.replace("us-west-2", "eu-west-1"), region="eu-west-1"
    )
    event = taken(recorded("DisableKey"))
    assert bearing(event, changed(elsewhere, alias_arn=None)) is Bearing.NONE
    event = taken(recorded("UpdatePrimaryRegion"))
    replica = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/{MULTI_REGION_KEY}"
    assert bearing(event, watched(key_id=f"eu-west-1.{MULTI_REGION_KEY}", key_arn=replica)) is Bearing.RELATED


def test_a_role_s_name_counts_whatever_its_case_and_path() -> None:
    event = taken(recorded("DeleteRole"))
    for name in ("KeyVigil-Customer", f"path/{ROLE}"):
        other = watched(role_arn=f"arn:aws:iam::{ACCOUNT}:role/{name}")
        assert bearing(event, other) is Bearing.ACTS_ON_IT
        assert set(resources_named(event)) <= set(resources_of(other))


def test_a_key_store_of_another_region_is_another_key_store() -> None:
    event = taken(recorded("DisconnectCustomKeyStore"))
    assert bearing(event, watched(region="eu-west-1")) is Bearing.NONE


def test_a_key_has_a_pointer_from_everything_that_an_event_can_name() -> None:
    assert {each.resource for each in pointers_to(watched())} == {
        f"key/{KMS_KEY}",
        f"role/{ROLE}",
        "us-west-2/alias/my_alias",
        f"us-west-2/key-store/{KEY_STORE}",
    }
    assert len(pointers_to(watched(alias_arn=None, facts=KeyFacts()))) == 2


# --- when it is probed ------------------------------------------------------------------------------------------


@given(st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2100, 1, 1)))  # noqa: DTZ001  UTC is added
def test_keys_are_due_now_and_three_times_again_at_full_five_seconds(moment: datetime) -> None:
    now = moment.replace(tzinfo=UTC)
    due = probes_due(now)
    for (at, delay), seconds in zip(due, PROBES_AFTER, strict=True):
        assert at.microsecond == 0
        assert at.second % 5 == 0
        assert timedelta(seconds=seconds) <= at - now < timedelta(seconds=seconds + 5)
        # A message that came before it is due would be dropped for nothing, one that comes 900 s late is not possible.
        assert at <= now + timedelta(seconds=delay) < at + timedelta(seconds=1)
        assert 0 <= delay <= 185


def test_the_probes_are_due_fifteen_sixty_and_a_hundred_and_eighty_seconds_later() -> None:
    assert [delay for _, delay in probes_due(NOW)] == [0, 15, 60, 180]


# --- receiving it -----------------------------------------------------------------------------------------------


class Intake:
    """The use case over ports in memory, with the recorded events' key registered in two projects."""

    def __init__(self) -> None:
        self.store, self.queue, self.clock = MemoryStore(), FakeQueue(), FakeClock(NOW)
        self.receive = ReceiveKeyEvent(self.store, self.queue, self.clock)
        for name in ("acme-prod", "acme-dev"):
            self.register(watched(project_id=name))

    def register(self, registered: Key) -> None:
        self.store.put(project(project_id=registered.project_id), registered, *pointers_to(registered))

    def __call__(self, event: object) -> Received | Ignored:
        found = from_eventbridge(event)
        return found if isinstance(found, Ignored) else self.receive(found)

    def hints(self, project_id: str = "acme-prod", key_id: str = f"us-west-2.{KMS_KEY}") -> tuple[Actor, ...]:
        found = self.store.event_hints(project_id, key_id)
        return found.calls if found is not None else ()


@pytest.fixture
def intake() -> Intake:
    return Intake()


@pytest.mark.parametrize("name", [name for name in recordings.TAKEN if not name.startswith(("Replicate", "UpdateP"))])
def test_an_event_has_its_key_probed_now_and_again_in_every_project(intake: Intake, name: str) -> None:
    received = intake(recorded(name))
    assert isinstance(received, Received)
    assert (received.registrations, received.messages, received.left_out) == (2, 8, False)
    assert intake.queue.delays == [0, 0, 15, 15, 60, 60, 180, 180]
    for project_id in ("acme-prod", "acme-dev"):
        assert [message for message in intake.queue.messages if message.project_id == project_id] == [
            CheckMessage(project_id, f"us-west-2.{KMS_KEY}", NOW + timedelta(seconds=seconds), Trigger.EVENT)
            for seconds in PROBES_AFTER
        ]


def test_an_event_on_a_primary_probes_its_replicas_and_explains_nothing_about_them(intake: Intake) -> None:
    for region in ("us-west-2", "eu-west-1", "us-east-1"):
        arn = f"arn:aws:kms:{region}:{ACCOUNT}:key/{MULTI_REGION_KEY}"
        intake.register(watched(key_id=f"{region}.{MULTI_REGION_KEY}", key_arn=arn, region=region, alias_arn=None))
    event = recordings.at(recorded("DisableKey", kms_key=MULTI_REGION_KEY), NOW)
    intake(event)
    assert {message.key_id.partition(".")[0] for message in intake.queue.messages} == {
        "us-west-2",
        "eu-west-1",
        "us-east-1",
    }
    assert len(intake.hints(key_id=f"us-west-2.{MULTI_REGION_KEY}")) == 1
    assert intake.hints(key_id=f"eu-west-1.{MULTI_REGION_KEY}") == ()


def test_who_acted_is_kept_for_the_incident_that_may_open(intake: Intake) -> None:
    received = intake(recordings.at(recorded("DisableKey"), NOW))
    assert isinstance(received, Received)
    assert received.hints == 2
    assert intake.hints() == (actor(arn=ALICE),)


@pytest.mark.parametrize("name", sorted(set(KMS_CALLS) - {each for calls in EXPLANATIONS.values() for each in calls}))
def test_a_call_that_explains_no_outage_is_not_kept(intake: Intake, name: str) -> None:
    intake(recordings.at(recorded(name), NOW))
    assert intake.hints() == ()


def test_an_event_that_comes_twice_or_late_or_again_changes_nothing_but_when_the_key_is_probed(intake: Intake) -> None:
    first = recordings.at(recorded("DisableKey"), NOW)
    intake(first)
    before = copy.deepcopy(intake.store.items)
    for event in (
        first,
        recordings.at(recorded("DisableKey"), NOW - timedelta(minutes=30)),
        recordings.at(recorded("EnableKey"), NOW),
        recordings.at(recorded("ScheduleKeyDeletion"), NOW - HINT_KEPT - timedelta(seconds=1)),
        recordings.at(recorded("ScheduleKeyDeletion"), NOW + CLOCKS_DIFFER + timedelta(seconds=1)),
    ):
        intake(event)
    assert intake.store.items == before


def test_a_burst_of_events_makes_a_key_due_once_in_five_seconds(intake: Intake) -> None:
    for _ in range(50):
        intake.clock.advance(0.1)
        intake(recorded("TagResource"))
    due = {message.due_at for message in intake.queue.messages if message.project_id == "acme-prod"}
    assert len(due) == len(PROBES_AFTER)


def test_a_newer_call_of_the_same_name_replaces_the_older_and_others_stay(intake: Intake) -> None:
    intake(recordings.at(recorded("DisableKey"), NOW))
    intake(recordings.at(recorded("PutKeyPolicy"), NOW + timedelta(seconds=1)))
    intake.clock.advance(60)
    intake(recordings.at(recorded("DisableKey"), NOW + timedelta(seconds=60)))
    assert {(call.event_name, call.event_time) for call in intake.hints()} == {
        ("DisableKey", NOW + timedelta(seconds=60)),
        ("PutKeyPolicy", NOW + timedelta(seconds=1)),
    }


def test_an_event_of_another_account_or_about_an_unknown_key_changes_nothing_at_all(intake: Intake) -> None:
    before = copy.deepcopy(intake.store.items)
    for name in recordings.TAKEN:
        intake(recorded(name, account="222222222222"))
        intake(recorded(name, kms_key="9" + KMS_KEY[1:], role="somebody-elses"))
    foreign = recordings.at(recorded("CreateGrant"), NOW)  # our key, as another account's caller recorded it
    foreign["account"] = foreign["detail"]["recipientAccountId"] = "222222222222"
    intake(foreign)
    keys = {message.key_id for message in intake.queue.messages}
    # Aliases and key stores keep their names in these recordings.
    assert keys <= {f"us-west-2.{KMS_KEY}"}
    assert intake.store.items == before


def test_a_pointer_to_a_key_that_is_gone_leads_nowhere(intake: Intake) -> None:
    del intake.store.items["key", "acme-dev", f"us-west-2.{KMS_KEY}"]
    received = intake(recorded("DisableKey"))
    assert isinstance(received, Received)
    assert received.registrations == 1


def test_one_event_concerns_at_most_a_hundred_registrations_and_says_if_there_are_more(intake: Intake) -> None:
    for number in range(MOST_REGISTRATIONS - 2):
        intake.register(watched(project_id=f"project-{number:03d}"))
    received = intake(recorded("DisableKey"))
    assert isinstance(received, Received)
    assert (received.registrations, received.left_out) == (MOST_REGISTRATIONS, False)
    intake.register(watched(project_id="one-more"))
    received = intake(recorded("DisableKey"))
    assert isinstance(received, Received)
    assert (received.registrations, received.left_out) == (MOST_REGISTRATIONS, True)


def test_messages_that_the_queue_does_not_take_fail_the_event_so_that_it_comes_again(intake: Intake) -> None:
    intake.queue.room = 1
    with pytest.raises(DeliveryError):
        intake(recorded("DisableKey"))


def test_a_hint_that_others_are_faster_with_every_time_delays_no_probe(
    intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(_writes: object) -> None:
        raise ConflictError

    monkeypatch.setattr(intake.store, "commit", lose)
    received = intake(recordings.at(recorded("DisableKey"), NOW))
    assert isinstance(received, Received)
    assert (received.messages, received.hints) == (8, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["DisableKey", "PutKeyPolicy", "EnableKey", "TagResource"]), st.integers(-2000, 2000)
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_what_is_remembered_does_not_depend_on_the_order_in_which_events_come(
    calls: list[tuple[str, int]], chance: Any
) -> None:
    told = [actor(event_name=name, event_time=NOW + timedelta(minutes=minutes)) for name, minutes in calls]
    shuffled = told[:]
    chance.shuffle(shuffled)

    def after(order: list[Actor]) -> set[tuple[str, datetime]]:
        hints = EventHints(project_id="acme-prod", key_id="k", kept_until=NOW)
        for call in order:
            hints = remember(hints, call, NOW) or hints
        return {(call.event_name, call.event_time) for call in hints.calls}

    assert after(told) == after(shuffled) == after([*told, *told])
    assert all(NOW - HINT_KEPT <= moment <= NOW + CLOCKS_DIFFER for _, moment in after(told))
    assert len(after(told)) <= len({name for name, _ in calls} - {"EnableKey"})


# --- whatever comes ---------------------------------------------------------------------------------------------

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in an event."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for name, inner in inside for path in paths(inner, (*at, name)))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A recorded event with up to three places changed into something else, or taken out."""
    event: Any = {"it": recorded(draw(st.sampled_from([*recordings.TAKEN, *recordings.IGNORED])))}
    for _ in range(draw(st.integers(0, 3))):
        *way, last = draw(st.sampled_from(paths(event)[1:]))
        place = event
        for step in way:
            place = place[step]
        if draw(st.booleans()):
            place[last] = draw(JUNK | st.sampled_from([KEY_ARN, ALIAS_ARN, ACCOUNT, "222222222222", ROLE, "aws.iam"]))
        else:
            del place[last]
        if "it" not in event:
            return draw(JUNK)
    return event["it"]


@settings(max_examples=400, deadline=None)
@given(st.lists(mutated() | JUNK, max_size=3))
def test_whatever_comes_nothing_raises_and_nothing_changes_but_probes_and_hints_of_the_account_s_own_keys(
    events: list[Any],
) -> None:
    intake = Intake()
    bystander = watched(
        project_id="somebody-else",
        account_id="222222222222",
        key_arn=KEY_ARN.replace(ACCOUNT, "222222222222"),
        role_arn=f"arn:aws:iam::222222222222:role/{ROLE}",
        alias_arn=None,
    )
    intake.register(bystander)
    before = dict(intake.store.items)
    for event in events:
        intake(event)
        # An event that names another account is that account's: it reaches nobody else's key.
        account = event.get("account") if isinstance(event, dict) else None
        for message in intake.queue.messages:
            found = intake.store.key(message.project_id, message.key_id)
            assert found is not None
            assert found.account_id == account
            assert message.trigger is Trigger.EVENT
        intake.queue.messages.clear()
    after = {place: item for place, item in intake.store.items.items() if place[0] != "hints"}
    assert after == before
    for hints in intake.store.all(EventHints):
        for call in hints.calls:
            assert call.event_name in {name for names in EXPLANATIONS.values() for name in names}
            assert call.arn.isascii()
            assert "\n" not in f"{call.arn}{call.source_ip}"


def test_the_example_arns_are_such_as_the_registry_takes() -> None:
    assert all(parse_kms_arn(text) is not None for text in (KEY_ARN, ALIAS_ARN))
