"""Rows by key: many requests, one cursor, one query at a time.

An asynchronous connection takes one query at a time. So while the cursor is busy the keys that are
asked for gather, and the next query takes them all: the batch grows with the load and no timer delays
anybody. *Measured* on one connection: one key per query 3,400 lookups/s, 64 keys 70,000–110,000/s.

- Keys wait in one line for all readers of the worker (`--readers`), each of which owns a connection and
  takes the next batch when it is free.
- The same key asked for twice in a batch is asked of PostgreSQL once.
- Everything has a bound: the keys in line (past it `look_up` says no at once), the callers per worker,
  the batch, and the time anybody waits, in line and for the query together: after `timeout_s` the answer
  is UNAVAILABLE, give or take the quarter of a second between two looks at the clock. The query itself
  is ended by the server after as long; a server that does not is given up a second later.
- How many keys a batch may have goes by what full ones take: twice as many after a quick one that has left
  as many behind (or would have, were they not sent away), half as many after a slow one. A reader sends one
  batch a round of the loop, and in an overload rounds are long: with 256 keys at most, half of what
  PostgreSQL could look up was asked of it, and the rest of the requests were sent away, which made the rounds
  longer still (*measured*, four times the peak: 58 % of the peak was answered in time, now 93 %). But where
  PostgreSQL takes a millisecond a key, as from a cold disk, thousands of them would miss their deadline; and
  a batch of all who wait has the worker and PostgreSQL wait for each other by turns (*measured*, 500
  connections: 8 % fewer lookups), so after one that was not full they are smaller again.
- The line is no longer than what the quickest of the last full batches promises for `STANDS_AFTER_S`, and
  past that `is_crowded` says that whoever comes had better be sent away before any work is done for him.
  A batch that is not full promises nothing: it has left nobody behind.
- A line that stands is cut: the quickest batch promises too much where the processor is shared with all
  the others. When the oldest key has waited `STANDS_AFTER_S` at two looks, the line is bound to what was
  answered in that time, and the oldest beyond it are given up. In line for `timeout_s`, everybody who is
  answered would be answered too late (*measured*, at five times what PostgreSQL looks up: 14 % of that was
  answered within a second).
- A connection that dies under a batch puts the batch back in front of the line: reading twice is harmless.
- When no reader has had a connection for `AWAY_AFTER_S`, PostgreSQL is away and `look_up` says no at once
  until one has. A restart that is quicker than that costs its callers some waiting and no answer.

Must not know: HTTP, what the rows mean.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from prefork_ads.db.connection import (
    AsyncConnection,
    Backoff,
    ConnectionLost,
    StatementFailed,
    StatementTimeout,
    open_connection,
)
from prefork_ads.errors import DatabaseUnavailable
from prefork_ads.metrics import LOOKUP_KEYS, LOOKUP_MICROSECONDS, Cells, Counter, Gauge

# How long all readers may be without a connection before nobody is let into the line any more.
AWAY_AFTER_S: Final = 1.0

# How long a lookup may wait in a line that does not get shorter, and how short such a line is made at most.
STANDS_AFTER_S: Final = 0.4
SHORTEST_LINE: Final = 64
# What full batches promise is told from those of so many looks: a large one takes as long as a look is apart.
LOOKS: Final = 4

# How many keys the first batch may have, and any batch, unless `--read-batch` is less; what a batch may take
# to be followed by larger ones, and by smaller ones: no more than an eighth and a quarter of the time limit.
FIRST_BATCH: Final = 256
SHORTEST_BATCH: Final = 32
QUICK_S: Final = STANDS_AFTER_S / 2
SLOW_S: Final = STANDS_AFTER_S

# A connection that lasted longer has done nothing to deserve a pause before the next.
STABLE_AFTER_S: Final = 2.0

# A standby ends a query that stands in the way of what it has to replay (40001): ask again.
_ASK_AGAIN: Final = "40"

# The table was changed under the prepared statement ("cached plan must not change result type"), or
# somebody between us and PostgreSQL has dropped it: a new connection prepares it anew.
_PREPARE_AGAIN: Final = ("0A000", "26000")

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
        self._most = batch
        self._least = min(SHORTEST_BATCH, batch)
        self._batch = min(FIRST_BATCH, batch)
        # A batch of twice as many is to end in time, too, and who is in it has waited before.
        self._quick_s = min(QUICK_S, timeout_s / 8)
        self._slow_s = min(SLOW_S, timeout_s / 4)
        self._bound = self._bound_now = bound
        self._timeout_s = timeout_s
        self._gauges = gauges
        # In the order of arrival; a batch that is put back goes to the front.
        self._line: dict[str, _Waiting[U]] = {}
        # What a query has been sent for; there is no more than one batch per reader.
        self._under_way: dict[int, dict[str, _Waiting[U]]] = {}
        self._callers = 0
        self._idle: list[asyncio.Future[None]] = []
        # Advanced by `expire`; deadlines are in seconds, a fraction of one does not matter.
        self._now = time.monotonic()
        self._readers = 0
        self._no_reader_since = self._now
        self._answered = 0
        self._stood = False
        # Full batches since the last look, and since the ones before: two at least are to be in them.
        self._full_batches, self._promised_per_s = 0, 0.0
        self._looks: deque[tuple[int, float]] = deque(maxlen=LOOKS)

    @property
    def is_crowded(self) -> bool:
        """Whether the line is shorter than it may be, because it would not be worked off in time."""
        return 0 < self._bound_now < self._bound

    def is_full(self) -> bool:
        return self._callers >= self._bound_now

    def look_up(self, key: str, deliver: Callable[[Row | None | U], None]) -> bool:
        """Get in line. Otherwise, when it is full or PostgreSQL is away, False.

        `deliver` is called exactly once, later, for who is in line.
        """
        if self._callers >= self._bound_now:
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
        self._under_way[id(batch)] = batch
        return batch

    def put_back(self, batch: "dict[str, _Waiting[U]]") -> None:
        """A batch that got no answer, to the front; who also asked in the meantime joins it."""
        del self._under_way[id(batch)]
        batch = {key: waiting for key, waiting in batch.items() if waiting.delivers}
        for key, waiting in self._line.items():
            if key in batch:
                batch[key].delivers += waiting.delivers
            else:
                batch[key] = waiting
        self._line = batch
        if self._line:
            self._wake_one()

    def deliver(self, batch: "dict[str, _Waiting[U]]", rows: dict[str, Row], took_s: float) -> None:
        """Hand each caller its row, or None where there is none."""
        del self._under_way[id(batch)]
        if len(batch) >= self._batch and took_s:
            self._full_batches += 1
            self._promised_per_s = max(self._promised_per_s, len(batch) / took_s)
            if took_s > self._slow_s:
                self._halve_batches()
            elif took_s < self._quick_s and (self.is_crowded or len(self._line) >= 2 * self._batch):
                self._batch = min(2 * self._batch, self._most)
        elif self._batch > FIRST_BATCH and len(self._line) < self._batch and not self.is_crowded:
            self._halve_batches()
        for key, waiting in batch.items():
            row = rows.get(key)
            self._callers -= len(waiting.delivers)
            self._answered += len(waiting.delivers)
            for deliver in waiting.delivers:
                try:
                    deliver(row)
                except Exception as error:  # noqa: BLE001 - see `_caller_failed`
                    _caller_failed(error)

    def fail(self, batch: "dict[str, _Waiting[U]]") -> None:
        """Tell the callers of a batch that there is no answer."""
        del self._under_way[id(batch)]
        # It may have been too much to ask.
        self._halve_batches()
        for waiting in batch.values():
            self._give_up(waiting)

    def reader_connected(self) -> None:
        self._readers += 1
        self._bound_now = self._bound

    def reader_lost(self) -> None:
        self._readers -= 1
        if self._readers == 0:
            self._no_reader_since = time.monotonic()
            # What batches took says nothing about a pause.
            self._bound_now, self._full_batches = self._bound, 0
            self._looks.clear()

    def expire(self, now: float) -> None:
        """Answer those who have waited too long; called a few times a second."""
        self._cut_if_it_stands(now - self._now, now)
        self._now = now
        self._gauges[Gauge.LOOKUPS_WAITING] = self._callers
        if self._readers == 0 and now - self._no_reader_since >= AWAY_AFTER_S:
            self._bound_now = 0
        oldest = now - self._timeout_s
        # Nearly in order of arrival: who is put back is older than who came later.
        late = []
        for key, waiting in self._line.items():
            if waiting.since > oldest:
                break
            late.append(key)
        for key in late:
            self._give_up(self._line.pop(key))
        for batch in list(self._under_way.values()):
            for waiting in batch.values():
                if waiting.since <= oldest:
                    self._give_up(waiting)
        # Readers with nothing to do see whether their connections still stand.
        while self._idle:
            self._wake_one()

    def _halve_batches(self) -> None:
        self._batch = max(self._batch // 2, self._least)

    def _cut_if_it_stands(self, apart_s: float, now: float) -> None:
        """And say how long it may be. A pause of PostgreSQL fills it, too: it is cut while answers come."""
        longest = self._promised()
        answered, self._answered = self._answered, 0
        oldest = next(iter(self._line.values()), None)
        stands = oldest is not None and now - oldest.since > STANDS_AFTER_S
        stood, self._stood = self._stood, stands
        if stands and stood and answered and 0 < apart_s < 1:
            self._bound_now = min(longest, self._in_time(answered / apart_s))
            # A list: to find the first key of a dict that has lost many takes as long as they were many.
            for key in list(self._line):
                if self._callers <= self._bound_now:
                    break
                self._give_up(self._line.pop(key))
        elif self._bound_now:
            self._bound_now = min(self._bound_now if stands else 2 * self._bound_now, longest)

    def _promised(self) -> int:
        """How long the line may be by the full batches of the last looks. One may have met a pause."""
        self._looks.append((self._full_batches, self._promised_per_s))
        self._full_batches, self._promised_per_s = 0, 0.0
        if sum(one for one, _ in self._looks) < 2:
            return self._bound
        return min(self._bound, self._in_time(self._readers * max(one for _, one in self._looks)))

    def _in_time(self, per_s: float) -> int:
        return max(2 * self._batch, SHORTEST_LINE, int(per_s * STANDS_AFTER_S))

    def _give_up(self, waiting: "_Waiting[U]") -> None:
        """Whatever comes of the query later, it comes for nobody."""
        delivers, waiting.delivers = waiting.delivers, []
        self._callers -= len(delivers)
        for deliver in delivers:
            try:
                deliver(self.unavailable)
            except Exception as error:  # noqa: BLE001 - see `_caller_failed`
                _caller_failed(error)

    def _wake_one(self) -> None:
        """Wake one idle reader. One that was cancelled is in the list until its task has run."""
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                return


def _caller_failed(error: Exception) -> None:
    """A caller that fails on its answer is a bug of the caller: tell of it, and answer the others."""
    asyncio.get_running_loop().call_exception_handler(
        {"message": "A caller failed on what was looked up for it", "exception": error}
    )


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
        # Why it has no connection; empty when it has one, and before the first attempt is over.
        self.obstacle = ""

    async def run(self) -> None:
        """Serve until cancelled."""
        backoff = Backoff()
        lost_at = time.monotonic()
        told = False
        while True:
            try:
                connection = await open_connection(
                    self._dsn, role="prefork-ads reader", writes=False, set_up=self._set_up
                )
            except DatabaseUnavailable as error:
                self._report(f"reader: no connection: {error}")
                self.obstacle = str(error)
                told = True
                await asyncio.sleep(backoff.next_s())
                continue
            connected_at = time.monotonic()
            if told:
                self._report(f"reader: connected again after {connected_at - lost_at:.1f} s")
            self._came()
            try:
                await self._serve(connection)
            except ConnectionLost as error:
                self._report(f"reader: connection lost: {error}")
                told = True
            finally:
                connection.close()
                self._went()
            lost_at = time.monotonic()
            # Whatever ends each connection at once must not have us connect without pause.
            if lost_at - connected_at > STABLE_AFTER_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    def _came(self) -> None:
        self.connected.set()
        self.obstacle = ""
        self._gauges[Gauge.READERS_CONNECTED] += 1
        self._line.reader_connected()

    def _went(self) -> None:
        self.connected.clear()
        self._gauges[Gauge.READERS_CONNECTED] -= 1
        self._line.reader_lost()

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
                reason = str(error).partition("\n")[0]
                sqlstate = error.sqlstate if isinstance(error, StatementFailed) else ""
                if sqlstate in _PREPARE_AGAIN:
                    line.put_back(batch)
                    raise ConnectionLost(f"its prepared statement is stale: {reason}") from None
                self._report(f"reader: lookup failed: {reason}")
                if sqlstate.startswith(_ASK_AGAIN):
                    line.put_back(batch)
                else:
                    line.fail(batch)
                continue
            except BaseException:
                # Whatever ends this reader, nobody waits for it for ever.
                line.fail(batch)
                raise
            took_s = time.perf_counter() - started
            LOOKUP_MICROSECONDS.observe(counters, int(took_s * 1e6))
            LOOKUP_KEYS.observe(counters, len(batch))
            line.deliver(batch, rows, took_s)
