"""A crowd: clients that take places and give nothing, while others want to be served.

Half of them send the header of a request byte by byte and never its end, half ask once and stay. Whoever is
sent away comes again. All of them are one process with one epoll that runs when nobody else wants its core
(SCHED_IDLE): it shares that with the load, whose clock must not see it.

A process may have 20,000 descriptors on many machines, and so may a worker: `gathered` refuses a crowd that
has no room.

Must not know: what the others ask, what the figures mean.
"""

import contextlib
import multiprocessing
import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from overloadlib.errors import OverloadError
from overloadlib.processes import leave_signals_to_parent, start

# A slow one sends a byte so often; its time for a header ends before the header does.
BYTE_EVERY_S = 2.0
# People do not act in step, and a burst of thousands would be a measurement of its own: so many come in a
# second at most (who comes together is also sent away together, again and again), and so many send at once.
COME_PER_S = 1200.0
# The slow half of a process' clients is sent away after ten seconds, and must be able to come again in these.
MOST_A_PROCESS = 20_000
TOGETHER = 32
PAUSE_S = 0.001
GATHER_LIMIT_S = 120.0

_BEGINNING = b"GET /log HTTP/1.1\r\nHost: overload.example\r\nX-Slow: "
_WHOLE = b"GET /log?idle=1 HTTP/1.1\r\nHost: overload.example\r\n\r\n"
_READ_BYTES = 4096
# From one address to another there are 28,000 ports, of which those just left are not free for a while.
# *Measured*: beside 19,000 connections, and 600 a second that come and go, the kernel took 1 ms to find
# one, and the crowd melted away. So it comes from many; all of 127.0.0.0/8 is this machine.
_LOOPBACK = "127."
_SOURCES = 32
# IP_BIND_ADDRESS_NO_PORT of ip(7): the port is chosen when it is known where to. Python names it since 3.12.
_BIND_WITHOUT_PORT = 24


@dataclass(frozen=True, slots=True)
class Presence:
    """What became of a crowd while others were served."""

    least: int
    """Connections that were open at once, at least."""
    sent_away: int
    """How often one was sent away. They come again."""


class _Crowd:
    """One process' clients."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self._address = address
        self._epoll = select.epoll()
        self._open: dict[int, tuple[socket.socket, bool]] = {}
        # Whether each of those that are not there is a slow one.
        self._absent = deque(place % 2 == 0 for place in range(number))
        self._bytes_due: deque[tuple[float, socket.socket]] = deque()
        self._sent_away = 0
        self._came = 0
        self._may_come_at = time.monotonic()

    def gather(self, until: float) -> bool:
        """Until everybody is there; False: not within the time."""
        while self._absent:
            if time.monotonic() > until:
                return False
            self._step()
        return True

    def stay(self, pipe: "Connection[Presence | str, str]") -> Presence:
        """Until told to go. Those sent away come again."""
        least, before = len(self._open), self._sent_away
        while not pipe.poll():
            self._step()
            least = min(least, len(self._open))
        return Presence(least, self._sent_away - before)

    def _step(self) -> None:
        now = time.monotonic()
        self._may_come_at = max(self._may_come_at, now - TOGETHER / COME_PER_S)
        while self._absent and self._may_come_at <= now:
            self._may_come_at += 1 / COME_PER_S
            self._come(slow=self._absent.popleft())
        self._send_bytes()
        for file, _ in self._epoll.poll(PAUSE_S):
            self._read(file)

    def _come(self, *, slow: bool) -> None:
        try:
            connection = socket.socket()
        except OSError as error:
            raise OverloadError(f"the crowd cannot come: {error}") from None
        try:
            if self._address[0].startswith(_LOOPBACK):
                self._come_from(connection)
            connection.connect(self._address)
            connection.setblocking(False)
            connection.send(_BEGINNING if slow else _WHOLE)
        except OSError as error:
            connection.close()
            raise OverloadError(f"the crowd cannot come: {error}") from None
        self._open[connection.fileno()] = connection, slow
        self._epoll.register(connection.fileno(), select.EPOLLIN)
        if slow:
            self._bytes_due.append((time.monotonic() + BYTE_EVERY_S, connection))

    def _come_from(self, connection: socket.socket) -> None:
        self._came += 1
        connection.setsockopt(socket.IPPROTO_IP, _BIND_WITHOUT_PORT, 1)
        connection.bind((f"{_LOOPBACK}0.0.{self._came % _SOURCES + 2}", 0))

    def _send_bytes(self) -> None:
        now = time.monotonic()
        for _ in range(TOGETHER):
            if not self._bytes_due or self._bytes_due[0][0] > now:
                break
            _, connection = self._bytes_due.popleft()
            if connection.fileno() < 0:
                continue
            # Whoever was sent away hears of it by reading.
            with contextlib.suppress(OSError):
                connection.send(b"a")
            self._bytes_due.append((now + BYTE_EVERY_S, connection))

    def _read(self, file: int) -> None:
        connection, slow = self._open[file]
        try:
            stays = bool(connection.recv(_READ_BYTES)) and not slow
        except OSError:
            stays = False
        if not stays:
            del self._open[file]
            connection.close()
            self._absent.append(slow)
            self._sent_away += 1


@contextlib.contextmanager
def gathered(
    address: tuple[str, int], number: int, cores: Sequence[int], most: int
) -> Iterator[list[Presence]]:
    """A crowd of so many, all of them there; on leaving, what became of it is in the list.

    `most` is what one process may open. Raises OverloadError.
    """
    most = min(most, MOST_A_PROCESS)
    sizes = [min(most, number - start) for start in range(0, number, most)]
    context = multiprocessing.get_context("fork")
    pipes: list[Connection[str, Presence | str]] = []
    found: list[Presence] = []
    with contextlib.ExitStack() as running:
        for size in sizes:
            ours, theirs = context.Pipe()
            pipes.append(ours)
            start(context.Process(target=_work, args=(address, size, cores, theirs)), running)
            # Whoever dies is heard of: nobody else has the other end.
            theirs.close()
        for pipe in pipes:
            if problem := _heard(pipe):
                raise OverloadError(str(problem))
        yield found
        for pipe in pipes:
            with contextlib.suppress(BrokenPipeError):
                pipe.send("go")
        for pipe in pipes:
            seen = _heard(pipe)
            if not isinstance(seen, Presence):
                raise OverloadError(seen)
            found.append(seen)


def _heard(pipe: "Connection[str, Presence | str]") -> Presence | str:
    try:
        return pipe.recv()
    except EOFError:
        return "a process of the crowd has died"


def _work(
    address: tuple[str, int],
    number: int,
    cores: Sequence[int],
    pipe: "Connection[Presence | str, str]",
) -> None:
    leave_signals_to_parent()
    os.sched_setaffinity(0, set(cores))
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        # A sandbox may forbid it.
        os.nice(19)
    crowd = _Crowd(address, number)
    try:
        there = crowd.gather(time.monotonic() + GATHER_LIMIT_S)
        pipe.send("" if there else f"the crowd was not complete after {GATHER_LIMIT_S:g} s")
        if there:
            pipe.send(crowd.stay(pipe))
    except OverloadError as error:
        pipe.send(str(error))
