"""A report as text: a table for people, CSV and JSON for programs.

The table marks totals: they stand under a rule or behind a Σ, and what they sum over is called "all". In
CSV the column `total_over` names the dimensions a row sums over, in JSON a list does; an empty value
without it is a value that is not known. So nobody adds totals to what they are totals of.

CSV is that of RFC 4180: CRLF, quotes where they are needed, doubled inside. A value that a spreadsheet
would take for a formula is left as it is: keys cannot begin with one of =+-@, and no other text gets in.

Money in CSV and JSON has all its digits, rates have six. Neither passes through a float.

Must not know: the database.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import orjson

from prefork_ads.report.columns import DIMENSIONS
from prefork_ads.report.figures import Report, Row
from prefork_ads.report.measures import MEASURES, Value
from prefork_ads.report.words import figure, label

TOTAL_MARK = "Σ"


def table(report: Report) -> str:
    """Aligned columns: labels to the left, figures to the right."""
    by, measures = report.wanted.by, report.wanted.measures
    head = [*(DIMENSIONS[name].title for name in by), *(MEASURES[one].title for one in measures)]
    body = [
        [*(label(row, name) for name in by), *(figure(one, row.value(one)) for one in measures)]
        for row in report.rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    rule = "  ".join("-" * width for width in widths)
    lines = ["  " + _aligned(head, widths, len(by)), "  " + rule]
    for row, cells in zip(report.rows, body, strict=True):
        if by and len(row.over) == len(by):
            lines.append("  " + rule)
        mark = TOTAL_MARK if row.is_total else " "
        lines.append(f"{mark} {_aligned(cells, widths, len(by))}".rstrip())
    return "\n".join([*lines, "", *_notes(report)]) + "\n"


def csv_text(report: Report) -> str:
    """One line a row behind a line of names."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    by, measures = report.wanted.by, report.wanted.measures
    totals = report.wanted.totals
    writer.writerow([*by, *(["total_over"] if totals else []), *measures])
    for row in for_programs(report):
        labels = [row.labels.get(name, "") for name in by]
        over = [" ".join(row.over)] if totals else []
        writer.writerow([*labels, *over, *(_plain(row.value(one)) for one in measures)])
    return out.getvalue()


def json_text(report: Report) -> bytes:
    """One object: what was asked for, and the rows."""
    by, measures = report.wanted.by, report.wanted.measures
    rows = [
        {name: row.labels.get(name) for name in by}
        | {"total_over": list(row.over)}
        | {one: _number(row.value(one)) for one in measures}
        for row in for_programs(report)
    ]
    answer: dict[str, Any] = {
        "from": report.starts,
        "to": report.ends,
        "time_zone": report.wanted.zone,
        "by": list(by),
        "measures": list(measures),
        "where": {name: list(values) for name, values in report.wanted.where.items()},
        "source": report.source,
        "rows_left_out": report.left_out,
        "rows": rows,
    }
    return orjson.dumps(answer, option=orjson.OPT_INDENT_2) + b"\n"


def for_programs(report: Report) -> Iterator[Row]:
    """Without the total that a table ends with, unless totals were asked for."""
    keep_all = report.wanted.totals or not report.wanted.by
    return (row for row in report.rows if keep_all or not row.is_total)


def _aligned(cells: Sequence[str], widths: Sequence[int], labels: int) -> str:
    padded = [
        cell.ljust(width) if n < labels else cell.rjust(width)
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded)


def _notes(report: Report) -> Iterator[str]:
    where = "; ".join(
        f"{name} is {' or '.join(value or DIMENSIONS[name].unknown for value in values)}"
        for name, values in report.wanted.where.items()
    )
    yield f"{report.starts} up to {report.ends} ({report.wanted.zone}){where and '; ' + where}."
    if report.left_out:
        yield f"{report.left_out:,} more rows; totals have them."
    if report.source == "raw":
        yield "Added up from single events: the hours of this zone or period are not those of the rollup."


def _plain(value: Value) -> str:
    return "" if value is None else _digits(value)


def _number(value: Value) -> orjson.Fragment | None:
    return None if value is None else orjson.Fragment(_digits(value))


def _digits(value: int | Decimal) -> str:
    """All digits, no exponent and no zeros that say nothing."""
    text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    return text.rstrip("0").rstrip(".") if "." in text else text
