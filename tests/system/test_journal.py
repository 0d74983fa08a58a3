"""The journal in the real server: what was answered is stored once, whoever dies and whatever is full."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest
from click.testing import CliRunner

from prefork_ads.cli import cli
from prefork_ads.events.event import EventClock, line
from prefork_ads.events.journal import Journal
from prefork_ads.events.segments import new_stream
from prefork_ads.events.uuid7 import Uuid7
from tests.conftest import Database
from tests.support import unmeasured, wait_until
from tests.system.clients import Clients
from tests.system.gate import Gate
from tests.system.harness import ROOT, Server
from tests.system.wire import Line, ask, message, scrape
from tests.unit.journal_bed import refuse_to_open

COMMAND_LIMIT_S: Final = 60.0
READY: Final = r"ready: \d+ workers on (\S+), database"


@pytest.fixture
def gate(database: Database) -> Iterator[Gate]:
    with Gate(database.dsn) as gate:
        yield gate


def log(port: int, n: str) -> int:
    return ask(port, message(f"/log?n={n}")).status


def rows(database: Database) -> list[str]:
    return [row[0] for row in database.fetch("SELECT params->>'n' FROM request_log ORDER BY 1")]


def wait_for_rows(database: Database, wanted: Sequence[str]) -> None:
    wait_until(lambda: rows(database) == list(wanted), f"{len(wanted)} rows", 30)


def wait_until_away(server: Server) -> None:
    def away() -> bool:
        return ask(server.port, message("/readyz")).status == 503

    wait_until(away, "PostgreSQL to be away", 30)


def wait_until_shipped(server: Server) -> None:
    wait_until(lambda: scrape(server.port)("journal_bytes") == 0, "an empty journal", 30)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def journal_of(server: Server) -> Path:
    return server.folder / "data/journal"


def wait_until_empty(folder: Path) -> None:
    wait_until(lambda: not files(folder), f"nothing left in {folder}", 30)


def restart(server: Server) -> None:
    mark = len(server.lines())
    server.start()
    server.wait_for_line(READY, since=mark, timeout_s=60)


def kill_everything(server: Server) -> None:
    """As nobody had seen it coming: the master starts nobody again, and the keeper ships nothing."""
    # Until then it may not have its title, by which it is found.
    server.wait_for_line(r"keeper pid=\d+ ready")
    server.signal(signal.SIGSTOP)
    titles = server.processes()
    assert any("keeper" in title for title in titles.values()), titles
    for pid in sorted(titles, key=lambda pid: ("keeper" not in titles[pid], pid == server.pid)):
        os.kill(pid, signal.SIGKILL)
    server.wait()
    server.assert_nothing_runs()


def command(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "prefork_ads", "journal", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=COMMAND_LIMIT_S,
        cwd=ROOT,
        check=False,
    )


def event(number: int) -> bytes:
    params = json.dumps({"n": f"{number:06}"}).encode()
    return line(EventClock(Uuid7()).stamp(), b"log", params, b"test", None, "192.0.2.1", None)


def leave(folder: Path, numbers: Sequence[int], *others: bytes) -> None:
    """What a killed worker leaves behind."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    journal = Journal(folder, new_stream("test", 1, time.time()), segment_bytes=64 << 10)
    for text in (*map(event, numbers), *others):
        assert journal.append(text)
        journal.write()
    journal.close()


# -- deaths ----------------------------------------------------------------------------------------


def test_a_killed_worker_with_a_backlog_loses_nothing(gate: Gate, database: Database) -> None:
    with Server(dsn=gate.dsn, workers=1) as server:
        assert log(server.port, "0") == 204
        wait_for_rows(database, ["0"])
        gate.shut()
        wait_until_away(server)
        for n in "1234":
            assert log(server.port, n) == 204
        mark = len(server.lines())
        os.kill(server.worker(0), signal.SIGKILL)
        server.wait_for_line(r"worker slot=0 pid=\d+ ready", since=mark)
        assert log(server.port, "5") == 204
        waiting = scrape(server.port)
        assert waiting("journal_adopted_total") == 0
        wait_until(lambda: scrape(server.port)("journal_bytes") > 300, "both workers' events", 30)
        gate.open()
        wait_for_rows(database, list("012345"))
        wait_until(lambda: scrape(server.port)("journal_adopted_total") == 1, "the counter", 30)
        server.stop()
        assert files(journal_of(server)) == []
    assert rows(database) == list("012345")
    assert database.fetch("SELECT * FROM journal_segment WHERE closed IS NULL") == []


