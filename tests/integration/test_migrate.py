"""Migrations: many at once, history that must not change, and databases that do not fit."""

import re
import subprocess
import sys
from contextlib import closing
from importlib.resources import files
from types import SimpleNamespace

import psycopg2
import psycopg2.extensions
import pytest
from psycopg2 import sql

from prefork_ads.db import migrate as migrate_module
from prefork_ads.db import session
from prefork_ads.db.migrate import Migration, migrate, migrations, status
from prefork_ads.errors import ConfigError, DatabaseUnavailable, SchemaError
from tests.conftest import Database, Server

NAMES = [migration.name for migration in migrations()]
FIRST = Migration("001_first.sql", "CREATE TABLE first (n integer)")
SECOND = Migration("002_second.sql", "CREATE TABLE second (n integer)")


def test_twenty_processes_at_once_all_succeed(empty_database: Database) -> None:
    """Whoever comes second waits and finds it done; nobody gets an error."""
    program = "import sys; from prefork_ads.db.migrate import migrate; print(migrate(sys.argv[1]))"
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", program, empty_database.dsn],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(20)
    ]
    results = [(*starter.communicate(timeout=100), starter.returncode) for starter in starters]
    assert [(code, stderr) for _, stderr, code in results] == [(0, "")] * 20
    applied = re.findall(r"\d{3}_\w+\.sql", "".join(stdout for stdout, _, _ in results))
    assert sorted(applied) == NAMES, "each migration was applied by exactly one of them"
    assert status(empty_database.dsn).current


def test_the_order_is_that_of_the_numbers(empty_database: Database) -> None:
    said: list[str] = []
    assert migrate(empty_database.dsn, report=said.append) == NAMES
    assert said == [f"applied {name}" for name in NAMES]
    assert empty_database.fetch("SELECT name FROM schema_migration ORDER BY applied_at, name") == [
        (name,) for name in NAMES
    ]


def test_a_migrated_database_is_left_alone(database: Database) -> None:
    """And without writing: a standby or a role without rights may look, too."""
    before = database.fetch("SELECT xmin::text, name FROM schema_migration ORDER BY name")
    assert migrate(database.dsn) == []
    after = database.fetch("SELECT xmin::text, name FROM schema_migration ORDER BY name")
    assert after == before


def test_what_is_missing_is_added(empty_database: Database) -> None:
    assert migrate(empty_database.dsn, available=[FIRST]) == [FIRST.name]
    found = status(empty_database.dsn, available=[FIRST, SECOND])
    assert (found.applied, found.pending) == ((FIRST.name,), (SECOND.name,))
    assert not found.current
    assert migrate(empty_database.dsn, available=[FIRST, SECOND]) == [SECOND.name]


