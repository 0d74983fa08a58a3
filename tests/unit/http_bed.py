"""A test bed for the protocol without sockets: a transport that remembers, a loop of one list.

`Bed` is a worker's HTTP side with a fake clock, `Client` one connection to it. What the client reads is
taken apart by a parser of this file, which shares nothing with the code under test.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from operator import itemgetter
from typing import Any, Final

from prefork_ads.http.hub import Hub
from prefork_ads.http.limits import Limits
from prefork_ads.http.message import Answers, Handler, Request
from prefork_ads.http.outbox import Outbox, Safety
from prefork_ads.http.protocol import Connection

PEER: Final = ("192.0.2.1", 50000)
LIMITS: Final = Limits()
VITAL: Final = frozenset({b"/vital"})


class MemoryTransport(asyncio.Transport):
    """Keeps what is written; ends as uvloop's does, with connection_lost in a later tick."""

    def __init__(self, peer: object = PEER) -> None:
        super().__init__()
        self._peer = peer
        self.written = bytearray()
        self.reading = True
        self.eof_written = False
        self.closing = False
        self.aborted = False
        # What the client has not read of it, when a test wants that to count.
        self.unread = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._peer if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.eof_written, "write after write_eof"
        if not self.closing:
            self.written += data

    def write_eof(self) -> None:
        self.eof_written = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.unread


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as a client sees it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def connection(self) -> str | None:
        return self.headers.get("connection")


def read_answers(wire: bytes, methods: Iterable[str] = ()) -> list[Answer]:
    """Take a stream of answers apart. `methods` are those of the requests; GET if there are no more."""
    waiting = iter(methods)
    answers = []
    while wire:
        head, separator, rest = wire.partition(b"\r\n\r\n")
        assert separator, f"half an answer: {wire!r}"
        start, *lines = head.decode("ascii").split("\r\n")
        version, status, _ = start.split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} comes twice"
            headers[name.lower()] = value
        number = int(status)
        method = "" if number < 200 else next(waiting, "GET")
        may_have_body = number >= 200 and number not in (204, 304)
        has_body = may_have_body and method != "HEAD"
        assert ("content-length" in headers) == may_have_body
        length = int(headers["content-length"]) if has_body else 0
        assert len(rest) >= length, "half a body"
        answers.append(Answer(number, headers, rest[:length]))
        wire = rest[length:]
    return answers


class Client:
    """One connection to the bed."""

    def __init__(self, bed: "Bed", peer: object = PEER) -> None:
        self.bed = bed
        self.transport = MemoryTransport(peer)
        self.connection = Connection(bed.hub)
        self.lost = False
        # Sent, and not read yet.
        self.inbox: deque[bytes] = deque()
        self.connection.connection_made(self.transport)

    def send(self, *pieces: bytes) -> "Client":
        """Send pieces, each to be read in a tick of its own, as soon as the connection reads."""
        self.inbox.extend(piece for piece in pieces if piece)
        self.bed.tick()
        return self

    def receive(self) -> bool:
        """Let the connection read one piece; False when it does not or there is none."""
        if not self.inbox or not self.transport.reading or self.transport.closing:
            return False
        self.connection.data_received(self.inbox.popleft())
        return True

    def send_eof(self) -> None:
        if not self.connection.eof_received():
            self.transport.close()
        self.bed.tick()

    def lose(self) -> None:
        """The other end is gone."""
        self.lost = True
        self.connection.connection_lost(None)

    @property
    def wire(self) -> bytes:
        return bytes(self.transport.written)

    def answers(self, *methods: str) -> list[Answer]:
        return read_answers(self.wire, methods)

    def statuses(self, *methods: str) -> list[int]:
        return [answer.status for answer in self.answers(*methods)]

    @property
    def ended(self) -> bool:
        """We have said the last word."""
        return self.transport.eof_written or self.transport.closing


@dataclass
class Bed:
    """A hub, its clock and its loop."""

    handler: Handler | None = None
    limits: Limits = LIMITS
    safety: Safety | None = None
    # What was handed to the handler, in order.
    requests: list[Request] = field(default_factory=list)
    # Requests to /later, which are answered when a test says so.
    later: list[Request] = field(default_factory=list)
    failures: list[tuple[str, Exception]] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    time: float = 1000.0

    def __post_init__(self) -> None:
        self._soon: list[Callable[[], None]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.stopwatch_s = 0.0
        self.answers = Answers(lambda: 1_700_000_000.0)
        self.hub = Hub(
            self._handle,
            self.answers,
            Outbox(self._soon.append, self.safety),
            self.limits,
            lambda what, error: self.failures.append((what, error)),
            self.refusals.append,
            self._soon.append,
            self._call_later,
            VITAL,
            stopwatch=lambda: self.stopwatch_s,
        )
        self.hub.sweep(self.time)
        self._clients: list[Client] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        """As the loop's."""
        self._soon.append(callback)

    def _call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """As the loop's, by the stopwatch of sweeps, which nothing else goes by."""
        self.timers.append((self.stopwatch_s + seconds, callback))

    def next_timer(self) -> None:
        """The time has come for the first of them."""
        self.timers.sort(key=itemgetter(0))
        self.stopwatch_s, callback = self.timers.pop(0)
        self._soon.append(callback)

    def connect(self, peer: object = PEER) -> Client:
        client = Client(self, peer)
        self._clients.append(client)
        return client

    def tick(self) -> None:
        """Let connections read and run what they schedule, until nothing moves any more."""
        moving = True
        while moving:
            moving = sum(client.receive() for client in self._clients) > 0
            while self._soon or self.timers:
                if not self._soon:
                    self.next_timer()
                scheduled, self._soon[:] = self._soon[:], []
                for callback in scheduled:
                    callback()
        for client in self._clients:
            if client.transport.closing and not client.lost:
                client.lose()

    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        self.hub.sweep(self.time)
        self.tick()

    def _handle(self, request: Request) -> bytes | None:
        self.requests.append(request)
        if self.handler is not None:
            return self.handler(request)
        if request.path == b"/later":
            self.later.append(request)
            return None
        return echo(self.answers, request)


def echo(answers: Answers, request: Request) -> bytes:
    """An answer that says which request it answers."""
    body = b" ".join((request.method, request.path, request.query, request.body))
    return answers.full(200, body, b"text/plain")


def limits(**changes: Any) -> Limits:
    return replace(LIMITS, **changes)


def every_split(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The data in two pieces, cut at each position."""
    for at in range(1, len(data)):
        yield data[:at], data[at:]


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The data cut at these places (any integers; the same place twice gives no empty piece)."""
    edges = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(edges)]