def test_the_keeper_ships_while_somebody_holds_a_lock_on_other_tables(database: Database) -> None:
    """A table of ads that is locked for an hour holds up what is done there, and no events."""
    with (
        Server(dsn=database.dsn, workers=1) as server,
        closing(database.connect(autocommit=False)) as blocker,
    ):
        server.wait_for_line("keeps this database's days")
        blocker.cursor().execute("LOCK TABLE rollup_delta IN ACCESS EXCLUSIVE MODE")
        wait_until(lambda: _waits(database), "the keeper to wait for the lock", 30)
        leave(journal_of(server), range(3))
        wait_for_rows(database, [f"{n:06}" for n in range(3)])
        blocker.rollback()


def test_workers_that_are_killed_under_load_lose_nothing_that_was_answered(
    gate: Gate, database: Database
) -> None:
    """Answered means stored once; what was not answered may be stored, and not twice either."""
    with Server(dsn=gate.dsn, workers=2) as server:
        answered: list[str] = []
        for turn in range(4):
            mark = len(server.lines())
            victim = server.worker(turn % 2)
            with Line(server.port) as client:
                for n in range(50):
                    name = f"{turn}-{n:02}"
                    if n == 25:
                        os.kill(victim, signal.SIGKILL)
                    try:
                        if client.ask(message(f"/log?n={name}")).status == 204:
                            answered.append(name)
                    except (OSError, AssertionError):
                        break
            server.wait_for_line(rf"worker slot={turn % 2} pid=\d+ ready", since=mark)
        server.stop()
        assert files(journal_of(server)) == []
    stored = rows(database)
    assert set(answered) <= set(stored)
    assert len(stored) == len(set(stored))


def test_a_stop_right_after_a_death_leaves_nothing(gate: Gate, database: Database) -> None:
    """The keeper's last look, when the workers are gone."""
    with Server(dsn=gate.dsn, workers=2) as server:
        gate.shut()
        wait_until_away(server)
        for n in range(10):
            assert log(server.port, str(n)) == 204
        mark = len(server.lines())
        os.kill(server.worker(0), signal.SIGKILL)
        server.wait_for_line(r"worker slot=0 pid=\d+ killed by SIGKILL", since=mark)
        gate.open()
        server.stop()
        assert files(journal_of(server)) == []
    assert rows(database) == [str(n) for n in range(10)]


def test_a_stop_without_postgresql_leaves_the_events_to_the_next_start(
    gate: Gate, database: Database
) -> None:
    with Server(dsn=gate.dsn, workers=1) as server:
        gate.shut()
        wait_until_away(server)
        for n in "123":
            assert log(server.port, n) == 204
        server.stop()
        server.wait_for_line(
            r"3 events \(\d+ bytes\) are left in \S+ for the keeper or the next start"
        )
        assert len(files(journal_of(server))) == 1
        gate.open()
        restart(server)
        wait_for_rows(database, list("123"))
        wait_until_empty(journal_of(server))
        server.stop()


@pytest.mark.parametrize("away", [False, True])
def test_a_killed_master_loses_nothing(gate: Gate, database: Database, away: bool) -> None:
    with Server(dsn=gate.dsn, workers=2) as server:
        if away:
            gate.shut()
            wait_until_away(server)
        for n in "1234":
            assert log(server.port, n) == 204
        server.signal(signal.SIGKILL)
        server.wait()
        server.assert_nothing_runs()
        if away:
            gate.open()
        restart(server)
        wait_for_rows(database, list("1234"))
        wait_until_empty(journal_of(server))
        server.stop()


def test_everything_that_is_killed_at_once_loses_nothing(gate: Gate, database: Database) -> None:
    with Server("--write-interval-s", "60", dsn=gate.dsn, workers=2) as server:
        for n in "1234":
            assert log(server.port, n) == 204
        kill_everything(server)
        assert rows(database) == []
        restart(server)
        wait_for_rows(database, list("1234"))
        server.stop()


