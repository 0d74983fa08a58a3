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


def phase(
    periods: list[Period], memory_bytes: int | None = 10 << 20, speed: float | None = None
) -> Phase:
    return Phase("some", 100.0, len(periods) / 10, periods, memory_bytes, speed=speed)


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
    kept = report.verdicts([peak, peak], phase([period(500, 95)] * 10), peak)
    assert [verdict.kept for verdict in kept] == [True] * 4
    slow = phase([period(500, 50, seconds=2.0)] * 10, memory_bytes=100 << 20)
    missed = report.verdicts([peak, peak], slow, phase([period(10, 0)] * 10))
    assert [verdict.kept for verdict in missed] == [False] * 4
    assert report.offered(peak, slow) == "really sent: 5,000/s, 5.0 times the peak"


def test_goodput_is_judged_at_equal_speed_of_the_cores() -> None:
    peak = phase([period(100, 100)] * 10, speed=3e6)
    slower, faster = ([period(500, good)] * 10 for good in (80, 96))
    [kept, *_] = report.verdicts([peak, peak], phase(slower, speed=2.4e6), peak)
    assert kept.kept
    assert kept.found == "80%: 800/s of 1,000/s; 100% with all at equal speed of the cores"
    [missed, *_] = report.verdicts([peak, peak], phase(faster, speed=3.6e6), peak)
    assert not missed.kept


def test_a_peak_afterwards_can_raise_what_is_asked_for_and_not_lower_it() -> None:
    lower, higher = (phase([period(good, good)] * 10) for good in (100, 300))
    over = phase([period(900, 190)] * 10)
    [raised, *_] = report.verdicts([lower, higher], over, lower)
    assert raised.found == "95%: 1,900/s of 2,000/s"
    [not_lowered, *_] = report.verdicts([higher, lower], over, lower)
    assert not_lowered.found == "63%: 1,900/s of 3,000/s"
    assert not not_lowered.kept
    # That the machine is slower by then is not the server's fault.
    fast, slow = (phase([period(good, good)] * 10, speed=good * 1e4) for good in (300, 100))
    [kept, *_] = report.verdicts([fast, slow], phase([period(900, 95)] * 10, speed=1e6), slow)
    assert kept.found.endswith("; 95% with all at equal speed of the cores")
    assert kept.kept


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
