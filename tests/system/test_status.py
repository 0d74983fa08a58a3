"""What operators see of a running server: `prefork-ads status`, /metrics, and the log."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from psycopg2 import sql

from tests import conftest
from tests.conftest import Database
from tests.promql import metrics_of
from tests.support import wait_until
from tests.system.harness import ROOT, Server
from tests.system.wire import Line, ask, message, scrape
from tests.unit.test_monitoring import ALERTS, RULES, UP, queries, recorded, rules

STATUS: Final = (sys.executable, "-m", "prefork_ads", "status")
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": str(ROOT)}
UNKNOWN: Final = "0190163d-8694-739b-aea5-966c26f8ad99"
# A machine that is busy with something else must not turn an answer into a 503.
PATIENT: Final = ("--read-timeout-s", "30")
# What a watch on a terminal begins and ends with: its other screen, and back.
ENTER, LEAVE = b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"


def status(*arguments: str, columns: int = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*STATUS, *arguments],
        env={**ENVIRONMENT, "COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def report(server: Server) -> dict[str, Any]:
    """What it says of one server, for programs."""
    said = status("--json", "--port", str(server.port))
    content = json.loads(said.stdout)
    [found] = content["servers"]
    assert content["healthy"] == found["healthy"] == (said.returncode == 0)
    assert found["healthy"] == (not found["problems"])
    result: dict[str, Any] = found
    return result


def wait_for_problem(server: Server, words: str) -> None:
    wait_until(lambda: words in " ".join(report(server)["problems"]), words, 40)


def wait_until_healthy(server: Server) -> None:
    wait_until(lambda: not report(server)["problems"], "a healthy server", 40)


# -- status ----------------------------------------------------------------------------------------


def test_a_server_that_is_well(database: Database) -> None:
    """For programs, and for people at two widths."""
    with Server(*PATIENT, dsn=database.dsn, workers=2) as server:
        with Line(server.port) as line:
            for _ in range(20):
                assert line.ask(message("/log?a=1")).status == 204
            for _ in range(5):
                assert line.ask(message(f"/ad?id={UNKNOWN}")).status == 204
            wait_until_healthy(server)
            # Nobody waits for the keeper: the server is up, and healthy, without it.
            server.wait_for_line(r"keeper pid=\d+ ready")
            found = report(server)
        assert found["url"] == server.url
        assert found["version"]
        assert (found["master_pid"], found["master_alive"]) == (server.pid, True)
        assert found["master_memory_bytes"] > 0
        assert (found["slots"], found["slots_open"]) == (2, 2)
        assert [(w["slot"], w["pid"], w["state"]) for w in found["workers"]] == [
            (slot, server.worker(slot), "ready") for slot in (0, 1)
        ]
        assert sum(worker["connections"] for worker in found["workers"]) <= 1
        assert all(worker["memory_bytes"] > 0 for worker in found["workers"])
        assert found["keeper"]["state"] == "ready"
        assert (found["endpoints"]["log"]["total"], found["endpoints"]["ad"]["total"]) == (20, 5)
        assert sum(found["respawns"].values()) == 0

        for columns in (80, 120):
            said = status("--port", str(server.port), columns=columns)
            assert (said.returncode, said.stderr) == (0, "")
            lines = said.stdout.splitlines()
            assert max(map(len, lines)) <= columns
            assert re.fullmatch(rf"prefork-ads \S+  {server.url} +healthy", lines[0])
            assert f"master {server.pid}  up " in lines[1]
            for label in ("/ad", "/log", "lookups", "inserts", "journal", "database", "respawns"):
                assert any(line.startswith(f"{label} ") for line in lines[2:])
            for slot in (0, 1):
                pid = server.worker(slot)
                assert sum(bool(re.match(rf"{slot} +ready +1 +{pid} ", one)) for one in lines) == 1


def test_rates_and_times_are_those_between_two_looks(database: Database) -> None:
    with Server(dsn=database.dsn, workers=1) as server:
        watching = subprocess.Popen(
            [*STATUS, "--json", "--watch", "0.2", "--port", str(server.port)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert watching.stdout is not None
            with Line(server.port) as line:

                def rates() -> tuple[float, float | None]:
                    assert watching.stdout is not None
                    [found] = json.loads(watching.stdout.readline())["servers"]
                    log = found["endpoints"]["log"]
                    by_slot = sum(worker["requests_per_s"] for worker in found["workers"])
                    assert by_slot == pytest.approx(log["per_s"])
                    return float(log["per_s"]), log["p50_s"]

                def asked() -> bool:
                    for _ in range(50):
                        line.ask(message("/log?a=1"))
                    per_s, p50_s = rates()
                    return per_s > 0 and p50_s is not None

                # Not in one look as in the other: a request is counted, and what it took when its answer
                # has left, and a look may come in between.
                wait_until(asked, "a rate and a time", 30)
                wait_until(lambda: rates() == (0.0, None), "neither when nobody asks", 30)
            watching.send_signal(signal.SIGINT)
            assert watching.wait(30) == 0
        finally:
            watching.kill()
            watching.communicate()


def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = status("--port", port)
        assert said.returncode == 3
        assert said.stderr.startswith(f"prefork-ads: error: No server on port {port} runs")
        assert json.loads(status("--json", "--port", port).stdout) == {
            "healthy": False,
            "servers": [],
        }


def test_two_servers_are_told_apart(database: Database) -> None:
    with Server(dsn=database.dsn, workers=1) as one, Server(dsn=database.dsn, workers=1) as two:
        everything = json.loads(status("--json").stdout)["servers"]
        # Others may run on this machine.
        assert {one.url, two.url} <= {found["url"] for found in everything}
        assert report(one)["master_pid"] == one.pid
        assert report(two)["master_pid"] == two.pid


def test_a_server_that_hangs_altogether(database: Database) -> None:
    """Master and workers stand still: whoever asked them would wait for ever.

    It is told by their silence, long before the time in which a worker is killed for it.
    """
    with Server("--worker-timeout-s", "300", dsn=database.dsn, workers=2) as server:
        wait_until_healthy(server)
        pids = [server.pid, server.worker(0), server.worker(1)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_for_problem(server, f"Slot 1 (pid {pids[2]}): no sign of life for ")
            said = status("--port", str(server.port))
            assert said.returncode == 1
            assert "NEEDS ATTENTION" in said.stdout.splitlines()[0]
            assert f"! Slot 0 (pid {pids[1]}): no sign of life for " in said.stdout
        finally:
            for pid in reversed(pids):
                os.kill(pid, signal.SIGCONT)
        wait_until_healthy(server)


def test_a_server_whose_master_was_killed(database: Database) -> None:
    """Its workers have the board still, and are shown until they have finished."""
    with Server(dsn=database.dsn, workers=1) as server:
        wait_until_healthy(server)
        worker = server.worker(0)
        os.kill(worker, signal.SIGSTOP)
        try:
            server.signal(signal.SIGKILL)
            assert server.wait() == -signal.SIGKILL
            wait_for_problem(server, f"The master (pid {server.pid}) is gone")
            assert report(server)["workers"][0]["pid"] == worker
        finally:
            os.kill(worker, signal.SIGCONT)
        server.assert_nothing_runs()
        assert status("--port", str(server.port)).returncode == 3


def test_a_database_that_is_away(postgres: conftest.Server, database: Database) -> None:
    with Server(dsn=database.dsn, workers=2) as server:
        wait_until_healthy(server)
        assert scrape(server.port)("database_up", role="writer") == 1
        allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        name = sql.Identifier(database.name)
        postgres.execute(allow.format(name, sql.SQL("false")))
        postgres.execute(
            sql.SQL(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}"
            ).format(sql.Literal(database.name))
        )
        wait_for_problem(server, "2 of 2 workers have no connection to PostgreSQL for writing")
        wait_for_problem(server, "2 of 2 workers have no connection to PostgreSQL for reading")
        metrics = scrape(server.port)
        for role in ("reader", "writer"):
            assert metrics("database_up", role=role) == 0
            assert metrics("database_connections", role=role) == 0
        postgres.execute(allow.format(name, sql.SQL("true")))
        wait_until_healthy(server)


def test_who_reads_only_the_beginning(database: Database) -> None:
    """As `| head` does: no traceback, and it ends."""
    with Server(dsn=database.dsn, workers=1) as server:
        watching = subprocess.Popen(
            [*STATUS, "--watch", "0.2", "--port", str(server.port)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", watching.stdout.readline())
        watching.stdout.close()
        with watching.stderr:
            assert watching.stderr.read() == ""
        watching.wait(30)


# -- on a terminal ---------------------------------------------------------------------------------


class Terminal:
    """A watch in a terminal of its own, and everything it has written."""

    def __init__(self, server: Server, columns: int, lines: int) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(columns, lines)
        self.process = subprocess.Popen(
            [*STATUS, "--watch", "0.2", "--port", str(server.port)],
            env={name: value for name, value in ENVIRONMENT.items() if name != "COLUMNS"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
        )
        os.close(theirs)
        self.written = b""

    def resize(self, columns: int, lines: int) -> None:
        """The kernel tells whoever runs there."""
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)

    def type(self, key: bytes) -> None:
        os.write(self._ours, key)

    def read(self) -> bytes:
        try:
            while select.select([self._ours], [], [], 0)[0]:
                self.written += os.read(self._ours, 65536)
        except OSError:
            pass  # everybody there has gone
        return self.written

    def frames(self) -> list[list[str]]:
        """What was shown, by frame and line; the last frame may be incomplete."""
        frames = self.read().split(b"\x1b[H")[1:]
        # Of the last one there may be half a character.
        plain = [
            re.sub(rb"\x1b\[[?\d]*[a-zA-Z]", b"", frame).decode(errors="replace")
            for frame in frames
        ]
        return [frame.split("\r\n") for frame in plain]

    def wait_for_frame(self, words: str) -> list[str]:
        """The next complete frame that has these words."""
        seen = len(self.frames())

        def found() -> list[str] | None:
            return next((one for one in self.frames()[seen:-1] if words in "\n".join(one)), None)

        frame = wait_until(found, words, 40)
        assert frame is not None
        return frame

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(server: Server, columns: int, lines: int) -> Iterator[Terminal]:
    it = Terminal(server, columns, lines)
    try:
        yield it
    finally:
        it.close()


def test_a_terminal_is_left_as_it_was(database: Database) -> None:
    """Drawn in place on its other screen, as wide as it is, until Ctrl-C."""
    with Server(dsn=database.dsn, workers=2) as server, terminal(server, 80, 30) as screen:
        frame = screen.wait_for_frame("healthy")
        assert max(map(len, frame)) <= 80
        assert frame[-1].endswith("UTC  Ctrl-C ends")
        screen.resize(120, 30)
        wide = screen.wait_for_frame("JOURNAL")
        assert 80 < max(map(len, wide)) <= 120
        # Too low for everything: no line scrolls away.
        screen.resize(80, 10)
        low = screen.wait_for_frame("too small")
        assert len(low) <= 10
        screen.type(b"\x03")
        assert screen.process.wait(30) == 0
        written = screen.read()
        assert written.startswith(ENTER)
        assert written.endswith(LEAVE)
        assert written.count(ENTER) == written.count(LEAVE) == 1


def test_a_terminal_is_the_shells_while_the_watch_is_stopped(database: Database) -> None:
    """Ctrl-Z, and `fg` afterwards."""
    with Server(dsn=database.dsn, workers=1) as server, terminal(server, 80, 30) as screen:
        screen.wait_for_frame("healthy")
        # Without a shell there is nobody to hand the terminal to, so the kernel would not stop us for
        # Ctrl-Z: an orphaned process group never stops by that. What we do about it is what counts.
        screen.process.send_signal(signal.SIGTSTP)
        wait_until(lambda: LEAVE in screen.read(), "the terminal to be left", 30)
        screen.process.send_signal(signal.SIGCONT)
        screen.wait_for_frame("healthy")
        screen.process.send_signal(signal.SIGTERM)
        assert screen.process.wait(30) == 0
        written = screen.read()
        assert written.count(ENTER) == written.count(LEAVE) == 2
        assert written.endswith(LEAVE)


# -- metrics ---------------------------------------------------------------------------------------


def test_the_dashboard_and_the_rules_find_everything(database: Database) -> None:
    """In /metrics of a server that runs, as Prometheus reads it."""
    with Server(dsn=database.dsn, workers=1) as server:
        there = {name for name, _, _ in scrape(server.port).samples} | recorded() | {UP}
        expressions = [rule["expr"] for path in (RULES, ALERTS) for rule in rules(path)]
        for expression in [*expressions, *queries()]:
            assert metrics_of(expression) <= there, expression


def test_metrics_go_on_when_a_worker_is_killed(database: Database) -> None:
    """Nothing that was counted is lost or counted twice, and the death is counted by its cause."""
    with Server(*PATIENT, dsn=database.dsn, workers=1) as server:
        for _ in range(10):
            assert ask(server.port, message("/log?a=1")).status == 204
        assert ask(server.port, message(f"/ad?id={UNKNOWN}")).status == 204
        assert ask(server.port, message("/c/none")).status == 403
        wait_until(lambda: scrape(server.port)("log_rows_total") == 11, "all rows written", 40)
        before = scrape(server.port)
        assert before("request_duration_seconds_count", endpoint="log") == 10
        assert before("request_duration_seconds_count", endpoint="ad") == 1
        assert before("request_duration_seconds_count", endpoint="track") == 1
        assert before("lookup_duration_seconds_count") == 1
        assert before("lookup_batch_keys_sum") == 1
        assert before("log_batch_rows_sum") == 11
        killed = server.worker(0)
        lines = len(server.lines())
        os.kill(killed, signal.SIGKILL)
        server.wait_for_line(r"worker slot=0 pid=\d+ ready", since=lines, timeout_s=60)
        after = scrape(server.port)
        for name, labels, value in before.samples:
            if name.endswith(("_total", "_count", "_sum", "_bucket")) and "loop" not in name:
                now = sum(v for n, their, v in after.samples if (n, their) == (name, labels))
                assert now >= value, (name, labels)
        assert after("request_duration_seconds_count", endpoint="log") == 10
        assert after("request_duration_seconds_count", endpoint="track") == 1
        assert after("requests_total", endpoint="track", status="403") == 1
        assert after("respawns_total", cause="signal") == 1
        assert after("respawns_total") == 1
        assert after("workers_started_total") == 2
        found = report(server)
        assert found["respawns"]["signal"] == 1


def test_metrics_are_shown_to_this_machine(database: Database) -> None:
    """Not to the world behind a proxy that somebody forgot to name."""
    with Server(dsn=database.dsn, workers=1) as server:
        assert ask(server.port, message("/metrics")).status == 200
        forwarded = message("/metrics", b"X-Forwarded-For: 127.0.0.1")
        assert ask(server.port, forwarded).status == 403
    with Server("--metrics-from", "192.0.2.0/24", dsn=database.dsn, workers=1) as server:
        assert ask(server.port, message("/metrics")).status == 403
        assert ask(server.port, message("/readyz")).status == 200


# -- the log ---------------------------------------------------------------------------------------


def test_the_log_as_json(database: Database) -> None:
    with Server("--log-format", "json", dsn=database.dsn, workers=1) as server:
        server.stop()
        lines = [line for line in server.lines() if not line.startswith(("Try it:", "  curl "))]
        objects = [json.loads(line) for line in lines]
        assert all({"time", "level", "process", "pid", "message"} <= set(line) for line in objects)
        assert {line["pid"] for line in objects if line["process"] == "master"} == {server.pid}
        assert any(line["message"].startswith("ready: 1 workers on http://") for line in objects)
        assert objects[-1]["message"] == "stopped"
        [started] = [
            line
            for line in objects
            if " started generation=" in line["message"] and line.get("child_slot") == 0
        ]
        assert (
            started["message"] == f"worker slot=0 pid={started['child_pid']} started generation=1"
        )


def test_a_log_file_that_is_rotated(database: Database, tmp_path: Path) -> None:
    path, old = tmp_path / "ads.log", tmp_path / "ads.log.1"

    def has(words: str) -> bool:
        return path.exists() and words in path.read_text()

    with Server("--log-file", str(path), dsn=database.dsn, workers=1, serves=False) as server:
        wait_until(lambda: has("ready: 1 workers on"), "the ready line", 60)
        path.rename(old)
        server.signal(signal.SIGUSR1)
        wait_until(lambda: has(f"SIGUSR1: the log goes to {path}"), "a new file", 30)
        server.signal(signal.SIGHUP)
        wait_until(lambda: has("reload: done generation=2"), "the reload", 60)
        server.stop()
        assert has("stopped")
        assert "SIGUSR1" not in old.read_text()


class PipedServer(Server):
    """Its standard error is a pipe that this test reads when it likes."""

    def start(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        self.said = b""
        self.mute = False
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.write_fd,
            cwd=self.folder,
            env=self._environment,
            start_new_session=True,
        )

    def lines(self) -> list[str]:
        try:
            while not self.mute:
                self.said += os.read(self.read_fd, 1 << 20)
        except BlockingIOError:
            pass
        return self.said.decode(errors="replace").split("\n")[:-1]

    def fill(self) -> None:
        """Leave no room in the pipe, without changing it for the server."""
        self.mute = True
        own = os.open(f"/proc/self/fd/{self.write_fd}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            while True:
                os.write(own, b"#" * 63 + b"\n")
        except BlockingIOError:
            os.close(own)


def test_nobody_reads_the_log(database: Database) -> None:
    """The server goes on all the same: it answers, replaces workers, reloads; and tells it later."""
    with PipedServer(dsn=database.dsn, workers=1) as server:
        port = server.port
        # At any moment from here on, also between two of the first lines.
        server.fill()
        server.signal(signal.SIGHUP)
        wait_until(lambda: scrape(port)("workers_started_total") == 2, "the reload", 60)
        worker = report(server)["workers"][0]["pid"]
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: scrape(port)("workers_started_total") == 3, "another worker", 60)
        assert ask(port, message("/log?a=1")).status == 204
        server.mute = False
        server.lines()
        server.signal(signal.SIGUSR1)
        for words in (
            "SIGUSR1: the log goes to",
            "reload: done generation=2",
            f"worker slot=0 pid={worker} killed by SIGKILL",
        ):
            server.wait_for_line(words, timeout_s=60)
        server.stop()
    for fd in (server.read_fd, server.write_fd):
        os.close(fd)
