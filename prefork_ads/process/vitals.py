"""How a worker fares apart from requests: whether its loop is on time, its memory, its log.

The loop's delay is measured by a clock that is due every so often: it is late by as long as the loop was
busy with something else, or the process had no processor. A timer counts in milliseconds, so a delay
of one or two means nothing.

Must not know: the event loop, requests.
"""

import os
from pathlib import Path

from prefork_ads.metrics import LOOP_LAG_MICROSECONDS, Cells, Counter, Gauge
from prefork_ads.process import log

# The longest delay is shown for one to two of these, so that whoever looks now and then sees it.
WINDOW_S = 10.0
# Reading the memory's size takes some 20 µs.
MEMORY_EVERY_S = 5.0

_STATM = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class Vitals:
    """Call `look` every `every_s`, from the loop that serves."""

    def __init__(self, cells: Cells, gauges: Cells, every_s: float) -> None:
        self._cells = cells
        self._gauges = gauges
        self._every_s = every_s
        self._last: float | None = None
        self._window_ends = self._memory_due = 0.0
        self._longest_us = self._longest_before_us = 0

    def look(self, now: float) -> None:
        if self._last is not None:
            self._count_delay(now, max(0, int((now - self._last - self._every_s) * 1e6)))
        self._last = now
        if now >= self._memory_due:
            self._memory_due = now + MEMORY_EVERY_S
            self._gauges[Gauge.MEMORY_BYTES] = resident_bytes(_STATM)
        self._cells[Counter.LOG_LINES_DROPPED] += log.push()

    def _count_delay(self, now: float, delay_us: int) -> None:
        LOOP_LAG_MICROSECONDS.observe(self._cells, delay_us)
        if now >= self._window_ends:
            self._window_ends = now + WINDOW_S
            self._longest_before_us, self._longest_us = self._longest_us, 0
        self._longest_us = max(self._longest_us, delay_us)
        longest = max(self._longest_us, self._longest_before_us)
        self._gauges[Gauge.LOOP_LAG_MICROSECONDS] = longest


def resident_bytes(statm: Path) -> int:
    """The memory of a process that is in use, shared pages included; 0 when nobody can say."""
    try:
        return int(statm.read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0
