"""What scripts/overload says about a run: its arithmetic, without a server."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from overloadlib import report
from overloadlib.load import Period
from overloadlib.phases import Phase


def period(due: int, good: int, seconds: float = 0.01) -> Period:
    made = Period(due=due, sent=due, good=good, late=due - good)
    made.latencies.extend([seconds] * good)
    return made


def phase(periods: list[Period], memory_bytes: int | None = 10 << 20) -> Phase:
    return Phase("some", 100.0, len(periods) / 10, periods, memory_bytes)


def test_percentiles() -> None:
    values = [float(number) for number in range(1, 101)]
    assert report.percentile(values, 0.99) == 100
    assert report.percentile(values, 0.5) == 51
    assert report.percentile([], 0.5) is None


def test_recovery_ends_with_the_last_bad_period() -> None:
    well, bad, empty = period(10, 10), period(10, 9), period(0, 0)
    assert report.recovered_after_s(phase([well, well, empty])) == 0
    assert report.recovered_after_s(phase([bad, well, bad, well])) == 0.1 * 3
    assert report.recovered_after_s(phase([well, well, well, bad])) is None


def test_verdicts() -> None:
    peak = phase([period(100, 100)] * 10)
    kept = report.verdicts(peak, phase([period(500, 95)] * 10), peak)
    assert [verdict.kept for verdict in kept] == [True] * 4
    slow = phase([period(500, 50, seconds=2.0)] * 10, memory_bytes=100 << 20)
    missed = report.verdicts(peak, slow, phase([period(10, 0)] * 10))
    assert [verdict.kept for verdict in missed] == [False] * 4
    assert report.offered(peak, slow) == "really sent: 5,000/s, 5.0 times the peak"


def test_what_others_notice_of_a_crowd() -> None:
    alone, slower = phase([period(100, 100)] * 10), phase([period(100, 100, seconds=0.019)] * 10)
    assert [verdict.kept for verdict in report.beside_a_crowd(alone, slower, alone)] == [True] * 2
    much_slower = phase([period(100, 99, seconds=0.021)] * 10)
    missed = report.beside_a_crowd(alone, much_slower, alone)
    assert [verdict.kept for verdict in missed] == [False] * 2
    assert missed[1].found == "2.10: 21.0 ms, 10.0 ms without"
    held_up = phase([Period(due=100, sent=5, good=5)] * 10)
    assert not report.beside_a_crowd(alone, held_up, alone)[0].kept, "the rest was not sent"
    [nobody_asked] = report.beside_a_crowd(alone, phase([period(0, 0)]), alone)
    assert not nobody_asked.kept


def test_a_table_has_a_line_for_each_second_and_one_for_all() -> None:
    lines = report.table(phase([period(10, 10)] * 30))
    assert len(lines) == 2 + 3 + 1
    assert lines[-1].split()[:4] == ["all", "300", "300", "300"]
