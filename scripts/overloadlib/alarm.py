"""An alarm for an epoll, in fractions of a millisecond: epoll_wait itself counts in whole ones.

A load that asks 1,500 times a second has its next request due in 0.67 ms. Waking a millisecond late would be
measured as the server's latency, and asking without pause takes a core from whoever else is on it.

timerfd_create(2): a descriptor that can be read when its time has come. Python has it from 3.13 on.

Must not know: what is due.
"""

import ctypes
import os
import time

_NONBLOCK = os.O_NONBLOCK
_CLOEXEC = os.O_CLOEXEC
_COUNT_BYTES = 8
_SECOND_NS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    # The interval stays zero: it goes off once.
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """Goes off once for each `set`."""

    __slots__ = ("_libc", "file")

    def __init__(self) -> None:
        """Raises OSError."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.file: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK | _CLOEXEC)
        if self.file < 0:
            raise _last_error()

    def set(self, pause_s: float) -> None:
        """In so many seconds; what was set before is forgotten. Raises OSError."""
        # None at all would switch it off.
        pause_ns = max(1, int(pause_s * 1e9))
        setting = _Setting(_Timespec(0, 0), _Timespec(*divmod(pause_ns, _SECOND_NS)))
        if self._libc.timerfd_settime(self.file, 0, ctypes.byref(setting), None) < 0:
            raise _last_error()

    def heard(self) -> None:
        """Call when it has gone off, as epoll says, and was not set since; until it is set it is silent."""
        os.read(self.file, _COUNT_BYTES)

    def close(self) -> None:
        """No more."""
        os.close(self.file)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
