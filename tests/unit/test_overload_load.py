"""The load of scripts/overload keeps its schedule: where it is late would count as the server's delay."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from overloadlib.alarm import Alarm
from overloadlib.load import Load, Period, Plan

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """Of somebody who answers the requests of one connection at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                while connection.recv(4096):
                    connection.sendall(_ANSWER)

        thread = threading.Thread(target=answer)
        thread.start()
        host, port = listener.getsockname()
        yield host, port
        thread.join()


def test_each_request_is_sent_when_it_is_due(address: tuple[str, int]) -> None:
    plan = Plan(address, (b"GET / HTTP/1.1\r\n\r\n",), 20.0, 1.0, 5.0, 1)
    total = Period()
    for period in Load(plan).run(time.monotonic()):
        total.add(period)
    assert total.good == total.sent > 0
    # The quickest of them all, whatever the machine is busy with: an interval late would be 0.05 s.
    assert min(total.latencies) < 0.025


def test_an_alarm_is_silent_until_it_is_set() -> None:
    alarm = Alarm()
    try:
        with pytest.raises(BlockingIOError):
            alarm.heard()
        # What is over already is not never.
        alarm.set(-1.0)
        deadline = time.monotonic() + 10
        while True:
            try:
                alarm.heard()
                break
            except BlockingIOError:
                assert time.monotonic() < deadline
    finally:
        alarm.close()
