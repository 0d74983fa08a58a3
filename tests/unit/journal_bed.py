"""What tests of the journal share: event lines, a clock, file systems that are full or broken."""

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from prefork_ads.events.event import line
from prefork_ads.events.journal import Journal
from prefork_ads.events.segments import new_stream

BEGAN: Final = 1_700_000_000.0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def event(number: int, text: bytes = b"") -> bytes:
    """A line that `events.event` would make; `number` tells it from others."""
    stamp = b"2023-11-14 22:13:20.%03d+00\t%032x" % (number % 1000, number)
    return line(stamp, b"log", b'{"n":"%09d%b"}' % (number, text), None, None, "", None)


def number_of(text: bytes) -> int:
    return int(text.split(b"\t")[1], 16)


def numbers_of(data: bytes) -> list[int]:
    assert not data or data.endswith(b"\n")
    return [number_of(text) for text in data.splitlines()]


def make_journal(directory: Path, segment_bytes: int = 1 << 20, **options: object) -> Journal:
    """What is shipped is removed as soon as anybody asks, unless a test says otherwise."""
    stream = new_stream("test", os.getpid(), BEGAN)
    options = {"keep_shipped_s": 0.0, **options}
    return Journal(directory, stream, segment_bytes=segment_bytes, **options)  # type: ignore[arg-type]


def put(journal: Journal, *numbers: int) -> None:
    """One tick with these events."""
    for number in numbers:
        assert journal.append(event(number))
    journal.write()


def ship_all(journal: Journal, max_rows: int = 1000, max_bytes: int = 1 << 20) -> list[int]:
    shipped = []
    while (batch := journal.next_batch(max_rows, max_bytes)) is not None:
        numbers = numbers_of(batch.data)
        assert len(numbers) == batch.rows
        shipped += numbers
        journal.shipped(batch)
    return shipped


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As `ulimit -f`: a write past it writes what fits and then fails with EFBIG, for root, too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def small_disk(directory: Path, size: int) -> Iterator[bool]:
    """A file system of its own on this directory; False where nobody lets us mount one."""
    directory.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(directory)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False)
    except FileNotFoundError:
        yield False
        return
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(directory)], check=True)


def refuse_to_open(path: Path, monkeypatch: pytest.MonkeyPatch, number: int = errno.EACCES) -> None:
    """The kernel does not give us this one file, as it does not another user's; root gets any."""
    real = os.open

    def refuse(file: "os.PathLike[str] | str", *rest: object, **named: object) -> int:
        if Path(file) == path:
            raise OSError(number, os.strerror(number), str(path))
        return real(file, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)


class FaultyOs:
    """The operating system as the journal sees it, failing where a test says so."""

    def __init__(self) -> None:
        # The error of the next write, and how much of it gets through before.
        self.write_error = 0
        self.write_bytes = 0
        self.always = False
        self.truncate_error = 0
        self.sync_error = 0
        self.read_error = 0

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def write(self, fd: int, data: bytes) -> int:
        if self.write_bytes:
            written, self.write_bytes = os.write(fd, data[: self.write_bytes]), 0
            return written
        if self.write_error:
            error = self.write_error
            if not self.always:
                self.write_error = 0
            raise OSError(error, os.strerror(error))
        return os.write(fd, data)

    def ftruncate(self, fd: int, size: int) -> None:
        if self.truncate_error:
            raise OSError(self.truncate_error, os.strerror(self.truncate_error))
        os.ftruncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        if self.sync_error:
            error, self.sync_error = self.sync_error, 0
            raise OSError(error, os.strerror(error))
        os.fdatasync(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        if self.read_error:
            raise OSError(self.read_error, os.strerror(self.read_error))
        return os.pread(fd, size, offset)
