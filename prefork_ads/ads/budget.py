"""Budgets: this worker's leases of all campaigns with a goal, and what they mean for decisions.

    before(at_s)             before each decision: what ended is closed; the id of the state line that holds
    served(campaign, at_s)   after each choice: one of the lease is gone; the day it was for
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
  it.) Should PostgreSQL have taken us for dead all the same, it says so (`since`): then nothing is asked
  for until every line from before is there.
- A state line of what changed is written before the decision that sees it (`states`).

*Measured*: `before` and `served` together 1.1 µs for each decision.

Each call is about the leases that were used since the last one, and some of the others in turn, so ten
thousand campaigns with goals do not keep the loop from serving.

Must not know: connections, SQL, how a choice is made.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from prefork_ads.ads.catalog import Campaign, Catalog
from prefork_ads.ads.lease import DAY_END_S, Lease
from prefork_ads.ads.pacing import NEUTRAL, UNIFORM, Curve, DayCurve, Goal, Pace, plan_day
from prefork_ads.ads.records import time_zone
from prefork_ads.ads.standing import Standing
from prefork_ads.ads.states import KEEP_ALIVE_S, StateLines
from prefork_ads.events.event import EventClock

EVERY_S: Final = 1.0
# A lease runs dry between two calls: the next one may come so soon.
SOON_S: Final = 0.1
# After midnight, until PostgreSQL says that it is another day.
ASK_DAY_AGAIN_S: Final = 0.5
GOOD_FOR_S: Final = 1800.0
# Leases in one call, and those that are looked at in turn for it.
MOST: Final = 500
IN_TURN: Final = 1000
# What is left of a roadblock's lease is written into state lines below this.
FEW_LEFT: Final = 20

_LONG_AGO: Final = float("-inf")
Row = tuple[Any, ...]
Key = tuple[int, str]


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
        monotonic: Callable[[], float] = time.monotonic,
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
        # Those to ask about before others; and where the round of all others is.
        self._urgent: dict[int, Lease] = {}
        self._round: list[int] = []
        # Of other days, or of campaigns without a goal: what was served, until PostgreSQL knows.
        self._over: dict[Key, int] = {}
        # The call under way.
        self._turn = 0
        self._asked: dict[Key, int] | None = None
        self._asked_at_s = self._renewed_at_s = monotonic()
        self._dry = False
        self._since_s: float | None = None
        self._waits_since_s: float | None = None
        self._leaving = False
        # When the first of the leases ends, or begins, by the clock on the wall.
        self._turns_at_s = float("inf")

    # -- decisions ---------------------------------------------------------------------------------

    def before(self, at_s: float) -> str:
        """Call before each decision, with its time. The id of the state line that it is made by."""
        if at_s >= self._turns_at_s:
            self._turn_days(at_s)
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
        self._urgent[campaign.id] = lease
        if lease.left <= 0:
            self._dry = True
            self._say(lease, at_s)
            if now_s - self._asked_at_s >= SOON_S:
                self.hurry()
        elif campaign.roadblock:
            self._say(lease, at_s)
        return lease.day

    def tick(self) -> None:
        """A few times a second: what ends, and a line that shows that we are alive."""
        now_s, at_s = self._monotonic(), self._now()
        if at_s >= self._turns_at_s:
            self._turn_days(at_s)
        if now_s - self._renewed_at_s > GOOD_FOR_S:
            self._use_no_more(at_s)
        if self._turn and now_s - self._states.written_at_s >= KEEP_ALIVE_S:
            self._states.write(now_s)
            self.keep()
        if self._dry and self._asked is None and now_s - self._asked_at_s >= SOON_S:
            self.hurry()

    # -- the catalog -------------------------------------------------------------------------------

    def changed(self, catalog: Catalog, standing: Standing) -> None:
        """Subscribed to `Current`: another catalog is about to be served."""
        self._standing = standing
        at_s = self._now()
        for number in list(self._leases):
            campaign = catalog.campaigns.get(number)
            if campaign is None or not campaign.leased:
                self._drop(number)
                if campaign is not None and campaign.bit >= 0:
                    standing.reopen(campaign.bit)
        for campaign in catalog.campaigns.values():
            if not campaign.leased:
                continue
            lease = self._leases.get(campaign.id)
            if lease is None:
                if campaign.bit >= 0:
                    lease = self._leases[campaign.id] = Lease(campaign)
                    self._urgent[campaign.id] = lease
                    self._say(lease, at_s)
            elif lease.campaign is not campaign:
                # Its goal may be another: look at once.
                lease.changed(campaign)
                self._urgent[campaign.id] = lease
                self._say(lease, at_s, anew=True)

    def leave(self) -> None:
        """No decision follows. The next calls give everything back."""
        self._leaving = True
        self._use_no_more(self._now())
        self._urgent.update(self._leases)
        self.hurry()

    @property
    def gone(self) -> bool:
        """After `leave`: PostgreSQL has everything back."""
        return not self._over and all(one.granted <= one.served for one in self._leases.values())

    # -- the errand --------------------------------------------------------------------------------

    def ask(self) -> tuple[str, Mapping[str, Any]] | None:
        now_s, at_s = self._monotonic(), self._now()
        if not self._leases and not self._over:
            return None
        if not self._states.last:
            if not self._states.write(now_s):
                # The journal takes nothing: without it nobody would know that we live.
                return None
            self.keep()
        unshipped_s = self._unshipped_s()
        if self._waits_since_s is not None and unshipped_s < now_s - self._waits_since_s:
            self._waits_since_s = None
        asked: dict[Key, int] = dict(itertools.islice(self._over.items(), MOST // 2))
        ceilings: list[int | None] = [None] * len(asked)
        for lease, want in self._wanted(now_s, MOST - len(asked)):
            asked[lease.campaign.id, lease.day] = want
            ceilings.append(lease.pace.ceiling(at_s) if lease.pace is not None else None)
            lease.asks(want)
            self._say(lease, at_s)
        self._turn += 1
        self._asked = asked
        self._asked_at_s = now_s
        self._dry = False
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
        if rows:
            self._registered(rows[0][11], now_s)
        for key, served in asked.items():
            if self._over.get(key) == served:
                del self._over[key]
            if (lease := self._leases.get(key[0])) is not None:
                # Also where no row comes: PostgreSQL may not know this goal (yet, or any more).
                lease.known_s = now_s
        fresh = False
        for row in rows:
            if (lease := self._leases.get(row[0])) is not None:
                fresh |= self._take(lease, row, now_s, at_s)
        if fresh and not self._leaving:
            self.hurry()

    def failed(self) -> None:
        """What was given back may be gone, what was asked for may be ours: the next answer says so."""
        for number, _ in self._asked or ():
            if (lease := self._leases.get(number)) is not None:
                self._urgent[number] = lease
        self._asked = None

    def _wanted(self, now_s: float, most: int) -> list[tuple[Lease, int]]:
        """The leases to ask about, the most urgent first, with what they should be."""
        if not self._round:
            self._round = list(self._leases)
        turn, self._round = self._round[:IN_TURN], self._round[IN_TURN:]
        looked_at = self._urgent
        self._urgent = {}
        for number in turn:
            if (lease := self._leases.get(number)) is not None:
                looked_at[number] = lease
        due = []
        for lease in looked_at.values():
            stops = self._leaving or self._waits_since_s is not None or lease.campaign.bit < 0
            want = lease.served if stops or not lease.day else lease.wanted(now_s)
            if lease.is_due(want, now_s):
                due.append((lease, want))
        if len(due) > most:
            due.sort(key=lambda pair: pair[0].left > 0)
            self._urgent.update((lease.campaign.id, lease) for lease, _ in due[most:])
        return due[:most]

    def _take(self, lease: Lease, row: Row, now_s: float, at_s: float) -> bool:
        """One row of the answer. True: only now it is known what to ask for."""
        number, date, granted, begins_s, ends_s, had, had_today, committed, today = row[:9]
        campaign, day = lease.campaign, str(date)
        fresh = lease.day != day
        if fresh:
            self._end(lease)
            served = self._over.pop((number, day), 0)
            lease.start_day(day, begins_s, ends_s, served, now_s)
            self._urgent[number] = lease
        reached = (campaign.goal_total is not None and had >= campaign.goal_total) or (
            campaign.goal_daily is not None and had_today >= campaign.goal_daily
        )
        lease.answered(granted, row[9], row[10], reached=reached, now_s=now_s)
        self._pace(lease, committed - today, today, at_s)
        self._say(lease, at_s)
        self._turns_at_s = min(self._turns_at_s, _next_turn(lease, at_s))
        return fresh

    def _pace(self, lease: Lease, before: int, today: int, at_s: float) -> None:
        campaign = lease.campaign
        if campaign.pacing != "even":
            lease.pace, lease.need = None, NEUTRAL
            return
        if lease.pace is None:
            zone = time_zone(campaign.time_zone)
            curve = DayCurve(self._curve(campaign), zone, lease.begins_s, lease.ends_s)
            goal = Goal(
                campaign.goal_total, campaign.goal_daily, campaign.starts_s, campaign.ends_s
            )
            lease.pace = Pace(plan_day(goal, curve, before), today, at_s)
        lease.pace.saw(today, at_s)
        lease.need = lease.pace.need(today, at_s)

    def _registered(self, since_s: float, now_s: float) -> None:
        """PostgreSQL knows us since then. If not for the first time, what we held was given to others."""
        if self._since_s not in (None, since_s):
            self._over.clear()
            for lease in self._leases.values():
                lease.start_anew(now_s)
                self._say(lease, self._now())
            self._waits_since_s = now_s
        self._since_s = since_s

    # -- the end of leases -------------------------------------------------------------------------

    def _end(self, lease: Lease) -> None:
        """Nothing more is served of this day; PostgreSQL is told."""
        if lease.day and lease.granted:
            self._over[lease.campaign.id, lease.day] = lease.served

    def _drop(self, number: int) -> None:
        """It has no goal any more."""
        self._end(self._leases.pop(number))
        self._urgent.pop(number, None)
        self._states.forget(number)

    def _use_no_more(self, at_s: float) -> None:
        for lease in self._leases.values():
            lease.usable = lease.served
            self._say(lease, at_s)

    def _turn_days(self, at_s: float) -> None:
        """A lease's day is over, or has begun."""
        turns = [float("inf")]
        for number, lease in self._leases.items():
            self._say(lease, at_s)
            turns.append(_next_turn(lease, at_s))
            if lease.day and at_s >= lease.ends_s:
                lease.known_s = _LONG_AGO
                self._urgent[number] = lease
                self._dry = True
        self._turns_at_s = min(turns)
        if self._dry and self._asked is None:
            self.hurry()

    # -- the standing ------------------------------------------------------------------------------

    def _say(self, lease: Lease, at_s: float, *, anew: bool = False) -> None:
        """Let the standing, and the next state line, say what the lease allows."""
        campaign, standing = lease.campaign, self._standing
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


def _next_turn(lease: Lease, at_s: float) -> float:
    """When the lease's day begins or ends, by the clock on the wall."""
    if not lease.day:
        return float("inf")
    moments = (lease.begins_s, lease.ends_s - DAY_END_S, lease.ends_s)
    return next((moment for moment in moments if at_s < moment), at_s + ASK_DAY_AGAIN_S)
