"""docs/cost.md says what the simulation counts."""

import json

import pytest

from benchmarks.cost import CADENCES, PAGE, RESULTS, lean_requests, page
from benchmarks.simulation.hour import simulate
from benchmarks.simulation.run import SCENARIOS
from keyvigil.domain.keys import KeyUse
from tests.unit.test_probe_plans import kms_requests_a_day


def test_the_bill_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "make cost"


def test_the_bills_counts_are_those_of_the_code() -> None:
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["1,000 keys"]
    now = simulate(SCENARIOS["1,000 keys"])
    for count in ("checks", "kms_requests", "check_invocations", "messages"):
        assert getattr(now, count) == pytest.approx(kept[count], rel=0.03), f"{count}: make simulate, make cost"


def test_the_bill_s_lean_requests_are_those_that_the_plan_makes() -> None:
    full, lean = (kms_requests_a_day(plan, KeyUse.CMEK, 10) for plan in ("full", "lean"))
    assert lean_requests(full, 10, looks=1) == pytest.approx(lean, rel=0.02)
    assert lean_requests(20_000, 10) / 20_000 <= 0.45
    assert all(lean_requests(1, cadence) <= 1 for cadence in CADENCES)
