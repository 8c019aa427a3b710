"""Calling a host that a tenant named: only where it may be, as whom it must be, and not for too long nor for too much.

The server is a local one with a certificate of the tests' own authority. Only here is a loopback address allowed, by
what the constructor is given; the last test shows that nothing else opens that door.
"""

import inspect
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyvigil.adapters import guarded_https
from keyvigil.adapters.guarded_https import (
    LARGEST_ANSWER,
    Allows,
    GuardedHttps,
    HttpsFailedError,
    HttpsRefusedError,
    Resolve,
    SocketAddress,
)
from keyvigil.domain.addresses import may_be_called
from tests.integration.tls_server import LOOPBACK, Authority, Exchange, TlsServer

HOST = "hooks.example.com"
URL = f"https://{HOST}/lock?team=a"
PUBLIC: SocketAddress = ("203.0.114.7", 443)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def anywhere(_address: object) -> bool:
    return True


def at(*addresses: SocketAddress) -> Resolve:
    """A resolver that finds every host there."""
    return lambda _host, _port: list(addresses)


def client(authority: Authority, *addresses: SocketAddress, allows: Allows = anywhere) -> GuardedHttps:
    return GuardedHttps(resolve=at(*addresses), allows=allows, context=authority.trusted)


def get(https: GuardedHttps, url: str = URL, *, seconds: float = 5.0) -> guarded_https.HttpsAnswer:
    return https.send("GET", url, headers={"accept": "application/json"}, seconds=seconds)


@contextmanager
def server(authority: Authority, answer: Callable[[Exchange], None], host: str = HOST) -> Iterator[TlsServer]:
    with TlsServer(authority, host, answer) as running:
        yield running


# --- where to ---------------------------------------------------------------------------------------------------


def test_a_request_goes_to_the_address_that_was_checked_under_the_name_that_was_asked_for(authority: Authority) -> None:
    looked_up: list[tuple[str, int]] = []
    with server(authority, lambda exchange: exchange.reply(200, b"hello")) as running:

        def once(host: str, port: int) -> list[SocketAddress]:
            looked_up.append((host, port))
            # Whoever looks a second time would be led astray.
            return [(LOOPBACK, running.port)] if len(looked_up) == 1 else [("169.254.169.254", 80)]

        https = GuardedHttps(resolve=once, allows=anywhere, context=authority.trusted)
        answer = https.send("POST", URL, headers={"x-mine": "1"}, body=b"{}", seconds=5)
    assert (answer.status, answer.body) == (200, b"hello")
    assert looked_up == [(HOST, 443)]
    assert running.names_asked_for == [HOST]
    [(method, path, headers)] = running.requests
    assert (method, path, headers["Host"], headers["x-mine"]) == ("POST", "/lock?team=a", HOST, "1")
    assert headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "inside",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1%eth0", "fd00:ec2::254", "::ffff:127.0.0.1"],
)
def test_a_host_inside_is_refused_before_anything_is_connected_to(authority: Authority, inside: str) -> None:
    with server(authority, lambda exchange: exchange.reply(200)) as running:
        https = GuardedHttps(resolve=at((inside, running.port)), context=authority.trusted)
        with pytest.raises(HttpsRefusedError) as refused:
            get(https)
    assert str(refused.value) == f"{HOST} is at {inside}, which is not a public address"
    assert running.requests == []


def test_a_host_that_is_public_and_inside_at_once_is_refused(authority: Authority) -> None:
    with pytest.raises(HttpsRefusedError, match="which is not a public address"):
        get(GuardedHttps(resolve=at(PUBLIC, ("10.0.0.1", 443)), context=authority.trusted))


def test_what_the_machines_own_resolver_finds_is_checked_too() -> None:
    """localhost has no dot and would be refused as a name, so here another name is looked up as it."""
    found = guarded_https.addresses_of("localhost", 443)
    assert {str(address[0]) for address in found} <= {"127.0.0.1", "::1"}
    https = GuardedHttps(resolve=lambda _host, port: guarded_https.addresses_of("localhost", port))
    with pytest.raises(HttpsRefusedError, match="which is not a public address"):
        get(https)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "https://hooks.example.com:8443/",
        "https://user:secret@hooks.example.com/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://[::1]/",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://hooks.example.com/\r\nX-Injected: 1",
    ],
)
def test_a_url_that_is_not_https_to_a_host_on_443_is_refused_without_a_look_up(authority: Authority, url: str) -> None:
    def look_up(_host: str, _port: int) -> list[SocketAddress]:
        pytest.fail("it was looked up")

    with pytest.raises(HttpsRefusedError):
        get(GuardedHttps(resolve=look_up, allows=anywhere, context=authority.trusted), url)


