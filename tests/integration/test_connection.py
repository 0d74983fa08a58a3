"""Connections that cannot be opened, or end at the wrong moment: what the owners of one get to see."""

import asyncio
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
import uvloop

from prefork_ads.db.connection import ConnectionLost, open_connection
from prefork_ads.errors import DatabaseUnavailable
from tests.conftest import Database
from tests.proxy import Proxy


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


def test_refusals_are_told_and_leave_nothing_in_the_loop() -> None:
    """Many at once, as by a worker with four readers: descriptor numbers are used again and again."""
    complaints: list[dict[str, Any]] = []

    async def keep_trying(dsn: str) -> None:
        for _ in range(20):
            with pytest.raises(DatabaseUnavailable, match="Connection refused"):
                await open_connection(dsn, role="test")

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        # Bound and not listening: nobody else can get the port.
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            dsn = f"host=127.0.0.1 port={place.getsockname()[1]} dbname=x"
            await asyncio.gather(*(keep_trying(dsn) for _ in range(5)))

    run(scenario())
    assert complaints == []


def test_the_host_that_listens_is_found(database: Database) -> None:
    there = psycopg2.extensions.parse_dsn(database.dsn)

    async def scenario() -> None:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            hosts = {
                "host": f"127.0.0.1,{there['host']}",
                "port": f"{place.getsockname()[1]},{there.get('port', 5432)}",
            }
            connection = await open_connection(
                psycopg2.extensions.make_dsn(**{**there, **hosts}), role="test"
            )
            await connection.execute("SELECT 1", timeout_s=5)
            assert connection.rows() == [(1,)]
            connection.close()

    run(scenario())


def test_rows_of_a_connection_that_ended_behind_its_answer(database: Database) -> None:
    async def scenario() -> None:
        connection = await open_connection(database.dsn, role="test")
        await connection.execute("SELECT 1", timeout_s=5)
        connection.close()
        with pytest.raises(ConnectionLost):
            connection.rows()

    run(scenario())


def test_an_idle_connection_that_postgres_ends_shows_as_closed(database: Database) -> None:
    async def scenario() -> None:
        doomed = await open_connection(database.dsn, role="doomed")
        other = await open_connection(database.dsn, role="other")
        await other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'doomed' AND datname = current_database()",
            timeout_s=10,
        )
        async with asyncio.timeout(5):
            # A turn of the loop, in which it may hear of its end.
            while not doomed.closed:  # noqa: ASYNC110
                await asyncio.sleep(0)
        other.close()

    run(scenario())


def test_a_server_that_parts_with_our_bytes_unread_is_noticed(
    database: Database, tmp_path: Path
) -> None:
    """The kernel reports an error, uvloop calls aiopg once, aiopg reads the farewell and waits for ever."""

    async def scenario() -> None:
        async with Proxy(database.dsn, tmp_path) as proxy:
            connection = await open_connection(proxy.dsn, role="test")
            proxy.stop_reading()
            running = asyncio.create_task(connection.execute("SELECT 1", timeout_s=60))
            # One turn of the loop sends the statement.
            await asyncio.sleep(0)
            await proxy.part_rudely()
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionLost):
                    await running

    run(scenario())


def test_a_name_that_is_not_found_is_the_end_of_that_host_only(database: Database) -> None:
    """And libpq is not asked, which would block the loop for as long as the resolver is away."""
    there = psycopg2.extensions.parse_dsn(database.dsn)

    async def scenario() -> None:
        with pytest.raises(DatabaseUnavailable, match=r"no-such-host\.invalid"):
            await open_connection("host=no-such-host.invalid dbname=x", role="test")
        hosts = f"no-such-host.invalid,{there['host']}"
        ports = f"5432,{there.get('port', '5432')}"
        dsn = psycopg2.extensions.make_dsn(**{**there, "host": hosts, "port": ports})
        connection = await open_connection(dsn, role="test")
        connection.close()

    run(scenario())
