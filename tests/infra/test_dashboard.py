"""The operator's dashboard: valid, complete, and of metrics that somebody publishes."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.infra.dashboard_rules import dashboard_problems
from tests.infra.source_template import Template
from tests.infra.watching_cost import README, watching_cost, written

type Widget = dict[str, Any]

FLEET = "The fleet, its open incidents, and the keys that need a look"


def test_the_dashboard_shows_what_there_is_and_nothing_that_is_not(full_template: Template) -> None:
    assert dashboard_problems(full_template) == []


def test_the_body_is_json_once_cloudformation_has_filled_it_in(full_template: Template) -> None:
    body = full_template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    questions = [each["properties"]["markdown"] for each in json.loads(body)["widgets"] if each["type"] == "text"]
    assert len(questions) == 8
    assert all("?" in each for each in questions)


def test_the_output_names_it(full_template: Template) -> None:
    assert full_template["Outputs"]["DashboardName"]["Value"] == {"Ref": "Dashboard"}


def test_the_readme_says_what_watching_itself_costs(full_template: Template) -> None:
    readme = README.read_text(encoding="utf-8")
    assert written(readme.partition("## Cost")[2]) == watching_cost(full_template), "`make cost` writes it"


def test_the_cost_is_counted_and_added_up() -> None:
    def metric(name: str, namespace: str = "KeyVigil/x") -> list[str]:
        return [namespace, name, "service", "plan_sweep"]

    body = {"widgets": [{"type": "metric", "properties": {"metrics": [metric("One"), metric("Two"), metric("One")]}}]}
    template = {
        "Resources": {
            **{f"Alarm{number}": {"Type": "AWS::CloudWatch::Alarm"} for number in range(3)},
            "Dashboard": {
                "Type": "AWS::CloudWatch::Dashboard",
                "Properties": {"DashboardBody": {"Fn::Sub": json.dumps(body)}},
            },
        }
    }
    assert watching_cost(template).splitlines()[2:] == [
        "| alarms | 3 | $0.10 | $0.30 |",
        "| metrics of its own | 2 | $0.30 | $0.60 |",
        "| dashboard | 1 | $3.00 | $3.00 |",
        "| together | | | $3.90 |",
    ]


def _change(template: Template, change: Callable[[list[Widget]], object]) -> Template:
    changed = copy.deepcopy(template)
    properties = changed["Resources"]["Dashboard"]["Properties"]
    body = json.loads(properties["DashboardBody"]["Fn::Sub"])
    change(body["widgets"])
    properties["DashboardBody"] = {"Fn::Sub": json.dumps(body)}
    return changed


def _titled(widgets: list[Widget], title: str) -> Widget:
    return next(each for each in widgets if each["properties"].get("title") == title)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(
            # What some guides name, and AWS never published.
            lambda widgets: _titled(widgets, "API")["properties"]["metrics"].append(
                ["AWS/KMS", "NumberOfRequestsFailed", "KeyId", "${Table}"]
            ),
            "AWS/KMS NumberOfRequestsFailed: nobody publishes it",
            id="metric-that-does-not-exist",
        ),
        pytest.param(
            lambda widgets: _titled(widgets, "Errors")["properties"]["metrics"].append(
                ["AWS/Lambda", "Errors", "FunctionName", "${NoSuchFunction}"]
            ),
            "AWS/Lambda Errors: FunctionName ${NoSuchFunction} is nothing of this stack",
            id="function-that-does-not-exist",
        ),
        pytest.param(
            lambda widgets: _titled(widgets, "Throttles")["properties"]["metrics"].pop(),
            "RenderWidgetFunction: its Throttles is not on the dashboard",
            id="forgotten-function",
        ),
        pytest.param(
            lambda widgets: _titled(widgets, "Dead letters")["properties"]["metrics"].pop(),
            "SweepDeadLetters: its ApproximateNumberOfMessagesVisible is not on the dashboard",
            id="forgotten-queue",
        ),
        pytest.param(
            lambda widgets: _titled(widgets, "Alarms")["properties"]["alarms"].pop(),
            "alarm ${AWS::StackName}-slow-check-queue-age is not on the dashboard",
            id="forgotten-alarm",
        ),
        pytest.param(
            lambda widgets: _titled(widgets, FLEET)["properties"].update(endpoint="${NoSuchFunction.Arn}"),
            f"{FLEET}: ${{NoSuchFunction.Arn}} is no function of this stack",
            id="widget-that-nobody-draws",
        ),
        pytest.param(
            lambda widgets: _titled(widgets, FLEET)["properties"]["updateOn"].update(refresh=False),
            f"{FLEET}: stays as it was when the dashboard is refreshed",
            id="widget-that-is-not-drawn-again",
        ),
        pytest.param(
            lambda widgets: _titled(widgets, "API").update(x=20),
            "API: leaves the grid or covers another",
            id="outside",
        ),
        pytest.param(
            lambda widgets: _titled(widgets, "API")["properties"].pop("region"),
            "API: has no region",
            id="no-region",
        ),
    ],
)
def test_a_mistake_in_the_dashboard_is_found(
    full_template: Template, change: Callable[[list[Widget]], object], problem: str
) -> None:
    assert problem in dashboard_problems(_change(full_template, change))


def test_a_body_that_is_no_json_is_found(full_template: Template) -> None:
    template = copy.deepcopy(full_template)
    template["Resources"]["Dashboard"]["Properties"]["DashboardBody"] = {"Fn::Sub": '{"widgets": ['}
    [problem] = dashboard_problems(template)
    assert problem.startswith("the body is no JSON")
