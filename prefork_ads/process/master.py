"""The master: takes the port, keeps the children going, and does what it is signalled to do. It is the one
process that must not fail, so it does as little as it can: no event loop, no database, no requests,
no thread.

Signals: TERM, INT, QUIT drain and stop (a second one stops at once), HUP reloads, TTIN and TTOU make it
one worker more or fewer, USR1 opens the log file again, USR2 upgrades, CHLD reaps; docs/signals.md says
how to see it. All of them are taken from the start: by default most end a process and TTIN and TTOU halt
it.

One loop sleeps until a signal comes, a child speaks, or a deadline has come, and calls the method
named after the signal. So everything here happens in one place, one thing after the other. Nothing is
polled.

When the master is woken much later than it asked for, the container was frozen or the virtual machine
paused (the clock stands still while a machine is suspended), and everybody's deadline may have passed
unheard. Then the children get a moment to speak before anybody is killed.

A reload loads the settings and makes a new generation of children. Each generation has its own
settings for as long as a child of it may be started: after a reload that was given up half way two
generations serve side by side, and each slot is respawned with what works for it.

At an upgrade there are two masters for a while. Which of them is the server, and so steers, speaks to the
service manager, answers for services and has the pid file, is decided in `succession`; the other only
looks after its own children.

The exit status tells whether the stop was clean. A child that ended with an error meanwhile, or had to
be killed, makes it 1: events may be in a file that somebody has to load, or lost. Deaths by signal do
not count once a second signal has asked to stop at once, and neither does what befell children before
the stop.

Must not know: asyncio, the database, ads. Entry points are arguments.
"""

import contextlib
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence

from setproctitle import setproctitle

from prefork_ads.config import Config, after_reload
from prefork_ads.errors import BootFailure, PreforkAdsError
from prefork_ads.process import affinity, listener, log
from prefork_ads.process.children import Children
from prefork_ads.process.context import EntryPoint
from prefork_ads.process.crew import Crew, role
from prefork_ads.process.handover import Handover, wanted_workers
from prefork_ads.process.log import logger
from prefork_ads.process.notify import EXTEND_EVERY_S
from prefork_ads.process.scoreboard import ROOM_FOR_SLOTS, Scoreboard
from prefork_ads.process.services import Service
from prefork_ads.process.signals import Signals
from prefork_ads.process.slots import (
    Action,
    Close,
    CrashLooping,
    Drain,
    Open,
    Recovered,
    RecycleFailed,
    ReloadAborted,
    ReloadDone,
    Start,
)
from prefork_ads.process.succession import (
    Alone,
    Event,
    StopNow,
    TakeBack,
    TakeCharge,
    UpgradeFailed,
    Yield,
)
from prefork_ads.process.upgrade import Predecessor, Successor

# After a second stop signal children are told to leave now; this is "now".
QUIT_LIMIT_S = 2.0

# What the services of a server may take to end, after it.
SERVICES_END_S = 120.0

# Woken this much later than asked, the master was held up.
HELD_UP_S = 2.0


