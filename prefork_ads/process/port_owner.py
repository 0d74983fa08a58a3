"""Who listens on a port, as far as /proc lets us see: `nginx (pid 123)`.

For error messages. A process of another user hides its sockets from us; then we know that there is one,
and not which.

Must not know: why somebody asks.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

_LISTEN = "0A"


def describe(port: int, proc: Path = Path("/proc")) -> str:
    """A clause to put behind "in use"; empty when the owner cannot be seen."""
    found = _owner({inode for local, inode in _listening(proc) if _port(local) == port}, proc)
    return f", by {found}" if found else ""


def stranger(mine: Collection[int], proc: Path = Path("/proc")) -> str:
    """Who else listens on the very addresses of these sockets (inodes); empty when nobody does."""
    listening = list(_listening(proc))
    addresses = {local for local, inode in listening if inode in mine}
    strange = {inode for local, inode in listening if local in addresses and inode not in mine}
    return (_owner(strange, proc) or "A process of another user") if strange else ""


def _owner(inodes: Collection[int], proc: Path) -> str:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in proc.glob("[0-9]*"):
        if wanted & set(_links(process / "fd")):
            return f"{_command(process)} (pid {process.name})"
    return ""


def _listening(proc: Path) -> Iterator[tuple[str, int]]:
    """Local address, as the kernel writes it, and inode."""
    for table in ("tcp", "tcp6"):
        try:
            with (proc / "net" / table).open() as lines:
                next(lines, "")
                for line in lines:
                    fields = line.split()
                    # Those that listen come first. The rest of a busy server's takes the kernel a quarter
                    # of a second to write, measured with 36,000 connections that have just ended.
                    if fields[3] != _LISTEN:
                        break
                    yield fields[1], int(fields[9])
        except OSError:
            continue


def _port(local: str) -> int:
    return int(local.rpartition(":")[2], 16)


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
