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
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast, override

from pynamodb.attributes import BooleanAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.connection import Connection
from pynamodb.exceptions import DeleteError, DoesNotExist, PutError, TransactWriteError
from pynamodb.expressions.condition import Condition
from pynamodb.indexes import GlobalSecondaryIndex, KeysOnlyProjection
from pynamodb.models import Model
from pynamodb.transactions import TransactWrite

from keyvigil.adapters.aws import CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS
from keyvigil.adapters.item_schemas import FIRST, newest, upgraded
from keyvigil.adapters.plain_data import from_stored, to_plain
from keyvigil.domain.alerts import OutboxRow
from keyvigil.domain.clusters import Cluster, ClusterStatus
from keyvigil.domain.incidents import Incident, TimelineEntry
from keyvigil.domain.keys import Key, RoleClaim
from keyvigil.domain.projects import Project, Subscription
from keyvigil.errors import ConflictError, DamagedItemError, RefusedError
from keyvigil.ports import DueKey, Entity, Page, Put, Remove, RoleAudit, Store, SweepRecord, Write

AGENDA_SHARDS = 8
"""Partitions of each agenda list: a partition of an index takes 1,000 writes a second, and one write is one probe."""

KEPT_AFTER_END = timedelta(days=400)
"""How long a resolved incident and its timeline stay: a year's audit looks back a year and a month."""

OUTBOX_KEPT = timedelta(days=14)
SWEEPS_KEPT = timedelta(days=1)
_TRANSACTION_LIMIT = 100
_REFUSED = {"ConditionalCheckFailedException", "TransactionCanceledException", "TransactionConflictException"}
_RACE_REASONS = {"ConditionalCheckFailed", "TransactionConflict"}
_LONGEST_TOKEN_PART = 128
_LONGEST_TOKEN_NUMBER = 15


class AgendaIndex(GlobalSecondaryIndex[Any]):
    """What a sweep must look at, oldest first."""

    class Meta:
        """Keys only: what is due is read from the table."""

        index_name = "agenda"
        projection = KeysOnlyProjection()

    agenda_pk = UnicodeAttribute(hash_key=True)
    agenda_at = NumberAttribute(range_key=True)


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
    agenda_at = NumberAttribute(null=True)
    expires_at = NumberAttribute(null=True)
    agenda = AgendaIndex()


def bind(table_name: str, region: str) -> type[Item]:
    """The item class of one table. Nothing is called."""
    meta = type("Meta", (Item.Meta,), {"table_name": table_name, "region": region})
    return cast("type[Item]", type("BoundItem", (Item,), {"Meta": meta, "agenda": AgendaIndex()}))


@dataclass(frozen=True, slots=True)
class _Place:
    pk: str
    sk: str


def _project_place(project_id: str) -> _Place:
    return _Place(f"PROJECT#{project_id}", "PROJECT")


def _role_place(account_id: str, role_name: str) -> _Place:
    return _Place(f"ROLE#{account_id}", f"NAME#{role_name.lower()}")


def _place(entity: Entity) -> _Place:
    match entity:
        case Project():
            return _project_place(entity.project_id)
        case Key():
            return _Place(f"PROJECT#{entity.project_id}", f"KEY#{entity.key_id}")
        case RoleClaim():
            return _role_place(entity.account_id, entity.role_name)
        case Cluster():
            return _Place(f"PROJECT#{entity.project_id}", f"CLUSTER#{entity.cluster_id}")
        case Incident():
            return _Place(f"PROJECT#{entity.project_id}", f"INCIDENT#{entity.incident_id}")
        case Subscription():
            return _Place(f"PROJECT#{entity.project_id}", f"SUBSCRIPTION#{entity.subscription_id}")
        case TimelineEntry():
            return _Place(f"INCIDENT#{entity.incident_id}", f"AT#{entity.entry_id}")
        case OutboxRow():
            return _Place(f"OUTBOX#{entity.row_id}", "OUTBOX")


_KINDS: dict[type[Any], str] = {
    Project: "PROJECT",
    Key: "KEY",
    RoleClaim: "ROLE",
    Cluster: "CLUSTER",
    Incident: "INCIDENT",
    Subscription: "SUBSCRIPTION",
    TimelineEntry: "TIMELINE",
    OutboxRow: "OUTBOX",
}


_NOTES: dict[str, type[Any]] = {"LAST_SWEEP": SweepRecord, "ROLE_AUDIT": RoleAudit}
"""What is kept about the fleet, by kind. It is no entity: it has no version, and the next one replaces it."""


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _moment(milliseconds: float) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _agenda(entity: Entity) -> tuple[str, datetime] | None:
    """The agenda list that an entity is on, and since or until when."""
    match entity:
        case Project():
            return "project", entity.created_at
        case Key():
            return "due", entity.due_at
        case OutboxRow() if entity.sent_at is None:
            return "unsent", entity.created_at
        case Incident() if entity.is_open:
            return "open", entity.opened_at
        case Cluster() if entity.respond_by is not None and entity.status in {
            ClusterStatus.LOCKING,
            ClusterStatus.UNLOCKING,
        }:
            return "unanswered", entity.respond_by
        case _:
            return None


