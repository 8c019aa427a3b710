import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import override

import pytest
from rich.console import Console

from keyvigil_cli.api_client import ApiProblemError, JsonObject
from keyvigil_cli.aws_account import FUNCTIONS, LAYERS
from keyvigil_cli.teller import Teller
from keyvigil_cli.uninstall import (
    Account,
    Deletion,
    Leftover,
    LockedClustersError,
    Registry,
    Stack,
    StackNotDeletedError,
    Uninstallation,
)
from keyvigil_cli.waiting import DeadlineExceededError

ROOT = Path(__file__).parents[3]


IDENTIFIERS = {
    "clusters": "cluster_id",
    "keys": "key_id",
    "backups": "backup_id",
    "subscriptions": "subscription_id",
}


class FakeRegistry(Registry):
    """Projects with their collections, and everything that was asked of them in order."""

    def __init__(self, *projects: str) -> None:
        self.projects: dict[str, JsonObject] = {
            name: {"project_id": name, "enforcement": "enforce", **{each: {} for each in IDENTIFIERS}}
            for name in projects
        }
        self.executions_go_on, self.looks_at_incidents = 0, 0
        self.asked: list[str] = []
        self.broken_keys: set[str] = set()
        self.unknown_list: str | None = None
        self.on_observe: Callable[[], None] = lambda: None

    def put(self, project: str, collection: str, identifier: str, **fields: str) -> None:
        self.projects[project][collection][identifier] = {IDENTIFIERS[collection]: identifier, **fields}

    @override
    def items(self, *segments: str, **query: str) -> Iterator[JsonObject]:
        if segments == ("projects",):
            return iter(list(self.projects.values()))
        _, project, collection = segments
        if collection == self.unknown_list:
            raise ApiProblemError(404, {"title": "Not found"})
        if collection == "incidents":
            self.looks_at_incidents += 1
            under_way = self.looks_at_incidents <= self.executions_go_on
            return iter([{"incident_id": "01JINCIDENT", "status": "UNLOCKING" if under_way else "OBSERVED"}])
        return iter(list(self.projects[project][collection].values()))

    @override
    def patch(self, *segments: str, body: JsonObject) -> JsonObject:
        self.asked.append(f"observe {segments[1]}")
        self.projects[segments[1]].update(body)
        self.on_observe()
        return {}

    @override
    def delete(self, *segments: str) -> JsonObject:
        self.asked.append(f"delete {'/'.join(segments[1:])}")
        if segments[-1] in self.broken_keys:
            raise ApiProblemError(409, {"title": "KMS key has an open incident"})
        if len(segments) == 2:
            del self.projects[segments[1]]
        else:
            del self.projects[segments[1]][segments[2]][segments[3]]
        return {}


class FakeAccount(Account):
    """An account with a stack, whose deletion ends at once."""

    def __init__(self, registry: Registry | None) -> None:
        self.found: Stack | None = Stack("stack-id", "UPDATE_COMPLETE", registry)
        self.ending = "DELETE_COMPLETE"
        self.deleted: list[str] = []
        self.left: list[Leftover] = []
        self.removed: list[str] = []

    @override
    def stack(self) -> Stack | None:
        return self.found

    @override
    def delete_stack(self, stack_id: str) -> None:
        self.deleted.append(stack_id)

    @override
    def deletion(self, stack_id: str) -> Deletion:
        return Deletion(self.ending, 3, 4, "Bucket is not empty")

    @override
    def leftovers(self) -> Sequence[Leftover]:
        return self.left

    @override
    def remove(self, leftover: Leftover) -> None:
        self.removed.append(leftover.name)


@pytest.fixture
def registry() -> FakeRegistry:
    registry = FakeRegistry("acme", "other")
    registry.put("acme", "keys", "key-1")
    registry.put("acme", "clusters", "vectors", status="ACTIVE")
    registry.put("acme", "backups", "nightly")
    registry.put("acme", "subscriptions", "sub-1")
    return registry


@pytest.fixture
def account(registry: FakeRegistry) -> FakeAccount:
    return FakeAccount(registry)


def uninstall(account: FakeAccount, *, release: bool = False, release_seconds: float = 0) -> str:
    told = io.StringIO()
    teller = Teller(Console(file=told, width=200))
    Uninstallation(account, teller, release_seconds=release_seconds).run("keyvigil", release=release)
    return told.getvalue()


