"""Fair weather (fair_weather.py), in which executions do what `statemachines/*.asl.json` says (state_machines.py)."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, override

from keyvigil.domain.alerts import WorkflowStart
from keyvigil.domain.clusters import LockAction, LockVia
from keyvigil.domain.keys import Trigger
from keyvigil.use_cases.lock_clusters import LockoutPlan
from keyvigil.use_cases.settle_lockout import Settlement
from keyvigil.use_cases.unlock_clusters import RecoveryPlan
from tests.unit import protocol_simulation, state_machines
from tests.unit.fair_weather import FairWeather
from tests.unit.protocol_simulation import Answered, Parallel
from tests.unit.state_machines import Branches, ForToken, Interpreter, Sleep, StateError, definition


class AsDeployed(FairWeather):
    """Each function is its use case, with the answer that its handler gives."""

    def __init__(self, *ways: LockVia) -> None:
        self._machines_tokens = itertools.count()
        super().__init__(*ways)

    @override
    def _steps_of(self, start: WorkflowStart) -> protocol_simulation.Steps:
        given = {"project_id": start.project_id, "key_id": start.key_id, "incident_id": start.incident_id}
        run = Interpreter(self._call, start.name, given, self._machines_tokens)
        return self._follow(run.run(definition(start.workflow), given, {}), [])

    def _follow(self, run: state_machines.Steps, results: list[Any]) -> protocol_simulation.Steps:
        """An execution, or a branch of a Map; what comes out of it is added to `results`."""
        answer: Any = None
        while True:
            try:
                pause = run.send(answer)
            except StopIteration as stop:
                results.append(stop.value)
                return
            except StateError:
                return
            answer = None
            match pause:
                case Sleep(seconds):
                    yield seconds
                case ForToken(token, timeout_seconds):
                    yield Answered(token, timeout_seconds)
                    answer = {"result": "answered"}
                case Branches(items, at_once):
                    answer = []
                    yield Parallel([self._follow(each, answer) for each in items], at_once)

    def _call(self, function: str, payload: Mapping[str, Any], _execution: str) -> Any:
        ids: Sequence[str] = [payload.get(name, "") for name in ("project_id", "key_id", "incident_id")]
        match function.removeprefix("${").removesuffix("FunctionArn}"):
            case "CheckKeys":
                found = self.check(ids[0], ids[1], Trigger(payload["trigger"]))
                return {
                    "error": None,
                    "status": found.key.health.status,
                    "confirmed": found.confirmed,
                    "incident_id": found.key.open_incident_id,
                }
            case "DecideLockout":
                return _plan(self.decide_lockout(*ids))
            case "DecideRecovery":
                return _plan(self.decide_recovery(*ids))
            case "SettleLockout":
                return _settlement(self.settle_lockout(*ids))
            case "SettleRecovery":
                return _settlement(self.settle_recovery(*ids))
            case "LockCluster" | "UnlockCluster" as name:
                action = LockAction.LOCK if name == "LockCluster" else LockAction.UNLOCK
                self.request(action, ids[0], payload["cluster_id"], ids[2], payload["task_token"])
                return {}
            case name:
                message = f"no function {name} is known here"
                raise AssertionError(message)


def _plan(plan: LockoutPlan | RecoveryPlan) -> dict[str, Any]:
    return {"verb": plan.decision.verb, "reason": plan.decision.reason, "cluster_ids": list(plan.cluster_ids)}


def _settlement(settlement: Settlement) -> dict[str, Any]:
    return {"status": settlement.status, "failed": list(settlement.failed)}
