"""Tracking by the real program: what is counted, once and whatever happens; what is refused."""

import http.client
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.conftest import Database
from tests.support import wait_until
from tests.system.ad_bed import an_ad, fill_catalog, get, path_of
from tests.system.harness import Server
from tests.system.wire import scrape
from tests.unit.tracking_bed import BROWSER

CONNECTIONS: Final = 50
TIMES: Final = 1000


class Replay:
    """One beacon, sent again and again by many connections, until so many were acknowledged."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._path = path
        self._lock = threading.Lock()
        self.acknowledged = 0
        self.broken = 0
        # What is done once so many were acknowledged, before anybody can hear of the next one.
        self.at: tuple[int, Callable[[], None]] = 0, lambda: None

    def run(self) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._work) for _ in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        return threads

    def _work(self) -> None:
        left = TIMES // CONNECTIONS
        while left:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            try:
                while left:
                    connection.request("POST", self._path, headers={"User-Agent": BROWSER})
                    answer = connection.getresponse()
                    answer.read()
                    assert answer.status == 204, answer.status
                    left -= 1
                    with self._lock:
                        self.acknowledged += 1
                        times, act = self.at
                        if self.acknowledged == times:
                            act()
            except (OSError, http.client.HTTPException):
                # Its worker was killed; a browser would not even know.
                with self._lock:
                    self.broken += 1
            finally:
                connection.close()


def rolled_up(database: Database, *names: str) -> tuple[Any, ...]:
    [row] = database.fetch(
        f"SELECT {', '.join(f'coalesce(sum({name}), 0)::int' for name in names)} FROM rollup_hour"
    )
    return row


@pytest.mark.once
def test_a_beacon_that_is_replayed_counts_once(database: Database) -> None:
    """1,000 times from 50 connections at once, while a worker is killed that has taken some of them."""
    fill_catalog(database)
    with Server(dsn=database.dsn, workers=2) as server:
        ad = an_ad(server)
        replay = Replay(server.port, path_of(ad["urls"]["impression"]))
        killed = server.worker(0)
        # By whoever sends the beacons: a test that waited could be woken when all of them are through.
        replay.at = TIMES // 4, lambda: os.kill(killed, signal.SIGKILL)
        threads = replay.run()
        for thread in threads:
            thread.join()
        assert replay.acknowledged == TIMES
        assert replay.broken, "the kill must hit connections"

        def logged() -> int:
            [(count,)] = database.fetch(
                "SELECT count(*) FROM request_log WHERE endpoint = 'impression'"
            )
            return int(count)

        # Whoever killed the worker does not know whether its last ones were acknowledged.
        wait_until(lambda: logged() >= TIMES, "every acknowledged beacon in the log", 30.0)
    assert TIMES <= logged() <= TIMES + replay.broken
    counted = database.fetch("SELECT decision::text, kind, filtered FROM ad_event")
    assert [(one.replace("-", ""), kind, mark) for one, kind, mark in counted] == [
        (ad["decision"], "impression", None)
    ]
    assert rolled_up(database, "fills", "impressions") == (1, 1)
    [(spent,)] = database.fetch("SELECT sum(spend_nanos)::bigint FROM rollup_hour")
    assert spent == 2_500_000


def test_what_follows_an_ad_is_counted(database: Database) -> None:
    """Seen, seen for long enough, clicked, bought: each is a row, and the sums say so."""
    fill_catalog(database)
    with Server(dsn=database.dsn, workers=1) as server:
        ad = an_ad(server)
        urls = {name: path_of(url) for name, url in ad["urls"].items()}
        assert get(server, urls["impression"]).status == 200
        assert get(server, urls["viewable"]).status == 200
        click = get(server, urls["click"], b"Referer: https://news.example/x")
        assert click.status == 302
        place, _, query = click.headers["location"].partition("?")
        assert place == "https://shop.example/landing"
        token = query.partition("&t=")[2]
        order = f"/conv?advertiser=acme&order=A-1&value=12.34&click={token}"
        assert get(server, order).status == 200
        # A page that is loaded again tells of the same order.
        assert get(server, order).status == 200
        metrics = scrape(server.port)
        assert metrics("requests_total", endpoint="track", status="200") == 4
        assert metrics("requests_total", endpoint="track", status="302") == 1
        assert metrics("requests_total", endpoint="track") == 5
        assert metrics("request_duration_seconds_count", endpoint="track") == 5
        wait_until(
            lambda: (
                rolled_up(database, "impressions", "viewable", "clicks", "conversions")
                == (1, 1, 1, 1)
            ),
            "the sums",
            15.0,
        )
    found = database.fetch("SELECT order_id, value_micros, attributed_to FROM conversion")
    assert found == [("A-1", 12_340_000, "click")]


def test_what_was_not_signed_is_refused(database: Database) -> None:
    """No token of somebody's own making counts or leads anywhere, and neither does one too old."""
    fill_catalog(database)
    with Server("--impression-window-s", "1s", dsn=database.dsn, workers=1) as server:
        ad = an_ad(server)
        good = path_of(ad["urls"]["click"])
        bad = good[:-2] + ("AA" if good[-2:] != "AA" else "BB")
        for path in (
            bad,
            good + "A",
            good[:-4],
            "/c/",
            "/c/https://evil.example/",
            "/c//evil.example",
        ):
            answer = get(server, path + "?url=https://evil.example/")
            assert (answer.status, "location" in answer.headers) == (403, False)
        answer = get(server, good + "?url=https://evil.example/&click_url=//evil.example")
        assert answer.headers["location"].startswith("https://shop.example/landing?")
        beacon = path_of(ad["urls"]["impression"])
        wait_until(lambda: get(server, beacon).status == 410, "the end of the impression's window")
        metrics = get(server, "/metrics").body.decode()
        assert 'prefork_ads_tracking_refused_total{reason="altered"} 6' in metrics


@pytest.mark.once
def test_keys_are_rotated_while_tokens_are_about(database: Database) -> None:
    """A new key signs after its minute; what the old one has signed is taken until it is retired."""
    fill_catalog(database)
    with Server(dsn=database.dsn, workers=1) as server:
        old = path_of(an_ad(server)["urls"]["impression"])
        # As if it had been made a while ago, and the new one a minute after it.
        database.execute("UPDATE token_key SET created_at = created_at - interval '1 hour'")
        database.execute("SELECT token_key_add()")
        database.execute("UPDATE token_key SET created_at = created_at - interval '2 minutes'")

        def key_of_next() -> str:
            return path_of(an_ad(server)["urls"]["impression"])[3:6]

        wait_until(lambda: key_of_next() != old[3:6], "a token of the new key", 20.0)
        assert get(server, old).status == 200
        database.execute("UPDATE token_key SET retired_at = now() WHERE id = 0")
        wait_until(lambda: get(server, old).status == 410, "the end of the old key", 20.0)
