"""The keeper: one child that looks after the database's days, and after what dead workers have left.

Once a minute and when the UTC day changes it runs `db.partitions.tick`, provided that it leads: of
all keepers on one database, those of other machines included, the holder of an advisory lock does
the work and the others ask now and then whether the lock is free.

A statement may take minutes (a VACUUM of a whole day). Meanwhile the keeper has to show the master
that it is alive and has to obey SIGTERM. psycopg2 offers a hook for waiting on a connection, made for
cooperative threads: ours waits for the connection and for signals at once, and beats. So plain
blocking calls stay interruptible without a thread or an event loop. With the hook, libpq no longer
minds connect_timeout, so the hook does.

Every few seconds, and at once when a worker has ended, it ships what is left in the journal's
directory; each host's keeper does, leader or not. What dead workers have held of budgets goes back after
that. When it is told to stop, after the last worker, it ships once more within a few seconds: a stop
leaves an empty directory if PostgreSQL is there.

The database may be away for as long as it likes: nothing here is urgent, a week of days is made
ahead. If the server was started without it, migrating is the keeper's first work.

When the master was killed it sees the workers off before it ends itself, see `survivors`.

Must not know: SQL, workers, what a partition is.
"""

import contextlib
import datetime
import math
import os
import select
import signal
import socket
import time
from collections.abc import Collection
from typing import NoReturn

import psycopg2
import psycopg2.extensions

from prefork_ads.db import budgets, partitions, session
from prefork_ads.db.data_dir import trim_log
from prefork_ads.db.migrate import migrate
from prefork_ads.db.shipping import Attribution
from prefork_ads.errors import PreforkAdsError, SchemaError
from prefork_ads.metrics import Counter
from prefork_ads.process import log, survivors
from prefork_ads.process.context import ChildContext
from prefork_ads.process.journaling import place_of
from prefork_ads.process.log import logger
from prefork_ads.process.orphans import Orphans
from prefork_ads.process.scoreboard import Scoreboard
from prefork_ads.process.slots import Backoff

TICK_EVERY_S = 60.0
# How soon a keeper notices that the leader has gone, its own predecessor after a reload above all.
FOLLOW_EVERY_S = 5.0
CONNECT_LIMIT_S = 10.0
CANCEL_LIMIT_S = 1.0
# How often the journal's directory is looked at when no worker has ended, for files of other servers
# and of what was missed.
LOOK_EVERY_S = 5.0
# What a stop allows for the last look.
LAST_LOOK_S = 5.0

_SECONDS_PER_DAY = 86_400


def keeper_main(context: ChildContext, *, migrates: bool = False) -> int:
    """The entry point the master forks into; returns the exit status.

    `migrates`: the server was started while PostgreSQL was away, so nobody has looked at the schema.
    """
    return Keeper(context, migrates=migrates).run()


class _Stopped(Exception):
    """SIGTERM came while we waited, or the time for the last look is over."""


