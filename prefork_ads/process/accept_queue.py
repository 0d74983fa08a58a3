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

Then each look that finds less than half doubles the length, until it is as configured.

While a queue is cut, connections whose clients have closed by the time they are accepted are not
served any more (`has_left`): a dropped handshake that is repeated after a second gets through just when
its client gives up. (A client that only closed its sending half is taken for one of those.)

What a queue holds is in TCP_INFO of the listener, where `unacked` and `sacked` have another meaning. A
Unix socket has no such thing, and its queue is shared by all workers: it is left alone.

Must not know: HTTP, which worker it is, when it is called.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence

LONGEST_S = 0.4
# No queue is made shorter, and no shorter one is looked at: a handful of clients is no overload, whatever
# the machine is busy with.
SHORTEST = 128
# How many are sent away for each that is accepted, at most, but for the first of an overload.
AWAY_PER_ACCEPTED = 0.2
# Two looks that are further apart than this say nothing about each other.
LOOKS_APART_S = 1.0
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
        if waiting <= longest:
            return 0
        self._set_length(min(longest + int(more * AWAY_PER_ACCEPTED), self._backlog))
        return waiting - longest

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
        """Answer so many of those who wait longest; how many it were.

        Those whose request begins in a vital way are served instead: who sends others here wants to know
        whether to go on doing so.
        """
        sent = 0
        for listener in self._listeners:
            while sent < number:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    # Nobody waits any more, or there are no descriptors left.
                    break
                sent += 1
                connection.setblocking(False)
                if _peek(connection).startswith(vital):
                    serve(connection)
                    continue
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
