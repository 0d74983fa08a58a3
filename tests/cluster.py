"""PostgreSQL servers that a test may stop, kill, promote and fill: a primary with its standbys.

Other tests share one server and must leave it alone. These are servers of a test's own, made with the
embedded binaries also when the rest runs against another PostgreSQL, on TCP ports below those that the
kernel gives to clients: a port stays free while its server is down. From others who look for one, as the
same tests on another Python do, it is kept by a socket that is bound there and never listens.
"""

import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg2
import psycopg2.extensions

from prefork_ads.db.binaries import child_options, find_package, server_user, usable_binaries
from prefork_ads.db.migrate import migrate
from tests.conftest import TEST_SETTINGS, Database
from tests.support import wait_until

LIMIT_S: Final = 60.0
PORTS: Final = range(20_000, 32_000)
SUPERUSER: Final = "tester"
ROLE: Final = "ads"

# Several of them run at once, beside everything else.
_SMALL: Final = {
    "shared_buffers": "16MB",
    "max_wal_size": "1GB",
    "min_wal_size": "32MB",
    "wal_keep_size": "256MB",
    "max_connections": "40",
    "hot_standby": "on",
    "logging_collector": "off",
}


class Cluster:
    """The folder, the user and the programs of some servers; ends them all."""

    def __init__(self) -> None:
        # Not pytest's tmp_path: as root that is closed to the user PostgreSQL runs as.
        self.folder = Path(tempfile.mkdtemp(prefix="prefork-ads-cluster-"))
        self.folder.chmod(0o711)
        self.user = server_user()
        if self.user is not None:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        # A copy of them, where their user cannot go where they are, has to be of root's own making.
        copies = self.folder / "copies"
        copies.mkdir()
        self.programs = usable_binaries(find_package(), copies, self.user) / "bin"
        self._servers: list[Postgres] = []
        self._places = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for server in self._servers:
            if kind is not None and server.log_path.exists():
                print(f"{server.log_path}:\n{server.log_path.read_text(errors='replace')[-4000:]}")
            if server.running:
                server.end(signal.SIGQUIT)
        self._places.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def place(self) -> int:
        """A port that is nobody else's until the end."""
        place = self._places.enter_context(_place())
        port: int = place.getsockname()[1]
        return port

    def primary(self, **settings: str) -> "Postgres":
        """A new server, running."""
        server = Postgres(self, settings)
        arguments = ("-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        self.run("initdb", "-D", str(server.data), *arguments)
        server.configure()
        self._servers.append(server)
        server.start()
        server.execute(f"CREATE ROLE {ROLE} LOGIN")
        return server

    def standby_of(self, primary: "Postgres", **settings: str) -> "Postgres":
        """A standby that streams, running."""
        server = Postgres(self, settings)
        self.run(
            *("pg_basebackup", "-D", str(server.data), "-d", primary.dsn("postgres")),
            *("-R", "-X", "stream", "-c", "fast", "--no-sync"),
        )
        server.configure()
        self._servers.append(server)
        server.start()
        return server

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.programs / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            **child_options(self.user, signal.SIGKILL),
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"


class Postgres:
    """One server."""

    def __init__(self, cluster: Cluster, settings: Mapping[str, str]) -> None:
        self.port = cluster.place()
        self.data = cluster.folder / f"server-{self.port}"
        self.log_path = cluster.folder / f"server-{self.port}.log"
        self._cluster = cluster
        self._settings = {**TEST_SETTINGS, **_SMALL, **settings}
        self._process: subprocess.Popen[bytes] | None = None

    # Life.

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and return when it takes connections."""
        self.launch()
        wait_until(self._is_ready, f"the server on port {self.port} to be ready", LIMIT_S)

    def launch(self) -> None:
        """Start, and return at once."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._cluster.programs / "postgres", "-D", self.data, "-p", str(self.port)),
                    *("-k", "", "-c", "listen_addresses=127.0.0.1"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **child_options(self._cluster.user, signal.SIGQUIT),
            )

    def end(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT stops it fast, SIGQUIT at once without a checkpoint, SIGKILL is an accident."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(LIMIT_S)

    def promote(self) -> None:
        self.execute("SELECT pg_promote(true, 60)")

    def reload(self) -> None:
        self.execute("SELECT pg_reload_conf()")

    def configure(self, **settings: str) -> None:
        """Write settings into its file; a reload or a start makes them count."""
        self._settings |= settings
        text = "".join(f"{name} = '{value}'\n" for name, value in self._settings.items())
        (self.data / "postgresql.conf").write_text(text)

    def answers(self) -> bool:
        try:
            psycopg2.connect(self.dsn("postgres")).close()
        except psycopg2.OperationalError:
            return False
        return True

    def standbys(self) -> int:
        """How many follow it."""
        with closing(psycopg2.connect(self.dsn("postgres"))) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT count(*) FROM pg_stat_replication")
            row = cursor.fetchone()
            assert row is not None
            return int(row[0])

    def signal_backend(self, pid: int, number: signal.Signals) -> None:
        # As everywhere, only what is ours is ended: the postmaster knows its children.
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        assert str(pid) in children
        os.kill(pid, number)

    # Faults.

    @contextmanager
    def access(self, *rules: str) -> Iterator[None]:
        """Lines in front of those of pg_hba.conf."""
        path = self.data / "pg_hba.conf"
        before = path.read_text()
        path.write_text("\n".join((*rules, before)))
        self.reload()
        try:
            yield
        finally:
            path.write_text(before)
            self.reload()

    @contextmanager
    def slow_recovery(self) -> Iterator[None]:
        """A stopped server starts, and is starting up for as long as the block takes."""
        # Left where it is: the command is asked for some files more than one would think.
        go = self._cluster.folder / f"go-{next(_numbers)}"
        self.configure(restore_command=f"until test -e {go}; do sleep 0.05; done; false")
        signal_file = self.data / "recovery.signal"
        signal_file.touch()
        if self._cluster.user is not None:
            os.chown(signal_file, self._cluster.user.pw_uid, self._cluster.user.pw_gid)
        self.launch()
        try:
            yield
        finally:
            go.touch()
            wait_until(self._is_ready, f"the server on port {self.port} to be ready", LIMIT_S)
            wait_until(lambda: not signal_file.exists(), "the end of recovery", LIMIT_S)
            self.configure(restore_command="")

    @contextmanager
    def full_disk(self, database: Database) -> Iterator[None]:
        """The files of today's and tomorrow's log, empty so far, are on a device that takes nothing.

        A file system that is really full needs a mount, which not everybody who runs tests may make.
        /dev/full refuses at the same call with the same error.
        """
        files = [
            self.data / path
            for (path,) in database.fetch(
                "SELECT pg_relation_filepath('request_log_' || to_char(day, 'YYYYMMDD'))"
                " FROM generate_series(now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC'"
                " + interval '1 day', interval '1 day') AS day"
            )
        ]
        for file in files:
            assert file.stat().st_size == 0
            file.rename(file.with_suffix(".aside"))
            file.symlink_to("/dev/full")
        try:
            yield
        finally:
            for file in files:
                file.unlink()
                file.with_suffix(".aside").rename(file)

    # What is in it.

    def dsn(self, database: str, **parameters: str) -> str:
        where = {"host": "127.0.0.1", "port": str(self.port), "user": SUPERUSER}
        dsn: str = psycopg2.extensions.make_dsn(**{**where, "dbname": database, **parameters})
        return dsn

    def execute(self, statement: str, *parameters: object, database: str = "postgres") -> None:
        with closing(psycopg2.connect(self.dsn(database))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)

    def make_database(self, name: str) -> Database:
        """A migrated database, of a role that is allowed no more than the program needs."""
        self.execute(f'CREATE DATABASE "{name}" OWNER {ROLE}')
        database = Database(name, self.dsn(name, user=ROLE))
        migrate(database.dsn)
        return database

    def _is_ready(self) -> bool:
        if not self.running:
            # After kill -9 the last backends of the one before may still be on their way out.
            log = self.log_path.read_text(errors="replace")
            assert "is still in use" in log, log[-2000:]
            self.launch()
            return False
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        return lines[0] == str(self.pid) and len(lines) > 7 and lines[7].strip() in _SERVING


_SERVING: Final = ("ready", "standby")
_numbers = itertools.count(1)


def together(*dsns: str) -> str:
    """One DSN for several servers of otherwise equal DSNs."""
    parts = [psycopg2.extensions.parse_dsn(dsn) for dsn in dsns]
    hosts = {name: ",".join(str(part[name]) for part in parts) for name in ("host", "port")}
    dsn: str = psycopg2.extensions.make_dsn(**{**parts[0], **hosts})
    return dsn


def _place() -> socket.socket:
    for port in random.sample(PORTS, 100):
        place = socket.socket()
        try:
            # Refused where anybody has a socket, be it one like this.
            place.bind(("127.0.0.1", port))
        except OSError:
            place.close()
            continue
        # As PostgreSQL's has it: both may be bound there, since only one listens.
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return place
    raise AssertionError("no free port")
