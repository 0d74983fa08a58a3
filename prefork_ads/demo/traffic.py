"""A day of visitors against a running server, in minutes.

Visitors come in the order and at the pace of their day, made quicker; each opens its pages one after the
other, asks for the ads of a page in one request as the tag does, and tells what it saw and clicked by the
links it was given. So everything that a real day leaves behind is there afterwards: decisions, impressions,
clicks, conversions, people who have seen enough of a campaign, programs that are not billed. Times in the
tables are those of the run, since the server trusts nobody's clock but its own.

As many visitors are under way at once as there are connections; who finds none waits, so a slow server makes
the day longer and is not asked for more than it answers.

Must not know: the command line, databases.
"""

import asyncio
import json
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from prefork_ads.demo.visitors import BUY, CLICK, DAY_S, LOOK, SEE, Page, Visitor, day
from prefork_ads.errors import PreforkAdsError

ANSWER_LIMIT_S: Final = 15.0
MAX_ANSWER_BYTES: Final = 4 << 20
# After so many failures in a row nobody is there.
GIVE_UP_AFTER: Final = 50
# Asked before the day begins. The answer names the first zone that is not there, so it tells whether the
# catalog is the demonstration's, and nothing is decided that the visitors would have to be told apart from.
_NO_ZONE: Final = "no-such-zone"
_LOOK_AROUND: Final = f'{{"places": [{{"zone": "home-side"}}, {{"zone": "{_NO_ZONE}"}}]}}'.encode()


class ServerAway(PreforkAdsError):
    """The server does not answer."""

    exit_code = 69


@dataclass(frozen=True, slots=True)
class Plan:
    url: str
    visitors: int
    duration_s: float
    connections: int
    seed: int
    advertisers: dict[str, str]
    """The advertiser's key of each campaign's, for orders."""


@dataclass(slots=True)
class Told:
    """What the visitors saw: the truth that reports can be compared with."""

    visitors: int = 0
    pages: int = 0
    places: int = 0
    ads: int = 0
    impressions: int = 0
    viewable: int = 0
    clicks: int = 0
    conversions: int = 0
    failures: int = 0
    campaigns: Counter[str] = field(default_factory=Counter)


