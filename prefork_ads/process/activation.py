"""Sockets that the service manager has opened for us (socket activation, sd_listen_fds).

LISTEN_FDS says how many there are, from descriptor 3 on, LISTEN_PID for whom, LISTEN_FDNAMES how they
are called. Such a socket belongs to the manager, which keeps a copy: clients that come while we are
being restarted wait in its queue and are answered by the next server, so a restart refuses nobody. For
that the socket must be left as it was: it is neither bound away (`refuse_new` changes the socket itself,
also the manager's copy) nor unlinked; at the end it is closed, no more.

Who serves what: see `listener.adopt`. We do not make further sockets for the slots that would share
one. The kernel lets a socket join a port only with SO_REUSEPORT on all of them *and* the same owner,
and systemd's sockets are root's whatever SocketUser= says; binding as a service's user is refused with
"address in use". A unit with ReusePort=yes and one ListenStream= line for each worker gives every slot
a queue of its own (systemd 249 and newer; before, a daemon-reload lost all but one).

Must not know: slots, workers, the configuration.
"""

import os
import socket
from collections.abc import MutableMapping

from prefork_ads.errors import ConfigError

_FIRST_FD = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")

# A mistaken number must not have us try a million descriptors.
MAX_SOCKETS = 1024


def take_sockets(
    environ: MutableMapping[str, str], pid: int, first_fd: int = _FIRST_FD
) -> list[socket.socket]:
    """The sockets meant for this process, in their order; ConfigError when one cannot be served.

    The variables are removed, so that nobody takes the same descriptors again.
    """
    given = {name: environ.pop(name, "") for name in _VARIABLES}
    if given["LISTEN_PID"] != str(pid):
        return []
    count = _count(given["LISTEN_FDS"])
    names = given["LISTEN_FDNAMES"].split(":")
    return [
        _listener(first_fd + index, names[index] if index < len(names) else "")
        for index in range(count)
    ]


def _count(text: str) -> int:
    # isdigit() alone is true of digits that int() does not take.
    if text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= MAX_SOCKETS:
        return int(text)
    raise ConfigError(
        f"LISTEN_FDS={text[:20]!r} is not a number of sockets up to {MAX_SOCKETS}; the service manager"
        " should have set it."
    )


def _listener(fd: int, name: str) -> socket.socket:
    what = f"The socket that the service manager hands over as descriptor {fd}"
    what += f" ({name})" if name else ""
    try:
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigError(
            f"{what} is no open socket: {error.strerror}. See ListenStream= in the socket unit."
        ) from error
    problem = _why_not(listener)
    if problem:
        listener.close()
        raise ConfigError(f"{what} {problem} in the socket unit.")
    if listener.family != socket.AF_UNIX:
        # Inherited by accepted sockets, as for listeners of our own.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener


def _why_not(listener: socket.socket) -> str:
    """What is wrong with it and what to do; empty when we can serve it."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return "is neither a TCP nor a Unix socket. Use ListenStream="
    if listener.type != socket.SOCK_STREAM:
        return "is not a stream socket. Use ListenStream="
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "does not listen: it is one connection. Use Accept=no"
    return ""
