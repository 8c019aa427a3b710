"""docs/cost.md: what KeyVigil costs a month, from the simulation's counts and prices.toml; a part of `make cost`.

`python -m benchmarks.cost` writes it. What watching itself costs is README's table and is taken over as its sum.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.simulation.run import CADENCES, cadence

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "cost.md"
RESULTS = ROOT / "benchmarks" / "simulation" / "results.json"

HOURS = 730
KEYS = 1000

# What the simulation does not count, and an item's sizes as the tests' examples have them.
KEY_WRITE_UNITS = 5
"""A key's item of up to 3 KB, and its entry in the index taken out and put in."""
OTHER_WRITE_UNITS = 3
ENTRY_READ_UNITS = 200 / 4096 / 2
TRANSITIONS = 25
LOG_BYTES_A_CHECK = 700
SWEEP_GB_SECONDS = 0.5 * 5
CANARY_REQUESTS = 3 * 60 * HOURS


def price(name: str, count: float, prices: dict[str, Any]) -> float:
    return count * float(prices[name]["price"]) / float(prices[name]["per"])


def operator(hour: dict[str, Any], prices: dict[str, Any], watching: float) -> dict[str, float]:
    """The operator's lines in dollars a month."""
    reads = hour["reads"]
    units = reads["Key"] + reads["Project"] + reads["entries of the index"] * ENTRY_READ_UNITS
    written = 0.0
    for what, count in hour["writes"].items():
        one = KEY_WRITE_UNITS if what.startswith("Key") else OTHER_WRITE_UNITS
        written += count * one * (2 if what.endswith("in a transaction") else 1)
    seconds = hour["check_seconds"] + 0.5 * hour["relay_seconds"] + SWEEP_GB_SECONDS * hour["sweeps"]
    invocations = hour["check_invocations"] + hour["relay_invocations"] + hour["sweeps"]
    return {
        "Lambda, requests": price("lambda_request", invocations * HOURS, prices),
        "Lambda, GB-seconds": price("lambda_gb_second", seconds * HOURS, prices),
        "DynamoDB, reads": price("table_read", units * HOURS, prices),
        "DynamoDB, writes": price("table_write", written * HOURS, prices),
        "SQS": price("queue_request", hour["queue_requests"] * HOURS, prices),
        "SNS and EventBridge": price("notification", hour["notifications"] * HOURS, prices),
        "Step Functions": price("transition", hour["executions"] * TRANSITIONS * HOURS, prices),
        "logs": price("log_gigabyte", hour["checks"] * LOG_BYTES_A_CHECK / 1e9 * HOURS, prices),
        "the canary: its key and its probes": float(prices["kms_key_month"]["price"])
        + price("kms_request", CANARY_REQUESTS, prices),
        "watching itself (README)": watching,
    }


def customers(requests: float, prices: dict[str, Any]) -> dict[str, float]:
    """The customers' lines in dollars a month."""
    month = requests * HOURS
    return {
        "KMS requests": price("kms_request", month, prices),
        "a second copy of CloudTrail's management events": price("cloudtrail_event", month, prices),
        "GuardDuty, which reads CloudTrail's events": price("guardduty_event", month, prices),
    }


def _table(rows: dict[str, list[float]], heads: list[str]) -> list[str]:
    lines = ["| |" + "".join(f" {head} |" for head in heads), "|---|" + "---:|" * len(heads)]
    lines += [f"| {name} |" + "".join(f" ${each:,.2f} |" for each in values) for name, values in rows.items()]
    sums = [sum(values) for values in zip(*rows.values(), strict=True)]
    return [*lines, "| together |" + "".join(f" ${each:,.2f} |" for each in sums)]


def page() -> str:
    """The page as it should stand."""
    table = tomllib.loads((ROOT / "benchmarks" / "prices.toml").read_text(encoding="utf-8"))
    prices, results = table["prices"], json.loads(RESULTS.read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    together = re.search(r"<!-- make cost -->.*?\| together \|.*?\$([0-9.]+)", readme, re.DOTALL)
    assert together is not None  # noqa: S101  `make cost` writes it
    watching = float(together[1])
    heads = [f"every {minutes} min" for minutes in CADENCES]
    hours = {plan: [results[cadence(plan, each)] for each in CADENCES] for plan in ("full", "lean")}
    ours = {plan: [operator(hour, prices, watching) for hour in hours[plan]] for plan in hours}
    theirs = {plan: [customers(hour["kms_requests"], prices) for hour in hours[plan]] for plan in hours}
    lines = [
        "# The bill",
        "",
        f"US dollars a month for {KEYS:,} keys, one of which breaks each hour, at AWS's list prices of us-east-1 as of",
        f"{table['checked']} (benchmarks/prices.toml names each with its page), without free tiers. `make cost` writes",
        "this page from the counts of `make simulate`. Not counted: the API's calls, storage, data transfer, the",
        "operator's own CloudTrail, AssumeRole's events, a quiet queue's empty receives.",
        "",
        "## What the operator pays: plan `full`",
        "",
        *_table({name: [each[name] for each in ours["full"]] for name in ours["full"][0]}, heads),
        "",
        "## What the operator pays: plan `lean`",
        "",
        *_table({name: [each[name] for each in ours["lean"]] for name in ours["lean"][0]}, heads),
        "",
        "The canary and the watching cost the same at a million keys; all else grows with the number of keys, and a",
        "sweep's memory with `CheckConcurrency`.",
        "",
        "## What the customers pay, together: plan `full`",
        "",
        *_table({name: [each[name] for each in theirs["full"]] for name in theirs["full"][0]}, heads),
        "",
        "## What the customers pay, together: plan `lean`",
        "",
        *_table({name: [each[name] for each in theirs["lean"]] for name in theirs["lean"][0]}, heads),
        "",
        "Of the three lines every customer pays the first. The second is paid by who has a second trail that takes",
        "management events and does not leave KMS's out, the third by who has GuardDuty turned on.",
        "",
        "## A probe counts as use",
        "",
        "KMS keeps when a key was last used for a cryptographic operation",
        "([GetKeyLastUsage](https://docs.aws.amazon.com/kms/latest/APIReference/API_GetKeyLastUsage.html)).",
        "Encrypt and Decrypt of a probe are such operations: under either plan a key that is under watch never looks",
        "unused. Whoever deletes keys that were not used for long must look at the caller or the encryption context",
        "in CloudTrail, which name KeyVigil.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