def test_the_second_address_is_tried_when_nobody_listens_at_the_first(authority: Authority) -> None:
    with socket.create_server((LOOPBACK, 0)) as closed:
        nobody: SocketAddress = (LOOPBACK, closed.getsockname()[1])
    with server(authority, lambda exchange: exchange.reply(204)) as running:
        assert get(client(authority, nobody, (LOOPBACK, running.port))).status == 204


def test_nobody_there_is_a_failure_in_words(authority: Authority) -> None:
    with socket.create_server((LOOPBACK, 0)) as closed:
        nobody: SocketAddress = (LOOPBACK, closed.getsockname()[1])
    with pytest.raises(HttpsFailedError, match=f"^{HOST} could not be connected to: Connection refused$"):
        get(client(authority, nobody))
    with pytest.raises(HttpsFailedError, match="has no address"):
        get(client(authority))


def test_a_name_that_nobody_knows_is_a_failure_in_words(authority: Authority) -> None:
    def unknown(_host: str, _port: int) -> list[SocketAddress]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(HttpsFailedError, match=f"^{HOST} could not be resolved: Name or service not known$"):
        get(GuardedHttps(resolve=unknown, context=authority.trusted))


def test_the_environments_proxies_are_not_used(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACK, 0)) as closed:
        proxy = f"http://{LOOPBACK}:{closed.getsockname()[1]}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    with server(authority, lambda exchange: exchange.reply(200)) as running:
        assert get(client(authority, (LOOPBACK, running.port))).status == 200


def test_a_redirect_is_an_answer_like_any_other_and_is_not_followed(authority: Authority) -> None:
    with server(authority, lambda exchange: exchange.reply(302, location=f"https://{HOST}/elsewhere")) as running:
        assert get(client(authority, (LOOPBACK, running.port))).status == 302
        assert len(running.requests) == 1


# --- who it is --------------------------------------------------------------------------------------------------


def test_a_certificate_of_another_host_is_refused(authority: Authority) -> None:
    with (
        server(authority, lambda exchange: exchange.reply(200), host="other.example.com") as running,
        pytest.raises(HttpsRefusedError, match=f"the certificate of {HOST} is not right: Hostname mismatch"),
    ):
        get(client(authority, (LOOPBACK, running.port)))
    assert running.requests == []


def test_a_certificate_that_nobody_trusts_is_refused(authority: Authority) -> None:
    with server(authority, lambda exchange: exchange.reply(200)) as running:
        https = GuardedHttps(resolve=at((LOOPBACK, running.port)), allows=anywhere)
        with pytest.raises(HttpsRefusedError, match="is not right: unable to get local issuer certificate"):
            get(https)
    assert running.requests == []


def test_somebody_who_speaks_no_tls_is_a_failure(authority: Authority) -> None:
    with socket.create_server((LOOPBACK, 0)) as plain:

        def speak() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(10)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(HttpsFailedError, match="could not be connected to"):
            get(client(authority, (LOOPBACK, plain.getsockname()[1])))
        thread.join()


# --- for how long -----------------------------------------------------------------------------------------------


def drips(seconds: float) -> Callable[[Exchange], None]:
    """An answer that never ends, one byte at a time: no single wait is long."""

    def answer(exchange: Exchange) -> None:
        exchange.send_response(200)
        exchange.send_header("content-length", "100000")
        exchange.end_headers()
        for _ in range(1000):
            exchange.wfile.write(b".")
            time.sleep(seconds)

    return answer


def endless_headers(exchange: Exchange) -> None:
    exchange.say(b"HTTP/1.1 200 OK\r\n")
    for number in range(1000):
        exchange.wfile.write(f"x-{number}: y\r\n".encode())
        time.sleep(0.05)


