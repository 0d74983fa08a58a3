"""A new worker is no step back: one that cannot look anything up does not replace one that can.

Where nobody can, because PostgreSQL is away, it does: a server is reloaded and upgraded all the same.
"""

import itertools
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cluster import Cluster, Postgres
from tests.conftest import Database
from tests.support import wait_until
from tests.system.gate import Gate
from tests.system.harness import Server
from tests.system.lineage import Lineage
from tests.system.test_catalog_live import SNAPSHOT, prepare
from tests.system.wire import ask, message, scrape

ID: Final = "0190163d-8694-739b-aea5-966c26f8ad91"
# Nobody listens there. The password is to be seen nowhere.
NOWHERE: Final = "postgresql://ads:hush-hush@127.0.0.1:1/typo"
# New workers try for a share of it.
SOON: Final = ("--boot-timeout-s", "10", "--read-timeout-s", "5")
LIMIT_S: Final = 60.0

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Cluster() as cluster:
        yield cluster.primary()


@pytest.fixture
def database(postgres: Postgres) -> Database:
    """Of a role that is held to limits, which a superuser is not."""
    database = postgres.make_database(f"readiness_{next(_numbers)}")
    database.execute(
        "INSERT INTO ad_variant VALUES (%s, 1, 1, 1, 1, 't', 'http://i.example', 'http://c.example')",
        ID,
    )
    return database


class Settings:
    """A file of settings that a test changes."""

    def __init__(self, path: Path, reader_dsn: str) -> None:
        self.path = path
        self.look_up_in(reader_dsn)

    def look_up_in(self, dsn: str) -> None:
        self.path.write_text(f'reader-dsn = "{dsn}"\n')

    @property
    def arguments(self) -> tuple[str, ...]:
        return (*SOON, "--config", str(self.path))


def ad(server: Server) -> int:
    return ask(server.port, message(f"/ad?id={ID}")).status


def everywhere(server: Server) -> set[int]:
    """What lookups are answered with. A new connection goes to any worker, so many go to all."""
    return {ad(server) for _ in range(20)}


def reload(server: Server, outcome: str) -> re.Match[str]:
    mark = len(server.lines())
    server.signal(signal.SIGHUP)
    return server.wait_for_line(f"reload: {outcome}", since=mark, timeout_s=LIMIT_S)


def allow_connections(postgres: Postgres, database: Database, number: int) -> None:
    """More than there are already are refused; -1 is no limit."""
    postgres.execute(f'ALTER DATABASE "{database.name}" CONNECTION LIMIT {number}')


def wait_until_away(server: Server) -> None:
    wait_until(lambda: scrape(server.port)("database_connections") == 0, "the connections' end")


def test_who_lacks_what_the_old_workers_lack_too_replaces_them(
    postgres: Postgres, database: Database
) -> None:
    """A replica of the ads alone knows nobody's caps: neither old nor new workers can look people up."""
    replica = postgres.make_database(f"replica_{next(_numbers)}")
    replica.execute("INSERT INTO ad_variant SELECT %s, 1, 1, 1, 1, 't', 'http://i', 'http://c'", ID)
    replica.execute("DROP TABLE user_frequency CASCADE")
    with Server(*SOON, "--reader-dsn", replica.dsn, dsn=database.dsn) as server:
        reload(server, "done generation=2")
        assert everywhere(server) == {200}


def test_a_reload_with_a_reader_dsn_that_cannot_work_stays_on_the_old_workers(
    database: Database, tmp_path: Path
) -> None:
    settings = Settings(tmp_path / "ads.toml", database.dsn)
    with Server(*settings.arguments, dsn=database.dsn) as server:
        old = [server.worker(0), server.worker(1)]
        settings.look_up_in(NOWHERE)
        reload(server, "given up, worker 0 did not become ready in generation=2")
        assert everywhere(server) == {200}
        said = server.wait_for_line(r"worker-0\[\d+\] error: no reader could connect to (.*)")[1]
        assert said.startswith(
            "postgresql://ads:***@127.0.0.1:1/typo: 127.0.0.1 port 1: Connection refused. "
        )
        assert server.count("hush-hush") == 0
        assert server.count("serving without PostgreSQL") == 0
        assert set(old) <= server.processes().keys()

        settings.look_up_in(database.dsn)
        reload(server, "done generation=3")
        assert everywhere(server) == {200}
        assert not {server.worker(0), server.worker(1)} & set(old)
        server.stop()


def test_a_reload_to_a_database_without_our_tables_stays_on_the_old_workers(
    postgres: Postgres, database: Database, tmp_path: Path
) -> None:
    settings = Settings(tmp_path / "ads.toml", database.dsn)
    with Server(*settings.arguments, dsn=database.dsn) as server:
        settings.look_up_in(f"postgresql://ads@127.0.0.1:{postgres.port}/postgres")
        reload(server, "given up")
        server.wait_for_line(
            'no reader could connect to .*/postgres: .*"ad_variant" does not exist'
        )
        assert everywhere(server) == {200}
        server.stop()


