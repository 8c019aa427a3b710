"""One botocore Session for every tenant: each call is signed with the credentials of whoever it is made for."""

import ast
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.credentials import ReadOnlyCredentials
from pynamodb.connection import Connection

from keyvigil import adapters
from keyvigil.adapters import aws, kms_prober
from keyvigil.adapters.aws import acting_as
from keyvigil.adapters.cloudtrail_history import CloudTrailHistory
from keyvigil.adapters.dynamodb_store import DynamoDbStore
from keyvigil.adapters.function_receiver import _TIMEOUTS, FunctionReceiver
from keyvigil.adapters.functions import (
    CHECK_TIMEOUT_SECONDS,
    InvokedKeyChecker,
    InvokedOutboxRelay,
    InvokedReceiverCalls,
)
from keyvigil.adapters.idempotency import kept_answers
from keyvigil.adapters.kms_prober import KmsProber
from keyvigil.adapters.messaging import AwsNotifier, SnsTopics, SqsCheckQueue
from keyvigil.adapters.runbook_receiver import RunbookReceiver
from keyvigil.adapters.secret_reader import SecretReader
from keyvigil.adapters.security_hub import SecurityHubFindings
from keyvigil.adapters.step_functions import StepFunctionsWorkflow
from keyvigil.domain.lock_calls import CALL_SECONDS
from tests.examples import MONITOR_ROLE_ARN
from tests.fakes import FakeClock

OWN = "AKIAKEYVIGILITSELF01"
ALPHA = ReadOnlyCredentials("ASIAALPHA00000000001", "alpha-secret", "alpha-token")
BETA = ReadOnlyCredentials("ASIABETA000000000001", "beta-secret", "beta-token")


@pytest.fixture(autouse=True)
def own_credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Credentials as Lambda gives them, and a Session of this test's own."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", OWN)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "own-token")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    aws.session.cache_clear()
    yield
    aws.session.cache_clear()


