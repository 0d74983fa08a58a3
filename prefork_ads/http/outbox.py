"""The end of a loop tick: first make the tick's events safe, then write its answers.

libuv delivers everything that is readable in one poll before it runs callbacks scheduled by
`call_soon`, so one callback per tick sees all the requests of that tick. That is what lets one write()
to the journal cover all of them, and the answers to pipelined requests leave in one send().

Must not know: HTTP, what "safe" means.
"""

from collections.abc import Callable
from typing import Protocol


class Flushable(Protocol):
    """A connection with answers waiting."""

    def flush(self) -> None:
        """Write what is waiting."""


class Outbox:
    """Gathers the connections to flush in this tick."""

    __slots__ = ("_armed", "_call_soon", "_make_safe", "_waiting")

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        make_safe: Callable[[], None] | None = None,
    ) -> None:
        self._call_soon = call_soon
        self._make_safe = make_safe
        self._waiting: list[Flushable] = []
        self._armed = False

    def add(self, connection: Flushable) -> None:
        """Flush `connection` at the end of this tick."""
        self._waiting.append(connection)
        if not self._armed:
            self._armed = True
            self._call_soon(self.flush)

    def flush(self) -> None:
        """Run at the end of the tick; also by the worker before it stops."""
        waiting, self._waiting = self._waiting, []
        self._armed = False
        if self._make_safe is not None:
            self._make_safe()
        for connection in waiting:
            connection.flush()
