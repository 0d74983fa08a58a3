"""The process that owns the embedded PostgreSQL, for as long as a master lives.

PostgreSQL must not outlive the server, whatever dies: so it is the child of somebody and gets SIGINT from
the kernel when that one is gone (see `db.embedded`). If that were the master, an upgrade would have to
stop it: the new master cannot adopt a process, and a shutdown checkpoint takes as long as it takes. So
between the two there is this small process. It is told by a *lifeline*, a pair of sockets of which it holds
one end and the masters the other: one master usually, the old and the new one during an upgrade, none of
their workers. When the last of them is gone, also by kill -9, the kernel closes their end, and the
owner shuts PostgreSQL down and leaves. In the other direction the same line tells the masters that the
owner is gone.

The owner starts PostgreSQL again when it dies. When the owner is killed, the kernel ends PostgreSQL, and
the master that is in charge starts another owner.

It is a fork of the master, not a program of its own: nothing has to be found or loaded, and it shares
the master's memory. Signals do not move it (Ctrl-C reaches the whole process group). Its name does
not begin like ours, because people signal the oldest process called prefork-ads.

Must not know: workers, tables, upgrades.
"""

import json
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from setproctitle import setproctitle

from prefork_ads import errors
from prefork_ads.db.embedded import EmbeddedPostgres
from prefork_ads.errors import DataDirError, PreforkAdsError
from prefork_ads.process import log, streams
from prefork_ads.process.log import logger
from prefork_ads.process.services import Service
from prefork_ads.process.signals import Signals

# What PostgreSQL may take to stop by fair means and foul, and a little more.
END_LIMIT_S = 90.0
# An error message with the end of PostgreSQL's log is far shorter.
_WORD_BYTES = 1 << 16

_UNMOVED_BY = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD),
)


class PostgresOwner:
    """A master's view of the process that owns PostgreSQL."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self._lifeline: socket.socket | None = None
        # Known while the lifeline is.
        self.pid: int | None = None
        self.dsn = ""
        # Another master holds the lifeline too and keeps PostgreSQL when we let go.
        self.shared = False

    @classmethod
    def inherited(cls, given: Mapping[str, Any]) -> "PostgresOwner":
        """The one that another master had, as `handover` described it."""
        owner = cls(Path(given["data_dir"]))
        owner._lifeline = socket.socket(fileno=int(given["fd"]))
        os.set_inheritable(int(given["fd"]), False)
        owner.pid, owner.dsn, owner.shared = int(given["pid"]), str(given["dsn"]), True
        return owner

    def handover(self) -> dict[str, Any]:
        """What another master needs to hold on to it; empty while there is none."""
        if self._lifeline is None:
            return {}
        return {
            "fd": self._lifeline.fileno(),
            "pid": self.pid,
            "dsn": self.dsn,
            "data_dir": str(self.data_dir),
        }

    def fileno(self) -> int | None:
        """Readable when the owner is gone."""
        return None if self._lifeline is None else self._lifeline.fileno()

    def start(self) -> None:
        """Fork an owner; returns when PostgreSQL takes queries, and fails as it fails."""
        self.let_go()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        streams.flush()
        # See `spawn`: until the owner has handlers of its own, a signal to it would be taken for one to us.
        before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _become_owner(self.data_dir, theirs, before)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._lifeline, self.pid, self.shared = ours, pid, False
        try:
            word = _word(ours)
            if "dsn" not in word:
                raise _error(word)
        except BaseException:
            self.stop()
            raise
        self.dsn = str(word["dsn"])

    def stop(self) -> None:
        """End PostgreSQL and return when it has ended; leave it to the other master if there is one."""
        lifeline = self._lifeline
        if lifeline is not None and not self.shared:
            # Not close(): the end of the line in the other direction is what we wait for.
            lifeline.shutdown(socket.SHUT_WR)
            lifeline.settimeout(END_LIMIT_S)
            try:
                while lifeline.recv(_WORD_BYTES):
                    pass
            except TimeoutError:
                logger.error(
                    "PostgreSQL has not ended after %g s; it is left to itself", END_LIMIT_S
                )
            except ConnectionResetError:
                pass
        self.let_go()

    def let_go(self) -> None:
        """Hold on to it no longer; it ends when nobody does."""
        if self._lifeline is not None:
            self._lifeline.close()
        self._lifeline = None
        self.pid = None


def _word(lifeline: socket.socket) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(lifeline.recv(_WORD_BYTES) or b"{}")
    except ConnectionResetError:
        return {}
    return said


def _error(word: Mapping[str, Any]) -> PreforkAdsError:
    """The error that the owner met, as the same kind of error with its exit status."""
    kind = getattr(errors, str(word.get("error")), None)
    if isinstance(kind, type) and issubclass(kind, PreforkAdsError):
        return kind(str(word.get("message")))
    return DataDirError(
        "The process that was to own PostgreSQL ended without a word. If the lines above do not say why,"
        " somebody has killed it."
    )


# In the owner.


def _become_owner(
    data_dir: Path, lifeline: socket.socket, mask: set[int | signal.Signals]
) -> NoReturn:
    """The owner's whole life; never returns into the master's frames."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        _close_what_is_the_masters(lifeline.fileno())
        setproctitle("postgres owner of prefork-ads")
        log.configure("postgres")
        owner = _Owner(data_dir, lifeline)
        # Not later: PostgreSQL would inherit the mask.
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        owner.run()
        status = 0
    except BaseException:  # noqa: BLE001 - the last frame of this process: say why and leave
        logger.error("failed\n%s", traceback.format_exc().rstrip())
    finally:
        try:
            log.finish()
        finally:
            os._exit(status)


