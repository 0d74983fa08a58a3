"""The connections that wait to be accepted: never more of them than are accepted within LONGEST_S.

A handshake is finished by the kernel, whether or not the worker has time for the connection. It waits
in the queue of the listener, up to `--backlog` of them, in the order of arrival, and in an overload that
queue is where the time goes: libuv accepts one connection a round of the loop. *Measured* (a connection
per request, twice what one worker serves): the 4096 places are taken within half a second, everybody
waits longer than clients do, and the worker accepts, reads, logs and answers for clients that have left.
Of 20,000 requests a second 10,000 were answered within their second at first, and none after three.

So who waits already past what can be accepted in LONGEST_S is sent away with a 503, the oldest first: the
longest wait is the likeliest to be in vain, and who came last has the best chances. That takes 30 µs
each, where a request takes 100 and more, so there is a bound to it, AWAY_PER_ACCEPTED, a sixteenth of the
time (*measured*: with a seventh, 5 % fewer are served): the queue's length is set to no more (it is an
argument of listen(), which may be called again at any time). Past that the kernel drops handshakes, which
costs this process nothing, and the client's kernel repeats them a second later without being asked. Without
that bound the worker would say no to everybody and yes to nobody; without the 503 those who repeat would be
answered, late.

When is a queue too long? A burst fills it, too, and so does a pause of the whole machine, and both are
best answered by serving on. So, as CoDel has it (RFC 8289), what counts is a queue that *stands*: one that
was there at two looks, a quarter of a second apart. Between those the worker had always somebody to
accept, so what it accepted is what it can. If the clock stood still in between, nothing was learned.

Between two looks thousands can come: the 4096 places are taken, and to say no to all of them took the first
two seconds of an overload on a slow machine. So there are glances, too, at every GLANCE_EVERY accepted
connections. Three of them, GLANCE_S apart, tell twice how many are accepted within LONGEST_S, and the
greater counts: a pause of the machine falls into one interval. If more wait already, no more are let in,
and whoever comes now tries again a second later. Nobody is sent away for that: the looks decide who is, and
they let a queue grow again that was cut too short. A glance that could cut down to SHORTEST held up clients
of a healthy server: a thousand that come again at once fill and empty the queue within one interval.

*Measured* with `scripts/overload --workload ad --slowed 6`, answered in time in the first second of five
times the peak: 390, 520 and 380 without glances, 1,980, 1,960 and 1,400 with them, of 1,500 to 2,700.

Each look that finds less than half doubles the length of a queue that does not stand, until it is as
configured.

While a queue is cut, connections whose clients have closed by the time they are accepted are not
served any more (`has_left`): a dropped handshake that is repeated after a second gets through just when
its client gives up. (A client that only closed its sending half is taken for one of those.)

What a queue holds is in TCP_INFO of the listener, where `unacked` and `sacked` have another meaning. A
Unix socket has no such thing: it is left alone. So is any queue that several workers share (a service
manager's sockets, where there are fewer than slots): each knows only how many it has accepted itself.

Must not know: HTTP, which worker it is, when it is called.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence

LONGEST_S = 0.4
# No queue is made shorter, and no shorter one is looked at: a handful of clients is no overload, whatever
# the machine is busy with. With 128 a slow machine in an overload, which accepts 150 a second, served mostly
# clients that gave up meanwhile.
SHORTEST = 64
# How many are sent away for each that is accepted, at most, but for the first of an overload.
AWAY_PER_ACCEPTED = 0.2
# Two looks or glances that are further apart than this say nothing about each other.
LOOKS_APART_S = 1.0
# At every so manieth accepted connection there is a glance; those that decide are so far apart at least.
GLANCE_EVERY = 16
GLANCE_S = 0.05
# None makes a queue shorter than this part of what is configured: it knows too little.
GLANCE_LEAVES = 4
# Linux's.
_MORE = getattr(socket, "MSG_MORE", 0)

_CLOSE_WAIT = 8
_INFO_BYTES = 32
_UNACKED = struct.Struct("=24xI4x")


class AcceptQueue:
    """The queues of one worker's listeners."""

    def __init__(self, listeners: Sequence[socket.socket], backlog: int) -> None:
        self._listeners = [one for one in listeners if one.family != socket.AF_UNIX]
        self._backlog = backlog
        self._length = backlog
        self._looked_at = 0.0
        self._accepted = 0
        self._stands = False
        # The glance since which the queue is long, and how many were accepted by then.
        self._glanced_at = 0.0
        self._accepted_then = 0
        # How many a second were accepted between the last two, if that is known.
        self._per_s: float | None = None

    def look(self, now: float, accepted: int) -> int:
        """About four times a second; `accepted` are all so far. How many connections are to be sent away."""
        waiting = self.waiting()
        apart_s, more = now - self._looked_at, accepted - self._accepted
        self._looked_at, self._accepted = now, accepted
        stood, self._stands = self._stands, waiting > SHORTEST
        if not self._stands or not stood or not 0 < apart_s < LOOKS_APART_S:
            if self._length < self._backlog and waiting < self._length // 2:
                self._set_length(min(2 * self._length, self._backlog))
            return 0
        longest = max(SHORTEST, int(more / apart_s * LONGEST_S))
        length = min(longest + int(more * AWAY_PER_ACCEPTED), self._backlog)
        # A queue that was cut too short, by a glance or in slower times, stands as well: at its own length.
        if waiting > longest or length > self._length:
            self._set_length(length)
        return max(0, waiting - longest)

    def glance(self, now: float, accepted: int) -> None:
        """At every GLANCE_EVERY accepted: a queue too long for what is accepted gets no longer."""
        if self.is_cut:
            return
        if (waiting := self.waiting()) <= SHORTEST:
            self._glanced_at, self._per_s = 0.0, None
            return
        apart_s, more = now - self._glanced_at, accepted - self._accepted_then
        if 0 < apart_s < GLANCE_S:
            return
        known = GLANCE_S <= apart_s < LOOKS_APART_S
        before, self._per_s = self._per_s, more / apart_s if known else None
        self._glanced_at, self._accepted_then = now, accepted
        if before is None or self._per_s is None:
            return
        longest = max(self._backlog // GLANCE_LEAVES, int(max(before, self._per_s) * LONGEST_S))
        if waiting > longest:
            self._set_length(min(longest, self._backlog))

    @property
    def is_cut(self) -> bool:
        return self._length < self._backlog

    def waiting(self) -> int:
        return sum(
            _UNACKED.unpack(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES))[0]
            for one in self._listeners
        )

    def send_away(
        self,
        number: int,
        answer: bytes,
        vital: tuple[bytes, ...],
        serve: Callable[[socket.socket], None],
    ) -> int:
        """Take so many of those who wait longest, and answer them; how many were sent away.

        Those whose request begins in a vital way are served instead: who sends others here wants to know
        whether to go on doing so.
        """
        taken = sent = 0
        for listener in self._listeners:
            while taken < number:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    # Nobody waits any more, or there are no descriptors left.
                    break
                taken += 1
                connection.setblocking(False)
                if _peek(connection).startswith(vital):
                    serve(connection)
                    continue
                sent += 1
                with connection, contextlib.suppress(OSError):
                    # What is not read when the socket is closed makes a reset of it, which may overtake
                    # the answer. A client that has sent nothing yet, or more, may see one.
                    with contextlib.suppress(BlockingIOError):
                        connection.recv(65536)
                    # Held back for the close, to leave in one segment with it: 26 µs each, not 32.
                    connection.send(answer, _MORE)
        return sent

    def leave(self) -> None:
        """The queues are somebody else's from now on: as configured, and not touched again."""
        if self._length != self._backlog:
            self._set_length(self._backlog)
        self._listeners = []

    def _set_length(self, length: int) -> None:
        self._glanced_at, self._per_s = 0.0, None
        self._length = length
        for listener in self._listeners:
            listener.listen(length)


def _peek(connection: socket.socket) -> bytes:
    try:
        return connection.recv(64, socket.MSG_PEEK)
    except OSError:
        return b""


def has_left(transport: asyncio.BaseTransport) -> bool:
    """Whether nothing more will come from this client than what is here already."""
    connection: socket.socket = transport.get_extra_info("socket")
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE_WAIT
