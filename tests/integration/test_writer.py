"""The writer: every line the journal holds becomes one row, whatever happens to its connection."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import psycopg2.extensions
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork_ads.db.queries import query
from prefork_ads.db.shipping import LedgerBroken
from prefork_ads.db.writer import Batching, Writer
from prefork_ads.events.event import EventClock, line
from prefork_ads.events.journal import Journal
from prefork_ads.events.memory_journal import MemoryJournal
from prefork_ads.events.segments import new_stream
from prefork_ads.events.uuid7 import Uuid7
from prefork_ads.metrics import CELLS, INSERT_ROWS, Counter, Gauge
from tests.conftest import Database
from tests.proxy import Proxy

SMALL = Batching(rows=100, bytes=1 << 20, interval_s=0.01)

MakeJournal = Callable[[], Journal | MemoryJournal]


def event(number: int, *, params: str | None = None, agent: bytes | None = b"test") -> bytes:
    stamp = EventClock(Uuid7()).stamp()
    return line(
        stamp, b"log", (params or f'{{"n":{number}}}').encode(), agent, None, "192.0.2.1", None
    )


class Bench:
    """A writer with what it needs, and what it said."""

    def __init__(
        self, dsn: str, journal: Journal | MemoryJournal, batching: Batching = SMALL
    ) -> None:
        self.counters = [0] * CELLS
        self.gauges = [0] * len(Gauge)
        self.said: list[str] = []
        self.heard = asyncio.Event()
        self.journal = journal
        self.writer = Writer(dsn, journal, batching, self.counters, self.gauges, self._report)

    def put(self, *lines: bytes) -> None:
        """What one tick of the loop does."""
        for text in lines:
            assert self.journal.append(text)
        self.journal.write()

    def start(self) -> "asyncio.Task[None]":
        return asyncio.create_task(self.writer.run())

    async def finish(self, running: "asyncio.Task[None]") -> None:
        self.writer.stop()
        await running

    def _report(self, message: str) -> None:
        self.said.append(message)
        self.heard.set()

    async def until_said(self, words: str) -> None:
        while not any(words in message for message in self.said):
            self.heard.clear()
            await self.heard.wait()


@pytest.fixture(autouse=True)
def _partitions(database: Database) -> None:
    """As the keeper leaves them: without, the first batch finds that there is none."""
    database.execute("SELECT request_log_ensure(current_date - 1, current_date + 1)")


@pytest.fixture
def on_disk(tmp_path: Path) -> Callable[..., Journal]:
    def make(segment_bytes: int = 1 << 20) -> Journal:
        return Journal(tmp_path, new_stream("test", 1, 0), segment_bytes=segment_bytes)

    return make


@pytest.fixture(params=["on", "off"])
def journal(request: pytest.FixtureRequest, on_disk: Callable[..., Journal]) -> MakeJournal:
    """Makes a journal of either kind."""
    if request.param == "on":
        return on_disk
    return lambda: MemoryJournal("test-1-segment", max_rows=10_000, max_bytes=1 << 24)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


async def write_all(bench: Bench, lines: list[bytes]) -> None:
    running = bench.start()
    bench.put(*lines)
    await bench.finish(running)


def numbers(database: Database) -> list[int]:
    return [n for (n,) in database.fetch("SELECT (params->>'n')::int FROM request_log ORDER BY 1")]


def ledger(database: Database) -> list[tuple[str, int]]:
    return [
        (name, position)
        for name, position in database.fetch(
            "SELECT name, shipped_bytes FROM journal_segment WHERE closed IS NULL ORDER BY name"
        )
    ]


def waiting_for_locks(database: Database) -> int:
    return len(
        database.fetch(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
    )


def kill_backends(database: Database) -> None:
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'prefork-ads writer' AND datname = current_database()"
    )


async def until(condition: Callable[[], bool]) -> None:
    """Poll PostgreSQL, which announces nothing; the loop runs in between."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


# -- what arrives ----------------------------------------------------------------------------------


