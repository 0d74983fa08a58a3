"""A report as a page: one HTML file that needs nothing else, in light and dark.

No script, no font, no address to fetch from: it can be mailed, kept and opened in ten years. Every text
is escaped.

Must not know: the database.
"""

from collections.abc import Iterator
from html import escape
from typing import Final

from prefork_ads.report import svg
from prefork_ads.report.columns import DIMENSIONS
from prefork_ads.report.figures import Report, Row
from prefork_ads.report.measures import MEASURES
from prefork_ads.report.series import Chart, charts
from prefork_ads.report.words import figure, label

# A browser lays out a table of this many rows at once; CSV takes them all.
MOST_ROWS: Final = 2000

_STYLE: Final = """\
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1a1d23;--soft:#5c6470;--rule:#e2e5ea;
--total:#f0f2f6;--series-1:#2a6fdb;--series-2:#d9740b;--series-3:#1a9a6c;--series-4:#b5389b;
--series-5:#7a5cd6;--series-6:#7d8794}
@media (prefers-color-scheme:dark){:root{--page:#14171c;--card:#1d2128;--ink:#e8eaee;--soft:#a0a8b4;
--rule:#323843;--total:#262b34;--series-1:#6aa5ff;--series-2:#ffa24a;--series-3:#4fd0a0;--series-4:#f07fd6;
--series-5:#b09cff;--series-6:#98a2b0}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1320px;padding:32px 24px 64px;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:26px;margin:0 0 4px}
h2{font-size:15px;margin:0 0 10px;font-weight:600}
p{margin:0 0 4px;color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:12px;margin:24px 0}
.tile,.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 16px}
.tile span{display:block;color:var(--soft);font-size:13px}
.tile b{font-size:21px;font-weight:600;font-variant-numeric:tabular-nums;white-space:nowrap}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,500px),1fr));gap:16px}
svg{display:block;width:100%;height:auto}
.grid{stroke:var(--rule)}
.tick{fill:var(--soft);font-size:14px}
.label{fill:var(--ink);font-size:15px}
.line{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
.step rect{fill:transparent}
.step line{stroke:var(--soft);opacity:0}
.step:hover line{opacity:.6}
.key{display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:8px;color:var(--soft);font-size:13px}
.key i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.rows{overflow-x:auto;margin-top:16px;padding:0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:7px 14px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
th{color:var(--soft);font-weight:600;font-size:13px}
.name{text-align:left}
.total td{background:var(--total);font-weight:600}
.none{color:var(--soft)}
tr:last-child td{border-bottom:0}
@media print{body{max-width:none;padding:0}.card,.tile{break-inside:avoid}.rows{overflow:visible}
table{font-size:10px}th,td{padding:4px 5px}}
"""


def page(report: Report) -> str:
    """The whole document."""
    by = [DIMENSIONS[name].title.lower() for name in report.wanted.by]
    title = f"Report by {', '.join(by)}" if by else "Report"
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n",
            f"<h1>{escape(title)}</h1>\n",
            *(f"<p>{escape(line)}</p>\n" for line in _facts(report)),
            *_tiles(report),
            '<div class="charts">\n',
            *(_chart(one) for one in charts(report)),
            "</div>\n",
            *_table(report),
            "</body>\n</html>\n",
        ]
    )


def _facts(report: Report) -> Iterator[str]:
    # The end is not part of the period, and a reader takes a day that is named for one that is meant.
    yield f"From {report.starts} up to {report.ends} ({report.wanted.zone})"
    for name, values in report.wanted.where.items():
        shown = " or ".join(value or DIMENSIONS[name].unknown for value in values)
        yield f"{DIMENSIONS[name].title}: {shown}"
    if report.source == "raw":
        yield "Added up from single events."


def _tiles(report: Report) -> Iterator[str]:
    total = report.total
    if total is None:
        return
    yield '<div class="tiles">\n'
    for name in report.wanted.measures:
        said = escape(figure(name, total.value(name)))
        yield f'<div class="tile" title="{escape(MEASURES[name].meaning)}">'
        yield f"<span>{escape(MEASURES[name].title)}</span><b>{said}</b></div>\n"
    yield "</div>\n"


def _chart(chart: Chart) -> str:
    key = ""
    if len(chart.series) > 1:
        names = [
            f'<span><i style="background:{svg.colour(n)}"></i>{escape(one.name)}</span>'
            for n, one in enumerate(chart.series)
        ]
        key = f'<div class="key">{"".join(names)}</div>'
    title = escape(MEASURES[chart.measure].title)
    return f'<section class="card"><h2>{title}</h2>{svg.svg(chart)}{key}</section>\n'


def _table(report: Report) -> Iterator[str]:
    by, measures = report.wanted.by, report.wanted.measures
    yield '<div class="card rows"><table>\n<thead><tr>'
    yield from (f'<th class="name">{escape(DIMENSIONS[name].title)}</th>' for name in by)
    yield from (f"<th>{escape(MEASURES[one].title)}</th>" for one in measures)
    yield "</tr></thead>\n<tbody>\n"
    shown = report.rows[:MOST_ROWS]
    for row in shown:
        yield _line(report, row)
    yield "</tbody></table></div>\n"
    missing = len(report.rows) - len(shown) + report.left_out
    if missing:
        yield f"<p>{missing:,} more rows are not shown here; totals have them.</p>\n"


def _line(report: Report, row: Row) -> str:
    cells = []
    for name in report.wanted.by:
        known = name in row.over or row.labels[name]
        cells.append(f'<td class="name{"" if known else " none"}">{escape(label(row, name))}</td>')
    for one in report.wanted.measures:
        cells.append(f"<td>{escape(figure(one, row.value(one)))}</td>")
    kind = ' class="total"' if row.is_total else ""
    return f"<tr{kind}>{''.join(cells)}</tr>\n"
