"""An upgrade with open work: the oldest release is deployed, its work is half done, and this code is deployed over it.

Each kind of work begins under the old code, is half done when the stack is updated, goes on under the new code, and
ends as it was promised. On AWS a running execution keeps the definition that it was started with
(https://docs.aws.amazon.com/step-functions/latest/apireference/API_UpdateStateMachine.html), and so it does here:
the local cloud reads the definition once, when an execution begins. DescribeStateMachineForExecution shows the new
one here, which on AWS it would not; so what a running recovery does is looked for in its history.
"""

import contextlib
import json
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, override

import pytest

from keyvigil_cli.api_client import ApiProblemError, JsonObject
from keyvigil_cli.checkout import Checkout
from keyvigil_cli.control_plane import LockRequest
from keyvigil_cli.customer import trust_policy
from keyvigil_cli.local_cloud import CUSTOMER_ACCOUNT, STACK_NAME, LocalCloud
from keyvigil_cli.project import Project
from keyvigil_cli.waiting import wait_until
from tests.e2e.fault_proxy import FaultProxy
from tests.e2e.older_release import older_release
from tests.e2e.stage import Stage, WatchedKey
from tests.e2e.story import story_on_its_own_cloud

CHECKOUT = Checkout.find(Path(__file__).parent)
REGISTRY: dict[str, str | int] = {"via": "none"}
ON_TIME = 300.0
# Longer than the update takes, so that the new code gets what the old one sent.
QUEUED_FOR_SECONDS = 90


def now() -> datetime:
    return datetime.now(UTC)


def fences(stage: Stage) -> dict[tuple[str, str], int]:
    """The fence of every cluster there is."""
    return {
        (project["project_id"], cluster["cluster_id"]): cluster["fence"]
        for project in stage.api.items("projects")
        for cluster in stage.api.items("projects", project["project_id"], "clusters")
    }


class Execution:
    """One execution of a workflow, by its ARN."""

    def __init__(self, stage: Stage, arn: str) -> None:
        self._workflows = stage.cloud.session().client("stepfunctions")
        self._arn = arn

    @property
    def status(self) -> str:
        return str(self._workflows.describe_execution(executionArn=self._arn)["status"])

    def wait_until_ended(self) -> str:
        return wait_until("the execution to end", lambda: self.status, lambda status: status != "RUNNING", within=60)

    def states_entered_since(self, when: datetime) -> set[str]:
        pages = self._workflows.get_paginator("get_execution_history").paginate(executionArn=self._arn)
        return {
            event["stateEnteredEventDetails"]["name"]
            for page in pages
            for event in page["events"]
            if "stateEnteredEventDetails" in event and event["timestamp"] > when
        }


