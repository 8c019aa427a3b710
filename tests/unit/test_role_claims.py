"""Roles that keys use without a claim are claimed, by one project or by those that share them, and by nobody else."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import override

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.domain.keys import Key, KeyUse, RoleClaim
from keyvigil.domain.role_claims import counted, released, role_of
from keyvigil.errors import RefusedError
from keyvigil.ports import Page, RoleAudit, SharedRole
from keyvigil.use_cases.audit_roles import PROJECTS_A_REQUEST, AuditRoles
from keyvigil.use_cases.registry import KeyRequest, Keys
from tests.examples import CUSTOMER, KEY_ARN, MONITOR_ROLE_ARN, NOW, ROLE_ARN, key, project
from tests.fakes import FakeChecker, FakeClock, MemoryStore, changed
from tests.unit.test_registry import answer

OTHER_ROLE_ARN = f"{ROLE_ARN}-2"
ROLE = ROLE_ARN.rpartition("/")[2]


class World:
    """A table as the first versions left it: projects and keys, and no claims."""

    def __init__(self) -> None:
        self.store, self.clock, self.checker = MemoryStore(), FakeClock(NOW), FakeChecker()
        self.keys = self.new_sandbox()
        self.audit = AuditRoles(self.store, self.clock)

    def new_sandbox(self) -> Keys:
        return Keys(self.store, self.checker, self.clock, own_account="111111111111", monitor_role_arn=MONITOR_ROLE_ARN)

    def old_key(self, project_id: str, number: int = 1, role_arn: str = ROLE_ARN) -> Key:
        """A key of a project, as code that claimed no roles registered it."""
        found = self.store.project(project_id) or project(project_id=project_id, keys=0)
        self.store.put(changed(found, keys=found.keys + 1))
        kms_key = f"{number:08d}-12ab-34cd-56ef-1234567890ab"
        made = key(
            project_id=project_id,
            key_id=f"us-west-2.{kms_key}",
            key_arn=f"arn:aws:kms:us-west-2:{CUSTOMER}:key/{kms_key}",
            role_arn=role_arn,
        )
        self.store.put(made)
        return changed(made, version=1)

    def register(self, project_id: str, role_arn: str = ROLE_ARN) -> Key:
        self.checker.answer = answer()
        wanted = KeyRequest(key_arn=KEY_ARN, role_arn=role_arn, use=KeyUse.CMEK)
        return self.keys.register(project_id, wanted)

    def claim(self, role_arn: str = ROLE_ARN) -> tuple[str, int, dict[str, int]] | None:
        found = self.store.role_claim(CUSTOMER, role_arn.rpartition("/")[2])
        return (found.project_id, found.keys, dict(found.sharing)) if found else None

    def sweep_until_finished(self) -> None:
        for _ in range(100):
            if self.store.role_audit() is not None:
                return
            self.audit()
        pytest.fail("the roles are never counted")


@pytest.fixture
def world() -> World:
    return World()


# --- claims -----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(["counts", "releases"]), st.sampled_from("abc"), st.integers(1, 3)), max_size=40)
)
def test_a_claim_counts_every_projects_keys_whatever_happens_in_which_order(
    steps: list[tuple[str, str, int]],
) -> None:
    claim: RoleClaim | None = None
    model: Counter[str] = Counter()
    for what, project_id, keys in steps:
        if what == "counts":
            claim = counted(claim, [key(project_id=project_id)] * keys)
            model[project_id] = keys
        elif claim is not None:
            claim = released(claim, project_id)
            model[project_id] = max(0, model[project_id] - 1)
        says = {} if claim is None else {claim.project_id: claim.keys, **claim.sharing}
        assert says == +model


def test_a_claim_passes_to_the_project_with_the_most_keys_when_its_own_leaves() -> None:
    claim = RoleClaim(account_id=CUSTOMER, role_name=ROLE, project_id="a", keys=1, sharing={"b": 1, "c": 2, "d": 2})

    assert released(claim, "a") == changed(claim, project_id="c", keys=2, sharing={"b": 1, "d": 2})


def test_a_project_that_has_no_part_in_a_claim_changes_nothing_by_leaving() -> None:
    claim = RoleClaim(account_id=CUSTOMER, role_name=ROLE, project_id="a", keys=1, sharing={"b": 1})

    assert released(claim, "z") == claim


def test_a_role_is_known_by_its_own_account_and_by_its_name_in_small_letters_without_its_path() -> None:
    odd = key(account_id="333333333333", role_arn=f"arn:aws:iam::{CUSTOMER}:role/a/path/KeyVigil-Acme")

    assert role_of(odd) == (CUSTOMER, "keyvigil-acme")


# --- counting ---------------------------------------------------------------------------------------------------


def test_keys_that_were_registered_before_roles_were_claimed_get_their_claim(world: World) -> None:
    world.old_key("acme", 1)
    world.old_key("acme", 2)
    world.old_key("acme", 3, OTHER_ROLE_ARN)

    step = world.audit()

    assert world.claim() == ("acme", 2, {})
    assert world.claim(OTHER_ROLE_ARN) == ("acme", 1, {})
    assert step.claimed == [(CUSTOMER, ROLE, "acme"), (CUSTOMER, f"{ROLE}-2", "acme")]
    assert world.store.role_audit() == RoleAudit(finished_at=NOW, shared=())


def test_counting_again_changes_nothing(world: World) -> None:
    world.old_key("acme")
    world.audit()
    commits = len(world.store.commits)

    assert AuditRoles(world.store, world.clock)().claimed == []
    assert world.audit().claimed == []
    assert len(world.store.commits) == commits


def test_some_projects_are_looked_at_in_each_sweep_and_only_the_last_step_says_that_all_are_known(
    world: World,
) -> None:
    for number in range(5):
        world.old_key(f"p{number}", number, f"{ROLE_ARN}-{number}")
    audit = AuditRoles(world.store, world.clock, at_once=2)

    steps = [[claimed[2] for claimed in audit().claimed] for _ in range(2)]
    assert world.store.role_audit() is None
    steps.append([claimed[2] for claimed in audit().claimed])

    assert steps == [["p0", "p1"], ["p2", "p3"], ["p4"]]
    assert world.store.role_audit() is not None


@pytest.mark.parametrize("wrong", [1, 3])
def test_a_wrong_count_is_put_right(world: World, wrong: int) -> None:
    world.old_key("acme", 1)
    world.old_key("acme", 2)
    world.store.put(RoleClaim(account_id=CUSTOMER, role_name=ROLE, project_id="acme", keys=wrong))

    world.audit()

    assert world.claim() == ("acme", 2, {})


def test_a_key_that_old_code_registers_while_it_is_being_replaced_is_found_by_the_next_sandbox(world: World) -> None:
    world.audit()
    world.old_key("acme")
    assert world.audit().claimed == []

    AuditRoles(world.store, world.clock)()

    assert world.claim() == ("acme", 1, {})


class OneProjectFails(MemoryStore):
    fails: str | None = "p1"

    @override
    def keys(self, project_id: str, limit: int, token: str | None) -> Page[Key]:
        if project_id == self.fails:
            raise TimeoutError("the table did not answer")
        return super().keys(project_id, limit, token)


def test_a_project_that_cannot_be_looked_at_delays_no_other_and_then_all_are_looked_at_again(world: World) -> None:
    store = world.store = OneProjectFails()
    for number in range(3):
        world.old_key(f"p{number}", number, f"{ROLE_ARN}-{number}")
    audit = AuditRoles(store, world.clock)

    step = audit()
    assert step.errors == [("p1", "TimeoutError: the table did not answer")]
    assert [claimed[2] for claimed in step.claimed] == ["p0", "p2"]
    assert store.role_audit() is None

    store.fails = None
    assert [claimed[2] for claimed in audit().claimed] == ["p1"]
    assert store.role_audit() is not None


def test_a_table_that_does_not_answer_is_asked_again_by_the_next_sweep(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.old_key("acme")

    def no_answer(_audit: RoleAudit) -> None:
        raise TimeoutError("the table did not answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "record_role_audit", no_answer)
        assert world.audit().errors == [("roles", "TimeoutError: the table did not answer")]
    world.audit()

    assert world.store.role_audit() is not None


# --- races ------------------------------------------------------------------------------------------------------


def test_a_key_that_is_registered_while_its_role_is_counted_is_counted_too(world: World) -> None:
    world.old_key("acme")
    world.store.record_role_audit(RoleAudit(finished_at=NOW, shared=()))

    def a_registration_is_faster() -> None:
        world.register("acme")

    world.store.before_commit = a_registration_is_faster

    world.audit()

    assert world.claim() == ("acme", 2, {})


def test_a_key_that_gets_another_role_while_it_is_counted_is_counted_there_only(world: World) -> None:
    old = world.old_key("acme")
    world.store.record_role_audit(RoleAudit(finished_at=NOW, shared=()))
    world.checker.answer = answer()

    def a_change_is_faster() -> None:
        world.keys.update("acme", old.key_id, role_arn=OTHER_ROLE_ARN)

    world.store.before_commit = a_change_is_faster

    world.audit()

    assert world.claim() is None
    assert world.claim(OTHER_ROLE_ARN) == ("acme", 1, {})


def test_a_key_that_is_deleted_while_it_is_counted_leaves_no_claim(world: World) -> None:
    old = world.old_key("acme")
    world.store.before_commit = lambda: world.keys.delete("acme", old.key_id)

    world.audit()

    assert world.claim() is None


class Interrupted(MemoryStore):
    """Lets a test do something before one of the reads: the first is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: dict[int, Callable[[], None]] = {}
        self.reads = 0

    def _read(self) -> None:
        self.reads += 1
        self.meanwhile.pop(self.reads, lambda: None)()

    @override
    def keys(self, project_id: str, limit: int, token: str | None) -> Page[Key]:
        self._read()
        return super().keys(project_id, limit, token)

    @override
    def role_claim(self, account_id: str, role_name: str) -> RoleClaim | None:
        self._read()
        return super().role_claim(account_id, role_name)


