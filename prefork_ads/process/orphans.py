"""Segments of the journal that nobody owns any more: found, counted, shipped.

Each host's keeper does this for the directory of its server, without leadership: a lock on the file says
whose it is. With PostgreSQL away they wait; their bytes count against --journal-max-bytes.

Must not know: what is in them, when to look.
"""

import time
from collections.abc import Callable

from prefork_ads.config import Config
from prefork_ads.db import adoption
from prefork_ads.db.shipping import Attribution
from prefork_ads.events.segments import (
    SegmentFile,
    adopt,
    list_segments,
    remove_leftovers,
)
from prefork_ads.metrics import Counter, Gauge
from prefork_ads.process.log import logger
from prefork_ads.process.scoreboard import Seat


class Orphans:
    """What the dead have left in one directory."""

    def __init__(self, config: Config, seat: Seat) -> None:
        self._config = config
        self._counters, self._gauges = seat.counters, seat.gauges

    def ship(self, beat: Callable[[], None], until_s: float) -> bool:
        """Ship them, the oldest first. False: the time was over before the last.

        `beat` is called now and then. Raises psycopg2.Error, PreforkAdsError and OSError.
        """
        remove_leftovers(self._config.journal_path)
        found = self._look()
        if not found:
            return True
        with adoption.connection(self._config.dsn or "") as connection:
            for file in found:
                if time.monotonic() >= until_s:
                    return False
                self._ship_one(connection, file, beat)
        return True

    def waiting_bytes(self) -> int:
        """How much there is, the part that was shipped before its owner died included."""
        return sum(file.size for file in self._look())

    def _look(self) -> list[SegmentFile]:
        found = [file for file in list_segments(self._config.journal_path) if file.alive is False]
        self._gauges[Gauge.JOURNAL_BYTES] = sum(file.size for file in found)
        self._gauges[Gauge.JOURNAL_OLDEST_MILLISECONDS] = _age_ms(found)
        return found

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


def _age_ms(found: list[SegmentFile]) -> int:
    """How long ago the oldest was written for the last time."""
    written = []
    for file in found:
        try:
            written.append(file.path.stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(0, int((time.time() - min(written)) * 1000)) if written else 0
