"""What a worker asks of PostgreSQL for itself, not for a request: catalog, keys, shares of budgets.

Each of these is an errand: a named query that is due every so often, or sooner when somebody hurries it.
One connection runs them one after the other, and its one owner is `run`. It also listens: a notification
hurries the errand it belongs to. Serving never waits for any of this; what an errand was told last holds
until it is told something else.

- Through a pooler that gives a server connection to each transaction no notification arrives, and one may
  be lost with a connection. So nothing relies on them: the errand's own period is the promise.
- An errand that fails or is slow must not keep the others waiting for long: the server ends a statement
  after the errand's `limit_s`, and one that waits for a lock after LOCK_LIMIT_S.
- An errand that raises is a bug: it is reported, and the others are run all the same.
- When the connection is lost under an errand, whether it took effect is unknown. It is told that it has
  failed, so what it asks must be harmless when asked twice: absolute values, no increments.
- Each new connection asks everything at once: whatever happened meanwhile, nothing is older than that.
- A hurried errand waits for HURRY_GAP_S after its last start: a thousand notifications are some queries.

*Measured*, a NOTIFY on the same machine to the start of the errand's query: 0.3 ms.

Must not know: what the errands are about.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from prefork_ads.db.connection import (
    READ_COMMITTED,
    AsyncConnection,
    Backoff,
    ConnectionLost,
    StatementFailed,
    StatementTimeout,
    open_connection,
)
from prefork_ads.db.queries import query
from prefork_ads.errors import DatabaseUnavailable
from prefork_ads.metrics import Cells, Counter, Gauge

# What an errand may take that does not say anything else, and how long it may wait for a lock.
LIMIT_S: Final = 2.0
LOCK_LIMIT_S: Final = 0.5
# Between two starts of an errand, however often it is hurried.
HURRY_GAP_S: Final = 0.02
# How soon a connection that died between two errands is noticed.
LOOK_EVERY_S: Final = 0.25
# A connection that lasted longer has done nothing to deserve a pause before the next.
STABLE_AFTER_S: Final = 2.0

Row = tuple[Any, ...]


class Errand(Protocol):
    """Something that is asked again and again.

    One whose statement may take longer than others' says so in a member `limit_s`.
    """

    @property
    def every_s(self) -> float:
        """How often, in seconds."""

    def ask(self) -> tuple[str, Mapping[str, Any]] | None:
        """The name of a query and its parameters; None: nothing now."""

    def answered(self, rows: list[Row]) -> None:
        """The rows of the last result."""

    def failed(self) -> None:
        """Nobody knows whether it took effect."""


class Steward:
    """One connection, and the errands that it runs. `run` is its one owner."""

    def __init__(
        self,
        dsn: str,
        errands: Sequence[Errand],
        *,
        counters: Cells,
        gauges: Cells,
        report: Callable[[str], None],
        channel: str = "",
        heard: Errand | None = None,
    ) -> None:
        """A notification on `channel` hurries the errand `heard`."""
        self._dsn = dsn
        self._due = dict.fromkeys(errands, 0.0)
        self._started = dict.fromkeys(errands, 0.0)
        self._heard = heard
        self._counters = counters
        self._gauges = gauges
        self._report = report
        limits = (
            f"SET statement_timeout = {int(LIMIT_S * 1000)};"
            f" SET lock_timeout = {int(LOCK_LIMIT_S * 1000)}; {READ_COMMITTED}"
        )
        self._set_up = (limits, f"LISTEN {channel}") if channel else (limits,)
        self._wake: asyncio.Future[None] | None = None
        self.connected = asyncio.Event()

    def hurry(self, errand: Errand) -> None:
        """It is due now; if it is under way, it is due again."""
        self._due[errand] = self._started[errand] + HURRY_GAP_S
        self._wake_up()

    async def run(self) -> None:
        """Run errands until cancelled."""
        backoff = Backoff()
        lost_at = time.monotonic()
        told = False
        while True:
            try:
                connection = await open_connection(
                    self._dsn, role="prefork-ads steward", set_up=self._set_up
                )
            except DatabaseUnavailable as error:
                self._report(f"steward: no connection: {error}")
                told = True
                await asyncio.sleep(backoff.next_s())
                continue
            connected_at = time.monotonic()
            if told:
                self._report(f"steward: connected again after {connected_at - lost_at:.1f} s")
            try:
                await self._serve(connection)
            except ConnectionLost as error:
                self._report(f"steward: connection lost: {error}")
                told = True
            lost_at = time.monotonic()
            # Whatever ends each connection at once must not have us connect without pause.
            if lost_at - connected_at > STABLE_AFTER_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def _serve(self, connection: AsyncConnection) -> None:
        """Until the connection is lost. Raises ConnectionLost."""
        self._came()
        listening = asyncio.get_running_loop().create_task(self._listen(connection))
        try:
            while True:
                if connection.closed:
                    raise ConnectionLost("PostgreSQL closed it")
                errand = min(self._due, key=self._due.__getitem__)
                left_s = self._due[errand] - time.monotonic()
                if left_s > 0:
                    await self._pause(min(left_s, LOOK_EVERY_S))
                else:
                    await self._run_safely(connection, errand)
                    connection.hear()
        finally:
            listening.cancel()
            connection.close()
            self._went()
            await asyncio.gather(listening, return_exceptions=True)

    def _came(self) -> None:
        self._due = dict.fromkeys(self._due, 0.0)
        self.connected.set()
        self._gauges[Gauge.STEWARD_CONNECTED] = 1

    def _went(self) -> None:
        self.connected.clear()
        self._gauges[Gauge.STEWARD_CONNECTED] = 0

    async def _listen(self, connection: AsyncConnection) -> None:
        while True:
            await connection.notified()
            if self._heard is not None:
                self.hurry(self._heard)

    async def _run_safely(self, connection: AsyncConnection, errand: Errand) -> None:
        """An errand with a bug is reported and run again in its time: the worker has other things to do."""
        try:
            await self._run(connection, errand)
        except ConnectionLost:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other errands are well
            self._counters[Counter.ERRANDS_FAILED] += 1
            what = f"{type(errand).__name__}: {type(error).__name__}: {error}"
            self._report(f"steward: an errand is broken: {what}")

    async def _run(self, connection: AsyncConnection, errand: Errand) -> None:
        started = time.monotonic()
        self._started[errand] = started
        # Before asking: a hurry that comes while it is under way must not be forgotten.
        self._due[errand] = started + errand.every_s
        asked = errand.ask()
        if asked is None:
            return
        name, parameters = asked
        limit_s: float = getattr(errand, "limit_s", LIMIT_S)
        limit = (
            f"SET LOCAL statement_timeout = {int(limit_s * 1000)};" if limit_s != LIMIT_S else ""
        )
        try:
            await connection.execute(limit + query(name), parameters, timeout_s=limit_s + 1.0)
            rows = connection.rows()
        except ConnectionLost:
            self._counters[Counter.ERRANDS_FAILED] += 1
            errand.failed()
            raise
        except (StatementTimeout, StatementFailed) as error:
            self._counters[Counter.ERRANDS_FAILED] += 1
            self._report(f"steward: {name} failed: {str(error).partition(chr(10))[0]}")
            errand.failed()
            return
        errand.answered(rows)

    async def _pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        timer = loop.call_later(seconds, self._wake_up)
        try:
            await self._wake
        finally:
            timer.cancel()
            self._wake = None

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
