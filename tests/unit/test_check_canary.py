"""Checking canaries, and asking them about a denial: no fault of our own makes a customer's key UNHEALTHY."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import override

import pytest

from keyvigil.domain.alerts import AlertStatus, AlertType
from keyvigil.domain.canaries import CANARY_PROJECT, DOUBTED_CAUSES, STACKS_OWN, Canary, OwnCanary
from keyvigil.domain.incidents import Incident
from keyvigil.domain.keys import Baseline, Key, KeyStatus, Registration, Trigger
from keyvigil.domain.verdicts import Cause, Outcome, Verdict
from keyvigil.errors import ConflictError, NotFoundError
from keyvigil.ports import PROBE_SECONDS, ProbeAnswer, Prober, RegistrationAnswer, RestoreAnswer, ValidationAnswer
from keyvigil.use_cases.check_canary import AskCanaries, CheckCanary
from keyvigil.use_cases.check_key import CheckKey, CheckResult
from keyvigil.use_cases.plan_sweep import PlanSweep
from tests.examples import KEY_ID, NOW, canary, key, project, verdict
from tests.fakes import CountingIds, FakeClock, FakeQueue, MemoryStore, changed

ILL = Cause.ROLE_NOT_ASSUMABLE
OWN = OwnCanary(key_arn=canary().key_arn, role_arn=canary().role_arn, external_id=canary().external_id)
THERE = canary(canary_id="eu-west-1.a", region="eu-west-1", key_arn=OWN.key_arn.replace("us-west-2", "eu-west-1"))


class World(Prober):
    """One customer's key, and canaries; `denied` says what each of them is answered. Probes take half a second."""

    def __init__(self) -> None:
        self.store, self.clock = MemoryStore(), FakeClock(NOW)
        self.denied: dict[str, Cause] = {}
        self.probed: list[str] = []
        self.fresh: dict[str, bool] = {}
        self.spent: dict[str, float] = {}
        self.seconds = 0.5
        self.after_the_denial: Callable[[], None] = lambda: None
        self.store.put(project(), key())
        self.check_canary = CheckCanary(self.store, self, self.clock, CountingIds(), own=OWN)
        self.ask = AskCanaries(self.check_canary, self.clock)
        self.check = CheckKey(self.store, self, self.clock, CountingIds(), doubt=self.ask, confirmation_probes=3)

    def _answer(self, name: str) -> Verdict:
        began = self.clock.now()
        self.clock.advance(self.seconds)
        self.probed.append(name)
        cause = self.denied.get(name)
        return verdict(cause, began, latency_ms=int(self.seconds * 1000))

    @override
    def check_restore(self, key: Key, region: str) -> RestoreAnswer:
        pytest.fail(f"no canary has a backup: {key.key_id} was tried in {region}")

    @override
    def probe(
        self, key: Key, *, fresh: bool = False, closely: bool = False, lean: bool = False, spent_seconds: float = 0
    ) -> ProbeAnswer:
        self.fresh[key.key_id], self.spent[key.key_id] = fresh, spent_seconds
        answer = ProbeAnswer(verdict=self._answer(key.key_id), facts=None)
        if key.project_id != CANARY_PROJECT:
            self.after_the_denial()
        return answer

    @override
    def probe_registration(self, registration: Registration, *, spent_seconds: float = 0) -> RegistrationAnswer:
        found = self._answer(STACKS_OWN)
        healthy = found.outcome is Outcome.HEALTHY
        self.spent[STACKS_OWN] = spent_seconds
        return RegistrationAnswer(
            verdict=found,
            role_checks_external_id=True if healthy else None,
            key_arn=registration.key_arn,
            baseline=Baseline.of(b"made by the first probe", registration.context, found.probed_at)
            if healthy
            else None,
            facts=None,
        )

    @override
    def validate(self, registration: Registration) -> ValidationAnswer:
        raise AssertionError

    def canary(self, canary_id: str = STACKS_OWN) -> Canary:
        found = self.store.canary(canary_id)
        assert found is not None
        return found

    def sweep(self) -> None:
        """One minute later, all canaries are probed."""
        self.clock.advance(60)
        for each in self.check_canary.known():
            self.check_canary(each.canary_id)

    def denied_probe(self, cause: Cause = ILL) -> CheckResult:
        self.denied[KEY_ID] = cause
        self.clock.advance(60)
        return self.check("acme-prod", KEY_ID, Trigger.SCHEDULE)


