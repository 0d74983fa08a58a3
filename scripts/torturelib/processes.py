"""Processes of a run: started so that none outlives it, found by the session they belong to.

Whatever is started here leads a session of its own: Ctrl-C in a terminal is meant for the test bed and
must not reach it, and its descendants are found also when their parents are dead. The kernel signals
it when the bed dies. Orphans become children of the bed (PR_SET_CHILD_SUBREAPER), which buries them; else
the dead workers of a killed master would stay for as long as the machine's init likes.

Must not know: what the processes are.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Process(NamedTuple):
    """What /proc says about one that lives."""

    pid: int
    parent: int
    title: str


def adopt_orphans() -> None:
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(
    command: Sequence[object],
    *,
    folder: Path,
    log: IO[bytes],
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
    at_parents_death: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """It runs in the folder of the run, where Python finds no modules by mistake."""

    def settle() -> None:
        _prctl(_PR_SET_PDEATHSIG, at_parents_death, 0, 0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        [str(word) for word in command],
        stdin=stdin,
        stdout=log if stdout is None else stdout,
        stderr=log,
        env=environment,
        cwd=folder,
        start_new_session=True,
        preexec_fn=settle,  # noqa: PLW1509 - there are no threads here
    )


def of_session(leader: int) -> list[Process]:
    """All that live in the session; the dead among our own children are buried on the way."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        state, parent, _group, session = stat.rpartition(")")[2].split()[:4]
        if int(session) != leader:
            continue
        pid = int(entry.name)
        if state in "ZX":
            _bury(pid, leader, int(parent))
            continue
        try:
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found.append(Process(pid, int(parent), title.strip()))
    return sorted(found)


def _bury(pid: int, leader: int, parent: int) -> None:
    # The leader was started by subprocess, which wants to hear its status itself.
    if parent == os.getpid() and pid != leader:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """False when it is gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
