"""The drills. Each permission that the local cloud enforces is missed by one of them."""

from datetime import timedelta

import pytest

from keyvigil.domain.alerts import AlertType, WorkflowStart, lock_request, make_alert
from keyvigil.domain.clusters import ClusterStatus, LockSettings, LockVia
from keyvigil.domain.incidents import IncidentStatus, WorkflowKind
from keyvigil.domain.keys import Health
from keyvigil.domain.verdicts import Cause
from keyvigil_cli.api_client import ApiProblemError, JsonObject
from keyvigil_cli.local_cloud import OPERATOR_ACCOUNT, REGION, STACK_NAME
from keyvigil_cli.waiting import wait_until
from tests import examples
from tests import recorded_events as recordings
from tests.permissions.drill import drill, on
from tests.permissions.scene import SOON_SECONDS, Ear, Outage, Scene

TABLE = "Table"
AGENDA = "Table/index/agenda"
TOPICS = "<stack>-project-*"
READS_AND_WRITES = ("dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query")

SWEEP = "PlanSweepRole"
MONITOR = "MonitorRole"
API = "RegistryApiRole"
RELAY = "RelayOutboxRole"


# ---------------------------------------------------------------------------------------------- the API


@drill(
    on(API, TABLE, "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:DeleteItem", "dynamodb:Query"),
    on(API, AGENDA, "dynamodb:Query"),
    on(API, TOPICS, "sns:CreateTopic", "sns:DeleteTopic"),
)
def a_project_is_made_listed_and_removed(scene: Scene) -> None:
    name = scene.name()
    made = scene.api.post("projects", body={"project_id": name, "name": name})
    assert name in [each["project_id"] for each in scene.api.items("projects")]
    scene.api.delete("projects", name)
    with pytest.raises(ApiProblemError, match="404"):
        scene.api.get("projects", name)
    topics = scene.session.client("sns").get_paginator("list_topics").paginate()
    assert made["alert_topic_arn"] not in [each["TopicArn"] for page in topics for each in page["Topics"]]


@drill(
    on(API, TOPICS, "sns:Subscribe", "sns:ListSubscriptionsByTopic", "sns:Publish"),
    on(API, "*", "sns:GetSubscriptionAttributes", "sns:Unsubscribe"),
)
def a_subscriber_joins_gets_a_test_message_and_goes(scene: Scene) -> None:
    name = scene.name()
    scene.api.post("projects", body={"project_id": name, "name": name})
    path = ("projects", name, "subscriptions")
    subscriber = Ear(scene.session, name)
    joined = scene.api.post(*path, body={"protocol": "sqs", "endpoint": subscriber.arn})
    assert joined["status"] == "confirmed"
    sent = scene.api.post(*path, joined["subscription_id"], "test")
    subscriber.hears(sent["alert_id"])
    scene.api.delete(*path, joined["subscription_id"])
    scene.api.delete("projects", name)
    everybody = scene.session.client("sns").get_paginator("list_subscriptions").paginate()
    assert subscriber.arn not in [each["Endpoint"] for page in everybody for each in page["Subscriptions"]]


@drill(on(API, "Table, partition IDEMPOTENCY only", "dynamodb:UpdateItem"))
def a_request_is_repeated_with_its_idempotency_key(scene: Scene) -> None:
    name = scene.name()
    body = {"project_id": name, "name": name}
    first = scene.api.post("projects", body=body, idempotency_key=name)
    assert scene.api.post("projects", body=body, idempotency_key=name) == first
    scene.api.delete("projects", name)


@drill(on(API, "function:<stack>-check-keys", "lambda:InvokeFunction"))
def a_check_is_asked_for(scene: Scene) -> None:
    key = scene.watched_key()
    checked = scene.api.post("projects", key.project_id, "keys", key.key_id, "check")
    assert (checked["verdict"]["outcome"], checked["last_trigger"]) == ("HEALTHY", "request")


@drill(on(API, "*", "states:SendTaskSuccess"))
def a_control_plane_answers_and_the_step_that_waits_wakes(scene: Scene) -> None:
    step = scene.waiting_step()
    outage = scene.outage(IncidentStatus.LOCKING, ClusterStatus.LOCKING, task_token=step.token)
    path = ("projects", outage.project_id, "clusters", outage.cluster_id, "lock-result")
    scene.api.post(*path, body={"fence": 1, "result": "locked"})
    scene.wakes(step)


