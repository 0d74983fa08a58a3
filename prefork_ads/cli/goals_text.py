"""Campaigns and their goals as a table for a terminal of some width, and as objects for programs.

Each campaign has two lines, of its goal in all and of its day's. Where a table is too wide for the terminal,
columns are left out from the right, then keys are cut, then lines.

Must not know: where figures come from.
"""

import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from prefork_ads.management.moments import show_end, show_start
from prefork_ads.report.goals import BEHIND_BELOW, Line, Progress

_NOTHING: Final = "–"
_TITLES: Final = (
    *("State", "Campaign", "Goal in"),
    *("Delivered", "Goal", "%", "Even", "Flight", "Held"),
)
# That are always there, and those with figures.
_LEAST: Final = 6
_FIGURES: Final = frozenset((3, 4, 5, 6, 8))
_KEY: Final = 1
_SHORTEST_KEY: Final = 8


def table(found: Sequence[Progress], width: int) -> list[str]:
    """At least one campaign, in lines that are no longer than the width."""
    rows = [_TITLES, *(row for one in found for row in _rows(one))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while len(widths) > _LEAST and _total(widths) > width:
        widths.pop()
    widths[_KEY] = max(_SHORTEST_KEY, widths[_KEY] - max(0, _total(widths) - width))
    rule = tuple("-" * one for one in widths)
    moment = datetime.fromtimestamp(found[0].campaign.at_s, UTC)
    even = "what an even delivery would have by now"
    if len(widths) > _LEAST:
        words = f"Even is {even}; behind is under {BEHIND_BELOW} % of that."
    else:
        words = f"Behind is under {BEHIND_BELOW} % of {even}."
    note = f"{moment:%Y-%m-%d %H:%M:%S} UTC. {words}"
    return [
        *(_fitted(_aligned(row, widths), width) for row in (rows[0], rule, *rows[1:])),
        "",
        *textwrap.wrap(note, width),
    ]


def as_object(one: Progress) -> dict[str, Any]:
    """Plain numbers; times with the offset of the campaign's zone, shares from 0 to 1."""
    campaign = one.campaign
    return {
        "key": campaign.key,
        "status": campaign.status,
        "state": one.state,
        "goal_kind": campaign.kind,
        "pacing": campaign.pacing,
        "delivered": one.in_all.delivered,
        "goal_total": one.in_all.goal,
        "share": _share(one.in_all),
        "even": one.in_all.even,
        "delivered_today": one.today.delivered,
        "goal_daily": one.today.goal,
        "share_today": _share(one.today),
        "even_today": one.today.even,
        "held": campaign.held,
        "starts": _iso(campaign.starts_s, one.zone),
        "ends": _iso(campaign.ends_s, one.zone),
        "passed": None if one.passed is None else round(one.passed, 6),
        "time_zone": campaign.time_zone,
        "at": _iso(campaign.at_s, one.zone),
    }


def _share(line: Line) -> float | None:
    return None if line.goal is None else round(line.delivered / line.goal, 6)


def _iso(at_s: float | None, zone: ZoneInfo) -> str | None:
    return None if at_s is None else datetime.fromtimestamp(at_s, zone).isoformat()


def _rows(one: Progress) -> tuple[tuple[str, ...], tuple[str, ...]]:
    campaign = one.campaign
    begins, ends = _flight(one)
    return (
        (one.state, campaign.key, campaign.kind or "", *_figures(one.in_all), begins, f"{campaign.held:,}"),
        ("", "", "today", *_figures(one.today), ends, ""),
    )  # fmt: skip


def _figures(line: Line) -> tuple[str, str, str, str]:
    if line.goal is None:
        goal = share = _NOTHING
    else:
        # Rounded down: what is not reached is not 100.
        goal, share = f"{line.goal:,}", str(line.delivered * 100 // line.goal)
    even = _NOTHING if line.even is None else f"{line.even:,}"
    return f"{line.delivered:,}", goal, share, even


def _flight(one: Progress) -> tuple[str, str]:
    starts_s, ends_s = one.campaign.starts_s, one.campaign.ends_s
    begins, ends = _NOTHING, ""
    if starts_s is not None and (one.passed is None or one.state == "not begun"):
        begins = f"from {show_start(datetime.fromtimestamp(starts_s, UTC), one.zone)}"
    elif one.passed is not None:
        begins = f"{int(one.passed * 100)} % passed"
    if ends_s is not None:
        ends = f"to {show_end(datetime.fromtimestamp(ends_s, UTC), one.zone)}"
    return begins, ends


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = []
    for n, (cell, width) in enumerate(zip(row, widths, strict=False)):
        text = _fitted(cell, width)
        cells.append(text.rjust(width) if n in _FIGURES else text.ljust(width))
    return "  ".join(cells).rstrip()


def _fitted(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
