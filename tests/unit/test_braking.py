"""A fleet of 40 keys of 6 accounts in 2 Regions, and what the brake does when many of them turn bad at once."""

import json
from collections import Counter
from datetime import timedelta
from typing import override

import pytest

from keyvigil.domain.alerts import AlertStatus, AlertType
from keyvigil.domain.brake import BrakeSettings
from keyvigil.domain.clusters import Cluster, ClusterStatus
from keyvigil.domain.held import HeldFor
from keyvigil.domain.incidents import Decision, Incident, IncidentStatus, LockoutVerb, Mending
from keyvigil.domain.keys import Health, KeyStatus
from keyvigil.domain.verdicts import AMBIGUOUS_CAUSES, Cause, Outcome
from keyvigil.use_cases import braking
from keyvigil.use_cases.braking import KEYVIGIL, AskBrake, BrakeRequest, Braking
from keyvigil.use_cases.decide_incident import DecideIncident
from keyvigil.use_cases.lock_clusters import DecideLockout, FailOverdueLock
from keyvigil.use_cases.reconcile import Reconcile, ReconcileReport
from keyvigil.use_cases.record_lock_result import RecordLockResult
from keyvigil.use_cases.settle_lockout import SettleLockout
from keyvigil.use_cases.unlock_clusters import SettleRecovery
from tests.examples import NOW, canary, cluster, incident, key, project, verdict
from tests.fakes import CountingIds, FakeClock, FakeRelay, FakeWorkflow, MemoryStore, changed
from tests.infra.source_template import ROOT

OREGON, IRELAND = "us-west-2", "eu-west-1"
ACCOUNTS = 6
KEYS = 40
MINUTE = timedelta(minutes=1)
LOCKOUT = ROOT / "statemachines" / "cluster_lockout.asl.json"


