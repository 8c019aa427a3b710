"""The stack's own key: given to a stack that had none, and taken away again, by ordinary updates.

The key has the policy that `keyvigil policy stack-key` prints, put there by the commands of docs/own-key.md. On this
cloud the services ask the key (encrypting_services), so that each statement of that policy is missed when it is gone.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from keyvigil_cli.alert_queue import AlertQueue
from keyvigil_cli.api_client import ApiProblemError
from keyvigil_cli.customer import CustomerAccount
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, OPERATOR_ACCOUNT, LocalCloud, StackOutputs
from keyvigil_cli.project import Project
from keyvigil_cli.sam_deployment import DeploymentFailedError
from keyvigil_cli.waiting import wait_until
from tests.e2e.aws_shell import CHECKOUT, AwsShell
from tests.e2e.stage import Stage
from tests.e2e.story import story_on_its_own_cloud

_SWEEP_SECONDS = 150


class Encryption:
    """What is encrypted with which key, asked of the services themselves."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.session = cloud.session()

    def topic(self, topic_arn: str) -> str | None:
        attributes: Any = self.session.client("sns").get_topic_attributes(TopicArn=topic_arn)["Attributes"]
        return attributes.get("KmsMasterKeyId") or None

    def wait_for_topic(self, topic_arn: str, key: str | None) -> None:
        """The next sweep, or the one after it, changes topics that were there before."""
        wait_until(
            f"topic under {key or 'no key'}",
            lambda: self.topic(topic_arn),
            lambda found: found == key,
            within=_SWEEP_SECONDS,
        )

    def queue(self, queue_url: str) -> str | None:
        asked = self.session.client("sqs").get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])
        return asked.get("Attributes", {}).get("KmsMasterKeyId") or None

    def table(self, name: str) -> str | None:
        described = self.session.client("dynamodb").describe_table(TableName=name)["Table"]
        return described.get("SSEDescription", {}).get("KMSMasterKeyArn") or None

    def log_groups(self, prefix: str) -> set[str | None]:
        groups = self.session.client("logs").describe_log_groups(logGroupNamePrefix=prefix)["logGroups"]
        return {group.get("kmsKeyId") for group in groups}


def watch_a_key(cloud: LocalCloud, outputs: StackOutputs, project: Project) -> str:
    """Register a customer's key; return its id."""
    customer = CustomerAccount(cloud.session(CUSTOMER_ACCOUNT), CUSTOMER_ACCOUNT)
    key = customer.onboard(outputs["MonitorRoleArn"], project.external_id, project.project_id)
    registered = project.register_key(key)
    assert registered["status"] == "HEALTHY"
    return str(registered["key_id"])


def redrive_policy(cloud: LocalCloud, subscription_arn: str) -> str:
    asked = cloud.session().client("sns").get_subscription_attributes(SubscriptionArn=subscription_arn)
    return str(asked["Attributes"].get("RedrivePolicy", ""))


def a_subscription_from_before_the_dead_letters(cloud: LocalCloud, outputs: StackOutputs, project: Project) -> str:
    """Subscribe, then take away what earlier code did not write: SNS's redrive policy, and our note of it."""
    queue = AlertQueue(cloud.session(), "early-subscriber", project.alert_topic_arn)
    made = project.subscribe(queue)
    table = cloud.session().client("dynamodb")
    place = {"pk": {"S": f"PROJECT#{project.project_id}"}, "sk": {"S": f"SUBSCRIPTION#{made['subscription_id']}"}}
    item = table.get_item(TableName=outputs["TableName"], Key=place, ConsistentRead=True)["Item"]
    row = json.loads(item["body"]["S"])
    assert "DeadLetters" in row.pop("dead_letters_arn")
    table.put_item(TableName=outputs["TableName"], Item={**item, "body": {"S": json.dumps(row)}})
    subscription_arn: str = row["subscription_arn"]
    assert "DeadLetters" in redrive_policy(cloud, subscription_arn)
    cloud.session().client("sns").set_subscription_attributes(
        SubscriptionArn=subscription_arn, AttributeName="RedrivePolicy", AttributeValue=""
    )
    assert redrive_policy(cloud, subscription_arn) == ""
    return subscription_arn


class OwnKey:
    """A key under the policy that `keyvigil policy stack-key` prints, by the page's commands."""

    def __init__(self, cloud: LocalCloud, folder: Path) -> None:
        self.kms = cloud.session().client("kms")
        self.shell = AwsShell(cloud, folder, OPERATOR_ACCOUNT)
        self.shell.add_command("keyvigil", f'exec "{CHECKOUT.python().with_name("keyvigil")}" "$@"')
        page = (CHECKOUT.root / "docs" / "own-key.md").read_text(encoding="utf-8")
        block = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
        assert block is not None
        # The page deploys then, which is what the story does itself.
        commands, deploys, _ = block[1].partition("make build\n")
        assert deploys
        self.shell.paste(f'{commands}printf %s "$KEY_ARN" > key-arn')
        self.arn = (folder / "key-arn").read_text(encoding="ascii")
        self.printed: Any = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
        assert json.loads(self.kms.get_key_policy(KeyId="alias/keyvigil")["Policy"]) == self.printed
        assert self.kms.get_key_rotation_status(KeyId=self.arn)["KeyRotationEnabled"]

    @contextlib.contextmanager
    def without(self, sid: str) -> Iterator[None]:
        """Take one statement away."""
        less = [each for each in self.printed["Statement"] if each["Sid"] != sid]
        assert len(less) == len(self.printed["Statement"]) - 1
        self._put({**self.printed, "Statement": less})
        try:
            yield
        finally:
            self._put(self.printed)

    def _put(self, policy: Any) -> None:
        self.kms.put_key_policy(KeyId=self.arn, Policy=json.dumps(policy), BypassPolicyLockoutSafetyCheck=True)


