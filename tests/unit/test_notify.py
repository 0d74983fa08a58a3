"""What the service manager is told, over a path and over an abstract name, and that nothing can fail."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefork_ads.process.notify import Notifier


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
