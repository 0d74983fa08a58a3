"""HTTP spoken byte by byte over real sockets, and what a server says about itself.

Nothing here parses or encodes with the code under test.
"""

import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from prometheus_client.parser import text_string_to_metric_families

from tests.unit.http_bed import Answer, read_answers

ANSWER_LIMIT_S: Final = 30.0


def message(
    target: str | bytes, *headers: bytes, method: bytes = b"GET", body: bytes | None = None
) -> bytes:
    """One request, with the headers as they are to be sent."""
    raw = target.encode() if isinstance(target, str) else target
    length = () if body is None else (b"Content-Length: %d" % len(body),)
    lines = (b"%b %b HTTP/1.1" % (method, raw), b"Host: a.example", *headers, *length, b"", b"")
    return b"\r\n".join(lines) + (body or b"")


class Line:
    """One connection; what is sent leaves at once, in a segment of its own."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), ANSWER_LIMIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_eof(self) -> None:
        """Nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def answers(self, count: int) -> list[Answer]:
        """The next answers, and no byte more than these."""
        while (end := _end_of(self._read, count)) is None:
            data = self._socket.recv(65536)
            assert data, f"closed after {self._read!r}"
            self._read += data
        wire, self._read = self._read[:end], self._read[end:]
        return read_answers(wire)

    def ask(self, data: bytes) -> Answer:
        self.send(data)
        [answer] = self.answers(1)
        return answer

    def rest(self) -> bytes:
        """Everything until the server closes."""
        data = self._read + b"".join(iter(lambda: self._socket.recv(65536), b""))
        self._read = b""
        return data


def _end_of(wire: bytes, count: int) -> int | None:
    """Where this many answers end; None while they are not complete."""
    end = 0
    for _ in range(count):
        head_end = wire.find(b"\r\n\r\n", end)
        if head_end < 0:
            return None
        length = 0
        for line in wire[end:head_end].split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        end = head_end + 4 + length
        if len(wire) < end:
            return None
    return end


def ask(port: int, data: bytes) -> Answer:
    """The answer to one request on a connection of its own."""
    with Line(port) as line:
        return line.ask(data)


Sample = tuple[str, Mapping[str, str], float]


class Metrics:
    """What /metrics said."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __call__(self, name: str, **labels: str) -> int:
        """The sum of the series with these labels."""
        found = [
            value
            for metric, theirs, value in self.samples
            if metric == f"prefork_ads_{name}" and labels.items() <= theirs.items()
        ]
        assert found, f"no series {name} {labels}"
        return int(sum(found))


def scrape(port: int) -> Metrics:
    text = ask(port, message("/metrics")).body.decode()
    return Metrics(
        [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
    )
