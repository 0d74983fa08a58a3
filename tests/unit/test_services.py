"""A service that dies is started again, at once after a good run, with growing pauses after bad ones."""

from dataclasses import dataclass, field

import pytest

from prefork_ads.errors import DatabaseUnavailable
from prefork_ads.process.services import Service
from prefork_ads.process.slots import FIRST_PAUSE_S, STABLE_AFTER_S


@dataclass
class Database:
    """Something that can be started; each start has the next pid, or fails."""

    pid: int | None = 100
    failures: list[Exception] = field(default_factory=list)

    def start(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.pid = (self.pid or 100) + 1


def watched(database: Database, now_s: float = 0.0) -> Service:
    service = Service("postgres", lambda: database.pid, database.start)
    service.watch(now_s)
    return service


def test_a_living_service_is_left_alone() -> None:
    service = watched(Database())
    assert service.restart_at_s is None
    assert not service.gone(4711, 1.0)
    assert service.restart_at_s is None


def test_after_a_good_run_it_is_started_at_once() -> None:
    database = Database()
    service = watched(database)
    assert service.gone(100, STABLE_AFTER_S)
    due_s = service.restart_at_s
    assert due_s is not None
    assert due_s <= STABLE_AFTER_S
    service.restart(lambda: 10.0)
    assert service.restart_at_s is None
    assert service.gone(101, 20.0), "its new pid is watched"


def test_after_a_short_run_there_is_a_pause() -> None:
    service = watched(Database())
    assert service.gone(100, 1.0)
    assert service.restart_at_s == pytest.approx(1.0 + FIRST_PAUSE_S)


@pytest.mark.parametrize("error", [DatabaseUnavailable("no disk"), OSError("no processes")])
def test_a_start_that_fails_is_tried_again_later(error: Exception) -> None:
    database = Database(failures=[error])
    service = watched(database)
    service.gone(100, STABLE_AFTER_S)
    service.restart(lambda: 10.0)
    assert service.restart_at_s == pytest.approx(10.0 + FIRST_PAUSE_S)
    service.restart(lambda: 11.0)
    assert service.restart_at_s is None


def test_a_service_that_was_dead_when_we_began_to_watch_is_started() -> None:
    database = Database(pid=None)
    service = watched(database)
    assert service.restart_at_s is not None
    service.restart(lambda: 1.0)
    assert service.restart_at_s is None
