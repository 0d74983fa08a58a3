"""The real server under load while workers are added, taken away, replaced and held up.

Clients of both kinds ask all the time: such with a connection for each request and such that keep
theirs. None of them may notice anything.
"""

import os
import re
import signal
import time
import urllib.request

import pytest

from tests.conftest import Database
from tests.support import wait_until
from tests.system.clients import PATIENT_DRAIN, Clients
from tests.system.harness import Server

pytestmark = pytest.mark.once

CLIENTS_OF_A_KIND = 6
# Enough to meet each step under load; the promise is measured with ten times as many.
SCALINGS = 4
RELOADS = 2

LOGGED = "SELECT count(*) FROM request_log WHERE params->>'source' = 'lifecycle'"


class Load:
    """Clients of both kinds."""

    def __init__(self, server: Server) -> None:
        self.kinds = [Clients(server.port, keep_alive=keep_alive) for keep_alive in (False, True)]

    def __enter__(self) -> "Load":
        self._running = [clients.running(CLIENTS_OF_A_KIND) for clients in self.kinds]
        for running in self._running:
            running.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for running in reversed(self._running):
            running.__exit__(None, None, None)

    def wait_for_more(self, requests: int) -> None:
        for clients in self.kinds:
            clients.wait_for_more(requests)

    @property
    def answered(self) -> int:
        return sum(clients.answered for clients in self.kinds)

    def assert_unharmed(self) -> None:
        for clients in self.kinds:
            assert clients.failures == []
            assert clients.outcomes["not connected"] == 0


def more(server: Server, slot: int) -> None:
    mark = len(server.lines())
    server.signal(signal.SIGTTIN)
    server.wait_for_line(rf"worker slot={slot} pid=\d+ ready", since=mark, timeout_s=60)


def fewer(server: Server, slot: int) -> None:
    mark = len(server.lines())
    server.signal(signal.SIGTTOU)
    server.wait_for_line(f"worker {slot} is gone, its listener closed", since=mark, timeout_s=60)


def scale_and_reload(server: Server, load: Load, scalings: int, reloads: int) -> None:
    """Half of the scalings by steps that are waited for, half while a reload is under way."""
    for _ in range(scalings // 2):
        load.wait_for_more(50)
        more(server, slot=2)
        load.wait_for_more(50)
        fewer(server, slot=2)
    for number in range(reloads):
        load.wait_for_more(50)
        server.signal(signal.SIGHUP)
        for _ in range(scalings // 2 // reloads):
            more(server, slot=2)
            fewer(server, slot=2)
        server.wait_for_line(f"reload: done generation={number + 2}", timeout_s=60)
    load.wait_for_more(50)


def test_scaling_and_reloads_under_load_fail_no_request(database: Database) -> None:
    with Server(*PATIENT_DRAIN, dsn=database.dsn) as server:
        with Load(server) as load:
            scale_and_reload(server, load, SCALINGS, RELOADS)
        server.stop()
        load.assert_unharmed()
        assert database.fetch(LOGGED)[0][0] == load.answered


def test_recycling_under_load_fails_no_request_and_takes_one_worker_at_a_time(
    database: Database,
) -> None:
    with Server(*PATIENT_DRAIN, "--max-requests", "400", dsn=database.dsn) as server:
        with Load(server) as load:
            wait_until(
                lambda: server.count("is to be recycled: --max-requests") >= 4,
                "several workers to have served enough",
                timeout_s=120,
            )
        server.stop()
        load.assert_unharmed()
        assert most_workers_alive(server.lines()) <= 3
        assert database.fetch(LOGGED)[0][0] == load.answered


def most_workers_alive(lines: list[str]) -> int:
    alive: set[str] = set()
    most = 0
    for line in lines:
        if match := re.search(r"worker slot=\d+ (pid=\d+) (started|exited|killed by)", line):
            alive = alive | {match[1]} if match[2] == "started" else alive - {match[1]}
            most = max(most, len(alive))
    return most


def test_a_busy_worker_is_not_taken_for_a_hung_one(database: Database) -> None:
    timeout_s = 3
    with Server("--worker-timeout-s", str(timeout_s), dsn=database.dsn, workers=1) as server:
        with Load(server) as load:
            # A worker that did not beat because it is busy would be dead twice by then.
            busy_until = time.monotonic() + 2 * timeout_s
            while time.monotonic() < busy_until:
                load.wait_for_more(100)
        server.stop()
        load.assert_unharmed()
        assert server.count("is killed") == 0


def test_a_hung_worker_is_replaced_while_the_other_serves(database: Database) -> None:
    with Server("--worker-timeout-s", "3", dsn=database.dsn) as server:
        clients = Clients(server.port, keep_alive=False)
        with clients.running(CLIENTS_OF_A_KIND):
            clients.wait_for_more(50)
            victim = server.worker(0)
            mark = len(server.lines())
            os.kill(victim, signal.SIGSTOP)
            server.wait_for_line("new connections go to slots 1 of 2", since=mark, timeout_s=60)
            server.wait_for_line(rf"pid={victim} is killed: no heartbeat", since=mark, timeout_s=60)
            server.wait_for_line(r"worker slot=0 pid=\d+ ready", since=mark, timeout_s=60)
            clients.wait_for_more(50)
        # What it had in its hands when it was stopped; who waited in its queue was answered.
        assert len(clients.failures) <= CLIENTS_OF_A_KIND
        assert clients.outcomes["not connected"] == 0
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
            metrics = answer.read().decode()
        assert 'prefork_ads_respawns_total{cause="hung"} 1' in metrics
