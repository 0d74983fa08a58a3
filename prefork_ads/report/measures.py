"""The measures of reports: sums as they are counted, and what follows from them.

Sums are whole numbers. What is derived is derived from them here, in decimals and once, so that each
output shows the same figure and a rate of a total is the rate of its sums. Where there is nothing to
divide by there is no rate: None, not 0.

Money is summed in billionths of the currency; so is what `spend` and eCPM are computed from.

Must not know: SQL, dimensions, how figures are shown.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, Literal

Sums = Mapping[str, int]
Value = int | Decimal | None
Kind = Literal["count", "share", "money"]

NANOS: Final = Decimal(10**9)
MICROS: Final = Decimal(10**6)
# A rate is known to a ten-thousandth of a percent.
SHARE_STEP: Final = Decimal("0.000001")
MONEY_STEP: Final = Decimal("0.000000001")


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a row."""

    name: str
    title: str
    kind: Kind
    meaning: str
    of: Callable[[Sums], Value]


def share(part: int, whole: int) -> Decimal | None:
    """A part of a whole; None where there is no whole."""
    if not whole:
        return None
    return (Decimal(part) / whole).quantize(SHARE_STEP, ROUND_HALF_EVEN)


def ecpm(sums: Sums) -> Decimal | None:
    """What a thousand impressions brought."""
    if not sums["impressions"]:
        return None
    per_thousand = Decimal(sums["spend_nanos"]) * 1000 / sums["impressions"] / NANOS
    return per_thousand.quantize(MONEY_STEP, ROUND_HALF_EVEN)


_TABLE: Final = (
    Measure("requests", "Requests", "count", "places asked for", lambda s: s["requests"]),
    Measure("fills", "Fills", "count", "places that got an ad", lambda s: s["fills"]),
    Measure(
        "fill_rate",
        "Fill rate",
        "share",
        "fills of requests",
        lambda s: share(s["fills"], s["requests"]),
    ),
    Measure("impressions", "Impressions", "count", "ads shown", lambda s: s["impressions"]),
    Measure(
        "viewable", "Viewable", "count", "half visible for one second", lambda s: s["viewable"]
    ),
    Measure(
        "viewability",
        "Viewability",
        "share",
        "viewable of impressions",
        lambda s: share(s["viewable"], s["impressions"]),
    ),
    Measure("clicks", "Clicks", "count", "clicks on ads", lambda s: s["clicks"]),
    Measure(
        "ctr",
        "CTR",
        "share",
        "clicks of impressions",
        lambda s: share(s["clicks"], s["impressions"]),
    ),
    Measure(
        "conversions",
        "Conversions",
        "count",
        "orders attributed to ads",
        lambda s: s["conversions"],
    ),
    Measure(
        "value",
        "Value",
        "money",
        "what these orders were worth",
        lambda s: Decimal(s["value_micros"]) / MICROS,
    ),
    Measure(
        "spend",
        "Spend",
        "money",
        "what campaigns pay",
        lambda s: Decimal(s["spend_nanos"]) / NANOS,
    ),
    Measure("ecpm", "eCPM", "money", "spend for a thousand impressions", ecpm),
    Measure("users", "Users", "count", "different users with an impression", lambda s: s["users"]),
)

MEASURES: Final[Mapping[str, Measure]] = {one.name: one for one in _TABLE}

SUMS: Final = (
    "requests",
    "fills",
    "impressions",
    "viewable",
    "clicks",
    "conversions",
    "value_micros",
    "spend_nanos",
    "users",
)

DEFAULT: Final = (
    "requests",
    "fill_rate",
    "impressions",
    "viewability",
    "clicks",
    "ctr",
    "conversions",
    "spend",
    "ecpm",
)
