"""What a child is given when it is forked, and how it speaks to the master.

Must not know: what the child does with it.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prefork_ads.config import Config
from prefork_ads.process.scoreboard import Scoreboard, Seat, State


@dataclass(slots=True, kw_only=True)
class ChildContext:
    """One child's share of the server."""

    slot: int
    generation: int
    config: Config
    # This slot's listeners, one per address the host name stands for. They stay open in the master,
    # so closing them here resets nobody as long as the master lives.
    listeners: Sequence[socket.socket]
    seat: Seat
    scoreboard: Scoreboard
    parent_pid: int
    # The writing end of the pipe that wakes the master; what is to be said stands in the seat.
    wake_fd: int = field(repr=False)

    def beat(self) -> None:
        """Alive: call it from the loop that serves, several times in `worker_timeout_s`."""
        self.seat.beat(time.monotonic() + self.config.worker_timeout_s)

    def announce_ready(self) -> None:
        """The child serves from now on; at boot and at reload the master waits for this."""
        self.beat()
        self._announce(State.READY)

    def announce_draining(self) -> None:
        """The child has stopped accepting for good, so the master starts its successor at once."""
        self._announce(State.DRAINING)

    @property
    def orphaned(self) -> bool:
        """The master is dead: nobody else keeps the listeners, so the child has to drain them."""
        return os.getppid() != self.parent_pid

    def _announce(self, state: State) -> None:
        if self.seat.state is state:
            return
        self.seat.state = state
        try:
            os.write(self.wake_fd, b"\0")
        except (BlockingIOError, BrokenPipeError):
            # Full: the master has bytes to wake up by already. Broken: there is no master.
            pass


# Runs in the child and returns its exit status.
EntryPoint = Callable[[ChildContext], int]
