"""Workers of the real server: without PostgreSQL, with a part that fails, and to their end."""

import json
import os
import re
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import pytest

from prefork_ads.process.worker import ACCEPTS
from tests.conftest import Database
from tests.support import wait_until
from tests.system.gate import Gate
from tests.system.harness import Server
from tests.system.wire import Line, ask, message, scrape
from tests.unit.http_bed import read_answers

ID: Final = "0190163d-8694-739b-aea5-966c26f8ad91"
# What a journal keeps is never put into such a file: see test_journal.
NO_JOURNAL: Final = ("--journal", "off")
# A machine that is busy with something else must not turn an answer into a 503.
PATIENT: Final = ("--read-timeout-s", "5")
RESCUED: Final = r"PostgreSQL did not take the last events; they are in (\S+)"


@pytest.fixture
def gate(database: Database) -> Iterator[Gate]:
    database.execute(
        "INSERT INTO ad_variant VALUES (%s, 1, 1, 1, 1, 't', 'http://i.example', 'http://c.example')",
        ID,
    )
    with Gate(database.dsn) as gate:
        yield gate


def status(port: int, target: str) -> int:
    return ask(port, message(target)).status


def rows(database: Database) -> list[str]:
    return [row[0] for row in database.fetch("SELECT params->>'n' FROM request_log ORDER BY 1")]


def wait_until_away(server: Server) -> None:
    """No connection is left: a worker is not ready as soon as it has lost its first one."""
    wait_until(lambda: status(server.port, "/readyz") == 503, "a worker without PostgreSQL")
    wait_until(
        lambda: scrape(server.port)("database_connections") == 0, "the last connection's end"
    )


def wait_until_ready(server: Server) -> None:
    wait_until(lambda: status(server.port, "/readyz") == 200, "a worker with PostgreSQL", 20)


def load(database: Database, path: Path) -> None:
    r"""What \copy does."""
    with closing(database.connect()) as connection, path.open("rb") as file:
        connection.cursor().copy_expert("COPY request_log FROM STDIN", file)


def test_postgres_goes_away_and_comes_back(gate: Gate, database: Database) -> None:
    with Server(*PATIENT, dsn=gate.dsn, workers=1) as server:
        pid, port = server.worker(0), server.port
        assert status(port, f"/ad?id={ID}&n=1") == 200
        wait_until(lambda: rows(database) == ["1"], "the first row")
        gate.shut()
        wait_until_away(server)
        assert status(port, "/log?n=2") == 204
        away = ask(port, message(f"/ad?id={ID}&n=3"))
        assert (away.status, away.headers["retry-after"]) == (503, "1")
        assert status(port, "/healthz") == 200
        wait_until(lambda: scrape(port)("log_rows_waiting") == 2, "the gauge to be set")
        gate.open()
        wait_until_ready(server)
        assert status(port, f"/ad?id={ID}&n=4") == 200
        server.stop()
        assert server.count("failed|Traceback") == 0
        assert server.worker(0) == pid
    assert rows(database) == ["1", "2", "3", "4"]