@pytest.mark.parametrize("before_read", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("what", ["registers", "deletes", "changes"])
def test_whenever_something_happens_while_keys_are_counted_the_count_is_right(before_read: int, what: str) -> None:
    world = World()
    store = world.store = Interrupted()
    world.keys, world.audit = world.new_sandbox(), AuditRoles(store, world.clock)
    first, _ = world.old_key("acme", 1), world.old_key("acme", 2)
    store.record_role_audit(RoleAudit(finished_at=NOW, shared=()))
    world.checker.answer = answer()
    happens: dict[str, Callable[[], object]] = {
        "registers": lambda: world.register("acme"),
        "deletes": lambda: world.keys.delete("acme", first.key_id),
        "changes": lambda: world.keys.update("acme", first.key_id, role_arn=OTHER_ROLE_ARN),
    }

    def meanwhile() -> None:
        store.meanwhile.clear()
        happens[what]()

    store.meanwhile[before_read] = meanwhile
    world.audit()

    assert store.meanwhile == {}, "there was no such read"
    used = Counter(role_of(each) for each in store.all(Key))
    assert {role_of_claim(claim): claim.keys for claim in store.all(RoleClaim)} == used


def role_of_claim(claim: RoleClaim) -> tuple[str, str]:
    return claim.account_id, claim.role_name.lower()


def test_two_sandboxes_that_count_at_once_agree(world: World) -> None:
    world.old_key("acme")
    world.old_key("beta", 2)

    def the_other_is_faster() -> None:
        AuditRoles(world.store, world.clock)()

    world.store.before_commit = the_other_is_faster

    world.audit()

    assert world.claim() == ("acme", 1, {"beta": 1})


# --- nobody takes a role in between -----------------------------------------------------------------------------


def test_a_role_that_an_old_key_uses_is_not_given_to_another_project_right_after_the_upgrade(world: World) -> None:
    world.old_key("acme")
    world.store.put(project(project_id="beta", keys=0))

    with pytest.raises(RefusedError) as refused:
        world.register("beta")

    assert (refused.value.status, refused.value.title) == (409, "Role serves another project")
    assert world.checker.seen == []
    assert world.claim() == ("acme", 1, {})


def test_in_a_large_fleet_registrations_with_new_roles_wait_until_all_projects_are_known(world: World) -> None:
    world.store.put(*(project(project_id=f"p{number:02d}", keys=0) for number in range(2 * PROJECTS_A_REQUEST)))
    world.old_key("zulu")

    refusals = []
    for _ in range(2):
        with pytest.raises(RefusedError) as refused:
            world.register("p00")
        refusals.append((refused.value.status, refused.value.title, refused.value.retry_after_seconds))
    assert refusals == [(503, "Roles are being counted", 60)] * 2

    with pytest.raises(RefusedError, match="Role serves another project"):
        world.register("p00")
    assert world.register("p00", OTHER_ROLE_ARN).role_arn == OTHER_ROLE_ARN


def test_what_the_sweeps_found_out_holds_for_every_sandbox_of_the_api(world: World) -> None:
    world.store.put(*(project(project_id=f"p{number:02d}", keys=0) for number in range(2 * PROJECTS_A_REQUEST)))
    world.sweep_until_finished()

    assert world.register("p00").project_id == "p00"


def test_a_role_whose_claim_is_known_waits_for_nothing(world: World) -> None:
    world.store.put(*(project(project_id=f"p{number:02d}", keys=0) for number in range(2 * PROJECTS_A_REQUEST)))
    world.store.put(RoleClaim(account_id=CUSTOMER, role_name=ROLE, project_id="p00", keys=1))

    world.register("p00")

    assert world.claim() == ("p00", 2, {})


def test_the_first_registration_of_a_new_stack_waits_for_nothing(world: World) -> None:
    world.store.put(project(project_id="acme", keys=0))

    assert world.register("acme").project_id == "acme"


# --- roles that projects share ----------------------------------------------------------------------------------


@pytest.fixture
def sharing(world: World) -> World:
    """Two projects that had registered keys with one role when nobody forbade it, after an upgrade."""
    world.old_key("acme", 1)
    world.old_key("beta", 2)
    world.old_key("beta", 3)
    world.audit()
    world.checker.answer = answer()
    return world


def keys_of(world: World) -> Sequence[Key]:
    return [changed(each, version=0) for each in world.store.all(Key)]


def test_projects_that_share_a_role_keep_their_keys_as_they_are_and_the_operator_is_told(world: World) -> None:
    world.old_key("acme", 1)
    world.old_key("beta", 2)
    before = keys_of(world)

    step = world.audit()

    assert keys_of(world) == before
    assert world.claim() == ("acme", 1, {"beta": 1})
    assert step.shared == (SharedRole(CUSTOMER, ROLE, ("acme", "beta")),)
    assert world.store.role_audit() == RoleAudit(finished_at=NOW, shared=step.shared)


def test_the_operator_is_told_again_by_every_look_as_long_as_a_role_is_shared(sharing: World) -> None:
    again = AuditRoles(sharing.store, sharing.clock)()
    assert again.claimed == []
    assert [shared.project_ids for shared in again.shared] == [("acme", "beta")]

    for old in list(sharing.store.all(Key))[1:]:
        sharing.keys.delete("beta", old.key_id)
    assert AuditRoles(sharing.store, sharing.clock)().shared == ()


def test_only_the_project_that_has_the_claim_registers_further_keys_with_a_shared_role(sharing: World) -> None:
    with pytest.raises(RefusedError, match="Role serves another project"):
        sharing.register("beta")

    sharing.register("acme")

    assert sharing.claim() == ("acme", 2, {"beta": 2})


def test_a_key_with_a_shared_role_may_change_everything_but_to_such_a_role(sharing: World) -> None:
    sharing.old_key("gamma", 4, OTHER_ROLE_ARN)
    gamma, beta = sharing.store.keys("gamma", 1, None).items[0], sharing.store.keys("beta", 1, None).items[0]

    assert sharing.keys.update("beta", beta.key_id, use=KeyUse.CSE).use is KeyUse.CSE
    with pytest.raises(RefusedError, match="Role serves another project"):
        sharing.keys.update("gamma", gamma.key_id, role_arn=ROLE_ARN)
    sharing.keys.update("beta", beta.key_id, role_arn=f"{ROLE_ARN}-3")

    assert sharing.claim() == ("acme", 1, {"beta": 1})


def test_a_shared_role_stays_claimed_until_the_last_of_its_projects_leaves(sharing: World) -> None:
    sharing.store.put(project(project_id="gamma", keys=0))
    acme, *beta = sharing.store.all(Key)

    sharing.keys.delete("acme", acme.key_id)
    assert sharing.claim() == ("beta", 2, {})
    sharing.keys.delete("beta", beta[0].key_id)
    with pytest.raises(RefusedError, match="Role serves another project"):
        sharing.register("gamma")
    sharing.keys.delete("beta", beta[1].key_id)

    assert sharing.claim() is None
    assert sharing.register("gamma").project_id == "gamma"
