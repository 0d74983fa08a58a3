"""The README, done: every command it shows is run in a fresh copy of the sources, in its order.

A `console` block holds commands behind "$ " and, below each, lines of what it prints. Shown lines must be
printed in that order; lines may have been left out. What differs from run to run (times, process ids,
random ads, paths, how many cores there are) is made alike on both sides first.

A command whose shown lines contain the ready line serves. It is left running for the commands that follow,
until the next one that serves, and stopped by Ctrl-C; nothing of it may be left then.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from prefork_ads.db.binaries import find_package
from tests.conftest import Database
from tests.support import wait_until
from tests.system.clone import PYTHON, ROOT, copy_sources, offline_environ
from tests.system.program import Program, get

pytestmark = pytest.mark.once

README: Final = (ROOT / "README.md").read_text(encoding="utf-8")

# What the README is written with, and what stands for it in the test.
SHOWN_ADDRESS: Final = "127.0.0.1:8080"
SHOWN_DSN: Final = "postgresql:///ads"
SHOWN_HOME: Final = "/home/ada"

# Rows are in the table a quarter of a second after the answer.
SEEN_LIMIT_S: Final = 15.0

_BLOCK: Final = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)

_VARYING: Final = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00)", "TIME"),
    (r"Date: .*", "Date: TIME"),
    (r"\[\d+\]", "[PID]"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
    (r"\d+ workers|\(\d+ slots\)", "N"),
    (r", database .*", ", database NAME"),
    (r"Python 3\.\d+\.\d+", "Python 3"),
    # Chances, which depend on the hour.
    (r"\d+\.\d+%", "N%"),
    (r"Python 3\.\d+ \(.*\)", "Python 3 (PATH)"),
    # How psql pads its columns.
    (r"-{3,}", "---"),
    (r"\s+", " "),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command and the lines that the README shows below it."""

    command: str
    shown: tuple[str, ...]

    @property
    def serves(self) -> bool:
        return any(" ready: " in line for line in self.shown)


def steps() -> list[Step]:
    found = []
    for block in _BLOCK.findall(README):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            found.append(Step(command, tuple(line for line in shown if line.strip())))
    return found


def alike(line: str) -> str:
    """A line without what differs from run to run; of an ad only the names of its members."""
    if line.startswith(('{"id":', '{"decision":')):
        return f"ad with {', '.join(json.loads(line))}"
    for pattern, word in _VARYING:
        line = re.sub(pattern, word, line)
    return line.strip()


def missing(shown: tuple[str, ...], said: str) -> str | None:
    """The first shown line that was not printed behind those before it."""
    printed = iter([alike(line) for line in said.splitlines()])
    return next((line for line in shown if alike(line) not in printed), None)


