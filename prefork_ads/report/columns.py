"""The dimensions of reports, and the one place where SQL is put together from parts.

Which columns a report groups by, and into which sets, is the user's choice, and no parameter can stand
for a column's name. So the statement is composed: from the texts in `sql/queries` and from the
identifiers in the table below, by `psycopg2.sql`. The user's words only choose lines of the table; not
one of them gets into the text. Values that rows are compared with travel as parameters, like anywhere.

All dimensions have a column in the answer, those not asked for as typed nulls. So what surrounds the
parts is fixed text, and `sql/queries/report.sql` can be read as it is.

Must not know: connections, periods, how figures are shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from psycopg2 import sql

from prefork_ads.db.queries import query

Grouping = Literal["sets", "cube", "rollup"]


@dataclass(frozen=True, slots=True)
class Dimension:
    """What a report can be grouped by: a column of the sources, and its type there."""

    name: str
    title: str
    type: str
    unknown: str = "(unknown)"
    """What is shown where there is no value."""
    relation: str | None = None
    """The table of the catalog that its values are ids of."""

    @property
    def is_time(self) -> bool:
        return self.type == "timestamptz"


_TABLE: Final = (
    Dimension("hour", "Hour", "timestamptz"),
    Dimension("day", "Day", "timestamptz"),
    Dimension("week", "Week", "timestamptz"),
    Dimension("month", "Month", "timestamptz"),
    Dimension("advertiser", "Advertiser", "integer", "(no ad)", "advertiser"),
    Dimension("campaign", "Campaign", "integer", "(no ad)", "campaign"),
    Dimension("creative", "Creative", "integer", "(no ad)", "creative"),
    Dimension("zone", "Zone", "integer", "(no zone)", "zone"),
    Dimension("site", "Site", "integer", "(no site)", "site"),
    Dimension("country", "Country", "text"),
    Dimension("device", "Device", "text"),
    Dimension("tier", "Tier", "text", "(no ad)"),
    Dimension("filtered", "Filtered", "boolean"),
)

DIMENSIONS: Final[Mapping[str, Dimension]] = {one.name: one for one in _TABLE}

# Values of `filtered` as people write them.
FILTERED: Final = {"filtered": True, "counted": False}


def figures_statement(
    by: Sequence[str],
    grouping: Grouping,
    sets: Sequence[Sequence[str]],
    filters: Sequence[str],
    *,
    raw: bool,
    users: bool,
) -> sql.Composed:
    """The statement of a report. Its parameters: from, to, at_most, and `in_<dimension>` for each filter."""
    source = sql.SQL(query("report_raw" if raw else "report_rollup"))
    parts = [_part("report_sums", source, by, grouping, sets, filters)]
    if users:
        people = sql.SQL(query("report_impressions"))
        parts.append(_part("report_users", people, by, grouping, sets, filters))
    return sql.SQL(query("report")).format(parts=sql.SQL("\nUNION ALL\n").join(parts))


def ids_statement(dimension: str) -> sql.Composed:
    """The statement that tells the ids of keys (parameter: keys)."""
    relation = DIMENSIONS[dimension].relation
    assert relation is not None, dimension
    return sql.SQL(query("report_ids")).format(relation=sql.Identifier(relation))


def _part(
    name: str,
    source: sql.SQL,
    by: Sequence[str],
    grouping: Grouping,
    sets: Sequence[Sequence[str]],
    filters: Sequence[str],
) -> sql.Composed:
    return sql.SQL(query(name)).format(
        level=_level(by),
        dimensions=sql.SQL(", ").join(_column(one, by) for one in _TABLE),
        source=source,
        filters=sql.SQL(" AND ").join([sql.SQL("true"), *map(_filter, filters)]),
        sets=_sets(by, grouping, sets),
    )


def _column(dimension: Dimension, by: Sequence[str]) -> sql.Composable:
    name = sql.Identifier(DIMENSIONS[dimension.name].name)
    if dimension.name in by:
        return name
    return sql.SQL("NULL::{} AS {}").format(sql.SQL(dimension.type), name)


def _level(by: Sequence[str]) -> sql.Composable:
    return sql.SQL("grouping({})").format(_names(by)) if by else sql.SQL("0")


def _filter(dimension: str) -> sql.Composable:
    name = DIMENSIONS[dimension].name
    return sql.SQL("{} = ANY ({})").format(sql.Identifier(name), sql.Placeholder(f"in_{name}"))


def _sets(by: Sequence[str], grouping: Grouping, sets: Sequence[Sequence[str]]) -> sql.Composable:
    if grouping != "sets":
        return sql.SQL("{}({})").format(sql.SQL(grouping.upper()), _names(by))
    each = [sql.SQL("({})").format(_names(one)) for one in sets]
    return sql.SQL("GROUPING SETS ({})").format(sql.SQL(", ").join(each))


def _names(dimensions: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(DIMENSIONS[one].name) for one in dimensions)
