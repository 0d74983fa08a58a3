"""Looks at all servers again and again, and makes figures of each look and the one before.

Must not know: how they are shown.
"""

import time
from pathlib import Path

from prefork_ads.cli.status_figures import Look, Server, figures
from prefork_ads.process import lookout
from prefork_ads.process.lookout import NotAScoreboard, Sighting
from prefork_ads.process.vitals import resident_bytes

_PROC = Path("/proc")


class Looks:
    """The servers of this machine, or the one on a port."""

    def __init__(self, port: str | None = None) -> None:
        self._port = port
        self._before: dict[Path, Look] = {}

    def again(self) -> list[Server]:
        """Look once more; rates are those since the last time, zero at the first."""
        looks = {sighting.path: look for sighting in lookout.servers() if (look := _look(sighting))}
        before, self._before = self._before, looks
        servers = [figures(before.get(path, look), look) for path, look in looks.items()]
        return [server for server in servers if self._is_wanted(server)]

    def _is_wanted(self, server: Server) -> bool:
        return self._port is None or server.url.endswith(f":{self._port}")


def _look(sighting: Sighting) -> Look | None:
    # Before the look: should we be held up behind it, nobody is to seem silent for that.
    at_s = time.monotonic()
    try:
        board = sighting.look()
    except (OSError, NotAScoreboard):
        # It has ended since it was sighted, or is of a version whose boards we cannot read.
        return None
    master_pid = board.facts().get("master_pid")
    pids = [seat.pid for seat in board.occupied()]
    leaving = False
    if isinstance(master_pid, int):
        pids.append(master_pid)
        leaving = lookout.is_leaving(master_pid)
    return Look(
        board=board,
        at_s=at_s,
        leaving=leaving,
        ages_s={pid: lookout.age_s(pid) for pid in pids},
        memory_bytes={pid: resident_bytes(_PROC / str(pid) / "statm") for pid in pids},
    )
