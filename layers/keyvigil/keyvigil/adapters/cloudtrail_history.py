"""CloudTrail's event history in customers' accounts, asked with the same roles as the probes."""

import json
import time
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, override

from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError

from keyvigil.adapters.aws import PROBE_READ_TIMEOUT_SECONDS, acting_as, config, session
from keyvigil.adapters.cloudtrail_records import from_record
from keyvigil.adapters.kms_prober import RoleCredentials
from keyvigil.domain.actors import Actor
from keyvigil.domain.key_events import CALLS, Bearing, KeyEvent, bearing
from keyvigil.domain.keys import Key
from keyvigil.ports import CallHistory

if TYPE_CHECKING:
    from mypy_boto3_cloudtrail import CloudTrailClient

IAM_REGION = "us-east-1"
"""Where IAM's calls are recorded, whatever Region a caller was in.

Source: https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-concepts.html#cloudtrail-concepts-global-service-events
"""

SECONDS_BETWEEN_CALLS = 0.6
"""LookupEvents takes two requests a second from an account in a Region, and this account is the customer's.

Source: https://docs.aws.amazon.com/awscloudtrail/latest/APIReference/API_LookupEvents.html
"""

BUDGET_SECONDS = 12
"""How long one search may take before no further question is asked. With the time-outs of the last one on top it
stays within the 25 seconds that `check_keys` gives a message."""

NEWEST = 50
"""How many calls of one name are looked at: one page, the newest first."""


class CloudTrailHistory(CallHistory):
    """Asks LookupEvents by the call's name: a request takes one attribute, and the others are too wide.

    A key's own ARN would find its calls among every Decrypt that failed since, and there may be thousands a minute.
    """

    def __init__(self) -> None:
        """Make no client yet."""
        self._clients: dict[str, CloudTrailClient] = {}
        self._lock = Lock()

    @cached_property
    def _roles(self) -> RoleCredentials:
        return RoleCredentials(
            session().client("sts", config=config(read_timeout=PROBE_READ_TIMEOUT_SECONDS, attempts=1))
        )

    @override
    def calls(self, key: Key, names: Sequence[str], since: datetime, until: datetime) -> list[Actor] | None:
        began = time.monotonic()
        found: list[Actor] = []
        try:
            credentials, _ = self._roles.get(key.role_arn, key.external_id, key.project_id)
            for number, name in enumerate(names):
                if time.monotonic() - began > BUDGET_SECONDS:
                    break
                if number:
                    time.sleep(SECONDS_BETWEEN_CALLS)
                found += self._calls_of(key, name, since, until, credentials)
        except (ClientError, BotoCoreError):
            # Not allowed, throttled or out of reach: what was found until then may still name somebody.
            self._roles.forget(key.role_arn, key.external_id)
            return sorted(found, key=lambda each: each.event_time, reverse=True) or None
        return sorted(found, key=lambda each: each.event_time, reverse=True)

    def _calls_of(
        self, key: Key, name: str, since: datetime, until: datetime, credentials: ReadOnlyCredentials
    ) -> list[Actor]:
        cloudtrail = self._cloudtrail(IAM_REGION if name in CALLS["aws.iam"] else key.region)
        with acting_as(credentials):
            answer = cloudtrail.lookup_events(
                LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": name}],
                StartTime=since,
                EndTime=until,
                MaxResults=NEWEST,
            )
        events = (_event(each.get("CloudTrailEvent")) for each in answer.get("Events", []))
        return [
            event.actor
            for event in events
            if event is not None and event.actor is not None and bearing(event, key) is Bearing.ACTS_ON_IT
        ]

    def _cloudtrail(self, region: str) -> "CloudTrailClient":
        with self._lock:
            if region not in self._clients:
                self._clients[region] = session().client(
                    "cloudtrail",
                    region_name=region,
                    config=config(read_timeout=PROBE_READ_TIMEOUT_SECONDS, attempts=1),
                )
            return self._clients[region]


def _event(text: str | None) -> KeyEvent | None:
    try:
        record: Any = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    event = from_record(record) if isinstance(record, dict) else None
    return event if isinstance(event, KeyEvent) else None
