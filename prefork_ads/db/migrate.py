"""Apply `sql/migrations/NNN_what.sql` in order; safe when twenty processes start at once.

Each migration is one transaction that takes an advisory lock, looks into the ledger again, runs
the file and records its name and checksum. Twenty starters queue at the lock; the first applies,
the others find it done. The other known way, insert the ledger row first and let its unique key
pick a winner, makes the losers fail and retry, and leaves the creation of the ledger itself to a
race that CREATE TABLE IF NOT EXISTS loses (two sessions collide in pg_type). The lock ends with
the transaction, so a killed migrator leaves neither a lock nor half a schema, and a transaction
pooler in between does no harm.

The common start, nothing to do, is one read of the ledger: no lock, no write, and no right to
create tables, so a serving role that owns nothing can start against a migrated database.

A migration that was applied is history: changing its file is refused, because the databases out
there would not follow. A ledger that names files we do not have means a newer program was here;
going on could write rows that it would misread, so that is refused too.

Must not know: processes, the serving path, what the migrations contain.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, NamedTuple

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from prefork_ads.db import session
from prefork_ads.db.queries import query
from prefork_ads.errors import DatabaseUnavailable, SchemaError

Connection = psycopg2.extensions.connection
Report = Callable[[str], None]

FILE_NAME: Final = re.compile(r"[0-9]{3}_[a-z0-9_]+\.sql")
# string_to_table, which the writer's statement splits its lines with, came with PostgreSQL 14.
OLDEST_SERVER: Final = 140000
# A start often races the start of PostgreSQL itself.
WAIT_FOR_SERVER_S: Final = 15.0
# How long a migration waits for who uses a table. Somebody's VACUUM steps aside after one second.
LOCK_LIMIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of sql/migrations."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Of the text with bare newlines, so that a checkout with CRLF is not "changed"."""
        return hashlib.sha256(self.sql.replace("\r\n", "\n").encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Status:
    """How a database's ledger compares with this program's files."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]
    changed: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def current(self) -> bool:
        """True when there is nothing to apply and nothing wrong."""
        return not (self.pending or self.changed or self.unknown)


class _Facts(NamedTuple):
    encoding: str
    schema: str | None
    standby: bool
    has_ledger: bool


def migrations() -> list[Migration]:
    """This program's migrations in the order of their numbers."""
    folder = files("prefork_ads.sql") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    for name, following in itertools.pairwise(names):
        if name[:3] == following[:3]:
            raise SchemaError(f"Two migrations have the same number: {name} and {following}.")
    for name in names:
        if not FILE_NAME.fullmatch(name):
            raise SchemaError(f"The migration {name} is not named NNN_what.sql.")
    return [Migration(name, (folder / name).read_text(encoding="utf-8")) for name in names]


def migrate(
    dsn: str,
    *,
    report: Report | None = None,
    available: Sequence[Migration] | None = None,
    wait_s: float = WAIT_FOR_SERVER_S,
) -> list[str]:
    """Bring the database up to date and return the names of what this call applied."""
    wanted = migrations() if available is None else list(available)
    with session.connection(dsn, wait_s=wait_s, report=report) as conn:
        facts = _check_server(conn, dsn)
        pending = refuse_conflicts(compare(_ledger(conn, facts), wanted)).pending
        if not pending:
            return []
        if facts.standby:
            raise SchemaError(
                f"The database at {session.describe(dsn)} is a standby and lacks {pending[0]}. "
                "Migrate its primary: prefork-ads migrate --dsn …"
            )
        return [m.name for m in wanted if m.name in pending and _apply(conn, m, wanted, report)]


def status(dsn: str, *, available: Sequence[Migration] | None = None) -> Status:
    """Compare a database with this program's migrations without changing anything."""
    wanted = migrations() if available is None else list(available)
    with session.connection(dsn) as conn:
        return compare(_ledger(conn, _check_server(conn, dsn)), wanted)


def compare(ledger: dict[str, str], wanted: Sequence[Migration]) -> Status:
    """What is applied, missing, changed since, or not known to this program. Pure."""
    checksums = {m.name: m.checksum for m in wanted}
    return Status(
        applied=tuple(name for name in checksums if name in ledger),
        pending=tuple(name for name in checksums if name not in ledger),
        changed=tuple(n for n, c in checksums.items() if ledger.get(n, c) != c),
        unknown=tuple(name for name in ledger if name not in checksums),
    )


def refuse_conflicts(found: Status) -> Status:
    """Pass a status on, unless it means that this program and this database do not belong together."""
    if found.unknown:
        raise SchemaError(
            f"The database has the migration {found.unknown[-1]}, which this program does not know: "
            "it was set up by a newer prefork-ads. Install that version or use another database."
        )
    if found.changed:
        raise SchemaError(
            f"The migration {found.changed[0]} was changed after it was applied to this database. "
            "Restore the file and put the change into a new migration."
        )
    return found


def _check_server(conn: Connection, dsn: str) -> _Facts:
    if conn.server_version < OLDEST_SERVER:
        raise SchemaError(
            f"The database at {session.describe(dsn)} runs PostgreSQL "
            f"{conn.server_version // 10000}; prefork-ads needs 14 or newer."
        )
    with conn, conn.cursor() as cursor:
        cursor.execute(query("database_facts"))
        row = cursor.fetchone()
    assert row is not None
    facts = _Facts(*row)
    if facts.encoding != "UTF8":
        raise SchemaError(
            f"The database at {session.describe(dsn)} has the encoding {facts.encoding}; requests hold "
            "any character there is. Use one made with: createdb -E UTF8 -T template0 NAME"
        )
    if facts.schema is None:
        raise SchemaError(
            f"The search path of {session.describe(dsn)} names no schema that exists, so there is "
            "nowhere to create tables. Create one, or set options=-csearch_path=… in the DSN."
        )
    return facts


def _ledger(conn: Connection, facts: _Facts) -> dict[str, str]:
    if not facts.has_ledger:
        return {}
    try:
        with conn, conn.cursor() as cursor:
            cursor.execute(query("migration_applied"))
            return dict(cursor.fetchall())
    except psycopg2.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"This role may not read the ledger: {session.first_line(error)}. "
            "Grant what docs/database.md lists for the serving role."
        ) from error


