"""Listening sockets on this kernel: who gets a connection, who is refused, and who is reset."""

import errno
import os
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from prefork_ads.errors import ConfigError, PortInUse
from prefork_ads.process import port_owner
from prefork_ads.process.listener import Listeners, adopt, open_tcp, open_unix, refuse_new

LOOPBACK = "127.0.0.1"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@contextmanager
def listening(host: str = LOOPBACK, port: int = 0, slots: int = 4) -> Iterator[Listeners]:
    with closing(open_tcp(host, port, slots=slots, backlog=4096)) as listeners:
        yield listeners


def port_of(listeners: Listeners) -> int:
    port: int = listeners.of(0)[0].getsockname()[1]
    return port


def queued(listener: socket.socket) -> list[socket.socket]:
    """Accept everything that waits."""
    accepted = []
    while True:
        try:
            accepted.append(listener.accept()[0])
        except BlockingIOError:
            return accepted


def test_every_slot_listens_on_the_port_the_system_chose() -> None:
    with listening(slots=4) as listeners:
        ports = {listener.getsockname()[1] for slot in range(4) for listener in listeners.of(slot)}
        assert len(listeners) == 4
        assert len(ports) == 1
        assert listeners.url == f"http://127.0.0.1:{ports.pop()}"


def test_connections_are_spread_over_the_slots() -> None:
    with listening(slots=4) as listeners:
        clients = [socket.create_connection((LOOPBACK, port_of(listeners))) for _ in range(400)]
        accepted = [queued(listeners.of(slot)[0]) for slot in range(4)]
        for connection in [*clients, *(c for per_slot in accepted for c in per_slot)]:
            connection.close()
    counts = [len(per_slot) for per_slot in accepted]
    assert sum(counts) == 400
    # 100 each on average; a fair deal leaves this range once in far more runs than we shall see.
    assert min(counts) > 50, counts


def test_listeners_neither_block_nor_leak_into_programs_we_start() -> None:
    with listening() as listeners:
        listener = listeners.of(0)[0]
        assert not listener.getblocking()
        assert not listener.get_inheritable()


@pytest.mark.parametrize("reuseport", [False, True])
def test_a_port_that_somebody_listens_on_is_refused(reuseport: bool) -> None:
    with socket.socket() as other:
        if reuseport:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((LOOPBACK, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"Port {port} on 127\.0\.0\.1.*pid {os.getpid()}"):
            open_tcp(LOOPBACK, port, slots=2, backlog=16)


def test_an_address_can_be_tried_without_letting_anybody_in() -> None:
    """A client that got through would be reset when the trial ends; refused, it comes again."""
    with closing(open_tcp(LOOPBACK, 0, slots=1, backlog=0)) as trial:
        port = port_of(trial)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, port), timeout=10)
    with (
        closing(open_tcp(LOOPBACK, port, slots=2, backlog=16)),
        pytest.raises(PortInUse),
    ):
        open_tcp(LOOPBACK, port, slots=1, backlog=0)


def test_a_second_server_does_not_join_the_first() -> None:
    with listening() as first:
        with pytest.raises(PortInUse):
            open_tcp(LOOPBACK, port_of(first), slots=4, backlog=16)
        with pytest.raises(PortInUse):
            open_tcp("0.0.0.0", port_of(first), slots=4, backlog=16)


