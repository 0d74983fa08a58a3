"""What the dead have left goes to a real PostgreSQL, whatever is the matter with one of the files."""

import errno
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from prefork_ads.config import Config
from prefork_ads.events import lines as lines_module
from prefork_ads.events.event import EventClock, line
from prefork_ads.events.journal import UNREADABLE_S
from prefork_ads.events.segments import DAMAGED, SUFFIX, new_stream, segment_name
from prefork_ads.events.uuid7 import Uuid7
from prefork_ads.metrics import CELLS, Counter, Gauge
from prefork_ads.process.orphans import Orphans
from prefork_ads.process.scoreboard import Scoreboard, Seat
from tests.conftest import Database
from tests.unit.journal_bed import Clock, FaultyOs, names


@dataclass
class Bed:
    """A directory, who looks after it, and a clock to turn."""

    config: Config
    seat: Seat
    clock: Clock = field(default_factory=Clock)
    orphans: Orphans = field(init=False)

    def __post_init__(self) -> None:
        self.orphans = Orphans(self.config, self.seat, self.clock)

    def leave(self, number: int, data: bytes = b"") -> Path:
        """What a killed worker has left, an event and this; a greater number is a younger one."""
        stamp = EventClock(Uuid7()).stamp()
        data += line(stamp, b"log", b'{"n":"%d"}' % number, None, None, "", None) + b"\n"
        stream = new_stream("test", os.getpid(), time.time() - 100 + number)
        path = self.config.journal_path / (segment_name(stream, 1) + SUFFIX)
        path.write_bytes(data)
        return path

    def look(self) -> bool:
        return self.orphans.ship(lambda: None, math.inf)

    def damaged(self) -> int:
        return self.seat.counters[Counter.JOURNAL_DAMAGED]

    def oldest_ms(self) -> int:
        return self.seat.gauges[Gauge.JOURNAL_OLDEST_MILLISECONDS]


@pytest.fixture
def bed(database: Database, tmp_path: Path) -> Bed:
    seat = Scoreboard(counters=CELLS, gauges=len(Gauge)).free_seat()
    assert seat is not None
    config = Config(dsn=database.dsn, data_dir=tmp_path)
    config.journal_path.mkdir()
    return Bed(config, seat)


def numbers(database: Database) -> list[int]:
    return [
        int(row[0]) for row in database.fetch("SELECT params->>'n' FROM request_log ORDER BY 1")
    ]


def test_all_are_shipped_and_removed(bed: Bed, database: Database) -> None:
    for number in (1, 2):
        bed.leave(number)
    assert bed.look()
    assert numbers(database) == [1, 2]
    assert names(bed.config.journal_path) == []
    assert bed.seat.counters[Counter.JOURNAL_ADOPTED] == 2
    # At once: whoever is paged for events that wait is told when they do not any more.
    assert bed.oldest_ms() == 0


def test_one_that_cannot_be_set_aside_does_not_stop_the_others(
    bed: Bed, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Its good lines are shipped all the same, once; it is told once, and counted when it is moved."""
    journal = bed.config.journal_path
    (journal / DAMAGED).write_bytes(b"somebody else's")
    broken = bed.leave(1, b"not an event\n")
    bed.leave(2)
    for _ in range(3):
        assert bed.look()
        bed.clock.now += UNREADABLE_S
    assert numbers(database) == [1, 2]
    assert names(journal) == sorted([DAMAGED, broken.name])
    [told] = [record for record in caplog.records if "cannot be shipped" in record.getMessage()]
    assert told.levelname == "WARNING"
    assert broken.stem in told.getMessage()
    assert "Not a directory" in told.getMessage()
    assert bed.damaged() == 0
    assert bed.oldest_ms() > 0

    (journal / DAMAGED).unlink()
    assert bed.look()
    assert names(journal / DAMAGED) == [broken.name]
    assert bed.damaged() == 1
    assert numbers(database) == [1, 2]


def test_one_that_cannot_be_read_is_left_alone_for_a_while(
    bed: Bed, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails may take long to say so: not every few seconds. Those behind it go on meanwhile."""
    bed.leave(1)
    faulty = FaultyOs()
    monkeypatch.setattr(lines_module, "os", faulty)
    faulty.read_error = errno.EIO
    assert bed.look()
    faulty.read_error = 0
    bed.leave(2)
    assert bed.look()
    assert numbers(database) == [2]
    bed.clock.now += UNREADABLE_S
    assert bed.look()
    assert numbers(database) == [1, 2]
    assert names(bed.config.journal_path) == []


def test_another_reason_is_news(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bed.leave(1)
    faulty = FaultyOs()
    monkeypatch.setattr(lines_module, "os", faulty)
    for error in (errno.EIO, errno.EIO, errno.ESTALE):
        faulty.read_error = error
        assert bed.look()
        bed.clock.now += UNREADABLE_S
    told = [record.getMessage() for record in caplog.records]
    assert [text.rpartition(": ")[2] for text in told] == [
        os.strerror(errno.EIO),
        os.strerror(errno.ESTALE),
    ]
