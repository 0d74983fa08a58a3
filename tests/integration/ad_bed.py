"""A catalog, lines about ads, ways to ship them, and a plain model of what must come of them."""

import asyncio
import datetime
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import uvloop

from prefork_ads.db import adoption
from prefork_ads.db.shipping import Attribution
from prefork_ads.db.writer import Batching, Writer
from prefork_ads.events import ad_records
from prefork_ads.events.ad_records import AdEvent, Conversion, Decision, PriceModel
from prefork_ads.events.event import line
from prefork_ads.events.journal import Journal
from prefork_ads.events.memory_journal import MemoryJournal
from prefork_ads.events.segments import adopt, list_segments, new_stream
from prefork_ads.metrics import CELLS, Gauge
from tests.conftest import Database

UTC: Final = datetime.UTC
NOON: Final = datetime.datetime.now(UTC).replace(hour=11, minute=58, second=0, microsecond=0)
CLICK_WINDOW: Final = datetime.timedelta(hours=2)
VIEW_WINDOW: Final = datetime.timedelta(minutes=30)
ATTRIBUTION: Final = Attribution(CLICK_WINDOW.total_seconds(), VIEW_WINDOW.total_seconds())

CATALOG: Final = """
    INSERT INTO advertiser (key, name, cap_day) VALUES ('acme', 'Acme', NULL), ('other', 'Other', 9);
    INSERT INTO site (key, name, domain) VALUES ('news', 'News', 'news.example');
    INSERT INTO zone (key, site_id, name, sizes) VALUES ('home', 1, 'Home', '{300x250}'),
                                                        ('sport', 1, 'Sport', '{300x250}');
    INSERT INTO campaign (key, advertiser_id, name, goal_kind, goal_total, goal_daily, price_model, time_zone)
    VALUES ('shown', 1, 'A goal in impressions', 'impressions', 3, 2, 'cpm', 'Pacific/Auckland'),
           ('clicked', 1, 'A goal in clicks', 'clicks', 2, NULL, 'cpc', 'UTC'),
           ('sold', 2, 'Without a goal', NULL, NULL, NULL, 'cpa', 'America/New_York');
    SELECT request_log_ensure((now() AT TIME ZONE 'UTC')::date - 2, (now() AT TIME ZONE 'UTC')::date + 1);
"""


def decision_id(number: int, at: datetime.datetime) -> str:
    """A version 7 uuid of this moment."""
    return f"{int(at.timestamp() * 1000):012x}7{number & 0xFFF:03x}8{number:015x}"


def uid(number: int) -> str:
    return f"{number:032x}"


def stamp(at: datetime.datetime, id_hex: str) -> bytes:
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}+00\t{id_hex}".encode()


def ad_line(at: datetime.datetime, id_hex: str, endpoint: bytes, params: bytes) -> bytes:
    return line(stamp(at, id_hex), endpoint, params, b"test", None, "192.0.2.1", None)


def decision_line(at: datetime.datetime, id_hex: str, decision: Decision) -> bytes:
    params = ad_records.decision_params({"zone": "home", "decision": {"zone": "a lie"}}, decision)
    return ad_line(at, id_hex, ad_records.DECISION, params)


def event_line(at: datetime.datetime, kind: str, event: AdEvent, number: int = 0) -> bytes:
    params = ad_records.event_params({"event": {"decision": "a lie"}}, event)
    return ad_line(at, decision_id(number, at), kind.encode(), params)


def conversion_line(at: datetime.datetime, conversion: Conversion, number: int = 0) -> bytes:
    params = ad_records.conversion_params({}, conversion)
    return ad_line(at, decision_id(number, at), ad_records.CONVERSION, params)


def log_line(at: datetime.datetime, number: int) -> bytes:
    """A line that is not about ads and tries hard to look as if it were."""
    params = b'{"request":{},"event":{"decision":"' + uid(number).encode() + b'"}}'
    return line(stamp(at, decision_id(number, at)), b"log", params, b"decision", b"click", "", b"x")


