"""Whom a campaign is for: reading the JSON of its targeting, and saying in plain words what is wrong with it.

    geo, device, os, browser, language, site    {"include": […], "exclude": […]}
    page                                        the same, of URL patterns (see `pages`)
    keywords, segments                          {"any": […], "all": […], "none": […]}
    values                                      {NAME: {"any": […], "all": […], "none": […]}}
    hours                                       [{"days": ["mon", …], "hours": [0, …, 23]}, …]

All that stands there must hold. A sender of several languages, and one in a region of a country, is met by
an `include` of any of them and turned away by an `exclude` of any of them. What is not known of a sender is
met by no `include` and hit by no `exclude`.

Whoever writes a campaign and whoever compiles the catalog use this same reading, so what was accepted is
served and what is refused says why. A rule that could never hold, or that says nothing, is refused too: an
empty list might be meant as "everywhere" or as "nowhere".

Must not know: bits, masks, requests, where a campaign is stored.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from prefork_ads.ads.pages import pattern_problem
from prefork_ads.ads.places import place_problem

MAX_VALUES = 1000
MAX_ALL = 8
MAX_VALUE_BYTES = 200
# As many as a request may carry.
MAX_NAMES = 50
MAX_WINDOWS = 50
# Shown to a person, so not by the thousand.
MAX_PROBLEMS = 20

DEVICES = ("desktop", "mobile", "tablet", "tv", "other")
SYSTEMS = ("windows", "macos", "linux", "android", "ios", "chromeos", "other")
BROWSERS = ("chrome", "safari", "firefox", "edge", "opera", "samsung", "other")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_LANGUAGE = re.compile(r"[a-z]{2,8}")
_WILDCARD = re.compile(r"[%*?]")


@dataclass(frozen=True, slots=True)
class Sides:
    """What is included, everything where nothing is, and what is excluded."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """At least one of `any`, where there is one; each of `all`; and not one of `none`."""

    any: tuple[str, ...] = ()
    all: tuple[str, ...] = ()
    none: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """These hours of these days (0 is Monday)."""

    days: tuple[int, ...]
    hours: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Targeting:
    """A targeting that was read. A dimension that is not in `sides` or `terms` says nothing."""

    sides: Mapping[str, Sides]
    terms: Mapping[str, Terms]
    values: Mapping[str, Terms]
    hours: tuple[Window, ...]


def validate_targeting(
    targeting: Any, segment_keys: Collection[str], site_keys: Collection[str]
) -> list[str]:
    """What is wrong with a targeting, each with the path to it; empty when nothing is."""
    return TargetingReader(segment_keys, site_keys).read(targeting)[1]


class TargetingReader:
    """Reads targetings of one catalog; collects problems, so that a person can mend all of them at once."""

    def __init__(self, segment_keys: Collection[str], site_keys: Collection[str]) -> None:
        self._problems: list[str] = []
        self._value_checks: Mapping[str, Callable[[str], str | None]] = {
            "geo": place_problem,
            "device": _one_of("device", DEVICES),
            "os": _one_of("operating system", SYSTEMS),
            "browser": _one_of("browser", BROWSERS),
            "language": _language_problem,
            "site": _known("site", site_keys),
            "page": pattern_problem,
        }
        self._term_checks: Mapping[str, Callable[[str], str | None]] = {
            "keywords": _keyword_problem,
            "segments": _known("segment", segment_keys),
        }

    def read(self, targeting: Any) -> tuple[Targeting, list[str]]:
        """The targeting and its problems. It is only to be used when there are none."""
        self._problems = []
        return self._read(targeting), self._problems

    def _read(self, targeting: Any) -> Targeting:
        sides: dict[str, Sides] = {}
        terms: dict[str, Terms] = {}
        values: dict[str, Terms] = {}
        hours: tuple[Window, ...] = ()
        for name, rule in self._members("targeting", targeting):
            if name in self._value_checks:
                lists = self._lists(name, rule, ("include", "exclude"), self._value_checks[name])
                sides[name] = Sides(**lists)
                self._refuse_both(name, "include", "exclude", lists)
            elif name in self._term_checks:
                terms[name] = self._terms(name, rule, self._term_checks[name])
            elif name == "values":
                values = self._values(rule)
            elif name == "hours":
                hours = self._hours(rule)
            else:
                known = ", ".join((*self._value_checks, *self._term_checks, "values", "hours"))
                self._refuse(str(name), f"is not known; there are {known}")
        return Targeting(sides, terms, values, hours)

    def _values(self, rule: Any) -> dict[str, Terms]:
        members = self._members("values", rule)
        if len(members) > MAX_NAMES:
            self._refuse("values", f"has {len(members)} names; at most {MAX_NAMES} are allowed")
            return {}
        for name, _ in members:
            if problem := _text_problem(name):
                self._refuse(f"values.{name}", problem)
        return {name: self._terms(f"values.{name}", terms) for name, terms in members}

    def _terms(
        self, path: str, rule: Any, check: Callable[[str], str | None] = lambda _: None
    ) -> Terms:
        lists = self._lists(path, rule, ("any", "all", "none"), check)
        wanted = lists.get("all", ())
        if len(wanted) > MAX_ALL:
            self._refuse(f"{path}.all", f"has {len(wanted)} values; at most {MAX_ALL} are allowed")
        self._refuse_both(path, "all", "none", lists)
        self._refuse_both(path, "any", "none", lists)
        return Terms(**lists)

    def _lists(
        self, path: str, rule: Any, names: tuple[str, ...], check: Callable[[str], str | None]
    ) -> dict[str, tuple[str, ...]]:
        lists: dict[str, tuple[str, ...]] = {}
        for name, items in self._members(path, rule):
            if name in names:
                lists[name] = self._strings(f"{path}.{name}", items, check)
            else:
                self._refuse(f"{path}.{name}", f"is not known; there are {', '.join(names)}")
        return lists

    def _strings(
        self, path: str, items: Any, check: Callable[[str], str | None]
    ) -> tuple[str, ...]:
        taken: dict[str, None] = {}
        for index, item in enumerate(self._items(path, items, MAX_VALUES)):
            problem = _text_problem(item)
            if problem is None and (wrong := check(item)) is not None:
                problem = f"{item!r} {wrong}"
            if problem is not None:
                self._refuse(f"{path}[{index}]", problem)
            else:
                taken[item] = None
        return tuple(taken)

    def _hours(self, rule: Any) -> tuple[Window, ...]:
        windows: list[Window] = []
        for index, window in enumerate(self._items("hours", rule, MAX_WINDOWS)):
            path = f"hours[{index}]"
            days: tuple[int, ...] = tuple(range(7))
            hours: tuple[int, ...] = tuple(range(24))
            for name, items in self._members(path, window):
                if name == "days":
                    days = self._choices(f"{path}.days", items, DAYS, "a day (mon, tue, … sun)")
                elif name == "hours":
                    what = "a whole hour (0 to 23, or 22:00-24:00)"
                    hours = self._choices(f"{path}.hours", items, range(24), what)
                else:
                    self._refuse(f"{path}.{name}", "is not known; there are days, hours")
            windows.append(Window(days, hours))
        return tuple(windows)

    def _choices(
        self, path: str, items: Any, choices: Collection[Any], called: str
    ) -> tuple[int, ...]:
        order = list(choices)
        taken: set[int] = set()
        for index, item in enumerate(self._items(path, items, len(order))):
            # By type too: to Python true is 1, and to a reader it is not an hour.
            if type(item) is type(order[0]) and item in order:
                taken.add(order.index(item))
            else:
                self._refuse(f"{path}[{index}]", f"{_show(item)} is not {called}")
        return tuple(sorted(taken))

    def _members(self, path: str, rule: Any) -> list[tuple[str, Any]]:
        if isinstance(rule, dict):
            return list(rule.items())
        self._refuse(path, f"must have members with names, not be {_show(rule)}")
        return []

    def _items(self, path: str, items: Any, most: int) -> list[Any]:
        if not isinstance(items, list):
            self._refuse(path, f"must be a list, not {_show(items)}")
            return []
        if not items:
            self._refuse(path, "is empty; leave it out if it is to say nothing")
        if len(items) > most:
            self._refuse(path, f"has {len(items)} values; at most {most} are allowed")
            return []
        return items

    def _refuse_both(
        self, path: str, one: str, other: str, lists: Mapping[str, tuple[str, ...]]
    ) -> None:
        both = set(lists.get(one, ())) & set(lists.get(other, ()))
        if both:
            self._refuse(path, f"{min(both)!r} stands in both {one} and {other}")

    def _refuse(self, path: str, problem: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(f"{path}: {problem}")
        elif len(self._problems) == MAX_PROBLEMS:
            self._problems.append("… and more")


def _one_of(called: str, choices: tuple[str, ...]) -> Callable[[str], str | None]:
    def check(value: str) -> str | None:
        if value in choices:
            return None
        return f"is no {called}; there are {', '.join(choices)}"

    return check


def _known(called: str, keys: Collection[str]) -> Callable[[str], str | None]:
    return lambda value: None if value in keys else f"is no {called} of the catalog"


def _language_problem(value: str) -> str | None:
    if _LANGUAGE.fullmatch(value):
        return None
    return "is no language; write its primary tag alone, in lower case, as 'de'"


def _keyword_problem(value: str) -> str | None:
    if (wildcard := _WILDCARD.search(value)) is not None:
        return f"has a {wildcard[0]!r}, which stands for nothing else here; a keyword is compared whole"
    if value != value.lower():
        return f"is not in lower case; write {value.lower()!r}"
    if value != value.strip():
        return "begins or ends with a space"
    return None


def _text_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{_show(value)} is no text; put it into quotation marks"
    if not value:
        return "is empty"
    if len(value.encode(errors="replace")) > MAX_VALUE_BYTES:
        return f"is longer than {MAX_VALUE_BYTES} bytes"
    if "\0" in value:
        return "has a character that no request can have"
    return None


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