class Master:
    """One server, from taking the port to giving it back."""

    def __init__(
        self,
        config: Config,
        *,
        worker_main: EntryPoint,
        keeper_main: EntryPoint,
        load_config: Callable[[], Config],
        scoreboard: Scoreboard,
        services: Sequence[Service] = (),
        database: str = "",
        on_ready: Callable[[str], None] = lambda url: None,
        sockets: Sequence[socket.socket] = (),
        predecessor: Predecessor | None = None,
    ) -> None:
        """`sockets` come from the service manager; a `predecessor` hands over what it has."""
        # For life.
        self._worker_main = worker_main
        self._keeper_main = keeper_main
        self._load_config = load_config
        self._scoreboard = scoreboard
        self._database = database
        self._on_ready = on_ready
        self._handover = Handover(predecessor, scoreboard=scoreboard, services=services)
        self._succession = self._handover.succession
        self._notifier = self._handover.notifier
        self._watchdog = self._handover.watchdog
        self._services = services
        self._sockets = sockets
        # By generation. They go on counting over masters, so lines of the log can be told apart.
        self._last_generation = predecessor.generation + 1 if predecessor else 1
        self._configs = {self._last_generation: config}
        self._reload_wanted = False
        self._upgrade_wanted = False
        # One that the successor was told to carry out.
        self._reload_handed = False
        # From taking the port to giving it back.
        # An upgrade begins with the slots there are: each has a listener with a queue.
        self._wanted = wanted_workers(config, predecessor)
        self._children = Children(
            len(predecessor.by_slot) if predecessor else config.workers,
            generation=self._last_generation,
            drain_timeout_s=config.drain_timeout_s,
            room=ROOM_FOR_SLOTS,
        )
        self._listeners: listener.Listeners
        self._signals: Signals
        self._crew: Crew
        self._announced = False
        # Once it is to stop.
        self._stopping = False
        self._at_once = False
        self._unclean = 0
        self._kill_at_s = math.inf
        self._told_while_leaving = False
        self._said_ready = False
        # When to stop waiting for another master's end, and when to tell the service manager more.
        self._alone_at_s = math.inf
        self._speak_at_s = math.inf
        self._failure: BootFailure | None = None

    def run(self) -> int:
        """Serve until told to stop; the exit status. BootFailure and PortInUse come out as they are."""
        log.configure("master")
        with contextlib.ExitStack() as stack:
            self._open(stack)
            self._loop()
            if self._services and not self._succession.leaving:
                self._notifier.still_stopping("Stopping PostgreSQL", SERVICES_END_S)
            if self._unclean:
                logger.error("stopped, but %d children did not end cleanly", self._unclean)
            else:
                logger.info("stopped")
        if self._failure is not None:
            raise self._failure
        return PreforkAdsError.exit_code if self._unclean else 0

    # The loop.

    def _loop(self) -> None:
        while True:
            self._act()
            if self._stopping and not len(self._children) and not self._waits_for_a_master():
                return
            now_s = time.monotonic()
            wake_at_s = self._wake_at_s()
            timeout_ms = None if wake_at_s == math.inf else max(0.0, wake_at_s - now_s) * 1000
            self._poll().poll(timeout_ms)
            held_up = time.monotonic() - max(now_s, wake_at_s) > HELD_UP_S
            # Words before deaths: a child may have been ready, and then died.
            self._crew.hear()
            self._follow(self._succession.hear())
            self._take_signals()
            self._look_at_services()
            if held_up:
                self._crew.excuse()
            self._crew.kill_late()
            self._kill_the_rest()
            self._end_late_upgrade()
            self._speak()

    def _poll(self) -> select.poll:
        """What wakes the master. Made anew each time: lines and lifelines come and go."""
        # poll() has no limit on the numbers of descriptors, and unlike epoll it leaves nothing behind
        # that children would share.
        wait = select.poll()
        wait.register(self._signals, select.POLLIN)
        wait.register(self._crew, select.POLLIN)
        for line in self._succession.lines:
            wait.register(line, select.POLLIN)
        for service in self._services if self._succession.in_charge else ():
            if (fd := service.watched_fd) is not None:
                wait.register(fd, select.POLLIN)
        return wait

    def _wake_at_s(self) -> float:
        answers_for_them = self._succession.in_charge and not self._stopping
        restarts = [s.restart_at_s for s in self._services] if answers_for_them else []
        return min(
            *(self._crew.wake_at_s(), self._kill_at_s),
            # While children live their ends wake us; the time may be over already.
            *(self._succession.wake_at_s, math.inf if len(self._children) else self._alone_at_s),
            *(self._watchdog.due_at_s, self._speak_at_s),
            *(at for at in restarts if at is not None),
        )

    def _act(self) -> None:
        if not self._stopping:
            if self._succession.in_charge:
                self._restart_services()
            if self._children.boot_failed:
                self._give_up_boot()
        while actions := self._plan():
            # First of all: nothing new may go to a child that is asked to leave for good.
            self._steer()
            for action in actions:
                self._carry_out(action)
        self._steer()
        if not self._announced and self._children.all_ready:
            if self._succession.in_charge:
                self._announce()
            else:
                self._say_ready()

    def _plan(self) -> list[Action]:
        if not self._stopping and not self._children.reloading:
            if self._upgrade_wanted:
                self._upgrade()
            # While there are two masters it waits: the new one reads the settings anyway.
            if self._reload_wanted and not self._succession.busy:
                self._reload()
        return self._children.plan(time.monotonic())

    def _carry_out(self, action: Action) -> None:
        match action:
            case Start():
                self._crew.start(action)
            case Drain(child):
                self._crew.send(child, signal.SIGTERM)
            case ReloadDone(generation):
                logger.info("reload: done generation=%d", generation)
                self._end_reload()
            case ReloadAborted(generation, slot):
                logger.error(
                    "reload: given up, %s did not become ready in generation=%d; the others stay"
                    " as they are",
                    role(slot),
                    generation,
                )
                self._end_reload()
            case RecycleFailed(slot):
                logger.error("%s goes on: its successor did not become ready", role(slot))
            case Open():
                self._crew.open(action)
            case Close():
                self._crew.close_slot(action)
            case CrashLooping(slot, failures):
                logger.error(
                    "%s is crash-looping: %d early ends in a row; it is tried on, and gets no new"
                    " connections until a child has lasted",
                    role(slot),
                    failures,
                )
            case Recovered(slot):
                logger.info("%s has recovered", role(slot))

    def _steer(self) -> None:
        if not self._stopping and self._succession.in_charge:
            self._crew.steer(quietly=not self._announced)

    # Signals: one method for each meaning.

    def _take_signals(self) -> None:
        numbers = self._signals.take()
        # Ten SIGCHLD are one piece of work, and the one to do first: nobody signals the dead.
        if signal.SIGCHLD in numbers:
            self._on_chld(signal.SIGCHLD)
        for number in numbers:
            if number != signal.SIGCHLD:
                self._handlers()[number](number)

    def _handlers(self) -> dict[signal.Signals, Callable[[signal.Signals], None]]:
        return {
            signal.SIGTERM: self._on_stop,
            signal.SIGINT: self._on_stop,
            signal.SIGQUIT: self._on_stop,
            signal.SIGHUP: self._on_hup,
            signal.SIGCHLD: self._on_chld,
            signal.SIGUSR1: self._on_usr1,
            signal.SIGUSR2: self._on_usr2,
            signal.SIGTTIN: self._on_ttin,
            signal.SIGTTOU: self._on_ttou,
        }

    def _on_stop(self, number: signal.Signals) -> None:
        if self._succession.leaving and not self._told_while_leaving:
            # Ctrl-C reaches both masters, and for this one it is the first.
            logger.info("%s: draining already; once more stops now", number.name)
            self._told_while_leaving = True
            return
        if self._stopping:
            logger.warning("%s again: stopping now", number.name)
            self._stop_now()
            return
        logger.info("%s: draining", number.name)
        self._stopping = True
        self._reload_wanted = self._upgrade_wanted = False
        self._notifier.stopping()
        now_s = time.monotonic()
        self._speak_at_s = now_s + EXTEND_EVERY_S
        self._watchdog.stop()
        self._stop_other_masters(now_s)
        # First of all: what begins from here on would be cut off at the end.
        if self._succession.in_charge:
            self._listeners.refuse_new()
        self._children.stop()

    def _on_hup(self, _: signal.Signals) -> None:
        if self._stopping:
            return
        if self._succession.busy:
            logger.info("reload: waits for the end of the upgrade")
            # Whoever asked waits for the answer; see `notify`.
            self._notifier.reloading()
            self._notifier.ready("Upgrading")
        elif self._children.reloading:
            logger.info("reload: another one follows the one under way")
        self._reload_wanted = True

    def _on_usr1(self, _: signal.Signals) -> None:
        # Only the master has to be told: whoever writes looks first whether the file was moved away.
        log.reopen()
        where = self._config.log_file or "standard error, which stays as it is"
        logger.info("SIGUSR1: the log goes to %s", where)

    def _on_ttin(self, _: signal.Signals) -> None:
        self._resize(+1, f"no more than {self._children.room} fit")

    def _on_ttou(self, _: signal.Signals) -> None:
        if not self._listeners.removable:
            logger.error(
                "SIGTTOU: not one worker fewer, nobody would accept from a socket of its own"
            )
        elif self._crew.steers is False:
            # Whoever got into the queue in the last moment would be reset.
            logger.error(
                "SIGTTOU: not one worker fewer, new connections cannot be kept away from it"
            )
        else:
            self._resize(-1, "the last one stays")

    def _resize(self, by: int, limit: str) -> None:
        if self._stopping:
            return
        if self._succession.busy:
            logger.warning("the number of workers stays as it is during an upgrade")
            return
        name = signal.SIGTTIN.name if by > 0 else signal.SIGTTOU.name
        if self._children.resize(by):
            logger.info("%s: %d workers from now on", name, self._children.wanted)
        else:
            logger.warning("%s: it stays at %d workers, %s", name, self._children.wanted, limit)

    def _on_chld(self, _: signal.Signals) -> None:
        codes = self._crew.reap(self._stranger_gone)
        if self._stopping:
            self._unclean += sum(code > 0 or (code < 0 and not self._at_once) for code in codes)

    # Start.

    def _open(self, stack: contextlib.ExitStack) -> None:
        config = self._config
        self._handover.open(config, self._sockets, stack)
        self._listeners = self._handover.listeners
        logger.info("listening on %s (%d slots)", self._listeners.url, len(self._listeners))
        self._scoreboard.describe({"url": self._listeners.url})
        setproctitle(f"prefork-ads: master [{self._listeners.address}]")
        self._signals = stack.enter_context(contextlib.closing(Signals(self._handlers())))
        crew = Crew(
            self._children,
            listeners=self._listeners,
            scoreboard=self._scoreboard,
            worker_main=self._worker_main,
            keeper_main=self._keeper_main,
            config_of=self._configs.__getitem__,
            shed=self._shed,
            older_master=lambda: self._succession.older_pid,
        )
        self._crew = stack.enter_context(contextlib.closing(crew))

    def _announce(self) -> None:
        self._announced = True
        self._watchdog.start(time.monotonic())
        logger.info("ready: %s, database %s", self._serving(), self._database)
        self._notifier.ready(f"Serving: {self._serving()}")
        self._on_ready(self._listeners.url)

    def _shed(self) -> None:
        """In a child: what only a master may hold."""
        self._signals.close_descriptors()
        self._handover.shed()

    def _serving(self) -> str:
        return f"{self._children.wanted} workers on {self._listeners.url}"

    def _give_up_boot(self) -> None:
        self._stop_now()
        self._failure = BootFailure(
            f"No worker became ready, although each of {len(self._listeners)} slots was tried"
            " several times. The lines above say why each of them ended."
        )

    # Reload.

    @property
    def _config(self) -> Config:
        """The newest one that somebody runs."""
        return self._configs[max(self._configs)]

    def _reload(self) -> None:
        self._reload_wanted = False
        self._notifier.reloading()
        try:
            config, kept = after_reload(self._config, self._load_config())
            affinity.check(config.cpu_affinity)
        except PreforkAdsError as error:
            logger.error("reload: refused, the server goes on as it is: %s", error)
            self._notifier.ready(f"Serving: {self._serving()}")
            return
        for flag in kept:
            logger.warning(
                "reload: %s has changed, which takes a restart; it stays as it was", flag
            )
        self._last_generation += 1
        self._configs[self._last_generation] = config
        self._set_drain_timeout()
        self._children.reload(self._last_generation)
        logger.info("reload: started generation=%d", self._last_generation)
        if self._children.wanted != config.workers:
            logger.info(
                "reload: it stays at %d workers, as signals have set it", self._children.wanted
            )

    def _end_reload(self) -> None:
        for generation in set(self._configs) - self._children.generations:
            del self._configs[generation]
        self._set_drain_timeout()
        self._notifier.ready(f"Serving: {self._serving()}")

    def _set_drain_timeout(self) -> None:
        # A child divides the time of its own generation, and must not be killed at the end of a shorter one.
        self._children.drain_timeout_s = max(c.drain_timeout_s for c in self._configs.values())

    # Stop.

    def _stop_now(self) -> None:
        self._stopping = self._at_once = True
        self._reload_wanted = self._upgrade_wanted = False
        self._children.stop()
        now_s = time.monotonic()
        # Another master needs as long for its children, and a moment for itself.
        self._alone_at_s = min(self._alone_at_s, now_s + 2 * QUIT_LIMIT_S)
        self._succession.stopping(at_once=True)
        self._succession.end_successor(self._alone_at_s)
        self._kill_at_s = min(self._kill_at_s, now_s + QUIT_LIMIT_S)
        self._crew.send_all(signal.SIGQUIT)

    def _kill_the_rest(self) -> None:
        if time.monotonic() >= self._kill_at_s:
            self._kill_at_s = math.inf
            self._crew.send_all(signal.SIGKILL)

    # Upgrade: the old master's part.

    def _on_usr2(self, _: signal.Signals) -> None:
        if self._stopping:
            return
        if os.getpid() == 1:
            logger.error("upgrade: refused, this is process 1: its end would end the container")
        elif self._succession.busy or self._upgrade_wanted:
            logger.warning("upgrade: refused, one is under way")
        elif not self._announced:
            logger.warning("upgrade: refused, the server is not ready yet")
        else:
            if self._children.reloading:
                logger.info("upgrade: follows the reload under way")
            self._upgrade_wanted = True

    def _upgrade(self) -> None:
        self._upgrade_wanted = False
        pid = self._handover.begin(
            self._config, wanted=self._children.wanted, generation=self._last_generation
        )
        if pid is not None:
            logger.info("upgrade: started a new master pid=%d", pid)
            self._notifier.status(f"Upgrading, {self._serving()}")

    def _end_late_upgrade(self) -> None:
        if self._succession.too_late(time.monotonic(), self._config.drain_timeout_s):
            logger.error("upgrade: the new master did not become ready in time")

    def _follow(self, events: Sequence[Event]) -> None:
        """Carry out what the other masters mean for this one."""
        for event in events:
            match event:
                case Yield(successor):
                    self._yield(successor)
                case UpgradeFailed(pid, reason):
                    self._upgrade_failed(pid, reason)
                case TakeBack(pid, reason):
                    self._take_back(pid, reason)
                case StopNow():
                    self._stop_now()
                case TakeCharge(predecessor, asked_to):
                    self._take_charge(predecessor, asked_to=asked_to)
                case Alone(pid):
                    self._be_alone(pid)

    def _yield(self, successor: Successor) -> None:
        logger.info("upgrade: master pid=%d is ready and takes over; draining", successor.pid)
        self._reload_handed, self._reload_wanted = self._reload_wanted, False
        self._handover.yield_to(successor, reload=self._reload_handed)
        self._stopping = True
        self._children.stop()

    def _upgrade_failed(self, pid: int, reason: str) -> None:
        self._handover.give_up()
        if self._stopping:
            logger.info("upgrade: given up, master pid=%d %s", pid, reason)
            return
        logger.error("upgrade: given up, master pid=%d %s; this one stays as it is", pid, reason)
        self._notifier.status(f"Serving: {self._serving()}")

    def _take_back(self, pid: int, reason: str) -> None:
        if self._told_while_leaving or self._at_once:
            self._handover.stop_alone()
            return
        logger.error("upgrade: master pid=%d %s; this one takes the server back", pid, reason)
        self._stopping = False
        self._unclean = 0
        # Whatever became of it there, the settings here are the old ones.
        self._reload_wanted = self._reload_handed
        self._children.resume()
        self._handover.be_alone()
        self._be_server(pid)
        self._notifier.main_pid(os.getpid())
        self._notifier.ready(f"Serving: {self._serving()}")

    def _stop_other_masters(self, now_s: float) -> None:
        """We were told to stop: a new master that boots stops too, an old one that leaves goes on so."""
        until_s = now_s + self._config.drain_timeout_s + QUIT_LIMIT_S
        self._succession.end_successor(until_s)
        self._succession.stopping(at_once=self._at_once)
        if self._waits_for_a_master():
            self._alone_at_s = until_s

    def _waits_for_a_master(self) -> bool:
        """Whether another one, of the same server, has to end before this one may.

        A service manager takes the end of the main process for the end of all.
        """
        succession = self._succession
        if succession.leaving or time.monotonic() >= self._alone_at_s:
            return False
        return succession.successor is not None or (
            succession.in_charge and succession.predecessor is not None
        )

    # Upgrade: the new master's part.

    def _say_ready(self) -> None:
        if not self._said_ready and not self._stopping:
            self._said_ready = True
            logger.info("upgrade: ready to take over")
            self._succession.ready()

    def _take_charge(self, predecessor: Predecessor, *, asked_to: bool) -> None:
        if asked_to:
            logger.info("upgrade: takes over from master pid=%d", predecessor.pid)
        else:
            logger.error("upgrade: master pid=%d is dead; this one goes on alone", predecessor.pid)
        self._reload_wanted = self._reload_wanted or predecessor.reload
        if not self._stopping:
            self._be_server(predecessor.pid)

    def _be_alone(self, pid: int) -> None:
        logger.info("upgrade: done, master pid=%d has ended", pid)
        self._handover.be_alone()
        if self._stopping or self._wanted == self._children.wanted:
            return
        logger.info("upgrade: %d workers from now on, as --workers says", self._wanted)
        if not self._children.resize(self._wanted - self._children.wanted):
            logger.error("upgrade: it stays at %d workers", self._children.wanted)

    # Upgrade: both.

    def _be_server(self, before: int) -> None:
        self._handover.be_server(before)
        self._crew.steer_anew()

    # The service manager.

    def _speak(self) -> None:
        """Tell it in time what it wants to hear again and again."""
        now_s = time.monotonic()
        if now_s >= self._speak_at_s:
            self._speak_at_s = now_s + EXTEND_EVERY_S
            self._notifier.still_stopping(f"Draining, {len(self._children)} processes left")
        self._watchdog.see(range(self._children.wanted), self._children.serving, now_s)
        if now_s < self._watchdog.due_at_s:
            return
        was_hungry = self._watchdog.hungry
        if self._watchdog.feed(now_s):
            self._notifier.alive()
        elif not was_hungry:
            slots = ", ".join(map(str, self._watchdog.starving(now_s)))
            logger.error("watchdog: not fed, no worker became ready for long in slot %s", slots)

    # Services.

    def _stranger_gone(self, pid: int, ending: str) -> None:
        self._follow(self._succession.gone(pid, ending))
        self._service_gone(pid, ending)

    def _look_at_services(self) -> None:
        """Those that an earlier master has started are nobody's children here."""
        if not self._succession.in_charge:
            return
        for service in self._services:
            if (pid := service.lost(time.monotonic())) is not None:
                logger.error("service %s pid=%d has ended", service.name, pid)

    def _service_gone(self, pid: int, ending: str) -> None:
        for service in self._services:
            if service.gone(pid, time.monotonic()) and not self._stopping:
                logger.error("service %s pid=%d %s", service.name, pid, ending)

    def _restart_services(self) -> None:
        for service in self._services:
            due_s = service.restart_at_s
            if due_s is not None and due_s <= time.monotonic():
                service.restart(time.monotonic)
