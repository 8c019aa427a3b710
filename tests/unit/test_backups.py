"""Backups: what keeps a key in the registry, and whether a restore would work now."""

from typing import Any

import pytest

from keyvigil.domain.alerts import AlertType
from keyvigil.domain.backups import (
    BACKUPS_NAMED,
    MAX_BACKUPS_PER_KEY,
    MAX_REGIONS_PER_KEY,
    Backup,
    RestorePath,
    restore_path,
)
from keyvigil.domain.keys import Key, KeyFacts, Trigger
from keyvigil.domain.verdicts import OUTCOME_OF_CAUSE, Cause, Outcome
from keyvigil.errors import AlreadyExistsError, CheckerUnavailableError, NotFoundError, RefusedError
from keyvigil.ports import ProbeAnswer, RestoreAnswer
from keyvigil.use_cases.backups import Backups, NewBackup
from keyvigil.use_cases.check_key import CheckKey
from keyvigil.use_cases.registry import Clusters, Keys, Projects
from tests.examples import KEY_ID, MONITOR_ROLE_ARN, NOW, backup, cluster, key, project, verdict
from tests.fakes import CountingIds, FakeChecker, FakeClock, FakeTopics, MemoryStore, ScriptedProber, changed, no_doubt

MRK = f"mrk-{'1234abcd' * 4}"
MULTI_REGION_ARN = f"arn:aws:kms:us-west-2:222222222222:key/{MRK}"
MULTI_REGION_ID = f"us-west-2.{MRK}"
NEW = NewBackup(backup_id="2026-11-22", cluster_id="vectors-prod", key_id=KEY_ID, region="eu-west-1")


class Registry:
    """A project with one key and one cluster, in memory."""

    def __init__(self) -> None:
        self.store, self.clock, self.checker = MemoryStore(), FakeClock(), FakeChecker()
        self.store.put(project(), key(clusters=1), cluster())
        self.backups = Backups(self.store, self.checker, self.clock)
        self.clusters = Clusters(self.store, self.clock)
        self.keys = Keys(
            self.store, self.checker, self.clock, own_account="111111111111", monitor_role_arn=MONITOR_ROLE_ARN
        )
        self.projects = Projects(self.store, FakeTopics(), self.clock, CountingIds())

    def register(self, **fields: Any) -> Backup:
        return self.backups.register("acme-prod", changed(NEW, **fields))

    def key(self, key_id: str = KEY_ID) -> Key:
        found = self.store.key("acme-prod", key_id)
        assert found is not None
        return found


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def multi_region(registry: Registry) -> Registry:
    """The same with a multi-Region key, which has a replica in eu-west-1, and a backup under it."""
    facts = KeyFacts(multi_region=True, primary_region="us-west-2", replica_regions=("eu-west-1",))
    registry.store.put(key(key_id=MULTI_REGION_ID, key_arn=MULTI_REGION_ARN, facts=facts))
    registry.register(key_id=MULTI_REGION_ID, backup_id="mine")
    return registry


# --- registering ------------------------------------------------------------------------------------------------


def test_a_backup_is_stored_and_counted_on_its_key_in_one_transaction(registry: Registry) -> None:
    made = registry.register()

    assert registry.store.backup("acme-prod", "2026-11-22") == made
    assert (made.created_at, made.version) == (NOW, 1)
    (writes,) = registry.store.commits
    assert sorted(type(write.entity).__name__ for write in writes) == ["Backup", "Key"]
    registry.register(backup_id="next")
    registry.register(backup_id="here", region="us-west-2")
    assert registry.key().backups == {"eu-west-1": 2, "us-west-2": 1}


def test_of_two_who_register_backups_at_once_neither_is_lost_from_the_count(registry: Registry) -> None:
    registry.store.before_commit = lambda: assert_made(registry.register(backup_id="faster"))
    registry.register()

    assert registry.key().backups == {"eu-west-1": 2}


def assert_made(made: Backup) -> None:
    assert made.version == 1


def test_the_same_backup_twice_is_refused(registry: Registry) -> None:
    registry.register()
    with pytest.raises(AlreadyExistsError, match="backup 2026-11-22 is registered already"):
        registry.register(region="us-east-1")
    assert registry.key().backups == {"eu-west-1": 1}


@pytest.mark.parametrize(
    ("fields", "title"),
    [
        ({"key_id": "us-west-2.gone"}, "KMS key is not registered"),
        ({"cluster_id": "gone"}, "Cluster is not registered"),
        ({"cluster_id": "tombstone"}, "Cluster is not registered"),
    ],
)
def test_a_backup_of_what_is_not_registered_is_refused(registry: Registry, fields: dict[str, str], title: str) -> None:
    registry.store.put(cluster(cluster_id="tombstone", deleted_at=NOW))
    with pytest.raises(RefusedError) as refused:
        registry.register(**fields)
    assert (refused.value.status, refused.value.title) == (409, title)
    assert registry.store.all(Backup) == []


