"""The deployed rules of both buses, asked with the local cloud's TestEventPattern about every recorded event."""

import json

import pytest

from tests import recorded_events as recordings
from tests.e2e.stage import Stage

# A rule cannot tell it from a grant that a person made; the function does.
PASSES_THE_RULES = {"CreateGrant-by-a-service"}


@pytest.mark.parametrize("bus", ["default", "intake"])
def test_the_deployed_rules_pass_the_recorded_events_and_no_others(stage: Stage, bus: str) -> None:
    eventbridge = stage.cloud.session().client("events")
    name = "default" if bus == "default" else stage.outputs["IntakeBusArn"].rpartition("/")[2]
    rules = eventbridge.list_rules(EventBusName=name, NamePrefix="keyvigil-")["Rules"]
    assert len(rules) == 3
    for shape in (*recordings.TAKEN, *recordings.IGNORED):
        event = json.dumps(recordings.recorded(shape))
        passed = [
            rule["Name"]
            for rule in rules
            if eventbridge.test_event_pattern(EventPattern=rule["EventPattern"], Event=event)["Result"]
        ]
        assert len(passed) == (shape in {*recordings.TAKEN, *PASSES_THE_RULES}), shape
    for rule in rules:
        [target] = eventbridge.list_targets_by_rule(Rule=rule["Name"], EventBusName=name)["Targets"]
        assert target["Arn"].endswith(f":function:{stage.outputs['ReceiveKeyEventFunctionName']}")
        assert "DeadLetterConfig" in target
