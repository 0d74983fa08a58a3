"""How much of its goal a campaign should have had by now, and how urgent it is: arithmetic, no clock.

**The plan.** A day's part of the goal is spread over the day as the traffic is: by noon as much as of a
usual day's requests come before noon. The part is the daily goal; or, of a goal for a flight with an end,
what is left at the day's beginning divided by what is left of the flight. So a day that brought too little is
made up for by all that follow.

    daily goal 2,400, traffic the same all day     at 06:00 the plan says 600
    goal 1,000 for ten days, 280 after two of them  the third day's part is 720 / 8 = 90

**Catching up.** A campaign that begins late, or stood still, is behind its plan. It does not pour out what
is missing at once: a little of it (SLACK_S) may come at once, and the rest evenly within CATCH_UP_S, or half
of what is left of the day if that is less. That is the `line`, and no lease goes beyond it (by more than
AHEAD_S).

    daily goal 28,800, nothing had by 18:00: missing 21,600, of which 100 at once and the rest in half an hour
    line at 18:00: 100    at 18:15: 21,900 - 10,750 = 11,150    at 18:30: 22,200, which is the plan

**Need.** 4 is on plan; half an hour's worth behind it and more is 16, as far ahead is 1. The choice within
a tier is by weight times need.

The plan is made from figures of PostgreSQL, the same for all workers, so all have about the same line, and it
is an upper bound which PostgreSQL compares with what all of them together have taken. A worker whose line
is a little behind the others' is merely granted less.

Must not know: clocks, databases, leases.
"""

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

HOUR_S: Final = 3600.0
DAY_S: Final = 86_400.0

# How far beyond the line leases may run: what a worker serves between two of its calls, and some.
AHEAD_S: Final = 5.0
# Within this time a gap is closed.
CATCH_UP_S: Final = 1800.0
# As much as is planned in this time may be made up for at once. Further behind than the line rose in it:
# there is no traffic for it. Then the gap is measured anew, so that traffic which comes back does not find
# all of it open.
SLACK_S: Final = 300.0

# What need may be. Few, so that it seldom changes.
NEEDS: Final = (1, 2, 3, 4, 6, 8, 12, 16)
NEUTRAL: Final = 4
# Behind by as much as is planned in this time: the greatest need.
URGENT_S: Final = 1800.0

# The share of a day's traffic in each of its hours. No hour has none at all.
Curve = tuple[float, ...]
UNIFORM: Final[Curve] = (1 / 24,) * 24
_LEAST_OF_AN_HOUR: Final = 0.05 / 24
_BETWEEN_NEEDS: Final = [(low + high) / 2 for low, high in pairwise(NEEDS)]


def curve_of(traffic: Iterable[tuple[float, int]], zone: ZoneInfo) -> Curve:
    """The curve of hours (their beginning in seconds since 1970) with their requests, in a time zone."""
    sums = [0.0] * 24
    for hour_s, requests in traffic:
        # The middle of the hour, for zones whose hours begin elsewhere.
        sums[datetime.fromtimestamp(hour_s + HOUR_S / 2, zone).hour] += requests
    total = sum(sums)
    if not total:
        return UNIFORM
    shares = [max(_LEAST_OF_AN_HOUR, one / total) for one in sums]
    total = sum(shares)
    return tuple(share / total for share in shares)


