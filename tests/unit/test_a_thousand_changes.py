"""Over a thousand changes, in every kind of trouble: each has its alert in each queue that subscribed to it."""

from collections import Counter

import pytest

from keyvigil.domain.alerts import Alert, AlertStatus, OutboxRow
from tests.unit.delivery_simulation import Deliveries, Weather, lets_through

TROUBLES = {
    "fine weather": Weather(),
    "SNS throttled": Weather(throttled=0.5),
    "SNS down for ten minutes": Weather(sns_down=range(20, 30)),
    "500 after it accepted": Weather(after_accepting=0.3),
    "the bus down while SNS works": Weather(bus_down=range(20, 60)),
    "killed between publishing and marking": Weather(killed=0.1),
    "stream records read twice, or by two relays": Weather(read_twice=0.5, overtaken=0.1),
    "batches lost": Weather(lost=0.3),
    "poison rows": Weather(poison=0.03),
    "all of it": Weather(
        throttled=0.2,
        after_accepting=0.1,
        killed=0.03,
        read_twice=0.3,
        lost=0.1,
        overtaken=0.05,
        poison=0.01,
        sns_down=range(20, 30),
        bus_down=range(25, 50),
    ),
}


def told(world: Deliveries) -> dict[str, Alert]:
    """What is told, as it is told; what is told together with other keys is told once."""
    rows = [each for each in world.store.all(OutboxRow) if each.alert is not None and not each.withheld]
    return {each.row_id: told_as for each in rows if (told_as := each.told_as or each.alert) is not None}


def assert_all_arrived(world: Deliveries) -> None:
    """Every alert is in every queue that wants it and in no other, on the bus, and as often as retries explain."""
    alerts = told(world)
    published = Counter(each.alert_id for _, each in world.notifier.published)
    on_bus = Counter(each.alert_id for each in world.notifier.bus)
    for target, copies in (("topic", published), ("bus", on_bus)):
        assert copies.keys() == alerts.keys(), f"{target} misses {len(alerts.keys() - copies.keys())}"
        without_reason = {
            alert_id: count for alert_id, count in copies.items() if count > 1 + world.copies_excused[alert_id, target]
        }
        assert without_reason == {}, f"{target} has copies that no retry explains"
    for each in world.notifier.subscriptions:
        wanted = {
            alert.alert_id
            for alert in alerts.values()
            if alert.project_id == each.project_id and lets_through(each, alert)
        }
        assert {alert.alert_id for alert in world.notifier.queues[each.subscription_id]} == wanted, each.subscription_id


def assert_sorted_and_paired(world: Deliveries) -> None:
    """`sequence` rises with each key's alerts, and what fires is resolved once under the same `dedup_key`."""
    alerts = list(told(world).values())
    for key in {(alert.project_id, alert.key.arn if alert.key else "", _key_id(alert)) for alert in alerts}:
        mine = sorted(
            (each for each in alerts if (each.project_id, each.key.arn if each.key else "", _key_id(each)) == key),
            key=lambda each: each.alert_id,
        )
        numbers = [each.sequence for each in mine]
        assert len(set(numbers)) == len(numbers)
    for dedup_key in {each.dedup_key for each in alerts}:
        mine = sorted((each for each in alerts if each.dedup_key == dedup_key), key=lambda each: each.sequence)
        assert [each.status for each in mine[:-1]] == [AlertStatus.FIRING] * (len(mine) - 1)
        assert mine[-1].status is AlertStatus.RESOLVED
        assert len(mine) > 1


def assert_no_change_is_without_its_alert(world: Deliveries) -> None:
    """What is withheld was told together with others: each incident fires in some alert and ends in one."""
    of_keys = [each for each in world.store.alerts() if each.dedup_key.endswith("/key")]
    firing, over = set[str](), set[str]()
    for each in told(world).values():
        if each.dedup_key.endswith("/key"):
            (firing if each.status is AlertStatus.FIRING else over).add(each.incident_id or "")
            over |= {key.incident_id for key in each.keys if each.status is AlertStatus.RESOLVED}
            firing |= {key.incident_id for key in each.keys}
    incidents = {each.incident_id for each in of_keys}
    assert firing == over == incidents


def _key_id(alert: Alert) -> str:
    return alert.dedup_key.split("/")[1]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_thousand_changes_have_their_alerts_in_every_subscribed_queue(trouble: str) -> None:
    world = Deliveries(seed=7)
    world.weather = TROUBLES[trouble]
    world.run(150, outages=0.25)
    world.mend()

    while world.store.rows_aside(1):
        world.store.damaged, world.notifier.never = set(), set()
        for each in world.aside.rows():
            world.aside.send_again(each.row_id)
        world.run(2, outages=0)

    assert len(world.store.alerts()) >= 1000
    assert world.store.unsent_rows(world.clock.now()) == []
    assert_all_arrived(world)
    assert_sorted_and_paired(world)
    assert_no_change_is_without_its_alert(world)
    if trouble == "all of it":
        assert set(world.seen) == {
            "topic throttles",
            "topic is down",
            "topic answers 500 after it accepted",
            "bus throttles",
            "bus is down",
            "bus answers 500 after it accepted",
            "the relay is killed",
            "the stream is read twice",
            "a batch is lost",
            "another relay is faster",
            "a row is poison",
            "rows set aside",
        }


def test_while_poison_rows_lie_aside_everything_else_goes_out_and_nobody_tries_them() -> None:
    world = Deliveries(seed=3)
    world.weather = Weather(poison=0.05)
    world.run(60, outages=0.25)
    world.mend()

    poison = {each.row_id for each in world.aside.rows()}
    assert len(poison) > 5
    assert world.store.count_aside() == len(poison)
    assert world.store.unsent_rows(world.clock.now()) == []
    published = {each.alert_id for _, each in world.notifier.published}
    assert told(world).keys() - published == poison
    before = world.seen["rows set aside"]
    world.run(5, outages=0)
    assert world.seen["rows set aside"] == before
