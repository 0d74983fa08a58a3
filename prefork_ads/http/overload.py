"""More requests on open connections than this worker can answer: which of them to send away, and how.

A worker's loop goes round: all that is readable is read and handled, then all answers are written. What
becomes readable in the meantime waits for the next round, so the length of a round is what a request
waits, and it grows with the number of clients that want something. Past a second or so they give up and
come again, and the server works for nobody.

So a round serves for SERVE_S, and what is left of it is shed: answered with a constant 503 and
`Retry-After`, before anything is logged or looked up, and the connection closed, so that there are fewer
in the next round. The vital paths (health, metrics) are still answered.

Why the connection goes, too: reading a request and answering 503 takes a third of answering it
(*measured*: 10 of 30 µs). With five times the requests that can be served, a server that says no to each
of the rest has no time left to say yes. The next attempt of that client has to go through the queue of new
connections, which is kept short elsewhere, by dropping in the kernel, which costs no time here.

Why time and not a count of requests: what a request costs differs by a factor of ten (a pixel, 64 KiB of
JSON), and the machine may be busy with something else. Why not CoDel, adaptive LIFO or a token bucket:
they decide what to drop from a queue in the process, and here is none: a request is handled as soon as
it is read.

What a request needs may be full, too, while the loop has time: the line in front of PostgreSQL. While that
is so, the requests that need it are shed, and the others are not. Their connections stay: *measured*, a 503
on one that stays takes 15 µs, a connection of its own for each request 100, and who is dropped in the kernel
to save that may have come for something else.

A round of few requests is never overload, however long it took: somebody else had the processor. So a
busy machine sheds nothing.

Must not know: transports, listening sockets, what an endpoint does.
"""

import time
from collections.abc import Callable, Mapping
from typing import Protocol, cast

from prefork_ads.http.message import Answers, Handler, Request

SERVE_S = 0.1
# Rounds with fewer answers are not looked at; and so often is the clock read in one with more.
FEW = 128


class Shared(Protocol):
    """What of the hub this needs."""

    handler: Handler
    answers: Answers
    vital: frozenset[bytes]


class Guest(Protocol):
    """A connection, as it is needed here."""

    def send_away(self, request: Request) -> None:
        """The answer to this request is the connection's last."""


class Overload:
    """Watches the rounds of one worker's loop; the outbox tells when one begins, grows and ends."""

    __slots__ = ("_began", "_clock", "_full", "_hub", "_normal", "_on_shed", "_plain", "look_at")

    def __init__(
        self,
        hub: Shared,
        *,
        on_shed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._plain = self._normal = hub.handler
        self._full: Mapping[bytes, Callable[[Request], bool]] = {}
        self._on_shed = on_shed
        self._clock = clock
        self._began = 0.0
        # How many answers wait when the outbox is to call `look`.
        self.look_at = FEW

    def begin(self, waiting: int) -> None:
        """The first answer of a round; answers of earlier ones may wait, too."""
        self._began = self._clock()
        self.look_at = waiting + FEW

    def look(self) -> None:
        """The round has grown by FEW answers."""
        self.look_at += FEW
        if self._clock() - self._began > SERVE_S:
            self._hub.handler = self._shed

    def end(self) -> None:
        """The round is over."""
        self._hub.handler = self._normal

    def guard(self, full: Mapping[bytes, Callable[[Request], bool]]) -> None:
        """From now on, requests for these paths are shed if what they need is full."""
        if full != self._full:
            self._full = full
            self._normal = self._guarded if full else self._plain
            self._hub.handler = self._normal

    def _guarded(self, request: Request) -> bytes | None:
        full = self._full.get(request.path)
        if full is None or not full(request):
            return self._plain(request)
        # The connection may stay: the next one on it may be for something else.
        self._on_shed()
        return self._hub.answers.busy

    def _shed(self, request: Request) -> bytes | None:
        if request.path in self._hub.vital:
            return self._normal(request)
        self._on_shed()
        cast(Guest, request.connection).send_away(request)
        return self._hub.answers.busy
