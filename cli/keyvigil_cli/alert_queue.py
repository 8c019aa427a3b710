"""A queue that receives a project's alerts, as an operator's own tooling would."""

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from keyvigil_cli.waiting import wait_until

if TYPE_CHECKING:
    import boto3

type Alert = dict[str, Any]

_ALERT_SECONDS = 60.0


class AlertQueue:
    """An SQS queue that one SNS topic may send to; remembers every alert it has taken from it."""

    def __init__(self, session: "boto3.Session", name: str, topic_arn: str) -> None:
        """Create the queue. Subscribing it is the API's business: ``endpoint`` is what it wants to know."""
        self._session, self._topic_arn = session, topic_arn
        self._sqs = session.client("sqs")
        self._url = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
        self.endpoint: str = attributes["Attributes"]["QueueArn"]
        self._sqs.set_queue_attributes(
            QueueUrl=self._url, Attributes={"Policy": json.dumps(_may_send(topic_arn, self.endpoint))}
        )
        self.received: list[Alert] = []

    def collect(self) -> list[Alert]:
        """Take what is there now, and return everything received so far in the order it came."""
        while True:
            answer = self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=0)
            messages = answer.get("Messages", [])
            if not messages:
                return self.received
            for message in messages:
                self.received.append(alert_in(message["Body"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])

    def take(self, *, wait_seconds: int) -> list[Alert]:
        """Wait for alerts, at most so long (20 s), and take them: they are not remembered.

        A queue of another account than the topic's is asked whether it wants them; it does.
        """
        answer = self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=wait_seconds)
        taken = []
        for message in answer.get("Messages", []):
            content = alert_in(message["Body"])
            if content.get("Type") == "SubscriptionConfirmation":
                self._confirm(content)
            else:
                taken.append(content)
            self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return taken

    def _confirm(self, asked: Alert) -> None:
        """Answer only for the topic that the queue was made for: others may not send to it anyway.

        https://docs.aws.amazon.com/sns/latest/dg/sns-send-message-to-sqs-cross-account.html
        """
        if asked.get("TopicArn") == self._topic_arn:
            self._session.client("sns").confirm_subscription(TopicArn=self._topic_arn, Token=str(asked["Token"]))

    def of_type(self, alert_type: str) -> list[Alert]:
        """Return the alerts of one type received so far."""
        return [alert for alert in self.received if alert.get("type") == alert_type]

    def wait_for(self, *alert_types: str, within: float = _ALERT_SECONDS) -> list[Alert]:
        """Wait until at least one alert of each type has come; return the first of each.

        Raises:
            DeadlineExceededError: one did not come; the message says which did.
        """
        wait_until(
            f"the alerts {', '.join(alert_types)}",
            lambda: {str(alert.get("type")) for alert in self.collect()},
            lambda seen: seen.issuperset(alert_types),
            within=within,
            show=_listed,
        )
        return [self.of_type(alert_type)[0] for alert_type in alert_types]

    def delete(self) -> None:
        """Delete the queue."""
        self._sqs.delete_queue(QueueUrl=self._url)


def alert_in(body: str) -> Alert:
    """Return the alert in a message's body, whether SNS wrapped it in a notification or delivered it raw."""
    content: Alert = json.loads(body)
    if content.get("Type") == "Notification":
        wrapped: Alert = json.loads(content["Message"])
        return wrapped
    return content


def _listed(types: Collection[str]) -> str:
    return ", ".join(sorted(types)) or "no alert at all"


def _may_send(topic_arn: str, queue_arn: str) -> dict[str, Any]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": queue_arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
            }
        ],
    }
