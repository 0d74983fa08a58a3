"""One worker: a loop, a parser per connection, one writer, one reader, one share of the port.

Wires the parts together (those for ads in zones: `adserving`), keeps their clocks going, and ends in order.
Everything with a descriptor or a thread (loop, connections to PostgreSQL) is made here, after the fork,
never before.

How a worker ends (SIGTERM), so that no client that got through to it is turned away:

1. it goes on accepting for a moment: the master has stopped new handshakes (at a stop) or a successor
   listens already (at a reload), but connections may be waiting in the queue;
2. it stops accepting; the next answer on each open connection says Connection: close;
3. clients that keep a connection open have `drain_window_s` to send one more request;
4. what is idle is closed, what is in progress is finished, events are shipped, the process ends.

All of it has one deadline, a little before the master's: a worker that is killed cannot put the
events that PostgreSQL did not take into a file.

SIGQUIT skips to the end of 4. SIGINT is the master's business: a terminal sends it to everybody.

Must not know: how it was forked, or anything about ads beyond which endpoints there are.
"""

import asyncio
import secrets
import signal
import socket
import time
from typing import Any

import psycopg2.extensions
import uvloop

from prefork_ads import __version__
from prefork_ads.ads.addresses import admission, client_address
from prefork_ads.ads.endpoints import UNAVAILABLE, Endpoints, Unavailable, informative, looks_up
from prefork_ads.ads.meter import Meter
from prefork_ads.config import Config
from prefork_ads.db.queries import query
from prefork_ads.db.reader import LookupLine, Reader
from prefork_ads.db.shipping import Attribution
from prefork_ads.db.writer import Batching, Writer
from prefork_ads.dsn import redact_dsn
from prefork_ads.events.event import EventClock
from prefork_ads.events.uuid7 import Uuid7
from prefork_ads.http.hub import Hub
from prefork_ads.http.limits import Limits
from prefork_ads.http.message import Answers, Request, with_connection
from prefork_ads.http.outbox import Outbox
from prefork_ads.http.overload import Overload
from prefork_ads.http.protocol import Connection
from prefork_ads.http.router import Router
from prefork_ads.metrics import TRACK_ANSWERS, About, Counter, Gauge, exposition
from prefork_ads.process.accept_queue import GLANCE_EVERY, AcceptQueue, has_left
from prefork_ads.process.adserving import AdServing
from prefork_ads.process.context import ChildContext
from prefork_ads.process.garbage import ALL_EVERY_S, Garbage
from prefork_ads.process.journaling import Journaling
from prefork_ads.process.listener import ACCEPT_GRACE_S, refuse_new
from prefork_ads.process.log import logger
from prefork_ads.process.recycling import Allowance
from prefork_ads.process.reporter import Reporter
from prefork_ads.process.scoreboard import State, Wish
from prefork_ads.process.vitals import Vitals

SWEEP_S = 0.25
# What is answered even when there is room for nothing else.
VITAL = frozenset({b"/healthz", b"/readyz", b"/metrics"})
# How long a worker that cannot reach PostgreSQL waits before it serves what it can without it.
FIRST_CONNECTION_S = 3.0
# How long it goes on trying when those it is to replace have a reader's connection. Longer than a table is
# locked or a network silent for in passing, and than some dead hosts in front of the DSN's living one take.
READER_LIMIT_S = 15.0
# And what of its time to boot at most, so that it ends with a reason before it is killed without one.
CONNECTIONS_SHARE = 0.4
LOOK_AGAIN_S = 0.1
# What of its time to boot a worker spends on the catalog, if that takes so long.
CATALOG_SHARE = 0.5
# What counts for --max-requests.
ANSWERED = (
    *(Counter.AD_FOUND, Counter.AD_UNKNOWN, Counter.AD_MALFORMED, Counter.AD_UNAVAILABLE),
    *(Counter.AD_REDIRECTED, Counter.AD_NO_ZONE),
    *(Counter.LOG_ACCEPTED, Counter.LOG_MALFORMED, Counter.LOG_UNAVAILABLE),
    *TRACK_ANSWERS.values(),
)
# What a stop "now" still allows for the events in memory.
STOP_NOW_S = 1.0
# How long a stop waits for a connection to PostgreSQL while the journal keeps the events.
AWAY_LIMIT_S = 2.0
# libuv accepts one connection of each listening descriptor in a round of its loop, however many wait. With as
# many descriptors of the one socket it takes so many, and a round serves more. *Measured*, a connection for
# each request: 12,400 a second with four, 6,600 to 8,300 with one.
ACCEPTS = 4
# Shares of drain_timeout_s: requests end by the first, shipping by the second, the master kills at 1.
REQUESTS_SHARE = 0.5
SHIPPING_SHARE = 0.9


