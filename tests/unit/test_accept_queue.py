"""The queue of connections that wait to be accepted, with real sockets and a clock of our own."""

import asyncio
import contextlib
import fcntl
import socket
import termios
from collections.abc import Iterator
from typing import Final

import pytest

from prefork_ads.process.accept_queue import (
    AWAY_PER_ACCEPTED,
    LONGEST_S,
    SHORTEST,
    AcceptQueue,
    has_left,
)
from tests.support import wait_until

BACKLOG: Final = 4096
ANSWER: Final = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n"
LOOK_S: Final = 0.25


class Port:
    """A listener, its clients, and a worker that accepts when it is told to."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=BACKLOG))
        self.listener.setblocking(False)
        self.queue = AcceptQueue([self.listener], BACKLOG)
        self.now = 100.0
        self.accepted = 0
        self.served: list[socket.socket] = []

    def connect(self, number: int) -> list[socket.socket]:
        before = self.queue.waiting()
        clients = [
            self._stack.enter_context(socket.create_connection(self.listener.getsockname(), 30))
            for _ in range(number)
        ]
        wait_until(lambda: self.queue.waiting() >= before + number, "the clients in the queue")
        return clients

    @staticmethod
    def say(client: socket.socket, data: bytes) -> None:
        """Returns when it is there: the kernel has acknowledged it to the client."""
        client.sendall(data)
        wait_until(lambda: not unacknowledged(client), "what was sent to arrive")

    def accept(self, number: int) -> None:
        for _ in range(number):
            self._stack.enter_context(self.listener.accept()[0])
        self.accepted += number

    def look(self, after_s: float = LOOK_S) -> int:
        self.now += after_s
        return self.queue.look(self.now, self.accepted)

    def send_away(self, number: int) -> int:
        return self.queue.send_away(number, ANSWER, (b"GET /vital ",), self.served.append)

    @property
    def length(self) -> int:
        """As the kernel has it."""
        info = self.listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        return int.from_bytes(info[28:32], "little")


def unacknowledged(client: socket.socket) -> int:
    """How many bytes the other end's kernel does not have yet."""
    return int.from_bytes(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), "little")


@pytest.fixture
def port() -> Iterator[Port]:
    with contextlib.ExitStack() as stack:
        yield Port(stack)


def test_a_queue_that_stands_is_cut_to_what_can_be_accepted(port: Port) -> None:
    port.connect(400)
    assert port.look() == 0, "a burst, for all that is known yet"
    port.accept(150)
    per_second = 150 / LOOK_S
    assert port.look() == 250 - int(per_second * LONGEST_S)
    assert port.length == int(per_second * LONGEST_S) + int(150 * AWAY_PER_ACCEPTED)


def test_who_waits_longest_is_sent_away_with_an_answer(port: Port) -> None:
    clients = port.connect(5)
    for client in clients:
        port.say(client, b"GET / HTTP/1.1\r\n\r\n")
    assert port.send_away(3) == 3
    for client in clients[:3]:
        assert client.recv(1000) == ANSWER
        assert client.recv(1000) == b""
    assert port.queue.waiting() == 2
    assert port.send_away(9) == 2


def test_who_asks_for_something_vital_is_served(port: Port) -> None:
    first, second = port.connect(2)
    port.say(first, b"GET /vital HTTP/1.1\r\n\r\n")
    port.say(second, b"GET /vitality HTTP/1.1\r\n\r\n")
    assert port.send_away(2) == 2
    [served] = port.served
    assert served.recv(1000) == b"GET /vital HTTP/1.1\r\n\r\n", "nothing of it is lost"
    assert second.recv(1000) == ANSWER
    served.close()


def test_a_client_that_has_left_does_not_hurt(port: Port) -> None:
    for client in port.connect(3):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    assert port.send_away(3) <= 3


def test_a_burst_that_is_worked_off_is_no_overload(port: Port) -> None:
    port.connect(400)
    port.look()
    port.accept(300)
    assert port.look() == 0
    assert port.length == BACKLOG


def test_a_few_clients_are_no_overload_however_slow_the_machine_is(port: Port) -> None:
    port.connect(SHORTEST)
    assert [port.look() for _ in range(4)] == [0, 0, 0, 0]


def test_a_clock_that_stood_still_says_nothing(port: Port) -> None:
    port.connect(400)
    port.look()
    assert port.look(after_s=5.0) == 0


def test_a_worker_that_is_stuck_keeps_the_shortest_queue(port: Port) -> None:
    port.connect(400)
    port.look()
    assert port.look() == 400 - SHORTEST


def test_a_calm_queue_grows_back(port: Port) -> None:
    port.connect(400)
    port.look()
    port.send_away(port.look())
    lengths = []
    port.accept(port.queue.waiting())
    while port.length < BACKLOG:
        assert port.look() == 0
        lengths.append(port.length)
    assert lengths == [SHORTEST * 2**doubled for doubled in range(1, 6)]


def test_queues_are_left_as_they_were_found(port: Port) -> None:
    port.connect(400)
    port.look()
    port.look()
    assert port.length < BACKLOG
    port.queue.leave()
    assert port.length == BACKLOG
    assert [port.look() for _ in range(3)] == [0, 0, 0]


def test_a_unix_socket_is_left_alone() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        queue = AcceptQueue([listener], BACKLOG)
        assert [queue.look(now, 0) for now in (1.0, 1.25, 1.5)] == [0, 0, 0]
        assert queue.send_away(5, ANSWER, (), lambda _: None) == 0


class Transport(asyncio.BaseTransport):
    def __init__(self, connection: socket.socket) -> None:
        super().__init__({"socket": connection})


def test_who_has_left_before_he_was_accepted(port: Port) -> None:
    staying, leaving = port.connect(2)
    leaving.sendall(b"GET / HTTP/1.1\r\n\r\n")
    leaving.close()
    first, second = (Transport(port.listener.accept()[0]) for _ in range(2))
    wait_until(lambda: has_left(second), "the close to arrive")
    assert not has_left(first)
    staying.close()
    wait_until(lambda: has_left(first), "the close to arrive")
    for transport in (first, second):
        transport.get_extra_info("socket").close()
