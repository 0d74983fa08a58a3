"""A report as table, CSV, JSON and page: the same figures, totals marked, other people's text escaped."""

import csv
import io
import json
import re
from decimal import Decimal
from xml.etree import ElementTree

import pytest

from prefork_ads.report import series, svg
from prefork_ads.report.figures import Report, Row
from prefork_ads.report.measures import MEASURES, SUMS, ecpm, share
from prefork_ads.report.page import page
from prefork_ads.report.rendering import render
from prefork_ads.report.series import Chart, Series, charts
from prefork_ads.report.texts import csv_text, json_text, table
from prefork_ads.report.wanted import read
from prefork_ads.report.words import figure


def sums(**given: int) -> dict[str, int]:
    return dict.fromkeys(SUMS, 0) | given


def row(labels: dict[str, str], over: tuple[str, ...] = (), **given: int) -> Row:
    return Row(labels, over, sums(**given))


def made(by: str, rows: list[Row], **words: object) -> Report:
    wanted = read(by=by, **words)  # type: ignore[arg-type]
    return Report(wanted, "2026-11-01T00:00+00:00", "2026-11-03T00:00+00:00", "rollup", rows)


def two_days(measures: str = "impressions,ctr,spend", *, totals: bool = False) -> Report:
    rows = [
        row(
            {"campaign": "spring", "day": "2026-11-01"},
            impressions=1200,
            clicks=6,
            spend_nanos=3 * 10**9,
        ),
        row({"campaign": "spring", "day": "2026-11-02"}, impressions=800, clicks=1, spend_nanos=1),
        row({"campaign": "", "day": "2026-11-01"}, requests=7),
        row({}, ("campaign", "day"), impressions=2000, clicks=7, spend_nanos=3 * 10**9 + 1),
    ]
    return made("campaign,day", rows, measures=measures, rollup=totals)


# ---- figures


def test_a_rate_of_nothing_is_no_rate() -> None:
    assert share(0, 0) is None
    assert ecpm(sums(spend_nanos=5)) is None
    assert figure("ctr", None) == "–"


def test_ecpm_is_what_a_thousand_impressions_brought() -> None:
    """A campaign that pays 2.5 for a thousand: each costs 2,500,000 billionths."""
    assert ecpm(sums(impressions=3, spend_nanos=3 * 2_500_000)) == Decimal("2.5")


@pytest.mark.parametrize(
    ("measure", "value", "text"),
    [
        ("requests", 1234567, "1,234,567"),
        ("ctr", Decimal("0.012345"), "1.23 %"),
        ("spend", Decimal("1234.565"), "1,234.56"),
        ("ecpm", None, "–"),
    ],
)
def test_figures_as_people_read_them(measure: str, value: int | Decimal, text: str) -> None:
    assert figure(measure, value) == text


# ---- table


def test_a_table_is_aligned_and_marks_its_totals() -> None:
    assert (
        table(two_days())
        == """\
  Campaign  Day         Impressions     CTR  Spend
  --------  ----------  -----------  ------  -----
  spring    2026-11-01        1,200  0.50 %   3.00
  spring    2026-11-02          800  0.12 %   0.00
  (no ad)   2026-11-01            0       –   0.00
  --------  ----------  -----------  ------  -----
Σ all       all               2,000  0.35 %   3.00

2026-11-01T00:00+00:00 up to 2026-11-03T00:00+00:00 (UTC).
"""
    )


def test_a_table_without_dimensions_is_one_line() -> None:
    lines = table(made("", [row({}, requests=5)], measures="requests")).splitlines()
    assert lines[2].split() == ["5"]


# ---- CSV


def test_csv_is_that_of_rfc_4180() -> None:
    report = made("country", [row({"country": 'a "b",\r\nc'}, requests=1)], measures="requests,ctr")
    assert csv_text(report) == 'country,requests,ctr\r\n"a ""b"",\r\nc",1,\r\n'


def test_csv_of_rows_has_no_total_that_somebody_would_add_to_them() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(two_days()))))
    assert [line["impressions"] for line in lines] == ["1200", "800", "0"]


def test_a_total_is_told_from_an_empty_value_in_csv_and_json() -> None:
    report = two_days(totals=True)
    lines = list(csv.DictReader(io.StringIO(csv_text(report))))
    assert [(line["campaign"], line["total_over"]) for line in lines[2:]] == [
        ("", ""),
        ("", "campaign day"),
    ]
    rows = json.loads(json_text(report))["rows"]
    assert [(one["campaign"], one["total_over"]) for one in rows[2:]] == [
        ("", []),
        (None, ["campaign", "day"]),
    ]


