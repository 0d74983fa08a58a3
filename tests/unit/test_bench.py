"""The bench's pure parts: what decides whether a measurement counts and what is said about it."""

import random
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchlib import checking, plan, summary, wrk  # noqa: E402
from benchlib.browsers import HEADERS_PER_REQUEST, header_blocks, write_header_file  # noqa: E402
from benchlib.chart import Chart  # noqa: E402
from benchlib.contenders import (  # noqa: E402
    ALL,
    BY_NAME,
    CEILING,
    OURS,
    WITHOUT_JOURNAL,
    ZONE,
)
from benchlib.database import connection_uri  # noqa: E402
from benchlib.errors import BenchError  # noqa: E402
from benchlib.measuring import Measurement  # noqa: E402
from benchlib.plan import Capability, Case, Workload  # noqa: E402
from benchlib.probes import Answer, judge_ad, judge_choice  # noqa: E402

WRK_OUTPUT = """\
Running 3s test @ http://127.0.0.1:18099/
  2 threads and 100 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.72ms    1.02ms  29.97ms   81.00%
Requests/sec:  30000.00
bench-result {"requests":90000,"duration_us":3000000,"bytes":5760000,"errors":{"connect":0,"read":0,\
"write":0,"status":0,"timeout":0},"latency_us":{"p50":3722,"p90":6938,"p99":10124,"max":29969}}
"""

AD_1 = Case(Workload.AD, 1, 100)
LOG_1 = Case(Workload.LOG, 1, 100)


def result(requests: int = 1000, size: float = 64.0, **errors: int) -> wrk.WrkResult:
    return wrk.WrkResult(requests, 1.0, round(requests * size), errors, {"p50": 1.0})


def measured(name: str, case: Case, requests: int, *failures: str, round_: int = 1) -> Measurement:
    return Measurement(name, case, round_, result(requests), None, None, 0.1, failures)


# What wrk says.


def test_wrk_result_is_read_from_the_line_of_load_lua() -> None:
    """Everything else wrk prints is rounded and is not looked at."""
    read = wrk.parse(WRK_OUTPUT)
    assert read.requests_per_s == 30_000
    assert read.bytes_per_answer == 64
    assert read.latency_ms == {"p50": 3.722, "p90": 6.938, "p99": 10.124, "max": 29.969}
    assert set(read.errors.values()) == {0}


def test_wrk_without_a_result_is_an_error_that_shows_what_it_said() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused\n")


# Whether a measurement counts.

SENT = checking.Sent(answered=10_000, probes=201, in_flight=200, latest_ms=20.0)


@pytest.mark.parametrize("rows", [10_201, 10_300, 10_401])
def test_log_with_every_answered_request_passes(rows: int) -> None:
    """What was in flight when wrk stopped may be logged or not."""
    assert checking.log_failures(SENT, checking.LogCount(rows, rows, rows, 0, 0)) == []


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (
            checking.LogCount(10_200, 10_200, 10_200, 0, 0),
            "1 of 10,201 answered requests are not in",
        ),
        (checking.LogCount(10_402, 10_402, 10_402, 0, 0), "10,402 rows for at most 10,401"),
        (checking.LogCount(10_300, 10_299, 10_300, 0, 0), "1 rows have the id of another"),
        (checking.LogCount(10_300, 10_300, 10_000, 0, 0), "200 rows lack what the request carried"),
        (checking.LogCount(10_300, 10_300, 10_300, 7, 0), "7 requests that were answered are gaps"),
        (
            checking.LogCount(10_300, 10_300, 10_300, 0, 2),
            "2 requests are in the log more than once",
        ),
    ],
)
def test_log_that_is_not_right_fails(count: checking.LogCount, said: str) -> None:
    (failure,) = checking.log_failures(SENT, count)
    assert said in failure


def test_errors_and_silence_fail() -> None:
    assert checking.load_failures(result(status=0)) == []
    assert checking.load_failures(result(status=3, read=0)) == ["3 status errors"]
    assert checking.load_failures(result(0)) == ["no request was answered"]


