"""Many who ship at once, who are killed and begin again: every event counts once, every sum is exact."""

import asyncio
import datetime
import itertools
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2.errors
import pytest
import uvloop

from prefork_ads.db import partitions, session
from prefork_ads.db.queries import query
from prefork_ads.db.shipping import FORGOTTEN_AFTER
from prefork_ads.events.ad_lines import added_up
from prefork_ads.events.journal import Journal
from prefork_ads.events.segments import list_segments, new_stream
from prefork_ads.report.restate import restate
from tests.conftest import Database
from tests.integration.ad_bed import (
    CATALOG,
    NOON,
    Placed,
    decision_id,
    decision_line,
    differences,
    event_line,
    leave,
    rows_of,
    ship_by_copy,
    ship_segment,
    writer_of,
)
from tests.support import wait_until

MS = datetime.timedelta(milliseconds=1)
WRITERS = 4
# How many lines each of them puts in before it is time for the next kill.
A_SHARE = 200


@pytest.fixture(autouse=True)
def _catalog(database: Database) -> None:
    database.execute(CATALOG)


def placed(number: int, campaign: int = 3) -> Placed:
    at = NOON + number * MS
    return Placed(decision_id(number, at), at, 1 + number % 2, campaign, "DE", "phone", None)


def forget_what_is_done(database: Database) -> None:
    """What the upkeep does with the ledger when the day is over for which it keeps what is done."""
    ages = {"closed_for": datetime.timedelta(0), "forgotten_after": FORGOTTEN_AFTER}
    with closing(psycopg2.connect(database.dsn)) as conn, conn, conn.cursor() as cursor:
        cursor.execute(query("journal_segment_forget"), ages)
        assert cursor.rowcount > 0


def by_default(database: Database, isolation: str) -> None:
    """Of connections to this database that begin from now on."""
    database.execute(
        f"ALTER DATABASE {database.name} SET default_transaction_isolation = '{isolation}'"
    )


def set_goal(database: Database, total: int) -> None:
    database.execute(
        "UPDATE campaign SET goal_total = %s, goal_daily = NULL WHERE key = 'shown'", total
    )


class Killer:
    """Ends the writers' connections each time that so many rows more are in the log."""

    def __init__(self, database: Database, every_rows: int) -> None:
        self._database = database
        self._every_rows = every_rows
        self._due = every_rows
        self.looks = self.kills = 0

    def look(self) -> None:
        self.looks += 1
        [(rows,)] = rows_of(self._database, "SELECT count(*) FROM request_log")
        if rows < self._due:
            return
        self._due = rows + self._every_rows
        self.kills += 1
        self._database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'prefork-ads writer' AND datname = current_database()"
        )


class Fleet:
    """Writers in threads, each with a journal of its own; their connections may be killed at any time."""

    def __init__(self, database: Database, folder: Path, killer: Killer | None = None) -> None:
        """With a killer, whoever has shipped some goes on when that one has come, and looked twice."""
        self._database = database
        self._folder = folder
        self._killer = killer
        self.running = 0
        self._lock = threading.Lock()

    def ship(self, lines: list[bytes], *, rows: int) -> None:
        """In many ticks, as a worker does that serves meanwhile."""
        with self._lock:
            self.running += 1
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._ship(lines, rows))
        finally:
            with self._lock:
                self.running -= 1

    async def _ship(self, lines: list[bytes], rows: int) -> None:
        journal = Journal(self._folder, new_stream("test", 3, 0), segment_bytes=1 << 14)
        writer = writer_of(self._database.dsn, journal, rows, [])
        async with asyncio.timeout(60):
            running = asyncio.create_task(writer.run())
            await writer.connected.wait()
            for start in range(0, len(lines), 20):
                if start % A_SHARE == 0:
                    await self._until_he_came(start // A_SHARE)
                for text in lines[start : start + 20]:
                    assert journal.append(text)
                journal.write()
                await asyncio.sleep(0)
            writer.stop()
            await running

    async def _until_he_came(self, times: int) -> None:
        """What was put in before is shipped meanwhile, and that is when he is to come."""
        killer = self._killer
        if killer is None:
            return
        while killer.kills < times or killer.looks < 2 * times:  # noqa: ASYNC110 - of another thread
            await asyncio.sleep(0.002)

    def ship_and_die(self, lines: list[bytes], *, rows: int) -> None:
        """As a worker that is killed in the middle of a statement: another ships what it leaves."""

        async def scenario() -> None:
            journal = Journal(
                self._folder, new_stream("test", 3, 1_700_000_000), segment_bytes=1 << 20
            )
            for text in lines:
                assert journal.append(text)
            journal.write()
            writer = writer_of(self._database.dsn, journal, rows, [])
            running = asyncio.create_task(writer.run())
            await writer.connected.wait()
            full = journal.backlog_bytes
            while journal.backlog_bytes == full:  # noqa: ASYNC110 - it announces nothing
                await asyncio.sleep(0)
            # A batch is in the table, and the next is under way.
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            journal.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scenario())
        for file in list_segments(self._folder):
            if file.alive is False and file.began == 1_700_000_000:
                ship_segment(self._database, file.path, rows)


