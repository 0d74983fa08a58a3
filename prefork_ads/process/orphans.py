"""Segments of the journal that nobody owns any more: found, counted, shipped.

Each host's keeper does this for the directory of its server, without leadership: a lock on the file says
whose it is. With PostgreSQL away they wait; their bytes count against --journal-max-bytes.

One that cannot be shipped (its disk fails, it cannot be set aside, it is another user's) does not stop
those behind it. It is told once for each reason, and tried again after a while.

Must not know: what is in them, when to look.
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prefork_ads.config import Config
from prefork_ads.db import adoption
from prefork_ads.db.shipping import Attribution
from prefork_ads.events.journal import UNREADABLE_S
from prefork_ads.events.segments import (
    SegmentFile,
    adopt,
    first_event_s,
    list_segments,
    remove_leftovers,
    why_not,
)
from prefork_ads.metrics import Counter, Gauge
from prefork_ads.process.log import logger
from prefork_ads.process.scoreboard import Seat


@dataclass(slots=True)
class _Known:
    """What is remembered of one file from look to look."""

    # In seconds since 1970; None: nobody has asked yet.
    oldest_s: float | None = None
    # What was told of it last, and until when it is left alone.
    trouble: str = ""
    skip_until_s: float = -math.inf


class Orphans:
    """What the dead have left in one directory."""

    def __init__(
        self, config: Config, seat: Seat, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._counters, self._gauges = seat.counters, seat.gauges
        self._clock = clock
        self._known: dict[str, _Known] = {}

    def ship(self, beat: Callable[[], None], until_s: float) -> bool:
        """Ship them, the oldest first. False: the time was over before the last.

        `beat` is called now and then. Raises psycopg2.Error and PreforkAdsError; OSError if the directory
        cannot be read.
        """
        remove_leftovers(self._config.journal_path)
        now_s = self._clock()
        due = [file for file in self._look() if self._known[file.name].skip_until_s <= now_s]
        if not due:
            return True
        with adoption.connection(self._config.dsn or "") as connection:
            for file in due:
                if self._clock() >= until_s:
                    return False
                try:
                    self._ship_one(connection, file, beat)
                except OSError as error:
                    self._known[file.name].skip_until_s = self._clock() + UNREADABLE_S
                    self._tell(file, why_not(file.path, error))
        # How old the oldest is without those.
        self._look()
        return True

    def waiting_bytes(self) -> int:
        """How much there is, the part that was shipped before its owner died included."""
        return sum(file.size for file in self._look())

    def _look(self) -> list[SegmentFile]:
        listed = list_segments(self._config.journal_path)
        self._known = {file.name: self._known.get(file.name) or _Known() for file in listed}
        for file in listed:
            if file.trouble:
                self._tell(file, file.trouble)
        found = [file for file in listed if file.alive is False]
        self._gauges[Gauge.JOURNAL_BYTES] = sum(file.size for file in found)
        self._gauges[Gauge.JOURNAL_OLDEST_MILLISECONDS] = self._age_ms(found)
        return found

    def _age_ms(self, found: list[SegmentFile]) -> int:
        """The age of the oldest event; never less, for some may be in the table since before the death."""
        oldest_s = now_s = time.time()
        for file in found:
            known = self._known[file.name]
            if known.oldest_s is None and file.size:
                known.oldest_s = _oldest_s(file.path)
            oldest_s = min(oldest_s, known.oldest_s or now_s)
        return int((now_s - oldest_s) * 1000)

    def _tell(self, file: SegmentFile, trouble: str) -> None:
        known = self._known[file.name]
        if trouble != known.trouble:
            known.trouble = trouble
            logger.warning("journal: %s cannot be shipped: %s", file.name, trouble)

    def _ship_one(
        self, connection: adoption.Connection, file: SegmentFile, beat: Callable[[], None]
    ) -> None:
        segment = adopt(file.path)
        if segment is None:
            return
        before = self._gauges[Gauge.JOURNAL_BYTES]

        def progress(position: int) -> None:
            self._gauges[Gauge.JOURNAL_BYTES] = max(0, before - position)
            beat()

        with segment:
            outcome = adoption.ship(
                connection,
                segment,
                max_rows=self._config.write_batch,
                max_bytes=self._config.write_batch_bytes,
                now_unix_s=time.time(),
                progress=progress,
                attribution=Attribution(
                    self._config.click_attribution_s, self._config.view_attribution_s
                ),
            )
        self._gauges[Gauge.JOURNAL_BYTES] = max(0, before - file.size)
        self._count(outcome)
        for worth_a_look, words in outcome.in_words():
            (logger.warning if worth_a_look else logger.info)("%s", words)

    def _count(self, outcome: adoption.Outcome) -> None:
        counters = self._counters
        counters[Counter.JOURNAL_ADOPTED] += 1
        counters[Counter.JOURNAL_TORN] += bool(outcome.torn_bytes)
        counters[Counter.JOURNAL_DAMAGED] += outcome.aside is not None
        counters[Counter.LOG_ROWS] += outcome.rows
        counters[Counter.LOG_ROWS_REJECTED] += outcome.rejected


def _oldest_s(path: Path) -> float | None:
    """When its first event was; where that cannot be read, when it was written last. None: it is gone."""
    with contextlib.suppress(OSError):
        if (first_s := first_event_s(path)) is not None:
            return first_s
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return None
