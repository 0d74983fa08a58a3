"""A server that is upgraded: its master's place is taken by others, of which each starts the next.

The first master is our child, and the session it leads is how everything is found that runs. The
master in charge is known from the log.
"""

import os
import re
import signal
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support import wait_until
from tests.system.harness import STOP_LIMIT_S, Server

_STARTED: Final = re.compile(r"master\[(\d+)\] upgrade: started a new master pid=(\d+)")
_IN_CHARGE: Final = re.compile(
    r"master\[(\d+)\] (?:error: )?upgrade: (?:takes over|master pid=.* this one)"
)
UPGRADE_LIMIT_S: Final = 60.0


class Lineage(Server):
    """`signal` and `stop` speak to the master in charge; `running` is true as long as one lives."""

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self.running:
            self.end()
        super().__exit__(kind, error, trace)

    @property
    def master(self) -> int:
        """The master in charge."""
        pids = [int(found[1]) for found in map(_IN_CHARGE.search, self.lines()) if found]
        return pids[-1] if pids else self.pid

    @property
    def running(self) -> bool:
        # Our own child has to be asked, or it stays a zombie.
        return super().running or any(lives(pid) for pid in self._masters())

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop it and wait until nothing of it is left."""
        self.signal(number)
        wait_until(lambda: not self.running, "the end of every master", STOP_LIMIT_S)
        self.assert_nothing_runs()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.master, number)

    def begin_upgrade(self) -> int:
        """Ask for an upgrade; the pid of the new master, which has just been forked."""
        mark = len(self.lines())
        self.signal(signal.SIGUSR2)
        return int(self.wait_for_line(_STARTED.pattern, since=mark)[2])

    def upgrade(self) -> int:
        """One upgrade from beginning to end; the pid of the new master."""
        old, mark = self.master, len(self.lines())
        new = self.begin_upgrade()
        self.wait_for_line(
            rf"master\[{new}\] upgrade: done, master pid={old} has ended",
            since=mark,
            timeout_s=UPGRADE_LIMIT_S,
        )
        self.wait_for_line(rf"master\[{new}\] ready: ", since=mark)
        return new

    def _masters(self) -> list[int]:
        return [int(found[2]) for found in map(_STARTED.search, self.lines()) if found]


def lives(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def parent(pid: int) -> int:
    """Of a process that may just have ended: then 0."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str]:
    """State, parent, … of a process; empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
