"""What leaves KeyVigil: the exact requests to SNS, EventBridge, SQS, Step Functions and Lambda, and their refusals."""

import io
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber

from keyvigil.adapters.alert_documents import document
from keyvigil.adapters.functions import InvokedKeyChecker, InvokedOutboxRelay
from keyvigil.adapters.messaging import SENDERS, AwsNotifier, SnsTopics, SqsCheckQueue, filter_policy
from keyvigil.adapters.plain_data import from_plain, to_plain
from keyvigil.adapters.step_functions import StepFunctionsWorkflow
from keyvigil.adapters.topic_policies import topic_policy
from keyvigil.api.requests import Subscribe
from keyvigil.domain.alert_words import chat, mail
from keyvigil.domain.alerts import Alert, AlertType, LockRequest, Severity, WorkflowStart, make_alert
from keyvigil.domain.clusters import ClusterStatus
from keyvigil.domain.incidents import AffectedCluster, WorkflowKind
from keyvigil.domain.keys import Baseline, KeyFacts, KeyUse, Registration, Trigger
from keyvigil.domain.projects import Protocol, Subscription
from keyvigil.domain.verdicts import Cause, Verdict
from keyvigil.errors import CheckerUnavailableError, DeliveryError, NotFoundError, RefusedError
from keyvigil.ports import (
    CheckMessage,
    DueKey,
    ExecutionState,
    FindActorMessage,
    OperationAnswer,
    RegistrationAnswer,
    RestoreAnswer,
    ValidationAnswer,
)
from tests.examples import CUSTOMER, EXTERNAL_ID, KEY_ARN, KEY_ID, NOW, ROLE_ARN, incident, key, verdict
from tests.fakes import changed

TOPIC_ARN = "arn:aws:sns:us-west-2:111111111111:keyvigil-project-acme-prod"
SUBSCRIPTION_ARN = f"{TOPIC_ARN}:8d2e5b1c-0000-0000-0000-000000000000"
QUEUE_ARN = f"arn:aws:sqs:us-west-2:{CUSTOMER}:alerts"
MARK = "test-01JSUBSCRIPTION"
QUEUE_URL = "https://sqs.us-west-2.amazonaws.com/111111111111/keyvigil-check"
LOCKOUT_ARN = "arn:aws:states:us-west-2:111111111111:stateMachine:keyvigil-cluster-lockout"
RECOVERY_ARN = "arn:aws:states:us-west-2:111111111111:stateMachine:keyvigil-cluster-recovery"
EXECUTION_ARN = "arn:aws:states:us-west-2:111111111111:execution:keyvigil-cluster-lockout:01J-lock-1"
ENDPOINT = "https://service.us-west-2.amazonaws.com"

START = WorkflowStart(
    workflow=WorkflowKind.LOCKOUT,
    name="01J-lock-1",
    project_id="acme-prod",
    key_id=KEY_ID,
    incident_id="01J",
)
LOCK_REQUEST = LockRequest(
    detail_type="Cluster Lock Requested",
    project_id="acme-prod",
    cluster_id="vectors-prod",
    incident_id="01J",
    fence=1795369305484,
    reason=f"{KEY_ID}: incident 01J",
    respond_by=NOW + timedelta(minutes=5),
)


def alert(kind: AlertType = AlertType.KEY_UNHEALTHY, **fields: Any) -> Alert:
    made, _ = make_alert(
        kind,
        alert_id="01JALERT",
        key=key(verdict=verdict(Cause.KEY_DISABLED, aws_error_code="DisabledException"), alert_sequence=6),
        incident=incident(),
        clusters=[AffectedCluster(cluster_id="vectors-prod", status=ClusterStatus.LOCKED)],
        occurred_at=NOW,
        detected_at=NOW + timedelta(seconds=2),
    )
    return changed(made, **fields)


@pytest.fixture(scope="module")
def clients() -> dict[str, Any]:
    session = boto3.Session("AKIAKEYVIGILITSELF01", "made-up", region_name="us-west-2")
    return {
        "sns": session.client("sns"),
        "events": session.client("events"),
        "sqs": session.client("sqs"),
        "stepfunctions": session.client("stepfunctions"),
        "lambda": session.client("lambda"),
    }


@dataclass(frozen=True)
class Stubs:
    """A stub of each service; whatever was laid ready must have been asked for by the end of the test."""

    sns: Stubber
    events: Stubber
    sqs: Stubber
    stepfunctions: Stubber
    lambda_: Stubber


@pytest.fixture
def aws(clients: dict[str, Any]) -> Iterator[Stubs]:
    stubs = {name: Stubber(client) for name, client in clients.items()}
    for stub in stubs.values():
        stub.activate()
    yield Stubs(*stubs.values())
    for stub in stubs.values():
        stub.assert_no_pending_responses()
        stub.deactivate()


