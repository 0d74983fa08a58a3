"""The fault test bed: a run of it, and the proof that it would notice.

The run is small, so that it can be part of every check; hours of it are for `scripts/torture` by hand.
Limits of time in the server are generous here: a busy machine must not look like a fault.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from prefork_ads.db.data_dir import find_running
from tests.support import wait_until
from tests.system.clone import ROOT

pytestmark = pytest.mark.once

START_LIMIT_S = 90.0
END_LIMIT_S = 120.0

# Each kind that is quick, and those twice that meet the journal at its most awkward moments.
PLAN = (
    "worker-kill*3,workers-kill,worker-hang,worker-term,keeper-kill,reload,upgrade,scale,master-kill*2,"
    "master-term,everything-kill,postgres-kill*2,backends-terminated,network-mute,network-late*2,table-locked"
)
# One with kills, a hang and a stop inside outages, and rows that come late to a segment somebody else ships.
SEED = 145
PATIENT = ("--drain-window-s", "15", "--drain-timeout-s", "60", "--read-timeout-s", "10")
# Without a database and without clients there is nothing to be patient for.
HASTY = ("--drain-window-s", "1", "--drain-timeout-s", "5")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where PostgreSQL's user can go, also as root; kept when the test fails."""
    path = Path(tempfile.mkdtemp(prefix="prefork-ads-torture-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def start(
    folder: Path, *arguments: str, server: tuple[str, ...] = PATIENT
) -> "subprocess.Popen[str]":
    with (folder / "torture.out").open("w") as out:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "torturelib", "--folder", str(folder)),
                *("--worker-timeout-s", "10", "--rate", "300", *arguments, "--", *server),
            ],
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def said(folder: Path) -> str:
    return (folder / "torture.out").read_text(errors="replace")


def running(folder: Path) -> list[str]:
    """Everything that was started for this folder: what works in it, or was told of it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            works_in = (entry / "cwd").readlink()
        except OSError:
            continue
        if folder == works_in or str(folder) in command:
            found.append(command)
    return found


def wait_for_rows(folder: Path, count: int) -> psycopg2.extensions.connection:
    """A connection to the database of the run, once there are so many events in it."""

    def look() -> psycopg2.extensions.connection | None:
        server = find_running(folder / "database")
        if server is None or server.state != "ready":
            return None
        try:
            connection = psycopg2.connect(server.dsn)
        except psycopg2.OperationalError:
            return None
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('request_log') IS NOT NULL")
            (there,) = cursor.fetchone() or (False,)
            if there:
                cursor.execute(
                    "SELECT count(*) FROM request_log"
                    " WHERE endpoint = 'log' AND time < now() - interval '1 s'"
                )
                (rows,) = cursor.fetchone() or (0,)
                if rows >= count:
                    return connection
        connection.close()
        return None

    found = wait_until(look, f"{count} events", START_LIMIT_S)
    assert found is not None
    return found


@pytest.mark.timeout(600)
def test_every_promise_holds(folder: Path) -> None:
    """No acknowledged event is missing or there twice, and nothing failed that should not have."""
    process = start(folder, "--seed", str(SEED), "--plan", PLAN)
    assert process.wait(540) == 0, said(folder)
    output = said(folder)
    assert "acknowledged − stored = 0, duplicates = 0, damaged = 0" in output
    assert f"seed {SEED}" in output
    done = [line for line in output.splitlines() if re.match(r"\[ *\d+/\d+\]", line)]
    assert len(done) >= 12, output
    assert not running(folder)


@pytest.mark.timeout(300)
def test_a_lost_a_doubled_and_a_changed_event_are_found(folder: Path) -> None:
    """Else a run that finds nothing would say nothing. One that is interrupted compares, too."""
    process = start(folder, "--minutes", "10", "--faults", "keeper-kill")
    with closing(wait_for_rows(folder, 30)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM request_log WHERE endpoint = 'log' AND params ->> 'note' <> ''"
            " AND time < now() - interval '1 s' ORDER BY time LIMIT 3"
        )
        lost, doubled, changed = (row[0] for row in cursor.fetchall())
        cursor.execute("DELETE FROM request_log WHERE id = %s", (lost,))
        cursor.execute(
            "INSERT INTO request_log SELECT * FROM request_log WHERE id = %s", (doubled,)
        )
        cursor.execute(
            'UPDATE request_log SET params = params || \'{"note": "?"}\' WHERE id = %s',
            (changed,),
        )
    process.send_signal(signal.SIGINT)
    assert process.wait(END_LIMIT_S) == 1, said(folder)
    output = said(folder)
    assert "acknowledged − stored = 1, duplicates = 1, damaged = 1, strange = 0" in output
    assert "VERDICT: FAILED" in output
    assert (folder / "truth.jsonl").exists()
    assert (folder / "server.log").exists()
    assert not running(folder)


@pytest.mark.timeout(300)
def test_nothing_outlives_a_bed_that_is_killed(folder: Path) -> None:
    """Server, PostgreSQL, proxy and clients end by themselves."""
    process = start(folder, "--minutes", "10", "--faults", "keeper-kill", server=HASTY)
    wait_for_rows(folder, 30).close()
    assert running(folder)
    process.kill()
    process.wait()
    wait_until(lambda: not running(folder), "the end of all processes", END_LIMIT_S)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--plan", "nonsense*3"), "there is no fault 'nonsense'"),
        (("--faults", "nonsense"), "there is no fault 'nonsense'"),
        (("--plan", "reload", "--faults", "reload"), "leave --faults out"),
    ],
)
def test_a_mistake_is_told_before_anything_is_started(
    folder: Path, arguments: tuple[str, ...], reason: str
) -> None:
    process = start(folder, *arguments)
    assert process.wait(END_LIMIT_S) == 2
    assert reason in said(folder)
    assert not (folder / "database").exists()


def test_the_kinds_are_listed() -> None:
    """With what each of them is."""
    done = subprocess.run(
        [str(ROOT / "scripts/torture"), "--list"], capture_output=True, text=True, check=True
    )
    assert re.search(r"^worker-kill +a worker gets SIGKILL$", done.stdout, re.MULTILINE)
