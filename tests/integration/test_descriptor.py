"""A connection's descriptor: whose number it is afterwards, and numbers that select() does not take."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from typing import Any

import psycopg2
import pytest
import uvloop

from prefork_ads.db.connection import (
    LOOK_EVERY_S,
    AsyncConnection,
    ConnectionLost,
    open_connection,
)
from tests.conftest import Database

LIMIT_S = 60.0
# select(2) takes no more, whatever the process may open.
FD_SETSIZE = 1024
LOCK = "LOCK TABLE line IN ACCESS EXCLUSIVE MODE"


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


def number_of(connection: AsyncConnection) -> int:
    number: int = connection._connection.raw.fileno()
    return number


class Heir:
    """Somebody else whose descriptor gets that number, in the same loop."""

    def __init__(self, number: int, stack: ExitStack) -> None:
        one, other = socket.socketpair()
        if other.fileno() == number:
            one, other = other, one
        elif one.fileno() != number:
            os.dup2(one.fileno(), number)
            one.close()
            one = socket.socket(fileno=number)
        stack.enter_context(one)
        self._theirs = stack.enter_context(other)
        self._heard = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(one, self._heard.set)
        stack.callback(loop.remove_reader, one)

    async def still_hears(self) -> bool:
        self._theirs.send(b"x")
        async with asyncio.timeout(LIMIT_S):
            await self._heard.wait()
        return True


@contextmanager
def taken_up_to(number: int) -> Iterator[None]:
    """No descriptor below this number is free."""
    with ExitStack() as stack:
        while True:
            taken = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, taken)
            if taken >= number:
                break
        yield


@asynccontextmanager
async def one_that_will_end(
    database: Database, descriptor: int
) -> AsyncIterator[tuple[AsyncConnection, int, AsyncConnection]]:
    """It, its descriptor's number, which is that or more, and another connection."""
    other = await open_connection(database.dsn, role="other")
    with taken_up_to(descriptor):
        doomed = await open_connection(database.dsn, role="doomed")
    try:
        number = number_of(doomed)
        assert number >= descriptor
        yield doomed, number, other
    finally:
        other.close()
        doomed.close()


async def terminate(connection: AsyncConnection, role: str) -> None:
    await connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %(role)s"
        " AND datname = current_database()",
        {"role": role},
        timeout_s=LIMIT_S,
    )


WAITS = "SELECT pg_advisory_lock(1)"
BACKEND = "FROM pg_stat_activity WHERE datname = current_database() AND query = %s"


async def ends_while_the_loop_is_held_up(
    database: Database, doomed: AsyncConnection, *, answered: bool
) -> None:
    """Run a statement whose backend ends, `answered` or not, before the loop reads again.

    Raises what the statement raises. Held up where it reads, the loop looks at its timers first then.
    """

    def hold_up() -> None:
        ours.recv(1)
        wait_for("active")
        if answered:
            holder.close()
            wait_for("idle")
        ended = database.fetch(f"SELECT pg_terminate_backend(pid, 60000) {BACKEND}", WAITS)
        assert ended == [(True,)]
        time.sleep(2 * LOOK_EVERY_S)

    def wait_for(state: str) -> None:
        until = time.monotonic() + LIMIT_S
        while not database.fetch(f"SELECT {BACKEND} AND state = %s", WAITS, state):
            assert time.monotonic() < until, f"the statement's backend is not {state}"

    ours, theirs = socket.socketpair()
    holder = database.connect()
    with ours, theirs, closing(holder), holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(1) AS held")
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, hold_up)
        theirs.send(b"x")
        try:
            await doomed.execute(WAITS, timeout_s=LIMIT_S)
        finally:
            loop.remove_reader(ours)


def test_a_second_close_leaves_alone_who_has_the_number_now(database: Database) -> None:
    async def scenario() -> None:
        connection = await open_connection(database.dsn, role="test")
        number = number_of(connection)
        connection.close()
        with ExitStack() as stack:
            heir = Heir(number, stack)
            connection.close()
            assert await heir.still_hears()

    run(scenario())


def test_a_copy_whose_connection_was_closed_leaves_alone_who_has_the_number_now(
    database: Database,
) -> None:
    """As who looks for dead connections does it: the copy notices later."""
    database.execute("CREATE TABLE line (n integer)")
    database.execute("CREATE TABLE ledger (position bigint)")
    database.execute("INSERT INTO ledger VALUES (0)")

    async def scenario() -> None:
        connection = await open_connection(database.dsn, role="test")
        number = number_of(connection)
        copying = asyncio.create_task(
            connection.copy(
                "UPDATE ledger SET position = 1 RETURNING position; COPY line FROM STDIN",
                {},
                b"1\n",
                timeout_s=LIMIT_S,
            )
        )
        # One turn of the loop: the statement is on its way, and waits for the lock.
        await asyncio.sleep(0)
        connection.close()
        with ExitStack() as stack:
            heir = Heir(number, stack)
            with pytest.raises(ConnectionLost):
                await copying
            assert await heir.still_hears()

    with psycopg2.connect(database.dsn) as holder, holder.cursor() as cursor:
        cursor.execute(LOCK)
        run(scenario())
        holder.rollback()
    holder.close()


@pytest.mark.parametrize("descriptor", [0, FD_SETSIZE])
def test_a_statement_hears_that_its_backend_was_terminated(
    database: Database, descriptor: int
) -> None:
    """Whatever its descriptor's number, and with PostgreSQL's own words."""

    async def scenario() -> None:
        async with one_that_will_end(database, descriptor) as (doomed, number, other):
            sleeping = asyncio.create_task(
                doomed.execute("SELECT pg_sleep(600)", timeout_s=10 * LIMIT_S)
            )
            await asyncio.sleep(0)
            await terminate(other, "doomed")
            async with asyncio.timeout(LIMIT_S):
                with pytest.raises(ConnectionLost, match="administrator command"):
                    await sleeping
            assert not asyncio.get_running_loop().remove_reader(number)

    run(scenario())


@pytest.mark.parametrize("descriptor", [0, FD_SETSIZE])
def test_who_looks_before_the_loop_has_read_hears_its_last_words_too(
    database: Database, descriptor: int
) -> None:
    async def scenario() -> None:
        async with one_that_will_end(database, descriptor) as (doomed, number, _):
            with pytest.raises(ConnectionLost, match="administrator command"):
                await ends_while_the_loop_is_held_up(database, doomed, answered=False)
            assert not asyncio.get_running_loop().remove_reader(number)

    run(scenario())


def test_who_looks_before_the_loop_has_read_knows_what_took_effect(database: Database) -> None:
    """The answer came, then the end. Its rows may be gone with the connection, its success is not."""

    async def scenario() -> None:
        async with one_that_will_end(database, 0) as (doomed, _, _other):
            await ends_while_the_loop_is_held_up(database, doomed, answered=True)
            with pytest.raises(ConnectionLost):
                await doomed.execute("SELECT 1", timeout_s=LIMIT_S)

    run(scenario())


@pytest.mark.parametrize("descriptor", [0, FD_SETSIZE])
def test_an_idle_connection_that_has_ended_leaves_its_number_alone(
    database: Database, descriptor: int
) -> None:
    async def scenario() -> None:
        async with one_that_will_end(database, descriptor) as (doomed, number, other):
            await terminate(other, "doomed")
            async with asyncio.timeout(LIMIT_S):
                # A turn of the loop, in which it may hear of its end.
                while not doomed.closed:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            with ExitStack() as stack:
                heir = Heir(number, stack)
                doomed.close()
                assert await heir.still_hears()

    run(scenario())