def test_of_many_servers_started_together_exactly_one_gets_the_port() -> None:
    for _ in range(5):
        with listening(slots=1) as probe:
            port = port_of(probe)
        start = threading.Barrier(8)
        won: list[Listeners] = []
        lost: list[PortInUse] = []

        def contend(
            port: int = port,
            start: threading.Barrier = start,
            won: list[Listeners] = won,
            lost: list[PortInUse] = lost,
        ) -> None:
            start.wait()
            try:
                won.append(open_tcp(LOOPBACK, port, slots=3, backlog=16))
            except PortInUse as error:
                lost.append(error)

        threads = [threading.Thread(target=contend) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for listeners in won:
            listeners.close()
        assert (len(won), len(lost)) == (1, 7)


def port_of_free() -> int:
    with listening(slots=1) as probe:
        return port_of(probe)


def test_a_restart_finds_the_port_free_although_connections_are_in_time_wait() -> None:
    with listening(slots=2) as first:
        port = port_of(first)
        clients = [socket.create_connection((LOOPBACK, port)) for _ in range(20)]
        # The side that closes first keeps the port in TIME_WAIT: the server's.
        for connection in [c for slot in range(2) for c in queued(first.of(slot)[0])]:
            connection.close()
        for client in clients:
            client.close()
    with listening(port=port, slots=2):
        pass


def test_a_restart_finds_the_port_free_although_old_connections_are_open() -> None:
    with listening(slots=2) as first:
        port = port_of(first)
        client = socket.create_connection((LOOPBACK, port))
        accepted = [c for slot in range(2) for c in queued(first.of(slot)[0])]
    with listening(port=port, slots=2):
        pass
    for connection in (client, *accepted):
        connection.close()


@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6(host: str) -> None:
    assert has_ipv6(), "this machine has no IPv6 on loopback"
    with listening(host=host) as listeners:
        assert listeners.url == f"http://[{host}]:{port_of(listeners)}"
        with socket.create_connection(("::1", port_of(listeners))):
            pass


def test_a_name_listens_on_every_address_it_stands_for() -> None:
    with listening(host="localhost", slots=2) as listeners:
        found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        assert (
            len(listeners.of(0)) == len(listeners.of(1)) == len({address for *_, address in found})
        )
        assert {listener.getsockname()[1] for listener in listeners.of(1)} == {port_of(listeners)}


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("203.0.113.9", 0, "no address of this machine"),
        ("no-such-host.invalid", 0, "cannot be resolved"),
        ("a" * 70, 0, "cannot be resolved"),
    ],
)
def test_an_address_that_cannot_be_taken_is_explained(host: str, port: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_tcp(host, port, slots=1, backlog=16)


def test_a_low_port_for_an_ordinary_user_is_explained() -> None:
    def as_ordinary_user() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        with pytest.raises(ConfigError, match="below 1024"):
            open_tcp(LOOPBACK, 81, slots=1, backlog=16)

    lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if lowest <= 81:
        return  # here everybody may, so there is nothing to explain
    _in_child(as_ordinary_user)


# More and fewer, and who gets what.


def spread(listeners: Listeners, clients: int = 60) -> list[int]:
    """How many of so many new connections each slot gets."""
    made = [socket.create_connection((LOOPBACK, port_of(listeners))) for _ in range(clients)]
    counts = []
    for slot in range(len(listeners)):
        accepted = queued(listeners.of(slot)[0])
        counts.append(len(accepted))
        made += accepted
    for connection in made:
        connection.close()
    return counts


def test_new_connections_go_to_the_slots_that_were_chosen_and_to_no_other() -> None:
    with listening(slots=4) as listeners:
        for chosen in ({0}, {3}, {1, 2}, {0, 1, 3}, {0, 1, 2, 3}):
            listeners.steer(frozenset(chosen))
            counts = spread(listeners)
            assert sum(counts) == 60
            assert {slot for slot, count in enumerate(counts) if count} == chosen


def test_an_ordinary_user_may_choose_too() -> None:
    def as_ordinary_user() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        with listening(slots=2) as listeners:
            listeners.steer(frozenset({1}))
            clients = [socket.socket() for _ in range(20)]
            for client in clients:
                client.connect((LOOPBACK, port_of(listeners)))
            assert [len(queued(listeners.of(slot)[0])) for slot in (0, 1)] == [0, 20]

    _in_child(as_ordinary_user)


def test_who_is_queued_stays_where_he_is() -> None:
    with listening(slots=2) as listeners:
        listeners.steer(frozenset({1}))
        with socket.create_connection((LOOPBACK, port_of(listeners))):
            assert listeners.has_queue(1)
            assert not listeners.has_queue(0)
            listeners.steer(frozenset({0}))
            accepted = queued(listeners.of(1)[0])
            assert len(accepted) == 1
            accepted[0].close()


def test_a_listener_more_gets_nothing_before_it_is_chosen() -> None:
    for slots in (1, 2):
        with listening(slots=slots) as listeners:
            chosen = frozenset(range(slots))
            listeners.steer(chosen)
            listeners.add()
            assert spread(listeners)[slots] == 0
            listeners.steer(chosen | {slots})
            assert spread(listeners)[slots] > 0


def test_slots_keep_their_places_while_others_come_and_go_at_the_end() -> None:
    with listening(slots=3) as listeners:
        for _ in range(3):
            listeners.steer(frozenset({0, 1}))
            listeners.remove()
            assert len(listeners) == 2
            listeners.add()
            listeners.steer(frozenset({1}))
            assert spread(listeners) == [0, 60, 0]
            listeners.steer(frozenset({0, 1, 2}))
            assert min(spread(listeners)) > 0


def test_all_addresses_of_a_name_grow_and_are_steered_together() -> None:
    with listening(host="localhost", slots=2) as listeners:
        listeners.steer(frozenset({1}))
        listeners.add()
        for place, listener in enumerate(listeners.of(0)):
            assert listeners.of(2)[place].getsockname() == listener.getsockname()
            clients = [socket.create_connection(listener.getsockname()[:2]) for _ in range(20)]
            accepted = [queued(listeners.of(slot)[place]) for slot in range(3)]
            assert [len(connections) for connections in accepted] == [0, 20, 0]
            for connection in [*clients, *accepted[1]]:
                connection.close()


def test_one_slot_alone_lets_nobody_join_its_port() -> None:
    with listening(slots=1) as listeners, socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            _listen_at(stranger, port_of(listeners))


def test_a_stranger_who_joined_gets_nothing_and_stops_growth() -> None:
    with listening(slots=2) as listeners, socket.socket() as stranger:
        listeners.steer(frozenset({0, 1}))
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _listen_at(stranger, port_of(listeners))
        stranger.setblocking(False)
        assert sum(spread(listeners)) == 60
        assert queued(stranger) == []
        with pytest.raises(PortInUse, match=rf"\(pid {os.getpid()}\) has joined the port"):
            listeners.add()
        assert len(listeners) == 2


def _listen_at(listener: socket.socket, port: int) -> None:
    listener.bind((LOOPBACK, port))
    listener.listen()


def test_what_another_server_has_on_another_address_is_no_stranger() -> None:
    with listening(slots=1) as listeners, socket.socket() as other:
        other.bind(("127.0.0.2", port_of(listeners)))
        other.listen()
        listeners.add()
        assert len(listeners) == 2


def test_growth_does_not_mind_connections_old_and_new() -> None:
    with listening(slots=1) as listeners:
        listeners.steer(frozenset({0}))
        clients = [socket.create_connection((LOOPBACK, port_of(listeners))) for _ in range(20)]
        accepted = queued(listeners.of(0)[0])
        for connection in accepted[:10]:
            connection.close()  # the server's side first, so they are in TIME_WAIT
        for client in clients[:10]:
            client.close()
        listeners.add()
        listeners.steer(frozenset({0, 1}))
        assert min(spread(listeners)) > 0
        for connection in clients[10:] + accepted[10:]:
            connection.close()


# Draining.


def test_nobody_who_got_through_before_the_refusal_is_reset() -> None:
    with listening(slots=2) as listeners:
        port = port_of(listeners)
        clients = [socket.create_connection((LOOPBACK, port)) for _ in range(100)]
        listeners.refuse_new()
        accepted = [c for slot in range(2) for c in queued(listeners.of(slot)[0])]
        assert len(accepted) == 100
    for connection in accepted:
        connection.sendall(b"answer")
        connection.close()
    for client in clients:
        assert client.recv(10) == b"answer"
        client.close()


def test_after_the_refusal_no_connection_begins() -> None:
    with listening(slots=2) as listeners:
        listeners.refuse_new()
        with socket.socket() as late:
            assert late.connect_ex((LOOPBACK, port_of(listeners))) == errno.ECONNREFUSED
            assert [queued(listeners.of(slot)[0]) for slot in range(2)] == [[], []]


def test_a_stop_under_load_resets_nobody() -> None:
    """Connections begin all the time while the listeners are told to refuse, emptied and closed."""
    outcomes: Counter[str] = Counter()
    stop = threading.Event()
    listeners = open_tcp(LOOPBACK, 0, slots=4, backlog=4096)
    clients = [
        threading.Thread(target=_connect_for_ever, args=(port_of(listeners), outcomes, stop))
        for _ in range(20)
    ]
    for client in clients:
        client.start()
    answered = 0
    while answered < 2000:
        answered += _answer_all(listeners)
    listeners.refuse_new()
    # Done when nothing has come for as long as any handshake over loopback can take.
    quiet = threading.Event()
    while _answer_all(listeners) or not quiet.is_set():
        quiet.wait(0.05)
        quiet.set()
    listeners.close()
    stop.set()
    for client in clients:
        client.join()
    assert outcomes["reset"] == 0, outcomes
    assert outcomes["answered"] >= 2000


def _connect_for_ever(port: int, outcomes: "Counter[str]", stop: threading.Event) -> None:
    while not stop.is_set():
        with socket.socket() as client:
            client.settimeout(0.5)
            try:
                client.connect((LOOPBACK, port))
            except (ConnectionRefusedError, TimeoutError):
                return
            # Who got through is answered or reset; on a busy machine that takes its time.
            client.settimeout(60)
            try:
                client.sendall(b"question")
                outcomes["answered" if client.recv(10) else "reset"] += 1
            except ConnectionResetError:
                outcomes["reset"] += 1


def _answer_all(listeners: Listeners) -> int:
    accepted = [c for slot in range(len(listeners)) for c in queued(listeners.of(slot)[0])]
    for connection in accepted:
        connection.setblocking(True)
        connection.recv(100)
        connection.sendall(b"answer")
        connection.close()
    return len(accepted)


def test_keep_only_closes_the_others_in_a_child_and_nothing_in_the_master() -> None:
    with listening(slots=3) as listeners:

        def child() -> None:
            listeners.keep_only(1)
            open_now = [listeners.of(slot)[0].fileno() >= 0 for slot in range(3)]
            assert open_now == [False, True, False]

        def keeper() -> None:
            listeners.keep_only(-1)
            assert all(listeners.of(slot)[0].fileno() < 0 for slot in range(3))

        _in_child(child)
        _in_child(keeper)
        clients = [socket.create_connection((LOOPBACK, port_of(listeners))) for _ in range(30)]
        accepted = [c for slot in range(3) for c in queued(listeners.of(slot)[0])]
        assert len(accepted) == 30
        for connection in clients + accepted:
            connection.close()


# Unix sockets.


def test_a_unix_socket_is_shared_by_all_slots_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with closing(open_unix(path, slots=3, backlog=16)) as listeners:
        assert listeners.url == f"unix:{path}"
        assert listeners.of(0)[0] is listeners.of(2)[0]
        assert path.stat().st_mode & 0o777 == 0o666
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            accepted = queued(listeners.of(1)[0])
            assert len(accepted) == 1
            accepted[0].close()
    assert not path.exists()


def test_a_socket_file_left_by_a_killed_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    open_unix(path, slots=1, backlog=16).close()


def test_a_unix_socket_that_somebody_listens_on_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with closing(open_unix(path, slots=1, backlog=16)):
        with pytest.raises(PortInUse, match=r"listens on the Unix socket"):
            open_unix(path, slots=1, backlog=16)
        assert path.exists()


def test_something_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError, match="is no socket"):
        open_unix(path, slots=1, backlog=16)
    assert path.read_text() == "data"