def test_a_ledger_that_is_broken_costs_a_worker_and_no_event(
    gate: Gate, database: Database
) -> None:
    with Server(dsn=gate.dsn, workers=1) as server:
        pid = server.worker(0)
        assert log(server.port, "1") == 204
        wait_for_rows(database, ["1"])
        database.execute("UPDATE journal_segment SET shipped_bytes = shipped_bytes + 1")
        assert log(server.port, "2") == 204
        server.wait_for_line("the writer failed")
        server.wait_for_line(rf"worker slot=0 pid={pid} exited status=1")
        # Where the ledger points there is no line; what it points into is kept for a person.
        aside = Path(server.wait_for_line(r"set aside as (\S+): line 2, ")[1])
        assert b'{"n":"2"}' in aside.read_bytes()
        wait_until(lambda: server.worker(0) != pid, "its successor", 30)
        assert log(server.port, "3") == 204
        server.stop()
    assert rows(database) == ["1", "3"]


# -- limits ----------------------------------------------------------------------------------------


def test_a_full_journal_answers_503_until_there_is_room(gate: Gate, database: Database) -> None:
    body = b"x" * 20_000
    with Server("--journal-max-bytes", "1M", dsn=gate.dsn, workers=2) as server:
        gate.shut()
        wait_until_away(server)
        answered = 0

        def post() -> int:
            target = f"/log?n={answered:06}"
            answer = ask(server.port, message(target, method=b"POST", body=body))
            if answer.status == 503:
                assert int(answer.headers["retry-after"]) >= 1
            return answer.status

        def until_full() -> bool:
            nonlocal answered
            status = post()
            answered += status == 204
            return status == 503

        wait_until(until_full, "the journal to be full", 30)
        server.wait_for_line("journal: full of events that PostgreSQL has not taken")
        # Two workers fill what the other leaves free, up to a quarter of a second's worth.
        assert 40 <= answered <= 110
        assert ask(server.port, message("/healthz")).status == 200
        gate.open()
        wait_until_shipped(server)
        wait_until(lambda: not until_full(), "requests to be taken again", 30)
        server.wait_for_line("journal: there is room again")
        server.wait_for_line(r"writer: the log is written again after \d+\.\d s")
        server.stop()
        assert files(journal_of(server)) == []
    assert rows(database) == [f"{n:06}" for n in range(answered)]


def test_a_full_disk_answers_503_until_there_is_room(gate: Gate, database: Database) -> None:
    """The kernel refuses to make files longer, as on a full disk; also the log, which is one here."""
    with Server(dsn=gate.dsn, workers=1) as server:
        assert log(server.port, "1") == 204
        with _no_room(server.worker(0)), Line(server.port) as client:
            refused = client.ask(message("/log?n=2"))
            assert (refused.status, refused.connection) == (503, "close")
            assert int(refused.headers["retry-after"]) >= 1
            assert log(server.port, "3") == 503
            assert ask(server.port, message("/healthz")).status == 200
            assert b"journal" in ask(server.port, message("/readyz")).body
        wait_until(lambda: log(server.port, "4") == 204, "requests to be taken again", 30)
        server.wait_for_line("journal: .*written again")
        server.stop()
        assert files(journal_of(server)) == []
    assert rows(database) == ["1", "4"]