def unreachable(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every call of a client time out."""

    def times_out(*_: Any) -> None:
        raise ConnectTimeoutError(endpoint_url=ENDPOINT)

    monkeypatch.setattr(client, "_make_api_call", times_out)


# --- the notifier -----------------------------------------------------------------------------------------------


@pytest.fixture
def notifier(clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> AwsNotifier:
    notifier = AwsNotifier("keyvigil-alerts")
    notifier.__dict__.update(_sns=clients["sns"], _events=clients["events"])
    return notifier


def published(aws: Stubs, notifier: AwsNotifier, what: Alert) -> dict[str, Any]:
    """Publish an alert and return the request that SNS got."""
    seen: dict[str, Any] = {}

    def keep(params: dict[str, Any], **_: Any) -> None:
        seen.update(params)

    events = aws.sns.client.meta.events
    events.register("provide-client-params.sns.Publish", keep)
    aws.sns.add_response("publish", {"MessageId": "1"}, dict.fromkeys(PUBLISHED, ANY))
    notifier.publish(TOPIC_ARN, what)
    events.unregister("provide-client-params.sns.Publish", keep)
    return seen


PUBLISHED = ["TopicArn", "Subject", "Message", "MessageStructure", "MessageAttributes"]


def test_an_alert_is_published_to_the_projects_topic_with_attributes_to_filter_by(
    aws: Stubs, notifier: AwsNotifier
) -> None:
    request = published(aws, notifier, alert())

    assert request["TopicArn"] == TOPIC_ARN
    assert request["MessageStructure"] == "json"
    assert request["Subject"] == "KeyVigil acme-prod 1234abcd CRITICAL key.unhealthy"
    assert request["MessageAttributes"] == {
        "project_id": {"DataType": "String", "StringValue": "acme-prod"},
        "type": {"DataType": "String", "StringValue": "key.unhealthy"},
        "severity": {"DataType": "String", "StringValue": "critical"},
        "status": {"DataType": "String", "StringValue": "firing"},
    }


def test_an_alert_about_keyvigil_itself_has_no_project_to_filter_by(aws: Stubs, notifier: AwsNotifier) -> None:
    request = published(aws, notifier, changed(alert(), project_id=None, key=None))

    assert request["Subject"] == "KeyVigil fleet CRITICAL key.unhealthy"
    assert "project_id" not in request["MessageAttributes"]


def test_an_alert_is_json_field_by_field_as_in_the_contract(aws: Stubs, notifier: AwsNotifier) -> None:
    request = published(aws, notifier, alert())

    document = json.loads(json.loads(request["Message"])["default"])
    assert document == {
        "schema_version": "1.0",
        "alert_id": "01JALERT",
        "dedup_key": f"acme-prod/{KEY_ID}/01JINCIDENT/key",
        "sequence": 7,
        "type": "key.unhealthy",
        "severity": "critical",
        "status": "firing",
        "project_id": "acme-prod",
        "key": {"arn": KEY_ARN, "region": "us-west-2", "account_id": CUSTOMER, "alias": None},
        "incident_id": "01JINCIDENT",
        "cause": {
            "code": "KEY_DISABLED",
            "operation": "Encrypt",
            "aws_error_code": "DisabledException",
            "message": "The key does not work: KEY_DISABLED.",
        },
        "actor": None,
        "clusters": [{"cluster_id": "vectors-prod", "status": "LOCKED", "detail": None}],
        "keys": [],
        "clusters_total": 1,
        "remediation": {
            "summary": "Mend it.",
            "commands": ["aws kms enable-key"],
            "runbook": "docs/alerts.md#keyunhealthy",
        },
        "occurred_at": "2026-11-22T03:00:00.000Z",
        "detected_at": "2026-11-22T03:00:02.000Z",
    }


def test_a_chat_channel_gets_its_own_form_and_the_same_attributes_to_filter_by(
    aws: Stubs, notifier: AwsNotifier
) -> None:
    attributes = published(aws, notifier, alert())["MessageAttributes"]
    expected = {"TopicArn": TOPIC_ARN, "Message": json.dumps(chat(alert())), "MessageAttributes": attributes}
    aws.sns.add_response("publish", {"MessageId": "1"}, expected)

    notifier.publish_to_chat(TOPIC_ARN, alert())


def test_an_alert_that_sns_does_not_take_for_chat_is_not_delivered(aws: Stubs, notifier: AwsNotifier) -> None:
    aws.sns.add_client_error("publish", "Throttled")

    with pytest.raises(DeliveryError, match="Throttled"):
        notifier.publish_to_chat(TOPIC_ARN, alert())


def test_an_email_subscriber_gets_plain_words_and_no_json(aws: Stubs, notifier: AwsNotifier) -> None:
    text = json.loads(published(aws, notifier, alert())["Message"])["email"]

    assert text == mail(alert())
    assert not set('{}"') & set(text)
    for needed in ("KEY_DISABLED", KEY_ARN, "LOCKED: vectors-prod", "2026-11-22 03:00:00 UTC", "aws kms enable-key"):
        assert needed in text


@pytest.mark.parametrize("kind", AlertType)
def test_a_subject_is_one_line_that_sns_takes(aws: Stubs, notifier: AwsNotifier, kind: AlertType) -> None:
    subject = published(aws, notifier, changed(alert(), type=kind, project_id="p" * 200))["Subject"]

    assert len(subject) <= 100
    assert subject.isascii()
    assert subject.isprintable()


@pytest.mark.parametrize("code", ["NotFound", "AuthorizationError", "InternalError", "Throttled"])
def test_an_alert_that_sns_refuses_is_not_delivered(aws: Stubs, notifier: AwsNotifier, code: str) -> None:
    aws.sns.add_client_error("publish", code)

    with pytest.raises(DeliveryError, match=f"SNS did not take the message: {code}"):
        notifier.publish(TOPIC_ARN, alert())


@pytest.mark.parametrize(
    ("code", "refused"),
    [("InvalidParameter", True), ("Throttled", False), ("KMSDisabled", False), ("NotFound", False)],
)
def test_only_what_is_wrong_with_the_message_itself_is_refused_for_good(
    aws: Stubs, notifier: AwsNotifier, code: str, *, refused: bool
) -> None:
    aws.sns.add_client_error("publish", code)

    with pytest.raises(DeliveryError) as failed:
        notifier.publish(TOPIC_ARN, alert())
    assert failed.value.refused is refused


def test_a_detail_that_the_bus_cannot_read_is_refused_for_good(aws: Stubs, notifier: AwsNotifier) -> None:
    refused = {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "MalformedDetail", "ErrorMessage": "oh"}]}
    aws.events.add_response("put_events", refused, {"Entries": ANY})

    with pytest.raises(DeliveryError) as failed:
        notifier.put_alert(alert())
    assert failed.value.refused


def test_a_message_of_no_valid_form_says_nothing_about_whether_sns_answers(notifier: AwsNotifier) -> None:
    """botocore refuses it before anything is sent; taken for a service that does not answer, it would stop the rest."""
    with pytest.raises(DeliveryError) as failed:
        notifier.publish(None, alert())  # type: ignore[arg-type]  # what a damaged project might hold
    assert (failed.value.refused, failed.value.unreachable) == (True, False)


def test_a_target_that_cannot_be_reached_has_not_taken_the_message(
    aws: Stubs, notifier: AwsNotifier, clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable(clients["sns"], monkeypatch)
    unreachable(clients["events"], monkeypatch)

    with pytest.raises(DeliveryError, match="SNS did not take the message: ConnectTimeoutError"):
        notifier.publish(TOPIC_ARN, alert())
    with pytest.raises(DeliveryError, match="EventBridge did not take the message: ConnectTimeoutError"):
        notifier.put_alert(alert())


def bus_takes(aws: Stubs, detail_type: str, detail: Any) -> None:
    entry = {
        "Source": "keyvigil",
        "DetailType": detail_type,
        "Detail": json.dumps(detail),
        "EventBusName": "keyvigil-alerts",
    }
    answer = {"FailedEntryCount": 0, "Entries": [{"EventId": "1"}]}
    aws.events.add_response("put_events", answer, {"Entries": [entry]})


def test_an_alert_on_the_bus_is_the_same_document_under_its_type(aws: Stubs, notifier: AwsNotifier) -> None:
    bus_takes(aws, "key.unhealthy", document(alert()))

    notifier.put_alert(alert())


def test_a_lock_request_on_the_bus_has_the_contracts_fields(aws: Stubs, notifier: AwsNotifier) -> None:
    detail = {
        "action": "lock",
        "project_id": "acme-prod",
        "cluster_id": "vectors-prod",
        "incident_id": "01J",
        "fence": 1795369305484,
        "reason": f"{KEY_ID}: incident 01J",
        "respond_by": "2026-11-22T03:05:00.000Z",
    }
    bus_takes(aws, "Cluster Lock Requested", detail)

    notifier.put_lock_request(LOCK_REQUEST)


def test_an_event_that_the_bus_refuses_in_a_200_is_not_delivered(aws: Stubs, notifier: AwsNotifier) -> None:
    refused = {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "InternalFailure", "ErrorMessage": "oh"}]}
    aws.events.add_response("put_events", refused, {"Entries": ANY})
    aws.events.add_response("put_events", refused, {"Entries": ANY})

    with pytest.raises(DeliveryError, match="InternalFailure"):
        notifier.put_alert(alert())
    with pytest.raises(DeliveryError, match="InternalFailure"):
        notifier.put_lock_request(LOCK_REQUEST)


def test_an_event_that_the_bus_denies_is_not_delivered(aws: Stubs, notifier: AwsNotifier) -> None:
    aws.events.add_client_error("put_events", "AccessDeniedException")

    with pytest.raises(DeliveryError, match="EventBridge did not take the message: AccessDeniedException"):
        notifier.put_lock_request(LOCK_REQUEST)


# --- topics -----------------------------------------------------------------------------------------------------


@pytest.fixture
def topics(clients: dict[str, Any]) -> SnsTopics:
    topics = SnsTopics("keyvigil-project-", {"keyvigil:stack": "keyvigil"})
    topics.__dict__.update(_sns=clients["sns"])
    return topics


def subscription(**fields: Any) -> Subscription:
    example = Subscription(
        project_id="acme-prod",
        subscription_id="01JSUBSCRIPTION",
        protocol=Protocol.SQS,
        endpoint=QUEUE_ARN,
        min_severity="info",
        types=(),
        subscription_arn="",
        status="pending",
        created_at=NOW,
    )
    return changed(example, **fields)


def test_a_topic_for_chat_bears_a_name_that_no_project_can_have(aws: Stubs, topics: SnsTopics) -> None:
    expected = {
        "Name": "keyvigil-project-acme-prod_chat",
        "Tags": [{"Key": "keyvigil:stack", "Value": "keyvigil"}],
    }
    aws.sns.add_response("create_topic", {"TopicArn": f"{TOPIC_ARN}_chat"}, expected)

    assert topics.create_for_chat("acme-prod") == f"{TOPIC_ARN}_chat"


def test_a_projects_topic_has_the_prefix_that_iam_allows_and_the_stacks_tag(aws: Stubs, topics: SnsTopics) -> None:
    expected = {
        "Name": "keyvigil-project-acme-prod",
        "Tags": [{"Key": "keyvigil:stack", "Value": "keyvigil"}],
    }
    aws.sns.add_response("create_topic", {"TopicArn": TOPIC_ARN}, expected)

    assert topics.create("acme-prod") == TOPIC_ARN


STACK_KEY = "arn:aws:kms:us-west-2:111111111111:key/8d2e5b1c-1111-1111-1111-000000000000"
OTHER_KEY = "arn:aws:kms:us-west-2:111111111111:key/8d2e5b1c-2222-2222-2222-000000000000"


def topics_under(key: str | None, clients: dict[str, Any]) -> SnsTopics:
    topics = SnsTopics("keyvigil-project-", {"keyvigil:stack": "keyvigil"}, key)
    topics.__dict__.update(_sns=clients["sns"])
    return topics


CREATED = {"Name": "keyvigil-project-acme-prod", "Tags": [{"Key": "keyvigil:stack", "Value": "keyvigil"}]}


def test_a_topic_is_encrypted_with_the_stacks_key_from_its_first_moment(aws: Stubs, clients: dict[str, Any]) -> None:
    expected = CREATED | {"Attributes": {"KmsMasterKeyId": STACK_KEY}}
    aws.sns.add_response("create_topic", {"TopicArn": TOPIC_ARN}, expected)

    assert topics_under(STACK_KEY, clients).create("acme-prod") == TOPIC_ARN


def test_a_topic_that_a_dead_request_left_under_another_key_is_taken_and_brought_into_line(
    aws: Stubs, clients: dict[str, Any]
) -> None:
    aws.sns.add_client_error("create_topic", "InvalidParameter", "Topic already exists with different attributes")
    aws.sns.add_response("create_topic", {"TopicArn": TOPIC_ARN}, CREATED)
    aws.sns.add_response("get_topic_attributes", {"Attributes": {"KmsMasterKeyId": OTHER_KEY}}, {"TopicArn": TOPIC_ARN})
    change = {"TopicArn": TOPIC_ARN, "AttributeName": "KmsMasterKeyId", "AttributeValue": STACK_KEY}
    aws.sns.add_response("set_topic_attributes", {}, change)

    assert topics_under(STACK_KEY, clients).create("acme-prod") == TOPIC_ARN


PUBLISHERS = ("arn:aws:iam::111111111111:role/keyvigil-RelayOutboxRole-1X", "arn:aws:iam::111111111111:role/path/api")


def closed_topics(clients: dict[str, Any], key: str | None = None) -> SnsTopics:
    topics = SnsTopics("keyvigil-project-", {"keyvigil:stack": "keyvigil"}, key, publishers=PUBLISHERS)
    topics.__dict__.update(_sns=clients["sns"])
    return topics


def test_a_topic_takes_messages_of_keyvigil_only_and_over_tls_only() -> None:
    only_keyvigil, only_tls = json.loads(topic_policy(TOPIC_ARN, PUBLISHERS))["Statement"]

    for statement in (only_keyvigil, only_tls):
        assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "sns:Publish")
        assert statement["Resource"] == TOPIC_ARN
    assert only_keyvigil["Condition"] == {
        "ArnNotLike": {
            "aws:PrincipalArn": [
                *PUBLISHERS,
                "arn:aws:sts::111111111111:assumed-role/keyvigil-RelayOutboxRole-1X/*",
                "arn:aws:sts::111111111111:assumed-role/api/*",
            ]
        }
    }
    assert only_tls["Condition"] == {
        "Bool": {"aws:SecureTransport": "false"},
        "NotIpAddress": {"aws:SourceIp": ["127.0.0.0/8", "::1/128"]},
    }


@pytest.mark.parametrize("key", [STACK_KEY, None], ids=["a key", "no key"])
def test_a_topic_is_closed_to_others_from_its_first_moment(
    aws: Stubs, clients: dict[str, Any], key: str | None
) -> None:
    attributes = {"Policy": topic_policy(TOPIC_ARN, PUBLISHERS)} | ({"KmsMasterKeyId": key} if key else {})
    aws.sns.add_response("create_topic", {"TopicArn": TOPIC_ARN}, CREATED | {"Attributes": attributes})

    assert closed_topics(clients, key).create("acme-prod") == TOPIC_ARN


def test_a_topic_that_a_dead_request_left_open_is_closed(aws: Stubs, clients: dict[str, Any]) -> None:
    aws.sns.add_client_error("create_topic", "InvalidParameter", "Topic already exists with different attributes")
    aws.sns.add_response("create_topic", {"TopicArn": TOPIC_ARN}, CREATED)
    aws.sns.add_response("get_topic_attributes", {"Attributes": {}}, {"TopicArn": TOPIC_ARN})
    aws.sns.add_response("get_topic_attributes", {"Attributes": {"Policy": "{}"}}, {"TopicArn": TOPIC_ARN})
    policy = topic_policy(TOPIC_ARN, PUBLISHERS)
    change = {"TopicArn": TOPIC_ARN, "AttributeName": "Policy", "AttributeValue": policy}
    aws.sns.add_response("set_topic_attributes", {}, change)

    assert closed_topics(clients).create("acme-prod") == TOPIC_ARN


def test_a_topic_that_is_closed_is_left_alone_however_its_policy_is_written(
    aws: Stubs, clients: dict[str, Any]
) -> None:
    written = json.dumps(json.loads(topic_policy(TOPIC_ARN, PUBLISHERS)), indent=2, sort_keys=True)
    aws.sns.add_response("get_topic_attributes", {"Attributes": {"Policy": written}}, {"TopicArn": TOPIC_ARN})

    assert not closed_topics(clients).keep_closed(TOPIC_ARN)


def test_a_topic_that_went_with_its_project_need_not_be_closed(aws: Stubs, clients: dict[str, Any]) -> None:
    aws.sns.add_client_error("get_topic_attributes", "NotFound")

    assert not closed_topics(clients).keep_closed(TOPIC_ARN)


def test_a_topic_that_cannot_be_closed_is_an_error(aws: Stubs, clients: dict[str, Any]) -> None:
    aws.sns.add_client_error("get_topic_attributes", "AuthorizationError")

    with pytest.raises(ClientError, match="AuthorizationError"):
        closed_topics(clients).keep_closed(TOPIC_ARN)


def test_a_topic_that_may_not_be_made_is_not_tried_without_its_key(aws: Stubs, clients: dict[str, Any]) -> None:
    aws.sns.add_client_error("create_topic", "AuthorizationError")

    with pytest.raises(ClientError, match="AuthorizationError"):
        topics_under(STACK_KEY, clients).create("acme-prod")


@pytest.mark.parametrize(
    ("has", "wanted"),
    [
        pytest.param({}, STACK_KEY, id="none to one"),
        pytest.param({"KmsMasterKeyId": OTHER_KEY}, STACK_KEY, id="one to another"),
        pytest.param({"KmsMasterKeyId": OTHER_KEY}, None, id="one to none"),
    ],
)
def test_a_topic_follows_the_stacks_key(
    aws: Stubs, clients: dict[str, Any], has: dict[str, str], wanted: str | None
) -> None:
    aws.sns.add_response("get_topic_attributes", {"Attributes": has}, {"TopicArn": TOPIC_ARN})
    change = {"TopicArn": TOPIC_ARN, "AttributeName": "KmsMasterKeyId", "AttributeValue": wanted or ""}
    aws.sns.add_response("set_topic_attributes", {}, change)

    assert topics_under(wanted, clients).keep_encrypted(TOPIC_ARN)


@pytest.mark.parametrize("key", [STACK_KEY, None], ids=["a key", "no key"])
def test_a_topic_that_is_as_it_should_be_is_left_alone(aws: Stubs, clients: dict[str, Any], key: str | None) -> None:
    attributes = {} if key is None else {"KmsMasterKeyId": key}
    aws.sns.add_response("get_topic_attributes", {"Attributes": attributes}, {"TopicArn": TOPIC_ARN})

    assert not topics_under(key, clients).keep_encrypted(TOPIC_ARN)


def test_a_topic_that_went_with_its_project_needs_no_key(aws: Stubs, clients: dict[str, Any]) -> None:
    aws.sns.add_client_error("get_topic_attributes", "NotFound")

    assert not topics_under(STACK_KEY, clients).keep_encrypted(TOPIC_ARN)


def test_a_topic_that_may_not_be_changed_is_an_error(aws: Stubs, clients: dict[str, Any]) -> None:
    aws.sns.add_client_error("get_topic_attributes", "AuthorizationError")

    with pytest.raises(ClientError, match="AuthorizationError"):
        topics_under(STACK_KEY, clients).keep_encrypted(TOPIC_ARN)


@pytest.mark.parametrize(("answered", "status"), [("true", "pending"), ("false", "confirmed"), (None, "confirmed")])
def test_a_subscription_is_pending_until_it_is_confirmed(
    aws: Stubs, topics: SnsTopics, answered: str | None, status: str
) -> None:
    wanted = subscription(min_severity="warning", types=("key.*", "cluster.locked"))
    policy = {"severity": ["warning", "critical", MARK], "type": [{"prefix": "key."}, "cluster.locked", MARK]}
    expected = {
        "TopicArn": TOPIC_ARN,
        "Protocol": "sqs",
        "Endpoint": QUEUE_ARN,
        "Attributes": {"RawMessageDelivery": "true", "FilterPolicy": json.dumps(policy)},
        "ReturnSubscriptionArn": True,
    }
    aws.sns.add_response("subscribe", {"SubscriptionArn": SUBSCRIPTION_ARN}, expected)
    attributes = {} if answered is None else {"PendingConfirmation": answered}
    asked = {"SubscriptionArn": SUBSCRIPTION_ARN}
    aws.sns.add_response("get_subscription_attributes", {"Attributes": attributes}, asked)

    assert topics.subscribe(TOPIC_ARN, wanted) == (SUBSCRIPTION_ARN, status)


@pytest.mark.parametrize(
    ("least", "severities"),
    [
        ("info", ["info", "warning", "critical"]),
        ("warning", ["warning", "critical"]),
        ("critical", ["critical"]),
    ],
)
def test_a_least_severity_lets_it_and_everything_above_through(least: str, severities: list[str]) -> None:
    assert filter_policy(subscription(min_severity=least)) == {"severity": [*severities, MARK]}


def test_the_filter_policy_knows_every_severity() -> None:
    assert filter_policy(subscription(min_severity="info"))["severity"] == [*(str(each) for each in Severity), MARK]


def test_types_are_taken_to_the_letter_unless_they_end_in_a_star() -> None:
    policy = filter_policy(subscription(types=("key.*", "key.unhealthy", "cluster.*")))

    assert policy["type"] == [{"prefix": "key."}, "key.unhealthy", {"prefix": "cluster."}, MARK]


def test_what_an_endpoint_does_not_take_goes_to_the_dead_letters(aws: Stubs, clients: dict[str, Any]) -> None:
    dead_letters = "arn:aws:sqs:us-west-2:111111111111:keyvigil-AlertDeadLetters"
    topics = SnsTopics("keyvigil-project-", {}, dead_letters_arn=dead_letters)
    topics.__dict__.update(_sns=clients["sns"])
    wanted = subscription()
    attributes = {
        "RawMessageDelivery": "true",
        "FilterPolicy": json.dumps(filter_policy(wanted)),
        "RedrivePolicy": json.dumps({"deadLetterTargetArn": dead_letters}),
    }
    expected = {
        "TopicArn": TOPIC_ARN,
        "Protocol": "sqs",
        "Endpoint": QUEUE_ARN,
        "Attributes": attributes,
        "ReturnSubscriptionArn": True,
    }
    aws.sns.add_response("subscribe", {"SubscriptionArn": SUBSCRIPTION_ARN}, expected)
    aws.sns.add_response("get_subscription_attributes", {"Attributes": {}}, {"SubscriptionArn": SUBSCRIPTION_ARN})

    topics.subscribe(TOPIC_ARN, wanted)


DEAD_LETTERS_ARN = "arn:aws:sqs:us-west-2:111111111111:keyvigil-AlertDeadLetters"


@pytest.fixture
def redriving(clients: dict[str, Any]) -> SnsTopics:
    topics = SnsTopics("keyvigil-project-", {}, dead_letters_arn=DEAD_LETTERS_ARN)
    topics.__dict__.update(_sns=clients["sns"])
    return topics


def expect_redrive() -> dict[str, Any]:
    return {
        "SubscriptionArn": SUBSCRIPTION_ARN,
        "AttributeName": "RedrivePolicy",
        "AttributeValue": json.dumps({"deadLetterTargetArn": DEAD_LETTERS_ARN}),
    }


def test_a_subscription_from_before_the_dead_letters_is_brought_under_them(aws: Stubs, redriving: SnsTopics) -> None:
    aws.sns.add_response("set_subscription_attributes", {}, expect_redrive())

    assert redriving.redrive(SUBSCRIPTION_ARN) is True
    assert redriving.dead_letters_arn == DEAD_LETTERS_ARN


def test_a_subscription_that_sns_forgot_has_no_dead_letters(aws: Stubs, redriving: SnsTopics) -> None:
    aws.sns.add_client_error("set_subscription_attributes", "NotFound", http_status_code=404)

    assert redriving.redrive(SUBSCRIPTION_ARN) is False


def test_a_subscription_that_sns_does_not_change_is_refused(aws: Stubs, redriving: SnsTopics) -> None:
    aws.sns.add_client_error("set_subscription_attributes", "InvalidParameter", http_status_code=400)

    with pytest.raises(RefusedError, match="not confirmed"):
        redriving.redrive(SUBSCRIPTION_ARN)


def test_not_being_allowed_to_change_a_subscription_is_an_error(aws: Stubs, redriving: SnsTopics) -> None:
    aws.sns.add_client_error("set_subscription_attributes", "AuthorizationError", http_status_code=403)

    with pytest.raises(ClientError, match="AuthorizationError"):
        redriving.redrive(SUBSCRIPTION_ARN)


@pytest.mark.parametrize("code", ["FilterPolicyLimitExceeded", "SubscriptionLimitExceeded"])
def test_a_topic_that_is_full_is_a_refusal_and_not_a_fault(aws: Stubs, topics: SnsTopics, code: str) -> None:
    aws.sns.add_client_error("subscribe", code, http_status_code=403)

    with pytest.raises(RefusedError) as refused:
        topics.subscribe(TOPIC_ARN, subscription())

    assert (refused.value.status, refused.value.title) == (409, "Too many subscriptions in project")


def test_the_widest_filter_policy_is_within_what_sns_takes() -> None:
    """At most 150 combinations of values, five attributes and 256 KB.

    https://docs.aws.amazon.com/sns/latest/dg/subscription-filter-policy-constraints.html
    """
    types = Subscribe.model_json_schema()["properties"]["types"]
    longest = "k" * types["items"]["maxLength"]
    policy = filter_policy(subscription(min_severity="info", types=(longest,) * types["maxItems"]))

    assert math.prod(len(values) for values in policy.values()) <= 150
    assert len(policy) <= 5
    assert len(json.dumps(policy)) < 256 * 1024


def test_an_endpoint_that_sns_does_not_take_is_refused_and_not_a_fault(aws: Stubs, topics: SnsTopics) -> None:
    aws.sns.add_client_error("subscribe", "InvalidParameter", http_status_code=400)

    with pytest.raises(RefusedError, match="does not take") as refused:
        topics.subscribe(TOPIC_ARN, subscription())

    assert (refused.value.status, refused.value.title) == (422, "Invalid endpoint")


def test_deleting_a_topic_ends_its_subscriptions_first_on_every_page(aws: Stubs, topics: SnsTopics) -> None:
    def listed(arn: str) -> dict[str, str]:
        return {"SubscriptionArn": arn, "Owner": "1", "Protocol": "sqs", "Endpoint": "x", "TopicArn": TOPIC_ARN}

    first = {"Subscriptions": [listed(f"{TOPIC_ARN}:1"), listed("PendingConfirmation")], "NextToken": "more"}
    second = {"Subscriptions": [listed(f"{TOPIC_ARN}:2"), listed("Deleted")]}
    aws.sns.add_response("list_subscriptions_by_topic", first, {"TopicArn": TOPIC_ARN})
    aws.sns.add_response("unsubscribe", {}, {"SubscriptionArn": f"{TOPIC_ARN}:1"})
    aws.sns.add_response("list_subscriptions_by_topic", second, {"TopicArn": TOPIC_ARN, "NextToken": "more"})
    aws.sns.add_response("unsubscribe", {}, {"SubscriptionArn": f"{TOPIC_ARN}:2"})
    aws.sns.add_response("delete_topic", {}, {"TopicArn": TOPIC_ARN})

    topics.delete(TOPIC_ARN)


def test_deleting_a_topic_that_is_gone_is_not_an_error(aws: Stubs, topics: SnsTopics) -> None:
    aws.sns.add_client_error("list_subscriptions_by_topic", "NotFound", http_status_code=404)
    aws.sns.add_response("delete_topic", {}, {"TopicArn": TOPIC_ARN})

    topics.delete(TOPIC_ARN)


def test_a_topic_that_may_not_be_deleted_is_an_error(aws: Stubs, topics: SnsTopics) -> None:
    aws.sns.add_client_error("list_subscriptions_by_topic", "AuthorizationError", http_status_code=403)

    with pytest.raises(ClientError, match="AuthorizationError"):
        topics.delete(TOPIC_ARN)


@pytest.mark.parametrize("code", ["NotFound", "NotFoundException"])
def test_ending_a_subscription_that_is_gone_is_not_an_error(aws: Stubs, topics: SnsTopics, code: str) -> None:
    aws.sns.add_client_error("unsubscribe", code, expected_params={"SubscriptionArn": SUBSCRIPTION_ARN})

    topics.unsubscribe(SUBSCRIPTION_ARN)


@pytest.mark.parametrize(
    ("protocol", "raw"),
    [(Protocol.SQS, True), (Protocol.LAMBDA, False), (Protocol.EMAIL, False), (Protocol.HTTPS, False)],
)
def test_only_a_queue_gets_the_alert_without_its_envelope(
    aws: Stubs, topics: SnsTopics, protocol: Protocol, *, raw: bool
) -> None:
    wanted = subscription(protocol=protocol)
    attributes = {"FilterPolicy": json.dumps(filter_policy(wanted)), **({"RawMessageDelivery": "true"} if raw else {})}
    expected = {
        "TopicArn": TOPIC_ARN,
        "Protocol": str(protocol),
        "Endpoint": QUEUE_ARN,
        "Attributes": attributes,
        "ReturnSubscriptionArn": True,
    }
    aws.sns.add_response("subscribe", {"SubscriptionArn": SUBSCRIPTION_ARN}, expected)
    aws.sns.add_response("get_subscription_attributes", {"Attributes": {}}, {"SubscriptionArn": SUBSCRIPTION_ARN})

    topics.subscribe(TOPIC_ARN, wanted)


def test_a_test_message_carries_the_mark_of_one_subscription_only(aws: Stubs, topics: SnsTopics) -> None:
    mine, other = subscription(), subscription(subscription_id="01JOTHER", types=("key.*",))
    sent: list[dict[str, Any]] = []

    def keep(params: dict[str, Any], **_: Any) -> None:
        sent.append(params)

    topics._sns.meta.events.register_first("before-parameter-build.sns.Publish", keep)
    aws.sns.add_response("publish", {"MessageId": "1"})
    topics.send_test(TOPIC_ARN, mine, "01JALERT", NOW)
    topics._sns.meta.events.unregister("before-parameter-build.sns.Publish", keep)

    [published] = sent
    attributes = {name: value["StringValue"] for name, value in published["MessageAttributes"].items()}
    assert attributes["type"] == attributes["severity"] == MARK
    for name, values in filter_policy(mine).items():
        assert attributes[name] in values
    assert not any(attributes[name] in values for name, values in filter_policy(other).items())
    messages = json.loads(published["Message"])
    told = json.loads(messages["default"])
    assert told.keys() == document(alert()).keys(), "a reader of alerts reads this too"
    assert (told["type"], told["alert_id"], told["key"]) == ("subscription.test", "01JALERT", None)
    assert "This is a test" in messages["email"]


def test_a_test_message_that_sns_does_not_take_is_not_delivered(aws: Stubs, topics: SnsTopics) -> None:
    aws.sns.add_client_error("publish", "InternalError", http_status_code=500)

    with pytest.raises(DeliveryError):
        topics.send_test(TOPIC_ARN, subscription(), "01JALERT", NOW)


def test_a_subscription_that_sns_forgot_is_gone(aws: Stubs, topics: SnsTopics) -> None:
    aws.sns.add_client_error("get_subscription_attributes", "NotFound", http_status_code=404)

    assert topics.subscription_status(SUBSCRIPTION_ARN) == "gone"


def test_a_pending_subscription_that_sns_does_not_end_is_refused_and_not_a_fault(aws: Stubs, topics: SnsTopics) -> None:
    aws.sns.add_client_error("unsubscribe", "InvalidParameter", http_status_code=400)

    with pytest.raises(RefusedError) as refused:
        topics.unsubscribe(SUBSCRIPTION_ARN)

    assert (refused.value.status, refused.value.title) == (409, "Subscription is not confirmed")


def test_a_subscription_that_never_was_confirmed_has_nothing_to_end(aws: Stubs, topics: SnsTopics) -> None:
    topics.unsubscribe("pending confirmation")


# --- the check queue --------------------------------------------------------------------------------------------


@pytest.fixture
def queue(clients: dict[str, Any]) -> SqsCheckQueue:
    queue = SqsCheckQueue(QUEUE_URL)
    queue.__dict__.update(_sqs=clients["sqs"])
    return queue


def queue_gets(aws: Stubs, numbers: range, *, taken: int | None = None, delay: int = 0) -> None:
    entries = [
        {
            "Id": str(place),
            "MessageBody": json.dumps(
                {
                    "project_id": "acme-prod",
                    "key_id": f"key-{number}",
                    "due_at": "2026-11-22T03:00:00.000Z",
                    "trigger": "schedule",
                    "canary": False,
                    "version": 1,
                    "others": [],
                }
            ),
            "DelaySeconds": delay,
        }
        for place, number in enumerate(numbers)
    ]
    taken = len(entries) if taken is None else taken
    answer = {
        "Successful": [{"Id": entry["Id"], "MessageId": "1", "MD5OfMessageBody": "1"} for entry in entries[:taken]],
        "Failed": [{"Id": entry["Id"], "SenderFault": False, "Code": "InternalError"} for entry in entries[taken:]],
    }
    aws.sqs.add_response("send_message_batch", answer, {"QueueUrl": QUEUE_URL, "Entries": entries})


def due(count: int) -> list[CheckMessage]:
    return [CheckMessage("acme-prod", f"key-{number}", NOW) for number in range(count)]


class BusyQueue:
    """SQS for several threads: it takes what `takes` says of a batch, by the number of its first key."""

    def __init__(self, **takes: int | None) -> None:
        self.takes = takes
        self.got: list[list[str]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> Any:  # noqa: N803  boto3's names
        assert QueueUrl == QUEUE_URL
        names = [json.loads(each["MessageBody"])["key_id"] for each in Entries]
        with self._lock:
            self.got.append(names)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.01)  # as long as SQS takes
        with self._lock:
            self.at_once -= 1
        taken = self.takes.get(names[0].replace("-", "_"), len(Entries))
        if taken is None:
            raise ClientError({"Error": {"Code": "InternalError"}}, "SendMessageBatch")
        return {"Successful": [{"Id": each["Id"]} for each in Entries[:taken]]}


def test_keys_are_sent_in_batches_of_ten_by_several_threads(queue: SqsCheckQueue) -> None:
    sqs = BusyQueue()
    queue.__dict__.update(_sqs=sqs)

    assert queue.send(due(1003)) == 1003
    assert sorted(len(each) for each in sqs.got) == [3, *[10] * 100]
    assert sorted(name for each in sqs.got for name in each) == sorted(each.key_id for each in due(1003))
    assert 4 <= sqs.most_at_once <= SENDERS


def test_what_the_queue_refuses_is_not_counted_as_sent(queue: SqsCheckQueue) -> None:
    queue.__dict__.update(_sqs=BusyQueue(key_0=7, key_10=0))

    assert queue.send(due(12)) == 7


def test_a_batch_that_the_queue_refuses_as_a_whole_keeps_no_other_back(queue: SqsCheckQueue) -> None:
    queue.__dict__.update(_sqs=BusyQueue(key_10=None))

    assert queue.send(due(23)) == 13


def test_a_queue_that_takes_nothing_at_all_is_a_delivery_that_failed(aws: Stubs, queue: SqsCheckQueue) -> None:
    for _ in range(2):
        aws.sqs.add_client_error("send_message_batch", "KMS.DisabledException", http_status_code=400)

    with pytest.raises(DeliveryError, match=r"SQS did not take the message: KMS\.DisabledException"):
        queue.send(due(12))


def test_a_queue_that_does_not_answer_is_asked_once(queue: SqsCheckQueue) -> None:
    class Silence:
        asked = 0

        def send_message_batch(self, **_: Any) -> Any:
            self.asked += 1
            raise ConnectTimeoutError(endpoint_url=QUEUE_URL)

    silence = Silence()
    queue.__dict__.update(_sqs=silence)

    with pytest.raises(DeliveryError) as failed:
        queue.send(due(35))

    assert failed.value.unreachable
    assert silence.asked == 1, "its time-outs would take the time of everything else"


def test_of_messages_about_several_keys_the_keys_are_counted(aws: Stubs, queue: SqsCheckQueue) -> None:
    three = CheckMessage.of_due(*(DueKey("acme-prod", f"key-{number}", NOW) for number in range(3)))
    answer = {
        "Successful": [{"Id": "1", "MessageId": "1", "MD5OfMessageBody": "1"}],
        "Failed": [{"Id": "0", "SenderFault": False, "Code": "InternalError"}],
    }
    aws.sqs.add_response("send_message_batch", answer)

    assert queue.send([*due(1), three]) == 3


def test_what_is_to_be_received_later_is_delayed_by_the_queue(aws: Stubs, queue: SqsCheckQueue) -> None:
    queue_gets(aws, range(2), delay=180)

    assert queue.send(due(2), delay_seconds=180) == 2


def test_nothing_due_asks_nobody(aws: Stubs, queue: SqsCheckQueue) -> None:
    assert queue.send([]) == 0


def test_a_message_that_was_sent_is_read_by_check_keys_as_it_was_meant(aws: Stubs) -> None:
    [message] = due(1)

    several = CheckMessage.of_due(*(DueKey("acme-prod", f"key-{number}", NOW) for number in range(3)))

    assert from_plain(json.loads(json.dumps(to_plain(message))), CheckMessage) == message
    assert from_plain(json.loads(json.dumps(to_plain(several))), CheckMessage) == several
    search = FindActorMessage("acme-prod", "01J")
    assert from_plain(json.loads(json.dumps(to_plain(search))), FindActorMessage) == search


def test_a_message_of_older_code_is_a_scheduled_check() -> None:
    older = {"project_id": "acme-prod", "key_id": "key-0", "due_at": "2026-11-22T03:00:00.000Z"}

    assert from_plain(older, CheckMessage) == CheckMessage("acme-prod", "key-0", NOW, Trigger.SCHEDULE)


# --- Step Functions ---------------------------------------------------------------------------------------------


@pytest.fixture
def workflow(clients: dict[str, Any]) -> StepFunctionsWorkflow:
    workflow = StepFunctionsWorkflow(LOCKOUT_ARN, RECOVERY_ARN)
    workflow.__dict__.update(_client=clients["stepfunctions"])
    return workflow


@pytest.mark.parametrize(
    ("kind", "name", "machine"),
    [
        (WorkflowKind.LOCKOUT, "01J-lock-1", LOCKOUT_ARN),
        (WorkflowKind.RECOVERY, "01J-unlock-2", RECOVERY_ARN),
    ],
)
def test_an_execution_is_started_under_its_name_with_what_it_is_about(
    aws: Stubs, workflow: StepFunctionsWorkflow, kind: WorkflowKind, name: str, machine: str
) -> None:
    document = {"project_id": "acme-prod", "key_id": KEY_ID, "incident_id": "01J"}
    expected = {"stateMachineArn": machine, "name": name, "input": json.dumps(document)}
    aws.stepfunctions.add_response("start_execution", {"executionArn": EXECUTION_ARN, "startDate": NOW}, expected)

    workflow.start(changed(START, workflow=kind, name=name))


def test_starting_an_execution_that_was_started_before_is_fine(aws: Stubs, workflow: StepFunctionsWorkflow) -> None:
    aws.stepfunctions.add_client_error("start_execution", "ExecutionAlreadyExists")

    workflow.start(START)


@pytest.mark.parametrize("code", ["AccessDeniedException", "ExecutionLimitExceeded", "StateMachineDoesNotExist"])
def test_an_execution_that_could_not_be_started_is_not_delivered(
    aws: Stubs, workflow: StepFunctionsWorkflow, code: str
) -> None:
    aws.stepfunctions.add_client_error("start_execution", code)

    with pytest.raises(DeliveryError, match=f"did not start 01J-lock-1: {code}"):
        workflow.start(START)


def test_step_functions_out_of_reach_is_a_delivery_that_failed_whatever_was_asked(
    aws: Stubs, workflow: StepFunctionsWorkflow, clients: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable(clients["stepfunctions"], monkeypatch)

    with pytest.raises(DeliveryError, match="ConnectTimeoutError"):
        workflow.start(START)
    with pytest.raises(DeliveryError, match="ConnectTimeoutError"):
        workflow.complete("token", "locked", None)
    with pytest.raises(DeliveryError, match="ConnectTimeoutError"):
        workflow.state("01J-lock-1")


def test_the_arn_of_an_execution_follows_from_its_name(workflow: StepFunctionsWorkflow) -> None:
    assert workflow.execution_arn("01J-lock-1") == EXECUTION_ARN
    assert workflow.execution_arn("01J-unlock-2") == (
        "arn:aws:states:us-west-2:111111111111:execution:keyvigil-cluster-recovery:01J-unlock-2"
    )


def test_a_function_that_was_not_told_a_state_machine_says_which() -> None:
    with pytest.raises(ValueError, match="not told the ARN of the lock state machine"):
        StepFunctionsWorkflow(None, RECOVERY_ARN).execution_arn("01J-lock-1")


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("RUNNING", ExecutionState.RUNNING),
        ("SUCCEEDED", ExecutionState.ENDED),
        ("FAILED", ExecutionState.ENDED),
        ("TIMED_OUT", ExecutionState.ENDED),
        ("ABORTED", ExecutionState.ENDED),
    ],
)
def test_only_an_execution_that_runs_is_running(
    aws: Stubs, workflow: StepFunctionsWorkflow, status: str, state: ExecutionState
) -> None:
    answer = {
        "executionArn": EXECUTION_ARN,
        "stateMachineArn": LOCKOUT_ARN,
        "status": status,
        "startDate": NOW,
    }
    aws.stepfunctions.add_response("describe_execution", answer, {"executionArn": EXECUTION_ARN})

    assert workflow.state("01J-lock-1") is state


def test_an_execution_that_never_was_has_not_started(aws: Stubs, workflow: StepFunctionsWorkflow) -> None:
    aws.stepfunctions.add_client_error("describe_execution", "ExecutionDoesNotExist")

    assert workflow.state("01J-lock-1") is ExecutionState.NOT_STARTED


def listed(*names: str) -> dict[str, Any]:
    about = {"executionArn": EXECUTION_ARN, "stateMachineArn": LOCKOUT_ARN, "status": "RUNNING", "startDate": NOW}
    return {"executions": [about | {"name": name} for name in names]}


def test_what_is_at_work_is_listed_without_what_somebody_started_by_hand(
    aws: Stubs, workflow: StepFunctionsWorkflow
) -> None:
    for arn, names in ((LOCKOUT_ARN, ("01J-lock-1", "a-try")), (RECOVERY_ARN, ("01J-unlock-2", "2c6b"))):
        asked = {"stateMachineArn": arn, "statusFilter": "RUNNING", "maxResults": 1000}
        aws.stepfunctions.add_response("list_executions", listed(*names), asked)

    found = workflow.at_work()

    assert [(each.name, each.incident_id) for each in found] == [("01J-lock-1", "01J"), ("01J-unlock-2", "01J")]


@pytest.mark.parametrize(
    ("given", "project_id"),
    [
        ('{"project_id": "acme-prod", "key_id": "k", "incident_id": "01J"}', "acme-prod"),
        ('{"project_id": "acme-prod", "key_id": "k", "incident_id": "01K"}', None),
        ("{}", None),
        ("[]", None),
        ("nothing", None),
    ],
)
def test_the_project_of_an_execution_is_the_one_that_it_was_started_for(
    aws: Stubs, workflow: StepFunctionsWorkflow, given: str, project_id: str | None
) -> None:
    answer = {
        "executionArn": EXECUTION_ARN,
        "stateMachineArn": LOCKOUT_ARN,
        "status": "RUNNING",
        "startDate": NOW,
        "input": given,
    }
    aws.stepfunctions.add_response("describe_execution", answer, {"executionArn": EXECUTION_ARN})

    assert workflow.project_of("01J-lock-1") == project_id


def test_an_execution_is_stopped_and_one_that_is_gone_is_no_error(aws: Stubs, workflow: StepFunctionsWorkflow) -> None:
    asked = {"executionArn": EXECUTION_ARN, "error": "Orphaned", "cause": "its incident is over"}
    aws.stepfunctions.add_response("stop_execution", {"stopDate": NOW}, asked)
    workflow.stop("01J-lock-1", "its incident is over")
    aws.stepfunctions.add_client_error("stop_execution", "ExecutionDoesNotExist")
    workflow.stop("01J-lock-1", "its incident is over")
    aws.stepfunctions.add_client_error("describe_execution", "ExecutionDoesNotExist")
    assert workflow.project_of("01J-lock-1") is None


@pytest.mark.parametrize(
    ("call", "operation"),
    [
        (StepFunctionsWorkflow.at_work, "list_executions"),
        (lambda workflow: workflow.project_of("01J-lock-1"), "describe_execution"),
        (lambda workflow: workflow.stop("01J-lock-1", "over"), "stop_execution"),
    ],
    ids=["list", "describe", "stop"],
)
def test_step_functions_not_answering_about_what_is_at_work_is_an_error(
    aws: Stubs, workflow: StepFunctionsWorkflow, call: Callable[[StepFunctionsWorkflow], object], operation: str
) -> None:
    aws.stepfunctions.add_client_error(operation, "AccessDeniedException")

    with pytest.raises(DeliveryError, match="AccessDeniedException"):
        call(workflow)


def test_not_knowing_whether_an_execution_runs_is_not_the_same_as_its_not_running(
    aws: Stubs, workflow: StepFunctionsWorkflow
) -> None:
    aws.stepfunctions.add_client_error("describe_execution", "ThrottlingException")

    with pytest.raises(DeliveryError, match="did not describe 01J-lock-1"):
        workflow.state("01J-lock-1")


def test_an_answer_wakes_the_step_that_waits_for_it(aws: Stubs, workflow: StepFunctionsWorkflow) -> None:
    output = json.dumps({"result": "locked", "detail": "done"})
    aws.stepfunctions.add_response("send_task_success", {}, {"taskToken": "token", "output": output})

    workflow.complete("token", "locked", "done")


@pytest.mark.parametrize("code", ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"])
def test_a_step_that_waits_no_longer_is_not_an_error(aws: Stubs, workflow: StepFunctionsWorkflow, code: str) -> None:
    aws.stepfunctions.add_client_error("send_task_success", code)

    workflow.complete("token", "locked", None)


def test_an_answer_that_did_not_reach_its_step_is_not_delivered(aws: Stubs, workflow: StepFunctionsWorkflow) -> None:
    aws.stepfunctions.add_client_error("send_task_success", "AccessDeniedException")

    with pytest.raises(DeliveryError, match="AccessDeniedException"):
        workflow.complete("token", "locked", None)


# --- other functions --------------------------------------------------------------------------------------------


@pytest.fixture
def checker(clients: dict[str, Any]) -> InvokedKeyChecker:
    checker = InvokedKeyChecker("keyvigil-check-keys")
    checker.__dict__.update(_lambda=clients["lambda"])
    return checker


@pytest.fixture
def relay(clients: dict[str, Any]) -> InvokedOutboxRelay:
    relay = InvokedOutboxRelay("keyvigil-relay-outbox")
    relay.__dict__.update(_lambda=clients["lambda"])
    return relay


def check_keys_answers(aws: Stubs, payload: Any, document: Any, **more: Any) -> None:
    raw = json.dumps(document).encode()
    answer = {"StatusCode": 200, "Payload": StreamingBody(io.BytesIO(raw), len(raw)), **more}
    expected = {"FunctionName": "keyvigil-check-keys", "Payload": json.dumps(payload).encode()}
    aws.lambda_.add_response("invoke", answer, expected)


CHECK = {"action": "check", "project_id": "acme-prod", "key_id": KEY_ID, "trigger": "request"}


def test_a_check_is_asked_of_check_keys_and_waited_for(aws: Stubs, checker: InvokedKeyChecker) -> None:
    check_keys_answers(aws, CHECK, {"error": None, "status": "HEALTHY"})

    checker.check("acme-prod", KEY_ID, Trigger.REQUEST)


def test_a_key_that_check_keys_does_not_find_is_not_found(aws: Stubs, checker: InvokedKeyChecker) -> None:
    check_keys_answers(aws, CHECK, {"error": "not_found", "message": "key x is not registered"})

    with pytest.raises(NotFoundError, match="key x is not registered"):
        checker.check("acme-prod", KEY_ID, Trigger.REQUEST)


def test_a_check_that_was_put_off_is_no_answer(aws: Stubs, checker: InvokedKeyChecker) -> None:
    check_keys_answers(aws, CHECK, {"error": "deferred", "message": "the next sweep probes it"})

    with pytest.raises(CheckerUnavailableError, match="the next sweep probes it"):
        checker.check("acme-prod", KEY_ID, Trigger.REQUEST)


def test_a_registration_is_probed_by_check_keys_and_its_answer_read(aws: Stubs, checker: InvokedKeyChecker) -> None:
    registration = Registration(
        project_id="acme-prod",
        key_arn=KEY_ARN,
        role_arn=ROLE_ARN,
        external_id=EXTERNAL_ID,
        use=KeyUse.CMEK,
        context={"tested-by": "KeyVigil"},
    )
    expected = RegistrationAnswer(
        verdict=verdict(),
        role_checks_external_id=True,
        key_arn=KEY_ARN,
        baseline=Baseline.of(b"\x00\xff", registration.context, NOW),
        facts=KeyFacts(),
    )
    payload = {
        "action": "probe_registration",
        "registration": {
            "project_id": "acme-prod",
            "key_arn": KEY_ARN,
            "role_arn": ROLE_ARN,
            "external_id": EXTERNAL_ID,
            "use": "cmek",
            "context": {"tested-by": "KeyVigil"},
            "baseline": None,
            "probe_secret_arn": None,
        },
    }
    check_keys_answers(aws, payload, to_plain(expected))

    assert checker.probe_registration(registration) == expected


RESTORE = {"action": "check_restore", "project_id": "acme-prod", "key_id": KEY_ID, "region": "eu-west-1"}


@pytest.mark.parametrize("found", [None, verdict(), verdict(Cause.ACCESS_DENIED)])
def test_a_restore_is_asked_of_check_keys_and_its_answer_read(
    aws: Stubs, checker: InvokedKeyChecker, found: Verdict | None
) -> None:
    expected = RestoreAnswer(verdict=found)
    check_keys_answers(aws, RESTORE, to_plain(expected))

    assert checker.check_restore("acme-prod", KEY_ID, "eu-west-1") == expected


def test_a_restore_with_a_key_that_check_keys_does_not_find_is_not_found(
    aws: Stubs, checker: InvokedKeyChecker
) -> None:
    check_keys_answers(aws, RESTORE, {"error": "not_found", "message": "key x is not registered"})

    with pytest.raises(NotFoundError, match="key x is not registered"):
        checker.check_restore("acme-prod", KEY_ID, "eu-west-1")


def test_a_validation_is_asked_of_check_keys_and_its_answer_read(aws: Stubs, checker: InvokedKeyChecker) -> None:
    registration = Registration(
        project_id="acme-prod", key_arn=KEY_ARN, role_arn=ROLE_ARN, external_id=EXTERNAL_ID, use=KeyUse.CMEK
    )
    expected = ValidationAnswer(
        verdict=verdict(Cause.ACCESS_DENIED),
        role_checks_external_id=True,
        operations=(
            OperationAnswer(operation="Encrypt", allowed=False, error="AccessDeniedException: no"),
            OperationAnswer(operation="Decrypt", allowed=None, error="not tried"),
        ),
    )
    check_keys_answers(aws, {"action": "validate_key", "registration": to_plain(registration)}, to_plain(expected))

    assert checker.validate_key(registration) == expected


def test_a_check_keys_that_failed_did_not_answer(aws: Stubs, checker: InvokedKeyChecker) -> None:
    check_keys_answers(aws, CHECK, {"errorMessage": "it broke"}, FunctionError="Unhandled")

    with pytest.raises(CheckerUnavailableError):
        checker.check("acme-prod", KEY_ID, Trigger.REQUEST)


@pytest.mark.parametrize("code", ["TooManyRequestsException", "ResourceNotFoundException", "AccessDeniedException"])
def test_a_check_keys_that_could_not_be_asked_did_not_answer(aws: Stubs, checker: InvokedKeyChecker, code: str) -> None:
    aws.lambda_.add_client_error("invoke", code)

    with pytest.raises(CheckerUnavailableError, match=f"could not be asked: {code}"):
        checker.check("acme-prod", KEY_ID, Trigger.REQUEST)


class Slow(io.RawIOBase):
    """A body that does not come."""

    def read(self, _: int = -1) -> bytes:
        raise ReadTimeoutError(endpoint_url=ENDPOINT)


def test_an_answer_that_does_not_come_in_time_is_no_answer(aws: Stubs, checker: InvokedKeyChecker) -> None:
    body = StreamingBody(cast("Any", Slow()), 10)
    aws.lambda_.add_response("invoke", {"StatusCode": 200, "Payload": body})

    with pytest.raises(CheckerUnavailableError, match="ReadTimeoutError"):
        checker.check("acme-prod", KEY_ID, Trigger.REQUEST)


def test_rows_to_send_again_are_named_to_the_relay_in_batches_and_not_waited_for(
    aws: Stubs, relay: InvokedOutboxRelay
) -> None:
    rows = [f"01J{number}" for number in range(30)]
    for batch in (rows[:25], rows[25:]):
        expected = {
            "FunctionName": "keyvigil-relay-outbox",
            "InvocationType": "Event",
            "Payload": json.dumps({"resend": batch}).encode(),
        }
        aws.lambda_.add_response("invoke", {"StatusCode": 202}, expected)

    relay.resend(rows)


def test_a_relay_that_could_not_be_asked_is_a_delivery_that_failed(aws: Stubs, relay: InvokedOutboxRelay) -> None:
    aws.lambda_.add_client_error("invoke", "TooManyRequestsException")

    with pytest.raises(DeliveryError, match="relay_outbox could not be asked: TooManyRequestsException"):
        relay.resend(["01J"])
