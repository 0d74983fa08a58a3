"""`--journal off`: the journal's interface, with what is not shipped in memory only.

A killed worker loses what it had acknowledged and not shipped, which is what this mode is for: to see
what the journal costs, and for servers without a disk. Rows and bytes are bounded: past either, `append`
says no and the request gets 503. It is one segment without a file; its position begins at 0.

At the end of the process, what PostgreSQL did not take in time is written to a file that \\copy loads.

Must not know: what the lines mean, SQL, HTTP, the event loop.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from prefork_ads.events.lines import NEWLINE, Batch, first_rows, newlines

_NEWLINE_BYTES: Final = len(NEWLINE)


class MemoryJournal:
    """The ticks' lines, joined, until they are shipped."""

    def __init__(
        self,
        stream: str,
        *,
        max_rows: int,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = stream
        self._clock = clock
        # The tick's lines, and what more may come.
        self._lines: list[bytes] = []
        self._max_rows = max_rows
        self._rows_room = max_rows
        self._room = max_bytes
        # Whatever the journals of others hold: memory is this process's own.
        self.allowance = max_bytes
        # What is written and not shipped: each tick's lines and how many they are.
        self._ticks: deque[tuple[bytes, int]] = deque()
        self._shipped = 0
        self._backlog = 0
        self._rows = 0
        self._empty_at = clock()
        self.failing = False
        # Lines that were not taken.
        self.refusals = 0
        self.on_backlog: Callable[[], None] | None = None
        self.backlog_threshold = max_bytes

    def append(self, line: bytes) -> bool:
        """Take one line for this tick. False: too many wait already, and the line is not kept."""
        size = len(line) + _NEWLINE_BYTES
        if size > self._room or not self._rows_room:
            self.refusals += 1
            return False
        self._room -= size
        self._rows_room -= 1
        self._lines.append(line)
        return True

    def write(self) -> None:
        """Keep the tick's lines. Never fails."""
        lines = self._lines
        if not lines:
            return
        rows = len(lines)
        lines.append(b"")
        data = NEWLINE.join(lines)
        lines.clear()
        self._ticks.append((data, rows))
        self._rows += rows
        self._backlog += len(data)
        if self._backlog >= self.backlog_threshold and self.on_backlog is not None:
            wake, self.on_backlog = self.on_backlog, None
            wake()

    @property
    def backlog_bytes(self) -> int:
        """Written and not shipped."""
        return self._backlog

    @property
    def backlog_rows(self) -> int:
        """Lines written and not shipped."""
        return self._rows

    @property
    def oldest_unshipped_s(self) -> float:
        """Time since nothing was waiting: no line that waits is older."""
        return self._clock() - self._empty_at if self._backlog else 0.0

    def segments(self) -> list[tuple[str, int, int]]:
        """Name, shipped bytes and written bytes of the one segment."""
        return [(self._name, self._shipped, self._shipped + self._backlog)]

    def next_batch(self, max_rows: int, max_bytes: int) -> Batch | None:
        """The oldest lines that are not shipped; None: there are none."""
        if not self._ticks:
            return None
        taken: list[bytes] = []
        rows = size = 0
        for data, count in self._ticks:
            if rows + count > max_rows or size + len(data) > max_bytes:
                break
            taken.append(data)
            rows += count
            size += len(data)
        if not taken:
            data, _ = first_rows(self._ticks[0][0], max_rows)
            size = data.rfind(NEWLINE, 0, max_bytes) + 1 or data.find(NEWLINE) + 1
            taken = [data[:size]]
            rows = newlines(taken[0])
        return Batch(self._name, self._shipped, self._shipped + size, b"".join(taken), rows)

    def shipped(self, batch: Batch) -> None:
        """The database has this batch."""
        left = batch.after - self._shipped
        self._shipped += left
        self._backlog -= left
        self._room += left
        while left:
            data, rows = self._ticks.popleft()
            if len(data) > left:
                rest = data[left:]
                rows_left = newlines(rest)
                self._ticks.appendleft((rest, rows_left))
                rows -= rows_left
            left -= min(left, len(data))
            self._rows -= rows
            self._rows_room += rows

    def rewind(self, segment: str, position: int) -> bool:
        """What is shipped is forgotten, so there is no way back, but one forward."""
        ahead = position - self._shipped
        if segment != self._name or not 0 <= ahead <= self._backlog:
            return False
        left = ahead
        for data, _ in self._ticks:
            if left <= len(data):
                if left and data[left - 1 : left] != NEWLINE:
                    # Nothing of ours has ever put it into the middle of a line.
                    return False
                break
            left -= len(data)
        self.shipped(Batch(segment, self._shipped, position, b"", 0))
        return True

    def drop_shipped(self) -> list[str]:
        """There are no files."""
        return []

    def sync(self) -> None:
        """There are no files."""

    def tend(self) -> None:
        """Called a few times a second."""
        if not self._backlog:
            self._empty_at = self._clock()

    def close(self) -> list[str]:
        """The name whose ledger row may be closed, if all is shipped."""
        self._room = 0
        return [] if self._backlog else [self._name]

    def rescue(self, directory: Path) -> Path | None:
        """Write what is not shipped to a file for \\copy; None when nothing is left. Raises OSError.

        A batch whose outcome is unknown is in the file, too, with its position in the file's name: the
        ledger's position says whether it counted.
        """
        if not self._ticks:
            return None
        # With somebody else's database nothing has needed the directory so far.
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"unsent-{self._name}-from-{self._shipped}.tsv"
        # Who asked for what is nobody's business; and no link leads us out of a shared directory.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.writelines(data for data, _ in self._ticks)
            file.flush()
            os.fsync(file.fileno())
        return path
