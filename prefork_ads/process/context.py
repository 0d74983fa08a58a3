"""What a child is given when it is forked, and how it speaks to the master.

Must not know: what the child does with it.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prefork_ads.config import Config
from prefork_ads.process.scoreboard import Scoreboard, Seat, State, Wish


@dataclass(slots=True, kw_only=True)
class ChildContext:
    """One child's share of the server."""

    slot: int
    generation: int
    config: Config
    # This slot's listeners, one per address the host name stands for. They stay open in the master,
    # so closing them here resets nobody as long as the master lives.
    listeners: Sequence[socket.socket]
    # Of these, those from which nobody else accepts.
    own_listeners: Sequence[socket.socket] = ()
    seat: Seat
    scoreboard: Scoreboard
    parent_pid: int
    # The writing end of the pipe that wakes the master; what is to be said stands in the seat.
    wake_fd: int = field(repr=False)
    # Whether somebody whom this child must not be worse than has a reader's connection to PostgreSQL.
    incumbents_read: Callable[[], bool] = field(default=lambda: False, repr=False)

    def beat(self) -> None:
        """Alive: call it from the loop that serves, several times in `worker_timeout_s`."""
        now = time.monotonic()
        self.seat.beat(now + self.config.worker_timeout_s)
        # For who looks from outside, and does not know this child's time limit.
        self.seat.beaten_at = now

    def announce_ready(self) -> None:
        """The child serves from now on; at boot and at reload the master waits for this."""
        self.beat()
        self._announce(State.READY)

    def announce_draining(self) -> None:
        """The child has stopped accepting for good, so the master starts its successor at once."""
        self._announce(State.DRAINING)

    def ask_for_successor(self, wish: Wish) -> None:
        """The child has served enough. It goes on until the master asks it to drain."""
        if self.seat.wish is Wish.NONE:
            self.seat.wish = wish
            self._wake_master()

    @property
    def orphaned(self) -> bool:
        """The master is dead."""
        return os.getppid() != self.parent_pid

    @property
    def alone_with_listeners(self) -> bool:
        """The master is dead and nobody goes on with its listeners: what is queued is lost after us."""
        return self.orphaned and not self.scoreboard.listeners_shared

    def _announce(self, state: State) -> None:
        if self.seat.state is state:
            return
        self.seat.state = state
        self._wake_master()

    def _wake_master(self) -> None:
        try:
            os.write(self.wake_fd, b"\0")
        except (BlockingIOError, BrokenPipeError):
            # Full: the master has bytes to wake up by already. Broken: there is no master.
            pass


# Runs in the child and returns its exit status.
EntryPoint = Callable[[ChildContext], int]
