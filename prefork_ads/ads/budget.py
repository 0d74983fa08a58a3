"""Budgets: this worker's leases of all campaigns with a goal, and what they mean for decisions.

    before(at_s)             before each decision: what ended is closed; the id of the state line that holds
    served(campaign, at_s)   after each choice: one of the lease is gone; the day it was for
    not_served(campaign, …)  nobody sees it after all: it is taken back
    ask / answered / failed  the errand: one statement a second for all campaigns, sooner when one runs dry
    tick()                   a few times a second
    changed(catalog, …)      another catalog
    leave()                  no decision follows: the errand gives everything back

A campaign with a goal is open in the standing exactly while this worker holds a lease that has something
left and is for today. What was granted is used without asking, so PostgreSQL may be slow or away: campaigns
with a goal then stop, each when its lease is used up, and all others go on. `lease_take` (006_budgets.sql)
says why all workers together never exceed a goal. This side of it:

- One call at a time, each with a higher number; PostgreSQL ignores one that arrives behind a later one.
- What a call gives back is not served from the moment of asking, whatever becomes of the call.
- Nothing is asked before a state line is in the journal. As long as leases are held one follows every few
  seconds, so there is a file as long as this worker may serve, and nobody takes it for dead.
- A lease that could not be renewed for GOOD_FOR_S is used no more. (Long after, others get what is left of
  it.) That is looked at in each tick and, since what runs first after a standstill may be a request, before
  a decision behind a pause; by a clock that goes on while the machine is suspended. Should PostgreSQL have
  taken us for dead all the same, it says so (`since`): then nothing is asked for, and nothing served, until
  every line from before is there.
- What was granted and served before of a campaign that comes back (restored, or by a time zone that was
  changed and changed again) PostgreSQL still has as granted, and it is not served twice.
- The clock on the wall may jump over a midnight, and back: which day it is, is looked at anew then.
- A state line of what changed is written before the decision that sees it (`states`).

Which leases a call is about, and how many in a second, is `turns`' affair: ten thousand campaigns with goals
do not keep the loop from serving.

Must not know: connections, SQL, how a choice is made.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from prefork_ads.ads.catalog import Campaign, Catalog
from prefork_ads.ads.lease import DAY_END_S, LOOK_IDLE_S, Lease
from prefork_ads.ads.pacing import NEUTRAL, UNIFORM, Curve, DayCurve, Goal, Pace, plan_day
from prefork_ads.ads.records import time_zone
from prefork_ads.ads.standing import Standing
from prefork_ads.ads.states import KEEP_ALIVE_S, StateLines
from prefork_ads.ads.turns import MOST, Turns
from prefork_ads.events.event import EventClock

EVERY_S: Final = 1.0
# A lease runs dry between two calls: the next one may come so soon.
SOON_S: Final = 0.1
GOOD_FOR_S: Final = 1800.0
# In a call that gives back, when no decision follows.
MOST_AT_THE_END: Final = 1000
# What is left of a roadblock's lease is written into state lines below this.
FEW_LEFT: Final = 20

# Between two looks at the clock on the wall: nobody has asked for a while, this process or the machine stood
# still, or the clock was put. What is less is a correction, by which ids do not go back (`events.uuid7`).
_JUMP_S: Final = 1.0

# Curves of days that are shared: by sites, time zone and day.
MOST_CURVES: Final = 1000

_LONG_AGO: Final = float("-inf")
_FOR_EVER: Final = float("inf")
Row = tuple[Any, ...]
Key = tuple[int, str]


# Linux's, which goes on while the machine is suspended, as the clocks of others do. macOS has none.
_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def _boot_s() -> float:
    """As `time.monotonic`; where there is such a clock, suspended time counts."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


