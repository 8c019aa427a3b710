"""Both transports, held to one suite: what they send is signed, and what they make of any answer is the same."""

import hashlib
import hmac
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError

from keyvigil.adapters import aws, kms_prober
from keyvigil.adapters.aws import acting_as
from keyvigil.adapters.kms_calls import KmsCalls
from keyvigil.adapters.kms_prober import PLAINTEXT, KmsProber
from keyvigil.adapters.kms_transport import BOTO3, TRANSPORTS, URLLIB3, Urllib3Kms
from tests.examples import KEY_ARN, MONITOR_ROLE_ARN
from tests.fakes import FakeClock
from tests.unit.fault_server import (
    Answer,
    FaultServer,
    Request,
    after,
    at_first,
    hangs_up,
    hangs_up_half_way,
    json_answer,
    kms_error,
    never_answers,
    page,
    resets,
    well,
)

READ_TIMEOUT_SECONDS = 0.3
SECRET = "tenant-secret/+"
TENANT = ReadOnlyCredentials("ASIATENANT0000000001", SECRET, "tenant-token==")
CONTEXT = {"keyvigil:made-for": "größe", "b": "2", "a": "1"}


@pytest.fixture(autouse=True)
def own_credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Credentials as Lambda gives them; time-outs are short and retries come at once."""
    for name in ("AWS_PROFILE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAKEYVIGILITSELF01",
        "AWS_SECRET_ACCESS_KEY": "own-secret",
        "AWS_SESSION_TOKEN": "own-token",
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(kms_prober, "PROBE_READ_TIMEOUT_SECONDS", READ_TIMEOUT_SECONDS)
    monkeypatch.setattr("botocore.retries.standard.random.random", lambda: 0.0)
    aws.session.cache_clear()
    yield
    aws.session.cache_clear()


def opened(*, transport: str, calls: KmsCalls | None = None, region: str = "us-west-2") -> Any:
    aws.session.cache_clear()
    return KmsProber(FakeClock(), monitor_role_arn=MONITOR_ROLE_ARN, calls=calls, transport=transport)._kms(region)


def ask(kms: Any, operation: str) -> Any:
    with acting_as(TENANT):
        match operation:
            case "DescribeKey":
                return kms.describe_key(KeyId=KEY_ARN)
            case "Encrypt":
                return kms.encrypt(KeyId=KEY_ARN, Plaintext=PLAINTEXT, EncryptionContext=CONTEXT)
            case "Decrypt":
                return kms.decrypt(KeyId=KEY_ARN, CiphertextBlob=b"sealed", EncryptionContext=CONTEXT)
            case "GenerateDataKey":
                return kms.generate_data_key(KeyId=KEY_ARN, KeySpec="AES_256", EncryptionContext=CONTEXT)
            case _:
                return kms.get_key_rotation_status(KeyId=KEY_ARN)


OPERATIONS = ("DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey", "GetKeyRotationStatus")


def signature_is_right(method: str, url: str, headers: dict[str, str], body: bytes, secret: str) -> bool:
    """Reckon the signature anew, by AWS's description and not by botocore.

    Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    said = dict(part.split("=", 1) for part in headers["authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(", "))
    scope = said["Credential"].split("/", 1)[1]
    signed = said["SignedHeaders"].split(";")
    assert {"content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"} <= set(signed)
    canonical = "\n".join(
        [
            method,
            urlsplit(url).path or "/",
            "",
            *(f"{name}:{headers[name].strip()}" for name in signed),
            "",
            said["SignedHeaders"],
            hashlib.sha256(body).hexdigest(),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, digest])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest() == said["Signature"]


class Ears:
    """Keeps what arrives at a server, as it arrives, and answers well."""

    def __init__(self, server: FaultServer) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        keep = server.answer

        def answer(operation: str) -> Answer:
            found = keep(operation)

            def hear(request: Request) -> None:
                headers = {name.lower(): value for name, value in request.headers.items()}
                self.heard.append((headers, request.body))
                found(request)

            return hear

        server.answer = answer  # type: ignore[method-assign]  # the test listens at the door


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_arrives_is_signed_with_the_tenants_credentials(
    transport: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FaultServer({"GetKeyRotationStatus": json_answer({"KeyRotationEnabled": True})})
    ears = Ears(server)
    with server.running():
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
        ask(opened(transport=transport), operation)

    ((headers, body),) = ears.heard
    assert headers["x-amz-target"] == f"TrentService.{operation}"
    assert f"Credential={TENANT.access_key}/" in headers["authorization"]
    assert "/us-west-2/kms/aws4_request" in headers["authorization"]
    assert headers["x-amz-security-token"] == TENANT.token
    assert headers["user-agent"].startswith("Botocore/")
    assert signature_is_right("POST", server.url, headers, body, SECRET)
    assert not signature_is_right("POST", server.url, headers, body + b" ", SECRET)
    sent_at = datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - sent_at).total_seconds()) < 60


def test_both_send_the_same_content(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = []
    for transport in TRANSPORTS:
        server = FaultServer({"GetKeyRotationStatus": json_answer({"KeyRotationEnabled": True})})
        ears = Ears(server)
        with server.running():
            monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
            kms = opened(transport=transport)
            for operation in OPERATIONS:
                ask(kms, operation)
        bodies.append([json.loads(body) for _, body in ears.heard])

    assert bodies[0] == bodies[1]


@dataclass(frozen=True)
class Came:
    """What came of a call: its answer, or what it raised, and how often the server was asked."""

    what: str
    requests: int
    counted: tuple[int, int]


def came(answer: Answer, *, transport: str, operation: str, monkeypatch: pytest.MonkeyPatch) -> Came:
    server, calls = FaultServer({operation: answer}), KmsCalls()
    with server.running(), monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
        kms = opened(transport=transport, calls=calls)
        try:
            parsed = ask(kms, operation)
        except ClientError as error:
            shown: dict[str, Any] = {**error.response, "ResponseMetadata": None}
            metadata = error.response["ResponseMetadata"]
            what = f"{error} {shown} {metadata['HTTPStatusCode']} {metadata.get('RetryAttempts')}"
        except Exception as error:  # noqa: BLE001  whatever it is, it must be the same
            what = type(error).__name__
        else:
            what = repr({**parsed, "ResponseMetadata": parsed["ResponseMetadata"]["RetryAttempts"]})
        sent = calls.take()
    assert len(server.asked) == sent[0], "every request that is sent is counted"
    return Came(what, len(server.asked), sent)


def raw(*parts: bytes, pause: float = 0, reset: bool = False) -> Answer:
    """Bytes on the wire, with pauses between them, then the end of the connection."""

    def answer(request: Request) -> None:
        for part in parts:
            request.wfile.write(part)
            request.wfile.flush()
            time.sleep(pause)
        if reset:
            resets(request)
        else:
            request.close_connection = True
            request.connection.shutdown(socket.SHUT_RDWR)

    return answer


def plain(headers: dict[str, str], content: bytes, status: int = 200) -> Answer:
    def answer(request: Request) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)
        request.close_connection = headers.get("Connection") == "close"

    return answer


JSON = "application/x-amz-json-1.1"
DESCRIBED = json.dumps({"KeyMetadata": {"KeyId": "k", "KeyState": "Enabled", "CreationDate": 1795369305.484}}).encode()
LENGTH = str(len(DESCRIBED))
CHUNKED = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (DESCRIBED[:10], DESCRIBED[10:])) + b"0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: %d\r\n\r\n" % len(DESCRIBED)