class Keeper:
    """The keeper of one server."""

    def __init__(self, context: ChildContext, *, migrates: bool = False) -> None:
        self._context = context
        self._migrates = migrates
        self._signals, self._signals_out = socket.socketpair()
        self._terminated = False
        self._connection: partitions.Connection | None = None
        self._leads = False
        self._backoff = Backoff()
        self._tick_at_s = 0.0
        self._orphans = Orphans(context.config, context.seat)
        self._look_at_s = 0.0
        self._look_backoff = Backoff()
        self._workers = _Workers()
        self._end_s = math.inf
        # What was said last of each kind of trouble.
        self._troubles: dict[str, str] = {}

    def run(self) -> int:
        """Keep until SIGTERM."""
        self._take_signals()
        psycopg2.extensions.set_wait_callback(self._wait_for_database)
        # What follows may fail for hours without any harm to serving: nobody waits for it.
        self._context.announce_ready()
        try:
            while True:
                if time.monotonic() >= self._tick_at_s:
                    self._tick_at_s = self._round() + time.monotonic()
                if time.monotonic() >= self._look_at_s:
                    self._look_at_s = self._look() + time.monotonic()
                self._pause()
        except _Stopped:
            if self._context.orphaned:
                # Those who drain may take their time: somebody else is to lead meanwhile.
                self._disconnect()
                survivors.see_off(self._context.scoreboard, self._context.config.drain_timeout_s)
            self._look_once_more()
            return 0
        finally:
            psycopg2.extensions.set_wait_callback(None)
            self._disconnect()

    def _round(self) -> float:
        """Do what is due; how long to pause then, in seconds."""
        self._trim_log()
        try:
            self._tick()
        except (psycopg2.Error, PreforkAdsError) as error:
            self._disconnect()
            self._say_once("days", session.first_line(error))
            now_s = time.monotonic()
            self._backoff.failed(now_s)
            return self._backoff.not_before_s - now_s
        self._troubles.pop("days", None)
        self._backoff.cleared()
        if not self._leads:
            return FOLLOW_EVERY_S
        return min(TICK_EVERY_S, _until_next_day_s())

    def _look(self) -> float:
        """Ship what dead workers have left; how long to pause then, in seconds."""
        what = "journal"
        try:
            done = self._orphans.ship(self._beat, self._tick_at_s)
            what = "rollup and leases"
            self._settle()
        except (psycopg2.Error, PreforkAdsError, OSError) as error:
            self._say_once("look", f"{what}: {session.first_line(error)}")
            now_s = time.monotonic()
            self._look_backoff.failed(now_s)
            return self._look_backoff.not_before_s - now_s
        self._troubles.pop("look", None)
        self._look_backoff.cleared()
        return LOOK_EVERY_S if done else 0.0

    def _settle(self) -> None:
        """What the rollup has to fold, what the dead have held of budgets; if the days have a connection."""
        if self._connection is None:
            return
        if self._connection.closed:
            # Not only with the next minute's tick: others may lead meanwhile, but what the dead of this
            # host have held only we give back.
            self._disconnect()
            self._tick_at_s = 0.0
            return
        if self._leads:
            partitions.fold(self._connection)
        config = self._context.config
        settled = budgets.settle(self._connection, config.journal_path, place_of(config))
        for holder, unused in settled:
            if unused:
                logger.info("%s: leases for %d ads that it did not serve are back", holder, unused)

    def _look_once_more(self) -> None:
        """The workers are gone: what they could not ship, the one after the other."""
        self._terminated = False
        with contextlib.suppress(BlockingIOError):
            # Else every wait would end at once.
            self._signals.recv(64)
        self._end_s = time.monotonic() + min(LAST_LOOK_S, self._context.config.drain_timeout_s / 2)
        # A look makes room for the days' work when that is due, as it is for who was stopped at it.
        self._tick_at_s = self._end_s
        with contextlib.suppress(_Stopped):
            self._look()
        with contextlib.suppress(OSError):
            if left_bytes := self._orphans.waiting_bytes():
                logger.warning(
                    "%d bytes of events are left in %s for the next start",
                    left_bytes,
                    self._context.config.journal_path,
                )

    def _trim_log(self) -> None:
        """The embedded server's log, when there is one: each host looks after its own."""
        try:
            trim_log(self._context.config.data_dir)
        except OSError as error:
            self._say_once("log", f"the log of PostgreSQL cannot be trimmed: {error}")

    def _tick(self) -> None:
        config = self._context.config
        if self._migrates:
            self._migrate()
        if self._connection is None or self._connection.closed:
            self._leads = False
            self._connection = partitions.connect(config.dsn or "")
        if not self._leads:
            self._leads = partitions.take_leadership(self._connection)
            if not self._leads:
                return
            logger.info("keeps this database's days from now on")
        _tell(
            partitions.tick(
                self._connection,
                log_table=config.log_table,
                retention_days=config.retention_days,
                attribution=Attribution(config.click_attribution_s, config.view_attribution_s),
            )
        )
        budgets.clean(self._connection)

    def _migrate(self) -> None:
        """What the start could not do. A schema that cannot be brought up to date is left to a person."""
        try:
            migrate(self._context.config.dsn or "", report=_say, wait_s=0)
        except SchemaError as error:
            logger.error("started without PostgreSQL, whose schema does not fit: %s", error)
        self._migrates = False

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _say_once(self, kind: str, trouble: str) -> None:
        """A database that is away fails every few seconds in the same words."""
        if trouble != self._troubles.get(kind):
            logger.warning("%s", trouble)
        self._troubles[kind] = trouble

    # Waiting.

    def _take_signals(self) -> None:
        for end in (self._signals, self._signals_out):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signals_out.fileno())
        signal.signal(signal.SIGTERM, self._on_term)

    def _on_term(self, number: int, frame: object) -> None:
        self._terminated = True

    def _pause(self) -> None:
        """Until something is due."""
        while True:
            if self._workers.ended(self._context.scoreboard):
                self._look_at_s = max(time.monotonic(), self._look_backoff.not_before_s)
            left_s = min(self._tick_at_s, self._look_at_s) - time.monotonic()
            if left_s <= 0:
                return
            self._wait(left_s)

    def _beat(self) -> None:
        self._wait(0.0)

    def _wait_for_database(self, connection: partitions.Connection) -> None:
        """psycopg2 calls this whenever it would block."""
        connecting = connection.status == psycopg2.extensions.STATUS_SETUP
        limit_s = time.monotonic() + CONNECT_LIMIT_S if connecting else float("inf")
        while (wanted := connection.poll()) != psycopg2.extensions.POLL_OK:
            write = wanted == psycopg2.extensions.POLL_WRITE
            try:
                self._wait(limit_s - time.monotonic(), connection, write=write)
            except _Stopped:
                # The server would finish a statement whose client has gone, a VACUUM for instance.
                if not connecting:
                    _cancel(connection)
                raise
            if time.monotonic() > limit_s:
                _connect_timed_out()

    def _wait(
        self,
        seconds: float,
        connection: partitions.Connection | None = None,
        *,
        write: bool = False,
    ) -> None:
        """Until the connection can go on, a signal comes, the time is over, or a beat is due."""
        beat_every_s = self._context.config.worker_timeout_s / 4
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        if connection is None:
            for descriptor in self._workers.descriptors:
                poll.register(descriptor, select.POLLIN)
        else:
            poll.register(connection.fileno(), select.POLLOUT if write else select.POLLIN)
        self._context.beat()
        poll.poll(max(0.0, min(seconds, beat_every_s)) * 1000)
        self._context.beat()
        self._context.seat.counters[Counter.LOG_LINES_DROPPED] += log.push()
        if self._terminated or time.monotonic() > self._end_s:
            raise _Stopped


