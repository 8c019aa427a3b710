"""The rules of both buses against every recorded event, by moto's matcher, and who may send to the intake bus.

moto's TestEventPattern answers nothing; `tests/e2e/test_key_events.py` asks the local cloud's about the deployed rules.
"""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from moto.events.models import EventPattern

from keyvigil.adapters.cloudtrail_records import API_CALL
from keyvigil.domain.key_events import CALLS, KMS_EVENTS
from tests import recorded_events as recordings
from tests.infra.source_template import Template
from tests.recorded_events import Event, recorded

type Rules = dict[str, dict[str, Any]]

BUSES = ("default", "IntakeBus")
# A rule cannot tell these two from the calls that a person made; the function does.
PASSES_THE_RULES = {"CreateGrant-by-a-service"}


def rules_of(template: Template, bus: str) -> Rules:
    """The event patterns of a bus's rules, by the rules' names."""
    return {
        properties["Name"]["Fn::Sub"]: properties["EventPattern"]
        for properties in (
            each["Properties"] for each in template["Resources"].values() if each["Type"] == "AWS::Events::Rule"
        )
        if properties.get("EventBusName", {"Ref": "default"})["Ref"] == bus
    }


def matching(rules: Rules, event: Event) -> list[str]:
    """The rules of a bus that an event passes."""
    return [
        name
        for name, pattern in rules.items()
        if EventPattern.load(json.dumps(pattern)).matches_event(event)  # type: ignore[arg-type]  # its own type of an event
    ]


@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize("name", recordings.TAKEN)
def test_each_recorded_event_passes_exactly_one_rule_of_each_bus(full_template: Template, bus: str, name: str) -> None:
    assert len(matching(rules_of(full_template, bus), recorded(name))) == 1


@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize("name", sorted(set(recordings.IGNORED) - PASSES_THE_RULES))
def test_what_says_nothing_of_a_key_passes_none(full_template: Template, bus: str, name: str) -> None:
    assert matching(rules_of(full_template, bus), recorded(name)) == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda event: event.update(source="my.kms"), id="source"),
        pytest.param(lambda event: event.update({"detail-type": "My Event"}), id="detail-type"),
        pytest.param(lambda event: event["detail"].update(eventSource="s3.amazonaws.com"), id="service"),
        pytest.param(lambda event: event["detail"].update(eventName="GenerateDataKey"), id="call"),
        pytest.param(lambda event: event["detail"].update(errorCode="AccessDenied"), id="refused"),
    ],
)
def test_an_event_of_another_sort_passes_none(full_template: Template, change: Callable[[Event], None]) -> None:
    event = recorded("DisableKey")
    change(event)
    assert matching(rules_of(full_template, "default"), event) == []


def test_both_buses_take_the_same_and_the_code_takes_what_the_rules_pass(full_template: Template) -> None:
    own, forwarded = (rules_of(full_template, bus) for bus in BUSES)
    assert {f"{name}-forwarded": pattern for name, pattern in own.items()} == forwarded
    by_source: dict[str, set[str]] = {"aws.kms": set(), "aws.iam": set()}
    for pattern in own.values():
        [source] = pattern["source"]
        if pattern["detail-type"] == [API_CALL]:
            by_source[source] |= set(pattern["detail"]["eventName"])
        else:
            assert set(pattern["detail-type"]) == KMS_EVENTS
    assert by_source == CALLS
    # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html
    assert max(len(json.dumps(pattern)) for pattern in own.values()) < 2048


# --- the intake bus ---------------------------------------------------------------------------------------------


def policies(template: Template) -> dict[str, Any]:
    return {
        logical_id: each["Properties"]
        for logical_id, each in template["Resources"].items()
        if each["Type"] == "AWS::Events::EventBusPolicy"
    }


def test_nobody_may_send_to_the_intake_bus_of_a_stack_that_trusts_nobody(plain_template: Template) -> None:
    assert policies(plain_template) == {}


def may_send_problems(template: Template) -> list[str]:
    """What opens a bus wider than to rules of the trusted accounts that forward events of KMS and IAM."""
    problems = []
    for name, policy in policies(template).items():
        statement = policy["Statement"]
        conditions = statement.get("Condition", {})
        if policy["EventBusName"] != {"Ref": "IntakeBus"} or statement["Action"] != "events:PutEvents":
            problems.append(f"{name}: allows {statement['Action']} on {policy['EventBusName']}")
        if conditions.get("Bool") != {"events:eventBusInvocation": "true"}:
            problems.append(f"{name}: lets PutEvents in")
        sources = (conditions.get("ForAllValues:StringEquals"), conditions.get("Null"))
        if sources != ({"events:source": ["aws.kms", "aws.iam"]}, {"events:source": "false"}):
            problems.append(f"{name}: takes other sources")
        by_account = statement["Principal"] == {"AWS": {"Ref": "TrustedEventAccounts"}}
        by_organization = conditions.get("StringEquals") == {"aws:PrincipalOrgID": {"Ref": "TrustedEventOrganization"}}
        if not by_account and not by_organization:
            problems.append(f"{name}: trusts everybody")
    return problems


def test_rules_of_trusted_accounts_may_forward_events_of_kms_and_iam_and_nothing_else(full_template: Template) -> None:
    # One statement for all accounts and one for the organization: a bus policy stops at 10,240 characters.
    assert set(policies(full_template)) == {"IntakeFromAccounts", "IntakeFromOrganization"}
    assert may_send_problems(full_template) == []


@pytest.mark.parametrize(
    ("policy", "change"),
    [
        pytest.param("IntakeFromAccounts", lambda it: it.update(Action="events:*"), id="action"),
        pytest.param("IntakeFromAccounts", lambda it: it.update(Principal="*"), id="everybody"),
        pytest.param("IntakeFromOrganization", lambda it: it["Condition"].pop("StringEquals"), id="any organization"),
        pytest.param("IntakeFromAccounts", lambda it: it["Condition"].pop("Bool"), id="PutEvents"),
        pytest.param("IntakeFromOrganization", lambda it: it["Condition"].pop("Null"), id="no source"),
        pytest.param(
            "IntakeFromAccounts", lambda it: it["Condition"].pop("ForAllValues:StringEquals"), id="any source"
        ),
    ],
)
def test_a_policy_that_lets_more_in_is_found(
    full_template: Template, policy: str, change: Callable[[dict[str, Any]], object]
) -> None:
    template = copy.deepcopy(full_template)
    change(template["Resources"][policy]["Properties"]["Statement"])
    [problem] = may_send_problems(template)
    assert problem.startswith(policy)
