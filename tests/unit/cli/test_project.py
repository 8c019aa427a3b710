from typing import Any

import pytest
from botocore.credentials import Credentials

from keyvigil_cli.api_client import ApiClient, JsonObject
from keyvigil_cli.project import Project
from keyvigil_cli.waiting import DeadlineExceededError

KEY_ID = "eu-central-1.1234abcd"
CREATED = {"project_id": "acme-prod", "external_id": "ext-1", "alert_topic_arn": "arn:aws:sns:…"}
SUSPECT_KEY = {
    "status": "SUSPECT",
    "verdict": {"outcome": "UNHEALTHY", "cause": "KEY_DISABLED"},
    "last_probed_at": "2026-01-01T00:00:00.000Z",
    "last_trigger": "schedule",
    "open_incident_id": "01J",
}


class RecordingApi(ApiClient):
    """Answers every request with the same, and remembers what was posted."""

    def __init__(self, answer: JsonObject) -> None:
        super().__init__("http://127.0.0.1", "us-west-2", Credentials("AKIDEXAMPLE", "secret"))
        self.answer = answer
        self.posted: list[tuple[str, JsonObject | None]] = []

    def request(self, method: str, path: str, **rest: Any) -> JsonObject:
        if method == "POST":
            self.posted.append((path, rest["body"]))
        return self.answer


def test_a_project_is_probed_every_minute_unless_told_otherwise() -> None:
    api = RecordingApi(CREATED)
    project = Project.create(api, "acme-prod", enforcement="enforce")
    assert api.posted == [
        (
            "/projects",
            {
                "project_id": "acme-prod",
                "name": "acme-prod",
                "check_interval_minutes": 1,
                "enforcement": "enforce",
            },
        )
    ]
    assert project.external_id == "ext-1"


def test_a_cluster_is_registered_in_its_key_s_region() -> None:
    api = RecordingApi(CREATED)
    Project(api, CREATED).register_cluster("vectors-prod", KEY_ID, {"via": "none"})
    ((path, body),) = api.posted
    assert path == "/projects/acme-prod/clusters"
    assert body is not None
    assert body["region"] == "eu-central-1"
    assert body["lock"] == {"via": "none"}


def test_what_was_last_seen_of_a_key_is_said_in_words() -> None:
    project = Project(RecordingApi(SUSPECT_KEY), CREATED)
    with pytest.raises(DeadlineExceededError) as caught:
        project.wait_for_key_status(KEY_ID, "HEALTHY", within=0)
    assert str(caught.value) == (
        "waited 0 s for the key to be HEALTHY; last seen: SUSPECT, verdict UNHEALTHY KEY_DISABLED "
        "at 2026-01-01T00:00:00.000Z by schedule, incident 01J"
    )


def test_what_was_last_seen_of_clusters_is_said_in_words() -> None:
    project = Project(RecordingApi({"status": "LOCKING"}), CREATED)
    with pytest.raises(DeadlineExceededError, match="a, b to be LOCKED; last seen: a LOCKING, b LOCKING"):
        project.wait_for_clusters(["a", "b"], "LOCKED", within=0)


def test_what_was_last_seen_of_an_incident_is_said_in_words() -> None:
    incident = {
        "status": "HELD",
        "held_for": "brake",
        "clusters": [],
        "timeline": [{"at": "…", "what": "key.suspect", "detail": "KEY_DISABLED"}],
    }
    project = Project(RecordingApi(incident), CREATED)
    with pytest.raises(DeadlineExceededError, match=r"HELD, held for brake, clusters none.*key\.suspect KEY_DISABLED"):
        project.wait_for_incident("01J", "RESOLVED", within=0)