class Work(ABC):
    """Something that is half done when the stack is updated."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.fault = contextlib.ExitStack()
        self.upgraded_at = now()

    @abstractmethod
    def begin(self) -> None:
        """Register what it takes, and begin, under the old code."""

    def leave_half_done(self) -> None:  # noqa: B027  nothing is waited for, unless a kind of work says so
        """Wait until it is as far as it should be when the stack is updated."""

    @abstractmethod
    def go_on(self) -> None:
        """Go on under the new code."""

    @abstractmethod
    def end(self) -> None:
        """Wait for the end, and see that it is as it was promised."""

    def throttle(self, watched: WatchedKey) -> None:
        """Keep every probe of a key from finding anything out, so that its workflow goes on asking."""
        kms_key = watched.key.key_arn.rpartition("/")[2]
        error = {"code": "ThrottlingException", "status": 400}
        rule = {"service": "kms", "body": f"contains(KeyId, '{kms_key}')", "error": error}
        self.fault.enter_context(self.stage.faults.failing(rule))

    def only_execution(self, project: Project, incident_id: str, kind: str) -> Execution:
        """The execution of a kind (`lock` or `unlock`) that an incident has; it has no second one."""
        arns = project.incident(incident_id)["execution_arns"]
        [arn] = [arn for arn in arns if f"-{kind}-" in arn]
        assert arn.endswith(f"{incident_id}-{kind}-1")
        return Execution(self.stage, arn)


class LockoutWaitsForItsControlPlane(Work):
    """A cluster is LOCKING, and its workflow waits for the control plane, which acknowledges after the update."""

    @override
    def begin(self) -> None:
        self.asked: list[LockRequest] = []
        self.project = self.stage.project()
        self.queue = self.stage.alert_queue(self.project)
        self.watched = self.stage.watched_key(self.project)
        self.project.register_cluster("vectors", self.watched.key_id, {"via": "event", "timeout_seconds": 1200})
        self.stage.control_plane(self.project, self.asked.append)
        self.watched.disable()
        self.incident_id = self.watched.check()["open_incident_id"]

    @override
    def leave_half_done(self) -> None:
        wait_until("the lock request", lambda: self.asked, bool, within=ON_TIME)
        self.fence = self.asked[0].fence
        assert self.project.cluster("vectors")["status"] == "LOCKING"
        self.execution = self.only_execution(self.project, self.incident_id, "lock")
        assert self.execution.status == "RUNNING"

    @override
    def go_on(self) -> None:
        assert self.execution.status == "RUNNING"
        # Twice: who repeats an answer gets the same again.
        for _ in range(2):
            answered = self.stage.answer_lock(self.project, "vectors", self.fence, "locked")
            assert (answered["status"], answered["fence"]) == ("LOCKED", self.fence)

    @override
    def end(self) -> None:
        incident = self.project.wait_for_incident(self.incident_id, "LOCKED", within=ON_TIME)
        assert self.execution.wait_until_ended() == "SUCCEEDED"
        self.only_execution(self.project, self.incident_id, "lock")
        happened = [entry["what"] for entry in incident["timeline"]]
        assert happened.count("cluster.lock_requested") == happened.count("cluster.locked") == 1
        assert {request.fence for request in self.asked} == {self.fence}
        self.queue.wait_for("cluster.locked")


class ClusterIsLockedAndNobodyWasTold(Work):
    """Clusters are LOCKED, the project's topic took no alert yet, and the key returns after the update."""

    @override
    def begin(self) -> None:
        self.project = self.stage.project()
        self.queue = self.stage.alert_queue(self.project)
        topic = self.project.alert_topic_arn.rpartition(":")[2]
        error = {"code": "InternalError", "status": 500}
        rule = {
            "service": "sns", "operation": "Publish", "body": f"ends_with(TopicArn, '{topic}')", "error": error,
        }  # fmt: skip
        self.fault.enter_context(self.stage.faults.failing(rule))
        self.watched = self.stage.watched_key(self.project)
        self.project.register_cluster("registry", self.watched.key_id, REGISTRY)
        self.project.register_cluster("vectors", self.watched.key_id, {"via": "event", "timeout_seconds": 300})
        self.control_plane = self.stage.control_plane(self.project)
        self.watched.disable()
        self.incident_id = self.watched.check()["open_incident_id"]

    @override
    def leave_half_done(self) -> None:
        self.project.wait_for_incident(self.incident_id, "LOCKED", within=ON_TIME)
        self.unsent = wait_until(
            "alerts that the topic did not take",
            self._unsent_alerts,
            lambda alerts: {alert["type"] for alert in alerts} >= {"key.suspect", "key.unhealthy", "cluster.locked"},
            within=60,
        )
        assert self.queue.collect() == []

    def _unsent_alerts(self) -> list[JsonObject]:
        """As they lie in the table, on the list of rows that are not sent."""
        table = self.stage.cloud.session().client("dynamodb")
        rows = table.scan(
            TableName=self.stage.outputs["TableName"],
            FilterExpression="begins_with(agenda_pk, :unsent)",
            ExpressionAttributeValues={":unsent": {"S": "unsent#"}},
            ConsistentRead=True,
        )["Items"]
        alerts = [json.loads(row["body"]["S"])["alert"] for row in rows]
        return [alert for alert in alerts if alert and alert["project_id"] == self.project.project_id]

    @override
    def go_on(self) -> None:
        clusters = self.stage.api.items("projects", self.project.project_id, "clusters")
        assert [cluster["status"] for cluster in clusters] == ["LOCKED", "LOCKED"]
        self.fault.close()
        self.watched.enable()
        assert self.watched.check()["status"] == "RECOVERING"

    @override
    def end(self) -> None:
        self.project.wait_for_clusters(["registry", "vectors"], "ACTIVE", within=ON_TIME)
        incident = self.project.wait_for_incident(self.incident_id, "RESOLVED", within=ON_TIME)
        assert [arn.rpartition(":")[2] for arn in incident["execution_arns"]] == [
            f"{self.incident_id}-lock-1",
            f"{self.incident_id}-unlock-1",
        ]
        assert [request.lock for request in self.control_plane.carried_out] == [True, False]
        self.queue.wait_for("key.recovered", "cluster.unlocked", within=ON_TIME)
        wanted = {alert["alert_id"]: (alert["dedup_key"], alert["sequence"], alert["type"]) for alert in self.unsent}

        def arrived() -> dict[str, tuple[str, int, str]]:
            return {
                alert["alert_id"]: (alert["dedup_key"], alert["sequence"], alert["type"])
                for alert in self.queue.collect()
            }

        found = wait_until("the unsent alerts", arrived, lambda seen: seen.keys() >= wanted.keys(), within=ON_TIME)
        assert wanted.items() <= found.items()
        [locked], [unlocked] = self.queue.of_type("cluster.locked"), self.queue.of_type("cluster.unlocked")
        assert (unlocked["dedup_key"], unlocked["status"]) == (locked["dedup_key"], "resolved")


