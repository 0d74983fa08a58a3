"""One synchronous psycopg2 connection, for everything that is not the serving path.

Migrations, the keeper, imports and checks each do one thing at a time and may block; the workers'
asynchronous connections live in `connection`. What is shared here is how a connection is opened,
how its failure is told to an operator, and the numbers of our advisory locks.

Facts that shaped it:
- A server that is just starting refuses with the same error class as one that is not there, so a
  start that races PostgreSQL's own must retry for a while before it gives up.
- libpq waits for ever on a host that drops packets unless connect_timeout is set; and not even that
  counts with a wait callback, so of several hosts each gets an attempt of its own (see `hosts`).
- Without keepalives a statement waits for hours on a peer that vanished, and without tcp_user_timeout
  for a quarter of an hour when it had something to send.
- An operator may have set another default_transaction_isolation for the database or the role. Who waits
  for a lock must see what its last holder did, so a connection says READ COMMITTED itself: with each BEGIN,
  which costs nothing, or in autocommit by one statement at its beginning.
- libpq's messages name host, port and user and never the password, so they may be shown.

Must not know: processes, signals, or any table.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from prefork_ads.db import hosts
from prefork_ads.errors import DatabaseUnavailable, SchemaError

# All our advisory locks share the first key ("PFAD" in ASCII), so that they cannot meet another
# program's in the same database. The second key says what is locked.
ADVISORY_NAMESPACE: Final = 0x50464144
LOCK_MIGRATE: Final = 1
LOCK_KEEPER: Final = 2
LOCK_RESTATE: Final = 3

CONNECT_TIMEOUT_S: Final = 10
RETRY_PAUSE_S: Final = 0.2


def connect(
    dsn: str,
    *,
    writes: bool = True,
    insists: bool = False,
    wait_s: float = 0.0,
    report: Callable[[str], None] | None = None,
) -> psycopg2.extensions.connection:
    """Open a connection; while the server is not there yet, try again for `wait_s` seconds.

    Of several hosts the first that takes writes is meant, unless nothing is going to be written. A
    single host is taken for what it is, since whoever asks for something of it can say best what is
    wrong; unless the caller `insists`.
    """
    attempts = _attempts(dsn, writes=writes, insists=insists)
    give_up_at = time.monotonic() + wait_s
    told = False
    while True:
        try:
            return _first_that_answers(attempts)
        except psycopg2.OperationalError as error:
            if time.monotonic() >= give_up_at or not _may_come(error):
                raise unavailable(dsn, error) from error
            if report is not None and not told:
                report(f"waiting for the database at {describe(dsn)}: {first_line(error)}")
                told = True
        time.sleep(RETRY_PAUSE_S)


@contextmanager
def connection(
    dsn: str,
    *,
    autocommit: bool = False,
    writes: bool = True,
    wait_s: float = 0.0,
    report: Callable[[str], None] | None = None,
) -> Iterator[psycopg2.extensions.connection]:
    """A connection that is closed at the end.

    What the server cannot or will not do inside leaves as DatabaseUnavailable or SchemaError,
    unless the block knows better.
    """
    conn = connect(dsn, writes=writes, wait_s=wait_s, report=report)
    try:
        conn.set_session(isolation_level="READ COMMITTED", autocommit=autocommit)
        yield conn
    except psycopg2.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"This role may not do that at {describe(dsn)}: {first_line(error)}. "
            "docs/database.md lists what a role needs."
        ) from error
    except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedFunction) as error:
        raise SchemaError(
            f"The database at {describe(dsn)} lacks something: {first_line(error)}. "
            "Bring it up to date with: prefork-ads migrate"
        ) from error
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        if conn.closed:
            raise unavailable(dsn, error) from error
        raise DatabaseUnavailable(  # disk full, a timeout, too little memory, a shutdown
            f"The database at {describe(dsn)} could not do it: {first_line(error)}."
        ) from error
    finally:
        conn.close()


def describe(dsn: str) -> str:
    """Which database a DSN means, without its password: `user@host:port/name`."""
    parts = hosts.parse(dsn)
    host = parts.get("host") or parts.get("hostaddr") or "local socket"
    port = f":{parts['port']}" if "port" in parts else ""
    user = f"{parts['user']}@" if "user" in parts else ""
    return f"{user}{host}{port}/{parts.get('dbname', parts.get('user', ''))}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message; libpq adds hints and carets below it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unavailable(dsn: str, error: BaseException) -> DatabaseUnavailable:
    """What an operator reads when the database cannot be reached."""
    return DatabaseUnavailable(
        f"The database at {describe(dsn)} cannot be reached: {first_line(error)}. "
        "Start it, or point --dsn at one that runs."
    )


def may_come(error: DatabaseUnavailable) -> bool:
    """Whether waiting may cure what `unavailable` has told; a wrong password or name it does not."""
    cause = error.__cause__
    return isinstance(cause, psycopg2.OperationalError) and _may_come(cause)


def _attempts(dsn: str, *, writes: bool, insists: bool) -> list[str]:
    """A DSN for each host."""
    wanted, found = hosts.servers(dsn, writes=writes)
    if len(found) == 1 and not insists:
        wanted = hosts.Wanted.ANY
    return [
        psycopg2.extensions.make_dsn(
            **{
                "connect_timeout": str(CONNECT_TIMEOUT_S),
                "tcp_user_timeout": "20000",
                "keepalives_idle": "10",
                "keepalives_interval": "5",
                "keepalives_count": "3",
                "application_name": "prefork-ads",
                "client_encoding": "UTF8",
                **parameters,
                "target_session_attrs": wanted.value,
            }
        )
        for parameters in found
    ]


def _first_that_answers(attempts: list[str]) -> psycopg2.extensions.connection:
    """Raises the OperationalError of the only attempt, or one that has the reasons of all."""
    reasons: list[str] = []
    for attempt in attempts:
        try:
            return psycopg2.connect(attempt)
        except psycopg2.OperationalError as error:
            if len(attempts) == 1:
                raise
            reasons.append(first_line(error))
    raise psycopg2.OperationalError("; ".join(reasons))


def _may_come(error: psycopg2.OperationalError) -> bool:
    """False for refusals that no waiting cures: a wrong password, role or database name.

    psycopg2 leaves pgcode empty on a failed connect, so libpq's text is all there is. A server with
    translated messages makes us wait for nothing, which is the harmless side to err on.
    """
    text = str(error)
    return "does not exist" not in text and "authentication failed" not in text