def _expiry(entity: Entity) -> datetime | None:
    match entity:
        case Incident():
            return entity.resolved_at + KEPT_AFTER_END if entity.resolved_at else None
        case TimelineEntry():
            return entity.at + KEPT_AFTER_END
        case OutboxRow():
            return entity.sent_at + OUTBOX_KEPT if entity.sent_at else None
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
        if written and isinstance(entity, Cluster):
            # Invariant 2: the table itself refuses a fence below the highest seen.
            condition &= self._item.fence <= entity.fence
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
            key_id=entity.key_id if isinstance(entity, Cluster | Incident) else None,
            fence=entity.fence if isinstance(entity, Cluster) else None,
            deleted=True if isinstance(entity, Cluster) and entity.deleted_at else None,
            agenda_pk=f"{agenda[0]}#{_shard(place)}" if agenda else None,
            agenda_at=_milliseconds(agenda[1]) if agenda else None,
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
        )
        items = tuple(_entity(item, kind) for item in results)
        last = results.last_evaluated_key
        return Page(items, _to_token([last["sk"]["S"].removeprefix(prefix)]) if last else None)

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
    def incident(self, project_id: str, incident_id: str) -> Incident | None:
        return self._get(_Place(f"PROJECT#{project_id}", f"INCIDENT#{incident_id}"), Incident)

    @override
    def incidents(self, project_id: str, limit: int, token: str | None) -> Page[Incident]:
        return self._page(Incident, f"PROJECT#{project_id}", "INCIDENT#", limit, token, newest_first=True)

    @override
    def timeline(self, incident_id: str) -> list[TimelineEntry]:
        results = self._item.query(f"INCIDENT#{incident_id}", self._item.sk.startswith("AT#"), consistent_read=True)
        return [_entity(item, TimelineEntry) for item in results]

    @override
    def subscription(self, project_id: str, subscription_id: str) -> Subscription | None:
        return self._get(_Place(f"PROJECT#{project_id}", f"SUBSCRIPTION#{subscription_id}"), Subscription)

    @override
    def subscriptions(self, project_id: str, limit: int, token: str | None) -> Page[Subscription]:
        return self._page(Subscription, f"PROJECT#{project_id}", "SUBSCRIPTION#", limit, token)

    @override
    def outbox_row(self, row_id: str) -> OutboxRow | None:
        return self._get(_Place(f"OUTBOX#{row_id}", "OUTBOX"), OutboxRow)

    def _on_agenda(self, name: str, until: datetime | None) -> Iterator[Item]:
        for shard in range(AGENDA_SHARDS):
            condition = None if until is None else AgendaIndex.agenda_at <= _milliseconds(until)
            yield from self._item.agenda.query(f"{name}#{shard}", condition)

    @override
    def due_keys(self, until: datetime) -> list[DueKey]:
        due = [
            DueKey(item.pk.removeprefix("PROJECT#"), item.sk.removeprefix("KEY#"), _moment(item.agenda_at or 0))
            for item in self._on_agenda("due", until)
        ]
        return sorted(due, key=lambda each: each.due_at)

    @override
    def unsent_rows(self, before: datetime) -> list[str]:
        rows = sorted(self._on_agenda("unsent", before), key=lambda item: item.agenda_at or 0)
        return [item.pk.removeprefix("OUTBOX#") for item in rows]

    @override
    def open_incidents(self) -> list[tuple[str, str]]:
        return [
            (item.pk.removeprefix("PROJECT#"), item.sk.removeprefix("INCIDENT#"))
            for item in self._on_agenda("open", None)
        ]

    @override
    def overdue_clusters(self, now: datetime) -> list[tuple[str, str]]:
        return [
            (item.pk.removeprefix("PROJECT#"), item.sk.removeprefix("CLUSTER#"))
            for item in self._on_agenda("unanswered", now)
        ]

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

    def _put_note(self, kind: str, note: SweepRecord | RoleAudit) -> None:
        """Write a note about the fleet. The next one replaces it whatever it says, so nothing is compared."""
        body = json.dumps(to_plain(note), separators=(",", ":"))
        self._item(pk="FLEET", sk=kind, kind=kind, schema=newest(kind), version=1, body=body).save()

    def _note[T](self, kind: str, note: type[T]) -> T | None:
        try:
            item = self._item.get("FLEET", kind, consistent_read=True)
        except DoesNotExist:
            return None
        return _read(item, kind, note)


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
    except ValueError as error:
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
