"""One worker's lease of one campaign: what it may serve, what it has, how much to ask for.

Numbers are absolute: `granted` is what was granted for a campaign's day since the worker's beginning,
`served` what it has served of it. Day by day: a lease is good for one day of the campaign's time zone,
from `begins_s` up to and not at `ends_s`, by this worker's clock. So a decision is made on the day that it
is counted for, whatever PostgreSQL's clock says.

**How much.** What was served lately, times LEASE_S, so that a worker seldom runs dry and little is out at
a time; at least SMALLEST. Who ran dry asks for twice as much, who is seldom asked about for as long as that
takes. Towards the end of the goal PostgreSQL grants a part of the rest only, and to even pacing no more than
its plan. Then (`scarce`) a worker that has not used its lease for a while gives it back, and asks again a
little later: somebody else may have the traffic. Each time that it has not used it at all it waits twice as
long: where nobody has traffic, thousands of leases do not go round.

**When** PostgreSQL is asked about it again is `due_s`: soon when it was used, when it may be given back, when
the plan allows more; otherwise now and then, for the need.

While a call is under way that gives something back, what it gives back is not served: `usable` is the
least that may be granted.

Must not know: the database, masks, other campaigns.
"""

import random
from typing import Final

from prefork_ads.ads.catalog import Campaign
from prefork_ads.ads.pacing import Pace

LEASE_S: Final = 2.0
SMALLEST: Final = 4
LARGEST: Final = 1_000_000
# What is used and seldom asked about gets as much as it used since, within this time.
LASTS_S: Final = 30.0
# Unused for so long, what is scarce goes back; and is not asked for again for so long, twice at most.
IDLE_S: Final = 4.0
REST_S: Final = 4.0
# Both double, up to this.
MOST_PATIENCE_S: Final = 60.0
# How old what is known may get: need and plan go by it.
LOOK_AGAIN_S: Final = 5.0
# The same of what nobody uses.
LOOK_IDLE_S: Final = 60.0
# Without anything left: asked again after so long, twice as long each time, up to that.
WAIT_S: Final = (1.0, 16.0)
# With even pacing: what the plan allows in this time is asked for at once.
BATCH_S: Final = 5.0
# Before a day's end its lease is over: the decision's id is a moment younger than what it is decided by.
DAY_END_S: Final = 0.05

_NEVER: Final = float("-inf")
_FOR_EVER: Final = float("inf")


