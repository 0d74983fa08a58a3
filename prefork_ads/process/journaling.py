"""A worker's journal in its process: which kind it is, how much it may hold, when it is synced, its end.

All workers of a server, and what dead ones have left, share `--journal-max-bytes`. Each shows in its seat
of the scoreboard how much it holds and may fill what the others leave free; a few looks a second make
that exact enough for a limit that protects a disk.

At the end the events that PostgreSQL has not taken stay where they are: nobody owns the files any more
once this process is gone, and the keeper, or the next start, ships them. Only without a journal they
are put into a file that a person has to load.

Must not know: connections, what events mean.
"""

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from prefork_ads.config import Config
from prefork_ads.events.journal import Journal, JournalFailed
from prefork_ads.events.memory_journal import MemoryJournal
from prefork_ads.events.segments import new_stream
from prefork_ads.metrics import Counter, Gauge
from prefork_ads.process.context import ChildContext
from prefork_ads.process.log import logger
from prefork_ads.process.safety import JournalSafety

# What removing the last files may take; those that are left are seen to by the keeper.
CLOSE_LIMIT_S: Final = 1.0
# Below this share of what it may hold, a journal that was full is so no more.
_ROOM_AGAIN: Final = 0.9


class Journaling:
    """One worker's journal."""

    def __init__(self, context: ChildContext, report: Callable[[str], None]) -> None:
        config = context.config
        self._context = context
        self._config = config
        self._report = report
        # The name of this worker's lines, which nobody else ever has.
        self.stream = new_stream(socket.gethostname(), os.getpid(), time.time())
        self.journal = _make(config, self.stream, report)
        self.full = False
        self._refusals = 0
        self._damaged = 0
        # One thread: a disk that is slow for one group is not quicker for two.
        self._executor = ThreadPoolExecutor(1, "journal-sync")

    @property
    def durable(self) -> bool:
        """Whether the events survive this process."""
        return isinstance(self.journal, Journal)

    def safety(self, loop: asyncio.AbstractEventLoop) -> JournalSafety:
        """For the outbox: answers leave when their events are safe."""
        always = self.durable and self._config.journal_sync == "always"
        return JournalSafety(self.journal, loop, self._executor if always else None, self._report)

    def tend(self) -> None:
        """A few times a second: clocks, limits and gauges."""
        journal, gauges = self.journal, self._context.seat.gauges
        journal.tend()
        gauges[Gauge.LOG_ROWS_WAITING] = journal.backlog_rows
        gauges[Gauge.LOG_BYTES_WAITING] = journal.backlog_bytes
        gauges[Gauge.JOURNAL_OLDEST_MILLISECONDS] = int(journal.oldest_unshipped_s * 1000)
        if self.durable:
            self._share()
        self._count_damaged()
        self._tell_if_full()

    def _share(self) -> None:
        """What the other seats leave free is ours."""
        journal, gauges = self.journal, self._context.seat.gauges
        gauges[Gauge.JOURNAL_BYTES] = journal.backlog_bytes
        others = sum(
            seat.gauges[Gauge.JOURNAL_BYTES]
            for seat in self._context.scoreboard.occupied()
            if seat is not self._context.seat
        )
        journal.allowance = max(0, self._config.journal_max_bytes - others)

    def _count_damaged(self) -> None:
        """Here and not where it happens, which is a thread: each cell has one writer."""
        if isinstance(self.journal, Journal):
            damaged = self.journal.damaged
            self._context.seat.counters[Counter.JOURNAL_DAMAGED] += damaged - self._damaged
            self._damaged = damaged

    def _tell_if_full(self) -> None:
        """Requests that were refused since the last look say so; what has been shipped, that it is over."""
        journal = self.journal
        refused = journal.refusals - self._refusals
        self._refusals = journal.refusals
        if journal.failing:
            return
        if refused and not self.full:
            self.full = True
            self._report(
                "journal: full of events that PostgreSQL has not taken; answering 503 until it does"
            )
        elif self.full and not refused and journal.backlog_bytes < _ROOM_AGAIN * journal.allowance:
            self.full = False
            self._report("journal: there is room again")

    def syncing(self, loop: asyncio.AbstractEventLoop) -> "list[asyncio.Task[None]]":
        """With --journal-sync interval, the task that does it."""
        if not self.durable or self._config.journal_sync != "interval":
            return []
        return [loop.create_task(self._sync_now_and_then(), name="journal's sync")]

    async def _sync_now_and_then(self) -> None:
        """What was written is on the disk an interval later at most."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._config.journal_sync_interval_s)
            try:
                await loop.run_in_executor(self._executor, self.journal.sync)
            except JournalFailed as error:
                self._report(f"journal: {error}")

    async def leave(self) -> int:
        """After the writer's end: let go of the journal. The exit status: 0 if nobody has to act."""
        rows, size = self.journal.backlog_rows, self.journal.backlog_bytes
        closing = asyncio.ensure_future(asyncio.to_thread(self.journal.close))
        await asyncio.wait({closing}, timeout=CLOSE_LIMIT_S)
        self._count_damaged()
        if isinstance(self.journal, MemoryJournal):
            return self._rescue(self.journal)
        if size:
            logger.warning(
                "%d events (%d bytes) are left in %s for the keeper or the next start",
                rows,
                size,
                self._config.journal_path,
            )
        return 0

    def _rescue(self, journal: MemoryJournal) -> int:
        """Put what PostgreSQL did not take where somebody finds it."""
        for directory in (self._config.data_dir, Path(tempfile.gettempdir())):
            try:
                rescued = journal.rescue(directory)
            except OSError as error:
                logger.error("the last events cannot be written to %s: %s", directory, error)
                continue
            if rescued is None:
                return 0
            logger.error("PostgreSQL did not take the last events; they are in %s", rescued)
            return 1
        logger.critical("the last events are lost: neither PostgreSQL nor a directory took them")
        return 1


def place_of(config: Config) -> str | None:
    """What everybody calls the directory of this host's journal; None: it is in no directory."""
    if config.journal == "off":
        return None
    return f"{socket.gethostname()}:{config.journal_path.absolute()}"


def _make(config: Config, stream: str, report: Callable[[str], None]) -> Journal | MemoryJournal:
    if config.journal == "off":
        return MemoryJournal(
            stream, max_rows=config.write_queue, max_bytes=config.write_queue_bytes
        )
    return Journal(
        config.journal_path, stream, segment_bytes=config.journal_segment_bytes, report=report
    )