def undelivered_alerts_and_events_need_their_statement(cloud: LocalCloud, key: OwnKey, project: Project) -> None:
    """What SNS and EventBridge put into the stack's encrypted queues arrives, but not while nothing lets them."""
    session = cloud.session()
    sns, sqs, events = session.client("sns"), session.client("sqs"), session.client("events")
    (queue_url,) = (each for each in sqs.list_queues()["QueueUrls"] if "AlertDeadLetters" in each)
    queue: Any = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]
    assert queue["KmsMasterKeyId"] == key.arn
    queue_arn = queue["QueueArn"]
    sns.subscribe(TopicArn=project.alert_topic_arn, Protocol="sqs", Endpoint=queue_arn)
    events.put_rule(Name="into-the-queue", EventPattern=json.dumps({"source": ["a-test"]}))
    events.put_targets(Rule="into-the-queue", Targets=[{"Id": "queue", "Arn": queue_arn}])
    subscribed = project.subscribe(AlertQueue(session, "told", project.alert_topic_arn))["subscription_id"]

    def send(name: str) -> None:
        project.api.post("projects", project.project_id, "subscriptions", subscribed, "test")
        detail = json.dumps({"is": name})
        events.put_events(Entries=[{"Source": "a-test", "DetailType": "a test", "Detail": detail}])

    seen: list[str] = []

    def arrived() -> tuple[int, int]:
        taken = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages", [])
        for each in taken:
            seen.append(str(each["Body"]))
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=each["ReceiptHandle"])
        return sum("subscription.test" in each for each in seen), sum("a-test" in each for each in seen)

    with key.without("LetSNSAndEventsUseTheKey"):
        send("lost")
    send("kept")
    wait_until("both", arrived, lambda counts: min(counts) > 0, within=60)
    assert "lost" not in "".join(seen)
    assert arrived() == (1, 1), seen


def a_broken_key_stops_sweeps_and_no_longer(
    cloud: LocalCloud, outputs: StackOutputs, key: OwnKey, project: Project
) -> None:
    """While the key is disabled a sweep fails, which the stack's alarms see; nothing is to be done but to enable it."""
    functions = cloud.session().client("lambda")

    def sweep() -> bool:
        return "FunctionError" not in functions.invoke(FunctionName=outputs["PlanSweepFunctionName"], Payload=b"{}")

    key.kms.disable_key(KeyId=key.arn)
    try:
        assert not sweep()
        with pytest.raises(ApiProblemError):
            project.api.get("projects", project.project_id)
    finally:
        key.kms.enable_key(KeyId=key.arn)
    assert sweep()
    assert project.api.get("projects", project.project_id)["project_id"] == project.project_id


@story_on_its_own_cloud
def a_key_is_given_to_the_stack_and_taken_away_again_and_topics_follow(stage: Stage) -> None:
    with TemporaryDirectory() as folder:
        told_under_the_printed_policy(stage.spare, OwnKey(stage.spare, Path(folder)))


def told_under_the_printed_policy(own_cloud: LocalCloud, own: OwnKey) -> None:
    key = own.arn
    now = Encryption(own_cloud)

    outputs = own_cloud.deploy()
    old = Project.create(own_cloud.api(outputs), "before-the-key")
    assert now.topic(old.alert_topic_arn) is None
    assert now.queue(outputs["CheckQueueUrl"]) is None
    before_dead_letters = a_subscription_from_before_the_dead_letters(own_cloud, outputs, old)

    with own.without("LetLogsUseTheKey"), pytest.raises(DeploymentFailedError, match="not allowed to be used"):
        own_cloud.deploy({"KmsKeyArn": key})
    assert now.log_groups("/aws/lambda/") == {None}

    own_cloud.deploy({"KmsKeyArn": key, "Tracing": "Active"})
    assert now.table(outputs["TableName"]) == key
    assert now.queue(outputs["CheckQueueUrl"]) == key
    assert now.log_groups("/aws/lambda/") == {key}
    new = Project.create(own_cloud.api(outputs), "under-the-key")
    assert now.topic(new.alert_topic_arn) == key
    watched = watch_a_key(own_cloud, outputs, new)
    with own.without("LetIamDecide"), pytest.raises(ApiProblemError):
        new.api.get("projects", new.project_id, "keys", watched)
    undelivered_alerts_and_events_need_their_statement(own_cloud, own, new)
    a_broken_key_stops_sweeps_and_no_longer(own_cloud, outputs, own, new)
    now.wait_for_topic(old.alert_topic_arn, key)
    wait_until(
        "a sweep's probe, over the encrypted queue",
        lambda: new.api.get("projects", new.project_id, "keys", watched)["last_trigger"],
        lambda trigger: trigger == "schedule",
        within=_SWEEP_SECONDS,
    )
    assert now.topic(outputs["OperatorTopicArn"]) is None

    own_cloud.deploy({"KmsKeyArn": ""})
    assert now.queue(outputs["CheckQueueUrl"]) is None
    for project in (old, new):
        now.wait_for_topic(project.alert_topic_arn, None)
    assert "DeadLetters" in redrive_policy(own_cloud, before_dead_letters), "the deployments' sweeps saw to it"
