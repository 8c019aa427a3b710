"""SNS, EventBridge and SQS."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property, partial
from itertools import batched
from typing import TYPE_CHECKING, Any, override

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from keyvigil.adapters.alert_documents import document
from keyvigil.adapters.aws import config, session
from keyvigil.adapters.plain_data import lock_request_detail, rfc3339, to_plain
from keyvigil.adapters.topic_policies import same_policy, topic_policy
from keyvigil.domain.alert_words import SUBJECT_LIMIT, chat, mail, subject
from keyvigil.domain.alerts import (
    SCHEMA_VERSION,
    TEST_TYPE,
    Alert,
    AlertStatus,
    LockRequest,
    Severity,
    published_at,
)
from keyvigil.domain.projects import Protocol, Subscription
from keyvigil.errors import DeliveryError, RefusedError
from keyvigil.ports import CheckMessage, CheckQueue, FindActorMessage, Notifier, Topics

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sns.type_defs import MessageAttributeValueTypeDef, TagTypeDef
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

SOURCE = "keyvigil"
_SEVERITIES = list(Severity)
_KEY = "KmsMasterKeyId"
_REDRIVE = "RedrivePolicy"
_POLICY = "Policy"
_NOT_TAKEN = {"InvalidParameter", "InvalidParameterException"}
# What is wrong with the message itself, so that no repetition helps: too large, or not of the form that it must have.
# Sources: https://docs.aws.amazon.com/sns/latest/api/API_Publish.html#API_Publish_Errors
# https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEventsResultEntry.html
_NEVER_TAKEN = _NOT_TAKEN | {
    "InvalidParameterValue",
    "InvalidParameterValueException",
    "MalformedDetail",
    "InvalidArgument",
    "ValidationError",
    "ValidationException",
}
# Source: https://docs.aws.amazon.com/sns/latest/api/API_Subscribe.html#API_Subscribe_Errors
_FULL = {
    "FilterPolicyLimitExceeded",
    "FilterPolicyLimitExceededException",
    "SubscriptionLimitExceeded",
    "SubscriptionLimitExceededException",
}


class AwsNotifier(Notifier):
    """Publishes to projects' topics and to the alert bus."""

    def __init__(self, alert_bus_name: str, alerts_page: str | None = None) -> None:
        """Name the bus, and where docs/alerts.md can be read if not in the repository; nothing is called yet."""
        self._bus = alert_bus_name
        self._page = alerts_page

    @cached_property
    def _sns(self) -> "SNSClient":
        return session().client("sns", config=config())

    @cached_property
    def _events(self) -> "EventBridgeClient":
        return session().client("events", config=config())

    @override
    def publish(self, topic_arn: str, alert: Alert) -> None:
        try:
            self._sns.publish(
                TopicArn=topic_arn,
                Subject=subject(alert),
                Message=_by_protocol(json.dumps(document(alert, self._page)), mail(alert, self._page)),
                MessageStructure="json",
                MessageAttributes=_attributes(alert),
            )
        except (ClientError, BotoCoreError) as error:
            raise _not_delivered("SNS", error) from error

    @override
    def publish_to_chat(self, topic_arn: str, alert: Alert) -> None:
        # Without MessageStructure: Amazon Q reads the message itself, and leaves out what is not of its form.
        try:
            self._sns.publish(
                TopicArn=topic_arn,
                Message=json.dumps(chat(alert, self._page)),
                MessageAttributes=_attributes(alert),
            )
        except (ClientError, BotoCoreError) as error:
            raise _not_delivered("SNS", error) from error

    @override
    def put_alert(self, alert: Alert) -> None:
        self._put(alert.type, document(alert, self._page))

    @override
    def put_lock_request(self, request: LockRequest) -> None:
        self._put(request.detail_type, lock_request_detail(request))

    def _put(self, detail_type: str, detail: dict[str, Any]) -> None:
        entry = {
            "Source": SOURCE,
            "DetailType": detail_type,
            "Detail": json.dumps(detail),
            "EventBusName": self._bus,
        }
        try:
            answer = self._events.put_events(Entries=[entry])  # type: ignore[list-item]  # a plain dict has its shape
        except (ClientError, BotoCoreError) as error:
            raise _not_delivered("EventBridge", error) from error
        # PutEvents answers 200 although it refused an entry.
        if answer["FailedEntryCount"]:
            code = answer["Entries"][0].get("ErrorCode")
            message = f"EventBridge refused the event: {code}"
            raise DeliveryError(message, refused=code in _NEVER_TAKEN)


