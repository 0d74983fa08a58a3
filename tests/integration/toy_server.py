"""A real master over workers that do next to nothing, so that tests can make them do the worst.

    python -m tests.integration.toy_server --workers 2 --port 0 --data-dir DIR [field=value …]

Further arguments set fields of Config. Files in the current folder steer it while it runs: `boot`
holds what a child does when it starts (`ok`, `fail`, `hang`, `hang-1`: only that of slot 1; absent means
`ok`), `drain` what a worker does when it is to drain (`hang`, `fail`, `fail-at-once`: only when told to
stop now), `config` that the configuration is broken, or a field=value to change, `recycle` the pid of a
worker that is to want a successor. With `steering` there from the start, the kernel does not steer. While
somebody has `hold` locked, a master that starts does nothing yet.
"""

import argparse
import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from prefork_ads.config import Config
from prefork_ads.errors import ConfigError, PreforkAdsError
from prefork_ads.metrics import CELLS, Gauge
from prefork_ads.process import steering, survivors
from prefork_ads.process.activation import take_sockets
from prefork_ads.process.context import ChildContext
from prefork_ads.process.listener import ACCEPT_GRACE_S, refuse_new
from prefork_ads.process.log import logger
from prefork_ads.process.master import Master
from prefork_ads.process.scoreboard import Scoreboard, Wish
from prefork_ads.process.upgrade import Predecessor

ANSWER = "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}"


def _word(name: str) -> str:
    path = Path(name)
    return path.read_text().strip() if path.exists() else ""


class _Signals:
    """Wakes a poll() when a signal comes."""

    def __init__(self) -> None:
        self.wake, out = socket.socketpair()
        for end in (self.wake, out):
            end.setblocking(False)
        self._out = out
        signal.set_wakeup_fd(out.fileno())
        self.terminated = False
        signal.signal(signal.SIGTERM, self._on_term)

    def _on_term(self, number: int, frame: object) -> None:
        self.terminated = True


def worker_main(context: ChildContext) -> int:
    match _word("boot"):
        case "fail":
            return 3
        case "raise":
            raise RuntimeError("this worker was told to raise")
        case "refuse":
            raise ConfigError("this worker was told to refuse")
        case "hang":
            signal.pause()
        case "hang-1" if context.slot == 1:
            signal.pause()
    signals = _Signals()
    wait = select.poll()
    for descriptor in (signals.wake, *context.listeners):
        wait.register(descriptor, select.POLLIN)
    context.announce_ready()

    def serve_until(done: Callable[[], bool]) -> None:
        while not done():
            context.beat()
            wait.poll(20)
            if _word("recycle") == str(os.getpid()):
                context.ask_for_successor(Wish.MAX_REQUESTS)
            for listener in context.listeners:
                _answer_queue(listener, context)

    serve_until(lambda: signals.terminated)
    match _word("drain"):
        case "hang":
            signal.pause()
        case "fail":
            return 4
        case "fail-at-once":
            signal.signal(signal.SIGQUIT, lambda *_: os._exit(4))
            signal.pause()
    if context.alone_with_listeners:
        for listener in context.listeners:
            refuse_new(listener)
    context.announce_draining()
    last_s = time.monotonic() + ACCEPT_GRACE_S
    serve_until(lambda: time.monotonic() > last_s)
    return 0


def _answer_queue(listener: socket.socket, context: ChildContext) -> None:
    while True:
        try:
            connection = listener.accept()[0]
        except BlockingIOError:
            return
        with connection:
            connection.setblocking(True)
            request = connection.recv(4096)
            if b"/hang" in request:
                signal.pause()
            context.seat.counters[0] += 1
            told = f"{context.slot} {context.generation} {os.getpid()} {context.config.max_url}"
            if b"/own" in request:
                told = str(len(context.own_listeners))
            connection.sendall(ANSWER.format(len(told), told).encode())


def _refuse_to_steer(listener: socket.socket, program: list[steering.Instruction]) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def keeper_main(context: ChildContext) -> int:
    signals = _Signals()
    context.announce_ready()
    while not signals.terminated:
        context.beat()
        select.select([signals.wake], [], [], 0.1)
    if context.orphaned:
        survivors.see_off(context.scoreboard, context.config.drain_timeout_s)
    return 0


def _wait_while_held() -> None:
    with contextlib.suppress(FileNotFoundError), Path("hold").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)


def main() -> int:
    _wait_while_held()
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int)
    parser.add_argument("--port", type=int)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("fields", nargs="*")
    arguments = parser.parse_args()
    started_with = Config(workers=arguments.workers, port=arguments.port).replace(
        data_dir=arguments.data_dir, **_fields(arguments.fields)
    )

    def load_config() -> Config:
        if _word("config") == "broken":
            raise ConfigError("the configuration is broken")
        return started_with.replace(**_fields(_word("config").split()))

    try:
        if _word("steering"):
            steering.attach = _refuse_to_steer
        master = Master(
            started_with,
            worker_main=worker_main,
            keeper_main=keeper_main,
            load_config=load_config,
            scoreboard=Scoreboard(counters=CELLS, gauges=len(Gauge)),
            database="none",
            on_ready=lambda url: logger.info("try %s", url),
            sockets=take_sockets(os.environ, os.getpid()),
            predecessor=Predecessor.from_environment(os.environ, os.getpid()),
        )
        return master.run()
    except PreforkAdsError as error:
        logger.error("%s", error)
        return error.exit_code


def _fields(words: list[str]) -> dict[str, object]:
    defaults = Config()
    found: dict[str, object] = {}
    for word in words:
        name, _, text = word.partition("=")
        kind = Path if name in {"pid_file", "unix_socket"} else type(getattr(defaults, name))
        found[name] = kind(text)
    return found


if __name__ == "__main__":
    sys.exit(main())
