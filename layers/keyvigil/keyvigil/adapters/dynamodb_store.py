"""The table, through pynamodb. One table, one index; `docs/decisions/0002-one-table.md` shows the keys.

Every item carries its entity as JSON in `body`, and beside it the attributes that conditions, filters and the
index need. The one index, `agenda`, is sparse: it lists what a sweep must look at (keys that are due, outbox rows
not sent, incidents that are open, lock requests not answered), oldest first, over a fixed number of shards.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any, cast, override

from pynamodb.attributes import Attribute, BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.connection import Connection
from pynamodb.connection import base as pynamodb_connection
from pynamodb.constants import NUMBER
from pynamodb.exceptions import DeleteError, DoesNotExist, PutError, TransactWriteError
from pynamodb.expressions.condition import Condition
from pynamodb.indexes import GlobalSecondaryIndex, KeysOnlyProjection
from pynamodb.models import Model
from pynamodb.transactions import TransactWrite

from keyvigil.adapters.agenda_numbers import account_of, key_number, milliseconds, moment_of, probe_of
from keyvigil.adapters.aws import CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS, own_session
from keyvigil.adapters.item_schemas import FIRST, newest, upgraded
from keyvigil.adapters.plain_data import from_stored, to_plain
from keyvigil.domain.alerts import OutboxRow
from keyvigil.domain.attribution import ActorSearch, EventHints
from keyvigil.domain.backups import Backup
from keyvigil.domain.brake import Brake, LockoutTally
from keyvigil.domain.canaries import Canary
from keyvigil.domain.clusters import Cluster, ClusterStatus
from keyvigil.domain.incidents import TIMELINE_SHOWN, Incident, TimelineEntry
from keyvigil.domain.key_events import KeyPointer
from keyvigil.domain.keys import Key, KeyStatus, RoleClaim
from keyvigil.domain.out_of_turn import OutOfTurn
from keyvigil.domain.projects import Project, Subscription
from keyvigil.domain.quiet import Ledger
from keyvigil.domain.shut_clusters import SHUT
from keyvigil.domain.silences import Silences
from keyvigil.domain.staleness import FleetTold
from keyvigil.errors import ConflictError, DamagedItemError, RefusedError
from keyvigil.ports import (
    DUE_KEYS_READ,
    DueKey,
    Entity,
    FleetCounts,
    FleetTally,
    ListTally,
    Page,
    Put,
    Remove,
    RoleAudit,
    RowAside,
    Store,
    SweepRecord,
    Write,
)

# pynamodb makes a botocore session of its own wherever it connects, and takes no other: this spares it from reading
# again what the prober's has read. It is a name that pynamodb imports, so the type checker does not know it there.
pynamodb_connection.get_session = own_session  # type: ignore[attr-defined]

AGENDA_SHARDS = 8
"""Partitions of each agenda list: a partition of an index takes 1,000 writes a second, and one write is one probe."""

LISTED = 20_000
"""How many entries of a list one reading has, at most. One takes 200 bytes, and a sweep has less than a minute."""

COUNTED_A_MINUTE = 100_000
"""How many entries of a list a minute counts: counting reads them, 200 bytes each. What is shorter is counted whole."""

READERS = 8
"""How many lists a sweep reads at the same time."""

_FEW = 100
"""Of few keys no shard need have its share."""

KEPT_AFTER_END = timedelta(days=400)
"""How long a resolved incident and its timeline stay: a year's audit looks back a year and a month."""

PAGE_BYTES = 1024 * 1024
"""How much of what is stored one page of a list may hold: a function's answer has at most 6 MB, and quoting a text
twice more than doubles it. https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
"""

OUTBOX_KEPT = timedelta(days=14)
SWEEPS_KEPT = timedelta(days=1)
BRAKE_KEPT = timedelta(days=1)
OUT_OF_TURN_KEPT = timedelta(days=1)
_TRANSACTION_LIMIT = 100
_TOMBSTONES_AT_ONCE = 500
_REFUSED = {"ConditionalCheckFailedException", "TransactionCanceledException", "TransactionConflictException"}
_RACE_REASONS = {"ConditionalCheckFailed", "TransactionConflict"}
# Keys are listed by their status, so that a sweep can count them without reading them. Most are HEALTHY and known.
_DUE = {
    (status, unknown): "due"
    + ("" if status is KeyStatus.HEALTHY else f"-{status.lower()}")
    + ("-unknown" if unknown else "")
    for status in KeyStatus
    for unknown in (False, True)
}
_LONGEST_TOKEN_PART = 128
_LONGEST_TOKEN_NUMBER = 15


