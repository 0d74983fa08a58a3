"""What `prefork-ads status` makes of a scoreboard, and how it shows it."""

import dataclasses
import json
import os
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork_ads.cli.status_figures import Histogram, Look, Server, figures
from prefork_ads.cli.status_text import render
from prefork_ads.metrics import (
    AD_MICROSECONDS,
    CELLS,
    INSERT_ROWS,
    TRACK_MICROSECONDS,
    Counter,
    Gauge,
    layout,
)
from prefork_ads.process.scoreboard import Scoreboard, Seat, State
from prefork_ads.process.worker import ANSWERED

MASTER = 4711


class Board:
    """A server's board, looked at from outside as often as a test likes."""

    def __init__(self, workers: int = 2) -> None:
        self.board = Scoreboard(counters=CELLS, gauges=len(Gauge), workers=workers)
        self.board.describe(
            {"version": "1.2", "url": "http://h:1", "master_pid": MASTER, **layout()}
        )
        self.board.open_to = workers
        self.now = 1000.0
        self.gone: set[int] = set()
        self.leaving = False
        self.keeper = self.sit(-1)
        self.workers = [self.sit(slot) for slot in range(workers)]

    def sit(self, slot: int, generation: int = 1) -> Seat:
        seat = self.board.free_seat()
        assert seat is not None
        seat.take(slot, generation, self.now + 30)
        seat.pid = 5000 + seat.index
        seat.state = State.READY
        seat.gauges[Gauge.READERS_CONNECTED] = seat.gauges[Gauge.WRITER_CONNECTED] = int(slot >= 0)
        return seat

    def look(self) -> Look:
        pids = {MASTER, *(seat.pid for seat in self.board.occupied())}
        return Look(
            board=Scoreboard.read(self.board.fd),
            at_s=self.now,
            ages_s={pid: None if pid in self.gone else 60.0 for pid in pids},
            memory_bytes=dict.fromkeys(pids, 1 << 20),
            leaving=self.leaving,
        )

    def __del__(self) -> None:
        os.close(self.board.fd)

    def figures(self, happens: Callable[[], None] = lambda: None, seconds: float = 2.0) -> Server:
        """Between two looks something happens."""
        before = self.look()
        happens()
        self.now += seconds
        return figures(before, self.look())


def test_rates_are_those_between_the_looks() -> None:
    it = Board()
    first, second = it.workers

    def happens() -> None:
        first.counters[Counter.LOG_ACCEPTED] += 10
        second.counters[Counter.LOG_ACCEPTED] += 20
        second.counters[Counter.AD_FOUND] += 3
        second.counters[Counter.AD_UNAVAILABLE] += 1
        AD_MICROSECONDS.observe(second.counters, 900, 4)
        INSERT_ROWS.observe(first.counters, 30)

    first.counters[Counter.LOG_ACCEPTED] = 1000
    server = it.figures(happens)
    assert server.endpoints["log"].per_s == 15
    assert server.endpoints["log"].total == 1030
    assert server.endpoints["log"].p50_s is None, "nothing was observed"
    assert server.endpoints["ad"].by_status_per_s == {
        "200": 1.5,
        **dict.fromkeys(("204", "302", "400", "404"), 0),
        "503": 0.5,
    }
    assert server.endpoints["ad"].p99_s == pytest.approx(0.0009, rel=0.2)
    assert server.inserts.rows_per_s == 15
    assert [worker.requests_per_s for worker in server.workers] == [5, 12]
    assert (server.keeper is not None, server.problems) == (True, [])


@pytest.mark.parametrize("counter", ANSWERED)
def test_a_worker_that_answers_anything_has_a_rate(counter: Counter) -> None:
    it = Board()

    def happens() -> None:
        it.workers[0].counters[counter] += 6

    assert [worker.requests_per_s for worker in it.figures(happens).workers] == [3, 0]


def test_requests_for_a_zone_that_is_not_there_are_told() -> None:
    it = Board()

    def happens() -> None:
        it.workers[0].counters[Counter.AD_NO_ZONE] += 6

    asked = it.figures(happens).endpoints["ad"]
    assert (asked.per_s, asked.total, asked.by_status_per_s["404"]) == (3, 6, 3)