@pytest.fixture
def world() -> World:
    return World()


# --- a canary's check -------------------------------------------------------------------------------------------


def test_the_stacks_own_makes_itself_known_with_a_ciphertext_of_its_own(world: World) -> None:
    result = world.check_canary(STACKS_OWN)
    stored = world.canary()
    assert result.probed
    assert result.canary == stored
    assert stored.outcome is Outcome.HEALTHY
    assert stored.baseline is not None
    assert stored.baseline.ciphertext == b"made by the first probe"
    assert (stored.began_at, stored.ended_at) == (NOW, NOW + timedelta(seconds=0.5))
    assert world.store.rows() == []


def test_a_first_probe_that_fails_is_kept_too_and_the_next_tries_to_make_the_ciphertext_again(world: World) -> None:
    world.denied[STACKS_OWN] = ILL
    world.check_canary(STACKS_OWN)
    assert (world.canary().outcome, world.canary().baseline) == (Outcome.UNHEALTHY, None)
    del world.denied[STACKS_OWN]
    world.sweep()
    assert world.canary().baseline is not None


def test_every_later_probe_decrypts_that_ciphertext_and_assumes_the_role_anew(world: World) -> None:
    world.check_canary(STACKS_OWN)
    world.sweep()
    assert world.fresh == {STACKS_OWN: True}
    assert world.canary().baseline is not None
    assert world.probed == [STACKS_OWN, STACKS_OWN]