class AgendaMoment(Attribute[Decimal]):
    """When an item is due, in milliseconds; what a key's has as its fraction is told in `agenda_numbers`.

    What a number of DynamoDB holds, 38 digits, is enough for that; a float is not.
    """

    attr_type = NUMBER

    def serialize(self, value: Any) -> str:
        """As DynamoDB writes it."""
        return str(value)

    def deserialize(self, value: Any) -> Decimal:
        """With every digit."""
        return Decimal(value)


class AgendaIndex(GlobalSecondaryIndex[Any]):
    """What a sweep must look at, oldest first."""

    class Meta:
        """Keys only: what is due is read from the table."""

        index_name = "agenda"
        projection = KeysOnlyProjection()

    agenda_pk = UnicodeAttribute(hash_key=True)
    agenda_at = AgendaMoment(range_key=True)


class Item(Model):
    """One item of the table."""

    class Meta:
        """Time-outs in seconds; `bind` adds the table's name."""

        table_name = "unbound"
        connect_timeout_seconds = CONNECT_TIMEOUT_SECONDS
        read_timeout_seconds = READ_TIMEOUT_SECONDS
        max_retry_attempts = 2
        max_pool_connections = 20

    pk = UnicodeAttribute(hash_key=True)
    sk = UnicodeAttribute(range_key=True)
    kind = UnicodeAttribute()
    schema = NumberAttribute(null=True)
    version = NumberAttribute()
    body = UnicodeAttribute()
    key_id = UnicodeAttribute(null=True)
    fence = NumberAttribute(null=True)
    deleted = BooleanAttribute(null=True)
    agenda_pk = UnicodeAttribute(null=True)
    agenda_at = AgendaMoment(null=True)
    expires_at = NumberAttribute(null=True)
    aside = UnicodeAttribute(null=True)
    agenda = AgendaIndex()


def bind(table_name: str, region: str) -> type[Item]:
    """The item class of one table. Nothing is called."""
    meta = type("Meta", (Item.Meta,), {"table_name": table_name, "region": region})
    return cast("type[Item]", type("BoundItem", (Item,), {"Meta": meta, "agenda": AgendaIndex()}))


@dataclass(frozen=True, slots=True)
class _Place:
    pk: str
    sk: str


_CANARIES = "CANARIES"


def _project_place(project_id: str) -> _Place:
    return _Place(f"PROJECT#{project_id}", "PROJECT")


def _role_place(account_id: str, role_name: str) -> _Place:
    return _Place(f"ROLE#{account_id}", f"NAME#{role_name.lower()}")


_LOCKOUT_TALLY = _Place("FLEET", "LOCKOUT_TALLY")


_FLEET_TOLD = _Place("FLEET", "TOLD")


def _hints_place(project_id: str, key_id: str) -> _Place:
    # Partitions of their own: what receives events may write to these and to nothing else.
    return _Place(f"HINTS#{project_id}", f"KEY#{key_id}")


def _place_for_events(entity: KeyPointer | EventHints | ActorSearch) -> _Place:
    match entity:
        case KeyPointer():
            return _Place(f"POINTER#{entity.account_id}", f"{entity.resource}#{entity.project_id}#{entity.key_id}")
        case EventHints():
            return _hints_place(entity.project_id, entity.key_id)
        case ActorSearch():
            return _search_place(entity.project_id, entity.incident_id)


def _ledger_place(project_id: str | None, key_id: str | None) -> _Place:
    return _Place(f"QUIET#{project_id or ''}", f"KEY#{key_id or ''}")


def _out_of_turn_place(account_id: str, region: str) -> _Place:
    return _Place(f"QUOTAS#{account_id}", f"REGION#{region}")


def _silences_place(project_id: str) -> _Place:
    return _Place(f"PROJECT#{project_id}", "SILENCES")


def _search_place(project_id: str, incident_id: str) -> _Place:
    return _Place(f"PROJECT#{project_id}", f"SEARCH#{incident_id}")


def _place(entity: Entity) -> _Place:  # noqa: C901, PLR0912  one line a kind
    match entity:
        case Project():
            return _project_place(entity.project_id)
        case Key():
            return _Place(f"PROJECT#{entity.project_id}", f"KEY#{entity.key_id}")
        case RoleClaim():
            return _role_place(entity.account_id, entity.role_name)
        case KeyPointer() | EventHints() | ActorSearch():
            return _place_for_events(entity)
        case Cluster():
            return _Place(f"PROJECT#{entity.project_id}", f"CLUSTER#{entity.cluster_id}")
        case Backup():
            return _Place(f"PROJECT#{entity.project_id}", f"BACKUP#{entity.backup_id}")
        case Incident():
            return _Place(f"PROJECT#{entity.project_id}", f"INCIDENT#{entity.incident_id}")
        case Subscription():
            return _Place(f"PROJECT#{entity.project_id}", f"SUBSCRIPTION#{entity.subscription_id}")
        case TimelineEntry():
            return _Place(f"INCIDENT#{entity.incident_id}", f"AT#{entity.entry_id}")
        case OutboxRow():
            return _Place(f"OUTBOX#{entity.row_id}", "OUTBOX")
        case FleetTold():
            return _FLEET_TOLD
        case Brake():
            scope = (entity.region, entity.cause, entity.project_id)
            return _Place("FLEET", "#".join(("BRAKE", *(part or "*" for part in scope))))
        case LockoutTally():
            return _LOCKOUT_TALLY
        case Ledger():
            return _ledger_place(entity.project_id, entity.key_id)
        case Silences():
            return _silences_place(entity.project_id)
        case Canary():
            return _Place(_CANARIES, f"CANARY#{entity.canary_id}")
        case OutOfTurn():
            return _out_of_turn_place(entity.account_id, entity.region)