def test_answers_of_another_size_under_load_fail() -> None:
    """A 204 for each /ad, given only when it gets busy, shows here."""
    assert checking.size_failures(result(size=380.0), 386.0) == []
    (failure,) = checking.size_failures(result(size=64.0), 386.0)
    assert "64 bytes" in failure


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (Answer(200, b'{"id": "a", "width": 300}', 90), True),
        (Answer(200, b'{"id": "b", "width": 300}', 90), False),
        (Answer(200, b"<html>", 90), False),
        (Answer(204, b"", 60), False),
    ],
)
def test_ad_must_be_the_row_that_was_asked_for(answer: Answer, right: bool) -> None:
    wrong = judge_ad("/ad?id=a", answer, {"id": "a", "width": 300})
    assert (wrong is None) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (Answer(204, b"", 60), True),
        (
            Answer(
                200,
                b'{"decision": "1", "zone": "z", "campaign": "c", "creative": "d", "urls": {}}',
                90,
            ),
            True,
        ),
        (
            Answer(
                200,
                b'{"decision": "1", "zone": "y", "campaign": "c", "creative": "d", "urls": {}}',
                90,
            ),
            False,
        ),
        (Answer(200, b'{"decision": "1", "zone": "z"}', 90), False),
        (Answer(200, b"<html>", 90), False),
        (Answer(404, b"{}", 90), False),
    ],
)
def test_choice_must_be_an_ad_for_the_zone_or_none(answer: Answer, right: bool) -> None:
    wrong = judge_choice("/ad?zone=z&uid=a", answer)
    assert (wrong is None) is right


def test_who_chooses_is_held_against_the_lookups_of_others() -> None:
    """In the same case, though the requests are others: that is what the requirement says."""
    figures = {(ZONE, AD_1): 12_000.0, (OURS, AD_1): 30_000.0, ("go", AD_1): 10_000.0}
    wanted = summary.Requirement(Workload.AD, "go", 1.2, who=ZONE)
    (verdict,) = summary.verdicts(figures, [100], [wanted])
    assert verdict.met
    assert "zone" in str(verdict)


# Which measurements, and in which order.


def test_plan_interleaves_all_contenders_of_a_case_and_changes_who_begins() -> None:
    both = frozenset(Workload)
    contenders = [Capability("a", both), Capability("b", both), Capability("c", both)]
    taken = list(plan.steps(contenders, [LOG_1, AD_1], rounds=2))
    order = ["".join(s.contender for s in taken[i : i + 3]) for i in range(0, len(taken), 3)]
    assert order == ["abc", "bca", "bca", "cab"]
    assert [step.case for step in taken[:6]] == [LOG_1] * 3 + [AD_1] * 3
    assert {step.round for step in taken[:6]} == {1}


def test_plan_leaves_out_what_a_contender_cannot_do() -> None:
    single = Capability("single", frozenset({Workload.LOG}), most_workers=1)
    all_cases = plan.cases([1, 2], [100, 500])
    assert len(all_cases) == 8
    taken = [step.case for step in plan.steps([single], all_cases, rounds=1)]
    assert taken == [Case(Workload.LOG, 1, 100), Case(Workload.LOG, 1, 500)]


# What is said about them.


def test_median_is_over_the_rounds_that_count() -> None:
    figures = summary.medians(
        [
            measured(OURS, AD_1, 30_000),
            measured(OURS, AD_1, 10_000, round_=2),
            measured(OURS, AD_1, 20_000, round_=3),
            measured(OURS, AD_1, 90_000, "rows are missing", round_=4),
            measured("go", AD_1, 90_000, "rows are missing"),
        ]
    )
    assert figures == {(OURS, AD_1): 20_000}


