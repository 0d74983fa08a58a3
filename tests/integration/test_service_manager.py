"""What a service manager hears of a server, by the real protocol: a socket of the test plays systemd."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_master import TOY, freeze
from tests.integration.test_upgrade import held_in_boot
from tests.support import wait_until
from tests.system.lineage import Lineage

INTERVAL_S = 0.4
# Of the test's own; nobody who is served says that.
MARK = b"MARK"


class Manager:
    """A service manager: with NotifyAccess=main it hears the main process and nobody else.

    It reads all the time, as systemd does: few messages fit in its queue, and who finds it full gives up.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.main_pid = 0
        # NotifyAccess=all.
        self.hears_all = False
        self.heard: list[tuple[int, list[str]]] = []
        self.ignored: list[tuple[int, list[str]]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))
        self.open = True
        self._marked = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def close(self) -> None:
        """Everything that was sent before has been read."""
        self.open = False
        self._send(b"")
        self._thread.join()
        self._socket.close()

    def wait_for(self, pid: int, word: str, since: int = 0) -> int:
        """Until this process says it; how many messages there had been then."""

        def found() -> int:
            for number, (sender, words) in enumerate(self.heard[since:], since + 1):
                if sender == pid and word in words:
                    return number
            return 0

        return wait_until(found, f"{word} from {pid}", 30)

    def so_far(self) -> int:
        """How many messages there have been, when everything that was sent before has been read."""
        self._marked.clear()
        self._send(MARK)
        assert self._marked.wait(30)
        return len(self.heard)

    def _send(self, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.sendto(data, str(self.path))

    def _listen(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(12))
            if not data:
                return
            if data == MARK:
                self._marked.set()
                continue
            pid = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
            words = data.decode().split("\n")
            # The first to speak is the one that was started.
            self.main_pid = self.main_pid or pid
            if pid != self.main_pid and not self.hears_all:
                self.ignored.append((pid, words))
                continue
            for word in words:
                if word.startswith("MAINPID="):
                    self.main_pid = int(word.removeprefix("MAINPID="))
            self.heard.append((pid, words))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    if manager.open:
        manager.close()


def served(manager: Manager, *, workers: int) -> Lineage:
    environment = {
        "NOTIFY_SOCKET": str(manager.path),
        "WATCHDOG_USEC": str(int(INTERVAL_S * 1e6)),
    }
    return Lineage(workers=workers, module=TOY, environment=environment)


def test_it_follows_to_the_new_main_process(manager: Manager) -> None:
    with served(manager, workers=1) as server:
        old = server.pid
        seen = manager.wait_for(old, "READY=1")
        seen = manager.wait_for(old, "WATCHDOG=1", seen)
        new = server.upgrade()
        seen = manager.wait_for(old, f"MAINPID={new}", seen)
        seen = manager.wait_for(new, "READY=1", seen)
        seen = manager.wait_for(new, "WATCHDOG=1", seen)
        server.end()
        manager.wait_for(new, "STOPPING=1", seen)
    manager.close()
    # Nobody speaks out of turn, and the old one says nothing of an end: the service goes on.
    assert manager.ignored == []
    assert not [words for pid, words in manager.heard if pid == old and "STOPPING=1" in words]


def test_it_comes_back_to_the_old_main_process_when_the_new_one_dies(manager: Manager) -> None:
    manager.hears_all = True
    with served(manager, workers=1) as server:
        old = server.pid
        manager.wait_for(old, "READY=1")
        # It cannot drain, so the old master is still there.
        held = server.worker(0)
        freeze(held)
        new = server.begin_upgrade()
        seen = manager.wait_for(old, f"MAINPID={new}")
        server.wait_for_line(rf"master\[{new}\] ready: ")
        os.kill(new, signal.SIGKILL)
        seen = manager.wait_for(old, f"MAINPID={old}", seen)
        seen = manager.wait_for(old, "READY=1", seen)
        manager.wait_for(old, "WATCHDOG=1", seen)
        os.kill(held, signal.SIGCONT)
        server.wait_for_line(rf"worker slot=0 pid={held} exited status=0")
        server.end()
    manager.close()
    assert manager.main_pid == old


def test_a_reload_that_has_to_wait_is_answered(manager: Manager) -> None:
    """`systemctl reload` waits for the pair of RELOADING and READY."""
    with served(manager, workers=1) as server:
        old = server.pid
        seen = manager.wait_for(old, "READY=1")
        held_in_boot(server)
        server.signal(signal.SIGHUP)
        seen = manager.wait_for(old, "RELOADING=1", seen)
        manager.wait_for(old, "READY=1", seen)
        # The new one stands still, so a stop that waits for it would take its time.
        server.signal(signal.SIGTERM)
        server.wait_for_line("SIGTERM: draining")
        server.signal(signal.SIGTERM)
        server.wait()


def test_the_watchdog_is_not_fed_while_a_slot_has_no_worker_for_long(manager: Manager) -> None:
    with served(manager, workers=2) as server:
        seen = manager.wait_for(server.pid, "WATCHDOG=1")
        (server.folder / "boot").write_text("fail")
        os.kill(server.worker(0), signal.SIGKILL)
        server.wait_for_line(
            r"error: watchdog: not fed, no worker became ready for long in slot 0$"
        )
        # The last one that it was fed with may still be on its way to us.
        seen = manager.so_far()
        (server.folder / "boot").unlink()
        manager.wait_for(server.pid, "WATCHDOG=1", seen)
        assert server.count(r"worker slot=0 pid=\d+ ready") == 2
