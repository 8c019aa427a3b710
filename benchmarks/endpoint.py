"""KMS, STS and as much of DynamoDB as a benchmark needs, on loopback, faster than any client that it is asked by.

It holds a request back for the latency asked for, a share of them longer, and refuses what a quota does not allow. It
checks no signature: tests/unit/test_kms_transport.py does. It ends with its parent's standard input, or after an hour.
"""

import argparse
import asyncio
import base64
import json
import os
import random
import resource
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import uvloop

HOUR = 3600
ACCOUNT = "222222222222"
STATS = b"/_stats"
DESCRIBE_QUOTA, CRYPTOGRAPHIC_QUOTA = "DescribeKey", "cryptographic"


class TokenBucket:
    """So many a second, and what was saved of one second."""

    def __init__(self, per_second: float) -> None:
        self._per_second = self._tokens = per_second
        self._at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._per_second, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def arn(key_id: str) -> str:
    return key_id if key_id.startswith("arn:") else f"arn:aws:kms:us-west-2:{ACCOUNT}:key/{key_id}"


def key_ids(count: int) -> list[str]:
    return [f"00000000-0000-4000-8000-{number:012d}" for number in range(count)]


def metadata(key_id: str) -> dict[str, Any]:
    return {
        "AWSAccountId": ACCOUNT,
        "Arn": arn(key_id),
        "CreationDate": 1795369305.484,
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "Description": "made for a benchmark",
        "Enabled": True,
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "KeyId": arn(key_id).rpartition("/")[2],
        "KeyManager": "CUSTOMER",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "KeyState": "Enabled",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "MultiRegion": False,
        "Origin": "AWS_KMS",
    }


SEALED = b"sealed:"


def decrypted(asked: dict[str, Any]) -> dict[str, Any]:
    plaintext = base64.b64decode(asked["CiphertextBlob"]).removeprefix(SEALED)
    return {"KeyId": arn(asked["KeyId"]), "Plaintext": base64.b64encode(plaintext).decode()}


def encrypted(asked: dict[str, Any]) -> dict[str, Any]:
    ciphertext = SEALED + base64.b64decode(asked["Plaintext"])
    return {"KeyId": arn(asked["KeyId"]), "CiphertextBlob": base64.b64encode(ciphertext).decode()}


def policy(_asked: dict[str, Any]) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "kms:*"}
    return {"Policy": json.dumps({"Version": "2012-10-17", "Statement": [{**statement, "Resource": "*"}]})}


def listed(asked: dict[str, Any]) -> dict[str, Any]:
    keys = key_ids(Endpoint.keys)
    begin = int(asked.get("Marker", 0))
    end = begin + int(asked.get("Limit", 100))
    more = {"NextMarker": str(end)} if end < len(keys) else {}
    return {"Keys": [{"KeyId": each, "KeyArn": arn(each)} for each in keys[begin:end]], "Truncated": bool(more), **more}


ANSWERS: dict[bytes, Callable[[dict[str, Any]], dict[str, Any]]] = {
    b"TrentService.DescribeKey": lambda asked: {"KeyMetadata": metadata(asked["KeyId"])},
    b"TrentService.Encrypt": encrypted,
    b"TrentService.Decrypt": decrypted,
    b"TrentService.ListKeys": listed,
    b"TrentService.ListAliases": lambda _asked: {"Aliases": [], "Truncated": False},
    b"TrentService.ListGrants": lambda _asked: {"Grants": [], "Truncated": False},
    b"TrentService.ListResourceTags": lambda _asked: {"Tags": [], "Truncated": False},
    b"TrentService.GetKeyPolicy": policy,
    b"TrentService.GetKeyRotationStatus": lambda _asked: {"KeyRotationEnabled": True},
    b"DynamoDB_20120810.GetItem": lambda _asked: {},
    b"DynamoDB_20120810.PutItem": lambda _asked: {},
    b"DynamoDB_20120810.UpdateItem": lambda _asked: {},
    b"DynamoDB_20120810.TransactWriteItems": lambda _asked: {},
    b"DynamoDB_20120810.Query": lambda _asked: {"Items": [], "Count": 0, "ScannedCount": 0},
    b"ResourceGroupsTaggingAPI_20170126.GetResources": lambda _asked: {"ResourceTagMappingList": []},
}


REGIONS = """<DescribeRegionsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><regionInfo><item>
<regionName>us-west-2</regionName><regionEndpoint>ec2.us-west-2.amazonaws.com</regionEndpoint>
<optInStatus>opt-in-not-required</optInStatus></item></regionInfo></DescribeRegionsResponse>"""