@contextmanager
def _no_room(pid: int) -> Iterator[None]:
    """Meanwhile no file of this process may grow past a byte."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def test_a_directory_that_cannot_be_used_is_told_at_the_start(
    database: Database, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    where = ("--journal-dir", str(tmp_path / "file"))
    with Server(*where, dsn=database.dsn, serves=False) as server:
        assert server.wait() == 72
        assert server.count("The journal cannot be kept in .*--journal-dir") == 1
    checking = subprocess.run(
        [
            sys.executable,
            "-m",
            "prefork_ads",
            "check",
            *where,
            "--dsn",
            database.dsn,
            "--port",
            "0",
        ],
        capture_output=True,
        text=True,
        timeout=COMMAND_LIMIT_S,
        cwd=ROOT,
        check=False,
    )
    assert checking.returncode == 72
    assert "The journal cannot be kept in" in checking.stdout


@pytest.mark.parametrize("sync", ["interval", "always"])
def test_answers_and_rows_are_the_same_however_the_journal_is_synced(
    database: Database, sync: str
) -> None:
    settings = ("--journal-sync", sync, "--journal-sync-interval-s", "0.05")
    with Server(*settings, dsn=database.dsn, workers=2) as server:
        clients = Clients(server.port, keep_alive=True)
        with clients.running(4):
            clients.wait_for_more(200)
        assert clients.failures == []
        server.stop()
        assert files(journal_of(server)) == []
    assert len(rows(database)) == clients.answered


def test_without_a_journal_there_are_no_files(database: Database) -> None:
    with Server("--journal", "off", dsn=database.dsn, workers=1) as server:
        assert log(server.port, "1") == 204
        assert not journal_of(server).exists()
        server.stop()
    assert rows(database) == ["1"]


# -- the command line ------------------------------------------------------------------------------


def test_ship_beside_a_running_server_leaves_its_segments_alone(
    gate: Gate, database: Database
) -> None:
    with Server(dsn=gate.dsn, workers=1) as server:
        folder = journal_of(server)
        gate.shut()
        wait_until_away(server)
        assert log(server.port, "1") == 204
        leave(folder, [2, 3])

        def ship() -> str:
            done = command("ship", "--dsn", database.dsn, "--journal-dir", folder)
            assert done.returncode == 0, done.stderr
            return done.stdout if "2 events from 1 segments were shipped" in done.stdout else ""

        # The keeper, which has no way to PostgreSQL, does not race us for it. But to see whether somebody
        # owns it, it holds it for a moment, in which we are told that it belongs to somebody.
        said = wait_until(ship, "the segment that nobody owns")
        assert "1 segments belong to running workers" in said
        assert rows(database) == ["000002", "000003"]
        gate.open()
        wait_for_rows(database, ["000002", "000003", "1"])
        server.stop()


def test_ship_waits_for_who_only_looks_whether_a_segment_has_an_owner(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so when somebody keeps it."""
    leave(tmp_path, [1, 2])
    [segment] = tmp_path.glob("*.tsv")
    with segment.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        words = ("--dsn", database.dsn, "--journal-dir", str(tmp_path))
        kept = command("ship", *words)
        assert kept.stdout.splitlines() == [
            "0 events from 0 segments were shipped.",
            "1 segments are held by somebody else, who may be shipping them.",
        ]

        def sleep(_: float) -> None:
            fcntl.flock(looking, fcntl.LOCK_UN)

        clock = SimpleNamespace(sleep=sleep, time=time.time)
        # The package has the command under the module's name.
        monkeypatch.setattr(sys.modules["prefork_ads.cli.journal"], "time", clock)
        done = CliRunner().invoke(cli, ["journal", "ship", *words])
    assert done.stdout == "2 events from 1 segments were shipped.\n", done.output
    assert rows(database) == ["000001", "000002"]


def test_ctrl_c_in_the_middle_of_ship_loses_nothing(database: Database, tmp_path: Path) -> None:
    for start in range(0, 2000, 500):
        leave(tmp_path, range(start, start + 500))
    words = ("--dsn", database.dsn, "--journal-dir", str(tmp_path), "--write-batch", "100")
    with closing(database.connect(autocommit=False)) as blocker:
        blocker.cursor().execute("LOCK TABLE request_log IN ACCESS EXCLUSIVE MODE")
        shipping = subprocess.Popen(
            [sys.executable, "-m", "prefork_ads", "journal", "ship", *words],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=unmeasured(os.environ),
        )
        with shipping:
            wait_until(lambda: _waits(database), "a statement that waits for the lock", 30)
            shipping.send_signal(signal.SIGINT)
            _, said = shipping.communicate(timeout=COMMAND_LIMIT_S)
        assert shipping.returncode == 130
        assert "Nothing is lost" in said
        blocker.rollback()
    done = command("ship", *words)
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr
    assert rows(database) == [f"{n:06}" for n in range(2000)]
    assert files(tmp_path) == []
    assert database.fetch("SELECT * FROM journal_segment WHERE closed IS NULL") == []


