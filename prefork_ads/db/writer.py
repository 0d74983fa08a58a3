"""Event lines to PostgreSQL: what the journal holds, many lines in one statement, each counted once.

The endpoints give their lines to the journal; the writer takes them from there in batches, reading the
file back (it is in the page cache), and tells the journal what is in the table. So the lines of a
PostgreSQL that is away for an hour cost no memory. What is sent and what an answer means is decided in
`shipping`; this is the connection to it.

A batch goes when it is full or when its first line has waited for `interval_s`.

When PostgreSQL is reached, the ledger is asked first where it stands for all that we still have: after
a fail-over to a replica that lags it may stand behind us, and what it has lost is sent again.

What is not because of a line (no connection, disk full, a lock, a missing right) is waited out.

What lines say about ads is read before they go, a millisecond at a time: the loop serves in between.

Must not know: HTTP, files, what the lines mean.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
from prefork_ads.db.shipping import (
    TEXT_SETTINGS,
    Attribution,
    LedgerBroken,
    LedgerMoved,
    Pace,
    Shipment,
    Statement,
    prepare,
)
from prefork_ads.errors import DatabaseUnavailable
from prefork_ads.events.lines import Batch
from prefork_ads.metrics import INSERT_MICROSECONDS, INSERT_ROWS, Cells, Counter, Gauge

# A statement that takes longer is ended by the server and tried again: better than a writer that
# waits for a lock for ever with nobody knowing. A batch takes milliseconds; and a peer that hangs keeps
# us from the next host for that long, and a second more until we give it up ourselves.
STATEMENT_TIMEOUT_S = 10.0
_GIVE_UP_S = STATEMENT_TIMEOUT_S + 1.0

Row = tuple[Any, ...]
# What is shipped goes away this often, in a thread: removing a large file can take a while.
TIDY_EVERY_S = 1.0

# No statement_timeout ends a COPY that waits for its client's data, and it holds the ledger's row
# meanwhile. So a server to which we have vanished must notice soon: its own default is two hours.
_NOTICE_US_GONE = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
)
_SET_UP = (
    f"SET statement_timeout = {int(STATEMENT_TIMEOUT_S * 1000)}; {TEXT_SETTINGS}",
    f"{_NOTICE_US_GONE}; {READ_COMMITTED}",
)


class Source(Protocol):
    """The journal, as the writer needs it."""

    on_backlog: Callable[[], None] | None
    backlog_threshold: int

    @property
    def backlog_bytes(self) -> int:
        """Bytes that are not shipped."""

    def segments(self) -> list[tuple[str, int, int]]:
        """Name, shipped bytes and written bytes of each segment that is held, oldest first."""

    def next_batch(self, max_rows: int, max_bytes: int) -> Batch | None:
        """The oldest lines that are not shipped."""

    def shipped(self, batch: Batch) -> None:
        """The database has it."""

    def rewind(self, segment: str, position: int) -> bool:
        """Go on from there; False: that is not at hand any more."""

    def drop_shipped(self) -> list[str]:
        """Remove files that are shipped; the names whose ledger rows may be closed. Made for a thread."""

    def close(self) -> list[str]:
        """Let go of everything; the names whose ledger rows may be closed."""


@dataclass(frozen=True, slots=True)
class Batching:
    """When a batch goes."""

    rows: int
    bytes: int
    interval_s: float


class Writer:
    """One connection, and the journal whose lines it ships. `run` is its one owner."""

    def __init__(
        self,
        dsn: str,
        journal: Source,
        batching: Batching,
        counters: Cells,
        gauges: Cells,
        report: Callable[[str], None],
        attribution: Attribution | None = None,
    ) -> None:
        self._dsn = dsn
        self._journal = journal
        self._batching = batching
        self._attribution = attribution or Attribution()
        self._pace = Pace(batching.rows)
        self._counters = counters
        self._gauges = gauges
        self._report = report
        self._wake: asyncio.Future[None] | None = None
        self._stopping = False
        # By connection.
        self._opened: set[str] = set()
        self._under_way = False
        self._tidy_at = 0.0
        # Since when nothing could be written, if somebody was told.
        self._trouble_at: float | None = None
        # For life: rows of the ledger that nobody needs, until PostgreSQL has taken them out.
        self._done_with: list[str] = []
        self.connected = asyncio.Event()
        journal.backlog_threshold = batching.bytes

    async def run(self) -> None:
        """Ship until `stop` was called and nothing is left; then the journal is closed.

        Raises LedgerBroken, and OSError when the journal cannot be read.
        """
        backoff = Backoff()
        while not self._finished():
            try:
                connection = await open_connection(
                    self._dsn, role="prefork-ads writer", set_up=_SET_UP
                )
            except DatabaseUnavailable as error:
                self._tell(f"no connection: {error}")
                await asyncio.sleep(backoff.next_s())
                continue
            try:
                await self._serve(connection, backoff)
            except ConnectionLost as error:
                self._counters[Counter.LOG_FAILURES] += self._under_way
                self._tell(f"connection lost: {error}")
            except (StatementTimeout, StatementFailed) as error:
                self._counters[Counter.LOG_FAILURES] += 1
                reason = str(error).partition("\n")[0]
                self._tell(f"the log cannot be written: {reason}")
            finally:
                self.connected.clear()
                self._gauges[Gauge.WRITER_CONNECTED] = 0
                connection.close()
            if not self._finished():
                await asyncio.sleep(backoff.next_s())
        await asyncio.to_thread(self._journal.close)

    def stop(self) -> None:
        """Ship what waits without waiting for more; `run` returns when it is all in."""
        self._stopping = True
        self._wake_up()

    def _tell(self, trouble: str) -> None:
        if self._trouble_at is None:
            self._trouble_at = time.monotonic()
        self._report(f"writer: {trouble}")

    def _well_again(self) -> None:
        if self._trouble_at is not None:
            seconds, self._trouble_at = time.monotonic() - self._trouble_at, None
            self._report(f"writer: the log is written again after {seconds:.1f} s")

    def _finished(self) -> bool:
        return self._stopping and not self._journal.backlog_bytes

    async def _serve(self, connection: AsyncConnection, backoff: Backoff) -> None:
        self._opened.clear()
        self._under_way = False
        await self._compare(connection)
        self.connected.set()
        self._gauges[Gauge.WRITER_CONNECTED] = 1
        if not self._journal.backlog_bytes:
            self._well_again()
        while (batch := await self._next_batch(connection)) is not None:
            self._under_way = True
            await self._ship(connection, batch)
            self._under_way = False
            self._well_again()
            backoff.reset()
            await self._tidy(connection)
        self._done_with += await asyncio.to_thread(self._journal.close)
        await self._forget(connection)

    # -- when a batch is due -----------------------------------------------------------------------

    async def _next_batch(self, connection: AsyncConnection) -> Batch | None:
        """Wait until a batch is due. None: stopping, and nothing is left."""
        journal = self._journal
        if not self._stopping and journal.backlog_bytes < journal.backlog_threshold:
            await self._wait()
        while True:
            if connection.closed:
                # Noticed now, it is replaced before anything has to wait for that.
                raise ConnectionLost("PostgreSQL closed it")
            batch = journal.next_batch(self._pace.rows, self._batching.bytes)
            if batch is not None or self._stopping:
                return batch
            await self._tidy(connection)
            await self._wait()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake = loop.create_future()
        self._journal.on_backlog = self._wake_up
        timer = loop.call_later(self._batching.interval_s, self._wake_up)
        try:
            await self._wake
        finally:
            timer.cancel()
            self._wake = self._journal.on_backlog = None

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # -- shipping ----------------------------------------------------------------------------------

    async def _ship(self, connection: AsyncConnection, batch: Batch) -> None:
        if batch.segment not in self._opened:
            await self._open(connection, batch)
        shipment = await self._prepare(batch)
        while (statement := shipment.next()) is not None:
            started = time.perf_counter()
            try:
                rows = await self._carry_out(connection, statement)
            except StatementFailed as error:
                if not shipment.refused(error.sqlstate, str(error)):
                    raise
                continue
            try:
                shipment.answered(rows)
            except LedgerMoved as moved:
                await self._follow(connection, [(batch.segment, batch.before, moved.position)])
                return
            if shipment.counted:
                if connection.warned():
                    # Somebody may have cancelled its wait for the standby: that commit succeeds.
                    await self._confirm(connection, [batch.segment])
                self._count(batch, shipment, time.perf_counter() - started)

    async def _prepare(self, batch: Batch) -> Shipment:
        """Read what the lines say about ads, and let the loop serve between the steps."""
        steps = prepare(batch, self._pace, by_copy=True, attribution=self._attribution)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                shipment: Shipment = end.value
                return shipment
            await asyncio.sleep(0)

    async def _carry_out(self, connection: AsyncConnection, statement: Statement) -> list[Row]:
        """The statement's last result."""
        text, parameters = query(statement.name), statement.parameters
        if statement.lines is None:
            await connection.execute(text, parameters, timeout_s=_GIVE_UP_S)
            return connection.rows()
        moved_to = await connection.copy(text, parameters, statement.lines, timeout_s=_GIVE_UP_S)
        if moved_to is not None:
            return [(int(moved_to),)]
        # It stands elsewhere: behind this batch, if an earlier attempt has counted after all.
        await connection.execute(
            query("journal_segment_positions"),
            {"segments": [parameters["segment"]]},
            timeout_s=_GIVE_UP_S,
        )
        return [(position,) for _, position in connection.rows()]

    def _count(self, batch: Batch, shipment: Shipment, seconds: float) -> None:
        self._journal.shipped(batch)
        if shipment.rejected:
            self._counters[Counter.LOG_ROWS_REJECTED] += 1
            self._report(
                "writer: PostgreSQL refused an event, kept in request_log_rejected:"
                f" {shipment.rejected}"
            )
            return
        # A batch is full when there are so many bytes or so many lines of this size.
        size = batch.after - batch.before
        full = self._batching.rows * size // max(1, batch.rows)
        self._journal.backlog_threshold = min(self._batching.bytes, full)
        self._counters[Counter.LOG_ROWS] += batch.rows
        INSERT_ROWS.observe(self._counters, batch.rows)
        INSERT_MICROSECONDS.observe(self._counters, int(seconds * 1e6))

    # -- the ledger --------------------------------------------------------------------------------

    async def _compare(self, connection: AsyncConnection) -> None:
        """Go where the ledger stands with what is still at hand."""
        held = self._journal.segments()
        await connection.execute(
            query("journal_segment_positions"),
            {"segments": [name for name, _, _ in held]},
            timeout_s=_GIVE_UP_S,
        )
        positions: dict[str, int] = dict(connection.rows())
        await self._follow(
            connection, [(name, shipped, positions.get(name)) for name, shipped, _ in held]
        )

    async def _follow(
        self, connection: AsyncConnection, moves: Sequence[tuple[str, int, int | None]]
    ) -> None:
        """Go from where we thought to where the ledger stands.

        What it says beyond what we were told is in the table, but not yet on a synchronous standby for
        certain; and what is believed to be shipped is removed.
        """
        ahead = [name for name, shipped, position in moves if (position or 0) > shipped]
        if ahead:
            await self._confirm(connection, ahead)
        for name, shipped, position in moves:
            self._go_to(name, shipped, position)

    async def _confirm(self, connection: AsyncConnection, segments: Sequence[str]) -> None:
        """Wait for the standby, if there is a synchronous one, to have what the ledger says of these."""
        await connection.execute(
            query("journal_segment_confirm"), {"segments": segments}, timeout_s=_GIVE_UP_S
        )

    async def _open(self, connection: AsyncConnection, batch: Batch) -> None:
        """Make the segment's row, which nobody has needed before its first batch."""
        await connection.execute(
            query("journal_segment_open"),
            {"segment": batch.segment, "shipped": batch.before},
            timeout_s=_GIVE_UP_S,
        )
        self._opened.add(batch.segment)

    def _go_to(self, segment: str, shipped: int, position: int | None) -> None:
        """The ledger stands at `position` (None: it has no row) and we thought at `shipped`."""
        if position == shipped:
            return
        if position is None:
            self._opened.discard(segment)
            if not shipped or not self._journal.rewind(segment, 0):
                # From memory there is no way back: the row is made again where we are.
                return
        elif not self._journal.rewind(segment, position):
            raise LedgerBroken(f"the ledger of {segment} stands at {position}, we at {shipped}")
        if not position or position < shipped:
            self._report(
                f"writer: the ledger of {segment} has gone back from {shipped} to {position or 0}: a"
                " database that had lost events (a fail-over, a backup) gets them again"
            )

    async def _tidy(self, connection: AsyncConnection) -> None:
        """Now and then remove what is shipped, file first; of the rows nobody asks any more."""
        now = time.monotonic()
        if now < self._tidy_at:
            return
        self._tidy_at = now + TIDY_EVERY_S
        self._done_with += await asyncio.to_thread(self._journal.drop_shipped)
        await self._forget(connection)

    async def _forget(self, connection: AsyncConnection) -> None:
        if not self._done_with:
            return
        await connection.execute(
            query("journal_segment_close"),
            {"segments": self._done_with},
            timeout_s=_GIVE_UP_S,
        )
        self._opened.difference_update(self._done_with)
        self._done_with.clear()
