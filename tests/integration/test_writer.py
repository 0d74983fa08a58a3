"""The writer: every line it has taken becomes one row, whatever happens to its connection."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork_ads.db.queries import query
from prefork_ads.db.writer import Batching, Writer
from prefork_ads.events.event import EventClock, line
from prefork_ads.events.uuid7 import Uuid7
from prefork_ads.metrics import Counter, Gauge
from tests.conftest import Database
from tests.proxy import Proxy

SEGMENT = "test-segment"


def event(number: int, *, params: str | None = None, agent: bytes | None = b"test") -> bytes:
    stamp = EventClock(Uuid7()).stamp()
    return line(
        stamp, b"log", (params or f'{{"n":{number}}}').encode(), agent, None, "192.0.2.1", None
    )


class Bench:
    """A writer with what it needs, and what it said."""

    def __init__(self, dsn: str, batching: Batching | None = None) -> None:
        self.counters = [0] * len(Counter)
        self.gauges = [0] * len(Gauge)
        self.said: list[str] = []
        self.heard = asyncio.Event()
        self.writer = Writer(
            dsn, SEGMENT, batching or small(), self.counters, self.gauges, self._report
        )

    def _report(self, message: str) -> None:
        self.said.append(message)
        self.heard.set()

    async def until_said(self, words: str) -> None:
        while not any(words in message for message in self.said):
            self.heard.clear()
            await self.heard.wait()


def small(**changes: float) -> Batching:
    settings = {"rows": 100, "bytes": 1 << 20, "interval_s": 0.01, "max_rows": 1000}
    values = {**settings, "max_bytes": 1 << 24, **changes}
    return Batching(
        int(values["rows"]),
        int(values["bytes"]),
        values["interval_s"],
        int(values["max_rows"]),
        int(values["max_bytes"]),
    )


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


async def write_all(bench: Bench, lines: list[bytes]) -> None:
    running = asyncio.create_task(bench.writer.run())
    for text in lines:
        assert bench.writer.append(text)
    bench.writer.stop()
    await running


def numbers(database: Database) -> list[int]:
    return [n for (n,) in database.fetch("SELECT (params->>'n')::int FROM request_log ORDER BY 1")]


def test_lines_become_rows_and_the_ledger_row_goes_with_the_last(database: Database) -> None:
    async def scenario() -> None:
        bench = Bench(database.dsn)
        await write_all(bench, [event(n) for n in range(250)])
        assert bench.counters[Counter.LOG_ROWS] == 250
        assert bench.counters[Counter.LOG_BATCHES] >= 3, "batches are bounded at 100 rows"

    run(scenario)
    assert numbers(database) == list(range(250))
    assert database.fetch("SELECT * FROM journal_segment") == []


def test_fields_arrive_as_they_were_sent(database: Database) -> None:
    agent = "tab\there, back\\slash, \\t \\\\n \\N, quote' \" %s 🎉".encode()
    params = '{"n":1,"text":"a\\\\b \\"q\\" \\n é"}'

    run(lambda: write_all(Bench(database.dsn), [event(1, params=params, agent=agent)]))
    row = database.fetch(
        "SELECT user_agent, params->>'text', referer, host(address), language, endpoint FROM request_log"
    )
    assert row == [(agent.decode(), 'a\\b "q" \n é', None, "192.0.2.1", None, "log")]


def test_a_batch_whose_answer_is_lost_counts_once(database: Database) -> None:
    """PostgreSQL commits, the client never hears of it and sends the batch again."""

    async def scenario() -> None:
        async with Proxy(database.dsn) as proxy:
            bench = Bench(proxy.dsn)
            running = asyncio.create_task(bench.writer.run())
            await bench.writer.connected.wait()
            proxy.swallow_answers()
            for n in range(50):
                bench.writer.append(event(n))
            await proxy.statement_seen.wait()
            await until(lambda: bool(numbers(database)))
            proxy.cut()
            bench.writer.stop()
            await running
            assert proxy.connections == 2
            assert bench.counters[Counter.LOG_FAILURES] == 1

    run(scenario)
    assert numbers(database) == list(range(50))


def test_a_statement_still_running_on_a_lost_connection_counts_once(database: Database) -> None:
    """The old attempt waits for a lock while the new one is sent; the ledger's row decides."""

    async def scenario() -> None:
        async with Proxy(database.dsn) as proxy:
            bench = Bench(proxy.dsn)
            running = asyncio.create_task(bench.writer.run())
            await bench.writer.connected.wait()
            with closing(database.connect(autocommit=False)) as blocker:
                blocker.cursor().execute("LOCK TABLE request_log IN ACCESS EXCLUSIVE MODE")
                proxy.swallow_answers()
                for n in range(20):
                    bench.writer.append(event(n))
                await until(lambda: waiting_for_locks(database) == 1)
                proxy.cut()
                await until(lambda: waiting_for_locks(database) == 2)
                blocker.rollback()
            bench.writer.stop()
            await running

    run(scenario)
    assert numbers(database) == list(range(20))


