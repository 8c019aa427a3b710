"""What `Urllib3Kms` rests on: connections, certificates, proxies, signatures; held against boto3 where it has them."""

import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Semaphore
from typing import Any, override

import pytest
from botocore import auth
from botocore.auth import SigV4Auth
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import SSLError
from hypothesis import given
from hypothesis import strategies as st

from keyvigil.adapters.aws import acting_as
from keyvigil.adapters.kms_connections import KmsConnections
from keyvigil.adapters.kms_transport import TRANSPORTS, URLLIB3, Signer, Urllib3Kms
from tests.examples import KEY_ARN
from tests.integration.tls_server import Authority
from tests.unit.fault_server import Answer, FaultServer, Request, json_answer, well
from tests.unit.test_kms_transport import Ears, ask, opened, own_credentials, signature_is_right

__all__ = ["own_credentials"]  # a fixture, for every test here too


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


BOTH = pytest.mark.parametrize("transport", TRANSPORTS)


@contextmanager
def over_tls(server: FaultServer, certificate: Path) -> Iterator[str]:
    """The server's URL while it answers over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with server.running():
        yield f"https://localhost:{server.server_address[1]}"


def by_environment(bundle: Path, _folder: Path) -> dict[str, str]:
    return {"AWS_CA_BUNDLE": str(bundle)}


def by_environment_of_requests(bundle: Path, _folder: Path) -> dict[str, str]:
    return {"REQUESTS_CA_BUNDLE": str(bundle)}


def by_configuration(bundle: Path, folder: Path) -> dict[str, str]:
    file = folder / "config"
    file.write_text(f"[default]\nca_bundle = {bundle}\n", encoding="utf-8")
    return {"AWS_CONFIG_FILE": str(file)}


@BOTH
@pytest.mark.parametrize("told", [by_environment, by_environment_of_requests, by_configuration])
def test_an_endpoint_is_trusted_that_the_callers_authority_signed(
    transport: str, told: Callable[[Path, Path], dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = Authority(tmp_path).certificate("localhost")
    with over_tls(FaultServer({}), certificate) as url:
        for name, value in {"AWS_ENDPOINT_URL_KMS": url, **told(tmp_path / "authority.pem", tmp_path)}.items():
            monkeypatch.setenv(name, value)

        assert ask(opened(transport=transport), "DescribeKey")["KeyMetadata"]["KeyState"] == "Enabled"


@BOTH
@pytest.mark.parametrize(("host", "trusted"), [("localhost", False), ("kms.example", True)], ids=["authority", "name"])
def test_an_endpoint_of_another_authority_or_name_is_refused(
    transport: str, host: str, *, trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = Authority(tmp_path).certificate(host)
    server = FaultServer({})
    with over_tls(server, certificate) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", url)
        if trusted:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "authority.pem"))
        with pytest.raises(SSLError):
            ask(opened(transport=transport), "DescribeKey")

    assert not server.asked


def test_certificates_are_read_once_for_all_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = Authority(tmp_path).certificate("localhost")
    read: list[object] = []
    load = ssl.SSLContext.load_verify_locations

    def noted(context: ssl.SSLContext, *files: Any) -> None:
        read.append(files)
        load(context, *files)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", noted)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    ports: set[int] = set()
    server = Hanging({"DescribeKey": closing(ports)})
    with over_tls(server, certificate) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", url)
        for region in ("us-west-2", "eu-central-1"):
            kms = opened(transport=URLLIB3, region=region)
            for _ in range(2):
                ask(kms, "DescribeKey")
                assert server.hung_up.acquire(timeout=5)

    assert len(ports) == 4
    assert len(read) == 1


class Hanging(FaultServer):
    """Tells when a connection has been closed."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        super().__init__(answers)
        self.hung_up = Semaphore(0)

    @override
    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.hung_up.release()


def closing(ports: set[int]) -> Answer:
    """A good answer, after which the connection ends, which the answer does not announce."""

    def answer(request: Request) -> None:
        ports.add(request.client_address[1])
        well("DescribeKey")(request)
        request.close_connection = True

    return answer


