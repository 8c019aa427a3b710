"""Removing KeyVigil: release what is locked, empty the registry, delete the stack, and look for what is left.

Each part can be repeated: an uninstallation that died half-way is taken up by running it again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console

from keyvigil_cli.api_client import ApiProblemError, JsonObject
from keyvigil_cli.errors import CliError
from keyvigil_cli.teller import Teller
from keyvigil_cli.waiting import wait_until

# A release waits for the minute's reconciling, then for control planes, which may take half an hour each and are
# asked again if they fail.
RELEASE_SECONDS = 45 * 60.0

_HELD = frozenset({"LOCKING", "LOCKED", "UNLOCKING", "LOCK_FAILED", "UNLOCK_FAILED"})
_UNDER_WAY = {"LOCKING", "UNLOCKING"}
_BEFORE_KEYS = (("clusters", "cluster_id"), ("backups", "backup_id"), ("subscriptions", "subscription_id"))
_GONE = "DELETE_COMPLETE"
_DELETION_SECONDS = 30 * 60.0
_CONFLICT = 409
_NOT_FOUND = 404


class LockedClustersError(CliError):
    """Clusters are locked, and nobody would unlock them once KeyVigil is gone."""


class StackNotDeletedError(CliError):
    """CloudFormation could not delete the stack."""


class Registry(Protocol):
    """What of the API is needed; `ApiClient` has it."""

    def items(self, *segments: str, **query: str) -> Iterator[JsonObject]:
        """Go through a list."""

    def patch(self, *segments: str, body: JsonObject) -> JsonObject:
        """Change something."""

    def delete(self, *segments: str) -> JsonObject:
        """Remove something."""


@dataclass(frozen=True)
class Stack:
    """A stack as CloudFormation knows it. `registry` is None when its API is not there (any more)."""

    stack_id: str
    status: str
    registry: Registry | None


@dataclass(frozen=True)
class Deletion:
    """How far a stack's deletion is; `reason` says why it failed."""

    status: str
    deleted: int
    resources: int
    reason: str


@dataclass(frozen=True)
class Leftover:
    """Something that bears the stack's name. What is not surely ours is named and left alone."""

    kind: str
    name: str
    is_ours: bool


class Account(Protocol):
    """The operator's account, in the Region of the stack."""

    def stack(self) -> Stack | None:
        """Find the stack; None if there is none."""

    def delete_stack(self, stack_id: str) -> None:
        """Ask CloudFormation to delete it."""

    def deletion(self, stack_id: str) -> Deletion:
        """See how far that is."""

    def leftovers(self) -> Sequence[Leftover]:
        """Find what bears the stack's name still."""

    def remove(self, leftover: Leftover) -> None:
        """Delete one of them."""


@dataclass(frozen=True)
class HeldCluster:
    """A cluster that is locked, or may be."""

    project_id: str
    cluster_id: str
    status: str

    def __str__(self) -> str:
        """Name it for a person."""
        return f"{self.project_id}/{self.cluster_id} ({self.status})"