@drill(on(API, TOPICS, "sns:GetTopicAttributes", "sns:SetTopicAttributes"), with_faults=True)
def a_topic_that_a_request_which_died_left_open_is_closed(scene: Scene) -> None:
    name = scene.name()
    topic = f"arn:aws:sns:{REGION}:{OPERATOR_ACCOUNT}:{STACK_NAME}-project-{name}"
    scene.session.client("sns").create_topic(Name=topic.rpartition(":")[2])
    # AWS refuses a name that is taken by a topic with other attributes; the local cloud forgets the attributes.
    # https://docs.aws.amazon.com/sns/latest/api/API_CreateTopic.html
    refusal = {
        "service": "sns",
        "operation": "CreateTopic",
        "body": f"ends_with(Name, '{name}')",
        "error": {"code": "InvalidParameter", "status": 400},
        "times": 1,
    }
    with scene.faults.failing(refusal):
        scene.api.post("projects", body={"project_id": name, "name": name})
    attributes = scene.session.client("sns").get_topic_attributes(TopicArn=topic)["Attributes"]
    assert (attributes.get("KmsMasterKeyId") or None) == scene.stack_key
    assert "OnlyKeyVigilPublishes" in attributes["Policy"]
    scene.api.delete("projects", name)


# ---------------------------------------------------------------------------------------------- sweeps


@drill(
    on(SWEEP, TABLE, "dynamodb:PutItem"),
    on(SWEEP, AGENDA, "dynamodb:Query"),
    on(SWEEP, "CheckQueue", "sqs:SendMessageBatch"),
)
def a_key_that_is_due_is_probed(scene: Scene) -> None:
    key = scene.watched_key(due_in=-timedelta(seconds=1))
    swept = scene.sweep()
    assert swept["keys_sent"] == swept["keys_due"]
    wait_until(
        "the key to be probed",
        lambda: scene.store.key(key.project_id, key.key_id),
        lambda seen: seen is not None and seen.last_trigger == "schedule",
        within=SOON_SECONDS,
        every=0.1,
    )


@drill(on(SWEEP, "SlowCheckQueue", "sqs:SendMessageBatch"))
def a_key_of_which_nothing_is_known_is_probed(scene: Scene) -> None:
    unknown = Health(unknown_since=scene.now() - timedelta(minutes=5))
    key = scene.watched_key(due_in=-timedelta(seconds=1), health=unknown)
    swept = scene.sweep()
    assert swept["keys_sent"] == swept["keys_due"]
    wait_until(
        "the key to be known",
        lambda: scene.store.key(key.project_id, key.key_id),
        lambda seen: seen is not None and seen.health.unknown_since is None,
        within=SOON_SECONDS,
        every=0.1,
    )


@drill(
    on(SWEEP, TABLE, "dynamodb:GetItem", "dynamodb:Query"),
    on(SWEEP, "execution:<stack>-cluster-lockout:*", "states:DescribeExecution"),
)
def a_lockout_that_ended_without_settling_is_settled(scene: Scene) -> None:
    outage = scene.outage(
        IncidentStatus.LOCKING,
        ClusterStatus.LOCKED,
        executions=lambda incident_id: (f"{incident_id}-lock-1",),
        asked_ago=timedelta(hours=1),
    )
    scene.sweep()
    assert scene.incident(outage).status is IncidentStatus.LOCKED


@drill(on(SWEEP, "execution:<stack>-cluster-recovery:*", "states:DescribeExecution"))
def a_recovery_that_ended_without_settling_is_settled(scene: Scene) -> None:
    outage = scene.outage(
        IncidentStatus.UNLOCKING,
        ClusterStatus.ACTIVE,
        recovered=True,
        executions=lambda incident_id: (f"{incident_id}-unlock-1",),
        asked_ago=timedelta(hours=1),
    )
    scene.sweep()
    assert scene.incident(outage).status is IncidentStatus.RESOLVED


