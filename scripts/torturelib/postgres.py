"""The PostgreSQL of a run: one of its own, durable as in earnest, that may be killed at any time.

It has the settings of the server's own embedded PostgreSQL, with fsync and synchronous_commit as they
are by default, so that what it has committed survives a kill -9 and the tables can be believed. The bed
talks to it by its socket, beside the network that the server's connections go through.

Must not know: which faults there are, what the server under test does.
"""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions

from prefork_ads.db import variants
from prefork_ads.db.embedded import EmbeddedPostgres
from prefork_ads.db.migrate import migrate
from prefork_ads.errors import PreforkAdsError
from torturelib import processes
from torturelib.errors import TortureError
from torturelib.visitors import CATALOG
from torturelib.waiting import Waiter

Connection = psycopg2.extensions.connection

ADS = 20_000
SAMPLED_ADS = 5_000
START_LIMIT_S = 90.0
STOP_LIMIT_S = 60.0
SETTINGS = {
    # What the run leaves on disk stays within bounds; a kill costs more recovery than usual, not less.
    "max_wal_size": "512MB",
    "log_line_prefix": "%m [%p] ",
}


class Postgres:
    def __init__(self, folder: Path, waiter: Waiter) -> None:
        self._waiter = waiter
        self._server = EmbeddedPostgres(folder / "database", settings=SETTINGS)
        self._session = 0

    @property
    def dsn(self) -> str:
        return self._server.dsn

    @property
    def socket_path(self) -> Path:
        parameters = psycopg2.extensions.parse_dsn(self.dsn)
        return Path(parameters["host"]) / f".s.PGSQL.{parameters['port']}"

    def dsn_through(self, port: int) -> str:
        dsn: str = psycopg2.extensions.make_dsn(self.dsn, host="127.0.0.1", port=port)
        return dsn

    def start(self) -> None:
        """Also after a kill, when backends may still hold the shared memory of the one before."""
        give_up_at_s = time.monotonic() + START_LIMIT_S
        while True:
            try:
                self._server.start()
                break
            except PreforkAdsError as error:
                if time.monotonic() > give_up_at_s:
                    raise TortureError(f"PostgreSQL does not start again: {error}") from error
                self._waiter.rest(0.1)
        assert self._server.pid is not None
        self._session = self._server.pid

    def prepare(self, ads: Path) -> None:
        """Schema, ads and a catalog; the ids of some of them to a file."""
        migrate(self.dsn)
        variants.generate(self.dsn, ADS)
        self.execute(CATALOG)
        ads.write_text("\n".join(variants.sample(self.dsn, SAMPLED_ADS)) + "\n", encoding="ascii")

    def stop(self) -> None:
        self._server.stop()

    def signal(self, number: signal.Signals, *, all_processes: bool = False) -> None:
        """To the postmaster, or to the backends too."""
        members = processes.of_session(self._session) if all_processes else []
        processes.kill(self._session, number)
        for process in members:
            processes.kill(process.pid, number)

    def signal_backend(self, pid: int) -> None:
        processes.kill(pid)

    def wait_until_answers(self) -> None:
        """As long as it recovers it refuses."""

        def answers() -> bool:
            try:
                return bool(self.execute("SELECT 1"))
            except psycopg2.OperationalError:
                return False

        self._waiter.until(answers, "PostgreSQL's recovery", START_LIMIT_S)

    def wait_for_end(self) -> None:
        self._waiter.until(lambda: not self._server.alive, "PostgreSQL's end", STOP_LIMIT_S)

    @contextlib.contextmanager
    def connected(self) -> Iterator[Connection]:
        connection = psycopg2.connect(self.dsn)
        connection.autocommit = True
        try:
            yield connection
        finally:
            connection.close()

    def lock_holder(self, statement: str) -> Connection:
        """A connection in whose transaction this statement has been executed; close it to roll back."""
        connection = psycopg2.connect(self.dsn)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def execute(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connected() as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []
