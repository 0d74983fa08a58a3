"""One private aiopg connection with its one cursor, owned by one task.

Everything peculiar about aiopg 1.4 and libpq's asynchronous mode stays in this module. *Measured*:

- a statement ended by the server's `statement_timeout` arrives as `asyncio.CancelledError`, which looks
  like the task being cancelled; the real cause is its `__context__`;
- a client-side timeout or a cancelled task closes the connection, so a timeout here means a new one;
- a DSN with several hosts hangs when the first of them refuses: hosts are tried one at a time by us;
- libpq resolves names with the blocking getaddrinfo: names are resolved by the loop, and libpq is handed
  the address beside the name (which certificates are checked against). A name that is not found is the
  end of that host: libpq would only ask again, blocking the loop for as long as the resolver is away;
- libpq closes a refused socket before aiopg can take it out of the loop: under uvloop the next attempt,
  which gets the same descriptor number, raises `RuntimeError` ("UVPoll ... closed"), and aiopg's orphaned
  connection complains in the log. With four readers on a server that is down even the attempt after
  that failed. So we knock first, by a connect of our own, and libpq meets only servers that listen;
- a connection whose other end closed with bytes of ours unread (a server that stops under load) is in
  error for epoll; uvloop calls the reader once more and never again. aiopg reads what was left, the
  farewell, and waits for an end that nobody reports: *measured*, a writer deaf for 31 s. So while a
  statement runs we look at the descriptor ourselves now and then;
- `wait_for(aiopg.connect())` breaks on Python 3.11, aiopg's own `timeout` does not;
- enable_hstore costs a query per connection, and uuids are wanted as text, so all three are off;
- COPY, executemany, commit and rollback are refused in asynchronous mode: every statement string is its
  own transaction.

Must not know: what is asked or written.
"""

import asyncio
import ipaddress
import os
import random
import select
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import aiopg
import psycopg2
import psycopg2.extensions

from prefork_ads.errors import DatabaseUnavailable

# How long a connection may be dead before a statement that waits on it notices.
LOOK_EVERY_S = 0.25


class ConnectionLost(Exception):
    """The connection is gone; whether a statement under way took effect is unknown."""


class StatementTimeout(Exception):
    """The server ended the statement; it took no effect and the connection is fine."""


class StatementFailed(Exception):
    """PostgreSQL refused the statement; it took no effect and the connection is fine."""

    def __init__(self, error: psycopg2.Error) -> None:
        super().__init__(str(error).strip() or type(error).__name__)
        self.sqlstate: str = error.pgcode or ""


class Backoff:
    """Waits that double up to a limit, with jitter so that many workers do not knock together."""

    __slots__ = ("_first_s", "_limit_s", "_next_s")

    def __init__(self, first_s: float = 0.05, limit_s: float = 2.0) -> None:
        self._first_s = self._next_s = first_s
        self._limit_s = limit_s

    def reset(self) -> None:
        self._next_s = self._first_s

    def next_s(self) -> float:
        wait_s, self._next_s = self._next_s, min(self._next_s * 2, self._limit_s)
        return wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


class AsyncConnection:
    """An open connection. Made by `open_connection`; used by one task at a time."""

    __slots__ = ("_connection", "_cursor", "_looking")

    _looking: asyncio.TimerHandle

    def __init__(self, connection: aiopg.Connection, cursor: Any) -> None:
        self._connection = connection
        self._cursor = cursor

    async def execute(
        self, statement: str, parameters: Mapping[str, Any] | None = None, *, timeout_s: float
    ) -> None:
        """Run one statement string: one transaction, however many statements it has.

        Raises ConnectionLost, StatementTimeout or StatementFailed.
        """
        self._look_later()
        try:
            await self._cursor.execute(statement, parameters, timeout=timeout_s)
        except asyncio.CancelledError as cancelled:
            if isinstance(cancelled.__context__, psycopg2.extensions.QueryCanceledError):
                raise StatementTimeout(str(cancelled.__context__).strip()) from None
            raise
        except TimeoutError:
            raise ConnectionLost(f"no answer within {timeout_s:g} s") from None
        except psycopg2.Error as error:
            if self.closed or error.pgcode is None:
                self.close()
                raise ConnectionLost(_first_line(error)) from None
            raise StatementFailed(error) from None
        finally:
            self._looking.cancel()

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        """Close a connection that is dead; aiopg then wakes whoever waits on it."""
        if self.closed:
            return
        if self._is_dead():
            self.close()
        else:
            self._look_later()

    def _is_dead(self) -> bool:
        poll = select.poll()
        # Errors and hang-ups are told unasked.
        poll.register(self._connection.raw.fileno(), 0)
        return bool(poll.poll(0))

    def rows(self) -> list[tuple[Any, ...]]:
        """All rows of the last statement. Raises ConnectionLost."""
        try:
            # The cursor below aiopg's: its fetchall is a coroutine around a call that never waits.
            rows: list[tuple[Any, ...]] = self._cursor.raw.fetchall()
        except psycopg2.InterfaceError as error:
            # The connection ended behind the answer, and psycopg2 hands out no rows of a closed one.
            raise ConnectionLost(_first_line(error)) from None
        return rows

    @property
    def rowcount(self) -> int:
        count: int = self._cursor.rowcount
        return count

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    def close(self) -> None:
        self._connection.close()


