"""What must hold of the operator's dashboard: CloudWatch takes a widget of a metric that nobody publishes, and shows
nothing in it for ever."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.infra.source_template import Template

type Body = dict[str, Any]

GRID = 24
"""How many columns a dashboard has.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html
"""

MOST_ALARMS = 100
"""How many an alarm widget takes (the same page)."""

# What AWS publishes, under which dimensions, as far as it is of use here:
# https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
# https://docs.aws.amazon.com/step-functions/latest/dg/procedure-cw-metrics.html
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
# https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-metrics.html
_PUBLISHED_BY_AWS = {
    "AWS/Lambda": ("FunctionName", {"Errors", "Throttles", "Duration", "Invocations", "ConcurrentExecutions"}),
    "AWS/States": (
        "StateMachineArn",
        {"ExecutionsStarted", "ExecutionsSucceeded", "ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"},
    ),
    "AWS/SQS": ("QueueName", {"ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible"}),
    "AWS/ApiGateway": ("ApiId", {"Count", "4xx", "5xx", "Latency", "IntegrationLatency"}),
}
_KIND_OF = {
    "AWS/Lambda": {"AWS::Lambda::Function", "AWS::Serverless::Function"},
    "AWS/States": {"AWS::StepFunctions::StateMachine", "AWS::Serverless::StateMachine"},
    "AWS/SQS": {"AWS::SQS::Queue"},
    "AWS/ApiGateway": {"AWS::ApiGatewayV2::Api"},
}
# Each of these has its own line in some widget.
_SHOWN = {
    "AWS::Lambda::Function": ("AWS/Lambda", ["Errors", "Throttles"]),
    "AWS::StepFunctions::StateMachine": ("AWS/States", ["ExecutionsStarted", "ExecutionsFailed"]),
}
OURS = "KeyVigil/${AWS::StackName}"


class Shown(NamedTuple):
    """A metric of the dashboard, as it is written there."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]


def _body(written: Any) -> Body:
    """The dashboard's JSON, with its references still in it."""
    body: Body = json.loads(written["Fn::Sub"])
    return body


def dashboard_metrics(written: Any) -> Iterator[Shown]:
    """Every metric of every widget."""
    for widget in _body(written)["widgets"]:
        for metric in widget["properties"].get("metrics", []):
            parts = [each for each in metric if not isinstance(each, dict)]
            if not parts:  # an expression, of metrics that stand beside it
                continue
            yield Shown(parts[0], parts[1], tuple(zip(parts[2::2], parts[3::2], strict=True)))


def _referred(text: str) -> str:
    """The logical id that a text refers to, if it is nothing else."""
    found = re.fullmatch(r"\$\{(\w+)(?:\.\w+)?\}", text)
    return found[1] if found else ""


def dashboard_problems(template: Template) -> list[str]:
    """What breaks the dashboard, one line each."""
    written = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]
    try:
        body = _body(written)
    except ValueError as error:
        return [f"the body is no JSON: {error}"]
    return [
        *_layout_problems(body),
        *(problem for each in dashboard_metrics(written) for problem in _metric_problems(each, template)),
        *_alarm_problems(body, template),
        *_custom_problems(body, template),
        *_gap_problems(set(dashboard_metrics(written)), template),
    ]


def _layout_problems(body: Body) -> Iterator[str]:
    """Widgets have what their type needs, stay within the grid and leave each other's places alone."""
    taken: set[tuple[int, int]] = set()
    for widget in body["widgets"]:
        name = widget["properties"].get("title") or widget["properties"].get("markdown")
        needs = {
            "text": {"markdown"},
            "alarm": {"alarms", "title"},
            "custom": {"endpoint", "title", "updateOn"},
            "metric": {"metrics", "region", "stat", "period", "title"},
        }
        missing = needs.get(widget["type"], {"a type that is known"}) - widget["properties"].keys()
        if missing:
            yield f"{name}: has no {', '.join(sorted(missing))}"
        columns = range(widget["x"], widget["x"] + widget["width"])
        cells = {(x, y) for x in columns for y in range(widget["y"], widget["y"] + widget["height"])}
        if columns.stop > GRID or cells & taken:
            yield f"{name}: leaves the grid or covers another"
        taken |= cells


def _metric_problems(metric: Shown, template: Template) -> Iterator[str]:
    """The metric is one that AWS publishes about something of this stack. Ours are compared with what the code does."""
    if metric.namespace == OURS:
        return
    dimension, names = _PUBLISHED_BY_AWS.get(metric.namespace, ("", set()))
    if metric.name not in names:
        yield f"{metric.namespace} {metric.name}: nobody publishes it"
    for name, value in metric.dimensions:
        kind = template["Resources"].get(_referred(value), {}).get("Type")
        if name != dimension or kind not in _KIND_OF.get(metric.namespace, set()):
            yield f"{metric.namespace} {metric.name}: {name} {value} is nothing of this stack"


def _custom_problems(body: Body, template: Template) -> Iterator[str]:
    """A custom widget is drawn by a function of this stack, again with each refresh of the dashboard.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html
    """
    for widget in body["widgets"]:
        if widget["type"] != "custom":
            continue
        properties = widget["properties"]
        drawn_by = template["Resources"].get(_referred(str(properties.get("endpoint", ""))), {}).get("Type")
        if drawn_by != "AWS::Lambda::Function":
            yield f"{properties.get('title')}: {properties.get('endpoint')} is no function of this stack"
        if not properties.get("updateOn", {}).get("refresh"):
            yield f"{properties.get('title')}: stays as it was when the dashboard is refreshed"


def _alarm_problems(body: Body, template: Template) -> Iterator[str]:
    """Every alarm of the stack is on the dashboard, and no other."""
    listed = [each for widget in body["widgets"] for each in widget["properties"].get("alarms", [])]
    shown = {each.partition(":alarm:")[2] for each in listed}
    alarms = {
        str(resource["Properties"]["AlarmName"]["Fn::Sub"])
        for resource in template["Resources"].values()
        if resource["Type"] in {"AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm"}
    }
    yield from (f"alarm {name} is not on the dashboard" for name in sorted(alarms - shown))
    yield from (f"alarm {name} is on the dashboard and not in the stack" for name in sorted(shown - alarms))
    if len(listed) > MOST_ALARMS:
        yield f"an alarm widget takes {MOST_ALARMS} alarms, not {len(listed)}"


def _gap_problems(shown: set[Shown], template: Template) -> Iterator[str]:
    """Every function, workflow and queue is somewhere."""
    seen = {(each.namespace, each.name, _referred(value)) for each in shown for _, value in each.dimensions}
    for logical_id, resource in template["Resources"].items():
        namespace, names = _SHOWN.get(resource["Type"], ("", []))
        if resource["Type"] == "AWS::SQS::Queue":
            namespace = "AWS/SQS"
            dead_letters = "RedrivePolicy" not in resource.get("Properties", {})
            names = ["ApproximateNumberOfMessagesVisible" if dead_letters else "ApproximateAgeOfOldestMessage"]
        yield from (
            f"{logical_id}: its {name} is not on the dashboard"
            for name in names
            if (namespace, name, logical_id) not in seen
        )
