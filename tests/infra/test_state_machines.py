"""Every state machine of ``statemachines/``, and a proof that each rule can fail."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.infra.source_template import ROOT, SourceTemplate
from tests.infra.state_machine_rules import PLACEHOLDER, Machine, cfn_lint_problems, problems_of, substitute

DEFINITIONS = sorted((ROOT / "statemachines").glob("*.asl.json"))

type Mutation = Callable[[Machine], object]


@pytest.fixture(params=DEFINITIONS, ids=lambda path: path.name)
def definition(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_structure_time_outs_retries_catches_and_expressions(definition: Path) -> None:
    assert problems_of(substitute(definition.read_text())) == []


def test_the_graph_reads_without_the_code(definition: Path) -> None:
    """Every state says what it is for: a Fail by its Cause, all others by a Comment that is a sentence."""
    machine = substitute(definition.read_text())
    inner = [each["ItemProcessor"]["States"] for each in machine["States"].values() if each["Type"] == "Map"]
    states = {name: state for part in (machine["States"], *inner) for name, state in part.items()}
    said = {name: state.get("Cause") or state.get("Comment", "") for name, state in states.items()}
    assert machine["Comment"].endswith(".")
    assert [name for name, words in said.items() if not words.endswith(".") or len(words) < 20] == []


def test_cfn_lint_accepts_the_definition(definition: Path) -> None:
    assert cfn_lint_problems(substitute(definition.read_text())) == []


def test_the_template_substitutes_exactly_what_the_definition_names(
    definition: Path, source_template: SourceTemplate
) -> None:
    placeholders = set(PLACEHOLDER.findall(definition.read_text()))
    assert placeholders == source_template.substitutions_of(definition)


def test_the_template_uses_each_definition_and_no_other(source_template: SourceTemplate) -> None:
    assert source_template.state_machine_definitions() == DEFINITIONS


def test_a_broken_transition_in_a_real_definition_is_found(definition: Path) -> None:
    machine = substitute(definition.read_text())
    machine["StartAt"] = "Nowhere"
    assert "StartAt: there is no state Nowhere" in problems_of(machine)


TASK = {
    "Type": "Task",
    "Resource": "arn:aws:states:::lambda:invoke",
    "Arguments": {"FunctionName": "${LockClusterFunctionArn}", "Payload": "{% $states.input %}"},
    "TimeoutSeconds": 30,
    "Retry": [
        {"ErrorEquals": ["Lambda.TooManyRequestsException"], "IntervalSeconds": 2, "MaxAttempts": 3},
        {"ErrorEquals": ["NewerItemError"], "IntervalSeconds": 60, "BackoffRate": 1, "MaxAttempts": 3},
    ],
    "Catch": [{"ErrorEquals": ["States.ALL"], "Output": "{% $states.errorOutput %}", "Next": "Failed"}],
    "Output": "{% $states.result.Payload %}",
}
GOOD: Machine = substitute(
    json.dumps(
        {
            "QueryLanguage": "JSONata",
            "StartAt": "LockClusters",
            "States": {
                "LockClusters": {
                    "Type": "Map",
                    "Items": "{% $states.input.clusters %}",
                    "ItemProcessor": {
                        "StartAt": "LockCluster",
                        "States": {
                            "LockCluster": TASK | {"End": True},
                            "Failed": {"Type": "Pass", "End": True},
                        },
                    },
                    "Next": "Record",
                },
                "Record": TASK | {"Next": "AllLocked"},
                "AllLocked": {
                    "Type": "Choice",
                    "Choices": [{"Condition": "{% $count($states.input.failed) = 0 %}", "Next": "Done"}],
                    "Default": "Failed",
                },
                "Done": {"Type": "Succeed"},
                "Failed": {"Type": "Fail", "Error": "LockoutFailed", "Cause": "{% $states.input.Cause %}"},
            },
        }
    )
)


def test_the_rules_accept_a_good_machine() -> None:
    assert problems_of(GOOD) == []
    assert cfn_lint_problems(GOOD) == []


@pytest.mark.parametrize(
    ("mutate", "problem"),
    [
        pytest.param(lambda m: m.update(StartAt="Gone"), "StartAt: there is no state Gone", id="start"),
        pytest.param(lambda m: m["States"]["Record"].update(Next="Gone"), "Record: there is no state Gone", id="next"),
        pytest.param(
            lambda m: m["States"]["AllLocked"].update(Default="Gone"),
            "AllLocked: there is no state Gone",
            id="default",
        ),
        pytest.param(
            lambda m: m["States"]["AllLocked"]["Choices"][0].update(Next="Gone"),
            "AllLocked: there is no state Gone",
            id="choice",
        ),
        pytest.param(
            lambda m: m["States"]["Record"]["Catch"][0].update(Next="Gone"),
            "Record: there is no state Gone",
            id="catch",
        ),
        pytest.param(
            # A state of the surrounding machine cannot be reached from inside a Map.
            lambda m: m["States"]["LockClusters"]["ItemProcessor"]["States"]["Failed"].update(Next="Done"),
            "LockClusters/Failed: there is no state Done",
            id="out-of-a-map",
        ),
        pytest.param(
            lambda m: m["States"]["AllLocked"].pop("Default"),
            "AllLocked: a Choice without Default",
            id="no-default",
        ),
        pytest.param(lambda m: m["States"]["Record"].pop("Next"), "Record: needs either Next or End", id="no-end"),
        pytest.param(
            lambda m: m["States"].update(Lonely={"Type": "Succeed"}),
            "Lonely: nothing leads here",
            id="unreachable",
        ),
        pytest.param(
            lambda m: m["States"]["Record"].pop("TimeoutSeconds"),
            "Record: a Task without TimeoutSeconds",
            id="no-time-out",
        ),
        pytest.param(
            lambda m: m["States"]["LockClusters"]["ItemProcessor"]["States"]["LockCluster"].pop("TimeoutSeconds"),
            "LockClusters/LockCluster: a Task without TimeoutSeconds",
            id="no-time-out-in-a-map",
        ),
        pytest.param(lambda m: m["States"]["Record"].pop("Retry"), "Record: a Task needs a Retry", id="no-retry"),
        pytest.param(
            lambda m: m["States"]["Record"]["Retry"][0].update(ErrorEquals=["States.ALL"]),
            "Record: Retry on States.ALL is too broad",
            id="broad-retry",
        ),
        pytest.param(
            lambda m: m["States"]["Record"]["Retry"][1].update(MaxAttempts=2),
            "Record: no Retry on NewerItemError waits 180 s",
            id="impatient-retry",
        ),
        pytest.param(
            lambda m: m["States"]["Record"]["Catch"][0].update(ErrorEquals=["States.Timeout"]),
            "Record: a Task needs a Catch for States.ALL",
            id="narrow-catch",
        ),
        pytest.param(lambda m: m["States"]["Failed"].pop("Cause"), "Failed: a Fail needs Cause", id="mute-fail"),
        pytest.param(lambda m: m.pop("QueryLanguage"), "QueryLanguage of the state machine", id="no-language"),
        pytest.param(
            lambda m: m["States"]["Done"].update(QueryLanguage="JSONPath"),
            "Done: QueryLanguage is not JSONata",
            id="other-language",
        ),
        pytest.param(
            lambda m: m["States"]["Record"]["Arguments"].update(Payload="{% $merge([$states.input, %}"),
            "/States/Record/Arguments/Payload: ",
            id="malformed-jsonata",
        ),
        pytest.param(
            lambda m: m["States"]["Record"]["Arguments"].update(Payload="id-{% $states.input.id %}"),
            "/States/Record/Arguments/Payload: an expression is the whole string",
            id="expression-in-text",
        ),
        pytest.param(
            lambda m: m["States"]["Record"].update(Output="{% $states.output %}"),
            "/States/Record/Output: there is no $states.output",
            id="misspelt-variable",
        ),
    ],
)
def test_a_mistake_is_found(mutate: Mutation, problem: str) -> None:
    machine = copy.deepcopy(GOOD)
    mutate(machine)
    found = problems_of(machine)
    assert [line for line in found if line.startswith(problem)], found


def test_cfn_lint_finds_an_unknown_field() -> None:
    machine = copy.deepcopy(GOOD)
    machine["States"]["Record"]["TimoutSeconds"] = 30
    assert any("TimoutSeconds" in problem for problem in cfn_lint_problems(machine))
