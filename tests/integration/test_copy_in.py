"""COPY on an asynchronous connection: both or neither, and never a connection in doubt."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, closing
from typing import Any

import aiopg
import psycopg2
import pytest
import uvloop

from prefork_ads.db.copy_in import CopyLost, CopyRefused, copy_in
from prefork_ads.db.descriptor import Connection
from tests.conftest import Database
from tests.proxy import Proxy
from tests.support import wait_until

MOVE = b"UPDATE ledger SET position = 7 WHERE position = 0 RETURNING position;"
COPY = b"COPY line (n, text) FROM STDIN"
LIMIT_S = 30.0


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


@pytest.fixture
def tables(database: Database) -> Database:
    database.execute("CREATE TABLE line (n integer NOT NULL, text text NOT NULL)")
    database.execute("CREATE TABLE ledger (position bigint NOT NULL)")
    database.execute("INSERT INTO ledger VALUES (0)")
    return database


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[aiopg.Connection]:
    connection = await Connection(
        dsn, LIMIT_S, enable_json=False, enable_hstore=False, enable_uuid=False
    )
    try:
        yield connection
    finally:
        connection.close()


async def ask(connection: aiopg.Connection, statement: str) -> list[tuple[Any, ...]]:
    cursor = await connection.cursor()
    await cursor.execute(statement)
    rows: list[tuple[Any, ...]] = await cursor.fetchall()
    return rows


def stored(database: Database) -> tuple[int, int]:
    """How many lines, and where the ledger stands."""
    [(lines, position)] = database.fetch(
        "SELECT (SELECT count(*) FROM line), (SELECT position FROM ledger)"
    )
    return lines, position


def test_rows_and_condition_take_effect_together(tables: Database) -> None:
    async def scenario() -> None:
        async with connected(tables.dsn) as connection:
            data = b"1\tone\n2\ttab \\t and \\\\ \xc3\xa4\n"
            assert await copy_in(connection, MOVE + COPY, data, timeout_s=LIMIT_S) == "7"
            # And aiopg has its connection back.
            assert await ask(connection, "SELECT text FROM line ORDER BY n") == [
                ("one",),
                ("tab \t and \\ ä",),
            ]
            assert await copy_in(connection, b"SELECT 1;" + COPY, b"", timeout_s=LIMIT_S) == "1"

    run(scenario())
    assert stored(tables) == (2, 7)


def test_without_a_row_from_the_condition_nothing_happens(tables: Database) -> None:
    async def scenario() -> None:
        async with connected(tables.dsn) as connection:
            nothing = b"UPDATE ledger SET position = 9 WHERE position = 5 RETURNING position;"
            statement = b"DELETE FROM ledger;" + nothing + COPY
            assert await copy_in(connection, statement, b"1\tone\n", timeout_s=LIMIT_S) is None
            assert await ask(connection, "SELECT 1") == [(1,)]

    run(scenario())
    assert stored(tables) == (0, 0)


def test_a_line_that_is_refused_takes_nothing_with_it(tables: Database) -> None:
    async def scenario() -> None:
        async with connected(tables.dsn) as connection:
            good = b"".join(b"%d\tx\n" % n for n in range(100_000))
            with pytest.raises(CopyRefused, match="invalid input syntax") as refused:
                await copy_in(connection, MOVE + COPY, good + b"no\tx\n" + good, timeout_s=LIMIT_S)
            assert refused.value.sqlstate == "22P02"
            assert await ask(connection, "SELECT 1") == [(1,)]

    run(scenario())
    assert stored(tables) == (0, 0)


def test_what_follows_the_copy_belongs_to_it(tables: Database) -> None:
    """Its answers are passed over, the condition's is told; and if it is refused nothing takes effect."""

    async def scenario() -> None:
        async with connected(tables.dsn) as connection:
            failing = MOVE + COPY + b"; SELECT 'a'; SELECT 1 / (count(*) - 1) FROM line"
            with pytest.raises(CopyRefused, match="division by zero") as refused:
                await copy_in(connection, failing, b"1\tone\n", timeout_s=LIMIT_S)
            assert refused.value.sqlstate == "22012"
            assert stored(tables) == (0, 0)
            more = MOVE + COPY + b"; SELECT 'a'; DELETE FROM line WHERE n = 1 RETURNING 'b'"
            data = b"1\tone\n2\ttwo\n"
            assert await copy_in(connection, more, data, timeout_s=LIMIT_S) == "7"
            assert await copy_in(connection, more, data, timeout_s=LIMIT_S) is None
            assert await ask(connection, "SELECT n FROM line") == [(2,)]

    run(scenario())
    assert stored(tables) == (1, 7)


