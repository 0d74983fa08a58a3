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
    GLANCE_EVERY,
    GLANCE_LEAVES,
    GLANCE_S,
    LONGEST_S,
    SHORTEST,
    AcceptQueue,
    has_left,
)
from tests.support import wait_until

BACKLOG: Final = 4096
GLANCED: Final = 480
LEAST: Final = GLANCED // GLANCE_LEAVES
ANSWER: Final = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n"
LOOK_S: Final = 0.25


class Port:
    """A listener, its clients, and a worker that accepts when it is told to."""

    def __init__(self, stack: contextlib.ExitStack, backlog: int) -> None:
        self._stack = stack
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=backlog))
        self.listener.setblocking(False)
        self.queue = AcceptQueue([self.listener], backlog)
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

    def glance(self, after_s: float, accept: int = GLANCE_EVERY) -> None:
        self.accept(accept)
        self.now += after_s
        self.queue.glance(self.now, self.accepted)

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
        yield Port(stack, BACKLOG)


@pytest.fixture
def glanced() -> Iterator[Port]:
    """So short that a few hundred clients are many at a glance."""
    with contextlib.ExitStack() as stack:
        yield Port(stack, GLANCED)


def test_a_queue_that_stands_is_cut_to_what_can_be_accepted(port: Port) -> None:
    port.connect(400)
    assert port.look() == 0, "a burst, for all that is known yet"
    port.accept(150)
    per_second = 150 / LOOK_S
    assert port.look() == 250 - int(per_second * LONGEST_S)
    assert port.length == int(per_second * LONGEST_S) + int(150 * AWAY_PER_ACCEPTED)


def test_many_at_once_get_no_further_than_three_glances(glanced: Port) -> None:
    """Nobody is sent away for that: who is in the queue is the next looks' business."""
    glanced.connect(400)
    glanced.glance(after_s=1)
    glanced.glance(after_s=0.1, accept=20)
    assert glanced.length == GLANCED
    glanced.glance(after_s=0.1, accept=40)
    assert glanced.length == 40 / 0.1 * LONGEST_S
    assert glanced.queue.waiting() == 400 - GLANCE_EVERY - 20 - 40
    assert glanced.queue.is_cut
    glanced.accept(glanced.queue.waiting())
    assert [glanced.look() for _ in range(7)] == [0] * 7
    assert glanced.length == GLANCED


def test_a_pause_between_two_glances_is_no_overload(glanced: Port) -> None:
    """Of the machine, or a collection of garbage: faster before it, or after it."""
    glanced.connect(400)
    glanced.glance(after_s=1, accept=0)
    glanced.glance(after_s=0.06, accept=80)
    glanced.glance(after_s=0.5)
    assert glanced.length == GLANCED
    glanced.glance(after_s=0.06, accept=80)
    assert glanced.length == GLANCED


def test_a_cut_queue_is_not_cut_at_a_glance(glanced: Port) -> None:
    glanced.connect(400)
    glanced.look()
    glanced.accept(150)
    glanced.look()
    length = glanced.length
    for _ in range(4):
        glanced.glance(after_s=0.1)
    assert glanced.length == length


def test_a_queue_that_was_cut_too_short_is_let_grow_although_it_stands(glanced: Port) -> None:
    """In a closed loop those who were let in come again at once, and whoever was not waits in vain."""
    glanced.connect(400)
    for _ in range(3):
        glanced.glance(after_s=0.1)
    assert glanced.length == LEAST
    glanced.look()
    glanced.accept(200)
    assert glanced.queue.waiting() > SHORTEST
    assert glanced.look() == 0, "they are accepted in time"
    assert glanced.length == int(200 / LOOK_S * LONGEST_S) + int(200 * AWAY_PER_ACCEPTED)


def test_no_queue_gets_longer_than_it_was(port: Port) -> None:
    """Of several listeners more wait together than each may have."""
    queue = AcceptQueue([port.listener], 150)
    port.connect(300)
    for number in range(1, 4):
        queue.glance(number / 10, 40 * number)
    assert port.length in (150, BACKLOG)
    assert not queue.is_cut


def test_glances_too_close_to_each_other_are_taken_together(glanced: Port) -> None:
    glanced.connect(400)
    glanced.glance(after_s=1)
    for _ in range(3):
        glanced.glance(after_s=0.7 * GLANCE_S)
        assert glanced.length == GLANCED
    glanced.glance(after_s=0.7 * GLANCE_S)
    assert glanced.length == int(2 * GLANCE_EVERY / (1.4 * GLANCE_S) * LONGEST_S)


def test_a_clock_that_does_not_move_divides_by_nothing(glanced: Port) -> None:
    glanced.connect(400)
    glanced.glance(after_s=1)
    for _ in range(3):
        glanced.glance(after_s=0)
    assert glanced.length == GLANCED


def test_who_accepts_fast_is_left_alone_at_a_glance(glanced: Port) -> None:
    glanced.connect(400)
    for _ in range(3):
        glanced.glance(after_s=0.1, accept=100)
    assert glanced.length == GLANCED


def test_glances_mind_that_the_queue_was_short_in_between(glanced: Port) -> None:
    glanced.connect(SHORTEST + 10)
    glanced.glance(after_s=1, accept=0)
    glanced.glance(after_s=2 * GLANCE_S, accept=1)
    glanced.glance(after_s=2 * GLANCE_S, accept=9)
    glanced.connect(300)
    glanced.glance(after_s=2 * GLANCE_S, accept=0)
    glanced.glance(after_s=2 * GLANCE_S, accept=0)
    assert glanced.length == GLANCED, "it is not long since the first"
    glanced.glance(after_s=2 * GLANCE_S, accept=0)
    assert glanced.length == LEAST


def test_a_clock_that_stood_still_says_nothing_at_a_glance(glanced: Port) -> None:
    glanced.connect(400)
    glanced.glance(after_s=1)
    glanced.glance(after_s=0.1)
    glanced.glance(after_s=5)
    glanced.glance(after_s=0.1)
    assert glanced.length == GLANCED


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
    """And does not count as sent away, only as taken."""
    first, second, _ = port.connect(3)
    port.say(first, b"GET /vital HTTP/1.1\r\n\r\n")
    port.say(second, b"GET /vitality HTTP/1.1\r\n\r\n")
    assert port.send_away(2) == 1
    assert port.queue.waiting() == 1
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
    assert lengths == [SHORTEST * 2**doubled for doubled in range(1, 7)]


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
