"""Shared memory between the master and its children: one seat per child.

A seat tells who sits in it (state, pid, slot, generation), until when it must have shown that it is
alive (a deadline on the monotonic clock, which all processes of one machine share), and what it has
counted. The memory is a MAP_SHARED mapping made before the first fork: it needs no file, no name and
no clean-up, and whatever a child counted survives its death.

It is a memfd: memory that has a descriptor. Whoever may look into a process's `/proc/PID/fd` (the same
user, and root) reads the board there, also when the server hangs, at no cost for it and without a
file that a killed master would leave behind. A file on a disk would not do: writing back a page of it
may block whoever counts in that page. In front of the seats stands what a stranger needs to read them.

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

The master has a seat of its own in front of the others for what only it can count, such as respawns.

Must not know: what the numbers mean, who is late, or what to do about it.
"""

import json
import mmap
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, Self

_PAIR_OF_LINES = 128
_WORD = 8

# What the memory is called in /proc/PID/fd.
NAME: Final = "prefork-ads-scoreboard"
_MAGIC: Final = int.from_bytes(b"ads-seat", "little")
# To be changed with the meaning of the words in front, of a seat's header or of State.
_LAYOUT: Final = 1

# In front of the seats: some words, and behind them a description in JSON. Pages that nobody touches
# cost nothing.
_FRONT_BYTES = 64 << 10
_DESCRIPTION_AT = 2 * _PAIR_OF_LINES
# No single fact of the description is longer, so they all fit.
_LONGEST_FACT = 1024

# What a stranger reads at most: what stands in front is the word of another user, and root looks at all.
_LARGEST_BYTES = 256 << 20

# Words of the front.
_MAGIC_AT, _LAYOUT_AT, _COUNTERS, _GAUGES, _SEATS, _USED, _SLOTS, _STARTED_US, _TEXT_BYTES = range(
    9
)
_OPEN_TO, _CRASH_LOOPING = range(9, 11)

_LISTENERS_SHARED = _DESCRIPTION_AT // _WORD - 1

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


class Wish(IntEnum):
    """Why the child in a seat would like to be replaced."""

    NONE = 0
    MAX_REQUESTS = 1
    MAX_AGE = 2
    MAX_MEMORY = 3


# Words of a seat's header.
_STATE, _PID, _SLOT, _GENERATION, _DEADLINE, _WISH, _BEATEN_AT = range(7)


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


class NotAScoreboard(Exception):
    """This memory is none, or that of another version."""


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
    def wish(self) -> Wish:
        """Child: once a successor is ready, this one is asked to drain."""
        return Wish(self._header[_WISH])

    @wish.setter
    def wish(self, wish: Wish) -> None:
        self._header[_WISH] = wish

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

    @property
    def beaten_at(self) -> float:
        """Monotonic seconds of the child's last beat; zero where that is not known."""
        return self._deadline[_BEATEN_AT]

    @beaten_at.setter
    def beaten_at(self, monotonic: float) -> None:
        self._deadline[_BEATEN_AT] = monotonic

    def take(self, slot: int, generation: int, deadline_monotonic: float) -> None:
        """Master, before the fork: a child that hangs before its first line is late all the same."""
        self._header[_SLOT] = slot
        self._header[_GENERATION] = generation
        self.wish = Wish.NONE
        self.beaten_at = 0.0
        self.beat(deadline_monotonic)
        self.state = State.BOOTING

    def vacate(self) -> None:
        """Master, after the death: forget the child, keep what it counted."""
        for index in range(len(self.gauges)):
            self.gauges[index] = 0
        self.pid = 0
        self.state = State.FREE


class _Shape(NamedTuple):
    """How many of what a board has."""

    counters: int
    gauges: int
    seats: int

    @property
    def stride(self) -> int:
        """Bytes of a seat."""
        cells = (self.counters, self.gauges)
        return _PAIR_OF_LINES + sum(_round_up(count * _WORD, _PAIR_OF_LINES) for count in cells)


