"""The catalog in the database: loading it, and changing it in one transaction.

Whoever changes the catalog first takes the lock that every change takes anyway (see 004_catalog.sql), so what
is compared with the files is what is there until the end: two applies take turns, and the
second finds the work of the first. An edit by hand that has changed the same row before it came to the lock
would deadlock with us; PostgreSQL ends one of the two after a second, and if it is us we begin again.

Measured (two cores that others used too), without reading the file: 10,000 campaigns with a creative each
into an empty catalog 4 s; the same again, which changes nothing, 4 s as well, most of it loading.

Must not know: files, terminals.
"""

import getpass
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson
import psycopg2.errors
import psycopg2.extensions
from psycopg2.extras import register_default_jsonb

from prefork_ads.db import session
from prefork_ads.db.queries import query
from prefork_ads.errors import CatalogRefused, DatabaseUnavailable
from prefork_ads.management import items as catalog_items
from prefork_ads.management.complaints import Complaint, Refused
from prefork_ads.management.difference import Change, Plan
from prefork_ads.management.items import RELATIONS, Item, Items

Connection = psycopg2.extensions.connection
MakePlan = Callable[[Items], Plan]

# One statement's worth.
BATCH: Final = 500
MOST_TRIES: Final = 5
# Others need seconds for thousands of campaigns. Who needs longer has forgotten a transaction.
LOCK_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """The catalog at a version."""

    items: Items
    version: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done. `version` is the one in force afterwards."""

    plan: Plan
    version: int


class ChangedMeanwhile(CatalogRefused):
    """What somebody has agreed to is not what would be done any more."""


def load(dsn: str, version: int | None = None) -> Loaded:
    """The catalog as it is, or as it was at a version."""
    with session.connection(dsn, writes=False) as conn, _snapshot(conn) as cursor:
        return _load(cursor, version)


def version(dsn: str) -> int:
    """The version in force; 0 is a catalog that nobody has ever changed."""
    with session.connection(dsn, writes=False) as conn, _snapshot(conn) as cursor:
        return _version(cursor, None)


def preview(dsn: str, make_plan: MakePlan) -> Applied:
    """What `apply` would do now, as far as can be told without doing it."""
    with session.connection(dsn, writes=False) as conn, _snapshot(conn) as cursor:
        loaded = _load(cursor, None)
    return Applied(make_plan(loaded.items), loaded.version)


def apply(
    dsn: str,
    make_plan: MakePlan,
    means: str,
    *,
    agreed: Plan | None = None,
    dry_run: bool = False,
) -> Applied:
    """Make the plan against what is there, and carry it out, all or nothing.

    `agreed`: only if it is still this one. `dry_run`: take it back at the end, after
    PostgreSQL has accepted everything.
    """
    note = f"{_who()}: {means}"
    with session.connection(dsn) as conn:
        for left in reversed(range(MOST_TRIES)):
            try:
                return _apply(conn, make_plan, note, agreed, dry_run)
            except psycopg2.errors.DeadlockDetected as error:
                conn.rollback()
                if not left:
                    raise DatabaseUnavailable(
                        "Others keep changing the same things; nothing was changed. Try again."
                    ) from error
            except psycopg2.errors.LockNotAvailable as error:
                raise DatabaseUnavailable(
                    f"Somebody has been changing the catalog for {LOCK_WAIT_S:.0f} s and has not"
                    " finished; nothing was changed. pg_stat_activity shows who: a transaction that"
                    " was left open, perhaps."
                ) from error
    raise AssertionError("the last try returns or raises")


def _apply(
    conn: Connection, make_plan: MakePlan, note: str, agreed: Plan | None, dry_run: bool
) -> Applied:
    with conn, conn.cursor() as cursor:
        _decode_json(conn)
        wait_ms = round(LOCK_WAIT_S * 1000)
        cursor.execute(query("catalog_lock"), {"note": note[:400], "wait_ms": wait_ms})
        loaded = _load(cursor, None)
        plan = make_plan(loaded.items)
        if agreed is not None and plan.changes != agreed.changes:
            raise ChangedMeanwhile(
                "Somebody has changed the catalog meanwhile; nothing was changed. Look at the"
                " difference again."
            )
        for relation in RELATIONS:
            changed = [change for change in plan.changes if change.item.relation == relation]
            for start in range(0, len(changed), BATCH):
                _put(cursor, relation, changed[start : start + BATCH])
        version = _version(cursor, None)
        if dry_run:
            conn.rollback()
            version = loaded.version
    return Applied(plan, version)


def _put(cursor: psycopg2.extensions.cursor, relation: str, changes: Sequence[Change]) -> None:
    """Write these. What the schema refuses is looked for one by one, so that it can be named."""
    cursor.execute("SAVEPOINT batch")
    try:
        _write(cursor, relation, [change.item for change in changes])
    except (psycopg2.IntegrityError, psycopg2.DataError) as error:
        cursor.execute("ROLLBACK TO SAVEPOINT batch")
        raise Refused(list(_culprits(cursor, relation, changes, error))) from error
    cursor.execute("RELEASE SAVEPOINT batch")


def _write(cursor: psycopg2.extensions.cursor, relation: str, items: list[Item]) -> None:
    text = orjson.dumps([catalog_items.to_json(item) for item in items]).decode()
    cursor.execute(query(f"catalog_put_{relation}"), {"items": text})


def _culprits(
    cursor: psycopg2.extensions.cursor,
    relation: str,
    changes: Sequence[Change],
    whole: psycopg2.Error,
) -> Iterator[Complaint]:
    found = False
    for change in changes:
        cursor.execute("SAVEPOINT one")
        try:
            _write(cursor, relation, [change.item])
        except (psycopg2.IntegrityError, psycopg2.DataError) as error:
            found = True
            cursor.execute("ROLLBACK TO SAVEPOINT one")
            yield Complaint(change.item.mark, change.item.path, _refusal(error))
    if not found:
        yield Complaint(changes[0].item.mark, f"{relation}s", _refusal(whole))


def _refusal(error: psycopg2.Error) -> str:
    return f"PostgreSQL refuses it: {session.first_line(error)}"


def _load(cursor: psycopg2.extensions.cursor, version: int | None) -> Loaded:
    found = _version(cursor, version)
    at = found if version is None else version
    cursor.execute(query("catalog_rows"), {"version": at})
    return Loaded(catalog_items.from_rows(cursor.fetchall()), at)


def _version(cursor: psycopg2.extensions.cursor, wanted: int | None) -> int:
    cursor.execute(query("catalog_version"), {"wanted": wanted})
    row: tuple[int, bool] | None = cursor.fetchone()
    assert row is not None, "the migration made it"
    if not row[1]:
        raise CatalogRefused(f"There is no version {wanted}; the last one is {row[0]}.")
    return row[0]


@contextmanager
def _snapshot(conn: Connection) -> Iterator[psycopg2.extensions.cursor]:
    """One look at the database; all queries in it see the same."""
    conn.set_session(isolation_level="REPEATABLE READ", readonly=True)
    _decode_json(conn)
    with conn, conn.cursor() as cursor:
        yield cursor


def _decode_json(conn: Connection) -> None:
    register_default_jsonb(conn_or_curs=conn, loads=orjson.loads)


def _who() -> str:
    """Who sits at this machine, as far as it can tell. The database's role is recorded besides."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def history(dsn: str, last: int) -> list[dict[str, Any]]:
    """The last versions, the newest first: when, who, by what means, and how much of what."""
    versions: dict[int, dict[str, Any]] = {}
    with session.connection(dsn, writes=False) as conn, _snapshot(conn) as cursor:
        cursor.execute(query("catalog_log"), {"last": last})
        for version, at, by, note, relation, what, number in cursor.fetchall():
            one = versions.setdefault(
                version, {"version": version, "at": at, "by": by, "note": note, "changes": {}}
            )
            one["changes"].setdefault(relation, {})[what] = number
    return list(versions.values())
