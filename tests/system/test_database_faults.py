"""PostgreSQL misbehaves in every way it can while clients log and look up.

What must hold each time: every request is logged and stored once, lookups are answered by the stated
fallback and never late, no worker dies, the log stays readable, and afterwards everything is as before.
"""

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg2
import psycopg2.extensions
import pytest

from prefork_ads.events.journal import IDLE_S, KEEP_SHIPPED_S
from tests.cluster import ROLE, Cluster, Postgres, together
from tests.conftest import Database
from tests.support import wait_until
from tests.system.clients import Clients
from tests.system.gate import Gate
from tests.system.harness import Server
from tests.system.wire import ask, message, scrape

ID: Final = "0190163d-8694-739b-aea5-966c26f8ad91"
LIMIT_S: Final = 60.0
# Of two workers with two connections, each with several words for a trouble that takes its time. Without a
# limit there are some twenty lines a second.
MOST_LINES: Final = 150

_numbers = itertools.count(1)
WAITS_FOR_A_LOCK: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
)


@dataclass(frozen=True)
class Scene:
    """A database of the test's own in a server of its own, and the program that uses it."""

    postgres: Postgres
    database: Database
    server: Server

    def status(self, target: str) -> int:
        return ask(self.server.port, message(target)).status

    def look_up(self) -> int:
        return self.status(f"/ad?id={ID}")

    def ready(self) -> bool:
        return self.status("/readyz") == 200

    def connections(self) -> int:
        return scrape(self.server.port)("database_connections")

    def logged(self) -> int:
        [(count,)] = self.database.fetch("SELECT count(*) FROM request_log WHERE endpoint = 'log'")
        return int(count)

    def on_server(self, statement: str, *parameters: object) -> None:
        self.postgres.execute(statement, *parameters)

    def end_connections(self) -> None:
        """Of the program, and of whoever else is in the database."""
        self.on_server(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            self.database.name,
        )

    def waiting_for_locks(self) -> int:
        with closing(psycopg2.connect(self.postgres.dsn("postgres"))) as connection:
            cursor = connection.cursor()
            cursor.execute(WAITS_FOR_A_LOCK, (self.database.name,))
            row = cursor.fetchone()
            assert row is not None
            return int(row[0])

    def wait_for_an_ad(self) -> None:
        """Lookups are answered. A busy PostgreSQL may miss the deadline of one, a fault it is if of all."""
        wait_until(lambda: self.look_up() == 200, "a lookup to be answered", LIMIT_S)

    def wait_until_away(self) -> None:
        """Nobody has a connection, and lookups know it."""
        wait_until(lambda: self.connections() == 0, "the connections to be lost", LIMIT_S)
        wait_until(lambda: self.look_up() == 503, "lookups to be refused", LIMIT_S)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def postgres(cluster: Cluster) -> Postgres:
    return cluster.primary()


@pytest.fixture
def database(postgres: Postgres) -> Database:
    return make_database(postgres, f"faults_{next(_numbers)}")


def make_database(postgres: Postgres, name: str) -> Database:
    database = postgres.make_database(name)
    database.execute(
        "INSERT INTO ad_variant VALUES (%s, 1, 1, 1, 1, 't', 'http://i.example', 'http://c.example')",
        ID,
    )
    return database


@contextmanager
def scene(
    postgres: Postgres, database: Database, *arguments: str, dsn: str = ""
) -> Iterator[Scene]:
    with Server(*arguments, dsn=dsn or database.dsn) as server:
        yield Scene(postgres, database, server)


@contextmanager
def under_load(it: Scene) -> Iterator[Clients]:
    """Clients log all the time; afterwards all of it is stored, by the workers of the beginning."""
    workers = [it.server.worker(slot) for slot in (0, 1)]
    mark = len(it.server.lines())
    clients = Clients(it.server.port, keep_alive=True)
    with clients.running(3):
        clients.wait_for_more(50)
        yield clients
        clients.wait_for_more(50)
    assert clients.failures == []
    wait_until(lambda: it.logged() >= clients.answered, "everything to be stored", LIMIT_S)
    assert it.logged() == clients.answered
    wait_until(it.ready, "the program to be ready again", LIMIT_S)
    it.wait_for_an_ad()
    assert [it.server.worker(slot) for slot in (0, 1)] == workers
    said = it.server.lines()[mark:]
    assert not [line for line in said if "Traceback" in line or "critical: " in line], said
    assert len(said) < MOST_LINES, "\n".join(said)


# -- the server -------------------------------------------------------------------------------------

# A fault begins, makes sure that it is felt, and ends with the block.
Fault = Callable[[Scene], Iterator[None]]