def _waits(database: Database) -> bool:
    return bool(
        database.fetch(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
    )


def test_status_tells_whose_each_segment_is_and_how_much_waits(
    gate: Gate, database: Database
) -> None:
    with Server(dsn=gate.dsn, workers=1) as server:
        gate.shut()
        wait_until_away(server)
        assert log(server.port, "1") == 204
        folder = journal_of(server)
        leave(folder, [2])
        where = ("--journal-dir", folder)
        shown = command("status", "--json", "--dsn", database.dsn, *where)
        assert shown.returncode == 0, shown.stderr
        told = json.loads(shown.stdout)
        owners = {segment["owner_pid"] for segment in told["segments"]}
        assert owners == {server.worker(0), None}
        assert told["unshipped_bytes"] == told["bytes"] > 100
        text = command("status", "--dsn", database.dsn, *where).stdout
        assert "owner: nobody" in text
        assert f"owner: pid {server.worker(0)}" in text
        # PostgreSQL is away: the files are shown all the same.
        blind = command("status", "--json", "--dsn", gate.dsn, *where)
        assert blind.returncode == 0
        assert json.loads(blind.stdout)["unshipped_bytes"] is None
        assert "cannot be reached" in blind.stderr
        gate.open()
        server.stop()


def test_a_damaged_segment_is_set_aside_and_told_until_it_is_removed(
    gate: Gate, database: Database
) -> None:
    with Server(dsn=gate.dsn, workers=1) as server:
        folder = journal_of(server)
        sound = command("verify", "--journal-dir", folder)
        assert (sound.returncode, sound.stderr) == (0, "")
        gate.shut()
        leave(folder, [1, 2], b"not an event", event(3))
        found = command("verify", "--journal-dir", folder)
        assert found.returncode == 65
        assert "line 3, byte" in found.stderr
        gate.open()
        server.wait_for_line(r"set aside as \S+: line 3, byte", timeout_s=30)
        wait_for_rows(database, ["000001", "000002", "000003"])
        wait_until(lambda: scrape(server.port)("journal_damaged_total") == 1, "the counter", 30)
        server.stop()
        [kept] = (folder / "damaged").iterdir()
        assert command("verify", "--journal-dir", folder).returncode == 65
        assert "damaged" in command("status", "--dsn", database.dsn, "--journal-dir", folder).stdout
        kept.unlink()
        assert command("verify", "--journal-dir", folder).returncode == 0


def test_ship_tells_damage_by_its_status(database: Database, tmp_path: Path) -> None:
    leave(tmp_path, [1], b"not an event")
    done = command("ship", "--dsn", database.dsn, "--journal-dir", tmp_path)
    assert done.returncode == 65
    assert "line 2, byte" in done.stderr
    assert rows(database) == ["000001"]


def test_ship_names_what_it_cannot_ship_and_ships_the_others(
    database: Database, tmp_path: Path
) -> None:
    """The same command goes on from there when that is mended."""
    leave(tmp_path, [1], b"not an event")
    [broken] = tmp_path.glob("*.tsv")
    leave(tmp_path, [2])
    (tmp_path / "damaged").write_bytes(b"somebody else's")
    words = ("ship", "--dsn", database.dsn, "--journal-dir", tmp_path)
    done = command(*words)
    assert done.returncode == 72
    assert f"{broken.stem} cannot be shipped: " in done.stderr
    assert "Not a directory" in done.stderr
    assert "1 segment could not be shipped" in done.stderr
    assert "Traceback" not in done.stderr
    assert rows(database) == ["000001", "000002"]
    assert files(tmp_path) == sorted(["damaged", broken.name])
    (tmp_path / "damaged").unlink()
    assert command(*words).returncode == 65
    assert rows(database) == ["000001", "000002"]


def test_ship_names_a_segment_that_it_may_not_read(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, [1])
    [foreign] = tmp_path.glob("*.tsv")
    leave(tmp_path, [2])
    owner = foreign.stat().st_uid
    refuse_to_open(foreign, monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    words = ["journal", "ship", "--dsn", database.dsn, "--journal-dir", str(tmp_path)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code != 0
    assert f"{foreign.stem} cannot be shipped" in done.output
    assert f"belongs to another user (uid {owner})" in done.output
    assert rows(database) == ["000002"]


def test_ship_into_a_database_without_tables_says_what_to_do(
    empty_database: Database, tmp_path: Path
) -> None:
    leave(tmp_path, [1])
    done = command("ship", "--dsn", empty_database.dsn, "--journal-dir", tmp_path)
    assert done.returncode == 70
    assert "prefork-ads migrate" in done.stderr
    assert len(files(tmp_path)) == 1


def test_ship_works_with_the_embedded_postgresql(tmp_path: Path) -> None:
    with Server("--write-interval-s", "60", workers=1) as server:
        assert log(server.port, "1") == 204
        kill_everything(server)
        data = server.folder / "data"
        unknown = command("status", "--data-dir", data)
        assert "cannot be told now" in unknown.stdout
        done = command("ship", "--data-dir", data)
        assert done.returncode == 0, done.stderr
        assert "1 events from 1 segments were shipped" in done.stdout
        assert files(data / "journal") == []
