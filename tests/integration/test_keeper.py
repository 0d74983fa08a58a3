"""The keeper as a process of its own on a real database: it works, waits, obeys and lets go."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from prefork_ads.config import Config
from prefork_ads.events.event import EventClock, line
from prefork_ads.events.journal import Journal
from prefork_ads.events.segments import new_stream
from prefork_ads.events.uuid7 import Uuid7
from prefork_ads.metrics import CELLS, Gauge
from prefork_ads.process import keeper, log, spawn
from prefork_ads.process.context import ChildContext
from prefork_ads.process.scoreboard import Scoreboard, Seat, State
from tests.conftest import Database
from tests.support import wait_until

OTHERS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
WAITING = f"{OTHERS} AND wait_event_type = 'Lock'"


@dataclass
class Running:
    """A keeper that was forked."""

    pid: int
    seat: Seat
    log_path: Path
    status: int | None = None

    def said(self, words: str) -> bool:
        return words in self.log_path.read_text()

    def wait_for(self, words: str) -> None:
        wait_until(lambda: self.said(words), f"the keeper to say {words!r}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.status is None:
            os.kill(self.pid, number)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status


@dataclass
class Keepers:
    """Forks keepers and ends those that a test has left."""

    folder: Path
    started: list[Running] = field(default_factory=list)

    def start(self, dsn: str, **settings: object) -> Running:
        board = Scoreboard(counters=CELLS, gauges=len(Gauge))
        seat = board.free_seat()
        assert seat is not None
        seat.take(-1, 1, 0.0)
        read, write = os.pipe()
        context = ChildContext(
            slot=-1,
            generation=1,
            config=Config(dsn=dsn, data_dir=self.folder).replace(**settings),
            listeners=[],
            seat=seat,
            scoreboard=board,
            parent_pid=os.getpid(),
            wake_fd=write,
        )
        log_path = self.folder / f"keeper-{len(self.started)}.log"

        def shed() -> None:
            os.dup2(os.open(log_path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)

        log_path.touch()
        pid = spawn.spawn("keeper", context, keeper.keeper_main, shed)
        running = Running(pid, seat, log_path)
        self.started.append(running)
        assert os.read(read, 1) == b"\0"
        assert seat.state is State.READY
        os.close(read)
        os.close(write)
        return running


@pytest.fixture
def keepers(tmp_path: Path) -> Iterator[Keepers]:
    made = Keepers(tmp_path)
    yield made
    for running in made.started:
        running.stop(signal.SIGKILL)
    log.logger.handlers.clear()


def days(database: Database) -> int:
    (row,) = database.fetch("SELECT count(*) FROM request_log_partition")
    return int(row[0])


def test_it_makes_the_days_and_ends_when_told(database: Database, keepers: Keepers) -> None:
    assert days(database) == 0
    running = keepers.start(database.dsn)
    wait_until(lambda: days(database) >= 8, "today and a week ahead")
    running.wait_for("made 9 days of request_log")
    assert running.stop() == 0


def test_old_days_are_dropped_by_the_configured_retention(
    database: Database, keepers: Keepers
) -> None:
    database.execute("SELECT request_log_ensure(current_date - 40, current_date - 30)")
    running = keepers.start(database.dsn, retention_days=35)
    running.wait_for("dropped, too old: request_log_")
    (row,) = database.fetch("SELECT current_date - min(day) FROM request_log_partition")
    assert row[0] <= 36
    assert running.stop() == 0


def test_a_database_that_is_away_is_waited_for(keepers: Keepers) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else's
        dsn = f"postgresql://nobody@127.0.0.1:{nobody.getsockname()[1]}/none"
        running = keepers.start(dsn)
        running.wait_for("cannot be reached")
        first_deadline_s = running.seat.deadline
        wait_until(lambda: running.seat.deadline > first_deadline_s, "a heartbeat")
        assert running.log_path.read_text().count("cannot be reached") == 1
        assert running.stop() == 0


def test_it_does_not_lead_where_it_may_not_write(database: Database, keepers: Keepers) -> None:
    """A standby grants the lock that makes a leader, and refuses everything that one does."""
    name = database.name
    database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    running = keepers.start(database.dsn)
    running.wait_for("session is read-only")
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = off")
        cursor.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    running.wait_for("keeps this database's days")
    assert running.log_path.read_text().count("keeps this database's days") == 1
    assert running.stop() == 0


def test_a_peer_that_swallows_everything_does_not_hold_it_up(
    keepers: Keepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "CONNECT_LIMIT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        running = keepers.start(f"postgresql://nobody@127.0.0.1:{mute.getsockname()[1]}/none")
        running.wait_for("no connection within 0.2 s")
        assert running.stop() == 0


def test_while_a_statement_waits_it_beats_and_can_be_stopped(
    database: Database, keepers: Keepers
) -> None:
    with closing(database.connect(autocommit=False)) as holder, holder.cursor() as cursor:
        # What making a day takes; held, the keeper is stuck for longer than a heartbeat lasts.
        cursor.execute("LOCK TABLE ONLY request_log IN SHARE UPDATE EXCLUSIVE MODE")
        running = keepers.start(database.dsn, worker_timeout_s=0.2)
        wait_until(lambda: database.fetch(WAITING) == [(1,)], "the keeper to wait for the lock")
        seen_s = running.seat.deadline
        wait_until(lambda: running.seat.deadline > seen_s + 0.5, "heartbeats")
        assert running.stop() == 0
        wait_until(lambda: database.fetch(WAITING) == [(0,)], "the statement to be cancelled")


def test_the_last_look_ships_all_though_the_days_are_due(
    database: Database, keepers: Keepers
) -> None:
    """Other looks make room for them; a keeper that was stopped at their work does not go on with it."""
    database.execute("SELECT request_log_ensure(current_date - 1, current_date + 1)")
    config = Config(data_dir=keepers.folder)
    config.journal_path.mkdir(mode=0o700)
    left = Journal(config.journal_path, new_stream("test", 1, time.time()), segment_bytes=1 << 16)
    stamp = EventClock(Uuid7()).stamp()
    assert left.append(line(stamp, b"log", b"{}", b"test", None, "192.0.2.1", None))
    left.write()
    left.close()
    with closing(database.connect(autocommit=False)) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE ONLY request_log IN SHARE UPDATE EXCLUSIVE MODE")
        running = keepers.start(database.dsn)
        wait_until(lambda: database.fetch(WAITING) == [(1,)], "the keeper to wait for the lock")
        assert running.stop() == 0
    assert database.fetch("SELECT count(*) FROM request_log") == [(1,)]


def test_of_two_keepers_one_leads_and_the_other_takes_over(
    database: Database, keepers: Keepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "FOLLOW_EVERY_S", 0.1)
    first = keepers.start(database.dsn)
    first.wait_for("keeps this database's days")
    second = keepers.start(database.dsn)
    asked = _connections(database, 2)
    wait_until(asked, "both to be connected")
    assert not second.said("keeps this database's days")
    first.stop(signal.SIGKILL)
    second.wait_for("keeps this database's days")


def _connections(database: Database, count: int) -> Callable[[], bool]:
    return lambda: database.fetch(OTHERS) == [(count,)]


def test_a_lost_connection_is_made_again_and_leadership_with_it(
    database: Database, keepers: Keepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "TICK_EVERY_S", 0.1)
    running = keepers.start(database.dsn)
    running.wait_for("keeps this database's days")
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    def led_twice() -> bool:
        return running.log_path.read_text().count("keeps this database's days") == 2

    wait_until(led_twice, "the keeper to lead again")
    assert running.stop() == 0


def test_a_lost_connection_is_made_again_before_the_next_tick(
    database: Database, keepers: Keepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the dead of this host have held comes back within seconds, behind a fail-over, too."""
    monkeypatch.setattr(keeper, "TICK_EVERY_S", 600.0)
    monkeypatch.setattr(keeper, "LOOK_EVERY_S", 0.1)
    running = keepers.start(database.dsn)
    settled = f"{OTHERS} AND state = 'idle' AND position('lease_settle' IN query) > 0"
    wait_until(lambda: database.fetch(settled) == [(1,)], "its first look to be over")
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    place = f"{socket.gethostname()}:{(keepers.folder / 'journal').absolute()}"
    database.execute(
        "INSERT INTO lease_holder (holder, since, turn, journal, seen_at, up_to, window_s)"
        " VALUES ('gone-1-0', now(), 1, %s, now() - interval '1 minute', now(), 900)",
        place,
    )
    wait_until(
        lambda: database.fetch("SELECT count(*) FROM lease_holder") == [(0,)],
        "the leases of the dead to be back",
    )
    assert running.stop() == 0


def test_a_worker_that_nobody_has_buried_yet_is_news_once() -> None:
    """A master that is held up buries nobody; its keeper must not turn in circles meanwhile."""
    board = Scoreboard(counters=CELLS, gauges=len(Gauge))
    seat = board.free_seat()
    assert seat is not None
    seat.take(0, 1, 0.0)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    seat.pid = pid
    workers = keeper._Workers()
    assert not workers.ended(board)
    os.close(write)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert workers.ended(board)
    assert not workers.ended(board)
    assert not workers.descriptors
    os.waitpid(pid, 0)
    seat.vacate()
    assert not workers.ended(board)
    seat.take(0, 1, 0.0)
    # The kernel may give the same number again.
    seat.pid = os.getpid()
    assert not workers.ended(board)
    assert len(workers.descriptors) == 1
    os.close(*workers.descriptors)
