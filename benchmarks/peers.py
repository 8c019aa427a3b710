"""Whole processes over 200 keys: Cloud Custodian's kms-key policy, Prowler's KMS checks and KeyVigil's probes.

They do different work, so this says what a look at 200 keys costs, start-up included, and not which is better: the
others list keys and read their settings; only KeyVigil encrypts and decrypts. `make bench-peers` runs it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bench import HERE, KEYS, REGION, endpoint, environment

TOOLS = HERE.parent / ".tools"
POLICY = """policies:
  - name: keys-that-are-not-enabled
    resource: aws.kms-key
    filters:
      - not:
          - KeyState: Enabled
"""
LONGEST_SECONDS = 300


def commands(folder: Path) -> dict[str, list[str]]:
    policy = folder / "policy.yml"
    policy.write_text(POLICY, encoding="utf-8")
    case = [sys.executable, str(HERE / "bench.py"), "--checks", str(KEYS), "--case"]
    custodian = str(TOOLS / "bench-custodian" / "bin" / "custodian")
    prowler = str(TOOLS / "bench-prowler" / "bin" / "prowler")
    output = ["--output-formats", "csv", "--output-directory", str(folder / "prowler")]
    return {
        "naive boto3": [*case, "naive boto3"],
        "KeyVigil, boto3, 20 threads": [*case, "KeyVigil, boto3, 20 threads"],
        "KeyVigil, urllib3, 20 threads": [*case, "KeyVigil, urllib3, 20 threads"],
        "Cloud Custodian, kms-key": [
            custodian,
            "run",
            "--region",
            REGION,
            # Each round asks, and is not answered from what the last one kept.
            "--cache-period",
            "0",
            "-s",
            str(folder / "custodian"),
            str(policy),
        ],
        "Prowler, service kms": [prowler, "aws", "--service", "kms", "--region", REGION, "--no-banner", *output],
    }


def measured(command: list[str], environ: dict[str, str], log: Path) -> tuple[dict[str, float], int]:
    """Seconds, CPU seconds and peak memory of a process with all its children, and how it ended."""
    began = time.monotonic()
    with log.open("wb") as kept:
        process = subprocess.Popen(command, env=environ, stdout=kept, stderr=kept, cwd=log.parent)
        while True:
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            if time.monotonic() - began > LONGEST_SECONDS:
                process.kill()
            time.sleep(0.01)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "seconds": time.monotonic() - began,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
    }, process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only peers with this in their names")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--endpoint-core", type=int, default=1)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    asked = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        endpoint("--latency-ms", "10", "--keys", str(KEYS), core=asked.endpoint_core) as server,
    ):
        folder = Path(name)
        environ = environment(server.url, None) | {"HOME": name}
        os.sched_setaffinity(0, {asked.core})
        for _ in range(asked.rounds):
            for peer, command in commands(folder).items():
                if asked.only not in peer:
                    continue
                before = server.stats(None)["requests"]
                row, code = measured(command, environ, folder / "log")
                row["requests"] = server.stats(None)["requests"] - before
                # Prowler ends with 3 if it found something to complain about.
                if code not in {0, 3} or row["requests"] < KEYS:
                    said = (folder / "log").read_text(encoding="utf-8", errors="replace")[-2000:]
                    print(f"{peer} ended with {code} after {row['requests']:.0f} requests:\n{said}", file=sys.stderr)
                    continue
                rows.setdefault(peer, []).append(row)
    lines = ["| over 200 keys | requests | seconds | CPU seconds | peak MB |", "|---|---|---|---|---|"]
    results: dict[str, Any] = {}
    for peer, runs in rows.items():
        middle = {what: statistics.median(run[what] for run in runs) for what in runs[0]}
        results[peer] = {"median": middle, "rounds": runs}
        lines.append(
            f"| {peer} | {middle['requests']:.0f} | {middle['seconds']:.1f} | {middle['cpu_seconds']:.1f} "
            f"| {middle['peak_mb']:.0f} |"
        )
    text = "\n".join(lines) + "\n"
    asked.results.mkdir(parents=True, exist_ok=True)
    (asked.results / "peers.md").write_text(text, encoding="utf-8")
    (asked.results / "peers.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