def in_one_snapshot(database: Database) -> Iterator[list[tuple[object, ...]]]:
    """Look again and again: what differs between raw and rollup, by our function and counted plainly."""
    with closing(database.connect()) as conn, conn.cursor() as cursor:
        while True:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT * FROM rollup_check('-infinity', 'infinity')")
            found = cursor.fetchall()
            cursor.execute(
                """SELECT (SELECT count(*) FROM request_log WHERE endpoint = 'decision'),
                          (SELECT count(*) FROM ad_event WHERE kind = 'impression'),
                          (SELECT count(*) FROM ad_event WHERE kind = 'click')"""
            )
            raw = cursor.fetchone()
            cursor.execute(
                "SELECT coalesce(sum(requests), 0), coalesce(sum(impressions), 0),"
                " coalesce(sum(clicks), 0) FROM rollup_hour"
            )
            summed = cursor.fetchone()
            cursor.execute("COMMIT")
            yield found if raw == summed else [*found, (raw, summed)]


@pytest.mark.once
def test_the_rollup_is_the_sum_of_the_raw_tables_in_every_snapshot(
    database: Database, tmp_path: Path
) -> None:
    """While four writers ship, lose their connections, and others adopt what killed ones have left."""
    set_goal(database, 150)
    # Fewer rows than the writers' shares together: however slowly it is looked, he comes for each share.
    killer = Killer(database, every_rows=500)
    fleet = Fleet(database, tmp_path, killer)
    shares: list[list[bytes]] = []
    for writer in range(WRITERS):
        lines = []
        for n in range(250):
            # Decisions of its own; impressions and clicks of decisions that the others tell of, too.
            own, shared = placed(1000 * (writer + 1) + n, 1 + n % 3), placed(n, 1 + n % 3)
            lines.append(decision_line(own.at, own.id_hex, own.decision()))
            lines.append(event_line(NOON + n * MS, "impression", shared.event()))
            lines.append(event_line(NOON + n * MS, "click", own.event()))
        shares.append(lines)
    with ThreadPoolExecutor(WRITERS + 1) as threads:
        work = [threads.submit(fleet.ship, lines, rows=40) for lines in shares]
        work.append(threads.submit(fleet.ship_and_die, shares[0][1::3], rows=40))
        for found in in_one_snapshot(database):
            assert found == []
            killer.look()
            if all(task.done() for task in work):
                break
        for task in work:
            task.result()
    assert killer.looks > 5, "it was looked at while they shipped"
    assert killer.kills > 2
    assert rows_of(
        database,
        "SELECT sum(requests), sum(impressions), sum(clicks),"
        " sum(impressions) FILTER (WHERE campaign_id = 1 AND NOT filtered) FROM rollup_hour",
    ) == [(1000, 250, 1000, 84)]
    assert differences(database) == []


