"""What happens to customers' keys and clusters, from end to end, with the real stack on the local cloud.

Every story has a project, a key and a role of its own. They run at the same time, because most of their time
they wait for the minute's sweep; each is one test.
"""

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from rich.console import Console

from keyvigil_cli.alert_queue import AlertQueue
from keyvigil_cli.api_client import ApiProblemError, JsonObject
from keyvigil_cli.control_plane import LockRequest
from keyvigil_cli.demo import CLUSTERS, PROJECT_ID, Story
from keyvigil_cli.project import Project
from keyvigil_cli.teller import Teller
from keyvigil_cli.waiting import wait_until
from tests.e2e import (  # noqa: F401  importing them adds their stories
    cause_stories,
    command_line_story,
    danger_story,
    discover_story,
    fault_story,
    import_story,
    key_event_stories,
    lean_story,
    own_trouble_story,
    receiver_stories,
    stack_key_story,
    upgrade_story,
)
from tests.e2e.stage import Stage, WatchedKey
from tests.e2e.story import STORIES, story

EVENT: dict[str, str | int] = {"via": "event", "timeout_seconds": 300}
REGISTRY: dict[str, str | int] = {"via": "none"}


@pytest.mark.parametrize("name", STORIES)
def test_story(name: str, told: Callable[[str], None]) -> None:
    told(name)


def what_happened(incident: JsonObject) -> list[str]:
    return [entry["what"] for entry in incident["timeline"]]


def open_incident(watched: WatchedKey) -> str:
    """Wait until a sweep has found the key broken; the id of its incident."""
    key = watched.project.wait_for_key_status(watched.key_id, "SUSPECT", "UNHEALTHY")
    incident_id: str = key["open_incident_id"]
    return incident_id


@story
def the_demo_is_told_to_its_end(stage: Stage) -> None:
    told = io.StringIO()
    with Story(stage.cloud, Teller(Console(file=told, width=120))) as demo:
        demo.tell(stage.outputs)
    (incident,) = stage.api.items("projects", PROJECT_ID, "incidents")
    timeline = stage.api.get("projects", PROJECT_ID, "incidents", incident["incident_id"])
    happened = what_happened(timeline)
    assert happened[:3] == ["key.suspect", "key.unhealthy", "lockout.begun"]
    assert happened[-1] == "incident.resolved"
    assert happened.index("key.recovered") < happened.index("recovery.begun")
    assert happened.count("cluster.locked") == happened.count("cluster.unlocked") == len(CLUSTERS)
    assert [arn.rpartition("-")[0].rpartition("-")[2] for arn in timeline["execution_arns"]] == ["lock", "unlock"]
    for cluster_id in CLUSTERS:
        assert stage.api.get("projects", PROJECT_ID, "clusters", cluster_id)["fence"] > 0
    reads_as_a_story(stage, incident["incident_id"])


def reads_as_a_story(stage: Stage, incident_id: str) -> None:
    """What was probed and answered, who decided, and each cluster's request with the acknowledgement of its fence."""
    entries = list(stage.api.items("projects", PROJECT_ID, "incidents", incident_id, "timeline"))
    seconds = [entry["seconds"] for entry in entries]
    assert 0 <= seconds[0] < 5
    assert seconds == sorted(seconds)
    details = {entry["what"]: entry["detail"] for entry in entries}
    assert "is disabled, so Encrypt was refused. [DisabledException]" in details["key.unhealthy"]
    assert "probes in a row" in details["lockout.begun"]
    assert details["recovery.begun"] == f"{len(CLUSTERS)} clusters to unlock: the key's recovery is proved"
    for asked, answered in (
        ("cluster.lock_requested", "cluster.locked"),
        ("cluster.unlock_requested", "cluster.unlocked"),
    ):
        for cluster_id in CLUSTERS:
            mine = {
                entry["what"]: entry["detail"] for entry in entries if entry["detail"].startswith(f"{cluster_id}: ")
            }
            fence = mine[asked].rpartition("fence ")[2]
            assert f" for fence {fence} after " in mine[answered]


