"""What the crew does when the system refuses it a process, and how endings are worded."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from prefork_ads.config import Config
from prefork_ads.metrics import CELLS
from prefork_ads.process import spawn
from prefork_ads.process.children import Children
from prefork_ads.process.context import ChildContext
from prefork_ads.process.crew import Crew
from prefork_ads.process.listener import open_tcp
from prefork_ads.process.scoreboard import Scoreboard
from prefork_ads.process.slots import Start


@pytest.fixture
def crew() -> Iterator[Crew]:
    with closing(open_tcp("127.0.0.1", 0, slots=1, backlog=1)) as listeners:
        made = Crew(
            Children(1, drain_timeout_s=1.0),
            listeners=listeners,
            scoreboard=Scoreboard(counters=CELLS),
            worker_main=lambda context: 0,
            keeper_main=lambda context: 0,
            config_of=lambda generation: Config(),
            shed=lambda: None,
            older_master=lambda: None,
        )
        with closing(made):
            yield made


def starts(crew: Crew, now_s: float) -> list[Start]:
    return [action for action in crew.children.plan(now_s) if isinstance(action, Start)]


def test_a_fork_that_is_refused_is_put_off_and_its_seat_given_back(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    seats: list[ChildContext] = []

    def refuse(role: str, context: ChildContext, *_: Callable[..., object]) -> int:
        seats.append(context)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(spawn, "spawn", refuse)
    worker = starts(crew, 0.0)[0]
    crew.start(worker)
    assert len(crew.children) == 0
    assert seats[0].seat.pid == 0
    assert worker not in starts(crew, 0.0)
    assert worker in starts(crew, float("inf"))
    crew.start(worker)
    assert seats[1].seat is seats[0].seat


def test_a_full_scoreboard_puts_the_start_off(crew: Crew) -> None:
    for seat in crew._scoreboard.seats:
        seat.take(0, 1, 0.0)
    worker = starts(crew, 0.0)[0]
    crew.start(worker)
    assert len(crew.children) == 0
    assert worker not in starts(crew, 0.0)


def test_an_orphan_given_to_us_is_reaped_and_reported(crew: Crew) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    strangers: list[tuple[int, str]] = []
    crew.reap(lambda pid, ending: strangers.append((pid, ending)))
    assert strangers == [(pid, "exited status=7")]
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