def forever_continued(exchange: Exchange) -> None:
    for _ in range(1000):
        exchange.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.05)


def silent(_exchange: Exchange) -> None:
    time.sleep(3)


@pytest.mark.parametrize("answer", [drips(0.05), endless_headers, forever_continued, silent])
def test_the_time_is_bounded_as_a_whole_and_not_between_two_bytes(
    authority: Authority, answer: Callable[[Exchange], None]
) -> None:
    with server(authority, answer) as running:
        began = time.monotonic()
        with pytest.raises(HttpsFailedError, match=f"no whole answer came from {HOST}: the time was over"):
            get(client(authority, (LOOPBACK, running.port)), seconds=0.4)
        assert time.monotonic() - began < 1.5


def test_a_host_that_accepts_and_never_speaks_uses_up_its_time_and_no_more(authority: Authority) -> None:
    with socket.create_server((LOOPBACK, 0)) as mute:
        began = time.monotonic()
        with pytest.raises(HttpsFailedError, match="could not be connected to: the time was over"):
            get(client(authority, (LOOPBACK, mute.getsockname()[1])), seconds=0.3)
        assert time.monotonic() - began < 1.5


def test_a_resolver_that_hangs_uses_up_its_time_and_no_more(authority: Authority) -> None:
    release = threading.Event()

    def hang(_host: str, _port: int) -> list[SocketAddress]:
        release.wait(5)
        return []

    began = time.monotonic()
    with pytest.raises(HttpsFailedError, match="could not be resolved in time"):
        get(GuardedHttps(resolve=hang, context=authority.trusted), seconds=0.2)
    assert time.monotonic() - began < 1.5
    release.set()


# --- for how much -----------------------------------------------------------------------------------------------


def large_body(exchange: Exchange) -> None:
    exchange.reply(200, b"x" * (LARGEST_ANSWER + 1))


def large_headers(exchange: Exchange) -> None:
    exchange.send_response(200)
    for number in range(90):
        exchange.send_header(f"x-{number}", "y" * 1000)
    exchange.end_headers()


def endless_chunks(exchange: Exchange) -> None:
    exchange.send_response(200)
    exchange.send_header("transfer-encoding", "chunked")
    exchange.end_headers()
    for _ in range(1000):
        exchange.wfile.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")


@pytest.mark.parametrize("answer", [large_body, large_headers, endless_chunks])
def test_an_answer_that_is_too_large_is_refused(authority: Authority, answer: Callable[[Exchange], None]) -> None:
    with (
        server(authority, answer) as running,
        pytest.raises(HttpsRefusedError, match=f"^the answer of {HOST} is larger than 64 KB$"),
    ):
        get(client(authority, (LOOPBACK, running.port)))


def test_an_answer_that_just_fits_is_read_to_its_end(authority: Authority) -> None:
    with server(authority, lambda exchange: exchange.reply(200, b"x" * 60_000)) as running:
        assert len(get(client(authority, (LOOPBACK, running.port))).body) == 60_000


@pytest.mark.parametrize(
    "raw", [b"HTTP/1.1 banana\r\n\r\n", b"SSH-2.0\r\n", b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"]
)
def test_what_is_no_whole_http_answer_is_a_failure(authority: Authority, raw: bytes) -> None:
    with (
        server(authority, lambda exchange: exchange.say(raw)) as running,
        pytest.raises(HttpsFailedError, match="no whole answer came"),
    ):
        get(client(authority, (LOOPBACK, running.port)))


# --- who may open the door --------------------------------------------------------------------------------------


def test_nothing_in_the_environment_or_the_wiring_allows_an_address() -> None:
    """The defaults are the strict ones, nobody but tests gives others, and the module cannot read the environment."""
    defaults = inspect.signature(GuardedHttps).parameters
    assert defaults["allows"].default is may_be_called
    assert defaults["resolve"].default is guarded_https.addresses_of
    assert defaults["context"].default is ssl.create_default_context
    package = Path(guarded_https.__file__).parents[1]
    made = {path.name: re.findall(r"GuardedHttps\(.*?\)", path.read_text()) for path in package.rglob("*.py")}
    assert {name: calls for name, calls in made.items() if calls} == {"wiring.py": ["GuardedHttps()"]}
    assert "os" not in vars(guarded_https)
