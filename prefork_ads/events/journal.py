"""The journal of one process: a tick's event lines are in a file before the tick's answers leave.

    append(line) …      hot path: the line waits for the end of the tick
    write()             one write() for all that wait, then their answers may go
    next_batch()        the oldest lines that are not shipped, read back from the file
    shipped(batch)      the database has them
    drop_shipped()      files that nobody needs any more go away

Lines are in memory until `write` and while they are shipped, never longer: a day's backlog costs disk
and no memory. *Measured*, µs a line of 450 bytes, append and write together (ext4, Python 3.11), by
lines in a tick; and the list in memory that was there before:

     1    2.3   0.3
     8    0.8   0.17
    32    0.56  0.17

Reading it back costs 0.13 µs a line, a new segment 0.1–1 ms, once in 16 MiB. What is
shipped and removed before the kernel writes dirty pages back (vm.dirty_expire_centisecs, half a minute unless
changed) need not reach the disk at all.

**All or nothing.** A tick whose write fails (disk full, input/output error) is taken back: the file is
cut to its last good size, nobody is told that these events count, and `append` says no until a probe
has gone through. If even cutting fails, the segment is closed for writing and read to its last good size
only. (Should we be killed before it is shipped, whoever adopts it finds lines that were answered with
503. They may count: 503 promises nothing.)

**fdatasync.** Once it has failed, the kernel may hold the pages for clean, and the next one would say
that all is well. So a segment is never synced again after a failure: it is closed for writing, all that
was not synced counts as refused, and what is in it is shipped while it can still be read, each line
judged like a stranger's. The lines are not taken back: with `interval` they are answered already, and
shipping is what makes them safe now.

**Who runs what.** `sync` and `drop_shipped` are made for a thread, one at a time: they wait for the disk.
All else belongs to the thread of the event loop. Descriptors are closed by `drop_shipped` and `close`
only, so neither pread() nor fdatasync() meets a number that is another file's by now.

Must not know: what the lines mean, SQL, HTTP, the event loop, how the files of others are adopted.
"""

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from prefork_ads.events.lines import NEWLINE, Batch
from prefork_ads.events.memory_journal import MemoryJournal
from prefork_ads.events.own_segment import OwnSegment
from prefork_ads.events.segments import describe, segment_name, sync_directory

__all__ = ["Batch", "Journal", "JournalFailed", "MemoryJournal"]

# After a failure a probe is made before requests are taken again. It is cheap enough to be made often: a
# disk that has room again is noticed within a second.
PROBE_AFTER_S: Final = 0.25
PROBE_AFTER_AT_MOST_S: Final = 1.0
# Shipped and not written for so long, a segment goes, that nothing lies about on an idle server.
IDLE_S: Final = 10.0
# A file that is shipped is kept for so long: should a standby be promoted that had not received the last
# rows, they are sent again from it. Less than the half minute after which the kernel writes files out.
KEEP_SHIPPED_S: Final = 5.0
# A segment that cannot be read does not stop those behind it; it is tried again after this.
UNREADABLE_S: Final = 30.0

_NEWLINE_BYTES: Final = len(NEWLINE)
_NO_ROOM: Final = -1
_MARKS: Final = 1024
_UNLIMITED: Final = 1 << 62


class JournalFailed(Exception):
    """These lines are not safe, and nobody may be told that they are; the message says why."""


