"""Listening sockets: one per slot on one port, made once and kept by the master for life.

Why one per slot: sockets with SO_REUSEPORT on one port each have a queue of their own and the kernel
deals new connections out by hash. Measured: under 1.2 : 1 between four workers, where one shared
queue gives 1.7 to 3.6 : 1. Why the master keeps them: the queue belongs to the socket, and a close by
the last holder resets everybody in it. Measured: a killed worker that owned its listener reset 204
of 800 clients, one whose listener the master kept reset none, the replacement answered them.

**Taking the port.** SO_REUSEPORT lets every process of the same user join the port unasked and take
a share of the connections, also a second server started by mistake. So the first listener binds and
listens *without* it, which the kernel refuses as soon as anybody listens there, and turns it on
afterwards for the others to join, if there are others. There is no moment between a check and the act:
of two servers started together one wins. From then on the kernel lets in whoever belongs to the same
user and asks for it; `steering` sees to it that such a stranger gets nothing, and `add` refuses to grow
beside one, which would put our next listener behind it in the kernel's row. A port with one listener
lets nobody in. SO_REUSEADDR is set on all, else connections of the previous server in
TIME_WAIT would keep the next one out for a minute.

**More and fewer.** Listeners join the port and leave it while connections come in, at the end of the
row only. Before one is closed new connections are steered to the others, somebody accepts what is
queued, and time passes for handshakes under way. *Measured* on Linux 6.18 over loopback, 12 clients with
a connection per request, 200 closes of the third of three listeners: just closed 20 of 48,000 requests
were reset, accepting until the very close 2 of 44,000, after steering and 50 ms of accepting 0 of 64,000.

**Giving it back.** Closing a listener resets what waits in its queue, and under load something always
waits. So before the close each listener is bound to a network interface that does not exist. A SYN no
longer finds it and is refused; handshakes under way belong to sockets of their own by then and are
finished; workers accept what is queued. Then the close finds empty queues. Measured on Linux 6.18 over
loopback, 50 clients with a connection per request, 4 listeners, 12 stops: a close after this reset 0
of 8,300 requests (0 of 10,600 as an ordinary user). A classic BPF filter that drops packets with SYN and
without ACK does as well for root, but since 6.18 at the latest only for root, and its late clients
wait a second for their second SYN where these are refused at once.

What is deliberately not set: TCP_DEFER_ACCEPT, which keeps a connection out of the queue until data
arrives, so a drain cannot see that it exists and resets it. TCP_NODELAY is inherited by accepted
sockets, which saves a system call per connection.

A Unix socket has no SO_REUSEPORT: one listener is shared by all slots. It stops taking connections
by losing its name.

Must not know: fork, HTTP, who accepts.
"""

import contextlib
import errno
import os
import select
import socket
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from prefork_ads.config import Config
from prefork_ads.errors import ConfigError, PortInUse
from prefork_ads.process import port_owner, steering

# How long to go on accepting after `refuse_new`, at least. 50 ms emptied the queues of every stop
# over loopback; a handshake under way needs one round trip of the client, so across a continent more.
# A worker that still drains connections loses nothing by accepting until its end.
ACCEPT_GRACE_S = 0.25

# Anyone may connect, as on a TCP port of this machine; the folder decides who can reach the socket.
UNIX_SOCKET_MODE = 0o666

# Another program may take the port that the system chose between our first address and our second.
_FREE_PORT_ATTEMPTS = 10

# Missing in the socket module.
_SO_BINDTOIFINDEX = 62
_NO_SUCH_INTERFACE = 0x7FFFFFFF