@story
def a_probe_whose_decrypt_alone_is_denied_locks_slowly_because_the_canary_vouches(stage: Stage) -> None:
    project = stage.project()
    queue = stage.alert_queue(project)
    watched = stage.watched_key(project)
    project.register_cluster("vectors", watched.key_id, REGISTRY)
    watched.customer.deny(watched.key, "kms:Decrypt")
    checked = watched.check()
    assert checked["status"] == "SUSPECT"
    verdict = checked["verdict"]
    assert (verdict["outcome"], verdict["cause"], verdict["operation"]) == ("UNHEALTHY", "ACCESS_DENIED", "Decrypt")
    assert verdict["remediation"]["summary"] == "Take the statement that denies kms:Decrypt out of the key's policy."
    incident = project.wait_for_incident(checked["open_incident_id"], "LOCKED", within=300)
    lasted = datetime.fromisoformat(incident["confirmed_at"]) - datetime.fromisoformat(incident["opened_at"])
    assert lasted.total_seconds() >= 120
    begun = next(entry["detail"] for entry in incident["timeline"] if entry["what"] == "lockout.begun")
    assert "was HEALTHY in a probe begun after it" in begun
    queue.wait_for("key.suspect", "key.unhealthy", "cluster.locked")
    assert project.cluster("vectors")["status"] == "LOCKED"
    watched.customer.deny(watched.key)
    project.wait_for_incident(checked["open_incident_id"], "RESOLVED", within=240)
    queue.wait_for("key.recovered", "cluster.unlocked")
    assert project.cluster("vectors")["status"] == "ACTIVE"


@story
def what_the_operator_s_brake_holds_a_person_approves_or_dismisses(stage: Stage) -> None:
    project = stage.project()
    held, dismissed = stage.watched_key(project), stage.watched_key(project)
    for number, watched in enumerate((held, dismissed)):
        project.register_cluster(f"vectors-{number}", watched.key_id, REGISTRY)
    scope = {"project_id": project.project_id, "reason": "we move the network"}
    engaged = stage.api.post("fleet", "brake", body={"action": "engage", **scope})
    assert [each["project_id"] for each in engaged["brake"]].count(project.project_id) == 1
    incidents = []
    for watched in (held, dismissed):
        watched.disable()
        incidents.append(watched.check()["open_incident_id"])
    for incident_id in incidents:
        assert project.wait_for_incident(incident_id, "HELD", within=120)["held_for"] == "brake"
    path = ("projects", project.project_id, "incidents")
    approve, dismiss = {"decision": "approve", "reason": "it is meant"}, {"decision": "dismiss", "reason": "a drill"}
    assert stage.api.post(*path, incidents[0], "decision", body=approve)["status"] == "CONFIRMING"
    assert stage.api.post(*path, incidents[1], "decision", body=dismiss)["status"] == "DISMISSED"
    locked = project.wait_for_incident(incidents[0], "LOCKED", within=120)
    assert locked["decision"]["held_for"] == "brake"
    assert stage.api.post("fleet", "brake", body={"action": "release", **scope})["brake"] is not None
    assert stage.api.get(*path, incidents[1])["status"] == "DISMISSED"
    assert project.cluster("vectors-1")["status"] == "ACTIVE"
    for watched in (held, dismissed):
        watched.enable()
    for incident_id in incidents:
        project.wait_for_incident(incident_id, "RESOLVED", within=240)
    assert project.cluster("vectors-0")["status"] == "ACTIVE"


@story
def a_project_that_observes_is_told_and_nothing_is_locked(stage: Stage) -> None:
    project = stage.project(enforcement="observe", chat=True)
    queue = stage.alert_queue(project)
    paging = subscribed_to_what_is_critical_about_keys(stage, project)
    chat = in_the_chat_channel(stage, project)
    watched = stage.watched_key(project)
    project.register_cluster("vectors", watched.key_id, EVENT)
    watched.disable()
    incident_id = watched.check()["open_incident_id"]
    incident = project.wait_for_incident(incident_id, "OBSERVED")
    assert incident["confirmed_at"] is not None
    suspect, unhealthy = queue.wait_for("key.suspect", "key.unhealthy")
    assert project.cluster("vectors")["status"] == "ACTIVE"
    assert "cluster.lock_requested" not in what_happened(incident)
    assert paging.wait_for("key.unhealthy") == [unhealthy]
    wait_until("both alerts in chat", chat.collect, lambda seen: len(seen) >= 2, within=60)
    posted = {each["metadata"]["eventType"]: each for each in chat.received}
    assert {each["source"] for each in chat.received} == {"custom"}
    assert posted["key.suspect"]["metadata"]["threadId"] == suspect["dedup_key"]
    assert unhealthy["remediation"]["commands"][0] in posted["key.unhealthy"]["content"]["description"]
    watched.enable()
    project.wait_for_incident(incident_id, "RESOLVED", within=240)
    assert queue.of_type("cluster.locked") == []
    queue.wait_for("key.recovered")
    assert {each["type"] for each in paging.collect()} == {"key.unhealthy"}, "its filter let nothing else through"
    assert stage.api.patch("projects", project.project_id, body={"chat": False})["chat_topic_arn"] is None
    topics = stage.cloud.session().client("sns").get_paginator("list_topics").paginate()
    assert chat_topic_arn(project) not in {each["TopicArn"] for page in topics for each in page["Topics"]}