class Fleet:
    """Forty healthy keys, six customers, a canary that vouches in each Region."""

    def __init__(self) -> None:
        self.store, self.clock, self.ids = MemoryStore(), FakeClock(NOW), CountingIds()
        ids = self.ids
        ask = AskBrake(self.store, self.clock, BrakeSettings())
        self.decide = DecideLockout(self.store, ask, self.clock, ids, confirmation_probes=3)
        self.braking = Braking(self.store, self.clock, ids)
        self.person = DecideIncident(self.store, self.clock, ids)
        self._view = ask
        for account in range(ACCOUNTS):
            self.store.put(project(project_id=f"customer-{account}"))
        for number in range(KEYS):
            self.store.put(
                key(
                    project_id=self.project_of(number),
                    key_id=self.key_id(number),
                    region=self.region_of(number),
                    account_id=f"{self.account_of(number):012}",
                ),
                cluster(
                    project_id=self.project_of(number),
                    cluster_id=f"c{number}",
                    key_id=self.key_id(number),
                    region=self.region_of(number),
                ),
            )
        self.canaries_vouch(OREGON, IRELAND)

    def account_of(self, number: int) -> int:
        return number % ACCOUNTS

    def project_of(self, number: int) -> str:
        return f"customer-{self.account_of(number)}"

    @staticmethod
    def region_of(number: int) -> str:
        return OREGON if number < KEYS // 2 else IRELAND

    def key_id(self, number: int) -> str:
        return f"{self.region_of(number)}.{number:036}"

    def of_account(self, account: int) -> list[int]:
        return [number for number in range(KEYS) if self.account_of(number) == account]

    def canaries_vouch(self, *regions: str) -> None:
        """Every canary was probed a moment ago; the one of a Region that is not named was denied."""
        now = self.clock.now()
        for region in (OREGON, IRELAND):
            healthy = region in regions
            self.store.put(
                canary(
                    canary_id=region,
                    region=region,
                    verdict=verdict(None if healthy else Cause.ACCESS_DENIED, now),
                    began_at=now,
                    ended_at=now,
                    in_doubt=not healthy,
                )
            )

    def breaks(self, numbers: list[int], cause: Cause) -> None:
        """These keys' outages are confirmed: each has an open incident, and failed a second ago."""
        failed = self.clock.now() - timedelta(seconds=1)
        for number in numbers:
            found = self.store.key(self.project_of(number), self.key_id(number))
            broken = Health(
                status=KeyStatus.UNHEALTHY,
                failing_streak=60,
                definite_streak=0 if cause in AMBIGUOUS_CAUSES else 60,
                failing_since=failed - 10 * MINUTE,
                counted_at=failed,
                confirmed=True,
            )
            bad = changed(
                found,
                health=broken,
                verdict=verdict(cause, failed),
                last_probed_at=failed,
                open_incident_id=f"i{number}",
            )
            assert bad is not None
            self.store.put(bad)
            if self.incident(number) is None:
                self.store.put(
                    incident(
                        incident_id=f"i{number}",
                        project_id=self.project_of(number),
                        key_id=self.key_id(number),
                        cause=cause,
                        opened_at=failed,
                        confirmed_at=failed,
                        account_id=f"{self.account_of(number):012}",
                    )
                )

    def incident(self, number: int) -> Incident | None:
        return self.store.incident(self.project_of(number), f"i{number}")

    def lockouts(self, numbers: list[int]) -> Counter[str]:
        """Decide for each of these keys, as their executions do; what became of them, counted."""
        outcomes: Counter[str] = Counter()
        for number in numbers:
            plan = self.decide(self.project_of(number), self.key_id(number), f"i{number}")
            locks = plan.decision.verb is LockoutVerb.LOCK
            outcomes["locks" if locks else str(plan.decision.held_for)] += 1
            after = self.incident(number)
            assert after is not None
            assert after.status is (IncidentStatus.LOCKING if locks else IncidentStatus.HELD)
        return outcomes

    def mend(self) -> ReconcileReport:
        """The minute's reconciling, which releases the brake itself."""
        store, clock, ids, workflow = self.store, self.clock, self.ids, FakeWorkflow()
        settle = SettleLockout(store, clock, ids)
        record = RecordLockResult(store, workflow, settle, clock, ids)
        return Reconcile(
            store,
            workflow,
            FakeRelay(),
            FailOverdueLock(store, record, clock),
            settle,
            SettleRecovery(store, clock, ids),
            clock,
            ids,
            ask_brake=self._view,
            braking=self.braking,
            confirmation_probes=3,
        )()

    def told(self, kind: AlertType) -> list[str]:
        return [alert.cause.message for alert in self.store.alerts() if alert.type is kind]

    def sweep(self) -> None:
        self.braking.release_by_itself(self._view())


class FleetWithALargeCustomer(Fleet):
    """The same forty keys, of which the first twelve are one customer's; the other five share the rest."""

    @override
    def account_of(self, number: int) -> int:
        return 0 if number < 12 else 1 + number % (ACCOUNTS - 1)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def large() -> Fleet:
    return FleetWithALargeCustomer()


def request(**fields: str | None) -> BrakeRequest:
    wanted = {"region": None, "project_id": None, "reason": "I looked", "by": "arn:eve"} | fields
    return BrakeRequest(cause=None, **wanted)  # type: ignore[arg-type]  # reason and by are never None


def test_more_brakes_than_a_transaction_takes_are_released_at_once(fleet: Fleet) -> None:
    for number in range(60):
        fleet.braking.engage(request(project_id=f"customer-{number}"))
    assert fleet.braking.release(request()) == []
    assert len(fleet.told(AlertType.BRAKE_RELEASED)) == 60


def test_our_own_role_broken_locks_nobody(fleet: Fleet) -> None:
    fleet.canaries_vouch()
    fleet.breaks(list(range(KEYS)), Cause.ROLE_NOT_ASSUMABLE)
    assert fleet.lockouts(list(range(KEYS))) == {"brake": KEYS}


def test_a_region_denied_to_us_holds_that_region_and_no_other(fleet: Fleet) -> None:
    fleet.canaries_vouch(OREGON)
    fleet.breaks([*range(20, 40), 0], Cause.ACCESS_DENIED)
    assert fleet.lockouts(list(range(20, 40))) == {"brake": 20}
    assert fleet.lockouts([0]) == {"locks": 1}