def elsewhere(status: int) -> Answer:
    """A redirect to something that would answer well, were it asked."""
    return lambda request: plain({"Location": f"{request.server.url}/elsewhere", "Content-Length": "0"}, b"", status)(
        request
    )


def shaped(document: Any, status: int = 400, **headers: str) -> Answer:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return plain({"Content-Type": JSON, "Content-Length": str(len(content)), **named}, content, status)


ANSWERS: dict[str, Answer] = {
    "an answer": shaped(DESCRIBED, 200),
    "an answer with Connection: close": plain({"Content-Length": LENGTH, "Connection": "close"}, DESCRIBED),
    "an answer in chunks": plain({"Transfer-Encoding": "chunked", "Content-Type": JSON}, CHUNKED),
    "an answer without a length, ended by the connection's end": plain({"Connection": "close"}, DESCRIBED),
    "an answer in pieces, within the time-out": raw(HEAD, DESCRIBED[:5], DESCRIBED[5:], pause=0.02),
    "an answer that stops half way for too long": raw(HEAD, DESCRIBED[:5], b"", pause=READ_TIMEOUT_SECONDS * 2),
    "an answer of which half is missing": hangs_up_half_way,
    "chunks of which the last is missing": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNKED[:20]),
    "chunks that are none": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a head that stops": raw(HEAD[:30]),
    "something that is no HTTP": raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
    "no answer in time": never_answers,
    "a hang-up before the answer": hangs_up,
    "a reset before the answer": resets,
    "a reset within the head": raw(HEAD[:30], reset=True),
    "a reset within the body": raw(HEAD + DESCRIBED[:5], reset=True),
    "a reset, once": at_first(resets, "Encrypt"),
    "a late answer, within the time-out": after(0.05, shaped(DESCRIBED, 200)),
    "204 with nothing": plain({"Content-Length": "0"}, b"", 204),
    "200 with nothing": shaped(b"", 200),
    "200 with something that is no JSON": page(200),
    "200 with a list": shaped([1], 200),
    "301": elsewhere(301),
    "302": elsewhere(302),
    "303": elsewhere(303),
    "307": elsewhere(307),
    "308": elsewhere(308),
    "400 in AWS's words": kms_error("NotFoundException"),
    "400 with a namespace": shaped({"__type": "com.amazonaws.kms#DisabledException", "message": "disabled"}),
    "400 with a colon": shaped({"__type": "DisabledException:http://internal.amazon.com/coral", "message": "x"}),
    "400 with Message": shaped({"__type": "NotFoundException", "Message": "not found"}),
    "400 with code": shaped({"code": "NotFoundException", "message": "not found"}),
    "400 with an error header": shaped({"message": "x"}, x_amzn_ErrorType="NotFoundException:http://amazon"),
    "400 with a query error": shaped(
        {"__type": "com.amazonaws.kms#NotFoundException"}, x_amzn_query_error="NotFound;Sender"
    ),
    "400 without a word": shaped(b""),
    "400 with a list": shaped([1]),
    "400 with a page": page(400),
    "400 with a null message": shaped({"__type": "NotFoundException", "message": None}),
    "400 that nobody knows": kms_error("Novelty"),
    "400 AccessDeniedException": shaped(
        {"__type": "AccessDeniedException", "Message": "because no identity-based policy"}
    ),
    "400 our clock is off": kms_error("InvalidSignatureException"),
    "403 our clock is off": kms_error("RequestTimeTooSkewed", 403),
    "400 expired": kms_error("ExpiredTokenException"),
    "400 throttled": kms_error("ThrottlingException"),
    "400 throttled, with a time to wait": shaped({"__type": "ThrottlingException"}, x_amz_retry_after="1"),
    "400 limit": kms_error("LimitExceededException"),
    "429 that nobody knows": kms_error("Calm", 429),
    "500": kms_error("KMSInternalException", 500),
    "500 a dependency": kms_error("DependencyTimeoutException", 503),
    "500 with a page": page(500),
    "502": page(502),
    "503": page(503),
    "504": page(504),
    "505": page(505),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_both_make_the_same_of_an_answer(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3, urllib3 = (
        came(_again(answer), transport=transport, operation="DescribeKey", monkeypatch=monkeypatch)
        for transport in TRANSPORTS
    )

    assert urllib3 == boto3


def _again(answer: Answer) -> Answer:
    """A fault of the first request only is one of the first request of each transport."""
    return at_first(resets, "DescribeKey") if answer is ANSWERS["a reset, once"] else answer


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused(transport: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = came(elsewhere(status), transport=transport, operation="DescribeKey", monkeypatch=monkeypatch)

    assert refused.requests == 1
    assert "ClientError" in refused.what or str(status) in refused.what


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_connection_is_used_again_unless_the_answer_closes_it(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for headers, connections in (({}, 1), ({"Connection": "close"}, 3)):
        ports: set[int] = set()
        answer = plain({"Content-Length": LENGTH, **headers}, DESCRIBED)

        def noted(request: Request, answer: Answer = answer, ports: set[int] = ports) -> None:
            ports.add(request.client_address[1])
            answer(request)

        server = FaultServer({"DescribeKey": noted})
        with server.running():
            monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
            kms = opened(transport=transport)
            for _ in range(3):
                ask(kms, "DescribeKey")

        assert len(ports) == connections


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_retries_stop_when_their_budget_is_spent_and_go_on_when_calls_work_again(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = {"now": True}

    def answer(request: Request) -> None:
        (kms_error("KMSInternalException", 500) if fails["now"] else well("DescribeKey"))(request)

    server = FaultServer({"DescribeKey": answer})
    with server.running():
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
        kms = opened(transport=transport)

        def failing(times: int) -> int:
            begin = len(server.asked)
            for _ in range(times):
                with pytest.raises(ClientError, match="KMSInternalException"):
                    ask(kms, "DescribeKey")
            return len(server.asked) - begin

        spent = failing(45)
        fails["now"] = False
        for _ in range(20):
            ask(kms, "DescribeKey")
        fails["now"] = True

        assert 45 < spent < 90, "some were tried again, the last ones not"
        assert failing(1) == 2


ENDPOINTS: dict[str, tuple[str, dict[str, str]]] = {
    "https://kms.us-west-2.amazonaws.com/": ("us-west-2", {}),
    "https://kms.eu-central-1.amazonaws.com/": ("eu-central-1", {}),
    "https://kms.cn-north-1.amazonaws.com.cn/": ("cn-north-1", {}),
    "https://kms.us-gov-west-1.amazonaws.com/": ("us-gov-west-1", {}),
    "https://kms-fips.us-west-2.amazonaws.com/": ("us-west-2", {"AWS_USE_FIPS_ENDPOINT": "true"}),
    "https://kms-fips.us-gov-west-1.amazonaws.com/": ("us-gov-west-1", {"AWS_USE_FIPS_ENDPOINT": "true"}),
    "https://kms.us-west-2.api.aws/": ("us-west-2", {"AWS_USE_DUALSTACK_ENDPOINT": "true"}),
    "https://kms.cn-north-1.api.amazonwebservices.com.cn/": ("cn-north-1", {"AWS_USE_DUALSTACK_ENDPOINT": "true"}),
    "https://kms-fips.us-west-2.api.aws/": (
        "us-west-2",
        {"AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_USE_FIPS_ENDPOINT": "true"},
    ),
    "http://127.0.0.1:4566/": ("us-west-2", {"AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:4566"}),
    "https://proxy.example/kms": ("us-west-2", {"AWS_ENDPOINT_URL_KMS": "https://proxy.example/kms"}),
    "https://other.example/": ("us-west-2", {"AWS_ENDPOINT_URL": "https://other.example/"}),
}


class _Body:
    @staticmethod
    def stream(**_: Any) -> Iterator[bytes]:
        yield b"{}"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("url", ENDPOINTS, ids=lambda url: url)
def test_the_endpoint_and_the_regions_name_in_the_signature(
    transport: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    region, environ = ENDPOINTS[url]
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    seen: list[tuple[str, str]] = []

    def answer(request: Any, **_: Any) -> AWSResponse:
        authorization = request.headers["Authorization"]
        authorization = authorization.decode() if isinstance(authorization, bytes) else authorization
        seen.append((request.url, authorization.split(",")[0]))
        return AWSResponse(request.url, 200, HTTPHeaders(), _Body())

    with monkeypatch.context() as patch:
        watch: Callable[..., None] = lambda _self, client: client.meta.events.register("before-send.kms", answer)  # noqa: E731
        patch.setattr(KmsCalls, "watch", watch)
        ask(opened(transport=transport, region=region), "DescribeKey")

    ((asked, credential),) = seen
    assert asked == url
    assert credential.endswith(f"/{region}/kms/aws4_request")


def test_the_switch_decides_who_asks() -> None:
    assert isinstance(opened(transport=URLLIB3), Urllib3Kms)
    assert not isinstance(opened(transport=BOTO3), Urllib3Kms)
