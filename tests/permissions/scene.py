"""Where drills are played: one local cloud with the real stack, things that were there before, and quick preparations.

A drill that had to live through an outage to ask for one lock would take a minute. So what came before is written
into the table as the code itself would have written it, and what the drill is about is done by the deployed function.
"""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from keyvigil.adapters.clock_and_ids import RandomIds, SystemClock
from keyvigil.adapters.dynamodb_store import _CANARIES, DynamoDbStore
from keyvigil.adapters.plain_data import to_plain
from keyvigil.domain.alerts import OutboxRow
from keyvigil.domain.canaries import CANARY_PROJECT, STACKS_OWN
from keyvigil.domain.clusters import Cluster, ClusterStatus, LockSettings, LockVia
from keyvigil.domain.incidents import AffectedCluster, Incident, IncidentStatus
from keyvigil.domain.key_events import pointers_to
from keyvigil.domain.keys import Health, Key, KeyStatus
from keyvigil.domain.projects import Project, Protocol, Subscription
from keyvigil.domain.verdicts import Cause
from keyvigil.ports import CheckMessage, Put
from keyvigil_cli import project as registry
from keyvigil_cli.api_client import ApiClient, JsonObject
from keyvigil_cli.customer import CustomerAccount
from keyvigil_cli.local_cloud import (
    CUSTOMER_ACCOUNT,
    OPERATOR_ACCOUNT,
    REGION,
    STACK_NAME,
    LocalCloud,
    StackOutputs,
    root_credentials,
)
from keyvigil_cli.waiting import wait_until
from tests import examples
from tests.e2e.fault_proxy import FaultProxy
from tests.permissions.receiver import Receiver

# Asynchronous invocations, queues and streams of the local cloud answer within two seconds, cold functions within four;
# a machine that has other work needs longer.
SOON_SECONDS = 15.0
REFUSED = re.compile(r"not authorized to perform|AccessDenied|AuthorizationError")


@dataclass(frozen=True)
class Outage:
    """An incident with its key and one cluster, as the table has them."""

    project_id: str
    key_id: str
    incident_id: str
    cluster_id: str

    @property
    def of_incident(self) -> JsonObject:
        """What a workflow's step is told."""
        return {"project_id": self.project_id, "key_id": self.key_id, "incident_id": self.incident_id}


@dataclass(frozen=True)
class WaitingStep:
    """A step of a workflow that waits for its token."""

    token: str
    execution_arn: str


class Ear:
    """A queue that hears whatever is sent to it."""

    def __init__(self, session: Any, name: str) -> None:
        self._sqs = session.client("sqs")
        self.url: str = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        asked = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        self.arn: str = asked["Attributes"]["QueueArn"]
        anybody = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": self.arn}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [anybody]})
        self._sqs.set_queue_attributes(QueueUrl=self.url, Attributes={"Policy": policy})
        self._heard: list[str] = []

    def hears(self, *words: str) -> None:
        """Wait until one message with all these words in it was sent."""

        def listen() -> bool:
            for message in self._sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages", []):
                self._heard.append(message["Body"])
                self._sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
            return any(all(word in body for word in words) for body in self._heard)

        wait_until(f"{' with '.join(words)} to be sent", listen, bool, within=SOON_SECONDS, every=0.1)


def store_of(cloud: LocalCloud, table_name: str) -> DynamoDbStore:
    """The code's own store on a cloud's table, as the operator. Two clouds run at once, so no variable names one."""
    store = DynamoDbStore(table_name, REGION)
    operator = root_credentials(OPERATOR_ACCOUNT)
    for name, value in {
        "host": cloud.endpoint_url,
        "aws_access_key_id": operator.access_key,
        "aws_secret_access_key": operator.secret_key,
    }.items():
        setattr(store._item.Meta, name, value)
    return store