@drill(
    on(SWEEP, "stateMachine:<stack>-cluster-lockout", "states:ListExecutions"),
    on(SWEEP, "execution:<stack>-cluster-lockout:*", "states:StopExecution"),
)
def a_lockout_whose_incident_is_over_is_stopped(scene: Scene) -> None:
    is_stopped(scene, WorkflowKind.LOCKOUT, "cluster-lockout")


@drill(
    on(SWEEP, "stateMachine:<stack>-cluster-recovery", "states:ListExecutions"),
    on(SWEEP, "execution:<stack>-cluster-recovery:*", "states:StopExecution"),
)
def a_recovery_whose_incident_is_over_is_stopped(scene: Scene) -> None:
    is_stopped(scene, WorkflowKind.RECOVERY, "cluster-recovery")


def is_stopped(scene: Scene, kind: WorkflowKind, machine: str) -> None:
    """Have an execution wait for its next probe, end its incident behind its back, and see a sweep stop it."""
    outage = scene.suspicion()
    name = f"{outage.incident_id}-{kind}-1"
    arn = f"arn:aws:states:{REGION}:{OPERATOR_ACCOUNT}:execution:{STACK_NAME}-{machine}:{name}"
    scene.begin(arn, outage)
    scene.end_incident(outage)
    scene.sweep()
    assert scene.status_of(arn) == "ABORTED"


@drill(on(SWEEP, "function:<stack>-relay-outbox", "lambda:InvokeFunction"))
def a_row_that_the_stream_did_not_get_sent_is_sent(scene: Scene) -> None:
    start = WorkflowStart(
        workflow=WorkflowKind.LOCKOUT, name=f"{scene.name()}-lock-1", project_id="gone", key_id="gone", incident_id="x"
    )
    row = scene.unsent_row(project_id="gone", workflow_start=start)
    scene.sweep()
    wait_until(
        "the row to be sent",
        lambda: scene.store.outbox_row(row.row_id),
        lambda seen: seen is not None and seen.sent_at is not None,
        within=SOON_SECONDS,
        every=0.1,
    )


@drill(on(SWEEP, "*", "states:SendTaskSuccess"))
def a_control_plane_that_stays_silent_is_answered_for(scene: Scene) -> None:
    step = scene.waiting_step()
    outage = scene.outage(IncidentStatus.LOCKING, ClusterStatus.LOCKING, task_token=step.token, respond_by=scene.now())
    scene.sweep()
    assert scene.cluster(outage).status is ClusterStatus.LOCK_FAILED
    scene.wakes(step)


@drill(on(SWEEP, TOPICS, "sns:GetTopicAttributes", "sns:SetTopicAttributes"))
def a_topic_that_has_another_key_than_the_stack_follows_it(scene: Scene) -> None:
    sns, topic = scene.session.client("sns"), scene.home.alert_topic_arn
    sns.set_topic_attributes(TopicArn=topic, AttributeName="KmsMasterKeyId", AttributeValue="alias/of-yesterday")
    scene.new_sandbox("plan-sweep")
    scene.sweep()
    found = sns.get_topic_attributes(TopicArn=topic)["Attributes"].get("KmsMasterKeyId") or None
    assert found == scene.stack_key


@drill(on(SWEEP, "*", "sns:SetSubscriptionAttributes"))
def a_subscription_from_before_there_were_dead_letters_gets_them(scene: Scene) -> None:
    subscription_arn = scene.subscription_without_dead_letters()
    scene.new_sandbox("plan-sweep")
    scene.sweep()
    found = scene.session.client("sns").get_subscription_attributes(SubscriptionArn=subscription_arn)["Attributes"]
    assert STACK_NAME in found["RedrivePolicy"]


# ---------------------------------------------------------------------------------------------- events

EVENTS = "ReceiveKeyEventRole"