def test_lines_become_rows_and_the_ledger_row_goes_with_the_last(
    database: Database, journal: MakeJournal, tmp_path: Path
) -> None:
    async def scenario() -> None:
        bench = Bench(database.dsn, journal())
        await write_all(bench, [event(n) for n in range(250)])
        assert bench.counters[Counter.LOG_ROWS] == 250
        assert INSERT_ROWS.count(bench.counters) >= 3, "batches are bounded at 100 rows"

    run(scenario)
    assert numbers(database) == list(range(250))
    assert ledger(database) == []
    assert list(tmp_path.iterdir()) == []


def test_fields_arrive_as_they_were_sent(database: Database, journal: MakeJournal) -> None:
    agent = "tab\there, back\\slash, \\t \\\\n \\N, quote' \" %s %(x)s 🎉".encode()
    params = '{"n":1,"text":"a\\\\b \\"q\\" \\n é"}'

    run(lambda: write_all(Bench(database.dsn, journal()), [event(1, params=params, agent=agent)]))
    row = database.fetch(
        "SELECT user_agent, params->>'text', referer, host(address), language, endpoint FROM request_log"
    )
    assert row == [(agent.decode(), 'a\\b "q" \n é', None, "192.0.2.1", None, "log")]


@given(st.lists(st.text(alphabet="\\Nnt\t N'", max_size=6), min_size=1, max_size=4))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_escapes_in_any_order_come_back(database: Database, agents: list[str]) -> None:
    database.execute("TRUNCATE request_log, journal_segment")
    lines = [event(n, agent=agent.encode()) for n, agent in enumerate(agents)]
    memory = MemoryJournal("test-1-segment", max_rows=10_000, max_bytes=1 << 24)
    run(lambda: write_all(Bench(database.dsn, memory), lines))
    rows = database.fetch("SELECT user_agent FROM request_log ORDER BY (params->>'n')::int")
    assert [agent for (agent,) in rows] == [agent.strip(" \t") for agent in agents]


@pytest.mark.parametrize("setting", ["on", "off"])
def test_a_literal_means_the_same_whatever_the_server_thinks_of_backslashes(
    database: Database, journal: MakeJournal, setting: str
) -> None:
    database.execute(
        f'ALTER DATABASE "{database.name}" SET standard_conforming_strings = {setting}'
    )
    agents = ["a\\'b", "';DROP TABLE request_log;--", "\\", "plain"]
    lines = [event(n, agent=agent.encode()) for n, agent in enumerate(agents)]
    run(lambda: write_all(Bench(database.dsn, journal()), lines))
    rows = database.fetch("SELECT user_agent FROM request_log ORDER BY (params->>'n')::int")
    assert [agent for (agent,) in rows] == agents


def test_several_segments_go_in_order_and_leave_nothing(
    database: Database, on_disk: Callable[..., Journal], tmp_path: Path
) -> None:
    async def scenario() -> None:
        bench = Bench(database.dsn, on_disk(segment_bytes=1000))
        for n in range(50):
            bench.put(event(n))
        assert len(bench.journal.segments()) > 3
        await bench.finish(bench.start())

    run(scenario)
    assert numbers(database) == list(range(50))
    assert ledger(database) == []
    assert list(tmp_path.iterdir()) == []


# -- connections that end --------------------------------------------------------------------------


def test_a_batch_whose_answer_is_lost_counts_once(database: Database, journal: MakeJournal) -> None:
    """PostgreSQL commits, the client never hears of it and sends the batch again."""

    async def scenario() -> None:
        async with Proxy(database.dsn) as proxy:
            bench = Bench(proxy.dsn, journal())
            running = bench.start()
            await bench.writer.connected.wait()
            bench.put(event(0))
            await until(lambda: not bench.journal.backlog_bytes)
            proxy.swallow_answers()
            bench.put(*(event(n) for n in range(1, 50)))
            await proxy.statement_seen.wait()
            await until(lambda: len(numbers(database)) == 50)
            # It comes back with more than it had sent: the batch has another end.
            bench.put(*(event(n) for n in range(50, 60)))
            proxy.cut()
            await bench.finish(running)
            assert bench.counters[Counter.LOG_FAILURES] == 1

    run(scenario)
    assert numbers(database) == list(range(60))