@dataclass(slots=True)
class Reader:
    """Somebody who follows the README in a shell."""

    home: Path
    environ: dict[str, str]
    dsn: str
    address: str = SHOWN_ADDRESS

    @property
    def clone(self) -> Path:
        return self.home / "prefork-ads"

    def own(self, text: str) -> str:
        """What is written in the README, with this reader's address, database and home."""
        for shown, mine in (
            (SHOWN_ADDRESS, self.address),
            (SHOWN_DSN, f"'{self.dsn}'"),
            (SHOWN_HOME, str(self.home)),
        ):
            text = text.replace(shown, mine)
        return text

    def run(self, command: str, variables: str) -> str:
        """What a command prints, on either stream; it has to succeed."""
        done = subprocess.run(
            ["bash", "-c", self.own(f"{variables}\n{command}")],
            cwd=self.clone,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout.replace(self.address, SHOWN_ADDRESS)

    def running(self) -> list[str]:
        """The command lines of processes that have to do with this reader's home."""
        lines = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(entry.read_text(errors="replace"))
            except OSError:
                continue  # it has just ended
        return [line for line in lines if str(self.home) in line]


@pytest.fixture
def reader(database: Database, tmp_path: Path) -> Iterator[Reader]:
    """A reader with a home, a fresh copy of the sources in it, a Python and psql, and no network."""
    # Short, for the socket's sake, and open to the user that an embedded PostgreSQL runs as.
    home = Path(tempfile.mkdtemp(prefix="prefork-ads-readme-"))
    home.chmod(0o711)
    copy_sources(home / "prefork-ads")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python3").symlink_to(PYTHON)
    binaries = find_package() / "pginstall" / "bin"
    environ = {
        **offline_environ(home),
        "PATH": os.pathsep.join((str(tools), os.environ["PATH"], str(binaries))),
        # pip spells "no isolation" like this in the environment: there is no network to isolate with.
        "PIP_NO_BUILD_ISOLATION": "0",
        "PREFORK_ADS_PORT": "0",
        # Where it is for an ordinary user, also when the test runs as root.
        "PREFORK_ADS_DATA_DIR": str(home / ".local/share/prefork-ads"),
    }
    yield Reader(home, environ, database.dsn)
    shutil.rmtree(home, ignore_errors=True)


def serve(reader: Reader, step: Step, folder: Path, stack: ExitStack) -> Program:
    folder.mkdir()
    command = ["bash", "-c", f"exec {reader.own(step.command)}"]
    program = Program(command, folder, cwd=reader.clone, environ=reader.environ)
    stack.enter_context(program)
    reader.address = program.url.removeprefix("http://")
    # The ready line comes before them.
    wait_until(lambda: "/ad?id=" in program.said(), "the commands to try")
    return program


def stop(program: Program | None, reader: Reader) -> None:
    if program is not None:
        assert program.stop(signal.SIGINT, group=True) == 0, program.said()
        wait_until(lambda: not reader.running(), "the end of everything after Ctrl-C")


def said_by(reader: Reader, step: Step, variables: dict[str, str]) -> str:
    """Run a command that ends, and return what it printed."""
    before = "\n".join(f"{name}={value}" for name, value in variables.items())
    if assigned := re.fullmatch(r"(\w+)=\$\((.+)\)", step.command):
        # For the commands below, each of which gets a shell of its own.
        variables[assigned[1]] = reader.run(assigned[2], before).strip()
        return ""
    if not re.search(r"^psql |prefork-ads report ", step.command):
        return reader.run(step.command, before)

    def all_seen() -> bool:
        return missing(step.shown, reader.run(step.command, before)) is None

    # What is lacking at the end is told by the caller, together with what was printed instead.
    with suppress(AssertionError):
        wait_until(all_seen, "rows", SEEN_LIMIT_S)
    return reader.run(step.command, before)


@pytest.mark.timeout(400)  # makes two environments, 10 s each on an idle machine
def test_every_command_does_what_is_shown(reader: Reader, tmp_path: Path) -> None:
    """From a fresh clone to an installed server on another database."""
    variables: dict[str, str] = {}
    program = None
    with ExitStack() as stack:
        for number, step in enumerate(steps()):
            if step.serves:
                stop(program, reader)
                program = serve(reader, step, tmp_path / str(number), stack)
                said = program.said().replace(reader.address, SHOWN_ADDRESS)
            else:
                said = said_by(reader, step, variables)
            lacking = missing(step.shown, said.replace(str(reader.home), SHOWN_HOME))
            assert lacking is None, f"{step.command}\nshould print\n{lacking}\nand printed\n{said}"
        assert program is not None
        assert get(f"{program.url}/readyz")[0] == 200
        stop(program, reader)


def test_there_is_something_to_do() -> None:
    """Otherwise the test above would be green for a README without commands."""
    done = steps()
    assert done[0].command == "scripts/run"
    assert sum(step.serves for step in done) >= 2
    assert sum(step.command.startswith("curl ") for step in done) >= 3


def test_the_two_commands_come_first_and_are_what_is_checked() -> None:
    """`scripts/test` cannot be run by a test of its own; continuous integration runs it."""
    beginning = README.splitlines()[:25]
    for command in ("scripts/run", "scripts/test"):
        assert any(line.startswith(f"    {command}") for line in beginning), command
        assert (ROOT / command).stat().st_mode & 0o111
    calls = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert "scripts/test" in calls


def test_what_may_differ_and_what_may_not() -> None:
    """The comparison forgives times, ids and left out lines, and nothing else."""
    said = "2026-01-01T00:00:00.000Z master[7] one\n2026-01-01T00:00:01.000Z master[7] two\nthree"
    assert missing(("1999-12-31T23:59:59.999Z master[1] one", "three"), said) is None
    assert missing(("three", "1999-12-31T23:59:59.999Z master[1] one"), said) is not None
    assert missing(("2026-01-01T00:00:00.000Z master[7] uno",), said) is not None
