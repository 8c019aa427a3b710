"""The groups of commands against the real API: what they ask, what they print, how they end."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest

from keyvigil.api import requests as api_requests
from keyvigil.domain.clusters import ClusterKind, ClusterStatus, LockResult, LockVia
from keyvigil.domain.incidents import IncidentStatus, TimelineEntry
from keyvigil.domain.keys import Health, KeyStatus, KeyUse
from keyvigil.domain.projects import Approval, Enforcement
from keyvigil.domain.verdicts import Cause
from keyvigil.ports import RegistrationAnswer
from keyvigil_cli.commands import cluster as cluster_commands
from keyvigil_cli.commands import key as key_commands
from keyvigil_cli.commands import project as project_commands
from tests.examples import KEY_ARN, KEY_ID, NOW, ROLE_ARN, cluster, incident, key, project, verdict
from tests.printed import Printed
from tests.unit.cli.conftest import Keyvigil
from tests.unit.cli.registry_server import Canned

INCIDENT = "01JINCIDENT"
P = "acme-prod"


def words(alias: Any) -> set[str]:
    return set(alias.__args__)


def test_choices_are_the_api_s() -> None:
    assert words(project_commands.EnforcementWord) == set(Enforcement)
    assert words(project_commands.ApprovalWord) == set(Approval)
    assert words(project_commands.ProbePlanWord) == words(
        api_requests.CreateProject.model_fields["probe_plan"].annotation
    )
    assert words(key_commands.Use) == set(KeyUse)
    assert words(key_commands.KeyStatusWord) == set(KeyStatus)
    assert words(cluster_commands.Kind) == set(ClusterKind)
    assert words(cluster_commands.Via) == set(LockVia)
    assert words(cluster_commands.Result) == set(LockResult)


# --- projects


def test_a_project_is_made_with_what_was_said_and_the_api_s_defaults(keyvigil: Keyvigil) -> None:
    made = keyvigil("project create new-one --enforcement enforce --grace-minutes 5 --output json")
    assert made.status == 0
    assert keyvigil.server.seen[-1].body == {
        "project_id": "new-one",
        "name": "new-one",
        "enforcement": "enforce",
        "grace_minutes": 5,
    }
    assert (made.json["enforcement"], made.json["check_interval_minutes"]) == ("enforce", 7)
    assert made.json["external_id"] in keyvigil("project show new-one").output


def test_a_project_says_with_which_plan_its_keys_are_probed(keyvigil: Keyvigil) -> None:
    made = keyvigil("project create new-one --probe-plan lean --output json")
    assert made.json["probe_plan"] == "lean"
    assert "lean" in keyvigil("project show new-one").output
    assert keyvigil("project update new-one --probe-plan full --output json").json["probe_plan"] == "full"
    assert keyvigil("project create new-two --output json").json["probe_plan"] == "full"
    assert keyvigil("project create new-three --probe-plan sparing").status == 2


@pytest.mark.parametrize("verb", ["create", "update"])
def test_the_help_says_what_lean_does_not_find_within_an_interval(keyvigil: Keyvigil, verb: str) -> None:
    told = " ".join(re.sub(r"[^\w\s.,:;`-]", " ", keyvigil(f"project {verb} --help").output).split())
    for missed in ("Encrypt or GenerateDataKey denied", "DescribeKey denied", "key material", "a replica", "an alias"):
        assert missed in told


def test_a_list_goes_through_all_pages(keyvigil: Keyvigil) -> None:
    for number in range(230):
        keyvigil.api.store.put(project(project_id=f"tenant-{number:03d}"))
    listed = keyvigil("project list --output json")
    assert len(listed.json["items"]) == 231
    assert len(keyvigil.server.seen) == 2
    assert keyvigil("project list").output.count("tenant-") == 230


def test_a_project_without_open_incidents_changes_its_enforcement_unasked(keyvigil: Keyvigil) -> None:
    keyvigil("project create new-one")
    changed = keyvigil("project update new-one --enforcement enforce --name", "New name", "--output", "json")
    assert (changed.json["enforcement"], changed.json["name"]) == ("enforce", "New name")


def test_enforcing_lets_open_incidents_lock_so_it_is_asked_first(keyvigil: Keyvigil) -> None:
    refused = keyvigil(f"project update {P} --enforcement observe")
    assert refused.status == 1
    assert "1 open incidents; `observe` unlocks what they have locked" in refused.messages
    assert "add --yes" in refused.messages
    assert ("PATCH", f"/projects/{P}") not in keyvigil.server.asked()
    assert keyvigil(f"project update {P} --enforcement observe --yes").status == 0


def test_an_update_that_changes_nothing_is_a_mistake_in_usage(keyvigil: Keyvigil) -> None:
    answered = keyvigil(f"project update {P}")
    assert answered.status == 2
    assert "--enforcement" in answered.messages
    assert keyvigil.server.seen == []


def test_a_project_that_is_not_empty_stays_and_what_is_in_the_way_is_listed(keyvigil: Keyvigil) -> None:
    refused = keyvigil(f"project delete {P} --yes")
    assert (refused.status, refused.output) == (1, "")
    assert f"in the way: key {KEY_ID}" in refused.messages
    assert "Delete what is in the way first." in refused.messages


def test_an_empty_project_goes(keyvigil: Keyvigil) -> None:
    keyvigil("project create new-one")
    gone = keyvigil("project delete new-one --yes")
    assert (gone.status, gone.output) == (0, "")
    assert "is gone" in gone.messages
    assert keyvigil("project show new-one").status == 1


# --- keys


def test_a_healthy_key_is_status_0(keyvigil: Keyvigil) -> None:
    keyvigil.api.store.put(key(last_probed_at=keyvigil.api.clock.now()))
    shown = keyvigil(f"key show {P} {KEY_ID} --output json")
    assert (shown.status, shown.json["status"]) == (0, "HEALTHY")


@pytest.mark.parametrize(
    ("health", "minutes_ago", "status"),
    [
        (Health(status=KeyStatus.UNHEALTHY), 0, 3),
        (Health(status=KeyStatus.SUSPECT), 0, 3),
        (Health(status=KeyStatus.RECOVERING), 0, 3),
        (Health(status=KeyStatus.UNHEALTHY, unknown_since=NOW), 0, 3),
        (Health(status=KeyStatus.HEALTHY, unknown_since=NOW), 0, 4),
        (Health(status=KeyStatus.HEALTHY), 60, 4),
        (Health(status=KeyStatus.HEALTHY), 0, 0),
    ],
)
def test_what_is_unhealthy_is_3_and_what_is_unknown_or_stale_4(
    keyvigil: Keyvigil, health: Health, minutes_ago: int, status: int
) -> None:
    probed = keyvigil.api.clock.now() - timedelta(minutes=minutes_ago)
    keyvigil.api.store.put(key(health=health, last_probed_at=probed))
    assert keyvigil(f"key show {P} {KEY_ID}").status == status
    assert keyvigil(f"key list {P}").status == status
    assert keyvigil("key list").status == status


def test_a_check_prints_the_verdict_and_what_mends_it_on_one_line(keyvigil: Keyvigil) -> None:
    sick = verdict(Cause.KEY_DISABLED)
    keyvigil.api.store.put(key(health=Health(status=KeyStatus.UNHEALTHY), verdict=sick))
    shown = keyvigil(f"key show {P} {KEY_ID}")
    assert sick.remediation is not None
    assert f"  {sick.remediation.commands[0]}\n" in shown.output
    assert "UNHEALTHY KEY_DISABLED" in shown.output


def test_a_check_asks_for_a_probe_now(keyvigil: Keyvigil) -> None:
    keyvigil(f"key check {P} {KEY_ID}")
    assert ("POST", f"/projects/{P}/keys/{KEY_ID}/check") in keyvigil.server.asked()


def test_keys_of_all_projects_say_whose_they_are(keyvigil: Keyvigil) -> None:
    keyvigil.api.store.put(project(project_id="other"))
    listed = keyvigil("key list --output json")
    assert [(each["project_id"], each["key_id"]) for each in listed.json["items"]] == [(P, KEY_ID)]
    assert ("GET", "/projects/other/keys") in keyvigil.server.asked()


def test_keys_are_filtered_by_status(keyvigil: Keyvigil) -> None:
    assert keyvigil(f"key list {P} --status UNHEALTHY --output json").json["items"] == []
    assert keyvigil.server.seen[-1].query["status"] == "UNHEALTHY"
    assert keyvigil(f"key list {P} --status UNWELL").status == 2


def register(keyvigil: Keyvigil, verb: str = "register", *more: str) -> Printed:
    keyvigil("project create new-one")
    return keyvigil(f"key {verb} new-one --key-arn {KEY_ARN} --role-arn {ROLE_ARN}-new --use cmek", *more)


def answer(keyvigil: Keyvigil, cause: Cause) -> None:
    keyvigil.api.checker.answer = RegistrationAnswer(
        verdict=verdict(cause), role_checks_external_id=True, key_arn=KEY_ARN, baseline=None, facts=key().facts
    )


def test_a_registered_key_is_printed(keyvigil: Keyvigil) -> None:
    made = register(keyvigil, "register", "--output", "json")
    assert (made.status, made.json["key_id"], made.json["status"]) == (0, KEY_ID, "HEALTHY")


def test_a_refused_key_is_3_with_what_mends_it(keyvigil: Keyvigil) -> None:
    answer(keyvigil, Cause.KEY_DISABLED)
    refused = register(keyvigil)
    assert (refused.status, refused.output) == (3, "")
    assert "422 KMS key is disabled" in refused.messages
    assert "aws kms enable-key" in refused.messages


def test_a_key_about_which_nothing_was_found_out_is_4(keyvigil: Keyvigil) -> None:
    answer(keyvigil, Cause.THROTTLED)
    refused = register(keyvigil)
    assert refused.status == 4
    assert "Repeat the command in 30 s." in refused.messages


def test_a_validation_shows_each_operation(keyvigil: Keyvigil) -> None:
    tried = register(keyvigil, "validate")
    assert tried.status == 0
    assert "DescribeKey  yes" in tried.output


def test_a_change_of_a_key_sends_only_what_was_said(keyvigil: Keyvigil) -> None:
    keyvigil(f"key update {P} {KEY_ID} --use cse")
    assert keyvigil.server.seen[-1].body == {"use": "cse"}


def test_a_rebaseline_keeps_its_reason(keyvigil: Keyvigil) -> None:
    keyvigil(f"key rebaseline {P} {KEY_ID} --reason", "our copy is damaged")
    assert keyvigil.server.seen[-1].body == {"reason": "our copy is damaged"}


def test_a_key_with_clusters_is_not_deleted(keyvigil: Keyvigil) -> None:
    refused = keyvigil(f"key delete {P} {KEY_ID} --yes")
    assert refused.status == 1
    assert "409" in refused.messages


# --- clusters


def test_a_cluster_is_registered_in_its_key_s_region_with_its_lock(keyvigil: Keyvigil) -> None:
    made = keyvigil(
        f"cluster register {P} in01-3f5a --key-id {KEY_ID} --kind zilliz-byoc --lock-via event "
        "--lock-timeout-seconds 120 --output json"
    )
    assert made.status == 0, made.messages
    assert keyvigil.server.seen[-1].body == {
        "cluster_id": "in01-3f5a",
        "name": "in01-3f5a",
        "kind": "zilliz-byoc",
        "region": "us-west-2",
        "key_id": KEY_ID,
        "lock": {"via": "event", "timeout_seconds": 120},
    }
    assert made.json["cluster_id"] == "in01-3f5a"


def test_a_lock_s_settings_without_who_locks_are_a_mistake_in_usage(keyvigil: Keyvigil) -> None:
    assert keyvigil(f"cluster register {P} c1 --key-id {KEY_ID} --lock-url https://example.com").status == 2
    bad = keyvigil(f"cluster register {P} c1 --key-id {KEY_ID} --lock-via ssm-automation --lock-parameters", "{")
    assert (bad.status, "not JSON" in bad.messages) == (2, True)
    assert keyvigil.server.seen == []


def test_clusters_are_listed_with_their_status(keyvigil: Keyvigil) -> None:
    listed = keyvigil("cluster list")
    assert listed.status == 0
    assert "LOCKING" in listed.output
    assert keyvigil(f"cluster show {P} vectors-prod --output json").json["status"] == "LOCKING"


def test_a_control_plane_answers_from_the_command_line(keyvigil: Keyvigil) -> None:
    answered = keyvigil(
        f"cluster lock-result {P} vectors-prod --fence 1795369305484 --result locked --output json --detail", "by hand"
    )
    assert (answered.status, answered.json["status"]) == (0, "LOCKED")
    stale = keyvigil(f"cluster lock-result {P} vectors-prod --fence 1 --result locked")
    assert stale.status == 1
    assert "409 Answer to an older request" in stale.messages


def test_a_cluster_is_renamed_and_forgotten(keyvigil: Keyvigil) -> None:
    keyvigil.api.store.put(cluster(status=ClusterStatus.ACTIVE, locked_by_incident_id=None))
    assert keyvigil(f"cluster update {P} vectors-prod --name better --output json").json["name"] == "better"
    assert keyvigil(f"cluster update {P} vectors-prod").status == 2
    assert keyvigil(f"cluster delete {P} vectors-prod --yes").status == 0


# --- incidents


def tell(keyvigil: Keyvigil, **changes: Any) -> None:
    keyvigil.api.store.put(incident(**changes))
    for number, (seconds, what) in enumerate(((0, "key.suspect"), (20.4, "key.unhealthy"), (90_000, "incident.held"))):
        entry = TimelineEntry(
            incident_id=INCIDENT,
            entry_id=str(number),
            at=NOW + timedelta(seconds=seconds),
            what=what,
            detail=f"detail of {what}",
        )
        keyvigil.api.store.put(entry)


def test_an_incident_is_told_with_the_seconds_between(keyvigil: Keyvigil) -> None:
    tell(keyvigil, opened_at=NOW, confirmed_at=NOW + timedelta(seconds=20.4))
    lines = keyvigil(f"incident show {P} {INCIDENT}").output.splitlines()
    (second,) = [line for line in lines if "key.unhealthy" in line]
    assert "+20.4 s" in second
    (third,) = [line for line in lines if "incident.held" in line]
    assert "+1 d" in third
    assert third[:4] == "2026", "another day is named"
    assert any("confirmed after 20.4 s" in line for line in lines)


def test_a_held_incident_says_what_it_waits_for_and_what_can_be_done(keyvigil: Keyvigil) -> None:
    tell(keyvigil, status=IncidentStatus.HELD, held_for="approval")
    shown = keyvigil(f"incident show {P} {INCIDENT}").output
    assert "HELD for approval" in shown
    assert f"  keyvigil incident approve {P} {INCIDENT} --reason WHY\n" in shown


def test_a_long_timeline_is_read_to_its_end(keyvigil: Keyvigil) -> None:
    for number in range(450):
        entry = TimelineEntry(
            incident_id=INCIDENT, entry_id=f"x{number:04d}", at=NOW + timedelta(seconds=number), what="w", detail=""
        )
        keyvigil.api.store.put(entry)
    shown = keyvigil(f"incident show {P} {INCIDENT} --output json").json
    assert len(shown["timeline"]) == 452
    assert shown["timeline_truncated"] is False


def test_only_open_incidents_are_listed_on_request(keyvigil: Keyvigil) -> None:
    keyvigil.api.store.put(incident(incident_id="01JOVER", status=IncidentStatus.RESOLVED, resolved_at=NOW))
    everything = keyvigil("incident list --output json").json["items"]
    assert {each["incident_id"] for each in everything} == {INCIDENT, "01JOVER"}
    assert [each["incident_id"] for each in keyvigil(f"incident list {P} --open -o json").json["items"]] == [INCIDENT]


def test_approving_says_what_it_locks_and_asks(keyvigil: Keyvigil) -> None:
    tell(keyvigil, status=IncidentStatus.HELD, held_for="approval")
    asked = keyvigil(f"incident approve {P} {INCIDENT} --reason because")
    assert asked.status == 1
    assert "confirms the outage afresh, then locks" in asked.messages
    assert ("POST", f"/projects/{P}/incidents/{INCIDENT}/decision") not in keyvigil.server.asked()


@pytest.mark.parametrize("decision", ["approve", "hold", "dismiss"])
def test_a_decision_is_sent_with_its_reason(keyvigil: Keyvigil, decision: str) -> None:
    tell(keyvigil, status=IncidentStatus.HELD, held_for="approval")
    yes = [] if decision == "hold" else ["--yes"]
    decided = keyvigil(f"incident {decision} {P} {INCIDENT} --output json --reason", "they called", *yes)
    assert decided.status == 0, decided.messages
    assert keyvigil.server.seen[-1].body == {"decision": decision, "reason": "they called"}
    assert decided.json["decision"]["decision"] == decision


def test_a_decision_that_comes_too_late_says_so(keyvigil: Keyvigil) -> None:
    tell(keyvigil, status=IncidentStatus.RESOLVED, resolved_at=NOW)
    refused = keyvigil(f"incident hold {P} {INCIDENT} --reason late")
    assert refused.status == 1
    assert "409 Too late for this decision" in refused.messages


# --- what creates is asked once


def test_a_creation_without_an_answer_is_asked_for_again_with_the_same_key(keyvigil: Keyvigil) -> None:
    keyvigil.server.instead = [Canned(None)]
    made = keyvigil("project create new-one --output json")
    assert made.status == 0
    first, second = keyvigil.server.seen
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert made.json["project_id"] == "new-one"


UNDER_WAY = Canned(
    409, '{"title": "Request is under way"}', "application/problem+json", headers=(("Retry-After", "5"),)
)


def test_a_creation_that_is_under_way_is_waited_for(keyvigil: Keyvigil) -> None:
    keyvigil.server.instead = [Canned(None), *[UNDER_WAY] * 5]
    assert keyvigil("project create new-one").status == 0
    keyvigil.server.instead = [UNDER_WAY] * 7
    refused = keyvigil("project create newer-one")
    assert (refused.status, "Repeat the command in 5 s." in refused.messages) == (1, True)


def test_a_creation_is_not_asked_for_for_ever_when_nobody_answers(keyvigil: Keyvigil) -> None:
    keyvigil.server.instead = [Canned(None)] * 9
    assert keyvigil("project create new-one").status == 1
    assert len(keyvigil.server.seen) == 3


def test_json_is_all_there_is_on_standard_output(keyvigil: Keyvigil) -> None:
    for asked in ("project list", "key list", "cluster list", "incident list", f"incident show {P} {INCIDENT}"):
        json.loads(keyvigil(f"{asked} --output json").output)
        json.loads(keyvigil(f"--output json {asked}").output)