class Listeners:
    """All listening sockets of the server, by slot."""

    def __init__(
        self,
        by_slot: Sequence[Sequence[socket.socket]],
        address: str,
        *,
        backlog: int,
        foreign: bool = False,
    ) -> None:
        self._by_slot = [list(sockets) for sockets in by_slot]
        # The service manager's: it goes on with them after us, so we leave them as they are.
        self.foreign = foreign
        self._backlog = backlog
        # What `steer` was last told, for a row that begins later.
        self._choice: frozenset[int] = frozenset()
        # As people write it: `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/prefork-ads/http.sock`.
        self.address = address
        # Whether a Unix socket's name is still ours to remove: after `refuse_new` it may be the next
        # server's.
        self.named = not foreign

    def __len__(self) -> int:
        return len(self._by_slot)

    def of(self, slot: int) -> list[socket.socket]:
        return self._by_slot[slot]

    def own(self, slot: int) -> list[socket.socket]:
        """Those that no other slot accepts from: only their queues say how far behind this slot is."""
        return [one for one in self._by_slot[slot] if sum(one in row for row in self._by_slot) == 1]

    @property
    def url(self) -> str:
        return self.address if self.address.startswith("unix:") else f"http://{self.address}"

    @property
    def shared(self) -> bool:
        """A queue is not one slot's alone: whoever accepts gets what there is, nothing is to be steered."""
        return self.foreign or self._by_slot[0][0].family == socket.AF_UNIX

    def steer(self, slots: frozenset[int]) -> None:
        """New connections go to these slots only; OSError if this kernel does not do that."""
        self._choice = slots
        if self.shared or len(self) == 1:
            return
        program = steering.choice_among(slots)
        # One is enough for each address: the program belongs to all who listen there.
        for listener in self._by_slot[0]:
            steering.attach(listener, program)

    def add(self) -> None:
        """A listener for one more slot, the last; ConfigError, PortInUse or OSError if that cannot be.

        As long as nothing is steered to it, it gets no connections.
        """
        if self.shared:
            groups = list(dict.fromkeys(map(tuple, self._by_slot)))
            self._by_slot.append(list(groups[len(self) % len(groups)]))
            return
        models = self._by_slot[0]
        mine = {os.fstat(listener.fileno()).st_ino for listener in self._each()}
        if stranger := port_owner.stranger(mine):
            raise PortInUse(f"{stranger} has joined the port. End it first")
        with contextlib.ExitStack() as opened:
            sockets = []
            for model in models:
                model.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                listener = opened.enter_context(socket.socket(model.family, socket.SOCK_STREAM))
                if model.family == socket.AF_INET6:
                    only_ipv6 = model.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
                _listen(listener, model.getsockname(), self._backlog, first=False)
                sockets.append(listener)
            opened.pop_all()
        self._by_slot.append(sockets)
        if len(self) == 2 and self._choice:
            # Now there is a row. If this kernel does not steer, whoever asks for it next will hear.
            with contextlib.suppress(OSError):
                self.steer(self._choice)

    def has_queue(self, slot: int) -> bool:
        """Whether somebody waits for this slot to accept."""
        if self.shared:
            return False
        wait = select.poll()
        for listener in self.of(slot):
            wait.register(listener, select.POLLIN)
        return bool(wait.poll(0))

    def remove(self) -> None:
        """Close the last slot's; whoever waits in its queue is reset."""
        sockets = self._by_slot.pop()
        if not self.shared:
            for listener in sockets:
                listener.close()

    @property
    def removable(self) -> bool:
        """Whether somebody would still accept from every socket if the last slot went.

        Our own are closed then; the service manager's stay, and need a slot each.
        """
        others = {id(listener) for sockets in self._by_slot[:-1] for listener in sockets}
        return not self.foreign or all(id(listener) in others for listener in self._by_slot[-1])

    def descriptors(self) -> list[list[int]]:
        """By slot, for a process that they are handed over to."""
        return [[listener.fileno() for listener in sockets] for sockets in self._by_slot]

    def refuse_new(self) -> None:
        """No new connection begins on any of them; what is queued can still be accepted.

        What begins on the service manager's waits for the next server.
        """
        if not self.foreign:
            for listener in self._each():
                refuse_new(listener)
        self.named = False

    def keep_only(self, slot: int) -> None:
        """In a child: let go of the others' sockets, which does not close them in the master."""
        mine = {id(listener) for listener in self.of(slot)} if slot >= 0 else set()
        for listener in self._each():
            if id(listener) not in mine:
                listener.close()

    def close(self) -> None:
        """Whoever still waits in a queue is reset: `refuse_new` and accepting come first."""
        for listener in self._each():
            if self.named and listener.family == socket.AF_UNIX:
                _unlink(listener)
            listener.close()

    def _each(self) -> Iterable[socket.socket]:
        return {
            id(listener): listener for sockets in self._by_slot for listener in sockets
        }.values()


def open_listeners(config: Config) -> Listeners:
    """What the configuration asks for."""
    if config.unix_socket is not None:
        return open_unix(config.unix_socket, slots=config.workers, backlog=config.backlog)
    return open_tcp(config.host, config.port, slots=config.workers, backlog=config.backlog)


def open_tcp(host: str, port: int, *, slots: int, backlog: int) -> Listeners:
    """One listener per slot and address. Port 0 lets the system pick one port for all of them.

    With a backlog of 0 the addresses are taken and nobody is let in: to see whether they are free. A
    trial that listened would reset whoever connects before it is closed (3 in 20 restarts under load).
    """
    addresses = _resolve(host, port)
    for attempt in range(1, _FREE_PORT_ATTEMPTS + 1):
        with contextlib.ExitStack() as opened:
            try:
                by_slot = _open_all(opened, addresses, port, slots, backlog)
            except PortInUse:
                if port or attempt == _FREE_PORT_ATTEMPTS:
                    raise
                continue
            opened.pop_all()
            shown = f"[{host}]" if ":" in host else host
            address = f"{shown}:{by_slot[0][0].getsockname()[1]}"
            return Listeners(by_slot, address, backlog=backlog)
    raise AssertionError("the last attempt returns or raises")


