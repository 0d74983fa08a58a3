"""Shared memory: what a child writes is seen by the others, and outlives it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork_ads.process.scoreboard import (
    ROOM_FOR_SLOTS,
    NotAScoreboard,
    Scoreboard,
    Seat,
    State,
    seats_for,
)


def taken(board: Scoreboard, slot: int = 0) -> Seat:
    seat = board.free_seat()
    assert seat is not None
    seat.take(slot, 1, 0.0)
    return seat


def in_child(work: Callable[[], None]) -> None:
    """Run it in a forked process and wait for its end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_there_is_room_for_a_reload_of_every_slot_and_for_slots_to_come() -> None:
    assert seats_for(4) >= 2 * ROOM_FOR_SLOTS + 2
    assert seats_for(1000) >= 2 * 1000 + 2
    assert len(Scoreboard(counters=1, workers=1000).seats) == seats_for(1000)


def test_a_fresh_board_is_empty() -> None:
    board = Scoreboard(counters=3, gauges=2)
    assert board.totals() == [0, 0, 0]
    assert board.gauge_totals() == [0, 0]
    assert list(board.occupied()) == []
    assert all(seat.state is State.FREE for seat in board.seats)


def test_taking_a_seat_says_who_sits_there_and_until_when() -> None:
    board = Scoreboard(counters=1)
    seat = board.free_seat()
    assert seat is not None
    seat.take(slot=-1, generation=7, deadline_monotonic=12.5)
    seat.pid = 4711
    assert (seat.slot, seat.generation, seat.deadline, seat.pid) == (-1, 7, 12.5, 4711)
    assert seat.state is State.BOOTING
    assert list(board.occupied()) == [seat]
    seat.beat(20.0)
    seat.beaten_at = 10.0
    assert (seat.deadline, seat.beaten_at) == (20.0, 10.0)
    seat.vacate()
    seat.take(slot=0, generation=7, deadline_monotonic=30.0)
    assert seat.beaten_at == 0.0, "nobody's beat is the next one's"


def test_a_child_counts_and_beats_for_all_to_see() -> None:
    board = Scoreboard(counters=2, gauges=1)
    seat = taken(board)

    def work() -> None:
        seat.counters[1] += 2**63
        seat.gauges[0] = 5
        seat.state = State.READY
        seat.beat(99.0)

    in_child(work)
    assert board.totals() == [0, 2**63]
    assert board.gauge_totals() == [5]
    assert seat.state is State.READY
    assert seat.deadline == 99.0


def test_a_child_sums_seats_that_were_taken_after_its_fork() -> None:
    board = Scoreboard(counters=1)
    taken(board).counters[0] = 1
    read, write = os.pipe()
    answer, reply = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os.write(reply, str(board.totals()[0]).encode())
        os._exit(0)
    taken(board, slot=1).counters[0] = 41
    os.write(write, b"\0")
    assert os.read(answer, 10) == b"42"
    os.waitpid(pid, 0)
    for fd in (read, write, answer, reply):
        os.close(fd)


def test_totals_never_go_down_when_a_seat_changes_hands() -> None:
    board = Scoreboard(counters=1, gauges=1)
    seat = taken(board)
    seat.counters[0] += 10
    seat.gauges[0] = 3
    seat.vacate()
    assert board.totals() == [10]
    assert board.gauge_totals() == [0]
    assert list(board.occupied()) == []
    again = taken(board)
    assert again is seat
    again.counters[0] += 1
    assert board.totals() == [11]


def test_seats_do_not_overlap_and_have_cache_lines_of_their_own() -> None:
    board = Scoreboard(counters=17, gauges=3)
    first, second = taken(board), taken(board, slot=1)
    for index in range(17):
        first.counters[index] = 2**64 - 1
    for index in range(3):
        first.gauges[index] = 2**64 - 1
    assert second.state is State.BOOTING
    assert list(second.counters) == [0] * 17
    assert second.slot == 1
    assert first.slot == 0
    assert sum(first.gauges) == 3 * (2**64 - 1)


def test_a_counter_that_does_not_exist_is_an_error_not_the_neighbours() -> None:
    seat = taken(Scoreboard(counters=2))
    with pytest.raises(IndexError):
        seat.counters[2] = 1


def test_a_full_board_has_no_free_seat() -> None:
    board = Scoreboard(counters=1)
    for _ in board.seats:
        taken(board)
    assert board.free_seat() is None


def test_a_stranger_reads_a_copy() -> None:
    """By the descriptor, as through /proc; what happens afterwards is not in it."""
    board = Scoreboard(counters=2, gauges=1, workers=3)
    seat = taken(board, slot=1)
    seat.pid, seat.gauges[0], seat.counters[1] = 4711, 7, 5
    board.master.counters[1] = 1
    board.slots = 4
    board.describe({"url": "http://h:1"})
    board.describe({"name": "ü"})
    copy = Scoreboard.read(board.fd)
    seat.counters[1] = 9
    taken(board, slot=2)
    assert [(s.slot, s.pid, s.gauges[0]) for s in copy.occupied()] == [(1, 4711, 7)]
    assert copy.totals() == [0, 6]
    assert (copy.slots, copy.started_unix_s) == (4, board.started_unix_s)
    assert copy.facts() == {"url": "http://h:1", "name": "ü"}
    os.close(board.fd)


def test_what_is_no_board_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"\0" * 100, b"x" * 200_000):
        (tmp_path / "file").write_bytes(content)
        with (tmp_path / "file").open("rb") as file, pytest.raises(NotAScoreboard):
            Scoreboard.read(file.fileno())


def test_a_board_of_another_layout_is_refused() -> None:
    board = Scoreboard(counters=1)
    os.pwrite(board.fd, (99).to_bytes(8, "little"), 8)
    with pytest.raises(NotAScoreboard, match="another version"):
        Scoreboard.read(board.fd)
    os.close(board.fd)


@pytest.mark.parametrize("count", [2**33, 2**40, 2**62])
def test_a_board_that_pretends_to_be_huge_is_refused(count: int) -> None:
    """Root looks at the boards of others, and a word of theirs must not cost its memory."""
    board = Scoreboard(counters=1)
    for at in (2, 5):
        os.pwrite(board.fd, count.to_bytes(8, "little"), 8 * at)
    with pytest.raises(NotAScoreboard, match="too large"):
        Scoreboard.read(board.fd)
    os.close(board.fd)


def test_a_long_fact_is_cut() -> None:
    """A description that does not fit must not stop the master."""
    board = Scoreboard(counters=1)
    board.describe({"a": "\x01" * 10**6, "b": "\U0001f600" * 10**6, "c": "x" * 10**6})
    assert {name: len(str(fact)) for name, fact in board.facts().items()} == dict.fromkeys(
        "abc", 1024
    )
    os.close(board.fd)
