"""What a chart shows of a report: one measure, over time or side by side, as a few series.

The rows of the finest grouping are added up over what the chart has no room for. Different users cannot
be added up, so they are drawn only where nothing has to be. Beyond a handful of series a chart cannot
be read: the largest are kept and the rest is one more, "others".

Must not know: SVG, colours, SQL.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from prefork_ads.report.columns import DIMENSIONS
from prefork_ads.report.figures import Report, Row
from prefork_ads.report.measures import DEFAULT, MEASURES, SUMS, Value
from prefork_ads.report.words import label

MOST_SERIES: Final = 5
MOST_BARS: Final = 15
MOST_CHARTS: Final = 4
# Drawn of a report for which nobody has chosen measures.
TELLING: Final = ("impressions", "clicks", "ctr", "spend")
OTHERS: Final = "others"

Sums = dict[str, int]
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart, or its only row of bars."""

    name: str
    values: list[Value]


@dataclass(frozen=True, slots=True)
class Chart:
    """Series over the same steps. `over_time`: the steps are moments in their order."""

    measure: str
    over_time: bool
    steps: list[str]
    series: list[Series]


def charts(report: Report) -> list[Chart]:
    """The charts of a report, in the order of its measures; none if there is nothing to compare."""
    dimensions, rows = _finest(report)
    if not dimensions or len(rows) < 2:
        return []
    time = next((name for name in dimensions if DIMENSIONS[name].is_time), None)
    rest = [name for name in dimensions if not DIMENSIONS[name].is_time]
    made = []
    for measure in _drawn(
        report, adds=len(dimensions) > (1 if time is None else min(2, 1 + len(rest)))
    ):
        if time is not None and len({row.labels[time] for row in rows}) > 1:
            made.append(_over_time(measure, rows, time, rest[0] if rest else None))
        else:
            made.append(_side_by_side(measure, rows, rest[0] if rest else dimensions[0]))
    return made


def _finest(report: Report) -> tuple[list[str], list[Row]]:
    """The rows that sum over least, and the dimensions they have."""
    if not report.rows:
        return [], []
    fewest = min(report.rows, key=lambda row: len(row.over)).over
    by = [name for name in report.wanted.by if name not in fewest]
    return by, [row for row in report.rows if row.over == fewest]


def _drawn(report: Report, *, adds: bool) -> list[str]:
    """Which measures: the one sorted by first, then the others as asked for."""
    wanted = report.wanted
    asked = [wanted.sort, *(TELLING if wanted.measures == DEFAULT else wanted.measures)]
    names = dict.fromkeys(
        name for name in asked if name is not None and not (name == "users" and adds)
    )
    return list(names)[:MOST_CHARTS]


def _over_time(measure: str, rows: Sequence[Row], time: str, split: str | None) -> Chart:
    steps = list(dict.fromkeys(label(row, time) for row in rows))
    if split is not None:
        # Rows come campaign by campaign, say, and each may lack days that another has.
        steps = [text for _, text in sorted({(row.labels[time], label(row, time)) for row in rows})]
    names = _largest(measure, rows, split)
    added: dict[tuple[str, str], Sums] = {}
    for row in rows:
        name = MEASURES[measure].title if split is None else label(row, split)
        key = (name if name in names else OTHERS, label(row, time))
        _add(added, key, row.sums)
    nothing = dict.fromkeys(SUMS, 0)
    of = MEASURES[measure].of
    present = [*names, *([OTHERS] if any(name == OTHERS for name, _ in added) else [])]
    series = [
        Series(name, [of(added.get((name, step), nothing)) for step in steps]) for name in present
    ]
    return Chart(measure, True, steps, series)


def _side_by_side(measure: str, rows: Sequence[Row], split: str) -> Chart:
    added: dict[str, Sums] = {}
    for row in rows:
        _add(added, label(row, split), row.sums)
    of = MEASURES[measure].of
    ranked = sorted(added, key=lambda name: -(of(added[name]) or 0))[:MOST_BARS]
    return Chart(
        measure, False, ranked, [Series(MEASURES[measure].title, [of(added[n]) for n in ranked])]
    )


def _largest(measure: str, rows: Iterable[Row], split: str | None) -> list[str]:
    if split is None:
        return [MEASURES[measure].title]
    added: dict[str, Sums] = {}
    for row in rows:
        _add(added, label(row, split), row.sums)
    kind = MEASURES[measure].kind
    # A rate is largest where hardly anything happened, so for rates it is what was shown that ranks.
    of = MEASURES["impressions" if kind == "share" or measure == "ecpm" else measure].of
    ranked = sorted(added, key=lambda name: (-(of(added[name]) or 0), name))
    keep = MOST_SERIES if len(ranked) > MOST_SERIES + 1 else MOST_SERIES + 1
    return ranked[:keep]


def _add(added: dict[K, Sums], key: K, sums: Sums) -> None:
    there = added.setdefault(key, dict.fromkeys(SUMS, 0))
    for name, value in sums.items():
        there[name] += value
