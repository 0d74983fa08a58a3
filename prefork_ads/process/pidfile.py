"""The pid file: names the running master, for tools that want to signal it.

Written aside and then linked into place, which fails if the name exists: the file is never half
there, and of two masters starting at once one wins. A file left by a killed master is replaced.
At an upgrade the new master replaces the old one's in one step, so there is always one to read.
Between reading a stale file and removing it another master can slip in; then the port decides, which
only one of them gets.

Must not know: the server.
"""

import os
from pathlib import Path

from prefork_ads.errors import ConfigError

_OUR_NAME = b"prefork"
# More than any pid file has.
_LONGEST_BYTES = 64


class PidFile:
    """Ours from `acquire` to `release`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def acquire(self) -> None:
        """Write it; ConfigError when another server has it or the folder cannot be written."""
        aside = self._aside()
        try:
            self._remove_stale()
            aside.write_text(f"{os.getpid()}\n")
            try:
                self._path.hardlink_to(aside)
            finally:
                aside.unlink()
        except FileExistsError as error:
            raise self._taken(_read(self._path)) from error
        except OSError as error:
            raise ConfigError(
                f"The pid file {self._path} cannot be written: {error.strerror}. Its folder must"
                " exist and be writable for this user."
            ) from error

    def check(self, predecessor: int) -> None:
        """ConfigError if `take_over` would certainly fail: said before anybody relies on us."""
        pid = _read(self._path)
        if pid not in (None, predecessor, os.getpid()) and _is_running(pid):
            raise self._taken(pid)
        if not os.access(self._path.parent, os.W_OK):
            raise ConfigError(
                f"The pid file {self._path} cannot be written. Its folder must exist and be writable"
                " for this user."
            )

    def take_over(self, predecessor: int) -> None:
        """Write it in place of the predecessor's, which leaves a file with our number alone."""
        if _read(self._path) != predecessor:
            self.acquire()
            return
        aside = self._aside()
        aside.write_text(f"{os.getpid()}\n")
        aside.replace(self._path)

    def release(self) -> None:
        """Remove it, unless it is somebody else's by now."""
        if _read(self._path) == os.getpid():
            self._path.unlink(missing_ok=True)

    def _aside(self) -> Path:
        return self._path.with_name(f"{self._path.name}.{os.getpid()}")

    def _remove_stale(self) -> None:
        pid = _read(self._path)
        if pid is not None and pid != os.getpid() and _is_running(pid):
            raise self._taken(pid)
        if pid is None and not _is_blank(self._path):
            raise ConfigError(f"{self._path} exists and is no pid file; choose another --pid-file.")
        self._path.unlink(missing_ok=True)

    def _taken(self, pid: int | None) -> ConfigError:
        return ConfigError(
            f"The pid file {self._path} belongs to a running server (pid {pid}). Stop that one or"
            " choose another --pid-file."
        )


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _is_blank(path: Path) -> bool:
    """Whether nothing is lost with it. A crash of the machine may leave a file of ours empty or all zeros."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_BYTES)
    except FileNotFoundError:
        return True
    return len(content) < _LONGEST_BYTES and not content.strip(b"\0 \n")


def _is_running(pid: int) -> bool:
    """Whether the pid is a process of ours: numbers are used again, above all after a reboot."""
    try:
        return _OUR_NAME in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
