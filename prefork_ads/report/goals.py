"""How campaigns do against their goals: what an even delivery would have by now, and a word for it.

**Even.** A campaign's goal in all, and that of its day, each have a line:

- of the day the pacer's own (`plan_day`): the day's part of the goal, spread as the traffic is. With
  pacing asap only a daily goal has it, spread as if it were paced.
- in all, where the flight has a beginning and an end: each of its days the same, and spread as the traffic
  is. The pacer lets later days make up for what a day did not bring, so by its line alone a campaign
  that is weeks behind would be on course every morning.

      goal 1,000 for ten days, at noon of the third: 250 in all
      280 of them had by midnight: this day's part is 720 / 8 = 90, so 45 today

**The word.** `behind` is under 90 % of what either line says by now, `ahead` over 110 % of it; and in both
cases also under what the line said half an hour ago, or over what it will say in half an hour. So long the
pacer takes to close a gap, and an impression may be on its way. A campaign that is served as soon as
possible is meant to be ahead, so of it is only told that it is behind.

Must not know: the database's tables, how any of this is shown.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from prefork_ads.ads.pacing import CATCH_UP_S, DayCurve, Goal, plan_day
from prefork_ads.ads.records import Unreadable, time_zone
from prefork_ads.ads.traffic import MOST, TrafficFeed
from prefork_ads.db import goals
from prefork_ads.db.goals import Delivered, Traffic

# Worst first, and what is not served last.
STATES: Final = (
    *("behind", "on course", "ahead", "no even pace", "done today", "done"),
    *("not begun", "over", "paused", "draft", "archived"),
)
# Per cent of the line.
BEHIND_BELOW: Final = 90
AHEAD_ABOVE: Final = 110
GRACE_S: Final = CATCH_UP_S

# What an even delivery would have at a moment.
_Even = Callable[[float], float]
_Place = tuple[int, float, str]


@dataclass(frozen=True, slots=True)
class Line:
    """A goal in all or of a day, what was delivered, and what an even delivery would have by now."""

    delivered: int
    goal: int | None
    even: int | None
    """None: nothing says how it would be spread."""
    is_behind: bool = False
    is_ahead: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """One campaign that has a goal."""

    campaign: Delivered
    zone: ZoneInfo
    in_all: Line
    today: Line
    passed: float | None
    """How much of its flight, from 0 to 1; None: it has no beginning or no end."""
    state: str

    @property
    def is_active(self) -> bool:
        """Whether it may be served today or later."""
        return self.campaign.status == "active" and not _is_over(self.campaign)

    @property
    def place(self) -> _Place:
        """Where it stands: the worst first, among them who has the least of what is even."""
        lines = [line for line in (self.in_all, self.today) if line.even]
        behind = [line for line in lines if line.is_behind]
        share = min((line.delivered / (line.even or 1) for line in behind or lines), default=1.0)
        return STATES.index(self.state), share, self.campaign.key


def load(
    dsn: str, keys: Sequence[str] | None = None, at_s: float | None = None
) -> tuple[list[Progress], list[str]]:
    """Campaigns with a goal, the worst first: those with these keys, or all that are not archived.

    Behind them the keys of those that were named and have no goal. `at_s` is a moment other than now, in
    seconds since 1970. Raises SchemaError and DatabaseUnavailable.
    """
    found, traffic = goals.delivered(dsn, keys, MOST, at_s)
    return progress(found, traffic), sorted(one.key for one in found if one.kind is None)


def progress(campaigns: Iterable[Delivered], traffic: Traffic) -> list[Progress]:
    """Of those that have a goal, the worst first. `traffic` are the rows of `traffic_curve`."""
    feed = TrafficFeed()
    feed.answered(traffic)
    days = _Days(feed)
    made = [_progress(one, days) for one in campaigns if one.kind is not None]
    return sorted(made, key=lambda one: one.place)


class _Days:
    """Days of time zones, each with its curve and made once."""

    def __init__(self, feed: TrafficFeed) -> None:
        self._feed = feed
        self._known: dict[tuple[int, str, date], DayCurve] = {}

    def at(self, campaign: Delivered, zone: ZoneInfo, at_s: float) -> DayCurve:
        """The campaign's day of a moment."""
        day = datetime.fromtimestamp(at_s, zone).date()
        # Curves are kept as long as we are, so their ids are theirs.
        curve = self._feed.curve_for(campaign.id, campaign.time_zone)
        key = id(curve), campaign.time_zone, day
        if key not in self._known:
            ends_s = _begins_s(day + timedelta(days=1), zone)
            self._known[key] = DayCurve(curve, zone, _begins_s(day, zone), ends_s)
        return self._known[key]

    def count(self, campaign: Delivered, zone: ZoneInfo, at_s: float) -> float:
        """Days since year 1, each of which counts the same however many hours it has."""
        day = self.at(campaign, zone, at_s)
        ordinal = datetime.fromtimestamp(at_s, zone).toordinal()
        return ordinal + day.before(at_s) / day.before(day.ends_s)


