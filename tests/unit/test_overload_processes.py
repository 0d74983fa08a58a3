"""The processes of scripts/overload: Ctrl-C at the worst moment leaves none behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
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
    """As in a terminal, whatever this process was started by."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
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
    # It did not inherit that signals are held back.
    assert begun[0].returncode == -signal.SIGTERM


def test_what_came_before_is_not_held_back_with_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler is run by the call that holds back, when that has been done."""
    set_mask = signal.pthread_sigmask

    def hold_back_and_raise(how: int, which: Sequence[int]) -> set[int]:
        held = set_mask(how, which)
        if how == signal.SIG_BLOCK and which:
            raise KeyboardInterrupt
        return set(held)

    monkeypatch.setattr(signal, "pthread_sigmask", hold_back_and_raise)
    with pytest.raises(KeyboardInterrupt), held_back():
        raise AssertionError
    assert not set_mask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    reached = []

    def go_on_after_ctrl_c() -> None:
        with held_back():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        go_on_after_ctrl_c()
    assert reached == ["end"]
