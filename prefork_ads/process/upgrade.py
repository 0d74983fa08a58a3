"""Changing the program under a running server: what the old and the new master give and tell each other.

SIGUSR2 makes the master start the program again, from the file system and with the words it was started
with. It hands over the listening sockets by their descriptors, slot by slot. Nothing is bound again and
nothing is closed, so the queues, and whoever waits in them, are the same for both. The new master boots
its workers on them, and for a moment both accept. Only when all of them are ready the old one lets its
own workers drain, exactly as in a reload, and leaves.

    old                                     new
    starts it, hands over        ──────→    takes the listeners, prepares the database, boots workers
    goes on serving              ←──────    "ready"
    moves the main process id    ──────→    "yours": pid file, READY, watchdog
    drains, ends                 ──(end)─→  the listeners are its own

Whatever dies on the way, one of the two serves:

- the new one before "ready" (or too late for it): the old one stays as it is and says so;
- the new one after it, while the old one still drains: the old one starts its workers again;
- the old one before "yours": the new one is the server as soon as it is ready, without being told;
- the old one while it drains: its workers finish by themselves, as after any death of a master.

Orphaned workers must not shut listeners down that somebody else serves. As long as there are two
masters, each has said so in its scoreboard (`listeners_shared`).

Facts that shaped it:
- `sys.orig_argv` has the words the interpreter was started with, also for a console script (the kernel
  has put the interpreter in front) and for `-m`. The executable is named by its path as it was, not
  resolved: an environment behind a link that was moved to a newer one is the newer one.
- The new master is a child of the old one; the death signal (PR_SET_PDEATHSIG) is not inherited by
  a fork, so it does not die with it. It is given to whoever adopts orphans then.
- The descriptors are named in an environment variable together with the process they are for: a
  process further down that inherits the variable has inherited no descriptors.
- The line between the two is a pair of sockets that only they hold. Its end is the other's end,
  whatever signal or status there was.

The variable's content is understood across versions of this program: fields may be added, none may
change its meaning.

Who is the server at which moment is decided in `succession`.

Must not know: children, what signals mean, the service manager.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from prefork_ads.errors import ConfigError
from prefork_ads.process import streams

VARIABLE: Final = "PREFORK_ADS_HANDOVER"
_FORMAT: Final = 1

READY: Final = "ready"
YOURS: Final = "yours"
# With it, a reload that was asked for meanwhile: the new settings may have been read before.
YOURS_AND_RELOAD: Final = "yours, reload"
# From the new one while the old one drains: it was told to stop, so nobody is to go on; or to stop now.
STOPPING: Final = "stopping"
STOP_NOW: Final = "stop now"
_FAILED: Final = "failed: "

_WORD_BYTES: Final = 4096


class Line:
    """One end of the line between two masters."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._end.setblocking(False)
        self.ended = False

    def fileno(self) -> int:
        return self._end.fileno()

    def hear(self) -> Iterator[str]:
        """Everything the other has said since the last time; afterwards `ended` may be true."""
        while not self.ended:
            try:
                word = self._end.recv(_WORD_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                word = b""
            if word:
                yield word.decode(errors="replace")
            else:
                self.ended = True

    def say(self, word: str) -> bool:
        """Whether the other can still hear it."""
        try:
            self._end.send(word.encode()[:_WORD_BYTES])
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._end.close()


@dataclass(frozen=True, slots=True)
class Program:
    """How this process was started, as far as it can be repeated."""

    executable: str
    arguments: tuple[str, ...]
    directory: str

    @classmethod
    def of_this_process(cls) -> "Program":
        """To be asked at the start: later the directory may have been moved away."""
        return cls(sys.executable, tuple(sys.orig_argv[1:]), _directory())

    def commands(self) -> list[list[str]]:
        """What to try, in this order.

        An environment that was made anew for another version of Python may lack the interpreter of that
        name. A console script names the one it has got now in its first line.
        """
        commands = [[self.executable, *self.arguments]] if self.executable else []
        if self.arguments and not self.arguments[0].startswith("-"):
            commands.append(list(self.arguments))
        return commands


def _directory() -> str:
    """The current directory as the shell called it, by a link for instance, if that is still true."""
    try:
        here = Path.cwd()
    except OSError:
        return ""
    called = Path(os.environ.get("PWD", ""))
    try:
        return str(called if called.is_absolute() and called.samefile(here) else here)
    except OSError:
        return str(here)


class Successor:
    """The new master, as the old one sees it."""

    def __init__(self, pid: int, line: Line) -> None:
        self.pid = pid
        self.line = line
        self.ready = False
        # It was told to stop, so its end is no accident; or even to stop at once.
        self.stopping = False
        self.stop_now = False
        self.failure = ""

    @classmethod
    def start(cls, program: Program, given: Mapping[str, Any], fds: Sequence[int]) -> "Successor":
        """Start the program and hand the descriptors over. OSError: the system refuses to fork.

        That there is no such program is only found out in the new process; it says so on the line.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environ = dict(os.environ)
        parent = os.getpid()
        streams.flush()
        # See `spawn`: a handler of ours that runs in the child would be taken for our own signal.
        before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _become_program(program, given, [*fds, theirs.fileno()], theirs, environ, parent)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        return cls(pid, Line(ours))

    def hear(self) -> None:
        """Take in what it has said."""
        for word in self.line.hear():
            if word == READY:
                self.ready = True
            elif word in (STOPPING, STOP_NOW):
                self.stopping = True
                self.stop_now = self.stop_now or word == STOP_NOW
            elif word.startswith(_FAILED):
                self.failure = word.removeprefix(_FAILED)

    def send(self, number: signal.Signals) -> None:
        """It is our child and a zombie until we reap it, so the pid is nobody else's."""
        os.kill(self.pid, number)


def _become_program(
    program: Program,
    given: Mapping[str, Any],
    fds: Sequence[int],
    line: socket.socket,
    environ: dict[str, str],
    parent: int,
) -> NoReturn:
    """In the child: only what leads to the new program; never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        pid = os.getpid()
        environ[VARIABLE] = json.dumps(
            {"format": _FORMAT, "for": pid, "from": parent, "line": line.fileno(), **given}
        )
        # The service manager's watchdog is fed by whoever this names.
        if environ.get("WATCHDOG_PID") == str(parent):
            environ["WATCHDOG_PID"] = str(pid)
        with suppress(OSError):
            os.chdir(program.directory)
        for fd in fds:
            os.set_inheritable(fd, True)
        failure = "it is not known how this program was started"
        for command in program.commands():
            try:
                os.execve(command[0], command, environ)  # noqa: S606 - there is no shell to need
            except OSError as error:
                failure = failure if failure.startswith("/") else f"{command[0]}: {error.strerror}"
        line.send((_FAILED + failure).encode()[:_WORD_BYTES])
    except BaseException as error:  # noqa: BLE001 - the last frame of this process: say why and leave
        line.send((_FAILED + repr(error)).encode()[:_WORD_BYTES])
    finally:
        os._exit(127)


class Predecessor:
    """The old master and what it hands over, as the new one sees it."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.pid = int(given["from"])
        self.line = Line(_taken(int(given["line"])))
        # A Unix socket is one and the same for all slots.
        fds = {int(fd) for slot in given["listeners"] for fd in slot}
        sockets = {fd: _taken(fd) for fd in sorted(fds)}
        self.by_slot = [[sockets[int(fd)] for fd in slot] for slot in given["listeners"]]
        self.address = str(given["address"])
        # The service manager has made them.
        self.foreign = bool(given["foreign"])
        # What the old one had been told, to see what is different now.
        self.settings: dict[str, str] = dict(given["settings"])
        self.wanted = int(given["wanted"])
        self.generation = int(given["generation"])
        self.services: dict[str, dict[str, Any]] = dict(given["services"])
        # The old one has said that the server is ours, or has died.
        self.yielded = False
        self.reload = False

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], pid: int) -> "Predecessor | None":
        """What was handed to this process; None when it was started by anybody else.

        The variable is removed, so that nobody takes the same descriptors again.
        """
        text = environ.pop(VARIABLE, "")
        if not text:
            return None
        try:
            given = json.loads(text)
            if given["for"] != pid:
                return None
            if given["format"] != _FORMAT:
                raise ValueError("its format is that of another version")
            return cls(given)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ConfigError(
                f"What the running server hands over cannot be used ({error}). Restart it instead."
            ) from error

    def hear(self) -> None:
        """Take in what it has said, or that it is gone."""
        for word in self.line.hear():
            self.yielded = self.yielded or word in (YOURS, YOURS_AND_RELOAD)
            self.reload = self.reload or word == YOURS_AND_RELOAD

    @property
    def gone(self) -> bool:
        return self.line.ended


def _taken(fd: int) -> socket.socket:
    """The socket behind an inherited descriptor, which no child of ours gets by exec."""
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)
