"""What may be said of each kind of thing in a file, and which columns that becomes.

Everything that the schema's constraints refuse is refused here first, in words and with its place; the
schema remains the one that decides (a test holds the two against each other).

Must not know: which things there are, the database.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from prefork_ads.management.contents import Columns, creative, is_size
from prefork_ads.management.entry import Entry, shown
from prefork_ads.management.moments import BadMoment, read_end, read_start, read_zone
from prefork_ads.management.targeting_form import TargetingForm

TIERS: Final = ("sponsorship", "guaranteed", "standard", "house")
FORMATS: Final = ("html", "image", "native")
CAPS: Final = {"hour": 32_767, "day": 32_767, "flight": 2_147_483_647}
MOST_GOAL: Final = 10**12

_DOMAIN: Final = re.compile(
    r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?(:[0-9]{1,5})?"
)


def advertiser(entry: Entry, columns: Columns, _zone: str, _folder: Path) -> None:
    columns["allow_repeat"] = entry.flag("allow_repeat")
    _caps(entry, columns)


def site(entry: Entry, columns: Columns, _zone: str, _folder: Path) -> None:
    domain = entry.text("domain", 255, required=True)
    if domain is not None and not _DOMAIN.fullmatch(domain):
        reason = f"{shown(domain)} is no domain; write it in small letters, as news.example"
        entry.complain(entry.mark_of("domain"), "domain", reason)
    columns["domain"] = domain or ""


def segment(_entry: Entry, _columns: Columns, _zone: str, _folder: Path) -> None:
    """A segment has a name and a status."""


def zone(entry: Entry, columns: Columns, _zone: str, _folder: Path) -> None:
    columns["sizes"] = _set(entry, "sizes", "a size; write width and height as 300x250", is_size)
    known = f"a format; there are {', '.join(FORMATS)}"
    columns["formats"] = _set(entry, "formats", known, FORMATS.__contains__) or ["html", "image"]
    if not columns["sizes"] and columns["formats"] != ["native"]:
        mark = entry.mark_of("sizes")
        entry.complain(mark, "sizes", "are missing; only a zone for native ads alone has none")
    if len(columns["sizes"]) > 100:
        entry.complain(entry.mark_of("sizes"), "sizes", "are more than 100")
    columns["floor_micros"] = entry.micros("floor") or 0
    columns["fallback"] = entry.word("fallback", ("house", "none"), "house")


def campaign(entry: Entry, columns: Columns, time_zone: str, _folder: Path) -> None:
    columns["tier"] = entry.word("tier", TIERS, "standard")
    columns["weight"] = entry.whole("weight", 1, 1000) or 100
    columns["roadblock"] = entry.flag("roadblock")
    _flight(entry, columns, time_zone)
    _goal(entry, columns)
    _price(entry, columns)
    _caps(entry, columns)
    _pacing(entry, columns)
    columns["targeting"] = {}
    node = entry.take("targeting")
    if node is not None:
        form = TargetingForm()
        columns["targeting"] = form.read(node)
        entry.marks.update({f"targeting.{path}": mark for path, mark in form.marks.items()})


COLUMNS: Final[Mapping[str, Callable[[Entry, Columns, str, Path], None]]] = {
    "advertiser": advertiser,
    "site": site,
    "segment": segment,
    "zone": zone,
    "campaign": campaign,
    "creative": creative,
}


def _set(entry: Entry, name: str, what: str, good: Callable[[str], bool]) -> list[str]:
    """A list of words, none twice."""
    found: list[str] = []
    for node in entry.texts(name):
        if not good(node.text):
            entry.complain(node.mark, name, f"{shown(node.text)} is not {what}")
        elif node.text in found:
            entry.complain(node.mark, name, f"{node.text} stands here twice")
        else:
            found.append(node.text)
    return found


def _caps(entry: Entry, columns: Columns) -> None:
    caps = entry.inner("caps")
    for name, most in CAPS.items():
        columns[f"cap_{name}"] = None if caps is None else caps.whole(name, 1, most)
    if caps is not None:
        caps.close()


def _flight(entry: Entry, columns: Columns, time_zone: str) -> None:
    name = entry.scalar("time_zone", "a name such as Europe/Berlin")
    columns["time_zone"] = time_zone if name is None else name.text
    columns["starts_at"] = columns["ends_at"] = None
    try:
        zone = read_zone(columns["time_zone"])
    except BadMoment as error:
        shown_zone = shown(columns["time_zone"])
        entry.complain(entry.mark_of("time_zone"), "time_zone", f"{shown_zone} {error}")
        zone = read_zone("UTC")
    for member, column, read in (
        ("starts", "starts_at", read_start),
        ("ends", "ends_at", read_end),
    ):
        node = entry.scalar(member, "a date such as 2026-12-01")
        if node is not None:
            try:
                columns[column] = read(node.text.strip(), zone)
            except BadMoment as error:
                entry.complain(node.mark, member, f"{shown(node.text)} {error}")
    starts: datetime | None = columns["starts_at"]
    ends: datetime | None = columns["ends_at"]
    if starts is not None and ends is not None and starts >= ends:
        entry.complain(entry.mark_of("ends"), "ends", "is not after starts")


def _goal(entry: Entry, columns: Columns) -> None:
    columns["goal_kind"] = columns["goal_total"] = columns["goal_daily"] = None
    goal = entry.inner("goal")
    if goal is None:
        return
    given = [name for name in ("total", "daily") if goal.take(name) is not None]
    total = columns["goal_total"] = goal.whole("total", 1, MOST_GOAL)
    daily = columns["goal_daily"] = goal.whole("daily", 1, MOST_GOAL)
    kind = goal.word("kind", ("impressions", "clicks"), "impressions")
    goal.close()
    if not given and goal.sound:
        goal.complain(goal.mark, "", "needs a total, a daily amount or both")
    elif total is not None and daily is not None and daily > total:
        goal.complain(goal.mark_of("daily"), "daily", f"is more than the total of {total:,}")
    columns["goal_kind"] = None if total is None and daily is None else kind


def _price(entry: Entry, columns: Columns) -> None:
    columns["price_model"], columns["price_micros"] = "cpm", 0
    price = entry.inner("price")
    if price is None:
        return
    models = [model for model in ("cpm", "cpc", "cpa") if price.take(model) is not None]
    price.close()
    if not price.sound:
        return
    if len(models) != 1:
        price.complain(price.mark, "", "needs one of cpm, cpc and cpa, as in {cpm: 4.50}")
        return
    columns["price_model"] = models[0]
    columns["price_micros"] = price.micros(models[0]) or 0
    if columns["tier"] == "house" and columns["price_micros"]:
        price.complain(
            price.mark_of(models[0]), models[0], "must be 0: a house campaign has no price"
        )


def _pacing(entry: Entry, columns: Columns) -> None:
    columns["pacing"] = entry.word("pacing", ("even", "asap"), "asap")
    goal_is_bad = columns["goal_kind"] is None and "goal" in entry.marks
    if columns["pacing"] == "asap" or columns["goal_daily"] is not None or goal_is_bad:
        return
    if columns["goal_total"] is None:
        entry.complain(entry.mark_of("pacing"), "pacing", "even needs a goal to spread")
    elif columns["ends_at"] is None and "ends" not in entry.marks:
        reason = "even needs a daily goal, or a time by which the total is to be reached (ends)"
        entry.complain(entry.mark_of("pacing"), "pacing", reason)
