"""A server on sockets that somebody else has made and keeps, as systemd does."""

import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from prefork_ads.errors import ConfigError
from tests.integration.test_master import GET, TOY, ask, listening_sockets, read_all
from tests.support import wait_until
from tests.system.lineage import Lineage

# Becomes the command, with the descriptors it inherits as 3, 4, … and the variables that name them.
ACTIVATE = """
import os, sys
given = [int(fd) for fd in sys.argv[1].split(",")]
for index, fd in enumerate(given):
    os.dup2(fd, 500 + index, inheritable=False)
    os.close(fd)
for index in range(len(given)):
    os.dup2(500 + index, 3 + index)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Activated(Lineage):
    """Handed these sockets at each start."""

    def __init__(self, *, sockets: list[socket.socket], serves: bool = True) -> None:
        super().__init__(module=TOY, serves=serves)
        fds = [given.fileno() for given in sockets]
        self._pass_fds = fds
        self._command[:0] = [sys.executable, "-c", ACTIVATE, ",".join(map(str, fds))]


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(port: int = 0) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(100)
    return listener


def slots_asked(server: Lineage, times: int = 60) -> Counter[int]:
    return Counter(ask(server)[0] for _ in range(times))


def test_one_socket_serves_all_slots_and_outlives_a_restart(opened: ExitStack) -> None:
    """Nobody is refused in between: who comes then waits in the service manager's queue."""
    given = opened.enter_context(listening())
    port = given.getsockname()[1]
    with Activated(sockets=[given]) as server:
        assert server.port == port
        assert slots_asked(server).total() == 60
        server.end()
        waiting = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(20)]
        for client in waiting:
            client.sendall(GET)
        server.start()
        assert all(len(read_all(client).split()) == 4 for client in waiting)
        wait_until(lambda: server.count(r"ready: 2 workers") == 2, "the second start")
        assert server.count("error|Traceback") == 0


def test_a_socket_for_each_slot_gives_each_its_own_queue(opened: ExitStack) -> None:
    first = opened.enter_context(listening())
    second = opened.enter_context(listening(first.getsockname()[1]))
    with Activated(sockets=[first, second]) as server:
        for slot in (0, 1):
            assert listening_sockets(server.worker(slot)) == 1
        assert slots_asked(server).keys() == {0, 1}
        # A worker more shares; a worker fewer would leave a queue that nobody empties.
        server.signal(signal.SIGTTIN)
        server.wait_for_line(r"worker slot=2 pid=\d+ ready")
        server.signal(signal.SIGTTOU)
        server.wait_for_line("worker 2 is gone")
        server.signal(signal.SIGTTOU)
        server.wait_for_line("SIGTTOU: not one worker fewer, nobody would accept")
        assert slots_asked(server).keys() == {0, 1}


def test_an_upgrade_hands_the_service_managers_sockets_on(opened: ExitStack) -> None:
    given = opened.enter_context(listening())
    with Activated(sockets=[given]) as server:
        server.upgrade()
        assert {ask(server)[1] for _ in range(20)} == {2}
        server.end()
        # As good as before.
        opened.enter_context(socket.create_connection(given.getsockname(), 20))


def test_orphaned_workers_leave_the_service_managers_socket_alone(opened: ExitStack) -> None:
    given = opened.enter_context(listening())
    with Activated(sockets=[given]) as server:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        server.assert_nothing_runs()
        opened.enter_context(socket.create_connection(given.getsockname(), 20))


def test_a_datagram_socket_ends_the_start_with_a_reason(opened: ExitStack) -> None:
    given = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with Activated(sockets=[given], serves=False) as server:
        assert server.wait() == ConfigError.exit_code
        assert server.count("descriptor 3 is not a stream socket. Use ListenStream=") == 1
