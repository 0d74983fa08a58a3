"""When a worker's garbage collector works: by the clock, and not in the middle of a wave of requests.

CPython looks for garbage whenever there are 700 more containers than at the last look. A wave of requests
makes more than that, and none of it is garbage: it goes when the answers have left. But each look keeps what
it finds under way for a later and longer one. *Measured* (8,000 ads a second among 10,000 campaigns): 70
looks a second, 1.5 % of the time, and every 1.7 s one at everything, 80,000 containers, for which nobody was
served for 50 ms. None of them found anything.

Only cycles need it, and here those come of failures: 14 containers for each lost connection to PostgreSQL
(*measured*, under load). So

- what is young is looked at by the clock, four times a second: less than a millisecond, and 3 where a
  thousand clients a second come and go (once a second it was 11, longer than all else that happens then);
- everything every ALL_EVERY_S;
- and memory has its bound: YOUNG_MOST more containers are looked at whatever the time.

While somebody has switched the collector off (a catalog is being made), it stays off.

Must not know: what makes garbage.
"""

import gc
from typing import Final

ALL_EVERY_S: Final = 300.0
YOUNG_MOST: Final = 10_000
# After so many of the looks above the middle generation follows: thousands of clients who come at once are
# many containers, of which 100,000 take 50 ms. And everything practically never.
_MIDDLE_AFTER: Final = 1
_ALL_AFTER: Final = 1_000_000

_MIDDLE: Final = 1


class Garbage:
    """One process' collector."""

    __slots__ = ("_all_at",)

    def __init__(self, now: float) -> None:
        """`now` is in seconds of any clock, as in `look`. From here on it is by our times."""
        gc.set_threshold(YOUNG_MOST, _MIDDLE_AFTER, _ALL_AFTER)
        self._all_at = now + ALL_EVERY_S

    def look(self, now: float) -> None:
        """Call a few times a second."""
        if not gc.isenabled():
            return
        if now < self._all_at:
            gc.collect(_MIDDLE)
        else:
            self._all_at = now + ALL_EVERY_S
            gc.collect()