def test_a_customer_who_disables_twelve_keys_is_locked_out_of_those(large: Fleet) -> None:
    his = large.of_account(0)
    large.breaks(his, Cause.KEY_DISABLED)
    assert large.lockouts(his) == {"locks": 12}
    assert not large.braking.engaged()


def test_a_customer_who_breaks_his_only_role_over_twelve_keys_is_locked_out_although_they_are_most_of_a_region(
    large: Fleet,
) -> None:
    """Twelve of the twenty keys there: more than the brake's quarter, but of one account. The canary is healthy."""
    his = large.of_account(0)
    assert len(his) == 12
    large.breaks(his, Cause.ROLE_NOT_ASSUMABLE)
    assert large.lockouts(his) == {"locks": 12}
    assert not large.braking.engaged()


def test_a_role_that_has_not_been_broken_for_long_enough_does_not_lock(large: Fleet) -> None:
    """Ambiguous causes need the slow confirmation: six probes over two minutes."""
    large.breaks([0], Cause.ROLE_NOT_ASSUMABLE)
    found = large.store.key("customer-0", large.key_id(0))
    assert found is not None
    quick = changed(found.health, failing_since=large.clock.now() - timedelta(seconds=119))
    large.store.put(changed(found, health=quick))
    plan = large.decide("customer-0", large.key_id(0), "i0")
    assert plan.decision.verb is LockoutVerb.WAIT


def test_three_customers_denied_at_once_engage_the_brake_and_the_operator_is_told_how_many(fleet: Fleet) -> None:
    theirs = [number for number in range(20) if number % ACCOUNTS < 3]
    fleet.breaks(theirs, Cause.ACCESS_DENIED)
    assert fleet.lockouts(theirs) == {"brake": len(theirs)}
    (told,) = fleet.told(AlertType.BRAKE_ENGAGED)
    for part in ("by cause: ACCESS_DENIED 11", "by Region: us-west-2 11", "000000000002 3", "11 of 20 keys"):
        assert part in told
    (brake,) = fleet.braking.engaged()
    assert (brake.region, brake.cause, brake.engaged_by) == (OREGON, Cause.ACCESS_DENIED, KEYVIGIL)


def test_the_operator_is_told_although_every_customer_has_a_grace_and_the_brake_would_have_nothing_to_hold_yet(
    fleet: Fleet,
) -> None:
    """When an hour's grace is over, keys that broke within 15 minutes do not count as breaking at once any more."""
    for account in range(ACCOUNTS):
        fleet.store.put(project(project_id=f"customer-{account}", grace_minutes=60))
    theirs = [number for number in range(20) if number % ACCOUNTS < 3]
    fleet.breaks(theirs, Cause.ACCESS_DENIED)
    assert fleet.lockouts(theirs) == {"grace": len(theirs)}
    assert [brake.engaged_by for brake in fleet.braking.engaged()] == [KEYVIGIL]
    assert len(fleet.told(AlertType.BRAKE_ENGAGED)) == 1


