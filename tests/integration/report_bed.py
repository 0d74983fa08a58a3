"""Decisions and what became of them: as plain records, and in the database by way of the real ingest."""

import datetime
import random
import uuid
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import psycopg2.extensions

from prefork_ads.db.queries import query
from prefork_ads.events.ad_lines import added_up
from tests.conftest import Database

CATALOG: Final = """
INSERT INTO advertiser (key, name) VALUES
    ('alpenglow', 'Alpenglow'), ('nordwind', 'Nordwind'), ('house', 'House');
INSERT INTO site (key, name, domain) VALUES
    ('news', 'News', 'news.example'), ('blog', 'Blog', 'blog.example');
INSERT INTO zone (key, site_id, name, sizes)
SELECT z.key, s.id, z.key, '{300x250}'
  FROM (VALUES (1, 'home', 'news'), (2, 'sports', 'news'), (3, 'sidebar', 'blog')) AS z (n, key, site)
  JOIN site AS s ON s.key = z.site ORDER BY z.n;
INSERT INTO campaign (key, advertiser_id, name, tier, price_model, price_micros)
SELECT c.key, a.id, c.key, c.tier, c.model, c.price
  FROM (VALUES (1, 'spring-sale', 'alpenglow', 'guaranteed', 'cpm', 2500000),
               (2, 'winter-boots', 'alpenglow', 'standard', 'cpc', 350000),
               (3, 'city-bike', 'nordwind', 'standard', 'cpa', 12000000),
               (4, 'newsletter', 'house', 'house', 'cpm', 0)) AS c (n, key, advertiser, tier, model, price)
  JOIN advertiser AS a ON a.key = c.advertiser ORDER BY c.n;
INSERT INTO creative (key, campaign_id, name, format, width, height, image_url, click_url)
SELECT c.key || '-' || n, c.id, c.key, 'image', 300, 250, 'https://cdn.example/x.png', 'https://shop.example/'
  FROM campaign AS c, generate_series(1, 2) AS n ORDER BY c.id, n;
INSERT INTO segment (key, name) VALUES ('cyclists', 'Cyclists'), ('skiers', 'Skiers');
"""

ADVERTISERS: Final = {1: "alpenglow", 2: "alpenglow", 3: "nordwind", 4: "house"}
CAMPAIGNS: Final = {1: "spring-sale", 2: "winter-boots", 3: "city-bike", 4: "newsletter"}
TIERS: Final = {1: "guaranteed", 2: "standard", 3: "standard", 4: "house"}
PRICES: Final = {1: ("cpm", 2500000), 2: ("cpc", 350000), 3: ("cpa", 12000000), 4: ("cpm", 0)}
ZONES: Final = {1: ("home", "news"), 2: ("sports", "news"), 3: ("sidebar", "blog")}

PERSON: Final = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"
ROBOT: Final = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


def new_id(at: datetime.datetime, draw: random.Random) -> str:
    """A version 7 uuid of that millisecond, as 32 hex digits."""
    milliseconds = round(at.timestamp() * 1000)
    rest = draw.getrandbits(74)
    number = milliseconds << 80 | 7 << 76 | (rest >> 62) << 64 | 2 << 62 | rest & (1 << 62) - 1
    return f"{number:032x}"


@dataclass(slots=True)
class Happened:
    """One event of a decision."""

    kind: str
    at: datetime.datetime
    user_agent: str = PERSON
    filtered: str | None = None


