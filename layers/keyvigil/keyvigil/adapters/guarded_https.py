"""HTTPS to a host that a tenant named: to a public address that was checked, within a time and a size.

The name is resolved once, every address is checked, and the connection goes to the very address that was: a second
look-up could answer otherwise (DNS rebinding). The certificate is checked against the name. Redirects are not followed
and the environment's proxies not used, because `http.client` knows neither.
"""

import http.client
import io
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, override
from urllib.parse import urlsplit

from keyvigil.domain.addresses import Address, may_be_called
from keyvigil.domain.endpoints import https_url_problem
from keyvigil.errors import KeyVigilError

PORT = 443
LARGEST_ANSWER = 64 * 1024
"""How many bytes of an answer are read, its headers included."""

_ADDRESSES_TRIED = 3

type SocketAddress = tuple[Any, ...]
"""As `socket.getaddrinfo` gives it: (host, port) or (host, port, flow, scope)."""

type Resolve = Callable[[str, int], Sequence[SocketAddress]]
type Allows = Callable[[Address], bool]


class HttpsRefusedError(KeyVigilError):
    """The request is not made, or its answer not taken, and trying again would change nothing."""


class HttpsFailedError(KeyVigilError):
    """Nobody was reached, or no whole answer came in time."""


@dataclass(frozen=True, slots=True)
class HttpsAnswer:
    """Status and body. The body is what was sent: nothing is unpacked."""

    status: int
    body: bytes


def addresses_of(host: str, port: int) -> list[SocketAddress]:
    """The addresses of a host, as the system resolves it."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(sockaddr for *_, sockaddr in found))


class GuardedHttps:
    """Makes one request. What it may connect to is decided here and by nothing in the environment."""

    def __init__(
        self,
        *,
        resolve: Resolve = addresses_of,
        allows: Allows = may_be_called,
        context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        """Keep how names are resolved, which addresses are allowed and whom to trust; tests bring their own."""
        self._resolve = resolve
        self._allows = allows
        self._make_context = context
        self._context: ssl.SSLContext | None = None

    def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None, seconds: float
    ) -> HttpsAnswer:
        """Make a request and read its answer, in this many seconds altogether.

        Raises:
            HttpsRefusedError: the URL or an address of its host is not allowed, the certificate is not right, or the
                answer is too large.
            HttpsFailedError: nobody was reached, or no whole answer came in time.
        """
        problem = https_url_problem(url, "the URL must look like https://HOST/PATH")
        parts = urlsplit(url)
        if problem is not None or parts.port not in {None, PORT}:
            raise HttpsRefusedError(problem or f"only port {PORT} is called")
        host = parts.hostname or ""
        deadline = time.monotonic() + seconds
        failure = HttpsFailedError(f"{host} has no address")
        for address in self._checked_addresses(host, deadline)[:_ADDRESSES_TRIED]:
            connection = _Connection(host, address, self._tls(), deadline)
            try:
                connection.connect()
            except ssl.SSLCertVerificationError as error:
                connection.really_close()
                reason = f"the certificate of {host} is not right: {error.verify_message}"
                raise HttpsRefusedError(reason) from error
            except OSError as error:
                connection.really_close()
                failure = HttpsFailedError(f"{host} could not be connected to: {_in_words(error)}")
                continue
            return self._exchange(connection, method, _target(url), headers, body)
        raise failure

    def _tls(self) -> ssl.SSLContext:
        # Loading the CA bundle takes 35 ms, so once a sandbox.
        if self._context is None:
            self._context = self._make_context()
        return self._context

    def _checked_addresses(self, host: str, deadline: float) -> Sequence[SocketAddress]:
        """Resolve a host, and refuse it if any of its addresses is not allowed.

        A name that points inside as well is a mistake or a trick.
        """
        try:
            found = _within(deadline, lambda: self._resolve(host, PORT))
        except TimeoutError as error:
            raise HttpsFailedError(f"{host} could not be resolved in time") from error
        except OSError as error:
            raise HttpsFailedError(f"{host} could not be resolved: {_in_words(error)}") from error
        for address in found:
            if not self._allows(ipaddress.ip_address(str(address[0]))):
                raise HttpsRefusedError(f"{host} is at {address[0]}, which is not a public address")
        return found

    def _exchange(
        self,
        connection: "_Connection",
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> HttpsAnswer:
        try:
            connection.request(method, target, body=body, headers=dict(headers))
            with connection.getresponse() as response:
                return HttpsAnswer(response.status, response.read())
        except _TooLargeError as error:
            reason = f"the answer of {connection.host} is larger than {LARGEST_ANSWER // 1024} KB"
            raise HttpsRefusedError(reason) from error
        except ValueError as error:  # its message quotes the header, which may be a secret
            reason = "the request has characters in its headers that HTTP does not allow"
            raise HttpsRefusedError(reason) from error
        except (OSError, http.client.HTTPException) as error:
            reason = f"no whole answer came from {connection.host}: {_in_words(error)}"
            raise HttpsFailedError(reason) from error
        finally:
            connection.really_close()


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _in_words(error: BaseException) -> str:
    """What went wrong, without what was sent or received."""
    if isinstance(error, TimeoutError):
        return "the time was over"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _within[T](deadline: float, call: Callable[[], T]) -> T:
    """Run what knows no time-out of its own. If it does not end in time it is left behind; it ends with the sandbox."""
    done: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((call(), None))
        except Exception as error:  # noqa: BLE001  it is raised where it was asked for
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = done.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only if T is


class _TooLargeError(Exception):
    """More came than is read."""


class _Connection(http.client.HTTPSConnection):
    """A connection to one address, with the certificate of one name, that ends at one time."""

    def __init__(self, host: str, address: SocketAddress, context: ssl.SSLContext, deadline: float) -> None:
        super().__init__(host, PORT, context=context)
        self._address = address
        self._tls = context
        self._deadline = deadline
        self._socket: socket.socket | None = None

    @override
    def connect(self) -> None:
        family = socket.AF_INET6 if ":" in str(self._address[0]) else socket.AF_INET
        self._socket = plain = socket.socket(family, socket.SOCK_STREAM)
        plain.settimeout(_left(self._deadline))
        plain.connect(self._address)
        plain.settimeout(_left(self._deadline))
        self._socket = encrypted = self._tls.wrap_socket(plain, server_hostname=self.host)
        self.sock = _Bounded(encrypted, self._deadline)

    def really_close(self) -> None:
        """Close the socket. `close` alone cannot: http.client calls it while the answer is still to be read."""
        self.close()
        if self._socket is not None:
            self._socket.close()


def _left(deadline: float) -> float:
    """The seconds that are left.

    Raises:
        TimeoutError: none are.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Bounded:
    """What http.client needs of a socket. A socket's own time-out would begin anew with every byte that comes."""

    def __init__(self, encrypted: ssl.SSLSocket, deadline: float) -> None:
        self._socket = encrypted
        self._deadline = deadline

    def sendall(self, data: Any) -> None:
        self._socket.settimeout(_left(self._deadline))
        self._socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedReader(self._socket, self._deadline))

    def close(self) -> None:
        """Left to `_Connection.really_close`."""


class _BoundedReader(io.RawIOBase):
    def __init__(self, encrypted: ssl.SSLSocket, deadline: float) -> None:
        self._socket = encrypted
        self._deadline = deadline
        self._room = LARGEST_ANSWER

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._deadline))
        count = self._socket.recv_into(buffer)
        self._room -= count
        if self._room < 0:
            raise _TooLargeError
        return count
