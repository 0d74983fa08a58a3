"""State lines: what budgets and pacing said of campaigns, written down before a decision is made by it.

A decision's line names the last state line before it. Whoever replays the decision begins with the last
full one (`"full": true`), where each campaign with a goal stands as closed or opened and each need that is
not neutral, and adds the differences up to the one that is named. There is a full one at a worker's start
and each FULL_EVERY_S; each names the one before it (`after`), so a gap would show.

    {"state": {"full": true, "closed": [7], "opened": [3, 4], "needs": {"3": 8}}}
    {"state": {"after": "0197…", "closed": [4], "needs": {"3": 4}, "left": {"9": 2}}}

`left` says how many places a roadblock may still have, when that is few: it decides whether it fits a page.

Changes are gathered and written when the next decision is about to be made, in one line, so a lease that
ends costs nothing but its turn. A line is also written every KEEP_ALIVE_S while this worker holds leases,
changes or not: it keeps a file of this worker in the journal's directory, by which everybody can see that
it may still be alive (`lease_settle`).

Must not know: leases, the database.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from prefork_ads.ads.pacing import NEUTRAL
from prefork_ads.events.ad_records import STATE
from prefork_ads.events.event import EventClock, line
from prefork_ads.events.parameters import to_json

FULL_EVERY_S: Final = 60.0
# Well below the time after which an idle segment of the journal goes (`journal.IDLE_S`).
KEEP_ALIVE_S: Final = 3.0

AppendLine = Callable[[bytes], bool]
# Open or closed, the need, and what is left of a roadblock's lease if that is few.
Said = tuple[bool, int, int | None]
_CLOSED: Final[Said] = (False, NEUTRAL, None)


class StateLines:
    """What was said and written, and what was not written yet."""

    def __init__(self, clock: EventClock, append_line: AppendLine) -> None:
        self._clock = clock
        self._append_line = append_line
        self._said: dict[int, Said] = {}
        self._written: dict[int, Said] = {}
        self._changed: set[int] = set()
        self._full_at_s = 0.0
        self._stale = True
        self.written_at_s = 0.0
        # The id of the last line; "" before the first.
        self.last = ""

    @property
    def waits(self) -> bool:
        """Whether something changed since the last line."""
        return bool(self._changed) or self._stale

    def say(self, campaign: int, said: Said) -> bool:
        """This holds from now on. False: it did before."""
        if self._said.get(campaign) == said:
            return False
        self._said[campaign] = said
        self._changed.add(campaign)
        return True

    def is_open(self, campaign: int) -> bool:
        """What was said of it last."""
        return self._said.get(campaign, _CLOSED)[0]

    def say_closed(self, campaigns: Iterable[int]) -> None:
        """These are closed from now on; of one that is new nothing else is said."""
        for campaign in campaigns:
            before = self._said.get(campaign, _CLOSED)
            self._said[campaign] = _CLOSED if before is _CLOSED else (False, before[1], None)
            self._changed.add(campaign)

    def forget(self, campaign: int) -> None:
        """It has no goal any more: nothing is said of it."""
        if self._said.pop(campaign, None) is not None:
            self._written.pop(campaign, None)
            self._changed.discard(campaign)
            # The next line says all, and nothing of this one.
            self._stale = True

    def write(self, now_s: float) -> bool:
        """Write what is not written. False: the journal does not take it; it stays unwritten."""
        full = self._stale or now_s >= self._full_at_s
        state: dict[str, Any] = {"after": self.last} if self.last else {}
        state.update(self._all() if full else self._differences())
        stamp = self._clock.stamp()
        if not self._append_line(
            line(stamp, STATE, to_json({"state": state}), None, None, "", None)
        ):
            return False
        self.last = stamp[-32:].decode()
        self.written_at_s = now_s
        if full:
            self._stale = False
            self._full_at_s = now_s + FULL_EVERY_S
            self._written = dict(self._said)
        else:
            for campaign in self._changed:
                self._written[campaign] = self._said[campaign]
        self._changed.clear()
        return True

    def _all(self) -> dict[str, Any]:
        """Everything that is said. *Measured*, of 3,000 campaigns: 1.4 ms."""
        said = self._said.items()
        state: dict[str, Any] = {
            "closed": [campaign for campaign, (is_open, _, _) in said if not is_open],
            "opened": [campaign for campaign, (is_open, _, _) in said if is_open],
            "needs": {str(campaign): need for campaign, (_, need, _) in said if need != NEUTRAL},
            "left": {str(campaign): left for campaign, (_, _, left) in said if left is not None},
        }
        return {"full": True, **{name: value for name, value in state.items() if value}}

    def _differences(self) -> dict[str, Any]:
        closed: list[int] = []
        opened: list[int] = []
        needs: dict[str, int] = {}
        left: dict[str, int | None] = {}
        for campaign in sorted(self._changed):
            now, then = self._said[campaign], self._written.get(campaign)
            if then is None or now[0] != then[0]:
                (opened if now[0] else closed).append(campaign)
            if now[1] != (NEUTRAL if then is None else then[1]):
                needs[str(campaign)] = now[1]
            if now[2] != (None if then is None else then[2]):
                left[str(campaign)] = now[2]
        state = {"closed": closed, "opened": opened, "needs": needs, "left": left}
        return {name: value for name, value in state.items() if value}
