"""When a worker's garbage collector works: by the clock, and not in the middle of a wave of requests.

CPython looks for garbage whenever there are 700 more containers than at the last look (3.13: 2,000). A wave
of requests makes more than that, and none of it is garbage: it goes when the answers have left. But each look
keeps what it finds under way for a later and longer one. *Measured* (8,000 ads a second among 10,000
campaigns): 70 looks a second, 1.5 % of the time, and every 1.7 s one at everything, 80,000 containers, for
which nobody was served for 50 ms. None of them found anything.

Only cycles need it, and few are made: requests and clients' connections leave none, a lost connection to
PostgreSQL 14 containers (*measured*). So

- what is young is looked at by the clock, four times a second, before a wave would call for it: less than a
  millisecond, and 3 where a thousand clients a second come and go (once a second it was 11, longer than all
  else that happens then);
- what has survived a look, every ALL_EVERY_S; sooner when OLD_MOST may have done so, which bounds memory.
  That takes 60 ms with 20,000 connections, so workers do not begin together;
- between two of our looks YOUNG_MOST more containers call for one, whatever the time.

What `ads.feed` freezes with each whole catalog is out of the collector's sight for good. While somebody has
switched it off (a catalog is being made), it stays off.

Must not know: what makes garbage.
"""

import gc
from typing import Final

ALL_EVERY_S: Final = 300.0
YOUNG_MOST: Final = 10_000
OLD_MOST: Final = 1_000_000
# Behind the second of the looks that containers call for the middle generation follows: thousands of clients
# who come at once are many containers, of which 100,000 take 50 ms. And everything practically never.
_MIDDLE_AFTER: Final = 1
_ALL_AFTER: Final = 1_000_000

_MIDDLE: Final = 1


class Garbage:
    """One process' collector."""

    __slots__ = ("_all_at", "_grown_old")

    def __init__(self, first_all_at: float) -> None:
        """From here on it is by our times. `first_all_at` is in seconds of the clock of `look`."""
        gc.set_threshold(YOUNG_MOST, _MIDDLE_AFTER, _ALL_AFTER)
        self._all_at = first_all_at
        self._grown_old = 0

    def look(self, now: float) -> None:
        """Call a few times a second."""
        if not gc.isenabled():
            return
        young, looks, _ = gc.get_count()
        # At most: much of it is about to go, as it came.
        self._grown_old += young + looks * YOUNG_MOST
        if now < self._all_at and self._grown_old < OLD_MOST:
            gc.collect(_MIDDLE)
        else:
            self._all_at = now + ALL_EVERY_S
            self._grown_old = 0
            gc.collect()