def test_ratio_compares_only_the_same_case() -> None:
    figures = {(OURS, AD_1): 30_000.0, ("go", AD_1): 15_000.0, ("fastapi", LOG_1): 1.0}
    assert summary.ratio(figures, "go", AD_1) == 2
    assert summary.ratio(figures, "fastapi", AD_1) is None
    assert summary.ratio(figures, "fastapi", LOG_1) is None


@pytest.mark.parametrize(("ours", "met"), [(1_500.0, True), (1_499.0, False)])
def test_requirement_is_met_at_its_bound(ours: float, met: bool) -> None:
    figures = {(OURS, AD_1): ours, ("go", AD_1): 1_000.0}
    (verdict,) = summary.verdicts(figures, [100], [summary.Requirement(Workload.AD, "go", 1.5)])
    assert verdict.met is met
    assert ("NOT MET" in str(verdict)) is not met


def test_requirement_that_was_not_measured_is_not_met() -> None:
    assert not any(verdict.met for verdict in summary.verdicts({}, [100, 500]))


def test_table_shows_medians_ratios_and_gaps() -> None:
    two = Case(Workload.AD, 2, 100)
    figures = {(OURS, AD_1): 30_000.0, (OURS, two): 40_000.0, ("original", AD_1): 4_000.0}
    text = summary.table(figures, [OURS, "original", CEILING], [AD_1, two])
    lines = [line.split() for line in text.splitlines()]
    assert ["prefork-ads", "30,000", "40,000"] in lines
    assert ["the", "original's", "design", "4,000", "7.50", "-"] in lines
    assert BY_NAME[CEILING].title not in text


def test_chart_is_well_formed_and_shows_each_figure_once() -> None:
    figures = {
        (contender.name, Case(workload, workers, 100)): 1_000.0 * (number + 1) + workers
        for number, contender in enumerate(ALL)
        for workload in contender.workloads
        for workers in (1, 2)
    }
    other = {(OURS, Case(Workload.AD, 1, 500)): 77_777.0}
    names = [contender.name for contender in ALL]
    svg = Chart({**figures, **other}, names, (1, 2), 100, "a <machine> & more").svg()
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter() if element.tag.endswith("}text")]
    shown = sorted(text for text in texts if text and text.replace(",", "").isdigit())
    charted = [figure for (name, _), figure in figures.items() if name != WITHOUT_JOURNAL]
    assert shown == sorted(f"{figure:,.0f}" for figure in charted)
    assert "a <machine> & more" in texts
    assert len([e for e in root.iter() if e.tag.endswith("}rect")]) == len(charted) + 2


# The load.


def test_load_has_the_promised_headers_and_varies(tmp_path: Path) -> None:
    blocks = header_blocks()
    # Host is the one that load.lua adds.
    assert {len(block) + 1 for block in blocks} == {HEADERS_PER_REQUEST}
    assert len({dict(block)["User-Agent"] for block in blocks}) > 200
    assert len({dict(block)["Referer"] for block in blocks}) > 200
    assert len({dict(block)["Accept-Language"] for block in blocks}) > 5
    write_header_file(tmp_path / "headers.txt")
    lines = (tmp_path / "headers.txt").read_text(encoding="ascii").splitlines()
    assert [line.count("\t") for line in lines] == [HEADERS_PER_REQUEST - 2] * len(blocks)


def test_load_is_the_same_in_each_run() -> None:
    random.seed(1)
    first = header_blocks(3)
    random.seed(2)
    assert header_blocks(3) == first


@pytest.mark.parametrize(
    ("dsn", "uri"),
    [
        ("postgresql://ads@db/ads", "postgresql://ads@db/ads"),
        ("host=/run/pg user=ads dbname=ads", "postgresql://ads@/ads?host=%2Frun%2Fpg"),
        ("user=a password='p@ss w' dbname=d port=1", "postgresql://a:p%40ss%20w@/d?port=1"),
    ],
)
def test_connection_uri_is_what_all_drivers_read(dsn: str, uri: str) -> None:
    assert connection_uri(dsn) == uri
