"""The truth of the clients: one line of JSON for each request, on disk and never in memory.

    {"run": "k3f9…", "seed": 7, "began_s": 81234.5, "began_at": "2026-11-22T10:50:03+00:00"}
    [17, "log", "keep", 0.731242, 0.002113, "204"]
    [18, "impression", "visit", 0.733904, 0.000911, "200", "019a…"]
    {"gap": "log", "from_s": 2.25, "to_s": 2.74}

A request is number, endpoint, kind of connection, seconds since `began_s` (CLOCK_MONOTONIC, which all
processes of a machine share) at which it was sent, seconds until it was answered or given up, and the
outcome; behind it, for a visit, the decision and in the decision's own line the campaign. `200`, `204` and
`302` are complete answers: that event is acknowledged. A gap is a time of more than
`GAP_S` in which no request to an endpoint was answered with success.

Numbers are given once in a run and no request is ever repeated, so a number that is stored twice was
counted twice.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

GAP_S = 0.1

SUCCESSES = frozenset({"200", "204", "302"})
REFUSED = "refused"  # no connection came about; nothing was sent
CUT = "cut"  # sent, and the connection ended before the answer was complete
TIMEOUT = "timeout"  # sent, and no complete answer came for a long time
LEFT = (
    "left"  # pipelined behind a request whose answer closed the connection: the client's to repeat
)
WRONG = "wrong"  # an answer, but not to this question, or not HTTP


class Request(NamedTuple):
    number: int
    endpoint: str
    connection: str
    sent_s: float
    took_s: float
    outcome: str
    decision: str = ""
    campaign: str = ""

    @property
    def acknowledged(self) -> bool:
        return self.outcome in SUCCESSES

    @property
    def ended_s(self) -> float:
        return self.sent_s + self.took_s


class Gap(NamedTuple):
    endpoint: str
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class Header:
    run: str
    seed: int
    began_s: float
    began_at: str


class TruthWriter:
    """Appends; `flush` hands it to the kernel."""

    def __init__(self, path: Path, header: Header) -> None:
        self._file = path.open("w", encoding="ascii")
        self._began_s = header.began_s
        content = {
            "run": header.run,
            "seed": header.seed,
            "began_s": header.began_s,
            "began_at": header.began_at,
        }
        self._file.write(json.dumps(content) + "\n")
        self._file.flush()

    def request(
        self,
        number: int,
        endpoint: str,
        connection: str,
        sent_s: float,
        took_s: float,
        outcome: str,
        *subject: str,
    ) -> None:
        # By hand: half of the time of json.dumps, and all words are our own.
        sent_s -= self._began_s
        behind = "".join(f', "{word}"' for word in subject)
        self._file.write(
            f'[{number}, "{endpoint}", "{connection}", {sent_s:.6f}, {took_s:.6f}, "{outcome}"{behind}]\n'
        )

    def gap(self, endpoint: str, from_s: float, to_s: float) -> None:
        from_s, to_s = from_s - self._began_s, to_s - self._began_s
        content = {"gap": endpoint, "from_s": round(from_s, 6), "to_s": round(to_s, 6)}
        self._file.write(json.dumps(content) + "\n")

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Truth:
    """What was written; read as often as one likes, one line at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open(encoding="ascii") as file:
            self.header = Header(**json.loads(file.readline()))

    def requests(self) -> Iterator[Request]:
        return (Request(*entry) for entry in self._entries() if isinstance(entry, list))

    def failures(self) -> Iterator[Request]:
        return (request for request in self.requests() if not request.acknowledged)

    def gaps(self) -> Iterator[Gap]:
        for entry in self._entries():
            if isinstance(entry, dict):
                yield Gap(entry["gap"], entry["from_s"], entry["to_s"])

    def _entries(self) -> Iterator[object]:
        with self.path.open(encoding="ascii") as file:
            file.readline()
            yield from _complete_lines(file)


def _complete_lines(file: IO[str]) -> Iterator[object]:
    for line in file:
        # A client process that was killed leaves half a line, whose request nobody was told about.
        if line.endswith("\n"):
            yield json.loads(line)
