"""Starts a contender, waits until it answers, stops it so that it can write what it still holds.

Each runs as leader of a session of its own: Ctrl-C in the terminal reaches only the bench, which stops
what it started by pid and then by process group, so that no worker of a killed master is left.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchlib.errors import BenchError

HOST = "127.0.0.1"
START_LIMIT_S = 60.0
STOP_LIMIT_S = 120.0
POLL_S = 0.02
LOG_TAIL_LINES = 15


def free_port() -> int:
    """A port nobody listens on; it could be taken before we use it, and then the start fails and says so."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _end_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever happens in the block, process and children are gone after it."""
    try:
        yield
    finally:
        _end_group(process, signal.SIGKILL)
        process.wait()


class Server:
    """One running contender."""

    def __init__(self, name: str, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.name = name
        self.port = port
        self._process = process
        self._log = log

    def wait_until_ready(self, path: str) -> int:
        """Returns how many requests it took: some contenders log them."""
        give_up_at = time.monotonic() + START_LIMIT_S
        asked = 0
        while time.monotonic() < give_up_at:
            if self._process.poll() is not None:
                raise BenchError(self.failure(f"ended with status {self._process.returncode}"))
            connection = http.client.HTTPConnection(HOST, self.port, timeout=START_LIMIT_S)
            try:
                connection.connect()
                asked += 1
                connection.request("GET", path)
                if connection.getresponse().status < 300:
                    return asked
            except (OSError, http.client.HTTPException):
                pass  # not listening yet, or listening and not ready
            finally:
                connection.close()
            time.sleep(POLL_S)
        raise BenchError(self.failure(f"was not ready after {START_LIMIT_S:g} s"))

    def stop(self) -> float:
        """Asks it to stop and waits; returns the seconds it took to write what it held."""
        if self._process.poll() is not None:
            raise BenchError(
                self.failure(f"ended with status {self._process.returncode} under load")
            )
        started_at = time.monotonic()
        self._process.terminate()
        try:
            status = self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise BenchError(self.failure(f"did not stop within {STOP_LIMIT_S:g} s")) from None
        # uvicorn ends itself with the signal it was sent, after it has cleaned up.
        if status not in (0, -signal.SIGTERM):
            raise BenchError(self.failure(f"stopped with status {status}"))
        return time.monotonic() - started_at

    def failure(self, what: str) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join(lines[-LOG_TAIL_LINES:]) or "(nothing)"
        return f"{self.name} {what}. It said, in {self._log}:\n{tail}"


@contextlib.contextmanager
def running(name: str, command: Sequence[str], port: int, log: Path) -> Iterator[Server]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
            # Settings of the caller's shell are not part of what is measured.
            env={k: v for k, v in os.environ.items() if not k.startswith("PREFORK_ADS_")},
        )
    with ended(process):
        yield Server(name, process, port, log)
