"""The server under load: started for the run on cores of its own, or one that runs already.

The load would otherwise take the processor from the server, and what looks like its overload would be ours.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from overloadlib.errors import OverloadError
from overloadlib.processes import held_back

START_LIMIT_S = 90.0
STOP_LIMIT_S = 60.0
POLL_S = 0.05
ROOT = Path(__file__).resolve().parents[2]
_READY = re.compile(r"ready: \d+ workers on http://([\d.]+):(\d+)")


class Usage(NamedTuple):
    """What workers take."""

    memory_bytes: int
    # Open ones, give or take a few descriptors.
    connections: int


class Server:
    """Where it listens, and what its processes take."""

    def __init__(self, address: tuple[str, int], session: int | None, data: Path | None) -> None:
        self.address = address
        self._session = session
        self._data = data

    def usage(self) -> Usage | None:
        """What all its workers take together; None for a server that is not ours to look into."""
        if self._session is None:
            return None
        workers = list(_workers(self._session))
        return Usage(sum(map(_resident_bytes, workers)), sum(map(_descriptors, workers)))

    def ids(self, number: int) -> list[str]:
        """Ids of ads that it has."""
        if self._data is None:
            raise OverloadError("ads can only be asked of a server that this run starts")
        command = [*_program(), "--data-dir", str(self._data), "variants", "sample", str(number)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode:
            raise OverloadError(f"no ids: {done.stderr.strip()}")
        return done.stdout.split()


def _program() -> list[str]:
    return [sys.executable, "-m", "prefork_ads"]


@contextlib.contextmanager
def started(cores: Sequence[int], arguments: Sequence[str]) -> Iterator[Server]:
    """A server with an embedded PostgreSQL in a new directory, on these cores; both are gone afterwards."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="prefork-ads-overload-", ignore_cleanup_errors=True)
        )
        # The embedded PostgreSQL runs as another user when we are root.
        Path(folder).chmod(0o711)
        data, log = Path(folder) / "data", Path(folder) / "log"
        command = [
            *_program(),
            *("--port", "0", "--workers", str(len(cores)), "--data-dir", str(data)),
            *arguments,
        ]
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, set(cores))
        try:
            with log.open("wb") as output, held_back():
                process = subprocess.Popen(
                    command, stdout=output, stderr=output, cwd=ROOT, start_new_session=True
                )
                stack.callback(_stop, process)
        finally:
            os.sched_setaffinity(0, before)
        yield Server(_wait_until_ready(process, log), process.pid, data)


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> tuple[str, int]:
    give_up_at = time.monotonic() + START_LIMIT_S
    while time.monotonic() < give_up_at:
        ended = process.poll() is not None
        said = log.read_text(errors="replace")
        if found := _READY.search(said):
            return found[1], int(found[2])
        if ended:
            raise OverloadError(f"the server did not start:\n{said[-2000:]}")
        time.sleep(POLL_S)
    raise OverloadError(f"the server was not ready after {START_LIMIT_S:g} s")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT_S)
    finally:
        # Also if somebody is tired of waiting.
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _workers(session: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and b": worker" in (entry / "cmdline").read_bytes():
                yield int(entry.name)


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _descriptors(pid: int) -> int:
    """Linux says how many there are since 6.2. Before, they have to be listed, which takes 2 µs each."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        return folder.stat().st_size or sum(1 for _ in folder.iterdir())
    except OSError:
        return 0
