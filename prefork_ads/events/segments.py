"""The journal's directory: names of segments, who owns one, and what the dead left behind.

    <stream>-<seq>.tsv       a segment; <stream> is <hostname>-<pid>-<began, hex><random, hex>
    <stream>-<seq>.tsv.new   one that is being made, or that its maker died over
    damaged/                 segments with lines that cannot be shipped, kept for a person

Whoever holds the flock of a segment owns it. The kernel drops it with the last descriptor of its owner,
however that ends, so what can be locked has been left behind.

- A segment gets its name after its lock, so nobody can take it between its creation and its lock.
- A lock is on a file, a name may be on another one by now: between our open() and our flock() the
  owner may have removed the file. So the name is looked at again once we have the lock.
- Names of others are left alone, links are not followed, and nothing but a plain file is opened to stay:
  a name proves nothing.
- A segment is removed while its lock is held, and the directory is synced before anybody is told: were
  the ledger's row closed before that, a power failure could bring back the file when the row is forgotten,
  and every line would count twice.

Must not know: what the lines mean, SQL, HTTP, the event loop.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from prefork_ads.events.lines import (
    NEWLINE,
    Batch,
    Findings,
    count_lines,
    has_nul,
    read_batch,
    time_of,
)

SUFFIX: Final = ".tsv"
NEW_SUFFIX: Final = ".tsv.new"
DAMAGED: Final = "damaged"

_HOST_BYTES: Final = 64  # a host name's limit in Linux, and a file's name has 255
_NOT_IN_A_HOST: Final = re.compile(r"[^A-Za-z0-9.-]")
_NAME: Final = re.compile(
    r"[A-Za-z0-9-][A-Za-z0-9.-]{0,63}-[0-9]{1,10}-(?P<began>[0-9a-f]{8})[0-9a-f]{16}-[0-9]{6,12}"
)
_SEQUENCE: Final = re.compile(r"-[0-9]{6,12}\Z")
# Not to wait for the other end, should it be a FIFO.
_TO_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Where the first event is looked for.
_FIRST_BYTES: Final = 4096


# -- names -----------------------------------------------------------------------------------------


def new_stream(hostname: str, pid: int, now: float) -> str:
    """A name for one process's lines, unlike any other ever. `now` is in seconds since 1970."""
    host = _NOT_IN_A_HOST.sub("-", hostname)[:_HOST_BYTES].lstrip(".") or "host"
    return f"{host}-{pid}-{int(now):08x}{secrets.token_hex(8)}"


def segment_name(stream: str, sequence: int) -> str:
    """What the ledger calls a segment; its file has the suffix besides."""
    return f"{stream}-{sequence:06d}"


def stream_of(segment: str) -> str:
    """The stream that a segment is part of; a segment without a number is the whole of it."""
    return _SEQUENCE.sub("", segment)


def stream_began(segment: str) -> float | None:
    """Seconds since 1970 when the stream of this segment began; None: that is no segment's name."""
    match = _NAME.fullmatch(segment)
    return None if match is None else float(int(match["began"], 16))


# -- the directory ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """One segment as found. `alive`: its owner was, a moment ago; None: that cannot be told.

    `trouble` says why it cannot. So one file that is broken, or another user's, does not hide the others.
    """

    name: str
    path: Path
    size: int
    began: float
    alive: bool | None
    trouble: str = ""


def prepare_directory(directory: Path) -> None:
    """Make the directory unless it is there, and make sure that it takes segments. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        # Somebody else's, then, and made long before.
        sync_directory(directory.parent)
    probe = directory / f"probe-{os.getpid()}-{secrets.token_hex(8)}"
    fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        # Some file systems have no locks, and without them nobody knows who is alive.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)
        probe.unlink(missing_ok=True)