class Lease:
    """What this worker holds of one campaign, today."""

    __slots__ = (
        "_patience_s",
        "_rate",
        "_rated_s",
        "_served_then",
        "_size",
        "_wait_s",
        "asks_more",
        "begins_s",
        "campaign",
        "day",
        "due_s",
        "ends_s",
        "granted",
        "is_dry",
        "known_s",
        "need",
        "pace",
        "rests_until_s",
        "scarce",
        "served",
        "usable",
        "used_at_s",
        "was_used",
    )

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self.day = ""
        self.begins_s = self.ends_s = 0.0
        self.granted = self.usable = self.served = 0
        self.pace: Pace | None = None
        self.need = 4
        self.scarce = False
        # More was asked for than it has, and no answer says what became of it.
        self.asks_more = False
        # Used up since it was asked for.
        self.is_dry = False
        # Moments of the monotonic clock: what is known is of then; used last.
        self.known_s = self.used_at_s = _NEVER
        self.rests_until_s = _NEVER
        # Served from since something was granted last: there is traffic for it.
        self.was_used = False
        # When it is to be asked about again, if nothing happens.
        self.due_s = _NEVER
        self._patience_s = IDLE_S
        self._wait_s = WAIT_S[0]
        self._size = SMALLEST
        self._rate = 0.0
        self._rated_s = 0.0
        self._served_then = 0

    @property
    def left(self) -> int:
        return self.usable - self.served

    @property
    def holds_something(self) -> bool:
        """Whether PostgreSQL may believe that it holds more than it has served."""
        return self.granted > self.served or self.asks_more

    def is_open(self, at_s: float) -> bool:
        """Whether it may be served now (by the clock on the wall)."""
        return self.usable > self.served and self.begins_s <= at_s < self.ends_s - DAY_END_S

    def changed(self, campaign: Campaign) -> None:
        """The catalog says something else of it."""
        self.campaign = campaign
        self.pace = None
        self.known_s = self.rests_until_s = _NEVER

    def start_day(
        self, day: str, begins_s: float, ends_s: float, served: int, now_s: float
    ) -> None:
        """Another day, of which so much was served already (none, unless it had a lease of it before)."""
        self.day, self.begins_s, self.ends_s = day, begins_s, ends_s
        self.granted = self.usable = self.served = served
        self._served_then, self._rated_s = served, now_s
        self.rests_until_s = _NEVER
        self.pace = None

    def start_anew(self, now_s: float) -> None:
        """All of it was given to others."""
        self.granted = self.usable = self.served = 0
        self.asks_more = False
        self._served_then, self._rated_s = 0, now_s

    def serve(self, now_s: float) -> None:
        self.served += 1
        self.used_at_s = now_s
        self.was_used = True
        if self.served >= self.usable:
            self.is_dry = True

    def not_served(self) -> None:
        """One that was is taken back: nobody sees it, and no line says that it was used."""
        self.served -= 1
        # Or it would ask for twice as much each time, as long as nothing can be served.
        self.is_dry = False

    # -- asking ------------------------------------------------------------------------------------

    def wanted(self, now_s: float) -> int:
        """What should be granted."""
        self._measure(now_s)
        if now_s < self.rests_until_s:
            # Nothing more.
            return min(self.usable, self.served)
        if self.scarce and self.left and now_s - max(self.used_at_s, self.known_s) > IDLE_S:
            # Not all at the same moment: whoever has traffic shall find it there.
            self.rests_until_s = now_s + self._patience_s * (1 + random.random())  # noqa: S311
            self._patience_s = (
                REST_S if self.was_used else min(2 * self._patience_s, MOST_PATIENCE_S)
            )
            self.was_used = False
            return self.served
        if self.left > (2 if self.scarce else 4) * self._size:
            return self.served + self._size
        if 2 * self.left < self._size:
            return self.served + self._size
        return self.usable

    def is_due(self, wanted: int, now_s: float) -> bool:
        """Whether PostgreSQL is to be asked about it now."""
        return wanted != self.granted or now_s - self.known_s >= LOOK_AGAIN_S

    def next_s(self, committed: int, now_s: float, at_s: float) -> float:
        """When to ask again if nothing happens, now that so much of the day's goal is committed."""
        campaign = self.campaign
        jitter = 1 + random.random() / 5  # noqa: S311
        if campaign.bit < 0 or (campaign.ends_s is not None and at_s >= campaign.ends_s):
            return now_s + LOOK_IDLE_S if self.granted > self.served else _FOR_EVER
        if campaign.starts_s is not None and at_s < campaign.starts_s:
            return now_s + campaign.starts_s - at_s
        if not self.begins_s <= at_s < self.ends_s:
            # The clocks do not agree on which day it is.
            return now_s + 0.5
        if self.left > 0:
            if not self.scarce:
                return now_s + LOOK_IDLE_S * jitter
            return max(now_s, self.used_at_s) + self._patience_s * jitter
        return max(self.rests_until_s, now_s + self._next_wait_s(committed, at_s) * jitter)

    def _next_wait_s(self, committed: int, at_s: float) -> float:
        """How long until more may be granted than nothing."""
        wait_s = self._wait_s
        self._wait_s = min(2 * wait_s, WAIT_S[1])
        if self.pace is not None:
            first_s = self.pace.wait_s(committed, at_s, LOOK_IDLE_S)
            wait_s = max(first_s, min(wait_s, BATCH_S)) if first_s < LOOK_IDLE_S else LOOK_IDLE_S
        return wait_s

    def asks(self, wanted: int) -> None:
        """It is asked for so much: what is given back is gone from now on."""
        self.is_dry = False
        self.asks_more = self.asks_more or wanted > self.granted
        self.usable = max(self.served, min(self.usable, wanted))

    def answered(
        self, granted: int, room: int, holders: int, *, reached: bool, now_s: float
    ) -> None:
        """`room` is what is left for all, `reached`: nothing will be before another day or goal."""
        if granted > self.granted:
            self.was_used = False
            self._wait_s = WAIT_S[0]
        self.granted = self.usable = granted
        self.asks_more = False
        self.known_s = now_s
        self.scarce = room < holders * max(SMALLEST, self._size)
        if reached:
            self.rests_until_s = now_s + LOOK_IDLE_S

    def _measure(self, now_s: float) -> None:
        """The rate, and the size by it."""
        seconds = now_s - self._rated_s
        if seconds < 0.2:
            return
        latest = (self.served - self._served_then) / seconds
        self._rate = latest if latest > self._rate else (self._rate + latest) / 2
        self._served_then, self._rated_s = self.served, now_s
        # Whoever is seldom asked about needs more at a time.
        lasts_s = max(LEASE_S, min(seconds, LASTS_S))
        size = max(SMALLEST, int(self._rate * lasts_s) + 1)
        if self.is_dry and not self.scarce:
            # How much more it could have served nobody knows.
            size = max(size, 2 * self._size)
        self._size = min(size, LARGEST)
