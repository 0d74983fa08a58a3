"""The keeper: one child that looks after the database's days while the workers serve.

Once a minute and when the UTC day changes it runs `db.partitions.tick`, provided that it leads: of
all keepers on one database, those of other machines included, the holder of an advisory lock does
the work and the others ask now and then whether the lock is free.

A statement may take minutes (a VACUUM of a whole day). Meanwhile the keeper has to show the master
that it is alive and has to obey SIGTERM. psycopg2 offers a hook for waiting on a connection, made for
cooperative threads: ours waits for the connection and for signals at once, and beats. So plain
blocking calls stay interruptible without a thread or an event loop. With the hook, libpq no longer
minds connect_timeout, so the hook does.

The database may be away for as long as it likes: nothing here is urgent, a week of days is made
ahead.

Must not know: SQL, workers, what a partition is.
"""

import datetime
import select
import signal
import socket
import time
from typing import NoReturn

import psycopg2
import psycopg2.extensions

from prefork_ads.db import partitions, session
from prefork_ads.db.data_dir import trim_log
from prefork_ads.errors import PreforkAdsError
from prefork_ads.process.children import Backoff
from prefork_ads.process.context import ChildContext
from prefork_ads.process.log import logger

TICK_EVERY_S = 60.0
# How soon a keeper notices that the leader has gone, its own predecessor after a reload above all.
FOLLOW_EVERY_S = 5.0
CONNECT_LIMIT_S = 10.0

_SECONDS_PER_DAY = 86_400


def keeper_main(context: ChildContext) -> int:
    """The entry point the master forks into; returns the exit status."""
    return Keeper(context).run()


class _Stopped(Exception):
    """SIGTERM came while we waited."""


class Keeper:
    """The keeper of one server."""

    def __init__(self, context: ChildContext) -> None:
        self._context = context
        self._signals, self._signals_out = socket.socketpair()
        self._terminated = False
        self._connection: partitions.Connection | None = None
        self._leads = False
        self._backoff = Backoff()
        self._trouble = ""

    def run(self) -> int:
        """Keep until SIGTERM."""
        self._take_signals()
        psycopg2.extensions.set_wait_callback(self._wait_for_database)
        # What follows may fail for hours without any harm to serving: nobody waits for it.
        self._context.announce_ready()
        try:
            while True:
                self._pause(self._round())
        except _Stopped:
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
            self._say_once(session.first_line(error))
            now_s = time.monotonic()
            self._backoff.failed(now_s)
            return self._backoff.not_before_s - now_s
        self._trouble = ""
        self._backoff.cleared()
        if not self._leads:
            return FOLLOW_EVERY_S
        return min(TICK_EVERY_S, _until_next_day_s())

    def _trim_log(self) -> None:
        """The embedded server's log, when there is one: each host looks after its own."""
        try:
            trim_log(self._context.config.data_dir)
        except OSError as error:
            self._say_once(f"the log of PostgreSQL cannot be trimmed: {error}")

    def _tick(self) -> None:
        config = self._context.config
        if self._connection is None or self._connection.closed:
            self._leads = False
            self._connection = session.connect(config.dsn or "")
            self._connection.autocommit = True
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
            )
        )

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _say_once(self, trouble: str) -> None:
        """A database that is away fails every few seconds in the same words."""
        if trouble != self._trouble:
            logger.warning("%s", trouble)
        self._trouble = trouble

    # Waiting.

    def _take_signals(self) -> None:
        for end in (self._signals, self._signals_out):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signals_out.fileno())
        signal.signal(signal.SIGTERM, self._on_term)

    def _on_term(self, number: int, frame: object) -> None:
        self._terminated = True

    def _pause(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self._wait(left_s)

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
                    connection.cancel()
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
        if connection is not None:
            poll.register(connection.fileno(), select.POLLOUT if write else select.POLLIN)
        self._context.beat()
        poll.poll(max(0.0, min(seconds, beat_every_s)) * 1000)
        self._context.beat()
        if self._terminated:
            raise _Stopped


def _connect_timed_out() -> NoReturn:
    raise psycopg2.OperationalError(f"no connection within {CONNECT_LIMIT_S:g} s")


def _until_next_day_s() -> float:
    """A day that begins is looked at at once. The minute's tick would do; this is for retention."""
    seconds = datetime.datetime.now(datetime.UTC).timestamp() % _SECONDS_PER_DAY
    return _SECONDS_PER_DAY - seconds + 1.0


def _tell(report: partitions.Report) -> None:
    if report.created:
        logger.info("made %d days of request_log", report.created)
    for what, names in (
        ("converted", report.converted),
        ("dropped, too old:", report.dropped),
        ("vacuumed", report.vacuumed),
        ("postponed, somebody holds a lock:", report.postponed),
    ):
        if names:
            logger.info("%s %s", what, ", ".join(names))