_KINDS: dict[type[Any], str] = {
    Project: "PROJECT",
    Key: "KEY",
    RoleClaim: "ROLE",
    KeyPointer: "POINTER",
    EventHints: "HINTS",
    ActorSearch: "SEARCH",
    Cluster: "CLUSTER",
    Backup: "BACKUP",
    Incident: "INCIDENT",
    Subscription: "SUBSCRIPTION",
    TimelineEntry: "TIMELINE",
    OutboxRow: "OUTBOX",
    FleetTold: "FLEET_TOLD",
    Brake: "BRAKE",
    LockoutTally: "LOCKOUT_TALLY",
    Ledger: "QUIET",
    Silences: "SILENCES",
    Canary: "CANARY",
    OutOfTurn: "OUT_OF_TURN",
}


_NOTES: dict[str, type[Any]] = {"LAST_SWEEP": SweepRecord, "ROLE_AUDIT": RoleAudit, "FLEET_TALLY": FleetTally}
"""What is kept about the fleet, by kind. It is no entity: it has no version, and the next one replaces it."""


def _agenda_at(entity: Entity, at: datetime) -> Decimal:
    return key_number(entity) if isinstance(entity, Key) else Decimal(milliseconds(at))


def _agenda(entity: Entity) -> tuple[str, datetime] | None:
    """The agenda list that an entity is on, and since or until when."""
    match entity:
        case Project():
            return "project", entity.created_at
        case Key():
            return _DUE[entity.health.status, entity.health.unknown_since is not None], entity.due_at
        case OutboxRow() if entity.sent_at is None:
            return "unsent", entity.created_at
        case Incident() if entity.is_open:
            return "open", entity.opened_at
        case Ledger() if entity.next_at is not None:
            return "quiet", entity.next_at
        case ActorSearch() if entity.done_at is None and entity.next_at is not None:
            return "search", entity.next_at
        case Cluster() if entity.respond_by is not None and entity.status in {
            ClusterStatus.LOCKING,
            ClusterStatus.UNLOCKING,
        }:
            return "unanswered", entity.respond_by
        case Cluster() if entity.deleted_at is None and entity.status in SHUT:
            return "shut", entity.status_changed_at
        case _:
            return None


def _expiry(entity: Entity) -> datetime | None:
    match entity:
        case Incident():
            return entity.resolved_at + KEPT_AFTER_END if entity.resolved_at else None
        case TimelineEntry():
            return entity.at + KEPT_AFTER_END
        case OutboxRow():
            # What is withheld may be told when its silence ends.
            kept = KEPT_AFTER_END if entity.withheld else OUTBOX_KEPT
            return entity.sent_at + kept if entity.sent_at else None
        case Ledger():
            over = [each.over_at for each in entity.problems.values() if each.over_at is not None]
            return max(over) + OUTBOX_KEPT if over and entity.next_at is None else None
        case EventHints():
            return entity.kept_until
        case OutOfTurn():
            return max(entity.taken_until.values()) + OUT_OF_TURN_KEPT if entity.taken_until else None
        case ActorSearch():
            return entity.done_at + OUTBOX_KEPT if entity.done_at else entity.opened_at + KEPT_AFTER_END
        case Brake():
            return entity.released_at + BRAKE_KEPT if entity.released_at else None
        case _:
            return None


def _shard(place: _Place) -> int:
    return int.from_bytes(hashlib.sha256(f"{place.pk}/{place.sk}".encode()).digest()[:4]) % AGENDA_SHARDS