def backends_terminated(it: Scene) -> Iterator[None]:
    mark = len(it.server.lines())
    it.end_connections()
    it.server.wait_for_line("(reader|writer): connection lost", since=mark)
    yield


def a_backend_killed(it: Scene) -> Iterator[None]:
    """PostgreSQL restarts itself, because nobody knows what the backend did to shared memory."""
    mark = len(it.server.lines())
    [(pid,)] = it.database.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'prefork-ads writer'"
        " AND datname = current_database() LIMIT 1"
    )
    it.postgres.signal_backend(pid, signal.SIGKILL)
    it.server.wait_for_line("(reader|writer): connection lost", since=mark)
    yield
    wait_until(it.postgres.answers, "PostgreSQL to be back", LIMIT_S)


def _ended(number: signal.Signals) -> Fault:
    def ended(it: Scene) -> Iterator[None]:
        it.postgres.end(number)
        it.wait_until_away()
        yield
        it.postgres.start()

    ended.__name__ = f"ended_by_{number.name}"
    return ended


def no_connection_is_free(it: Scene) -> Iterator[None]:
    """Others have taken all that are not kept for superusers."""
    with ExitStack() as stack:

        def taken() -> bool:
            it.end_connections()
            try:
                while True:
                    other = psycopg2.connect(it.postgres.dsn("template1", user=ROLE))
                    stack.enter_context(closing(other))
            except psycopg2.OperationalError:
                return it.connections() == 0

        wait_until(taken, "all connections to be taken", LIMIT_S)
        it.server.wait_for_line("connection slots are reserved", timeout_s=LIMIT_S)
        wait_until(lambda: it.look_up() == 503, "lookups to be refused", LIMIT_S)
        yield


def refused_by_pg_hba(it: Scene) -> Iterator[None]:
    with it.postgres.access(f"host {it.database.name} all all reject"):
        it.end_connections()
        it.wait_until_away()
        it.server.wait_for_line("pg_hba.conf rejects connection", timeout_s=LIMIT_S)
        yield


def starting_up(it: Scene) -> Iterator[None]:
    """In recovery from an archive whose next file takes its time."""
    it.postgres.end()
    with it.postgres.slow_recovery():
        it.wait_until_away()
        it.server.wait_for_line("the database system is starting up", timeout_s=LIMIT_S)
        yield