class DayCurve:
    """One day of a time zone: its traffic between two moments. Some days have 23 or 25 hours."""

    def __init__(self, curve: Curve, zone: ZoneInfo, begins_s: float, ends_s: float) -> None:
        self.begins_s = begins_s
        self.ends_s = ends_s
        # Moments, and the traffic before them; by quarters, at which some zones' hours begin.
        self._moments: list[float] = [begins_s]
        self._before: list[float] = [0.0]
        step = HOUR_S / 4
        # Nearly every day: its hours are counted from its midnight, without asking the time zone.
        plain = ends_s - begins_s == DAY_S and _offset(begins_s, zone) == _offset(ends_s, zone)
        while self._moments[-1] < ends_s:
            moment = self._moments[-1]
            after = min(ends_s, moment + step)
            hour = (
                int((moment - begins_s) // HOUR_S)
                if plain
                else datetime.fromtimestamp(moment, zone).hour
            )
            share = curve[hour]
            self._before.append(self._before[-1] + share * (after - moment) / HOUR_S)
            self._moments.append(after)

    def before(self, at_s: float) -> float:
        """The traffic from the day's beginning, 1 being a usual day's."""
        if at_s <= self.begins_s:
            return 0.0
        if at_s >= self.ends_s:
            return self._before[-1]
        place = bisect.bisect_right(self._moments, at_s) - 1
        left, right = self._moments[place], self._moments[place + 1]
        low, high = self._before[place], self._before[place + 1]
        return low + (high - low) * (at_s - left) / (right - left)

    def between(self, from_s: float, to_s: float) -> float:
        return max(0.0, self.before(to_s) - self.before(from_s))


def _offset(at_s: float, zone: ZoneInfo) -> timedelta | None:
    return datetime.fromtimestamp(at_s, zone).utcoffset()


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be spread, over what."""

    total: int | None
    daily: int | None
    starts_s: float | None
    ends_s: float | None


class DayPlan:
    """How a day's part of the goal is spread over it."""

    __slots__ = ("_before", "_each", "_from", "begins_s", "curve", "ends_s", "part")

    def __init__(self, curve: DayCurve, part: float, begins_s: float, ends_s: float) -> None:
        self.curve = curve
        self.part = part
        self.begins_s = begins_s
        self.ends_s = ends_s
        self._before = curve.before
        self._from = curve.before(begins_s)
        whole = curve.before(ends_s) - self._from
        # What is planned for each unit of the curve's traffic.
        self._each = part / whole if whole > 0.0 else 0.0

    def at(self, at_s: float) -> float:
        """What should have been had of the day's part."""
        if at_s >= self.ends_s:
            return self.part
        if at_s <= self.begins_s:
            return 0.0
        return self._each * (self._before(at_s) - self._from)

    def within(self, from_s: float, seconds: float) -> float:
        """What is planned for a time."""
        return self.at(from_s + seconds) - self.at(from_s)


def plan_day(goal: Goal, curve: DayCurve, had_before: int) -> DayPlan:
    """The plan of the curve's day, on which begins a campaign that `had_before` so much."""
    begins_s = max(curve.begins_s, goal.starts_s or curve.begins_s)
    ends_s = min(curve.ends_s, goal.ends_s or curve.ends_s)
    parts: list[float] = []
    if goal.total is not None:
        left = max(0, goal.total - had_before)
        parts.append(left if goal.ends_s is None else left * _share(curve, begins_s, goal.ends_s))
    if goal.daily is not None:
        parts.append(goal.daily)
    return DayPlan(curve, min(parts, default=0.0), begins_s, max(begins_s, ends_s))


def _share(curve: DayCurve, begins_s: float, flight_ends_s: float) -> float:
    """The share of the day in what is left of the flight. The last day counts by its hours."""
    today = curve.between(begins_s, min(curve.ends_s, flight_ends_s))
    later = max(0.0, flight_ends_s - curve.ends_s) / DAY_S
    if later <= 0.0:
        return 1.0
    whole, rest = int(later), later - int(later)
    after = whole + curve.between(curve.begins_s, curve.begins_s + rest * DAY_S)
    return today / (today + after) if today > 0.0 else 0.0


class Pace:
    """How far a campaign may be on one day: its plan, and the gap that is being closed."""

    __slots__ = ("_began_s", "_closes_in_s", "_gap", "plan")

    def __init__(self, plan: DayPlan, had: float, at_s: float) -> None:
        self.plan = plan
        self._began_s = at_s
        self._gap = 0.0
        self._closes_in_s = 1.0
        self._measure(had, at_s)

    def _measure(self, had: float, at_s: float) -> None:
        self._gap = max(0.0, self.plan.at(at_s) - had - self._slack(at_s))
        self._began_s = at_s
        self._closes_in_s = max(1.0, min(CATCH_UP_S, (self.plan.ends_s - at_s) / 2))

    def line(self, at_s: float) -> float:
        """What may be had by then."""
        left = max(0.0, 1.0 - max(0.0, at_s - self._began_s) / self._closes_in_s)
        return self.plan.at(at_s) - self._gap * left

    def saw(self, had: float, at_s: float) -> None:
        """Told now and then what was had."""
        behind = self.line(at_s) - had
        if behind <= 1.0 or self.plan.ends_s - at_s <= SLACK_S:
            return
        rose = self.line(at_s) - self.line(at_s - SLACK_S)
        if behind > max(self._slack(at_s), rose):
            self._measure(had, at_s)

    def _slack(self, at_s: float) -> float:
        return max(1.0, self.plan.within(at_s, SLACK_S))

    def ceiling(self, at_s: float) -> int:
        """What may be committed now, by all workers together."""
        # The first one goes out when it is due, not when it is whole: `- 1e-6` is for what floats leave over.
        line = self.line(at_s + AHEAD_S)
        return 0 if line <= 0.0 else int(line - 1e-6) + 1

    def need(self, had: float, at_s: float) -> int:
        """How urgent it is to serve it."""
        plan = self.plan
        now = plan.at(at_s)
        behind = now - had
        if not behind:
            return NEUTRAL
        # At the end of a day there is no next half hour: then the last one counts.
        around = max(plan.at(at_s + URGENT_S) - now, now - plan.at(at_s - URGENT_S), 1.0)
        most = 16 - NEUTRAL if behind > 0 else NEUTRAL - 1
        return NEEDS[bisect.bisect(_BETWEEN_NEEDS, NEUTRAL + most * behind / around)]

    def wait_s(self, committed: float, at_s: float, most_s: float) -> float:
        """How long until one more than is committed may be; `most_s` at most."""
        line = self.line(at_s + AHEAD_S)
        rise = self.line(at_s + AHEAD_S + most_s) - line
        return min(most_s, max(0.0, most_s * (committed - line) / rise)) if rise > 0 else most_s
