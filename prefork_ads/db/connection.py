"""One private aiopg connection with its one cursor, owned by one task.

Everything peculiar about aiopg 1.4 and libpq's asynchronous mode stays in this module, but for their
descriptors (`descriptor`). *Measured*:

- a statement ended by the server's `statement_timeout` arrives as `asyncio.CancelledError`, which looks
  like the task being cancelled; the real cause is its `__context__`;
- a client-side timeout or a cancelled task closes the connection, so a timeout here means a new one;
- a DSN with several hosts hangs when the first of them refuses: hosts are tried one at a time by us
  (see `hosts`), and a host whose role does not suit is left again;
- in asynchronous mode libpq has no time limit of its own: each address gets `CONNECT_LIMIT_S`, or the
  DSN's connect_timeout, for everything from the knock to the last `set_up` statement. So a dead host in
  front of a living one costs that much, and never minutes;
- libpq resolves names with the blocking getaddrinfo: names are resolved by the loop, and libpq is handed
  the address beside the name (which certificates are checked against). A name that is not found is the
  end of that host: libpq would only ask again, blocking the loop for as long as the resolver is away.
  While the resolver is away, what it said last is used: databases move less often than resolvers fail;
- libpq closes a refused socket before aiopg can take it out of the loop: under uvloop the next attempt,
  which gets the same descriptor number, raises `RuntimeError` ("UVPoll ... closed"), and aiopg's orphaned
  connection complains in the log. With four readers on a server that is down even the attempt after
  that failed. So we knock first, by a connect of our own, and libpq meets only servers that listen;
- a server that ends between our knock and libpq's connect leaves such a handle all the same, and it fails
  whoever gets that number next, our knock included, for as long as the process lives. So the number is
  taken out of use: a socket of ours keeps it. (*Measured*, six tasks and a server that came and went for
  25 s: five such handles, and 300 to 900 attempts that failed because of them. Telling uvloop to forget the
  number instead ended in libuv's abort().);
- a connection whose other end closed with bytes of ours unread (a server that stops under load) is in
  error for epoll; uvloop calls the reader once more and never again. aiopg reads what was left, the
  farewell, and waits for an end that nobody reports: *measured*, a writer deaf for 31 s. So while a
  statement runs we look at the descriptor ourselves now and then (a COPY does so by itself). A loop that
  was held up calls timers before readers: what the server said last, and even the answer, may still be
  there to read, and is read;
- `wait_for(aiopg.connect())` breaks on Python 3.11, aiopg's own `timeout` does not;
- enable_hstore costs a query per connection, and uuids are wanted as text, so all three are off;
- executemany, commit and rollback are refused in asynchronous mode: every statement string is its own
  transaction. COPY is refused, too; `copy_in` does it all the same;
- notifications are told as soon as they come, also between statements. They wait in a queue without a
  bound, so who listens must go on taking them. What aiopg offers in front of that queue is closed by the
  first statement that PostgreSQL refuses, and nothing comes through any more, though the connection is
  fine: we take from the queue itself;
- a server that takes no writes any more (SQLSTATE 25006: it was demoted, or fenced) goes on answering. To
  its owner the connection is lost, and the next one ends on a server that does.

Must not know: what is asked or written.
"""

import asyncio
import ipaddress
import os
import random
import select
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg2
import psycopg2.extensions

from prefork_ads.db.copy_in import CopyLost, CopyRefused, copy_in
from prefork_ads.db.descriptor import Connection
from prefork_ads.db.hosts import Parameters, State, Wanted, refusal, servers, where
from prefork_ads.db.queries import query
from prefork_ads.errors import ConfigError, DatabaseUnavailable

# How long a connection may be dead before a statement that waits on it notices.
LOOK_EVERY_S: Final = 0.25
# A socket holds a few megabytes, and libpq takes at least 8 KiB of them at once.
LAST_READS: Final = 1024
# Per address: a SYN that was lost is sent again after one second, and a far server needs some round trips.
CONNECT_LIMIT_S: Final = 3.0
# How long what we sent may stay unacknowledged by the peer's kernel, and a silent peer be believed in.
PEER_LIMIT_S: Final = 10.0