@pytest.mark.parametrize("project_id", ["nobody", "leaving"])
def test_a_backup_in_a_project_that_is_not_there_or_goes_is_not_found(registry: Registry, project_id: str) -> None:
    registry.store.put(project(project_id="leaving", deleting=True))
    with pytest.raises(NotFoundError):
        registry.backups.register(project_id, NEW)


def test_the_thousand_and_first_backup_under_a_key_is_refused(registry: Registry) -> None:
    registry.store.put(key(backups={"eu-west-1": MAX_BACKUPS_PER_KEY - 1, "us-west-2": 1}))
    with pytest.raises(RefusedError) as refused:
        registry.register()
    assert (refused.value.status, refused.value.title) == (409, "Too many backups under KMS key")


def test_no_more_regions_than_one_transaction_can_tell_of_are_taken_but_more_backups_in_them_are(
    registry: Registry,
) -> None:
    registry.store.put(key(backups={f"eu-west-{number}": 1 for number in range(MAX_REGIONS_PER_KEY)}))
    registry.register(region="eu-west-7")
    with pytest.raises(RefusedError) as refused:
        registry.register(backup_id="one-too-many", region="us-east-1")
    assert (refused.value.status, refused.value.title) == (409, "Too many Regions under KMS key")


def test_a_probe_can_tell_of_every_region_that_is_missing_and_of_every_other_that_is_needed_no_more(
    registry: Registry,
) -> None:
    def regions(name: str) -> dict[str, int]:
        return {f"{name}-{number}": 1 for number in range(MAX_REGIONS_PER_KEY)}

    prober = ScriptedProber(ProbeAnswer(verdict=verdict(Cause.KEY_DISABLED, registry.clock.now()), facts=None))
    check = CheckKey(registry.store, prober, registry.clock, CountingIds(), doubt=no_doubt, confirmation_probes=3)
    for name in ("eu-west", "us-east"):
        registry.store.put(changed(registry.key(), backups=regions(name)))
        assert check("acme-prod", KEY_ID, Trigger.SCHEDULE).probed

    assert max(len(writes) for writes in registry.store.commits) > 2 * MAX_REGIONS_PER_KEY
    told = [alert for alert in registry.store.alerts() if alert.type is AlertType.KEY_REPLICA_MISSING]
    assert len(told) == 3 * MAX_REGIONS_PER_KEY


def test_a_backup_may_be_under_another_key_than_its_cluster(multi_region: Registry) -> None:
    assert multi_region.backups.get("acme-prod", "mine").key_id == MULTI_REGION_ID
    assert multi_region.store.clusters_of_key("acme-prod", MULTI_REGION_ID) == []


# --- what it keeps ----------------------------------------------------------------------------------------------


def test_a_key_with_backups_stays_and_says_which_are_in_the_way(registry: Registry) -> None:
    registry.register()
    registry.clusters.delete("acme-prod", "vectors-prod")

    with pytest.raises(RefusedError) as refused:
        registry.keys.delete("acme-prod", KEY_ID)

    assert (refused.value.status, refused.value.title) == (409, "KMS key is in use")
    assert refused.value.in_the_way == ("backup 2026-11-22",)


def test_a_key_with_clusters_and_backups_names_both_and_not_more_than_can_be_read(registry: Registry) -> None:
    for number in range(BACKUPS_NAMED + 5):
        registry.register(backup_id=f"b{number:03d}")

    with pytest.raises(RefusedError) as refused:
        registry.keys.delete("acme-prod", KEY_ID)

    assert refused.value.in_the_way[:2] == ("cluster vectors-prod", "backup b000")
    assert len(refused.value.in_the_way) == 1 + BACKUPS_NAMED


def test_a_backup_that_is_registered_while_its_key_is_deleted_wins_or_is_refused(registry: Registry) -> None:
    registry.clusters.delete("acme-prod", "vectors-prod")
    registry.store.put(cluster(key_id="another"))
    registry.store.before_commit = lambda: assert_made(registry.register())

    with pytest.raises(RefusedError):
        registry.keys.delete("acme-prod", KEY_ID)
    assert registry.key().backups == {"eu-west-1": 1}


