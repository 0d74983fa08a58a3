"""What dead workers have left: segments whole to PostgreSQL, over a synchronous connection.

The keeper does this by itself every few seconds, `prefork-ads journal ship` when a person wants it now.
What is sent and what an answer means is decided in `shipping`, as for a living worker's writer.

An adopted segment is ours alone, since we hold its lock; but the worker's last statement may still be
under way on the server, and so may one of an adopter before us. The ledger decides what counts.

- No ledger row means that nothing of it was ever shipped, unless the stream is older than rows are kept:
  then nobody knows, and it is set aside.
- A ledger that stands behind the end of the file: power failed, and PostgreSQL had synced what the journal
  had not. What is left of the file is in the table.
- What is damaged is set aside when all that is not has been shipped. Its ledger row stays, so that a file
  which somebody puts back is not shipped twice. Whoever was killed in between has not set it aside, so
  what has been shipped already is judged again.
- The file goes before its row is closed: a row that is forgotten would let a file that a power failure
  brings back count twice.

Must not know: who adopts segments and when; files beyond what `segments` makes of them.
"""

import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg2
import psycopg2.extensions

from prefork_ads.db import session
from prefork_ads.db.queries import query
from prefork_ads.db.shipping import (
    TEXT_SETTINGS,
    TOO_OLD_WITHOUT_ROW,
    Attribution,
    LedgerMoved,
    Pace,
    Shipment,
    prepare,
)
from prefork_ads.events.lines import Batch
from prefork_ads.events.segments import AdoptedSegment

# As for the writer: better tried again than waited for with nobody knowing.
STATEMENT_TIMEOUT_S: Final = 30.0

Connection = psycopg2.extensions.connection


@dataclass(slots=True)
class Outcome:
    """What became of one segment."""

    name: str
    rows: int = 0
    rejected: int = 0
    torn_bytes: int = 0
    # What the ledger has counted and the file has not.
    lost_bytes: int = 0
    # Where it is now, and why, if it was set aside.
    aside: Path | None = None
    why: tuple[str, ...] = ()

    def in_words(self) -> Iterator[tuple[bool, str]]:
        """What is to be told of it, each with whether somebody has to look."""
        if self.rows:
            yield False, f"{self.name}: {self.rows} events of a dead worker are in the table now"
        if self.torn_bytes:
            yield (
                False,
                f"{self.name}: its last line is cut off ({self.torn_bytes} bytes); nobody was told"
                " that it counts, and it does not",
            )
        if self.rejected:
            yield (
                True,
                f"{self.name}: PostgreSQL refused {self.rejected} events, see request_log_rejected",
            )
        if self.lost_bytes:
            yield (
                True,
                f"{self.name}: its last {self.lost_bytes} bytes are missing, as after a power failure;"
                " they are in the table",
            )
        if self.aside is not None:
            yield True, f"{self.name}: set aside as {self.aside}: {'; '.join(self.why)}"


@contextmanager
def connection(dsn: str) -> Iterator[Connection]:
    """A connection that ships."""
    with session.connection(dsn, autocommit=True) as conn:
        _run(
            conn,
            f"SET statement_timeout = {int(STATEMENT_TIMEOUT_S * 1000)}; {TEXT_SETTINGS}; SELECT 1",
            {},
        )
        yield conn


@contextmanager
def interruptible() -> Iterator[None]:
    """Meanwhile Ctrl-C ends a wait for PostgreSQL; libpq alone would go on waiting."""
    psycopg2.extensions.set_wait_callback(_wait)
    try:
        yield
    finally:
        psycopg2.extensions.set_wait_callback(None)


def _wait(conn: Connection) -> None:
    while (wanted := conn.poll()) != psycopg2.extensions.POLL_OK:
        poll = select.poll()
        write = wanted == psycopg2.extensions.POLL_WRITE
        poll.register(conn.fileno(), select.POLLOUT if write else select.POLLIN)
        poll.poll()