class Scoreboard:
    """All seats, made once by the master before it forks."""

    def __init__(self, *, counters: int, gauges: int = 0, workers: int = 1) -> None:
        shape = _Shape(counters, gauges, seats_for(workers))
        # What `read` takes; -1 where there is none.
        self.fd, memory = _shared_memory(_FRONT_BYTES + (1 + shape.seats) * shape.stride)
        self._lay_out(memoryview(memory), shape)
        self._facts: dict[str, object] = {}
        self._front[_COUNTERS], self._front[_GAUGES], self._front[_SEATS] = shape
        self._front[_LAYOUT_AT], self._front[_MAGIC_AT] = _LAYOUT, _MAGIC
        self._front[_STARTED_US] = time.time_ns() // 1000
        self.slots = workers

    @classmethod
    def read(cls, fd: int) -> Self:
        """A copy of another process's board as it is at this moment. Raises NotAScoreboard, OSError."""
        front = os.pread(fd, _FRONT_BYTES, 0)
        words = memoryview(front)[: len(front) // _WORD * _WORD].cast("Q")
        if len(front) < _FRONT_BYTES or words[_MAGIC_AT] != _MAGIC:
            raise NotAScoreboard("no scoreboard")
        if words[_LAYOUT_AT] != _LAYOUT:
            raise NotAScoreboard("the scoreboard of another version")
        shape = _Shape(words[_COUNTERS], words[_GAUGES], words[_USED])
        seats_bytes = (1 + shape.seats) * shape.stride
        if seats_bytes > _LARGEST_BYTES:
            raise NotAScoreboard("a scoreboard that is too large to be true")
        seats = os.pread(fd, seats_bytes, _FRONT_BYTES)
        if len(seats) < seats_bytes:
            raise NotAScoreboard("a scoreboard that is cut off")
        board = cls.__new__(cls)
        board.fd = -1
        board._lay_out(memoryview(front + seats), shape)
        board._facts = {}
        return board

    def _lay_out(self, memory: memoryview, shape: _Shape) -> None:
        # Words in the memory itself: how many seats were ever taken, since a child must also sum seats
        # that were first taken after its own fork, and how many slots there are to be.
        self._front: memoryview[int] = memory[:_DESCRIPTION_AT].cast("Q")
        self._description = memory[_DESCRIPTION_AT:_FRONT_BYTES]
        self._counters, self._gauges, _ = shape
        starts = (_FRONT_BYTES + index * shape.stride for index in range(1 + shape.seats))
        # Nobody sits in the first one: the master counts there.
        self.master, *seats = (
            Seat(index, memory[start : start + shape.stride], shape.counters, shape.gauges)
            for index, start in enumerate(starts, start=-1)
        )
        self.seats: Sequence[Seat] = tuple(seats)

    @property
    def started_unix_s(self) -> float:
        """When this server was started."""
        return self._front[_STARTED_US] / 1e6

    @property
    def slots(self) -> int:
        """How many workers there are to be."""
        return self._front[_SLOTS]

    @slots.setter
    def slots(self, slots: int) -> None:
        """Master only."""
        self._front[_SLOTS] = slots

    @property
    def open_to(self) -> int:
        """How many slots get new connections."""
        return self._front[_OPEN_TO]

    @open_to.setter
    def open_to(self, slots: int) -> None:
        """Master only."""
        self._front[_OPEN_TO] = slots

    @property
    def crash_looping(self) -> int:
        """How many slots lose their children again and again."""
        return self._front[_CRASH_LOOPING]

    @crash_looping.setter
    def crash_looping(self, slots: int) -> None:
        """Master only."""
        self._front[_CRASH_LOOPING] = slots

    @property
    def listeners_shared(self) -> bool:
        """Another master or the service manager has the listeners too and goes on with them."""
        return bool(self._front[_LISTENERS_SHARED])

    @listeners_shared.setter
    def listeners_shared(self, shared: bool) -> None:
        """Master only."""
        self._front[_LISTENERS_SHARED] = shared

    def describe(self, facts: Mapping[str, object]) -> None:
        """Master only: add facts that strangers need to understand the board, as JSON has them."""
        for name, fact in facts.items():
            self._facts[name] = fact[:_LONGEST_FACT] if isinstance(fact, str) else fact
        text = json.dumps(self._facts).encode()
        # Who reads meanwhile finds no description, and looks again.
        self._front[_TEXT_BYTES] = 0
        self._description[: len(text)] = text
        self._front[_TEXT_BYTES] = len(text)

    def facts(self) -> dict[str, object]:
        """What `describe` has been told; empty for a moment while it is being told."""
        length = self._front[_TEXT_BYTES]
        try:
            facts = json.loads(bytes(self._description[:length]))
        except ValueError:
            return {}
        return facts if isinstance(facts, dict) else {}

    def free_seat(self) -> Seat | None:
        """The lowest empty seat, so that few are ever used; None when all are taken. Master only."""
        for seat in self.seats:
            if seat.state is State.FREE:
                self._front[_USED] = max(self._front[_USED], seat.index + 1)
                return seat
        return None

    def used(self) -> Sequence[Seat]:
        """Every seat that was ever taken, also those empty now."""
        return self.seats[: self._front[_USED]]

    def occupied(self) -> Iterator[Seat]:
        """The seats of living children."""
        return (seat for seat in self.used() if seat.state is not State.FREE)

    def totals(self) -> list[int]:
        """Each counter summed over all seats ever used; never goes down."""
        return _column_sums([seat.counters for seat in (self.master, *self.used())], self._counters)

    def gauge_totals(self) -> list[int]:
        """Each gauge summed over the living."""
        return _column_sums([seat.gauges for seat in self.used()], self._gauges)


def _shared_memory(size: int) -> tuple[int, mmap.mmap]:
    try:
        fd = os.memfd_create(NAME, os.MFD_CLOEXEC)
    except OSError:
        # A sandbox forbids it: then nobody can look in, and everything else goes on.
        return -1, mmap.mmap(-1, size)
    # The descriptor stays open, in children too: it is what others read us by.
    os.ftruncate(fd, size)
    return fd, mmap.mmap(fd, size)


def _column_sums(rows: "Sequence[memoryview[int]]", width: int) -> list[int]:
    if not rows:
        return [0] * width
    return [sum(column) for column in zip(*(row.tolist() for row in rows), strict=True)]