class Uninstallation:
    """Removes one stack and everything that it made."""

    def __init__(self, account: Account, teller: Teller, *, release_seconds: float = RELEASE_SECONDS) -> None:
        """Take the account, whom to tell, and how long a release may take."""
        self._account = account
        self._teller = teller
        self._release_seconds = release_seconds

    def run(self, stack_name: str, *, release: bool) -> None:
        """Remove it all.

        Raises:
            LockedClustersError: clusters are locked, and `release` does not say to unlock them.
            DeadlineExceededError: they were not unlocked, or the stack not deleted, in time.
            StackNotDeletedError: the deletion failed.
        """
        stack = self._account.stack()
        if stack is None:
            self._teller.say(f"There is no stack {stack_name} here; looking for what it may have left.")
        else:
            if stack.registry is not None:
                self._refuse_locked(stack.registry, release=release)
                self._release(stack.registry)
                self._empty(stack.registry)
            self._delete(stack)
        self._tidy_up()

    def _refuse_locked(self, registry: Registry, *, release: bool) -> None:
        held = _held(registry)
        if held and not release:
            names = "\n".join(f"  {cluster}" for cluster in held)
            message = (
                f"{len(held)} clusters are locked, or may be:\n{names}\n"
                "Nothing was changed. They come back by themselves when their keys work again; to unlock them now, "
                "whatever their keys, run this again with --release (make uninstall RELEASE=1)."
            )
            raise LockedClustersError(message)

    def _release(self, registry: Registry) -> None:
        """Let projects only observe, which unlocks, and keeps new lockouts from beginning while projects go."""
        with self._teller.step("projects are set to observe, and nothing is locked") as step:
            projects = list(registry.items("projects"))
            for project in projects:
                if project["enforcement"] != "observe":
                    registry.patch("projects", project["project_id"], body={"enforcement": "observe"})
            wait_until(
                "every cluster to be unlocked",
                lambda: self._look(registry),
                lambda held: not held,
                within=self._release_seconds,
                every=2.0,
                show=_listed,
            )
            wait_until(
                "every lockout and recovery to end",
                lambda: _under_way(registry),
                lambda incidents: not incidents,
                within=self._release_seconds,
                every=2.0,
                show=lambda incidents: ", ".join(incidents) or "none",
            )
            step.outcome = f"{len(projects)} projects"

    def _look(self, registry: Registry) -> list[HeldCluster]:
        held = _held(registry)
        self._teller.news(f"{len(held)} to go: {_listed(held)}" if held else "")
        return held

    def _empty(self, registry: Registry) -> None:
        """Delete what is registered, so that projects' topics go with their projects.

        A key that is still broken has an open incident, and the API does not forget such a key. Nothing depends on
        it any more: its record goes with the table, its project's topic when tidying up.
        """
        with self._teller.step("clusters, backups, keys, subscriptions and projects are deleted") as step:
            projects, broken = list(registry.items("projects")), 0
            for project in projects:
                name = project["project_id"]
                self._teller.news(name)
                for collection, identifier in _BEFORE_KEYS:
                    for item in _items(registry, name, collection):
                        _delete(registry, "projects", name, collection, item[identifier])
                deleted = [
                    _delete(registry, "projects", name, "keys", key["key_id"])
                    for key in list(registry.items("projects", name, "keys"))
                ]
                broken += deleted.count(False)
                if all(deleted):
                    _delete(registry, "projects", name)
            left = f"; {broken} keys with an open incident go with the table" if broken else ""
            step.outcome = f"{len(projects)} projects{left}"

    def _delete(self, stack: Stack) -> None:
        with self._teller.step("CloudFormation deletes the stack") as step:
            if stack.status != "DELETE_IN_PROGRESS":
                self._account.delete_stack(stack.stack_id)
            ended = wait_until(
                "the stack to be deleted",
                lambda: self._look_at_deletion(stack.stack_id),
                lambda seen: seen.status in {_GONE, "DELETE_FAILED"},
                within=_DELETION_SECONDS,
                every=1.0,
            )
            if ended.status != _GONE:
                message = f"the stack could not be deleted: {ended.reason or ended.status}"
                raise StackNotDeletedError(message)
            step.outcome = ended.status

    def _look_at_deletion(self, stack_id: str) -> Deletion:
        seen = self._account.deletion(stack_id)
        self._teller.news(f"{seen.deleted} of {seen.resources} resources")
        return seen

    def _tidy_up(self) -> None:
        with self._teller.step("what may be left is looked for") as step:
            leftovers = self._account.leftovers()
            removed = [each for each in leftovers if each.is_ours]
            for each in removed:
                self._account.remove(each)
            step.outcome = f"{len(removed)} things deleted" if removed else "nothing of ours"
        for each in leftovers:
            fate = "deleted" if each.is_ours else "left alone: nothing says that it is this stack's"
            self._teller.say(f"    {each.kind} {each.name}: {fate}")


def _held(registry: Registry) -> list[HeldCluster]:
    return [
        HeldCluster(project["project_id"], cluster["cluster_id"], cluster["status"])
        for project in registry.items("projects")
        for cluster in registry.items("projects", project["project_id"], "clusters")
        if cluster["status"] in _HELD
    ]


def _under_way(registry: Registry) -> list[str]:
    """Incidents that an execution is locking or unlocking for: it would go on after its functions are gone."""
    return [
        incident["incident_id"]
        for project in registry.items("projects")
        for incident in registry.items("projects", project["project_id"], "incidents")
        if incident["status"] in _UNDER_WAY
    ]


def _listed(held: Sequence[HeldCluster]) -> str:
    return ", ".join(map(str, held)) or "none"


def _items(registry: Registry, project_id: str, collection: str) -> list[JsonObject]:
    """List what a project has; nothing if its stack is older than this and knows no such list."""
    try:
        return list(registry.items("projects", project_id, collection))
    except ApiProblemError as error:
        if error.status != _NOT_FOUND:
            raise
        return []


def _delete(registry: Registry, *segments: str) -> bool:
    """Delete one thing; say whether it is gone, which it also is if it was not there."""
    try:
        registry.delete(*segments)
    except ApiProblemError as error:
        if error.status == _CONFLICT and segments[-2] == "keys":
            return False
        if error.status != _NOT_FOUND:
            raise
    return True


def run(account: Account, stack_name: str, *, release: bool, release_seconds: float, output: Console) -> None:
    """Remove a stack, and tell a person how it goes."""
    teller = Teller(output)
    teller.chapter(f"Stack {stack_name} goes")
    Uninstallation(account, teller, release_seconds=release_seconds).run(stack_name, release=release)
    teller.say(f"\nKeyVigil is gone, in {teller.seconds:.0f} s.")