def test_a_reload_that_finds_no_free_connection_stays_on_the_old_workers(
    postgres: Postgres, database: Database
) -> None:
    with Server(*SOON, dsn=database.dsn) as server:
        allow_connections(postgres, database, 0)
        reload(server, "given up")
        server.wait_for_line(
            "no reader could connect to .* too many connections for database .* have room for"
        )
        assert everywhere(server) == {200}
        allow_connections(postgres, database, -1)
        reload(server, "done generation=3")
        assert everywhere(server) == {200}
        server.stop()


def test_one_reader_of_several_suffices(postgres: Postgres, database: Database) -> None:
    """The others, and the writer, may come later: a reload is not to fail for less than there can be."""
    with Server(*SOON, "--readers", "4", dsn=database.dsn, workers=1) as server:
        port = server.port
        wait_until(lambda: scrape(port)("database_connections") == 10, "all connections")
        [(taken,)] = database.fetch(
            "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"
        )
        # Two readers of each kind, if they are quick, and somebody is always left without.
        allow_connections(postgres, database, int(taken) + 8)
        reload(server, "done generation=2")
        assert ad(server) == 200
        server.stop()


def test_a_reload_while_postgresql_is_away_replaces_the_workers(
    database: Database, tmp_path: Path
) -> None:
    with Gate(database.dsn) as gate:
        settings = Settings(tmp_path / "ads.toml", gate.dsn)
        with Server(*settings.arguments, dsn=gate.dsn) as server:
            gate.shut()
            wait_until_away(server)
            reload(server, "done generation=2")
            assert ask(server.port, message("/log?n=1")).status == 204
            gate.open()
            wait_until(lambda: ad(server) == 200, "lookups to be answered", LIMIT_S)
            server.stop()


def test_a_new_worker_that_still_tries_serves_when_the_old_one_loses_its_connection_too(
    database: Database,
) -> None:
    with Gate(database.dsn) as gate, Server("--readers", "1", dsn=gate.dsn) as server:
        # Who is in stays in; nobody gets in any more.
        database.execute(f'ALTER DATABASE "{database.name}" CONNECTION LIMIT 0')
        server.signal(signal.SIGHUP)
        new = server.wait_for_line(r"worker slot=0 pid=(\d+) started generation=2")[1]
        server.wait_for_line(rf"worker-0\[{new}\] warning: reader: no connection: .*too many")
        gate.shut()
        server.wait_for_line("reload: done generation=2", timeout_s=LIMIT_S)
        assert server.count("given up") == 0
        server.stop()


def test_a_worker_is_not_recycled_for_one_that_finds_no_connection(
    postgres: Postgres, database: Database
) -> None:
    with Server(*SOON, "--max-requests", "10", dsn=database.dsn, workers=1) as server:
        allow_connections(postgres, database, 0)
        old = server.worker(0)
        wait_until(
            lambda: ad(server) == 200 and server.count("is to be recycled"), "enough requests"
        )
        server.wait_for_line("worker 0 goes on: its successor did not become ready")
        assert ad(server) == 200
        allow_connections(postgres, database, -1)
        server.wait_for_line(rf"worker slot=0 pid={old} exited status=0", timeout_s=LIMIT_S)
        assert ad(server) == 200
        server.stop()


def test_a_worker_that_replaces_nobody_serves_what_it_can(
    postgres: Postgres, database: Database
) -> None:
    """The old one is dead, so nothing is gained by waiting; the events go into the journal."""
    with Server(*SOON, dsn=database.dsn, workers=1) as server:
        allow_connections(postgres, database, 0)
        mark = len(server.lines())
        os.kill(server.worker(0), signal.SIGKILL)
        server.wait_for_line("serving without PostgreSQL until it can be reached", since=mark)
        server.wait_for_line(r"worker slot=0 pid=\d+ ready", since=mark)
        assert ask(server.port, message("/log?n=1")).status == 204
        allow_connections(postgres, database, -1)
        wait_until(lambda: ad(server) == 200, "lookups to be answered", LIMIT_S)
        server.stop()


def test_an_upgrade_with_a_reader_dsn_that_cannot_work_stays_with_the_old_master(
    database: Database, tmp_path: Path
) -> None:
    settings = Settings(tmp_path / "ads.toml", database.dsn)
    with Lineage(*settings.arguments, dsn=database.dsn) as server:
        old = server.pid
        settings.look_up_in(NOWHERE)
        new = server.begin_upgrade()
        server.wait_for_line(rf"upgrade: given up, master pid={new}", timeout_s=LIMIT_S)
        server.wait_for_line(r"no reader could connect to .*127\.0\.0\.1:1/typo: ")
        assert server.master == old
        assert everywhere(server) == {200}
        settings.look_up_in(database.dsn)
        server.upgrade()
        assert everywhere(server) == {200}
        server.end()


def test_an_upgrade_while_postgresql_is_away_takes_over(database: Database, tmp_path: Path) -> None:
    prepare(database, 10, 1)
    with Gate(database.dsn) as gate:
        settings = Settings(tmp_path / "ads.toml", gate.dsn)
        with Lineage(*settings.arguments, dsn=gate.dsn) as server:
            wait_until((server.folder / SNAPSHOT).exists, "the snapshot")
            gate.shut()
            wait_until_away(server)
            server.upgrade()
            assert ask(server.port, message("/log?n=1")).status == 204
            gate.open()
            wait_until(lambda: ad(server) == 200, "lookups to be answered", LIMIT_S)
            server.end()
