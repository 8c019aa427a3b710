"""Slow dangers: each step told once, in order, and once more when it is over."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.alerts import AlertStatus, AlertType, Notice, Severity
from keyvigil.domain.dangers import (
    DELETION_DAYS,
    MATERIAL_DAYS,
    OVERDUE_AFTER,
    Mended,
    see_alias,
    see_deletion,
    see_expiry,
    see_rotation,
    see_stale,
    watch_dangers,
    watch_staleness,
)
from keyvigil.domain.keys import (
    CLOSER_LOOK_EVERY,
    AliasTarget,
    CloserLook,
    Key,
    KeyFacts,
    Rotation,
    Told,
    is_closer_look_due,
)
from tests.examples import KEY_ARN, KMS_KEY, NOW, key, project
from tests.fakes import changed

ALIAS_ARN = KEY_ARN.replace(f"key/{KMS_KEY}", "alias/vectors")
OTHER_ARN = KEY_ARN.replace("1234abcd", "5678abcd")
MULTI_REGION_ARN = f"arn:aws:kms:us-west-2:222222222222:key/mrk-{'1234abcd' * 4}"
DAY = timedelta(days=1)


class Watched:
    """A key that is looked at again and again; what was told is remembered on it, as on the table."""

    def __init__(self, **fields: Any) -> None:
        self.key: Key = key(**fields)
        self.told: list[Notice] = []

    def look(self, now: datetime, **facts: Any) -> list[Notice]:
        """Look once, with what the probe showed; return what is told of it."""
        after = changed(self.key, facts=changed(self.key.facts, **facts))
        self.key, notices = watch_dangers(self.key, after, project(), now)
        self.told += notices
        return list(notices)

    def steps(self, now: datetime, **facts: Any) -> list[tuple[AlertStatus, Severity]]:
        return [(each.status, each.severity) for each in self.look(now, **facts)]


def closer(**parts: Any) -> CloserLook:
    return CloserLook(looked_at=NOW, **parts)


def test_a_key_without_dangers_is_told_nothing_and_stays_as_it_is() -> None:
    before = key(facts=KeyFacts(key_state="Enabled", closer=closer(rotation=Rotation(enabled=True))))

    assert watch_dangers(before, before, project(), NOW) == (before, ())


# --- deletion ---------------------------------------------------------------------------------------------------


def test_a_deletion_is_told_at_once_and_at_each_of_its_steps_and_once_when_it_is_cancelled() -> None:
    watched, date = Watched(), NOW + 30 * DAY
    hourly = [(hour, watched.look(NOW + timedelta(hours=hour), deletion_date=date)) for hour in range(24 * 30)]

    told = [(hour / 24, notice.severity) for hour, notices in hourly for notice in notices]
    warning, critical = Severity.WARNING, Severity.CRITICAL
    assert told == [(0, warning), (16, warning), (23, critical), (27, critical), (29, critical)]
    assert {notice.type for notice in watched.told} == {AlertType.KEY_DELETION_SCHEDULED}

    (over,) = watched.look(NOW + 30 * DAY, deletion_date=None, key_state="Disabled")
    assert (over.status, over.subject) == (AlertStatus.RESOLVED, watched.told[0].subject)
    assert watched.look(NOW + 31 * DAY) == []
    assert watched.key.told == {}


def test_a_deletion_of_the_shortest_window_is_critical_at_once_and_not_told_of_steps_that_passed_unseen() -> None:
    watched, date = Watched(), NOW + 7 * DAY

    told = [each.severity for day in range(8) for each in watched.look(NOW + day * DAY, deletion_date=date)]

    assert told == [Severity.CRITICAL] * 3, "at once with seven days left, at three, and at one"


def test_the_commands_cancel_the_deletion_and_enable_the_key_where_it_is() -> None:
    (notice,) = Watched().look(NOW, deletion_date=NOW + 10 * DAY)

    at = f"--region us-west-2 --key-id {KEY_ARN}"
    assert notice.remediation.commands == (f"aws kms cancel-key-deletion {at}", f"aws kms enable-key {at}")
    assert "2026-12-02 at 03:00 UTC, in 10 days" in notice.cause.message
    assert "related" not in notice.cause.message, "a single-Region key has no related key that could be left"


def test_a_deletion_that_was_cancelled_and_scheduled_again_between_two_looks_is_told_afresh() -> None:
    watched = Watched()
    watched.look(NOW, deletion_date=NOW + 2 * DAY)

    (again,) = watched.look(NOW + timedelta(hours=1), deletion_date=NOW + 30 * DAY)

    assert (again.status, again.severity) == (AlertStatus.FIRING, Severity.WARNING)
    assert "in 29 days" in again.cause.message


def test_a_deletion_that_came_true_is_not_told_as_cancelled() -> None:
    watched, date = Watched(), NOW + DAY
    watched.look(NOW, deletion_date=date)

    assert watched.look(NOW + 40 * DAY, deletion_date=date) == []
    assert "deletion" in watched.key.told


def test_a_primary_that_waits_for_its_replicas_is_told_without_a_date_and_with_its_date_when_it_has_one() -> None:
    watched = Watched(key_arn=MULTI_REGION_ARN)
    (waits,) = watched.look(NOW, key_state="PendingReplicaDeletion", multi_region=True)
    assert waits.severity is Severity.WARNING
    assert "when its last replica is gone" in waits.cause.message
    assert "unless a related multi-Region key is left" in waits.cause.message
    assert watched.look(NOW + DAY) == []

    (dated,) = watched.look(NOW + 2 * DAY, key_state="PendingDeletion", deletion_date=NOW + 9 * DAY)
    assert dated.severity is Severity.CRITICAL


def test_the_same_date_told_in_another_time_zone_is_the_same_deletion() -> None:
    watched, date = Watched(), NOW + 20 * DAY
    watched.look(NOW, deletion_date=date)

    assert watched.look(NOW, deletion_date=date.astimezone(timezone(timedelta(hours=5, minutes=45)))) == []


# --- imported material ------------------------------------------------------------------------------------------


def test_expiring_material_is_told_at_each_of_its_steps_and_not_before() -> None:
    watched, date = Watched(), NOW + 40 * DAY
    hourly = [(hour, watched.look(NOW + timedelta(hours=hour), material_expires_at=date)) for hour in range(24 * 40)]

    told = [(hour / 24, notice.severity) for hour, notices in hourly for notice in notices]
    warning, critical = Severity.WARNING, Severity.CRITICAL
    assert told == [(10, warning), (26, warning), (33, warning), (37, critical), (39, critical)]
    assert "import-key-material" in watched.told[0].remediation.commands[-1]


def test_material_that_has_expired_is_not_told_as_mended_but_its_return_is() -> None:
    watched = Watched()
    watched.look(NOW, material_expires_at=NOW + DAY, key_state="Enabled")

    assert watched.look(NOW + 2 * DAY, material_expires_at=None, key_state="PendingImport") == []
    (over,) = watched.look(NOW + 3 * DAY, material_expires_at=None, key_state="Enabled")
    assert over.status is AlertStatus.RESOLVED


@pytest.mark.parametrize("later", [None, NOW + 365 * DAY])
def test_material_that_was_imported_again_without_expiry_or_with_a_far_one_is_mended(later: datetime | None) -> None:
    watched = Watched()
    watched.look(NOW, material_expires_at=NOW + 5 * DAY)

    assert watched.steps(NOW, material_expires_at=later) == [(AlertStatus.RESOLVED, Severity.INFO)]


def test_material_that_was_imported_again_and_still_expires_soon_is_told_with_its_new_date() -> None:
    watched = Watched()
    watched.look(NOW, material_expires_at=NOW + 2 * DAY)

    (again,) = watched.look(NOW, material_expires_at=NOW + 20 * DAY)
    assert (again.status, again.severity) == (AlertStatus.FIRING, Severity.WARNING)


# --- rotation ---------------------------------------------------------------------------------------------------


def test_rotation_that_is_off_is_told_once_and_once_when_it_is_on_and_again_if_it_is_off_again() -> None:
    watched = Watched()
    off, on = closer(rotation=Rotation(enabled=False)), closer(rotation=Rotation(enabled=True))
    statuses = [each.status for look in (off, off, on, on, off) for each in watched.look(NOW, closer=look)]

    assert statuses == [AlertStatus.FIRING, AlertStatus.RESOLVED, AlertStatus.FIRING]
    at = f"--region us-west-2 --key-id {KEY_ARN}"
    assert watched.told[0].remediation.commands == (f"aws kms enable-key-rotation {at}",)
    assert watched.told[0].cause.code == "ROTATION_OFF"


def test_what_the_role_may_not_see_is_neither_a_danger_nor_mended() -> None:
    watched = Watched()
    assert watched.look(NOW, closer=closer()) == []
    watched.look(NOW, closer=closer(rotation=Rotation(enabled=False)))

    assert watched.look(NOW, closer=closer()) == []
    assert "rotation" in watched.key.told
    assert watched.steps(NOW, closer=closer(rotation=Rotation(enabled=True))) == [(AlertStatus.RESOLVED, Severity.INFO)]


@pytest.mark.parametrize("state", ["PendingDeletion", "Disabled", "PendingImport", "Unavailable"])
def test_rotation_is_not_judged_while_the_key_cannot_be_rotated(state: str) -> None:
    off = closer(rotation=Rotation(enabled=False))
    assert see_rotation(key(facts=KeyFacts(key_state=state, closer=off)), NOW) is None


def test_a_rotation_is_overdue_a_week_after_its_date_and_told_apart_from_one_that_is_off() -> None:
    watched = Watched()
    due = closer(rotation=Rotation(enabled=True, next_at=NOW, period_days=365))

    assert watched.look(NOW + OVERDUE_AFTER, closer=due) == []
    (overdue,) = watched.look(NOW + OVERDUE_AFTER + timedelta(seconds=1), closer=due)
    assert overdue.cause.code == "ROTATION_OVERDUE"
    assert "rotate-key-on-demand" in overdue.remediation.commands[0]
    (off,) = watched.look(NOW + 8 * DAY, closer=closer(rotation=Rotation(enabled=False)))
    assert off.cause.code == "ROTATION_OFF"
    done = closer(rotation=Rotation(enabled=True, next_at=NOW + 365 * DAY))
    assert watched.steps(NOW + 8 * DAY, closer=done) == [(AlertStatus.RESOLVED, Severity.INFO)]


def test_the_rotation_of_a_replica_is_mended_on_its_primary() -> None:
    watched = Watched(key_arn=MULTI_REGION_ARN)
    (notice,) = watched.look(
        NOW, multi_region=True, primary_region="eu-west-1", closer=closer(rotation=Rotation(enabled=False))
    )

    primary = MULTI_REGION_ARN.replace("us-west-2", "eu-west-1")
    assert notice.remediation.commands == (f"aws kms enable-key-rotation --region eu-west-1 --key-id {primary}",)


# --- alias ------------------------------------------------------------------------------------------------------


def test_an_alias_that_moved_is_a_warning_with_the_command_that_moves_it_back() -> None:
    watched = Watched(alias_arn=ALIAS_ARN)
    assert watched.look(NOW, closer=closer(alias=AliasTarget(key_arn=KEY_ARN))) == []

    (moved,) = watched.look(NOW, closer=closer(alias=AliasTarget(key_arn=OTHER_ARN)))

    assert (moved.type, moved.severity) == (AlertType.KEY_ALIAS_MOVED, Severity.WARNING)
    assert OTHER_ARN in moved.cause.message
    assert moved.remediation.commands == (
        f"aws kms update-alias --region us-west-2 --alias-name alias/vectors --target-key-id {KMS_KEY}",
    )
    assert watched.steps(NOW, closer=closer(alias=AliasTarget(key_arn=KEY_ARN))) == [
        (AlertStatus.RESOLVED, Severity.INFO)
    ]


def test_an_alias_that_is_gone_is_made_again_and_one_that_moves_on_is_told_again() -> None:
    watched = Watched(alias_arn=ALIAS_ARN)
    (moved,) = watched.look(NOW, closer=closer(alias=AliasTarget(key_arn=OTHER_ARN)))
    (gone,) = watched.look(NOW, closer=closer(alias=AliasTarget(key_arn=None)))

    assert moved.subject == gone.subject
    assert gone.remediation.commands[0].startswith("aws kms create-alias ")
    assert "is gone" in gone.cause.message


def test_an_alias_that_may_not_be_seen_and_a_key_without_one_are_no_finding() -> None:
    assert see_alias(key(alias_arn=ALIAS_ARN, facts=KeyFacts(closer=closer())), NOW) is None
    assert see_alias(key(facts=KeyFacts(closer=closer(alias=AliasTarget(key_arn=OTHER_ARN)))), NOW) is None


# --- replicas ---------------------------------------------------------------------------------------------------


def test_a_region_with_backups_and_without_a_replica_is_told_until_the_replica_is_there() -> None:
    watched = Watched(key_arn=MULTI_REGION_ARN, backups={"eu-west-1": 2, "us-west-2": 1, "us-east-1": 1})
    here = {"multi_region": True, "primary_region": "us-west-2"}
    missing = watched.look(NOW, replica_regions=("us-east-1",), **here)

    assert [each.subject for each in missing] == ["replica/eu-west-1"]
    assert "2 backups are to be restorable in eu-west-1" in missing[0].cause.message
    assert missing[0].remediation.commands == (
        f"aws kms replicate-key --region us-west-2 --key-id {MULTI_REGION_ARN} --replica-region eu-west-1",
    )
    assert watched.look(NOW, replica_regions=("us-east-1",), **here) == []
    (there,) = watched.look(NOW, replica_regions=("us-east-1", "eu-west-1"), **here)
    assert (there.status, there.subject) == (AlertStatus.RESOLVED, "replica/eu-west-1")


def test_a_replica_is_replicated_from_its_primary() -> None:
    watched = Watched(key_arn=MULTI_REGION_ARN, backups={"eu-west-1": 1})
    (missing,) = watched.look(NOW, multi_region=True, primary_region="us-east-1", replica_regions=("us-west-2",))

    primary = MULTI_REGION_ARN.replace("us-west-2", "us-east-1")
    assert f"--region us-east-1 --key-id {primary} " in missing.remediation.commands[0]


def test_the_primary_s_region_is_one_where_the_key_is() -> None:
    watched = Watched(key_arn=MULTI_REGION_ARN, backups={"us-east-1": 1})
    assert watched.look(NOW, multi_region=True, primary_region="us-east-1", replica_regions=("us-west-2",)) == []


def test_a_single_region_key_cannot_be_replicated_and_no_command_pretends_so() -> None:
    (missing,) = Watched(backups={"eu-west-1": 1}).look(NOW, key_state="Enabled")

    assert missing.remediation.commands == ()
    assert "Register a key of eu-west-1" in missing.remediation.summary
    assert "1 backup is to be restorable in eu-west-1" in missing.cause.message


def test_a_region_that_no_backup_needs_any_more_is_mended() -> None:
    watched = Watched(backups={"eu-west-1": 1})
    watched.look(NOW)
    watched.key = changed(watched.key, backups={})

    assert watched.steps(NOW) == [(AlertStatus.RESOLVED, Severity.INFO)]
    assert watched.look(NOW) == []


# --- staleness --------------------------------------------------------------------------------------------------


def test_the_end_of_a_staleness_is_told_at_the_next_probe_and_its_beginning_is_not() -> None:
    stale = key(last_probed_at=NOW - timedelta(hours=2))
    assert watch_staleness(stale, stale, project(), NOW) == (stale, ())

    told = changed(stale, told={"stale": Told(what="stale", step="stale", at=NOW)})
    assert watch_staleness(told, told, project(), NOW) == (told, ()), "a probe of long ago is none of now"
    probed = changed(told, last_probed_at=NOW)
    after, (over,) = watch_staleness(told, probed, project(), NOW)
    assert (over.type, over.status) == (AlertType.KEY_STALE, AlertStatus.RESOLVED)
    assert after.told == {}


def test_a_key_is_stale_after_three_of_its_project_s_intervals() -> None:
    probed = key(last_probed_at=NOW)
    assert isinstance(see_stale(probed, project(check_interval_minutes=10), NOW + timedelta(minutes=30)), Mended)
    assert not isinstance(see_stale(probed, project(check_interval_minutes=10), NOW + timedelta(minutes=31)), Mended)
    assert isinstance(see_stale(probed, project(check_interval_minutes=60), NOW + timedelta(minutes=31)), Mended)


# --- closer looks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ago", "due"),
    [
        (timedelta(minutes=1), False),
        (CLOSER_LOOK_EVERY - timedelta(seconds=1), False),
        (CLOSER_LOOK_EVERY, True),
        (timedelta(seconds=-1), True),
        (timedelta(days=-300), True),
    ],
)
def test_a_closer_look_is_due_after_an_hour_and_after_one_from_the_future(ago: timedelta, *, due: bool) -> None:
    assert is_closer_look_due(KeyFacts(closer=CloserLook(looked_at=NOW - ago)), NOW) is due


def test_a_closer_look_is_due_if_there_was_none() -> None:
    assert is_closer_look_due(KeyFacts(), NOW)


# --- whatever happens -------------------------------------------------------------------------------------------

moments = st.integers(-5 * 24, 60 * 24).map(lambda hours: NOW + timedelta(hours=hours))
dates = st.none() | st.integers(0, 50).map(lambda days: NOW + days * DAY)


def step_of(notice: Notice, watched: Watched) -> str:
    return watched.key.told[notice.subject].step


@given(st.lists(st.tuples(moments, dates), max_size=40), st.sampled_from(["deletion_date", "material_expires_at"]))
def test_each_step_of_each_date_is_told_at_most_once_in_order_whatever_the_clock_does(
    looks: list[tuple[datetime, datetime | None]], fact: str
) -> None:
    """The clock jumps to and fro, dates come and go: between two ends no step is told twice, and none out of order."""
    watched = Watched()
    order = ["scheduled", *map(str, DELETION_DAYS)] if fact == "deletion_date" else list(map(str, MATERIAL_DAYS))
    subject = "deletion" if fact == "deletion_date" else "material"
    running: tuple[datetime | None, list[str]] = (None, [])
    for now, date in looks:
        notices = watched.look(now, **{fact: date})
        assert len(notices) <= 1, "one alert, however many steps passed unseen"
        for notice in notices:
            if notice.status is AlertStatus.RESOLVED:
                assert running[1], "nothing is resolved that was not told"
                assert subject not in watched.key.told
                running = (None, [])
                continue
            step = step_of(notice, watched)
            told = running[1] if running[0] == date else []
            assert step not in told
            assert not told or order.index(step) > order.index(told[-1])
            running = (date, [*told, step])
        if date is None and fact == "deletion_date":
            assert subject not in watched.key.told


@given(st.lists(st.integers(1, 24 * 20), max_size=30))
def test_when_time_only_passes_the_step_that_is_remembered_is_the_one_that_holds(hours: list[int]) -> None:
    watched, date, now = Watched(), NOW + 30 * DAY, NOW
    for passed in hours:
        now += timedelta(hours=passed)
        watched.look(now, deletion_date=date)
        left = (date - now) / DAY
        holds = next((str(each) for each in sorted(DELETION_DAYS) if left <= each), "scheduled")
        assert watched.key.told["deletion"].step == holds
    assert len(watched.told) <= len(DELETION_DAYS) + 1


def all_dangers() -> Iterator[dict[str, Any]]:
    for rotation in (None, Rotation(enabled=True), Rotation(enabled=False), Rotation(enabled=True, next_at=NOW)):
        for alias in (None, AliasTarget(key_arn=KEY_ARN), AliasTarget(key_arn=OTHER_ARN), AliasTarget(key_arn=None)):
            yield {"closer": CloserLook(looked_at=NOW, rotation=rotation, alias=alias)}


@given(
    st.lists(
        st.tuples(moments, st.sampled_from(list(all_dangers())), st.dictionaries(st.sampled_from("ab"), st.just(1)))
    )
)
def test_firing_and_resolved_alternate_for_every_danger_however_they_come_and_go(looks: list[Any]) -> None:
    watched = Watched(alias_arn=ALIAS_ARN)
    firing: set[str] = set()
    for now, facts, backups in looks:
        watched.key = changed(watched.key, backups={f"eu-{name}-1": count for name, count in backups.items()})
        for notice in watched.look(now, key_state="Enabled", **facts):
            if notice.status is AlertStatus.FIRING:
                firing.add(notice.subject)
            else:
                assert notice.subject in firing
                firing.remove(notice.subject)
        assert firing == set(watched.key.told)


@given(moments, dates, dates)
def test_looking_twice_at_the_same_tells_nothing_more(
    now: datetime, deletion: datetime | None, expiry: datetime | None
) -> None:
    watched = Watched(backups={"eu-west-1": 1})
    facts = {"deletion_date": deletion, "material_expires_at": expiry}
    watched.look(now, **facts)

    assert watched.look(now, **facts) == []


@given(moments, dates)
def test_every_danger_says_in_words_what_it_is_and_when(now: datetime, date: datetime | None) -> None:
    for seen in (
        see_deletion(key(facts=KeyFacts(deletion_date=date)), now),
        see_expiry(key(facts=KeyFacts(material_expires_at=date)), now),
    ):
        assert seen is not None
        assert seen.message.startswith(("The key", "The imported"))
        assert seen.message.endswith(".")
        if date is not None and not isinstance(seen, Mended):
            assert f"{date.astimezone(UTC):%Y-%m-%d}" in seen.message