class ConfirmationGoesOn(Work):
    """A key is SUSPECT and its workflow goes on probing; what it finds after the update confirms the outage."""

    @override
    def begin(self) -> None:
        self.project = self.stage.project()
        self.watched = self.stage.watched_key(self.project)
        self.project.register_cluster("registry", self.watched.key_id, REGISTRY)
        self.watched.disable()
        checked = self.watched.check()
        self.throttle(self.watched)
        assert checked["status"] == "SUSPECT"
        self.incident_id = checked["open_incident_id"]

    @override
    def leave_half_done(self) -> None:
        self.project.wait_for_key(
            self.watched.key_id,
            "the workflow to probe",
            lambda key: key["unknown_since"] is not None and key["last_trigger"] == "lockout",
        )
        assert self.project.incident(self.incident_id)["status"] == "CONFIRMING"
        self.execution = self.only_execution(self.project, self.incident_id, "lock")

    @override
    def go_on(self) -> None:
        assert self.execution.status == "RUNNING"
        assert self.project.incident(self.incident_id)["status"] == "CONFIRMING"
        self.fault.close()

    @override
    def end(self) -> None:
        incident = self.project.wait_for_incident(self.incident_id, "LOCKED", within=ON_TIME)
        assert datetime.fromisoformat(incident["confirmed_at"]) > self.upgraded_at
        assert self.project.cluster("registry")["status"] == "LOCKED"
        assert self.execution.wait_until_ended() == "SUCCEEDED"
        self.only_execution(self.project, self.incident_id, "lock")


class RecoveryGoesOn(Work):
    """A key is RECOVERING and its workflow goes on probing: by its old definition, which the update has changed."""

    @override
    def begin(self) -> None:
        self.project = self.stage.project()
        self.watched = self.stage.watched_key(self.project)
        self.project.register_cluster("registry", self.watched.key_id, REGISTRY)
        self.watched.disable()
        self.incident_id = self.watched.check()["open_incident_id"]

    @override
    def leave_half_done(self) -> None:
        self.project.wait_for_incident(self.incident_id, "LOCKED", within=ON_TIME)
        self.watched.enable()
        checked = self.watched.check()
        self.throttle(self.watched)
        assert checked["status"] == "RECOVERING"
        self.project.wait_for_key(
            self.watched.key_id,
            "the workflow to probe",
            lambda key: key["unknown_since"] is not None and key["last_trigger"] == "recovery",
        )
        self.execution = self.only_execution(self.project, self.incident_id, "unlock")

    @override
    def go_on(self) -> None:
        assert self.execution.status == "RUNNING"
        self.fault.close()

    @override
    def end(self) -> None:
        self.project.wait_for_incident(self.incident_id, "RESOLVED", within=ON_TIME)
        assert self.project.cluster("registry")["status"] == "ACTIVE"
        assert self.execution.wait_until_ended() == "SUCCEEDED"
        self.only_execution(self.project, self.incident_id, "unlock")
        # A state of the old definition, which the new one calls IsKeyStillWatched.
        assert "IsRecoveryProved" in self.execution.states_entered_since(self.upgraded_at)


