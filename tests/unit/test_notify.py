"""What the service manager is told, over a path and over an abstract name, and that nothing can fail.

And when it is told that all is well: the rules of the watchdog need no socket and no waiting.
"""

import contextlib
import math
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefork_ads.process.notify import Notifier, Watchdog


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """A service manager's end of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(5)
        yield receiver


def heard(receiver: socket.socket) -> list[str]:
    return receiver.recv(4096).decode().split("\n")


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_and_stopping_arrive(tmp_path: Path, abstract: bool) -> None:
    path = f"@prefork-ads-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with manager(path.replace("@", "\0") if abstract else path) as receiver:
        notifier = Notifier({"NOTIFY_SOCKET": path})
        notifier.ready("Serving")
        assert heard(receiver) == ["READY=1", "STATUS=Serving"]
        notifier.status("Busy")
        assert heard(receiver) == ["STATUS=Busy"]
        notifier.stopping()
        assert heard(receiver)[0] == "STOPPING=1"
        notifier.still_stopping("Draining", extend_s=1.5)
        assert heard(receiver) == ["STATUS=Draining", "EXTEND_TIMEOUT_USEC=1500000"]
        notifier.alive()
        assert heard(receiver) == ["WATCHDOG=1"]


def test_one_that_is_silent_says_nothing(tmp_path: Path) -> None:
    """Of two masters one speaks: what the other said would be refused, or believed."""
    path = str(tmp_path / "notify")
    with manager(path) as receiver:
        notifier = Notifier({"NOTIFY_SOCKET": path})
        notifier.main_pid(4711)
        notifier.silent = True
        notifier.stopping()
        notifier.silent = False
        notifier.ready("Serving")
        assert heard(receiver)[0] == "MAINPID=4711"
        assert heard(receiver)[0] == "READY=1"


def test_reloading_carries_the_time_on_the_monotonic_clock(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with manager(path) as receiver:
        before_us = time.monotonic_ns() // 1000
        Notifier({"NOTIFY_SOCKET": path}).reloading()
        words = heard(receiver)
    assert words[0] == "RELOADING=1"
    match = re.fullmatch(r"MONOTONIC_USEC=(\d+)", words[1])
    assert match is not None
    assert before_us <= int(match[1]) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize(
    "address", ["", "relative", "vsock:2:1234", "/no/such/socket", "/" + "x" * 500]
)
def test_nobody_to_talk_to_is_no_failure(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address} if address else {})
    notifier.ready("Serving")
    notifier.stopping()


def test_a_manager_that_does_not_read_does_not_hold_us_up(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with manager(path) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    filler.sendto(b"x", path)
        started_s = time.monotonic()
        Notifier({"NOTIFY_SOCKET": path}).ready("Serving")
        assert time.monotonic() - started_s < 5


# The watchdog.


def watchdog(interval_s: float = 10.0) -> Watchdog:
    return Watchdog({"WATCHDOG_USEC": str(int(interval_s * 1e6)), "WATCHDOG_PID": "7"}, 7)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": ""},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "²"},
        {"WATCHDOG_USEC": "9" * 5000},
        {"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "8"},
    ],
)
def test_without_a_watchdog_nothing_is_ever_due(environ: dict[str, str]) -> None:
    dog = Watchdog(environ, 7)
    dog.start(100.0)
    assert dog.due_at_s == math.inf


def test_a_watchdog_for_whoever_asks_is_for_us() -> None:
    assert Watchdog({"WATCHDOG_USEC": "2500000"}, 7).interval_s == 2.5


def test_it_is_fed_at_half_its_interval() -> None:
    dog = watchdog(10.0)
    assert dog.due_at_s == math.inf, "the server is not up yet"
    dog.start(100.0)
    assert dog.due_at_s == 100.0
    assert dog.feed(100.0)
    assert dog.due_at_s == 105.0
    dog.stop()
    assert dog.due_at_s == math.inf


def test_a_slot_without_a_worker_for_a_moment_changes_nothing() -> None:
    dog = watchdog(10.0)
    dog.see([0, 1], [0, 1], 100.0)
    dog.see([0, 1], [0], 101.0)
    assert dog.feed(109.9)
    dog.see([0, 1], [0, 1], 110.0)
    assert dog.feed(119.0)


def test_a_slot_without_a_worker_for_long_makes_it_hungry_until_there_is_one() -> None:
    dog = watchdog(10.0)
    dog.see([0, 1, 2], [0, 1, 2], 100.0)
    dog.see([0, 1, 2], [1], 111.0)
    assert dog.starving(111.0) == [0, 2]
    assert not dog.feed(111.0)
    assert dog.hungry
    assert dog.due_at_s == 116.0, "it is looked at again all the same"
    dog.see([0, 1, 2], [0, 1, 2], 112.0)
    assert dog.feed(116.0)
    assert not dog.hungry


def test_a_new_slot_gets_an_interval_to_become_ready_and_one_that_is_gone_is_forgotten() -> None:
    dog = watchdog(10.0)
    dog.see([0], [0], 100.0)
    dog.see([0, 1], [0], 120.0)
    assert dog.feed(120.0)
    dog.see([0, 1], [0], 131.0)
    assert dog.starving(131.0) == [1]
    dog.see([0], [0], 132.0)
    assert dog.feed(132.0)
