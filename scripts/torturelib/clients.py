"""The clients of a run, as a program of their own: `python -m torturelib.clients SETTINGS`.

They ask at a moderate, even rate and write down what they were answered, before they ask again. What
they log can be checked afterwards by PostgreSQL alone: a number, a text of awkward characters and its
checksum. They end when their standard input does, and so also with the bed; requests on their way are
waited for.

There are four kinds of connection: one for each request, one that is kept, one that is kept and gets
several requests at once, of /log and /ad by turns, whose answers the server has to bring into order, and one
of a visitor, see `visitors`. Of the first two kinds half ask /log and half /ad.

Twice a second they write to `pulse` how many requests of each endpoint succeeded and failed since the last
time: the bed's way to see that all is well again.
"""

import asyncio
import hashlib
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from torturelib import visitors
from torturelib.exchange import Answer, Cut, Exchange, Left, WrongAnswer
from torturelib.truth import (
    CUT,
    GAP_S,
    LEFT,
    REFUSED,
    SUCCESSES,
    TIMEOUT,
    WRONG,
    Header,
    TruthWriter,
)

ANSWER_LIMIT_S = 40.0
CONNECT_LIMIT_S = 10.0
REFUSED_PAUSE_S = 0.02
PULSE_S = 0.5
NOTES = 500
PIPELINED = 4

CLOSE, KEEP, PIPE, VISIT = "close", "keep", "pipe", "visit"
_KINDS = (CLOSE, KEEP, PIPE, VISIT)
# About: what a visit asks besides its decision.
VISIT_QUESTIONS = 3

# What a line of text can be broken by on its way into a table.
AWKWARD = (
    "\t",
    "\n",
    "\r",
    "\\",
    "\\n",
    "\\.",
    "'",
    '"',
    "ä",
    "€",
    "😀",
    "\u2028",
    "%",
    "{",
    "\x7f",
)
USER_AGENT = "torture/1.0 (\\t is no tab)"


@dataclass(frozen=True, slots=True)
class ClientSettings:
    port: int
    clients: int
    """Of each kind of connection."""
    rate_per_s: float
    """Of all together."""
    header: Header
    truth: str
    pulse: str
    ads: str
    """A file with the ids of existing ads, one a line."""

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ClientSettings":
        content = json.loads(text)
        return cls(**{**content, "header": Header(**content["header"])})


def notes(source: random.Random, count: int) -> list[str]:
    """Pieces of a query string: a text and the first half of its MD5, which PostgreSQL can make too."""
    made = []
    for _ in range(count):
        words = [f"{source.getrandbits(32):x}" for _ in range(source.randint(0, 20))]
        text = "".join(itertools.chain.from_iterable((w, source.choice(AWKWARD)) for w in words))
        digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:16]
        made.append(f"note={quote(text, safe='')}&sum={digest}")
    return made


class Endpoint:
    """One of /log and /ad: what is asked there and what has to be answered."""

    def __init__(self, name: str, source: random.Random, ads: list[str]) -> None:
        self.name = name
        self.asked_at_s = 0.0
        self.successes = 0
        self.failures = 0
        self._source = source
        self._ads = ads

    def question(self) -> tuple[str, str]:
        """The part of the query that is this endpoint's own, and the id of the ad that is expected."""
        if self.name == "log":
            return "", ""
        if self._source.random() < 0.1:
            return f"id={self._source.getrandbits(128):032x}&", ""
        ad = self._source.choice(self._ads)
        return f"id={ad}&", ad

    def outcome(self, answer: Answer, ad: str) -> str:
        if answer.status >= 300:
            return str(answer.status)
        if ad:
            right = answer.status == 200 and answer.body.startswith(f'{{"id":"{ad}"'.encode())
        else:
            right = answer.status == 204
        return str(answer.status) if right else WRONG


