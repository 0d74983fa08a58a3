"""Tells systemd how we are: READY, RELOADING, STOPPING (the protocol of sd_notify).

One datagram to the socket that NOTIFY_SOCKET names. Without it nothing happens, and no failure here
ever reaches the server: a message that cannot be sent is one the service manager will miss.

Must not know: what the server does, other than the words it sends.
"""

import os
import socket
import time
from collections.abc import Mapping

# The manager drains its socket at once; if it does not, the server has better things to do.
_SEND_TIMEOUT_S = 0.5


class Notifier:
    """The connection to the service manager, if there is one."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # Anything but a path or an abstract name (written with @) is no Unix socket address.
        self._address = path if path.startswith(("/", "@")) else ""
        if path.startswith("@"):
            self._address = "\0" + path[1:]

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
        self._send("STOPPING=1", "STATUS=Draining")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_SEND_TIMEOUT_S)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass
