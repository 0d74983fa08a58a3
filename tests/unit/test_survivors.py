"""Who is killed after the master's death, by a clock and a /proc of our own."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork_ads.process import survivors
from prefork_ads.process.crew import EXCUSE_S
from prefork_ads.process.scoreboard import Scoreboard, Seat
from prefork_ads.process.survivors import LOOK_EVERY_S, Survivors, see_off

DRAINED_BY_S = 100.0


class Orphanage:
    """A board whose master is dead, and the processes there are."""

    def __init__(self, proc: Path) -> None:
        self.board = Scoreboard(counters=1)
        self.proc = proc
        self.survivors = Survivors(self.board, DRAINED_BY_S, proc)

    def sit(self, slot: int, deadline_s: float, title: str | None = None) -> Seat:
        seat = self.board.free_seat()
        assert seat is not None
        seat.take(slot, 1, deadline_s)
        seat.pid = 5000 + seat.index
        (self.proc / str(seat.pid)).mkdir()
        words = f"prefork-ads: worker {slot}" if title is None else title
        (self.proc / str(seat.pid) / "cmdline").write_bytes(words.encode() + b"\0\0")
        return seat

    def end(self, seat: Seat) -> None:
        """Dead, and not buried yet."""
        (self.proc / str(seat.pid) / "cmdline").write_bytes(b"")

    def late(self, now_s: float) -> list[tuple[int, str]]:
        return [(seat.slot, reason) for seat, reason in self.survivors.late(now_s)]


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Orphanage]:
    made = Orphanage(tmp_path)
    yield made
    os.close(made.board.fd)


def test_who_is_silent_is_late_and_gets_a_moment_to_speak(it: Orphanage) -> None:
    it.sit(0, deadline_s=10.0)
    it.sit(1, deadline_s=50.0)
    assert it.late(9.9) == []
    assert it.late(10.0) == []
    assert it.late(10.0 + EXCUSE_S) == [(0, "no heartbeat")]


def test_who_could_not_speak_while_everything_stood_still_is_not_late(it: Orphanage) -> None:
    """A container that was frozen: every deadline has passed, and nobody hangs."""
    seat = it.sit(0, deadline_s=10.0)
    assert it.late(60.0) == []
    seat.beat(90.0)
    assert it.late(60.0 + EXCUSE_S) == []


def test_who_speaks_has_until_a_drain_is_over(it: Orphanage) -> None:
    """However long a worker may be silent, or boot."""
    it.sit(0, deadline_s=3600.0)
    assert it.late(DRAINED_BY_S - 1) == []
    assert it.late(DRAINED_BY_S) == []
    assert it.late(DRAINED_BY_S + EXCUSE_S) == [(0, "not drained in time")]


def test_only_a_worker_of_that_slot_is_one(it: Orphanage) -> None:
    """Nobody vacates the seats of the dead any more, and their pids go to others."""
    ended = it.sit(0, deadline_s=0.0)
    it.end(ended)
    it.sit(1, deadline_s=0.0, title="vi /etc/prefork-ads: worker 1")
    it.sit(2, deadline_s=0.0, title="prefork-ads: worker 20")
    it.sit(-1, deadline_s=0.0, title="prefork-ads: keeper")
    lives = it.sit(3, deadline_s=0.0)
    assert it.survivors.living() == [lives]
    it.late(50.0)
    assert it.late(50.0 + EXCUSE_S) == [(3, "no heartbeat")]


def test_without_workers_nobody_is_waited_for(it: Orphanage) -> None:
    """This test's own process sits there under a number that is its own again."""
    seat = it.sit(0, deadline_s=0.0)
    seat.pid = os.getpid()
    see_off(it.board, drain_timeout_s=0.0)


def test_one_that_not_even_a_kill_ends_is_killed_once_and_not_waited_for(
    it: Orphanage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a disk that is dead, say."""
    seat = it.sit(0, deadline_s=0.0)
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    monkeypatch.setattr(survivors, "EXCUSE_S", 0.0)
    monkeypatch.setattr(survivors, "Survivors", lambda *_: it.survivors)
    see_off(it.board, drain_timeout_s=1000.0)
    assert killed == [(seat.pid, signal.SIGKILL)]


def test_a_worker_that_runs_is_looked_at_more_often_than_it_may_be_late() -> None:
    assert LOOK_EVERY_S < EXCUSE_S / 2
