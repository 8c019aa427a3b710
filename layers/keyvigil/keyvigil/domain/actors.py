"""Who did it: the person or role behind a change that broke, endangered or mended a key."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """The caller of an AWS API call, as CloudTrail recorded it. `source_ip` is a service's name if a service called.

    Source: https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
    """

    arn: str
    event_name: str
    source_ip: str | None
    event_time: datetime


def in_words(actor: Actor) -> str:
    """Who called what, from where and when, in one clause."""
    origin = f" from {actor.source_ip}" if actor.source_ip else ""
    return f"{actor.arn} called {actor.event_name} at {actor.event_time:%Y-%m-%d %H:%M:%S} UTC{origin}"