# -- shipping --------------------------------------------------------------------------------------


def writer_of(dsn: str, journal: Journal | MemoryJournal, rows: int, said: list[str]) -> Writer:
    return Writer(
        dsn,
        journal,
        Batching(rows=rows, bytes=1 << 20, interval_s=0.01),
        [0] * CELLS,
        [0] * len(Gauge),
        said.append,
        ATTRIBUTION,
    )


def ship_by_copy(database: Database, lines: Sequence[bytes], rows: int = 1000) -> list[str]:
    """As a living worker does; what its writer said."""
    said: list[str] = []

    async def scenario() -> None:
        name = new_stream("test", 1, 0)
        journal = MemoryJournal(name, max_rows=100_000, max_bytes=1 << 26)
        for text in lines:
            assert journal.append(text)
        journal.write()
        writer = writer_of(database.dsn, journal, rows, said)
        writer.stop()
        async with asyncio.timeout(60):
            await writer.run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
    return said


def leave(folder: Path, lines: Sequence[bytes]) -> Path:
    """A segment as a killed worker leaves it."""
    folder.mkdir(exist_ok=True)
    before = {file.path for file in list_segments(folder)}
    journal = Journal(folder, new_stream("test", 2, 1_700_000_000), segment_bytes=1 << 26)
    for text in lines:
        assert journal.append(text)
    journal.write()
    journal.close()
    [path] = {file.path for file in list_segments(folder)} - before
    return path


def ship_segment(database: Database, path: Path, rows: int = 1000) -> adoption.Outcome:
    """As the keeper does what a dead worker has left."""
    segment = adopt(path)
    assert segment is not None
    with segment, adoption.connection(database.dsn) as connection:
        return adoption.ship(
            connection,
            segment,
            max_rows=rows,
            max_bytes=1 << 20,
            now_unix_s=1_700_000_001.0,
            attribution=ATTRIBUTION,
        )


def ship_by_insert(
    database: Database, folder: Path, lines: Sequence[bytes], rows: int = 1000
) -> adoption.Outcome:
    return ship_segment(database, leave(folder, lines), rows)


# -- what is in the tables -------------------------------------------------------------------------


def differences(database: Database) -> list[tuple[Any, ...]]:
    """Where the rollup is not what the raw tables say, in one snapshot."""
    return database.fetch("SELECT * FROM rollup_check('-infinity', 'infinity')")


