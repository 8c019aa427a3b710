"""The one place where an event from EventBridge, or a record of CloudTrail, becomes a `KeyEvent`.

What comes in is believed as little as possible: whatever is not exactly what KMS, IAM and CloudTrail write is ignored
with a reason, and nothing in it raises. What goes out are ids, ARNs, a call's name, its time and its caller.

Sources:
    https://docs.aws.amazon.com/kms/latest/developerguide/kms-events.html
    https://docs.aws.amazon.com/kms/latest/developerguide/understanding-kms-entries.html
    https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-service-event-cloudtrail.html
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keyvigil.domain.actors import Actor
from keyvigil.domain.arns import KmsArn, parse_kms_arn
from keyvigil.domain.key_events import CALLS, GRANT_CALLS, KMS_EVENTS, KeyEvent

API_CALL = "AWS API Call via CloudTrail"

_EVENT_SOURCES = {"aws.kms": "kms.amazonaws.com", "aws.iam": "iam.amazonaws.com"}
_ACCOUNT = re.compile(r"\d{12}\Z", re.ASCII)
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d{1,2}\Z", re.ASCII)
_ROLE_NAME = re.compile(r"[\w+=,.@-]{1,64}\Z", re.ASCII)
_KEY_STORE = re.compile(r"cks-[0-9a-f]{1,60}\Z", re.ASCII)
# Who called ends in alerts, in mail and in the timeline: one line of plain characters.
_CALLER = re.compile(r"arn:aws[a-z-]*:(?:iam|sts)::\d{12}:[\x21-\x7e]{1,1000}\Z", re.ASCII)
_ORIGIN = re.compile(r"[\x20-\x7e]{1,255}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ignored:
    """Why something is no event about a key. It says nothing of what was in it."""

    reason: str


def from_eventbridge(event: object) -> KeyEvent | Ignored:
    """Take an event from EventBridge apart.

    `account` is filled in by EventBridge, and a source that begins with `aws.` only AWS can use:
    https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEventsRequestEntry.html
    """
    envelope = _mapping(event)
    source, kind = _text(envelope.get("source")), _text(envelope.get("detail-type"))
    account, detail = _match(_ACCOUNT, envelope.get("account")), _mapping(envelope.get("detail"))
    if source not in _EVENT_SOURCES or account is None:
        return Ignored("it is not from KMS or IAM in an account")
    if kind == API_CALL:
        call = from_record(detail)
        if isinstance(call, KeyEvent) and (call.account_id != account or call.name not in CALLS[source]):
            return Ignored("its record is of another account or service than the event")
        return call
    if source == "aws.kms" and kind in KMS_EVENTS:
        return _of_kms(envelope, detail, account, kind)
    return Ignored("it is of a kind that says nothing of a key's health")


def _of_kms(envelope: Mapping[str, Any], detail: Mapping[str, Any], account: str, name: str) -> KeyEvent | Ignored:
    region = _match(_REGION, envelope.get("region"))
    if region is None:
        return Ignored("it names no Region")
    arns = tuple(_arns(envelope.get("resources"), account)) or _key_arn(detail.get("key-id"), region, account)
    if not arns:
        return Ignored("it names no key of its account")
    return KeyEvent(account_id=account, region=region, name=name, arns=arns)


def from_record(record: Mapping[str, Any]) -> KeyEvent | Ignored:
    """Take a record of CloudTrail apart: a call that succeeded, as the owner's account recorded it."""
    account, region = _match(_ACCOUNT, record.get("recipientAccountId")), _match(_REGION, record.get("awsRegion"))
    source = next((name for name, each in _EVENT_SOURCES.items() if each == record.get("eventSource")), None)
    name, at = _text(record.get("eventName")), _moment(record.get("eventTime"))
    if account is None or region is None or at is None or source is None:
        return Ignored("it is no whole record of a call to KMS or IAM")
    if name not in CALLS[source]:
        return Ignored("its call neither breaks nor mends a key")
    if record.get("errorCode") is not None:
        return Ignored("its call was refused")
    caller = _mapping(record.get("userIdentity"))
    if name in GRANT_CALLS and caller.get("invokedBy") is not None:
        # Services that encrypt for somebody make and retire grants for themselves, many a minute.
        return Ignored("it is a grant that a service manages for itself")
    parameters = _mapping(record.get("requestParameters"))
    on_kms = source == "aws.kms"
    event = KeyEvent(
        account_id=account,
        region=region,
        name=name,
        arns=_named_arns(record, parameters, region, account) if on_kms else (),
        role_name=None if on_kms else _match(_ROLE_NAME, _parameter(parameters, "roleName")),
        key_store_id=_match(_KEY_STORE, _parameter(parameters, "customKeyStoreId")) if on_kms else None,
        actor=_actor(caller, name, record.get("sourceIPAddress"), at),
    )
    if not event.arns and event.role_name is None and event.key_store_id is None:
        return Ignored("it names no key, role or key store of its account")
    return event


def _named_arns(
    record: Mapping[str, Any], parameters: Mapping[str, Any], region: str, account: str
) -> tuple[KmsArn, ...]:
    """The keys and aliases that a record of KMS is about: as `resources` has them, else as the caller wrote them."""
    arns = tuple(_arns(record.get("resources"), account))
    if arns:
        return arns
    alias = _parameter(parameters, "aliasName")
    named = parse_kms_arn(f"arn:aws:kms:{region}:{account}:{alias}") if isinstance(alias, str) else None
    return (*_key_arn(_parameter(parameters, "keyId"), region, account), *((named,) if named is not None else ()))


def _arns(resources: object, account: str) -> Iterator[KmsArn]:
    """The KMS ARNs among a record's or an event's resources, as far as they are the account's own."""
    for resource in resources if isinstance(resources, list) else ():
        text = resource if isinstance(resource, str) else _mapping(resource).get("ARN")
        arn = parse_kms_arn(text) if isinstance(text, str) else None
        if arn is not None and arn.account_id == account:
            yield arn


def _key_arn(key_id: object, region: str, account: str) -> tuple[KmsArn, ...]:
    if not isinstance(key_id, str):
        return ()
    text = key_id if key_id.startswith("arn:") else f"arn:aws:kms:{region}:{account}:key/{key_id}"
    return tuple(_arns([text], account))


def _parameter(parameters: Mapping[str, Any], name: str) -> object:
    """A request's parameter. CloudTrail begins its name with a small letter, the local cloud as the API does."""
    return parameters.get(name, parameters.get(name[0].upper() + name[1:]))


def _actor(caller: Mapping[str, Any], name: str, origin: object, at: datetime) -> Actor | None:
    arn = _match(_CALLER, caller.get("arn"))
    if arn is None:
        return None
    return Actor(arn=arn, event_name=name, source_ip=_match(_ORIGIN, origin), event_time=at)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _match(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.match(value) else None


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(_text(value))
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