def test_a_refused_condition_is_told(tables: Database) -> None:
    async def scenario() -> None:
        async with connected(tables.dsn) as connection:
            for statement in (b"SELECT * FROM nowhere;" + COPY, MOVE + b"COPY nowhere FROM STDIN"):
                with pytest.raises(CopyRefused, match="does not exist") as refused:
                    await copy_in(connection, statement, b"1\tx\n", timeout_s=LIMIT_S)
                assert refused.value.sqlstate == "42P01"

    run(scenario())
    assert stored(tables) == (0, 0)


def test_much_more_than_a_socket_takes_at_once(tables: Database) -> None:
    lines, line = 20_000, b"1\t" + b"x" * 1000 + b"\n"

    async def scenario() -> None:
        async with connected(tables.dsn) as connection:
            assert await copy_in(connection, MOVE + COPY, line * lines, timeout_s=60) == "7"

    run(scenario())
    assert stored(tables) == (lines, 7)


def test_a_statement_timeout_leaves_the_connection(tables: Database) -> None:
    async def scenario() -> None:
        async with connected(tables.dsn) as connection:
            # For this one only: on a busy machine what follows may well take longer.
            limited = b"SET LOCAL statement_timeout = 100;" + MOVE + COPY
            with pytest.raises(CopyRefused) as refused:
                await copy_in(connection, limited, b"1\tx\n", timeout_s=LIMIT_S)
            assert refused.value.sqlstate == "57014"
            assert await ask(connection, "SELECT 1") == [(1,)]

    with psycopg2.connect(tables.dsn) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE line IN ACCESS EXCLUSIVE MODE")
        run(scenario())
        holder.rollback()
    holder.close()
    assert stored(tables) == (0, 0)


def test_time_cancellation_and_somebody_elses_close_end_the_connection(tables: Database) -> None:
    async def scenario() -> None:
        async with connected(tables.dsn) as connection:
            with pytest.raises(CopyLost, match=r"no answer within 0\.1 s"):
                await copy_in(connection, MOVE + COPY, b"1\tx\n", timeout_s=0.1)
            assert connection.closed
            with pytest.raises(CopyLost, match="closed"):
                await copy_in(connection, MOVE + COPY, b"1\tx\n", timeout_s=LIMIT_S)
        for end in (asyncio.Task.cancel, lambda _: connection.close()):
            async with connected(tables.dsn) as connection:
                [(pid,)] = await ask(connection, "SELECT pg_backend_pid()")
                copying = asyncio.create_task(
                    copy_in(connection, MOVE + COPY, b"1\tx\n", timeout_s=LIMIT_S)
                )
                await waits_for_lock(tables, pid)
                end(copying)
                with pytest.raises((CopyLost, asyncio.CancelledError)):
                    await copying
                assert connection.closed

    with psycopg2.connect(tables.dsn) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE line IN ACCESS EXCLUSIVE MODE")
        run(scenario())
        holder.rollback()
    holder.close()
    assert stored(tables) == (0, 0)


async def waits_for_lock(database: Database, pid: int) -> None:
    """Until that backend waits for a lock."""
    asking = f"SELECT wait_event_type FROM pg_stat_activity WHERE pid = {pid}"
    async with connected(database.dsn) as connection, asyncio.timeout(LIMIT_S):
        # pg_sleep lets the server wait between two looks.
        while await ask(connection, f"{asking} AND pg_sleep(0.01) IS NOT NULL") != [("Lock",)]:
            pass


def test_a_backend_that_is_terminated_is_a_lost_connection(tables: Database) -> None:
    async def scenario() -> None:
        async with connected(tables.dsn) as connection, connected(tables.dsn) as other:
            [(pid,)] = await ask(connection, "SELECT pg_backend_pid()")
            copying = asyncio.create_task(
                copy_in(connection, MOVE + COPY, b"1\tx\n", timeout_s=LIMIT_S)
            )
            await waits_for_lock(tables, pid)
            await ask(other, f"SELECT pg_terminate_backend({pid})")
            with pytest.raises(CopyLost, match="administrator command"):
                await copying
            assert connection.closed

    with psycopg2.connect(tables.dsn) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE line IN ACCESS EXCLUSIVE MODE")
        run(scenario())
        holder.rollback()
    holder.close()
    assert stored(tables) == (0, 0)


