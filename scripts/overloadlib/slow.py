"""Cores that are so many times as slow, for whatever runs on them; and how fast they are at the moment.

The load takes as much processor as the server. Where it has but one core, the server is asked for several
times what it can do only if it can do less. So a process of ours takes the server's core for most of each
PERIOD_S, before everybody else (sched(7), SCHED_FIFO), and leaves the rest.

Why not processes that compete for the core: the kernel divides it among those that want something, and how
many of the server's do changes with what is asked. At its peak worker and PostgreSQL do, and had 2 of 8
shares beside six others; in an overload it is the worker that has to say no, and had 1 of 7. The server was
measured against a peak on a faster machine.

While it has the core it counts, and that tells how fast the core is: other guests of the same host have
been seen to halve that from one second to the next, and a share of a peak on a faster core says nothing.

Must not know: what runs there.
"""

import ctypes
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

from overloadlib.errors import OverloadError
from overloadlib.processes import leave_signals_to_parent, start

# *Measured* at 6 times: with periods of 2 ms a request took twice the processor time, since what is left of
# one is over before the caches are warm; with 30 ms, a sixth more.
PERIOD_S = 0.03
# Linux keeps a twentieth of each second from real-time processes (sched_rt_runtime_us).
MOST = 16.0
# How far a core has counted, and in how many seconds.
_COUNT, _TAKEN_S = 0, 1
_Tally = ctypes.Array[ctypes.c_double]


class Mark(NamedTuple):
    """Where the counting is."""

    counted: float
    taken_s: float


class Slowed:
    """Cores that are slowed down; none, if nothing is."""

    def __init__(self, tallies: Sequence[_Tally]) -> None:
        self._tallies = tallies

    def mark(self) -> Mark:
        return Mark(
            sum(tally[_COUNT] for tally in self._tallies),
            sum(tally[_TAKEN_S] for tally in self._tallies),
        )

    def speed_since(self, mark: Mark) -> float | None:
        """In a unit of its own, to be compared with that of other times; None if nothing was counted."""
        counted, taken_s = self.mark()
        if taken_s <= mark.taken_s:
            return None
        return (counted - mark.counted) / (taken_s - mark.taken_s)


@contextmanager
def slowed(cores: Sequence[int], factor: float) -> Iterator[Slowed]:
    """Until the end these cores are `factor` times as slow, at most MOST.

    Raises OverloadError without the right to real-time scheduling.
    """
    context = multiprocessing.get_context("fork")
    tallies: list[_Tally] = []
    with ExitStack() as running:
        for core in cores if factor > 1 else ():
            tally = context.RawArray(ctypes.c_double, 2)
            told, tells = context.Pipe(duplex=False)
            process = context.Process(target=_take, args=(core, factor, tally, tells, os.getpid()))
            start(process, running)
            tells.close()
            if refusal := told.recv():
                raise OverloadError(
                    f"core {core} cannot be slowed down: {refusal}. Real-time scheduling takes the right"
                    " to it (CAP_SYS_NICE, which root has outside of most containers) or a limit above 0"
                    " in `ulimit -r`."
                )
            tallies.append(tally)
        yield Slowed(tallies)


def _take(
    core: int, factor: float, tally: _Tally, tells: "Connection[str, None]", parent: int
) -> None:
    leave_signals_to_parent()
    try:
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError as error:
        tells.send(str(error))
        return
    tells.send("")
    left_s = PERIOD_S / factor
    # Until whoever started it is gone.
    while os.getppid() == parent:
        began, count = time.monotonic(), 0
        until = began + PERIOD_S - left_s
        while (now := time.monotonic()) < until:
            count += 1
        tally[_COUNT] += count
        tally[_TAKEN_S] += now - began
        time.sleep(left_s)