def chat_topic_arn(project: Project) -> str:
    return f"{project.alert_topic_arn}_chat"


def in_the_chat_channel(stage: Stage, project: Project) -> AlertQueue:
    """A queue in the place of Amazon Q, which subscribes to the chat topic by itself and not through the API."""
    assert stage.api.get("projects", project.project_id)["chat_topic_arn"] == chat_topic_arn(project)
    queue = AlertQueue(stage.cloud.session(), stage.name(), chat_topic_arn(project))
    sns = stage.cloud.session().client("sns")
    sns.subscribe(TopicArn=chat_topic_arn(project), Protocol="sqs", Endpoint=queue.endpoint)
    return queue


def subscribed_to_what_is_critical_about_keys(stage: Stage, project: Project) -> AlertQueue:
    """A queue behind SNS's filter policy, with a queue of dead letters behind it as every subscription has one."""
    queue = AlertQueue(stage.cloud.session(), stage.name(), project.alert_topic_arn)
    wanted: JsonObject = {"types": ["key.*"], "min_severity": "critical"}
    body: JsonObject = {"protocol": "sqs", "endpoint": queue.endpoint, **wanted}
    assert stage.api.post("projects", project.project_id, "subscriptions", body=body)["status"] == "confirmed"
    sns = stage.cloud.session().client("sns")
    subscriptions = sns.list_subscriptions_by_topic(TopicArn=project.alert_topic_arn)["Subscriptions"]
    assert len(subscriptions) == 2
    for each in subscriptions:
        attributes = sns.get_subscription_attributes(SubscriptionArn=each["SubscriptionArn"])["Attributes"]
        target: str = json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"]
        assert "AlertDeadLetters" in target
    return queue


@story
def a_project_that_stops_enforcing_lets_its_clusters_in_although_the_key_is_broken(stage: Stage) -> None:
    project = stage.project()
    watched = stage.watched_key(project)
    project.register_cluster("vectors", watched.key_id, REGISTRY)
    watched.disable()
    incident_id = watched.check()["open_incident_id"]
    project.wait_for_incident(incident_id, "LOCKED")
    stage.api.patch("projects", project.project_id, body={"enforcement": "observe"})
    project.wait_for_incident(incident_id, "OBSERVED", within=300)
    active = project.cluster("vectors")
    assert active["status"] == "ACTIVE"
    assert project.key(watched.key_id)["status"] == "UNHEALTHY"
    # Its fence survives deletion and registration, as a tombstone.
    stage.api.delete("projects", project.project_id, "clusters", "vectors")
    place = {"pk": {"S": f"PROJECT#{project.project_id}"}, "sk": {"S": "CLUSTER#vectors"}}
    table = stage.cloud.session().client("dynamodb")
    tombstone = table.get_item(TableName=stage.outputs["TableName"], Key=place, ConsistentRead=True)["Item"]
    assert tombstone["deleted"] == {"BOOL": True}
    again = project.register_cluster("vectors", watched.key_id, REGISTRY)
    assert again["status"] == "PENDING_KEY"
    assert again["fence"] == active["fence"] == int(tombstone["fence"]["N"]) > 0


@story
def topics_that_fail_for_a_while_lose_no_alert(stage: Stage) -> None:
    project = stage.project()
    queue = stage.alert_queue(project)
    watched = stage.watched_key(project)
    topic = project.alert_topic_arn.rpartition(":")[2]
    failing = {
        "service": "sns",
        "operation": "Publish",
        "body": f"ends_with(TopicArn, '{topic}')",
        "error": {"code": "InternalError", "status": 500},
    }
    with stage.faults.failing(failing):
        watched.disable()
        incident_id = watched.check()["open_incident_id"]
        # The workflow is started by a row of its own, so a topic that fails delays no lockout.
        project.wait_for_incident(incident_id, "LOCKED")
        assert stage.faults.fired("sns") > 0
        assert queue.collect() == []
    alerts = queue.wait_for("key.suspect", "key.unhealthy", within=200)
    assert [alert["sequence"] for alert in alerts] == [1, 2]
    assert len({alert["dedup_key"] for alert in alerts}) == 1


