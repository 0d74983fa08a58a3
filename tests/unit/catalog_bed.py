"""Catalogs and requests at random, made of few words, so that everything meets everything.

Beginnings and ends of flights, changes to summer time, campaigns that nobody understands, zones without sizes
and advertisers that are paused: all of it happens in every few catalogs.
"""

from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar

from prefork_ads.ads.catalog import Catalog, Rows, compile_catalog
from prefork_ads.ads.facts import DRAW_BITS, Facts, Place

Row = dict[str, Any]
T = TypeVar("T")

PLACES = ["DE", "DE-BE", "DE-BE-Berlin", "AT", "AT-9", "SG", "SG-Singapore"]
SENDERS = [
    ("DE", "DE-BE", "DE-BE-Berlin"),
    ("DE", "DE-HH", "DE-HH-Hamburg"),
    ("AT", "AT-9", ""),
    ("SG", "", "SG-Singapore"),
    ("FR", "", ""),
    ("", "", ""),
]
WORDS = ["ball", "news", "wine", "a_b", "ünder"]
PATTERNS = [
    "news.example",
    "*.example",
    "news.example/",
    "news.example/*",
    "news.example/sport/*",
    "*.news.example/*/live",
    "news.example/sport/*/li*e",
    "news.example/*a*b*",
    "shop.example/exact",
]
PAGES = [
    "",
    "news.example",
    "news.example/",
    "news.example/sport/",
    "news.example/sport/x/live",
    "m.news.example/sport/live",
    "news.example/aXbXlive",
    "shop.example/exact",
    "shop.example/exactly",
    "otherexample/sport/live",
]
SIZES = ["300x250", "728x90", "160x600"]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]
# Around the end of summer time in Europe.
NOON = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)


def finished(steps: Generator[None, None, T]) -> T:
    """What a generator returns in the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def compiled(rows: Rows, version: int = 1) -> Catalog:
    return finished(compile_catalog(rows, version))


def some(random: Random, words: Sequence[Any], most: int = 3) -> list[Any]:
    """At least one of the words, if there is one."""
    return random.sample(list(words), random.randint(min(1, len(words)), min(most, len(words))))


def chance(random: Random, probability: float) -> bool:
    return random.random() < probability


def random_moment(random: Random) -> datetime:
    return NOON + timedelta(
        minutes=random.randint(-60, 60) * 15, seconds=random.choice((0, 0, 0.5))
    )


def random_sides(random: Random, words: Sequence[str]) -> Row:
    words = some(random, words, len(words))
    cut = random.randint(0, len(words))
    sides = {"include": words[:cut], "exclude": words[cut:]}
    return {name: values for name, values in sides.items() if values}


def random_terms(random: Random, words: Sequence[str]) -> Row:
    terms = {}
    refused = some(random, words) if chance(random, 0.3) else []
    wanted = [word for word in words if word not in refused]
    if refused:
        terms["none"] = refused
    if wanted and chance(random, 0.6):
        terms["any"] = some(random, wanted)
    if wanted and chance(random, 0.4):
        terms["all"] = some(random, wanted)
    return terms


def random_targeting(random: Random) -> Row:
    targeting: Row = {}
    often = random.choice((0.05, 0.2, 0.5))
    sides = {
        "geo": PLACES,
        "device": ["desktop", "mobile", "tv"],
        "os": ["windows", "ios", "android"],
        "browser": ["chrome", "safari", "firefox"],
        "language": ["de", "en", "fr"],
        "site": ["first", "second"],
        "page": PATTERNS,
    }
    for name, words in sides.items():
        if chance(random, often):
            targeting[name] = random_sides(random, words)
    if chance(random, often):
        targeting["keywords"] = random_terms(random, WORDS)
    if chance(random, often):
        names = some(random, ["colour", "team", "a"])
        targeting["values"] = {name: random_terms(random, WORDS) for name in names}
    if chance(random, often):
        targeting["segments"] = random_terms(random, ["young", "rich", "old"])
    if chance(random, often):
        targeting["hours"] = [random_window(random) for _ in range(random.randint(1, 2))]
    if chance(random, 0.03):
        targeting.update(random.choice(({"colour": 1}, {"geo": {"include": ["XX"]}})))
    return targeting


def random_window(random: Random) -> Row:
    window: Row = {}
    if chance(random, 0.6):
        window["days"] = some(random, ["sat", "sun", "mon", "tue"])
    if chance(random, 0.7):
        window["hours"] = some(random, range(24), 16)
    return window


def status(random: Random) -> str:
    return random.choice(("active",) * 18 + ("paused", "archived"))


def random_advertiser(random: Random, number: int) -> Row:
    return {
        "id": number,
        "key": f"advertiser-{number}",
        "name": f"Advertiser {number}",
        "status": status(random),
        "allow_repeat": chance(random, 0.3),
        "cap_hour": None,
        "cap_day": 3 if chance(random, 0.2) else None,
        "cap_flight": None,
    }


def random_site(random: Random, number: int) -> Row:
    key = ["first", "second", "third"][number - 1]
    return {"id": number, "key": key, "name": key, "domain": "x.example", "status": status(random)}


def random_zone(random: Random, number: int) -> Row:
    native = chance(random, 0.15)
    formats = ["native"] if native else some(random, ["html", "image", "native"])
    return {
        "id": number,
        "key": f"zone-{number}",
        "site_id": random.randint(1, 2),
        "name": f"Zone {number}",
        "status": status(random),
        "sizes": [] if formats == ["native"] and native else some(random, SIZES),
        "formats": formats,
        "floor_micros": random.choice((0, 0, 0, 1_000_000, 2_500_000)),
        "fallback": random.choice(("house", "house", "none")),
    }


def random_segment(number: int) -> Row:
    key = ["young", "rich", "old"][number - 1]
    return {"id": number, "key": key, "name": key, "status": "active"}


def random_campaign(random: Random, number: int, advertisers: int) -> Row:
    starts, ends = sorted(random_moment(random) for _ in range(2))
    tier = random.choice(("sponsorship", "guaranteed", "standard", "standard", "standard", "house"))
    has_start, has_end = chance(random, 0.4), chance(random, 0.4)
    if starts == ends:
        has_end = False
    return {
        "id": number,
        "key": f"campaign-{number}",
        "advertiser_id": random.randint(1, advertisers),
        "name": f"Campaign {number}",
        "status": status(random),
        "tier": tier,
        "weight": random.choice((1, 50, 100, 100, 100, 200, random.randint(1, 1000))),
        "starts_at": starts.isoformat() if has_start else None,
        "ends_at": ends.isoformat() if has_end else None,
        "time_zone": random.choice(ZONES),
        "goal_kind": "impressions" if chance(random, 0.3) else None,
        "goal_total": 1000,
        "goal_daily": None,
        "pacing": "asap",
        "price_model": random.choice(("cpm", "cpm", "cpc", "cpa")),
        "price_micros": 0 if tier == "house" else random.choice((0, 1_000_000, 2_500_000, 7)),
        "cap_hour": None,
        "cap_day": None,
        "cap_flight": 2 if chance(random, 0.2) else None,
        "roadblock": chance(random, 0.15),
        "targeting": random_targeting(random),
    }


def random_creative(random: Random, number: int, campaigns: int) -> Row:
    format_ = random.choice(("html", "image", "image", "native"))
    size: Sequence[int | None] = [int(side) for side in random.choice(SIZES).split("x")]
    if format_ == "native" and chance(random, 0.5):
        size = None, None
    return {
        "id": number,
        "key": f"creative-{number}",
        "campaign_id": random.randint(1, campaigns),
        "name": f"Creative {number}",
        "status": status(random),
        "format": format_,
        "width": size[0],
        "height": size[1],
        "html": "<p>" if format_ == "html" else None,
        "image_url": "/x.svg" if format_ == "image" else None,
        "alt": None,
        "native": {} if format_ == "native" else None,
        "click_url": "https://shop.example/",
        "weight": random.randint(1, 5),
    }


def random_rows(random: Random, campaigns: int) -> Rows:
    advertisers = random.randint(1, max(1, campaigns // 2))
    return {
        "advertiser": {n: random_advertiser(random, n) for n in range(1, advertisers + 1)},
        "site": {n: random_site(random, n) for n in (1, 2)},
        "zone": {n: random_zone(random, n) for n in range(1, 6)},
        "segment": {n: random_segment(n) for n in (1, 2, 3)},
        "campaign": {n: random_campaign(random, n, advertisers) for n in range(1, campaigns + 1)},
        "creative": {n: random_creative(random, n, campaigns) for n in range(1, campaigns * 3 + 1)},
    }


def random_facts(random: Random) -> Facts:
    country, region, city = random.choice(SENDERS)
    moment = random_moment(random).timestamp() + random.choice((0, 0, -0.25, 1, -1, 59.75))
    return Facts(
        at_s=moment,
        country=country,
        region=region,
        city=city,
        device=random.choice(("desktop", "mobile", "tv", "other", "")),
        os=random.choice(("windows", "ios", "other", "")),
        browser=random.choice(("chrome", "safari", "edge", "")),
        languages=tuple(some(random, ["de", "en", "fr", "nl"])) if chance(random, 0.8) else (),
        page=random.choice(PAGES),
        keywords=frozenset(some(random, [*WORDS, "other"])) if chance(random, 0.7) else frozenset(),
        values=frozenset(
            (random.choice(("colour", "team", "a", "b")), random.choice(WORDS))
            for _ in range(random.randint(0, 4))
        ),
        segments=frozenset(some(random, [1, 2, 3, 99])) if chance(random, 0.7) else frozenset(),
    )


def random_places(random: Random, catalog: Catalog) -> list[Place]:
    return [
        Place(
            zone,
            tuple(some(random, [*SIZES, "1x1"])) if chance(random, 0.3) else (),
            (random.choice(("image", "html")),) if chance(random, 0.2) else (),
        )
        for zone in random.choices(list(catalog.zones.values()), k=random.choice((1, 1, 2, 3)))
    ]


def random_draws(random: Random, places: Sequence[Place]) -> list[int]:
    return [random.choice((random.getrandbits(DRAW_BITS), 0, (1 << DRAW_BITS) - 1)) for _ in places]
