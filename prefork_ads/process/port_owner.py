"""Who listens on a port, as far as /proc lets us see: `, by nginx (pid 123)`.

For one error message. A process of another user hides its sockets from us, then nothing is said.

Must not know: why somebody asks.
"""

from collections.abc import Iterator
from pathlib import Path

_LISTEN = "0A"


def describe(port: int, proc: Path = Path("/proc")) -> str:
    """A clause to put behind "in use"; empty when the owner cannot be seen."""
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port, proc)}
    for process in proc.glob("[0-9]*"):
        if wanted & set(_links(process / "fd")):
            return f", by {_command(process)} (pid {process.name})"
    return ""


def _listening_inodes(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            (
                _,
                local,
                _,
                state,
                *_,
            ) = fields = line.split()
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                yield fields[9]


def _links(folder: Path) -> Iterator[str]:
    try:
        entries = list(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        try:
            yield str(entry.readlink())
        except OSError:
            continue  # closed since we listed it


def _command(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return words.strip()[:80] or (process / "comm").read_text().strip()
    except OSError:
        return "a process that has just ended"