def test_a_project_with_backups_stays_and_lists_them(registry: Registry) -> None:
    registry.register()
    with pytest.raises(RefusedError) as refused:
        registry.projects.delete("acme-prod")
    assert refused.value.in_the_way == (f"key {KEY_ID}", "cluster vectors-prod", "backup 2026-11-22")


def test_a_backup_outlives_its_cluster_and_stays_restorable(registry: Registry) -> None:
    registry.register(region="us-west-2")
    registry.clusters.delete("acme-prod", "vectors-prod")
    registry.checker.restore = RestoreAnswer(verdict=verdict())

    assert registry.backups.check_restore("acme-prod", "2026-11-22", "us-west-2").restorable


def test_the_last_backup_lets_its_key_go(registry: Registry) -> None:
    registry.register()
    registry.clusters.delete("acme-prod", "vectors-prod")
    registry.backups.delete("acme-prod", "2026-11-22")

    assert registry.key().backups == {}
    registry.keys.delete("acme-prod", KEY_ID)
    with pytest.raises(NotFoundError):
        registry.backups.delete("acme-prod", "2026-11-22")


def test_a_backup_of_another_project_is_not_found(registry: Registry) -> None:
    registry.store.put(project(project_id="other"), backup(project_id="other"))
    for act in (registry.backups.get, registry.backups.delete):
        with pytest.raises(NotFoundError):
            act("acme-prod", "old")
    with pytest.raises(NotFoundError):
        registry.backups.check_restore("acme-prod", "old", "us-west-2")
    assert registry.checker.restores == []


# --- restoring --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arn", "region", "path"),
    [
        (key().key_arn, "us-west-2", RestorePath.ITSELF),
        (key().key_arn, "eu-west-1", RestorePath.NONE),
        (MULTI_REGION_ARN, "us-west-2", RestorePath.ITSELF),
        (MULTI_REGION_ARN, "eu-west-1", RestorePath.RELATED_KEY),
    ],
)
def test_only_a_multi_region_key_can_open_elsewhere(arn: str, region: str, path: RestorePath) -> None:
    assert restore_path(key(key_arn=arn), region) is path


@pytest.mark.parametrize("region", ["us-west-2", "eu-west-1"])
def test_a_restore_that_would_work_names_the_key_that_opens(multi_region: Registry, region: str) -> None:
    multi_region.checker.restore = RestoreAnswer(verdict=verdict())

    found = multi_region.backups.check_restore("acme-prod", "mine", region)

    assert (found.restorable, found.with_key_id) == (True, f"{region}.{MRK}")
    assert (found.reason, found.remediation) == (None, None)
    assert multi_region.checker.restores == [("acme-prod", MULTI_REGION_ID, region)]


def test_a_single_region_key_restores_nothing_elsewhere_and_aws_is_not_asked(registry: Registry) -> None:
    registry.register()

    found = registry.backups.check_restore("acme-prod", "2026-11-22", "eu-west-1")

    assert (found.restorable, found.with_key_id) == (False, None)
    assert found.reason is not None
    assert "single-Region key" in found.reason
    assert found.remediation is not None
    assert "Register a key of eu-west-1" in found.remediation.summary
    assert registry.checker.restores == []


def test_without_a_replica_the_answer_is_the_command_that_makes_one(multi_region: Registry) -> None:
    multi_region.checker.restore = RestoreAnswer(verdict=None)

    found = multi_region.backups.check_restore("acme-prod", "mine", "us-east-1")

    assert not found.restorable
    assert found.remediation is not None
    assert found.remediation.commands == (
        f"aws kms replicate-key --region us-west-2 --key-id {MULTI_REGION_ARN} --replica-region us-east-1",
    )


@pytest.mark.parametrize("cause", Cause)
def test_an_unhealthy_key_does_not_restore_and_no_answer_is_asked_again(registry: Registry, cause: Cause) -> None:
    registry.register()
    registry.checker.restore = RestoreAnswer(verdict=verdict(cause))

    if OUTCOME_OF_CAUSE[cause] is Outcome.UNHEALTHY:
        found = registry.backups.check_restore("acme-prod", "2026-11-22", "us-west-2")
        assert not found.restorable
        assert found.reason == f"The key does not work: {cause}."
        assert found.remediation is not None
    else:
        with pytest.raises(RefusedError) as refused:
            registry.backups.check_restore("acme-prod", "2026-11-22", "us-west-2")
        assert (refused.value.status, refused.value.retry_after_seconds) == (503, 30)


def test_a_checker_that_does_not_answer_is_no_answer(registry: Registry) -> None:
    registry.register()
    with pytest.raises(CheckerUnavailableError):
        registry.backups.check_restore("acme-prod", "2026-11-22", "us-west-2")
