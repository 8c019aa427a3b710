"""The registry's backups: what keeps a key in the registry, and whether it could be restored."""

from collections import Counter
from dataclasses import dataclass, replace

from keyvigil.domain.arns import related_key_arn
from keyvigil.domain.backups import (
    MAX_BACKUPS_PER_KEY,
    MAX_REGIONS_PER_KEY,
    Backup,
    Restorability,
    RestorePath,
    restore_path,
)
from keyvigil.domain.dangers import missing_in
from keyvigil.domain.keys import Key
from keyvigil.domain.verdicts import Outcome
from keyvigil.errors import AlreadyExistsError, NotFoundError, RefusedError
from keyvigil.ports import Clock, KeyChecker, Put, Remove, Store, Write
from keyvigil.use_cases.registry import refuse_verdict
from keyvigil.use_cases.retrying import until_committed


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBackup:
    """A backup as its owner asks for it."""

    backup_id: str
    cluster_id: str
    key_id: str
    region: str


class Backups:
    """Registers and removes backups, and asks `check_keys` whether they could be restored."""

    def __init__(self, store: Store, checker: KeyChecker, clock: Clock) -> None:
        """Keep the ports."""
        self._store = store
        self._checker = checker
        self._clock = clock

    def get(self, project_id: str, backup_id: str) -> Backup:
        """Read a backup.

        Raises:
            NotFoundError: there is none.
        """
        backup = self._store.backup(project_id, backup_id)
        if backup is None:
            message = f"backup {backup_id} is not registered in project {project_id}"
            raise NotFoundError(message)
        return backup

    def register(self, project_id: str, new: NewBackup) -> Backup:
        """Register a backup, counted on its key in the same transaction.

        Its key need not be its cluster's: a copy may be encrypted under another. Nor need it be restorable yet: that
        it is not is what `key.replica_missing` tells.

        Raises:
            NotFoundError: there is no such project.
            RefusedError: its key or its cluster is not registered, or the key has too many backups.
            AlreadyExistsError: it is registered already.
        """
        return until_committed(self._register, project_id, new)

    def _register(self, project_id: str, new: NewBackup) -> Backup:
        project = self._store.project(project_id)
        if project is None or project.deleting:
            message = f"project {project_id} does not exist"
            raise NotFoundError(message)
        if self._store.backup(project_id, new.backup_id) is not None:
            message = f"backup {new.backup_id} is registered already"
            raise AlreadyExistsError(message)
        key, cluster = self._store.key(project_id, new.key_id), self._store.cluster(project_id, new.cluster_id)
        if key is None:
            raise RefusedError(
                409, "KMS key is not registered", f"Register key {new.key_id} in project {project_id} first."
            )
        if cluster is None or cluster.deleted_at is not None:
            raise RefusedError(
                409, "Cluster is not registered", f"Register cluster {new.cluster_id} in project {project_id} first."
            )
        if sum(key.backups.values()) >= MAX_BACKUPS_PER_KEY:
            raise RefusedError(
                409,
                "Too many backups under KMS key",
                f"At most {MAX_BACKUPS_PER_KEY} backups are registered under one key. Delete those that need not be "
                "restorable any more.",
            )
        if new.region not in key.backups and len(key.backups) >= MAX_REGIONS_PER_KEY:
            raise RefusedError(
                409,
                "Too many Regions under KMS key",
                f"The backups under one key are to be restorable in at most {MAX_REGIONS_PER_KEY} Regions.",
            )
        backup = Backup(
            project_id=project_id,
            backup_id=new.backup_id,
            cluster_id=new.cluster_id,
            key_id=new.key_id,
            region=new.region,
            created_at=self._clock.now(),
        )
        self._store.commit([Put(backup), Put(_counted(key, new.region, 1))])
        return replace(backup, version=1)

    def delete(self, project_id: str, backup_id: str) -> None:
        """Forget a backup, which lets its key go if it was the last thing that needed it.

        Raises:
            NotFoundError: there is none.
        """

        def remove() -> None:
            backup = self.get(project_id, backup_id)
            key = self._store.key(project_id, backup.key_id)
            writes: list[Write] = [Remove(backup)]
            if key is not None:
                writes.append(Put(_counted(key, backup.region, -1)))
            self._store.commit(writes)

        until_committed(remove)

    def check_restore(self, project_id: str, backup_id: str, region: str) -> Restorability:
        """Try whether a restore in a Region would work now, by decrypting the registration ciphertext there.

        Raises:
            NotFoundError: there is no such backup.
            RefusedError: AWS gave no answer, so that nothing is known.
            CheckerUnavailableError: `check_keys` gave none.
        """
        backup = self.get(project_id, backup_id)
        key = self._store.key(project_id, backup.key_id)
        if key is None:
            message = f"key {backup.key_id} is not registered in project {project_id}"
            raise NotFoundError(message)
        if restore_path(key, region) is RestorePath.NONE:
            return _not_there(key, region)
        verdict = self._checker.check_restore(project_id, key.key_id, region).verdict
        if verdict is None:
            return _not_there(key, region)
        if verdict.outcome is Outcome.UNKNOWN:
            raise refuse_verdict(verdict, key.role_arn)
        if verdict.outcome is Outcome.UNHEALTHY:
            return Restorability(restorable=False, reason=verdict.message, remediation=verdict.remediation)
        arn = related_key_arn(key.key_arn, region)
        return Restorability(restorable=True, with_key_id=f"{region}.{arn.rsplit('/', 1)[-1]}")


def _not_there(key: Key, region: str) -> Restorability:
    reason, remediation = missing_in(key, region)
    return Restorability(restorable=False, reason=reason, remediation=remediation)


def _counted(key: Key, region: str, more: int) -> Key:
    """The key with so many more backups in a Region; a Region without any is not kept."""
    counts = Counter(key.backups)
    counts[region] += more
    return replace(key, backups=dict(+counts))