class Clients:
    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._run = settings.header.run
        self._source = random.Random(settings.header.seed)
        self._truth = TruthWriter(Path(settings.truth), settings.header)
        self._notes = notes(self._source, NOTES)
        ads = Path(settings.ads).read_text(encoding="ascii").split()
        self._endpoints = [Endpoint(name, self._source, ads) for name in ("log", "ad")]
        self._visits = Endpoint(VISIT, self._source, ads)
        self._users = visitors.users(self._source)
        self._numbers: Iterator[int] = itertools.count(1)
        self._stop = asyncio.Event()
        self._last_success_s: dict[str, float] = {}

    async def run(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async with asyncio.TaskGroup() as tasks:
            workers = len(_KINDS) * self._settings.clients
            for place in range(workers):
                kind = _KINDS[place % len(_KINDS)]
                tasks.create_task(self._work(kind, place // len(_KINDS) % 2, workers))
            pulse = tasks.create_task(self._pulse())
            await reader.read()
            self._stop.set()
            pulse.cancel()
        self._beat()
        self._truth.close()

    async def _work(self, kind: str, which: int, workers: int) -> None:
        """One client. Which endpoint it asks, or asks first."""
        if kind == VISIT:
            await self._visit_now_and_then(workers)
            return
        endpoints = [self._endpoints[which]]
        if kind == PIPE:
            endpoints = [self._endpoints[(which + n) % 2] for n in range(PIPELINED)]
        every_s = len(endpoints) * workers / self._settings.rate_per_s
        exchange: Exchange | None = None
        due_s = time.monotonic() + self._source.random() * every_s
        while not self._stop.is_set():
            # A client that was held up does not catch up: it is one user, not a queue.
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            due_s = max(due_s + every_s, time.monotonic())
            if self._stop.is_set():
                break
            exchange = await self._turn(endpoints, kind, exchange)
        if exchange is not None:
            exchange.close()

    async def _visit_now_and_then(self, workers: int) -> None:
        """One visitor's connection."""
        every_s = (1 + VISIT_QUESTIONS) * workers / self._settings.rate_per_s
        exchange: Exchange | None = None
        due_s = time.monotonic() + self._source.random() * every_s
        while not self._stop.is_set():
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            due_s = max(due_s + every_s, time.monotonic())
            if not self._stop.is_set():
                exchange = await self._visit(exchange)
        if exchange is not None:
            exchange.close()

    async def _visit(self, exchange: Exchange | None) -> Exchange | None:
        """A decision and what becomes of it."""
        visit = visitors.Visit(self._source)
        path, query = visit.question(self._users)
        exchange, answer = await self._ask(exchange, visitors.DECISION, path, query, visit)
        if answer is None:
            return exchange
        for endpoint, link in visit.events():
            if self._stop.is_set():
                break
            exchange, _ = await self._ask(exchange, endpoint, link, "", visit)
        return exchange

    async def _ask(
        self,
        exchange: Exchange | None,
        endpoint: str,
        path: str,
        query: str,
        visit: visitors.Visit,
    ) -> tuple[Exchange | None, Answer | None]:
        """One question of a visit: the connection for the next one, and the answer if it was right."""
        exchange = await self._connected(exchange, endpoint, VISIT)
        if exchange is None:
            return None, None
        number = next(self._numbers)
        sent_s = time.monotonic()
        [future] = exchange.ask([self._request(number, path, query, VISIT)])
        answer: Answer | None = None
        try:
            async with asyncio.timeout_at(sent_s + ANSWER_LIMIT_S):
                answer = await future
        except (Cut, Left, TimeoutError, WrongAnswer) as error:
            outcome = _WHY[type(error)]
        else:
            outcome = str(answer.status)
            if answer.status < 400:
                if endpoint == visitors.DECISION:
                    is_right = visit.take(answer.status, answer.body)
                else:
                    is_right = visitors.right(endpoint, answer.status)
                outcome = outcome if is_right else WRONG
        self._note_visit(number, endpoint, visit, sent_s, outcome)
        if outcome in (TIMEOUT, WRONG):
            exchange.close()
        return exchange, answer if outcome in SUCCESSES else None

    def _note_visit(
        self, number: int, endpoint: str, visit: visitors.Visit, sent_s: float, outcome: str
    ) -> None:
        campaign = (visit.campaign,) if endpoint == visitors.DECISION else ()
        took_s = time.monotonic() - sent_s
        self._truth.request(
            number, endpoint, VISIT, sent_s, took_s, outcome, visit.decision, *campaign
        )
        self._count(self._visits, outcome)

    async def _turn(
        self, endpoints: Sequence[Endpoint], kind: str, exchange: Exchange | None
    ) -> Exchange | None:
        """One question, or several at once; the connection for the next turn, if there is one."""
        exchange = await self._connected(exchange, endpoints[0].name, kind)
        if exchange is None:
            return None
        asked = [(next(self._numbers), endpoint, *endpoint.question()) for endpoint in endpoints]
        questions = [self._request(number, e.name, own, kind) for number, e, own, _ in asked]
        sent_s = time.monotonic()
        futures = exchange.ask(questions)
        for (number, endpoint, _, ad), future in zip(asked, futures, strict=True):
            outcome = await self._outcome(future, sent_s, endpoint, ad, kind)
            self._note(number, endpoint, kind, sent_s, outcome)
            if outcome in (TIMEOUT, WRONG):
                exchange.close()
        if kind != CLOSE and exchange.open:
            return exchange
        exchange.close()
        return None

    async def _connected(
        self, exchange: Exchange | None, endpoint: str, kind: str
    ) -> Exchange | None:
        """This connection if it is open, or a new one."""
        if exchange is not None:
            if exchange.open:
                return exchange
            exchange.close()
        sent_s = time.monotonic()
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                return await Exchange.connect(self._settings.port)
        except (OSError, TimeoutError):
            took_s = time.monotonic() - sent_s
            self._truth.request(next(self._numbers), endpoint, kind, sent_s, took_s, REFUSED)
            self._count(self._by_name(endpoint), REFUSED)
            await asyncio.sleep(REFUSED_PAUSE_S)
            return None

    def _by_name(self, endpoint: str) -> Endpoint:
        return next((e for e in self._endpoints if e.name == endpoint), self._visits)

    def _request(self, number: int, path: str, own: str, kind: str) -> bytes:
        closing = "Connection: close\r\n" if kind == CLOSE else ""
        return (
            f"GET /{path}?{own}run={self._run}&no={number}&{self._source.choice(self._notes)}"
            f" HTTP/1.1\r\nHost: torture\r\nUser-Agent: {USER_AGENT}\r\n{closing}\r\n"
        ).encode("ascii")

    async def _outcome(
        self,
        future: "asyncio.Future[Answer]",
        sent_s: float,
        endpoint: Endpoint,
        ad: str,
        kind: str,
    ) -> str:
        try:
            async with asyncio.timeout_at(sent_s + ANSWER_LIMIT_S):
                answer = await future
        except Cut:
            return CUT
        except Left:
            return LEFT
        except TimeoutError:
            return TIMEOUT
        except WrongAnswer:
            return WRONG
        if kind == CLOSE and not answer.closing:
            return WRONG
        return endpoint.outcome(answer, ad)

    def _note(
        self, number: int, endpoint: Endpoint, kind: str, sent_s: float, outcome: str
    ) -> None:
        now_s = time.monotonic()
        self._truth.request(number, endpoint.name, kind, sent_s, now_s - sent_s, outcome)
        self._count(endpoint, outcome)

    def _count(self, endpoint: Endpoint, outcome: str) -> None:
        now_s = time.monotonic()
        if outcome in SUCCESSES:
            endpoint.successes += 1
            last_s = self._last_success_s.get(endpoint.name, now_s)
            if now_s - last_s > GAP_S:
                self._truth.gap(endpoint.name, last_s, now_s)
            self._last_success_s[endpoint.name] = now_s
        elif outcome != LEFT:
            endpoint.failures += 1

    async def _pulse(self) -> None:
        while True:
            await asyncio.sleep(PULSE_S)
            self._beat()

    def _beat(self) -> None:
        self._truth.flush()
        endpoints = (*self._endpoints, self._visits)
        counts = {e.name: (e.successes, e.failures) for e in endpoints}
        for endpoint in endpoints:
            endpoint.successes = endpoint.failures = 0
        with Path(self._settings.pulse).open("a", encoding="ascii") as pulse:
            pulse.write(json.dumps({"at_s": time.monotonic(), **counts}) + "\n")


_WHY: dict[type[BaseException], str] = {
    Cut: CUT,
    Left: LEFT,
    TimeoutError: TIMEOUT,
    WrongAnswer: WRONG,
}


if __name__ == "__main__":
    asyncio.run(Clients(ClientSettings.from_json(sys.argv[1])).run())
