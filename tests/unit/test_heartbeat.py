"""The watcher outside, over real TLS on this machine: what is asked, for how long, and what is told about a failure."""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keyvigil import wiring
from keyvigil.adapters import heartbeat
from keyvigil.adapters.heartbeat import BEAT_SECONDS, HttpsHeartbeat
from keyvigil.errors import DeliveryError
from keyvigil.settings import Settings

SECRET = "/ping/5c1d9b7e-the-secret-part"


@dataclass
class Watcher:
    """An HTTPS server on this machine, and what it was asked."""

    url: str = ""
    status: int = 200
    location: str = ""
    delay: Callable[[], object] = lambda: None
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody else trusts, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "watcher")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "watcher.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def watcher(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watcher]:
    """A watcher whose certificate this process trusts."""
    watcher = Watcher()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            watcher.asked.append(f"{self.command} {self.path}")
            watcher.delay()
            self.send_response(watcher.status)
            if watcher.location:
                self.send_header("Location", watcher.location)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    watcher.url = f"https://127.0.0.1:{server.server_port}{SECRET}"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    yield watcher
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


def trouble_of(beat: HttpsHeartbeat) -> str:
    with pytest.raises(DeliveryError) as refused:
        beat.beat()
    words = str(refused.value)
    assert SECRET not in words
    # A traceback would show what it came from, and that may name the address.
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    return words


def test_a_beat_is_one_get_of_the_address(watcher: Watcher) -> None:
    HttpsHeartbeat(watcher.url).beat()

    assert watcher.asked == [f"GET {SECRET}"]


@pytest.mark.parametrize("status", [301, 404, 429, 500, 503])
def test_an_answer_that_is_no_success_is_a_failure_and_is_not_followed_or_repeated(
    watcher: Watcher, status: int
) -> None:
    watcher.status = status
    watcher.location = f"{watcher.url}/elsewhere"

    with pytest.raises(DeliveryError, match=f"the answer was {status}") as refused:
        HttpsHeartbeat(watcher.url).beat()

    assert SECRET not in str(refused.value)
    assert len(watcher.asked) == 1


def test_a_certificate_that_nobody_vouches_for_is_a_failure(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    assert trouble_of(HttpsHeartbeat(watcher.url)) == "the heartbeat was not taken: SSLError"
    assert watcher.asked == []


def test_an_address_that_is_not_https_is_never_asked(watcher: Watcher) -> None:
    with pytest.raises(DeliveryError, match="does not begin with https://"):
        HttpsHeartbeat(watcher.url.replace("https", "http")).beat()

    assert watcher.asked == []


@pytest.mark.parametrize("url", ["https://", "https://[broken", "https://user@:99999999/", "https://exa mple/"])
def test_an_address_that_is_none_is_a_failure_like_any_other(url: str) -> None:
    with pytest.raises(DeliveryError, match="the heartbeat was not taken"):
        HttpsHeartbeat(url).beat()


def test_nobody_at_the_other_end_is_a_failure() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        beat = HttpsHeartbeat(f"https://127.0.0.1:{nobody.getsockname()[1]}{SECRET}")

        assert trouble_of(beat).startswith("the heartbeat was not taken: ")


def test_a_watcher_that_takes_for_ever_is_given_up_in_time_and_the_next_beat_does_not_pile_up(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket's time-out begins anew with each byte, so the whole has one of its own."""
    released = threading.Event()
    watcher.delay = lambda: released.wait(timeout=30)
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.3)
    beat = HttpsHeartbeat(watcher.url)
    try:
        began = time.monotonic()
        assert trouble_of(beat) == "the heartbeat was not taken: TimeoutError"
        assert trouble_of(beat) == "the heartbeat was not taken: TimeoutError"
        assert time.monotonic() - began < 3
        assert len(watcher.asked) == 1
    finally:
        released.set()


def test_a_beat_leaves_the_sweep_nearly_all_of_its_time() -> None:
    assert BEAT_SECONDS <= 5


@pytest.mark.parametrize("url", ["", "https://watcher.example/ping"])
def test_there_is_a_heartbeat_if_the_operator_named_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "settings", lambda: Settings({"KEYVIGIL_HEARTBEAT_URL": url}, "us-west-2"))
    wiring.heartbeat.cache_clear()
    try:
        assert (wiring.heartbeat() is not None) is bool(url)
    finally:
        wiring.heartbeat.cache_clear()