# Descriptors that nobody can use any more; a worker has thousands.
MOST_TAKEN_OUT: Final = 100

# Whatever the default of the database or the role is: who waits for a lock must see what its last holder
# did, or goals are exceeded (`read_committed_only` in 005_events.sql).
READ_COMMITTED: Final = "SET default_transaction_isolation = 'read committed'"

_READ_ONLY = "25006"
_CANCELLED = "57014"

# The last answer of the resolver for each name in a DSN, see above.
_known_addresses: dict[str, list[str]] = {}
_lookups: "dict[str, asyncio.Task[Any]]" = {}
_taken_out: list[socket.socket] = []


class ConnectionLost(Exception):
    """The connection is gone; whether a statement under way took effect is unknown."""


class StatementTimeout(Exception):
    """The server ended the statement; it took no effect and the connection is fine."""


class StatementFailed(Exception):
    """PostgreSQL refused the statement; it took no effect and the connection is fine."""

    def __init__(self, error: Exception, sqlstate: str) -> None:
        super().__init__(str(error).strip() or type(error).__name__)
        self.sqlstate = sqlstate


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

    __slots__ = ("_connection", "_cursor", "_looking", "second_best")

    _looking: asyncio.TimerHandle

    def __init__(self, connection: Connection, cursor: Any) -> None:
        self._connection = connection
        self._cursor = cursor
        # It will do if there is no better one.
        self.second_best = False

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
            if self.closed or error.pgcode is None or error.pgcode == _READ_ONLY:
                self.close()
                raise ConnectionLost(_first_line(error)) from None
            raise StatementFailed(error, error.pgcode) from None
        finally:
            self._looking.cancel()
        _obey_cancellation()

    async def copy(
        self, statement: str, parameters: Mapping[str, Any], data: bytes, *, timeout_s: float
    ) -> str | None:
        """Run "condition; COPY … FROM STDIN" with this data, as one transaction.

        Returns the value that the condition returned; None: it returned no row, and nothing took effect.
        Raises ConnectionLost, StatementTimeout or StatementFailed.
        """
        try:
            text: bytes = self._cursor.raw.mogrify(statement, parameters)
            return await copy_in(self._connection, text, data, timeout_s=timeout_s)
        except (CopyLost, psycopg2.InterfaceError) as error:
            self.close()
            raise ConnectionLost(_first_line(error)) from None
        except CopyRefused as error:
            if error.sqlstate == _READ_ONLY:
                self.close()
                raise ConnectionLost(str(error)) from None
            if error.sqlstate == _CANCELLED:
                raise StatementTimeout(str(error)) from None
            raise StatementFailed(error, error.sqlstate) from None

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        """Have a dead connection read to its end; aiopg then wakes whoever waits on it."""
        if self.closed:
            return
        if not self._is_dead():
            self._look_later()
            return
        for _ in range(LAST_READS):
            waiter = self._connection._waiter
            if self.closed or waiter is None or waiter.done():
                # An answer that came before the end is one.
                return
            self._connection._ready(self._connection._weakref)
        self.close()

    def _is_dead(self) -> bool:
        poll = select.poll()
        # Errors and hang-ups are told unasked.
        poll.register(self._connection.raw.fileno(), 0)
        return bool(poll.poll(0))

    def rows(self) -> list[tuple[Any, ...]]:
        """All rows of the last statement. Raises ConnectionLost, also where the statement succeeded."""
        try:
            # The cursor below aiopg's: its fetchall is a coroutine around a call that never waits.
            rows: list[tuple[Any, ...]] = self._cursor.raw.fetchall()
        except psycopg2.InterfaceError as error:
            # The connection ended behind the answer, and psycopg2 hands out no rows of a closed one.
            raise ConnectionLost(_first_line(error)) from None
        return rows

    async def notified(self) -> None:
        """Wait for a NOTIFY on a channel that is listened to; those that have come count as one.

        For a task beside the one that runs statements. It does not learn of the connection's end.
        """
        # Its public queue closes with the first statement that fails, see above.
        notifies: asyncio.Queue[Any] = self._connection._notifies
        await notifies.get()
        while not notifies.empty():
            notifies.get_nowait()

    def hear(self) -> None:
        """Look for what `notified` waits for, behind a statement: nobody else does before the next one.

        psycopg2 takes notifications out of what it has received before it reads the answer there, and not
        behind it. So one that was received in one piece with an answer lies there.
        """
        if not self.closed:
            self._connection._ready(self._connection._weakref)

    def warned(self) -> bool:
        """Whether PostgreSQL has warned of anything since this was asked last."""
        # psycopg2 knows of what libpq received under a COPY when it looks itself.
        self.hear()
        notices: list[str] = self._connection.raw.notices
        warned = bool(notices)
        notices.clear()
        return warned

    @property
    def closed(self) -> bool:
        return bool(self._connection.closed)

    def close(self) -> None:
        self._connection.close()


