"""The things of the catalog as a worker holds them: plain records, made from the rows of PostgreSQL.

A row is what `to_jsonb` makes of it: times are ISO 8601 with an offset. What cannot be read here raises
`Unreadable` with words for a person; the campaign is then not served, and everything else is.

Flights begin and end with whole seconds; a fraction counts for the next one.

Must not know: bits, targeting, requests.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

TIERS = ("sponsorship", "guaranteed", "standard", "house")

# Farther than any flight: PostgreSQL's infinity, as a number that still has few digits.
FOREVER_S = 1 << 36

Row = Mapping[str, Any]


class Unreadable(ValueError):
    """A row that this program does not understand, in words."""


@dataclass(frozen=True, slots=True)
class Caps:
    """The most ads a person is shown; None: no limit."""

    hour: int | None
    day: int | None
    flight: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """A place for ads on a site."""

    id: int
    key: str
    site_id: int
    site_key: str
    sizes: tuple[str, ...]
    """As 300x250. Empty: it takes native ads, and those have no size."""
    formats: tuple[str, ...]
    floor_micros: int
    fallback: str
    """house: a house ad when nothing that pays fits; none: nothing at all."""
    active: bool
    """The zone and its site are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Creative:
    """What is shown, and where a click leads."""

    id: int
    key: str
    campaign_id: int
    active: bool
    format: str
    width: int | None
    height: int | None
    size: str
    """As 300x250; "" for a native ad that has none."""
    html: str | None
    image_url: str | None
    alt: str | None
    native: Mapping[str, Any] | None
    click_url: str
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """Who pays for what, when and how often; to whom is its targeting's affair."""

    id: int
    key: str
    advertiser_id: int
    advertiser_key: str
    name: str
    bit: int
    """Its place in every mask of this catalog; -1: it cannot be served at all."""
    tier: str
    weight: int
    goal_kind: str | None
    goal_total: int | None
    goal_daily: int | None
    pacing: str
    price_model: str
    price_micros: int
    starts_s: int | None
    """First second of its flight, since 1970; None: it always ran."""
    ends_s: int | None
    """First second after its flight."""
    time_zone: str
    roadblock: bool
    caps: Caps | None
    advertiser_caps: Caps | None
    allow_repeat: bool
    """Several ads of its advertiser may stand on one page."""
    capped: bool
    """It or its advertiser has a cap."""
    leased: bool
    """It has a goal, so it is served from a lease alone."""


def read_zone(row: Row, sites: Mapping[int, Row]) -> Zone:
    site = sites.get(row["site_id"])
    return Zone(
        id=row["id"],
        key=row["key"],
        site_id=row["site_id"],
        site_key=site["key"] if site is not None else "",
        sizes=tuple(row["sizes"]),
        formats=tuple(row["formats"]),
        floor_micros=row["floor_micros"],
        fallback=row["fallback"],
        active=row["status"] == "active" and site is not None and site["status"] == "active",
    )


def read_creative(row: Row) -> Creative:
    width, height = row["width"], row["height"]
    return Creative(
        id=row["id"],
        key=row["key"],
        campaign_id=row["campaign_id"],
        active=row["status"] == "active",
        format=row["format"],
        width=width,
        height=height,
        size="" if width is None else f"{width}x{height}",
        html=row["html"],
        image_url=row["image_url"],
        alt=row["alt"],
        native=row["native"],
        click_url=row["click_url"],
        weight=row["weight"],
    )


def read_campaign(row: Row, advertiser: Row, bit: int) -> Campaign:
    caps, advertiser_caps = _caps(row), _caps(advertiser)
    return Campaign(
        id=row["id"],
        key=row["key"],
        advertiser_id=row["advertiser_id"],
        advertiser_key=advertiser["key"],
        name=row["name"],
        bit=bit,
        tier=row["tier"],
        weight=row["weight"],
        goal_kind=row["goal_kind"],
        goal_total=row["goal_total"],
        goal_daily=row["goal_daily"],
        pacing=row["pacing"],
        price_model=row["price_model"],
        price_micros=row["price_micros"],
        starts_s=_second(row["starts_at"]),
        ends_s=_second(row["ends_at"]),
        time_zone=row["time_zone"],
        roadblock=row["roadblock"],
        caps=caps,
        advertiser_caps=advertiser_caps,
        allow_repeat=advertiser["allow_repeat"],
        capped=caps is not None or advertiser_caps is not None,
        leased=row["goal_kind"] is not None,
    )


@lru_cache(maxsize=1024)
def time_zone(name: str) -> ZoneInfo:
    """The time zone. PostgreSQL may know more of them than this machine."""
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        raise Unreadable(f"this machine knows no time zone {name!r}") from None


def _caps(row: Row) -> Caps | None:
    hour, day, flight = row["cap_hour"], row["cap_day"], row["cap_flight"]
    return None if hour is day is flight is None else Caps(hour, day, flight)


@lru_cache(maxsize=4096)
def _second(text: str | None) -> int | None:
    if text is None:
        return None
    if text in ("infinity", "-infinity"):
        return 0 if text[0] == "-" else FOREVER_S
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Unreadable(f"{text!r} is no time that this program knows") from None
    return min(max(0, math.ceil(moment.timestamp())), FOREVER_S)