def test_the_same_move_of_the_ledger_takes_effect_once(database: Database) -> None:
    lines = event(1).decode()
    move = {"segment": SEGMENT, "before": 0, "after": len(lines) + 1, "lines": lines}
    with closing(database.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(query("journal_segment_open"), {"segment": SEGMENT, "shipped": 0})
        for _ in range(3):
            cursor.execute(query("log_insert"), move)
            assert cursor.fetchall() == [(len(lines) + 1,)]
    assert numbers(database) == [1]


def test_a_missing_partition_is_made(database: Database) -> None:
    database.execute("SELECT request_log_drop_before('9999-12-31')")
    run(lambda: write_all(Bench(database.dsn), [event(1)]))
    today = datetime.now(UTC).strftime("%Y%m%d")
    assert [(f"request_log_{today}",)] == database.fetch(
        "SELECT DISTINCT tableoid::regclass::text FROM request_log"
    )


def test_a_line_that_postgresql_refuses_stops_nobody_else(database: Database) -> None:
    lines = [event(n) for n in range(300)]
    lines[17] = event(17, params="not json")
    lines[250] = b"not even an event"

    async def scenario() -> None:
        bench = Bench(database.dsn)
        await write_all(bench, lines)
        assert bench.counters[Counter.LOG_ROWS_REJECTED] == 2
        assert bench.counters[Counter.LOG_BATCHES] < 40, "pieces grow again behind a bad line"

    run(scenario)
    assert numbers(database) == [n for n in range(300) if n not in (17, 250)]
    rejected = database.fetch("SELECT line, reason FROM request_log_rejected ORDER BY line")
    assert [line for line, _ in rejected] == [lines[17].decode(), "not even an event"]
    assert "json" in rejected[0][1]


def test_a_log_table_that_is_away_is_waited_for(database: Database) -> None:
    async def scenario() -> None:
        bench = Bench(database.dsn)
        running = asyncio.create_task(bench.writer.run())
        await bench.writer.connected.wait()
        database.execute("ALTER TABLE request_log RENAME TO elsewhere")
        bench.writer.append(event(1))
        await bench.until_said("does not exist")
        database.execute("ALTER TABLE elsewhere RENAME TO request_log")
        bench.writer.stop()
        await running

    run(scenario)
    assert numbers(database) == [1]


def test_a_killed_backend_loses_nothing(database: Database) -> None:
    async def scenario() -> None:
        bench = Bench(database.dsn)
        running = asyncio.create_task(bench.writer.run())
        await bench.writer.connected.wait()
        for n in range(200):
            bench.writer.append(event(n))
            if n in (50, 100, 150):
                database.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'prefork-ads writer' AND datname = current_database()"
                )
                await bench.writer.connected.wait()
        bench.writer.stop()
        await running

    run(scenario)
    assert numbers(database) == list(range(200))


@pytest.mark.parametrize(
    ("batching", "taken"),
    [(small(max_rows=10), 10), (small(max_bytes=1000), None)],
    ids=["rows", "bytes"],
)
def test_what_is_held_in_memory_is_bounded(batching: Batching, taken: int | None) -> None:
    async def scenario() -> None:
        writer = Bench("host=/nowhere", batching).writer
        lines = [event(n) for n in range(100)]
        answers = [writer.append(text) for text in lines]
        count = answers.index(False)
        assert not any(answers[count:])
        if taken is not None:
            assert count == taken
        else:
            assert size(lines[: count - 1]) < 1000 <= size(lines[:count])

    run(scenario)


def test_what_cannot_be_shipped_is_kept_in_a_file_that_copy_loads(
    database: Database, tmp_path: Path
) -> None:
    lines = [event(n, agent=b"tab\there \\ and there") for n in range(5)]

    async def scenario() -> None:
        bench = Bench("host=/nowhere", small())
        running = asyncio.create_task(bench.writer.run())
        for text in lines:
            bench.writer.append(text)
        await bench.until_said("no connection")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        path = bench.writer.rescue(tmp_path)
        assert path is not None
        with closing(database.connect()) as conn, conn.cursor() as cursor, path.open() as file:
            cursor.copy_expert("COPY request_log FROM STDIN", file)

    run(scenario)
    assert numbers(database) == list(range(5))
    assert database.fetch("SELECT DISTINCT user_agent FROM request_log") == [
        ("tab\there \\ and there",)
    ]


def size(lines: list[bytes]) -> int:
    return len(b"\n".join(lines)) + 1


def waiting_for_locks(database: Database) -> int:
    return len(
        database.fetch(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
    )


async def until(condition: Callable[[], bool]) -> None:
    """Poll PostgreSQL, which announces nothing; the loop runs in between."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def _partitions(database: Database) -> None:
    """As the keeper leaves them: without, the first batch finds that there is none."""
    database.execute("SELECT request_log_ensure(current_date - 1, current_date + 1)")


def test_a_ledger_row_that_was_taken_for_a_dead_workers_is_made_again(database: Database) -> None:
    async def scenario() -> None:
        bench = Bench(database.dsn)
        running = asyncio.create_task(bench.writer.run())
        await bench.writer.connected.wait()
        database.execute("DELETE FROM journal_segment")
        bench.writer.append(event(1))
        await bench.until_said("journal_segment is gone")
        bench.writer.stop()
        await running

    run(scenario)
    assert numbers(database) == [1]


@given(st.lists(st.text(alphabet="\\Nnt\t N", max_size=6), min_size=1, max_size=4))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_plain_and_escaped_batches_say_the_same(database: Database, agents: list[str]) -> None:
    """Which of the two statements ships a batch depends on its backslashes; its rows do not."""
    database.execute("TRUNCATE request_log")
    lines = [event(n, agent=agent.encode()) for n, agent in enumerate(agents)]
    run(lambda: write_all(Bench(database.dsn), lines))
    rows = database.fetch("SELECT user_agent FROM request_log ORDER BY (params->>'n')::int")
    assert [agent for (agent,) in rows] == [agent.strip(" \t") for agent in agents]


def test_a_clock_that_jumped_decades_within_a_batch_stops_nobody(database: Database) -> None:
    old = b"1970-01-01 00:00:00.000+00\t" + event(1).split(b"\t", 1)[1]
    run(lambda: write_all(Bench(database.dsn), [old, event(2)]))
    assert numbers(database) == [1, 2]
