"""Waiting for something to become true, and being told to stop meanwhile.

The first Ctrl-C (or SIGTERM) asks the run to end early: pauses return at once, waits go on, since what
they wait for is the end of a fault. The second one gives up.

Must not know: what is waited for.
"""

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from torturelib.errors import Interrupted, NotRecovered

T = TypeVar("T")

POLL_S = 0.05


class Waiter:
    """The clock of a run. `tick` is called all the while, to show that something goes on."""

    def __init__(self) -> None:
        self.interrupted = False
        self.tick: Callable[[], None] = lambda: None

    def take_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def pause(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while not self.interrupted and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, POLL_S))
            self.tick()

    def rest(self, seconds: float) -> None:
        """Between two tries; not cut short, since the tries go on."""
        time.sleep(seconds)
        self.tick()

    def until(self, predicate: Callable[[], T], what: str, limit_s: float) -> T:
        """Poll until the predicate is true and return its value."""
        give_up_at_s = time.monotonic() + limit_s
        while not (value := predicate()):
            if time.monotonic() > give_up_at_s:
                raise NotRecovered(f"waited {limit_s:g} s for {what}")
            time.sleep(POLL_S)
            self.tick()
        return value

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.interrupted:
            raise Interrupted
        self.interrupted = True
