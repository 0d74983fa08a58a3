"""How a worker fares apart from requests."""

from pathlib import Path

from prefork_ads.metrics import CELLS, LOOP_LAG_MICROSECONDS, Gauge
from prefork_ads.process.vitals import MEMORY_EVERY_S, WINDOW_S, Vitals, resident_bytes

EVERY_S = 0.25


class Worker:
    def __init__(self) -> None:
        self.cells = [0] * CELLS
        self.gauges = [0] * len(Gauge)
        self.vitals = Vitals(self.cells, self.gauges, EVERY_S)
        self.now = 100.0
        self.vitals.look(self.now)

    def look(self, late_s: float = 0.0) -> int:
        """One look, so much too late; the delay that is shown afterwards, in milliseconds."""
        self.now += EVERY_S + late_s
        self.vitals.look(self.now)
        return round(self.gauges[Gauge.LOOP_LAG_MICROSECONDS] / 1000)


def test_every_delay_is_counted() -> None:
    worker = Worker()
    for late_s in (0.0, 0.003, 0.5):
        worker.look(late_s)
    assert LOOP_LAG_MICROSECONDS.count(worker.cells) == 3, (
        "the first look has nothing to compare with"
    )
    assert abs(LOOP_LAG_MICROSECONDS.sum(worker.cells) - 503_000) < 10


def test_a_clock_that_is_early_is_not_late() -> None:
    """A timer counts in milliseconds."""
    worker = Worker()
    assert worker.look(-0.001) == 0
    assert LOOP_LAG_MICROSECONDS.sum(worker.cells) == 0


def test_the_longest_delay_is_shown_for_a_while_and_then_no_more() -> None:
    """Whoever looks every ten seconds sees it, and an hour later nobody does."""
    worker = Worker()
    assert worker.look(0.7) == 700
    shown_since = worker.now
    while worker.look() == 700:
        assert worker.now - shown_since < 2 * WINDOW_S + 1
    assert worker.now - shown_since >= WINDOW_S
    assert worker.look(0.002) == 2


def test_memory_is_looked_at_now_and_then() -> None:
    worker = Worker()
    assert worker.gauges[Gauge.MEMORY_BYTES] > 1 << 20
    worker.gauges[Gauge.MEMORY_BYTES] = 0
    worker.look()
    assert worker.gauges[Gauge.MEMORY_BYTES] == 0
    worker.look(MEMORY_EVERY_S)
    assert worker.gauges[Gauge.MEMORY_BYTES] > 1 << 20


def test_memory_of_nobody(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path / "statm") == 0
    (tmp_path / "statm").write_text("")
    assert resident_bytes(tmp_path / "statm") == 0