@story
def a_lock_that_is_acknowledged_late_twice_and_with_an_old_fence(stage: Stage) -> None:
    asked: list[LockRequest] = []

    def silent(request: LockRequest) -> None:
        asked.append(request)

    project = stage.project()
    queue = stage.alert_queue(project)
    watched = stage.watched_key(project)
    project.register_cluster("vectors", watched.key_id, {"via": "event", "timeout_seconds": 10})
    stage.control_plane(project, silent)
    watched.disable()
    incident_id = watched.check()["open_incident_id"]
    # Silence is failure. It is told, and the lock is asked for again, so what counts is the newest request.
    queue.wait_for("cluster.lock_failed", within=240)
    fence = project.wait_for_clusters(["vectors"], "LOCK_FAILED", within=240)["vectors"]["fence"]
    with pytest.raises(ApiProblemError) as refused:
        stage.answer_lock(project, "vectors", fence - 1, "locked")
    assert refused.value.status == 409
    # Late, but still the truth about the newest request; the second time nothing changes.
    for _ in range(2):
        assert stage.answer_lock(project, "vectors", fence, "locked")["status"] == "LOCKED"
    incident = project.wait_for_incident(incident_id, "LOCKED", within=240)
    assert "incident.partly_locked" in what_happened(incident)
    assert what_happened(incident).count("cluster.locked") == 1
    watched.enable()
    wait_until("the unlock request", lambda: [each for each in asked if not each.lock], bool, within=240)
    unlock = next(each for each in asked if not each.lock)
    assert unlock.fence > fence
    with pytest.raises(ApiProblemError) as late:
        stage.answer_lock(project, "vectors", fence, "locked")
    assert late.value.status == 409
    stage.answer_lock(project, "vectors", unlock.fence, "unlocked")
    project.wait_for_clusters(["vectors"], "ACTIVE", within=300)
    project.wait_for_incident(incident_id, "RESOLVED", within=300)


@story
def a_cluster_registered_in_mid_outage_waits_for_its_key(stage: Stage) -> None:
    project = stage.project()
    watched = stage.watched_key(project)
    watched.disable()
    checked = watched.check()
    assert checked["status"] == "SUSPECT"
    assert project.register_cluster("late", watched.key_id, REGISTRY)["status"] == "PENDING_KEY"
    project.wait_for_incident(checked["open_incident_id"], "LOCKED")
    assert project.cluster("late")["status"] == "PENDING_KEY"
    watched.enable()
    project.wait_for_clusters(["late"], "ACTIVE", within=300)
    assert project.cluster("late")["fence"] == 0
    assert project.register_cluster("later", watched.key_id, REGISTRY)["status"] == "ACTIVE"


@story
def a_key_that_hangs_spoils_no_other_and_is_unknown_not_broken(stage: Stage) -> None:
    project = stage.project()
    hanging, fine = stage.watched_key(project), stage.watched_key(project)
    kms_key = hanging.key.key_arn.rpartition("/")[2]
    rule = {"service": "kms", "body": f"contains(KeyId, '{kms_key}')", "timeout_ms": 8000}
    with stage.faults.failing(rule):
        since = datetime.now(UTC)
        unknown = project.wait_for_key(
            hanging.key_id, "the hanging key to be unknown", lambda key: key["unknown_since"] is not None
        )
        assert (unknown["verdict"]["outcome"], unknown["verdict"]["cause"]) == ("UNKNOWN", "TIMEOUT")
        assert unknown["status"] == "HEALTHY"
        assert unknown["open_incident_id"] is None
        probed = project.wait_for_key(
            fine.key_id,
            "the other key to be probed by a sweep",
            lambda key: datetime.fromisoformat(key["last_probed_at"]) > since and key["last_trigger"] == "schedule",
        )
        assert probed["verdict"]["outcome"] == "HEALTHY"
    known = project.wait_for_key(hanging.key_id, "an answer about it", lambda key: key["unknown_since"] is None)
    assert known["verdict"]["outcome"] == "HEALTHY"
    assert project.incidents() == []


@story
def throttling_opens_no_incident(stage: Stage) -> None:
    project = stage.project()
    watched = stage.watched_key(project)
    kms_key = watched.key.key_arn.rpartition("/")[2]
    rule = {
        "service": "kms",
        "body": f"contains(KeyId, '{kms_key}')",
        "error": {"code": "ThrottlingException", "status": 400},
    }
    with stage.faults.failing(rule):
        answers = [watched.check() for _ in range(4)]
    verdicts = {(answer["verdict"]["outcome"], answer["verdict"]["cause"]) for answer in answers}
    assert verdicts == {("UNKNOWN", "THROTTLED")}
    assert answers[-1]["status"] == "HEALTHY"
    assert project.incidents() == []
    assert watched.check()["unknown_since"] is None


