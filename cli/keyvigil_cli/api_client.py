"""A client for KeyVigil's HTTP API: signs each request with SigV4, raises the API's own problem reports."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from keyvigil_cli.errors import CliError

type JsonObject = dict[str, Any]

# An HTTP API ends an integration after 30 seconds; a little more than that lets its own answer arrive.
# https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html
_TIMEOUT = urllib3.Timeout(connect=5.0, read=35.0)
_RETRY_GET = urllib3.Retry(
    total=3,
    connect=3,
    read=3,
    redirect=0,
    status=0,
    other=0,
    backoff_factor=0.3,
    allowed_methods=frozenset({"GET"}),
)
_PROBLEM = "application/problem+json"
# API Gateway refuses with 429 before anything is carried out, so every method may be tried again.
_PAUSES_AFTER_429 = (0.5, 1.0, 2.0)  # seconds
_LONGEST_PAUSE = 10.0  # seconds


class ApiUnreachableError(CliError):
    """The API gave no answer: nobody knows whether the request was carried out."""


class NoSuchPathError(CliError):
    """An identifier was given that nothing can have."""


class ApiProblemError(CliError):
    """The API refused or failed: its problem report (RFC 9457), or what it said instead of one."""

    def __init__(
        self,
        status: int,
        problem: Mapping[str, Any],
        *,
        written_by_keyvigil: bool = True,
        retry_after_seconds: int | None = None,
    ) -> None:
        """Keep the whole report; the common members are attributes too."""
        self.status = status
        self.written_by_keyvigil = written_by_keyvigil
        self.retry_after_seconds = retry_after_seconds
        self.problem = dict(problem)
        self.type: str = problem.get("type", "about:blank")
        self.title: str = problem.get("title") or _phrase(status)
        self.detail: str = problem.get("detail") or ""
        self.cause: str | None = problem.get("cause")
        self.remediation: Mapping[str, Any] | None = problem.get("remediation")
        self.errors: list[Mapping[str, str]] = problem.get("errors") or []
        super().__init__(self._words())

    @classmethod
    def of(cls, status: int, content_type: str, body: bytes, retry_after: str = "") -> Self:
        """Read a failed answer, whether KeyVigil wrote it or API Gateway, which knows no problem reports."""
        after = int(retry_after) if retry_after.isdecimal() else None
        text = body.decode("utf-8", errors="replace")
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            return cls(status, {"detail": text[:500]}, written_by_keyvigil=False, retry_after_seconds=after)
        if content_type.partition(";")[0].strip().lower() == _PROBLEM or "title" in content:
            return cls(status, content, retry_after_seconds=after)
        detail = str(content.get("message") or content.get("Message") or text[:500])
        return cls(status, {"detail": detail}, written_by_keyvigil=False, retry_after_seconds=after)

    def _words(self) -> str:
        words = [f"{self.status} {self.title}"]
        if self.detail:
            words.append(self.detail)
        words.extend(f"{error.get('field', '?')}: {error.get('message', '?')}" for error in self.errors)
        if self.remediation:
            words.append(str(self.remediation.get("summary", "")))
        return "; ".join(str(word) for word in words if word)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus else "Unknown status"


def path_of(*segments: str) -> str:
    """Return the path of these segments, each quoted, so that no identifier can leave its place.

    Raises:
        NoSuchPathError: a segment is empty, or means another folder: no quoting helps against that.
    """
    if not {"", ".", ".."}.isdisjoint(segments):
        raise NoSuchPathError(f"{'/'.join(segments)!r} cannot be the path of anything")
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


class ApiClient:
    """Calls the API at ``url`` with ``credentials``; use one for each caller."""

    def __init__(self, url: str, region: str, credentials: Credentials) -> None:
        """Take the ``ApiUrl`` output, the stack's Region and the caller's credentials."""
        self._url = url.rstrip("/")
        self._region = region
        self._credentials = credentials
        self._http = _connections(self._url)
        self._sleep: Callable[[float], None] = time.sleep

    @property
    def region(self) -> str:
        """The Region that it is in."""
        return self._region

    def get(self, *segments: str, **query: str) -> JsonObject:
        """GET one thing, or one page of a list; tried again when no connection was had."""
        return self.request("GET", path_of(*segments), query=query)

    def items(self, *segments: str, **query: str) -> Iterator[JsonObject]:
        """Go through all pages of a list."""
        token: str | None = None
        while True:
            page = self.get(*segments, **query, **({"next_token": token} if token else {}))
            yield from page["items"]
            token = page.get("next_token")
            if not token:
                return

    def post(self, *segments: str, body: JsonObject | None = None, idempotency_key: str | None = None) -> JsonObject:
        """POST; with an idempotency key, posting the same again answers with what is there."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self.request("POST", path_of(*segments), body=body or {}, headers=headers)

    def patch(self, *segments: str, body: JsonObject) -> JsonObject:
        """PATCH the given fields."""
        return self.request("PATCH", path_of(*segments), body=body)

    def delete(self, *segments: str) -> JsonObject:
        """DELETE; an answer without content is an empty object."""
        return self.request("DELETE", path_of(*segments))

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> JsonObject:
        """Sign and send one request; ``path`` must already be quoted (:func:`path_of`).

        Raises:
            ApiProblemError: the answer's status is 400 or more.
            ApiUnreachableError: there was no answer, or one that is not JSON.
        """
        url = self._url + path + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        content = None if body is None else json.dumps(body).encode()
        sent = {"Accept": f"application/json, {_PROBLEM}", **(headers or {})}
        if content is not None:
            sent["Content-Type"] = "application/json"
        response = self._send(method, url, content, sent)
        for pause in _PAUSES_AFTER_429:
            if response.status != HTTPStatus.TOO_MANY_REQUESTS:
                break
            asked = response.headers.get("Retry-After", "")
            self._sleep(min(float(asked) if asked.isdecimal() else pause, _LONGEST_PAUSE))
            response = self._send(method, url, content, sent)
        if response.status >= HTTPStatus.BAD_REQUEST:
            kind, after = response.headers.get("Content-Type", ""), response.headers.get("Retry-After", "")
            raise ApiProblemError.of(response.status, kind, response.data, after)
        if not response.data:
            return {}
        try:
            answer = json.loads(response.data)
        except ValueError as error:
            message = f"{method} {url} answered {response.status} with something that is not JSON"
            raise ApiUnreachableError(message) from error
        if not isinstance(answer, dict):
            message = f"{method} {url} answered with a JSON {type(answer).__name__} where an object was expected"
            raise ApiUnreachableError(message)
        return answer

    def _send(
        self, method: str, url: str, content: bytes | None, headers: Mapping[str, str]
    ) -> urllib3.BaseHTTPResponse:
        request = AWSRequest(method=method, url=url, data=content, headers=dict(headers))
        SigV4Auth(self._credentials.get_frozen_credentials(), "execute-api", self._region).add_auth(request)
        try:
            return self._http.request(
                method,
                url,
                body=content,
                headers=dict(request.headers.items()),
                retries=_RETRY_GET if method == "GET" else False,
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as error:
            message = f"no answer from {method} {url}: {error}"
            raise ApiUnreachableError(message) from error


def _connections(url: str) -> urllib3.PoolManager:
    """Go through the proxy that HTTPS_PROXY names, as the AWS SDK does; plain HTTP never leaves this machine."""
    address = urlsplit(url)
    proxy = getproxies().get("https") if address.scheme == "https" else None
    if proxy and not proxy_bypass(address.hostname or ""):
        return urllib3.ProxyManager(proxy, timeout=_TIMEOUT, retries=False)
    return urllib3.PoolManager(timeout=_TIMEOUT, retries=False)
