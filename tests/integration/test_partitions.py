"""The keeper's work on request_log: leadership, days ahead, retention, freezing."""

import datetime
import re
from collections.abc import Iterator
from contextlib import closing

import psycopg2.extensions
import pytest

from prefork_ads.db import partitions
from prefork_ads.db.partitions import Report
from tests.conftest import Database
from tests.support import wait_until

NOON = datetime.datetime(2026, 3, 15, 12, tzinfo=datetime.UTC)
TODAY = NOON.date()


@pytest.fixture
def conn(database: Database) -> Iterator[psycopg2.extensions.connection]:
    with closing(database.connect()) as connection:
        yield connection


def day(offset: int) -> str:
    return f"request_log_{TODAY + datetime.timedelta(days=offset):%Y%m%d}"


def names(database: Database) -> list[str]:
    return [n for (n,) in database.fetch("SELECT name FROM request_log_partition ORDER BY day")]


def log(database: Database, offset: int, rows: int = 10) -> None:
    """Rows of a day, whose partition is made."""
    when = TODAY + datetime.timedelta(days=offset)
    database.execute("SELECT request_log_ensure(%s, %s)", when, when)
    database.execute(
        """INSERT INTO request_log (time, id, endpoint, params)
           SELECT %s + interval '1 minute' * n, gen_random_uuid(), 'log', '{}'
             FROM generate_series(1, %s) AS n""",
        datetime.datetime.combine(when, datetime.time(), datetime.UTC),
        rows,
    )


def test_days_are_made_ahead(database: Database, conn: psycopg2.extensions.connection) -> None:
    report = partitions.tick(conn, log_table="logged", retention_days=30, now=NOON)
    assert report == Report(created=9, created_events=9, vacuumed=(day(-1),)), "yesterday is empty"
    assert names(database) == [day(offset) for offset in range(-1, 8)]
    assert partitions.tick(conn, log_table="logged", retention_days=30, now=NOON) == Report()
    tomorrow = NOON + datetime.timedelta(days=1)
    assert partitions.tick(conn, log_table="logged", retention_days=30, now=tomorrow).created == 1


def test_today_is_the_databases(database: Database, conn: psycopg2.extensions.connection) -> None:
    """Machines that share a database share its clock."""
    partitions.tick(conn, log_table="logged", retention_days=30)
    database.execute(
        """INSERT INTO request_log (time, id, endpoint, params)
           VALUES (now(), gen_random_uuid(), 'log', '{}')"""
    )


def test_there_is_one_leader_and_its_end_makes_room(database: Database) -> None:
    with closing(database.connect()) as second:
        with closing(database.connect()) as first:
            assert partitions.take_leadership(first)
            assert partitions.take_leadership(first), "asking again changes nothing"
            assert not partitions.take_leadership(second)
        wait_until(lambda: partitions.take_leadership(second), "the first one's lock to go")


def test_old_days_are_dropped(database: Database, conn: psycopg2.extensions.connection) -> None:
    for offset in (-40, -31, -30, -29):
        log(database, offset)
    report = partitions.tick(conn, log_table="logged", retention_days=30, now=NOON)
    assert report.dropped == (day(-40), day(-31))
    assert day(-30) in names(database)


def test_ledger_rows_are_forgotten_when_nobody_can_ask_for_them(
    database: Database, conn: psycopg2.extensions.connection
) -> None:
    database.execute(
        "INSERT INTO journal_segment (name, shipped_bytes, updated, closed) VALUES"
        " ('done lately', 1, now(), now() - interval '23 hours'),"
        " ('done', 1, now() - interval '3 days', now() - interval '25 hours'),"
        " ('lost lately', 1, now() - interval '399 days', NULL),"
        " ('lost', 1, now() - interval '401 days', NULL)"
    )
    partitions.tick(conn, log_table="logged", retention_days=30)
    rows = database.fetch("SELECT name FROM journal_segment ORDER BY name")
    assert rows == [("done lately",), ("lost lately",)]


def test_zero_days_of_retention_keep_all(
    database: Database, conn: psycopg2.extensions.connection
) -> None:
    log(database, -4000)
    assert partitions.tick(conn, log_table="logged", retention_days=0, now=NOON).dropped == ()
    assert day(-4000) in names(database)


def test_what_would_have_to_wait_is_postponed(
    database: Database, conn: psycopg2.extensions.connection
) -> None:
    """And the other steps are done all the same."""
    log(database, -40)
    with closing(database.connect(autocommit=False)) as report, report.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM request_log")
        done = partitions.tick(conn, log_table="logged", retention_days=30, now=NOON)
        assert (done.postponed, done.dropped, done.created) == (("retention",), (), 9)
    assert partitions.tick(conn, log_table="logged", retention_days=30, now=NOON).dropped == (
        day(-40),
    )


def test_log_table_converts_today_and_later(
    database: Database, conn: psycopg2.extensions.connection
) -> None:
    for offset in (-1, 0, 1):
        log(database, offset)
    report = partitions.tick(conn, log_table="unlogged", retention_days=30, now=NOON)
    assert report.converted == (day(0), day(1))
    kinds = dict(database.fetch("SELECT name, log_table FROM request_log_partition"))
    assert kinds[day(-1)] == "logged", "past days are left alone"
    assert {kind for name, kind in kinds.items() if name >= day(0)} == {"unlogged"}
    assert database.fetch("SELECT count(*) FROM request_log") == [(30,)], "no row is lost by it"
    back = partitions.set_log_table(conn, "logged", TODAY)
    assert back == tuple(day(offset) for offset in range(8))


