"""Event lines to PostgreSQL: many lines, one statement, each counted once.

The lines of a batch go as one text parameter, which PostgreSQL splits itself. *Measured* rows/s through
one aiopg connection: an INSERT per row 57,000, unnest of Python lists 40,000–50,000, this 145,000–190,000.

**Once.** The worker's lines are one stream of bytes with a name, and `journal_segment` says how much of
it is in the table. The statement that inserts a batch also moves that position from the batch's first
byte to its last, and inserts nothing unless the position was where the batch begins (the row lock makes
a statement that still runs on a connection we have given up finish first). So a batch whose outcome is
unknown is simply sent again, until the ledger says that it is in.

**Bounds.** Rows and bytes in memory are bounded; past either, `append` says no and the request gets 503.
A batch is bounded in rows and bytes, and waits for neither longer than `interval_s`.

**What PostgreSQL refuses.** A line that cannot become a row would stop all behind it: the batch is halved
until the line is found, the line is kept in `request_log_rejected`, and the rest goes on. Everything
else that can go wrong (no connection, disk full, a lock, a missing right) is waited out.

At the end of the process what PostgreSQL did not take in time is written to a file that \\copy loads.

Must not know: HTTP, what the lines mean beyond the day they begin with.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from prefork_ads.db.connection import (
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

# A statement that takes longer is ended by the server and tried again: better than a writer that
# waits for a lock for ever with nobody knowing.
STATEMENT_TIMEOUT_S = 30.0

# "no partition of relation found for row" comes as a check violation.
_NO_PARTITION = "23514"
# Cardinality, data and constraint: what a line itself can cause.
_DATA_ERRORS = ("21", "22", "23")
_DATE = slice(0, 10)
_NEWLINE = 1


@dataclass(frozen=True, slots=True)
class Batching:
    """When a batch goes, and what is held at most."""

    rows: int
    bytes: int
    interval_s: float
    max_rows: int
    max_bytes: int


class LedgerBroken(Exception):
    """Somebody else moved the ledger: nobody can say any more what is in the table."""


class Writer:
    """One connection and the lines that wait for it. `run` is its one owner."""

    def __init__(
        self,
        dsn: str,
        segment: str,
        batching: Batching,
        counters: Cells,
        gauges: Cells,
        report: Callable[[str], None],
    ) -> None:
        """`segment` names this process's stream of lines, unlike any other's, ever."""
        self._dsn = dsn
        self._segment = segment
        self._batching = batching
        self._counters = counters
        self._gauges = gauges
        self._report = report
        self._lines: list[bytes] = []
        self._size = 0
        self._shipped_bytes = 0
        self._under_way: list[bytes] = []
        self._wake: asyncio.Future[None] | None = None
        self._stopping = False
        self.connected = asyncio.Event()

    # -- the hot path ------------------------------------------------------------------------------

    def append(self, line: bytes) -> bool:
        """Take one line. False: too many wait already, and the line is not kept."""
        lines, batching = self._lines, self._batching
        if len(lines) >= batching.max_rows or self._size >= batching.max_bytes:
            return False
        lines.append(line)
        self._size += len(line) + _NEWLINE
        if self._wake is not None and (
            len(lines) >= batching.rows or self._size >= batching.bytes or self._stopping
        ):
            self._wake_up()
        return True

    # -- the owner task ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Ship until `stop` was called and nothing is left."""
        backoff = Backoff()
        while not (self._stopping and not self._waiting_rows()):
            try:
                connection = await open_connection(
                    self._dsn,
                    role="prefork-ads writer",
                    set_up=(f"SET statement_timeout = {int(STATEMENT_TIMEOUT_S * 1000)}",),
                )
            except DatabaseUnavailable as error:
                self._report(f"writer: no connection: {error}")
                await asyncio.sleep(backoff.next_s())
                continue
            try:
                await self._serve(connection, backoff)
            except ConnectionLost as error:
                self._counters[Counter.LOG_FAILURES] += bool(self._under_way)
                self._report(f"writer: connection lost: {error}")
            except (StatementTimeout, StatementFailed) as error:
                self._counters[Counter.LOG_FAILURES] += 1
                self._report(f"writer: the log cannot be written: {error}")
            finally:
                self.connected.clear()
                self._gauges[Gauge.WRITER_CONNECTED] = 0
                connection.close()
            if not self._stopping or self._waiting_rows():
                await asyncio.sleep(backoff.next_s())

    def stop(self) -> None:
        """Ship what waits without waiting for more; `run` returns when it is all in."""
        self._stopping = True
        self._wake_up()

    def measure(self) -> None:
        """Set the gauges; called a few times a second."""
        self._gauges[Gauge.LOG_ROWS_WAITING] = self._waiting_rows()
        under_way = sum(map(len, self._under_way)) + len(self._under_way) * _NEWLINE
        self._gauges[Gauge.LOG_BYTES_WAITING] = self._size + under_way

    def rescue(self, directory: Path) -> Path | None:
        """Write what is not in PostgreSQL to a file for \\copy; None when nothing is left.

        Only after `run` has ended. A batch whose outcome is unknown is in the file, too, with its
        position in the file's name: the ledger's position says whether it counted. Raises OSError.
        """
        left = self._under_way + self._lines
        if not left:
            return None
        # With somebody else's database nothing has needed the directory so far.
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"unsent-{self._segment}-from-{self._shipped_bytes}.tsv"
        # Who asked for what is nobody's business; and no link leads us out of a shared directory.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(b"\n".join(left) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return path

    def _waiting_rows(self) -> int:
        return len(self._under_way) + len(self._lines)

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _serve(self, connection: AsyncConnection, backoff: Backoff) -> None:
        await connection.execute(
            query("journal_segment_open"),
            {"segment": self._segment, "shipped": self._shipped_bytes},
            timeout_s=STATEMENT_TIMEOUT_S,
        )
        self.connected.set()
        self._gauges[Gauge.WRITER_CONNECTED] = 1
        while await self._next_batch(connection):
            await self._ship(connection)
            backoff.reset()
        await connection.execute(
            query("journal_segment_close"),
            {"segment": self._segment},
            timeout_s=STATEMENT_TIMEOUT_S,
        )

    async def _next_batch(self, connection: AsyncConnection) -> bool:
        """Wait until a batch is due and put it under way. False: stopping, and nothing is left."""
        if self._under_way:
            # A batch that was under way when the last connection was lost.
            return True
        batching = self._batching
        if not self._stopping and len(self._lines) < batching.rows and self._size < batching.bytes:
            await self._wait(batching.interval_s)
        while not self._lines and not self._stopping:
            if connection.closed:
                # Noticed now, it is replaced before anything has to wait for that.
                raise ConnectionLost("PostgreSQL closed it")
            await self._wait(batching.interval_s)
        self._under_way = self._cut()
        return bool(self._under_way)

    async def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        timer = loop.call_later(seconds, self._wake_up)
        try:
            await self._wake
        finally:
            timer.cancel()
            self._wake = None

    def _cut(self) -> list[bytes]:
        """The next lines, within the bounds of a batch and at least one."""
        lines, batching = self._lines, self._batching
        count = min(len(lines), batching.rows)
        if self._size > batching.bytes:
            sizes = accumulate(len(line) + _NEWLINE for line in lines[:count])
            count = max(1, sum(1 for size in sizes if size <= batching.bytes))
        batch = lines[:count]
        del lines[:count]
        self._size -= sum(map(len, batch)) + len(batch) * _NEWLINE
        return batch

    # -- shipping ----------------------------------------------------------------------------------

    async def _ship(self, connection: AsyncConnection) -> None:
        """Get everything under way in; whatever fails in between, the rest stays under way."""
        count = len(self._under_way)
        made_partitions = False
        while self._under_way:
            piece = self._under_way[:count]
            try:
                await self._insert(connection, piece)
            except StatementFailed as error:
                if error.sqlstate == _NO_PARTITION and not made_partitions:
                    await self._make_partitions(connection, piece)
                    made_partitions = True
                    continue
                if error.sqlstate[:2] not in _DATA_ERRORS:
                    raise
                if count > 1:
                    count //= 2
                    continue
                await self._reject(connection, piece[0], str(error))
            del self._under_way[: len(piece)]
            # The bad one is behind us, or still ahead: larger pieces either way.
            count *= 2

    async def _insert(self, connection: AsyncConnection, batch: list[bytes]) -> None:
        text = b"\n".join(batch)
        # Each backslash of a plain batch is one of a NULL's; an escaped one may look so and is not.
        escaped = b"\\\\" in text or text.count(b"\\") != text.count(b"\\N")
        statement = "log_insert" if escaped else "log_insert_plain"
        started = time.perf_counter()
        await self._move(connection, statement, {"lines": text.decode()}, len(text) + _NEWLINE)
        self._counters[Counter.LOG_BATCHES] += 1
        self._counters[Counter.LOG_ROWS] += len(batch)
        self._counters[Counter.LOG_MICROSECONDS] += int((time.perf_counter() - started) * 1e6)

    async def _move(
        self, connection: AsyncConnection, name: str, parameters: dict[str, str], size: int
    ) -> None:
        """Run a statement that takes effect only if the ledger stands where this batch begins."""
        after = self._shipped_bytes + size
        await connection.execute(
            query(name),
            {
                **parameters,
                "segment": self._segment,
                "before": self._shipped_bytes,
                "after": after,
            },
            timeout_s=STATEMENT_TIMEOUT_S + 1.0,
        )
        # Its last result is the ledger's position: `after`, whether this attempt moved it or an
        # earlier one whose answer we did not get.
        rows = connection.rows()
        if not rows:
            raise ConnectionLost("its row in journal_segment is gone; it is made again")
        position = rows[0][0]
        if position != after:
            raise LedgerBroken(f"ledger of {self._segment} at {position}, expected {after}")
        self._shipped_bytes = after

    async def _make_partitions(self, connection: AsyncConnection, batch: list[bytes]) -> None:
        # Day by day: a clock that jumped while we gathered must not ask for fifty years of days.
        for day in sorted({line[_DATE].decode() for line in batch}):
            await connection.execute(
                query("request_log_ensure"),
                {"first_day": day, "last_day": day},
                timeout_s=STATEMENT_TIMEOUT_S,
            )

    async def _reject(self, connection: AsyncConnection, line: bytes, reason: str) -> None:
        self._report(f"writer: PostgreSQL refused an event, kept in request_log_rejected: {reason}")
        await self._move(
            connection,
            "log_reject",
            {"line": line.decode(), "reason": reason},
            len(line) + _NEWLINE,
        )
        self._counters[Counter.LOG_ROWS_REJECTED] += 1
