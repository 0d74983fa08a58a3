"""The master with real processes and real signals, over workers that misbehave on demand."""

import os
import re
import signal
import socket
import threading
from collections import Counter
from pathlib import Path

import pytest

from prefork_ads.errors import BootFailure, ConfigError, PortInUse
from tests.support import wait_until
from tests.system.harness import Server, in_mask, wait_for_mask

TOY = "tests.integration.toy_server"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def toy(*fields: str, workers: int = 2, serves: bool = True) -> Server:
    return Server(*fields, workers=workers, module=TOY, serves=serves)


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def read_all(connection: socket.socket) -> str:
    with connection:
        received = b"".join(iter(lambda: connection.recv(4096), b""))
    return received.decode().partition("\r\n\r\n")[2]


def ask(server: Server, path: str = "/") -> tuple[int, int, int, int]:
    """Slot, generation, pid and setting of the worker that answers."""
    connection = connect(server)
    connection.sendall(GET.replace(b" / ", f" {path} ".encode()))
    slot, generation, pid, setting = map(int, read_all(connection).split())
    return slot, generation, pid, setting


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def deliver(server: Server, number: signal.Signals) -> None:
    """Signal the master and wait until its handler runs; a signal that waits has no place in a row."""
    server.signal(number)
    wait_until(lambda: not in_mask(server.pid, "ShdPnd", number), f"{number.name} to arrive")