def test_a_batch_that_is_cut_off_before_the_commit_counts_once(
    database: Database, journal: MakeJournal
) -> None:
    """PostgreSQL has it, waits for a lock, and its backend is killed: nothing has counted."""

    async def scenario() -> None:
        bench = Bench(database.dsn, journal())
        running = bench.start()
        await bench.writer.connected.wait()
        bench.put(event(0))
        await until(lambda: numbers(database) == [0])
        with closing(database.connect(autocommit=False)) as blocker:
            blocker.cursor().execute("LOCK TABLE request_log IN ACCESS EXCLUSIVE MODE")
            bench.put(event(1))
            await until(lambda: waiting_for_locks(database) == 1)
            kill_backends(database)
            await bench.until_said("connection lost")
            blocker.rollback()
        await bench.finish(running)

    run(scenario)
    assert numbers(database) == [0, 1]


def test_a_statement_still_running_on_a_lost_connection_counts_once(
    database: Database, journal: MakeJournal
) -> None:
    """The old attempt waits for a lock while the new one is sent; the ledger's row decides.

    It waits in a trigger on the first line, so all of them were sent by then.
    """
    database.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END'"
    )
    database.execute(
        "CREATE TRIGGER wait BEFORE INSERT ON request_log FOR EACH ROW EXECUTE FUNCTION wait()"
    )

    async def scenario() -> None:
        async with Proxy(database.dsn) as proxy:
            bench = Bench(proxy.dsn, journal())
            running = bench.start()
            await bench.writer.connected.wait()
            bench.put(event(0))
            await until(lambda: not bench.journal.backlog_bytes)
            with closing(database.connect(autocommit=False)) as blocker:
                blocker.cursor().execute("SELECT pg_advisory_xact_lock(1)")
                proxy.swallow_answers()
                bench.put(*(event(n) for n in range(1, 20)))
                await until(lambda: waiting_for_locks(database) == 1)
                bench.put(event(20))
                proxy.cut()
                await until(lambda: waiting_for_locks(database) == 2)
                blocker.rollback()
            await bench.finish(running)

    run(scenario)
    assert numbers(database) == list(range(21))


def test_a_killed_backend_loses_nothing(database: Database, journal: MakeJournal) -> None:
    async def scenario() -> None:
        bench = Bench(database.dsn, journal())
        running = bench.start()
        await bench.writer.connected.wait()
        for n in range(200):
            bench.put(event(n))
            if n in (50, 100, 150):
                kill_backends(database)
                await bench.writer.connected.wait()
        await bench.finish(running)

    run(scenario)
    assert numbers(database) == list(range(200))


def test_a_log_table_that_is_away_is_waited_for(database: Database, journal: MakeJournal) -> None:
    async def scenario() -> None:
        bench = Bench(database.dsn, journal())
        running = bench.start()
        await bench.writer.connected.wait()
        database.execute("ALTER TABLE request_log RENAME TO elsewhere")
        bench.put(event(1))
        await bench.until_said("does not exist")
        database.execute("ALTER TABLE elsewhere RENAME TO request_log")
        await bench.finish(running)

    run(scenario)
    assert numbers(database) == [1]


# -- the ledger ------------------------------------------------------------------------------------


