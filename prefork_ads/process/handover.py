"""What only one master at a time has, and how it goes from one to the next at an upgrade.

That is: the ear of the service manager, the watchdog, the name of a Unix socket, the pid file, and the
services. The listeners both have; as long as there are two masters (or a service manager with a copy) the
scoreboard says so, and nobody shuts them down.

`begin`, `yield_to` and `give_up` are the old master's part, `be_server` that of whoever becomes the
server, `be_alone` that of the one that is left.

Must not know: children, signals, why.
"""

import contextlib
import os
import socket
import time
from collections.abc import Sequence

from setproctitle import setproctitle

from prefork_ads.config import Config
from prefork_ads.errors import PreforkAdsError
from prefork_ads.process import listener
from prefork_ads.process.listener import Listeners
from prefork_ads.process.log import logger
from prefork_ads.process.notify import Notifier, Watchdog
from prefork_ads.process.pidfile import PidFile
from prefork_ads.process.scoreboard import Scoreboard
from prefork_ads.process.services import Service
from prefork_ads.process.succession import Succession
from prefork_ads.process.upgrade import Predecessor, Program, Successor

# How long a new master may take to become ready, in boot time limits of one worker: it has a program to
# load and a database to migrate before its workers boot.
UPGRADE_BOOTS = 2

# Settings that come with what is handed over, and stay as they were.
_HANDED_OVER = ("host", "port", "unix_socket", "workers")


class Handover:
    """What one master holds of the server."""

    def __init__(
        self,
        predecessor: Predecessor | None,
        *,
        scoreboard: Scoreboard,
        services: Sequence[Service],
    ) -> None:
        self.succession = Succession(predecessor)
        self.services = services
        self.notifier = Notifier()
        # The service manager listens to the master in charge.
        self.notifier.silent = predecessor is not None
        self.watchdog = Watchdog(os.environ, os.getpid())
        self._scoreboard = scoreboard
        self._program = Program.of_this_process()
        # From `open` on.
        self.listeners: Listeners
        self._pid_file: PidFile | None = None

    def open(
        self, config: Config, sockets: Sequence[socket.socket], stack: contextlib.ExitStack
    ) -> None:
        """Take the pid file and the listeners, or make sure that they can be had later."""
        predecessor = self.succession.predecessor
        stack.callback(self.succession.close)
        if config.pid_file is not None:
            self._pid_file = PidFile(config.pid_file)
            if predecessor is None:
                self._pid_file.acquire()
            else:
                self._pid_file.check(predecessor.pid)
            stack.callback(self._pid_file.release)
        self.listeners = self._open_listeners(config, sockets, predecessor)
        stack.callback(self.listeners.close)
        self._scoreboard.listeners_shared = self.listeners.foreign or predecessor is not None
        for service in self.services:
            service.watch(time.monotonic())

    def shed(self) -> None:
        """In a child: what only a master may hold."""
        self.succession.close()
        for service in self.services:
            service.shed()

    # The old master's part.

    def begin(self, config: Config, *, wanted: int, generation: int) -> int | None:
        """Start a successor and hand everything over that it needs to boot; its pid."""
        services = {s.name: given for s in self.services if (given := s.handover())}
        slots = self.listeners.descriptors()
        given = {
            "listeners": slots,
            "address": self.listeners.address,
            "foreign": self.listeners.foreign,
            "settings": {name: str(getattr(config, name)) for name in _HANDED_OVER},
            "wanted": wanted,
            "generation": generation,
            "services": services,
        }
        fds = {fd for slot in slots for fd in slot} | {s["fd"] for s in services.values()}
        # Before the fork: from now on nobody may shut them down alone.
        self._scoreboard.listeners_shared = True
        try:
            successor = Successor.start(self._program, given, sorted(fds))
        except OSError as error:
            self.give_up()
            logger.error("upgrade: no new master can be started: %s", error.strerror)
            return None
        late_at_s = time.monotonic() + UPGRADE_BOOTS * config.boot_timeout_s
        self.succession.started(successor, late_at_s)
        return successor.pid

    def yield_to(self, successor: Successor, *, reload: bool) -> None:
        """It is the server from now on; a reload that somebody waits for is its affair."""
        # The service manager listens to us until it has read this.
        self.notifier.main_pid(successor.pid)
        self.notifier.silent = True
        self.watchdog.stop()
        self._share_services(True)
        self.listeners.named = False
        setproctitle(f"prefork-ads: leaving master [{self.listeners.address}]")
        self.succession.yielded(reload=reload)

    def give_up(self) -> None:
        """There is no successor."""
        self._scoreboard.listeners_shared = self.listeners.foreign

    def stop_alone(self) -> None:
        """The successor died, and nobody is to go on: what is left is an ordinary stop."""
        self._share_services(False)
        self.listeners.refuse_new()

    # Whoever becomes the server.

    def be_server(self, before: int) -> None:
        """In place of the master with this pid."""
        self.notifier.silent = False
        self.listeners.named = not self.listeners.foreign
        self._share_services(False)
        self.watchdog.start(time.monotonic())
        setproctitle(f"prefork-ads: master [{self.listeners.address}]")
        if self._pid_file is not None:
            try:
                self._pid_file.take_over(before)
            except (PreforkAdsError, OSError) as error:
                # The server is more important than the file.
                logger.error("the pid file cannot be taken over: %s", error)

    def be_alone(self) -> None:
        """The other master has ended."""
        self._scoreboard.listeners_shared = self.listeners.foreign

    # Inside.

    @staticmethod
    def _open_listeners(
        config: Config, sockets: Sequence[socket.socket], predecessor: Predecessor | None
    ) -> Listeners:
        if predecessor is None:
            if sockets:
                return listener.adopt(sockets, slots=config.workers, backlog=config.backlog)
            return listener.open_listeners(config)
        found = Listeners(
            predecessor.by_slot,
            predecessor.address,
            backlog=config.backlog,
            foreign=predecessor.foreign,
        )
        # Not ours to remove as long as the predecessor is in charge.
        found.named = False
        return found

    def _share_services(self, shared: bool) -> None:
        for service in self.services:
            service.share(shared)


def wanted_workers(config: Config, predecessor: Predecessor | None) -> int:
    """How many workers there are to be. Signals may have changed it, and count until --workers does."""
    if predecessor is None or predecessor.settings.get("workers") != str(config.workers):
        return config.workers
    return predecessor.wanted