def sts(body: bytes) -> bytes:
    """STS, and of EC2 the one question that Prowler begins with."""
    asked = parse_qs(body.decode())
    if asked.get("Action") == ["DescribeRegions"]:
        return REGIONS.encode()
    if asked.get("Action") == ["GetCallerIdentity"]:
        said = f"<Arn>arn:aws:iam::{ACCOUNT}:user/bench</Arn><UserId>AIDABENCH</UserId><Account>{ACCOUNT}</Account>"
    else:
        name = asked.get("RoleArn", ["none"])[0].rpartition("/")[2][-12:]
        said = (
            f"<Credentials><AccessKeyId>ASIA{name:0>16}</AccessKeyId><SecretAccessKey>made-up</SecretAccessKey>"
            f"<SessionToken>{'t' * 600}</SessionToken><Expiration>2036-11-22T03:00:00Z</Expiration></Credentials>"
        )
    action = asked.get("Action", ["Unknown"])[0]
    xmlns = "https://sts.amazonaws.com/doc/2011-06-15/"
    return f'<{action}Response xmlns="{xmlns}"><{action}Result>{said}</{action}Result></{action}Response>'.encode()


def header(head: bytes, lower: bytes, name: bytes) -> bytes:
    """A header's value; `lower` is the same head in lower case, because clients write names as they like."""
    at = lower.find(b"\r\n" + name + b":")
    if at < 0:
        return b""
    begin = at + len(name) + 3
    end = head.find(b"\r\n", begin)
    return head[begin : end if end >= 0 else None].strip()


def whole(status: bytes, content_type: bytes, content: bytes) -> bytes:
    return (
        b"HTTP/1.1 %s\r\nx-amzn-RequestId: 5a0e0c0e-0000-4000-8000-000000000000\r\nCache-Control: no-cache\r\n"
        b"Date: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
        % (status, content_type, len(content), content)
    )


class Endpoint(asyncio.Protocol):
    """One connection."""

    latency = 0.0
    slow_share = 0.0
    slow = 0.0
    keys = 200
    per_second: float | None = None
    quotas: dict[tuple[bytes, str], TokenBucket] = {}  # noqa: RUF012  one for all connections, as it is meant
    requests = 0
    throttled = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._loop = asyncio.get_running_loop()
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end]
            lower = head.lower()
            until = end + 4 + int(header(head, lower, b"content-length") or 0)
            if len(self._received) < until:
                return
            body, self._received = self._received[end + 4 : until], self._received[until:]
            self._answer(head, lower, body)

    def _answer(self, head: bytes, lower: bytes, body: bytes) -> None:
        if head.startswith(b"GET " + STATS):
            used = resource.getrusage(resource.RUSAGE_SELF)
            stats = {
                "cpu_seconds": used.ru_utime + used.ru_stime,
                "requests": Endpoint.requests,
                "throttled": Endpoint.throttled,
            }
            self._transport.write(whole(b"200 OK", b"application/json", json.dumps(stats).encode()))
            return
        Endpoint.requests += 1
        said = self._said(head, lower, body)
        wait = self.slow if self.slow_share and random.random() < self.slow_share else self.latency
        if wait:
            self._loop.call_later(wait, self._transport.write, said)
        else:
            self._transport.write(said)

    def _said(self, head: bytes, lower: bytes, body: bytes) -> bytes:
        target = header(head, lower, b"x-amz-target")
        json_type = b"application/x-amz-json-1.1"
        if not target:
            return whole(b"200 OK", b"text/xml", sts(body))
        if self.per_second is not None and not self._within_quota(header(head, lower, b"authorization"), target):
            Endpoint.throttled += 1
            return whole(b"400 Bad Request", json_type, b'{"__type":"ThrottlingException","message":"Rate exceeded"}')
        if target not in ANSWERS:
            unknown = json.dumps({"__type": "UnknownOperationException", "message": target.decode()}).encode()
            return whole(b"400 Bad Request", json_type, unknown)
        return whole(b"200 OK", json_type, json.dumps(ANSWERS[target](json.loads(body or b"{}"))).encode())

    def _within_quota(self, authorization: bytes, target: bytes) -> bool:
        account = authorization.partition(b"Credential=")[2].partition(b"/")[0]
        quota = DESCRIBE_QUOTA if target.endswith(b".DescribeKey") else CRYPTOGRAPHIC_QUOTA
        bucket = self.quotas.setdefault((account, quota), TokenBucket(self.per_second or 0))
        return bucket.take()


async def serve(certificate: str | None) -> None:
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Endpoint, "127.0.0.1", 0, ssl=tls, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()
    loop.add_reader(sys.stdin, over.set)
    async with server:
        async with asyncio.timeout(HOUR):
            await over.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--slow-percent", type=float, default=0, help="so many answers come after --slow-ms")
    parser.add_argument("--slow-ms", type=float, default=0)
    parser.add_argument("--quota", type=float, help="requests a second, for each access key and class of operations")
    parser.add_argument("--keys", type=int, default=200, help="how many ListKeys tells of")
    parser.add_argument("--core", type=int)
    parser.add_argument("--certificate", help="a file with certificate and key: answers over TLS")
    asked = parser.parse_args()
    if asked.core is not None:
        os.sched_setaffinity(0, {asked.core})
    Endpoint.latency = asked.latency_ms / 1000
    Endpoint.slow_share, Endpoint.slow = asked.slow_percent / 100, asked.slow_ms / 1000
    Endpoint.per_second, Endpoint.keys = asked.quota, asked.keys
    uvloop.run(serve(asked.certificate))


if __name__ == "__main__":
    main()
