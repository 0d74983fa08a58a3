"""A goal in the real server: with workers killed at random nobody is served beyond it, and it is reached.

Each client asks for an ad and fires its impression, as a page does: again when the connection broke under it,
for a beacon counts once.
"""

import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress

import pytest

from tests.conftest import Database
from tests.support import wait_until
from tests.system.ad_bed import fill_catalog, path_of
from tests.system.harness import Server
from tests.unit.tracking_bed import BROWSER

GOAL = 10_000
WORKERS = 8
LIMIT_S = 200.0  # about 15 on an idle machine
HEADERS = {"User-Agent": BROWSER}


class Pages:
    """Threads that open pages, and know which impressions they have fired."""

    def __init__(self, port: int, at_thousands: Callable[[], None]) -> None:
        """`at_thousands` is called with each thousand of the first impressions, however quickly they come."""
        self._port = port
        self._at_thousands = at_thousands
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.fired: set[str] = set()
        self.nothing = 0

    def __enter__(self) -> "Pages":
        self._threads = [threading.Thread(target=self._work) for _ in range(12)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            with closing(connection):
                try:
                    # A connection stays with one worker; new ones spread over all.
                    for _ in range(50):
                        self._open_page(connection)
                except (OSError, http.client.HTTPException):
                    continue

    def _open_page(self, connection: http.client.HTTPConnection) -> None:
        status, body = _get(connection, "/ad?zone=home-top")
        if status != 200:
            with self._lock:
                self.nothing += 1
            time.sleep(0.02)
            return
        beacon = path_of(json.loads(body)["urls"]["impression"])
        while not self._stop.is_set():
            try:
                status, _ = _get(connection, beacon)
            except (OSError, http.client.HTTPException):
                connection.close()
                continue
            if status < 300:
                with self._lock:
                    self.fired.add(beacon)
                    fired = len(self.fired)
                if fired % 1000 == 0 and fired <= GOAL * 0.8:
                    self._at_thousands()
                return


def _get(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    connection.request("GET", path, headers=HEADERS)
    answer = connection.getresponse()
    return answer.status, answer.read()


def billed(database: Database) -> int:
    rows = database.fetch("SELECT coalesce(sum(impressions), 0)::bigint FROM delivery_day")
    return int(rows[0][0])


@pytest.mark.once
def test_a_goal_is_reached_and_never_exceeded_while_workers_are_killed(database: Database) -> None:
    """8 workers, a goal of 10,000, a worker killed every second or so and with each thousand."""
    fill_catalog(database)
    database.execute("UPDATE campaign SET goal_kind = 'impressions', goal_total = %s", GOAL)
    die = random.Random(4)
    killed: list[int] = []

    def kill() -> None:
        # The last of them may have been killed and not be replaced yet.
        with suppress(ProcessLookupError):
            victim = server.worker(die.randrange(WORKERS))
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    with (
        Server(
            *("--impression-window-s", "5", "--max-events-per-address", "1000000"),
            dsn=database.dsn,
            workers=WORKERS,
        ) as server,
        Pages(server.port, at_thousands=kill) as pages,
    ):
        began = time.monotonic()
        last_s = began
        while billed(database) < GOAL - 50 and time.monotonic() - began < LIMIT_S:
            # While most of it is served; who dies at the very end is only waited for.
            if time.monotonic() - last_s > 1.0 and billed(database) < GOAL * 0.9:
                last_s = time.monotonic()
                kill()
            assert len(pages.fired) <= GOAL
            assert billed(database) <= GOAL
            time.sleep(0.05)
        seconds = time.monotonic() - began
        time.sleep(1.0)
        reached, fired = billed(database), len(pages.fired)
        print(f"{len(killed)} kills, {seconds:.1f} s: {reached} billed, {fired} fired")
    assert len(killed) >= 5
    wait_until(lambda: billed(database) >= fired, "the last impressions to arrive", 30)
    assert GOAL - 50 <= billed(database) <= GOAL
    assert fired <= GOAL
    assert database.fetch("SELECT count(*) FROM ad_event WHERE filtered IS NOT NULL") == [(0,)]
