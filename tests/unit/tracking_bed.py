"""What follows an ad, behind the real protocol and router: a small catalog, a key, a fake clock."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prefork_ads.ads.addresses import client_address
from prefork_ads.ads.assets import Assets
from prefork_ads.ads.catalog import Catalog, Rows, compile_catalog
from prefork_ads.ads.conversions import Conversions
from prefork_ads.ads.current import Current
from prefork_ads.ads.geography import Geography
from prefork_ads.ads.sender import Sender
from prefork_ads.ads.tokens import Key, Keyring, Token
from prefork_ads.ads.tracking import Tracking
from prefork_ads.events.event import EventClock
from prefork_ads.events.uuid7 import Uuid7
from prefork_ads.http.message import Answers
from prefork_ads.http.router import Router
from prefork_ads.metrics import CELLS, Counter
from tests.unit.http_bed import PEER, Answer, Bed

NOW_NS: Final = 1_700_000_000_123_000_000
NOW_S: Final = NOW_NS / 1e9
# Decided ten seconds ago.
DECISION: Final = bytes.fromhex(f"{NOW_NS // 1_000_000 - 10_000:012x}739baea5966c26f8ad91")
UID: Final = bytes.fromhex("0190163d869473aabea5966c26f8ad00")
BROWSER: Final = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/120.0.0.0 Safari/537.36"
)
WINDOW_S: Final = 900.0
CLICK_WINDOW_S: Final = 3600.0

KEYRING: Final = Keyring([Key(1, bytes(range(32)), True), Key(0, None, False)])
TOKEN: Final = Token(DECISION, 12, 5, 50, 2_500_000, "cpm", "DE", "desktop")


def rows(**more: Mapping[int, Mapping[str, Any]]) -> Rows:
    """Two advertisers with a campaign each; the creatives of the second are archived."""
    campaign: dict[str, Any] = {
        "status": "active",
        "tier": "standard",
        "weight": 100,
        "starts_at": None,
        "ends_at": None,
        "time_zone": "UTC",
        "goal_kind": None,
        "goal_total": None,
        "goal_daily": None,
        "pacing": "asap",
        "price_model": "cpm",
        "price_micros": 2_500_000,
        "cap_hour": None,
        "cap_day": None,
        "cap_flight": None,
        "roadblock": False,
        "targeting": {},
    }
    creative: dict[str, Any] = {
        "status": "active",
        "width": 300,
        "height": 250,
        "html": None,
        "image_url": None,
        "alt": None,
        "native": None,
        "weight": 100,
    }
    shop = "https://shop.example/l?c={campaign}&z={zone}&p={page}&t={token}&k={other}"
    advertiser: dict[str, Any] = {
        "status": "active",
        "allow_repeat": False,
        "cap_hour": None,
        "cap_day": None,
    }
    found: Rows = {
        "advertiser": {
            1: dict(id=1, key="acme", name="Acme", cap_flight=None, **advertiser),
            2: dict(id=2, key="bolt", name="Bolt", cap_flight=None, **advertiser),
            3: dict(id=3, key="retired", name="R", cap_flight=None, **advertiser)
            | {"status": "archived"},
        },
        "site": {
            3: {
                "id": 3,
                "key": "news",
                "name": "News",
                "domain": "news.example",
                "status": "active",
            }
        },
        "zone": {
            12: {"id": 12, "key": "home-top", "site_id": 3, "name": "Top", "status": "active"}
            | {
                "sizes": ["300x250"],
                "formats": ["html", "image"],
                "floor_micros": 0,
                "fallback": "house",
            }
        },
        "segment": {},
        "campaign": {
            5: dict(id=5, key="spring", advertiser_id=1, name="Spring", **campaign),
            6: dict(id=6, key="autumn", advertiser_id=2, name="Autumn", **campaign),
        },
        "creative": {
            50: dict(creative, id=50, key="spring-box", campaign_id=5, name="Box", format="image")
            | {"image_url": "/demo/a b.svg", "alt": 'A "b"', "click_url": shop},
            60: dict(creative, id=60, key="autumn-box", campaign_id=6, name="Box", format="html")
            | {"html": "<p>Hi</p>", "click_url": "https://bolt.example/", "status": "archived"},
        },
    }
    for relation, of in more.items():
        found[relation].update({number: dict(row) for number, row in of.items()})
    return found


def compiled(content: Rows) -> Catalog:
    steps = compile_catalog(content, 1)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            catalog: Catalog = end.value
            return catalog


@dataclass
class Tracker:
    """The endpoints of one worker."""

    log_takes: bool = True
    rows: Rows | None = field(default_factory=rows)
    max_events: int = 600
    events: list[list[str]] = field(default_factory=list)
    counters: list[int] = field(default_factory=lambda: [0] * CELLS)
    now_s: float = NOW_S

    def __post_init__(self) -> None:
        answers = Answers(lambda: NOW_S)
        self.current = Current()
        if self.rows is not None:
            self.current.replace(compiled(self.rows))
        sender = Sender(
            client_address([f"{PEER[0]}/32"]),
            Geography(None, lambda _: None),
            max_events_per_address=self.max_events,
        )
        clock = EventClock(Uuid7(), lambda: NOW_NS)
        tracking = Tracking(
            answers,
            clock,
            self._append,
            self.current,
            KEYRING,
            sender,
            self.counters,
            impression_window_s=WINDOW_S,
            click_window_s=CLICK_WINDOW_S,
            now_s=lambda: self.now_s,
        )
        conversions = Conversions(
            answers, clock, self._append, self.current, KEYRING, sender, self.counters
        )
        routes = {
            **tracking.routes(),
            **conversions.routes(),
            **Assets(answers).routes(),
        }
        self.bed = Bed(handler=Router(routes, answers).handle)

    def _append(self, line: bytes) -> bool:
        if self.log_takes:
            self.events.append(line.decode().split("\t"))
        return self.log_takes

    def ask(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: bytes = b"",
    ) -> Answer:
        """One request of a browser, and its answer."""
        fields = {"host": "ads.example", "user-agent": BROWSER, **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        length = f"content-length: {len(body)}\r\n" if body else ""
        client = self.bed.connect()
        client.send(f"{method} {path} HTTP/1.1\r\n{head}{length}\r\n".encode() + body)
        self.bed.tick()
        [answer] = client.answers(method)
        return answer

    def params(self) -> list[tuple[str, dict[str, Any]]]:
        """Endpoint and params of each line."""
        return [(event[2], json.loads(event[3].replace("\\\\", "\\"))) for event in self.events]

    def count(self, counter: Counter) -> int:
        return self.counters[counter]


def signed(token: Token = TOKEN, **changes: Any) -> str:
    return KEYRING.sign(token._replace(**changes))
