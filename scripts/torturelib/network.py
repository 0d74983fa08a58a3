"""The network between server and PostgreSQL, seen from the bed: what it is told to do.

Must not know: how the proxy does it.
"""

import select
import subprocess
import sys
from pathlib import Path

from torturelib import processes
from torturelib.errors import TortureError
from torturelib.load import library_environment

ANSWER_LIMIT_S = 10.0


class Network:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log_path = folder / "proxy.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self, socket_path: Path) -> None:
        with self._log_path.open("ab") as log:
            self._process = processes.start(
                [sys.executable, "-m", "torturelib.proxy", socket_path, 0],
                folder=self._folder,
                log=log,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                environment=library_environment(),
            )
        self.port = int(self._answer())

    def open(self) -> None:
        self._tell("open")

    def stall(self) -> None:
        self._tell("stall")

    def mute(self) -> None:
        self._tell("mute")

    def late(self) -> None:
        self._tell("late")

    def later(self) -> None:
        self._tell("later")

    def refuse(self) -> None:
        self._tell("refuse")

    def cut(self) -> None:
        self._tell("cut")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for end in (process.stdin, process.stdout):
            if end is not None:
                end.close()

    def _tell(self, command: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        said = self._answer()
        if said != command:
            raise TortureError(f"the proxy was told to {command} and said {said!r}")

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], ANSWER_LIMIT_S)
        line = self._process.stdout.readline() if readable else b""
        if not line:
            raise TortureError(f"the proxy does not answer; see {self._log_path}")
        return line.decode().strip()
