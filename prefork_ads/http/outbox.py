"""The end of a loop tick: first make the tick's events safe, then write its answers.

libuv delivers everything that is readable in one poll before it runs callbacks scheduled by
`call_soon`, so one callback per tick sees all the requests of that tick. That is what lets one write()
to the journal cover all of them, and the answers to pipelined requests leave in one send().

Where "safe" means "on the disk", a tick's end cannot wait for it. Then answers leave in groups:

    tick tick | tick tick tick | tick …
    └ group 1 ┘└── group 2 ───┘         group 2 gathers while the disk works for group 1

An answer is sealed into its group when the disk is asked, for its event is written by then. What a
connection is answered after that belongs to the next group, and does not leave with this one.

When the events cannot be made safe, nothing that has not left may leave: `on_failure` has every
connection refuse what it owes. That includes requests whose answers are still awaited from elsewhere,
since nobody knows in which tick they came.

Must not know: HTTP, what "safe" means.
"""

from collections.abc import Callable
from typing import Any, Protocol


class Flushable(Protocol):
    """A connection with answers waiting."""

    def flush(self) -> None:
        """Write what is waiting."""

    def seal(self) -> None:
        """What waits now is one group; what comes now on is not of it."""

    def flush_sealed(self) -> None:
        """Write the group, and no more than that."""

    def unseal(self) -> None:
        """The group has failed: it waits like the rest."""


class Safety(Protocol):
    """What makes events safe."""

    @property
    def syncs(self) -> bool:
        """Whether `sync` is needed before answers may leave."""

    def write(self) -> bool:
        """Keep the events of this tick. False: they are not kept."""

    def sync(self, done: Callable[[bool], None], /) -> None:
        """Get all that was written onto the disk and say, in a later callback, whether it is there."""


def _nothing_to_refuse() -> None:
    """Until somebody says how."""


class Stopwatch(Protocol):
    """Who measures how long requests wait for their answers."""

    def begin(self) -> None:
        """The first answer of a tick is ready."""

    def end(self) -> Any:
        """The tick's answers are complete: what is to be told about them when they have left."""

    def left(self, tick: Any, /) -> None:
        """They are with their transports."""


class Watch(Protocol):
    """Who sees to it that a tick does not go on for ever."""

    look_at: int

    def begin(self, waiting: int, /) -> None:
        """The first answer of a tick is ready; so many wait."""

    def look(self) -> None:
        """`look_at` of them wait by now."""

    def end(self) -> None:
        """The tick is over."""


class Outbox:
    """Gathers the connections to flush in this tick."""

    __slots__ = (
        "_armed",
        "_call_soon",
        "_group",
        "_group_ticks",
        "_safety",
        "_ticks",
        "_waiting",
        "holds",
        "on_failure",
        "stopwatch",
        "watch",
    )

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        safety: Safety | None = None,
    ) -> None:
        self._call_soon = call_soon
        self._safety = safety
        self._waiting: list[Flushable] = []
        self._armed = False
        # The connections whose answers wait for the disk.
        self._group: list[Flushable] | None = None
        # Whether answers may wait for longer than their tick, and so can pile up.
        self.holds = safety is not None and safety.syncs
        self.on_failure: Callable[[], None] = _nothing_to_refuse
        # What the stopwatch says of the ticks whose answers wait, and of the group's.
        self.stopwatch: Stopwatch | None = None
        self._ticks: list[Any] = []
        self._group_ticks: list[Any] = []
        self.watch: Watch | None = None

    def add(self, connection: Flushable) -> None:
        """Flush `connection` at the end of this tick."""
        self._waiting.append(connection)
        if not self._armed:
            self._armed = True
            self._call_soon(self.flush)
            if self.stopwatch is not None:
                self.stopwatch.begin()
            if self.watch is not None:
                self.watch.begin(len(self._waiting))
        elif self.watch is not None and len(self._waiting) >= self.watch.look_at:
            self.watch.look()

    def flush(self) -> None:
        """Run at the end of the tick."""
        began, self._armed = self._armed, False
        if began and self.watch is not None:
            self.watch.end()
        if began and self.stopwatch is not None:
            self._ticks.append(self.stopwatch.end())
        safe = self._safety is None or self._safety.write()
        if not safe:
            self.on_failure()
        if self._group is not None:
            # What was refused just now may stand behind answers of the group: it waits, too.
            return
        if self.holds and safe:
            self._sync()
        else:
            self._flush_all()

    def keep(self) -> None:
        """Have events kept that no answer asks for: their lookups last, or their clients have left."""
        if not self._armed and self._safety is not None and not self._safety.write():
            self.on_failure()

    def _flush_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        ticks, self._ticks = self._ticks, []
        for connection in waiting:
            connection.flush()
        self._have_left(ticks)

    def _have_left(self, ticks: list[Any]) -> None:
        if self.stopwatch is not None:
            for tick in ticks:
                self.stopwatch.left(tick)

    def _sync(self) -> None:
        if self._safety is None or not self._waiting:
            return
        self._group, self._waiting = self._waiting, []
        self._group_ticks, self._ticks = self._ticks, []
        for connection in self._group:
            connection.seal()
        self._safety.sync(self._synced)

    def _synced(self, safe: bool) -> None:
        group, self._group = self._group or [], None
        ticks, self._group_ticks = self._group_ticks, []
        if not safe:
            for connection in group:
                connection.unseal()
            self._ticks[:0] = ticks
            # Also what came since: it is written where the disk has failed.
            self.on_failure()
            self._flush_all()
            return
        for connection in group:
            connection.flush_sealed()
        self._have_left(ticks)
        if self._waiting:
            self.flush()
