"""`make simulate`: every scenario in a process of its own, the results into results.json and results.md beside this.

`python -m benchmarks.simulation.run NAME…` runs some of them again and leaves the others' results as they are.
"""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.simulation.hour import Scenario, Stack, simulate

HERE = Path(__file__).parent
RESULTS, TABLE = HERE / "results.json", HERE / "results.md"

FITTED = Stack(keys_a_sweep=150_000, senders=64, concurrency=100)
"""What a million keys would need of the template and the planner; 64 batches under way at a time, as no planner of
ours sends them."""

OUT = ("us-west-2", 25.0, 35.0)

SCENARIOS = {
    "1,000 keys": Scenario(keys=1000),
    "100,000 keys": Scenario(keys=100_000),
    "1,000,000 keys": Scenario(keys=1_000_000),
    "1,000,000 keys, fitted": Scenario(keys=1_000_000, minutes=22, stack=FITTED),
    "1,000 keys, a Region out": Scenario(keys=1000, outage=OUT),
    "100,000 keys, a Region out": Scenario(keys=100_000, outage=OUT),
    **{f"1,000 keys, every {minutes} min": Scenario(keys=1000, interval_minutes=minutes) for minutes in (1, 5, 60)},
}

ROWS: dict[str, str] = {
    "checks": "checks",
    "kms_requests": "KMS requests",
    "check_invocations": "invocations of check_keys",
    "relay_invocations": "invocations of relay_outbox",
    "messages": "messages sent to the check queue",
    "oldest_message": "oldest message, seconds",
    "messages_expired": "messages that expired",
    "longest_sweep": "longest sweep, seconds",
    "not_sent": "keys due and not sent by the last sweep",
    "stale_keys": "stale keys",
    "broken": "keys broken",
    "found": "found within the time",
    "detection_median": "time to detection, median, seconds",
    "detection_worst": "time to detection, worst, seconds",
    "false_incidents": "false incidents",
    "notifications": "notifications",
    "executions": "executions",
    "most_index_writes_a_second": "writes a second to the busiest list of the index",
    "most_project_writes": "writes to the busiest project's partition",
    "wall_seconds": "wall time of the simulation, seconds",
    "peak_megabytes": "its memory, MB",
}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown; a run of less than an hour says so."""
    names = [name for name in SCENARIOS if name in results]
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
    for name in names or SCENARIOS:
        command = [sys.executable, "-m", "benchmarks.simulation.run", "--one", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  this program again
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[name] = json.loads(done.stdout)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        TABLE.write_text(table(results))
        print(f"{name}: {results[name]['wall_seconds']:.0f} s")


if __name__ == "__main__":
    main()
