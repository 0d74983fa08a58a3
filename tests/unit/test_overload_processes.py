"""The processes of scripts/overload: Ctrl-C at the worst moment leaves none behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from overloadlib import server
from overloadlib.crowd import gathered
from overloadlib.load import Plan
from overloadlib.phases import run_phase
from overloadlib.processes import held_back
from overloadlib.slow import Slowed

_MINUTE = Plan(("127.0.0.1", 9), (b"GET / HTTP/1.1\r\n\r\n",), 1.0, 60.0, 1.0, 1)


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """As in a terminal, whatever this process was started by; and by any of its threads."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)
    other.start()
    yield
    ended.set()
    other.join()
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Who was forked; at once after it there is a Ctrl-C, for the parent alone."""
    children: list[int] = []
    fork = os.fork

    def fork_and_interrupt() -> int:
        child = fork()
        if child:
            children.append(child)
            os.kill(os.getpid(), signal.SIGINT)
        return child

    monkeypatch.setattr(os, "fork", fork_and_interrupt)
    return children


def is_gone(child: int) -> bool:
    """And was waited for."""
    try:
        os.kill(child, 0)
    except ProcessLookupError:
        return True
    os.kill(child, signal.SIGKILL)
    return False


def run_a_minute() -> None:
    run_phase("peak", _MINUTE, server.Server(("127.0.0.1", 9), None, None), [0], Slowed(()))


def gather_a_crowd() -> None:
    with gathered(("127.0.0.1", 9), 2, [0], most=10):
        raise AssertionError


@pytest.mark.parametrize("run", [run_a_minute, gather_a_crowd])
def test_ctrl_c_right_behind_a_fork_leaves_no_child(
    run: Callable[[], None], forked: list[int]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(forked) == 1
    assert all(map(is_gone, forked))
    assert not multiprocessing.active_children()


def test_ctrl_c_right_behind_the_start_of_a_server_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def popen_and_interrupt(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        begun.append(popen(*arguments, **options))  # type: ignore[call-overload]
        os.kill(os.getpid(), signal.SIGINT)
        return begun[0]

    monkeypatch.setattr(subprocess, "Popen", popen_and_interrupt)
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(server, "_program", lambda: sleeper)
    monkeypatch.setattr(server, "STOP_LIMIT_S", 20.0)
    with (
        pytest.raises(KeyboardInterrupt),
        server.started(sorted(os.sched_getaffinity(0)), []),
    ):
        raise AssertionError
    assert begun[0].returncode == -signal.SIGTERM


def test_a_signal_while_handlers_are_put_back_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other handler is not back yet."""
    set_handler = signal.signal
    before = signal.getsignal(signal.SIGTERM)

    def set_and_send(number: int, handler: object) -> object:
        set_handler(number, handler)  # type: ignore[arg-type]
        if handler is signal.default_int_handler:
            os.kill(os.getpid(), signal.SIGTERM)
        return None

    monkeypatch.setattr(signal, "signal", set_and_send)
    with pytest.raises(KeyboardInterrupt), held_back():
        pass
    set_handler(signal.SIGTERM, before)


def test_a_child_that_is_ended_before_it_says_who_it_is_ends() -> None:
    with held_back():
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    reached = []

    def go_on_after_ctrl_c() -> None:
        with held_back():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        go_on_after_ctrl_c()
    assert reached == ["end"]
