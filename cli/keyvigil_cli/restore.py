"""Bring the table back from a backup: copy a restored table into the stack's, and assert everything anew.

Both parts can be repeated: a run that died half-way is taken up by running it again.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import boto3
from rich.console import Console

from keyvigil.adapters.clock_and_ids import RandomIds, SystemClock
from keyvigil.adapters.dynamodb_store import DynamoDbStore
from keyvigil.errors import KeyVigilError
from keyvigil.use_cases.assert_anew import AssertAnew
from keyvigil_cli.errors import CliError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

type Item = dict[str, Any]

_CLUSTER = "CLUSTER"
_BATCH = 25
"""How many items BatchWriteItem takes.
https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html
"""

_BATCH_TRIES = 20


class NotRestoredError(CliError):
    """Not all of it is done; what is done stays, and it can be run again."""


def run(session: boto3.Session, table: str, *, from_table: str | None, above: int, output: Console) -> None:
    """Copy what a restored table has, if one is named, and put every key and cluster of the stack's table in doubt.

    Raises:
        NotRestoredError: a table could not be written, or read.
    """
    client = session.client("dynamodb")
    if from_table is not None:
        output.print(f"{copy(client, from_table, table)} items copied from {from_table}")
    try:
        report = AssertAnew(DynamoDbStore(table, session.region_name), SystemClock(), RandomIds())(above=above)
    except KeyVigilError as error:
        raise NotRestoredError(str(error)) from error
    output.print(f"{report.keys} keys are proved anew, {report.clusters} clusters are asked for anew")


def copy(client: "DynamoDBClient", source: str, target: str) -> int:
    """Copy all items; what only the target has stays. No cluster's fence goes below the target's.

    Raises:
        NotRestoredError: the target does not take them.
    """
    given = {(each["pk"]["S"], each["sk"]["S"]): int(each["fence"]["N"]) for each in _clusters(client, target)}
    batch: list[Item] = []
    copied = 0
    for item in _scan(client, TableName=source, ConsistentRead=True):
        batch.append(_not_below(item, given.get((item["pk"]["S"], item["sk"]["S"]), 0)))
        if len(batch) == _BATCH:
            _write(client, target, batch)
            batch = []
        copied += 1
    _write(client, target, batch)
    return copied


def _scan(client: "DynamoDBClient", **request: Any) -> Iterator[Item]:
    for page in client.get_paginator("scan").paginate(**request):
        yield from page["Items"]


def _clusters(client: "DynamoDBClient", table: str) -> Iterator[Item]:
    return _scan(
        client,
        TableName=table,
        ConsistentRead=True,
        FilterExpression="#kind = :cluster",
        ProjectionExpression="pk, sk, fence",
        ExpressionAttributeNames={"#kind": "kind"},
        ExpressionAttributeValues={":cluster": {"S": _CLUSTER}},
    )


def _not_below(item: Item, fence: int) -> Item:
    if item.get("kind", {}).get("S") != _CLUSTER or int(item["fence"]["N"]) >= fence:
        return item
    body = json.loads(item["body"]["S"]) | {"fence": fence}
    return item | {"fence": {"N": str(fence)}, "body": {"S": json.dumps(body, separators=(",", ":"))}}


def _write(client: "DynamoDBClient", table: str, items: list[Item]) -> None:
    left: Any = {table: [{"PutRequest": {"Item": item}} for item in items]} if items else {}
    for _ in range(_BATCH_TRIES):
        if not left:
            return
        left = client.batch_write_item(RequestItems=left)["UnprocessedItems"]
    if left:
        message = f"{table} took only a part of what was written; run it again"
        raise NotRestoredError(message)
