"""When a worker has served enough: as many requests, as long, or with as much memory as it may.

Against what grows slowly and nobody has found yet, a leak or a fragmented heap. The worker only says so;
the master starts a successor, waits until it is ready, and then asks this one to drain, one slot
after the other. So nobody waits, and it may take a while.

Workers that start together and share their requests fairly reach a limit together. Each therefore
draws its own, up to a share (the jitter) below what was asked for, so that they come one by one. Memory
is not jittered: it differs by itself, and its limit is meant as one. A limit below what a new worker
needs must not keep the server forking, so memory is not held against one that young.

Must not know: the master, what a request is.
"""

from dataclasses import dataclass

from prefork_ads.process.scoreboard import Wish

YOUNG_S = 30.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one worker may; 0 is no limit."""

    requests: int
    age_s: float
    memory_bytes: int

    def drawn(self, jitter: float, chance: float) -> "Allowance":
        """For one worker: `chance`, from 0 to 1, says how much of the jitter is taken off."""
        share = 1.0 - jitter * chance
        # At least one: none would be no limit.
        requests = max(1, round(self.requests * share)) if self.requests else 0
        return Allowance(requests, self.age_s * share, self.memory_bytes)

    def used_up(self, requests: int, age_s: float, memory_bytes: int) -> Wish:
        """Which of the limits is reached."""
        if 0 < self.requests <= requests:
            return Wish.MAX_REQUESTS
        if 0 < self.age_s <= age_s:
            return Wish.MAX_AGE
        if 0 < self.memory_bytes <= memory_bytes and age_s >= YOUNG_S:
            return Wish.MAX_MEMORY
        return Wish.NONE