class Body:
    """An HTTP answer's body, as botocore reads it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._content


class Wire:
    """Stands where the network begins: keeps what would be sent, and answers."""

    def __init__(self, before_answer: Callable[[], object] = lambda: None) -> None:
        self.signed: list[tuple[str, str]] = []
        self._before_answer = before_answer

    def __call__(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        def header(name: str) -> str:
            value = request.headers[name]
            return value.decode() if isinstance(value, bytes) else str(value)

        access_key = header("Authorization").split("Credential=")[1].split("/")[0]
        self.signed.append((access_key, header("X-Amz-Security-Token")))
        self._before_answer()
        answer = json.dumps({"KeyMetadata": {"KeyId": access_key}}).encode()
        return AWSResponse(request.url, 200, HTTPHeaders(), Body(answer))


def kms_over(wire: Wire) -> Any:
    client: Any = KmsProber(FakeClock(), monitor_role_arn=MONITOR_ROLE_ARN)._kms("us-west-2")
    client.meta.events.register("before-send.kms", wire)
    return client


def test_outside_of_a_probe_keyvigil_signs_with_its_own_credentials() -> None:
    wire = Wire()

    kms_over(wire).describe_key(KeyId="alias/any")

    assert wire.signed == [(OWN, "own-token")]


def test_inside_of_a_probe_every_call_is_signed_with_the_tenants_and_after_it_with_our_own_again() -> None:
    wire = Wire()
    kms = kms_over(wire)

    with acting_as(ALPHA):
        kms.describe_key(KeyId="alias/any")
        kms.describe_key(KeyId="alias/any")
    kms.describe_key(KeyId="alias/any")

    alpha = (ALPHA.access_key, ALPHA.token)
    assert wire.signed == [alpha, alpha, (OWN, "own-token")]


def test_our_own_credentials_are_back_even_if_the_probe_failed() -> None:
    wire = Wire()
    kms = kms_over(wire)

    with pytest.raises(RuntimeError, match="the probe failed"), acting_as(ALPHA):
        raise RuntimeError("the probe failed")
    kms.describe_key(KeyId="alias/any")

    assert wire.signed == [(OWN, "own-token")]


def test_a_probe_inside_a_probe_does_not_leave_the_outer_one_with_the_wrong_tenant() -> None:
    wire = Wire()
    kms = kms_over(wire)

    with acting_as(ALPHA):
        with acting_as(BETA):
            kms.describe_key(KeyId="alias/any")
        kms.describe_key(KeyId="alias/any")

    assert [access_key for access_key, _ in wire.signed] == [BETA.access_key, ALPHA.access_key]


def test_two_tenants_probed_at_the_same_time_through_one_client_each_sign_with_their_own() -> None:
    # Both requests are signed and on the wire before either is answered.
    together = threading.Barrier(2)
    wire = Wire(before_answer=lambda: together.wait(timeout=30))
    kms = kms_over(wire)

    def probe(tenant: ReadOnlyCredentials) -> list[str]:
        with acting_as(tenant):
            return [kms.describe_key(KeyId="alias/any")["KeyMetadata"]["KeyId"] for _ in range(5)]

    with ThreadPoolExecutor(2) as threads:
        alpha, beta = threads.map(probe, [ALPHA, BETA])

    assert alpha == [ALPHA.access_key] * 5
    assert beta == [BETA.access_key] * 5
    assert {(ALPHA.access_key, ALPHA.token), (BETA.access_key, BETA.token)} == set(wire.signed)


def test_what_one_thread_acts_as_is_not_seen_by_another() -> None:
    wire = Wire()
    kms = kms_over(wire)

    with acting_as(ALPHA), ThreadPoolExecutor(1) as threads:
        threads.submit(kms.describe_key, KeyId="alias/any").result()

    assert wire.signed == [(OWN, "own-token")]


def test_the_process_has_one_session() -> None:
    assert aws.session() is aws.session()


def test_one_kms_client_of_a_region_serves_every_tenant() -> None:
    prober = KmsProber(FakeClock(), monitor_role_arn=MONITOR_ROLE_ARN)
    oregon: Any = prober._kms("us-west-2")
    ireland: Any = prober._kms("eu-west-1")

    assert oregon.meta.region_name == "us-west-2"
    assert ireland.meta.region_name == "eu-west-1"
    assert oregon is prober._kms("us-west-2")


def test_clients_are_kept_of_as_many_regions_as_there_are_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kms_prober, "CACHED_REGIONS", 2)
    prober = KmsProber(FakeClock(), monitor_role_arn=MONITOR_ROLE_ARN)
    first, second = prober._kms("us-west-2"), prober._kms("eu-west-1")
    for region in ("us-west-2", "eu-west-1", "us-east-1"):
        prober._secrets(region)

    assert prober._kms("us-west-2") is first, "used again, it is not the oldest any more"
    prober._kms("us-east-1")

    assert list(prober._clients) == ["us-west-2", "us-east-1"]
    assert list(prober._secrets_clients) == ["eu-west-1", "us-east-1"]
    assert prober._kms("eu-west-1") is not second


def test_one_secrets_manager_client_of_a_region_serves_every_tenant() -> None:
    prober = KmsProber(FakeClock(), monitor_role_arn=MONITOR_ROLE_ARN)

    assert prober._secrets("us-west-2") is prober._secrets("us-west-2")
    assert prober._secrets("eu-west-1").meta.region_name == "eu-west-1"


CLIENTS: dict[str, Callable[[], Any]] = {
    "sns of the relay": lambda: AwsNotifier("bus")._sns,
    "events of the relay": lambda: AwsNotifier("bus")._events,
    "sns of the registry": lambda: SnsTopics("keyvigil-project-", {})._sns,
    "sqs of the sweep": lambda: SqsCheckQueue("https://sqs.us-west-2.amazonaws.com/1/queue")._sqs,
    "dynamodb of kept answers": lambda: kept_answers("table").client,
    "lambda of the API": lambda: InvokedKeyChecker("check-keys")._lambda,
    "lambda of the sweep": lambda: InvokedOutboxRelay("relay-outbox")._lambda,
    "lambda of the relay": lambda: InvokedReceiverCalls("call-receiver")._lambda,
    "secrets of receivers": lambda: SecretReader()._client,
    "ssm of receivers": lambda: RunbookReceiver()._client,
    "security hub of the relay": lambda: (
        SecurityHubFindings(account_id="1", partition="aws", region="us-west-2", stack_name="keyvigil")._client
    ),
    "step functions": lambda: StepFunctionsWorkflow(None, None)._client,
    "kms of the prober": lambda: KmsProber(FakeClock(), monitor_role_arn=MONITOR_ROLE_ARN)._kms("us-west-2"),
    "secrets manager of the prober": lambda: KmsProber(FakeClock(), monitor_role_arn=MONITOR_ROLE_ARN)._secrets(
        "us-west-2"
    ),
    "cloudtrail of the searches": lambda: CloudTrailHistory()._cloudtrail("us-west-2"),
    "sts of the searches": lambda: CloudTrailHistory()._roles._sts,
    "sts of the prober": lambda: KmsProber(FakeClock(), monitor_role_arn=MONITOR_ROLE_ARN)._role_credentials()._sts,
}


PATIENT_CLIENTS: dict[str, Callable[[], Any]] = {
    "lambda of receivers": lambda: FunctionReceiver()._client("us-west-2", _TIMEOUTS[0]),
}


@pytest.mark.parametrize("make", PATIENT_CLIENTS.values(), ids=PATIENT_CLIENTS)
def test_a_client_that_waits_for_a_receiver_waits_once_and_ends_before_its_function_does(
    make: Callable[[], Any],
) -> None:
    config = make().meta.config

    assert config.connect_timeout == 2
    assert config.read_timeout < CALL_SECONDS
    assert config.retries["total_max_attempts"] == 1


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
def test_every_client_has_time_outs_and_at_most_one_retry(make: Callable[[], Any]) -> None:
    config = make().meta.config

    assert config.connect_timeout == 2
    assert 0 < config.read_timeout <= CHECK_TIMEOUT_SECONDS
    assert config.retries["total_max_attempts"] <= 2
    assert config.retries["mode"] == "standard"


def test_the_table_has_time_outs_and_bounded_retries() -> None:
    meta = DynamoDbStore("table", "us-west-2")._item.Meta

    assert meta.connect_timeout_seconds == 2
    assert meta.read_timeout_seconds == 5
    assert meta.max_retry_attempts == 2


def test_the_api_gets_its_answer_from_check_keys_before_the_http_api_gives_up() -> None:
    client: Any = InvokedKeyChecker("check-keys")._lambda
    config = client.meta.config

    assert config.read_timeout == CHECK_TIMEOUT_SECONDS < 30
    assert config.retries["total_max_attempts"] == 1


def test_no_adapter_makes_a_client_without_settings_of_its_own() -> None:
    """What the table above cannot see: a client that somebody adds later."""
    folder = Path(str(adapters.__file__)).parent
    calls = [
        (path.name, node)
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "client"
    ]

    assert len(calls) == len(CLIENTS) + len(PATIENT_CLIENTS), "a client was added: name it in CLIENTS"
    for name, call in calls:
        assert any(keyword.arg == "config" for keyword in call.keywords), f"{name}:{call.lineno}"


def test_the_tables_client_reads_botocores_definitions_no_second_time_and_signs_with_our_own_credentials() -> None:
    with acting_as(ALPHA):
        table = Connection(region="us-west-2")
        credentials = table.client._request_signer._credentials.get_frozen_credentials()
    assert credentials.access_key == OWN
    core = aws.session()._session
    assert table.session.get_component("data_loader") is core.get_component("data_loader")
