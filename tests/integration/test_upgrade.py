"""SIGUSR2 with real masters over workers that misbehave on demand: who is the server, whatever dies."""

import fcntl
import os
import re
import shutil
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest

from prefork_ads.errors import BootFailure
from tests.integration.test_master import (
    GET,
    TOY,
    ask,
    connect,
    freeze,
    listening_sockets,
    read_all,
)
from tests.support import wait_until
from tests.system.harness import ROOT
from tests.system.lineage import Lineage, lives, parent


def toy(*fields: str, workers: int = 2) -> Lineage:
    return Lineage(*fields, workers=workers, module=TOY)


class Script(Lineage):
    """Started as an installed command is: by an executable file that names its interpreter."""

    def __init__(self, *fields: str) -> None:
        super().__init__(*fields, module=TOY)
        self.path = self.folder / "bin" / "serve"
        self.path.parent.mkdir()
        self.write()
        self._command[:3] = [str(self.path)]

    def write(self, *more: str, interpreter: str = sys.executable) -> None:
        """Another version of the program: with these arguments added to those it is given."""
        self.path.write_text(
            f"#!{interpreter}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            f"from {TOY} import main\nsys.argv[1:] += {list(more)!r}\nsys.exit(main())\n"
        )
        self.path.chmod(0o755)


def held_in_boot(server: Lineage) -> int:
    """An upgrade whose new master stands still before it does anything; its pid."""
    with (server.folder / "hold").open("w") as hold:
        # It is in no hurry until it stands still, however long that takes us.
        fcntl.flock(hold, fcntl.LOCK_EX)
        new = server.begin_upgrade()
        freeze(new)
    return new


def freeze_workers(server: Lineage) -> list[int]:
    """Both workers stand still, so they cannot drain and the old master does not end."""
    pids = [server.worker(0), server.worker(1)]
    for pid in pids:
        freeze(pid)
    return pids


