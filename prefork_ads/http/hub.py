"""What all connections of a worker share, and what is done to all of them at once.

Must not know: how a connection reads or writes.
"""

from collections.abc import Callable
from typing import Protocol

from prefork_ads.http.limits import Limits
from prefork_ads.http.message import Answers, Handler
from prefork_ads.http.outbox import Outbox

FEED_SLICE_BYTES = 16 * 1024


class Open(Protocol):
    """An open connection, as the hub needs it."""

    def check_time(self, now: float) -> None:
        """End what has taken too long."""

    def close_if_idle(self) -> None:
        """Close between two requests, and only there."""

    def abort(self) -> None:
        """Close at once."""


class Hub:
    """One per process."""

    __slots__ = (
        "answers",
        "connections",
        "draining",
        "handler",
        "limits",
        "max_message",
        "now",
        "on_refused",
        "outbox",
        "report",
        "slice_bytes",
    )

    def __init__(
        self,
        handler: Handler,
        answers: Answers,
        outbox: Outbox,
        limits: Limits,
        report: Callable[[str, Exception], None],
        on_refused: Callable[[int], None],
    ) -> None:
        self.handler = handler
        self.answers = answers
        self.outbox = outbox
        self.limits = limits
        self.report = report
        self.on_refused = on_refused
        self.slice_bytes = min(FEED_SLICE_BYTES, limits.max_head)
        # A body in chunks of one byte each, with its size and two line ends around each, and a trailer
        # as large as a head: more than that has to hide in what the chunks say besides.
        self.max_message = limits.max_head + 6 * limits.max_body
        self.connections: set[Open] = set()
        self.draining = False
        # Seconds on a coarse clock that `sweep` advances: good enough for time limits of seconds, and
        # free on the hot path.
        self.now = 0.0

    def sweep(self, now: float) -> None:
        """End what has taken too long; called about four times a second."""
        self.now = now
        for connection in list(self.connections):
            connection.check_time(now)

    def drain(self) -> None:
        """From now on the next answer on a connection is its last, and says so."""
        self.draining = True

    def close_idle(self) -> None:
        """The end of the draining window: nobody is in the middle of a request, so nobody is hurt."""
        for connection in list(self.connections):
            connection.close_if_idle()

    def abort_all(self) -> None:
        for connection in list(self.connections):
            connection.abort()