class DynamoDbStore(Store):
    """The store on DynamoDB."""

    def __init__(self, table_name: str, region: str) -> None:
        """Name the table; nothing is called yet."""
        self._item = bind(table_name, region)
        self._region = region
        self._connection: Connection | None = None

    @override
    def commit(self, writes: Sequence[Write]) -> None:
        if len(writes) > _TRANSACTION_LIMIT:
            message = f"a transaction takes {_TRANSACTION_LIMIT} writes, not {len(writes)}"
            raise ValueError(message)
        try:
            match writes:
                case [Put(entity)]:
                    self._to_item(entity).save(condition=self._unchanged(entity, written=True))
                case [Remove(entity)]:
                    self._to_item(entity).delete(condition=self._unchanged(entity, written=False))
                case _:
                    self._transact(writes)
        except (PutError, DeleteError, TransactWriteError) as error:
            if _is_race(error):
                message = "an item changed since it was read"
                raise ConflictError(message) from error
            if isinstance(error, TransactWriteError):
                # Unlike the others it leaves the reason to its cause, and a log shows one line.
                message = f"{error.msg}: {error.cause}"
                raise TransactWriteError(message, error.cause) from error
            raise

    def _transact(self, writes: Sequence[Write]) -> None:
        if self._connection is None:
            self._connection = Connection(
                region=self._region,
                connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
                read_timeout_seconds=READ_TIMEOUT_SECONDS,
                max_retry_attempts=2,
                max_pool_connections=20,
            )
        with TransactWrite(connection=self._connection) as transaction:
            for write in writes:
                item = self._to_item(write.entity)
                match write:
                    case Put(entity):
                        transaction.save(item, condition=self._unchanged(entity, written=True))
                    case Remove(entity):
                        transaction.delete(item, condition=self._unchanged(entity, written=False))

    def _unchanged(self, entity: Entity, *, written: bool) -> Condition:
        if entity.version == 0:
            return self._item.pk.does_not_exist()
        condition: Condition = self._item.version == entity.version
        if isinstance(entity, Cluster):
            # Invariant 2: the table itself refuses a fence below the highest seen, and to forget one.
            condition &= self._item.fence <= entity.fence if written else self._item.fence == 0
        return condition

    def _to_item(self, entity: Entity) -> Item:
        place = _place(entity)
        agenda, expiry = _agenda(entity), _expiry(entity)
        return self._item(
            pk=place.pk,
            sk=place.sk,
            kind=_KINDS[type(entity)],
            schema=newest(_KINDS[type(entity)]),
            version=entity.version + 1,
            body=json.dumps(to_plain(replace(entity, version=0)), separators=(",", ":")),
            key_id=entity.key_id if isinstance(entity, Cluster | Incident | Backup) else None,
            fence=entity.fence if isinstance(entity, Cluster) else None,
            deleted=True if isinstance(entity, Cluster) and entity.deleted_at else None,
            agenda_pk=f"{agenda[0]}#{_shard(place)}" if agenda else None,
            agenda_at=_agenda_at(entity, agenda[1]) if agenda else None,
            expires_at=int(expiry.timestamp()) if expiry else None,
        )

    def _get[T: Entity](self, place: _Place, kind: type[T]) -> T | None:
        try:
            item = self._item.get(place.pk, place.sk, consistent_read=True)
        except DoesNotExist:
            return None
        return _entity(item, kind)

    def _page[T: Entity](
        self,
        kind: type[T],
        pk: str,
        prefix: str,
        limit: int,
        token: str | None,
        *,
        newest_first: bool = False,
    ) -> Page[T]:
        start = None
        if token is not None:
            start = {"pk": {"S": pk}, "sk": {"S": f"{prefix}{_from_token(token, 1)[0]}"}}
        live = self._item.deleted.does_not_exist() if kind is Cluster else None
        results = self._item.query(
            pk,
            self._item.sk.startswith(prefix),
            filter_condition=live,
            consistent_read=True,
            limit=limit,
            last_evaluated_key=start,
            scan_index_forward=not newest_first,
            # What a filter leaves out counts as read: by fifties, a thousand tombstones would be twenty requests.
            page_size=_TOMBSTONES_AT_ONCE if kind is Cluster else None,
        )
        items: list[T] = []
        size = 0
        for item in results:
            items.append(_entity(item, kind))
            size += len(item.body)
            if size >= PAGE_BYTES:
                break
        last = results.last_evaluated_key
        return Page(tuple(items), _to_token([last["sk"]["S"].removeprefix(prefix)]) if last else None)

    @override
    def project(self, project_id: str) -> Project | None:
        return self._get(_project_place(project_id), Project)

    @override
    def projects(self, limit: int, token: str | None) -> Page[Project]:
        shard, start = 0, None
        if token is not None:
            number, pk, at = _from_token(token, 3)
            shard = _number(number)
            start = (
                {
                    "agenda_pk": {"S": f"project#{shard}"},
                    "agenda_at": {"N": str(_number(at))},
                    "pk": {"S": pk},
                    "sk": {"S": "PROJECT"},
                }
                if pk
                else None
            )
        found: list[str] = []
        while shard < AGENDA_SHARDS:
            results = self._item.agenda.query(f"project#{shard}", limit=limit - len(found), last_evaluated_key=start)
            found.extend(item.pk for item in results)
            last = results.last_evaluated_key
            if len(found) >= limit:
                following = [str(shard), last["pk"]["S"], last["agenda_at"]["N"]] if last else [str(shard + 1), "", "0"]
                more = last is not None or shard + 1 < AGENDA_SHARDS
                return Page(self._read_projects(found), _to_token(following) if more else None)
            shard, start = shard + 1, None
        return Page(self._read_projects(found), None)

    def _read_projects(self, pks: Sequence[str]) -> tuple[Project, ...]:
        projects = (self.project(pk.removeprefix("PROJECT#")) for pk in pks)
        return tuple(project for project in projects if project is not None)

    @override
    def key(self, project_id: str, key_id: str) -> Key | None:
        return self._get(_Place(f"PROJECT#{project_id}", f"KEY#{key_id}"), Key)

    @override
    def keys(self, project_id: str, limit: int, token: str | None) -> Page[Key]:
        return self._page(Key, f"PROJECT#{project_id}", "KEY#", limit, token)

    @override
    def role_claim(self, account_id: str, role_name: str) -> RoleClaim | None:
        return self._get(_role_place(account_id, role_name), RoleClaim)

    @override
    def pointer(self, pointer: KeyPointer) -> KeyPointer | None:
        return self._get(_place(pointer), KeyPointer)

    @override
    def pointers(self, account_id: str, resource: str, limit: int) -> list[KeyPointer]:
        results = self._item.query(f"POINTER#{account_id}", self._item.sk.startswith(f"{resource}#"), limit=limit)
        return [_entity(item, KeyPointer) for item in results]

    @override
    def event_hints(self, project_id: str, key_id: str) -> EventHints | None:
        return self._get(_hints_place(project_id, key_id), EventHints)

    @override
    def cluster(self, project_id: str, cluster_id: str) -> Cluster | None:
        return self._get(_Place(f"PROJECT#{project_id}", f"CLUSTER#{cluster_id}"), Cluster)

    @override
    def clusters(self, project_id: str, limit: int, token: str | None) -> Page[Cluster]:
        return self._page(Cluster, f"PROJECT#{project_id}", "CLUSTER#", limit, token)

    @override
    def clusters_of_key(self, project_id: str, key_id: str) -> list[Cluster]:
        live = self._item.deleted.does_not_exist() & (self._item.key_id == key_id)
        results = self._item.query(
            f"PROJECT#{project_id}",
            self._item.sk.startswith("CLUSTER#"),
            filter_condition=live,
            consistent_read=True,
        )
        return [_entity(item, Cluster) for item in results]

    @override
    def backup(self, project_id: str, backup_id: str) -> Backup | None:
        return self._get(_Place(f"PROJECT#{project_id}", f"BACKUP#{backup_id}"), Backup)

    @override
    def backups(self, project_id: str, limit: int, token: str | None) -> Page[Backup]:
        return self._page(Backup, f"PROJECT#{project_id}", "BACKUP#", limit, token)

    @override
    def backups_of_key(self, project_id: str, key_id: str, limit: int) -> list[Backup]:
        results = self._item.query(
            f"PROJECT#{project_id}",
            self._item.sk.startswith("BACKUP#"),
            filter_condition=self._item.key_id == key_id,
            consistent_read=True,
        )
        return [_entity(item, Backup) for item in islice(results, limit)]

    @override
    def incident(self, project_id: str, incident_id: str) -> Incident | None:
        return self._get(_Place(f"PROJECT#{project_id}", f"INCIDENT#{incident_id}"), Incident)

    @override
    def incidents(self, project_id: str, limit: int, token: str | None) -> Page[Incident]:
        return self._page(Incident, f"PROJECT#{project_id}", "INCIDENT#", limit, token, newest_first=True)

    @override
    def actor_search(self, project_id: str, incident_id: str) -> ActorSearch | None:
        return self._get(_search_place(project_id, incident_id), ActorSearch)

    @override
    def due_searches(self, until: datetime, limit: int) -> list[tuple[str, str]]:
        due = sorted(self._on_agenda("search", until, limit), key=lambda item: item.agenda_at or 0)
        return [(item.pk.removeprefix("PROJECT#"), item.sk.removeprefix("SEARCH#")) for item in due[:limit]]

    @override
    def timeline(self, incident_id: str, newest: int = TIMELINE_SHOWN) -> list[TimelineEntry]:
        results = self._item.query(
            f"INCIDENT#{incident_id}",
            self._item.sk.startswith("AT#"),
            consistent_read=True,
            limit=newest,
            scan_index_forward=False,
        )
        return [_entity(item, TimelineEntry) for item in results][::-1]

    @override
    def timeline_page(self, incident_id: str, limit: int, token: str | None) -> Page[TimelineEntry]:
        return self._page(TimelineEntry, f"INCIDENT#{incident_id}", "AT#", limit, token)

    @override
    def subscription(self, project_id: str, subscription_id: str) -> Subscription | None:
        return self._get(_Place(f"PROJECT#{project_id}", f"SUBSCRIPTION#{subscription_id}"), Subscription)

    @override
    def subscriptions(self, project_id: str, limit: int, token: str | None) -> Page[Subscription]:
        return self._page(Subscription, f"PROJECT#{project_id}", "SUBSCRIPTION#", limit, token)

    @override
    def outbox_row(self, row_id: str) -> OutboxRow | None:
        return self._get(_Place(f"OUTBOX#{row_id}", "OUTBOX"), OutboxRow)

    @override
    def ledger(self, project_id: str | None, key_id: str | None) -> Ledger:
        found = self._get(_ledger_place(project_id, key_id), Ledger)
        return found or Ledger(project_id=project_id, key_id=key_id)

    @override
    def due_ledgers(self, now: datetime) -> list[tuple[str | None, str | None]]:
        return [
            (item.pk.removeprefix("QUIET#") or None, item.sk.removeprefix("KEY#") or None)
            for item in self._on_agenda("quiet", now)
        ]

    @override
    def silences(self, project_id: str) -> Silences:
        return self._get(_silences_place(project_id), Silences) or Silences(project_id=project_id)

    @override
    def out_of_turn(self, account_id: str, region: str) -> OutOfTurn:
        nothing = OutOfTurn(account_id=account_id, region=region)
        return self._get(_out_of_turn_place(account_id, region), OutOfTurn) or nothing

    @override
    def canary(self, canary_id: str) -> Canary | None:
        return self._get(_Place(_CANARIES, f"CANARY#{canary_id}"), Canary)

    @override
    def canaries(self) -> list[Canary]:
        results = self._item.query(_CANARIES, self._item.sk.startswith("CANARY#"), consistent_read=True)
        return [_entity(item, Canary) for item in results]

    def _on_agenda(
        self, name: str, until: datetime | None, limit: int | None = None, *, since: datetime | None = None
    ) -> Iterator[Item]:
        """The entries of a list up to a moment, or after one."""
        for shard in range(AGENDA_SHARDS):
            condition = None if until is None else AgendaIndex.agenda_at < milliseconds(until) + 1
            if since is not None:
                condition = AgendaIndex.agenda_at > milliseconds(since)
            yield from self._item.agenda.query(f"{name}#{shard}", condition, limit=limit)

    def _listed(self, name: str, until: datetime | None) -> Iterator[Item]:
        """The entries of a list that may have grown beyond all bounds: of a long one the oldest and the newest.

        The oldest alone could be what cannot be done, and would keep all others from ever being tried.
        """
        condition = None if until is None else AgendaIndex.agenda_at < milliseconds(until) + 1
        for shard in range(AGENDA_SHARDS):
            found: dict[tuple[str, str], Item] = {}
            for oldest_first in (True, False):
                entries = self._item.agenda.query(
                    f"{name}#{shard}", condition, limit=LISTED // AGENDA_SHARDS // 2, scan_index_forward=oldest_first
                )
                found |= {(item.pk, item.sk): item for item in entries}
                if entries.last_evaluated_key is None:
                    break
            yield from found.values()

    @override
    def due_keys(self, until: datetime, most: int = DUE_KEYS_READ) -> list[DueKey]:
        # Keys are spread over the shards by a hash: the oldest of all are among the oldest of each, and few more.
        limit = max(_FEW, most * 5 // 4 // AGENDA_SHARDS)
        lists = [(place, shard) for place in _DUE for shard in range(AGENDA_SHARDS)]
        read = partial(self._due_keys, AgendaIndex.agenda_at < milliseconds(until) + 1, limit)
        with ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="due") as threads:
            found = [each for keys in threads.map(read, lists) for each in keys]
        return sorted(found, key=lambda each: each.due_at)

    def _due_keys(self, condition: Condition, limit: int, listed: tuple[tuple[KeyStatus, bool], int]) -> list[DueKey]:
        """One list of one shard. There may be a hundred thousand in a minute, so that no item is made of an entry."""
        place, shard = listed
        _, unknown = place
        table = self._item._get_connection()  # noqa: SLF001  what is public makes an item of each entry
        found: list[DueKey] = []
        after: Any = None
        while len(found) < limit:
            page = table.query(
                f"{_DUE[place]}#{shard}",
                condition,
                attributes_to_get=["pk", "sk", "agenda_at"],
                index_name="agenda",
                limit=limit - len(found),
                exclusive_start_key=after,
            )
            for entry in page["Items"]:
                number = Decimal(entry["agenda_at"]["N"])
                project_id, key_id = entry["pk"]["S"].removeprefix("PROJECT#"), entry["sk"]["S"].removeprefix("KEY#")
                due_at, account_id = moment_of(number), account_of(number)
                found.append(DueKey(project_id, key_id, due_at, account_id, probe_of(number), unknown))
            after = page.get("LastEvaluatedKey")
            if after is None:
                break
        return found

    @override
    def unsent_rows(self, before: datetime) -> list[str]:
        rows = sorted(self._listed("unsent", before), key=lambda item: item.agenda_at or 0)
        return [item.pk.removeprefix("OUTBOX#") for item in rows]

    @override
    def set_aside(self, row_id: str, reason: str, at: datetime) -> bool:
        return self._move(row_id, ("unsent", "aside"), at, reason)

    @override
    def take_back(self, row_id: str, at: datetime) -> bool:
        return self._move(row_id, ("aside", "unsent"), at, None)

    def _move(self, row_id: str, lists: tuple[str, str], at: datetime, reason: str | None) -> bool:
        """Move a row from one list to another. What its body says stays unread: it may be what is wrong."""
        place = _Place(f"OUTBOX#{row_id}", "OUTBOX")
        before, after = (f"{name}#{_shard(place)}" for name in lists)
        try:
            item = self._item.get(place.pk, place.sk, consistent_read=True)
        except DoesNotExist:
            return False
        if item.agenda_pk != before:
            return False
        item.agenda_pk, item.agenda_at, item.aside = after, Decimal(milliseconds(at)), reason
        try:
            item.save(condition=(self._item.version == item.version) & (self._item.agenda_pk == before))
        except PutError as error:
            if _is_race(error):
                return False
            raise
        return True

    @override
    def rows_aside(self, limit: int) -> list[RowAside]:
        listed = sorted(self._on_agenda("aside", None, limit), key=lambda item: item.agenda_at or 0)[:limit]
        found = []
        for entry in listed:
            try:
                item = self._item.get(entry.pk, entry.sk, consistent_read=True)
            except DoesNotExist:
                continue
            found.append(
                RowAside(item.pk.removeprefix("OUTBOX#"), moment_of(entry.agenda_at or 0), item.aside or "not known")
            )
        return found

    @override
    def count_aside(self) -> int:
        return self._count("aside")

    @override
    def oldest_unsent_row(self) -> datetime | None:
        oldest = [item.agenda_at or 0 for item in self._on_agenda("unsent", None, limit=1)]
        return moment_of(min(oldest)) if oldest else None

    @override
    def open_incidents(self) -> list[tuple[str, str]]:
        return [
            (item.pk.removeprefix("PROJECT#"), item.sk.removeprefix("INCIDENT#")) for item in self._listed("open", None)
        ]

    @override
    def opened_since(self, moment: datetime) -> list[tuple[str, str]]:
        return [
            (item.pk.removeprefix("PROJECT#"), item.sk.removeprefix("INCIDENT#"))
            for item in self._on_agenda("open", None, since=moment)
        ]

    @override
    def count_keys(self, region: str) -> int:
        return sum(
            item.sk.startswith(f"KEY#{region}.") for name in _DUE.values() for item in self._on_agenda(name, None)
        )

    @override
    def brakes(self) -> list[Brake]:
        results = self._item.query("FLEET", self._item.sk.startswith("BRAKE#"), consistent_read=True)
        return [_entity(item, Brake) for item in results]

    @override
    def lockout_tally(self) -> LockoutTally:
        return self._get(_LOCKOUT_TALLY, LockoutTally) or LockoutTally()

    @override
    def overdue_clusters(self, now: datetime) -> list[tuple[str, str]]:
        return self._clusters_on_agenda("unanswered", now)

    @override
    def shut_clusters(self, before: datetime) -> list[tuple[str, str]]:
        return self._clusters_on_agenda("shut", before)

    def _clusters_on_agenda(self, name: str, until: datetime) -> list[tuple[str, str]]:
        return [
            (item.pk.removeprefix("PROJECT#"), item.sk.removeprefix("CLUSTER#")) for item in self._listed(name, until)
        ]

    def _count(self, name: str) -> int:
        return sum(self._item.agenda.count(f"{name}#{shard}") for shard in range(AGENDA_SHARDS))

    def _tally(self, name: str, before: ListTally | None) -> ListTally:
        """Count a list's shards in turn until it is enough for a minute; all of them, if none was counted yet."""
        known = before is not None and len(before.counted) == AGENDA_SHARDS
        counted = list(before.counted) if before is not None and known else [0] * AGENDA_SHARDS
        first = before.next_shard if before is not None and known else 0
        shard, entries = first, 0
        for step in range(AGENDA_SHARDS):
            if known and entries >= COUNTED_A_MINUTE:
                break
            shard = (first + step) % AGENDA_SHARDS
            counted[shard] = self._item.agenda.count(f"{name}#{shard}")
            entries += counted[shard]
        return ListTally(tuple(counted), (shard + 1) % AGENDA_SHARDS)

    @override
    def count_fleet(self) -> FleetCounts:
        before = self._note("FLEET_TALLY", FleetTally) or FleetTally({})
        with ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="count") as threads:
            tallies = threads.map(lambda name: self._tally(name, before.lists.get(name)), _DUE.values())
            tally = FleetTally(dict(zip(_DUE.values(), tallies, strict=True)))
        self._put_note("FLEET_TALLY", tally)
        listed = {place: sum(tally.lists[name].counted) for place, name in _DUE.items()}
        return FleetCounts(
            keys={status: listed[status, False] + listed[status, True] for status in KeyStatus},
            unknown=sum(listed[status, True] for status in KeyStatus),
            open_incidents=self._count("open"),
        )

    @override
    def claim_sweep(self, minute: datetime) -> bool:
        marker = self._item(
            pk=f"SWEEP#{minute:%Y-%m-%dT%H:%MZ}",
            sk="SWEEP",
            kind="SWEEP",
            schema=FIRST,
            version=1,
            body="{}",
            expires_at=int((minute + SWEEPS_KEPT).timestamp()),
        )
        try:
            marker.save(condition=self._item.pk.does_not_exist())
        except PutError as error:
            if _is_race(error):
                return False
            raise
        return True

    @override
    def record_sweep(self, record: SweepRecord) -> None:
        self._put_note("LAST_SWEEP", record)

    @override
    def last_sweep(self) -> SweepRecord | None:
        return self._note("LAST_SWEEP", SweepRecord)

    @override
    def record_role_audit(self, audit: RoleAudit) -> None:
        self._put_note("ROLE_AUDIT", audit)

    @override
    def role_audit(self) -> RoleAudit | None:
        return self._note("ROLE_AUDIT", RoleAudit)

    def _put_note(self, kind: str, note: SweepRecord | RoleAudit | FleetTally) -> None:
        """Write a note about the fleet. The next one replaces it whatever it says, so nothing is compared."""
        body = json.dumps(to_plain(note), separators=(",", ":"))
        self._item(pk="FLEET", sk=kind, kind=kind, schema=newest(kind), version=1, body=body).save()

    def _note[T](self, kind: str, note: type[T]) -> T | None:
        try:
            item = self._item.get("FLEET", kind, consistent_read=True)
        except DoesNotExist:
            return None
        return _read(item, kind, note)

    @override
    def fleet_told(self) -> FleetTold:
        return self._get(_FLEET_TOLD, FleetTold) or FleetTold()


