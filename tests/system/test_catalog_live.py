"""A change of the catalog is live in every worker within a second, under load, whoever was told of it;
and a host serves what it knew last while PostgreSQL is away, also from its start."""

import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from psycopg2.extensions import make_dsn

from prefork_ads.ads.catalog import Rows
from prefork_ads.ads.feed import Snapshot
from prefork_ads.ads.key_feed import KeyFeed
from prefork_ads.ads.tokens import Keyring
from prefork_ads.db.queries import query
from prefork_ads.errors import DatabaseUnavailable
from prefork_ads.process.shelf import Shelf
from tests.catalogs import add_for_everybody, fill
from tests.conftest import Database
from tests.conftest import Server as Postgres
from tests.integration.test_catalog_news import NOTHING, news
from tests.support import wait_until
from tests.system.gate import Gate
from tests.system.harness import Server
from tests.system.test_status import report
from tests.system.wire import Line, ask, message, scrape

# For measuring: how many other campaigns there are, and for how many changes.
CAMPAIGNS: Final = int(os.environ.get("CATALOG_CAMPAIGNS", "2000"))
CHANGES: Final = int(os.environ.get("CATALOG_CHANGES", "20"))
APART_S: Final = 0.15
WITHIN_S: Final = 1.0

PERSON: Final = "0190163d-8694-739b-aea5-966c26f8ad91"
ZONE: Final = message("/ad?zone=home")
SNAPSHOT: Final = "data/catalog/snapshot.jsonl"


class Watcher:
    """One connection, so one worker, that asks all the time and remembers which version it saw when."""

    def __init__(self, port: int) -> None:
        self._line = Line(port)
        # When it was sent and answered, and the campaign's number.
        self.seen: list[tuple[float, float, int]] = []
        self.failures: list[str] = []

    def ask(self) -> None:
        sent = time.monotonic()
        answer = self._line.ask(ZONE)
        received = time.monotonic()
        if answer.status == 200:
            self.seen.append((sent, received, int(json.loads(answer.body)["campaign"][1:])))
        else:
            self.failures.append(f"{answer.status} {answer.body!r}")

    def first_sight(self, version: int) -> float:
        return next(received for _, received, seen in self.seen if seen >= version)

    def last_old_sent(self, version: int) -> float:
        return max((sent for sent, _, seen in self.seen if seen < version), default=0.0)

    def close(self) -> None:
        self._line.close()


@contextmanager
def watching(server: Server, least: int) -> Iterator[list[Watcher]]:
    """Watchers of every worker, each in a thread."""
    watchers: list[Watcher] = []
    while not all(worker["connections"] for worker in report(server)["workers"]) or (
        len(watchers) < least
    ):
        watchers += [Watcher(server.port) for _ in range(4)]
    stop = threading.Event()

    def work(watcher: Watcher) -> None:
        while not stop.is_set():
            watcher.ask()

    threads = [threading.Thread(target=work, args=(watcher,)) for watcher in watchers]
    for thread in threads:
        thread.start()
    try:
        yield watchers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for watcher in watchers:
            watcher.close()


def switch_to(database: Database, version: int) -> float:
    """Make this campaign the only one that may be shown; when that was committed at the latest."""
    database.execute(
        "UPDATE campaign SET status = CASE WHEN key = %s THEN 'active' ELSE 'paused' END"
        " WHERE key IN (%s, %s)",
        f"v{version}",
        f"v{version - 1}",
        f"v{version}",
    )
    return time.monotonic()


def prepare(database: Database, campaigns: int, versions: int) -> None:
    """Campaigns v0 to v<versions>, of which v0 may be shown, among so many others."""
    fill(database, campaigns)
    add_for_everybody(database, *(f"v{n}" for n in range(1, versions + 1)), status="paused")
    add_for_everybody(database, "v0")


def shown(port: int) -> str:
    """The campaign that is shown now, or the status of the answer."""
    answer = ask(port, ZONE)
    return str(json.loads(answer.body)["campaign"] if answer.status == 200 else answer.status)


