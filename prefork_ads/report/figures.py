"""Making a report: one snapshot of the database, one statement, exact sums.

The hourly rollup answers nearly everything. It is cut at whole hours of UTC, though; a zone that is half an
hour off, and a period that begins at half past, cut through its hours. Then the same figures are added up
from the single decisions and events, exactly as well and more slowly, and `Report.source` says so. If
these are not kept any more there is no exact answer, and none is given.

Days, weeks and months are those of the time zone asked for: PostgreSQL cuts them, in a session of that
zone, so a day on which clocks change has the 23 or 25 hours it had.

Must not know: how figures are shown.
"""

import datetime
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

import psycopg2.extensions

from prefork_ads.db import session
from prefork_ads.db.queries import query
from prefork_ads.errors import ConfigError
from prefork_ads.report.columns import DIMENSIONS, FILTERED, figures_statement, ids_statement
from prefork_ads.report.measures import MEASURES, SUMS, Value
from prefork_ads.report.wanted import MOST_ROWS, Wanted

Connection = psycopg2.extensions.connection

_FIRST_SUM: Final = 1 + len(DIMENSIONS)


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its values, the dimensions it sums over, its sums."""

    labels: dict[str, str]
    """Of the dimensions it does not sum over. Empty: not known, or no ad."""
    over: tuple[str, ...]
    sums: dict[str, int]

    @property
    def is_total(self) -> bool:
        return bool(self.over)

    def value(self, measure: str) -> Value:
        return MEASURES[measure].of(self.sums)


@dataclass(frozen=True, slots=True)
class Report:
    """What came out."""

    wanted: Wanted
    starts: str
    """With the offset of the zone asked for; the end is not part of the period."""
    ends: str
    source: Literal["rollup", "raw"]
    rows: list[Row]
    left_out: int = 0
    """Rows beyond --limit."""

    @property
    def total(self) -> Row | None:
        """The row of everything, if there is one."""
        return next((row for row in self.rows if len(row.over) == len(self.wanted.by)), None)

    @property
    def details(self) -> list[Row]:
        return [row for row in self.rows if not row.is_total]


def report(dsn: str, wanted: Wanted) -> Report:
    """Make a report. Raises ConfigError when it is asked for what there is not."""
    with session.connection(dsn, writes=False) as conn:
        conn.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with conn, conn.cursor() as cursor:
            set_zone(cursor, wanted.zone)
            period = _period(cursor, wanted)
            filters = _filters(cursor, wanted)
            raw = _needs_raw(period, wanted)
            users = "users" in wanted.measures or wanted.sort == "users"
            if users and period["events_are_gone"]:
                raise ConfigError(
                    "Users are counted from single events, which are kept only from"
                    f" {period['events_from']} on: take a later --from, or other --measures."
                )
            statement = figures_statement(
                wanted.by,
                wanted.grouping,
                wanted.sets,
                list(wanted.where),
                raw=raw,
                users=users,
            )
            parameters = {
                **filters,
                "from": period["starts"],
                "to": period["ends"],
                "at_most": MOST_ROWS + 1,
            }
            cursor.execute(statement, parameters)
            found = cursor.fetchall()
    if len(found) > MOST_ROWS:
        raise ConfigError(
            f"That would be more than {MOST_ROWS:,} rows: take fewer dimensions or a shorter time."
        )
    rows, left_out = _ordered([_row(one, wanted.by) for one in found], wanted)
    return Report(
        wanted,
        period["starts_text"],
        period["ends_text"],
        "raw" if raw else "rollup",
        rows,
        left_out,
    )


def set_zone(cursor: psycopg2.extensions.cursor, zone: str) -> None:
    """Cut time in this zone for the rest of the transaction."""
    cursor.execute(query("report_zone"), {"zone": zone})
    if cursor.fetchone() is None:
        raise ConfigError(f"--tz: there is no time zone {zone!r}. Write one like Europe/Berlin.")


def _period(cursor: psycopg2.extensions.cursor, wanted: Wanted) -> dict[str, Any]:
    bounds = {
        "from": None if wanted.starts is None else wanted.starts.isoformat(),
        "to": None if wanted.ends is None else wanted.ends.isoformat(),
        "from_is_local": wanted.starts is not None and wanted.starts.tzinfo is None,
        "to_is_local": wanted.ends is not None and wanted.ends.tzinfo is None,
    }
    cursor.execute(query("report_period"), bounds)
    row = cursor.fetchone()
    assert row is not None
    assert cursor.description is not None
    period = dict(zip((column.name for column in cursor.description), row, strict=True))
    if period["starts"] > period["ends"]:
        raise ConfigError(f"The period {period['starts_text']} to {period['ends_text']} is empty.")
    return period


def _needs_raw(period: dict[str, Any], wanted: Wanted) -> bool:
    by_time = any(DIMENSIONS[name].is_time for name in wanted.by)
    if period["whole_hours"] and (period["whole_offsets"] is not False or not by_time):
        return False
    if period["raw_is_gone"]:
        raise ConfigError(
            "The hourly sums cannot be cut at this zone's hours, and the single events are kept"
            f" only from {period['raw_from']} on: take a later --from, whole hours of UTC, or a"
            " zone whose offset is whole hours."
        )
    return True


def _filters(cursor: psycopg2.extensions.cursor, wanted: Wanted) -> dict[str, Any]:
    """The parameters that rows are compared with: ids for keys."""
    parameters: dict[str, Any] = {}
    for name, values in wanted.where.items():
        if DIMENSIONS[name].relation is not None:
            parameters[f"in_{name}"] = _ids(cursor, name, values)
        elif name == "filtered":
            parameters["in_filtered"] = [FILTERED[value] for value in values]
        else:
            parameters[f"in_{name}"] = list(values)
    return parameters


def _ids(cursor: psycopg2.extensions.cursor, name: str, keys: Sequence[str]) -> list[int]:
    cursor.execute(ids_statement(name), {"keys": list(keys)})
    found: dict[str, int] = {"": 0, **dict(cursor.fetchall())}
    for key in keys:
        if key not in found:
            raise ConfigError(f"--where: there is no {name} {key!r}.{_close(cursor, name, key)}")
    return [found[key] for key in keys]


def _close(cursor: psycopg2.extensions.cursor, name: str, key: str) -> str:
    cursor.execute(ids_statement(name), {"keys": None})
    close = difflib.get_close_matches(key, [one for one, _ in cursor.fetchall()], n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _row(found: tuple[Any, ...], by: Sequence[str]) -> Row:
    # grouping() has its last argument in the lowest bit.
    bits = {name: found[0] >> (len(by) - 1 - n) & 1 for n, name in enumerate(by)}
    values = dict(zip(DIMENSIONS, found[1:_FIRST_SUM], strict=True))
    return Row(
        labels={name: values[name] for name in by if not bits[name]},
        over=tuple(name for name in by if bits[name]),
        sums={name: int(value) for name, value in zip(SUMS, found[_FIRST_SUM:], strict=True)},
    )


def _ordered(rows: list[Row], wanted: Wanted) -> tuple[list[Row], int]:
    """By the dimensions in their order, each total behind what it sums; or by a measure within a set."""
    rows.sort(key=lambda row: _place(row, wanted.by))
    if wanted.sort is not None:
        measure = wanted.sort
        # Where there is no figure there is nothing to compare: those come last, either way.
        lowest = Decimal("Infinity") if wanted.ascending else Decimal("-Infinity")

        def figure(row: Row) -> Decimal:
            value = row.value(measure)
            return lowest if value is None else Decimal(value)

        rows.sort(key=figure, reverse=not wanted.ascending)
        rows.sort(key=lambda row: (len(row.over), row.over))
    return _limited(rows, wanted.limit)


def _limited(rows: list[Row], limit: int | None) -> tuple[list[Row], int]:
    """The first rows of each set: a total stays the total of everything."""
    if limit is None:
        return rows, 0
    seen: dict[tuple[str, ...], int] = {}
    kept = []
    for row in rows:
        seen[row.over] = seen.get(row.over, 0) + 1
        if seen[row.over] <= limit:
            kept.append(row)
    return kept, len(rows) - len(kept)


def _place(row: Row, by: Sequence[str]) -> tuple[tuple[bool, str], ...]:
    return tuple((name not in row.labels, _sortable(name, row.labels.get(name, ""))) for name in by)


def _sortable(name: str, label: str) -> str:
    """Text that sorts as its meaning does: an hour of autumn comes twice, and its offset tells which."""
    if name == "hour" and label:
        return datetime.datetime.fromisoformat(label).astimezone(datetime.UTC).isoformat()
    return label
