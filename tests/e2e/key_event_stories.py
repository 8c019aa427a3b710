"""Events about keys, and who did it: invoked with recorded shapes, because the local cloud's KMS sends none."""

import json
from datetime import UTC, datetime

from keyvigil_cli.api_client import JsonObject
from keyvigil_cli.customer import CustomerAccount
from keyvigil_cli.project import Project
from tests import recorded_events as recordings
from tests.e2e.stage import Stage, WatchedKey
from tests.e2e.story import story

ANOTHER_CUSTOMER = "333333333333"
ALICE = "user/Alice"


def hand_over(stage: Stage, event: recordings.Event) -> JsonObject:
    """Invoke the function as EventBridge would; what it answers."""
    answer = (
        stage.cloud.session()
        .client("lambda")
        .invoke(FunctionName=stage.outputs["ReceiveKeyEventFunctionName"], Payload=json.dumps(event).encode())
    )
    document: JsonObject = json.loads(answer["Payload"].read())
    assert not answer.get("FunctionError"), document
    return document


def happened(name: str, watched: WatchedKey, *, account: str | None = None) -> recordings.Event:
    """A recorded event, about this key and its role, as of now."""
    event = recordings.recorded(
        name,
        account=account or watched.customer.account_id,
        kms_key=watched.key.key_arn.rpartition("/")[2],
        role=watched.key.role_name,
    )
    return recordings.at(event, datetime.now(UTC))


@story
def an_event_has_a_key_probed_within_seconds_and_names_who_disabled_it(stage: Stage) -> None:
    project = stage.project(check_interval_minutes=60, enforcement="observe")
    queue = stage.alert_queue(project)
    watched = stage.watched_key(project)
    probed_at = watched.registered["last_probed_at"]
    for strange in (
        happened("DisableKey", watched, account=ANOTHER_CUSTOMER),
        {**happened("DisableKey", watched), "source": "my.application"},
        {"detail-type": "rubbish"},
    ):
        assert hand_over(stage, strange)["registrations"] == 0
    assert hand_over(stage, happened("DeleteRole", watched))["registrations"] == 1

    watched.disable()
    disabled_at = datetime.now(UTC)
    event = happened("DisableKey", watched)
    assert hand_over(stage, event) == {"registrations": 1, "messages": 4, "ignored": None}
    key = project.wait_for_key_status(watched.key_id, "SUSPECT", "UNHEALTHY", within=45)
    assert key["last_probed_at"] > probed_at
    for _ in range(2):  # at least once, and once more
        hand_over(stage, event)

    suspect, unhealthy = queue.wait_for("key.suspect", "key.unhealthy", within=120)
    actor = {
        "arn": f"arn:aws:iam::{watched.customer.account_id}:{ALICE}",
        "event_name": "DisableKey",
        "source_ip": "192.0.2.0",
        "event_time": event["time"].replace("Z", ".000Z"),
    }
    assert suspect["actor"] == unhealthy["actor"] == actor
    assert (datetime.fromisoformat(suspect["detected_at"]) - disabled_at).total_seconds() < 45
    (incident,) = project.incidents()
    incident = project.incident(incident["incident_id"])
    assert incident["actor"] == actor
    entries = {entry["what"]: entry["detail"] for entry in incident["timeline"]}
    assert entries["key.suspect"].startswith("event probe: ")
    assert entries["incident.actor_found"].startswith(f"{actor['arn']} called DisableKey at ")

    watched.enable()
    hand_over(stage, happened("EnableKey", watched))
    project.wait_for_incident(incident["incident_id"], "RESOLVED", within=240)
    queue.wait_for("key.recovered")
    assert queue.of_type("incident.actor_found") == []


@story
def without_an_event_cloudtrail_is_asked_who_did_it_where_the_role_allows_that(stage: Stage) -> None:
    # Two, because keys of one project with one cause within a minute are one alert.
    project, without_lookups = stage.project(enforcement="observe"), stage.project(enforcement="observe")
    queue = stage.alert_queue(project)
    # An account of its own: searches of one account wait for one another.
    customer = CustomerAccount(stage.cloud.session(ANOTHER_CUSTOMER), ANOTHER_CUSTOMER)

    def break_a_key(of: Project, *, lookups: bool) -> str:
        role = customer.role_for(
            stage.outputs["MonitorRoleArn"],
            of.external_id,
            of.project_id,
            role_name=f"keyvigil-{stage.name()}",
        )
        if lookups:
            customer.allow_lookups(role)
        key = customer.create_key(role)
        watched = WatchedKey(of, customer, key, "", of.register_key(key))
        watched.disable()
        checked = stage.api.post("projects", of.project_id, "keys", watched.registered["key_id"], "check")
        incident_id: str = checked["open_incident_id"]
        return incident_id

    silent, told = break_a_key(without_lookups, lookups=False), break_a_key(project, lookups=True)
    (found,) = queue.wait_for("incident.actor_found", within=240)
    assert all(alert["actor"] is None for alert in queue.of_type("key.suspect"))
    assert (found["incident_id"], found["status"], found["actor"]["event_name"]) == (told, "firing", "DisableKey")
    incident = project.incident(told)
    assert incident["actor"] == found["actor"]
    # The local cloud names the caller by the access key.
    assert incident["actor"]["arn"] == f"arn:aws:iam::{ANOTHER_CUSTOMER}:user/{ANOTHER_CUSTOMER}"
    assert incident["actor"]["source_ip"] == "127.0.0.1"
    lasted = datetime.fromisoformat(found["detected_at"]) - datetime.fromisoformat(incident["opened_at"])
    assert lasted.total_seconds() >= 60
    assert [entry["what"] for entry in incident["timeline"]].count("incident.actor_found") == 1
    # The older search was sent first, and its role's refusal was no error.
    assert without_lookups.incident(silent)["actor"] is None
    assert len(queue.of_type("incident.actor_found")) == 1
