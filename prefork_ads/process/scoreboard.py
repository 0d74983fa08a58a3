"""Shared memory between the master and its children: one seat per child.

A seat tells who sits in it (state, pid, slot, generation), until when it must have shown that it is
alive (a deadline on the monotonic clock, which all processes of one machine share), and what it has
counted. The memory is an anonymous MAP_SHARED mapping made before the first fork: it needs no file,
no name and no clean-up, and whatever a child counted survives its death.

Counters go up for ever. They are never zeroed: the next child in a seat goes on adding to what it
finds, so the sum over all seats ever used is monotonic across respawns, which is what a scraper of
rates relies on. Gauges (open connections, queue depths) describe a living child, so the master
zeroes them when the child is gone.

There are no locks. Every word has one writer at a time (the master before the fork and after the
death, the child in between), is eight bytes wide and aligned, and is moved by one load or store: a
reader may see a value that is a moment old, never half of one.

A seat starts on a 128-byte boundary and its counters on a line of their own. Cache lines are 64
bytes, but common processors fetch them in pairs: with workers counting on every request, two seats
in one pair would bounce it between cores. Whole pages per seat would buy nothing more and make a sum
touch a page per seat.

Must not know: what the numbers mean, who is late, or what to do about it.
"""

import mmap
from collections.abc import Iterator, Sequence
from enum import IntEnum

_PAIR_OF_LINES = 128
_WORD = 8

# Slots can be added while the server runs, but the mapping cannot grow: children that live already
# would not see the new part. So it has room for this many from the start; pages that are never
# touched cost nothing.
ROOM_FOR_SLOTS = 128


def seats_for(workers: int) -> int:
    """During a reload the old and the new child of a slot sit at once; the keeper is a slot too."""
    return 2 * (max(workers, ROOM_FOR_SLOTS) + 1)


class State(IntEnum):
    """What the child in a seat says about itself. Zero, a fresh mapping, is an empty seat."""

    FREE = 0
    BOOTING = 1
    READY = 2
    DRAINING = 3


# Words of a seat's header.
_STATE, _PID, _SLOT, _GENERATION, _DEADLINE = range(5)


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


class Seat:
    """One child's part of the memory."""

    __slots__ = ("_deadline", "_header", "counters", "gauges", "index")

    def __init__(self, index: int, memory: memoryview, counters: int, gauges: int) -> None:
        self.index = index
        header = memory[:_PAIR_OF_LINES]
        self._header = header.cast("q")
        self._deadline = header.cast("d")
        start = _PAIR_OF_LINES
        self.counters: memoryview[int] = memory[start : start + counters * _WORD].cast("Q")
        start += _round_up(counters * _WORD, _PAIR_OF_LINES)
        self.gauges: memoryview[int] = memory[start : start + gauges * _WORD].cast("Q")

    @property
    def state(self) -> State:
        return State(self._header[_STATE])

    @state.setter
    def state(self, state: State) -> None:
        self._header[_STATE] = state

    @property
    def pid(self) -> int:
        return self._header[_PID]

    @pid.setter
    def pid(self, pid: int) -> None:
        self._header[_PID] = pid

    @property
    def slot(self) -> int:
        return self._header[_SLOT]

    @property
    def generation(self) -> int:
        return self._header[_GENERATION]

    @property
    def deadline(self) -> float:
        """Monotonic seconds; past it the child counts as hung."""
        return self._deadline[_DEADLINE]

    def beat(self, deadline_monotonic: float) -> None:
        """Alive, and to be believed so until then."""
        self._deadline[_DEADLINE] = deadline_monotonic

    def take(self, slot: int, generation: int, deadline_monotonic: float) -> None:
        """Master, before the fork: a child that hangs before its first line is late all the same."""
        self._header[_SLOT] = slot
        self._header[_GENERATION] = generation
        self.beat(deadline_monotonic)
        self.state = State.BOOTING

    def vacate(self) -> None:
        """Master, after the death: forget the child, keep what it counted."""
        for index in range(len(self.gauges)):
            self.gauges[index] = 0
        self.pid = 0
        self.state = State.FREE


class Scoreboard:
    """All seats, made once by the master before it forks."""

    def __init__(self, *, counters: int, gauges: int = 0, workers: int = 1) -> None:
        stride = _PAIR_OF_LINES + sum(
            _round_up(count * _WORD, _PAIR_OF_LINES) for count in (counters, gauges)
        )
        seats = seats_for(workers)
        memory = memoryview(mmap.mmap(-1, _PAIR_OF_LINES + seats * stride))
        # How many seats were ever taken, in the memory itself: a child must also sum seats that
        # were first taken after its own fork.
        self._used: memoryview[int] = memory[:_WORD].cast("Q")
        self._counters = counters
        self._gauges = gauges
        self.seats: Sequence[Seat] = tuple(
            Seat(index, memory[start : start + stride], counters, gauges)
            for index, start in enumerate(
                range(_PAIR_OF_LINES, _PAIR_OF_LINES + seats * stride, stride)
            )
        )

    def free_seat(self) -> Seat | None:
        """The lowest empty seat, so that few are ever used; None when all are taken. Master only."""
        for seat in self.seats:
            if seat.state is State.FREE:
                self._used[0] = max(self._used[0], seat.index + 1)
                return seat
        return None

    def used(self) -> Sequence[Seat]:
        """Every seat that was ever taken, also those empty now."""
        return self.seats[: self._used[0]]

    def occupied(self) -> Iterator[Seat]:
        """The seats of living children."""
        return (seat for seat in self.used() if seat.state is not State.FREE)

    def totals(self) -> list[int]:
        """Each counter summed over all seats ever used; never goes down."""
        return _column_sums([seat.counters for seat in self.used()], self._counters)

    def gauge_totals(self) -> list[int]:
        """Each gauge summed over the living."""
        return _column_sums([seat.gauges for seat in self.used()], self._gauges)


def _column_sums(rows: "Sequence[memoryview[int]]", width: int) -> list[int]:
    if not rows:
        return [0] * width
    return [sum(column) for column in zip(*(row.tolist() for row in rows), strict=True)]
