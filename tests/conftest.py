"""Fixtures of all tests: a real PostgreSQL, and a fresh copy of a migrated database for each test.

Without options the server is the embedded one, in a temporary directory. With --dsn (or
PREFORK_ADS_TEST_DSN) it is an external one, whose role must be allowed to create databases; every
test must pass on both. The schema is migrated once into a template; a test's own database is a
copy of it, which takes some tens of milliseconds.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import hypothesis
import psycopg2
import psycopg2.extensions
import pytest
from psycopg2 import sql

from prefork_ads.db.embedded import EmbeddedPostgres
from prefork_ads.db.migrate import migrate

DSN_VARIABLE: Final = "PREFORK_ADS_TEST_DSN"
LOG_SHOWN_BYTES: Final = 8000
SERVER: Final = pytest.StashKey["Server"]()
LOG_START: Final = pytest.StashKey[int]()

# Tests ask for no durability: nothing they write outlives them.
TEST_SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "128MB",
    "log_min_error_statement": "error",
    "log_line_prefix": "%m [%p] %d ",
}

# How long an example takes says more about the machine than about us.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Server:
    """The PostgreSQL that tests run against."""

    dsn: str
    log_path: Path | None

    def execute(self, statement: sql.Composable) -> None:
        with closing(psycopg2.connect(self.dsn)) as conn:
            conn.autocommit = True
            with conn.cursor() as cursor:
                cursor.execute(statement)

    def create_database(self, template: str = "template0") -> "Database":
        name = f"prefork_ads_test_{os.getpid()}_{next(_numbers)}"
        self.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING 'UTF8'").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return Database(name, psycopg2.extensions.make_dsn(self.dsn, dbname=name))

    def drop_database(self, database: "Database") -> None:
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self.execute(statement.format(sql.Identifier(database.name)))


@dataclass(frozen=True, slots=True)
class Database:
    """One database of a test's own."""

    name: str
    dsn: str

    def connect(self, *, autocommit: bool = True) -> psycopg2.extensions.connection:
        conn = psycopg2.connect(self.dsn)
        conn.autocommit = autocommit
        return conn

    def fetch(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a query in a transaction of its own and return all rows."""
        with closing(self.connect()) as conn, conn.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall()

    def execute(self, statement: str, *parameters: Any) -> None:
        """Run a statement in a transaction of its own."""
        with closing(self.connect()) as conn, conn.cursor() as cursor:
            cursor.execute(statement, parameters or None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--dsn",
        default=os.environ.get(DSN_VARIABLE),
        help=f"run against this PostgreSQL instead of the embedded one (also ${DSN_VARIABLE})",
    )


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server, once per run."""
    external: str | None = request.config.getoption("--dsn")
    if external:
        yield Server(external, None)
        return
    # Not pytest's tmp_path: as root that is closed to the user PostgreSQL runs as.
    root = Path(tempfile.mkdtemp(prefix="prefork-ads-tests-"))
    root.chmod(0o711)
    try:
        with EmbeddedPostgres(root / "data", settings=TEST_SETTINGS) as embedded:
            server = Server(embedded.dsn, embedded.log_path)
            request.config.stash[SERVER] = server
            try:
                yield server
            finally:
                # Its log goes with it, and failures are still reported after this.
                del request.config.stash[SERVER]
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def template_database(postgres: Server) -> Iterator[Database]:
    """A migrated database that nobody connects to; `database` copies it."""
    template = postgres.create_database()
    try:
        migrate(template.dsn)
        yield template
    finally:
        postgres.drop_database(template)


@pytest.fixture
def database(postgres: Server, template_database: Database) -> Iterator[Database]:
    """A migrated database of the test's own."""
    copy = postgres.create_database(template_database.name)
    try:
        yield copy
    finally:
        postgres.drop_database(copy)


@pytest.fixture
def empty_database(postgres: Server) -> Iterator[Database]:
    """A database of the test's own without our schema."""
    empty = postgres.create_database()
    try:
        yield empty
    finally:
        postgres.drop_database(empty)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember where the server's log is, so that a failure can show what the test caused."""
    server = item.config.stash.get(SERVER, None)
    if server is not None and server.log_path is not None:
        item.stash[LOG_START] = server.log_path.stat().st_size


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what PostgreSQL said during a failed test to its report."""
    report = yield
    server = item.config.stash.get(SERVER, None)
    if report.failed and server is not None and server.log_path is not None:
        with server.log_path.open("rb") as log:
            log.seek(item.stash.get(LOG_START, 0))
            said = log.read()[-LOG_SHOWN_BYTES:].decode("utf-8", "replace")
        if said:
            report.sections.append(("PostgreSQL's log", said))
    return report