def test_a_migration_does_not_wait_for_long_for_who_uses_a_table(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind it everybody else would wait for that table, too."""
    monkeypatch.setattr(migrate_module, "LOCK_LIMIT_S", 0.1)
    migrate(empty_database.dsn, available=[FIRST])
    altering = Migration("002_altering.sql", "ALTER TABLE first ADD COLUMN m integer")
    with closing(empty_database.connect(autocommit=False)) as reader:
        reader.cursor().execute("SELECT FROM first")
        with pytest.raises(
            DatabaseUnavailable, match=r"002_altering\.sql cannot be applied: another"
        ):
            migrate(empty_database.dsn, available=[FIRST, altering])
    assert migrate(empty_database.dsn, available=[FIRST, altering]) == [altering.name]


def test_an_applied_file_that_changed_is_refused(empty_database: Database) -> None:
    migrate(empty_database.dsn, available=[FIRST])
    edited = Migration(FIRST.name, FIRST.sql + " -- edited")
    with pytest.raises(SchemaError, match=r"001_first\.sql was changed after"):
        migrate(empty_database.dsn, available=[edited, SECOND])
    assert status(empty_database.dsn, available=[edited]).changed == (FIRST.name,)
    assert empty_database.fetch("SELECT to_regclass('second')") == [(None,)]


def test_a_newer_schema_is_refused(empty_database: Database) -> None:
    migrate(empty_database.dsn, available=[FIRST, SECOND])
    with pytest.raises(SchemaError, match=r"002_second\.sql, which this program does not know"):
        migrate(empty_database.dsn, available=[FIRST])
    assert status(empty_database.dsn, available=[FIRST]).unknown == (SECOND.name,)


def test_a_newer_program_that_gets_in_between_is_noticed(empty_database: Database) -> None:
    """The ledger is read again under the lock, when the newer program may have been first."""
    migrate(empty_database.dsn, available=[FIRST])

    def newer_program_comes(message: str) -> None:
        # Said while FIRST's successor waits for the lock that `holder` has.
        assert "waiting for another process" in message
        with holder.cursor() as cursor:
            cursor.execute("INSERT INTO schema_migration VALUES ('003_newer.sql', 'x')")
        holder.commit()

    with closing(empty_database.connect(autocommit=False)) as holder:
        with holder.cursor() as cursor:
            key = (session.ADVISORY_NAMESPACE, session.LOCK_MIGRATE)
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", key)
        with pytest.raises(SchemaError, match=r"003_newer\.sql"):
            migrate(empty_database.dsn, available=[FIRST, SECOND], report=newer_program_comes)


def test_a_migration_that_fails_leaves_nothing(empty_database: Database) -> None:
    broken = Migration("002_broken.sql", "CREATE TABLE half (n integer); SELECT 1/0")
    with pytest.raises(SchemaError, match=r"002_broken\.sql failed and was rolled back: division"):
        migrate(empty_database.dsn, available=[FIRST, broken])
    assert empty_database.fetch("SELECT to_regclass('half')") == [(None,)]
    assert status(empty_database.dsn, available=[FIRST, broken]).applied == (FIRST.name,)


def test_line_ends_are_no_change() -> None:
    assert Migration("1", "a\nb").checksum == Migration("1", "a\r\nb").checksum


def test_an_encoding_that_cannot_hold_requests_is_refused(postgres: Server) -> None:
    name = "prefork_ads_test_latin1"
    statement = sql.SQL(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    ).format(sql.Identifier(name))
    database = Database(name, psycopg2.extensions.make_dsn(postgres.dsn, dbname=name))
    postgres.execute(statement)
    try:
        with pytest.raises(SchemaError, match="has the encoding LATIN1"):
            migrate(database.dsn)
    finally:
        postgres.drop_database(database)


def test_a_search_path_that_leads_nowhere_is_refused(empty_database: Database) -> None:
    dsn = psycopg2.extensions.make_dsn(empty_database.dsn, options="-csearch_path=nowhere")
    with pytest.raises(SchemaError, match="names no schema that exists"):
        migrate(dsn)


def test_another_schema_than_public_is_served(empty_database: Database) -> None:
    """Functions keep the schema they were made in, whatever path their caller has."""
    empty_database.execute("CREATE SCHEMA ads")
    migrate(psycopg2.extensions.make_dsn(empty_database.dsn, options="-csearch_path=ads"))
    made = empty_database.fetch("SELECT ads.request_log_ensure('2026-01-01', '2026-01-01')")
    assert made == [(1,)]
    assert empty_database.fetch("SELECT to_regclass('ads.request_log_20260101') IS NOT NULL") == [
        (True,)
    ]


def test_a_role_that_may_not_create_tables_is_told_so(
    empty_database: Database, postgres: Server
) -> None:
    role = sql.Identifier(f"{empty_database.name}_role")
    empty_database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    postgres.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    try:
        as_role = f"-crole={empty_database.name}_role"
        dsn = psycopg2.extensions.make_dsn(empty_database.dsn, options=as_role)
        with pytest.raises(SchemaError, match="Migrate as the role that owns the schema"):
            migrate(dsn)
    finally:
        postgres.execute(sql.SQL("DROP ROLE {}").format(role))


def test_a_server_that_is_not_there_is_waited_for_and_then_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A clock that goes by pauses: a pause of the machine before the first look is none of them.
    now_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: now_s, sleep=sleep))
    said: list[str] = []
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        migrate("host=/nonexistent dbname=x password=secret", report=said.append, wait_s=0.3)
    assert now_s >= 0.3
    assert len(said) == 1
    assert said[0].startswith("waiting for the database at /nonexistent/x")
    assert "secret" not in said[0]


def test_a_database_that_does_not_exist_is_not_waited_for(empty_database: Database) -> None:
    dsn = psycopg2.extensions.make_dsn(empty_database.dsn, dbname="prefork_ads_no_such_database")
    with pytest.raises(DatabaseUnavailable, match="does not exist"):
        migrate(dsn, wait_s=1000)


def test_a_dsn_that_is_none_is_a_setting_to_correct() -> None:
    with pytest.raises(ConfigError, match="cannot be understood"):
        migrate("host=localhost nonsense")


def test_the_schema_has_a_comment_on_each_of_its_objects(database: Database) -> None:
    """Somebody who opens psql is told what they look at."""
    silent = database.fetch(
        """SELECT relname FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')
              AND obj_description(oid, 'pg_class') IS NULL
            UNION ALL
           SELECT proname FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace
              AND obj_description(oid, 'pg_proc') IS NULL"""
    )
    assert silent == []


@pytest.mark.parametrize("migration", migrations(), ids=lambda migration: migration.name)
def test_every_migration_says_why(migration: Migration) -> None:
    assert re.fullmatch(r"\d{3}_[a-z0-9_]+\.sql", migration.name)
    assert migration.sql.startswith("-- "), "opens with its reasons"
    assert migration.sql.endswith("\n")


def test_numbers_have_no_gaps() -> None:
    assert [int(name[:3]) for name in NAMES] == list(range(1, len(NAMES) + 1))


def test_every_query_says_what_it_is_for() -> None:
    folder = files("prefork_ads.sql") / "queries"
    for entry in folder.iterdir():
        assert entry.name.endswith(".sql")
        assert entry.read_text(encoding="utf-8").startswith("-- "), entry.name