@pytest.mark.parametrize("most", [4, 7, 1000])
def test_of_more_outages_than_there_is_time_to_read_a_sample_engages_the_brake(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Half of a Region's keys, of all customers: whoever looks at some of them sees the same share."""
    monkeypatch.setattr(braking, "OUTAGES_READ", most)
    reads: list[str] = []
    read = fleet.store.incident

    def counted(project_id: str, incident_id: str) -> Incident | None:
        reads.append(incident_id)
        return read(project_id, incident_id)

    monkeypatch.setattr(fleet.store, "incident", counted)
    theirs = list(range(12))
    fleet.breaks(theirs, Cause.ACCESS_DENIED)
    reads.clear()
    fleet.decide(fleet.project_of(0), fleet.key_id(0), "i0")
    assert len(reads) <= most + 1
    (brake,) = fleet.braking.engaged()
    assert brake.engaged_by == KEYVIGIL
    assert ("in a sample of one outage in" in brake.reason) is (most < len(theirs))


@pytest.mark.parametrize("most", [3, 1000])
def test_a_sample_of_few_outages_is_no_reason_to_brake(
    large: Fleet, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(braking, "OUTAGES_READ", most)
    his = large.of_account(0)
    large.breaks(his, Cause.ACCESS_DENIED)
    assert large.lockouts(his) == {"locks": 12}
    assert not large.braking.engaged()


def test_everything_failing_at_once_is_held_in_each_region(fleet: Fleet) -> None:
    everything = list(range(KEYS))
    fleet.breaks(everything, Cause.KEY_NOT_FOUND)
    assert fleet.lockouts(everything) == {"brake": KEYS}
    assert len(fleet.told(AlertType.BRAKE_ENGAGED)) == 2


def test_more_than_the_ceiling_of_definite_causes_wait_until_the_window_has_passed(fleet: Fleet) -> None:
    everything = list(range(KEYS))
    fleet.breaks(everything, Cause.KEY_DISABLED)
    assert fleet.lockouts(everything) == {"locks": 20, "ceiling": 20}
    fleet.clock.advance(15 * 60)
    assert fleet.lockouts(everything[20:]) == {"locks": 20}


def test_the_brake_releases_itself_when_it_was_quiet_and_what_it_held_locks_after_all(fleet: Fleet) -> None:
    theirs = list(range(20))
    fleet.breaks(theirs, Cause.ACCESS_DENIED)
    fleet.lockouts(theirs)
    fleet.clock.advance(9 * 60)
    fleet.canaries_vouch(OREGON, IRELAND)
    fleet.sweep()
    assert fleet.braking.engaged()
    fleet.clock.advance(2 * 60)
    fleet.sweep()
    assert fleet.braking.engaged(), "no canary was probed since it became quiet"
    fleet.canaries_vouch(OREGON, IRELAND)
    fleet.sweep()
    assert not fleet.braking.engaged()
    fleet.breaks(theirs, Cause.ACCESS_DENIED)
    fleet.clock.advance(2)
    fleet.canaries_vouch(OREGON, IRELAND)
    assert fleet.lockouts(theirs) == {"locks": 20}
    engaged, over = (
        next(alert for alert in fleet.store.alerts() if alert.type is kind)
        for kind in (AlertType.BRAKE_ENGAGED, AlertType.BRAKE_RELEASED)
    )
    assert engaged.dedup_key == over.dedup_key
    assert over.status is AlertStatus.RESOLVED


def test_every_incident_that_a_released_brake_held_is_confirmed_afresh_by_an_execution_of_its_own(fleet: Fleet) -> None:
    theirs = list(range(20))
    fleet.breaks(theirs, Cause.ACCESS_DENIED)
    fleet.lockouts(theirs)
    fleet.clock.advance(11 * 60)
    fleet.canaries_vouch(OREGON, IRELAND)
    fleet.breaks(theirs, Cause.ACCESS_DENIED)
    fleet.clock.advance(2)
    fleet.canaries_vouch(OREGON, IRELAND)
    report = fleet.mend()
    assert report.errors == []
    assert report.brakes_released == 1
    assert Counter(mending for _, mending, _ in report.mended) == {Mending.START_LOCKOUT: 20}
    assert {start.name for start in fleet.store.starts()} == {f"i{number}-lock-1" for number in theirs}
    assert all(cluster.status is ClusterStatus.ACTIVE for cluster in fleet.store.all(Cluster))
    assert json.loads(LOCKOUT.read_text())["States"]["BeginConfirmation"]["Next"] == "ConfirmOutage"


def test_a_key_that_joins_later_keeps_the_brake_engaged(fleet: Fleet) -> None:
    fleet.breaks(list(range(12)), Cause.ACCESS_DENIED)
    fleet.lockouts(list(range(12)))
    fleet.clock.advance(8 * 60)
    fleet.breaks([13], Cause.ACCESS_DENIED)
    fleet.clock.advance(3 * 60)
    fleet.canaries_vouch(OREGON, IRELAND)
    fleet.sweep()
    assert fleet.braking.engaged()


def test_the_operator_lets_one_project_go_on_while_the_brake_holds_the_others(fleet: Fleet) -> None:
    theirs = list(range(18))
    fleet.breaks(theirs, Cause.ACCESS_DENIED)
    fleet.lockouts(theirs)
    fleet.braking.release(request(project_id="customer-1"))
    assert fleet.lockouts([1, 7, 13]) == {"locks": 3}
    assert fleet.lockouts([0, 2, 3]) == {"brake": 3}


def test_the_operator_releases_a_whole_cohort_and_it_does_not_engage_again_for_the_same_keys(fleet: Fleet) -> None:
    theirs = list(range(18))
    fleet.breaks(theirs, Cause.ACCESS_DENIED)
    fleet.lockouts(theirs)
    assert fleet.braking.release(request(region=IRELAND)), "that is another Region"
    assert not fleet.braking.release(request(region=OREGON))
    assert fleet.lockouts(theirs) == {"locks": 18}
    assert len(fleet.told(AlertType.BRAKE_RELEASED)) == 1


def test_an_incident_that_is_approved_goes_on_alone(fleet: Fleet) -> None:
    theirs = list(range(18))
    fleet.breaks(theirs, Cause.ACCESS_DENIED)
    fleet.lockouts(theirs)
    approved = fleet.person("customer-4", "i4", Decision.APPROVE, reason="it is real", by="arn:eve")
    assert approved.status is IncidentStatus.CONFIRMING
    assert [start.incident_id for start in fleet.store.starts()] == ["i4"]
    assert fleet.lockouts([4]) == {"locks": 1}
    assert fleet.lockouts([5]) == {"brake": 1}


def test_the_operator_s_brake_holds_definite_causes_too_until_a_person_releases_it(fleet: Fleet) -> None:
    fleet.braking.engage(request(region=OREGON))
    assert len(fleet.braking.engage(request(region=OREGON))) == 1
    assert len(fleet.told(AlertType.BRAKE_ENGAGED)) == 1
    fleet.breaks([0, 30], Cause.KEY_DISABLED)
    assert fleet.lockouts([0]) == {"brake": 1}
    assert fleet.lockouts([30]) == {"locks": 1}
    fleet.clock.advance(3600)
    fleet.canaries_vouch(OREGON, IRELAND)
    fleet.sweep()
    assert fleet.braking.engaged()
    fleet.braking.release(request(region=OREGON))
    assert fleet.lockouts([0]) == {"locks": 1}


def test_without_any_canary_an_ambiguous_outage_waits_for_a_person(fleet: Fleet) -> None:
    fleet.store.items = {place: each for place, each in fleet.store.items.items() if place[0] != "canary"}
    fleet.breaks([0], Cause.ACCESS_DENIED)
    assert fleet.lockouts([0]) == {str(HeldFor.APPROVAL): 1}
    assert fleet.told(AlertType.APPROVAL_NEEDED)


def test_two_lockouts_that_are_decided_at_once_are_both_counted(fleet: Fleet) -> None:
    everything = list(range(21))
    fleet.breaks(everything, Cause.KEY_DISABLED)
    fleet.lockouts(everything[:19])

    def another_is_faster() -> None:
        assert fleet.lockouts([19]) == {"locks": 1}

    fleet.store.before_commit = another_is_faster
    assert fleet.lockouts([20]) == {"ceiling": 1}


def test_an_outage_that_got_no_answer_in_between_is_not_asked_about(fleet: Fleet) -> None:
    fleet.breaks([0], Cause.ACCESS_DENIED)
    found = fleet.store.key("customer-0", fleet.key_id(0))
    unknown = changed(found, verdict=verdict(Cause.THROTTLED))
    assert unknown is not None
    assert unknown.verdict.outcome is Outcome.UNKNOWN
    fleet.store.put(unknown)
    plan = fleet.decide("customer-0", fleet.key_id(0), "i0")
    assert plan.decision.verb is LockoutVerb.WAIT
    assert not fleet.braking.engaged()