class Traffic:
    """One run."""

    def __init__(self, plan: Plan, progress: Callable[[int, int, str], None]) -> None:
        self._plan = plan
        self._progress = progress
        self._source = random.Random(plan.seed)  # noqa: S311 - a day that can be made again
        self._idle: list[_Connection] = []
        self._failed_in_a_row = 0
        self.told = Told()

    async def run(self) -> Told:
        """Until the day is over. Raises ServerAway."""
        plan = self._plan
        speed = DAY_S / plan.duration_s
        places = asyncio.Semaphore(plan.connections)
        await self._look_around()
        began_s = time.monotonic()
        try:
            async with asyncio.TaskGroup() as visits:
                for visitor in self._visitors():
                    await asyncio.sleep(began_s + visitor.at_s / speed - time.monotonic())
                    await places.acquire()
                    self._report(visitor)
                    visit = visits.create_task(self._visit(visitor))
                    visit.add_done_callback(lambda _: places.release())
        except* ServerAway as away:
            raise away.exceptions[0] from None
        finally:
            for connection in self._idle:
                connection.close()
        self._progress(plan.visitors, plan.visitors, "24:00")
        return self.told

    async def _look_around(self) -> None:
        """Tell at once, not after a day, that there is no server or nothing to see."""
        url = self._plan.url
        connection = _Connection(url)
        try:
            status, body = await connection.ask("POST", "/ad", "", _LOOK_AROUND)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise ServerAway(
                f"{url} does not answer: {error or type(error).__name__}. Is prefork-ads running there?"
            ) from None
        finally:
            connection.close()
        told = body[:200].decode(errors="replace")
        if status == 404 and "home-side" in told:
            raise ServerAway(
                f"The server at {url} does not have the demo catalog; `prefork-ads demo load`"
                " puts it there."
            )
        if status != 404 or _NO_ZONE not in told:
            raise ServerAway(f"{url} is no ad server that serves: it answers {status}, {told}")

    def _visitors(self) -> Iterator[Visitor]:
        return day(self._plan.visitors, self._source)

    def _report(self, visitor: Visitor) -> None:
        clock = f"{int(visitor.at_s) // 3600:02}:{int(visitor.at_s) // 60 % 60:02}"
        ads = f"{clock}  {self.told.ads:,} ads  {self.told.clicks:,} clicks"
        self._progress(self.told.visitors, self._plan.visitors, ads)

    async def _visit(self, visitor: Visitor) -> None:
        connection = self._idle.pop() if self._idle else _Connection(self._plan.url)
        try:
            for page in visitor.pages:
                await self._open(connection, visitor, page)
        except (OSError, TimeoutError, _NoAnswer, asyncio.IncompleteReadError) as error:
            connection.close()
            self.told.failures += 1
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= GIVE_UP_AFTER:
                raise ServerAway(
                    f"{self._plan.url} does not answer: {error or type(error).__name__}."
                ) from None
            return
        finally:
            self.told.visitors += 1
        self._failed_in_a_row = 0
        self._idle.append(connection)

    async def _open(self, connection: "_Connection", visitor: Visitor, page: Page) -> None:
        question: dict[str, Any] = {
            "places": [{"zone": zone} for zone in page.zones],
            "page": page.url,
            "keywords": page.keywords,
            "values": {"section": page.section},
        }
        if visitor.uid:
            question["uid"] = visitor.uid
        head = _headers(visitor, page)
        status, body = await connection.ask("POST", "/ad", head, json.dumps(question).encode())
        if status != 200:
            raise _NoAnswer(
                f"status {status} for the ads of a page: {body[:200].decode(errors='replace')}"
            )
        self.told.pages += 1
        for ad in json.loads(body)["ads"]:
            self.told.places += 1
            if "creative" in ad:
                self.told.ads += 1
                self.told.campaigns[ad["campaign"]] += 1
                await self._look_at(connection, visitor, head, ad)

    async def _look_at(
        self, connection: "_Connection", visitor: Visitor, head: str, ad: dict[str, Any]
    ) -> None:
        chance, told, urls = self._source.random, self.told, ad["urls"]
        if visitor.is_program or chance() > SEE:
            return
        if await self._follow(connection, head, urls["impression"]):
            told.impressions += 1
        if chance() > LOOK:
            return
        if await self._follow(connection, head, urls["viewable"]):
            told.viewable += 1
        if chance() > CLICK / (SEE * LOOK):
            return
        if await self._follow(connection, head, urls["click"]):
            told.clicks += 1
        advertiser = self._plan.advertisers.get(ad["campaign"])
        if advertiser is None or not visitor.uid or chance() > BUY:
            return
        value = 5 + self._source.expovariate(1 / 40)
        order = f"{self._source.getrandbits(64):016x}"
        query = f"advertiser={advertiser}&order={order}&value={value:.2f}&uid={visitor.uid}"
        if await self._follow(connection, head, f"/conv?{query}"):
            told.conversions += 1

    async def _follow(self, connection: "_Connection", head: str, url: str) -> bool:
        path = url if url.startswith("/") else "/" + url.split("/", 3)[3]
        status, _ = await connection.ask("GET", path, head)
        return status < 400


class _NoAnswer(Exception):
    """What came is not what we asked for."""


class _Connection:
    """A connection that is kept, and made again when the server has closed it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, head: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body. Raises OSError, TimeoutError, IncompleteReadError or _NoAnswer."""
        async with asyncio.timeout(ANSWER_LIMIT_S):
            if self._writer is None or self._writer.is_closing():
                context = ssl.create_default_context() if self._tls else None
                self._reader, self._writer = await asyncio.open_connection(
                    self._host, self._port, ssl=context, limit=MAX_ANSWER_BYTES
                )
            assert self._reader is not None
            start = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{head}"
            if body:
                start += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            self._writer.write(start.encode("ascii") + b"\r\n" + body)
            return await self._answer(self._reader)

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        length = int(fields.get("content-length", 0))
        if length > MAX_ANSWER_BYTES:
            raise _NoAnswer("an answer without end")
        body = await reader.readexactly(length)
        if fields.get("connection") == "close":
            self.close()
        return int(lines[0].split(" ")[1]), body

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = self._reader = None


def _headers(visitor: Visitor, page: Page) -> str:
    lines = [
        f"User-Agent: {visitor.user_agent}",
        f"Accept-Language: {visitor.language}",
        f"Referer: {page.url}",
        # Counts if the server trusts us as a proxy; otherwise all visitors come from one address.
        f"X-Forwarded-For: {visitor.address}",
    ]
    if not visitor.uid:
        lines.append("Sec-GPC: 1")
    return "".join(f"{line}\r\n" for line in lines)
