"""The children as processes: forks them, hears them, kills the late, buries the dead.

Which child to start and which to drain is decided in `children`; this module carries it out and
reports what became of it.

Children have two ways to speak. What they are stands in their seat, and a byte in a pipe that all
share says that it has changed. That they live they show by pushing the deadline in their seat ahead of
the clock. The first deadline is set before the fork, so a child stuck in its start is found too.

Must not know: why the server starts, reloads or stops.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable

from prefork_ads.config import Config
from prefork_ads.process import spawn
from prefork_ads.process.children import KEEPER, Child, Children, Phase, Start
from prefork_ads.process.context import ChildContext, EntryPoint
from prefork_ads.process.listener import Listeners
from prefork_ads.process.log import logger
from prefork_ads.process.scoreboard import Scoreboard, State

# How long children that could not be heard have to show that they are alive.
EXCUSE_S = 2.0


class Crew:
    """All children of one master."""

    def __init__(
        self,
        children: Children,
        *,
        listeners: Listeners,
        scoreboard: Scoreboard,
        worker_main: EntryPoint,
        keeper_main: EntryPoint,
        config_of: Callable[[int], Config],
        shed: Callable[[], None],
    ) -> None:
        self.children = children
        self._listeners = listeners
        self._scoreboard = scoreboard
        self._worker_main = worker_main
        self._keeper_main = keeper_main
        self._config_of = config_of
        # Runs in each child first and closes what is the master's alone.
        self._shed_master = shed
        self._pid = os.getpid()
        self._in, self._out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        """Readable when a child has something to say."""
        return self._in

    def close(self) -> None:
        os.close(self._in)
        os.close(self._out)

    # Starting and asking to leave.

    def start(self, start: Start) -> None:
        """Fork a child for a slot."""
        config = self._config_of(start.generation)
        seat = self._scoreboard.free_seat()
        if seat is None:
            self._not_started(start, "every seat of the scoreboard is taken")
            return
        seat.take(start.slot, start.generation, time.monotonic() + config.boot_timeout_s)
        is_keeper = start.slot == KEEPER
        context = ChildContext(
            slot=start.slot,
            generation=start.generation,
            config=config,
            listeners=[] if is_keeper else self._listeners.of(start.slot),
            seat=seat,
            scoreboard=self._scoreboard,
            parent_pid=self._pid,
            wake_fd=self._out,
        )
        entry_point = self._keeper_main if is_keeper else self._worker_main
        spawn.freeze_memory()
        try:
            pid = spawn.spawn(role(start.slot), context, entry_point, lambda: self._shed(start))
        except OSError as error:
            seat.vacate()
            self._not_started(start, str(error.strerror))
            return
        seat.pid = pid
        child = self.children.started(start, pid, seat.index)
        logger.info("%s started generation=%d", _name(child), child.generation)

    def send(self, child: Child, number: signal.Signals) -> None:
        """Signal one child. It stays a zombie until `reap`, so the pid is nobody else's yet."""
        os.kill(child.pid, number)

    def send_all(self, number: signal.Signals) -> None:
        for child in self.children:
            self.send(child, number)

    # What children tell us, by word or by death.

    def hear(self) -> None:
        """Take notice of what children have written in their seats."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._in, 65536)
        now_s = time.monotonic()
        for child in self.children:
            state = self._scoreboard.seats[child.seat].state
            if state is State.READY and child.phase is Phase.BOOTING:
                self.children.ready(child, now_s)
                logger.info("%s ready", _name(child))
            elif state is State.DRAINING and child.phase is not Phase.DRAINING:
                self.children.retired(child, now_s)
                logger.info("%s leaves by itself", _name(child))

    def reap(self, stranger: Callable[[int, str], None]) -> list[int]:
        """Bury all that have ended; `stranger` gets pid and ending of those that are not ours.

        As PID 1 of a container we are given orphans that we have never seen. Returned are the exit
        codes (a signal's number negative) of children that had served. The others had nothing to lose,
        and SIGTERM ends a newborn before it can have a handler.
        """
        codes = []
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                child = self.children.gone(pid, time.monotonic())
                if child is None:
                    stranger(pid, _ending(status))
                    continue
                seat = self._scoreboard.seats[child.seat]
                # Its own word: the master may not have heard it before asking it to leave.
                if seat.state is not State.BOOTING:
                    codes.append(os.waitstatus_to_exitcode(status))
                seat.vacate()
                say = logger.error if status else logger.info
                say("%s %s", _name(child), _ending(status))
        return codes

    def wake_at_s(self) -> float:
        """When somebody becomes late or may be started again."""
        return self.children.wake_at_s(self._deadline_s)

    def kill_late(self) -> None:
        """Nothing less than SIGKILL ends a process that does not listen."""
        for child, reason in self.children.late(time.monotonic(), self._deadline_s):
            logger.error("%s is killed: %s", _name(child), reason)
            self.send(child, signal.SIGKILL)

    def excuse(self) -> None:
        """The master was held up and with it perhaps the whole machine: let everybody speak first."""
        logger.warning("held up for a while; children get %g s to show up", EXCUSE_S)
        self.children.excuse(time.monotonic() + EXCUSE_S)

    # Inside.

    def _deadline_s(self, child: Child) -> float:
        return self._scoreboard.seats[child.seat].deadline

    def _not_started(self, start: Start, reason: str) -> None:
        self.children.not_started(start, time.monotonic())
        logger.error("%s cannot be forked: %s", role(start.slot), reason)

    def _shed(self, start: Start) -> None:
        self._shed_master()
        self._listeners.keep_only(start.slot)
        os.close(self._in)


def role(slot: int) -> str:
    """What a child is called: in its title and where its pid is not known."""
    return "keeper" if slot == KEEPER else f"worker {slot}"


def _name(child: Child) -> str:
    who = "keeper" if child.slot == KEEPER else f"worker slot={child.slot}"
    return f"{who} pid={child.pid}"


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exited status={code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
