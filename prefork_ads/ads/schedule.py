"""Which campaigns run at a moment: inside their flight, and in an hour of their schedule.

Both change seldom, so each mask is kept with the time for which it holds, and a decision compares two
numbers. Flights are kept in binary (see `planes`); the next begin or end of any of them comes from a
sorted list. Hours are looked at every minute, in each time zone that a schedule has, because offsets and
daylight saving times change at odd minutes of UTC; the mask is made again when an hour has changed
somewhere. Campaigns with the same hours in the same time zone are one mask.

*Measured* with 10,000 campaigns, every fourth of them with hours, on a busy machine: 40 µs when a flight
begins or ends, 16 µs when the hour changes somewhere, 8 µs every minute.

Must not know: what the time is, why a campaign has this flight.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from datetime import datetime

from prefork_ads.ads.planes import Planes
from prefork_ads.ads.records import FOREVER_S, time_zone
from prefork_ads.ads.targeting import Window


def hours_pattern(windows: Sequence[Window]) -> int:
    """The union of the windows: one bit per hour of the week, Monday's first is bit 0."""
    pattern = 0
    for window in windows:
        day = sum(1 << hour for hour in window.hours)
        for number in window.days:
            pattern |= day << 24 * number
    return pattern


# First second, and first second after it; None: no limit.
Flight = tuple[int | None, int | None]


class Flights:
    """From when and until when campaigns run."""

    __slots__ = ("_changes", "_ends", "_mask", "_starts", "everyone", "since", "until")

    def __init__(self) -> None:
        self.everyone = 0
        # A campaign that always ran starts at 0; one without an end has FOREVER_S, and one bit for it.
        self._starts = Planes()
        self._ends = Planes()
        self._changes: list[int] = []
        self._mask = 0
        self.since = self.until = 0.0

    def copy(self) -> "Flights":
        other = Flights()
        other._starts, other._ends = self._starts.copy(), self._ends.copy()
        other._changes = self._changes.copy()
        return other

    def fill(self, first: int, flights: Sequence[Flight | None]) -> None:
        """Those of bits from `first` on, as `Planes.fill` does."""
        known = [(0, 0) if flight is None else flight for flight in flights]
        self._starts.fill(first, [start or 0 for start, _ in known])
        self._ends.fill(first, [FOREVER_S if end is None else end for _, end in known])
        self._changes += [at for flight in flights if flight for at in flight if at is not None]

    def add(self, bit: int, start: int | None, end: int | None) -> None:
        self._toggle(bit, start, end)
        for at in (start, end):
            if at is not None:
                insort(self._changes, at)

    def remove(self, bit: int, start: int | None, end: int | None) -> None:
        self._toggle(bit, start, end)
        for at in (start, end):
            if at is not None:
                del self._changes[bisect_right(self._changes, at) - 1]

    def _toggle(self, bit: int, start: int | None, end: int | None) -> None:
        self._starts.toggle(bit, start or 0)
        self._ends.toggle(bit, FOREVER_S if end is None else end)

    def finish(self, everyone: int, *, filled: bool) -> None:
        self.everyone = everyone
        if filled:
            self._changes.sort()
        self.since = self.until = 0.0

    def running(self, at_s: float) -> int:
        if not self.since <= at_s < self.until:
            self._look(at_s)
        return self._mask

    def _look(self, at_s: float) -> None:
        second = max(0, int(at_s))
        index = bisect_right(self._changes, second)
        self.since = self._changes[index - 1] if index else float("-inf")
        self.until = self._changes[index] if index < len(self._changes) else float("inf")
        started = self._starts.below(second + 1, self.everyone)
        self._mask = started ^ self._ends.below(second + 1, started)


class Hours:
    """In which hours of the week campaigns run, each in its own time zone."""

    __slots__ = ("_clock", "_mask", "_minute", "everyone", "limited", "patterns")

    def __init__(self) -> None:
        self.everyone = 0
        self.limited = 0
        self.patterns: dict[str, dict[int, int]] = {}
        """By time zone and hours: the campaigns that have them."""
        self._minute = -1
        self._clock: tuple[int, ...] = ()
        self._mask = 0

    def copy(self) -> "Hours":
        other = Hours()
        other.limited = self.limited
        other.patterns = {zone: patterns.copy() for zone, patterns in self.patterns.items()}
        return other

    def add(self, bit: int, zone: str, pattern: int) -> None:
        self.limited |= 1 << bit
        patterns = self.patterns.setdefault(zone, {})
        patterns[pattern] = patterns.get(pattern, 0) | 1 << bit

    def remove(self, bit: int, zone: str, pattern: int) -> None:
        self.limited ^= 1 << bit
        patterns = self.patterns[zone]
        patterns[pattern] ^= 1 << bit
        if not patterns[pattern]:
            del patterns[pattern]
        if not patterns:
            del self.patterns[zone]

    def finish(self, everyone: int) -> None:
        self.everyone = everyone
        self._minute, self._clock = -1, ()

    def open(self, at_s: float) -> int:
        minute = int(at_s // 60)
        if minute != self._minute:
            self._look(minute)
        return self._mask

    def _look(self, minute: int) -> None:
        clock = tuple(hour_of_week(minute * 60, zone) for zone in self.patterns)
        if clock != self._clock or self._minute == -1:
            mask = self.everyone ^ self.limited
            for hour, patterns in zip(clock, self.patterns.values(), strict=True):
                for pattern, campaigns in patterns.items():
                    if pattern >> hour & 1:
                        mask |= campaigns
            self._mask = mask
        self._minute, self._clock = minute, clock


def hour_of_week(at_s: float, zone: str) -> int:
    """The hour there, counted from the beginning of Monday."""
    there = datetime.fromtimestamp(at_s, time_zone(zone))
    return there.weekday() * 24 + there.hour
