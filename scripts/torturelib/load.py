"""The clients, seen from the bed: started, watched by their pulse, told to stop.

Must not know: what is asked and answered.
"""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from torturelib import processes
from torturelib.clients import ANSWER_LIMIT_S, VISIT, ClientSettings
from torturelib.errors import TortureError

STOP_LIMIT_S = ANSWER_LIMIT_S + 20.0
LIBRARY = Path(__file__).resolve().parents[1]


def library_environment() -> dict[str, str]:
    """For the programs that the bed consists of."""
    return {**os.environ, "PYTHONPATH": str(LIBRARY)}


class Load:
    def __init__(self, folder: Path, settings: ClientSettings) -> None:
        self._folder = folder
        self._log_path = folder / "clients.log"
        self._pulse_path = Path(settings.pulse)
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._offset = 0
        # So far, by kind of question and by what became of it.
        self.answered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._beat_at_s = -math.inf
        self._calm_since_s = -math.inf

    def start(self) -> None:
        self._pulse_path.touch()
        with self._log_path.open("ab") as log:
            self._process = processes.start(
                [sys.executable, "-m", "torturelib.clients", self._settings.as_json()],
                folder=self._folder,
                log=log,
                stdin=subprocess.PIPE,
                environment=library_environment(),
            )

    def look(self) -> None:
        """Read what the pulse says; raises when the clients have failed."""
        if self._process is not None and self._process.poll() is not None:
            raise TortureError(f"the clients have ended; see {self._log_path}")
        self._read()

    def all_is_well(self, since_s: float) -> bool:
        """Whether both endpoints were answered, and nothing failed, for one whole pulse after this."""
        self.look()
        return self._calm_since_s > since_s

    def stop(self) -> None:
        """Let the last requests be answered."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            status = process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._end(process)
            raise TortureError(f"the clients did not stop within {STOP_LIMIT_S:g} s") from None
        self._read()
        if status:
            raise TortureError(f"the clients ended with status {status}; see {self._log_path}")

    def kill(self) -> None:
        """Whatever happened: they are gone after this."""
        if self._process is not None:
            self._end(self._process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _read(self) -> None:
        with self._pulse_path.open(encoding="ascii") as pulse:
            pulse.seek(self._offset)
            while (line := pulse.readline()).endswith("\n"):
                self._offset = pulse.tell()
                self._take(json.loads(line))

    def _take(self, beat: dict[str, Any]) -> None:
        calm = True
        for endpoint in ("log", "ad", VISIT):
            answered, failed = beat[endpoint]
            self.answered[endpoint] += answered
            self.failed[endpoint] += failed
            calm = calm and answered > 0 and failed == 0
        if calm:
            # A beat covers the time since the one before it.
            self._calm_since_s = self._beat_at_s
        self._beat_at_s = beat["at_s"]
