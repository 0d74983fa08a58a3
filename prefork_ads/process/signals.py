"""Signals as something to wait for: numbers that can be read from a descriptor.

A handler does nothing. Python's wake-up descriptor has written the signal's number to a socket by the
time it runs, and whoever polls that socket reads it. So nothing is ever interrupted half way, least of
all a fork, and no signal is lost between looking and sleeping.

Afterwards they are ignored, not as they were before: what is left of the process is tidying up, such as
waiting for PostgreSQL's last checkpoint, and an impatient Ctrl-C must not cut it off.

Must not know: what a signal means.
"""

import signal
import socket
from collections.abc import Iterable


class Signals:
    """Takes some signals until `close`, and for the rest of the process lets none of them disturb it."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._in, self._out = socket.socketpair()
        for end in (self._in, self._out):
            end.setblocking(False)
        # A full socket drops numbers, after hundreds that nobody read; those that fit wake us all the
        # same.
        self._old_fd = signal.set_wakeup_fd(self._out.fileno(), warn_on_full_buffer=False)
        # Not SIG_IGN: only a handler in Python makes the wake-up descriptor work.
        self._numbers = tuple(numbers)
        for number in self._numbers:
            signal.signal(number, _do_nothing)

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._in.fileno()

    def take(self) -> list[signal.Signals]:
        """What has come since the last time, in order."""
        try:
            numbers = self._in.recv(4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in numbers]

    def close(self) -> None:
        """Take no more of them."""
        for number in self._numbers:
            # A process that ignores SIGCHLD never learns how its children ended.
            ignored = number != signal.SIGCHLD
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        signal.set_wakeup_fd(self._old_fd)
        self.close_descriptors()

    def close_descriptors(self) -> None:
        """In a forked child, whose handlers are dropped by other means."""
        self._in.close()
        self._out.close()


def _do_nothing(number: int, frame: object) -> None:
    pass