def proceed(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def drained(server: Lineage, old: int) -> None:
    server.wait_for_line(rf"upgrade: done, master pid={old} has ended")


# What an upgrade does.


def test_a_new_master_takes_over_and_the_old_one_ends() -> None:
    with toy("pid_file=here.pid") as server:
        port, old, first = server.port, server.pid, ask(server)
        new = server.upgrade()
        assert server.wait() == 0
        assert server.master == new
        after = [ask(server) for _ in range(50)]
        assert {generation for _, generation, _, _ in after} == {2}
        assert first[2] not in {pid for _, _, pid, _ in after}
        assert {slot for slot, _, _, _ in after} == {0, 1}
        assert listening_sockets(new) == 2
        assert int((server.folder / "here.pid").read_text()) == new
        assert server.processes()[new] == f"prefork-ads: master [127.0.0.1:{port}]"
        assert server.count(rf"master\[{old}\] worker slot=\d pid=\d+ exited status=0") == 2
        server.end()
        assert list(server.folder.glob("here.pid*")) == []
        assert server.count("error|Traceback") == 0


def test_the_one_after_the_next_takes_over_too() -> None:
    with toy() as server:
        masters = [server.pid, server.upgrade(), server.upgrade(), server.upgrade()]
        assert len(set(masters)) == 4
        assert ask(server)[1] == 4
        wait_until(lambda: not any(map(lives, masters[:-1])), "the end of the earlier ones")


def test_who_waits_in_a_queue_is_answered_by_the_new_workers() -> None:
    with toy("drain_timeout_s=1") as server:
        freeze_workers(server)
        clients = [connect(server) for _ in range(200)]
        for client in clients:
            client.sendall(GET)
        old = server.pid
        server.upgrade()
        answers = [read_all(client).split() for client in clients]
        assert all(len(answer) == 4 for answer in answers)
        assert {answer[1] for answer in answers} == {"2"}
        assert Counter(answer[0] for answer in answers).keys() == {"0", "1"}
        assert server.count(rf"master\[{old}\] error: worker .* killed by SIGKILL") == 2


def test_new_code_and_new_settings_come_with_the_new_program() -> None:
    with Script() as server:
        assert ask(server)[3] == 16384
        server.write("max_url=4711")
        server.upgrade()
        assert ask(server)[3] == 4711


def test_more_and_fewer_workers_come_with_the_new_program() -> None:
    with Script() as server:
        server.write("workers=4")
        server.upgrade()
        server.wait_for_line(r"upgrade: 4 workers from now on")
        server.wait_for_line(r"worker slot=3 pid=\d+ ready")
        server.write("workers=1")
        server.upgrade()
        server.wait_for_line(r"worker 1 is gone, its listener closed")
        assert listening_sockets(server.master) == 1
        assert {ask(server)[0] for _ in range(20)} == {0}


def test_the_number_of_workers_that_signals_have_set_is_kept() -> None:
    with toy() as server:
        server.signal(signal.SIGTTIN)
        server.wait_for_line(r"worker slot=2 pid=\d+ ready")
        new = server.upgrade()
        server.wait_for_line(rf"master\[{new}\] ready: 3 workers")
        assert server.count("workers from now on, as --workers says") == 0


def test_a_unix_socket_keeps_its_name_until_the_last_master_stops() -> None:
    with toy("unix_socket=http.sock") as server:
        path = server.folder / "http.sock"
        inode = path.stat().st_ino
        server.upgrade()
        assert path.stat().st_ino == inode
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(GET)
            assert read_all(client).split()[1] == "2"
        server.end()
        assert not path.exists()


# What can go wrong with the new one.


@pytest.mark.parametrize("boot", ["fail", "raise"])
def test_a_new_program_that_cannot_serve_leaves_everything_as_it_was(boot: str) -> None:
    with toy("pid_file=here.pid") as server:
        before = {ask(server)[2] for _ in range(50)}
        (server.folder / "boot").write_text(boot)
        new = server.begin_upgrade()
        server.wait_for_line(
            rf"error: upgrade: given up, master pid={new} exited status={BootFailure.exit_code};"
        )
        assert {ask(server)[2] for _ in range(50)} == before
        assert int((server.folder / "here.pid").read_text()) == server.pid
        (server.folder / "boot").unlink()
        server.upgrade()


def test_a_new_master_that_is_not_ready_in_time_is_ended() -> None:
    with toy("boot_timeout_s=2", "drain_timeout_s=1") as server:
        new = held_in_boot(server)
        server.wait_for_line("error: upgrade: the new master did not become ready in time")
        server.wait_for_line(rf"upgrade: given up, master pid={new} killed by SIG(TERM|KILL)")
        proceed_if_alive(new)
        assert ask(server)[1] == 1


def proceed_if_alive(pid: int) -> None:
    try:
        proceed(pid)
    except ProcessLookupError:
        pass


def test_a_program_that_is_not_there_any_more_is_named() -> None:
    with Script() as server:
        away = server.path.with_name("away")
        server.path.rename(away)
        new = server.begin_upgrade()
        # The interpreter is there and finds no script.
        server.wait_for_line(rf"upgrade: given up, master pid={new} exited status=2")
        away.rename(server.path)
        server.upgrade()


def test_an_interpreter_that_is_not_there_any_more_is_looked_for_in_the_script() -> None:
    """An environment that was made anew, for another Python: only the script knows."""
    server = Script()
    environment = server.folder / "old"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").symlink_to(Path(sys.executable).resolve())
    (environment / "lib").symlink_to(Path(sys.prefix) / "lib")
    if (Path(sys.prefix) / "pyvenv.cfg").exists():
        shutil.copy(Path(sys.prefix) / "pyvenv.cfg", environment)
    server.write(interpreter=str(environment / "bin/python"))
    with server:
        made_anew = environment.rename(server.folder / "new")
        server.write("max_url=4711", interpreter=str(made_anew / "bin/python"))
        server.upgrade()
        assert ask(server)[3] == 4711


def test_a_new_master_killed_in_its_boot_leaves_everything_as_it_was() -> None:
    with toy() as server:
        new = held_in_boot(server)
        os.kill(new, signal.SIGKILL)
        server.wait_for_line(rf"upgrade: given up, master pid={new} killed by SIGKILL; this one")
        assert ask(server)[1] == 1
        server.upgrade()


def test_a_new_master_killed_with_half_its_workers_leaves_everything_as_it_was() -> None:
    """Its workers serve already when it dies, and must not shut down what the old one's serve on."""
    with toy("boot_timeout_s=60") as server:
        # Half of them, however late we come.
        (server.folder / "boot").write_text("hang-1")
        new = server.begin_upgrade()
        server.wait_for_line(rf"master\[{new}\] worker slot=0 pid=\d+ ready")
        os.kill(new, signal.SIGKILL)
        server.wait_for_line(
            rf"upgrade: given up, master pid={new} killed by SIGKILL; this one stays as it is"
        )
        wait_until(lambda: only(server, server.pid), "the end of the dead master's workers")
        assert {ask(server)[0] for _ in range(50)} == {0, 1}


def only(server: Lineage, master: int) -> bool:
    """Whether all workers that live are children of this master."""
    workers = [pid for pid, title in server.processes().items() if "worker" in title]
    return {parent(pid) for pid in workers} == {master}


def test_a_new_master_killed_while_the_old_one_drains_gives_the_server_back() -> None:
    with toy("pid_file=here.pid", "drain_timeout_s=60") as server:
        old, frozen = server.pid, freeze_workers(server)
        new = server.begin_upgrade()
        server.wait_for_line(rf"master\[{new}\] upgrade: takes over from master pid={old}")
        server.wait_for_line(rf"master\[{new}\] ready: ")
        mark = len(server.lines())
        os.kill(new, signal.SIGKILL)
        server.wait_for_line(rf"master\[{old}\] error: upgrade: master pid={new} killed by SIGKILL")
        for slot in (0, 1):
            server.wait_for_line(rf"master\[{old}\] worker slot={slot} pid=\d+ ready", since=mark)
        assert server.master == old
        assert int((server.folder / "here.pid").read_text()) == old
        assert {ask(server)[0] for _ in range(50)} == {0, 1}
        for pid in frozen:
            proceed(pid)
            server.wait_for_line(rf"worker slot=\d pid={pid} exited status=0", since=mark)


def test_a_reload_that_the_new_master_takes_with_it_is_made_up_for() -> None:
    with toy("drain_timeout_s=60") as server:
        old, frozen = server.pid, freeze_workers(server)
        new = held_in_boot(server)
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: waits for the end of the upgrade")
        proceed(new)
        server.wait_for_line(rf"master\[{new}\] upgrade: takes over from master pid={old}")
        os.kill(new, signal.SIGKILL)
        server.wait_for_line("this one takes the server back")
        for pid in frozen:
            proceed(pid)
        server.wait_for_line(rf"master\[{old}\] reload: done generation=2", timeout_s=60)


# What can happen to the old one.


def test_an_old_master_killed_before_the_new_one_is_ready_is_replaced() -> None:
    with toy("pid_file=here.pid") as server:
        old, new = server.pid, held_in_boot(server)
        os.kill(old, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        waiting = [connect(server) for _ in range(20)]
        for client in waiting:
            client.sendall(GET)
        proceed(new)
        server.wait_for_line(rf"error: upgrade: master pid={old} is dead; this one goes on alone")
        server.wait_for_line(rf"master\[{new}\] ready: ")
        assert all(len(read_all(client).split()) == 4 for client in waiting)
        # Until they have drained, the dead master's workers may answer, too.
        wait_until(lambda: only(server, new), "the end of the dead master's workers")
        assert ask(server)[1] == 2
        assert int((server.folder / "here.pid").read_text()) == new


def test_an_old_master_killed_while_it_drains_leaves_the_new_one_alone() -> None:
    with toy("drain_timeout_s=60") as server:
        old, frozen = server.pid, freeze_workers(server)
        new = server.begin_upgrade()
        server.wait_for_line(rf"master\[{new}\] upgrade: takes over")
        os.kill(old, signal.SIGKILL)
        drained(server, old)
        for pid in frozen:
            proceed(pid)
        wait_until(lambda: only(server, new), "the end of the dead master's workers")
        assert {ask(server)[0] for _ in range(50)} == {0, 1}


# Signals meanwhile.


def test_what_is_asked_for_meanwhile_is_refused_or_waits() -> None:
    with toy() as server:
        old, new = server.pid, held_in_boot(server)
        for number, words in (
            (signal.SIGUSR2, "upgrade: refused, one is under way"),
            (signal.SIGTTIN, "the number of workers stays as it is during an upgrade"),
            (signal.SIGTTOU, "the number of workers stays as it is during an upgrade"),
            (signal.SIGHUP, "reload: waits for the end of the upgrade"),
        ):
            mark = len(server.lines())
            server.signal(number)
            server.wait_for_line(rf"master\[{old}\] .*{words}", since=mark)
        proceed(new)
        drained(server, old)
        server.wait_for_line(rf"master\[{new}\] reload: done generation=3")


def test_a_reload_that_waited_follows_an_upgrade_that_failed() -> None:
    with toy() as server:
        new = held_in_boot(server)
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: waits for the end of the upgrade")
        os.kill(new, signal.SIGKILL)
        server.wait_for_line("reload: done generation=2")


def test_an_upgrade_during_a_reload_follows_it() -> None:
    with toy() as server:
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: started generation=2")
        server.signal(signal.SIGUSR2)
        server.wait_for_line("upgrade: started a new master")
        assert server.count("reload: done generation=2") == 1
        drained(server, server.pid)
        assert ask(server)[1] == 3


def test_a_stop_during_an_upgrade_stops_both() -> None:
    with toy() as server:
        new = held_in_boot(server)
        server.signal(signal.SIGTERM)
        server.wait_for_line("SIGTERM: draining")
        proceed(new)
        assert server.wait() == 0
        server.assert_nothing_runs()
        with pytest.raises(ConnectionRefusedError):
            connect(server)


def test_a_stop_of_the_new_one_waits_for_the_old_one() -> None:
    """A service manager takes the end of the main process for the end of all."""
    with toy("drain_timeout_s=60") as server:
        old, frozen = server.pid, freeze_workers(server)
        new = server.begin_upgrade()
        server.wait_for_line(rf"master\[{new}\] ready: ")
        server.wait_for_line(rf"master\[{new}\] keeper pid=\d+ ready")
        server.signal(signal.SIGTERM)
        server.wait_for_line(rf"master\[{new}\] keeper pid=\d+ exited status=0")
        for pid in frozen:
            proceed(pid)
        wait_until(lambda: not server.running, "the end of both")
        ends = [line for line in server.lines() if re.search(r"master\[\d+\] stopped$", line)]
        assert [f"master[{pid}]" in line for pid, line in zip((old, new), ends, strict=True)]
        assert server.count("takes the server back") == 0


def test_a_second_stop_signal_to_the_new_one_ends_both_at_once() -> None:
    with toy("drain_timeout_s=300") as server:
        (server.folder / "drain").write_text("hang")
        new = server.begin_upgrade()
        server.wait_for_line(rf"master\[{new}\] ready: ")
        server.signal(signal.SIGTERM)
        server.wait_for_line(rf"master\[{new}\] SIGTERM: draining")
        server.end()
        assert server.count("takes the server back") == 0


def test_an_interrupt_from_a_terminal_is_the_first_for_both() -> None:
    with toy("drain_timeout_s=60") as server:
        old, frozen = server.pid, freeze_workers(server)
        new = server.begin_upgrade()
        server.wait_for_line(rf"master\[{new}\] ready: ")
        os.killpg(os.getpgid(old), signal.SIGINT)
        server.wait_for_line(rf"master\[{old}\] SIGINT: draining already; once more stops now")
        server.wait_for_line(rf"master\[{new}\] SIGINT: draining")
        for pid in frozen:
            proceed(pid)
        assert server.wait() == 0
        wait_until(lambda: not server.running, "the end of both")
        assert server.count("stopping now$") == 0


def test_an_upgrade_before_the_server_is_ready_is_refused() -> None:
    server = Lineage(workers=1, module=TOY, serves=False)
    (server.folder / "boot").write_text("hang")
    with server:
        server.wait_for_line(r"keeper pid=\d+ ready")
        server.signal(signal.SIGUSR2)
        server.wait_for_line("upgrade: refused, the server is not ready yet")
        server.signal(signal.SIGTERM)
        server.wait()
