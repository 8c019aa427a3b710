"""docs/own-key.md: its arithmetic is the template's, its alarms are calls that AWS knows, its words the program's."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from typer.testing import CliRunner

from keyvigil_cli.main import app
from keyvigil_cli.policies.documents import Statement, listed
from tests.infra.source_template import ROOT, SourceTemplate, Template

PAGE = (ROOT / "docs" / "own-key.md").read_text(encoding="utf-8")
KEY = "arn:aws:kms:us-west-2:111111111111:key/8d2e5b1c-0000-4000-8000-000000000000"
SECONDS, REUSE = 30 * 86_400, 300

# Sources: https://docs.aws.amazon.com/kms/latest/developerguide/monitoring-cloudwatch.html and, for AWS/Usage,
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch-Usage-Metrics.html
PUBLISHED = {
    ("AWS/KMS", "SuccessfulRequest"): {"KeyArn", "Operation"},
    ("AWS/KMS", "SecondsUntilKeyMaterialExpiration"): {"KeyId"},
    ("AWS/Usage", "CallCount"): {"Service", "Type", "Resource", "Class"},
}


def statements(template: Template) -> Iterator[tuple[str, Statement]]:
    for name, resource in template["Resources"].items():
        if resource["Type"] == "AWS::IAM::Role":
            for policy in resource["Properties"].get("Policies", []):
                for statement in policy["PolicyDocument"]["Statement"]:
                    yield name, statement


def test_the_arithmetic_is_that_of_the_template(full_template: Template) -> None:
    found = list(statements(full_template))
    readers = {
        role for role, each in found
        if "kms:Decrypt" in listed(each["Action"]) and "dynamodb" in json.dumps(each.get("Condition", {}))
    }  # fmt: skip
    check_queue = {"Fn::GetAtt": ["CheckQueue", "Arn"]}
    of_queue = [(role, each) for role, each in found if check_queue in listed(each["Resource"])]
    producers = {role for role, each in of_queue if "sqs:SendMessage" in listed(each["Action"])}
    consumers = {role for role, each in of_queue if "sqs:ReceiveMessage" in listed(each["Action"])}
    assert "KmsDataKeyReusePeriodSeconds" not in full_template["Resources"]["CheckQueue"]["Properties"]

    queue = SECONDS // REUSE * (2 * len(producers) + len(consumers))
    table = SECONDS // REUSE * len(readers)
    assert f"| check queue | {queue:,} |" in PAGE
    assert re.search(rf"\(2 . {len(producers)} \+ {len(consumers)}\) \|", PAGE)
    assert f"| table | {table:,} | {len(readers)} roles" in PAGE
    cost = (queue + table) * 0.03 / 10_000
    assert f"{queue + table:,} requests without alerts are ${cost:.2f}, so the whole is at most ${1 + cost:.2f}" in PAGE
    an_hour = (queue + table) // 720
    assert f"in 720 hours are {an_hour} an hour" in PAGE
    assert alarms()["keyvigil-own-key-used-much"]["Threshold"] == 10 * an_hour


def alarms() -> dict[str, Any]:
    blocks = [json.loads(each) for each in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    return {each["AlarmName"]: each for each in blocks}


def metrics(alarm: Any) -> Iterator[Any]:
    if "MetricName" in alarm:
        yield alarm
    for each in alarm.get("Metrics", []):
        if "MetricStat" in each:
            yield each["MetricStat"]["Metric"]


@pytest.mark.parametrize("name", alarms())
def test_an_alarm_is_a_call_that_aws_takes_on_a_metric_that_aws_publishes(name: str) -> None:
    alarm = alarms()[name]
    model = botocore.session.Session().get_service_model("cloudwatch").operation_model("PutMetricAlarm")
    assert model.input_shape is not None
    report = ParamValidator().validate(alarm, model.input_shape)
    assert not report.has_errors(), report.generate_report()
    watched = list(metrics(alarm))
    assert watched
    for metric in watched:
        dimensions = {each["Name"] for each in metric["Dimensions"]}
        assert PUBLISHED[metric["Namespace"], metric["MetricName"]] == dimensions
    assert alarm["TreatMissingData"] == "notBreaching", "no use and no imported material are no alarm"


def commands() -> list[str]:
    text = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    return [each.partition(" > ")[0] for each in text.splitlines() if each.startswith("keyvigil ")]


def test_the_commands_that_print_are_written_as_they_must_be() -> None:
    printing = [each for each in commands() if each.startswith("keyvigil policy ")]
    assert printing
    for each in printing:
        result = CliRunner().invoke(app, shlex.split(each.replace("$KEY_ARN", KEY))[1:])
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["Statement"]


def test_a_key_of_another_region_is_refused_in_the_words_of_the_page() -> None:
    elsewhere = KEY.replace("us-west-2", "eu-west-1")
    asked = f"policy stack-key {elsewhere} --account 111111111111 --stack-region us-west-2"
    result = CliRunner().invoke(app, shlex.split(asked))
    block = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    assert (result.exit_code, result.stderr.split()) == (1, block[1].split())


def test_an_alias_is_refused_by_the_template(source_template: SourceTemplate) -> None:
    pattern = source_template.content["Parameters"]["KmsKeyArn"]["AllowedPattern"]
    assert re.fullmatch(pattern, KEY)
    assert not re.fullmatch(pattern, "arn:aws:kms:us-west-2:111111111111:alias/keyvigil")
