"""The server's own log: what a line says, and that nobody waits for whoever reads it.

A test that waited would hang: that is how it fails.
"""

import asyncio
import fcntl
import json
import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork_ads.errors import ConfigError
from prefork_ads.process import log
from prefork_ads.process.log import configure, logger, open_log
from prefork_ads.process.log_sink import ROOM_BYTES, LogSink, Write, asking_writer, writer_for
from tests.support import wait_until

LINE = b"x" * 99 + b"\n"
# More than a pipe (64 KiB) and the queue behind it hold.
TOO_MANY = 2 * (ROOM_BYTES + (64 << 10)) // len(LINE)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its reading and its writing end."""
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """The log goes there for the time of a test."""
    loggers = [logger, *map(logging.getLogger, log._LIBRARIES)]
    before = [(one.handlers[:], one.level, one.propagate) for one in loggers]
    yield tmp_path / "the.log"
    open_log("text", None)
    logging.captureWarnings(False)
    for one, was in zip(loggers, before, strict=True):
        one.handlers[:], one.level, one.propagate = was


def read_all(fd: int) -> bytes:
    """What is in the pipe now."""
    os.set_blocking(fd, False)
    data = b""
    try:
        while piece := os.read(fd, 1 << 20):
            data += piece
    except BlockingIOError:
        pass
    return data


def fill(write: Write, line: bytes) -> int:
    """Write until nothing more is taken; how many bytes were."""
    written = 0
    while True:
        try:
            written += write(line)
        except BlockingIOError:
            return written


def is_blocking(fd: int) -> bool:
    return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK


# -- what a line says ------------------------------------------------------------------------------


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_of_text(file: Path) -> None:
    """The contract that operators and the system tests grep by."""
    open_log("text", file)
    configure("worker-3")
    logger.info("served %d", 7)
    logger.warning("careful", extra={"not": "shown"})
    first, second = file.read_text().splitlines()
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(rf"{time} worker-3\[{os.getpid()}\] served 7", first)
    assert re.fullmatch(rf"{time} worker-3\[{os.getpid()}\] warning: careful", second)


def test_a_json_object_a_line(file: Path) -> None:
    open_log("json", file)
    configure("worker-3")
    logger.info("two\nlines and %s", "a \ud800 half character", extra={"child": 5})
    configure("keeper")
    logger.error("ü")
    worker, keeper = objects(file)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", worker.pop("time"))
    assert worker == {
        "level": "info",
        "process": "worker",
        "slot": 3,
        "pid": os.getpid(),
        "message": "two\nlines and a \ud800 half character",
        "child": 5,
    }
    assert (keeper["process"], keeper["level"], keeper["message"]) == ("keeper", "error", "ü")
    assert "slot" not in keeper


def test_a_failure_has_its_traceback(file: Path) -> None:
    for log_format in ("json", "text"):
        open_log(log_format, file)
        configure("master")
        try:
            raise ValueError("so")
        except ValueError:
            logger.exception("it failed")
    first, *text = file.read_text().splitlines()
    exception = json.loads(first)["exception"]
    assert exception.startswith("Traceback")
    assert exception.endswith("ValueError: so")
    assert text[0].endswith("error: it failed")
    assert text[-1] == "ValueError: so"


def test_what_libraries_say_is_in_the_log_too(file: Path) -> None:
    """Python's own way is standard error, in another form, and waited for."""
    open_log("json", file)
    configure("worker-1")
    loop = asyncio.new_event_loop()
    loop.default_exception_handler({"message": "nobody asked", "exception": ValueError("no")})
    loop.close()
    warnings.showwarning("never awaited", RuntimeWarning, "a.py", 7, None, "line")
    logging.getLogger("asyncio").info("selected by itself")
    loops, warning = objects(file)
    assert (loops["level"], loops["slot"]) == ("error", 1)
    assert loops["message"].startswith("nobody asked")
    assert "ValueError: no" in loops["exception"]
    assert (warning["level"], warning["message"]) == (
        "warning",
        "a.py:7: RuntimeWarning: never awaited\n  line",
    )


def test_members_of_its_own_stay_what_they_are(file: Path) -> None:
    """`extra=` may add, not replace; what is no JSON is shown as text."""
    open_log("json", file)
    configure("master")
    logger.info("x", extra={"level": "forged", "where": file})
    [line] = objects(file)
    assert (line["level"], line["where"]) == ("info", str(file))


# -- nobody waits ----------------------------------------------------------------------------------


def test_a_full_pipe_drops_lines_and_counts_them(pipe: tuple[int, int]) -> None:
    read, write = pipe
    sink = LogSink(fd=write)
    for _ in range(TOO_MANY):
        sink.add(LINE)
    dropped = sink.take_dropped()
    assert dropped > 0
    assert sink.take_dropped() == 0
    assert sink.take_untold() == 0, "there is no room to tell"
    # Somebody reads again: what waited comes, whole and in order of arrival.
    got = b""
    while piece := read_all(read):
        got += piece
        sink.push()
    assert got == LINE * (TOO_MANY - dropped)
    assert sink.take_untold() == dropped


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_others_who_write_there_are_left_alone(kind: str) -> None:
    """O_NONBLOCK on the shared open file would break the shell and PostgreSQL beside us."""
    reader, writer = socket.socketpair() if kind == "socket" else map(open_end, os.pipe(), "rw")
    with reader, writer:
        write, close = writer_for(writer.fileno())
        assert fill(write, LINE) > 0
        assert is_blocking(writer.fileno())
        close()


def open_end(fd: int, mode: str) -> Any:
    return os.fdopen(fd, f"{mode}b", buffering=0)


