"""The real server under load while it is stopped, reloaded and robbed of its workers."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.support import wait_until
from tests.system.clients import PATIENT_DRAIN, Clients
from tests.system.harness import Server, wait_for_mask

LOG = b"GET /log?source=queue HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
LOGGED = "SELECT count(*) FROM request_log WHERE params->>'source' = %s"


def logged(database: Database, source: str) -> int:
    return int(database.fetch(LOGGED, source)[0][0])


def status_of(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(4096), b"")).split(b"\r\n")[0]


def test_a_stop_under_load_fails_no_request_and_loses_no_row(database: Database) -> None:
    with Server(dsn=database.dsn) as server:
        clients = Clients(server.port, keep_alive=False)
        with clients.running(8):
            clients.wait_for_more(500)
            server.stop()
            # Each of them ends when it is refused, and may come to try again only after the server's end.
            wait_until(lambda: clients.outcomes["not connected"] >= 8, "the end of every client")
        assert clients.failures == []
        assert clients.outcomes["not connected"] == 8
        assert logged(database, "lifecycle") == clients.answered


def test_a_stop_under_load_answers_keep_alive_clients_to_the_end(database: Database) -> None:
    with Server(*PATIENT_DRAIN, dsn=database.dsn) as server:
        clients = Clients(server.port, keep_alive=True)
        with clients.running(8):
            clients.wait_for_more(500)
            server.stop()
        assert clients.failures == []
        assert logged(database, "lifecycle") == clients.answered


@pytest.mark.parametrize("keep_alive", [False, True], ids=["per-request", "keep-alive"])
def test_reloads_under_load_fail_no_request(database: Database, keep_alive: bool) -> None:
    with Server(*PATIENT_DRAIN, dsn=database.dsn) as server:
        clients = Clients(server.port, keep_alive=keep_alive)
        with clients.running(6):
            for generation in (2, 3, 4):
                clients.wait_for_more(200)
                server.signal(signal.SIGHUP)
                server.wait_for_line(f"reload: done generation={generation}", timeout_s=60)
            clients.wait_for_more(200)
        server.stop()
        assert clients.failures == []
        assert clients.outcomes["not connected"] == 0
        assert logged(database, "lifecycle") == clients.answered


def test_connections_waiting_for_a_killed_worker_are_answered(database: Database) -> None:
    with Server(dsn=database.dsn) as server:
        victim = server.worker(0)
        os.kill(victim, signal.SIGSTOP)
        wait_until(lambda: _state(victim) == "T", "the worker to stand still")
        waiting = [socket.create_connection(("127.0.0.1", server.port), 30) for _ in range(200)]
        for connection in waiting:
            connection.sendall(LOG)
        os.kill(victim, signal.SIGKILL)
        assert {status_of(connection) for connection in waiting} == {b"HTTP/1.1 204 No Content"}
        server.stop()
        assert logged(database, "queue") == 200


def test_a_worker_killed_under_load_takes_down_only_what_it_had_in_its_hands(
    database: Database,
) -> None:
    with Server(dsn=database.dsn) as server:
        clients = Clients(server.port, keep_alive=False)
        with clients.running(8):
            for _ in range(3):
                clients.wait_for_more(300)
                mark = len(server.lines())
                os.kill(server.worker(0), signal.SIGKILL)
                server.wait_for_line(r"worker slot=0 pid=\d+ ready", since=mark)
            clients.wait_for_more(300)
        # At most one connection of each client was accepted by the victim.
        assert len(clients.failures) <= 3 * 8
        assert clients.outcomes["not connected"] == 0


def test_the_queue_of_each_slot_is_as_long_as_configured(database: Database) -> None:
    with Server("--backlog", "321", dsn=database.dsn) as server:
        longest = min(321, int(Path("/proc/sys/net/core/somaxconn").read_text()))
        with socket.create_connection(("127.0.0.1", server.port)):
            pass
        assert _backlogs(server.port) == [longest, longest]


def test_a_master_killed_under_load_fails_no_request(database: Database) -> None:
    with Server(dsn=database.dsn) as server:
        clients = Clients(server.port, keep_alive=False)
        with clients.running(8):
            clients.wait_for_more(500)
            server.signal(signal.SIGKILL)
            server.wait()
            server.assert_nothing_runs()
        assert clients.failures == []
        assert logged(database, "lifecycle") == clients.answered


def test_a_worker_that_hangs_does_not_outlive_a_killed_master(database: Database) -> None:
    """Nor does it keep the port, or what it has acknowledged."""
    with Server("--worker-timeout-s", "2", dsn=database.dsn, workers=1) as server:
        server.wait_for_line("keeper pid=.* ready")
        port, victim = server.port, server.worker(0)
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.sendall(LOG)
            assert status_of(connection) == b"HTTP/1.1 204 No Content"
        os.kill(victim, signal.SIGSTOP)
        server.signal(signal.SIGKILL)
        server.wait()
        server.assert_nothing_runs()
        assert server.count(rf"keeper\[\d+\] error: worker slot=0 pid={victim} is killed") == 1
        assert logged(database, "queue") == 1
    with Server("--port", str(port), dsn=database.dsn, workers=1) as successor:
        assert successor.port == port


def test_nothing_is_left_when_the_master_of_an_embedded_database_is_killed() -> None:
    with Server() as server:
        assert len(server.processes()) >= 5
        server.signal(signal.SIGKILL)
        server.wait()
        server.assert_nothing_runs()


def test_an_embedded_database_that_dies_is_started_again() -> None:
    with Server() as server:
        postgres = int((server.folder / "data/postgres/postmaster.pid").read_text().split()[0])
        os.kill(postgres, signal.SIGKILL)
        server.wait_for_line(rf"service postgres pid={postgres} killed by SIGKILL")
        server.wait_for_line(r"service postgres pid=\d+ started again", timeout_s=60)
        connection = socket.create_connection(("127.0.0.1", server.port), 30)
        connection.sendall(LOG)
        assert status_of(connection) == b"HTTP/1.1 204 No Content"


def test_an_impatient_interrupt_does_not_cut_off_the_end_of_an_embedded_database() -> None:
    with Server() as server:
        server.wait_for_line(r"keeper pid=\d+ ready")
        postgres = int((server.folder / "data/postgres/postmaster.pid").read_text().split()[0])
        # Cannot begin its shutdown, so the master waits for it.
        os.kill(postgres, signal.SIGSTOP)
        server.signal(signal.SIGINT)
        server.wait_for_line("stopped$")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
            wait_for_mask(server.pid, "SigIgn", number)
            server.signal(number)
        assert server.running
        os.kill(postgres, signal.SIGCONT)
        assert server.wait() == 0
        assert server.count("Traceback|Aborted") == 0


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _backlogs(port: int) -> list[int]:
    """The longest each listener's queue may get, asked of the kernel by `ss`."""
    told = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True, check=True)
    return [int(line.split()[2]) for line in told.stdout.decode().splitlines()]
