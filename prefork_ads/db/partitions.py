"""What one process per database does for request_log once a minute: make days, forget days, freeze days.

Rows of the ledger that nobody has asked for in a year go too.

Plain functions on a synchronous autocommit connection; who calls them, and when, is the keeper's
affair. Being the one is a session advisory lock: the server gives it back when the holder's
connection ends, whatever ended it, so no leader has to be declared dead.

Each step stands for itself. One that has to wait for somebody (a report that reads a partition, a
schema change) gives up after a moment and is tried again at the next tick: behind an exclusive
lock that waits, every insert would wait too.

Must not know: processes, signals, timers.
"""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import psycopg2
import psycopg2.errors
import psycopg2.extensions
from psycopg2 import sql

from prefork_ads.db import session
from prefork_ads.db.queries import query
from prefork_ads.db.shipping import FORGOTTEN_AFTER

Connection = psycopg2.extensions.connection
LogTable = Literal["logged", "unlogged"]
Parameters = Sequence[object] | Mapping[str, object] | None

# A week ahead: a keeper that is away over a long weekend harms nobody.
DAYS_BEHIND: Final = 1
DAYS_AHEAD: Final = 7
# Rows of a day still arrive for a while after its end: a writer's interval, a database that was
# away.
CLOSED_AFTER: Final = datetime.timedelta(hours=1)
# One vacuum of a day of a hundred million rows takes minutes; the next tick does the next.
VACUUMS_PER_TICK: Final = 1


@dataclass(frozen=True, slots=True)
class Report:
    """What a tick did. `postponed` names the steps that would have had to wait."""

    created: int = 0
    converted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    vacuumed: tuple[str, ...] = ()
    postponed: tuple[str, ...] = ()


def prepare(dsn: str, log_table: LogTable) -> Report:
    """Before serving: store the setting and make the partitions that the first requests need."""
    with session.connection(dsn, autocommit=True) as conn:
        today = utc_now(conn).date()
        postponed, converted = _patiently(
            "log_table", lambda: set_log_table(conn, log_table, today)
        )
        created = ensure(conn, today)
        return Report(created=created, converted=converted, postponed=postponed)


def take_leadership(conn: Connection) -> bool:
    """Become the one that keeps this database, or learn that another is. Ask again at will."""
    row = _one(conn, query("keeper_lead"), (session.ADVISORY_NAMESPACE, session.LOCK_KEEPER))
    return bool(row[0])


def tick(
    conn: Connection,
    *,
    log_table: LogTable,
    retention_days: int,
    now: datetime.datetime | None = None,
) -> Report:
    """Everything once. `now` is the database's clock unless given."""
    assert conn.autocommit, "VACUUM runs outside a transaction"
    now = now or utc_now(conn)
    today = now.date()
    not_set, converted = _patiently("log_table", lambda: set_log_table(conn, log_table, today))
    created = ensure(conn, today)
    not_dropped, dropped = _patiently("retention", lambda: forget(conn, today, retention_days))
    vacuumed = freeze(conn, (now - CLOSED_AFTER).date())
    with conn.cursor() as cursor:
        cursor.execute(query("journal_segment_forget"), {"forgotten_after": FORGOTTEN_AFTER})
    return Report(created, converted, dropped, vacuumed, not_set + not_dropped)


def ensure(conn: Connection, today: datetime.date) -> int:
    """Make the missing partitions around today; return how many were missing."""
    first = today - datetime.timedelta(days=DAYS_BEHIND)
    last = today + datetime.timedelta(days=DAYS_AHEAD)
    row = _one(conn, query("request_log_ensure"), {"first_day": first, "last_day": last})
    made: int = row[0]
    return made


def set_log_table(
    conn: Connection, wanted: LogTable, today: datetime.date | None = None
) -> tuple[str, ...]:
    """Store the setting and convert today's and later partitions; return those that were converted.

    Converting rewrites the partition and keeps inserts out meanwhile: on a day with many rows
    behind it that takes a while. Nothing is touched, and no lock taken, when the setting is what
    it was.
    """
    today = today or utc_now(conn).date()
    with conn.cursor() as cursor:
        cursor.execute(query("request_log_persistence"), {"wanted": wanted, "today": today})
        return tuple(name for (name,) in cursor.fetchall())


def forget(conn: Connection, today: datetime.date, retention_days: int) -> tuple[str, ...]:
    """Drop the days that are over for more than `retention_days` days; 0 keeps all."""
    if retention_days == 0:
        return ()
    first_kept = today - datetime.timedelta(days=retention_days)
    with conn.cursor() as cursor:
        cursor.execute(query("request_log_forget"), {"first_kept": first_kept})
        return tuple(name for (name,) in cursor.fetchall())


def freeze(conn: Connection, open_from: datetime.date) -> tuple[str, ...]:
    """VACUUM (FREEZE, ANALYZE) days before `open_from` that have not been, the oldest first.

    A role that does not own the partitions gets a warning from VACUUM and nothing done: then
    anti-wraparound vacuums will do it in their own time, which docs/database.md mentions.
    """
    done = []
    with conn.cursor() as cursor:
        cursor.execute(
            query("request_log_unfrozen"), {"open_from": open_from, "at_most": VACUUMS_PER_TICK}
        )
        for schema, name in cursor.fetchall():
            cursor.execute(
                # SKIP_LOCKED: whoever drops or converts it goes first.
                sql.SQL("VACUUM (FREEZE, ANALYZE, SKIP_LOCKED) {}").format(
                    sql.Identifier(schema, name)
                )
            )
            done.append(name)
    return tuple(done)


def utc_now(conn: Connection) -> datetime.datetime:
    """The database's clock, which decides what "today" is for all machines that share it."""
    now: datetime.datetime = _one(conn, "SELECT now()", None)[0]
    return now.astimezone(datetime.UTC)


def _patiently(
    step: str, act: Callable[[], tuple[str, ...]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Run a step that may have to wait: (the step, if it is postponed; what it did)."""
    try:
        return (), act()
    except psycopg2.errors.LockNotAvailable:
        return (step,), ()


def _one(conn: Connection, statement: str, parameters: Parameters) -> tuple[Any, ...]:
    with conn.cursor() as cursor:
        cursor.execute(statement, parameters)
        row = cursor.fetchone()
    assert row is not None
    return row
