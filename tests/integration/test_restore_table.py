"""`keyvigil restore`, on moto's DynamoDB: a restored table is copied into the stack's, and everything asserted anew."""

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest
from moto import mock_aws
from rich.console import Console

from keyvigil.adapters.dynamodb_store import DynamoDbStore
from keyvigil.domain.clusters import ClusterStatus, LockSettings, LockVia
from keyvigil.domain.keys import KeyStatus
from keyvigil.ports import Put
from keyvigil_cli import restore
from tests.examples import KEY_ID, NOW, cluster, key, project
from tests.integration.test_store_contract import table_in_template

STACKS, RESTORED = "stacks", "restored"


class Tables:
    """The stack's table, and one restored from a backup."""

    def __init__(self) -> None:
        self.session = boto3.Session()
        self.client = self.session.client("dynamodb")
        for name in (STACKS, RESTORED):
            table: dict[str, Any] = table_in_template()
            table.pop("TimeToLiveSpecification")
            self.client.create_table(TableName=name, **table)
        self.stacks, self.restored = (DynamoDbStore(name, "us-west-2") for name in (STACKS, RESTORED))
        self.restored.commit([Put(project())])
        self.restored.commit([Put(key(clusters=2))])
        self.restored.commit([Put(cluster(cluster_id="vectors", fence=5))])
        self.restored.commit([Put(cluster(cluster_id="registry", lock=LockSettings(via=LockVia.NONE)))])

    def restore(self, *, from_table: str | None = RESTORED, above: int = 0) -> str:
        told = io.StringIO()
        restore.run(self.session, STACKS, from_table=from_table, above=above, output=Console(file=told, width=200))
        return told.getvalue()


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tables]:
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_DEFAULT_REGION", "us-west-2"),
    ):
        monkeypatch.setenv(name, value)
    with mock_aws():
        yield Tables()


def test_what_the_restored_table_has_is_in_the_stacks_table_and_in_doubt(tables: Tables) -> None:
    told = tables.restore()
    assert told.splitlines() == [
        "4 items copied from restored",
        "1 keys are proved anew, 1 clusters are asked for anew",
    ]
    assert replace(tables.stacks.project("acme-prod") or project(), version=0) == project()
    found, watched = tables.stacks.cluster("acme-prod", "vectors"), tables.stacks.key("acme-prod", KEY_ID)
    assert found is not None
    assert watched is not None
    assert (found.status, found.locked_by_incident_id) == (ClusterStatus.LOCK_FAILED, watched.open_incident_id)
    assert watched.health.status is KeyStatus.RECOVERING
    assert tables.stacks.incident("acme-prod", watched.open_incident_id or "") is not None
    alone = tables.stacks.cluster("acme-prod", "registry")
    assert alone is not None
    assert alone.status is ClusterStatus.ACTIVE


def test_a_fence_that_the_stacks_table_still_knows_is_not_lost(tables: Tables) -> None:
    far = 2**45
    tables.stacks.commit([Put(cluster(cluster_id="vectors", fence=far))])
    tables.stacks.commit([Put(cluster(cluster_id="gone", fence=far, deleted_at=NOW))])
    tables.restored.commit([Put(cluster(cluster_id="gone", fence=3, deleted_at=NOW))])
    tables.restore()
    found, gone = (tables.stacks.cluster("acme-prod", each) for each in ("vectors", "gone"))
    assert found is not None
    assert found.fence == far + 1
    assert gone is not None
    assert gone.fence == far


def test_many_items_of_all_kinds_are_copied(tables: Tables) -> None:
    for number in range(60):
        tables.restored.commit([Put(cluster(cluster_id=f"c{number:02}", fence=1, deleted_at=NOW))])
    tables.client.put_item(TableName=RESTORED, Item={"pk": {"S": "IDEMPOTENCY"}, "sk": {"S": "create#1"}})
    assert "65 items copied" in tables.restore()
    assert tables.client.scan(TableName=STACKS, Select="COUNT")["Count"] >= 65


def test_without_a_table_to_copy_only_the_stacks_own_is_asserted_anew(tables: Tables) -> None:
    tables.restore()
    first = tables.stacks.cluster("acme-prod", "vectors")
    assert tables.restore(from_table=None, above=2**50) == "1 keys are proved anew, 1 clusters are asked for anew\n"
    again = tables.stacks.cluster("acme-prod", "vectors")
    assert first is not None
    assert again is not None
    assert (again.fence, again.locked_by_incident_id) == (2**50 + 1, first.locked_by_incident_id)
    assert len(tables.stacks.incidents("acme-prod", 10, None).items) == 1


def test_a_table_that_takes_only_a_part_is_told(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tables.client,
        "batch_write_item",
        lambda RequestItems: {"UnprocessedItems": RequestItems},  # noqa: N803  boto3's
    )
    with pytest.raises(restore.NotRestoredError, match="took only a part"):
        restore.copy(tables.client, RESTORED, STACKS)


def test_an_item_that_cannot_be_read_is_told(tables: Tables) -> None:
    tables.restore()
    place = {"pk": {"S": "PROJECT#acme-prod"}, "sk": {"S": f"KEY#{KEY_ID}"}}
    tables.client.update_item(
        TableName=STACKS,
        Key=place,
        UpdateExpression="SET body = :body",
        ExpressionAttributeValues={":body": {"S": "{}"}},
    )
    with pytest.raises(restore.NotRestoredError, match="does not have the shape"):
        tables.restore(from_table=None)