def test_a_setting_that_is_in_force_takes_no_lock(
    database: Database, conn: psycopg2.extensions.connection
) -> None:
    partitions.tick(conn, log_table="logged", retention_days=30, now=NOON)
    with closing(database.connect(autocommit=False)) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE ONLY request_log IN SHARE UPDATE EXCLUSIVE MODE")
        assert partitions.tick(conn, log_table="logged", retention_days=30, now=NOON) == Report()


def test_closed_days_are_frozen_once(
    database: Database, conn: psycopg2.extensions.connection
) -> None:
    for offset in (-2, -1, 0):
        log(database, offset, rows=500)
    frozen = [
        partitions.tick(conn, log_table="logged", retention_days=30, now=NOON).vacuumed
        for _ in range(3)
    ]
    assert frozen == [(day(-2),), (day(-1),), ()], "one per tick, the oldest first, today not"
    pages = database.fetch(
        """SELECT name, relpages > 0 AND relallvisible = relpages, reltuples
             FROM request_log_partition WHERE day < %s ORDER BY day""",
        TODAY,
    )
    assert pages == [(day(-2), True, 500), (day(-1), True, 500)]


def test_a_day_is_closed_an_hour_after_its_end(
    database: Database, conn: psycopg2.extensions.connection
) -> None:
    """Rows of yesterday are still on their way just after midnight."""
    log(database, -1)
    midnight = datetime.datetime.combine(TODAY, datetime.time(), datetime.UTC)
    early, late = midnight + datetime.timedelta(minutes=59), midnight + datetime.timedelta(hours=1)
    assert partitions.tick(conn, log_table="logged", retention_days=30, now=early).vacuumed == ()
    assert partitions.tick(conn, log_table="logged", retention_days=30, now=late).vacuumed == (
        day(-1),
    )


def test_prepare_makes_the_first_requests_possible(database: Database) -> None:
    report = partitions.prepare(database.dsn, "unlogged")
    assert (report.created, report.postponed) == (9, ())
    database.execute(
        """INSERT INTO request_log (time, id, endpoint, params)
           VALUES (now(), gen_random_uuid(), 'log', '{}')"""
    )
    assert database.fetch(
        "SELECT DISTINCT log_table FROM request_log_partition WHERE day >= now()::date"
    ) == [("unlogged",)]


def test_a_minute_is_found_without_reading_its_day(
    database: Database, conn: psycopg2.extensions.connection
) -> None:
    """The index of times knows what had come by the last tick; what came later is read all the same."""
    database.execute("SELECT request_log_ensure(%s, %s)", TODAY, TODAY)
    fill = """INSERT INTO request_log (time, id, endpoint, params)
              SELECT %s + interval '2 seconds' * n, gen_random_uuid(), 'log', '{}'
                FROM generate_series(0, 39999) AS n"""
    midnight = datetime.datetime.combine(TODAY, datetime.time(), datetime.UTC)
    database.execute(fill, midnight)
    database.execute(f'ALTER DATABASE "{database.name}" SET enable_seqscan = off')
    minute = midnight + datetime.timedelta(hours=1)
    looks_for = "SELECT count(*) FROM request_log WHERE time >= %s AND time < %s"
    between = (minute, minute + datetime.timedelta(minutes=1))

    def pages_read() -> int:
        [[[plan]]] = database.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {looks_for}", *between)
        scan = re.search(r"'Node Type': 'Bitmap Heap Scan'.*'Lossy Heap Blocks': (\d+)", str(plan))
        assert scan is not None, "it asks the index"
        return int(scan[1])

    before = pages_read()
    partitions.tick(conn, log_table="logged", retention_days=30, now=NOON)
    assert pages_read() < before / 2
    database.execute(fill, midnight)
    assert database.fetch(looks_for, *between) == [(60,)]


def test_days_of_events_are_made_and_dropped_with_those_of_the_log(
    database: Database, conn: psycopg2.extensions.connection
) -> None:
    old = TODAY - datetime.timedelta(days=31)
    database.execute("SELECT ad_event_ensure(%s, %s)", old, old + datetime.timedelta(days=1))
    report = partitions.tick(conn, log_table="logged", retention_days=30, now=NOON)
    assert report.dropped == (f"ad_event_{old:%Y%m%d}",)
    assert partitions.tick(conn, log_table="logged", retention_days=30, now=NOON).dropped == ()
    days = [d for (d,) in database.fetch("SELECT day FROM ad_event_partition ORDER BY day")]
    assert days == [
        TODAY - datetime.timedelta(days=30),
        *(TODAY + datetime.timedelta(days=offset) for offset in range(-1, 8)),
    ]
    database.execute("SELECT ad_event_ensure(%s, %s)", old, old)
    assert database.fetch("SELECT count(*) FROM ad_event_partition WHERE day = %s", old) == [(0,)]
