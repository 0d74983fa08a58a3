"""A decision made slowly: one campaign after the other, one `if` for each rule, on the rows themselves.

Written from what targeting means (docs/catalog.md), to hold the fast one against. It knows nothing of masks
and imports nothing of the fast one but the records of a request.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import Any
from zoneinfo import ZoneInfo

from prefork_ads.ads.facts import Facts

Row = dict[str, Any]
Rows = dict[str, dict[int, Row]]

DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
TIERS = ["sponsorship", "guaranteed", "standard", "house"]


@dataclass
class SlowState:
    """What budgets and pacing say, by campaign."""

    closed: set[int] = field(default_factory=set)
    needs: dict[int, int] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)

    def need(self, campaign: Row) -> int:
        return self.needs.get(campaign["id"], 4)


@dataclass
class SlowPage:
    """The places of a page that were looked at, and what was chosen for them."""

    # Zone, and the sizes and formats asked for.
    places: Sequence[tuple[Row, tuple[str, ...], tuple[str, ...]]]
    chosen: list[Row | None] = field(default_factory=list)
    after: Sequence[Row] = ()


def first_rule(
    rows: Rows,
    campaign: Row,
    facts: Facts,
    page: SlowPage,
    state: SlowState,
    capped: set[int],
    paying: bool,
) -> str | None:
    """What drops a campaign at the next place of the page; None: it may be drawn, if no tier is better."""
    zone, sizes, formats = page.places[len(page.chosen)]
    return (
        rule_of_status(rows, campaign)
        or rule_of_zone(rows, campaign, zone, sizes, formats)
        or rule_of_time(campaign, facts)
        or rule_of_sender(rows, campaign, facts)
        or rule_of_standing(campaign, state, capped, paying)
        or rule_of_page(rows, campaign, page, state)
    )


def rule_of_status(rows: Rows, campaign: Row) -> str | None:
    if campaign["status"] != "active":
        return "status"
    if rows["advertiser"][campaign["advertiser_id"]]["status"] != "active":
        return "status"
    if not understood(rows, campaign["targeting"]):
        return "status"
    return None


def understood(rows: Rows, targeting: Row) -> bool:
    """As far as the catalogs of these tests go wrong."""
    if "colour" in targeting:
        return False
    for place in targeting.get("geo", {}).get("include", []):
        if place == "XX":
            return False
    for name in ("any", "all", "none"):
        for key in targeting.get("segments", {}).get(name, []):
            if key not in [row["key"] for row in rows["segment"].values()]:
                return False
    for name in ("include", "exclude"):
        for key in targeting.get("site", {}).get(name, []):
            if key not in [row["key"] for row in rows["site"].values()]:
                return False
    return True


def rule_of_zone(
    rows: Rows, campaign: Row, zone: Row, sizes: tuple[str, ...], formats: tuple[str, ...]
) -> str | None:
    site = rows["site"][zone["site_id"]]
    if zone["status"] != "active" or site["status"] != "active":
        return "zone"
    if not fitting(rows, campaign, zone, sizes, formats):
        return "creative"
    if not on_one_side(campaign["targeting"].get("site", {}), [site["key"]]):
        return "site"
    if zone["floor_micros"] > 0 and campaign["tier"] != "house":
        if campaign["price_model"] != "cpm":
            return "floor"
        if campaign["price_micros"] < zone["floor_micros"]:
            return "floor"
    if zone["fallback"] == "none" and campaign["tier"] == "house":
        return "fallback"
    return None


def fitting(
    rows: Rows, campaign: Row, zone: Row, sizes: tuple[str, ...], formats: tuple[str, ...]
) -> list[Row]:
    """The campaign's creatives that could be shown there."""
    found = []
    for creative in sorted(rows["creative"].values(), key=lambda one: one["id"]):
        if creative["campaign_id"] != campaign["id"]:
            continue
        if creative["status"] != "active":
            continue
        if creative["format"] not in zone["formats"]:
            continue
        if formats and creative["format"] not in formats:
            continue
        if creative["width"] is not None:
            size = f"{creative['width']}x{creative['height']}"
            if zone["sizes"] and size not in zone["sizes"]:
                continue
            if sizes and size not in sizes:
                continue
        found.append(creative)
    return found


def rule_of_time(campaign: Row, facts: Facts) -> str | None:
    # Flights begin and end with whole seconds.
    starts, ends = campaign["starts_at"], campaign["ends_at"]
    if starts is not None and facts.at_s < ceil(datetime.fromisoformat(starts).timestamp()):
        return "flight"
    if ends is not None and facts.at_s >= ceil(datetime.fromisoformat(ends).timestamp()):
        return "flight"
    windows = campaign["targeting"].get("hours")
    if windows is None:
        return None
    there = datetime.fromtimestamp(facts.at_s, ZoneInfo(campaign["time_zone"]))
    for window in windows:
        if "days" in window and DAYS[there.weekday()] not in window["days"]:
            continue
        if "hours" in window and there.hour not in window["hours"]:
            continue
        return None
    return "hours"