class Budget:
    """The leases of one worker. An errand."""

    every_s: Final = EVERY_S

    def __init__(
        self,
        holder: str,
        journal: str | None,
        clock: EventClock,
        append_line: Callable[[bytes], bool],
        unshipped_s: Callable[[], float],
        *,
        impression_window_s: float,
        curve: Callable[[Campaign], Curve] = lambda _: UNIFORM,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = _boot_s,
    ) -> None:
        """`holder` is the name of this worker's stream of event lines, `journal` names their directory (None:
        they are in no file).

        `unshipped_s` is the age of the oldest line that is not in PostgreSQL; `curve` the traffic that a
        campaign can have.
        """
        # Set by whoever runs the errand: ask soon.
        self.hurry: Callable[[], None] = lambda: None
        # Set by whoever has the outbox: lines that no answer waits for are written as well.
        self.keep: Callable[[], None] = lambda: None
        self._holder = holder
        self._journal = journal
        self._states = StateLines(clock, append_line)
        self._unshipped_s = unshipped_s
        self._window_s = impression_window_s
        self._curve = curve
        self._now = now
        self._monotonic = monotonic
        self._standing: Standing | None = None
        self._leases: dict[int, Lease] = {}
        self._turns = Turns()
        # Campaigns whose lease nobody has asked for.
        self._new: dict[int, Campaign] = {}
        self._curves: dict[tuple[Curve, str, float, float], DayCurve] = {}
        # Of other days, or of campaigns without a goal: what was served, until PostgreSQL knows.
        self._over: dict[Key, int] = {}
        # The call under way.
        self._turn = 0
        self._asked: dict[Key, int] | None = None
        self._asked_at_s = self._renewed_at_s = monotonic()
        self._stopped = False
        self._since_s: float | None = None
        self._waits_since_s: float | None = None
        self._leaving = False
        # The days that leases are for, when they begin and end; and when the first of them does, by the clock
        # on the wall.
        self._days: dict[tuple[float, float], set[int]] = {}
        self._turns_at_s = _FOR_EVER
        # When it was looked last which day it is, by the clock on the wall.
        self._at_s = 0.0

    # -- decisions ---------------------------------------------------------------------------------

    def before(self, at_s: float) -> str:
        """Call before each decision, with its time. The id of the state line that it is made by."""
        if at_s >= self._turns_at_s:
            self._turn_days(at_s)
        if not -_JUMP_S < at_s - self._at_s < _JUMP_S:
            self._look_at_clocks(at_s)
        self._at_s = at_s
        if self._states.waits:
            self._states.write(self._monotonic())
        return self._states.last

    def served(self, campaign: Campaign, at_s: float) -> str:
        """This campaign was chosen. The day whose lease was used; "" when it needs none."""
        lease = self._leases.get(campaign.id)
        if lease is None:
            return ""
        now_s = self._monotonic()
        lease.serve(now_s)
        if lease.left > 0:
            self._turns.used[campaign.id] = lease
        else:
            self._turns.dry[campaign.id] = lease
            self._say(lease, at_s)
            if now_s - self._asked_at_s >= SOON_S and self._turns.may_hurry(now_s):
                self.hurry()
            return lease.day
        if campaign.roadblock:
            self._say(lease, at_s)
        return lease.day

    def not_served(self, campaign: Campaign, day: str) -> None:
        """What was chosen just now nobody sees: its line was not taken. `day` is what `served` has told."""
        lease = self._leases.get(campaign.id)
        if lease is None or lease.day != day:
            return
        lease.not_served()
        if self._stopped:
            lease.usable = lease.served
        # By the latest decision: another one may have ended its day meanwhile.
        self._say(lease, self._at_s)

    def tick(self) -> None:
        """A few times a second: what ends, and a line that shows that we are alive."""
        now_s, at_s = self._monotonic(), self._now()
        if at_s >= self._turns_at_s:
            self._turn_days(at_s)
        self._look_at_clocks(at_s)
        self._at_s = at_s
        if self._turn and now_s - self._states.written_at_s >= KEEP_ALIVE_S:
            self._states.write(now_s)
            self.keep()
        could_ask = self._asked is None and now_s - self._asked_at_s >= SOON_S
        if could_ask and (self._new or self._turns.are_waiting(now_s)):
            self.hurry()

    @property
    def figures(self) -> tuple[int, int, int]:
        """Leases with something left, how much that is, and campaigns that wait for some."""
        held = unused = waiting = 0
        now_s = self._monotonic()
        for lease in self._leases.values():
            if (left := lease.left) > 0:
                held += 1
                unused += left
            elif lease.due_s < _FOR_EVER and now_s >= lease.rests_until_s:
                waiting += 1
        return held, unused, waiting + len(self._new)

    # -- the catalog -------------------------------------------------------------------------------

    def changed(self, catalog: Catalog, standing: Standing) -> None:
        """Subscribed to `Current`: another catalog is about to be served.

        Its standing has taken over what was said of campaigns that stayed. *Measured*, of 10,000 campaigns
        with 3,000 goals: 3 ms for the first catalog.
        """
        self._standing = standing
        at_s = self._now()
        leased = {c.id: c for c in catalog.campaigns.values() if c.leased}
        for number in self._leases.keys() - leased.keys():
            self._drop(number)
            campaign = catalog.campaigns.get(number)
            if campaign is not None and campaign.bit >= 0:
                standing.reopen(campaign.bit)
        for number in self._new.keys() - leased.keys():
            del self._new[number]
            self._states.forget(number)
        leases, new = self._leases, {}
        for number, campaign in leased.items():
            lease = leases.get(number)
            if lease is None:
                if campaign.bit >= 0:
                    new[number] = campaign
            elif lease.campaign is not campaign:
                # Its goal may be another: look at once.
                had_bit = lease.campaign.bit >= 0
                lease.changed(campaign)
                self._turns.first[number] = lease
                if not had_bit:
                    self._say(lease, at_s, anew=True)
        self._states.say_closed(new.keys() - self._new.keys())
        self._new = new
        if new:
            self.hurry()

    def leave(self) -> None:
        """No decision follows. The next calls give everything back."""
        self._leaving = True
        self._use_no_more()
        self.hurry()

    @property
    def gone(self) -> bool:
        """After `leave`: PostgreSQL has everything back."""
        return not self._over and not any(one.holds_something for one in self._leases.values())

    # -- the errand --------------------------------------------------------------------------------

    def ask(self) -> tuple[str, Mapping[str, Any]] | None:
        now_s, at_s = self._monotonic(), self._now()
        if not self._leases and not self._over and not self._new:
            return None
        if not self._states.last:
            if not self._states.write(now_s):
                # The journal takes nothing: without it nobody would know that we live.
                return None
            self.keep()
        unshipped_s = self._unshipped_s()
        if self._waits_since_s is not None and unshipped_s < now_s - self._waits_since_s:
            self._waits_since_s = None
            self._turns.first.update(self._leases)
        asked: dict[Key, int] = dict(itertools.islice(self._over.items(), MOST))
        ceilings: list[int | None] = [None] * len(asked)
        self._make_leases()
        for lease, want in self._wanted(now_s):
            asked[lease.campaign.id, lease.day] = want
            ceilings.append(lease.pace.ceiling(at_s) if lease.pace is not None else None)
            lease.asks(want)
            self._say(lease, at_s)
        self._turn += 1
        self._asked = asked
        self._asked_at_s = now_s
        return "lease_take", {
            "holder": self._holder,
            "turn": self._turn,
            "journal": self._journal,
            "unshipped_s": unshipped_s,
            "window_s": self._window_s,
            "campaigns": [number for number, _ in asked],
            "days": [day or None for _, day in asked],
            "wants": list(asked.values()),
            "ceilings": ceilings,
        }

    def answered(self, rows: Sequence[Row]) -> None:
        """Rows as `lease_take` gives them."""
        asked, self._asked = self._asked or {}, None
        now_s, at_s = self._monotonic(), self._now()
        self._renewed_at_s = self._asked_at_s
        self._stopped = False
        if rows:
            self._registered(rows[0][11], now_s)
        for key, served in asked.items():
            if self._over.get(key) == served:
                del self._over[key]
        told = set()
        for row in rows:
            if (lease := self._leases.get(row[0])) is not None:
                told.add(row[0])
                self._take(lease, row, now_s, at_s)
        for number, _ in asked:
            if number not in told and (lease := self._leases.get(number)) is not None:
                # PostgreSQL does not know this goal (yet, or any more).
                lease.known_s = now_s
                self._turns.at(lease, now_s + LOOK_IDLE_S)
        if self._new or self._turns.first:
            self.hurry()

    def failed(self) -> None:
        """What was given back may be gone, what was asked for may be ours: the next answer says so."""
        now_s = self._monotonic()
        for number, _ in self._asked or ():
            if (lease := self._leases.get(number)) is not None:
                # Not all of them together again: one of them may be the reason.
                self._turns.at(lease, now_s + random.uniform(0.5, 1.0))  # noqa: S311
        self._asked = None

    def _make_leases(self) -> None:
        for number in list(itertools.islice(self._new, MOST)):
            lease = self._leases[number] = Lease(self._new.pop(number))
            self._turns.first[number] = lease

    def _wanted(self, now_s: float) -> Iterable[tuple[Lease, int]]:
        """The leases to ask about, with what they should be."""
        if self._leaving:
            held = [one for one in self._leases.values() if one.holds_something]
            return [(lease, lease.served) for lease in held[:MOST_AT_THE_END]]
        stops = self._waits_since_s is not None
        return self._turns.next(
            self._leases,
            lambda lease: (
                lease.served
                if stops or not lease.day or lease.campaign.bit < 0
                else lease.wanted(now_s)
            ),
            now_s,
        )

    def _take(self, lease: Lease, row: Row, now_s: float, at_s: float) -> None:
        """One row of the answer."""
        number, date, granted, begins_s, ends_s, had, had_today, committed, today = row[:9]
        campaign, day = lease.campaign, str(date)
        fresh = (lease.day, lease.begins_s, lease.ends_s) != (day, begins_s, ends_s)
        if fresh:
            self._end(lease)
            # What it was granted before, and gave nothing back of any more, it has served.
            served = self._over.pop((number, day), granted)
            lease.start_day(day, begins_s, ends_s, served, now_s)
            # Only now it is known what to ask for.
            self._turns.first[number] = lease
        # Also of a day that was over here once, by a clock that was ahead.
        self._days.setdefault((begins_s, ends_s), set()).add(number)
        self._turns_at_s = min(self._turns_at_s, _next_turn(begins_s, ends_s, at_s))
        reached = (campaign.goal_total is not None and had >= campaign.goal_total) or (
            campaign.goal_daily is not None and had_today >= campaign.goal_daily
        )
        lease.answered(granted, row[9], row[10], reached=reached, now_s=now_s)
        if self._waits_since_s is not None:
            # Lines from before would count as decisions of this lease.
            lease.usable = lease.served
        self._pace(lease, committed - today, today, at_s)
        self._say(lease, at_s)
        self._turns.at(lease, lease.next_s(committed if lease.pace is None else today, now_s, at_s))

    def _pace(self, lease: Lease, before: int, today: int, at_s: float) -> None:
        campaign = lease.campaign
        if campaign.pacing != "even":
            lease.pace, lease.need = None, NEUTRAL
            return
        if lease.pace is None:
            curve = self._day_curve(campaign, lease.begins_s, lease.ends_s)
            goal = Goal(
                campaign.goal_total, campaign.goal_daily, campaign.starts_s, campaign.ends_s
            )
            lease.pace = Pace(plan_day(goal, curve, before), today, at_s)
        lease.pace.saw(today, at_s)
        lease.need = lease.pace.need(today, at_s)

    def _day_curve(self, campaign: Campaign, begins_s: float, ends_s: float) -> DayCurve:
        shape = self._curve(campaign)
        key = shape, campaign.time_zone, begins_s, ends_s
        curve = self._curves.get(key)
        if curve is None:
            if len(self._curves) >= MOST_CURVES:
                self._curves.clear()
            curve = DayCurve(shape, time_zone(campaign.time_zone), begins_s, ends_s)
            self._curves[key] = curve
        return curve

    def _registered(self, since_s: float, now_s: float) -> None:
        """PostgreSQL knows us since then. If not for the first time, what we held was given to others."""
        if self._since_s not in (None, since_s):
            self._over.clear()
            for lease in self._leases.values():
                lease.start_anew(now_s)
            self._close(self._leases)
            self._turns.first.update(self._leases)
            self._waits_since_s = now_s
        self._since_s = since_s

    # -- the end of leases -------------------------------------------------------------------------

    def _end(self, lease: Lease) -> None:
        """Nothing more is served of this day; PostgreSQL is told."""
        if lease.day and (lease.granted or lease.asks_more):
            self._over[lease.campaign.id, lease.day] = lease.served
        if numbers := self._days.get((lease.begins_s, lease.ends_s)):
            numbers.discard(lease.campaign.id)

    def _drop(self, number: int) -> None:
        """It has no goal any more."""
        self._end(self._leases.pop(number))
        self._turns.forget(number)
        self._states.forget(number)

    def _use_no_more(self) -> None:
        for lease in self._leases.values():
            lease.usable = lease.served
        self._close(self._leases)
        self._turns.first.update(self._leases)
        self._stopped = True

    def _turn_days(self, at_s: float) -> None:
        """A day is over, or has begun: so have the leases for it."""
        turns = [_FOR_EVER]
        for (begins_s, ends_s), numbers in list(self._days.items()):
            turns.append(_next_turn(begins_s, ends_s, at_s))
            if at_s < begins_s:
                continue
            if at_s < ends_s - DAY_END_S:
                if begins_s >= self._turns_at_s:
                    for number in numbers:
                        self._say(self._leases[number], at_s)
                continue
            self._close(numbers)
            if at_s >= ends_s:
                for number in numbers:
                    self._turns.first[number] = self._leases[number]
                del self._days[begins_s, ends_s]
        self._turns_at_s = min(turns)
        if self._turns.first and self._asked is None:
            self.hurry()

    def _look_at_clocks(self, at_s: float) -> None:
        """Some time has passed, or has been taken back."""
        if at_s < self._at_s - _JUMP_S:
            self._turn_back(at_s)
        if not self._stopped and self._monotonic() - self._renewed_at_s > GOOD_FOR_S:
            self._use_no_more()

    def _turn_back(self, at_s: float) -> None:
        """The clock was put back, perhaps over a midnight: a day that was over is not, or has not begun."""
        for number, lease in self._leases.items():
            if lease.day:
                self._days.setdefault((lease.begins_s, lease.ends_s), set()).add(number)
        self._turns_at_s = at_s
        self._turn_days(at_s)
        for lease in self._leases.values():
            self._say(lease, at_s)

    def _close(self, numbers: Iterable[int]) -> None:
        """Many at once. *Measured*, 3,000, as at a midnight: 3 ms."""
        are_open = [number for number in numbers if self._states.is_open(number)]
        self._states.say_closed(are_open)
        if self._standing is not None:
            bits = [self._leases[number].campaign.bit for number in are_open]
            self._standing.close_many([bit for bit in bits if bit >= 0])

    # -- the standing ------------------------------------------------------------------------------

    def _say(self, lease: Lease, at_s: float, *, anew: bool = False) -> None:
        """Let the standing, and the next state line, say what the lease allows."""
        campaign, standing = lease.campaign, self._standing
        # Should the clock be put back from here, then this was said too early.
        self._at_s = max(self._at_s, at_s)
        is_open = lease.is_open(at_s)
        few = campaign.roadblock and is_open and lease.left < FEW_LEFT
        left = lease.left if few else None
        news = self._states.say(campaign.id, (is_open, lease.need, left))
        if standing is None or campaign.bit < 0 or not (news or anew):
            return
        (standing.reopen if is_open else standing.close)(campaign.bit)
        standing.set_need(campaign.bit, lease.need)
        if campaign.roadblock:
            standing.set_left(campaign.bit, left)


def _next_turn(begins_s: float, ends_s: float, at_s: float) -> float:
    """When a day begins or ends, by the clock on the wall."""
    moments = (begins_s, ends_s - DAY_END_S, ends_s)
    return next((moment for moment in moments if at_s < moment), _FOR_EVER)
