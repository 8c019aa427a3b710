"""docs/cost.md says what the simulation counts."""

import json

import pytest

from benchmarks.cost import PAGE, RESULTS, page
from benchmarks.simulation.hour import simulate
from benchmarks.simulation.run import CADENCES, SCENARIOS, cadence


def test_the_bill_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "make cost"


def test_the_bills_counts_are_those_of_the_code() -> None:
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["1,000 keys"]
    now = simulate(SCENARIOS["1,000 keys"])
    for count in ("checks", "kms_requests", "check_invocations", "messages"):
        assert getattr(now, count) == pytest.approx(kept[count], rel=0.03), f"{count}: make simulate, make cost"


def test_the_lean_plan_takes_045_of_the_calls_at_the_usual_cadence() -> None:
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    shares = [
        kept[cadence("lean", minutes)]["kms_requests"] / kept[cadence("full", minutes)]["kms_requests"]
        for minutes in CADENCES
    ]
    assert shares[CADENCES.index(10)] <= 0.45
    assert all(share <= 1 for share in shares)