def _attributes(alert: Alert) -> "dict[str, MessageAttributeValueTypeDef]":
    attributes = {"type": str(alert.type), "severity": str(alert.severity), "status": str(alert.status)}
    if alert.project_id is not None:
        attributes["project_id"] = alert.project_id
    return {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}


def _by_protocol(document_of_it: str, words: str) -> str:
    """A message of which mail gets words and every other protocol JSON. What is not ASCII weighs least as it is."""
    return json.dumps({"default": document_of_it, "email": words}, ensure_ascii=False)


def _not_delivered(service: str, error: ClientError | BotoCoreError) -> DeliveryError:
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code")
        return DeliveryError(f"{service} did not take the message: {code}", refused=code in _NEVER_TAKEN)
    if isinstance(error, ParamValidationError):
        # Raised before anything was sent: it says nothing about whether the service answers.
        return DeliveryError(f"{service} was not asked: the message has no valid form", refused=True)
    return DeliveryError(f"{service} did not take the message: {type(error).__name__}", unreachable=True)


def filter_policy(subscription: Subscription) -> dict[str, list[Any]]:
    """The SNS filter policy that gives a subscriber what it asked for: a least severity, and types.

    `key.*` is a prefix; any other type is taken to the letter. A test message carries the subscription's own
    mark for both, so that it reaches this subscription and no other.
    """
    least = _SEVERITIES.index(Severity(subscription.min_severity))
    mark = _test_mark(subscription)
    policy: dict[str, list[Any]] = {"severity": [*(str(each) for each in _SEVERITIES[least:]), mark]}
    if subscription.types:
        policy["type"] = [
            {"prefix": pattern.removesuffix("*")} if pattern.endswith("*") else pattern
            for pattern in subscription.types
        ] + [mark]
    return policy


def _test_mark(subscription: Subscription) -> str:
    return f"test-{subscription.subscription_id}"


# With raw delivery the message is the alert itself. Over https the envelope is kept: it carries SNS's signature,
# without which the receiver could not tell our message from anybody's. Lambda and e-mail know no raw delivery.
# Source: https://docs.aws.amazon.com/sns/latest/dg/sns-large-payload-raw-message-delivery.html
_RAW = {Protocol.SQS}