@drill(
    on(EVENTS, TABLE, "dynamodb:GetItem", "dynamodb:Query"),
    on(EVENTS, "Table, partitions HINTS#* only", "dynamodb:PutItem"),
    on(EVENTS, "CheckQueue", "sqs:SendMessageBatch"),
)
def an_event_has_a_key_probed_and_keeps_who_acted(scene: Scene) -> None:
    key = scene.watched_key()
    event = recordings.recorded(
        "DisableKey", account=key.account_id, kms_key=key.key_arn.rpartition("/")[2], role="nobody"
    )
    taken = scene.invoke("receive-key-event", recordings.at(event, scene.now()))
    assert taken["messages"] > 0
    hints = scene.store.event_hints(key.project_id, key.key_id)
    assert hints is not None
    assert [each.event_name for each in hints.calls] == ["DisableKey"]
    wait_until(
        "the key to be probed",
        lambda: scene.store.key(key.project_id, key.key_id),
        lambda seen: seen is not None and seen.last_trigger == "event",
        within=SOON_SECONDS,
        every=0.1,
    )


# ---------------------------------------------------------------------------------------------- checking


@drill(on(MONITOR, TABLE, *READS_AND_WRITES))
def a_key_is_found_healthy_and_lets_in_the_cluster_that_waited_for_it(scene: Scene) -> None:
    key = scene.watched_key(pending_clusters=1)
    waiting = scene.waiting_cluster(key)
    event = {"action": "check", "project_id": key.project_id, "key_id": key.key_id, "trigger": "request"}
    assert scene.invoke("check-keys", event)["outcome"] == "HEALTHY"
    cluster = scene.store.cluster(key.project_id, waiting)
    assert cluster is not None
    assert cluster.status is ClusterStatus.ACTIVE


@drill(on(MONITOR, "role/*", "sts:AssumeRole"))
def a_customers_role_is_assumed(scene: Scene) -> None:
    """By a new sandbox: one that has assumed the role before uses its session for ten minutes."""
    key = scene.watched_key()
    scene.new_sandbox("check-keys")
    event = {"action": "check", "project_id": key.project_id, "key_id": key.key_id, "trigger": "request"}
    assert scene.invoke("check-keys", event)["outcome"] == "HEALTHY"


@drill(
    on("CanaryRole", "CanaryKey", "kms:DescribeKey", "kms:Encrypt", "kms:Decrypt"),
    on("CanaryKey", "CanaryKey by this account's IAM", "kms:*"),
)
def the_canary_is_found_healthy(scene: Scene) -> None:
    assert scene.canary_outcome() == "HEALTHY"


# ---------------------------------------------------------------------------------------------- lockout and recovery


@drill(on("DecideLockoutRole", TABLE, *READS_AND_WRITES))
def a_lockout_is_decided(scene: Scene) -> None:
    outage = scene.outage(IncidentStatus.CONFIRMING, ClusterStatus.ACTIVE)
    decided = scene.invoke("decide-lockout", outage.of_incident)
    assert (decided["verb"], decided["cluster_ids"]) == ("LOCK", [outage.cluster_id])
    assert scene.incident(outage).status is IncidentStatus.LOCKING


@drill(on("DecideLockoutRole", AGENDA, "dynamodb:Query"))
def a_lockout_that_might_be_our_own_fault_is_held_against_others_of_its_kind(scene: Scene) -> None:
    outage = scene.outage(IncidentStatus.CONFIRMING, ClusterStatus.ACTIVE, cause=Cause.ACCESS_DENIED)
    assert scene.canary_outcome() == "HEALTHY"  # since then, so that it vouches for us
    decided = scene.invoke("decide-lockout", outage.of_incident)
    assert decided["verb"] == "LOCK"


@drill(on("LockClusterRole", TABLE, "dynamodb:GetItem", "dynamodb:PutItem"))
def a_lock_is_asked_for(scene: Scene) -> None:
    outage = scene.outage(IncidentStatus.LOCKING, ClusterStatus.ACTIVE)
    event = {**outage.of_incident, "cluster_id": outage.cluster_id, "task_token": "nobody waits"}
    assert scene.invoke("lock-cluster", event)["outcome"] == "requested"
    assert scene.cluster(outage).status is ClusterStatus.LOCKING


@drill(on("LockClusterRole", "*", "states:SendTaskSuccess"))
def a_step_that_has_nothing_to_lock_wakes(scene: Scene) -> None:
    step = scene.waiting_step()
    outage = scene.outage(IncidentStatus.LOCKING, ClusterStatus.LOCKED)
    event = {**outage.of_incident, "cluster_id": outage.cluster_id, "task_token": step.token}
    assert scene.invoke("lock-cluster", event)["outcome"] == "locked"
    scene.wakes(step)


