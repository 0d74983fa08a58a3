"""The master: takes the port, keeps the children going, and does what it is signalled to do. It is the one
process that must not fail, so it does as little as it can: no event loop, no database, no requests,
no thread.

Signals: TERM, INT, QUIT drain and stop (a second one stops at once), HUP reloads, CHLD reaps. USR1,
USR2, TTIN and TTOU are taken only so that they do no harm: by default the first two end a process
and the others halt it.

One loop sleeps until a signal comes, a child speaks, or a deadline has come, and calls the method
named after the signal. So everything here happens in one place, one thing after the other. Nothing is
polled.

When the master is woken much later than it asked for, the machine was suspended or the container
frozen, and everybody's deadline may have passed unheard. Then the children get a moment to speak
before anybody is killed.

A reload loads the settings and makes a new generation of children. Each generation has its own
settings for as long as a child of it may be started: after a reload that was given up half way two
generations serve side by side, and each slot is respawned with what works for it.

The exit status tells whether the stop was clean. A child that ended with an error meanwhile, or had to
be killed, makes it 1: events may be in a file that somebody has to load, or lost. Deaths by signal do
not count once a second signal has asked to stop at once, and neither does what befell children before
the stop.

Must not know: asyncio, the database, ads. Entry points are arguments.
"""

import contextlib
import math
import select
import signal
import time
from collections.abc import Callable, Sequence

from setproctitle import setproctitle

from prefork_ads.config import Config, after_reload
from prefork_ads.errors import BootFailure, PreforkAdsError
from prefork_ads.process import listener, log
from prefork_ads.process.children import (
    Action,
    Children,
    Drain,
    ReloadAborted,
    ReloadDone,
    Start,
)
from prefork_ads.process.context import EntryPoint
from prefork_ads.process.crew import Crew, role
from prefork_ads.process.log import logger
from prefork_ads.process.notify import Notifier
from prefork_ads.process.pidfile import PidFile
from prefork_ads.process.scoreboard import Scoreboard
from prefork_ads.process.services import Service
from prefork_ads.process.signals import Signals