async def open_connection(
    dsn: str,
    *,
    role: str,
    writes: bool = True,
    set_up: Sequence[str] = (),
    timeout_s: float = CONNECT_LIMIT_S,
) -> AsyncConnection:
    """Connect to the first host that takes us and suits, and run the `set_up` statements.

    `role` shows in pg_stat_activity. Who `writes` gets a server that takes writes. Raises
    DatabaseUnavailable with every host's reason.
    """
    try:
        wanted, hosts = servers(dsn, writes=writes)
    except ConfigError as error:
        # A reload may bring one. It is no reason for a worker to end: nothing else of it would work.
        raise DatabaseUnavailable(str(error)) from None
    reasons: list[str] = []
    second_best: AsyncConnection | None = None
    try:
        for parameters in hosts:
            _obey_cancellation()
            try:
                opened = await _open_host(parameters, wanted, role, set_up, timeout_s)
            except DatabaseUnavailable as error:
                reasons.append(f"{where(parameters)}: {error}")
                continue
            if opened.second_best and second_best is None:
                second_best = opened
            elif opened.second_best:
                opened.close()
            else:
                return opened
        if second_best is not None:
            chosen, second_best = second_best, None
            return chosen
    finally:
        if second_best is not None:
            second_best.close()
    raise DatabaseUnavailable("; ".join(reasons))


