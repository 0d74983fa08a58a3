"""What one process per database does for the log and the events once a minute: make, forget and freeze days.

Rows of the ledger that nobody has asked for in a year go too. The index of request_log's times is told what
has come, and conversions that came before the click they follow are attributed. Besides, every few seconds,
what was added to the rollup is folded into its base.

*Measured* (PostgreSQL 18, a machine busy with other work): folding takes 17 µs for each different key; a
report reads what is not folded yet at 0.7 µs a key.

Plain functions on a synchronous autocommit connection; who calls them, and when, is the keeper's
affair. Being the one is a session advisory lock: the server gives it back when the holder's
connection ends, whatever ended it, so no leader has to be declared dead.

Each step stands for itself. One that has to wait for somebody (a report that reads a partition, a
schema change) gives up after a moment and is tried again at the next tick: behind an exclusive
lock that waits, every insert would wait too. No other statement waits for a lock longer than LOCK_LIMIT_S:
the keeper has other work, and nobody sees that it does not get to it.

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
from prefork_ads.db.shipping import CLOSED_FOR, FORGOTTEN_AFTER, Attribution

Connection = psycopg2.extensions.connection
LogTable = Literal["logged", "unlogged"]
Parameters = Sequence[object] | Mapping[str, object] | None

# A week ahead: a keeper that is away over a long weekend harms nobody.
DAYS_BEHIND: Final = 1
DAYS_AHEAD: Final = 7
# Rows of a day still arrive for a while after its end: a writer's interval, a database that was
# away.
CLOSED_AFTER: Final = datetime.timedelta(hours=1)
# A click may reach us after what followed it, by another worker, after a database that was away.
CATCH_UP: Final = datetime.timedelta(days=1)
# Of 2,000 keys, most of them new: a second for a transaction. What is left then is for the next time.
BATCHES_A_FOLD: Final = 50
FOLDS_AT_ONCE: Final = 4
# One vacuum of a day of a hundred million rows takes minutes; the next tick does the next.
VACUUMS_PER_TICK: Final = 1
LOCK_LIMIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a tick did. `postponed` names the steps that would have had to wait."""

    created: int = 0
    # The same of ad_event.
    created_events: int = 0
    converted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    vacuumed: tuple[str, ...] = ()
    # Conversions that were attributed late.
    attributed: int = 0
    postponed: tuple[str, ...] = ()


def prepare(dsn: str, log_table: LogTable) -> Report:
    """Before serving: store the setting and make the partitions that the first requests need."""
    with session.connection(dsn, autocommit=True) as conn:
        today = utc_now(conn).date()
        postponed, converted = _patiently(
            "log_table", lambda: set_log_table(conn, log_table, today)
        )
        return Report(
            created=ensure(conn, today),
            created_events=ensure_events(conn, today),
            converted=converted,
            postponed=postponed,
        )


def connect(dsn: str) -> Connection:
    """A connection for all that is done here; to the server that takes writes, if there are several."""
    conn = session.connect(dsn, insists=True)
    try:
        conn.set_session(isolation_level="READ COMMITTED", autocommit=True)
        with conn.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {int(LOCK_LIMIT_S * 1000)}")
    except BaseException:
        conn.close()
        raise
    return conn


def take_leadership(conn: Connection) -> bool:
    """Become the one that keeps this database, or learn that another is. Ask again at will."""
    row = _one(conn, query("keeper_lead"), (session.ADVISORY_NAMESPACE, session.LOCK_KEEPER))
    return bool(row[0])


def tick(
    conn: Connection,
    *,
    log_table: LogTable,
    retention_days: int,
    attribution: Attribution | None = None,
    now: datetime.datetime | None = None,
) -> Report:
    """Everything once. `now` is the database's clock unless given."""
    assert conn.autocommit, "VACUUM runs outside a transaction"
    now = now or utc_now(conn)
    today = now.date()
    not_set, converted = _patiently("log_table", lambda: set_log_table(conn, log_table, today))
    created, created_events = ensure(conn, today), ensure_events(conn, today)
    not_dropped, dropped = _patiently("retention", lambda: forget(conn, today, retention_days))
    events_not_dropped, dropped_events = _patiently(
        "retention of events", lambda: forget_events(conn, today, retention_days)
    )
    not_summarized, _ = _patiently("summarizing", lambda: summarize(conn, today))
    vacuumed = freeze(conn, (now - CLOSED_AFTER).date())
    with conn.cursor() as cursor:
        ages = {"closed_for": CLOSED_FOR, "forgotten_after": FORGOTTEN_AFTER}
        cursor.execute(query("journal_segment_forget"), ages)
    return Report(
        created=created,
        created_events=created_events,
        converted=converted,
        dropped=dropped + dropped_events,
        vacuumed=vacuumed,
        attributed=catch_up(conn, attribution or Attribution()),
        postponed=not_set + not_dropped + events_not_dropped + not_summarized,
    )


def ensure(conn: Connection, today: datetime.date) -> int:
    """Make the missing partitions around today; return how many were missing."""
    made: int = _one(conn, query("request_log_ensure"), _around(today))[0]
    return made


def ensure_events(conn: Connection, today: datetime.date) -> int:
    """The same for ad_event."""
    made: int = _one(conn, query("ad_event_ensure"), _around(today))[0]
    return made


def _around(today: datetime.date) -> dict[str, datetime.date]:
    return {
        "first_day": today - datetime.timedelta(days=DAYS_BEHIND),
        "last_day": today + datetime.timedelta(days=DAYS_AHEAD),
    }


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
    return _forget(conn, "request_log_forget", today, retention_days)


def forget_events(conn: Connection, today: datetime.date, retention_days: int) -> tuple[str, ...]:
    """The same for ad_event. Events that come later for such a day are in request_log and not counted."""
    return _forget(conn, "ad_event_forget", today, retention_days)


def _forget(
    conn: Connection, name: str, today: datetime.date, retention_days: int
) -> tuple[str, ...]:
    if retention_days == 0:
        return ()
    first_kept = today - datetime.timedelta(days=retention_days)
    with conn.cursor() as cursor:
        cursor.execute(query(name), {"first_kept": first_kept})
        return tuple(name for (name,) in cursor.fetchall())


def summarize(conn: Connection, today: datetime.date) -> tuple[str, ...]:
    """Tell the index of times what has come today and yesterday; it reads only what it has not seen."""
    yesterday = today - datetime.timedelta(days=1)
    _one(conn, query("request_log_summarize"), {"first_day": yesterday, "last_day": today})
    return ()


def catch_up(conn: Connection, attribution: Attribution) -> int:
    """Attribute conversions that came before the click they follow; return how many those were."""
    parameters = {"since": CATCH_UP, **attribution.parameters()}
    attributed: int = _one(conn, query("conversion_catch_up"), parameters)[0]
    return attributed


def fold(conn: Connection) -> int:
    """Move what was added to the rollup into its base; how many batches that were. No sum changes."""
    folded = 0
    for _ in range(FOLDS_AT_ONCE):
        batches: int = _one(conn, query("rollup_fold"), {"at_most": BATCHES_A_FOLD})[0]
        folded += batches
        if batches < BATCHES_A_FOLD:
            break
    return folded


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