@pytest.mark.parametrize("status", ["LOCKED", "LOCKING", "UNLOCKING", "LOCK_FAILED", "UNLOCK_FAILED"])
def test_a_cluster_that_is_or_may_be_locked_stops_it_before_anything_is_changed(
    account: FakeAccount, registry: FakeRegistry, status: str
) -> None:
    registry.put("other", "clusters", "reports", status=status)
    with pytest.raises(LockedClustersError, match=rf"other/reports \({status}\)"):
        uninstall(account)
    assert registry.asked == []
    assert account.deleted == []


def test_a_stack_with_an_execution_that_does_not_end_is_not_deleted(
    account: FakeAccount, registry: FakeRegistry
) -> None:
    registry.executions_go_on = 1000
    with pytest.raises(DeadlineExceededError, match="every lockout and recovery to end"):
        uninstall(account, release=True)
    assert account.deleted == []


def test_a_release_lets_projects_observe_and_waits_until_nothing_is_locked(
    account: FakeAccount, registry: FakeRegistry
) -> None:
    registry.put("acme", "clusters", "vectors", status="LOCKED")
    registry.on_observe = lambda: registry.put("acme", "clusters", "vectors", status="ACTIVE")
    uninstall(account, release=True)
    assert registry.asked[0] == "observe acme"
    assert account.deleted == ["stack-id"]


def test_a_release_that_does_not_happen_deletes_nothing(account: FakeAccount, registry: FakeRegistry) -> None:
    registry.put("acme", "clusters", "vectors", status="UNLOCK_FAILED")
    with pytest.raises(DeadlineExceededError, match=r"acme/vectors \(UNLOCK_FAILED\)"):
        uninstall(account, release=True)
    assert not [each for each in registry.asked if each.startswith("delete")]
    assert account.deleted == []


def test_clusters_and_backups_go_before_keys_and_projects_last_so_that_their_topics_go_with_them(
    account: FakeAccount, registry: FakeRegistry
) -> None:
    uninstall(account)
    assert registry.asked == [
        "observe acme",
        "observe other",
        "delete acme/clusters/vectors",
        "delete acme/backups/nightly",
        "delete acme/subscriptions/sub-1",
        "delete acme/keys/key-1",
        "delete acme",
        "delete other",
    ]


def test_a_stack_that_is_too_old_to_know_of_backups_goes_all_the_same(
    account: FakeAccount, registry: FakeRegistry
) -> None:
    registry.unknown_list = "backups"
    uninstall(account)
    assert "delete acme/keys/key-1" in registry.asked
    assert account.deleted == ["stack-id"]


def test_a_key_that_is_still_broken_does_not_stop_it(account: FakeAccount, registry: FakeRegistry) -> None:
    registry.broken_keys.add("key-1")
    told = uninstall(account)
    assert "1 keys with an open incident go with the table" in told
    assert "delete acme" not in registry.asked
    assert account.deleted == ["stack-id"]


def test_a_stack_that_could_not_be_deleted_is_an_error_with_cloudformations_reason(account: FakeAccount) -> None:
    account.ending = "DELETE_FAILED"
    with pytest.raises(StackNotDeletedError, match="Bucket is not empty"):
        uninstall(account)


def test_what_is_left_is_deleted_if_it_is_ours_and_named_in_any_case(account: FakeAccount) -> None:
    account.left = [Leftover("topic", "topic-1", is_ours=True), Leftover("bucket", "keyvigil-x", is_ours=False)]
    told = uninstall(account)
    assert account.removed == ["topic-1"]
    assert "topic topic-1: deleted" in told
    assert "bucket keyvigil-x: left alone" in told


def test_it_can_be_repeated_when_the_stack_is_gone_already(account: FakeAccount) -> None:
    account.found = None
    account.left = [Leftover("log group", "/aws/lambda/keyvigil-check-keys", is_ours=True)]
    assert "There is no stack keyvigil here" in uninstall(account)
    assert account.removed == ["/aws/lambda/keyvigil-check-keys"]


def test_it_is_taken_up_while_the_stack_is_being_deleted(account: FakeAccount) -> None:
    account.found = Stack("stack-id", "DELETE_IN_PROGRESS", None)
    uninstall(account)
    assert account.deleted == []


def test_the_names_that_are_looked_for_are_those_of_the_template() -> None:
    assert sorted(FUNCTIONS) == sorted(path.parent.name.replace("_", "-") for path in ROOT.glob("functions/*/app.py"))
    template = (ROOT / "template.yaml").read_text(encoding="utf-8")
    names = [line.split("${AWS::StackName}-")[1] for line in template.splitlines() if "LayerName:" in line]
    assert sorted(names) == sorted(LAYERS)