def database_renamed(it: Scene) -> Iterator[None]:
    """To whoever connects it is the same as dropped, and it can be undone."""
    name = it.database.name
    it.on_server(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    it.end_connections()
    wait_until(lambda: _done(it, f'ALTER DATABASE "{name}" RENAME TO elsewhere'), "the database")
    it.wait_until_away()
    it.server.wait_for_line(f'database "{name}" does not exist', timeout_s=LIMIT_S)
    yield
    it.on_server(f'ALTER DATABASE elsewhere RENAME TO "{name}"')
    it.on_server(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def _done(it: Scene, statement: str) -> bool:
    try:
        it.on_server(statement)
    except psycopg2.errors.ObjectInUse:
        return False
    return True


def database_dropped(it: Scene) -> Iterator[None]:
    """What was stored is gone; what the journal still holds of it comes back: here that is all."""
    it.on_server(f'DROP DATABASE "{it.database.name}" WITH (FORCE)')
    it.wait_until_away()
    yield
    make_database(it.postgres, it.database.name)


def log_table_renamed(it: Scene) -> Iterator[None]:
    it.database.execute("ALTER TABLE request_log RENAME TO elsewhere")
    it.server.wait_for_line('relation "request_log" does not exist', timeout_s=LIMIT_S)
    it.wait_for_an_ad()
    yield
    it.database.execute("ALTER TABLE elsewhere RENAME TO request_log")


def log_table_locked(it: Scene) -> Iterator[None]:
    with _locked(it, "request_log"):
        it.wait_for_an_ad()
        yield


def statements_cancelled(it: Scene) -> Iterator[None]:
    """As by a time limit, or by an administrator who looks for what waits for a lock."""
    with _locked(it, "request_log"):
        it.on_server(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND application_name = 'prefork-ads writer'",
            it.database.name,
        )
        it.server.wait_for_line("the log cannot be written: canceling", timeout_s=LIMIT_S)
        yield


def variants_locked(it: Scene) -> Iterator[None]:
    with _locked(it, "ad_variant"):
        # Asked for here, since nobody else looks anything up.
        assert it.look_up() == 503
        yield


@contextmanager
def _locked(it: Scene, table: str) -> Iterator[None]:
    with closing(it.database.connect(autocommit=False)) as blocker:
        blocker.cursor().execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        if table == "request_log":
            wait_until(it.waiting_for_locks, "a writer to wait", LIMIT_S)
        yield


def fenced(it: Scene) -> Iterator[None]:
    """It answers, and takes no writes: what a managed server does when its disk is nearly full."""
    mark = len(it.server.lines())
    it.on_server("ALTER SYSTEM SET default_transaction_read_only = on")
    it.postgres.reload()
    it.server.wait_for_line("it takes no writes", since=mark, timeout_s=LIMIT_S)
    it.wait_for_an_ad()
    yield
    it.on_server("ALTER SYSTEM RESET default_transaction_read_only")
    it.postgres.reload()


FAULTS: Final = (
    backends_terminated,
    a_backend_killed,
    _ended(signal.SIGINT),
    _ended(signal.SIGQUIT),
    _ended(signal.SIGKILL),
    no_connection_is_free,
    refused_by_pg_hba,
    starting_up,
    database_renamed,
    database_dropped,
    log_table_renamed,
    log_table_locked,
    statements_cancelled,
    variants_locked,
    fenced,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_logging_goes_on_and_afterwards_everything_is_stored(
    postgres: Postgres, database: Database, fault: Fault
) -> None:
    with scene(postgres, database, "--read-timeout-s", "1") as it:
        with under_load(it) as clients, contextmanager(fault)(it):
            clients.wait_for_more(200)
        it.server.stop()


def test_what_an_outage_has_left_drains_faster_than_more_arrives(
    postgres: Postgres, database: Database
) -> None:
    with scene(postgres, database) as it:

        def figures() -> tuple[int, int, int]:
            metrics = scrape(it.server.port)
            return metrics("log_rows_waiting"), metrics("log_rows_total"), clients.answered

        with under_load(it) as clients:
            postgres.end(signal.SIGKILL)
            it.wait_until_away()
            clients.wait_for_more(3000, 4 * LIMIT_S)
            waiting, stored_before, _ = figures()
            assert waiting >= 3000
            postgres.start()
            wait_until(lambda: figures()[1] > stored_before, "the first of them", LIMIT_S)
            answered_before = clients.answered
            wait_until(lambda: figures()[0] < waiting / 3, "most of them", LIMIT_S)
            _, stored, answered = figures()
            assert stored - stored_before >= 3 * (answered - answered_before)
        it.server.stop()


def test_a_full_disk_delays_and_loses_nothing(postgres: Postgres, database: Database) -> None:
    with scene(postgres, database) as it:
        with ExitStack() as disk:
            disk.enter_context(postgres.full_disk(database))
            with under_load(it) as clients:
                it.server.wait_for_line("No space left on device", timeout_s=LIMIT_S)
                it.wait_for_an_ad()
                clients.wait_for_more(200)
                disk.close()
        it.server.stop()


def test_a_password_that_was_changed_counts_as_soon_as_its_file_is(
    postgres: Postgres, database: Database, tmp_path: Path
) -> None:
    passwords = tmp_path / "pgpass"

    def change(password: str) -> None:
        passwords.write_text(f"*:*:*:*:{password}\n")
        passwords.chmod(0o600)

    postgres.execute(f"ALTER ROLE {ROLE} PASSWORD 'first'")
    change("first")
    with postgres.access(f"host {database.name} {ROLE} all scram-sha-256"):
        dsn = postgres.dsn(database.name, user=ROLE, passfile=str(passwords))
        as_superuser = Database(database.name, postgres.dsn(database.name))
        with scene(postgres, as_superuser, dsn=dsn) as it:
            with under_load(it) as clients:
                postgres.execute(f"ALTER ROLE {ROLE} PASSWORD 'second'")
                clients.wait_for_more(50)
                assert it.connections() == 8, "who is in stays in"
                it.end_connections()
                it.wait_until_away()
                it.server.wait_for_line("password authentication failed", timeout_s=LIMIT_S)
                clients.wait_for_more(200)
                change("second")
            it.server.stop()


# -- the network ------------------------------------------------------------------------------------


def test_a_network_that_falls_silent(postgres: Postgres, database: Database) -> None:
    """Connections stand and nothing comes back, then new ones are taken and nothing comes back."""
    with (
        Gate(database.dsn) as gate,
        scene(postgres, database, "--read-timeout-s", "1", dsn=gate.dsn) as it,
    ):
        with under_load(it) as clients:
            gate.fall_silent()
            # On a connection that has fallen silent: the deadline.
            assert it.look_up() == 503
            it.server.wait_for_line("reader: connection lost: no answer within", timeout_s=LIMIT_S)
            it.server.wait_for_line(
                "it takes the connection and does not answer", timeout_s=LIMIT_S
            )
            clients.wait_for_more(200)
            gate.speak_again()
        it.server.stop()


def test_lookups_are_refused_at_once_when_postgresql_is_known_to_be_away(
    postgres: Postgres, database: Database
) -> None:
    # Nobody waits an hour here: that is the proof.
    with (
        Gate(database.dsn) as gate,
        scene(postgres, database, "--read-timeout-s", "1h", dsn=gate.dsn) as it,
    ):
        assert it.look_up() == 200
        gate.shut()
        wait_until(lambda: it.connections() == 0, "the connections to be lost", LIMIT_S)

        def refused() -> bool:
            with socket.create_connection(("127.0.0.1", it.server.port), 1) as client:
                client.sendall(message(f"/ad?id={ID}"))
                try:
                    return client.recv(4096).startswith(b"HTTP/1.1 503")
                except TimeoutError:
                    return False

        wait_until(refused, "an answer at once", LIMIT_S)
        gate.open()
        # Those who have waited since before it was known are answered now.
        wait_until(lambda: it.look_up() == 200, "lookups to be answered", LIMIT_S)
        it.server.stop()


# -- several servers --------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[Postgres, Postgres]]:
    """A primary that waits for its standby before it acknowledges."""
    with Cluster() as cluster:
        primary = cluster.primary()
        standby = cluster.standby_of(primary)
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.reload()
        yield primary, standby


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda n: n.name)
def test_after_a_fail_over_the_writer_finds_the_new_primary(
    pair: tuple[Postgres, Postgres], number: signal.Signals
) -> None:
    primary, standby = pair
    database = make_database(primary, "failover")
    both = together(database.dsn, standby.dsn(database.name, user=ROLE))
    replica = Database(database.name, standby.dsn(database.name))
    with scene(standby, replica, "--read-timeout-s", "1", dsn=both) as it:
        with under_load(it) as clients:
            primary.end(number)
            it.server.wait_for_line(f"port {standby.port}: it is a standby", timeout_s=LIMIT_S)
            # Reading goes on meanwhile.
            wait_until(lambda: it.look_up() == 200, "lookups from the standby", LIMIT_S)
            clients.wait_for_more(200)
            standby.promote()
        it.server.stop()


def test_a_fail_over_to_a_standby_that_lagged_loses_nothing_that_is_still_in_the_journal(
    pair: tuple[Postgres, Postgres],
) -> None:
    """PostgreSQL has lost what it had acknowledged; the ledger went with it, and tells us what is missing."""
    primary, standby = pair
    database = make_database(primary, "lagging")
    both = together(database.dsn, standby.dsn(database.name, user=ROLE))
    replica = Database(database.name, standby.dsn(database.name))
    primary.execute("ALTER SYSTEM RESET synchronous_standby_names")
    primary.reload()
    with scene(standby, replica, dsn=both) as it:
        with under_load(it) as clients:
            wait_until(it.logged, "the standby to have some", LIMIT_S)
            standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
            standby.reload()
            wait_until(lambda: not primary.standbys(), "the standby to be on its own", LIMIT_S)
            clients.wait_for_more(300)
            count = "SELECT count(*) FROM request_log"
            known = it.logged()
            wait_until(
                lambda: database.fetch(count)[0][0] > known + 200, "more on the primary", LIMIT_S
            )
            primary.end(signal.SIGKILL)
            standby.promote()
            it.server.wait_for_line("the ledger of .* has gone back", timeout_s=LIMIT_S)
        it.server.stop()


def test_a_commit_that_waits_for_a_standby_that_is_gone_counts_once(
    pair: tuple[Postgres, Postgres],
) -> None:
    primary, standby = pair
    database = make_database(primary, "waiting")
    with scene(primary, database) as it:
        with under_load(it) as clients:
            standby.end(signal.SIGKILL)
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            wait_until(lambda: database.fetch(waits)[0][0], "a commit that waits", LIMIT_S)
            clients.wait_for_more(200)
            # Nobody knows of these yet whether they count: they have, here, and not on the standby.
            it.end_connections()
            clients.wait_for_more(50)
            standby.start()
        it.server.stop()


@pytest.mark.parametrize("worker_dies", [False, True], ids=["worker lives", "worker dies"])
def test_what_only_a_primary_has_that_crashed_meanwhile_stays_in_the_journal(
    pair: tuple[Postgres, Postgres], worker_dies: bool
) -> None:
    """A commit that waited for its standby is seen after recovery, by the primary alone."""
    primary, standby = pair
    database = make_database(primary, "recovered")
    both = together(database.dsn, standby.dsn(database.name, user=ROLE))
    replica = Database(database.name, standby.dsn(database.name))
    waits = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event = 'SyncRep' AND application_name = 'prefork-ads writer'"
    )
    with scene(standby, replica, dsn=both) as it:
        # Each worker has a row of the ledger.
        for _ in range(30):
            assert it.status("/log") == 204
        wait_until(lambda: it.logged() == 30, "the standby to have them", LIMIT_S)
        standby.end(signal.SIGKILL)
        assert it.status("/log?last") == 204
        wait_until(lambda: database.fetch(waits)[0][0] == 1, "a commit that waits", LIMIT_S)
        if worker_dies:
            for slot in (0, 1):
                os.kill(it.server.worker(slot), signal.SIGKILL)
        primary.end(signal.SIGKILL)
        primary.start()
        stored = "SELECT count(*) FROM request_log WHERE endpoint = 'log'"
        wait_until(lambda: database.fetch(stored) == [(31,)], "it to be seen", LIMIT_S)
        # Long enough for a file that is believed to be shipped: it rests, and is kept, for so long.
        time.sleep(2 if worker_dies else IDLE_S + KEEP_SHIPPED_S + 2)
        primary.end(signal.SIGKILL)
        standby.start()
        standby.promote()
        wait_until(lambda: it.logged() == 31, "the last one to be stored again", LIMIT_S)
        it.server.stop()


def test_a_wait_for_a_standby_that_somebody_cancels_is_no_acknowledgement(
    pair: tuple[Postgres, Postgres],
) -> None:
    """The commit succeeds then, with a warning, and only this primary has it."""
    primary, standby = pair
    database = make_database(primary, "cancelled")
    both = together(database.dsn, standby.dsn(database.name, user=ROLE))
    replica = Database(database.name, standby.dsn(database.name))
    waiting = (
        " FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'prefork-ads writer'"
        " AND (position('updated = now() WHERE' IN query) > 0) = %s"
    )
    with scene(standby, replica, dsn=both) as it:
        for _ in range(30):
            assert it.status("/log") == 204
        wait_until(lambda: it.logged() == 30, "the standby to have them", LIMIT_S)
        standby.end(signal.SIGKILL)
        assert it.status("/log?last") == 204
        count = f"SELECT count(*){waiting}"
        wait_until(lambda: database.fetch(count, False) == [(1,)], "a commit that waits", LIMIT_S)
        database.execute(f"SELECT pg_cancel_backend(pid){waiting}", False)
        wait_until(lambda: database.fetch(count, True) == [(1,)], "the next that waits", LIMIT_S)
        primary.end(signal.SIGKILL)
        standby.start()
        standby.promote()
        wait_until(lambda: it.logged() == 31, "the last one to be stored again", LIMIT_S)
        it.server.stop()


def test_reads_go_to_the_standby_and_on_from_the_primary_without_it(
    pair: tuple[Postgres, Postgres],
) -> None:
    primary, standby = pair
    database = make_database(primary, "readers")
    both = together(standby.dsn(database.name, user=ROLE), database.dsn)
    with scene(
        primary, database, "--reader-dsn", f"{both} target_session_attrs=prefer-standby"
    ) as it:
        primary.execute("ALTER SYSTEM RESET synchronous_standby_names")
        primary.reload()
        reading = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        [(readers,)] = Database("postgres", standby.dsn("postgres")).fetch(
            reading, "prefork-ads reader"
        )
        assert readers == 4, "for ads by id and for people, in each worker"
        with under_load(it) as clients:
            standby.end(signal.SIGKILL)
            wait_until(
                lambda: database.fetch(reading, "prefork-ads reader") == [(4,)],
                "the readers on the primary",
                LIMIT_S,
            )
            it.wait_for_an_ad()
            clients.wait_for_more(50)
        it.server.stop()


def test_a_start_finds_the_primary_behind_a_standby_and_a_host_that_is_gone(
    pair: tuple[Postgres, Postgres],
) -> None:
    primary, standby = pair
    database = make_database(primary, "start")
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        gone = f"host=127.0.0.1 port={place.getsockname()[1]}"
        dsn = together(standby.dsn(database.name, user=ROLE), gone, database.dsn)
        with scene(primary, database, dsn=dsn) as it:
            assert it.status("/log?n=1") == 204
            wait_until(lambda: it.logged() == 1, "the event", LIMIT_S)
            it.server.wait_for_line("keeps this database's days from now on")
            it.server.stop()
