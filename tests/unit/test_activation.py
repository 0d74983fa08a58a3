"""Sockets of the service manager: which are taken, which are refused, and who serves what."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from prefork_ads.errors import ConfigError
from prefork_ads.process.activation import take_sockets
from prefork_ads.process.listener import adopt

PID = 4711
# High enough for a row of descriptors that nobody uses.
FIRST_FD = 700


def listening(port: int = 0, *, host: str = "127.0.0.1", reuse: bool = False) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if reuse:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.listen()
    return listener


def handed(sockets: list[socket.socket], names: str = "") -> tuple[dict[str, str], int]:
    """The environment and the first descriptor, as if descriptors began there."""
    for index, given in enumerate(sockets):
        assert fcntl.fcntl(given, fcntl.F_DUPFD, FIRST_FD + index) == FIRST_FD + index
    environ = {"LISTEN_PID": str(PID), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names}
    return environ, FIRST_FD


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_sockets_meant_for_us_are_taken_once(opened: ExitStack) -> None:
    given = [opened.enter_context(listening()) for _ in range(2)]
    environ, first = handed(given)
    taken = [opened.enter_context(sock) for sock in take_sockets(environ, PID, first)]
    assert [sock.getsockname() for sock in taken] == [sock.getsockname() for sock in given]
    assert environ == {}
    assert not any(sock.get_inheritable() or sock.getblocking() for sock in taken)
    assert take_sockets(environ, PID, first) == []


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": str(PID), "LISTEN_FDS": "0"},
    ],
)
def test_what_is_meant_for_others_is_left_alone(environ: dict[str, str]) -> None:
    assert take_sockets(environ, PID) == []


@pytest.mark.parametrize("count", ["", "-1", "two", "9999", "1" * 5000, "²"])
def test_a_number_that_makes_no_sense_is_refused(count: str) -> None:
    with pytest.raises(ConfigError, match="is not a number of sockets"):
        take_sockets({"LISTEN_PID": str(PID), "LISTEN_FDS": count}, PID)


def test_a_datagram_socket_is_refused_by_its_name(opened: ExitStack) -> None:
    given = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    environ, first = handed([given], "ads")
    words = rf"descriptor {first} \(ads\) is not a stream socket\. Use ListenStream="
    with pytest.raises(ConfigError, match=words):
        take_sockets(environ, PID, first)


def test_a_connection_is_refused(opened: ExitStack) -> None:
    """What a unit with Accept=yes hands over."""
    listener = opened.enter_context(listening())
    given = opened.enter_context(socket.create_connection(listener.getsockname()))
    environ, first = handed([given])
    with pytest.raises(ConfigError, match=r"does not listen: it is one connection\. Use Accept=no"):
        take_sockets(environ, PID, first)


def test_a_socket_of_another_family_is_refused(opened: ExitStack) -> None:
    given = opened.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
    environ, first = handed([given])
    with pytest.raises(ConfigError, match="is neither a TCP nor a Unix socket"):
        take_sockets(environ, PID, first)


def test_a_file_is_refused(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    try:
        environ = {"LISTEN_PID": str(PID), "LISTEN_FDS": "1"}
        with pytest.raises(ConfigError, match=f"descriptor {fd} is no open socket"):
            take_sockets(environ, PID, fd)
    finally:
        os.close(fd)


# Who serves what.


def test_one_socket_is_shared_by_all_slots(opened: ExitStack) -> None:
    given = opened.enter_context(listening())
    listeners = adopt([given], slots=3, backlog=16)
    assert [listeners.of(slot) for slot in range(3)] == [[given]] * 3
    assert listeners.shared
    assert listeners.removable


def test_as_many_sockets_as_slots_give_each_slot_its_own(opened: ExitStack) -> None:
    first = opened.enter_context(listening(reuse=True))
    port = first.getsockname()[1]
    given = [first, *(opened.enter_context(listening(port, reuse=True)) for _ in range(2))]
    listeners = adopt(given, slots=3, backlog=16)
    assert [listeners.of(slot) for slot in range(3)] == [[sock] for sock in given]
    assert not listeners.removable, "nobody would accept from the last one's socket"
    listeners.add()
    assert listeners.of(3) == [first]
    assert listeners.removable


def test_every_slot_serves_every_address_and_every_socket_has_a_slot(opened: ExitStack) -> None:
    first = opened.enter_context(listening(reuse=True))
    port = first.getsockname()[1]
    more = [opened.enter_context(listening(port, reuse=True)) for _ in range(2)]
    other = opened.enter_context(listening(host="127.0.0.2"))
    listeners = adopt([first, *more, other], slots=2, backlog=16)
    assert listeners.of(0) == [first, more[1], other]
    assert listeners.of(1) == [more[0], other]


def test_the_service_managers_copy_is_as_good_as_before(opened: ExitStack, tmp_path: Path) -> None:
    """After our end it listens, has its name, and keeps who is waiting."""
    path = tmp_path / "http.sock"
    unix = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    unix.bind(str(path))
    unix.listen()
    tcp = opened.enter_context(listening())
    environ, first = handed([tcp, unix])
    listeners = adopt(take_sockets(environ, PID, first), slots=2, backlog=16)
    assert listeners.url == f"http://127.0.0.1:{tcp.getsockname()[1]}"
    waiting = opened.enter_context(socket.create_connection(tcp.getsockname()))
    listeners.refuse_new()
    listeners.close()
    opened.enter_context(socket.create_connection(tcp.getsockname()))
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(path))
    tcp.settimeout(10)
    accepted, address = tcp.accept()
    with accepted:
        assert address == waiting.getsockname()


def test_an_abstract_name_is_shown_with_an_at_sign(opened: ExitStack) -> None:
    unix = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    unix.bind(f"\0prefork-ads-test-{os.getpid()}")
    unix.listen()
    listeners = adopt([unix], slots=1, backlog=16)
    assert listeners.url == f"unix:@prefork-ads-test-{os.getpid()}"