class SnsTopics(Topics):
    """One topic for each project, its name within the prefix that IAM allows."""

    def __init__(
        self,
        name_prefix: str,
        tags: dict[str, str],
        kms_key_arn: str | None = None,
        dead_letters_arn: str | None = None,
        publishers: Sequence[str] = (),
        alerts_page: str | None = None,
    ) -> None:
        """Keep what every topic and subscription gets; nothing is called yet.

        Without a key SNS encrypts nothing at rest; without a queue for dead letters it drops what nobody takes; without
        `publishers`, the ARNs of the roles that publish, a topic keeps the policy that SNS gives it. `alerts_page` is
        where docs/alerts.md can be read, if not in the repository.
        """
        self._page = alerts_page
        self._publishers = tuple(publishers)
        self._prefix = name_prefix
        self._tags = tags
        self._key = kms_key_arn or ""
        self._dead_letters = dead_letters_arn

    @cached_property
    def _sns(self) -> "SNSClient":
        return session().client("sns", config=config())

    @override
    def create(self, project_id: str) -> str:
        return self._create(f"{self._prefix}{project_id}")

    @override
    def create_for_chat(self, project_id: str) -> str:
        return self._create(f"{self._prefix}{project_id}_chat")

    def _create(self, name: str) -> str:
        tags: list[TagTypeDef] = [{"Key": name, "Value": value} for name, value in self._tags.items()]
        # From its first moment: a topic has no time in which everybody of the account may publish to it.
        attributes = {_KEY: self._key} if self._key else {}
        if self._publishers:
            attributes[_POLICY] = topic_policy(self._arn_of(name), self._publishers)
        if not attributes:
            return self._sns.create_topic(Name=name, Tags=tags)["TopicArn"]
        try:
            return self._sns.create_topic(Name=name, Tags=tags, Attributes=attributes)["TopicArn"]
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in _NOT_TAKEN:
                raise
        # A request that died left it with other attributes, which SNS takes for another topic.
        topic_arn = self._sns.create_topic(Name=name, Tags=tags)["TopicArn"]
        self.keep_encrypted(topic_arn)
        self.keep_closed(topic_arn)
        return topic_arn

    def _arn_of(self, name: str) -> str:
        """A topic's ARN before there is one: in the account of who publishes to it."""
        _, partition, _, _, account_id, _ = self._publishers[0].split(":", 5)
        return f"arn:{partition}:sns:{self._sns.meta.region_name}:{account_id}:{name}"

    @override
    def keep_encrypted(self, topic_arn: str) -> bool:
        try:
            attributes = self._sns.get_topic_attributes(TopicArn=topic_arn)["Attributes"]
            if attributes.get(_KEY, "") == self._key:
                return False
            self._sns.set_topic_attributes(TopicArn=topic_arn, AttributeName=_KEY, AttributeValue=self._key)
        except ClientError as error:
            if not _is_gone(error):
                raise
            return False
        return True

    @override
    def keep_closed(self, topic_arn: str) -> bool:
        if not self._publishers:
            return False
        policy = topic_policy(topic_arn, self._publishers)
        try:
            attributes = self._sns.get_topic_attributes(TopicArn=topic_arn)["Attributes"]
            if same_policy(attributes.get(_POLICY, ""), policy):
                return False
            self._sns.set_topic_attributes(TopicArn=topic_arn, AttributeName=_POLICY, AttributeValue=policy)
        except ClientError as error:
            if not _is_gone(error):
                raise
            return False
        return True

    @override
    def delete(self, topic_arn: str) -> None:
        try:
            for page in self._sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic_arn):
                for subscription in page["Subscriptions"]:
                    self.unsubscribe(subscription["SubscriptionArn"])
        except ClientError as error:
            if not _is_gone(error):
                raise
        self._sns.delete_topic(TopicArn=topic_arn)

    @override
    def subscribe(self, topic_arn: str, subscription: Subscription) -> tuple[str, str]:
        attributes = {"FilterPolicy": json.dumps(filter_policy(subscription))}
        if subscription.protocol in _RAW:
            attributes["RawMessageDelivery"] = "true"
        if self._dead_letters:
            attributes[_REDRIVE] = json.dumps({"deadLetterTargetArn": self._dead_letters})
        try:
            answer = self._sns.subscribe(
                TopicArn=topic_arn,
                Protocol=subscription.protocol,
                Endpoint=subscription.endpoint,
                Attributes=attributes,
                ReturnSubscriptionArn=True,
            )
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code in _FULL:
                detail = "SNS takes no further one on this topic or in this account. Delete one, or tell the operator."
                raise RefusedError(409, "Too many subscriptions in project", detail) from error
            if code not in _NOT_TAKEN:
                raise
            detail = f"SNS does not take {subscription.endpoint} as an endpoint for {subscription.protocol}."
            raise RefusedError(422, "Invalid endpoint", detail) from error
        arn = answer["SubscriptionArn"]
        return arn, self.subscription_status(arn)

    @property
    @override
    def dead_letters_arn(self) -> str | None:
        return self._dead_letters

    @override
    def redrive(self, subscription_arn: str) -> bool:
        try:
            self._sns.set_subscription_attributes(
                SubscriptionArn=subscription_arn,
                AttributeName=_REDRIVE,
                AttributeValue=json.dumps({"deadLetterTargetArn": self._dead_letters}),
            )
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _NOT_TAKEN:
                detail = "SNS takes no queue of dead letters for this subscription."
                raise RefusedError(409, "Subscription is not confirmed", detail) from error
            if not _is_gone(error):
                raise
            return False
        return True

    @override
    def subscription_status(self, subscription_arn: str) -> str:
        try:
            attributes = self._sns.get_subscription_attributes(SubscriptionArn=subscription_arn)["Attributes"]
        except ClientError as error:
            if not _is_gone(error):
                raise
            return "gone"
        return "pending" if attributes.get("PendingConfirmation") == "true" else "confirmed"

    @override
    def send_test(self, topic_arn: str, subscription: Subscription, alert_id: str, at: datetime) -> None:
        test = json.dumps(_test_message(subscription, alert_id, at, self._page))
        mark = _test_mark(subscription)
        attributes = {
            "project_id": subscription.project_id,
            "type": mark,
            "severity": mark,
            "status": str(AlertStatus.RESOLVED),
        }
        words = (
            f"This is a test of the alerts of KeyVigil's project {subscription.project_id}. It reached you, so alerts "
            f"will.\n\nSubscription {subscription.subscription_id}"
        )
        try:
            self._sns.publish(
                TopicArn=topic_arn,
                Subject=f"KeyVigil {subscription.project_id} TEST {TEST_TYPE}"[:SUBJECT_LIMIT],
                Message=_by_protocol(test, words),
                MessageStructure="json",
                MessageAttributes={
                    name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
                },
            )
        except (ClientError, BotoCoreError) as error:
            raise _not_delivered("SNS", error) from error

    @override
    def unsubscribe(self, subscription_arn: str) -> None:
        if not subscription_arn.startswith("arn:"):
            return
        try:
            self._sns.unsubscribe(SubscriptionArn=subscription_arn)
        except ClientError as error:
            # Source: https://docs.aws.amazon.com/sns/latest/api/API_Unsubscribe.html
            if error.response.get("Error", {}).get("Code") in _NOT_TAKEN:
                raise RefusedError(
                    409,
                    "Subscription is not confirmed",
                    "SNS ends only a subscription that was confirmed. One that never is, SNS forgets by itself after "
                    "48 hours; then it can be deleted here.",
                ) from error
            if not _is_gone(error):
                raise