def test_a_backend_that_is_terminated_while_we_send_is_heard_too(tables: Database) -> None:
    """It waits at the first row, and what we send fills both sockets; libpq reads no answer meanwhile."""
    tables.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN new; END'"
    )
    tables.execute("CREATE TRIGGER wait BEFORE INSERT ON line FOR EACH ROW EXECUTE FUNCTION wait()")

    async def scenario() -> None:
        async with connected(tables.dsn) as connection, connected(tables.dsn) as other:
            [(pid,)] = await ask(connection, "SELECT pg_backend_pid()")
            line = b"1\t" + b"x" * 1000 + b"\n"
            copying = asyncio.create_task(
                copy_in(connection, MOVE + COPY, line * 50_000, timeout_s=LIMIT_S)
            )
            await waits_for_lock(tables, pid)
            async with asyncio.timeout(LIMIT_S):
                # Turns of the loop, in which it sends.
                while not connection._writing:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            await ask(other, f"SELECT pg_terminate_backend({pid})")
            with pytest.raises(CopyLost, match="administrator command"):
                await copying
            assert connection.closed

    with closing(tables.connect()) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(1)")
        run(scenario())
    assert stored(tables) == (0, 0)


def test_a_second_copy_in_the_string_is_not_answered_and_stores_nothing(tables: Database) -> None:
    async def scenario() -> None:
        async with connected(tables.dsn) as connection:
            with pytest.raises(CopyLost, match="asks for another COPY"):
                await copy_in(connection, MOVE + COPY + b";" + COPY, b"1\tx\n", timeout_s=LIMIT_S)
            assert connection.closed

    run(scenario())
    wait_until(lambda: backends_of(tables) == 0, "its backend to end")
    assert stored(tables) == (0, 0)


def backends_of(database: Database) -> int:
    """Others than the one that asks."""
    [(number,)] = database.fetch(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
    assert isinstance(number, int)
    return number


def test_a_connection_cut_half_way_through_the_data_stores_nothing(tables: Database) -> None:
    async def scenario() -> None:
        async with Proxy(tables.dsn) as proxy, connected(proxy.dsn) as connection:
            await ask(connection, "SELECT 1")
            proxy.stop_reading()
            line = b"1\t" + b"x" * 1000 + b"\n"
            copying = asyncio.create_task(
                copy_in(connection, MOVE + COPY, line * 50_000, timeout_s=LIMIT_S)
            )
            # One turn of the loop: the statement is on its way, and nobody reads it.
            await asyncio.sleep(0)
            proxy.cut()
            with pytest.raises(CopyLost):
                await copying
            assert connection.closed

    run(scenario())
    assert stored(tables) == (0, 0)


def test_a_close_while_we_send_leaves_nothing_in_the_loop(tables: Database) -> None:
    """A writer that stays behind makes libuv abort, or fails whoever gets the descriptor's number next."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with Proxy(tables.dsn) as proxy, connected(proxy.dsn) as connection:
            await ask(connection, "SELECT 1")
            proxy.stop_reading()
            descriptor = connection.raw.fileno()
            # More than any two sockets hold, so that not even the statement is sent.
            statement = MOVE + b"/*" + b"x" * (64 << 20) + b"*/" + COPY
            copying = asyncio.create_task(copy_in(connection, statement, b"", timeout_s=LIMIT_S))
            await asyncio.sleep(0)
            connection.close()
            assert not loop.remove_writer(descriptor)
            with pytest.raises(CopyLost, match="was closed"):
                await copying

    # Not uvloop's: this loop says whether there was a writer.
    asyncio.run(scenario())
    assert stored(tables) == (0, 0)


def test_a_connection_is_good_for_one_after_another(tables: Database) -> None:
    async def scenario() -> None:
        async with Proxy(tables.dsn) as proxy, connected(proxy.dsn) as connection:
            assert await copy_in(connection, b"SELECT 1;" + COPY, b"1\tx\n", timeout_s=LIMIT_S)
            with pytest.raises(CopyRefused, match="syntax error"):
                await copy_in(connection, b"no;" + COPY, b"", timeout_s=LIMIT_S)
            assert await copy_in(connection, MOVE + COPY, b"1\tx\n", timeout_s=LIMIT_S) == "7"
            assert await copy_in(connection, MOVE + COPY, b"1\tx\n", timeout_s=LIMIT_S) is None

    run(scenario())
    assert stored(tables) == (2, 7)