class _Workers:
    """Whether a worker has ended: the kernel tells whoever holds a descriptor of a process."""

    def __init__(self) -> None:
        self._by_pid: dict[int, int] = {}
        # Ended, and still in a seat: the master has not buried them yet, which may take it a while.
        self._unburied: set[int] = set()

    @property
    def descriptors(self) -> Collection[int]:
        """Readable when their processes have ended."""
        return self._by_pid.values()

    def ended(self, board: Scoreboard) -> bool:
        """Whether one has since the last time; those that are new are watched from now on."""
        over = [pid for pid, descriptor in self._by_pid.items() if _is_readable(descriptor)]
        for pid in over:
            os.close(self._by_pid.pop(pid))
        seated = {seat.pid for seat in board.occupied() if seat.slot >= 0 and seat.pid}
        self._unburied = (self._unburied | set(over)) & seated
        for pid in seated - self._by_pid.keys() - self._unburied:
            # One that has ended meanwhile, or a kernel that does not know how: the next look will come
            # in any case.
            with contextlib.suppress(OSError):
                self._by_pid[pid] = os.pidfd_open(pid)
        return bool(over)


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _say(message: str) -> None:
    logger.info("%s", message)


def _cancel(connection: partitions.Connection) -> None:
    """End the statement under way, by a process for that alone.

    It takes another connection: libpq waits without a limit for one to a server that is stopped, and psycopg2
    holds the interpreter's lock meanwhile, so a thread would not do.
    """
    pid = os.fork()
    if pid == 0:
        try:
            connection.cancel()
        finally:
            os._exit(0)
    give_up_s = time.monotonic() + CANCEL_LIMIT_S
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > give_up_s:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(0.01)


def _connect_timed_out() -> NoReturn:
    raise psycopg2.OperationalError(f"no connection within {CONNECT_LIMIT_S:g} s")


def _until_next_day_s() -> float:
    """A day that begins is looked at at once. The minute's tick would do; this is for retention."""
    seconds = datetime.datetime.now(datetime.UTC).timestamp() % _SECONDS_PER_DAY
    return _SECONDS_PER_DAY - seconds + 1.0


def _tell(report: partitions.Report) -> None:
    if report.created:
        logger.info("made %d days of request_log", report.created)
    if report.attributed:
        logger.info("attributed %d conversions that came before their clicks", report.attributed)
    for what, names in (
        ("converted", report.converted),
        ("dropped, too old:", report.dropped),
        ("vacuumed", report.vacuumed),
        ("postponed, somebody holds a lock:", report.postponed),
    ):
        if names:
            logger.info("%s %s", what, ", ".join(names))
