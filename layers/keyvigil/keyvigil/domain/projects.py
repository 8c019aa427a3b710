"""Projects: one tenant each."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

MAX_KEYS_PER_PROJECT = 20
MAX_CLUSTERS_PER_KEY = 200
MAX_SUBSCRIPTIONS_PER_PROJECT = 100
"""SNS takes 200 filter policies on a topic, and every subscription has one.
https://docs.aws.amazon.com/sns/latest/dg/subscription-filter-policy-constraints.html
"""


class Enforcement(StrEnum):
    """Whether a confirmed outage locks clusters, or is only told."""

    OBSERVE = "observe"
    ENFORCE = "enforce"


class Approval(StrEnum):
    """Whether a lockout waits for a person."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """One tenant. `keys` is a count, kept in the transaction that registers or removes a key.

    `chat` says whether alerts also go to a topic for chat channels.
    """

    project_id: str
    name: str
    enforcement: Enforcement
    approval: Approval
    check_interval_minutes: int
    grace_minutes: int
    probe_plan: str
    external_id: str
    alert_topic_arn: str
    created_at: datetime
    keys: int = 0
    chat: bool = False
    deleting: bool = False
    version: int = 0

    @property
    def chat_topic_arn(self) -> str:
        """The topic for chat channels, which exists only if `chat` says so. No project's id has an underline."""
        return f"{self.alert_topic_arn}_chat"


class Protocol(StrEnum):
    """How a subscriber is reached."""

    SQS = "sqs"
    LAMBDA = "lambda"
    EMAIL = "email"
    HTTPS = "https"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Who gets a project's alerts, and which of them.

    `dead_letters_arn` is the queue that SNS was told to send to what the endpoint does not take.
    """

    project_id: str
    subscription_id: str
    protocol: Protocol
    endpoint: str
    min_severity: str
    types: tuple[str, ...]
    subscription_arn: str
    status: str
    created_at: datetime
    dead_letters_arn: str | None = None
    version: int = 0
