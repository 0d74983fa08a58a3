"""Which master is the server: this one, the one before it, or the one after it.

A master that was started by hand or by a service manager is in charge from the beginning. One that an
older master has started at an upgrade (see `upgrade`) is in charge when the older one says so or is dead.
A master that has yielded leaves; if its successor then dies without having been told to stop, it is
in charge again, for as long as it has not ended itself.

What follows from that is told as events, which the master carries out.

Must not know: children, listeners, the service manager, the clock.
"""

import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from prefork_ads.process import upgrade
from prefork_ads.process.upgrade import Line, Predecessor, Successor


@dataclass(frozen=True, slots=True)
class Yield:
    """The successor is ready: let it have the server, then `yielded`."""

    successor: Successor


@dataclass(frozen=True, slots=True)
class UpgradeFailed:
    """There is no successor any more; everything stays as it was."""

    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class TakeBack:
    """The successor died while we were leaving: stay."""

    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class StopNow:
    """The successor was told to stop at once, and so are we."""


@dataclass(frozen=True, slots=True)
class TakeCharge:
    """This master is the server from now on."""

    predecessor: Predecessor
    # Or it has died and nobody has told us anything.
    asked_to: bool


@dataclass(frozen=True, slots=True)
class Alone:
    """The predecessor has ended: the listeners are nobody else's."""

    pid: int


Event = Yield | UpgradeFailed | TakeBack | StopNow | TakeCharge | Alone


class Succession:
    """One master's view of the others."""

    def __init__(self, predecessor: Predecessor | None = None) -> None:
        self.predecessor = predecessor
        self.successor: Successor | None = None
        self.in_charge = predecessor is None
        # The successor has the server.
        self.leaving = False
        # Its boot was given up, or we are stopping: its "ready" comes too late.
        self._unwanted = False
        self._late_at_s = math.inf
        self._kill_at_s = math.inf
        self._told_now = False

    @property
    def busy(self) -> bool:
        """There are two masters."""
        return self.successor is not None or self.predecessor is not None

    @property
    def older_pid(self) -> int | None:
        """The master that is the server until this one can be."""
        return None if self.predecessor is None or self.in_charge else self.predecessor.pid

    @property
    def lines(self) -> Iterator[Line]:
        """What to wait on."""
        for other in (self.predecessor, self.successor):
            if other is not None and not other.line.ended:
                yield other.line

    @property
    def wake_at_s(self) -> float:
        return min(self._late_at_s, self._kill_at_s)

    # The old master's part.

    def started(self, successor: Successor, late_at_s: float) -> None:
        self.successor = successor
        self._late_at_s = late_at_s
        self._kill_at_s = math.inf
        self._unwanted = False

    def yielded(self, *, reload: bool) -> None:
        """Everything is handed over: tell the successor, who has waited for it."""
        assert self.successor is not None
        self.leaving = True
        self._late_at_s = math.inf
        self.successor.line.say(upgrade.YOURS_AND_RELOAD if reload else upgrade.YOURS)

    def too_late(self, now_s: float, patience_s: float) -> bool:
        """Whether the successor's time to become ready is over; asked to leave then, killed later.

        By then workers of its may serve, so it gets the time that a stop may take.
        """
        if now_s >= self._kill_at_s:
            self._kill_at_s = math.inf
            self._send(signal.SIGKILL)
        if now_s < self._late_at_s:
            return False
        self.end_successor(now_s + patience_s)
        return True

    def end_successor(self, kill_at_s: float) -> None:
        """It is not wanted any more: we are to stop, or it was too late."""
        if self.successor is not None and not self.leaving:
            self._unwanted = True
            self._late_at_s = math.inf
            self._kill_at_s = min(self._kill_at_s, kill_at_s)
            self._send(signal.SIGTERM)

    def gone(self, pid: int, ending: str) -> list[Event]:
        """A process has ended that was no child of the server: the successor, if it is known here."""
        successor = self.successor
        if successor is None or pid != successor.pid:
            return []
        successor.hear()
        successor.line.close()
        self.successor = None
        self._late_at_s = self._kill_at_s = math.inf
        reason = successor.failure or ending
        if not self.leaving:
            return [UpgradeFailed(pid, reason)]
        if successor.stopping:
            return []
        self.leaving = False
        return [TakeBack(pid, reason)]

    def _send(self, number: signal.Signals) -> None:
        if self.successor is not None:
            self.successor.send(number)

    # The new master's part.

    def ready(self) -> None:
        """We could serve alone."""
        if self.predecessor is not None:
            self.predecessor.line.say(upgrade.READY)

    def stopping(self, *, at_once: bool) -> None:
        """We were told to stop: a predecessor that is leaving shall not come back for us."""
        if self.predecessor is not None and self.in_charge:
            self.predecessor.line.say(upgrade.STOP_NOW if at_once else upgrade.STOPPING)

    # Both.

    def hear(self) -> list[Event]:
        """What has become of the others since the last time."""
        return [*self._hear_predecessor(), *self._hear_successor()]

    def _hear_predecessor(self) -> Iterator[Event]:
        old = self.predecessor
        if old is None:
            return
        old.hear()
        if not self.in_charge and (old.yielded or old.gone):
            self.in_charge = True
            yield TakeCharge(old, asked_to=old.yielded)
        if old.gone:
            old.line.close()
            self.predecessor = None
            yield Alone(old.pid)

    def _hear_successor(self) -> Iterator[Event]:
        new = self.successor
        if new is None:
            return
        new.hear()
        if new.ready and not self.leaving and not self._unwanted:
            yield Yield(new)
        if new.stop_now and not self._told_now:
            self._told_now = True
            yield StopNow()

    def close(self) -> None:
        """In a child, which must not count as a master, and at the end."""
        for other in (self.predecessor, self.successor):
            if other is not None:
                other.line.close()