def test_what_is_tracked_is_told_by_kind() -> None:
    it = Board()

    def happens() -> None:
        it.workers[0].counters[Counter.IMPRESSIONS_TAKEN] += 40
        it.workers[1].counters[Counter.CLICKS_TAKEN] += 6

    shown = render(it.figures(happens), 120)
    assert "tracked     23/s  impressions 20/s  clicks 3/s" in shown


def test_requests_of_tracking_are_told_by_status_and_with_their_times() -> None:
    it = Board()

    def happens() -> None:
        first, second = it.workers
        first.counters[Counter.TRACK_200] += 40
        second.counters[Counter.TRACK_410] += 6
        # What was logged is told beside it, and is no request of its own.
        first.counters[Counter.IMPRESSIONS_TAKEN] += 40
        TRACK_MICROSECONDS.observe(first.counters, 90, 46)

    server = it.figures(happens)
    track = server.endpoints["track"]
    assert (track.per_s, track.total) == (23, 46)
    assert {status: rate for status, rate in track.by_status_per_s.items() if rate} == {
        "200": 20,
        "410": 3,
    }
    assert [worker.requests_per_s for worker in server.workers] == [20, 3]
    line = "tracking    23/s  200: 20/s  410: 3/s  half in 0.1ms, 99% in 0.1ms  46 in all"
    assert line in render(server, 120)


def test_what_is_wrong_is_said() -> None:
    it = Board(workers=3)
    assert it.figures().healthy
    hung, without, draining = it.workers
    hung.beat(it.now - 5)
    without.gauges[Gauge.WRITER_CONNECTED] = 0
    draining.state = State.DRAINING
    it.keeper.beat(it.now - 5)
    without.gauges[Gauge.JOURNAL_OLDEST_MILLISECONDS] = 90_000
    it.board.crash_looping = 1
    it.gone = {MASTER}
    assert it.figures().problems == [
        f"The master (pid {MASTER}) is gone; its workers finish what they have.",
        "Slot 2 of 3: no worker is ready.",
        "Workers of 1 slots keep dying early; the log says why.",
        f"Slot 0 (pid {hung.pid}): no sign of life.",
        f"Keeper (pid {it.keeper.pid}): no sign of life.",
        "1 of 2 workers have no connection to PostgreSQL for writing.",
        "Events have been waiting for PostgreSQL for 90 s.",
    ]


@pytest.mark.parametrize(
    ("seconds", "well"), [(0.3, True), (1.9, True), (2.0, False), (7.0, False)]
)
def test_a_worker_that_hangs_is_told_long_before_its_deadline(seconds: float, well: bool) -> None:
    it = Board()
    hung, other = it.workers
    hung.beaten_at = it.now
    other.beaten_at = it.now + seconds
    server = it.figures(seconds=seconds)
    words = f"Slot 0 (pid {hung.pid}): no sign of life for {seconds:.0f} s."
    assert server.problems == ([] if well else [words])
    assert any("silent" in line for line in render(server, 80)) != well
    assert server.workers[0].silent_s == pytest.approx(seconds)


@pytest.mark.parametrize("state", [State.BOOTING, State.DRAINING])
def test_who_starts_or_leaves_may_be_silent(state: State) -> None:
    """As may the keeper: for them the deadline counts."""
    it = Board(workers=1)
    changing = it.sit(0, generation=2)
    changing.state = state
    it.workers[0].beat(it.now + 1000)
    for seat in (changing, it.keeper):
        seat.beaten_at = it.now
    assert it.figures(seconds=20).healthy
    assert it.figures(seconds=40).problems == [
        f"Slot 0 (pid {changing.pid}): no sign of life for 60 s.",
        f"Keeper (pid {it.keeper.pid}): no sign of life for 60 s.",
    ]


def test_which_catalog_is_served_is_said() -> None:
    """Workers that serve different versions, for longer than a moment, are worth a look."""
    it = Board()
    first, second = it.workers
    for seat, version in ((first, 7), (second, 8)):
        seat.gauges[Gauge.CATALOG_VERSION] = version
        seat.gauges[Gauge.CAMPAIGNS] = 1200
        seat.gauges[Gauge.CATALOG_CHECKED_MILLISECONDS] = 400
    second.gauges[Gauge.CAMPAIGNS_REFUSED] = 2
    shown = "catalog     version 7, 8  1,200 campaigns  2 not understood  checked 400.0ms ago"
    assert shown in render(it.figures(), 120)


