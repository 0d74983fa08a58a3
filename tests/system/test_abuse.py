"""Clients that take time, places and memory on purpose, and others who are served meanwhile.

How little the others notice is measured by hand (docs/tuning.md): a loaded machine's figures prove nothing.
"""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest

from tests.support import wait_until
from tests.system.harness import Server
from tests.system.wire import Line, ask, message, scrape
from tests.unit.http_bed import read_answers

pytestmark = pytest.mark.once

CROWD: Final = 1000
SPARE_DESCRIPTORS: Final = 200


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def crowd(port: int, number: int, data: bytes) -> Iterator[list[Line]]:
    """So many connections, each with this sent on it, all of them accepted."""
    with ExitStack() as stack:
        before = scrape(port)("connections_total")
        lines = [stack.enter_context(Line(port)) for _ in range(number)]
        for line in lines:
            line.send(data)
        # Not how many are open: on a busy machine the first have had their time when the last arrive.
        wait_until(
            lambda: scrape(port)("connections_total") > before + number,
            "all to be accepted",
            timeout_s=60,
        )
        yield lines


def assert_others_are_served(port: int) -> None:
    with Line(port) as line:
        assert [line.ask(message(f"/log?other={n}")).status for n in range(20)] == [204] * 20


def assert_all_are_gone(port: int) -> None:
    # One is the connection that asks.
    wait_until(lambda: scrape(port)("connections_open") <= 1, "their connections to end", 60)


@pytest.mark.parametrize(
    "part",
    [
        b"GET /log HTTP/1.1\r\nHost: a\r\nX: ",
        b"POST /log HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab",
        b"POST /log HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nab",
    ],
    ids=["header", "body", "chunk"],
)
def test_messages_that_never_end(part: bytes) -> None:
    limits = ("--head-timeout-s", "2", "--body-timeout-s", "2")
    with Server(*limits, workers=1) as server, crowd(server.port, CROWD, part) as lines:
        assert_others_are_served(server.port)
        for line in lines:
            [answer] = read_answers(line.rest())
            assert answer.status == 408
            assert answer.connection == "close"
            line.close()
        assert_all_are_gone(server.port)
        assert scrape(server.port)("requests_refused_total") == CROWD


def test_a_header_byte_by_byte_has_no_more_time() -> None:
    with Server("--head-timeout-s", "1", workers=1) as server, Line(server.port) as line:
        line.send(b"GET /log HTTP/1.1\r\nHost: a\r\n")
        try:
            while True:
                line.send(b"a")
                assert_others_are_served(server.port)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert_all_are_gone(server.port)


def test_idle_connections() -> None:
    request = message("/log?idle")
    with (
        Server("--idle-timeout-s", "3", workers=1) as server,
        crowd(server.port, CROWD, request) as lines,
    ):
        assert_others_are_served(server.port)
        for line in lines:
            [answer] = read_answers(line.rest())
            assert (answer.status, answer.connection) == (204, None), "closed without a word"
            line.close()
        assert_all_are_gone(server.port)


def test_clients_that_ask_and_never_read() -> None:
    """Each asks for megabytes; what the kernel does not take stays in memory, for a while."""
    request = message("/metrics")
    with Server("--send-timeout-s", "2", workers=1) as server, ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.setblocking(False)
            client.send(request * 300)
        assert_others_are_served(server.port)
        assert_all_are_gone(server.port)


def test_a_full_worker() -> None:
    with (
        Server("--max-connections", "100", workers=1) as server,
        crowd(server.port, 99, b"GET") as lines,
        Line(server.port) as last_place,
    ):
        assert last_place.ask(message("/log")).status == 204
        refused = ask(server.port, message("/log"))
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert ask(server.port, message("/healthz")).status == 200
        assert ask(server.port, message("/metrics")).status == 200
        for line in lines[:50]:
            line.close()
        wait_until(lambda: ask(server.port, message("/log")).status == 204, "a free place")
