"""How often a person has been shown a campaign: what PostgreSQL has counted, and what we have just served.

A cap is so many ads an hour, a day or a flight, of a campaign or of all campaigns of an advertiser. Hours
and days are those on the clock, in the campaign's time zone; an advertiser's are those of UTC.

PostgreSQL counts a decision when its line arrives there. Until then only the worker that made it knows of
it, so each worker remembers its latest decisions for a while. The row of a person names the latest that are
counted in it: ours among them, and all that we made before (lines arrive in their order), are counted,
those after are not. (Before and after by the order in which we made them: ids go back with a clock that was
ahead.) So **a person who is served by one worker never gets more than a cap allows**, and all
requests of one connection are served by one worker. Of a person whose requests are spread over several
workers, each knows what the others have served until a moment ago: a cap can be exceeded by what other
workers serve to the same person within `--write-interval-s`, the time the batch takes, and the delay of a
replica if people are read from one. `tests/integration/test_caps.py` holds it to that.

Memory is bounded: past MOST decisions that may not be counted yet nobody is shown what has a cap, which
breaks no cap. A decision is remembered for `keep_s` after it was found that its line is in PostgreSQL: a
lookup that is under way then may have read the row before.

- A roadblock takes several places at once: it must have room for all of them. So must the ads of an
  advertiser with a cap which may stand on one page together.
- The catalog may have been changed since a row was counted: what has lost its caps is not looked at.

*Measured*: a person with two capped campaigns costs 5 µs, a third of what it cost to look at each campaign
that may be capped, whether or not we have served them just now; one who has seen nothing capped 1 µs.

Must not know: SQL, requests.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from prefork_ads.ads.catalog import Campaign, Catalog
from prefork_ads.ads.facts import NO_SEGMENTS
from prefork_ads.ads.records import Caps as Limits
from prefork_ads.ads.records import time_zone

# After the line is in PostgreSQL, beyond the time of a lookup: a replica that is behind. A
# primary is not, and there a busy worker need not remember so much (*measured*: 6,000 ads a second filled
# the memory within 10 s, and then nothing that has a cap was served).
KEEP_S: Final = 5.0
KEEP_BEHIND_REPLICA_S: Final = 20.0
# Decisions that are remembered. One takes about 400 bytes.
MOST: Final = 100_000
# How often what is too old is looked for.
_SWEEP_S: Final = 1.0

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC).date()

# What stands in a row for each campaign and advertiser.
_FIELDS: Final = 8

# A decision of ours: user, campaign, advertiser, the decision's id, its time. Plain tuples, and tuples of
# them for each user: the garbage collector lets go of a tuple in which nothing can refer to anything.
# *Measured*: as objects and lists they were four fifths of what it visited, for 50 ms.
_Seen = tuple[str, int, int, str, float]
_UID: Final = 0
_CAMPAIGN: Final = 1
_ADVERTISER: Final = 2
_DECISION: Final = 3
_AT_S: Final = 4

# (uid, segments, frequency) as `person_lookup` gives it.
Person = Sequence[Any]
_Key = tuple[str, int]


class _Clock:
    """The hour and the day that a time zone has now; worked out once a quarter of an hour at most."""

    __slots__ = ("_zone", "day", "from_s", "hour_s", "until_s")

    def __init__(self, name: str) -> None:
        self._zone = time_zone(name)
        self.from_s = self.until_s = 0.0
        self.hour_s = 0
        self.day = 0

    def set(self, at_s: float) -> None:
        local = datetime.fromtimestamp(at_s, self._zone)
        past = timedelta(minutes=local.minute, seconds=local.second)
        self.hour_s = int(int(at_s) - past.total_seconds())
        self.day = (local.date() - _EPOCH).days
        # Clocks may jump at any quarter.
        self.from_s = at_s - at_s % 900
        self.until_s = self.from_s + 900


class Caps:
    """What one worker knows of caps."""

    def __init__(
        self, unshipped_s: Callable[[], float], *, keep_s: float = KEEP_S, most: int = MOST
    ) -> None:
        """`unshipped_s` is the age of the oldest event line that is not in PostgreSQL."""
        self._unshipped_s = unshipped_s
        self._keep_s = keep_s
        self._most = most
        self._clocks: dict[str, _Clock] = {}
        self._by_user: dict[str, tuple[_Seen, ...]] = {}
        self._in_order: deque[_Seen] = deque()
        self._swept_at_s = 0.0
        # For each sweep its time, and up to when all lines were shipped then.
        self._shipped: deque[tuple[float, float]] = deque()
        self._counted_s = 0.0

    @staticmethod
    def segments(person: Person | None) -> frozenset[int]:
        """The segments a person is in."""
        return frozenset(person[1]) if person is not None and person[1] else NO_SEGMENTS

    def capped(
        self, catalog: Catalog, uid: str, person: Person | None, at_s: float, places: int = 1
    ) -> int:
        """The mask of the campaigns that this person may not be shown now, on `places` places of a page."""
        if not 0 <= at_s - self._swept_at_s < _SWEEP_S:
            self._sweep(at_s)
        if len(self._in_order) + places > self._most:
            # What is served now could not be remembered.
            return catalog.capped_mask
        ours = self._by_user.get(uid, ())
        text = person[2] if person is not None else None
        if places == 1:
            return self._reached_before(catalog, text or "", ours, at_s) if text or ours else 0
        counted = _read(text) if text else {}
        mask = 0
        rest = catalog.capped_mask
        while rest:
            bit = rest.bit_length() - 1
            rest ^= 1 << bit
            campaign = catalog.by_bit[bit]
            if campaign is not None and self._forbids(campaign, ours, counted, at_s, places):
                mask |= 1 << bit
        return mask

    def served(self, uid: str, campaign: Campaign, decision: str, at_s: float) -> None:
        """A person was shown a campaign by this decision (its id as hex digits)."""
        if not campaign.capped:
            return
        self._remember((uid, campaign.id, campaign.advertiser_id, decision, at_s))

    def _remember(self, seen: _Seen) -> None:
        # Not (*theirs, seen): that makes a list first (*measured*: of 10,000 162 µs and not 46).
        self._by_user[seen[_UID]] = self._by_user.get(seen[_UID], ()) + (seen,)  # noqa: RUF005
        self._in_order.append(seen)

    # -- counting ----------------------------------------------------------------------------------

    def _reached_before(
        self, catalog: Catalog, text: str, ours: Sequence[_Seen], at_s: float
    ) -> int:
        """The usual case, one place: only what was shown before can have reached a cap.

        It is in the row, or we remember it.
        """
        mask = 0
        remembered = _by_key(ours) if ours else {}
        fields = text.split(" ") if text else ()
        for first in range(0, len(fields), _FIELDS):
            kind, number, hour_s, day, hours, days, flights, latest = fields[
                first : first + _FIELDS
            ]
            key = kind, int(number)
            seen: Sequence[_Seen] = remembered.pop(key, ()) if remembered else ()
            capped = _capped_by(catalog, key)
            if capped is None:
                continue
            limits, zone, whom = capped
            clock = self._clock(zone, at_s)
            hour = day_ = flight = 0
            if seen:
                hour, day_, flight = _tally(_not_counted(seen, latest), clock, zone)
            # A later hour than now is there when another worker's clock is ahead of ours.
            if (
                (
                    limits.day is not None
                    and day_ + (int(days) if int(day) >= clock.day else 0) >= limits.day
                )
                or (
                    limits.hour is not None
                    and hour + (int(hours) if int(hour_s) >= clock.hour_s else 0) >= limits.hour
                )
                or (limits.flight is not None and flight + int(flights) >= limits.flight)
            ):
                mask |= whom
        for key, seen in remembered.items():
            capped = _capped_by(catalog, key)
            if capped is not None:
                limits, zone, whom = capped
                if _reach(limits, *_tally(seen, self._clock(zone, at_s), zone)):
                    mask |= whom
        return mask

    def _forbids(
        self,
        campaign: Campaign,
        ours: Sequence[_Seen],
        counted: "dict[_Key, _Counted]",
        at_s: float,
        places: int,
    ) -> bool:
        if campaign.caps is not None:
            more = places if campaign.roadblock else 1
            mine = [seen for seen in ours if seen[_CAMPAIGN] == campaign.id]
            row = counted.get(("c", campaign.id))
            if self._reached(campaign.caps, campaign.time_zone, row, mine, at_s, more):
                return True
        if campaign.advertiser_caps is None:
            return False
        more = places if campaign.allow_repeat or campaign.roadblock else 1
        mine = [seen for seen in ours if seen[_ADVERTISER] == campaign.advertiser_id]
        row = counted.get(("a", campaign.advertiser_id))
        return self._reached(campaign.advertiser_caps, "UTC", row, mine, at_s, more)

    def _reached(
        self,
        limits: Limits,
        zone: str,
        row: "_Counted | None",
        ours: Sequence[_Seen],
        at_s: float,
        more: int,
    ) -> bool:
        """Whether so many more would be too many."""
        if row is None and not ours and more == 1:
            return False
        clock = self._clock(zone, at_s)
        hour = day = flight = more
        if row is not None:
            flight += row.count
            # A later hour than now is there when another worker's clock is ahead of ours.
            hour += row.hour_count if row.hour_s >= clock.hour_s else 0
            day += row.day_count if row.day >= clock.day else 0
            if ours:
                ours = _not_counted(ours, row.latest)
        own_hour, own_day, own_flight = _tally(ours, clock, zone)
        return _reach(limits, hour + own_hour - 1, day + own_day - 1, flight + own_flight - 1)

    def _clock(self, zone: str, at_s: float) -> _Clock:
        clock = self._clocks.get(zone)
        if clock is None:
            clock = self._clocks[zone] = _Clock(zone)
        if not clock.from_s <= at_s < clock.until_s:
            clock.set(at_s)
        return clock

    def _sweep(self, at_s: float) -> None:
        """Forget what must be counted by now."""
        if at_s < self._swept_at_s:
            # The clock was put back: what is of the future would stay, and keep all behind it.
            self._move_back_to(at_s)
            self._shipped.clear()
            self._counted_s = 0.0
        self._swept_at_s = at_s
        shipped = self._shipped
        shipped.append((at_s, at_s - self._unshipped_s()))
        while shipped and shipped[0][0] <= at_s - self._keep_s:
            self._counted_s = shipped.popleft()[1]
        in_order, by_user = self._in_order, self._by_user
        # Both stand in the order in which they were decided: what goes is the first of a person's.
        several: Counter[str] = Counter()
        while in_order and in_order[0][_AT_S] < self._counted_s:
            uid = in_order.popleft()[_UID]
            if len(by_user[uid]) > 1:
                several[uid] += 1
            else:
                del by_user[uid]
        for uid, number in several.items():
            theirs = by_user.pop(uid)[number:]
            if theirs:
                by_user[uid] = theirs

    def _move_back_to(self, at_s: float) -> None:
        by_user: dict[str, list[_Seen]] = {}
        for _ in range(len(self._in_order)):
            uid, campaign, advertiser, decision, seen_at_s = self._in_order.popleft()
            seen = (uid, campaign, advertiser, decision, min(seen_at_s, at_s))
            self._in_order.append(seen)
            by_user.setdefault(uid, []).append(seen)
        self._by_user = {uid: tuple(theirs) for uid, theirs in by_user.items()}


class _Counted:
    """What PostgreSQL has counted of one campaign or advertiser."""

    __slots__ = ("count", "day", "day_count", "hour_count", "hour_s", "latest")

    def __init__(self, fields: Sequence[str]) -> None:
        hour_s, day, hour_count, day_count, count = fields[2:7]
        self.hour_s = int(hour_s)
        self.day = int(day)
        self.hour_count = int(hour_count)
        self.day_count = int(day_count)
        self.count = int(count)
        # As text: whoever looks for one of our ids looks for its 32 digits.
        self.latest = fields[7]


def _read(text: str) -> dict[_Key, _Counted]:
    found = {}
    fields = text.split(" ")
    for first in range(0, len(fields), _FIELDS):
        one = fields[first : first + _FIELDS]
        found[one[0], int(one[1])] = _Counted(one)
    return found


def _not_counted(ours: Sequence[_Seen], latest: str) -> Sequence[_Seen]:
    """Those after the last of ours that is counted. They stand in the order in which they were decided."""
    for place in range(len(ours) - 1, -1, -1):
        if ours[place][_DECISION] in latest:
            return ours[place + 1 :]
    return ours


def _by_key(ours: Sequence[_Seen]) -> dict[_Key, Sequence[_Seen]]:
    """By what may be capped, as rows are."""
    if len(ours) == 1:
        (seen,) = ours
        return {("c", seen[_CAMPAIGN]): ours, ("a", seen[_ADVERTISER]): ours}
    found: dict[_Key, list[_Seen]] = {}
    for seen in ours:
        found.setdefault(("c", seen[_CAMPAIGN]), []).append(seen)
        found.setdefault(("a", seen[_ADVERTISER]), []).append(seen)
    return dict(found)


def _capped_by(catalog: Catalog, key: _Key) -> tuple[Limits, str, int] | None:
    """Limits of a campaign or advertiser, whose clock counts, and whom they stop; None: there are none."""
    kind, number = key
    if kind == "c":
        campaign = catalog.campaigns.get(number)
        if campaign is None or campaign.bit < 0 or campaign.caps is None:
            return None
        return campaign.caps, campaign.time_zone, 1 << campaign.bit
    theirs = catalog.advertiser_mask.get(number, 0)
    one = catalog.by_bit[theirs.bit_length() - 1] if theirs else None
    if one is None or one.advertiser_caps is None:
        return None
    return one.advertiser_caps, "UTC", theirs


def _tally(ours: Sequence[_Seen], clock: _Clock, zone: str) -> tuple[int, int, int]:
    """How many were in this hour, on this day and at all."""
    hour = day = 0
    for *_, seen_at_s in ours:
        if seen_at_s >= clock.hour_s:
            hour += 1
            day += 1
        # By the zone's clock of then. It is dear, and our own decisions are seconds old.
        elif _day_of(seen_at_s, zone) >= clock.day:
            day += 1
    return hour, day, len(ours)


def _reach(limits: Limits, hour: int, day: int, flight: int) -> bool:
    """Whether so many are as many as there may be."""
    return (
        (limits.hour is not None and hour >= limits.hour)
        or (limits.day is not None and day >= limits.day)
        or (limits.flight is not None and flight >= limits.flight)
    )


def _day_of(at_s: float, zone: str) -> int:
    return (datetime.fromtimestamp(at_s, time_zone(zone)).date() - _EPOCH).days
