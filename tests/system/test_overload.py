"""More than a server can do: it says so, goes on with what it can, and loses nothing it acknowledged.

How much it goes on with is measured by hand (scripts/overload): a loaded machine's figures prove nothing.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import Database
from tests.support import wait_until
from tests.system.harness import ROOT, Server
from tests.system.wire import Line, ask, message, scrape

sys.path.insert(0, str(ROOT / "scripts"))

import pytest
from overloadlib.crowd import gathered
from overloadlib.errors import OverloadError
from overloadlib.load import Load, Period, Plan
from overloadlib.workloads import closing

pytestmark = pytest.mark.once

CONNECTIONS = 600


def flood(port: int, requests: list[bytes], *, rate: float, keep_alive: bool = True) -> Period:
    """Two seconds of more than any server could do here."""
    plan = Plan(
        ("127.0.0.1", port), tuple(requests), rate, 2.0, 1.0, CONNECTIONS, keep_alive=keep_alive
    )
    total = Period()
    for period in Load(plan).run(time.monotonic()):
        total.add(period)
    return total


@contextmanager
def asked_meanwhile(port: int) -> Iterator[list[int]]:
    """What a worker says of itself all the time."""
    statuses: list[int] = []
    ended = threading.Event()

    def ask_on() -> None:
        while not ended.is_set():
            statuses.append(ask(port, message("/healthz")).status)

    thread = threading.Thread(target=ask_on)
    thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        thread.join()


def requests_for(path: str) -> list[bytes]:
    return [b"GET " + path.encode() + b" HTTP/1.1\r\nHost: overload.example\r\n\r\n"]


def test_what_is_acknowledged_in_a_flood_is_stored(database: Database) -> None:
    with Server(dsn=database.dsn, workers=1) as server:
        total = flood(server.port, requests_for("/log?flood=1"), rate=200_000)
        assert total.due > total.sent > 0
        assert total.good
        assert ask(server.port, message("/log?after=1")).status == 204

        def stored() -> int:
            return int(
                database.fetch("SELECT count(*) FROM request_log WHERE params ? 'flood'")[0][0]
            )

        accepted = scrape(server.port)("requests_total", endpoint="log", status="204")
        wait_until(lambda: stored() == accepted - 1, "all that was accepted to be stored", 60)
        assert stored() >= total.good


def test_a_flood_of_connections_ends_with_the_flood(database: Database) -> None:
    with Server(dsn=database.dsn, workers=1) as server:
        total = flood(
            server.port, closing(requests_for("/log?flood=1")), rate=50_000, keep_alive=False
        )
        assert total.good
        wait_until(lambda: scrape(server.port)("connections_open") <= 1, "the flood to be gone", 60)
        with Line(server.port) as line:
            assert [line.ask(message("/log")).status for _ in range(50)] == [204] * 50


def test_a_slow_database_sheds_lookups_and_nothing_else(database: Database) -> None:
    with (
        Server("--read-batch", "1", "--read-queue", "20", dsn=database.dsn, workers=1) as server,
        asked_meanwhile(server.port) as health,
    ):
        asked = [
            b"GET /ad?id=00000000-0000-7000-8000-%012d HTTP/1.1\r\nHost: a\r\n\r\n" % number
            for number in range(5000)
        ]
        total = flood(server.port, asked, rate=50_000)
        assert total.good
        assert total.shed
        assert ask(server.port, message("/log")).status == 204
    assert set(health) == {200}


def test_the_crowd_of_the_measurement_is_there_and_comes_again(database: Database) -> None:
    """As `scripts/overload --crowd` has it, in two processes."""
    cores = sorted(os.sched_getaffinity(0))
    with Server("--head-timeout-s", "1", dsn=database.dsn, workers=1) as server:
        address = ("127.0.0.1", server.port)
        with gathered(address, 200, cores, most=100) as parts:
            wait_until(
                lambda: scrape(server.port)("requests_total", endpoint="log", status="204") == 100,
                "the idle half to be answered",
            )
            wait_until(
                lambda: scrape(server.port)("requests_refused_total") >= 200,
                "the slow half to be sent away and come again, twice",
            )
        assert len(parts) == 2
        assert sum(part.sent_away for part in parts) >= 100
        assert min(part.least for part in parts) >= 50, "the idle half stays"
        wait_until(lambda: scrape(server.port)("connections_open") <= 1, "the crowd to leave")


def test_a_crowd_that_cannot_come_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with (
            pytest.raises(OverloadError, match=r"the crowd cannot come: .*refused"),
            gathered(taken.getsockname(), 10, sorted(os.sched_getaffinity(0)), most=100),
        ):
            raise AssertionError


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), id="SIGTERM to it alone"),
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="Ctrl-C, which reaches all"),
    ],
)
def test_a_measurement_that_is_ended_leaves_nothing(
    tmp_path: Path, end: Callable[[int], None]
) -> None:
    # The embedded PostgreSQL runs as another user when we are root.
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o711)
    with subprocess.Popen(
        [sys.executable, "-c", "from overloadlib.cli import main; main()", "--duration", "60"],
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT / "scripts")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as measurement:
        try:
            assert measurement.stderr is not None
            said = iter(measurement.stderr.readline, "")
            assert any(line.startswith("peak,") for line in said), measurement.poll()
            [log] = tmp_path.glob("*/log")
            [port] = re.findall(r"ready: .*:(\d+)", log.read_text())
            assert ask(int(port), message("/healthz")).status == 200
            end(measurement.pid)
            # The pipes are at their end when the last process of the load has left, too.
            output, rest = measurement.communicate(timeout=50)
        finally:
            if measurement.poll() is None:
                os.killpg(measurement.pid, signal.SIGKILL)
                measurement.communicate()
    assert measurement.returncode == 130
    assert (output, rest) == ("", "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=5)
    assert not list(tmp_path.iterdir())
