"""Processes a master or another supervisor answers for: the embedded PostgreSQL and its owner.

Somebody else starts and stops a service; here its death is noticed, and it is started again, with a
growing pause while that fails. Who has forked it sees its death by reaping it. Who has not, because
an earlier master did, needs a lifeline: a descriptor that becomes readable.

Must not know: what the service is.
"""

import select
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from prefork_ads.errors import PreforkAdsError
from prefork_ads.process.log import logger
from prefork_ads.process.slots import STABLE_AFTER_S, Backoff


class Lifeline(Protocol):
    """How somebody holds on to a process that is not, or need not be, a child."""

    # Another master holds on to it too, and keeps it when we let go.
    shared: bool

    def fileno(self) -> int | None:
        """Readable when the process is gone; None while there is no line."""

    def handover(self) -> dict[str, Any]:
        """What another master needs to hold on to it; the descriptor is its `fd`."""

    def let_go(self) -> None:
        """Close it, in a child that must not count as a master."""


@dataclass(slots=True)
class Service:
    """Something with a pid that can be started again."""

    name: str
    pid: Callable[[], int | None]
    # Returns when it serves. The master waits for it and does nothing else meanwhile.
    start: Callable[[], None]
    lifeline: Lifeline | None = None
    backoff: Backoff = field(default_factory=Backoff)
    _pid: int | None = None
    _since_s: float = 0.0
    _down: bool = False

    def watch(self, now_s: float) -> None:
        """From now on it is expected to live."""
        self._pid = self.pid()
        self._since_s = now_s
        self._down = self._pid is None

    def gone(self, pid: int, now_s: float) -> bool:
        """A process has ended; True if it was this service."""
        if pid != self._pid:
            return False
        self._pid = None
        self._down = True
        if now_s - self._since_s >= STABLE_AFTER_S:
            self.backoff.cleared()
        else:
            self.backoff.failed(now_s)
        return True

    @property
    def watched_fd(self) -> int | None:
        """The descriptor to wait on; None while there is nothing to wait for."""
        return None if self._down or self.lifeline is None else self.lifeline.fileno()

    def lost(self, now_s: float) -> int | None:
        """Look whether the lifeline has ended; the pid of the process that is gone."""
        fd, pid = self.watched_fd, self._pid
        if fd is None or pid is None:
            return None
        wait = select.poll()
        wait.register(fd, select.POLLIN)
        return pid if wait.poll(0) and self.gone(pid, now_s) else None

    def handover(self) -> dict[str, Any]:
        """For the next master; empty if it cannot be handed over now."""
        return {} if self._down or self.lifeline is None else self.lifeline.handover()

    def share(self, shared: bool) -> None:
        """Whether another master answers for it too, so that this one just lets go at its end."""
        if self.lifeline is not None:
            self.lifeline.shared = shared

    def shed(self) -> None:
        """In a child: no master."""
        if self.lifeline is not None:
            self.lifeline.let_go()

    @property
    def restart_at_s(self) -> float | None:
        """When `restart` is due; None while it lives."""
        return self.backoff.not_before_s if self._down else None

    def restart(self, clock: Callable[[], float]) -> None:
        """Try once; a failure is logged and tried again later."""
        try:
            self.start()
        except (PreforkAdsError, OSError) as error:
            self.backoff.failed(clock())
            logger.error("service %s cannot be started again: %s", self.name, error)
            return
        self.watch(clock())
        logger.info("service %s pid=%s started again", self.name, self._pid)