class Journal:
    """The segments of one process, the oldest first; the last one is written."""

    def __init__(
        self,
        directory: Path,
        stream: str,
        *,
        segment_bytes: int,
        keep_shipped_s: float = KEEP_SHIPPED_S,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`stream` is unlike any other ever (`segments.new_stream`); `report` takes what operators must know.

        Nothing is opened before the first line comes.
        """
        self._directory = directory
        self._stream = stream
        self._segment_bytes = segment_bytes
        self._keep_shipped_s = keep_shipped_s
        self._clock = clock
        self._report = report
        # The tick's lines, and how many bytes more may come.
        self._lines: list[bytes] = []
        self._allowance = _UNLIMITED
        self._room = _UNLIMITED
        # Lines that were not taken, for want of room or while writing fails.
        self.refusals = 0
        # Segments that were set aside.
        self.damaged = 0
        # Segments. The tuple is replaced, never changed: `sync` looks at it from its thread.
        self._sequence = 0
        self._active: OwnSegment | None = None
        self._rotate_at = segment_bytes
        self._segments: tuple[OwnSegment, ...] = ()
        # Shipped and not removed yet: whoever pops one has it, `drop_shipped` or `rewind`.
        self._finished: dict[str, OwnSegment] = {}
        self._gone: list[str] = []
        self._files = threading.Lock()
        # Against a `close` in a thread, while the loop still ticks.
        self._tending = threading.Lock()
        # What is written and not shipped, and moments with what was written by then.
        self._written = 0
        self._backlog = 0
        self._marks: list[tuple[int, float]] = [(0, clock())]
        self._idle_since: float | None = None
        # Why nothing is taken; "" while all is well.
        self._failure = ""
        self._closed = False
        self._probe_at = 0.0
        self._probe_after_s = PROBE_AFTER_S
        # Called once, by the write after which so much waits: set both each time before waiting.
        self.on_backlog: Callable[[], None] | None = None
        self.backlog_threshold = _UNLIMITED

    # -- the hot path ------------------------------------------------------------------------------

    def append(self, line: bytes) -> bool:
        """Take one line for this tick. False: full or failing, and the line is not kept."""
        size = len(line) + _NEWLINE_BYTES
        if size > self._room:
            self.refusals += 1
            return False
        self._room -= size
        self._lines.append(line)
        return True

    def write(self) -> None:
        """Put the tick's lines into the file, all or none. Raises JournalFailed."""
        lines = self._lines
        if not lines:
            return
        rows = len(lines)
        lines.append(b"")
        data = NEWLINE.join(lines)
        lines.clear()
        segment = self._active
        if segment is not None and segment.distrusted:
            raise self._fail(segment.distrusted)
        try:
            if segment is None or segment.size >= self._rotate_at:
                segment = self._rotate()
            self._put(segment, data, rows)
        except OSError as error:
            raise self._fail(describe(error)) from error
        size = len(data)
        self._written += size
        self._backlog += size
        if self._backlog >= self.backlog_threshold and self.on_backlog is not None:
            wake, self.on_backlog = self.on_backlog, None
            wake()

    # -- what is held ------------------------------------------------------------------------------

    @property
    def allowance(self) -> int:
        """Bytes that may wait to be shipped; past them `append` says no."""
        return self._allowance

    @allowance.setter
    def allowance(self, value: int) -> None:
        self._allowance = value
        self._make_room()

    @property
    def failing(self) -> bool:
        """Whether `append` says no because a write has failed."""
        return bool(self._failure)

    @property
    def backlog_bytes(self) -> int:
        """Written and not shipped."""
        return self._backlog

    @property
    def backlog_rows(self) -> int:
        """Lines written and not shipped."""
        return sum(segment.rows - segment.rows_shipped for segment in self._segments)

    @property
    def oldest_unshipped_s(self) -> float:
        """The age of the oldest line that is not shipped: never less, and as exact as `tend` is frequent."""
        return self._clock() - self._marks[0][1] if self._backlog else 0.0

    def segments(self) -> list[tuple[str, int, int]]:
        """Name, shipped bytes and written bytes of all that is held, the oldest first."""
        held = (*self._finished.copy().values(), *self._segments)
        return [(segment.name, segment.shipped, segment.size) for segment in held]

    # -- shipping ----------------------------------------------------------------------------------

    def next_batch(self, max_rows: int, max_bytes: int) -> Batch | None:
        """The oldest lines that are not shipped, of one segment; None: there are none to be had.

        The same ones, or more, until `shipped` or `rewind` moves the position.
        """
        for segment in self._segments:
            if segment.shipped < segment.size:
                batch = self._read(segment, max_rows, max_bytes)
                if batch is not None:
                    return batch
        return None

    def shipped(self, batch: Batch) -> None:
        """The database has this batch."""
        segment = self._find(batch.segment)
        if segment is not None:
            self._move(segment, batch.after, segment.rows_shipped + batch.rows)

    def rewind(self, segment: str, position: int) -> bool:
        """The ledger stands elsewhere: go on from there. False: that is not in what is still held."""
        held = self._find(segment) or self._finished.pop(segment, None)
        if held is None:
            return False
        if held not in self._segments:
            self._segments = (held, *self._segments)
        known = held.has_line_end_at(position)
        if known:
            self._move(held, position, held.rows_before(position))
        self._settle(held)
        return known

    def drop_shipped(self) -> list[str]:
        """Remove what was shipped a while ago; the names whose ledger rows may be closed. For a thread.

        A name is told once its removal is on the disk: a file that came back without its row in the
        ledger would be counted twice.
        """
        with self._files:
            return self._drop(self._clock() - self._keep_shipped_s)

    # -- safety ------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Return when all that was written before is on the disk. For a thread. Raises JournalFailed.

        Each byte that is not safe is in one failure, and what is written meanwhile in the next one.
        """
        with self._files:
            failures = [why for segment in self._segments if (why := segment.sync())]
        if failures:
            raise JournalFailed("; ".join(failures))

    def tend(self) -> None:
        """Look after itself: called a few times a second."""
        with self._tending:
            if not self._closed:
                self._tend(self._clock())

    def close(self) -> list[str]:
        """Let go of everything and remove what is shipped; the names whose ledger rows may be closed.

        In a thread or not, but after the last `append` and `next_batch`: waits for a `sync`, a
        `drop_shipped` or a `tend` that is under way. What is not shipped has no owner after this, for
        others to adopt.
        """
        with self._tending:
            if self._closed:
                return []
            self._closed = True
            self._room = _NO_ROOM
            self._retire()
        with self._files:
            names = self._drop(self._clock())
            left, self._segments = (*self._finished.values(), *self._segments), ()
            self._finished.clear()
            self._backlog = 0
            for segment in left:
                segment.close()
        return names

    # -- looking after itself ----------------------------------------------------------------------

    def _tend(self, now: float) -> None:
        self._mark(now)
        active = self._active
        if active is not None and not active.distrusted and not self._failure:
            self._inspect(active)
        if self._failure:
            if now >= self._probe_at:
                self._probe()
        elif active is None or self._backlog or self._lines:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= IDLE_S:
            self._retire()

    # -- writing -----------------------------------------------------------------------------------

    def _put(self, segment: OwnSegment, data: bytes, rows: int) -> None:
        """Append to this segment, or else to a new one. Raises OSError."""
        try:
            segment.append(data, rows)
        except OSError as error:
            taken_back = self._take_back(segment)
            if error.errno != errno.EFBIG or not segment.size or not taken_back:
                # Not taken back, and written again elsewhere, they would count twice.
                raise
            # This file may not grow any more (ulimit -f); another one may.
            segment = self._begin()
            try:
                segment.append(data, rows)
            except OSError:
                self._take_back(segment)
                raise

    def _take_back(self, segment: OwnSegment) -> bool:
        """Cut it to its last good size, or else never write to it again."""
        try:
            segment.take_back()
        except OSError as error:
            self._report(f"journal: {segment.name} is closed: it cannot be cut: {describe(error)}")
            self._retire()
            return False
        return True

    def _rotate(self) -> OwnSegment:
        """A new segment; while there can be none, the old one, if it takes more. Raises OSError."""
        try:
            return self._begin()
        except OSError as error:
            if self._active is None:
                raise
            # No descriptor left, say. Not tried again at every tick.
            self._rotate_at += max(self._segment_bytes // 8, 1)
            self._report(f"journal: no new segment: {describe(error)}")
            return self._active

    def _begin(self) -> OwnSegment:
        """Write a new segment from now on. Raises OSError."""
        segment = self._make()
        self._retire()
        self._active = segment
        self._segments = (*self._segments, segment)
        self._rotate_at = self._segment_bytes
        return segment

    def _make(self, attempts: int = 3) -> OwnSegment:
        self._sequence += 1
        try:
            return OwnSegment(self._directory, segment_name(self._stream, self._sequence))
        except (FileNotFoundError, FileExistsError, BlockingIOError) as error:
            if attempts == 1:
                raise
            if isinstance(error, FileNotFoundError):
                # Somebody has removed the directory.
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The name is taken, or somebody took the new file for a leftover: the next one, then.
        return self._make(attempts - 1)

    def _retire(self) -> None:
        """Write no more to the active segment."""
        segment, self._active = self._active, None
        self._idle_since = None
        if segment is not None:
            self._settle(segment)

    def _settle(self, segment: OwnSegment) -> None:
        if segment is not self._active and segment.shipped >= segment.size:
            self._segments = tuple(held for held in self._segments if held is not segment)
            segment.finished_at = self._clock()
            self._finished[segment.name] = segment

    # -- failing, and being well again -------------------------------------------------------------

    def _fail(self, reason: str) -> JournalFailed:
        """Take nothing until a probe has gone through."""
        if self._active is not None and self._active.distrusted:
            self._retire()
        if not self._failure:
            self._probe_after_s = PROBE_AFTER_S
            self._report(f"journal: {reason}; it takes no events until it can be written again")
        self._failure = reason
        self._probe_at = self._clock() + self._probe_after_s
        self._probe_after_s = min(2 * self._probe_after_s, PROBE_AFTER_AT_MOST_S)
        # Lines of a tick that is not over yet stay: only its `write` can say what becomes of them.
        self._room = _NO_ROOM
        return JournalFailed(reason)

    def _probe(self) -> None:
        try:
            segment = self._active or self._begin()
            try:
                segment.probe()
            finally:
                self._take_back(segment)
        except OSError as error:
            self._fail(describe(error))
            return
        self._failure = ""
        self._make_room()
        self._report("journal: it can be written again")

    def _inspect(self, segment: OwnSegment) -> None:
        """Has somebody removed or changed the file we write?"""
        if segment.is_removed:
            self._report(f"journal: somebody removed {segment.path}; its events are shipped still")
            self._retire()
        elif not segment.is_as_written:
            segment.distrusted = f"somebody else wrote to {segment.path}"
            self._fail(segment.distrusted)

    def _make_room(self) -> None:
        if not self._failure and not self._closed:
            waiting = sum(map(len, self._lines)) + len(self._lines) * _NEWLINE_BYTES
            self._room = self._allowance - self._backlog - waiting

    # -- reading -----------------------------------------------------------------------------------

    def _read(self, segment: OwnSegment, max_rows: int, max_bytes: int) -> Batch | None:
        if segment.skip_until and self._clock() < segment.skip_until:
            return None
        known = segment.findings.count
        try:
            batch = segment.read(max_rows, max_bytes)
        except OSError as error:
            segment.skip_until = self._clock() + UNREADABLE_S
            self._report(f"journal: {segment.name} cannot be read: {describe(error)}")
            return None
        for bad in segment.findings.kept[known:]:
            self._report(f"journal: {segment.name}, byte {bad.offset}: {bad.reason}")
        return batch

    def _find(self, name: str) -> OwnSegment | None:
        for segment in self._segments:
            if segment.name == name:
                return segment
        return None

    def _move(self, segment: OwnSegment, position: int, rows_shipped: int) -> None:
        self._backlog -= position - segment.shipped
        segment.move(position, rows_shipped)
        self._make_room()
        self._settle(segment)

    def _mark(self, now: float) -> None:
        """Remember what was written by now; the first mark is from before the oldest unshipped line."""
        marks, shipped = self._marks, self._written - self._backlog
        if marks[-1][0] == self._written:
            marks[-1] = (self._written, now)
        else:
            marks.append((self._written, now))
        while len(marks) > 1 and marks[1][0] <= shipped:
            del marks[0]
        if len(marks) > _MARKS:
            del marks[1:-1:2]

    # -- removing, in a thread ---------------------------------------------------------------------

    def _drop(self, finished_by: float) -> list[str]:
        # The first one has been finished for the longest.
        for name, known in tuple(self._finished.items()):
            if known.finished_at > finished_by:
                break
            segment = self._finished.pop(name, None)
            if segment is None:
                continue
            try:
                aside = segment.remove()
                # With a name elsewhere, somebody may ship it from there: the ledger must remember it.
                if segment.is_removed:
                    self._gone.append(name)
            except OSError as error:
                self._finished[name] = segment
                self._report(f"journal: {name} cannot be removed: {describe(error)}")
                break
            segment.close()
            if aside is not None:
                self.damaged += 1
                count = segment.findings.count
                self._report(f"journal: {count} lines are damaged: kept as {aside}")
        if not self._gone:
            return []
        try:
            sync_directory(self._directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._report(f"journal: {self._directory} cannot be synced: {describe(error)}")
            return []
        names, self._gone = self._gone, []
        return names