def list_segments(directory: Path) -> list[SegmentFile]:
    """All segments, oldest first; none when there is no directory. Raises OSError."""
    found = []
    for path, began in _plain_files(directory, SUFFIX):
        name, size, alive, trouble = path.name[: -len(SUFFIX)], 0, None, ""
        try:
            size = path.lstat().st_size
            alive = _is_alive(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            trouble = why_not(path, error)
        found.append(SegmentFile(name, path, size, began, alive, trouble))
    return sorted(found, key=lambda segment: (segment.began, segment.name))


def first_event_s(path: Path) -> float | None:
    """When the first event of a segment was, in seconds since 1970. Raises OSError.

    None: none of its first bytes begin a line.
    """
    fd = os.open(path, _TO_READ)
    try:
        first = os.pread(fd, _FIRST_BYTES, 0)
    finally:
        os.close(fd)
    times = map(time_of, first.split(NEWLINE))
    return next((time_s for time_s in times if time_s is not None), None)


def remove_leftovers(directory: Path) -> list[str]:
    """Remove what died before it had its name, and never had a line. Raises OSError.

    What we may not remove, or cannot, stays: nothing waits in it, and shipping must not wait for it.
    """
    removed = []
    for path, _ in _plain_files(directory, NEW_SUFFIX):
        with contextlib.suppress(OSError):
            fd = _take(path)
            if fd is not None:
                try:
                    path.unlink(missing_ok=True)
                    removed.append(path.name)
                finally:
                    os.close(fd)
    return removed


def sync_directory(directory: Path) -> None:
    """Let what was made and removed in it survive a power failure. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def begin_segment(directory: Path, name: str) -> tuple[Path, int]:
    """A new, empty segment of ours: its path and a descriptor to read and append. Raises OSError."""
    new, path = directory / (name + NEW_SUFFIX), directory / (name + SUFFIX)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(new, flags, 0o600)
    try:
        # Refused only if somebody takes it for a leftover right now: another name, then.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.lexists(path):
            # rename() would replace it. No stream has a name twice, so this is a bug or a prank.
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        new.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        os.close(fd)
        raise
    return path, fd


def is_named(fd: int, path: Path) -> bool:
    """Whether this file still has this name."""
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))


def set_aside(path: Path) -> Path:
    """Move a damaged segment to where a person finds it, and return its new path. Raises OSError."""
    directory = path.parent / DAMAGED
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # A segment that came back, with a backup say, must not replace its damaged self.
        name, number = path.name, 1
        while os.path.lexists(directory / name):
            number += 1
            name = f"{path.stem}.{number}{SUFFIX}"
        os.rename(path, name, dst_dir_fd=fd)
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(path.parent)
    return directory / name


def _plain_files(directory: Path, suffix: str) -> Iterator[tuple[Path, float]]:
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            if entry.name.endswith(suffix):
                began = stream_began(entry.name[: -len(suffix)])
                if began is not None and entry.is_file(follow_symlinks=False):
                    yield directory / entry.name, began


def _is_alive(path: Path) -> bool:
    fd = _take(path, fcntl.LOCK_SH)
    if fd is None:
        return path.exists()
    os.close(fd)
    return False


def _take(path: Path, kind: int = fcntl.LOCK_EX) -> int | None:
    """A locked descriptor; None: somebody has it, or it is not there, or no plain file."""
    try:
        fd = os.open(path, _TO_READ)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            return None
        raise
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            if is_named(fd, path):
                taken, fd = fd, -1
                return taken
    except BlockingIOError:
        pass
    finally:
        if fd >= 0:
            os.close(fd)
    return None


def describe(error: OSError) -> str:
    """What went wrong, and with which file."""
    what = error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename else what


def why_not(path: Path, error: OSError) -> str:
    """Why a segment cannot be had; and whose it is, if that may be why."""
    if isinstance(error, PermissionError):
        with contextlib.suppress(OSError):
            owner = path.lstat().st_uid
            if owner != os.geteuid():
                return f"{describe(error)}: it belongs to another user (uid {owner})"
    return describe(error)


# -- what the dead left behind ---------------------------------------------------------------------


def adopt(path: Path) -> "AdoptedSegment | None":
    """Own a segment whose owner is gone; None: it is alive, or has been removed. Raises OSError."""
    began = stream_began(path.name.removesuffix(SUFFIX))
    if began is None or not path.name.endswith(SUFFIX):
        return None
    fd = _take(path)
    return None if fd is None else AdoptedSegment(path, began, fd)


class AdoptedSegment:
    """A segment that has an owner again: us, until `release`.

    Its lines are judged. `next_batch` and `shipped` pass over it once; at the end `bad` and
    `torn_bytes` say what was found, and the segment is removed, or set aside when it is damaged.
    """

    def __init__(self, path: Path, began: float, fd: int) -> None:
        self.path = path
        self.name = path.name.removesuffix(SUFFIX)
        self.began = began
        self.size = os.fstat(fd).st_size
        self.position = 0
        # Bytes behind the last newline: a write that its process did not live to see, so nobody was
        # told that it counts. Known once `next_batch` has said None.
        self.torn_bytes = 0
        self.bad = Findings()
        self._fd = fd

    def __enter__(self) -> "AdoptedSegment":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def start_at(self, position: int) -> bool:
        """The database has everything before this. False: and more than the file, so all of it.

        That is what a power failure leaves behind when PostgreSQL syncs and the journal does not.
        """
        self.position = min(position, self.size)
        self.torn_bytes = 0
        return position <= self.size

    def next_batch(self, max_rows: int, max_bytes: int) -> Batch | None:
        """The next lines; None: there are no more. Raises OSError."""
        batch = read_batch(
            self._fd,
            self.name,
            self.position,
            self.size,
            max_rows,
            max_bytes,
            self.bad,
            trusted=False,
        )
        if batch is None:
            self._judge_tail()
        return batch

    def shipped(self, batch: Batch) -> None:
        """The database has this batch."""
        self.position = batch.after

    def descriptions(self) -> list[str]:
        """What is wrong with which line, for people; the first hundred."""
        said, line, counted = [], 1, 0
        for bad in self.bad.kept:
            line += count_lines(self._fd, counted, bad.offset)
            counted = bad.offset
            said.append(f"line {line}, byte {bad.offset}: {bad.reason} ({bad.size} bytes)")
        return said

    def remove(self) -> bool:
        """Everything in it is in the database: remove it, for good. Raises OSError.

        False: it has another name elsewhere and may be shipped from there, so its ledger row must stay.
        """
        if is_named(self._fd, self.path):
            self.path.unlink()
        sync_directory(self.path.parent)
        return os.fstat(self._fd).st_nlink == 0

    def set_aside(self) -> Path:
        """Keep it for a person; where it is now. Raises OSError."""
        self.path = set_aside(self.path)
        return self.path

    def release(self) -> None:
        """Let go of it, whatever is left of it."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _judge_tail(self) -> None:
        size = self.size - self.position
        if size and has_nul(self._fd, self.position, self.size):
            # No write of ours ends in zeros: that is what a file system makes of lost pages.
            self.bad.add(self.position, size, "has NUL bytes and no end")
        else:
            self.torn_bytes = size
