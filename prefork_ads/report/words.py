"""Figures and labels as people read them. The table and the page say them alike.

Must not know: where they are shown.
"""

from decimal import ROUND_HALF_EVEN, Decimal

from prefork_ads.report.columns import DIMENSIONS
from prefork_ads.report.figures import Row
from prefork_ads.report.measures import MEASURES, Kind, Value

NO_FIGURE = "–"
ALL = "all"


def figure(measure: str, value: Value) -> str:
    """1,234, 56.78 %, 1,234.56; a dash where there is nothing to divide by."""
    return shown(MEASURES[measure].kind, value)


def shown(kind: Kind, value: Value) -> str:
    if value is None:
        return NO_FIGURE
    if kind == "count":
        return f"{int(value):,}"
    number = Decimal(value)
    if kind == "share":
        return f"{(number * 100).quantize(Decimal('0.01'), ROUND_HALF_EVEN)} %"
    return f"{number.quantize(Decimal('0.01'), ROUND_HALF_EVEN):,}"


def label(row: Row, name: str) -> str:
    """The value of a dimension; what a total sums over is "all"."""
    if name in row.over:
        return ALL
    text = row.labels[name]
    if not text:
        return DIMENSIONS[name].unknown
    # The offset is said only for hours, where it tells two of them apart.
    return text.replace("T", " ", 1) if name == "hour" else text
