"""What was added to the rollup moves into its base without anybody seeing a sum change."""

import datetime
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest

from prefork_ads.db import partitions
from tests.conftest import Database
from tests.integration.ad_bed import (
    CATALOG,
    NOON,
    Placed,
    decision_id,
    decision_line,
    differences,
    event_line,
    rows_of,
    ship_by_copy,
)
from tests.support import wait_until

MS = datetime.timedelta(milliseconds=1)
SUMS = "SELECT sum(requests), sum(fills), sum(impressions), sum(spend_nanos) FROM rollup_hour"
PENDING = "SELECT count(*) FROM rollup_delta"


@pytest.fixture(autouse=True)
def _catalog(database: Database) -> None:
    database.execute(CATALOG)


def ship(database: Database, first: int, count: int) -> None:
    """So many decisions without an ad, as many with one, and its impression."""
    lines = []
    for n in range(first, first + count):
        at = NOON + n * MS
        one = Placed(decision_id(2 * n, at), at, 1, 3, "DE", "phone", None)
        none = Placed(decision_id(2 * n + 1, at), at, 2, 0, "", "", None)
        lines += [decision_line(at, each.id_hex, each.decision()) for each in (one, none)]
        lines.append(event_line(at, "impression", one.event(), n))
    assert ship_by_copy(database, lines, rows=6) == []


@contextmanager
def a_transaction(database: Database, begin: str) -> Iterator[psycopg2.extensions.cursor]:
    with closing(database.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(begin)
        yield cursor
        cursor.execute("ROLLBACK")


def asked(cursor: psycopg2.extensions.cursor, statement: str) -> list[tuple[Any, ...]]:
    cursor.execute(statement)
    return cursor.fetchall()


def test_no_snapshot_sees_a_fold(database: Database) -> None:
    """Not one from before it, not one from within, not one from after; and a writer waits for none of it."""
    ship(database, 0, 20)
    [before] = rows_of(database, SUMS)
    check = "SELECT count(*) FROM rollup_check('-infinity', 'infinity')"
    with a_transaction(database, "BEGIN ISOLATION LEVEL REPEATABLE READ") as early:
        assert asked(early, SUMS) == [before]
        with a_transaction(database, "BEGIN") as folding:
            assert asked(folding, "SELECT rollup_fold(1000) > 1") == [(True,)]
            assert asked(folding, SUMS) == [before], "who folds"
            assert rows_of(database, SUMS) == [before], "while it is not over"
            ship(database, 20, 10)
            [after] = rows_of(database, SUMS)
            assert differences(database) == []
            folding.execute("COMMIT")
        assert (rows_of(database, SUMS), differences(database)) == ([after], [])
        assert asked(early, SUMS) == [before]
        assert asked(early, check) == [(0,)]
    assert before == (40, 20, 20, 0)
    assert after == (60, 30, 30, 0)


def test_a_fold_that_is_killed_midway_loses_nothing(database: Database) -> None:
    """It has deleted what it took, and waits for a row of the base when its connection ends."""
    ship(database, 0, 5)
    database.execute("SELECT rollup_fold(1000)")
    ship(database, 5, 5)
    [sums], [pending] = rows_of(database, SUMS), rows_of(database, PENDING)
    with (
        a_transaction(database, "BEGIN") as other,
        closing(database.connect()) as doomed,
        ThreadPoolExecutor() as threads,
    ):
        other.execute("SELECT FROM rollup_base FOR UPDATE")
        pid = doomed.get_backend_pid()
        folding = threads.submit(doomed.cursor().execute, "SELECT rollup_fold(1000)")
        waits = f"SELECT wait_event_type FROM pg_stat_activity WHERE pid = {pid}"
        wait_until(lambda: rows_of(database, waits) == [("Lock",)], "the fold to wait")
        database.execute(f"SELECT pg_terminate_backend({pid})")
        with pytest.raises(psycopg2.Error):
            folding.result()
    assert rows_of(database, SUMS) == [sums]
    assert rows_of(database, PENDING) == [pending]
    database.execute("SELECT rollup_fold(1000)")
    assert rows_of(database, SUMS) == [sums]
    assert rows_of(database, PENDING) == [(0,)]
    assert differences(database) == []


def test_what_somebody_else_is_folding_is_left_to_him(database: Database) -> None:
    ship(database, 0, 10)
    [sums] = rows_of(database, SUMS)
    with a_transaction(database, "BEGIN") as one:
        one.execute("SELECT FROM rollup_delta FOR UPDATE")
        assert rows_of(database, "SELECT rollup_fold(1000)") == [(0,)]
    assert rows_of(database, SUMS) == [sums]


def test_the_keeper_folds_in_bounded_steps(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship(database, 0, 10)
    [sums], [(pending,)] = rows_of(database, SUMS), rows_of(database, PENDING)
    monkeypatch.setattr(partitions, "BATCHES_A_FOLD", 2)
    with closing(database.connect()) as conn:
        assert pending > 8
        assert partitions.fold(conn) == 2 * partitions.FOLDS_AT_ONCE
        assert rows_of(database, PENDING) == [(pending - 8,)]
        while partitions.fold(conn):
            pass
    assert rows_of(database, PENDING) == [(0,)]
    assert rows_of(database, SUMS) == [sums]
    assert differences(database) == []


def test_a_row_of_which_nothing_is_left_is_none(database: Database) -> None:
    """Whether it was folded or not: what was judged anew takes away what it had added."""
    ship(database, 0, 1)
    database.execute(
        "INSERT INTO rollup_delta"
        " (hours, zones, campaigns, creatives, countries, devices, filtered, requests)"
        " SELECT hours, zones, campaigns, creatives, countries, devices, filtered, array[-1, -1]"
        "  FROM rollup_delta WHERE requests IS NOT NULL"
    )
    left = "SELECT campaign_id, requests, fills, impressions FROM rollup_hour"
    assert rows_of(database, left) == [(3, 0, 0, 1)]
    database.execute("SELECT rollup_fold(1000)")
    assert rows_of(database, left) == [(3, 0, 0, 1)]
