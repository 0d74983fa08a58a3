"""A budget with a catalog of its own, a clock that is set by hand, and answers as PostgreSQL gives them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson

from prefork_ads.ads.budget import Budget
from prefork_ads.ads.catalog import Campaign, Catalog, Rows
from prefork_ads.ads.pacing import UNIFORM
from prefork_ads.ads.standing import Standing
from prefork_ads.events.event import EventClock
from prefork_ads.events.uuid7 import Uuid7
from tests.unit.catalog_bed import compiled

NOON_S = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
DAY_S = 86_400.0


def rows_of(*campaigns: Mapping[str, Any], **advertiser: Any) -> Rows:
    """A catalog's rows: campaigns 1, 2, … of one advertiser, each with a creative."""
    owner = {
        "id": 1, "key": "a", "name": "A", "status": "active", "allow_repeat": False,
        "cap_hour": None, "cap_day": None, "cap_flight": None, **advertiser,
    }  # fmt: skip
    site = {"id": 1, "key": "s", "name": "S", "domain": "s.example", "status": "active"}
    zone = {
        "id": 1, "key": "z", "site_id": 1, "name": "Z", "status": "active", "sizes": ["300x250"],
        "formats": ["html", "image"], "floor_micros": 0, "fallback": "house",
    }  # fmt: skip
    default = {
        "advertiser_id": 1, "name": "C", "status": "active", "tier": "standard", "weight": 100,
        "starts_at": None, "ends_at": None, "time_zone": "UTC", "goal_kind": None, "goal_total": None,
        "goal_daily": None, "pacing": "asap", "price_model": "cpm", "price_micros": 0, "cap_hour": None,
        "cap_day": None, "cap_flight": None, "roadblock": False, "targeting": {},
    }  # fmt: skip
    creative = {
        "name": "K", "status": "active", "format": "image", "width": 300, "height": 250, "html": None,
        "image_url": "/x.png", "alt": "", "native": None, "click_url": "https://x.example/", "weight": 1,
    }  # fmt: skip
    numbered = list(enumerate(campaigns, 1))
    return {
        "advertiser": {1: owner},
        "site": {1: site},
        "zone": {1: zone},
        "segment": {},
        "campaign": {n: {**default, "id": n, "key": f"c{n}", **c} for n, c in numbered},
        "creative": {
            n: {**creative, "id": n, "key": f"k{n}", "campaign_id": n} for n, _ in numbered
        },
    }


GOAL = {"goal_kind": "impressions", "goal_total": 1000}


class Bed:
    """One worker's budget."""

    def __init__(self, *campaigns: Mapping[str, Any], at_s: float = NOON_S) -> None:
        self.at_s = at_s
        self.lines: list[bytes] = []
        self.takes_lines = True
        self.hurried = 0
        self.unshipped_s = 0.0
        self.budget = Budget(
            "stream",
            "here",
            EventClock(Uuid7(), lambda: int(self.at_s * 1e9)),
            self._append,
            lambda: self.unshipped_s,
            impression_window_s=900,
            curve=lambda _: UNIFORM,
            now=lambda: self.at_s,
            monotonic=lambda: self.at_s,
        )
        self.budget.hurry = self._hurry
        self.load(rows_of(*campaigns))

    def load(self, rows: Rows) -> None:
        """Another catalog."""
        self.catalog: Catalog = compiled(rows)
        before = getattr(self, "standing", None)
        self.standing = Standing(self.catalog) if before is None else before.moved_to(self.catalog)
        self.budget.changed(self.catalog, self.standing)

    def _append(self, line: bytes) -> bool:
        if self.takes_lines:
            self.lines.append(line)
        return self.takes_lines

    def _hurry(self) -> None:
        self.hurried += 1

    # What happens.

    def campaign(self, number: int = 1) -> Campaign:
        return self.catalog.campaigns[number]

    def is_open(self, number: int = 1) -> bool:
        return bool(self.standing.open >> self.campaign(number).bit & 1)

    def ask(self) -> dict[str, Any]:
        asked = self.budget.ask()
        assert asked is not None
        name, parameters = asked
        assert name == "lease_take"
        return dict(parameters)

    def answer(self, *rows: tuple[Any, ...]) -> None:
        self.budget.answered(rows)

    def row(
        self,
        granted: int,
        number: int = 1,
        *,
        day: date | None = None,
        had: int = 0,
        committed: int | None = None,
        room: int = 1000,
        since: float = 1.0,
    ) -> tuple[Any, ...]:
        """What `lease_take` says of a campaign."""
        today = day or datetime.fromtimestamp(self.at_s, UTC).date()
        begins_s = datetime(today.year, today.month, today.day, tzinfo=UTC).timestamp()
        under_way = granted if committed is None else committed
        return (
            *(number, today, granted, begins_s, begins_s + DAY_S),
            *(had, had, under_way, under_way, room, 1, since, self.at_s),
        )

    def grant(self, granted: int, number: int = 1) -> None:
        """From the first call to a lease."""
        self.ask()
        self.answer(self.row(0, number))
        self.ask()
        self.answer(self.row(granted, number))

    def serve(self, times: int = 1, number: int = 1) -> str:
        """As a handler does; the state line of the last decision."""
        state = ""
        for _ in range(times):
            state = self.budget.before(self.at_s)
            assert self.is_open(number)
            self.budget.served(self.campaign(number), self.at_s)
        return state

    def states(self) -> list[dict[str, Any]]:
        """What was written."""
        return [orjson.loads(line.split(b"\t")[3])["state"] for line in self.lines]

    def ids(self) -> list[str]:
        return [line.split(b"\t")[1].decode() for line in self.lines]


def replayed(states: Sequence[Mapping[str, Any]]) -> tuple[set[int], dict[str, int]]:
    """Who is open, and needs, as somebody has them who only reads the lines."""
    opened: set[int] = set()
    needs: dict[str, int] = {}
    for state in states:
        if state.get("full"):
            opened, needs = set(), {}
        opened = (opened | set(state.get("opened", ()))) - set(state.get("closed", ()))
        needs |= state.get("needs", {})
    return opened, needs


def tomorrow(at_s: float) -> date:
    return datetime.fromtimestamp(at_s, UTC).date() + timedelta(days=1)
