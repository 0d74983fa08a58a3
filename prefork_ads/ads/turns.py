"""Whose turn it is: of which leases PostgreSQL is asked next, so that thousands cost little.

In this order, and MOST in one call, so that neither making one nor reading its answer holds the loop up:

    first     who has never been asked about, or whose day or goal is another: whatever it costs, at once
    dry       used up just now
    waiting   used before, and something may be left to grant again
    used      served from since the last time
    idle      all others, now and then

Together all but the first are BUSY_A_SECOND, and of these the idle are IDLE_A_SECOND: with more campaigns
than that each waits longer for its turn, and a lease that is seldom asked about is a larger one.

*Measured* with 3,000 goals, two workers and a busy machine, processor time of a worker for asking and
reading: 3 ms a second without traffic (before: 29), 11 with a thousand ads a second; a call holds the loop up
for 1 to 2 ms, a little more in the first seconds.

Must not know: the database, what a lease allows.
"""

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from itertools import islice
from typing import Final

from prefork_ads.ads.lease import Lease

# In one call.
MOST: Final = 48
BUSY_A_SECOND: Final = 160
IDLE_A_SECOND: Final = 16
# Turns that may be saved up.
_SAVED_S: Final = 1.0

_FOR_EVER: Final = float("inf")
_Heap = list[tuple[float, int]]


class _Allowance:
    """So many a second."""

    __slots__ = ("_at_s", "_rate", "left")

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._at_s = float("-inf")
        self.left = 0.0

    def grow(self, now_s: float) -> None:
        seconds = min(_SAVED_S, max(0.0, now_s - self._at_s))
        self.left = min(self._rate * _SAVED_S, self.left + self._rate * seconds)
        self._at_s = now_s


class Turns:
    """Who is next."""

    __slots__ = ("_busy", "_idle", "_may_idle", "_waiting", "dry", "first", "used")

    def __init__(self) -> None:
        self.first: dict[int, Lease] = {}
        self.dry: dict[int, Lease] = {}
        self.used: dict[int, Lease] = {}
        # By when they are due. What is not so any more is skipped.
        self._waiting: _Heap = []
        self._idle: _Heap = []
        self._busy = _Allowance(BUSY_A_SECOND)
        self._may_idle = _Allowance(IDLE_A_SECOND)

    def at(self, lease: Lease, due_s: float) -> None:
        """It is due then, if nothing happens before."""
        lease.due_s = due_s
        if due_s < _FOR_EVER:
            heap = self._waiting if lease.was_used else self._idle
            heappush(heap, (due_s, lease.campaign.id))

    def forget(self, number: int) -> None:
        for those in (self.first, self.dry, self.used):
            those.pop(number, None)

    def may_hurry(self, now_s: float) -> bool:
        """Whether there are turns for who has run dry."""
        self._busy.grow(now_s)
        return self._busy.left >= 1

    def are_waiting(self, now_s: float) -> bool:
        """Whether somebody should not wait for the next regular call."""
        return bool(self.first) or (bool(self.dry) and self.may_hurry(now_s))

    def next(
        self, leases: Mapping[int, Lease], wanted: Callable[[Lease], int], now_s: float
    ) -> list[tuple[Lease, int]]:
        """Those whose turn it is, each with what is wanted of it."""
        self._busy.grow(now_s)
        self._may_idle.grow(now_s)
        chosen: dict[int, tuple[Lease, int]] = {}
        self._pop(self.first, MOST, chosen, wanted)
        free = len(chosen)
        most = min(MOST, free + int(self._busy.left))
        self._pop(self.dry, most, chosen, wanted)
        self._pop_due(self._waiting, most, leases, chosen, wanted, now_s)
        self._pop_used(most, chosen, wanted, now_s)
        before = len(chosen)
        most = min(most, before + int(self._may_idle.left))
        self._pop_due(self._idle, most, leases, chosen, wanted, now_s)
        self._may_idle.left -= len(chosen) - before
        self._busy.left -= len(chosen) - free
        return list(chosen.values())

    @staticmethod
    def _pop(
        those: dict[int, Lease],
        most: int,
        chosen: dict[int, tuple[Lease, int]],
        wanted: Callable[[Lease], int],
    ) -> None:
        """The first of them."""
        for number in list(islice(those, max(0, most - len(chosen)))):
            lease = those.pop(number)
            if number not in chosen:
                chosen[number] = lease, wanted(lease)

    def _pop_used(
        self,
        most: int,
        chosen: dict[int, tuple[Lease, int]],
        wanted: Callable[[Lease], int],
        now_s: float,
    ) -> None:
        """Those that need more, or were not looked at for a while."""
        for number in list(islice(self.used, 4 * MOST)):
            if len(chosen) >= most:
                break
            lease = self.used.pop(number)
            if number not in chosen and lease.is_due(want := wanted(lease), now_s):
                chosen[number] = lease, want

    @staticmethod
    def _pop_due(
        heap: _Heap,
        most: int,
        leases: Mapping[int, Lease],
        chosen: dict[int, tuple[Lease, int]],
        wanted: Callable[[Lease], int],
        now_s: float,
    ) -> None:
        while heap and heap[0][0] <= now_s and len(chosen) < most:
            due_s, number = heappop(heap)
            lease = leases.get(number)
            if lease is not None and lease.due_s == due_s and number not in chosen:
                chosen[number] = lease, wanted(lease)
