"""The stack's own key: given to a stack that had none, and taken away again, by ordinary updates."""

import json
from typing import Any

from keyvigil_cli.alert_queue import AlertQueue
from keyvigil_cli.customer import CustomerAccount
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, LocalCloud, StackOutputs
from keyvigil_cli.project import Project
from keyvigil_cli.waiting import wait_until
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


@story_on_its_own_cloud
def a_key_is_given_to_the_stack_and_taken_away_again_and_topics_follow(stage: Stage) -> None:
    own_cloud = stage.spare
    key = own_cloud.session().client("kms").create_key()["KeyMetadata"]["Arn"]
    now = Encryption(own_cloud)

    outputs = own_cloud.deploy()
    old = Project.create(own_cloud.api(outputs), "before-the-key")
    assert now.topic(old.alert_topic_arn) is None
    assert now.queue(outputs["CheckQueueUrl"]) is None
    before_dead_letters = a_subscription_from_before_the_dead_letters(own_cloud, outputs, old)

    own_cloud.deploy({"KmsKeyArn": key, "Tracing": "Active"})
    assert now.table(outputs["TableName"]) == key
    assert now.queue(outputs["CheckQueueUrl"]) == key
    assert now.log_groups("/aws/lambda/") == {key}
    new = Project.create(own_cloud.api(outputs), "under-the-key")
    assert now.topic(new.alert_topic_arn) == key
    watched = watch_a_key(own_cloud, outputs, new)
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