class Scene:
    """One cloud with the stack, a customer's key that works, and the means to prepare what a drill needs."""

    def __init__(
        self,
        cloud: LocalCloud,
        outputs: StackOutputs,
        *,
        stack_key: str | None = None,
        faults: FaultProxy | None = None,
    ) -> None:
        self.cloud = cloud
        self.outputs = outputs
        self._faults = faults
        self.stack_key = stack_key
        self.session = cloud.session()
        self.api: ApiClient = cloud.api(outputs)
        self.store = store_of(cloud, outputs["TableName"])
        self.ids = RandomIds()
        self._numbers = itertools.count(1)
        self._partitions: list[str] = []
        self._functions = self.session.client("lambda")
        self._workflows = self.session.client("stepfunctions")
        self._table = self.session.client("dynamodb")
        self._customer = CustomerAccount(cloud.session(CUSTOMER_ACCOUNT), CUSTOMER_ACCOUNT)
        self.home = registry.Project.create(self.api, "home", enforcement="enforce")
        key = self._customer.onboard(
            outputs["MonitorRoleArn"], self.home.external_id, self.home.project_id, role_name="keyvigil-drills"
        )
        self._home_key_id = self.home.register_key(key)["key_id"]
        self.ear = Ear(self.session, "ear")
        self._listen()
        self._tokens = Ear(self.session, "tokens")
        self._waiting_machine = self._make_waiting_machine()

    @property
    def faults(self) -> FaultProxy:
        """What the functions' calls go through, where a drill needs AWS's answer in place of the local cloud's."""
        assert self._faults is not None
        return self._faults

    def stop_the_schedule(self) -> None:
        """From now on only drills sweep."""
        scheduler = self.session.client("scheduler")
        [found] = scheduler.list_schedules()["Schedules"]
        schedule: Any = scheduler.get_schedule(Name=found["Name"])
        kept = ("Name", "ScheduleExpression", "FlexibleTimeWindow", "Target")
        scheduler.update_schedule(**{name: schedule[name] for name in kept}, State="DISABLED")

    def _listen(self) -> None:
        sns, events = self.session.client("sns"), self.session.client("events")
        for topic in (self.home.alert_topic_arn, self.outputs["OperatorTopicArn"]):
            sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=self.ear.arn)
        bus = self.outputs["AlertBusName"]
        events.put_rule(Name="ear", EventBusName=bus, EventPattern=json.dumps({"source": ["keyvigil"]}))
        events.put_targets(Rule="ear", EventBusName=bus, Targets=[{"Id": "ear", "Arn": self.ear.arn}])

    def _make_waiting_machine(self) -> str:
        """A workflow whose only step hands out its token and waits: what our own workflows' steps do, without them."""
        trust = {"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}
        role = self.session.client("iam").create_role(
            RoleName="waits", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        )
        step = {
            "Type": "Task",
            "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
            "Parameters": {"QueueUrl": self._tokens.url, "MessageBody": {"token.$": "$$.Task.Token"}},
            "TimeoutSeconds": 60,
            "End": True,
        }
        definition = json.dumps({"StartAt": "Wait", "States": {"Wait": step}})
        made = self._workflows.create_state_machine(name="waits", definition=definition, roleArn=role["Role"]["Arn"])
        return str(made["stateMachineArn"])

    def name(self) -> str:
        """A name that no other drill has, fit for projects and topics."""
        return f"drill-{next(self._numbers):04d}"

    def now(self) -> datetime:
        """The time, as the functions keep it."""
        return SystemClock().now()

    # ------------------------------------------------------------------------------------------ what the stack does

    def invoke(self, function: str, event: JsonObject) -> JsonObject:
        """Invoke a function of the stack and return its answer, which must be no failure."""
        return dict(self._answer(function, event) or {})

    def draw(self, event: JsonObject) -> str:
        """Have the dashboard's widget drawn."""
        return str(self._answer("render-widget", event))

    def _answer(self, function: str, event: JsonObject) -> Any:
        answer = self._functions.invoke(FunctionName=f"{STACK_NAME}-{function}", Payload=json.dumps(event).encode())
        document = json.loads(answer["Payload"].read())
        assert not answer.get("FunctionError"), document
        return document

    def sweep(self) -> JsonObject:
        """Have the minute swept, although it was swept before."""

        def once_more() -> JsonObject:
            place = {"pk": {"S": f"SWEEP#{datetime.now(UTC):%Y-%m-%dT%H:%MZ}"}, "sk": {"S": "SWEEP"}}
            self._table.delete_item(TableName=self.outputs["TableName"], Key=place)
            return self.invoke("plan-sweep", {})

        return wait_until("a sweep", once_more, lambda answer: answer["claimed"], within=SOON_SECONDS)

    def canary_outcome(self) -> str:
        """Have the stack's own canary probed as if for the first time; what was found."""
        place = {"pk": {"S": _CANARIES}, "sk": {"S": f"CANARY#{STACKS_OWN}"}}
        self._table.delete_item(TableName=self.outputs["TableName"], Key=place)
        message = to_plain(CheckMessage(CANARY_PROJECT, STACKS_OWN, self.now(), canary=True))
        record = {"messageId": self.name(), "eventSource": "aws:sqs", "body": json.dumps(message)}
        answer = self.invoke("check-keys", {"Records": [record]})
        assert not answer["batchItemFailures"], answer
        canary = self.store.canary(STACKS_OWN)
        assert canary is not None
        return str(canary.outcome)

    def new_sandbox(self, function: str) -> None:
        """Let a function begin anew, as a deployment does."""
        name = f"{STACK_NAME}-{function}"
        environment = self._functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        self._functions.update_function_configuration(
            FunctionName=name, Environment={"Variables": {**environment, "BEGUN_ANEW_FOR": self.name()}}
        )

    def refusals(self, functions: list[str], since: datetime) -> list[str]:
        """What these functions logged about being refused something."""
        logs = self.session.client("logs")
        return [
            event["message"]
            for function in functions
            for event in logs.filter_log_events(
                logGroupName=f"/aws/lambda/{function}", startTime=int(since.timestamp() * 1000)
            )["events"]
            if REFUSED.search(event["message"])
        ]

    # ------------------------------------------------------------------------------------------ what came before

    def _put(self, *entities: Any) -> None:
        for entity in entities:
            self.store.commit([Put(entity)])

    def _project(self, **fields: Any) -> Project:
        """A project in the table, with the topic that is there for all drills."""
        project = examples.project(
            project_id=self.name(),
            external_id=self.home.external_id,
            alert_topic_arn=self.home.alert_topic_arn,
            created_at=self.now(),
            **fields,
        )
        self._partitions.append(f"PROJECT#{project.project_id}")
        return project

    def watched_key(self, *, due_in: timedelta = timedelta(hours=1), **fields: Any) -> Key:
        """A customer's key that works, registered in a project of its own."""
        now = self.now()
        project = self._project()
        registered = self.store.key(self.home.project_id, self._home_key_id)
        assert registered is not None
        key = replace(
            registered,
            version=0,
            project_id=project.project_id,
            last_probed_at=now - timedelta(hours=1),
            due_at=now + due_in,
            **fields,
        )
        self._partitions += [f"POINTER#{key.account_id}", f"HINTS#{key.project_id}"]
        self._put(project, key, *pointers_to(key))
        return key

    def subscription_without_dead_letters(self) -> str:
        """A project's subscription as it was before there was a queue for what it does not take; return its ARN."""
        project, subscription_id = self._project(), self.name()
        endpoint = Ear(self.session, subscription_id).arn
        made = self.session.client("sns").subscribe(
            TopicArn=project.alert_topic_arn, Protocol="sqs", Endpoint=endpoint, ReturnSubscriptionArn=True
        )
        subscription = Subscription(
            project_id=project.project_id,
            subscription_id=subscription_id,
            protocol=Protocol.SQS,
            endpoint=endpoint,
            min_severity="info",
            types=(),
            subscription_arn=made["SubscriptionArn"],
            status="confirmed",
            created_at=self.now(),
        )
        self._put(project, subscription)
        return subscription.subscription_arn

    def waiting_cluster(self, key: Key) -> str:
        """A cluster that waits for its key; return its id."""
        cluster = self._cluster(key, ClusterStatus.PENDING_KEY)
        self._put(cluster)
        return cluster.cluster_id

    def _cluster(self, key: Key, status: ClusterStatus, **fields: Any) -> Cluster:
        return examples.cluster(
            project_id=key.project_id,
            key_id=key.key_id,
            region=key.region,
            status=status,
            created_at=self.now(),
            status_changed_at=self.now(),
            **fields,
        )

    def outage(
        self,
        incident: IncidentStatus,
        cluster: ClusterStatus,
        *,
        recovered: bool = False,
        cause: Cause = Cause.KEY_DISABLED,
        via: LockVia = LockVia.EVENT,
        executions: Callable[[str], tuple[str, ...]] = lambda _incident_id: (),
        asked_ago: timedelta = timedelta(),
        **of_cluster: Any,
    ) -> Outage:
        """A confirmed outage that has got so far. Nobody mends it meanwhile unless it was asked for long ago."""
        now, incident_id = self.now(), self.ids.ulid()
        unhealthy = Health(
            status=KeyStatus.UNHEALTHY,
            failing_streak=6,
            definite_streak=3,
            failing_since=now - timedelta(minutes=3),
            counted_at=now,
            confirmed=True,
        )
        project = self._project()
        key = examples.key(
            project_id=project.project_id,
            health=Health() if recovered else unhealthy,
            verdict=examples.verdict(None if recovered else cause, at=now, latency_ms=0),
            last_probed_at=now,
            due_at=now + timedelta(hours=1),
            created_at=now,
            open_incident_id=incident_id,
            clusters=1,
        )
        locked = cluster not in {ClusterStatus.ACTIVE, ClusterStatus.PENDING_KEY}
        held = self._cluster(
            key,
            cluster,
            fence=1,
            **{
                "lock": LockSettings(via=via),
                "locked_by_incident_id": incident_id if locked else None,
                **of_cluster,
            },
        )
        opened = examples.incident(
            incident_id=incident_id,
            project_id=project.project_id,
            status=incident,
            cause=cause,
            opened_at=now,
            confirmed_at=now,
            recovered_at=now if recovered else None,
            clusters=(AffectedCluster(cluster_id=held.cluster_id, status=ClusterStatus.ACTIVE),),
            executions=executions(incident_id),
            lockouts=1,
            recoveries=1,
            execution_asked_at=now - asked_ago,
        )
        self._partitions.append(f"INCIDENT#{incident_id}")
        self._put(project, key, held, opened)
        return Outage(project.project_id, key.key_id, incident_id, held.cluster_id)

    def suspicion(self) -> Outage:
        """A key that is not confirmed to be broken, under an incident whose locks are said to be under way."""
        outage = self.outage(IncidentStatus.LOCKING, ClusterStatus.ACTIVE)
        key = self.store.key(outage.project_id, outage.key_id)
        assert key is not None
        self.store.commit([Put(replace(key, health=Health(status=KeyStatus.SUSPECT)))])
        return outage

    def begin(self, execution_arn: str, outage: Outage) -> None:
        """Start an execution and wait until it waits for its next probe: it does so for ten seconds."""
        machine, _, name = execution_arn.replace(":execution:", ":stateMachine:").rpartition(":")
        self._workflows.start_execution(stateMachineArn=machine, name=name, input=json.dumps(outage.of_incident))

        def entered() -> list[str]:
            events = self._workflows.get_execution_history(executionArn=execution_arn, maxResults=1000)["events"]
            return [each["stateEnteredEventDetails"]["name"] for each in events if "stateEnteredEventDetails" in each]

        wait_until("it to wait", entered, lambda seen: "WaitForNextProbe" in seen, within=SOON_SECONDS, every=0.1)

    def end_incident(self, outage: Outage) -> None:
        """Have an outage's incident be over for an hour."""
        over = replace(
            self.incident(outage), status=IncidentStatus.RESOLVED, resolved_at=self.now() - timedelta(hours=1)
        )
        self.store.commit([Put(over)])

    def status_of(self, execution_arn: str) -> str:
        """What Step Functions says of an execution."""
        return str(self._workflows.describe_execution(executionArn=execution_arn)["status"])

    def request_under_way(self, lock: LockSettings, **of_cluster: Any) -> Outage:
        """A cluster whose receiver is to lock it, and has five minutes left."""
        until = self.now() + timedelta(minutes=5)
        return self.outage(
            IncidentStatus.LOCKING, ClusterStatus.LOCKING, **{"lock": lock, "respond_by": until, **of_cluster}
        )

    def change(self, outage: Outage, **fields: Any) -> None:
        """Have the outage's cluster be otherwise."""
        self.store.commit([Put(replace(self.cluster(outage), **fields))])

    @cached_property
    def receiver(self) -> Receiver:
        """A function that locks clusters, for all drills."""
        return Receiver(self.session)

    def incident(self, outage: Outage) -> Incident:
        """The outage's incident as it is now."""
        found = self.store.incident(outage.project_id, outage.incident_id)
        assert found is not None
        return found

    def cluster(self, outage: Outage) -> Cluster:
        """The outage's cluster as it is now."""
        found = self.store.cluster(outage.project_id, outage.cluster_id)
        assert found is not None
        return found

    def waiting_step(self) -> WaitingStep:
        """A step of a workflow that has begun to wait."""
        started = self._workflows.start_execution(stateMachineArn=self._waiting_machine, name=self.name())
        message = wait_until(
            "a token",
            lambda: self.session.client("sqs").receive_message(QueueUrl=self._tokens.url).get("Messages", []),
            bool,
            within=SOON_SECONDS,
            every=0.1,
        )[0]
        self.session.client("sqs").delete_message(QueueUrl=self._tokens.url, ReceiptHandle=message["ReceiptHandle"])
        return WaitingStep(json.loads(message["Body"])["token"], started["executionArn"])

    def wakes(self, step: WaitingStep) -> None:
        """Wait until the step's token came back."""
        self.execution_ends(step.execution_arn)

    def execution_ends(self, execution_arn: str) -> None:
        """Wait until an execution is there, and has ended well."""

        def status() -> str:
            try:
                return str(self._workflows.describe_execution(executionArn=execution_arn)["status"])
            except self._workflows.exceptions.ExecutionDoesNotExist:
                return "not there"

        wait_until(f"{execution_arn} to end", status, lambda seen: seen == "SUCCEEDED", within=SOON_SECONDS, every=0.1)

    def unsent_row(self, **fields: Any) -> OutboxRow:
        """A row that the stream did not get sent: it looks like something else until the stream has passed it."""
        made: dict[str, Any] = {"row_id": self.ids.ulid(), "created_at": self.now() - timedelta(minutes=2)}
        row = OutboxRow(**(made | fields))
        item = self.store._to_item(row)
        item.kind = "NOT-YET"
        item.save()
        item.kind = "OUTBOX"
        item.save()
        self._partitions.append(f"OUTBOX#{row.row_id}")
        return row

    def tidy(self) -> None:
        """Take away what was prepared, so that no sweep finds it."""
        name = self.outputs["TableName"]
        for partition in self._partitions:
            found = self._table.query(
                TableName=name,
                KeyConditionExpression="pk = :pk",
                ExpressionAttributeValues={":pk": {"S": partition}},
                ProjectionExpression="pk, sk",
            )
            for place in found["Items"]:
                self._table.delete_item(TableName=name, Key=place)
        self._partitions.clear()