def _begins_s(day: date, zone: ZoneInfo) -> float:
    # Of a midnight that comes twice the first; one that clocks skip is the moment of the skip.
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


def _progress(one: Delivered, days: _Days) -> Progress:
    try:
        zone = time_zone(one.time_zone)
    except Unreadable:
        # No worker on such a machine serves it. What was delivered is exact: PostgreSQL knows the day.
        zone = ZoneInfo("UTC")
    in_all = _line(one, one.in_all, one.total, _even_in_all(one, zone, days))
    today = _line(one, one.today, one.daily, _even_today(one, zone, days))
    passed = None
    if one.starts_s is not None and one.ends_s is not None:
        passed = min(1.0, max(0.0, (one.at_s - one.starts_s) / (one.ends_s - one.starts_s)))
    return Progress(one, zone, in_all, today, passed, _state(one, in_all, today))


def _even_in_all(one: Delivered, zone: ZoneInfo, days: _Days) -> _Even | None:
    total = one.total
    if total is None or one.starts_s is None or one.ends_s is None:
        return None
    begins = days.count(one, zone, one.starts_s)
    # Of a flight of a microsecond floats may leave nothing.
    lasts = max(1e-9, days.count(one, zone, one.ends_s) - begins)

    def even(at_s: float) -> float:
        share = (days.count(one, zone, at_s) - begins) / lasts
        return total * min(1.0, max(0.0, share))

    return even


def _even_today(one: Delivered, zone: ZoneInfo, days: _Days) -> _Even | None:
    # On the day on which the flight ended all that is missing would be the part of the hours that are left.
    if (one.daily is None and one.pacing != "even") or _is_over(one):
        return None
    goal = Goal(one.total, one.daily, one.starts_s, one.ends_s)
    return plan_day(goal, days.at(one, zone, one.at_s), one.in_all - one.today).at


def _is_over(one: Delivered) -> bool:
    return one.ends_s is not None and one.at_s >= one.ends_s


def _line(one: Delivered, delivered: int, goal: int | None, even: _Even | None) -> Line:
    if even is None:
        return Line(delivered, goal, None)
    # Whole ones only; the millionth is for what floats leave over.
    earlier, now, later = (int(even(one.at_s + by_s) + 1e-6) for by_s in (-GRACE_S, 0.0, GRACE_S))
    return Line(
        delivered,
        goal,
        now,
        is_behind=delivered * 100 < now * BEHIND_BELOW and delivered < earlier,
        is_ahead=delivered * 100 > now * AHEAD_ABOVE and delivered > later,
    )


def _state(one: Delivered, in_all: Line, today: Line) -> str:
    unserved = _unserved(one)
    if unserved is not None:
        return unserved
    if in_all.is_behind or today.is_behind:
        return "behind"
    if one.daily is not None and one.today >= one.daily:
        return "done today"
    if one.pacing != "even":
        return "no even pace"
    return "ahead" if in_all.is_ahead or today.is_ahead else "on course"


def _unserved(one: Delivered) -> str | None:
    """Why it is not served at all now, whatever its pace."""
    if one.status in ("archived", "draft"):
        return one.status
    if one.total is not None and one.in_all >= one.total:
        return "done"
    if _is_over(one):
        return "over"
    if one.starts_s is not None and one.at_s < one.starts_s and one.status == "active":
        return "not begun"
    return None if one.status == "active" else one.status
