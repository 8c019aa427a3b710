"""The protocol keeps its promises in every weather (protocol_simulation.py). A failure names its weather and seed:

    .venv/bin/pytest tests/unit/test_protocol.py -k 'grace and 7'

It can fail. Each of these, done to a copy of the sources, made it red (of 234 games, 26 in each weather; 2026-11-22):

| what was broken | red games | the promise that was broken |
|---|---|---|
| one failing probe confirms an outage | 185 | nothing is locked without a confirmed outage |
| a lock is asked for whatever the project wants by then | 2 | nothing is locked in a project that only observes |
| reconciling never starts a lockout | 7 | no cluster is in use under a confirmed outage |
| reconciling never starts a recovery | 45 | every alert that fires is resolved |
| reconciling sends nothing again | 182 | nothing stays unsent |
| the relay marks rows as sent that some target did not take | 98 | nothing stays unsent |
| a request keeps the fence of the one before | 147 | every request has its own fence |
| a lockout gives up locks whose control plane has time left | 40 | a lock is given up only when its time is over |
| a lockout settles while locks are under way | 40 | the same |
| a recovery does not wait for locks under way | 56 | the same |
| settling leaves locks that could not be asked for as they are | 10 | no cluster is in use under a confirmed outage |
| a cluster registered in an outage is ACTIVE | 8 | the same |
| clusters that waited for their key are never let in | 91 | no cluster stays locked or waiting |
| an unlock that failed resolves the incident | 13 | the same |
| a deletion is not counted | 205 | a key counts its clusters right |
| the loser of a race overwrites the winner | 27 | the same, and alerts |
| grace is over at once | 20 | nothing is locked before the project's grace is over |
| approval is not asked for | 23 | nothing is locked without the approval that the project wants |
| the end of an incident is not told | 128 | every alert that fires is resolved |

And with receivers that are called (of 225 games, 25 in each weather):

| what was broken | red games | the promise that was broken |
|---|---|---|
| a receiver's failure counts as success | 13 | a receiver has locked what shows LOCKED |
| a request that was only accepted counts as done | 10 | the same |
| a request to a receiver goes on the bus, where nobody listens | 18 | the same |
| an unlock is made as a lock | 119 | the same |

And these of canaries (of 250 games, 25 in each weather; 2026-11-22):

| what was broken | red games | the promise that was broken |
|---|---|---|
| a denial is believed whatever the canaries say | 22 | what goes wrong at KeyVigil itself opens no incident |
| a canary's probe from before the denial is proof enough | 8 | the same |
| a canary that was not HEALTHY a moment ago is proof enough | 14 | the same |
| one HEALTHY probe ends a canary's doubt | 13 | the same |
| that a key is no longer UNKNOWN is not told | 3 | every alert that fires is resolved |

What it does not notice, because something else makes up for it: a denial that does not probe the canary (it is
UNKNOWN until a sweep has); an answer that does not wake the waiting step, and
silence that is not failed by the sweep (the workflow's own time-out ends both); a fence that is not kept in a
tombstone (the table refuses the lower one, and milliseconds are above it); a request to a receiver that the relay
lost, or that nobody asks after (silence is failed, and the lock asked for again); reconciling that does not ask
whether an execution is at work (everything it does is idempotent).
"""

import pytest

from tests.unit.protocol_simulation import WEATHERS, Simulation

SEEDS = 25


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("weather", WEATHERS)
def test_every_promise_is_kept(weather: str, seed: int) -> None:
    assert Simulation(WEATHERS[weather], seed).run() == []
