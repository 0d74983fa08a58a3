"""One run: what is the most it can do, what does it do when asked for more, and when is it well again.

The load comes from one process per core that the server does not have. Each is a fork, so that nothing has
to be imported again, and hands its figures back through a pipe.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from overloadlib.errors import OverloadError
from overloadlib.load import Load, Period, Plan
from overloadlib.processes import leave_signals_to_parent, start
from overloadlib.server import Server
from overloadlib.slow import Slowed

LEAD_S = 0.5
MEMORY_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Phase:
    """The figures of one phase."""

    name: str
    rate: float | None
    duration_s: float
    periods: Sequence[Period]
    # The most that all workers had in memory; None if that cannot be seen.
    memory_bytes: int | None
    # The most that were open at once; None likewise.
    connections: int | None = None
    # How fast the server's cores were, to compare phases with each other; None if that was not seen.
    speed: float | None = None

    @property
    def total(self) -> Period:
        total = Period()
        for period in self.periods:
            total.add(period)
        return total

    @property
    def good_per_s(self) -> float:
        return self.total.good / self.duration_s


def run_phase(name: str, plan: Plan, server: Server, cores: Sequence[int], pace: Slowed) -> Phase:
    """Carry out a plan for all cores together. Raises OverloadError when one of its processes dies."""
    share = replace(
        plan,
        rate=None if plan.rate is None else plan.rate / len(cores),
        max_connections=max(1, plan.max_connections // len(cores)),
    )
    context = multiprocessing.get_context("fork")
    begin = time.monotonic() + LEAD_S
    ours, theirs = zip(*(context.Pipe(duplex=False) for _ in cores), strict=True)
    processes = [
        context.Process(target=_work, args=(share, begin, core, pipe))
        for core, pipe in zip(cores, theirs, strict=True)
    ]
    with ExitStack() as running:
        for process, pipe in zip(processes, theirs, strict=True):
            start(process, running)
            # Whoever dies is heard of: nobody else has the other end.
            pipe.close()
        time.sleep(max(0.0, begin - time.monotonic()))
        mark = pace.mark()
        with _Watch(server) as watch:
            parts: list[list[Period]] = [_heard(pipe) for pipe in ours]
        speed = pace.speed_since(mark)
    periods = parts[0]
    for part in parts[1:]:
        for mine, other in zip(periods, part, strict=True):
            mine.add(other)
    return Phase(
        name, plan.rate, plan.duration_s, periods, watch.memory_bytes, watch.connections, speed
    )


def _heard(pipe: "Connection[None, list[Period]]") -> list[Period]:
    try:
        return pipe.recv()
    except EOFError:
        raise OverloadError("a process of the load has died") from None


def _work(plan: Plan, begin: float, core: int, pipe: "Connection[list[Period], None]") -> None:
    leave_signals_to_parent()
    os.sched_setaffinity(0, {core})
    pipe.send(Load(plan).run(begin))


class _Watch:
    """Looks at the server's memory and connections now and then, beside the load."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.memory_bytes: int | None = None
        self.connections: int | None = None

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        # Linux has this for each thread: the load on this core goes first.
        os.nice(19)
        while not self._ended.wait(MEMORY_EVERY_S):
            usage = self._server.usage()
            if usage is not None:
                self.memory_bytes = max(usage.memory_bytes, self.memory_bytes or 0)
                self.connections = max(usage.connections, self.connections or 0)
