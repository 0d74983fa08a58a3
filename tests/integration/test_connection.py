"""Connections that cannot be opened, or end at the wrong moment: what the owners of one get to see."""

import asyncio
import fcntl
import os
import socket
import sys
import termios
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg2.extensions
import pytest
import uvloop

from prefork_ads.db.connection import (
    LAST_READS,
    PEER_LIMIT_S,
    ConnectionLost,
    StatementFailed,
    open_connection,
)
from prefork_ads.errors import DatabaseUnavailable
from tests.cluster import Cluster, Postgres, together
from tests.conftest import Database
from tests.proxy import Proxy
from tests.support import wait_until


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


@contextmanager
def swallows_packets() -> Iterator[str]:
    """An address where nothing is ever answered: the queue of a listener that accepts nobody is full."""
    with ExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(hole.getsockname())
        yield f"host=127.0.0.1 port={hole.getsockname()[1]} dbname=x"


def test_a_notification_that_came_behind_an_answer_in_one_piece_is_heard(
    database: Database,
) -> None:
    """Whoever is late reads both at once, and psycopg2 looks for notifications before it reads the answer."""

    def state() -> list[tuple[Any, ...]]:
        return database.fetch(
            "SELECT state FROM pg_stat_activity WHERE application_name = 'listener'"
        )

    def unread(descriptor: int) -> int:
        return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)

    async def scenario() -> None:
        connection = await open_connection(database.dsn, role="listener", set_up=("LISTEN told",))
        descriptor = connection._connection.raw.fileno()
        asking = asyncio.create_task(connection.execute("SELECT pg_sleep(0.2)", {}, timeout_s=30))
        while state() != [("active",)]:  # noqa: ASYNC110 - PostgreSQL has no event for it
            await asyncio.sleep(0)
        # From here on nothing is read until all is there.
        wait_until(lambda: state() == [("idle",)], "the end of the statement")
        answer = unread(descriptor)
        database.execute("NOTIFY told")
        wait_until(lambda: unread(descriptor) > answer > 0, "the notification")
        await asking
        connection.hear()
        async with asyncio.timeout(10):
            await connection.notified()
        connection.close()

    run(scenario())


@contextmanager
def accepts_and_is_silent() -> Iterator[str]:
    """The kernel takes the connection, and nobody ever reads from it."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(16)
        yield f"host=127.0.0.1 port={mute.getsockname()[1]} dbname=x"


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Postgres, Postgres]]:
    """A primary and its standby."""
    with Cluster() as cluster:
        primary = cluster.primary()
        yield primary, cluster.standby_of(primary)


async def port_of(dsn: str, *, writes: bool) -> int:
    """Where a connection ends up."""
    connection = await open_connection(dsn, role="test", writes=writes)
    await connection.execute("SELECT inet_server_port()", timeout_s=10)
    [(port,)] = connection.rows()
    connection.close()
    return int(port)


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
        async with asyncio.timeout(60):
            # A turn of the loop, in which it may hear of its end.
            while not doomed.closed:  # noqa: ASYNC110
                await asyncio.sleep(0)
        other.close()

    run(scenario())


@pytest.mark.parametrize("looks", [0, 3])
@pytest.mark.parametrize("last_reads", [0, LAST_READS])
def test_a_server_that_parts_with_our_bytes_unread_is_noticed(
    database: Database,
    tmp_path: Path,
    looks: int,
    last_reads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel reports an error, uvloop calls aiopg once, aiopg reads the farewell and waits for ever.

    Also after some looks at a living one, and where there is more to read than we read.
    """
    monkeypatch.setattr("prefork_ads.db.connection.LAST_READS", last_reads)

    async def scenario() -> None:
        async with Proxy(database.dsn, tmp_path) as proxy:
            connection = await open_connection(proxy.dsn, role="test")
            proxy.stop_reading()
            running = asyncio.create_task(connection.execute("SELECT 1", timeout_s=60))
            # One turn of the loop sends the statement.
            await asyncio.sleep(0)
            for _ in range(looks):
                looked_at = connection._looking
                async with asyncio.timeout(10):
                    # Turns of the loop, until it has looked.
                    while connection._looking is looked_at:  # noqa: ASYNC110
                        await asyncio.sleep(0)
            await proxy.part_rudely()
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionLost):
                    await running
            assert connection.closed
            assert connection._looking.cancelled()

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