def test_events_in_memory_are_no_bytes_of_a_journal() -> None:
    """With --journal off: what waits has an age, and there are no files."""
    it = Board(workers=1)
    (worker,) = it.workers
    worker.gauges[Gauge.JOURNAL_OLDEST_MILLISECONDS] = 1300
    worker.gauges[Gauge.LOG_ROWS_WAITING] = 1
    assert "journal     1 event in memory  oldest 1.3s" in render(it.figures(), 120)
    worker.gauges[Gauge.JOURNAL_BYTES] = 2048
    assert "journal     2.0 KiB waiting  oldest 1.3s" in render(it.figures(), 120)


def test_one_slot_gets_connections_and_two_get_them() -> None:
    it = Board(workers=3)
    for slots, words in ((1, "1 gets connections"), (2, "2 get connections")):
        it.board.open_to = slots
        assert words in "\n".join(render(it.figures(), 200))


def test_a_reload_is_no_trouble() -> None:
    """A slot has two workers for a while, and one of them is ready."""
    it = Board(workers=1)
    it.workers[0].state = State.DRAINING
    it.sit(0, generation=2)
    server = it.figures()
    assert server.healthy
    assert [worker.generation for worker in server.workers] == [2, 1]


def test_a_master_that_leaves_is_no_trouble() -> None:
    it = Board()
    for worker in it.workers:
        worker.vacate()
    it.leaving = True
    server = it.figures()
    assert server.healthy
    assert "leaving" in render(server, 80)[0]


def test_a_board_of_another_version() -> None:
    """Cells are found by their names; what is not there counts as zero."""
    it = Board()
    names = {"ad_found": int(Counter.LOG_ACCEPTED)}
    it.board.describe({"counters": names, "gauges": {}, "histograms": {}})
    it.workers[0].counters[Counter.LOG_ACCEPTED] = 7
    server = it.figures()
    assert server.endpoints["ad"].total == 7
    assert server.endpoints["log"].total == 0
    assert render(server, 80)


def test_a_board_that_has_not_been_described_yet() -> None:
    it = Board()
    it.board.describe({"url": ""})
    assert "starting" in render(it.figures(), 80)[0]


@given(st.lists(st.integers(0, 1500), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_a_quantile_is_in_the_bucket_of_the_true_one(values: list[int], share: float) -> None:
    bounds = [10, 100, 1000]
    counts = [0] * 4
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    found = Histogram(bounds, counts, sum(values)).quantile(share)
    rank = next(n for n in range(1, len(values) + 1) if n >= share * len(values) - 1e-9)
    true = sorted(values)[rank - 1]
    bucket = bisect_left(bounds, true)
    lower = [0, *bounds][bucket]
    assert lower <= found <= (bounds[bucket] if bucket < len(bounds) else bounds[-1])


@settings(max_examples=50)
@given(
    st.integers(30, 200),
    st.lists(st.integers(0, 2**40), min_size=CELLS, max_size=CELLS),
    st.lists(st.integers(0, 2**40), min_size=len(Gauge), max_size=len(Gauge)),
)
def test_no_line_is_longer_than_the_terminal(
    width: int, cells: list[int], gauges: list[int]
) -> None:
    it = Board()

    def happens() -> None:
        for index, value in enumerate(cells):
            it.workers[0].counters[index] = value
        for index, value in enumerate(gauges):
            it.workers[1].gauges[index] = value

    lines = render(it.figures(happens), width)
    assert max(map(len, lines)) <= width
    assert all(line.isprintable() for line in lines)


def test_a_name_that_would_move_the_cursor_does_not() -> None:
    it = Board()
    it.board.describe({"data_dir": "/tmp/\x1b[2Jx"})
    text = "\n".join(render(it.figures(), 200))
    assert "\x1b" not in text
    assert "/tmp/?[2Jx" in text


def test_everything_can_become_json() -> None:
    plain: dict[str, Any] = dataclasses.asdict(Board().figures())
    assert json.loads(json.dumps(plain)) == plain