def _obey_cancellation() -> None:
    """Be cancelled if somebody has asked for it: aiopg may have answered with something else.

    Seen where the server ended in the same moment in which a worker was to leave: it was told that the
    connection is lost, tried again, and never left. And where a statement's answer came in that moment:
    `wait_for` of Python 3.11 hands it out and forgets the cancellation.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _open_host(
    parameters: Parameters, wanted: Wanted, role: str, set_up: Sequence[str], timeout_s: float
) -> AsyncConnection:
    """The first address of a host that takes us. Raises DatabaseUnavailable."""
    timeout_s = _connect_timeout_s(parameters, timeout_s)
    try:
        addresses = await _addresses(parameters, timeout_s)
    except OSError as error:
        raise DatabaseUnavailable(_first_line(error)) from None
    reasons: list[str] = []
    for address in addresses:
        until = time.monotonic() + timeout_s
        try:
            return await _open_address({**parameters, **address}, wanted, role, set_up, until)
        except (ConnectionLost, StatementTimeout, StatementFailed) as error:
            reasons.append(_first_line(error))
    # Two addresses of localhost say the same.
    raise DatabaseUnavailable(", ".join(dict.fromkeys(reasons)))


async def _open_address(
    parameters: Parameters, wanted: Wanted, role: str, set_up: Sequence[str], until: float
) -> AsyncConnection:
    try:
        await _knock(parameters, until)
        connection = await _connect(parameters, role, until)
        opened = AsyncConnection(connection, await connection.cursor())
    except RuntimeError as error:
        reason = _first_line(error)
    except psycopg2.InterfaceError as error:
        # It took us, and ended.
        raise ConnectionLost(_first_line(error)) from None
    else:
        return await _settle(opened, wanted, set_up, until)
    # uvloop's stale poll handle (see above). Whoever had its number has closed it by now.
    if len(_taken_out) < MOST_TAKEN_OUT:
        _taken_out.append(socket.socket(socket.AF_UNIX))
    raise ConnectionLost(reason)


async def _settle(
    opened: AsyncConnection, wanted: Wanted, set_up: Sequence[str], until: float
) -> AsyncConnection:
    """See whether the server suits, and set the session up."""
    try:
        if wanted is not Wanted.ANY:
            await opened.execute(query("session_state"), timeout_s=_left_s(until))
            reason = refusal(wanted, State(*opened.rows()[0]))
            if reason and wanted is not Wanted.PREFER_STANDBY:
                raise ConnectionLost(reason)
            opened.second_best = bool(reason)
        for statement in set_up:
            await opened.execute(statement, timeout_s=_left_s(until))
    except BaseException:
        opened.close()
        raise
    return opened


async def _knock(parameters: Parameters, until: float) -> None:
    """Find out whether anybody listens. Where libpq would look for host or port elsewhere, let it."""
    address = parameters.get("hostaddr") or parameters.get("host", "")
    port = parameters.get("port") or "5432"
    if not _is_address(address) or not port.isdecimal() or "service" in parameters:
        return
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as knocking:
        knocking.setblocking(False)
        try:
            async with asyncio.timeout(_left_s(until)):
                await asyncio.get_running_loop().sock_connect(knocking, (address, int(port)))
        except TimeoutError:
            raise ConnectionLost("it does not answer") from None
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else _first_line(error)
            raise ConnectionLost(reason) from None


async def _connect(parameters: Parameters, role: str, until: float) -> Connection:
    dsn = psycopg2.extensions.make_dsn(
        **{
            "application_name": role,
            "client_encoding": "UTF8",
            # A peer that vanished is noticed by what it does not acknowledge, and where nothing is
            # sent by what it does not say when asked; the kernel's own limits are hours.
            "tcp_user_timeout": str(int(PEER_LIMIT_S * 1000)),
            "keepalives_idle": "5",
            "keepalives_interval": "2",
            "keepalives_count": "3",
            **parameters,
        }
    )
    try:
        connection = Connection(
            dsn, _left_s(until), enable_json=False, enable_hstore=False, enable_uuid=False
        )
        await connection
        return connection
    except TimeoutError:
        raise ConnectionLost("it takes the connection and does not answer") from None
    except psycopg2.Error as error:
        raise ConnectionLost(_first_line(error)) from None


def _left_s(until: float) -> float:
    # Never nothing: asyncio would not even try.
    return max(0.01, until - time.monotonic())


def _connect_timeout_s(parameters: Parameters, default_s: float) -> float:
    """What the DSN says, as libpq reads it: per address, and 0 is no limit, which we do not have."""
    try:
        asked_for_s = float(parameters.get("connect_timeout", 0))
    except ValueError:
        return default_s
    return asked_for_s if asked_for_s > 0 else default_s


async def _addresses(parameters: Parameters, timeout_s: float) -> list[dict[str, str]]:
    """What the host's name stands for, as `hostaddr`. Raises OSError for an unknown name."""
    host = parameters.get("host", "")
    if not host or host.startswith(("/", "@")) or "hostaddr" in parameters or _is_address(host):
        return [{}]
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.shield(_resolving(host))
    except TimeoutError:
        if host not in _known_addresses:
            raise OSError("its name is not resolved in time") from None
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME or host not in _known_addresses:
            raise
    return [{"hostaddr": address} for address in _known_addresses[host]]


def _resolving(host: str) -> "asyncio.Task[Any]":
    """The lookup of a name: one at a time, since a resolver that hangs holds one of few threads."""
    loop = asyncio.get_running_loop()
    lookup = _lookups.get(host)
    if lookup is None or lookup.get_loop() is not loop:
        lookup = loop.create_task(loop.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        lookup.add_done_callback(lambda ended: _resolved(host, ended))
        _lookups[host] = lookup
    return lookup


def _resolved(host: str, lookup: "asyncio.Task[Any]") -> None:
    _lookups.pop(host, None)
    if not lookup.cancelled() and lookup.exception() is None:
        found = (str(entry[4][0]) for entry in lookup.result())
        _known_addresses[host] = list(dict.fromkeys(found))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
