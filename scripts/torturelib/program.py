"""The server under test: the real program, started again as a supervisor would.

What it is can be seen by the titles of its processes, which also tells the two masters of an upgrade
apart. What it does is in its log, to which every start appends.

Must not know: why it is started, signalled or killed.
"""

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from torturelib import processes
from torturelib.errors import NotRecovered, TortureError
from torturelib.waiting import Waiter

READY_LIMIT_S = 120.0
STOP_LIMIT_S = 90.0
METRICS_LIMIT_S = 2.0
LOG_TAIL_LINES = 25
# What a supervisor waits between starts.
RESTART_PAUSE_S = 0.2
# Starts that fail with these are repeated: the database is away, the port is in use still.
PASSING = (69, 71)

_READY = re.compile(r"\bready: \d+ workers on \S+, database")
_TITLE = re.compile(r"prefork-ads: (master|keeper|worker (\d+))")
_SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? ([0-9.e+-]+)$", re.MULTILINE)


class Program:
    def __init__(
        self,
        folder: Path,
        waiter: Waiter,
        *,
        port: int,
        dsn: str,
        workers: int,
        options: Sequence[str],
    ) -> None:
        self._folder = folder
        self.port = port
        self.workers = workers
        self.data_dir = folder / "data"
        self.log_path = folder / "server.log"
        self._waiter = waiter
        self._command = [
            *(sys.executable, "-m", "prefork_ads", "--dsn", dsn, "--port", str(port)),
            *("--workers", str(workers), "--data-dir", str(self.data_dir), *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: list[int] = []

    @property
    def journal_dir(self) -> Path:
        return self.data_dir / "journal"

    # Life.

    def start(self) -> None:
        """Until it is ready, over and over while it fails for a reason that passes."""
        give_up_at_s = time.monotonic() + READY_LIMIT_S
        while True:
            since = self.mark()
            self._launch()
            status = self._waiter.until(
                lambda mark=since: self._started(mark),  # type: ignore[misc] # no default has a type
                "the server's start",
                READY_LIMIT_S,
            )
            if status == "ready":
                return
            if int(status) not in PASSING or time.monotonic() > give_up_at_s:
                raise TortureError(self.failure(f"did not start: status {status}"))
            self._waiter.rest(RESTART_PAUSE_S)

    def _launch(self) -> None:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PREFORK_ADS_")
            and name not in ("PORT", "WEB_CONCURRENCY", "DATABASE_URL", "NOTIFY_SOCKET")
        }
        with self.log_path.open("ab") as log:
            self._process = processes.start(
                self._command, folder=self._folder, log=log, environment=inherited
            )
        self._sessions = [s for s in self._sessions if processes.of_session(s)]
        self._sessions.append(self._process.pid)

    def _started(self, mark: int) -> str:
        """ "ready", an exit status, or nothing yet."""
        assert self._process is not None
        status = self._process.poll()
        if _READY.search(self.said(mark)):
            return "ready"
        return "" if status is None else str(status)

    def wait_for_end(self) -> int:
        """Of the master; its exit status. One that an upgrade has made is nobody's child: 0."""
        process = self._process
        assert process is not None
        master = self.master
        if master is not None and master != process.pid:
            self._waiter.until(lambda: self.master is None, "the master's end", STOP_LIMIT_S)
            return 0
        self._waiter.until(lambda: process.poll() is not None, "the master's end", STOP_LIMIT_S)
        return int(process.returncode)

    def look(self) -> None:
        """Raises when it has ended without having been told to."""
        if self.master is None:
            raise TortureError(self.failure("has ended by itself"))

    def kill_all(self) -> None:
        """Nothing of it runs after this."""
        for session in self._sessions:
            for _ in range(100):
                members = processes.of_session(session)
                for process in members:
                    processes.kill(process.pid)
                if not members:
                    break
                time.sleep(0.02)
        if self._process is not None:
            self._process.wait()

    # What it consists of.

    @property
    def master(self) -> int | None:
        """The newest one that lives and is nobody's child among the masters."""
        masters = [p for p in self._members() if _role(p) == "master"]
        return max((p.pid for p in masters), key=self._age_rank, default=None)

    def masters(self) -> list[int]:
        return [process.pid for process in self._members() if _role(process) == "master"]

    def worker_pids(self) -> list[int]:
        """Those of the present master, by slot."""
        master = self.master
        mine = [p for p in self._members() if p.parent == master and _role(p).startswith("worker")]
        return [p.pid for p in sorted(mine, key=lambda p: int(_role(p).split()[1]))]

    def keeper_pid(self) -> int | None:
        master = self.master
        mine = [p.pid for p in self._members() if p.parent == master and _role(p) == "keeper"]
        return mine[0] if mine else None

    def leftovers(self) -> list[str]:
        return [f"{p.pid} {p.title}" for p in self._members()]

    def kill_session(self) -> None:
        """SIGKILL to all at once, the master first, so that nobody is replaced."""
        master = self.master
        members = self._members()
        for process in sorted(members, key=lambda process: process.pid != master):
            processes.kill(process.pid)

    def signal_master(self, number: signal.Signals) -> None:
        master = self.master
        if master is None:
            raise TortureError(self.failure("has no master to signal"))
        processes.kill(master, number)

    def _members(self) -> list[processes.Process]:
        return [p for session in self._sessions for p in processes.of_session(session)]

    def _age_rank(self, pid: int) -> int:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return -1
        return int(stat.rpartition(")")[2].split()[19])

    # What it says.

    def mark(self) -> int:
        """Where the log ends now."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def said(self, mark: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(mark)
            return log.read().decode(errors="replace")

    def wait_for_line(self, pattern: str, mark: int, limit_s: float) -> re.Match[str]:
        compiled = re.compile(pattern)
        what = f"{pattern!r} in {self.log_path}"
        match = self._waiter.until(lambda: compiled.search(self.said(mark)), what, limit_s)
        assert match is not None
        return match

    def metrics(self) -> dict[str, float]:
        """By name and labels; empty when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=METRICS_LIMIT_S)
        try:
            connection.request("GET", "/metrics", headers={"Connection": "close"})
            text = connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return {}
        finally:
            connection.close()
        return {
            name + (f"{{{labels}}}" if labels else ""): float(value)
            for name, labels, value in _SAMPLE.findall(text)
        }

    def wait_until_complete(self, limit_s: float) -> None:
        """All workers are there, and all their connections to PostgreSQL."""
        seen: dict[str, float] = {}

        def complete() -> bool:
            nonlocal seen
            seen = self.metrics()
            connected = [seen.get(f'{_CONNECTIONS}{{role="{role}"}}') for role in _ROLES]
            return (
                seen.get("prefork_ads_workers") == self.workers
                and len(self.worker_pids()) == self.workers
                and connected == [each * self.workers for each in _ROLES.values()]
            )

        try:
            self._waiter.until(complete, "all workers and their connections", limit_s)
        except NotRecovered as error:
            shown = {k: v for k, v in seen.items() if "workers" in k or "connections" in k}
            raise NotRecovered(f"{error}: {shown}, pids {self.worker_pids()}") from error

    def failure(self, what: str) -> str:
        tail = "\n".join(self.said(0).splitlines()[-LOG_TAIL_LINES:])
        return f"the server {what}. Its log, {self.log_path}, ends with:\n{tail}"


_CONNECTIONS = "prefork_ads_database_connections"
# How many connections of each kind a worker has: one reader is for ads, one for people.
_ROLES = {"reader": 2, "writer": 1, "steward": 1}


def _role(process: processes.Process) -> str:
    match = _TITLE.match(process.title)
    return match[1] if match else ""
