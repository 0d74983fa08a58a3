"""After a master was killed: none of its workers stays behind.

The kernel sends the children SIGTERM when their master dies (see `spawn`), and it is the loop of a worker
that obeys. A worker whose loop stands still does not hear it, and the master, who would have killed it, is
gone. It would live on and hold the port, where no server could start then. So the keeper, which has neither
clients nor listeners, stays until the workers have ended, and kills whom the master would have killed: who is
silent past the deadline in its seat, and who has not drained in time.

Why not a timer in each worker? It goes on while a container is frozen or a process is stopped, and would end
healthy workers afterwards, also where a master lives. It costs something at each beat. And a worker
that is stopped ends by nothing but a SIGKILL from outside.

Nobody vacates seats any more, and the kernel may give the pid of a dead worker to somebody else: only a
process with the title of that worker is one.

Must not know: the database, what a worker does.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prefork_ads.process.crew import EXCUSE_S, role
from prefork_ads.process.log import logger
from prefork_ads.process.scoreboard import Scoreboard, Seat

# A look reads a small file for each worker.
LOOK_EVERY_S: Final = 0.25
_PROC: Final = Path("/proc")


def see_off(board: Scoreboard, drain_timeout_s: float) -> None:
    """Return when all workers of this board have ended by themselves, or were killed."""
    survivors = Survivors(board, time.monotonic() + drain_timeout_s)
    killed: set[int] = set()
    while any(seat.pid not in killed for seat in survivors.living()):
        for seat, reason in survivors.late(time.monotonic()):
            if seat.pid in killed:
                continue
            # Once, and then it is as good as ended: one that waits for a dead disk may take for ever.
            killed.add(seat.pid)
            logger.error("worker slot=%d pid=%d is killed: %s", seat.slot, seat.pid, reason)
            with contextlib.suppress(ProcessLookupError):
                os.kill(seat.pid, signal.SIGKILL)
        time.sleep(LOOK_EVERY_S)


class Survivors:
    """The workers of a master that is dead."""

    def __init__(self, board: Scoreboard, drained_by_s: float, proc: Path = _PROC) -> None:
        self._board = board
        self._drained_by_s = drained_by_s
        self._proc = proc
        # By pid: when it was first seen to be late.
        self._late_since_s: dict[int, float] = {}

    def living(self) -> list[Seat]:
        return [seat for seat in self._board.occupied() if seat.slot >= 0 and self._lives(seat)]

    def late(self, now_s: float) -> Iterator[tuple[Seat, str]]:
        """Who is to be killed, and why.

        Late at one look is not enough: if everything stood still, nobody could beat meanwhile.
        """
        late = {seat.pid: seat for seat in self.living() if now_s >= self._due_s(seat)}
        self._late_since_s = {pid: self._late_since_s.get(pid, now_s) for pid in late}
        for pid, seat in late.items():
            if now_s - self._late_since_s[pid] >= EXCUSE_S:
                yield seat, "no heartbeat" if now_s >= seat.deadline else "not drained in time"

    def _due_s(self, seat: Seat) -> float:
        return min(seat.deadline, self._drained_by_s)

    def _lives(self, seat: Seat) -> bool:
        try:
            # What has ended and was not buried has no command line any more.
            title = (self._proc / str(seat.pid) / "cmdline").read_bytes()
        except OSError:
            return False
        return title.rstrip(b"\0") == f"prefork-ads: {role(seat.slot)}".encode()