# After a second stop signal children are told to leave now; this is "now".
QUIT_LIMIT_S = 2.0

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
    ) -> None:
        # For life.
        self._worker_main = worker_main
        self._keeper_main = keeper_main
        self._load_config = load_config
        self._scoreboard = scoreboard
        self._services = services
        self._database = database
        self._on_ready = on_ready
        self._notifier = Notifier()
        # By generation.
        self._configs = {1: config}
        self._last_generation = 1
        self._reload_wanted = False
        # From taking the port to giving it back.
        self._children = Children(config.workers, drain_timeout_s=config.drain_timeout_s)
        self._listeners: listener.Listeners
        self._signals: Signals
        self._crew: Crew
        self._announced = False
        # Once it is to stop.
        self._stopping = False
        self._at_once = False
        self._unclean = 0
        self._kill_at_s = math.inf
        self._failure: BootFailure | None = None

    def run(self) -> int:
        """Serve until told to stop; the exit status. BootFailure and PortInUse come out as they are."""
        log.configure("master")
        with contextlib.ExitStack() as stack:
            self._open(stack)
            self._loop()
            if self._unclean:
                logger.error("stopped, but %d children did not end cleanly", self._unclean)
            else:
                logger.info("stopped")
        if self._failure is not None:
            raise self._failure
        return PreforkAdsError.exit_code if self._unclean else 0

    # The loop.

    def _loop(self) -> None:
        # poll() has no limit on the numbers of descriptors, and unlike epoll it leaves nothing behind
        # that children would share.
        wait = select.poll()
        wait.register(self._signals, select.POLLIN)
        wait.register(self._crew, select.POLLIN)
        while True:
            self._act()
            if self._stopping and not len(self._children):
                return
            now_s = time.monotonic()
            wake_at_s = self._wake_at_s()
            timeout_ms = None if wake_at_s == math.inf else max(0.0, wake_at_s - now_s) * 1000
            wait.poll(timeout_ms)
            held_up = time.monotonic() - max(now_s, wake_at_s) > HELD_UP_S
            # Words before deaths: a child may have been ready, and then died.
            self._crew.hear()
            self._take_signals()
            if held_up:
                self._crew.excuse()
            self._crew.kill_late()
            self._kill_the_rest()

    def _wake_at_s(self) -> float:
        restarts = [] if self._stopping else [s.restart_at_s for s in self._services]
        return min(
            self._crew.wake_at_s(), self._kill_at_s, *(at for at in restarts if at is not None)
        )

    def _act(self) -> None:
        if not self._stopping:
            self._restart_services()
            if self._children.boot_failed:
                self._give_up_boot()
        while actions := self._plan():
            for action in actions:
                self._carry_out(action)
        if not self._announced and self._children.ready_workers == len(self._listeners):
            self._announce()

    def _plan(self) -> list[Action]:
        if self._reload_wanted and not self._stopping and not self._children.reloading:
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
            signal.SIGUSR1: self._on_unused,
            signal.SIGUSR2: self._on_unused,
            signal.SIGTTIN: self._on_unused,
            signal.SIGTTOU: self._on_unused,
        }

    def _on_stop(self, number: signal.Signals) -> None:
        if self._stopping:
            logger.warning("%s again: stopping now", number.name)
            self._stop_now()
            return
        logger.info("%s: draining", number.name)
        self._stopping = True
        self._reload_wanted = False
        self._notifier.stopping()
        # First of all: what begins from here on would be cut off at the end.
        self._listeners.refuse_new()
        self._children.stop()

    def _on_hup(self, _: signal.Signals) -> None:
        if self._stopping:
            return
        if self._children.reloading:
            logger.info("reload: another one follows the one under way")
        self._reload_wanted = True

    def _on_chld(self, _: signal.Signals) -> None:
        codes = self._crew.reap(self._service_gone)
        if self._stopping:
            self._unclean += sum(code > 0 or (code < 0 and not self._at_once) for code in codes)

    def _on_unused(self, number: signal.Signals) -> None:
        logger.info("%s is not used by this server", number.name)

    # Start.

    def _open(self, stack: contextlib.ExitStack) -> None:
        config = self._config
        if config.pid_file is not None:
            pid_file = PidFile(config.pid_file)
            pid_file.acquire()
            stack.callback(pid_file.release)
        self._listeners = listener.open_listeners(config)
        stack.callback(self._listeners.close)
        logger.info("listening on %s (%d slots)", self._listeners.url, len(self._listeners))
        setproctitle(f"prefork-ads: master [{self._listeners.address}]")
        for service in self._services:
            service.watch(time.monotonic())
        self._signals = stack.enter_context(contextlib.closing(Signals(self._handlers())))
        crew = Crew(
            self._children,
            listeners=self._listeners,
            scoreboard=self._scoreboard,
            worker_main=self._worker_main,
            keeper_main=self._keeper_main,
            config_of=self._configs.__getitem__,
            shed=self._signals.close_descriptors,
        )
        self._crew = stack.enter_context(contextlib.closing(crew))

    def _announce(self) -> None:
        self._announced = True
        logger.info("ready: %s, database %s", self._serving(), self._database)
        self._notifier.ready(f"Serving: {self._serving()}")
        self._on_ready(self._listeners.url)

    def _serving(self) -> str:
        return f"{len(self._listeners)} workers on {self._listeners.url}"

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
        self._children.drain_timeout_s = config.drain_timeout_s
        self._children.reload(self._last_generation)
        logger.info("reload: started generation=%d", self._last_generation)

    def _end_reload(self) -> None:
        for generation in set(self._configs) - self._children.generations:
            del self._configs[generation]
        self._notifier.ready(f"Serving: {self._serving()}")

    # Stop.

    def _stop_now(self) -> None:
        self._stopping = self._at_once = True
        self._reload_wanted = False
        self._children.stop()
        self._kill_at_s = min(self._kill_at_s, time.monotonic() + QUIT_LIMIT_S)
        self._crew.send_all(signal.SIGQUIT)

    def _kill_the_rest(self) -> None:
        if time.monotonic() >= self._kill_at_s:
            self._kill_at_s = math.inf
            self._crew.send_all(signal.SIGKILL)

    # Services.

    def _service_gone(self, pid: int, ending: str) -> None:
        for service in self._services:
            if service.gone(pid, time.monotonic()) and not self._stopping:
                logger.error("service %s pid=%d %s", service.name, pid, ending)

    def _restart_services(self) -> None:
        for service in self._services:
            due_s = service.restart_at_s
            if due_s is not None and due_s <= time.monotonic():
                service.restart(time.monotonic)
