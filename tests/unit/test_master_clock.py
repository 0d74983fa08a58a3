"""When the master wakes up: a time that is over and changes nothing must not keep it awake."""

import math
import os
from types import SimpleNamespace

import pytest

from prefork_ads.config import Config
from prefork_ads.metrics import CELLS, Gauge
from prefork_ads.process.master import Master
from prefork_ads.process.scoreboard import Scoreboard
from prefork_ads.process.slots import Start


def test_a_stop_that_waits_for_children_sleeps_although_the_other_masters_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The keeper drains after the workers and with a time of its own, so it may well be over."""
    board = Scoreboard(counters=CELLS, gauges=len(Gauge))
    master = Master(
        Config(workers=1, port=0),
        worker_main=lambda context: 0,
        keeper_main=lambda context: 0,
        load_config=Config,
        scoreboard=board,
    )
    crew = SimpleNamespace(wake_at_s=lambda: math.inf)
    monkeypatch.setattr(master, "_crew", crew, raising=False)
    monkeypatch.setattr(master, "_alone_at_s", 1.0)
    assert master._wake_at_s() == 1.0
    master._children.started(Start(0, 1), pid=4711, seat=0)
    assert master._wake_at_s() == math.inf
    os.close(board.fd)
