"""One HTTP/1.1 connection of a client that believes nothing: for each question one complete answer.

Several questions may be sent at once (pipelining); their answers come in the same order.

A protocol and not a stream: what comes without having been asked for, or after the end of an answer, is
noticed. Answers of this server have a Content-Length or are a 204 without a body; anything else is wrong
here, where a library would be lenient.

Must not know: what is asked.
"""

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")
_LENGTH = re.compile(rb"^content-length: *(\d+) *\r$", re.IGNORECASE | re.MULTILINE)
_CLOSE = re.compile(rb"^connection: *close *\r$", re.IGNORECASE | re.MULTILINE)
_HEAD_LIMIT = 8192


class Answer(NamedTuple):
    status: int
    body: bytes
    closing: bool


class Cut(Exception):
    """The connection ended before the answer was complete."""


class Left(Exception):
    """An earlier answer has said that it is the last one: this question may be asked elsewhere."""


class WrongAnswer(Exception):
    """What came is no answer of this server, or more than one."""


class Exchange(asyncio.Protocol):
    """A connection. `open` says whether the next question may be sent on it."""

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._waiting: deque[asyncio.Future[Answer]] = deque()
        self._unasked = False

    @classmethod
    async def connect(cls, port: int) -> "Exchange":
        loop = asyncio.get_running_loop()
        _, exchange = await loop.create_connection(cls, "127.0.0.1", port)
        return exchange

    def ask(self, questions: Sequence[bytes]) -> "list[asyncio.Future[Answer]]":
        """Send them in one piece. The futures raise Cut, Left or WrongAnswer."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        asked = [loop.create_future() for _ in questions]
        self._waiting += asked
        if self._unasked:
            self._end(WrongAnswer("bytes that nobody asked for"))
        elif not self.open:
            self._end(Cut("closed"))
        else:
            self._transport.write(b"".join(questions))
        return asked

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.close()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.open = True

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._received:
            if not self._waiting:
                self._unasked = True
                return
            try:
                answer = self._take()
            except WrongAnswer as error:
                self._end(error)
                return
            if answer is None:
                return
            self._answer(self._waiting.popleft(), answer)
            if answer.closing:
                self.open = False
                self._end(Left())

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self._end(Cut(str(error or "closed")))

    def _answer(self, future: "asyncio.Future[Answer]", answer: Answer) -> None:
        # One that waited too long has been given up.
        if not future.done():
            future.set_result(answer)

    def _end(self, error: Exception) -> None:
        self.open = False
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)

    def _take(self) -> Answer | None:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if len(self._received) > _HEAD_LIMIT:
                raise WrongAnswer("a head without end")
            return None
        head = _HEAD.match(self._received)
        if head is None:
            raise WrongAnswer(f"not HTTP: {bytes(self._received[:100])!r}")
        length = _LENGTH.search(head[2])
        status = int(head[1])
        if length is None and status != 204:
            raise WrongAnswer(f"{status} without a length")
        whole = head.end() + (int(length[1]) if length else 0)
        if len(self._received) < whole:
            return None
        body = bytes(self._received[head.end() : whole])
        answer = Answer(status, body, _CLOSE.search(head[2]) is not None)
        del self._received[:whole]
        return answer