def test_a_role_that_is_open_to_all_makes_no_canary(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_to_all(registration: Registration, *, spent_seconds: float = 0) -> RegistrationAnswer:
        del spent_seconds
        return RegistrationAnswer(
            verdict=verdict(), role_checks_external_id=False, key_arn=None, baseline=None, facts=None
        )

    monkeypatch.setattr(world, "probe_registration", open_to_all)
    world.check_canary(STACKS_OWN)
    assert world.canary().outcome is Outcome.UNKNOWN
    shown = world.canary().verdict
    assert shown is not None
    assert "can be assumed without its ExternalId" in shown.message


def test_a_canary_that_is_ill_twice_is_told_to_the_operator_and_so_is_its_recovery(world: World) -> None:
    world.check_canary(STACKS_OWN)
    world.denied[STACKS_OWN] = ILL
    for _ in range(4):
        world.sweep()
    del world.denied[STACKS_OWN]
    for _ in range(4):
        world.sweep()
    assert [(alert.type, alert.status) for alert in world.store.alerts()] == [
        (AlertType.CANARY_UNHEALTHY, AlertStatus.FIRING),
        (AlertType.CANARY_UNHEALTHY, AlertStatus.RESOLVED),
    ]
    assert len({alert.dedup_key for alert in world.store.alerts()}) == 1
    assert {(row.for_operator, row.project_id) for row in world.store.rows()} == {(True, None)}
    told = [writes for writes in world.store.commits if len(writes) == 2]
    assert len(told) == 2, "the canary and its alert are one transaction"


def test_the_same_message_twice_probes_once(world: World) -> None:
    due = world.clock.now()
    assert world.check_canary(STACKS_OWN, due_at=due).probed
    assert not world.check_canary(STACKS_OWN, due_at=due).probed
    assert world.probed == [STACKS_OWN]


def test_a_probe_of_a_clock_that_was_ahead_does_not_keep_the_canary_from_being_probed(world: World) -> None:
    world.store.put(canary(began_at=NOW + timedelta(hours=1), ended_at=NOW + timedelta(hours=1)))
    world.clock.advance(60)
    assert world.check_canary(STACKS_OWN, due_at=world.clock.now() + timedelta(seconds=1)).probed


def test_a_canary_that_was_removed_meanwhile_is_not_stored_again(world: World) -> None:
    world.store.put(THERE)
    world.store.before_commit = world.store.items.clear
    with pytest.raises(NotFoundError):
        world.check_canary(THERE.canary_id)
    assert world.store.canaries() == []


def test_the_loser_of_a_race_keeps_the_later_probe(world: World) -> None:
    world.check_canary(STACKS_OWN)

    def faster() -> None:
        world.clock.advance(5)
        world.check_canary(STACKS_OWN)

    world.clock.advance(60)
    world.store.before_commit = faster
    world.check_canary(STACKS_OWN)
    assert world.canary().began_at == NOW + timedelta(seconds=66)


def test_a_sweep_sends_the_stacks_own_first_though_nobody_registered_it_and_all_others(world: World) -> None:
    queue = FakeQueue()
    world.store.put(THERE)
    result = PlanSweep(world.store, queue, queue, world.clock)()
    assert [each.key_id for each in queue.canaries] == [THERE.canary_id, STACKS_OWN]
    assert {(each.project_id, each.due_at) for each in queue.canaries} == {(CANARY_PROJECT, NOW)}
    assert (result.keys_due, result.keys_sent) == (1, 1), "canaries are not counted as keys"


# --- a denial ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", sorted(DOUBTED_CAUSES))
def test_a_denial_is_believed_when_a_canary_was_let_in_after_it(world: World, cause: Cause) -> None:
    result = world.denied_probe(cause)
    assert world.probed == [KEY_ID, STACKS_OWN]
    assert (result.key.verdict.cause, result.key.health.status, result.doubted) == (cause, KeyStatus.SUSPECT, False)


@pytest.mark.parametrize("cause", sorted(DOUBTED_CAUSES))
def test_when_our_own_role_broke_a_moment_ago_the_very_first_denial_is_unknown(world: World, cause: Cause) -> None:
    world.sweep()
    assert world.canary().outcome is Outcome.HEALTHY
    world.denied[STACKS_OWN] = ILL
    result = world.denied_probe(cause)
    assert (result.key.verdict.outcome, result.key.verdict.cause) == (Outcome.UNKNOWN, Cause.OWN_CREDENTIALS)
    assert result.key.health.status is KeyStatus.HEALTHY
    assert result.doubted
    assert world.store.all(Incident) == []


def test_our_own_trouble_opens_no_incident_however_long_it_lasts_and_ends_by_itself(world: World) -> None:
    world.sweep()
    world.denied[STACKS_OWN] = ILL
    results = [world.denied_probe() for _ in range(30)]
    assert {result.key.health.status for result in results} == {KeyStatus.HEALTHY}
    assert world.store.all(Incident) == []
    del world.denied[STACKS_OWN], world.denied[KEY_ID]
    world.clock.advance(60)
    assert world.check("acme-prod", KEY_ID, Trigger.SCHEDULE).key.health.unknown_since is None


def test_our_own_trouble_confirms_nothing_that_a_customer_began(world: World) -> None:
    """The customer's role broke first, then ours."""
    assert world.denied_probe().key.health.failing_streak == 1
    world.denied[STACKS_OWN] = ILL
    result = [world.denied_probe() for _ in range(20)][-1]
    assert (result.key.health.status, result.key.health.failing_streak) == (KeyStatus.SUSPECT, 1)
    del world.denied[STACKS_OWN]
    result = [world.denied_probe() for _ in range(8)][-1]
    assert result.key.health.status is KeyStatus.UNHEALTHY, "believed again once the canary is well"


def test_trouble_that_ends_between_a_denial_and_the_canarys_probe_is_no_outage_of_the_customers(world: World) -> None:
    world.sweep()
    world.denied[STACKS_OWN] = ILL
    world.sweep()

    def mended() -> None:
        world.denied.pop(STACKS_OWN, None)

    world.after_the_denial = mended
    result = world.denied_probe()
    assert world.canary().outcome is Outcome.HEALTHY
    assert result.key.verdict.cause is Cause.OWN_CREDENTIALS
    assert world.store.all(Incident) == []


def test_what_aws_vouches_for_needs_no_canary(world: World) -> None:
    world.denied[STACKS_OWN] = ILL
    result = world.denied_probe(Cause.KEY_DISABLED)
    assert result.key.health.status is KeyStatus.SUSPECT
    assert STACKS_OWN not in world.probed


def test_a_healthy_key_asks_no_canary(world: World) -> None:
    world.check("acme-prod", KEY_ID, Trigger.SCHEDULE)
    assert world.probed == [KEY_ID]


def test_a_region_that_is_denied_to_us_is_seen_by_its_own_canary_only(world: World) -> None:
    world.store.put(THERE, key(region="eu-west-1"))
    world.denied[THERE.canary_id] = Cause.ACCESS_DENIED
    result = world.denied_probe(Cause.ACCESS_DENIED)
    assert world.probed == [KEY_ID, THERE.canary_id]
    assert result.key.verdict.cause is Cause.OWN_CREDENTIALS
    world.store.put(key(region="us-west-2"))
    assert world.denied_probe(Cause.ACCESS_DENIED).key.verdict.cause is Cause.ACCESS_DENIED


def test_a_canary_that_is_ill_is_not_probed_again_for_every_denial(world: World) -> None:
    world.denied[STACKS_OWN] = ILL
    world.denied_probe()
    for _ in range(5):
        world.clock.advance(1)
        world.check("acme-prod", KEY_ID, Trigger.REQUEST)
    assert world.probed.count(STACKS_OWN) == 1
    world.denied_probe()
    assert world.probed.count(STACKS_OWN) == 2


def test_the_canarys_probe_has_only_the_time_that_the_denied_one_left(world: World) -> None:
    world.seconds = 4
    world.denied_probe()
    assert world.spent[STACKS_OWN] == 4
    world.sweep()
    world.probed.clear()
    world.seconds = PROBE_SECONDS
    result = world.denied_probe()
    assert world.probed == [KEY_ID], "no time is left to ask"
    assert result.key.verdict.cause is Cause.OWN_CREDENTIALS, "and what is not proved is not so"


def test_a_canary_that_others_write_all_the_time_proves_nothing(world: World) -> None:
    world.sweep()

    def always_faster() -> None:
        found = world.canary()
        world.store.items["canary", STACKS_OWN] = changed(found, version=found.version + 1)
        world.store.before_commit = always_faster

    world.denied[KEY_ID] = ILL
    world.store.before_commit = always_faster
    with pytest.raises(ConflictError):
        world.check_canary(STACKS_OWN)
    asked = world.ask(verdict(ILL, world.clock.now(), latency_ms=0), "us-west-2")
    assert asked.cause is Cause.OWN_CREDENTIALS


def test_the_denials_of_a_batch_wait_for_one_probe_of_the_canary() -> None:
    world = World()
    world.seconds = 0
    world.sweep()
    world.probed.clear()
    together = threading.Barrier(10)

    def one_of_a_batch(_: int) -> Verdict:
        denied = verdict(ILL, NOW + timedelta(minutes=2), latency_ms=0)
        together.wait(timeout=20)
        return world.ask(denied, "us-west-2")

    world.clock.time = NOW + timedelta(minutes=2)
    with ThreadPoolExecutor(max_workers=10) as pool:
        verdicts = list(pool.map(one_of_a_batch, range(10)))
    assert {each.cause for each in verdicts} == {ILL}
    assert world.probed == [STACKS_OWN]


def test_who_cannot_wait_for_another_threads_probe_any_longer_proves_nothing(world: World) -> None:
    world.sweep()
    world.probed.clear()
    world.clock.advance(30)
    # A twentieth of a second is left of its time.
    denied = verdict(ILL, world.clock.now() - timedelta(seconds=PROBE_SECONDS - 0.05), latency_ms=11_950)
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:
        with world.ask._lock:
            holding.set()
            release.wait(timeout=20)

    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(hold)
        assert holding.wait(timeout=20)
        try:
            assert world.ask(denied, "us-west-2").cause is Cause.OWN_CREDENTIALS
            assert world.probed == []
            world.sweep()
            assert world.ask(denied, "us-west-2").cause is ILL, "what others found meanwhile counts"
        finally:
            release.set()