@drill(on("LockClusterRole", TABLE, "dynamodb:Query"))
def a_lock_that_was_taken_for_failed_is_there_after_all(scene: Scene) -> None:
    """The step died between asking and locking, the clock failed the lock, and the step is tried again."""
    step = scene.waiting_step()
    outage = scene.outage(
        IncidentStatus.PARTLY_LOCKED, ClusterStatus.LOCK_FAILED, via=LockVia.NONE, task_token=step.token
    )
    event = {**outage.of_incident, "cluster_id": outage.cluster_id, "task_token": step.token}
    assert scene.invoke("lock-cluster", event)["outcome"] == "requested"
    assert scene.cluster(outage).status is ClusterStatus.LOCKED
    assert scene.incident(outage).status is IncidentStatus.LOCKED


@drill(on("SettleLockoutRole", TABLE, *READS_AND_WRITES))
def a_lockout_is_settled(scene: Scene) -> None:
    outage = scene.outage(IncidentStatus.LOCKING, ClusterStatus.LOCKED)
    assert scene.invoke("settle-lockout", outage.of_incident) == {"status": "LOCKED", "failed": []}
    assert scene.incident(outage).status is IncidentStatus.LOCKED


@drill(on("DecideRecoveryRole", TABLE, *READS_AND_WRITES))
def a_recovery_is_decided(scene: Scene) -> None:
    outage = scene.outage(IncidentStatus.LOCKED, ClusterStatus.LOCKED, recovered=True)
    decided = scene.invoke("decide-recovery", outage.of_incident)
    assert (decided["verb"], decided["cluster_ids"]) == ("UNLOCK", [outage.cluster_id])
    assert scene.incident(outage).status is IncidentStatus.UNLOCKING


@drill(on("UnlockClusterRole", TABLE, "dynamodb:GetItem", "dynamodb:PutItem"))
def an_unlock_is_asked_for(scene: Scene) -> None:
    outage = scene.outage(IncidentStatus.UNLOCKING, ClusterStatus.LOCKED, recovered=True)
    event = {**outage.of_incident, "cluster_id": outage.cluster_id, "task_token": "nobody waits"}
    assert scene.invoke("unlock-cluster", event)["outcome"] == "requested"
    assert scene.cluster(outage).status is ClusterStatus.UNLOCKING


@drill(on("UnlockClusterRole", "*", "states:SendTaskSuccess"))
def a_step_that_has_nothing_to_unlock_wakes(scene: Scene) -> None:
    step = scene.waiting_step()
    outage = scene.outage(IncidentStatus.UNLOCKING, ClusterStatus.ACTIVE, recovered=True)
    event = {**outage.of_incident, "cluster_id": outage.cluster_id, "task_token": step.token}
    assert scene.invoke("unlock-cluster", event)["outcome"] == "superseded"
    scene.wakes(step)


@drill(on("UnlockClusterRole", TABLE, "dynamodb:Query"))
def an_unlock_that_was_taken_for_failed_is_there_after_all(scene: Scene) -> None:
    """As with a lock: the step died between asking and unlocking, and is tried again after the clock failed it."""
    step = scene.waiting_step()
    outage = scene.outage(
        IncidentStatus.UNLOCKING,
        ClusterStatus.UNLOCK_FAILED,
        recovered=True,
        via=LockVia.NONE,
        task_token=step.token,
    )
    event = {**outage.of_incident, "cluster_id": outage.cluster_id, "task_token": step.token}
    assert scene.invoke("unlock-cluster", event)["outcome"] == "requested"
    assert scene.cluster(outage).status is ClusterStatus.ACTIVE
    scene.wakes(step)


@drill(on("SettleRecoveryRole", TABLE, *READS_AND_WRITES))
def a_recovery_is_settled(scene: Scene) -> None:
    outage = scene.outage(IncidentStatus.UNLOCKING, ClusterStatus.ACTIVE, recovered=True)
    assert scene.invoke("settle-recovery", outage.of_incident) == {"status": "RESOLVED", "failed": []}
    assert scene.incident(outage).status is IncidentStatus.RESOLVED


# ---------------------------------------------------------------------------------------------- delivery