def test_a_worker_that_starts_without_postgres_serves_and_recovers(
    gate: Gate, database: Database
) -> None:
    with Server(*PATIENT, "--readers", "4", dsn=gate.dsn, workers=1) as server:
        gate.shut()
        mark = len(server.lines())
        os.kill(server.worker(0), signal.SIGKILL)
        server.wait_for_line("serving without PostgreSQL until it can be reached", since=mark)
        server.wait_for_line(r"worker slot=0 pid=\d+ ready", since=mark)
        not_ready = ask(server.port, message("/readyz"))
        assert (not_ready.status, not_ready.headers["retry-after"]) == (503, "1")
        assert "PostgreSQL" in json.loads(not_ready.body)["error"]["message"]
        assert status(server.port, "/log?n=1") == 204
        assert status(server.port, f"/ad?id={ID}&n=2") == 503
        gate.open()
        wait_until_ready(server)
        wait_until(lambda: scrape(server.port)("database_connections") == 10, "all connections")
        assert status(server.port, f"/ad?id={ID}&n=3") == 200
        assert scrape(server.port)("workers_started_total") == 2
        server.stop()
    assert rows(database) == ["1", "2", "3"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_what_postgres_did_not_take_at_the_end_is_in_a_file(
    gate: Gate, database: Database, number: signal.Signals
) -> None:
    # A tenth of it is what is left to write the file and to end in.
    with Server(*NO_JOURNAL, "--drain-timeout-s", "8", dsn=gate.dsn, workers=1) as server:
        assert status(server.port, "/log?n=0") == 204
        wait_until(lambda: rows(database) == ["0"], "the first row")
        gate.shut()
        wait_until_away(server)
        for n in range(1, 4):
            assert status(server.port, f"/log?n={n}&q=%09%0A%5CN") == 204
        pid = server.worker(0)
        os.kill(pid, number)
        path = Path(server.wait_for_line(RESCUED)[1])
        server.wait_for_line(rf"worker slot=0 pid={pid} exited status=1")
        # Nothing has needed the folder before: the database is somebody else's.
        assert path.parent == server.folder / "data"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        gate.open()
        load(database, path)
        server.stop()
    assert rows(database) == ["0", "1", "2", "3"]


def test_a_stop_that_leaves_events_in_a_file_is_told_by_the_status(
    gate: Gate, database: Database
) -> None:
    with Server(*NO_JOURNAL, "--drain-timeout-s", "8", dsn=gate.dsn, workers=1) as server:
        gate.shut()
        wait_until_away(server)
        assert status(server.port, "/log?n=1") == 204
        server.stop(status=1)
        path = Path(server.wait_for_line(RESCUED)[1])
        assert server.count(r"worker slot=0 pid=\d+ exited status=1") == 1
        assert server.count("error: stopped, but 1 children did not end cleanly") == 1
        load(database, path)
    assert rows(database) == ["1"]


def test_a_worker_that_is_not_ready_in_time_is_killed(gate: Gate) -> None:
    # Shorter than the 3 s that it waits for PostgreSQL, so it is late while its loop runs; and no shorter,
    # for with PostgreSQL it has to be in time on a busy machine.
    with Server("--boot-timeout-s", "2.5", dsn=gate.dsn, workers=1) as server:
        gate.shut()
        mark = len(server.lines())
        os.kill(server.worker(0), signal.SIGKILL)
        server.wait_for_line(r"worker slot=0 pid=\d+ is killed: not ready in time", since=mark)
        gate.open()
        server.wait_for_line(r"worker slot=0 pid=\d+ ready", since=mark)


def test_the_last_events_go_elsewhere_when_the_data_directory_cannot_take_them(
    gate: Gate, database: Database, tmp_path: Path
) -> None:
    temporary = {"TMPDIR": str(tmp_path)}
    with Server(*NO_JOURNAL, dsn=gate.dsn, workers=1, environment=temporary) as server:
        data = server.folder / "data"
        # Behind the last that is written there while all is well.
        wait_until((data / "catalog" / "snapshot.jsonl").exists, "the catalog's snapshot")
        data.rename(server.folder / "moved")
        data.write_text("a file is in the way")
        gate.shut()
        wait_until_away(server)
        assert status(server.port, "/log?n=1") == 204
        os.kill(server.worker(0), signal.SIGQUIT)
        path = Path(server.wait_for_line(RESCUED)[1])
        assert path.parent == tmp_path
        gate.open()
        load(database, path)
        # Its end belongs before the stop, which would count it as unclean.
        server.wait_for_line(r"worker slot=0 pid=\d+ exited status=1")
        server.stop()
    assert rows(database) == ["1"]


def test_a_part_that_fails_ends_its_worker_and_another_follows(
    gate: Gate, database: Database
) -> None:
    with Server(*NO_JOURNAL, "--drain-window-s", "15", dsn=gate.dsn, workers=1) as server:
        pid = server.worker(0)
        assert status(server.port, "/log?n=1") == 204
        wait_until(lambda: rows(database) == ["1"], "the first row")
        database.execute("UPDATE journal_segment SET shipped_bytes = shipped_bytes + 1")
        with Line(server.port) as line:
            assert line.ask(message("/log?n=2")).status == 204
            server.wait_for_line("the writer failed")
            # Drains as ever, and what it cannot write is not lost.
            last = line.ask(message("/log?n=3"))
            assert (last.status, last.connection) == (204, "close")
        path = Path(server.wait_for_line(RESCUED)[1])
        server.wait_for_line(rf"worker slot=0 pid={pid} exited status=1")
        wait_until(lambda: server.worker(0) != pid, "its successor")
        assert status(server.port, "/log?n=4") == 204
        load(database, path)
        server.stop()
    assert rows(database) == ["1", "2", "3", "4"]


def test_a_worker_has_several_descriptors_of_its_listening_socket(database: Database) -> None:
    """Each takes one connection in a round of the loop."""
    with Server(dsn=database.dsn, workers=1) as server:
        links = []
        for link in Path(f"/proc/{server.worker(0)}/fd").iterdir():
            # The worker goes on meanwhile, and closes files that it has written.
            with suppress(FileNotFoundError):
                links.append(str(link.readlink()))
        listening = [
            fields[9]
            for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
            if fields[3] == "0A" and int(fields[1].partition(":")[2], 16) == server.port
        ]
        assert len(listening) == 1
        assert links.count(f"socket:[{listening[0]}]") == ACCEPTS


def test_sigquit_ends_a_worker_within_about_a_second(gate: Gate, database: Database) -> None:
    with Server(dsn=gate.dsn, workers=1) as server:
        pid = server.worker(0)
        # A client in the middle of a request, and one that stays: neither is waited for, for which a drain
        # has half a minute.
        with Line(server.port) as halfway, Line(server.port) as idle:
            assert idle.ask(message("/log?n=1")).status == 204
            halfway.send(b"GET /log?n=2 HTTP/1.1\r\n")
            began = time.monotonic()
            os.kill(pid, signal.SIGQUIT)
            server.wait_for_line(rf"worker slot=0 pid={pid} exited status=0")
            assert time.monotonic() - began < 10
        server.stop()
    assert rows(database) == ["1"]


def test_a_drain_answers_one_more_request_on_each_open_connection(
    gate: Gate, database: Database
) -> None:
    with Server(*PATIENT, "--drain-window-s", "20", dsn=gate.dsn, workers=1) as server:
        lines = [Line(server.port) for _ in range(20)]
        for n, line in enumerate(lines):
            assert line.ask(message(f"/log?n=a{n:02}")).connection is None
        mark = len(server.lines())
        os.kill(server.worker(0), signal.SIGTERM)
        server.wait_for_line(r"worker slot=0 pid=\d+ started", since=mark)
        for n, line in enumerate(lines):
            line.send(message(f"/ad?id={ID}&n=b{n:02}"))
            # And nothing after it.
            [answer] = read_answers(line.rest())
            assert (answer.status, answer.connection) == (200, "close")
            line.close()
        server.wait_for_line(r"worker slot=0 pid=\d+ exited status=0")
        server.stop()
    assert rows(database) == [f"{phase}{n:02}" for phase in "ab" for n in range(20)]


def test_a_drain_ends_when_its_window_does(gate: Gate) -> None:
    with Server("--drain-window-s", "0.5", dsn=gate.dsn, workers=1) as server:
        with Line(server.port) as idle:
            assert idle.ask(message("/log")).status == 204
            os.kill(server.worker(0), signal.SIGTERM)
            assert idle.rest() == b""
        server.wait_for_line(r"worker slot=0 pid=\d+ exited status=0")


def test_counters_never_go_down_when_workers_are_replaced(gate: Gate, database: Database) -> None:
    with Server(dsn=gate.dsn) as server:
        port = server.port
        for n in range(10):
            assert status(port, f"/log?n={n}") == 204
        wait_until(lambda: len(rows(database)) == 10, "the rows")
        before = scrape(port)
        mark = len(server.lines())
        for slot in (0, 1):
            os.kill(server.worker(slot), signal.SIGKILL)
            server.wait_for_line(rf"worker slot={slot} pid=\d+ ready", since=mark)
        assert status(port, "/log?n=10") == 204
        after = scrape(port)
        was = {(name, *labels.items()): value for name, labels, value in before.samples}
        for name, labels, value in after.samples:
            if name.endswith("_total"):
                assert value >= was[name, *labels.items()], name
        assert after("requests_total", endpoint="log", status="204") == 11
        assert after("workers_started_total") == 4
        assert after("workers") == 2
        # Of those who were killed nothing is left that is not counted for ever.
        assert after("connections_open") <= 2
        assert re.match(r"\d+$", str(after("connections_total")))
        server.stop()