def open_unix(path: Path, *, slots: int, backlog: int) -> Listeners:
    """One listener, shared by all slots."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(UNIX_SOCKET_MODE)
        if backlog:
            listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Cannot listen on the Unix socket {path}: {error.strerror or error}. Its folder must"
            " exist and be writable for this user; the path may have 107 bytes."
        ) from error
    listener.setblocking(False)
    return Listeners([[listener]] * slots, f"unix:{path}", backlog=backlog)


def adopt(sockets: Sequence[socket.socket], *, slots: int, backlog: int) -> Listeners:
    """Sockets that the service manager has made, dealt out to the slots.

    Every slot serves every address. Where an address has a socket for each slot, each slot has a queue of
    its own. Where it has fewer, slots share; where it has more, some slots accept from several: a
    socket that listens and that nobody accepts from would leave its clients waiting for ever.
    """
    by_address: dict[object, list[socket.socket]] = {}
    for listener in sockets:
        by_address.setdefault((listener.family, listener.getsockname()), []).append(listener)
    by_slot: list[list[socket.socket]] = [[] for _ in range(slots)]
    for same in by_address.values():
        for index in range(max(slots, len(same))):
            by_slot[index % slots].append(same[index % len(same)])
    return Listeners(by_slot, shown(sockets[0]), backlog=backlog, foreign=True)


def shown(listener: socket.socket) -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        # An abstract name begins with a zero byte; people write @.
        path = os.fsdecode(name)
        return f"unix:{'@' + path[1:] if path.startswith(chr(0)) else path}"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def refuse_new(listener: socket.socket) -> None:
    """No new connection begins; those under way and those queued are not touched.

    A worker calls this too when its master was killed: then nobody else does. Measured over 8 kills of
    the master under load: without it 49 of 3,900 requests were reset, with it 0 of 2,650.
    """
    if listener.family == socket.AF_UNIX:
        _unlink(listener)
        return
    # Two workers of one slot may both come here, the old one and its successor, and only root may bind
    # a second time.
    if listener.getsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX) != _NO_SUCH_INTERFACE:
        listener.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_SUCH_INTERFACE)


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"The host {host!r} is no address of this machine and cannot be resolved: {error}."
            " Use an address such as 127.0.0.1, 0.0.0.0 or ::."
        ) from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _open_all(
    opened: contextlib.ExitStack,
    addresses: Sequence[tuple[socket.AddressFamily, tuple[object, ...]]],
    port: int,
    slots: int,
    backlog: int,
) -> list[list[socket.socket]]:
    by_slot: list[list[socket.socket]] = [[] for _ in range(slots)]
    for family, (host, _, *rest) in addresses:
        for sockets in by_slot:
            listener = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            first = sockets is by_slot[0]
            _listen(listener, (host, port, *rest), backlog, first=first)
            if first and slots > 1:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port = listener.getsockname()[1]
            sockets.append(listener)
    return by_slot


def _listen(
    listener: socket.socket, address: tuple[object, ...], backlog: int, *, first: bool
) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not first:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind(address)
        if backlog:
            listener.listen(backlog)
    except (OSError, OverflowError) as error:
        raise _explain(error, str(address[0]), address[1]) from error
    listener.setblocking(False)


def _explain(error: OSError | OverflowError, host: str, port: object) -> ConfigError | PortInUse:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return PortInUse(
            f"Port {port} on {host} is in use{port_owner.describe(int(str(port)))}. Stop that process"
            " or choose another port with --port (0 picks a free one)."
        )
    if code == errno.EACCES:
        return ConfigError(
            f"This user may not listen on port {port} of {host}: ports below 1024 need root or the"
            " capability CAP_NET_BIND_SERVICE. Choose a higher one with --port."
        )
    if code == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"{host} is no address of this machine. Use 127.0.0.1 for local clients only, 0.0.0.0 for"
            " every IPv4 address, :: for every address."
        )
    return ConfigError(f"Cannot listen on port {port} of {host}: {error}.")


def _remove_stale(path: Path) -> None:
    """Make room at the path, unless something is there that is not ours to remove."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"Cannot look at the Unix socket {path}: {error.strerror}.") from error
    if not is_socket:
        raise ConfigError(f"{path} exists and is no socket; choose another --unix-socket.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            # A server that was killed leaves its file behind; nobody listens on it.
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # A full queue or missing permission: somebody may well be listening.
            raise PortInUse(
                f"The Unix socket {path} seems to be in use ({error}). Stop its server or remove it."
            ) from error
    raise PortInUse(
        f"Another process listens on the Unix socket {path}. Stop it or choose another."
    )


def _unlink(listener: socket.socket) -> None:
    """Take a Unix socket's name away. Whoever else removed it did our work."""
    Path(listener.getsockname()).unlink(missing_ok=True)
