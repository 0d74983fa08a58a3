"""Time-ordered identifiers: UUID version 7 (RFC 9562, 5.7).

    unix_ts_ms (48) | version 7 (4) | rand_a (12) | variant (2) | rand_b (62)

`rand_a` starts at a random value in each millisecond and counts up (RFC 9562, 6.2, method 1), so the
ids of one process are ordered; past its end the millisecond is borrowed from the future, as the RFC
allows. `rand_b` is drawn once a millisecond: within it the counter tells ids of this process apart, and
62 random bits tell processes apart. These ids name things, they are no secrets (a signed token is what
protects an event), so the bits come from the process's Mersenne twister, seeded from the kernel in
every process after its fork; os.urandom would be a system call a request.

A clock that is put back a little is waited for. One that was ahead by more than WAITS_MS and is put right is
not: for as long as it had been ahead decisions would be counted under a wrong hour or day, and their links
be refused as made in the future. Then ids begin anew in the present, behind those made before; so who relies
on their order may do so only within a WAITS_MS.

Must not know: events.
"""

import random
from collections.abc import Callable

# More than clocks are corrected by, or an id borrows. (Summer time is no step of this clock.)
WAITS_MS = 60_000

_VARIANT = 1 << 63
_MAX_COUNT = 0xFFF
# Looked up, not formatted: a third of the cost of an id.
_COUNTS = [b"%03x" % count for count in range(_MAX_COUNT + 1)]


class Uuid7:
    """Makes ids as 32 hex digits in ASCII: PostgreSQL takes them, and they cost half of dashed ones."""

    __slots__ = ("_bits", "_count", "_milliseconds", "_prefix", "_tail")

    def __init__(self, source: random.Random | None = None) -> None:
        self._bits: Callable[[int], int] = (source or random.Random()).getrandbits  # noqa: S311
        self._milliseconds = -1
        self._count = 0
        self._prefix = b""
        self._tail = b""

    def next(self, milliseconds: int) -> bytes:
        """An id of this time, in milliseconds since 1970; greater than before, but for a clock put right."""
        last = self._milliseconds
        if milliseconds > last or last - milliseconds > WAITS_MS:
            self._start(milliseconds)
        elif self._count == _MAX_COUNT:
            self._start(self._milliseconds + 1)
        self._count = count = self._count + 1
        return self._prefix + _COUNTS[count] + self._tail

    def _start(self, milliseconds: int) -> None:
        self._milliseconds = milliseconds
        # Half of the counter is left for counting.
        self._count = self._bits(11)
        self._prefix = b"%012x7" % milliseconds
        self._tail = b"%016x" % (_VARIANT | self._bits(62))