def freeze(pid: int) -> None:
    """Stop a process and wait until it really stands still."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(pid), f"pid {pid} to be stopped")


def test_it_says_what_it_does_from_start_to_stop() -> None:
    with toy(workers=2) as server:
        port = server.port
        # Nobody waits for it.
        server.wait_for_line(r"keeper pid=\d+ ready")
        server.stop()
        lines = "\n".join(server.lines())
    for expected in (
        rf"master\[\d+\] listening on http://127\.0\.0\.1:{port} \(2 slots\)",
        r"master\[\d+\] worker slot=0 pid=\d+ started generation=1",
        r"master\[\d+\] worker slot=1 pid=\d+ ready",
        r"master\[\d+\] keeper pid=\d+ ready",
        rf"master\[\d+\] ready: 2 workers on http://127\.0\.0\.1:{port}, database none",
        rf"try http://127\.0\.0\.1:{port}",
        r"SIGTERM: draining",
        r"worker slot=1 pid=\d+ exited status=0",
        r"master\[\d+\] stopped$",
    ):
        assert re.search(expected, lines, re.MULTILINE), expected
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z master\[\d+\] "
    assert all(re.match(stamp, line) for line in lines.splitlines())
    assert "error" not in lines


def test_processes_are_told_apart_by_their_titles() -> None:
    with toy(workers=2) as server:
        server.wait_for_line("keeper pid=.* ready")
        titles = sorted(server.processes().values())
        assert titles == [
            "prefork-ads: keeper",
            f"prefork-ads: master [127.0.0.1:{server.port}]",
            "prefork-ads: worker 0",
            "prefork-ads: worker 1",
        ]


def test_a_worker_holds_its_own_listener_and_no_other() -> None:
    with toy(workers=3) as server:
        server.wait_for_line("keeper pid=.* ready")
        for slot in range(3):
            assert listening_sockets(server.worker(slot)) == 1
        assert listening_sockets(server.pid) == 3


def listening_sockets(pid: int) -> int:
    table = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    listening = {f"socket:[{line.split()[9]}]" for line in table if line.split()[3] == "0A"}
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return len(listening.intersection(links))


def queued_up(server: Server, worker: int, clients: int) -> list[socket.socket]:
    """A worker that stands still, and clients of whom its share waits in its queue."""
    port = server.port
    # Not to be steered away in time.
    freeze(server.pid)
    freeze(worker)
    made = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(clients)]
    for client in made:
        client.sendall(GET)
    os.kill(server.pid, signal.SIGCONT)
    return made


# Death of a worker.


def test_a_worker_knows_that_nobody_else_accepts_from_its_listener() -> None:
    with toy(workers=2) as server:
        connection = connect(server)
        connection.sendall(GET.replace(b" / ", b" /own "))
        assert read_all(connection) == "1"


def test_connections_waiting_for_a_killed_worker_are_answered_by_its_successor() -> None:
    with toy(workers=2) as server:
        victim = server.worker(0)
        clients = queued_up(server, victim, 200)
        os.kill(victim, signal.SIGKILL)
        answers = [read_all(client).split() for client in clients]
        server.wait_for_line(rf"error: worker slot=0 pid={victim} killed by SIGKILL")
        assert all(len(answer) == 4 for answer in answers), answers
        by_slot = Counter(int(answer[0]) for answer in answers)
        assert min(by_slot[0], by_slot[1]) > 0
        assert str(victim) not in {answer[2] for answer in answers}


def test_a_stopped_worker_is_killed_at_its_deadline_and_replaced() -> None:
    with toy("worker_timeout_s=1.5") as server:
        victim = server.worker(1)
        freeze(victim)
        server.wait_for_line(rf"worker slot=1 pid={victim} is killed: no heartbeat")
        server.wait_for_line(rf"worker slot=1 pid={victim} killed by SIGKILL")
        wait_until(lambda: server.worker(1) != victim, "a successor")
        successor = server.worker(1)
        server.wait_for_line(rf"worker slot=1 pid={successor} ready")


def test_a_worker_whose_loop_is_blocked_is_killed_at_its_deadline() -> None:
    with toy("worker_timeout_s=1.5", workers=1) as server:
        victim = server.worker(0)
        blocker = connect(server)
        blocker.sendall(GET.replace(b" / ", b" /hang "))
        server.wait_for_line(rf"pid={victim} is killed: no heartbeat")
        blocker.close()
        assert ask(server)[2] != victim


def test_a_master_that_was_held_up_does_not_kill_healthy_workers() -> None:
    # Time enough for workers that wait for a processor before the master stands still and after.
    with toy("worker_timeout_s=2", workers=2) as server:
        everybody = [server.worker(0), server.worker(1)]
        keeper = int(server.wait_for_line(r"keeper pid=(\d+) ready")[1])
        frozen = [server.pid, *everybody, keeper]
        for pid in frozen:
            freeze(pid)
        # Longer than every deadline and than what the master calls held up.
        threading.Event().wait(3.6)
        os.kill(server.pid, signal.SIGCONT)
        server.wait_for_line("held up for a while")
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        assert {ask(server)[2] for _ in range(50)} == set(everybody)
        assert server.count("is killed") == 0


def test_a_worker_that_was_told_to_drain_by_hand_is_replaced() -> None:
    with toy(workers=1) as server:
        first = server.worker(0)
        os.kill(first, signal.SIGTERM)
        server.wait_for_line(rf"worker slot=0 pid={first} leaves by itself")
        server.wait_for_line(rf"worker slot=0 pid={first} exited status=0")
        wait_until(lambda: server.worker(0) != first, "a successor")
        assert ask(server)[2] == server.worker(0)


def test_a_keeper_that_dies_is_replaced() -> None:
    with toy(workers=1) as server:
        keeper = int(server.wait_for_line(r"keeper pid=(\d+) ready")[1])
        mark = len(server.lines())
        os.kill(keeper, signal.SIGKILL)
        server.wait_for_line(rf"keeper pid={keeper} killed by SIGKILL", since=mark)
        server.wait_for_line(r"keeper pid=\d+ ready", since=mark)


# Boot.


@pytest.mark.parametrize(
    ("boot", "words"),
    [
        ("fail", r"exited status=3"),
        ("raise", r"RuntimeError: this worker was told to raise"),
        ("refuse", r"worker-0\[\d+\] error: this worker was told to refuse"),
        ("hang", r"is killed: not ready in time"),
    ],
)
def test_workers_that_cannot_start_end_the_server_with_its_own_status(
    boot: str, words: str
) -> None:
    # Only who hangs has to be waited for; the others need time to say why.
    server = toy(f"boot_timeout_s={0.2 if boot == 'hang' else 60}", serves=False)
    (server.folder / "boot").write_text(boot)
    with server:
        assert server.wait() == BootFailure.exit_code
        server.assert_nothing_runs()
        assert server.count(words) >= 1
        assert server.count("No worker became ready") == 1
        # Three times each; while the slower one is at its third, the other may be tried once more.
        tried = [server.count(rf"worker slot={slot} pid=\d+ started") for slot in (0, 1)]
        assert min(tried) == 3


def test_a_slot_that_crashes_for_ever_does_not_stop_the_others() -> None:
    with toy(workers=2) as server:
        (server.folder / "boot").write_text("fail")
        os.kill(server.worker(0), signal.SIGKILL)
        server.wait_for_line(r"worker slot=0 pid=\d+ exited status=3")
        server.wait_for_line(
            "error: worker 0 is crash-looping: 5 early ends in a row", timeout_s=60
        )
        assert {ask(server)[0] for _ in range(50)} == {1}
        mark = len(server.lines())
        (server.folder / "boot").unlink()
        server.wait_for_line(r"worker slot=0 pid=\d+ ready", since=mark, timeout_s=60)
        server.wait_for_line("worker 0 has recovered", since=mark, timeout_s=60)
        server.wait_for_line("new connections go to all 2 slots", since=mark)
        wait_until(lambda: {ask(server)[0] for _ in range(20)} == {0, 1}, "both to be asked")


# Where new connections go.


def test_new_connections_go_elsewhere_while_a_worker_is_silent() -> None:
    with toy("worker_timeout_s=300", workers=2) as server:
        freeze(server.worker(0))
        server.wait_for_line("new connections go to slots 1 of 2", timeout_s=60)
        assert {ask(server)[0] for _ in range(50)} == {1}
        mark = len(server.lines())
        os.kill(server.worker(0), signal.SIGCONT)
        server.wait_for_line("new connections go to all 2 slots", since=mark, timeout_s=60)
        wait_until(lambda: {ask(server)[0] for _ in range(20)} == {0, 1}, "both to be asked")
        assert server.count("is killed") == 0


def test_a_stranger_that_joins_the_port_gets_nothing_and_is_not_grown_beside() -> None:
    with toy(workers=2) as server, socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", server.port))
        stranger.listen()
        stranger.setblocking(False)
        assert {ask(server)[0] for _ in range(60)} == {0, 1}
        with pytest.raises(BlockingIOError):
            stranger.accept()
        server.signal(signal.SIGTTIN)
        server.wait_for_line(rf"no listener for one more worker: .*\(pid {os.getpid()}\)")
        stranger.close()
        grow(server, slot=2)


def test_nobody_can_join_the_port_of_a_single_worker() -> None:
    with toy(workers=1) as server, socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            _listen_on(stranger, server.port)


def _listen_on(listener: socket.socket, port: int) -> None:
    listener.bind(("127.0.0.1", port))
    listener.listen()


# More and fewer workers.


def grow(server: Server, slot: int) -> None:
    mark = len(server.lines())
    server.signal(signal.SIGTTIN)
    server.wait_for_line(f"SIGTTIN: {slot + 1} workers from now on", since=mark)
    server.wait_for_line(rf"worker slot={slot} pid=\d+ ready", since=mark)


def shrink(server: Server, slot: int) -> None:
    mark = len(server.lines())
    server.signal(signal.SIGTTOU)
    server.wait_for_line(f"SIGTTOU: {slot} workers from now on", since=mark)
    server.wait_for_line(f"worker {slot} is gone, its listener closed", since=mark, timeout_s=60)


def test_one_more_worker_and_one_fewer() -> None:
    with toy(workers=1) as server:
        grow(server, slot=1)
        wait_until(lambda: {ask(server)[0] for _ in range(20)} == {0, 1}, "both to be asked")
        assert listening_sockets(server.pid) == 2
        assert listening_sockets(server.worker(1)) == 1
        shrink(server, slot=1)
        assert listening_sockets(server.pid) == 1
        assert {ask(server)[0] for _ in range(20)} == {0}
        assert server.count(r"worker slot=1 pid=\d+ exited status=0") == 1


def test_the_last_worker_stays() -> None:
    with toy(workers=1) as server:
        server.signal(signal.SIGTTOU)
        server.wait_for_line("SIGTTOU: it stays at 1 workers, the last one stays")
        assert ask(server)[0] == 0


def test_signals_that_come_together_add_up() -> None:
    """They come while the master reads its settings for a reload, which then goes on meanwhile."""
    with toy(workers=2) as server:
        settings = server.folder / "config"
        os.mkfifo(settings)
        server.signal(signal.SIGHUP)
        with settings.open("w") as held:
            for number in (signal.SIGTTIN, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTTIN):
                deliver(server, number)
            settings.unlink()
            held.write("")
        server.wait_for_line("SIGTTIN: 4 workers from now on")
        server.wait_for_line(r"worker slot=3 pid=\d+ ready")
        server.wait_for_line("reload: done generation=2", timeout_s=60)
        wait_until(
            lambda: {ask(server)[0] for _ in range(40)} == {0, 1, 2, 3}, "all four to be asked"
        )
        assert {ask(server)[1] for _ in range(40)} == {2}


def test_a_worker_wanted_again_while_it_leaves_is_started_again() -> None:
    with toy(workers=2) as server:
        first = server.worker(1)
        server.signal(signal.SIGTTOU)
        server.wait_for_line("SIGTTOU: 1 workers from now on")
        server.signal(signal.SIGTTIN)
        server.wait_for_line("SIGTTIN: 2 workers from now on")
        wait_until(lambda: server.worker(1) != first, "a successor")
        second = server.worker(1)
        server.wait_for_line(rf"worker slot=1 pid={second} ready")
        server.wait_for_line(rf"worker slot=1 pid={first} exited status=0")
        wait_until(lambda: second in {ask(server)[2] for _ in range(20)}, "it to be asked")


def test_without_steering_nobody_is_cut_off_by_one_worker_fewer() -> None:
    server = toy(workers=2)
    (server.folder / "steering").write_text("refused")
    with server:
        server.wait_for_line("warning: new connections cannot be steered")
        server.signal(signal.SIGTTOU)
        server.wait_for_line("error: SIGTTOU: not one worker fewer")
        grow(server, slot=2)
        assert server.count("new connections cannot be steered") == 1
        wait_until(lambda: {ask(server)[0] for _ in range(20)} == {0, 1, 2}, "all to be asked")


def test_a_reload_keeps_the_number_that_signals_have_set() -> None:
    with toy(workers=1) as server:
        grow(server, slot=1)
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: it stays at 2 workers, as signals have set it")
        server.wait_for_line("reload: done generation=2", timeout_s=60)
        assert {ask(server)[1] for _ in range(20)} == {2}
        assert listening_sockets(server.pid) == 2


def test_who_waits_for_a_hung_worker_that_is_to_go_is_answered_first() -> None:
    with toy("drain_timeout_s=1", "worker_timeout_s=300", workers=2) as server:
        victim = server.worker(1)
        clients = queued_up(server, victim, 40)
        server.signal(signal.SIGTTOU)
        answers = [read_all(client).split() for client in clients]
        assert all(len(answer) == 4 for answer in answers), answers
        assert str(victim) not in {answer[2] for answer in answers}
        server.wait_for_line("worker 1 is gone, its listener closed", timeout_s=60)
        assert server.count("worker 1 is needed once more: somebody waits in its queue") == 1


def test_scaling_under_load_breaks_no_connection() -> None:
    with toy(workers=2) as server:
        outcomes: Counter[str] = Counter()
        stop, loaded = threading.Event(), threading.Event()
        clients = [
            threading.Thread(target=_load, args=(server.port, outcomes, stop, loaded))
            for _ in range(8)
        ]
        for client in clients:
            client.start()
        assert loaded.wait(20)
        for _ in range(3):
            grow(server, slot=2)
            shrink(server, slot=2)
        stop.set()
        for client in clients:
            client.join()
        assert outcomes["broken"] == 0, outcomes


# Recycling and cores.


def test_a_worker_that_has_served_enough_is_replaced_without_a_gap() -> None:
    with toy(workers=1) as server:
        first = server.worker(0)
        (server.folder / "recycle").write_text(str(first))
        server.wait_for_line(rf"worker slot=0 pid={first} is to be recycled: --max-requests")
        server.wait_for_line(rf"worker slot=0 pid={first} exited status=0")
        second = server.worker(0)
        lines = server.lines()
        ready = next(i for i, line in enumerate(lines) if f"pid={second} ready" in line)
        gone = next(i for i, line in enumerate(lines) if f"pid={first} exited" in line)
        assert ready < gone
        assert ask(server)[2] == second


def test_a_worker_whose_successor_fails_goes_on() -> None:
    with toy(workers=1) as server:
        first = server.worker(0)
        (server.folder / "boot").write_text("fail")
        (server.folder / "recycle").write_text(str(first))
        server.wait_for_line("error: worker 0 goes on: its successor did not become ready")
        assert ask(server)[2] == first
        (server.folder / "boot").unlink()
        server.wait_for_line(rf"worker slot=0 pid={first} exited status=0", timeout_s=60)


def test_workers_are_bound_to_a_core_each() -> None:
    cores = sorted(os.sched_getaffinity(0))
    with toy("cpu_affinity=auto", workers=2) as server:
        server.wait_for_line(r"keeper pid=\d+ ready")
        for slot in (0, 1):
            core = cores[slot % len(cores)]
            assert server.count(rf"worker slot={slot} .* core={core}$") == 1
            assert os.sched_getaffinity(server.worker(slot)) == {core}
        assert os.sched_getaffinity(server.pid) == set(cores)


# Reload.


def test_a_reload_replaces_every_child_and_takes_the_new_configuration() -> None:
    with toy(workers=2) as server:
        server.wait_for_line(r"keeper pid=\d+ ready")
        old = {server.worker(0), server.worker(1)}
        (server.folder / "config").write_text("max_url=4711")
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: done generation=2")
        answers = [ask(server) for _ in range(50)]
        assert {(generation, setting) for _, generation, _, setting in answers} == {(2, 4711)}
        assert not old & {pid for _, _, pid, _ in answers}
        assert server.count(r"pid=\d+ exited status=0") == 3


def test_a_reload_that_shortens_the_drain_leaves_old_workers_the_time_they_reckon_with() -> None:
    with toy("drain_timeout_s=300", "worker_timeout_s=300", workers=1) as server:
        old = server.worker(0)
        freeze(old)
        (server.folder / "config").write_text("drain_timeout_s=0.5")
        server.signal(signal.SIGHUP)
        server.wait_for_line(r"worker slot=0 pid=\d+ started generation=2")
        wait_for_mask(old, "ShdPnd", signal.SIGTERM)
        # To add a slot and take it away again lasts longer than the new limit.
        grow(server, slot=1)
        server.signal(signal.SIGTTOU)
        server.wait_for_line("worker 1 is gone, its listener closed")
        os.kill(old, signal.SIGCONT)
        server.wait_for_line(rf"worker slot=0 pid={old} exited status=0")
        server.wait_for_line("reload: done generation=2")
        # What follows is the end of the test, which a busy machine may take its time for.
        (server.folder / "config").write_text("drain_timeout_s=300")
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: done generation=3")


def test_a_reload_with_a_broken_configuration_changes_nothing() -> None:
    with toy(workers=1) as server:
        before = ask(server)
        (server.folder / "config").write_text("broken")
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: refused, .*: the configuration is broken")
        assert ask(server) == before


def test_what_takes_a_restart_stays_as_it_was() -> None:
    with toy(workers=1) as server:
        (server.folder / "config").write_text("workers=5 max_url=4711")
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: --workers has changed, which takes a restart")
        server.wait_for_line("reload: done generation=2")
        assert ask(server)[3] == 4711


def test_a_reload_whose_worker_fails_keeps_the_old_ones_and_can_be_repeated() -> None:
    with toy(workers=2) as server:
        old = {server.worker(0), server.worker(1)}
        (server.folder / "boot").write_text("fail")
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: given up, worker 0 did not become ready in generation=2")
        assert {ask(server)[2] for _ in range(50)} == old
        (server.folder / "boot").unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: done generation=3")


def test_a_reload_whose_worker_hangs_is_given_up_at_the_deadline() -> None:
    with toy("boot_timeout_s=3", workers=1) as server:
        old = server.worker(0)
        (server.folder / "boot").write_text("hang")
        server.signal(signal.SIGHUP)
        server.wait_for_line("is killed: not ready in time")
        server.wait_for_line("reload: given up")
        assert ask(server)[2] == old


def test_a_hangup_during_a_reload_is_not_forgotten() -> None:
    with toy(workers=2) as server:
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: started generation=2")
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: done generation=3")


# Stop.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_every_stop_signal_drains(number: signal.Signals) -> None:
    with toy(workers=2) as server:
        server.stop(number)
        assert server.count(rf"{number.name}: draining") == 1
        assert server.count(r"worker slot=\d pid=\d+ exited status=0") == 2


def test_the_keeper_stays_until_the_last_worker_is_gone() -> None:
    with toy(workers=2) as server:
        server.wait_for_line("keeper pid=.* ready")
        server.stop()
        endings = [line for line in server.lines() if re.search("exited status=0", line)]
        assert "keeper" in endings[-1]


def test_a_worker_that_does_not_drain_is_killed_when_its_time_is_over() -> None:
    with toy("drain_timeout_s=0.3", workers=2) as server:
        (server.folder / "drain").write_text("hang")
        server.stop(status=1)
        assert server.count(r"worker slot=\d pid=\d+ is killed: not drained in time") == 2
        # The keeper, which drains, has no more time than they, and may have had no processor.
        killed = server.count("is killed: not drained in time")
        assert server.count(f"stopped, but {killed} children did not end cleanly") == 1


@pytest.mark.parametrize("at_once", [False, True])
def test_a_worker_that_ends_with_an_error_at_the_stop_is_told_by_the_status(at_once: bool) -> None:
    with toy(workers=2) as server:
        (server.folder / "drain").write_text("fail-at-once" if at_once else "fail")
        server.signal(signal.SIGTERM)
        server.wait_for_line("SIGTERM: draining")
        if at_once:
            for slot in (0, 1):
                wait_for_mask(server.worker(slot), "SigCgt", signal.SIGQUIT)
            server.signal(signal.SIGTERM)
        assert server.wait() == 1
        assert server.count(r"error: worker slot=\d pid=\d+ exited status=4") == 2
        assert server.count("error: stopped, but 2 children did not end cleanly") == 1


def test_what_befell_workers_before_the_stop_does_not_count() -> None:
    with toy(workers=1) as server:
        (server.folder / "drain").write_text("fail")
        mark = len(server.lines())
        os.kill(server.worker(0), signal.SIGTERM)
        server.wait_for_line("exited status=4")
        (server.folder / "drain").unlink()
        server.wait_for_line(r"worker slot=0 pid=\d+ ready", since=mark)
        server.stop()


def test_a_stop_overrides_a_reload_that_waits_for_another() -> None:
    with toy(workers=2) as server:
        (server.folder / "boot").write_text("hang")
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: started generation=2")
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: another one follows")
        server.stop()
        server.assert_nothing_runs()
        assert server.count("reload: started") == 1
        assert server.count("Traceback") == 0


@pytest.mark.parametrize(("word", "reloads"), [("", 1), ("broken", 0)])
def test_a_hangup_and_a_stop_that_come_together_stop(word: str, reloads: int) -> None:
    """Both come while the master reads its settings; after that, with and without a reload under way."""
    with toy(workers=2) as server:
        settings = server.folder / "config"
        os.mkfifo(settings)
        server.signal(signal.SIGHUP)
        # Opens once the master reads, which holds it until we close.
        with settings.open("w") as held:
            deliver(server, signal.SIGHUP)
            deliver(server, signal.SIGTERM)
            settings.unlink()
            held.write(word)
        assert server.wait() == 0
        server.assert_nothing_runs()
        assert server.count("reload: started") == reloads
        assert server.count("Traceback") == 0


def test_a_second_stop_signal_stops_at_once() -> None:
    with toy("drain_timeout_s=300", workers=2) as server:
        (server.folder / "drain").write_text("hang")
        server.signal(signal.SIGTERM)
        server.wait_for_line("SIGTERM: draining")
        server.stop(signal.SIGINT)
        assert server.count("SIGINT again: stopping now") == 1
        assert server.count(r"worker slot=\d pid=\d+ killed by SIGQUIT") == 2


def test_a_second_stop_signal_ends_even_a_worker_that_stands_still() -> None:
    with toy("drain_timeout_s=300", workers=1) as server:
        freeze(server.worker(0))
        server.signal(signal.SIGTERM)
        server.wait_for_line("SIGTERM: draining")
        server.stop(signal.SIGTERM)
        assert server.count(r"worker slot=0 pid=\d+ killed by SIGKILL") == 1


def test_nothing_is_left_when_the_master_is_killed() -> None:
    with toy(workers=3) as server:
        server.wait_for_line("keeper pid=.* ready")
        assert len(server.processes()) == 5
        server.signal(signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        server.assert_nothing_runs()


def test_a_worker_that_hangs_does_not_outlive_a_killed_master() -> None:
    """It does not hear that the master is dead, and would keep its port from the next server."""
    with toy("worker_timeout_s=1.5", workers=2) as server:
        server.wait_for_line("keeper pid=.* ready")
        port, victim = server.port, server.worker(1)
        freeze(server.pid)
        freeze(victim)
        server.signal(signal.SIGKILL)
        server.wait()
        server.assert_nothing_runs()
        killed = rf"keeper\[\d+\] error: worker slot=1 pid={victim} is killed: no heartbeat"
        assert server.count(killed) == 1
        assert server.count("is killed") == 1, "the other one has ended by itself"
    with toy(f"port={port}", workers=1) as successor:
        assert successor.port == port


def test_a_worker_that_does_not_end_does_not_outlive_a_killed_master() -> None:
    """It has time until a master that lived would have killed it."""
    with toy("drain_timeout_s=1", "worker_timeout_s=300", workers=2) as server:
        server.wait_for_line("keeper pid=.* ready")
        (server.folder / "drain").write_text("hang")
        server.signal(signal.SIGKILL)
        server.wait()
        server.assert_nothing_runs()
        assert server.count(r"worker slot=\d pid=\d+ is killed: not drained in time") == 2


def test_a_killed_master_takes_nobody_down_who_had_got_through() -> None:
    with toy(workers=2) as server:
        frozen = [server.worker(0), server.worker(1)]
        for pid in frozen:
            freeze(pid)
        clients = [connect(server) for _ in range(100)]
        for client in clients:
            client.sendall(GET)
        server.signal(signal.SIGKILL)
        server.wait()
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        assert all(len(read_all(client).split()) == 4 for client in clients)


def test_a_stop_answers_everybody_who_had_got_through() -> None:
    with toy(workers=2) as server:
        frozen = [server.worker(0), server.worker(1)]
        for pid in frozen:
            freeze(pid)
        clients = [connect(server) for _ in range(200)]
        for client in clients:
            client.sendall(GET)
        server.signal(signal.SIGTERM)
        server.wait_for_line("SIGTERM: draining")
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        assert all(len(read_all(client).split()) == 4 for client in clients)
        assert server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_under_load_every_connection_that_was_made_is_answered(number: signal.Signals) -> None:
    """SIGKILL goes to a worker, the others to the master."""
    with toy(workers=2) as server:
        outcomes: Counter[str] = Counter()
        stop, loaded = threading.Event(), threading.Event()
        clients = [
            threading.Thread(target=_load, args=(server.port, outcomes, stop, loaded))
            for _ in range(8)
        ]
        for client in clients:
            client.start()
        assert loaded.wait(20)
        if number == signal.SIGKILL:
            os.kill(server.worker(0), number)
            server.wait_for_line(r"killed by SIGKILL")
        else:
            server.signal(number)
        if number == signal.SIGTERM:
            assert server.wait() == 0
        elif number == signal.SIGHUP:
            server.wait_for_line("reload: done")
        stop.set()
        for client in clients:
            client.join()
        # The one connection a killed worker had in its hands cannot be saved by anybody.
        allowed = 1 if number == signal.SIGKILL else 0
        assert outcomes["broken"] <= allowed, outcomes


def _load(
    port: int, outcomes: "Counter[str]", stop: threading.Event, loaded: threading.Event
) -> None:
    while not stop.is_set():
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=3)
        except (ConnectionRefusedError, TimeoutError):
            return
        # A worker that had no processor for a while has broken nothing.
        connection.settimeout(60)
        try:
            connection.sendall(GET)
            outcomes["answered" if len(read_all(connection).split()) == 4 else "broken"] += 1
        except OSError:
            outcomes["broken"] += 1
        if outcomes["answered"] > 500:
            loaded.set()


# The rest.


@pytest.mark.parametrize(
    "number",
    [
        *(signal.SIGHUP, signal.SIGINT, signal.SIGUSR1),
        *(signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU),
    ],
)
def test_the_masters_signals_do_a_worker_no_harm(number: signal.Signals) -> None:
    with toy(workers=1) as server:
        os.kill(server.worker(0), number)
        assert ask(server)[2] == server.worker(0)


def test_the_log_file_is_opened_again_on_demand() -> None:
    with toy(workers=1) as server:
        server.signal(signal.SIGUSR1)
        server.wait_for_line("SIGUSR1: the log goes to standard error")


def test_the_pid_file_names_the_master_and_goes_with_it() -> None:
    with toy("pid_file=here.pid") as server:
        path = server.folder / "here.pid"
        assert int(path.read_text()) == server.pid
        server.stop()
        assert not path.exists()
        assert list(server.folder.glob("here.pid*")) == []


def test_a_pid_file_of_a_running_server_is_respected() -> None:
    with toy("pid_file=here.pid") as server:
        with toy(f"pid_file={server.folder / 'here.pid'}", serves=False) as second:
            assert second.wait() == ConfigError.exit_code
            assert second.count(rf"belongs to a running server \(pid {server.pid}\)") == 1
        assert int((server.folder / "here.pid").read_text()) == server.pid


def test_a_pid_file_left_behind_is_replaced() -> None:
    server = toy("pid_file=here.pid")
    (server.folder / "here.pid").write_text("1\n")
    with server:
        assert int((server.folder / "here.pid").read_text()) == server.pid


def test_a_pid_file_that_cannot_be_written_is_explained() -> None:
    with toy("pid_file=/no/such/folder/here.pid", serves=False) as server:
        assert server.wait() == ConfigError.exit_code
        assert server.count("Its folder must exist") == 1


def test_a_second_server_on_the_port_is_refused_with_its_own_status() -> None:
    with toy() as server, toy(f"port={server.port}", serves=False) as second:
        assert second.wait() == PortInUse.exit_code
        in_use = rf"Port {server.port} on 127.0.0.1 is in use, by prefork-ads: .*pid \d+"
        assert second.count(in_use) == 1


def test_it_listens_on_a_unix_socket() -> None:
    with toy("unix_socket=http.sock") as server:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.folder / "http.sock"))
            client.sendall(GET)
            assert len(read_all(client).split()) == 4
        server.stop()
        assert not (server.folder / "http.sock").exists()


def test_the_service_manager_hears_of_everything(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        server = Server(
            workers=1, module=TOY, environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}
        )
        with server:
            assert manager.recv(4096).startswith(b"READY=1\nSTATUS=Serving: 1 workers on http://")
            server.signal(signal.SIGHUP)
            assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(4096).startswith(b"READY=1")
            server.stop()
            assert manager.recv(4096).startswith(b"STOPPING=1")
