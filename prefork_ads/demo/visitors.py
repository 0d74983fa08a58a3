"""Who visits the demonstration's sites on one day: when, with what, and how they take to ads.

A seed makes the same day again. Visitors come by the curve of a real site's day: few at four in the morning,
most at eight in the evening, a small peak at lunch. Each has a browser, a language and a network, reads a
few pages, and looks at what comes into sight; few click, fewer of these buy something. A few are programs
that say so, and a few want nobody to know them.

Must not know: connections, answers.
"""

import math
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

DAY_S: Final = 86_400.0

# What part of those who have an ad in front of them …
SEE, LOOK, CLICK, BUY = 0.95, 0.62, 0.012, 0.15

_WEBKIT: Final = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
_CHROME: Final = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{v}.0.0.0"
_BROWSERS: Final = (
    (30, f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_CHROME} Safari/537.36"),
    (22, f"Mozilla/5.0 (Linux; Android 10; K) {_CHROME} Mobile Safari/537.36"),
    (
        20,
        f"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) {_WEBKIT} Version/17.5 Mobile/15E148"
        " Safari/604.1",
    ),
    (8, f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {_WEBKIT} Version/17.5 Safari/605.1.15"),
    (8, "Mozilla/5.0 (X11; Linux x86_64; rv:{v}.0) Gecko/20100101 Firefox/{v}.0"),
    (6, f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {_CHROME} Safari/537.36 Edg/{{v}}.0.0.0"),
    (4, f"Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) {_WEBKIT} Version/17.5 Safari/604.1"),
    (2, "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
)
_LANGUAGES: Final = (
    *((40, "en-GB,en;q=0.9"), (30, "de-DE,de;q=0.9,en;q=0.6")),
    *((12, "fr-FR,fr;q=0.9,en;q=0.5"), (8, "nl-NL,nl;q=0.9,en;q=0.8")),
    *((6, "es-ES,es;q=0.9"), (4, "ja,en;q=0.4")),
)

_LANTERN, _TRAILHEAD = "https://lantern.example", "https://trailhead.example"
_STORY: Final = ("article-inline", "article-native")
# How many of a hundred pages, zones of the page, where it stands, its section and what it is about.
_PAGES: Final = (
    (26, ("home-top", "home-side", "footer"), f"{_LANTERN}/", "news", ("news",)),
    (16, (*_STORY, "article-side"), f"{_LANTERN}/politics/", "politics", ("news", "politics")),
    (2, ("home-top", *_STORY), f"{_LANTERN}/politics/live/", "politics", ("election", "live")),
    (12, (*_STORY, "footer"), f"{_LANTERN}/sports/", "sport", ("sport", "football")),
    (10, ("article-inline", "article-side"), f"{_LANTERN}/travel/", "travel", ("travel", "summer")),
    (8, (*_STORY, "article-side"), f"{_LANTERN}/business/", "business", ("energy", "housing")),
    (6, _STORY, f"{_LANTERN}/food/", "food", ("food", "recipes")),
    (4, (*_STORY, "footer"), f"{_LANTERN}/culture/", "culture", ("books", "culture")),
    (2, ("article-inline", "article-side"), f"{_LANTERN}/health/", "health", ("family", "health")),
    (2, ("article-inline", "article-side"), f"{_LANTERN}/home/", "home", ("design", "home")),
    (2, ("article-inline", "article-side"), f"{_LANTERN}/cars/", "cars", ("cars",)),
    (
        10,
        ("trail-top", "trail-side", "trail-native"),
        f"{_TRAILHEAD}/stories/",
        "outdoors",
        ("hiking",),
    ),
)


@dataclass(frozen=True, slots=True)
class Page:
    """One page that a visitor opens."""

    zones: tuple[str, ...]
    url: str
    section: str
    keywords: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Visitor:
    at_s: float
    """Seconds since midnight."""
    user_agent: str
    language: str
    address: str
    uid: str
    """ "" for one who wants nobody to know him."""
    pages: tuple[Page, ...]

    @property
    def is_program(self) -> bool:
        return "compatible;" in self.user_agent


def day(count: int, source: random.Random) -> Iterator[Visitor]:
    """All visitors of a day, in the order of time."""
    moments = sorted(_moment(source) for _ in range(count))
    # Some come again.
    people = count * 2 // 3 + 1
    regulars = [str(uuid.UUID(int=source.getrandbits(128), version=4)) for _ in range(people)]
    for at_s in moments:
        pages = min(8, 1 + int(source.expovariate(0.6)))
        yield Visitor(
            at_s,
            _one_of(_BROWSERS, source).replace("{v}", str(source.randint(118, 142))),
            _one_of(_LANGUAGES, source),
            # Networks for documentation have too few addresses; these are for benchmarks (RFC 2544).
            f"198.{source.choice((18, 19))}.{source.randrange(256)}.{source.randrange(1, 255)}",
            "" if source.random() < 0.15 else source.choice(regulars),
            tuple(_page(source) for _ in range(pages)),
        )


def busyness(at_s: float) -> float:
    """How many come at this time of the day, from 0 to 1."""
    hour = at_s / 3600
    evening = math.exp(-(((hour - 20) / 3.2) ** 2))
    lunch = 0.55 * math.exp(-(((hour - 12.5) / 2.2) ** 2))
    morning = 0.45 * math.exp(-(((hour - 8) / 1.6) ** 2))
    return min(1.0, 0.06 + evening + lunch + morning)


def _moment(source: random.Random) -> float:
    while True:
        at_s = source.random() * DAY_S
        if source.random() < busyness(at_s):
            return at_s


def _page(source: random.Random) -> Page:
    zones, url, section, keywords = source.choices(
        [page[1:] for page in _PAGES], [page[0] for page in _PAGES]
    )[0]
    if not url.endswith("example/"):
        url = f"{url}{source.randint(1, 400)}"
    return Page(zones, url, section, keywords)


def _one_of(shares: tuple[tuple[int, str], ...], source: random.Random) -> str:
    return source.choices([text for _, text in shares], [share for share, _ in shares])[0]