def rule_of_sender(rows: Rows, campaign: Row, facts: Facts) -> str | None:
    targeting = campaign["targeting"]
    if not on_one_side(targeting.get("geo", {}), [facts.country, facts.region, facts.city]):
        return "geo"
    if not on_one_side(targeting.get("device", {}), [facts.device]):
        return "device"
    if not on_one_side(targeting.get("os", {}), [facts.os]):
        return "os"
    if not on_one_side(targeting.get("browser", {}), [facts.browser]):
        return "browser"
    if not on_one_side(targeting.get("language", {}), facts.languages):
        return "language"
    if not page_meets(targeting.get("page", {}), facts.page):
        return "page"
    if not terms_met(targeting.get("keywords", {}), facts.keywords):
        return "keywords"
    for name, terms in targeting.get("values", {}).items():
        if not terms_met(terms, [value for other, value in facts.values if other == name]):
            return "values"
    keys = [rows["segment"][one]["key"] for one in facts.segments if one in rows["segment"]]
    if not terms_met(targeting.get("segments", {}), keys):
        return "segments"
    return None


def on_one_side(sides: Row, values: Iterable[str]) -> bool:
    known = [value for value in values if value != ""]
    for value in known:
        if value in sides.get("exclude", []):
            return False
    if "include" not in sides:
        return True
    return any(value in sides["include"] for value in known)


def page_meets(sides: Row, page: str) -> bool:
    for pattern in sides.get("exclude", []):
        if pattern_meets(pattern, page):
            return False
    if "include" not in sides:
        return True
    return any(pattern_meets(pattern, page) for pattern in sides["include"])


def pattern_meets(pattern: str, page: str) -> bool:
    if page == "":
        return False
    host, _, path = page.partition("/")
    wanted_host, slash, wanted_path = pattern.partition("/")
    if wanted_host.startswith("*."):
        if host != wanted_host[2:] and not host.endswith(wanted_host[1:]):
            return False
    elif host != wanted_host:
        return False
    if slash == "":
        return True
    expression = ".*".join(re.escape(piece) for piece in wanted_path.split("*"))
    return re.fullmatch(expression, path, re.DOTALL) is not None


def terms_met(terms: Row, present: Iterable[str]) -> bool:
    present = list(present)
    for value in terms.get("none", []):
        if value in present:
            return False
    for value in terms.get("all", []):
        if value not in present:
            return False
    if "any" not in terms:
        return True
    return any(value in present for value in terms["any"])


def rule_of_standing(campaign: Row, state: SlowState, capped: set[int], paying: bool) -> str | None:
    if campaign["id"] in state.closed:
        return "budget"
    if state.left.get(campaign["id"], 1) < 1:
        return "budget"
    if state.need(campaign) == 0:
        return "budget"
    if campaign["id"] in capped:
        return "caps"
    if not paying and campaign["tier"] != "house":
        return "bot"
    return None


def rule_of_page(rows: Rows, campaign: Row, page: SlowPage, state: SlowState) -> str | None:
    advertiser = rows["advertiser"][campaign["advertiser_id"]]
    there: list[Row] = [one for one in [*page.after, *page.chosen] if one is not None]
    for other in there:
        if other["roadblock"]:
            return None if campaign["id"] == other["id"] else "neighbours"
    if campaign["roadblock"]:
        if page.after or page.chosen:
            return "neighbours"
        if state.left.get(campaign["id"], 1000) < len(page.places):
            return "neighbours"
        for zone, sizes, formats in page.places:
            if rule_of_zone(rows, campaign, zone, sizes, formats) is not None:
                return "neighbours"
    for other in there:
        if other["id"] == campaign["id"]:
            return "neighbours"
        if other["advertiser_id"] == campaign["advertiser_id"] and not advertiser["allow_repeat"]:
            return "neighbours"
    return None


def shares(campaigns: Sequence[Row], state: SlowState) -> dict[int, float]:
    """By campaign: its share of the draws among these, those of lower tiers left out."""
    for tier in TIERS:
        drawn = [campaign for campaign in campaigns if campaign["tier"] == tier]
        if drawn:
            total = sum(campaign["weight"] * state.need(campaign) for campaign in drawn)
            return {one["id"]: one["weight"] * state.need(one) / total for one in drawn}
    return {}