@BOTH
def test_a_connection_that_was_dropped_while_idle_is_replaced_and_no_try_is_lost(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: set[int] = set()
    server = Hanging({"DescribeKey": closing(ports)})
    retried = []
    with server.running():
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
        kms = opened(transport=transport)
        for _ in range(3):
            retried.append(ask(kms, "DescribeKey")["ResponseMetadata"]["RetryAttempts"])
            assert server.hung_up.acquire(timeout=5)

    assert retried == [0, 0, 0]
    assert len(ports) == len(server.asked) == 3


@BOTH
def test_a_connection_whose_answer_was_cut_off_is_not_used_again(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[int] = []

    def half(request: Request) -> None:
        ports.append(request.client_address[1])
        request.reply(200, "application/x-amz-json-1.1", '{"KeyMetadata": {}}', length=19 if len(ports) > 1 else 500)

    server = FaultServer({"DescribeKey": half})
    with server.running():
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
        kms = opened(transport=transport)
        for _ in range(2):
            ask(kms, "DescribeKey")

    assert len(set(ports)) == 2


def test_head_and_body_leave_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    send = socket.socket.sendall

    def noted(sock: socket.socket, data: bytes) -> None:
        if data.startswith(b"POST"):
            written.append(data)
        send(sock, data)

    server = FaultServer({})
    with server.running(), monkeypatch.context() as patch:
        patch.setattr(socket.socket, "sendall", noted, raising=False)
        patch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
        kms = opened(transport=URLLIB3)
        ask(kms, "Encrypt")
        ask(kms, "DescribeKey")

    assert [each.partition(b"\r\n\r\n")[2][:8] for each in written] == [b'{"KeyId"'] * 2


PROXIES = ("HTTP_PROXY", "http_proxy")


@pytest.mark.parametrize("name", PROXIES)
def test_behind_a_proxy_boto3_asks_and_the_proxy_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FaultServer({})
    with proxy.running():
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://kms.example")
        monkeypatch.setenv(name, proxy.url)
        kms = opened(transport=URLLIB3)

        assert ask(kms, "DescribeKey")["KeyMetadata"]["KeyState"] == "Enabled"
    assert not isinstance(kms, Urllib3Kms)
    assert proxy.asked == ["DescribeKey"]


@pytest.mark.parametrize("excepted", ["127.0.0.1", "*"])
def test_an_endpoint_that_is_excepted_from_the_proxy_is_asked_directly(
    excepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = FaultServer({}), FaultServer({})
    with server.running(), proxy.running():
        for name, value in {
            "AWS_ENDPOINT_URL_KMS": server.url,
            "HTTP_PROXY": proxy.url,
            "http_proxy": proxy.url,
            "no_proxy": excepted,
            "NO_PROXY": excepted,
        }.items():
            monkeypatch.setenv(name, value)
        kms = opened(transport=URLLIB3)
        ask(kms, "DescribeKey")

    assert isinstance(kms, Urllib3Kms)
    assert (server.asked, proxy.asked) == (["DescribeKey"], [])


ONLY_BOTO3S = {"amz-sdk-invocation-id", "amz-sdk-request"}
OF_EACH_REQUEST = {"authorization", "x-amz-date"}


def test_both_send_the_same_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 sends two more, which tell AWS's statistics of retries. Whatever botocore adds later shows here.

    Powertools, where it is imported, puts its name behind boto3's user agent; that is no header of botocore's.
    """
    sent = {}
    for transport in TRANSPORTS:
        server = FaultServer({})
        ears = Ears(server)
        with server.running():
            monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
            ask(opened(transport=transport), "Encrypt")
        ((headers, _),) = ears.heard
        sent[transport] = {name: value for name, value in headers.items() if name not in OF_EACH_REQUEST}
        assert sent[transport].pop("host") == server.url.removeprefix("http://")
        sent[transport]["user-agent"] = sent[transport]["user-agent"].partition(" PT/")[0]

    assert sent["boto3"] == sent["urllib3"] | {name: sent["boto3"][name] for name in ONLY_BOTO3S}


class _Signed:
    """What both signers are given."""

    method, url = "POST", "https://kms.us-west-2.amazonaws.com/"

    def __init__(self, body: bytes) -> None:
        self.headers = {
            "Host": "kms.us-west-2.amazonaws.com",
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "TrentService.Encrypt",
            "User-Agent": "of no concern",
        }
        self.body = body
        self.params: dict[str, str] = {}
        self.context: dict[str, Any] = {}


@given(
    secret=st.text(st.characters(codec="ascii", categories=["L", "N", "S", "P"]), min_size=1, max_size=40),
    token=st.none() | st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=60),
    bodies=st.lists(st.binary(max_size=80), min_size=1, max_size=3),
    days=st.lists(st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)), min_size=1, max_size=3),  # noqa: DTZ001  hypothesis wants them naive
)
def test_the_signature_is_botocores_whatever_was_signed_before(
    secret: str, token: str | None, bodies: list[bytes], days: list[datetime]
) -> None:
    credentials = ReadOnlyCredentials("AKIAEXAMPLE", secret, token)
    with pytest.MonkeyPatch.context() as patch:
        for body in bodies:
            for day in days:
                patch.setattr(auth, "get_current_datetime", lambda day=day: day.replace(tzinfo=UTC))
                theirs: Any = _Signed(body)
                ours: Any = _Signed(body)
                SigV4Auth(credentials, "kms", "us-west-2").add_auth(theirs)
                Signer(credentials, "kms", "us-west-2").add_auth(ours)
                assert ours.headers == theirs.headers


def test_each_threads_requests_are_signed_with_its_own_tenants_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FaultServer({"DescribeKey": json_answer({"KeyMetadata": {"KeyId": "k"}})})
    ears = Ears(server)
    with server.running():
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", server.url)
        kms = opened(transport=URLLIB3)

        def as_tenant(number: int) -> None:
            with acting_as(ReadOnlyCredentials(f"ASIATENANT{number:04d}", f"secret-{number}", f"token-{number}")):
                for _ in range(5):
                    kms.describe_key(KeyId=KEY_ARN)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(as_tenant, range(16)))

    assert len(ears.heard) == 80
    for headers, body in ears.heard:
        number = headers["x-amz-security-token"].removeprefix("token-")
        assert f"Credential=ASIATENANT{int(number):04d}/" in headers["authorization"]
        assert signature_is_right("POST", server.url, headers, body, f"secret-{number}")


def test_an_endpoint_at_an_ipv6_address_is_named_as_one() -> None:
    connections = KmsConnections("http://[::1]:8080/kms", connect_seconds=1, read_seconds=1, kept=1, ca_bundle="")

    assert (connections._pool.host, connections._pool.port, connections._target) == ("::1", 8080, "/kms")
