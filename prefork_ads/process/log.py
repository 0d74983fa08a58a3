"""Log lines on standard error: `2026-01-01T12:00:00.123Z master[123] message`.

The lines are part of the contract: operators grep them and the system tests wait for them.

Each line is one write() on the descriptor itself. That keeps lines of several processes apart (a
pipe takes up to 4096 bytes in one piece) and leaves nothing in a buffer when a child ends by
os._exit or a signal.

Must not know: who logs what.
"""

import logging
import os
from datetime import UTC, datetime

_STDERR_FD = 2

logger = logging.getLogger("prefork_ads")


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        try:
            os.write(_STDERR_FD, line.encode(errors="backslashreplace"))
        except OSError:
            # Nobody reads our log any more. That is no reason to stop serving.
            pass


class _LineFormatter(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        line = (
            f"{time.removesuffix('+00:00')}Z {self._role}[{record.process}] "
            f"{level}{record.getMessage()}"
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(role: str, level: int = logging.INFO) -> None:
    """Once in each process, again after a fork: `master`, `worker 0`, `keeper`."""
    handler = _StderrHandler()
    handler.setFormatter(_LineFormatter(role))
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