def _apply(
    conn: Connection, migration: Migration, wanted: Sequence[Migration], report: Report | None
) -> bool:
    """Run one migration in its transaction; False when another process got there first."""
    try:
        with conn, conn.cursor() as cursor:
            _take_turn(cursor, report)
            # Behind one that waits to alter a table all who use it wait, too; also when we have been killed.
            cursor.execute(f"SET LOCAL lock_timeout = {int(LOCK_LIMIT_S * 1000)}")
            cursor.execute(query("migration_ledger"))
            cursor.execute(query("migration_applied"))
            # The ledger is read again under the lock: what was pending may be done, or a newer
            # program may have come in between.
            if migration.name in refuse_conflicts(compare(dict(cursor.fetchall()), wanted)).applied:
                return False
            cursor.execute(migration.sql)
            cursor.execute(
                query("migration_record"),
                {"name": migration.name, "checksum": migration.checksum},
            )
    except psycopg2.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"{migration.name} cannot be applied: {session.first_line(error)}. Migrate as the role "
            "that owns the schema; docs/database.md shows how to set the roles up."
        ) from error
    except psycopg2.errors.LockNotAvailable as error:
        raise DatabaseUnavailable(
            f"{migration.name} cannot be applied: another session holds what it needs. "
            "Look for it in pg_stat_activity."
        ) from error
    except psycopg2.OperationalError:
        raise  # the session knows what to say
    except psycopg2.Error as error:
        raise SchemaError(
            f"{migration.name} failed and was rolled back: {session.first_line(error)}"
        ) from error
    if report is not None:
        report(f"applied {migration.name}")
    return True


def _take_turn(cursor: psycopg2.extensions.cursor, report: Report | None) -> None:
    """Hold the migration lock for this transaction, and fix the search path for what it creates.

    Functions capture the path (SET search_path FROM CURRENT): our schema and then pg_temp, because
    pg_temp is searched first when it is not named, and anybody can create tables there.
    """
    key = (session.ADVISORY_NAMESPACE, session.LOCK_MIGRATE)
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", key)
    row = cursor.fetchone()
    if row is not None and not row[0]:
        if report is not None:
            report("waiting for another process that migrates this database")
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", key)
    cursor.execute(
        "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"
    )