def _test_message(subscription: Subscription, alert_id: str, at: datetime, page: str | None) -> dict[str, Any]:
    """An alert, field by field, that is about nothing."""
    return {
        "schema_version": SCHEMA_VERSION,
        "alert_id": alert_id,
        "dedup_key": f"{subscription.project_id}/test/{alert_id}",
        "sequence": 0,
        "type": TEST_TYPE,
        "severity": Severity.INFO,
        "status": AlertStatus.RESOLVED,
        "project_id": subscription.project_id,
        "key": None,
        "incident_id": None,
        "cause": None,
        "actor": None,
        "clusters": [],
        "keys": [],
        "clusters_total": 0,
        "remediation": {
            "summary": "This is a test: nothing is to be done.",
            "commands": [],
            "runbook": published_at(page, "docs/alerts.md#subscriptiontest"),
        },
        "occurred_at": rfc3339(at),
        "detected_at": rfc3339(at),
    }


def _is_gone(error: ClientError) -> bool:
    return error.response.get("Error", {}).get("Code") in {"NotFound", "NotFoundException"}


def _named(message: CheckMessage | FindActorMessage) -> int:
    """How many keys or searches a message names."""
    return 1 + len(message.others) if isinstance(message, CheckMessage) else 1


SENDERS = 16
"""How many batches are on their way to the queue at the same time."""


class SqsCheckQueue(CheckQueue):
    """The queue that feeds `check_keys`."""

    _BATCH = 10

    def __init__(self, queue_url: str) -> None:
        """Name the queue; nothing is called yet."""
        self._url = queue_url

    @cached_property
    def _sqs(self) -> "SQSClient":
        return session().client("sqs", config=config(connections=SENDERS))

    @override
    def send(self, messages: Sequence[CheckMessage | FindActorMessage], *, delay_seconds: int = 0) -> int:
        batches = list(batched(messages, self._BATCH, strict=False))
        sent = 0
        refused: ClientError | BotoCoreError | None = None
        # The first by itself: if nobody answers, the others' time-outs would take the time of everything else.
        for wave in (batches[:1], *batched(batches[1:], SENDERS, strict=False)):
            for taken in self._threads.map(partial(self._send, delay_seconds), wave):
                if isinstance(taken, int):
                    sent += taken
                else:  # what the queue refuses stays due, and the next sweep sends it again
                    refused = taken
            if isinstance(refused, BotoCoreError):
                break
        if refused is not None and sent == 0:
            raise _not_delivered("SQS", refused) from refused
        return sent

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=SENDERS, thread_name_prefix="send")

    def _send(
        self, delay_seconds: int, batch: Sequence[CheckMessage | FindActorMessage]
    ) -> int | ClientError | BotoCoreError:
        entries: list[SendMessageBatchRequestEntryTypeDef] = [
            {"Id": str(number), "MessageBody": json.dumps(to_plain(message)), "DelaySeconds": delay_seconds}
            for number, message in enumerate(batch)
        ]
        try:
            taken = self._sqs.send_message_batch(QueueUrl=self._url, Entries=entries).get("Successful", [])
        except (ClientError, BotoCoreError) as error:
            return error
        return sum(_named(batch[int(each["Id"])]) for each in taken)
