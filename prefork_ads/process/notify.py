"""Tells systemd how we are: READY, RELOADING, STOPPING, MAINPID, WATCHDOG (the protocol of sd_notify).

One datagram to the socket that NOTIFY_SOCKET names. Without it nothing happens, and no failure here
ever reaches the server: a message that cannot be sent is one the service manager will miss.

What systemd makes of it, and what follows for us:

- RELOADING=1 counts only with MONOTONIC_USEC, a time that is not before the reload was asked for; READY=1
  ends the reload. It waits for that pair, so a reload that is refused answers with it too.
- MAINPID=… is taken while the service runs, for a process that lives in its control group. The old master
  sends it at an upgrade, and only then does the new one speak: with NotifyAccess=main what it said before
  would be thrown away. A new one that dies while the old one drains has been the main process already, so
  the old one names itself again, which takes NotifyAccess=all. Nothing else of ours has the socket:
  programs that we start get an environment without it.
- STOPPING=1 cannot be taken back (since version 259), so a master that leaves after an upgrade does
  not send it: the service goes on.
- WATCHDOG_PID names who has to feed the dog. After an upgrade that is another process; the one that hands
  over corrects the variable.
- EXTEND_TIMEOUT_USEC is a promise to speak again within that time.

**The watchdog.** It is fed at half its interval, as long as every slot has had a ready worker within the
last interval. So a worker that dies and is replaced changes nothing, nor does a database that is away, for
workers become ready without it. A slot whose workers cannot start any more, and a master that hangs, make
the dog hungry.

Must not know: what the server does, other than the words it sends.
"""

import math
import os
import socket
import time
from collections.abc import Iterable, Mapping

# The manager drains its socket at once; if it does not, the server has better things to do.
_SEND_TIMEOUT_S = 0.5

# While it stops, the master speaks this often, and promises to within this time.
EXTEND_EVERY_S = 5.0
EXTEND_S = 20.0


class Notifier:
    """The connection to the service manager, if there is one."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # Anything but a path or an abstract name (written with @) is no Unix socket address.
        self._address = path if path.startswith(("/", "@")) else ""
        if path.startswith("@"):
            self._address = "\0" + path[1:]
        # Of two masters one speaks.
        self.silent = False

    def ready(self, status: str) -> None:
        """Up, or up again after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """`ready` has to follow. The time tells this reload from one announced before."""
        # Type=notify-reload requires the time, on this very clock.
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}", "STATUS=Reloading")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=Draining", f"EXTEND_TIMEOUT_USEC={_us(EXTEND_S)}")

    def still_stopping(self, status: str, extend_s: float = EXTEND_S) -> None:
        """The stop takes its time; how long until we speak again, at most."""
        self._send(f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={_us(extend_s)}")

    def main_pid(self, pid: int) -> None:
        """Another process is the server from now on; it goes on from here."""
        self._send(f"MAINPID={pid}", "STATUS=Upgraded")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self.silent or not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SEND_TIMEOUT_S)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass


class Watchdog:
    """When to tell the service manager that all is well, and whether it is."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        self.interval_s = _interval_s(environ, pid)
        self.due_at_s = math.inf
        self._ready_at_s: dict[int, float] = {}
        self.hungry = False

    def start(self, now_s: float) -> None:
        """From now on it wants to be fed; without a watchdog nothing is ever due."""
        if self.interval_s < math.inf:
            self.due_at_s = now_s

    def stop(self) -> None:
        self.due_at_s = math.inf

    def see(self, slots: Iterable[int], ready: Iterable[int], now_s: float) -> None:
        """Which slots should serve, and which of them have a ready worker right now.

        A slot seen for the first time gets an interval to become ready.
        """
        known, serving = self._ready_at_s, set(ready)
        self._ready_at_s = {
            slot: now_s if slot in serving else known.get(slot, now_s) for slot in slots
        }

    def feed(self, now_s: float) -> bool:
        """Whether to send WATCHDOG=1, asked when it is due. `hungry` says that it was not sent."""
        self.due_at_s = now_s + self.interval_s / 2
        self.hungry = bool(self.starving(now_s))
        return not self.hungry

    def starving(self, now_s: float) -> list[int]:
        """The slots that have had no ready worker for too long."""
        oldest_s = now_s - self.interval_s
        return sorted(slot for slot, at_s in self._ready_at_s.items() if at_s < oldest_s)


def _interval_s(environ: Mapping[str, str], pid: int) -> float:
    """WATCHDOG_USEC in seconds; infinite when there is none or it is meant for another process."""
    interval, whose = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    # isdigit() alone is true of digits that int() does not take.
    if not (interval.isascii() and interval.isdigit() and len(interval) < 19 and int(interval)):
        return math.inf
    if whose and whose != str(pid):
        return math.inf
    return int(interval) / 1e6


def _us(seconds: float) -> int:
    return int(seconds * 1e6)