@drill(
    on(RELAY, TABLE, "dynamodb:GetItem", "dynamodb:PutItem"),
    on(RELAY, TOPICS, "sns:Publish"),
    on(RELAY, "AlertBus", "events:PutEvents"),
)
def an_alert_reaches_the_projects_subscribers_and_the_bus(scene: Scene) -> None:
    alert_id = tell(scene, for_operator=False)
    scene.ear.hears(alert_id, scene.home.alert_topic_arn)
    scene.ear.hears(alert_id, "detail-type")


@drill(on(RELAY, "OperatorTopic", "sns:Publish"))
def an_alert_about_keyvigil_itself_reaches_the_operator(scene: Scene) -> None:
    scene.ear.hears(tell(scene, for_operator=True), scene.outputs["OperatorTopicArn"])


def tell(scene: Scene, *, for_operator: bool) -> str:
    """Have an alert delivered to all that should get it; return its id.

    Each has an incident of its own, and is of a kind that is not bundled: what was told before is withheld.
    """
    now = scene.now()
    alert, _ = make_alert(
        AlertType.CLUSTER_LOCK_FAILED,
        alert_id=scene.ids.ulid(),
        key=examples.key(project_id=scene.home.project_id),
        incident=examples.incident(project_id=scene.home.project_id, incident_id=scene.ids.ulid()),
        clusters=(),
        occurred_at=now,
        detected_at=now,
    )
    # The project is seconds old: a row from before it would be of an earlier one with its id.
    row = scene.unsent_row(project_id=scene.home.project_id, alert=alert, for_operator=for_operator, created_at=now)
    assert scene.invoke("relay-outbox", {"resend": [row.row_id]}) == {"sent": 1, "failed": 0}
    return alert.alert_id


@drill(on(RELAY, "stateMachine:<stack>-cluster-lockout", "states:StartExecution"))
def a_row_starts_a_lockout(scene: Scene) -> None:
    start(scene, WorkflowKind.LOCKOUT, "cluster-lockout")


@drill(on(RELAY, "stateMachine:<stack>-cluster-recovery", "states:StartExecution"))
def a_row_starts_a_recovery(scene: Scene) -> None:
    start(scene, WorkflowKind.RECOVERY, "cluster-recovery")


def start(scene: Scene, kind: WorkflowKind, machine: str) -> None:
    """Have a workflow started by a row, and see it end, because the incident is over."""
    outage = scene.outage(IncidentStatus.RESOLVED, ClusterStatus.ACTIVE, recovered=True)
    name = f"{outage.incident_id}-{kind}-1"
    asked = WorkflowStart(workflow=kind, name=name, **outage.of_incident)
    row = scene.unsent_row(project_id=outage.project_id, workflow_start=asked)
    assert scene.invoke("relay-outbox", {"resend": [row.row_id]}) == {"sent": 1, "failed": 0}
    arn = f"arn:aws:states:{REGION}:{OPERATOR_ACCOUNT}:execution:{STACK_NAME}-{machine}:{name}"
    scene.execution_ends(arn)


# ---------------------------------------------------------------------------------------------- receivers

CALLER = "CallReceiverRole"


def locks_by_function(scene: Scene) -> LockSettings:
    return LockSettings(via=LockVia.LAMBDA, function_arn=scene.receiver.arn)


def have_called(scene: Scene, outage: Outage) -> JsonObject:
    """Have the cluster's receiver called for the request that is under way."""
    asked = {"project_id": outage.project_id, "cluster_id": outage.cluster_id, "fence": scene.cluster(outage).fence}
    return scene.invoke("call-receiver", asked)


def becomes(scene: Scene, outage: Outage, status: ClusterStatus) -> None:
    wait_until(
        f"the cluster to be {status}",
        lambda: scene.cluster(outage).status,
        lambda seen: seen is status,
        within=SOON_SECONDS,
        every=0.1,
    )


@drill(
    on(CALLER, TABLE, "dynamodb:GetItem", "dynamodb:PutItem"),
    on(CALLER, "function:keyvigil-lock-*", "lambda:InvokeFunction"),
)
def a_receiving_function_is_called_and_its_answer_is_kept(scene: Scene) -> None:
    outage = scene.request_under_way(locks_by_function(scene))
    have_called(scene, outage)
    cluster = scene.cluster(outage)
    assert cluster.status is ClusterStatus.LOCKED, cluster.detail


