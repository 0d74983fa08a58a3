"""The children as processes: forks them, hears them, kills the late, buries the dead.

Which child to start and which to drain is decided in `children`; this module carries it out and
reports what became of it.

Children have two ways to speak. What they are stands in their seat, and a byte in a pipe that all
share says that it has changed. That they live they show by pushing the deadline in their seat ahead of
the clock. The first deadline is set before the fork, so a child stuck in its start is found too.

A child beats four times a second, and a loop that is merely busy still does: *measured* with two workers
answering 64 clients that never paused, on two cores that had five times as much to do as they could, the
longest silence was 0.27 s. One that has been silent for `SILENT_AFTER_S` gets no new connections until it
speaks again; it is killed at its deadline, which is much later, since that costs whatever it has in its
hands.

Must not know: why the server starts, reloads or stops.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial

from prefork_ads.config import Config
from prefork_ads.errors import PreforkAdsError
from prefork_ads.metrics import Counter
from prefork_ads.process import affinity, incumbents, log, spawn
from prefork_ads.process.children import Children
from prefork_ads.process.context import ChildContext, EntryPoint
from prefork_ads.process.listener import Listeners
from prefork_ads.process.log import logger
from prefork_ads.process.scoreboard import Scoreboard, State, Wish
from prefork_ads.process.slots import KEEPER, Cause, Child, Close, Open, Phase, Start

# How long children that could not be heard have to show that they are alive.
EXCUSE_S = 2.0

# How long a worker may be silent before new connections go elsewhere; half its deadline if that is less.
# Clients that ask again and again get stuck in its queue one after the other, so this is to be short.
SILENT_AFTER_S = 1.0

_RESPAWNS = {
    Cause.EXIT: Counter.RESPAWNS_EXIT,
    Cause.SIGNAL: Counter.RESPAWNS_SIGNAL,
    Cause.HUNG: Counter.RESPAWNS_HUNG,
    Cause.BOOT_TIMEOUT: Counter.RESPAWNS_BOOT_TIMEOUT,
    Cause.RETIRED: Counter.RESPAWNS_RETIRED,
    Cause.RECYCLED: Counter.RESPAWNS_RECYCLED,
}

_WISHES = {
    Wish.MAX_REQUESTS: "--max-requests",
    Wish.MAX_AGE: "--max-worker-age-s",
    Wish.MAX_MEMORY: "--max-worker-memory",
}


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
        older_master: Callable[[], int | None],
    ) -> None:
        """`older_master` is the pid of the one that serves until this one does, if there is one."""
        self.children = children
        self._listeners = listeners
        self._scoreboard = scoreboard
        self._worker_main = worker_main
        self._keeper_main = keeper_main
        self._config_of = config_of
        # Runs in each child first and closes what is the master's alone.
        self._shed_master = shed
        self._older_master = older_master
        self._open_to: frozenset[int] = frozenset()
        # None until it has been tried.
        self.steers: bool | None = None
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
            own_listeners=[] if is_keeper else self._listeners.own(start.slot),
            seat=seat,
            scoreboard=self._scoreboard,
            parent_pid=self._pid,
            wake_fd=self._out,
            incumbents_read=self._incumbents_read(start),
        )
        entry_point = self._keeper_main if is_keeper else self._worker_main
        spawn.freeze_memory()
        try:
            core = None if is_keeper else affinity.core_of(config.cpu_affinity, start.slot)
            pid = spawn.spawn(
                role(start.slot), context, entry_point, lambda: self._shed(start, core)
            )
        except OSError as error:
            seat.vacate()
            self._not_started(start, str(error.strerror))
            return
        seat.pid = pid
        child = self.children.started(start, pid, seat.index)
        where = "" if core is None else f" core={core}"
        logger.info(
            "%s started generation=%d%s", _name(child), child.generation, where, extra=_about(child)
        )

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
            seat = self._scoreboard.seats[child.seat]
            state = seat.state
            if state is State.READY and child.phase is Phase.BOOTING:
                self.children.ready(child, now_s)
                logger.info("%s ready", _name(child), extra=_about(child))
            elif state is State.DRAINING and child.phase is not Phase.DRAINING:
                self.children.retired(child, now_s)
                logger.info("%s leaves by itself", _name(child), extra=_about(child))
            elif seat.wish is not Wish.NONE and not child.recycle_for:
                self.children.recycle(child, _WISHES[seat.wish])
                logger.info(
                    "%s is to be recycled: %s", _name(child), child.recycle_for, extra=_about(child)
                )

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
                child = self.children.gone(pid, time.monotonic(), self._cause(pid, status))
                if child is None:
                    stranger(pid, _ending(status))
                    continue
                seat = self._scoreboard.seats[child.seat]
                # Its own word: the master may not have heard it before asking it to leave.
                if seat.state is not State.BOOTING:
                    codes.append(os.waitstatus_to_exitcode(status))
                seat.vacate()
                say = logger.error if status else logger.info
                say("%s %s", _name(child), _ending(status), extra=_about(child))
        return codes

    def wake_at_s(self) -> float:
        """When somebody becomes late, falls silent or may be started again."""
        at_s = self.children.wake_at_s(self._deadline_s)
        if self.steers is False:
            return at_s
        return min(at_s, self.children.look_at_s(time.monotonic(), self._silent_at_s))

    def kill_late(self) -> None:
        """Nothing less than SIGKILL ends a process that does not listen."""
        for child, reason in self.children.late(time.monotonic(), self._deadline_s):
            logger.error("%s is killed: %s", _name(child), reason, extra=_about(child))
            self.send(child, signal.SIGKILL)

    def excuse(self) -> None:
        """The master was held up and with it perhaps the whole machine: let everybody speak first."""
        logger.warning("held up for a while; children get %g s to show up", EXCUSE_S)
        self.children.excuse(time.monotonic() + EXCUSE_S)

    # More and fewer slots, and where new connections go.

    def open(self, order: Open) -> None:
        """A listener for one more slot."""
        try:
            self._listeners.add()
        except (OSError, PreforkAdsError) as error:
            self.children.not_opened()
            logger.error("no listener for one more worker: %s", error)
            return
        self.children.opened(order.slot)

    def close_slot(self, order: Close) -> None:
        """Close the last slot's listener, unless somebody has to answer those in its queue first."""
        waiting = self._listeners.has_queue(order.slot)
        if waiting and not order.at_once:
            self.children.has_queue(order.slot)
            logger.info("%s is needed once more: somebody waits in its queue", role(order.slot))
            return
        self._listeners.remove()
        self.children.closed(order.slot)
        if waiting:
            logger.error("%s: its queue was given up, no worker lives for it", role(order.slot))
        logger.info("%s is gone, its listener closed", role(order.slot))

    def steer_anew(self) -> None:
        """Another master has steered meanwhile: what was told to the kernel last is not known."""
        self._open_to = frozenset()
        if self.steers:
            self.steers = None

    def steer(self, *, quietly: bool = False) -> None:
        """Let new connections go to where somebody takes them."""
        open_to = self.children.open_to(time.monotonic(), self._silent_at_s)
        board = self._scoreboard
        board.slots, board.open_to = self.children.wanted, len(open_to)
        board.crash_looping = self.children.crash_looping
        for cause, counter in _RESPAWNS.items():
            board.master.counters[counter] = self.children.respawns[cause]
        board.master.counters[Counter.LOG_LINES_DROPPED] += log.push()
        if open_to == self._open_to or self.steers is False:
            return
        self._open_to = open_to
        try:
            self._listeners.steer(open_to)
            self.steers = True
        except OSError as error:
            self.steers = False
            logger.warning(
                "new connections cannot be steered (%s): those for a slot without a worker wait for"
                " its next one",
                error.strerror,
            )
            return
        if not quietly and not self._listeners.shared:
            logger.info("new connections go to %s", _listed(open_to, len(self._listeners)))

    # Inside.

    def _incumbents_read(self, start: Start) -> Callable[[], bool]:
        """What a child asks before it serves without a reader; see `incumbents`."""
        older = self._older_master()
        if older is not None and start.slot != KEEPER:
            return partial(incumbents.older_server_reads, older)
        seats = self._scoreboard.seats
        sitting = [(seats[one.seat], one.pid) for one in self.children.incumbents(start)]
        return partial(incumbents.anybody_reads, sitting)

    def _silent_at_s(self, child: Child) -> float:
        """When the child has said nothing for too long to be given new connections."""
        timeout_s = self._config_of(child.generation).worker_timeout_s
        return self._deadline_s(child) - timeout_s + min(SILENT_AFTER_S, timeout_s / 2)

    def _cause(self, pid: int, status: int) -> Cause:
        killed_for = next((c.killed_for for c in self.children if c.pid == pid), "")
        if killed_for == "not ready in time":
            return Cause.BOOT_TIMEOUT
        if killed_for:
            return Cause.HUNG
        return Cause.SIGNAL if os.WIFSIGNALED(status) else Cause.EXIT

    def _deadline_s(self, child: Child) -> float:
        return self._scoreboard.seats[child.seat].deadline

    def _not_started(self, start: Start, reason: str) -> None:
        self.children.not_started(start, time.monotonic())
        logger.error("%s cannot be forked: %s", role(start.slot), reason)

    def _shed(self, start: Start, core: int | None) -> None:
        if core is not None:
            affinity.bind(core)
        self._shed_master()
        self._listeners.keep_only(start.slot)
        os.close(self._in)


def role(slot: int) -> str:
    """What a child is called: in its title and where its pid is not known."""
    return "keeper" if slot == KEEPER else f"worker {slot}"


def _about(child: Child) -> dict[str, int]:
    """For a log that is read by programs."""
    return {
        "child_slot": child.slot,
        "child_pid": child.pid,
        "child_generation": child.generation,
    }


def _name(child: Child) -> str:
    who = "keeper" if child.slot == KEEPER else f"worker slot={child.slot}"
    return f"{who} pid={child.pid}"


def _listed(slots: frozenset[int], of: int) -> str:
    """`all 4 slots`, `slots 0-2 5 of 8`."""
    if len(slots) == of:
        return f"all {of} slots"
    runs: list[list[int]] = []
    for slot in sorted(slots):
        if runs and runs[-1][-1] == slot - 1:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    told = (f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"slots {' '.join(told)} of {of}"


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exited status={code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
