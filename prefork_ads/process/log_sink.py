"""Where log lines go, without ever waiting for whoever reads them.

A full pipe that nobody empties (a collector that hangs, a terminal that was stopped with Ctrl-S) blocks
whoever writes to it. A worker's loop that waits there answers nobody, and a master replaces nobody. So
lines wait in a bounded queue, each attempt to write takes what is taken at once, and what finds no room
is dropped and counted.

How to write without waiting depends on what standard error is:

- O_NONBLOCK belongs to the *open file*, which we share with everybody who has inherited it: setting it
  would break the shell, PostgreSQL and `tail` beside us. A pipe and a terminal can be opened once more by
  way of /proc/self/fd/2, which makes an open file of our own. A user who may not do that (the pipe
  belongs to somebody else) asks before each write whether there is room: a pipe that says so takes 4096
  bytes. (Two processes may ask at once for the last room; then one of them waits. It is the lesser way.)
- A socket, which is what systemd gives, cannot be opened again, but send() takes a flag for each call.
- A file is written to as it is: it has a position that all share, and a disk does not stop reading.

A file of our own (`--log-file`) is looked at before each line, and opened again when it has been moved
away. So a tool that rotates logs has to tell nobody, and no process can miss being told.

Must not know: what a line says.
"""

import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from prefork_ads.errors import ConfigError

_STDERR_FD = 2
# What a pipe that has any room takes, in one piece.
_PIECE_BYTES = select.PIPE_BUF
# Lines that wait at most: half a minute of a server in trouble, and nothing beside its other memory.
ROOM_BYTES = 256 << 10

# Writes what is taken at once and says how much; BlockingIOError if that is nothing.
Write = Callable[[bytes], int]
Close = Callable[[], None]


class LogSink:
    """Standard error, or a file."""

    def __init__(self, path: Path | None = None, fd: int = _STDERR_FD) -> None:
        """Raises ConfigError when there is no writing to `path`."""
        self._pid = os.getpid()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._pushing = False
        # Lines that were dropped: those nobody has counted yet, and those the log has not told of yet.
        self._uncounted = 0
        self._untold = 0
        self._path = path
        self._file = -1
        if path is None:
            self._write, self._close = writer_for(fd)
            return
        try:
            self._open_file(path)
        except OSError as error:
            raise ConfigError(
                f"The log file {path} cannot be written: {error.strerror}. Its folder must exist and"
                " be writable for this user."
            ) from error
        self._write, self._close = self._write_file, self._close_file

    def add(self, line: bytes) -> None:
        """Write a line, or keep it until there is room."""
        if self._waiting_bytes + len(line) > ROOM_BYTES:
            self._drop(1)
        else:
            self._waiting.append(line)
            self._waiting_bytes += len(line)
        self.push()

    def push(self) -> None:
        """Write what is taken now of what waits.

        The garbage collector may run in here, and what it destroys may have something to say (a task that
        failed unnoticed): that waits behind the line that is being written.
        """
        if self._pushing:
            return
        self._pushing = True
        try:
            self._push()
        finally:
            self._pushing = False

    def finish(self, seconds: float) -> None:
        """The process ends: wait that long for a reader, and not longer."""
        give_up_at = time.monotonic() + seconds
        self.push()
        while self._waiting and time.monotonic() < give_up_at:
            time.sleep(0.01)
            self.push()

    def after_fork(self) -> None:
        """What waits is the parent's to write."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._pushing = False
            self._waiting.clear()
            self._waiting_bytes = self._uncounted = self._untold = 0

    def take_dropped(self) -> int:
        """Lines dropped since this was last asked."""
        dropped, self._uncounted = self._uncounted, 0
        return dropped

    def take_untold(self) -> int:
        """Lines to be told of, once there is room to tell."""
        if self._waiting:
            return 0
        untold, self._untold = self._untold, 0
        return untold

    def reopen(self) -> None:
        """Go on in a new file if the old one was moved away. Raises OSError, and keeps the old one."""
        if self._path is not None:
            self._open_file(self._path)

    def close(self) -> None:
        """Write no more; the descriptor that was given stays open."""
        self._close()

    # Inside.

    def _push(self) -> None:
        waiting = self._waiting
        while waiting:
            try:
                written = self._write(waiting[0])
            except BlockingIOError:
                return
            except OSError:
                # Nobody reads any more, or the disk is full. That is no reason to stop serving, and
                # keeping old lines for a reader to come would only lose the new ones.
                self._drop(len(waiting))
                waiting.clear()
                self._waiting_bytes = 0
                return
            self._waiting_bytes -= written
            if written < len(waiting[0]):
                waiting[0] = waiting[0][written:]
            else:
                waiting.popleft()

    def _drop(self, lines: int) -> None:
        self._uncounted += lines
        self._untold += lines

    def _open_file(self, path: Path) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._close_file()
        self._file = fd

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write_file(self, line: bytes) -> int:
        assert self._path is not None
        if self._is_moved(self._path):
            try:
                self._open_file(self._path)
            except OSError:
                # The new one may be somebody else's. The old one will do as long as it has a name.
                if not os.fstat(self._file).st_nlink:
                    raise
        return os.write(self._file, line)

    def _is_moved(self, path: Path) -> bool:
        try:
            there = path.stat()
        except OSError:
            return True
        ours = os.fstat(self._file)
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)


def writer_for(fd: int) -> tuple[Write, Close]:
    """How to write to a descriptor that others have, too, and how to end that."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        # Closed. Each attempt will say so, and be counted.
        mode = 0
    if stat.S_ISSOCK(mode):
        return _socket_writer(fd)
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return lambda line: os.write(fd, line), _nothing
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        own = os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:
        return asking_writer(fd), _nothing
    return lambda line: os.write(own, line), lambda: os.close(own)


def _nothing() -> None:
    """There is nothing of our own to close."""


def _socket_writer(fd: int) -> tuple[Write, Close]:
    own = socket.socket(fileno=os.dup(fd))

    def write(line: bytes) -> int:
        return own.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    return write, own.close


def asking_writer(fd: int) -> Write:
    """The lesser way: look whether there is room first."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)

    def write(line: bytes) -> int:
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(fd, line[:_PIECE_BYTES])

    return write