class ChecksAreQueued(Work):
    """The old code's messages lie in the check queue: one for a key, the same again, one for a key that is gone."""

    @override
    def begin(self) -> None:
        self.project = self.stage.project(check_interval_minutes=60)
        self.watched = self.stage.watched_key(self.project)

    @override
    def leave_half_done(self) -> None:
        self.sent_at = now()
        due_at = self.sent_at.isoformat()
        gone = f"us-west-2.{'0' * 8}-0000-4000-8000-{'0' * 12}"
        for key_id in (self.watched.key_id, self.watched.key_id, gone):
            body = {"project_id": self.project.project_id, "key_id": key_id, "due_at": due_at}
            self.stage.cloud.session().client("sqs").send_message(
                QueueUrl=self.stage.outputs["CheckQueueUrl"],
                MessageBody=json.dumps(body),
                DelaySeconds=QUEUED_FOR_SECONDS,
            )

    @override
    def go_on(self) -> None:
        pass

    @override
    def end(self) -> None:
        probed = self.project.wait_for_key(
            self.watched.key_id,
            "the queued message to be taken",
            lambda key: key["last_trigger"] == "schedule",
            within=ON_TIME,
        )
        delivered_at = self.sent_at + timedelta(seconds=QUEUED_FOR_SECONDS)
        assert datetime.fromisoformat(probed["last_probed_at"]) > min(self.upgraded_at, delivered_at)
        assert probed["verdict"]["outcome"] == "HEALTHY"
        assert self.project.incidents() == []
        # A message that failed would stay hidden in the queue, and go to the dead letters in three minutes.
        wait_until("the queue to be empty", self._queued, lambda queued: queued == {0}, within=90)

    def _queued(self) -> set[int]:
        names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        asked = (
            self.stage.cloud.session()
            .client("sqs")
            .get_queue_attributes(QueueUrl=self.stage.outputs["CheckQueueUrl"], AttributeNames=names)
        )
        return {int(asked["Attributes"][name]) for name in names}


class RolesAreUsedUnclaimed(Work):
    """One role serves two projects, another one; nobody claimed either, and a third project wants them."""

    @override
    def begin(self) -> None:
        self.first, self.second, self.third = (self.stage.project() for _ in range(3))
        self.accepted: dict[str, list[str]] = {}
        shared, alone = self._role(self.first, self.second, self.third), self._role(self.first, self.third)
        self.keys = [
            (self.first, self._register(self.first, shared)),
            (self.second, self._register(self.second, shared)),
            (self.first, self._register(self.first, alone)),
        ]
        self.wanted = {"shared": shared, "alone": alone}

    def _role(self, *projects: Project) -> str:
        """A role that checks the ExternalId, and takes those of all these projects."""
        role_arn = self.stage.role(projects[0])
        self.accepted[role_arn] = [project.external_id for project in projects]
        return role_arn

    def _register(self, project: Project, role_arn: str) -> str:
        """With a new key. The role's stack, which comes with it, knows one ExternalId; the others are added after."""
        key = self.stage.customer.create_key(role_arn)
        accepted = self.accepted[role_arn]
        policy = json.loads(trust_policy(self.stage.outputs["MonitorRoleArn"], accepted[0]))
        policy["Statement"][0]["Condition"]["StringEquals"]["sts:ExternalId"] = accepted
        iam = self.stage.cloud.session(CUSTOMER_ACCOUNT).client("iam")
        iam.update_assume_role_policy(RoleName=key.role_name, PolicyDocument=json.dumps(policy))
        return str(project.register_key(key)["key_id"])

    @override
    def go_on(self) -> None:
        # At once: no sweep of the new code need have been there.
        for role_arn in self.wanted.values():
            with pytest.raises(ApiProblemError) as refused:
                self._register(self.third, role_arn)
            assert (refused.value.status, refused.value.title) == (409, "Role serves another project")

    @override
    def end(self) -> None:
        for project, key_id in self.keys:
            project.wait_for_key(
                key_id,
                "a sweep of the new code to find the key healthy",
                lambda key: datetime.fromisoformat(key["last_probed_at"]) > self.upgraded_at,
            )
            assert project.key(key_id)["status"] == "HEALTHY"
        [shared] = self.stage.api.get("fleet")["role_audit"]["shared"]
        assert shared["role_name"] == self.wanted["shared"].rpartition("/")[2]
        assert set(shared["project_ids"]) == {self.first.project_id, self.second.project_id}
        # The role goes with the last of its keys, also with one that the old code registered.
        self.stage.api.delete("projects", self.first.project_id, "keys", self.keys[2][1])
        self._register(self.third, self.wanted["alone"])