@drill(on(CALLER, "*", "states:SendTaskSuccess"))
def a_receiver_answers_and_the_step_that_waits_wakes(scene: Scene) -> None:
    step = scene.waiting_step()
    outage = scene.request_under_way(locks_by_function(scene), task_token=step.token)
    have_called(scene, outage)
    scene.wakes(step)


@drill(on(CALLER, TABLE, "dynamodb:Query"))
def a_receiver_that_was_given_up_while_it_was_at_work_completes_the_lockout_after_all(scene: Scene) -> None:
    outage = scene.outage(
        IncidentStatus.PARTLY_LOCKED,
        ClusterStatus.LOCKING,
        lock=locks_by_function(scene),
        respond_by=scene.now() + timedelta(minutes=5),
    )
    with scene.receiver.at_work(lambda: scene.change(outage, status=ClusterStatus.LOCK_FAILED)):
        have_called(scene, outage)
    assert scene.cluster(outage).status is ClusterStatus.LOCKED
    assert scene.incident(outage).status is IncidentStatus.LOCKED


@drill(on(CALLER, "secret:keyvigil/*", "secretsmanager:GetSecretValue"))
def a_webhooks_secret_is_read(scene: Scene) -> None:
    """It cannot sign, so that nobody is called, and the reason shows that it was read."""
    outage = scene.request_under_way(LockSettings())
    name = f"keyvigil/{outage.project_id}/webhook"
    secret = scene.session.client("secretsmanager").create_secret(Name=name, SecretString="whsec_")
    scene.change(
        outage,
        lock=LockSettings(via=LockVia.WEBHOOK, url="https://hooks.example.com/", secret_arn=secret["ARN"]),
    )
    have_called(scene, outage)
    reason = scene.cluster(outage).detail or ""
    assert "no Standard Webhooks secret" in reason, reason


@drill(on(SWEEP, "function:<stack>-call-receiver", "lambda:InvokeFunction"))
def a_request_that_a_receiver_accepted_is_asked_after(scene: Scene) -> None:
    """The runbook is one that no tenant may name, which whoever asks after it finds."""
    lock = LockSettings(via=LockVia.SSM_AUTOMATION, document_name="not-made-for-locking")
    outage = scene.request_under_way(lock, receipt="accepted")
    scene.sweep()
    becomes(scene, outage, ClusterStatus.LOCK_FAILED)


@drill(on(RELAY, "CallReceiverFunction", "lambda:InvokeFunction"))
def a_row_has_a_receiver_called(scene: Scene) -> None:
    outage = scene.request_under_way(locks_by_function(scene))
    row = scene.unsent_row(project_id=outage.project_id, lock_request=lock_request(scene.cluster(outage)))
    assert scene.invoke("relay-outbox", {"resend": [row.row_id]}) == {"sent": 1, "failed": 0}
    becomes(scene, outage, ClusterStatus.LOCKED)


# ---------------------------------------------------------------------------------------------- the dashboard

WIDGET = "RenderWidgetRole"


@drill(
    on(WIDGET, TABLE, "dynamodb:GetItem", "dynamodb:Query"),
    on(WIDGET, AGENDA, "dynamodb:Query"),
)
def the_widget_shows_an_incident(scene: Scene) -> None:
    outage = scene.outage(IncidentStatus.LOCKED, ClusterStatus.LOCKED)
    assert outage.incident_id in scene.draw({"widgetContext": {"theme": "dark"}})


@drill(on(WIDGET, "CheckQueue", "sqs:SendMessageBatch"))
def the_widget_has_a_key_probed(scene: Scene) -> None:
    key = scene.watched_key()
    drawn = scene.draw({"action": "check_now", "project_id": key.project_id, "key_id": key.key_id})
    assert "is being probed" in drawn
    wait_until(
        "the key to be probed",
        lambda: scene.store.key(key.project_id, key.key_id),
        lambda seen: seen is not None and seen.last_trigger == "request",
        within=SOON_SECONDS,
        every=0.1,
    )