@pytest.mark.parametrize("name", ["missing/http.sock", "x" * 120])
def test_a_unix_socket_that_cannot_be_made_is_explained(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="107 bytes"):
        open_unix(tmp_path / name, slots=1, backlog=16)


def test_a_draining_unix_socket_loses_its_name_and_keeps_its_queue(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    listeners = open_unix(path, slots=2, backlog=16)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        listeners.refuse_new()
        assert not path.exists()
        # The next server takes the name; the old one's end must leave it alone.
        with closing(open_unix(path, slots=1, backlog=16)):
            accepted = queued(listeners.of(0)[0])
            assert len(accepted) == 1
            accepted[0].close()
            listeners.close()
            assert path.exists()


def test_a_unix_socket_has_one_queue_however_many_slots_there_are(tmp_path: Path) -> None:
    with closing(open_unix(tmp_path / "http.sock", slots=1, backlog=16)) as listeners:
        listeners.add()
        listeners.steer(frozenset({1}))
        assert listeners.of(1)[0] is listeners.of(0)[0]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "http.sock"))
            assert not listeners.has_queue(1)
            listeners.remove()
            accepted = queued(listeners.of(0)[0])
            assert len(accepted) == 1
            accepted[0].close()


def test_refusing_twice_is_harmless() -> None:
    """Two workers share a slot in a reload, and an ordinary user may bind to an interface only once."""

    def as_ordinary_user() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        with listening(slots=1) as tcp, closing(open_unix(path, slots=1, backlog=1)) as unix:
            for listener in (tcp.of(0)[0], unix.of(0)[0]):
                refuse_new(listener)
                refuse_new(listener)

    # Not tmp_path, which is its owner's alone.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        path.parent.chmod(0o777)
        _in_child(as_ordinary_user)


def test_the_owner_of_a_port_nobody_has_is_nobody() -> None:
    assert port_owner.describe(port_of_free()) == ""


def test_without_proc_the_owner_is_not_known(tmp_path: Path) -> None:
    assert port_owner.describe(80, proc=tmp_path) == ""


def _in_child(work: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_queue_that_slots_share_is_nobodys_own() -> None:
    """Of a service manager's two sockets for three slots; ours are each slot's own."""
    with closing(open_tcp(LOOPBACK, 0, slots=3, backlog=64)) as ours:
        assert [ours.own(slot) == ours.of(slot) for slot in range(3)] == [True] * 3
    with closing(socket.create_server((LOOPBACK, 0), reuse_port=True)) as one:
        second = socket.create_server(one.getsockname(), reuse_port=True)
        with closing(second):
            theirs = adopt([one, second], slots=3, backlog=64)
            assert [theirs.of(slot) for slot in range(3)] == [[one], [second], [one]]
            assert [theirs.own(slot) for slot in range(3)] == [[], [second], []]
