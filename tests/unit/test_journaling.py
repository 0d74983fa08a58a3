"""A worker's journal in its process: what of it shows in the metrics."""

import asyncio
import os
from pathlib import Path

import pytest

from prefork_ads.config import Config
from prefork_ads.events.journal import Journal
from prefork_ads.metrics import CELLS, Counter, Gauge
from prefork_ads.process.context import ChildContext
from prefork_ads.process.journaling import Journaling
from prefork_ads.process.scoreboard import Scoreboard
from tests.unit.journal_bed import names, put, ship_all


@pytest.fixture
def context(tmp_path: Path) -> ChildContext:
    board = Scoreboard(counters=CELLS, gauges=len(Gauge))
    seat = board.free_seat()
    assert seat is not None
    seat.take(0, 1, 0.0)
    config = Config(dsn="", data_dir=tmp_path)
    config.journal_path.mkdir()
    return ChildContext(
        slot=0,
        generation=1,
        config=config,
        listeners=[],
        seat=seat,
        scoreboard=board,
        parent_pid=os.getpid(),
        wake_fd=-1,
    )


@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_damaged_segment_of_a_living_worker_is_counted(
    context: ChildContext, at_the_end: bool
) -> None:
    """As one of a dead worker is: whoever finds the damage, somebody has to look at the disk."""
    said: list[str] = []
    journaling = Journaling(context, said.append)
    journal = journaling.journal
    assert isinstance(journal, Journal)
    put(journal, 1)
    [path] = context.config.journal_path.iterdir()
    path.write_bytes(bytes(path.stat().st_size))
    ship_all(journal)

    if at_the_end:
        assert asyncio.run(journaling.leave()) == 0
    else:
        journal.close()
        journaling.tend()
        journaling.tend()
    assert names(context.config.journal_path / "damaged") == [path.name]
    assert context.seat.counters[Counter.JOURNAL_DAMAGED] == 1
    assert any("damaged" in line for line in said)