@dataclass(slots=True)
class Decided:
    """One decision."""

    id: str
    at: datetime.datetime
    zone: int = 1
    campaign: int = 0
    creative: int = 0
    country: str = ""
    device: str = ""
    uid: str | None = None
    user_agent: str | None = PERSON
    filtered: str | None = None
    leased: str | None = None
    events: list[Happened] = field(default_factory=list)
    order: str | None = None
    value: int = 0

    def lines(self) -> Iterable[bytes]:
        """As the server writes them."""
        yield self._line(
            self.id, self.at, "decision", {"decision": self._decision()}, self.user_agent
        )
        for n, one in enumerate(self.events):
            told = {"event": self._event(one)}
            own = f"{int(self.id, 16) ^ (n + 1):032x}"
            yield self._line(own, one.at, one.kind, told, one.user_agent)
        if self.order is not None:
            conversion = {"advertiser": self.advertiser, "order": self.order, "decision": self.id}
            if self.value:
                conversion["value"] = self.value
            if self.filtered is not None:
                conversion["filtered"] = "decision"
            own = f"{int(self.id, 16) ^ 255:032x}"
            yield self._line(
                own, self.events[-1].at, "conversion", {"conversion": conversion}, None
            )

    @property
    def advertiser(self) -> int:
        return {1: 1, 2: 1, 3: 2, 4: 3}[self.campaign]

    def _decision(self) -> dict[str, Any]:
        model, price = PRICES.get(self.campaign, (None, 0))
        members = {
            "zone": self.zone,
            "campaign": self.campaign or None,
            "creative": self.creative or None,
            "model": model,
            "price": price or None,
            "country": self.country or None,
            "device": self.device or None,
            "uid": self.uid,
            "leased": self.leased,
            "filtered": self.filtered,
        }
        return {name: value for name, value in members.items() if value is not None}

    def _event(self, one: Happened) -> dict[str, Any]:
        model, price = PRICES[self.campaign]
        members = {
            "decision": self.id,
            "zone": self.zone,
            "campaign": self.campaign,
            "creative": self.creative,
            "model": model,
            "price": price or None,
            "country": self.country or None,
            "device": self.device or None,
            "uid": self.uid,
            "filtered": one.filtered,
        }
        return {name: value for name, value in members.items() if value is not None}

    def _line(
        self,
        identity: str,
        at: datetime.datetime,
        endpoint: str,
        told: dict[str, Any],
        user_agent: str | None,
    ) -> bytes:
        stamp = at.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "+00"
        request = {"zone": "home"} | ({"uid": str(uuid.UUID(self.uid))} if self.uid else {})
        params = orjson.dumps({"request": request, **told}).replace(b"\\", b"\\\\")
        agent = user_agent.encode() if user_agent is not None else b"\\N"
        return b"\t".join(
            [
                stamp.encode(),
                identity.encode(),
                endpoint.encode(),
                params,
                agent,
                b"\\N",
                b"\\N",
                b"\\N",
            ]
        )


def ingest(
    conn: psycopg2.extensions.connection, decided: Sequence[Decided], segment: str = "test-1"
) -> None:
    """Ship their lines as a writer would, in one transaction."""
    lines = b"\n".join(line for one in decided for line in one.lines())
    ads = added_up(lines + b"\n")
    assert ads is not None
    days = sorted(
        {event.at.astimezone(datetime.UTC).date() for one in decided for event in one.events}
        | {one.at.astimezone(datetime.UTC).date() for one in decided}
    )
    with conn.cursor() as cursor:
        for day in days:
            cursor.execute(query("request_log_ensure"), {"first_day": day, "last_day": day})
        cursor.execute(
            "INSERT INTO journal_segment (name, shipped_bytes) VALUES (%s, 0)"
            " ON CONFLICT (name) DO UPDATE SET shipped_bytes = 0",
            (segment,),
        )
        cursor.execute(
            query("log_insert_ads"),
            {
                "segment": segment,
                "before": 0,
                "after": len(lines),
                "lines": lines.decode(),
                "holder": segment.rpartition("-")[0],
                "decisions": ads.decisions,
                "leased": ads.leased,
                "seen": ads.seen,
                "events": ads.events,
                "conversions": ads.conversions,
                "click_window": "30 days",
                "view_window": "1 day",
            },
        )


def fill(database: Database, decided: Sequence[Decided]) -> None:
    """Ingest them into a database that has the catalog."""
    with closing(database.connect()) as conn:
        ingest(conn, decided)


def differences(database: Database) -> list[tuple[Any, ...]]:
    """Where the rollup is not the sum of its events."""
    return database.fetch(
        "SELECT * FROM rollup_check('2020-01-01 00:00+00', '2030-01-01 00:00+00')"
    )
