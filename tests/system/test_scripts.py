"""The commands of the README: what they do, and what they say when something is missing.

Set-up is tested on copies of the sources, offline; scripts/run and scripts/test are started from this
clone, as a person would. Each set-up takes some seconds, so tests share a copy where they can.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.system.clone import PYTHON, ROOT, bare_environ, copy_sources, offline_environ
from tests.system.program import Program, get

pytestmark = pytest.mark.once

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file())

# What scripts/setup may take from the system apart from a Python.
TOOLS = (
    *(
        "awk",
        "cat",
        "cksum",
        "cp",
        "cut",
        "df",
        "dirname",
        "env",
        "grep",
        "id",
        "ls",
        "mkdir",
        "mv",
    ),
    *("readlink", "rm", "sed", "sh", "sort", "tail", "tr", "xargs"),
)

SECOND_START_LIMIT_S = 10.0  # about 1 on an idle machine; coverage and a busy one are slower


def run(
    *command: object, environ: dict[str, str] | None = None, cwd: Path = Path("/")
) -> subprocess.CompletedProcess[str]:
    """Run a command from anywhere, with what it prints on either stream in stdout."""
    return subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=cwd,
        env=environ,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home directory that the user of an embedded PostgreSQL may enter, also as root."""
    path = Path(tempfile.mkdtemp(prefix="prefork-ads-scripts-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A copy of the sources that nothing was set up in; its path has a space, as paths may."""
    return copy_sources(tmp_path / "a clone")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH with the system's tools and no Python; tests put their own beside them."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    return folder


def add_program(folder: Path, name: str, script: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_explains_itself(name: str, home: Path) -> None:
    """--help needs no set-up."""
    result = run(ROOT / "scripts" / name, "--help", environ=bare_environ(home, os.environ["PATH"]))
    assert result.returncode == 0, result.stdout
    assert re.search(rf"^Usage: .*{name}", result.stdout)


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--python"], ["--extras"]])
def test_setup_refuses_what_it_does_not_know(arguments: list[str]) -> None:
    result = run(ROOT / "scripts/setup", *arguments)
    assert result.returncode == 1
    assert f"{arguments[0]}" in result.stdout


def test_no_python_at_all(fresh: Path, tools: Path, home: Path) -> None:
    """Says which versions would do and how to get one."""
    result = run(fresh / "scripts/setup", environ=bare_environ(home, str(tools)))
    assert result.returncode == 1
    assert "prefork-ads runs on Python 3.11 3.12 3.13" in result.stdout
    assert "apt-get install python3 python3-venv" in result.stdout


def test_a_python_that_is_too_old(fresh: Path, tools: Path, home: Path) -> None:
    add_program(tools, "python3", "echo '3.9 none'")
    result = run(fresh / "scripts/setup", environ=bare_environ(home, str(tools)))
    assert result.returncode == 1
    assert f"not supported: {tools}/python3 (3.9)" in result.stdout


def test_a_python_without_venv(fresh: Path, tools: Path, home: Path) -> None:
    """Debian's python3 is one until python3-venv is installed."""
    add_program(tools, "python3", "echo '3.11 none'")
    result = run(fresh / "scripts/setup", environ=bare_environ(home, str(tools)))
    assert result.returncode == 1
    assert "cannot make virtual environments" in result.stdout
    assert "apt-get install python3-venv" in result.stdout


def test_a_shim_that_does_not_start_is_passed_over(fresh: Path, tools: Path, home: Path) -> None:
    """Version managers put programs on PATH that only print an error."""
    add_program(tools, "python3", "echo 'python3: command not found' >&2; exit 127")
    (tools / "python3.12").symlink_to(PYTHON)
    environ = bare_environ(home, str(tools))
    result = run(fresh / "scripts/setup", "--list-pythons", environ=environ)
    version = Path(PYTHON).name.removeprefix("python")
    assert result.stdout == f"{version} {tools}/python3.12\n"


def test_a_full_disk_is_named(fresh: Path, tools: Path, home: Path) -> None:
    """Before anything is downloaded, with the room that is needed."""
    (tools / "python3").symlink_to(PYTHON)
    add_program(tools, "df", "echo header; echo '/dev/x 1000000 980000 20480 98% /'")
    result = run(fresh / "scripts/setup", environ=bare_environ(home, str(tools)))
    assert result.returncode == 1
    assert "has 20 MB free, and the packages need about 400 MB" in result.stdout


def test_without_a_network_the_first_setup_says_so(fresh: Path, home: Path) -> None:
    """And shows pip's own last lines."""
    environ = {**bare_environ(home, os.environ["PATH"]), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    result = run(fresh / "scripts/setup", "--python", PYTHON, environ=environ)
    assert result.returncode == 1
    assert "No matching distribution found" in result.stdout
    assert "the first set-up needs the network" in result.stdout


def test_a_folder_that_is_no_environment_is_left_alone(fresh: Path, home: Path) -> None:
    (fresh / ".venv").mkdir()
    (fresh / ".venv" / "thesis.txt").touch()
    environ = offline_environ(home)
    result = run(fresh / "scripts/setup", "--python", PYTHON, environ=environ)
    assert result.returncode == 1
    assert "is not a virtual environment" in result.stdout
    assert (fresh / ".venv" / "thesis.txt").exists()


@pytest.mark.timeout(400)  # three environments are made; each takes 10 s on an idle machine
def test_setup_from_nothing_to_damaged_and_moved(fresh: Path, home: Path) -> None:
    """One life of an environment; each stage builds on the one before, since each takes seconds."""
    environ = offline_environ(home)
    setup = [str(fresh / "scripts/setup"), "--python", PYTHON]

    # Two at once: one does the work, the other waits for it and finds nothing left to do.
    starts = [
        subprocess.Popen(setup, env=environ, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [start.communicate(timeout=100)[1] for start in starts]
    assert [start.returncode for start in starts] == [0, 0], said
    assert "".join(said).count("setup: installing") == 1
    assert "".join(said).count("another set-up is at work") == 1
    program = fresh / ".venv/bin/prefork-ads"
    assert run(program, "version", environ=environ).returncode == 0

    # A second call costs nothing and calls no pip.
    log = (fresh / ".venv/setup.log").stat()
    again = run(*setup, environ=environ)
    assert again.stdout.startswith("setup: nothing to do")
    assert run(*setup, "--quiet", environ=environ).stdout == ""
    assert (fresh / ".venv/setup.log").stat().st_mtime_ns == log.st_mtime_ns

    # Another extra is added to the ones that are there, and stays.
    assert run(*setup, "--extras", "test", environ=environ).returncode == 0
    assert run(*setup, "--extras", "embedded,test", "--quiet", environ=environ).stdout == ""

    # setup.cfg changed: the packages are looked at again.
    with (fresh / "setup.cfg").open("a") as file:
        file.write("\n")
    assert "setup: installing" in run(*setup, environ=environ).stdout

    # Its Python is gone, as after an upgrade of the system.
    for name in (fresh / ".venv/bin").glob("python*"):
        name.unlink()
    assert "setup: making .venv" in run(*setup, environ=environ).stdout
    assert run(program, "version", environ=environ).returncode == 0

    # The clone was moved: its programs name a path that is no more.
    moved = fresh.rename(fresh.with_name("moved"))
    assert run(moved / "scripts/setup", "--python", PYTHON, environ=environ).returncode == 0
    version = run(moved / ".venv/bin/prefork-ads", "version", environ=environ)
    assert version.returncode == 0, version.stdout


def command_lines() -> Iterator[str]:
    """The number and the arguments of every process."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            yield f"{folder.name} {(folder / 'cmdline').read_text(errors='replace')}"


def test_run_serves_and_leaves_nothing_behind(home: Path) -> None:
    """Empty machine to answered requests, Ctrl-C, a second start that is quick, and kill -9."""
    data_dir = home / "data"

    def running() -> list[str]:
        """PostgreSQL's processes and our own: all of them name the data directory somewhere."""
        return [line for line in command_lines() if str(data_dir) in line]

    command = [ROOT / "scripts/run", "--port", "0", "--workers", "2", "--data-dir", data_dir]
    with Program(command, home) as first:
        sample = [ROOT / "scripts/run", "variants", "sample", "2", "--data-dir", data_dir]
        ids = run(*sample).stdout.split()
        assert len(ids) == 2, ids
        status, body = get(f"{first.url}/ad?id={ids[0]}")
        assert (status, ids[0] in body) == (200, True)
        assert get(f"{first.url}/log?hello=world") == (204, "")
        assert running()
        assert first.stop(signal.SIGINT, group=True) == 0, first.said()
        wait_until(lambda: not running(), "everything to be gone after Ctrl-C")

    started_at = time.monotonic()
    with Program(command, home) as second:
        assert time.monotonic() - started_at < SECOND_START_LIMIT_S
        second.stop(signal.SIGKILL)
        wait_until(lambda: not running(), "everything to be gone after kill -9")


def test_the_test_command_runs_tests_and_tells_the_result() -> None:
    """From any directory, with pytest's arguments and closing line, and a status that is right."""
    good = run(ROOT / "scripts/test", "tests/unit/test_imports.py", "-k", "docstring or says")
    assert good.returncode == 0, good.stdout
    assert re.search(r"\b[1-9]\d* passed", good.stdout)
    assert re.search(r"test: Python 3\.\d+: passed", good.stdout)
    none = run(ROOT / "scripts/test", "tests/unit/test_imports.py", "-k", "no_such_test")
    assert none.returncode != 0
    assert ": FAILED" in none.stdout