def test_who_writes_is_led_past_the_standby(pair: tuple[Postgres, Postgres]) -> None:
    primary, standby = pair
    dsn = together(standby.dsn("postgres"), primary.dsn("postgres"))

    async def scenario() -> None:
        assert await port_of(dsn, writes=True) == primary.port
        assert await port_of(dsn, writes=False) == standby.port
        with pytest.raises(DatabaseUnavailable, match=f"port {standby.port}: it is a standby"):
            await open_connection(standby.dsn("postgres"), role="test")

    run(scenario())


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("any", "primary"),
        ("read-write", "primary"),
        ("primary", "primary"),
        ("read-only", "standby"),
        ("standby", "standby"),
        ("prefer-standby", "standby"),
    ],
)
def test_who_reads_gets_what_the_dsn_asks_for(
    pair: tuple[Postgres, Postgres], wanted: str, expected: str
) -> None:
    primary, standby = pair
    hosts = [server.dsn("postgres", target_session_attrs=wanted) for server in pair]
    ports = {"primary": primary.port, "standby": standby.port}

    async def scenario() -> None:
        assert await port_of(together(*hosts), writes=False) == ports[expected]

    run(scenario())


def test_a_primary_will_do_where_a_standby_is_preferred_and_there_is_none(
    pair: tuple[Postgres, Postgres],
) -> None:
    primary, _ = pair
    dsn = primary.dsn("postgres", target_session_attrs="prefer-standby")

    async def scenario() -> None:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            refuses = f"host=127.0.0.1 port={place.getsockname()[1]}"
            assert await port_of(together(dsn, dsn, refuses), writes=False) == primary.port

    run(scenario())


def test_a_server_that_is_told_to_take_no_writes_is_not_written_to(database: Database) -> None:
    """As managed ones are when their disk is full."""

    async def scenario() -> None:
        open_before = await open_connection(database.dsn, role="before")
        name = database.name
        await open_before.execute(
            f'ALTER DATABASE "{name}" SET default_transaction_read_only = on', timeout_s=10
        )
        with pytest.raises(DatabaseUnavailable, match="it takes no writes"):
            await open_connection(database.dsn, role="test")
        reading = await open_connection(database.dsn, role="test", writes=False)
        # Who has come to one that changes its mind has to look for another.
        with pytest.raises(ConnectionLost, match="read-only transaction"):
            await reading.execute("CREATE TABLE t ()", timeout_s=10)
        assert reading.closed
        # Any other refusal leaves the connection as it is.
        with pytest.raises(StatementFailed):
            await open_before.execute("SELECT FROM nowhere", timeout_s=10)
        assert not open_before.closed
        open_before.close()

    run(scenario())


def test_hosts_that_never_answer_cost_their_time_limit_and_no_more(database: Database) -> None:
    async def scenario() -> None:
        with swallows_packets() as hole, accepts_and_is_silent() as mute:
            there = psycopg2.extensions.parse_dsn(database.dsn)
            hosts = [psycopg2.extensions.parse_dsn(dsn) for dsn in (hole, mute)] + [there]
            dsn = psycopg2.extensions.make_dsn(
                **{
                    **there,
                    "host": ",".join(host["host"] for host in hosts),
                    "port": ",".join(str(host.get("port", 5432)) for host in hosts),
                }
            )
            # Each may take three seconds; the kernel alone would wait for two minutes on the first.
            async with asyncio.timeout(30):
                connection = await open_connection(dsn, role="test")
            connection.close()

    run(scenario())


