"""The protocol keeps its promises in every weather (protocol_simulation.py). A failure names its weather and seed:

.venv/bin/pytest tests/unit/test_protocol.py -k 'grace and 7'
"""

import pytest

from tests.unit.protocol_simulation import WEATHERS, Simulation

# The last is the game in which a key that seemed to recover in mid-lockout left clusters in use for good.
SEEDS = (*range(25), 115)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("weather", WEATHERS)
def test_every_promise_is_kept(weather: str, seed: int) -> None:
    assert Simulation(WEATHERS[weather], seed).run() == []
