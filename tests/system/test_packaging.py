"""The service files: the Procfile under honcho, and the systemd unit as far as it goes without systemd.

systemd is the first process of hardly any machine that runs tests, so the unit is not started by it:
systemd-analyze judges the file, and the server is started by hand with the unit's environment and under its
system call rules.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from prefork_ads.config import Config
from prefork_ads.errors import ConfigError, SchemaError
from tests.conftest import Database
from tests.support import wait_until
from tests.system.clone import PYTHON, ROOT, bare_environ, offline_environ
from tests.system.program import STOP_LIMIT_S, Program, get
from tests.system.sandbox import settings

pytestmark = pytest.mark.once

UNIT: Final = ROOT / "packaging/systemd/prefork-ads.service"
SOCKET: Final = ROOT / "packaging/systemd/prefork-ads.socket"
INSTALL: Final = ROOT / "packaging/systemd/install"
BIN: Final = Path(sys.executable).parent
SANDBOX: Final = (sys.executable, "-m", "tests.system.sandbox", str(UNIT))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a short path that the user of an embedded PostgreSQL may enter."""
    path = Path(tempfile.mkdtemp(prefix="prefork-ads-unit-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_the_procfile_under_honcho(database: Database, folder: Path) -> None:
    """Port, workers and database come from the variables that platforms set."""
    port = free_port()
    environ = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "DATABASE_URL": database.dsn,
        "WEB_CONCURRENCY": "2",
    }
    command = ["honcho", "-d", ROOT, "start", "-p", str(port)]
    with Program(command, folder, environ=environ) as honcho:
        assert (honcho.workers, honcho.url) == (2, f"http://0.0.0.0:{port}")
        assert get(f"http://127.0.0.1:{port}/log?from=honcho") == (204, "")
        honcho.stop()
    with pytest.raises(OSError, match="refused"):
        get(f"http://127.0.0.1:{port}/")
    assert database.fetch("SELECT params->>'from' FROM request_log") == [("honcho",)]


def test_the_unit_exposes_little() -> None:
    """systemd rates what an intruder could do from 0 (nothing) to 10 (everything): at most 2."""
    said = analyze("security", "--offline=true", "--threshold=20", str(UNIT))
    assert said.returncode == 0, said.stdout
    level = re.search(r"exposure level for prefork-ads.service: ([\d.]+)", said.stdout)
    assert level is not None, said.stdout
    assert float(level[1]) <= 2.0


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """No unknown section, setting or value. The program is not installed here, so it gets another."""
    copy = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8")
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={PYTHON}", text))
    shutil.copy(SOCKET, tmp_path)
    said = analyze("verify", "--man=no", str(copy), str(tmp_path / SOCKET.name))
    assert (said.returncode, said.stdout) == (0, "")


def test_the_unit_agrees_with_the_program() -> None:
    """Figures that are stated in two places, since systemd cannot ask the program."""
    hopeless = settings(UNIT, "RestartPreventExitStatus")[0].split()
    assert hopeless == [str(ConfigError.exit_code), str(SchemaError.exit_code)]
    defaults = Config()
    stop_s = float(settings(UNIT, "TimeoutStopSec")[0])
    assert stop_s > defaults.drain_window_s + defaults.drain_timeout_s
    assert int(settings(UNIT, "LimitNOFILE")[0]) > defaults.max_connections
    # A worker that hangs is found, killed and replaced before the watchdog gives up on all of them.
    assert float(settings(UNIT, "WatchdogSec")[0]) > defaults.worker_timeout_s
    assert settings(SOCKET, "ReusePort") == ["yes"], "for as many lines as there are workers"


def test_the_rules_are_in_force_in_the_sandbox() -> None:
    """Otherwise the test below would show nothing: each attempt has to be refused."""
    attempts = """
import mmap, os, socket
for attempt in (
    lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    lambda: os.chown("/tmp", -1, -1),
    lambda: os.setpriority(os.PRIO_PROCESS, 0, 0),
):
    try:
        attempt()
        print("allowed")
    except OSError:
        print("refused")
"""
    said = subprocess.run(
        [*SANDBOX, sys.executable, "-c", attempts],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["refused"] * 4


def test_the_server_lives_under_the_rules_of_the_unit(database: Database, folder: Path) -> None:
    """Start, reload, upgrade and stop, each announced to systemd, with what the unit forbids forbidden.

    As an ordinary user with the embedded PostgreSQL, which has to live under the rules too. As root, which
    the service never is, that one could not change its user: then with an external one.
    """
    announced = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    announced.bind(str(folder / "notify"))
    announced.setblocking(False)
    environ = {
        **os.environ,
        "NOTIFY_SOCKET": str(folder / "notify"),
        "PREFORK_ADS_DATA_DIR": str(folder / "data"),
        "PREFORK_ADS_PORT": "0",
        "PREFORK_ADS_WORKERS": "2",
        "WATCHDOG_USEC": "60000000",
    }
    if os.geteuid() == 0:
        environ["DATABASE_URL"] = database.dsn

    def next_message() -> bytes:
        try:
            return announced.recv(4096)
        except BlockingIOError:
            return b""

    def wait_for(word: bytes) -> bytes:
        def found() -> bytes:
            message = next_message()
            return message if message.startswith(word) else b""

        return wait_until(found, word.decode(), STOP_LIMIT_S)

    command = [*SANDBOX, BIN / "prefork-ads"]
    with closing(announced), Program(command, folder, cwd=ROOT, environ=environ) as server:
        wait_for(b"READY=1")
        wait_for(b"WATCHDOG=1")
        assert get(f"{server.url}/log?under=rules") == (204, "")
        assert get(f"{server.url}/readyz")[0] == 200
        server.process.send_signal(signal.SIGHUP)
        wait_for(b"RELOADING=1")
        wait_for(b"READY=1")
        assert get(f"{server.url}/log?after=reload") == (204, "")
        server.process.send_signal(signal.SIGUSR2)
        new = int(wait_for(b"MAINPID=").splitlines()[0].removeprefix(b"MAINPID="))
        wait_for(b"READY=1")
        assert server.process.wait(STOP_LIMIT_S) == 0, server.said()
        assert get(f"{server.url}/log?after=upgrade") == (204, "")
        os.kill(new, signal.SIGTERM)
        wait_for(b"STOPPING=1")
        wait_until(lambda: f"master[{new}] stopped" in server.said(), "its end", STOP_LIMIT_S)
        assert "Traceback" not in server.said()


def test_install_into_a_folder(tmp_path: Path) -> None:
    """A packager gets a tree with the program, the unit, the user and the settings, and it runs there."""
    target = tmp_path / "package"
    environ = offline_environ(tmp_path)
    command = [str(INSTALL), "--python", PYTHON, "--destdir", str(target)]
    # A Python in a home directory is refused, and the tests may well be running on one.
    in_home = str(Path(PYTHON).resolve()).startswith(("/root/", "/home/"))
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, check=False, timeout=110
    )
    if in_home:
        assert done.returncode == 1
        assert "where the service must not look" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    unit = target / "etc/systemd/system/prefork-ads.service"
    assert unit.read_text() == UNIT.read_text()
    assert unit.with_suffix(".socket").read_text() == SOCKET.read_text()
    program = Path(settings(unit, "ExecStart")[0])
    inside = target / program.relative_to("/")
    assert inside.read_text().startswith(f"#!{program.parent}/python")
    python = str(inside.with_name("python"))
    version = subprocess.run(
        [python, "-m", "prefork_ads", "version"], env=environ, capture_output=True, check=True
    )
    assert version.stdout.startswith(b"prefork-ads ")
    (env_file,) = settings(unit, "EnvironmentFile")
    env = target / env_file.removeprefix("-/")
    assert env.stat().st_mode & 0o077 == 0, "may come to hold a password"
    (user,) = settings(unit, "User")
    users = (target / "usr/lib/sysusers.d/prefork-ads.conf").read_text()
    assert re.search(rf"(?m)^u {user} ", users)


def test_a_dry_run_of_install_touches_nothing(tmp_path: Path) -> None:
    target = tmp_path / "package"
    said = subprocess.run(
        [str(INSTALL), "--dry-run", "--destdir", str(target)],
        env=bare_environ(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{target}/etc/systemd/system/prefork-ads.service" in said.stdout
    assert "that was a dry run: nothing was done" in said.stderr
    assert not target.exists()


def test_a_dry_run_of_install_does_not_say_that_it_is_installed(tmp_path: Path) -> None:
    said = subprocess.run(
        [str(INSTALL), "--dry-run"],
        env=bare_environ(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "/etc/systemd/system/prefork-ads.service" in said.stdout
    assert said.stderr.endswith("install: that was a dry run: nothing was done\n")
    assert "installed." not in said.stderr