@pytest.mark.once
def test_a_change_is_live_in_every_worker_within_a_second(database: Database) -> None:
    """Under load nothing fails, nobody goes back, and nothing older than a second is shown."""
    prepare(database, CAMPAIGNS, CHANGES)
    committed = [0.0]
    with Server(dsn=database.dsn, workers=4) as server:
        with watching(server, 12) as watchers:
            for version in range(1, CHANGES + 1):
                committed.append(switch_to(database, version))
                time.sleep(APART_S)
            wait_until(
                lambda: all(w.seen[-1][2] == CHANGES or w.failures for w in watchers), "the last"
            )
        assert [w.failures for w in watchers if w.failures] == []
        versions = [[version for *_, version in watcher.seen] for watcher in watchers]
        assert all(seen == sorted(seen) for seen in versions)
        served = [scrape(server.port)("catalog_version", slot=str(slot)) for slot in range(4)]
        assert served == [CHANGES + 3] * 4
        server.stop()
    delays = sorted(
        watcher.first_sight(version) - committed[version]
        for watcher in watchers
        for version in range(1, CHANGES + 1)
    )
    stale = [
        watcher.last_old_sent(version) - committed[version]
        for watcher in watchers
        for version in range(1, CHANGES + 1)
    ]
    answers = sum(len(watcher.seen) for watcher in watchers)
    print(
        f"{CAMPAIGNS} campaigns, {len(watchers)} connections, {answers} answers: visible after p50"
        f" {statistics.median(delays) * 1e3:.0f} ms, p99"
        f" {delays[len(delays) * 99 // 100] * 1e3:.0f} ms, at most {delays[-1] * 1e3:.0f} ms"
    )
    assert max(stale) < WITHIN_S
    assert delays[len(delays) * 99 // 100] < WITHIN_S


@pytest.mark.once
def test_a_change_that_nobody_is_told_of_is_live_all_the_same(database: Database) -> None:
    """The connections that listen are ended, and the change is made before there are others."""
    prepare(database, 10, 1)
    with Server("--catalog-poll-s", "0.2", dsn=database.dsn, workers=2) as server:
        with watching(server, 6) as watchers:
            wait_until(lambda: all(watcher.seen for watcher in watchers), "answers")
            [(ended,)] = database.fetch(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'prefork-ads steward'"
            )
            assert ended == 2
            committed = switch_to(database, 1)
            wait_until(lambda: all(w.seen[-1][2] == 1 for w in watchers), "the change")
        assert [w.failures for w in watchers if w.failures] == []
        assert max(w.first_sight(1) - committed for w in watchers) < 2 * WITHIN_S
        server.stop()


def test_zones_are_served_while_postgresql_is_away(database: Database) -> None:
    """By workers that were there, and by those that a reload brings."""
    prepare(database, 10, 1)
    with Gate(database.dsn) as gate, Server(dsn=gate.dsn, workers=1) as server:
        assert shown(server.port) == "v0"
        wait_until((server.folder / SNAPSHOT).exists, "the snapshot")
        gate.shut()
        wait_until(lambda: ask(server.port, message("/readyz")).status == 503, "its absence")
        assert shown(server.port) == "v0"
        before = len(server.lines())
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: done", since=before, timeout_s=30)
        assert shown(server.port) == "v0"
        gate.open()
        switch_to(database, 1)
        wait_until(lambda: shown(server.port) == "v1", "the change", 20)
        server.stop()


@pytest.fixture
def data_dir(database: Database, tmp_path: Path) -> str:
    """A host's directory with the snapshot and the keys that it would have left there."""
    prepare(database, 10, 1)
    (version, mark), _, entries = news(database, NOTHING)
    rows: Rows = {}
    for (relation, number), row in entries.items():
        assert row is not None
        rows.setdefault(relation, {})[number] = row
    shelf = Shelf(tmp_path, pytest.fail)
    shelf.write(Snapshot(version, mark, rows))
    KeyFeed(Keyring(), shelf.directory, pytest.fail).answered(database.fetch(query("token_keys")))
    return str(tmp_path)


def test_a_host_starts_and_serves_from_its_snapshot(database: Database, data_dir: str) -> None:
    """What it logs arrives when PostgreSQL is back, and what changed meanwhile is live."""
    with Gate(database.dsn) as gate:
        gate.shut()
        with Server("--data-dir", data_dir, dsn=gate.dsn, workers=2) as server:
            server.wait_for_line(r"warning: .* cannot be reached.* Serving without it")
            assert shown(server.port) == "v0"
            assert ask(server.port, message(f"/ad?zone=home&uid={PERSON}")).status == 200
            assert ask(server.port, message("/log?n=1")).status == 204
            assert ask(server.port, message("/readyz")).status == 503
            gate.open()
            switch_to(database, 1)
            wait_until(lambda: shown(server.port) == "v1", "the change", 20)
            arrived = (
                "SELECT count(*) FROM request_log WHERE params->>'n' = '1' OR endpoint = 'decision'"
            )
            wait_until(lambda: database.fetch(arrived)[0][0] >= 3, "the events", 20)
            server.stop()


def test_what_the_start_could_not_do_is_done_when_postgresql_is_there(
    postgres: Postgres, database: Database, data_dir: str
) -> None:
    """Here it is another database, and empty: schema and days are made, and its catalog is served."""
    empty = postgres.create_database()
    try:
        with Gate(empty.dsn) as gate:
            gate.shut()
            with Server("--data-dir", data_dir, dsn=gate.dsn, workers=1) as server:
                assert shown(server.port) == "v0"
                gate.open()
                wait_until(lambda: shown(server.port) == "404", "the empty catalog", 30)
                wait_until(lambda: ask(server.port, message("/readyz")).status == 200, "readiness")
                arrived = "SELECT count(*) FROM request_log WHERE endpoint = 'decision'"
                wait_until(lambda: empty.fetch(arrived)[0][0] >= 1, "the event", 20)
                server.stop()
    finally:
        postgres.drop_database(empty)


def test_without_a_snapshot_there_is_no_start_without_postgresql(database: Database) -> None:
    """Whoever supervises it tries again; a server that knows nothing would serve nothing."""
    with Gate(database.dsn) as gate:
        gate.shut()
        with Server(dsn=gate.dsn, serves=False) as server:
            assert server.wait() == DatabaseUnavailable.exit_code


def test_a_damaged_snapshot_is_none(database: Database, data_dir: str) -> None:
    path = Path(data_dir) / "catalog" / "snapshot.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    with Gate(database.dsn) as gate:
        gate.shut()
        with Server("--data-dir", data_dir, dsn=gate.dsn, serves=False) as server:
            assert server.wait() == DatabaseUnavailable.exit_code
            assert server.count("is of no use and ignored") == 1


def test_a_wrong_name_is_told_at_once_snapshot_or_not(database: Database, data_dir: str) -> None:
    """Waiting does not cure it."""
    wrong = make_dsn(database.dsn, dbname="no_such_database")
    with Server("--data-dir", data_dir, dsn=wrong, serves=False) as server:
        assert server.wait() == DatabaseUnavailable.exit_code
        assert server.count("Serving without it") == 0
