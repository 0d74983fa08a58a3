"""Standard output and error when nobody reads them any more, or never did."""

import fcntl
import io
import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefork_ads.cli import wiring
from prefork_ads.config import Config
from prefork_ads.metrics import CELLS, Gauge
from prefork_ads.process import log, spawn, streams
from prefork_ads.process.context import ChildContext, EntryPoint
from prefork_ads.process.scoreboard import Scoreboard


@contextmanager
def broken_stderr() -> Iterator[io.TextIOWrapper]:
    """As it is without -u, and its reader has gone. No fixture: pytest sets sys.stderr for each phase."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", buffering=1) as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield stream
        # Else its end would be an error, too.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, write)
        os.close(nowhere)


def write_in_vain() -> None:
    with pytest.raises(BrokenPipeError):
        sys.stderr.write("a line\n")


def test_what_cannot_be_written_is_forgotten() -> None:
    with broken_stderr() as stream:
        write_in_vain()
        with pytest.raises(BrokenPipeError):
            stream.flush()
        streams.flush()
        sys.stderr.flush()
        assert sys.stderr.fileno() == 2


def test_what_can_be_written_is(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer)
    monkeypatch.setattr(sys, "stdout", stream)
    stream.write("text")
    streams.flush()
    assert sys.stdout is stream
    assert buffer.getvalue() == b"text"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_never_was_is_no_trouble(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, None)
    streams.flush()


@contextmanager
def piped_stderr() -> Iterator[tuple[int, int]]:
    """Descriptor 2 is a pipe, for a while: its two ends. Who is stopped by it is let go after 10 s."""

    def let_go(*_: object) -> None:
        raise AssertionError("it waits for whoever reads standard error")

    kept = os.dup(2)
    read, write = os.pipe()
    before = signal.signal(signal.SIGALRM, let_go)
    try:
        os.dup2(write, 2)
        stream = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            signal.alarm(10)
            yield read, write
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        os.dup2(kept, 2)
        for fd in (kept, read, write):
            os.close(fd)


def test_a_greeting_that_somebody_reads() -> None:
    with piped_stderr() as (read, _):
        before = sorted(Path("/proc/self/fd").iterdir())
        wiring._show("Try it:\n  curl \udcff")
        assert os.read(read, 100) == b"Try it:\n  curl \\udcff\n"
        assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_greeting_that_nobody_reads_leaves_nothing_behind() -> None:
    """What it left would fail every fork of the master, and its exit status."""
    with piped_stderr() as (read, _), Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), read)
        wiring._show("Try it")
        sys.stderr.flush()


def test_a_greeting_is_not_waited_for() -> None:
    """The master shows it when it serves already; a full pipe would stop it for good."""
    with piped_stderr() as (_, write):
        room = fcntl.fcntl(write, fcntl.F_GETPIPE_SZ)
        os.write(write, bytes(room))
        wiring._show("Try it")


def forked(entry_point: EntryPoint) -> int:
    """The status of a child; 99 if it came back from where nobody may come back."""
    board = Scoreboard(counters=CELLS, gauges=len(Gauge))
    seat = board.free_seat()
    assert seat is not None
    context = ChildContext(
        slot=0,
        generation=1,
        config=Config(),
        listeners=[],
        seat=seat,
        scoreboard=board,
        parent_pid=os.getpid(),
        wake_fd=-1,
    )
    here = os.getpid()
    try:
        pid = spawn.spawn("worker 0", context, entry_point, lambda: None)
    finally:
        if os.getpid() != here:
            os._exit(99)
        log.logger.handlers.clear()
        os.close(board.fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_master_forks_although_nobody_reads_what_it_has_said() -> None:
    with broken_stderr():
        write_in_vain()
        assert forked(lambda context: 7) == 7


def test_a_child_ends_although_nobody_reads_what_it_has_said() -> None:
    """It must not come back as a second master."""

    def entry_point(context: ChildContext) -> int:
        write_in_vain()
        return 7

    with broken_stderr():
        assert forked(entry_point) == 7


def test_closed_descriptors_are_given_to_nobody_else() -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.closerange(0, 3)
            streams.take_places()
            null = Path(os.devnull).stat()
            for fd in range(3):
                assert stat.S_ISCHR(os.fstat(fd).st_mode)
                assert os.fstat(fd).st_rdev == null.st_rdev
                assert os.get_inheritable(fd)
            read, write = os.pipe()
            assert min(read, write) > 2
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_open_descriptors_stay_what_they_are() -> None:
    before = [Path(f"/proc/self/fd/{fd}").readlink() for fd in range(3)]
    streams.take_places()
    assert [Path(f"/proc/self/fd/{fd}").readlink() for fd in range(3)] == before
