"""A server as its users start it: a process of its own, watched through its log, signals and sockets.

The log lines are a contract, so tests wait for them instead of for time to pass. When a test fails the
end of the log is printed and the server's folder is left for a look; when it succeeds, the folder
goes. Either way nothing is left running: the server leads a session, by which its descendants are
found also when their parents are dead.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import wait_until

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 60.0
STOP_LIMIT_S = 45.0
LOG_SHOWN_LINES = 80

# What the test's own environment must not decide.
_NOT_INHERITED = ("PORT", "WEB_CONCURRENCY", "DATABASE_URL", "NOTIFY_SOCKET")

_READY = re.compile(r"ready: \d+ workers on (\S+), database")
_STARTED = re.compile(r"worker slot=(\d+) pid=(\d+) started")


class Server:
    """One server; `with Server(…) as server:` waits until it is ready and stops it at the end.

    One that is not going to serve (`serves=False`) is started and not waited for.
    """

    def __init__(
        self,
        *arguments: str,
        dsn: str | None = None,
        workers: int = 2,
        module: str = "prefork_ads",
        environment: Mapping[str, str] | None = None,
        serves: bool = True,
    ) -> None:
        self._serves = serves
        # An embedded PostgreSQL runs as another user when we are root, and has to get through here.
        self.folder = Path(tempfile.mkdtemp(prefix="prefork-ads-server-"))
        self.folder.chmod(0o711)
        self.log_path = self.folder / "stderr.log"
        self._command = [
            *(sys.executable, "-m", module),
            *("--workers", str(workers), "--port", "0", "--data-dir", str(self.folder / "data")),
            *(("--dsn", dsn) if dsn else ()),
            *arguments,
        ]
        self._environment = {**_clean_environment(), **(environment or {})}
        # What a service manager would hand over.
        self._pass_fds: Sequence[int] = ()
        self._process: subprocess.Popen[bytes] | None = None

    # Life.

    def __enter__(self) -> Self:
        try:
            self.start()
            if self._serves:
                self.wait_for_line(_READY.pattern, timeout_s=START_LIMIT_S)
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            if self.running:
                self.stop()
            self.assert_nothing_runs()
        except BaseException:
            self._abandon()
            raise
        shutil.rmtree(self.folder)

    def start(self) -> None:
        """Start and return at once."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment,
                start_new_session=True,
                pass_fds=self._pass_fds,
            )

    def stop(self, number: signal.Signals = signal.SIGTERM, *, status: int = 0) -> None:
        """Ask it to stop and check how it ended."""
        self.signal(number)
        assert self.wait() == status

    def wait(self, timeout_s: float = STOP_LIMIT_S) -> int:
        """Wait for the master's end; its exit status, negative for a signal."""
        return self._running_process().wait(timeout_s)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master alone."""
        self._running_process().send_signal(number)

    # What it says.

    def lines(self) -> list[str]:
        """All complete lines of the log so far."""
        return self.log_path.read_text(errors="replace").split("\n")[:-1]

    def wait_for_line(
        self, pattern: str, *, since: int = 0, timeout_s: float = 45.0
    ) -> re.Match[str]:
        """The first line that matches, of those from number `since` on; fails when the server ends."""

        def found() -> re.Match[str] | None:
            # Asked before reading: what it wrote before its end is still found.
            running = self.running
            for line in self.lines()[since:]:
                if match := re.search(pattern, line):
                    return match
            assert running, f"the server has ended without saying {pattern!r}"
            return None

        match = wait_until(found, f"a line {pattern!r}", timeout_s)
        assert match is not None
        return match

    def count(self, pattern: str) -> int:
        """How many lines match."""
        return sum(re.search(pattern, line) is not None for line in self.lines())

    # What it is.

    @property
    def pid(self) -> int:
        return self._running_process().pid

    @property
    def running(self) -> bool:
        return self._running_process().poll() is None

    @property
    def url(self) -> str:
        return self.wait_for_line(_READY.pattern)[1]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def worker(self, slot: int) -> int:
        """The pid of the newest worker of a slot."""
        pids = [int(m[2]) for m in map(_STARTED.search, self.lines()) if m and int(m[1]) == slot]
        return pids[-1]

    def processes(self) -> dict[int, str]:
        """Everything that runs in the server's session, the embedded PostgreSQL included."""
        return dict(_session(self.pid)) | dict(self._postgres())

    def assert_nothing_runs(self) -> None:
        """All have ended, or do so in a moment: also children of a killed master."""
        wait_until(lambda: not self.processes(), "the end of every process", STOP_LIMIT_S)

    # Inside.

    def _running_process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def _postgres(self) -> Iterator[tuple[int, str]]:
        try:
            pid = int((self.folder / "data/postgres/postmaster.pid").read_text().split("\n")[0])
        except (OSError, ValueError):
            return
        if (process := _describe(pid)) is not None:
            yield pid, process[1]

    def _abandon(self) -> None:
        """A test failed: end everything, show what it said, keep the folder."""
        if self._process is not None:
            for pid in self.processes():
                _kill(pid)
            self._process.wait()
        print(f"the server's folder is kept: {self.folder}")
        if self.log_path.exists():
            print("\n".join(self.lines()[-LOG_SHOWN_LINES:]))


def in_mask(pid: int, mask: str, number: signal.Signals) -> bool:
    """Whether a signal is in one of the masks (ShdPnd, SigIgn, …) that the kernel shows of a process."""
    found = re.search(rf"^{mask}:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None, mask
    return bool(int(found[1], 16) >> (number - 1) & 1)


def wait_for_mask(pid: int, mask: str, number: signal.Signals) -> None:
    wait_until(lambda: in_mask(pid, mask, number), f"{number.name} in {mask} of pid {pid}")


def _clean_environment() -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_INHERITED and not name.startswith("PREFORK_ADS_")
    }
    # The server runs in its own folder and must still find the code under test and its helpers.
    return {**inherited, "PYTHONPATH": str(ROOT)}


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _describe(pid: int) -> tuple[int, str] | None:
    """Session and command line of a living process; None when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return None
    fields: Sequence[str] = stat.rpartition(")")[2].split()
    state, session = fields[0], int(fields[3])
    return None if state in "ZX" else (session, command.strip())


def _session(leader: int) -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").glob("[0-9]*"):
        process = _describe(int(entry.name))
        if process is not None and process[0] == leader:
            yield int(entry.name), process[1]