def test_what_never_answers_is_told_apart() -> None:
    async def scenario() -> None:
        with swallows_packets() as hole, pytest.raises(DatabaseUnavailable) as caught:
            await open_connection(hole, role="test", timeout_s=0.2)
        assert str(caught.value).endswith(": it does not answer")
        with accepts_and_is_silent() as mute, pytest.raises(DatabaseUnavailable) as caught:
            await open_connection(mute, role="test", timeout_s=0.2)
        assert str(caught.value).endswith(": it takes the connection and does not answer")
        # The DSN may say how long, as it does to libpq.
        with accepts_and_is_silent() as mute:
            async with asyncio.timeout(30):
                with pytest.raises(DatabaseUnavailable):
                    await open_connection(f"{mute} connect_timeout=1", role="test", timeout_s=3600)

    run(scenario())


def test_what_is_sent_to_a_peer_that_vanished_is_not_waited_for_long(database: Database) -> None:
    """The kernel's own patience is a quarter of an hour; the network that loses packets is its affair."""

    async def scenario() -> None:
        async with Proxy(database.dsn) as proxy:
            connection = await open_connection(proxy.dsn, role="test")
            number = connection._connection.raw.fileno()
            with socket.socket(fileno=os.dup(number)) as inner:
                limit_ms = inner.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                assert limit_ms == PEER_LIMIT_S * 1000
                assert inner.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            connection.close()

    run(scenario())


class FailingResolver(uvloop.Loop):
    """A loop whose resolver can be away."""

    away = False

    async def getaddrinfo(self, host: Any, *arguments: Any, **options: Any) -> Any:
        if self.away and host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return await super().getaddrinfo(host, *arguments, **options)


def test_while_the_resolver_is_away_its_last_answer_is_used(database: Database) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, FailingResolver)
        async with Proxy(database.dsn) as proxy:
            dsn = psycopg2.extensions.make_dsn(proxy.dsn, host="localhost")
            (await open_connection(dsn, role="test")).close()
            loop.away = True
            (await open_connection(dsn, role="test")).close()
            unknown = psycopg2.extensions.make_dsn(proxy.dsn, host="never-asked-for")
            with pytest.raises(DatabaseUnavailable, match="Temporary failure"):
                await open_connection(unknown, role="test")

    with asyncio.Runner(loop_factory=FailingResolver) as runner:
        runner.run(scenario())


def test_a_dsn_that_makes_no_sense_is_no_reason_to_end() -> None:
    async def scenario() -> None:
        with pytest.raises(DatabaseUnavailable, match="2 hosts and 3 values of port"):
            await open_connection("host=a,b port=1,2,3", role="test")

    run(scenario())


class StaleNumber(uvloop.Loop):
    """A loop that holds a dead handle for one descriptor number, as uvloop does after some failures."""

    number = -1

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        if self.number < 0:
            type(self).number = sock.fileno()
        if sock.fileno() == self.number:
            raise RuntimeError("the handler is closed")
        await super().sock_connect(sock, address)


def test_a_descriptor_number_that_the_loop_chokes_on_is_taken_out_of_use(
    database: Database,
) -> None:
    """Else it would be the lowest free one for ever, and no connection would ever be made again."""

    async def scenario() -> None:
        async with Proxy(database.dsn) as proxy:
            with pytest.raises(DatabaseUnavailable, match="the handler is closed"):
                await open_connection(proxy.dsn, role="test")
            (await open_connection(proxy.dsn, role="test")).close()

    with asyncio.Runner(loop_factory=StaleNumber) as runner:
        runner.run(scenario())


def test_a_port_that_is_none_is_told_by_libpq() -> None:
    async def scenario() -> None:
        with pytest.raises(DatabaseUnavailable, match="invalid"):
            await open_connection("host=127.0.0.1 port=none", role="test")

    run(scenario())