async def open_connection(
    dsn: str, *, role: str, set_up: Sequence[str] = (), timeout_s: float = 5.0
) -> AsyncConnection:
    """Connect to the first host that takes us, and run the `set_up` statements.

    `role` shows in pg_stat_activity. Raises DatabaseUnavailable with every host's reason.
    """
    reasons: list[str] = []
    for parameters in _hosts(dsn):
        try:
            addresses = await _addresses(parameters)
        except OSError as error:
            reasons.append(f"{_where(parameters)}: {_first_line(error)}")
            continue
        for address in addresses:
            try:
                return await _open_one(parameters | address, role, set_up, timeout_s)
            except (ConnectionLost, StatementTimeout, StatementFailed) as error:
                reasons.append(f"{_where(parameters)}: {error}")
    raise DatabaseUnavailable("; ".join(reasons))


async def _open_one(
    parameters: Mapping[str, str], role: str, set_up: Sequence[str], timeout_s: float
) -> AsyncConnection:
    await _knock(parameters, timeout_s)
    try:
        connection = await _connect(parameters, role, timeout_s)
    except RuntimeError as error:
        # uvloop's stale poll handle (see above), left by a server that ended since we knocked.
        raise ConnectionLost(_first_line(error)) from None
    opened = AsyncConnection(connection, await connection.cursor())
    try:
        for statement in set_up:
            await opened.execute(statement, timeout_s=timeout_s)
    except BaseException:
        opened.close()
        raise
    return opened


async def _knock(parameters: Mapping[str, str], timeout_s: float) -> None:
    """Find out whether anybody listens. Where libpq would look for host or port elsewhere, let it."""
    address = parameters.get("hostaddr") or parameters.get("host", "")
    if not _is_address(address) or "service" in parameters:
        return
    port = int(parameters.get("port") or os.environ.get("PGPORT") or 5432)
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as knocking:
        knocking.setblocking(False)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(knocking, (address, port))
        except TimeoutError:
            raise ConnectionLost(f"no connection within {timeout_s:g} s") from None
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else _first_line(error)
            raise ConnectionLost(reason) from None


async def _connect(parameters: Mapping[str, str], role: str, timeout_s: float) -> aiopg.Connection:
    dsn = psycopg2.extensions.make_dsn(
        **{
            "application_name": role,
            "client_encoding": "UTF8",
            # A peer that vanished is noticed within half a minute, not after the kernel's two hours.
            "keepalives_idle": "10",
            "keepalives_interval": "5",
            "keepalives_count": "3",
            **parameters,
        }
    )
    try:
        return await aiopg.connect(
            dsn, timeout=timeout_s, enable_json=False, enable_hstore=False, enable_uuid=False
        )
    except TimeoutError:
        raise ConnectionLost(f"no connection within {timeout_s:g} s") from None
    except psycopg2.Error as error:
        raise ConnectionLost(_first_line(error)) from None


def _hosts(dsn: str) -> list[dict[str, str]]:
    """The DSN once per host."""
    parameters = {name: str(value) for name, value in psycopg2.extensions.parse_dsn(dsn).items()}
    hosts = parameters.get("host", "").split(",")
    ports = parameters.get("port", "").split(",")
    found: list[dict[str, str]] = []
    for index, host in enumerate(hosts):
        one = {**parameters, "host": host, "port": ports[index if len(ports) > 1 else 0]}
        # Choosing among hosts is ours to do, so libpq must not reject one for its role.
        found.append({name: value for name, value in one.items() if value})
    return found


async def _addresses(parameters: Mapping[str, str]) -> list[dict[str, str]]:
    """What the host's name stands for, as `hostaddr`. Raises OSError for an unknown name."""
    host = parameters.get("host", "")
    if not host or host.startswith(("/", "@")) or "hostaddr" in parameters or _is_address(host):
        return [{}]
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [{"hostaddr": str(address)} for address in dict.fromkeys(entry[4][0] for entry in found)]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _where(parameters: Mapping[str, str]) -> str:
    host = parameters.get("host") or "the default host"
    port = parameters.get("port")
    return f"{host} port {port}" if port else host


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
