"""The embedded server's data directory: what lies in it, who runs there, one start at a time.

    postgres        the cluster (PGDATA), 0700, owned by the server's user
    postgres.log    what the server says; bounded, see `trim_log`
    run             the directory of the socket (elsewhere when its path is too long for a socket)
    lock            held while a server is being started; names the process that did it last
    binaries        a copy of the binaries, only where the server's user cannot reach the package

Facts that shaped it:
- A pid file proves nothing: after a power cut its number may belong to anybody. A postmaster works
  in its data directory, so the process whose working directory that is, is the one.
- Root may not see where another user's process works without CAP_SYS_PTRACE, which containers leave out by
  default. What a postmaster was told when it was started everybody may see.
- A socket's path holds at most 107 bytes, and libpq splits host names at commas.
- As root we write into a directory that the server's user owns, so nothing here follows a link.

Must not know: how a server is started, SQL.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import IO, Final

import psycopg2.extensions

from prefork_ads.db.binaries import User, child_options
from prefork_ads.errors import DataDirError

ROLE: Final = "prefork_ads"
DATABASE: Final = "prefork_ads"
PORT: Final = 5432  # names the socket's file; nothing listens on TCP

SOCKET_PATH_LIMIT_BYTES: Final = 107
START_LIMIT_S: Final = 60.0  # crash recovery of a few GB of WAL fits
POLL_S: Final = 0.005
# Each look reads all of /proc.
SURVIVORS_POLL_S: Final = 0.05
LOG_LIMIT_BYTES: Final = 8 << 20
LOG_TAIL_LINES: Final = 15


@dataclass(frozen=True, slots=True)
class RunningServer:
    """What postmaster.pid says about a server that really is alive."""

    pid: int
    state: str  # starting, ready, stopping, standby; empty before the first of them
    socket_dir: str

    @property
    def dsn(self) -> str:
        return psycopg2.extensions.make_dsn(
            host=self.socket_dir, port=PORT, dbname=DATABASE, user=ROLE
        )


def find_running(data_dir: Path) -> RunningServer | None:
    """The live server of this directory, or None; a stale pid file is none."""
    pgdata = data_dir / "postgres"
    try:
        text = (pgdata / "postmaster.pid").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    # pid, data directory, start time, port, socket directory, address, shared memory, state
    lines = [line.strip() for line in text.splitlines()]
    lines += [""] * (8 - len(lines))
    if not lines[0].isdigit():
        return None
    try:
        is_ours = _works_in(lines[0], pgdata)
    except PermissionError:
        is_ours = _was_told(lines[0], pgdata)
    except (FileNotFoundError, ProcessLookupError):
        return None  # nobody, or a zombie
    return RunningServer(int(lines[0]), lines[7], lines[4]) if is_ours else None


def _works_in(pid: str, directory: Path) -> bool:
    """Whether a process works there. Raises OSError: it is gone, or not ours to look at."""
    return Path(f"/proc/{pid}/cwd").samefile(directory)


def _was_told(pid: str, pgdata: Path) -> bool:
    """Whether a process of the cluster's owner was started as its server; others may call theirs so."""
    try:
        if Path(f"/proc/{pid}").stat().st_uid != pgdata.stat().st_uid:
            return False
        told = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return told[1] == b"-D" and Path(os.fsdecode(told[2])).samefile(pgdata)
    except (OSError, IndexError):
        return False


def find_staying(data_dir: Path, patience_s: float) -> RunningServer | None:
    """The live server of this directory, looked at until it is ending or has stayed this long.

    A process that was killed a moment ago still counts as a server's living parent.
    """
    give_up_at = time.monotonic() + patience_s
    while (running := find_running(data_dir)) is not None:
        if is_ending(running, data_dir) or time.monotonic() > give_up_at:
            return running
        time.sleep(POLL_S)
    return None


def is_ending(running: RunningServer, data_dir: Path) -> bool:
    """Whether somebody stops it right now, or the kernel told it to because its owner is dead."""
    return running.state == "stopping" or is_orphan(running, data_dir)


def is_orphan(running: RunningServer, data_dir: Path) -> bool:
    """Whether the process that started this server is gone.

    A process whose parent dies gets another one, so the server is an orphan exactly when its parent
    is not the process named in the lock file; a pid that is in use again cannot fool this.
    """
    try:
        owner = int((data_dir / "lock").read_text(encoding="utf-8"))
        status = Path(f"/proc/{running.pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False
    parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    return int(parent) != owner


def wait_until_gone(data_dir: Path, limit_s: float) -> RunningServer | None:
    """Wait for the server of this directory to end; what still runs when the time is up."""
    give_up_at = time.monotonic() + limit_s
    while (running := find_running(data_dir)) is not None and time.monotonic() < give_up_at:
        time.sleep(POLL_S)
    return running


def find_survivors(data_dir: Path) -> list[int]:
    """Backends of this directory's server; where no server runs they have outlived it.

    Whoever kills a postmaster leaves them to notice it, which takes them milliseconds, or as long as their
    statement does. Until then they hold its shared memory, and PostgreSQL starts no other on it.
    """
    pgdata = data_dir / "postgres"
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # Not by its title, which a backend replaces. A package that was upgraded is "postgres (deleted)".
            is_server = (process / "exe").readlink().name in ("postgres", "postgres (deleted)")
            if is_server and _works_in(process.name, pgdata):
                found.append(int(process.name))
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


def wait_for_survivors(data_dir: Path, limit_s: float, tell: Callable[[list[int]], None]) -> None:
    """Wait for them to end, no longer than this. Tells of those that do not end at once."""
    give_up_at = time.monotonic() + limit_s
    looks = 0
    while (survivors := find_survivors(data_dir)) and time.monotonic() < give_up_at:
        looks += 1
        if looks == 2:
            tell(survivors)
        time.sleep(SURVIVORS_POLL_S)


@contextlib.contextmanager
def start_lock(data_dir: Path, user: User | None) -> Iterator[IO[str]]:
    """One start at a time.

    Held only for the start: workers are forked later, and one that outlived its master by a moment
    would hold an inherited lock and have the next start refused.
    """
    lock_fd = os.open(
        data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    with os.fdopen(lock_fd, "r+", encoding="utf-8") as lock:
        if user is not None:
            os.fchown(lock_fd, user.pw_uid, user.pw_gid)
        give_up_at = time.monotonic() + START_LIMIT_S
        while not _locked(lock_fd):
            if time.monotonic() > give_up_at:
                raise DataDirError(
                    f"Another process has been starting PostgreSQL on {data_dir} for "
                    f"{START_LIMIT_S:g} s. Stop it, or choose another --data-dir."
                )
            time.sleep(POLL_S)
        yield lock


def _locked(lock_fd: int) -> bool:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def filesystem_errors(data_dir: Path) -> Iterator[None]:
    """Tell what the file system refuses in words that name the directory."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise DataDirError(
            f"{data_dir} cannot be used for a database: {error.strerror}{where}. "
            "Choose another --data-dir."
        ) from error


def make_private_dir(path: Path, user: User | None) -> None:
    """Create a directory 0700 for the server's user; one that exists is left as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
        return
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def refuse_closed_parents(data_dir: Path, user: User) -> None:
    """Name the directory that keeps the server's user out, instead of letting initdb guess."""
    if _may_enter(data_dir, user):
        return
    closed = next(d for d in (*reversed(data_dir.parents), data_dir) if not _may_enter(d, user))
    raise DataDirError(
        f"PostgreSQL runs as the user {user.pw_name}, who may not enter {closed}. "
        f"Choose another --data-dir, or allow it with: chmod o+x {closed}"
    )


def _may_enter(directory: Path, user: User) -> bool:
    command = ["test", "-x", str(directory)]
    return subprocess.run(command, check=False, **child_options(user, SIGKILL)).returncode == 0


def choose_socket_dir(data_dir: Path, user: User | None) -> Path:
    """`data_dir/run`, or a short private directory when a socket cannot live there."""
    wanted = data_dir / "run"
    if _can_hold_socket(wanted):
        make_private_dir(wanted, user)
        return wanted
    # The same name every time, so that killed servers leave one directory and not a trail of them.
    # In /tmp somebody else may have made it first: then one whose name nobody could foresee.
    owner = user.pw_uid if user is not None else os.geteuid()
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"prefork-ads-{owner}-{digest}"
    make_private_dir(short, user)
    found = short.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == owner and not found.st_mode & 0o077:
        return short
    fallback = Path(tempfile.mkdtemp(prefix="prefork-ads-"))
    if user is not None:
        os.chown(fallback, user.pw_uid, user.pw_gid)
    return fallback


def _can_hold_socket(directory: Path) -> bool:
    path_bytes = len(os.fsencode(directory / f".s.PGSQL.{PORT}"))
    # `postgres -k` and libpq both read a list here: commas, quotes and outer spaces are theirs.
    text = str(directory)
    return path_bytes <= SOCKET_PATH_LIMIT_BYTES and not set(text) & set(",\"'\\ ")


def open_log(data_dir: Path, user: User | None) -> int:
    """A descriptor that appends to the server's log."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    log_fd = os.open(data_dir / "postgres.log", flags, 0o600)
    if user is not None:
        os.fchown(log_fd, user.pw_uid, user.pw_gid)
    return log_fd


def trim_log(data_dir: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Keep the server's log bounded: past the limit it is copied to postgres.log.1 and emptied.

    Emptied and not renamed, because the server keeps its descriptor for life. It appends, so it
    goes on at the start of the same file. Lines written between copying and emptying are lost,
    which a log of warnings can bear. Cheap enough for every tick of whoever supervises.
    """
    try:
        log_fd = os.open(data_dir / "postgres.log", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with os.fdopen(log_fd, "r+b") as log:
        if os.fstat(log_fd).st_size <= limit_bytes:
            return
        previous = data_dir / "postgres.log.1"
        previous.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(previous, flags, 0o600), "wb") as copy:
            shutil.copyfileobj(log, copy)
        log.truncate(0)


def log_tail(data_dir: Path, lines: int = LOG_TAIL_LINES) -> list[str]:
    """The last lines the server wrote."""
    try:
        with (data_dir / "postgres.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 16384))
            return log.read().decode("utf-8", "replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
