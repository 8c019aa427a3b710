"""`make simulate`: every scenario in a process of its own, the results into results.json and results.md beside this.

`python -m benchmarks.simulation.run NAME…` runs some of them again and leaves the others' results as they are.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.simulation.hour import Scenario, Stack, simulate

HERE = Path(__file__).parent
RESULTS, TABLE = HERE / "results.json", HERE / "results.md"

LARGE = Stack(keys_a_sweep=120_000, planner_cpu=1, concurrency=50, slow_concurrency=20)
"""`CheckConcurrency: 50`: what template.yaml's mapping `Capacity` says of it."""

OUT = ("us-west-2", 25.0, 35.0)
CADENCES = (1, 5, 10, 60)


def cadence(plan: str, minutes: int) -> str:
    """The scenario of a thousand keys with this plan and interval."""
    if (plan, minutes) == ("full", 10):
        return "1,000 keys"
    return f"1,000 keys, {'lean, ' if plan == 'lean' else ''}every {minutes} min"


SCENARIOS = {
    "1,000,000 keys": Scenario(keys=1_000_000, stack=LARGE),
    "1,000,000 keys, a Region out": Scenario(keys=1_000_000, minutes=40, stack=LARGE, outage=("us-west-2", 12.0, 22.0)),
    "100,000 keys": Scenario(keys=100_000),
    "100,000 keys, a Region out": Scenario(keys=100_000, outage=OUT),
    "1,000 keys": Scenario(keys=1000),
    "1,000 keys, a Region out": Scenario(keys=1000, outage=OUT),
    **{
        cadence(plan, minutes): Scenario(keys=1000, interval_minutes=minutes, plan=plan)
        for plan in ("full", "lean")
        for minutes in CADENCES
    },
}

ROWS: dict[str, str] = {
    "checks": "checks",
    "kms_requests": "KMS requests",
    "check_invocations": "invocations of check_keys",
    "relay_invocations": "invocations of relay_outbox",
    "messages": "messages sent to the check queue",
    "oldest_message": "oldest message of the check queue, seconds",
    "oldest_slow_message": "and of the queue for what may hang",
    "messages_expired": "messages that expired",
    "longest_planning": "longest planning and sending, seconds",
    "longest_sweep": "longest sweep with what it mends and counts, seconds",
    "most_not_sent": "keys due and not sent by a sweep, at most",
    "not_sent": "and by the last one",
    "stale_keys": "stale keys",
    "broken": "keys broken",
    "found": "found within the time",
    "mended_unseen": "mended before a probe saw it",
    "overlooked": "overlooked",
    "detection_median": "time to detection, median, seconds",
    "detection_worst": "time to detection, worst, seconds",
    "false_incidents": "false incidents",
    "notifications": "notifications",
    "executions": "executions",
    "most_index_writes_a_second": "writes a second to the busiest list of the index",
    "most_project_writes": "writes to the busiest project's partition",
    "cpu_seconds": "the simulation's CPU, seconds",
    "peak_megabytes": "its memory, MB",
}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown; a run of less than an hour says so."""
    names = [name for name in reversed(SCENARIOS) if name in results and "every" not in name]
    cadences = [name for name in SCENARIOS if name in results and name not in names]
    return _table(results, names) + "\n" + _table(results, cadences)


def _table(results: dict[str, Any], names: list[str]) -> str:
    lines = ["| |" + "".join(f" {name} |" for name in names), "|---|" + "---:|" * len(names)]
    lines.append("| simulated minutes |" + "".join(f" {results[name]['minutes']} |" for name in names))
    for row, words in ROWS.items():
        cells = [results[name][row] for name in names]
        shown = [f"{each:,.1f}" if isinstance(each, float) else f"{each:,}" for each in cells]
        lines.append(f"| {words} |" + "".join(f" {each} |" for each in shown))
    return "\n".join(lines) + "\n"


def main() -> None:
    match sys.argv[1:]:
        case ["--one", name]:
            json.dump(asdict(simulate(replace(SCENARIOS[name]))), sys.stdout)
            return
        case names:
            pass
    with ThreadPoolExecutor(max_workers=os.process_cpu_count()) as threads:
        for name, hour in zip(names or SCENARIOS, threads.map(_alone, names or SCENARIOS), strict=True):
            # Of earlier runs what is comparable is kept: a scenario of today with all that is counted today.
            kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            results = {each: kept[each] for each in SCENARIOS if each in kept and kept[each].keys() == hour.keys()}
            results[name] = hour
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
            TABLE.write_text(table(results))
            print(f"{name}: {hour['cpu_seconds']:.0f} s of CPU", flush=True)


def _alone(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.simulation.run", "--one", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  this program again
    hour: dict[str, Any] = json.loads(done.stdout)
    return hour


if __name__ == "__main__":
    main()
