"""What a subscriber's endpoint must look like, by its protocol."""

import ipaddress
import re
from typing import assert_never
from urllib.parse import urlsplit

from keyvigil.domain.arns import is_queue_arn
from keyvigil.domain.projects import Protocol

# Source: https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html (FunctionName)
_FUNCTION_ARN = re.compile(
    r"arn:aws:lambda:[a-z]{2}(?:-[a-z]+)+-\d{1,2}:\d{12}:function:[a-zA-Z0-9_-]{1,64}(?::(?:\$LATEST|[\w-]{1,128}))?\Z",
    re.ASCII,
)
# One address as RFC 5321 allows it unquoted (64 before the @, labels of 63), with a domain of at least two labels.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_MAIL = re.compile(rf"[a-zA-Z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@(?:{_LABEL}\.)+[a-zA-Z]{{2,63}}\Z", re.ASCII)
_HOST = re.compile(rf"(?:{_LABEL}\.)+[a-zA-Z](?:[a-zA-Z0-9-]{{0,61}}[a-zA-Z0-9])?\Z", re.ASCII)
_PRINTABLE = re.compile(r"[\x21-\x7e]+\Z", re.ASCII)
# Source: https://www.rfc-editor.org/rfc/rfc6052#section-2.1
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
LONGEST_MAIL = 254
LONGEST_URL = 2048


def endpoint_problem(protocol: Protocol, endpoint: str) -> str | None:
    """What is wrong with an endpoint, as a sentence; None if nothing."""
    match protocol:
        case Protocol.SQS:
            if not is_queue_arn(endpoint):
                return "For protocol sqs, `endpoint` must look like arn:aws:sqs:REGION:ACCOUNT_ID:QUEUE_NAME."
        case Protocol.LAMBDA:
            if not _FUNCTION_ARN.match(endpoint):
                return "For protocol lambda, `endpoint` must look like arn:aws:lambda:REGION:ACCOUNT_ID:function:NAME."
        case Protocol.EMAIL:
            if len(endpoint) > LONGEST_MAIL or not _MAIL.match(endpoint):
                return "For protocol email, `endpoint` must be one e-mail address, like oncall@example.com."
        case Protocol.HTTPS:
            return https_url_problem(endpoint, "For protocol https, `endpoint` must look like https://HOST/PATH")
        case _:
            assert_never(protocol)
    return None


def https_url_problem(endpoint: str, looks_like: str) -> str | None:
    """What is wrong with an https URL, as a sentence that begins with `looks_like`; None if nothing.

    SNS posts from AWS's network, not from ours; an address that only makes sense inside is a mistake or a trick.
    """
    if len(endpoint) > LONGEST_URL or not _PRINTABLE.match(endpoint) or "\\" in endpoint:
        return f"{looks_like}, in printable ASCII."
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # a bracket that does not close, a port that is no number
        return f"{looks_like}."
    if parts.scheme != "https" or not host or port == 0:
        return f"{looks_like}."
    if "@" in parts.netloc:
        return f"{looks_like}, without a user name or password in it."
    if "#" in endpoint:
        return f"{looks_like}, without a fragment (#)."
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # The name must end in letters: 127.1, 0x7f.1 and 2130706433 are addresses too, to those who are lenient.
        return None if _HOST.match(host) else f"{looks_like}, where HOST is a full domain name or a public IP address."
    return None if _is_public(address) else f"{looks_like}; {host} is not a public address."


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is reachable from outside. An IPv6 address may carry an IPv4 one, which then counts."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast
