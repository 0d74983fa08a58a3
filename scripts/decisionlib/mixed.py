"""A catalog of mixed targeting and requests for it, at random and the same for the same seed.

Shaped as catalogs are: most campaigns aim at a country or a few, some at cities, fewer at pages, keywords,
key-values or segments; many run at certain hours; some are over or have not begun. What publishers say of a
page is the page's. Words and places are as uneven as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from prefork_ads.ads.facts import Facts

Row = dict[str, Any]

NOW = datetime(2026, 6, 17, 14, 20, tzinfo=UTC)

COUNTRIES = (
    "US DE GB FR BR IN JP ES IT PL NL CA MX AU SE TR AR BE AT CH DK NO FI PT CZ GR RO HU IE CL"
)
COUNTRY_LIST = COUNTRIES.split()
SIZES = ("300x250", "728x90", "160x600", "320x50", "970x250", "300x600")
WORDS = tuple(f"word-{number}" for number in range(2000))
NAMES = ("team", "section", "author", "mood", "league", "price")
TIERS = ("sponsorship",) * 3 + ("guaranteed",) * 17 + ("standard",) * 70 + ("house",) * 10
LANGUAGES = ("en", "de", "fr", "es", "pt", "it", "pl", "ja", "nl", "tr")
TIME_ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "America/Sao_Paulo")
SYSTEMS = {
    "mobile": ("android", "android", "ios"),
    "desktop": ("windows", "windows", "macos", "linux"),
    "tablet": ("ios", "android"),
    "tv": ("other",),
}
DEVICES = ("mobile",) * 55 + ("desktop",) * 38 + ("tablet",) * 5 + ("tv",) * 2
BROWSERS = ("chrome",) * 60 + ("safari",) * 22 + ("edge",) * 8 + ("firefox",) * 7 + ("samsung",) * 3
WORKING_HOURS = {"days": ["mon", "tue", "wed", "thu", "fri"], "hours": list(range(8, 18))}
DAYTIME = {"hours": list(range(7, 23))}
EVENING = {"hours": [17, 18, 19, 20, 21, 22]}


def uneven(random: Random, things: Sequence[Any]) -> Any:
    """The first of them much more often than the last."""
    return things[int(len(things) * random.random() ** 3)]


def several(random: Random, things: Sequence[Any], most: int) -> list[Any]:
    return sorted({uneven(random, things) for _ in range(random.randint(1, most))})


def place(random: Random) -> tuple[str, str, str]:
    country = uneven(random, COUNTRY_LIST)
    region = f"{country}-{uneven(random, range(16)):02d}"
    return country, region, f"{region}-City {uneven(random, range(20))}"


def catalog_rows(random: Random, campaigns: int) -> dict[str, dict[int, Row]]:
    advertisers = max(1, campaigns // 5)
    segments = range(1, 51)
    return {
        "advertiser": {number: advertiser(random, number) for number in range(1, advertisers + 1)},
        "site": {number: site(number) for number in range(1, 6)},
        "zone": {number: zone(random, number) for number in range(1, 21)},
        "segment": {number: _named(number, f"segment-{number}") for number in segments},
        "campaign": {
            number: campaign(random, number, advertisers) for number in range(1, campaigns + 1)
        },
        "creative": {
            number: creative(random, number, (number - 1) // 2 + 1)
            for number in range(1, campaigns * 2 + 1)
        },
    }


def _named(number: int, key: str) -> Row:
    return {"id": number, "key": key, "name": key, "status": "active"}


def advertiser(random: Random, number: int) -> Row:
    return {
        **_named(number, f"advertiser-{number}"),
        "allow_repeat": random.random() < 0.1,
        "cap_hour": None,
        "cap_day": 10 if random.random() < 0.2 else None,
        "cap_flight": None,
    }


def site(number: int) -> Row:
    return {**_named(number, f"site-{number}"), "domain": f"site-{number}.example"}


def zone(random: Random, number: int) -> Row:
    return {
        **_named(number, f"zone-{number}"),
        "site_id": number % 5 + 1,
        "sizes": several(random, SIZES, 3),
        "formats": ["html", "image"],
        "floor_micros": random.choice((0, 0, 0, 500_000)),
        "fallback": "house",
    }


def campaign(random: Random, number: int, advertisers: int) -> Row:
    tier = random.choice(TIERS)
    starts = NOW.replace(hour=0, minute=0) - timedelta(days=random.randint(-3, 40))
    leased = random.random() < 0.3
    return {
        **_named(number, f"campaign-{number}"),
        "advertiser_id": random.randint(1, advertisers),
        "tier": tier,
        "weight": random.choice((50, 100, 100, 100, 100, 150, 200, 300, 500)),
        "starts_at": starts.isoformat(),
        "ends_at": (starts + timedelta(days=random.choice((14, 30, 60, 90)))).isoformat(),
        "time_zone": random.choice(TIME_ZONES),
        "goal_kind": "impressions" if leased else None,
        "goal_total": 1_000_000 if leased else None,
        "goal_daily": None,
        "pacing": "even" if leased else "asap",
        "price_model": "cpc" if random.random() < 0.2 else "cpm",
        "price_micros": 0 if tier == "house" else random.randint(100, 5000) * 1000,
        "cap_hour": None,
        "cap_day": 3 if random.random() < 0.3 else None,
        "cap_flight": None,
        "roadblock": random.random() < 0.01,
        "targeting": targeting(random),
    }


def creative(random: Random, number: int, campaign_id: int) -> Row:
    width, height = random.choice(SIZES).split("x")
    return {
        **_named(number, f"creative-{number}"),
        "campaign_id": campaign_id,
        "format": "image",
        "width": int(width),
        "height": int(height),
        "html": None,
        "image_url": "/creative.svg",
        "alt": None,
        "native": None,
        "click_url": "https://shop.example/",
        "weight": 100,
    }


def targeting(random: Random) -> Row:
    wanted: Row = {}
    if random.random() < 0.5:
        level = 0 if random.random() < 0.8 else random.choice((1, 2))
        wanted["geo"] = {"include": sorted({place(random)[level] for _ in range(3)})}
    elif random.random() < 0.2:
        wanted["geo"] = {"exclude": several(random, COUNTRY_LIST, 3)}
    if random.random() < 0.3:
        wanted["device"] = {"include": sorted({random.choice(DEVICES) for _ in range(2)})}
    if random.random() < 0.1:
        wanted["os"] = {"exclude": [random.choice(("ios", "android", "windows"))]}
    if random.random() < 0.05:
        wanted["browser"] = {"include": [random.choice(BROWSERS)]}
    if random.random() < 0.2:
        wanted["language"] = {"include": several(random, LANGUAGES, 2)}
    if random.random() < 0.1:
        wanted["site"] = {"include": [f"site-{random.randint(1, 5)}"]}
    if random.random() < 0.1:
        side = random.choice(("include", "exclude"))
        wanted["page"] = {side: [f"site-{random.randint(1, 5)}.example/{pattern(random)}"]}
    wanted.update(terms(random))
    if random.random() < 0.25:
        wanted["hours"] = [random.choice((WORKING_HOURS, DAYTIME, EVENING))]
    return wanted


def pattern(random: Random) -> str:
    return random.choice(("{}/*", "*/{}", "{}/*/live*")).format(uneven(random, WORDS[:100]))


def terms(random: Random) -> Row:
    wanted: Row = {}
    if random.random() < 0.2:
        name = "any" if random.random() < 0.8 else "all"
        wanted["keywords"] = {name: several(random, WORDS, 6)}
    if random.random() < 0.05:
        wanted.setdefault("keywords", {})["none"] = ["crash"]
    if random.random() < 0.1:
        name = random.choice(NAMES)
        wanted["values"] = {name: {"any": several(random, WORDS[:50], 4)}}
    if random.random() < 0.2:
        name = random.choice(("any", "any", "all", "none"))
        wanted["segments"] = {name: [f"segment-{random.randint(1, 50)}" for _ in range(2)]}
        wanted["segments"][name] = sorted(set(wanted["segments"][name]))
    return wanted


@dataclass(frozen=True)
class Page:
    """A page, and what its publisher says of it."""

    url: str
    keywords: frozenset[str]
    values: frozenset[tuple[str, str]]


def pages(random: Random, count: int) -> list[Page]:
    return [page(random) for _ in range(count)]


def page(random: Random) -> Page:
    folder, name = uneven(random, WORDS[:100]), uneven(random, WORDS)
    pairs = (
        (random.choice(NAMES), uneven(random, WORDS[:50])) for _ in range(random.randint(0, 3))
    )
    return Page(
        url=f"site-{random.randint(1, 5)}.example/{folder}/{name}",
        keywords=frozenset(several(random, WORDS, 6) if random.random() < 0.8 else ()),
        values=frozenset(pairs),
    )


@dataclass(frozen=True)
class User:
    """Who looks at a few pages, one after the other."""

    place: tuple[str, str, str]
    device: str
    os: str
    browser: str
    languages: tuple[str, ...]
    segments: frozenset[int]


def user(random: Random) -> User:
    device = random.choice(DEVICES)
    segments = random.sample(range(1, 51), random.randint(0, 10)) if random.random() < 0.7 else []
    return User(
        place=place(random),
        device=device,
        os=random.choice(SYSTEMS[device]),
        browser=random.choice(BROWSERS),
        languages=tuple({uneven(random, LANGUAGES), "en"}),
        segments=frozenset(segments),
    )


def facts(who: User, there: Page, second: float) -> Facts:
    country, region, city = who.place
    return Facts(
        at_s=NOW.timestamp() + second,
        country=country,
        region=region,
        city=city,
        device=who.device,
        os=who.os,
        browser=who.browser,
        languages=who.languages,
        page=there.url,
        # New objects, as every request's are: nothing of them is worked out yet.
        keywords=frozenset(list(there.keywords)),
        values=frozenset(list(there.values)),
        segments=frozenset(list(who.segments)),
    )
