"""What must hold of every state machine of this project, beyond what Step Functions itself would refuse.

Step Functions finds a broken transition only when the stack is deployed, and a broken expression only when an
execution reaches it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonata
from cfnlint.api import lint
from cfnlint.config import ManualArgs

type Machine = dict[str, Any]
type State = dict[str, Any]

PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
# What Step Functions offers an expression.
# https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html#transforming-reserved-states-variable
_STATES_FIELDS = frozenset({"input", "result", "errorOutput", "context"})
# Retrying these would repeat what a time-out or a refusal has already answered.
_TOO_BROAD_TO_RETRY = frozenset({"States.ALL", "States.TaskFailed"})
# While CloudFormation updates the functions of a stack, the old ones meet what the new ones wrote.
_DEPLOYMENT_SECONDS = 180
_NEEDS_NO_NEXT = frozenset({"Choice", "Succeed", "Fail"})


def substitute(definition: str) -> Machine:
    """Put a made-up ARN wherever the template substitutes one, and read the definition."""
    arn = r"arn:aws:lambda:us-west-2:111111111111:function:\1"
    machine: Machine = json.loads(PLACEHOLDER.sub(arn, definition))
    return machine


def problems_of(machine: Machine) -> list[str]:
    """Return what is wrong with a definition, one line each; an empty list is a pass."""
    return [
        *_language_problems(machine),
        *(problem for path, part in _machines("", machine) for problem in _structure_problems(path, part)),
        *(problem for path, state in _states(machine) for problem in _state_problems(path, state)),
        *(problem for path, text in _strings("", machine) for problem in _expression_problems(path, text)),
    ]


def cfn_lint_problems(machine: Machine) -> list[str]:
    """Return what cfn-lint's E3601 says of a definition, which it reads inside a template only."""
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {
            "Machine": {
                "Type": "AWS::StepFunctions::StateMachine",
                "Properties": {"RoleArn": "arn:aws:iam::111111111111:role/made-up", "Definition": machine},
            }
        },
    }
    matches = lint(json.dumps(template), config=ManualArgs(regions=["us-east-1"]))
    # The project's own configuration applies here too, and has rules on the resource around the definition.
    return [match.message for match in matches if match.rule.id == "E3601"]


def _machines(path: str, machine: Machine) -> Iterator[tuple[str, Machine]]:
    """Yield the machine and those inside its Map and Parallel states."""
    yield path, machine
    for name, state in machine.get("States", {}).items():
        inner = [state["ItemProcessor"]] if "ItemProcessor" in state else state.get("Branches", [])
        for part in inner:
            yield from _machines(f"{path}{name}/", part)


def _states(machine: Machine) -> Iterator[tuple[str, State]]:
    for path, part in _machines("", machine):
        for name, state in part.get("States", {}).items():
            yield f"{path}{name}", state


def _strings(path: str, value: object) -> Iterator[tuple[str, str]]:
    match value:
        case str():
            yield path, value
        case dict():
            for key, item in value.items():
                yield from _strings(f"{path}/{key}", item)
        case list():
            for number, item in enumerate(value):
                yield from _strings(f"{path}/{number}", item)
        case _:
            pass


def _language_problems(machine: Machine) -> Iterator[str]:
    if machine.get("QueryLanguage") != "JSONata":
        yield "QueryLanguage of the state machine is not JSONata"
    for path, part in [*_machines("", machine), *_states(machine)]:
        if part.get("QueryLanguage", "JSONata") != "JSONata":
            yield f"{path}: QueryLanguage is not JSONata"


def _targets(state: State) -> Iterator[str]:
    for holder in [state, *state.get("Choices", []), *state.get("Catch", [])]:
        if "Next" in holder:
            yield holder["Next"]
    if "Default" in state:
        yield state["Default"]


def _structure_problems(path: str, machine: Machine) -> Iterator[str]:
    """Yield transitions that lead nowhere, states that nothing leads to, states without an end."""
    states: dict[str, State] = machine.get("States", {})
    start = machine.get("StartAt")
    if start not in states:
        yield f"{path}StartAt: there is no state {start}"
    for name, state in states.items():
        for target in _targets(state):
            if target not in states:
                yield f"{path}{name}: there is no state {target}"
        goes_on = [field for field in ("Next", "End") if field in state]
        if state.get("Type") not in _NEEDS_NO_NEXT and len(goes_on) != 1:
            yield f"{path}{name}: needs either Next or End"
        if state.get("Type") == "Choice" and "Default" not in state:
            yield f"{path}{name}: a Choice without Default fails on input that nobody thought of"

    reached: set[str] = set()
    ahead = [start] if start in states else []
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead.extend(target for target in _targets(states[name]) if target in states)
    for name in states.keys() - reached:
        yield f"{path}{name}: nothing leads here"


def _state_problems(path: str, state: State) -> Iterator[str]:
    if state.get("Type") == "Task":
        yield from _task_problems(path, state)
    if state.get("Type") == "Fail":
        for field in ("Error", "Cause"):
            if not state.get(field):
                yield f"{path}: a Fail needs {field}: it is all that the operator sees"


def _task_problems(path: str, task: State) -> Iterator[str]:
    if not task.get("TimeoutSeconds"):
        yield f"{path}: a Task without TimeoutSeconds may wait for a year"

    retriers = task.get("Retry", [])
    if not retriers:
        yield f"{path}: a Task needs a Retry"
    elif max(map(_patience, retriers)) < _DEPLOYMENT_SECONDS:
        yield f"{path}: no Retry on NewerItemError waits {_DEPLOYMENT_SECONDS} s, until a deployment is over"
    for retrier in retriers:
        for error in _TOO_BROAD_TO_RETRY & set(retrier.get("ErrorEquals", [])):
            yield f"{path}: Retry on {error} is too broad; name the errors that pass by themselves"

    caught = {error for catcher in task.get("Catch", []) for error in catcher.get("ErrorEquals", [])}
    if "States.ALL" not in caught:
        yield f"{path}: a Task needs a Catch for States.ALL"


def _patience(retrier: State) -> float:
    """How long a Retry goes on when what a step read was written by newer code, in seconds."""
    if "NewerItemError" not in retrier.get("ErrorEquals", []):
        return 0
    first, rate = retrier.get("IntervalSeconds", 1), retrier.get("BackoffRate", 2)
    longest = retrier.get("MaxDelaySeconds", float("inf"))
    return float(sum(min(first * rate**attempt, longest) for attempt in range(retrier.get("MaxAttempts", 3))))


def _expression_problems(path: str, text: str) -> Iterator[str]:
    if "{%" not in text and "%}" not in text:
        return
    if not (text.startswith("{%") and text.endswith("%}")):
        # Step Functions would take it as plain text.
        yield f"{path}: an expression is the whole string, from {{% to %}}"
        return
    expression = text.removeprefix("{%").removesuffix("%}").strip()
    try:
        jsonata.Jsonata(expression)
    except jsonata.JException as error:
        yield f"{path}: {error}: {expression}"
        return
    for field in re.findall(r"\$states\.(\w+)", expression):
        if field not in _STATES_FIELDS:
            yield f"{path}: there is no $states.{field}"
