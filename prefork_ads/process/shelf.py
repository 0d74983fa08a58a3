"""The last good catalog on the disk, from which a host starts and serves while PostgreSQL is away.

    {data_dir}/catalog/snapshot.jsonl    its first line says what it is, its last that it is whole
    {data_dir}/catalog/snapshot.new      one that is being written
    {data_dir}/catalog/lock              who has its lock writes

All workers of a host see the same changes. Each that hears of one waits a little, and the first to get the
lock writes it; the others then find it on the disk and leave it. It is written in a thread, row by row, so
that the interpreter's lock is never held for long, put aside, synced, and renamed: a power failure leaves
the old one or the new one.

A file that is damaged, of another format or not ours is ignored with a warning: PostgreSQL has everything.

*Measured*, 10,000 campaigns with 10,000 creatives (13 MB): written in 0.25 s, read in 0.3 s.

Must not know: what the rows mean, who serves from them.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from prefork_ads.ads.feed import Snapshot

FORMAT: Final = 1
# Changes come in bursts. How long a worker waits after the first of one; each a little longer or shorter.
SAVE_AFTER_S: Final = 2.0

_NAME: Final = "snapshot.jsonl"


class Shelf:
    """The directory, as one process uses it."""

    def __init__(self, data_dir: Path, report: Callable[[str], None]) -> None:
        self.directory = data_dir / "catalog"
        self._report = report
        self._wanted: Snapshot | None = None
        self._wake = asyncio.Event()
        # What lies there is of no use, whatever its first line says.
        self._damaged = False

    @property
    def path(self) -> Path:
        return self.directory / _NAME

    # -- reading -----------------------------------------------------------------------------------

    async def load(self) -> Snapshot | None:
        """What lies there, if it is good."""
        return await asyncio.to_thread(self.read)

    def read(self) -> Snapshot | None:
        try:
            return _read(self.path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            self._damaged = True
            self._report(f"catalog: the snapshot {self.path} is of no use and ignored: {error}")
            return None

    # -- writing -----------------------------------------------------------------------------------

    def keep(self, snapshot: Snapshot) -> None:
        """Write it soon, unless a newer one comes or somebody else has written it."""
        self._wanted = snapshot
        self._wake.set()

    async def run(self, after_s: float = SAVE_AFTER_S) -> None:
        """Write what is to be kept, until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(after_s)
            self._wake.clear()
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                continue
            try:
                if not await asyncio.to_thread(self.write, wanted) and self._wanted is None:
                    self.keep(wanted)
            except OSError as error:
                self._report(f"catalog: no snapshot can be kept in {self.directory}: {error}")

    def write(self, snapshot: Snapshot) -> bool:
        """Unless it is there. False: somebody else writes one, perhaps an older one. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if not self._lies_there(snapshot):
                self._write(snapshot)
                self._damaged = False
        return True

    def _lies_there(self, snapshot: Snapshot) -> bool:
        try:
            with self.path.open("rb") as file:
                about = _about(file.readline(4096))
        except (OSError, ValueError):
            return False
        return (about["version"], about["mark"]) == snapshot.stamp and not self._damaged

    def _write(self, snapshot: Snapshot) -> None:
        aside = self.directory / "snapshot.new"
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(aside, flags, 0o600), "wb") as file:
            seal = hashlib.blake2b(digest_size=16)
            for line in _lines(snapshot):
                seal.update(line)
                file.write(line)
            file.write(orjson.dumps({"seal": seal.hexdigest()}) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        aside.rename(self.path)
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _lines(snapshot: Snapshot) -> Iterator[bytes]:
    about = {
        "format": FORMAT,
        "version": snapshot.version,
        "mark": snapshot.mark,
        "saved_unix_s": int(time.time()),
    }
    yield orjson.dumps(about) + b"\n"
    for relation, of in snapshot.rows.items():
        for number, row in of.items():
            yield orjson.dumps([relation, number, row]) + b"\n"


def _read(path: Path) -> Snapshot:
    """Raises OSError, and ValueError for what is not good."""
    with path.open("rb") as file:
        first = file.readline(4096)
        about = _about(first)
        seal = hashlib.blake2b(first, digest_size=16)
        rows: dict[str, dict[int, dict[str, Any]]] = {}
        for line in file:
            entry = orjson.loads(line)
            if isinstance(entry, dict):
                if entry.get("seal") != seal.hexdigest() or file.read(1):
                    break
                return Snapshot(about["version"], about["mark"], rows)
            seal.update(line)
            relation, number, row = entry
            rows.setdefault(relation, {})[number] = row
    raise ValueError("it is damaged or not whole")


def _about(line: bytes) -> dict[str, Any]:
    about = orjson.loads(line)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError("it is of another format")
    version, mark = about.get("version"), about.get("mark", 0)
    # As PostgreSQL has them: what it cannot be asked about would never be followed.
    if type(version) is not int or not -1 < version < 1 << 63 or not isinstance(mark, str | None):
        raise ValueError("its first line does not say what it is")
    return about