type Resource = tuple[str, str, str]


def resources(cloud: LocalCloud) -> set[Resource]:
    """The stack's resources: type, logical and physical id."""
    pages = cloud.session().client("cloudformation").get_paginator("list_stack_resources")
    return {
        (each["ResourceType"], each["LogicalResourceId"], each["PhysicalResourceId"])
        for page in pages.paginate(StackName=STACK_NAME)
        for each in page["StackResourceSummaries"]
    }


def is_gone(cloud: LocalCloud, resource: Resource) -> bool:
    """Ask the service itself whether what the stack let go of is gone."""
    kind, _, physical = resource
    match kind:
        case "AWS::Lambda::LayerVersion":
            name = physical.split(":")[6]
            versions = cloud.session().client("lambda").list_layer_versions(LayerName=name)["LayerVersions"]
            return physical not in {version["LayerVersionArn"] for version in versions}
        case _:
            pytest.fail(f"the update took {resource} out of the stack: say here how to see that it is gone")


@story_on_its_own_cloud
def an_upgrade_with_open_work_keeps_its_promises(_stage: Stage) -> None:
    program = CHECKOUT.ministack().with_name("microburst")
    faults = FaultProxy(program, CHECKOUT.root / ".local-cloud" / "faults-of-the-upgrade")
    with (
        LocalCloud(CHECKOUT, extra_environ={"HTTP_PROXY": faults.url}) as cloud,
        faults.in_front_of(cloud.endpoint_url),
    ):
        old = cloud.deploy(checkout=older_release(CHECKOUT))
        with Stage(cloud, old, faults) as stage:
            upgrade(stage)


def upgrade(stage: Stage) -> None:
    all_work: list[Work] = [
        LockoutWaitsForItsControlPlane(stage),
        ClusterIsLockedAndNobodyWasTold(stage),
        RecoveryGoesOn(stage),
        ConfirmationGoesOn(stage),
        RolesAreUsedUnclaimed(stage),
        ChecksAreQueued(stage),
    ]
    with contextlib.ExitStack() as mended:
        for work in all_work:
            mended.callback(work.fault.close)
            work.begin()
        for work in all_work:
            work.leave_half_done()
        fences_before = fences(stage)

        upgraded_at = update_stack(stage)

        assert fences(stage) == fences_before
        for work in all_work:
            work.upgraded_at = upgraded_at
            work.go_on()
        # What is repeated with the same key is done once, where the old code kept no answers.
        body: JsonObject = {"project_id": stage.name(), "name": "Twice"}
        first, second = (stage.api.post("projects", body=body, idempotency_key="once") for _ in range(2))
        assert first == second
        for work in all_work:
            work.end()
        after = fences(stage)
        assert [cluster for cluster, fence in fences_before.items() if after[cluster] < fence] == []


def update_stack(stage: Stage) -> datetime:
    """Deploy this code over the old one; say when that was done."""
    before = resources(stage.cloud)
    outputs = stage.cloud.deploy()
    upgraded_at = now()
    assert stage.outputs.values.items() <= outputs.values.items()
    assert stage.outputs.api_url == outputs.api_url
    gone = before - resources(stage.cloud)
    assert any(kind == "AWS::Lambda::LayerVersion" for kind, _, _ in gone)
    assert [resource for resource in gone if not is_gone(stage.cloud, resource)] == []
    return upgraded_at
