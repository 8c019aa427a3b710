"""Step Functions in memory: what `statemachines/*.asl.json` says is done, state by state, on a clock that a test moves.

Only what the two definitions use: Pass, Task (a function, with or without a task token), Choice, Wait, Map, Succeed and
Fail; JSONata in Arguments, Output, Assign, Items and Condition; Retry and Catch. Anything else is refused, so that a
definition cannot outgrow this unnoticed. Jitter is left out: a retry waits for as long as it may.

https://states-language.net/ and https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html
"""

import itertools
import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, override

import jsonata

from keyvigil.domain.alerts import WorkflowStart
from keyvigil.domain.incidents import WorkflowKind
from keyvigil.ports import ExecutionAtWork, ExecutionState, Workflow
from tests.infra.source_template import ROOT

type State = dict[str, Any]
type Steps = Generator["Pause", Any, Any]

DEFINITIONS = {WorkflowKind.LOCKOUT: "cluster_lockout", WorkflowKind.RECOVERY: "cluster_recovery"}


class StateError(Exception):
    """A state failed, with an error name as Step Functions gives it."""

    def __init__(self, error: str, cause: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.cause = cause


@dataclass(frozen=True)
class Sleep:
    """Time passes."""

    seconds: float


@dataclass(frozen=True)
class ForToken:
    """A Task waits until its token is answered."""

    token: str
    timeout_seconds: float


@dataclass(frozen=True)
class Branches:
    """A Map runs its items, so many at once."""

    items: tuple[Steps, ...]
    at_once: int


type Pause = Sleep | ForToken | Branches
type Invoke = Callable[[str, Mapping[str, Any], str], Any]
"""Invokes a function, by the name in its placeholder, for an execution; raises StateError."""


@cache
def definition(kind: WorkflowKind) -> State:
    """A machine as it is deployed, its placeholders left as they are."""
    machine: State = json.loads((Path(ROOT) / "statemachines" / f"{DEFINITIONS[kind]}.asl.json").read_text())
    return machine


@cache
def _compiled(expression: str) -> jsonata.Jsonata:
    return jsonata.Jsonata(expression)


def _evaluated(template: Any, variables: Mapping[str, Any]) -> Any:
    """A field with every `{% … %}` in it evaluated.

    Raises:
        StateError: an expression has no value, which Step Functions does not take either.
    """
    if isinstance(template, dict):
        return {name: _evaluated(value, variables) for name, value in template.items()}
    if not isinstance(template, str) or not template.startswith("{%"):
        return template
    expression = _compiled(template[2:-2].strip())
    for name, value in variables.items():
        expression.assign(name, value)
    found = expression.evaluate(None)
    if found is None:
        raise StateError("States.QueryEvaluationError", template)
    return found


class Interpreter:
    """Runs one execution of a machine."""

    def __init__(self, invoke: Invoke, name: str, given: Mapping[str, Any], tokens: "itertools.count[int]") -> None:
        self._invoke = invoke
        self._name = name
        self._execution = {"Input": given, "Name": name}
        self._tokens = tokens

    def run(self, machine: State, given: Any, variables: dict[str, Any]) -> Steps:
        """Run a machine, or a Map's processor, to its end; return its output.

        Raises:
            StateError: it failed.
        """
        name: str = machine["StartAt"]
        while True:
            state = machine["States"][name]
            following, given = yield from self._state(state, given, variables)
            if following is None:
                return given
            name = following

    def _variables(self, variables: Mapping[str, Any], states: Mapping[str, Any]) -> dict[str, Any]:
        return {**variables, "states": {"context": {"Execution": self._execution}, **states}}

    def _state(
        self, state: State, given: Any, variables: dict[str, Any]
    ) -> Generator[Pause, Any, tuple[str | None, Any]]:
        seen = self._variables(variables, {"input": given})
        match state["Type"]:
            case "Pass":
                output = _evaluated(state.get("Output", given), seen)
                variables.update(_evaluated(state.get("Assign", {}), seen))
                return state.get("Next"), output
            case "Choice":
                for choice in state["Choices"]:
                    if _holds(choice["Condition"], seen):
                        return choice["Next"], given
                return state["Default"], given
            case "Wait":
                yield Sleep(state["Seconds"])
                return state["Next"], given
            case "Succeed":
                return None, given
            case "Fail":
                raise StateError(state["Error"], state["Cause"])
            case "Task" | "Map":
                return (yield from self._tried(state, given, variables))
            case kind:
                message = f"no state of type {kind} is known here"
                raise AssertionError(message)

    def _tried(
        self, state: State, given: Any, variables: dict[str, Any]
    ) -> Generator[Pause, Any, tuple[str | None, Any]]:
        """A Task or Map with its Retry and Catch."""
        tried = [0] * len(state.get("Retry", []))
        while True:
            try:
                work = self._task if state["Type"] == "Task" else self._map
                result = yield from work(state, given, variables)
                seen = self._variables(variables, {"input": given, "result": result})
                output = _evaluated(state["Output"], seen) if "Output" in state else result
                variables.update(_evaluated(state.get("Assign", {}), seen))
            except StateError as error:
                number = next((i for i, each in enumerate(state.get("Retry", [])) if _names(each, error)), None)
                if number is not None and tried[number] < state["Retry"][number]["MaxAttempts"]:
                    yield Sleep(_interval(state["Retry"][number], tried[number]))
                    tried[number] += 1
                    continue
                catcher = next((each for each in state.get("Catch", []) if _names(each, error)), None)
                if catcher is None:
                    raise
                told = {"Error": error.error, "Cause": error.cause}
                seen = self._variables(variables, {"input": given, "errorOutput": told})
                variables.update(_evaluated(catcher.get("Assign", {}), seen))
                return catcher["Next"], told
            return state.get("Next"), output

    def _task(self, state: State, given: Any, variables: Mapping[str, Any]) -> Steps:
        """One attempt; each has a token of its own."""
        token = f"token-{next(self._tokens)}"
        context = {"Execution": self._execution, "Task": {"Token": token}}
        seen = {**variables, "states": {"input": given, "context": context}}
        arguments = _evaluated(state["Arguments"], seen)
        answer = self._invoke(arguments["FunctionName"], arguments["Payload"], self._name)
        yield Sleep(0.2)
        match state["Resource"]:
            case "arn:aws:states:::lambda:invoke":
                return {"Payload": answer}
            case "arn:aws:states:::lambda:invoke.waitForTaskToken":
                return (yield ForToken(token, state["TimeoutSeconds"]))
            case resource:
                message = f"{resource} is not known here"
                raise AssertionError(message)

    def _map(self, state: State, given: Any, variables: Mapping[str, Any]) -> Steps:
        items = _evaluated(state["Items"], self._variables(variables, {"input": given}))
        runs = tuple(self.run(state["ItemProcessor"], item, dict(variables)) for item in items)
        return (yield Branches(runs, state["MaxConcurrency"]))


def _holds(condition: str, seen: Mapping[str, Any]) -> bool:
    try:
        return _evaluated(condition, seen) is True
    except StateError:
        return False  # `=` with a field that is not there


def _names(clause: State, error: StateError) -> bool:
    return bool({error.error, "States.ALL"} & set(clause["ErrorEquals"]))


def _interval(retry: State, tried: int) -> float:
    seconds: float = retry["IntervalSeconds"] * retry.get("BackoffRate", 2.0) ** tried
    return min(seconds, float(retry.get("MaxDelaySeconds", seconds)))


class StateMachines(Workflow):
    """Runs executions on a clock: `after` is given what is to happen later."""

    def __init__(self, after: Callable[[float, Callable[[], None]], None], invoke: Invoke) -> None:
        self._after = after
        self._invoke = invoke
        self._tokens = itertools.count()
        self._waiting: dict[str, Callable[[Mapping[str, Any] | StateError], None]] = {}
        self._answered: dict[str, Mapping[str, Any]] = {}
        self.running: dict[str, WorkflowStart] = {}
        self.ended: dict[str, str] = {}

    def kill(self, name: str) -> None:
        """End an execution where it stands, as somebody does who stops it in the console."""
        if self.running.pop(name, None) is not None:
            self.ended[name] = "ABORTED"

    @override
    def start(self, start: WorkflowStart) -> None:
        if start.name in self.running or start.name in self.ended:
            return
        self.running[start.name] = start
        given = {"project_id": start.project_id, "key_id": start.key_id, "incident_id": start.incident_id}
        run = Interpreter(self._invoke, start.name, given, self._tokens).run(definition(start.workflow), given, {})

        def end(result: Any) -> None:
            self.running.pop(start.name, None)
            self.ended[start.name] = result.error if isinstance(result, StateError) else "SUCCEEDED"

        self._after(0.1, lambda: self._go_on(start.name, run, None, end))

    @override
    def state(self, name: str) -> ExecutionState:
        if name in self.running:
            return ExecutionState.RUNNING
        return ExecutionState.ENDED if name in self.ended else ExecutionState.NOT_STARTED

    @override
    def at_work(self) -> list[ExecutionAtWork]:
        return [ExecutionAtWork(name) for name in self.running]

    @override
    def project_of(self, name: str) -> str | None:
        start = self.running.get(name)
        return start.project_id if start is not None else None

    @override
    def stop(self, name: str, reason: str) -> None:
        self.kill(name)

    @override
    def execution_arn(self, name: str) -> str:
        return name

    @override
    def complete(self, task_token: str, result: str, detail: str | None) -> None:
        answer = self._answered.setdefault(task_token, {"result": result, "detail": detail})
        wake = self._waiting.pop(task_token, None)
        if wake is not None:
            self._after(0.1, lambda: wake(answer))

    def _go_on(self, name: str, run: Steps, answer: Any, end: Callable[[Any], None]) -> None:
        if name not in self.running:
            return
        try:
            pause = run.throw(answer) if isinstance(answer, StateError) else run.send(answer)
        except StopIteration as stop:
            end(stop.value)
            return
        except StateError as error:
            end(error)
            return
        match pause:
            case Sleep(seconds):
                self._after(seconds, lambda: self._go_on(name, run, None, end))
            case ForToken(token, timeout_seconds):
                self._wait(token, timeout_seconds, lambda found: self._go_on(name, run, found, end))
            case Branches(items, at_once):
                self._branch(name, items, at_once, lambda found: self._go_on(name, run, found, end))

    def _wait(self, token: str, timeout_seconds: float, wake: Callable[[Mapping[str, Any] | StateError], None]) -> None:
        if token in self._answered:
            self._after(0.1, lambda: wake(self._answered[token]))
            return

        def time_out() -> None:
            if self._waiting.pop(token, None) is not None:
                wake(StateError("States.Timeout"))

        self._waiting[token] = wake
        self._after(timeout_seconds, time_out)

    def _branch(self, name: str, items: tuple[Steps, ...], at_once: int, joined: Callable[[Any], None]) -> None:
        waiting, results = list(enumerate(items)), dict[int, Any]()

        def begin() -> None:
            if waiting:
                number, run = waiting.pop(0)
                self._go_on(name, run, None, lambda result: end(number, result))

        def end(number: int, result: Any) -> None:
            results[number] = result
            begin()
            if len(results) == len(items):
                failed = [each for each in results.values() if isinstance(each, StateError)]
                joined(failed[0] if failed else [results[each] for each in sorted(results)])

        if not items:
            self._after(0.1, lambda: joined([]))
        for _ in range(at_once):
            begin()