def rows_of(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with closing(database.connect()) as conn, conn.cursor() as cursor:
        cursor.execute("SET timezone = 'Asia/Kolkata'")
        cursor.execute(statement)
        return cursor.fetchall()


# -- the model -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Placed:
    """A decision of the model, with what its token says ever after."""

    id_hex: str
    at: datetime.datetime
    zone: int
    campaign: int
    country: str
    device: str
    uid: str | None
    filtered: str | None = None

    @property
    def model(self) -> PriceModel:
        models: dict[int, PriceModel] = {1: "cpm", 2: "cpc"}
        return models.get(self.campaign, "cpa")

    def decision(self) -> Decision:
        said: Decision = {"zone": self.zone}
        if self.campaign:
            said["campaign"], said["creative"] = self.campaign, 10 + self.campaign
        for name in ("country", "device", "filtered"):
            if getattr(self, name):
                said[name] = getattr(self, name)
        said["version"] = 7
        if self.uid:
            said["uid"] = self.uid
        if self.campaign:
            said["model"], said["price"] = self.model, 1500
            if self.campaign in GOALS:
                said["leased"] = day_of(self.campaign, self.at).isoformat()
            if self.campaign == 3 and self.uid:
                said["caps"] = True
        return said

    def event(self, filtered: str | None = None) -> AdEvent:
        said: AdEvent = {
            "decision": self.id_hex,
            "zone": self.zone,
            "campaign": self.campaign,
            "creative": 10 + self.campaign,
            "price": 1500,
            "model": self.model,
        }
        for name, value in (
            ("country", self.country),
            ("device", self.device),
            ("uid", self.uid),
            ("filtered", filtered),
        ):
            if value:
                said[name] = value  # type: ignore[literal-required]
        return said


# Kind, total, daily.
GOALS: Final[dict[int, tuple[str, int, int | None]]] = {
    1: ("impression", 3, 2),
    2: ("click", 2, None),
}
ZONES: Final = {1: "Pacific/Auckland", 2: "UTC", 3: "America/New_York"}
ADVERTISERS: Final = {1: 1, 2: 1, 3: 2}


def day_of(campaign: int, at: datetime.datetime) -> datetime.date:
    return at.astimezone(ZoneInfo(ZONES[campaign])).date()


def _hour(at: datetime.datetime) -> datetime.datetime:
    return at.replace(minute=0, second=0, microsecond=0)


@dataclass(slots=True)
class Model:
    """What must be in the tables, told line by line in the order of shipping."""

    events: dict[tuple[str, str], tuple[Placed, datetime.datetime, str | None]] = field(
        default_factory=dict
    )
    orders: dict[tuple[int, str], tuple[str | None, str | None]] = field(default_factory=dict)
    rollup: defaultdict[tuple[Any, ...], Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    billed: Counter[tuple[int, datetime.date, str]] = field(default_factory=Counter)
    leased: Counter[tuple[int, datetime.date]] = field(default_factory=Counter)
    minutes: Counter[tuple[int, datetime.datetime, datetime.date, str]] = field(
        default_factory=Counter
    )
    shown: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    def decided(self, placed: Placed) -> None:
        sums = self._sums(placed, placed.filtered)
        sums["requests"] += 1
        if not placed.campaign:
            return
        sums["fills"] += 1
        if placed.campaign in GOALS:
            day = day_of(placed.campaign, placed.at)
            self.leased[placed.campaign, day] += 1
            self.minutes[placed.campaign, _minute(placed.at), day, "decisions"] += 1
        if placed.campaign == 3 and placed.uid:
            # Its advertiser has a cap, it has none.
            self.shown[placed.uid, "a", 2] += 1

    def happened(self, kind: str, placed: Placed, at: datetime.datetime, why: str | None) -> None:
        if (placed.id_hex, kind) in self.events:
            first, _, by = self.events[placed.id_hex, kind]
            if kind != "click" or why or not (by or "").startswith("bot: "):
                return
            # A person's click takes the place of a program's.
            self._sums(first, by)["clicks"] -= 1
        day = day_of(placed.campaign, placed.at)
        goal_kind, total, daily = GOALS.get(placed.campaign, ("", 0, None))
        if why is None and goal_kind == kind:
            today = self.billed[placed.campaign, day, kind]
            ever = sum(
                n for (c, _, k), n in self.billed.items() if (c, k) == (placed.campaign, kind)
            )
            if ever >= total or (daily is not None and today >= daily):
                why = "over goal"
        self.events[placed.id_hex, kind] = (placed, at, why)
        if kind == "impression" and placed.campaign in GOALS:
            self.minutes[placed.campaign, _minute(placed.at), day, "impressions"] += 1
        if why is None and kind in ("impression", "click"):
            self.billed[placed.campaign, day, kind] += 1
        sums = self._sums(placed, why)
        sums[{"impression": "impressions", "click": "clicks"}.get(kind, kind)] += 1
        if why is None and (placed.model, kind) in (("cpm", "impression"), ("cpc", "click")):
            sums["spend"] += 1500 if kind == "impression" else 1_500_000

    def ordered(self, order: Conversion, at: datetime.datetime) -> None:
        key = (order["advertiser"], order["order"])
        if key in self.orders:
            return
        found = self._cause(order, at)
        self.orders[key] = (found[0].id_hex, found[1]) if found else (None, None)
        if found:
            sums = self._sums(found[0], order.get("filtered"))
            sums["conversions"] += 1
            sums["value"] += order.get("value", 0)
            if found[0].model == "cpa" and "filtered" not in order:
                sums["spend"] += 1_500_000

    def _cause(self, order: Conversion, at: datetime.datetime) -> tuple[Placed, str] | None:
        candidates = []
        for (id_hex, kind), (placed, then, why) in self.events.items():
            window = {"click": CLICK_WINDOW, "impression": VIEW_WINDOW}.get(kind)
            if why or window is None or ADVERTISERS[placed.campaign] != order["advertiser"]:
                continue
            if not at - window <= then <= at:
                continue
            if kind == "click" and id_hex == order.get("decision"):
                candidates.append((3, then, id_hex, placed, "click"))
            elif placed.uid and placed.uid == order.get("uid"):
                rank, how = (2, "click") if kind == "click" else (1, "view")
                candidates.append((rank, then, id_hex, placed, how))
        if not candidates:
            return None
        best = max(candidates, key=lambda one: one[:3])
        return best[3], best[4]

    def _sums(self, placed: Placed, why: str | None) -> Counter[str]:
        creative = 10 + placed.campaign if placed.campaign else 0
        key = (_hour(placed.at), placed.zone, placed.campaign, creative)
        return self.rollup[(*key, placed.country, placed.device, why is not None)]

    def compare(self, database: Database) -> None:
        """Fail unless the tables say the same."""
        events = rows_of(database, "SELECT decision::text, kind, filtered FROM ad_event")
        assert {(d.replace("-", ""), k): why for d, k, why in events} == {
            key: why for key, (_, _, why) in self.events.items()
        }
        orders = rows_of(
            database,
            "SELECT advertiser_id, order_id, replace(decision::text, '-', ''), attributed_to FROM conversion",
        )
        assert {(a, o): (d, how) for a, o, d, how in orders} == self.orders
        rollup = rows_of(
            database,
            "SELECT hour, zone_id, campaign_id, creative_id, country, device, filtered, requests, fills,"
            " impressions, viewable, clicks, conversions, value_micros, spend_nanos FROM rollup_hour",
        )
        names = [
            "requests",
            "fills",
            "impressions",
            "viewable",
            "clicks",
            "conversions",
            "value",
            "spend",
        ]
        assert {row[:7]: +Counter(dict(zip(names, row[7:], strict=True))) for row in rollup} == {
            key: +sums for key, sums in self.rollup.items() if any(sums.values())
        }
        self._compare_budgets(database)
        assert differences(database) == []

    def _compare_budgets(self, database: Database) -> None:
        days = rows_of(
            database, "SELECT campaign_id, day, decisions, impressions, clicks FROM delivery_day"
        )
        wanted: defaultdict[tuple[int, datetime.date], list[int]] = defaultdict(lambda: [0, 0, 0])
        for (campaign, day), n in self.leased.items():
            wanted[campaign, day][0] += n
        for (campaign, day, kind), n in self.billed.items():
            wanted[campaign, day][1 if kind == "impression" else 2] += n
        wanted = defaultdict(list, {key: sums for key, sums in wanted.items() if any(sums)})
        assert {(c, d): sums for c, d, *sums in days} == wanted
        minutes = rows_of(
            database, "SELECT campaign_id, minute, day, decisions, impressions FROM delivery_minute"
        )
        found = Counter[tuple[int, datetime.datetime, datetime.date, str]]()
        for campaign, minute, day, decisions, impressions in minutes:
            found[campaign, minute, day, "decisions"] += decisions
            found[campaign, minute, day, "impressions"] += impressions
        assert +found == +self.minutes
        shown = rows_of(
            database,
            "SELECT replace(uid::text, '-', ''), kind::text, id, count FROM user_frequency",
        )
        assert {(u, k, i): n for u, k, i, n in shown} == self.shown


def _minute(at: datetime.datetime) -> datetime.datetime:
    return at.replace(second=0, microsecond=0)