@story
def a_key_that_is_unknown_for_three_intervals_is_told_once_and_so_is_the_first_answer(stage: Stage) -> None:
    project = stage.project(check_interval_minutes=1)
    queue = stage.alert_queue(project)
    watched = stage.watched_key(project)
    kms_key = watched.key.key_arn.rpartition("/")[2]
    rule = {"service": "kms", "body": f"contains(KeyId, '{kms_key}')", "error": {"code": "ThrottlingException"}}
    with stage.faults.failing(rule):
        since = watched.check()["unknown_since"]
        assert since is not None
        [told] = queue.wait_for("key.unknown", within=330)
        lasted = datetime.fromisoformat(told["detected_at"]) - datetime.fromisoformat(since)
        assert lasted.total_seconds() >= 180
        assert (told["severity"], told["status"], told["cause"]["code"]) == ("warning", "firing", "THROTTLED")
        watched.check()
    assert watched.check()["unknown_since"] is None
    # The key of the story does not rotate, which is told too.
    queue.wait_for("key.unknown", "key.rotation_disabled")
    wait_until(
        "its resolution",
        lambda: [alert["status"] for alert in queue.collect() if alert["type"] == "key.unknown"],
        lambda seen: seen == ["firing", "resolved"],
        within=60,
    )
    assert project.incidents() == []


def send_check(stage: Stage, project: Project, key_id: str, due_at: datetime) -> None:
    body = {"project_id": project.project_id, "key_id": key_id, "due_at": due_at.isoformat()}
    stage.cloud.session().client("sqs").send_message(
        QueueUrl=stage.outputs["CheckQueueUrl"], MessageBody=json.dumps(body)
    )


@story
def the_same_check_message_twice_probes_once_and_rubbish_beside_it_harms_nobody(stage: Stage) -> None:
    project = stage.project(check_interval_minutes=60)
    watched = stage.watched_key(project)
    registered_at = datetime.fromisoformat(watched.registered["last_probed_at"])
    due = datetime.now(UTC)
    rubbish = {"project_id": project.project_id}
    stage.cloud.session().client("sqs").send_message(
        QueueUrl=stage.outputs["CheckQueueUrl"], MessageBody=json.dumps(rubbish)
    )
    send_check(stage, project, watched.key_id, due)
    first = project.wait_for_key(
        watched.key_id,
        "the message to be taken",
        lambda key: datetime.fromisoformat(key["last_probed_at"]) > registered_at,
    )
    send_check(stage, project, watched.key_id, due)
    # A later message that is due again shows that the repeated one before it was taken, and dropped.
    witness = stage.watched_key(project)
    before = project.key(witness.key_id)["last_probed_at"]
    send_check(stage, project, witness.key_id, datetime.now(UTC))
    project.wait_for_key(witness.key_id, "the witness to be probed", lambda key: key["last_probed_at"] > before)
    assert project.key(watched.key_id)["last_probed_at"] == first["last_probed_at"]


@story
def two_sweeps_at_once_are_one(stage: Stage) -> None:
    functions = stage.cloud.session().client("lambda")

    def sweep(_number: int) -> JsonObject:
        answer = functions.invoke(FunctionName=stage.outputs["PlanSweepFunctionName"], Payload=b"{}")
        assert not answer.get("FunctionError")
        document: JsonObject = json.loads(answer["Payload"].read())
        return document

    def claims() -> int:
        """How many of five sweeps at once had the minute; none if the schedule's own had it."""
        began = datetime.now(UTC).minute
        with ThreadPoolExecutor(max_workers=5) as pool:
            answers = list(pool.map(sweep, range(5)))
        claimed = sum(answer["claimed"] for answer in answers)
        return claimed if datetime.now(UTC).minute == began else -1

    assert wait_until("five sweeps at once to have a minute", claims, lambda seen: seen > 0, within=200) == 1


@story
def a_key_for_client_side_encryption_is_probed_with_generate_data_key_too(stage: Stage) -> None:
    project = stage.project()
    role_arn = stage.role(project)
    key = stage.customer.create_key(role_arn, data_keys=True)
    registered = project.register_key(key, use="cse")
    assert registered["operations"] == ["DescribeKey", "Encrypt", "Decrypt", "GenerateDataKey"]
    stage.customer.deny(key, "kms:GenerateDataKey")
    checked = stage.api.post("projects", project.project_id, "keys", registered["key_id"], "check")
    assert (checked["verdict"]["cause"], checked["verdict"]["operation"]) == ("ACCESS_DENIED", "GenerateDataKey")
