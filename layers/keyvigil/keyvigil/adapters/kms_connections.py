"""Connections to KMS that cost little CPU, from urllib3's own parts. docs/decisions/0029-transport.md has the figures.

urllib3 opens them, verifies certificates, keeps them and finds out which were dropped. A urllib3 connection is one of
the standard library's http.client, and that writes requests and reads answers here, without urllib3's layers on both.
Proxies and client certificates are not served: `kms_transport.by_urllib3` leaves those to boto3.
"""

import http.client
import ssl
from functools import cache
from socket import gaierror
from typing import Any, override

from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
    SSLError,
)
from botocore.httpsession import create_urllib3_context
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry, Timeout, exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import parse_url

_ONCE = Retry(False)


class Answer:
    """An answer, read to its end, as urllib3's pool and botocore's hooks and parser look at one.

    `headers` has names in lower case, as botocore asks for them.
    """

    __slots__ = (
        "_connection", "_pool", "content", "headers", "length_remaining", "retries", "status", "status_code",
        "version_string",
    )  # fmt: skip

    def __init__(self, came: http.client.HTTPResponse) -> None:
        self.status = self.status_code = came.status
        self.headers = {name.lower(): value for name, value in came.headers.raw_items()}
        self.content = came.read(came.length)
        self.length_remaining = came.length
        self.version_string = "HTTP"


class _Connection(HTTPConnection):
    """A connection on which head and body of a request leave in one write: one TLS record, one system call."""

    _held: list[bytes] | None = None

    @override
    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **_options: Any) -> None:
        """Send a request whose headers have all that it needs but its length.

        On a connection that was used before, the time-out for reading holds for writing too: each change of it is a
        system call, around which another thread takes the interpreter.
        """
        self._held = []
        try:
            self.putrequest(method, url, skip_host=True)
            self.putheader("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.putheader(name, value)
            self.endheaders(body)
        finally:
            held, self._held = self._held, None
        self.send(b"".join(held))

    @override
    def putheader(self, header: str | bytes, *values: Any) -> None:
        """http.client's, without urllib3's look for headers to be skipped."""
        http.client.HTTPConnection.putheader(self, header, *values)

    @override
    def send(self, data: Any) -> None:
        """Send, or hold what is still to become one write."""
        if self._held is None:
            super().send(data)
        else:
            self._held.append(data)

    @override
    def getresponse(self) -> Any:
        """The answer, read to its end. If that was cut off, the pool will find that the connection was dropped."""
        if self.sock.gettimeout() != self.timeout:
            self.sock.settimeout(self.timeout)
        return Answer(http.client.HTTPConnection.getresponse(self))


class _TlsConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls: Any = _Connection  # urllib3's protocol of a connection has a response that is urllib3's


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls: Any = _TlsConnection  # as above


@cache
def _tls(ca_bundle: str) -> ssl.SSLContext:
    """Settings of botocore's, with the certificates read once: urllib3 would read them again for every connection."""
    context: ssl.SSLContext = create_urllib3_context()
    context.load_verify_locations(ca_bundle)
    return context


class KmsConnections:
    """Connections to one endpoint. Safe to use from several threads."""

    def __init__(self, url: str, *, connect_seconds: float, read_seconds: float, kept: int, ca_bundle: str) -> None:
        """Open none yet. `kept` are used again, what is beyond is closed after use."""
        self._url = url
        at = parse_url(url)
        self._target = at.request_uri
        settings: dict[str, Any] = {"timeout": Timeout(connect=connect_seconds, read=read_seconds), "maxsize": kept}
        if at.scheme == "https":
            settings |= {"ssl_context": _tls(ca_bundle), "cert_reqs": "CERT_REQUIRED"}
        pool = _TlsPool if at.scheme == "https" else _Pool
        self._pool: Any = pool(at.host or "", at.port, **settings)

    def send(self, request: Any) -> Answer:
        """Post a request's body with its headers, once.

        Raises:
            HTTPClientError: what botocore's own session would raise.
        """
        try:
            answer: Answer = self._pool.urlopen(
                "POST", self._target, request.body, request.headers, _ONCE, redirect=False, assert_same_host=False
            )
        except exceptions.SSLError as error:
            raise SSLError(endpoint_url=self._url, error=error) from error
        except (exceptions.NewConnectionError, gaierror) as error:
            raise EndpointConnectionError(endpoint_url=self._url, error=error) from error
        except exceptions.ConnectTimeoutError as error:
            raise ConnectTimeoutError(endpoint_url=self._url, error=error) from error
        except exceptions.ReadTimeoutError as error:
            raise ReadTimeoutError(endpoint_url=self._url, error=error) from error
        except exceptions.ProtocolError as error:
            raise ConnectionClosedError(error=error, request=request, endpoint_url=self._url) from error
        except Exception as error:
            raise HTTPClientError(error=error) from error
        return answer