def _entity[T: Entity](item: Item, kind: type[T]) -> T:
    return replace(_read(item, _KINDS[kind], kind), version=int(item.version))


def _read[T](item: Item, kind: str, shape: type[T]) -> T:
    """What is in an item's body, brought up to the newest schema.

    Raises:
        NewerItemError: newer code wrote it.
        DamagedItemError: the body is not what its schema number says.
    """
    place = f"{item.pk}/{item.sk}"
    try:
        return from_stored(upgraded(kind, item.schema, json.loads(item.body), place=place), shape)
    except (ValueError, TypeError) as error:
        message = f"{place} does not have the shape of schema {item.schema} of {kind}: {error}"
        raise DamagedItemError(message) from error


def _is_race(error: PutError | DeleteError | TransactWriteError) -> bool:
    """Whether the table refused a write because somebody was faster, and not for want of capacity or permission."""
    code = error.cause_response_code
    if code != "TransactionCanceledException" or not isinstance(error, TransactWriteError):
        return code in _REFUSED
    reasons = {reason.code for reason in error.cancellation_reasons if reason is not None}
    return bool(reasons) and reasons <= _RACE_REASONS


def _to_token(parts: Iterable[str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(list(parts)).encode()).decode()


def _from_token(token: str, length: int) -> list[str]:
    """What `_to_token` was given. A token that somebody made up is refused here, before the table faults on it."""
    try:
        parts = json.loads(base64.urlsafe_b64decode(token))
    except (ValueError, binascii.Error, RecursionError):
        parts = None
    if not isinstance(parts, list) or len(parts) != length or not all(_is_token_part(each) for each in parts):
        raise RefusedError(400, "Invalid next_token", "Pass the `next_token` of the page before, as it was given.")
    return parts


def _is_token_part(part: Any) -> bool:
    return isinstance(part, str) and part.isascii() and len(part) <= _LONGEST_TOKEN_PART


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > _LONGEST_TOKEN_NUMBER:
        raise RefusedError(400, "Invalid next_token", "Pass the `next_token` of the page before, as it was given.")
    return int(text)
