"""What a worker needs to serve ads for zones, put together: catalog, keys, budgets, people, and the handlers.

Nothing of it is needed to answer `/log` or `/ad?id=`, and none of it can keep those from being answered. In
the order in which things come: the snapshot on the disk, the connection to PostgreSQL, its catalog and keys;
from then on the steward's errands, of which each worker has its own.

At the end everything goes on until the writer is done: its last statement is what says how much of the leases
was used. Then what is left of them is given back, if PostgreSQL is there; otherwise the keeper sees to it.

Must not know: how anything of it works.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from prefork_ads.ads.addresses import client_address
from prefork_ads.ads.assets import Assets
from prefork_ads.ads.base_url import base_url
from prefork_ads.ads.budget import Budget
from prefork_ads.ads.caps import KEEP_BEHIND_REPLICA_S, KEEP_S, Caps
from prefork_ads.ads.conversions import Conversions
from prefork_ads.ads.current import Current
from prefork_ads.ads.endpoints import UNAVAILABLE, Unavailable
from prefork_ads.ads.feed import CatalogFeed
from prefork_ads.ads.geography import Geography
from prefork_ads.ads.key_feed import KeyFeed
from prefork_ads.ads.meter import Meter
from prefork_ads.ads.sender import Sender
from prefork_ads.ads.serving import Serving
from prefork_ads.ads.tokens import Keyring
from prefork_ads.ads.tracking import Tracking
from prefork_ads.ads.traffic import TrafficFeed
from prefork_ads.config import Config
from prefork_ads.db.queries import query
from prefork_ads.db.reader import LookupLine, Reader
from prefork_ads.db.steward import Errand, Steward
from prefork_ads.events.event import EventClock
from prefork_ads.http.message import Answers
from prefork_ads.http.router import Routes
from prefork_ads.metrics import Gauge
from prefork_ads.process.journaling import Journaling, place_of
from prefork_ads.process.scoreboard import Seat
from prefork_ads.process.shelf import Shelf

CHANNEL: Final = "prefork_ads_catalog"
# How long a worker that ends waits for PostgreSQL to take its leases back.
FAREWELL_S: Final = 0.5
# How often what replaces files is looked for.
LOOK_EVERY_S: Final = 1.0
# How often what is held of budgets is counted.
COUNT_EVERY_S: Final = 5.0

Report = Callable[[str], None]


class AdServing:
    """The part of one worker that serves ads for zones."""

    def __init__(
        self,
        config: Config,
        seat: Seat,
        journaling: Journaling,
        answers: Answers,
        clock: EventClock,
        say: Report,
    ) -> None:
        self._config = config
        self._seat = seat
        self._answers = answers
        self._clock = clock
        self._append_line = journaling.journal.append
        self._look_at_s = self._count_at_s = 0.0
        self._leaving = False
        self._current = Current()
        self._keyring = Keyring()
        self._shelf = Shelf(config.data_dir, say)
        self._feed = CatalogFeed(
            self._current,
            every_s=config.catalog_poll_s,
            counters=seat.counters,
            gauges=seat.gauges,
            report=say,
            load=self._shelf.load,
            keep=self._shelf.keep,
        )
        keys = KeyFeed(self._keyring, self._shelf.directory, say)
        traffic = TrafficFeed()
        unshipped_s = lambda: journaling.journal.oldest_unshipped_s  # noqa: E731 - a property's
        behind_s = KEEP_BEHIND_REPLICA_S if config.reader_dsn else KEEP_S
        self._caps = Caps(unshipped_s, keep_s=config.read_timeout_s + behind_s)
        self._budget = Budget(
            journaling.stream,
            place_of(config),
            clock,
            self._append_line,
            unshipped_s,
            impression_window_s=config.impression_window_s,
            curve=traffic.curve,
        )
        self._current.subscribe(self._budget.changed)
        self._geography = Geography(config.geoip, say)
        self.sender = Sender(
            client_address(config.trusted_proxies),
            self._geography,
            addresses=config.addresses,
            max_events_per_address=config.max_events_per_address,
        )
        errands: list[Errand] = [self._feed, keys, self._budget, traffic]
        self._steward = self._make_steward(errands, say)
        # A line of its own shows how many wait in it; the seat's gauge has those of both.
        self._waiting = [0] * len(Gauge)
        self._people = self._make_line()
        self._readers = [self._make_reader(say) for _ in range(config.readers)]

    def _make_line(self) -> LookupLine[Unavailable]:
        config = self._config
        return LookupLine(
            unavailable=UNAVAILABLE,
            batch=config.read_batch,
            bound=config.read_queue,
            timeout_s=config.read_timeout_s,
            gauges=self._waiting,
        )

    def _make_steward(self, errands: list[Errand], say: Report) -> Steward:
        steward = Steward(
            self._config.dsn or "",
            errands,
            counters=self._seat.counters,
            gauges=self._seat.gauges,
            report=say,
            channel=CHANNEL,
            heard=self._feed,
        )
        self._feed.hurry = lambda: steward.hurry(self._feed)
        self._budget.hurry = lambda: steward.hurry(self._budget)
        return steward

    def _make_reader(self, say: Report) -> Reader[Unavailable]:
        config = self._config
        return Reader(
            self._people,
            config.reader_dsn or config.dsn or "",
            prepare=query("person_prepare"),
            statement=query("person_lookup"),
            timeout_s=config.read_timeout_s,
            counters=self._seat.counters,
            gauges=self._seat.gauges,
            report=say,
        )

    # -- parts -------------------------------------------------------------------------------------

    def serving(
        self,
        meter: Meter,
        call_soon: Callable[[Callable[[], None]], object],
        report: Callable[[str, Exception], None],
    ) -> Serving:
        """Who answers `/ad` for zones; `report` is told of requests that fail."""
        config = self._config
        return Serving(
            self._answers,
            self._clock,
            self._append_line,
            self._people.look_up,
            self._current,
            self._budget,
            self._caps,
            self._keyring,
            self.sender,
            base_url(config.public_url, config.trusted_proxies),
            self._seat.counters,
            meter,
            call_soon,
            report=report,
            explain_key=config.explain_key,
        )

    def routes(self) -> Routes:
        """Everything but `/ad`."""
        config, counters = self._config, self._seat.counters
        shared = (self._answers, self._clock, self._append_line)
        tracking = Tracking(
            *shared,
            self._current,
            self._keyring,
            self.sender,
            counters,
            impression_window_s=config.impression_window_s,
            click_window_s=config.click_window_s,
        )
        conversions = Conversions(*shared, self._current, self._keyring, self.sender, counters)
        return {**tracking.routes(), **conversions.routes(), **Assets(self._answers).routes()}

    def keep_lines(self, keep: Callable[[], None]) -> None:
        """Budgets write lines that no answer waits for: this has them written."""
        self._budget.keep = keep

    # -- while it runs -----------------------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop) -> "list[asyncio.Task[None]]":
        """The tasks, none of which ends by itself."""
        return [
            loop.create_task(self._feed.run(), name="catalog"),
            loop.create_task(self._shelf.run(), name="catalog's shelf"),
            loop.create_task(self._steward.run(), name="steward"),
            *(loop.create_task(reader.run(), name="reader of people") for reader in self._readers),
        ]

    def first_connections(self) -> list[Awaitable[object]]:
        """What should be there before the first request."""
        readers = (reader.connected.wait() for reader in self._readers)
        return [self._steward.connected.wait(), *readers]

    @property
    def readers(self) -> Sequence[Reader[Unavailable]]:
        """Those of people, of which one has to be connected for what has a cap to be shown."""
        return self._readers

    async def first_catalog(self) -> None:
        """Until there is a catalog, and the newest if PostgreSQL is there. A large one takes seconds."""
        await self._feed.has_looked.wait()
        if self._steward.connected.is_set():
            await self._feed.has_asked.wait()

    def tick(self, now: float) -> None:
        """A few times a second: time limits, gauges, budgets. After the tick of the other lookups."""
        self._people.expire(now)
        self._seat.gauges[Gauge.LOOKUPS_WAITING] += self._waiting[Gauge.LOOKUPS_WAITING]
        self._feed.tend(now)
        if not self._leaving:
            self._budget.tick()
        if now >= self._look_at_s:
            self._look_at_s = now + LOOK_EVERY_S
            self._geography.look()
        if now >= self._count_at_s:
            self._count_at_s = now + COUNT_EVERY_S
            gauges = self._seat.gauges
            held, unused, waiting = self._budget.figures
            gauges[Gauge.LEASES_HELD], gauges[Gauge.LEASED_UNUSED] = held, unused
            gauges[Gauge.CAMPAIGNS_WAITING] = waiting

    def why_not_ready(self) -> str:
        if self._current.serving is None:
            return "No catalog has been loaded: PostgreSQL is away, and there is no snapshot."
        if not self._keyring.ready:
            return "There is no key to sign links with: PostgreSQL has not been asked for one yet."
        return ""

    # -- the end -----------------------------------------------------------------------------------

    def stop_serving(self) -> None:
        """No decision follows."""
        self._leaving = True
        self._budget.leave()
        self._budget.hurry()

    async def farewell(self) -> None:
        """Behind the writer's end: wait a moment until everything is given back."""
        until = time.monotonic() + FAREWELL_S
        self._budget.hurry()
        while not self._budget.gone and self._steward.connected.is_set():
            if time.monotonic() > until:
                return
            await asyncio.sleep(0.01)
