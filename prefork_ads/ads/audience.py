"""All dimensions of targeting together: whom each campaign of a catalog is for, as masks.

What requests have in common is remembered whole, for as many different ones as fit into a bounded memory:
a place, a browser with its languages, a page with the words that are said of it, and the segments of a user
who looks around.

`rules` gives the masks one by one and by name, `masks` those that a decision needs, `passing` all of them in
one; they are the same masks, so what `rules` tells of a decision is what made it.

Must not know: zones, budgets, how campaigns are stored.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from operator import and_
from typing import TypeVar

from prefork_ads.ads.dimensions import Clauses, SideMasks, TermMasks
from prefork_ads.ads.facts import Facts
from prefork_ads.ads.pages import PatternIndex
from prefork_ads.ads.schedule import Flight, Flights, Hours, hours_pattern
from prefork_ads.ads.targeting import Sides, Targeting, Terms

# Each memory may hold this much, and so many different requests.
_MEMORY_BYTES = 8 << 20
_MEMORY_ENTRIES = 8192

SIDES = ("geo", "device", "os", "browser", "language", "page", "site")

Pair = tuple[str, str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wish:
    """What one campaign asks of a request."""

    sides: Mapping[str, Sides]
    keywords: Clauses[str]
    values: Clauses[Pair]
    segments: Clauses[int]
    segment_keys: frozenset[str]
    hours: tuple[str, int] | None
    """Time zone, and a bit per hour of the week."""
    flight: Flight


def wish_of(
    targeting: Targeting,
    segments: Mapping[str, int],
    time_zone: str,
    flight: Flight,
) -> Wish:
    """`segments` are the ids by key; the targeting was read with these keys."""
    terms = targeting.terms
    values = [_clauses(asked, partial(_pair, name)) for name, asked in targeting.values.items()]
    return Wish(
        sides=targeting.sides,
        keywords=_clauses(terms.get("keywords"), str),
        values=(
            tuple(clause for asked, _ in values for clause in asked),
            tuple(pair for _, refused in values for pair in refused),
        ),
        segments=_clauses(terms.get("segments"), segments.__getitem__),
        segment_keys=_named(terms.get("segments")),
        hours=(time_zone, hours_pattern(targeting.hours)) if targeting.hours else None,
        flight=flight,
    )


def _pair(name: str, value: str) -> Pair:
    return name, value


def _clauses(terms: Terms | None, term: Callable[[str], T]) -> Clauses[T]:
    if terms is None:
        return (), ()
    some = (tuple(map(term, terms.any)),) if terms.any else ()
    return (*some, *((term(value),) for value in terms.all)), tuple(map(term, terms.none))


def _named(terms: Terms | None) -> frozenset[str]:
    return frozenset() if terms is None else frozenset((*terms.any, *terms.all, *terms.none))


class Audience:
    """The masks of all dimensions. Changed while it is drafted; `finish` makes it ready for requests."""

    def __init__(self) -> None:
        self.sides = {name: SideMasks() for name in SIDES}
        self.patterns = PatternIndex()
        self.keywords: TermMasks[str] = TermMasks()
        self.values: TermMasks[Pair] = TermMasks()
        self.segments: TermMasks[int] = TermMasks()
        self.flights = Flights()
        self.hours = Hours()

    def copy(self) -> "Audience":
        other = Audience()
        other.sides = {name: masks.copy() for name, masks in self.sides.items()}
        other.patterns = self.patterns.copy()
        other.keywords = self.keywords.copy()
        other.values = self.values.copy()
        other.segments = self.segments.copy()
        other.flights = self.flights.copy()
        other.hours = self.hours.copy()
        return other

    def add(self, bit: int, wish: Wish) -> None:
        """All but the flight, which comes with those of its neighbours (`flights.fill`) or by itself."""
        for name, sides in wish.sides.items():
            self.sides[name].add(bit, sides)
        for pattern in _patterns(wish):
            self.patterns.add(pattern)
        self.keywords.add(bit, wish.keywords)
        self.values.add(bit, wish.values)
        self.segments.add(bit, wish.segments)
        if wish.hours is not None:
            self.hours.add(bit, *wish.hours)

    def remove(self, bit: int, wish: Wish) -> None:
        for name, sides in wish.sides.items():
            self.sides[name].remove(bit, sides)
        pages = self.sides["page"]
        for pattern in _patterns(wish):
            if pattern not in pages.include and pattern not in pages.exclude:
                self.patterns.remove(pattern)
        self.keywords.remove(bit, wish.keywords)
        self.values.remove(bit, wish.values)
        self.segments.remove(bit, wish.segments)
        if wish.hours is not None:
            self.hours.remove(bit, *wish.hours)

    def finish(self, everyone: int, *, filled: bool) -> None:
        """`filled`: flights came with those of their neighbours."""
        memory = min(_MEMORY_ENTRIES, _MEMORY_BYTES // (everyone.bit_length() // 7 + 64))
        for masks in self.sides.values():
            masks.finish(everyone)
        self.keywords.finish(everyone, memory)
        self.values.finish(everyone, memory)
        self.segments.finish(everyone, memory)
        self.flights.finish(everyone, filled=filled)
        self.hours.finish(everyone)
        self._running = 0
        self._since = self._until = 0.0
        self._device = _table(self.sides["device"])
        self._os = _table(self.sides["os"])
        self._browser = _table(self.sides["browser"])
        self._place = lru_cache(memory)(self._of_place)
        self._agent = lru_cache(memory)(self._of_agent)
        self._page = lru_cache(memory)(self._of_page)
        self._segments = lru_cache(memory)(self.segments.passing)
        self._segments_used = self.segments.used

    def _look(self, at_s: float) -> None:
        """Who runs now, and for how long that holds."""
        self._running = self.flights.running(at_s) & self.hours.open(at_s)
        minute = at_s // 60 * 60
        self._since = max(minute, self.flights.since)
        self._until = min(minute + 60, self.flights.until)

    def _of_place(self, country: str, region: str, city: str) -> int:
        return self.sides["geo"].passing((country, region, city))

    def _of_agent(self, device: str, os: str, browser: str, languages: tuple[str, ...]) -> int:
        """What a browser tells with each of its requests; there are not many different ones."""
        passing = self._device.get(device, self._device[""])
        passing &= self._os.get(os, self._os[""])
        passing &= self._browser.get(browser, self._browser[""])
        return passing & self.sides["language"].passing(languages)

    def _of_page(
        self, page: str, keywords: frozenset[str], values: frozenset[tuple[str, str]]
    ) -> int:
        """A page, and what its publisher says of it."""
        passing = self._of_address(page) & self.keywords.passing(keywords)
        return passing & self.values.passing(values)

    def _of_address(self, page: str) -> int:
        pages = self.sides["page"]
        return pages.passing(self.patterns.matching(page)) if pages.used else pages.everyone

    def rules(self, facts: Facts) -> Iterator[tuple[str, int]]:
        """By name: the campaigns that the request passes, in the order in which they are told."""
        yield "flight", self.flights.running(facts.at_s)
        yield "hours", self.hours.open(facts.at_s)
        yield "geo", self._place(facts.country, facts.region, facts.city)
        yield "device", self._device.get(facts.device, self._device[""])
        yield "os", self._os.get(facts.os, self._os[""])
        yield "browser", self._browser.get(facts.browser, self._browser[""])
        yield "language", self.sides["language"].passing(facts.languages)
        yield "page", self._of_address(facts.page)
        yield "keywords", self.keywords.passing(facts.keywords)
        yield "values", self.values.passing(facts.values)
        yield "segments", self.segments.passing(facts.segments)

    def masks(self, facts: Facts) -> tuple[int, int, int, int, int]:
        """Who is in all of them passes all rules."""
        at_s = facts.at_s
        if not self._since <= at_s < self._until:
            self._look(at_s)
        return (
            self._running,
            self._place(facts.country, facts.region, facts.city),
            self._agent(facts.device, facts.os, facts.browser, facts.languages),
            self._page(facts.page, facts.keywords, facts.values),
            self._segments(facts.segments) if self._segments_used else self._running,
        )

    def passing(self, facts: Facts) -> int:
        """Those that pass all rules."""
        return reduce(and_, self.masks(facts))


def _patterns(wish: Wish) -> tuple[str, ...]:
    pages = wish.sides.get("page")
    return () if pages is None else (*pages.include, *pages.exclude)


def _table(masks: SideMasks) -> dict[str, int]:
    """What passes for each value; under "" for those that no campaign names."""
    return {"": masks.passing(()), **masks.table()}
