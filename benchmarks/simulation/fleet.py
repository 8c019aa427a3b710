"""A table in memory that holds a million keys, with an index of what is due, and counts what DynamoDB would bill.

A key is made when it is first read, and kept whole from then on: two gigabytes for a million.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast, override

from keyvigil.adapters.dynamodb_store import AGENDA_SHARDS, COUNTED_A_MINUTE
from keyvigil.domain.alerts import OutboxRow
from keyvigil.domain.incidents import Incident
from keyvigil.domain.keys import CloserLook, Health, Key, KeyStatus, Trigger, next_due
from keyvigil.domain.probe_plans import LEAN, LEAST_LATENESS, WHOLE_CHECK_EVERY
from keyvigil.domain.projects import Enforcement, Project
from keyvigil.domain.quotas import next_probe
from keyvigil.errors import ConflictError
from keyvigil.ports import DUE_KEYS_READ, DueKey, Entity, FleetCounts, Put, Write
from tests import examples
from tests.fakes import MemoryStore, Place, place

REGIONS = ("us-east-1", "us-west-2", "eu-central-1", "ap-southeast-2")
KEYS_A_PROJECT = 20
SHARDS = AGENDA_SHARDS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


def moment_of(number: int) -> datetime:
    return _EPOCH + number * _MILLISECOND


def key_id_of(number: int) -> str:
    return f"{REGIONS[number % len(REGIONS)]}.{number:032d}"


def project_id_of(number: int) -> str:
    return f"p{number // KEYS_A_PROJECT}"


def number_of(key_id: str) -> int:
    return int(key_id.rpartition(".")[2])


class FleetStore(MemoryStore):
    """The tests' store, with keys in columns, an index of what is due, and a count of what DynamoDB would bill."""

    def __init__(self, keys: int, *, interval_minutes: int, start: datetime, plan: str = "full") -> None:
        super().__init__()
        self.size = keys
        self.interval_minutes = interval_minutes
        self.plan = plan
        self.reads: Counter[str] = Counter()
        self.writes: Counter[str] = Counter()
        self.index_writes: Counter[tuple[str, int, int]] = Counter()
        """Writes to the index by list, shard and minute."""
        self.table_writes: Counter[str] = Counter()
        """Writes by partition key, of projects only: the others have one for each row."""
        self.now = start
        self.not_healthy: dict[int, Key] = {}
        self._of: dict[type, dict[Place, Entity]] = defaultdict(dict)
        self._unsent: dict[str, datetime] = {}
        self._open: set[tuple[str, str]] = set()
        self._project = examples.project(
            enforcement=Enforcement.OBSERVE, check_interval_minutes=interval_minutes, probe_plan=plan
        )
        self._key = examples.key()
        self._first, self._span = milliseconds(start), interval_minutes * 60_000
        self._keys: list[Key | None] = [None] * keys
        # Each key in its own minute, as it is after the first interval.
        self._due = array(
            "q",
            (
                milliseconds(next_due(project_id_of(number), key_id_of(number), Health(), interval_minutes, start))
                for number in range(keys)
            ),
        )
        self._buckets: dict[int, array[int]] = {}
        for number, due in enumerate(self._due):
            self._bucket(number, due)

    def _bucket(self, number: int, due: int) -> None:
        bucket = self._buckets.get(due // 60_000)
        if bucket is None:
            bucket = self._buckets[due // 60_000] = array("q")
        bucket.append(number)

    def _at(self, number: int) -> Key:
        """A key as it stands; one that nobody read yet was probed an interval before it is due."""
        key = self._keys[number]
        return key if key is not None else self._made(number)

    def _made(self, number: int) -> Key:
        region = REGIONS[number % len(REGIONS)]
        account = f"{number // KEYS_A_PROJECT:012d}"
        probed = moment_of(self._due[number] - self._span)
        looked = CloserLook(looked_at=moment_of(self._first - (number * 104_729) % 3_300_000))
        key = self._keys[number] = replace(
            self._key,
            project_id=project_id_of(number),
            key_id=key_id_of(number),
            key_arn=f"arn:aws:kms:{region}:{account}:key/{number:032d}",
            role_arn=f"arn:aws:iam::{account}:role/keyvigil-customer",
            region=region,
            account_id=account,
            health=Health(healthy_streak=3, counted_at=probed),
            facts=replace(self._key.facts, closer=looked),
            verdict=replace(self._key.verdict, latency_ms=60, probed_at=probed),
            last_probed_at=probed,
            last_trigger=Trigger.SCHEDULE,
            due_at=moment_of(self._due[number]),
            lean_until=self._whole_again(number) if self.plan == LEAN else None,
            version=1,
        )
        return key

    def _whole_again(self, number: int) -> datetime:
        """When a key's next whole check is: the keys had their last one in turn, at an interval each."""
        every = timedelta(minutes=self.interval_minutes)
        ago = every * (number % max(1, WHOLE_CHECK_EVERY // every) + 1)
        return moment_of(self._due[number]) - ago + WHOLE_CHECK_EVERY - every + LEAST_LATENESS

    def _keep(self, key: Key) -> None:
        number = number_of(key.key_id)
        due = milliseconds(key.due_at)
        if due != self._due[number]:
            self._due[number] = due
            self._bucket(number, due)
        self._keys[number] = key
        if key.health.status is KeyStatus.HEALTHY and key.health.unknown_since is None:
            self.not_healthy.pop(number, None)
        else:
            self.not_healthy[number] = key

    @override
    def all[T](self, kind: type[T]) -> list[T]:
        return list(cast("dict[Place, T]", self._of[kind]).values())

    @override
    def put(self, *entities: Entity) -> None:
        for entity in entities:
            self._write(replace(entity, version=1))

    @override
    def commit(self, writes: Sequence[Write]) -> None:
        for write in writes:
            entity = write.entity
            if isinstance(entity, Key):
                version = self._at(number_of(entity.key_id)).version
            else:
                found = self.items.get(place(entity))
                version = found.version if found is not None else 0
            if version != entity.version:
                message = f"{place(entity)} is at version {version}, not {entity.version}"
                raise ConflictError(message)
        for write in writes:
            assert isinstance(write, Put)  # noqa: S101  nothing is removed in an hour without registrations
            self.writes[f"{type(write.entity).__name__}{' in a transaction' if len(writes) > 1 else ''}"] += 1
            self._write(replace(write.entity, version=write.entity.version + 1))

    def _write(self, entity: Entity) -> None:
        if isinstance(entity, Key):
            listed = f"{entity.health.status}{' unknown' if entity.health.unknown_since else ''}"
            number = number_of(entity.key_id)
            self.index_writes[listed, number % SHARDS, milliseconds(self.now) // 60_000] += 1
            self.table_writes[entity.project_id] += 1
            self._keep(entity)
            return
        self.items[place(entity)] = entity
        self._of[type(entity)][place(entity)] = entity
        if isinstance(entity, OutboxRow):
            if entity.sent_at is None:
                self._unsent[entity.row_id] = entity.created_at
            else:
                self._unsent.pop(entity.row_id, None)
        if isinstance(entity, Incident):
            where = (entity.project_id, entity.incident_id)
            (self._open.add if entity.is_open else self._open.discard)(where)

    @override
    def project(self, project_id: str) -> Project | None:
        self.reads["Project"] += 1
        return replace(self._project, project_id=project_id)

    @override
    def key(self, project_id: str, key_id: str) -> Key | None:
        self.reads["Key"] += 1
        return self._at(number_of(key_id))

    @override
    def due_keys(self, until: datetime, most: int = DUE_KEYS_READ) -> list[DueKey]:
        last = milliseconds(until)
        due: list[tuple[int, int]] = []
        for minute in [each for each in self._buckets if each <= last // 60_000]:
            # What has moved on since is left behind by the way.
            still = array("q", (each for each in set(self._buckets[minute]) if self._due[each] // 60_000 == minute))
            self._buckets[minute] = still
            due += [(self._due[number], number) for number in still if self._due[number] <= last]
            if not still:
                del self._buckets[minute]
        due.sort()
        self.reads["entries of the index"] += len(due)
        found = []
        for at, number in due:
            key = self._at(number)
            unknown = key.health.unknown_since is not None
            moment = moment_of(at)
            found.append(DueKey(key.project_id, key.key_id, moment, key.account_id, next_probe(key), unknown))
        return found

    @override
    def unsent_rows(self, before: datetime) -> list[str]:
        return [row for row, made in self._unsent.items() if made <= before]

    @override
    def oldest_unsent_row(self) -> datetime | None:
        return min(self._unsent.values(), default=None)

    @override
    def open_incidents(self) -> list[tuple[str, str]]:
        return sorted(self._open)

    @override
    def count_keys(self, region: str) -> int:
        self.reads["entries of the index"] += self.size
        return len(range(REGIONS.index(region), self.size, len(REGIONS)))

    @override
    def count_fleet(self) -> FleetCounts:
        self.reads["entries of the index"] += min(self.size, COUNTED_A_MINUTE + self.size // SHARDS)
        statuses = Counter(key.health.status for key in self.not_healthy.values())
        statuses[KeyStatus.HEALTHY] += self.size - len(self.not_healthy)
        unknown = sum(key.health.unknown_since is not None for key in self.not_healthy.values())
        return FleetCounts(
            keys={status: statuses[status] for status in KeyStatus}, unknown=unknown, open_incidents=len(self._open)
        )