def test_a_beacon_that_comes_a_thousand_times_counts_once(
    database: Database, tmp_path: Path
) -> None:
    """In batches of several writers at once, through killed connections, by adoption, and once more
    when a segment that was shipped and removed comes back with a restored directory, on that day and
    later."""
    one = placed(1, 1)
    beacons = [event_line(NOON + n * MS, "impression", one.event(), n) for n in range(1000)]
    fleet = Fleet(database, tmp_path / "journal")
    (tmp_path / "journal").mkdir()
    left = leave(tmp_path / "left", beacons[800:])
    kept = shutil.copy(left, tmp_path / "kept.tsv")
    with ThreadPoolExecutor(WRITERS + 2) as threads:
        work = [
            threads.submit(fleet.ship, beacons[200 * n : 200 * n + 200], rows=10)
            for n in range(WRITERS)
        ]
        adopting = threads.submit(ship_segment, database, left, 10)
        killer = Killer(database, every_rows=200)
        while not (adopting.done() and all(task.done() for task in work)):
            killer.look()
        for task in work:
            task.result()
        assert adopting.result().rows == 200
    shutil.copy(kept, left)
    assert ship_segment(database, left).rows == 0, "the ledger knows it, for a day"
    assert rows_of(database, "SELECT count(*) FROM request_log") == [(1000,)]
    forget_what_is_done(database)
    shutil.move(kept, left)
    assert ship_segment(database, left).rows == 200
    assert rows_of(database, "SELECT count(*) FROM request_log") == [(1200,)], "the raw lines are"
    assert rows_of(database, "SELECT kind, filtered FROM ad_event") == [("impression", None)]
    assert rows_of(database, "SELECT sum(impressions), sum(spend_nanos) FROM rollup_hour") == [
        (1, 1500)
    ]
    assert rows_of(database, "SELECT sum(impressions) FROM delivery_day") == [(1,)]


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_goal_is_reached_and_never_passed_by_batches_at_once(
    database: Database, tmp_path: Path, isolation: str
) -> None:
    """Whoever hands out more than there is: what is billed is the goal, the rest is kept and marked.

    Whatever isolation the database has by default: writers need theirs.
    """
    by_default(database, isolation)
    set_goal(database, 100)
    shares = [
        [
            event_line(NOON + n * MS, "impression", placed(1000 * writer + n, 1).event())
            for n in range(60)
        ]
        for writer in range(WRITERS)
    ]
    fleet = Fleet(database, tmp_path)
    with ThreadPoolExecutor(WRITERS) as threads:
        for task in [threads.submit(fleet.ship, lines, rows=7) for lines in shares]:
            task.result()
    assert rows_of(
        database, "SELECT filtered, count(*) FROM ad_event GROUP BY 1 ORDER BY 1 NULLS FIRST"
    ) == [(None, 100), ("over goal", 140)]
    assert rows_of(
        database, "SELECT sum(impressions), sum(spend_nanos) FROM rollup_hour WHERE NOT filtered"
    ) == [(100, 100 * 1500)]
    assert rows_of(database, "SELECT sum(impressions) FROM delivery_day") == [(100,)]
    assert differences(database) == []


def ingest(database: Database, events: str) -> tuple[str, tuple[object, ...]]:
    return (
        "SELECT ad_ingest('holder', '', '', '', %s, '', '1 day', '1 day')",
        (events,),
    )


def waiting(database: Database) -> int:
    [(count,)] = database.fetch(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    return int(count)


def events_of(*lines: bytes) -> str:
    ads = added_up(b"\n".join([*lines, b""]))
    assert ads is not None
    return ads.events


def test_who_waits_for_the_guard_sees_what_its_last_holder_has_counted(database: Database) -> None:
    """The interleaving that would bill one too many: two that began when one place was left."""
    set_goal(database, 1)
    first, second = (
        events_of(event_line(NOON, "impression", placed(n, 1).event())) for n in (1, 2)
    )
    with (
        closing(database.connect(autocommit=False)) as one,
        closing(database.connect(autocommit=False)) as two,
        ThreadPoolExecutor() as threads,
    ):
        one.cursor().execute(*ingest(database, first))
        behind = threads.submit(two.cursor().execute, *ingest(database, second))
        wait_until(lambda: waiting(database) == 1, "the second to wait")
        one.commit()
        behind.result()
        two.commit()
    assert rows_of(database, "SELECT decision, filtered FROM ad_event ORDER BY 1") == [
        (rows_of(database, f"SELECT '{placed(1).id_hex}'::uuid")[0][0], None),
        (rows_of(database, f"SELECT '{placed(2).id_hex}'::uuid")[0][0], "over goal"),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT ad_ingest('holder', '', '', '', '', '', '1 day', '1 day')",
        "SELECT conversion_catch_up('1 day', '1 day', '1 day')",
        "SELECT lease_take('holder', 1, 'here', 0, 900, '{}', '{}', '{}', '{}')",
    ],
)
def test_a_snapshot_from_before_its_locks_is_refused(database: Database, statement: str) -> None:
    """It would not see what the last holder has counted; and that is not for the lines' sake."""
    by_default(database, "repeatable read")
    with pytest.raises(psycopg2.errors.InvalidTransactionState, match="repeatable read"):
        database.execute(statement)
    database.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; {statement}; COMMIT")


def test_who_works_for_operators_says_its_isolation_too(database: Database, tmp_path: Path) -> None:
    """The keeper that ships what the dead have left and attributes what came late, and a restatement."""
    by_default(database, "repeatable read")
    click = event_line(NOON, "click", placed(1).event())
    outcome = ship_segment(database, leave(tmp_path, [click]))
    assert outcome.rejected == 0
    with session.connection(database.dsn, autocommit=True) as connection:
        partitions.tick(connection, log_table="logged", retention_days=30)
    restate(database.dsn, NOON.replace(tzinfo=None), None)
    assert rows_of(database, "SELECT kind, filtered FROM ad_event") == [("click", None)]


