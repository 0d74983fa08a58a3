"""What the dead have left, as far as it can be told without PostgreSQL: how much, how old, whose."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from prefork_ads.config import Config
from prefork_ads.errors import DatabaseUnavailable
from prefork_ads.events.event import EventClock, line
from prefork_ads.events.segments import SUFFIX, first_event_s, new_stream, segment_name
from prefork_ads.events.uuid7 import Uuid7
from prefork_ads.metrics import CELLS, Gauge
from prefork_ads.process.orphans import Orphans
from prefork_ads.process.scoreboard import Scoreboard, Seat
from tests.unit.journal_bed import refuse_to_open

HOUR_S = 3600.0


def stamp_of(unix_s: float) -> bytes:
    return EventClock(Uuid7(), lambda: int(unix_s * 1e9)).stamp()


@dataclass
class Left:
    """A directory with what the dead have left, and who looks after it."""

    config: Config
    seat: Seat
    orphans: Orphans = field(init=False)

    def __post_init__(self) -> None:
        self.orphans = Orphans(self.config, self.seat)

    def segment(self, *ages_s: float, data: bytes = b"") -> Path:
        """One with events of these ages, written last a moment ago."""
        now_s = time.time()
        for age_s in ages_s:
            stamp = stamp_of(now_s - age_s)
            data += line(stamp, b"log", b"{}", None, None, "", None) + b"\n"
        name = segment_name(new_stream("test", os.getpid(), now_s - HOUR_S), 1)
        path = self.config.journal_path / (name + SUFFIX)
        path.write_bytes(data)
        return path

    def oldest_s(self) -> float:
        self.orphans.waiting_bytes()
        return self.seat.gauges[Gauge.JOURNAL_OLDEST_MILLISECONDS] / 1000


@pytest.fixture
def left(tmp_path: Path) -> Left:
    seat = Scoreboard(counters=CELLS, gauges=len(Gauge)).free_seat()
    assert seat is not None
    # Nobody listens there.
    config = Config(dsn=f"host={tmp_path} connect_timeout=1", data_dir=tmp_path)
    config.journal_path.mkdir()
    return Left(config, seat)


def test_how_old_it_is_says_its_first_event_and_not_its_last(left: Left) -> None:
    """Else, with PostgreSQL away, each death of a worker would put off the alarm."""
    assert left.oldest_s() == 0
    left.segment(120.0, 0.0)
    assert left.oldest_s() == pytest.approx(120, abs=10)
    left.segment(HOUR_S, 0.0)
    left.segment(60.0)
    assert left.oldest_s() == pytest.approx(HOUR_S, abs=10)


def test_how_old_a_damaged_one_is_says_its_last_write(left: Left) -> None:
    """Its events cannot be asked; and an empty one has none."""
    path = left.segment(data=bytes(10_000))
    os.utime(path, (time.time() - 600,) * 2)
    os.utime(left.segment(), (time.time() - HOUR_S,) * 2)
    assert left.oldest_s() == pytest.approx(600, abs=10)


def test_a_file_is_read_once_for_that(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks are every few seconds, files may be thousands, and their disk may be slow."""
    asked: list[Path] = []

    def ask(path: Path) -> float | None:
        asked.append(path)
        return first_event_s(path)

    monkeypatch.setattr("prefork_ads.process.orphans.first_event_s", ask)
    paths = [left.segment(60.0), left.segment(data=b"nonsense\n")]
    for _ in range(3):
        left.oldest_s()
    assert sorted(asked) == sorted(paths)


def test_one_of_another_user_is_told_once_and_needs_no_postgresql(
    left: Left, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody will ever ship it, so somebody has to know."""
    foreign = left.segment(60.0)
    owner = foreign.stat().st_uid
    refuse_to_open(foreign, monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    for _ in range(3):
        assert left.orphans.ship(lambda: None, time.monotonic() + 60)
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert foreign.stem in record.getMessage()
    assert f"belongs to another user (uid {owner})" in record.getMessage()


def test_without_postgresql_nothing_changes_but_their_age(left: Left) -> None:
    path = left.segment(60.0)
    with pytest.raises(DatabaseUnavailable):
        left.orphans.ship(lambda: None, time.monotonic() + 60)
    assert left.seat.gauges[Gauge.JOURNAL_BYTES] == path.stat().st_size
    assert left.seat.gauges[Gauge.JOURNAL_OLDEST_MILLISECONDS] >= 60_000
