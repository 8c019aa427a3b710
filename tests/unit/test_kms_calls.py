"""Requests to KMS are counted where they are sent, so that retries count, and nothing else does."""

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from keyvigil.adapters.kms_calls import KmsCalls
from tests.unit.fault_server import FaultServer, kms_error

ATTEMPTS = 3


def describe(server: FaultServer, calls: KmsCalls) -> None:
    client = boto3.client(
        "kms",
        region_name="us-west-2",
        endpoint_url=server.url,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="made-up",
        config=Config(retries={"mode": "standard", "total_max_attempts": ATTEMPTS}),
    )
    calls.watch(client)
    client.describe_key(KeyId="k")


def test_a_request_that_works_is_one() -> None:
    server, calls = FaultServer({}), KmsCalls()
    with server.running():
        describe(server, calls)

    assert calls.take() == (1, 0)
    assert calls.take() == (0, 0), "they are told once"


@pytest.mark.parametrize(
    ("code", "throttled"), [("ThrottlingException", ATTEMPTS), ("KMSInternalException", 0), ("DisabledException", 0)]
)
def test_every_attempt_counts_and_only_throttled_ones_as_throttled(code: str, throttled: int) -> None:
    server, calls = FaultServer({"DescribeKey": kms_error(code, 500 if "Internal" in code else 400)}), KmsCalls()
    with server.running(), pytest.raises(ClientError, match=code):
        describe(server, calls)

    assert calls.take() == (len(server.asked), throttled)