def test_the_same_move_of_the_ledger_takes_effect_once(database: Database) -> None:
    lines = event(1).decode()
    move = {"segment": "s", "before": 0, "after": len(lines) + 1, "lines": lines}
    with closing(database.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(query("journal_segment_open"), {"segment": "s", "shipped": 0})
        for _ in range(3):
            cursor.execute(query("log_insert"), move)
            assert cursor.fetchall() == [(len(lines) + 1,)]
    assert numbers(database) == [1]


def test_a_batch_that_comes_late_to_a_segment_that_is_done_inserts_nothing(
    database: Database,
) -> None:
    """Why no statement that inserts makes the ledger's row: this one was under way for long."""
    lines = event(1).decode()
    with closing(database.connect()) as conn, conn.cursor() as cursor:
        late = {"segment": "s", "before": 0, "after": len(lines) + 1, "lines": lines}
        cursor.execute(query("log_insert"), late)
        assert cursor.fetchall() == []
    assert numbers(database) == []


def test_what_comes_late_to_a_segment_that_is_done_does_not_begin_it_again(
    database: Database,
) -> None:
    """A connection was given up under a batch, the next one under the making of the row."""
    lines = event(1).decode()
    opening = {"segment": "s", "shipped": 0}
    batch = {"segment": "s", "before": 0, "after": len(lines) + 1, "lines": lines}
    with closing(database.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(query("journal_segment_open"), opening)
        cursor.execute(query("log_insert"), batch)
        cursor.execute(query("journal_segment_close"), {"segments": ["s"]})
        cursor.execute(query("journal_segment_open"), opening)
        assert cursor.fetchall() == [(len(lines) + 1,)]
        cursor.execute(query("log_insert"), batch)
        conn.commit()
    assert numbers(database) == [1]


def test_what_a_restored_database_has_lost_is_sent_again(
    database: Database, on_disk: Callable[..., Journal]
) -> None:
    """Rows and ledger go back together: a fail-over to a replica that lags, or a backup."""

    async def scenario() -> None:
        bench = Bench(database.dsn, on_disk())
        running = bench.start()
        bench.put(*(event(n) for n in range(10)))
        await until(lambda: len(numbers(database)) == 10)
        before = ledger(database)
        bench.put(*(event(n) for n in range(10, 20)))
        await until(lambda: len(numbers(database)) == 20)
        database.execute("DELETE FROM request_log WHERE (params->>'n')::int >= 10")
        database.execute("UPDATE journal_segment SET shipped_bytes = %s", before[0][1])
        # Noticed at the next connection, as after a fail-over, though there is nothing to send.
        kill_backends(database)
        await bench.until_said("has gone back from")
        await until(lambda: len(numbers(database)) == 20)
        await bench.finish(running)

    run(scenario)
    assert numbers(database) == list(range(20))


def test_a_ledger_that_goes_back_under_a_connection_is_noticed_by_the_next_batch(
    database: Database, on_disk: Callable[..., Journal]
) -> None:
    async def scenario() -> None:
        bench = Bench(database.dsn, on_disk())
        running = bench.start()
        bench.put(*(event(n) for n in range(10)))
        await until(lambda: len(numbers(database)) == 10)
        database.execute("TRUNCATE request_log; UPDATE journal_segment SET shipped_bytes = 0")
        bench.put(event(10))
        await bench.finish(running)

    run(scenario)
    assert numbers(database) == list(range(11))


def test_a_ledger_row_that_is_gone_is_made_again(database: Database, journal: MakeJournal) -> None:
    """Before anything counted: the database is one that has never heard of this stream."""

    async def scenario() -> None:
        bench = Bench(database.dsn, journal())
        running = bench.start()
        bench.put(event(1))
        await until(lambda: numbers(database) == [1])
        database.execute("TRUNCATE request_log, journal_segment")
        bench.put(event(2))
        await bench.finish(running)

    run(scenario)
    # From memory there is no way back to what was shipped, from a file there is.
    assert numbers(database) in ([1, 2], [2])
    assert ledger(database) == []


def test_of_a_stream_the_ledger_does_not_know_everything_at_hand_is_sent(
    database: Database, on_disk: Callable[..., Journal]
) -> None:
    async def scenario() -> None:
        bench = Bench(database.dsn, on_disk(segment_bytes=1000))
        running = bench.start()
        bench.put(*(event(n) for n in range(3)))
        await until(lambda: len(numbers(database)) == 3)
        database.execute("TRUNCATE request_log, journal_segment")
        bench.put(event(3))
        await bench.finish(running)

    run(scenario)
    assert numbers(database) == [0, 1, 2, 3]


@pytest.mark.parametrize("ahead", [1, 1000])
def test_a_ledger_that_stands_where_nothing_of_ours_can_have_put_it_is_broken(
    database: Database, journal: MakeJournal, ahead: int
) -> None:
    """In the middle of a line, or ahead of all that was written."""

    async def scenario() -> None:
        bench = Bench(database.dsn, journal())
        running = bench.start()
        bench.put(event(1))
        await until(lambda: numbers(database) == [1])
        database.execute("UPDATE journal_segment SET shipped_bytes = shipped_bytes + %s", ahead)
        bench.put(event(2))
        with pytest.raises(LedgerBroken, match="test-1-"):
            await running

    run(scenario)
    assert numbers(database) == [1]


# -- what cannot become a row ----------------------------------------------------------------------


def test_a_missing_partition_is_made(database: Database, journal: MakeJournal) -> None:
    database.execute("SELECT request_log_drop_before('9999-12-31')")
    text = event(1)
    run(lambda: write_all(Bench(database.dsn, journal()), [text]))
    # Of the day that it says, which may be over by now.
    day = text[:10].decode().replace("-", "")
    assert [(f"request_log_{day}",)] == database.fetch(
        "SELECT DISTINCT tableoid::regclass::text FROM request_log"
    )


def test_a_clock_that_jumped_decades_within_a_batch_stops_nobody(
    database: Database, journal: MakeJournal
) -> None:
    old = b"1970-01-01 00:00:00.000+00\t" + event(1).split(b"\t", 1)[1]
    run(lambda: write_all(Bench(database.dsn, journal()), [old, event(2)]))
    assert numbers(database) == [1, 2]


def test_a_line_that_postgresql_refuses_stops_nobody_else(
    database: Database, journal: MakeJournal
) -> None:
    lines = [event(n) for n in range(300)]
    lines[17] = event(17, params="not json")
    lines[250] = b"not even an event"

    async def scenario() -> None:
        bench = Bench(database.dsn, journal())
        await write_all(bench, lines)
        assert bench.counters[Counter.LOG_ROWS_REJECTED] == 2
        assert bench.counters[Counter.LOG_ROWS] == 298
        assert INSERT_ROWS.count(bench.counters) < 40, "batches grow again behind a bad line"

    run(scenario)
    assert numbers(database) == [n for n in range(300) if n not in (17, 250)]
    rejected = database.fetch("SELECT line, reason FROM request_log_rejected ORDER BY line")
    assert [line for line, _ in rejected] == [lines[17].decode(), "not even an event"]
    assert "json" in rejected[0][1]


def test_a_refused_line_is_kept_whatever_encoding_the_dsn_names(
    database: Database, journal: MakeJournal
) -> None:
    dsn = psycopg2.extensions.make_dsn(database.dsn, client_encoding="LATIN1")
    bad = event(1, params="{日本}", agent="日本".encode())
    run(lambda: write_all(Bench(dsn, journal()), [bad, event(2, agent="日本".encode())]))
    assert numbers(database) == [2]
    assert database.fetch("SELECT line FROM request_log_rejected") == [(bad.decode(),)]


@pytest.mark.parametrize("bad", [b"a\0b", b"\xff\xfe", b"9999-99-99 x"])
def test_bytes_that_are_no_text_stop_nobody_else(database: Database, bad: bytes) -> None:
    """A bug of ours could make them; they are kept as far as PostgreSQL can keep them."""
    memory = MemoryJournal("test-1-segment", max_rows=10_000, max_bytes=1 << 24)
    run(lambda: write_all(Bench(database.dsn, memory), [event(1), bad, event(2)]))
    assert numbers(database) == [1, 2]
    assert len(database.fetch("SELECT line FROM request_log_rejected")) == 1
