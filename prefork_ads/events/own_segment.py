"""One segment that this process writes: how far it is written, shipped and on the disk.

What is asked of the kernel for it is here; when to ask, and what follows, is the journal's business.

Must not know: other segments, the clock, SQL.
"""

import errno
import os
from pathlib import Path
from typing import Final

from prefork_ads.events.lines import NEWLINE, Batch, Findings, count_lines, read_batch
from prefork_ads.events.segments import (
    begin_segment,
    describe,
    is_named,
    set_aside,
    sync_directory,
)

# What a tick may have.
_PROBE: Final = b" " * (64 << 10)


class OwnSegment:
    """Positions are in bytes from the beginning of the file."""

    __slots__ = (
        "_entry_synced",
        "_fd",
        "_synced",
        "distrusted",
        "findings",
        "finished_at",
        "name",
        "path",
        "rows",
        "rows_shipped",
        "shipped",
        "size",
        "skip_until",
    )

    def __init__(self, directory: Path, name: str) -> None:
        """Make it, empty and locked. Raises OSError."""
        self.name = name
        self.path, self._fd = begin_segment(directory, name)
        # The last good size. What may be behind it in the file is never read.
        self.size = 0
        self.rows = 0
        self.shipped = 0
        self.rows_shipped = 0
        self.findings = Findings()
        # For the journal: not to be read before, and when there was nothing left to be done.
        self.skip_until = 0.0
        self.finished_at = 0.0
        # Written by `sync`, in its thread.
        self._synced = 0
        self._entry_synced = False
        # Why nothing is to be written to it any more; "" while all is well.
        self.distrusted = ""

    def close(self) -> None:
        """Nobody owns it any more."""
        os.close(self._fd)

    # -- writing -----------------------------------------------------------------------------------

    def append(self, data: bytes, rows: int) -> None:
        """Write whole lines. Raises OSError; then `take_back` what is written of them."""
        self._write(data)
        self.size += len(data)
        self.rows += rows

    def take_back(self) -> None:
        """Cut the file to its last good size. Raises OSError."""
        os.ftruncate(self._fd, self.size)

    def probe(self) -> None:
        """Try whether a tick would fit; to be taken back in any case. Raises OSError.

        Without a newline: should we be killed in between, it is a torn line.
        """
        self._write(_PROBE)

    def _write(self, data: bytes) -> None:
        written = os.write(self._fd, data)
        while written < len(data):
            # The last block of a full disk, or a signal: the next write says which.
            more = os.write(self._fd, memoryview(data)[written:])
            if not more:
                raise OSError(errno.EIO, "nothing was written")
            written += more

    @property
    def is_removed(self) -> bool:
        """Whether the file has no name any more."""
        return os.fstat(self._fd).st_nlink == 0

    @property
    def is_as_written(self) -> bool:
        """Whether the file ends where we have left it."""
        return os.fstat(self._fd).st_size == self.size

    # -- shipping ----------------------------------------------------------------------------------

    def read(self, max_rows: int, max_bytes: int) -> Batch:
        """The oldest lines that are not shipped; some are, or the call is wrong. Raises OSError."""
        batch = read_batch(
            self._fd,
            self.name,
            self.shipped,
            self.size,
            max_rows,
            max_bytes,
            self.findings,
            trusted=not self.distrusted,
        )
        if batch is None:
            # We wrote whole lines up to `size`.
            left = self.size - self.shipped
            self.findings.add(self.shipped, left, "has been lost by the file system")
            batch = Batch(self.name, self.shipped, self.size, b"", 0)
        return batch

    def move(self, position: int, rows_shipped: int) -> None:
        """So much is shipped."""
        self.shipped = position
        # Bad lines are in no batch.
        done = position == self.size
        self.rows_shipped = self.rows if done else min(rows_shipped, self.rows)

    def has_line_end_at(self, position: int) -> bool:
        """Nothing of ours puts a ledger into the middle of a line. What cannot be read may be an end."""
        if not 0 <= position <= self.size:
            return False
        if not position or self.distrusted:
            return True
        try:
            return os.pread(self._fd, 1, position - 1) == NEWLINE
        except OSError:
            return True

    def rows_before(self, position: int) -> int:
        """How many lines are shipped when it is shipped to there."""
        first, last = sorted((self.shipped, position))
        try:
            rows = count_lines(self._fd, first, last)
        except OSError:
            # Nearly: people look at it, and nothing depends on it.
            rows = self.rows * (last - first) // self.size
        return self.rows_shipped + (rows if position >= self.shipped else -rows)

    # -- on the disk, and off it -------------------------------------------------------------------

    def sync(self) -> str:
        """Get what is written so far onto the disk; "" when it is. Each byte fails once."""
        size = self.size
        if size <= self._synced:
            return ""
        if not self.distrusted:
            try:
                os.fdatasync(self._fd)
                if not self._entry_synced:
                    sync_directory(self.path.parent)
                    self._entry_synced = True
            except OSError as error:
                self.distrusted = f"{self.path}: not safe on the disk: {describe(error)}"
        self._synced = size
        return self.distrusted

    def remove(self) -> Path | None:
        """It is shipped: remove it, or set it aside when it is damaged; where to. Raises OSError."""
        if not is_named(self._fd, self.path):
            return None
        if self.findings.count:
            return set_aside(self.path)
        self.path.unlink()
        return None