def positions(conn: Connection, names: list[str]) -> dict[str, int]:
    """Where the ledger stands for these segments; those it does not know are left out."""
    return dict(_run(conn, query("journal_segment_positions"), {"segments": names}))


def ship(
    conn: Connection,
    segment: AdoptedSegment,
    *,
    max_rows: int,
    max_bytes: int,
    now_unix_s: float,
    progress: Callable[[int], None] = lambda position: None,
    attribution: Attribution | None = None,
) -> Outcome:
    """Ship the rest of a segment and put it away.

    `progress` is told how many bytes are in the table. Raises psycopg2.Error and OSError; then the same
    may be done again at any time, by anybody.
    """
    outcome = Outcome(segment.name)
    known = positions(conn, [segment.name]).get(segment.name)
    if known is None and now_unix_s - segment.began > TOO_OLD_WITHOUT_ROW.total_seconds():
        outcome.why = (
            "older than the ledger's memory, so nobody knows what of it is in the table",
        )
        outcome.aside = segment.set_aside()
        return outcome
    if known is None:
        opening = {"segment": segment.name, "shipped": 0}
        known = _run(conn, query("journal_segment_open"), opening)[0][0]
    if known:
        _judge(segment, min(known, segment.size), max_rows, max_bytes, progress)
    _go_to(segment, known, outcome)
    pace = Pace(max_rows)
    while (batch := segment.next_batch(pace.rows, max_bytes)) is not None:
        shipment = _prepare(batch, pace, attribution)
        try:
            _carry_out(conn, shipment)
        except LedgerMoved as moved:
            # Somebody's last statement came in between; or the database has been put back.
            _go_to(segment, moved.position or 0, outcome)
            if moved.position is None:
                _run(conn, query("journal_segment_open"), {"segment": segment.name, "shipped": 0})
            continue
        if shipment.counted:
            segment.shipped(batch)
            outcome.rows += 0 if shipment.rejected else batch.rows
            outcome.rejected += bool(shipment.rejected)
            progress(segment.position)
    # What was there already was read and not acknowledged; a synchronous standby may not have it yet.
    _run(conn, query("journal_segment_confirm"), {"segments": [segment.name]})
    _put_away(conn, segment, outcome)
    return outcome


def _judge(
    segment: AdoptedSegment,
    end: int,
    max_rows: int,
    max_bytes: int,
    progress: Callable[[int], None],
) -> None:
    """Find out what is damaged in what is in the table already."""
    segment.start_at(0)
    while segment.position < end:
        batch = segment.next_batch(max_rows, max_bytes)
        if batch is None:
            return
        segment.shipped(batch)
        progress(segment.position)


def _go_to(segment: AdoptedSegment, position: int, outcome: Outcome) -> None:
    outcome.lost_bytes = 0
    if not segment.start_at(position):
        outcome.lost_bytes = position - segment.size


def _prepare(batch: Batch, pace: Pace, attribution: Attribution | None) -> Shipment:
    steps = prepare(batch, pace, attribution=attribution)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            shipment: Shipment = end.value
            return shipment


def _carry_out(conn: Connection, shipment: Shipment) -> None:
    """Until it has counted, or a smaller one is to be taken."""
    while (statement := shipment.next()) is not None:
        try:
            rows = _run(conn, query(statement.name), statement.parameters)
        except psycopg2.Error as error:
            if not shipment.refused(error.pgcode or "", session.first_line(error)):
                raise
            continue
        shipment.answered(rows)


def _put_away(conn: Connection, segment: AdoptedSegment, outcome: Outcome) -> None:
    outcome.torn_bytes = segment.torn_bytes
    if segment.bad.count:
        outcome.why = tuple(segment.descriptions())
        outcome.aside = segment.set_aside()
    elif segment.remove():
        _run(conn, query("journal_segment_close"), {"segments": [segment.name]})


def _run(conn: Connection, statement: str, parameters: Any) -> list[tuple[Any, ...]]:
    with conn.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description is not None else []