def worker_main(context: ChildContext) -> int:
    """The entry point the master forks into; returns the exit status."""
    # Not closed: the process ends right after, and closing would wait for a name lookup that hangs.
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(Worker(context).run())


class Worker:
    """Everything one worker process holds."""

    def __init__(self, context: ChildContext) -> None:
        config = context.config
        self._context = context
        self._config = config
        seat = context.seat
        self._counters, self._gauges = seat.counters, seat.gauges
        self._say = Reporter(_warn).say
        self._answers = Answers()
        self._clock = EventClock(Uuid7())
        self._journaling = Journaling(context, self._say)
        self._writer = Writer(
            config.dsn or "",
            self._journaling.journal,
            Batching(config.write_batch, config.write_batch_bytes, config.write_interval_s),
            self._counters,
            self._gauges,
            self._say,
            attribution=Attribution(config.click_attribution_s, config.view_attribution_s),
        )
        self._line: LookupLine[Unavailable] = LookupLine(
            unavailable=UNAVAILABLE,
            batch=config.read_batch,
            bound=config.read_queue,
            timeout_s=config.read_timeout_s,
            gauges=self._gauges,
        )
        self._readers = [self._reader() for _ in range(config.readers)]
        self._ads = AdServing(config, seat, self._journaling, self._answers, self._clock, self._say)
        # The answer to /metrics, and which tick it is of.
        self._scraped, self._scraped_ns = b"", 0
        self._failed = False
        self._being_accepted: set[asyncio.Task[Any]] = set()
        self._accept_queue = AcceptQueue(context.own_listeners, config.backlog)
        self._draining = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        config = self._config
        loop.set_exception_handler(self._loop_failed)
        loop.add_signal_handler(signal.SIGTERM, self._draining.set)
        loop.add_signal_handler(signal.SIGQUIT, self._stop_at_once)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._hub = self._make_hub(loop)
        writing = loop.create_task(self._writer.run(), name="writer")
        reading = [loop.create_task(reader.run(), name="reader") for reader in self._readers]
        ticking = loop.create_task(self._tick(), name="tick")
        syncing = self._journaling.syncing(loop)
        for_ads = self._ads.start(loop)
        for task in (writing, *reading, ticking, *syncing, *for_ads):
            task.add_done_callback(self._part_ended)
        await self._first_connections()
        # A worker that has failed already must not announce itself: a reload would rely on it.
        servers = [] if self._failed else await self._listen(loop)
        if servers:
            self._counters[Counter.WORKERS_STARTED] += 1
            self._context.announce_ready()
            await self._draining.wait()
        began = time.monotonic()
        if servers:
            await self._drain(servers, began + REQUESTS_SHARE * config.drain_timeout_s)
        self._ads.stop_serving()
        for task in (*reading, *syncing):
            task.cancel()
        status = await self._finish_writing(
            writing, began + SHIPPING_SHARE * config.drain_timeout_s
        )
        for task in (ticking, *for_ads):
            task.cancel()
        await asyncio.gather(*reading, *syncing, ticking, *for_ads, return_exceptions=True)
        return 1 if self._failed else status

    # -- parts -------------------------------------------------------------------------------------

    def _reader(self) -> Reader[Unavailable]:
        config = self._config
        return Reader(
            self._line,
            config.reader_dsn or config.dsn or "",
            prepare=query("ad_variant_prepare"),
            statement=query("ad_variant_lookup"),
            timeout_s=config.read_timeout_s,
            counters=self._counters,
            gauges=self._gauges,
            report=self._say,
        )

    def _make_hub(self, loop: asyncio.AbstractEventLoop) -> Hub:
        meter = self._meter = Meter(self._counters, loop.call_soon)
        endpoints = Endpoints(
            self._answers,
            self._clock,
            self._journaling.journal.append,
            self._line.look_up,
            self._counters,
            client_address(self._config.trusted_proxies),
            meter,
            logged=self._ads.sender.logged,
            zones=self._ads.serving(meter, loop.call_soon, self._request_failed),
            empty_on_trouble=self._config.ad_fallback == "empty",
        )
        index = {
            "name": "prefork-ads",
            "version": __version__,
            "about": "An ad server: every request is logged to and answered from PostgreSQL.",
            "endpoints": {
                "GET /ad?zone=<key>": "an ad for this zone; 204 when there is none",
                "POST /ad": "ads for several zones of a page, asked for in JSON",
                "GET /ad?id=<uuid>": "the ad variant with this id; 204 when there is none",
                "GET, POST /i/<token>, /v/<token>": "an ad was seen; was seen long enough",
                "GET /c/<token>": "a click: leads to where the ad leads",
                "GET, POST /conv": "a conversion",
                "GET /tag.js, /demo": "for publishers' pages; a page that shows it",
                "GET, POST /log?<name>=<value>": "log the parameters; 204",
                "GET /healthz": "this process answers",
                "GET /readyz": "this process reaches PostgreSQL",
                "GET /metrics": "counters of all workers, for Prometheus",
            },
        }
        routes = {
            **endpoints.routes(),
            **self._ads.routes(),
            **informative(
                self._answers,
                index,
                self._why_not_ready,
                self._metrics,
                admission(self._config.metrics_from, self._config.trusted_proxies),
            ),
        }
        outbox = Outbox(loop.call_soon, self._journaling.safety(loop))
        hub = Hub(
            Router(routes, self._answers).handle,
            self._answers,
            outbox,
            _limits(self._config),
            self._request_failed,
            self._request_refused,
            loop.call_soon,
            loop.call_later,
            vital=VITAL,
        )
        outbox.stopwatch = meter
        self._ads.keep_lines(outbox.keep)
        self._overload = outbox.watch = Overload(hub, on_shed=self._request_shed)
        return hub

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Server]:
        backlog = self._config.backlog
        return [
            # uvloop calls listen() again, with 100 unless told otherwise.
            await loop.create_server(self._connection, sock=one, backlog=backlog)
            if listener.family != socket.AF_UNIX
            else await loop.create_unix_server(self._connection, sock=one, backlog=backlog)
            for listener in self._context.listeners
            for one in (listener, *(listener.dup() for _ in range(ACCEPTS - 1)))
        ]

    def _connection(self) -> Connection:
        self._counters[Counter.CONNECTIONS] = accepted = self._counters[Counter.CONNECTIONS] + 1
        if not accepted % GLANCE_EVERY:
            self._accept_queue.glance(time.monotonic(), accepted)
        return Connection(self._hub)

    def _why_not_ready(self) -> str:
        if self._draining.is_set():
            return "This worker is stopping."
        if self._journaling.journal.failing:
            return "The journal cannot be written."
        if self._journaling.full:
            return "The journal is full."
        if not self._writer.connected.is_set():
            return "The writer has no connection to PostgreSQL."
        if not any(reader.connected.is_set() for reader in self._readers):
            return "No reader has a connection to PostgreSQL."
        return self._ads.why_not_ready()

    def _metrics(self) -> bytes:
        """Made once a tick: it costs a hundred times a request, and a client may ask hundreds of times."""
        tick_ns = self._meter.since_ns()
        if tick_ns != self._scraped_ns:
            self._scraped_ns, self._scraped = tick_ns, self._exposition()
        return self._scraped

    def _exposition(self) -> bytes:
        board = self._context.scoreboard
        workers = sum(1 for seat in board.occupied() if seat.slot >= 0)
        return exposition(
            board.totals(),
            [(seat.slot, seat.gauges) for seat in board.occupied()],
            About(
                version=__version__,
                started_unix_s=board.started_unix_s,
                slots=board.slots,
                open_to=board.open_to,
                crash_looping=board.crash_looping,
                workers=workers,
                journal_limit_bytes=(
                    self._config.journal_max_bytes if self._config.journal == "on" else 0
                ),
            ),
        )

    def _part_ended(self, part: "asyncio.Task[None]") -> None:
        """No part ends before the drain. One that does was ended by a bug: make room for a new worker."""
        error = None if part.cancelled() else part.exception()
        if self._draining.is_set() and error is None:
            return
        # Cancelled counts, too: nobody cancels before the drain, but aiopg raises CancelledError itself.
        logger.critical("the %s failed", part.get_name(), exc_info=error)
        self._failed = True
        self._draining.set()

    # -- while it runs -----------------------------------------------------------------------------

    async def _first_connections(self) -> None:
        """Serve once PostgreSQL is reached; or, when it is away, with what works without it.

        It is not away for who was to replace a worker that has it: see `_match_incumbents`.
        """
        began = time.monotonic()
        limit_s = min(READER_LIMIT_S, CONNECTIONS_SHARE * self._config.boot_timeout_s)
        waits = [self._writer.connected.wait(), *(r.connected.wait() for r in self._readers)]
        reached = asyncio.gather(*waits, *self._ads.first_connections())
        draining = asyncio.create_task(self._draining.wait())
        await asyncio.wait(
            (reached, draining), timeout=FIRST_CONNECTION_S, return_when=asyncio.FIRST_COMPLETED
        )
        if not reached.done():
            await self._match_incumbents(began + limit_s)
        if not reached.done() and not self._draining.is_set():
            logger.warning("serving without PostgreSQL until it can be reached")
        reached.cancel()
        catalog = asyncio.create_task(self._ads.first_catalog())
        await asyncio.wait(
            (catalog, draining),
            timeout=CATALOG_SHARE * self._config.boot_timeout_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        for wait in (catalog, draining):
            wait.cancel()
        await asyncio.gather(reached, catalog, draining, return_exceptions=True)

    async def _match_incumbents(self, until: float) -> None:
        """Until this worker has a reader, or those who serve have none either. Else it has failed."""
        while not self._draining.is_set():
            obstacle = self._why_no_reader()
            if not obstacle or not self._context.incumbents_read():
                return
            if time.monotonic() >= until:
                logger.error(
                    "no reader could connect to %s: %s. Whoever serves now has a reader's connection and is"
                    " not replaced. Mend the settings or PostgreSQL, which must have room for the"
                    " connections of the new workers beside the old ones, and try again.",
                    redact_dsn(self._config.reader_dsn or self._config.dsn or ""),
                    obstacle,
                )
                self._failed = True
                self._draining.set()
                return
            await asyncio.sleep(LOOK_AGAIN_S)

    def _why_no_reader(self) -> str:
        """Empty when anything can be looked up: incumbents may know no more of people than we do."""
        readers = (*self._readers, *self._ads.readers)
        if any(reader.connected.is_set() for reader in readers):
            return ""
        return next((reader.obstacle for reader in readers if reader.obstacle), "no answer yet")

    async def _tick(self) -> None:
        """Heartbeat, clocks and time limits: proof that this loop is not blocked."""
        seat, hub = self._context.seat, self._hub
        vitals = Vitals(self._counters, self._gauges, SWEEP_S)
        # Not all workers at the same moment.
        half_s = ALL_EVERY_S / 2
        garbage = Garbage(time.monotonic() + half_s + secrets.randbelow(int(half_s)))
        allowance = _allowance(self._config)
        answered_before, since = self._answered(), time.monotonic()
        next_second = 0.0
        while True:
            now = time.monotonic()
            # Until it is ready its deadline is the one for booting, which the master has set.
            if seat.state is not State.BOOTING or self._draining.is_set():
                self._context.beat()
            hub.sweep(now)
            vitals.look(now)
            garbage.look(now)
            hub.is_gone = has_left if self._accept_queue.is_cut else None
            if too_many := self._accept_queue.look(now, self._counters[Counter.CONNECTIONS]):
                self._shed_waiting(too_many)
            self._line.expire(now)
            self._ads.tick(now)
            self._overload.guard({b"/ad": self._has_no_room} if self._line.is_crowded else {})
            self._journaling.tend()
            self._gauges[Gauge.CONNECTIONS_OPEN] = len(hub.connections)
            if now >= next_second:
                wish = allowance.used_up(
                    self._answered() - answered_before,
                    now - since,
                    self._gauges[Gauge.MEMORY_BYTES],
                )
                if wish is not Wish.NONE:
                    self._context.ask_for_successor(wish)
                self._answers.refresh()
                next_second = now + 0.9
            await asyncio.sleep(SWEEP_S)

    def _answered(self) -> int:
        """Requests that were answered in this seat, by whichever worker sat in it."""
        return sum(self._counters[counter] for counter in ANSWERED)

    def _request_failed(self, what: str, error: Exception) -> None:
        self._counters[Counter.REQUESTS_FAILED] += 1
        logger.error("request failed: %s", what, exc_info=error)

    def _request_refused(self, _status: int) -> None:
        self._counters[Counter.REQUESTS_REFUSED] += 1

    def _request_shed(self) -> None:
        self._counters[Counter.REQUESTS_SHED] += 1

    def _has_no_room(self, request: Request) -> bool:
        return self._line.is_full() and looks_up(request)

    def _shed_waiting(self, number: int) -> None:
        answer = with_connection(self._answers.busy, b"close")
        vital = tuple(b"GET " + path + b" " for path in VITAL)
        self._counters[Counter.REQUESTS_SHED] += self._accept_queue.send_away(
            number, answer, vital, self._serve_accepted
        )

    def _serve_accepted(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(self._connection, connection))
        self._being_accepted.add(task)
        task.add_done_callback(self._being_accepted.discard)

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        # aiopg reports a statement's timeout here as well as to its caller, who handles it.
        if isinstance(context.get("exception"), psycopg2.extensions.QueryCanceledError):
            return
        loop.default_exception_handler(context)

    # -- the end -----------------------------------------------------------------------------------

    def _stop_at_once(self) -> None:
        self._stop_now.set()
        self._draining.set()

    async def _drain(self, servers: list[asyncio.Server], until: float) -> None:
        hub = self._hub
        hub.drain()
        # The queues are a successor's from now on, or nobody's.
        self._accept_queue.leave()
        if self._context.alone_with_listeners:
            # Nobody is left to stop new handshakes for us, and the queue dies with the last of us.
            for listener in self._context.listeners:
                refuse_new(listener)
        await self._unless_stopped(ACCEPT_GRACE_S)
        for server in servers:
            server.close()
        self._context.announce_draining()
        await self._until_quiet(min(until, time.monotonic() + self._config.drain_window_s))
        hub.close_idle()
        await self._until_quiet(until)
        hub.abort_all()

    async def _until_quiet(self, until: float) -> None:
        while self._hub.connections and time.monotonic() < until and not self._stop_now.is_set():
            await self._unless_stopped(0.02)

    async def _unless_stopped(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop_now.wait()
        except TimeoutError:
            pass

    async def _finish_writing(self, writing: "asyncio.Task[None]", until: float) -> int:
        self._writer.stop()
        stopping_now = asyncio.create_task(self._stop_now.wait())
        heard_at = time.monotonic()
        while not writing.done() and not stopping_now.done() and time.monotonic() < until:
            if self._writer.connected.is_set() or not self._journaling.durable:
                heard_at = time.monotonic()
            if time.monotonic() - heard_at > AWAY_LIMIT_S:
                # The journal keeps the events, so a stop need not wait for PostgreSQL.
                break
            await asyncio.wait(
                {writing, stopping_now}, timeout=0.1, return_when=asyncio.FIRST_COMPLETED
            )
        if stopping_now.done():
            await asyncio.wait({writing}, timeout=STOP_NOW_S)
        stopping_now.cancel()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        if not self._stop_now.is_set():
            await self._ads.farewell()
        return await self._journaling.leave()


def _warn(message: str) -> None:
    logger.warning("%s", message)


def _allowance(config: Config) -> Allowance:
    allowed = Allowance(config.max_requests, config.max_worker_age_s, config.max_worker_memory)
    return allowed.drawn(config.max_jitter, secrets.randbelow(1001) / 1000)


def _limits(config: Config) -> Limits:
    return Limits(
        max_url=config.max_url,
        max_head=config.max_head,
        max_body=config.max_body,
        max_connections=config.max_connections,
        head_timeout_s=config.head_timeout_s,
        body_timeout_s=config.body_timeout_s,
        idle_timeout_s=config.idle_timeout_s,
        send_timeout_s=config.send_timeout_s,
    )