def _close_what_is_the_masters(kept_fd: int) -> None:
    """Listening sockets above all: held here they would keep the port in use after the master.

    What the log is written to stays: a file, or another descriptor of what standard error is.
    """
    kept = {_link(fd) for fd in (1, 2)}
    # Listed first: one of them is the listing itself.
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        link = _link(fd)
        is_the_masters = link.startswith(("socket:", "pipe:", "/memfd:", "anon_inode:"))
        if fd > 2 and fd != kept_fd and is_the_masters and link not in kept:
            os.close(fd)


def _link(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return ""


class _Owner:
    """Starts PostgreSQL, starts it again when it dies, ends it when the lifeline does."""

    def __init__(self, data_dir: Path, lifeline: socket.socket) -> None:
        self._lifeline = lifeline
        self._signals = Signals(_UNMOVED_BY)
        self._server = EmbeddedPostgres(data_dir, report=lambda what: logger.info("%s", what))
        self._service = Service("postgres", lambda: self._server.pid, self._server.start)

    def run(self) -> None:
        try:
            self._server.start()
        except PreforkAdsError as error:
            self._say({"error": type(error).__name__, "message": str(error)})
            return
        self._service.watch(time.monotonic())
        self._say({"dsn": self._server.dsn})
        while not self._let_go():
            self._look_after_it()
        self._server.stop()

    def _say(self, word: Mapping[str, Any]) -> None:
        try:
            self._lifeline.send(json.dumps(word).encode())
        except OSError:
            # Nobody waits for it any more, which the next look at the lifeline finds out.
            pass

    def _let_go(self) -> bool:
        """Wait for something to happen; whether the last master is gone."""
        due_s = self._service.restart_at_s
        timeout_ms = None if due_s is None else max(0.0, due_s - time.monotonic()) * 1000
        wait = select.poll()
        wait.register(self._lifeline, select.POLLIN)
        wait.register(self._signals, select.POLLIN)
        ready = {fd for fd, _ in wait.poll(timeout_ms)}
        self._signals.take()
        # Masters never say anything: it can only be the end.
        return self._lifeline.fileno() in ready

    def _look_after_it(self) -> None:
        pid, now_s = self._server.pid, time.monotonic()
        if pid is not None and not self._server.alive and self._service.gone(pid, now_s):
            logger.error("service postgres pid=%d %s", pid, self._server.ending)
        due_s = self._service.restart_at_s
        if due_s is not None and due_s <= now_s:
            self._service.restart(time.monotonic)