def test_a_beacon_that_meets_itself_under_way_counts_once(database: Database) -> None:
    """The second waits until it is known what becomes of the first: it is not counted, or it counts."""
    events = events_of(event_line(NOON, "click", placed(1).event()))
    for end, clicks in (("commit", 1), ("rollback", 1)):
        database.execute("TRUNCATE ad_event, rollup_base, rollup_delta, delivery_day")
        with (
            closing(database.connect(autocommit=False)) as one,
            closing(database.connect(autocommit=False)) as two,
            ThreadPoolExecutor() as threads,
        ):
            one.cursor().execute(*ingest(database, events))
            behind = threads.submit(two.cursor().execute, *ingest(database, events))
            wait_until(lambda: waiting(database) == 1, "the second to wait")
            getattr(one, end)()
            behind.result()
            two.commit()
        assert rows_of(database, "SELECT sum(clicks) FROM rollup_hour") == [(clicks,)]
        assert differences(database) == []


def test_a_persons_click_that_meets_the_programs_under_way_counts(database: Database) -> None:
    """It waits for that, and then sees it."""
    program, person = (
        events_of(event_line(NOON, "click", placed(1).event(why))) for why in ("bot: a bot", None)
    )
    with (
        closing(database.connect(autocommit=False)) as one,
        closing(database.connect(autocommit=False)) as two,
        ThreadPoolExecutor() as threads,
    ):
        one.cursor().execute(*ingest(database, program))
        behind = threads.submit(two.cursor().execute, *ingest(database, person))
        wait_until(lambda: waiting(database) == 1, "the second to wait")
        one.commit()
        behind.result()
        two.commit()
    assert rows_of(database, "SELECT kind, filtered FROM ad_event") == [("click", None)]
    assert rows_of(database, "SELECT sum(clicks), bool_or(filtered) FROM rollup_hour") == [
        (1, False)
    ]
    assert differences(database) == []


def test_a_batch_that_is_undone_by_a_deadlock_is_sent_again(database: Database) -> None:
    """Somebody takes rows of deliveries in another order; no line is blamed for it, none is lost."""

    def clicks(turn: int) -> list[bytes]:
        return [event_line(NOON, "click", placed(3 * turn + n, n).event()) for n in (1, 3)]

    ship_by_copy(database, clicks(0))
    lock = "SELECT FROM delivery_day WHERE campaign_id = %s FOR UPDATE"
    with (
        closing(database.connect(autocommit=False)) as other,
        other.cursor() as cursor,
        ThreadPoolExecutor() as threads,
    ):
        for turn in itertools.count(1):
            cursor.execute(lock, (3,))
            shipping = threads.submit(ship_by_copy, database, clicks(turn))
            wait_until(lambda: waiting(database) == 1, "the batch, which has 1, to wait for 3")
            try:
                # Whoever waits looks for a circle once, after a second: the batch comes first with that,
                # and is undone, unless it looked before we were in its way. Then it is us, and for nothing.
                cursor.execute(lock, (1,))
            except psycopg2.errors.DeadlockDetected:
                undone = False
            else:
                undone = True
            other.rollback()
            assert shipping.result() == []
            if undone:
                break
    assert rows_of(database, "SELECT sum(clicks) FROM rollup_hour") == [(2 + 2 * turn,)]
    assert rows_of(database, "SELECT count(*) FROM request_log_rejected") == [(0,)]
    assert differences(database) == []


def test_an_attempt_that_comes_late_ingests_nothing(database: Database) -> None:
    """Its ledger row stands elsewhere: neither its lines nor what they say about ads count again."""
    one = placed(1)
    text = decision_line(one.at, one.id_hex, one.decision())
    ads = added_up(text + b"\n")
    assert ads is not None
    move = {
        "segment": "s",
        "before": 0,
        "after": len(text) + 1,
        "lines": text.decode(),
        "holder": "s",
        "click_window": datetime.timedelta(1),
        "view_window": datetime.timedelta(1),
        **{name: getattr(ads, name) for name in type(ads).__slots__},
    }
    with closing(database.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(query("journal_segment_open"), {"segment": "s", "shipped": 0})
        for _ in range(3):
            cursor.execute(query("log_insert_ads"), move)
            assert cursor.fetchall() == [(len(text) + 1,)]
    assert rows_of(database, "SELECT sum(requests) FROM rollup_hour") == [(1,)]
    assert differences(database) == []
