"""Runs wrk with load.lua and reads what it reports.

Facts: wrk's own text rounds everything, so load.lua's `done` prints the exact numbers as one line of JSON.
At the end wrk drops the connections with a request still in flight: the server may have logged up to one
more request per connection than wrk counts. wrk opens the same number of connections on each thread, so
what does not divide is left out.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchlib.errors import BenchError
from benchlib.plan import Workload
from benchlib.servers import ended

MARK = "bench-result "
SCRIPT = Path(__file__).with_name("load.lua")
# An answer later than this is an error; the slowest contender needs half a second at 500 connections.
TIMEOUT_S = 10
# How much longer than asked wrk may take to connect and to stop.
GRACE_S = 30


@dataclass(frozen=True, slots=True)
class WrkResult:
    requests: int
    duration_s: float
    bytes: int
    errors: dict[str, int]
    latency_ms: dict[str, float]

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.duration_s

    @property
    def bytes_per_answer(self) -> float:
        return self.bytes / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class LoadFiles:
    """What load.lua picks from."""

    headers: Path
    ids: Path


def find_wrk() -> str:
    path = shutil.which("wrk")
    if path is None:
        raise BenchError("wrk is not installed. Install it with: apt-get install wrk")
    return path


def parse(output: str) -> WrkResult:
    for line in output.splitlines():
        if line.startswith(MARK):
            said = json.loads(line.removeprefix(MARK))
            return WrkResult(
                requests=said["requests"],
                duration_s=said["duration_us"] / 1e6,
                bytes=said["bytes"],
                errors=said["errors"],
                latency_ms={name: us / 1e3 for name, us in said["latency_us"].items()},
            )
    raise BenchError(f"wrk did not report a result; it said:\n{output.strip() or '(nothing)'}")


def run(
    port: int,
    workload: Workload,
    asks: Sequence[str],
    files: LoadFiles,
    *,
    letter: str,
    threads: int,
    connections: int,
    duration_s: int,
) -> WrkResult:
    """The letter names this run in the numbers of its requests; `asks` are what may stand before the id."""
    # wrk wants at least one connection for each thread.
    threads = min(threads, connections)
    command = [
        *(find_wrk(), f"-t{threads}", f"-c{connections}", f"-d{duration_s}s"),
        *("--timeout", f"{TIMEOUT_S}s", "-s", str(SCRIPT), f"http://127.0.0.1:{port}/"),
        *("--", workload.value, letter, str(files.headers), str(files.ids), ",".join(asks)),
    ]
    # In a session of its own, so that Ctrl-C reaches the bench first, which then ends it.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with ended(process):
        try:
            output, _ = process.communicate(timeout=duration_s + GRACE_S)
        except subprocess.TimeoutExpired:
            raise BenchError(f"wrk did not end {GRACE_S} s after its time") from None
    return parse(output)
