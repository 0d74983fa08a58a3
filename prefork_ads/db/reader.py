"""Rows by key: many requests, one cursor, one query at a time.

An asynchronous connection takes one query at a time. So while the cursor is busy the keys that are
asked for gather, and the next query takes them all: the batch grows with the load and no timer delays
anybody. *Measured* on one connection: one key per query 3,400 lookups/s, 64 keys 70,000–110,000/s.

- Keys wait in one line for all readers of the worker (`--readers`), each of which owns a connection and
  takes the next batch when it is free.
- The same key asked for twice in a batch is asked of PostgreSQL once.
- Everything has a bound: the keys in line (past it `look_up` says no at once), the callers per worker,
  the batch, and the time anybody waits: `timeout_s` in line and as long again for the query, which the
  server ends then (a server that does not is given up a second later). Then the answer is UNAVAILABLE.
- A connection that dies under a batch puts the batch back in front of the line: reading twice is harmless.

Must not know: HTTP, what the rows mean.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from prefork_ads.db.connection import (
    AsyncConnection,
    Backoff,
    ConnectionLost,
    StatementFailed,
    StatementTimeout,
    open_connection,
)
from prefork_ads.errors import DatabaseUnavailable
from prefork_ads.metrics import Cells, Counter, Gauge

# The table was changed under the prepared statement ("cached plan must not change result type"), or
# somebody between us and PostgreSQL has dropped it: a new connection prepares it anew.
_PREPARE_AGAIN = ("0A000", "26000")

Row = tuple[Any, ...]
U = TypeVar("U")


class _Waiting(Generic[U]):
    """Everybody who waits for one key."""

    __slots__ = ("delivers", "since")

    def __init__(self, deliver: Callable[[Row | None | U], None], since: float) -> None:
        self.delivers = [deliver]
        self.since = since


class LookupLine(Generic[U]):
    """The keys in line. Shared by the readers of one worker, all in one loop."""

    def __init__(
        self, *, unavailable: U, batch: int, bound: int, timeout_s: float, gauges: Cells
    ) -> None:
        self.unavailable = unavailable
        self._batch = batch
        self._bound = bound
        self._timeout_s = timeout_s
        self._gauges = gauges
        # In the order of arrival; a batch that is put back goes to the front.
        self._line: dict[str, _Waiting[U]] = {}
        self._callers = 0
        self._idle: list[asyncio.Future[None]] = []
        # Advanced by `expire`; deadlines are in seconds, a fraction of one does not matter.
        self._now = time.monotonic()

    def look_up(self, key: str, deliver: Callable[[Row | None | U], None]) -> bool:
        """Get in line. False: the line is full. Otherwise `deliver` is called exactly once."""
        if self._callers >= self._bound:
            return False
        self._callers += 1
        waiting = self._line.get(key)
        if waiting is not None:
            waiting.delivers.append(deliver)
            return True
        self._line[key] = _Waiting(deliver, self._now)
        if self._idle:
            # The reader takes its batch after this tick's other requests have got in line.
            self._wake_one()
        return True

    async def take(self, connection: AsyncConnection) -> "dict[str, _Waiting[U]]":
        """The next batch for this connection, as soon as there is one. Raises ConnectionLost."""
        while not self._line:
            if connection.closed:
                raise ConnectionLost("PostgreSQL closed it")
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            try:
                await idle
            finally:
                if idle in self._idle:
                    self._idle.remove(idle)
        if len(self._line) <= self._batch:
            batch, self._line = self._line, {}
        else:
            keys = [key for key, _ in zip(self._line, range(self._batch), strict=False)]
            batch = {key: self._line.pop(key) for key in keys}
        return batch

    def put_back(self, batch: "dict[str, _Waiting[U]]") -> None:
        """A batch that got no answer, to the front; who also asked in the meantime joins it."""
        for key, waiting in self._line.items():
            if key in batch:
                batch[key].delivers += waiting.delivers
            else:
                batch[key] = waiting
        self._line = batch
        if self._line:
            self._wake_one()

    def deliver(self, batch: "dict[str, _Waiting[U]]", rows: dict[str, Row]) -> None:
        """Hand each caller its row, or None where there is none."""
        for key, waiting in batch.items():
            row = rows.get(key)
            self._callers -= len(waiting.delivers)
            for deliver in waiting.delivers:
                deliver(row)

    def fail(self, batch: "dict[str, _Waiting[U]]") -> None:
        for waiting in batch.values():
            self._callers -= len(waiting.delivers)
            for deliver in waiting.delivers:
                deliver(self.unavailable)

    def expire(self, now: float) -> None:
        """Answer those who have waited too long; called a few times a second."""
        self._now = now
        self._gauges[Gauge.LOOKUPS_WAITING] = self._callers
        oldest = now - self._timeout_s
        # Nearly in order of arrival: who is put back is older than who came later.
        late = []
        for key, waiting in self._line.items():
            if waiting.since > oldest:
                break
            late.append(key)
        if late:
            self.fail({key: self._line.pop(key) for key in late})
        # Readers with nothing to do see whether their connections still stand.
        while self._idle:
            self._wake_one()

    def _wake_one(self) -> None:
        """Wake one idle reader. One that was cancelled is in the list until its task has run."""
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                return


class Reader(Generic[U]):
    """One connection that serves the line. `run` is its one owner."""

    def __init__(
        self,
        line: LookupLine[U],
        dsn: str,
        *,
        prepare: str,
        statement: str,
        timeout_s: float,
        counters: Cells,
        gauges: Cells,
        report: Callable[[str], None],
    ) -> None:
        """`statement` takes %(keys)s, an array literal; its first column is the key as text."""
        self._line = line
        self._dsn = dsn
        self._timeout_s = timeout_s
        # The server gives up first, because a client that gives up has to close the connection.
        limit = f"SET statement_timeout = {int(timeout_s * 1000)}"
        self._set_up = (limit, "SET plan_cache_mode = force_generic_plan", prepare)
        self._statement = statement
        self._counters = counters
        self._gauges = gauges
        self._report = report
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled."""
        backoff = Backoff()
        while True:
            try:
                connection = await open_connection(
                    self._dsn, role="prefork-ads reader", set_up=self._set_up
                )
            except DatabaseUnavailable as error:
                self._report(f"reader: no connection: {error}")
                await asyncio.sleep(backoff.next_s())
                continue
            backoff.reset()
            self._gauges[Gauge.READERS_CONNECTED] += 1
            self.connected.set()
            try:
                await self._serve(connection)
            except ConnectionLost as error:
                self._report(f"reader: connection lost: {error}")
            finally:
                self.connected.clear()
                self._gauges[Gauge.READERS_CONNECTED] -= 1
                connection.close()
            # Whatever ends each connection at once must not have us connect without pause.
            await asyncio.sleep(backoff.next_s())

    async def _serve(self, connection: AsyncConnection) -> None:
        line, counters = self._line, self._counters
        while True:
            batch = await line.take(connection)
            started = time.perf_counter()
            try:
                await connection.execute(
                    self._statement,
                    {"keys": "{" + ",".join(batch) + "}"},
                    timeout_s=self._timeout_s + 1.0,
                )
                rows = {row[0]: row for row in connection.rows()}
            except ConnectionLost:
                counters[Counter.LOOKUP_FAILURES] += 1
                line.put_back(batch)
                raise
            except (StatementTimeout, StatementFailed) as error:
                counters[Counter.LOOKUP_FAILURES] += 1
                if isinstance(error, StatementFailed) and error.sqlstate in _PREPARE_AGAIN:
                    line.put_back(batch)
                    raise ConnectionLost(f"its prepared statement is stale: {error}") from None
                self._report(f"reader: lookup failed: {error}")
                line.fail(batch)
                continue
            except BaseException:
                # Whatever ends this reader, nobody waits for it for ever.
                line.fail(batch)
                raise
            counters[Counter.LOOKUP_BATCHES] += 1
            counters[Counter.LOOKUP_KEYS] += len(batch)
            counters[Counter.LOOKUP_MICROSECONDS] += int((time.perf_counter() - started) * 1e6)
            line.deliver(batch, rows)
