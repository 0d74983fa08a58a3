"""Finds servers that run on this machine, and reads their scoreboards from outside.

Nobody is asked: a server that hangs is seen as well as one that is idle, and looking costs it nothing.
There is no file either that could be stale. A process of a server is known by its title, its board is a
memfd among its descriptors, and the kernel shows a process's descriptors to the same user and to root.

When a master was killed its children have the board still; so they are looked at, too.

Must not know: what the numbers mean, how they are shown.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prefork_ads.process.scoreboard import NAME, NotAScoreboard, Scoreboard

_TITLE: Final = re.compile(rb"prefork-ads: (leaving master|master|worker|keeper)\b")
_LEAVING: Final = b"leaving master"
_LINK: Final = f"/memfd:{NAME}"
# A board is opened before the first connection, so it has a low number; a worker may have ten thousand.
_LOW_DESCRIPTORS: Final = 256
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sighting:
    """A server: its board, by way of one of its processes."""

    pid: int
    is_master: bool
    path: Path

    def look(self) -> Scoreboard:
        """The board as it is now. Raises OSError when that process is gone, NotAScoreboard."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return Scoreboard.read(fd)
        finally:
            os.close(fd)


def servers(proc: Path = Path("/proc")) -> list[Sighting]:
    """Every server whose processes this user may look into, by its master's pid."""
    by_board: dict[tuple[int, int], Sighting] = {}
    for sighting, board in _sightings(proc):
        known = by_board.get(board)
        # The master rather than a child; two masters never have the same board.
        if known is None or (sighting.is_master and not known.is_master):
            by_board[board] = sighting
    return sorted(by_board.values(), key=lambda sighting: sighting.pid)


def master(pid: int, proc: Path = Path("/proc")) -> Sighting | None:
    """The server of this master, unless it is gone or not ours to look into."""
    found = next(_sightings(proc, str(pid)), None)
    return None if found is None or not found[0].is_master else found[0]


def _sightings(proc: Path, processes: str = "[0-9]*") -> Iterator[tuple[Sighting, tuple[int, int]]]:
    for process in proc.glob(processes):
        try:
            title = _TITLE.match((process / "cmdline").read_bytes())
            numbers = sorted(int(fd.name) for fd in (process / "fd").iterdir()) if title else []
        except OSError:
            continue  # gone, or not ours to look into
        for number in numbers[:_LOW_DESCRIPTORS]:
            path = process / "fd" / str(number)
            try:
                if not str(path.readlink()).startswith(_LINK):
                    continue
                found = path.stat()
            except OSError:
                continue
            assert title is not None
            is_master = title[1].endswith(b"master")
            yield Sighting(int(process.name), is_master, path), (found.st_dev, found.st_ino)
            break


def is_leaving(master_pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether this master has handed over to another one, and only finishes what it has."""
    try:
        title = _TITLE.match((proc / str(master_pid) / "cmdline").read_bytes())
    except OSError:
        return False
    return title is not None and title[1] == _LEAVING


def age_s(pid: int, proc: Path = Path("/proc")) -> float | None:
    """How long a process has been running; None when there is none."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
        up_s = float((proc / "uptime").read_text().split()[0])
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return max(0.0, up_s - int(fields[19]) / _CLOCK_TICKS)


__all__ = ["NotAScoreboard", "Sighting", "age_s", "is_leaving", "master", "servers"]
