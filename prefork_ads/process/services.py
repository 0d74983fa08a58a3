"""Processes the master did not fork but answers for: the embedded PostgreSQL.

Somebody else starts and stops a service; the master only notices its death, since it reaps all
children, and has it started again, with a growing pause while that fails.

Must not know: what the service is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from prefork_ads.errors import PreforkAdsError
from prefork_ads.process.children import STABLE_AFTER_S, Backoff
from prefork_ads.process.log import logger


@dataclass(slots=True)
class Service:
    """Something with a pid that can be started again."""

    name: str
    pid: Callable[[], int | None]
    # Returns when it serves. The master waits for it and does nothing else meanwhile.
    start: Callable[[], None]
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
