"""A command that ends up as a serving prefork-ads: a script, a Procfile, an installed wheel.

For the server of this clone itself use `harness`, which knows much more about it.
"""

import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support import wait_until

START_LIMIT_S: Final = 90.0
STOP_LIMIT_S: Final = 60.0

_READY: Final = re.compile(r"ready: (\d+) workers? on (http://\S+?), database")


class Program:
    """`with Program(…) as program:` waits for the ready line, and kills what is left at the end."""

    def __init__(
        self,
        command: Iterable[object],
        folder: Path,
        *,
        cwd: Path = Path("/"),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.command = [str(word) for word in command]
        self.log = folder / "program.log"
        self.cwd = cwd
        self.environ = environ

    def __enter__(self) -> Self:
        with self.log.open("w") as log:
            # A process group of its own, as a shell gives to a command in a terminal.
            self.process = subprocess.Popen(
                self.command,
                cwd=self.cwd,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        try:
            found = wait_until(self._ready, "the ready line", START_LIMIT_S)
        except BaseException:
            self.kill()
            raise
        assert found is not None
        self.workers, self.url = int(found[1]), found[2]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def _ready(self) -> re.Match[str] | None:
        running = self.process.poll() is None
        found = _READY.search(self.said())
        assert found or running, self.said()
        return found

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, number: signal.Signals = signal.SIGTERM, *, group: bool = False) -> int:
        """Send a signal to the program, or to its whole group as Ctrl-C does; the exit status."""
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self.process.wait(STOP_LIMIT_S)

    def kill(self) -> None:
        """For a test that failed half-way."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def get(url: str) -> tuple[int, str]:
    """Status and body of an answer that is no error."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.status, answer.read().decode()