def test_money_has_all_its_digits() -> None:
    """A billionth is there in JSON and in CSV, and no float has been near it."""
    rows = json.loads(json_text(two_days(totals=True)), parse_float=str)["rows"]
    assert [one["spend"] for one in rows] == [3, "0.000000001", 0, "3.000000001"]
    assert "3.000000001" in csv_text(two_days(totals=True))


# ---- page


def test_a_page_stands_alone_and_has_no_script() -> None:
    text = page(two_days())
    assert text.startswith("<!doctype html>")
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=|url\(|@import", text)
    assert "prefers-color-scheme:dark" in text


def test_other_peoples_text_is_escaped_everywhere() -> None:
    evil = "<img src=x onerror=alert(1)>\"'&"
    rows = [
        row({"country": evil, "day": f"2026-11-0{n}"}, impressions=n, requests=n) for n in (1, 2)
    ]
    for by in ("country", "country,day"):
        text = page(made(by, rows, where=(f"campaign={evil}",)))
        assert "<img" not in text
        assert "&lt;img" in text


def test_charts_are_well_formed() -> None:
    for chart in charts(two_days("impressions,ctr,spend,requests")):
        ElementTree.fromstring(svg.svg(chart))


def test_every_form_is_rendered() -> None:
    for form in ("table", "csv", "json", "html"):
        assert render(two_days(), form)


def test_a_long_page_says_what_it_leaves_out() -> None:
    rows = [row({"country": str(n)}, requests=1) for n in range(2005)]
    assert "5 more rows are not shown" in page(made("country", rows))


# ---- charts


def test_time_is_drawn_as_lines_of_the_largest_and_the_rest() -> None:
    rows = [
        row({"day": f"2026-11-0{day}", "campaign": f"c{n}"}, impressions=n * 10 + day)
        for day in (1, 2)
        for n in range(1, 10)
    ]
    (chart,) = charts(made("day,campaign", rows, measures="impressions"))
    assert chart.over_time
    assert chart.steps == ["2026-11-01", "2026-11-02"]
    assert [one.name for one in chart.series] == ["c9", "c8", "c7", "c6", "c5", series.OTHERS]
    assert chart.series[-1].values == [10 + 20 + 30 + 40 + 4, 10 + 20 + 30 + 40 + 8]


def test_a_day_without_rows_is_none_of_it() -> None:
    rows = [
        row({"day": "2026-11-01", "campaign": "a"}, impressions=5),
        row({"day": "2026-11-02", "campaign": "b"}, impressions=7, clicks=1),
    ]
    counts, rates = charts(made("day,campaign", rows, measures="impressions,ctr"))
    assert {one.name: one.values for one in counts.series} == {"a": [5, 0], "b": [0, 7]}
    assert {one.name: one.values for one in rates.series} == {
        "a": [Decimal(0), None],
        "b": [None, Decimal("0.142857")],
    }


def test_users_are_not_added_up_for_a_chart() -> None:
    rows = [
        row({"day": f"2026-11-0{n}", "campaign": "a", "country": "DE"}, users=n) for n in (1, 2)
    ]
    assert charts(made("day,campaign,country", rows, measures="users")) == []
    rows = [row({"day": f"2026-11-0{n}", "campaign": "a"}, users=n) for n in (1, 2)]
    assert [one.measure for one in charts(made("day,campaign", rows, measures="users"))] == [
        "users"
    ]


def test_without_time_the_largest_stand_side_by_side() -> None:
    rows = [row({"campaign": f"c{n}"}, clicks=n) for n in range(20)]
    (chart,) = charts(made("campaign", rows, measures="clicks"))
    assert not chart.over_time
    assert chart.steps == [f"c{n}" for n in range(19, 4, -1)]


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [
        ("0", ["0", "1"]),
        ("1", ["0", "0.25", "0.50", "0.75", "1.00"]),
        ("80610", ["0", "25000", "50000", "75000", "100000"]),
        ("0.0021", ["0", "0.001", "0.002", "0.003"]),
    ],
)
def test_an_axis_has_round_numbers_and_room_for_the_largest(largest: str, ticks: list[str]) -> None:
    assert svg.scale(Decimal(largest)) == [Decimal(tick) for tick in ticks]


def test_a_line_breaks_where_there_is_no_figure() -> None:
    text = svg.svg(
        Chart("ctr", True, ["a", "b", "c"], [Series("x", [Decimal(1), None, Decimal(1)])])
    )
    assert text.count("<circle") == 2
    assert "L" not in re.findall(r' d="([^"]*)"', text)[0]


def test_each_measure_says_what_it_is() -> None:
    assert all(one.title and one.meaning for one in MEASURES.values())