def test_a_pipe_that_cannot_be_opened_again_is_asked_first(pipe: tuple[int, int]) -> None:
    read, write = pipe
    ask = asking_writer(write)
    written = fill(ask, b"y" * 100_000)
    assert len(read_all(read)) == written
    assert ask(b"again") == 5


def test_a_reader_who_has_gone_costs_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    read, write = pipe
    sink = LogSink(fd=write)
    os.close(read)
    sink.add(LINE)
    assert sink.take_dropped() == 1


def test_no_standard_error_at_all(pipe: tuple[int, int]) -> None:
    _, write = pipe
    os.close(write)
    sink = LogSink(fd=write)
    sink.add(LINE)
    assert sink.take_dropped() == 1


def test_a_line_that_comes_while_one_is_written_waits_for_its_turn(tmp_path: Path) -> None:
    """As when the garbage collector runs just then, and destroys a task that failed unnoticed."""
    sink = LogSink(tmp_path / "the.log")
    write, late = sink._write, [b"late\n"]

    def interrupted(line: bytes) -> int:
        written = write(line)
        while late:
            sink.add(late.pop())
        return written

    sink._write = interrupted
    for line in (b"first\n", b"last\n"):
        sink.add(line)
    sink.close()
    assert (tmp_path / "the.log").read_bytes() == b"first\nlate\nlast\n"
    assert sink._waiting_bytes == 0


def test_a_line_longer_than_a_pipe_comes_whole(pipe: tuple[int, int]) -> None:
    read, write = pipe
    sink = LogSink(fd=write)
    long = b"z" * 200_000 + b"\n"
    sink.add(long)
    sink.add(LINE)
    got = read_all(read)
    while len(got) < len(long) + len(LINE):
        sink.push()
        got += read_all(read)
    assert got == long + LINE


def test_missing_lines_are_told_of(pipe: tuple[int, int], file: Path) -> None:
    """In the log itself, as soon as there is room for it."""
    open_log("text", file)
    configure("worker-0")
    read, write = pipe
    log._log.handler.sink = LogSink(fd=write)
    for _ in range(TOO_MANY):
        logger.info("%s", "x" * 60)
    dropped = log.push()
    assert dropped > 0
    got = b""
    while piece := read_all(read):
        got += piece
        assert log.push() == 0
    assert (
        got.decode()
        .splitlines()[-1]
        .endswith(f"warning: {dropped} log lines were dropped: nobody took them in time")
    )


def test_a_child_leaves_its_parents_lines_alone(pipe: tuple[int, int]) -> None:
    read, write = pipe
    sink = LogSink(fd=write)
    for _ in range(1000):
        sink.add(LINE)
    pid = os.fork()
    if pid == 0:
        sink.after_fork()
        read_all(read)
        sink.push()
        os._exit(0 if not read_all(read) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    sink.push()
    assert read_all(read)


def test_the_last_lines_are_waited_for_a_moment(pipe: tuple[int, int]) -> None:
    read, write = pipe
    sink = LogSink(fd=write)
    for _ in range(1000):
        sink.add(LINE)
    pid = os.fork()
    if pid == 0:
        sink.finish(60.0)
        os._exit(0)
    got = b""

    def ended() -> bool:
        nonlocal got
        got += read_all(read)
        return os.waitpid(pid, os.WNOHANG)[0] == pid

    wait_until(ended, "the child to get rid of its lines", 30)
    assert got + read_all(read) == LINE * 1000
    # And with nobody there, not for ever.
    while not sink.take_dropped():
        sink.add(LINE)
    sink.finish(0.01)


# -- a file ----------------------------------------------------------------------------------------


def test_a_file_that_is_moved_away_is_made_anew(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    path.write_bytes(b"before\n")
    sink = LogSink(path)
    sink.add(b"one\n")
    path.rename(old)
    sink.add(b"two\n")
    path.unlink()
    sink.add(b"three\n")
    assert old.read_bytes() == b"before\none\n"
    assert path.read_bytes() == b"three\n"
    assert path.stat().st_mode & 0o007 == 0, "who asked for what is nobody's business"


def test_what_cannot_be_made_anew_leaves_the_old_file_in_use(tmp_path: Path) -> None:
    """A tool that rotates may put a file there that only root can write to."""
    path, old = tmp_path / "log", tmp_path / "log.1"
    sink = LogSink(path)
    path.rename(old)
    # In the way of everybody, root included.
    path.mkdir()
    sink.add(b"one\n")
    assert old.read_bytes() == b"one\n"
    old.unlink()
    sink.add(b"two\n")
    assert sink.take_dropped() == 1
    path.rmdir()
    sink.add(b"three\n")
    assert path.read_bytes() == b"three\n"


def test_a_file_is_made_anew_on_request(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = LogSink(path)
    path.rename(tmp_path / "log.1")
    sink.reopen()
    assert path.exists()


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere/log"):
        LogSink(tmp_path / "nowhere/log")


def test_a_folder_that_has_gone_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    sink = LogSink(folder / "log")
    (folder / "log").unlink()
    folder.rmdir()
    sink.add(LINE)
    assert sink.take_dropped() == 1
    folder.mkdir()
    sink.add(LINE)
    assert (folder / "log").read_bytes() == LINE


def test_a_file_is_not_cut_by_a_second_process(tmp_path: Path) -> None:
    """Each appends, whoever opened it when."""
    path = tmp_path / "log"
    first, second = LogSink(path), LogSink(path)
    first.add(b"1\n")
    second.add(b"2\n")
    first.add(b"3\n")
    assert path.read_bytes() == b"1\n2\n3\n"


def test_levels_below_are_not_written(file: Path) -> None:
    open_log("text", file)
    configure("master", logging.WARNING)
    logger.info("quiet")
    assert file.read_text() == ""
