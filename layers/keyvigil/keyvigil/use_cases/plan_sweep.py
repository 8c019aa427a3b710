"""The minute's sweep: send the canaries and the keys that are due to the check queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import batched

from keyvigil.domain.canaries import CANARY_PROJECT, STACKS_OWN
from keyvigil.domain.lanes import Waiting, divide
from keyvigil.domain.quotas import asked, deal
from keyvigil.errors import DeliveryError
from keyvigil.ports import CheckMessage, CheckQueue, Clock, DueKey, Store, SweepRecord

KEYS_A_SWEEP = 30_000
"""How many keys one sweep sends if the stack says nothing else; docs/decisions/0031 has what each takes of a CPU. What
is due beyond that stays due, and the next sweep begins with what has been due the longest."""

SLOW_PART = 4
"""So large a part of as many keys again goes, at most, into the queue of those whose probes may hang."""

READ_A_SWEEP = 4
"""So many times as many due keys are read: those that a quota holds back must not hide the others."""

KEYS_A_MESSAGE = 10
"""How many keys one message names at most. `check_keys` takes two messages at once, and has a thread for each key."""

QUOTA_SHARE_PERCENT = 5
"""What probes take of each of a customer's quotas if the stack says nothing else: 100 DescribeKey a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """What a sweep did. `claimed` is False if another sweep has this minute.

    `trouble` says why no key at all could be sent, None if some could or none was due.
    """

    claimed: bool
    keys_due: int
    keys_sent: int
    trouble: str | None = None


def packed(keys: Sequence[DueKey]) -> list[CheckMessage]:
    """Messages about these keys, several in one: each of one Region, so that one that hangs holds up its own only."""
    by_region: dict[str, list[DueKey]] = {}
    for each in keys:
        by_region.setdefault(each.region, []).append(each)
    return [
        CheckMessage.of_due(*some)
        for there in by_region.values()
        for some in batched(there, KEYS_A_MESSAGE, strict=False)
    ]


class PlanSweep:
    """Plans one sweep. Nothing is claimed but the minute: a key stays due until a probe's result is written."""

    def __init__(
        self,
        store: Store,
        queue: CheckQueue,
        slow_queue: CheckQueue,
        clock: Clock,
        *,
        keys_a_sweep: int = KEYS_A_SWEEP,
        quota_share_percent: int = QUOTA_SHARE_PERCENT,
    ) -> None:
        """Keep the ports, how many keys one sweep sends at most, and how much of a quota probes take.

        `slow_queue` is for keys whose probes may hang.
        """
        self._share = quota_share_percent
        self._keys_a_sweep = keys_a_sweep
        self._slow_keys = max(1, keys_a_sweep // SLOW_PART)
        self._store = store
        self._queue = queue
        self._slow_queue = slow_queue
        self._clock = clock

    def __call__(self) -> SweepResult:
        """Sweep this UTC minute, unless somebody did."""
        now = self._clock.now()
        minute = now.replace(second=0, microsecond=0)
        if not self._store.claim_sweep(minute):
            return SweepResult(claimed=False, keys_due=0, keys_sent=0)
        canaries = {STACKS_OWN, *(each.canary_id for each in self._store.canaries())}
        due = self._store.due_keys(now, READ_A_SWEEP * self._keys_a_sweep)
        # A key of which the account is not known yet draws on its project's: better too many buckets than a wrong one.
        accounts = [each.account_id or each.project_id for each in due]
        waiting = [Waiting(account, each.region, each.unknown) for account, each in zip(accounts, due, strict=True)]
        lanes = divide(waiting, slow=self._slow_keys)
        slow = frozenset(lanes.slow)
        places = sorted([*lanes.fast, *lanes.slow])
        wanted = [
            asked(accounts[place], due[place].region, due[place].probe, now - due[place].due_at) for place in places
        ]
        dealt = deal(wanted, self._share, most=self._keys_a_sweep + len(lanes.slow))
        sent, trouble = 0, None
        try:
            # First, so that a fault of our own is known to most of the keys' probes.
            self._queue.send([CheckMessage(CANARY_PROJECT, each, now, canary=True) for each in sorted(canaries)])
            for queue, is_slow in ((self._queue, False), (self._slow_queue, True)):
                for second, numbers in dealt.at.items():
                    keys = [due[places[each]] for each in numbers if (places[each] in slow) is is_slow]
                    if keys:
                        sent += queue.send(packed(keys), delay_seconds=second)
        except DeliveryError as error:  # what is broken elsewhere must be mended all the same
            trouble = str(error) if sent == 0 else None
        self._store.record_sweep(SweepRecord(at=minute, keys_due=len(due), keys_sent=sent))
        return SweepResult(claimed=True, keys_due=len(due), keys_sent=sent, trouble=trouble)
