"""Whether those who serve can look things up: what their seats say, and whose word counts."""

import os

import pytest

from prefork_ads.metrics import CELLS, Gauge
from prefork_ads.process.incumbents import anybody_reads, older_server_reads
from prefork_ads.process.scoreboard import Scoreboard, Seat

OLD_PID = 4711


@pytest.fixture
def seat() -> Seat:
    seat = Scoreboard(counters=CELLS, gauges=len(Gauge)).free_seat()
    assert seat is not None
    seat.take(0, 1, 0.0)
    seat.pid = OLD_PID
    return seat


def test_one_connection_of_one_worker_suffices(seat: Seat) -> None:
    idle = Scoreboard(counters=CELLS, gauges=len(Gauge)).seats[0]
    sitting = [(idle, 812), (seat, OLD_PID)]
    assert not anybody_reads(sitting)
    seat.gauges[Gauge.READERS_CONNECTED] = 1
    assert anybody_reads(sitting)
    seat.gauges[Gauge.READERS_CONNECTED] = 0
    assert not anybody_reads(sitting), "it is asked anew each time"


def test_a_writer_is_no_reader(seat: Seat) -> None:
    seat.gauges[Gauge.WRITER_CONNECTED] = 1
    assert not anybody_reads([(seat, OLD_PID)])


def test_who_sits_in_a_dead_ones_seat_does_not_speak_for_it(seat: Seat) -> None:
    seat.vacate()
    assert not anybody_reads([(seat, OLD_PID)])
    seat.take(1, 1, 0.0)
    seat.pid = OLD_PID + 1
    seat.gauges[Gauge.READERS_CONNECTED] = 2
    assert not anybody_reads([(seat, OLD_PID)])


def test_where_nobody_serves_nobody_reads() -> None:
    assert not anybody_reads([])


def test_a_process_that_is_no_master_tells_of_nobody() -> None:
    assert not older_server_reads(os.getpid())
